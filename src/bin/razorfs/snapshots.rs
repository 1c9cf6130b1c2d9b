//! `razorfs restore|hold|release|promote|diff`: what is done with snapshots.

use clap::Args;
use razorfs::engine::{Difference, PathChange};
use serde_json::json;

use super::datasets::{Error, StoreArgs, with};

/// Makes a dataset what a snapshot of it is. What it was is gone, but for its snapshots: take one
/// before, to be able to go back.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// DATASET@SNAPSHOT
    snapshot: String,
}

/// Holds a snapshot: until it is released, neither it nor its dataset can be deleted.
#[derive(Debug, Args)]
pub struct HoldArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// DATASET@SNAPSHOT
    snapshot: String,
}

/// Releases a snapshot that is held.
#[derive(Debug, Args)]
pub struct ReleaseArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// DATASET@SNAPSHOT
    snapshot: String,
}

/// Gives a clone the snapshots that it has in common with the dataset that it was cloned from, which
/// counts as a clone of it from then on.
#[derive(Debug, Args)]
pub struct PromoteArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// The clone.
    name: String,
}

/// Tells which paths differ: + is new, - is gone, M has changed, R has another name. What is no
/// printable ASCII in a path is shown as \n or \xNN, and quotes and backslashes with one before.
#[derive(Debug, Args)]
pub struct DiffArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// DATASET@SNAPSHOT
    old: String,
    /// DATASET or DATASET@SNAPSHOT; if it is not given, the dataset as it is now.
    new: Option<String>,
    /// Print JSON: of paths, what is not UTF-8 is replaced.
    #[arg(long)]
    json: bool,
}

/// Restores it.
///
/// # Errors
/// When it is in use, there is no such snapshot, or the store cannot be opened.
pub fn restore(args: &RestoreArgs) -> Result<(), Error> {
    with(&args.store, false, |store| {
        store.restore(&args.snapshot)?;
        store.reap(&|| false)?;
        Ok(())
    })
}

/// Holds it.
///
/// # Errors
/// When there is no such snapshot, or the store cannot be opened.
pub fn hold(args: &HoldArgs) -> Result<(), Error> {
    with(&args.store, false, |store| Ok(store.hold(&args.snapshot)?))
}

/// Releases it.
///
/// # Errors
/// As [`hold`].
pub fn release(args: &ReleaseArgs) -> Result<(), Error> {
    with(&args.store, false, |store| {
        Ok(store.release(&args.snapshot)?)
    })
}

/// Promotes it.
///
/// # Errors
/// When it is no clone, or the store cannot be opened.
pub fn promote(args: &PromoteArgs) -> Result<(), Error> {
    with(&args.store, false, |store| Ok(store.promote(&args.name)?))
}

/// Tells what differs.
///
/// # Errors
/// When there is no such snapshot or dataset, or the store cannot be opened or read.
pub fn diff(args: &DiffArgs) -> Result<(), Error> {
    let dataset = || args.old.split('@').next().unwrap_or_default().to_owned();
    let new = args.new.clone().unwrap_or_else(dataset);
    let all = with(&args.store, true, |store| Ok(store.diff(&args.old, &new)?))?;
    if args.json {
        let all: Vec<_> = all.iter().map(as_json).collect();
        super::tell(&format!("{}\n", serde_json::to_string_pretty(&all)?));
        return Ok(());
    }
    for difference in &all {
        super::tell(&format!("{}\n", line(difference)));
    }
    Ok(())
}

fn line(Difference { path, change }: &Difference) -> String {
    let shown = |path: &[u8]| format!("/{}", path.escape_ascii());
    let path = shown(path);
    match change {
        PathChange::Removed => format!("- {path}"),
        PathChange::Added => format!("+ {path}"),
        PathChange::Changed => format!("M {path}"),
        PathChange::Renamed(to) => format!("R {path} -> {}", shown(to)),
    }
}

fn as_json(Difference { path, change }: &Difference) -> serde_json::Value {
    let shown = |path: &[u8]| format!("/{}", String::from_utf8_lossy(path));
    let (what, to) = match change {
        PathChange::Removed => ("removed", None),
        PathChange::Added => ("added", None),
        PathChange::Changed => ("changed", None),
        PathChange::Renamed(to) => ("renamed", Some(shown(to))),
    };
    json!({"path": shown(path), "change": what, "to": to})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_line() {
        let of = |path: &[u8], change| {
            line(&Difference {
                path: path.to_vec(),
                change,
            })
        };
        assert_eq!(of(b"a/b c", PathChange::Removed), "- /a/b c");
        assert_eq!(of(b"", PathChange::Changed), "M /");
        assert_eq!(of(b"a\nb\xff", PathChange::Added), r"+ /a\nb\xff");
        let renamed = PathChange::Renamed(b"to".to_vec());
        assert_eq!(of(b"from", renamed), "R /from -> /to");
    }
}
