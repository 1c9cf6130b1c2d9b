//! Defragmentation in the background.
//!
//! A chunk takes its space until nothing refers to any part of it. Of one that was overwritten in part,
//! the rest of the file's content and what nobody can read any more stay where they are, so a file that
//! is written to here and there comes to take up to twice its content, and is read in small pieces.
//! What of it pays is written anew, as `razorfs rewrite` does with all of a file ([`super::rewrite`]):
//! a window becomes one chunk, and those that it was in are free.
//!
//! That frees nothing of what others have too: snapshots, clones, copies, equal content. Their windows
//! are left alone; otherwise each would take space of its own.

use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use super::chunks::units;
use super::dirty::WINDOW;
use super::extents::{Extent, chunk, overlapping, reach};
use super::replaced::FILE_MIN_BYTES;
use super::rewrite::For;
use super::{UNIT, check_file, space};
use crate::engine::datasets::lineage;
use crate::engine::{CompactOptions, EngineError, Store, Volume};
use crate::format::codec::Compression;
use crate::format::id::{ChunkId, DatasetId, Ino};
use crate::format::key;
use crate::format::record::{ChunkRecord, LineageRecord};
use crate::log::View;
use crate::store::StoreError;
use crate::sync::atomic::Ordering;

/// Extents that are read at a time.
const LOOK_EXTENTS: usize = 512;
/// Bytes that are written anew, or read to see what pays, in one step.
const STEP_BYTES: u64 = 4 << 20;
/// What reading an extent and its chunk counts as, in bytes.
const EXTENT_BYTES: u64 = 256;
/// What writing a window anew counts as at least, however little it holds.
const WINDOW_WORK: u64 = WINDOW / 2;
/// A window in so many pieces is written anew, whatever space that saves.
const PIECES_MAX: usize = 24;
/// After so many bytes a checkpoint frees what they replaced.
const FREED_BYTES: u64 = 256 << 20;
/// Less is never worth the trouble.
const WORTH_BYTES: u64 = 16 << 20;

/// What was found among some extents of a file.
struct Look {
    extents: u64,
    /// Windows that are to be written anew, and the bytes that each saves.
    windows: Vec<(Range<u64>, u64)>,
    /// Where to go on.
    next: Option<u64>,
}

/// Who says whether a window of a file is to be written anew.
struct Judge<'v> {
    view: &'v View,
    ino: Ino,
    lineage: LineageRecord,
    /// Whether the dataset compresses what is written now.
    compresses: bool,
    percent: u64,
}

impl Judge<'_> {
    /// Bytes that are saved by writing a window anew that stands in these extents; `None` when it is not
    /// to be: when it does not pay, and when anybody else has any of it.
    fn saved(&self, window: &Range<u64>, extents: &[Extent]) -> Result<Option<u64>, StoreError> {
        let with_chunk = || extents.iter().filter(|extent| extent.record.has_chunk());
        let is_own = |extent: &Extent| {
            let key = key::extent(self.ino, extent.start);
            let is_within = extent.start >= window.start && extent.end() <= window.end;
            is_within && extent.record.birth > self.lineage.boundary(&key)
        };
        if !with_chunk().all(is_own) {
            return Ok(None);
        }
        let mut stored = Stored::default();
        for extent in with_chunk() {
            stored.add(self, extent)?;
        }
        Ok(stored.saved(self.percent))
    }
}

/// What a window is stored in, and what it would take.
#[derive(Default)]
struct Stored {
    /// Its chunks, and how often it refers to each.
    chunks: SmallVec<[(ChunkId, ChunkRecord, u64); 8]>,
    /// Bytes that the chunks take.
    held: u64,
    /// Bytes of their content that nothing refers to.
    dead: u64,
    pieces: usize,
    /// Those between which there is a hole.
    runs: usize,
    end: u64,
    /// Bytes that all runs but the last would take, and that one.
    needed: u64,
    run: u64,
}

impl Stored {
    fn add(&mut self, judge: &Judge<'_>, extent: &Extent) -> Result<(), StoreError> {
        let (id, len) = (extent.record.chunk, extent.record.len);
        if extent.start != self.end || self.pieces == 0 {
            self.needed = self.needed();
            (self.run, self.runs) = (0, self.runs + 1);
        }
        if !self.chunks.iter().any(|(other, ..)| *other == id) {
            let record = chunk(judge.view, id)?;
            let units = units(record.stored_len as usize);
            self.held = self.held.saturating_add(units.saturating_mul(UNIT));
            self.dead = self.dead.saturating_add(record.raw_len.into());
            self.chunks.push((id, record, 0));
        }
        let known = self.chunks.iter_mut().find(|(other, ..)| *other == id);
        if let Some((_, record, references)) = known {
            *references += 1;
            let stored = len.saturating_mul(record.stored_len.into());
            self.run = self.run.saturating_add(match judge.compresses {
                true => stored.div_ceil(u64::from(record.raw_len).max(1)),
                false => len,
            });
        }
        self.dead = self.dead.saturating_sub(len);
        (self.pieces, self.end) = (self.pieces + 1, extent.end());
        Ok(())
    }

    /// Bytes that all of it would take, as compressed as each part is.
    fn needed(&self) -> u64 {
        self.needed
            .saturating_add(self.run.div_ceil(UNIT).saturating_mul(UNIT))
    }

    fn saved(&self, percent: u64) -> Option<u64> {
        let is_shared =
            |(_, record, references): &(_, ChunkRecord, u64)| record.refcount != *references;
        let is_well = self.dead == 0 && self.pieces == self.runs;
        if is_well || self.chunks.iter().any(is_shared) {
            return None;
        }
        let saved = self.held.saturating_sub(self.needed());
        let pays = saved > 0 && saved.saturating_mul(100) >= self.held.saturating_mul(percent);
        let joins = self.pieces >= PIECES_MAX && self.runs * 2 <= self.pieces;
        (pays || joins).then_some(saved)
    }
}

impl Store {
    /// Writes parts of files anew, if that pays, of which much was written over since the store was
    /// opened. `go_on` is asked before each step of some MiB. How many bytes were written.
    ///
    /// # Errors
    /// When the store takes no writes any more, or its space cannot be read. A full disk ends it. What
    /// was written by then stays.
    pub fn defragment_idle(
        self: &Arc<Self>,
        options: CompactOptions,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<u64, EngineError> {
        let mut found = Vec::new();
        let ids: Vec<_> = self.datasets().iter().map(|each| each.id).collect();
        for volume in ids.into_iter().filter_map(|id| self.volume_of(id)) {
            volume.worth_a_look(options.percent, &mut found)?;
        }
        let sum = found
            .iter()
            .map(|(.., bytes)| *bytes)
            .fold(0, u64::saturating_add);
        let used = space::units_used(&self.journal.view())?.saturating_mul(UNIT);
        if sum < options.min_bytes.min((used / 16).max(WORTH_BYTES)) {
            return Ok(0);
        }
        let (mut written, mut freed_at) = (0u64, 0u64);
        for (dataset, ino, _) in found {
            let mut is_through = false;
            while !is_through && go_on() {
                let done = self.defragment_some(dataset, ino, options.percent, &mut written);
                is_through = match done {
                    // Others would find no room either.
                    Err(EngineError::Store(StoreError::NoSpace(reason))) => {
                        ::log::debug!("defragmentation: {reason}");
                        break;
                    }
                    other => other?,
                };
                if written - freed_at >= FREED_BYTES {
                    freed_at = written;
                    self.checkpoint()?;
                }
            }
            if !is_through {
                break;
            }
        }
        if written > freed_at {
            // What was replaced becomes free, for the next trim.
            self.checkpoint()?;
        }
        Ok(written)
    }

    /// A step through a file; whether nothing is left to do there. Between two steps nothing keeps the
    /// dataset from being deleted.
    fn defragment_some(
        self: &Arc<Self>,
        dataset: DatasetId,
        ino: Ino,
        percent: u8,
        written: &mut u64,
    ) -> Result<bool, EngineError> {
        let Some(volume) = self.volume_of(dataset) else {
            return Ok(true);
        };
        match volume.defragment_step(ino, percent, written) {
            Ok(is_through) => return Ok(is_through),
            Err(EngineError::Stale) => {}
            Err(error @ EngineError::Store(StoreError::NoSpace(_))) => return Err(error),
            Err(error) => {
                // It is another file's turn, unless there is none for the whole store. What cannot be
                // read is told to who reads it, and by a scrub.
                self.journal.writable()?;
                ::log::warn!("inode {ino} of dataset {dataset} is not defragmented: {error}");
            }
        }
        volume.dataset.replaced.forget(ino);
        Ok(true)
    }
}

impl Volume {
    /// Adds the files of which enough was written over, and the bytes of that.
    fn worth_a_look(
        &self,
        percent: u8,
        found: &mut Vec<(DatasetId, Ino, u64)>,
    ) -> Result<(), EngineError> {
        let view = self.store.journal.view();
        for (ino, bytes, times) in self.dataset.replaced.most() {
            if self.is_leaving() {
                break;
            }
            let Ok(record) = self.load_inode(&view, ino) else {
                self.dataset.replaced.forget(ino);
                continue;
            };
            let share = record.allocated / 100 * u64::from(percent);
            if bytes >= share.max(FILE_MIN_BYTES).saturating_mul(times) {
                found.push((self.dataset.id, ino, bytes));
            }
        }
        Ok(())
    }

    /// Whether somebody waits until nobody is at work on the dataset.
    fn is_leaving(&self) -> bool {
        self.dataset.leaving.load(Ordering::Acquire)
    }

    /// A step through a file, of work like that of writing [`STEP_BYTES`]; whether that was the last.
    fn defragment_step(
        &self,
        ino: Ino,
        percent: u8,
        written: &mut u64,
    ) -> Result<bool, EngineError> {
        let replaced = &self.dataset.replaced;
        let mut pass = replaced.pass(ino);
        let mut work = 0u64;
        while work < STEP_BYTES && !self.is_leaving() {
            let look = self.look(ino, percent, pass.at)?;
            work = work.saturating_add(look.extents.saturating_mul(EXTENT_BYTES));
            for (window, saved) in look.windows {
                pass.at = window.start;
                replaced.reached(ino, pass);
                if work >= STEP_BYTES || self.is_leaving() {
                    return Ok(false);
                }
                let pays = |view: &View, extents: &[Extent]| {
                    let judge = self.judge(view, ino, percent)?;
                    Ok(judge.saved(&window, extents)?.is_some())
                };
                // Who has closed the gate may wait until nobody has the dataset.
                let done = replaced.unnoted(ino, || {
                    self.rewrite_some(ino, window.start, window.end, &For::Idle(&pays))
                });
                let Some((_, bytes)) = done? else {
                    return Ok(false);
                };
                work = work.saturating_add(bytes.max(WINDOW_WORK));
                *written = written.saturating_add(bytes);
                self.store.data.defragmented_bytes.add(bytes);
                if bytes > 0 {
                    pass.saved = pass.saved.saturating_add(saved);
                }
            }
            let Some(next) = look.next else {
                replaced.looked_at(ino, pass.saved);
                return Ok(true);
            };
            pass.at = next;
            replaced.reached(ino, pass);
        }
        Ok(false)
    }

    fn judge<'v>(&self, view: &'v View, ino: Ino, percent: u8) -> Result<Judge<'v>, EngineError> {
        Ok(Judge {
            view,
            ino,
            lineage: lineage(view, self.dataset.id)?,
            compresses: self.storing(view)?.compression != Compression::OFF,
            percent: percent.into(),
        })
    }

    /// Looks at the next extents of a file.
    fn look(&self, ino: Ino, percent: u8, at: u64) -> Result<Look, EngineError> {
        let view = self.store.journal.view();
        let record = self.load_inode(&view, ino)?;
        check_file(&record)?;
        let size = record.size;
        let found = overlapping(&view, self.tree(), ino, at, size, LOOK_EXTENTS)?;
        // A window that was not read wholly is looked at again, if there is one before it; one of so
        // many extents is left alone.
        let mut until = reach(&found, size, LOOK_EXTENTS);
        if until < size {
            let whole = until / WINDOW * WINDOW;
            until = if whole > at {
                whole
            } else {
                whole.saturating_add(WINDOW)
            };
        }
        let judge = self.judge(&view, ino, percent)?;
        let mut windows = Vec::new();
        let mut behind = 0;
        let same = |one: &Extent, next: &Extent| one.start / WINDOW == next.start / WINDOW;
        for some in found.chunk_by(same) {
            let start = some
                .first()
                .map_or(0, |first| first.start / WINDOW * WINDOW);
            let end = start.saturating_add(WINDOW).min(size);
            // One that begins before the window, or of which a part was passed by, has others in it.
            let is_whole = behind <= start && start >= at && end <= until;
            let with_chunk = some.iter().rfind(|extent| extent.record.has_chunk());
            let behind_this = with_chunk.map_or(behind, Extent::end);
            behind = behind_this;
            if is_whole && let Some(saved) = judge.saved(&(start..end), some)? {
                windows.push((start..end, saved));
            }
        }
        Ok(Look {
            extents: found.len() as u64,
            windows,
            next: (until < size).then_some(until),
        })
    }
}
