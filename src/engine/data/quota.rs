//! What a dataset uses, may use, and is kept for it.
//!
//! A dataset uses the bytes of its extents, and those of its unwritten bytes that stand in none
//! yet. They count from the moment at which memory takes them, so that a write is refused before it
//! is acknowledged, and writing out, which only puts extents where bytes were counted, never is.
//! Which unwritten bytes stand in no extent is noted where anybody asks: in datasets with a quota or
//! a reservation.
//!
//! The same holds of each project of the dataset that has a limit.
//!
//! Invariant: what is counted is never less than what is used: it grows before the transaction that
//! takes space, and shrinks behind the one that gives it back.

use std::collections::BTreeMap;

use super::dirty::DirtyMap;
use super::extents::each_hole;
use super::{SPARE_UNITS, UNIT, check_file};
use crate::engine::datasets::{is_there, kept_of, record_of};
use crate::engine::{EngineError, Store, Volume};
use crate::format::id::{DatasetId, Ino, Lsn};
use crate::format::record::{DatasetCounters, DatasetRecord, ProjectLimit};
use crate::log::Tx;
use crate::store::{Read, StoreError};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Kept above a reservation until it is used up: runs begin and end within units, and whoever
/// writes wants [`SPARE_UNITS`] to be left.
const RESERVATION_SLACK_BYTES: u64 = 2 * SPARE_UNITS * UNIT;

/// What a dataset uses, and what is kept for it.
pub(in crate::engine) struct Usage {
    counts: Mutex<Counts>,
    /// Whether unwritten bytes without an extent are noted. Set with the dataset's gate closed, and
    /// never reset.
    is_exact: AtomicBool,
}

#[derive(Debug, Default)]
struct Counts {
    /// Bytes used, and on the way to it.
    used: u64,
    /// Bytes that the dataset can use in any case.
    reservation: u64,
    /// What nobody else gets because of that: part of the sum over all datasets.
    kept: u64,
    /// Projects that have a limit, or had one since the dataset is in use.
    projects: BTreeMap<u32, Project>,
}

/// What a project may have, and the bytes that it uses.
#[derive(Debug, Clone, Copy)]
struct Project {
    limit: ProjectLimit,
    used: u64,
}

/// Bytes that nobody else gets while a dataset uses `used` of its reservation.
pub(in crate::engine) fn kept_bytes(reservation: u64, used: u64) -> u64 {
    match reservation.saturating_sub(used) {
        0 => 0,
        left => left.saturating_add(RESERVATION_SLACK_BYTES),
    }
}

impl Usage {
    /// That of a dataset with nothing unwritten. `projects`: limits and bytes of those with limits.
    pub(in crate::engine) fn new(
        record: &DatasetRecord,
        counters: &DatasetCounters,
        projects: impl IntoIterator<Item = (u32, ProjectLimit, u64)>,
    ) -> Self {
        let project = |(id, limit, used)| (id, Project { limit, used });
        let projects: BTreeMap<_, _> = projects.into_iter().map(project).collect();
        let is_exact =
            record.quota_bytes != 0 || record.reserved_bytes != 0 || !projects.is_empty();
        let counts = Counts {
            used: counters.allocated_bytes,
            reservation: record.reserved_bytes,
            kept: kept_bytes(record.reserved_bytes, counters.allocated_bytes),
            projects,
        };
        Usage {
            counts: Mutex::new(counts),
            is_exact: AtomicBool::new(is_exact),
        }
    }

    /// Bytes used.
    pub(in crate::engine) fn used_bytes(&self) -> u64 {
        self.counts.lock().used
    }

    /// Bytes that nobody else gets.
    pub(in crate::engine) fn kept_bytes(&self) -> u64 {
        self.counts.lock().kept
    }

    pub(super) fn is_exact(&self) -> bool {
        self.is_exact.load(Ordering::Acquire)
    }

    /// Changes the reservation; what it was, and by how much more is kept.
    pub(in crate::engine) fn reserve(&self, bytes: u64, sum: &AtomicU64) -> (u64, u64) {
        let mut counts = self.counts.lock();
        let (was, kept) = (counts.reservation, counts.kept);
        counts.reservation = bytes;
        counts.keep(sum);
        (was, counts.kept.saturating_sub(kept))
    }

    fn grow(&self, bytes: u64, sum: &AtomicU64) {
        let mut counts = self.counts.lock();
        counts.used = counts.used.saturating_add(bytes);
        counts.keep(sum);
    }

    fn shrink(&self, bytes: u64, sum: &AtomicU64) {
        let mut counts = self.counts.lock();
        counts.used = counts.used.saturating_sub(bytes);
        counts.keep(sum);
    }

    /// Grows, unless that takes it above a limit that is not 0, or the project above its own. What
    /// takes nothing fits any limit. Whether it is counted in the project too.
    fn try_grow(
        &self,
        bytes: u64,
        limit: u64,
        project: u32,
        sum: &AtomicU64,
    ) -> Result<bool, EngineError> {
        let mut counts = self.counts.lock();
        let used = counts.used.saturating_add(bytes);
        if limit != 0 && bytes > 0 && used > limit {
            return Err(EngineError::Quota);
        }
        let in_project = counts.try_grow_project(project, bytes)?;
        counts.used = used;
        counts.keep(sum);
        Ok(in_project)
    }

    /// What a project may have.
    pub(in crate::engine) fn project_limit(&self, project: u32) -> ProjectLimit {
        let counts = self.counts.lock();
        let found = counts.projects.get(&project);
        found.map_or_else(ProjectLimit::default, |project| project.limit)
    }

    /// Bytes that a project uses; `None` where that is not counted here.
    pub(in crate::engine) fn project_bytes(&self, project: u32) -> Option<u64> {
        let counts = self.counts.lock();
        counts.projects.get(&project).map(|project| project.used)
    }

    /// Changes what a project may have; what it was. To be called with the dataset's gate closed and
    /// nothing unwritten: the project uses `used` bytes, if it was not counted here before.
    pub(in crate::engine) fn limit_project(
        &self,
        project: u32,
        limit: ProjectLimit,
        used: u64,
    ) -> ProjectLimit {
        self.is_exact.store(true, Ordering::Release);
        let mut counts = self.counts.lock();
        let new = Project {
            limit: ProjectLimit::default(),
            used,
        };
        let entry = counts.projects.entry(project).or_insert(new);
        std::mem::replace(&mut entry.limit, limit)
    }

    /// Counts bytes in a project, unless that takes it above its limit.
    pub(in crate::engine) fn try_grow_project(
        &self,
        project: u32,
        bytes: u64,
    ) -> Result<(), EngineError> {
        self.counts
            .lock()
            .try_grow_project(project, bytes)
            .map(drop)
    }

    /// Counts bytes in a project, whatever its limit is.
    pub(in crate::engine) fn grow_project(&self, project: u32, bytes: u64) {
        if let Some(project) = self.counts.lock().projects.get_mut(&project) {
            project.used = project.used.saturating_add(bytes);
        }
    }

    /// Counts bytes less in a project.
    pub(in crate::engine) fn shrink_project(&self, project: u32, bytes: u64) {
        if let Some(project) = self.counts.lock().projects.get_mut(&project) {
            project.used = project.used.saturating_sub(bytes);
        }
    }
}

impl Counts {
    /// Counts bytes in a project, if they are counted at all and fit: whether they are.
    fn try_grow_project(&mut self, project: u32, bytes: u64) -> Result<bool, EngineError> {
        let Some(Project { limit, used }) = self.projects.get_mut(&project) else {
            return Ok(false);
        };
        let more = used.saturating_add(bytes);
        if limit.bytes != 0 && bytes > 0 && more > limit.bytes {
            return Err(EngineError::Quota);
        }
        *used = more;
        Ok(true)
    }

    /// Keeps what is left of the reservation, and the sum over all datasets with it.
    fn keep(&mut self, sum: &AtomicU64) {
        let kept = kept_bytes(self.reservation, self.used);
        if kept != self.kept {
            sum.fetch_add(kept, Ordering::SeqCst);
            sum.fetch_sub(self.kept, Ordering::SeqCst);
            self.kept = kept;
        }
    }
}

/// Bytes counted for a change that is not committed yet; no longer when it is dropped.
pub(super) struct Charge<'a> {
    volume: &'a Volume,
    bytes: u64,
    /// The project in which they are counted too.
    project: Option<u32>,
}

impl Charge<'_> {
    /// What was charged for is done.
    pub(super) fn settle(mut self) {
        self.bytes = 0;
    }

    /// Takes over as much of `bytes` as it has; what is left of them. They are counted in its
    /// project still.
    fn take(&mut self, bytes: u64) -> u64 {
        let taken = self.bytes.min(bytes);
        self.bytes -= taken;
        bytes - taken
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let usage = &self.volume.dataset.usage;
            usage.shrink(self.bytes, &self.volume.store.data.kept_bytes);
            if let Some(project) = self.project {
                usage.shrink_project(project, self.bytes);
            }
        }
    }
}

/// Parts of a file that a write gives bytes, and that have no space yet.
#[derive(Debug, Default)]
pub(super) struct Growth {
    pub(super) holes: Vec<(u64, u64)>,
    pub(super) bytes: u64,
}

impl Volume {
    /// Counts `bytes` more, if the quotas of the dataset and of the file's project have room for them.
    ///
    /// # Errors
    /// `Quota`.
    pub(super) fn charge(
        &self,
        read: &impl Read,
        project: u32,
        bytes: u64,
    ) -> Result<Charge<'_>, EngineError> {
        let mut charge = Charge {
            volume: self,
            bytes: 0,
            project: None,
        };
        if bytes > 0 {
            let limit = self.quota(read)?.bytes;
            let (usage, sum) = (&self.dataset.usage, &self.store.data.kept_bytes);
            let in_project = usage.try_grow(bytes, limit, project, sum)?;
            charge.project = in_project.then_some(project);
            charge.bytes = bytes;
        }
        Ok(charge)
    }

    /// What a write of `start..end` takes, by a transaction that has the file's unwritten data
    /// locked; nothing where it is not noted.
    pub(super) fn growth(
        &self,
        tx: &Tx<'_>,
        ino: Ino,
        data: &DirtyMap,
        (start, end): (u64, u64),
    ) -> Result<Growth, EngineError> {
        let mut growth = Growth::default();
        if self.dataset.usage.is_exact() {
            each_hole(tx, self.tree(), ino, (start, end), &mut |from, until| {
                let counted = data.unallocated_in(from, until);
                growth.bytes += (until - from).saturating_sub(counted);
                growth.holes.push((from, until));
            })?;
        }
        Ok(growth)
    }

    /// Counts what reserving space for `start..end` takes, where there is a limit to it. To be
    /// called with the file's `io` held, so that its extents stay.
    pub(super) fn charge_range(
        &self,
        ino: Ino,
        data: &DirtyMap,
        (start, end): (u64, u64),
    ) -> Result<Charge<'_>, EngineError> {
        let view = self.store.journal.view();
        let mut bytes = 0u64;
        let record = self.load_inode(&view, ino)?;
        let project = record.projid;
        let is_limited = self.dataset.usage.project_limit(project).bytes != 0;
        if is_limited || self.quota(&view)?.bytes != 0 {
            check_file(&record)?;
            each_hole(&view, self.tree(), ino, (start, end), &mut |from, until| {
                bytes = bytes.saturating_add(until - from);
            })?;
            bytes = bytes.saturating_sub(data.unallocated_in(start, end));
        }
        self.charge(&view, project, bytes)
    }

    /// Commits a transaction that changes extents of a file of `project`, with what the counters are
    /// then. Of the file's unwritten bytes without an extent, `released` are gone or have one then;
    /// `charge` is what was counted for it already.
    pub(super) fn commit_counted(
        &self,
        mut tx: Tx<'_>,
        (counters, project): (&DatasetCounters, u32),
        released: u64,
        charge: Option<&mut Charge<'_>>,
    ) -> Result<Lsn, EngineError> {
        let before = self.load_counters(&tx)?;
        let (usage, sum) = (&self.dataset.usage, &self.store.data.kept_bytes);
        let less = before.allocated_bytes.saturating_add(released);
        let more = counters.allocated_bytes.saturating_sub(less);
        let less = less.saturating_sub(counters.allocated_bytes);
        if *counters != before {
            self.store_counters(&mut tx, counters)?;
        }
        let charged_to = charge.as_ref().and_then(|charge| charge.project);
        let grown = charge.map_or(more, |charge| charge.take(more));
        usage.grow(grown, sum);
        // The file may belong to another project than when it was charged for.
        let taken = more - grown;
        let of_project = match charged_to == Some(project) {
            true => grown,
            false => more,
        };
        usage.grow_project(project, of_project);
        let done = tx.commit();
        let gone = match done {
            Ok(_) => less,
            Err(_) => more,
        };
        usage.shrink(gone, sum);
        usage.shrink_project(project, gone);
        if let Some(other) = charged_to.filter(|other| *other != project) {
            usage.shrink_project(other, taken);
        }
        Ok(done?)
    }

    /// Begins to note which unwritten bytes stand in no extent, those that there are included. A
    /// file of which that cannot be read cannot be written out either: its bytes do not count.
    pub(in crate::engine) fn count_exactly(&self) {
        let _gate = self.dataset.gate.write();
        let usage = &self.dataset.usage;
        usage.is_exact.store(true, Ordering::Release);
        for (ino, state) in self.dataset.inodes.filter(|data| !data.is_empty()) {
            let mut data = state.data.write();
            let counted = self.holes_under(ino, &data);
            match counted {
                Ok(holes) => {
                    let before = data.unallocated_bytes();
                    self.change_dirty(&mut data, |map| map.note_unallocated(&holes));
                    let more = data.unallocated_bytes() - before;
                    usage.grow(more, &self.store.data.kept_bytes);
                    let view = self.store.journal.view();
                    if let Ok(record) = self.load_inode(&view, ino) {
                        usage.grow_project(record.projid, more);
                    }
                }
                Err(error) => {
                    ::log::warn!("the unwritten bytes of inode {ino} do not count: {error}");
                }
            }
        }
    }

    /// The same of a dataset that was noted to need it when it was opened.
    pub(in crate::engine) fn count_recovered(&self) {
        if self.dataset.usage.is_exact() {
            self.count_exactly();
        }
    }

    fn holes_under(&self, ino: Ino, data: &DirtyMap) -> Result<Vec<(u64, u64)>, StoreError> {
        let view = self.store.journal.view();
        let mut holes = Vec::new();
        for (start, run) in data.runs() {
            let end = start.saturating_add(run.data.len() as u64);
            each_hole(&view, self.tree(), ino, (start, end), &mut |from, until| {
                holes.push((from, until));
            })?;
        }
        Ok(holes)
    }

    /// Bytes that the store keeps for other datasets. To be called with the datasets in use not
    /// locked.
    pub(super) fn kept_for_others(&self) -> Result<u64, EngineError> {
        let all = self.store.data.kept_bytes.load(Ordering::SeqCst);
        if all == 0 {
            return Ok(0);
        }
        let own = match self.dataset.received_for {
            Some(target) => self.store.kept_for(target)?,
            None => self.dataset.usage.kept_bytes(),
        };
        Ok(all.saturating_sub(own))
    }
}

impl Store {
    /// Bytes that are kept for a dataset; none for one that is deleted.
    fn kept_for(&self, id: DatasetId) -> Result<u64, EngineError> {
        // What is changed in the table is the same in the trees by then.
        let datasets = self.datasets.read();
        if let Some(dataset) = datasets.get(&id) {
            return Ok(dataset.usage.kept_bytes());
        }
        let view = self.journal.view();
        match is_there(&view, id)? {
            true => Ok(kept_of(&view, id, &record_of(&view, id)?)?),
            false => Ok(0),
        }
    }
}
