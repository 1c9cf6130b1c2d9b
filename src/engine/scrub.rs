//! Scrub: reads everything that is stored, while the volume is in use, to find rot before it is
//! needed.
//!
//! Pages, chunks and names are read from the disk and checked against their checksums, a few at a
//! time, at the rate that is asked for. A view holds pages only for a step. A chunk that does not
//! match is damaged if a later view still has it: numbers of chunks never come back. How far it got
//! is written down now and then, so that it goes on there after an interruption.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{EngineError, EventKind, Store};
use crate::format::id::{ChunkId, NameId};
use crate::format::key::{Key, TreeId, trailing_u64};
use crate::format::page::PAGE_BYTES;
use crate::format::record::{ChunkRecord, SCRUB_KEY, ScrubRecord};
use crate::log::View;
use crate::store::pages::Need;
use crate::store::{Read, StoreError};
use crate::sync::atomic::Ordering;

/// Pages, chunks and names in one step.
const PAGES: usize = 64;
const CHUNKS: usize = 8;
const NAMES: usize = 256;
/// How often the position is written down.
const SAVE_INTERVAL: Duration = Duration::from_secs(10);
/// The longest nap between two looks at whether to stop.
const NAP: Duration = Duration::from_millis(50);

/// How to scrub.
#[derive(Debug, Clone, Copy, Default)]
pub struct ScrubOptions {
    /// Bytes to read in a second, at most; 0 for as many as the disk gives.
    pub bytes_per_sec: u64,
    /// Begin anew, wherever an earlier one stopped.
    pub restart: bool,
}

/// How far a scrub is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScrubProgress {
    /// Pages, chunks and names read.
    pub items: u64,
    /// Bytes read.
    pub bytes: u64,
    /// About how many there are.
    pub bytes_total: u64,
    /// What was found damaged.
    pub errors: u64,
    /// Everything was read.
    pub done: bool,
}

/// What a scrub says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScrubEvent {
    /// Something is damaged. It is in the log too.
    Damaged(String),
    /// A step was done.
    Progress(ScrubProgress),
}

/// What is damaged is remembered of the first so many; the log has all of it.
const DAMAGED_MAX: usize = 100;

/// What the scrub under way has done, or the last one since the store was opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScrubStatus {
    /// It is under way.
    pub is_running: bool,
    /// How far it is or got; all zero when there was none.
    pub progress: ScrubProgress,
    /// What is damaged: the first hundred.
    pub damaged: Vec<String>,
}

/// A key and its value.
type Record = (Key, Vec<u8>);

/// A scrub under way.
struct Scrub<'a> {
    store: &'a Store,
    record: ScrubRecord,
    trees: Vec<TreeId>,
    event: &'a mut dyn FnMut(&ScrubEvent) -> ControlFlow<()>,
}

/// The right to scrub: one at a time has it.
pub struct ScrubClaim(Arc<Store>);

impl Drop for ScrubClaim {
    fn drop(&mut self) {
        self.0.scrubbing.lock().is_running = false;
    }
}

impl ScrubClaim {
    /// As [`Store::scrub`].
    ///
    /// # Errors
    /// As there.
    pub fn run(
        self,
        options: ScrubOptions,
        event: &mut dyn FnMut(&ScrubEvent) -> ControlFlow<()>,
    ) -> Result<ScrubProgress, EngineError> {
        self.0.scrub_on(options, event)
    }
}

impl Store {
    /// Reads everything, and tells what is damaged. `event` may stop it: the next one goes on there.
    ///
    /// # Errors
    /// When a tree cannot be walked at all, or the position cannot be written down; when another scrub
    /// is under way.
    pub fn scrub(
        self: &Arc<Self>,
        options: ScrubOptions,
        event: &mut dyn FnMut(&ScrubEvent) -> ControlFlow<()>,
    ) -> Result<ScrubProgress, EngineError> {
        let claim = self.claim_scrub();
        let claim = claim.ok_or(EngineError::Invalid("a scrub is under way"))?;
        claim.run(options, event)
    }

    /// The right to scrub; `None` while another one is under way.
    #[must_use]
    pub fn claim_scrub(self: &Arc<Self>) -> Option<ScrubClaim> {
        let mut status = self.scrubbing.lock();
        if status.is_running {
            return None;
        }
        *status = ScrubStatus {
            is_running: true,
            ..ScrubStatus::default()
        };
        self.stop_scrub.store(false, Ordering::Release);
        Some(ScrubClaim(Arc::clone(self)))
    }

    /// What the scrub under way has done, or the last one.
    #[must_use]
    pub fn scrub_status(&self) -> ScrubStatus {
        self.scrubbing.lock().clone()
    }

    /// Has the scrub under way stop, if there is one: the next one goes on there.
    pub fn stop_scrub(&self) {
        self.stop_scrub.store(true, Ordering::Release);
    }

    fn scrub_on(
        &self,
        options: ScrubOptions,
        event: &mut dyn FnMut(&ScrubEvent) -> ControlFlow<()>,
    ) -> Result<ScrubProgress, EngineError> {
        let view = self.journal.view();
        let mut trees = TreeId::SYSTEM.to_vec();
        let datasets = crate::log::recovery::datasets(&view)?;
        trees.extend(datasets.into_iter().map(|(id, _)| TreeId::Fs(id)));
        let stored = scrub_record(&view)?;
        let unfinished = |record: &ScrubRecord| record.stage != ScrubRecord::DONE;
        let record = match stored.filter(unfinished).filter(|_| !options.restart) {
            Some(record) => record,
            None => ScrubRecord {
                at_sec: self.now().sec.try_into().unwrap_or(0),
                ..ScrubRecord::default()
            },
        };
        drop(view);
        let mut scrub = Scrub {
            store: self,
            record,
            trees,
            event,
        };
        scrub.run(options.bytes_per_sec)
    }

    /// Whether the last scrub was interrupted, or ended so long ago; or there was none.
    pub(super) fn scrub_is_due(&self, interval: Duration) -> Result<bool, EngineError> {
        let Some(record) = scrub_record(&self.journal.view())? else {
            return Ok(true);
        };
        let now = u64::try_from(self.now().sec).unwrap_or(0);
        let due = record.at_sec.saturating_add(interval.as_secs());
        Ok(record.stage != ScrubRecord::DONE || now >= due)
    }
}

fn scrub_record(view: &View) -> Result<Option<ScrubRecord>, StoreError> {
    let stored = view.get(TreeId::Datasets, SCRUB_KEY)?;
    Ok(stored.and_then(|value| ScrubRecord::decode(&value).ok()))
}

impl Scrub<'_> {
    fn run(&mut self, bytes_per_sec: u64) -> Result<ScrubProgress, EngineError> {
        let mut saved = Instant::now();
        if self.record.stage == 0 && self.record.cursor.is_empty() {
            for what in self.store.journal.check_copies() {
                self.damaged(what);
            }
        }
        loop {
            let (began, before) = (Instant::now(), self.record.bytes);
            let next = self.step()?;
            let done = self.go_on_from(next);
            let progress = self.progress()?;
            let stop = self.is_to_stop(progress);
            if done || stop || saved.elapsed() > SAVE_INTERVAL {
                self.save()?;
                saved = Instant::now();
            }
            if done || stop || self.rest(began, self.record.bytes - before, bytes_per_sec)? {
                return self.progress();
            }
        }
    }

    /// Tells how far it is; whether it is to stop there.
    fn is_to_stop(&mut self, progress: ScrubProgress) -> bool {
        self.store.scrubbing.lock().progress = progress;
        let is_broken_off = (self.event)(&ScrubEvent::Progress(progress)).is_break();
        is_broken_off || self.store.stop_scrub.load(Ordering::Acquire)
    }

    /// The next stage begins when a step came to the end of one; whether that was the last.
    fn go_on_from(&mut self, next: Option<Key>) -> bool {
        match next {
            Some(cursor) => self.record.cursor = cursor.into_vec(),
            None => {
                self.record.cursor = Vec::new();
                self.record.stage += 1;
            }
        }
        let done = self.record.stage > self.stage_of(2);
        if done {
            self.record.stage = ScrubRecord::DONE;
            self.record.at_sec = self.store.now().sec.try_into().unwrap_or(0);
        }
        done
    }

    /// The stage that is `behind` the last tree's.
    fn stage_of(&self, behind: u64) -> u64 {
        self.trees.len() as u64 + behind - 1
    }

    fn progress(&self) -> Result<ScrubProgress, EngineError> {
        let store = self.store;
        let units = super::data::units_used(&store.journal.view())?;
        let record = &self.record;
        let stored = store.journal.metadata_bytes();
        Ok(ScrubProgress {
            items: record.items,
            bytes: record.bytes,
            bytes_total: stored.saturating_add(units.saturating_mul(PAGE_BYTES as u64)),
            errors: record.errors,
            done: record.stage == ScrubRecord::DONE,
        })
    }

    fn damaged(&mut self, what: String) {
        ::log::error!("scrub: {what}");
        self.store.note(EventKind::DamageFound, "", Some(&what));
        let mut status = self.store.scrubbing.lock();
        if status.damaged.len() < DAMAGED_MAX {
            status.damaged.push(what.clone());
        }
        drop(status);
        self.record.errors += 1;
        // Whether to stop is asked behind the step.
        let _ = (self.event)(&ScrubEvent::Damaged(what));
    }

    fn save(&self) -> Result<(), EngineError> {
        if !self.store.is_writable() {
            return Ok(());
        }
        let mut tx = self.store.begin_tx(Need::Reclaim)?;
        tx.put(TreeId::Datasets, SCRUB_KEY, self.record.encode())?;
        tx.commit()?;
        Ok(())
    }

    /// Waits until the bytes of a step are paid for; whether to stop.
    fn rest(&mut self, began: Instant, bytes: u64, per_sec: u64) -> Result<bool, EngineError> {
        if per_sec == 0 {
            return Ok(false);
        }
        let micros = bytes.saturating_mul(1_000_000) / per_sec;
        let until = began + Duration::from_micros(micros);
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            crate::sync::thread::sleep(left.min(NAP));
            let progress = self.progress()?;
            if self.is_to_stop(progress) {
                self.save()?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads a little; where to go on in this stage.
    fn step(&mut self) -> Result<Option<Key>, EngineError> {
        let view = self.store.journal.view();
        let stage = usize::try_from(self.record.stage).unwrap_or(usize::MAX);
        match self.trees.get(stage).copied() {
            Some(tree) => self.step_pages(&view, tree),
            None if self.record.stage == self.stage_of(1) => self.step_chunks(&view),
            None => self.step_names(&view),
        }
    }

    fn step_pages(&mut self, view: &View, tree: TreeId) -> Result<Option<Key>, EngineError> {
        let from = self.record.cursor.clone();
        let (mut read, mut bad) = (0, Vec::new());
        let next = view.verify(tree, &from, PAGES, &mut |_, error| {
            read += 1;
            bad.extend(error.map(|error| format!("tree {tree:?}: {error}")));
        })?;
        self.count(read, read * PAGE_BYTES as u64);
        for what in bad {
            self.damaged(what);
        }
        Ok(next)
    }

    /// Records of a tree from the cursor on; where to go on.
    fn records(
        &self,
        view: &View,
        tree: TreeId,
        most: usize,
    ) -> Result<(Vec<Record>, Option<Key>), StoreError> {
        let (mut records, mut next) = (Vec::new(), None);
        view.scan(
            tree,
            &self.record.cursor,
            &[0xff; 300],
            &mut |key, value| {
                if records.len() == most {
                    next = Some(Key::from_slice(key));
                    return ControlFlow::Break(());
                }
                records.push((Key::from_slice(key), value.to_vec()));
                ControlFlow::Continue(())
            },
        )?;
        Ok((records, next))
    }

    fn step_chunks(&mut self, view: &View) -> Result<Option<Key>, EngineError> {
        // A page that cannot be read was told of with the pages, and ends the stage.
        let Ok((records, next)) = self.records(view, TreeId::Chunks, CHUNKS) else {
            return Ok(None);
        };
        for (key, value) in records {
            let id = ChunkId(trailing_u64(&key).unwrap_or(0));
            let Ok(record) = ChunkRecord::decode(&value) else {
                self.damaged(format!("chunk {id}: its record cannot be read"));
                continue;
            };
            self.count(1, record.stored_len.into());
            let Err(error) = self.store.verify_chunk(id, &record) else {
                continue;
            };
            // Freed meanwhile, its place may hold something else.
            let now = self.store.journal.view().get(TreeId::Chunks, &key)?;
            if now.is_some_and(|now| {
                ChunkRecord::decode(&now).is_ok_and(|now| now.start_unit == record.start_unit)
            }) {
                self.damaged(error.to_string());
            }
        }
        Ok(next)
    }

    fn step_names(&mut self, view: &View) -> Result<Option<Key>, EngineError> {
        let Ok((records, next)) = self.records(view, TreeId::Names, NAMES) else {
            return Ok(None);
        };
        for (key, _) in records {
            let id = NameId(trailing_u64(&key).unwrap_or(0));
            match view.name(id) {
                Ok(name) => self.count(1, name.len() as u64),
                Err(error) => self.damaged(error.to_string()),
            }
        }
        Ok(next)
    }

    fn count(&mut self, items: u64, bytes: u64) {
        self.record.items += items;
        self.record.bytes += bytes;
    }
}
