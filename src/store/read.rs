//! Reading the trees of a store, at one moment: what a view and a transaction have in common.

use std::io;
use std::ops::ControlFlow;

use crate::format::FormatError;
use crate::format::id::{NameId, PageNo};
use crate::format::key::{Key, TreeId};

/// What goes wrong below the engine.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The disk refused.
    #[error("{what}: {source}")]
    Io {
        /// The file and the place.
        what: String,
        /// What the system said.
        #[source]
        source: std::sync::Arc<io::Error>,
    },
    /// A page that is not what its parent says, or does not match its checksum.
    #[error("nodes.dat page {page}: {reason}")]
    Page {
        /// The page.
        page: PageNo,
        /// What is wrong with it.
        reason: String,
    },
    /// A record or structure that cannot be read.
    #[error("{what}: {source}")]
    Format {
        /// Where it stands.
        what: String,
        /// What is wrong with it.
        #[source]
        source: FormatError,
    },
    /// References that do not fit together.
    #[error("{0}")]
    Corrupt(String),
    /// No space is left, in the store or on the disk below it.
    #[error("no space left: {0}")]
    NoSpace(&'static str),
    /// The volume is read-only: opened so, or since an earlier write or flush failed.
    #[error("read-only: {0}")]
    ReadOnly(String),
}

impl StoreError {
    /// An I/O error at a place.
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::StorageFull {
            return StoreError::NoSpace("the disk below the store is full");
        }
        StoreError::Io {
            what: what.into(),
            source: std::sync::Arc::new(source),
        }
    }

    /// What was to become durable and never will, and why. Whoever waits for it hears of a failed disk
    /// whatever failed: that there was no space would ask for another try.
    pub fn lost(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        StoreError::Io {
            what: "not on the disk".into(),
            source: std::sync::Arc::new(io::Error::other(why)),
        }
    }

    /// A format error at a place.
    pub fn format(what: impl Into<String>, source: FormatError) -> Self {
        StoreError::Format {
            what: what.into(),
            source,
        }
    }
}

/// A scan's visitor: gets key and value in order, and says whether to go on.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// The trees of a store at one moment.
pub trait Read {
    /// What `read` makes of the value of a key, where it stands.
    ///
    /// # Errors
    /// When a page on the way cannot be read or believed.
    fn get_with<T>(
        &self,
        tree: TreeId,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, StoreError>;

    /// What `read` makes of the last entry whose key is at most `key`.
    ///
    /// # Errors
    /// As [`Read::get_with`].
    fn floor_with<T>(
        &self,
        tree: TreeId,
        key: &[u8],
        read: impl FnOnce(&[u8], &[u8]) -> T,
    ) -> Result<Option<T>, StoreError>;

    /// Visits the entries from `start` (inclusive) to `end` (exclusive) in order, until the visitor
    /// breaks off.
    ///
    /// # Errors
    /// As [`Read::get_with`].
    fn scan(
        &self,
        tree: TreeId,
        start: &[u8],
        end: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError>;

    /// What `read` makes of an interned name.
    ///
    /// # Errors
    /// When it cannot be read or does not match its checksum.
    fn name_with<T>(&self, id: NameId, read: impl FnOnce(&[u8]) -> T) -> Result<T, StoreError>;

    /// The value of a key.
    ///
    /// # Errors
    /// As [`Read::get_with`].
    fn get(&self, tree: TreeId, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.get_with(tree, key, <[u8]>::to_vec)
    }

    /// The value of a key that is a number (u64 LE); `None` too where it is shorter than one.
    ///
    /// # Errors
    /// As [`Read::get_with`].
    fn get_u64(&self, tree: TreeId, key: &[u8]) -> Result<Option<u64>, StoreError> {
        let number = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        Ok(self.get_with(tree, key, number)?.flatten())
    }

    /// The last entry whose key is at most `key`.
    ///
    /// # Errors
    /// As [`Read::get_with`].
    fn floor(&self, tree: TreeId, key: &[u8]) -> Result<Option<(Key, Vec<u8>)>, StoreError> {
        self.floor_with(tree, key, |key, value| {
            (Key::from_slice(key), value.to_vec())
        })
    }

    /// An interned name.
    ///
    /// # Errors
    /// As [`Read::name_with`].
    fn name(&self, id: NameId) -> Result<Vec<u8>, StoreError> {
        self.name_with(id, <[u8]>::to_vec)
    }

    /// The first entry in `start..end`.
    ///
    /// # Errors
    /// As [`Read::get_with`].
    fn first(
        &self,
        tree: TreeId,
        start: &[u8],
        end: &[u8],
    ) -> Result<Option<(Key, Vec<u8>)>, StoreError> {
        let mut found = None;
        self.scan(tree, start, end, &mut |key, value| {
            found = Some((Key::from_slice(key), value.to_vec()));
            ControlFlow::Break(())
        })?;
        Ok(found)
    }
}
