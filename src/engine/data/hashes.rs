//! Chunks by their content, for datasets that store what is equal once.
//!
//! Invariant: an entry names a chunk that is there and that has this hash. Not every chunk has one:
//! only those that a dataset made which deduplicates, and of equal ones the newest.

use super::extents;
use crate::format::id::ChunkId;
use crate::format::key::{self, TreeId};
use crate::log::Tx;
use crate::store::{Read, StoreError};

/// The chunk that is entered for a hash.
pub(super) fn find(read: &impl Read, hash: &[u8; 32]) -> Result<Option<ChunkId>, StoreError> {
    Ok(read.get_u64(TreeId::ChunkHashes, hash)?.map(ChunkId))
}

/// Enters a new chunk, in the place of one of the same content that nobody wanted to refer to.
pub(super) fn enter(tx: &mut Tx<'_>, hash: &[u8; 32], id: ChunkId) -> Result<(), StoreError> {
    let key = key::chunk_hash(hash);
    tx.put(TreeId::ChunkHashes, key, id.0.to_le_bytes())
}

/// Enters a chunk no longer, since it is freed.
pub(super) fn remove(tx: &mut Tx<'_>, hash: &[u8; 32], id: ChunkId) -> Result<(), StoreError> {
    if find(tx, hash)? == Some(id) {
        tx.delete(TreeId::ChunkHashes, key::chunk_hash(hash))?;
    }
    Ok(())
}

/// Counts another extent of a chunk, if the chunk is still there.
pub(super) fn hold(tx: &mut Tx<'_>, id: ChunkId) -> Result<bool, StoreError> {
    let is_there = tx.get_with(TreeId::Chunks, &key::chunk(id), |_| ())?;
    if is_there.is_none() {
        return Ok(false);
    }
    extents::add_references(tx, id, 1)?;
    Ok(true)
}
