//! What requests do to an open store, whoever asks: a handler of the server, or a command that has
//! opened the store itself.
//!
//! Making something that is there already succeeds when it is what was asked for, so that who did
//! not get an answer may ask again. A name is taken by the engine's transaction; only where that
//! finds it taken is what has it looked at.

//!
//! One module for each kind of thing; what they have in common is here.

mod archive;
mod datasets;
mod exports;
mod projects;
mod receive;
mod snapshots;
mod whole;

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use super::api::{Dataset, ErrorKind, Failure, Snapshot};
use crate::engine::{DatasetError, DatasetInfo, EngineError, Store, Time, split_name};
use crate::format::id::{DatasetId, Ino};
use crate::store::StoreError;

pub use archive::{extract, import, importable, path_to_extract};
pub use datasets::{
    change_dataset, clone_dataset, create_dataset, dataset, datasets, delete_dataset, promote,
};
pub use exports::{add_export, exports, remove_export};
pub use projects::{change_project, projects};
pub(in crate::control) use receive::received;
pub use receive::{abort_receive, receive, unfinished};
pub use snapshots::{
    Stream, change_snapshot, delete_snapshot, differences, restore, restore_path, send, send_rest,
    snapshot, snapshots, take_snapshot,
};
pub(super) use whole::as_event;
pub use whole::{change_store, compact, rewrite, scrub_status, stats, trim};

/// How often a name is tried again that others take and give back meanwhile.
const TRIES: u32 = 8;

type Result<T> = std::result::Result<T, Failure>;

/// What there is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made<T> {
    /// It.
    pub it: T,
    /// Whether it was made now, rather than there already.
    pub is_new: bool,
}

impl From<DatasetError> for Failure {
    fn from(error: DatasetError) -> Self {
        let kind = match &error {
            DatasetError::NotFound(_) | DatasetError::NoPath { .. } => ErrorKind::NotFound,
            DatasetError::Exists(_) | DatasetError::PathExists(_) => ErrorKind::Exists,
            DatasetError::Name { .. } => ErrorKind::BadName,
            DatasetError::BadPath { .. } => ErrorKind::BadRequest,
            DatasetError::Busy(_)
            | DatasetError::Receiving(_)
            | DatasetError::Believed(_)
            | DatasetError::Restoring => ErrorKind::Busy,
            DatasetError::HasSnapshots { .. } => ErrorKind::HasSnapshots,
            DatasetError::Held(_) => ErrorKind::Held,
            DatasetError::Refused { .. } => ErrorKind::NotPossible,
            DatasetError::NoRoom { .. } => ErrorKind::OverLimit,
            DatasetError::Engine(error) => kind_of(error),
        };
        Failure::new(kind, error.to_string())
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Failure::new(kind_of(&error), error.to_string())
    }
}

fn kind_of(error: &EngineError) -> ErrorKind {
    match error {
        EngineError::Quota => ErrorKind::OverLimit,
        EngineError::Store(StoreError::NoSpace(_)) => ErrorKind::NoSpace,
        EngineError::Store(StoreError::ReadOnly(_)) => ErrorKind::ReadOnly,
        EngineError::OtherProject => ErrorKind::NotPossible,
        EngineError::Busy(_) => ErrorKind::Busy,
        EngineError::Interrupted => ErrorKind::Interrupted,
        _ => ErrorKind::Failed,
    }
}

/// Makes what is to have a name, or finds it there. Requests for the same name may race: the
/// transaction of one makes it, and the others find what that has made.
fn make_once(
    store: &Arc<Store>,
    name: &str,
    make: impl Fn() -> std::result::Result<DatasetId, DatasetError>,
    is_the_same: impl Fn(&DatasetInfo) -> bool,
) -> Result<Made<DatasetId>> {
    for _ in 0..TRIES {
        match store.find(name) {
            Ok(found) if is_the_same(&found) => {
                return Ok(Made {
                    it: found.id,
                    is_new: false,
                });
            }
            Ok(_) => return Err(DatasetError::Exists(name.to_owned()).into()),
            Err(DatasetError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
        match make() {
            Ok(it) => return Ok(Made { it, is_new: true }),
            // Somebody was faster: with what?
            Err(DatasetError::Exists(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(DatasetError::Exists(name.to_owned()).into())
}

fn described_made(store: &Arc<Store>, made: &Made<DatasetId>) -> Result<Made<Dataset>> {
    Ok(Made {
        it: described_by_id(store, made.it)?,
        is_new: made.is_new,
    })
}

fn described_by_id(store: &Arc<Store>, id: DatasetId) -> Result<Dataset> {
    described(store, &by_id(store, id)?)
}

/// What was just made or changed.
fn by_id(store: &Arc<Store>, id: DatasetId) -> Result<DatasetInfo> {
    store.find_by_id(id)?.ok_or_else(|| {
        let message = "it was done, but somebody else has deleted it since";
        Failure::new(ErrorKind::NotFound, message)
    })
}

fn described(store: &Arc<Store>, info: &DatasetInfo) -> Result<Dataset> {
    let mut names = HashMap::new();
    for id in [info.origin, info.snapshot_of].into_iter().flatten() {
        if let Some(found) = store.find_by_id(id)? {
            names.insert(id, found.name);
        }
    }
    Ok(as_dataset(info, |id| names.get(&id).cloned()))
}

fn as_dataset(info: &DatasetInfo, name_of: impl Fn(DatasetId) -> Option<String>) -> Dataset {
    Dataset {
        id: info.id.0,
        name: info.name.clone(),
        uuid: Uuid::from_bytes(info.uuid).to_string(),
        created_at: rfc3339(info.created),
        root_inode: Ino::ROOT.0,
        is_readonly: info.read_only,
        is_snapshot: info.snapshot_of.is_some(),
        is_held: info.held,
        snapshot_of: info.snapshot_of.and_then(&name_of),
        origin: info.origin.and_then(name_of),
        inodes: info.inodes,
        allocated_bytes: info.allocated_bytes,
        compression: info.compression.to_string(),
        dedup: info.dedup.to_string(),
        quota_bytes: info.quota_bytes,
        quota_inodes: info.quota_inodes,
        reservation_bytes: info.reservation_bytes,
    }
}

fn as_snapshot(info: &DatasetInfo) -> Snapshot {
    let source = info.name.split_once('@').map(|(dataset, _)| dataset);
    Snapshot {
        id: info.id.0,
        name: info.name.clone(),
        uuid: Uuid::from_bytes(info.uuid).to_string(),
        source: source.unwrap_or_default().to_owned(),
        created_at: rfc3339(info.created),
        readonly: true,
        is_held: info.held,
        inodes: info.inodes,
        allocated_bytes: info.allocated_bytes,
    }
}

fn rfc3339(time: Time) -> String {
    timestamp(time.sec, time.nsec)
}

/// As RFC 3339 has it. A store may hold any number: years that it cannot write are its ends.
fn timestamp(sec: i64, nsec: u32) -> String {
    let nsec = i32::try_from(nsec).unwrap_or(0);
    let end = match sec {
        ..0 => Timestamp::UNIX_EPOCH,
        _ => Timestamp::MAX,
    };
    Timestamp::new(sec, nsec).unwrap_or(end).to_string()
}

fn dataset_name(name: &str) -> Result<()> {
    match split_name(name)? {
        (_, None) => Ok(()),
        (_, Some(_)) => Err(bad_name(name, "that is the name of a snapshot")),
    }
}

fn snapshot_name(name: &str) -> Result<()> {
    match split_name(name)? {
        (_, Some(_)) => Ok(()),
        (_, None) => Err(bad_name(name, "a snapshot is named DATASET@SNAPSHOT")),
    }
}

fn bad_name(name: &str, reason: &'static str) -> Failure {
    let name = name.to_owned();
    DatasetError::Name { name, reason }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_whatever_a_store_holds() {
        assert_eq!(timestamp(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(i64::MIN, 0), "1970-01-01T00:00:00Z");
        assert!(timestamp(i64::MAX, u32::MAX).starts_with("9999-"));
    }
}
