//! File content: what is in memory, in the log, and in chunks.
//!
//! A write is acknowledged when its bytes are in memory and a transaction with the new size and
//! times is in the log's buffer; the bytes follow at write-out, by fsync or within the commit
//! interval. Small fsyncs put the bytes into the log, others into chunks. A checkpoint carries over
//! what only the log holds before it frees the log.

mod chunks;
mod compact;
mod copy;
mod defragment;
mod dirty;
mod evacuate;
mod extents;
mod fallocate;
mod hashes;
mod kept;
mod quota;
mod read;
mod received;
mod replaced;
mod resize;
mod rewrite;
mod space;
mod sync;
mod table;
#[cfg(test)]
mod tests;
mod trim;
mod write;
mod writeout;

pub use compact::Compacted;
pub use evacuate::CompactOptions;
pub(super) use quota::{Usage, kept_bytes};
pub(super) use replaced::Replaced;
#[cfg(test)]
pub(super) use space::units_punched;
pub(super) use space::units_used;
pub(super) use table::InodeTable;
pub use trim::{TrimOptions, Trimmed};

use super::{EngineError, Store, Volume};
use crate::format::id::{ChunkId, Ino};
use crate::format::record::InodeRecord;
use crate::format::superblock::UNIT_BYTES;
use crate::log::Tx;
use crate::metrics::Counter;
use crate::store::StoreError;
use crate::store::pages::Looks;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use dirty::DirtyMap;
pub(super) use received::chunk_record;
pub(super) use write::SIZE_MAX as FILE_SIZE_MAX;
pub use writeout::Content;

pub(super) const UNIT: u64 = UNIT_BYTES as u64;
/// Extents that one transaction changes, at most: each may touch a leaf of three trees, and all of
/// them must fit the pages that the journal reserves for a transaction.
const EXTENTS_MAX: usize = 128;
/// chunks.dat grows by at least this much at a time while the disk has it.
const GROWTH_MIN_BYTES: u64 = 16 << 20;
/// The most that it grows by ahead of use.
const GROWTH_MAX_BYTES: u64 = 256 << 20;
/// The least that chunks.dat leaves of the disk to the trees.
const METADATA_MIN_BYTES: u64 = 2 << 20;
/// The most that it leaves to them.
const METADATA_MAX_BYTES: u64 = 64 << 20;
/// Units kept for what cuts unwritten bytes into more pieces than were promised room: punching.
const SPARE_UNITS: u64 = 256;

/// What a volume keeps about its unwritten data.
pub(super) struct DataState {
    /// Bytes in all dirty maps.
    pub(super) dirty_bytes: AtomicU64,
    /// Memory that all dirty maps take, roughly.
    dirty_memory: AtomicU64,
    /// Units that writing them out will take.
    dirty_units: AtomicU64,
    /// Log that carrying over what it holds of them takes, at most.
    log_bytes: AtomicU64,
    /// Bytes in reserved extents of all datasets: they will take space when they are written to.
    pub(super) reserved_bytes: AtomicU64,
    /// Bytes that are kept for datasets because of their reservations.
    pub(super) kept_bytes: AtomicU64,
    /// Bytes of file content that the store takes; 0 for as many as the disk gives. Never more than
    /// the superblock says.
    pub(super) capacity_bytes: AtomicU64,
    /// One change of settings at a time.
    pub(super) setting: Mutex<()>,
    /// Units promised to writes under way, which no map counts yet.
    promised_units: AtomicU64,
    /// Log promised to file bytes that are on the way there, which no map counts yet.
    promised_log_bytes: AtomicU64,
    /// Held while chunks.dat grows, and while space is taken from what could be promised.
    growth: Mutex<()>,
    /// What trims keep.
    trim: trim::State,
    /// The number of the next chunk. Never used twice.
    next_chunk: AtomicU64,
    /// Chunk content read before.
    cache: kept::Cache,
    /// Reads of content that could not be believed.
    pub(super) damaged: Counter,
    /// Chunks that compactions moved.
    pub(super) moved_chunks: Counter,
    /// Bytes that they take.
    pub(super) moved_bytes: Counter,
    /// Bytes of files that were written anew in the background.
    pub(super) defragmented_bytes: Counter,
    /// Bytes of content that became chunks of their own.
    pub(super) stored_content_bytes: Counter,
    /// Bytes of chunks.dat that were claimed for these.
    pub(super) stored_bytes: Counter,
    /// Bytes of content that refer to chunks which were there.
    pub(super) deduplicated_bytes: Counter,
}

impl DataState {
    /// No unwritten data, at most `cache_bytes` of clean content, and `capacity_bytes` of all.
    pub(super) fn new(cache_bytes: u64, capacity_bytes: u64) -> Self {
        DataState {
            dirty_bytes: AtomicU64::new(0),
            dirty_memory: AtomicU64::new(0),
            dirty_units: AtomicU64::new(0),
            log_bytes: AtomicU64::new(0),
            reserved_bytes: AtomicU64::new(0),
            kept_bytes: AtomicU64::new(0),
            capacity_bytes: AtomicU64::new(capacity_bytes),
            setting: Mutex::default(),
            promised_units: AtomicU64::new(0),
            promised_log_bytes: AtomicU64::new(0),
            growth: Mutex::default(),
            trim: trim::State::default(),
            next_chunk: AtomicU64::new(1),
            cache: kept::Cache::new(cache_bytes),
            damaged: Counter::default(),
            moved_chunks: Counter::default(),
            moved_bytes: Counter::default(),
            defragmented_bytes: Counter::default(),
            stored_content_bytes: Counter::default(),
            stored_bytes: Counter::default(),
            deduplicated_bytes: Counter::default(),
        }
    }

    /// Counts an extent of a chunk less, as [`extents::drop_reference`] does.
    pub(super) fn drop_reference(&self, tx: &mut Tx<'_>, id: ChunkId) -> Result<(), StoreError> {
        extents::drop_reference(tx, &self.cache, id)
    }

    /// What came of looking for content in memory.
    pub(super) fn looks(&self) -> Looks {
        self.cache.looks()
    }
}

/// Units or log kept for something until a dirty map counts it.
pub(super) struct Promise<'a> {
    sum: &'a AtomicU64,
    amount: u64,
}

impl<'a> Promise<'a> {
    pub(super) fn new(sum: &'a AtomicU64, amount: u64) -> Self {
        // Who takes space away sees it, or is seen: `Store::wait_for_space`.
        sum.fetch_add(amount, Ordering::SeqCst);
        Promise { sum, amount }
    }

    /// It is kept otherwise from here on: by somebody who gives it back.
    pub(super) fn settle(mut self) {
        self.amount = 0;
    }
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        self.sum.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

impl Volume {
    /// See [`Store::change_dirty`].
    fn change_dirty<T>(&self, map: &mut DirtyMap, change: impl FnOnce(&mut DirtyMap) -> T) -> T {
        self.store.change_dirty(map, change)
    }

    /// Makes sure that `units` more can be written out later, besides what is promised already.
    /// When space is short, makes what was freed usable first. To be called with no lock held.
    fn reserve_units(&self, units: u64) -> Result<Promise<'_>, EngineError> {
        match self.try_reserve(units, SPARE_UNITS) {
            Err(EngineError::Store(StoreError::NoSpace(_))) => {}
            other => return other,
        }
        // Bytes over reserved extents and in write-out are counted twice until they are written.
        // What keeps a file from it is not this one's trouble.
        let _ = self.store.write_out_all();
        self.store.journal.writable()?;
        if space::has_freed(&self.store.journal.view())? {
            self.store.checkpoint()?;
        }
        self.try_reserve(units, SPARE_UNITS)
    }

    /// Makes sure that `len` bytes written at `offset` can be written out later: in new space, or
    /// in what fallocate reserved for them.
    fn reserve_write(&self, ino: Ino, offset: u64, len: u64) -> Result<Promise<'_>, EngineError> {
        // The first and the last unit may be shared with what lies beside.
        let units = len.div_ceil(UNIT) + 2;
        match self.try_reserve(units, SPARE_UNITS) {
            Err(EngineError::Store(StoreError::NoSpace(_))) => {}
            other => return other,
        }
        let end = offset.saturating_add(len);
        let reserved =
            extents::is_reserved(&self.store.journal.view(), self.tree(), ino, offset, end)?;
        let edges = units - len / UNIT;
        if reserved && let Ok(promise) = self.try_reserve_within(edges, 0, SPARE_UNITS) {
            return Ok(promise);
        }
        match self.reserve_units(units) {
            Err(EngineError::Store(StoreError::NoSpace(_))) if reserved => {
                self.try_reserve_within(edges, 0, SPARE_UNITS)
            }
            other => other,
        }
    }

    fn try_reserve(&self, units: u64, spare: u64) -> Result<Promise<'_>, EngineError> {
        self.try_reserve_within(units, spare, 0)
    }

    /// Promises `units` if there are as many and `spare` more, the store's own size and `slack`
    /// units above it allowing.
    fn try_reserve_within(
        &self,
        units: u64,
        spare: u64,
        slack: u64,
    ) -> Result<Promise<'_>, EngineError> {
        let promise = Promise::new(&self.store.data.promised_units, units);
        // Before what was promised: that is where it goes.
        let kept = self.kept_for_others()?;
        self.store.check_room(kept, spare, slack)?;
        Ok(promise)
    }

    /// Bytes of file content that can still be written to the dataset, as far as the store is
    /// concerned.
    pub(super) fn free_bytes(&self) -> Result<u64, EngineError> {
        self.store.free_bytes(self.kept_for_others()?)
    }

    /// Bytes of a file that will take space and have none yet: part of its `blocks`.
    pub(super) fn unwritten_bytes(&self, ino: Ino) -> u64 {
        self.dataset
            .inodes
            .find(ino)
            .map_or(0, |state| state.data.read().bytes())
    }
}

impl Store {
    /// Whether there is room for all that is used and promised, for `kept` bytes, and in chunks.dat
    /// for `spare` units more; the store's own size and `slack` units above it allowing.
    pub(in crate::engine) fn check_room(
        &self,
        kept: u64,
        spare: u64,
        slack: u64,
    ) -> Result<(), EngineError> {
        // Behind whatever was counted for this.
        self.wait_for_space();
        let capacity = self.data.capacity_bytes.load(Ordering::SeqCst);
        let (wanted, stored) = self.wanted_units(kept)?;
        if capacity != 0 && stored > (capacity / UNIT).saturating_add(slack) {
            return Err(StoreError::NoSpace("the store's size is used up").into());
        }
        self.make_units(wanted.saturating_add(spare))
    }

    /// Units for all that is used and promised and for `kept` bytes; and of them those that count
    /// against the store's own size.
    pub(in crate::engine) fn wanted_units(&self, kept: u64) -> Result<(u64, u64), EngineError> {
        let promised = self.promised_units();
        let view = self.journal.view();
        let wanted = space::units_used(&view)?
            .saturating_add(promised)
            .saturating_add(kept.div_ceil(UNIT));
        let stored = wanted.saturating_sub(space::units_punched(&view)?);
        Ok((wanted, stored))
    }

    /// Bytes of file content that the store has room for beside what is used and promised, and
    /// `kept` bytes.
    pub(in crate::engine) fn free_bytes(&self, kept: u64) -> Result<u64, EngineError> {
        let view = self.journal.view();
        let used_bytes = space::units_used(&view)?.saturating_mul(UNIT);
        let punched_bytes = space::units_punched(&view)?.saturating_mul(UNIT);
        let promised = self.promised_units().saturating_mul(UNIT);
        let capacity = self.data.capacity_bytes.load(Ordering::SeqCst);
        let chunks = self.journal.chunks();
        let on_disk = chunks
            .available_bytes()
            .map_err(|source| StoreError::io("chunks.dat, asking for space", source))?
            .saturating_sub(kept_for_trees(chunks.len_bytes()))
            .saturating_add(chunks.len_bytes().saturating_sub(used_bytes));
        let total = if capacity == 0 {
            on_disk
        } else {
            let stored_bytes = used_bytes.saturating_sub(punched_bytes);
            on_disk.min(capacity.saturating_sub(stored_bytes))
        };
        Ok(total.saturating_sub(promised.saturating_add(kept)))
    }

    /// Changes a dirty map and keeps the sums over all of them.
    pub(super) fn change_dirty<T>(
        &self,
        map: &mut DirtyMap,
        change: impl FnOnce(&mut DirtyMap) -> T,
    ) -> T {
        let before = map.weight();
        let result = change(map);
        let after = map.weight();
        let sums = [
            (&self.data.dirty_bytes, before.bytes, after.bytes),
            (&self.data.dirty_memory, before.memory, after.memory),
            (&self.data.dirty_units, before.units, after.units),
            (&self.data.log_bytes, before.log, after.log),
        ];
        for (sum, before, after) in sums {
            sum.fetch_add(after, Ordering::Relaxed);
            sum.fetch_sub(before, Ordering::Relaxed);
        }
        result
    }

    /// Bytes of all files that are in memory, or in the log, and in no chunk yet.
    #[must_use]
    pub fn dirty_bytes(&self) -> u64 {
        self.data.dirty_bytes.load(Ordering::Relaxed)
    }

    /// Units that unwritten bytes and reserved extents will take.
    fn promised_units(&self) -> u64 {
        // In the order in which a unit moves from one to the next, so that none is missed.
        let promised = self.data.promised_units.load(Ordering::SeqCst);
        let dirty = self.data.dirty_units.load(Ordering::SeqCst);
        let reserved = self.data.reserved_bytes.load(Ordering::SeqCst);
        let reserved = reserved.div_ceil(UNIT);
        promised.saturating_add(dirty).saturating_add(reserved)
    }

    /// The same, and those that are kept for datasets.
    fn claimed_units(&self) -> u64 {
        let kept = self.data.kept_bytes.load(Ordering::SeqCst);
        self.promised_units().saturating_add(kept.div_ceil(UNIT))
    }

    /// Makes sure that chunks.dat has `units` units: a full disk is found before anything is
    /// written, or acknowledged.
    fn grow_to(&self, units: u64) -> Result<(), EngineError> {
        let chunks = self.journal.chunks();
        if units <= chunks.len_bytes() / UNIT {
            return Ok(());
        }
        let _one = self.data.growth.lock();
        let length = chunks.len_bytes().next_multiple_of(UNIT);
        let Some(missing) = units
            .checked_sub(length / UNIT)
            .filter(|missing| *missing > 0)
        else {
            return Ok(());
        };
        let full = StoreError::NoSpace("the disk below the store is full");
        let exact = missing.checked_mul(UNIT).ok_or(full.clone())?;
        let available = chunks
            .available_bytes()
            .map_err(|source| StoreError::io("chunks.dat, asking for space", source))?;
        // Ahead of use, and more the larger it is; but never the last of a nearly full disk.
        let step = exact.max(ahead_bytes(length).min(available / 8 / UNIT * UNIT));
        // Overwriting and deleting take tree pages before they give any back.
        if exact > available.saturating_sub(kept_for_trees(length)) {
            return Err(full.into());
        }
        let grown = chunks
            .allocate(length, step)
            .or_else(|_| chunks.allocate(length, exact));
        Ok(grown.map_err(|source| StoreError::io("chunks.dat, growing", source))?)
    }
}

/// Bytes that chunks.dat of this length gets ahead of use, in whole units.
fn ahead_bytes(length: u64) -> u64 {
    let ahead = (length / 16).clamp(GROWTH_MIN_BYTES, GROWTH_MAX_BYTES);
    ahead.next_multiple_of(UNIT)
}

/// Bytes of the disk that chunks.dat of this length leaves to the trees.
fn kept_for_trees(length: u64) -> u64 {
    (length / 128).clamp(METADATA_MIN_BYTES, METADATA_MAX_BYTES)
}

/// BLAKE3 of content.
pub(super) fn hash_of(content: &[u8]) -> [u8; 32] {
    chunks::hash(content)
}

/// Refuses what is not a regular file.
fn check_file(record: &InodeRecord) -> Result<(), EngineError> {
    match record.mode & libc::S_IFMT {
        libc::S_IFREG => Ok(()),
        libc::S_IFDIR => Err(EngineError::IsDirectory),
        _ => Err(EngineError::Invalid("not a regular file")),
    }
}
