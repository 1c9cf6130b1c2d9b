//! The one table of errno values.

use super::FsError;
use crate::engine::EngineError;
use crate::store::StoreError;

/// The (positive) errno of an error.
#[must_use]
pub fn of(error: &FsError) -> i32 {
    match error {
        FsError::Engine(error) => of_engine(error),
        FsError::NoSuchOperation => libc::ENOSYS,
        FsError::Malformed(_) | FsError::Name => libc::EINVAL,
        FsError::NameTooLong => libc::ENAMETOOLONG,
        FsError::NoSession => libc::ENOTCONN,
        FsError::Protocol { .. } => libc::EPROTO,
        FsError::ReadOnly => libc::EROFS,
        FsError::NoSuchIoctl => libc::ENOTTY,
        FsError::NotSupported => libc::EOPNOTSUPP,
        FsError::TooSmall => libc::ERANGE,
        FsError::NotFound => libc::ENOENT,
        FsError::OtherFileSystem => libc::EXDEV,
    }
}

fn of_engine(error: &EngineError) -> i32 {
    match error {
        EngineError::WouldWait | EngineError::Begun(_) => libc::EAGAIN,
        EngineError::NotFound => libc::ENOENT,
        EngineError::Exists => libc::EEXIST,
        EngineError::NotDirectory => libc::ENOTDIR,
        EngineError::IsDirectory => libc::EISDIR,
        EngineError::NotEmpty => libc::ENOTEMPTY,
        EngineError::Invalid(_) => libc::EINVAL,
        EngineError::NameTooLong => libc::ENAMETOOLONG,
        EngineError::TooManyLinks => libc::EMLINK,
        EngineError::FileTooLarge => libc::EFBIG,
        EngineError::NotPermitted(_) => libc::EPERM,
        EngineError::Denied(_) => libc::EACCES,
        EngineError::NoAttribute => libc::ENODATA,
        EngineError::Range => libc::ERANGE,
        EngineError::TooBig => libc::E2BIG,
        EngineError::NotSupported(_) => libc::EOPNOTSUPP,
        EngineError::NoSuchOffset => libc::ENXIO,
        EngineError::Stale => libc::ESTALE,
        EngineError::OtherProject => libc::EXDEV,
        EngineError::Quota => libc::EDQUOT,
        EngineError::Busy(_) => libc::EBUSY,
        EngineError::Interrupted => libc::EINTR,
        EngineError::Buffer(_) => libc::EFAULT,
        EngineError::Store(error) => of_store(error),
    }
}

fn of_store(error: &StoreError) -> i32 {
    match error {
        StoreError::NoSpace(_) => libc::ENOSPC,
        StoreError::ReadOnly(_) => libc::EROFS,
        _ => libc::EIO,
    }
}
