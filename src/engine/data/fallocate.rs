//! fallocate: reservations, holes, zeros.

use super::extents::Editor;
use super::quota::Charge;
use super::table::InodeState;
use super::write::SIZE_MAX;
use super::{EXTENTS_MAX, UNIT, check_file};
use crate::engine::inode::InodeExt;
use crate::engine::{Durability, EngineError, Fallocate, Volume};
use crate::format::id::{Ino, Lsn};
use crate::store::pages::Need;

/// What is left of a range.
#[derive(Clone, Copy)]
struct Range {
    ino: Ino,
    end: u64,
    how: Fallocate,
}

impl Volume {
    /// Reserves, punches or zeroes `offset..offset + len`.
    ///
    /// # Errors
    /// `NoSpace` when the reservation cannot be kept, `Quota`, `FileTooLarge`, `NotPermitted` for
    /// immutable files, and append-only ones where existing bytes would change.
    pub fn fallocate(
        &self,
        ino: Ino,
        offset: u64,
        len: u64,
        how: Fallocate,
    ) -> Result<(), EngineError> {
        if len == 0 {
            return Err(EngineError::Invalid("an empty range"));
        }
        let end = offset.checked_add(len).filter(|end| *end <= SIZE_MAX);
        let end = end.ok_or(EngineError::FileTooLarge)?;
        let promise = if how.reserves() {
            Some(self.reserve_units(len.div_ceil(UNIT))?)
        } else {
            // A hole in unwritten bytes can make two units of one.
            self.try_reserve(2, 0).ok()
        };
        let state = self.live_state(ino)?;
        let io = state.io.lock();
        if promise.is_none() {
            // On a full disk they take the room that they were promised first.
            self.write_out_locked(ino, &state)?;
        }
        let range = Range { ino, end, how };
        let mut charge = match how.reserves() {
            // All of it at once, though it may take several transactions.
            true => Some(self.charge_range(ino, &state.data.read(), (offset, end))?),
            false => None,
        };
        let mut from = offset;
        let mut lsn = Lsn(0);
        while from < end {
            (from, lsn) = self.fallocate_step(range, from, &state, charge.as_mut())?;
        }
        drop(charge);
        drop(promise);
        if self.store.options.durability == Durability::Strict {
            self.store.journal.sync(lsn)?;
        }
        drop(io);
        self.relieve_log(ino)
    }

    /// As far as one transaction goes; where that is, and where it ends in the log.
    fn fallocate_step(
        &self,
        range: Range,
        from: u64,
        state: &InodeState,
        charge: Option<&mut Charge<'_>>,
    ) -> Result<(u64, Lsn), EngineError> {
        let Range { ino, end, how } = range;
        let need = match how {
            Fallocate::PunchHole => Need::Reclaim,
            _ => Need::Space,
        };
        let (mut data, mut tx) = self.begin_with(state, need)?;
        let mut record = self.load_inode(&tx, ino)?;
        check_file(&record)?;
        if how.replaces() {
            record.check_changeable()?;
        } else {
            record.check_not_immutable()?;
        }
        let mut counters = self.load_counters(&tx)?;
        let mut editor = Editor {
            kept: &self.store.data.cache,
            tree: self.tree(),
            ino,
            record: &mut record,
            counters: &mut counters,
            tx: &mut tx,
        };
        let before = editor.content_bytes();
        let until = if how.replaces() {
            let (until, _) = editor.punch_some(from, end, EXTENTS_MAX)?;
            if how.reserves() {
                editor.reserve(from, until)?;
            }
            until
        } else {
            editor.reserve_holes(from, end, EXTENTS_MAX)?
        };
        let replaced = before.saturating_sub(editor.content_bytes());
        let now = self.now();
        record.ctime = now;
        record.mtime = now;
        if how.grows() {
            record.size = record.size.max(until);
        }
        if how.replaces() && data.is_logged(from, until) {
            tx.data_clear(self.dataset.id, ino, from, until - from);
        }
        self.store_inode(&mut tx, ino, &record)?;
        let released = data.unallocated_in(from, until);
        let lsn = self.commit_counted(tx, (&counters, record.projid), released, charge)?;
        self.dataset.replaced.note(ino, replaced);
        state.touch(lsn);
        self.change_dirty(&mut data, |map| match how.replaces() {
            true => map.remove(from, until),
            false => map.allocated(from, until),
        });
        Ok((until, lsn))
    }
}

impl Fallocate {
    /// Whether it takes space.
    fn reserves(self) -> bool {
        !matches!(self, Fallocate::PunchHole)
    }

    /// Whether it changes what bytes are.
    fn replaces(self) -> bool {
        !matches!(self, Fallocate::Allocate { .. })
    }

    /// Whether the file reaches to the range's end afterwards.
    fn grows(self) -> bool {
        matches!(
            self,
            Fallocate::Allocate { keep_size: false } | Fallocate::ZeroRange { keep_size: false }
        )
    }
}
