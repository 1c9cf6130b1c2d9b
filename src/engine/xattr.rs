//! Extended attributes.

use super::{EngineError, SetXattr, Volume};
use crate::format::id::Ino;

impl Volume {
    /// The value of an extended attribute.
    ///
    /// # Errors
    /// [`EngineError::NoAttribute`], [`EngineError::NotSupported`].
    pub fn getxattr(&self, _ino: Ino, _name: &[u8]) -> Result<Vec<u8>, EngineError> {
        Err(EngineError::Stale)
    }

    /// Sets an extended attribute. `kill_sgid`: an access ACL set by someone outside the owning
    /// group clears the setgid bit (`FUSE_SETXATTR_ACL_KILL_SGID`).
    ///
    /// # Errors
    /// [`EngineError::Exists`], [`EngineError::NoAttribute`] by `how`; [`EngineError::Range`] for a
    /// name and [`EngineError::TooBig`] for a value that is too long.
    pub fn setxattr(
        &self,
        _ino: Ino,
        _name: &[u8],
        _value: &[u8],
        _how: SetXattr,
        _kill_sgid: bool,
    ) -> Result<(), EngineError> {
        Err(EngineError::Stale)
    }

    /// The names of all extended attributes.
    ///
    /// # Errors
    /// [`EngineError::Stale`].
    pub fn listxattr(&self, _ino: Ino) -> Result<Vec<Vec<u8>>, EngineError> {
        Err(EngineError::Stale)
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// [`EngineError::NoAttribute`].
    pub fn removexattr(&self, _ino: Ino, _name: &[u8]) -> Result<(), EngineError> {
        Err(EngineError::Stale)
    }
}
