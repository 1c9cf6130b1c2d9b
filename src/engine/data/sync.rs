//! fsync, the commit timer, and what a checkpoint does about file content.
//!
//! The log may hold the newest bytes of a file, and a checkpoint frees the log. It does not wait
//! for them to become chunks, which may take any amount of work and fail for reasons of one file:
//! it carries them over, as they are in memory, into the part of the log that stays. So a
//! checkpoint needs nothing but a bounded part of the log.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Promise;
use super::dirty::{DirtyMap, cut};
use super::space::{self, PUNCHED};
use super::table::InodeState;
use crate::disk::buffer::forget_spare;
use crate::engine::volume::Dataset;
use crate::engine::{Durability, EngineError, Store, SyncPoint, Volume};
use crate::format::id::{DatasetId, Generation, Ino, Lsn};
use crate::log::journal::Pressure;
use crate::log::{Change, Tx};
use crate::store::StoreError;
use crate::store::pages::Need;
use crate::sync::RwLockReadGuard;

/// Unwritten bytes of a file up to which an fsync puts them into the log.
const LOGGED_MAX_BYTES: u64 = 64 << 10;
/// Of a file with more runs of unwritten bytes than these nothing is logged by who must not wait.
const RUNS_AT_ONCE: usize = 64;
/// File bytes carried over in one transaction.
const CARRY_STEP_BYTES: usize = 256 << 10;
/// Pending ranges freed in one transaction.
const RELEASE_STEP: usize = 128;

impl Volume {
    /// Makes a file's content and metadata durable, and the name it was made or renamed under.
    ///
    /// # Errors
    /// When the disk refuses; the volume is read-only from then on. What of the file is durable is
    /// then known only after reopening.
    pub fn fsync(&self, ino: Ino, _datasync: bool) -> Result<(), EngineError> {
        if self.store.options.durability == Durability::Relaxed {
            return Ok(());
        }
        let state = self.dataset.inodes.find(ino);
        if let Some(state) = &state {
            let throttled = self.store.throttle();
            let moved = throttled.and_then(|()| self.log_or_write_out(ino, state));
            // Not that the volume is read-only since.
            moved.map_err(|error| match self.store.journal.lost() {
                Some(lost) => lost.into(),
                None => error,
            })?;
        }
        match self.last_change(ino, state.as_deref()) {
            Some(lsn) => Ok(self.store.journal.sync(lsn)?),
            None => Ok(()),
        }
    }

    /// As [`Volume::fsync`], as far as that goes without waiting for the disk: few unwritten bytes go to
    /// the log. Several that are begun need one [`Volume::finish_fsync`].
    ///
    /// # Errors
    /// [`EngineError::Begun`] when only the log must become durable; [`EngineError::WouldWait`] when
    /// there is more to do, or others are at it, and nothing was done; as [`Volume::fsync`].
    pub fn begin_fsync(&self, ino: Ino) -> Result<(), EngineError> {
        if self.store.options.durability == Durability::Relaxed {
            return Ok(());
        }
        let state = self.dataset.inodes.find(ino);
        if let Some(state) = &state
            && !self.log_at_once(ino, state)?
        {
            return Err(EngineError::WouldWait);
        }
        match self.last_change(ino, state.as_deref()) {
            Some(lsn) if lsn > self.store.journal.durable_lsn() => {
                Err(EngineError::Begun(SyncPoint(lsn)))
            }
            _ => Ok(()),
        }
    }

    /// Waits for what [`Volume::begin_fsync`] has begun.
    ///
    /// # Errors
    /// As [`Volume::fsync`].
    pub fn finish_fsync(&self, point: SyncPoint) -> Result<(), EngineError> {
        Ok(self.store.journal.sync(point.0)?)
    }

    /// Puts a file's unwritten bytes into the log, if that takes neither long nor waiting for others, who
    /// may be waiting for the disk.
    fn log_at_once(&self, ino: Ino, state: &InodeState) -> Result<bool, EngineError> {
        let nothing = |data: RwLockReadGuard<'_, DirtyMap>| !data.has_unlogged();
        if state.data.try_read().is_some_and(nothing) {
            return Ok(true);
        }
        let (Some(_io), Some(mut data)) = (state.io.try_lock(), state.data.try_write()) else {
            return Ok(false);
        };
        if data.runs().nth(RUNS_AT_ONCE).is_some() {
            return Ok(false);
        }
        self.log_data(ino, state, &mut data)
    }

    /// The end of the last transaction that changed an inode, with its state or without: of an inode that
    /// went meanwhile only that knows.
    fn last_change(&self, ino: Ino, state: Option<&InodeState>) -> Option<Lsn> {
        let in_table = self.dataset.inodes.last_lsn(ino);
        in_table.max(state.map(InodeState::last_lsn))
    }

    /// Makes all entries made, renamed or removed in a directory durable.
    ///
    /// # Errors
    /// As [`Volume::fsync`].
    pub fn fsync_dir(&self, dir: Ino) -> Result<(), EngineError> {
        match self.last_change(dir, None) {
            Some(lsn) if self.store.options.durability != Durability::Relaxed => {
                Ok(self.store.journal.sync(lsn)?)
            }
            _ => Ok(()),
        }
    }

    /// Makes everything durable that was done before.
    ///
    /// # Errors
    /// As [`Volume::fsync`].
    pub fn sync_all(&self) -> Result<(), EngineError> {
        match self.store.options.durability {
            Durability::Relaxed => Ok(()),
            _ => self.make_durable(),
        }
    }

    /// As [`Volume::sync_all`], whatever the store's durability is: for who is told that it is there.
    ///
    /// # Errors
    /// As [`Volume::fsync`].
    pub fn make_durable(&self) -> Result<(), EngineError> {
        self.move_unlogged()?;
        Ok(self.store.journal.sync(self.store.journal.end_lsn())?)
    }

    pub(in crate::engine) fn move_unlogged(&self) -> Result<(), EngineError> {
        let unlogged = self.dataset.inodes.filter(DirtyMap::has_unlogged);
        self.for_each_file(unlogged, |ino, state| {
            self.store.throttle()?;
            self.log_or_write_out(ino, state)
        })
    }

    /// Makes chunks of what the log has held for long, or of all that it holds when that is `much`.
    fn settle_logged(&self, much: bool) -> Result<(), EngineError> {
        let logged = self
            .dataset
            .inodes
            .filter(|data| data.was_carried() || (much && data.has_logged()));
        self.for_each_file(logged, |ino, _| self.write_out(ino))
    }

    /// Does the same for several files: what one of them suffers from does not keep the others from
    /// it. The first error is returned.
    fn for_each_file(
        &self,
        files: Vec<(Ino, Arc<InodeState>)>,
        act: impl Fn(Ino, &Arc<InodeState>) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let mut first = Ok(());
        for (ino, state) in files {
            if let Err(error) = act(ino, &state) {
                // A latched volume fails for all of them, and has said so.
                self.store.journal.writable()?;
                ::log::error!("the unwritten bytes of inode {ino} stay in memory: {error}");
                first = first.and(Err(error));
            }
        }
        first
    }

    /// Puts a file's unwritten bytes into the log when they are few, else into chunks. Durable once
    /// the log is.
    fn log_or_write_out(&self, ino: Ino, state: &InodeState) -> Result<(), EngineError> {
        if !state.data.read().has_unlogged() {
            return Ok(());
        }
        let io = state.io.lock();
        if self.log_data(ino, state, &mut state.data.write())? {
            return Ok(());
        }
        drop(io);
        self.write_out(ino)
    }

    /// Puts a file's unwritten bytes into the log; false when they are too many. To be called with its
    /// `io`: a write-out under way would take newer bytes in the log for those that it writes.
    fn log_data(
        &self,
        ino: Ino,
        state: &InodeState,
        data: &mut DirtyMap,
    ) -> Result<bool, EngineError> {
        if data.unlogged_bytes() > LOGGED_MAX_BYTES {
            return Ok(false);
        }
        let Some(_promise) = self.promise_log(data.unlogged_log_bytes()) else {
            return Ok(false);
        };
        let pieces = data.unlogged();
        if pieces.is_empty() {
            return Ok(true);
        }
        let mut tx = self.store.journal.begin_for(Need::Log)?;
        for (offset, bytes) in pieces {
            tx.data(self.dataset.id, ino, offset, bytes);
        }
        let lsn = tx.commit()?;
        state.touch(lsn);
        self.change_dirty(data, |map| map.set_logged(lsn));
        Ok(true)
    }

    /// Promises a share of the log to file bytes, if there is one: a checkpoint must find room to
    /// carry all of them over.
    fn promise_log(&self, bytes: u64) -> Option<Promise<'_>> {
        if self.store.journal.pressure() != Pressure::None {
            return None;
        }
        let promise = Promise::new(&self.store.data.promised_log_bytes, bytes);
        let promised = self.store.data.promised_log_bytes.load(Ordering::Relaxed);
        let held = self.store.data.log_bytes.load(Ordering::Relaxed);
        (held.saturating_add(promised) <= self.store.journal.data_log_bytes()).then_some(promise)
    }

    /// Whether a file has bytes that neither the log nor a chunk holds, or somebody is just writing
    /// to it. Waits for nobody.
    pub(in crate::engine) fn may_have_unlogged(&self, ino: Ino) -> bool {
        let nothing = |state: Arc<InodeState>| {
            let data = state.data.try_read();
            data.is_some_and(|data| !data.has_unlogged())
        };
        !self.dataset.inodes.find(ino).is_none_or(nothing)
    }

    /// Makes a file's unwritten data precede a rename in the log.
    pub(in crate::engine) fn write_out_for_rename(&self, ino: Ino) -> Result<(), EngineError> {
        match self.dataset.inodes.find(ino) {
            Some(state) => self.log_or_write_out(ino, &state),
            None => Ok(()),
        }
    }

    /// Writes out all unwritten data of the dataset. Not durable by itself.
    pub(in crate::engine) fn write_out_files(&self) -> Result<(), EngineError> {
        let unwritten = self.dataset.inodes.filter(|data| !data.is_empty());
        self.for_each_file(unwritten, |ino, _| self.write_out(ino))
    }

    /// Writes out a file of which the log holds too much: holes cut what it holds into more ranges
    /// than were promised room.
    pub(super) fn relieve_log(&self, ino: Ino) -> Result<(), EngineError> {
        if self.store.data.log_bytes.load(Ordering::Relaxed) > self.store.journal.data_log_bytes() {
            self.write_out(ino)?;
        }
        Ok(())
    }

    /// Takes over file bytes of this dataset that recovery found in the log ([`Change::Data`]), or
    /// drops those that a later entry made void ([`Change::DataClear`]).
    pub(in crate::engine) fn replay_data(&self, change: Change) {
        match change {
            Change::Data {
                ino, offset, bytes, ..
            } => {
                let state = self.dataset.inodes.state(ino);
                let mut data = state.data.write();
                self.change_dirty(&mut data, |map| {
                    for (at, part) in cut(offset, &bytes) {
                        map.insert_logged(at, part);
                    }
                });
            }
            Change::DataClear {
                ino, offset, len, ..
            } => {
                if let Some(state) = self.dataset.inodes.find(ino) {
                    let mut data = state.data.write();
                    let end = offset.saturating_add(len);
                    self.change_dirty(&mut data, |map| map.remove(offset, end));
                }
            }
            Change::Put { .. }
            | Change::Delete { .. }
            | Change::Intern { .. }
            | Change::CopyTree { .. } => {}
        }
    }
}

impl Store {
    /// Bounds what a crash can take: data goes to the log or to chunks, and the log to the disk.
    ///
    /// # Errors
    /// When the disk refuses; the store is read-only from then on.
    pub fn commit_tick(self: &Arc<Self>) -> Result<(), EngineError> {
        if !self.is_writable() {
            return Ok(());
        }
        // First what is in the log already: moving data may take long.
        self.journal.sync(self.journal.end_lsn())?;
        let moved = self.for_each_volume(Volume::move_unlogged);
        self.journal.sync(self.journal.end_lsn())?;
        let much = self.data.log_bytes.load(Ordering::Relaxed) > self.journal.data_log_bytes() / 2;
        let settled = self.for_each_volume(|volume| volume.settle_logged(much));
        for dataset in self.datasets() {
            dataset.inodes.sweep(self.journal.durable_lsn());
        }
        forget_spare();
        self.journal.forget_spare();
        moved.and(settled)
    }

    /// Does the same for all datasets in use, and returns the first error.
    fn for_each_volume(
        self: &Arc<Self>,
        act: impl Fn(&Volume) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let mut first = Ok(());
        for volume in self.volumes() {
            first = first.and(act(&volume));
            self.journal.writable()?;
        }
        first
    }

    /// Writes out all unwritten data. Not durable by itself.
    pub(in crate::engine) fn write_out_all(self: &Arc<Self>) -> Result<(), EngineError> {
        self.for_each_volume(Volume::write_out_files)
    }

    /// Lets go of what a deleted dataset has in memory.
    pub(in crate::engine) fn forget_unwritten(&self, dataset: &Dataset) {
        for (_, state) in dataset.inodes.filter(|data| !data.is_empty()) {
            let mut data = state.data.write();
            self.change_dirty(&mut data, |map| map.remove(0, u64::MAX));
        }
    }

    /// Puts all file bytes that the log holds from before `end`, and no chunk, into the log again.
    pub(in crate::engine) fn carry_over(&self, end: Lsn) -> Result<(), StoreError> {
        for dataset in self.datasets() {
            let files = dataset.inodes.filter(|data| data.is_logged_before(end));
            for (ino, state) in files {
                self.carry_file_over(dataset.id, ino, &state, end)?;
            }
        }
        Ok(())
    }

    fn carry_file_over(
        &self,
        dataset: DatasetId,
        ino: Ino,
        state: &InodeState,
        end: Lsn,
    ) -> Result<(), StoreError> {
        let mut data = state.data.write();
        // Written out meanwhile.
        if !data.is_logged_before(end) {
            return Ok(());
        }
        let mut last = Lsn(0);
        let mut pieces = data.logged().into_iter().peekable();
        while pieces.peek().is_some() {
            let mut tx = self.journal.begin_carry()?;
            let mut step = 0;
            while let Some((offset, bytes)) = pieces.next_if(|_| step < CARRY_STEP_BYTES) {
                step += bytes.len();
                tx.data(dataset, ino, offset, bytes);
            }
            last = tx.commit()?;
        }
        data.set_carried(last);
        Ok(())
    }

    /// Gives chunk space that durable checkpoints freed back to the free trees.
    pub(in crate::engine) fn release_freed(&self) -> Result<(), EngineError> {
        let durable = self.journal.durable_generation();
        let begin = || {
            // What does not fit the log now is released after the next checkpoint.
            if self.journal.pressure() != Pressure::None {
                return Ok(None);
            }
            Ok(Some(self.journal.begin_for(Need::Reclaim)?))
        };
        Self::release_pending(begin, |generation| generation <= durable)
    }

    /// After recovery, when nobody writes to claimed space any more and everything freed is
    /// durably so: all pending space is free but what is punched.
    pub(in crate::engine) fn recover_space(&self) -> Result<(), EngineError> {
        Self::release_pending(
            || self.begin_tx(Need::Reclaim).map(Some),
            |generation| generation != PUNCHED,
        )
    }

    fn release_pending<'a>(
        begin: impl Fn() -> Result<Option<Tx<'a>>, EngineError>,
        may_release: impl Fn(Generation) -> bool,
    ) -> Result<(), EngineError> {
        let mut from = Some(0);
        while let Some(start) = from {
            let Some(mut tx) = begin()? else {
                break;
            };
            let (released, next) = space::release(&mut tx, start, RELEASE_STEP, &may_release)?;
            if !released.is_empty() {
                tx.commit()?;
            }
            from = next;
        }
        Ok(())
    }
}
