//! Ranges of data in a file, of which there are at most so many.

/// The first gap that is closed.
const GAP_BYTES: u64 = 4096;
/// Bytes of gaps that are closed, at most, in a file with less data than that.
const CLOSED_MAX: u64 = 1 << 30;

/// Ranges in order. Where they would be more than there may be, the shortest gaps between them are
/// closed, so that what was a hole is zeros: few bytes, beside those of the holes that stay.
pub struct Ranges {
    all: Vec<(u64, u64)>,
    max: usize,
    /// Gaps that are no longer are closed.
    gap: u64,
    /// Bytes of those that are.
    closed: u64,
    data: u64,
}

impl Ranges {
    /// None yet, and at most `max` of them, but one.
    pub fn new(max: usize) -> Self {
        Ranges {
            all: Vec::new(),
            max: max.max(1),
            gap: 0,
            closed: 0,
            data: 0,
        }
    }

    /// Adds one behind the others.
    pub fn add(&mut self, start: u64, len: u64) {
        self.data = self.data.saturating_add(len);
        while !self.extends(start, len) {
            if self.all.len() < self.max {
                self.all.push((start, len));
                return;
            }
            self.gap = self.gap.saturating_mul(2).max(GAP_BYTES);
            for (start, len) in std::mem::take(&mut self.all) {
                if !self.extends(start, len) {
                    self.all.push((start, len));
                }
            }
        }
    }

    /// Lets the last one go on to the end of the next, when the gap between them is short enough.
    fn extends(&mut self, start: u64, len: u64) -> bool {
        let Some((first, last)) = self.all.last_mut() else {
            return false;
        };
        let gap = start.saturating_sub(first.saturating_add(*last));
        let is_near = gap <= self.gap;
        if is_near {
            self.closed = self.closed.saturating_add(gap);
            *last = start.saturating_add(len).saturating_sub(*first);
        }
        is_near
    }

    /// All of them; `None` where what was closed is more than the data, and than anybody would pass
    /// on: who chooses where data is could have zeros written without end.
    pub fn into_vec(self) -> Option<Vec<(u64, u64)>> {
        let is_much = self.closed > self.data.max(CLOSED_MAX);
        (!is_much).then_some(self.all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(max: usize, ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut all = Ranges::new(max);
        ranges.iter().for_each(|(start, len)| all.add(*start, *len));
        all.all
    }

    #[test]
    fn as_few_gaps_are_closed_as_it_takes_and_the_shortest() {
        let far = 1 << 40;
        let ranges = [(0, 10), (5000, 10), (9000, 10), (far, 1), (2 * far, 1)];
        assert_eq!(of(5, &ranges), ranges);
        assert_eq!(
            of(4, &ranges),
            [(0, 10), (5000, 4010), (far, 1), (2 * far, 1)]
        );
        assert_eq!(of(3, &ranges), [(0, 9010), (far, 1), (2 * far, 1)]);
        assert_eq!(of(1, &ranges), [(0, 2 * far + 1)]);
        assert_eq!(of(0, &ranges), [(0, 2 * far + 1)]);
        assert_eq!(
            of(2, &[(0, 4), (4, 4), (u64::MAX, 0)]),
            [(0, 8), (u64::MAX, 0)]
        );
    }

    #[test]
    fn no_more_is_closed_than_there_is_data_or_little() {
        let of = |len| {
            let mut all = Ranges::new(2);
            (0..3).for_each(|index| all.add(index * (3 << 30), len));
            all.into_vec()
        };
        assert_eq!(of(1 << 30).map(|all| all.len()), None);
        assert_eq!(of(5 << 28), Some(vec![(0, (6 << 30) + (5 << 28))]));
        let mut near = Ranges::new(1);
        for start in [0, 1 << 20, 1 << 30] {
            near.add(start, 1);
        }
        assert_eq!(near.into_vec(), Some(vec![(0, (1 << 30) + 1)]));
    }

    #[test]
    fn however_many_there_are_the_data_is_within_them() {
        for max in [1, 2, 7, 64] {
            let ranges: Vec<_> = (1..2000_u64).map(|n| (n * n * 4096, n)).collect();
            let all = of(max, &ranges);
            assert!(all.len() <= max);
            let mut pairs = all.windows(2);
            assert!(pairs.all(|pair| pair[0].0 + pair[0].1 < pair[1].0));
            for (start, len) in ranges {
                let is_within =
                    |(first, last): &(u64, u64)| *first <= start && start + len <= first + last;
                assert!(all.iter().any(is_within), "{start}");
            }
        }
    }
}
