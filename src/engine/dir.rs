//! Directories: dentries by cookie, listing.
//!
//! A dentry's cookie is its name's keyed hash and a discriminator, so that a name is found by
//! reading the few entries of one hash, an insertion moves no other entry, and a listing goes on
//! where it stopped whatever happened in between.

use std::ops::ControlFlow;

use super::inode::{InodeExt, S_IFDIR};
use super::{Attr, DirEntry, EngineError, Volume};
use crate::format::id::Ino;
use crate::format::key::{self, Kind};
use crate::format::name::record_bytes;
use crate::format::record::{DentryRecord, InodeRecord};
use crate::log::{Tx, View};
use crate::store::{Read, StoreError};

/// The longest name in bytes.
pub(super) const NAME_MAX: usize = 255;

/// The cookie of `.`; `..` has the next one, and names begin far above.
const COOKIE_DOT: u64 = 1;
const COOKIE_DOTDOT: u64 = 2;

/// Checks that a name can stand in a directory (`.` and `..` can, as far as this goes).
pub(super) fn check_name(name: &[u8]) -> Result<(), EngineError> {
    if name.len() > NAME_MAX {
        return Err(EngineError::NameTooLong);
    }
    if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
        return Err(EngineError::Invalid(
            "a name has 1 to 255 bytes, no '/' and no NUL",
        ));
    }
    Ok(())
}

/// Whether a name is `.` or `..`.
pub(super) fn is_dots(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}

/// Where a name stands in a directory, or would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// The name is there.
    Taken { cookie: u64, dentry: DentryRecord },
    /// It is not, and would get this cookie; `None` when its hash has no cookie left.
    Free { cookie: Option<u64> },
}

impl Slot {
    /// The entry, or [`EngineError::NotFound`].
    pub(super) fn taken(self) -> Result<(u64, DentryRecord), EngineError> {
        match self {
            Slot::Taken { cookie, dentry } => Ok((cookie, dentry)),
            Slot::Free { .. } => Err(EngineError::NotFound),
        }
    }

    /// The free cookie, or [`EngineError::Exists`].
    pub(super) fn free(self) -> Result<u64, EngineError> {
        match self {
            Slot::Taken { .. } => Err(EngineError::Exists),
            Slot::Free {
                cookie: Some(cookie),
            } => Ok(cookie),
            Slot::Free { cookie: None } => {
                Err(StoreError::NoSpace("too many names of one hash in a directory").into())
            }
        }
    }
}

fn decode(dir: Ino, bytes: &[u8]) -> Result<DentryRecord, EngineError> {
    DentryRecord::decode(bytes)
        .map_err(|e| StoreError::format(format!("entry of directory {dir}"), e).into())
}

impl Volume {
    /// Finds a name in a directory: reads the entries of its hash, and compares names.
    pub(super) fn find(
        &self,
        read: &impl Read,
        dir: Ino,
        name: &[u8],
    ) -> Result<Slot, EngineError> {
        let cookies = key::name_cookies(&self.store.journal.hash_seed(), name);
        let mut free = cookies.start;
        let mut outcome = Ok(None);
        read.scan(
            self.tree(),
            &key::dentry(dir, cookies.start),
            &key::dentry(dir, cookies.end),
            &mut |key, value| {
                outcome = self.compare(read, dir, name, key, value, &mut free);
                match outcome {
                    Ok(None) => ControlFlow::Continue(()),
                    _ => ControlFlow::Break(()),
                }
            },
        )?;
        Ok(outcome?.unwrap_or(Slot::Free {
            cookie: (free < cookies.end).then_some(free),
        }))
    }

    /// Looks at one entry of a name's hash; `free` moves past cookies that are taken without a gap.
    fn compare(
        &self,
        read: &impl Read,
        dir: Ino,
        name: &[u8],
        key: &[u8],
        value: &[u8],
        free: &mut u64,
    ) -> Result<Option<Slot>, EngineError> {
        let cookie = key::trailing_u64(key)
            .map_err(|e| StoreError::format(format!("directory {dir}"), e))?;
        if cookie == *free {
            *free += 1;
        }
        let dentry = decode(dir, value)?;
        let same = usize::from(dentry.name_len) == name.len()
            && read.name_with(dentry.name, |found| found == name)?;
        Ok(same.then_some(Slot::Taken { cookie, dentry }))
    }

    /// Puts an entry under a cookie that [`Volume::find`] gave for its name.
    pub(super) fn put_dentry(
        &self,
        tx: &mut Tx<'_>,
        dir: Ino,
        cookie: u64,
        dentry: &DentryRecord,
    ) -> Result<(), EngineError> {
        Ok(tx.put(self.tree(), key::dentry(dir, cookie), dentry.encode())?)
    }

    /// Makes an entry for an inode under a free cookie.
    pub(super) fn insert_dentry(
        &self,
        tx: &mut Tx<'_>,
        (dir, cookie, name): (Ino, u64, &[u8]),
        ino: Ino,
        record: &InodeRecord,
    ) -> Result<(), EngineError> {
        let dentry = DentryRecord {
            ino,
            name: tx.intern(name)?,
            name_len: u8::try_from(name.len()).map_err(|_| EngineError::NameTooLong)?,
            file_type: record.file_type(),
        };
        self.put_dentry(tx, dir, cookie, &dentry)
    }

    /// Removes an entry that the transaction has found.
    pub(super) fn remove_dentry(
        &self,
        tx: &mut Tx<'_>,
        dir: Ino,
        (cookie, dentry): (u64, &DentryRecord),
    ) -> Result<(), EngineError> {
        let bytes = record_bytes(usize::from(dentry.name_len));
        self.store.names.note_removed(bytes as u64);
        Ok(tx.remove(self.tree(), key::dentry(dir, cookie))?)
    }

    /// The record of an inode that a dentry names: it must be there.
    pub(super) fn load_named(
        &self,
        read: &impl Read,
        dir: Ino,
        ino: Ino,
    ) -> Result<InodeRecord, EngineError> {
        match self.load_inode(read, ino) {
            Err(EngineError::Stale) => {
                let what = format!("directory {dir} names inode {ino}, which does not exist");
                Err(StoreError::Corrupt(what).into())
            }
            other => other,
        }
    }

    /// The directory above a directory; the root's is itself.
    pub(super) fn parent_of(dir: Ino, record: &InodeRecord) -> Ino {
        if dir == Ino::ROOT { dir } else { record.parent }
    }

    /// Visits a directory's entries after the one with cookie `after` (0: from the start), `.` with
    /// cookie 1 and `..` with cookie 2 among them, until the visitor returns false.
    ///
    /// # Errors
    /// [`EngineError::NotDirectory`], [`EngineError::Stale`].
    pub fn readdir(
        &self,
        dir: Ino,
        after: u64,
        visit: &mut dyn FnMut(DirEntry) -> bool,
    ) -> Result<(), EngineError> {
        let view = self.store.journal.view();
        self.list(&view, dir, after, &mut |entry| Ok(visit(entry)))
    }

    /// [`Volume::readdir`] with each entry's attributes, all of one moment.
    ///
    /// # Errors
    /// As [`Volume::readdir`].
    pub fn readdirplus(
        &self,
        dir: Ino,
        after: u64,
        visit: &mut dyn FnMut(DirEntry, Attr) -> bool,
    ) -> Result<(), EngineError> {
        let view = self.store.journal.view();
        self.list(&view, dir, after, &mut |entry| {
            let record = self.load_named(&view, dir, entry.ino)?;
            let attr = self.attr_of(entry.ino, &record);
            Ok(visit(entry, attr))
        })
    }

    fn list(
        &self,
        view: &View,
        dir: Ino,
        after: u64,
        visit: &mut dyn FnMut(DirEntry) -> Result<bool, EngineError>,
    ) -> Result<(), EngineError> {
        let record = self.load_dir(view, dir)?;
        let dots = [
            (COOKIE_DOT, dir, b".".as_slice()),
            (
                COOKIE_DOTDOT,
                Self::parent_of(dir, &record),
                b"..".as_slice(),
            ),
        ];
        for (cookie, ino, name) in dots {
            let file_type = u8::try_from(S_IFDIR >> 12).unwrap_or(0);
            let entry = DirEntry {
                ino,
                cookie,
                file_type,
                name: name.to_vec(),
            };
            if after < cookie && !visit(entry)? {
                return Ok(());
            }
        }
        let Some(start) = after.max(COOKIE_DOTDOT).checked_add(1) else {
            return Ok(());
        };
        let (_, end) = key::kind_range(dir, Kind::Dentry);
        let mut outcome = Ok(true);
        view.scan(
            self.tree(),
            &key::dentry(dir, start),
            &end,
            &mut |key, value| {
                outcome = entry_of(view, dir, key, value).and_then(|entry| {
                    match self.is_hidden(dir, entry.ino) {
                        true => Ok(true),
                        false => visit(entry),
                    }
                });
                match outcome {
                    Ok(true) => ControlFlow::Continue(()),
                    _ => ControlFlow::Break(()),
                }
            },
        )?;
        outcome.map(|_| ())
    }
}

fn entry_of(view: &View, dir: Ino, key: &[u8], value: &[u8]) -> Result<DirEntry, EngineError> {
    let cookie =
        key::trailing_u64(key).map_err(|e| StoreError::format(format!("directory {dir}"), e))?;
    let dentry = decode(dir, value)?;
    let name = view.name(dentry.name)?;
    Ok(DirEntry {
        ino: dentry.ino,
        cookie,
        file_type: dentry.file_type,
        name,
    })
}
