//! Opening, closing and the background work of a volume.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use parking_lot::RwLock;

use super::data::InodeTable;
use super::{Clock, EngineError};
use crate::format::id::{DatasetId, Ino};
use crate::log::Journal;

/// When an acknowledged operation is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Every acknowledged mutation.
    Strict,
    /// What fsync, fdatasync, fsync of a directory or sync returned for; the rest at most a commit
    /// interval later.
    #[default]
    Fsync,
    /// fsync does not wait for the disk: everything at most a commit interval later.
    Relaxed,
}

/// How to open a volume.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Refuse every change and write nothing to the store.
    pub read_only: bool,
    /// When an acknowledged operation is durable.
    pub durability: Durability,
    /// The longest an acknowledged mutation stays off the disk.
    pub commit_interval: Duration,
    /// Bytes of file data in memory before writers wait.
    pub dirty_limit_bytes: u64,
    /// Bytes of memory for clean tree pages and chunks.
    pub cache_bytes: u64,
    /// Accept a store on a file system that does not survive a power cut.
    pub allow_volatile: bool,
    /// Run the commit timer and checkpoints in threads of their own; without, the caller drives
    /// them ([`Volume::commit_tick`], [`Volume::checkpoint`]), as deterministic tests must.
    pub background: bool,
    /// Go on past damage in the acknowledged part of the log, losing what lies behind it.
    pub discard_damaged_log: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        OpenOptions {
            read_only: false,
            durability: Durability::Fsync,
            commit_interval: Duration::from_secs(5),
            dirty_limit_bytes: 256 << 20,
            cache_bytes: 256 << 20,
            allow_volatile: false,
            background: true,
            discard_damaged_log: false,
        }
    }
}

/// One dataset of an open store.
pub struct Volume {
    pub(super) journal: Journal,
    pub(super) dataset: DatasetId,
    pub(super) options: OpenOptions,
    pub(super) clock: Clock,
    pub(super) inodes: InodeTable,
    /// Inodes without a name: the orphan list as it is in the tree.
    pub(super) orphans: RwLock<HashSet<Ino>>,
}

impl Volume {
    /// Opens the main dataset of the store in directory `store`, recovering it first.
    ///
    /// # Errors
    /// When it is not a store, is in use, is newer than this program, or is damaged beyond trust.
    pub fn open(_store: &Path, _options: OpenOptions) -> Result<Volume, EngineError> {
        Err(EngineError::NotSupported("not yet"))
    }
}
