//! Chunk records, and how often extents refer to each.

use super::{Bytes, Context, Issue, Issues, split_u64, walk_all};
use crate::format::id::ChunkId;
use crate::format::key::TreeId;
use crate::format::record::ChunkRecord;
use crate::format::superblock::UNIT_BYTES;

/// What the other passes need of a chunk.
pub(super) struct Chunk {
    pub(super) id: ChunkId,
    pub(super) start_unit: u64,
    pub(super) stored_len: u32,
    pub(super) raw_len: u32,
    pub(super) refcount: u64,
    /// Extents that refer to it.
    pub(super) found: u64,
}

impl Chunk {
    /// Units it takes in chunks.dat.
    pub(super) fn units(&self) -> u64 {
        u64::from(self.stored_len.div_ceil(UNIT_BYTES))
    }
}

/// All chunks, by id.
pub(super) struct Table {
    pub(super) chunks: Vec<Chunk>,
    pub(super) complete: bool,
    /// Chunks that were referred to since [`Table::note`], once for each reference.
    noted: Option<Vec<ChunkId>>,
}

impl Table {
    /// The chunk with an id.
    pub(super) fn find(&mut self, id: ChunkId) -> Option<&mut Chunk> {
        let index = self
            .chunks
            .binary_search_by_key(&id, |chunk| chunk.id)
            .ok()?;
        self.chunks.get_mut(index)
    }

    /// Counts a reference to a chunk that is there.
    pub(super) fn count(&mut self, id: ChunkId) {
        if let Some(chunk) = self.find(id) {
            chunk.found += 1;
            if let Some(noted) = &mut self.noted {
                noted.push(id);
            }
        }
    }

    /// Notes the references that are counted from here on.
    pub(super) fn note(&mut self) {
        self.noted = Some(Vec::new());
    }

    /// Ends what [`Table::note`] began; what was noted counts, or does not.
    pub(super) fn settle(&mut self, counts: bool) {
        for id in self.noted.take().into_iter().flatten() {
            if let Some(chunk) = self.find(id).filter(|_| !counts) {
                chunk.found -= 1;
            }
        }
    }
}

const TREE: TreeId = TreeId::Chunks;

/// Reads the chunk records.
pub(super) fn load(context: &Context<'_>, issues: &mut Issues<'_>) -> Table {
    let length = context.media.chunks.len_bytes();
    let mut chunks = Vec::new();
    let mut unreadable = false;
    let read = walk_all(context, TREE, issues, &mut |issues, key, value| {
        let Some((id, [])) = split_u64(key).filter(|(id, _)| is_id(*id)) else {
            let (tree, key) = (TREE, Bytes(key.to_vec()));
            issues.add(Issue::UnknownKey { tree, key });
            return;
        };
        let chunk = ChunkId(id);
        let record = match ChunkRecord::decode(value) {
            Ok(record) => record,
            Err(error) => {
                unreadable = true;
                return issues.bad_record(TREE, format!("chunk {chunk}"), &error);
            }
        };
        let start = record.start_unit.saturating_mul(UNIT_BYTES.into());
        let end = start.saturating_add(record.stored_len.into());
        if end > length {
            issues.add(Issue::ChunkBeyondFile { chunk, end, length });
        }
        chunks.push(Chunk {
            id: chunk,
            start_unit: record.start_unit,
            stored_len: record.stored_len,
            raw_len: record.raw_len,
            refcount: record.refcount,
            found: 0,
        });
    });
    issues.summary.chunks = chunks.len() as u64;
    Table {
        chunks,
        complete: read && !unreadable,
        noted: None,
    }
}

/// Whether a chunk can have the number: not the marks of extents without a chunk.
pub(super) fn is_id(id: u64) -> bool {
    id != 0 && ChunkId(id) != ChunkId::LOST
}

/// Compares the reference counts with the extents found.
pub(super) fn check_references(table: &Table, issues: &mut Issues<'_>) {
    for chunk in &table.chunks {
        if chunk.found != chunk.refcount {
            issues.add(Issue::Refcount {
                chunk: chunk.id,
                found: chunk.found,
                recorded: chunk.refcount,
            });
        } else if chunk.found == 0 {
            issues.add(Issue::ChunkUnused { chunk: chunk.id });
        }
    }
}
