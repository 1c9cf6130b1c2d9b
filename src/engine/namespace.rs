//! Names: lookup, create, link, unlink, rename.

use super::{Attr, Cred, EngineError, NewInode, Removed, RenameMode, Volume};
use crate::format::id::Ino;

impl Volume {
    /// The inode a name leads to; `.` and `..` too.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::NotDirectory`], [`EngineError::NameTooLong`];
    /// [`EngineError::Stale`] when `dir` is not there.
    pub fn lookup(&self, _dir: Ino, _name: &[u8]) -> Result<Attr, EngineError> {
        Err(EngineError::Stale)
    }

    /// Makes a regular file, directory, fifo, socket or device node, by the type in `new.mode`.
    ///
    /// # Errors
    /// [`EngineError::Exists`] when the name is taken.
    pub fn create(
        &self,
        _cred: Cred,
        _dir: Ino,
        _name: &[u8],
        _new: &NewInode<'_>,
    ) -> Result<Attr, EngineError> {
        Err(EngineError::Stale)
    }

    /// Makes a symlink to `target` (1 to 4095 bytes). Of `new`, only the xattrs and the
    /// supplementary group count.
    ///
    /// # Errors
    /// As [`Volume::create`]; [`EngineError::NameTooLong`] for a target that is too long.
    pub fn symlink(
        &self,
        _cred: Cred,
        _dir: Ino,
        _name: &[u8],
        _target: &[u8],
        _new: &NewInode<'_>,
    ) -> Result<Attr, EngineError> {
        Err(EngineError::Stale)
    }

    /// Makes a regular file without a name (`O_TMPFILE`): an orphan until [`Volume::link`] names it.
    ///
    /// # Errors
    /// As [`Volume::create`].
    pub fn tmpfile(
        &self,
        _cred: Cred,
        _dir: Ino,
        _new: &NewInode<'_>,
    ) -> Result<Attr, EngineError> {
        Err(EngineError::Stale)
    }

    /// Gives an inode that is not a directory one more name.
    ///
    /// # Errors
    /// [`EngineError::Exists`], [`EngineError::TooManyLinks`], [`EngineError::NotPermitted`].
    pub fn link(&self, _ino: Ino, _dir: Ino, _name: &[u8]) -> Result<Attr, EngineError> {
        Err(EngineError::Stale)
    }

    /// Takes a name from something that is not a directory.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::IsDirectory`].
    pub fn unlink(&self, _dir: Ino, _name: &[u8]) -> Result<Removed, EngineError> {
        Err(EngineError::Stale)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`EngineError::NotEmpty`], [`EngineError::NotDirectory`], [`EngineError::NotFound`].
    pub fn rmdir(&self, _dir: Ino, _name: &[u8]) -> Result<Removed, EngineError> {
        Err(EngineError::Stale)
    }

    /// Renames; what was replaced is returned. A regular source file's unwritten data goes before.
    ///
    /// # Errors
    /// As rename(2).
    pub fn rename(
        &self,
        _from_dir: Ino,
        _from: &[u8],
        _to_dir: Ino,
        _to: &[u8],
        _mode: RenameMode,
    ) -> Result<Option<Removed>, EngineError> {
        Err(EngineError::Stale)
    }

    /// A symlink's target.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] when it is no symlink.
    pub fn readlink(&self, _ino: Ino) -> Result<Vec<u8>, EngineError> {
        Err(EngineError::Stale)
    }
}
