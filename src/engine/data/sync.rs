//! fsync, the commit timer, and what a checkpoint needs of file content.

use std::sync::atomic::Ordering;

use super::dirty::DirtyMap;
use super::space;
use super::table::InodeState;
use super::writeout::Which;
use crate::engine::{Durability, EngineError, Volume};
use crate::format::id::Ino;
use crate::log::Change;
use crate::log::journal::Pressure;

/// Unwritten bytes of a file up to which an fsync puts them into the log.
const LOGGED_MAX_BYTES: u64 = 64 << 10;
/// Log that writing out one run takes, at most.
const WRITE_OUT_LOG_BYTES: u64 = 1024;
/// Pending ranges freed in one transaction.
const RELEASE_STEP: usize = 256;

impl Volume {
    /// Makes a file's content and metadata durable, and the name it was made or renamed under.
    ///
    /// # Errors
    /// When the disk refuses; the volume is read-only from then on. What of the file is durable is
    /// then known only after reopening.
    pub fn fsync(&self, ino: Ino, _datasync: bool) -> Result<(), EngineError> {
        let Some(state) = self.inodes.find(ino) else {
            return Ok(());
        };
        if self.options.durability == Durability::Relaxed {
            return Ok(());
        }
        self.throttle()?;
        self.log_or_write_out(ino, &state)?;
        Ok(self.journal.sync(state.last_lsn())?)
    }

    /// Makes all entries made, renamed or removed in a directory durable.
    ///
    /// # Errors
    /// As [`Volume::fsync`].
    pub fn fsync_dir(&self, dir: Ino) -> Result<(), EngineError> {
        match self.inodes.find(dir) {
            Some(state) if self.options.durability != Durability::Relaxed => {
                Ok(self.journal.sync(state.last_lsn())?)
            }
            _ => Ok(()),
        }
    }

    /// Makes everything durable that was done before.
    ///
    /// # Errors
    /// As [`Volume::fsync`].
    pub fn sync_all(&self) -> Result<(), EngineError> {
        if self.options.durability == Durability::Relaxed {
            return Ok(());
        }
        self.move_unlogged()?;
        Ok(self.journal.sync(self.journal.end_lsn())?)
    }

    /// Bounds what a crash can take: data goes to the log or to chunks, and the log to the disk.
    ///
    /// # Errors
    /// When the disk refuses; the volume is read-only from then on.
    pub fn commit_tick(&self) -> Result<(), EngineError> {
        if !self.is_writable() {
            return Ok(());
        }
        self.move_unlogged()?;
        self.journal.sync(self.journal.end_lsn())?;
        self.inodes.sweep(self.journal.durable_lsn());
        Ok(())
    }

    fn move_unlogged(&self) -> Result<(), EngineError> {
        for (ino, state) in self.inodes.filter(|data| data.unlogged_bytes() > 0) {
            self.throttle()?;
            self.log_or_write_out(ino, &state)?;
        }
        Ok(())
    }

    /// Puts a file's unwritten bytes into the log when they are few, else into chunks. Durable once
    /// the log is.
    fn log_or_write_out(&self, ino: Ino, state: &InodeState) -> Result<(), EngineError> {
        if state.data.read().unlogged_bytes() == 0 {
            return Ok(());
        }
        let closed = self.data.log_closed.read();
        if !*closed && self.log_data(ino, state)? {
            return Ok(());
        }
        drop(closed);
        self.write_out(ino)
    }

    /// Puts a file's unwritten bytes into the log; false when they are too many.
    fn log_data(&self, ino: Ino, state: &InodeState) -> Result<bool, EngineError> {
        let mut data = state.data.write();
        if data.unlogged_bytes() > LOGGED_MAX_BYTES || !self.log_has_room(data.run_count()) {
            return Ok(false);
        }
        let pieces = data.unlogged();
        if pieces.is_empty() {
            return Ok(true);
        }
        let mut tx = self.journal.begin_reclaim()?;
        for (offset, bytes) in pieces {
            tx.data(self.dataset, ino, offset, bytes);
        }
        let lsn = tx.commit()?;
        state.touch(lsn);
        self.change_dirty(&mut data, DirtyMap::set_logged);
        Ok(true)
    }

    /// Whether the log may take over `runs` more. The checkpoint that frees the log writes them out
    /// first, and that takes log itself: it must never find too little.
    fn log_has_room(&self, runs: u64) -> bool {
        if self.journal.pressure() != Pressure::None {
            return false;
        }
        let runs = self
            .data
            .logged_runs
            .load(Ordering::Relaxed)
            .saturating_add(runs);
        let fits = runs.saturating_mul(WRITE_OUT_LOG_BYTES) <= self.journal.log_bytes() / 8;
        if !fits {
            self.background.request_checkpoint();
        }
        fits
    }

    /// Makes a file's unwritten data precede a rename in the log.
    pub(in crate::engine) fn write_out_for_rename(&self, ino: Ino) -> Result<(), EngineError> {
        match self.inodes.find(ino) {
            Some(state) => self.log_or_write_out(ino, &state),
            None => Ok(()),
        }
    }

    /// Writes out all unwritten data. Not durable by itself.
    pub(in crate::engine) fn write_out_all(&self) -> Result<(), EngineError> {
        for (ino, _) in self.inodes.filter(|data| !data.is_empty()) {
            self.throttle()?;
            self.write_out(ino)?;
        }
        Ok(())
    }

    /// Writes out all data that only the log holds, and keeps more from coming until
    /// [`Volume::finish_checkpoint`].
    pub(in crate::engine) fn prepare_checkpoint(&self) -> Result<(), EngineError> {
        *self.data.log_closed.write() = true;
        for (ino, state) in self.inodes.filter(DirtyMap::has_logged) {
            let _io = state.io.lock();
            if let Err(error) = self.write_out_locked(ino, &state, Which::Logged) {
                *self.data.log_closed.write() = false;
                return Err(error);
            }
        }
        Ok(())
    }

    /// After a checkpoint: small fsyncs may use the log again. With `release`, chunk space that it
    /// freed goes back to the free trees.
    pub(in crate::engine) fn finish_checkpoint(&self, release: bool) -> Result<(), EngineError> {
        *self.data.log_closed.write() = false;
        if !release {
            return Ok(());
        }
        let durable = self.journal.durable_generation();
        // What does not fit the log now is released after the next checkpoint.
        self.release_pending(
            || Ok(self.journal.pressure() == Pressure::None),
            |generation| generation <= durable,
        )
    }

    /// After recovery, when nobody writes to claimed space any more and everything freed is
    /// durably so: all pending space is free.
    pub(in crate::engine) fn recover_space(&self) -> Result<(), EngineError> {
        let make_room = || {
            self.throttle()?;
            Ok(true)
        };
        self.release_pending(make_room, |_| true)
    }

    fn release_pending(
        &self,
        go_on: impl Fn() -> Result<bool, EngineError>,
        may_release: impl Fn(crate::format::id::Generation) -> bool,
    ) -> Result<(), EngineError> {
        let mut from = Some(0);
        while let Some(start) = from {
            if !go_on()? {
                break;
            }
            let mut tx = self.journal.begin_reclaim()?;
            let (released, next) = space::release(&mut tx, start, RELEASE_STEP, &may_release)?;
            if !released.is_empty() {
                tx.commit()?;
            }
            from = next;
        }
        Ok(())
    }

    /// Takes over file bytes that recovery found in the log ([`Change::Data`]), or drops those that
    /// a later entry made void ([`Change::DataClear`]).
    pub(in crate::engine) fn replay_data(&self, change: Change) -> Result<(), EngineError> {
        match change {
            Change::Data {
                dataset,
                ino,
                offset,
                bytes,
            } if dataset == self.dataset => {
                let state = self.inodes.state(ino);
                let mut data = state.data.write();
                self.change_dirty(&mut data, |map| map.insert(offset, bytes, true));
            }
            Change::DataClear {
                dataset,
                ino,
                offset,
                len,
            } if dataset == self.dataset => {
                if let Some(state) = self.inodes.find(ino) {
                    let mut data = state.data.write();
                    let end = offset.saturating_add(len);
                    self.change_dirty(&mut data, |map| map.remove(offset, end));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
