//! What requests do to an open store, whoever asks: a handler of the server, or a command that has
//! opened the store itself.
//!
//! Making something that is there already succeeds when it is what was asked for, so that who did
//! not get an answer may ask again. A name is taken by the engine's transaction; only where that
//! finds it taken is what has it looked at.

use std::collections::HashMap;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use super::api::{
    ChangeDataset, ChangeProject, ChangeSnapshot, ChangeStore, Compare, Dataset, Difference,
    ErrorKind, Event, EventKind, Export, Failure, NewClone, NewDataset, NewExport, NewSnapshot,
    Opening, PathChange, Project, Restore, Restored, Rewrite, Rewritten, Scrub, Snapshot, Stats,
    StoreSettings, Trim, Trimmed,
};
use crate::engine::{
    self, DatasetError, DatasetInfo, EngineError, ProjectInfo, Sending, Settings, Store, Time,
    Volume, split_name,
};
use crate::export::{self, ExportError, Exported, Exports};
use crate::format::id::{DatasetId, Ino};
use crate::format::page::PAGE_BYTES;
use crate::format::record::StreamPosition;
use crate::format::superblock::VERSION;
use crate::store::StoreError;
use crate::stream::token;
use crate::transport::vhost_user::{VhostUserError, check_tag};

/// How often a name is tried again that others take and give back meanwhile.
const TRIES: u32 = 8;

type Result<T> = std::result::Result<T, Failure>;

/// A snapshot to be sent, and from where in the stream on.
pub struct Stream {
    /// It.
    pub sending: Sending,
    /// Where to begin.
    pub position: StreamPosition,
}

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
            DatasetError::Busy(_) | DatasetError::Believed(_) | DatasetError::Restoring => {
                ErrorKind::Busy
            }
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

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        let kind = match &error {
            ExportError::Dataset(_) => ErrorKind::Failed,
            ExportError::Exists(_) => ErrorKind::Exists,
            ExportError::NotFound(_) => ErrorKind::NotFound,
            ExportError::Connected(_) | ExportError::Alone { .. } => ErrorKind::Busy,
            ExportError::Device(VhostUserError::InUse(_)) => ErrorKind::Busy,
            ExportError::Device(VhostUserError::NotSocket(_)) => ErrorKind::Exists,
            ExportError::OutOfReach { .. } | ExportError::Device(VhostUserError::Listen { .. }) => {
                ErrorKind::NotPossible
            }
            ExportError::Device(_)
            | ExportError::Thread { .. }
            | ExportError::CannotGoOn { .. }
            | ExportError::Handover(_)
            | ExportError::Ending => ErrorKind::Failed,
        };
        match error {
            ExportError::Dataset(error) => error.into(),
            error => Failure::new(kind, error.to_string()),
        }
    }
}

fn kind_of(error: &EngineError) -> ErrorKind {
    match error {
        EngineError::Store(StoreError::NoSpace(_)) | EngineError::Quota => ErrorKind::NoSpace,
        EngineError::Store(StoreError::ReadOnly(_)) => ErrorKind::ReadOnly,
        EngineError::OtherProject => ErrorKind::NotPossible,
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

/// Brings a part of a snapshot back into its dataset, or all of it. Durable on return.
///
/// # Errors
/// When there is no such snapshot or path; when the destination is taken; when the dataset is in use
/// by who would not see it; when the store refuses.
pub fn restore_path(store: &Arc<Store>, what: &Restore) -> Result<Restored> {
    let source = what.source.clone().unwrap_or_else(|| "/".to_owned());
    let destination = what.destination.clone().unwrap_or_else(|| source.clone());
    let is_root = |path: &str| path.bytes().all(|byte| byte == b'/');
    let inodes = match is_root(&source) && is_root(&destination) {
        true => restore(store, &what.snapshot)?.inodes,
        false => store.restore_path(&engine::RestorePath {
            snapshot: what.snapshot.clone(),
            source: unescaped(&source)?,
            destination: unescaped(&destination)?,
            replace: what.replace,
        })?,
    };
    let dataset = what.snapshot.split('@').next().unwrap_or_default();
    Ok(Restored {
        snapshot: what.snapshot.clone(),
        dataset: dataset.to_owned(),
        source,
        destination,
        inodes,
    })
}

/// The bytes of a path as [`as_difference`] shows it; what need not be escaped may stand for itself.
fn unescaped(path: &str) -> Result<Vec<u8>> {
    let bad = || {
        let message = format!("'{path}': behind a backslash comes one of \\ ' \" n r t, or xNN");
        Failure::new(ErrorKind::BadRequest, message)
    };
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next().ok_or_else(bad)? {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            escaped @ (b'\\' | b'\'' | b'"') => escaped,
            b'x' => {
                let mut digit = || {
                    let digit = char::from(rest.next()?).to_digit(16)?;
                    u8::try_from(digit).ok()
                };
                let (high, low) = digit().zip(digit()).ok_or_else(bad)?;
                high << 4 | low
            }
            _ => return Err(bad()),
        });
    }
    Ok(bytes)
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

/// What the scrub under way has done, or the last one.
#[must_use]
pub fn scrub_status(store: &Arc<Store>) -> Scrub {
    let status = store.scrub_status();
    let progress = status.progress;
    Scrub {
        is_running: status.is_running,
        is_done: progress.done,
        items: progress.items,
        bytes: progress.bytes,
        bytes_total: progress.bytes_total,
        errors: progress.errors,
        damaged: status.damaged,
    }
}

/// Writes a file's content anew, as the dataset's settings are now. Durable on return. `go_on` is
/// asked now and then.
///
/// # Errors
/// When there is no such file; when the store refuses: some of it may be written anew then.
pub fn rewrite(
    store: &Arc<Store>,
    dataset: &str,
    what: &Rewrite,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Rewritten> {
    dataset_name(dataset)?;
    let bytes = store.rewrite_path(dataset, &unescaped(&what.path)?, go_on)?;
    Ok(Rewritten { bytes })
}

/// Begins to send a snapshot, or what changed since an earlier one.
///
/// # Errors
/// When there are no such snapshots; when the store cannot be read.
pub fn send(store: &Arc<Store>, name: &str, from: Option<&str>) -> Result<Stream> {
    let sending = store.send(name, from)?;
    let position = StreamPosition::START;
    Ok(Stream { sending, position })
}

/// Begins to send what a receiver is missing that was cut off, and that gave this token.
///
/// # Errors
/// When it is no token; when its snapshots are not there any more; when the store cannot be read.
pub fn send_rest(store: &Arc<Store>, token: &str) -> Result<Stream> {
    let state = token::decode(token);
    let state = state
        .ok_or_else(|| Failure::new(ErrorKind::BadRequest, "that is no token, or not all of it"))?;
    Ok(Stream {
        sending: store.send_rest(&state)?,
        position: state.position,
    })
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

/// What guests can reach.
///
/// # Errors
/// When the store cannot be read.
pub fn exports(store: &Arc<Store>, exports: &Exports) -> Result<Vec<Export>> {
    let all = exports.list();
    all.iter().map(|each| as_export(store, each)).collect()
}

/// Exports a dataset on a socket to be made.
///
/// # Errors
/// When there is no such dataset; when the socket is taken or cannot be made; when a guest that has
/// the dataset could not see what another writes.
pub fn add_export(
    store: &Arc<Store>,
    exports: &Arc<Exports>,
    new: &NewExport,
) -> Result<Made<Export>> {
    let bad = |reason: String| Failure::new(ErrorKind::BadRequest, reason);
    if !Path::new(&new.socket).is_absolute() {
        return Err(bad(format!("socket: '{}' is no absolute path", new.socket)));
    }
    if let Some(tag) = &new.tag {
        check_tag(tag).map_err(|reason| bad(format!("tag: {reason}")))?;
    }
    let (exported, is_new) = exports.attach(export::NewExport {
        dataset: new.dataset.clone(),
        endpoint: export::Endpoint::Path(new.socket.clone().into()),
        tag: new.tag.clone(),
        read_only: new.readonly,
        shared: new.shared,
        cache: None,
    })?;
    let it = as_export(store, &exported)?;
    Ok(Made { it, is_new })
}

/// Ends an export, given by its socket.
///
/// # Errors
/// When there is none; when a guest is connected, without `force`.
pub fn remove_export(exports: &Exports, socket: &str, force: bool) -> Result<()> {
    Ok(exports.detach(socket, force)?)
}

/// An export, by its dataset's name now.
pub(super) fn as_export(store: &Arc<Store>, exported: &Exported) -> Result<Export> {
    // It is in use, so it is there; somebody may have renamed it.
    let found = store.find_by_id(exported.dataset)?;
    Ok(Export {
        dataset: found.map(|found| found.name).unwrap_or_default(),
        socket: exported.socket.clone(),
        tag: exported.tag.clone(),
        is_readonly: exported.read_only,
        is_shared: exported.shared,
        is_connected: exported.connected,
    })
}

/// The projects of a dataset that have inodes or limits, by number.
///
/// # Errors
/// When there is no such dataset; when the store cannot be read.
pub fn projects(store: &Arc<Store>, dataset: &str) -> Result<Vec<Project>> {
    let all = store.volume(dataset)?.projects()?;
    Ok(all.iter().map(|each| as_project(dataset, each)).collect())
}

/// Sets limits of a project, then gives a directory tree to it. Durable on return; what of the tree
/// was given to it before an error stays so.
///
/// # Errors
/// When there is no such dataset or path; when it is a snapshot, or 0 is to have limits; when the
/// store refuses.
pub fn change_project(store: &Arc<Store>, change: &ChangeProject) -> Result<Project> {
    let (dataset, id) = (change.dataset.as_str(), change.id);
    let volume = store.volume(dataset)?;
    let find = |volume: &Volume| -> Result<ProjectInfo> {
        let all = volume.projects()?;
        let found = all.into_iter().find(|project| project.id == id);
        Ok(found.unwrap_or(ProjectInfo {
            id,
            ..ProjectInfo::default()
        }))
    };
    // Before anything is done for a path that is not there.
    let path = change.path.as_deref();
    let ino = path.map(|path| at_path(&volume, path)).transpose()?;
    if change.quota_bytes.is_some() || change.quota_inodes.is_some() {
        let mut limit = find(&volume)?.limit;
        limit.bytes = change.quota_bytes.unwrap_or(limit.bytes);
        limit.inodes = change.quota_inodes.unwrap_or(limit.inodes);
        store.limit_project(dataset, id, limit)?;
    }
    if let Some(ino) = ino {
        volume.assign_project(ino, id, &mut || true)?;
    }
    Ok(as_project(dataset, &find(&volume)?))
}

fn at_path(volume: &Volume, path: &str) -> Result<Ino> {
    let mut ino = Ino::ROOT;
    for name in path.split('/').filter(|name| !matches!(*name, "" | ".")) {
        let found = volume.lookup(ino, name.as_bytes());
        let failed = |error: EngineError| {
            let kind = match error {
                EngineError::NotFound => ErrorKind::NotFound,
                _ => ErrorKind::NotPossible,
            };
            Failure::new(kind, format!("{path}: {error}"))
        };
        ino = found.map_err(failed)?.ino;
    }
    Ok(ino)
}

fn as_project(dataset: &str, info: &ProjectInfo) -> Project {
    Project {
        dataset: dataset.to_owned(),
        id: info.id,
        inodes: info.used.inodes,
        allocated_bytes: info.used.bytes,
        quota_bytes: info.limit.bytes,
        quota_inodes: info.limit.inodes,
    }
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

/// An event as it is told.
pub(super) fn as_event(event: &engine::Event) -> Event {
    use engine::EventKind as From;
    let kind = match event.kind {
        From::DatasetCreated => EventKind::DatasetCreated,
        From::DatasetDeleted => EventKind::DatasetDeleted,
        From::DatasetRenamed => EventKind::DatasetRenamed,
        From::DatasetRestored => EventKind::DatasetRestored,
        From::PathRestored => EventKind::PathRestored,
        From::DatasetPromoted => EventKind::DatasetPromoted,
        From::SnapshotCreated => EventKind::SnapshotCreated,
        From::SnapshotDeleted => EventKind::SnapshotDeleted,
        From::SnapshotRenamed => EventKind::SnapshotRenamed,
        From::GuestAttached => EventKind::GuestAttached,
        From::GuestDetached => EventKind::GuestDetached,
        From::QuotaReached => EventKind::QuotaReached,
        From::DamageFound => EventKind::DamageFound,
        From::StoreReadOnly => EventKind::StoreReadOnly,
    };
    Event {
        id: event.id,
        time: rfc3339(event.time),
        event: kind,
        name: event.name.clone(),
        detail: event.other.clone(),
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
    fn a_path_that_is_told_can_be_asked_for() {
        let every: Vec<u8> = (0..=u8::MAX).collect();
        let told = every.escape_ascii().to_string();
        assert_eq!(unescaped(&told).unwrap(), every);
        assert_eq!(unescaped("/a b/é").unwrap(), "/a b/é".as_bytes());
        for bad in [r"\", r"a\x", r"a\x4", r"a\x4g", r"\q", r"\é"] {
            assert_eq!(unescaped(bad).unwrap_err().error, ErrorKind::BadRequest);
        }
    }

    #[test]
    fn times_are_told_whatever_a_store_holds() {
        assert_eq!(timestamp(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(i64::MIN, 0), "1970-01-01T00:00:00Z");
        assert!(timestamp(i64::MAX, u32::MAX).starts_with("9999-"));
    }
}
