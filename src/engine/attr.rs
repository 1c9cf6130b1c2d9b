//! Attributes of inodes: stat, chmod, chown, utimes, truncate, inode flags, statfs.

use super::{Attr, EngineError, FsXattr, SetAttr, StatFs, Volume};
use crate::format::id::Ino;

impl Volume {
    /// The attributes of an inode.
    ///
    /// # Errors
    /// [`EngineError::Stale`] when it is not there.
    pub fn getattr(&self, _ino: Ino) -> Result<Attr, EngineError> {
        Err(EngineError::Stale)
    }

    /// Changes attributes in one transaction and returns them as they are then. Durable after sync.
    ///
    /// # Errors
    /// [`EngineError::NotPermitted`] on immutable and append-only inodes; what truncation says.
    pub fn setattr(&self, _ino: Ino, _set: &SetAttr) -> Result<Attr, EngineError> {
        Err(EngineError::Stale)
    }

    /// The `FS_IOC_GETFLAGS` bits.
    ///
    /// # Errors
    /// [`EngineError::Stale`] when the inode is not there.
    pub fn get_flags(&self, _ino: Ino) -> Result<u32, EngineError> {
        Err(EngineError::Stale)
    }

    /// Sets the `FS_IOC_SETFLAGS` bits. Whether the caller may is checked by the guest's kernel.
    ///
    /// # Errors
    /// [`EngineError::NotSupported`] for bits razorfs does not keep.
    pub fn set_flags(&self, _ino: Ino, _flags: u32) -> Result<(), EngineError> {
        Err(EngineError::Stale)
    }

    /// The `FS_IOC_FSGETXATTR` view of flags and project.
    ///
    /// # Errors
    /// [`EngineError::Stale`] when the inode is not there.
    pub fn get_fsxattr(&self, _ino: Ino) -> Result<FsXattr, EngineError> {
        Err(EngineError::Stale)
    }

    /// Sets flags and project by `FS_IOC_FSSETXATTR`.
    ///
    /// # Errors
    /// As [`Volume::set_flags`].
    pub fn set_fsxattr(&self, _ino: Ino, _fsx: FsXattr) -> Result<(), EngineError> {
        Err(EngineError::Stale)
    }

    /// Space and inodes, used and free.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn statfs(&self) -> Result<StatFs, EngineError> {
        Err(EngineError::Stale)
    }
}
