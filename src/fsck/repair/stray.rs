//! Pages that nothing points to, because what did was lost: searched for what the lost pages held.
//!
//! nodes.dat is full of old versions of pages, so what is found may be older than what was lost. The
//! newest page goes first, and the highest of a checkpoint. A record must be missed to be believed:
//! a chunk's content must match it, a name's inode and an extent's chunk must count more references
//! than were found. No number of an inode or a chunk is ever used twice, so a record that is too
//! old leads to nothing rather than to something else.

use std::collections::HashMap;

use super::Fixes;
use super::fix::Fix;
use super::load::{Loaded, walk};
use super::missed::Missed;
use crate::disk::Disk;
use crate::format::id::{Ino, PageNo};
use crate::format::key::{Key, Kind, TreeId};
use crate::format::page::{LEVEL_MAX, PAGE_BYTES, Page};
use crate::format::record::{
    ChunkRecord, DatasetCounters, DentryRecord, ExtentRecord, InodeRecord, PagePtr,
};
use crate::fsck::inodes::kind_of;
use crate::fsck::pages::{Lost, Walker};
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
                }
                Some((_, [kind, rest @ ..])) => {
                    kind_of(*kind).is_some_and(|kind| is_of_kind(kind, rest, value))
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
        Kind::Orphan => false,
    }
}

/// Searches for what was lost.
pub(super) fn salvage(loaded: &mut Loaded, fixes: &mut Fixes<'_>) -> Result<(), StoreError> {
    if loaded.walker.lost.is_empty() {
        return Ok(());
    }
    let strays = find(loaded);
    loaded.walker.pass_by_known();
    let mut next = 0;
    // What hangs below a root that was found may have lost something itself.
    while let Some(lost) = loaded.walker.lost.get(next).cloned() {
        next += 1;
        let mut found = Found::new(&lost);
        for stray in &strays {
            found.take(&mut loaded.walker, stray)?;
        }
        found.enter(loaded, fixes)?;
    }
    Ok(())
}

/// All pages that are whole and that no tree reaches, the newest and highest first.
fn find(loaded: &Loaded) -> Vec<Stray> {
    let disk = &*loaded.builder.media().nodes;
    let pages = disk.len_bytes() / PAGE_BYTES as u64;
    let superblock = loaded.builder.superblock();
    let end = superblock.nodes_end.0.min(pages);
    let mut strays: Vec<Stray> = (1..end)
        .map(PageNo)
        .filter(|page| !loaded.walker.is_reached(*page))
        .filter_map(|page| read_stray(disk, page))
        // One of a later checkpoint never counted.
        .filter(|stray| stray.place.generation <= superblock.generation)
        .collect();
    strays.sort_by_key(|stray| std::cmp::Reverse((stray.place.generation, stray.level)));
    strays
}

fn read_bytes(disk: &dyn Disk, page: PageNo) -> Option<Box<[u8; PAGE_BYTES]>> {
    let mut bytes = Box::new([0; PAGE_BYTES]);
    let offset = page.0.checked_mul(PAGE_BYTES as u64)?;
    disk.read_at(offset, bytes.as_mut_slice()).ok()?;
    Some(bytes)
}

fn read_stray(disk: &dyn Disk, number: PageNo) -> Option<Stray> {
    let (page, generation) = Page::decode_stray(read_bytes(disk, number)?, number).ok()?;
    // The first key of an inner page stands for all that is smaller.
    let mut keys =
        (usize::from(page.level() > 0)..page.len()).map(|index| page.key(index).to_vec());
    let first = keys.next();
    let last = keys.last().or_else(|| first.clone());
    Some(Stray {
        place: PagePtr {
            page: number,
            generation,
        },
        level: page.level(),
        keys: first.zip(last),
        class: class(disk, page)?,
    })
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

/// Records found for a lost part of a tree.
struct Found<'a> {
    lost: &'a Lost,
    records: HashMap<Key, Vec<u8>>,
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
        let (told, records) = (&self.told, &mut self.records);
        let mut span: Option<(Key, Key)> = None;
        let lost_before = walker.lost.len();
        walk(walker, &of, stray.place, &mut |key, value| {
            let span = span.get_or_insert_with(|| (key.to_vec(), Key::new()));
            span.1 = key.to_vec();
            let is_told = told
                .iter()
                .any(|(first, last)| first.as_slice() <= key && key <= last.as_slice());
            if !is_told && stray.class.has(key, value) {
                records
                    .entry(key.to_vec())
                    .or_insert_with(|| value.to_vec());
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
    fn enter(self, loaded: &mut Loaded, fixes: &mut Fixes<'_>) -> Result<(), StoreError> {
        let tree = self.lost.tree;
        let mut records: Vec<(Key, Vec<u8>)> = self.records.into_iter().collect();
        records.retain(|(key, _)| !loaded.removed.contains(&(tree, key.clone())));
        // What refers to something comes behind it, and is asked whether it is missed there.
        records.sort_unstable_by(|a, b| (turn(tree, &a.0), &a.0).cmp(&(turn(tree, &b.0), &b.0)));
        if records.is_empty() {
            return Ok(());
        }
        let mut missed = Missed::count(&loaded.builder, tree)?;
        let mut entered = 0;
        for (key, value) in &records {
            let known = loaded.builder.view().get(tree, key)?.is_some();
            if !known && (self.rooted || missed.misses(&loaded.builder, tree, key, value)?) {
                loaded.builder.put(tree, key, value)?;
                entered += 1;
                if let (TreeId::Fs(_), Some((ino, _))) = (tree, split_u64(key)) {
                    fixes.harmed.insert(Ino(ino));
                }
            }
        }
        if entered > 0 {
            let records = entered;
            fixes.add(Fix::StrayRecords { tree, records });
        }
        Ok(())
    }
}

/// Inodes come before what belongs to them and names them.
fn turn(tree: TreeId, key: &[u8]) -> u8 {
    let is_inode = || matches!(split_u64(key), Some((_, [kind])) if *kind == Kind::Inode as u8);
    u8::from(matches!(tree, TreeId::Fs(_)) && !is_inode())
}
