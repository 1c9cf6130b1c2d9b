//! An open store: opening, closing, checkpoints, and room for what wants to change.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::background::Background;
use super::data::DataState;
use super::names::NamesState;
use super::volume::Dataset;
use super::{Clock, EngineError, OpenOptions, Time, Volume};
use crate::disk::Media;
use crate::disk::counted::{Counted, counted};
use crate::disk::dir::{DiskError, OpenDir, StoreDir, StoreLock, open_store};
use crate::disk::host::FileSystem;
use crate::format::id::{DatasetId, Ino};
use crate::format::page::PAGE_BYTES;
use crate::log::journal::Pressure;
use crate::log::recovery::{self, Report};
use crate::log::{Change, Journal, Tx};
use crate::store::StoreError;
use crate::store::pages::Need;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock, RwLockWriteGuard};

/// An open store: what its datasets share.
pub struct Store {
    pub(super) journal: Journal,
    pub(super) options: OpenOptions,
    pub(super) clock: Clock,
    pub(super) data: DataState,
    pub(super) names: NamesState,
    /// The datasets in use; held for writing by who begins to use one or deletes one.
    pub(super) datasets: RwLock<InUse>,
    /// What opening found and did.
    recovery: Report,
    orphans_freed: AtomicU64,
    /// Orphans may be open: see [`OpenOptions::keep_orphans`].
    pub(super) orphans_kept: AtomicBool,
    /// Bytes that guests wrote.
    pub(super) guest_bytes: AtomicU64,
    /// What was asked of the disks.
    pub(super) disks: Counted,
    /// One checkpoint at a time: held until the space that it freed is released.
    checkpointing: Mutex<()>,
    /// One deletion of trees at a time.
    pub(super) reaping: Mutex<()>,
    pub(super) background: Background,
    /// The scrub under way, or the last one.
    pub(super) scrubbing: Mutex<super::ScrubStatus>,
    pub(super) stop_scrub: AtomicBool,
    /// What happened lately.
    pub(super) events: super::events::Journal,
    /// The store's lock, when it is a directory: held as long as the store is open.
    lock: Option<StoreLock>,
}

/// Datasets in use.
pub(super) type InUse = BTreeMap<DatasetId, Arc<Dataset>>;

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
    Arc::new(|| time_of(SystemTime::now()))
}

fn time_of(at: SystemTime) -> Time {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Time {
        sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nsec: since.subsec_nanos(),
    }
}

impl Store {
    /// Opens the store in directory `store`, which stays locked until all that refers to the store
    /// is dropped.
    ///
    /// # Errors
    /// When the directory is not a store or is in use; and as [`Store::open_media`].
    pub fn open(store: &Path, options: OpenOptions) -> Result<Arc<Store>, OpenError> {
        let how = OpenDir {
            read_only: options.read_only,
            allow_volatile: options.allow_volatile,
        };
        Self::open_files(store, open_store(store, how)?, options)
    }

    /// Opens the store whose files are open.
    ///
    /// # Errors
    /// As [`Store::open_media`].
    pub fn open_files(
        store: &Path,
        files: StoreDir,
        options: OpenOptions,
    ) -> Result<Arc<Store>, OpenError> {
        let StoreDir { media, lock } = files;
        Self::open_locked(media, options, system_clock(), Some(lock)).map_err(|source| {
            OpenError::Store {
                store: store.to_owned(),
                source,
            }
        })
    }

    /// Opens the store on `media`, recovering it first. Durable on return is what recovery brought
    /// back.
    ///
    /// # Errors
    /// When it is not a store, is newer than this program, or is damaged beyond trust.
    pub fn open_media(
        media: Media,
        options: OpenOptions,
        clock: Clock,
    ) -> Result<Arc<Store>, EngineError> {
        Self::open_locked(media, options, clock, None)
    }

    fn open_locked(
        media: Media,
        options: OpenOptions,
        clock: Clock,
        lock: Option<StoreLock>,
    ) -> Result<Arc<Store>, EngineError> {
        crate::memory::keep_large_apart();
        let (media, disks) = counted(media);
        let opened = recovery::open_watched(
            media,
            recovery::Options {
                read_only: options.read_only,
                discard_damaged_log: options.discard_damaged_log,
                cache_bytes: options.cache_bytes / 2,
            },
            &options.progress,
        )?;
        if let Some(damage) = &opened.report.damage {
            ::log::error!("{damage}");
        }
        for (copy, reason) in &opened.report.superblock_damage {
            ::log::warn!("superblock copy {copy} cannot be used: {reason}; the other one is whole");
        }
        let store = Arc::new(Store {
            // The other half is for tree pages.
            data: DataState::new(options.cache_bytes / 2, opened.journal.capacity_bytes()),
            journal: opened.journal,
            names: NamesState::default(),
            scrubbing: Mutex::default(),
            stop_scrub: AtomicBool::new(false),
            events: super::events::Journal::new(&clock),
            orphans_kept: AtomicBool::new(options.keep_orphans),
            options,
            clock,
            datasets: RwLock::default(),
            recovery: opened.report,
            orphans_freed: AtomicU64::new(0),
            guest_bytes: AtomicU64::new(0),
            disks,
            checkpointing: Mutex::new(()),
            reaping: Mutex::new(()),
            background: Background::default(),
            lock,
        });
        store.recover(opened.data)?;
        if store.options.background && store.is_writable() {
            Background::start(&store)?;
        }
        Ok(store)
    }

    /// What is left of recovery once the trees are whole: file bytes that only the log holds, and
    /// orphans.
    fn recover(self: &Arc<Self>, data: Vec<Change>) -> Result<(), EngineError> {
        let reserved = super::datasets::all_reserved_bytes(&self.journal.view())?;
        self.data.reserved_bytes.store(reserved, Ordering::Relaxed);
        let kept = super::datasets::all_kept_bytes(&self.journal.view())?;
        self.data.kept_bytes.store(kept, Ordering::Relaxed);
        self.attach(DatasetId::MAIN)?;
        for change in data {
            if let Change::Data { dataset, .. } | Change::DataClear { dataset, .. } = &change {
                // Of one that is deleted nothing is wanted any more.
                if super::datasets::is_there(&self.journal.view(), *dataset)? {
                    self.attach(*dataset)?.replay_data(change);
                }
            }
        }
        for volume in self.volumes() {
            volume.count_recovered();
        }
        self.load_next_chunk()?;
        if self.is_writable() {
            self.finish_recovery()?;
        }
        Ok(())
    }

    /// The third phase of recovery: nothing is open, so orphans go; then the log is emptied into
    /// the trees, file bytes included, so that nothing needs to be carried over.
    fn finish_recovery(self: &Arc<Self>) -> Result<(), EngineError> {
        let progress = &self.options.progress;
        let finish = || {
            progress.begin("writing out content of the log", 0);
            // What keeps a file's bytes from it leaves them in the log.
            let _ = self.write_out_all();
            progress.begin("freeing files without a name", 0);
            let (mut freed, mut cleared) = (0, false);
            let kept = self.orphans_kept.load(Ordering::Relaxed);
            for volume in self.volumes() {
                let orphans = if kept { Vec::new() } else { volume.orphans() };
                volume.reclaim_orphans(&orphans)?;
                freed += orphans.len() as u64;
                progress.reach(freed);
                if volume.has_staging() {
                    volume.clear_leftovers(&mut || true);
                    cleared = true;
                }
            }
            Ok::<_, EngineError>((freed, cleared))
        };
        let (freed, cleared) = self.journal.unlogged(finish)?;
        self.orphans_freed.store(freed, Ordering::Relaxed);
        // Also after a clean close: what the orphans held may be written to only once they are gone
        // on disk too. And the number of checkpoints has skipped a step where the log was read: what
        // is born from here on must find it on the disk.
        if self.recovery.log_read || freed > 0 || cleared {
            progress.begin("writing the trees", 0);
            self.checkpoint()?;
        }
        progress.begin("counting free space", 0);
        self.recover_space()?;
        if !self.options.background {
            self.journal.find_free_pages()?;
        }
        Ok(())
    }

    /// Frees what has no name in the datasets in use and is not known to be open, of a store that
    /// was opened with [`OpenOptions::keep_orphans`]; later, datasets are as in any other.
    ///
    /// # Errors
    /// When the store fails; what is left is freed at the next opening.
    pub fn free_orphans_but(
        self: &Arc<Self>,
        is_open: impl Fn(DatasetId, Ino) -> bool,
    ) -> Result<(), EngineError> {
        if !self.orphans_kept.swap(false, Ordering::AcqRel) || !self.is_writable() {
            return Ok(());
        }
        for volume in self.volumes().iter().filter(|volume| volume.is_writable()) {
            let mut orphans = volume.orphans();
            orphans.retain(|ino| !is_open(volume.dataset_id(), *ino));
            volume.reclaim_orphans(&orphans)?;
            let freed = orphans.len() as u64;
            self.orphans_freed.fetch_add(freed, Ordering::Relaxed);
        }
        Ok(())
    }

    /// A dataset, in use from now on.
    ///
    /// # Errors
    /// When its orphans cannot be read.
    fn attach(self: &Arc<Self>, id: DatasetId) -> Result<Volume, EngineError> {
        self.attach_in(&mut self.datasets.write(), id)
    }

    /// As [`Store::attach`].
    pub(super) fn attach_in(
        self: &Arc<Self>,
        datasets: &mut InUse,
        id: DatasetId,
    ) -> Result<Volume, EngineError> {
        let dataset = match datasets.get(&id) {
            Some(dataset) => Arc::clone(dataset),
            None => {
                let dataset = Arc::new(Dataset::load(id, &self.journal.view())?);
                // What nobody is to see is hidden before anyone looks.
                let volume = Volume::for_store(Arc::clone(self), Arc::clone(&dataset));
                if let Err(error) = volume.find_staging() {
                    ::log::debug!("dataset {id}: what is hidden is not known: {error}");
                }
                datasets.insert(id, Arc::clone(&dataset));
                dataset
            }
        };
        Ok(Volume::for_user(Arc::clone(self), dataset))
    }

    /// The datasets in use.
    pub(super) fn datasets(&self) -> Vec<Arc<Dataset>> {
        self.datasets.read().values().cloned().collect()
    }

    /// The datasets in use.
    pub(super) fn volumes(self: &Arc<Self>) -> Vec<Volume> {
        let volume = |dataset| Volume::for_store(Arc::clone(self), dataset);
        self.datasets().into_iter().map(volume).collect()
    }

    /// The dataset in use that has this number.
    pub(super) fn volume_of(self: &Arc<Self>, id: DatasetId) -> Option<Volume> {
        let dataset = self.datasets.read().get(&id).cloned()?;
        Some(Volume::for_store(Arc::clone(self), dataset))
    }

    /// The dataset `main`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn main(self: &Arc<Self>) -> Result<Volume, EngineError> {
        self.attach(DatasetId::MAIN)
    }

    /// The time by the store's clock.
    #[must_use]
    pub fn now(&self) -> Time {
        (self.clock)()
    }

    /// Scrubs, gives free space back and compacts as often as these options say from here on; of the
    /// others none counts. Where the store has no threads for that, it changes nothing.
    pub fn follow(&self, options: &OpenOptions) {
        self.background.follow(options);
    }

    /// Bytes that guests wrote and that were read from and written to the disks.
    pub(super) fn moved_by_all(&self) -> u64 {
        let disks = self.disks.named();
        let disks = disks.map(|(_, disk)| disk.read_bytes.get() + disk.written_bytes.get());
        disks.iter().sum::<u64>() + self.guest_bytes.load(Ordering::Relaxed)
    }

    /// The file system of the host that it lies on; `None` where that does not say.
    #[must_use]
    pub fn file_system(&self) -> Option<FileSystem> {
        self.lock.as_ref()?.file_system().ok()
    }

    /// When its superblock had been written last before it was opened: by closing it, or by the newest
    /// checkpoint. `None` where the host's file system does not tell.
    #[must_use]
    pub fn last_written(&self) -> Option<Time> {
        self.lock.as_ref()?.last_written().map(time_of)
    }

    /// What opening found and did.
    #[must_use]
    pub fn recovery_report(&self) -> &Report {
        &self.recovery
    }

    /// Orphans that opening freed.
    #[must_use]
    pub fn orphans_freed(&self) -> u64 {
        self.orphans_freed.load(Ordering::Relaxed)
    }

    /// Whether changes are possible: not opened read-only, and no write has failed.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.journal.writable().is_ok()
    }

    /// Bytes that tree pages and names took in the newest checkpoint.
    #[must_use]
    pub fn metadata_bytes(&self) -> u64 {
        let newest = self.journal.superblock();
        let pages = newest.nodes_used.saturating_mul(PAGE_BYTES as u64);
        let unbacked = self.journal.names_unbacked_bytes();
        pages.saturating_add(newest.strings_end.saturating_sub(unbacked))
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
        for dataset in self.datasets() {
            dataset.inodes.sweep(self.journal.durable_lsn());
        }
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

    /// Starts a transaction that finds room in the log. Waits as [`Store::throttle`] does.
    ///
    /// # Errors
    /// As [`Store::throttle`]; when the volume is read-only or the disk full.
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

    /// Takes the datasets in use and starts a transaction that finds room in the log: nobody begins to
    /// use one meanwhile. To be called with no lock held that a checkpoint needs, which asks who is in use.
    ///
    /// # Errors
    /// As [`Store::begin_tx`].
    pub(super) fn begin_with_datasets(
        &self,
        need: Need,
    ) -> Result<(RwLockWriteGuard<'_, InUse>, Tx<'_>), EngineError> {
        let mut room = Room::default();
        loop {
            self.make_room(&mut room)?;
            let datasets = self.datasets.write();
            if let Some(tx) = self.try_begin(need, &mut room)? {
                return Ok((datasets, tx));
            }
        }
    }

    /// Starts a transaction, unless something must make room for it: `None` then, and
    /// [`Store::make_room`] is to be called without locks.
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
        !self.journal.knows_free_pages() || self.journal.dirty_pages() > 0
    }

    /// Waits as [`Store::throttle`] does; and for a checkpoint when pages have run out, once, since
    /// pages that are no longer used can be written again only after one.
    ///
    /// # Errors
    /// As [`Store::throttle`].
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
    pub fn close(self: &Arc<Self>) -> Result<(), EngineError> {
        self.background.stop();
        if !self.is_writable() {
            return Ok(());
        }
        let written = self.write_out_all();
        if let Err(error) = self.save_wear() {
            ::log::debug!("what was written is not counted: {error}");
        }
        self.checkpoint()?;
        let _one = self.checkpointing.lock();
        // Bytes that could not be written out stay in the log.
        let clean = written.is_ok();
        self.journal
            .checkpoint(clean, &|end| self.carry_over(end))?;
        written
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Without a close this is a power cut, as far as the store is concerned; the threads must
        // end all the same.
        self.background.stop();
    }
}
