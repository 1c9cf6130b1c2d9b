//! Datasets, snapshots and clones: making, finding, naming and deleting them.
//!
//! A snapshot is a dataset that nobody changes, whose tree is the one that another dataset had at a
//! moment. Making one costs a few records, whatever the tree holds: the two share all pages until
//! the dataset goes on. Each tree knows the snapshot that it goes on from, by its lineage
//! ([`crate::format::record::LineageRecord`]), so that what was made before it is left alone: see
//! `reap` for how it goes.
//!
//! Invariant: an extent's record counts as one reference to its chunk, however many trees share it.
//! Of those it belongs to the oldest; the others have it at or below their lineage's boundary.

mod browse;
mod copies;
mod diff;
mod promote;
mod records;
mod restore;
mod still;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::receive::{hidden, received_for};
use super::volume::Dataset;
use super::{EngineError, EventKind, Settings, Store, Volume};
use crate::format::codec::Compression;
use crate::format::id::{DatasetId, Ino};
use crate::format::key::{self, TreeId};
use crate::format::record::{
    DATASET_DOOMED, DATASET_HELD, DATASET_READ_ONLY, DATASET_RECEIVING, DatasetCounters,
    DatasetRecord, Dedup, InodeRecord, Time, UNREACHED_KEY, counters_key, dataset_name_key,
    receive_key,
};
use crate::log::{Tx, recovery};
use crate::store::pages::Need;
use crate::store::{Read, StoreError};
use crate::sync::atomic::Ordering;
pub use browse::SnapshotEntry;
pub(super) use copies::put_snapshot;
pub(super) use diff::is_changed;
pub use diff::{Difference, Path, PathChange};
pub use records::split_name;
pub(super) use records::{
    all_kept_bytes, all_reserved_bytes, counters_of, found, is_there, kept_of, lineage, lineages,
    put_lineage, put_record, record_of, reserved_bytes, undeleted,
};
pub(super) use records::{dataset_name, find, new_id};
pub use restore::Restoration;
pub(super) use restore::Sums;
pub use still::Still;

/// The longest name of a dataset in bytes, that of a snapshot with its dataset's and `@` included.
pub const DATASET_NAME_MAX: usize = 255;

/// Datasets that somebody waits to delete: those who read them all the time begin no more.
#[derive(Default)]
struct Leaving(BTreeMap<DatasetId, Weak<Dataset>>);

impl Leaving {
    fn note<'a>(&mut self, datasets: impl Iterator<Item = &'a Arc<Dataset>>) {
        for dataset in datasets {
            dataset.leaving.store(true, Ordering::Release);
            self.0
                .entry(dataset.id)
                .or_insert_with(|| Arc::downgrade(dataset));
        }
    }
}

impl Drop for Leaving {
    /// Where they are not deleted after all.
    fn drop(&mut self) {
        for dataset in self.0.values().filter_map(Weak::upgrade) {
            dataset.leaving.store(false, Ordering::Release);
        }
    }
}

/// How long a deletion waits for what the store itself does to a dataset, before it looks again.
pub(super) const STORE_AT_WORK: Duration = Duration::from_millis(1);

/// Why something cannot be done to a dataset. Nothing has changed then.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DatasetError {
    /// There is none of that name.
    #[error("there is no dataset or snapshot '{0}'")]
    NotFound(String),
    /// The name is taken.
    #[error("'{0}' exists already")]
    Exists(String),
    /// It cannot be a name.
    #[error("'{name}' cannot be a name: {reason}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Not a path.
    #[error("'{path}' is not a path that is followed: {reason}")]
    BadPath {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is nothing of that path.
    #[error("there is no '{path}' in {place}")]
    NoPath {
        /// The path.
        path: String,
        /// Where it is missing.
        place: String,
    },
    /// Something of that path is there.
    #[error("'{0}' is there already: name another destination, or replace it with --replace")]
    PathExists(String),
    /// A guest would not see what is restored.
    #[error(
        "a guest uses the dataset of '{0}' that keeps what it was told of it, and would not see what \
         is restored: copy it from .snapshots in the guest, or export the dataset with --cache auto \
         or never"
    )]
    Believed(String),
    /// Something is being restored into the dataset.
    #[error("a path is being restored into the dataset, or a snapshot taken of it: try again")]
    Restoring,
    /// Somebody uses it.
    #[error("'{0}' is in use: stop its exports first")]
    Busy(String),
    /// A stream comes in for it, or is based on it.
    #[error("'{0}' is in use: a snapshot is being received")]
    Receiving(String),
    /// A dataset that has snapshots.
    #[error("'{name}' has {count} snapshots: delete them first, or all of it with --recursive")]
    HasSnapshots {
        /// The dataset.
        name: String,
        /// How many.
        count: usize,
    },
    /// A snapshot that is not to be deleted.
    #[error("'{0}' is held: release it first")]
    Held(String),
    /// What is to be kept for it does not fit.
    #[error("'{name}': there is no room to keep {more} bytes more for it; {free} are free")]
    NoRoom {
        /// The dataset.
        name: String,
        /// Bytes to be kept that are not kept yet.
        more: u64,
        /// Bytes that are neither used nor kept for anyone.
        free: u64,
    },
    /// It cannot be done to this one.
    #[error("'{name}': {reason}")]
    Refused {
        /// The dataset or snapshot.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// The store refuses.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl From<StoreError> for DatasetError {
    fn from(error: StoreError) -> Self {
        DatasetError::Engine(error.into())
    }
}

/// A dataset or snapshot, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetInfo {
    /// Its number.
    pub id: DatasetId,
    /// Its name: of a snapshot, that of the dataset, `@`, and its own.
    pub name: String,
    /// Its UUID.
    pub uuid: [u8; 16],
    /// The dataset that it is a snapshot of.
    pub snapshot_of: Option<DatasetId>,
    /// The snapshot or dataset that it was cloned from.
    pub origin: Option<DatasetId>,
    /// When it was made.
    pub created: Time,
    /// Whether it refuses changes.
    pub read_only: bool,
    /// Of a snapshot, whether it refuses to be deleted.
    pub held: bool,
    /// Inodes in it.
    pub inodes: u64,
    /// Bytes of its files that take space, shared or not.
    pub allocated_bytes: u64,
    /// How its new chunks are compressed.
    pub compression: Compression,
    /// Whether its equal content is stored once.
    pub dedup: Dedup,
    /// What they may take; 0 for no limit.
    pub quota_bytes: u64,
    /// Inodes that it may have; 0 for no limit.
    pub quota_inodes: u64,
    /// Bytes that it can use in any case; 0 for none.
    pub reservation_bytes: u64,
}

impl Store {
    /// All datasets and snapshots that have a name, by number.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<DatasetInfo>, EngineError> {
        let view = self.journal.view();
        let mut all = Vec::new();
        for (id, record) in recovery::datasets(&view)? {
            if record.flags & (DATASET_DOOMED | DATASET_RECEIVING) == 0 {
                all.push(info_of(&view, id, record)?);
            }
        }
        Ok(all)
    }

    /// The dataset or snapshot of a name.
    ///
    /// # Errors
    /// When there is none of that name; when the store cannot be read.
    pub fn find(&self, name: &str) -> Result<DatasetInfo, DatasetError> {
        let view = self.journal.view();
        let (id, record) = found(&view, name)?;
        Ok(info_of(&view, id, record)?)
    }

    /// The dataset or snapshot of a number, while it has a name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn find_by_id(&self, id: DatasetId) -> Result<Option<DatasetInfo>, EngineError> {
        let view = self.journal.view();
        match is_there(&view, id)? {
            true => Ok(Some(info_of(&view, id, record_of(&view, id)?)?)),
            false => Ok(None),
        }
    }

    /// The dataset or snapshot of a name, in use from now on.
    ///
    /// # Errors
    /// When there is none of that name; when the store cannot be read.
    pub fn volume(self: &Arc<Self>, name: &str) -> Result<Volume, DatasetError> {
        // None is deleted meanwhile.
        let mut datasets = self.datasets.write();
        let (id, _) = found(&self.journal.view(), name)?;
        let was_there = datasets.contains_key(&id);
        let volume = self.attach_in(&mut datasets, id)?;
        // Nobody has had any of its files open since it was used last; from here on others may.
        let may_be_open = was_there || self.orphans_kept.load(Ordering::Acquire);
        let orphans = match may_be_open || !volume.is_writable() {
            true => Vec::new(),
            false => volume.orphans(),
        };
        drop(datasets);
        volume.reclaim_orphans(&orphans)?;
        if !was_there && volume.is_writable() && volume.has_staging() {
            match self.options.background {
                true => self.background.reap(),
                false => volume.clear_leftovers(&mut || true),
            }
        }
        Ok(volume)
    }

    /// Makes an empty dataset, whose root directory belongs to `uid` and `gid`. Durable on return.
    ///
    /// # Errors
    /// When the name is taken or cannot be one; when the store refuses.
    pub fn create_dataset(&self, name: &str, owner: (u32, u32)) -> Result<(), DatasetError> {
        self.create_dataset_with(name, owner, Settings::default())
            .map(drop)
    }

    /// The same, with settings from the beginning.
    ///
    /// # Errors
    /// As [`Store::create_dataset`]; when what is to be kept for it does not fit.
    pub fn create_dataset_with(
        &self,
        name: &str,
        (uid, gid): (u32, u32),
        settings: Settings,
    ) -> Result<DatasetId, DatasetError> {
        dataset_name(name)?;
        let _one = self.data.setting.lock();
        let kept = self.keep_for_new(name, settings)?;
        let mut tx = self.begin_tx(Need::Space)?;
        let id = self.name_new(&mut tx, name)?;
        let now = self.now();
        let mut record = self.new_record(&tx, id, name);
        settings.apply(&mut record)?;
        put_record(&mut tx, id, &record)?;
        let counters = DatasetCounters {
            next_ino: Ino::ROOT.0 + 1,
            inodes: 1,
            ..DatasetCounters::default()
        };
        tx.put(TreeId::Datasets, counters_key(id), counters.encode())?;
        let root = InodeRecord::new_root(uid, gid, 0o755, now);
        tx.put(TreeId::Fs(id), key::inode(Ino::ROOT), root.encode())?;
        self.end(tx)?;
        kept.settle();
        self.note(EventKind::DatasetCreated, name, None);
        Ok(id)
    }

    /// Gives a dataset or a snapshot another name; snapshots go with their dataset, and so does what was
    /// received for it of a stream that was cut off.
    ///
    /// # Errors
    /// When the name is taken or cannot be one; while something is received for the dataset; when the
    /// store refuses.
    pub fn rename(&self, name: &str, to: &str) -> Result<(), DatasetError> {
        let (dataset, snapshot) = split_name(name)?;
        let (to_dataset, to_snapshot) = split_name(to)?;
        let refused = |reason| {
            let name = name.to_owned();
            Err(DatasetError::Refused { name, reason })
        };
        if snapshot.is_some() && (to_snapshot.is_none() || dataset != to_dataset) {
            return refused("a snapshot stays with its dataset");
        }
        if snapshot.is_none() && to_snapshot.is_some() {
            return refused("a dataset does not become a snapshot");
        }
        // Nobody begins to receive meanwhile.
        let (datasets, mut tx) = self.begin_with_datasets(Need::Space)?;
        let (id, _) = found(&tx, name)?;
        if id == DatasetId::MAIN {
            return refused("it keeps its name");
        }
        let mut renamed = vec![(id, to.to_owned())];
        for (each, record) in recovery::datasets(&tx)? {
            if let (true, Some((_, own))) = (record.snapshot_of == id, record.name.split_once('@'))
            {
                renamed.push((each, format!("{to}@{own}")));
            }
        }
        // What was received without a base is for whoever has that name in the end.
        if let (None, Some(part)) = (snapshot, find(&tx, &hidden(name))?)
            && record_of(&tx, part)?.origin.0 != 0
            && find(&tx, to)?.is_none()
        {
            if datasets.contains_key(&part) {
                return Err(DatasetError::Receiving(name.to_owned()));
            }
            if find(&tx, &hidden(to))?.is_some() {
                let reason = "a receive was cut off for it and one for a dataset of the new name: \
                              drop one with receive --abort";
                return refused(reason);
            }
            if to.len() >= DATASET_NAME_MAX {
                return refused("with what was received for it, the new name is too long");
            }
            renamed.push((part, hidden(to)));
        }
        for (id, name) in renamed {
            let mut record = record_of(&tx, id)?;
            promote::rename(&mut tx, id, &mut record, name)?;
            put_record(&mut tx, id, &record)?;
        }
        self.end(tx)?;
        drop(datasets);
        let kind = match snapshot {
            Some(_) => EventKind::SnapshotRenamed,
            None => EventKind::DatasetRenamed,
        };
        self.note(kind, name, Some(to));
        Ok(())
    }

    /// Deletes a dataset that nobody uses and that has no snapshots (or with them, if `recursive`),
    /// or a snapshot, and what was received so far on the base of it. Its name is free on return, and
    /// the deletion durable; its space comes back bit by bit.
    ///
    /// # Errors
    /// When there is none of that name, or it is in use or has snapshots; when the store refuses.
    pub fn delete(&self, name: &str, recursive: bool) -> Result<(), DatasetError> {
        let mut leaving = Leaving::default();
        loop {
            // Nobody begins to use it meanwhile.
            let (mut datasets, mut tx) = self.begin_with_datasets(Need::Reclaim)?;
            let doomed = doomed(&tx, name, recursive)?;
            let in_use = || doomed.iter().filter_map(|id| datasets.get(id));
            if let Some(busy) = in_use().find(|dataset| dataset.users() > 0) {
                let busy = record_of(&tx, busy.id)?;
                return Err(match received_for(&busy.name) {
                    Some(dataset) => DatasetError::Receiving(dataset.to_owned()),
                    None => DatasetError::Busy(busy.name),
                });
            }
            if in_use().any(|dataset| Arc::strong_count(dataset) > 1) {
                // The store itself is about it: what it writes out must not come behind the end.
                leaving.note(in_use());
                drop((tx, datasets));
                std::thread::sleep(STORE_AT_WORK);
                continue;
            }
            let (mut reserved, mut kept) = (0, 0);
            let mut names = Vec::new();
            for id in &doomed {
                reserved += reserved_bytes(&tx, *id)?;
                let mut record = record_of(&tx, *id)?;
                if !datasets.contains_key(id) {
                    kept += kept_of(&tx, *id, &record)?;
                }
                tx.delete(TreeId::Datasets, dataset_name_key(&record.name))?;
                tx.delete(TreeId::Datasets, receive_key(*id))?;
                record.flags |= DATASET_DOOMED | DATASET_READ_ONLY;
                names.push(std::mem::take(&mut record.name));
                put_record(&mut tx, *id, &record)?;
            }
            tx.put(TreeId::Datasets, UNREACHED_KEY, [])?;
            self.end(tx)?;
            self.data
                .reserved_bytes
                .fetch_sub(reserved, Ordering::Relaxed);
            self.data.kept_bytes.fetch_sub(kept, Ordering::SeqCst);
            for id in doomed {
                if let Some(dataset) = datasets.remove(&id) {
                    dataset.usage.reserve(0, &self.data.kept_bytes);
                    self.forget_unwritten(&dataset);
                }
            }
            self.background.reap();
            // What was received so far nobody has heard of.
            for name in names.iter().filter(|name| received_for(name).is_none()) {
                let kind = match name.contains('@') {
                    true => EventKind::SnapshotDeleted,
                    false => EventKind::DatasetDeleted,
                };
                self.note(kind, name, None);
            }
            return Ok(());
        }
    }

    /// Commits a transaction and waits until it is durable.
    pub(super) fn end(&self, tx: Tx<'_>) -> Result<(), DatasetError> {
        let lsn = tx.commit()?;
        Ok(self.journal.sync(lsn)?)
    }

    /// Enters a new name; the number of what will have it.
    pub(super) fn name_new(&self, tx: &mut Tx<'_>, name: &str) -> Result<DatasetId, DatasetError> {
        if find(tx, name)?.is_some() {
            return Err(DatasetError::Exists(name.to_owned()));
        }
        let id = new_id(tx)?;
        tx.put(TreeId::Datasets, dataset_name_key(name), id.0.to_le_bytes())?;
        Ok(id)
    }

    pub(super) fn new_record(&self, tx: &Tx<'_>, id: DatasetId, name: &str) -> DatasetRecord {
        DatasetRecord::new(name, self.uuid_of(id), tx.generation(), self.now())
    }

    /// The UUID (RFC 9562, version 8) of a dataset: no number is used twice in a store.
    fn uuid_of(&self, id: DatasetId) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_derive_key("razorfs dataset uuid");
        hasher.update(&self.journal.uuid());
        hasher.update(&id.0.to_le_bytes());
        let mut uuid = [0; 16];
        hasher.finalize_xof().fill(&mut uuid);
        uuid[6] = uuid[6] & 0x0f | 0x80;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        uuid
    }
}

/// A dataset or snapshot, as it is listed.
fn info_of(
    read: &impl Read,
    id: DatasetId,
    record: DatasetRecord,
) -> Result<DatasetInfo, StoreError> {
    let counters = counters_of(read, id)?;
    let compression = Compression::of_record(record.codec, record.codec_level)
        .map_err(|source| StoreError::format(format!("dataset {id}"), source))?;
    let some = |id: DatasetId| (id.0 != 0).then_some(id);
    Ok(DatasetInfo {
        id,
        uuid: record.uuid,
        snapshot_of: some(record.snapshot_of),
        origin: some(record.origin),
        created: record.created,
        read_only: record.flags & DATASET_READ_ONLY != 0,
        held: record.flags & DATASET_HELD != 0,
        inodes: counters.inodes,
        allocated_bytes: counters.allocated_bytes,
        compression,
        dedup: Dedup::of_record(record.flags),
        quota_bytes: record.quota_bytes,
        quota_inodes: record.quota_inodes,
        reservation_bytes: record.reserved_bytes,
        name: record.name,
    })
}

/// What goes with a dataset or snapshot when it is deleted: it, then its snapshots, and what was
/// received so far of streams that are based on them.
fn doomed(tx: &Tx<'_>, name: &str, recursive: bool) -> Result<Vec<DatasetId>, DatasetError> {
    // A receive that is dropped is found too.
    let id = find(tx, name)?.ok_or_else(|| DatasetError::NotFound(name.to_owned()))?;
    let record = record_of(tx, id)?;
    if id == DatasetId::MAIN {
        return Err(DatasetError::Refused {
            name: name.to_owned(),
            reason: "every store has it",
        });
    }
    let mut doomed = vec![id];
    if record.flags & DATASET_HELD != 0 {
        return Err(DatasetError::Held(record.name));
    }
    let all = recovery::datasets(tx)?;
    for (each, record) in &all {
        if record.snapshot_of != id || record.flags & DATASET_DOOMED != 0 {
            continue;
        }
        if record.flags & DATASET_HELD != 0 && recursive {
            return Err(DatasetError::Held(record.name.clone()));
        }
        doomed.push(*each);
    }
    if doomed.len() > 1 && !recursive {
        return Err(DatasetError::HasSnapshots {
            name: name.to_owned(),
            count: doomed.len() - 1,
        });
    }
    for (each, record) in &all {
        let is_received = record.flags & (DATASET_RECEIVING | DATASET_DOOMED) == DATASET_RECEIVING;
        if is_received && doomed.contains(&record.origin) {
            doomed.push(*each);
        }
    }
    Ok(doomed)
}
