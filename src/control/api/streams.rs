//! Streams of snapshots.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// From what to send a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SendSnapshot {
    /// An earlier snapshot of the same dataset, which the receiver has: only what changed is sent.
    #[serde(default)]
    pub from: Option<String>,
}

/// How to receive a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReceiveSnapshot {
    /// What the snapshot is to be called, behind the `@`; as the sender calls it if not said.
    pub snapshot: Option<String>,
}

/// What was received: the dataset has it as its newest snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Received {
    /// The dataset.
    pub dataset: String,
    /// Bytes of the stream.
    pub bytes: u64,
    /// Inodes that it had something about.
    pub inodes: u64,
}

/// What was received of a snapshot before that was cut off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnfinishedReceive {
    /// The dataset that it is for.
    pub dataset: String,
    /// What the sender needs to go on with it.
    pub token: String,
}
