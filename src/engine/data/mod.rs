//! File content: what is in memory, in the log, and in chunks.
//!
//! A write is acknowledged when its bytes are in memory and a transaction with the new size and
//! times is in the log's buffer; the bytes follow at write-out, by fsync or within the commit
//! interval. Small fsyncs put the bytes into the log, others into chunks. A checkpoint writes out
//! what only the log holds before it frees the log.

mod chunks;
mod copy;
mod dirty;
mod extents;
mod fallocate;
mod read;
mod resize;
mod space;
mod sync;
mod table;
#[cfg(test)]
mod tests;
mod write;
mod writeout;

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

pub(super) use table::InodeTable;

use super::{EngineError, Volume};
use crate::format::id::Ino;
use crate::format::record::InodeRecord;
use crate::format::superblock::UNIT_BYTES;
use crate::store::{Read, StoreError};
use dirty::DirtyMap;

const UNIT: u64 = UNIT_BYTES as u64;
/// Extents that one transaction changes, at most.
const EXTENTS_MAX: usize = 512;
/// chunks.dat grows by this much at a time while the disk has it.
const GROWTH_BYTES: u64 = 64 << 20;
/// Units kept for the small chunks that a fragmented disk forces.
const SPARE_UNITS: u64 = 64;

/// What a volume keeps about its unwritten data.
#[derive(Default)]
pub(super) struct DataState {
    /// Bytes in all dirty maps.
    dirty_bytes: AtomicU64,
    /// Units that writing them out will take.
    dirty_units: AtomicU64,
    /// Held while chunks.dat grows.
    growth: Mutex<()>,
    /// Whether small fsyncs may not use the log: a checkpoint is writing out what it holds.
    log_closed: RwLock<bool>,
    /// The number of the next chunk, once known. Never used twice while the volume is open.
    next_chunk: Mutex<Option<u64>>,
}

impl Volume {
    /// Changes a dirty map and keeps the sums over all of them.
    fn change_dirty<T>(&self, map: &mut DirtyMap, change: impl FnOnce(&mut DirtyMap) -> T) -> T {
        let (bytes, units) = (map.bytes(), map.units());
        let result = change(map);
        let state = &self.data;
        state.dirty_bytes.fetch_add(map.bytes(), Ordering::Relaxed);
        state.dirty_bytes.fetch_sub(bytes, Ordering::Relaxed);
        state.dirty_units.fetch_add(map.units(), Ordering::Relaxed);
        state.dirty_units.fetch_sub(units, Ordering::Relaxed);
        result
    }

    /// Makes sure that `units` more can be written out later, besides what is promised already.
    fn reserve_units(&self, units: u64) -> Result<(), EngineError> {
        let view = self.journal.view();
        let used = space::units_used(&view)?;
        let reserved = self.load_counters(&view)?.reserved_bytes.div_ceil(UNIT);
        let dirty = self.data.dirty_units.load(Ordering::Relaxed);
        let wanted = used
            .saturating_add(reserved)
            .saturating_add(dirty)
            .saturating_add(units)
            .saturating_add(SPARE_UNITS);
        let capacity = self.journal.capacity_bytes();
        if capacity != 0 && wanted.saturating_sub(SPARE_UNITS) > capacity / UNIT {
            return Err(StoreError::NoSpace("the store's size is used up").into());
        }
        let chunks = self.journal.chunks();
        if wanted <= chunks.len_bytes() / UNIT {
            return Ok(());
        }
        let _one = self.data.growth.lock();
        let length = chunks.len_bytes().next_multiple_of(UNIT);
        let Some(missing) = wanted
            .checked_sub(length / UNIT)
            .filter(|missing| *missing > 0)
        else {
            return Ok(());
        };
        let exact = missing.saturating_mul(UNIT);
        let step = exact.max(GROWTH_BYTES);
        let grown = chunks
            .allocate(length, step)
            .or_else(|_| chunks.allocate(length, exact));
        Ok(grown.map_err(|source| StoreError::io("chunks.dat, growing", source))?)
    }

    /// Bytes of file content that can still be written to the store.
    pub(super) fn free_bytes(&self) -> Result<u64, EngineError> {
        let view = self.journal.view();
        let used = space::units_used(&view)?;
        let promised = self.load_counters(&view)?.reserved_bytes.div_ceil(UNIT)
            + self.data.dirty_units.load(Ordering::Relaxed);
        let capacity = self.journal.capacity_bytes();
        let chunks = self.journal.chunks();
        let on_disk = chunks
            .available_bytes()
            .map_err(|source| StoreError::io("chunks.dat, asking for space", source))?
            .saturating_add(chunks.len_bytes().saturating_sub(used * UNIT));
        let total = if capacity == 0 {
            on_disk
        } else {
            on_disk.min(capacity.saturating_sub(used.saturating_mul(UNIT)))
        };
        Ok(total.saturating_sub(promised.saturating_mul(UNIT)))
    }

    /// Bytes of a file that will take space and have none yet: part of its `blocks`.
    pub(super) fn unwritten_bytes(&self, ino: Ino) -> u64 {
        self.inodes
            .find(ino)
            .map_or(0, |state| state.data.read().bytes())
    }
}

impl Volume {
    /// Refuses what would take the dataset over its quota.
    fn check_quota(&self, read: &impl Read, more: u64) -> Result<(), EngineError> {
        let quota = self.dataset_record(read)?.quota_bytes;
        if quota == 0 {
            return Ok(());
        }
        let unwritten = self.data.dirty_bytes.load(Ordering::Relaxed);
        let used = self
            .load_counters(read)?
            .allocated_bytes
            .saturating_add(unwritten);
        if used.saturating_add(more) > quota {
            return Err(EngineError::Quota);
        }
        Ok(())
    }
}

/// Refuses what is not a regular file.
fn check_file(record: &InodeRecord) -> Result<(), EngineError> {
    match record.mode & libc::S_IFMT {
        libc::S_IFREG => Ok(()),
        libc::S_IFDIR => Err(EngineError::IsDirectory),
        _ => Err(EngineError::Invalid("not a regular file")),
    }
}
