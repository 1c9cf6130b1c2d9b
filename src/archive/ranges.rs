//! Ranges of data in a file, of which there are at most so many.

/// The first gap that is closed.
const GAP_BYTES: u64 = 4096;
/// Bytes of gaps that are closed, at most, in a file with less data than that.
const CLOSED_MAX: u64 = 1 << 30;

/// All but the last of a file's ranges begin and end with blocks of this size: GNU tar reads each in
/// whole blocks, others do not, and what is nothing but blocks they read alike.
const BLOCK_BYTES: u64 = super::tar::BLOCK_BYTES as u64;

/// Ranges in order. Where they would be more than there may be, the shortest gaps between them are
/// closed, so that what was a hole is zeros: few bytes, beside those of the holes that stay.
pub struct Ranges {
    all: Vec<(u64, u64)>,
    max: usize,
    /// Bytes of the file.
    size: u64,
    /// Gaps that are no longer are closed.
    gap: u64,
    /// Bytes of those that are.
    closed: u64,
    data: u64,
}

impl Ranges {
    /// None yet, and at most `max` of them, but one, of a file of `size` bytes.
    pub fn new(max: usize, size: u64) -> Self {
        Ranges {
            all: Vec::new(),
            max: max.max(1),
            size,
            gap: 0,
            closed: 0,
            data: 0,
        }
    }

    /// Adds one behind the others.
    pub fn add(&mut self, start: u64, len: u64) {
        self.data = self.data.saturating_add(len);
        let end = start.saturating_add(len);
        let end = end.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(end);
        let start = start - start % BLOCK_BYTES;
        let len = end.min(self.size).saturating_sub(start);
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
        let size = ranges.last().map_or(0, |(start, len)| start + len);
        let mut all = Ranges::new(max, size);
        ranges.iter().for_each(|(start, len)| all.add(*start, *len));
        all.all
    }

    #[test]
    fn as_few_gaps_are_closed_as_it_takes_and_the_shortest() {
        let far = 1 << 40;
        let near = [(0, 512), (5120, 512), (9216, 512)];
        let ranges = [&near[..], &[(far, 512), (2 * far, 1)]].concat();
        assert_eq!(of(5, &ranges), ranges);
        assert_eq!(
            of(4, &ranges),
            [(0, 512), (5120, 4608), (far, 512), (2 * far, 1)]
        );
        assert_eq!(of(3, &ranges), [(0, 9728), (far, 512), (2 * far, 1)]);
        assert_eq!(of(1, &ranges), [(0, 2 * far + 1)]);
        assert_eq!(of(0, &ranges), [(0, 2 * far + 1)]);
    }

    #[test]
    fn only_the_end_of_the_file_is_no_end_of_a_block() {
        assert_eq!(
            of(9, &[(3, 4), (100, 4), (600, 4), (2000, 10)]),
            [(0, 1024), (1536, 474)]
        );
        assert_eq!(
            of(9, &[(511, 2), (1 << 20, 512)]),
            [(0, 1024), (1 << 20, 512)]
        );
        assert_eq!(of(9, &[(u64::MAX - 1, 1)]), [(u64::MAX - 511, 511)]);
    }

    #[test]
    fn no_more_is_closed_than_there_is_data_or_little() {
        let of = |len| {
            let mut all = Ranges::new(2, u64::MAX);
            (0..3).for_each(|index| all.add(index * (3 << 30), len));
            all.into_vec()
        };
        assert_eq!(of(1 << 30).map(|all| all.len()), None);
        assert_eq!(of(5 << 28), Some(vec![(0, (6 << 30) + (5 << 28))]));
        let mut near = Ranges::new(1, u64::MAX);
        for start in [0, 1 << 20, 1 << 30] {
            near.add(start, 1);
        }
        assert_eq!(near.into_vec(), Some(vec![(0, (1 << 30) + 512)]));
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
