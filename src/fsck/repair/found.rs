//! What pages that nothing points to tell of a lost part of a tree, and which of it is missed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;

use super::build::Builder;
use super::fix::Fix;
use super::missed::Missed;
use super::salvaged::Entered;
use super::stray::{Class, History, Stray};
use crate::format::id::Ino;
use crate::format::key::{self, Key, Kind, TreeId, trailing_u64};
use crate::format::record::{DentryRecord, ExtentRecord, InodeRecord, PagePtr};
use crate::fsck::pages::{Lost, Old, Range, Walker};
use crate::fsck::split_u64;
use crate::store::StoreError;

/// A record of an old page.
#[derive(Debug)]
struct Record {
    /// How many pages were newer than the one it was on.
    rank: usize,
    key: Key,
    value: Vec<u8>,
    /// It is of a related tree's leaf, which this tree may have replaced.
    of_kin: Option<IsDoubtful>,
}

/// Whether a related tree's leaf cannot be this tree's too.
type IsDoubtful = bool;

/// A record that a related tree has.
pub(super) struct OfKin {
    pub(super) key: Key,
    /// The inode that it names.
    pub(super) named: Option<Ino>,
    /// It stood on a page that cannot be this tree's too, though all that was lost stands on whole
    /// ones.
    pub(super) is_doubtful: bool,
}

/// Records found for a lost part of a tree.
pub(super) struct Found<'a> {
    lost: &'a Lost,
    /// Whose pages may be of the tree.
    history: &'a History,
    /// The number of the tree's next inode.
    next_ino: Option<u64>,
    /// The records by their keys.
    records: HashMap<Key, Record>,
    /// How many pages were newer than the next one.
    pages: usize,
    /// Pages above leaves that were walked.
    walked: HashSet<PagePtr>,
    /// Ranges of keys, first and last, that newer pages told all about.
    told: Spans,
    /// The newest root there is was found: all below it belongs.
    rooted: bool,
    /// A page may be of after the tree left its timeline.
    is_ambiguous: bool,
    /// A related tree's leaf cannot be read any more.
    pub(super) is_unreadable: bool,
}

/// Ranges of keys by their first ones, with the last of each; none touches another.
#[derive(Default)]
struct Spans(BTreeMap<Key, Key>);

impl Spans {
    fn contains(&self, key: &[u8]) -> bool {
        let to_key = (Bound::Unbounded, Bound::Included(key));
        let before = self.0.range::<[u8], _>(to_key).next_back();
        before.is_some_and(|(_, last)| key <= last.as_slice())
    }

    fn add(&mut self, mut first: Key, mut last: Key) {
        loop {
            let to_last = (Bound::Unbounded, Bound::Included(last.as_slice()));
            let before = self.0.range::<[u8], _>(to_last).next_back();
            let Some((start, end)) = before.filter(|(_, end)| **end >= first) else {
                break;
            };
            let (start, end) = (start.clone(), end.clone());
            self.0.remove(&start);
            (first, last) = (first.min(start), last.max(end));
        }
        self.0.insert(first, last);
    }

    /// Whether all keys of a range are among them.
    fn has_all(&self, range: &Range) -> bool {
        let Some(high) = range.high.as_deref() else {
            return false;
        };
        let to_low = (Bound::Unbounded, Bound::Included(range.low.as_slice()));
        let before = self.0.range::<[u8], _>(to_low).next_back();
        before.is_some_and(|(_, last)| high <= last.as_slice())
    }

    /// Whether keys from `first` to `last` are among them.
    fn overlaps(&self, first: &[u8], last: &[u8]) -> bool {
        let to_last = (Bound::Unbounded, Bound::Included(last));
        let before = self.0.range::<[u8], _>(to_last).next_back();
        before.is_some_and(|(_, end)| first <= end.as_slice())
    }
}

impl<'a> Found<'a> {
    pub(super) fn new(lost: &'a Lost, history: &'a History, next_ino: Option<u64>) -> Self {
        Found {
            lost,
            history,
            next_ino,
            records: HashMap::new(),
            pages: 0,
            walked: HashSet::new(),
            told: Spans::default(),
            rooted: false,
            is_ambiguous: false,
            is_unreadable: false,
        }
    }

    fn may_hold(&self, walker: &Walker, stray: &Stray) -> bool {
        let range = &self.lost.range;
        // What another tree has may be cut elsewhere.
        let fits = stray.is_kin
            || stray
                .keys
                .as_ref()
                .is_none_or(|(first, last)| range.contains(first) && range.contains(last));
        fits && !self.rooted
            && Class::of(self.lost.tree) == Some(stray.class)
            && stray.place.generation <= self.lost.newest
            && self.history.has(stray)
            && (stray.is_kin || !walker.is_reached(stray.place.page))
    }

    /// Takes what a page and those below it hold, if it is of this part of the tree.
    pub(super) fn take(&mut self, walker: &mut Walker, stray: &Stray) {
        if !self.may_hold(walker, stray) {
            return;
        }
        self.pages += 1;
        self.is_ambiguous |= self.history.is_unsure(stray);
        if stray.is_kin {
            return self.take_leaf(walker, stray);
        }
        let of = Lost {
            newest: stray.place.generation,
            ..self.lost.clone()
        };
        let Found {
            records,
            pages,
            walked,
            told,
            ..
        } = self;
        let (mut spans, mut span) = (Vec::new(), None);
        let is_told = |range: &Range| told.has_all(range);
        let next_ino = self.next_ino;
        let mut leaf = |old: Old<'_>| {
            let Old::Leaf {
                page,
                range,
                is_shared,
            } = old
            else {
                // Of what lies between others nothing is told.
                return spans.extend(span.take());
            };
            let is_wanted =
                |key: &[u8]| range.contains(key) && (!is_shared || is_own(key, next_ino));
            let cells = (0..page.len()).filter(|index| is_wanted(page.key(*index)));
            let cells: Vec<usize> = cells.collect();
            let (Some(first), Some(last)) = (cells.first(), cells.last()) else {
                return;
            };
            let (first, last) = (page.key(*first), page.key(*last));
            // What another tree has, too, may be of before this one removed it.
            let of_kin = is_shared.then(|| told.overlaps(first, last));
            for index in cells {
                let record = (page.key(index), page.value(index));
                if !told.contains(record.0) && stray.class.has(record.0, record.1) {
                    add(records, *pages, record, of_kin);
                }
            }
            let span = span.get_or_insert_with(|| (Key::from_slice(first), Key::new()));
            span.1 = Key::from_slice(last);
        };
        let gone = walker.walk_old(&of, stray.place, walked, &is_told, &mut leaf);
        // A tree changes from its leaves to its root: the newest page there is is the root, unless
        // it is another tree's too.
        let is_newest = self.told.0.is_empty();
        for (first, last) in spans.into_iter().chain(span) {
            self.told.add(first, last);
        }
        self.rooted = self.lost.unrooted && is_newest && !self.told.0.is_empty();
        if self.rooted {
            // Else, where an old page pointed to is of no interest.
            walker.lost.extend(gone);
        }
    }

    /// Takes what a leaf of a related tree holds. It is not this tree's when any of it lies
    /// elsewhere, or where a newer page is.
    fn take_leaf(&mut self, walker: &Walker, stray: &Stray) {
        let (Ok(page), Some((first, last))) = (walker.read(stray.place), &stray.keys) else {
            self.is_unreadable = true;
            return;
        };
        let range = &self.lost.range;
        let is_doubtful =
            !range.contains(first) || !range.contains(last) || self.told.overlaps(first, last);
        let cells = (0..page.len()).filter(|index| {
            let key = page.key(*index);
            range.contains(key) && is_own(key, self.next_ino)
        });
        let cells: Vec<usize> = cells.collect();
        for index in &cells {
            let record = (page.key(*index), page.value(*index));
            if !self.told.contains(record.0) && stray.class.has(record.0, record.1) {
                add(&mut self.records, self.pages, record, Some(is_doubtful));
            }
        }
        if let (Some(first), Some(last)) = (cells.first(), cells.last()) {
            let (first, last) = (page.key(*first), page.key(*last));
            self.told.add(Key::from_slice(first), Key::from_slice(last));
        }
    }

    /// All that was found. `may_be_old` says whether it may be older than what was lost.
    /// What is not known to be of this tree is told of, but taken like all else.
    pub(super) fn candidates(self, may_be_old: bool, is_ambiguous: bool) -> Candidates {
        let tree = self.lost.tree;
        // Where its root is not known, neither is what it removed.
        let may_be_old = may_be_old || (self.lost.unrooted && !self.rooted);
        let mut records: Vec<Record> = self.records.into_values().collect();
        // What refers to something comes behind it, and is asked whether it is missed there. Of a
        // file's extents those of newer pages come first, of all else what other trees have comes
        // last.
        records.sort_by_cached_key(|record| {
            let file = file_of(tree, &record.key);
            let of_others = match record.of_kin {
                None => 0,
                Some(is_doubtful) => 1 + usize::from(is_doubtful),
            };
            let rank = file.map_or(of_others, |_| record.rank);
            (turn(tree, &record.key), file, rank, record.key.clone())
        });
        Candidates {
            may_be_old,
            is_ambiguous: is_ambiguous || self.is_ambiguous,
            rooted: self.rooted,
            records,
        }
    }
}

/// Whether a key is of an inode that the tree may have: the next one's number tells.
fn is_own(key: &[u8], next_ino: Option<u64>) -> bool {
    match (split_u64(key), next_ino) {
        (Some((ino, _)), Some(next)) => ino < next,
        _ => true,
    }
}

/// Adds a record, unless a newer one is known.
fn add(
    records: &mut HashMap<Key, Record>,
    rank: usize,
    (key, value): (&[u8], &[u8]),
    of_kin: Option<IsDoubtful>,
) {
    let record = records.entry(Key::from_slice(key));
    record.or_insert_with(|| Record {
        rank,
        key: Key::from_slice(key),
        value: value.to_vec(),
        of_kin,
    });
}

/// What was found for a lost part, of which a tree gets what it misses.
#[derive(Debug)]
pub(super) struct Candidates {
    may_be_old: bool,
    /// It may be another tree's.
    is_ambiguous: bool,
    rooted: bool,
    /// In the order in which they are to be entered.
    records: Vec<Record>,
}

impl Candidates {
    /// What is to be said of so many records of it that were entered.
    pub(super) fn fix(&self, tree: TreeId, records: usize) -> Option<Fix> {
        (records > 0).then_some(Fix::StrayRecords {
            tree,
            records: records as u64,
            may_be_old: self.may_be_old || self.is_ambiguous,
        })
    }

    /// Enters what is wanted and missed. Which of it related trees have.
    pub(super) fn enter(
        &self,
        builder: &mut Builder,
        tree: TreeId,
        is_wanted: &dyn Fn(&Key) -> bool,
        entered: &mut Entered,
    ) -> Result<Vec<OfKin>, StoreError> {
        let mut of_kin = Vec::new();
        if self.records.is_empty() {
            return Ok(of_kin);
        }
        let mut missed = Missed::count(builder, tree)?;
        for of_one in self
            .records
            .chunk_by(|a, b| same_file(tree, &a.key, &b.key))
        {
            let file = of_one.first().and_then(|record| file_of(tree, &record.key));
            let file = file.filter(|_| !self.rooted);
            let of_one = of_one.iter().filter(|record| is_wanted(&record.key));
            let of_one: Vec<&Record> = of_one.collect();
            let wanted = match file {
                Some(ino) => extents_of(builder, tree, &of_one, ino, &mut missed)?,
                None => self.records_of(builder, tree, of_one, &mut missed)?,
            };
            for record in wanted {
                let Record { key, value, .. } = record;
                builder.put(tree, key, value)?;
                entered.keys.push(key.clone());
                let named = named(key, value);
                // Extents were counted: they are all of the file's, or none of them is here. Those
                // that a snapshot keeps are counted there whatever this tree has.
                if self.may_be_old && (file.is_none() || record.of_kin.is_some()) {
                    entered.note_old(tree, key, named);
                }
                if self.is_ambiguous {
                    entered.note_ambiguous(tree, key, named);
                }
                // What else belongs to an inode was counted, or goes with it.
                let is_of_none = split_u64(key).is_none_or(|(ino, _)| ino == 0);
                let may_go = is_inode(key) || named.is_some() || is_of_none;
                let key = key.clone();
                of_kin.extend(record.of_kin.map(|is_doubtful| OfKin {
                    key,
                    named,
                    is_doubtful: is_doubtful && may_go && !self.may_be_old,
                }));
            }
        }
        Ok(of_kin)
    }

    /// Those of some records that are missed, other than extents that are counted.
    fn records_of<'a>(
        &self,
        builder: &Builder,
        tree: TreeId,
        records: Vec<&'a Record>,
        missed: &mut Missed,
    ) -> Result<Vec<&'a Record>, StoreError> {
        let mut wanted = Vec::new();
        for record in records {
            let Record { key, value, .. } = record;
            if builder.view().get(tree, key)?.is_some() {
                continue;
            }
            let is_missed = self.rooted || missed.misses(builder, tree, key, value)?;
            let is_removed = match record.of_kin {
                Some(is_doubtful) if is_missed && !self.rooted => {
                    let is_doubtful = is_doubtful && !self.may_be_old;
                    missed.may_be_removed(builder, tree, key, is_doubtful)?
                }
                _ => false,
            };
            if is_missed && !is_removed {
                wanted.push(record);
            }
        }
        Ok(wanted)
    }
}

/// Those of a file's extents that are missed, if they are all of them: some of an older version
/// would fill the wrong places. What a related tree has, this one may have removed, so it is taken
/// only where the file is not whole without it.
fn extents_of<'a>(
    builder: &Builder,
    tree: TreeId,
    records: &[&'a Record],
    ino: Ino,
    missed: &mut Missed,
) -> Result<Vec<&'a Record>, StoreError> {
    let of_own = |record: &Record| record.of_kin.is_none();
    let of_sure = |record: &Record| record.of_kin != Some(true);
    let tries: [&dyn Fn(&Record) -> bool; 3] = [&of_own, &of_sure, &|_| true];
    let mut tried = None;
    for is_taken in tries {
        let of_these: Vec<&Record> = records.iter().copied().filter(|of| is_taken(of)).collect();
        if tried.replace(of_these.len()) == Some(of_these.len()) {
            continue;
        }
        let mut taken = Taken::of(builder, tree, ino)?;
        let mut wanted = Vec::new();
        for record in of_these {
            let Record { key, value, .. } = record;
            let known = builder.view().get(tree, key)?.is_some();
            if !known && taken.is_free(key, value) && missed.misses(builder, tree, key, value)? {
                taken.take(key, value);
                wanted.push(record);
            }
        }
        if taken.is_all_of(builder, tree, ino)? {
            return Ok(wanted);
        }
        for record in wanted {
            missed.forget_extent(&record.value);
        }
    }
    Ok(Vec::new())
}

/// Inodes come before what belongs to them and names them.
fn turn(tree: TreeId, key: &[u8]) -> u8 {
    let kind = split_u64(key).and_then(|(_, rest)| Kind::of_byte(*rest.first()?));
    match (tree, kind) {
        (TreeId::Fs(_), Some(Kind::Inode)) => 0,
        // Further fragments behind the first.
        (TreeId::Fs(_), Some(Kind::XattrMore)) => 2,
        (TreeId::Fs(_), _) => 1,
        _ => 0,
    }
}

/// The inode that a dentry names.
pub(super) fn named(key: &[u8], value: &[u8]) -> Option<Ino> {
    let is_name = matches!(split_u64(key), Some((_, [kind, ..])) if *kind == Kind::Dentry as u8);
    let entry = DentryRecord::decode(value).ok();
    entry.filter(|_| is_name).map(|entry| entry.ino)
}

/// Whether a key is that of an inode's own record.
pub(super) fn is_inode(key: &[u8]) -> bool {
    matches!(split_u64(key), Some((_, [kind])) if *kind == Kind::Inode as u8)
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
