//! All trees of a store at one moment.

mod checkpoint;

use std::borrow::Cow;
use std::hash::Hasher;
use std::ops::ControlFlow;
use std::sync::Arc;

use siphasher::sip::SipHasher13;
use smallvec::SmallVec;

use super::pages::PageStore;
use super::read::Visit;
use super::strings::Strings;
use super::tree::{self, Differs, Effects, Link, Loaded, Source};
use super::{Read, StoreError};
use crate::format::id::{DatasetId, Generation, NameId};
use crate::format::key::{self, Key, SYSTEM_TREES, TreeId};
use crate::format::record::{
    DATASET_KIND, DatasetRecord, HISTORY_KIND, HistoryRecord, LINEAGE_KIND, LineageRecord, PagePtr,
    dataset_key, history_key, lineage_key,
};

/// Where pages and names are read from.
pub struct Storage {
    /// Tree pages.
    pub pages: PageStore,
    /// Names.
    pub strings: Strings,
    /// Key of the hashes of names.
    pub hash_seed: [u8; 16],
}

/// The roots of all trees: cloning it takes a snapshot.
#[derive(Clone)]
pub struct Roots {
    system: [Link; SYSTEM_TREES],
    /// Datasets that were changed or copied, by id; of others the record tells the root.
    datasets: SmallVec<[Held; 1]>,
    /// Where the next name goes.
    pub strings_end: u64,
    /// Shared by all roots since the last checkpoint began: while anyone holds it, pages that were
    /// freed since may still be read.
    pub epoch: Arc<()>,
}

/// The tree of a dataset.
#[derive(Clone)]
struct Held {
    id: DatasetId,
    link: Link,
    /// [`LineageRecord::shared`].
    shared: Generation,
    /// The timeline that its pages are written for: [`HistoryRecord::timeline`].
    timeline: u64,
    /// Its history waits for the next checkpoint's number.
    is_pending: bool,
}

impl Roots {
    /// The roots that a superblock names.
    #[must_use]
    pub fn on_disk(system: &[PagePtr; SYSTEM_TREES], strings_end: u64) -> Self {
        Roots {
            system: system.map(Link::Disk),
            datasets: SmallVec::new(),
            strings_end,
            epoch: Arc::default(),
        }
    }

    fn system_index(tree: TreeId) -> Option<usize> {
        TreeId::SYSTEM.iter().position(|each| *each == tree)
    }

    /// The tree, when its root stands here.
    fn held(&self, tree: TreeId) -> Option<&Link> {
        if let TreeId::Fs(id) = tree {
            let index = self.find(id).ok()?;
            return self.datasets.get(index).map(|held| &held.link);
        }
        Self::system_index(tree).and_then(|index| self.system.get(index))
    }

    /// Where a dataset stands among those that are held, or would.
    fn find(&self, id: DatasetId) -> Result<usize, usize> {
        self.datasets.binary_search_by_key(&id, |held| held.id)
    }

    fn link(&self, storage: &Storage, tree: TreeId) -> Result<Cow<'_, Link>, StoreError> {
        match (self.held(tree), tree) {
            (Some(link), _) => Ok(Cow::Borrowed(link)),
            (None, TreeId::Fs(id)) => {
                let root = self.dataset(storage, id)?.root;
                Ok(Cow::Owned(Link::Disk(root)))
            }
            (None, _) => Err(StoreError::Corrupt(format!("{tree:?} is no tree"))),
        }
    }

    /// The root of a tree.
    ///
    /// # Errors
    /// When there is no such tree, or its dataset's record cannot be read.
    pub fn root(&self, storage: &Storage, tree: TreeId) -> Result<Link, StoreError> {
        Ok(self.link(storage, tree)?.into_owned())
    }

    /// The tree, to be changed, and which of its pages other trees may have.
    fn link_mut(
        &mut self,
        storage: &Storage,
        tree: TreeId,
    ) -> Result<(&mut Link, Generation), StoreError> {
        if let TreeId::Fs(id) = tree {
            let held = self.hold(storage, id)?;
            return Ok((&mut held.link, held.shared));
        }
        Self::system_index(tree)
            .and_then(|index| self.system.get_mut(index))
            .map(|link| (link, Generation(0)))
            .ok_or_else(|| StoreError::Corrupt(format!("{tree:?} is no tree")))
    }

    /// Holds the tree of a dataset.
    fn hold(&mut self, storage: &Storage, id: DatasetId) -> Result<&mut Held, StoreError> {
        let index = match self.find(id) {
            Ok(index) => index,
            Err(index) => {
                let link = Link::Disk(self.dataset(storage, id)?.root);
                let shared = self.lineage(storage, id)?.shared;
                let history = self.history(storage, id)?;
                let held = Held {
                    id,
                    link,
                    shared,
                    timeline: history.timeline,
                    is_pending: history.is_pending(),
                };
                self.datasets.insert(index, held);
                index
            }
        };
        self.datasets
            .get_mut(index)
            .ok_or_else(|| StoreError::Corrupt(format!("there is no dataset {id}")))
    }

    /// A dataset's lineage.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn lineage(&self, storage: &Storage, id: DatasetId) -> Result<LineageRecord, StoreError> {
        let key = lineage_key(id);
        let found = self.get_with(storage, TreeId::Datasets, &key, LineageRecord::decode)?;
        found
            .unwrap_or_else(|| Ok(LineageRecord::default()))
            .map_err(|source| StoreError::format(format!("lineage of dataset {id}"), source))
    }

    /// A dataset's history.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn history(&self, storage: &Storage, id: DatasetId) -> Result<HistoryRecord, StoreError> {
        let key = history_key(id);
        let found = self.get_with(storage, TreeId::Datasets, &key, HistoryRecord::decode)?;
        found
            .unwrap_or_else(|| Ok(HistoryRecord::of(id)))
            .map_err(|source| StoreError::format(format!("history of dataset {id}"), source))
    }

    /// Makes the tree of a new dataset a copy of another's, by sharing it. That nothing of what they
    /// share is freed is up to their lineages.
    ///
    /// # Errors
    /// When there is no such dataset.
    pub fn copy_tree(
        &mut self,
        storage: &Storage,
        from: DatasetId,
        to: DatasetId,
    ) -> Result<(), StoreError> {
        let link = self.link(storage, TreeId::Fs(from))?.into_owned();
        self.hold(storage, to)?.link = link;
        Ok(())
    }

    /// What is held of a dataset follows its records.
    fn follow(
        &mut self,
        storage: &Storage,
        tree: TreeId,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        let (TreeId::Datasets, Some((&kind, id))) = (tree, key.split_first()) else {
            return Ok(());
        };
        let Ok(id) = id.try_into().map(u64::from_be_bytes).map(DatasetId) else {
            return Ok(());
        };
        match (kind, value) {
            (DATASET_KIND, None) => {
                if let Ok(index) = self.find(id) {
                    self.datasets.remove(index);
                }
            }
            (HISTORY_KIND, value) => {
                let history =
                    value.map_or_else(|| Ok(HistoryRecord::of(id)), HistoryRecord::decode);
                let history = history.map_err(|source| {
                    StoreError::format(format!("history of dataset {id}"), source)
                })?;
                if history.is_pending() {
                    // The next checkpoint must find it.
                    self.hold(storage, id)?;
                }
                if let Ok(index) = self.find(id)
                    && let Some(held) = self.datasets.get_mut(index)
                {
                    held.timeline = history.timeline;
                    held.is_pending = history.is_pending();
                }
            }
            (LINEAGE_KIND, value) => {
                let record =
                    value.map_or_else(|| Ok(LineageRecord::default()), LineageRecord::decode);
                let shared = record
                    .map_err(|source| {
                        StoreError::format(format!("lineage of dataset {id}"), source)
                    })?
                    .shared;
                if shared == LineageRecord::PENDING {
                    // The next checkpoint must find it.
                    self.hold(storage, id)?.shared = shared;
                } else if let Ok(index) = self.find(id)
                    && let Some(held) = self.datasets.get_mut(index)
                {
                    held.shared = shared;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A dataset's record.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn dataset(&self, storage: &Storage, id: DatasetId) -> Result<DatasetRecord, StoreError> {
        self.get_with(
            storage,
            TreeId::Datasets,
            &dataset_key(id),
            DatasetRecord::decode,
        )?
        .ok_or_else(|| StoreError::Corrupt(format!("there is no dataset {id}")))?
        .map_err(|source| StoreError::format(format!("dataset {id}"), source))
    }

    /// Inserts or replaces.
    ///
    /// # Errors
    /// When a page cannot be read; these roots are then to be dropped.
    pub fn put(
        &mut self,
        storage: &Storage,
        tree: TreeId,
        key: &[u8],
        value: &[u8],
        effects: &mut Effects,
    ) -> Result<(), StoreError> {
        let source = Source::Pages(&storage.pages);
        self.change(storage, source, (tree, key, Some(value)), effects)
    }

    /// Removes; whether it was there.
    ///
    /// # Errors
    /// As [`Roots::put`].
    pub fn delete(
        &mut self,
        storage: &Storage,
        tree: TreeId,
        key: &[u8],
        effects: &mut Effects,
    ) -> Result<bool, StoreError> {
        let (link, shared) = self.link_mut(storage, tree)?;
        effects.shared = shared;
        let there = tree::delete(link, Source::Pages(&storage.pages), key, effects)?;
        self.follow(storage, tree, key, None)?;
        Ok(there)
    }

    /// See [`tree::has_room`].
    #[must_use]
    pub fn has_room(&self, loaded: &Loaded, tree: TreeId, key: &[u8], len: usize) -> bool {
        self.held(tree)
            .is_some_and(|link| tree::has_room(link, loaded, key, len))
    }

    /// See [`tree::make_ready`].
    ///
    /// # Errors
    /// As there.
    pub fn make_ready(
        &self,
        storage: &Storage,
        loaded: &mut Loaded,
        (tree, key, value): (TreeId, &[u8], Option<&[u8]>),
        removals: usize,
    ) -> Result<bool, StoreError> {
        let change = (key, value.is_none());
        match self.held(tree) {
            Some(link) => tree::make_ready(link, &storage.pages, loaded, change, removals),
            None => Ok(false),
        }
    }

    /// Changes a tree as a transaction did: puts a value, or removes a key that is there. From
    /// [`Source::Loaded`] only where [`Roots::make_ready`] was true.
    ///
    /// # Errors
    /// As [`Roots::put`]; and when the key to remove is not there.
    pub fn change(
        &mut self,
        storage: &Storage,
        source: Source<'_>,
        (tree, key, value): (TreeId, &[u8], Option<&[u8]>),
        effects: &mut Effects,
    ) -> Result<(), StoreError> {
        let (link, shared) = self.link_mut(storage, tree)?;
        effects.shared = shared;
        match value {
            Some(value) => tree::put(link, source, key, value, effects)?,
            None if tree::delete(link, source, key, effects)? => {}
            None => {
                return Err(StoreError::Corrupt(format!(
                    "{tree:?}: a key that was there is not found again"
                )));
            }
        }
        self.follow(storage, tree, key, value)
    }

    /// Enters a new name under its id.
    ///
    /// # Errors
    /// As [`Roots::put`]; and when the id is not the next one.
    pub fn intern(
        &mut self,
        storage: &Storage,
        id: NameId,
        name: &[u8],
        effects: &mut Effects,
    ) -> Result<(), StoreError> {
        if id.0 != self.strings_end {
            let end = self.strings_end;
            return Err(StoreError::Corrupt(format!(
                "a name for {id}, the next goes to {end}"
            )));
        }
        self.strings_end = storage.strings.add(id, name);
        self.put(
            storage,
            TreeId::Names,
            &name_key(name_hash(&storage.hash_seed, name), id),
            &[],
            effects,
        )
    }

    /// The id of a name, if it was interned.
    ///
    /// # Errors
    /// When a page or a name cannot be read.
    pub fn find_name(&self, storage: &Storage, name: &[u8]) -> Result<Option<NameId>, StoreError> {
        let roots = self;
        let read = Reading { roots, storage };
        find_name(&read, name_hash(&storage.hash_seed, name), name)
    }

    /// See [`Read::get_with`].
    ///
    /// # Errors
    /// As there.
    pub fn get_with<T>(
        &self,
        storage: &Storage,
        tree: TreeId,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, StoreError> {
        tree::get_with(&*self.link(storage, tree)?, &storage.pages, key, read)
    }

    /// See [`Read::floor_with`].
    ///
    /// # Errors
    /// As there.
    pub fn floor_with<T>(
        &self,
        storage: &Storage,
        tree: TreeId,
        key: &[u8],
        read: impl FnOnce(&[u8], &[u8]) -> T,
    ) -> Result<Option<T>, StoreError> {
        tree::floor_with(&*self.link(storage, tree)?, &storage.pages, key, read)
    }

    /// See [`Read::scan`].
    ///
    /// # Errors
    /// As there.
    pub fn scan(
        &self,
        storage: &Storage,
        tree: TreeId,
        start: &[u8],
        end: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        tree::scan(
            &*self.link(storage, tree)?,
            &storage.pages,
            start,
            end,
            visit,
        )
    }

    /// The keys from `from` on in which the tree `new` differs from `old`, or from no tree: see
    /// [`tree::diff`].
    ///
    /// # Errors
    /// As there; and when there is no such tree.
    pub fn diff(
        &self,
        storage: &Storage,
        (old, new): (TreeId, Option<TreeId>),
        from: &[u8],
        differs: &mut Differs<'_>,
    ) -> Result<(), StoreError> {
        let old = self.link(storage, old)?;
        let new = match new {
            Some(new) => self.link(storage, new)?,
            None => Cow::Owned(Link::EMPTY),
        };
        tree::diff((&*old, &*new), &storage.pages, from, differs)
    }

    /// See [`tree::verify`].
    ///
    /// # Errors
    /// When there is no such tree.
    pub fn verify(
        &self,
        storage: &Storage,
        tree: TreeId,
        from: &[u8],
        max: usize,
        found: &mut dyn FnMut(PagePtr, Option<StoreError>),
    ) -> Result<Option<Key>, StoreError> {
        let link = self.link(storage, tree)?;
        Ok(tree::verify(&link, &storage.pages, from, max, found))
    }
}

/// The hash by which [`TreeId::Names`] finds a name.
#[must_use]
pub fn name_hash(hash_seed: &[u8; 16], name: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_key(hash_seed);
    hasher.write(name);
    hasher.finish()
}

/// A key of [`TreeId::Names`]: [`name_hash`], id.
#[must_use]
pub fn name_key(hash: u64, id: NameId) -> Key {
    key::pair(hash, id.0)
}

/// The id of a name with its [`name_hash`], if it was interned.
///
/// # Errors
/// When a page or a name cannot be read.
pub fn find_name(read: &impl Read, hash: u64, name: &[u8]) -> Result<Option<NameId>, StoreError> {
    let (start, end) = (name_key(hash, NameId(0)), name_key(hash, NameId(u64::MAX)));
    let mut same_hash = SmallVec::<[u64; 2]>::new();
    read.scan(TreeId::Names, &start, &end, &mut |key, _| {
        same_hash.extend(crate::format::key::trailing_u64(key));
        ControlFlow::Continue(())
    })?;
    for id in same_hash {
        if read.name_with(NameId(id), |found| found == name)? {
            return Ok(Some(NameId(id)));
        }
    }
    Ok(None)
}

/// Roots with what is needed to read them.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// The roots.
    pub roots: &'a Roots,
    /// Pages and names.
    pub storage: &'a Storage,
}

/// What has roots that stay as they are, and can be read by them.
pub trait AtOneMoment {
    /// The roots, and where to read.
    fn reading(&self) -> Reading<'_>;
}

impl AtOneMoment for Reading<'_> {
    fn reading(&self) -> Reading<'_> {
        *self
    }
}

impl<T: AtOneMoment> Read for T {
    fn get_with<U>(
        &self,
        tree: TreeId,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> U,
    ) -> Result<Option<U>, StoreError> {
        let Reading { roots, storage } = self.reading();
        roots.get_with(storage, tree, key, read)
    }

    fn floor_with<U>(
        &self,
        tree: TreeId,
        key: &[u8],
        read: impl FnOnce(&[u8], &[u8]) -> U,
    ) -> Result<Option<U>, StoreError> {
        let Reading { roots, storage } = self.reading();
        roots.floor_with(storage, tree, key, read)
    }

    fn scan(
        &self,
        tree: TreeId,
        start: &[u8],
        end: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        let Reading { roots, storage } = self.reading();
        roots.scan(storage, tree, start, end, visit)
    }

    fn name_with<U>(&self, id: NameId, read: impl FnOnce(&[u8]) -> U) -> Result<U, StoreError> {
        self.reading().storage.strings.read_with(id, read)
    }
}
