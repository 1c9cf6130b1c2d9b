//! Writing a file's content anew: what is stored then is what the dataset's settings ask for now, in
//! few extents.
//!
//! Content is read into memory as if somebody had written it, and written out. Neither size nor times
//! change, and a crash leaves old extents or new ones of the same bytes.

use super::dirty::{WINDOW, windows};
use super::extents::Extent;
use super::{UNIT, check_file, extents};
use crate::disk::buffer::Buffer;
use crate::engine::error::check_goes_on;
use crate::engine::{EngineError, Volume};
use crate::format::id::Ino;
use crate::log::View;

/// Bytes of a file that are written anew at a time: others wait for them.
const STEP_BYTES: u64 = 1 << 20;
/// Extents that are looked at in one step.
const EXTENTS_MAX: usize = 256;

/// For whom content is written anew.
pub(super) enum For<'a> {
    /// Somebody who asked for it, and waits.
    Caller,
    /// Nobody: what these extents of a part hold, if that pays, and not while the gate is closed.
    Idle(&'a Pays<'a>),
}

/// Whether it pays to write anew what stands in these extents.
pub(super) type Pays<'a> = dyn Fn(&View, &[Extent]) -> Result<bool, EngineError> + 'a;

impl Volume {
    /// Writes all content of a file anew, durable on return. Holes and reserved space stay what they
    /// are. What a dataset finds by its content it does not store again: there a chunk stays as it is
    /// stored. How many bytes were written; `go_on` is asked for each part of the file.
    ///
    /// # Errors
    /// `ReadOnly` for a snapshot, `IsDirectory` or `Invalid` for what has no content, `NoSpace`: old
    /// and new content need room at the same time, a part of the file at a time; a store error when
    /// content cannot be read; [`EngineError::Interrupted`]. What was written anew by then stays.
    pub fn rewrite(&self, ino: Ino, go_on: &mut dyn FnMut() -> bool) -> Result<u64, EngineError> {
        self.check_writable()?;
        let size = {
            let record = self.load_inode(&self.store.journal.view(), ino)?;
            check_file(&record)?;
            record.size
        };
        let mut at = 0;
        let mut sum = 0u64;
        while let Some(start) = self.next_stored(ino, at, size)? {
            check_goes_on(go_on)?;
            // There always is a part for who waits.
            let part = self.rewrite_some(ino, start, size, &For::Caller)?;
            let (end, bytes) = part.unwrap_or((size, 0));
            sum = sum.saturating_add(bytes);
            at = end;
        }
        self.fsync(ino, false)?;
        self.dataset.replaced.forget(ino);
        Ok(sum)
    }

    /// Where the first extent with content is, at or behind `at`.
    fn next_stored(&self, ino: Ino, at: u64, size: u64) -> Result<Option<u64>, EngineError> {
        let view = self.store.journal.view();
        let mut at = at;
        while at < size {
            let found = extents::overlapping(&view, self.tree(), ino, at, size, EXTENTS_MAX)?;
            let stored = found.iter().find(|extent| !extent.record.is_reserved());
            if let Some(extent) = stored {
                return Ok(Some(extent.start.max(at)));
            }
            match found.last() {
                Some(last) if found.len() == EXTENTS_MAX => at = last.end(),
                _ => break,
            }
        }
        Ok(None)
    }

    /// Writes a part of a file anew that begins at `start` and ends at `size` at the latest; where it
    /// ends, and how many bytes were written. `None` when the dataset's gate is closed and nobody
    /// waits for it.
    pub(super) fn rewrite_some(
        &self,
        ino: Ino,
        start: u64,
        size: u64,
        whom: &For<'_>,
    ) -> Result<Option<(u64, u64)>, EngineError> {
        self.relieve(ino)?;
        // Most of it before the gate: who closes it has everybody wait.
        self.write_out(ino)?;
        // Each extent may share its first and its last unit with what lies beside it.
        let len = size.saturating_sub(start).min(STEP_BYTES);
        let promise = self.reserve_units(len.div_ceil(UNIT) + 2 * EXTENTS_MAX as u64)?;
        let state = self.live_state(ino)?;
        // Before `io`, which a snapshot wants when it has closed the gate.
        let gate = &self.dataset.gate;
        let gate = match whom {
            For::Caller => Some(gate.read()),
            For::Idle(_) => gate.try_read(),
        };
        let Some(gate) = gate else {
            return Ok(None);
        };
        let io = state.io.lock();
        let (end, bytes) = loop {
            self.write_out_locked(ino, &state)?;
            let mut data = state.data.write();
            // Cut shorter since, as it may be.
            let end = start.saturating_add(STEP_BYTES).min(size);
            // Written to since: then once more.
            if data.overlaps(start, end) {
                continue;
            }
            let view = self.store.journal.view();
            let found = extents::overlapping(&view, self.tree(), ino, start, end, EXTENTS_MAX)?;
            let reached = match found.last() {
                Some(last) if found.len() == EXTENTS_MAX => {
                    let reached = last.end().min(end);
                    // What is left of a window would be an extent of its own.
                    let whole = reached / WINDOW * WINDOW;
                    if whole > start { whole } else { reached }
                }
                _ => end,
            };
            if let For::Idle(pays) = whom
                && (reached < end || !pays(&view, &found)?)
            {
                break (end, 0);
            }
            let mut pieces = Vec::new();
            let stored = found.iter().filter(|extent| !extent.record.is_reserved());
            for extent in stored.filter(|extent| extent.start < reached) {
                let part = extent.clipped(start, reached);
                for window in windows(part.start, part.record.len) {
                    let len = usize::try_from(window.end - window.start).unwrap_or_default();
                    let mut bytes = Vec::with_capacity(len);
                    self.read_stored(&view, ino, window.start, window.end, &mut bytes)?;
                    pieces.push((window.start, Buffer::from(bytes.as_slice())));
                }
            }
            let sum = pieces
                .iter()
                .map(|(_, bytes)| bytes.len() as u64)
                .sum::<u64>();
            self.change_dirty(&mut data, |map| {
                for (at, bytes) in pieces {
                    map.insert(at, bytes);
                }
            });
            break (reached, sum);
        };
        drop((gate, promise));
        self.write_out_locked(ino, &state)?;
        drop(io);
        Ok(Some((end, bytes)))
    }
}
