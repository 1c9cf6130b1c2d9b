//! What a checkpoint does with the trees: places for what changed, and letting go of what is written.

use std::sync::Arc;

use super::{Held, Roots, Storage};
use crate::format::id::{DatasetId, Generation};
use crate::format::key::{SYSTEM_TREES, TreeId};
use crate::format::page::TreeTag;
use crate::format::record::{
    DatasetRecord, LineageRecord, PagePtr, dataset_key, history_key, lineage_key,
};
use crate::store::StoreError;
use crate::store::tree::{self, Effects};

impl Roots {
    /// Whether a tree was copied since the last checkpoint.
    #[must_use]
    pub fn has_copies(&self) -> bool {
        let mut held = self.datasets.iter();
        held.any(|held| held.shared == LineageRecord::PENDING)
    }

    /// Gives every changed node a place from `place`, and enters the datasets' new roots in their
    /// records. Returns the system trees' places; the nodes to write are added to `out`. What was
    /// copied since the last checkpoint shares the pages of this one, `generation`, too. A page that
    /// several trees have is written for the oldest of their timelines, and for a dataset rather than for
    /// its snapshots, which have larger numbers.
    ///
    /// # Errors
    /// When a page of the dataset tree cannot be read.
    pub fn freeze(
        &mut self,
        storage: &Storage,
        generation: Generation,
        place: &mut impl FnMut() -> Result<PagePtr, StoreError>,
        out: &mut Vec<Arc<tree::Node>>,
        effects: &mut Effects,
    ) -> Result<[PagePtr; SYSTEM_TREES], StoreError> {
        // What several have is of the oldest timeline: the others go on from that.
        let timeline = |index: &usize| self.datasets.get(*index).map(|held| held.timeline);
        let mut order: Vec<usize> = (0..self.datasets.len()).collect();
        // Of one they stay in the order of their numbers.
        order.sort_by_key(timeline);
        for index in order {
            let Some(Held {
                id,
                link,
                shared,
                timeline,
                is_pending,
            }) = self.datasets.get(index).cloned()
            else {
                continue;
            };
            if is_pending {
                let mut history = self.history(storage, id)?;
                history.settle(generation);
                let key = history_key(id);
                self.put(storage, TreeId::Datasets, &key, &history.encode(), effects)?;
            }
            if shared == LineageRecord::PENDING {
                let mut lineage = self.lineage(storage, id)?;
                lineage.shared = generation;
                let key = lineage_key(id);
                self.put(storage, TreeId::Datasets, &key, &lineage.encode(), effects)?;
            }
            let key = dataset_key(id);
            let mut record = self
                .get_with(storage, TreeId::Datasets, &key, DatasetRecord::decode)?
                .ok_or_else(|| {
                    StoreError::Corrupt(format!("dataset {id} has a tree, but no record"))
                })?
                .map_err(|source| StoreError::format(format!("dataset {id}"), source))?;
            let tag = TreeTag::of(TreeId::Fs(DatasetId(timeline)));
            // After a repair snapshots have timelines of their own.
            let tag = match record.snapshot_of.0 {
                0 => tag,
                _ if timeline == id.0 => tag,
                _ => tag.kept(),
            };
            let root = tree::freeze(&link, tag, place, out)?;
            if record.root != root {
                record.root = root;
                self.put(storage, TreeId::Datasets, &key, &record.encode(), effects)?;
            }
        }
        let mut places = [PagePtr::EMPTY; SYSTEM_TREES];
        let of_system = TreeId::SYSTEM.into_iter().zip(&self.system);
        for ((tree, link), slot) in of_system.zip(&mut places) {
            *slot = tree::freeze(link, TreeTag::of(tree), place, out)?;
        }
        Ok(places)
    }

    /// Lets go of nodes that are on disk now.
    pub fn settle(&mut self, effects: &mut Effects) {
        let mut child = 0;
        while self.settle_below(child, effects) {
            child += 1;
        }
    }

    /// The same below one child of each root; whether there are further children.
    pub fn settle_below(&mut self, child: usize, effects: &mut Effects) -> bool {
        let system = self.system.iter_mut().map(|link| (link, Generation(0)));
        let datasets = self.datasets.iter_mut();
        let datasets = datasets.map(|held| (&mut held.link, held.shared));
        let mut more = false;
        for (link, shared) in system.chain(datasets) {
            effects.shared = shared;
            more |= tree::settle(link, child, effects);
        }
        more
    }
}
