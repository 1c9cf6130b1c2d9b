//! The daemon's side: HTTP/1.1 and JSON, in a thread of its own.
//!
//! ```text
//! handlers     each path and method, and the document that describes them
//! exchange     requests to types, results to answers
//! connections  accepting, limits, the end
//! stream       answers that are made while they are taken
//! upload       bodies that are read while they come
//! events       what happens, for those who watch
//! unknown      connections of which it is not known yet whose they are
//! ```
//!
//! What may touch the disk runs in threads for that, a few at a time: the thread of the connections
//! only waits for sockets. A request whose client has gone is carried out to the end all the same.

mod connections;
mod events;
mod exchange;
mod handlers;
mod stream;
#[cfg(test)]
mod tests;
mod unknown;
mod upload;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::activity::{self, Activity, Watched};
use super::api::{ErrorKind, Failure, NewScrub};
use crate::engine::{ScrubOptions, Store};
use crate::export::Exports;

pub use connections::{Listeners, Running, start};
pub use handlers::{document, router};

/// Requests in work or waiting for a thread, at most. Whoever goes away does not take back what was
/// asked for.
const REQUESTS_MAX: usize = 128;
/// Snapshots that are sent or received, and files that are written anew, at a time.
const STREAMS_MAX: usize = 4;
/// Clients that watch what happens, at a time.
const WATCHERS_MAX: usize = 16;

/// Says whether to go on with what takes long.
type GoOn<'a> = dyn FnMut() -> bool + 'a;

/// What requests are about.
#[derive(Clone)]
pub struct Served {
    store: Arc<Store>,
    exports: Arc<Exports>,
    room: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    watchers: Arc<Semaphore>,
    /// How long nothing of a body may come.
    silence: Duration,
    /// The server ends: what takes long is to stop.
    ending: Arc<AtomicBool>,
}

impl Served {
    /// An open store, and what of it is exported.
    #[must_use]
    pub fn new(store: Arc<Store>, exports: Arc<Exports>) -> Self {
        Served {
            store,
            exports,
            room: Arc::new(Semaphore::new(REQUESTS_MAX)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            watchers: Arc::new(Semaphore::new(WATCHERS_MAX)),
            silence: connections::Limits::default().silence,
            ending: Arc::default(),
        }
    }

    /// What happens in the store and at its exports.
    async fn activity(&self) -> Result<Activity, Failure> {
        let exports = Arc::clone(&self.exports);
        let gather = move |store: &_| {
            let all = exports.list().into_iter();
            let watched = all.map(|each| Watched {
                dataset: each.dataset,
                socket: each.socket,
                is_stale: each.stale,
                metered: each.meter.read(),
            });
            activity::gather(store, watched)
        };
        self.run(gather).await
    }

    /// Room for something that takes long.
    fn take_long(&self) -> Result<OwnedSemaphorePermit, Failure> {
        let room = Arc::clone(&self.streams).try_acquire_owned();
        let message = "as much that takes long is done as can be at a time: try again";
        room.map_err(|_| Failure::new(ErrorKind::Overloaded, message))
    }

    /// Has what takes long stop soon.
    fn end(&self) {
        self.ending.store(true, Ordering::Release);
        self.store.stop_scrub();
    }

    /// Whether what takes long is to stop: the server ends, or guests wait, as they do from the moment
    /// on in which exports begin to end.
    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire) || self.exports.is_ending()
    }

    /// Begins to read everything that is stored, unless that is under way; whether it was begun now.
    fn scrub(&self, how: NewScrub) -> bool {
        let Some(claim) = self.store.claim_scrub() else {
            return false;
        };
        let options = ScrubOptions {
            bytes_per_sec: how.bytes_per_second.unwrap_or(0),
            restart: how.restart,
        };
        let served = self.clone();
        tokio::task::spawn_blocking(move || {
            let go_on = &mut |_: &_| match served.is_ending() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            };
            if let Err(error) = claim.run(options, go_on) {
                log::error!("a scrub ended: {error}");
            }
        });
        true
    }

    /// Does something that takes long, and is told when it is to stop.
    async fn run_long<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Arc<Store>, &mut GoOn<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let served = self.clone();
        let act = move |store: &_| act(store, &mut || !served.is_ending());
        self.run(act).await
    }

    /// The same, of what keeps the disk busy or a client waiting: only few are done at a time.
    async fn run_one_of_few<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Arc<Store>, &mut GoOn<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let room = self.take_long()?;
        let act = move |store: &_, go_on: &mut GoOn<'_>| {
            let done = act(store, go_on);
            drop(room);
            done
        };
        self.run_long(act).await
    }

    /// Does something that may wait for the disk, and takes no longer for a larger tree.
    async fn run<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Arc<Store>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else {
            let message = "too many requests are being carried out: try again";
            return Err(Failure::new(ErrorKind::Overloaded, message));
        };
        let store = Arc::clone(&self.store);
        let work = move || {
            let done = act(&store);
            drop(room);
            done
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|_| Err(Failure::new(ErrorKind::Failed, "the daemon ends")))
    }
}
