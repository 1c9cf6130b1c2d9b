//! Write-out: unwritten bytes become chunks.
//!
//! Three steps: a transaction claims space; the chunks are written, with no lock that anyone waits
//! for; a transaction makes the extents. A crash in between leaves claims, which recovery frees.

use std::sync::Arc;

use super::extents::Editor;
use super::table::InodeState;
use super::{EXTENTS_MAX, GROWTH_BYTES, UNIT, chunks, space};
use crate::engine::{EngineError, Volume};
use crate::format::id::{ChunkId, Ino};
use crate::format::key::{self, TreeId, trailing_u64};
use crate::format::record::{ChunkRecord, ExtentRecord};
use crate::log::Tx;
use crate::store::{Read, StoreError};

/// Chunks in one transaction.
const GROUP: usize = 32;

/// A run as it was when its write-out began, and where it went.
struct Piece {
    start: u64,
    data: Arc<Vec<u8>>,
    chunk: ChunkRecord,
}

impl Volume {
    /// Makes chunks of all unwritten bytes of a file. Not durable by itself.
    ///
    /// # Errors
    /// When the disk refuses; what was not written stays in memory.
    pub(super) fn write_out(&self, ino: Ino) -> Result<(), EngineError> {
        let Some(state) = self.inodes.find(ino) else {
            return Ok(());
        };
        let _io = state.io.lock();
        self.write_out_locked(ino, &state)
    }

    /// As [`Volume::write_out`], for who holds the inode's `io` lock.
    pub(super) fn write_out_locked(&self, ino: Ino, state: &InodeState) -> Result<(), EngineError> {
        let captured: Vec<(u64, Arc<Vec<u8>>)> = {
            let data = state.data.read();
            data.runs()
                .map(|(start, run)| (start, Arc::clone(&run.data)))
                .collect()
        };
        for group in captured.chunks(GROUP) {
            let pieces = self.store_chunks(group)?;
            let late = self.publish(ino, state, pieces)?;
            if !late.is_empty() {
                self.write_out_exclusively(ino, state, &late)?;
            }
        }
        Ok(())
    }

    /// Claims space for runs and writes them there.
    fn store_chunks(&self, runs: &[(u64, Arc<Vec<u8>>)]) -> Result<Vec<Piece>, EngineError> {
        let mut pieces: Vec<Piece> = runs
            .iter()
            .map(|(start, data)| Piece {
                start: *start,
                data: Arc::clone(data),
                chunk: chunks::describe(data),
            })
            .collect();
        let mut end_unit = 0;
        let mut tx = self.journal.begin_reclaim()?;
        for piece in &mut pieces {
            let units = chunks::units(piece.data.len());
            piece.chunk.start_unit = space::claim(&mut tx, units)?;
            end_unit = end_unit.max(piece.chunk.start_unit.saturating_add(units));
        }
        self.grow_to(end_unit)?;
        tx.commit()?;
        for piece in &pieces {
            let written = chunks::write(self.journal.chunks(), piece.chunk.start_unit, &piece.data);
            self.journal.latching(written)?;
        }
        Ok(pieces)
    }

    /// Makes sure that chunks.dat reaches to `end_unit`: a full disk is found before anything is
    /// written.
    fn grow_to(&self, end_unit: u64) -> Result<(), EngineError> {
        let chunks = self.journal.chunks();
        let end = end_unit.saturating_mul(UNIT);
        if end <= chunks.len_bytes() {
            return Ok(());
        }
        let _one = self.data.growth.lock();
        let length = chunks.len_bytes();
        let Some(missing) = end.checked_sub(length).filter(|missing| *missing > 0) else {
            return Ok(());
        };
        let grown = chunks
            .allocate(length, missing.max(GROWTH_BYTES))
            .or_else(|_| chunks.allocate(length, missing));
        Ok(grown.map_err(|source| StoreError::io("chunks.dat, growing", source))?)
    }

    /// Makes extents of written pieces, and lets go of the runs. A run that changed meanwhile stays;
    /// when the log holds part of it, its piece is dropped and its offset returned: an extent under
    /// newer and older logged bytes would leave recovery the wrong ones.
    fn publish(
        &self,
        ino: Ino,
        state: &InodeState,
        pieces: Vec<Piece>,
    ) -> Result<Vec<u64>, EngineError> {
        let mut data = state.data.write();
        let mut late = Vec::new();
        let mut tx = self.journal.begin_reclaim()?;
        let mut settled = Vec::new();
        for piece in pieces {
            let end = piece.start + piece.data.len() as u64;
            if !data.is_unchanged(piece.start, &piece.data) && data.is_logged(piece.start, end) {
                late.push(piece.start);
                space::settle_claim(&mut tx, piece.chunk.start_unit)?;
                space::free(
                    &mut tx,
                    piece.chunk.start_unit,
                    chunks::units(piece.data.len()),
                )?;
            } else {
                settled.push(piece);
            }
        }
        self.enter_pieces(&mut tx, ino, &settled, &data)?;
        let lsn = tx.commit()?;
        state.touch(lsn);
        self.change_dirty(&mut data, |map| {
            for piece in &settled {
                if map.is_unchanged(piece.start, &piece.data) {
                    map.written(piece.start);
                }
            }
        });
        Ok(late)
    }

    fn enter_pieces(
        &self,
        tx: &mut Tx<'_>,
        ino: Ino,
        pieces: &[Piece],
        data: &super::dirty::DirtyMap,
    ) -> Result<(), EngineError> {
        let mut record = self.load_inode(tx, ino)?;
        let mut counters = self.load_counters(tx)?;
        let tree = self.tree();
        for piece in pieces {
            let end = piece.start + piece.data.len() as u64;
            if data.is_logged(piece.start, end) {
                tx.data_clear(self.dataset, ino, piece.start, end - piece.start);
            }
            let id = self.new_chunk_id(tx)?;
            space::settle_claim(tx, piece.chunk.start_unit)?;
            tx.put(TreeId::Chunks, key::chunk(id), piece.chunk.encode())?;
            let birth = tx.generation();
            let mut editor = Editor {
                tx,
                tree,
                ino,
                record: &mut record,
                counters: &mut counters,
            };
            while !editor.punch(piece.start, end, EXTENTS_MAX)? {}
            let len = piece.data.len() as u64;
            editor.insert(
                piece.start,
                ExtentRecord {
                    len,
                    chunk: id,
                    chunk_offset: 0,
                    birth,
                },
            )?;
        }
        self.store_inode(tx, ino, &record)?;
        self.store_counters(tx, &counters)
    }

    /// Writes out runs that change all the time, with their file's writers kept waiting.
    fn write_out_exclusively(
        &self,
        ino: Ino,
        state: &InodeState,
        starts: &[u64],
    ) -> Result<(), EngineError> {
        let mut data = state.data.write();
        let runs: Vec<(u64, Arc<Vec<u8>>)> = starts
            .iter()
            .filter_map(|start| data.at(*start))
            .map(|(start, run)| (start, Arc::clone(&run.data)))
            .collect();
        let mut pieces = self.store_chunks(&runs)?;
        pieces.dedup_by_key(|piece| piece.start);
        let mut tx = self.journal.begin_reclaim()?;
        self.enter_pieces(&mut tx, ino, &pieces, &data)?;
        let lsn = tx.commit()?;
        state.touch(lsn);
        self.change_dirty(&mut data, |map| {
            for piece in &pieces {
                map.written(piece.start);
            }
        });
        Ok(())
    }

    /// A number for a new chunk.
    fn new_chunk_id(&self, tx: &Tx<'_>) -> Result<ChunkId, EngineError> {
        let mut next = self.data.next_chunk.lock();
        let id = match *next {
            Some(id) => id,
            None => match tx.floor(TreeId::Chunks, &[0xff; 9])? {
                Some((key, _)) => trailing_u64(&key)
                    .map_err(|source| StoreError::format("chunk", source))?
                    .saturating_add(1),
                // 0 stands for 'no chunk'.
                None => 1,
            },
        };
        *next = Some(id.saturating_add(1));
        Ok(ChunkId(id))
    }
}
