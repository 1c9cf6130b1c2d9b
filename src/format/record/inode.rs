//! Inodes, and the dentries that name them.

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{FormatError, Time, TimeWire, exact};
use crate::format::id::{Ino, NameId};

/// An inode. Names stand in dentries, content in extents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InodeRecord {
    /// File type and permissions, as `st_mode`.
    pub mode: u32,
    /// Link count; a directory's is 2 plus its subdirectories. 0 for an orphan.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, as the kernel's `new_encode_dev` gives it.
    pub rdev: u32,
    /// `FS_IOC_GETFLAGS` bits (append-only, immutable, ...).
    pub flags: u32,
    /// Project id.
    pub projid: u32,
    /// Number of extended attributes.
    pub xattrs: u32,
    /// Size in bytes; of a symlink its target's length; of a directory 0.
    pub size: u64,
    /// Bytes of this file's extents, reserved ones included.
    pub allocated: u64,
    /// Entries of a directory, without `.` and `..`.
    pub entries: u64,
    /// The directory that holds this directory; 0 for anything else.
    pub parent: Ino,
    /// Last access.
    pub atime: Time,
    /// Last modification of the content.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Birth.
    pub btime: Time,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct InodeWire {
    mode: U32,
    nlink: U32,
    uid: U32,
    gid: U32,
    rdev: U32,
    flags: U32,
    projid: U32,
    xattrs: U32,
    size: U64,
    allocated: U64,
    entries: U64,
    parent: U64,
    atime: TimeWire,
    mtime: TimeWire,
    ctime: TimeWire,
    btime: TimeWire,
}

const _: () = assert!(size_of::<InodeWire>() == 112);

impl InodeRecord {
    /// That of an empty root directory.
    #[must_use]
    pub fn new_root(uid: u32, gid: u32, mode: u32, now: Time) -> Self {
        InodeRecord {
            mode: libc::S_IFDIR | (mode & 0o7777),
            nlink: 2,
            uid,
            gid,
            rdev: 0,
            flags: 0,
            projid: 0,
            xattrs: 0,
            size: 0,
            allocated: 0,
            entries: 0,
            parent: Ino::ROOT,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
        }
    }

    /// The bytes of the record.
    #[must_use]
    pub fn encode(&self) -> [u8; size_of::<InodeWire>()] {
        zerocopy::transmute!(InodeWire {
            mode: self.mode.into(),
            nlink: self.nlink.into(),
            uid: self.uid.into(),
            gid: self.gid.into(),
            rdev: self.rdev.into(),
            flags: self.flags.into(),
            projid: self.projid.into(),
            xattrs: self.xattrs.into(),
            size: self.size.into(),
            allocated: self.allocated.into(),
            entries: self.entries.into(),
            parent: self.parent.0.into(),
            atime: self.atime.into(),
            mtime: self.mtime.into(),
            ctime: self.ctime.into(),
            btime: self.btime.into(),
        })
    }

    /// Reads the record.
    ///
    /// # Errors
    /// When the length or a time is not one of an inode.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let wire: InodeWire = exact("inode record", bytes)?;
        Ok(InodeRecord {
            mode: wire.mode.get(),
            nlink: wire.nlink.get(),
            uid: wire.uid.get(),
            gid: wire.gid.get(),
            rdev: wire.rdev.get(),
            flags: wire.flags.get(),
            projid: wire.projid.get(),
            xattrs: wire.xattrs.get(),
            size: wire.size.get(),
            allocated: wire.allocated.get(),
            entries: wire.entries.get(),
            parent: Ino(wire.parent.get()),
            atime: wire.atime.decode()?,
            mtime: wire.mtime.decode()?,
            ctime: wire.ctime.decode()?,
            btime: wire.btime.decode()?,
        })
    }
}

/// A directory's entry, found by its cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DentryRecord {
    /// The inode it names.
    pub ino: Ino,
    /// Its name.
    pub name: NameId,
    /// Length of the name in bytes, 1 to 255.
    pub name_len: u8,
    /// `DT_*`: the inode's file type, `mode >> 12`.
    pub file_type: u8,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DentryWire {
    ino: U64,
    name: U64,
    name_len: u8,
    file_type: u8,
}

const _: () = assert!(size_of::<DentryWire>() == 18);

impl DentryRecord {
    /// The bytes of the record.
    #[must_use]
    pub fn encode(&self) -> [u8; size_of::<DentryWire>()] {
        zerocopy::transmute!(DentryWire {
            ino: self.ino.0.into(),
            name: self.name.0.into(),
            name_len: self.name_len,
            file_type: self.file_type,
        })
    }

    /// Reads the record.
    ///
    /// # Errors
    /// When the length is not one of a dentry, or it names no inode or nothing.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let wire: DentryWire = exact("dentry record", bytes)?;
        if wire.ino.get() == 0 {
            return Err(FormatError::Field {
                what: "dentry record",
                field: "inode",
                found: 0,
            });
        }
        if wire.name_len == 0 {
            return Err(FormatError::Field {
                what: "dentry record",
                field: "name length",
                found: 0,
            });
        }
        Ok(DentryRecord {
            ino: Ino(wire.ino.get()),
            name: NameId(wire.name.get()),
            name_len: wire.name_len,
            file_type: wire.file_type,
        })
    }
}
