//! The write-ahead log: a ring of batches, written by group commit.
//!
//! Transactions are collected in memory; [`Wal::sync`] writes what was collected as one batch,
//! durably, once for everyone who waits. Each batch starts on a block of its own, so that log that
//! is live is never written again. After a failed write or flush nothing more is written, and
//! nothing that was not durable before is ever called durable.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::change::Changes;
use super::journal::Barrier;
pub use super::scan::{Damage, ScanReport, scan};
use crate::disk::Disk;
use crate::disk::buffer::Buffer;
use crate::format::FormatError;
use crate::format::id::{Lsn, TxId};
use crate::format::wal::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, ENTRY_HEADER_BYTES, EntryHeader, LogHeader,
    LogKey, RING_START, encode_entry, padded_bytes,
};
use crate::metrics::{Counter, Histogram};
use crate::store::StoreError;
use crate::sync::{Condvar, Mutex, MutexGuard};

/// The smallest ring in bytes: a few of the largest transactions.
pub const RING_MIN_BYTES: u64 = 4 << 20;
/// A batch is closed when it has this many bytes of entries.
const BATCH_BYTES: usize = 1 << 20;
/// Log that is written and made durable in one write, at most.
const AT_ONCE_BYTES: u64 = (BATCH_BYTES + BLOCK_BYTES) as u64;
/// Memory that a batch begins with: growing from nothing copies its bytes several times.
const FIRST_BYTES: usize = 64 << 10;

/// What goes wrong with the log.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WalError {
    /// The disk refused.
    #[error("wal.log, {doing}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The log is not one, or not this store's.
    #[error("wal.log: {0}")]
    Format(#[from] FormatError),
    /// The log belongs to another store.
    #[error("wal.log belongs to another store: put back the one that belongs to this store")]
    Foreign,
    /// A checkpoint must free log space first.
    #[error("wal.log is full: {needed} bytes are needed, {free} are free")]
    Full {
        /// Bytes that would be needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// A ring of an impossible size.
    #[error("wal.log: a ring of {0} bytes; it takes a multiple of 4096, at least 4 MiB")]
    Size(u64),
    /// An earlier write or flush failed.
    #[error("wal.log: an earlier write failed: {0}")]
    Latched(String),
}

impl WalError {
    pub(super) fn io(doing: &'static str, source: io::Error) -> Self {
        WalError::Io {
            doing,
            source: Arc::new(source),
        }
    }
}

impl From<WalError> for StoreError {
    fn from(error: WalError) -> Self {
        match error {
            WalError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                StoreError::NoSpace("the disk below the store is full")
            }
            WalError::Io { doing, source } => StoreError::Io {
                what: format!("wal.log, {doing}"),
                source,
            },
            WalError::Format(source) => StoreError::format("wal.log", source),
            WalError::Full { .. } => StoreError::NoSpace("the log is full"),
            WalError::Latched(reason) => StoreError::lost(reason),
            WalError::Foreign | WalError::Size(_) => StoreError::Corrupt(error.to_string()),
        }
    }
}

/// A transaction's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its number.
    pub tx: TxId,
    /// Where it ends: durable after [`Wal::sync`] on it.
    pub end: Lsn,
}

/// The open log.
pub struct Wal {
    disk: Arc<dyn Disk>,
    key: LogKey,
    ring_bytes: u64,
    barrier: Barrier,
    state: Mutex<State>,
    /// A group commit ended.
    done: Condvar,
    commits: GroupCommits,
}

/// Group commits since the log was opened.
#[derive(Debug, Default)]
pub struct GroupCommits {
    /// How long each took: chunks.dat flushed, then the log written and durable.
    pub times: Histogram,
    /// Transactions in each.
    pub transactions: Histogram,
    /// Bytes of the log that they took.
    pub bytes: Counter,
}

struct State {
    /// Closed batches that are not written yet, oldest first.
    closed: VecDeque<Batch>,
    /// The batch being collected.
    open: Batch,
    next_tx: TxId,
    head: Lsn,
    durable: Lsn,
    checkpoint: (Lsn, TxId),
    /// Someone is writing.
    writing: bool,
    failed: Option<String>,
    releases: u64,
    /// Memory of a batch that was written, for one to come: fresh memory costs a page fault for each
    /// page.
    spare: Vec<u8>,
}

struct Batch {
    lsn: Lsn,
    first_tx: TxId,
    entries: u32,
    payload: Vec<u8>,
}

impl Batch {
    fn new(lsn: Lsn, first_tx: TxId) -> Self {
        Batch {
            lsn,
            first_tx,
            entries: 0,
            payload: Vec::new(),
        }
    }

    fn end(&self) -> Lsn {
        if self.entries == 0 {
            self.lsn
        } else {
            Lsn(self.lsn.0 + padded_bytes(self.payload.len()))
        }
    }
}

impl State {
    /// Closes the open batch, if it has anything.
    fn close(&mut self) {
        if self.open.entries > 0 {
            let next = Batch::new(self.open.end(), self.next_tx);
            self.closed
                .push_back(std::mem::replace(&mut self.open, next));
        }
    }

    /// Memory for a batch that begins with an entry of so many bytes.
    fn memory_for(&mut self, entry_bytes: usize) -> Vec<u8> {
        let mut payload = std::mem::take(&mut self.spare);
        payload.reserve(FIRST_BYTES.max(entry_bytes));
        payload
    }

    /// Where what was appended ends.
    fn next(&self) -> Lsn {
        if self.open.entries == 0 {
            return self.open.lsn;
        }
        Lsn(self.open.lsn.0 + (BATCH_HEADER_BYTES + self.open.payload.len()) as u64)
    }

    fn check(&self) -> Result<(), WalError> {
        match &self.failed {
            Some(reason) => Err(WalError::Latched(reason.clone())),
            None => Ok(()),
        }
    }
}

impl Wal {
    /// Makes an empty log, all of it allocated. Not flushed: the store exists only once its first
    /// checkpoint is durable.
    ///
    /// # Errors
    /// When the disk refuses or the size is impossible.
    pub fn format(disk: &dyn Disk, uuid: [u8; 16], ring_bytes: u64) -> Result<(), WalError> {
        if ring_bytes < RING_MIN_BYTES || !ring_bytes.is_multiple_of(BLOCK_BYTES as u64) {
            return Err(WalError::Size(ring_bytes));
        }
        disk.preallocate(0, RING_START + ring_bytes)
            .map_err(|source| WalError::io("allocating", source))?;
        let header = LogHeader {
            uuid,
            ring_bytes,
            next_tx: TxId(1),
            checkpoint: Lsn(0),
            head: Lsn(0),
            tail: Lsn(0),
        };
        for copy in 0..2 {
            disk.write_at(copy * BLOCK_BYTES as u64, &header.encode())
                .map_err(|source| WalError::io("writing its header", source))?;
        }
        disk.flush()
            .map_err(|source| WalError::io("flushing", source))
    }

    /// Opens the log for writing at `at`, where analysis found its end; what lies before `head` is
    /// not needed. `stale` batches behind the end, which no longer count, are wiped.
    ///
    /// # Errors
    /// When the log is not this store's, or the disk refuses.
    pub fn open(
        disk: Arc<dyn Disk>,
        key: LogKey,
        head: Lsn,
        report: &ScanReport,
        barrier: Barrier,
    ) -> Result<Self, WalError> {
        let ring_bytes = read_header(&*disk, key.uuid)?.ring_bytes;
        for stale in &report.stale {
            let offset = RING_START + stale.0 % ring_bytes;
            disk.write_at(offset, &[0; BLOCK_BYTES])
                .map_err(|source| WalError::io("wiping a stale batch", source))?;
        }
        if !report.stale.is_empty() {
            // Without it the new log could grow up to a stale batch that recovery would then apply.
            disk.flush()
                .map_err(|source| WalError::io("flushing", source))?;
        }
        Ok(Wal {
            disk,
            key,
            ring_bytes,
            barrier,
            state: Mutex::new(State {
                closed: VecDeque::new(),
                open: Batch::new(report.end, report.next_tx),
                next_tx: report.next_tx,
                head,
                durable: report.end,
                checkpoint: (head, report.next_tx),
                writing: false,
                failed: None,
                releases: 0,
                spare: Vec::new(),
            }),
            done: Condvar::new(),
            commits: GroupCommits::default(),
        })
    }

    /// Appends a transaction, in memory, and leaves at least `keep` bytes of the ring free.
    ///
    /// # Errors
    /// [`WalError::Full`] when a checkpoint must free space first, [`WalError::Latched`] after a
    /// failure.
    pub fn append(&self, changes: &Changes, now_ns: u64, keep: u64) -> Result<Appended, WalError> {
        let mut state = self.state.lock();
        state.check()?;
        let entry_bytes = ENTRY_HEADER_BYTES + changes.bytes().len();
        if state.open.payload.len() + entry_bytes > BATCH_BYTES {
            state.close();
        }
        let lsn = Lsn(state.open.lsn.0 + (BATCH_HEADER_BYTES + state.open.payload.len()) as u64);
        let end = state.open.lsn.0 + padded_bytes(state.open.payload.len() + entry_bytes);
        if end - state.head.0 > self.ring_bytes.saturating_sub(keep) {
            let free = self
                .ring_bytes
                .saturating_sub(state.open.end().0 - state.head.0);
            return Err(WalError::Full {
                needed: entry_bytes as u64,
                free,
            });
        }
        let tx = state.next_tx;
        let header = EntryHeader {
            lsn,
            tx,
            timestamp_ns: now_ns,
            changes: changes.count(),
        };
        if state.open.entries == 0 {
            state.open.payload = state.memory_for(entry_bytes);
        }
        encode_entry(&header, changes.bytes(), &mut state.open.payload);
        state.open.entries += 1;
        state.next_tx = TxId(tx.0 + 1);
        Ok(Appended {
            tx,
            end: Lsn(lsn.0 + entry_bytes as u64),
        })
    }

    /// Closes the batch being collected: the next transaction starts at the returned position and
    /// has the returned number.
    pub fn seal(&self) -> (Lsn, TxId) {
        let mut state = self.state.lock();
        state.close();
        (state.open.lsn, state.next_tx)
    }

    /// Returns when everything before `upto` is durable. One of those who wait writes and flushes
    /// for all.
    ///
    /// # Errors
    /// When the write or flush failed, for everyone who waited for it and for ever.
    pub fn sync(&self, upto: Lsn) -> Result<(), WalError> {
        let mut state = self.state.lock();
        // Nothing can be waited for that was not appended.
        let upto = upto.min(state.next());
        loop {
            if state.durable >= upto {
                return Ok(());
            }
            state.check()?;
            if state.writing {
                self.done.wait(&mut state);
            } else {
                self.group_commit(&mut state);
            }
        }
    }

    /// Writes and flushes all that was appended.
    ///
    /// # Errors
    /// As [`Wal::sync`].
    pub fn flush(&self) -> Result<(), WalError> {
        self.sync(self.next_lsn())
    }

    /// Writes and flushes what is there, without the lock; the outcome stands in the state.
    fn group_commit(&self, state: &mut MutexGuard<'_, State>) {
        state.close();
        state.writing = true;
        let batches: Vec<Batch> = state.closed.drain(..).collect();
        let (end, durable) = (state.open.lsn, state.durable);
        let since = Instant::now();
        let (result, spare) = MutexGuard::unlocked(state, || {
            let result = self.write(&batches, durable);
            if let (Some(first), true) = (batches.first(), result.is_ok()) {
                self.commits.times.took(since.elapsed());
                let transactions = batches.iter().map(|batch| u64::from(batch.entries)).sum();
                self.commits.transactions.note(transactions);
                self.commits.bytes.add(end.0.saturating_sub(first.lsn.0));
            }
            // The rest is freed here, where nobody waits for that.
            (result, largest(batches))
        });
        if spare.capacity() > state.spare.capacity() {
            state.spare = spare;
        }
        state.writing = false;
        match result {
            Ok(()) => state.durable = state.durable.max(end),
            Err(error) => state.failed = Some(error.to_string()),
        }
        self.done.notify_all();
    }

    fn write(&self, batches: &[Batch], durable: Lsn) -> Result<(), WalError> {
        // Entries refer to chunks: those must be durable first.
        (self.barrier)().map_err(|source| WalError::io("flushing chunks.dat for it", source))?;
        let (Some(first), Some(last)) = (batches.first(), batches.last()) else {
            return Ok(());
        };
        // They follow each other in the ring, too: mostly one write is enough, which is durable
        // on return. Otherwise an fsync must wait for a flush.
        let start = first.lsn.0 % self.ring_bytes;
        let len = last.end().0 - first.lsn.0;
        let at_once = len <= AT_ONCE_BYTES && start + len <= self.ring_bytes;
        let mut bytes = Buffer::new();
        for batch in batches {
            self.encode(batch, durable, &mut bytes);
            if !at_once {
                self.write_ring(batch.lsn, &bytes)?;
                bytes.resize(0);
            }
        }
        if at_once {
            let written = self.disk.write_through(RING_START + start, &bytes);
            return written.map_err(|source| WalError::io("writing", source));
        }
        // Without it an fsync would return before its transaction is on the disk.
        self.disk
            .flush()
            .map_err(|source| WalError::io("flushing", source))
    }

    /// Puts a batch as it lies in the ring behind `bytes`.
    fn encode(&self, batch: &Batch, durable: Lsn, bytes: &mut Buffer) {
        let header = BatchHeader {
            lsn: batch.lsn,
            durable,
            tag: self.key.tag(),
            payload_len: u32::try_from(batch.payload.len()).unwrap_or(u32::MAX),
            entries: batch.entries,
            first_tx: batch.first_tx,
        };
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(&batch.payload);
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES));
    }

    fn write_ring(&self, lsn: Lsn, bytes: &[u8]) -> Result<(), WalError> {
        let start = lsn.0 % self.ring_bytes;
        let until_end = usize::try_from(self.ring_bytes - start).unwrap_or(usize::MAX);
        let (first, second) = bytes.split_at(bytes.len().min(until_end));
        let failed = |source| WalError::io("writing", source);
        self.disk
            .write_at(RING_START + start, first)
            .map_err(failed)?;
        if second.is_empty() {
            return Ok(());
        }
        self.disk.write_at(RING_START, second).map_err(failed)
    }

    /// Frees the log before `upto`, which a durable checkpoint holds: nobody needs to wait for it
    /// any more, and its place is written again.
    ///
    /// # Errors
    /// When the header cannot be written.
    pub fn release(&self, upto: Lsn) -> Result<(), WalError> {
        // Dropped once the lock is given back.
        let not_needed;
        let (header, copy) = {
            let mut state = self.state.lock();
            state.check()?;
            // A batch that is being written may lie before `upto`: its place must not be given away
            // under the write.
            while state.writing {
                self.done.wait(&mut state);
            }
            state.check()?;
            let needed = state.closed.iter().position(|batch| batch.lsn >= upto);
            let needed = needed.unwrap_or(state.closed.len());
            not_needed = state.closed.drain(..needed).collect::<Vec<Batch>>();
            let next_tx = state
                .closed
                .front()
                .map_or(state.open.first_tx, |batch| batch.first_tx);
            state.head = state.head.max(upto);
            state.durable = state.durable.max(upto);
            state.checkpoint = (upto, next_tx);
            state.releases += 1;
            self.done.notify_all();
            let header = LogHeader {
                uuid: self.key.uuid,
                ring_bytes: self.ring_bytes,
                next_tx,
                checkpoint: upto,
                head: state.head,
                tail: state.open.lsn,
            };
            (header, state.releases % 2)
        };
        drop(not_needed);
        self.disk
            .write_at(copy * BLOCK_BYTES as u64, &header.encode())
            .map_err(|source| WalError::io("writing its header", source))
    }

    /// Lets go of memory that is kept for batches to come.
    pub fn forget_spare(&self) {
        let spare = std::mem::take(&mut self.state.lock().spare);
        drop(spare);
    }

    /// Its group commits.
    #[must_use]
    pub fn commits(&self) -> &GroupCommits {
        &self.commits
    }

    /// Where the log ends: everything appended lies before it.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        self.state.lock().next()
    }

    /// Everything before it is durable.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        self.state.lock().durable
    }

    /// Bytes of the ring that are needed.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        let state = self.state.lock();
        state.open.end().0 - state.head.0
    }
}

/// The memory of the largest of these batches, for another.
fn largest(batches: Vec<Batch>) -> Vec<u8> {
    let payloads = batches.into_iter().map(|batch| batch.payload);
    let mut largest = payloads.max_by_key(Vec::capacity).unwrap_or_default();
    largest.clear();
    largest
}

/// Makes each copy of the log's header that cannot be used a new one, for a ring that holds nothing
/// before `from`, and the file as long as the ring is. Returns the copies.
///
/// # Errors
/// When the log belongs to another store, or the disk refuses.
pub fn mend_header(
    disk: &dyn Disk,
    uuid: [u8; 16],
    ring_bytes: u64,
    from: (Lsn, TxId),
) -> Result<Vec<u8>, WalError> {
    let length = disk.len_bytes();
    let missing = (RING_START + ring_bytes).saturating_sub(length);
    if missing > 0 {
        disk.preallocate(length, missing)
            .map_err(|source| WalError::io("allocating", source))?;
    }
    let header = LogHeader {
        uuid,
        ring_bytes,
        next_tx: from.1,
        checkpoint: from.0,
        head: from.0,
        tail: from.0,
    };
    let mut mended = Vec::new();
    for copy in 0..2u8 {
        let offset = u64::from(copy) * BLOCK_BYTES as u64;
        let mut block = [0; BLOCK_BYTES];
        let read = disk.read_at(offset, &mut block).ok();
        match read.map(|()| LogHeader::decode(&block)) {
            Some(Ok(found)) if found.uuid != uuid => return Err(WalError::Foreign),
            Some(Ok(found)) if found.ring_bytes == ring_bytes => {}
            _ => {
                disk.write_at(offset, &header.encode())
                    .map_err(|source| WalError::io("writing its header", source))?;
                mended.push(copy);
            }
        }
    }
    if missing > 0 || !mended.is_empty() {
        // Nobody flushes the log's header after this, and without it the store does not open.
        disk.flush()
            .map_err(|source| WalError::io("flushing", source))?;
    }
    Ok(mended)
}

/// The log's header: the first copy that is whole.
pub(super) fn read_header(disk: &dyn Disk, uuid: [u8; 16]) -> Result<LogHeader, WalError> {
    let mut first_error = None;
    for copy in 0..2 {
        let mut block = [0; BLOCK_BYTES];
        if let Err(source) = disk.read_at(copy * BLOCK_BYTES as u64, &mut block) {
            first_error.get_or_insert(WalError::io("reading its header", source));
            continue;
        }
        match LogHeader::decode(&block) {
            Ok(header) if header.uuid != uuid => return Err(WalError::Foreign),
            Ok(header)
                if header.ring_bytes < RING_MIN_BYTES
                    || header.ring_bytes % BLOCK_BYTES as u64 != 0
                    || header.ring_bytes > disk.len_bytes().saturating_sub(RING_START) =>
            {
                return Err(WalError::Size(header.ring_bytes));
            }
            Ok(header) => return Ok(header),
            Err(error) => {
                first_error.get_or_insert(WalError::Format(error));
            }
        }
    }
    Err(first_error.unwrap_or(WalError::Foreign))
}
