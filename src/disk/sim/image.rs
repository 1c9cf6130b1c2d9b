//! What a simulated disk holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) const PAGE: usize = 4096;

/// The content of a disk, sparse: what was never written is zeros.
#[derive(Clone, Default)]
pub(super) struct Image {
    pages: BTreeMap<u64, Arc<[u8; PAGE]>>,
    /// Pages before the end that take no space.
    holes: BTreeSet<u64>,
    pub(super) len: u64,
}

impl Image {
    /// Bytes that take space.
    pub(super) fn allocated(&self) -> u64 {
        self.len.saturating_sub(self.unallocated(0, self.len))
    }

    /// Bytes of holes that a range touches.
    pub(super) fn unallocated(&self, offset: u64, end: u64) -> u64 {
        let (first, last) = (offset / PAGE as u64, end.div_ceil(PAGE as u64));
        (self.holes.range(first..last).count() * PAGE) as u64
    }

    /// Space for a range.
    pub(super) fn allocate(&mut self, offset: u64, end: u64) {
        let (first, last) = (offset / PAGE as u64, end.div_ceil(PAGE as u64));
        let filled: Vec<u64> = self.holes.range(first..last).copied().collect();
        for page in filled {
            self.holes.remove(&page);
        }
        self.len = self.len.max(end);
    }

    pub(super) fn cut(&mut self, len: u64) {
        let first = len.div_ceil(PAGE as u64);
        self.pages.retain(|page, _| *page < first);
        self.holes.retain(|page| *page < first);
        self.len = self.len.min(len);
    }

    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) {
        for_pages(offset, buf.len(), |page, at, range| {
            let Some(target) = buf.get_mut(range) else {
                return;
            };
            match self
                .pages
                .get(&page)
                .and_then(|page| page.get(at..at + target.len()))
            {
                Some(source) => target.copy_from_slice(source),
                None => target.fill(0),
            }
        });
    }

    pub(super) fn write(&mut self, offset: u64, buf: &[u8]) {
        for_pages(offset, buf.len(), |page, at, range| {
            let Some(source) = buf.get(range) else { return };
            let page = self
                .pages
                .entry(page)
                .or_insert_with(|| Arc::new([0; PAGE]));
            if let Some(target) = Arc::make_mut(page).get_mut(at..at + source.len()) {
                target.copy_from_slice(source);
            }
        });
        self.allocate(offset, offset + buf.len() as u64);
    }

    pub(super) fn trim(&mut self, offset: u64, len: u64) {
        let first = offset.div_ceil(PAGE as u64);
        let end = (offset + len).min(self.len) / PAGE as u64;
        for page in first..end {
            self.pages.remove(&page);
            self.holes.insert(page);
        }
    }
}

/// Cuts a range at page boundaries: page, offset in it, range of the buffer.
fn for_pages(offset: u64, len: usize, mut each: impl FnMut(u64, usize, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < len {
        let position = offset + done as u64;
        let at = usize::try_from(position % PAGE as u64).unwrap_or(0);
        let part = (PAGE - at).min(len - done);
        each(position / PAGE as u64, at, done..done + part);
        done += part;
    }
}
