//! A mutation of the namespace or of metadata: one transaction, and what memory must learn of it.
//!
//! Invariant: nothing outside the transaction changes before its commit but the set of orphans,
//! which changes while the writer is still held (so that its order is that of the transactions) and
//! is put back when the commit fails.

use smallvec::SmallVec;

use super::inode::{FLAG_DIRSYNC, FLAG_SYNC, InodeExt};
use super::store::Room;
use super::{Durability, EngineError, Time, Volume};
use crate::format::id::{Ino, Lsn};
use crate::format::key;
use crate::format::record::{DatasetCounters, InodeRecord};
use crate::log::Tx;
use crate::store::StoreError;
use crate::store::pages::Need;

/// A mutation under way. Dropped without [`Op::commit`] it never was.
pub(super) struct Op<'a> {
    pub(super) volume: &'a Volume,
    pub(super) tx: Tx<'a>,
    /// The one moment at which all of it happens.
    pub(super) now: Time,
    touched: SmallVec<[Ino; 6]>,
    counters: Option<DatasetCounters>,
    orphaned: Option<Ino>,
    adopted: Option<Ino>,
    /// A directory or file that took part wants its changes on disk at once (`chattr +S`, `+D`).
    sync: bool,
}

impl Volume {
    /// Begins a mutation that may take space. No lock is held.
    pub(super) fn begin(&self) -> Result<Op<'_>, EngineError> {
        Ok(Op::new(self, self.begin_tx(Need::Space)?))
    }

    /// Begins a mutation that gives space back in the end: it works on a full disk too.
    pub(super) fn begin_removal(&self) -> Result<Op<'_>, EngineError> {
        Ok(Op::new(self, self.begin_tx(Need::Reclaim)?))
    }

    /// As [`Volume::begin`], for who holds a lock; `None` as with [`Volume::begin_removal_step`].
    pub(super) fn begin_step(&self, room: &mut Room) -> Result<Option<Op<'_>>, EngineError> {
        let tx = self.try_begin(Need::Space, room)?;
        Ok(tx.map(|tx| Op::new(self, tx)))
    }

    /// As [`Volume::begin_removal`], for who holds a lock; `None` when [`super::Store::make_room`] should
    /// be called first.
    pub(super) fn begin_removal_step(
        &self,
        room: &mut Room,
    ) -> Result<Option<Op<'_>>, EngineError> {
        let tx = self.try_begin(Need::Reclaim, room)?;
        Ok(tx.map(|tx| Op::new(self, tx)))
    }
}

impl<'a> Op<'a> {
    fn new(volume: &'a Volume, tx: Tx<'a>) -> Self {
        Op {
            volume,
            tx,
            now: volume.now(),
            touched: SmallVec::new(),
            counters: None,
            orphaned: None,
            adopted: None,
            sync: false,
        }
    }

    /// An inode's record.
    pub(super) fn inode(&self, ino: Ino) -> Result<InodeRecord, EngineError> {
        self.volume.load_inode(&self.tx, ino)
    }

    /// A directory's record.
    pub(super) fn dir(&self, ino: Ino) -> Result<InodeRecord, EngineError> {
        self.volume.load_dir(&self.tx, ino)
    }

    /// Puts an inode's record.
    pub(super) fn put(&mut self, ino: Ino, record: &InodeRecord) -> Result<(), EngineError> {
        self.touched.push(ino);
        self.sync |=
            record.flags & FLAG_SYNC != 0 || (record.is_dir() && record.flags & FLAG_DIRSYNC != 0);
        self.volume.store_inode(&mut self.tx, ino, record)
    }

    /// The dataset's counters, written back by the commit.
    pub(super) fn counters(&mut self) -> Result<&mut DatasetCounters, EngineError> {
        if self.counters.is_none() {
            self.counters = Some(self.volume.load_counters(&self.tx)?);
        }
        self.counters
            .as_mut()
            .ok_or_else(|| StoreError::Corrupt("no counters".into()).into())
    }

    /// A number for a new inode, within the quota.
    pub(super) fn new_ino(&mut self) -> Result<Ino, EngineError> {
        let quota = self.volume.quota(&self.tx)?.inodes;
        let counters = self.counters()?;
        if quota != 0 && counters.inodes >= quota {
            return Err(EngineError::Quota);
        }
        let ino = counters.next_ino;
        let full = StoreError::NoSpace("all inode numbers are used");
        counters.next_ino = ino.checked_add(1).ok_or(full)?;
        counters.inodes = counters.inodes.saturating_add(1);
        Ok(Ino(ino))
    }

    /// Puts an inode that has lost its last name, or never had one, on the orphan list.
    pub(super) fn orphan(&mut self, ino: Ino) -> Result<(), EngineError> {
        self.orphaned = Some(ino);
        Ok(self
            .tx
            .put(self.volume.tree(), key::orphan(ino), Vec::new())?)
    }

    /// Takes an inode that gets a name from the orphan list; whether it stood there.
    pub(super) fn adopt(&mut self, ino: Ino) -> Result<bool, EngineError> {
        let was = self.tx.delete(self.volume.tree(), key::orphan(ino))?;
        self.adopted = was.then_some(ino);
        Ok(was)
    }

    /// Commits: visible to all, and durable as the volume's durability and the inodes' flags say.
    pub(super) fn commit(mut self) -> Result<Lsn, EngineError> {
        let volume = self.volume;
        if let Some(counters) = self.counters {
            volume.store_counters(&mut self.tx, &counters)?;
        }
        volume.note_orphans(self.orphaned, self.adopted);
        let lsn = match self.tx.commit() {
            Ok(lsn) => lsn,
            Err(error) => {
                volume.note_orphans(self.adopted, self.orphaned);
                return Err(error.into());
            }
        };
        for ino in &self.touched {
            volume.dataset.inodes.touch(*ino, lsn);
        }
        let wait = self.sync && volume.store.options.durability != Durability::Relaxed;
        if wait || volume.store.options.durability == Durability::Strict {
            volume.store.journal.sync(lsn)?;
        }
        Ok(lsn)
    }
}
