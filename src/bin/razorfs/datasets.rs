//! `razorfs list|create|snapshot|clone|rename|delete`: datasets and snapshots of a store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use razorfs::engine::{DatasetInfo, OpenOptions, Settings, Store};
use serde_json::json;

use super::info::limits;
use super::set::parse_limit;

pub(super) type Error = Box<dyn std::error::Error>;

/// The store that a command is about. It must not be in use.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// The store's directory.
    store: PathBuf,
    /// Accept a store on a file system that does not survive a power cut.
    #[arg(long)]
    allow_volatile: bool,
}

/// Lists datasets and snapshots.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Makes an empty dataset.
#[derive(Debug, Args)]
pub struct CreateArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Its name: letters, digits and . _ + -
    name: String,
    /// Owner of its root directory.
    #[arg(long, default_value_t = 0)]
    uid: u32,
    /// Group of its root directory.
    #[arg(long, default_value_t = 0)]
    gid: u32,
    /// Bytes that its files may take (K, M, G, T, P for powers of 1024).
    #[arg(long, value_name = "BYTES", value_parser = parse_limit)]
    quota: Option<u64>,
    /// Inodes that it may have.
    #[arg(long, value_name = "NUMBER", value_parser = parse_limit)]
    quota_inodes: Option<u64>,
    /// Bytes that no other dataset gets.
    #[arg(long, value_name = "BYTES", value_parser = parse_limit)]
    reservation: Option<u64>,
}

/// Takes a snapshot: all that a dataset is at this moment, kept as it is. It takes space only as the
/// dataset changes.
#[derive(Debug, Args)]
pub struct SnapshotArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// DATASET@SNAPSHOT
    name: String,
}

/// Makes a dataset that begins as a copy of a snapshot or of another dataset. It takes space only as
/// the two grow apart.
#[derive(Debug, Args)]
pub struct CloneArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// DATASET or DATASET@SNAPSHOT
    source: String,
    /// The new dataset's name.
    name: String,
}

/// Gives a dataset or a snapshot another name. Snapshots go with their dataset.
#[derive(Debug, Args)]
pub struct RenameArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// DATASET or DATASET@SNAPSHOT
    name: String,
    /// The name that it is to have.
    to: String,
}

/// Deletes a dataset or a snapshot.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// DATASET or DATASET@SNAPSHOT
    name: String,
    /// Delete a dataset's snapshots too.
    #[arg(long)]
    recursive: bool,
}

/// Opens a store, does something, and closes it.
pub(super) fn with<T>(
    args: &StoreArgs,
    read_only: bool,
    act: impl FnOnce(&Arc<Store>) -> Result<T, Error>,
) -> Result<T, Error> {
    let options = OpenOptions {
        read_only,
        allow_volatile: args.allow_volatile,
        background: false,
        ..OpenOptions::default()
    };
    let store = Store::open(&args.store, options)?;
    let done = act(&store).map_err(|error| named(&args.store, &*error));
    let closed = store.close().map_err(|error| named(&args.store, &error));
    let done = done?;
    closed?;
    Ok(done)
}

fn named(store: &Path, error: &dyn std::error::Error) -> Error {
    format!("{}: {error}", store.display()).into()
}

/// Lists them.
///
/// # Errors
/// When the store cannot be opened or read.
pub fn list(args: &ListArgs) -> Result<(), Error> {
    let all = with(&args.store, true, |store| Ok(store.list()?))?;
    if args.json {
        let all: Vec<_> = all.iter().map(|info| as_json(info, &all)).collect();
        super::tell(&format!("{}\n", serde_json::to_string_pretty(&all)?));
        return Ok(());
    }
    let width = all.iter().map(|info| info.name.len()).max().unwrap_or(0);
    for info in &all {
        let DatasetInfo {
            name,
            inodes,
            allocated_bytes,
            quota_bytes,
            quota_inodes,
            reservation_bytes,
            ..
        } = info;
        let limits = limits(*quota_bytes, *quota_inodes, *reservation_bytes);
        let mebibytes = allocated_bytes.div_ceil(1 << 20);
        let from =
            name_of(info.origin, &all).map_or(String::new(), |origin| format!("  from {origin}"));
        let held = if info.held { "  held" } else { "" };
        super::tell(&format!(
            "{name:width$}  {inodes:>10} inodes  {mebibytes:>8} MiB{limits}{from}{held}\n"
        ));
    }
    Ok(())
}

fn name_of(id: Option<razorfs::format::id::DatasetId>, all: &[DatasetInfo]) -> Option<&str> {
    let found = all.iter().find(|info| Some(info.id) == id);
    found.map(|info| info.name.as_str())
}

fn as_json(info: &DatasetInfo, all: &[DatasetInfo]) -> serde_json::Value {
    json!({
        "id": info.id.0,
        "name": info.name,
        "uuid": uuid::Uuid::from_bytes(info.uuid).to_string(),
        "is_snapshot": info.snapshot_of.is_some(),
        "snapshot_of": name_of(info.snapshot_of, all),
        "origin": name_of(info.origin, all),
        "created_at": info.created.sec,
        "is_readonly": info.read_only,
        "held": info.held,
        "inodes": info.inodes,
        "allocated_bytes": info.allocated_bytes,
        "quota_bytes": info.quota_bytes,
        "quota_inodes": info.quota_inodes,
        "reservation_bytes": info.reservation_bytes,
    })
}

/// Makes one.
///
/// # Errors
/// When it cannot be made, or the store cannot be opened.
pub fn create(args: &CreateArgs) -> Result<(), Error> {
    with(&args.store, false, |store| {
        let settings = Settings {
            quota_bytes: args.quota,
            quota_inodes: args.quota_inodes,
            reservation_bytes: args.reservation,
            ..Settings::default()
        };
        Ok(store.create_dataset_with(&args.name, (args.uid, args.gid), settings)?)
    })
}

/// Takes one.
///
/// # Errors
/// When it cannot be taken, or the store cannot be opened.
pub fn snapshot(args: &SnapshotArgs) -> Result<(), Error> {
    with(&args.store, false, |store| {
        store.snapshot(&args.name)?;
        Ok(())
    })
}

/// Makes one.
///
/// # Errors
/// When it cannot be made, or the store cannot be opened.
pub fn clone(args: &CloneArgs) -> Result<(), Error> {
    with(&args.store, false, |store| {
        store.clone_dataset(&args.source, &args.name)?;
        Ok(())
    })
}

/// Renames it.
///
/// # Errors
/// When it cannot be renamed, or the store cannot be opened.
pub fn rename(args: &RenameArgs) -> Result<(), Error> {
    with(&args.store, false, |store| {
        Ok(store.rename(&args.name, &args.to)?)
    })
}

/// Deletes it, and frees its space.
///
/// # Errors
/// When it cannot be deleted, or the store cannot be opened.
pub fn delete(args: &DeleteArgs) -> Result<(), Error> {
    with(&args.store, false, |store| {
        store.delete(&args.name, args.recursive)?;
        store.reap(&|| false)?;
        Ok(())
    })
}
