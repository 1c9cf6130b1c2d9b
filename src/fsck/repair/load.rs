//! What can still be read: the trees of the newest checkpoint, page by page, and the log.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Fixes;
use super::build::{Builder, Visit};
use super::fix::Fix;
use super::lenient::Lenient;
use crate::disk::Media;
use crate::format::id::{DatasetId, Generation, Lsn, TxId};
use crate::format::key::{Key, TreeId, trailing_u64};
use crate::format::page::Page;
use crate::format::record::{
    DATASET_DOOMED, DatasetRecord, PagePtr, Time, UNREACHED_KEY, counters_key, dataset_key,
    dataset_name_key,
};
use crate::format::superblock::Superblock;
use crate::fsck::pages::{Lost, Range, Walker};
use crate::fsck::{Issues, Summary};
use crate::log::Change;
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
    /// Keys that the log removed and that no page held: of a page that was lost.
    pub(super) removed: BTreeSet<(TreeId, Key)>,
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
    let log = scan(&mut |_, _, _| Ok(()))?;
    if let Some(damage) = &log.damage {
        fixes.add(Fix::LogCut { at: damage.at });
    }
    let mut loaded = Loaded {
        builder: Builder::new(media, superblock, cache_bytes),
        walker: Walker::new(media, superblock, progress),
        log,
        data: Vec::new(),
        removed: BTreeSet::new(),
    };
    loaded.load_trees(superblock, fixes)?;
    loaded.builder.extend_strings()?;
    scan(&mut |_, _, changes| loaded.redo(changes, fixes))?;
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
fn dataset_of(key: &[u8]) -> Option<DatasetId> {
    let id = DatasetId(trailing_u64(key).ok()?);
    (*key == *dataset_key(id)).then_some(id)
}

impl Loaded {
    fn load_trees(
        &mut self,
        superblock: &Superblock,
        fixes: &mut Fixes<'_>,
    ) -> Result<(), StoreError> {
        let whole = |tree| Lost {
            tree,
            range: Range::default(),
            newest: superblock.generation,
            unrooted: false,
            level: None,
        };
        let mut records = Vec::new();
        let tree = TreeId::Datasets;
        let root = root_of(superblock, tree);
        walk(&mut self.walker, &whole(tree), root, &mut |key, value| {
            records.push((key.to_vec(), value.to_vec()));
            Ok(())
        })?;
        if records.iter().any(|(key, _)| key == UNREACHED_KEY) {
            self.walker.read_shared();
        }
        let mut roots = Vec::new();
        let doomed: Vec<Key> = records
            .iter()
            .filter(|(_, value)| is_doomed(value))
            .filter_map(|(key, _)| dataset_of(key).map(counters_key))
            .collect();
        for (key, value) in records {
            match (dataset_of(&key), DatasetRecord::decode(&value)) {
                // Of one that was deleted nothing is wanted any more, and content may be gone.
                (Some(_), Ok(_)) if is_doomed(&value) => {}
                (None, _) if doomed.iter().any(|counters| **counters == *key) => {}
                (Some(id), Ok(record)) => {
                    roots.push((id, record.root));
                    self.put_dataset(id, record)?;
                }
                (Some(id), Err(error)) => fixes.add(Fix::RecordDropped {
                    tree: TreeId::Datasets,
                    what: format!("the record of dataset {id}"),
                    reason: error.to_string(),
                }),
                // Counters and names are made anew, but the next inode number is kept.
                (None, _) => self.builder.put(TreeId::Datasets, &key, &value)?,
            }
        }
        let id = DatasetId::MAIN;
        if !roots.iter().any(|(each, _)| *each == id) {
            fixes.add(Fix::DatasetMade(id));
            self.put_dataset(id, new_dataset(superblock))?;
            self.walker.lost.push(Lost {
                unrooted: true,
                ..whole(TreeId::Fs(id))
            });
        }
        let mut trees = vec![(TreeId::Chunks, root_of(superblock, TreeId::Chunks))];
        trees.extend(roots.iter().map(|(id, root)| (TreeId::Fs(*id), *root)));
        let builder = &mut self.builder;
        for (tree, root) in trees {
            walk(&mut self.walker, &whole(tree), root, &mut |key, value| {
                builder.put(tree, key, value)
            })?;
        }
        self.tell_lost(fixes);
        Ok(())
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
        for change in changes {
            match change {
                Change::Put { tree, key, value } => self.redo_put(tree, &key, &value, fixes)?,
                Change::Delete { tree, key } => {
                    if self.is_kept(tree)? && !self.builder.delete(tree, &key)? {
                        self.removed.insert((tree, key));
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
                    if self.is_kept(TreeId::Fs(from))? && self.is_kept(TreeId::Fs(to))? {
                        self.builder.copy_tree(from, to)?;
                    }
                }
                Change::Data { .. } | Change::DataClear { .. } => self.data.push(change),
            }
        }
        Ok(())
    }

    fn redo_put(
        &mut self,
        tree: TreeId,
        key: &[u8],
        value: &[u8],
        fixes: &mut Fixes<'_>,
    ) -> Result<(), StoreError> {
        if !self.is_kept(tree)? {
            return Ok(());
        }
        self.removed.remove(&(tree, Key::from_slice(key)));
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

    /// Whether a tree is not derived from others, and of a dataset that is there.
    fn is_kept(&self, tree: TreeId) -> Result<bool, StoreError> {
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
