//! The inodes of a dataset, each with what belongs to it, in one pass over its tree.

use std::collections::{BTreeMap, BTreeSet};

use super::build::{Builder, View};
use super::chunks::Chunks;
use super::extents::Sweep;
use super::fix::Fix;
use super::{Fixes, SIZE_MAX};
use crate::format::id::Ino;
use crate::format::key::{self, Kind, TreeId, VALUE_MAX};
use crate::format::record::{InodeRecord, Time};
use crate::format::xattr::{HEAD_BYTES, SYMLINK_MAX, decode_head, more_count};
use crate::fsck::inode::{DEVICES, DIRECTORY, REGULAR, SYMLINK, file_type};
use crate::fsck::pages::Range;
use crate::fsck::projects::Projects;
use crate::fsck::{Bytes, split_u64};
use crate::store::StoreError;

/// What the pass over names needs of an inode.
pub(super) struct Entry {
    pub(super) ino: Ino,
    pub(super) file_type: u8,
    /// As recorded.
    pub(super) nlink: u32,
    /// As recorded, of a directory.
    pub(super) parent: Ino,
    /// Names found.
    pub(super) names: u32,
    /// The directory that names it, and the cookie there: of a directory the only one.
    pub(super) named_in: (Ino, u64),
    /// Entries of a directory, and how many of them are directories.
    pub(super) entries: u64,
    pub(super) subdirectories: u32,
}

/// A dataset's inodes, by number.
#[derive(Default)]
pub(super) struct Inodes {
    pub(super) table: Vec<Entry>,
    pub(super) orphans: BTreeSet<Ino>,
    /// Bytes in extents, and those in reserved ones.
    pub(super) allocated: u64,
    pub(super) reserved: u64,
}

impl Inodes {
    pub(super) fn get_mut(&mut self, ino: Ino) -> Option<&mut Entry> {
        let index = self.index(ino)?;
        self.table.get_mut(index)
    }

    pub(super) fn get(&self, ino: Ino) -> Option<&Entry> {
        self.table.get(self.index(ino)?)
    }

    fn index(&self, ino: Ino) -> Option<usize> {
        self.table
            .binary_search_by_key(&ino, |entry| entry.ino)
            .ok()
    }
}

/// Checks all inodes of a dataset. `lost` are the keys that no page told of.
pub(super) fn check(
    builder: &mut Builder,
    tree: TreeId,
    chunks: &mut Chunks,
    lost: &[Range],
    fixes: &mut Fixes<'_>,
) -> Result<Inodes, StoreError> {
    let view = builder.view();
    let mut pass = Pass {
        builder,
        view: &view,
        tree,
        chunks,
        lost,
        inodes: Inodes::default(),
        projects: Projects::default(),
        group: None,
    };
    if view.get(tree, &key::inode(Ino::ROOT))?.is_none() {
        fixes.add(Fix::RootMade);
        pass.make_root()?;
    }
    view.scan_all(tree, &mut |key, value| pass.take(key, value, fixes))?;
    pass.end_group(fixes)?;
    for (key, value) in pass.projects.recounted() {
        match value {
            Some(value) => pass.builder.put(tree, &key, &value)?,
            None => drop(pass.builder.delete(tree, &key)?),
        }
    }
    let mut inodes = pass.inodes;
    inodes.table.sort_unstable_by_key(|entry| entry.ino);
    Ok(inodes)
}

/// An xattr's value as far as it was read.
struct Value {
    len: usize,
    next: u16,
    whole: bool,
}

/// An inode's records as they come by.
struct Group {
    ino: Ino,
    record: InodeRecord,
    file_type: u8,
    /// Its own record could be read.
    has_record: bool,
    /// Fragments of a symlink's target, and their bytes.
    target: (u16, u64),
    target_whole: bool,
    xattrs: BTreeMap<Vec<u8>, Value>,
    extents: Sweep,
}

struct Pass<'a> {
    builder: &'a mut Builder,
    view: &'a View,
    tree: TreeId,
    chunks: &'a mut Chunks,
    lost: &'a [Range],
    inodes: Inodes,
    projects: Projects,
    group: Option<Group>,
}

/// A record for an inode whose own is gone.
pub(super) fn new_record(file_type: u8, now: Time) -> InodeRecord {
    let permissions = if file_type == DIRECTORY { 0o700 } else { 0o600 };
    InodeRecord {
        mode: u32::from(file_type) << 12 | permissions,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        flags: 0,
        projid: 0,
        xattrs: 0,
        size: 0,
        allocated: 0,
        entries: 0,
        parent: Ino(0),
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
    }
}

/// The type of an inode that has records of a kind.
fn type_of_kind(kind: Kind) -> Option<u8> {
    match kind {
        Kind::Dentry => Some(DIRECTORY),
        Kind::Extent => Some(REGULAR),
        Kind::Symlink => Some(SYMLINK),
        Kind::Inode
        | Kind::Xattr
        | Kind::XattrMore
        | Kind::Orphan
        | Kind::ProjectUse
        | Kind::ProjectLimit
        | Kind::ProjectsCounted => None,
    }
}

impl Pass<'_> {
    fn now(&self) -> Time {
        super::now()
    }

    fn make_root(&mut self) -> Result<(), StoreError> {
        let record = InodeRecord {
            mode: 0o040_755,
            nlink: 2,
            parent: Ino::ROOT,
            ..new_record(DIRECTORY, self.now())
        };
        let key = key::inode(Ino::ROOT);
        self.builder.put(self.tree, &key, &record.encode())?;
        self.begin(Ino::ROOT, Some(record), DIRECTORY);
        Ok(())
    }

    fn drop_key(
        &mut self,
        key: &[u8],
        reason: &str,
        fixes: &mut Fixes<'_>,
    ) -> Result<(), StoreError> {
        fixes.dropped(self.tree, format!("the key {}", key.escape_ascii()), reason);
        self.builder.delete(self.tree, key).map(drop)
    }

    fn take(&mut self, key: &[u8], value: &[u8], fixes: &mut Fixes<'_>) -> Result<(), StoreError> {
        let split = split_u64(key).and_then(|(ino, rest)| {
            let (kind, rest) = rest.split_first()?;
            Some((Ino(ino), Kind::of_byte(*kind)?, rest))
        });
        let Some((ino, kind, rest)) = split else {
            return self.drop_key(key, "it means nothing", fixes);
        };
        if ino.0 == 0 {
            return match (kind, split_u64(rest)) {
                (Kind::Orphan, Some((ino, []))) => {
                    self.inodes.orphans.insert(Ino(ino));
                    Ok(())
                }
                _ if self
                    .projects
                    .take(kind, rest, value)
                    .is_some_and(|taken| taken.is_ok()) =>
                {
                    Ok(())
                }
                _ => self.drop_key(key, "it means nothing", fixes),
            };
        }
        if self.group.as_ref().is_none_or(|group| group.ino != ino) {
            self.end_group(fixes)?;
            if !self.start(ino, kind, rest, value, fixes)? {
                return self.drop_key(key, "its inode is gone", fixes);
            }
        }
        if kind == Kind::Inode && rest.is_empty() {
            return Ok(());
        }
        self.take_record(kind, rest, key, value, fixes)
    }

    /// Begins an inode with the first of its records; false when nothing can be made of it.
    fn start(
        &mut self,
        ino: Ino,
        kind: Kind,
        rest: &[u8],
        value: &[u8],
        fixes: &mut Fixes<'_>,
    ) -> Result<bool, StoreError> {
        let own = (kind == Kind::Inode && rest.is_empty()).then(|| InodeRecord::decode(value));
        match own {
            Some(Ok(record)) => {
                let known =
                    file_type(&record).filter(|kind| ino != Ino::ROOT || *kind == DIRECTORY);
                let kind = match known {
                    Some(kind) => kind,
                    None => self.guess(ino)?.unwrap_or(REGULAR),
                };
                self.begin(ino, Some(record), kind);
            }
            other => {
                if let Some(Err(error)) = other {
                    fixes.dropped(self.tree, format!("the record of inode {ino}"), error);
                    self.builder.delete(self.tree, &key::inode(ino))?;
                }
                let Some(kind) = self.guess(ino)? else {
                    return Ok(false);
                };
                fixes.add(Fix::InodeMade { ino });
                self.begin(ino, None, kind);
            }
        }
        Ok(true)
    }

    /// The type of an inode, by the first record that tells.
    fn guess(&self, ino: Ino) -> Result<Option<u8>, StoreError> {
        if ino == Ino::ROOT {
            return Ok(Some(DIRECTORY));
        }
        for kind in [Kind::Dentry, Kind::Extent, Kind::Symlink] {
            let (start, end) = key::kind_range(ino, kind);
            let mut any = false;
            self.view.scan(self.tree, &start, &end, &mut |_, _| {
                any = true;
                Ok(())
            })?;
            if any {
                return Ok(type_of_kind(kind));
            }
        }
        Ok(None)
    }

    fn begin(&mut self, ino: Ino, own: Option<InodeRecord>, file_type: u8) {
        let has_record = own.is_some();
        let record = own.unwrap_or_else(|| new_record(file_type, self.now()));
        let size = match has_record {
            true => record.size.min(SIZE_MAX),
            false => SIZE_MAX,
        };
        self.group = Some(Group {
            ino,
            file_type,
            has_record,
            target: (0, 0),
            target_whole: true,
            xattrs: BTreeMap::new(),
            extents: Sweep::new(self.tree, ino, size, self.builder.generation()),
            record,
        });
    }

    fn take_record(
        &mut self,
        kind: Kind,
        rest: &[u8],
        key: &[u8],
        value: &[u8],
        fixes: &mut Fixes<'_>,
    ) -> Result<(), StoreError> {
        let Some(group) = &mut self.group else {
            return Ok(());
        };
        let fits = type_of_kind(kind).is_none_or(|of| of == group.file_type);
        if !fits {
            return self.drop_key(key, "its inode is of another type", fixes);
        }
        let known = match kind {
            Kind::Symlink => group.fragment(rest, value),
            Kind::Xattr => group.xattr(rest, value),
            Kind::XattrMore => group.xattr_more(rest, value),
            Kind::Dentry => rest.len() == 8,
            Kind::Extent => match split_u64(rest) {
                Some((offset, [])) => {
                    group
                        .extents
                        .take(self.builder, self.chunks, offset, value, fixes)?;
                    true
                }
                _ => false,
            },
            Kind::Inode
            | Kind::Orphan
            | Kind::ProjectUse
            | Kind::ProjectLimit
            | Kind::ProjectsCounted => false,
        };
        if known {
            return Ok(());
        }
        self.drop_key(key, "it means nothing", fixes)
    }

    fn end_group(&mut self, fixes: &mut Fixes<'_>) -> Result<(), StoreError> {
        let Some(mut group) = self.group.take() else {
            return Ok(());
        };
        let ino = group.ino;
        // An old record may say too little.
        let trusted = group.has_record && !fixes.old.has_own(ino);
        let recorded = trusted.then_some(group.record.allocated);
        if !group.has_record {
            group.record.size = group.extents.cut_at_end();
        }
        let lost = match group.file_type {
            REGULAR => self.lost,
            _ => &[],
        };
        group
            .extents
            .finish(self.builder, self.chunks, recorded, lost, fixes)?;
        self.inodes.allocated = self
            .inodes
            .allocated
            .saturating_add(group.extents.allocated);
        self.inodes.reserved = self.inodes.reserved.saturating_add(group.extents.reserved);
        if group.file_type == SYMLINK && !group.has_target() {
            let reason = "the target of the symlink is not whole";
            fixes.add(Fix::InodeDropped { ino, reason });
            return self.drop_inode(ino);
        }
        self.drop_xattrs(&mut group, fixes)?;
        let before = group.record.clone();
        group.set_fields();
        tell_fields(ino, &before, &group.record, group.has_record, fixes);
        self.builder
            .put(self.tree, &key::inode(ino), &group.record.encode())?;
        let (project, bytes) = (group.record.projid, group.record.allocated);
        self.projects.count(ino, project, bytes);
        self.inodes.table.push(Entry {
            ino,
            file_type: group.file_type,
            nlink: group.record.nlink,
            parent: group.record.parent,
            names: 0,
            named_in: (Ino(0), 0),
            entries: 0,
            subdirectories: 0,
        });
        Ok(())
    }

    /// Removes all that belongs to an inode.
    fn drop_inode(&mut self, ino: Ino) -> Result<(), StoreError> {
        let (start, end) = (key::inode(ino), key::inode(Ino(ino.0.saturating_add(1))));
        let (builder, tree) = (&mut *self.builder, self.tree);
        self.view.scan(tree, &start, &end, &mut |key, _| {
            builder.delete(tree, key).map(drop)
        })
    }

    /// Removes attributes whose value is not whole.
    fn drop_xattrs(&mut self, group: &mut Group, fixes: &mut Fixes<'_>) -> Result<(), StoreError> {
        let ino = group.ino;
        let bad: Vec<Vec<u8>> = group
            .xattrs
            .iter()
            .filter(|(_, value)| !value.whole || value.next != more_count(value.len) + 1)
            .map(|(name, _)| name.clone())
            .collect();
        for name in bad {
            group.xattrs.remove(&name);
            self.builder.delete(self.tree, &key::xattr(ino, &name))?;
            let start = key::xattr_more(ino, &name, 0);
            let end = key::xattr_more(ino, &name, u16::MAX);
            let (builder, tree) = (&mut *self.builder, self.tree);
            self.view.scan(tree, &start, &end, &mut |key, _| {
                builder.delete(tree, key).map(drop)
            })?;
            let name = Bytes(name);
            fixes.add(Fix::XattrLost { ino, name });
        }
        Ok(())
    }
}

impl Group {
    fn fragment(&mut self, rest: &[u8], value: &[u8]) -> bool {
        let Ok(index) = rest.try_into().map(u16::from_be_bytes) else {
            return false;
        };
        let (next, len) = self.target;
        // Every fragment but the last is full.
        self.target_whole &= index == next && len == u64::from(next) * VALUE_MAX as u64;
        self.target = (index.saturating_add(1), len + value.len() as u64);
        true
    }

    fn has_target(&self) -> bool {
        let (_, len) = self.target;
        let right = !self.has_record || len == self.record.size;
        self.target_whole && len > 0 && len <= SYMLINK_MAX as u64 && right
    }

    fn xattr(&mut self, name: &[u8], value: &[u8]) -> bool {
        if name.is_empty() || name.len() > 255 {
            return false;
        }
        let (len, whole) = decode_head(value).map_or((0, false), |(len, _)| (len, true));
        let value = Value {
            len,
            next: 1,
            whole,
        };
        self.xattrs.insert(name.to_vec(), value);
        true
    }

    /// Whether a fragment can be one of an attribute that is there.
    fn xattr_more(&mut self, rest: &[u8], value: &[u8]) -> bool {
        let Some((len, rest)) = rest.split_first() else {
            return false;
        };
        let Some((name, index)) = rest.split_at_checked(usize::from(*len)) else {
            return false;
        };
        let Ok(index) = index.try_into().map(u16::from_be_bytes) else {
            return false;
        };
        let Some(of) = self.xattrs.get_mut(name) else {
            return false;
        };
        let start = HEAD_BYTES + usize::from(index.saturating_sub(1)) * VALUE_MAX;
        let expected = of.len.saturating_sub(start).min(VALUE_MAX);
        of.whole &= index == of.next && expected > 0 && value.len() == expected;
        of.next = index.saturating_add(1);
        true
    }

    /// Makes the record say what was found. Links and entries are set with the names.
    fn set_fields(&mut self) {
        let (kind, record) = (self.file_type, &mut self.record);
        if file_type(record) != Some(kind) {
            record.mode = u32::from(kind) << 12 | (record.mode & 0o7777);
        }
        record.size = match kind {
            REGULAR => record.size.min(SIZE_MAX),
            SYMLINK => self.target.1,
            _ => 0,
        };
        record.allocated = match kind {
            REGULAR => self.extents.allocated,
            _ => 0,
        };
        if kind != DIRECTORY {
            record.entries = 0;
            record.parent = Ino(0);
        }
        if !DEVICES.contains(&kind) {
            record.rdev = 0;
        }
        record.xattrs = u32::try_from(self.xattrs.len()).unwrap_or(u32::MAX);
    }
}

/// Says which fields changed, other than what is only counted.
fn tell_fields(
    ino: Ino,
    before: &InodeRecord,
    after: &InodeRecord,
    has_record: bool,
    fixes: &mut Fixes<'_>,
) {
    if !has_record {
        return;
    }
    let fields = [
        ("mode", before.mode.into(), after.mode.into()),
        ("size", before.size, after.size),
        ("device", before.rdev.into(), after.rdev.into()),
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
