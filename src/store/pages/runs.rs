//! A set of pages, by runs of them.

use std::ops::Range;

use crate::format::id::PageNo;
use crate::ranges::RangeSet;
use crate::store::StoreError;

/// Pages; neighbours are one run.
#[derive(Default)]
pub(super) struct Runs(RangeSet);

impl Runs {
    /// How many pages there are.
    pub(super) fn pages(&self) -> u64 {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = Range<u64>> {
        self.0.iter().map(|(start, end)| start..end)
    }

    /// The first run.
    pub(super) fn first(&self) -> Option<Range<u64>> {
        self.iter().next()
    }

    /// Adds pages.
    ///
    /// # Errors
    /// When one of them is there already: two trees shared it.
    pub(super) fn add(&mut self, start: u64, len: u64) -> Result<(), StoreError> {
        let end = start.saturating_add(len);
        if self.0.overlaps(start, end) {
            let (page, reason) = (PageNo(start), "it was freed twice".into());
            return Err(StoreError::Page { page, reason });
        }
        self.0.insert(start, end);
        Ok(())
    }

    /// Takes the first page out.
    pub(super) fn take_first(&mut self) -> Option<u64> {
        let first = self.first()?.start;
        self.0.remove(first, first + 1);
        Some(first)
    }

    /// Takes runs of at least `min` pages out, the last first, `max` pages together at most.
    pub(super) fn take_last(&mut self, max: u64, min: u64) -> Vec<Range<u64>> {
        let mut left = max;
        let mut runs = Vec::new();
        for run in self.iter().rev() {
            let start = run.start.max(run.end.saturating_sub(left));
            if run.end - start >= min {
                runs.push(start..run.end);
                left -= run.end - start;
            }
            if left < min {
                break;
            }
        }
        for run in &runs {
            self.take(run);
        }
        runs
    }

    /// Takes pages out.
    pub(super) fn take(&mut self, run: &Range<u64>) {
        self.0.remove(run.start, run.end);
    }

    /// Where the first run begins that does so at or behind `page`.
    pub(super) fn next_from(&self, page: u64) -> Option<u64> {
        self.0.next_from(page)
    }

    /// The run that ends at `end`.
    pub(super) fn ending_at(&self, end: u64) -> Option<Range<u64>> {
        self.0.ending_at(end).map(|start| start..end)
    }
}
