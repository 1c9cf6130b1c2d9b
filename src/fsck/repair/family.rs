//! Of which history the pages of each tree are.
//!
//! A page says for which timeline it was written, and when. A tree has pages of its own timeline, and
//! of those that it goes on from up to when it left them ([`HistoryRecord`]); a snapshot, which is not
//! changed, none that is newer than its root. So what two trees may have in common ends where they
//! part: later, the same numbers are other inodes.

use std::collections::{BTreeMap, HashMap};

use super::load::{dataset_of, history_of};
use crate::format::id::{DatasetId, Generation};
use crate::format::page::TreeTag;
use crate::format::record::{
    DatasetRecord, HistoryRecord, NEXT_DATASET_KEY, Past, REPAIRED_KEY, Until,
};

/// The histories of all trees.
#[derive(Default)]
pub(super) struct Family {
    histories: BTreeMap<DatasetId, HistoryRecord>,
    /// Snapshots, which are not changed.
    snapshots: BTreeMap<DatasetId, DatasetRecord>,
    /// The last repair: no page from before it is part of any tree.
    pub(super) repaired: Generation,
    /// There never was another dataset than the main one.
    pub(super) is_one: bool,
    /// There were so many timelines that a tag may be that of several.
    pub(super) is_ambiguous: bool,
}

/// The timelines that pages of a tree may be of, its own first.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) timelines: Vec<Past>,
    /// The newest generation of pages of all that are not known any more.
    pub(super) earlier: Generation,
    /// It is a snapshot's, which may have what its dataset had replaced before it was written.
    pub(super) is_snapshot: bool,
}

impl Family {
    /// From the records of the dataset tree.
    pub(super) fn of(records: &[(Vec<u8>, Vec<u8>)]) -> Self {
        let histories = records
            .iter()
            .filter_map(|(key, value)| history_of(key, value));
        let snapshots = records.iter().filter_map(|(key, value)| {
            let (id, record) = (dataset_of(key)?, DatasetRecord::decode(value).ok()?);
            (record.snapshot_of.0 != 0).then_some((id, record))
        });
        let number = |of: &[u8]| {
            let found = records.iter().find(|(key, _)| key == of);
            found.and_then(|(_, value)| Some(u64::from_le_bytes(value.as_slice().try_into().ok()?)))
        };
        let next = number(NEXT_DATASET_KEY);
        Family {
            histories: histories.collect(),
            snapshots: snapshots.collect(),
            repaired: Generation(number(REPAIRED_KEY).unwrap_or(0)),
            is_one: next.is_none(),
            is_ambiguous: next.is_some_and(|next| next > TreeTag::TIMELINES),
        }
    }

    /// Adds a history that is not known.
    pub(super) fn learn(&mut self, id: DatasetId, history: HistoryRecord) {
        self.histories.entry(id).or_insert(history);
    }

    /// The line of a tree.
    pub(super) fn line(&self, id: DatasetId) -> Line {
        let known = self.histories.get(&id).cloned();
        let history = known.unwrap_or_else(|| HistoryRecord::of(id));
        let own = Past {
            timeline: history.timeline,
            until: Until::ALL,
        };
        let snapshot = self.snapshots.get(&id);
        let until = snapshot.map_or(Until::ALL, |record| history.own(id, record));
        let is_snapshot = snapshot.is_some() && !history.is_alone(id);
        let timelines = std::iter::once(own).chain(history.past);
        Line {
            timelines: timelines
                .map(|past| Past {
                    until: past.until.and(until),
                    ..past
                })
                .collect(),
            earlier: history.earlier,
            is_snapshot,
        }
    }

    /// Puts each tree behind those it goes on from.
    pub(super) fn sort<T>(&self, trees: &mut [T], id: impl Fn(&T) -> DatasetId) {
        trees.sort_by_cached_key(|tree| {
            let id = id(tree);
            let Line { timelines, .. } = self.line(id);
            let until = timelines.first().map(|own| own.until.newest);
            let oldest = timelines.last().map(|oldest| oldest.timeline);
            (oldest, timelines.len(), until, id)
        });
    }

    /// Up to which generation two trees may have pages in common. `None` when they were never one.
    pub(super) fn common(&self, one: &Line, other: DatasetId) -> Option<Generation> {
        let other = self.line(other).timelines.into_iter();
        let other = other.map(|of| (of.timeline, of.until.newest));
        let other: HashMap<u64, Generation> = other.collect();
        let both = one.timelines.iter();
        both.filter_map(|of| Some(*other.get(&of.timeline)?.min(&of.until.newest)))
            .max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::record::Time;

    /// A dataset, its timeline, and what it goes on from.
    type History<'a> = (u64, u64, &'a [(u64, u64)]);

    fn until(newest: u64) -> Until {
        Until {
            newest: Generation(newest),
            sure: Generation(newest),
        }
    }

    fn family() -> Family {
        let history = |(id, timeline, past): &History<'_>| {
            let past = past.iter().map(|(timeline, newest)| Past {
                timeline: *timeline,
                until: until(*newest),
            });
            let history = HistoryRecord {
                timeline: *timeline,
                earlier: Generation(0),
                past: past.collect(),
            };
            (DatasetId(*id), history)
        };
        // Dataset 1 went back to its snapshot 3, from before its snapshot 4, and was 9 since. 5 is a
        // clone of 4, and 7 one of its snapshot 6; 8 is a stranger.
        let histories: [History<'_>; 6] = [
            (1, 9, &[(1, 20)]),
            (3, 1, &[]),
            (4, 1, &[]),
            (5, 5, &[(1, 30)]),
            (6, 5, &[(1, 30)]),
            (7, 7, &[(5, 40), (1, 30)]),
        ];
        let snapshot = |(id, newest)| {
            let birth = Generation(newest + 1);
            let mut record = DatasetRecord::new("name", [0; 16], birth, Time::default());
            (record.snapshot_of, record.root.generation) = (DatasetId(1), Generation(newest));
            (DatasetId(id), record)
        };
        let snapshots = [(3, 20), (4, 30), (6, 40)];
        Family {
            histories: histories.iter().map(history).collect(),
            snapshots: snapshots.map(snapshot).into(),
            repaired: Generation(0),
            is_one: false,
            is_ambiguous: false,
        }
    }

    #[test]
    fn what_others_go_on_from_comes_before_them() {
        let mut ids = [1, 3, 4, 5, 6, 7, 8].map(DatasetId);
        family().sort(&mut ids, |id| *id);
        assert_eq!(ids.map(|id| id.0), [3, 4, 6, 1, 5, 7, 8]);
    }

    #[test]
    fn what_two_trees_have_in_common_ends_where_they_part() {
        let family = family();
        let common = |one, other| {
            let line = family.line(DatasetId(one));
            family.common(&line, DatasetId(other)).map(|until| until.0)
        };
        for (one, other, until) in [(1, 3, 20), (1, 4, 20), (1, 5, 20), (5, 4, 30), (5, 6, 40)] {
            assert_eq!(common(one, other), Some(until), "{one} {other}");
            assert_eq!(common(other, one), Some(until), "{other} {one}");
        }
        assert_eq!(common(7, 6), Some(40));
        assert_eq!(common(7, 1), Some(20));
        assert_eq!(common(7, 8), None);
        assert_eq!(common(7, 7), Some(u64::MAX));
    }
}
