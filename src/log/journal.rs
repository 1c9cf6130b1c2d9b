//! The journal: views of the store, transactions on it, commit, checkpoint.

use std::sync::Arc;

use super::Change;
use crate::format::id::{DatasetId, Generation, Ino, Lsn, NameId};
use crate::format::key::{Key, TreeId};
use crate::store::read::Visit;
use crate::store::{Read, StoreError};

/// The open store: hands out views and transactions.
pub struct Journal {}

/// All trees at one moment. Cheap to take, never blocks a writer, and is not changed by one.
#[derive(Clone)]
pub struct View {
    _roots: Arc<()>,
}

/// A transaction in the making: reads see its own changes. Dropped without [`Tx::commit`] it never
/// was. Only one exists at a time; the next [`Journal::begin`] waits for it.
pub struct Tx<'a> {
    _journal: &'a Journal,
    _changes: Vec<Change>,
}

fn unfinished<T>() -> Result<T, StoreError> {
    Err(StoreError::ReadOnly("not yet".into()))
}

impl Journal {
    /// The state of everything committed so far.
    #[must_use]
    pub fn view(&self) -> View {
        View {
            _roots: Arc::new(()),
        }
    }

    /// Starts a transaction; waits for the one under way, and for log space.
    ///
    /// # Errors
    /// When the volume is read-only.
    pub fn begin(&self) -> Result<Tx<'_>, StoreError> {
        unfinished()
    }

    /// Waits until everything before `lsn` is durable (group commit).
    ///
    /// # Errors
    /// When the log cannot be written or flushed; the volume is read-only from then on.
    pub fn sync(&self, _lsn: Lsn) -> Result<(), StoreError> {
        unfinished()
    }

    /// The end of the log: what is committed so far lies before it.
    #[must_use]
    pub fn end_lsn(&self) -> Lsn {
        Lsn(0)
    }

    /// Everything before it is durable.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        Lsn(0)
    }
}

impl Tx<'_> {
    /// Inserts or replaces a value of at most [`crate::format::key::VALUE_MAX`] bytes.
    ///
    /// # Errors
    /// When a page cannot be read.
    pub fn put(&mut self, _tree: TreeId, _key: Key, _value: Vec<u8>) -> Result<(), StoreError> {
        unfinished()
    }

    /// Removes a key; whether it was there.
    ///
    /// # Errors
    /// When a page cannot be read.
    pub fn delete(&mut self, _tree: TreeId, _key: Key) -> Result<bool, StoreError> {
        unfinished()
    }

    /// The id of a name of 1 to 255 bytes, interning it when it is new.
    ///
    /// # Errors
    /// When a page or name cannot be read.
    pub fn intern(&mut self, _name: &[u8]) -> Result<NameId, StoreError> {
        unfinished()
    }

    /// Carries file bytes in the log.
    pub fn data(&mut self, _dataset: DatasetId, _ino: Ino, _offset: u64, _bytes: Vec<u8>) {}

    /// Says that file bytes logged before in the range no longer count.
    pub fn data_clear(&mut self, _dataset: DatasetId, _ino: Ino, _offset: u64, _len: u64) {}

    /// The checkpoint that will hold this transaction: the birth of what it makes.
    #[must_use]
    pub fn generation(&self) -> Generation {
        Generation(0)
    }

    /// Makes the changes visible to all and appends them to the log; the returned position is
    /// durable after [`Journal::sync`] on it.
    ///
    /// # Errors
    /// When the log refuses; the transaction then never was.
    pub fn commit(self) -> Result<Lsn, StoreError> {
        unfinished()
    }
}

macro_rules! read_stub {
    ($t:ty) => {
        impl Read for $t {
            fn get(&self, _: TreeId, _: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
                unfinished()
            }
            fn floor(&self, _: TreeId, _: &[u8]) -> Result<Option<(Key, Vec<u8>)>, StoreError> {
                unfinished()
            }
            fn scan(
                &self,
                _: TreeId,
                _: &[u8],
                _: &[u8],
                _: &mut Visit<'_>,
            ) -> Result<(), StoreError> {
                unfinished()
            }
            fn name(&self, _: NameId) -> Result<Vec<u8>, StoreError> {
                unfinished()
            }
        }
    };
}
read_stub!(View);
read_stub!(Tx<'_>);
