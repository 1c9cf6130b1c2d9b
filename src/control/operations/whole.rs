//! The store as a whole: its numbers, its size, what runs over all of it.

use std::sync::Arc;

use uuid::Uuid;

use super::snapshots::unescaped;
use super::{Result, dataset_name, rfc3339, timestamp};
use crate::control::api::{
    ChangeStore, Compact, Compacted, ErrorKind, Event, EventKind, Failure, HostFileSystem, Opening,
    Rewrite, Rewritten, Scrub, Stats, StoreSettings, Trim, Trimmed,
};
use crate::engine::{self, EngineError, Store};
use crate::format::page::PAGE_BYTES;
use crate::format::superblock::VERSION;
use crate::store::StoreError;

/// What the scrub under way has done, or the last one.
#[must_use]
pub fn scrub_status(store: &Arc<Store>) -> Scrub {
    let status = store.scrub_status();
    let progress = status.progress;
    Scrub {
        is_running: status.is_running,
        is_done: progress.done,
        items: progress.items,
        bytes: progress.bytes,
        bytes_total: progress.bytes_total,
        errors: progress.errors,
        damaged: status.damaged,
    }
}

/// Writes a file's content anew, as the dataset's settings are now. Durable on return. `go_on` is
/// asked now and then.
///
/// # Errors
/// When there is no such file; when the store refuses, or it was stopped: some of it may be written
/// anew then.
pub fn rewrite(
    store: &Arc<Store>,
    dataset: &str,
    what: &Rewrite,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Rewritten> {
    dataset_name(dataset)?;
    let bytes = store.rewrite_path(dataset, &unescaped(&what.path)?, go_on)?;
    Ok(Rewritten { bytes })
}

/// Gives free space back to the disk below. `go_on` is asked now and then.
///
/// # Errors
/// When the store or the disk refuses, or it was stopped: some of it may have gone back then, and
/// content is whole.
pub fn trim(store: &Arc<Store>, how: &Trim, go_on: &mut dyn FnMut() -> bool) -> Result<Trimmed> {
    let default = engine::TrimOptions::default();
    let options = engine::TrimOptions {
        min_bytes: how.min_bytes.unwrap_or(default.min_bytes),
    };
    let done = store.trim(&options, go_on)?;
    Ok(Trimmed {
        punched_bytes: done.punched_bytes,
        pieces: done.pieces,
        cut_bytes: done.cut_bytes,
        metadata_bytes: done.metadata_bytes,
        names_bytes: done.names_bytes,
        unsupported: done.unsupported,
    })
}

/// Moves chunks from the end of chunks.dat forward, and gives what is free behind them back. `go_on`
/// is asked now and then.
///
/// # Errors
/// When the store or the disk refuses: some may have been moved then, and content is whole.
pub fn compact(
    store: &Arc<Store>,
    Compact {}: &Compact,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Compacted> {
    let done = store.compact(go_on)?;
    Ok(Compacted {
        moved_chunks: done.moved_chunks,
        moved_bytes: done.moved_bytes,
        cut_bytes: done.cut_bytes,
        damaged_chunks: done.damaged,
    })
}

/// Changes the store's own size. Durable on return.
///
/// # Errors
/// When more is used or reserved; when the store refuses.
pub fn change_store(store: &Arc<Store>, change: &ChangeStore) -> Result<StoreSettings> {
    if let Some(bytes) = change.capacity_bytes {
        match store.change_size(bytes) {
            Err(EngineError::Store(StoreError::NoSpace(_))) => {
                let needed = store.needed_bytes()?;
                let message =
                    format!("the store cannot be of {bytes} bytes: {needed} are used or reserved");
                return Err(Failure::new(ErrorKind::OverLimit, message));
            }
            other => other?,
        }
    }
    Ok(StoreSettings {
        capacity_bytes: store.size_bytes(),
    })
}

/// Numbers of the store.
///
/// # Errors
/// When it cannot be read.
pub fn stats(store: &Arc<Store>) -> Result<Stats> {
    let status = store.status()?;
    let all = store.list()?;
    let snapshots = all.iter().filter(|each| each.snapshot_of.is_some());
    let snapshots = snapshots.count();
    let block = &status.superblock;
    let report = store.recovery_report();
    let damage = report.superblock_damage.iter();
    let damage = damage.map(|(copy, reason)| format!("copy {copy}: {reason}"));
    Ok(Stats {
        uuid: Uuid::from_bytes(block.uuid).to_string(),
        format_version: VERSION,
        created_at: timestamp(block.created_sec, 0),
        is_writable: status.is_writable,
        generation: block.generation.0,
        dataset_count: (all.len() - snapshots) as u64,
        snapshot_count: snapshots as u64,
        capacity_bytes: block.capacity_bytes,
        free_bytes: status.free_bytes,
        unwritten_bytes: status.unwritten_bytes,
        chunks_file_bytes: status.chunks_file_bytes,
        metadata_bytes: block.nodes_used.saturating_mul(PAGE_BYTES as u64),
        names_bytes: block.strings_end,
        names_punched_bytes: status.names_punched_bytes,
        log_bytes: block.log_bytes,
        file_system: store.file_system().map(|found| HostFileSystem {
            is_volatile: found.is_volatile(),
            kind: found.kind,
            free_bytes: found.free_bytes,
            size_bytes: found.size_bytes,
        }),
        opening: Opening {
            was_closed: report.was_clean(),
            last_written_at: store.last_written().map(rfc3339),
            transactions: report.applied,
            dropped: report.dropped,
            torn_bytes: report.torn_bytes,
            orphans_freed: store.orphans_freed(),
            took_ms: u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX),
            superblock_damage: damage.collect(),
            damage: report.damage.as_ref().map(ToString::to_string),
        },
    })
}

/// An event as it is told.
pub(in crate::control) fn as_event(event: &engine::Event) -> Event {
    use engine::EventKind as From;
    let kind = match event.kind {
        From::DatasetCreated => EventKind::DatasetCreated,
        From::DatasetDeleted => EventKind::DatasetDeleted,
        From::DatasetRenamed => EventKind::DatasetRenamed,
        From::DatasetRestored => EventKind::DatasetRestored,
        From::PathRestored => EventKind::PathRestored,
        From::DatasetPromoted => EventKind::DatasetPromoted,
        From::SnapshotCreated => EventKind::SnapshotCreated,
        From::SnapshotDeleted => EventKind::SnapshotDeleted,
        From::SnapshotRenamed => EventKind::SnapshotRenamed,
        From::GuestAttached => EventKind::GuestAttached,
        From::GuestDetached => EventKind::GuestDetached,
        From::GuestStale => EventKind::GuestStale,
        From::QuotaReached => EventKind::QuotaReached,
        From::DamageFound => EventKind::DamageFound,
        From::StoreReadOnly => EventKind::StoreReadOnly,
    };
    Event {
        id: event.id,
        time: rfc3339(event.time),
        event: kind,
        name: event.name.clone(),
        detail: event.other.clone(),
    }
}
