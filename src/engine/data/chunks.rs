//! Chunk content: cutting, checksums, reading back checked.

use std::cell::OnceCell;
use std::ops::Range;
use std::sync::Arc;

use crate::disk::Disk;
use crate::engine::{EngineError, Sink, Volume};
use crate::format::id::ChunkId;
use crate::format::record::{CHUNK_BLOCK_BYTES, ChunkRecord, Codec};
use crate::format::superblock::UNIT_BYTES;
use crate::store::StoreError;

const BLOCK: usize = CHUNK_BLOCK_BYTES as usize;
/// Bytes that are read and kept together for who reads much at once.
const GROUP: usize = 8 * BLOCK;
/// Bytes of a group from which all of it is read: less is what somebody reads here and there, who
/// would pay for eight blocks to have one.
const GROUP_MIN: usize = GROUP / 2;

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

/// Writes whole units from unit `first` on.
pub(super) fn write(disk: &Arc<dyn Disk>, first: u64, units: &[&[u8]]) -> Result<(), StoreError> {
    let offset = unit_offset(first)?;
    disk.write_all_at(offset, units)
        .map_err(|source| StoreError::io(format!("chunks.dat, writing at {offset}"), source))
}

fn unit_offset(unit: u64) -> Result<u64, StoreError> {
    unit.checked_mul(u64::from(UNIT_BYTES))
        .ok_or_else(|| StoreError::Corrupt(format!("unit {unit} is beyond chunks.dat")))
}

/// Content as it was read and checked. Chunks never change and their numbers are not used twice, so
/// nothing here is ever stale.
pub(super) struct Cache {
    parts: quick_cache::sync::Cache<(ChunkId, Part), Arc<[u8]>, Bytes>,
}

/// A part of a chunk that is kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    /// [`GROUP`] bytes, or what is left behind the group before.
    Group(u32),
    /// A block of the chunk.
    Block(u32),
}

impl Part {
    /// The group that byte `at` of a chunk stands in.
    fn group(at: usize) -> Part {
        Part::Group(u32::try_from(at / GROUP).unwrap_or(u32::MAX))
    }

    /// The block that byte `at` of a chunk stands in.
    fn block(at: usize) -> Part {
        Part::Block(u32::try_from(at / BLOCK).unwrap_or(u32::MAX))
    }

    /// The bytes of a chunk that it is, as far as the chunk reaches.
    fn range(self) -> Range<usize> {
        let (number, size) = match self {
            Part::Group(number) => (number, GROUP),
            Part::Block(number) => (number, BLOCK),
        };
        let start = (number as usize).saturating_mul(size);
        start..start.saturating_add(size)
    }

    /// Some bytes of the chunk, of its content.
    fn slice<'c>(self, content: &'c [u8], wanted: &Range<usize>) -> Option<&'c [u8]> {
        let start = self.range().start;
        content.get(wanted.start.checked_sub(start)?..wanted.end.checked_sub(start)?)
    }
}

/// An entry weighs what it takes.
#[derive(Clone)]
struct Bytes;

impl quick_cache::Weighter<(ChunkId, Part), Arc<[u8]>> for Bytes {
    fn weight(&self, _: &(ChunkId, Part), content: &Arc<[u8]>) -> u64 {
        content.len() as u64 + 64
    }
}

impl Cache {
    /// A cache of at most about `bytes`.
    pub(super) fn new(bytes: u64) -> Self {
        let items = usize::try_from(bytes / GROUP as u64).unwrap_or(usize::MAX);
        Cache {
            parts: quick_cache::sync::Cache::with_weighter(items.max(16), bytes, Bytes),
        }
    }
}

/// A chunk to read from.
pub(super) struct Reader<'a> {
    pub(super) disk: &'a Arc<dyn Disk>,
    pub(super) cache: &'a Cache,
    pub(super) id: ChunkId,
}

impl Reader<'_> {
    fn corrupt(&self, what: &str) -> StoreError {
        StoreError::Corrupt(format!("chunk {}: {what}", self.id))
    }

    /// Hands `len` bytes at `offset` of the chunk's content to `sink`, checked against their
    /// checksums when they were read. Asks for the chunk's record only when not all of them are in
    /// memory.
    pub(super) fn read(
        &self,
        offset: u32,
        len: usize,
        find: impl Fn() -> Result<ChunkRecord, StoreError>,
        sink: &mut dyn Sink,
    ) -> Result<(), EngineError> {
        let mut at = offset as usize;
        let end = at.saturating_add(len);
        let found = OnceCell::new();
        let record = || -> Result<&ChunkRecord, StoreError> {
            if let Some(record) = found.get() {
                return Ok(record);
            }
            let record = self.checked(find()?, end)?;
            Ok(found.get_or_init(|| record))
        };
        while at < end {
            let group = Part::group(at);
            let range = at..group.range().end.min(end);
            at = range.end;
            if self.put_cached(group, &range, sink)? {
                continue;
            }
            if range.len() >= GROUP_MIN {
                self.read_group(record()?, range, sink)?;
            } else {
                self.read_blocks(&record, range, sink)?;
            }
        }
        Ok(())
    }

    /// Hands a range to `sink` when the part that it lies in is in memory.
    fn put_cached(
        &self,
        part: Part,
        range: &Range<usize>,
        sink: &mut dyn Sink,
    ) -> Result<bool, EngineError> {
        let cached = self.cache.parts.get(&(self.id, part));
        match cached
            .as_deref()
            .and_then(|content| part.slice(content, range))
        {
            Some(bytes) => sink.put(bytes).map(|()| true),
            None => Ok(false),
        }
    }

    /// Reads a part from the disk, checked, and keeps it.
    fn load_part(&self, record: &ChunkRecord, part: Part) -> Result<Arc<[u8]>, StoreError> {
        let range = part.range();
        let stop = range.end.min(record.stored_len as usize);
        let content: Arc<[u8]> = self.load(record, range.start, stop)?.into();
        self.cache
            .parts
            .insert((self.id, part), Arc::clone(&content));
        Ok(content)
    }

    /// A record with which bytes up to `end` can be read.
    fn checked(&self, record: ChunkRecord, end: usize) -> Result<ChunkRecord, StoreError> {
        if record.codec != Codec::Raw {
            return Err(self.corrupt("compressed with a codec this version does not read"));
        }
        if end > record.stored_len as usize {
            return Err(self.corrupt("an extent reaches beyond it"));
        }
        Ok(record)
    }

    /// Reads a range within a group from the disk, and keeps the group.
    fn read_group(
        &self,
        record: &ChunkRecord,
        range: Range<usize>,
        sink: &mut dyn Sink,
    ) -> Result<(), EngineError> {
        let group = Part::group(range.start);
        match self.load_part(record, group) {
            Ok(content) => sink.put(group.slice(&content, &range).unwrap_or_default()),
            // What is wrong may lie beside what is wanted.
            Err(_) => self.read_blocks(&|| Ok(record), range, sink),
        }
    }

    /// Reads a range block by block, each from memory or the disk, and keeps the blocks.
    fn read_blocks<'r>(
        &self,
        record: &dyn Fn() -> Result<&'r ChunkRecord, StoreError>,
        range: Range<usize>,
        sink: &mut dyn Sink,
    ) -> Result<(), EngineError> {
        let mut at = range.start;
        while at < range.end {
            let block = Part::block(at);
            let wanted = at..block.range().end.min(range.end);
            at = wanted.end;
            if !self.put_cached(block, &wanted, sink)? {
                let content = self.load_part(record()?, block)?;
                sink.put(block.slice(&content, &wanted).unwrap_or_default())?;
            }
        }
        Ok(())
    }

    /// Reads whole blocks from the disk, checked.
    fn load(&self, record: &ChunkRecord, start: usize, stop: usize) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; stop.saturating_sub(start)];
        let at = unit_offset(record.start_unit)?.saturating_add(start as u64);
        self.disk.read_at(at, &mut bytes).map_err(|source| {
            StoreError::io(
                format!("chunks.dat, reading chunk {} at {at}", self.id),
                source,
            )
        })?;
        for (index, block) in bytes.chunks(BLOCK).enumerate() {
            let expected = record.crcs.get(start / BLOCK + index).copied();
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
        };
        let bytes = reader.load(record, 0, record.stored_len as usize)?;
        if record.codec == Codec::Raw && blake3::hash(&bytes) != record.hash {
            return Err(reader.corrupt("its content does not match its BLAKE3 hash"));
        }
        Ok(())
    }
}
