//! Trees of the host and tar streams on their way into a dataset and out of it.
//!
//! ```text
//! host/read   a directory of the host  ┐                   ┌ host/write  a directory of the host
//!                                      ├ import  extract ──┤
//! tar/read    a tar stream             ┘                   └ tar/write   a tar stream
//! ```
//!
//! Where a daemon has the store, only tar streams go to it and come from it: `pack` makes one of a
//! directory of the host, `unpack` a directory of one.
//!
//! What comes in may be anything: a tar stream is hostile, and a tree of the host may change while it
//! is read. Nothing of either leads outside the directory that is imported into, the tree that is
//! read or the directory that is extracted to. Memory has bounds whatever a stream claims and a guest has
//! made: headers, paths, maps of holes and attributes have limits, names and content are passed on in
//! pieces. What is kept for each is the times of a directory that is imported, and a name of what has
//! further ones.
//!
//! Imports the engine and below.

mod acl;
mod extract;
mod host;
mod import;
mod pack;
mod ranges;
mod tar;
#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]
mod tests;
mod unpack;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;

use serde::Serialize;

use crate::engine::EngineError;
use crate::store::StoreError;

pub use extract::{extract_to_directory, extract_to_tar, find};
pub use host::read::{Expected, WalkHow, expected};
pub use import::{ImportHow, import_directory, import_tar};
pub use pack::pack;
pub use unpack::{pass_on, unpack};

/// Pieces that content is passed on in.
const PIECE_BYTES: usize = 1 << 20;

/// Bytes of a path, at most: a stream or a guest may nest directories without end.
const PATH_BYTES_MAX: usize = 64 << 10;

/// Bytes of the extended attributes of one inode, at most: what a stream has of them must fit the
/// header that a reader keeps.
const XATTRS_BYTES_MAX: usize = 8 << 20;

/// Why what is below such a path is left out.
const LONG_PATH: &str = "a path that is too long, and what is below it";

/// Bytes of a path that is too long, as far as it is named.
const NAMED_BYTES: usize = 200;

/// What is skipped for the same reason is named so often.
const NAMED_MAX: u64 = 10;

/// Why a tree cannot be imported or extracted.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Something of the host cannot be read or made.
    #[error("{path}: {doing}: {source}")]
    Host {
        /// Its path.
        path: String,
        /// What was tried.
        doing: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Something of the dataset cannot be read or made.
    #[error("{path}: {source}")]
    Store {
        /// Its path in the dataset.
        path: String,
        /// Why not.
        #[source]
        source: EngineError,
    },
    /// It cannot be as it is said to be, or not there.
    #[error("{path}: {reason}")]
    Refused {
        /// Its path.
        path: String,
        /// Why not.
        reason: String,
    },
    /// Something is to be imported to where there is something.
    #[error(
        "{path}: there are entries already: {names}; --merge imports beside them, and replaces those \
         of the same names"
    )]
    NotEmpty {
        /// Its path.
        path: String,
        /// Some of them.
        names: String,
    },
    /// The tar stream cannot be read.
    #[error("the tar stream, at byte {offset}: {source}")]
    Read {
        /// Where.
        offset: u64,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The tar stream is damaged, cut off, or of a kind that is not known.
    #[error("the tar stream is damaged at byte {offset}: {reason}")]
    Damaged {
        /// Where the member begins, or what is read of it.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// The tar stream cannot be written.
    #[error("the tar stream cannot be written: {0}")]
    Write(#[source] io::Error),
    /// What was imported may be lost with the power.
    #[error("what was imported is not durable: {0}")]
    NotDurable(#[source] EngineError),
    /// The caller wanted no more.
    #[error("interrupted")]
    Stopped,
}

impl ArchiveError {
    fn refused(path: &[u8], reason: impl Into<String>) -> Self {
        ArchiveError::Refused {
            path: shown(path),
            reason: reason.into(),
        }
    }

    /// What cannot be, in a store whose checksums are right.
    fn corrupt(path: &[u8], what: &str) -> Self {
        Self::store(path)(StoreError::Corrupt(what.into()).into())
    }

    fn store(path: &[u8]) -> impl FnOnce(EngineError) -> Self {
        let path = shown(path);
        move |source| ArchiveError::Store { path, source }
    }

    fn host(path: &[u8], doing: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        let path = shown(path);
        move |errno| ArchiveError::Host {
            path,
            doing,
            source: errno.into(),
        }
    }
}

type Result<T> = std::result::Result<T, ArchiveError>;

/// A path for people: what would upset a terminal is escaped.
fn shown(path: &[u8]) -> String {
    let mut shown = String::new();
    for char in String::from_utf8_lossy(path).chars() {
        match char.is_control() {
            true => shown.extend(char.escape_default()),
            false => shown.push(char),
        }
    }
    if shown.is_empty() { ".".into() } else { shown }
}

/// `name` below `dir`, which is empty for the top.
fn joined(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + name.len() + 1);
    path.extend_from_slice(dir);
    go_down(&mut path, name);
    path
}

/// From a directory, whose path is empty for the top, to `name` below it.
fn go_down(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}

/// What was imported or extracted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Summary {
    /// Regular files.
    pub files: u64,
    /// Directories, the one at the top included.
    pub directories: u64,
    /// Symlinks.
    pub symlinks: u64,
    /// Further names of what is counted already.
    pub hard_links: u64,
    /// Fifos and device nodes.
    pub specials: u64,
    /// Bytes of content, without holes.
    pub bytes: u64,
    /// What was left out: how often, by reason.
    pub skipped: BTreeMap<Cow<'static, str>, u64>,
}

impl Summary {
    /// Names of all kinds.
    #[must_use]
    pub fn entries(&self) -> u64 {
        let Summary {
            files,
            directories,
            symlinks,
            hard_links,
            specials,
            ..
        } = self;
        [files, directories, symlinks, hard_links, specials]
            .into_iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Counts what another left out, who has said so.
    pub fn also_skipped(&mut self, skipped: impl IntoIterator<Item = (Cow<'static, str>, u64)>) {
        for (reason, more) in skipped {
            let count = self.skipped.entry(reason).or_default();
            *count = count.saturating_add(more);
        }
    }

    /// Counts what is left out, and says so.
    fn skip(&mut self, path: &[u8], reason: &'static str) {
        let count = self.skipped.entry(Cow::Borrowed(reason)).or_default();
        *count = count.saturating_add(1);
        match (*count).cmp(&NAMED_MAX) {
            std::cmp::Ordering::Less => ::log::warn!("{}: skipped: {reason}", shown(path)),
            std::cmp::Ordering::Equal => {
                ::log::warn!("{}: skipped: {reason}; more are only counted", shown(path));
            }
            std::cmp::Ordering::Greater => {}
        }
    }
}

/// Told how far it is, again and again; says whether to go on.
pub type Tell<'a> = dyn FnMut(&Summary) -> ControlFlow<()> + 'a;

/// Tells how far it is; an error when the caller wants no more.
fn say(tell: &mut Tell<'_>, summary: &Summary) -> Result<()> {
    match tell(summary) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(ArchiveError::Stopped),
    }
}

/// The device number of a host's as inodes have it, as the FUSE protocol encodes it: 12 bits of
/// major, 20 of minor.
fn device_number(major: u64, minor: u64) -> Option<u32> {
    let major = u32::try_from(major).ok().filter(|major| *major < 1 << 12)?;
    let minor = u32::try_from(minor).ok().filter(|minor| *minor < 1 << 20)?;
    Some((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

/// Major and minor of it.
fn major_and_minor(rdev: u32) -> (u32, u32) {
    (
        (rdev >> 8) & 0xfff,
        (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00),
    )
}
