//! File bytes that no chunk holds yet.
//!
//! Invariants: runs are disjoint, do not touch within a window, and never cross a multiple of
//! [`CHUNK_MAX`], so that a run becomes one chunk and whole windows become equal chunks wherever
//! they stand. A run's buffer is shared with whoever writes it out; changing it then makes a copy,
//! so that the buffer's identity tells whether what was written out is still what is here. What the
//! log holds is a part of what the runs hold.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::disk::buffer::Buffer;
use crate::format::id::Lsn;
use crate::format::record::CHUNK_MAX;
use crate::format::superblock::UNIT_BYTES;
use crate::ranges::RangeSet;

pub(super) const WINDOW: u64 = CHUNK_MAX as u64;

/// Bytes in one piece.
#[derive(Debug, Clone)]
pub struct Run {
    /// The bytes.
    pub data: Arc<Buffer>,
    /// Offsets in the file between which bytes are not in the log: the smallest range with all.
    unlogged: Option<(u64, u64)>,
}

/// The unwritten bytes of a file.
#[derive(Debug, Default)]
pub struct DirtyMap {
    runs: BTreeMap<u64, Run>,
    bytes: u64,
    /// Units of chunks.dat that writing everything out takes.
    units: u64,
    /// Bytes that the log holds, as they are or as they were, and no chunk.
    logged: RangeSet,
    /// The oldest end of a transaction in the log that the next checkpoint may not let go of.
    logged_since: Option<Lsn>,
    /// Whether a checkpoint has carried some of them over.
    carried: bool,
    /// Bytes that stand in no extent yet, where they are noted.
    unallocated: RangeSet,
    /// Runs that fill a window.
    full: u64,
    /// Runs with bytes that are not in the log.
    unlogged: u64,
    /// Where the last write ended, and the bytes of the writes in order that it was the last of.
    stream: (u64, u64),
}

/// What a map is worth in the sums over all maps.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weight {
    /// Bytes held.
    pub bytes: u64,
    /// Memory taken, roughly: many small runs cost more than their bytes.
    pub memory: u64,
    /// Units of chunks.dat that writing everything out takes.
    pub units: u64,
    /// Bytes of log that carrying over what it holds takes, at most.
    pub log: u64,
}

/// Bytes that writes in order may be apart: several are on their way at once.
const STREAM_GAP_BYTES: u64 = 2 << 20;
/// Bytes written in order, and windows left behind, from which they are written out at once.
const STREAM_MIN_BYTES: u64 = 4 << 20;

/// Memory that a run takes beside its bytes, roughly.
const RUN_OVERHEAD_BYTES: u64 = 256;
/// Memory that a range of bytes that is noted takes, roughly.
const RANGE_MEMORY_BYTES: u64 = 64;
/// Log that a range of bytes takes beside them, at most; and a transaction with some.
const RANGE_LOG_BYTES: u64 = 64;

fn log_bytes(bytes: u64, ranges: u64) -> u64 {
    if ranges == 0 {
        return 0;
    }
    // Windows cut ranges.
    let pieces = ranges + bytes / WINDOW + 1;
    bytes + (pieces + 1) * RANGE_LOG_BYTES
}

fn units_of(run: &Run) -> u64 {
    len_of(run).div_ceil(u64::from(UNIT_BYTES))
}

fn len_of(run: &Run) -> u64 {
    run.data.len() as u64
}

/// Whether it fills a window: writing in order, nobody comes back to it.
pub fn is_full(run: &Run) -> bool {
    len_of(run) == WINDOW
}

/// A length within one window.
fn small(len: u64) -> usize {
    usize::try_from(len).unwrap_or(CHUNK_MAX as usize)
}

fn hull(a: Option<(u64, u64)>, b: Option<(u64, u64)>) -> Option<(u64, u64)> {
    match (a, b) {
        (Some((a0, a1)), Some((b0, b1))) => Some((a0.min(b0), a1.max(b1))),
        (one, None) => one,
        (None, other) => other,
    }
}

/// Cuts `offset..offset + len` at the windows' boundaries.
pub fn windows(offset: u64, len: u64) -> impl Iterator<Item = Range<u64>> {
    let end = offset.saturating_add(len);
    let mut at = offset;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let next = (at / WINDOW + 1).saturating_mul(WINDOW).min(end);
        let range = at..next;
        at = next;
        Some(range)
    })
}

/// Bytes that begin at `offset`, cut at the windows' boundaries.
pub fn cut(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, Buffer)> {
    let mut rest = bytes;
    windows(offset, rest.len() as u64).map(move |window| {
        let size = small(window.end - window.start).min(rest.len());
        let (part, behind) = rest.split_at(size);
        rest = behind;
        (window.start, Buffer::from(part))
    })
}

impl DirtyMap {
    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// What it adds to the sums over all maps.
    #[must_use]
    pub fn weight(&self) -> Weight {
        Weight {
            bytes: self.bytes,
            memory: self.units * u64::from(UNIT_BYTES)
                + self.runs.len() as u64 * RUN_OVERHEAD_BYTES
                + self.unallocated.count() * RANGE_MEMORY_BYTES,
            units: self.units,
            log: log_bytes(self.logged.len(), self.logged.count()),
        }
    }

    fn put(&mut self, start: u64, run: Run) {
        self.bytes += len_of(&run);
        self.units += units_of(&run);
        self.full += u64::from(is_full(&run));
        self.unlogged += u64::from(run.unlogged.is_some());
        self.runs.insert(start, run);
    }

    fn take(&mut self, start: u64) -> Option<Run> {
        let run = self.runs.remove(&start)?;
        self.bytes -= len_of(&run);
        self.units -= units_of(&run);
        self.full -= u64::from(is_full(&run));
        self.unlogged -= u64::from(run.unlogged.is_some());
        Some(run)
    }

    /// Whether there are bytes that neither chunk nor log holds.
    #[must_use]
    pub fn has_unlogged(&self) -> bool {
        self.unlogged > 0
    }

    /// Bytes that neither chunk nor log holds.
    #[must_use]
    pub fn unlogged_bytes(&self) -> u64 {
        self.runs
            .values()
            .filter_map(|run| run.unlogged)
            .map(|(start, end)| end - start)
            .sum()
    }

    /// Log that [`DirtyMap::unlogged`] takes, at most.
    #[must_use]
    pub fn unlogged_log_bytes(&self) -> u64 {
        log_bytes(self.unlogged_bytes(), self.runs.len() as u64)
    }

    /// Whether the log holds bytes that no chunk does, from before `end`.
    #[must_use]
    pub fn is_logged_before(&self, end: Lsn) -> bool {
        self.logged_since.is_some_and(|since| since <= end)
    }

    /// Whether the log holds bytes that a checkpoint has carried over already.
    #[must_use]
    pub fn was_carried(&self) -> bool {
        self.carried
    }

    /// Whether the log holds bytes that no chunk does.
    #[must_use]
    pub fn has_logged(&self) -> bool {
        !self.logged.is_empty()
    }

    /// Whether the log holds any byte of `start..end` that no chunk does.
    #[must_use]
    pub fn is_logged(&self, start: u64, end: u64) -> bool {
        self.logged.overlaps(start, end)
    }

    /// Notes a write; whether it is one of many in order that have left much behind them.
    pub fn note_write(&mut self, offset: u64, len: u64) -> bool {
        let (end, bytes) = self.stream;
        let before = match offset.abs_diff(end) <= STREAM_GAP_BYTES {
            true => bytes,
            false => 0,
        };
        self.stream = (offset.saturating_add(len), before.saturating_add(len));
        self.stream.1 >= STREAM_MIN_BYTES && self.full * WINDOW >= STREAM_MIN_BYTES
    }

    /// Whether any byte of `start..end` is held.
    #[must_use]
    pub fn overlaps(&self, start: u64, end: u64) -> bool {
        self.at(start).is_some() || self.next_start(start).is_some_and(|next| next < end)
    }

    /// The runs, by offset.
    pub fn runs(&self) -> impl Iterator<Item = (u64, &Run)> {
        self.runs.iter().map(|(start, run)| (*start, run))
    }

    /// The run that holds byte `offset`.
    #[must_use]
    pub fn at(&self, offset: u64) -> Option<(u64, &Run)> {
        let (start, run) = self.runs.range(..=offset).next_back()?;
        (offset < start + len_of(run)).then_some((*start, run))
    }

    /// Where the first run at or behind `offset` begins.
    #[must_use]
    pub fn next_start(&self, offset: u64) -> Option<u64> {
        self.runs.range(offset..).next().map(|(start, _)| *start)
    }

    /// Puts in bytes that the log holds, and that lie within one window.
    pub fn insert_logged(&mut self, offset: u64, bytes: Buffer) {
        self.logged.insert(offset, offset + bytes.len() as u64);
        self.logged_since = Some(Lsn(0));
        self.enter(offset, bytes, None);
    }

    /// Puts in bytes that lie within one window, over what is there.
    pub fn insert(&mut self, offset: u64, bytes: Buffer) {
        let end = offset + bytes.len() as u64;
        self.enter(offset, bytes, Some((offset, end)));
    }

    fn enter(&mut self, offset: u64, bytes: Buffer, unlogged: Option<(u64, u64)>) {
        let end = offset + bytes.len() as u64;
        debug_assert!(windows(offset, bytes.len() as u64).count() == 1);
        let window = offset / WINDOW * WINDOW;
        // Neighbours in the window join, so that bytes which belong together become one chunk.
        let before = self.runs.range(..offset).next_back();
        let mut touching: Vec<u64> = before
            .into_iter()
            .filter(|(start, run)| **start >= window && **start + len_of(run) >= offset)
            .map(|(start, _)| *start)
            .collect();
        let behind = offset..=end.min(window.saturating_add(WINDOW - 1));
        touching.extend(self.runs.range(behind).map(|(start, _)| *start));
        if let [start] = *touching
            && start <= offset
            && let Some(mut run) = self.take(start)
        {
            overwrite(Arc::make_mut(&mut run.data), small(offset - start), &bytes);
            run.unlogged = hull(run.unlogged, unlogged);
            self.put(start, run);
            return;
        }
        let mut first = offset;
        let mut joined = Run {
            data: Arc::default(),
            unlogged,
        };
        let mut data = Buffer::new();
        let mut last = end;
        touching.retain(|start| {
            first = first.min(*start);
            self.runs.get(start).is_some_and(|run| {
                last = last.max(start + len_of(run));
                true
            })
        });
        if touching.is_empty() {
            data = bytes;
        } else {
            data.resize(small(last - first));
            for start in touching {
                if let Some(run) = self.take(start) {
                    overwrite(&mut data, small(start - first), &run.data);
                    joined.unlogged = hull(joined.unlogged, run.unlogged);
                }
            }
            overwrite(&mut data, small(offset - first), &bytes);
        }
        joined.data = Arc::new(data);
        self.put(first, joined);
    }

    /// Drops the bytes in `start..end`.
    pub fn remove(&mut self, start: u64, end: u64) {
        let first = self.at(start).map_or(start, |(first, _)| first);
        let touched: Vec<u64> = self.runs.range(first..end).map(|(at, _)| *at).collect();
        for at in touched {
            let Some(run) = self.take(at) else { continue };
            let run_end = at + len_of(&run);
            self.keep(&run, at, at..start.clamp(at, run_end));
            self.keep(&run, at, end.clamp(at, run_end)..run_end);
        }
        self.log_cleared(start, end);
        self.unallocated.remove(start, end);
    }

    /// Puts back a part of a run that began at `at`.
    fn keep(&mut self, run: &Run, at: u64, part: Range<u64>) {
        let range = small(part.start - at)..small(part.end - at);
        let Some(bytes) = run.data.get(range).filter(|bytes| !bytes.is_empty()) else {
            return;
        };
        let unlogged = run.unlogged.and_then(|(start, end)| {
            let cut = (start.max(part.start), end.min(part.end));
            (cut.0 < cut.1).then_some(cut)
        });
        let data = Arc::new(Buffer::from(bytes));
        self.put(part.start, Run { data, unlogged });
    }

    /// The bytes that the log does not hold yet: offset and bytes.
    #[must_use]
    pub fn unlogged(&self) -> Vec<(u64, &[u8])> {
        let mut pieces = Vec::new();
        for (at, run) in &self.runs {
            if let Some((start, end)) = run.unlogged
                && let Some(bytes) = run.data.get(small(start - at)..small(end - at))
            {
                pieces.push((start, bytes));
            }
        }
        pieces
    }

    /// Notes that the log holds everything, the latest in a transaction that ends at `lsn`.
    pub fn set_logged(&mut self, lsn: Lsn) {
        for run in self.runs.values_mut() {
            if let Some((start, end)) = run.unlogged.take() {
                self.logged.insert(start, end);
            }
        }
        self.unlogged = 0;
        if self.has_logged() {
            self.logged_since.get_or_insert(lsn);
        }
    }

    /// The bytes that the log holds, as they are now, in pieces that lie within one window each.
    #[must_use]
    pub fn logged(&self) -> Vec<(u64, &[u8])> {
        let parts = self.logged.iter();
        parts
            .flat_map(|(start, end)| windows(start, end - start))
            .filter_map(|part| {
                let (start, run) = self.at(part.start)?;
                let range = small(part.start - start)..small(part.end - start);
                Some((part.start, run.data.get(range)?))
            })
            .collect()
    }

    /// Notes that the log holds them again, in a transaction that ends at `lsn`.
    pub fn set_carried(&mut self, lsn: Lsn) {
        self.logged_since = Some(lsn);
        self.carried = true;
    }

    /// Notes that what the log holds of `start..end` no longer counts.
    pub fn log_cleared(&mut self, start: u64, end: u64) {
        self.logged.remove(start, end);
        if self.logged.is_empty() {
            self.logged_since = None;
            self.carried = false;
        }
    }

    /// Notes ranges of bytes that stand in no extent.
    pub fn note_unallocated(&mut self, holes: &[(u64, u64)]) {
        for (start, end) in holes {
            self.unallocated.insert(*start, *end);
        }
    }

    /// Notes that all of `start..end` stands in extents.
    pub fn allocated(&mut self, start: u64, end: u64) {
        self.unallocated.remove(start, end);
    }

    /// Bytes that stand in no extent, as far as that was noted.
    #[must_use]
    pub fn unallocated_bytes(&self) -> u64 {
        self.unallocated.len()
    }

    /// Those of them in `start..end`.
    #[must_use]
    pub fn unallocated_in(&self, start: u64, end: u64) -> u64 {
        self.unallocated.len_in(start, end)
    }

    /// Whether the run at `start` still is what was captured.
    #[must_use]
    pub fn is_unchanged(&self, start: u64, data: &Arc<Buffer>) -> bool {
        self.runs
            .get(&start)
            .is_some_and(|run| Arc::ptr_eq(&run.data, data))
    }

    /// Lets go of a run that a chunk holds now.
    pub fn written(&mut self, start: u64) {
        self.take(start);
    }
}

/// Puts `bytes` at `at`, growing the buffer.
fn overwrite(data: &mut Buffer, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    let inside = data.len().min(end).saturating_sub(at);
    let (over, behind) = bytes.split_at(inside);
    if let Some(target) = data.get_mut(at..at + inside) {
        target.copy_from_slice(over);
    }
    data.extend_from_slice(behind);
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn filled(value: u8, len: usize) -> Buffer {
        Buffer::from(&*vec![value; len])
    }

    fn check(map: &DirtyMap, model: &[Option<u8>]) {
        let mut seen = vec![None; model.len()];
        let mut previous_end = None;
        let mut sum = 0;
        for (start, run) in map.runs() {
            let end = start + len_of(run);
            assert_eq!(start / WINDOW, (end - 1) / WINDOW, "a run crosses a window");
            if let Some(previous) = previous_end {
                assert!(
                    start > previous || start % WINDOW == 0,
                    "runs touch or overlap"
                );
            }
            previous_end = Some(end);
            sum += len_of(run);
            for (index, byte) in run.data.iter().enumerate() {
                seen[usize::try_from(start).unwrap() + index] = Some(*byte);
            }
        }
        assert_eq!(sum, map.bytes());
        let full = map.runs().filter(|(_, run)| is_full(run)).count();
        assert_eq!(full as u64, map.full);
        assert_eq!(map.has_unlogged(), map.unlogged_bytes() > 0);
        for (start, end) in map.logged.iter() {
            let range = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
            assert!(!model[range].contains(&None), "logged, but not held");
        }
        for (start, bytes) in map.logged() {
            let start = usize::try_from(start).unwrap();
            let held = model[start..start + bytes.len()].iter().copied();
            assert!(held.eq(bytes.iter().copied().map(Some)));
        }
        assert_eq!(map.weight().log == 0, !map.has_logged());
        assert!(seen == model, "contents differ");
    }

    #[test]
    fn agrees_with_a_model() {
        for seed in 0..40 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut map = DirtyMap::default();
            let mut model = vec![None; 400_000];
            for _ in 0..120 {
                let offset = rng.random_range(0..390_000u64);
                let longest = if rng.random() { 9_000 } else { 200 };
                let len = rng.random_range(1..=longest);
                let range =
                    usize::try_from(offset).unwrap()..usize::try_from(offset + len).unwrap();
                let value = rng.random();
                if rng.random_bool(0.7) {
                    for part in windows(offset, len) {
                        let bytes = filled(value, small(part.end - part.start));
                        if rng.random_bool(0.2) {
                            map.insert_logged(part.start, bytes);
                        } else {
                            map.insert(part.start, bytes);
                        }
                    }
                    model[range].fill(Some(value));
                } else {
                    map.remove(offset, offset + len);
                    model[range].fill(None);
                }
                check(&map, &model);
            }
        }
    }

    #[test]
    fn logs_each_byte_once_when_appending() {
        let mut map = DirtyMap::default();
        for step in 0..10u64 {
            map.insert(step * 100, filled(1, 100));
            let pieces = map.unlogged();
            assert_eq!(pieces.len(), 1);
            assert_eq!((pieces[0].0, pieces[0].1.len()), (step * 100, 100));
            map.set_logged(Lsn(step + 1));
        }
        assert!(map.is_logged_before(Lsn(1)) && !map.is_logged_before(Lsn(0)));
        assert_eq!(map.unlogged_bytes(), 0);
        assert!(map.has_logged());
    }

    #[test]
    fn only_many_writes_in_order_are_a_stream() {
        const PART: u64 = 64 << 10;
        let write = |map: &mut DirtyMap, offset: u64| {
            let bytes = Buffer::zeroed(small(PART));
            map.insert(offset, bytes);
            map.note_write(offset, PART)
        };
        let mut map = DirtyMap::default();
        let parts = STREAM_MIN_BYTES / PART;
        for part in 0..parts - 1 {
            // Two at a time, the later one first.
            assert!(!write(&mut map, (part ^ 1) * PART), "{part}");
        }
        let end = STREAM_MIN_BYTES;
        assert!(write(&mut map, (parts - 2) * PART) || write(&mut map, end));
        assert!(!write(&mut map, 100 << 20));
        assert!(!write(&mut map, end));
        // Nothing is left behind where the same is written again and again.
        let mut map = DirtyMap::default();
        assert!((0..10 * parts).all(|_| !write(&mut map, 0)));
    }

    #[test]
    fn what_changed_while_it_was_written_out_is_noticed() {
        let mut map = DirtyMap::default();
        map.insert(0, filled(1, 100));
        let captured = map.at(0).map(|(_, run)| Arc::clone(&run.data)).unwrap();
        map.insert(50, filled(2, 10));
        assert!(!map.is_unchanged(0, &captured));
        assert_eq!(captured[50], 1);
        let captured = map.at(0).map(|(_, run)| Arc::clone(&run.data)).unwrap();
        assert!(map.is_unchanged(0, &captured));
        map.written(0);
        assert!(map.is_empty());
        assert_eq!((map.bytes(), map.weight().units), (0, 0));
    }
}
