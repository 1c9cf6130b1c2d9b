//! The journal: an open store. Views of it, transactions on it, and when they are durable.
//!
//! One writer at a time works on a copy of the roots; commit appends its changes to the log and
//! publishes the copy. Readers take the published roots and are never in anyone's way. A failed
//! write or flush latches the journal: nothing is changed or made durable from then on.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

use super::Change;
use super::change::Changes;
use super::tracked::Tracked;
use super::wal::{Wal, WalError};
use crate::disk::{Disk, Media};
use crate::format::id::{DatasetId, Generation, Ino, Lsn, NameId, PageNo};
use crate::format::key::{Key, TreeId};
use crate::format::record::PagePtr;
use crate::format::superblock::Superblock;
use crate::store::pages::Need;
use crate::store::read::Visit;
use crate::store::roots::{Reading, Roots, Storage};
use crate::store::tree::Effects;
use crate::store::{Read, StoreError};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, RwLock};

/// Pages that one transaction may make dirty, at most: what a commit must never run out of. The
/// largest touch a hundred extents, each in a leaf of its own in four trees, and what is above.
const TRANSACTION_PAGES_MAX: u64 = 1024;
/// Dirty pages from which a checkpoint is due: 64 MiB.
const DIRTY_PAGES_DUE: u64 = 16 * 1024;

/// Parts of the log, in 16ths of the ring. File bytes that only the log holds have a share; a part
/// larger than that is kept for carrying them over, so that a checkpoint never finds too little.
const DATA_SHARE: u64 = 2;
const KEPT_SHARE: u64 = 3;
/// Used parts from which a checkpoint is due, and from which new work waits for it. The rest is for
/// transactions on their way.
const DUE_SHARE: u64 = 8;
const URGENT_SHARE: u64 = 10;

/// The open store.
pub struct Journal {
    pub(super) storage: Arc<Storage>,
    pub(super) media: Media,
    /// `None` when opened read-only.
    pub(super) wal: Option<Wal>,
    pub(super) published: ArcSwap<Roots>,
    pub(super) writer: Mutex<Writer>,
    /// The newest checkpoint on disk; held while the next one is made.
    pub(super) checkpoint: Mutex<Superblock>,
    /// Pages that durable checkpoints freed and older views may still read, oldest first.
    pub(super) retired: Mutex<VecDeque<Retired>>,
    /// The checkpoint the store was opened with.
    pub(super) opened: Superblock,
    pub(super) durable_generation: AtomicU64,
    pub(super) dirty_pages: AtomicU64,
    /// Whether transactions go to the log.
    logging: AtomicBool,
    chunks: Arc<dyn Disk>,
    latch: RwLock<Option<StoreError>>,
}

/// Pages that a checkpoint freed.
pub(super) struct Retired {
    /// [`Roots::epoch`] of the roots before the checkpoint: its last holder is the last reader.
    pub(super) epoch: Arc<()>,
    pub(super) pages: Vec<PagePtr>,
}

/// What only the one who writes may touch.
pub(super) struct Writer {
    /// The published roots, but while a checkpoint changes them.
    pub(super) roots: Arc<Roots>,
    /// What came off the trees since the last checkpoint, and how many nodes wait for the next.
    pub(super) effects: Effects,
    /// The checkpoint that will hold what is committed now.
    pub(super) generation: Generation,
    /// Where the changes of the transaction under way are collected.
    pub(super) changes: Changes,
}

/// How urgent a checkpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Not at all.
    None,
    /// One should start.
    Due,
    /// New work should wait for one.
    Urgent,
}

/// All trees at one moment. Cheap to take, never blocks a writer, and is not changed by one.
#[derive(Clone)]
pub struct View {
    pub(super) roots: Arc<Roots>,
    pub(super) storage: Arc<Storage>,
}

/// A transaction in the making: reads see its own changes. Dropped without [`Tx::commit`] it never
/// was. Only one exists at a time; the next [`Journal::begin`] waits for it.
pub struct Tx<'a> {
    journal: &'a Journal,
    writer: MutexGuard<'a, Writer>,
    roots: Roots,
    effects: Effects,
    need: Need,
    /// Bytes of the log that it must leave free.
    keep_bytes: u64,
    /// A change failed half-way: only dropping is left.
    broken: bool,
}

/// What recovery or mkfs hands over to make a journal of.
pub(super) struct Parts {
    pub(super) media: Media,
    pub(super) storage: Arc<Storage>,
    pub(super) superblock: Superblock,
    pub(super) roots: Roots,
    pub(super) effects: Effects,
    /// The number of the next checkpoint.
    pub(super) next_generation: Generation,
}

impl Journal {
    /// Makes a journal; `open_wal` gets the barrier that each batch of the log must wait for.
    pub(super) fn assemble(
        parts: Parts,
        open_wal: impl FnOnce(Barrier) -> Result<Option<Wal>, StoreError>,
    ) -> Result<Self, StoreError> {
        let Parts {
            mut media,
            storage,
            superblock,
            roots,
            effects,
            next_generation,
        } = parts;
        let chunks: Arc<dyn Disk> = Arc::new(Tracked::new(Arc::clone(&media.chunks)));
        media.chunks = Arc::clone(&chunks);
        let barrier_disk = Arc::clone(&chunks);
        // Without it the log could promise extents whose bytes a power cut took.
        let wal = open_wal(Box::new(move || barrier_disk.flush()))?;
        let generation = superblock.generation;
        let roots = Arc::new(roots);
        Ok(Journal {
            storage,
            media,
            wal,
            published: ArcSwap::new(Arc::clone(&roots)),
            dirty_pages: AtomicU64::new(effects.dirtied),
            logging: AtomicBool::new(true),
            writer: Mutex::new(Writer {
                roots,
                effects,
                generation: next_generation,
                changes: Changes::default(),
            }),
            retired: Mutex::default(),
            opened: superblock.clone(),
            checkpoint: Mutex::new(superblock),
            durable_generation: AtomicU64::new(generation.0),
            chunks,
            latch: RwLock::new(None),
        })
    }

    /// The state of everything committed so far.
    #[must_use]
    pub fn view(&self) -> View {
        View {
            roots: self.published.load_full(),
            storage: Arc::clone(&self.storage),
        }
    }

    /// Starts a transaction that may need space; waits for the one under way.
    ///
    /// # Errors
    /// When the volume is read-only, or the disk has no room for what a transaction may change.
    pub fn begin(&self) -> Result<Tx<'_>, StoreError> {
        self.begin_for(Need::Space)
    }

    /// Starts a transaction.
    ///
    /// # Errors
    /// As [`Journal::begin`].
    pub fn begin_for(&self, need: Need) -> Result<Tx<'_>, StoreError> {
        self.start(need, self.share_of_log(KEPT_SHARE))
    }

    /// Starts a transaction, unless a checkpoint should come first: `None` then. There is one
    /// transaction at a time, so one that was started here finds room in the log.
    ///
    /// # Errors
    /// As [`Journal::begin`].
    pub fn begin_with_room(&self, need: Need) -> Result<Option<Tx<'_>>, StoreError> {
        let tx = self.begin_for(need)?;
        Ok((self.pressure() < Pressure::Urgent).then_some(tx))
    }

    /// Starts a transaction that carries file bytes over during a checkpoint, into the part of the
    /// log that is kept for them.
    ///
    /// # Errors
    /// When the volume is read-only.
    pub fn begin_carry(&self) -> Result<Tx<'_>, StoreError> {
        self.start(Need::Log, 0)
    }

    fn start(&self, need: Need, keep_bytes: u64) -> Result<Tx<'_>, StoreError> {
        self.writable()?;
        let mut writer = self.writer.lock();
        // A latch that closed while this waited.
        self.writable()?;
        let dirty = writer.effects.dirtied + TRANSACTION_PAGES_MAX;
        self.storage.pages.reserve(dirty, need)?;
        if need == Need::Space {
            self.storage.strings.reserve(writer.roots.strings_end)?;
        }
        let roots = Roots::clone(&writer.roots);
        let effects = Effects::default();
        // Those of one that was dropped.
        writer.changes.clear();
        Ok(Tx {
            journal: self,
            writer,
            roots,
            effects,
            need,
            keep_bytes,
            broken: false,
        })
    }

    /// Whether a checkpoint has pages to write, and may give others back.
    #[must_use]
    pub fn has_dirty_pages(&self) -> bool {
        self.dirty_pages.load(Ordering::Relaxed) > 0
    }

    /// Whether [`Journal::find_free_pages`] is done.
    #[must_use]
    pub fn knows_free_pages(&self) -> bool {
        self.storage.pages.knows_free()
    }

    /// Does something of which the log learns nothing: what is committed meanwhile is durable with
    /// the next checkpoint, and undone by a crash before it. For recovery, which nobody waits for
    /// and which must not fill the log, however often it is cut off.
    pub fn unlogged<T>(&self, act: impl FnOnce() -> T) -> T {
        self.logging.store(false, Ordering::Relaxed);
        let result = act();
        self.logging.store(true, Ordering::Relaxed);
        result
    }

    /// Whether changes are possible.
    ///
    /// # Errors
    /// Why they are not: opened read-only, or latched.
    pub fn writable(&self) -> Result<(), StoreError> {
        if let Some(error) = &*self.latch.read() {
            return Err(StoreError::ReadOnly(format!(
                "an earlier write failed: {error}"
            )));
        }
        match self.wal {
            Some(_) => Ok(()),
            None => Err(StoreError::ReadOnly("opened read-only".into())),
        }
    }

    /// Latches: the volume is read-only from here on, and nothing more becomes durable. The first
    /// error stays the reason.
    pub fn fail(&self, error: &StoreError) {
        let mut latch = self.latch.write();
        if latch.is_none() {
            ::log::error!("a write failed, the volume is read-only until reopened: {error}");
            *latch = Some(error.clone());
        }
    }

    /// Passes a result on; an error latches the journal.
    ///
    /// # Errors
    /// The error of `result`.
    pub fn latching<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        result.inspect_err(|error| self.fail(error))
    }

    pub(super) fn wal(&self) -> Result<&Wal, StoreError> {
        self.wal
            .as_ref()
            .ok_or_else(|| StoreError::ReadOnly("opened read-only".into()))
    }

    /// Waits until everything before `lsn` is durable (group commit).
    ///
    /// # Errors
    /// When the log cannot be written or flushed; the volume is read-only from then on.
    pub fn sync(&self, lsn: Lsn) -> Result<(), StoreError> {
        let Some(wal) = &self.wal else { return Ok(()) };
        if wal.durable_lsn() >= lsn {
            return Ok(());
        }
        self.writable()?;
        self.latching(wal.sync(lsn).map_err(StoreError::from))
    }

    /// The end of the log: what is committed so far lies before it.
    #[must_use]
    pub fn end_lsn(&self) -> Lsn {
        self.wal.as_ref().map_or(Lsn(0), Wal::next_lsn)
    }

    /// Everything before it is durable.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        self.wal.as_ref().map_or(Lsn(0), Wal::durable_lsn)
    }

    /// The number of the next checkpoint.
    #[must_use]
    pub fn next_generation(&self) -> Generation {
        self.writer.lock().generation
    }

    /// The newest checkpoint that is durable: space freed before or in it can be used again.
    #[must_use]
    pub fn durable_generation(&self) -> Generation {
        Generation(self.durable_generation.load(Ordering::Acquire))
    }

    /// Whether a checkpoint should be made.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        let Some(wal) = &self.wal else {
            return Pressure::None;
        };
        // What is not logged needs no room there.
        let used = match self.logging.load(Ordering::Relaxed) {
            true => wal.used_bytes(),
            false => 0,
        };
        let dirty = self.dirty_pages.load(Ordering::Relaxed);
        if used > self.share_of_log(URGENT_SHARE) || dirty > 4 * DIRTY_PAGES_DUE {
            Pressure::Urgent
        } else if used > self.share_of_log(DUE_SHARE) || dirty > DIRTY_PAGES_DUE {
            Pressure::Due
        } else {
            Pressure::None
        }
    }

    fn share_of_log(&self, share: u64) -> u64 {
        self.opened.log_bytes / 16 * share
    }

    /// Bytes of the log that file bytes may take which only the log holds.
    #[must_use]
    pub fn data_log_bytes(&self) -> u64 {
        self.share_of_log(DATA_SHARE)
    }

    /// File content. What is written here before a commit is durable when the commit is.
    #[must_use]
    pub fn chunks(&self) -> &Arc<dyn Disk> {
        &self.chunks
    }

    /// Key of the hashes that make names into dentry cookies.
    #[must_use]
    pub fn hash_seed(&self) -> [u8; 16] {
        self.storage.hash_seed
    }

    /// The superblock of the newest checkpoint.
    #[must_use]
    pub fn superblock(&self) -> Superblock {
        self.checkpoint.lock().clone()
    }

    /// Bytes of file content the store may hold; 0 for as many as the disk gives.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.opened.capacity_bytes
    }

    /// What is wrong with the copies of the superblock, as they lie on the disk.
    #[must_use]
    pub fn check_copies(&self) -> Vec<String> {
        // No checkpoint writes them meanwhile.
        let _one = self.checkpoint.lock();
        match crate::store::superblock::read(&*self.media.superblock) {
            Ok(found) => {
                let damaged = found.damaged.iter();
                damaged
                    .map(|(copy, reason)| format!("superblock copy {copy}: {reason}"))
                    .collect()
            }
            Err(error) => vec![error.to_string()],
        }
    }

    /// Bytes that tree pages and names take.
    #[must_use]
    pub fn metadata_bytes(&self) -> u64 {
        let (_, pages) = self.storage.pages.extent();
        pages * crate::format::page::PAGE_BYTES as u64 + self.published.load().strings_end
    }

    /// Finds the pages that can be reused, by reading the internal pages of the trees the store was
    /// opened with. To be called in the background; until it is done nodes.dat only grows.
    ///
    /// # Errors
    /// When a page cannot be believed; no page is reused then.
    pub fn find_free_pages(&self) -> Result<(), StoreError> {
        let mut roots: Vec<PagePtr> = self.opened.roots.to_vec();
        let opened = Roots::on_disk(&self.opened.roots, self.opened.strings_end);
        let datasets = super::recovery::datasets(&Reading {
            roots: &opened,
            storage: &self.storage,
        })?;
        roots.extend(datasets.into_iter().map(|(_, record)| record.root));
        self.storage
            .pages
            .find_free(&roots, PageNo(self.opened.nodes_end.0.max(1)))
    }
}

/// Makes durable what the log's entries refer to.
pub(super) type Barrier = Box<dyn Fn() -> std::io::Result<()> + Send + Sync>;

fn now_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Applies one change to the trees: recovery repeats what a transaction did. Changes to file bytes
/// are the engine's and not the trees'.
///
/// # Errors
/// When a page cannot be read, or the change does not fit the trees. The roots are then to be
/// dropped.
pub(super) fn apply(
    storage: &Storage,
    roots: &mut Roots,
    change: &Change,
    effects: &mut Effects,
) -> Result<bool, StoreError> {
    match change {
        Change::Put { tree, key, value } => roots
            .put(storage, *tree, key, value, effects)
            .map(|()| true),
        Change::Delete { tree, key } => roots.delete(storage, *tree, key, effects),
        Change::Intern { id, name } => roots.intern(storage, *id, name, effects).map(|()| true),
        Change::Data { .. } | Change::DataClear { .. } => Ok(true),
    }
}

impl Tx<'_> {
    /// Changes the trees.
    fn apply<T>(
        &mut self,
        change: impl FnOnce(&mut Roots, &Storage, &mut Effects) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        change(&mut self.roots, &self.journal.storage, &mut self.effects)
            .inspect_err(|_| self.broken = true)
    }

    /// Inserts or replaces a value of at most [`crate::format::key::VALUE_MAX`] bytes.
    ///
    /// # Errors
    /// When a page cannot be read.
    pub fn put(
        &mut self,
        tree: TreeId,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<(), StoreError> {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.apply(|roots, storage, effects| roots.put(storage, tree, key, value, effects))?;
        self.writer.changes.put(tree, key, value);
        Ok(())
    }

    /// Removes a key; whether it was there.
    ///
    /// # Errors
    /// When a page cannot be read.
    pub fn delete(&mut self, tree: TreeId, key: impl AsRef<[u8]>) -> Result<bool, StoreError> {
        let key = key.as_ref();
        let there =
            self.apply(|roots, storage, effects| roots.delete(storage, tree, key, effects))?;
        if there {
            self.writer.changes.delete(tree, key);
        }
        Ok(there)
    }

    /// The id of a name of 1 to 255 bytes, interning it when it is new.
    ///
    /// # Errors
    /// When a page or name cannot be read.
    pub fn intern(&mut self, name: &[u8]) -> Result<NameId, StoreError> {
        if let Some(id) = self.roots.find_name(&self.journal.storage, name)? {
            return Ok(id);
        }
        let id = NameId(self.roots.strings_end);
        self.apply(|roots, storage, effects| roots.intern(storage, id, name, effects))?;
        self.writer.changes.intern(id, name);
        Ok(id)
    }

    /// Carries file bytes in the log.
    pub fn data(&mut self, dataset: DatasetId, ino: Ino, offset: u64, bytes: &[u8]) {
        self.writer.changes.data(dataset, ino, offset, bytes);
    }

    /// Says that file bytes logged before in the range no longer count.
    pub fn data_clear(&mut self, dataset: DatasetId, ino: Ino, offset: u64, len: u64) {
        self.writer.changes.data_clear(dataset, ino, offset, len);
    }

    /// Repeats a [`Change::Data`] or [`Change::DataClear`] of the log.
    pub(super) fn carry(&mut self, change: &Change) {
        debug_assert!(matches!(
            change,
            Change::Data { .. } | Change::DataClear { .. }
        ));
        self.writer.changes.push(change);
    }

    /// The checkpoint that will hold this transaction: the birth of what it makes.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.writer.generation
    }

    /// The largest key of a tree.
    ///
    /// # Errors
    /// When a page cannot be read.
    pub fn last_key(&self, tree: TreeId) -> Result<Option<Key>, StoreError> {
        self.floor_with(tree, &[0xff; 9], |key, _| Key::from_slice(key))
    }

    /// Makes the changes visible to all and appends them to the log; the returned position is
    /// durable after [`Journal::sync`] on it.
    ///
    /// # Errors
    /// When the log refuses; the transaction then never was.
    pub fn commit(mut self) -> Result<Lsn, StoreError> {
        if self.broken {
            return Err(StoreError::Corrupt(
                "a transaction with a failed change".into(),
            ));
        }
        let wal = self.journal.wal()?;
        if self.writer.changes.is_empty() {
            return Ok(wal.next_lsn());
        }
        let logged = self.journal.logging.load(Ordering::Relaxed) || self.need == Need::Log;
        let end = if logged {
            match wal.append(&self.writer.changes, now_ns(), self.keep_bytes) {
                Ok(appended) => appended.end,
                Err(WalError::Full { .. }) => return Err(StoreError::NoSpace("the log is full")),
                Err(error) => return self.journal.latching(Err(error.into())),
            }
        } else {
            wal.next_lsn()
        };
        let roots = Arc::new(self.roots);
        self.writer.roots = Arc::clone(&roots);
        self.writer.effects.freed.append(&mut self.effects.freed);
        self.writer.effects.dirtied += self.effects.dirtied;
        self.journal
            .dirty_pages
            .store(self.writer.effects.dirtied, Ordering::Relaxed);
        self.journal.published.store(roots);
        Ok(end)
    }

    fn reading(&self) -> Reading<'_> {
        Reading {
            roots: &self.roots,
            storage: &self.journal.storage,
        }
    }
}

impl View {
    /// Bytes of strings.dat that hold names, those that wait for a checkpoint included.
    #[must_use]
    pub fn strings_end(&self) -> u64 {
        self.roots.strings_end
    }

    /// Reads pages of a tree from the disk, from a key on: see [`crate::store::tree::verify`].
    ///
    /// # Errors
    /// When there is no such tree.
    pub fn verify(
        &self,
        tree: TreeId,
        from: &[u8],
        max: usize,
        found: &mut dyn FnMut(PagePtr, Option<StoreError>),
    ) -> Result<Option<Key>, StoreError> {
        self.roots.verify(&self.storage, tree, from, max, found)
    }

    fn reading(&self) -> Reading<'_> {
        Reading {
            roots: &self.roots,
            storage: self.storage.deref(),
        }
    }
}

macro_rules! read_through_reading {
    ($type:ty) => {
        impl Read for $type {
            fn get_with<T>(
                &self,
                tree: TreeId,
                key: &[u8],
                read: impl FnOnce(&[u8]) -> T,
            ) -> Result<Option<T>, StoreError> {
                self.reading().get_with(tree, key, read)
            }
            fn floor_with<T>(
                &self,
                tree: TreeId,
                key: &[u8],
                read: impl FnOnce(&[u8], &[u8]) -> T,
            ) -> Result<Option<T>, StoreError> {
                self.reading().floor_with(tree, key, read)
            }
            fn scan(
                &self,
                tree: TreeId,
                start: &[u8],
                end: &[u8],
                visit: &mut Visit<'_>,
            ) -> Result<(), StoreError> {
                self.reading().scan(tree, start, end, visit)
            }
            fn name_with<T>(
                &self,
                id: NameId,
                read: impl FnOnce(&[u8]) -> T,
            ) -> Result<T, StoreError> {
                self.reading().name_with(id, read)
            }
        }
    };
}
read_through_reading!(View);
read_through_reading!(Tx<'_>);
