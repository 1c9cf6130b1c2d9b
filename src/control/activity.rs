//! What happens in a store and at its exports, as numbers: for programs that watch it, and for
//! `super::prometheus`.
//!
//! Each number counts since the daemon began, unless it says that it is a level: what happened in a
//! while is the difference of two answers. Gathering them waits for no checkpoint and no flush.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::api::Failure;
use crate::disk::counted::Counts;
use crate::engine::Store;
use crate::format::id::DatasetId;
use crate::metrics::{Distribution, Histogram, Metered};
use crate::server::consts::opcode;
use crate::store::pages::Looks;

/// How often something happened, and how large or long it was.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Spread {
    /// How often.
    pub count: u64,
    /// All of it together: nanoseconds, of times.
    pub sum: u64,
    /// How often it was at most 1, 2, 4 and so on to 2^24 (microseconds, of times) and above the bound
    /// before; the last is for what is above them all.
    pub buckets: Vec<u64>,
}

/// What guests did through an export.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct ExportActivity {
    /// The dataset's name now.
    pub dataset: String,
    /// Where a front-end connects.
    pub socket: String,
    /// Its dataset was restored below the guest, which is refused everything until it mounts again.
    /// A level.
    #[serde(default)]
    pub is_stale: bool,
    /// Requests by kind, from when each was taken off its queue to when it was answered.
    pub requests: Vec<Requests>,
    /// Replies that were errors.
    pub refused: Vec<RefusedRequests>,
    /// How many requests there were at once: taken off a queue until it was empty.
    #[serde(default)]
    pub depths: Spread,
    /// Bytes of content that were read.
    pub read_bytes: u64,
    /// Bytes of content that were written.
    pub written_bytes: u64,
    /// How often the guest had to wake the daemon.
    pub kicks: u64,
    /// How often looking for more requests before sleeping found some (`--poll-us`).
    pub polls_paid: u64,
    /// How often it did not.
    pub polls_unpaid: u64,
    /// Requests that another thread answered, because they wait for the disk.
    pub handed_over: u64,
    /// Of these, those that are not answered yet. A level.
    pub waiting: u64,
}

/// Requests of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Requests {
    /// Its name in the FUSE protocol; `OTHER` for what is not carried out.
    pub operation: String,
    /// How long they took.
    pub times: Spread,
}

/// Replies that were an error.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct RefusedRequests {
    /// Linux's number of the error.
    pub errno: u32,
    /// How many.
    pub count: u64,
}

/// What was asked of one of the store's files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct FileActivity {
    /// The file: `superblock`, `nodes`, `strings`, `chunks` or `wal`.
    pub file: String,
    /// Bytes read, but for what is read through mappings.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: Spread,
    /// Writes that nobody waits for to be durable.
    pub writes: Spread,
    /// Writes that were durable on return.
    pub durable_writes: Spread,
    /// Flushes.
    pub flushes: Spread,
    /// What the disk refused, but for want of space.
    pub errors: u64,
}

/// What came of looking for something in memory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct CacheActivity {
    /// `pages` of trees, or `content` of files.
    pub cache: String,
    /// It was there.
    pub hits: u64,
    /// It was not.
    pub misses: u64,
    /// Bytes that are kept. A level.
    pub bytes: u64,
}

/// A dataset's space.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct DatasetSpace {
    /// Its name.
    pub dataset: String,
    /// Bytes of its files that take space, shared or not. A level.
    pub allocated_bytes: u64,
    /// Bytes that they may take; 0 for no limit. A level.
    pub quota_bytes: u64,
    /// Inodes in it. A level.
    pub inodes: u64,
}

/// What happens in a store and at its exports.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Activity {
    /// The program's version.
    pub version: String,
    /// Whether changes are possible. A level.
    pub is_writable: bool,
    /// What guests did.
    pub exports: Vec<ExportActivity>,
    /// How long group commits took.
    pub commit_times: Spread,
    /// How many transactions each made durable.
    pub commit_transactions: Spread,
    /// How long checkpoints took.
    pub checkpoint_times: Spread,
    /// Bytes of the log. A level.
    pub log_bytes: u64,
    /// Bytes of it that the next checkpoint frees. A level.
    pub log_used_bytes: u64,
    /// Tree pages that the next checkpoint writes. A level.
    pub dirty_pages: u64,
    /// Bytes of content that are in memory only. A level.
    pub unwritten_bytes: u64,
    /// From how many on writers wait. A level.
    pub unwritten_bytes_max: u64,
    /// Bytes of content that guests wrote.
    pub guest_written_bytes: u64,
    /// Bytes of content that became chunks of their own.
    #[serde(default)]
    pub stored_content_bytes: u64,
    /// Bytes of chunks.dat that these took, compressed as they are.
    #[serde(default)]
    pub stored_bytes: u64,
    /// Bytes of content that were stored already, and were not stored again.
    #[serde(default)]
    pub deduplicated_bytes: u64,
    /// The store's files.
    pub files: Vec<FileActivity>,
    /// What memory keeps.
    pub caches: Vec<CacheActivity>,
    /// Tree pages that were read and could not be believed.
    pub damaged_pages: u64,
    /// Content that was read and could not be believed.
    pub damaged_content: u64,
    /// Chunks that compactions moved.
    #[serde(default)]
    pub moved_chunks: u64,
    /// Bytes that they take.
    #[serde(default)]
    pub moved_bytes: u64,
    /// Bytes of files that were written anew in the background.
    #[serde(default)]
    pub defragmented_bytes: u64,
    /// Names that nobody used any more, and that were forgotten.
    #[serde(default)]
    pub forgotten_names: u64,
    /// Bytes of strings.dat that went back to the disk below. A level.
    #[serde(default)]
    pub names_punched_bytes: u64,
    /// Bytes of chunks.dat that went back to the disk below from inside of it. A level.
    #[serde(default)]
    pub punched_bytes: u64,
    /// Bytes of content that the store may hold; 0 for as many as the disk gives. A level.
    pub capacity_bytes: u64,
    /// Bytes of content that can still be written where none are reserved. A level.
    pub free_bytes: u64,
    /// Bytes of chunks.dat that chunks are in. A level.
    pub used_bytes: u64,
    /// Its length. A level.
    pub chunks_file_bytes: u64,
    /// Snapshots. A level.
    pub snapshot_count: u64,
    /// Datasets that are no snapshots.
    pub datasets: Vec<DatasetSpace>,
}

/// What is known of an export, apart from its store.
pub struct Watched {
    /// What it exports.
    pub dataset: DatasetId,
    /// Where.
    pub socket: String,
    /// Its guest has to mount again.
    pub is_stale: bool,
    /// Its numbers.
    pub metered: Metered,
}

/// Gathers what there is to tell.
///
/// # Errors
/// When the store cannot be read.
pub fn gather(
    store: &Arc<Store>,
    exports: impl Iterator<Item = Watched>,
) -> Result<Activity, Failure> {
    let now = store.activity();
    let space = store.space()?;
    let all = store.list()?;
    let names: HashMap<_, _> = all.iter().map(|each| (each.id, &each.name)).collect();
    let exports = exports.map(|each| {
        // It is in use, so it is there.
        let name = names.get(&each.dataset).map(ToString::to_string);
        of_export(name.unwrap_or_default(), each)
    });
    let exports = exports.collect();
    let (snapshots, datasets): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|each| each.snapshot_of.is_some());
    let datasets = datasets.into_iter().map(|each| DatasetSpace {
        dataset: each.name,
        allocated_bytes: each.allocated_bytes,
        quota_bytes: each.quota_bytes,
        inodes: each.inodes,
    });
    let files = now
        .disks
        .named()
        .map(|(file, counts)| of_file(file, counts));
    let spread = |histogram: &Histogram| Spread::from(&histogram.read());
    Ok(Activity {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        is_writable: now.is_writable,
        exports,
        commit_times: now
            .commits
            .map(|all| spread(&all.times))
            .unwrap_or_default(),
        commit_transactions: now
            .commits
            .map(|all| spread(&all.transactions))
            .unwrap_or_default(),
        checkpoint_times: spread(now.checkpoints),
        log_bytes: now.log_bytes,
        log_used_bytes: now.log_used_bytes,
        dirty_pages: now.dirty_pages,
        unwritten_bytes: now.unwritten_bytes,
        unwritten_bytes_max: now.unwritten_bytes_max,
        guest_written_bytes: now.guest_written_bytes,
        stored_content_bytes: now.stored_content_bytes,
        stored_bytes: now.stored_bytes,
        deduplicated_bytes: now.deduplicated_bytes,
        files: files.into(),
        caches: vec![
            of_cache("pages", now.pages),
            of_cache("content", now.content),
        ],
        damaged_pages: now.damaged_pages,
        damaged_content: now.damaged_content,
        moved_chunks: now.moved_chunks,
        moved_bytes: now.moved_bytes,
        defragmented_bytes: now.defragmented_bytes,
        forgotten_names: now.forgotten_names,
        names_punched_bytes: now.names_punched_bytes,
        punched_bytes: space.punched_bytes,
        capacity_bytes: now.capacity_bytes,
        free_bytes: store.unreserved_bytes()?,
        used_bytes: space.used_bytes,
        chunks_file_bytes: now.chunks_file_bytes,
        snapshot_count: snapshots.len() as u64,
        datasets: datasets.collect(),
    })
}

impl From<&Distribution> for Spread {
    fn from(read: &Distribution) -> Self {
        Spread {
            count: read.count(),
            sum: read.sum,
            buckets: read.buckets.to_vec(),
        }
    }
}

fn of_export(dataset: String, watched: Watched) -> ExportActivity {
    let metered = &watched.metered;
    let requests = metered.times.iter().map(|(number, times)| Requests {
        operation: opcode::name(*number).unwrap_or("OTHER").to_owned(),
        times: times.into(),
    });
    let refused = metered
        .refused
        .iter()
        .map(|(errno, count)| RefusedRequests {
            errno: errno.unsigned_abs(),
            count: *count,
        });
    ExportActivity {
        dataset,
        is_stale: watched.is_stale,
        requests: requests.collect(),
        refused: refused.collect(),
        depths: (&metered.depths).into(),
        read_bytes: metered.read_bytes,
        written_bytes: metered.written_bytes,
        kicks: metered.kicks,
        polls_paid: metered.looks_paid,
        polls_unpaid: metered.looks_unpaid,
        handed_over: metered.handed_over,
        waiting: metered.waiting,
        socket: watched.socket,
    }
}

fn of_file(file: &str, counts: &Counts) -> FileActivity {
    let spread = |histogram: &Histogram| Spread::from(&histogram.read());
    FileActivity {
        file: file.to_owned(),
        read_bytes: counts.read_bytes.get(),
        written_bytes: counts.written_bytes.get(),
        reads: spread(&counts.reads),
        writes: spread(&counts.writes),
        durable_writes: spread(&counts.durable_writes),
        flushes: spread(&counts.flushes),
        errors: counts.errors.get(),
    }
}

fn of_cache(cache: &str, looks: Looks) -> CacheActivity {
    CacheActivity {
        cache: cache.to_owned(),
        hits: looks.hits,
        misses: looks.misses,
        bytes: looks.bytes,
    }
}
