//! Interned names: strings.dat, and names that wait for the next checkpoint.
//!
//! A name's id is its place, which no other name ever gets: new ones go to the end. Names that nobody
//! uses are forgotten (`crate::log::names`), and whole blocks between those that are used go back to the
//! disk below.

mod gaps;
mod used;

use std::collections::BTreeMap;
use std::sync::Arc;

use gaps::Gaps;
pub use used::UsedNames;

use super::StoreError;
use crate::disk::Disk;
use crate::format::id::NameId;
use crate::format::name;
use crate::sync::RwLock;

/// strings.dat grows by this many bytes at a time while the disk has them.
const GROWTH_BYTES: u64 = 1 << 20;
/// What the names of one transaction take, at most.
const TRANSACTION_BYTES: u64 = 4096;

/// The names of a store. A name never changes once something committed refers to it.
pub struct Strings {
    disk: Arc<dyn Disk>,
    /// Names not yet written. What a dropped transaction put here goes when the next name gets its
    /// place: nothing refers to it.
    waiting: RwLock<BTreeMap<NameId, Arc<[u8]>>>,
    gaps: Gaps,
}

impl Strings {
    /// The names on `disk`.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        let strings = Strings {
            disk,
            waiting: RwLock::default(),
            gaps: Gaps::default(),
        };
        strings.measure();
        strings
    }

    /// What `read` makes of a name. It must not add names.
    ///
    /// # Errors
    /// When the name cannot be read or does not match its checksum.
    pub fn read_with<T>(&self, id: NameId, read: impl FnOnce(&[u8]) -> T) -> Result<T, StoreError> {
        if let Some(name) = self.waiting.read().get(&id) {
            return Ok(read(name));
        }
        let what = || format!("strings.dat, name at {id}");
        let left = self.disk.len_bytes().saturating_sub(id.0);
        let len = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(name::RECORD_MAX_BYTES);
        let mut record = [0; name::RECORD_MAX_BYTES];
        let (bytes, _) = record.split_at_mut(len);
        self.disk
            .read_at(id.0, bytes)
            .map_err(|source| StoreError::io(what(), source))?;
        let name = name::decode(id, bytes).map_err(|source| StoreError::format(what(), source))?;
        Ok(read(name))
    }

    /// Gives a name its place, in memory until the next checkpoint. Returns the place after it.
    pub fn add(&self, id: NameId, name: &[u8]) -> u64 {
        let mut waiting = self.waiting.write();
        // The name goes to the end: what stands behind it is left from a dropped transaction.
        while waiting
            .last_key_value()
            .is_some_and(|(last, _)| *last >= id)
        {
            waiting.pop_last();
        }
        waiting.insert(id, Arc::from(name));
        id.0 + name::record_bytes(name.len()) as u64
    }

    /// Makes sure that the names up to `end`, and those of one more transaction, can be written.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] when the disk has no more.
    pub fn reserve(&self, end: u64) -> Result<(), StoreError> {
        let length = self.disk.len_bytes();
        let needed = end.saturating_add(TRANSACTION_BYTES);
        if needed <= length {
            return Ok(());
        }
        let grow = |by| self.disk.allocate(length, by);
        let missing = needed - length;
        grow(missing.max(GROWTH_BYTES))
            .or_else(|_| grow(missing))
            .map_err(|source| StoreError::io("strings.dat, growing", source))
    }

    /// Writes and flushes the names in `start..end`, which lie one behind the other.
    ///
    /// # Errors
    /// When the disk refuses; the checkpoint has failed then.
    pub fn write(&self, start: u64, end: u64) -> Result<(), StoreError> {
        if start == end {
            return Ok(());
        }
        let what = || format!("strings.dat, writing {start}..{end}");
        let mut bytes = Vec::new();
        for (id, name) in self.waiting.read().range(NameId(start)..NameId(end)) {
            if id.0 != start + bytes.len() as u64 {
                return Err(StoreError::Corrupt(format!(
                    "{}: a gap before {id}",
                    what()
                )));
            }
            name::encode(*id, name, &mut bytes)
                .map_err(|source| StoreError::format(what(), source))?;
        }
        if start + bytes.len() as u64 != end {
            return Err(StoreError::Corrupt(format!(
                "{}: names are missing",
                what()
            )));
        }
        self.disk
            .write_at(start, &bytes)
            .map_err(|source| StoreError::io(what(), source))?;
        // Without it the new trees could refer to names that a power cut took.
        self.disk
            .flush()
            .map_err(|source| StoreError::io("strings.dat, flushing", source))
    }

    /// Lets go of the names before `end`, which are on disk.
    pub fn settle(&self, end: u64) {
        let mut waiting = self.waiting.write();
        let rest = waiting.split_off(&NameId(end));
        let written = std::mem::replace(&mut *waiting, rest);
        // Nobody should wait for that.
        drop(waiting);
        drop(written);
    }
}
