//! The daemon's side: HTTP/1.1 and JSON, in a thread of its own.
//!
//! ```text
//! handlers     each path and method, and the document that describes them
//! exchange     requests to types, results to answers
//! connections  accepting, limits, the end
//! ```
//!
//! What may touch the disk runs in threads for that, a few at a time: the thread of the connections
//! only waits for sockets. A request whose client has gone is carried out to the end all the same.

mod connections;
mod exchange;
mod handlers;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::activity::{self, Activity};
use super::api::{ErrorKind, Failure};
use super::operations;
use crate::engine::Store;
use crate::export::Exports;

pub use connections::{Running, start};
pub use handlers::{document, router};

/// Requests in work or waiting for a thread, at most. Whoever goes away does not take back what was
/// asked for.
const REQUESTS_MAX: usize = 128;

/// What requests are about.
#[derive(Clone)]
pub struct Served {
    store: Arc<Store>,
    exports: Arc<Exports>,
    room: Arc<Semaphore>,
}

impl Served {
    /// An open store, and what of it is exported.
    #[must_use]
    pub fn new(store: Arc<Store>, exports: Arc<Exports>) -> Self {
        Served {
            store,
            exports,
            room: Arc::new(Semaphore::new(REQUESTS_MAX)),
        }
    }

    /// What happens in the store and at its exports.
    async fn activity(&self) -> Result<Activity, Failure> {
        let exports = Arc::clone(&self.exports);
        let gather = move |store: &_| {
            let all = exports.list();
            let described = all.iter().map(|each| {
                let described = operations::as_export(store, each)?;
                Ok((described.dataset, described.socket, each.meter.read()))
            });
            let described: Vec<_> = described.collect::<Result<_, Failure>>()?;
            activity::gather(store, described.into_iter())
        };
        self.run(gather).await
    }

    /// Does something that may wait for the disk.
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
