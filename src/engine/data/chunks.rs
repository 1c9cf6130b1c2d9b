//! Chunk content: cutting, checksums, reading back checked.

use std::sync::Arc;

use crate::disk::Disk;
use crate::engine::{EngineError, Sink};
use crate::format::id::ChunkId;
use crate::format::record::{CHUNK_BLOCK_BYTES, ChunkRecord, Codec};
use crate::format::superblock::UNIT_BYTES;
use crate::store::StoreError;

const BLOCK: usize = CHUNK_BLOCK_BYTES as usize;

/// The record of a new chunk with one reference, its units yet to be told.
pub(super) fn describe(content: &[u8]) -> ChunkRecord {
    let len = u32::try_from(content.len()).unwrap_or(u32::MAX);
    ChunkRecord {
        start_unit: 0,
        refcount: 1,
        stored_len: len,
        raw_len: len,
        codec: Codec::Raw,
        hash: *blake3::hash(content).as_bytes(),
        crcs: content.chunks(BLOCK).map(crc32fast::hash).collect(),
    }
}

/// Units that `len` bytes take.
pub(super) fn units(len: usize) -> u64 {
    (len as u64).div_ceil(u64::from(UNIT_BYTES))
}

/// Writes a chunk's content at its units.
pub(super) fn write(disk: &Arc<dyn Disk>, unit: u64, content: &[u8]) -> Result<(), StoreError> {
    let offset = unit_offset(unit)?;
    disk.write_at(offset, content)
        .map_err(|source| StoreError::io(format!("chunks.dat, writing at {offset}"), source))
}

fn unit_offset(unit: u64) -> Result<u64, StoreError> {
    unit.checked_mul(u64::from(UNIT_BYTES))
        .ok_or_else(|| StoreError::Corrupt(format!("unit {unit} is beyond chunks.dat")))
}

/// Hands `len` bytes at `offset` of a chunk's content to `sink`, checked against their checksums
/// first.
pub(super) fn read(
    disk: &Arc<dyn Disk>,
    id: ChunkId,
    record: &ChunkRecord,
    offset: u32,
    len: usize,
    sink: &mut dyn Sink,
) -> Result<(), EngineError> {
    let corrupt =
        |what: &str| EngineError::from(StoreError::Corrupt(format!("chunk {id}: {what}")));
    if record.codec != Codec::Raw {
        return Err(corrupt(
            "compressed with a codec this version does not read",
        ));
    }
    let offset = offset as usize;
    let end = offset
        .checked_add(len)
        .filter(|end| *end <= record.stored_len as usize);
    let Some(end) = end else {
        return Err(corrupt("an extent reaches beyond it"));
    };
    let first = offset / BLOCK;
    let start = first * BLOCK;
    let stop = end.next_multiple_of(BLOCK).min(record.stored_len as usize);
    let mut bytes = vec![0; stop - start];
    let at = unit_offset(record.start_unit)?.saturating_add(start as u64);
    disk.read_at(at, &mut bytes).map_err(|source| {
        StoreError::io(format!("chunks.dat, reading chunk {id} at {at}"), source)
    })?;
    for (index, block) in bytes.chunks(BLOCK).enumerate() {
        let expected = record.crcs.get(first + index).copied();
        if expected != Some(crc32fast::hash(block)) {
            let place = at + (index * BLOCK) as u64;
            return Err(corrupt(&format!(
                "checksum mismatch in chunks.dat at {place}"
            )));
        }
    }
    let wanted = bytes.get(offset - start..end - start).unwrap_or_default();
    sink.put(wanted)
}
