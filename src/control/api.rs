//! What requests and answers of the control socket are made of.
//!
//! Fields are added, never renamed, removed or given another meaning: who knows fewer goes on.
//! A request with a field that is not known is refused, since it asks for something that would not
//! be done.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A dataset or a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Dataset {
    /// Its number in the store, which no other will ever have.
    pub id: u64,
    /// Its name: of a snapshot, that of the dataset, `@`, and its own.
    pub name: String,
    /// Its UUID.
    #[schema(format = "uuid")]
    pub uuid: String,
    /// When it was made (RFC 3339).
    #[schema(format = DateTime)]
    pub created_at: String,
    /// The number of its root directory.
    pub root_inode: u64,
    /// Whether it refuses changes.
    pub is_readonly: bool,
    /// Whether it is a snapshot.
    pub is_snapshot: bool,
    /// Whether it is a snapshot that is not to be deleted.
    pub is_held: bool,
    /// The dataset that it is a snapshot of.
    pub snapshot_of: Option<String>,
    /// The snapshot or dataset that it was cloned from, if that is still there.
    pub origin: Option<String>,
    /// Inodes in it.
    pub inodes: u64,
    /// Bytes of its files that take space, shared or not.
    pub allocated_bytes: u64,
    /// How new content is compressed: `off`, `lz4`, `zstd` or `zstd:LEVEL`.
    pub compression: String,
    /// Whether equal content is stored once: `off`, `on` or `verify`.
    pub dedup: String,
    /// Bytes that its files may take; 0 for no limit.
    pub quota_bytes: u64,
    /// Inodes that it may have; 0 for no limit.
    pub quota_inodes: u64,
    /// Bytes that no other dataset gets; 0 for none.
    pub reservation_bytes: u64,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Snapshot {
    /// Its number in the store, which no other will ever have.
    pub id: u64,
    /// DATASET@SNAPSHOT
    pub name: String,
    /// Its UUID.
    #[schema(format = "uuid")]
    pub uuid: String,
    /// The dataset that it is a snapshot of.
    pub source: String,
    /// When it was taken (RFC 3339).
    #[schema(format = DateTime)]
    pub created_at: String,
    /// Always true.
    pub readonly: bool,
    /// Whether it is not to be deleted, nor its dataset, until it is released.
    pub is_held: bool,
    /// Inodes in it.
    pub inodes: u64,
    /// Bytes of its files that take space, shared or not.
    pub allocated_bytes: u64,
}

/// A dataset to be made, empty. One of that name that was not cloned, and has the settings that are
/// asked for here, is taken for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDataset {
    /// Its name: letters, digits and . _ + -
    pub name: String,
    /// Owner of its root directory: 0 if not said. Guests may change it later, so it is not
    /// compared with that of a dataset that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group of its root directory: 0 if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// `off` (if not said), `lz4`, `zstd` or `zstd:LEVEL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<String>,
    /// `off` (if not said), `on` or `verify`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedup: Option<String>,
    /// Bytes that its files may take; 0 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
    /// Inodes that it may have; 0 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_inodes: Option<u64>,
    /// Bytes that no other dataset gets; 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation_bytes: Option<u64>,
}

/// What of a dataset is to change: its name, or settings, which hold for what is written from then
/// on; not both at once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeDataset {
    /// The name that it is to have. Its snapshots go with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `off`, `lz4`, `zstd` or `zstd:LEVEL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<String>,
    /// `off`, `on` or `verify`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedup: Option<String>,
    /// Bytes that its files may take; 0 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
    /// Inodes that it may have; 0 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_inodes: Option<u64>,
    /// Bytes that no other dataset gets; 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation_bytes: Option<u64>,
}

/// A snapshot to be taken. One of that name is taken for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSnapshot {
    /// DATASET@SNAPSHOT
    pub name: String,
}

/// What of a snapshot is to change: its name, or whether it is held; not both at once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeSnapshot {
    /// The name that it is to have, of the same dataset: DATASET@SNAPSHOT
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it is to be held: then neither it nor its dataset can be deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_held: Option<bool>,
}

/// A dataset to be made that begins as what another one or a snapshot is now. A clone of that name,
/// of the same source, is taken for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewClone {
    /// DATASET or DATASET@SNAPSHOT
    pub source: String,
    /// The new dataset's name.
    pub name: String,
}

/// What of a snapshot is to be brought back, and to where.
///
/// A path begins at the root directory, has no `.` and `..`, and symlinks in it are not followed.
/// Names may have any bytes: `\xNN` is one, `\n`, `\r`, `\t`, `\'`, `\"` and `\\` are what they are in
/// the paths of differences, and everything else is itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    /// DATASET@SNAPSHOT
    pub snapshot: String,
    /// A path in the snapshot; `/`, or none, for all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The path that it is to have in the dataset; that of `source` if it is not said. The directory
    /// above it must be there. With `/` for both the dataset becomes what the snapshot is: nobody may
    /// use it then, unless `force` is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// Whether it takes the place of what has the path now; else that is refused.
    #[serde(default)]
    pub replace: bool,
    /// Whether the whole dataset is restored though it is exported. Its guests are refused everything
    /// then (ESTALE) until they mount it again, and what they have not written is lost.
    #[serde(default)]
    pub force: bool,
}

/// How to restore a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RestoreDataset {
    /// Though it is exported: its guests are refused everything then (ESTALE) until they mount it
    /// again, and what they have not written is lost.
    #[serde(default)]
    pub force: bool,
}

/// What was brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Restored {
    /// DATASET@SNAPSHOT
    pub snapshot: String,
    /// The dataset.
    pub dataset: String,
    /// The path in the snapshot.
    pub source: String,
    /// The path in the dataset.
    pub destination: String,
    /// Files, directories and the like that were made.
    pub inodes: u64,
}

/// How to receive a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReceiveSnapshot {
    /// What the snapshot is to be called, behind the `@`; as the sender calls it if not said.
    pub snapshot: Option<String>,
}

/// What was received: the dataset has it as its newest snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Received {
    /// The dataset.
    pub dataset: String,
    /// Bytes of the stream.
    pub bytes: u64,
    /// Inodes that it had something about.
    pub inodes: u64,
}

/// What was received of a snapshot before that was cut off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnfinishedReceive {
    /// The dataset that it is for.
    pub dataset: String,
    /// What the sender needs to go on with it.
    pub token: String,
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

/// How to delete a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteDataset {
    /// Delete its snapshots too.
    #[serde(default)]
    pub recursive: bool,
}

/// Which snapshots to list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListSnapshots {
    /// Those of this dataset only.
    #[serde(default)]
    pub dataset: Option<String>,
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

/// A file whose content is to be written anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// Its path in the dataset, as in `Restore`.
    pub path: String,
}

/// What was written anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rewritten {
    /// Bytes of content.
    pub bytes: u64,
}

/// From what to send a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SendSnapshot {
    /// An earlier snapshot of the same dataset, which the receiver has: only what changed is sent.
    #[serde(default)]
    pub from: Option<String>,
}

/// What to compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Compare {
    /// DATASET@SNAPSHOT or DATASET
    pub old: String,
    /// The same, of the same dataset or one that was cloned from it.
    pub new: String,
}

/// A path that is different.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// The path, the old one of what was renamed. Names may have any bytes: what is no printable
    /// ASCII is `\n`, `\xNN` or the like, and quotes and backslashes have a backslash before them.
    pub path: String,
    /// What happened to it.
    pub change: PathChange,
    /// The new path of what was renamed.
    pub to: Option<String>,
}

/// What can happen to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PathChange {
    /// It is gone.
    Removed,
    /// What it led to has another path now.
    Renamed,
    /// It is new.
    Added,
    /// Its content or its attributes changed.
    Changed,
}

/// A dataset that a guest can reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Export {
    /// The dataset's or snapshot's name now.
    pub dataset: String,
    /// Where a front-end connects: a path, or `fd:N` for a socket that the daemon was started with.
    pub socket: String,
    /// The tag that the guest mounts, if it is the daemon that says.
    pub tag: Option<String>,
    /// Whether the guest's changes are refused.
    pub is_readonly: bool,
    /// Whether others may change the dataset meanwhile, so that the guest believes what it remembers
    /// for a second only (unless the daemon was told otherwise).
    pub is_shared: bool,
    /// Whether a front-end is connected.
    pub is_connected: bool,
    /// Whether the dataset was restored while its guest was using it: the guest is refused everything
    /// until it mounts it again.
    #[serde(default)]
    pub is_stale: bool,
}

/// A dataset to be exported. What is exported on that socket in the same way is taken for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewExport {
    /// DATASET or DATASET@SNAPSHOT
    pub dataset: String,
    /// The path of the socket to be made, below the daemon's --socket-dir.
    pub socket: String,
    /// The tag that the guest mounts, for front-ends that have none of their own: that of the
    /// daemon if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Whether the guest's changes are to be refused: false if not said.
    #[serde(default)]
    pub readonly: bool,
    /// Whether others may write to the dataset later, which the guest's kernel is told: false if not
    /// said.
    #[serde(default)]
    pub shared: bool,
}

/// How to end an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteExport {
    /// Disconnect the guest that is there.
    #[serde(default)]
    pub force: bool,
}

/// From where on to tell what happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Watch {
    /// Behind the event of this number; from now on if neither this nor `Last-Event-ID` is said.
    #[serde(default)]
    pub after: Option<u64>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its number: each has a larger one than those before, also after a restart.
    pub id: u64,
    /// When (RFC 3339).
    #[schema(format = DateTime)]
    pub time: String,
    /// What.
    pub event: EventKind,
    /// The dataset or snapshot that it happened to; empty for the store.
    pub name: String,
    /// More about it: the new name, the source, the damage.
    pub detail: Option<String>,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A dataset was made; of a clone, `detail` is what it began as.
    DatasetCreated,
    /// A dataset was deleted.
    DatasetDeleted,
    /// Its name is `detail` now, and its snapshots go with it.
    DatasetRenamed,
    /// It is what its snapshot `detail` is.
    DatasetRestored,
    /// Something of one of its snapshots was brought back, to the path `detail`.
    PathRestored,
    /// A clone has the snapshots of what it was cloned from.
    DatasetPromoted,
    /// A snapshot was taken, or received.
    SnapshotCreated,
    /// A snapshot was deleted.
    SnapshotDeleted,
    /// Its name is `detail` now.
    SnapshotRenamed,
    /// A guest has mounted the dataset or snapshot.
    GuestAttached,
    /// It is gone.
    GuestDetached,
    /// The dataset was restored while a guest was using it, at the socket `detail`: it is refused
    /// everything until it mounts it again.
    GuestStale,
    /// A guest was refused something because of the dataset's quota; told once a minute.
    QuotaReached,
    /// A scrub found damage: `detail` says what.
    DamageFound,
    /// The store takes no more changes.
    StoreReadOnly,
    /// One that this program does not know.
    #[serde(other)]
    Unknown,
}

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
    /// Bytes of strings.dat at the newest checkpoint.
    pub names_bytes: u64,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// What opening the store found.
    pub opening: Opening,
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

/// What opening a store found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Opening {
    /// Whether it had been closed.
    pub was_closed: bool,
    /// Transactions of the log that were applied.
    pub transactions: u64,
    /// Files without a name that were freed.
    pub orphans_freed: u64,
    /// Damage in the acknowledged part of the log.
    pub damage: Option<String>,
}

/// Why a request was not carried out. Nothing has changed then; only with `failed`, when the disk
/// refused, is it known once the store is opened again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of reason it is.
    pub error: ErrorKind,
    /// The reason, for people.
    pub message: String,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request cannot be understood.
    BadRequest,
    /// What is said to be a name cannot be one.
    BadName,
    /// The request has no token, or not the right one.
    Unauthorized,
    /// There is no such dataset, snapshot or path.
    NotFound,
    /// The path has no such method.
    MethodNotAllowed,
    /// The request did not come in time.
    TimedOut,
    /// The name is taken, by something else than what was asked for.
    Exists,
    /// It is in use.
    Busy,
    /// The dataset has snapshots.
    HasSnapshots,
    /// The snapshot, or one of the dataset, is held.
    Held,
    /// The request's body is too large.
    TooLarge,
    /// It cannot be done to this one.
    NotPossible,
    /// More than a quota, or the room that is neither used nor reserved, allows.
    OverLimit,
    /// No space is left, in the store or on the disk below it.
    NoSpace,
    /// The store refuses changes: it was opened so, or a write has failed.
    ReadOnly,
    /// Too much is being done already.
    Overloaded,
    /// The daemon ends, or gives its guests to another: what takes long was stopped. Ask again.
    Interrupted,
    /// The store cannot be read or written.
    #[serde(other)]
    Failed,
}

impl ErrorKind {
    /// All of them.
    pub const ALL: [ErrorKind; 18] = [
        ErrorKind::BadRequest,
        ErrorKind::BadName,
        ErrorKind::Unauthorized,
        ErrorKind::NotFound,
        ErrorKind::MethodNotAllowed,
        ErrorKind::TimedOut,
        ErrorKind::Exists,
        ErrorKind::Busy,
        ErrorKind::HasSnapshots,
        ErrorKind::Held,
        ErrorKind::TooLarge,
        ErrorKind::NotPossible,
        ErrorKind::OverLimit,
        ErrorKind::NoSpace,
        ErrorKind::ReadOnly,
        ErrorKind::Overloaded,
        ErrorKind::Interrupted,
        ErrorKind::Failed,
    ];

    /// The status of an answer that says so.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            ErrorKind::BadRequest | ErrorKind::BadName => 400,
            ErrorKind::Unauthorized => 401,
            ErrorKind::NotFound => 404,
            ErrorKind::MethodNotAllowed => 405,
            ErrorKind::TimedOut => 408,
            ErrorKind::Exists | ErrorKind::Busy | ErrorKind::HasSnapshots | ErrorKind::Held => 409,
            ErrorKind::TooLarge => 413,
            ErrorKind::NotPossible | ErrorKind::OverLimit => 422,
            ErrorKind::Failed => 500,
            ErrorKind::Overloaded => 429,
            ErrorKind::ReadOnly | ErrorKind::Interrupted => 503,
            ErrorKind::NoSpace => 507,
        }
    }
}

impl Failure {
    /// One of a kind.
    pub fn new(error: ErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Failure { error, message }
    }
}

/// A project of a dataset: the inodes that belong to it, in a directory tree mostly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Project {
    /// The dataset.
    pub dataset: String,
    /// Its number, not 0.
    pub id: u32,
    /// Its inodes.
    pub inodes: u64,
    /// Bytes of its files that take space.
    pub allocated_bytes: u64,
    /// Bytes that its files may take; 0 for no limit.
    pub quota_bytes: u64,
    /// Inodes that it may have; 0 for no limit.
    pub quota_inodes: u64,
}

/// Whose projects are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListProjects {
    /// The dataset, or a snapshot.
    pub dataset: String,
}

/// What is to become of a project.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeProject {
    /// The dataset.
    pub dataset: String,
    /// The project's number; 0, with a path only, for none.
    pub id: u32,
    /// A directory, or a file, from the dataset's root: it and all below it is to belong to the
    /// project, whatever the limits are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Bytes that its files may take; 0 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
    /// Inodes that it may have; 0 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_inodes: Option<u64>,
}
