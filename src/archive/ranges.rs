//! Ranges of data in a file, of which there are at most so many.

/// The first gap that is closed.
const GAP_BYTES: u64 = 4096;

/// Ranges in order. Where they would be more than there may be, the shortest gaps between them are
/// closed, so that what was a hole is zeros: few bytes, beside those of the holes that stay.
pub struct Ranges {
    all: Vec<(u64, u64)>,
    max: usize,
    /// Gaps that are no longer are closed.
    gap: u64,
}

impl Ranges {
    /// None yet, and at most `max` of them, but one.
    pub fn new(max: usize) -> Self {
        Ranges {
            all: Vec::new(),
            max: max.max(1),
            gap: 0,
        }
    }

    /// Adds one behind the others.
    pub fn add(&mut self, start: u64, len: u64) {
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
        let is_near = start.saturating_sub(first.saturating_add(*last)) <= self.gap;
        if is_near {
            *last = start.saturating_add(len).saturating_sub(*first);
        }
        is_near
    }

    /// All of them.
    pub fn into_vec(self) -> Vec<(u64, u64)> {
        self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(max: usize, ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut all = Ranges::new(max);
        ranges.iter().for_each(|(start, len)| all.add(*start, *len));
        all.into_vec()
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
