//! Inodes, attributes and names of what is received.

use std::ops::ControlFlow;

use super::{ReceivedInode, Receiving};
use crate::engine::data::FILE_SIZE_MAX;
use crate::engine::dir::{Slot, check_name, is_dots};
use crate::engine::inode::{InodeExt, LINK_MAX, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use crate::engine::xattr::check_received;
use crate::engine::{EngineError, Volume};
use crate::format::id::Ino;
use crate::format::key::{self, Kind, VALUE_MAX};
use crate::format::record::{DentryRecord, InodeRecord};
use crate::format::xattr::SYMLINK_MAX;
use crate::log::Tx;
use crate::store::pages::Need;
use crate::store::{Read, StoreError};

/// The largest number of an inode: what comes after leaves room for as many again.
pub(super) const INO_MAX: u64 = u64::MAX >> 1;

impl ReceivedInode {
    fn check(&self, ino: Ino) -> Result<(), EngineError> {
        let wrong = |what| Err(EngineError::Invalid(what));
        let kind = self.mode & S_IFMT;
        let is_device = matches!(kind, libc::S_IFCHR | libc::S_IFBLK);
        let is_known = matches!(
            kind,
            S_IFDIR | S_IFREG | S_IFLNK | libc::S_IFIFO | libc::S_IFSOCK
        );
        if ino.0 == 0 || ino.0 > INO_MAX {
            return wrong("an inode of an impossible number");
        }
        if !is_known && !is_device || self.mode > 0o177_777 {
            return wrong("an inode of an unknown type");
        }
        if ino == Ino::ROOT && kind != S_IFDIR {
            return wrong("a root that is no directory");
        }
        if self.rdev != 0 && !is_device {
            return wrong("a device number of what is no device");
        }
        let is_whole = match kind {
            S_IFREG => self.size <= FILE_SIZE_MAX && self.target.is_empty(),
            S_IFLNK => {
                let len = self.target.len();
                (1..=SYMLINK_MAX).contains(&len) && self.size == len as u64
            }
            _ => self.size == 0 && self.target.is_empty(),
        };
        match is_whole {
            true => Ok(()),
            false => wrong("an inode of an impossible size"),
        }
    }

    /// Makes a record say this.
    fn fill(&self, record: &mut InodeRecord) {
        record.mode = self.mode;
        record.uid = self.uid;
        record.gid = self.gid;
        record.rdev = self.rdev;
        record.flags = self.flags;
        record.projid = self.projid;
        record.size = self.size;
        record.atime = self.atime;
        record.mtime = self.mtime;
        record.ctime = self.ctime;
        record.btime = self.btime;
    }
}

/// A blank record: what is not filled in is counted.
fn blank(new: &ReceivedInode) -> InodeRecord {
    let mut record = InodeRecord::new_root(0, 0, 0, new.ctime);
    record.nlink = 0;
    record.parent = Ino(0);
    record
}

impl Receiving {
    fn load(&self, read: &impl Read, ino: Ino) -> Result<InodeRecord, EngineError> {
        match self.volume.load_inode(read, ino) {
            Err(EngineError::Stale) => Err(EngineError::Invalid("an inode that is not there")),
            other => other,
        }
    }

    fn begin(&self, need: Need) -> Result<Tx<'_>, EngineError> {
        self.volume.begin_tx(need)
    }

    /// Makes an inode, or changes what it is. A file that becomes shorter loses what lies behind
    /// its end.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] when there can be no such inode, or it is of another type; over the
    /// quota; when the store refuses.
    pub fn inode(&self, ino: Ino, new: &ReceivedInode) -> Result<(), EngineError> {
        new.check(ino)?;
        let volume = &self.volume;
        let is_shorter = |record: &InodeRecord| record.is_file() && new.size < record.size;
        match volume.load_inode(&self.store().journal.view(), ino) {
            Ok(old) if old.is_file() && is_shorter(&old) && new.mode & S_IFMT == S_IFREG => {
                volume.resize(ino, new.size, &mut |_, _| Ok(()))?;
            }
            Ok(_) | Err(EngineError::Stale) => {}
            Err(error) => return Err(error),
        }
        let mut tx = self.begin(Need::Space)?;
        let record = match volume.load_inode(&tx, ino) {
            Ok(mut record) => {
                if record.mode & S_IFMT != new.mode & S_IFMT {
                    return Err(EngineError::Invalid("an inode that was of another type"));
                }
                if record.is_symlink() && record.size != new.size {
                    return Err(EngineError::Invalid("a symlink that had another target"));
                }
                new.fill(&mut record);
                record
            }
            Err(EngineError::Stale) => self.make(&mut tx, ino, new)?,
            Err(error) => return Err(error),
        };
        volume.store_inode(&mut tx, ino, &record)?;
        tx.commit()?;
        Ok(())
    }

    /// A new inode, which nothing names yet.
    fn make(
        &self,
        tx: &mut Tx<'_>,
        ino: Ino,
        new: &ReceivedInode,
    ) -> Result<InodeRecord, EngineError> {
        let volume = &self.volume;
        let quota = volume.quota(tx)?.inodes;
        let mut counters = volume.load_counters(tx)?;
        if quota != 0 && counters.inodes >= quota {
            return Err(EngineError::Quota);
        }
        counters.inodes = counters.inodes.saturating_add(1);
        counters.next_ino = counters.next_ino.max(ino.0.saturating_add(1));
        let mut record = blank(new);
        new.fill(&mut record);
        for (index, part) in (0..u16::MAX).zip(new.target.chunks(VALUE_MAX)) {
            tx.put(volume.tree(), key::symlink(ino, index), part)?;
        }
        tx.put(volume.tree(), key::orphan(ino), [])?;
        volume.store_counters(tx, &counters)?;
        Ok(record)
    }

    /// Sets an attribute.
    ///
    /// # Errors
    /// When no inode has one like this; when the store refuses.
    pub fn set_xattr(&self, ino: Ino, name: &[u8], value: &[u8]) -> Result<(), EngineError> {
        let mut tx = self.begin(Need::Space)?;
        let mut record = self.load(&tx, ino)?;
        check_received(&record, name, value)?;
        let volume = &self.volume;
        volume.write_xattr(&mut tx, ino, &mut record, name, value)?;
        volume.store_inode(&mut tx, ino, &record)?;
        tx.commit()?;
        Ok(())
    }

    /// Removes an attribute, if it is there.
    ///
    /// # Errors
    /// When there is no such inode; when the store refuses.
    pub fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<(), EngineError> {
        let mut tx = self.begin(Need::Reclaim)?;
        let mut record = self.load(&tx, ino)?;
        check_received(&record, name, &[]).or_else(|error| match error {
            // It says that the value is no list.
            EngineError::Invalid(_) => Ok(()),
            other => Err(other),
        })?;
        let volume = &self.volume;
        volume.delete_xattr(&mut tx, ino, &mut record, name)?;
        volume.store_inode(&mut tx, ino, &record)?;
        tx.commit()?;
        Ok(())
    }

    /// Names an inode. A directory has one name.
    ///
    /// # Errors
    /// When the name is another's or can be none, or a directory would be below itself or have two
    /// names; when the store refuses.
    pub fn link(&self, dir: Ino, name: &[u8], ino: Ino) -> Result<(), EngineError> {
        check_name(name)?;
        if is_dots(name) {
            return Err(EngineError::Invalid("a name that directories have anyway"));
        }
        let volume = &self.volume;
        let mut tx = self.begin(Need::Space)?;
        let mut above = self.load(&tx, dir)?;
        if !above.is_dir() {
            return Err(EngineError::Invalid("a name in what is no directory"));
        }
        let cookie = match volume.find(&tx, dir, name)? {
            Slot::Taken { dentry, .. } if dentry.ino == ino => return Ok(()),
            Slot::Taken { .. } => return Err(EngineError::Invalid("a name that is another's")),
            free => free.free()?,
        };
        let mut record = self.load(&tx, ino)?;
        if record.nlink == 0 {
            tx.delete(volume.tree(), key::orphan(ino))?;
        }
        if record.is_dir() {
            self.check_below(&tx, dir, ino, &record)?;
            record.parent = dir;
            record.nlink = self.subdirectories(&tx, ino, &record)?.saturating_add(2);
            if above.nlink > 0 {
                above.nlink = above.nlink.saturating_add(1);
            }
        } else {
            record.nlink = record.nlink.saturating_add(1);
        }
        if record.nlink.max(above.nlink) > LINK_MAX {
            return Err(EngineError::TooManyLinks);
        }
        above.entries = above.entries.saturating_add(1);
        volume.insert_dentry(&mut tx, (dir, cookie, name), ino, &record)?;
        volume.store_inode(&mut tx, ino, &record)?;
        volume.store_inode(&mut tx, dir, &above)?;
        tx.commit()?;
        Ok(())
    }

    /// Refuses a directory that has a name, or that `dir` is or is below of.
    fn check_below(
        &self,
        tx: &Tx<'_>,
        dir: Ino,
        ino: Ino,
        record: &InodeRecord,
    ) -> Result<(), EngineError> {
        if ino == Ino::ROOT || record.nlink > 0 {
            return Err(EngineError::Invalid("a second name for a directory"));
        }
        // Each has one parent, and none is below itself so far: this ends.
        let mut at = dir;
        while at != Ino::ROOT {
            if at == ino {
                return Err(EngineError::Invalid("a directory below itself"));
            }
            let record = self.load(tx, at)?;
            if record.nlink == 0 {
                break;
            }
            at = record.parent;
        }
        Ok(())
    }

    /// Directories in a directory. What has no name has no place to count them.
    fn subdirectories(
        &self,
        tx: &Tx<'_>,
        dir: Ino,
        record: &InodeRecord,
    ) -> Result<u32, EngineError> {
        if record.entries == 0 {
            return Ok(0);
        }
        let (start, end) = key::kind_range(dir, Kind::Dentry);
        let (mut count, mut wrong) = (0u32, None);
        tx.scan(self.volume.tree(), &start, &end, &mut |_, value| {
            match DentryRecord::decode(value) {
                Ok(dentry) if u32::from(dentry.file_type) << 12 == S_IFDIR => {
                    count = count.saturating_add(1);
                }
                Ok(_) => {}
                Err(error) => wrong = Some(StoreError::format("entry", error)),
            }
            ControlFlow::Continue(())
        })?;
        wrong.map_or(Ok(count), |wrong| Err(wrong.into()))
    }

    /// Takes a name away, if it is there.
    ///
    /// # Errors
    /// When there is no such directory; when the store refuses.
    pub fn unlink(&self, dir: Ino, name: &[u8]) -> Result<(), EngineError> {
        check_name(name)?;
        let volume = &self.volume;
        let mut tx = self.begin(Need::Reclaim)?;
        let mut above = self.load(&tx, dir)?;
        let (cookie, dentry) = match volume.find(&tx, dir, name)? {
            Slot::Taken { cookie, dentry } => (cookie, dentry),
            Slot::Free { .. } => return Ok(()),
        };
        let mut record = volume.load_named(&tx, dir, dentry.ino)?;
        if record.is_dir() {
            record.nlink = 0;
            if above.nlink > 0 {
                above.nlink = above.nlink.saturating_sub(1);
            }
        } else {
            record.nlink = record.nlink.saturating_sub(1);
        }
        if record.nlink == 0 {
            tx.put(volume.tree(), key::orphan(dentry.ino), [])?;
        }
        above.entries = above.entries.saturating_sub(1);
        volume.remove_dentry(&mut tx, dir, (cookie, &dentry))?;
        volume.store_inode(&mut tx, dentry.ino, &record)?;
        volume.store_inode(&mut tx, dir, &above)?;
        tx.commit()?;
        Ok(())
    }

    /// Removes an inode that nothing names and nothing is in, if it is there.
    ///
    /// # Errors
    /// When something names it or is in it; when the store refuses.
    pub fn remove(&self, ino: Ino) -> Result<(), EngineError> {
        let volume: &Volume = &self.volume;
        let record = match volume.load_inode(&self.store().journal.view(), ino) {
            Err(EngineError::Stale) => return Ok(()),
            other => other?,
        };
        if record.nlink > 0 || record.entries > 0 || ino == Ino::ROOT {
            return Err(EngineError::Invalid("an inode that goes with names"));
        }
        volume.note_orphans(Some(ino), None);
        volume.reclaim(ino)
    }
}
