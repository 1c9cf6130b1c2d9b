//! Attributes, extended attributes and the ioctls that are attributes too.

use super::{FileSystem, FsError};
use crate::engine::{Attr, Cred, FsXattr, SetAttr, SetXattr, StatFs};
use crate::format::id::Ino;

/// `FS_IOC_GETFLAGS` as a 64-bit and a 32-bit program has it.
const GETFLAGS: [u32; 2] = [0x8008_6601, 0x8004_6601];
/// `FS_IOC_SETFLAGS`, likewise.
const SETFLAGS: [u32; 2] = [0x4008_6602, 0x4004_6602];
/// `FS_IOC_FSGETXATTR`
const FSGETXATTR: u32 = 0x801c_581f;
/// `FS_IOC_FSSETXATTR`
const FSSETXATTR: u32 = 0x401c_5820;
/// Bytes of `struct fsxattr`: xflags, extsize, nextents, projid, cowextsize, padding.
const FSXATTR_BYTES: usize = 28;
/// Where the project stands in it.
const FSXATTR_PROJID: usize = 12;

/// Names of what only a privileged user may see.
const TRUSTED_PREFIX: &[u8] = b"trusted.";
/// Names of the ACLs among the extended attributes.
const ACL_PREFIX: &[u8] = b"system.posix_acl_";

impl FileSystem {
    /// The attributes of an inode.
    ///
    /// # Errors
    /// What the engine says.
    pub fn getattr(&self, ino: Ino) -> Result<Attr, FsError> {
        Ok(self.shown(self.volume.getattr(ino)?)?)
    }

    /// Changes attributes.
    ///
    /// # Errors
    /// What the engine says.
    pub fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr, FsError> {
        self.check_writable()?;
        Ok(self.volume.setattr(ino, set)?)
    }

    /// Space and inodes, as they are for an inode.
    ///
    /// # Errors
    /// What the engine says.
    pub fn statfs(&self, ino: Ino) -> Result<StatFs, FsError> {
        Ok(self.volume.statfs_at(ino)?)
    }

    /// An extended attribute's value.
    ///
    /// # Errors
    /// [`FsError::NoSuchOperation`] when they are switched off; what the engine says.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        self.check_xattr(name)?;
        Ok(self.volume.getxattr(ino, name)?)
    }

    /// Sets an extended attribute; `flags` are `XATTR_*`.
    ///
    /// # Errors
    /// As [`FileSystem::getxattr`].
    pub fn setxattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        flags: u32,
        kill_sgid: bool,
    ) -> Result<(), FsError> {
        self.check_xattr(name)?;
        self.check_writable()?;
        let how = match flags.cast_signed() {
            0 => SetXattr::Any,
            libc::XATTR_CREATE => SetXattr::Create,
            libc::XATTR_REPLACE => SetXattr::Replace,
            _ => return Err(FsError::Malformed("xattr flags")),
        };
        Ok(self.volume.setxattr(ino, name, value, how, kill_sgid)?)
    }

    /// The names of the extended attributes.
    ///
    /// # Errors
    /// As [`FileSystem::getxattr`].
    pub fn listxattr(&self, cred: Cred, ino: Ino) -> Result<Vec<Vec<u8>>, FsError> {
        if !self.options.xattr {
            return Err(FsError::NoSuchOperation);
        }
        let mut names = self.volume.listxattr(ino)?;
        if !self.options.posix_acl {
            names.retain(|name| !name.starts_with(ACL_PREFIX));
        }
        if cred.uid != 0 {
            // As Linux's file systems do; their values are refused by the kernel (xattr(7)).
            names.retain(|name| !name.starts_with(TRUSTED_PREFIX));
        }
        Ok(names)
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// As [`FileSystem::getxattr`].
    pub fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<(), FsError> {
        self.check_xattr(name)?;
        self.check_writable()?;
        Ok(self.volume.removexattr(ino, name)?)
    }

    fn check_xattr(&self, name: &[u8]) -> Result<(), FsError> {
        if !self.options.xattr {
            return Err(FsError::NoSuchOperation);
        }
        if !self.options.posix_acl && name.starts_with(ACL_PREFIX) {
            return Err(FsError::NotSupported);
        }
        if name.is_empty() {
            return Err(FsError::Name);
        }
        if name.len() > super::names::NAME_MAX {
            return Err(FsError::TooSmall);
        }
        Ok(())
    }

    /// Carries out an ioctl: `input` is its argument, the result has `out_len` bytes.
    ///
    /// # Errors
    /// [`FsError::NoSuchIoctl`], [`FsError::Malformed`] when the lengths are not the ioctl's.
    pub fn ioctl(
        &self,
        ino: Ino,
        cmd: u32,
        input: &[u8],
        out_len: usize,
    ) -> Result<Vec<u8>, FsError> {
        let result = match cmd {
            cmd if GETFLAGS.contains(&cmd) => self.volume.get_flags(ino)?.to_ne_bytes().to_vec(),
            cmd if SETFLAGS.contains(&cmd) => {
                self.check_writable()?;
                self.volume.set_flags(ino, number(input, 0)?)?;
                Vec::new()
            }
            FSGETXATTR => {
                let fsx = self.volume.get_fsxattr(ino)?;
                let mut bytes = vec![0; FSXATTR_BYTES];
                let (flags, rest) = bytes.split_at_mut(FSXATTR_PROJID);
                put(flags, fsx.xflags);
                put(rest, fsx.projid);
                bytes
            }
            FSSETXATTR => {
                self.check_writable()?;
                if input.len() < FSXATTR_BYTES {
                    return Err(FsError::Malformed("fsxattr"));
                }
                let fsx = FsXattr {
                    xflags: number(input, 0)?,
                    projid: number(input, FSXATTR_PROJID)?,
                };
                self.volume.set_fsxattr(ino, fsx)?;
                Vec::new()
            }
            _ => return Err(FsError::NoSuchIoctl),
        };
        // A long has four bytes more than the flags in it.
        if out_len < result.len() || out_len > result.len().next_multiple_of(8) {
            return Err(FsError::Malformed("ioctl result length"));
        }
        let mut result = result;
        result.resize(out_len, 0);
        Ok(result)
    }
}

/// The number at `at`.
fn number(bytes: &[u8], at: usize) -> Result<u32, FsError> {
    let bytes = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    bytes
        .copied()
        .map(u32::from_ne_bytes)
        .ok_or(FsError::Malformed("ioctl argument"))
}

/// Puts a number at the start of `bytes`.
fn put(bytes: &mut [u8], number: u32) {
    if let Some(room) = bytes.first_chunk_mut() {
        *room = number.to_ne_bytes();
    }
}
