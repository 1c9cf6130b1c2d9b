//! Moving chunks from the end of chunks.dat to free space nearer to its beginning, so that it can be
//! cut shorter.
//!
//! A chunk keeps its number and its content: a move is a write to claimed space, as a write-out is,
//! and a transaction that changes the place in its record and frees the old one. What is written there
//! is durable before the log has the transaction, and the old place is not written to before a
//! checkpoint holds the move: whichever of the two a crash leaves, the content is there. Who read the
//! record before the move may find other bytes in the old place, which do not match their checksums;
//! he looks where the chunk is now (`chunks::Reader`).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::ControlFlow;

use super::chunks;
use super::evacuate::Regions;
use super::{TrimOptions, UNIT, extents, space};
use crate::disk::buffer::Buffer;
use crate::engine::{EngineError, Store};
use crate::format::id::ChunkId;
use crate::format::key::{self, TreeId, trailing_u64};
use crate::format::record::ChunkRecord;
use crate::log::Tx;
use crate::store::pages::Need;
use crate::store::{Read, StoreError};

/// Chunks that one pass over the records finds.
const FOUND_MAX: usize = 16 << 10;
/// Chunks that one transaction moves.
pub(super) const MOVES_MAX: usize = 32;

/// Units that get their space at least, when there is none to move to.
pub(super) const FILL_UNITS: u64 = 1024;

/// What a compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compacted {
    /// Chunks that were moved.
    pub moved_chunks: u64,
    /// Bytes that they take.
    pub moved_bytes: u64,
    /// Bytes by which chunks.dat got shorter.
    pub cut_bytes: u64,
    /// Chunks that could not be read, and stay where they are.
    pub damaged: u64,
}

/// Where chunks may move.
pub(super) enum To<'a> {
    /// To before where each of them is. Where one finds no place, nothing before it needs to move.
    Forward,
    /// Out of some regions, to before unit `end`.
    OutOf { regions: &'a Regions, end: u64 },
}

impl To<'_> {
    /// Where in a free range the chunk that begins at unit `chunk` and has so many may move.
    pub(super) fn place(&self, chunk: u64, units: u64, free: (u64, u64)) -> Option<u64> {
        let (start, len) = free;
        match self {
            To::Forward => Some(start).filter(|start| start.saturating_add(units) <= chunk),
            To::OutOf { regions, end } => {
                let end = start.saturating_add(len).min(*end);
                regions.place_out(start, end, units)
            }
        }
    }
}

/// A chunk on its way.
struct Move {
    id: ChunkId,
    /// As it is.
    record: ChunkRecord,
    /// First unit of its new place.
    to: u64,
}

impl Move {
    fn units(&self) -> u64 {
        chunks::units(self.record.stored_len as usize)
    }
}

impl Store {
    /// Moves chunks from the end of chunks.dat forward and cuts the file off behind the last one, as
    /// far as there are free ranges that can take them; then trims the store. May be called at any
    /// time: where others go on freeing and writing, it moves no more than chunks.dat had when it
    /// began. `go_on` is asked now and then.
    ///
    /// # Errors
    /// When a checkpoint fails, a tree cannot be read, or the disk refuses; content is whole.
    pub fn compact(&self, go_on: &mut dyn FnMut() -> bool) -> Result<Compacted, EngineError> {
        let mut done = Compacted::default();
        let mut filled = false;
        let most = self.journal.chunks().len_bytes();
        while done.moved_bytes < most && go_on() {
            // What was freed becomes free.
            self.checkpoint()?;
            let moved = self.move_last(go_on, &mut done)?;
            // What was moved must be gone from its old place before that can be cut off.
            self.checkpoint()?;
            done.cut_bytes = done.cut_bytes.saturating_add(self.cut_all(0)?);
            if moved {
                filled = false;
                continue;
            }
            // Holes take chunks, too, when they have their space again.
            if filled || self.fill(FILL_UNITS)? == 0 {
                break;
            }
            filled = true;
        }
        if go_on() {
            let trimmed = self.trim(&TrimOptions::default(), &mut || true)?;
            done.cut_bytes = done.cut_bytes.saturating_add(trimmed.cut_bytes);
        }
        Ok(done)
    }

    /// Moves the last chunks forward, until one finds no place; whether any was moved.
    pub(super) fn move_last(
        &self,
        go_on: &mut dyn FnMut() -> bool,
        done: &mut Compacted,
    ) -> Result<bool, EngineError> {
        let before = done.moved_chunks;
        let mut last = self.last_chunks()?;
        last.sort_unstable_by_key(|(start, _)| Reverse(*start));
        for some in last.chunks(MOVES_MAX) {
            if !go_on() || !self.move_some(some, &To::Forward, done)? {
                break;
            }
        }
        Ok(done.moved_chunks > before)
    }

    /// The chunks that lie last: first unit and number.
    fn last_chunks(&self) -> Result<Vec<(u64, ChunkId)>, EngineError> {
        let mut last = BinaryHeap::new();
        let mut wrong = None;
        let view = self.journal.view();
        view.scan(TreeId::Chunks, &[], &[0xff; 9], &mut |key, value| {
            match (trailing_u64(key), ChunkRecord::decode(value)) {
                (Ok(id), Ok(record)) => last.push(Reverse((record.start_unit, ChunkId(id)))),
                (Err(source), _) | (_, Err(source)) => {
                    wrong = Some(StoreError::format("chunk", source));
                    return ControlFlow::Break(());
                }
            }
            if last.len() > FOUND_MAX {
                last.pop();
            }
            ControlFlow::Continue(())
        })?;
        match wrong {
            Some(error) => Err(error.into()),
            None => Ok(last.into_iter().map(|Reverse(found)| found).collect()),
        }
    }

    /// Moves some chunks, at most [`MOVES_MAX`]; false when there is no place, so that no others need
    /// to be tried.
    pub(super) fn move_some(
        &self,
        some: &[(u64, ChunkId)],
        to: &To<'_>,
        done: &mut Compacted,
    ) -> Result<bool, EngineError> {
        self.throttle()?;
        let mut tx = self.journal.begin_for(Need::Reclaim)?;
        let (moves, all) = self.taking_space(|| {
            let (moves, all) = self.claim_moves(&mut tx, some, to)?;
            if !moves.is_empty() {
                tx.commit()?;
            }
            Ok::<_, EngineError>((moves, all))
        })?;
        if moves.is_empty() {
            return Ok(all);
        }
        let written = self.write_moved(&moves, done);
        let mut tx = self.journal.begin_for(Need::Reclaim)?;
        for (index, each) in moves.iter().enumerate() {
            let is_written = written.has(index);
            if is_written && Self::enter_move(&mut tx, each)? {
                let bytes = each.units().saturating_mul(UNIT);
                done.moved_chunks += 1;
                done.moved_bytes += bytes;
                self.data.moved_chunks.note();
                self.data.moved_bytes.add(bytes);
            } else {
                space::free(&mut tx, each.to, each.units())?;
            }
        }
        tx.commit()?;
        written.result.map(|()| all)
    }

    /// Claims places for chunks, while there is space that nobody was promised; and whether there may
    /// be more.
    fn claim_moves(
        &self,
        tx: &mut Tx<'_>,
        some: &[(u64, ChunkId)],
        to: &To<'_>,
    ) -> Result<(Vec<Move>, bool), EngineError> {
        let mut spare = self.spare_units(tx)?;
        let mut moves = Vec::new();
        for (start, id) in some {
            let found = tx.get_with(TreeId::Chunks, &key::chunk(*id), ChunkRecord::decode)?;
            let found = found.transpose();
            let found = found.map_err(|source| StoreError::format("chunk", source))?;
            // Gone since.
            let Some(record) = found.filter(|record| record.start_unit == *start) else {
                continue;
            };
            let units = chunks::units(record.stored_len as usize);
            let Some(left) = spare.checked_sub(units) else {
                return Ok((moves, false));
            };
            let find = |first, len| to.place(*start, units, (first, len));
            let Some(free) = space::fit(tx, units, find)? else {
                match to {
                    To::Forward => return Ok((moves, false)),
                    To::OutOf { .. } => continue,
                }
            };
            space::claim(tx, free, units)?;
            spare = left;
            let (id, to) = (*id, free.start);
            moves.push(Move { id, record, to });
        }
        Ok((moves, true))
    }

    /// Writes chunks to their new places.
    fn write_moved(&self, moves: &[Move], done: &mut Compacted) -> Written {
        let disk = self.journal.chunks();
        let mut written = Written::default();
        for each in moves {
            let stored: Result<Buffer, _> = chunks::load_stored(disk, each.id, &each.record);
            let Ok(stored) = stored.inspect_err(|error| {
                // A chunk that went meanwhile is no damage.
                let view = self.journal.view();
                if extents::chunk(&view, each.id).is_ok() {
                    ::log::error!("compaction: {error}");
                    done.damaged += 1;
                }
            }) else {
                written.each.push(false);
                continue;
            };
            if let Err(error) = chunks::write(disk, each.to, &[&stored]) {
                written.result = Err(error.into());
                return written;
            }
            written.each.push(true);
        }
        written
    }

    /// Changes a chunk's place; false when it is gone or was moved by someone else.
    fn enter_move(tx: &mut Tx<'_>, each: &Move) -> Result<bool, EngineError> {
        let at = key::chunk(each.id);
        let found = tx.get_with(TreeId::Chunks, &at, ChunkRecord::decode)?;
        let found = found.transpose();
        let found = found.map_err(|source| StoreError::format("chunk", source))?;
        let Some(mut record) = found.filter(|now| now.start_unit == each.record.start_unit) else {
            return Ok(false);
        };
        let from = record.start_unit;
        record.start_unit = each.to;
        tx.put(TreeId::Chunks, at, record.encode())?;
        space::settle_claim(tx, each.to)?;
        space::free(tx, from, each.units())?;
        Ok(true)
    }
}

/// What became of writing moved chunks.
struct Written {
    /// Whether each was written; those behind an error were not.
    each: Vec<bool>,
    result: Result<(), EngineError>,
}

impl Default for Written {
    fn default() -> Self {
        Written {
            each: Vec::new(),
            result: Ok(()),
        }
    }
}

impl Written {
    fn has(&self, index: usize) -> bool {
        self.each.get(index).copied().unwrap_or(false)
    }
}
