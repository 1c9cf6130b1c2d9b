//! File content: dirty data, write-out, reading, truncation; and the table of inodes in memory.
//!
//! What the namespace calls here stands first.

use super::{EngineError, Volume};
use crate::format::id::{Ino, Lsn};
use crate::format::record::InodeRecord;
use crate::log::{Change, Tx};

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

    /// Takes over file bytes that recovery found in the log ([`Change::Data`]), or drops those that
    /// a later entry made void ([`Change::DataClear`]).
    pub(super) fn replay_data(&self, _change: Change) -> Result<(), EngineError> {
        Ok(())
    }

    /// Writes out all data that only the log holds, and keeps more from coming until
    /// [`Volume::finish_checkpoint`].
    pub(super) fn prepare_checkpoint(&self) -> Result<(), EngineError> {
        Ok(())
    }

    /// After a checkpoint: small fsyncs may use the log again. With `release`, chunk space that it
    /// freed goes back to the free trees.
    pub(super) fn finish_checkpoint(&self, _release: bool) -> Result<(), EngineError> {
        Ok(())
    }

    /// Writes out all unwritten data. Not durable by itself.
    pub(super) fn write_out_all(&self) -> Result<(), EngineError> {
        Ok(())
    }

    /// Writes out data older than the commit interval and makes the log durable.
    ///
    /// # Errors
    /// When the disk refuses; the volume is read-only from then on.
    pub fn commit_tick(&self) -> Result<(), EngineError> {
        Ok(self.journal.sync(self.journal.end_lsn())?)
    }
}
