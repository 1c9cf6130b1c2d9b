//! Write-out: unwritten bytes become chunks.
//!
//! Three steps: a transaction claims space; the chunks are written, with no lock that anyone waits
//! for; a transaction makes the extents. A crash in between leaves claims, which recovery frees.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::dirty::{DirtyMap, Run};
use super::extents::Editor;
use super::table::InodeState;
use super::{EXTENTS_MAX, UNIT, chunks, space};
use crate::engine::{EngineError, Volume};
use crate::format::id::{ChunkId, Ino};
use crate::format::key::{self, TreeId, trailing_u64};
use crate::format::record::{ChunkRecord, ExtentRecord};
use crate::log::Tx;
use crate::log::journal::Pressure;
use crate::store::{Read, StoreError};

/// Chunks in one transaction.
const GROUP: usize = 32;

/// Which of a file's unwritten bytes to write out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// All.
    All,
    /// The runs of which the log holds some: what a checkpoint needs, and no more, since it is made
    /// when the log has little room.
    Logged,
}

/// A run as it was when its write-out began, and where it goes: into one chunk, or into several
/// where the free space is in pieces.
struct Piece {
    start: u64,
    data: Arc<Vec<u8>>,
    parts: Vec<Part>,
}

/// A part of a run that is one chunk.
struct Part {
    /// Where it begins in the run.
    at: usize,
    len: usize,
    unit: u64,
    chunk: Option<ChunkRecord>,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.data.len() as u64)
    }
}

impl Volume {
    /// Makes chunks of all unwritten bytes of a file, with checkpoints between when the log fills
    /// up. Not durable by itself. To be called with no lock held.
    ///
    /// # Errors
    /// When the disk refuses; what was not written stays in memory.
    pub(super) fn write_out(&self, ino: Ino) -> Result<(), EngineError> {
        let Some(state) = self.inodes.find(ino) else {
            return Ok(());
        };
        let captured = {
            let _io = state.io.lock();
            capture(&state, Which::All)
        };
        for group in captured.chunks(GROUP) {
            if self.journal.pressure() == Pressure::Urgent {
                self.throttle()?;
            }
            let _io = state.io.lock();
            // What was written out or removed meanwhile is done with.
            let current: Vec<_> = {
                let data = state.data.read();
                let unchanged =
                    |(start, run): &&(u64, Arc<Vec<u8>>)| data.is_unchanged(*start, run);
                group.iter().filter(unchanged).cloned().collect()
            };
            self.write_out_group(ino, &state, &current)?;
        }
        // Runs that changed in between were not written: once more, with no pause.
        if state.data.read().is_empty() {
            return Ok(());
        }
        let _io = state.io.lock();
        let older: Vec<_> = capture(&state, Which::All);
        self.write_out_groups(ino, &state, &older)
    }

    /// As [`Volume::write_out`], for who holds the inode's `io` lock.
    pub(super) fn write_out_locked(
        &self,
        ino: Ino,
        state: &InodeState,
        which: Which,
    ) -> Result<(), EngineError> {
        self.write_out_groups(ino, state, &capture(state, which))
    }

    fn write_out_groups(
        &self,
        ino: Ino,
        state: &InodeState,
        captured: &[(u64, Arc<Vec<u8>>)],
    ) -> Result<(), EngineError> {
        captured
            .chunks(GROUP)
            .try_for_each(|group| self.write_out_group(ino, state, group))
    }

    fn write_out_group(
        &self,
        ino: Ino,
        state: &InodeState,
        group: &[(u64, Arc<Vec<u8>>)],
    ) -> Result<(), EngineError> {
        if group.is_empty() {
            return Ok(());
        }
        let pieces = self.store_chunks(group)?;
        let late = self.publish(ino, state, pieces)?;
        if late.is_empty() {
            return Ok(());
        }
        self.write_out_exclusively(ino, state, &late)
    }

    /// Claims space for runs and writes them there.
    fn store_chunks(&self, runs: &[(u64, Arc<Vec<u8>>)]) -> Result<Vec<Piece>, EngineError> {
        let mut tx = self.journal.begin_reclaim()?;
        let mut pieces = Vec::with_capacity(runs.len());
        for (start, data) in runs {
            let parts = self.claim_parts(&mut tx, data.len())?;
            pieces.push(Piece {
                start: *start,
                data: Arc::clone(data),
                parts,
            });
        }
        tx.commit()?;
        for piece in &mut pieces {
            for part in &mut piece.parts {
                let content = piece
                    .data
                    .get(part.at..part.at + part.len)
                    .unwrap_or_default();
                let mut chunk = chunks::describe(content);
                chunk.start_unit = part.unit;
                part.chunk = Some(chunk);
                let written = chunks::write(self.journal.chunks(), part.unit, content);
                self.journal.latching(written)?;
            }
        }
        Ok(pieces)
    }

    /// Claims space for `len` bytes: in one range if the disk has one, else in smaller ones. What
    /// was promised counts units, not ranges.
    fn claim_parts(&self, tx: &mut Tx<'_>, len: usize) -> Result<Vec<Part>, EngineError> {
        let unit_bytes = usize::try_from(UNIT).unwrap_or(usize::MAX);
        let (mut at, mut step) = (0, len);
        let mut parts = Vec::with_capacity(1);
        while at < len {
            let size = step.min(len - at);
            let units = chunks::units(size);
            let found = space::best_fit(tx, units)?;
            match self.grow_to(found.start.saturating_add(units)) {
                Ok(()) => {
                    space::claim(tx, found, units)?;
                    parts.push(Part {
                        at,
                        len: size,
                        unit: found.start,
                        chunk: None,
                    });
                    at += size;
                }
                Err(EngineError::Store(StoreError::NoSpace(_))) if size > unit_bytes => {
                    step = (size / 2).next_multiple_of(unit_bytes);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(parts)
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
            let changed = !data.is_unchanged(piece.start, &piece.data);
            if changed && data.is_logged(piece.start, piece.end()) {
                late.push(piece.start);
                for part in &piece.parts {
                    space::settle_claim(&mut tx, part.unit)?;
                    space::free(&mut tx, part.unit, chunks::units(part.len))?;
                }
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
        data: &DirtyMap,
    ) -> Result<(), EngineError> {
        let mut record = self.load_inode(tx, ino)?;
        let mut counters = self.load_counters(tx)?;
        let (tree, birth) = (self.tree(), tx.generation());
        for piece in pieces {
            let (start, end) = (piece.start, piece.end());
            if data.is_logged(start, end) {
                tx.data_clear(self.dataset, ino, start, end - start);
            }
            let mut extents = Vec::with_capacity(piece.parts.len());
            for part in &piece.parts {
                let id = self.new_chunk_id();
                space::settle_claim(tx, part.unit)?;
                let Some(chunk) = &part.chunk else {
                    return Err(StoreError::Corrupt("a chunk that was not written".into()).into());
                };
                tx.put(TreeId::Chunks, key::chunk(id), chunk.encode())?;
                let len = part.len as u64;
                let extent = ExtentRecord {
                    len,
                    chunk: id,
                    chunk_offset: 0,
                    birth,
                };
                extents.push((start + part.at as u64, extent));
            }
            let (record, counters) = (&mut record, &mut counters);
            let mut editor = Editor {
                tx: &mut *tx,
                tree,
                ino,
                record,
                counters,
            };
            while !editor.punch(start, end, EXTENTS_MAX)? {}
            for (at, extent) in extents {
                editor.insert(at, extent)?;
            }
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
        let found = starts.iter().filter_map(|start| data.at(*start));
        let mut runs: Vec<_> = found.map(captured).collect();
        // Several may have become one run.
        runs.dedup_by_key(|(start, _)| *start);
        let pieces = self.store_chunks(&runs)?;
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

    /// Finds the number of the next chunk. To be called when the volume is opened, before any chunk
    /// goes: a number that came back would stand for another content in the cache.
    pub(in crate::engine) fn load_next_chunk(&self) -> Result<(), EngineError> {
        let last = self.journal.view().floor(TreeId::Chunks, &[0xff; 9])?;
        let last = last.map(|(key, _)| trailing_u64(&key)).transpose();
        let last = last.map_err(|source| StoreError::format("chunk", source))?;
        // 0 stands for 'no chunk'.
        self.data
            .next_chunk
            .store(last.unwrap_or(0).saturating_add(1), Ordering::Relaxed);
        Ok(())
    }

    /// A number for a new chunk.
    fn new_chunk_id(&self) -> ChunkId {
        ChunkId(self.data.next_chunk.fetch_add(1, Ordering::Relaxed))
    }
}

fn captured((start, run): (u64, &Run)) -> (u64, Arc<Vec<u8>>) {
    (start, Arc::clone(&run.data))
}

/// A file's runs as they are now.
fn capture(state: &InodeState, which: Which) -> Vec<(u64, Arc<Vec<u8>>)> {
    let data = state.data.read();
    let wanted = |(_, run): &(u64, &Run)| which == Which::All || run.logged;
    data.runs().filter(wanted).map(captured).collect()
}
