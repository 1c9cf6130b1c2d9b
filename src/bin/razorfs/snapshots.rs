//! `razorfs restore|hold|release|promote|diff`: what is done with snapshots.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::Args;
use clap::builder::NonEmptyStringValueParser as Name;
use razorfs::control::api::{ChangeSnapshot, Compare, Difference, PathChange, Restore};

use crate::store::StoreArgs;

type Error = Box<dyn std::error::Error>;

/// Makes a dataset what a snapshot of it is. What it was is gone, but for its snapshots: take one
/// before, to be able to go back. Or brings a file or directory of the snapshot back with --path,
/// also while guests use the dataset that do not keep for long what they were told.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// DATASET@SNAPSHOT
    #[arg(value_parser = Name::new())]
    snapshot: String,
    /// Bring back what has this path in the snapshot, and leave the rest as it is.
    #[arg(long)]
    path: Option<OsString>,
    /// The path that it is to have in the dataset, if not the same.
    #[arg(long, value_name = "PATH", requires = "path")]
    to: Option<OsString>,
    /// Let it take the place of what is there.
    #[arg(long, requires = "path")]
    replace: bool,
    /// Though virtual machines use the dataset: for their guests all of it is stale then (ESTALE)
    /// until they mount it again or start anew, and what they have not written is lost.
    #[arg(long, conflicts_with = "path")]
    force: bool,
}

/// Holds a snapshot: until it is released, neither it nor its dataset can be deleted.
#[derive(Debug, Args)]
pub struct HoldArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// DATASET@SNAPSHOT
    #[arg(value_parser = Name::new())]
    snapshot: String,
}

/// Releases a snapshot that is held.
#[derive(Debug, Args)]
pub struct ReleaseArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// DATASET@SNAPSHOT
    #[arg(value_parser = Name::new())]
    snapshot: String,
}

/// Gives a clone the snapshots that it has in common with the dataset that it was cloned from, which
/// counts as a clone of it from then on.
#[derive(Debug, Args)]
pub struct PromoteArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// The clone.
    #[arg(value_parser = Name::new())]
    name: String,
}

/// Tells which paths differ: + is new, - is gone, M has changed, R has another name. What is no
/// printable ASCII in a path is shown as \n or \xNN, and quotes and backslashes with one before.
#[derive(Debug, Args)]
pub struct DiffArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// DATASET@SNAPSHOT
    #[arg(value_parser = Name::new())]
    old: String,
    /// DATASET or DATASET@SNAPSHOT; if it is not given, the dataset as it is now.
    #[arg(value_parser = Name::new())]
    new: Option<String>,
}

/// Restores it.
///
/// # Errors
/// When it is in use, or there is no such snapshot.
pub fn restore(args: &RestoreArgs) -> Result<(), Error> {
    if let Some(path) = &args.path {
        let what = Restore {
            snapshot: args.snapshot.clone(),
            source: Some(escaped(path)),
            destination: args.to.as_deref().map(escaped),
            replace: args.replace,
            force: false,
        };
        let restored = args
            .store
            .with_shown("restoring", false, |session| session.restore_path(&what))?;
        return args.store.tell(&restored);
    }
    let restored = args.store.with_shown("restoring", false, |session| {
        session.restore(&args.snapshot, args.force)
    })?;
    args.store.tell(&restored)
}

/// A path as requests have it.
fn escaped(path: &OsStr) -> String {
    path.as_bytes().escape_ascii().to_string()
}

/// Holds it.
///
/// # Errors
/// When there is no such snapshot.
pub fn hold(args: &HoldArgs) -> Result<(), Error> {
    set_held(&args.store, &args.snapshot, true)
}

/// Releases it.
///
/// # Errors
/// As [`hold`].
pub fn release(args: &ReleaseArgs) -> Result<(), Error> {
    set_held(&args.store, &args.snapshot, false)
}

fn set_held(store: &StoreArgs, snapshot: &str, is_held: bool) -> Result<(), Error> {
    let change = ChangeSnapshot {
        name: None,
        is_held: Some(is_held),
    };
    let changed = store.with(false, |session| session.change_snapshot(snapshot, &change))?;
    store.tell(&changed)
}

/// Promotes it.
///
/// # Errors
/// When it is no clone.
pub fn promote(args: &PromoteArgs) -> Result<(), Error> {
    let promoted = args
        .store
        .with(false, |session| session.promote(&args.name))?;
    args.store.tell(&promoted)
}

/// Tells what differs.
///
/// # Errors
/// When there is no such snapshot or dataset, or the store cannot be read.
pub fn diff(args: &DiffArgs) -> Result<(), Error> {
    let dataset = || args.old.split('@').next().unwrap_or_default().to_owned();
    let of = Compare {
        old: args.old.clone(),
        new: args.new.clone().unwrap_or_else(dataset),
    };
    let all = args
        .store
        .with_shown("comparing", true, |session| session.differences(&of))?;
    if args.store.is_json() {
        return args.store.tell(&all);
    }
    for difference in &all {
        crate::tell(&format!("{}\n", line(difference)));
    }
    Ok(())
}

fn line(Difference { path, change, to }: &Difference) -> String {
    match change {
        PathChange::Removed => format!("- {path}"),
        PathChange::Added => format!("+ {path}"),
        PathChange::Changed => format!("M {path}"),
        PathChange::Renamed => format!("R {path} -> {}", to.as_deref().unwrap_or_default()),
    }
}
