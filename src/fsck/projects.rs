//! Projects: what their inodes have, and what is recorded of that.

use std::collections::BTreeMap;

use super::{Issue, Issues};
use crate::format::FormatError;
use crate::format::id::{DatasetId, Ino};
use crate::format::key::{self, Key, Kind};
use crate::format::record::{ProjectLimit, ProjectUse};

/// The projects of a dataset, as its records come by.
#[derive(Clone, Default)]
pub(super) struct Projects {
    /// The number below which inodes are counted, where there is one.
    below: Option<u64>,
    has_limits: bool,
    recorded: BTreeMap<u32, ProjectUse>,
    /// Of inodes below that number, and of all.
    counted: BTreeMap<u32, ProjectUse>,
    all: BTreeMap<u32, ProjectUse>,
}

fn id_of(rest: &[u8]) -> Option<u32> {
    let id = rest.try_into().ok().map(u32::from_be_bytes);
    id.filter(|id| *id != 0)
}

impl Projects {
    /// Takes a record below inode 0; `rest` is its key behind inode and kind. `None` when it is none
    /// of a project.
    pub(super) fn take(
        &mut self,
        kind: Kind,
        rest: &[u8],
        value: &[u8],
    ) -> Option<Result<(), FormatError>> {
        match kind {
            Kind::ProjectUse => {
                let id = id_of(rest)?;
                Some(ProjectUse::decode(value).map(|used| {
                    self.recorded.insert(id, used);
                }))
            }
            Kind::ProjectLimit => {
                id_of(rest)?;
                self.has_limits = true;
                Some(ProjectLimit::decode(value).map(drop))
            }
            Kind::ProjectsCounted if rest.is_empty() => {
                self.below = Some(u64::from_le_bytes(value.try_into().ok()?));
                Some(Ok(()))
            }
            _ => None,
        }
    }

    /// Counts an inode. What is below inode 0 has come by before.
    pub(super) fn count(&mut self, ino: Ino, project: u32, bytes: u64) {
        if project == 0 {
            return;
        }
        let is_counted = self.below.is_some_and(|below| ino.0 < below);
        let counted = is_counted.then_some(&mut self.counted);
        for uses in [Some(&mut self.all), counted].into_iter().flatten() {
            let used = uses.entry(project).or_default();
            used.inodes = used.inodes.saturating_add(1);
            used.bytes = used.bytes.saturating_add(bytes);
        }
    }

    /// These, with what `old` has counted in place of what `new` has. `None` where that was not
    /// counted here, or other inodes count.
    pub(super) fn replaced(&self, old: &Projects, new: &Projects) -> Option<Projects> {
        let moved =
            |mut uses: BTreeMap<u32, ProjectUse>, old: &BTreeMap<_, _>, new: &BTreeMap<_, _>| {
                for (id, gone) in old {
                    let gone: &ProjectUse = gone;
                    let used = uses.get_mut(id)?;
                    used.inodes = used.inodes.checked_sub(gone.inodes)?;
                    used.bytes = used.bytes.checked_sub(gone.bytes)?;
                }
                for (id, more) in new {
                    let more: &ProjectUse = more;
                    let used = uses.entry(*id).or_default();
                    used.inodes = used.inodes.saturating_add(more.inodes);
                    used.bytes = used.bytes.saturating_add(more.bytes);
                }
                Some(uses)
            };
        if self.below != new.below {
            return None;
        }
        Some(Projects {
            below: new.below,
            has_limits: new.has_limits,
            recorded: new.recorded.clone(),
            counted: moved(self.counted.clone(), &old.counted, &new.counted)?,
            all: moved(self.all.clone(), &old.all, &new.all)?,
        })
    }

    /// Compares what was counted with what is recorded.
    pub(super) fn check(&self, dataset: DatasetId, issues: &mut Issues<'_>) {
        let ids: std::collections::BTreeSet<_> =
            self.recorded.keys().chain(self.counted.keys()).collect();
        for project in ids {
            let of =
                |uses: &BTreeMap<u32, ProjectUse>| uses.get(project).copied().unwrap_or_default();
            let (found, recorded) = (of(&self.counted), of(&self.recorded));
            for (what, found, recorded) in [
                ("inodes", found.inodes, recorded.inodes),
                ("bytes in extents", found.bytes, recorded.bytes),
            ] {
                if found != recorded {
                    issues.add(Issue::ProjectUse {
                        dataset,
                        project: *project,
                        what,
                        found,
                        recorded,
                    });
                }
            }
        }
    }

    /// What is to be put, or to go, for all inodes to be counted, if any of this was asked for.
    pub(super) fn recounted(&self) -> Vec<(Key, Option<Vec<u8>>)> {
        if self.below.is_none() && !self.has_limits && self.recorded.is_empty() {
            return Vec::new();
        }
        let gone = self.recorded.keys().filter(|id| !self.all.contains_key(id));
        let gone = gone.map(|id| (key::project_use(*id), None));
        let all = self.all.iter();
        let all = all.map(|(id, used)| (key::project_use(*id), Some(used.encode().to_vec())));
        let counted = (
            key::projects_counted(),
            Some(u64::MAX.to_le_bytes().to_vec()),
        );
        gone.chain(all).chain([counted]).collect()
    }
}
