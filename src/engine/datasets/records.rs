//! Names and records of datasets: how they are read and put.

use std::ops::ControlFlow;

use super::{DATASET_NAME_MAX, DatasetError};
use crate::engine::data::kept_bytes;
use crate::format::id::DatasetId;
use crate::format::key::{self, TreeId};
use crate::format::record::{
    DATASET_DOOMED, DATASET_READ_ONLY, DATASET_RECEIVING, DatasetCounters, DatasetRecord,
    LineageRecord, NEXT_DATASET_KEY, counters_key, dataset_key, dataset_name_key, lineage_key,
};
use crate::log::{Tx, recovery};
use crate::store::{Read, StoreError};

/// A name taken apart: that of a dataset, and of a snapshot its own.
///
/// # Errors
/// When it cannot be a name.
pub fn split_name(name: &str) -> Result<(&str, Option<&str>), DatasetError> {
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

pub(in crate::engine) fn dataset_name(name: &str) -> Result<&str, DatasetError> {
    match split_name(name)? {
        (dataset, None) => Ok(dataset),
        (_, Some(_)) => Err(DatasetError::Name {
            name: name.to_owned(),
            reason: "that is the name of a snapshot",
        }),
    }
}

/// The dataset of a name.
pub(in crate::engine) fn find(
    read: &impl Read,
    name: &str,
) -> Result<Option<DatasetId>, StoreError> {
    let found = read.get_u64(TreeId::Datasets, &dataset_name_key(name))?;
    Ok(found.map(DatasetId))
}

pub(in crate::engine) fn record_of(
    read: &impl Read,
    id: DatasetId,
) -> Result<DatasetRecord, StoreError> {
    read.get_with(TreeId::Datasets, &dataset_key(id), DatasetRecord::decode)?
        .ok_or_else(|| StoreError::Corrupt(format!("there is no dataset {id}")))?
        .map_err(|source| StoreError::format(format!("dataset {id}"), source))
}

/// Whether there is a dataset of this number that is not deleted.
pub(in crate::engine) fn is_there(read: &impl Read, id: DatasetId) -> Result<bool, StoreError> {
    Ok(undeleted(read, id)?.is_some())
}

/// The dataset or snapshot of this number, unless it is deleted.
pub(in crate::engine) fn undeleted(
    read: &impl Read,
    id: DatasetId,
) -> Result<Option<DatasetRecord>, StoreError> {
    let record = read.get_with(TreeId::Datasets, &dataset_key(id), DatasetRecord::decode)?;
    let record = record
        .transpose()
        .map_err(|source| StoreError::format(format!("dataset {id}"), source))?;
    Ok(record.filter(|record| record.flags & DATASET_DOOMED == 0))
}

/// The dataset or snapshot of a name, which there has to be. What is being received has a name that
/// is for the store alone.
pub(in crate::engine) fn found(
    read: &impl Read,
    name: &str,
) -> Result<(DatasetId, DatasetRecord), DatasetError> {
    let id = find(read, name)?.ok_or_else(|| DatasetError::NotFound(name.to_owned()))?;
    let record = record_of(read, id)?;
    match record.flags & DATASET_RECEIVING {
        0 => Ok((id, record)),
        _ => Err(DatasetError::NotFound(name.to_owned())),
    }
}

/// A dataset's lineage.
pub(in crate::engine) fn lineage(
    read: &impl Read,
    id: DatasetId,
) -> Result<LineageRecord, StoreError> {
    let key = lineage_key(id);
    let found = read.get_with(TreeId::Datasets, &key, LineageRecord::decode)?;
    found
        .unwrap_or_else(|| Ok(LineageRecord::default()))
        .map_err(|source| StoreError::format(format!("lineage of dataset {id}"), source))
}

pub(in crate::engine) fn put_lineage(
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

pub(in crate::engine) fn put_record(
    tx: &mut Tx<'_>,
    id: DatasetId,
    record: &DatasetRecord,
) -> Result<(), StoreError> {
    tx.put(TreeId::Datasets, dataset_key(id), record.encode())
}

/// A number that no dataset ever had: file bytes in the log are those of a number.
pub(in crate::engine) fn new_id(tx: &mut Tx<'_>) -> Result<DatasetId, StoreError> {
    let next = tx.get_u64(TreeId::Datasets, NEXT_DATASET_KEY)?;
    let next = next.unwrap_or(DatasetId::MAIN.0 + 1);
    let after = next.saturating_add(1);
    tx.put(TreeId::Datasets, NEXT_DATASET_KEY, after.to_le_bytes())?;
    Ok(DatasetId(next))
}

pub(in crate::engine) fn counters_of(
    read: &impl Read,
    id: DatasetId,
) -> Result<DatasetCounters, StoreError> {
    let key = counters_key(id);
    read.get_with(TreeId::Datasets, &key, DatasetCounters::decode)?
        .ok_or_else(|| StoreError::Corrupt(format!("dataset {id} has no counters; run razorfsck")))?
        .map_err(|source| StoreError::format(format!("counters of dataset {id}"), source))
}

/// Bytes for which a dataset will take space when they are written to: none of one that nobody
/// changes.
pub(in crate::engine) fn reserved_bytes(
    read: &impl Read,
    id: DatasetId,
) -> Result<u64, StoreError> {
    reserved_by(read, id, &record_of(read, id)?)
}

fn reserved_by(read: &impl Read, id: DatasetId, record: &DatasetRecord) -> Result<u64, StoreError> {
    if record.flags & (DATASET_READ_ONLY | DATASET_DOOMED) != 0 {
        return Ok(0);
    }
    Ok(counters_of(read, id)?.reserved_bytes)
}

/// The same of all datasets.
pub(in crate::engine) fn all_reserved_bytes(read: &impl Read) -> Result<u64, StoreError> {
    let mut sum = 0u64;
    for (id, record) in recovery::datasets(read)? {
        sum = sum.saturating_add(reserved_by(read, id, &record)?);
    }
    Ok(sum)
}

/// Bytes that are kept for a dataset with nothing unwritten, because of its reservation.
pub(in crate::engine) fn kept_of(
    read: &impl Read,
    id: DatasetId,
    record: &DatasetRecord,
) -> Result<u64, StoreError> {
    if record.reserved_bytes == 0 || record.flags & DATASET_DOOMED != 0 {
        return Ok(0);
    }
    let used = counters_of(read, id)?.allocated_bytes;
    Ok(kept_bytes(record.reserved_bytes, used))
}

/// The same of all datasets.
pub(in crate::engine) fn all_kept_bytes(read: &impl Read) -> Result<u64, StoreError> {
    let mut sum = 0u64;
    for (id, record) in recovery::datasets(read)? {
        sum = sum.saturating_add(kept_of(read, id, &record)?);
    }
    Ok(sum)
}

/// All lineages there are.
pub(in crate::engine) fn lineages(
    read: &impl Read,
) -> Result<Vec<(DatasetId, LineageRecord)>, StoreError> {
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
