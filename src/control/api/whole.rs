//! The store as a whole, and the daemon.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// That a daemon serves a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`, or `read-only` when changes are refused: as opened, or since a write failed.
    pub status: String,
    /// The program's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
}

/// Numbers of an open store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// The store's UUID.
    #[schema(format = "uuid")]
    pub uuid: String,
    /// The version of its format.
    pub format_version: u32,
    /// When it was made (RFC 3339).
    #[schema(format = DateTime)]
    pub created_at: String,
    /// Whether changes are possible.
    pub is_writable: bool,
    /// The number of the newest checkpoint.
    pub generation: u64,
    /// Datasets, without snapshots.
    pub dataset_count: u64,
    /// Snapshots.
    pub snapshot_count: u64,
    /// Bytes of content that it may hold; 0 for as many as the disk gives.
    pub capacity_bytes: u64,
    /// Bytes of content that can still be written.
    pub free_bytes: u64,
    /// Bytes of content in memory that are not on their way to chunks.dat yet.
    pub unwritten_bytes: u64,
    /// The length of chunks.dat.
    pub chunks_file_bytes: u64,
    /// Bytes of nodes.dat that trees used at the newest checkpoint.
    pub metadata_bytes: u64,
    /// Bytes of strings.dat at the newest checkpoint, holes included.
    pub names_bytes: u64,
    /// Bytes of them that went back to the disk below: of names that nobody uses any more.
    #[serde(default)]
    pub names_punched_bytes: u64,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// The file system of the host that the store lies on; `null` where that does not say.
    #[serde(default)]
    pub file_system: Option<HostFileSystem>,
    /// What opening the store found.
    pub opening: Opening,
}

/// What a store lies on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostFileSystem {
    /// Its kind, as `ext4`, or the magic number of statfs(2) in hexadecimal digits.
    pub kind: String,
    /// It lies in memory: nothing on it survives this machine.
    pub is_volatile: bool,
    /// Bytes that are free on it.
    pub free_bytes: u64,
    /// Bytes that it has.
    pub size_bytes: u64,
}

/// What opening a store found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Opening {
    /// Whether it had been closed.
    pub was_closed: bool,
    /// When its superblock had been written last before that (RFC 3339): by closing it, or else by the
    /// newest checkpoint; `null` where the host's file system does not tell.
    #[serde(default)]
    #[schema(format = DateTime)]
    pub last_written_at: Option<String>,
    /// Transactions of the log that were applied.
    pub transactions: u64,
    /// Transactions that were dropped: the power went before they were durable.
    #[serde(default)]
    pub dropped: u64,
    /// Bytes of the batch at the log's end that was not written whole.
    #[serde(default)]
    pub torn_bytes: u64,
    /// Files without a name that were freed.
    pub orphans_freed: u64,
    /// Milliseconds that recovery took.
    #[serde(default)]
    pub took_ms: u64,
    /// What is wrong with a copy of the superblock, of which there are two.
    #[serde(default)]
    pub superblock_damage: Vec<String>,
    /// Damage in the acknowledged part of the log.
    pub damage: Option<String>,
}

/// Changes of the store itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeStore {
    /// Bytes of content that it may hold; 0 for as many as the disk gives. Not below what is used
    /// and reserved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity_bytes: Option<u64>,
}

/// What is set for the store itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoreSettings {
    /// Bytes of content that it may hold; 0 for as many as the disk gives.
    pub capacity_bytes: u64,
}

/// How to give free space back to the disk below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Trim {
    /// The shortest range that is worth it, in bytes; 64 KiB if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_bytes: Option<u64>,
}

/// What went back to the disk below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Trimmed {
    /// Bytes inside of chunks.dat.
    pub punched_bytes: u64,
    /// Pieces that they were in.
    pub pieces: u64,
    /// Bytes at its end.
    pub cut_bytes: u64,
    /// Bytes of nodes.dat: of pages of trees that were freed.
    #[serde(default)]
    pub metadata_bytes: u64,
    /// Bytes of strings.dat: of names that nobody uses any more.
    #[serde(default)]
    pub names_bytes: u64,
    /// Whether the file system below takes no space back from inside of a file.
    pub unsupported: bool,
}

/// How to make chunks.dat shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Compact {}

/// What making chunks.dat shorter did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Compacted {
    /// Chunks that were moved.
    pub moved_chunks: u64,
    /// Bytes that they take.
    pub moved_bytes: u64,
    /// Bytes by which the file got shorter.
    pub cut_bytes: u64,
    /// Chunks that could not be read, and stay where they are.
    pub damaged_chunks: u64,
}

/// How to read everything that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewScrub {
    /// Bytes to read in a second, at most; as many as the disk gives if it is 0 or not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// Begin anew, wherever an earlier one stopped.
    #[serde(default)]
    pub restart: bool,
}

/// What a scrub has done: the one under way, or the last since the daemon was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Scrub {
    /// Whether it is under way.
    pub is_running: bool,
    /// Whether everything was read.
    pub is_done: bool,
    /// Pages, chunks and names read.
    pub items: u64,
    /// Bytes read.
    pub bytes: u64,
    /// About how many there are.
    pub bytes_total: u64,
    /// What was found damaged.
    pub errors: u64,
    /// The first hundred of these; the daemon's log has all.
    pub damaged: Vec<String>,
}
