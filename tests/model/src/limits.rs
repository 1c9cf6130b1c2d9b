//! The quota of `main`, or of a project that all of it belongs to: who may be refused, and that
//! nobody gets more.

use std::sync::Arc;

use razorfs::engine::{EngineError, ProjectInfo, Settings, Store};
use razorfs::format::id::Ino;
use razorfs::format::record::{ProjectLimit, ProjectUse};

use crate::ensure;
use crate::ops::Op;
use crate::world::{Outcome, Setup, World};

/// Where `blocks` of an inode are of 512 bytes each.
const BLOCK_BYTES: u64 = 512;

/// What main may use; 0 for no limit.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    pub bytes: u64,
    pub inodes: u64,
    /// They are those of a project to which the root directory belongs, and all below it.
    pub of_project: bool,
}

const PROJECT: u32 = 5;

/// What an operation takes, at most.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    bytes: u64,
    inode: bool,
}

impl Wanted {
    pub fn by(op: &Op) -> Wanted {
        match *op {
            Op::Write { len, .. } => Wanted {
                bytes: len.into(),
                inode: false,
            },
            Op::Fallocate { len, .. } | Op::Copy { len, .. } => Wanted {
                bytes: len,
                inode: false,
            },
            Op::Create { .. }
            | Op::Symlink { .. }
            | Op::Tmpfile { .. }
            | Op::ManyNames { .. }
            | Op::BadName { .. } => Wanted {
                bytes: 0,
                inode: true,
            },
            _ => Wanted::default(),
        }
    }
}

impl Setup {
    /// Sets the limits of a store that is about to be used.
    pub fn limit(&self, store: &Arc<Store>) -> Outcome {
        if self.limits.of_project {
            return self.limit_project(store);
        }
        let settings = Settings {
            quota_bytes: Some(self.limits.bytes),
            quota_inodes: Some(self.limits.inodes),
            ..Settings::default()
        };
        let done = store.change_settings("main", settings);
        done.map_err(|error| format!("setting limits: {error}"))
    }

    fn limit_project(&self, store: &Arc<Store>) -> Outcome {
        let limit = ProjectLimit {
            bytes: self.limits.bytes,
            inodes: self.limits.inodes,
        };
        let done = store.limit_project("main", PROJECT, limit);
        done.map_err(|error| format!("limiting a project: {error}"))?;
        let main = store.main().map_err(|error| error.to_string())?;
        let given = main.assign_project(Ino::ROOT, PROJECT, &mut || true);
        given.map_err(|error| format!("giving the root to a project: {error}"))?;
        Ok(())
    }

    /// Whether the project of all of `main` has no more than it may, and all there is.
    fn check_project(&self, store: &Arc<Store>) -> Outcome {
        let Limits { bytes, inodes, .. } = self.limits;
        let main = store.main().map_err(|error| error.to_string())?;
        let projects = main.projects().map_err(|error| error.to_string())?;
        let info = store.find("main").map_err(|error| error.to_string())?;
        let all = ProjectInfo {
            id: PROJECT,
            used: ProjectUse {
                inodes: info.inodes,
                bytes: info.allocated_bytes,
            },
            limit: ProjectLimit { bytes, inodes },
        };
        ensure!(projects == [all], "{projects:?}, not {all:?}");
        ensure!(
            bytes == 0 || all.used.bytes <= bytes,
            "more bytes than the limit: {all:?}"
        );
        ensure!(
            inodes == 0 || all.used.inodes <= inodes,
            "more inodes than the limit: {all:?}"
        );
        Ok(())
    }

    /// Whether a store holds no more than it may.
    pub fn check_limits(&self, store: &Arc<Store>) -> Outcome {
        if self.limits.of_project {
            return self.check_project(store);
        }
        let Limits { bytes, inodes, .. } = self.limits;
        for info in store.list().map_err(|error| format!("listing: {error}"))? {
            if info.name != "main" {
                let limits = (info.quota_bytes, info.quota_inodes);
                ensure!(limits == (0, 0), "{} has limits", info.name);
                continue;
            }
            let limits = (info.quota_bytes, info.quota_inodes);
            ensure!(limits == (bytes, inodes), "main has other limits: {info:?}");
            ensure!(
                bytes == 0 || info.allocated_bytes <= bytes,
                "more bytes than the quota: {info:?}"
            );
            ensure!(
                inodes == 0 || info.inodes <= inodes,
                "more inodes than the quota: {info:?}"
            );
        }
        Ok(())
    }
}

impl World {
    /// Whether the quota may refuse what is being done. Of inodes that is known; of bytes it is
    /// only when less is used than all that stands in extents and all that is unwritten, which may
    /// be the same bytes.
    pub fn may_refuse(&self) -> Result<bool, EngineError> {
        let Limits {
            bytes,
            inodes,
            of_project,
        } = self.setup.limits;
        // Clones have projects, and their limits, too.
        if self.model.dataset.0 != 0 && !of_project {
            return Ok(false);
        }
        if inodes != 0 && self.wanted.inode && self.model.nodes.len() as u64 >= inodes {
            return Ok(true);
        }
        if bytes == 0 || self.wanted.bytes == 0 {
            return Ok(false);
        }
        let mut most = self.wanted.bytes;
        for ino in self.model.nodes.keys() {
            most += self.volume.getattr(*ino)?.blocks * BLOCK_BYTES;
        }
        Ok(most > bytes)
    }

    /// Whether the quota has no room for another inode.
    pub fn is_out_of_inodes(&self) -> bool {
        let limit = self.setup.limits.inodes;
        self.model.dataset.0 == 0 && limit != 0 && self.model.nodes.len() as u64 >= limit
    }
}
