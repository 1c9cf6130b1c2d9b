//! Inode flags and project ids: `FS_IOC_GETFLAGS`, `FS_IOC_SETFLAGS`, `FS_IOC_FSGETXATTR` and
//! `FS_IOC_FSSETXATTR`.

use super::inode::{
    FLAG_APPEND, FLAG_DIRSYNC, FLAG_IMMUTABLE, FLAG_NOATIME, FLAG_NODUMP, FLAG_SYNC, InodeExt,
};
use super::op::Op;
use super::projects::use_of;
use super::store::Room;
use super::{EngineError, FsXattr, Volume};
use crate::format::id::Ino;
use crate::format::record::InodeRecord;

const FLAG_COMPR: u32 = 0x4;
const FLAG_NOCOMP: u32 = 0x400;
const FLAG_NOTAIL: u32 = 0x8000;
const FLAG_TOPDIR: u32 = 0x2_0000;
const FLAG_NOCOW: u32 = 0x80_0000;
/// New inodes in the directory get its project id.
pub(super) const FLAG_PROJINHERIT: u32 = 0x2000_0000;

/// Flags of any inode, of regular files and directories, and of directories alone: what ext4 and
/// btrfs let users set, as far as razorfs keeps it. Compression and copy-on-write are hints.
const FLAGS_ANY: u32 = FLAG_NODUMP | FLAG_NOATIME | FLAG_IMMUTABLE | FLAG_APPEND;
const FLAGS_CONTENT: u32 =
    FLAGS_ANY | FLAG_SYNC | FLAG_COMPR | FLAG_NOCOMP | FLAG_NOTAIL | FLAG_NOCOW;
const FLAGS_DIR: u32 = FLAGS_CONTENT | FLAG_DIRSYNC | FLAG_TOPDIR | FLAG_PROJINHERIT;

/// Flags that what is made in a directory takes from it.
const FLAGS_INHERITED: u32 = FLAG_SYNC
    | FLAG_NODUMP
    | FLAG_NOATIME
    | FLAG_COMPR
    | FLAG_NOCOMP
    | FLAG_NOTAIL
    | FLAG_DIRSYNC
    | FLAG_NOCOW
    | FLAG_PROJINHERIT;

/// `FS_XFLAG_*` and the inode flag each stands for.
const XFLAGS: [(u32, u32); 6] = [
    (0x0008, FLAG_IMMUTABLE),
    (0x0010, FLAG_APPEND),
    (0x0020, FLAG_SYNC),
    (0x0040, FLAG_NOATIME),
    (0x0080, FLAG_NODUMP),
    (0x0200, FLAG_PROJINHERIT),
];
/// `FS_XFLAG_HASATTR`: told, never set.
const XFLAG_HASATTR: u32 = 0x8000_0000;

fn allowed(record: &InodeRecord) -> u32 {
    if record.is_dir() {
        FLAGS_DIR
    } else if record.is_file() {
        FLAGS_CONTENT
    } else {
        FLAGS_ANY
    }
}

/// Gives a new inode, whose type stands in its mode already, the flags and the project id that it
/// takes from its directory.
pub(super) fn inherit_flags(dir: &InodeRecord, new: &mut InodeRecord) {
    new.flags = dir.flags & FLAGS_INHERITED & allowed(new);
    if dir.flags & FLAG_PROJINHERIT != 0 {
        new.projid = dir.projid;
    }
}

/// Whether `new` may not be linked or renamed into `dir`, because the directory holds one project
/// only.
pub(super) fn other_project(dir: &InodeRecord, inode: &InodeRecord) -> bool {
    dir.flags & FLAG_PROJINHERIT != 0 && dir.projid != inode.projid
}

fn set(record: &mut InodeRecord, flags: u32) -> Result<(), EngineError> {
    if flags & !allowed(record) != 0 {
        return Err(EngineError::NotSupported(
            "an inode flag that razorfs does not keep",
        ));
    }
    if flags & FLAG_COMPR != 0 && flags & FLAG_NOCOMP != 0 {
        return Err(EngineError::Invalid("to compress and not to compress"));
    }
    record.flags = flags;
    Ok(())
}

impl Volume {
    /// The `FS_IOC_GETFLAGS` bits.
    ///
    /// # Errors
    /// [`EngineError::Stale`] when the inode is not there.
    pub fn get_flags(&self, ino: Ino) -> Result<u32, EngineError> {
        Ok(self.load_inode(&self.store.journal.view(), ino)?.flags)
    }

    /// Sets the `FS_IOC_SETFLAGS` bits. Whether the caller may is checked by the guest's kernel.
    ///
    /// # Errors
    /// [`EngineError::NotSupported`] for bits razorfs does not keep.
    pub fn set_flags(&self, ino: Ino, flags: u32) -> Result<(), EngineError> {
        self.alter(ino, |record| set(record, flags))
    }

    /// The `FS_IOC_FSGETXATTR` view of flags and project.
    ///
    /// # Errors
    /// [`EngineError::Stale`] when the inode is not there.
    pub fn get_fsxattr(&self, ino: Ino) -> Result<FsXattr, EngineError> {
        let record = self.load_inode(&self.store.journal.view(), ino)?;
        let has_xattrs = if record.xattrs == 0 { 0 } else { XFLAG_HASATTR };
        let xflags = XFLAGS
            .iter()
            .filter(|(_, flag)| record.flags & flag != 0)
            .fold(has_xattrs, |all, (xflag, _)| all | xflag);
        Ok(FsXattr {
            xflags,
            projid: record.projid,
        })
    }

    /// Sets flags and project by `FS_IOC_FSSETXATTR`; flags that it cannot name stay.
    ///
    /// # Errors
    /// As [`Volume::set_flags`].
    pub fn set_fsxattr(&self, ino: Ino, fsx: FsXattr) -> Result<(), EngineError> {
        let known = XFLAGS
            .iter()
            .fold(XFLAG_HASATTR, |all, (xflag, _)| all | xflag);
        if fsx.xflags & !known != 0 {
            return Err(EngineError::NotSupported(
                "an inode flag that razorfs does not keep",
            ));
        }
        self.change_project(ino, true, |record| {
            let mut flags = record.flags;
            for (xflag, flag) in XFLAGS {
                flags = if fsx.xflags & xflag != 0 {
                    flags | flag
                } else {
                    flags & !flag
                };
            }
            set(record, flags)?;
            record.projid = fsx.projid;
            Ok(())
        })
    }

    /// Changes an inode's record, its project perhaps: with what it has, unwritten bytes included.
    /// With `is_limited` the new project must have room for that.
    pub(super) fn change_project(
        &self,
        ino: Ino,
        is_limited: bool,
        change: impl Fn(&mut InodeRecord) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let mut room = Room::default();
        loop {
            self.store.make_room(&mut room)?;
            let done = self.with_uncounted(ino, |unallocated| {
                let Some(mut op) = self.begin_step(&mut room)? else {
                    return Ok(false);
                };
                let mut record = op.inode(ino)?;
                let before = record.projid;
                change(&mut record)?;
                record.ctime = op.now;
                if before == record.projid {
                    op.put(ino, &record)?;
                    op.commit()?;
                    return Ok(true);
                }
                let bytes = record.allocated.saturating_add(unallocated);
                self.move_project(op, ino, (before, &record), (bytes, is_limited))?;
                Ok(true)
            })?;
            if done {
                return Ok(());
            }
        }
    }

    fn move_project(
        &self,
        mut op: Op<'_>,
        ino: Ino,
        (before, record): (u32, &InodeRecord),
        (bytes, is_limited): (u64, bool),
    ) -> Result<(), EngineError> {
        let usage = &self.dataset.usage;
        if is_limited {
            let limit = usage.project_limit(record.projid).inodes;
            if limit != 0 && use_of(&op.tx, self.tree(), record.projid)?.inodes >= limit {
                return Err(EngineError::Quota);
            }
            usage.try_grow_project(record.projid, bytes)?;
        } else {
            usage.grow_project(record.projid, bytes);
        }
        let done = op.put(ino, record).and_then(|()| op.commit());
        let gone = match done {
            Ok(_) => before,
            Err(_) => record.projid,
        };
        usage.shrink_project(gone, bytes);
        done.map(drop)
    }

    fn alter(
        &self,
        ino: Ino,
        change: impl FnOnce(&mut InodeRecord) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let mut op = self.begin()?;
        let mut record = op.inode(ino)?;
        change(&mut record)?;
        record.ctime = op.now;
        op.put(ino, &record)?;
        op.commit()?;
        Ok(())
    }
}
