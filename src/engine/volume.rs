//! Opening, closing and checkpointing a volume.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::background::Background;
use super::data::{DataState, InodeTable};
use super::{Clock, EngineError, OpenOptions, Time};
use crate::disk::Media;
use crate::disk::dir::{DiskError, OpenDir, StoreDir, StoreLock, open_store};
use crate::format::id::{DatasetId, Ino, InoHashes};
use crate::format::key::{self, Kind, trailing_u64};
use crate::log::journal::Pressure;
use crate::log::recovery::{self, Report};
use crate::log::{Journal, Tx};
use crate::store::pages::Need;
use crate::store::{Read, StoreError};
use crate::sync::{Mutex, RwLock};

/// One dataset of an open store.
pub struct Volume {
    pub(super) journal: Journal,
    pub(super) dataset: DatasetId,
    pub(super) options: OpenOptions,
    pub(super) clock: Clock,
    pub(super) inodes: InodeTable,
    pub(super) data: DataState,
    /// Inodes without a name: the orphan list as it is in the tree.
    pub(super) orphans: RwLock<HashSet<Ino, InoHashes>>,
    /// What opening found and did.
    recovery: Report,
    orphans_freed: u64,
    /// One checkpoint at a time: held until the space that it freed is released.
    checkpointing: Mutex<()>,
    pub(super) background: Background,
    /// The store's lock, when it is a directory: held as long as the volume lives.
    lock: Option<StoreLock>,
}

/// What an operation waited for on its way to a transaction.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Pages have run out.
    wanted: bool,
    /// A checkpoint was made because of that.
    freed: bool,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its files cannot be opened.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// What is in them cannot be used.
    #[error("{store}: {source}")]
    Store {
        /// The store.
        store: PathBuf,
        /// Why.
        #[source]
        source: EngineError,
    },
}

/// The system's clock.
#[must_use]
pub fn system_clock() -> Clock {
    Arc::new(|| {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let sec = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        Time {
            sec,
            nsec: since.subsec_nanos(),
        }
    })
}

impl Volume {
    /// Opens the main dataset of the store in directory `store`, which stays locked until the
    /// volume is dropped.
    ///
    /// # Errors
    /// When the directory is not a store or is in use; and as [`Volume::open_media`].
    pub fn open(store: &Path, options: OpenOptions) -> Result<Arc<Volume>, OpenError> {
        let how = OpenDir {
            read_only: options.read_only,
            allow_volatile: options.allow_volatile,
        };
        Self::open_files(store, open_store(store, how)?, options)
    }

    /// Opens the main dataset of the store whose files are open.
    ///
    /// # Errors
    /// As [`Volume::open_media`].
    pub fn open_files(
        store: &Path,
        files: StoreDir,
        options: OpenOptions,
    ) -> Result<Arc<Volume>, OpenError> {
        let StoreDir { media, lock } = files;
        Self::open_locked(media, options, system_clock(), Some(lock)).map_err(|source| {
            OpenError::Store {
                store: store.to_owned(),
                source,
            }
        })
    }

    /// Opens the main dataset of the store on `media`, recovering it first. Durable on return is
    /// what recovery brought back.
    ///
    /// # Errors
    /// When it is not a store, is newer than this program, or is damaged beyond trust.
    pub fn open_media(
        media: Media,
        options: OpenOptions,
        clock: Clock,
    ) -> Result<Arc<Volume>, EngineError> {
        Self::open_locked(media, options, clock, None)
    }

    fn open_locked(
        media: Media,
        options: OpenOptions,
        clock: Clock,
        lock: Option<StoreLock>,
    ) -> Result<Arc<Volume>, EngineError> {
        crate::memory::keep_large_apart();
        let opened = recovery::open(
            media,
            recovery::Options {
                read_only: options.read_only,
                discard_damaged_log: options.discard_damaged_log,
                cache_bytes: options.cache_bytes / 2,
            },
        )?;
        if let Some(damage) = &opened.report.damage {
            ::log::error!("{damage}");
        }
        for (copy, reason) in &opened.report.superblock_damage {
            ::log::warn!("superblock copy {copy} cannot be used: {reason}; the other one is whole");
        }
        let mut volume = Volume::assemble(opened.journal, options, clock, opened.report);
        volume.lock = lock;
        for change in opened.data {
            volume.replay_data(change)?;
        }
        volume.load_orphans()?;
        volume.load_next_chunk()?;
        if volume.is_writable() {
            volume.finish_recovery()?;
        }
        let volume = Arc::new(volume);
        if volume.options.background && volume.is_writable() {
            Background::start(&volume)?;
        }
        Ok(volume)
    }

    fn assemble(journal: Journal, options: OpenOptions, clock: Clock, recovery: Report) -> Volume {
        // The other half is for tree pages.
        let data = DataState::new(options.cache_bytes / 2);
        Volume {
            journal,
            dataset: DatasetId::MAIN,
            options,
            clock,
            inodes: InodeTable::default(),
            data,
            orphans: RwLock::default(),
            recovery,
            orphans_freed: 0,
            checkpointing: Mutex::new(()),
            background: Background::default(),
            lock: None,
        }
    }

    fn load_orphans(&self) -> Result<(), EngineError> {
        let (start, end) = key::kind_range(Ino(0), Kind::Orphan);
        let mut found = Vec::new();
        self.journal
            .view()
            .scan(self.tree(), &start, &end, &mut |key, _| {
                found.push(trailing_u64(key));
                ControlFlow::Continue(())
            })?;
        let mut orphans = self.orphans.write();
        for ino in found {
            let ino = ino.map_err(|source| StoreError::format("orphan list", source))?;
            orphans.insert(Ino(ino));
        }
        Ok(())
    }

    /// The third phase of recovery: nothing is open, so orphans go; then the log is emptied into
    /// the trees, file bytes included, so that nothing needs to be carried over.
    fn finish_recovery(&mut self) -> Result<(), EngineError> {
        let finish = || {
            // What keeps a file's bytes from it leaves them in the log.
            let _ = self.write_out_all();
            self.reclaim_all_orphans()
        };
        // The numbers of checkpoints need a log that says whether one was begun: see
        // `recovery::next_generation`.
        self.orphans_freed = if self.recovery.was_clean() {
            finish()?
        } else {
            self.journal.unlogged(finish)?
        };
        // Also after a clean close: what the orphans held may be written to only once they are gone
        // on disk too.
        if !self.recovery.was_clean() || self.orphans_freed > 0 {
            self.checkpoint()?;
        }
        self.recover_space()?;
        if !self.options.background {
            self.journal.find_free_pages()?;
        }
        Ok(())
    }

    /// What opening found and did.
    #[must_use]
    pub fn recovery_report(&self) -> &Report {
        &self.recovery
    }

    /// Orphans that opening freed.
    #[must_use]
    pub fn orphans_freed(&self) -> u64 {
        self.orphans_freed
    }

    /// Whether changes are possible: not opened read-only, and no write has failed.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.journal.writable().is_ok()
    }

    /// Moves everything committed into the trees on disk and frees the log. Durable on return is
    /// all metadata and all data that was fsynced.
    ///
    /// # Errors
    /// When the disk refuses; the volume is read-only from then on.
    pub fn checkpoint(&self) -> Result<(), EngineError> {
        let _one = self.checkpointing.lock();
        self.journal
            .checkpoint(false, &|end| self.carry_over(end))?;
        self.inodes.sweep(self.journal.durable_lsn());
        match self.release_freed() {
            // It stays pending until after the next checkpoint.
            Err(EngineError::Store(StoreError::NoSpace(_))) => Ok(()),
            other => other,
        }
    }

    /// Waits for a checkpoint when the log or memory is nearly full. To be called where an
    /// operation begins, or between two transactions of a long one, with no lock held that the
    /// checkpoint needs: it takes the unwritten data of inodes, but not their `io`.
    ///
    /// # Errors
    /// When the checkpoint fails.
    pub(super) fn throttle(&self) -> Result<(), EngineError> {
        match self.journal.pressure() {
            Pressure::None => Ok(()),
            Pressure::Due if self.options.background => {
                self.background.request_checkpoint();
                Ok(())
            }
            Pressure::Urgent if self.background.wait_for_checkpoint() => Ok(()),
            Pressure::Due | Pressure::Urgent => self.checkpoint(),
        }
    }

    /// Starts a transaction that finds room in the log. Waits as [`Volume::throttle`] does.
    ///
    /// # Errors
    /// As [`Volume::throttle`]; when the volume is read-only or the disk full.
    pub(super) fn begin_tx(&self, need: Need) -> Result<Tx<'_>, EngineError> {
        let mut room = Room::default();
        loop {
            self.make_room(&mut room)?;
            // Others may have come first since.
            if let Some(tx) = self.try_begin(need, &mut room)? {
                return Ok(tx);
            }
        }
    }

    /// Starts a transaction, unless something must make room for it: `None` then, and
    /// [`Volume::make_room`] is to be called without locks.
    ///
    /// # Errors
    /// When the volume is read-only or the disk full.
    pub(super) fn try_begin(
        &self,
        need: Need,
        room: &mut Room,
    ) -> Result<Option<Tx<'_>>, EngineError> {
        match self.journal.begin_with_room(need) {
            Err(StoreError::NoSpace(_)) if !room.freed && self.may_find_pages() => {
                room.wanted = true;
                Ok(None)
            }
            other => Ok(other?),
        }
    }

    /// Whether there may be pages to write to that are not known yet.
    fn may_find_pages(&self) -> bool {
        !self.journal.knows_free_pages() || self.journal.has_dirty_pages()
    }

    /// Waits as [`Volume::throttle`] does; and for a checkpoint when pages have run out, once, since
    /// pages that are no longer used can be written again only after one.
    ///
    /// # Errors
    /// As [`Volume::throttle`].
    pub(super) fn make_room(&self, room: &mut Room) -> Result<(), EngineError> {
        if !std::mem::take(&mut room.wanted) {
            return self.throttle();
        }
        if !self.journal.knows_free_pages() {
            return Ok(self.journal.find_free_pages()?);
        }
        room.freed = true;
        // One under way may have begun before pages came free that this needs.
        if self.background.wait_for_new_checkpoint() {
            return Ok(());
        }
        self.checkpoint()
    }

    /// Makes everything durable and marks the store as closed. Operations after it fail or are not
    /// durable; closing again does nothing.
    ///
    /// # Errors
    /// When the disk refuses; the next opening recovers what was durable.
    pub fn close(&self) -> Result<(), EngineError> {
        self.background.stop();
        if !self.is_writable() {
            return Ok(());
        }
        let written = self.write_out_all();
        self.checkpoint()?;
        let _one = self.checkpointing.lock();
        // Bytes that could not be written out stay in the log.
        let clean = written.is_ok();
        self.journal
            .checkpoint(clean, &|end| self.carry_over(end))?;
        written
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Without a close this is a power cut, as far as the store is concerned; the threads must
        // end all the same.
        self.background.stop();
    }
}
