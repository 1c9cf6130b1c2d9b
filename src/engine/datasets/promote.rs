//! Snapshots that are held, and clones that take over those they came from.

use super::records::{dataset_name, found, lineage, put_record, record_of, split_name};
use super::{DATASET_NAME_MAX, DatasetError, find};
use crate::engine::{EventKind, Store};
use crate::format::id::DatasetId;
use crate::format::key::TreeId;
use crate::format::record::{DATASET_HELD, DatasetRecord, dataset_name_key};
use crate::log::Tx;
use crate::store::StoreError;
use crate::store::pages::Need;

impl Store {
    /// Holds a snapshot: until it is released neither it nor its dataset can be deleted. Durable on
    /// return; nothing happens if it is held.
    ///
    /// # Errors
    /// When there is no such snapshot; when the store refuses.
    pub fn hold(&self, snapshot: &str) -> Result<(), DatasetError> {
        self.set_held(snapshot, DATASET_HELD)
    }

    /// Releases a snapshot that is held. Durable on return; nothing happens if it is not.
    ///
    /// # Errors
    /// As [`Store::hold`].
    pub fn release(&self, snapshot: &str) -> Result<(), DatasetError> {
        self.set_held(snapshot, 0)
    }

    fn set_held(&self, snapshot: &str, held: u32) -> Result<(), DatasetError> {
        let (_, Some(_)) = split_name(snapshot)? else {
            return Err(DatasetError::Name {
                name: snapshot.to_owned(),
                reason: "only a snapshot is held: DATASET@SNAPSHOT",
            });
        };
        let mut tx = self.begin_tx(Need::Reclaim)?;
        let (id, mut record) = found(&tx, snapshot)?;
        record.flags = record.flags & !DATASET_HELD | held;
        put_record(&mut tx, id, &record)?;
        self.end(tx)
    }

    /// Gives a clone the snapshots that it and the dataset it was cloned from have in common; from
    /// then on that dataset counts as a clone of it. Nothing else changes. Durable on return.
    ///
    /// # Errors
    /// When it is no clone, or has a snapshot of the same name as one that it would get; when the
    /// store refuses.
    pub fn promote(&self, clone: &str) -> Result<(), DatasetError> {
        dataset_name(clone)?;
        let mut tx = self.begin_tx(Need::Space)?;
        let (id, mut record) = found(&tx, clone)?;
        let common = common(&tx, id)?;
        let Some(origin) = common.first().map(|(_, newest)| newest.snapshot_of) else {
            return Err(DatasetError::Refused {
                name: clone.to_owned(),
                reason: "it is no clone of a dataset that has its snapshots",
            });
        };
        let from = goes_on_from(&tx, origin, &common)?;
        for (each, snapshot) in common {
            give(&mut tx, (each, snapshot), (id, clone))?;
        }
        let mut origin_record = record_of(&tx, origin)?;
        record.origin = std::mem::replace(&mut origin_record.origin, from);
        put_record(&mut tx, origin, &origin_record)?;
        put_record(&mut tx, id, &record)?;
        self.end(tx)?;
        self.note(EventKind::DatasetPromoted, clone, None);
        Ok(())
    }
}

/// The snapshots that a clone has in common with the dataset it came from, the newest first; none
/// when none has a name. Those without one go with the others.
fn common(tx: &Tx<'_>, clone: DatasetId) -> Result<Vec<(DatasetId, DatasetRecord)>, DatasetError> {
    let mut origin = None;
    let mut common = Vec::new();
    let mut next = lineage(tx, clone)?.prev;
    while next.0 != 0 {
        let record = record_of(tx, next)?;
        let of = record.snapshot_of;
        if of != clone {
            if *origin.get_or_insert(of) != of {
                break;
            }
            common.push((next, record));
        }
        next = lineage(tx, next)?.prev;
    }
    if common.iter().all(|(_, record)| record.name.is_empty()) {
        common.clear();
    }
    Ok(common)
}

/// The newest of some snapshots with a name that a dataset goes on from: not the newest of all, where
/// an older one was restored.
fn goes_on_from(
    tx: &Tx<'_>,
    dataset: DatasetId,
    snapshots: &[(DatasetId, DatasetRecord)],
) -> Result<DatasetId, StoreError> {
    let mut next = lineage(tx, dataset)?.prev;
    let is_named = |id: DatasetId| {
        let mut named = snapshots
            .iter()
            .filter(|(_, record)| !record.name.is_empty());
        named.any(|(each, _)| *each == id)
    };
    while next.0 != 0 && !is_named(next) {
        next = lineage(tx, next)?.prev;
    }
    Ok(next)
}

/// Makes a snapshot that of another dataset.
fn give(
    tx: &mut Tx<'_>,
    (id, mut snapshot): (DatasetId, DatasetRecord),
    (to, to_name): (DatasetId, &str),
) -> Result<(), DatasetError> {
    snapshot.snapshot_of = to;
    if let Some((_, own)) = snapshot.name.split_once('@') {
        let name = format!("{to_name}@{own}");
        rename(tx, id, &mut snapshot, name)?;
    }
    Ok(put_record(tx, id, &snapshot)?)
}

/// Enters a new name of a dataset or snapshot, of which the record is still to be put.
pub(super) fn rename(
    tx: &mut Tx<'_>,
    id: DatasetId,
    record: &mut DatasetRecord,
    name: String,
) -> Result<(), DatasetError> {
    if name.len() > DATASET_NAME_MAX {
        let reason = "with its snapshot's it is longer than 255 bytes";
        return Err(DatasetError::Name { name, reason });
    }
    if find(tx, &name)?.is_some() {
        return Err(DatasetError::Exists(name));
    }
    tx.delete(TreeId::Datasets, dataset_name_key(&record.name))?;
    let number = id.0.to_le_bytes();
    tx.put(TreeId::Datasets, dataset_name_key(&name), number)?;
    record.name = name;
    Ok(())
}
