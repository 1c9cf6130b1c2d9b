//! Write-out: unwritten bytes become chunks.
//!
//! Three steps: transactions claim space; the chunks are written, with no lock that anyone waits
//! for; transactions make the extents. A crash in between leaves claims, which recovery frees.
//!
//! One run may replace any number of extents, more than a transaction takes. Its extent then grows
//! from one transaction to the next, each of which replaces what lies below the part that it adds.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::dirty::{DirtyMap, Run, is_full};
use super::extents::{self, Editor, overlapping};
use super::table::InodeState;
use super::{EXTENTS_MAX, chunks, space};
use crate::disk::buffer::{BLOCK_BYTES, Buffer};
use crate::engine::{EngineError, Volume};
use crate::format::id::{ChunkId, Ino};
use crate::format::key::{self, TreeId, trailing_u64};
use crate::format::record::{ChunkRecord, ExtentRecord};
use crate::format::superblock::UNIT_BYTES;
use crate::log::Tx;
use crate::store::pages::Need;
use crate::store::{Read, StoreError};

/// A unit as a length in memory: the blocks of a [`Buffer`] are units.
const UNIT_SIZE: usize = UNIT_BYTES as usize;
const _: () = assert!(UNIT_SIZE == BLOCK_BYTES);

/// Runs written out with their file's `io` held all the time.
const GROUP: usize = 32;
/// Ranges of chunks.dat claimed in one transaction.
const CLAIMS_MAX: usize = 64;

/// Numbers of chunks that one checkpoint's log has no room for.
const CHUNK_BAND: u64 = 1 << 24;

/// A run as it was when its write-out began.
type Captured = (u64, Arc<Buffer>);

/// A run and where it goes: into one chunk, or into several where the free space is in pieces.
struct Piece {
    start: u64,
    data: Arc<Buffer>,
    parts: Vec<Part>,
}

/// A part of a run that is one chunk.
struct Part {
    /// Where it begins in the file.
    start: u64,
    len: usize,
    unit: u64,
    /// What the claimed space holds, once it is written.
    chunk: Option<(ChunkId, ChunkRecord)>,
    /// Where its extent ends that is in the tree; its start while there is none.
    entered: u64,
}

/// What a transaction entered of a part.
struct Step {
    piece: usize,
    part: usize,
    until: u64,
}

impl Piece {
    fn is_entered(&self) -> bool {
        self.parts.iter().all(|part| part.entered == part.end())
    }

    /// The bytes of a part of it.
    fn content(&self, part: &Part) -> &[u8] {
        let at = usize::try_from(part.start - self.start).unwrap_or(usize::MAX);
        let end = at.saturating_add(part.len);
        self.data.get(at..end).unwrap_or_default()
    }

    /// As [`Piece::content`], with the zeros that fill its last unit.
    fn units(&self, part: &Part) -> &[u8] {
        let at = usize::try_from(part.start - self.start).unwrap_or(usize::MAX);
        let end = at.saturating_add(part.len.next_multiple_of(UNIT_SIZE));
        self.data.blocks().get(at..end).unwrap_or_default()
    }
}

impl Part {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.len as u64)
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
        self.write_out_runs(ino, &state, |_| true)?;
        // Runs that changed in between were not written: once more, with no pause.
        if state.data.read().is_empty() {
            return Ok(());
        }
        let _io = state.io.lock();
        self.write_out_locked(ino, &state)
    }

    /// Makes chunks of what writes in order have left behind them. To be called with no lock held.
    ///
    /// # Errors
    /// As [`Volume::write_out`].
    pub(in crate::engine) fn write_behind(&self, ino: Ino) -> Result<(), EngineError> {
        match self.inodes.find(ino) {
            Some(state) => self.write_out_runs(ino, &state, is_full),
            None => Ok(()),
        }
    }

    /// Makes chunks of some runs; others may have `io` between any two groups of them.
    fn write_out_runs(
        &self,
        ino: Ino,
        state: &InodeState,
        which: impl Fn(&Run) -> bool,
    ) -> Result<(), EngineError> {
        let captured = {
            let _io = state.io.lock();
            capture(state, which)
        };
        let mut first = Ok(());
        for group in in_groups(captured) {
            let _io = state.io.lock();
            // What was written out or removed meanwhile is done with.
            let current: Vec<_> = {
                let data = state.data.read();
                let unchanged = |(start, run): &Captured| data.is_unchanged(*start, run);
                group.into_iter().filter(unchanged).collect()
            };
            // What one group suffers from does not keep the others from it.
            if let Err(error) = self.write_out_group(ino, state, &current) {
                self.journal.writable()?;
                first = first.and(Err(error));
            }
        }
        first
    }

    /// As [`Volume::write_out`], for who holds the inode's `io` lock and no other.
    pub(super) fn write_out_locked(&self, ino: Ino, state: &InodeState) -> Result<(), EngineError> {
        in_groups(capture(state, |_| true))
            .try_for_each(|group| self.write_out_group(ino, state, &group))
    }

    fn write_out_group(
        &self,
        ino: Ino,
        state: &InodeState,
        group: &[Captured],
    ) -> Result<(), EngineError> {
        self.check_readable(ino, group)?;
        let mut pieces: Vec<_> = group
            .iter()
            .map(|(start, data)| Piece {
                start: *start,
                data: Arc::clone(data),
                parts: Vec::with_capacity(1),
            })
            .collect();
        let written = self
            .claim(&mut pieces)
            .and_then(|()| self.write_chunks(&mut pieces))
            .and_then(|()| self.publish(ino, state, &mut pieces));
        written.inspect_err(|_| self.give_up(&pieces))
    }

    /// Reads what will be replaced: what cannot be entered in the trees is not written at all, or
    /// each attempt would take space until the next checkpoint.
    fn check_readable(&self, ino: Ino, group: &[Captured]) -> Result<(), EngineError> {
        let view = self.journal.view();
        self.load_inode(&view, ino)?;
        for (start, run) in group {
            let end = start.saturating_add(run.len() as u64);
            for extent in overlapping(&view, self.tree(), ino, *start, end, EXTENTS_MAX)? {
                if extent.record.has_chunk() {
                    extents::chunk(&view, extent.record.chunk)?;
                }
            }
        }
        Ok(())
    }

    /// Claims space for runs.
    fn claim(&self, pieces: &mut [Piece]) -> Result<(), EngineError> {
        let mut rest: VecDeque<_> = pieces
            .iter()
            .enumerate()
            .map(|(index, piece)| (index, piece.start, piece.data.len()))
            .collect();
        while !rest.is_empty() {
            let mut tx = self.begin_tx(Need::Reclaim)?;
            let mut claimed = Vec::new();
            while claimed.len() < CLAIMS_MAX
                && let Some((index, start, len)) = rest.pop_front()
            {
                let part = self.claim_part(&mut tx, start, len)?;
                if part.len < len {
                    rest.push_front((index, part.end(), len - part.len));
                }
                claimed.push((index, part));
            }
            tx.commit()?;
            for (index, part) in claimed {
                if let Some(piece) = pieces.get_mut(index) {
                    piece.parts.push(part);
                }
            }
        }
        Ok(())
    }

    /// Claims space for `len` bytes: in one range if the disk has one, else for the first of them.
    /// What was promised counts units, not ranges.
    fn claim_part(&self, tx: &mut Tx<'_>, start: u64, len: usize) -> Result<Part, EngineError> {
        let mut size = len;
        loop {
            let units = chunks::units(size);
            let found = space::best_fit(tx, units)?;
            match self.grow_to(found.start.saturating_add(units)) {
                Ok(()) => {
                    space::claim(tx, found, units)?;
                    return Ok(Part {
                        start,
                        len: size,
                        unit: found.start,
                        chunk: None,
                        entered: start,
                    });
                }
                Err(EngineError::Store(StoreError::NoSpace(_))) if size > UNIT_SIZE => {
                    size = (size / 2).next_multiple_of(UNIT_SIZE);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes runs to the space that was claimed for them: what lies side by side, at once.
    fn write_chunks(&self, pieces: &mut [Piece]) -> Result<(), EngineError> {
        for piece in pieces.iter_mut() {
            let mut parts = std::mem::take(&mut piece.parts);
            for part in &mut parts {
                let mut record = chunks::describe(piece.content(part));
                record.start_unit = part.unit;
                part.chunk = Some((self.new_chunk_id(), record));
            }
            piece.parts = parts;
        }
        let parts = pieces.iter().flat_map(|piece| {
            piece
                .parts
                .iter()
                .map(|part| (part.unit, piece.units(part)))
        });
        let mut writes: Vec<(u64, &[u8])> = parts.collect();
        writes.sort_unstable_by_key(|(unit, _)| *unit);
        let neighbours = |one: &(u64, &[u8]), next: &(u64, &[u8])| {
            one.0.saturating_add(chunks::units(one.1.len())) == next.0
        };
        for joined in writes.chunk_by(neighbours) {
            let written = chunks::write(self.journal.chunks(), joined);
            self.journal.latching(written)?;
        }
        Ok(())
    }

    /// Makes extents of written pieces, in as many transactions as it takes, and lets go of the
    /// runs. A run that changed meanwhile stays. What the log holds of it is void all the same: it
    /// is older than what was written out, since an fsync waits for `io`.
    fn publish(
        &self,
        ino: Ino,
        state: &InodeState,
        pieces: &mut [Piece],
    ) -> Result<(), EngineError> {
        while pieces.iter().any(|piece| !piece.is_entered()) {
            let (mut data, mut tx) = self.begin_with(state, Need::Reclaim)?;
            let steps = self.enter_some(&mut tx, ino, pieces, &data)?;
            let lsn = tx.commit()?;
            state.touch(lsn);
            self.change_dirty(&mut data, |map| {
                for step in steps {
                    let Some(piece) = pieces.get_mut(step.piece) else {
                        continue;
                    };
                    if let Some(part) = piece.parts.get_mut(step.part) {
                        map.log_cleared(part.entered, step.until);
                        part.entered = step.until;
                    }
                    if piece.is_entered() && map.is_unchanged(piece.start, &piece.data) {
                        map.written(piece.start);
                    }
                }
            });
        }
        Ok(())
    }

    /// A transaction's share of [`Volume::publish`].
    fn enter_some(
        &self,
        tx: &mut Tx<'_>,
        ino: Ino,
        pieces: &[Piece],
        data: &DirtyMap,
    ) -> Result<Vec<Step>, EngineError> {
        let mut record = self.load_inode(tx, ino)?;
        let mut counters = self.load_counters(tx)?;
        let mut steps = Vec::new();
        let mut budget = EXTENTS_MAX;
        let all = pieces.iter().enumerate().flat_map(|(index, piece)| {
            let parts = piece.parts.iter().enumerate();
            parts.map(move |(part, content)| (index, part, content))
        });
        for (piece, part, content) in all.filter(|(.., part)| part.entered < part.end()) {
            if budget == 0 {
                break;
            }
            let mut editor = Editor {
                tx: &mut *tx,
                tree: self.tree(),
                ino,
                record: &mut record,
                counters: &mut counters,
            };
            let (until, cut) = editor.punch_some(content.entered, content.end(), budget)?;
            budget = budget.saturating_sub(cut + 1);
            enter_part(&mut editor, content, until)?;
            if data.is_logged(content.entered, until) {
                let len = until - content.entered;
                tx.data_clear(self.dataset, ino, content.entered, len);
            }
            steps.push(Step { piece, part, until });
        }
        self.store_inode(tx, ino, &record)?;
        self.store_counters(tx, &counters)?;
        Ok(steps)
    }

    /// Gives back the claims of a write-out that failed. What cannot be given back is free after
    /// the next opening.
    fn give_up(&self, pieces: &[Piece]) {
        let parts = pieces.iter().flat_map(|piece| &piece.parts);
        let claims: Vec<_> = parts
            .filter(|part| part.entered == part.start)
            .map(|part| (part.unit, chunks::units(part.len)))
            .collect();
        for some in claims.chunks(CLAIMS_MAX) {
            let freed = self.journal.begin_for(Need::Reclaim).and_then(|mut tx| {
                for (unit, units) in some {
                    space::free(&mut tx, *unit, *units)?;
                }
                tx.commit()
            });
            if let Err(error) = freed {
                ::log::debug!("space of a failed write-out stays claimed: {error}");
                return;
            }
        }
    }

    /// Finds the number of the next chunk, which no chunk ever had: a number that came back would
    /// stand for another content in the cache, and in extents that a repair finds on old pages.
    /// Every opening begins a band of its own, and a log has no room for so many chunks that they
    /// could leave it before the next checkpoint begins another.
    pub(in crate::engine) fn load_next_chunk(&self) -> Result<(), EngineError> {
        let view = self.journal.view();
        let last = view.floor_with(TreeId::Chunks, &[0xff; 9], |key, _| trailing_u64(key))?;
        let last = last
            .transpose()
            .map_err(|source| StoreError::format("chunk", source))?;
        let band = self.journal.next_generation().0.checked_mul(CHUNK_BAND);
        let next = last.unwrap_or(0).saturating_add(1).max(band.unwrap_or(0));
        self.data.next_chunk.store(next, Ordering::Relaxed);
        Ok(())
    }

    /// A number for a new chunk.
    fn new_chunk_id(&self) -> ChunkId {
        ChunkId(self.data.next_chunk.fetch_add(1, Ordering::Relaxed))
    }
}

/// Makes the extent of a part reach to `until`, below which nothing else is any more.
fn enter_part(editor: &mut Editor<'_, '_>, part: &Part, until: u64) -> Result<(), EngineError> {
    let Some((id, chunk)) = &part.chunk else {
        return Err(StoreError::Corrupt("a chunk that was not written".into()).into());
    };
    let extent = |until: u64| ExtentRecord {
        len: until - part.start,
        chunk: *id,
        chunk_offset: 0,
        birth: editor.tx.generation(),
    };
    let (old, new) = (extent(part.entered), extent(until));
    if old.len == 0 {
        space::settle_claim(editor.tx, part.unit)?;
        let key = key::chunk(*id);
        editor.tx.put(TreeId::Chunks, key, chunk.encode())?;
    } else {
        editor.subtract_sums(&old);
    }
    Ok(editor.insert(part.start, new)?)
}

/// Takes runs apart into groups, each of which lets go of its memory by itself: what is written out
/// no longer counts against the limit.
fn in_groups(runs: Vec<Captured>) -> impl Iterator<Item = Vec<Captured>> {
    let mut rest = runs.into_iter();
    std::iter::from_fn(move || {
        let group: Vec<_> = rest.by_ref().take(GROUP).collect();
        (!group.is_empty()).then_some(group)
    })
}

/// Some of a file's runs, as they are now.
fn capture(state: &InodeState, which: impl Fn(&Run) -> bool) -> Vec<Captured> {
    let data = state.data.read();
    let captured = |(start, run): (u64, &Run)| (start, Arc::clone(&run.data));
    let runs = data.runs().filter(|(_, run)| which(run));
    runs.map(captured).collect()
}
