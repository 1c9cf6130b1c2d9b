//! What an open store is, and how it is doing.

use std::sync::Arc;

use super::{EngineError, Store};
use crate::format::superblock::Superblock;
use crate::sync::atomic::Ordering;

/// Numbers of an open store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The superblock of the newest checkpoint.
    pub superblock: Superblock,
    /// Bytes of file content that can still be written.
    pub free_bytes: u64,
    /// The length of chunks.dat.
    pub chunks_file_bytes: u64,
    /// Bytes of written content that are not on their way to chunks.dat yet.
    pub unwritten_bytes: u64,
    /// Whether changes are possible.
    pub is_writable: bool,
}

impl Store {
    /// Tells them. Waits for a checkpoint under way.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn status(self: &Arc<Self>) -> Result<Status, EngineError> {
        Ok(Status {
            superblock: self.journal.superblock(),
            free_bytes: self.main()?.free_bytes()?,
            chunks_file_bytes: self.journal.chunks().len_bytes(),
            unwritten_bytes: self.data.dirty_bytes.load(Ordering::Relaxed),
            is_writable: self.is_writable(),
        })
    }
}
