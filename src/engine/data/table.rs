//! Inodes with state in memory: unwritten data, and what fsync must wait for.
//!
//! Lock order: [`InodeState::writing_out`], [`InodeState::io`], then [`InodeState::data`], then the journal's writer. Of two
//! inodes the one with the smaller number first.

use std::collections::HashMap;
use std::sync::Arc;

use super::dirty::DirtyMap;
use crate::engine::store::Room;
use crate::engine::{EngineError, Volume};
use crate::format::id::{Ino, InoHashes, Lsn};
use crate::log::Tx;
use crate::store::pages::Need;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock, RwLockWriteGuard};

/// Few under a controlled scheduler: each is one more place to switch that tells nothing.
const SHARDS: usize = if cfg!(shuttle) { 2 } else { 64 };

/// A part of the table that has room for so many times what is in it gives memory back.
const SPARSE: usize = 8;
/// Inodes for which a part always has room.
const SHARD_MIN: usize = 16;

/// What memory holds of an inode.
#[derive(Default)]
pub(super) struct InodeState {
    /// Held by whoever writes out what it has captured, in as many groups as it takes: others would
    /// do the same work, and find then that it was done. Taken before `io`.
    pub(super) writing_out: Mutex<()>,
    /// Held by whoever moves content between memory and disk or removes it, one at a time.
    pub(super) io: Mutex<()>,
    /// The unwritten bytes. Whoever changes what a byte of the file is holds it for writing until
    /// the transaction is committed.
    pub(super) data: RwLock<DirtyMap>,
    /// The end of the last transaction that changed the inode and had its state at hand.
    last_lsn: AtomicU64,
}

impl InodeState {
    pub(super) fn last_lsn(&self) -> Lsn {
        Lsn(self.last_lsn.load(Ordering::Acquire))
    }

    pub(super) fn touch(&self, lsn: Lsn) {
        self.last_lsn.fetch_max(lsn.0, Ordering::AcqRel);
    }
}

impl Volume {
    /// The state of an inode that there is. A guest may ask for any number: it must not make the
    /// table grow.
    ///
    /// # Errors
    /// `Stale` when there is no such inode.
    pub(super) fn live_state(&self, ino: Ino) -> Result<Arc<InodeState>, EngineError> {
        match self.dataset.inodes.known_state(ino) {
            Some(state) => Ok(state),
            None => {
                self.load_inode(&self.store.journal.view(), ino)?;
                Ok(self.dataset.inodes.state(ino))
            }
        }
    }

    /// Locks an inode's unwritten data and starts a transaction that finds room in the log. To be
    /// called with no lock held but the inode's `io`.
    ///
    /// # Errors
    /// As [`crate::engine::Store::begin_tx`].
    pub(super) fn begin_with<'a>(
        &'a self,
        state: &'a InodeState,
        need: Need,
    ) -> Result<(RwLockWriteGuard<'a, DirtyMap>, Tx<'a>), EngineError> {
        let mut room = Room::default();
        loop {
            self.store.make_room(&mut room)?;
            let data = state.data.write();
            if let Some(tx) = self.try_begin(need, &mut room)? {
                return Ok((data, tx));
            }
        }
    }
}

/// What the table knows of an inode.
#[derive(Default)]
struct Entry {
    /// The end of the last transaction that changed the inode, or the directory's entries, without
    /// asking for its state.
    last_lsn: Lsn,
    /// What memory holds of it, once somebody asked.
    state: Option<Arc<InodeState>>,
}

impl Entry {
    fn state(&mut self) -> Arc<InodeState> {
        Arc::clone(self.state.get_or_insert_default())
    }

    fn last_lsn(&self) -> Lsn {
        let of_state = self.state.as_ref().map(|state| state.last_lsn());
        of_state.map_or(self.last_lsn, |lsn| lsn.max(self.last_lsn))
    }
}

type Shard = HashMap<Ino, Entry, InoHashes>;

/// All inodes with something in memory. One that is not here has nothing unwritten, and all its
/// changes are durable.
pub(crate) struct InodeTable {
    shards: Vec<Mutex<Shard>>,
}

impl Default for InodeTable {
    fn default() -> Self {
        InodeTable {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }
}

impl InodeTable {
    fn with<T>(&self, ino: Ino, with: impl FnOnce(&mut Shard) -> T) -> T {
        match self.shards.get(ino.part(SHARDS)) {
            Some(shard) => with(&mut shard.lock()),
            None => with(&mut Shard::default()),
        }
    }

    /// The state of an inode, made when there is none.
    pub(super) fn state(&self, ino: Ino) -> Arc<InodeState> {
        self.with(ino, |shard| shard.entry(ino).or_default().state())
    }

    /// The state of an inode that the table knows, made when it has none.
    pub(super) fn known_state(&self, ino: Ino) -> Option<Arc<InodeState>> {
        self.with(ino, |shard| shard.get_mut(&ino).map(Entry::state))
    }

    /// The state of an inode, if it has any.
    pub(super) fn find(&self, ino: Ino) -> Option<Arc<InodeState>> {
        self.with(ino, |shard| shard.get(&ino)?.state.clone())
    }

    /// The end of the last transaction that changed the inode, or the directory's entries; `None` when
    /// that is durable, or the inode gone.
    pub(super) fn last_lsn(&self, ino: Ino) -> Option<Lsn> {
        self.with(ino, |shard| shard.get(&ino).map(Entry::last_lsn))
    }

    /// Notes that a transaction which ends at `lsn` changed the inode, or the directory's entries.
    pub(crate) fn touch(&self, ino: Ino, lsn: Lsn) {
        self.with(ino, |shard| {
            let entry = shard.entry(ino).or_default();
            entry.last_lsn = entry.last_lsn.max(lsn);
        });
    }

    /// Forgets an inode that is gone.
    pub(crate) fn forget(&self, ino: Ino) {
        self.with(ino, |shard| shard.remove(&ino));
    }

    /// All inodes for which `which` holds of their data.
    pub(super) fn filter(&self, which: impl Fn(&DirtyMap) -> bool) -> Vec<(Ino, Arc<InodeState>)> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let states: Vec<_> = shard
                .lock()
                .iter()
                .filter_map(|(ino, entry)| Some((*ino, entry.state.clone()?)))
                .collect();
            found.extend(
                states
                    .into_iter()
                    .filter(|(_, state)| which(&state.data.read())),
            );
        }
        found
    }

    /// Whether any inode has bytes that no chunk holds.
    pub(crate) fn has_unwritten(&self) -> bool {
        !self.filter(|data| !data.is_empty()).is_empty()
    }

    /// Forgets what is written and durable of inodes, so that memory follows what is in use.
    pub(crate) fn sweep(&self, durable: Lsn) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.retain(|_, entry| {
                // Only the table's reference: nobody is about to change it, and who did has been here.
                entry.state.take_if(|state| {
                    Arc::get_mut(state).is_some_and(|state| {
                        let written = state.data.try_read().is_some_and(|data| data.is_empty());
                        written && state.last_lsn() <= durable
                    })
                });
                entry.state.is_some() || entry.last_lsn > durable
            });
            let few = shard.len().max(SHARD_MIN);
            if shard.capacity() > SPARSE * few {
                shard.shrink_to(2 * few);
            }
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use crate::disk::buffer::Buffer;

    fn known(table: &InodeTable) -> Vec<u64> {
        (0..10_000)
            .filter(|ino| table.last_lsn(Ino(*ino)).is_some())
            .collect()
    }

    #[test]
    fn what_is_not_durable_is_known_with_a_state_and_without() {
        let table = InodeTable::default();
        table.touch(Ino(1), Lsn(10));
        table.touch(Ino(2), Lsn(30));
        table.state(Ino(3)).touch(Lsn(10));
        table.state(Ino(4)).touch(Lsn(30));
        // The later of the two counts.
        for (ino, of_state, of_others) in [(5, 10, 30), (6, 30, 10)] {
            table.state(Ino(ino)).touch(Lsn(of_state));
            table.touch(Ino(ino), Lsn(of_others));
            assert_eq!(table.last_lsn(Ino(ino)), Some(Lsn(30)));
        }
        table.sweep(Lsn(9));
        assert_eq!(known(&table), [1, 2, 3, 4, 5, 6]);
        table.sweep(Lsn(20));
        assert_eq!(known(&table), [2, 4, 5, 6]);
        // Its state went, what others changed did not.
        assert!(table.find(Ino(5)).is_none() && table.find(Ino(6)).is_some());
        assert_eq!(table.last_lsn(Ino(5)), Some(Lsn(30)));
        table.sweep(Lsn(30));
        assert_eq!(known(&table), [0; 0]);
    }

    #[test]
    fn a_state_stays_while_it_is_used_or_holds_something() {
        let table = InodeTable::default();
        let used = table.state(Ino(1));
        table
            .state(Ino(2))
            .data
            .write()
            .insert(0, Buffer::zeroed(1));
        table.sweep(Lsn(u64::MAX));
        assert_eq!(known(&table), [1, 2]);
        drop(used);
        table.sweep(Lsn(u64::MAX));
        assert_eq!(known(&table), [2]);
    }

    #[test]
    fn memory_follows_what_is_known() {
        let table = InodeTable::default();
        let room = || -> usize {
            table
                .shards
                .iter()
                .map(|shard| shard.lock().capacity())
                .sum()
        };
        for ino in 0..100_000 {
            table.touch(Ino(ino), Lsn(ino / 50_000));
        }
        assert!(room() >= 100_000);
        table.sweep(Lsn(0));
        assert!(room() >= 50_000, "half of them are still known");
        table.sweep(Lsn(1));
        assert!(room() < 10_000, "room for {}", room());
        assert!(table.known_state(Ino(1)).is_none() && room() < 10_000);
    }
}
