//! The kernels that use a dataset, for what changes it on behalf of none of them.
//!
//! Invariant: what a kernel has not asked for itself appears in a dataset only while no kernel
//! believes for long what it was told before: it would not look, and could not be told.

use std::sync::Arc;

use super::Volume;
use super::volume::Dataset;
use crate::format::id::Ino;
use crate::sync::{RwLock, RwLockReadGuard};

/// Frees an inode that has lost its last name, unless a kernel knows it.
pub type Release = Box<dyn Fn(&Volume, Ino) + Send + Sync>;

/// The kernels that use a dataset.
#[derive(Default)]
pub(super) struct Kernels {
    /// How many keep names and attributes for longer than a moment.
    believing: RwLock<usize>,
    /// What knows which inodes they know.
    release: RwLock<Option<Release>>,
}

/// Held while no kernel begins to believe for long.
pub(super) type NoneBelieves<'a> = RwLockReadGuard<'a, usize>;

/// A kernel that believes what it is told until this is dropped.
pub struct Believing(Arc<Dataset>);

impl Drop for Believing {
    fn drop(&mut self) {
        let mut count = self.0.kernels.believing.write();
        *count = count.saturating_sub(1);
    }
}

impl Volume {
    /// Notes a kernel that keeps names and attributes for longer than a moment. Nothing appears in
    /// the dataset then that a kernel has not asked for.
    #[must_use]
    pub fn begin_believing(&self) -> Believing {
        let mut count = self.dataset.kernels.believing.write();
        *count = count.saturating_add(1);
        drop(count);
        Believing(Arc::clone(&self.dataset))
    }

    /// Says how an inode is freed that lost its last name by no kernel's request.
    pub fn release_by(&self, release: Release) {
        *self.dataset.kernels.release.write() = Some(release);
    }

    /// A time in which no kernel begins to keep what it is told; `None` where one does already.
    pub(super) fn none_believes(&self) -> Option<NoneBelieves<'_>> {
        let count = self.dataset.kernels.believing.read();
        (*count == 0).then_some(count)
    }

    /// Frees an inode that has lost its last name, once no kernel knows it.
    pub(super) fn release(&self, ino: Ino) {
        if let Some(release) = self.dataset.kernels.release.read().as_ref() {
            return release(self, ino);
        }
        if let Err(error) = self.reclaim(ino) {
            log::warn!("freeing inode {ino}, which has no name: {error}");
        }
    }
}
