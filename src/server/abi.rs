//! The messages of the FUSE protocol, as `include/uapi/linux/fuse.h` of Linux 6.6 (7.39) has them.
//!
//! Numbers are in the byte order of the kernel that talks, which is the host's (virtio-fs has no
//! cross-endian mode: VirtIO 1.3, 5.11.6). Everything here is plain data that any bytes are valid
//! for: a request is copied out of memory once, and only the copy is looked at.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Protocol major.
pub const MAJOR: u32 = 7;
/// Protocol minor that is spoken at most.
pub const MINOR: u32 = 39;
/// The oldest minor that is spoken: structures had other sizes before.
pub const MINOR_MIN: u32 = 27;

/// The head of every request.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InHeader {
    /// Bytes of the whole request.
    pub len: u32,
    /// `opcode::*`.
    pub opcode: u32,
    /// Comes back in the reply.
    pub unique: u64,
    /// The inode it is about.
    pub nodeid: u64,
    /// File-system user of the caller.
    pub uid: u32,
    /// File-system group of the caller.
    pub gid: u32,
    /// The caller.
    pub pid: u32,
    /// Extensions behind the body, in units of 8 bytes (7.38).
    pub total_extlen: u16,
    /// Not used.
    pub padding: u16,
}

const _: () = assert!(size_of::<InHeader>() == 40);

/// The head of every reply.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OutHeader {
    /// Bytes of the whole reply.
    pub len: u32,
    /// 0 or a negative errno.
    pub error: i32,
    /// The request's.
    pub unique: u64,
}

const _: () = assert!(size_of::<OutHeader>() == 16);

/// `FUSE_INIT`; 16 bytes up to 7.35, the rest is zero then.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InitIn {
    /// Protocol major.
    pub major: u32,
    /// Protocol minor.
    pub minor: u32,
    /// Bytes.
    pub max_readahead: u32,
    /// The lower feature bits.
    pub flags: u32,
    /// The upper feature bits, with `INIT_EXT`.
    pub flags2: u32,
    /// Not used.
    pub unused: [u32; 11],
}

const _: () = assert!(size_of::<InitIn>() == 64);

/// Answer to `FUSE_INIT`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InitOut {
    /// Protocol major.
    pub major: u32,
    /// Protocol minor.
    pub minor: u32,
    /// Bytes.
    pub max_readahead: u32,
    /// The lower feature bits.
    pub flags: u32,
    /// Requests in flight that nobody waits for.
    pub max_background: u16,
    /// From when on the kernel holds back.
    pub congestion_threshold: u16,
    /// Bytes of one WRITE.
    pub max_write: u32,
    /// Nanoseconds that times are kept to.
    pub time_gran: u32,
    /// Pages of one request.
    pub max_pages: u16,
    /// For DAX.
    pub map_alignment: u16,
    /// The upper feature bits.
    pub flags2: u32,
    /// Not used.
    pub unused: [u32; 7],
}

const _: () = assert!(size_of::<InitOut>() == 64);

/// Attributes as GETATTR has them.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Attr {
    /// Inode.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Units of 512 bytes.
    pub blocks: u64,
    /// Seconds, signed in fact.
    pub atime: u64,
    /// Seconds.
    pub mtime: u64,
    /// Seconds.
    pub ctime: u64,
    /// Nanoseconds.
    pub atimensec: u32,
    /// Nanoseconds.
    pub mtimensec: u32,
    /// Nanoseconds.
    pub ctimensec: u32,
    /// Type and permissions.
    pub mode: u32,
    /// Links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number.
    pub rdev: u32,
    /// Preferred I/O size.
    pub blksize: u32,
    /// `FUSE_ATTR_*`.
    pub flags: u32,
}

const _: () = assert!(size_of::<Attr>() == 88);

/// A name's inode, and how long that may be believed.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EntryOut {
    /// Inode, 0 for a name that is not there.
    pub nodeid: u64,
    /// Of the inode number.
    pub generation: u64,
    /// Seconds the name may be cached.
    pub entry_valid: u64,
    /// Seconds the attributes may be cached.
    pub attr_valid: u64,
    /// Nanoseconds.
    pub entry_valid_nsec: u32,
    /// Nanoseconds.
    pub attr_valid_nsec: u32,
    /// Attributes.
    pub attr: Attr,
}

const _: () = assert!(size_of::<EntryOut>() == 128);

/// Answer to GETATTR and SETATTR.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AttrOut {
    /// Seconds.
    pub attr_valid: u64,
    /// Nanoseconds.
    pub attr_valid_nsec: u32,
    /// Not used.
    pub dummy: u32,
    /// Attributes.
    pub attr: Attr,
}

const _: () = assert!(size_of::<AttrOut>() == 104);

/// Drops lookups of an inode.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ForgetIn {
    /// How many.
    pub nlookup: u64,
}

const _: () = assert!(size_of::<ForgetIn>() == 8);

/// One of a batch.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ForgetOne {
    /// Inode.
    pub nodeid: u64,
    /// How many.
    pub nlookup: u64,
}

const _: () = assert!(size_of::<ForgetOne>() == 16);

/// Drops lookups of many inodes.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BatchForgetIn {
    /// How many follow.
    pub count: u32,
    /// Not used.
    pub dummy: u32,
}

const _: () = assert!(size_of::<BatchForgetIn>() == 8);

/// A time in `Statx`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SxTime {
    /// Seconds.
    pub sec: i64,
    /// Nanoseconds.
    pub nsec: u32,
    /// Not used.
    pub reserved: i32,
}

const _: () = assert!(size_of::<SxTime>() == 16);

/// Attributes as statx(2) has them.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Statx {
    /// What is filled in.
    pub mask: u32,
    /// Preferred I/O size.
    pub blksize: u32,
    /// `STATX_ATTR_*`.
    pub attributes: u64,
    /// Links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Type and permissions.
    pub mode: u16,
    /// Not used.
    pub spare0: u16,
    /// Inode.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Units of 512 bytes.
    pub blocks: u64,
    /// The attributes that mean something.
    pub attributes_mask: u64,
    /// Last access.
    pub atime: SxTime,
    /// Birth.
    pub btime: SxTime,
    /// Last change.
    pub ctime: SxTime,
    /// Last modification.
    pub mtime: SxTime,
    /// Device node.
    pub rdev_major: u32,
    /// Device node.
    pub rdev_minor: u32,
    /// File system; the kernel puts its own.
    pub dev_major: u32,
    /// File system.
    pub dev_minor: u32,
    /// Not used.
    pub spare2: [u64; 14],
}

const _: () = assert!(size_of::<Statx>() == 256);

/// STATX (7.39).
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StatxIn {
    /// `GETATTR_FH`.
    pub getattr_flags: u32,
    /// Not used.
    pub reserved: u32,
    /// Handle.
    pub fh: u64,
    /// `AT_STATX_*`.
    pub sx_flags: u32,
    /// What is wanted.
    pub sx_mask: u32,
}

const _: () = assert!(size_of::<StatxIn>() == 24);

/// Answer to STATX.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StatxOut {
    /// Seconds.
    pub attr_valid: u64,
    /// Nanoseconds.
    pub attr_valid_nsec: u32,
    /// Not used.
    pub flags: u32,
    /// Not used.
    pub spare: [u64; 2],
    /// Attributes.
    pub stat: Statx,
}

const _: () = assert!(size_of::<StatxOut>() == 288);

/// MKNOD; a name follows.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MknodIn {
    /// Type and permissions.
    pub mode: u32,
    /// Device number.
    pub rdev: u32,
    /// The caller's.
    pub umask: u32,
    /// Not used.
    pub padding: u32,
}

const _: () = assert!(size_of::<MknodIn>() == 16);

/// MKDIR; a name follows.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MkdirIn {
    /// Permissions.
    pub mode: u32,
    /// The caller's.
    pub umask: u32,
}

const _: () = assert!(size_of::<MkdirIn>() == 8);

/// RENAME; two names follow.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RenameIn {
    /// Directory of the second name.
    pub newdir: u64,
}

const _: () = assert!(size_of::<RenameIn>() == 8);

/// RENAME2; two names follow.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Rename2In {
    /// Directory of the second name.
    pub newdir: u64,
    /// `RENAME_*`.
    pub flags: u32,
    /// Not used.
    pub padding: u32,
}

const _: () = assert!(size_of::<Rename2In>() == 16);

/// LINK; a name follows.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LinkIn {
    /// The inode to link.
    pub oldnodeid: u64,
}

const _: () = assert!(size_of::<LinkIn>() == 8);

/// SETATTR.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetattrIn {
    /// `FATTR_*`.
    pub valid: u32,
    /// Not used.
    pub padding: u32,
    /// Handle.
    pub fh: u64,
    /// Bytes.
    pub size: u64,
    /// Owner of mandatory locks.
    pub lock_owner: u64,
    /// Seconds.
    pub atime: u64,
    /// Seconds.
    pub mtime: u64,
    /// Seconds.
    pub ctime: u64,
    /// Nanoseconds.
    pub atimensec: u32,
    /// Nanoseconds.
    pub mtimensec: u32,
    /// Nanoseconds.
    pub ctimensec: u32,
    /// Permissions.
    pub mode: u32,
    /// Not used.
    pub unused4: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Not used.
    pub unused5: u32,
}

const _: () = assert!(size_of::<SetattrIn>() == 88);

/// OPEN and OPENDIR.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OpenIn {
    /// `O_*`.
    pub flags: u32,
    /// `FUSE_OPEN_*`.
    pub open_flags: u32,
}

const _: () = assert!(size_of::<OpenIn>() == 8);

/// CREATE and TMPFILE; a name follows.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CreateIn {
    /// `O_*`.
    pub flags: u32,
    /// Permissions.
    pub mode: u32,
    /// The caller's.
    pub umask: u32,
    /// `FUSE_OPEN_*`.
    pub open_flags: u32,
}

const _: () = assert!(size_of::<CreateIn>() == 16);

/// Answer to OPEN.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OpenOut {
    /// Handle.
    pub fh: u64,
    /// `FOPEN_*`.
    pub open_flags: u32,
    /// Not used.
    pub padding: u32,
}

const _: () = assert!(size_of::<OpenOut>() == 16);

/// READ, READDIR and READDIRPLUS.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReadIn {
    /// Handle.
    pub fh: u64,
    /// Bytes, or a cookie.
    pub offset: u64,
    /// Bytes.
    pub size: u32,
    /// `FUSE_READ_*`.
    pub read_flags: u32,
    /// Owner of mandatory locks.
    pub lock_owner: u64,
    /// `O_*`.
    pub flags: u32,
    /// Not used.
    pub padding: u32,
}

const _: () = assert!(size_of::<ReadIn>() == 40);

/// WRITE; the bytes follow.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WriteIn {
    /// Handle.
    pub fh: u64,
    /// Bytes.
    pub offset: u64,
    /// Bytes.
    pub size: u32,
    /// `FUSE_WRITE_*`.
    pub write_flags: u32,
    /// Owner of mandatory locks.
    pub lock_owner: u64,
    /// `O_*`.
    pub flags: u32,
    /// Not used.
    pub padding: u32,
}

const _: () = assert!(size_of::<WriteIn>() == 40);

/// Answer to WRITE and COPY_FILE_RANGE.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WriteOut {
    /// Bytes done.
    pub size: u32,
    /// Not used.
    pub padding: u32,
}

const _: () = assert!(size_of::<WriteOut>() == 8);

/// Answer to STATFS.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StatfsOut {
    /// Blocks in all.
    pub blocks: u64,
    /// Free.
    pub bfree: u64,
    /// Free to users.
    pub bavail: u64,
    /// Inodes.
    pub files: u64,
    /// Free.
    pub ffree: u64,
    /// Preferred I/O size.
    pub bsize: u32,
    /// Longest name.
    pub namelen: u32,
    /// Bytes of a block.
    pub frsize: u32,
    /// Not used.
    pub padding: u32,
    /// Not used.
    pub spare: [u32; 6],
}

const _: () = assert!(size_of::<StatfsOut>() == 80);

/// FSYNC and FSYNCDIR.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FsyncIn {
    /// Handle.
    pub fh: u64,
    /// `FUSE_FSYNC_*`.
    pub fsync_flags: u32,
    /// Not used.
    pub padding: u32,
}

const _: () = assert!(size_of::<FsyncIn>() == 16);

/// SETXATTR without `SETXATTR_EXT`; a name and the value follow.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetxattrCompatIn {
    /// Bytes of the value.
    pub size: u32,
    /// `XATTR_*`.
    pub flags: u32,
}

const _: () = assert!(size_of::<SetxattrCompatIn>() == 8);

/// SETXATTR with `SETXATTR_EXT`; a name and the value follow.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetxattrIn {
    /// Bytes of the value.
    pub size: u32,
    /// `XATTR_*`.
    pub flags: u32,
    /// `FUSE_SETXATTR_*`.
    pub setxattr_flags: u32,
    /// Not used.
    pub padding: u32,
}

const _: () = assert!(size_of::<SetxattrIn>() == 16);

/// GETXATTR (a name follows) and LISTXATTR.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetxattrIn {
    /// Bytes the caller has room for; 0 asks for the length.
    pub size: u32,
    /// Not used.
    pub padding: u32,
}

const _: () = assert!(size_of::<GetxattrIn>() == 8);

/// The length asked for.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetxattrOut {
    /// Bytes.
    pub size: u32,
    /// Not used.
    pub padding: u32,
}

const _: () = assert!(size_of::<GetxattrOut>() == 8);

/// IOCTL; the argument follows.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoctlIn {
    /// Handle.
    pub fh: u64,
    /// `FUSE_IOCTL_*`.
    pub flags: u32,
    /// Number.
    pub cmd: u32,
    /// Address in the caller.
    pub arg: u64,
    /// Bytes that follow.
    pub in_size: u32,
    /// Bytes wanted.
    pub out_size: u32,
}

const _: () = assert!(size_of::<IoctlIn>() == 32);

/// Answer to IOCTL; the result follows.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoctlOut {
    /// Return value.
    pub result: i32,
    /// `FUSE_IOCTL_*`.
    pub flags: u32,
    /// Not used.
    pub in_iovs: u32,
    /// Not used.
    pub out_iovs: u32,
}

const _: () = assert!(size_of::<IoctlOut>() == 16);

/// FALLOCATE.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FallocateIn {
    /// Handle.
    pub fh: u64,
    /// Bytes.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// `FALLOC_FL_*`.
    pub mode: u32,
    /// Not used.
    pub padding: u32,
}

const _: () = assert!(size_of::<FallocateIn>() == 32);

/// An entry of READDIR; the name follows, padded to 8.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Dirent {
    /// Inode.
    pub ino: u64,
    /// Cookie to go on after it.
    pub off: u64,
    /// Bytes.
    pub namelen: u32,
    /// `DT_*`.
    pub kind: u32,
}

const _: () = assert!(size_of::<Dirent>() == 24);

/// LSEEK.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LseekIn {
    /// Handle.
    pub fh: u64,
    /// Bytes.
    pub offset: u64,
    /// `SEEK_*`.
    pub whence: u32,
    /// Not used.
    pub padding: u32,
}

const _: () = assert!(size_of::<LseekIn>() == 24);

/// Answer to LSEEK.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LseekOut {
    /// Bytes.
    pub offset: u64,
}

const _: () = assert!(size_of::<LseekOut>() == 8);

/// COPY_FILE_RANGE from the request's inode.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CopyFileRangeIn {
    /// Handle.
    pub fh_in: u64,
    /// Bytes.
    pub off_in: u64,
    /// Inode written to.
    pub nodeid_out: u64,
    /// Handle.
    pub fh_out: u64,
    /// Bytes.
    pub off_out: u64,
    /// Bytes.
    pub len: u64,
    /// None is known.
    pub flags: u64,
}

const _: () = assert!(size_of::<CopyFileRangeIn>() == 56);

/// The head of an extension: security contexts, or another of `kind` above 31.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SecctxHeader {
    /// Bytes with this head.
    pub size: u32,
    /// Number of contexts, or the extension's type.
    pub kind: u32,
}

const _: () = assert!(size_of::<SecctxHeader>() == 8);

/// A security context; a name and the value follow, padded to 8.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Secctx {
    /// Bytes of the value.
    pub size: u32,
    /// Not used.
    pub padding: u32,
}

const _: () = assert!(size_of::<Secctx>() == 8);
