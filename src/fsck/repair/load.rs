//! What can still be read: the trees of the newest checkpoint, page by page, and the log.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::Fixes;
use super::build::{Builder, Visit};
use super::datasets::is_of;
use super::family::Family;
use super::fix::Fix;
use super::lenient::Lenient;
use super::salvaged::Salvaged;
use super::trees::{self, Tree};
use crate::disk::Media;
use crate::format::id::{DatasetId, Generation, Lsn, TxId};
use crate::format::key::{Key, TreeId, trailing_u64};
use crate::format::page::Page;
use crate::format::record::{
    DATASET_DOOMED, DatasetRecord, HISTORY_KIND, HistoryRecord, LINEAGE_KIND, PagePtr,
    REPAIRED_KEY, Time, UNREACHED_KEY, counters_key, dataset_key, dataset_name_key,
};
use crate::format::superblock::Superblock;
use crate::fsck::pages::{Lost, Outline, Part, Range, Walker};
use crate::fsck::{Issues, Summary};
use crate::log::Change;
use crate::log::recovery;
use crate::log::wal::{self, ScanReport};
use crate::progress::Progress;
use crate::store::StoreError;

/// What was read, in new trees, and what could not be.
pub(super) struct Loaded {
    pub(super) builder: Builder,
    pub(super) walker: Walker,
    pub(super) log: ScanReport,
    /// File bytes of the log that no chunk holds yet.
    pub(super) data: Vec<Change>,
    /// The trees that lost something.
    pub(super) salvaged: BTreeMap<TreeId, Salvaged>,
}

/// Reads the log, and the trees of `superblock` that are not derived from others.
pub(super) fn load(
    media: &Media,
    superblock: &Superblock,
    cache_bytes: u64,
    progress: &Progress,
    fixes: &mut Fixes<'_>,
) -> Result<Loaded, StoreError> {
    progress.begin("reading pages", superblock.nodes_used);
    mend_log_headers(media, superblock, fixes)?;
    let disk = Lenient(Arc::clone(&media.wal));
    let from = (superblock.checkpoint_lsn, superblock.next_tx);
    let scan = |sink: &mut Sink<'_>| wal::scan(&disk, superblock.log_key(), from.0, from.1, sink);
    let mut newest = superblock.generation;
    let log = scan(&mut |_, _, changes| {
        newest = newest.max(recovery::youngest(&changes));
        Ok(())
    })?;
    if let Some(damage) = &log.damage {
        fixes.add(Fix::LogCut { at: damage.at });
    }
    let mut loaded = Loaded {
        builder: Builder::new(media, superblock, newest, cache_bytes / 2),
        walker: Walker::new(media, superblock, progress),
        log,
        data: Vec::new(),
        salvaged: BTreeMap::new(),
    };
    loaded.walker.keep_inner(cache_bytes / 2);
    loaded.load_trees(superblock, progress, fixes)?;
    loaded.builder.extend_strings()?;
    scan(&mut |_, _, changes| loaded.redo(changes, fixes))?;
    trees::judge_again(&mut loaded)?;
    for salvaged in loaded.salvaged.values_mut() {
        salvaged.fixes.drain(..).for_each(|fix| fixes.add(fix));
    }
    if !loaded.is_kept(TreeId::Fs(DatasetId::MAIN))? {
        fixes.add(Fix::DatasetMade(DatasetId::MAIN));
        loaded.put_dataset(DatasetId::MAIN, new_dataset(superblock))?;
    }
    Ok(loaded)
}

/// Gets each transaction of the log.
type Sink<'a> = dyn FnMut(TxId, Lsn, Vec<Change>) -> Result<(), StoreError> + 'a;

/// Walks a tree past what cannot be believed, and hands over the records of its leaves.
pub(super) fn walk(
    walker: &mut Walker,
    from: &Lost,
    root: PagePtr,
    visit: &mut Visit<'_>,
) -> Result<(), StoreError> {
    let mut issues = Issues {
        report: &mut |_| {},
        summary: Summary::default(),
    };
    let mut result = Ok(());
    let mut leaf = |_, page: &Page, range: &Range| {
        for index in 0..page.len() {
            if result.is_ok() && range.contains(page.key(index)) {
                result = visit(page.key(index), page.value(index));
            }
        }
    };
    walker.walk_range(from, root, &mut issues, &mut leaf);
    result
}

fn mend_log_headers(
    media: &Media,
    superblock: &Superblock,
    fixes: &mut Fixes<'_>,
) -> Result<(), StoreError> {
    let from = (superblock.checkpoint_lsn, superblock.next_tx);
    let mended = wal::mend_header(&*media.wal, superblock.uuid, superblock.log_bytes, from)?;
    for copy in &mended {
        fixes.add(Fix::LogHeader { copy: *copy });
    }
    if mended.len() == 2 {
        fixes.add(Fix::LogHeadersLost);
    }
    Ok(())
}

/// A dataset of nothing.
fn new_dataset(superblock: &Superblock) -> DatasetRecord {
    let created = Time {
        sec: superblock.created_sec,
        nsec: 0,
    };
    DatasetRecord::new("main", superblock.uuid, Generation(1), created)
}

/// Whether a value is the record of a dataset that is deleted.
fn is_doomed(value: &[u8]) -> bool {
    DatasetRecord::decode(value).is_ok_and(|record| record.flags & DATASET_DOOMED != 0)
}

/// The dataset that a key of the dataset tree is the record of.
pub(super) fn dataset_of(key: &[u8]) -> Option<DatasetId> {
    let id = DatasetId(trailing_u64(key).ok()?);
    (*key == *dataset_key(id)).then_some(id)
}

/// The dataset that a record is the history of, and that history.
pub(super) fn history_of(key: &[u8], value: &[u8]) -> Option<(DatasetId, HistoryRecord)> {
    let id = trailing_u64(key)
        .ok()
        .filter(|_| is_of(HISTORY_KIND, key))?;
    Some((DatasetId(id), HistoryRecord::decode(value).ok()?))
}

/// Whether a key says what trees share.
fn is_sharing(tree: TreeId, key: &[u8]) -> bool {
    tree == TreeId::Datasets
        && (key == UNREACHED_KEY
            || is_of(LINEAGE_KIND, key)
            || is_of(HISTORY_KIND, key)
            || key == REPAIRED_KEY)
}

impl Loaded {
    /// Loads the trees as of the newest checkpoint, with what is found of their lost parts.
    fn load_trees(
        &mut self,
        superblock: &Superblock,
        progress: &Progress,
        fixes: &mut Fixes<'_>,
    ) -> Result<(), StoreError> {
        let whole = |tree, root| Lost::whole(tree, root, superblock.generation);
        let mut records = Vec::new();
        let tree = TreeId::Datasets;
        let root = root_of(superblock, tree);
        let of = whole(tree, root);
        walk(&mut self.walker, &of, root, &mut |key, value| {
            records.push((key.to_vec(), value.to_vec()));
            Ok(())
        })?;
        // What says that trees share pages may have been lost.
        let is_sharing = records.iter().any(|(key, _)| key == UNREACHED_KEY);
        if is_sharing || !self.walker.lost.is_empty() {
            self.walker.read_shared();
        }
        let family = Family::of(&records);
        let generation = self.builder.generation().0.to_le_bytes();
        self.builder.put(tree, REPAIRED_KEY, &generation)?;
        let found = self.load_datasets(records, fixes)?;
        let id = DatasetId::MAIN;
        if !found.iter().any(|tree| tree.id == id) {
            fixes.add(Fix::DatasetMade(id));
            self.put_dataset(id, new_dataset(superblock))?;
            self.walker.lost.push(Lost {
                unrooted: true,
                ..whole(TreeId::Fs(id), PagePtr::EMPTY)
            });
        }
        let root = root_of(superblock, TreeId::Chunks);
        let of = whole(TreeId::Chunks, root);
        let builder = &mut self.builder;
        walk(&mut self.walker, &of, root, &mut |key, value| {
            builder.put(of.tree, key, value)
        })?;
        // What no tree reaches is known behind the last page only.
        for tree in &found {
            let of = whole(TreeId::Fs(tree.id), tree.root);
            walk(&mut self.walker, &of, tree.root, &mut |_, _| Ok(()))?;
        }
        self.tell_lost(fixes);
        trees::load(self, found, family, progress, fixes)
    }

    /// Enters the datasets, without their trees, and says where these are.
    fn load_datasets(
        &mut self,
        records: Vec<(Vec<u8>, Vec<u8>)>,
        fixes: &mut Fixes<'_>,
    ) -> Result<Vec<Tree>, StoreError> {
        let mut found = Vec::new();
        let doomed: Vec<Key> = records
            .iter()
            .filter(|(_, value)| is_doomed(value))
            .filter_map(|(key, _)| dataset_of(key).map(counters_key))
            .collect();
        for (key, value) in &records {
            match (dataset_of(key), DatasetRecord::decode(value)) {
                // Of one that was deleted nothing is wanted any more, and content may be gone.
                (Some(_), Ok(_)) if is_doomed(value) => {}
                (None, _) if doomed.iter().any(|counters| **counters == **key) => {}
                (Some(id), Ok(record)) => {
                    let root = record.root;
                    found.push(Tree { id, root });
                    self.put_dataset(id, record)?;
                }
                (Some(id), Err(error)) => fixes.add(Fix::RecordDropped {
                    tree: TreeId::Datasets,
                    what: format!("the record of dataset {id}"),
                    reason: error.to_string(),
                }),
                // What the new trees share is up to them.
                (None, _) if is_sharing(TreeId::Datasets, key) => {}
                // Counters and names are made anew, but the next inode number is kept.
                (None, _) => self.builder.put(TreeId::Datasets, key, value)?,
            }
        }
        Ok(found)
    }

    /// Enters a dataset without its root: its tree is made anew.
    fn put_dataset(&mut self, id: DatasetId, record: DatasetRecord) -> Result<(), StoreError> {
        let record = DatasetRecord {
            root: PagePtr::EMPTY,
            ..record
        };
        let name = dataset_name_key(&record.name);
        self.builder
            .put(TreeId::Datasets, &dataset_key(id), &record.encode())?;
        self.builder
            .put(TreeId::Datasets, &name, &id.0.to_le_bytes())
    }

    fn tell_lost(&self, fixes: &mut Fixes<'_>) {
        let trees: BTreeSet<TreeId> = self.walker.lost.iter().map(|lost| lost.tree).collect();
        for tree in trees {
            let pages = self.walker.lost.iter().filter(|lost| lost.tree == tree);
            let pages = pages.count() as u64;
            fixes.add(Fix::PagesLost { tree, pages });
        }
    }

    /// Applies a transaction of the log as far as it fits the trees.
    fn redo(&mut self, changes: Vec<Change>, fixes: &mut Fixes<'_>) -> Result<(), StoreError> {
        // Of which tree a deleted one is a copy: a clone of a dataset is one of a snapshot without
        // a name.
        let mut copy_of = BTreeMap::new();
        let mut timelines = BTreeMap::new();
        for change in changes {
            match change {
                Change::Put { tree, key, value } => {
                    let history = history_of(&key, &value).filter(|_| tree == TreeId::Datasets);
                    timelines.extend(history.map(|(id, history)| (id, history.timeline)));
                    self.redo_put(tree, &key, &value, fixes)?;
                }
                Change::Delete { tree, key } => {
                    if self.is_kept(tree)? && !is_sharing(tree, &key) {
                        self.builder.delete(tree, &key)?;
                        self.note_changed(tree, &key, false);
                    }
                }
                Change::Intern { id, name } => {
                    if !self.builder.place_name(id, &name) {
                        fixes.add(Fix::RecordDropped {
                            tree: TreeId::Names,
                            what: format!("name {id} of the log"),
                            reason: "it does not follow the names there are".into(),
                        });
                    }
                }
                Change::CopyTree { from, to, .. } => {
                    let from = copy_of.get(&from).copied().unwrap_or(from);
                    if !self.is_kept(TreeId::Fs(to))? {
                        copy_of.insert(to, from);
                    } else if self.is_kept(TreeId::Fs(from))? {
                        // The number that was given away for it, or for the one that got the tree it
                        // had. Snapshots get their own here.
                        let aside = || copy_of.iter().find(|(_, of)| **of == to);
                        let is_snapshot = self.is_snapshot(to)?;
                        let given = timelines.get(&to).copied();
                        let given = given.filter(|_| !is_snapshot);
                        let given = given.or_else(|| Some(aside()?.0.0));
                        let timeline = given.unwrap_or(to.0);
                        self.builder.copy_tree(from, to, timeline)?;
                        self.lose_the_same(TreeId::Fs(from), TreeId::Fs(to));
                    }
                }
                Change::Data { .. } | Change::DataClear { .. } => self.data.push(change),
            }
        }
        Ok(())
    }

    fn is_snapshot(&self, id: DatasetId) -> Result<bool, StoreError> {
        let view = self.builder.view();
        let found = view.get(TreeId::Datasets, &dataset_key(id))?;
        let record = found.and_then(|value| DatasetRecord::decode(&value).ok());
        Ok(record.is_some_and(|record| record.snapshot_of.0 != 0))
    }

    fn redo_put(
        &mut self,
        tree: TreeId,
        key: &[u8],
        value: &[u8],
        fixes: &mut Fixes<'_>,
    ) -> Result<(), StoreError> {
        if !self.is_kept(tree)? || is_sharing(tree, key) {
            return Ok(());
        }
        self.note_changed(tree, key, true);
        match dataset_of(key).filter(|_| tree == TreeId::Datasets) {
            None => self.builder.put(tree, key, value),
            Some(id) => match DatasetRecord::decode(value) {
                Ok(_) if is_doomed(value) => {
                    self.builder.delete(tree, &counters_key(id))?;
                    self.builder.delete(tree, key).map(|_| ())
                }
                Ok(record) => self.put_dataset(id, record),
                Err(error) => {
                    fixes.add(Fix::RecordDropped {
                        tree,
                        what: format!("the record of dataset {id}"),
                        reason: error.to_string(),
                    });
                    Ok(())
                }
            },
        }
    }

    /// Notes that the log changed a tree.
    fn note_changed(&mut self, tree: TreeId, key: &[u8], is_there: bool) {
        if let Some(salvaged) = self.salvaged.get_mut(&tree) {
            salvaged.note_changed(Key::from_slice(key), is_there);
        }
    }

    /// What a tree has lost, a copy of it has lost too.
    fn lose_the_same(&mut self, from: TreeId, to: TreeId) {
        let lost: Vec<Lost> = self
            .lost_by(from)
            .map(|lost| Lost {
                tree: to,
                ..lost.clone()
            })
            .collect();
        self.walker.lost.retain(|lost| lost.tree != to);
        self.walker.lost.extend(lost);
        match self.salvaged.get(&from) {
            Some(salvaged) => {
                let salvaged = Salvaged {
                    fixes: Vec::new(),
                    ..salvaged.clone()
                };
                self.salvaged.insert(to, salvaged);
            }
            None => drop(self.salvaged.remove(&to)),
        }
    }

    /// The parts that a tree has lost.
    pub(super) fn lost_by(&self, tree: TreeId) -> impl Iterator<Item = &Lost> {
        let lost = self.walker.lost.iter();
        lost.filter(move |lost| lost.tree == tree)
    }

    /// Whether a tree has lost anything.
    pub(super) fn has_lost(&self, tree: TreeId) -> bool {
        self.lost_by(tree).next().is_some()
    }

    /// What could be read when a tree was walked, and now cannot.
    pub(super) fn failed(&self, tree: TreeId, now: &Outline) -> Vec<Lost> {
        let known: HashSet<Part> = self.lost_by(tree).map(Lost::part).collect();
        let failed = now.lost.iter().filter(|lost| !known.contains(&lost.part()));
        failed.cloned().collect()
    }

    /// Whether a tree is not derived from others, and of a dataset that is there.
    pub(super) fn is_kept(&self, tree: TreeId) -> Result<bool, StoreError> {
        match tree {
            TreeId::Datasets | TreeId::Chunks => Ok(true),
            TreeId::Fs(id) => {
                let record = self
                    .builder
                    .view()
                    .get(TreeId::Datasets, &dataset_key(id))?;
                Ok(record.is_some())
            }
            _ => Ok(false),
        }
    }
}

/// The root of a system tree.
pub(super) fn root_of(superblock: &Superblock, tree: TreeId) -> PagePtr {
    let index = TreeId::SYSTEM.iter().position(|each| *each == tree);
    let root = index.and_then(|index| superblock.roots.get(index));
    root.copied().unwrap_or(PagePtr::EMPTY)
}
