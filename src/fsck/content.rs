//! File content: every stored byte of every chunk against its checksums and its hash.

use super::{Context, Issue, Issues, split_u64, walk_all};
use crate::format::codec;
use crate::format::id::ChunkId;
use crate::format::key::TreeId;
use crate::format::record::{CHUNK_BLOCK_BYTES, ChunkRecord};
use crate::format::superblock::UNIT_BYTES;

/// Reads all chunks.
pub(super) fn check(context: &Context<'_>, issues: &mut Issues<'_>) {
    walk_all(
        context,
        TreeId::Chunks,
        issues,
        &mut |issues, key, value| {
            // Keys and records that cannot be read were reported with the chunks.
            if let (Some((id, [])), Ok(record)) = (split_u64(key), ChunkRecord::decode(value)) {
                check_chunk(context, ChunkId(id), &record, issues);
            }
        },
    );
}

fn check_chunk(
    context: &Context<'_>,
    chunk: ChunkId,
    record: &ChunkRecord,
    issues: &mut Issues<'_>,
) {
    let mut stored = vec![0; record.stored_len as usize];
    let offset = record.start_unit.saturating_mul(UNIT_BYTES.into());
    if let Err(error) = context.media.chunks.read_at(offset, &mut stored) {
        let reason = error.to_string();
        return issues.add(Issue::ChunkUnreadable { chunk, reason });
    }
    issues.summary.content_bytes += u64::from(record.stored_len);
    context.progress.add(record.stored_len.into());
    let mut whole = true;
    let mut start = 0;
    for (block, crc) in stored.chunks(CHUNK_BLOCK_BYTES as usize).zip(&record.crcs) {
        let end = start + block.len() as u64;
        if crc32fast::hash(block) != *crc {
            whole = false;
            issues.add(Issue::ChunkBlock { chunk, start, end });
        }
        start = end;
    }
    // A block that does not match was named: the content cannot match either.
    if !whole {
        return;
    }
    let mut content = vec![0; record.raw_len as usize];
    match codec::decompress(record.codec, &stored, &mut content) {
        Ok(()) if blake3::hash(&content) == record.hash => {}
        Ok(()) => issues.add(Issue::ChunkHash { chunk }),
        Err(error) => {
            let reason = error.to_string();
            issues.add(Issue::ChunkUnreadable { chunk, reason });
        }
    }
}
