//! Snapshots that are received.

use std::io::Read;
use std::sync::Arc;

use super::{Result, dataset_name};
use crate::control::api::{ErrorKind, Failure, Received, UnfinishedReceive};
use crate::engine::Store;
use crate::stream::send::Watch;
use crate::stream::{self, Progress, StreamError, token};

impl From<StreamError> for Failure {
    fn from(error: StreamError) -> Self {
        let message = error.to_string();
        let kind = match error {
            StreamError::Dataset(source) | StreamError::Store { source, .. } => {
                Failure::from(source).error
            }
            // What was sent is no stream, or not all of it.
            StreamError::Damaged { .. }
            | StreamError::Unknown(_)
            | StreamError::Read { .. }
            | StreamError::Input { .. } => ErrorKind::BadRequest,
            StreamError::Write(_) => ErrorKind::Failed,
        };
        Failure::new(kind, message)
    }
}

/// Receives a snapshot for a dataset: see [`stream::receive()`]. Durable on return.
///
/// # Errors
/// As there; what was received before stays, and can be gone on with.
pub fn receive(
    store: &Arc<Store>,
    dataset: &str,
    snapshot: Option<&str>,
    input: impl Read,
    watch: &mut Watch<'_>,
) -> Result<Received> {
    dataset_name(dataset)?;
    let done = stream::receive(store, (dataset, snapshot), input, watch)?;
    Ok(received(dataset, done))
}

/// What has come into a dataset when its stream is at its end.
pub(in crate::control) fn received(dataset: &str, done: Progress) -> Received {
    Received {
        dataset: dataset.to_owned(),
        bytes: done.bytes,
        inodes: done.inodes,
    }
}

/// What was received for a dataset before it was cut off.
///
/// # Errors
/// When there is nothing, or it cannot be gone on with; when the store cannot be read.
pub fn unfinished(store: &Arc<Store>, dataset: &str) -> Result<UnfinishedReceive> {
    dataset_name(dataset)?;
    let state = store.receive_record(dataset)?;
    let state = state.ok_or_else(|| nothing(dataset))?;
    Ok(UnfinishedReceive {
        dataset: dataset.to_owned(),
        token: token::encode(&state),
    })
}

/// Drops that. Durable on return; its space comes back bit by bit.
///
/// # Errors
/// When there is nothing; when it is being received; when the store refuses.
pub fn abort_receive(store: &Arc<Store>, dataset: &str) -> Result<()> {
    dataset_name(dataset)?;
    if let Ok(None) = store.receive_record(dataset) {
        return Err(nothing(dataset));
    }
    Ok(store.abort_receive(dataset)?)
}

fn nothing(dataset: &str) -> Failure {
    let message = format!("'{dataset}': no receive was cut off");
    Failure::new(ErrorKind::NotFound, message)
}
