//! Runs whose content a chunk has already.
//!
//! What is found here may be freed until the transaction that refers to it, which looks once more:
//! numbers of chunks never come back. A run whose chunk is gone by then is written like any other.

use std::collections::HashMap;
use std::sync::Arc;

use super::pieces::{Captured, Piece};
use crate::disk::buffer::Buffer;
use crate::engine::Volume;
use crate::engine::data::{extents, hashes};
use crate::format::id::ChunkId;
use crate::format::record::Dedup;
use crate::log::View;
use crate::store::StoreError;

/// Chunks that are on their way to the disk, by the hash of their content.
type Made = HashMap<[u8; 32], (ChunkId, Arc<Buffer>)>;

impl Volume {
    /// Has pieces refer to chunks of the same content: of the store, of earlier ones of them, or of
    /// those before them that are `under_way`, which come into the trees first.
    pub(super) fn find_equal(&self, pieces: &mut [Piece], under_way: &[Piece]) {
        let is_off = |piece: &Piece| piece.run.dedup() == Dedup::Off;
        if pieces.iter().all(is_off) {
            return;
        }
        let view = self.store.journal.view();
        let mut made = Made::new();
        for piece in under_way {
            note(&mut made, piece);
        }
        for piece in pieces {
            match self.equal_chunk(&view, &made, &piece.run) {
                Ok(Some(id)) => piece.refer(id),
                Ok(None) => note(&mut made, piece),
                // It cannot be entered there either.
                Err(error) => {
                    ::log::warn!("what cannot be looked for is not deduplicated: {error}");
                    piece.run.stop_dedup();
                }
            }
        }
    }

    fn equal_chunk(
        &self,
        view: &View,
        made: &Made,
        run: &Captured,
    ) -> Result<Option<ChunkId>, StoreError> {
        let compares = match run.dedup() {
            Dedup::Off => return Ok(None),
            Dedup::On => false,
            Dedup::Verify => true,
        };
        if let Some((id, data)) = made.get(run.hash())
            && (!compares || ***data == **run.data)
        {
            return Ok(Some(*id));
        }
        let Some(id) = hashes::find(view, run.hash())? else {
            return Ok(None);
        };
        let record = extents::chunk(view, id)?;
        let is_equal = record.hash == *run.hash()
            && record.raw_len as usize == run.data.len()
            && (!compares || self.store.holds(id, &record, &run.data));
        Ok(is_equal.then_some(id))
    }
}

/// Notes a piece that becomes a chunk.
fn note(made: &mut Made, piece: &Piece) {
    if piece.run.dedup() != Dedup::Off && piece.is_new() {
        let data = Arc::clone(&piece.run.data);
        made.insert(*piece.run.hash(), (piece.id(), data));
    }
}
