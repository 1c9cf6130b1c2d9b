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
use crate::format::record::{DatasetRecord, PagePtr, UNREACHED_KEY};
use crate::format::superblock::Superblock;
use crate::progress::Progress;
use crate::store::pages::PageStore;

/// The first byte of the key of a dataset's record.
const DATASET_RECORD: u8 = 1;

/// Checks all pages.
pub(super) fn check(
    media: &Media,
    superblock: &Superblock,
    progress: &Progress,
    issues: &mut Issues<'_>,
) {
    progress.begin("reading pages", superblock.nodes_used);
    let mut datasets = Vec::new();
    let mut may_be_unreached = false;
    let mut leaf = |tree: TreeId, page: &Page, _: &Range| {
        if tree == TreeId::Datasets {
            collect_datasets(page, &mut datasets);
            may_be_unreached |= page.search(UNREACHED_KEY).is_ok();
        }
    };
    let mut walker = Walker::new(media, superblock, progress);
    for (tree, root) in TreeId::SYSTEM.iter().zip(superblock.roots) {
        walker.walk(*tree, root, issues, &mut leaf);
    }
    // Snapshots and clones share pages with what they are of.
    if may_be_unreached {
        walker.again = Again::PassBy;
    }
    for (id, record) in datasets {
        walker.walk(TreeId::Fs(id), record.root, issues, &mut |_, _, _| {});
    }
    issues.summary.pages = walker.pages;
    // What deleted trees had is counted until it is found.
    let counted = match superblock.nodes_used.checked_sub(walker.pages) {
        Some(more) => more == 0 || may_be_unreached,
        None => false,
    };
    if walker.lost.is_empty() && walker.sound && !counted {
        issues.add(Issue::PageCount {
            found: walker.pages,
            recorded: superblock.nodes_used,
        });
    }
}

/// Remembers the datasets' roots; records that cannot be read are reported with the records.
fn collect_datasets(page: &Page, datasets: &mut Vec<(DatasetId, DatasetRecord)>) {
    for index in 0..page.len() {
        let key = page.key(index);
        if key.first() != Some(&DATASET_RECORD) {
            continue;
        }
        if let (Ok(id), Ok(record)) = (trailing_u64(key), DatasetRecord::decode(page.value(index)))
        {
            datasets.push((DatasetId(id), record));
        }
    }
}

/// The keys that a page may hold.
#[derive(Debug, Clone, Default)]
pub(super) struct Range {
    pub(super) low: Vec<u8>,
    /// `None` for no bound.
    pub(super) high: Option<Vec<u8>>,
}

impl Range {
    /// Whether a key lies in it.
    pub(super) fn contains(&self, key: &[u8]) -> bool {
        key >= self.low.as_slice() && self.high.as_deref().is_none_or(|high| key < high)
    }
}

/// A part of a tree: what a page that cannot be believed held.
#[derive(Debug, Clone)]
pub(super) struct Lost {
    pub(super) tree: TreeId,
    pub(super) range: Range,
    /// The checkpoint that wrote the page, or a later one: nothing below it is newer.
    pub(super) newest: Generation,
    /// What pointed to it was lost; the page itself may be whole.
    pub(super) unrooted: bool,
    /// The page's level; `None` for a root.
    pub(super) level: Option<u8>,
}

/// Gets each leaf that can be believed, in the order of its tree, and the keys that it may hold.
pub(super) type Leaf<'a> = dyn FnMut(TreeId, &Page, &Range) + 'a;

/// Walks trees from their roots, past pages that cannot be believed.
pub(super) struct Walker {
    store: PageStore,
    end: PageNo,
    newest: Generation,
    /// A bit for each page.
    reached: Vec<u64>,
    again: Again,
    pages: u64,
    progress: Progress,
    /// Nothing was reported.
    sound: bool,
    /// What could not be read.
    pub(super) lost: Vec<Lost>,
}

/// What is done about a page that was reached before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    /// No two trees share pages.
    Wrong,
    PassBy,
    Read,
}

/// A page to look at, and what is known of it.
struct Pending {
    place: PagePtr,
    /// `None` for a root.
    level: Option<u8>,
    /// The newest checkpoint it may be of: that of what points to it.
    newest: Generation,
    range: Range,
}

/// What stands where a page should be.
enum Found {
    Page(Page),
    /// Part of another tree too, which was walked before.
    Shared,
    Bad,
}

impl Walker {
    /// For the trees of the newest checkpoint.
    pub(super) fn new(media: &Media, superblock: &Superblock, progress: &Progress) -> Walker {
        let words = usize::try_from(superblock.nodes_end.0.div_ceil(64)).unwrap_or(usize::MAX);
        // A superblock whose checksum is right does not say more pages than the file can have.
        let limit = usize::try_from(media.nodes.len_bytes() / 4096 / 64 + 1).unwrap_or(usize::MAX);
        Walker {
            store: PageStore::new(Arc::clone(&media.nodes), superblock.nodes_end, 0, 0),
            end: superblock.nodes_end,
            newest: superblock.generation,
            reached: vec![0; words.min(limit)],
            again: Again::Wrong,
            pages: 0,
            progress: progress.clone(),
            sound: true,
            lost: Vec::new(),
        }
    }

    /// Walks one tree.
    fn walk(&mut self, tree: TreeId, root: PagePtr, issues: &mut Issues<'_>, leaf: &mut Leaf<'_>) {
        let whole = Lost {
            tree,
            range: Range::default(),
            newest: self.newest,
            unrooted: false,
            level: None,
        };
        self.walk_range(&whole, root, issues, leaf);
    }

    /// Walks a tree, or the part of it that a page at any level stands for.
    pub(super) fn walk_range(
        &mut self,
        of: &Lost,
        root: PagePtr,
        issues: &mut Issues<'_>,
        leaf: &mut Leaf<'_>,
    ) {
        if root == PagePtr::EMPTY {
            return;
        }
        let tree = of.tree;
        let mut pending = vec![Pending {
            place: root,
            level: None,
            newest: of.newest,
            range: of.range.clone(),
        }];
        while let Some(next) = pending.pop() {
            let before = issues.summary.errors;
            match self.load(tree, &next, issues) {
                Found::Page(page) => {
                    self.check_page(tree, &next, &page, issues);
                    self.descend(tree, next, &page, &mut pending, leaf);
                }
                Found::Shared => {}
                Found::Bad => self.lose(tree, next),
            }
            self.sound &= issues.summary.errors == before;
        }
    }

    fn lose(&mut self, tree: TreeId, page: Pending) {
        self.lost.push(Lost {
            tree,
            range: page.range,
            newest: page.place.generation.min(page.newest),
            unrooted: false,
            level: page.level,
        });
    }

    /// How many pages were reached.
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    /// Passes by pages that are part of a tree already: old pages may point to them too.
    pub(super) fn pass_by_known(&mut self) {
        self.again = Again::PassBy;
    }

    /// Reads pages that several trees share for each of them. Levels go down, so it ends all the
    /// same.
    pub(super) fn read_shared(&mut self) {
        self.again = Again::Read;
    }

    /// Whether a page is part of a tree, as far as they could be walked.
    pub(super) fn is_reached(&self, page: PageNo) -> bool {
        usize::try_from(page.0 / 64)
            .ok()
            .and_then(|word| self.reached.get(word))
            .is_some_and(|word| word & (1 << (page.0 % 64)) != 0)
    }

    /// Reads a page unless it was reached before or cannot be one.
    fn load(&mut self, tree: TreeId, next: &Pending, issues: &mut Issues<'_>) -> Found {
        let PagePtr { page, generation } = next.place;
        if page >= self.end || page.0 == 0 {
            let end = self.end;
            issues.add(Issue::PageBeyondEnd { tree, page, end });
            return Found::Bad;
        }
        if generation > next.newest {
            issues.add(Issue::PageGeneration {
                tree,
                page,
                found: generation,
                newest: next.newest,
            });
        }
        match (self.mark(page), self.again) {
            (true, _) => {
                self.pages += 1;
                self.progress.add(1);
            }
            (false, Again::Read) => {}
            (false, Again::PassBy) => return Found::Shared,
            (false, Again::Wrong) => {
                issues.add(Issue::PageTwice { tree, page });
                return Found::Bad;
            }
        }
        match self.store.read(next.place) {
            Ok(read) => Found::Page(read),
            Err(error) => {
                let reason = error.to_string();
                issues.add(Issue::PageUnreadable { tree, page, reason });
                Found::Bad
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
            .find(|key| !next.range.contains(key));
        if let Some(key) = outside {
            issues.add(Issue::PageKey {
                tree,
                page: number,
                key: Bytes(key.to_vec()),
            });
        }
    }

    fn descend(
        &mut self,
        tree: TreeId,
        next: Pending,
        page: &Page,
        pending: &mut Vec<Pending>,
        leaf: &mut Leaf<'_>,
    ) {
        // A page of a wrong level was reported; its children could lead anywhere.
        if next.level.is_some_and(|level| level != page.level()) {
            return self.lose(tree, next);
        }
        if page.level() == 0 {
            return leaf(tree, page, &next.range);
        }
        for index in (0..page.len()).rev() {
            let low = match index {
                0 => next.range.low.clone(),
                _ => page.key(index).to_vec(),
            };
            let high = match index + 1 < page.len() {
                true => Some(page.key(index + 1).to_vec()),
                false => next.range.high.clone(),
            };
            pending.push(Pending {
                place: page.child(index),
                level: Some(page.level() - 1),
                newest: next.place.generation,
                range: Range { low, high },
            });
        }
    }
}
