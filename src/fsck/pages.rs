//! Every page of every tree of the newest checkpoint, as it lies on disk.
//!
//! A page is checked against what points to it (address, generation, level, range of keys), and no
//! page may be reached twice.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Bytes, Issue, Issues};
use crate::disk::Media;
use crate::format::id::{DatasetId, Generation, PageNo};
use crate::format::key::{TreeId, trailing_u64};
use crate::format::page::{PAGE_BYTES, Page};
use crate::format::record::{DatasetRecord, PagePtr, UNREACHED_KEY};
use crate::format::superblock::Superblock;
use crate::progress::Progress;
use crate::store::StoreError;
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
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

    /// Whether there may be keys that lie in both.
    pub(super) fn overlaps(&self, other: &Range) -> bool {
        let ends_before =
            |one: &Range, other: &Range| one.high.as_ref().is_some_and(|high| *high <= other.low);
        !ends_before(self, other) && !ends_before(other, self)
    }
}

/// A part of a tree: what a page that cannot be believed held.
#[derive(Debug, Clone)]
pub(super) struct Lost {
    pub(super) tree: TreeId,
    /// The page; [`PagePtr::EMPTY`] where nothing tells which it was.
    pub(super) place: PagePtr,
    pub(super) range: Range,
    /// The checkpoint that wrote the page, or a later one: nothing below it is newer.
    pub(super) newest: Generation,
    /// What pointed to it was lost; the page itself may be whole.
    pub(super) unrooted: bool,
    /// The page's level; `None` for a root.
    pub(super) level: Option<u8>,
}

impl Lost {
    /// All of a tree, of the checkpoint `newest`.
    pub(super) fn whole(tree: TreeId, root: PagePtr, newest: Generation) -> Self {
        Lost {
            tree,
            place: root,
            range: Range::default(),
            newest,
            unrooted: false,
            level: None,
        }
    }

    /// The page, and the keys that it may have held.
    pub(super) fn part(&self) -> Part {
        (self.place, self.range.clone())
    }
}

/// A page of a tree, and the keys that it may hold there.
pub(super) type Part = (PagePtr, Range);

/// The pages of a tree.
#[derive(Default)]
pub(super) struct Outline {
    /// Those above the leaves.
    pub(super) inner: Vec<PagePtr>,
    pub(super) leaves: Vec<Part>,
    /// What cannot be read.
    pub(super) lost: Vec<Lost>,
}

/// Gets each leaf that can be believed, in the order of its tree, and the keys that it may hold.
pub(super) type Leaf<'a> = dyn FnMut(TreeId, &Page, &Range) + 'a;

/// Gets each part below a page that nothing points to, in the order of the tree.
pub(super) type OldLeaf<'a> = dyn FnMut(Old<'_>) + 'a;

/// A part of what hangs below a page that nothing points to.
pub(super) enum Old<'a> {
    Leaf {
        page: &'a Page,
        /// The keys that it may hold.
        range: &'a Range,
        /// It was reached before.
        is_shared: bool,
    },
    /// What cannot be believed.
    Gone,
}

/// Walks trees from their roots, past pages that cannot be believed.
pub(super) struct Walker {
    store: PageStore,
    end: PageNo,
    newest: Generation,
    /// A bit for each page.
    reached: Vec<u64>,
    /// Those of them that cannot be believed.
    bad: HashSet<PagePtr>,
    /// Those above leaves that can, where they are looked at again: reading them may fail then.
    inner: Kept,
    again: Again,
    pages: u64,
    progress: Progress,
    /// Nothing was reported.
    sound: bool,
    /// What could not be read.
    pub(super) lost: Vec<Lost>,
}

/// Pages that are looked at again, as many as there is room for.
#[derive(Default)]
struct Kept {
    pages: HashMap<PagePtr, Page>,
    most: usize,
}

impl Kept {
    fn keep(&mut self, place: PagePtr, page: &Page) {
        if self.pages.len() < self.most {
            self.pages.entry(place).or_insert_with(|| page.clone());
        }
    }
}

/// What is done about a page that was reached before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    /// No two trees share pages.
    Wrong,
    PassBy,
    /// What it points to is another part of this tree. A leaf was handed over, or is lost here too.
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
            bad: HashSet::new(),
            inner: Kept::default(),
            again: Again::Wrong,
            pages: 0,
            progress: progress.clone(),
            sound: true,
            lost: Vec::new(),
        }
    }

    /// Walks one tree.
    fn walk(&mut self, tree: TreeId, root: PagePtr, issues: &mut Issues<'_>, leaf: &mut Leaf<'_>) {
        self.walk_range(&Lost::whole(tree, root, self.newest), root, issues, leaf);
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
        let mut inner = HashSet::new();
        while let Some(next) = pending.pop() {
            let before = issues.summary.errors;
            match self.load(tree, &next, issues) {
                // Below a page that a tree has twice and again twice lies more than can be walked.
                Found::Page(page) if page.level() > 0 && !inner.insert(next.place) => {
                    let page = next.place.page;
                    issues.add(Issue::PageTwice { tree, page });
                    self.lost.push(lost(tree, next));
                }
                Found::Page(page) => {
                    self.check_page(tree, &next, &page, issues);
                    self.descend(tree, next, &page, &mut pending, leaf);
                }
                Found::Shared => {}
                Found::Bad => self.lost.push(lost(tree, next)),
            }
            self.sound &= issues.summary.errors == before;
        }
    }

    /// Walks what hangs below a page that nothing points to, but what is told already; also what is
    /// part of a tree, since that page says of it that it was this one's. What was `walked` before is
    /// left out. What cannot be believed.
    pub(super) fn walk_old(
        &mut self,
        of: &Lost,
        root: PagePtr,
        walked: &mut HashSet<PagePtr>,
        is_told: &dyn Fn(&Range) -> bool,
        leaf: &mut OldLeaf<'_>,
    ) -> Vec<Lost> {
        let mut gone = Vec::new();
        let mut pending = vec![Pending {
            place: root,
            level: None,
            newest: of.newest,
            range: of.range.clone(),
        }];
        while let Some(next) = pending.pop() {
            let place = next.place;
            if is_told(&next.range) {
                continue;
            }
            let is_shared = !self.mark(place.page);
            let may_be = place.page < self.end
                && place.page.0 > 0
                && place.generation <= next.newest
                && !self.bad.contains(&place);
            let page = may_be.then(|| self.read(place).ok()).flatten();
            let is_right = |page: &Page| {
                next.level.is_none_or(|level| level == page.level())
                    && (page.level() == 0 || walked.insert(place))
            };
            match page.filter(is_right) {
                None => {
                    leaf(Old::Gone);
                    gone.push(lost(of.tree, next));
                }
                Some(page) if page.level() == 0 => leaf(Old::Leaf {
                    page: &page,
                    range: &next.range,
                    is_shared,
                }),
                Some(page) => pending.extend(children(&page, place, &next.range)),
            }
        }
        gone
    }

    /// The pages of a tree that was walked, as far as they can be reached, past inner pages that
    /// were `seen` before. Reads what is above the leaves.
    pub(super) fn outline(
        &self,
        tree: TreeId,
        root: PagePtr,
        seen: &mut HashSet<PagePtr>,
    ) -> Outline {
        let mut outline = Outline::default();
        let mut pending = vec![Pending {
            place: root,
            level: None,
            newest: self.newest,
            range: Range::default(),
        }];
        while let Some(next) = pending.pop() {
            let place = next.place;
            if place.page >= self.end || place.page.0 == 0 {
                continue;
            }
            if self.bad.contains(&place) {
                outline.lost.push(lost(tree, next));
                continue;
            }
            if next.level == Some(0) {
                outline.leaves.push((place, next.range));
                continue;
            }
            if seen.contains(&place) {
                continue;
            }
            match self.read(place) {
                Err(_) => outline.lost.push(lost(tree, next)),
                Ok(page) if page.level() == 0 => outline.leaves.push((place, next.range)),
                Ok(page) => {
                    outline.inner.push(place);
                    seen.insert(place);
                    pending.extend(children(&page, place, &next.range));
                }
            }
        }
        outline
    }

    /// Gives up what could be read when the tree was walked, and now cannot.
    pub(super) fn give_up(&mut self, lost: Lost) {
        self.bad.insert(lost.place);
        self.lost.push(lost);
    }

    /// Keeps what is above the leaves of datasets from now on, as far as it is part of a tree, in so
    /// much memory.
    pub(super) fn keep_inner(&mut self, bytes: u64) {
        let pages = bytes / PAGE_BYTES as u64;
        self.inner.most = usize::try_from(pages).unwrap_or(usize::MAX);
    }

    /// Reads a page that could be read before, unless it was kept: a disk may fail for a moment.
    pub(super) fn read(&self, place: PagePtr) -> Result<Page, StoreError> {
        match self.inner.pages.get(&place) {
            Some(page) => Ok(page.clone()),
            None => self.store.read(place).or_else(|_| self.store.read(place)),
        }
    }

    /// How many pages were reached.
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    /// Passes by pages that are part of a tree already: old pages may point to them too.
    pub(super) fn pass_by_known(&mut self) {
        self.again = Again::PassBy;
    }

    /// Goes through pages that several trees share for each of them, but for leaves. Levels go
    /// down, so it ends all the same.
    pub(super) fn read_shared(&mut self) {
        self.again = Again::Read;
    }

    /// Has a page count as not reached.
    pub(super) fn forget(&mut self, page: PageNo) {
        let word = usize::try_from(page.0 / 64).ok();
        if let Some(word) = word.and_then(|word| self.reached.get_mut(word)) {
            *word &= !(1 << (page.0 % 64));
        }
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
            (false, Again::Read) if self.bad.contains(&next.place) => return Found::Bad,
            (false, Again::Read) if next.level != Some(0) => {}
            (false, Again::Read | Again::PassBy) => return Found::Shared,
            (false, Again::Wrong) => {
                issues.add(Issue::PageTwice { tree, page });
                return Found::Bad;
            }
        }
        let kept = self.inner.pages.get(&next.place);
        match kept.map_or_else(|| self.store.read(next.place), |page| Ok(page.clone())) {
            Ok(page) => {
                // Old pages are looked at once.
                if page.level() > 0 && self.again != Again::PassBy && matches!(tree, TreeId::Fs(_))
                {
                    self.inner.keep(next.place, &page);
                }
                Found::Page(page)
            }
            Err(error) => {
                self.bad.insert(next.place);
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
            self.bad.insert(next.place);
            return self.lost.push(lost(tree, next));
        }
        if page.level() == 0 {
            return leaf(tree, page, &next.range);
        }
        pending.extend(children(page, next.place, &next.range));
    }
}

/// A page that cannot be believed, as a part of its tree.
fn lost(tree: TreeId, page: Pending) -> Lost {
    Lost {
        tree,
        newest: page.place.generation.min(page.newest),
        unrooted: false,
        level: page.level,
        place: page.place,
        range: page.range,
    }
}

/// What an inner page at `place` points to, the last first. `range` is that of its keys.
fn children(page: &Page, place: PagePtr, range: &Range) -> impl Iterator<Item = Pending> {
    (0..page.len()).rev().map(move |index| {
        let low = match index {
            0 => range.low.clone(),
            _ => page.key(index).to_vec(),
        };
        let high = match index + 1 < page.len() {
            true => Some(page.key(index + 1).to_vec()),
            false => range.high.clone(),
        };
        Pending {
            place: page.child(index),
            level: Some(page.level() - 1),
            newest: place.generation,
            range: Range { low, high },
        }
    })
}
