//! A set of numbers, as of bytes of a file or of pages, by ranges of them.
//!
//! Imports nothing of razorfs.

use std::collections::BTreeMap;

/// Disjoint ranges that do not touch, and how many numbers they hold together.
#[derive(Debug, Default)]
pub(crate) struct RangeSet {
    /// Where each begins, and ends.
    ranges: BTreeMap<u64, u64>,
    len: u64,
}

impl RangeSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Numbers in it.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Ranges in it.
    pub(crate) fn count(&self) -> u64 {
        self.ranges.len() as u64
    }

    /// The ranges, in order: where each begins and ends.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> {
        self.ranges.iter().map(|(start, end)| (*start, *end))
    }

    /// Whether any of `start..end` is in it.
    pub(crate) fn overlaps(&self, start: u64, end: u64) -> bool {
        let last = self.ranges.range(..end).next_back();
        start < end && last.is_some_and(|(_, last_end)| *last_end > start)
    }

    /// Where the first range begins that does so at or behind `at`.
    pub(crate) fn next_from(&self, at: u64) -> Option<u64> {
        self.ranges.range(at..).next().map(|(start, _)| *start)
    }

    /// Where the range begins that ends at `end`.
    pub(crate) fn ending_at(&self, end: u64) -> Option<u64> {
        let before = self.ranges.range(..end).next_back();
        before.and_then(|(start, its)| (*its == end).then_some(*start))
    }

    /// How many of `start..end` are in it.
    pub(crate) fn len_in(&self, start: u64, end: u64) -> u64 {
        let reaching = self.ranges.range(..end).rev();
        reaching
            .take_while(|(_, until)| **until > start)
            .map(|(from, until)| (*until).min(end) - (*from).max(start))
            .sum()
    }

    /// Adds `start..end`.
    pub(crate) fn insert(&mut self, start: u64, end: u64) {
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
    pub(crate) fn remove(&mut self, start: u64, end: u64) {
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
        self.len -= end - start;
    }

    fn put(&mut self, start: u64, end: u64) {
        if start < end {
            self.ranges.insert(start, end);
            self.len += end - start;
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
                assert_eq!(set.len_in(from, to), held as u64);
                let begins = |at: &usize| model[*at] && (*at == 0 || !model[at - 1]);
                let next = (start..200).find(begins);
                assert_eq!(set.next_from(from), next.map(|at| at as u64));
                let ends = end > 0 && model[end - 1] && model.get(end) != Some(&true);
                let run = (0..end).rev().find(begins).filter(|_| ends);
                assert_eq!(set.ending_at(to), run.map(|at| at as u64));
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
                assert_eq!(set.len(), count as u64);
                assert_eq!(set.is_empty(), count == 0);
            }
        }
    }
}
