//! Receiving a snapshot of another store.
//!
//! What is received goes into a dataset of its own, `%` and the name of the one that it is for, which
//! nobody can use: an empty one, or a clone of the snapshot that the stream is based on. Each step
//! makes something so, whatever was there before, in transactions of bounded size. The receive's
//! record says from where on the stream must be repeated after an interruption; since recovery
//! brings back a prefix of the transactions, and a step that is repeated changes nothing, the result
//! is the same. Only the last transaction gives the dataset its name, or its tree to the dataset
//! that has it.
//!
//! Invariant: links, entries and parents are counted here and never believed, and an inode is an
//! orphan as long as nothing names it. So the tree is whole after each transaction, whatever a
//! stream says.

mod begin;
mod finish;
mod tree;

use std::sync::Arc;

use super::data::Content;
use super::projects::put_limit;
use super::store::InUse;
use super::volume::Dataset;
use super::{EngineError, Store, Time, Volume};
use crate::format::codec::Compression;
use crate::format::id::{DatasetId, Ino};
use crate::format::key::TreeId;
use crate::format::record::{Dedup, ProjectLimit, ReceiveRecord, StreamPosition, receive_key};
use crate::store::pages::Need;
use crate::sync::atomic::Ordering;

/// What a stream says of itself, and where it is to go.
#[derive(Debug, Clone)]
pub struct ReceiveHow<'a> {
    /// The dataset that it is for.
    pub dataset: &'a str,
    /// What it says.
    pub record: ReceiveRecord,
    /// Compression of a new dataset.
    pub compression: Compression,
    /// Deduplication of a new dataset.
    pub dedup: Dedup,
}

/// An inode without what is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedInode {
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u32,
    /// `FS_IOC_GETFLAGS` bits.
    pub flags: u32,
    /// Project id.
    pub projid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Last access.
    pub atime: Time,
    /// Last modification.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Birth.
    pub btime: Time,
    /// A symlink's target.
    pub target: Vec<u8>,
}

/// A receive under way. Dropped without [`Receiving::finish`] it can be gone on with.
pub struct Receiving {
    volume: Volume,
    /// The dataset that it is for.
    dataset: String,
    record: ReceiveRecord,
    /// That dataset and the snapshot that this one is a clone of.
    base: Option<(DatasetId, DatasetId)>,
}

/// The name of the dataset into which what is for `dataset` is received.
pub(super) fn hidden(dataset: &str) -> String {
    format!("%{dataset}")
}

/// The dataset for which the one of this name receives, if it is one that does.
#[must_use]
pub fn received_for(name: &str) -> Option<&str> {
    name.strip_prefix('%')
}

impl Receiving {
    fn store(&self) -> &Arc<Store> {
        &self.volume.store
    }

    fn id(&self) -> DatasetId {
        self.volume.dataset.id
    }

    /// Where the stream is to go on.
    #[must_use]
    pub fn position(&self) -> StreamPosition {
        self.record.position
    }

    /// Remembers where to go on: everything before is applied. Durable with what is applied.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn mark(&mut self, position: StreamPosition) -> Result<(), EngineError> {
        self.record.position = position;
        let mut tx = self.volume.begin_tx(Need::Space)?;
        let key = receive_key(self.id());
        tx.put(TreeId::Datasets, key, self.record.encode())?;
        tx.commit()?;
        Ok(())
    }

    /// Puts content in the place of what a file has there: see [`Content`]. Each begins where the
    /// one before it ends or behind that.
    ///
    /// # Errors
    /// When it is not within the file's size or not in order; over the quota; when the store refuses.
    pub fn content(&self, ino: Ino, content: Vec<Content>) -> Result<(), EngineError> {
        self.volume.receive_content(ino, content)
    }

    /// Has a range of a file refer to content that another range of this tree has.
    ///
    /// # Errors
    /// As [`Receiving::content`]; when there is no such content.
    pub fn share(
        &self,
        ino: Ino,
        range: (u64, u64),
        source: Ino,
        source_offset: u64,
    ) -> Result<(), EngineError> {
        self.volume.receive_share(ino, range, source, source_offset)
    }

    /// Reserves a range of a file, which reads as zeros.
    ///
    /// # Errors
    /// As [`Receiving::content`].
    pub fn reserve(&self, ino: Ino, range: (u64, u64)) -> Result<(), EngineError> {
        self.volume.receive_range(ino, range, true)
    }

    /// Makes a hole.
    ///
    /// # Errors
    /// As [`Receiving::content`].
    pub fn punch(&self, ino: Ino, range: (u64, u64)) -> Result<(), EngineError> {
        self.volume.receive_range(ino, range, false)
    }

    /// Counts what projects have, from here on.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn count_projects(&self) -> Result<(), EngineError> {
        self.volume.count_projects(&mut || true)
    }

    /// Sets what a project may have, once the snapshot is there.
    ///
    /// # Errors
    /// When it is no project; when the store refuses.
    pub fn limit_project(&self, project: u32, limit: ProjectLimit) -> Result<(), EngineError> {
        if project == 0 {
            return Err(EngineError::Invalid("a limit of no project"));
        }
        self.count_projects()?;
        let mut tx = self.volume.begin_tx(Need::Space)?;
        put_limit(&mut tx, self.volume.tree(), project, limit)?;
        tx.commit()?;
        Ok(())
    }

    /// Makes durable what was applied and marked.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&self) -> Result<(), EngineError> {
        let journal = &self.store().journal;
        Ok(journal.sync(journal.end_lsn())?)
    }

    fn remove_from(&self, datasets: &mut InUse) {
        let is_own = |dataset: &Arc<Dataset>| Arc::ptr_eq(dataset, &self.volume.dataset);
        if datasets.get(&self.id()).is_some_and(is_own) {
            datasets.remove(&self.id());
        }
    }
}

#[cfg(test)]
#[allow(missing_docs)]
impl Store {
    /// What was received so far for a dataset, which nobody else can see.
    pub fn hidden_for_tests(self: &Arc<Self>, dataset: &str) -> Volume {
        let view = self.journal.view();
        let id = super::datasets::find(&view, &hidden(dataset)).unwrap();
        let dataset = Dataset::load(id.unwrap(), &view).unwrap();
        Volume::for_store(Arc::clone(self), Arc::new(dataset))
    }

    /// What is reserved and what is kept, of all datasets.
    pub fn sums_for_tests(&self) -> (u64, u64) {
        let of = |sum: &crate::sync::atomic::AtomicU64| sum.load(Ordering::SeqCst);
        (of(&self.data.reserved_bytes), of(&self.data.kept_bytes))
    }

    pub fn units_used_for_tests(&self) -> u64 {
        super::data::units_used(&self.journal.view()).unwrap()
    }
}

#[cfg(test)]
#[allow(missing_docs)]
impl Volume {
    pub fn orphans_for_tests(&self) -> Vec<Ino> {
        self.orphans()
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.remove_from(&mut self.store().datasets.write());
        // Nobody writes to it any more.
        let own = self
            .volume
            .dataset
            .reserved_bytes
            .swap(0, Ordering::Relaxed);
        let sum = &self.store().data.reserved_bytes;
        sum.fetch_sub(own, Ordering::Relaxed);
    }
}
