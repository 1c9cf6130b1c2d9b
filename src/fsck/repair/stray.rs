//! Pages that nothing points to, because what did was lost: searched for what the lost pages held.
//!
//! nodes.dat is full of old versions of pages, so what is found may be older than what was lost. The
//! newest page goes first, and the highest of a checkpoint. A record must be missed to be believed:
//! a chunk's content must match it, a name's inode and an extent's chunk must count more references
//! than were found. No number of an inode or a chunk is ever used twice, so a record that is too
//! old leads to nothing rather than to something else.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::found::Found;
use super::kin;
use super::load::{Loaded, history_of};
use super::salvaged::{Entered, Salvaged};
use crate::disk::Disk;
use crate::format::id::{DatasetId, Generation, PageNo};
use crate::format::key::{Key, Kind, TreeId};
use crate::format::page::{LEVEL_MAX, PAGE_BYTES, Page, TreeTag};
use crate::format::record::{
    ChunkRecord, DatasetCounters, DentryRecord, ExtentRecord, HistoryRecord, InodeRecord, PagePtr,
    Until,
};
use crate::fsck::pages::{Lost, Part, Walker};
use crate::fsck::projects::Projects;
use crate::fsck::split_u64;
use crate::store::StoreError;

/// A page that nothing points to, or a leaf of a related tree.
pub(super) struct Stray {
    pub(super) place: PagePtr,
    level: u8,
    pub(super) class: Class,
    tag: TreeTag,
    /// Its smallest and its largest key; of an inner page, of those that bound its children.
    pub(super) keys: Option<(Key, Key)>,
    /// It is part of another tree.
    pub(super) is_kin: bool,
}

impl Stray {
    /// The newest first, of a checkpoint those of the nearest timeline, of these the highest, and what
    /// no tree reaches before what another has.
    fn order(&self, history: &History) -> impl Ord + use<> {
        let newest = Reverse(self.place.generation);
        (newest, history.rank(self), Reverse(self.level), self.is_kin)
    }

    fn of_kin(place: PagePtr, page: &Page, class: Class) -> Option<Stray> {
        let mut keys = (0..page.len()).map(|index| Key::from_slice(page.key(index)));
        let first = keys.next()?;
        let last = keys.next_back().unwrap_or_else(|| first.clone());
        Some(Stray {
            place,
            level: page.level(),
            class,
            tag: page.tag(),
            keys: Some((first, last)),
            is_kin: true,
        })
    }
}

/// Leaves of related trees.
#[derive(Default)]
pub(super) struct Kin {
    leaves: Vec<Stray>,
    /// One cannot be read: what is found elsewhere may be older.
    pub(super) is_unreadable: bool,
}

impl Kin {
    /// Adds a leaf, if it may hold what one of these parts of a tree held.
    pub(super) fn add(&mut self, walker: &Walker, lost: &[Lost], leaf: &Part) {
        let (place, range) = leaf;
        let may_hold = |lost: &&Lost| place.generation <= lost.newest && lost.range.overlaps(range);
        let tree = lost.iter().find(may_hold).map(|lost| lost.tree);
        let Some(class) = tree.and_then(Class::of) else {
            return;
        };
        match walker.read(*place) {
            Ok(page) => self.leaves.extend(Stray::of_kin(*place, &page, class)),
            Err(_) => self.is_unreadable = true,
        }
    }
}

/// Which trees a record can be of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Datasets,
    Chunks,
    Fs,
}

impl Class {
    const ALL: [Class; 3] = [Class::Datasets, Class::Chunks, Class::Fs];

    pub(super) fn of(tree: TreeId) -> Option<Class> {
        match tree {
            TreeId::Datasets => Some(Class::Datasets),
            TreeId::Chunks => Some(Class::Chunks),
            TreeId::Fs(_) => Some(Class::Fs),
            _ => None,
        }
    }

    /// Whether a tree of this class can have the record.
    pub(super) fn has(self, key: &[u8], value: &[u8]) -> bool {
        match self {
            Class::Datasets => match key {
                [2, id @ ..] => id.len() == 8 && DatasetCounters::decode(value).is_ok(),
                [1, id @ ..] => id.len() == 8 && value.len() > 100,
                [3, ..] | [4] => value.len() == 8,
                _ => false,
            },
            Class::Chunks => {
                matches!(split_u64(key), Some((1.., []))) && ChunkRecord::decode(value).is_ok()
            }
            Class::Fs => match split_u64(key) {
                Some((0, [kind, rest @ ..])) => {
                    *kind == Kind::Orphan as u8 && rest.len() == 8 && value.is_empty()
                        || Kind::of_byte(*kind)
                            .and_then(|kind| Projects::default().take(kind, rest, value))
                            .is_some_and(|taken| taken.is_ok())
                }
                Some((_, [kind, rest @ ..])) => {
                    Kind::of_byte(*kind).is_some_and(|kind| is_of_kind(kind, rest, value))
                }
                _ => false,
            },
        }
    }
}

fn is_of_kind(kind: Kind, rest: &[u8], value: &[u8]) -> bool {
    match kind {
        Kind::Inode => rest.is_empty() && InodeRecord::decode(value).is_ok(),
        Kind::Symlink => rest.len() == 2,
        Kind::Xattr | Kind::XattrMore => !rest.is_empty(),
        Kind::Dentry => rest.len() == 8 && DentryRecord::decode(value).is_ok(),
        Kind::Extent => rest.len() == 8 && ExtentRecord::decode(value).is_ok(),
        Kind::Orphan | Kind::ProjectUse | Kind::ProjectLimit | Kind::ProjectsCounted => false,
    }
}

/// What is searched, and for what.
pub(super) struct Search {
    /// The tree that has lost something,
    pub(super) tree: TreeId,
    /// and the parts of which nothing is searched for.
    pub(super) but: HashSet<Part>,
    pub(super) kin: Kin,
    /// What says which pages are of which tree may be lost.
    pub(super) is_ambiguous: bool,
    /// Up to which generation the pages of other datasets are of this one's history.
    pub(super) common: BTreeMap<DatasetId, Generation>,
    /// The same of the pages of any tree.
    pub(super) history: History,
}

/// Which pages that nothing points to may be of a tree's history.
pub(super) struct History {
    /// Those of its timelines, its own first.
    pub(super) timelines: Vec<Pages>,
    /// The newest generation of all others.
    pub(super) others: Generation,
    /// What is older is part of no tree.
    pub(super) repaired: Generation,
    /// No other tree had pages from before there were tags.
    pub(super) has_untagged: bool,
}

/// Which pages with a tag a tree has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pages {
    pub(super) tag: TreeTag,
    /// Those of later checkpoints,
    pub(super) after: Generation,
    pub(super) until: Until,
}

impl History {
    /// That of a system tree.
    pub(super) fn of(tree: TreeId, repaired: Generation) -> Self {
        History {
            timelines: vec![Pages {
                tag: TreeTag::of(tree),
                after: Generation(0),
                until: Until::ALL,
            }],
            others: Generation(0),
            repaired,
            has_untagged: true,
        }
    }

    /// Whether a page may be of it. Of one without a tag that is not known.
    pub(super) fn has(&self, stray: &Stray) -> bool {
        let generation = stray.place.generation;
        let known = self.timelines.get(self.rank(stray));
        let is_known = match known {
            Some(of) => generation > of.after && generation <= of.until.newest,
            None => stray.tag == TreeTag::NONE || generation <= self.others,
        };
        generation >= self.repaired && is_known
    }

    /// How many timelines come before that of a page: the nearest goes first.
    fn rank(&self, stray: &Stray) -> usize {
        let mut timelines = self.timelines.iter();
        let found = timelines.position(|of| of.tag == stray.tag);
        found.unwrap_or(self.timelines.len())
    }

    /// Whether a page that may be of it may as well not be: it was written when the timeline may have
    /// gone on without the tree, or for one that is not known.
    pub(super) fn is_unsure(&self, stray: &Stray) -> bool {
        let known = self.timelines.get(self.rank(stray));
        match known {
            Some(of) => stray.place.generation > of.until.sure,
            None => stray.tag != TreeTag::NONE || !self.has_untagged,
        }
    }
}

/// All pages that no tree reaches, when any tree has lost something.
pub(super) struct Strays {
    pages: Vec<Stray>,
    rest: Rest,
}

impl Strays {
    /// Once all trees were walked.
    pub(super) fn find(loaded: &mut Loaded) -> Strays {
        let (pages, unreadable) = match loaded.walker.lost.is_empty() {
            true => (Vec::new(), 0),
            false => find(loaded),
        };
        let used = loaded.builder.superblock().nodes_used;
        loaded.walker.pass_by_known();
        let missing = used.saturating_sub(loaded.walker.pages());
        let rest = Rest {
            missing,
            unreadable,
        };
        Strays { pages, rest }
    }

    /// Whether a page was written for a tree.
    pub(super) fn has_any_of(&self, tag: TreeTag) -> bool {
        self.pages.iter().any(|stray| stray.tag == tag)
    }

    /// Histories that old pages of the table of datasets tell, the newest first.
    pub(super) fn histories(&self, walker: &Walker) -> Vec<(DatasetId, HistoryRecord)> {
        let is_leaf = |stray: &&Stray| stray.class == Class::Datasets && stray.level == 0;
        let mut leaves: Vec<&Stray> = self.pages.iter().filter(is_leaf).collect();
        leaves.sort_by_key(|stray| Reverse(stray.place.generation));
        let pages = leaves
            .into_iter()
            .filter_map(|leaf| walker.read(leaf.place).ok());
        let of_page = |page: Page| -> Vec<(DatasetId, HistoryRecord)> {
            let cells = 0..page.len();
            cells
                .filter_map(|index| history_of(page.key(index), page.value(index)))
                .collect()
        };
        pages.flat_map(of_page).collect()
    }

    /// Searches for what a tree has lost.
    pub(super) fn search(&self, loaded: &mut Loaded, of: &Search) -> Result<Salvaged, StoreError> {
        // What another tree found may be of both.
        for stray in &self.pages {
            loaded.walker.forget(stray.place.page);
        }
        let mut all: Vec<&Stray> = self.pages.iter().chain(&of.kin.leaves).collect();
        all.sort_by_cached_key(|stray| stray.order(&of.history));
        let mut salvaged = Salvaged::default();
        let mut entered = Entered::default();
        let mut of_kin = Vec::new();
        // Numbers from there on are others' inodes.
        let counters = kin::counters(&loaded.builder, of.tree)?;
        let next_ino = counters.map(|counters| counters.next_ino);
        let own = loaded.lost_by(of.tree).map(|lost| lost.place).collect();
        let mut parts = Vec::new();
        let mut next = 0;
        // What hangs below a root that was found may have lost something itself.
        while let Some(lost) = loaded.walker.lost.get(next) {
            next += 1;
            if lost.tree != of.tree || of.but.contains(&lost.part()) {
                continue;
            }
            let lost = lost.clone();
            let mut found = Found::new(&lost, &of.history, next_ino);
            for stray in &all {
                found.take(&mut loaded.walker, stray);
            }
            let may_be_old = self.rest.may_be_old(&lost)
                || of.kin.is_unreadable
                || found.is_unreadable
                || may_hide(loaded, &lost, &own, &of.common);
            let candidates = found.candidates(may_be_old, of.is_ambiguous);
            let (builder, before) = (&mut loaded.builder, entered.keys.len());
            of_kin.extend(candidates.enter(builder, of.tree, &|_| true, &mut entered)?);
            parts.push(before..entered.keys.len());
            entered.candidates.push(Arc::new(candidates));
        }
        kin::judge(&mut loaded.builder, of.tree, &of_kin, &mut entered)?;
        for (candidates, keys) in entered.candidates.iter().zip(parts) {
            let keys = entered.keys.get(keys).unwrap_or_default().iter();
            let left = keys.filter(|key| !entered.removed.contains(*key)).count();
            salvaged.fixes.extend(candidates.fix(of.tree, left));
        }
        entered.keys.retain(|key| !entered.removed.contains(key));
        salvaged.found.push(Arc::new(entered));
        Ok(salvaged)
    }
}

/// Whether a page that another tree has lost may have hung below what this one has lost, as one of
/// their common past: what no tree reaches was counted as unreadable.
fn may_hide(
    loaded: &Loaded,
    lost: &Lost,
    own: &HashSet<PagePtr>,
    common: &BTreeMap<DatasetId, Generation>,
) -> bool {
    let is_common = |other: &Lost| match other.tree {
        TreeId::Fs(id) => common
            .get(&id)
            .is_some_and(|until| other.place.generation <= *until),
        _ => false,
    };
    loaded.walker.lost.iter().any(|other| {
        is_common(other)
            && other.place.generation <= lost.newest
            && other.range.overlaps(&lost.range)
            && !own.contains(&other.place)
    })
}

/// What is known of the pages that could not be reached.
struct Rest {
    /// Pages that the trees have and that were not reached.
    missing: u64,
    /// Pages that are not whole, and may have been of a tree.
    unreadable: u64,
}

impl Rest {
    /// Whether what is found for a lost part may be older than what was lost: not when only what
    /// pointed to it was lost.
    fn may_be_old(&self, lost: &Lost) -> bool {
        let above_leaves = lost.unrooted
            || match lost.level {
                Some(level) => level > 0,
                None => self.missing > 0,
            };
        !above_leaves || self.unreadable > 0
    }
}

/// All pages that are whole and that no tree reaches; and how many are not whole.
fn find(loaded: &Loaded) -> (Vec<Stray>, u64) {
    let disk = &*loaded.builder.media().nodes;
    let pages = disk.len_bytes() / PAGE_BYTES as u64;
    let superblock = loaded.builder.superblock();
    let end = superblock.nodes_end.0.min(pages);
    let mut strays: Vec<Stray> = Vec::new();
    let mut unreadable = 0;
    for page in (1..end).map(PageNo) {
        if loaded.walker.is_reached(page) {
            continue;
        }
        match read_stray(disk, page) {
            // One of a later checkpoint never counted.
            Some(Some(stray)) if stray.place.generation <= superblock.generation => {
                strays.push(stray);
            }
            Some(_) => {}
            None => unreadable += 1,
        }
    }
    (strays, unreadable)
}

fn read_bytes(disk: &dyn Disk, page: PageNo) -> Option<Box<[u8; PAGE_BYTES]>> {
    let mut bytes = Box::new([0; PAGE_BYTES]);
    let offset = page.0.checked_mul(PAGE_BYTES as u64)?;
    disk.read_at(offset, bytes.as_mut_slice()).ok()?;
    Some(bytes)
}

/// The page, if it is whole; and what it is good for, if anything.
fn read_stray(disk: &dyn Disk, number: PageNo) -> Option<Option<Stray>> {
    let (page, generation) = Page::decode_stray(read_bytes(disk, number)?, number).ok()?;
    // The first key of an inner page stands for all that is smaller.
    let mut keys =
        (usize::from(page.level() > 0)..page.len()).map(|index| Key::from_slice(page.key(index)));
    let first = keys.next();
    let last = keys.next_back().or_else(|| first.clone());
    let place = PagePtr {
        page: number,
        generation,
    };
    let (level, tag, keys) = (page.level(), page.tag(), first.zip(last));
    Some(class(disk, page).map(|class| Stray {
        place,
        level,
        class,
        tag,
        keys,
        is_kin: false,
    }))
}

/// The class of a page: by its tag, or by the records of the first leaf below it that can be read.
fn class(disk: &dyn Disk, mut page: Page) -> Option<Class> {
    let tag = page.tag();
    if tag != TreeTag::NONE {
        let system = [TreeId::Datasets, TreeId::Chunks].into_iter();
        let tree = system.into_iter().find(|tree| tag == TreeTag::of(*tree));
        let of_dataset = tag.is_of_dataset().then_some(Class::Fs);
        return tree.and_then(Class::of).or(of_dataset);
    }
    for _ in 0..=LEVEL_MAX {
        if page.level() == 0 {
            let has_all = |class: &Class| {
                !page.is_empty()
                    && (0..page.len()).all(|index| class.has(page.key(index), page.value(index)))
            };
            return Class::ALL.into_iter().find(has_all);
        }
        page = (0..page.len()).find_map(|index| {
            let child = page.child(index);
            Page::decode(read_bytes(disk, child.page)?, child).ok()
        })?;
    }
    None
}
