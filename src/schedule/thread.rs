//! Who takes scheduled snapshots.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::due::Moment;
use super::{Schedule, Work};
use crate::engine::Store;

/// How often the clock is looked at: so late may a snapshot be.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// A thread that takes them. Dropped, it ends: what it has begun with the store is over then.
pub struct Scheduler {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    ending: bool,
    /// There is something to do now and then.
    wanted: bool,
    /// Schedules that take the place of those before.
    replaced: Option<Vec<Schedule>>,
}

impl Scheduler {
    /// Begins.
    ///
    /// # Errors
    /// When the system has no more threads.
    pub fn start(store: Arc<Store>, schedules: Vec<Schedule>) -> io::Result<Scheduler> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("razorfs-schedule".into())
            .spawn(move || run(&theirs, &store))?;
        let scheduler = Scheduler {
            shared,
            thread: Some(thread),
        };
        scheduler.replace(schedules);
        Ok(scheduler)
    }

    /// Other schedules from here on. Those that stay go on where they are.
    pub fn replace(&self, schedules: Vec<Schedule>) {
        let mut state = self.shared.state.lock();
        state.wanted = !schedules.is_empty();
        state.replaced = Some(schedules);
        self.shared.wake.notify_all();
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.shared.state.lock().ending = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread of scheduled snapshots failed");
        }
    }
}

fn run(shared: &Shared, store: &Arc<Store>) {
    let begin = Instant::now();
    let mut work = Work::default();
    while wait(shared, &mut work) {
        let now = Moment {
            wall: store.now().sec,
            running: begin.elapsed(),
        };
        work.tick(store, now, &|| shared.state.lock().ending);
    }
}

/// Waits for the next look at the clock; false when it is to end.
fn wait(shared: &Shared, work: &mut Work) -> bool {
    let mut state = shared.state.lock();
    let deadline = Instant::now() + LOOK_INTERVAL;
    loop {
        if state.ending {
            return false;
        }
        if let Some(schedules) = state.replaced.take() {
            work.replace(schedules);
            return true;
        }
        if !state.wanted {
            shared.wake.wait(&mut state);
        } else if shared.wake.wait_until(&mut state, deadline).timed_out() {
            return true;
        }
    }
}
