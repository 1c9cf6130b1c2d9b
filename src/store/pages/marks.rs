//! Which pages were reached.

use std::ops::Range;

use crate::format::id::PageNo;

/// A bit for each page.
pub(in crate::store) struct Marks {
    bits: Vec<u64>,
    end: u64,
}

impl Marks {
    /// None of the pages before `end` is marked.
    pub(in crate::store) fn new(end: PageNo) -> Self {
        let words = usize::try_from(end.0.div_ceil(64)).unwrap_or(usize::MAX);
        Marks {
            bits: vec![0; words],
            end: end.0,
        }
    }

    /// Marks a page; false when it was marked before or lies outside.
    pub(in crate::store) fn mark(&mut self, page: u64) -> bool {
        let word = usize::try_from(page / 64).ok();
        let Some(word) = word.and_then(|word| self.bits.get_mut(word)) else {
            return false;
        };
        let bit = 1 << (page % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// How many are marked.
    pub(super) fn count(&self) -> u64 {
        self.bits
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    fn has(&self, page: u64) -> bool {
        let word = usize::try_from(page / 64).ok();
        word.and_then(|word| self.bits.get(word))
            .is_some_and(|word| word & (1 << (page % 64)) != 0)
    }

    /// Runs of pages that are not marked.
    pub(super) fn others(&self) -> impl Iterator<Item = Range<u64>> {
        let mut at = 1;
        std::iter::from_fn(move || {
            let start = (at..self.end).find(|page| !self.has(*page))?;
            at = (start..self.end)
                .find(|page| self.has(*page))
                .unwrap_or(self.end);
            Some(start..at)
        })
    }
}
