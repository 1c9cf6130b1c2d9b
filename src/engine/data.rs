//! File content: dirty data, write-out, reading, truncation; and the table of inodes in memory.
//!
//! What the namespace calls here stands first.

use super::{EngineError, Volume};
use crate::format::id::{Ino, Lsn};
use crate::format::record::InodeRecord;
use crate::log::Tx;

/// Inodes with state in memory: unwritten data, and the log position that fsync must wait for.
#[derive(Default)]
pub(super) struct InodeTable {}

impl InodeTable {
    /// Notes that a transaction which ends at `lsn` changed the inode, or the directory's entries.
    pub(super) fn touch(&self, _ino: Ino, _lsn: Lsn) {}
}

/// What else the transaction of a [`Volume::resize`] changes of the inode.
pub(super) type Alter<'a> =
    dyn FnMut(&mut Tx<'_>, &mut InodeRecord) -> Result<(), EngineError> + 'a;

impl Volume {
    /// Sets a regular file's size, and in the same transaction whatever `alter` does to its record
    /// (called first, with the record as loaded in the transaction; it refuses by an error).
    /// Commits, touches the inode, waits for the disk in strict mode, and returns the new record.
    pub(super) fn resize(
        &self,
        _ino: Ino,
        _size: u64,
        _alter: &mut Alter<'_>,
    ) -> Result<InodeRecord, EngineError> {
        Err(EngineError::NotSupported("not yet"))
    }

    /// Makes a file's unwritten data precede a rename in the log.
    pub(super) fn write_out_for_rename(&self, _ino: Ino) -> Result<(), EngineError> {
        Ok(())
    }

    /// Bytes of a file that will take space and have none yet: part of its `blocks`.
    pub(super) fn unwritten_bytes(&self, _ino: Ino) -> u64 {
        0
    }

    /// Frees all content of an orphan, in bounded transactions, and forgets its unwritten data and
    /// its entry in the table. The record stays, with `allocated` 0.
    pub(super) fn free_content(&self, _ino: Ino) -> Result<(), EngineError> {
        Ok(())
    }
}
