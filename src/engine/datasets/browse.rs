//! A dataset's snapshots, for who has the dataset.

use std::sync::Arc;

use super::records::{find, record_of, undeleted};
use crate::engine::{EngineError, Time, Volume};
use crate::format::id::DatasetId;
use crate::format::record::{DATASET_DOOMED, DatasetRecord};
use crate::log::recovery;
use crate::store::Read;
use crate::sync::atomic::Ordering;

/// A snapshot of a dataset, as it is listed in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotEntry {
    /// Its number.
    pub id: DatasetId,
    /// Its own name, without that of the dataset.
    pub name: Vec<u8>,
    /// When it was taken.
    pub created: Time,
}

impl Volume {
    /// The dataset's snapshots, by number: the oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn snapshots(&self) -> Result<Vec<SnapshotEntry>, EngineError> {
        let all = recovery::datasets(&self.store.journal.view())?.into_iter();
        Ok(all
            .filter_map(|(id, record)| self.entry(id, &record))
            .collect())
    }

    /// A snapshot of the dataset by its own name.
    ///
    /// # Errors
    /// `NotFound`; when the store cannot be read.
    pub fn find_snapshot(&self, name: &[u8]) -> Result<SnapshotEntry, EngineError> {
        let view = self.store.journal.view();
        let dataset = record_of(&view, self.dataset.id)?.name;
        let name = std::str::from_utf8(name).map_err(|_| EngineError::NotFound)?;
        let id = find(&view, &format!("{dataset}@{name}"))?;
        let entry = match id {
            Some(id) => self.entry(id, &record_of(&view, id)?),
            None => None,
        };
        entry.ok_or(EngineError::NotFound)
    }

    /// A snapshot of the dataset, to be read. Its deletion waits until it is dropped: not for long.
    ///
    /// # Errors
    /// `Stale` when the dataset has no such snapshot, or somebody waits to delete it; when the store
    /// cannot be read.
    pub fn snapshot(&self, id: DatasetId) -> Result<Volume, EngineError> {
        let is_own = |read: &_| match is_snapshot_of(read, id, self.dataset.id) {
            Ok(true) => Ok(()),
            Ok(false) => Err(EngineError::Stale),
            Err(error) => Err(error),
        };
        // Nothing that is in use is deleted while the table is held.
        let in_use = self.store.datasets.read();
        if let Some(dataset) = in_use.get(&id) {
            is_own(&self.store.journal.view())?;
            if dataset.leaving.load(Ordering::Acquire) {
                return Err(EngineError::Stale);
            }
            let store = Arc::clone(&self.store);
            return Ok(Volume::for_store(store, Arc::clone(dataset)));
        }
        drop(in_use);
        let mut in_use = self.store.datasets.write();
        is_own(&self.store.journal.view())?;
        let dataset = self.store.attach_in(&mut in_use, id)?.dataset;
        Ok(Volume::for_store(Arc::clone(&self.store), dataset))
    }

    fn entry(&self, id: DatasetId, record: &DatasetRecord) -> Option<SnapshotEntry> {
        let is_own = record.snapshot_of == self.dataset.id && record.flags & DATASET_DOOMED == 0;
        let (_, own) = record.name.split_once('@').filter(|_| is_own)?;
        Some(SnapshotEntry {
            id,
            name: own.as_bytes().to_vec(),
            created: record.created,
        })
    }
}

fn is_snapshot_of(read: &impl Read, id: DatasetId, of: DatasetId) -> Result<bool, EngineError> {
    Ok(undeleted(read, id)?.is_some_and(|record| record.snapshot_of == of))
}
