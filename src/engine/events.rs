//! What happens to a store, for those who watch it.
//!
//! Events are kept in memory, the latest [`KEPT_MAX`] of them, and numbered. Who makes one never
//! waits for who reads: whoever is too slow finds by the numbers that some are gone. Nothing is
//! promised over a restart of the daemon, but that numbers do not come again: they begin at the time,
//! in milliseconds.

use std::collections::VecDeque;

use tokio::sync::watch;

use super::{Clock, Store, Time, Volume};
use crate::format::id::DatasetId;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// Events that are kept.
const KEPT_MAX: usize = 1024;
/// That a quota is reached is told of a dataset once in so many seconds.
const QUOTA_EVERY_SECONDS: i64 = 60;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A dataset was made, perhaps as a clone of what `other` names.
    DatasetCreated,
    /// A dataset was deleted.
    DatasetDeleted,
    /// It has the name `other` now, and its snapshots go with it.
    DatasetRenamed,
    /// It is what its snapshot `other` is.
    DatasetRestored,
    /// The path `other` of one of its snapshots was brought back.
    PathRestored,
    /// A clone has the snapshots of what it was cloned from.
    DatasetPromoted,
    /// A snapshot was taken, or received.
    SnapshotCreated,
    /// A snapshot was deleted.
    SnapshotDeleted,
    /// It has the name `other` now.
    SnapshotRenamed,
    /// A guest has mounted the dataset.
    GuestAttached,
    /// It is gone.
    GuestDetached,
    /// The dataset was restored below a guest, at the socket `other`: it is refused everything until
    /// it mounts again.
    GuestStale,
    /// A guest was refused something because of the dataset's quota.
    QuotaReached,
    /// A scrub found damage: `other` says what.
    DamageFound,
    /// The store takes no more changes.
    StoreReadOnly,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its number: each has a larger one than those before.
    pub id: u64,
    /// When.
    pub time: Time,
    /// What.
    pub kind: EventKind,
    /// The dataset or snapshot that it happened to; empty for the store.
    pub name: String,
    /// See [`EventKind`].
    pub other: Option<String>,
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Events {
    /// That some are gone that came before these, and how many: 0 where that is not known, since they
    /// were from before the store was opened.
    pub missed: Option<u64>,
    /// In their order.
    pub events: Vec<Event>,
    /// The number of the latest one that there was.
    pub latest: u64,
}

/// The latest events of a store.
pub(super) struct Journal {
    kept: Mutex<Kept>,
    /// The number of the first one.
    begin: u64,
    latest: watch::Sender<u64>,
    is_read_only: AtomicBool,
}

struct Kept {
    next: u64,
    events: VecDeque<Event>,
}

impl Journal {
    /// None yet.
    pub(super) fn new(clock: &Clock) -> Self {
        let now = clock();
        let millis = now
            .sec
            .saturating_mul(1000)
            .saturating_add(i64::from(now.nsec / 1_000_000));
        let next = u64::try_from(millis).unwrap_or(0).saturating_add(1);
        Journal {
            kept: Mutex::new(Kept {
                next,
                events: VecDeque::new(),
            }),
            begin: next,
            latest: watch::Sender::new(next.saturating_sub(1)),
            is_read_only: AtomicBool::new(false),
        }
    }

    fn note(&self, time: Time, kind: EventKind, name: &str, other: Option<&str>) {
        let mut kept = self.kept.lock();
        let id = kept.next;
        kept.next = id.saturating_add(1);
        if kept.events.len() == KEPT_MAX {
            kept.events.pop_front();
        }
        kept.events.push_back(Event {
            id,
            time,
            kind,
            name: name.to_owned(),
            other: other.map(str::to_owned),
        });
        // While it is locked: the number is never smaller than one that was told.
        self.latest.send_replace(id);
    }
}

impl Store {
    /// Tells those who watch.
    pub(super) fn note(&self, kind: EventKind, name: &str, other: Option<&str>) {
        self.events.note(self.now(), kind, name, other);
    }

    /// The number of the latest event, and of each that comes.
    #[must_use]
    pub fn latest_event(&self) -> watch::Receiver<u64> {
        self.events.latest.subscribe()
    }

    /// At most `max` events behind the one of this number.
    #[must_use]
    pub fn events_after(&self, id: u64, max: usize) -> Events {
        let kept = self.events.kept.lock();
        let first = kept.events.front().map_or(kept.next, |event| event.id);
        let wanted = id.saturating_add(1);
        let gone = first.saturating_sub(wanted.max(self.events.begin));
        let behind = kept.events.iter().filter(|event| event.id > id);
        Events {
            // Also where the clock was set back before the store was opened.
            missed: (wanted < first || id >= kept.next).then_some(gone),
            latest: kept.next.saturating_sub(1),
            events: behind.take(max).cloned().collect(),
        }
    }

    /// Notes, once, that the store takes no more changes. To be called now and then.
    pub fn note_read_only(&self) {
        if !self.is_writable() && !self.events.is_read_only.swap(true, Ordering::Relaxed) {
            self.note(EventKind::StoreReadOnly, "", None);
        }
    }

    /// The same of what has this number.
    pub(super) fn note_of(&self, id: DatasetId, kind: EventKind, other: Option<&str>) {
        match self.find_by_id(id) {
            Ok(Some(found)) => self.note(kind, &found.name, other),
            Ok(None) => {}
            Err(error) => ::log::debug!("the name of dataset {id}: {error}"),
        }
    }
}

impl Volume {
    /// Notes what a guest did, or what befell it.
    pub fn note(&self, kind: EventKind) {
        self.store.note_of(self.dataset.id, kind, None);
    }

    /// The same, with more about it.
    pub fn note_with(&self, kind: EventKind, other: &str) {
        self.store.note_of(self.dataset.id, kind, Some(other));
    }

    /// Notes that a guest was refused something because of the quota; not each time.
    pub fn note_quota(&self) {
        let now = self.store.now().sec;
        let last = &self.dataset.quota_noted;
        let before = last.load(Ordering::Relaxed);
        // The clock may have been set back.
        let is_due = !(before..before.saturating_add(QUOTA_EVERY_SECONDS)).contains(&now);
        let relaxed = Ordering::Relaxed;
        if is_due && last.compare_exchange(before, now, relaxed, relaxed).is_ok() {
            self.note(EventKind::QuotaReached);
        }
    }
}

/// When that was noted last: not yet.
pub(super) fn never_noted() -> AtomicI64 {
    AtomicI64::new(i64::MIN)
}
