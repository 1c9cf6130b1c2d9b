//! Extents: which chunk, or reservation, each byte of a file stands in.
//!
//! Invariant: a file's extents are disjoint and lie below its size or (reserved ones) behind it; a
//! chunk's reference count is the number of extents that refer to it, of which those that snapshots
//! share count once.

use std::ops::ControlFlow;

use smallvec::SmallVec;

use super::kept::Cache;
use super::{hashes, space};
use crate::engine::EngineError;
use crate::engine::datasets::lineage;
use crate::format::id::{ChunkId, Ino};
use crate::format::key::{self, Kind, TreeId, trailing_u64};
use crate::format::record::{ChunkRecord, DatasetCounters, ExtentRecord, InodeRecord};
use crate::format::superblock::UNIT_BYTES;
use crate::log::Tx;
use crate::store::{Read, StoreError};

/// An extent and the offset of its first byte in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    pub(super) start: u64,
    pub(super) record: ExtentRecord,
}

impl Extent {
    pub(super) fn end(&self) -> u64 {
        self.start.saturating_add(self.record.len)
    }

    fn decode(ino: Ino, key: &[u8], value: &[u8]) -> Result<Self, StoreError> {
        let what = || format!("extent of inode {ino}");
        let start = trailing_u64(key).map_err(|source| StoreError::format(what(), source))?;
        let record =
            ExtentRecord::decode(value).map_err(|source| StoreError::format(what(), source))?;
        if start.checked_add(record.len).is_none() {
            let text = format!("{} at {start}: longer than any file", what());
            return Err(StoreError::Corrupt(text));
        }
        Ok(Extent { start, record })
    }

    /// The part of it in `start..end`, which overlaps it.
    pub(super) fn clipped(&self, start: u64, end: u64) -> Extent {
        let from = self.start.max(start);
        let skipped = u32::try_from(from - self.start).unwrap_or(u32::MAX);
        let mut record = self.record;
        record.len = self.end().min(end) - from;
        if record.has_chunk() {
            record.chunk_offset = record.chunk_offset.saturating_add(skipped);
        }
        Extent {
            start: from,
            record,
        }
    }
}

/// The last extent that begins at `offset` or before it.
fn last_before(
    read: &impl Read,
    tree: TreeId,
    ino: Ino,
    offset: u64,
) -> Result<Option<Extent>, StoreError> {
    let (first, _) = key::kind_range(ino, Kind::Extent);
    let found = read.floor_with(tree, &key::extent(ino, offset), |key, value| {
        key.starts_with(&first)
            .then(|| Extent::decode(ino, key, value))
    })?;
    found.flatten().transpose()
}

/// Extents in the order of the file. Most ranges that are asked for have one or two.
pub(super) type Extents = SmallVec<[Extent; 2]>;

/// The extents that overlap `start..end`, whole, at most `max`.
pub(super) fn overlapping(
    read: &impl Read,
    tree: TreeId,
    ino: Ino,
    start: u64,
    end: u64,
    max: usize,
) -> Result<Extents, StoreError> {
    let mut raw: SmallVec<[Result<Extent, StoreError>; 2]> = SmallVec::new();
    if let Some(extent) = last_before(read, tree, ino, start)?
        && extent.end() > start
    {
        if extent.end() >= end {
            return Ok(Extents::from_iter([extent]));
        }
        if extent.start < start {
            raw.push(Ok(extent));
        }
    }
    let (first, last) = (key::extent(ino, start), key::extent(ino, end));
    read.scan(tree, &first, &last, &mut |key, value| {
        raw.push(Extent::decode(ino, key, value));
        if raw.len() < max {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    let found: Extents = raw.into_iter().collect::<Result<_, _>>()?;
    // Everybody goes from one to the next and counts on getting farther.
    for (one, next) in found.iter().zip(found.iter().skip(1)) {
        if next.start < one.end() {
            return Err(StoreError::Corrupt(format!(
                "extents of inode {ino} overlap at {}; run razorfsck",
                next.start
            )));
        }
    }
    Ok(found)
}

/// How far towards `end` the extents reach that [`overlapping`] found when asked for at most `max`.
pub(super) fn reach(found: &[Extent], end: u64, max: usize) -> u64 {
    match found.last() {
        Some(last) if found.len() >= max => last.end().min(end),
        _ => end,
    }
}

/// Hands over the parts of `start..end` that stand in no extent, in order.
pub(super) fn each_hole(
    read: &impl Read,
    tree: TreeId,
    ino: Ino,
    (start, end): (u64, u64),
    each: &mut dyn FnMut(u64, u64),
) -> Result<(), StoreError> {
    let mut at = start;
    while at < end {
        let found = overlapping(read, tree, ino, at, end, super::EXTENTS_MAX)?;
        let until = reach(&found, end, super::EXTENTS_MAX);
        for extent in found {
            if extent.start > at {
                each(at, extent.start.min(until));
            }
            at = at.max(extent.end());
        }
        if at < until {
            each(at, until);
        }
        at = until;
    }
    Ok(())
}

/// Whether space is reserved for all of `start..end`.
pub(super) fn is_reserved(
    read: &impl Read,
    tree: TreeId,
    ino: Ino,
    start: u64,
    end: u64,
) -> Result<bool, StoreError> {
    let mut at = start;
    for extent in overlapping(read, tree, ino, start, end, super::EXTENTS_MAX)? {
        if extent.start > at || !extent.record.is_reserved() {
            return Ok(false);
        }
        at = extent.end();
    }
    Ok(at >= end)
}

/// A chunk's record.
pub(super) fn chunk(read: &impl Read, id: ChunkId) -> Result<ChunkRecord, StoreError> {
    if id == ChunkId::LOST {
        let what = "this content was lost to damage; what is written over it can be read again";
        return Err(StoreError::Corrupt(what.into()));
    }
    read.get_with(TreeId::Chunks, &key::chunk(id), ChunkRecord::decode)?
        .ok_or_else(|| StoreError::Corrupt(format!("there is no chunk {id}; run razorfsck")))?
        .map_err(|source| StoreError::format(format!("chunk {id}"), source))
}

/// Changes to one file's extents in a transaction, with the sums that go with them.
pub(super) struct Editor<'t, 'j> {
    pub(super) tx: &'t mut Tx<'j>,
    /// What memory keeps of content.
    pub(super) kept: &'t Cache,
    pub(super) tree: TreeId,
    pub(super) ino: Ino,
    pub(super) record: &'t mut InodeRecord,
    pub(super) counters: &'t mut DatasetCounters,
}

impl Editor<'_, '_> {
    fn add_sums(&mut self, extent: &ExtentRecord) {
        self.record.allocated = self.record.allocated.saturating_add(extent.len);
        self.counters.allocated_bytes = self.counters.allocated_bytes.saturating_add(extent.len);
        if extent.is_reserved() {
            self.counters.reserved_bytes = self.counters.reserved_bytes.saturating_add(extent.len);
        }
    }

    /// Counts an extent no longer.
    pub(super) fn subtract_sums(&mut self, extent: &ExtentRecord) {
        self.record.allocated = self.record.allocated.saturating_sub(extent.len);
        self.counters.allocated_bytes = self.counters.allocated_bytes.saturating_sub(extent.len);
        if extent.is_reserved() {
            self.counters.reserved_bytes = self.counters.reserved_bytes.saturating_sub(extent.len);
        }
    }

    /// Bytes of all files that stand in extents with content.
    pub(super) fn content_bytes(&self) -> u64 {
        let counters = &self.counters;
        counters
            .allocated_bytes
            .saturating_sub(counters.reserved_bytes)
    }

    /// Enters an extent where there is none. The chunk's reference is the caller's to count.
    pub(super) fn insert(&mut self, start: u64, record: ExtentRecord) -> Result<(), StoreError> {
        self.add_sums(&record);
        self.tx
            .put(self.tree, key::extent(self.ino, start), record.encode())
    }

    /// Reserves space for `start..end`, where there is no extent.
    pub(super) fn reserve(&mut self, start: u64, end: u64) -> Result<(), StoreError> {
        let record = ExtentRecord {
            len: end - start,
            chunk: ChunkId(0),
            chunk_offset: 0,
            birth: self.tx.generation(),
        };
        self.insert(start, record)
    }

    /// Reserves space for what of `start..end` has none, past at most `max` extents; where it got
    /// to.
    pub(super) fn reserve_holes(
        &mut self,
        start: u64,
        end: u64,
        max: usize,
    ) -> Result<u64, StoreError> {
        let found = overlapping(self.tx, self.tree, self.ino, start, end, max)?;
        let until = reach(&found, end, max);
        let mut at = start;
        for extent in found {
            if extent.start > at {
                self.reserve(at, extent.start)?;
            }
            at = at.max(extent.end());
        }
        if at < until {
            self.reserve(at, until)?;
        }
        Ok(until)
    }

    /// Removes what lies in `start..end`, cutting extents at the edges: at most `max` extents, 1 or
    /// more. Where it got to, and how many there were.
    pub(super) fn punch_some(
        &mut self,
        start: u64,
        end: u64,
        max: usize,
    ) -> Result<(u64, usize), EngineError> {
        let found = overlapping(self.tx, self.tree, self.ino, start, end, max)?;
        let until = reach(&found, end, max);
        let count = found.len();
        for extent in found {
            self.cut(extent, start, until)?;
        }
        Ok((until, count))
    }

    /// Removes what lies behind `start`, last extents first, at most about `max`; where what is
    /// left ends when that was not all.
    pub(super) fn punch_tail(
        &mut self,
        start: u64,
        max: usize,
    ) -> Result<Option<u64>, EngineError> {
        for _ in 0..max {
            let Some(extent) = last_before(self.tx, self.tree, self.ino, u64::MAX)? else {
                return Ok(None);
            };
            if extent.end() <= start {
                return Ok(None);
            }
            self.cut(extent, start, u64::MAX)?;
            if extent.start <= start {
                return Ok(None);
            }
        }
        let last = last_before(self.tx, self.tree, self.ino, u64::MAX)?;
        Ok(last.map(|last| last.end()).filter(|end| *end > start))
    }

    fn cut(&mut self, extent: Extent, start: u64, end: u64) -> Result<(), EngineError> {
        self.subtract_sums(&extent.record);
        let had = u64::from(self.owns(&extent)?);
        let mut kept = 0;
        if extent.start < start {
            let left = extent.clipped(extent.start, start);
            self.insert_part(left)?;
            kept += 1;
        } else {
            self.tx
                .delete(self.tree, key::extent(self.ino, extent.start))?;
        }
        if extent.end() > end {
            let right = extent.clipped(end, extent.end());
            self.insert_part(right)?;
            kept += 1;
        }
        let chunk = extent.record.chunk;
        if extent.record.has_chunk() && kept > had {
            add_references(self.tx, chunk, kept - had)?;
        } else if extent.record.has_chunk() && kept < had {
            drop_reference(self.tx, self.kept, chunk)?;
        }
        Ok(())
    }

    /// Enters what is left of an extent, as one that is new.
    fn insert_part(&mut self, part: Extent) -> Result<(), StoreError> {
        let birth = self.tx.generation();
        self.insert(
            part.start,
            ExtentRecord {
                birth,
                ..part.record
            },
        )
    }

    /// Whether an extent's reference goes with it: it does not while a snapshot has the extent too.
    pub(super) fn owns(&self, extent: &Extent) -> Result<bool, StoreError> {
        let TreeId::Fs(dataset) = self.tree else {
            return Ok(true);
        };
        let lineage = lineage(self.tx, dataset)?;
        let key = key::extent(self.ino, extent.start);
        Ok(extent.record.birth > lineage.boundary(&key))
    }

    /// The extent that begins at an offset.
    pub(super) fn at(&self, offset: u64) -> Result<Option<Extent>, StoreError> {
        let last = last_before(self.tx, self.tree, self.ino, offset)?;
        Ok(last.filter(|extent| extent.start == offset))
    }
}

/// Counts `count` further extents of a chunk.
pub(super) fn add_references(tx: &mut Tx<'_>, id: ChunkId, count: u64) -> Result<(), StoreError> {
    let mut record = chunk(tx, id)?;
    record.refcount = record.refcount.checked_add(count).ok_or_else(|| {
        StoreError::Corrupt(format!("chunk {id} has too many references; run razorfsck"))
    })?;
    tx.put(TreeId::Chunks, key::chunk(id), record.encode())
}

/// Counts an extent of a chunk less; the last one frees it, and nobody will ask for it again.
pub(super) fn drop_reference(tx: &mut Tx<'_>, kept: &Cache, id: ChunkId) -> Result<(), StoreError> {
    let mut record = chunk(tx, id)?;
    record.refcount = record.refcount.checked_sub(1).ok_or_else(|| {
        StoreError::Corrupt(format!(
            "chunk {id} has an extent but no reference; run razorfsck"
        ))
    })?;
    if record.refcount > 0 {
        return tx.put(TreeId::Chunks, key::chunk(id), record.encode());
    }
    kept.forget(id, record.raw_len);
    tx.delete(TreeId::Chunks, key::chunk(id))?;
    hashes::remove(tx, &record.hash, id)?;
    space::free(
        tx,
        record.start_unit,
        u64::from(record.stored_len.div_ceil(UNIT_BYTES)),
    )
}
