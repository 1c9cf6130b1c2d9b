//! What an open store is, how it is doing, and what happened in it.

use std::sync::Arc;

use super::health::{Space, space};
use super::{EngineError, Store};
use crate::disk::counted::Counted;
use crate::format::superblock::Superblock;
use crate::log::wal::GroupCommits;
use crate::metrics::Histogram;
use crate::store::pages::Looks;
use crate::sync::atomic::Ordering;

/// Numbers of an open store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The superblock of the newest checkpoint.
    pub superblock: Superblock,
    /// Bytes of file content that a dataset can still be given for which none are reserved.
    pub free_bytes: u64,
    /// The length of chunks.dat.
    pub chunks_file_bytes: u64,
    /// Bytes of strings.dat that went back to the disk below.
    pub names_punched_bytes: u64,
    /// Bytes of written content that are not on their way to chunks.dat yet.
    pub unwritten_bytes: u64,
    /// Whether changes are possible.
    pub is_writable: bool,
}

/// What happened in a store since it was opened, and how full it is. Waits for nothing.
#[derive(Debug)]
pub struct Activity<'s> {
    /// What was asked of its disks.
    pub disks: &'s Counted,
    /// Its group commits; `None` when it was opened read-only.
    pub commits: Option<&'s GroupCommits>,
    /// How long its checkpoints took.
    pub checkpoints: &'s Histogram,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// Bytes of it that the next checkpoint frees.
    pub log_used_bytes: u64,
    /// Tree pages that the next checkpoint writes.
    pub dirty_pages: u64,
    /// Bytes of content in memory that are not on their way to chunks.dat yet.
    pub unwritten_bytes: u64,
    /// From how many on writers wait.
    pub unwritten_bytes_max: u64,
    /// Bytes that guests wrote.
    pub guest_written_bytes: u64,
    /// Bytes of content that became chunks of their own.
    pub stored_content_bytes: u64,
    /// Bytes of chunks.dat that these took.
    pub stored_bytes: u64,
    /// Bytes of content that refer to chunks which were there.
    pub deduplicated_bytes: u64,
    /// What came of looking for tree pages in memory.
    pub pages: Looks,
    /// What came of looking for content in memory.
    pub content: Looks,
    /// How often a tree page was read that could not be believed.
    pub damaged_pages: u64,
    /// How often content was read that could not be believed.
    pub damaged_content: u64,
    /// Chunks that compactions moved.
    pub moved_chunks: u64,
    /// Bytes that they take.
    pub moved_bytes: u64,
    /// Bytes of files that were written anew in the background.
    pub defragmented_bytes: u64,
    /// Names that nobody used any more, and that were forgotten.
    pub forgotten_names: u64,
    /// Bytes of strings.dat that take no space.
    pub names_punched_bytes: u64,
    /// Bytes of content that it may hold; 0 for as many as the disk gives.
    pub capacity_bytes: u64,
    /// The length of chunks.dat.
    pub chunks_file_bytes: u64,
    /// Whether changes are possible.
    pub is_writable: bool,
}

impl Store {
    /// What happened in it.
    #[must_use]
    pub fn activity(&self) -> Activity<'_> {
        let (pages, damaged_pages) = self.journal.pages();
        Activity {
            disks: &self.disks,
            commits: self.journal.commits(),
            checkpoints: self.journal.checkpoint_times(),
            log_bytes: self.journal.log_bytes(),
            log_used_bytes: self.journal.log_used_bytes(),
            dirty_pages: self.journal.dirty_pages(),
            unwritten_bytes: self.data.dirty_bytes.load(Ordering::Relaxed),
            unwritten_bytes_max: self.options.dirty_limit_bytes,
            guest_written_bytes: self.guest_bytes.load(Ordering::Relaxed),
            stored_content_bytes: self.data.stored_content_bytes.get(),
            stored_bytes: self.data.stored_bytes.get(),
            deduplicated_bytes: self.data.deduplicated_bytes.get(),
            pages,
            content: self.data.looks(),
            damaged_pages,
            damaged_content: self.data.damaged.get(),
            moved_chunks: self.data.moved_chunks.get(),
            moved_bytes: self.data.moved_bytes.get(),
            defragmented_bytes: self.data.defragmented_bytes.get(),
            forgotten_names: self.names.forgotten.get(),
            names_punched_bytes: self.journal.names_unbacked_bytes(),
            capacity_bytes: self.journal.capacity_bytes(),
            chunks_file_bytes: self.journal.chunks().len_bytes(),
            is_writable: self.is_writable(),
        }
    }

    /// Bytes of file content that a dataset can still be given for which none are reserved.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn unreserved_bytes(&self) -> Result<u64, EngineError> {
        self.free_bytes(self.data.kept_bytes.load(Ordering::Relaxed))
    }

    /// How the space of chunks.dat is used.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn space(&self) -> Result<Space, EngineError> {
        Ok(space(&self.journal.view())?)
    }

    /// Tells them. Waits for a checkpoint under way.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn status(self: &Arc<Self>) -> Result<Status, EngineError> {
        Ok(Status {
            superblock: self.journal.superblock(),
            free_bytes: self.unreserved_bytes()?,
            chunks_file_bytes: self.journal.chunks().len_bytes(),
            names_punched_bytes: self.journal.names_unbacked_bytes(),
            unwritten_bytes: self.data.dirty_bytes.load(Ordering::Relaxed),
            is_writable: self.is_writable(),
        })
    }
}
