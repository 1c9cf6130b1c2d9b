//! Going back to a snapshot.

use std::sync::Arc;

use super::records::{
    counters_of, found, kept_of, lineage, new_id, put_lineage, put_record, record_of,
    reserved_bytes, split_name,
};
use super::{DatasetError, STORE_AT_WORK};
use crate::engine::Store;
use crate::engine::store::Room;
use crate::format::id::DatasetId;
use crate::format::key::TreeId;
use crate::format::record::{
    DATASET_DOOMED, DATASET_READ_ONLY, DatasetCounters, DatasetRecord, LineageRecord,
    UNREACHED_KEY, counters_key,
};
use crate::log::Tx;
use crate::store::pages::Need;
use crate::sync::atomic::Ordering;

impl Store {
    /// Makes a dataset that nobody uses what its snapshot `name` is; what it was is gone, but for
    /// its snapshots, the newer ones too. It keeps its settings. Durable on return; the space of
    /// what it was comes back bit by bit.
    ///
    /// # Errors
    /// When there is no such snapshot, or the dataset is in use; when the store refuses.
    pub fn restore(self: &Arc<Self>, name: &str) -> Result<(), DatasetError> {
        let (dataset, Some(_)) = split_name(name)? else {
            return Err(DatasetError::Name {
                name: name.to_owned(),
                reason: "a dataset is restored from DATASET@SNAPSHOT",
            });
        };
        let volume = self.volume(dataset)?;
        // The log has bytes of the dataset's number, which recovery must not take for the new
        // tree's: those that are written out it knows to be void.
        volume.write_out_files()?;
        self.throttle()?;
        let _gate = volume.dataset.gate.write();
        volume.write_out_files()?;
        let mut room = Room::default();
        loop {
            // With no lock held that a checkpoint needs.
            self.make_room(&mut room)?;
            let mut datasets = self.datasets.write();
            let Some(mut tx) = self.try_begin(Need::Space, &mut room)? else {
                continue;
            };
            if volume.dataset.users() > 1 {
                return Err(DatasetError::Busy(dataset.to_owned()));
            }
            // The table's, and the one here.
            if Arc::strong_count(&volume.dataset) > 2 {
                drop((tx, datasets));
                std::thread::sleep(STORE_AT_WORK);
                continue;
            }
            let id = volume.dataset.id;
            let (before, after) = self.replace_tree(&mut tx, id, name)?;
            let kept_after = kept_of(&tx, id, &record_of(&tx, id)?)?;
            self.end(tx)?;
            // What the dataset does not use any more is kept for it again.
            let kept = &self.data.kept_bytes;
            kept.fetch_add(kept_after, Ordering::SeqCst);
            volume.dataset.usage.reserve(0, kept);
            let reserved = &self.data.reserved_bytes;
            reserved.fetch_add(after, Ordering::Relaxed);
            reserved.fetch_sub(before, Ordering::Relaxed);
            datasets.remove(&id);
            self.background.reap();
            return Ok(());
        }
    }

    /// Gives the dataset `id` the tree of its snapshot, and its own to one that is to be deleted.
    /// The bytes that it had reserved, and those that it has reserved now.
    fn replace_tree(
        &self,
        tx: &mut Tx<'_>,
        id: DatasetId,
        snapshot: &str,
    ) -> Result<(u64, u64), DatasetError> {
        let (from, from_record) = found(tx, snapshot)?;
        if from_record.snapshot_of != id {
            // The dataset was renamed meanwhile, and its name given to another.
            return Err(DatasetError::NotFound(snapshot.to_owned()));
        }
        let (counters, at_snapshot) = (counters_of(tx, id)?, counters_of(tx, from)?);
        let reserved = (reserved_bytes(tx, id)?, at_snapshot.reserved_bytes);

        let old = new_id(tx)?;
        let record = DatasetRecord {
            flags: DATASET_DOOMED | DATASET_READ_ONLY,
            ..self.new_record(tx, old, "")
        };
        put_record(tx, old, &record)?;
        tx.put(TreeId::Datasets, counters_key(old), counters.encode())?;
        let own = lineage(tx, id)?;
        put_lineage(tx, old, &own)?;
        tx.copy_tree(id, old)?;

        let counters = DatasetCounters {
            // Guests may remember numbers that only the old tree had.
            next_ino: counters.next_ino.max(at_snapshot.next_ino),
            ..at_snapshot
        };
        tx.put(TreeId::Datasets, counters_key(id), counters.encode())?;
        let own = LineageRecord {
            prev: from,
            prev_birth: from_record.birth,
            shared: LineageRecord::PENDING,
            ..LineageRecord::default()
        };
        put_lineage(tx, id, &own)?;
        tx.put(TreeId::Datasets, UNREACHED_KEY, [])?;
        tx.copy_tree(from, id)?;
        Ok(reserved)
    }
}
