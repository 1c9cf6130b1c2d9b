//! The journal: an open store. Views of it, transactions on it, and when they are durable.
//!
//! One writer at a time makes a transaction, which changes nothing that anyone else can see until
//! its commit appends it to the log and enters it in the trees. A reader takes the roots as they
//! are and keeps what they lead to: it never waits for a transaction in the making, nor for a disk,
//! only while a commit enters its changes in memory. A failed write or flush latches the journal:
//! nothing is changed or made durable from then on.
//!
//! Lock order: the newest checkpoint, the writer, the published roots.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::Tx;
use super::change::Changes;
use super::tracked::Tracked;
use super::tx::Pending;
use super::wal::{GroupCommits, Wal};
use crate::disk::{Disk, Media};
use crate::format::id::{Generation, Lsn, PageNo};
use crate::format::key::{Key, TreeId};
use crate::format::record::PagePtr;
use crate::format::superblock::Superblock;
use crate::metrics::Histogram;
use crate::store::StoreError;
use crate::store::pages::{Looks, Need};
use crate::store::roots::{AtOneMoment, Reading, Roots, Storage};
use crate::store::strings::UsedNames;
use crate::store::tree::{Differs, Effects};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock};

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
    /// The trees with all that was committed. Held for writing by who has the writer, to enter in
    /// memory what cannot fail; for reading as long as it takes to take a reference. Trees that
    /// nobody else refers to are changed where they are.
    pub(super) published: RwLock<Arc<Roots>>,
    pub(super) writer: Mutex<Writer>,
    /// The newest checkpoint on disk; held while the next one is made.
    pub(super) checkpoint: Mutex<Superblock>,
    /// Pages that durable checkpoints freed and older views may still read, oldest first.
    pub(super) retired: Mutex<VecDeque<Retired>>,
    /// The checkpoint the store was opened with.
    pub(super) opened: Superblock,
    pub(super) durable_generation: AtomicU64,
    pub(super) dirty_pages: AtomicU64,
    /// Bytes of file content that the store may hold, as the next checkpoint will say.
    pub(super) capacity_bytes: AtomicU64,
    /// Whether transactions go to the log.
    pub(super) logging: AtomicBool,
    /// Whether the last checkpoint has begun, behind which no transaction comes.
    pub(super) closed: AtomicBool,
    /// Read-only compatible features that the next checkpoint enters.
    pub(super) added_ro_compat: AtomicU64,
    chunks: Arc<dyn Disk>,
    latch: RwLock<Option<StoreError>>,
    pub(super) checkpoints: Histogram,
}

/// What a checkpoint freed.
pub(super) struct Retired {
    /// [`Roots::epoch`] of the roots before the checkpoint: its last holder is the last reader.
    pub(super) epoch: Arc<()>,
    pub(super) pages: Vec<PagePtr>,
    /// Bytes of strings.dat without a name that is used.
    pub(super) gaps: Vec<Range<u64>>,
}

/// What only the one who writes may touch.
pub(super) struct Writer {
    /// What came off the trees since the last checkpoint, and how many nodes wait for the next.
    pub(super) effects: Effects,
    /// The checkpoint that will hold what is committed now.
    pub(super) generation: Generation,
    /// Where the changes of the transaction under way are collected.
    pub(super) changes: Changes,
    /// Those of trees that the transaction's commit will enter.
    pub(super) pending: Pending,
    /// While a walk looks for names that are used: where to say so.
    pub(super) used_names: Option<Arc<UsedNames>>,
    /// Bytes of strings.dat in which no name is used, and none can be found since what is committed.
    pub(super) gaps: Vec<Range<u64>>,
}

impl Writer {
    /// Pages that the next checkpoint must be able to write when one more transaction was made.
    pub(super) fn wanted_pages(&self) -> u64 {
        self.effects.dirtied.saturating_add(TRANSACTION_PAGES_MAX)
    }
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

/// All trees at one moment. Cheap to take, and changed by no writer.
#[derive(Clone)]
pub struct View {
    pub(super) roots: Arc<Roots>,
    pub(super) storage: Arc<Storage>,
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
        Ok(Journal {
            storage,
            media,
            wal,
            published: RwLock::new(Arc::new(roots)),
            dirty_pages: AtomicU64::new(effects.dirtied),
            logging: AtomicBool::new(true),
            closed: AtomicBool::new(false),
            added_ro_compat: AtomicU64::new(0),
            writer: Mutex::new(Writer {
                effects,
                generation: next_generation,
                changes: Changes::default(),
                pending: Pending::default(),
                used_names: None,
                gaps: Vec::new(),
            }),
            retired: Mutex::default(),
            capacity_bytes: AtomicU64::new(superblock.capacity_bytes),
            opened: superblock.clone(),
            checkpoint: Mutex::new(superblock),
            durable_generation: AtomicU64::new(generation.0),
            chunks,
            latch: RwLock::new(None),
            checkpoints: Histogram::default(),
        })
    }

    /// The state of everything committed so far.
    #[must_use]
    pub fn view(&self) -> View {
        View {
            roots: self.published(),
            storage: Arc::clone(&self.storage),
        }
    }

    /// The trees as they are now.
    pub(super) fn published(&self) -> Arc<Roots> {
        Arc::clone(&self.published.read())
    }

    /// Lets other trees take the place of those that readers get. To be called with the writer held.
    pub(super) fn publish(&self, roots: Roots) {
        let roots = Arc::new(roots);
        let old = std::mem::replace(&mut *self.published.write(), roots);
        // It may be the last reference to many nodes: nobody should wait for that.
        drop(old);
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
        let tx = self.start(need, self.share_of_log(KEPT_SHARE))?;
        // The transaction has the writer: whoever had it before is in the last checkpoint.
        self.open()?;
        Ok(tx)
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
        self.intact()?;
        let mut writer = self.writer.lock();
        // A latch that closed while this waited.
        self.intact()?;
        self.storage.pages.reserve(writer.wanted_pages(), need)?;
        let roots = self.published();
        if need == Need::Space {
            self.storage.strings.reserve(roots.strings_end)?;
        }
        // Those of one that was dropped.
        writer.changes.clear();
        writer.pending.clear();
        Ok(Tx::new(self, writer, roots, need, keep_bytes))
    }

    /// How many pages the next checkpoint has to write, at most.
    #[must_use]
    pub fn dirty_pages(&self) -> u64 {
        self.dirty_pages.load(Ordering::Relaxed)
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

    /// Has the next checkpoint enter features that who writes to the store must know; whether they
    /// are new.
    pub fn add_ro_compat(&self, features: u64) -> bool {
        let is_new = features & !self.superblock().ro_compat != 0;
        self.added_ro_compat.fetch_or(features, Ordering::AcqRel);
        is_new
    }

    /// Whether changes are possible.
    ///
    /// # Errors
    /// Why they are not: opened read-only, latched, or closed.
    pub fn writable(&self) -> Result<(), StoreError> {
        self.intact()?;
        self.open()
    }

    fn open(&self) -> Result<(), StoreError> {
        match self.closed.load(Ordering::Acquire) {
            true => Err(StoreError::ReadOnly("closed".into())),
            false => Ok(()),
        }
    }

    /// Whether what was committed can become durable.
    fn intact(&self) -> Result<(), StoreError> {
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

    /// What to tell who waits for what will not become durable any more, once the journal is latched.
    #[must_use]
    pub fn lost(&self) -> Option<StoreError> {
        self.latch.read().clone().map(StoreError::lost)
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
        if let Some(lost) = self.lost() {
            return Err(lost);
        }
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

    /// How long each checkpoint took that wrote anything.
    #[must_use]
    pub fn checkpoint_times(&self) -> &Histogram {
        &self.checkpoints
    }

    /// Lets go of memory that is kept for log to come.
    pub fn forget_spare(&self) {
        self.wal.iter().for_each(Wal::forget_spare);
    }

    /// The log's group commits, where there is a log.
    #[must_use]
    pub fn commits(&self) -> Option<&GroupCommits> {
        self.wal.as_ref().map(Wal::commits)
    }

    /// Bytes of the log.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.opened.log_bytes
    }

    /// How the memory for tree pages does, and how many pages that were read could not be believed.
    #[must_use]
    pub fn pages(&self) -> (Looks, u64) {
        let pages = &self.storage.pages;
        (pages.looks(), pages.damaged())
    }

    /// Bytes of the log that the next checkpoint frees.
    #[must_use]
    pub fn log_used_bytes(&self) -> u64 {
        self.wal.as_ref().map_or(0, Wal::used_bytes)
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

    /// The store's UUID.
    #[must_use]
    pub fn uuid(&self) -> [u8; 16] {
        self.opened.uuid
    }

    /// The superblock of the newest checkpoint. To be called without a transaction: a checkpoint
    /// under way holds it, and waits for the writer.
    #[must_use]
    pub fn superblock(&self) -> Superblock {
        self.checkpoint.lock().clone()
    }

    /// Bytes of file content the store may hold; 0 for as many as the disk gives.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes.load(Ordering::SeqCst)
    }

    /// Changes that: durable with the next checkpoint.
    pub fn set_capacity_bytes(&self, bytes: u64) {
        self.capacity_bytes.store(bytes, Ordering::SeqCst);
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
        pages * crate::format::page::PAGE_BYTES as u64 + self.names_backed_bytes()
    }

    /// Finds the pages that can be reused, by reading the internal pages of the trees the store was
    /// opened with. To be called in the background; until it is done nodes.dat only grows.
    ///
    /// # Errors
    /// When a page cannot be believed; no page is reused then.
    pub fn find_free_pages(&self) -> Result<(), StoreError> {
        let end = PageNo(self.opened.nodes_end.0.max(1));
        let roots = || self.roots_of(&self.opened);
        self.storage.pages.find_free(roots, end)
    }
}

impl Journal {
    /// Frees pages that no tree reaches though nobody freed them: those of trees that were deleted,
    /// or that other trees had when they were replaced. In a transaction that `end` may add to, and
    /// that counts with the next checkpoint. How many there were. To be called when free pages are
    /// known.
    ///
    /// # Errors
    /// When a page cannot be believed; nothing is freed then.
    pub fn free_unreached(
        &self,
        end: &dyn Fn(&mut Tx<'_>) -> Result<(), StoreError>,
    ) -> Result<u64, StoreError> {
        let (superblock, search) = {
            let newest = self.checkpoint.lock();
            let retired = self.retired.lock();
            let retired: Vec<PagePtr> = retired
                .iter()
                .flat_map(|each| &each.pages)
                .copied()
                .collect();
            (newest.clone(), self.storage.pages.search(&retired))
        };
        let Some(search) = search else {
            return Ok(0);
        };
        let found = search.find(&self.roots_of(&superblock)?)?;
        let mut tx = self.begin_for(Need::Reclaim)?;
        let generation = Generation(0);
        let found = found.into_iter().map(|page| PagePtr { page, generation });
        let count = tx.free_pages(found.collect());
        end(&mut tx)?;
        tx.commit()?;
        Ok(count as u64)
    }

    /// The roots of all trees of a checkpoint.
    fn roots_of(&self, superblock: &Superblock) -> Result<Vec<PagePtr>, StoreError> {
        let mut roots = superblock.roots.to_vec();
        let at = Roots::on_disk(&superblock.roots, superblock.strings_end);
        let datasets = super::recovery::datasets(&Reading {
            roots: &at,
            storage: &self.storage,
        })?;
        roots.extend(datasets.into_iter().map(|(_, record)| record.root));
        Ok(roots)
    }
}

/// Makes durable what the log's entries refer to.
pub(super) type Barrier = Box<dyn Fn() -> std::io::Result<()> + Send + Sync>;

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
}

impl View {
    /// In what trees differ: see [`Roots::diff`].
    ///
    /// # Errors
    /// As there.
    pub fn diff(
        &self,
        trees: (TreeId, Option<TreeId>),
        from: &[u8],
        differs: &mut Differs<'_>,
    ) -> Result<(), StoreError> {
        self.roots.diff(&self.storage, trees, from, differs)
    }
}

impl AtOneMoment for View {
    fn reading(&self) -> Reading<'_> {
        Reading {
            roots: &self.roots,
            storage: &self.storage,
        }
    }
}
