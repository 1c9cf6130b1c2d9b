//! Names: what directories hold, how often an inode is named, and a place for what has none.

use super::Fixes;
use super::build::{Builder, View};
use super::fix::Fix;
use super::inodes::{Entry, Inodes, new_record};
use crate::format::id::Ino;
use crate::format::key::{self, Kind, TreeId, trailing_u64};
use crate::format::record::{DentryRecord, InodeRecord};
use crate::fsck::Bytes;
use crate::fsck::inode::DIRECTORY;
use crate::store::StoreError;

/// The bits of a cookie that tell names of one hash apart.
const DISCRIMINATOR_BITS: u32 = 16;
/// Where inodes go that lost their place.
const LOST_AND_FOUND: &str = "lost+found";

/// Checks the names of a dataset, and gives every inode a place. Returns the next inode number.
pub(super) fn check(
    builder: &mut Builder,
    tree: TreeId,
    inodes: &mut Inodes,
    next_ino: u64,
    fixes: &mut Fixes<'_>,
) -> Result<u64, StoreError> {
    let largest = inodes.table.last().map_or(0, |entry| entry.ino.0);
    let view = builder.view();
    let mut pass = Pass {
        builder,
        view: &view,
        tree,
        inodes,
        next_ino: next_ino.max(largest.saturating_add(1)),
        lost_and_found: None,
    };
    pass.check_directories(fixes)?;
    pass.break_circles(fixes)?;
    pass.place_nameless(fixes)?;
    pass.list_orphans(fixes)?;
    pass.set_links(fixes)?;
    Ok(pass.next_ino)
}

struct Pass<'a> {
    builder: &'a mut Builder,
    /// The tree before this pass.
    view: &'a View,
    tree: TreeId,
    inodes: &'a mut Inodes,
    next_ino: u64,
    lost_and_found: Option<Ino>,
}

/// One directory as its entries come by.
struct Directory {
    ino: Ino,
    /// The hash of the entries now, and their names.
    hash: u64,
    names: Vec<Vec<u8>>,
}

impl Pass<'_> {
    fn check_directories(&mut self, fixes: &mut Fixes<'_>) -> Result<(), StoreError> {
        for index in 0..self.inodes.table.len() {
            let Some(entry) = self.inodes.table.get(index) else {
                continue;
            };
            if entry.file_type != DIRECTORY {
                continue;
            }
            let mut directory = Directory {
                ino: entry.ino,
                hash: 0,
                names: Vec::new(),
            };
            let (view, tree) = (self.view, self.tree);
            let (start, end) = key::kind_range(entry.ino, Kind::Dentry);
            view.scan(tree, &start, &end, &mut |key, value| {
                self.check_entry(&mut directory, key, value, fixes)
            })?;
        }
        Ok(())
    }

    fn check_entry(
        &mut self,
        directory: &mut Directory,
        key: &[u8],
        value: &[u8],
        fixes: &mut Fixes<'_>,
    ) -> Result<(), StoreError> {
        let dir = directory.ino;
        let cookie = trailing_u64(key).unwrap_or(0);
        let entry = match DentryRecord::decode(value) {
            Ok(entry) => entry,
            Err(error) => {
                fixes.dropped(
                    self.tree,
                    format!("directory {dir}: entry {cookie:#x}"),
                    error,
                );
                return self.builder.delete(self.tree, key).map(drop);
            }
        };
        let name = match self.view.name(entry.name) {
            Ok(name) if is_name(&name) => name,
            _ => {
                let name = format!("entry {cookie:#x} (inode {})", entry.ino).into_bytes();
                return self.drop_entry(dir, cookie, &name, "its name cannot be read", fixes);
            }
        };
        let hash = cookie >> DISCRIMINATOR_BITS;
        if hash != directory.hash {
            directory.hash = hash;
            directory.names.clear();
        }
        if directory.names.contains(&name) {
            return self.drop_entry(dir, cookie, &name, "the name is there twice", fixes);
        }
        let target = self.inodes.get(entry.ino);
        let Some(file_type) = target.map(|target| target.file_type) else {
            return self.drop_entry(dir, cookie, &name, "its inode is gone", fixes);
        };
        if entry.ino == Ino::ROOT {
            return self.drop_entry(dir, cookie, &name, "it names the root directory", fixes);
        }
        if file_type == DIRECTORY && !self.names_directory(dir, cookie, entry.ino, fixes)? {
            return self.drop_entry(dir, cookie, &name, "the directory has another name", fixes);
        }
        directory.names.push(name.clone());
        let right = DentryRecord {
            name: self.builder.used_name(entry.name, &name)?,
            name_len: u8::try_from(name.len()).unwrap_or(u8::MAX),
            file_type,
            ..entry
        };
        let place = self.entry_place(directory, cookie, &name, right, &entry, fixes)?;
        let Some(cookie) = place else {
            return Ok(());
        };
        self.count(dir, cookie, entry.ino);
        Ok(())
    }

    /// Makes an entry stand where it belongs and say what is right; where that is.
    fn entry_place(
        &mut self,
        directory: &Directory,
        cookie: u64,
        name: &[u8],
        right: DentryRecord,
        entry: &DentryRecord,
        fixes: &mut Fixes<'_>,
    ) -> Result<Option<u64>, StoreError> {
        let dir = directory.ino;
        let mended = |what| Fix::EntryMended {
            dir,
            name: Bytes(name.to_vec()),
            what,
        };
        let cookies = key::name_cookies(&self.builder.superblock().hash_seed, name);
        if cookies.contains(&cookie) {
            if right != *entry {
                let place = entry.name;
                if (DentryRecord {
                    name: place,
                    ..right
                }) != *entry
                {
                    fixes.add(mended("its type or length"));
                }
                let key = key::dentry(dir, cookie);
                self.builder.put(self.tree, &key, &right.encode())?;
            }
            return Ok(Some(cookie));
        }
        self.builder.delete(self.tree, &key::dentry(dir, cookie))?;
        match self.free_cookie(dir, name)? {
            Some(cookie) => {
                fixes.add(mended("its place in the directory"));
                let key = key::dentry(dir, cookie);
                self.builder.put(self.tree, &key, &right.encode())?;
                Ok(Some(cookie))
            }
            None => {
                let name = Bytes(name.to_vec());
                let reason = "the name is there twice";
                fixes.add(Fix::EntryDropped { dir, name, reason });
                Ok(None)
            }
        }
    }

    /// The first free cookie for a name, unless the directory has that name.
    fn free_cookie(&self, dir: Ino, name: &[u8]) -> Result<Option<u64>, StoreError> {
        let cookies = key::name_cookies(&self.builder.superblock().hash_seed, name);
        let view = self.builder.view();
        let (start, end) = (
            key::dentry(dir, cookies.start),
            key::dentry(dir, cookies.end),
        );
        let (mut free, mut known) = (cookies.start, false);
        view.scan(self.tree, &start, &end, &mut |key, value| {
            let cookie = trailing_u64(key).unwrap_or(0);
            if cookie == free {
                free += 1;
            }
            if let Ok(entry) = DentryRecord::decode(value) {
                known |= view.name(entry.name).is_ok_and(|found| found == name);
            }
            Ok(())
        })?;
        Ok((!known && free < cookies.end).then_some(free))
    }

    /// Whether a directory's entry is the one that counts; another, found before, is dropped when
    /// this one is in the directory that the record names.
    fn names_directory(
        &mut self,
        dir: Ino,
        cookie: u64,
        ino: Ino,
        fixes: &mut Fixes<'_>,
    ) -> Result<bool, StoreError> {
        let Some(entry) = self.inodes.get_mut(ino) else {
            return Ok(false);
        };
        if entry.names == 0 {
            return Ok(true);
        }
        let (other, other_cookie) = entry.named_in;
        if entry.parent != dir || other == dir || (dir, cookie) == (other, other_cookie) {
            return Ok(false);
        }
        entry.names = 0;
        self.uncount(other);
        let name = format!("entry {other_cookie:#x} (inode {ino})").into_bytes();
        let reason = "the directory has another name";
        self.drop_entry(other, other_cookie, &name, reason, fixes)?;
        Ok(true)
    }

    fn drop_entry(
        &mut self,
        dir: Ino,
        cookie: u64,
        name: &[u8],
        reason: &'static str,
        fixes: &mut Fixes<'_>,
    ) -> Result<(), StoreError> {
        let name = Bytes(name.to_vec());
        fixes.add(Fix::EntryDropped { dir, name, reason });
        self.builder
            .delete(self.tree, &key::dentry(dir, cookie))
            .map(drop)
    }

    fn count(&mut self, dir: Ino, cookie: u64, ino: Ino) {
        let mut is_directory = false;
        if let Some(entry) = self.inodes.get_mut(ino) {
            entry.names = entry.names.saturating_add(1);
            entry.named_in = (dir, cookie);
            is_directory = entry.file_type == DIRECTORY;
        }
        if let Some(entry) = self.inodes.get_mut(dir) {
            entry.entries += 1;
            entry.subdirectories += u32::from(is_directory);
        }
    }

    /// Counts a directory's entry for a directory no longer.
    fn uncount(&mut self, dir: Ino) {
        if let Some(entry) = self.inodes.get_mut(dir) {
            entry.entries = entry.entries.saturating_sub(1);
            entry.subdirectories = entry.subdirectories.saturating_sub(1);
        }
    }

    /// Cuts directories that lie below themselves off from there.
    fn break_circles(&mut self, fixes: &mut Fixes<'_>) -> Result<(), StoreError> {
        // By which walk (from 1) a directory was passed.
        let mut passed = vec![0u64; self.inodes.table.len()];
        for (walk, first) in (1u64..).zip(0..self.inodes.table.len()) {
            let mut at = Some(first);
            while let Some(index) = at {
                let (Some(entry), Some(mark)) =
                    (self.inodes.table.get(index), passed.get_mut(index))
                else {
                    break;
                };
                let (ino, above) = (entry.ino, entry.named_in);
                let ends = entry.file_type != DIRECTORY || ino == Ino::ROOT || entry.names == 0;
                if *mark == walk && !ends {
                    let name = format!("entry {:#x} (inode {ino})", above.1).into_bytes();
                    let reason = "the directory lies below itself";
                    self.drop_entry(above.0, above.1, &name, reason, fixes)?;
                    self.uncount(above.0);
                    if let Some(entry) = self.inodes.table.get_mut(index) {
                        entry.names = 0;
                    }
                    break;
                }
                if ends || *mark != 0 {
                    break;
                }
                *mark = walk;
                at = self
                    .inodes
                    .table
                    .binary_search_by_key(&above.0, |entry| entry.ino)
                    .ok();
            }
        }
        Ok(())
    }

    /// Gives every inode without a name a place: the list of orphans for those that were removed,
    /// lost+found for the others.
    fn place_nameless(&mut self, fixes: &mut Fixes<'_>) -> Result<(), StoreError> {
        let nameless: Vec<Ino> = self
            .inodes
            .table
            .iter()
            .filter(|entry| entry.names == 0 && entry.ino != Ino::ROOT)
            .map(|entry| entry.ino)
            .collect();
        for ino in nameless {
            let Some(entry) = self.inodes.get(ino) else {
                continue;
            };
            // What stands on the list has no links, and nothing in it.
            if entry.nlink == 0 && entry.entries == 0 {
                if self.inodes.orphans.insert(ino) {
                    fixes.add(Fix::Orphaned { ino });
                    self.builder.put(self.tree, &key::orphan(ino), &[])?;
                }
                continue;
            }
            let dir = self.lost_and_found()?;
            let file_type = entry_type(self.inodes.get(ino));
            let name = self.free_name(dir, format!("#{ino}"))?;
            self.add_entry(dir, name.as_bytes(), ino, file_type)?;
            let path = Bytes(format!("/{LOST_AND_FOUND}/{name}").into_bytes());
            fixes.add(Fix::Moved { ino, path });
        }
        Ok(())
    }

    /// The directory for what lost its place, made when there is none.
    fn lost_and_found(&mut self) -> Result<Ino, StoreError> {
        if let Some(ino) = self.lost_and_found {
            return Ok(ino);
        }
        let found = self.find(Ino::ROOT, LOST_AND_FOUND.as_bytes())?;
        let is_directory = |ino| {
            let entry = self.inodes.get(ino);
            entry.is_some_and(|entry| entry.file_type == DIRECTORY)
        };
        let ino = match found.filter(|ino| is_directory(*ino)) {
            Some(ino) => ino,
            None => {
                let ino = Ino(self.next_ino);
                self.next_ino += 1;
                let record = InodeRecord {
                    parent: Ino::ROOT,
                    ..new_record(DIRECTORY, super::now())
                };
                self.builder
                    .put(self.tree, &key::inode(ino), &record.encode())?;
                self.inodes.table.push(Entry {
                    ino,
                    file_type: DIRECTORY,
                    nlink: 0,
                    parent: Ino::ROOT,
                    names: 0,
                    named_in: (Ino(0), 0),
                    entries: 0,
                    subdirectories: 0,
                });
                let name = self.free_name(Ino::ROOT, LOST_AND_FOUND.into())?;
                self.add_entry(Ino::ROOT, name.as_bytes(), ino, DIRECTORY)?;
                ino
            }
        };
        self.lost_and_found = Some(ino);
        Ok(ino)
    }

    fn find(&self, dir: Ino, name: &[u8]) -> Result<Option<Ino>, StoreError> {
        let cookies = key::name_cookies(&self.builder.superblock().hash_seed, name);
        let view = self.builder.view();
        let (start, end) = (
            key::dentry(dir, cookies.start),
            key::dentry(dir, cookies.end),
        );
        let mut found = None;
        view.scan(self.tree, &start, &end, &mut |_, value| {
            if let Ok(entry) = DentryRecord::decode(value)
                && view.name(entry.name).is_ok_and(|each| each == name)
            {
                found = Some(entry.ino);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// `name`, or with a number behind it, such that the directory does not have it.
    fn free_name(&self, dir: Ino, name: String) -> Result<String, StoreError> {
        let mut tried = name.clone();
        for number in 1u64.. {
            if self.free_cookie(dir, tried.as_bytes())?.is_some() {
                break;
            }
            tried = format!("{name}.{number}");
        }
        Ok(tried)
    }

    fn add_entry(
        &mut self,
        dir: Ino,
        name: &[u8],
        ino: Ino,
        file_type: u8,
    ) -> Result<(), StoreError> {
        let record = DentryRecord {
            ino,
            name: self.builder.name(name)?,
            name_len: u8::try_from(name.len()).unwrap_or(u8::MAX),
            file_type,
        };
        let Some(cookie) = self.free_cookie(dir, name)? else {
            let what = format!("no place for {} in directory {dir}", name.escape_ascii());
            return Err(StoreError::Corrupt(what));
        };
        let key = key::dentry(dir, cookie);
        self.builder.put(self.tree, &key, &record.encode())?;
        self.count(dir, cookie, ino);
        Ok(())
    }

    /// Makes the list of orphans hold what has no name, and nothing else.
    fn list_orphans(&mut self, fixes: &mut Fixes<'_>) -> Result<(), StoreError> {
        for ino in &self.inodes.orphans {
            let entry = self.inodes.get(*ino);
            if entry.is_some_and(|entry| entry.names == 0) {
                continue;
            }
            fixes.add(Fix::NotOrphan { ino: *ino });
            self.builder.delete(self.tree, &key::orphan(*ino))?;
        }
        Ok(())
    }

    /// Makes each record say what was counted.
    fn set_links(&mut self, fixes: &mut Fixes<'_>) -> Result<(), StoreError> {
        let view = self.builder.view();
        for entry in &self.inodes.table {
            let key = key::inode(entry.ino);
            let Some(value) = view.get(self.tree, &key)? else {
                continue;
            };
            let mut record = InodeRecord::decode(&value)
                .map_err(|source| StoreError::format(format!("inode {}", entry.ino), source))?;
            let before = record.clone();
            let is_root = entry.ino == Ino::ROOT;
            record.nlink = match entry.file_type == DIRECTORY {
                true if entry.names > 0 || is_root => entry.subdirectories.saturating_add(2),
                true => 0,
                false => entry.names,
            };
            if entry.file_type == DIRECTORY {
                record.entries = entry.entries;
                record.parent = match (is_root, entry.names) {
                    (true, _) => Ino::ROOT,
                    (false, 0) => record.parent,
                    (false, _) => entry.named_in.0,
                };
            }
            if record != before {
                tell_links(entry.ino, &before, &record, fixes);
                self.builder.put(self.tree, &key, &record.encode())?;
            }
        }
        Ok(())
    }
}

fn entry_type(entry: Option<&Entry>) -> u8 {
    entry.map_or(0, |entry| entry.file_type)
}

fn tell_links(ino: Ino, before: &InodeRecord, after: &InodeRecord, fixes: &mut Fixes<'_>) {
    let fields = [
        ("number of links", before.nlink.into(), after.nlink.into()),
        ("number of entries", before.entries, after.entries),
        ("parent", before.parent.0, after.parent.0),
    ];
    for (field, found, now) in fields {
        if found != now {
            fixes.add(Fix::InodeField {
                ino,
                field,
                found,
                now,
            });
        }
    }
}

/// Whether a directory can have the name.
fn is_name(name: &[u8]) -> bool {
    name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0)
}
