//! A set of pages, by runs of them.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::format::id::PageNo;
use crate::store::StoreError;

/// Pages; neighbours are one run.
#[derive(Default)]
pub(super) struct Runs {
    /// By first page: the length.
    by_start: BTreeMap<u64, u64>,
    pages: u64,
}

impl Runs {
    /// How many pages there are.
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = Range<u64>> {
        let run = |(start, len): (&u64, &u64)| *start..start.saturating_add(*len);
        self.by_start.iter().map(run)
    }

    /// The first run.
    pub(super) fn first(&self) -> Option<Range<u64>> {
        self.iter().next()
    }

    /// Adds pages.
    ///
    /// # Errors
    /// When one of them is there already: two trees shared it.
    pub(super) fn add(&mut self, mut start: u64, mut len: u64) -> Result<(), StoreError> {
        let (page, end) = (PageNo(start), start.saturating_add(len));
        if let Some((&before, &before_len)) = self.by_start.range(..end).next_back()
            && before + before_len > start
        {
            let reason = "it was freed twice".into();
            return Err(StoreError::Page { page, reason });
        }
        self.pages += len;
        if let Some((&before, &before_len)) = self.by_start.range(..start).next_back()
            && before + before_len == start
        {
            self.by_start.remove(&before);
            start = before;
            len += before_len;
        }
        if let Some(after_len) = self.by_start.remove(&(start + len)) {
            len += after_len;
        }
        self.by_start.insert(start, len);
        Ok(())
    }

    /// Takes the first page out.
    pub(super) fn take_first(&mut self) -> Option<u64> {
        let (start, len) = self.by_start.pop_first()?;
        if len > 1 {
            self.by_start.insert(start + 1, len - 1);
        }
        self.pages -= 1;
        Some(start)
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

    /// Takes pages out that are in one run.
    pub(super) fn take(&mut self, range: &Range<u64>) {
        let Some((&start, &len)) = self.by_start.range(..=range.start).next_back() else {
            return;
        };
        let end = start.saturating_add(len);
        if end < range.end {
            return;
        }
        self.by_start.remove(&start);
        if start < range.start {
            self.by_start.insert(start, range.start - start);
        }
        if range.end < end {
            self.by_start.insert(range.end, end - range.end);
        }
        self.pages -= range.end - range.start;
    }

    /// Where the first run begins that does so at or behind `page`.
    pub(super) fn next_from(&self, page: u64) -> Option<u64> {
        self.by_start.range(page..).next().map(|(start, _)| *start)
    }

    /// The run that ends at `end`.
    pub(super) fn ending_at(&self, end: u64) -> Option<Range<u64>> {
        let (&start, &len) = self.by_start.range(..end).next_back()?;
        (start.saturating_add(len) == end).then_some(start..end)
    }
}
