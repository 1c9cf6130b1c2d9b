//! Projects.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A project of a dataset: the inodes that belong to it, in a directory tree mostly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Project {
    /// The dataset.
    pub dataset: String,
    /// Its number, not 0.
    pub id: u32,
    /// Its inodes.
    pub inodes: u64,
    /// Bytes of its files that take space.
    pub allocated_bytes: u64,
    /// Bytes that its files may take; 0 for no limit.
    pub quota_bytes: u64,
    /// Inodes that it may have; 0 for no limit.
    pub quota_inodes: u64,
}

/// Whose projects are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListProjects {
    /// The dataset, or a snapshot.
    pub dataset: String,
}

/// What is to become of a project.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeProject {
    /// The dataset.
    pub dataset: String,
    /// The project's number; 0, with a path only, for none.
    pub id: u32,
    /// A directory, or a file, from the dataset's root: it and all below it is to belong to the
    /// project, whatever the limits are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Bytes that its files may take; 0 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
    /// Inodes that it may have; 0 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_inodes: Option<u64>,
}
