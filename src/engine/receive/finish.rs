//! How what was received takes its place: in one transaction.

use std::sync::Arc;

use super::begin::{base_in, check_unchanged};
use super::{Receiving, hidden};
use crate::engine::datasets::{
    DatasetError, STORE_AT_WORK, Sums, counters_of, find, lineage, put_lineage, put_record,
    put_snapshot, record_of,
};
use crate::engine::send::{counts_of, orphans_in};
use crate::engine::{EngineError, EventKind, TreeCounts};
use crate::format::id::DatasetId;
use crate::format::key::TreeId;
use crate::format::record::{
    DATASET_READ_ONLY, DATASET_RECEIVING, DatasetCounters, DatasetRecord, LineageRecord,
    UNREACHED_KEY, counters_key, dataset_key, dataset_name_key, history_key, receive_key,
};
use crate::log::{CopyAs, Tx};
use crate::store::StoreError;
use crate::store::pages::Need;
use crate::sync::atomic::Ordering;

impl Receiving {
    /// Ends the receive, when the tree holds what the sender's does: the dataset and the snapshot
    /// are there then under their names. Durable on return.
    ///
    /// # Errors
    /// When it holds something else; when the dataset has changed meanwhile, or is in use; when the
    /// store refuses. It can be tried again then.
    pub fn finish(self, counts: TreeCounts) -> Result<(), DatasetError> {
        let view = self.store().journal.view();
        if !orphans_in(&view, self.volume.tree(), 1)?.is_empty() {
            return Err(EngineError::Invalid("inodes without a name").into());
        }
        let own = counts_of(&self.volume, &view)?;
        drop(view);
        // Numbers of inodes that are gone do not come again, and those that are there are counted.
        if counts.next_ino < own.next_ino {
            return Err(EngineError::Invalid("a next inode that is there").into());
        }
        let next_ino = counts.next_ino;
        if (TreeCounts { next_ino, ..own }) != counts {
            let what = "what was received is not what the stream says it is";
            return Err(EngineError::Invalid(what).into());
        }
        if counts.next_ino > super::tree::INO_MAX {
            return Err(EngineError::Invalid("inode numbers at their end").into());
        }
        match self.base {
            None => self.name_it(counts)?,
            Some(_) => self.replace(counts)?,
        }
        let snapshot = format!("{}@{}", self.dataset, self.record.name);
        let store = self.store();
        if self.base.is_none() {
            store.note(EventKind::DatasetCreated, &self.dataset, None);
        }
        store.note(EventKind::SnapshotCreated, &snapshot, None);
        Ok(())
    }

    /// A new dataset gets its name.
    fn name_it(&self, counts: TreeCounts) -> Result<(), DatasetError> {
        let store = self.store();
        let mut tx = store.begin_tx(Need::Space)?;
        if find(&tx, &self.dataset)?.is_some() {
            return Err(DatasetError::Exists(self.dataset.clone()));
        }
        let id = self.id();
        let mut record = record_of(&tx, id)?;
        tx.delete(TreeId::Datasets, dataset_name_key(&record.name))?;
        tx.delete(TreeId::Datasets, receive_key(id))?;
        record.name.clone_from(&self.dataset);
        record.flags &= !(DATASET_RECEIVING | DATASET_READ_ONLY);
        put_record(&mut tx, id, &record)?;
        let name = dataset_name_key(&self.dataset);
        tx.put(TreeId::Datasets, name, id.0.to_le_bytes())?;
        put_next_ino(&mut tx, id, counts.next_ino)?;
        self.take_snapshot(&mut tx, id, counts)?;
        store.end(tx)?;
        let reserved = &store.data.reserved_bytes;
        reserved.fetch_add(counts.reserved_bytes, Ordering::Relaxed);
        Ok(())
    }

    /// A dataset that nobody uses gets the tree, and its old one goes.
    fn replace(&self, counts: TreeCounts) -> Result<(), DatasetError> {
        let store = self.store();
        loop {
            store.volume(&self.dataset)?.write_out_files()?;
            let (mut datasets, mut tx) = store.begin_with_datasets(Need::Space)?;
            let (target, base) = base_in(&tx, &self.dataset, self.record.base)?;
            if self.base != Some((target, base)) {
                let reason = "it is not the dataset any more that the receive began with";
                let name = self.dataset.clone();
                return Err(DatasetError::Refused { name, reason });
            }
            if let Some(dataset) = datasets.get(&target) {
                if dataset.users() > 0 {
                    return Err(DatasetError::Busy(self.dataset.clone()));
                }
                if Arc::strong_count(dataset) > 1 || dataset.inodes.has_unwritten() {
                    drop((tx, datasets));
                    std::thread::sleep(STORE_AT_WORK);
                    continue;
                }
            }
            check_unchanged(&tx, &self.dataset, target, base)?;
            let before = Sums::of(&tx, target)?;
            self.put_replaced(&mut tx, target, counts)?;
            let after = Sums::of(&tx, target)?;
            store.end(tx)?;
            store.count_replaced(datasets.remove(&target), before, after);
            store.background.reap();
            return Ok(());
        }
    }

    fn put_replaced(
        &self,
        tx: &mut Tx<'_>,
        target: DatasetId,
        counts: TreeCounts,
    ) -> Result<(), DatasetError> {
        let (store, id) = (self.store(), self.id());
        let next_ino = counters_of(tx, target)?.next_ino.max(counts.next_ino);
        store.set_aside(tx, target)?;
        // What was received is the target's from here on.
        let received = lineage(tx, id)?;
        tx.copy_tree(id, target, CopyAs::Same)?;
        put_lineage(tx, target, &pending(received))?;
        let counters = counters_of(tx, id)?;
        let counters = DatasetCounters {
            next_ino: counters.next_ino.max(next_ino),
            ..counters
        };
        tx.put(TreeId::Datasets, counters_key(target), counters.encode())?;
        put_lineage(tx, id, &LineageRecord::default())?;
        for key in [
            counters_key(id),
            history_key(id),
            receive_key(id),
            dataset_name_key(&hidden(&self.dataset)),
            dataset_key(id),
        ] {
            tx.delete(TreeId::Datasets, key)?;
        }
        self.take_snapshot(tx, target, counts)
    }

    /// The snapshot that was sent, of a dataset that has its tree. The dataset may have given away
    /// more numbers of inodes, before it was restored; the snapshot has not.
    fn take_snapshot(
        &self,
        tx: &mut Tx<'_>,
        of: DatasetId,
        counts: TreeCounts,
    ) -> Result<(), DatasetError> {
        let name = format!("{}@{}", self.dataset, self.record.name);
        let to = self.store().name_new(tx, &name)?;
        let counters = DatasetCounters {
            next_ino: counts.next_ino,
            ..counters_of(tx, of)?
        };
        tx.put(TreeId::Datasets, counters_key(to), counters.encode())?;
        let new = DatasetRecord {
            uuid: self.record.snapshot,
            created: self.record.created,
            ..self.store().new_record(tx, to, &name)
        };
        put_snapshot(tx, of, to, new)?;
        tx.put(TreeId::Datasets, UNREACHED_KEY, [])?;
        Ok(tx.copy_tree(of, to, CopyAs::Same)?)
    }
}

/// Pages may be in other trees too, until the next checkpoint says which.
fn pending(lineage: LineageRecord) -> LineageRecord {
    LineageRecord {
        shared: LineageRecord::PENDING,
        ..lineage
    }
}

fn put_next_ino(tx: &mut Tx<'_>, id: DatasetId, next_ino: u64) -> Result<(), StoreError> {
    let mut counters = counters_of(tx, id)?;
    counters.next_ino = counters.next_ino.max(next_ino);
    tx.put(TreeId::Datasets, counters_key(id), counters.encode())
}
