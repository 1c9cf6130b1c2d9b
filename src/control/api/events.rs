//! What happens.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// From where on to tell what happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Watch {
    /// Behind the event of this number; from now on if neither this nor `Last-Event-ID` is said.
    #[serde(default)]
    pub after: Option<u64>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its number: each has a larger one than those before, also after a restart.
    pub id: u64,
    /// When (RFC 3339).
    #[schema(format = DateTime)]
    pub time: String,
    /// What.
    pub event: EventKind,
    /// The dataset or snapshot that it happened to; empty for the store.
    pub name: String,
    /// More about it: the new name, the source, the damage.
    pub detail: Option<String>,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A dataset was made; of a clone, `detail` is what it began as.
    DatasetCreated,
    /// A dataset was deleted.
    DatasetDeleted,
    /// Its name is `detail` now, and its snapshots go with it.
    DatasetRenamed,
    /// It is what its snapshot `detail` is.
    DatasetRestored,
    /// Something of one of its snapshots was brought back, to the path `detail`.
    PathRestored,
    /// A clone has the snapshots of what it was cloned from.
    DatasetPromoted,
    /// A snapshot was taken, or received.
    SnapshotCreated,
    /// A snapshot was deleted.
    SnapshotDeleted,
    /// Its name is `detail` now.
    SnapshotRenamed,
    /// A guest has mounted the dataset or snapshot.
    GuestAttached,
    /// It is gone.
    GuestDetached,
    /// The dataset was restored while a guest was using it, at the socket `detail`: it is refused
    /// everything until it mounts it again.
    GuestStale,
    /// A guest was refused something because of the dataset's quota; told once a minute.
    QuotaReached,
    /// A scrub found damage: `detail` says what.
    DamageFound,
    /// The store takes no more changes.
    StoreReadOnly,
    /// One that this program does not know.
    #[serde(other)]
    Unknown,
}
