//! What callers of a volume pass and get.

use super::EngineError;
use crate::format::id::{Ino, Lsn};
pub use crate::format::record::Time;

/// Who asks, as the guest's kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cred {
    /// File-system user id: owner of what is created.
    pub uid: u32,
    /// File-system group id.
    pub gid: u32,
}

/// An inode's attributes, as `stat` and `statx` want them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: Ino,
    /// Type and permissions.
    pub mode: u32,
    /// Link count.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u32,
    /// Size in bytes.
    pub size: u64,
    /// Space in units of 512 bytes, unwritten data included.
    pub blocks: u64,
    /// Whether some of its bytes are not written out: `blocks` will change when they are.
    pub unwritten: bool,
    /// `FS_IOC_GETFLAGS` bits.
    pub flags: u32,
    /// Last access.
    pub atime: Time,
    /// Last modification.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Birth.
    pub btime: Time,
}

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The volume's clock.
    Now,
    /// This time.
    At(Time),
}

/// What to change of an inode; `None` leaves as it is. ctime always changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttr {
    /// Permission bits (type bits are ignored).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size: truncates or extends with a hole.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last modification.
    pub mtime: Option<SetTime>,
    /// Inode change time to set rather than now (a guest's writeback cache sends it).
    pub ctime: Option<Time>,
    /// By whom suid and sgid are cleared, as by a write (`FATTR_KILL_SUIDGID`); `None`: they stay.
    pub killed_by: Option<Cred>,
}

/// A new inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewInode<'a> {
    /// Type and permissions as the caller asked, before the umask.
    pub mode: u32,
    /// The caller's umask: applied unless the parent has a default ACL.
    pub umask: u32,
    /// Device number for device nodes.
    pub rdev: u32,
    /// A security xattr to set at once (`FUSE_SECURITY_CTX`): name and value pairs.
    pub xattrs: &'a [(&'a [u8], &'a [u8])],
    /// Further group ids of the caller, when known (`FUSE_CREATE_SUPP_GROUP`).
    pub supplementary_gid: Option<u32>,
}

/// `RENAME_*` of rename(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// Replace the target if it is there.
    Replace,
    /// Fail with `Exists` if the target is there.
    NoReplace,
    /// Swap the two.
    Exchange,
    /// Leave a whiteout (character device 0/0) where the source was.
    Whiteout {
        /// Who makes it.
        owner: Cred,
        /// Replace the target if it is there, rather than fail.
        replace: bool,
    },
}

impl RenameMode {
    /// Whether a target that is there goes.
    pub(super) fn replaces(self) -> bool {
        !matches!(
            self,
            RenameMode::NoReplace | RenameMode::Whiteout { replace: false, .. }
        )
    }
}

/// One entry of a directory listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The inode.
    pub ino: Ino,
    /// Pass it to go on after this entry. Stable while the entry exists; below 2^63.
    pub cookie: u64,
    /// `DT_*`.
    pub file_type: u8,
    /// The name.
    pub name: Vec<u8>,
}

/// Where a read's bytes go: guest memory, mostly.
pub trait Sink {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`EngineError::Buffer`] when the destination fails or is too small.
    fn put(&mut self, bytes: &[u8]) -> Result<(), EngineError>;

    /// Takes `len` zeros.
    ///
    /// # Errors
    /// As [`Sink::put`].
    fn zeros(&mut self, len: usize) -> Result<(), EngineError>;
}

/// Where a write's bytes come from: guest memory, mostly.
pub trait Source {
    /// Fills all of `buf` with the next bytes. They are read once: the guest may change them.
    ///
    /// # Errors
    /// [`EngineError::Buffer`] when the source fails or has fewer.
    fn fill(&mut self, buf: &mut [u8]) -> Result<(), EngineError>;
}

impl Source for &[u8] {
    fn fill(&mut self, buf: &mut [u8]) -> Result<(), EngineError> {
        let (now, rest) = self
            .split_at_checked(buf.len())
            .ok_or_else(|| EngineError::Buffer("fewer bytes than announced".into()))?;
        buf.copy_from_slice(now);
        *self = rest;
        Ok(())
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), EngineError> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn zeros(&mut self, len: usize) -> Result<(), EngineError> {
        self.resize(self.len() + len, 0);
        Ok(())
    }
}

/// How a write is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteFlags {
    /// Write at the end of the file, whatever the offset (`O_APPEND`).
    pub append: bool,
    /// Durable on return, with size (`O_DSYNC`) and all metadata (`O_SYNC`).
    pub sync: bool,
    /// By whom suid and sgid are cleared (`FUSE_WRITE_KILL_SUIDGID`); `None`: they stay.
    pub killed_by: Option<Cred>,
    /// The kernel took the bytes when the file could be written to (`FUSE_WRITE_CACHE`). That it is
    /// immutable or append-only by now does not refuse them: who wrote them was told that they are in.
    pub taken: bool,
}

/// `mode` of fallocate(2), of those that are supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallocate {
    /// Reserve space; the size grows unless `keep_size`.
    Allocate {
        /// `FALLOC_FL_KEEP_SIZE`
        keep_size: bool,
    },
    /// Make a hole; the size stays.
    PunchHole,
    /// Zeros, with space reserved.
    ZeroRange {
        /// `FALLOC_FL_KEEP_SIZE`
        keep_size: bool,
    },
}

/// `whence` of lseek(2) that a file system must answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// The next byte of data.
    Data,
    /// The next hole; the end of the file counts as one.
    Hole,
}

/// How an xattr is to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetXattr {
    /// Create or replace.
    Any,
    /// `XATTR_CREATE`: fail with `Exists`.
    Create,
    /// `XATTR_REPLACE`: fail with `NoAttribute`.
    Replace,
}

/// `struct fsxattr` of `FS_IOC_FSGETXATTR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FsXattr {
    /// `FS_XFLAG_*`
    pub xflags: u32,
    /// Project id.
    pub projid: u32,
}

/// What statfs(2) tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatFs {
    /// Bytes of a block: the unit of the next three.
    pub block_bytes: u32,
    /// Blocks in all.
    pub blocks: u64,
    /// Blocks free.
    pub blocks_free: u64,
    /// Blocks free to ordinary users.
    pub blocks_available: u64,
    /// Inodes in all (used and possible).
    pub files: u64,
    /// Inodes still possible.
    pub files_free: u64,
    /// Longest name in bytes.
    pub name_max: u32,
}

/// What `unlink`, `rmdir` or `rename` took away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// The inode whose name is gone.
    pub ino: Ino,
    /// It has no name left: it lives on the orphan list until [`super::Volume::reclaim`].
    pub orphan: bool,
}

/// What a begun fsync waits for: see [`super::Volume::begin_fsync`]. The largest of several is what all of
/// them wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SyncPoint(pub(super) Lsn);

#[cfg(test)]
impl SyncPoint {
    /// One among others, for who knows no logs.
    pub(crate) fn of(number: u64) -> SyncPoint {
        SyncPoint(Lsn(number))
    }
}

/// Where the volume's times come from.
pub type Clock = std::sync::Arc<dyn Fn() -> Time + Send + Sync>;
