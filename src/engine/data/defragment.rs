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

use super::dirty::WINDOW;
use super::extents::{Extent, chunk, overlapping, reach};
use super::replaced::FILE_MIN_BYTES;
use super::{UNIT, check_file, chunks, space};
use crate::engine::datasets::lineage;
use crate::engine::{CompactOptions, EngineError, Store, Volume};
use crate::format::id::{ChunkId, DatasetId, Ino};
use crate::format::key;
use crate::log::View;
use crate::store::StoreError;
use crate::sync::RwLock;
use crate::sync::atomic::Ordering;

/// Extents that are read at a time.
const LOOK_EXTENTS: usize = 512;
/// Bytes that are written anew, or read to see what pays, in one step.
const STEP_BYTES: u64 = 4 << 20;
/// What reading an extent and its chunk counts as, in bytes.
const EXTENT_BYTES: u64 = 256;
/// A window in so many pieces is written anew, whatever space that saves.
const PIECES_MAX: usize = 24;
/// Less is never worth the trouble.
const WORTH_BYTES: u64 = 16 << 20;

/// How far a file was gone through.
#[derive(Default)]
struct Pass {
    at: u64,
    /// Bytes that were written anew.
    written: u64,
}

/// What was found among some extents of a file.
struct Look {
    extents: u64,
    /// Windows that are to be written anew.
    windows: Vec<Range<u64>>,
    /// Where to go on.
    next: Option<u64>,
}

/// What a window of a file is stored in.
#[derive(Default)]
struct Stored {
    pieces: usize,
    /// Bytes of the window.
    live_bytes: u64,
    /// Runs without a hole between them, by length.
    runs: SmallVec<[u64; 4]>,
    end: u64,
    /// Its chunks, and how often it refers to each.
    chunks: SmallVec<[(ChunkId, u64); 32]>,
}

impl Stored {
    fn add(&mut self, extent: &Extent) {
        self.pieces += 1;
        let len = extent.record.len;
        self.live_bytes = self.live_bytes.saturating_add(len);
        match self.runs.last_mut() {
            Some(run) if extent.start == self.end => *run = run.saturating_add(len),
            _ => self.runs.push(len),
        }
        self.end = extent.end();
        let id = extent.record.chunk;
        match self.chunks.iter_mut().find(|(other, _)| *other == id) {
            Some((_, references)) => *references += 1,
            None => self.chunks.push((id, 1)),
        }
    }

    /// Whether writing the window anew frees enough of what it takes, or joins enough pieces; never
    /// while anybody else refers to one of its chunks.
    fn pays(&self, view: &View, percent: u64) -> Result<bool, StoreError> {
        let (mut held, mut stored, mut content) = (0u64, 0u64, 0u64);
        for (id, references) in &self.chunks {
            let record = chunk(view, *id)?;
            if record.refcount != *references {
                return Ok(false);
            }
            let stored_len = record.stored_len as usize;
            held = held.saturating_add(chunks::units(stored_len) * UNIT);
            stored = stored.saturating_add(u64::from(record.stored_len));
            content = content.saturating_add(u64::from(record.raw_len));
        }
        // As well compressed as it is.
        let needed = self.runs.iter().map(|run| {
            let bytes = run.saturating_mul(stored).checked_div(content);
            bytes.unwrap_or(*run).next_multiple_of(UNIT)
        });
        let saved = held.saturating_sub(needed.sum());
        let joined = self.pieces >= PIECES_MAX && self.runs.len() * 2 <= self.pieces;
        Ok(saved.saturating_mul(100) >= held.saturating_mul(percent).max(1) || joined)
    }
}

impl Store {
    /// Writes parts of files anew, if that pays, of which much was written over since the store was
    /// opened. `go_on` is asked before each step of some MiB. How many bytes were written.
    ///
    /// # Errors
    /// `NoSpace`: old and new content need room at the same time, a window at a time; a store error.
    /// What was written by then stays.
    pub fn defragment_idle(
        self: &Arc<Self>,
        options: CompactOptions,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<u64, EngineError> {
        let mut found = Vec::new();
        let mut sum = 0u64;
        for volume in self.volumes() {
            sum = sum.saturating_add(volume.worth_a_look(options.percent, &mut found)?);
        }
        let used = space::units_used(&self.journal.view())?.saturating_mul(UNIT);
        if sum < options.min_bytes.min((used / 16).max(WORTH_BYTES)) {
            return Ok(0);
        }
        let mut written = 0u64;
        for (dataset, ino) in found {
            let mut pass = Pass::default();
            let stopped = self.defragment(dataset, ino, options.percent, &mut pass, go_on)?;
            written = written.saturating_add(pass.written);
            if stopped {
                break;
            }
        }
        if written > 0 {
            // What was replaced becomes free, for the next trim.
            self.checkpoint()?;
        }
        Ok(written)
    }

    /// Goes through a file; true when it is not to go on. Between two steps nothing keeps the dataset
    /// from being deleted.
    fn defragment(
        self: &Arc<Self>,
        dataset: DatasetId,
        ino: Ino,
        percent: u8,
        pass: &mut Pass,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<bool, EngineError> {
        loop {
            if !go_on() {
                return Ok(true);
            }
            let volume = self.volume_of(dataset);
            let stays = |volume: &Volume| !volume.dataset.leaving.load(Ordering::Acquire);
            let Some(volume) = volume.filter(stays) else {
                return Ok(false);
            };
            match volume.defragment_some(ino, percent, pass) {
                Ok(false) => continue,
                Ok(true) => volume.dataset.replaced.looked_at(ino, pass.written),
                Err(EngineError::Stale) => volume.dataset.replaced.forget(ino),
                // Who reads it is told, and so is a scrub.
                Err(EngineError::Store(error @ StoreError::Corrupt(_))) => {
                    ::log::warn!("inode {ino} is not defragmented: {error}");
                    volume.dataset.replaced.forget(ino);
                }
                Err(error) => return Err(error),
            }
            return Ok(false);
        }
    }
}

impl Volume {
    /// Adds the files of which enough was written over; the bytes of that.
    fn worth_a_look(
        &self,
        percent: u8,
        found: &mut Vec<(DatasetId, Ino)>,
    ) -> Result<u64, EngineError> {
        let view = self.store.journal.view();
        let mut sum = 0u64;
        for (ino, bytes, times) in self.dataset.replaced.most() {
            let allocated = match self.load_inode(&view, ino) {
                Ok(record) => record.allocated,
                Err(EngineError::Stale) => {
                    self.dataset.replaced.forget(ino);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let share = allocated / 100 * u64::from(percent);
            if bytes >= share.max(FILE_MIN_BYTES).saturating_mul(times) {
                sum = sum.saturating_add(bytes);
                found.push((self.dataset.id, ino));
            }
        }
        Ok(sum)
    }

    /// A step through a file, of [`STEP_BYTES`]; whether it is through.
    fn defragment_some(&self, ino: Ino, percent: u8, pass: &mut Pass) -> Result<bool, EngineError> {
        let mut work = 0u64;
        while work < STEP_BYTES {
            let look = self.look(ino, percent, pass.at)?;
            work = work.saturating_add(look.extents.saturating_mul(EXTENT_BYTES));
            for window in look.windows {
                if work >= STEP_BYTES {
                    pass.at = window.start;
                    return Ok(false);
                }
                let mut at = window.start;
                while at < window.end {
                    // Who has closed it may wait until nobody has the dataset.
                    let enter = |gate| RwLock::try_read(gate);
                    let Some((reached, bytes)) = self.rewrite_some(ino, at, window.end, enter)?
                    else {
                        pass.at = window.start;
                        return Ok(false);
                    };
                    work = work.saturating_add(bytes);
                    pass.written = pass.written.saturating_add(bytes);
                    self.store.data.defragmented_bytes.add(bytes);
                    at = reached.max(at.saturating_add(1));
                }
            }
            match look.next {
                Some(next) => pass.at = next,
                None => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Looks at the next extents of a file.
    fn look(&self, ino: Ino, percent: u8, at: u64) -> Result<Look, EngineError> {
        let view = self.store.journal.view();
        let record = self.load_inode(&view, ino)?;
        check_file(&record)?;
        let size = record.size;
        let found = overlapping(&view, self.tree(), ino, at, size, LOOK_EXTENTS)?;
        // A window that was not read wholly is looked at again, if there is one before it.
        let mut until = reach(&found, size, LOOK_EXTENTS);
        if until < size {
            let whole = until / WINDOW * WINDOW;
            until = if whole > at { whole } else { until };
        }
        let lineage = lineage(&view, self.dataset.id)?;
        let is_own = |extent: &Extent| {
            let key = key::extent(ino, extent.start);
            extent.record.birth > lineage.boundary(&key)
        };
        let mut windows = Vec::new();
        let with_chunk: Vec<_> = found
            .iter()
            .filter(|extent| extent.record.has_chunk() && extent.start < until)
            .collect();
        let same = |one: &&Extent, next: &&Extent| one.start / WINDOW == next.start / WINDOW;
        for some in with_chunk.chunk_by(same) {
            let start = some
                .first()
                .map_or(0, |first| first.start / WINDOW * WINDOW);
            let end = start.saturating_add(WINDOW).min(size);
            let is_within = |extent: &Extent| extent.start >= at && extent.end() <= end;
            if !some
                .iter()
                .all(|extent| is_within(extent) && is_own(extent))
            {
                continue;
            }
            let mut stored = Stored::default();
            some.iter().for_each(|extent| stored.add(extent));
            if stored.pays(&view, percent.into())? {
                windows.push(start..end);
            }
        }
        Ok(Look {
            extents: found.len() as u64,
            windows,
            next: (until < size).then_some(until),
        })
    }
}
