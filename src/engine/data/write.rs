//! Writing into memory.

use std::sync::atomic::Ordering;

use smallvec::SmallVec;

use super::dirty::{cut, windows};
use super::{UNIT, check_file};
use crate::disk::buffer::Buffer;
use crate::engine::inode::{FLAG_SYNC, InodeExt};
use crate::engine::{Durability, EngineError, Source, Volume, WriteFlags};
use crate::format::id::Ino;
use crate::store::pages::Need;

/// The largest file in bytes.
pub(in crate::engine) const SIZE_MAX: u64 = i64::MAX as u64;

/// Of `FS_IOC_GETFLAGS`: bytes may only be added.
const FLAG_APPEND: u32 = 0x20;

impl Volume {
    /// Writes `len` bytes at `offset` (or at the end). Visible to all on return; durable with the
    /// next fsync, or at once when `flags` or the volume's durability say so.
    ///
    /// # Errors
    /// `NoSpace` when it could not be written out, `Quota`, `FileTooLarge`, `NotPermitted` for immutable and
    /// append-only files, `Buffer` when the source fails; the file is unchanged then.
    pub fn write(
        &self,
        ino: Ino,
        offset: u64,
        len: usize,
        source: &mut dyn Source,
        flags: WriteFlags,
    ) -> Result<usize, EngineError> {
        // Read once, before anything is locked: the guest may change it at any time.
        let mut pieces = SmallVec::<[Buffer; 2]>::new();
        if flags.append {
            let mut bytes = Buffer::for_filling(len);
            source.fill(&mut bytes)?;
            pieces.push(bytes);
        } else {
            check_end(offset, len)?;
            for window in windows(offset, len as u64) {
                let size = usize::try_from(window.end - window.start).unwrap_or_default();
                let mut bytes = Buffer::for_filling(size);
                source.fill(&mut bytes)?;
                pieces.push(bytes);
            }
        }
        self.relieve(ino)?;
        let promise = if flags.append {
            self.reserve_units((len as u64).div_ceil(UNIT) + 2)?
        } else {
            self.reserve_write(ino, offset, len as u64)?
        };
        let state = self.live_state(ino)?;
        let gate = self.dataset.gate.read();
        let (mut data, mut tx) = self.begin_with(&state, Need::Space)?;
        let mut record = self.load_inode(&tx, ino)?;
        check_file(&record)?;
        if !flags.taken {
            record.check_not_immutable()?;
        }
        let offset = if flags.append { record.size } else { offset };
        let end = check_end(offset, len)?;
        if record.flags & FLAG_APPEND != 0 && offset < record.size && !flags.taken {
            return Err(EngineError::NotPermitted("the file is append-only"));
        }
        if len == 0 {
            return Ok(0);
        }
        let now = self.now();
        record.size = record.size.max(end);
        record.mtime = now;
        record.ctime = now;
        self.drop_privileges(&mut tx, ino, &mut record, flags.killed_by)?;
        self.store_inode(&mut tx, ino, &record)?;
        let growth = self.growth(&tx, ino, &data, (offset, end))?;
        let charge = self.charge(&tx, record.projid, growth.bytes)?;
        let lsn = tx.commit()?;
        charge.settle();
        state.touch(lsn);
        let is_stream = self.change_dirty(&mut data, |map| {
            map.note_unallocated(&growth.holes);
            let mut at = offset;
            for bytes in pieces {
                let end = at + bytes.len() as u64;
                if flags.append {
                    cut(at, &bytes).for_each(|(start, part)| map.insert(start, part));
                } else {
                    map.insert(at, bytes);
                }
                at = end;
            }
            map.note_write(offset, len as u64)
        });
        drop(promise);
        drop(data);
        drop(gate);
        let guest_bytes = &self.store.guest_bytes;
        guest_bytes.fetch_add(len as u64, Ordering::Relaxed);
        drop(state);
        let sync = flags.sync || record.flags & FLAG_SYNC != 0;
        if sync || self.store.options.durability == Durability::Strict {
            self.fsync(ino, false)?;
        } else if is_stream {
            self.store.background.write_behind(self.dataset.id, ino);
        }
        Ok(len)
    }

    /// Whether unwritten data has come so near its limit that a write may have to wait until some
    /// is written out.
    #[must_use]
    pub fn writes_may_wait(&self) -> bool {
        let limit = self.store.options.dirty_limit_bytes;
        // A sixteenth below it, so that those who write at the same time do not pass it together.
        self.store.data.dirty_memory.load(Ordering::Relaxed) > limit - limit / 16
    }

    /// Writes out when memory holds more than its limit. A file that cannot be written out takes no
    /// more bytes then; others do.
    pub(super) fn relieve(&self, ino: Ino) -> Result<(), EngineError> {
        let limit = self.store.options.dirty_limit_bytes;
        let over = || self.store.data.dirty_memory.load(Ordering::Relaxed) > limit;
        if over() {
            self.write_out(ino)?;
        }
        if over() {
            // Each has said what keeps it from it.
            let _ = self.store.write_out_all();
            self.store.journal.writable()?;
        }
        Ok(())
    }
}

fn check_end(offset: u64, len: usize) -> Result<u64, EngineError> {
    offset
        .checked_add(len as u64)
        .filter(|end| *end <= SIZE_MAX)
        .ok_or(EngineError::FileTooLarge)
}
