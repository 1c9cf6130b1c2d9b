//! Orphans: inodes without a name that may still be open. They stand on a list in the dataset's
//! tree, so that a crash leaks nothing.

use super::{EngineError, Volume};
use crate::format::id::Ino;

impl Volume {
    /// Whether the inode has no name left. Answered from memory.
    #[must_use]
    pub fn is_orphan(&self, _ino: Ino) -> bool {
        false
    }

    /// Frees an orphan that nobody refers to any more, in transactions of bounded size. Does
    /// nothing when the inode is not an orphan (any more).
    ///
    /// # Errors
    /// When the store fails; what is left is freed by the next call or at the next opening.
    pub fn reclaim(&self, _ino: Ino) -> Result<(), EngineError> {
        Err(EngineError::Stale)
    }

    /// Frees all orphans and returns how many: only right while nothing is open, so at opening.
    ///
    /// # Errors
    /// As [`Volume::reclaim`].
    pub fn reclaim_all_orphans(&self) -> Result<u64, EngineError> {
        Err(EngineError::Stale)
    }
}
