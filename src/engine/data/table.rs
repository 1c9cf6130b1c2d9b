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
    /// The end of the last transaction that changed the inode or its entries.
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
        match self.dataset.inodes.find(ino) {
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

type Shard = HashMap<Ino, Arc<InodeState>, InoHashes>;

/// All inodes with state. One without has nothing unwritten, and all its changes are durable.
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
        let index = usize::try_from(ino.0 % SHARDS as u64).unwrap_or(0);
        match self.shards.get(index) {
            Some(shard) => with(&mut shard.lock()),
            None => with(&mut Shard::default()),
        }
    }

    /// The state of an inode, made when there is none.
    pub(super) fn state(&self, ino: Ino) -> Arc<InodeState> {
        self.with(ino, |shard| Arc::clone(shard.entry(ino).or_default()))
    }

    /// The state of an inode, if it has any.
    pub(super) fn find(&self, ino: Ino) -> Option<Arc<InodeState>> {
        self.with(ino, |shard| shard.get(&ino).cloned())
    }

    /// Notes that a transaction which ends at `lsn` changed the inode, or the directory's entries.
    pub(crate) fn touch(&self, ino: Ino, lsn: Lsn) {
        self.with(ino, |shard| shard.entry(ino).or_default().touch(lsn));
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
                .map(|(ino, state)| (*ino, Arc::clone(state)))
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

    /// Forgets inodes of which everything is written and durable, so that memory follows what is in
    /// use.
    pub(crate) fn sweep(&self, durable: Lsn) {
        for shard in &self.shards {
            shard.lock().retain(|_, state| {
                // Only the table's reference: nobody is about to change it.
                Arc::strong_count(state) > 1
                    || state.last_lsn() > durable
                    || state.data.try_read().is_none_or(|data| !data.is_empty())
            });
        }
    }
}
