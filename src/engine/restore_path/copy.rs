//! Copying a tree out of a snapshot: an inode at a time, content by sharing its chunks.
//!
//! All that the snapshot has of an inode comes along but its number, its ctime, which is now, and
//! what was reserved for it without being written. Flags come last, since some forbid the rest; they
//! and missing permissions of the directory that it comes to are not asked.

use std::collections::HashMap;

use crate::engine::dir::is_dots;
use crate::engine::error::check_goes_on;
use crate::engine::inode::InodeExt;
use crate::engine::namespace::{blank, one_more};
use crate::engine::op::Op;
use crate::engine::{Cred, EngineError, Volume};
use crate::format::id::Ino;
use crate::format::key::{self, VALUE_MAX};
use crate::format::record::InodeRecord;
use crate::store::StoreError;

/// Entries looked at together.
const BATCH: usize = if cfg!(test) { 3 } else { 64 };
/// Attributes put in one transaction: of the largest ones, some 1,500 keys.
const STEP_XATTRS: usize = 16;

/// Copies from a snapshot to its dataset.
pub(in crate::engine) struct Copy<'a> {
    from: &'a Volume,
    to: &'a Volume,
    /// Of files with several names that were met, what they became, and how many names are left.
    links: HashMap<Ino, (Ino, u32)>,
    /// Inodes made.
    pub(super) inodes: u64,
}

/// A directory that was made, whose entries are still to come.
struct Pending {
    source: Ino,
    target: Ino,
}

/// What a new inode takes from that of the snapshot.
fn fill(record: &mut InodeRecord, source: &InodeRecord) {
    record.mode = source.mode;
    record.uid = source.uid;
    record.gid = source.gid;
    record.flags = source.flags;
    record.projid = source.projid;
    record.atime = source.atime;
    record.mtime = source.mtime;
    record.btime = source.btime;
}

impl<'a> Copy<'a> {
    pub(in crate::engine) fn new(from: &'a Volume, to: &'a Volume) -> Self {
        Copy {
            from,
            to,
            links: HashMap::new(),
            inodes: 0,
        }
    }

    fn source(&self, ino: Ino) -> Result<InodeRecord, EngineError> {
        self.from.load_inode(&self.from.store.journal.view(), ino)
    }

    /// Makes an inode of the snapshot, and all below it, an entry of a directory. `go_on` is asked for
    /// each.
    ///
    /// # Errors
    /// When the quota or the space does not suffice; when the snapshot cannot be read or the store
    /// refuses; [`EngineError::Interrupted`]. What was made stays.
    pub(in crate::engine) fn tree(
        &mut self,
        source: Ino,
        (dir, name): (Ino, &[u8]),
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), EngineError> {
        let mut pending = Vec::new();
        pending.extend(self.one(source, dir, name)?);
        while let Some(Pending { source, target }) = pending.pop() {
            let mut after = 0;
            loop {
                let mut batch = Vec::new();
                self.from.readdir(source, after, &mut |entry| {
                    after = entry.cookie;
                    if !is_dots(&entry.name) {
                        batch.push((entry.ino, entry.name));
                    }
                    batch.len() < BATCH
                })?;
                if batch.is_empty() {
                    break;
                }
                for (ino, name) in batch {
                    check_goes_on(go_on)?;
                    pending.extend(self.one(ino, target, &name)?);
                }
            }
        }
        Ok(())
    }

    /// One entry; of a directory, what is still to come.
    fn one(&mut self, ino: Ino, dir: Ino, name: &[u8]) -> Result<Option<Pending>, EngineError> {
        let source = self.source(ino)?;
        if !source.is_dir() && source.nlink > 1 && self.link(ino, dir, name)? {
            return Ok(None);
        }
        let target = self.make(ino, &source, dir, name)?;
        self.inodes += 1;
        if source.is_dir() {
            return Ok(Some(Pending {
                source: ino,
                target,
            }));
        }
        if source.nlink > 1 {
            self.links.insert(ino, (target, source.nlink - 1));
        }
        Ok(None)
    }

    /// Gives what a file with several names became one more; whether it was met before.
    fn link(&mut self, ino: Ino, dir: Ino, name: &[u8]) -> Result<bool, EngineError> {
        let Some((target, left)) = self.links.get_mut(&ino) else {
            return Ok(false);
        };
        let target = *target;
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.links.remove(&ino);
        }
        let to = self.to;
        let mut op = to.begin()?;
        let mut record = op.inode(target)?;
        record.nlink = one_more(record.nlink)?;
        to.store_inode(&mut op.tx, target, &record)?;
        enter(&mut op, dir, name, (target, &record))?;
        op.commit()?;
        Ok(true)
    }

    /// Makes an inode with all that is not in another one.
    fn make(
        &self,
        ino: Ino,
        source: &InodeRecord,
        dir: Ino,
        name: &[u8],
    ) -> Result<Ino, EngineError> {
        let to = self.to;
        let mut op = to.begin()?;
        let target = op.new_ino()?;
        let has_more = source.xattrs > 0 || source.is_file() && source.size > 0;
        let owner = Cred {
            uid: source.uid,
            gid: source.gid,
        };
        let mut record = blank(source.mode, owner, op.now);
        record.rdev = source.rdev;
        if !has_more {
            fill(&mut record, source);
        }
        if source.is_dir() {
            record.parent = dir;
        }
        if source.is_symlink() {
            let text = self.from.readlink(ino)?;
            record.size = text.len() as u64;
            for (index, fragment) in (0..=u16::MAX).zip(text.chunks(VALUE_MAX)) {
                op.tx
                    .put(to.tree(), key::symlink(target, index), fragment)?;
            }
        }
        to.store_inode(&mut op.tx, target, &record)?;
        enter(&mut op, dir, name, (target, &record))?;
        op.commit()?;
        if has_more {
            self.content(ino, source, target)?;
            self.attributes(ino, target)?;
            self.settle(source, target)?;
        }
        Ok(target)
    }

    fn content(&self, ino: Ino, source: &InodeRecord, target: Ino) -> Result<(), EngineError> {
        if !source.is_file() {
            return Ok(());
        }
        let mut at = 0;
        while at < source.size {
            let (from, to) = ((ino, at), (target, at));
            let copied = self
                .to
                .copy_range_of(self.from, from, to, source.size - at)?;
            if copied == 0 {
                let what = format!("inode {ino} ends before its size");
                return Err(StoreError::Corrupt(what).into());
            }
            at += copied;
        }
        Ok(())
    }

    fn attributes(&self, ino: Ino, target: Ino) -> Result<(), EngineError> {
        let to = self.to;
        for names in self.from.listxattr(ino)?.chunks(STEP_XATTRS) {
            let view = self.from.store.journal.view();
            let source = self.from.load_inode(&view, ino)?;
            let mut op = to.begin()?;
            let mut record = op.inode(target)?;
            for name in names {
                if let Some(value) = self.from.read_xattr(&view, ino, &source, name)? {
                    to.write_xattr(&mut op.tx, target, &mut record, name, &value)?;
                }
            }
            to.store_inode(&mut op.tx, target, &record)?;
            op.commit()?;
        }
        Ok(())
    }

    /// What copying content changes, or flags would forbid.
    fn settle(&self, source: &InodeRecord, target: Ino) -> Result<(), EngineError> {
        // What it has counts in its project from here on.
        self.to.change_project(target, true, |record| {
            fill(record, source);
            Ok(())
        })
    }
}

/// Makes the entry, and counts it in the directory, whose times stay what they were in the snapshot.
fn enter(
    op: &mut Op<'_>,
    dir: Ino,
    name: &[u8],
    (ino, record): (Ino, &InodeRecord),
) -> Result<(), EngineError> {
    let volume = op.volume;
    let mut parent = op.dir(dir)?;
    let cookie = volume.find(&op.tx, dir, name)?.free()?;
    volume.insert_dentry(&mut op.tx, (dir, cookie, name), ino, record)?;
    parent.entries = parent.entries.saturating_add(1);
    if record.is_dir() {
        parent.nlink = one_more(parent.nlink)?;
    }
    volume.store_inode(&mut op.tx, dir, &parent)
}
