//! One inode: its record, and the records that lie behind it in the tree.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::chunks::Table as Chunks;
use super::{Bytes, Issue, Issues, split_u64};
use crate::format::id::{Generation, Ino};
use crate::format::key::{self, Kind, TreeId, VALUE_MAX};
use crate::format::record::{ExtentRecord, InodeRecord, LineageRecord};
use crate::format::xattr::{HEAD_BYTES, SYMLINK_MAX, decode_head, more_count};

/// The largest file.
const SIZE_MAX: u64 = i64::MAX.unsigned_abs();

/// `mode >> 12` of a directory.
pub(super) const DIRECTORY: u8 = 0o04;
/// `mode >> 12` of a regular file.
pub(super) const REGULAR: u8 = 0o10;
/// `mode >> 12` of a symlink.
pub(super) const SYMLINK: u8 = 0o12;
/// `mode >> 12` of device nodes.
pub(super) const DEVICES: [u8; 2] = [0o02, 0o06];
/// `mode >> 12` of a FIFO and of a socket.
const OTHERS: [u8; 2] = [0o01, 0o14];

/// `mode >> 12`, if it is a file type.
pub(super) fn file_type(record: &InodeRecord) -> Option<u8> {
    let kind = u8::try_from(record.mode >> 12).ok()?;
    let known = [DIRECTORY, REGULAR, SYMLINK].contains(&kind)
        || DEVICES.contains(&kind)
        || OTHERS.contains(&kind);
    known.then_some(kind)
}

/// An xattr's value as far as it was read.
struct Value {
    len: usize,
    next: u16,
}

/// An inode's records as they come by.
pub(super) struct Group {
    tree: TreeId,
    ino: Ino,
    record: InodeRecord,
    file_type: u8,
    target: Option<(u16, u64)>,
    xattrs: BTreeMap<Vec<u8>, Value>,
    extents_end: u64,
    allocated: u64,
    /// Bytes in reserved extents.
    pub(super) reserved: u64,
    pub(super) extents: u64,
    /// The checkpoint in which the newest of its extents was born.
    pub(super) newest_birth: Generation,
    within: Within,
}

/// What an extent is held against.
#[derive(Clone)]
pub(super) struct Within {
    pub(super) newest_generation: u64,
    /// Of the dataset.
    pub(super) lineage: Rc<LineageRecord>,
}

impl Within {
    /// The same, but for references to chunks, of which none counts.
    pub(super) fn uncounted(&self) -> Within {
        let nothing_is_newer = LineageRecord {
            prev_birth: Generation(u64::MAX),
            ..LineageRecord::default()
        };
        Within {
            lineage: Rc::new(nothing_is_newer),
            ..self.clone()
        }
    }
}

impl Group {
    /// Begins with the inode's record, which is checked by itself.
    pub(super) fn new(
        tree: TreeId,
        ino: Ino,
        record: InodeRecord,
        within: Within,
        issues: &mut Issues<'_>,
    ) -> Group {
        let kind = file_type(&record);
        if kind.is_none() {
            let (field, found) = ("mode", record.mode);
            issues.add(Issue::InodeMode { ino, field, found });
        }
        let group = Group {
            tree,
            ino,
            file_type: kind.unwrap_or(0),
            record,
            target: None,
            xattrs: BTreeMap::new(),
            extents_end: 0,
            allocated: 0,
            reserved: 0,
            extents: 0,
            newest_birth: Generation(0),
            within,
        };
        if kind.is_some() {
            group.check_fields(issues);
        }
        group
    }

    /// Its number.
    pub(super) fn ino(&self) -> Ino {
        self.ino
    }

    /// The project that it belongs to.
    pub(super) fn project(&self) -> u32 {
        self.record.projid
    }

    fn check_fields(&self, issues: &mut Issues<'_>) {
        let (record, kind) = (&self.record, self.file_type);
        let size_max = match kind {
            REGULAR => SIZE_MAX,
            SYMLINK => SYMLINK_MAX as u64,
            _ => 0,
        };
        let only = |of: bool, value: u64| if of { 0 } else { value };
        let wrong = [
            ("size", record.size.saturating_sub(size_max)),
            ("space", only(kind == REGULAR, record.allocated)),
            ("number of entries", only(kind == DIRECTORY, record.entries)),
            ("parent", only(kind == DIRECTORY, record.parent.0)),
            ("device", only(DEVICES.contains(&kind), record.rdev.into())),
        ];
        for (field, excess) in wrong {
            if excess != 0 {
                let found = if field == "size" { record.size } else { excess };
                let ino = self.ino;
                issues.add(Issue::InodeField { ino, field, found });
            }
        }
    }

    /// Takes one record of the inode; `rest` is its key behind inode and kind.
    pub(super) fn take(
        &mut self,
        kind: Kind,
        rest: &[u8],
        value: &[u8],
        chunks: &mut Chunks,
        issues: &mut Issues<'_>,
    ) {
        let fits = match kind {
            Kind::Symlink => self.file_type == SYMLINK,
            Kind::Dentry => self.file_type == DIRECTORY,
            Kind::Extent => self.file_type == REGULAR,
            Kind::Inode | Kind::Xattr | Kind::XattrMore => true,
            Kind::Orphan | Kind::ProjectUse | Kind::ProjectLimit | Kind::ProjectsCounted => false,
        };
        if !fits && self.file_type != 0 {
            let ino = self.ino;
            return issues.add(Issue::WrongKind { ino, kind });
        }
        let known = match kind {
            Kind::Inode
            | Kind::Orphan
            | Kind::ProjectUse
            | Kind::ProjectLimit
            | Kind::ProjectsCounted => rest.is_empty(),
            Kind::Symlink => self.fragment(rest, value, issues),
            Kind::Xattr => self.xattr(rest, value, issues),
            Kind::XattrMore => self.xattr_more(rest, value, issues),
            Kind::Dentry => rest.len() == 8,
            Kind::Extent => self.extent(rest, value, chunks, issues),
        };
        if !known {
            let mut key = self.ino.0.to_be_bytes().to_vec();
            key.push(kind as u8);
            key.extend_from_slice(rest);
            let (tree, key) = (self.tree, Bytes(key));
            issues.add(Issue::UnknownKey { tree, key });
        }
    }

    fn fragment(&mut self, rest: &[u8], value: &[u8], issues: &mut Issues<'_>) -> bool {
        let Ok(index) = rest.try_into().map(u16::from_be_bytes) else {
            return false;
        };
        let (next, len) = self.target.unwrap_or((0, 0));
        // Every fragment but the last is full.
        if index != next || len != u64::from(next) * VALUE_MAX as u64 {
            let ino = self.ino;
            issues.add(Issue::SymlinkFragment { ino, index });
        }
        self.target = Some((index.saturating_add(1), len + value.len() as u64));
        true
    }

    fn xattr(&mut self, name: &[u8], value: &[u8], issues: &mut Issues<'_>) -> bool {
        if name.is_empty() || name.len() > 255 {
            return false;
        }
        match decode_head(value) {
            Ok((len, _)) => {
                self.xattrs.insert(name.to_vec(), Value { len, next: 1 });
            }
            Err(error) => {
                let what = format!(
                    "inode {}: extended attribute {:?}",
                    self.ino,
                    Bytes(name.to_vec())
                );
                issues.bad_record(self.tree, what, &error);
                // It counts as one, but its length is unknown.
                self.xattrs.insert(
                    name.to_vec(),
                    Value {
                        len: 0,
                        next: u16::MAX,
                    },
                );
            }
        }
        true
    }

    fn xattr_more(&mut self, rest: &[u8], value: &[u8], issues: &mut Issues<'_>) -> bool {
        let Some((len, rest)) = rest.split_first() else {
            return false;
        };
        let Some((name, index)) = rest.split_at_checked(usize::from(*len)) else {
            return false;
        };
        let Ok(index) = index.try_into().map(u16::from_be_bytes) else {
            return false;
        };
        let right = match self.xattrs.get_mut(name) {
            Some(of) if of.next == u16::MAX => true,
            Some(of) => {
                let start = HEAD_BYTES + usize::from(index.saturating_sub(1)) * VALUE_MAX;
                let expected = of.len.saturating_sub(start).min(VALUE_MAX);
                let right = index == of.next && expected > 0 && value.len() == expected;
                of.next = index.saturating_add(1);
                right
            }
            None => false,
        };
        if !right {
            let (ino, name) = (self.ino, Bytes(name.to_vec()));
            issues.add(Issue::XattrFragment { ino, name, index });
        }
        true
    }

    fn extent(
        &mut self,
        rest: &[u8],
        value: &[u8],
        chunks: &mut Chunks,
        issues: &mut Issues<'_>,
    ) -> bool {
        let Some((offset, [])) = split_u64(rest) else {
            return false;
        };
        let ino = self.ino;
        let extent = match ExtentRecord::decode(value) {
            Ok(extent) => extent,
            Err(error) => {
                issues.bad_record(
                    self.tree,
                    format!("inode {ino}: extent at {offset}"),
                    &error,
                );
                return true;
            }
        };
        let len = extent.len;
        if offset < self.extents_end {
            let end = self.extents_end;
            issues.add(Issue::ExtentOverlap { ino, offset, end });
        }
        let end = offset.saturating_add(len);
        if end > SIZE_MAX {
            issues.add(Issue::ExtentRange { ino, offset, len });
        } else if !extent.is_reserved() && end > self.record.size {
            let size = self.record.size;
            issues.add(Issue::ExtentBeyondSize {
                ino,
                offset,
                len,
                size,
            });
        }
        self.extents_end = self.extents_end.max(end);
        self.allocated = self.allocated.saturating_add(len);
        self.extents += 1;
        self.newest_birth = self.newest_birth.max(extent.birth);
        if extent.birth.0 > self.within.newest_generation {
            let birth = extent.birth;
            issues.add(Issue::ExtentBirth { ino, offset, birth });
        }
        if extent.is_reserved() {
            self.reserved = self.reserved.saturating_add(len);
        } else if extent.is_lost() {
            issues.add(Issue::ContentLost { ino, offset, end });
        } else {
            let key = key::extent(ino, offset);
            let boundary = self.within.lineage.boundary(&key);
            // Below the place to which the tree is deleted, its chunks may be gone.
            if boundary != LineageRecord::PENDING {
                let counts = extent.birth > boundary;
                check_slice(ino, offset, &extent, counts, chunks, issues);
            }
        }
        true
    }

    /// Ends the inode: compares the record with what came by. Returns the bytes of its extents.
    pub(super) fn finish(&self, issues: &mut Issues<'_>) -> u64 {
        let (ino, record) = (self.ino, &self.record);
        let target = self.target.map_or(0, |(_, len)| len);
        if self.file_type == SYMLINK && (target != record.size || target == 0) {
            let (found, recorded) = (target, record.size);
            issues.add(Issue::SymlinkLength {
                ino,
                found,
                recorded,
            });
        }
        for (name, value) in &self.xattrs {
            let expected = more_count(value.len) + 1;
            if value.next < expected {
                let (name, index) = (Bytes(name.clone()), value.next);
                issues.add(Issue::XattrFragment { ino, name, index });
            }
        }
        let found = self.xattrs.len() as u64;
        if found != u64::from(record.xattrs) {
            let recorded = record.xattrs;
            issues.add(Issue::XattrCount {
                ino,
                found,
                recorded,
            });
        }
        if self.file_type == REGULAR && self.allocated != record.allocated {
            let (found, recorded) = (self.allocated, record.allocated);
            issues.add(Issue::Allocated {
                ino,
                found,
                recorded,
            });
        }
        self.allocated
    }
}

/// Checks that an extent's bytes are in its chunk, and counts the reference if it `counts`: of an
/// extent that snapshots share only one does.
fn check_slice(
    ino: Ino,
    offset: u64,
    extent: &ExtentRecord,
    counts: bool,
    chunks: &mut Chunks,
    issues: &mut Issues<'_>,
) {
    let complete = chunks.complete;
    let Some(chunk) = chunks.find(extent.chunk) else {
        if complete {
            let chunk = extent.chunk;
            issues.add(Issue::ExtentChunk { ino, offset, chunk });
        }
        return;
    };
    let raw_len = chunk.raw_len;
    if counts {
        chunks.count(extent.chunk);
    }
    let start = u64::from(extent.chunk_offset);
    let end = start.saturating_add(extent.len);
    if end > u64::from(raw_len) {
        issues.add(Issue::ExtentSlice {
            ino,
            offset,
            chunk: extent.chunk,
            start,
            end,
            len: raw_len,
        });
    }
}
