//! Write-out: unwritten bytes become chunks.
//!
//! Four steps: runs are compressed, which tells how much space they take, unless a chunk has their
//! content already; transactions claim the space; the chunks are written, with no lock that anyone
//! waits for; transactions make the extents. A crash in between leaves claims, which recovery frees.
//! Where there is much to write, the disk is kept busy: while one group of runs is written, the next
//! is made ready.
//!
//! One run may replace any number of extents, more than a transaction takes. Its extent then grows
//! from one transaction to the next, each of which replaces what lies below the part that it adds.

mod equal;
mod pieces;
mod received;

pub use received::Content;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pieces::{Captured, Chunk, Part, Piece};

use super::dirty::{DirtyMap, Run, is_full};
use super::extents::{self, Editor, overlapping};
use super::table::InodeState;
use super::{EXTENTS_MAX, hashes, space};
use crate::engine::background::Started;
use crate::engine::{EngineError, Store, Volume};
use crate::format::id::Ino;
use crate::format::key::{self, TreeId, trailing_u64};
use crate::format::record::{DatasetCounters, Dedup, ExtentRecord};
use crate::log::Tx;
use crate::store::pages::Need;
use crate::store::{Read, StoreError};

/// Runs written at once.
const GROUP: usize = 32;
/// Runs written out with their file's `io` held all the time.
const BATCH: usize = 8 * GROUP;

/// Numbers of chunks that one checkpoint's log has no room for.
const CHUNK_BAND: u64 = 1 << 24;

/// A group on its way to the disk.
struct Writing {
    pieces: Vec<Piece>,
    writes: Vec<Started<Result<(), StoreError>>>,
}

impl Volume {
    /// Makes chunks of all unwritten bytes of a file, with checkpoints between when the log fills
    /// up. Not durable by itself. To be called with no lock held.
    ///
    /// # Errors
    /// When the disk refuses; what was not written stays in memory.
    pub(super) fn write_out(&self, ino: Ino) -> Result<(), EngineError> {
        let Some(state) = self.dataset.inodes.find(ino) else {
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
        match self.dataset.inodes.find(ino) {
            Some(state) => self.write_out_runs(ino, &state, is_full),
            None => Ok(()),
        }
    }

    /// Makes chunks of some runs; others may have `io` between any two batches of them.
    fn write_out_runs(
        &self,
        ino: Ino,
        state: &InodeState,
        which: impl Fn(&Run) -> bool,
    ) -> Result<(), EngineError> {
        let _one = state.writing_out.lock();
        let captured = {
            let _io = state.io.lock();
            self.capture(state, which)?
        };
        // The first ones are wanted at once.
        let mut ahead = captured.clone().into_iter().skip(GROUP / 4);
        let mut first = Ok(());
        for batch in in_groups(captured, BATCH) {
            // Not all at once: what is compressed takes memory until it is written.
            for run in ahead.by_ref().take(BATCH) {
                self.store.background.soon(move || {
                    run.prepare();
                });
            }
            let _io = state.io.lock();
            // What was written out or removed meanwhile is done with.
            let current: Vec<_> = {
                let data = state.data.read();
                let unchanged = |run: &Captured| data.is_unchanged(run.start, &run.data);
                batch.into_iter().filter(unchanged).collect()
            };
            // What one batch suffers from does not keep the others from it.
            if let Err(error) = self.write_out_batch(ino, state, current) {
                self.store.journal.writable()?;
                first = first.and(Err(error));
            }
        }
        first
    }

    /// As [`Volume::write_out`], for who holds the inode's `io` lock and no other.
    pub(super) fn write_out_locked(&self, ino: Ino, state: &InodeState) -> Result<(), EngineError> {
        self.write_out_batch(ino, state, self.capture(state, |_| true)?)
    }

    /// Some of a file's runs, as they are now.
    fn capture(
        &self,
        state: &InodeState,
        which: impl Fn(&Run) -> bool,
    ) -> Result<Vec<Captured>, EngineError> {
        let how = self.storing(&self.store.journal.view())?;
        let data = state.data.read();
        let captured = |(start, run): (u64, &Run)| Captured::new(start, &run.data, how);
        let runs = data.runs().filter(|(_, run)| which(run));
        Ok(runs.map(captured).collect())
    }

    /// Makes chunks of runs.
    fn write_out_batch(
        &self,
        ino: Ino,
        state: &InodeState,
        runs: Vec<Captured>,
    ) -> Result<(), EngineError> {
        let mut left = Vec::new();
        let done = self.write_out_groups(ino, state, runs, &mut left);
        if left.is_empty() {
            return done;
        }
        // These refer to nothing that could go.
        left.iter_mut().for_each(Captured::stop_dedup);
        done.and(self.write_out_groups(ino, state, left, &mut Vec::new()))
    }

    /// The same, group by group, of which two are on their way at a time. What one of them suffers
    /// from does not keep the others from it, unless the volume is read-only then. Runs that were to
    /// refer to chunks that are gone go to `left`.
    fn write_out_groups(
        &self,
        ino: Ino,
        state: &InodeState,
        runs: Vec<Captured>,
        left: &mut Vec<Captured>,
    ) -> Result<(), EngineError> {
        let mut first = Ok(());
        let mut under_way: Option<Writing> = None;
        let mut groups = in_groups(runs, GROUP).peekable();
        while let Some(group) = groups.next() {
            let is_last = groups.peek().is_none();
            let begun = self.begin_group(ino, group, under_way.as_ref(), is_last);
            let before = under_way.take();
            match begun {
                Ok(writing) => under_way = Some(writing),
                Err(error) => first = first.and(Err(error)),
            }
            if let Some(writing) = before {
                first = first.and(self.end_group(ino, state, writing, left));
            }
            if first.is_err() && !self.is_writable() {
                break;
            }
        }
        match under_way {
            Some(writing) => first.and(self.end_group(ino, state, writing, left)),
            None => first,
        }
    }

    /// Compresses a group of runs, claims space for it and begins to write it; with nothing behind it,
    /// it is written on return.
    fn begin_group(
        &self,
        ino: Ino,
        group: Vec<Captured>,
        before: Option<&Writing>,
        is_last: bool,
    ) -> Result<Writing, EngineError> {
        self.check_readable(ino, &group)?;
        let new = |run| Piece::new(run, self.new_chunk_id());
        let mut pieces: Vec<_> = group.into_iter().map(new).collect();
        let under_way = before.map_or(&[][..], |writing| &writing.pieces);
        self.find_equal(&mut pieces, under_way);
        self.claim(&mut pieces)
            .inspect_err(|_| self.give_up(&pieces))?;
        self.describe(&mut pieces);
        let write = |write: pieces::Write| {
            let chunks = Arc::clone(self.store.journal.chunks());
            let write = move || write.carry_out(&chunks);
            match is_last {
                true => Started::Done(write()),
                false => self.store.background.hand_over(write),
            }
        };
        let writes = pieces::writes(&pieces).into_iter().map(write).collect();
        Ok(Writing { pieces, writes })
    }

    /// Waits until a group is written, and makes extents of it.
    fn end_group(
        &self,
        ino: Ino,
        state: &InodeState,
        writing: Writing,
        left: &mut Vec<Captured>,
    ) -> Result<(), EngineError> {
        let Writing { mut pieces, writes } = writing;
        let mut written = Ok(());
        for write in writes {
            let stopped = || Err(StoreError::Corrupt("a thread that writes has ended".into()));
            written = written.and(write.wait().unwrap_or_else(stopped));
        }
        let done = match self.store.journal.latching(written) {
            Ok(()) => self.publish(ino, state, &mut pieces),
            Err(error) => Err(error.into()),
        };
        let gone = pieces.iter().filter(|piece| piece.is_gone());
        left.extend(gone.map(|piece| piece.run.clone()));
        done.inspect_err(|_| self.give_up(&pieces))
    }

    /// Reads what will be replaced: what cannot be entered in the trees is not written at all, or
    /// each attempt would take space until the next checkpoint.
    fn check_readable(&self, ino: Ino, group: &[Captured]) -> Result<(), EngineError> {
        let view = self.store.journal.view();
        self.load_inode(&view, ino)?;
        for Captured { start, data, .. } in group {
            let end = start.saturating_add(data.len() as u64);
            for extent in overlapping(&view, self.tree(), ino, *start, end, EXTENTS_MAX)? {
                if extent.record.has_chunk() {
                    let chunk = extents::chunk(&view, extent.record.chunk)?;
                    hashes::find(&view, &chunk.hash)?;
                }
            }
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
        let is_done = |piece: &Piece| piece.is_entered() || piece.is_gone();
        while !pieces.iter().all(is_done) {
            let (mut data, mut tx) = self.begin_with(state, Need::Reclaim)?;
            let (steps, counters, project) = self.enter_some(&mut tx, ino, pieces, &data)?;
            let replaced = steps.iter().map(|step| step.replaced).sum();
            let released = steps.iter().map(|step| step.released).sum();
            let lsn = self.commit_counted(tx, (&counters, project), released, None)?;
            state.touch(lsn);
            self.dataset.replaced.note(ino, replaced);
            self.change_dirty(&mut data, |map| {
                for step in steps {
                    let Some(piece) = pieces.get_mut(step.place.0) else {
                        continue;
                    };
                    if let Some(part) = piece.parts.get_mut(step.place.1) {
                        match step.until {
                            Some(until) => {
                                if part.entered == part.start {
                                    part.count(&self.store.data);
                                }
                                map.log_cleared(part.entered, until);
                                map.allocated(part.entered, until);
                                part.entered = until;
                            }
                            None => part.chunk = Chunk::Gone,
                        }
                    }
                    let run = &piece.run;
                    if piece.is_entered() && map.is_unchanged(run.start, &run.data) {
                        map.written(run.start);
                    }
                }
            });
        }
        for piece in pieces.iter() {
            if let Some(id) = piece.new_chunk() {
                self.store.data.cache.keep_written(id, &piece.run.data);
            }
        }
        Ok(())
    }

    /// A transaction's share of [`Volume::publish`]; the counters then, and the file's project.
    fn enter_some(
        &self,
        tx: &mut Tx<'_>,
        ino: Ino,
        pieces: &[Piece],
        data: &DirtyMap,
    ) -> Result<(Vec<Step>, DatasetCounters, u32), EngineError> {
        let mut record = self.load_inode(tx, ino)?;
        let mut counters = self.load_counters(tx)?;
        let mut steps = Vec::new();
        let mut budget = EXTENTS_MAX;
        let all = pieces.iter().enumerate().flat_map(|(index, piece)| {
            let parts = piece.parts.iter().enumerate();
            parts.map(move |(part, content)| ((index, part), piece.run.dedup(), content))
        });
        let is_left = |part: &Part| part.entered < part.end() && !matches!(part.chunk, Chunk::Gone);
        for (place, dedup, content) in all.filter(|(.., part)| is_left(part)) {
            if budget == 0 {
                break;
            }
            // Before what it replaces goes: that may be the chunk's last extent.
            if let Chunk::Equal(id) = content.chunk
                && content.entered == content.start
                && !hashes::hold(tx, id)?
            {
                steps.push(Step {
                    place,
                    until: None,
                    released: 0,
                    replaced: 0,
                });
                continue;
            }
            let mut editor = Editor {
                tx: &mut *tx,
                kept: &self.store.data.cache,
                tree: self.tree(),
                ino,
                record: &mut record,
                counters: &mut counters,
            };
            let before = editor.content_bytes();
            let (until, cut) = editor.punch_some(content.entered, content.end(), budget)?;
            let mut replaced = before.saturating_sub(editor.content_bytes());
            if content.is_small_for(editor.record.size) {
                replaced = replaced.saturating_add(until - content.entered);
            }
            budget = budget.saturating_sub(cut + 1);
            enter_part(&mut editor, content, until, dedup)?;
            if data.is_logged(content.entered, until) {
                let len = until - content.entered;
                tx.data_clear(self.dataset.id, ino, content.entered, len);
            }
            steps.push(Step {
                place,
                until: Some(until),
                released: data.unallocated_in(content.entered, until),
                replaced,
            });
        }
        self.store_inode(tx, ino, &record)?;
        Ok((steps, counters, record.projid))
    }
}

impl Store {
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
}

/// What a transaction entered of a part.
struct Step {
    /// Which piece, and which part of it.
    place: (usize, usize),
    /// Up to where it is entered; `None` when the chunk that it was to refer to is gone.
    until: Option<u64>,
    /// Bytes that were counted as unwritten ones without an extent, and have one now.
    released: u64,
    /// Bytes that were written over, or in a piece that is small for the file.
    replaced: u64,
}

/// Makes the extent of a part reach to `until`, below which nothing else is any more.
fn enter_part(
    editor: &mut Editor<'_, '_>,
    part: &Part,
    until: u64,
    dedup: Dedup,
) -> Result<(), EngineError> {
    let (id, new) = match &part.chunk {
        Chunk::New(id, record) => (id, Some(record)),
        Chunk::Equal(id) => (id, None),
        Chunk::Unknown | Chunk::Gone => {
            return Err(StoreError::Corrupt("a chunk that was not written".into()).into());
        }
    };
    let extent = |until: u64| ExtentRecord {
        len: until - part.start,
        chunk: *id,
        chunk_offset: 0,
        birth: editor.tx.generation(),
    };
    let (before, after) = (extent(part.entered), extent(until));
    if before.len > 0 {
        editor.subtract_sums(&before);
        // A snapshot that was taken since the last step has the shorter one.
        let shorter = editor.at(part.start)?;
        if let Some(shorter) = shorter
            && !editor.owns(&shorter)?
        {
            extents::add_references(editor.tx, *id, 1)?;
        }
    } else if let Some(chunk) = new {
        space::settle_claim(editor.tx, part.unit)?;
        let key = key::chunk(*id);
        editor.tx.put(TreeId::Chunks, key, chunk.encode())?;
        if dedup != Dedup::Off {
            hashes::enter(editor.tx, &chunk.hash, *id)?;
        }
    }
    Ok(editor.insert(part.start, after)?)
}

/// Takes runs apart into groups of at most `size`, each of which lets go of its memory by itself:
/// what is written out no longer counts against the limit.
fn in_groups(runs: Vec<Captured>, size: usize) -> impl Iterator<Item = Vec<Captured>> {
    let mut rest = runs.into_iter();
    std::iter::from_fn(move || {
        let group: Vec<_> = rest.by_ref().take(size).collect();
        (!group.is_empty()).then_some(group)
    })
}
