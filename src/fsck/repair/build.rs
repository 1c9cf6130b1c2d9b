//! New trees in the making, written to pages that the old trees do not use.
//!
//! Nothing refers to them before the superblock does: memory is bounded by writing them out now and
//! then, and what a crash leaves of them is free space.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::disk::Media;
use crate::format::id::{DatasetId, Generation, NameId};
use crate::format::key::{Key, SYSTEM_TREES, TreeId};
use crate::format::record::{
    LineageRecord, PagePtr, UNREACHED_KEY, Until, history_key, lineage_key,
};
use crate::format::superblock::Superblock;
use crate::log::Change;
use crate::log::recovery::{self, Rebuilt};
use crate::log::wal::ScanReport;
use crate::store::pages::{Need, PageStore};
use crate::store::roots::{Reading, Roots, Storage, name_hash, name_key};
use crate::store::strings::Strings;
use crate::store::tree::Effects;
use crate::store::{Read, StoreError};

/// Nodes in memory from which they are written: 32 MiB.
const NODES_MAX: u64 = 8 * 1024;
/// Room for the nodes that change while the last ones are written.
const NODES_SPARE: u64 = 512;

/// New trees, and how they are changed.
pub(super) struct Builder {
    media: Media,
    superblock: Superblock,
    storage: Arc<Storage>,
    roots: Roots,
    effects: Effects,
    generation: Generation,
    /// Datasets whose trees have pages in common with others.
    sharing: BTreeSet<DatasetId>,
}

/// The number of a checkpoint behind `newest`, and behind those that a recovery had begun to write when
/// the power went: their pages are part of no tree, nor of any from here on.
fn after_all(newest: Generation) -> Generation {
    let begun = newest.0.saturating_add(recovery::GENERATION_STEP_MAX);
    recovery::next_generation(Generation(begun), false)
}

impl Builder {
    /// Empty trees, for a checkpoint after `newest`, which `superblock`'s is not after.
    pub(super) fn new(
        media: &Media,
        superblock: &Superblock,
        newest: Generation,
        cache_bytes: u64,
    ) -> Self {
        let storage = Arc::new(Storage {
            pages: PageStore::new(
                Arc::clone(&media.nodes),
                superblock.nodes_end,
                0,
                cache_bytes,
            ),
            strings: Strings::new(Arc::clone(&media.strings)),
            hash_seed: superblock.hash_seed,
        });
        Builder {
            media: media.clone(),
            superblock: superblock.clone(),
            storage,
            roots: Roots::on_disk(&[PagePtr::EMPTY; SYSTEM_TREES], superblock.strings_end),
            effects: Effects::default(),
            generation: after_all(newest),
            sharing: BTreeSet::new(),
        }
    }

    /// The store's disks.
    pub(super) fn media(&self) -> &Media {
        &self.media
    }

    /// The checkpoint that the trees take the place of.
    pub(super) fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The checkpoint that what is changed now will be of.
    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    /// The trees as they are now, whatever is changed afterwards.
    pub(super) fn view(&self) -> View {
        View {
            roots: self.roots.clone(),
            storage: Arc::clone(&self.storage),
        }
    }

    /// Inserts or replaces. What several trees have stays one while it is the same.
    pub(super) fn put(&mut self, tree: TreeId, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        if let TreeId::Fs(id) = tree
            && self.sharing.contains(&id)
            && self.has(tree, key, value)?
        {
            return Ok(());
        }
        self.roots
            .put(&self.storage, tree, key, value, &mut self.effects)?;
        self.write_out_if_much()
    }

    /// Removes; whether it was there.
    pub(super) fn delete(&mut self, tree: TreeId, key: &[u8]) -> Result<bool, StoreError> {
        let there = self
            .roots
            .delete(&self.storage, tree, key, &mut self.effects)?;
        self.write_out_if_much()?;
        Ok(there)
    }

    /// Whether a key has a value.
    pub(super) fn has(&self, tree: TreeId, key: &[u8], value: &[u8]) -> Result<bool, StoreError> {
        let reading = Reading {
            roots: &self.roots,
            storage: &self.storage,
        };
        let found = reading.get_with(tree, key, |found| found == value)?;
        Ok(found == Some(true))
    }

    fn write_out_if_much(&mut self) -> Result<(), StoreError> {
        match self.effects.dirtied > NODES_MAX {
            true => self.write_out(),
            false => Ok(()),
        }
    }

    /// Makes the tree of a dataset that of another too, as it is now, in a timeline of this number: that
    /// of `from` goes on in `to`, which takes its place. Each counts its references to chunks as if it
    /// were alone.
    pub(super) fn copy_tree(
        &mut self,
        from: DatasetId,
        to: DatasetId,
        timeline: u64,
    ) -> Result<(), StoreError> {
        // What both have is of the first one's timeline.
        let link = self.roots.root(&self.storage, TreeId::Fs(from))?;
        if link.place().is_none() {
            self.write_out()?;
        }
        let link = self.roots.root(&self.storage, TreeId::Fs(from))?;
        let newest = link
            .place()
            .map_or(self.generation, |place| place.generation);
        let mut history = self.roots.history(&self.storage, from)?;
        if history.timeline != timeline {
            // What is changed from here on is written later.
            let sure = newest;
            history = history.branch(timeline, Until { newest, sure });
        }
        self.roots.copy_tree(&self.storage, from, to)?;
        let lineage = LineageRecord {
            shared: LineageRecord::PENDING,
            ..LineageRecord::default()
        };
        for id in [from, to] {
            self.sharing.insert(id);
            self.put(TreeId::Datasets, &lineage_key(id), &lineage.encode())?;
        }
        self.put(TreeId::Datasets, &history_key(to), &history.encode())?;
        self.put(TreeId::Datasets, UNREACHED_KEY, &[])
    }

    /// Makes strings.dat as long as it must be: what is missing reads as zeros, which are no names.
    pub(super) fn extend_strings(&self) -> Result<(), StoreError> {
        let strings = &self.media.strings;
        let length = strings.len_bytes();
        match self.superblock.strings_end.checked_sub(length) {
            None | Some(0) => Ok(()),
            Some(missing) => strings
                .allocate(length, missing)
                .map_err(|source| StoreError::io("strings.dat, growing", source)),
        }
    }

    /// Gives a name of the log its place; false when that is not behind those there are. It cannot be
    /// found before somebody uses it: [`Builder::used_name`].
    pub(super) fn place_name(&mut self, id: NameId, name: &[u8]) -> bool {
        let fits = id.0 == self.roots.strings_end;
        if fits {
            self.roots.strings_end = self.storage.strings.add(id, name);
        }
        fits
    }

    /// The id to use for a name that stands at `id`: another where it is found already, since a name
    /// that nobody used may have been forgotten, and stand there still.
    pub(super) fn used_name(&mut self, id: NameId, name: &[u8]) -> Result<NameId, StoreError> {
        if let Some(known) = self.roots.find_name(&self.storage, name)? {
            return Ok(known);
        }
        let hash = name_hash(&self.superblock.hash_seed, name);
        self.put(TreeId::Names, &name_key(hash, id), &[])?;
        Ok(id)
    }

    /// A new name's id.
    pub(super) fn name(&mut self, name: &[u8]) -> Result<NameId, StoreError> {
        if let Some(id) = self.roots.find_name(&self.storage, name)? {
            return Ok(id);
        }
        let id = NameId(self.roots.strings_end);
        self.storage.strings.reserve(id.0)?;
        self.roots
            .intern(&self.storage, id, name, &mut self.effects)?;
        Ok(id)
    }

    /// Writes what is in memory.
    fn write_out(&mut self) -> Result<(), StoreError> {
        self.reserve()?;
        let (pages, generation) = (&self.storage.pages, self.generation);
        let mut nodes = Vec::new();
        let mut place = || Ok(pages.allocate(generation));
        self.roots.freeze(
            &self.storage,
            generation,
            &mut place,
            &mut nodes,
            &mut self.effects,
        )?;
        pages.write(&nodes)?;
        // They are not written again: a page lost by the disk could not be told from its successor.
        pages.retire(&self.effects.freed);
        self.effects = Effects::default();
        self.roots.settle(&mut self.effects);
        // What takes the place of these pages is newer.
        self.generation = Generation(self.generation.0.saturating_add(1));
        Ok(())
    }

    fn reserve(&self) -> Result<(), StoreError> {
        let nodes = self.effects.dirtied + NODES_SPARE;
        self.storage.pages.reserve(nodes, Need::Reclaim)
    }

    /// Makes these trees the store's: see [`recovery::publish`].
    pub(super) fn publish(mut self, log: ScanReport, data: Vec<Change>) -> Result<(), StoreError> {
        self.reserve()?;
        self.storage.strings.reserve(self.roots.strings_end)?;
        self.storage.pages.retire(&self.effects.freed);
        self.effects.freed.clear();
        recovery::publish(Rebuilt {
            media: self.media,
            superblock: self.superblock,
            storage: self.storage,
            roots: self.roots,
            effects: self.effects,
            generation: self.generation,
            log,
            data,
        })
    }
}

/// Gets a key and its value.
pub(super) type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), StoreError> + 'a;

/// The trees at one moment.
pub(super) struct View {
    roots: Roots,
    storage: Arc<Storage>,
}

impl View {
    fn reading(&self) -> Reading<'_> {
        Reading {
            roots: &self.roots,
            storage: &self.storage,
        }
    }

    /// The value of a key.
    pub(super) fn get(&self, tree: TreeId, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.reading().get(tree, key)
    }

    /// The last entry of a tree.
    pub(super) fn last(&self, tree: TreeId) -> Result<Option<(Key, Vec<u8>)>, StoreError> {
        self.reading().floor(tree, &crate::fsck::KEYS_END)
    }

    /// A name.
    pub(super) fn name(&self, id: NameId) -> Result<Vec<u8>, StoreError> {
        self.reading().name(id)
    }

    /// Visits the records of a range in order; stops at the first error.
    pub(super) fn scan(
        &self,
        tree: TreeId,
        start: &[u8],
        end: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        let mut result = Ok(());
        self.reading().scan(tree, start, end, &mut |key, value| {
            result = visit(key, value);
            if result.is_ok() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        result
    }

    /// [`View::scan`] over a whole tree.
    pub(super) fn scan_all(&self, tree: TreeId, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.scan(tree, &[], &crate::fsck::KEYS_END, visit)
    }
}
