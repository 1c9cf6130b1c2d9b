//! Datasets and clones.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A dataset or a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Dataset {
    /// Its number in the store, which no other will ever have.
    pub id: u64,
    /// Its name: of a snapshot, that of the dataset, `@`, and its own.
    pub name: String,
    /// Its UUID.
    #[schema(format = "uuid")]
    pub uuid: String,
    /// When it was made (RFC 3339).
    #[schema(format = DateTime)]
    pub created_at: String,
    /// The number of its root directory.
    pub root_inode: u64,
    /// Whether it refuses changes.
    pub is_readonly: bool,
    /// Whether it is a snapshot.
    pub is_snapshot: bool,
    /// Whether it is a snapshot that is not to be deleted.
    pub is_held: bool,
    /// The dataset that it is a snapshot of.
    pub snapshot_of: Option<String>,
    /// The snapshot or dataset that it was cloned from, if that is still there.
    pub origin: Option<String>,
    /// Inodes in it.
    pub inodes: u64,
    /// Bytes of its files that take space, shared or not.
    pub allocated_bytes: u64,
    /// How new content is compressed: `off`, `lz4`, `zstd` or `zstd:LEVEL`.
    pub compression: String,
    /// Whether equal content is stored once: `off`, `on` or `verify`.
    pub dedup: String,
    /// Bytes that its files may take; 0 for no limit.
    pub quota_bytes: u64,
    /// Inodes that it may have; 0 for no limit.
    pub quota_inodes: u64,
    /// Bytes that no other dataset gets; 0 for none.
    pub reservation_bytes: u64,
}

/// A dataset to be made, empty. One of that name that was not cloned, and has the settings that are
/// asked for here, is taken for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDataset {
    /// Its name: letters, digits and . _ + -
    pub name: String,
    /// Owner of its root directory: 0 if not said. Guests may change it later, so it is not
    /// compared with that of a dataset that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group of its root directory: 0 if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// `off` (if not said), `lz4`, `zstd` or `zstd:LEVEL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<String>,
    /// `off` (if not said), `on` or `verify`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedup: Option<String>,
    /// Bytes that its files may take; 0 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
    /// Inodes that it may have; 0 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_inodes: Option<u64>,
    /// Bytes that no other dataset gets; 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation_bytes: Option<u64>,
}

/// What of a dataset is to change: its name, or settings, which hold for what is written from then
/// on; not both at once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeDataset {
    /// The name that it is to have. Its snapshots go with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `off`, `lz4`, `zstd` or `zstd:LEVEL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<String>,
    /// `off`, `on` or `verify`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedup: Option<String>,
    /// Bytes that its files may take; 0 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
    /// Inodes that it may have; 0 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_inodes: Option<u64>,
    /// Bytes that no other dataset gets; 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation_bytes: Option<u64>,
}

/// How to delete a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteDataset {
    /// Delete its snapshots too.
    #[serde(default)]
    pub recursive: bool,
}

/// A dataset to be made that begins as what another one or a snapshot is now. A clone of that name,
/// of the same source, is taken for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewClone {
    /// DATASET or DATASET@SNAPSHOT
    pub source: String,
    /// The new dataset's name.
    pub name: String,
}

/// A file whose content is to be written anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// Its path in the dataset, as in `Restore`.
    pub path: String,
}

/// What was written anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rewritten {
    /// Bytes of content.
    pub bytes: u64,
}
