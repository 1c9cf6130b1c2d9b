//! Transactions: changes of the trees that are made and logged as one.
//!
//! Until its commit a transaction only collects what it will change. Most are a few changes: their
//! commit enters them in the published trees, where they are, unless a view shares the nodes, which
//! are then copied. Before, it loads what is only on disk, and makes sure that nothing about this
//! can fail: what is in the log must be in the trees. A transaction of many changes, one that
//! empties a leaf, or one that reads ranges that it has changed, works on a copy of the roots
//! instead, which its commit publishes.
//!
//! So a transaction that is dropped never was, and a view never changes: only who alone refers to a
//! node can change it.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Change;
use super::journal::{Journal, Writer};
use super::wal::{Wal, WalError};
use crate::format::id::{DatasetId, Generation, Ino, Lsn, NameId};
use crate::format::key::{Key, TreeId};
use crate::format::record::{HISTORY_KIND, LINEAGE_KIND, PagePtr, Until, history_key, name_used};
use crate::store::pages::Need;
use crate::store::read::Visit;
use crate::store::roots::{Roots, Storage, find_name, name_hash, name_key};
use crate::store::tree::{Differs, Effects, Loaded, Source};
use crate::store::{Read, StoreError};
use crate::sync::MutexGuard;
use crate::sync::atomic::Ordering;

/// What a copy of a tree is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyAs {
    /// The same from here on: one of the two is not changed any more.
    Same,
    /// Another, in a timeline of this number: that of a dataset that did not have a tree yet, or one
    /// that was given away for it.
    Branch(u64),
}

/// Changes that a transaction collects before it works on a copy: each read of a key looks through
/// them.
const PENDING_MAX: usize = 24;

/// A transaction in the making: reads see its own changes. Dropped without [`Tx::commit`] it never
/// was. Only one exists at a time; the next [`Journal::begin`] waits for it.
pub struct Tx<'a> {
    journal: &'a Journal,
    writer: MutexGuard<'a, Writer>,
    /// The trees before it.
    before: Arc<Roots>,
    /// The trees with its changes, once it works on a copy.
    copy: OnceCell<Box<ChangedRoots>>,
    /// Where the next name goes.
    strings_end: u64,
    need: Need,
    /// Bytes of the log that it must leave free.
    keep_bytes: u64,
    /// A change failed half-way: only dropping is left.
    broken: bool,
    /// A tree was copied: what is made from here on is younger than what the copy has.
    copied_tree: bool,
    /// Pages that were found to be in no tree.
    unreached: Vec<PagePtr>,
}

/// A copy of the roots with a transaction's changes.
struct ChangedRoots {
    roots: Roots,
    effects: Effects,
}

/// Changes of trees that are not entered yet, in the order in which they were made. They keep their
/// memory from one transaction to the next.
#[derive(Default)]
pub(super) struct Pending {
    steps: Vec<Step>,
    /// Keys and values.
    bytes: Vec<u8>,
    removals: usize,
}

struct Step {
    tree: TreeId,
    key: Range<usize>,
    /// `None` removes the key.
    value: Option<Range<usize>>,
}

impl Pending {
    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        self.steps.clear();
        self.bytes.clear();
        self.removals = 0;
    }

    fn append(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    fn push(&mut self, tree: TreeId, key: &[u8], value: Option<&[u8]>) {
        let key = self.append(key);
        let value = value.map(|value| self.append(value));
        self.removals += usize::from(value.is_none());
        self.steps.push(Step { tree, key, value });
    }

    fn get(&self, range: &Range<usize>) -> &[u8] {
        self.bytes.get(range.clone()).unwrap_or_default()
    }

    /// All of them: tree, key, and the value that it gets.
    fn iter(&self) -> impl DoubleEndedIterator<Item = (TreeId, &[u8], Option<&[u8]>)> {
        self.steps.iter().map(|step| {
            let value = step.value.as_ref().map(|value| self.get(value));
            (step.tree, self.get(&step.key), value)
        })
    }

    /// What became of a key; `None` when nothing did.
    fn find(&self, tree: TreeId, key: &[u8]) -> Option<Option<&[u8]>> {
        let found =
            |(in_tree, changed, _): &(TreeId, &[u8], _)| *in_tree == tree && *changed == key;
        self.iter().rev().find(found).map(|(_, _, value)| value)
    }

    /// Whether a key in a range changed.
    fn touches(&self, tree: TreeId, keys: Range<&[u8]>) -> bool {
        self.iter()
            .any(|(in_tree, key, _)| in_tree == tree && keys.contains(&key))
    }

    /// Loads what entering them in these trees needs from the disk; whether it cannot fail then.
    fn make_ready(
        &self,
        roots: &Roots,
        storage: &Storage,
        loaded: &mut Loaded,
    ) -> Result<bool, StoreError> {
        for change in self.iter() {
            if !roots.make_ready(storage, loaded, change, self.removals)? {
                return Ok(false);
            }
        }
        Ok(!self.may_split_before_removal(roots, loaded))
    }

    /// Whether a leaf may be split before keys of its tree are removed: each half has fewer left
    /// to lose than the leaf had.
    fn may_split_before_removal(&self, roots: &Roots, loaded: &Loaded) -> bool {
        let is_removal = |step: &Step| step.value.is_none();
        let Some(last) = self.steps.iter().rposition(is_removal) else {
            return false;
        };
        let loses = |tree| {
            self.steps
                .iter()
                .any(|step| is_removal(step) && step.tree == tree)
        };
        self.iter().take(last).any(|(tree, key, value)| {
            value
                .is_some_and(|value| loses(tree) && !roots.has_room(loaded, tree, key, value.len()))
        })
    }
}

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
        Change::CopyTree { from, to, .. } => roots.copy_tree(storage, *from, *to).map(|()| true),
        Change::Data { .. } | Change::DataClear { .. } => Ok(true),
    }
}

impl<'a> Tx<'a> {
    pub(super) fn new(
        journal: &'a Journal,
        writer: MutexGuard<'a, Writer>,
        before: Arc<Roots>,
        need: Need,
        keep_bytes: u64,
    ) -> Self {
        let strings_end = before.strings_end;
        Tx {
            journal,
            writer,
            before,
            copy: OnceCell::new(),
            strings_end,
            need,
            keep_bytes,
            broken: false,
            copied_tree: false,
            unreached: Vec::new(),
        }
    }

    /// The trees with its changes, in a copy of its own from now on.
    fn copied(&self) -> Result<&ChangedRoots, StoreError> {
        if let Some(copy) = self.copy.get() {
            return Ok(copy);
        }
        let storage = &self.journal.storage;
        let mut roots = Roots::clone(&self.before);
        let mut effects = Effects::default();
        let source = Source::Pages(&storage.pages);
        for change in self.writer.pending.iter() {
            roots.change(storage, source, change, &mut effects)?;
        }
        Ok(self
            .copy
            .get_or_init(|| Box::new(ChangedRoots { roots, effects })))
    }

    /// Makes a change, of a key that is there when it has no value.
    fn change(&mut self, tree: TreeId, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
        if tree == TreeId::Datasets && matches!(key.first(), Some(&(LINEAGE_KIND | HISTORY_KIND))) {
            // What follows from it may have to be read, which can fail: not behind the log.
            self.copied()?;
        }
        let Some(copy) = self.copy.get_mut() else {
            self.writer.pending.push(tree, key, value);
            if self.writer.pending.steps.len() > PENDING_MAX {
                self.copied()?;
            }
            return Ok(());
        };
        let ChangedRoots { roots, effects } = &mut **copy;
        let storage = &self.journal.storage;
        let source = Source::Pages(&storage.pages);
        roots.change(storage, source, (tree, key, value), effects)
    }

    /// As [`Tx::change`], and notes when it failed.
    fn change_or_break(
        &mut self,
        tree: TreeId,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        self.change(tree, key, value)
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
        self.change_or_break(tree, key, Some(value))?;
        self.writer.changes.put(tree, key, value);
        if let (TreeId::Fs(_), Some(used)) = (tree, &self.writer.used_names)
            && let Ok(Some(name)) = name_used(key, value)
        {
            used.mark(name);
        }
        Ok(())
    }

    /// Removes a key; whether it was there.
    ///
    /// # Errors
    /// When a page cannot be read.
    pub fn delete(&mut self, tree: TreeId, key: impl AsRef<[u8]>) -> Result<bool, StoreError> {
        let key = key.as_ref();
        let there = self.get_with(tree, key, |_| ())?.is_some();
        if there {
            self.remove(tree, key)?;
        }
        Ok(there)
    }

    /// Removes a key that this transaction has found.
    ///
    /// # Errors
    /// When a page cannot be read. When the key was not there, it is the commit that fails.
    pub fn remove(&mut self, tree: TreeId, key: impl AsRef<[u8]>) -> Result<(), StoreError> {
        let key = key.as_ref();
        self.change_or_break(tree, key, None)?;
        self.writer.changes.delete(tree, key);
        Ok(())
    }

    /// The id of a name of 1 to 255 bytes, interning it when it is new.
    ///
    /// # Errors
    /// When a page or name cannot be read.
    pub fn intern(&mut self, name: &[u8]) -> Result<NameId, StoreError> {
        let storage = &self.journal.storage;
        let hash = name_hash(&storage.hash_seed, name);
        if let Some(id) = find_name(self, hash, name)? {
            return Ok(id);
        }
        let id = NameId(self.strings_end);
        self.strings_end = storage.strings.add(id, name);
        self.change_or_break(TreeId::Names, &name_key(hash, id), Some(&[]))?;
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

    /// Makes the tree of a dataset that of another too, whose record this transaction has put.
    /// What other transactions make is of a later [`Tx::generation`].
    ///
    /// # Errors
    /// When a page cannot be read.
    pub fn copy_tree(
        &mut self,
        from: DatasetId,
        to: DatasetId,
        as_what: CopyAs,
    ) -> Result<(), StoreError> {
        self.copied()?;
        let history = self.put_history(from, to, as_what);
        self.broken |= history.is_err();
        history?;
        let storage = &self.journal.storage;
        let done = match self.copy.get_mut() {
            Some(copy) => copy.roots.copy_tree(storage, from, to),
            None => Err(StoreError::Corrupt("a transaction without its copy".into())),
        };
        self.broken |= done.is_err();
        self.copied_tree = true;
        let birth = self.generation();
        self.writer.changes.copy_tree(from, to, birth);
        done
    }

    /// Gives the tree of a dataset that has got another's its place in history.
    fn put_history(
        &mut self,
        from: DatasetId,
        to: DatasetId,
        as_what: CopyAs,
    ) -> Result<(), StoreError> {
        let storage = &self.journal.storage;
        let Some(copy) = self.copy.get_mut() else {
            return Ok(());
        };
        let history = copy.roots.history(storage, from)?;
        let record = copy.roots.dataset(storage, from)?;
        let place = copy.roots.root(storage, TreeId::Fs(from))?.place();
        // What others change from here on is of this transaction's checkpoint or later.
        let before = Generation(self.writer.generation.0.saturating_sub(1));
        let until = Until {
            newest: place.map_or(Until::PENDING, |place| place.generation),
            sure: history.own(from, &record).sure.min(before),
        };
        let history = match as_what {
            CopyAs::Same => history,
            CopyAs::Branch(timeline) => history.branch(timeline, until),
        };
        // What has no place yet gets one with the next checkpoint, and another if the one that is
        // being made never counts.
        let history = history.pending_after(self.journal.durable_generation());
        self.put(TreeId::Datasets, history_key(to), history.encode())
    }

    /// Frees pages that are in no tree with the checkpoint that will hold this transaction, unless
    /// it does already. The log says nothing of it. How many these are.
    pub(super) fn free_pages(&mut self, mut pages: Vec<PagePtr>) -> usize {
        let freed: HashSet<_> = self
            .writer
            .effects
            .freed
            .iter()
            .map(|place| place.page)
            .collect();
        pages.retain(|place| !freed.contains(&place.page));
        self.unreached = pages;
        self.unreached.len()
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

    /// In what trees differ, as they were before this transaction: see [`Roots::diff`].
    ///
    /// # Errors
    /// As there.
    pub fn diff(
        &self,
        trees: (TreeId, Option<TreeId>),
        from: &[u8],
        differs: &mut Differs<'_>,
    ) -> Result<(), StoreError> {
        let storage = &self.journal.storage;
        self.before.diff(storage, trees, from, differs)
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
    /// When a page cannot be read, or the log refuses; the transaction then never was.
    pub fn commit(mut self) -> Result<Lsn, StoreError> {
        if self.broken {
            return Err(StoreError::Corrupt(
                "a transaction with a failed change".into(),
            ));
        }
        let wal = self.journal.wal()?;
        if self.writer.changes.is_empty() {
            self.writer.effects.freed.append(&mut self.unreached);
            return Ok(wal.next_lsn());
        }
        // What is in the log must be in the trees: from there on nothing fails.
        let mut loaded = Loaded::default();
        if self.copy.get().is_none() {
            let (storage, pending) = (&self.journal.storage, &self.writer.pending);
            if !pending.make_ready(&self.before, storage, &mut loaded)? {
                self.copied()?;
            }
        }
        let end = self.append(wal)?;
        if self.copied_tree {
            self.writer.generation.0 = self.writer.generation.0.saturating_add(1);
        }
        self.writer.effects.freed.append(&mut self.unreached);
        match self.copy.take() {
            Some(copy) => self.publish(*copy),
            None => self.enter(&loaded)?,
        }
        Ok(end)
    }

    fn append(&self, wal: &Wal) -> Result<Lsn, StoreError> {
        let logged = self.journal.logging.load(Ordering::Relaxed) || self.need == Need::Log;
        if !logged {
            return Ok(wal.next_lsn());
        }
        match wal.append(&self.writer.changes, now_ns(), self.keep_bytes) {
            Ok(appended) => Ok(appended.end),
            Err(WalError::Full { .. }) => Err(StoreError::NoSpace("the log is full")),
            Err(error) => self.journal.latching(Err(error.into())),
        }
    }

    fn publish(mut self, mut copy: ChangedRoots) {
        copy.roots.strings_end = self.strings_end;
        self.writer.effects.freed.append(&mut copy.effects.freed);
        self.writer.effects.dirtied += copy.effects.dirtied;
        let dirty = self.writer.effects.dirtied;
        self.journal.dirty_pages.store(dirty, Ordering::Relaxed);
        self.journal.publish(copy.roots);
    }

    /// Enters the pending changes in the published trees.
    fn enter(mut self, loaded: &Loaded) -> Result<(), StoreError> {
        let Writer {
            pending, effects, ..
        } = &mut *self.writer;
        // This transaction's own reference would have everything copied.
        drop(self.before);
        let mut published = self.journal.published.write();
        let roots = Arc::make_mut(&mut published);
        roots.strings_end = self.strings_end;
        for change in pending.iter() {
            let storage = &self.journal.storage;
            let done = roots.change(storage, Source::Loaded(loaded), change, effects);
            debug_assert!(done.is_ok(), "{change:?}: {done:?}");
            // The trees are no longer what the log says they are: never, as `make_ready` has said so.
            self.journal.latching(done)?;
        }
        drop(published);
        let dirty = effects.dirtied;
        self.journal.dirty_pages.store(dirty, Ordering::Relaxed);
        Ok(())
    }
}

impl Read for Tx<'_> {
    fn get_with<T>(
        &self,
        tree: TreeId,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, StoreError> {
        let storage = &self.journal.storage;
        if let Some(copy) = self.copy.get() {
            return copy.roots.get_with(storage, tree, key, read);
        }
        match self.writer.pending.find(tree, key) {
            Some(value) => Ok(value.map(read)),
            None => self.before.get_with(storage, tree, key, read),
        }
    }

    fn floor_with<T>(
        &self,
        tree: TreeId,
        key: &[u8],
        read: impl FnOnce(&[u8], &[u8]) -> T,
    ) -> Result<Option<T>, StoreError> {
        // The first key behind `key`.
        let end = [key, &[0]].concat();
        let roots = self.roots_of(tree, &[]..&end)?;
        roots.floor_with(&self.journal.storage, tree, key, read)
    }

    fn scan(
        &self,
        tree: TreeId,
        start: &[u8],
        end: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        let roots = self.roots_of(tree, start..end)?;
        roots.scan(&self.journal.storage, tree, start, end, visit)
    }

    fn name_with<T>(&self, id: NameId, read: impl FnOnce(&[u8]) -> T) -> Result<T, StoreError> {
        self.journal.storage.strings.read_with(id, read)
    }
}

impl Tx<'_> {
    /// Trees that hold what the transaction did to a range of keys.
    fn roots_of(&self, tree: TreeId, keys: Range<&[u8]>) -> Result<&Roots, StoreError> {
        if self.copy.get().is_none() && !self.writer.pending.touches(tree, keys) {
            return Ok(&self.before);
        }
        Ok(&self.copied()?.roots)
    }
}

#[cfg(test)]
mod tests;
