//! Exports.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A dataset that a guest can reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Export {
    /// The dataset's or snapshot's name now.
    pub dataset: String,
    /// Where a front-end connects: a path, or `fd:N` for a socket that the daemon was started with.
    pub socket: String,
    /// The tag that the guest mounts, if it is the daemon that says.
    pub tag: Option<String>,
    /// Whether the guest's changes are refused.
    pub is_readonly: bool,
    /// Whether others may change the dataset meanwhile, so that the guest believes what it remembers
    /// for a second only (unless the daemon was told otherwise).
    pub is_shared: bool,
    /// Whether a front-end is connected.
    pub is_connected: bool,
    /// Whether the dataset was restored while its guest was using it: the guest is refused everything
    /// until it mounts it again.
    #[serde(default)]
    pub is_stale: bool,
}

/// A dataset to be exported. What is exported on that socket in the same way is taken for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewExport {
    /// DATASET or DATASET@SNAPSHOT
    pub dataset: String,
    /// The path of the socket to be made, below the daemon's --socket-dir.
    pub socket: String,
    /// The tag that the guest mounts, for front-ends that have none of their own: that of the
    /// daemon if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Whether the guest's changes are to be refused: false if not said.
    #[serde(default)]
    pub readonly: bool,
    /// Whether others may write to the dataset later, which the guest's kernel is told: false if not
    /// said.
    #[serde(default)]
    pub shared: bool,
}

/// How to end an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteExport {
    /// Disconnect the guest that is there.
    #[serde(default)]
    pub force: bool,
}
