//! The threads of a store: the commit timer, the checkpointer, what writes behind streams, and
//! those who help who writes out.
//!
//! They hold the store weakly: it can be dropped while they sleep, and they end then.

mod compact;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::{CompactOptions, EngineError, OpenOptions, ScrubOptions, Store};
use crate::format::id::{DatasetId, Ino};
use crate::log::journal::Pressure;
use crate::store::StoreError;
use crate::sync::mpsc;
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// A checkpoint is made at least this often while there is something for it.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(30);
/// Threads that help who writes out: two writes on their way at a time keep a disk busy, and what
/// comes next is made ready beside them.
const HELPERS: usize = 3;
/// How long the checkpointer sleeps between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The threads, and how others talk to them.
#[derive(Default)]
pub(super) struct Background {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Something to do: a request, or the end.
    wake: Condvar,
    /// A checkpoint ended.
    done: Condvar,
    /// A file to write behind, or the end.
    stream: Condvar,
    /// Something for a helper to do, or the end.
    work: Condvar,
    /// Something was deleted, or the end.
    reap: Condvar,
}

type Work = Box<dyn FnOnce() + Send>;

/// Something that a helper does, or that was done at once because there was none.
pub(super) enum Started<T> {
    Done(T),
    UnderWay(mpsc::Receiver<T>),
}

impl<T> Started<T> {
    /// What came of it, when it is done; `None` when the helper is gone.
    pub(super) fn wait(self) -> Option<T> {
        match self {
            Started::Done(result) => Some(result),
            Started::UnderWay(result) => result.recv().ok(),
        }
    }
}

#[derive(Default)]
struct State {
    stopping: bool,
    requested: bool,
    /// Checkpoints begun.
    begun: u64,
    /// Of them, ended.
    ended: u64,
    /// Whether there is a thread that makes checkpoints.
    checkpointing: bool,
    /// How long after a scrub the next one begins.
    scrub_interval: Option<Duration>,
    /// How often free space that nobody needs goes back.
    trim_interval: Option<Duration>,
    /// When chunks are moved.
    compact: Option<CompactOptions>,
    /// There may be deleted datasets.
    doomed: bool,
    /// Files that are written in order, each once.
    streams: VecDeque<(DatasetId, Ino)>,
    /// What helpers are to do: first what somebody waits for.
    work: VecDeque<Work>,
    /// Threads that do it.
    helpers: usize,
}

/// Tells those who wait for a checkpoint that none will come, however its thread ends.
struct Checkpointing<'a>(&'a Shared);

impl Drop for Checkpointing<'_> {
    fn drop(&mut self) {
        self.0.state.lock().checkpointing = false;
        self.0.done.notify_all();
    }
}

impl Background {
    /// Starts the threads of `store`.
    ///
    /// # Errors
    /// When the system has no more threads.
    pub(super) fn start(store: &Arc<Store>) -> Result<(), StoreError> {
        let shared = &store.background.shared;
        let weak = Arc::downgrade(store);
        let interval = store.options.commit_interval.max(Duration::from_millis(1));
        let mut threads = store.background.threads.lock();
        threads.push({
            let (shared, weak) = (Arc::clone(shared), weak.clone());
            spawn("commit", move || commit_loop(&shared, &weak, interval))?
        });
        threads.push({
            let weak = weak.clone();
            spawn("pages", move || find_free_pages(&weak))?
        });
        {
            let mut state = shared.state.lock();
            state.scrub_interval = store.options.scrub_interval;
            state.trim_interval = store.options.trim_interval;
            state.compact = store.options.compact;
        }
        threads.push({
            let (shared, weak) = (Arc::clone(shared), weak.clone());
            spawn("scrub", move || scrub_loop(&shared, &weak))?
        });
        threads.push({
            let (shared, weak) = (Arc::clone(shared), weak.clone());
            spawn("trim", move || trim_loop(&shared, &weak))?
        });
        threads.push({
            let (shared, weak) = (Arc::clone(shared), weak.clone());
            spawn("compact", move || compact::run(&shared, &weak))?
        });
        threads.push({
            let (shared, weak) = (Arc::clone(shared), weak.clone());
            spawn("stream", move || stream_loop(&shared, &weak))?
        });
        shared.state.lock().doomed = true;
        threads.push({
            let (shared, weak) = (Arc::clone(shared), weak.clone());
            spawn("reap", move || reap_loop(&shared, &weak))?
        });
        for _ in 0..HELPERS {
            let helper = Arc::clone(shared);
            threads.push(spawn("helper", move || help(&helper))?);
            shared.state.lock().helpers += 1;
        }
        shared.state.lock().checkpointing = true;
        threads.push({
            let shared = Arc::clone(shared);
            spawn("checkpoint", move || checkpoint_loop(&shared, &weak))?
        });
        Ok(())
    }

    /// Scrubs, trims and compacts as often as these options say from here on, if there are threads.
    pub(super) fn follow(&self, options: &OpenOptions) {
        let mut state = self.shared.state.lock();
        state.scrub_interval = options.scrub_interval;
        state.trim_interval = options.trim_interval;
        state.compact = options.compact;
        self.shared.wake.notify_all();
    }

    /// Asks for a checkpoint soon.
    pub(super) fn request_checkpoint(&self) {
        let mut state = self.shared.state.lock();
        if !state.requested {
            state.requested = true;
            self.shared.wake.notify_all();
        }
    }

    /// Has what was written to a file in order become chunks while its writer goes on, if there are
    /// threads.
    pub(super) fn write_behind(&self, dataset: DatasetId, ino: Ino) {
        let mut state = self.shared.state.lock();
        let file = (dataset, ino);
        if state.checkpointing && !state.streams.contains(&file) {
            state.streams.push_back(file);
            self.shared.stream.notify_one();
        }
    }

    /// Has taken away what nobody sees any more (deleted datasets' trees, what a crash left of restoring
    /// a path), if there are threads.
    pub(super) fn reap(&self) {
        self.shared.state.lock().doomed = true;
        self.shared.reap.notify_all();
    }

    /// Has something done that somebody will need, and would do then if nobody had.
    pub(super) fn soon(&self, work: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.state.lock();
        if state.helpers > 0 && !state.stopping {
            state.work.push_back(Box::new(work));
            self.shared.work.notify_one();
        }
    }

    /// Has something done while the caller does something else; at once, without helpers.
    pub(super) fn hand_over<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Started<T> {
        let mut state = self.shared.state.lock();
        if state.helpers == 0 || state.stopping {
            drop(state);
            return Started::Done(work());
        }
        let (done, result) = mpsc::channel();
        state.work.push_front(Box::new(move || {
            // Nobody waits any more.
            let _ = done.send(work());
        }));
        self.shared.work.notify_one();
        Started::UnderWay(result)
    }

    /// Asks for a checkpoint and waits until one has ended; false when no thread makes any (while
    /// the store is opened or closed, or when it has none). One that is under way counts.
    pub(super) fn wait_for_checkpoint(&self) -> bool {
        let state = self.shared.state.lock();
        let one = state.ended + 1;
        self.wait_for_end(state, one)
    }

    /// The same, of a checkpoint that begins from here on: it holds all that was done so far.
    pub(super) fn wait_for_new_checkpoint(&self) -> bool {
        let state = self.shared.state.lock();
        let next = state.begun + 1;
        self.wait_for_end(state, next)
    }

    /// Waits for the end of the checkpoint with a number.
    fn wait_for_end(&self, mut state: MutexGuard<'_, State>, number: u64) -> bool {
        state.requested = true;
        self.shared.wake.notify_all();
        while state.ended < number && state.checkpointing && !state.stopping {
            self.shared.done.wait(&mut state);
        }
        state.ended >= number
    }

    /// Ends the threads and waits for them (but not for the one that calls).
    pub(super) fn stop(&self) {
        self.shared.state.lock().stopping = true;
        self.shared.wake.notify_all();
        self.shared.done.notify_all();
        self.shared.stream.notify_all();
        self.shared.work.notify_all();
        self.shared.reap.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock());
        for handle in threads {
            if handle.thread().id() != thread::current().id() && handle.join().is_err() {
                ::log::error!("a background thread of the store panicked");
            }
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
    thread::Builder::new()
        .name(format!("razorfs-{name}"))
        .spawn(body)
        .map_err(|source| StoreError::io(format!("starting the {name} thread"), source))
}

/// Sleeps until `deadline`; false when the store is being closed.
fn sleep(shared: &Shared, deadline: Instant) -> bool {
    let mut state = shared.state.lock();
    while !state.stopping {
        if shared.wake.wait_until(&mut state, deadline).timed_out() {
            return !state.stopping;
        }
    }
    false
}

/// Sleeps while something is done never, then until `next` of its interval; the interval, or `None`
/// when the store is being closed. A change of the interval counts at once.
fn sleep_interval(
    shared: &Shared,
    interval: impl Fn(&State) -> Option<Duration>,
    next: impl Fn(Duration) -> Instant,
) -> Option<Duration> {
    let mut state = shared.state.lock();
    while !state.stopping {
        match interval(&state) {
            None => shared.wake.wait(&mut state),
            Some(interval)
                if shared
                    .wake
                    .wait_until(&mut state, next(interval))
                    .timed_out() =>
            {
                return Some(interval).filter(|_| !state.stopping);
            }
            Some(_) => {}
        }
    }
    None
}

/// Bounds what a crash can take of what was not synced; and once nothing changes any more, gives
/// back the memory that changes and their checkpoint took.
fn commit_loop(shared: &Shared, store: &Weak<Store>, interval: Duration) {
    let (mut before, mut given_back) = (None, None);
    while sleep(shared, Instant::now() + interval) {
        let Some(store) = store.upgrade() else {
            return;
        };
        let journal = &store.journal;
        let now = Some((journal.end_lsn(), journal.durable_generation()));
        if now == before && now != given_back {
            crate::memory::give_back();
            given_back = now;
        }
        before = now;
        if let Err(error) = store.commit_tick()
            && store.is_writable()
        {
            ::log::error!("periodic commit: {error}");
        }
    }
}

/// Writes behind those who write much in order.
fn stream_loop(shared: &Shared, store: &Weak<Store>) {
    while let Some((dataset, ino)) = next_stream(shared) {
        let Some(store) = store.upgrade() else {
            return;
        };
        let Some(volume) = store.volume_of(dataset) else {
            continue;
        };
        // The bytes stay where they are, and an fsync says what is wrong.
        if let Err(error) = volume.write_behind(ino) {
            ::log::debug!("writing behind inode {ino}: {error}");
        }
    }
}

/// Waits for a file to write behind; `None` when the store is being closed.
fn next_stream(shared: &Shared) -> Option<(DatasetId, Ino)> {
    let mut state = shared.state.lock();
    while !state.stopping {
        if let Some(file) = state.streams.pop_front() {
            return Some(file);
        }
        shared.stream.wait(&mut state);
    }
    None
}

/// Takes away deleted datasets' trees, and what a crash left of restoring a path.
fn reap_loop(shared: &Shared, store: &Weak<Store>) {
    while wait_for_doomed(shared) {
        let Some(store) = store.upgrade() else {
            return;
        };
        let stop = || shared.state.lock().stopping;
        for volume in store.volumes().iter().filter(|each| each.is_writable()) {
            volume.clear_leftovers(&mut || !stop());
        }
        if let Err(error) = store.reap(&stop)
            && store.is_writable()
        {
            ::log::error!("deleted datasets still take space: {error}");
        }
    }
}

/// Waits until something was deleted; false when the store is being closed.
fn wait_for_doomed(shared: &Shared) -> bool {
    let mut state = shared.state.lock();
    while !state.stopping && !state.doomed {
        shared.reap.wait(&mut state);
    }
    state.doomed = false;
    !state.stopping
}

/// Does what there is to do, to the end: somebody may wait for it.
fn help(shared: &Shared) {
    let mut state = shared.state.lock();
    loop {
        if let Some(work) = state.work.pop_front() {
            MutexGuard::unlocked(&mut state, work);
        } else if state.stopping {
            return;
        } else {
            shared.work.wait(&mut state);
        }
    }
}

/// Scrubs when it is time; goes on at once with one that was interrupted.
fn scrub_loop(shared: &Shared, store: &Weak<Store>) {
    let wanted = |state: &State| state.scrub_interval;
    let mut looked = Instant::now();
    while let Some(interval) = sleep_interval(shared, wanted, |_| looked + LOOK_INTERVAL) {
        looked = Instant::now();
        let Some(store) = store.upgrade() else {
            return;
        };
        match store.scrub_is_due(interval) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) => {
                ::log::error!("there will be no scrub: {error}");
                return;
            }
        }
        let options = ScrubOptions {
            bytes_per_sec: store.options.scrub_bytes_per_sec,
            restart: false,
        };
        // Somebody else scrubs.
        let Some(claim) = store.claim_scrub() else {
            continue;
        };
        let result = claim.run(options, &mut |_| match shared.state.lock().stopping {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        });
        match result {
            Ok(progress) if progress.done => ::log::info!(
                "scrub: {} items, {} bytes read, {} damaged",
                progress.items,
                progress.bytes,
                progress.errors
            ),
            Ok(_) => {}
            Err(error) => {
                ::log::error!("there will be no further scrub: {error}");
                return;
            }
        }
    }
}

/// Gives free space back that nobody needs. What goes wrong there is nobody else's trouble: it is
/// tried again at the next opening.
fn trim_loop(shared: &Shared, store: &Weak<Store>) {
    let wanted = |state: &State| state.trim_interval;
    let mut last = Instant::now();
    let mut names_kept = false;
    let next = |last: Instant, interval: Duration| last + interval.max(Duration::from_millis(1));
    while sleep_interval(shared, wanted, |interval| next(last, interval)).is_some() {
        last = Instant::now();
        let Some(store) = store.upgrade() else {
            return;
        };
        if !store.is_writable() {
            return;
        }
        if let Err(error) = store.trim_idle() {
            ::log::warn!("free space stays with the store until it is reopened: {error}");
            return;
        }
        names_kept = names_kept || !forget_names(shared, &store);
    }
}

/// Has names forgotten that nobody uses, if it is worth it; false when that is not to be tried again.
/// It rests for as long as it works.
fn forget_names(shared: &Shared, store: &Arc<Store>) -> bool {
    let mut pause = |took: Duration| {
        let goes_on = match took.is_zero() {
            true => !shared.state.lock().stopping,
            false => sleep(shared, Instant::now() + took.min(LOOK_INTERVAL)),
        };
        goes_on && Arc::strong_count(store) > 1
    };
    match store.forget_names_idle(&mut pause) {
        Ok(0) | Err(EngineError::Interrupted) => true,
        Ok(bytes) => {
            ::log::info!("{bytes} bytes of names that nobody uses went back to the disk");
            true
        }
        Err(EngineError::Store(StoreError::NoSpace(reason))) => {
            ::log::debug!("names that nobody uses stay for now: {reason}");
            true
        }
        Err(error) => {
            ::log::warn!("names that nobody uses stay until the store is reopened: {error}");
            false
        }
    }
}

/// In a thread of its own: on a slow disk it takes its time, and checkpoints must go on.
fn find_free_pages(store: &Weak<Store>) {
    if let Some(store) = store.upgrade()
        && let Err(error) = store.journal.find_free_pages()
    {
        ::log::error!("nodes.dat will only grow until it is repaired: {error}");
    }
}

fn checkpoint_loop(shared: &Shared, store: &Weak<Store>) {
    let _running = Checkpointing(shared);
    let mut last = Instant::now();
    while wait_for_request(shared) {
        let Some(store) = store.upgrade() else {
            return;
        };
        let due = store.journal.pressure() > Pressure::None
            || last.elapsed() >= CHECKPOINT_INTERVAL
            || shared.state.lock().requested;
        if due {
            {
                let mut state = shared.state.lock();
                state.requested = false;
                state.begun += 1;
            }
            if let Err(error) = store.checkpoint()
                && store.is_writable()
            {
                ::log::error!("checkpoint: {error}");
            }
            last = Instant::now();
            shared.state.lock().ended += 1;
            shared.done.notify_all();
        }
    }
}

/// Waits for a request or a while; false when the store is being closed.
fn wait_for_request(shared: &Shared) -> bool {
    let mut state = shared.state.lock();
    let deadline = Instant::now() + LOOK_INTERVAL;
    while !state.stopping && !state.requested {
        if shared.wake.wait_until(&mut state, deadline).timed_out() {
            break;
        }
    }
    !state.stopping
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    /// Ends the checkpoint under way, and has everyone look.
    fn end_one(background: &Background) {
        background.shared.state.lock().ended += 1;
        background.shared.done.notify_all();
    }

    #[test]
    fn a_new_checkpoint_is_not_the_one_under_way() {
        let background = Background::default();
        {
            let mut state = background.shared.state.lock();
            state.checkpointing = true;
            state.begun = 1;
        }
        let requested = || std::mem::take(&mut background.shared.state.lock().requested);
        thread::scope(|scope| {
            let any = scope.spawn(|| background.wait_for_checkpoint());
            while !requested() {
                thread::yield_now();
            }
            end_one(&background);
            assert!(any.join().unwrap());
            background.shared.state.lock().begun = 2;
            let new = scope.spawn(|| background.wait_for_new_checkpoint());
            while !requested() {
                thread::yield_now();
            }
            end_one(&background);
            thread::sleep(Duration::from_millis(20));
            assert!(
                !new.is_finished(),
                "it waits for one that begins after it asked"
            );
            background.shared.state.lock().begun = 3;
            end_one(&background);
            assert!(new.join().unwrap());
        });
    }

    #[test]
    fn nobody_waits_for_a_checkpoint_that_nobody_makes() {
        let background = Background::default();
        assert!(!background.wait_for_checkpoint() && !background.wait_for_new_checkpoint());
    }
}
