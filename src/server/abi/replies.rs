//! What a kernel is answered.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

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

/// Answer to LSEEK.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LseekOut {
    /// Bytes.
    pub offset: u64,
}

const _: () = assert!(size_of::<LseekOut>() == 8);
