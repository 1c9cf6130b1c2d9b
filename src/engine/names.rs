//! Names that nobody uses give their space back: when that is worth a walk over all trees, how fast,
//! and what came of it. How it is done: `crate::log::names`.

use std::time::{Duration, Instant};

use super::{EngineError, Store};
use crate::metrics::Counter;
use crate::store::pages::Need;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::thread;

/// Pages that one step reads.
const STEP_PAGES: usize = if cfg!(test) { 1 } else { 64 };
/// Bytes that the name of an inode is thought to take.
const NAME_BYTES: u64 = 32;
/// Bytes that a name would have to take, with one for each inode, for a store of which nothing else is
/// known to have names that nobody uses.
const NAME_BYTES_LARGE: u64 = 64;
/// Bytes of names of entries that must have gone before a walk is worth it, at least.
const DUE_MIN: u64 = 2 << 20;
/// As much of what names take must be thought to be unused, as one in this many.
const DUE_SHARE: u64 = 4;
/// How often in a row walks that find little double what the next one waits for, at most.
const FRUITLESS_MAX: u32 = 6;
/// How long who wants a walk at once sleeps between looks whether another one is done.
const WAIT: Duration = Duration::from_millis(10);

/// What is kept of names.
#[derive(Default)]
pub(super) struct NamesState {
    /// A walk is under way.
    walking: AtomicBool,
    /// Those who wait for it: it is not to rest.
    waiting: AtomicU32,
    /// Bytes that the names of entries take that went since the last walk began.
    removed: AtomicU64,
    /// Whether `removed` has what may have gone before the store was opened, as a guess.
    guessed: AtomicBool,
    /// A walk has ended since the store was opened.
    walked: AtomicBool,
    /// Walks in a row that found little.
    fruitless: AtomicU32,
    /// Names that were forgotten.
    pub(super) forgotten: Counter,
}

impl NamesState {
    /// Notes that entries have gone, whose names take so much and may not be used any more.
    pub(super) fn note_removed(&self, bytes: u64) {
        self.removed.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes that a tree with so many inodes has gone.
    pub(super) fn note_removed_inodes(&self, inodes: u64) {
        self.note_removed(inodes.saturating_mul(NAME_BYTES));
    }
}

/// Says that a walk is under way.
struct Walking<'a>(&'a AtomicBool);

impl<'a> Walking<'a> {
    /// `None` when another one is.
    fn begin(flag: &'a AtomicBool) -> Option<Self> {
        let free = flag.compare_exchange(false, true, Ordering::AcqRel, Ordering::Acquire);
        free.is_ok().then(|| Walking(flag))
    }
}

impl Drop for Walking<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Is told how long a step took, before the next one; false when there is to be none.
type GoOn<'a> = dyn FnMut(Duration) -> bool + 'a;

/// Asks whether to go on behind each step.
struct Steps<'a, 'g> {
    began: Instant,
    go_on: &'a mut GoOn<'g>,
}

impl Steps<'_, '_> {
    fn next(&mut self) -> Result<(), EngineError> {
        let goes_on = (self.go_on)(self.began.elapsed());
        self.began = Instant::now();
        match goes_on {
            true => Ok(()),
            false => Err(EngineError::Interrupted),
        }
    }
}

impl Store {
    /// Forgets the names that no entry uses, and gives the blocks between the others back to the disk
    /// below, but for what a view still reads: at once, unless nothing can have come of entries that
    /// went. How many bytes.
    ///
    /// # Errors
    /// When a tree cannot be read or believed (nothing is forgotten then), the store or the disk
    /// refuses; [`EngineError::Interrupted`]. The store is whole in any case.
    pub(super) fn forget_names(&self, go_on: &mut dyn FnMut() -> bool) -> Result<u64, EngineError> {
        let state = &self.names;
        state.waiting.fetch_add(1, Ordering::Relaxed);
        let one = loop {
            if let Some(one) = Walking::begin(&state.walking) {
                break Some(one);
            }
            if !go_on() {
                break None;
            }
            thread::sleep(WAIT);
        };
        state.waiting.fetch_sub(1, Ordering::Relaxed);
        let Some(_one) = one else {
            return Err(EngineError::Interrupted);
        };
        let walked = state.walked.load(Ordering::Relaxed);
        if walked && state.removed.load(Ordering::Relaxed) == 0 {
            return self.punch_names(&mut |_| go_on());
        }
        self.walk_names(&mut |_| go_on())
    }

    /// The same in the background, when enough entries went for it to be worth it. `pause` is told how
    /// long each step took: false ends it.
    ///
    /// # Errors
    /// As [`Store::forget_names`].
    pub(in crate::engine) fn forget_names_idle(
        &self,
        pause: &mut GoOn<'_>,
    ) -> Result<u64, EngineError> {
        let state = &self.names;
        let Some(_one) = Walking::begin(&state.walking) else {
            return Ok(0);
        };
        // Views may have kept something of the last walk from it.
        let bytes = self.punch_names(pause)?;
        if !self.names_are_due()? {
            return Ok(bytes);
        }
        let mut rest = |took| match state.waiting.load(Ordering::Relaxed) {
            0 => pause(took),
            _ => pause(Duration::ZERO),
        };
        Ok(self.walk_names(&mut rest)?.saturating_add(bytes))
    }

    /// Whether enough entries went since the last walk.
    fn names_are_due(&self) -> Result<bool, EngineError> {
        let state = &self.names;
        let held = self.journal.names_backed_bytes();
        if !state.guessed.load(Ordering::Relaxed) {
            // What went since then is part of it.
            let guess = self.guess_unused(held)?;
            state.removed.fetch_max(guess, Ordering::Relaxed);
            state.guessed.store(true, Ordering::Relaxed);
        }
        if self.journal.keeps_names() || held < DUE_MIN {
            return Ok(false);
        }
        let due = (held / DUE_SHARE).max(DUE_MIN) << state.fruitless.load(Ordering::Relaxed);
        Ok(state.removed.load(Ordering::Relaxed) >= due)
    }

    /// What names from before the store was opened take that nobody may use, by what all take and how
    /// many inodes there are: how many entries went is not written down.
    fn guess_unused(&self, held: u64) -> Result<u64, EngineError> {
        let (snapshots, datasets): (Vec<_>, Vec<_>) = self
            .list()?
            .into_iter()
            .partition(|each| each.snapshot_of.is_some());
        let most = snapshots.iter().map(|each| each.inodes).max().unwrap_or(0);
        let inodes = datasets
            .iter()
            .fold(0u64, |sum, each| sum.saturating_add(each.inodes));
        let explained = inodes.max(most).saturating_mul(NAME_BYTES_LARGE);
        Ok(held.saturating_sub(explained))
    }

    fn walk_names(&self, go_on: &mut GoOn<'_>) -> Result<u64, EngineError> {
        let state = &self.names;
        let mut steps = Steps {
            began: Instant::now(),
            go_on,
        };
        let removed = state.removed.load(Ordering::Relaxed);
        // The walk keeps what memory holds of the trees.
        self.checkpoint()?;
        let mut walk = self.journal.walk_names()?;
        while walk.read(STEP_PAGES)? {
            steps.next()?;
        }
        let mut forgotten = 0u64;
        while let Some(unused) = walk.unused()? {
            if !unused.is_empty() {
                let mut tx = self.begin_tx(Need::Reclaim)?;
                let count = walk.forget(&mut tx, &unused)?;
                tx.commit()?;
                forgotten = forgotten.saturating_add(count);
                state.forgotten.add(count);
            }
            steps.next()?;
        }
        let gaps = walk.finish();
        state.removed.fetch_sub(removed, Ordering::Relaxed);
        state.guessed.store(true, Ordering::Relaxed);
        state.walked.store(true, Ordering::Relaxed);
        let fruitless = match gaps < removed / DUE_SHARE {
            true => state.fruitless.load(Ordering::Relaxed).saturating_add(1),
            false => 0,
        };
        state
            .fruitless
            .store(fruitless.min(FRUITLESS_MAX), Ordering::Relaxed);
        if gaps > 0 {
            // Behind it nothing but views needs what is in the gaps.
            self.checkpoint()?;
        }
        let bytes = self.punch_names(steps.go_on)?;
        ::log::debug!("{forgotten} names are forgotten, {bytes} bytes of strings.dat went back");
        Ok(bytes)
    }

    /// Gives the gaps between names back that nobody reads any more; how many bytes.
    fn punch_names(&self, go_on: &mut GoOn<'_>) -> Result<u64, EngineError> {
        let mut steps = Steps {
            began: Instant::now(),
            go_on,
        };
        let mut sum = 0u64;
        while let Some(bytes) = self.journal.punch_names()? {
            sum = sum.saturating_add(bytes);
            steps.next()?;
        }
        Ok(sum)
    }
}
