//! Which names are used, as a walk over the trees finds out.

use std::ops::Range;

use crate::format::id::NameId;
use crate::format::name::RECORD_MAX_BYTES;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Bytes that a mark stands for: the smallest record takes as many, so that no two begin in them.
const PLACE_BYTES: u64 = 8;
/// Records begin at multiples of it.
const ALIGN_BYTES: u64 = 4;
const _: () = assert!(crate::format::name::record_bytes(1) as u64 == PLACE_BYTES);

/// Marks for the names before an end, a bit for each 8 bytes of strings.dat: 1/64 of its size. What
/// is behind the end counts as used.
pub struct UsedNames {
    bits: Vec<AtomicU64>,
    end: u64,
}

impl UsedNames {
    /// None of the names before `end` is marked.
    #[must_use]
    pub fn new(end: u64) -> Self {
        let words = end.div_ceil(PLACE_BYTES * 64);
        let words = usize::try_from(words).unwrap_or(usize::MAX);
        UsedNames {
            bits: std::iter::repeat_with(AtomicU64::default)
                .take(words)
                .collect(),
            end,
        }
    }

    fn word(&self, place: u64) -> Option<(&AtomicU64, u64)> {
        let word = usize::try_from(place / 64).ok()?;
        Some((self.bits.get(word)?, 1 << (place % 64)))
    }

    /// Says that a name is used.
    pub fn mark(&self, id: NameId) {
        if let Some((word, bit)) = self.word(id.0 / PLACE_BYTES) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Whether a name is used.
    #[must_use]
    pub fn has(&self, id: NameId) -> bool {
        let found = self.word(id.0 / PLACE_BYTES);
        id.0 >= self.end || found.is_none_or(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// Whether a used name begins in these bytes, which begin and end at a place.
    fn any_in(&self, bytes: Range<u64>) -> bool {
        let (mut at, end) = (bytes.start / PLACE_BYTES, bytes.end / PLACE_BYTES);
        while at < end {
            let Some((word, _)) = self.word(at) else {
                return true;
            };
            let until = end.min((at / 64 + 1).saturating_mul(64));
            // `until - at` is 1 to 64.
            let mask = (u64::MAX >> (64 - (until - at))) << (at % 64);
            if word.load(Ordering::Relaxed) & mask != 0 {
                return true;
            }
            at = until;
        }
        false
    }

    /// Runs of whole blocks of so many bytes that no used name reaches into: in order, none beside
    /// another.
    pub fn gaps(&self, block_bytes: u64) -> impl Iterator<Item = Range<u64>> {
        let block = block_bytes.max(1).next_multiple_of(4096);
        // How far a record that begins before a block reaches into it is not known here.
        let reach = (RECORD_MAX_BYTES as u64 - ALIGN_BYTES).next_multiple_of(PLACE_BYTES);
        let blocks = self.end / block;
        let is_free = move |at: &u64| {
            let start = at.saturating_mul(block);
            let end = start.saturating_add(block);
            !self.any_in(start.saturating_sub(reach)..end)
        };
        let mut at = 0;
        std::iter::from_fn(move || {
            let first = (at..blocks).find(is_free)?;
            at = (first..blocks).find(|at| !is_free(at)).unwrap_or(blocks);
            Some(first.saturating_mul(block)..at.saturating_mul(block))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_gap_reaches_into_a_used_name() {
        let gaps = |used: &[u64], end: u64| -> Vec<_> {
            let marks = UsedNames::new(end);
            used.iter().for_each(|id| marks.mark(NameId(*id)));
            assert!(used.iter().all(|id| marks.has(NameId(*id))));
            marks.gaps(4096).map(|gap| (gap.start, gap.end)).collect()
        };
        assert_eq!(gaps(&[], 3 * 4096 + 100), [(0, 3 * 4096)]);
        assert_eq!(gaps(&[0], 3 * 4096), [(4096, 3 * 4096)]);
        assert_eq!(gaps(&[4096 - 4], 3 * 4096), [(2 * 4096, 3 * 4096)]);
        // The largest record that begins there ends with the block, or four bytes behind it.
        assert_eq!(gaps(&[4096 - 256], 3 * 4096), [(2 * 4096, 3 * 4096)]);
        assert_eq!(gaps(&[4096 - 264], 3 * 4096), [(4096, 3 * 4096)]);
        assert_eq!(
            gaps(&[2 * 4096 + 8], 4 * 4096),
            [(0, 2 * 4096), (3 * 4096, 4 * 4096)]
        );
        assert_eq!(
            gaps(&[3 * 4096], 3 * 4096),
            [(0, 3 * 4096)],
            "behind the end"
        );
        assert!(gaps(&[], 4095).is_empty());
    }

    #[test]
    fn names_side_by_side_have_marks_of_their_own() {
        let marks = UsedNames::new(1 << 10);
        marks.mark(NameId(12));
        assert!(marks.has(NameId(12)) && !marks.has(NameId(4)) && !marks.has(NameId(20)));
        assert!(marks.has(NameId(1 << 10)), "nothing is known of it");
    }
}
