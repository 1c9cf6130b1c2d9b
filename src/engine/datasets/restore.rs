//! Going back to a snapshot.

use std::sync::Arc;

use super::records::{
    counters_of, found, kept_of, lineage, new_id, put_lineage, put_record, record_of,
    reserved_bytes, split_name,
};
use super::{DatasetError, STORE_AT_WORK};
use crate::engine::volume::Dataset;
use crate::engine::{EventKind, Store, Volume};
use crate::format::id::DatasetId;
use crate::format::key::TreeId;
use crate::format::record::{
    DATASET_DOOMED, DATASET_READ_ONLY, DatasetCounters, DatasetRecord, LineageRecord,
    UNREACHED_KEY, counters_key,
};
use crate::log::{CopyAs, Tx};
use crate::store::pages::Need;
use crate::store::{Read, StoreError};
use crate::sync::atomic::Ordering;

impl Store {
    /// Makes a dataset that nobody uses what its snapshot `name` is; what it was is gone, but for
    /// its snapshots, the newer ones too. It keeps its settings. Durable on return; the space of
    /// what it was comes back bit by bit.
    ///
    /// # Errors
    /// When there is no such snapshot, or the dataset is in use; when the store refuses.
    pub fn restore(self: &Arc<Self>, name: &str) -> Result<(), DatasetError> {
        self.begin_restore(name)?.carry_out().1
    }

    /// The same in two steps, for who has the dataset in use and lets go of it between them. Most of
    /// what memory holds of its files is written out on return.
    ///
    /// # Errors
    /// When there is no such snapshot; when the store refuses.
    pub fn begin_restore(self: &Arc<Self>, name: &str) -> Result<Restoration, DatasetError> {
        let (dataset, Some(_)) = split_name(name)? else {
            return Err(DatasetError::Name {
                name: name.to_owned(),
                reason: "a dataset is restored from DATASET@SNAPSHOT",
            });
        };
        let (from, name) = (self.find(name)?.snapshot_of, name.to_owned());
        let volume = self.volume(dataset)?;
        if from != Some(volume.dataset_id()) {
            // The dataset was renamed meanwhile, and its name given to another.
            return Err(DatasetError::NotFound(name));
        }
        volume.check_writable()?;
        // The log has bytes of the dataset's number, which recovery must not take for the new
        // tree's: those that are written out it knows to be void.
        volume.write_out_files()?;
        Ok(Restoration { volume, name })
    }

    /// Gives the dataset `id` the tree of its snapshot, and its own to one that is to be deleted.
    fn replace_tree(
        &self,
        tx: &mut Tx<'_>,
        id: DatasetId,
        snapshot: &str,
    ) -> Result<(), DatasetError> {
        let (from, record) = found(tx, snapshot)?;
        if record.snapshot_of != id {
            // The dataset was renamed meanwhile, and its name given to another.
            return Err(DatasetError::NotFound(snapshot.to_owned()));
        }
        let (counters, at_snapshot) = (counters_of(tx, id)?, counters_of(tx, from)?);
        self.set_aside(tx, id)?;
        let counters = DatasetCounters {
            // Guests may remember numbers that only the old tree had.
            next_ino: counters.next_ino.max(at_snapshot.next_ino),
            ..at_snapshot
        };
        tx.put(TreeId::Datasets, counters_key(id), counters.encode())?;
        put_lineage(tx, id, &LineageRecord::behind(from, record.birth))?;
        let timeline = new_id(tx)?.0;
        Ok(tx.copy_tree(from, id, CopyAs::Branch(timeline))?)
    }

    /// Gives a dataset's tree to a nameless one that is deleted. The dataset is to get another in
    /// the same transaction, with the counters and the lineage that belong to that.
    pub(in crate::engine) fn set_aside(
        &self,
        tx: &mut Tx<'_>,
        id: DatasetId,
    ) -> Result<(), StoreError> {
        let old = new_id(tx)?;
        let nameless = DatasetRecord {
            flags: DATASET_DOOMED | DATASET_READ_ONLY,
            ..self.new_record(tx, old, "")
        };
        put_record(tx, old, &nameless)?;
        let counters = counters_of(tx, id)?;
        tx.put(TreeId::Datasets, counters_key(old), counters.encode())?;
        let own = lineage(tx, id)?;
        put_lineage(tx, old, &own)?;
        tx.put(TreeId::Datasets, UNREACHED_KEY, [])?;
        tx.copy_tree(id, old, CopyAs::Same)
    }

    /// Counts what a dataset has reserved and what is kept for it, now that it has another tree and
    /// nobody uses it.
    pub(in crate::engine) fn count_replaced(
        &self,
        dataset: Option<Arc<Dataset>>,
        before: Sums,
        after: Sums,
    ) {
        let kept = &self.data.kept_bytes;
        kept.fetch_add(after.kept, Ordering::SeqCst);
        match dataset {
            Some(dataset) => drop(dataset.usage.reserve(0, kept)),
            None => drop(kept.fetch_sub(before.kept, Ordering::SeqCst)),
        }
        let reserved = &self.data.reserved_bytes;
        reserved.fetch_add(after.reserved, Ordering::Relaxed);
        reserved.fetch_sub(before.reserved, Ordering::Relaxed);
    }
}

/// A dataset that is about to become what a snapshot of it is.
pub struct Restoration {
    volume: Volume,
    name: String,
}

impl Restoration {
    /// The dataset.
    #[must_use]
    pub fn dataset_id(&self) -> DatasetId {
        self.volume.dataset_id()
    }

    /// Keeps paths from being restored into it, and anything from being imported, until this is
    /// dropped. Who stops serving its kernels for a moment holds it meanwhile: no kernel is counted
    /// then, and all go on to believe what they were told.
    #[must_use]
    pub fn keep_still(&self) -> impl Sized + '_ {
        let dataset = &self.volume.dataset;
        (dataset.restoring.read(), dataset.kernels.unserved())
    }

    /// Does it: see [`Store::restore`]. Says besides whether the dataset is the other one now, which
    /// it is also where only the last flush failed: the store is read-only then, and which of the
    /// two there is when it is opened again is not known.
    pub fn carry_out(&self) -> (bool, Result<(), DatasetError>) {
        let mut is_another = false;
        let done = self.replace(&mut is_another);
        (is_another, done)
    }

    fn replace(&self, is_another: &mut bool) -> Result<(), DatasetError> {
        let Restoration { volume, name } = self;
        let store = &volume.store;
        let id = volume.dataset.id;
        store.throttle()?;
        let _gate = volume.dataset.gate.write();
        volume.write_out_files()?;
        loop {
            let (mut datasets, mut tx) = store.begin_with_datasets(Need::Space)?;
            let dataset = record_of(&tx, id)?.name;
            if volume.dataset.users() > 1 {
                return Err(DatasetError::Busy(dataset));
            }
            // The table's, and the one here.
            if Arc::strong_count(&volume.dataset) > 2 {
                drop((tx, datasets));
                std::thread::sleep(STORE_AT_WORK);
                continue;
            }
            let before = Sums::of(&tx, id)?;
            store.replace_tree(&mut tx, id, name)?;
            let after = Sums::of(&tx, id)?;
            let lsn = tx.commit()?;
            *is_another = true;
            store.count_replaced(datasets.remove(&id), before, after);
            store.journal.sync(lsn)?;
            store.background.reap();
            store.note(EventKind::DatasetRestored, &dataset, Some(name));
            return Ok(());
        }
    }
}

/// What of a dataset is part of sums over all of them.
pub(in crate::engine) struct Sums {
    /// Bytes of reserved extents.
    reserved: u64,
    /// Bytes that no other dataset gets.
    kept: u64,
}

impl Sums {
    pub(in crate::engine) fn of(read: &impl Read, id: DatasetId) -> Result<Self, StoreError> {
        Ok(Sums {
            reserved: reserved_bytes(read, id)?,
            kept: kept_of(read, id, &record_of(read, id)?)?,
        })
    }
}
