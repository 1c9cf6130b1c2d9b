//! fallocate: reservations, holes, zeros.

use super::extents::{Editor, overlapping};
use super::write::SIZE_MAX;
use super::writeout::Which;
use super::{EXTENTS_MAX, UNIT, check_file};
use crate::engine::inode::InodeExt;
use crate::engine::{Durability, EngineError, Fallocate, Volume};
use crate::format::id::{ChunkId, Ino};
use crate::format::record::ExtentRecord;

impl Volume {
    /// Reserves, punches or zeroes `offset..offset + len`.
    ///
    /// # Errors
    /// `NoSpace` when the reservation cannot be kept, `FileTooLarge`, `NotPermitted` for immutable
    /// files, and append-only ones where existing bytes would change.
    pub fn fallocate(
        &self,
        ino: Ino,
        offset: u64,
        len: u64,
        how: Fallocate,
    ) -> Result<(), EngineError> {
        self.throttle()?;
        if len == 0 {
            return Err(EngineError::Invalid("an empty range"));
        }
        let end = offset.checked_add(len).filter(|end| *end <= SIZE_MAX);
        let end = end.ok_or(EngineError::FileTooLarge)?;
        let reserves = !matches!(how, Fallocate::PunchHole);
        let replaces = !matches!(how, Fallocate::Allocate { .. });
        let promise = if reserves {
            Some(self.reserve_units(len.div_ceil(UNIT))?)
        } else {
            // A hole in unwritten bytes can make two units of one.
            self.try_reserve(2, 0).ok()
        };
        let state = self.inodes.state(ino);
        let _io = state.io.lock();
        if promise.is_none() {
            // On a full disk they take the room that they were promised first.
            self.write_out_locked(ino, &state, Which::All)?;
        }
        let mut data = state.data.write();
        let mut from = offset;
        let mut lsn = None;
        while from < end {
            let mut tx = self.journal.begin()?;
            let mut record = self.load_inode(&tx, ino)?;
            check_file(&record)?;
            if replaces {
                record.check_changeable()?
            } else {
                record.check_not_immutable()?
            }
            if reserves {
                self.check_quota(&tx, len)?;
            }
            let mut counters = self.load_counters(&tx)?;
            let tree = self.tree();
            // As far as one transaction goes.
            let found = overlapping(&tx, tree, ino, from, end, EXTENTS_MAX)?;
            let until = match found.last() {
                Some(last) if found.len() >= EXTENTS_MAX => last.end().min(end),
                _ => end,
            };
            let birth = tx.generation();
            let (record_mut, counters_mut) = (&mut record, &mut counters);
            let mut editor = Editor {
                tx: &mut tx,
                tree,
                ino,
                record: record_mut,
                counters: counters_mut,
            };
            let reserved = |len| ExtentRecord {
                len,
                chunk: ChunkId(0),
                chunk_offset: 0,
                birth,
            };
            if replaces {
                while !editor.punch(from, until, EXTENTS_MAX)? {}
                if reserves {
                    editor.insert(from, reserved(until - from))?;
                }
            } else {
                let mut at = from;
                for extent in &found {
                    if extent.start > at {
                        editor.insert(at, reserved(extent.start.min(until) - at))?;
                    }
                    at = at.max(extent.end());
                }
                if at < until {
                    editor.insert(at, reserved(until - at))?;
                }
            }
            let now = self.now();
            record.ctime = now;
            if let Fallocate::Allocate { keep_size: false }
            | Fallocate::ZeroRange { keep_size: false } = how
            {
                record.size = record.size.max(until);
            }
            record.mtime = now;
            if replaces && data.has_logged() {
                tx.data_clear(self.dataset, ino, from, until - from);
            }
            self.store_inode(&mut tx, ino, &record)?;
            self.store_counters(&mut tx, &counters)?;
            let committed = tx.commit()?;
            state.touch(committed);
            if replaces {
                self.change_dirty(&mut data, |map| map.remove(from, until));
            }
            lsn = Some(committed);
            from = until;
        }
        drop(data);
        match lsn {
            Some(lsn) if self.options.durability == Durability::Strict => {
                Ok(self.journal.sync(lsn)?)
            }
            _ => Ok(()),
        }
    }
}
