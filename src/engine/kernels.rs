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
    believers: RwLock<Believers>,
    /// What knows which inodes they know.
    release: RwLock<Option<Release>>,
}

/// Those that keep names and attributes for longer than a moment.
#[derive(Default)]
pub(super) struct Believers {
    now: usize,
    /// How many there have been.
    begun: u64,
    /// Who serves the kernels has stopped for a moment: they believe, and none is counted.
    unserved: usize,
}

impl Believers {
    /// How many there have been: while that is the same, none has begun.
    pub(super) fn begun(&self) -> u64 {
        self.begun
    }
}

/// Held while no kernel begins to believe for long.
pub(super) type NoneBelieves<'a> = RwLockReadGuard<'a, Believers>;

/// Kernels that nobody serves until this is dropped, whatever they believe.
pub(super) struct Unserved<'a>(&'a Kernels);

impl Drop for Unserved<'_> {
    fn drop(&mut self) {
        let mut believers = self.0.believers.write();
        believers.unserved = believers.unserved.saturating_sub(1);
    }
}

impl Kernels {
    /// Notes that nobody serves them for a moment.
    pub(super) fn unserved(&self) -> Unserved<'_> {
        let mut believers = self.believers.write();
        believers.unserved = believers.unserved.saturating_add(1);
        drop(believers);
        Unserved(self)
    }
}

/// A kernel that believes what it is told until this is dropped.
pub struct Believing(Arc<Dataset>);

impl Drop for Believing {
    fn drop(&mut self) {
        let mut believers = self.0.kernels.believers.write();
        believers.now = believers.now.saturating_sub(1);
    }
}

impl Volume {
    /// Notes a kernel that keeps names and attributes for longer than a moment. Nothing appears in
    /// the dataset then that a kernel has not asked for.
    #[must_use]
    pub fn begin_believing(&self) -> Believing {
        let mut believers = self.dataset.kernels.believers.write();
        believers.now = believers.now.saturating_add(1);
        believers.begun = believers.begun.saturating_add(1);
        drop(believers);
        Believing(Arc::clone(&self.dataset))
    }

    /// Says how an inode is freed that lost its last name by no kernel's request.
    pub fn release_by(&self, release: Release) {
        *self.dataset.kernels.release.write() = Some(release);
    }

    /// A time in which no kernel begins to keep what it is told; `None` where one does already.
    pub(super) fn none_believes(&self) -> Option<NoneBelieves<'_>> {
        let believers = self.dataset.kernels.believers.read();
        (believers.now == 0 && believers.unserved == 0).then_some(believers)
    }

    /// Whether nobody serves its kernels for a moment: a snapshot takes its place.
    pub(super) fn is_unserved(&self) -> bool {
        self.dataset.kernels.believers.read().unserved > 0
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
