//! Bringing a part of a snapshot back into its dataset while that is in use.
//!
//! ```text
//! staging  the hidden directory in which it is put together
//! copy     the tree, an inode at a time
//! ```
//!
//! The last transaction gives what was put together its name, or lets it change places with what has
//! the name. So a crash leaves the one or the other, whole; what is left in the hidden directory is
//! removed when the dataset is used next. Who is told to stop leaves it as a crash would.
//!
//! Invariant: what appears, appears while no kernel believes what it was told before for long
//! ([`super::kernels`]), and no snapshot of the dataset is taken while the hidden directory is there.

mod copy;
mod staging;

use std::sync::Arc;

use super::datasets::split_name;
use super::dir::{Slot, check_name};
use super::flags::other_project;
use super::inode::InodeExt;
use super::namespace::one_more;
use super::{DatasetError, EngineError, EventKind, Store, Volume};
use crate::format::id::{Ino, Lsn};
use crate::format::record::DentryRecord;
use crate::sync::RwLockReadGuard;
pub(super) use copy::Copy;
use staging::STAGING;

/// The name of what is put together, in the hidden directory.
const TREE: &[u8] = b"tree";
/// The guest finds its snapshots under this name in the root directory.
const SNAPSHOTS: &[u8] = b".snapshots";

/// A part of a snapshot, and where it is to be. Paths have names of any bytes but `.` and `..`, with
/// `/` between them, and symlinks are not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePath {
    /// DATASET@SNAPSHOT
    pub snapshot: String,
    /// Of what is there; empty or `/` for the root directory.
    pub source: Vec<u8>,
    /// Where it is to be in the dataset. The directory above it must be there.
    pub destination: Vec<u8>,
    /// Take the place of what is there.
    pub replace: bool,
}

/// What a path's last name stands in.
struct Place<'a> {
    dir: Ino,
    name: &'a [u8],
}

/// The names that a path is made of.
fn names(path: &[u8]) -> Result<Vec<&[u8]>, DatasetError> {
    let names: Vec<_> = path
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
        .collect();
    let bad = |reason| {
        let path = shown(path);
        Err(DatasetError::BadPath { path, reason })
    };
    for name in &names {
        if matches!(*name, b"." | b"..") {
            return bad("'.' and '..' are not followed");
        }
        if check_name(name).is_err() {
            return bad("a name has 1 to 255 bytes and no NUL");
        }
    }
    Ok(names)
}

/// For messages.
fn shown(path: &[u8]) -> String {
    path.escape_ascii().to_string()
}

impl Volume {
    /// The inode that names lead to, one after the other, from the root directory.
    fn walk(&self, names: &[&[u8]]) -> Result<Ino, EngineError> {
        let mut ino = Ino::ROOT;
        for name in names {
            ino = self.lookup(ino, name)?.ino;
        }
        Ok(ino)
    }

    /// Keeps anything from being restored into the dataset, of which nothing hidden is there.
    ///
    /// # Errors
    /// When something is being restored; when what a crash left cannot be removed.
    pub(super) fn nothing_hidden(&self) -> Result<RwLockReadGuard<'_, ()>, DatasetError> {
        let busy = || DatasetError::Restoring;
        if self.has_staging() {
            let _one = self.dataset.restoring.try_write().ok_or_else(busy)?;
            self.clear_staging(&mut || true)?;
        }
        let held = self.dataset.restoring.try_read().ok_or_else(busy)?;
        match self.has_staging() {
            true => Err(busy()),
            false => Ok(held),
        }
    }

    /// The transaction that shows what was put together; where it ends in the log.
    fn show(&self, staging: Ino, to: &Place<'_>, replace: bool) -> Result<Lsn, EngineError> {
        let mut op = self.begin()?;
        let mut stage = op.dir(staging)?;
        let mut dir = op.dir(to.dir)?;
        // A guest that guesses inode numbers may have put it below what is to be put there.
        if dir.nlink == 0 || self.is_within(&op, to.dir, staging)? {
            return Err(EngineError::NotFound);
        }
        let (from, new) = self.find(&op.tx, staging, TREE)?.taken()?;
        let mut top = self.load_named(&op.tx, staging, new.ino)?;
        if other_project(&dir, &top) {
            return Err(EngineError::OtherProject);
        }
        match self.find(&op.tx, to.dir, to.name)? {
            Slot::Taken { .. } if !replace => return Err(EngineError::Exists),
            Slot::Taken { cookie, dentry } => {
                let mut old = self.load_named(&op.tx, to.dir, dentry.ino)?;
                dir.check_changeable()?;
                old.check_changeable()?;
                let put = |ino, file_type, at: DentryRecord| DentryRecord {
                    ino,
                    file_type,
                    ..at
                };
                let shown = put(new.ino, new.file_type, dentry);
                let aside = put(dentry.ino, dentry.file_type, new);
                self.put_dentry(&mut op.tx, to.dir, cookie, &shown)?;
                self.put_dentry(&mut op.tx, staging, from, &aside)?;
                if old.is_dir() {
                    old.parent = staging;
                    dir.nlink = dir.nlink.saturating_sub(1);
                    stage.nlink = one_more(stage.nlink)?;
                }
                old.ctime = op.now;
                op.put(dentry.ino, &old)?;
            }
            free @ Slot::Free { .. } => {
                dir.check_not_immutable()?;
                let place = (to.dir, free.free()?, to.name);
                self.insert_dentry(&mut op.tx, place, new.ino, &top)?;
                self.remove_dentry(&mut op.tx, staging, (from, &new))?;
                stage.entries = stage.entries.saturating_sub(1);
                dir.entries = dir.entries.saturating_add(1);
            }
        }
        if top.is_dir() {
            top.parent = to.dir;
            stage.nlink = stage.nlink.saturating_sub(1);
            dir.nlink = one_more(dir.nlink)?;
        }
        (top.ctime, dir.mtime, dir.ctime) = (op.now, op.now, op.now);
        op.put(new.ino, &top)?;
        op.put(staging, &stage)?;
        op.put(to.dir, &dir)?;
        op.commit()
    }
}

impl Store {
    /// Brings a file, a directory or anything else of a snapshot back into its dataset, which may be
    /// in use; how many inodes were made. Its content is shared with the snapshot. It appears at
    /// once when all of it is there, and is durable on return. `go_on` is asked for each inode.
    ///
    /// # Errors
    /// When there is no such snapshot or path; when the destination is there and not to be replaced;
    /// when a kernel uses the dataset that keeps what it is told; when quota or space do not suffice;
    /// when the store refuses; [`EngineError::Interrupted`]. Nothing has changed then.
    pub fn restore_path(
        self: &Arc<Self>,
        what: &RestorePath,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<u64, DatasetError> {
        let (dataset, Some(_)) = split_name(&what.snapshot)? else {
            return Err(DatasetError::Name {
                name: what.snapshot.clone(),
                reason: "a path is restored from DATASET@SNAPSHOT",
            });
        };
        let from = self.volume(&what.snapshot)?;
        let to = self.volume(dataset)?;
        to.check_writable()?;
        let absent = |path: &[u8], place: &str| {
            let (path, place) = (shown(path), place.to_owned());
            move |error| match error {
                EngineError::NotFound | EngineError::NotDirectory => {
                    DatasetError::NoPath { path, place }
                }
                other => other.into(),
            }
        };
        let source = from
            .walk(&names(&what.source)?)
            .map_err(absent(&what.source, &what.snapshot))?;
        let names = names(&what.destination)?;
        let Some((name, above)) = names.split_last() else {
            return Err(DatasetError::Refused {
                name: dataset.to_owned(),
                reason: "its root directory cannot be replaced: restore all of it",
            });
        };
        if above.is_empty() && matches!(*name, SNAPSHOTS | STAGING) {
            return Err(DatasetError::BadPath {
                path: shown(&what.destination),
                reason: "the name is razorfs's own",
            });
        }
        let dir = to.walk(above).and_then(|dir| {
            to.load_dir(&self.journal.view(), dir)?;
            Ok(dir)
        });
        let dir = dir.map_err(absent(&above.join(&b'/'), dataset))?;
        to.bring((&from, source), &Place { dir, name }, what, go_on)
    }
}

impl Store {
    /// Writes a file's content anew: see [`Volume::rewrite`].
    ///
    /// # Errors
    /// When there is no such file; as there.
    pub fn rewrite_path(
        self: &Arc<Self>,
        dataset: &str,
        path: &[u8],
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<u64, DatasetError> {
        let volume = self.volume(dataset)?;
        let refused = |reason| {
            let name = shown(path);
            DatasetError::Refused { name, reason }
        };
        let found = volume.walk(&names(path)?);
        let bytes = found.and_then(|ino| volume.rewrite(ino, go_on));
        bytes.map_err(|error| match error {
            EngineError::NotFound | EngineError::NotDirectory => DatasetError::NoPath {
                path: shown(path),
                place: dataset.to_owned(),
            },
            EngineError::IsDirectory => refused("it is a directory"),
            EngineError::Invalid(reason) => refused(reason),
            other => other.into(),
        })
    }
}

impl Volume {
    fn bring(
        &self,
        (from, source): (&Volume, Ino),
        to: &Place<'_>,
        what: &RestorePath,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<u64, DatasetError> {
        let exists = || DatasetError::PathExists(shown(&what.destination));
        let believed = || DatasetError::Believed(what.snapshot.clone());
        // While the dataset itself is being restored, no kernel of it is served.
        let one = self.dataset.restoring.try_write();
        let _one = one.ok_or(DatasetError::Restoring)?;
        // Before the work: most refusals come here.
        drop(self.none_believes().ok_or_else(believed)?);
        if !what.replace && self.lookup(to.dir, to.name).is_ok() {
            return Err(exists());
        }
        self.clear_staging(go_on)?;
        let staging = self.make_staging().map_err(|error| match error {
            EngineError::Exists => DatasetError::PathExists(shown(STAGING)),
            other => other.into(),
        })?;
        let mut copy = Copy::new(from, self);
        let done = copy.tree(source, (staging, TREE), go_on);
        let done = done.map_err(DatasetError::from);
        let done = done.and_then(|()| {
            let none = self.none_believes().ok_or_else(believed)?;
            let published = self.show(staging, to, what.replace);
            drop(none);
            let lsn = published.map_err(|error| match error {
                EngineError::Exists => exists(),
                EngineError::NotFound | EngineError::Stale => DatasetError::NoPath {
                    path: shown(&what.destination),
                    place: "the dataset any more".into(),
                },
                EngineError::NotPermitted(reason) => DatasetError::Refused {
                    name: shown(&what.destination),
                    reason,
                },
                other => other.into(),
            })?;
            Ok(self.store.journal.sync(lsn)?)
        });
        // Else it is not seen, and goes when the dataset is used next.
        match self.remove_staging(staging, go_on) {
            Ok(()) | Err(EngineError::Interrupted) => {}
            Err(error) => log::warn!("what is left of restoring {}: {error}", what.snapshot),
        }
        done?;
        self.store.note_of(
            self.dataset.id,
            EventKind::PathRestored,
            Some(&shown(&what.destination)),
        );
        Ok(copy.inodes)
    }
}
