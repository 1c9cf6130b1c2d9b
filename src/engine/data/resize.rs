//! Truncation, extension, and freeing all content.

use super::extents::Editor;
use super::write::SIZE_MAX;
use super::{EXTENTS_MAX, check_file};
use crate::engine::{Durability, EngineError, Volume};
use crate::format::id::Ino;
use crate::format::record::{DatasetCounters, InodeRecord};
use crate::log::Tx;
use crate::store::StoreError;
use crate::store::pages::Need;

/// What else the transaction of a [`Volume::resize`] changes of the inode.
pub(in crate::engine) type Alter<'a> =
    dyn FnMut(&mut Tx<'_>, &mut InodeRecord) -> Result<(), EngineError> + 'a;

impl Volume {
    /// Sets a regular file's size, and in the same transaction whatever `alter` does to its record
    /// (called first, with the record as loaded in the transaction; it refuses by an error).
    /// Commits, touches the inode, waits for the disk in strict mode, and returns the new record.
    ///
    /// A file with very many extents shrinks in several transactions, from its end.
    pub(in crate::engine) fn resize(
        &self,
        ino: Ino,
        size: u64,
        alter: &mut Alter<'_>,
    ) -> Result<InodeRecord, EngineError> {
        if size > SIZE_MAX {
            return Err(EngineError::FileTooLarge);
        }
        let state = self.live_state(ino)?;
        loop {
            let _io = state.io.lock();
            let (mut data, mut tx) = self.begin_with(&state, Need::Reclaim)?;
            let mut record = self.load_inode(&tx, ino)?;
            alter(&mut tx, &mut record)?;
            check_file(&record)?;
            let mut counters = self.load_counters(&tx)?;
            let rest = if size <= record.size {
                self.free_behind(&mut tx, (ino, &mut record), &mut counters, size)?
            } else {
                None
            };
            // While something is left to remove, the file ends where that ends.
            record.size = rest.map_or(size, |rest| rest.clamp(size, record.size.max(size)));
            let end = record.size;
            if data.is_logged(end, u64::MAX) {
                tx.data_clear(self.dataset.id, ino, end, u64::MAX);
            }
            self.store_inode(&mut tx, ino, &record)?;
            let released = data.unallocated_in(end, u64::MAX);
            let lsn = self.commit_counted(tx, (&counters, record.projid), released, None)?;
            state.touch(lsn);
            self.change_dirty(&mut data, |map| map.remove(end, u64::MAX));
            if rest.is_none() {
                drop(data);
                if self.store.options.durability == Durability::Strict {
                    self.store.journal.sync(lsn)?;
                }
                return Ok(record);
            }
        }
    }

    /// Removes extents behind `size` in a transaction; where what is left ends when it was too much
    /// for one.
    fn free_behind(
        &self,
        tx: &mut Tx<'_>,
        (ino, record): (Ino, &mut InodeRecord),
        counters: &mut DatasetCounters,
        size: u64,
    ) -> Result<Option<u64>, EngineError> {
        let tree = self.tree();
        let mut editor = Editor {
            kept: &self.store.data.cache,
            tx,
            tree,
            ino,
            record,
            counters,
        };
        editor.punch_tail(size, EXTENTS_MAX)
    }

    /// Does something with an inode's unwritten data locked, knowing whether there is any.
    pub(in crate::engine) fn with_unwritten<T>(
        &self,
        ino: Ino,
        act: impl FnOnce(bool) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let state = self.dataset.inodes.state(ino);
        let data = state.data.write();
        act(!data.is_empty())
    }

    /// Does something with an inode's unwritten data locked, knowing how many bytes of it stand in no
    /// extent.
    pub(in crate::engine) fn with_uncounted<T>(
        &self,
        ino: Ino,
        act: impl FnOnce(u64) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let state = self.live_state(ino)?;
        let data = state.data.write();
        act(data.unallocated_bytes())
    }

    /// Frees all content of an orphan, in bounded transactions, and its unwritten data. The record
    /// stays, with `allocated` 0.
    pub(in crate::engine) fn free_content(&self, ino: Ino) -> Result<(), EngineError> {
        let state = self.dataset.inodes.state(ino);
        loop {
            let _io = state.io.lock();
            let (mut data, mut tx) = self.begin_with(&state, Need::Reclaim)?;
            let mut record = self.load_inode(&tx, ino)?;
            if record.nlink > 0 {
                // It got a name meanwhile.
                return Ok(());
            }
            let mut counters = self.load_counters(&tx)?;
            let rest = self.free_behind(&mut tx, (ino, &mut record), &mut counters, 0)?;
            if rest.is_none() && record.allocated > 0 {
                // Whoever waits for its content to be gone would wait for ever.
                let what = format!("inode {ino} has bytes without extents; run razorfsck");
                return Err(StoreError::Corrupt(what).into());
            }
            if data.is_logged(0, u64::MAX) {
                tx.data_clear(self.dataset.id, ino, 0, u64::MAX);
            }
            self.store_inode(&mut tx, ino, &record)?;
            let released = data.unallocated_in(0, u64::MAX);
            self.commit_counted(tx, (&counters, record.projid), released, None)?;
            self.change_dirty(&mut data, |map| map.remove(0, u64::MAX));
            if rest.is_none() {
                return Ok(());
            }
        }
    }
}
