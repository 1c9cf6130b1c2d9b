//! How deleted trees go.
//!
//! A deleted dataset or snapshot loses its name at once and its tree later, in transactions of
//! bounded size: once at most one other tree goes on from it. What it shares with that one becomes
//! the other's, by its lineage alone; what it shares with the one before it stays there; the
//! references of the rest are dropped. Only what differs is looked at. A crash costs nothing: how
//! far it got stands in the lineages of both.
//!
//! Its pages are not freed one by one: when the trees are gone, those that nothing reaches are
//! looked for.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::datasets::{lineage, lineages, put_lineage};
use super::{EngineError, Store};
use crate::format::id::{ChunkId, DatasetId, Generation};
use crate::format::key::{self, Key, Kind, TreeId};
use crate::format::record::{
    DATASET_DOOMED, DatasetCounters, ExtentRecord, LineageRecord, UNREACHED_KEY, counters_key,
    dataset_key, history_key,
};
use crate::log::{Tx, recovery};
use crate::store::pages::Need;
use crate::store::{Read, StoreError};

/// References dropped in one transaction, at most. Few in tests, so that deletions take several.
const DROPS: usize = if cfg!(test) { 3 } else { 64 };
/// Differences looked at in one transaction, at most: it holds everybody else up.
const LOOKS: usize = if cfg!(test) { 16 } else { 4096 };

/// A part of a deletion.
struct Part {
    /// Chunks that lose a reference, once for each.
    chunks: Vec<ChunkId>,
    /// Where to go on; `None` at the end.
    next: Option<Key>,
}

impl Store {
    /// Deletes what is doomed, as far as it can go, and frees its pages, unless `stop` says that
    /// there is no time. Whether anything was deleted.
    ///
    /// # Errors
    /// When the store refuses; what is left is deleted by the next call.
    pub fn reap(&self, stop: &dyn Fn() -> bool) -> Result<bool, EngineError> {
        // Pages that two found to be unreached would be freed twice.
        let _one = self.reaping.lock();
        let mut reaped = false;
        while let Some(id) = self.next_doomed()? {
            while !self.reap_some(id)? {
                if stop() {
                    return Ok(reaped);
                }
                self.throttle()?;
            }
            reaped = true;
        }
        if reaped {
            self.free_unreached()?;
        }
        Ok(reaped)
    }

    /// A dataset that is deleted, that nobody reads ([`super::Still`]), and from which at most one
    /// other goes on: first the one of which a part is gone.
    fn next_doomed(&self) -> Result<Option<DatasetId>, EngineError> {
        let view = self.journal.view();
        let lineages: BTreeMap<_, _> = lineages(&view)?.into_iter().collect();
        // There may be thousands.
        let mut followers: BTreeMap<DatasetId, usize> = BTreeMap::new();
        for each in lineages.values() {
            *followers.entry(each.prev).or_default() += 1;
        }
        // Behind the view: what is in it and in use was in use before it could be found there.
        let in_use = self.datasets.read();
        let mut first = None;
        for (id, record) in recovery::datasets(&view)? {
            let is_held = followers.get(&id).is_some_and(|count| *count > 1);
            let is_read = in_use.get(&id).is_some_and(|dataset| dataset.users() > 0);
            if record.flags & DATASET_DOOMED == 0 || is_held || is_read {
                continue;
            }
            // Not one that only follows a tree of which a part is gone.
            let is_begun = |own: &LineageRecord| own.below == LineageRecord::PENDING;
            if lineages.get(&id).is_some_and(is_begun) {
                return Ok(Some(id));
            }
            first = first.or(Some(id));
        }
        Ok(first)
    }

    /// A transaction's share of a deletion; whether that was the last.
    fn reap_some(&self, id: DatasetId) -> Result<bool, EngineError> {
        let mut tx = self.begin_tx(Need::Reclaim)?;
        let own = lineage(&tx, id)?;
        let follower = lineages(&tx)?.into_iter().find(|(_, each)| each.prev == id);
        let part = part(&tx, id, &own, follower.as_ref().map(|(id, _)| *id))?;
        for chunk in part.chunks {
            self.data.drop_reference(&mut tx, chunk)?;
        }
        let is_last = part.next.is_none();
        let inodes = match is_last {
            true => inodes(&tx, id)?,
            false => 0,
        };
        match part.next {
            Some(cursor) => go_on(&mut tx, id, own, follower, cursor)?,
            None => end(&mut tx, id, own, follower)?,
        }
        tx.commit()?;
        self.names.note_removed_inodes(inodes);
        Ok(is_last)
    }

    /// Frees the pages that only deleted trees had.
    fn free_unreached(&self) -> Result<(), EngineError> {
        // The trees that are gone are part of the newest checkpoint until the next.
        self.checkpoint()?;
        self.journal.find_free_pages()?;
        let pages = self.journal.free_unreached(&|tx| {
            if lineages(tx)?.is_empty() {
                tx.delete(TreeId::Datasets, UNREACHED_KEY)?;
            }
            Ok(())
        })?;
        ::log::debug!("{pages} pages of deleted trees are free");
        // They can be written to behind the checkpoint that frees them.
        self.checkpoint()
    }
}

/// Inodes that a dataset had: about as many entries go with it.
fn inodes(tx: &Tx<'_>, id: DatasetId) -> Result<u64, StoreError> {
    let counters = tx.get_with(TreeId::Datasets, &counters_key(id), DatasetCounters::decode)?;
    let counters = counters
        .transpose()
        .map_err(|source| StoreError::format(format!("counters of dataset {id}"), source))?;
    Ok(counters.map_or(0, |counters| counters.inodes))
}

/// Finds a part of what goes with a tree: what neither the tree before it nor its follower has.
fn part(
    tx: &Tx<'_>,
    id: DatasetId,
    own: &LineageRecord,
    follower: Option<DatasetId>,
) -> Result<Part, StoreError> {
    let mut part = Part {
        chunks: Vec::new(),
        next: None,
    };
    let mut looks = 0;
    let mut wrong = None;
    let trees = (TreeId::Fs(id), follower.map(TreeId::Fs));
    tx.diff(trees, &own.cursor, &mut |key, old, _| {
        looks += 1;
        if let (Some(old), true) = (old, key::is_of_kind(key, Kind::Extent)) {
            match ExtentRecord::decode(old) {
                Ok(extent) if extent.has_chunk() && extent.birth > own.prev_birth => {
                    part.chunks.push(extent.chunk);
                }
                Ok(_) => {}
                Err(error) => wrong = Some(StoreError::format("extent", error)),
            }
        }
        if wrong.is_none() && part.chunks.len() < DROPS && looks < LOOKS {
            return ControlFlow::Continue(());
        }
        // Behind this key.
        let mut next = Key::from_slice(key);
        next.push(0);
        part.next = Some(next);
        ControlFlow::Break(())
    })?;
    wrong.map_or(Ok(part), Err)
}

/// Below `cursor` nothing of the tree counts any more, and its follower goes on from what was
/// before it.
fn go_on(
    tx: &mut Tx<'_>,
    id: DatasetId,
    own: LineageRecord,
    follower: Option<(DatasetId, LineageRecord)>,
    cursor: Key,
) -> Result<(), StoreError> {
    if let Some((id, mut lineage)) = follower {
        lineage.cursor.clone_from(&cursor);
        lineage.below = own.prev_birth;
        put_lineage(tx, id, &lineage)?;
    }
    let lineage = LineageRecord {
        cursor,
        below: LineageRecord::PENDING,
        ..own
    };
    put_lineage(tx, id, &lineage)
}

/// Nothing of the tree is left.
fn end(
    tx: &mut Tx<'_>,
    id: DatasetId,
    own: LineageRecord,
    follower: Option<(DatasetId, LineageRecord)>,
) -> Result<(), StoreError> {
    if let Some((id, _)) = follower {
        let lineage = LineageRecord {
            cursor: Key::new(),
            below: Generation(0),
            ..own
        };
        put_lineage(tx, id, &lineage)?;
    }
    put_lineage(tx, id, &LineageRecord::default())?;
    tx.delete(TreeId::Datasets, history_key(id))?;
    tx.delete(TreeId::Datasets, counters_key(id))?;
    tx.delete(TreeId::Datasets, dataset_key(id))?;
    tx.put(TreeId::Datasets, UNREACHED_KEY, [])
}
