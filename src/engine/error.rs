//! What an operation on a volume can fail with. `fs::errno` maps each to its errno.

use super::SyncPoint;
use crate::store::StoreError;

/// Why an operation failed. The volume is unchanged then.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// It would have to wait for the disk, and may not: nobody outside sees it. EAGAIN
    #[error("it would have to wait")]
    WouldWait,
    /// As [`EngineError::WouldWait`], when all was done but to wait.
    #[error("it waits for the disk")]
    Begun(SyncPoint),
    /// ENOENT
    #[error("no such file or directory")]
    NotFound,
    /// EEXIST
    #[error("it exists already")]
    Exists,
    /// ENOTDIR
    #[error("not a directory")]
    NotDirectory,
    /// EISDIR
    #[error("is a directory")]
    IsDirectory,
    /// ENOTEMPTY
    #[error("directory not empty")]
    NotEmpty,
    /// EINVAL
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// ENAMETOOLONG
    #[error("name too long")]
    NameTooLong,
    /// EMLINK
    #[error("too many links")]
    TooManyLinks,
    /// EFBIG
    #[error("file too large")]
    FileTooLarge,
    /// EPERM
    #[error("operation not permitted: {0}")]
    NotPermitted(&'static str),
    /// EACCES
    #[error("permission denied: {0}")]
    Denied(&'static str),
    /// ENODATA
    #[error("no such attribute")]
    NoAttribute,
    /// ERANGE
    #[error("result does not fit the buffer")]
    Range,
    /// E2BIG
    #[error("attribute value or list too long")]
    TooBig,
    /// EOPNOTSUPP
    #[error("not supported: {0}")]
    NotSupported(&'static str),
    /// ENXIO: no data or hole at or after that offset
    #[error("no data or hole there")]
    NoSuchOffset,
    /// ESTALE: an inode that is no longer there
    #[error("no such inode")]
    Stale,
    /// EXDEV: the directory holds inodes of one project only
    #[error("the directory holds another project")]
    OtherProject,
    /// EDQUOT
    #[error("quota exceeded")]
    Quota,
    /// EBUSY: somebody else is in the way
    #[error("{0}")]
    Busy(&'static str),
    /// EINTR: a command was stopped. What it says that stays has been done, and no more
    #[error("it was stopped before its end")]
    Interrupted,
    /// EFAULT or similar: the caller's buffer cannot be read or written
    #[error("the caller's buffer failed: {0}")]
    Buffer(String),
    /// EIO, ENOSPC or EROFS, by what the store says
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Asks whether to go on with what takes long.
pub(super) fn check_goes_on(go_on: &mut dyn FnMut() -> bool) -> Result<(), EngineError> {
    match go_on() {
        true => Ok(()),
        false => Err(EngineError::Interrupted),
    }
}

impl EngineError {
    /// Whether what the disk gave cannot be what was written there.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        use StoreError::{Corrupt, Format, Page};
        matches!(
            self,
            EngineError::Store(Page { .. } | Format { .. } | Corrupt(_))
        )
    }
}
