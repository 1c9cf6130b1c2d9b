//! Inodes that come from elsewhere and are to be as they were there: what `razorfs import` makes.
//!
//! Unlike what a guest makes, they take neither group, mode nor lists from their directory.
//!
//! Invariants: what is no directory gets its name in the transaction that gives it the last of its
//! attributes, behind its content. So what has a name is whole, whatever stops an import. And what
//! guests can see changes while no kernel believes what it was told before for long
//! ([`super::kernels`]): where one begins to, the import ends.

use std::sync::Arc;

use super::acl::{ACL_ACCESS, ACL_DEFAULT};
use super::dir::{Slot, check_name, is_dots};
use super::flags::{inherit_flags, other_project};
use super::inode::{InodeExt, MODE_BITS, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use super::kernels::NoneBelieves;
use super::namespace::{blank, one_more};
use super::volume::Dataset;
use super::xattr;
use super::{Cred, EngineError, Removed, SetAttr, SetTime, Time, Volume};
use crate::format::id::Ino;
use crate::format::key::{self, VALUE_MAX};
use crate::format::record::{DentryRecord, InodeRecord};
use crate::format::xattr::SYMLINK_MAX;
use crate::log::Tx;

/// Attributes that one transaction sets or removes: of the largest ones, some 1,500 keys.
const STEP_XATTRS: usize = 16;

/// Why nothing is imported.
const BELIEVED: &str = "a guest uses the dataset that keeps what it was told of it, and would not see \
     what is imported: unmount it there, or export the dataset with --cache auto or never";
const RESTORED: &str = "the dataset is being restored: try again";

/// An extended attribute: its name and its value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// What an inode is to be, whatever its directory and its maker are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportedAttrs {
    /// Permissions with setuid, setgid and sticky; other bits are ignored.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last access.
    pub atime: Time,
    /// Last modification.
    pub mtime: Time,
    /// All extended attributes, ACLs in the form of their xattrs among them.
    pub xattrs: Vec<Xattr>,
}

/// What is made without a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nameless<'a> {
    /// A regular file without content.
    File,
    /// A symlink to this target, 1 to 4095 bytes.
    Symlink(&'a [u8]),
    /// A fifo.
    Fifo,
    /// A device node of this number.
    CharDevice(u32),
    /// A device node of this number.
    BlockDevice(u32),
}

impl Nameless<'_> {
    fn mode_and_rdev(self) -> (u32, u32) {
        match self {
            Nameless::File => (S_IFREG, 0),
            Nameless::Symlink(_) => (S_IFLNK | 0o777, 0),
            Nameless::Fifo => (libc::S_IFIFO, 0),
            Nameless::CharDevice(rdev) => (libc::S_IFCHR, rdev),
            Nameless::BlockDevice(rdev) => (libc::S_IFBLK, rdev),
        }
    }
}

fn check_entry_name(name: &[u8]) -> Result<(), EngineError> {
    check_name(name)?;
    match is_dots(name) {
        true => Err(EngineError::Invalid(
            "'.' and '..' are names of directories",
        )),
        false => Ok(()),
    }
}

fn is_valid(time: Time) -> bool {
    time.nsec < 1_000_000_000
}

/// An import under way: the dataset's only one until this is dropped.
pub struct Importing(Arc<Dataset>);

impl Drop for Importing {
    fn drop(&mut self) {
        *self.0.importing.lock() = None;
    }
}

impl Volume {
    /// Begins an import.
    ///
    /// # Errors
    /// [`EngineError::Busy`] while there is another one, or a kernel that would not see what is
    /// imported; when the dataset takes no changes.
    pub fn begin_import(&self) -> Result<Importing, EngineError> {
        self.check_writable()?;
        let none = self.none_looks_away()?;
        let mut importing = self.dataset.importing.lock();
        if importing.is_some() {
            return Err(EngineError::Busy(
                "something is being imported into the dataset already: try again",
            ));
        }
        *importing = Some(none.begun());
        Ok(Importing(Arc::clone(&self.dataset)))
    }

    /// A time in which whatever changes is seen by all who look: no kernel has begun to believe for
    /// long since the import began. That one was here and is not now is not enough: it may be on its
    /// way to another process, and goes on there with what it was told.
    fn seen_by_all(&self) -> Result<NoneBelieves<'_>, EngineError> {
        let none = self.none_looks_away()?;
        let before = *self.dataset.importing.lock();
        match before.is_none_or(|before| before == none.begun()) {
            true => Ok(none),
            false => Err(EngineError::Busy(BELIEVED)),
        }
    }

    fn none_looks_away(&self) -> Result<NoneBelieves<'_>, EngineError> {
        self.none_believes()
            .ok_or_else(|| match self.is_unserved() {
                true => EngineError::Busy(RESTORED),
                false => EngineError::Busy(BELIEVED),
            })
    }

    /// Where a name stands in a directory, or would: no place for what is nobody's but razorfs's.
    fn slot(&self, op: &super::op::Op<'_>, dir: Ino, name: &[u8]) -> Result<Slot, EngineError> {
        let slot = self.find(&op.tx, dir, name)?;
        match slot {
            Slot::Taken { dentry, .. } if self.is_hidden(dir, dentry.ino) => {
                Err(EngineError::NotPermitted("the name is razorfs's own"))
            }
            slot => Ok(slot),
        }
    }

    /// Makes an inode that has no name yet and is meant for directory `dir`: an orphan, which only
    /// root may use, until [`Volume::import_named`] names it.
    ///
    /// # Errors
    /// Over the quota; when the target is too long; when the store refuses.
    pub fn import_nameless(&self, dir: Ino, what: Nameless<'_>) -> Result<Ino, EngineError> {
        let target = match what {
            Nameless::Symlink(target) => target,
            _ => &[],
        };
        if target.len() > SYMLINK_MAX {
            return Err(EngineError::NameTooLong);
        }
        let is_symlink = matches!(what, Nameless::Symlink(_));
        if target.contains(&0) || (is_symlink && target.is_empty()) {
            return Err(EngineError::Invalid(
                "a target has 1 to 4095 bytes and no NUL",
            ));
        }
        let mut op = self.begin()?;
        let parent = op.dir(dir)?;
        let ino = op.new_ino()?;
        let (mode, rdev) = what.mode_and_rdev();
        let mut record = blank(mode, Cred::default(), op.now);
        record.rdev = rdev;
        record.size = target.len() as u64;
        record.nlink = 0;
        inherit_flags(&parent, &mut record);
        for (index, fragment) in (0..=u16::MAX).zip(target.chunks(VALUE_MAX)) {
            op.tx.put(self.tree(), key::symlink(ino, index), fragment)?;
        }
        op.put(ino, &record)?;
        op.orphan(ino)?;
        op.commit()?;
        Ok(ino)
    }

    /// Gives an inode of [`Volume::import_nameless`] its attributes and its name, in the place of
    /// what has that name and is no directory; what was replaced is returned. Its content precedes
    /// its name in the log.
    ///
    /// # Errors
    /// [`EngineError::IsDirectory`] when a directory has the name; as [`Volume::setxattr`] for its
    /// attributes; when the store refuses. The inode has no name then.
    pub fn import_named(
        &self,
        ino: Ino,
        attrs: &ImportedAttrs,
        dir: Ino,
        name: &[u8],
    ) -> Result<Option<Removed>, EngineError> {
        check_entry_name(name)?;
        // Otherwise the name could be there after a crash, and the content not.
        self.write_out_for_rename(ino)?;
        let rest = self.set_first_xattrs(ino, attrs)?;
        let _seen = self.seen_by_all()?;
        let mut op = self.begin()?;
        let mut record = op.inode(ino)?;
        self.fill(&mut op.tx, ino, &mut record, attrs)?;
        self.set_imported(&mut op.tx, ino, &mut record, rest)?;
        if !op.adopt(ino)? {
            return Err(EngineError::Invalid("an inode that has a name already"));
        }
        record.nlink = 1;
        op.put(ino, &record)?;
        let removed = self.put_name(&mut op, (dir, name), ino, &record)?;
        op.commit()?;
        Ok(removed)
    }

    /// Gives an inode that is no directory one more name, in the place of what has that name and is
    /// none either; what was replaced is returned.
    ///
    /// # Errors
    /// [`EngineError::IsDirectory`], [`EngineError::TooManyLinks`]; when the store refuses.
    pub fn import_link(
        &self,
        ino: Ino,
        dir: Ino,
        name: &[u8],
    ) -> Result<Option<Removed>, EngineError> {
        check_entry_name(name)?;
        let _seen = self.seen_by_all()?;
        let mut op = self.begin()?;
        let mut record = op.inode(ino)?;
        if record.is_dir() {
            return Err(EngineError::NotPermitted("a directory has one name"));
        }
        if let Slot::Taken { dentry, .. } = self.slot(&op, dir, name)?
            && dentry.ino == ino
        {
            return Ok(None);
        }
        record.check_changeable()?;
        if record.nlink == 0 {
            return Err(EngineError::Stale);
        }
        record.nlink = one_more(record.nlink)?;
        record.ctime = op.now;
        op.put(ino, &record)?;
        let removed = self.put_name(&mut op, (dir, name), ino, &record)?;
        op.commit()?;
        Ok(removed)
    }

    /// Makes a directory, of root's and with mode 0700; in the place of what has that name if that
    /// is no directory. One that is there stays as it is.
    ///
    /// # Errors
    /// Over the quota; when the store refuses.
    pub fn import_dir(&self, dir: Ino, name: &[u8]) -> Result<(Ino, Option<Removed>), EngineError> {
        check_entry_name(name)?;
        let _seen = self.seen_by_all()?;
        let mut op = self.begin()?;
        let mut parent = op.dir(dir)?;
        parent.check_not_immutable()?;
        if let Slot::Taken { dentry, .. } = self.slot(&op, dir, name)?
            && self.load_named(&op.tx, dir, dentry.ino)?.is_dir()
        {
            return Ok((dentry.ino, None));
        }
        let ino = op.new_ino()?;
        let mut record = blank(S_IFDIR | 0o700, Cred::default(), op.now);
        inherit_flags(&parent, &mut record);
        record.parent = dir;
        parent.nlink = one_more(parent.nlink)?;
        op.put(dir, &parent)?;
        op.put(ino, &record)?;
        let removed = self.put_name(&mut op, (dir, name), ino, &record)?;
        op.commit()?;
        Ok((ino, removed))
    }

    /// Gives a directory these attributes and no others.
    ///
    /// # Errors
    /// As [`Volume::setxattr`]; when the store refuses.
    pub fn import_dir_attrs(&self, ino: Ino, attrs: &ImportedAttrs) -> Result<(), EngineError> {
        let _seen = self.seen_by_all()?;
        for name in self.listxattr(ino)? {
            if !attrs.xattrs.iter().any(|(kept, _)| *kept == name) {
                self.removexattr(ino, &name)?;
            }
        }
        let rest = self.set_first_xattrs(ino, attrs)?;
        let mut op = self.begin()?;
        let mut record = op.dir(ino)?;
        record.check_changeable()?;
        self.fill(&mut op.tx, ino, &mut record, attrs)?;
        self.set_imported(&mut op.tx, ino, &mut record, rest)?;
        op.put(ino, &record)?;
        op.commit()?;
        Ok(())
    }

    /// Gives a directory these times, once all is in it.
    ///
    /// # Errors
    /// When it is not there any more; when the store refuses.
    pub fn import_dir_times(&self, ino: Ino, atime: Time, mtime: Time) -> Result<(), EngineError> {
        let _seen = self.seen_by_all()?;
        let set = SetAttr {
            atime: Some(SetTime::At(atime)),
            mtime: Some(SetTime::At(mtime)),
            ..SetAttr::default()
        };
        self.setattr(ino, &set).map(drop)
    }

    /// Whether attributes of this name are kept.
    #[must_use]
    pub fn keeps_xattr(name: &[u8]) -> bool {
        xattr::is_kept(name)
    }

    /// Sets all but the last few attributes, a few in each transaction; returns those few.
    fn set_first_xattrs<'a>(
        &self,
        ino: Ino,
        attrs: &'a ImportedAttrs,
    ) -> Result<&'a [Xattr], EngineError> {
        let mut rest = attrs.xattrs.as_slice();
        while let Some((now, later)) = rest.split_at_checked(STEP_XATTRS) {
            if later.is_empty() {
                break;
            }
            let mut op = self.begin()?;
            let mut record = op.inode(ino)?;
            self.set_imported(&mut op.tx, ino, &mut record, now)?;
            op.put(ino, &record)?;
            op.commit()?;
            rest = later;
        }
        Ok(rest)
    }

    /// Sets attributes. The caller puts the record.
    fn set_imported(
        &self,
        tx: &mut Tx<'_>,
        ino: Ino,
        record: &mut InodeRecord,
        xattrs: &[Xattr],
    ) -> Result<(), EngineError> {
        for (name, value) in xattrs {
            xattr::check_imported(record, name, value)?;
            if name == ACL_ACCESS || name == ACL_DEFAULT {
                self.set_acl(tx, ino, record, name, value, false)?;
            } else {
                self.write_xattr(tx, ino, record, name, value)?;
            }
        }
        Ok(())
    }

    /// Everything but the extended attributes. The caller puts the record.
    fn fill(
        &self,
        tx: &mut Tx<'_>,
        ino: Ino,
        record: &mut InodeRecord,
        attrs: &ImportedAttrs,
    ) -> Result<(), EngineError> {
        if !is_valid(attrs.atime) || !is_valid(attrs.mtime) {
            return Err(EngineError::Invalid("nanoseconds are below 1,000,000,000"));
        }
        if !record.is_symlink() {
            record.mode = (record.mode & S_IFMT) | (attrs.mode & MODE_BITS);
            self.chmod_acl(tx, ino, record)?;
        }
        record.uid = attrs.uid;
        record.gid = attrs.gid;
        record.atime = attrs.atime;
        record.mtime = attrs.mtime;
        record.ctime = self.now();
        Ok(())
    }

    /// Makes an entry for an inode, in the place of what is there and is no directory.
    fn put_name(
        &self,
        op: &mut super::op::Op<'_>,
        (dir, name): (Ino, &[u8]),
        ino: Ino,
        record: &InodeRecord,
    ) -> Result<Option<Removed>, EngineError> {
        let mut parent = op.dir(dir)?;
        if parent.nlink == 0 {
            return Err(EngineError::NotFound);
        }
        parent.check_not_immutable()?;
        if other_project(&parent, record) {
            return Err(EngineError::OtherProject);
        }
        let slot = self.slot(op, dir, name)?;
        let Slot::Taken { cookie, dentry } = slot else {
            let cookie = slot.free()?;
            self.enter(op, (dir, &mut parent), (cookie, name), ino, record)?;
            return Ok(None);
        };
        let old = self.load_named(&op.tx, dir, dentry.ino)?;
        if old.is_dir() {
            return Err(EngineError::IsDirectory);
        }
        parent.check_changeable()?;
        old.check_changeable()?;
        let replaced = dentry.ino;
        let dentry = DentryRecord {
            ino,
            file_type: record.file_type(),
            ..dentry
        };
        self.put_dentry(&mut op.tx, dir, cookie, &dentry)?;
        parent.mtime = op.now;
        parent.ctime = op.now;
        op.put(dir, &parent)?;
        Ok(Some(self.drop_link(op, replaced, old)?))
    }
}

impl Volume {
    /// Frees what an import made and did not come to name, or replaced: once no kernel knows it.
    pub fn import_drop(&self, ino: Ino) {
        match self.has_no_name(ino) {
            Ok(true) if self.is_writable() => self.release(ino),
            // What is read-only is not changed any more, and the next opening frees it.
            Ok(_) => {}
            Err(error) => log::warn!("whether inode {ino} has a name: {error}"),
        }
    }
}
