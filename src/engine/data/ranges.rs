//! A set of byte ranges.

use std::collections::BTreeMap;

/// Disjoint ranges that do not touch, and how many bytes they hold together.
#[derive(Debug, Default)]
pub(super) struct RangeSet {
    /// Where each begins, and ends.
    ranges: BTreeMap<u64, u64>,
    bytes: u64,
}

impl RangeSet {
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Bytes in it.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Ranges in it.
    pub(super) fn count(&self) -> u64 {
        self.ranges.len() as u64
    }

    /// The ranges, in order: where each begins and ends.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.ranges.iter().map(|(start, end)| (*start, *end))
    }

    /// Whether any byte of `start..end` is in it.
    pub(super) fn overlaps(&self, start: u64, end: u64) -> bool {
        let last = self.ranges.range(..end).next_back();
        start < end && last.is_some_and(|(_, last_end)| *last_end > start)
    }

    /// Bytes of `start..end` that are in it.
    pub(super) fn bytes_in(&self, start: u64, end: u64) -> u64 {
        let reaching = self.ranges.range(..end).rev();
        reaching
            .take_while(|(_, until)| **until > start)
            .map(|(from, until)| (*until).min(end) - (*from).max(start))
            .sum()
    }

    /// Adds `start..end`.
    pub(super) fn insert(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let (mut first, mut last) = (start, end);
        // Also what only touches.
        while let Some((at, until)) = self.ranges.range(..=last).next_back()
            && *until >= first
        {
            let (at, until) = (*at, *until);
            self.take(at, until);
            first = first.min(at);
            last = last.max(until);
        }
        self.put(first, last);
    }

    /// Takes `start..end` out.
    pub(super) fn remove(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        while let Some((at, until)) = self.ranges.range(..end).next_back()
            && *until > start
        {
            let (at, until) = (*at, *until);
            self.take(at, until);
            self.put(end, until);
            self.put(at, start);
        }
    }

    fn take(&mut self, start: u64, end: u64) {
        self.ranges.remove(&start);
        self.bytes -= end - start;
    }

    fn put(&mut self, start: u64, end: u64) {
        if start < end {
            self.ranges.insert(start, end);
            self.bytes += end - start;
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::RangeSet;

    #[test]
    fn agrees_with_a_model() {
        for seed in 0..50 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut set = RangeSet::default();
            let mut model = vec![false; 200];
            for _ in 0..200 {
                let start = rng.random_range(0..200usize);
                let end = rng.random_range(start..=200usize.min(start + 40));
                let (from, to) = (start as u64, end as u64);
                assert_eq!(set.overlaps(from, to), model[start..end].contains(&true));
                let held = model[start..end].iter().filter(|held| **held).count();
                assert_eq!(set.bytes_in(from, to), held as u64);
                if rng.random_bool(0.6) {
                    set.insert(from, to);
                    model[start..end].fill(true);
                } else {
                    set.remove(from, to);
                    model[start..end].fill(false);
                }
                let mut seen = vec![false; 200];
                let mut previous = None;
                for (from, to) in set.iter() {
                    assert!(from < to && previous.is_none_or(|end| end < from));
                    previous = Some(to);
                    seen[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()].fill(true);
                }
                assert_eq!(seen, model, "seed {seed}");
                let count = model.iter().filter(|held| **held).count();
                assert_eq!(set.bytes(), count as u64);
                assert_eq!(set.is_empty(), count == 0);
            }
        }
    }
}
