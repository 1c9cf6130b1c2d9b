//! Pages that nothing points to, because what did was lost: searched for what the lost pages held.
//!
//! nodes.dat is full of old versions of pages, so what is found may be older than what was lost. The
//! newest page goes first, and the highest of a checkpoint. A record must be missed to be believed:
//! a chunk's content must match it, a name's inode and an extent's chunk must count more references
//! than were found. No number of an inode or a chunk is ever used twice, so a record that is too
//! old leads to nothing rather than to something else.

use std::collections::{BTreeMap, HashMap};

use super::Fixes;
use super::build::Builder;
use super::fix::Fix;
use super::load::{Loaded, walk};
use super::missed::Missed;
use crate::disk::Disk;
use crate::format::id::{Ino, PageNo};
use crate::format::key::{self, Key, Kind, TreeId, trailing_u64};
use crate::format::page::{LEVEL_MAX, PAGE_BYTES, Page};
use crate::format::record::{
    ChunkRecord, DatasetCounters, DentryRecord, ExtentRecord, InodeRecord, PagePtr,
};
use crate::fsck::pages::{Lost, Walker};
use crate::fsck::projects::Projects;
use crate::fsck::split_u64;
use crate::store::StoreError;

/// A page that nothing points to.
struct Stray {
    place: PagePtr,
    level: u8,
    class: Class,
    /// Its smallest and its largest key; of an inner page, of those that bound its children.
    keys: Option<(Key, Key)>,
}

/// Which trees a record can be of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Datasets,
    Chunks,
    Fs,
}

impl Class {
    const ALL: [Class; 3] = [Class::Datasets, Class::Chunks, Class::Fs];

    fn of(tree: TreeId) -> Option<Class> {
        match tree {
            TreeId::Datasets => Some(Class::Datasets),
            TreeId::Chunks => Some(Class::Chunks),
            TreeId::Fs(_) => Some(Class::Fs),
            _ => None,
        }
    }

    /// Whether a tree of this class can have the record.
    fn has(self, key: &[u8], value: &[u8]) -> bool {
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

/// Searches for what was lost.
pub(super) fn salvage(loaded: &mut Loaded, fixes: &mut Fixes<'_>) -> Result<(), StoreError> {
    if loaded.walker.lost.is_empty() {
        return Ok(());
    }
    let (strays, unreadable) = find(loaded);
    let used = loaded.builder.superblock().nodes_used;
    let rest = Rest {
        missing: used.saturating_sub(loaded.walker.pages()),
        unreadable,
    };
    loaded.walker.pass_by_known();
    let mut next = 0;
    // What hangs below a root that was found may have lost something itself.
    while let Some(lost) = loaded.walker.lost.get(next).cloned() {
        next += 1;
        let mut found = Found::new(&lost);
        for stray in &strays {
            found.take(&mut loaded.walker, stray)?;
        }
        found.enter(loaded, &rest, fixes)?;
    }
    Ok(())
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

/// All pages that are whole and that no tree reaches, the newest and highest first; and how many
/// are not whole.
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
    strays.sort_by_key(|stray| std::cmp::Reverse((stray.place.generation, stray.level)));
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
    let (level, keys) = (page.level(), first.zip(last));
    Some(class(disk, page).map(|class| Stray {
        place,
        level,
        class,
        keys,
    }))
}

/// The class of a page, by the records of the first leaf below it that can be read.
fn class(disk: &dyn Disk, mut page: Page) -> Option<Class> {
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

/// A record of an old page.
struct Record {
    rank: usize,
    key: Key,
    value: Vec<u8>,
}

/// Records found for a lost part of a tree.
struct Found<'a> {
    lost: &'a Lost,
    /// The records, and how many pages were newer than the one each was on.
    records: HashMap<Key, (usize, Vec<u8>)>,
    pages: usize,
    /// Ranges of keys, first and last, that newer pages told all about.
    told: Vec<(Key, Key)>,
    /// The newest root there is was found: all below it belongs.
    rooted: bool,
}

impl<'a> Found<'a> {
    fn new(lost: &'a Lost) -> Self {
        Found {
            lost,
            records: HashMap::new(),
            pages: 0,
            told: Vec::new(),
            rooted: false,
        }
    }

    fn may_hold(&self, walker: &Walker, stray: &Stray) -> bool {
        let range = &self.lost.range;
        let fits = stray
            .keys
            .as_ref()
            .is_none_or(|(first, last)| range.contains(first) && range.contains(last));
        fits && !self.rooted
            && Class::of(self.lost.tree) == Some(stray.class)
            && stray.place.generation <= self.lost.newest
            && !walker.is_reached(stray.place.page)
    }

    /// Takes what a page and those below it hold, if it is of this part of the tree.
    fn take(&mut self, walker: &mut Walker, stray: &Stray) -> Result<(), StoreError> {
        if !self.may_hold(walker, stray) {
            return Ok(());
        }
        let of = Lost {
            newest: stray.place.generation,
            ..self.lost.clone()
        };
        self.pages += 1;
        let (told, records, rank) = (&self.told, &mut self.records, self.pages);
        let mut span: Option<(Key, Key)> = None;
        let lost_before = walker.lost.len();
        walk(walker, &of, stray.place, &mut |key, value| {
            let span = span.get_or_insert_with(|| (Key::from_slice(key), Key::new()));
            span.1 = Key::from_slice(key);
            let is_told = told
                .iter()
                .any(|(first, last)| first.as_slice() <= key && key <= last.as_slice());
            if !is_told && stray.class.has(key, value) {
                records
                    .entry(Key::from_slice(key))
                    .or_insert_with(|| (rank, value.to_vec()));
            }
            Ok(())
        })?;
        self.told.extend(span);
        // A tree changes from its leaves to its root: the newest page there is is the root.
        self.rooted = self.lost.unrooted && !self.told.is_empty();
        if !self.rooted {
            // Where an old page pointed to is of no interest.
            walker.lost.truncate(lost_before);
        }
        Ok(())
    }

    /// Enters what was found, as far as it is missed.
    fn enter(
        self,
        loaded: &mut Loaded,
        rest: &Rest,
        fixes: &mut Fixes<'_>,
    ) -> Result<(), StoreError> {
        let tree = self.lost.tree;
        let mut records: Vec<Record> = self
            .records
            .into_iter()
            .filter(|(key, _)| !loaded.removed.contains(&(tree, key.clone())))
            .map(|(key, (rank, value))| Record { rank, key, value })
            .collect();
        if records.is_empty() {
            return Ok(());
        }
        // What refers to something comes behind it, and is asked whether it is missed there. Of a
        // file's extents those of newer pages come first.
        records.sort_by_cached_key(|record| {
            let file = file_of(tree, &record.key);
            let rank = file.map_or(0, |_| record.rank);
            (turn(tree, &record.key), file, rank, record.key.clone())
        });
        let may_be_old = rest.may_be_old(self.lost);
        let mut missed = Missed::count(&loaded.builder, tree)?;
        let mut entered = 0;
        for of_one in records.chunk_by(|a, b| same_file(tree, &a.key, &b.key)) {
            let file = of_one.first().and_then(|record| file_of(tree, &record.key));
            let file = file.filter(|_| !self.rooted);
            let mut taken = match file {
                Some(ino) => Taken::of(&loaded.builder, tree, ino)?,
                None => Taken::default(),
            };
            let mut wanted = Vec::new();
            for record in of_one {
                let Record { key, value, .. } = record;
                let known = loaded.builder.view().get(tree, key)?.is_some();
                let fits = !known && (file.is_none() || taken.is_free(key, value));
                if fits && (self.rooted || missed.misses(&loaded.builder, tree, key, value)?) {
                    taken.take(key, value);
                    wanted.push(record);
                }
            }
            // Some of an older version would fill the wrong places.
            if let Some(ino) = file
                && !taken.is_all_of(&loaded.builder, tree, ino)?
            {
                continue;
            }
            for Record { key, value, .. } in wanted {
                loaded.builder.put(tree, key, value)?;
                entered += 1;
                // Extents were counted: they are all of the file's, or none of them is here.
                if may_be_old && file.is_none() {
                    fixes.note_old(tree, key);
                }
            }
        }
        if entered > 0 {
            let records = entered;
            fixes.add(Fix::StrayRecords {
                tree,
                records,
                may_be_old,
            });
        }
        Ok(())
    }
}

/// Inodes come before what belongs to them and names them.
fn turn(tree: TreeId, key: &[u8]) -> u8 {
    let is_inode = || matches!(split_u64(key), Some((_, [kind])) if *kind == Kind::Inode as u8);
    u8::from(matches!(tree, TreeId::Fs(_)) && !is_inode())
}

/// Whether both are extents of one file.
fn same_file(tree: TreeId, a: &[u8], b: &[u8]) -> bool {
    file_of(tree, a).is_some_and(|file| file_of(tree, b) == Some(file))
}

/// The file that a record is an extent of.
fn file_of(tree: TreeId, key: &[u8]) -> Option<Ino> {
    match (tree, split_u64(key)) {
        (TreeId::Fs(_), Some((ino, [kind, ..]))) if *kind == Kind::Extent as u8 => Some(Ino(ino)),
        _ => None,
    }
}

/// A file's extents: those that are there, and those that are taken from old pages.
#[derive(Default)]
struct Taken {
    /// Ends by starts.
    extents: BTreeMap<u64, u64>,
    bytes: u64,
}

impl Taken {
    fn of(builder: &Builder, tree: TreeId, ino: Ino) -> Result<Self, StoreError> {
        let mut taken = Taken::default();
        let (start, end) = key::kind_range(ino, Kind::Extent);
        builder.view().scan(tree, &start, &end, &mut |key, value| {
            taken.take(key, value);
            Ok(())
        })?;
        Ok(taken)
    }

    fn range(key: &[u8], value: &[u8]) -> (u64, u64) {
        let start = trailing_u64(key).unwrap_or(0);
        let len = ExtentRecord::decode(value).map_or(0, |extent| extent.len);
        (start, start.saturating_add(len))
    }

    fn take(&mut self, key: &[u8], value: &[u8]) {
        let (start, end) = Self::range(key, value);
        self.extents.insert(start, end);
        self.bytes = self.bytes.saturating_add(end - start);
    }

    /// Whether nothing is where an extent would be.
    fn is_free(&self, key: &[u8], value: &[u8]) -> bool {
        let (start, end) = Self::range(key, value);
        let before = self.extents.range(..end).next_back();
        before.is_none_or(|(_, until)| *until <= start)
    }

    /// Whether the file has as many bytes in extents as it says.
    fn is_all_of(&self, builder: &Builder, tree: TreeId, ino: Ino) -> Result<bool, StoreError> {
        let value = builder.view().get(tree, &key::inode(ino))?;
        let record = value.and_then(|value| InodeRecord::decode(&value).ok());
        Ok(record.is_some_and(|record| record.allocated == self.bytes))
    }
}
