//! Stored content against the checksums of its chunk.

use crate::disk::Media;
use crate::format::codec;
use crate::format::record::{CHUNK_BLOCK_BYTES, ChunkRecord};
use crate::format::superblock::UNIT_BYTES;

const BLOCK: usize = CHUNK_BLOCK_BYTES as usize;

/// Which blocks of a chunk match their checksums, and what they hold.
pub(super) struct Content {
    pub(super) bytes: Vec<u8>,
    pub(super) whole: Vec<bool>,
}

impl Content {
    /// What the chunk holds, of which all stored bytes match; `None` when they are no such content.
    pub(super) fn decompressed(&self, record: &ChunkRecord) -> Option<Vec<u8>> {
        let mut content = vec![0; record.raw_len as usize];
        codec::decompress(record.codec, &self.bytes, &mut content).ok()?;
        Some(content)
    }
}

/// Reads a chunk's content; blocks that cannot be read do not match.
pub(super) fn read(media: &Media, record: &ChunkRecord) -> Content {
    let mut bytes = vec![0; record.stored_len as usize];
    let mut offset = record.start_unit.saturating_mul(u64::from(UNIT_BYTES));
    let mut whole = Vec::new();
    for (block, crc) in bytes.chunks_mut(BLOCK).zip(&record.crcs) {
        let read = media.chunks.read_at(offset, block).is_ok();
        whole.push(read && crc32fast::hash(block) == *crc);
        offset = offset.saturating_add(block.len() as u64);
    }
    Content { bytes, whole }
}

/// Whether all of a chunk's content matches.
pub(super) fn is_whole(media: &Media, record: &ChunkRecord) -> bool {
    read(media, record).whole.iter().all(|whole| *whole)
}
