//! Directories: listing.

use super::{Attr, DirEntry, EngineError, Volume};
use crate::format::id::Ino;

impl Volume {
    /// Visits a directory's entries after the one with cookie `after` (0: from the start), `.` with
    /// cookie 1 and `..` with cookie 2 among them, until the visitor returns false.
    ///
    /// # Errors
    /// [`EngineError::NotDirectory`], [`EngineError::Stale`].
    pub fn readdir(
        &self,
        _dir: Ino,
        _after: u64,
        _visit: &mut dyn FnMut(DirEntry) -> bool,
    ) -> Result<(), EngineError> {
        Err(EngineError::Stale)
    }

    /// [`Volume::readdir`] with each entry's attributes, all of one moment.
    ///
    /// # Errors
    /// As [`Volume::readdir`].
    pub fn readdirplus(
        &self,
        _dir: Ino,
        _after: u64,
        _visit: &mut dyn FnMut(DirEntry, Attr) -> bool,
    ) -> Result<(), EngineError> {
        Err(EngineError::Stale)
    }
}
