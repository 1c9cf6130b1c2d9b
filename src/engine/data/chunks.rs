//! Chunk content: cutting, compressing, checksums, reading back checked.

use std::cell::OnceCell;
use std::ops::Range;
use std::sync::Arc;

use super::extents;
use super::kept::{Cache, Part};
use crate::disk::Disk;
use crate::disk::buffer::Buffer;
use crate::engine::{EngineError, Sink, Store};
use crate::format::codec::{self, Compression};
use crate::format::id::ChunkId;
use crate::format::record::{CHUNK_BLOCK_BYTES, CHUNK_MAX, ChunkRecord, Codec};
use crate::format::superblock::UNIT_BYTES;
use crate::store::StoreError;

pub(super) const BLOCK: usize = CHUNK_BLOCK_BYTES as usize;
/// Bytes that are read and kept together for who reads much at once.
pub(super) const GROUP: usize = 8 * BLOCK;
/// Bytes of a group from which all of it is read: less is what somebody reads here and there, who
/// would pay for eight blocks to have one.
const GROUP_MIN: usize = GROUP / 2;

/// A new chunk: its record with one reference, its units yet to be told.
pub(super) struct Packed {
    pub(super) record: ChunkRecord,
    /// What is stored of it, when that is not its content.
    pub(super) stored: Option<Arc<Buffer>>,
}

/// BLAKE3 of a chunk's content.
pub(super) fn hash(content: &[u8]) -> [u8; 32] {
    *blake3::hash(content).as_bytes()
}

/// What some content of this hash is as a chunk: compressed where that saves a unit.
pub(super) fn pack(content: &[u8], hash: [u8; 32], how: Compression) -> Packed {
    let most = u64::from(UNIT_BYTES).saturating_mul(units(content.len()).saturating_sub(1));
    let most = usize::try_from(most).unwrap_or(0);
    let stored = codec::compress(how, content, most, |stored| Arc::new(Buffer::from(stored)));
    let codec = stored.as_ref().map_or(Codec::Raw, |_| how.codec());
    let record = describe(
        content,
        hash,
        codec,
        stored.as_ref().map_or(content, |stored| stored),
    );
    Packed { record, stored }
}

/// The record of a chunk that is stored as it is.
pub(super) fn describe_raw(content: &[u8]) -> ChunkRecord {
    describe(content, hash(content), Codec::Raw, content)
}

pub(super) fn describe(content: &[u8], hash: [u8; 32], codec: Codec, stored: &[u8]) -> ChunkRecord {
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    ChunkRecord {
        start_unit: 0,
        refcount: 1,
        stored_len: len(stored),
        raw_len: len(content),
        codec,
        hash,
        crcs: stored.chunks(BLOCK).map(crc32fast::hash).collect(),
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

/// A chunk to read from.
pub(super) struct Reader<'a> {
    pub(super) disk: &'a Arc<dyn Disk>,
    pub(super) cache: &'a Cache,
    pub(super) id: ChunkId,
    /// The chunk's record as it is now.
    pub(super) now: &'a dyn Fn() -> Result<ChunkRecord, StoreError>,
}

/// How often a chunk may be moved while it is read.
const MOVES_MAX: usize = 8;

impl Reader<'_> {
    /// Reads blocks of the chunk from the disk, from byte `start` on, checked.
    fn load(&self, record: &ChunkRecord, start: usize, bytes: &mut [u8]) -> Result<(), StoreError> {
        self.following(record, |record| {
            load(self.disk, self.id, record, start, bytes)
        })
    }

    /// Reads the chunk from where its record says; when that fails, because it was moved meanwhile
    /// and its old place may hold anything, from where it is now.
    fn following<T>(
        &self,
        record: &ChunkRecord,
        mut read: impl FnMut(&ChunkRecord) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut result = read(record);
        let mut place = record.start_unit;
        for _ in 0..MOVES_MAX {
            if result.is_ok() {
                break;
            }
            // Where it cannot be told, the first error says more.
            let Ok(now) = (self.now)() else { break };
            if now.start_unit == place {
                break;
            }
            place = now.start_unit;
            result = read(&now);
        }
        result
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
        if self.put_cached(Part::Whole, &(at..end), sink)? {
            return Ok(());
        }
        let found = OnceCell::new();
        let record = || -> Result<&ChunkRecord, StoreError> {
            if let Some(record) = found.get() {
                return Ok(record);
            }
            let record = self.checked(find()?, end)?;
            Ok(found.get_or_init(|| record))
        };
        let mut buffer = Vec::new();
        while at < end {
            let group = Part::group(at);
            let range = at..group.range().end.min(end);
            at = range.end;
            if self.put_cached(group, &range, sink)? {
                continue;
            }
            if range.len() < GROUP_MIN {
                self.read_blocks(&record, range, sink)?;
                continue;
            }
            let record = record()?;
            if record.codec != Codec::Raw {
                return self.read_compressed(record, range.start..end, sink);
            }
            self.read_group(record, range, &mut buffer, sink)?;
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
        let kept = self.cache.get(self.id, part);
        match kept
            .as_deref()
            .and_then(|content| part.slice(content, range))
        {
            Some(bytes) => sink.put(bytes).map(|()| true),
            None => Ok(false),
        }
    }

    /// A record with which bytes up to `end` can be read.
    fn checked(&self, record: ChunkRecord, end: usize) -> Result<ChunkRecord, StoreError> {
        if end > record.raw_len as usize {
            return Err(corrupt(self.id, "an extent reaches beyond it"));
        }
        Ok(record)
    }

    /// Reads a range of a part from the disk, checked. The whole part is read, and kept, when that
    /// is worth while; else the blocks of the range go through `buffer`, which has room for them
    /// and which the processor has at hand, unlike memory for what is to stay.
    fn read_part(
        &self,
        record: &ChunkRecord,
        part: Part,
        range: &Range<usize>,
        buffer: &mut [u8],
        sink: &mut dyn Sink,
    ) -> Result<(), EngineError> {
        let stored = record.stored_len as usize;
        if !self.cache.is_worth_keeping(self.id, part, range.start) {
            let start = range.start / BLOCK * BLOCK;
            let stop = range.end.next_multiple_of(BLOCK).min(stored);
            let blocks = buffer.get_mut(..stop - start).unwrap_or_default();
            self.load(record, start, blocks)?;
            let wanted = range.start - start..range.end - start;
            return sink.put(blocks.get(wanted).unwrap_or_default());
        }
        let all = part.range();
        let len = all.end.min(stored) - all.start;
        let mut content: Arc<[u8]> = std::iter::repeat_n(0, len).collect();
        let bytes = Arc::get_mut(&mut content).unwrap_or_default();
        self.load(record, all.start, bytes)?;
        self.cache.keep(self.id, part, Arc::clone(&content));
        sink.put(part.slice(&content, range).unwrap_or_default())
    }

    /// Reads a range within a group from the disk.
    fn read_group(
        &self,
        record: &ChunkRecord,
        range: Range<usize>,
        buffer: &mut Vec<u8>,
        sink: &mut dyn Sink,
    ) -> Result<(), EngineError> {
        buffer.resize(GROUP, 0);
        let group = Part::group(range.start);
        match self.read_part(record, group, &range, buffer, sink) {
            // What is wrong may lie beside what is wanted.
            Err(EngineError::Store(_)) => self.read_blocks(&|| Ok(record), range, sink),
            other => other,
        }
    }

    /// Reads a range block by block, each from memory or the disk.
    fn read_blocks<'r>(
        &self,
        record: &dyn Fn() -> Result<&'r ChunkRecord, StoreError>,
        range: Range<usize>,
        sink: &mut dyn Sink,
    ) -> Result<(), EngineError> {
        let mut buffer = [0; BLOCK];
        let mut at = range.start;
        while at < range.end {
            let block = Part::block(at);
            let wanted = at..block.range().end.min(range.end);
            at = wanted.end;
            if self.put_cached(block, &wanted, sink)? {
                continue;
            }
            let record = record()?;
            if record.codec != Codec::Raw {
                return self.read_compressed(record, wanted.start..range.end, sink);
            }
            self.read_part(record, block, &wanted, &mut buffer, sink)?;
        }
        Ok(())
    }

    /// Reads a range of a compressed chunk from the disk: all of the chunk, since none of it can be
    /// had by itself. It is kept when that is worth while, or when not all is wanted: who reads a
    /// part comes back for the next.
    fn read_compressed(
        &self,
        record: &ChunkRecord,
        range: Range<usize>,
        sink: &mut dyn Sink,
    ) -> Result<(), EngineError> {
        // Not to where the caller wants it: a guest could change there what the codec looks back at.
        let content = self.following(record, |record| load_content(self.disk, self.id, record))?;
        let first = Part::group(0);
        if range != (0..content.len()) || self.cache.is_worth_keeping(self.id, first, 0) {
            for (index, group) in content.chunks(GROUP).enumerate() {
                let part = Part::group(index * GROUP);
                self.cache.keep(self.id, part, Arc::from(group));
            }
        }
        sink.put(content.get(range).unwrap_or_default())
    }
}

fn corrupt(id: ChunkId, what: &str) -> StoreError {
    StoreError::Corrupt(format!("chunk {id}: {what}"))
}

/// Reads blocks of a chunk from the disk, from byte `start` on, checked.
fn load(
    disk: &Arc<dyn Disk>,
    id: ChunkId,
    record: &ChunkRecord,
    start: usize,
    bytes: &mut [u8],
) -> Result<(), StoreError> {
    let at = unit_offset(record.start_unit)?.saturating_add(start as u64);
    disk.read_at(at, bytes).map_err(|source| {
        StoreError::io(format!("chunks.dat, reading chunk {id} at {at}"), source)
    })?;
    for (index, block) in bytes.chunks(BLOCK).enumerate() {
        let expected = record.crcs.get(start / BLOCK + index).copied();
        if expected != Some(crc32fast::hash(block)) {
            let place = at + (index * BLOCK) as u64;
            let what = format!("checksum mismatch in chunks.dat at {place}");
            return Err(corrupt(id, &what));
        }
    }
    Ok(())
}

/// Reads what is stored of a chunk, checked, in whole units.
pub(super) fn load_stored(
    disk: &Arc<dyn Disk>,
    id: ChunkId,
    record: &ChunkRecord,
) -> Result<Buffer, StoreError> {
    let len = record.stored_len as usize;
    let mut stored = Buffer::zeroed(len.next_multiple_of(UNIT_BYTES as usize));
    load(
        disk,
        id,
        record,
        0,
        stored.get_mut(..len).unwrap_or_default(),
    )?;
    Ok(stored)
}

/// Reads all of a chunk from the disk, checked.
fn load_content(
    disk: &Arc<dyn Disk>,
    id: ChunkId,
    record: &ChunkRecord,
) -> Result<Buffer, StoreError> {
    // Of the size of which there is mostly some at hand.
    let mut stored = Buffer::for_filling(CHUNK_MAX as usize);
    let bytes = stored.get_mut(..record.stored_len as usize);
    let bytes = bytes.unwrap_or_default();
    load(disk, id, record, 0, bytes)?;
    if record.codec == Codec::Raw {
        stored.resize(record.stored_len as usize);
        return Ok(stored);
    }
    let mut content = Buffer::for_filling(record.raw_len as usize);
    codec::decompress(record.codec, bytes, &mut content)
        .map_err(|error| corrupt(id, &error.to_string()))?;
    Ok(content)
}

impl Store {
    /// Whether a chunk, as the disk has it, holds `content`.
    pub(super) fn holds(&self, id: ChunkId, record: &ChunkRecord, content: &[u8]) -> bool {
        let found = load_content(self.journal.chunks(), id, record);
        found.is_ok_and(|found| *found == *content)
    }

    /// What is stored of a chunk, read from the disk and checked. It may be moved meanwhile.
    pub(in crate::engine) fn stored_chunk(
        &self,
        id: ChunkId,
        record: &ChunkRecord,
    ) -> Result<Vec<u8>, StoreError> {
        let mut stored = vec![0; record.stored_len as usize];
        let chunk = Reader {
            disk: self.journal.chunks(),
            cache: &self.data.cache,
            id,
            now: &|| extents::chunk(&self.journal.view(), id),
        };
        chunk.load(record, 0, &mut stored)?;
        Ok(stored)
    }

    /// Reads all of a chunk from the disk and checks it, whatever is in memory.
    pub(in crate::engine) fn verify_chunk(
        &self,
        id: ChunkId,
        record: &ChunkRecord,
    ) -> Result<(), StoreError> {
        let content = load_content(self.journal.chunks(), id, record)?;
        if hash(&content) != record.hash {
            let what = "its content does not match its BLAKE3 hash";
            return Err(corrupt(id, what));
        }
        Ok(())
    }
}
