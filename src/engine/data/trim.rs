//! Space of chunks.dat that goes back to the disk below, and comes from there again.
//!
//! What is free may be promised to a writer, who was told that his bytes will find room. So what goes
//! back is no longer free: it is taken from the free ranges and marked as punched in one transaction,
//! only as far as no promise needs it, and that is durable before the disk is told. Nobody writes
//! there until it has been allocated again and made free, which is done before chunks.dat grows.
//! Only what is free is punched: the checkpoint that freed it is durable, so no recovery needs it.
//!
//! Lock order: `holes`, the journal's writer, `growth`.

use std::io;

use super::space;
use super::{SPARE_UNITS, UNIT, ahead_bytes, kept_for_trees};
use crate::engine::error::check_goes_on;
use crate::engine::{EngineError, Store};
use crate::format::superblock::UNITS_END;
use crate::log::Tx;
use crate::store::StoreError;
use crate::store::pages::Need;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// Units punched in one transaction, and allocated in one.
const STEP_UNITS: u64 = 1 << 16;
/// Ranges in one transaction.
const STEP_RANGES: usize = 64;
/// Free ranges that a look remembers.
const SEEN_MAX: usize = 4096;
/// Steps that one look takes, at most: the disk has others to serve.
const LOOK_STEPS: usize = 16;

/// What trims keep.
#[derive(Default)]
pub(super) struct State {
    /// Held while a range is punched, or allocated again: nobody writes to what is being punched.
    holes: Mutex<()>,
    /// Whether space is being taken from what could be promised.
    taking: AtomicBool,
    /// The disk below takes no space back.
    refused: AtomicBool,
    /// Free ranges that the last look saw.
    seen: Mutex<Vec<(u64, u64)>>,
}

/// What to give back.
#[derive(Debug, Clone, Copy)]
pub struct TrimOptions {
    /// The shortest range that is worth it, in bytes.
    pub min_bytes: u64,
}

impl Default for TrimOptions {
    fn default() -> Self {
        TrimOptions {
            min_bytes: 64 << 10,
        }
    }
}

/// What went back to the disk below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trimmed {
    /// Bytes inside of chunks.dat.
    pub punched_bytes: u64,
    /// Pieces that they were in.
    pub pieces: u64,
    /// Bytes at its end.
    pub cut_bytes: u64,
    /// Bytes of nodes.dat, inside and at its end.
    pub metadata_bytes: u64,
    /// Bytes of strings.dat, between names that are used.
    pub names_bytes: u64,
    /// The disk below does not take space back from inside of a file.
    pub unsupported: bool,
}

/// Says that space is being taken from what could be promised.
struct Taking<'a>(&'a AtomicBool);

impl<'a> Taking<'a> {
    /// To be called with `growth` held.
    fn begin(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::SeqCst);
        Taking(flag)
    }
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Store {
    /// Gives all space of chunks.dat that is free, and that no unwritten bytes need, back to the
    /// disk below, at once; and that of free tree pages, but for some, and of names that nobody uses.
    /// May be called at any time; what a crash leaves of it, the next one does. `go_on` is asked for
    /// each step.
    ///
    /// # Errors
    /// When the checkpoint before it fails, a tree cannot be read, or the disk refuses for a reason
    /// other than that it cannot do it; [`EngineError::Interrupted`]: space may have gone back then,
    /// and content is whole.
    pub fn trim(
        &self,
        options: &TrimOptions,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Trimmed, EngineError> {
        // What was freed becomes free.
        self.checkpoint()?;
        let mut done = Trimmed {
            cut_bytes: self.cut_all(0)?,
            ..Trimmed::default()
        };
        let mut from = Some(0);
        while let Some(start) = from {
            let end = self.journal.chunks().len_bytes() / UNIT;
            let min = options.min_bytes.div_ceil(UNIT).max(1);
            let view = self.journal.view();
            let (ranges, next) = space::free_ranges(&view, start, end, min, STEP_RANGES)?;
            drop(view);
            check_goes_on(go_on)?;
            while self.punch_step(&ranges, min, &mut done)? {
                check_goes_on(go_on)?;
            }
            from = next.filter(|_| !done.unsupported);
        }
        // What was punched may be all that was behind the last chunk.
        done.cut_bytes = done.cut_bytes.saturating_add(self.cut_all(0)?);
        // What is wrong with one tree is told when the rest is done.
        let names = match self.forget_names(go_on) {
            Err(EngineError::Interrupted) => return Err(EngineError::Interrupted),
            other => other,
        };
        done.metadata_bytes = self.journal.trim_pages(true)?;
        // The end of nodes.dat goes when that of a checkpoint is before it.
        self.checkpoint()?;
        let cut = self.journal.cut_pages()?;
        done.metadata_bytes = done.metadata_bytes.saturating_add(cut);
        done.names_bytes = names?;
        Ok(done)
    }

    /// Gives free space back that nobody has touched since the last look, tree pages too; and what
    /// chunks.dat has at its end beyond what it would grow by ahead of use. A bounded part of it:
    /// to be called now and then.
    ///
    /// # Errors
    /// As [`Store::trim`].
    pub(in crate::engine) fn trim_idle(&self) -> Result<Trimmed, EngineError> {
        let min = TrimOptions::default().min_bytes.div_ceil(UNIT);
        let mut done = Trimmed::default();
        let mut seen = self.data.trim.seen.lock();
        let mut steps = 0;
        for ranges in seen.chunks(STEP_RANGES) {
            while steps < LOOK_STEPS && self.punch_step(ranges, min, &mut done)? {
                steps += 1;
            }
        }
        let ahead = ahead_bytes(self.journal.chunks().len_bytes()) / UNIT;
        done.cut_bytes = self.cut_all(ahead)?;
        *seen = match self.takes_no_holes() {
            true => Vec::new(),
            false => space::large_free_ranges(&self.journal.view(), min, SEEN_MAX)?,
        };
        done.metadata_bytes = self.journal.trim_pages(false)?;
        let bytes = done.punched_bytes.saturating_add(done.cut_bytes);
        let bytes = bytes.saturating_add(done.metadata_bytes);
        if bytes > 0 {
            ::log::debug!("{bytes} bytes went back to the disk");
        }
        Ok(done)
    }

    /// Whether the disk below is known to take no space back from inside of a file.
    pub(super) fn takes_no_holes(&self) -> bool {
        self.data.trim.refused.load(Ordering::Relaxed)
    }

    /// Punches some of the ranges that are still free, each from its end: who needs space takes it
    /// from the beginning. Whether there may be more.
    fn punch_step(
        &self,
        ranges: &[(u64, u64)],
        min: u64,
        done: &mut Trimmed,
    ) -> Result<bool, EngineError> {
        if self.takes_no_holes() {
            done.unsupported = true;
            return Ok(false);
        }
        self.throttle()?;
        let _holes = self.data.trim.holes.lock();
        let mut tx = self.journal.begin_for(Need::Reclaim)?;
        let marked = self.taking_space(|| {
            let pieces = self.mark(&mut tx, ranges, min)?;
            if pieces.is_empty() {
                return Ok::<_, EngineError>(None);
            }
            Ok(Some((tx.commit()?, pieces)))
        });
        let Some((lsn, pieces)) = marked? else {
            return Ok(false);
        };
        // Without it, what a crash leaves could count as free and have no space: a promise of it
        // would be broken.
        self.journal.sync(lsn)?;
        for (index, (start, len)) in pieces.iter().enumerate() {
            let rest = pieces.get(index..).unwrap_or_default();
            let (offset, bytes) = (start.saturating_mul(UNIT), len.saturating_mul(UNIT));
            match self.journal.chunks().trim(offset, bytes) {
                Ok(()) => {
                    done.punched_bytes = done.punched_bytes.saturating_add(bytes);
                    done.pieces = done.pieces.saturating_add(1);
                }
                Err(error) => return self.trim_failed(rest, &error, done),
            }
        }
        Ok(true)
    }

    /// What could not be punched becomes free again, when it has its space.
    fn trim_failed(
        &self,
        pieces: &[(u64, u64)],
        error: &io::Error,
        done: &mut Trimmed,
    ) -> Result<bool, EngineError> {
        let unsupported = error.kind() == io::ErrorKind::Unsupported;
        let mut tx = self.journal.begin_for(Need::Reclaim)?;
        for (start, len) in pieces {
            // A part of it may be gone.
            if unsupported || self.allocate_units(*start, *len).is_ok() {
                space::unpunch(&mut tx, *start, *len)?;
            }
        }
        tx.commit()?;
        if unsupported {
            ::log::info!("space that is freed stays with the store: {error}");
            self.data.trim.refused.store(true, Ordering::Relaxed);
            done.unsupported = true;
            return Ok(false);
        }
        let source = io::Error::new(error.kind(), error.to_string());
        Err(StoreError::io("chunks.dat, giving space back", source).into())
    }

    /// Marks parts of ranges as punched, as far as they are free and no promise needs them: first
    /// unit and length. To be called while space is being taken.
    fn mark(
        &self,
        tx: &mut Tx<'_>,
        ranges: &[(u64, u64)],
        min: u64,
    ) -> Result<Vec<(u64, u64)>, EngineError> {
        let chunks = self.journal.chunks();
        let block = (chunks.block_bytes() / UNIT).clamp(1, STEP_UNITS);
        let backed = chunks.len_bytes() / UNIT;
        let mut left = self.spare_units(tx)?.min(STEP_UNITS);
        let mut pieces = Vec::new();
        for (start, len) in ranges {
            let free = space::free_len(tx, *start)?;
            if start.saturating_add(free) >= UNITS_END {
                // It is cut off, or kept for what comes next.
                continue;
            }
            // Of a range that a step before took a part of, what is left of it.
            let end = start.saturating_add(free.min(*len)).min(backed) / block * block;
            let first = start.next_multiple_of(block);
            let first = first.max(end.saturating_sub(left).next_multiple_of(block));
            let units = end.saturating_sub(first);
            if units < min.max(1) {
                continue;
            }
            space::punch(tx, (*start, free), first, units)?;
            pieces.push((first, units));
            left = left.saturating_sub(units);
        }
        Ok(pieces)
    }

    /// Cuts chunks.dat off behind the last unit that is used or promised, and `keep` more; only when
    /// that is twice as much.
    pub(super) fn cut_all(&self, keep: u64) -> Result<u64, EngineError> {
        let mut sum = 0u64;
        while let Some(bytes) = self.cut_step(keep)? {
            sum = sum.saturating_add(bytes);
        }
        Ok(sum)
    }

    /// Takes one punched range at the end, or none, off the file; `None` when nothing can be cut off.
    fn cut_step(&self, keep: u64) -> Result<Option<u64>, EngineError> {
        // There may be thousands of holes, each a transaction.
        self.throttle()?;
        let chunks = self.journal.chunks();
        let _holes = self.data.trim.holes.lock();
        let mut tx = self.journal.begin_for(Need::Reclaim)?;
        let _growth = self.data.growth.lock();
        let _taking = Taking::begin(&self.data.trim.taking);
        let length = chunks.len_bytes() / UNIT;
        let mut tail = space::tail(&tx)?;
        let (used, claimed) = (space::units_used(&tx)?, self.claimed_units());
        let nothing_kept = self.data.kept_bytes.load(Ordering::SeqCst) == 0;
        let spare = match claimed == 0 && nothing_kept && used == space::units_punched(&tx)? {
            // As in a new store.
            true => 0,
            false => SPARE_UNITS,
        };
        let mut wanted = used.saturating_add(claimed).saturating_add(spare);
        let hole = space::punched_before(&tx, tail)?
            .filter(|(start, len)| wanted.saturating_sub(*len) <= *start);
        if let Some((start, len)) = hole {
            space::unpunch(&mut tx, start, len)?;
            tail = start;
            wanted = wanted.saturating_sub(len);
        }
        let end = tail.max(wanted);
        if hole.is_none() && end.saturating_add(keep.saturating_mul(2)) >= length {
            return Ok(None);
        }
        // What is behind the start of a hole has no space.
        let keep = if hole.is_some() { 0 } else { keep };
        let end = end.saturating_add(keep).min(length);
        match chunks.cut(end.saturating_mul(UNIT)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(None),
            Err(source) => {
                return Err(StoreError::io("chunks.dat, cutting its end off", source).into());
            }
        }
        if hole.is_some() {
            tx.commit()?;
        }
        let punched = hole.map_or(0, |(_, len)| len);
        let cut = length.saturating_sub(end).saturating_sub(punched);
        Ok(Some(cut.saturating_mul(UNIT)))
    }

    /// Units of chunks.dat that are free, and neither promised to nor kept for anybody. To be
    /// called while space is being taken.
    pub(super) fn spare_units(&self, tx: &Tx<'_>) -> Result<u64, EngineError> {
        let backed = self.journal.chunks().len_bytes() / UNIT;
        let wanted = space::units_used(tx)?.saturating_add(self.claimed_units());
        Ok(backed.saturating_sub(wanted.saturating_add(SPARE_UNITS)))
    }

    /// Takes space from what could be promised: `take` counts promises, and takes no more than none
    /// of them needs. To be called with a transaction, which `take` commits.
    pub(super) fn taking_space<T>(&self, take: impl FnOnce() -> T) -> T {
        let _growth = self.data.growth.lock();
        let _taking = Taking::begin(&self.data.trim.taking);
        take()
    }

    /// Waits while space is being taken. To be called between a promise of space and the look whether
    /// it can be kept: either who takes it sees the promise, or this sees what was taken.
    pub(super) fn wait_for_space(&self) {
        while self.data.trim.taking.load(Ordering::SeqCst) {
            drop(self.data.growth.lock());
        }
    }

    /// Makes sure that chunks.dat has room for `units` units, used ones included: allocates what was
    /// punched, and grows when that is not enough. To be called without a transaction.
    pub(super) fn make_units(&self, units: u64) -> Result<(), EngineError> {
        let missing = units.saturating_sub(self.journal.chunks().len_bytes() / UNIT);
        if missing == 0 {
            return Ok(());
        }
        let filled = self.fill(missing)?;
        self.grow_to(units.saturating_sub(filled))
    }

    /// Allocates punched ranges and makes them free: `missing` units if there are as many and the
    /// disk has the space, else none or some; and more, ahead of use. How many.
    pub(super) fn fill(&self, missing: u64) -> Result<u64, EngineError> {
        if space::units_punched(&self.journal.view())? == 0 {
            return Ok(0);
        }
        self.throttle()?;
        let _holes = self.data.trim.holes.lock();
        let chunks = self.journal.chunks();
        let length = chunks.len_bytes();
        let available = chunks
            .available_bytes()
            .map_err(|source| StoreError::io("chunks.dat, asking for space", source))?;
        let room = available.saturating_sub(kept_for_trees(length)) / UNIT;
        let ahead = ahead_bytes(length).min(available / 8) / UNIT;
        let mut left = missing.max(ahead).min(room);
        let mut ranges = Vec::new();
        if left > 0 {
            ranges = space::punched_ranges(&self.journal.view(), left, STEP_RANGES)?;
        }
        let mut filled = Vec::new();
        for (start, len) in ranges {
            let len = len.min(left);
            match self.allocate_units(start, len) {
                Ok(()) => filled.push((start, len)),
                Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                Err(source) => {
                    return Err(StoreError::io("chunks.dat, allocating", source).into());
                }
            }
            left = left.saturating_sub(len);
        }
        if filled.is_empty() {
            return Ok(0);
        }
        let mut tx = self.journal.begin_for(Need::Reclaim)?;
        for (start, len) in &filled {
            space::unpunch(&mut tx, *start, *len)?;
        }
        tx.commit()?;
        Ok(filled.iter().map(|(_, len)| len).sum())
    }

    /// Gives a range its space again, and what lies before it behind the end of the file.
    fn allocate_units(&self, start: u64, len: u64) -> io::Result<()> {
        let chunks = self.journal.chunks();
        let _growth = self.data.growth.lock();
        let end = start.saturating_add(len).saturating_mul(UNIT);
        let offset = start.saturating_mul(UNIT).min(chunks.len_bytes());
        chunks.allocate(offset, end.saturating_sub(offset))
    }
}
