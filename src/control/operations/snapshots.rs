//! Snapshots: taken, listed, restored, compared, sent.

use std::sync::Arc;

use super::{
    Made, Result, as_snapshot, by_id, dataset_name, described_by_id, make_once, snapshot_name,
};
use crate::control::api::{
    ChangeSnapshot, Compare, Dataset, Difference, ErrorKind, Failure, NewSnapshot, PathChange,
    Restore, Restored, Snapshot,
};
use crate::engine::{self, Sending, Store};
use crate::export::Exports;
use crate::format::record::StreamPosition;
use crate::stream::token;

/// A snapshot to be sent, and from where in the stream on.
pub struct Stream {
    /// It.
    pub sending: Sending,
    /// Where to begin.
    pub position: StreamPosition,
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

/// Deletes a snapshot. Durable on return; its space comes back bit by bit.
///
/// # Errors
/// When there is none; when it is in use; when the store refuses.
pub fn delete_snapshot(store: &Arc<Store>, name: &str) -> Result<()> {
    snapshot_name(name)?;
    Ok(store.delete(name, false)?)
}

/// Makes a dataset that nobody uses what a snapshot of it is; with `exports`, one that is exported:
/// see [`Exports::restore`]. Durable on return.
///
/// # Errors
/// When there is no such snapshot; when the dataset is in use; when the store refuses.
pub fn restore(
    store: &Arc<Store>,
    exports: Option<&Arc<Exports>>,
    snapshot: &str,
) -> Result<Dataset> {
    let info = store.find(snapshot)?;
    match exports {
        Some(exports) => exports.restore(snapshot)?,
        None => store.restore(snapshot)?,
    }
    let dataset = info.snapshot_of.unwrap_or(info.id);
    described_by_id(store, dataset)
}

/// Brings a part of a snapshot back into its dataset, or all of it. Durable on return. `go_on` is asked
/// now and then.
///
/// # Errors
/// When there is no such snapshot or path; when the destination is taken; when the dataset is in use
/// by who would not see it; when only a part is to be forced; when the store refuses, or it was
/// stopped. Nothing has changed then.
pub fn restore_path(
    store: &Arc<Store>,
    exports: Option<&Arc<Exports>>,
    what: &Restore,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Restored> {
    let source = what.source.clone().unwrap_or_else(|| "/".to_owned());
    let destination = what.destination.clone().unwrap_or_else(|| source.clone());
    let is_root = |path: &str| path.bytes().all(|byte| byte == b'/');
    let is_whole = is_root(&source) && is_root(&destination);
    if what.force && !is_whole {
        let message =
            "only a whole dataset is restored by force: its guests have to mount it again";
        return Err(Failure::new(ErrorKind::BadRequest, message));
    }
    let inodes = match is_whole {
        true => restore(store, exports.filter(|_| what.force), &what.snapshot)?.inodes,
        false => {
            let what = engine::RestorePath {
                snapshot: what.snapshot.clone(),
                source: unescaped(&source)?,
                destination: unescaped(&destination)?,
                replace: what.replace,
            };
            store.restore_path(&what, go_on)?
        }
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
pub(super) fn unescaped(path: &str) -> Result<Vec<u8>> {
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

/// Which paths differ. `go_on` is asked now and then.
///
/// # Errors
/// When there is no such dataset or snapshot; when the store cannot be read, or it was stopped.
pub fn differences(
    store: &Arc<Store>,
    of: &Compare,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Vec<Difference>> {
    let all = store.diff(&of.old, &of.new, go_on)?;
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
}
