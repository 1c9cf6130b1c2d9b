//! Datasets: records, names, counters.

use std::collections::BTreeMap;

use super::inodes::Table;
use super::{Bytes, Context, Issue, Issues, walk_all};
use crate::format::id::{DatasetId, Generation};
use crate::format::key::TreeId;
use crate::format::record::{
    DATASET_DOOMED, DATASET_READ_ONLY, DatasetCounters, DatasetRecord, HISTORY_KIND, HistoryRecord,
    LINEAGE_KIND, LineageRecord, NEXT_DATASET_KEY, RECEIVE_KIND, REPAIRED_KEY, ReceiveRecord,
    SCRUB_KEY, ScrubRecord, UNITS_PUNCHED_KEY, UNITS_USED_KEY, UNREACHED_KEY, Until, WEAR_KEY,
    WearRecord,
};

/// A dataset and what its counters say.
pub(super) struct Dataset {
    pub(super) id: DatasetId,
    pub(super) record: DatasetRecord,
    pub(super) counters: Option<DatasetCounters>,
    pub(super) lineage: LineageRecord,
}

/// All datasets.
pub(super) struct Datasets {
    pub(super) found: Vec<Dataset>,
    /// Units of chunks.dat that are not free, as recorded.
    pub(super) units_used: u64,
    /// Of them, in punched ranges.
    pub(super) units_punched: u64,
    pub(super) complete: bool,
}

const TREE: TreeId = TreeId::Datasets;

/// Reads the dataset tree and checks it within itself.
pub(super) fn load(context: &Context<'_>, issues: &mut Issues<'_>) -> Datasets {
    let mut found: BTreeMap<DatasetId, Dataset> = BTreeMap::new();
    let mut names: Vec<(Vec<u8>, DatasetId)> = Vec::new();
    let mut histories = Vec::new();
    let (mut units_used, mut units_punched) = (0, 0);
    let mut next = DatasetId::MAIN.0 + 1;
    let complete = walk_all(context, TREE, issues, &mut |issues, key, value| {
        let unknown = || Issue::UnknownKey {
            tree: TREE,
            key: Bytes(key.to_vec()),
        };
        let id = match key {
            [1 | 2 | LINEAGE_KIND | RECEIVE_KIND | HISTORY_KIND, id @ ..] => {
                id.try_into().ok().map(u64::from_be_bytes).map(DatasetId)
            }
            _ => None,
        };
        match (key, id) {
            ([1, ..], Some(id)) => match DatasetRecord::decode(value) {
                Ok(record) => {
                    let dataset = Dataset {
                        id,
                        record,
                        counters: None,
                        lineage: LineageRecord::default(),
                    };
                    found.insert(id, dataset);
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
            ([LINEAGE_KIND, ..], Some(id)) => {
                match (LineageRecord::decode(value), found.get_mut(&id)) {
                    (Ok(lineage), Some(dataset)) => dataset.lineage = lineage,
                    (Ok(_), None) => issues.add(Issue::LineageStray(id)),
                    (Err(error), _) => {
                        issues.bad_record(TREE, format!("lineage of dataset {id}"), &error);
                    }
                }
            }
            ([RECEIVE_KIND, ..], Some(id)) => match ReceiveRecord::decode(value) {
                Ok(_) if found.contains_key(&id) => {}
                Ok(_) => issues.add(unknown()),
                Err(error) => {
                    issues.bad_record(TREE, format!("receive into dataset {id}"), &error);
                }
            },
            ([HISTORY_KIND, ..], Some(id)) => match HistoryRecord::decode(value) {
                Ok(history) if found.contains_key(&id) => histories.push((id, history)),
                Ok(_) => issues.add(unknown()),
                Err(error) => {
                    issues.bad_record(TREE, format!("history of dataset {id}"), &error);
                }
            },
            _ if key == UNREACHED_KEY && value.is_empty() => {}
            _ if key == SCRUB_KEY => {
                if let Err(error) = ScrubRecord::decode(value) {
                    issues.bad_record(TREE, "the scrub's position", &error);
                }
            }
            _ if key == WEAR_KEY => {
                if let Err(error) = WearRecord::decode(value) {
                    issues.bad_record(TREE, "what was written", &error);
                }
            }
            _ => match value.try_into().map(u64::from_le_bytes) {
                Ok(units) if key == UNITS_USED_KEY => units_used = units,
                Ok(units) if key == UNITS_PUNCHED_KEY => units_punched = units,
                Ok(number) if key == NEXT_DATASET_KEY => next = number,
                Ok(_) if key == REPAIRED_KEY => {}
                _ => issues.add(unknown()),
            },
        }
    });
    if complete {
        check_names(&found, &names, issues);
        check_lineages(&found, next, issues);
        check_histories(context, &histories, next, issues);
    }
    issues.summary.datasets = found.len() as u64;
    Datasets {
        found: found.into_values().collect(),
        units_used,
        units_punched,
        complete,
    }
}

impl Datasets {
    /// The newest checkpoint in which an extent may have been born.
    pub(super) fn newest_birth(&self, context: &Context<'_>) -> u64 {
        let births = self.found.iter().map(|dataset| dataset.record.birth.0);
        // Each snapshot begins a new one.
        let newest = births.max().unwrap_or(0).saturating_add(1);
        newest.max(context.newest_generation())
    }
}

/// What trees share is known by their lineages alone.
fn check_lineages(found: &BTreeMap<DatasetId, Dataset>, next: u64, issues: &mut Issues<'_>) {
    for dataset in found.values() {
        let (id, lineage) = (dataset.id, &dataset.lineage);
        let prev = found.get(&lineage.prev);
        let is_part_gone = dataset.record.flags & DATASET_DOOMED != 0;
        let reason = if id.0 >= next && id != DatasetId::MAIN {
            "its number would be given to another"
        } else if lineage.prev.0 != 0 && prev.is_none() {
            "the snapshot it goes on from is not there"
        } else if prev.is_some_and(|prev| prev.record.flags & DATASET_READ_ONLY == 0) {
            "what it goes on from is no snapshot"
        } else if prev.is_some_and(|prev| prev.record.birth != lineage.prev_birth) {
            "the snapshot it goes on from was taken at another time"
        } else if lineage.below == LineageRecord::PENDING && !is_part_gone {
            "a part of it is gone, and it was not deleted"
        } else {
            continue;
        };
        issues.add(Issue::Lineage {
            dataset: id,
            reason,
        });
    }
}

/// What a tree goes on from is what repairs find lost pages by.
fn check_histories(
    context: &Context<'_>,
    histories: &[(DatasetId, HistoryRecord)],
    next: u64,
    issues: &mut Issues<'_>,
) {
    let newest = context.newest_generation();
    let is_new = |of: Generation| of.0 > newest && of != Until::PENDING;
    for (id, history) in histories {
        let mut until = history.past.iter().map(|past| past.until.newest);
        let last = history.numbers().fold(0, u64::max);
        let reason = if last >= next.max(DatasetId::MAIN.0 + 1) {
            "the number of a timeline would be given to another"
        } else if history.is_pending() && !context.has_log {
            "it waits for a checkpoint that was made"
        } else if is_new(history.earlier) || until.any(is_new) {
            "it has pages of checkpoints that were not made"
        } else {
            continue;
        };
        issues.add(Issue::History {
            dataset: *id,
            reason,
        });
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
        let is_doomed = dataset.record.flags & DATASET_DOOMED != 0;
        if listed == (is_doomed && name.is_empty()) {
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
