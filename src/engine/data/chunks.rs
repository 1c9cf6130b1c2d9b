//! Chunk content: cutting, checksums, reading back checked.

use std::sync::Arc;

use crate::disk::Disk;
use crate::engine::{EngineError, Sink, Volume};
use crate::format::id::ChunkId;
use crate::format::record::{CHUNK_BLOCK_BYTES, ChunkRecord, Codec};
use crate::format::superblock::UNIT_BYTES;
use crate::store::StoreError;

const BLOCK: usize = CHUNK_BLOCK_BYTES as usize;
/// Bytes that are read and kept together.
const GROUP: usize = 8 * BLOCK;

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

/// Writes units that lie side by side; each slice begins at the unit that it names.
pub(super) fn write(disk: &Arc<dyn Disk>, units: &[(u64, &[u8])]) -> Result<(), StoreError> {
    let Some((first, _)) = units.first() else {
        return Ok(());
    };
    let offset = unit_offset(*first)?;
    let bytes: Vec<&[u8]> = units.iter().map(|(_, bytes)| *bytes).collect();
    disk.write_all_at(offset, &bytes)
        .map_err(|source| StoreError::io(format!("chunks.dat, writing at {offset}"), source))
}

fn unit_offset(unit: u64) -> Result<u64, StoreError> {
    unit.checked_mul(u64::from(UNIT_BYTES))
        .ok_or_else(|| StoreError::Corrupt(format!("unit {unit} is beyond chunks.dat")))
}

/// Content as it was read and checked, by chunk and group of blocks. Chunks never change and their
/// numbers are not used twice, so nothing here is ever stale.
pub(super) struct Cache {
    groups: quick_cache::sync::Cache<(ChunkId, usize), Arc<[u8]>, Bytes>,
}

/// An entry weighs what it takes.
#[derive(Clone)]
struct Bytes;

impl quick_cache::Weighter<(ChunkId, usize), Arc<[u8]>> for Bytes {
    fn weight(&self, _: &(ChunkId, usize), content: &Arc<[u8]>) -> u64 {
        content.len() as u64 + 64
    }
}

impl Cache {
    /// A cache of at most about `bytes`.
    pub(super) fn new(bytes: u64) -> Self {
        let items = usize::try_from(bytes / GROUP as u64).unwrap_or(usize::MAX);
        Cache {
            groups: quick_cache::sync::Cache::with_weighter(items.max(16), bytes, Bytes),
        }
    }
}

/// A chunk to read from.
pub(super) struct Reader<'a> {
    pub(super) disk: &'a Arc<dyn Disk>,
    pub(super) cache: &'a Cache,
    pub(super) id: ChunkId,
    pub(super) record: &'a ChunkRecord,
}

impl Reader<'_> {
    fn corrupt(&self, what: &str) -> StoreError {
        StoreError::Corrupt(format!("chunk {}: {what}", self.id))
    }

    /// Hands `len` bytes at `offset` of the chunk's content to `sink`, checked against their
    /// checksums first.
    pub(super) fn read(
        &self,
        offset: u32,
        len: usize,
        sink: &mut dyn Sink,
    ) -> Result<(), EngineError> {
        if self.record.codec != Codec::Raw {
            return Err(self
                .corrupt("compressed with a codec this version does not read")
                .into());
        }
        let mut at = offset as usize;
        let stored = self.record.stored_len as usize;
        let Some(end) = at.checked_add(len).filter(|end| *end <= stored) else {
            return Err(self.corrupt("an extent reaches beyond it").into());
        };
        while at < end {
            let group = at / GROUP;
            let until = ((group + 1) * GROUP).min(end);
            let base = group * GROUP;
            match self.group(group, stored) {
                Ok(content) => {
                    sink.put(content.get(at - base..until - base).unwrap_or_default())?
                }
                Err(_) => {
                    // What is wrong may lie beside what is wanted.
                    let first = at / BLOCK * BLOCK;
                    let content = self.load(first, until.next_multiple_of(BLOCK).min(stored))?;
                    sink.put(content.get(at - first..until - first).unwrap_or_default())?;
                }
            }
            at = until;
        }
        Ok(())
    }

    /// A group of blocks, from the cache or the disk.
    fn group(&self, group: usize, stored: usize) -> Result<Arc<[u8]>, StoreError> {
        let key = (self.id, group);
        if let Some(content) = self.cache.groups.get(&key) {
            return Ok(content);
        }
        let start = group * GROUP;
        let content: Arc<[u8]> = self.load(start, (start + GROUP).min(stored))?.into();
        self.cache.groups.insert(key, Arc::clone(&content));
        Ok(content)
    }

    /// Reads whole blocks from the disk, checked.
    fn load(&self, start: usize, stop: usize) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; stop.saturating_sub(start)];
        let at = unit_offset(self.record.start_unit)?.saturating_add(start as u64);
        self.disk.read_at(at, &mut bytes).map_err(|source| {
            StoreError::io(
                format!("chunks.dat, reading chunk {} at {at}", self.id),
                source,
            )
        })?;
        for (index, block) in bytes.chunks(BLOCK).enumerate() {
            let expected = self.record.crcs.get(start / BLOCK + index).copied();
            if expected != Some(crc32fast::hash(block)) {
                let place = at + (index * BLOCK) as u64;
                let what = format!("checksum mismatch in chunks.dat at {place}");
                return Err(self.corrupt(&what));
            }
        }
        Ok(bytes)
    }
}

impl Volume {
    /// Reads all of a chunk from the disk and checks it, whatever is in memory.
    pub(in crate::engine) fn verify_chunk(
        &self,
        id: ChunkId,
        record: &ChunkRecord,
    ) -> Result<(), StoreError> {
        let nothing = Cache::new(0);
        let reader = Reader {
            disk: self.journal.chunks(),
            cache: &nothing,
            id,
            record,
        };
        let bytes = reader.load(0, record.stored_len as usize)?;
        if record.codec == Codec::Raw && blake3::hash(&bytes) != record.hash {
            return Err(reader.corrupt("its content does not match its BLAKE3 hash"));
        }
        Ok(())
    }
}
