//! Chunk records: which can be believed, and how often extents refer to each.

use std::collections::HashMap;

use super::Fixes;
use super::build::Builder;
use super::content::{self, Content};
use super::fix::Fix;
use crate::format::id::ChunkId;
use crate::format::key::{self, TreeId};
use crate::format::record::{CHUNK_BLOCK_BYTES, ChunkRecord, Codec};
use crate::format::superblock::{UNIT_BYTES, UNITS_END};
use crate::fsck::chunks::is_id;
use crate::fsck::split_u64;
use crate::store::StoreError;

const TREE: TreeId = TreeId::Chunks;
const BLOCK: usize = CHUNK_BLOCK_BYTES as usize;
/// Numbers of chunks for each checkpoint.
const CHUNK_BAND: u64 = 1 << 24;

// Blocks of a damaged chunk become chunks of their own where they lie.
const _: () = assert!(CHUNK_BLOCK_BYTES == UNIT_BYTES);

/// What the other passes need of a chunk.
pub(super) struct Chunk {
    pub(super) id: ChunkId,
    pub(super) start_unit: u64,
    pub(super) units: u64,
    pub(super) raw_len: u32,
    /// Extents that refer to it.
    pub(super) found: u64,
}

/// All chunks, by id.
pub(super) struct Chunks {
    pub(super) table: Vec<Chunk>,
    /// What is left of chunks with damaged blocks.
    cut: HashMap<ChunkId, Vec<Piece>>,
    next_id: u64,
}

/// Whole blocks of a damaged chunk, now a chunk of their own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    /// Bytes of the old chunk's content.
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) id: ChunkId,
}

/// Where bytes of a chunk are now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// How many bytes.
    pub(super) len: u64,
    /// The chunk, and the offset in it; `None` when they are gone.
    pub(super) at: Option<(ChunkId, u32)>,
}

/// Checks the records, and with `data` all content.
pub(super) fn check(
    builder: &mut Builder,
    data: bool,
    fixes: &mut Fixes<'_>,
) -> Result<Chunks, StoreError> {
    let last = builder.view().last(TREE)?.map(|(key, _)| key);
    let last = last.and_then(|key| split_u64(&key).map(|(id, _)| id));
    let band = builder.generation().0.checked_mul(CHUNK_BAND);
    let mut chunks = Chunks {
        table: Vec::new(),
        cut: HashMap::new(),
        next_id: last.unwrap_or(0).saturating_add(1).max(band.unwrap_or(0)),
    };
    builder.view().scan_all(TREE, &mut |key, value| {
        chunks.take(builder, key, value, data, fixes)
    })?;
    chunks.drop_overlaps(builder, fixes)?;
    Ok(chunks)
}

impl Chunks {
    fn take(
        &mut self,
        builder: &mut Builder,
        key: &[u8],
        value: &[u8],
        data: bool,
        fixes: &mut Fixes<'_>,
    ) -> Result<(), StoreError> {
        let id = match split_u64(key) {
            Some((id, [])) if is_id(id) => ChunkId(id),
            _ => {
                fixes.dropped(
                    TREE,
                    format!("the key {}", key.escape_ascii()),
                    "it is no chunk's",
                );
                return builder.delete(TREE, key).map(drop);
            }
        };
        let record = match ChunkRecord::decode(value) {
            Ok(record) => record,
            Err(error) => {
                fixes.dropped(TREE, format!("chunk {id}"), error);
                return builder.delete(TREE, key).map(drop);
            }
        };
        let units = u64::from(record.stored_len.div_ceil(UNIT_BYTES));
        let start = record.start_unit.checked_mul(UNIT_BYTES.into());
        let end = start.and_then(|start| start.checked_add(record.stored_len.into()));
        let inside = record
            .start_unit
            .checked_add(units)
            .is_some_and(|end| end <= UNITS_END);
        if !inside || end.is_none_or(|end| end > builder.media().chunks.len_bytes()) {
            let reason = "it lies beyond the end of chunks.dat";
            fixes.add(Fix::ChunkDropped { chunk: id, reason });
            return builder.delete(TREE, key).map(drop);
        }
        if data && !self.check_content(builder, id, &record, fixes)? {
            return Ok(());
        }
        self.add(id, &record);
        Ok(())
    }

    fn add(&mut self, id: ChunkId, record: &ChunkRecord) {
        self.table.push(Chunk {
            id,
            start_unit: record.start_unit,
            units: u64::from(record.stored_len.div_ceil(UNIT_BYTES)),
            raw_len: record.raw_len,
            found: 0,
        });
    }

    /// Reads a chunk's content; whether the chunk stays as it is.
    fn check_content(
        &mut self,
        builder: &mut Builder,
        id: ChunkId,
        record: &ChunkRecord,
        fixes: &mut Fixes<'_>,
    ) -> Result<bool, StoreError> {
        let content = content::read(builder.media(), record);
        let bad = content.whole.iter().filter(|whole| !**whole).count();
        if bad == 0 {
            let Some(bytes) = content.decompressed(record) else {
                let reason = "it does not decompress";
                fixes.add(Fix::ChunkDropped { chunk: id, reason });
                builder.delete(TREE, &key::chunk(id))?;
                return Ok(false);
            };
            let hash = blake3::hash(&bytes);
            if hash != record.hash {
                let mut record = record.clone();
                record.hash = hash.into();
                builder.put(TREE, &key::chunk(id), &record.encode())?;
            }
            return Ok(true);
        }
        builder.delete(TREE, &key::chunk(id))?;
        let blocks = bad as u64;
        fixes.add(Fix::ChunkCut { chunk: id, blocks });
        self.cut.entry(id).or_default();
        // Of compressed content no part can be told apart.
        if record.codec == Codec::Raw {
            self.keep_blocks(builder, id, record, &content)?;
        }
        Ok(false)
    }

    /// Makes each run of whole blocks a chunk.
    fn keep_blocks(
        &mut self,
        builder: &mut Builder,
        id: ChunkId,
        record: &ChunkRecord,
        content: &Content,
    ) -> Result<(), StoreError> {
        let mut at = 0;
        for run in content.whole.chunk_by(|a, b| a == b) {
            let (first, blocks) = (at, run.len());
            at += blocks;
            if run.first() != Some(&true) {
                continue;
            }
            let start = first * BLOCK;
            let end = (at * BLOCK).min(content.bytes.len());
            let bytes = content.bytes.get(start..end).unwrap_or_default();
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let piece = ChunkRecord {
                start_unit: record.start_unit + first as u64,
                refcount: 1,
                stored_len: len,
                raw_len: len,
                codec: Codec::Raw,
                hash: blake3::hash(bytes).into(),
                crcs: record
                    .crcs
                    .iter()
                    .skip(first)
                    .take(blocks)
                    .copied()
                    .collect(),
            };
            let new = ChunkId(self.next_id);
            self.next_id += 1;
            builder.put(TREE, &key::chunk(new), &piece.encode())?;
            let start = u32::try_from(start).unwrap_or(u32::MAX);
            self.cut.entry(id).or_default().push(Piece {
                start,
                end: start.saturating_add(len),
                id: new,
            });
            self.add(new, &piece);
        }
        Ok(())
    }

    /// Of chunks that claim the same units, keeps the one whose content is there.
    fn drop_overlaps(
        &mut self,
        builder: &mut Builder,
        fixes: &mut Fixes<'_>,
    ) -> Result<(), StoreError> {
        self.table.sort_unstable_by_key(|chunk| chunk.start_unit);
        let mut doubtful = vec![false; self.table.len()];
        let mut end = 0;
        let mut reaches_to_end = 0;
        for (index, chunk) in self.table.iter().enumerate() {
            if chunk.start_unit < end {
                for at in [reaches_to_end, index] {
                    if let Some(flag) = doubtful.get_mut(at) {
                        *flag = true;
                    }
                }
            }
            if chunk.start_unit + chunk.units > end {
                end = chunk.start_unit + chunk.units;
                reaches_to_end = index;
            }
        }
        let mut end = 0;
        let mut kept = Vec::with_capacity(self.table.len());
        for (chunk, doubtful) in std::mem::take(&mut self.table).into_iter().zip(doubtful) {
            let believed = !doubtful
                || chunk.start_unit >= end
                    && {
                        let value = builder.view().get(TREE, &key::chunk(chunk.id))?;
                        let record = value.map(|value| ChunkRecord::decode(&value));
                        matches!(record, Some(Ok(record)) if content::is_whole(builder.media(), &record))
                    };
            if believed {
                end = end.max(chunk.start_unit + chunk.units);
                kept.push(chunk);
            } else {
                let reason = "its place belongs to another";
                fixes.add(Fix::ChunkDropped {
                    chunk: chunk.id,
                    reason,
                });
                builder.delete(TREE, &key::chunk(chunk.id))?;
            }
        }
        kept.sort_unstable_by_key(|chunk| chunk.id);
        self.table = kept;
        Ok(())
    }

    fn find(&mut self, id: ChunkId) -> Option<&mut Chunk> {
        let index = self
            .table
            .binary_search_by_key(&id, |chunk| chunk.id)
            .ok()?;
        self.table.get_mut(index)
    }

    /// Where `len` bytes from `offset` of a chunk's content are now; counts the references.
    pub(super) fn refer(&mut self, id: ChunkId, offset: u32, len: u64) -> Vec<Place> {
        if let Some(pieces) = self.cut.get(&id) {
            let places = places(pieces, offset, len);
            for (id, _) in places.iter().filter_map(|place| place.at) {
                if let Some(chunk) = self.find(id) {
                    chunk.found += 1;
                }
            }
            return places;
        }
        let lost = vec![Place { len, at: None }];
        let Some(chunk) = self.find(id) else {
            return lost;
        };
        let end = u64::from(offset).checked_add(len);
        if end.is_none_or(|end| end > u64::from(chunk.raw_len)) {
            return lost;
        }
        chunk.found += 1;
        let at = Some((id, offset));
        vec![Place { len, at }]
    }

    /// Takes a reference back.
    pub(super) fn release(&mut self, id: ChunkId) {
        if let Some(chunk) = self.find(id) {
            chunk.found = chunk.found.saturating_sub(1);
        }
    }

    /// Counts further references.
    pub(super) fn share(&mut self, id: ChunkId) {
        if let Some(chunk) = self.find(id) {
            chunk.found += 1;
        }
    }

    /// Enters the references counted, and drops chunks without any.
    pub(super) fn finish(&mut self, builder: &mut Builder) -> Result<(), StoreError> {
        let view = builder.view();
        for chunk in &self.table {
            let key = key::chunk(chunk.id);
            if chunk.found == 0 {
                builder.delete(TREE, &key)?;
                continue;
            }
            let record = view
                .get(TREE, &key)?
                .map(|value| ChunkRecord::decode(&value));
            if let Some(Ok(mut record)) = record
                && record.refcount != chunk.found
            {
                record.refcount = chunk.found;
                builder.put(TREE, &key, &record.encode())?;
            }
        }
        self.table.retain(|chunk| chunk.found > 0);
        Ok(())
    }
}

/// Cuts a slice of a damaged chunk at the pieces that are left of it.
pub(super) fn places(pieces: &[Piece], offset: u32, len: u64) -> Vec<Place> {
    let (mut at, end) = (u64::from(offset), u64::from(offset).saturating_add(len));
    let mut places = Vec::new();
    for piece in pieces {
        let (start, stop) = (
            u64::from(piece.start).max(at),
            u64::from(piece.end).min(end),
        );
        if start >= stop {
            continue;
        }
        if start > at {
            let len = start - at;
            places.push(Place { len, at: None });
        }
        let inside = u32::try_from(start - u64::from(piece.start)).unwrap_or(u32::MAX);
        places.push(Place {
            len: stop - start,
            at: Some((piece.id, inside)),
        });
        at = stop;
    }
    if at < end {
        places.push(Place {
            len: end - at,
            at: None,
        });
    }
    places
}
