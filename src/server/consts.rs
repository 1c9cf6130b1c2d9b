//! Numbers of the FUSE protocol: opcodes, feature bits, flags. From `include/uapi/linux/fuse.h`.

/// Opcodes, and their names for people.
macro_rules! opcodes {
    ($($name:ident = $number:literal,)*) => {
        /// What a request asks for.
        #[allow(missing_docs)]
        pub mod opcode {
            $(pub const $name: u32 = $number;)*

            /// The name of one.
            #[must_use]
            pub fn name(opcode: u32) -> Option<&'static str> {
                match opcode {
                    $($number => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

opcodes! {
    LOOKUP = 1,
    FORGET = 2,
    GETATTR = 3,
    SETATTR = 4,
    READLINK = 5,
    SYMLINK = 6,
    MKNOD = 8,
    MKDIR = 9,
    UNLINK = 10,
    RMDIR = 11,
    RENAME = 12,
    LINK = 13,
    OPEN = 14,
    READ = 15,
    WRITE = 16,
    STATFS = 17,
    RELEASE = 18,
    FSYNC = 20,
    SETXATTR = 21,
    GETXATTR = 22,
    LISTXATTR = 23,
    REMOVEXATTR = 24,
    FLUSH = 25,
    INIT = 26,
    OPENDIR = 27,
    READDIR = 28,
    RELEASEDIR = 29,
    FSYNCDIR = 30,
    GETLK = 31,
    SETLK = 32,
    SETLKW = 33,
    ACCESS = 34,
    CREATE = 35,
    INTERRUPT = 36,
    BMAP = 37,
    DESTROY = 38,
    IOCTL = 39,
    POLL = 40,
    NOTIFY_REPLY = 41,
    BATCH_FORGET = 42,
    FALLOCATE = 43,
    READDIRPLUS = 44,
    RENAME2 = 45,
    LSEEK = 46,
    COPY_FILE_RANGE = 47,
    SETUPMAPPING = 48,
    REMOVEMAPPING = 49,
    SYNCFS = 50,
    TMPFILE = 51,
    STATX = 52,
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
