//! From which timelines the pages of a dataset's tree are.

use super::DatasetRecord;
use super::FormatError;
use crate::format::id::{DatasetId, Generation};
use crate::format::key::VALUE_MAX;

/// Of which history the pages of a dataset's tree are. Keyed by [`super::history_key`]; without it the
/// tree has pages of its own timeline only, whose number is the dataset's.
///
/// What changes a tree goes on in its timeline; a copy that is to be changed begins another. So a page,
/// which says for which timeline it was written, is of a tree's history when it is of the tree's own
/// timeline, or of one that it goes on from, and no newer than when it left that: whatever became of
/// the datasets in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRecord {
    /// The number of its timeline.
    pub timeline: u64,
    /// It has pages of timelines from before those below, none of them newer; 0 for none, and
    /// [`Until::PENDING`] for the next checkpoint.
    pub earlier: Generation,
    /// Timelines that it goes on from, the next first.
    pub past: Vec<Past>,
}

/// A timeline that a tree has pages of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    /// Its number.
    pub timeline: u64,
    /// Which pages of it the tree has.
    pub until: Until,
}

/// Up to which checkpoints a tree has pages of a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Until {
    /// The newest checkpoint of which it has any; [`Until::PENDING`] for the next one, which enters its
    /// own number.
    pub newest: Generation,
    /// The newest one of which others have none that are not its, too: what is later may be of after
    /// the timeline went on without it.
    pub sure: Generation,
}

impl Until {
    /// In the place of the newest checkpoint: that which is to come.
    pub const PENDING: Generation = Generation(u64::MAX);
    /// Every page.
    pub const ALL: Until = Until {
        newest: Generation(u64::MAX),
        sure: Generation(u64::MAX),
    };

    /// What is in both.
    #[must_use]
    pub fn and(self, other: Until) -> Self {
        Until {
            newest: self.newest.min(other.newest),
            sure: self.sure.min(other.sure),
        }
    }
}

impl HistoryRecord {
    /// As many timelines as a record can hold; of earlier ones it says less.
    pub const PAST_MAX: usize = (VALUE_MAX - 16) / 24;

    /// That of a dataset which has no record.
    #[must_use]
    pub fn of(id: DatasetId) -> Self {
        HistoryRecord {
            timeline: id.0,
            earlier: Generation(0),
            past: Vec::new(),
        }
    }

    /// Up to which checkpoints the tree of the dataset `id`, which has this history, has pages of its
    /// own timeline. What a snapshot's dataset changes is of its birth or later, which also what the
    /// snapshot itself had in memory only can be of.
    #[must_use]
    pub fn own(&self, id: DatasetId, record: &DatasetRecord) -> Until {
        let newest = record.root.generation;
        match record.snapshot_of.0 {
            0 => Until::ALL,
            _ if self.is_alone(id) => Until {
                newest,
                sure: newest,
            },
            _ => Until {
                newest,
                sure: Generation(record.birth.0.saturating_sub(1)),
            },
        }
    }

    /// Whether the timeline of a snapshot is its own and not its dataset's: so it is after a repair.
    #[must_use]
    pub fn is_alone(&self, id: DatasetId) -> bool {
        self.timeline == id.0
    }

    /// That of a copy of its tree that is to be changed, in a new timeline, when the tree has pages
    /// `until` then.
    #[must_use]
    pub fn branch(self, timeline: u64, until: Until) -> Self {
        let past = self.past.into_iter().map(|past| Past {
            until: past.until.and(until),
            ..past
        });
        let left = Past {
            timeline: self.timeline,
            until,
        };
        let mut past: Vec<Past> = std::iter::once(left).chain(past).collect();
        let too_many = past.split_off(past.len().min(Self::PAST_MAX));
        let too_many = too_many.into_iter().map(|past| past.until.newest);
        HistoryRecord {
            timeline,
            earlier: too_many.fold(self.earlier.min(until.newest), Generation::max),
            past,
        }
    }

    /// As it is to be kept while only what is no newer than `durable` is known to stay: a checkpoint
    /// that never counts is made anew, with a later number.
    #[must_use]
    pub fn pending_after(mut self, durable: Generation) -> Self {
        let newer = |past: &&mut Past| past.until.newest > durable;
        self.past
            .iter_mut()
            .filter(newer)
            .for_each(|past| past.until.newest = Until::PENDING);
        if self.earlier > durable {
            self.earlier = Until::PENDING;
        }
        self
    }

    /// Whether it waits for the checkpoint in which pages get their places.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        let mut past = self.past.iter();
        self.earlier == Until::PENDING || past.any(|past| past.until.newest == Until::PENDING)
    }

    /// Enters the number of the checkpoint in which pages get their places.
    pub fn settle(&mut self, generation: Generation) {
        let newest = self.past.iter_mut().map(|past| &mut past.until.newest);
        let all = newest.chain([&mut self.earlier]);
        all.filter(|newest| **newest == Until::PENDING)
            .for_each(|newest| *newest = generation);
    }

    /// The numbers of all its timelines.
    pub fn numbers(&self) -> impl Iterator<Item = u64> + use<'_> {
        let past = self.past.iter().map(|past| past.timeline);
        std::iter::once(self.timeline).chain(past)
    }

    /// The bytes of the record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let numbers = |past: &Past| [past.timeline, past.until.newest.0, past.until.sure.0];
        let past = self.past.iter().flat_map(numbers);
        let head = [self.timeline, self.earlier.0].into_iter();
        head.chain(past).flat_map(u64::to_le_bytes).collect()
    }

    /// Reads a record.
    ///
    /// # Errors
    /// When it has no such length.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let wrong = || FormatError::Length {
            what: "history record",
            expected: 16,
            found: bytes.len(),
        };
        let (numbers, []) = bytes.as_chunks::<8>() else {
            return Err(wrong());
        };
        let numbers: Vec<u64> = numbers.iter().map(|of| u64::from_le_bytes(*of)).collect();
        let [timeline, earlier, past @ ..] = &numbers[..] else {
            return Err(wrong());
        };
        let (past, []) = past.as_chunks::<3>() else {
            return Err(wrong());
        };
        let past = past.iter().map(|[timeline, newest, sure]| Past {
            timeline: *timeline,
            until: Until {
                newest: Generation(*newest),
                sure: Generation(*sure),
            },
        });
        Ok(HistoryRecord {
            timeline: *timeline,
            earlier: Generation(*earlier),
            past: past.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::record::Time;

    fn until(newest: u64, sure: u64) -> Until {
        Until {
            newest: Generation(newest),
            sure: Generation(sure),
        }
    }

    fn pending(sure: u64) -> Until {
        until(Until::PENDING.0, sure)
    }

    fn past_of(history: &HistoryRecord) -> Vec<(u64, Until)> {
        let past = history.past.iter();
        past.map(|past| (past.timeline, past.until)).collect()
    }

    #[test]
    fn a_record_survives_its_bytes() {
        let history = HistoryRecord::of(DatasetId(3));
        let mut history = history.branch(8, until(5, 4)).branch(9, pending(6));
        assert_eq!(past_of(&history), [(8, pending(6)), (3, until(5, 4))]);
        assert_eq!(HistoryRecord::decode(&history.encode()).unwrap(), history);
        assert!(history.is_pending());
        history.settle(Generation(12));
        assert!(!history.is_pending());
        assert_eq!(past_of(&history), [(8, until(12, 6)), (3, until(5, 4))]);
        assert_eq!(HistoryRecord::decode(&history.encode()).unwrap(), history);
        for wrong in [0, 8, 24, 47] {
            assert!(HistoryRecord::decode(&vec![0; wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_may_never_count_waits_for_what_does() {
        let history = HistoryRecord::of(DatasetId(3));
        let history = history.branch(8, until(5, 4)).branch(9, until(6, 3));
        assert_eq!(history.clone().pending_after(Generation(6)), history);
        let waits = history.pending_after(Generation(5));
        assert_eq!(past_of(&waits), [(8, pending(3)), (3, until(5, 3))]);
    }

    #[test]
    fn a_record_keeps_the_newest_timelines() {
        let mut history = HistoryRecord::of(DatasetId(3));
        for timeline in 0..100 {
            history = history.branch(timeline, until(20 + timeline, 0));
            assert!(history.encode().len() <= VALUE_MAX);
        }
        let oldest = history.past.last().map(|past| past.until.newest.0);
        let kept = HistoryRecord::PAST_MAX as u64;
        assert_eq!(oldest, Some(120 - kept));
        assert_eq!((history.timeline, history.earlier.0), (99, 119 - kept));
    }

    #[test]
    fn what_a_snapshot_was_born_with_others_may_have_changed() {
        let history = HistoryRecord::of(DatasetId(3));
        let mut record = DatasetRecord::new("name", [0; 16], Generation(8), Time::default());
        record.root.generation = Generation(9);
        assert_eq!(history.own(DatasetId(3), &record), Until::ALL);
        record.snapshot_of = DatasetId(3);
        assert_eq!(history.own(DatasetId(4), &record), until(9, 7));
        let alone = HistoryRecord::of(DatasetId(4));
        assert_eq!(alone.own(DatasetId(4), &record), until(9, 9));
    }
}
