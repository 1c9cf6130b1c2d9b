//! Datasets: records, names, counters.

use std::collections::BTreeMap;

use super::inodes::Table;
use super::{Bytes, Context, Issue, Issues, walk_all};
use crate::format::id::DatasetId;
use crate::format::key::TreeId;
use crate::format::record::{
    DatasetCounters, DatasetRecord, SCRUB_KEY, ScrubRecord, UNITS_USED_KEY,
};

/// A dataset and what its counters say.
pub(super) struct Dataset {
    pub(super) id: DatasetId,
    pub(super) record: DatasetRecord,
    pub(super) counters: Option<DatasetCounters>,
}

/// All datasets.
pub(super) struct Datasets {
    pub(super) found: Vec<Dataset>,
    pub(super) has_snapshots: bool,
    /// Units of chunks.dat that are not free, as recorded.
    pub(super) units_used: u64,
    pub(super) complete: bool,
}

const TREE: TreeId = TreeId::Datasets;

/// Reads the dataset tree and checks it within itself.
pub(super) fn load(context: &Context<'_>, issues: &mut Issues<'_>) -> Datasets {
    let mut found: BTreeMap<DatasetId, Dataset> = BTreeMap::new();
    let mut names: Vec<(Vec<u8>, DatasetId)> = Vec::new();
    let mut units_used = 0;
    let complete = walk_all(context, TREE, issues, &mut |issues, key, value| {
        let unknown = || Issue::UnknownKey {
            tree: TREE,
            key: Bytes(key.to_vec()),
        };
        let id = match key {
            [1 | 2, id @ ..] => id.try_into().ok().map(u64::from_be_bytes).map(DatasetId),
            _ => None,
        };
        match (key, id) {
            ([1, ..], Some(id)) => match DatasetRecord::decode(value) {
                Ok(record) => {
                    let counters = None;
                    found.insert(
                        id,
                        Dataset {
                            id,
                            record,
                            counters,
                        },
                    );
                }
                Err(error) => issues.bad_record(TREE, format!("dataset {id}"), &error),
            },
            ([2, ..], Some(id)) => match (DatasetCounters::decode(value), found.get_mut(&id)) {
                (Ok(counters), Some(dataset)) => dataset.counters = Some(counters),
                (Ok(_), None) => issues.add(Issue::CountersStray(id)),
                (Err(error), _) => {
                    issues.bad_record(TREE, format!("counters of dataset {id}"), &error);
                }
            },
            ([3, name @ ..], _) => match value.try_into().map(u64::from_le_bytes) {
                Ok(id) => names.push((name.to_vec(), DatasetId(id))),
                Err(_) => issues.add(unknown()),
            },
            _ if key == SCRUB_KEY => {
                if let Err(error) = ScrubRecord::decode(value) {
                    issues.bad_record(TREE, "the scrub's position", &error);
                }
            }
            _ => match value.try_into().map(u64::from_le_bytes) {
                Ok(units) if key == UNITS_USED_KEY => units_used = units,
                _ => issues.add(unknown()),
            },
        }
    });
    if complete {
        check_names(&found, &names, issues);
    }
    issues.summary.datasets = found.len() as u64;
    Datasets {
        has_snapshots: found
            .values()
            .any(|dataset| dataset.record.snapshot_of.0 != 0 || dataset.record.origin.0 != 0),
        found: found.into_values().collect(),
        units_used,
        complete,
    }
}

fn check_names(
    found: &BTreeMap<DatasetId, Dataset>,
    names: &[(Vec<u8>, DatasetId)],
    issues: &mut Issues<'_>,
) {
    if !found.contains_key(&DatasetId::MAIN) {
        issues.add(Issue::DatasetMissing(DatasetId::MAIN));
    }
    for (name, id) in names {
        let right = found
            .get(id)
            .is_some_and(|dataset| dataset.record.name.as_bytes() == name);
        if !right {
            issues.add(Issue::DatasetNameStray {
                name: Bytes(name.clone()),
                id: *id,
            });
        }
    }
    for dataset in found.values() {
        let (id, name) = (dataset.id, &dataset.record.name);
        let listed = names
            .iter()
            .any(|(each, to)| each == name.as_bytes() && *to == id);
        if !listed {
            issues.add(Issue::DatasetName {
                dataset: id,
                name: name.clone(),
            });
        }
        if dataset.counters.is_none() {
            issues.add(Issue::CountersMissing(id));
        }
    }
}

/// Compares a dataset's counters with its inodes.
pub(super) fn check_counters(dataset: &Dataset, table: &Table, issues: &mut Issues<'_>) {
    let Some(counters) = &dataset.counters else {
        return;
    };
    let id = dataset.id;
    let pairs = [
        ("inodes", table.inodes.len() as u64, counters.inodes),
        (
            "bytes in extents",
            table.allocated,
            counters.allocated_bytes,
        ),
        (
            "bytes in reserved extents",
            table.reserved,
            counters.reserved_bytes,
        ),
    ];
    for (what, found, recorded) in pairs {
        if found != recorded {
            issues.add(Issue::Counter {
                dataset: id,
                what,
                found,
                recorded,
            });
        }
    }
    if let Some(last) = table.inodes.last()
        && last.ino.0 >= counters.next_ino
    {
        issues.add(Issue::NextInode {
            dataset: id,
            next: counters.next_ino,
            largest: last.ino,
        });
    }
}
