//! What a kernel sends.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

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
