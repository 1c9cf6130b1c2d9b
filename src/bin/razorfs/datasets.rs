//! `razorfs list|create|snapshot|clone|rename|delete`: datasets and snapshots of a store.

use clap::Args;
use clap::builder::NonEmptyStringValueParser as Name;
use razorfs::control::api::{
    ChangeDataset, ChangeSnapshot, Dataset, Failure, NewClone, NewDataset, NewSnapshot,
};
use razorfs::control::operations::Made;
use razorfs::engine::DatasetError;
use razorfs::format::codec::Compression;
use razorfs::format::record::Dedup;
use serde_json::json;

use crate::info::limits;
use crate::set::parse_limit;
use crate::store::StoreArgs;

type Error = Box<dyn std::error::Error>;

/// Lists datasets and snapshots.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    store: StoreArgs,
}

/// Makes an empty dataset.
#[derive(Debug, Args)]
pub struct CreateArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Its name: letters, digits and . _ + -
    #[arg(value_parser = Name::new())]
    name: String,
    /// Owner of its root directory.
    #[arg(long, default_value_t = 0)]
    uid: u32,
    /// Group of its root directory.
    #[arg(long, default_value_t = 0)]
    gid: u32,
    /// Compress new content where it pays: off, lz4, or zstd with a level from 1 to 19
    /// (zstd:LEVEL).
    #[arg(long, value_name = "CODEC")]
    compression: Option<Compression>,
    /// Store equal content once: off, on, or verify (compare it byte by byte first).
    #[arg(long, value_name = "HOW")]
    dedup: Option<Dedup>,
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
    #[arg(value_parser = Name::new())]
    name: String,
}

/// Makes a dataset that begins as a copy of a snapshot or of another dataset. It takes space only as
/// the two grow apart.
#[derive(Debug, Args)]
pub struct CloneArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// DATASET or DATASET@SNAPSHOT
    #[arg(value_parser = Name::new())]
    source: String,
    /// The new dataset's name.
    #[arg(value_parser = Name::new())]
    name: String,
}

/// Gives a dataset or a snapshot another name. Snapshots go with their dataset.
#[derive(Debug, Args)]
pub struct RenameArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// DATASET or DATASET@SNAPSHOT
    #[arg(value_parser = Name::new())]
    name: String,
    /// The name that it is to have.
    #[arg(value_parser = Name::new())]
    to: String,
}

/// Deletes a dataset or a snapshot.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// DATASET or DATASET@SNAPSHOT
    #[arg(value_parser = Name::new())]
    name: String,
    /// Delete a dataset's snapshots too.
    #[arg(long)]
    recursive: bool,
}

/// Lists them.
///
/// # Errors
/// When the store cannot be read.
pub fn list(args: &ListArgs) -> Result<(), Error> {
    let all = args.store.with(true, |session| session.datasets())?;
    if args.store.is_json() {
        return args.store.tell(&all);
    }
    let width = all.iter().map(|each| each.name.len()).max().unwrap_or(0);
    for Dataset {
        name,
        inodes,
        allocated_bytes,
        origin,
        is_held,
        quota_bytes,
        quota_inodes,
        reservation_bytes,
        ..
    } in &all
    {
        let mebibytes = allocated_bytes.div_ceil(1 << 20);
        let limits = limits(*quota_bytes, *quota_inodes, *reservation_bytes);
        let from = origin.as_ref();
        let from = from.map_or(String::new(), |origin| format!("  from {origin}"));
        let held = if *is_held { "  held" } else { "" };
        crate::tell(&format!(
            "{name:width$}  {inodes:>10} inodes  {mebibytes:>8} MiB{limits}{from}{held}\n"
        ));
    }
    Ok(())
}

/// Who asks for something new does not want what was there, though it be the same.
fn new<T>(made: Made<T>, name: &str) -> Result<T, Failure> {
    match made.is_new {
        true => Ok(made.it),
        false => Err(DatasetError::Exists(name.to_owned()).into()),
    }
}

/// Makes one.
///
/// # Errors
/// When it cannot be made.
pub fn create(args: &CreateArgs) -> Result<(), Error> {
    let request = NewDataset {
        name: args.name.clone(),
        uid: Some(args.uid),
        gid: Some(args.gid),
        compression: args.compression.map(|codec| codec.to_string()),
        dedup: args.dedup.map(|dedup| dedup.to_string()),
        quota_bytes: args.quota,
        quota_inodes: args.quota_inodes,
        reservation_bytes: args.reservation,
    };
    let made = args.store.with(false, |session| {
        Ok(new(session.create_dataset(&request)?, &args.name)?)
    })?;
    args.store.tell(&made)
}

/// Takes one.
///
/// # Errors
/// When it cannot be taken.
pub fn snapshot(args: &SnapshotArgs) -> Result<(), Error> {
    let name = args.name.clone();
    let taken = args.store.with(false, |session| {
        let made = session.take_snapshot(&NewSnapshot { name })?;
        Ok(new(made, &args.name)?)
    })?;
    args.store.tell(&taken)
}

/// Makes one.
///
/// # Errors
/// When it cannot be made.
pub fn clone(args: &CloneArgs) -> Result<(), Error> {
    let request = NewClone {
        source: args.source.clone(),
        name: args.name.clone(),
    };
    let made = args.store.with(false, |session| {
        Ok(new(session.clone_dataset(&request)?, &args.name)?)
    })?;
    args.store.tell(&made)
}

/// Renames it.
///
/// # Errors
/// When it cannot be renamed.
pub fn rename(args: &RenameArgs) -> Result<(), Error> {
    let (name, to) = (&args.name, args.to.clone());
    if is_snapshot(name) {
        let change = ChangeSnapshot {
            name: Some(to),
            is_held: None,
        };
        let changed = args
            .store
            .with(false, |session| session.change_snapshot(name, &change))?;
        return args.store.tell(&changed);
    }
    let change = ChangeDataset {
        name: Some(to),
        ..ChangeDataset::default()
    };
    let changed = args
        .store
        .with(false, |session| session.change_dataset(name, &change))?;
    args.store.tell(&changed)
}

/// Deletes it. Its space comes back, here before this returns, in a daemon in the background.
///
/// # Errors
/// When it cannot be deleted.
pub fn delete(args: &DeleteArgs) -> Result<(), Error> {
    let name = &args.name;
    let step = "deleting, and freeing what was deleted";
    args.store
        .with_shown(step, false, |session| match is_snapshot(name) {
            true => session.delete_snapshot(name),
            false => session.delete_dataset(name, args.recursive),
        })?;
    args.store.tell(&json!({ "deleted": name }))
}

fn is_snapshot(name: &str) -> bool {
    name.contains('@')
}
