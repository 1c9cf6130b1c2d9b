//! Names: lookup, create, link, unlink. Renaming has a module of its own.

use super::acl::{ACL_ACCESS, ACL_DEFAULT, Acl};
use super::dir::{check_name, is_dots};
use super::flags::{inherit_flags, other_project};
use super::inode::{InodeExt, LINK_MAX, MODE_BITS, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use super::op::Op;
use super::xattr::check_security;
use super::{Attr, Cred, EngineError, NewInode, Removed, Time, Volume};
use crate::format::id::Ino;
use crate::format::key::{self, VALUE_MAX};
use crate::format::record::InodeRecord;
use crate::format::xattr::SYMLINK_MAX;
use crate::log::Tx;
use crate::store::{Read, StoreError};

/// The record of a new inode without content.
pub(super) fn blank(mode: u32, cred: Cred, now: Time) -> InodeRecord {
    InodeRecord {
        mode,
        nlink: if mode & S_IFMT == S_IFDIR { 2 } else { 1 },
        uid: cred.uid,
        gid: cred.gid,
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

/// The mode of an inode to be made, its type checked. Without a type it is a regular file's.
fn checked_mode(mode: u32) -> Result<u32, EngineError> {
    let bits = mode & MODE_BITS;
    match mode & S_IFMT {
        0 => Ok(bits | S_IFREG),
        kind @ (libc::S_IFREG
        | libc::S_IFDIR
        | libc::S_IFIFO
        | libc::S_IFSOCK
        | libc::S_IFCHR
        | libc::S_IFBLK) => Ok(bits | kind),
        _ => Err(EngineError::Invalid(
            "a type of inode that cannot be made so",
        )),
    }
}

/// What a setgid directory passes on: its group, to directories the bit itself, and the bit to
/// nothing that runs as a group its maker is not in (Linux's `mode_strip_sgid`).
fn inherit_setgid(gid: u32, record: &mut InodeRecord, supplementary: Option<u32>) {
    let runs_as_group = libc::S_ISGID | libc::S_IXGRP;
    let member = record.uid == 0 || record.gid == gid || supplementary == Some(gid);
    record.gid = gid;
    if record.is_dir() {
        record.mode |= libc::S_ISGID;
    } else if record.mode & runs_as_group == runs_as_group && !member {
        record.mode &= !libc::S_ISGID;
    }
}

/// Checks the name of something to be made or removed.
fn check_new_name(name: &[u8]) -> Result<(), EngineError> {
    check_name(name)?;
    if is_dots(name) {
        Err(EngineError::Exists)
    } else {
        Ok(())
    }
}

impl Volume {
    /// The inode a name leads to; `.` and `..` too.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::NotDirectory`], [`EngineError::NameTooLong`];
    /// [`EngineError::Stale`] when `dir` is not there.
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attr, EngineError> {
        check_name(name)?;
        let view = self.store.journal.view();
        if is_dots(name) {
            let record = self.load_dir(&view, dir)?;
            let ino = if name.len() == 1 {
                dir
            } else {
                Self::parent_of(dir, &record)
            };
            return Ok(self.attr_of(ino, &self.load_inode(&view, ino)?));
        }
        let found = self.find(&view, dir, name)?.taken().ok();
        let found = found.filter(|(_, dentry)| !self.is_hidden(dir, dentry.ino));
        let Some((_, dentry)) = found else {
            // Only a name that is not there makes it matter what `dir` is.
            self.load_dir(&view, dir)?;
            return Err(EngineError::NotFound);
        };
        let record = self.load_named(&view, dir, dentry.ino)?;
        Ok(self.attr_of(dentry.ino, &record))
    }

    /// Makes a regular file, directory, fifo, socket or device node, by the type in `new.mode`.
    ///
    /// # Errors
    /// [`EngineError::Exists`] when the name is taken.
    pub fn create(
        &self,
        cred: Cred,
        dir: Ino,
        name: &[u8],
        new: &NewInode<'_>,
    ) -> Result<Attr, EngineError> {
        check_new_name(name)?;
        let mode = checked_mode(new.mode)?;
        let mut op = self.begin()?;
        let mut parent = op.dir(dir)?;
        let cookie = self.check_room(&op, dir, &parent, name)?;
        let ino = op.new_ino()?;
        let mut record = blank(mode, cred, op.now);
        if matches!(mode & S_IFMT, libc::S_IFCHR | libc::S_IFBLK) {
            record.rdev = new.rdev;
        }
        self.inherit(&mut op, (dir, &parent), ino, &mut record, new)?;
        if record.is_dir() {
            record.parent = dir;
            parent.nlink = one_more(parent.nlink)?;
        }
        op.put(ino, &record)?;
        self.enter(&mut op, (dir, &mut parent), (cookie, name), ino, &record)?;
        op.commit()?;
        Ok(self.attr_of(ino, &record))
    }

    /// The cookie for a new name in a directory that may get one.
    fn check_room(
        &self,
        op: &Op<'_>,
        dir: Ino,
        parent: &InodeRecord,
        name: &[u8],
    ) -> Result<u64, EngineError> {
        if parent.nlink == 0 {
            return Err(EngineError::NotFound);
        }
        let cookie = self.find(&op.tx, dir, name)?.free()?;
        parent.check_not_immutable()?;
        Ok(cookie)
    }

    /// Makes the entry, and counts it in the directory.
    pub(super) fn enter(
        &self,
        op: &mut Op<'_>,
        (dir, parent): (Ino, &mut InodeRecord),
        (cookie, name): (u64, &[u8]),
        ino: Ino,
        record: &InodeRecord,
    ) -> Result<(), EngineError> {
        self.insert_dentry(&mut op.tx, (dir, cookie, name), ino, record)?;
        parent.entries = parent.entries.saturating_add(1);
        parent.mtime = op.now;
        parent.ctime = op.now;
        op.put(dir, parent)
    }

    /// What a new inode takes from its directory and its maker: group, mode, lists, flags,
    /// attributes.
    fn inherit(
        &self,
        op: &mut Op<'_>,
        (dir, parent): (Ino, &InodeRecord),
        ino: Ino,
        record: &mut InodeRecord,
        new: &NewInode<'_>,
    ) -> Result<(), EngineError> {
        if parent.mode & libc::S_ISGID != 0 {
            inherit_setgid(parent.gid, record, new.supplementary_gid);
        }
        inherit_flags(parent, record);
        let tx = &mut op.tx;
        if !record.is_symlink() {
            match self.read_xattr(tx, dir, parent, ACL_DEFAULT)? {
                Some(bytes) => self.inherit_acl(tx, ino, record, &bytes)?,
                None => record.mode &= !(new.umask & 0o777),
            }
        }
        for (name, value) in new.xattrs {
            check_security(name, value)?;
            self.write_xattr(tx, ino, record, name, value)?;
        }
        Ok(())
    }

    fn inherit_acl(
        &self,
        tx: &mut Tx<'_>,
        ino: Ino,
        record: &mut InodeRecord,
        default: &[u8],
    ) -> Result<(), EngineError> {
        let Some(mut acl) = Acl::decode(default)? else {
            return Ok(());
        };
        if record.is_dir() {
            self.write_xattr(tx, ino, record, ACL_DEFAULT, default)?;
        }
        let bits = record.mode & !0o777;
        record.mode = bits | (acl.inherit(record.mode) & 0o777);
        if !acl.is_minimal() {
            self.write_xattr(tx, ino, record, ACL_ACCESS, &acl.encode())?;
        }
        Ok(())
    }

    /// Makes a symlink to `target` (1 to 4095 bytes). Of `new`, only the xattrs and the
    /// supplementary group count.
    ///
    /// # Errors
    /// As [`Volume::create`]; [`EngineError::NameTooLong`] for a target that is too long.
    pub fn symlink(
        &self,
        cred: Cred,
        dir: Ino,
        name: &[u8],
        target: &[u8],
        new: &NewInode<'_>,
    ) -> Result<Attr, EngineError> {
        check_new_name(name)?;
        if target.len() > SYMLINK_MAX {
            return Err(EngineError::NameTooLong);
        }
        if target.is_empty() || target.contains(&0) {
            return Err(EngineError::Invalid(
                "a target has 1 to 4095 bytes and no NUL",
            ));
        }
        let mut op = self.begin()?;
        let mut parent = op.dir(dir)?;
        let cookie = self.check_room(&op, dir, &parent, name)?;
        let ino = op.new_ino()?;
        let mut record = blank(S_IFLNK | 0o777, cred, op.now);
        self.inherit(&mut op, (dir, &parent), ino, &mut record, new)?;
        record.size = target.len() as u64;
        for (index, fragment) in (0..=u16::MAX).zip(target.chunks(VALUE_MAX)) {
            op.tx.put(self.tree(), key::symlink(ino, index), fragment)?;
        }
        op.put(ino, &record)?;
        self.enter(&mut op, (dir, &mut parent), (cookie, name), ino, &record)?;
        op.commit()?;
        Ok(self.attr_of(ino, &record))
    }

    /// Makes a regular file without a name (`O_TMPFILE`): an orphan until [`Volume::link`] names
    /// it.
    ///
    /// # Errors
    /// As [`Volume::create`].
    pub fn tmpfile(&self, cred: Cred, dir: Ino, new: &NewInode<'_>) -> Result<Attr, EngineError> {
        let mut op = self.begin()?;
        let parent = op.dir(dir)?;
        if parent.nlink == 0 {
            return Err(EngineError::NotFound);
        }
        parent.check_not_immutable()?;
        let ino = op.new_ino()?;
        let mut record = blank(S_IFREG | (new.mode & MODE_BITS), cred, op.now);
        self.inherit(&mut op, (dir, &parent), ino, &mut record, new)?;
        record.nlink = 0;
        op.put(ino, &record)?;
        op.orphan(ino)?;
        op.commit()?;
        Ok(self.attr_of(ino, &record))
    }

    /// Gives an inode that is not a directory one more name.
    ///
    /// # Errors
    /// [`EngineError::Exists`], [`EngineError::TooManyLinks`], [`EngineError::NotPermitted`].
    pub fn link(&self, ino: Ino, dir: Ino, name: &[u8]) -> Result<Attr, EngineError> {
        check_new_name(name)?;
        let mut op = self.begin()?;
        let mut record = op.inode(ino)?;
        let mut parent = op.dir(dir)?;
        if record.is_dir() {
            return Err(EngineError::NotPermitted("a directory has one name"));
        }
        let cookie = self.check_room(&op, dir, &parent, name)?;
        record.check_changeable()?;
        if other_project(&parent, &record) {
            return Err(EngineError::OtherProject);
        }
        if record.nlink == 0 && !op.adopt(ino)? {
            let what = format!("inode {ino} has neither links nor a place on the orphan list");
            return Err(StoreError::Corrupt(what).into());
        }
        record.nlink = one_more(record.nlink)?;
        record.ctime = op.now;
        op.put(ino, &record)?;
        self.enter(&mut op, (dir, &mut parent), (cookie, name), ino, &record)?;
        op.commit()?;
        Ok(self.attr_of(ino, &record))
    }

    /// Takes a name from something that is not a directory.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::IsDirectory`].
    pub fn unlink(&self, dir: Ino, name: &[u8]) -> Result<Removed, EngineError> {
        check_name(name)?;
        if is_dots(name) {
            return Err(EngineError::IsDirectory);
        }
        let mut op = self.begin_removal()?;
        let mut parent = op.dir(dir)?;
        let (cookie, dentry) = self.find(&op.tx, dir, name)?.taken()?;
        let record = self.load_named(&op.tx, dir, dentry.ino)?;
        if record.is_dir() {
            return Err(EngineError::IsDirectory);
        }
        parent.check_changeable()?;
        record.check_changeable()?;
        self.remove_dentry(&mut op.tx, dir, (cookie, &dentry))?;
        let removed = self.drop_link(&mut op, dentry.ino, record)?;
        self.leave(&mut op, dir, &mut parent)?;
        op.commit()?;
        Ok(removed)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`EngineError::NotEmpty`], [`EngineError::NotDirectory`], [`EngineError::NotFound`].
    pub fn rmdir(&self, dir: Ino, name: &[u8]) -> Result<Removed, EngineError> {
        check_name(name)?;
        match name {
            b"." => return Err(EngineError::Invalid("'.' cannot be removed")),
            b".." => return Err(EngineError::NotEmpty),
            _ => {}
        }
        let mut op = self.begin_removal()?;
        let mut parent = op.dir(dir)?;
        let (cookie, dentry) = self.find(&op.tx, dir, name)?.taken()?;
        let record = self.load_named(&op.tx, dir, dentry.ino)?;
        if !record.is_dir() {
            return Err(EngineError::NotDirectory);
        }
        parent.check_changeable()?;
        record.check_changeable()?;
        if record.entries > 0 {
            return Err(EngineError::NotEmpty);
        }
        self.remove_dentry(&mut op.tx, dir, (cookie, &dentry))?;
        let removed = self.drop_link(&mut op, dentry.ino, record)?;
        parent.nlink = parent.nlink.saturating_sub(1);
        self.leave(&mut op, dir, &mut parent)?;
        op.commit()?;
        Ok(removed)
    }

    /// Counts an entry less in a directory.
    fn leave(
        &self,
        op: &mut Op<'_>,
        dir: Ino,
        parent: &mut InodeRecord,
    ) -> Result<(), EngineError> {
        parent.entries = parent.entries.saturating_sub(1);
        parent.mtime = op.now;
        parent.ctime = op.now;
        op.put(dir, parent)
    }

    /// Takes one name's link from an inode, or all of an empty directory's.
    pub(super) fn drop_link(
        &self,
        op: &mut Op<'_>,
        ino: Ino,
        mut record: InodeRecord,
    ) -> Result<Removed, EngineError> {
        record.nlink = if record.is_dir() {
            0
        } else {
            record.nlink.saturating_sub(1)
        };
        record.ctime = op.now;
        let orphan = record.nlink == 0;
        if orphan {
            op.orphan(ino)?;
        }
        op.put(ino, &record)?;
        Ok(Removed { ino, orphan })
    }

    /// A symlink's target.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] when it is no symlink.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>, EngineError> {
        let view = self.store.journal.view();
        let record = self.load_inode(&view, ino)?;
        if !record.is_symlink() {
            return Err(EngineError::Invalid("not a symlink"));
        }
        let len = usize::try_from(record.size)
            .unwrap_or(usize::MAX)
            .min(SYMLINK_MAX);
        let mut target = Vec::with_capacity(len);
        for index in 0..=u16::MAX {
            if target.len() >= len {
                break;
            }
            let key = key::symlink(ino, index);
            view.get_with(self.tree(), &key, |more| target.extend_from_slice(more))?
                .ok_or_else(|| {
                    StoreError::Corrupt(format!("symlink {ino}: its target is cut off"))
                })?;
        }
        Ok(target)
    }
}

/// A link count with one more.
pub(super) fn one_more(nlink: u32) -> Result<u32, EngineError> {
    if nlink >= LINK_MAX {
        Err(EngineError::TooManyLinks)
    } else {
        Ok(nlink + 1)
    }
}
