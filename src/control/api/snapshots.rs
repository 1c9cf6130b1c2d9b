//! Snapshots, what differs between them, and what is brought back from them.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Snapshot {
    /// Its number in the store, which no other will ever have.
    pub id: u64,
    /// DATASET@SNAPSHOT
    pub name: String,
    /// Its UUID.
    #[schema(format = "uuid")]
    pub uuid: String,
    /// The dataset that it is a snapshot of.
    pub source: String,
    /// When it was taken (RFC 3339).
    #[schema(format = DateTime)]
    pub created_at: String,
    /// Always true.
    pub readonly: bool,
    /// Whether it is not to be deleted, nor its dataset, until it is released.
    pub is_held: bool,
    /// Inodes in it.
    pub inodes: u64,
    /// Bytes of its files that take space, shared or not.
    pub allocated_bytes: u64,
}

/// A snapshot to be taken. One of that name is taken for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSnapshot {
    /// DATASET@SNAPSHOT
    pub name: String,
}

/// What of a snapshot is to change: its name, or whether it is held; not both at once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeSnapshot {
    /// The name that it is to have, of the same dataset: DATASET@SNAPSHOT
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it is to be held: then neither it nor its dataset can be deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_held: Option<bool>,
}

/// Which snapshots to list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListSnapshots {
    /// Those of this dataset only.
    #[serde(default)]
    pub dataset: Option<String>,
}

/// What of a snapshot is to be brought back, and to where.
///
/// A path begins at the root directory, has no `.` and `..`, and symlinks in it are not followed.
/// Names may have any bytes: `\xNN` is one, `\n`, `\r`, `\t`, `\'`, `\"` and `\\` are what they are in
/// the paths of differences, and everything else is itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    /// DATASET@SNAPSHOT
    pub snapshot: String,
    /// A path in the snapshot; `/`, or none, for all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The path that it is to have in the dataset; that of `source` if it is not said. The directory
    /// above it must be there. With `/` for both the dataset becomes what the snapshot is: nobody may
    /// use it then, unless `force` is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// Whether it takes the place of what has the path now; else that is refused.
    #[serde(default)]
    pub replace: bool,
    /// Whether the whole dataset is restored though it is exported. Its guests are refused everything
    /// then (ESTALE) until they mount it again, and what they have not written is lost.
    #[serde(default)]
    pub force: bool,
}

/// How to restore a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RestoreDataset {
    /// Though it is exported: its guests are refused everything then (ESTALE) until they mount it
    /// again, and what they have not written is lost.
    #[serde(default)]
    pub force: bool,
}

/// What was brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Restored {
    /// DATASET@SNAPSHOT
    pub snapshot: String,
    /// The dataset.
    pub dataset: String,
    /// The path in the snapshot.
    pub source: String,
    /// The path in the dataset.
    pub destination: String,
    /// Files, directories and the like that were made.
    pub inodes: u64,
}

/// What to compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Compare {
    /// DATASET@SNAPSHOT or DATASET
    pub old: String,
    /// The same, of the same dataset or one that was cloned from it.
    pub new: String,
}

/// A path that is different.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// The path, the old one of what was renamed. Names may have any bytes: what is no printable
    /// ASCII is `\n`, `\xNN` or the like, and quotes and backslashes have a backslash before them.
    pub path: String,
    /// What happened to it.
    pub change: PathChange,
    /// The new path of what was renamed.
    pub to: Option<String>,
}

/// What can happen to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PathChange {
    /// It is gone.
    Removed,
    /// What it led to has another path now.
    Renamed,
    /// It is new.
    Added,
    /// Its content or its attributes changed.
    Changed,
}
