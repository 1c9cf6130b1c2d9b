//! The dataset tree: records, names, counters.

use super::Fixes;
use super::build::Builder;
use super::inodes::Inodes;
use super::load::history_of;
use crate::format::id::DatasetId;
use crate::format::key::{Key, TreeId, trailing_u64};
use crate::format::record::{
    DatasetCounters, DatasetRecord, HISTORY_KIND, LINEAGE_KIND, NEXT_DATASET_KEY, RECEIVE_KIND,
    REPAIRED_KEY, SCRUB_KEY, UNITS_PUNCHED_KEY, UNITS_USED_KEY, UNREACHED_KEY, WEAR_KEY,
    counters_key, dataset_key, dataset_name_key,
};
use crate::store::StoreError;

const TREE: TreeId = TreeId::Datasets;

/// The datasets there are. What is not theirs is dropped.
pub(super) fn check(
    builder: &mut Builder,
    fixes: &mut Fixes<'_>,
) -> Result<Vec<DatasetId>, StoreError> {
    let view = builder.view();
    let mut found = Vec::new();
    let mut known = vec![Key::from_slice(UNITS_USED_KEY), Key::from_slice(WEAR_KEY)];
    let mut others = Vec::new();
    let mut shared = Vec::new();
    // Numbers that were given away: those of datasets, and of timelines.
    let (mut next, mut last) = (0, 0);
    view.scan_all(TREE, &mut |key, value| {
        let id = trailing_u64(key).map(DatasetId).ok();
        match (
            id.filter(|id| *key == *dataset_key(*id)),
            DatasetRecord::decode(value),
        ) {
            (Some(id), Ok(record)) => {
                known.extend([
                    Key::from_slice(key),
                    counters_key(id),
                    dataset_name_key(&record.name),
                ]);
                found.push((id, dataset_name_key(&record.name)));
            }
            // What is repaired is to be read again from the beginning. A receive cannot go on in a tree
            // that may have changed. And what is punched is counted anew.
            _ if key == SCRUB_KEY || key == UNITS_PUNCHED_KEY || is_of(RECEIVE_KIND, key) => {
                builder.delete(TREE, key)?;
            }
            // Of new trees that share pages.
            _ if key == UNREACHED_KEY || key == REPAIRED_KEY => {}
            _ if is_of(LINEAGE_KIND, key) || is_of(HISTORY_KIND, key) => {
                let history = history_of(key, value);
                let numbers = history.iter().flat_map(|(_, history)| history.numbers());
                last = numbers.fold(last, u64::max);
                shared.extend(id.map(|id| (id, Key::from_slice(key))));
            }
            _ if key == NEXT_DATASET_KEY => {
                next = <[u8; 8]>::try_from(value).map_or(0, u64::from_le_bytes);
            }
            _ => others.push(Key::from_slice(key)),
        }
        Ok(())
    })?;
    for key in others.into_iter().filter(|key| !known.contains(key)) {
        let what = format!("the key {}", key.escape_ascii());
        fixes.dropped(TREE, what, "it is no dataset's");
        builder.delete(TREE, &key)?;
    }
    shared.retain(|(id, _)| !found.iter().any(|(known, _)| known == id));
    for (_, of_none) in shared {
        builder.delete(TREE, &of_none)?;
    }
    for (id, name) in &found {
        builder.put(TREE, name, &id.0.to_le_bytes())?;
    }
    let last = found.iter().map(|(id, _)| id.0).fold(last, u64::max);
    if last >= next.max(DatasetId::MAIN.0 + 1) {
        let next = last.saturating_add(1);
        builder.put(TREE, NEXT_DATASET_KEY, &next.to_le_bytes())?;
    }
    Ok(found.into_iter().map(|(id, _)| id).collect())
}

pub(super) fn is_of(kind: u8, key: &[u8]) -> bool {
    key.first() == Some(&kind) && key.len() == 9
}

/// The next inode number of a dataset, as recorded.
pub(super) fn next_ino(builder: &Builder, id: DatasetId) -> Result<u64, StoreError> {
    let value = builder.view().get(TREE, &counters_key(id))?;
    let counters = value.and_then(|value| DatasetCounters::decode(&value).ok());
    Ok(counters.map_or(0, |counters| counters.next_ino))
}

/// Enters what was counted.
pub(super) fn set_counters(
    builder: &mut Builder,
    id: DatasetId,
    inodes: &Inodes,
    next_ino: u64,
) -> Result<(), StoreError> {
    let counters = DatasetCounters {
        next_ino,
        inodes: inodes.table.len() as u64,
        allocated_bytes: inodes.allocated,
        reserved_bytes: inodes.reserved,
    };
    builder.put(TREE, &counters_key(id), &counters.encode())
}
