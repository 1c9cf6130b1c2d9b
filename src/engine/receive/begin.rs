//! Where a receive begins, goes on, or is dropped.

use std::sync::Arc;

use super::{ReceiveHow, Receiving, hidden};
use crate::engine::datasets::{
    DatasetError, counters_of, dataset_name, find, found, is_changed, lineage, put_lineage,
    put_record, record_of, split_name, undeleted,
};
use crate::engine::projects::Counted;
use crate::engine::send::orphans_in;
use crate::engine::volume::Dataset;
use crate::engine::{EngineError, Store, Volume};
use crate::format::id::{DatasetId, Ino};
use crate::format::key::{self, TreeId};
use crate::format::record::{
    DATASET_DOOMED, DATASET_READ_ONLY, DATASET_RECEIVING, DatasetCounters, DatasetRecord,
    InodeRecord, LineageRecord, ReceiveRecord, StreamPosition, UNREACHED_KEY, counters_key,
    receive_key,
};
use crate::log::{CopyAs, Tx, recovery};
use crate::store::pages::Need;
use crate::store::tree::Differs;
use crate::store::{Read, StoreError};

const NO_BASE: [u8; 16] = [0; 16];

fn refused(name: &str, reason: &'static str) -> DatasetError {
    let name = name.to_owned();
    DatasetError::Refused { name, reason }
}

impl Store {
    /// Begins to receive a snapshot, or goes on. Durable on return.
    ///
    /// # Errors
    /// When there is a dataset of that name and the stream is not based on its newest snapshot, or
    /// the dataset has changed since; when the stream does not go on where a receive was cut off,
    /// or one was and it does not go on; when the store refuses.
    pub fn receive(self: &Arc<Self>, how: &ReceiveHow<'_>) -> Result<Receiving, DatasetError> {
        dataset_name(how.dataset)?;
        let full_name = format!("{}@{}", how.dataset, how.record.name);
        if split_name(&full_name)?.1 != Some(how.record.name.as_str()) {
            return Err(refused(&full_name, "that is no name of a snapshot"));
        }
        // In it, `%` and what the target is called take as much.
        if how.dataset.len() > super::super::DATASET_NAME_MAX - 1 {
            return Err(refused(how.dataset, "the name is too long"));
        }
        let (id, record) = match self.receive_state(how.dataset)? {
            Some((id, state)) => (id, goes_on(how, state)?),
            None if how.record.position != StreamPosition::START => {
                let reason = "there is nothing that this stream could go on from";
                return Err(refused(how.dataset, reason));
            }
            None => (self.begin_receive(how, &full_name)?, how.record.clone()),
        };
        let base = match record.base {
            NO_BASE => None,
            uuid => {
                let base = self.base_of(how.dataset, uuid)?;
                self.renew_quota(id, base.0)?;
                Some(base)
            }
        };
        let receiving = Receiving {
            volume: self.attach_receiving(id, how.dataset, base.map(|(target, _)| target))?,
            dataset: how.dataset.to_owned(),
            record,
            base,
        };
        if receiving.position() == StreamPosition::START {
            // Those of the base are none of the stream's.
            let volume = &receiving.volume;
            let orphans = orphans_in(&self.journal.view(), volume.tree(), usize::MAX)?;
            for ino in orphans {
                volume.note_orphans(Some(ino), None);
                volume.reclaim(ino)?;
            }
        }
        Ok(receiving)
    }

    /// The receive for a dataset that was cut off, if there is one.
    ///
    /// # Errors
    /// When the store cannot be read; when it cannot go on, since the store was repaired.
    pub fn receive_record(&self, dataset: &str) -> Result<Option<ReceiveRecord>, DatasetError> {
        Ok(self.receive_state(dataset)?.map(|(_, record)| record))
    }

    /// Drops what was received of a snapshot for a dataset. Durable on return; its space comes back
    /// bit by bit.
    ///
    /// # Errors
    /// When there is nothing; when it is under way; when the store refuses.
    pub fn abort_receive(&self, dataset: &str) -> Result<(), DatasetError> {
        dataset_name(dataset)?;
        let name = hidden(dataset);
        if find(&self.journal.view(), &name)?.is_none() {
            return Err(refused(dataset, "no receive was cut off"));
        }
        self.delete(&name, false)
    }

    fn receive_state(
        &self,
        dataset: &str,
    ) -> Result<Option<(DatasetId, ReceiveRecord)>, DatasetError> {
        let view = self.journal.view();
        let Some(id) = find(&view, &hidden(dataset))? else {
            return Ok(None);
        };
        let state = view.get_with(TreeId::Datasets, &receive_key(id), ReceiveRecord::decode)?;
        let reason = "what was received cannot be gone on with: drop it with receive --abort";
        let state = state.ok_or_else(|| refused(dataset, reason))?;
        let state =
            state.map_err(|source| StoreError::format(format!("receive into {id}"), source))?;
        Ok(Some((id, state)))
    }

    fn begin_receive(
        self: &Arc<Self>,
        how: &ReceiveHow<'_>,
        snapshot: &str,
    ) -> Result<DatasetId, DatasetError> {
        if how.record.base != NO_BASE {
            // What memory holds would not count as a change.
            self.volume(how.dataset)?.write_out_files()?;
        }
        let mut tx = self.begin_tx(Need::Space)?;
        if find(&tx, snapshot)?.is_some() {
            return Err(DatasetError::Exists(snapshot.to_owned()));
        }
        let name = hidden(how.dataset);
        let id = self.name_new(&mut tx, &name)?;
        let mut record = self.new_record(&tx, id, &name);
        record.flags = DATASET_RECEIVING | DATASET_READ_ONLY;
        match how.record.base {
            NO_BASE => self.put_empty(&mut tx, id, record, how)?,
            uuid => {
                let (target, base) = base_in(&tx, how.dataset, uuid)?;
                check_unchanged(&tx, how.dataset, target, base)?;
                put_clone(&mut tx, id, record, (target, base))?;
            }
        }
        tx.put(TreeId::Datasets, receive_key(id), how.record.encode())?;
        self.end(tx)?;
        Ok(id)
    }

    fn put_empty(
        &self,
        tx: &mut Tx<'_>,
        id: DatasetId,
        mut record: DatasetRecord,
        how: &ReceiveHow<'_>,
    ) -> Result<(), DatasetError> {
        if find(tx, how.dataset)?.is_some() {
            return Err(DatasetError::Exists(how.dataset.to_owned()));
        }
        (record.codec, record.codec_level) = how.compression.to_record();
        record.flags = how.dedup.to_record(record.flags);
        put_record(tx, id, &record)?;
        let counters = DatasetCounters {
            next_ino: Ino::ROOT.0 + 1,
            inodes: 1,
            ..DatasetCounters::default()
        };
        tx.put(TreeId::Datasets, counters_key(id), counters.encode())?;
        let root = InodeRecord::new_root(0, 0, 0o700, self.now());
        tx.put(TreeId::Fs(id), key::inode(Ino::ROOT), root.encode())?;
        Ok(())
    }

    /// A dataset, and its newest snapshot, which has to have this UUID.
    fn base_of(
        &self,
        dataset: &str,
        uuid: [u8; 16],
    ) -> Result<(DatasetId, DatasetId), DatasetError> {
        base_in(&self.journal.view(), dataset, uuid)
    }

    /// Gives a hidden dataset the quota that its target has now: another, perhaps, than when the
    /// receive was cut off.
    fn renew_quota(&self, id: DatasetId, target: DatasetId) -> Result<(), DatasetError> {
        let of = |record: &DatasetRecord| (record.quota_bytes, record.quota_inodes);
        let view = self.journal.view();
        let is_known = of(&record_of(&view, id)?) == of(&record_of(&view, target)?);
        drop(view);
        if is_known {
            return Ok(());
        }
        let mut tx = self.begin_tx(Need::Reclaim)?;
        let mut record = record_of(&tx, id)?;
        (record.quota_bytes, record.quota_inodes) = of(&record_of(&tx, target)?);
        put_record(&mut tx, id, &record)?;
        self.end(tx)
    }

    /// The hidden dataset, in use from now on by who receives into it.
    fn attach_receiving(
        self: &Arc<Self>,
        id: DatasetId,
        name: &str,
        target: Option<DatasetId>,
    ) -> Result<Volume, DatasetError> {
        let mut datasets = self.datasets.write();
        if datasets.contains_key(&id) {
            return Err(refused(name, "it is being received already"));
        }
        let view = self.journal.view();
        let record = undeleted(&view, id)?.filter(|record| record.name == hidden(name));
        let Some(record) = record else {
            return Err(refused(name, "it was renamed or deleted meanwhile"));
        };
        let counters = counters_of(&view, id)?;
        let counted = Counted::load(&view, TreeId::Fs(id))?;
        let dataset = Dataset::receiving(id, target, &record, &counters, counted);
        let dataset = Arc::new(dataset);
        datasets.insert(id, Arc::clone(&dataset));
        Ok(Volume::for_user(Arc::clone(self), dataset))
    }
}

/// What is known of a receive that a stream goes on with.
fn goes_on(how: &ReceiveHow<'_>, state: ReceiveRecord) -> Result<ReceiveRecord, DatasetError> {
    let other = "another snapshot is being received: go on with that, or drop it with --abort";
    if (state.snapshot, state.base) != (how.record.snapshot, how.record.base) {
        return Err(refused(how.dataset, other));
    }
    let is_begun = state.position != StreamPosition::START;
    if state.position != how.record.position || is_begun && state.sender != how.record.sender {
        let reason = "a receive was cut off elsewhere: send the rest (--resume-token, send \
                      --resume), or drop what was received (--abort)";
        return Err(refused(how.dataset, reason));
    }
    Ok(state)
}

/// A dataset, and its newest snapshot, which has to have this UUID.
pub(super) fn base_in(
    read: &impl Read,
    dataset: &str,
    uuid: [u8; 16],
) -> Result<(DatasetId, DatasetId), DatasetError> {
    let (target, record) = found(read, dataset)?;
    if record.snapshot_of.0 != 0 || record.flags & DATASET_RECEIVING != 0 {
        return Err(refused(dataset, "it is no dataset"));
    }
    let all = recovery::datasets(read)?;
    let is_own =
        |each: &DatasetRecord| each.snapshot_of == target && each.flags & DATASET_DOOMED == 0;
    // The newest is not that of the largest number, where an older one was restored.
    let mut next = lineage(read, target)?.prev;
    let newest = loop {
        match all.iter().find(|(id, _)| *id == next) {
            Some((id, record)) if is_own(record) => break Some((*id, record)),
            // A deleted one between.
            Some((id, record)) if record.flags & DATASET_DOOMED != 0 => {
                next = lineage(read, *id)?.prev;
            }
            _ => break None,
        }
    };
    match newest {
        Some((newest, snapshot)) if snapshot.uuid == uuid => Ok((target, newest)),
        _ if all
            .iter()
            .any(|(_, each)| is_own(each) && each.uuid == uuid) =>
        {
            let reason = "it does not go on from the snapshot that the stream is based on";
            Err(refused(dataset, reason))
        }
        _ => {
            let reason = "it does not have the snapshot that the stream is based on";
            Err(refused(dataset, reason))
        }
    }
}

/// Refuses a dataset that was changed since a snapshot of it was taken. That somebody has read a
/// file is no change, nor what becomes of inodes that nobody can find.
pub(super) fn check_unchanged(
    tx: &Tx<'_>,
    name: &str,
    dataset: DatasetId,
    snapshot: DatasetId,
) -> Result<(), DatasetError> {
    let differences = |trees, differs: &mut Differs<'_>| tx.diff(trees, &[], differs);
    match is_changed(tx, snapshot, dataset, differences)? {
        true => Err(refused(name, "it has changed since its newest snapshot")),
        false => Ok(()),
    }
}

/// Puts the records and the tree of a clone of `base`, with the settings of `target`.
fn put_clone(
    tx: &mut Tx<'_>,
    id: DatasetId,
    new: DatasetRecord,
    (target, base): (DatasetId, DatasetId),
) -> Result<(), EngineError> {
    let settings = record_of(tx, target)?;
    let snapshot = record_of(tx, base)?;
    let record = DatasetRecord {
        flags: settings.flags | new.flags,
        quota_bytes: settings.quota_bytes,
        quota_inodes: settings.quota_inodes,
        codec: settings.codec,
        codec_level: settings.codec_level,
        origin: base,
        ..new
    };
    put_record(tx, id, &record)?;
    let counters = counters_of(tx, base)?;
    tx.put(TreeId::Datasets, counters_key(id), counters.encode())?;
    put_lineage(tx, id, &LineageRecord::behind(base, snapshot.birth))?;
    tx.put(TreeId::Datasets, UNREACHED_KEY, [])?;
    Ok(tx.copy_tree(base, id, CopyAs::Branch(id.0))?)
}
