//! How a volume is opened.

use std::time::Duration;

use super::CompactOptions;
use crate::progress::Progress;

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
    /// them ([`super::Store::commit_tick`], [`super::Store::checkpoint`]), as deterministic tests must.
    pub background: bool,
    /// How long after a scrub the next one begins; `None` for never.
    pub scrub_interval: Option<Duration>,
    /// Bytes that a scrub reads in a second, at most; 0 for as many as the disk gives.
    pub scrub_bytes_per_sec: u64,
    /// How often free space that has stayed free since the last time goes back to the disk below;
    /// `None` for never.
    pub trim_interval: Option<Duration>,
    /// When chunks are moved so that what is free in short pieces can go back too; `None` for never.
    pub compact: Option<CompactOptions>,
    /// Leave what has no name but may still be open, until [`super::Store::free_orphans_but`] is
    /// told what is: a guest goes on that another process served.
    pub keep_orphans: bool,
    /// Go on past damage in the acknowledged part of the log, losing what lies behind it.
    pub discard_damaged_log: bool,
    /// How far opening is.
    pub progress: Progress,
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
            scrub_interval: None,
            scrub_bytes_per_sec: 16 << 20,
            trim_interval: Some(Duration::from_secs(60)),
            compact: Some(CompactOptions::default()),
            keep_orphans: false,
            discard_damaged_log: false,
            progress: Progress::default(),
        }
    }
}
