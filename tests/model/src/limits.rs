//! The quota of `main`: who may be refused, and that nobody gets more.

use std::sync::Arc;

use razorfs::engine::{EngineError, Settings, Store};

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
}

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
        let settings = Settings {
            quota_bytes: Some(self.limits.bytes),
            quota_inodes: Some(self.limits.inodes),
            ..Settings::default()
        };
        let done = store.change_settings("main", settings);
        done.map_err(|error| format!("setting limits: {error}"))
    }

    /// Whether a store holds no more than it may.
    pub fn check_limits(&self, store: &Store) -> Outcome {
        let Limits { bytes, inodes } = self.limits;
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
        let Limits { bytes, inodes } = self.setup.limits;
        if self.model.dataset.0 != 0 {
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
