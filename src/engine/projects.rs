//! Projects: what a directory tree may use.
//!
//! An inode belongs to the project that its record says; 0 is none. What is made in a directory with
//! `PROJINHERIT` belongs to the directory's project, and what belongs to another is neither moved nor
//! linked there. What the inodes of a project have together stands in a record of the project, in the
//! dataset's tree, and so do its limits: snapshots, clones and streams have them too.
//!
//! Counting begins when somebody asks for it. Then all inodes are gone through by number, some in
//! each transaction, up to a number that is in the tree too.
//!
//! Invariant: an inode below that number is counted in its project's record by the transaction that
//! changes it, and no other inode is.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::datasets::{DatasetError, found};
use super::error::check_goes_on;
use super::flags::FLAG_PROJINHERIT;
use super::inode::InodeExt;
use super::{EngineError, Store, Volume};
use crate::format::id::Ino;
use crate::format::key::{self, Kind, TreeId, trailing_u32};
use crate::format::record::{InodeRecord, ProjectLimit, ProjectUse};
use crate::format::superblock::RO_COMPAT_PROJECTS;
use crate::log::Tx;
use crate::store::pages::Need;
use crate::store::{Read, StoreError};
use crate::sync::atomic::{AtomicU64, Ordering};

/// Inodes that are counted in one transaction, at most. Few in tests, so that it takes several.
const STEP_INODES: usize = if cfg!(test) { 3 } else { 256 };
/// All inodes are counted.
const ALL: u64 = u64::MAX;

/// A project of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProjectInfo {
    /// Its number, not 0.
    pub id: u32,
    /// What its inodes have.
    pub used: ProjectUse,
    /// What they may have.
    pub limit: ProjectLimit,
}

/// How far the inodes of a dataset in use are counted.
#[derive(Debug)]
pub(super) struct Counted {
    /// Those below this number are.
    below: AtomicU64,
}

impl Counted {
    /// As it stands in a dataset's tree.
    pub(super) fn load(read: &impl Read, tree: TreeId) -> Result<Self, StoreError> {
        let below = counted_below(read, tree)?;
        Ok(Counted {
            below: AtomicU64::new(below),
        })
    }

    fn has(&self, ino: Ino) -> bool {
        ino.0 < self.below.load(Ordering::Acquire)
    }
}

/// The number below which inodes are counted; 0 where nobody asked for it.
pub(super) fn counted_below(read: &impl Read, tree: TreeId) -> Result<u64, StoreError> {
    Ok(read.get_u64(tree, &key::projects_counted())?.unwrap_or(0))
}

/// Limits of the projects of a dataset.
pub(super) fn limits_of(
    read: &impl Read,
    tree: TreeId,
) -> Result<BTreeMap<u32, ProjectLimit>, StoreError> {
    records(read, tree, Kind::ProjectLimit, ProjectLimit::decode)
}

/// What the projects of a dataset use.
fn uses_of(read: &impl Read, tree: TreeId) -> Result<BTreeMap<u32, ProjectUse>, StoreError> {
    records(read, tree, Kind::ProjectUse, ProjectUse::decode)
}

fn records<T>(
    read: &impl Read,
    tree: TreeId,
    kind: Kind,
    decode: impl Fn(&[u8]) -> Result<T, crate::format::FormatError>,
) -> Result<BTreeMap<u32, T>, StoreError> {
    let (start, end) = key::kind_range(Ino(0), kind);
    let mut found = BTreeMap::new();
    let mut wrong = None;
    read.scan(tree, &start, &end, &mut |key, value| {
        let record = trailing_u32(key).and_then(|id| Ok((id, decode(value)?)));
        match record {
            Ok((id, record)) => {
                found.insert(id, record);
                ControlFlow::Continue(())
            }
            Err(error) => {
                wrong = Some(StoreError::format("project", error));
                ControlFlow::Break(())
            }
        }
    })?;
    wrong.map_or(Ok(found), Err)
}

/// What a project uses, by its record.
pub(super) fn use_of(
    read: &impl Read,
    tree: TreeId,
    project: u32,
) -> Result<ProjectUse, StoreError> {
    let found = read.get_with(tree, &key::project_use(project), ProjectUse::decode)?;
    found
        .unwrap_or_else(|| Ok(ProjectUse::default()))
        .map_err(|error| StoreError::format(format!("project {project}"), error))
}

fn put_use(
    tx: &mut Tx<'_>,
    tree: TreeId,
    project: u32,
    used: ProjectUse,
) -> Result<(), StoreError> {
    let key = key::project_use(project);
    if used == ProjectUse::default() {
        tx.delete(tree, key)?;
        return Ok(());
    }
    tx.put(tree, key, used.encode())
}

/// Sets a project's limits.
pub(super) fn put_limit(
    tx: &mut Tx<'_>,
    tree: TreeId,
    project: u32,
    limit: ProjectLimit,
) -> Result<(), StoreError> {
    let key = key::project_limit(project);
    if limit == ProjectLimit::default() {
        tx.delete(tree, key)?;
        return Ok(());
    }
    tx.put(tree, key, limit.encode())
}

impl Volume {
    /// Counts what a transaction is about to make of an inode, `None` when it goes. To be called
    /// before the record changes; a new inode of a project is refused at its limit.
    pub(super) fn count_inode(
        &self,
        tx: &mut Tx<'_>,
        ino: Ino,
        record: Option<&InodeRecord>,
    ) -> Result<(), EngineError> {
        if !self.dataset.counted.has(ino) {
            return Ok(());
        }
        let counts = |record: &InodeRecord| (record.projid, record.allocated);
        let before = match self.load_inode(tx, ino) {
            Ok(record) => Some(counts(&record)),
            Err(EngineError::Stale) => None,
            Err(error) => return Err(error),
        };
        let after = record.map(counts);
        if before == after {
            return Ok(());
        }
        let tree = self.tree();
        if let Some((project, bytes)) = before.filter(|(project, _)| *project != 0) {
            let mut used = use_of(tx, tree, project)?;
            used.inodes = used.inodes.saturating_sub(1);
            used.bytes = used.bytes.saturating_sub(bytes);
            put_use(tx, tree, project, used)?;
        }
        if let Some((project, bytes)) = after.filter(|(project, _)| *project != 0) {
            let mut used = use_of(tx, tree, project)?;
            if before.is_none() {
                let limit = self.dataset.usage.project_limit(project).inodes;
                if limit != 0 && used.inodes >= limit {
                    return Err(EngineError::Quota);
                }
            }
            used.inodes = used.inodes.saturating_add(1);
            used.bytes = used.bytes.saturating_add(bytes);
            put_use(tx, tree, project, used)?;
        }
        Ok(())
    }

    /// Begins to count what projects use, or goes on until all inodes are counted. Durable on return.
    /// `go_on` is asked for each step.
    ///
    /// # Errors
    /// When the store refuses; [`EngineError::Interrupted`]: it goes on where it was when it is
    /// called again.
    pub fn count_projects(&self, go_on: &mut dyn FnMut() -> bool) -> Result<(), EngineError> {
        if self.dataset.counted.below.load(Ordering::Acquire) == ALL {
            return Ok(());
        }
        // Programs that do not count must not write from here on, whatever of the log is left.
        if self.store.journal.add_ro_compat(RO_COMPAT_PROJECTS) {
            self.store.checkpoint()?;
        }
        while !self.count_some()? {
            check_goes_on(go_on)?;
        }
        let journal = &self.store.journal;
        Ok(journal.sync(journal.end_lsn())?)
    }

    /// A transaction's share of it; whether that was the last.
    fn count_some(&self) -> Result<bool, EngineError> {
        let mut tx = self.begin_tx(Need::Space)?;
        let tree = self.tree();
        let before = counted_below(&tx, tree)?;
        let mut next = before.max(Ino::ROOT.0);
        let mut uses: BTreeMap<u32, ProjectUse> = BTreeMap::new();
        for _ in 0..STEP_INODES {
            let found = tx.first(tree, &key::inode(Ino(next)), &[0xff; 9])?;
            let Some(ino) = found.and_then(|(key, _)| key.first_chunk().copied()) else {
                next = ALL;
                break;
            };
            let ino = Ino(u64::from_be_bytes(ino));
            let record = self.load_inode(&tx, ino)?;
            if record.projid != 0 {
                let used = uses.entry(record.projid).or_default();
                used.inodes = used.inodes.saturating_add(1);
                used.bytes = used.bytes.saturating_add(record.allocated);
            }
            next = ino.0.saturating_add(1);
        }
        for (project, more) in uses {
            let mut used = use_of(&tx, tree, project)?;
            used.inodes = used.inodes.saturating_add(more.inodes);
            used.bytes = used.bytes.saturating_add(more.bytes);
            put_use(&mut tx, tree, project, used)?;
        }
        tx.put(tree, key::projects_counted(), next.to_le_bytes())?;
        // While the writer is held: the next transaction counts by it.
        let below = &self.dataset.counted.below;
        below.store(next, Ordering::Release);
        if let Err(error) = tx.commit() {
            below.store(before, Ordering::Release);
            return Err(error.into());
        }
        Ok(next == ALL)
    }

    /// Gives an inode to a project, whatever the project's limits are; a directory passes it on from
    /// then on. Durable after sync.
    ///
    /// # Errors
    /// [`EngineError::Stale`] when the inode is not there; when the store refuses.
    fn assign(&self, ino: Ino, project: u32) -> Result<(), EngineError> {
        self.change_project(ino, false, |record| {
            record.projid = project;
            if record.is_dir() && project != 0 {
                record.flags |= FLAG_PROJINHERIT;
            } else if record.is_dir() {
                record.flags &= !FLAG_PROJINHERIT;
            }
            Ok(())
        })
    }

    /// Gives a directory and all that is below it to a project, or a file; 0 takes it from any. Each
    /// in a transaction of its own, directories before what is in them, so that what is made there
    /// meanwhile belongs to it. How many inodes; `go_on` is asked for each. What is over the
    /// project's limits then only cannot grow.
    ///
    /// # Errors
    /// As [`Volume::lookup`]; when the store refuses; [`EngineError::Interrupted`]. What was done by
    /// then stays: who asks again has it done to the end.
    pub fn assign_project(
        &self,
        ino: Ino,
        project: u32,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<u64, EngineError> {
        self.check_writable()?;
        self.count_projects(go_on)?;
        let mut done = 0u64;
        let mut pending = vec![ino];
        while let Some(ino) = pending.pop() {
            check_goes_on(go_on)?;
            match self.assign(ino, project) {
                Ok(()) => done = done.saturating_add(1),
                // It was removed meanwhile.
                Err(EngineError::Stale) => continue,
                Err(error) => return Err(error),
            }
            let record = match self.load_inode(&self.store.journal.view(), ino) {
                Ok(record) if record.is_dir() => record,
                _ => continue,
            };
            if record.entries > 0 {
                self.readdir(ino, 2, &mut |entry| {
                    pending.push(entry.ino);
                    true
                })?;
            }
        }
        let journal = &self.store.journal;
        journal.sync(journal.end_lsn())?;
        Ok(done)
    }

    /// The projects of the dataset that have inodes or limits, by number.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn projects(&self) -> Result<Vec<ProjectInfo>, EngineError> {
        let view = self.store.journal.view();
        let (uses, limits) = (uses_of(&view, self.tree())?, limits_of(&view, self.tree())?);
        let mut all: BTreeMap<u32, ProjectInfo> = BTreeMap::new();
        let entry = |all: &mut BTreeMap<u32, ProjectInfo>, id: u32| {
            *all.entry(id).or_insert(ProjectInfo {
                id,
                ..ProjectInfo::default()
            })
        };
        for (id, used) in uses {
            let info = entry(&mut all, id);
            all.insert(id, ProjectInfo { used, ..info });
        }
        for (id, limit) in limits {
            let info = entry(&mut all, id);
            all.insert(id, ProjectInfo { limit, ..info });
        }
        Ok(all.into_values().collect())
    }
}

impl Store {
    /// Sets what a project of a dataset may have, from now on. Durable on return. What it has
    /// already stays.
    ///
    /// # Errors
    /// When there is no such dataset, or it is a snapshot; when a file's bytes cannot be written
    /// out; when the store refuses.
    pub fn limit_project(
        self: &Arc<Self>,
        dataset: &str,
        project: u32,
        limit: ProjectLimit,
    ) -> Result<(), DatasetError> {
        let refused = |reason| {
            let name = dataset.to_owned();
            Err(DatasetError::Refused { name, reason })
        };
        if project == 0 {
            return refused("0 is no project: what has no project has no limit");
        }
        let (_, record) = found(&self.journal.view(), dataset)?;
        if record.snapshot_of.0 != 0 {
            return refused("nothing is written to a snapshot");
        }
        let volume = self.volume(dataset)?;
        volume.count_projects(&mut || true)?;
        // What memory holds of files would have to be counted by their projects: so it holds nothing.
        self.with_all_written(dataset, |id| {
            if id != volume.dataset.id {
                return Err(DatasetError::NotFound(dataset.to_owned()));
            }
            let mut tx = self.begin_tx(Need::Space)?;
            let tree = volume.tree();
            put_limit(&mut tx, tree, project, limit)?;
            let used = use_of(&tx, tree, project)?.bytes;
            let usage = &volume.dataset.usage;
            let before = usage.limit_project(project, limit, used);
            self.end(tx).inspect_err(|_| {
                usage.limit_project(project, before, used);
            })
        })
    }
}

#[cfg(test)]
impl Volume {
    /// One transaction of counting.
    pub(super) fn count_some_for_tests(&self) -> Result<bool, EngineError> {
        self.count_some()
    }
}
