//! Every page of every tree of the newest checkpoint, as it lies on disk.
//!
//! A page is checked against what points to it (address, generation, level, range of keys), and no
//! page may be reached twice.

use std::sync::Arc;

use super::{Bytes, Issue, Issues};
use crate::disk::Media;
use crate::format::id::{DatasetId, Generation, PageNo};
use crate::format::key::{TreeId, trailing_u64};
use crate::format::page::Page;
use crate::format::record::{DatasetRecord, PagePtr};
use crate::format::superblock::Superblock;
use crate::store::pages::PageStore;

/// The first byte of the key of a dataset's record.
const DATASET_RECORD: u8 = 1;

/// Checks all pages.
pub(super) fn check(media: &Media, superblock: &Superblock, issues: &mut Issues<'_>) {
    let words = usize::try_from(superblock.nodes_end.0.div_ceil(64)).unwrap_or(usize::MAX);
    // A superblock whose checksum is right does not say more pages than the file can have.
    let limit = usize::try_from(media.nodes.len_bytes() / 4096 / 64 + 1).unwrap_or(usize::MAX);
    let mut walker = Walker {
        store: PageStore::new(Arc::clone(&media.nodes), superblock.nodes_end, 0, 0),
        end: superblock.nodes_end,
        reached: vec![0; words.min(limit)],
        shared: false,
        datasets: Vec::new(),
        pages: 0,
        complete: true,
    };
    for (tree, root) in TreeId::SYSTEM.iter().zip(superblock.roots) {
        walker.walk(*tree, root, superblock.generation, issues);
    }
    let datasets = std::mem::take(&mut walker.datasets);
    // Snapshots and clones share pages with what they are of.
    walker.shared = datasets
        .iter()
        .any(|(_, record)| record.snapshot_of.0 != 0 || record.origin.0 != 0);
    for (id, record) in datasets {
        walker.walk(TreeId::Fs(id), record.root, superblock.generation, issues);
    }
    issues.summary.pages = walker.pages;
    if walker.complete && walker.pages != superblock.nodes_used {
        issues.add(Issue::PageCount {
            found: walker.pages,
            recorded: superblock.nodes_used,
        });
    }
}

struct Walker {
    store: PageStore,
    end: PageNo,
    /// A bit for each page.
    reached: Vec<u64>,
    shared: bool,
    datasets: Vec<(DatasetId, DatasetRecord)>,
    pages: u64,
    complete: bool,
}

/// A page to look at, and what is known of it.
struct Pending {
    place: PagePtr,
    /// `None` for a root.
    level: Option<u8>,
    /// The newest checkpoint it may be of: that of what points to it.
    newest: Generation,
    low: Vec<u8>,
    high: Option<Vec<u8>>,
}

impl Walker {
    fn walk(&mut self, tree: TreeId, root: PagePtr, newest: Generation, issues: &mut Issues<'_>) {
        if root == PagePtr::EMPTY {
            return;
        }
        let mut pending = vec![Pending {
            place: root,
            level: None,
            newest,
            low: Vec::new(),
            high: None,
        }];
        while let Some(next) = pending.pop() {
            let before = issues.summary.errors;
            if let Some(page) = self.load(tree, &next, issues) {
                self.check_page(tree, &next, &page, issues);
                self.descend(tree, &next, &page, &mut pending);
            }
            self.complete &= issues.summary.errors == before;
        }
    }

    /// Reads a page unless it was reached before or cannot be one.
    fn load(&mut self, tree: TreeId, next: &Pending, issues: &mut Issues<'_>) -> Option<Page> {
        let PagePtr { page, generation } = next.place;
        if page >= self.end || page.0 == 0 {
            let end = self.end;
            issues.add(Issue::PageBeyondEnd { tree, page, end });
            return None;
        }
        if generation > next.newest {
            issues.add(Issue::PageGeneration {
                tree,
                page,
                found: generation,
                newest: next.newest,
            });
        }
        if !self.mark(page) {
            if !self.shared {
                issues.add(Issue::PageTwice { tree, page });
            }
            return None;
        }
        self.pages += 1;
        match self.store.read(next.place) {
            Ok(read) => Some(read),
            Err(error) => {
                let reason = error.to_string();
                issues.add(Issue::PageUnreadable { tree, page, reason });
                None
            }
        }
    }

    fn mark(&mut self, page: PageNo) -> bool {
        let word = usize::try_from(page.0 / 64)
            .ok()
            .and_then(|word| self.reached.get_mut(word));
        // Beyond the end of the file: reading it fails and says so.
        let Some(word) = word else { return true };
        let bit = 1 << (page.0 % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    fn check_page(&self, tree: TreeId, next: &Pending, page: &Page, issues: &mut Issues<'_>) {
        let number = next.place.page;
        if let Some(expected) = next.level
            && expected != page.level()
        {
            issues.add(Issue::PageLevel {
                tree,
                page: number,
                expected,
                found: page.level(),
            });
        }
        // The root of a tree that lost its last record may be an empty leaf.
        if page.is_empty() && (next.level.is_some() || page.level() > 0) {
            issues.add(Issue::PageEmpty { tree, page: number });
        }
        // The first key of an internal page stands for all that is smaller than the second.
        let first = usize::from(page.level() > 0);
        let outside = (first..page.len())
            .map(|index| page.key(index))
            .find(|key| {
                *key < next.low.as_slice() || next.high.as_deref().is_some_and(|high| *key >= high)
            });
        if let Some(key) = outside {
            issues.add(Issue::PageKey {
                tree,
                page: number,
                key: Bytes(key.to_vec()),
            });
        }
    }

    fn descend(&mut self, tree: TreeId, next: &Pending, page: &Page, pending: &mut Vec<Pending>) {
        if page.level() == 0 {
            if tree == TreeId::Datasets {
                self.collect_datasets(page);
            }
            return;
        }
        // A page of a wrong level was reported; its children could lead anywhere.
        if next.level.is_some_and(|level| level != page.level()) {
            return;
        }
        for index in (0..page.len()).rev() {
            let low = match index {
                0 => next.low.clone(),
                _ => page.key(index).to_vec(),
            };
            let high = match index + 1 < page.len() {
                true => Some(page.key(index + 1).to_vec()),
                false => next.high.clone(),
            };
            pending.push(Pending {
                place: page.child(index),
                level: Some(page.level() - 1),
                newest: next.place.generation,
                low,
                high,
            });
        }
    }

    /// Remembers the datasets' roots; records that cannot be read are reported with the records.
    fn collect_datasets(&mut self, page: &Page) {
        for index in 0..page.len() {
            let key = page.key(index);
            if key.first() != Some(&DATASET_RECORD) {
                continue;
            }
            if let (Ok(id), Ok(record)) =
                (trailing_u64(key), DatasetRecord::decode(page.value(index)))
            {
                self.datasets.push((DatasetId(id), record));
            }
        }
    }
}
