//! Datasets, snapshots and clones: making, finding, naming and deleting them.
//!
//! A snapshot is a dataset that nobody changes, whose tree is the one that another dataset had at a
//! moment. Making one costs a few records, whatever the tree holds: the two share all pages until
//! the dataset goes on. Each tree knows the snapshot that it goes on from ([`LineageRecord`]), so
//! that what was made before it is left alone: see `reap` for how it goes.
//!
//! Invariant: an extent's record counts as one reference to its chunk, however many trees share it.
//! Of those it belongs to the oldest; the others have it at or below their lineage's boundary.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use super::store::Room;
use super::{EngineError, Store, Volume};
use crate::format::id::{DatasetId, Ino};
use crate::format::key::{self, TreeId};
use crate::format::record::{
    DATASET_DOOMED, DATASET_READ_ONLY, DatasetCounters, DatasetRecord, InodeRecord, LineageRecord,
    NEXT_DATASET_KEY, PagePtr, Time, UNREACHED_KEY, counters_key, dataset_key, dataset_name_key,
    lineage_key,
};
use crate::log::{Tx, recovery};
use crate::store::pages::Need;
use crate::store::{Read, StoreError};
use crate::sync::atomic::Ordering;

/// The longest name of a dataset in bytes, that of a snapshot with its dataset's and `@` included.
pub const DATASET_NAME_MAX: usize = 255;

/// How long a deletion waits for what the store itself does to a dataset, before it looks again.
const STORE_AT_WORK: Duration = Duration::from_millis(1);

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
    /// Somebody uses it.
    #[error("'{0}' is in use: stop its exports first")]
    Busy(String),
    /// A dataset that has snapshots.
    #[error("'{name}' has {count} snapshots: delete them first, or all of it with --recursive")]
    HasSnapshots {
        /// The dataset.
        name: String,
        /// How many.
        count: usize,
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
    /// Inodes in it.
    pub inodes: u64,
    /// Bytes of its files that take space, shared or not.
    pub allocated_bytes: u64,
}

/// A name taken apart.
fn split_name(name: &str) -> Result<(&str, Option<&str>), DatasetError> {
    let wrong = |reason| {
        let name = name.to_owned();
        Err(DatasetError::Name { name, reason })
    };
    if name.len() > DATASET_NAME_MAX {
        return wrong("it is longer than 255 bytes");
    }
    let (dataset, snapshot) = match name.split_once('@') {
        Some((dataset, snapshot)) => (dataset, Some(snapshot)),
        None => (name, None),
    };
    for part in [Some(dataset), snapshot].into_iter().flatten() {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
        if part.is_empty() {
            return wrong("a part of it is empty");
        }
        if part.starts_with(['.', '-']) {
            return wrong("it begins with '.' or '-'");
        }
        if !part.chars().all(allowed) {
            return wrong("it may have letters, digits and . _ + -, and one @ for a snapshot");
        }
    }
    Ok((dataset, snapshot))
}

fn dataset_name(name: &str) -> Result<&str, DatasetError> {
    match split_name(name)? {
        (dataset, None) => Ok(dataset),
        (_, Some(_)) => Err(DatasetError::Name {
            name: name.to_owned(),
            reason: "that is the name of a snapshot",
        }),
    }
}

/// The dataset of a name.
fn find(read: &impl Read, name: &str) -> Result<Option<DatasetId>, StoreError> {
    let id = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let found = read.get_with(TreeId::Datasets, &dataset_name_key(name), id)?;
    Ok(found.flatten().map(DatasetId))
}

pub(super) fn record_of(read: &impl Read, id: DatasetId) -> Result<DatasetRecord, StoreError> {
    read.get_with(TreeId::Datasets, &dataset_key(id), DatasetRecord::decode)?
        .ok_or_else(|| StoreError::Corrupt(format!("there is no dataset {id}")))?
        .map_err(|source| StoreError::format(format!("dataset {id}"), source))
}

/// Whether there is a dataset of this number that is not deleted.
pub(super) fn is_there(read: &impl Read, id: DatasetId) -> Result<bool, StoreError> {
    let record = read.get_with(TreeId::Datasets, &dataset_key(id), DatasetRecord::decode)?;
    let record = record
        .transpose()
        .map_err(|source| StoreError::format(format!("dataset {id}"), source))?;
    Ok(record.is_some_and(|record| record.flags & DATASET_DOOMED == 0))
}

/// The dataset or snapshot of a name, which there has to be.
pub(super) fn found(
    read: &impl Read,
    name: &str,
) -> Result<(DatasetId, DatasetRecord), DatasetError> {
    let id = find(read, name)?.ok_or_else(|| DatasetError::NotFound(name.to_owned()))?;
    Ok((id, record_of(read, id)?))
}

/// A dataset's lineage.
pub(super) fn lineage(read: &impl Read, id: DatasetId) -> Result<LineageRecord, StoreError> {
    let key = lineage_key(id);
    let found = read.get_with(TreeId::Datasets, &key, LineageRecord::decode)?;
    found
        .unwrap_or_else(|| Ok(LineageRecord::default()))
        .map_err(|source| StoreError::format(format!("lineage of dataset {id}"), source))
}

pub(super) fn put_lineage(
    tx: &mut Tx<'_>,
    id: DatasetId,
    lineage: &LineageRecord,
) -> Result<(), StoreError> {
    if *lineage == LineageRecord::default() {
        tx.delete(TreeId::Datasets, lineage_key(id))?;
        return Ok(());
    }
    tx.put(TreeId::Datasets, lineage_key(id), lineage.encode())
}

pub(super) fn put_record(
    tx: &mut Tx<'_>,
    id: DatasetId,
    record: &DatasetRecord,
) -> Result<(), StoreError> {
    tx.put(TreeId::Datasets, dataset_key(id), record.encode())
}

/// A number that no dataset ever had: file bytes in the log are those of a number.
fn new_id(tx: &mut Tx<'_>) -> Result<DatasetId, StoreError> {
    let number = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let next = tx.get_with(TreeId::Datasets, NEXT_DATASET_KEY, number)?;
    let next = next.flatten().unwrap_or(DatasetId::MAIN.0 + 1);
    let after = next.saturating_add(1);
    tx.put(TreeId::Datasets, NEXT_DATASET_KEY, after.to_le_bytes())?;
    Ok(DatasetId(next))
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
            if record.flags & DATASET_DOOMED != 0 {
                continue;
            }
            let counters = counters_of(&view, id)?;
            let some = |id: DatasetId| (id.0 != 0).then_some(id);
            all.push(DatasetInfo {
                id,
                uuid: record.uuid,
                snapshot_of: some(record.snapshot_of),
                origin: some(record.origin),
                created: record.created,
                read_only: record.flags & DATASET_READ_ONLY != 0,
                inodes: counters.inodes,
                allocated_bytes: counters.allocated_bytes,
                name: record.name,
            });
        }
        Ok(all)
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
        drop(datasets);
        if !was_there && volume.is_writable() {
            // Nobody has had any of its files open since it was used last.
            volume.reclaim_all_orphans()?;
        }
        Ok(volume)
    }

    /// Makes an empty dataset, whose root directory belongs to `uid` and `gid`. Durable on return.
    ///
    /// # Errors
    /// When the name is taken or cannot be one; when the store refuses.
    pub fn create_dataset(&self, name: &str, (uid, gid): (u32, u32)) -> Result<(), DatasetError> {
        dataset_name(name)?;
        let mut tx = self.begin_tx(Need::Space)?;
        let id = self.name_new(&mut tx, name)?;
        let now = self.now();
        let record = self.new_record(&tx, id, name);
        put_record(&mut tx, id, &record)?;
        let counters = DatasetCounters {
            next_ino: Ino::ROOT.0 + 1,
            inodes: 1,
            ..DatasetCounters::default()
        };
        tx.put(TreeId::Datasets, counters_key(id), counters.encode())?;
        let root = InodeRecord::new_root(uid, gid, 0o755, now);
        tx.put(TreeId::Fs(id), key::inode(Ino::ROOT), root.encode())?;
        self.end(tx)
    }

    /// Takes a snapshot, `name` being that of a dataset, `@`, and the snapshot's own: all that was
    /// acknowledged before is in it, and nothing of what comes after. Durable on return.
    ///
    /// # Errors
    /// When the name is taken or cannot be one; when a file's bytes cannot be written out; when the
    /// store refuses.
    pub fn snapshot(self: &Arc<Self>, name: &str) -> Result<DatasetId, DatasetError> {
        let (dataset, Some(_)) = split_name(name)? else {
            return Err(DatasetError::Name {
                name: name.to_owned(),
                reason: "a snapshot is named DATASET@SNAPSHOT",
            });
        };
        self.with_all_written(dataset, |id| self.copy((id, dataset), name, Copy::Snapshot))
    }

    /// Makes a dataset that begins as what a snapshot or another dataset is now. Durable on return.
    ///
    /// # Errors
    /// As [`Store::snapshot`].
    pub fn clone_dataset(
        self: &Arc<Self>,
        source: &str,
        name: &str,
    ) -> Result<DatasetId, DatasetError> {
        dataset_name(name)?;
        self.with_all_written(source, |id| self.copy((id, source), name, Copy::Clone))
    }

    /// Does something at a moment at which the trees hold all that was written to a dataset.
    fn with_all_written<T>(
        self: &Arc<Self>,
        dataset: &str,
        act: impl FnOnce(DatasetId) -> Result<T, DatasetError>,
    ) -> Result<T, DatasetError> {
        // In use from here on, or who begins to use it now would not find the gate closed.
        let volume = self.volume(dataset)?;
        // Most of it while others go on writing.
        volume.write_out_files()?;
        self.throttle()?;
        let _gate = volume.dataset.gate.write();
        volume.write_out_files()?;
        act(volume.dataset.id)
    }

    fn copy(
        &self,
        (from, source): (DatasetId, &str),
        name: &str,
        how: Copy,
    ) -> Result<DatasetId, DatasetError> {
        let mut tx = self.begin_tx(Need::Space)?;
        let (named, record) = found(&tx, source)?;
        if named != from {
            // It was renamed meanwhile, and the name given to another.
            return Err(DatasetError::NotFound(source.to_owned()));
        }
        if how == Copy::Snapshot && record.snapshot_of.0 != 0 {
            return Err(DatasetError::Refused {
                name: source.to_owned(),
                reason: "it is a snapshot itself",
            });
        }
        let to = self.name_new(&mut tx, name)?;
        let counters = counters_of(&tx, from)?;
        tx.put(TreeId::Datasets, counters_key(to), counters.encode())?;
        let new = self.new_record(&tx, to, name);
        let copied = match how {
            Copy::Snapshot => {
                put_snapshot(&mut tx, from, to, new)?;
                from
            }
            Copy::Clone => self.put_clone(&mut tx, (from, &record), to, new)?,
        };
        tx.put(TreeId::Datasets, UNREACHED_KEY, [])?;
        tx.copy_tree(copied, to)?;
        self.end(tx)?;
        if how == Copy::Clone {
            let reserved = &self.data.reserved_bytes;
            reserved.fetch_add(counters.reserved_bytes, Ordering::Relaxed);
        }
        Ok(to)
    }

    /// Puts the records of a clone; whose tree it gets. A clone of a dataset is one of a snapshot
    /// that nobody sees.
    fn put_clone(
        &self,
        tx: &mut Tx<'_>,
        (from, record): (DatasetId, &DatasetRecord),
        to: DatasetId,
        new: DatasetRecord,
    ) -> Result<DatasetId, StoreError> {
        let (snapshot, birth) = match record.snapshot_of.0 {
            0 => {
                let hidden = new_id(tx)?;
                let counters = counters_of(tx, from)?;
                tx.put(TreeId::Datasets, counters_key(hidden), counters.encode())?;
                let mut nameless = self.new_record(tx, hidden, "");
                nameless.flags = DATASET_DOOMED;
                put_snapshot(tx, from, hidden, nameless)?;
                tx.copy_tree(from, hidden)?;
                (hidden, tx.generation())
            }
            _ => (from, record.birth),
        };
        let clone = DatasetRecord {
            flags: record.flags & !(DATASET_READ_ONLY | DATASET_DOOMED),
            origin: from,
            codec: record.codec,
            codec_level: record.codec_level,
            ..new
        };
        put_record(tx, to, &clone)?;
        let lineage = LineageRecord {
            prev: snapshot,
            prev_birth: birth,
            shared: LineageRecord::PENDING,
            ..LineageRecord::default()
        };
        put_lineage(tx, to, &lineage)?;
        Ok(snapshot)
    }

    /// Gives a dataset or a snapshot another name; snapshots go with their dataset.
    ///
    /// # Errors
    /// When the name is taken or cannot be one; when the store refuses.
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
        let mut tx = self.begin_tx(Need::Space)?;
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
        for (id, name) in renamed {
            if name.len() > DATASET_NAME_MAX {
                let reason = "with its snapshot's it is longer than 255 bytes";
                return Err(DatasetError::Name { name, reason });
            }
            if find(&tx, &name)?.is_some() {
                return Err(DatasetError::Exists(name));
            }
            let mut record = record_of(&tx, id)?;
            tx.delete(TreeId::Datasets, dataset_name_key(&record.name))?;
            tx.put(
                TreeId::Datasets,
                dataset_name_key(&name),
                id.0.to_le_bytes(),
            )?;
            record.name = name;
            put_record(&mut tx, id, &record)?;
        }
        self.end(tx)
    }

    /// Deletes a dataset that nobody uses and that has no snapshots (or with them, if `recursive`),
    /// or a snapshot. Its name is free on return, and the deletion durable; its space comes back
    /// bit by bit.
    ///
    /// # Errors
    /// When there is none of that name, or it is in use or has snapshots; when the store refuses.
    pub fn delete(&self, name: &str, recursive: bool) -> Result<(), DatasetError> {
        let mut room = Room::default();
        loop {
            // With no lock held: a checkpoint asks which datasets are in use.
            self.make_room(&mut room)?;
            // Nobody begins to use it meanwhile.
            let mut datasets = self.datasets.write();
            let Some(mut tx) = self.try_begin(Need::Reclaim, &mut room)? else {
                continue;
            };
            let doomed = doomed(&tx, name, recursive)?;
            let in_use = || doomed.iter().filter_map(|id| datasets.get(id));
            if let Some(busy) = in_use().find(|dataset| dataset.has_users()) {
                return Err(DatasetError::Busy(record_of(&tx, busy.id)?.name));
            }
            if in_use().any(|dataset| Arc::strong_count(dataset) > 1) {
                // The store itself is about it: what it writes out must not come behind the end.
                drop((tx, datasets));
                std::thread::sleep(STORE_AT_WORK);
                continue;
            }
            let mut reserved = 0;
            for id in &doomed {
                reserved += reserved_bytes(&tx, *id)?;
                let mut record = record_of(&tx, *id)?;
                tx.delete(TreeId::Datasets, dataset_name_key(&record.name))?;
                record.flags |= DATASET_DOOMED | DATASET_READ_ONLY;
                record.name = String::new();
                put_record(&mut tx, *id, &record)?;
            }
            tx.put(TreeId::Datasets, UNREACHED_KEY, [])?;
            self.end(tx)?;
            self.data
                .reserved_bytes
                .fetch_sub(reserved, Ordering::Relaxed);
            for id in doomed {
                if let Some(dataset) = datasets.remove(&id) {
                    self.forget_unwritten(&dataset);
                }
            }
            self.background.reap();
            return Ok(());
        }
    }

    /// Commits a transaction and waits until it is durable.
    pub(super) fn end(&self, tx: Tx<'_>) -> Result<(), DatasetError> {
        let lsn = tx.commit()?;
        Ok(self.journal.sync(lsn)?)
    }

    /// Enters a new name; the number of what will have it.
    fn name_new(&self, tx: &mut Tx<'_>, name: &str) -> Result<DatasetId, DatasetError> {
        if find(tx, name)?.is_some() {
            return Err(DatasetError::Exists(name.to_owned()));
        }
        let id = new_id(tx)?;
        tx.put(TreeId::Datasets, dataset_name_key(name), id.0.to_le_bytes())?;
        Ok(id)
    }

    fn new_record(&self, tx: &Tx<'_>, id: DatasetId, name: &str) -> DatasetRecord {
        DatasetRecord {
            root: PagePtr::EMPTY,
            flags: 0,
            quota_bytes: 0,
            quota_inodes: 0,
            reserved_bytes: 0,
            origin: DatasetId(0),
            snapshot_of: DatasetId(0),
            birth: tx.generation(),
            created: self.now(),
            uuid: self.uuid_of(id),
            codec: 0,
            codec_level: 0,
            name: name.to_owned(),
        }
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

/// What goes with a dataset or snapshot when it is deleted: it, then its snapshots.
fn doomed(tx: &Tx<'_>, name: &str, recursive: bool) -> Result<Vec<DatasetId>, DatasetError> {
    let (id, _) = found(tx, name)?;
    if id == DatasetId::MAIN {
        return Err(DatasetError::Refused {
            name: name.to_owned(),
            reason: "every store has it",
        });
    }
    let mut doomed = vec![id];
    let snapshots = recovery::datasets(tx)?.into_iter();
    let snapshots = snapshots
        .filter(|(_, record)| record.snapshot_of == id && record.flags & DATASET_DOOMED == 0);
    doomed.extend(snapshots.map(|(id, _)| id));
    if doomed.len() > 1 && !recursive {
        return Err(DatasetError::HasSnapshots {
            name: name.to_owned(),
            count: doomed.len() - 1,
        });
    }
    Ok(doomed)
}

/// Puts the records of a snapshot `to`, which comes between a dataset and what that went on from.
fn put_snapshot(
    tx: &mut Tx<'_>,
    from: DatasetId,
    to: DatasetId,
    new: DatasetRecord,
) -> Result<(), StoreError> {
    let birth = tx.generation();
    let record = DatasetRecord {
        flags: new.flags | DATASET_READ_ONLY,
        snapshot_of: from,
        birth,
        ..new
    };
    put_record(tx, to, &record)?;
    let before = lineage(tx, from)?;
    put_lineage(tx, to, &before)?;
    let lineage = LineageRecord {
        prev: to,
        prev_birth: birth,
        shared: LineageRecord::PENDING,
        ..LineageRecord::default()
    };
    put_lineage(tx, from, &lineage)
}

/// What comes of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Copy {
    Snapshot,
    Clone,
}

fn counters_of(read: &impl Read, id: DatasetId) -> Result<DatasetCounters, StoreError> {
    let key = counters_key(id);
    read.get_with(TreeId::Datasets, &key, DatasetCounters::decode)?
        .ok_or_else(|| StoreError::Corrupt(format!("dataset {id} has no counters; run razorfsck")))?
        .map_err(|source| StoreError::format(format!("counters of dataset {id}"), source))
}

/// Bytes for which a dataset will take space when they are written to: none of one that nobody
/// changes.
pub(super) fn reserved_bytes(read: &impl Read, id: DatasetId) -> Result<u64, StoreError> {
    if record_of(read, id)?.flags & (DATASET_READ_ONLY | DATASET_DOOMED) != 0 {
        return Ok(0);
    }
    Ok(counters_of(read, id)?.reserved_bytes)
}

/// The same of all datasets.
pub(super) fn all_reserved_bytes(read: &impl Read) -> Result<u64, StoreError> {
    let mut sum = 0u64;
    for (id, _) in recovery::datasets(read)? {
        sum = sum.saturating_add(reserved_bytes(read, id)?);
    }
    Ok(sum)
}

/// All lineages there are.
pub(super) fn lineages(read: &impl Read) -> Result<Vec<(DatasetId, LineageRecord)>, StoreError> {
    let mut found = Vec::new();
    let (start, end) = (lineage_key(DatasetId(0)), lineage_key(DatasetId(u64::MAX)));
    read.scan(TreeId::Datasets, &start, &end, &mut |key, value| {
        found.push((key::trailing_u64(key), LineageRecord::decode(value)));
        ControlFlow::Continue(())
    })?;
    let what = "lineage record";
    found
        .into_iter()
        .map(|(id, record)| {
            let id = id.map_err(|source| StoreError::format(what, source))?;
            let record = record.map_err(|source| StoreError::format(what, source))?;
            Ok((DatasetId(id), record))
        })
        .collect()
}
