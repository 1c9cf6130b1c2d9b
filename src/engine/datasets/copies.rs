//! Snapshots and clones.

use std::sync::Arc;

use super::DatasetError;
use super::records::{
    counters_of, dataset_name, found, lineage, new_id, put_lineage, put_record, split_name,
};
use crate::engine::{EventKind, Store};
use crate::format::id::DatasetId;
use crate::format::key::TreeId;
use crate::format::record::{
    DATASET_DOOMED, DATASET_HELD, DATASET_READ_ONLY, DatasetRecord, LineageRecord, UNREACHED_KEY,
    counters_key,
};
use crate::log::{CopyAs, Tx};
use crate::store::StoreError;
use crate::store::pages::Need;
use crate::sync::atomic::Ordering;

/// What comes of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Copy {
    Snapshot,
    Clone,
}

impl Store {
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
    pub(in crate::engine) fn with_all_written<T>(
        self: &Arc<Self>,
        dataset: &str,
        act: impl FnOnce(DatasetId) -> Result<T, DatasetError>,
    ) -> Result<T, DatasetError> {
        // In use from here on, or who begins to use it now would not find the gate closed.
        let volume = self.volume(dataset)?;
        let _nothing_hidden = match volume.is_writable() {
            true => Some(volume.nothing_hidden()?),
            false => None,
        };
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
        let (copied, as_what) = match how {
            Copy::Snapshot => {
                put_snapshot(&mut tx, from, to, new)?;
                (from, CopyAs::Same)
            }
            Copy::Clone => {
                let copied = self.put_clone(&mut tx, (from, &record), to, new)?;
                (copied, CopyAs::Branch(to.0))
            }
        };
        tx.put(TreeId::Datasets, UNREACHED_KEY, [])?;
        tx.copy_tree(copied, to, as_what)?;
        self.end(tx)?;
        if how == Copy::Clone {
            let reserved = &self.data.reserved_bytes;
            reserved.fetch_add(counters.reserved_bytes, Ordering::Relaxed);
        }
        match how {
            Copy::Snapshot => self.note(EventKind::SnapshotCreated, name, None),
            Copy::Clone => self.note(EventKind::DatasetCreated, name, Some(source)),
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
            0 => (self.put_nameless(tx, from)?, tx.generation()),
            _ => (from, record.birth),
        };
        let clone = DatasetRecord {
            flags: record.flags & !(DATASET_READ_ONLY | DATASET_DOOMED | DATASET_HELD),
            origin: from,
            codec: record.codec,
            codec_level: record.codec_level,
            ..new
        };
        put_record(tx, to, &clone)?;
        put_lineage(tx, to, &LineageRecord::behind(snapshot, birth))?;
        Ok(snapshot)
    }

    /// Puts a snapshot of a dataset that has no name, and goes as a deleted one does.
    pub(super) fn put_nameless(
        &self,
        tx: &mut Tx<'_>,
        from: DatasetId,
    ) -> Result<DatasetId, StoreError> {
        let to = new_id(tx)?;
        let counters = counters_of(tx, from)?;
        tx.put(TreeId::Datasets, counters_key(to), counters.encode())?;
        let mut nameless = self.new_record(tx, to, "");
        nameless.flags = DATASET_DOOMED;
        put_snapshot(tx, from, to, nameless)?;
        tx.put(TreeId::Datasets, UNREACHED_KEY, [])?;
        tx.copy_tree(from, to, CopyAs::Same)?;
        Ok(to)
    }
}

/// Puts the records of a snapshot `to`, which comes between a dataset and what that went on from.
pub(in crate::engine) fn put_snapshot(
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
    put_lineage(tx, from, &LineageRecord::behind(to, birth))
}
