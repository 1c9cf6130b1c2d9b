//! The extents of one file: disjoint, below its size, in chunks that are there.

use super::build::Builder;
use super::chunks::Chunks;
use super::fix::Fix;
use super::{Fixes, SIZE_MAX};
use crate::format::id::{ChunkId, Generation, Ino};
use crate::format::key::{self, Kind, TreeId, trailing_u64};
use crate::format::record::ExtentRecord;
use crate::fsck::pages::Range;
use crate::store::StoreError;

/// An extent on its way.
#[derive(Clone, Copy)]
struct Extent {
    start: u64,
    record: ExtentRecord,
    /// It stands in the tree like that.
    stands: bool,
}

impl Extent {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.record.len)
    }
}

/// One file's extents as they come by, in order.
pub(super) struct Sweep {
    tree: TreeId,
    ino: Ino,
    size: u64,
    newest: Generation,
    /// Not yet entered: the next may overlap it.
    last: Option<Extent>,
    /// From here on something was that could not be read.
    unknown: Option<u64>,
    /// Bytes in extents, and those in reserved ones.
    pub(super) allocated: u64,
    pub(super) reserved: u64,
}

impl Sweep {
    /// For a file of `size` bytes.
    pub(super) fn new(tree: TreeId, ino: Ino, size: u64, newest: Generation) -> Self {
        Sweep {
            tree,
            ino,
            size,
            newest,
            last: None,
            unknown: None,
            allocated: 0,
            reserved: 0,
        }
    }

    /// The end of the last extent.
    fn end(&self) -> u64 {
        self.last.map_or(0, |last| last.end())
    }

    /// Makes the file end where its last extent does; where that is.
    pub(super) fn cut_at_end(&mut self) -> u64 {
        self.size = self.end();
        self.size
    }

    /// Takes the next record.
    pub(super) fn take(
        &mut self,
        builder: &mut Builder,
        chunks: &mut Chunks,
        start: u64,
        value: &[u8],
        fixes: &mut Fixes<'_>,
    ) -> Result<(), StoreError> {
        let key = key::extent(self.ino, start);
        let record = match ExtentRecord::decode(value) {
            Ok(record) => record,
            Err(error) => {
                let what = format!("inode {}: the extent at {start}", self.ino);
                fixes.dropped(self.tree, what, error);
                self.unknown.get_or_insert(start);
                builder.delete(self.tree, &key)?;
                return Ok(());
            }
        };
        self.fill_unknown(builder, chunks, start, fixes)?;
        let mut parts = self.located(chunks, start, record, fixes);
        let stands = matches!(parts[..], [part] if part.start == start && part.record == record);
        if stands {
            parts.iter_mut().for_each(|part| part.stands = true);
        } else {
            builder.delete(self.tree, &key)?;
        }
        for part in parts {
            self.push(builder, chunks, part, fixes)?;
        }
        Ok(())
    }

    /// Cuts a record at the file's size, and at what is gone of its chunk.
    fn located(
        &self,
        chunks: &mut Chunks,
        start: u64,
        mut record: ExtentRecord,
        fixes: &mut Fixes<'_>,
    ) -> Vec<Extent> {
        let limit = match record.is_reserved() {
            true => SIZE_MAX,
            false => self.size,
        };
        let end = start.saturating_add(record.len);
        if end > limit {
            let (ino, start) = (self.ino, start.max(limit));
            fixes.add(Fix::ContentCut { ino, start, end });
        }
        record.len = end.min(limit).saturating_sub(start);
        record.birth = record.birth.min(self.newest);
        if record.len == 0 {
            return Vec::new();
        }
        if !record.has_chunk() {
            let stands = false;
            return vec![Extent {
                start,
                record,
                stands,
            }];
        }
        let mut at = start;
        let mut parts = Vec::new();
        for place in chunks.refer(record.chunk, record.chunk_offset, record.len) {
            let (chunk, chunk_offset) = place.at.unwrap_or((ChunkId::LOST, 0));
            parts.push(Extent {
                start: at,
                record: ExtentRecord {
                    len: place.len,
                    chunk,
                    chunk_offset,
                    birth: record.birth,
                },
                stands: false,
            });
            if place.at.is_none() {
                self.tell_lost(at, at + place.len, fixes);
            }
            at += place.len;
        }
        parts
    }

    fn tell_lost(&self, start: u64, end: u64, fixes: &mut Fixes<'_>) {
        let ino = self.ino;
        fixes.add(Fix::ContentLost { ino, start, end });
    }

    /// Enters the extent before, and keeps this one: what both claim is neither's.
    fn push(
        &mut self,
        builder: &mut Builder,
        chunks: &mut Chunks,
        next: Extent,
        fixes: &mut Fixes<'_>,
    ) -> Result<(), StoreError> {
        let Some(mut last) = self.last.take() else {
            self.last = Some(next);
            return Ok(());
        };
        let (start, end) = (next.start, last.end().min(next.end()));
        if start >= end {
            self.enter(builder, last)?;
            self.last = Some(next);
            return Ok(());
        }
        self.tell_lost(start, end, fixes);
        for extent in [&last, &next].into_iter().filter(|extent| extent.stands) {
            builder.delete(self.tree, &key::extent(self.ino, extent.start))?;
        }
        let mut rest = if last.end() > next.end() { last } else { next };
        cut_front(&mut rest, end);
        let keeps_front = last.start < start;
        self.count_parts(chunks, &last, &next, keeps_front, &rest);
        if keeps_front {
            last.record.len = start - last.start;
            last.stands = false;
            self.enter(builder, last)?;
        }
        let lost = self.lost(start, end);
        if rest.record.len > 0 {
            self.enter(builder, lost)?;
            self.last = Some(rest);
        } else {
            self.last = Some(lost);
        }
        Ok(())
    }

    /// Keeps the references of chunks right when two extents became a front and a rest.
    fn count_parts(
        &self,
        chunks: &mut Chunks,
        last: &Extent,
        next: &Extent,
        keeps_front: bool,
        rest: &Extent,
    ) {
        for extent in [last, next] {
            if extent.record.has_chunk() {
                chunks.release(extent.record.chunk);
            }
        }
        if keeps_front && last.record.has_chunk() {
            chunks.share(last.record.chunk);
        }
        if rest.record.len > 0 && rest.record.has_chunk() {
            chunks.share(rest.record.chunk);
        }
    }

    /// Where records could not be read, what was there is lost up to the next.
    fn fill_unknown(
        &mut self,
        builder: &mut Builder,
        chunks: &mut Chunks,
        until: u64,
        fixes: &mut Fixes<'_>,
    ) -> Result<(), StoreError> {
        let Some(start) = self.unknown.take() else {
            return Ok(());
        };
        let start = start.max(self.end());
        let end = until.min(self.size);
        if start < end {
            self.tell_lost(start, end, fixes);
            let lost = self.lost(start, end);
            self.push(builder, chunks, lost, fixes)?;
        }
        Ok(())
    }

    fn lost(&self, start: u64, end: u64) -> Extent {
        Extent {
            start,
            record: ExtentRecord {
                len: end - start,
                chunk: ChunkId::LOST,
                chunk_offset: 0,
                birth: self.newest,
            },
            stands: false,
        }
    }

    fn enter(&mut self, builder: &mut Builder, extent: Extent) -> Result<(), StoreError> {
        let record = extent.record;
        self.allocated = self.allocated.saturating_add(record.len);
        if record.is_reserved() {
            self.reserved = self.reserved.saturating_add(record.len);
        }
        if extent.stands {
            return Ok(());
        }
        let key = key::extent(self.ino, extent.start);
        builder.put(self.tree, &key, &record.encode())
    }

    /// Enters what is left. `recorded` is what the inode says its extents have: when there is less,
    /// and some keys were `lost`, the holes between them may have been content.
    pub(super) fn finish(
        &mut self,
        builder: &mut Builder,
        chunks: &mut Chunks,
        recorded: Option<u64>,
        lost: &[Range],
        fixes: &mut Fixes<'_>,
    ) -> Result<(), StoreError> {
        self.fill_unknown(builder, chunks, u64::MAX, fixes)?;
        if let Some(last) = self.last.take() {
            self.enter(builder, last)?;
        }
        if recorded == Some(self.allocated) {
            return Ok(());
        }
        let ranges: Vec<_> = lost
            .iter()
            .filter_map(|range| self.offsets(range))
            .collect();
        for (start, end) in ranges {
            self.fill_holes(builder, start, end.min(self.size), fixes)?;
        }
        Ok(())
    }

    /// The file offsets whose extents a range of keys can hold.
    fn offsets(&self, range: &Range) -> Option<(u64, u64)> {
        let (first, behind) = key::kind_range(self.ino, Kind::Extent);
        let high = range.high.as_deref();
        if high.is_some_and(|high| high <= first.as_slice()) || *range.low >= *behind {
            return None;
        }
        let offset = |key: &[u8]| match key.starts_with(&first) {
            true => trailing_u64(key).ok(),
            false => None,
        };
        let start = offset(&range.low).unwrap_or(0);
        let end = high.and_then(offset).unwrap_or(u64::MAX);
        Some((start, end))
    }

    /// Marks what lies between extents that are there, from `start` on, where one that began before
    /// `end` may have been: it may have reached up to the next.
    fn fill_holes(
        &mut self,
        builder: &mut Builder,
        start: u64,
        end: u64,
        fixes: &mut Fixes<'_>,
    ) -> Result<(), StoreError> {
        let mut at = start;
        let mut holes = Vec::new();
        let view = builder.view();
        let (first, behind) = key::kind_range(self.ino, Kind::Extent);
        view.scan(self.tree, &first, &behind, &mut |key, value| {
            if let (Ok(from), Ok(record)) = (trailing_u64(key), ExtentRecord::decode(value)) {
                if from > at && at < end {
                    holes.push((at, from.min(self.size)));
                }
                at = at.max(from.saturating_add(record.len));
            }
            Ok(())
        })?;
        if at < end {
            holes.push((at, self.size));
        }
        for (start, end) in holes.into_iter().filter(|(start, end)| start < end) {
            self.tell_lost(start, end, fixes);
            let lost = self.lost(start, end);
            self.enter(builder, lost)?;
        }
        Ok(())
    }
}

/// Cuts off what lies before `until`.
fn cut_front(extent: &mut Extent, until: u64) {
    let cut = until.saturating_sub(extent.start).min(extent.record.len);
    extent.start += cut;
    extent.record.len -= cut;
    extent.stands = false;
    if extent.record.has_chunk() {
        let cut = u32::try_from(cut).unwrap_or(u32::MAX);
        extent.record.chunk_offset = extent.record.chunk_offset.saturating_add(cut);
    }
}
