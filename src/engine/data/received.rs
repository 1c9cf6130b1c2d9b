//! What a receive does to a file beside putting content in it. Times and flags are what the stream
//! says they are: none of this changes or asks for them. Nobody else uses the dataset.

use super::extents::{Editor, add_references, overlapping};
use super::write::SIZE_MAX;
use super::{EXTENTS_MAX, UNIT, check_file, extents};
use crate::engine::{EngineError, Volume};
use crate::format::id::{ChunkId, Ino};
use crate::format::record::{ChunkRecord, ExtentRecord};
use crate::store::pages::Need;
use crate::store::{Read, StoreError};

fn end_of(offset: u64, len: u64) -> Result<u64, EngineError> {
    let end = offset.checked_add(len).filter(|end| *end <= SIZE_MAX);
    end.filter(|_| len > 0)
        .ok_or(EngineError::Invalid("a range that no file has"))
}

impl Volume {
    /// Makes a hole of `offset..offset + len`, or reserves it all.
    pub(in crate::engine) fn receive_range(
        &self,
        ino: Ino,
        (offset, len): (u64, u64),
        reserve: bool,
    ) -> Result<(), EngineError> {
        let end = end_of(offset, len)?;
        let promise = match reserve {
            true => Some(self.reserve_units(len.div_ceil(UNIT))?),
            false => None,
        };
        let mut at = offset;
        while at < end {
            let need = if reserve { Need::Space } else { Need::Reclaim };
            at = self.edit(ino, need, |editor| {
                let (until, _) = editor.punch_some(at, end, EXTENTS_MAX)?;
                if reserve {
                    editor.reserve(at, until)?;
                }
                Ok(until)
            })?;
        }
        drop(promise);
        Ok(())
    }

    /// Has `offset..offset + len` refer to the content that is at `source_offset` of a file, all of
    /// it.
    pub(in crate::engine) fn receive_share(
        &self,
        ino: Ino,
        (offset, len): (u64, u64),
        source: Ino,
        source_offset: u64,
    ) -> Result<(), EngineError> {
        let end = end_of(offset, len)?;
        let source_end = end_of(source_offset, len)?;
        if ino == source && offset < source_end && source_offset < end {
            return Err(EngineError::Invalid("a range that is to be its own source"));
        }
        let tree = self.tree();
        let mut at = offset;
        while at < end {
            at = self.edit(ino, Need::Space, |editor| {
                if end > editor.record.size {
                    return Err(EngineError::Invalid("content out of its place"));
                }
                let from = source_offset + (at - offset);
                let found = overlapping(editor.tx, tree, source, from, source_end, 1)?;
                let part = found.first().map(|extent| extent.clipped(from, source_end));
                let part = part.filter(|part| part.start == from && part.record.has_chunk());
                let part = part.ok_or(EngineError::Invalid("content that is not there"))?;
                // Before what is there goes: that may be the chunk's last extent.
                add_references(editor.tx, part.record.chunk, 1)?;
                let (until, _) = editor.punch_some(at, at + part.record.len, EXTENTS_MAX)?;
                let record = ExtentRecord {
                    len: until - at,
                    birth: editor.tx.generation(),
                    ..part.record
                };
                editor.insert(at, record)?;
                Ok(until)
            })?;
        }
        Ok(())
    }

    /// One transaction on a file's extents.
    fn edit(
        &self,
        ino: Ino,
        need: Need,
        act: impl FnOnce(&mut Editor<'_, '_>) -> Result<u64, EngineError>,
    ) -> Result<u64, EngineError> {
        let mut tx = self.begin_tx(need)?;
        let mut record = self.load_inode(&tx, ino)?;
        check_file(&record)?;
        let mut counters = self.load_counters(&tx)?;
        let before = counters.allocated_bytes;
        let until = act(&mut Editor {
            tx: &mut tx,
            kept: &self.store.data.cache,
            tree: self.tree(),
            ino,
            record: &mut record,
            counters: &mut counters,
        })?;
        self.store_inode(&mut tx, ino, &record)?;
        let (project, more) = (
            record.projid,
            counters.allocated_bytes.saturating_sub(before),
        );
        let mut charge = self.charge(&tx, project, more)?;
        self.commit_counted(tx, (&counters, project), 0, Some(&mut charge))?;
        Ok(until)
    }

    /// At most `max` extents of a file that overlap `start..end`: where each begins, and its record.
    pub(in crate::engine) fn extents_in(
        &self,
        read: &impl Read,
        ino: Ino,
        (start, end): (u64, u64),
        max: usize,
    ) -> Result<Vec<(u64, ExtentRecord)>, StoreError> {
        let found = overlapping(read, self.tree(), ino, start, end, max)?;
        let pairs = found.iter().map(|extent| (extent.start, extent.record));
        Ok(pairs.collect())
    }
}

/// A chunk's record.
pub(in crate::engine) fn chunk_record(
    read: &impl Read,
    id: ChunkId,
) -> Result<ChunkRecord, StoreError> {
    extents::chunk(read, id)
}
