//! What went wrong.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Imported;

/// Why a request was not carried out. Nothing has changed then, but for what was imported; only with
/// `failed`, when the disk refused, is it known once the store is opened again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of reason it is.
    pub error: ErrorKind,
    /// The reason, for people.
    pub message: String,
    /// What an import that has begun came to: it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<Imported>,
}

impl Failure {
    /// One of a kind.
    pub fn new(error: ErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Failure {
            error,
            message,
            imported: None,
        }
    }
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request cannot be understood.
    BadRequest,
    /// What is said to be a name cannot be one.
    BadName,
    /// The request has no token, or not the right one.
    Unauthorized,
    /// There is no such dataset, snapshot or path.
    NotFound,
    /// The path has no such method.
    MethodNotAllowed,
    /// The request did not come in time.
    TimedOut,
    /// The name is taken, by something else than what was asked for.
    Exists,
    /// It is in use.
    Busy,
    /// The dataset has snapshots.
    HasSnapshots,
    /// The snapshot, or one of the dataset, is held.
    Held,
    /// The request's body is too large.
    TooLarge,
    /// It cannot be done to this one.
    NotPossible,
    /// More than a quota, or the room that is neither used nor reserved, allows.
    OverLimit,
    /// No space is left, in the store or on the disk below it.
    NoSpace,
    /// The store refuses changes: it was opened so, or a write has failed.
    ReadOnly,
    /// Too much is being done already.
    Overloaded,
    /// The daemon ends, or gives its guests to another: what takes long was stopped. Ask again.
    Interrupted,
    /// The store cannot be read or written.
    #[serde(other)]
    Failed,
}

impl ErrorKind {
    /// All of them.
    pub const ALL: [ErrorKind; 18] = [
        ErrorKind::BadRequest,
        ErrorKind::BadName,
        ErrorKind::Unauthorized,
        ErrorKind::NotFound,
        ErrorKind::MethodNotAllowed,
        ErrorKind::TimedOut,
        ErrorKind::Exists,
        ErrorKind::Busy,
        ErrorKind::HasSnapshots,
        ErrorKind::Held,
        ErrorKind::TooLarge,
        ErrorKind::NotPossible,
        ErrorKind::OverLimit,
        ErrorKind::NoSpace,
        ErrorKind::ReadOnly,
        ErrorKind::Overloaded,
        ErrorKind::Interrupted,
        ErrorKind::Failed,
    ];

    /// The status of an answer that says so.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            ErrorKind::BadRequest | ErrorKind::BadName => 400,
            ErrorKind::Unauthorized => 401,
            ErrorKind::NotFound => 404,
            ErrorKind::MethodNotAllowed => 405,
            ErrorKind::TimedOut => 408,
            ErrorKind::Exists | ErrorKind::Busy | ErrorKind::HasSnapshots | ErrorKind::Held => 409,
            ErrorKind::TooLarge => 413,
            ErrorKind::NotPossible | ErrorKind::OverLimit => 422,
            ErrorKind::Failed => 500,
            ErrorKind::Overloaded => 429,
            ErrorKind::ReadOnly | ErrorKind::Interrupted => 503,
            ErrorKind::NoSpace => 507,
        }
    }
}
