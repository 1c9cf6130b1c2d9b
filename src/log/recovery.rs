//! Opening a store: analysis, redo, undo (the phases of ARIES (1992), on a redo-only log).
//!
//! Analysis reads the log from the newest checkpoint to the first entry that is not whole. Redo
//! applies every committed transaction to the trees in memory, in order, with the code that run
//! time uses. Undo has nothing to take back on disk: what did not commit was never in the trees,
//! and is dropped; the engine frees the orphans. Before the checkpoint that ends recovery nothing
//! is written but the superblock's two copies, to make them the same and to say that the store is
//! in use: so a crash in recovery is just another crash, and a read-only opening writes nothing.
//!
//! Where the superblock says that the store was closed, there is no log to read: who writes takes
//! that mark away before anything else is written, and it comes back with the last checkpoint.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::journal::{Journal, Parts};
use super::tx::apply;
use super::wal::{self, Damage, Wal};
use super::{Change, View};
use crate::disk::Media;
use crate::format::id::{DatasetId, Generation, Lsn, TxId};
use crate::format::key::{TreeId, trailing_u64};
use crate::format::record::{DatasetRecord, dataset_key};
use crate::format::superblock::{RO_COMPAT_KNOWN, RO_COMPAT_UNMARKED, Superblock};
use crate::progress::Progress;
use crate::store::pages::PageStore;
use crate::store::roots::{Roots, Storage};
use crate::store::strings::Strings;
use crate::store::tree::Effects;
use crate::store::{Read, StoreError, superblock};

/// By how many the number of a checkpoint is larger than that of the one before, at most.
pub const GENERATION_STEP_MAX: u64 = 2 + u16::MAX as u64;

/// How to open.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Write nothing; the log is applied in memory only.
    pub read_only: bool,
    /// Go on past damage in acknowledged log, losing what lies behind it.
    pub discard_damaged_log: bool,
    /// Bytes of memory for clean tree pages.
    pub cache_bytes: u64,
}

/// What recovery found and did.
#[derive(Debug, Clone)]
pub struct Report {
    /// The checkpoint it started from.
    pub superblock: Superblock,
    /// Copies of the superblock that cannot be used, and why.
    pub superblock_damage: Vec<(u8, String)>,
    /// Whether the log was read: not of a store that says it was closed.
    pub log_read: bool,
    /// Where the log ended.
    pub log_end: Lsn,
    /// Batches of the log that were read.
    pub batches: u64,
    /// Transactions applied.
    pub applied: u64,
    /// Transactions that did not commit and were dropped.
    pub dropped: u64,
    /// Bytes at the log's end that were not whole.
    pub torn_bytes: u64,
    /// Damage in the acknowledged part of the log.
    pub damage: Option<Damage>,
    /// How long it took.
    pub took: Duration,
}

impl Report {
    /// Whether the store had been closed, with nothing to recover.
    #[must_use]
    pub fn was_clean(&self) -> bool {
        self.superblock.clean
            && self.batches == 0
            && self.damage.is_none()
            && self.superblock_damage.is_empty()
    }
}

/// An opened store.
pub struct Opened {
    /// The store.
    pub journal: Journal,
    /// What recovery did.
    pub report: Report,
    /// [`Change::Data`] and [`Change::DataClear`] of the log, in order: file bytes that no chunk
    /// holds yet.
    pub data: Vec<Change>,
}

/// Opens a store.
///
/// # Errors
/// When it is not a store, is of a version or has features this program does not know, or is
/// damaged so that nothing of it can be trusted.
pub fn open(media: Media, options: Options) -> Result<Opened, StoreError> {
    open_watched(media, options, &Progress::default())
}

/// As [`open`], and counts how far it is: bytes of the log, of which there are as many as its ring has
/// at most.
///
/// # Errors
/// As [`open`].
pub fn open_watched(
    media: Media,
    options: Options,
    progress: &Progress,
) -> Result<Opened, StoreError> {
    let started = Instant::now();
    let found = superblock::read(&*media.superblock)?;
    let mut superblock = found.superblock.clone();
    check_files(&media, &superblock)?;
    check_log(&media, &superblock)?;
    let storage = Arc::new(Storage {
        pages: PageStore::new(
            Arc::clone(&media.nodes),
            superblock.nodes_end,
            superblock.nodes_used,
            options.cache_bytes,
        ),
        strings: Strings::new(Arc::clone(&media.strings)),
        hash_seed: superblock.hash_seed,
    });
    let mut roots = Roots::on_disk(&superblock.roots, superblock.strings_end);
    let mut effects = Effects::default();
    let mut data = Vec::new();
    let mut applied = 0;
    let mut youngest = Generation(0);
    let closed = found.is_closed();
    let (head, next_tx) = (superblock.checkpoint_lsn, superblock.next_tx);
    progress.begin("reading the log", superblock.log_bytes);
    let mut apply = |_tx: TxId, lsn: Lsn, changes: Vec<Change>| {
        progress.reach(lsn.0.saturating_sub(head.0));
        youngest = youngest.max(self::youngest(&changes));
        redo(&storage, &mut roots, lsn, changes, &mut effects, &mut data)?;
        applied += 1;
        Ok::<(), StoreError>(())
    };
    let scan = match closed {
        true => wal::ScanReport::starting(head, next_tx),
        false => wal::scan(&*media.wal, superblock.log_key(), head, next_tx, &mut apply)?,
    };
    let report = Report {
        superblock: superblock.clone(),
        superblock_damage: found.damaged.clone(),
        log_read: !closed,
        log_end: scan.end,
        batches: scan.batches,
        applied,
        dropped: scan.dropped,
        torn_bytes: scan.torn_bytes,
        damage: scan.damage.clone(),
        took: started.elapsed(),
    };
    let damaged = scan.damage.is_some() && !options.discard_damaged_log;
    let newer = superblock.ro_compat & !RO_COMPAT_KNOWN != 0;
    let read_only = options.read_only || damaged || newer;
    if !read_only {
        superblock = superblock::begin_use(&*media.superblock, &found)?;
    }
    let (wal_disk, key) = (Arc::clone(&media.wal), superblock.log_key());
    let parts = Parts {
        // What the log made behind a snapshot is one younger.
        next_generation: next_generation(superblock.generation.max(youngest), closed),
        media,
        storage,
        superblock,
        roots,
        effects,
    };
    let journal = Journal::assemble(parts, |barrier| {
        if read_only {
            return Ok(None);
        }
        Ok(Some(Wal::open(wal_disk, key, head, &scan, barrier)?))
    })?;
    Ok(Opened {
        journal,
        report,
        data,
    })
}

/// The number of the first checkpoint. The one after the newest may have been under way when the
/// power went, as may others in recoveries since: a page that it left must not pass for one of
/// ours, should our write to the same place get lost. Only where the store was closed was there
/// none.
#[must_use]
pub fn next_generation(newest: Generation, closed: bool) -> Generation {
    let skipped = if closed {
        0
    } else {
        1 + u64::from(rand::random::<u16>())
    };
    Generation(newest.0.saturating_add(1 + skipped))
}

/// Behind the births of all trees that a transaction copied: what it changed is of no later checkpoint.
pub fn youngest(changes: &[Change]) -> Generation {
    let births = changes.iter().filter_map(|change| match change {
        Change::CopyTree { birth, .. } => Some(birth.0.saturating_add(1)),
        _ => None,
    });
    Generation(births.max().unwrap_or(0))
}

/// Applies one transaction of the log.
fn redo(
    storage: &Storage,
    roots: &mut Roots,
    lsn: Lsn,
    changes: Vec<Change>,
    effects: &mut Effects,
    data: &mut Vec<Change>,
) -> Result<(), StoreError> {
    for change in changes {
        if !apply(storage, roots, &change, effects)? {
            return Err(StoreError::Corrupt(format!(
                "the log at {lsn} removes what is not there: log and trees do not fit together"
            )));
        }
        if matches!(change, Change::Data { .. } | Change::DataClear { .. }) {
            data.push(change);
        }
    }
    Ok(())
}

/// Files shorter than the superblock says were truncated: nothing in them can be trusted to be
/// whole.
fn check_files(media: &Media, superblock: &Superblock) -> Result<(), StoreError> {
    let page_bytes = crate::format::page::PAGE_BYTES as u64;
    // Page 0 is never used: a store without pages needs none of the file.
    let pages = if superblock.nodes_end.0 > 1 {
        superblock.nodes_end.0
    } else {
        0
    };
    let files = [
        (
            "nodes.dat",
            media.nodes.len_bytes(),
            pages.saturating_mul(page_bytes),
        ),
        (
            "strings.dat",
            media.strings.len_bytes(),
            superblock.strings_end,
        ),
        ("wal.log", media.wal.len_bytes(), superblock.log_bytes),
    ];
    for (file, found, expected) in files {
        if found < expected {
            return Err(StoreError::Corrupt(format!(
                "{file} is {found} bytes long, the superblock says at least {expected}: it was \
                 truncated; restore it from a copy"
            )));
        }
    }
    Ok(())
}

/// How full the log is, is measured by what the superblock says of its length: by a wrong one it
/// could be full for ever.
fn check_log(media: &Media, superblock: &Superblock) -> Result<(), StoreError> {
    let found = wal::read_header(&*media.wal, superblock.uuid)?.ring_bytes;
    let expected = superblock.log_bytes;
    if found != expected {
        return Err(StoreError::Corrupt(format!(
            "wal.log is a ring of {found} bytes, the superblock says {expected}"
        )));
    }
    Ok(())
}

/// What a new store is to be.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    /// Its UUID.
    pub uuid: [u8; 16],
    /// Key of the hashes of names.
    pub hash_seed: [u8; 16],
    /// Seconds since 1970.
    pub created_sec: i64,
    /// Bytes of file content it may hold; 0 for as many as the disk gives.
    pub capacity_bytes: u64,
    /// Bytes of the log's ring, a multiple of 4096.
    pub log_bytes: u64,
}

impl Format {
    /// The least store, the same every time: for tests and benchmarks only, since who knows the key
    /// of the hashes can make names that collide.
    #[must_use]
    pub fn reproducible() -> Self {
        Format {
            uuid: [1; 16],
            hash_seed: [2; 16],
            created_sec: 0,
            capacity_bytes: 0,
            log_bytes: 4 << 20,
        }
    }
}

/// Makes a store on empty media. It becomes one with the first checkpoint, which the caller makes
/// after filling in the first dataset.
///
/// # Errors
/// When the disk refuses.
pub fn create(media: Media, format: Format, cache_bytes: u64) -> Result<Journal, StoreError> {
    Wal::format(&*media.wal, format.uuid, format.log_bytes)?;
    let superblock = Superblock {
        compat: 0,
        ro_compat: RO_COMPAT_UNMARKED,
        incompat: 0,
        uuid: format.uuid,
        hash_seed: format.hash_seed,
        created_sec: format.created_sec,
        capacity_bytes: format.capacity_bytes,
        log_bytes: format.log_bytes,
        generation: Generation(0),
        checkpoint_lsn: Lsn(0),
        next_tx: TxId(1),
        nodes_end: crate::format::id::PageNo(1),
        strings_end: 0,
        nodes_used: 0,
        clean: false,
        roots: [crate::format::record::PagePtr::EMPTY; crate::format::key::SYSTEM_TREES],
    };
    let storage = Arc::new(Storage {
        pages: PageStore::new(
            Arc::clone(&media.nodes),
            superblock.nodes_end,
            0,
            cache_bytes,
        ),
        strings: Strings::new(Arc::clone(&media.strings)),
        hash_seed: format.hash_seed,
    });
    let roots = Roots::on_disk(&superblock.roots, 0);
    let (wal_disk, key) = (Arc::clone(&media.wal), superblock.log_key());
    let parts = Parts {
        media,
        storage,
        next_generation: Generation(1),
        superblock,
        roots,
        effects: Effects::default(),
    };
    Journal::assemble(parts, |barrier| {
        Ok(Some(Wal::open(
            wal_disk,
            key,
            Lsn(0),
            &wal::ScanReport::starting(Lsn(0), TxId(1)),
            barrier,
        )?))
    })
}

/// Trees that a repair made anew.
pub struct Rebuilt {
    /// The store.
    pub media: Media,
    /// The checkpoint they take the place of.
    pub superblock: Superblock,
    /// Their pages, and names.
    pub storage: Arc<Storage>,
    /// Their roots.
    pub roots: Roots,
    /// What came off them while they were made, and what waits to be written.
    pub effects: Effects,
    /// The checkpoint they are written by: see [`next_generation`].
    pub generation: Generation,
    /// The log as it was read.
    pub log: wal::ScanReport,
    /// File bytes of the log that no chunk holds yet.
    pub data: Vec<Change>,
}

/// Makes rebuilt trees the store's: until the superblock is written, last of all, the store is what
/// it was. Durable on return.
///
/// # Errors
/// When the disk refuses; the store is what it was, or what was rebuilt.
pub fn publish(rebuilt: Rebuilt) -> Result<(), StoreError> {
    let wal_disk = Arc::clone(&rebuilt.media.wal);
    let key = rebuilt.superblock.log_key();
    let clean = rebuilt.data.is_empty();
    let parts = Parts {
        media: rebuilt.media,
        storage: rebuilt.storage,
        next_generation: rebuilt.generation,
        superblock: Superblock {
            // There is something new, whatever the log holds.
            clean: !clean,
            ..rebuilt.superblock
        },
        roots: rebuilt.roots,
        effects: rebuilt.effects,
    };
    let head = parts.superblock.checkpoint_lsn;
    let journal = Journal::assemble(parts, |barrier| {
        Ok(Some(Wal::open(wal_disk, key, head, &rebuilt.log, barrier)?))
    })?;
    journal.checkpoint(clean, &|_| {
        for change in &rebuilt.data {
            let mut tx = journal.begin_carry()?;
            tx.carry(change);
            tx.commit()?;
        }
        Ok(())
    })
}

/// All datasets and snapshots.
///
/// # Errors
/// When a page or record cannot be read.
pub fn datasets(read: &impl Read) -> Result<Vec<(DatasetId, DatasetRecord)>, StoreError> {
    let mut raw = Vec::new();
    let (start, end) = (dataset_key(DatasetId(0)), dataset_key(DatasetId(u64::MAX)));
    read.scan(TreeId::Datasets, &start, &end, &mut |key, value| {
        raw.push((trailing_u64(key), value.to_vec()));
        ControlFlow::Continue(())
    })?;
    raw.into_iter()
        .map(|(id, value)| {
            let what = "dataset record";
            let id = id.map_err(|source| StoreError::format(what, source))?;
            let record = DatasetRecord::decode(&value)
                .map_err(|source| StoreError::format(format!("dataset {id}"), source))?;
            Ok((DatasetId(id), record))
        })
        .collect()
}

/// A store as recovery would leave it, in memory, for those who only read.
///
/// # Errors
/// As [`open`].
pub fn open_read_only(media: Media, cache_bytes: u64) -> Result<(View, Opened), StoreError> {
    let options = Options {
        read_only: true,
        discard_damaged_log: false,
        cache_bytes,
    };
    let opened = open(media, options)?;
    Ok((opened.journal.view(), opened))
}
