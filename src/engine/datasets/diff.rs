//! What changed between two trees, by paths.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::DatasetError;
use super::records::found;
use crate::engine::error::check_goes_on;
use crate::engine::{EngineError, Store};
use crate::format::id::{DatasetId, Ino};
use crate::format::key::{self, Kind, TreeId};
use crate::format::record::{DentryRecord, InodeRecord, Time};
use crate::log::journal::View;
use crate::store::roots::AtOneMoment;
use crate::store::tree::Differs;
use crate::store::{Read, StoreError};

/// A path, from the root directory on, without a slash before it; that of the root is empty.
pub type Path = Vec<u8>;

/// What happened to a path. They sort by it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// The path: the old one of what was renamed.
    pub path: Path,
    /// What happened to it.
    pub change: PathChange,
}

/// See [`Difference`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathChange {
    /// It is gone.
    Removed,
    /// What it led to has this path now.
    Renamed(Path),
    /// It is new.
    Added,
    /// Its content or its attributes changed, other than the time of its last access.
    Changed,
}

impl Store {
    /// What is different in `new` from `old`, both datasets or snapshots of one another, by path.
    /// Takes time and memory for what is different only, but for files that changed and kept their
    /// names: of these the names are looked for in all of `new`. `go_on` is asked all the time.
    ///
    /// # Errors
    /// When there is no such dataset or snapshot; when the store cannot be read, or written to what
    /// memory holds of `new`; [`EngineError::Interrupted`].
    pub fn diff(
        self: &Arc<Self>,
        old: &str,
        new: &str,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<Difference>, DatasetError> {
        let (old_volume, new_volume) = (self.volume(old)?, self.volume(new)?);
        for volume in [&old_volume, &new_volume] {
            if volume.is_writable() {
                volume.write_out_files()?;
            }
        }
        let view = self.journal.view();
        let (old, new) = (found(&view, old)?.0, found(&view, new)?.0);
        let mut seen = Seen::default();
        seen.look(&view, (old, new), go_on)?;
        let (old, new) = (
            Tree {
                view: &view,
                id: old,
            },
            Tree {
                view: &view,
                id: new,
            },
        );
        Ok(seen.differences(&old, &new, go_on)?)
    }

    /// Whether a dataset was changed since a snapshot of it was taken: no more is looked at than
    /// it takes to find the first difference. Writes out what memory holds of its files.
    ///
    /// # Errors
    /// When there is no such dataset or snapshot; when the store cannot be read, or written to.
    pub fn has_changed_since(
        self: &Arc<Self>,
        dataset: &str,
        snapshot: &str,
    ) -> Result<bool, DatasetError> {
        let volume = self.volume(dataset)?;
        if volume.is_writable() {
            volume.write_out_files()?;
        }
        let view = self.journal.view();
        let (old, new) = (found(&view, snapshot)?.0, found(&view, dataset)?.0);
        let differences = |trees, differs: &mut Differs<'_>| view.diff(trees, &[], differs);
        Ok(is_changed(&view, old, new, differences)?)
    }
}

/// Whether a dataset differs from a snapshot, or any two trees of their kind, in what somebody can
/// find. That somebody has read a file is no difference, nor what becomes of inodes that nobody can
/// find. Ends at the first that is one.
pub(in crate::engine) fn is_changed(
    read: &impl Read,
    snapshot: DatasetId,
    dataset: DatasetId,
    differences: impl FnOnce((TreeId, Option<TreeId>), &mut Differs<'_>) -> Result<(), StoreError>,
) -> Result<bool, StoreError> {
    let (old, new) = (TreeId::Fs(snapshot), TreeId::Fs(dataset));
    let mut changed = Ok(false);
    let mut nameless = None;
    differences((old, Some(new)), &mut |key, was, is| {
        if key::is_of_kind(key, Kind::ProjectLimit) {
            changed = Ok(true);
            return ControlFlow::Break(());
        }
        let ino = key.first_chunk().map(|ino| Ino(u64::from_be_bytes(*ino)));
        let Some(ino) = ino.filter(|ino| ino.0 != 0 && nameless != Some(*ino)) else {
            return ControlFlow::Continue(());
        };
        if key::is_of_kind(key, Kind::Inode) && is_access(was, is) {
            return ControlFlow::Continue(());
        }
        changed = has_name(read, old, ino).and_then(|had| Ok(had || has_name(read, new, ino)?));
        match changed {
            Ok(false) => {
                nameless = Some(ino);
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Break(()),
        }
    })?;
    changed
}

/// Whether an inode is there and has a name.
fn has_name(read: &impl Read, tree: TreeId, ino: Ino) -> Result<bool, StoreError> {
    let record = read.get_with(tree, &key::inode(ino), InodeRecord::decode)?;
    let record = record
        .transpose()
        .map_err(|source| StoreError::format(format!("inode {ino}"), source))?;
    Ok(record.is_some_and(|record| record.nlink > 0))
}

/// Whether nothing but the time of the last access differs.
fn is_access(old: Option<&[u8]>, new: Option<&[u8]>) -> bool {
    let decode = |bytes: Option<&[u8]>| InodeRecord::decode(bytes?).ok();
    match (decode(old), decode(new)) {
        (Some(old), Some(new)) => {
            InodeRecord {
                atime: old.atime,
                ..new
            } == old
        }
        _ => false,
    }
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    dir: Ino,
    name: Vec<u8>,
}

/// What was seen to be different.
#[derive(Default)]
struct Seen {
    /// Names that are in the old tree only, by what they lead to.
    removed: BTreeMap<Ino, Vec<Entry>>,
    /// Names that are in the new tree only.
    added: BTreeMap<Ino, Vec<Entry>>,
    /// Inodes in both that are different, and whether in more than what a change of names changes.
    changed: BTreeMap<Ino, bool>,
    /// Inodes that are in one of them.
    in_one: BTreeSet<Ino>,
}

fn wrong(what: &'static str) -> impl Fn(crate::format::FormatError) -> StoreError {
    move |source| StoreError::format(what, source)
}

/// What of an inode no change of names changes, and nobody's reading.
fn lasting(record: &InodeRecord) -> InodeRecord {
    InodeRecord {
        nlink: 0,
        allocated: 0,
        parent: Ino(0),
        atime: Time::default(),
        ctime: Time::default(),
        ..record.clone()
    }
}

impl Seen {
    fn look(
        &mut self,
        view: &View,
        (old, new): (DatasetId, DatasetId),
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), EngineError> {
        let reading = view.reading();
        let trees = (TreeId::Fs(old), Some(TreeId::Fs(new)));
        let mut failed = Ok(());
        reading
            .roots
            .diff(reading.storage, trees, &[], &mut |key, old, new| {
                let seen = check_goes_on(go_on);
                failed = seen.and_then(|()| Ok(self.see(view, key, (old, new))?));
                match failed {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                }
            })?;
        failed
    }

    fn see(
        &mut self,
        view: &View,
        key: &[u8],
        (old, new): (Option<&[u8]>, Option<&[u8]>),
    ) -> Result<(), StoreError> {
        let Some(ino) = key.first_chunk().map(|ino| Ino(u64::from_be_bytes(*ino))) else {
            return Ok(());
        };
        if key::is_of_kind(key, Kind::Dentry) {
            for (value, names) in [(old, &mut self.removed), (new, &mut self.added)] {
                let Some(value) = value else { continue };
                let entry = DentryRecord::decode(value).map_err(wrong("dentry"))?;
                let name = view.name_with(entry.name, <[u8]>::to_vec)?;
                names
                    .entry(entry.ino)
                    .or_default()
                    .push(Entry { dir: ino, name });
            }
        } else if key::is_of_kind(key, Kind::Inode) {
            let (Some(old), Some(new)) = (old, new) else {
                self.in_one.insert(ino);
                return Ok(());
            };
            let old = InodeRecord::decode(old).map_err(wrong("inode"))?;
            let new = InodeRecord::decode(new).map_err(wrong("inode"))?;
            let more = lasting(&old) != lasting(&new);
            if more || old.ctime != new.ctime || old.nlink != new.nlink {
                *self.changed.entry(ino).or_default() |= more;
            }
        } else if ino.0 != 0 {
            self.changed.insert(ino, true);
        }
        Ok(())
    }

    fn differences(
        mut self,
        old: &Tree<'_>,
        new: &Tree<'_>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<Difference>, EngineError> {
        let mut kept = Vec::new();
        let mut lost = Vec::new();
        let mut moved: Vec<(Entry, Entry)> = Vec::new();
        for (ino, mut entries) in std::mem::take(&mut self.removed) {
            let mut to = self.added.remove(&ino).unwrap_or_default();
            // The same name may stand for the same inode at another place of the listing.
            entries.retain(|entry| match to.iter().position(|each| each == entry) {
                Some(same) => {
                    to.remove(same);
                    false
                }
                None => true,
            });
            let renamed = entries.len().min(to.len());
            moved.extend(entries.drain(..renamed).zip(to.drain(..renamed)));
            lost.extend(entries);
            if !to.is_empty() {
                self.added.insert(ino, to);
            }
            // What has another name changed only if it did in more than that.
            if self.changed.get(&ino) == Some(&false) {
                self.changed.remove(&ino);
            }
        }
        let mut made = Vec::new();
        for (ino, entries) in std::mem::take(&mut self.added) {
            made.extend(entries);
            if self.changed.get(&ino) == Some(&false) {
                self.changed.remove(&ino);
            }
        }
        let changed = self.changed.into_keys();
        let changed = changed.filter(|ino| !self.in_one.contains(ino)).collect();
        new.entries_of(&changed, &mut kept, go_on)?;
        let old_dirs = lost.iter().chain(moved.iter().map(|(from, _)| from));
        let old_paths = old.paths(old_dirs.map(|entry| entry.dir), go_on)?;
        let new_dirs = made
            .iter()
            .chain(&kept)
            .chain(moved.iter().map(|(_, to)| to));
        let new_paths = new.paths(new_dirs.map(|entry| entry.dir), go_on)?;
        let mut all = Vec::new();
        let mut tell = |path, change| all.push(Difference { path, change });
        for entry in &lost {
            tell(entry.path(&old_paths), PathChange::Removed);
        }
        for (from, to) in &moved {
            let to = to.path(&new_paths);
            tell(from.path(&old_paths), PathChange::Renamed(to));
        }
        for entry in &made {
            tell(entry.path(&new_paths), PathChange::Added);
        }
        for entry in &kept {
            tell(entry.path(&new_paths), PathChange::Changed);
        }
        if changed.contains(&Ino::ROOT) {
            tell(Path::new(), PathChange::Changed);
        }
        all.sort();
        Ok(all)
    }
}

impl Entry {
    fn path(&self, dirs: &BTreeMap<Ino, Path>) -> Path {
        let mut path = dirs.get(&self.dir).cloned().unwrap_or_default();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&self.name);
        path
    }
}

/// A tree to find paths in.
struct Tree<'a> {
    view: &'a View,
    id: DatasetId,
}

impl Tree<'_> {
    /// All names of some inodes.
    fn entries_of(
        &self,
        of: &BTreeSet<Ino>,
        into: &mut Vec<Entry>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), EngineError> {
        // The root directory has none.
        if of.iter().all(|ino| *ino == Ino::ROOT) {
            return Ok(());
        }
        self.entries(
            &[],
            &[0xff; 9],
            &|ino| of.contains(&ino),
            &mut |entry, _| into.push(entry),
            go_on,
        )
    }

    /// The paths of some directories.
    fn paths(
        &self,
        of: impl Iterator<Item = Ino>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<BTreeMap<Ino, Path>, EngineError> {
        let mut parents: BTreeMap<Ino, Ino> = BTreeMap::new();
        for mut dir in of {
            while dir != Ino::ROOT && !parents.contains_key(&dir) {
                check_goes_on(go_on)?;
                let inode = key::inode(dir);
                let record =
                    self.view
                        .get_with(TreeId::Fs(self.id), &inode, InodeRecord::decode)?;
                let missing = || StoreError::Corrupt(format!("directory {dir} has no inode"));
                let record = record.ok_or_else(missing)?.map_err(wrong("inode"))?;
                parents.insert(dir, record.parent);
                dir = record.parent;
            }
        }
        let mut entries: BTreeMap<Ino, Entry> = BTreeMap::new();
        let parents_alone: BTreeSet<Ino> = parents.values().copied().collect();
        for parent in parents_alone {
            let (start, end) = key::kind_range(parent, Kind::Dentry);
            let wanted = |ino: Ino| parents.get(&ino) == Some(&parent);
            let note = &mut |entry, ino| {
                entries.insert(ino, entry);
            };
            self.entries(&start, &end, &wanted, note, go_on)?;
        }
        let mut paths = BTreeMap::new();
        for dir in parents.keys() {
            let mut names = Vec::new();
            let mut at = *dir;
            // No longer than all directories there are: a damaged tree may go round in circles.
            while let Some(entry) = entries.get(&at).filter(|_| names.len() < parents.len()) {
                names.push(entry.name.as_slice());
                at = entry.dir;
            }
            names.reverse();
            paths.insert(*dir, names.join(&b'/'));
        }
        Ok(paths)
    }

    /// Names between two keys that lead to what is wanted.
    fn entries(
        &self,
        start: &[u8],
        end: &[u8],
        wanted: &dyn Fn(Ino) -> bool,
        found: &mut dyn FnMut(Entry, Ino),
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), EngineError> {
        let mut failed = Ok(());
        let mut visit = |key: &[u8], value: &[u8]| -> Result<(), EngineError> {
            check_goes_on(go_on)?;
            let Some(dir) = key
                .first_chunk()
                .filter(|_| key::is_of_kind(key, Kind::Dentry))
            else {
                return Ok(());
            };
            let entry = DentryRecord::decode(value).map_err(wrong("dentry"))?;
            if wanted(entry.ino) {
                let name = self.view.name_with(entry.name, <[u8]>::to_vec)?;
                let dir = Ino(u64::from_be_bytes(*dir));
                found(Entry { dir, name }, entry.ino);
            }
            Ok(())
        };
        self.view
            .scan(TreeId::Fs(self.id), start, end, &mut |key, value| {
                failed = visit(key, value);
                match failed {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                }
            })?;
        failed
    }
}
