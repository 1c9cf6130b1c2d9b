//! A dataset in use.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::data::{InodeTable, Replaced, Usage};
use super::kernels::Kernels;
use super::projects::{Counted, limits_of, use_of};
use super::store::{OpenError, Room, Store};
use super::{Clock, EngineError, OpenOptions};
use crate::disk::Media;
use crate::disk::dir::StoreDir;
use crate::format::id::{DatasetId, Ino, InoHashes};
use crate::format::key::{self, Kind, TreeId, trailing_u64};
use crate::format::record::{DATASET_READ_ONLY, DatasetCounters, DatasetRecord};
use crate::log::Tx;
use crate::store::pages::Need;
use crate::store::{Read, StoreError};
use crate::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use crate::sync::{Mutex, RwLock};

/// What memory holds of a dataset.
pub(super) struct Dataset {
    pub(super) id: DatasetId,
    pub(super) inodes: InodeTable,
    /// Inodes without a name: the orphan list as it is in the tree.
    pub(super) orphans: RwLock<HashSet<Ino, InoHashes>>,
    /// Held for reading by who puts bytes in memory that the trees do not have, for writing by who
    /// needs a moment without any.
    pub(super) gate: RwLock<()>,
    /// Nothing of it is ever changed.
    pub(super) read_only: bool,
    /// Held by each volume that the store gave away.
    users: Arc<()>,
    /// Somebody waits for the end of what the store does to it, and nobody is to begin anew.
    pub(super) leaving: AtomicBool,
    /// Bytes of its reserved extents, as the store has counted them.
    pub(super) reserved_bytes: AtomicU64,
    /// What it uses of what it may.
    pub(super) usage: Usage,
    /// The directory in which something is put together, or 0: see [`super::restore_path`].
    pub(super) staging: AtomicU64,
    /// Held for writing by who puts something together there, for reading by who needs it not to be
    /// there.
    pub(super) restoring: RwLock<()>,
    /// While something is imported into it, how many kernels there had been before that keep for long
    /// what they are told.
    pub(super) importing: Mutex<Option<u64>>,
    /// Who uses it.
    pub(super) kernels: Kernels,
    /// When it was last told that its quota is reached, in seconds.
    pub(super) quota_noted: AtomicI64,
    /// Which of its inodes are counted in their projects.
    pub(super) counted: Counted,
    /// What was written over in its files.
    pub(super) replaced: Replaced,
    /// The dataset that what is received into it is for: it may take what is kept for that.
    pub(super) received_for: Option<DatasetId>,
}

impl Dataset {
    /// Volumes of it that the store gave away.
    pub(super) fn users(&self) -> usize {
        Arc::strong_count(&self.users).saturating_sub(1)
    }

    /// One that nobody uses yet.
    ///
    /// # Errors
    /// When its orphans cannot be read.
    pub(super) fn load(id: DatasetId, read: &impl Read) -> Result<Self, StoreError> {
        let (start, end) = key::kind_range(Ino(0), Kind::Orphan);
        let mut found = Vec::new();
        read.scan(TreeId::Fs(id), &start, &end, &mut |key, _| {
            found.push(trailing_u64(key));
            ControlFlow::Continue(())
        })?;
        let mut orphans = HashSet::default();
        for ino in found {
            let ino = ino.map_err(|source| StoreError::format("orphan list", source))?;
            orphans.insert(Ino(ino));
        }
        let tree = TreeId::Fs(id);
        let mut projects = Vec::new();
        for (project, limit) in limits_of(read, tree)? {
            projects.push((project, limit, use_of(read, tree, project)?.bytes));
        }
        let reserved = super::datasets::reserved_bytes(read, id)?;
        let record = super::datasets::record_of(read, id)?;
        let counters = super::datasets::counters_of(read, id)?;
        Ok(Dataset {
            reserved_bytes: AtomicU64::new(reserved),
            orphans: RwLock::new(orphans),
            read_only: record.flags & DATASET_READ_ONLY != 0,
            usage: Usage::new(&record, &counters, projects),
            ..Self::receiving(id, None, &record, &counters, Counted::load(read, tree)?)
        })
    }

    /// One that a snapshot is received into, for another dataset if that is there. Nobody else uses
    /// it, and its orphans are not looked for: all that has no name yet is one.
    pub(super) fn receiving(
        id: DatasetId,
        received_for: Option<DatasetId>,
        record: &DatasetRecord,
        counters: &DatasetCounters,
        counted: Counted,
    ) -> Self {
        Dataset {
            id,
            counted,
            received_for,
            // Projects have no limits in it: what they have on the other side they may have here.
            usage: Usage::new(record, counters, []),
            reserved_bytes: AtomicU64::new(0),
            inodes: InodeTable::default(),
            orphans: RwLock::default(),
            gate: RwLock::new(()),
            read_only: false,
            users: Arc::default(),
            leaving: AtomicBool::new(false),
            staging: AtomicU64::new(0),
            restoring: RwLock::new(()),
            importing: Mutex::new(None),
            kernels: Kernels::default(),
            quota_noted: super::events::never_noted(),
            replaced: Replaced::default(),
        }
    }
}

/// A dataset of an open store, which stays open as long as anyone refers to it.
#[derive(Clone)]
pub struct Volume {
    pub(super) store: Arc<Store>,
    pub(super) dataset: Arc<Dataset>,
    /// What keeps the dataset from being deleted; `None` where the store itself is at work.
    _user: Option<Arc<()>>,
}

impl Volume {
    /// For who asked for it by name.
    pub(super) fn for_user(store: Arc<Store>, dataset: Arc<Dataset>) -> Self {
        let user = Some(Arc::clone(&dataset.users));
        Volume {
            _user: user,
            ..Self::for_store(store, dataset)
        }
    }

    /// For the store itself: a deletion waits until it is dropped.
    pub(super) fn for_store(store: Arc<Store>, dataset: Arc<Dataset>) -> Self {
        Volume {
            store,
            dataset,
            _user: None,
        }
    }

    /// Opens a store, for its dataset `main`: see [`Store::open`].
    ///
    /// # Errors
    /// As there.
    pub fn open(store: &Path, options: OpenOptions) -> Result<Arc<Volume>, OpenError> {
        Self::main_of(store, Store::open(store, options)?)
    }

    /// Opens a store, for its dataset `main`: see [`Store::open_files`].
    ///
    /// # Errors
    /// As there.
    pub fn open_files(
        store: &Path,
        files: StoreDir,
        options: OpenOptions,
    ) -> Result<Arc<Volume>, OpenError> {
        Self::main_of(store, Store::open_files(store, files, options)?)
    }

    fn main_of(path: &Path, store: Arc<Store>) -> Result<Arc<Volume>, OpenError> {
        let volume = store.main().map_err(|source| OpenError::Store {
            store: path.to_owned(),
            source,
        })?;
        Ok(Arc::new(volume))
    }

    /// Opens a store, for its dataset `main`: see [`Store::open_media`].
    ///
    /// # Errors
    /// As there.
    pub fn open_media(
        media: Media,
        options: OpenOptions,
        clock: Clock,
    ) -> Result<Arc<Volume>, EngineError> {
        Ok(Arc::new(Store::open_media(media, options, clock)?.main()?))
    }

    /// The store that it is in.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The dataset's number.
    #[must_use]
    pub fn dataset_id(&self) -> DatasetId {
        self.dataset.id
    }

    /// Whether changes are possible: not opened read-only, no snapshot, and no write has failed.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        !self.dataset.read_only && self.store.is_writable()
    }

    /// Whether changes were possible when the store was opened: also where a write has failed since.
    #[must_use]
    pub fn is_for_changes(&self) -> bool {
        !self.dataset.read_only && !self.store.options.read_only
    }

    /// Starts a transaction that changes the dataset: see [`Store::begin_tx`].
    ///
    /// # Errors
    /// As there; when it is read-only.
    pub(super) fn begin_tx(&self, need: Need) -> Result<Tx<'_>, EngineError> {
        self.check_writable()?;
        self.store.begin_tx(need)
    }

    /// The same, for who holds a lock: see [`Store::try_begin`].
    ///
    /// # Errors
    /// As there; when it is read-only.
    pub(super) fn try_begin(
        &self,
        need: Need,
        room: &mut Room,
    ) -> Result<Option<Tx<'_>>, EngineError> {
        self.check_writable()?;
        self.store.try_begin(need, room)
    }

    pub(super) fn check_writable(&self) -> Result<(), EngineError> {
        if self.dataset.read_only {
            return Err(StoreError::ReadOnly("the dataset is read-only".into()).into());
        }
        Ok(())
    }
}
