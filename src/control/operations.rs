//! What requests do to an open store, whoever asks: a handler of the server, or a command that has
//! opened the store itself.
//!
//! Making something that is there already succeeds when it is what was asked for, so that who did
//! not get an answer may ask again. A name is taken by the engine's transaction; only where that
//! finds it taken is what has it looked at.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use super::api::{
    ChangeDataset, ChangeSnapshot, ChangeStore, Compare, Dataset, Difference, ErrorKind, Failure,
    NewClone, NewDataset, NewSnapshot, Opening, PathChange, Snapshot, Stats, StoreSettings, Trim,
    Trimmed,
};
use crate::engine::{
    self, DatasetError, DatasetInfo, EngineError, Settings, Store, Time, split_name,
};
use crate::format::id::{DatasetId, Ino};
use crate::format::page::PAGE_BYTES;
use crate::format::superblock::VERSION;
use crate::store::StoreError;

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
            DatasetError::NotFound(_) => ErrorKind::NotFound,
            DatasetError::Exists(_) => ErrorKind::Exists,
            DatasetError::Name { .. } => ErrorKind::BadName,
            DatasetError::Busy(_) => ErrorKind::Busy,
            DatasetError::HasSnapshots { .. } => ErrorKind::HasSnapshots,
            DatasetError::Held(_) => ErrorKind::Held,
            DatasetError::Refused { .. } => ErrorKind::NotPossible,
            DatasetError::NoRoom { .. } => ErrorKind::NoSpace,
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
        EngineError::Store(StoreError::NoSpace(_)) | EngineError::Quota => ErrorKind::NoSpace,
        EngineError::Store(StoreError::ReadOnly(_)) => ErrorKind::ReadOnly,
        _ => ErrorKind::Failed,
    }
}

/// All datasets and snapshots, by number.
///
/// # Errors
/// When the store cannot be read.
pub fn datasets(store: &Arc<Store>) -> Result<Vec<Dataset>> {
    let all = store.list()?;
    let names: HashMap<_, _> = all.iter().map(|each| (each.id, &each.name)).collect();
    let name_of = |id: DatasetId| names.get(&id).map(ToString::to_string);
    Ok(all.iter().map(|each| as_dataset(each, name_of)).collect())
}

/// The dataset or snapshot of a name.
///
/// # Errors
/// When there is none; when the store cannot be read.
pub fn dataset(store: &Arc<Store>, name: &str) -> Result<Dataset> {
    described(store, &store.find(name)?)
}

/// Makes an empty dataset. Durable on return.
///
/// # Errors
/// When the name is taken or cannot be one, or a setting is not known; when the store refuses.
pub fn create_dataset(store: &Arc<Store>, new: &NewDataset) -> Result<Made<Dataset>> {
    let settings = Settings {
        quota_bytes: new.quota_bytes,
        quota_inodes: new.quota_inodes,
        reservation_bytes: new.reservation_bytes,
        ..settings(new.compression.as_deref(), new.dedup.as_deref())?
    };
    let owner = (new.uid.unwrap_or(0), new.gid.unwrap_or(0));
    let is_the_same = |found: &DatasetInfo| {
        found.snapshot_of.is_none()
            && found.origin.is_none()
            && settings
                .compression
                .is_none_or(|set| set == found.compression)
            && settings.dedup.is_none_or(|set| set == found.dedup)
            && settings
                .quota_bytes
                .is_none_or(|set| set == found.quota_bytes)
            && settings
                .quota_inodes
                .is_none_or(|set| set == found.quota_inodes)
            && settings
                .reservation_bytes
                .is_none_or(|set| set == found.reservation_bytes)
    };
    let make = || store.create_dataset_with(&new.name, owner, settings);
    let made = make_once(store, &new.name, make, is_the_same)?;
    described_made(store, &made)
}

/// Changes a dataset's settings, or its name. Durable on return.
///
/// # Errors
/// When there is no such dataset; when the change is not possible; when the store refuses.
pub fn change_dataset(store: &Arc<Store>, name: &str, change: &ChangeDataset) -> Result<Dataset> {
    let settings = Settings {
        quota_bytes: change.quota_bytes,
        quota_inodes: change.quota_inodes,
        reservation_bytes: change.reservation_bytes,
        ..settings(change.compression.as_deref(), change.dedup.as_deref())?
    };
    // By its number: who comes between may give the name to another.
    let id = store.find(name)?.id;
    match &change.name {
        // One transaction each: a crash between them would leave half of what was asked for.
        Some(_) if settings != Settings::default() => {
            let message = "a name and settings are not changed at once";
            return Err(Failure::new(ErrorKind::BadRequest, message));
        }
        Some(to) => {
            dataset_name(name)?;
            store.rename(name, to)?;
        }
        None => store.change_settings(name, settings)?,
    }
    described_by_id(store, id)
}

/// Deletes a dataset, with its snapshots if `recursive`. Durable on return; its space comes back
/// bit by bit.
///
/// # Errors
/// When there is none; when it is in use or has snapshots; when the store refuses.
pub fn delete_dataset(store: &Arc<Store>, name: &str, recursive: bool) -> Result<()> {
    dataset_name(name)?;
    Ok(store.delete(name, recursive)?)
}

/// All snapshots by number, or those of a dataset.
///
/// # Errors
/// When there is no such dataset; when the store cannot be read.
pub fn snapshots(store: &Arc<Store>, dataset: Option<&str>) -> Result<Vec<Snapshot>> {
    if let Some(dataset) = dataset {
        dataset_name(dataset)?;
        store.find(dataset)?;
    }
    let all = store.list()?;
    let snapshots = all.iter().filter(|each| each.snapshot_of.is_some());
    let snapshots = snapshots.map(as_snapshot);
    Ok(snapshots
        .filter(|each| dataset.is_none_or(|dataset| dataset == each.source))
        .collect())
}

/// The snapshot of a name.
///
/// # Errors
/// When there is none; when the store cannot be read.
pub fn snapshot(store: &Arc<Store>, name: &str) -> Result<Snapshot> {
    snapshot_name(name)?;
    Ok(as_snapshot(&store.find(name)?))
}

/// Takes a snapshot. Durable on return.
///
/// # Errors
/// When the name cannot be one; when there is no such dataset; when the store refuses.
pub fn take_snapshot(store: &Arc<Store>, new: &NewSnapshot) -> Result<Made<Snapshot>> {
    snapshot_name(&new.name)?;
    // Its name says what it is one of.
    let made = make_once(store, &new.name, || store.snapshot(&new.name), |_| true)?;
    let info = by_id(store, made.it)?;
    Ok(Made {
        it: as_snapshot(&info),
        is_new: made.is_new,
    })
}

/// Gives a snapshot another name, holds or releases it. Durable on return.
///
/// # Errors
/// When there is none; when the name is taken or cannot be one; when the store refuses.
pub fn change_snapshot(
    store: &Arc<Store>,
    name: &str,
    change: &ChangeSnapshot,
) -> Result<Snapshot> {
    snapshot_name(name)?;
    let id = store.find(name)?.id;
    match (&change.name, change.is_held) {
        (Some(_), Some(_)) => {
            let message = "a snapshot is not renamed and held or released at once";
            return Err(Failure::new(ErrorKind::BadRequest, message));
        }
        (Some(to), None) => store.rename(name, to)?,
        (None, Some(true)) => store.hold(name)?,
        (None, Some(false)) => store.release(name)?,
        (None, None) => {}
    }
    Ok(as_snapshot(&by_id(store, id)?))
}

/// Makes a dataset that nobody uses what a snapshot of it is. Durable on return.
///
/// # Errors
/// When there is no such snapshot; when the dataset is in use; when the store refuses.
pub fn restore(store: &Arc<Store>, snapshot: &str) -> Result<Dataset> {
    let info = store.find(snapshot)?;
    store.restore(snapshot)?;
    let dataset = info.snapshot_of.unwrap_or(info.id);
    described_by_id(store, dataset)
}

/// Gives a clone the snapshots that it has in common with the dataset that it was cloned from.
/// Durable on return.
///
/// # Errors
/// When it is no clone, or the names of its snapshots are in the way; when the store refuses.
pub fn promote(store: &Arc<Store>, clone: &str) -> Result<Dataset> {
    let id = store.find(clone)?.id;
    store.promote(clone)?;
    described_by_id(store, id)
}

/// Which paths differ.
///
/// # Errors
/// When there is no such dataset or snapshot; when the store cannot be read.
pub fn differences(store: &Arc<Store>, of: &Compare) -> Result<Vec<Difference>> {
    let all = store.diff(&of.old, &of.new)?;
    Ok(all.iter().map(as_difference).collect())
}

fn as_difference(found: &engine::Difference) -> Difference {
    let shown = |path: &[u8]| format!("/{}", path.escape_ascii());
    let (change, to) = match &found.change {
        engine::PathChange::Removed => (PathChange::Removed, None),
        engine::PathChange::Added => (PathChange::Added, None),
        engine::PathChange::Changed => (PathChange::Changed, None),
        engine::PathChange::Renamed(to) => (PathChange::Renamed, Some(shown(to))),
    };
    Difference {
        path: shown(&found.path),
        change,
        to,
    }
}

/// Deletes a snapshot. Durable on return; its space comes back bit by bit.
///
/// # Errors
/// When there is none; when it is in use; when the store refuses.
pub fn delete_snapshot(store: &Arc<Store>, name: &str) -> Result<()> {
    snapshot_name(name)?;
    Ok(store.delete(name, false)?)
}

/// Makes a dataset that begins as what its source is now. Durable on return.
///
/// # Errors
/// When the source is not there; when the name is taken or cannot be one; when the store refuses.
pub fn clone_dataset(store: &Arc<Store>, new: &NewClone) -> Result<Made<Dataset>> {
    let source = store.find(&new.source)?.id;
    let is_the_same =
        |found: &DatasetInfo| found.snapshot_of.is_none() && found.origin == Some(source);
    let make = || store.clone_dataset(&new.source, &new.name);
    let made = make_once(store, &new.name, make, is_the_same)?;
    described_made(store, &made)
}

/// Gives free space back to the disk below.
///
/// # Errors
/// When the store or the disk refuses: some of it may have gone back then, and content is whole.
pub fn trim(store: &Arc<Store>, how: &Trim) -> Result<Trimmed> {
    let default = engine::TrimOptions::default();
    let options = engine::TrimOptions {
        min_bytes: how.min_bytes.unwrap_or(default.min_bytes),
    };
    let done = store.trim(&options)?;
    Ok(Trimmed {
        punched_bytes: done.punched_bytes,
        pieces: done.pieces,
        cut_bytes: done.cut_bytes,
        unsupported: done.unsupported,
    })
}

/// Changes the store's own size. Durable on return.
///
/// # Errors
/// When more is used or reserved; when the store refuses.
pub fn change_store(store: &Arc<Store>, change: &ChangeStore) -> Result<StoreSettings> {
    if let Some(bytes) = change.capacity_bytes {
        match store.change_size(bytes) {
            Err(EngineError::Store(StoreError::NoSpace(_))) => {
                let needed = store.needed_bytes()?;
                let message =
                    format!("the store cannot be of {bytes} bytes: {needed} are used or reserved");
                return Err(Failure::new(ErrorKind::NoSpace, message));
            }
            other => other?,
        }
    }
    Ok(StoreSettings {
        capacity_bytes: store.size_bytes(),
    })
}

/// Numbers of the store.
///
/// # Errors
/// When it cannot be read.
pub fn stats(store: &Arc<Store>) -> Result<Stats> {
    let status = store.status()?;
    let all = store.list()?;
    let snapshots = all.iter().filter(|each| each.snapshot_of.is_some());
    let snapshots = snapshots.count();
    let block = &status.superblock;
    let report = store.recovery_report();
    Ok(Stats {
        uuid: Uuid::from_bytes(block.uuid).to_string(),
        format_version: VERSION,
        created_at: timestamp(block.created_sec, 0),
        is_writable: status.is_writable,
        generation: block.generation.0,
        dataset_count: (all.len() - snapshots) as u64,
        snapshot_count: snapshots as u64,
        capacity_bytes: block.capacity_bytes,
        free_bytes: status.free_bytes,
        unwritten_bytes: status.unwritten_bytes,
        chunks_file_bytes: status.chunks_file_bytes,
        metadata_bytes: block.nodes_used.saturating_mul(PAGE_BYTES as u64),
        names_bytes: block.strings_end,
        log_bytes: block.log_bytes,
        opening: Opening {
            was_closed: report.was_clean(),
            transactions: report.applied,
            orphans_freed: store.orphans_freed(),
            damage: report.damage.as_ref().map(ToString::to_string),
        },
    })
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

fn settings(compression: Option<&str>, dedup: Option<&str>) -> Result<Settings> {
    fn parsed<T: FromStr<Err: std::fmt::Display>>(
        key: &str,
        value: Option<&str>,
    ) -> Result<Option<T>> {
        let value = value.map(str::parse).transpose();
        value.map_err(|error| Failure::new(ErrorKind::BadRequest, format!("{key}: {error}")))
    }
    Ok(Settings {
        compression: parsed("compression", compression)?,
        dedup: parsed("dedup", dedup)?,
        ..Settings::default()
    })
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
    fn paths_of_any_bytes_can_be_told() {
        let told = |path: &[u8], change| {
            as_difference(&engine::Difference {
                path: path.to_vec(),
                change,
            })
        };
        let plain = told(b"a/b c", engine::PathChange::Removed);
        assert_eq!(
            (plain.path.as_str(), plain.change),
            ("/a/b c", PathChange::Removed)
        );
        let odd = told(b"a\nb\xff", engine::PathChange::Renamed(b"to".to_vec()));
        assert_eq!(
            (odd.path.as_str(), odd.to.as_deref()),
            (r"/a\nb\xff", Some("/to"))
        );
        assert_eq!(told(b"", engine::PathChange::Changed).path, "/");
    }

    #[test]
    fn times_are_told_whatever_a_store_holds() {
        assert_eq!(timestamp(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(i64::MIN, 0), "1970-01-01T00:00:00Z");
        assert!(timestamp(i64::MAX, u32::MAX).starts_with("9999-"));
    }
}
