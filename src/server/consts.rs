//! Numbers of the FUSE protocol: opcodes, feature bits, flags. From `include/uapi/linux/fuse.h`.

/// What a request asks for.
#[allow(missing_docs)]
pub mod opcode {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const GETLK: u32 = 31;
    pub const SETLK: u32 = 32;
    pub const SETLKW: u32 = 33;
    pub const ACCESS: u32 = 34;
    pub const CREATE: u32 = 35;
    pub const INTERRUPT: u32 = 36;
    pub const BMAP: u32 = 37;
    pub const DESTROY: u32 = 38;
    pub const IOCTL: u32 = 39;
    pub const POLL: u32 = 40;
    pub const NOTIFY_REPLY: u32 = 41;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
    pub const COPY_FILE_RANGE: u32 = 47;
    pub const SETUPMAPPING: u32 = 48;
    pub const REMOVEMAPPING: u32 = 49;
    pub const SYNCFS: u32 = 50;
    pub const TMPFILE: u32 = 51;
    pub const STATX: u32 = 52;
}

/// Feature bits of INIT: the lower 32 in `flags`, the upper in `flags2`.
pub mod feature {
    /// Several reads of a file at once.
    pub const ASYNC_READ: u64 = 1 << 0;
    /// LOOKUP of `.` and `..`: NFS handles.
    pub const EXPORT_SUPPORT: u64 = 1 << 4;
    /// Writes beyond 4 KiB.
    pub const BIG_WRITES: u64 = 1 << 5;
    /// The umask is applied here.
    pub const DONT_MASK: u64 = 1 << 6;
    /// IOCTL on directories.
    pub const HAS_IOCTL_DIR: u64 = 1 << 11;
    /// Cached data goes when mtime or size changed.
    pub const AUTO_INVAL_DATA: u64 = 1 << 12;
    /// READDIRPLUS.
    pub const DO_READDIRPLUS: u64 = 1 << 13;
    /// READDIRPLUS when it seems to pay.
    pub const READDIRPLUS_AUTO: u64 = 1 << 14;
    /// Several direct reads and writes at once.
    pub const ASYNC_DIO: u64 = 1 << 15;
    /// The kernel keeps written data back.
    pub const WRITEBACK_CACHE: u64 = 1 << 16;
    /// OPEN may be answered with ENOSYS: there will be no more, and no RELEASE.
    pub const NO_OPEN_SUPPORT: u64 = 1 << 17;
    /// Several lookups and listings in a directory at once.
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    /// ACLs are understood by both sides.
    pub const POSIX_ACL: u64 = 1 << 20;
    /// More than 32 pages in a request.
    pub const MAX_PAGES: u64 = 1 << 22;
    /// Symlinks may be cached.
    pub const CACHE_SYMLINKS: u64 = 1 << 23;
    /// OPENDIR may be answered with ENOSYS: there will be no more, and no RELEASEDIR.
    pub const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    /// Suid, sgid and capabilities are dropped here.
    pub const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    /// The longer SETXATTR.
    pub const SETXATTR_EXT: u64 = 1 << 29;
    /// There are more than 32 feature bits.
    pub const INIT_EXT: u64 = 1 << 30;
    /// Security contexts come with what is created.
    pub const SECURITY_CTX: u64 = 1 << 32;
    /// A group comes with what is created.
    pub const CREATE_SUPP_GROUP: u64 = 1 << 34;
    /// Shared mappings of files without a cache.
    pub const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
}

/// SETATTR: set the mode.
pub const FATTR_MODE: u32 = 1;
/// SETATTR: set the owner.
pub const FATTR_UID: u32 = 2;
/// SETATTR: set the group.
pub const FATTR_GID: u32 = 4;
/// SETATTR: set the size.
pub const FATTR_SIZE: u32 = 8;
/// SETATTR: set the access time.
pub const FATTR_ATIME: u32 = 0x10;
/// SETATTR: set the modification time.
pub const FATTR_MTIME: u32 = 0x20;
/// SETATTR: set the access time to now.
pub const FATTR_ATIME_NOW: u32 = 0x80;
/// SETATTR: set the modification time to now.
pub const FATTR_MTIME_NOW: u32 = 0x100;
/// SETATTR: set the change time.
pub const FATTR_CTIME: u32 = 0x400;
/// SETATTR: drop suid and sgid.
pub const FATTR_KILL_SUIDGID: u32 = 0x800;
/// FSYNC: data and what is needed to find it.
pub const FSYNC_FDATASYNC: u32 = 1;
/// OPEN: drop suid and sgid when truncating.
pub const OPEN_KILL_SUIDGID: u32 = 1;
/// WRITE: out of the page cache, not by the caller of write(2).
pub const WRITE_CACHE: u32 = 1;
/// WRITE: drop suid and sgid.
pub const WRITE_KILL_SUIDGID: u32 = 4;
/// SETXATTR: drop sgid with an access ACL.
pub const SETXATTR_ACL_KILL_SGID: u32 = 1;
/// Extension: supplementary groups.
pub const EXT_GROUPS: u32 = 32;
/// Extensions up to this type are security contexts.
pub const MAX_NR_SECCTX: u32 = 31;
