//! Transactions: changes of the trees that are made and logged as one.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Change;
use super::journal::{Journal, Writer};
use super::wal::WalError;
use crate::format::id::{DatasetId, Generation, Ino, Lsn, NameId};
use crate::format::key::{Key, TreeId};
use crate::store::pages::Need;
use crate::store::roots::{Reading, Roots, Storage};
use crate::store::tree::Effects;
use crate::store::{Read, StoreError};
use crate::sync::MutexGuard;
use crate::sync::atomic::Ordering;

/// A transaction in the making: reads see its own changes. Dropped without [`Tx::commit`] it never
/// was. Only one exists at a time; the next [`Journal::begin`] waits for it.
pub struct Tx<'a> {
    pub(super) journal: &'a Journal,
    pub(super) writer: MutexGuard<'a, Writer>,
    pub(super) roots: Roots,
    pub(super) effects: Effects,
    pub(super) need: Need,
    /// Bytes of the log that it must leave free.
    pub(super) keep_bytes: u64,
    /// A change failed half-way: only dropping is left.
    pub(super) broken: bool,
}

fn now_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Applies one change to the trees: recovery repeats what a transaction did. Changes to file bytes
/// are the engine's and not the trees'.
///
/// # Errors
/// When a page cannot be read, or the change does not fit the trees. The roots are then to be
/// dropped.
pub(super) fn apply(
    storage: &Storage,
    roots: &mut Roots,
    change: &Change,
    effects: &mut Effects,
) -> Result<bool, StoreError> {
    match change {
        Change::Put { tree, key, value } => roots
            .put(storage, *tree, key, value, effects)
            .map(|()| true),
        Change::Delete { tree, key } => roots.delete(storage, *tree, key, effects),
        Change::Intern { id, name } => roots.intern(storage, *id, name, effects).map(|()| true),
        Change::Data { .. } | Change::DataClear { .. } => Ok(true),
    }
}

impl Tx<'_> {
    /// Changes the trees.
    fn apply<T>(
        &mut self,
        change: impl FnOnce(&mut Roots, &Storage, &mut Effects) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        change(&mut self.roots, &self.journal.storage, &mut self.effects)
            .inspect_err(|_| self.broken = true)
    }

    /// Inserts or replaces a value of at most [`crate::format::key::VALUE_MAX`] bytes.
    ///
    /// # Errors
    /// When a page cannot be read.
    pub fn put(
        &mut self,
        tree: TreeId,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<(), StoreError> {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.apply(|roots, storage, effects| roots.put(storage, tree, key, value, effects))?;
        self.writer.changes.put(tree, key, value);
        Ok(())
    }

    /// Removes a key; whether it was there.
    ///
    /// # Errors
    /// When a page cannot be read.
    pub fn delete(&mut self, tree: TreeId, key: impl AsRef<[u8]>) -> Result<bool, StoreError> {
        let key = key.as_ref();
        let there =
            self.apply(|roots, storage, effects| roots.delete(storage, tree, key, effects))?;
        if there {
            self.writer.changes.delete(tree, key);
        }
        Ok(there)
    }

    /// The id of a name of 1 to 255 bytes, interning it when it is new.
    ///
    /// # Errors
    /// When a page or name cannot be read.
    pub fn intern(&mut self, name: &[u8]) -> Result<NameId, StoreError> {
        if let Some(id) = self.roots.find_name(&self.journal.storage, name)? {
            return Ok(id);
        }
        let id = NameId(self.roots.strings_end);
        self.apply(|roots, storage, effects| roots.intern(storage, id, name, effects))?;
        self.writer.changes.intern(id, name);
        Ok(id)
    }

    /// Carries file bytes in the log.
    pub fn data(&mut self, dataset: DatasetId, ino: Ino, offset: u64, bytes: &[u8]) {
        self.writer.changes.data(dataset, ino, offset, bytes);
    }

    /// Says that file bytes logged before in the range no longer count.
    pub fn data_clear(&mut self, dataset: DatasetId, ino: Ino, offset: u64, len: u64) {
        self.writer.changes.data_clear(dataset, ino, offset, len);
    }

    /// Repeats a [`Change::Data`] or [`Change::DataClear`] of the log.
    pub(super) fn carry(&mut self, change: &Change) {
        debug_assert!(matches!(
            change,
            Change::Data { .. } | Change::DataClear { .. }
        ));
        self.writer.changes.push(change);
    }

    /// The checkpoint that will hold this transaction: the birth of what it makes.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.writer.generation
    }

    /// The largest key of a tree.
    ///
    /// # Errors
    /// When a page cannot be read.
    pub fn last_key(&self, tree: TreeId) -> Result<Option<Key>, StoreError> {
        self.floor_with(tree, &[0xff; 9], |key, _| Key::from_slice(key))
    }

    /// Makes the changes visible to all and appends them to the log; the returned position is
    /// durable after [`Journal::sync`] on it.
    ///
    /// # Errors
    /// When the log refuses; the transaction then never was.
    pub fn commit(mut self) -> Result<Lsn, StoreError> {
        if self.broken {
            return Err(StoreError::Corrupt(
                "a transaction with a failed change".into(),
            ));
        }
        let wal = self.journal.wal()?;
        if self.writer.changes.is_empty() {
            return Ok(wal.next_lsn());
        }
        let logged = self.journal.logging.load(Ordering::Relaxed) || self.need == Need::Log;
        let end = if logged {
            match wal.append(&self.writer.changes, now_ns(), self.keep_bytes) {
                Ok(appended) => appended.end,
                Err(WalError::Full { .. }) => return Err(StoreError::NoSpace("the log is full")),
                Err(error) => return self.journal.latching(Err(error.into())),
            }
        } else {
            wal.next_lsn()
        };
        let roots = Arc::new(self.roots);
        self.writer.roots = Arc::clone(&roots);
        self.writer.effects.freed.append(&mut self.effects.freed);
        self.writer.effects.dirtied += self.effects.dirtied;
        self.journal
            .dirty_pages
            .store(self.writer.effects.dirtied, Ordering::Relaxed);
        self.journal.published.store(roots);
        Ok(end)
    }

    pub(super) fn reading(&self) -> Reading<'_> {
        Reading {
            roots: &self.roots,
            storage: &self.journal.storage,
        }
    }
}
