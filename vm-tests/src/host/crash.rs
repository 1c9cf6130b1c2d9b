//! What a power cut may leave on a disk whose writes and flushes are known.
//!
//! What was written before the last completed flush is there, and so is what was written with FUA.
//! Of the other writes each is there, or not, or in some of its 512-byte sectors, independently:
//! where two overlap, the older one may be what is left, as if the disk had done them in the other
//! order.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::disk_log::Entry;
use crate::guest::{Error, Result};
use crate::poweroff::Images;

const SECTOR_BYTES: usize = 512;
const AREA_BYTES: u64 = 1 << 20;

/// What is on an image of the writes that were not flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// There are none.
    Flushed,
    /// Each whole or not at all.
    Subset,
    /// Some in part.
    Torn,
}

impl Kind {
    /// One image of this kind.
    #[must_use]
    pub fn count(self) -> Images {
        let mut images = Images::default();
        match self {
            Kind::Flushed => images.flushed = 1,
            Kind::Subset => images.subset = 1,
            Kind::Torn => images.torn = 1,
        }
        images
    }
}

/// One power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Entries of the log before it.
    pub at: usize,
    /// How many of these are durable; with FUA also some behind them.
    pub durable: usize,
    /// What is left of the others.
    pub kind: Kind,
    /// Decides it.
    seed: u64,
}

/// How many of some entries are durable for a flush among them.
fn durable(entries: &[Entry]) -> usize {
    let last = entries.iter().rposition(Entry::flushes);
    last.map_or(0, |index| {
        // A write with a flush is behind it.
        let written = entries.get(index).is_some_and(|entry| entry.len > 0);
        index + usize::from(!written)
    })
}

/// Chooses power cuts behind the first `from` entries, in order: a third right after flushes.
pub fn choose(entries: &[Entry], from: usize, count: usize, rng: &mut ChaCha8Rng) -> Vec<Cut> {
    let cut = |at: usize, kind, rng: &mut ChaCha8Rng| Cut {
        at,
        durable: durable(entries.get(..at).unwrap_or_default()),
        kind,
        seed: rng.random(),
    };
    let behind = || entries.iter().enumerate().skip(from);
    let flushes = behind().filter(|(_, entry)| entry.flushes() && entry.len == 0);
    let flushes = flushes.choose_multiple(rng, count / 3);
    let mut cuts: Vec<Cut> = flushes
        .into_iter()
        .map(|(index, _)| cut(index + 1, Kind::Flushed, rng))
        .collect();
    // Behind a write something is not flushed; many images may be of one point. Every other point
    // is of any area: most writes are to few of them, and what is written seldom, as by
    // checkpoints, would hardly ever have its turn.
    let mut areas: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    let writes = behind().filter(|(_, entry)| entry.len > 0 && !entry.is_durable());
    let mut all = Vec::new();
    for (index, entry) in writes {
        let area = areas.entry(entry.offset / AREA_BYTES).or_default();
        area.push(index + 1);
        all.push(index + 1);
    }
    while cuts.len() < count {
        let area = areas.values().choose(rng).filter(|_| rng.random());
        let Some(at) = area.unwrap_or(&all).choose(rng) else {
            break;
        };
        let kind = if rng.random() {
            Kind::Subset
        } else {
            Kind::Torn
        };
        cuts.push(cut(*at, kind, rng));
    }
    cuts.sort_by_key(|cut| cut.at);
    cuts
}

impl Cut {
    /// What is left of the entries from `durable` on: for each the parts of it that are there, as
    /// ranges of its bytes.
    fn left<'a>(&self, entries: &'a [Entry]) -> Vec<(&'a Entry, Vec<std::ops::Range<usize>>)> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        // From a disk that had written nearly everything to one that had nearly nothing.
        let odds = [0.1, 0.5, 0.9].choose(&mut rng).copied().unwrap_or(0.5);
        let pending = entries.get(self.durable..self.at).unwrap_or_default();
        let writes = pending.iter().filter(|entry| entry.len > 0);
        writes
            .map(|entry| {
                let len = usize::try_from(entry.len).unwrap_or(0);
                let torn = self.kind == Kind::Torn && rng.random_bool(0.5);
                let unit = if torn { SECTOR_BYTES } else { len };
                let units = (0..len).step_by(unit.max(1));
                let there = units.filter(|_| rng.random_bool(odds) || entry.is_durable());
                (entry, there.map(|at| at..(at + unit).min(len)).collect())
            })
            .collect()
    }

    /// Puts what is left of the entries from `durable` on onto a disk that has the ones before.
    ///
    /// # Errors
    /// When files cannot be read or written.
    pub fn apply(&self, entries: &[Entry], log: &File, disk: &File) -> Result<()> {
        for (entry, parts) in self.left(entries) {
            let bytes = entry.read(log)?;
            for part in parts {
                let offset = entry.offset + part.start as u64;
                let part = bytes.get(part).unwrap_or_default();
                disk.write_all_at(part, offset)
                    .map_err(|error| Error::new("rebuilding a disk", error))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> Vec<Entry> {
        [
            Entry::of("write", 0, 4096),
            Entry::of("flush", 0, 0),
            Entry::of("write", 0, 4096),
            Entry::of("write", 0, 8192),
            Entry::of("fua", 4096, 4096),
            Entry::of("write", 0, 1024),
        ]
        .to_vec()
    }

    #[test]
    fn a_flush_makes_durable_what_is_before_it() {
        let mut log = log();
        assert_eq!(durable(&log), 2);
        assert_eq!(durable(&log[..2]), 2);
        assert_eq!(durable(&log[..1]), 0);
        log.push(Entry::of("flush", 0, 512));
        assert_eq!(durable(&log), 6);
    }

    #[test]
    fn cuts_are_of_all_kinds_and_as_many_as_asked_for() {
        let log = log();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let cuts = choose(&log, 1, 40, &mut rng);
        assert_eq!(cuts.len(), 40);
        assert!(cuts.is_sorted_by_key(|cut| cut.durable));
        for kind in [Kind::Flushed, Kind::Subset, Kind::Torn] {
            assert!(cuts.iter().any(|cut| cut.kind == kind));
        }
        for cut in &cuts {
            assert_eq!(cut.kind == Kind::Flushed, cut.at == cut.durable, "{cut:?}");
        }
        assert!(choose(&log, 6, 40, &mut rng).is_empty());
    }

    #[test]
    fn what_was_not_flushed_is_left_whole_or_not_or_torn_and_fua_always() {
        let log = log();
        let (mut whole, mut gone, mut torn) = (0, 0, 0);
        for seed in 0..200 {
            let kind = [Kind::Subset, Kind::Torn][usize::from(seed % 2 == 1)];
            let cut = Cut {
                at: 6,
                durable: 2,
                kind,
                seed,
            };
            let left = cut.left(&log);
            assert_eq!(left.len(), 4);
            for (entry, parts) in left {
                let bytes: usize = parts.iter().map(std::ops::Range::len).sum();
                if entry.is_durable() || bytes as u64 == entry.len {
                    assert_eq!(bytes as u64, entry.len);
                    whole += 1;
                } else if bytes == 0 {
                    gone += 1;
                } else {
                    assert_eq!(kind, Kind::Torn);
                    assert!(parts.iter().all(|part| part.start % SECTOR_BYTES == 0));
                    torn += 1;
                }
            }
        }
        assert!(whole > 50 && gone > 50 && torn > 50);
    }

    #[test]
    fn an_older_write_can_be_what_is_left() {
        let log = log();
        let older_alone = (0..100).any(|seed| {
            let cut = Cut {
                at: 4,
                durable: 2,
                kind: Kind::Subset,
                seed,
            };
            let left = cut.left(&log);
            !left[0].1.is_empty() && left[1].1.is_empty()
        });
        assert!(older_alone);
    }
}
