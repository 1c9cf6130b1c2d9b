//! What happens, as server-sent events (HTML Living Standard, 9.2).
//!
//! Each watcher has a task that reads the store's latest events and writes them to a short channel.
//! A slow one reads late, and is told how many it missed; nothing is kept for it. What has nothing to
//! say says that it is there, so that who has gone is noticed.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use hyper::body::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::Served;
use super::stream::lasting;
use crate::control::api::{ErrorKind, Failure};
use crate::control::operations::as_event;
use crate::control::pieces::Pieces;
use crate::engine::{Events, Store};

/// Events told together.
const BATCH: usize = 64;
/// Batches that wait to be taken, at most.
const WAITING_MAX: usize = 2;
/// How often it is looked whether the store takes changes.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often something is said where nothing happens.
const ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// A line that says nothing.
const ALIVE: &[u8] = b":\n\n";

impl Served {
    /// Tells what happens from now on, or what happened behind an event.
    pub(super) fn watch(&self, after: Option<u64>) -> Result<Response, Failure> {
        let Ok(room) = Arc::clone(&self.watchers).try_acquire_owned() else {
            let message = "as many watch as can at a time: try again";
            return Err(Failure::new(ErrorKind::Overloaded, message));
        };
        let (sender, pieces) = mpsc::channel(WAITING_MAX);
        let watcher = Watcher {
            store: Arc::clone(&self.store),
            sender,
        };
        // Before the answer: what happens behind it is told.
        let latest = self.store.latest_event();
        let after = after.unwrap_or_else(|| *latest.borrow());
        tokio::spawn(async move {
            // It ends when nobody takes what it says.
            let _ = watcher.tell(after, latest).await;
            drop(room);
        });
        Ok(lasting("text/event-stream", Pieces(pieces)))
    }
}

/// Nobody takes it any more.
struct Gone;

struct Watcher {
    store: Arc<Store>,
    sender: mpsc::Sender<io::Result<Bytes>>,
}

impl Watcher {
    async fn say(&self, piece: Bytes) -> Result<(), Gone> {
        self.sender.send(Ok(piece)).await.map_err(|_| Gone)
    }

    async fn tell(
        &self,
        mut after: u64,
        mut latest: tokio::sync::watch::Receiver<u64>,
    ) -> Result<(), Gone> {
        self.say(Bytes::from_static(ALIVE)).await?;
        loop {
            latest.borrow_and_update();
            let found = self.store.events_after(after, BATCH);
            if found.missed.is_some() || !found.events.is_empty() {
                let last = found.events.last().map(|event| event.id);
                after = last.unwrap_or(found.latest);
                self.say(as_text(&found, after)).await?;
                continue;
            }
            let end = Instant::now() + ALIVE_INTERVAL;
            loop {
                let look = end.min(Instant::now() + LOOK_INTERVAL);
                match timeout_at(look, latest.changed()).await {
                    Ok(Ok(())) => break,
                    Ok(Err(_)) => return Err(Gone),
                    Err(_) => self.store.note_read_only(),
                }
                if self.sender.is_closed() {
                    return Err(Gone);
                }
                if Instant::now() >= end {
                    self.say(Bytes::from_static(ALIVE)).await?;
                    break;
                }
            }
        }
    }
}

/// Events as they are told.
fn as_text(found: &Events, last: u64) -> Bytes {
    let mut text = String::new();
    // Writing to a string does not fail.
    if let Some(missed) = found.missed {
        let before = found.events.first();
        let before = before.map_or(last, |event| event.id.saturating_sub(1));
        let _ = write!(
            text,
            "id: {before}\nevent: missed\ndata: {{\"missed\":{missed}}}\n\n"
        );
    }
    for event in &found.events {
        let event = as_event(event);
        let json = |value: serde_json::Result<String>| value.unwrap_or_default();
        let kind = json(serde_json::to_string(&event.event));
        let (kind, data) = (kind.trim_matches('"'), json(serde_json::to_string(&event)));
        let _ = write!(text, "id: {}\nevent: {kind}\ndata: {data}\n\n", event.id);
    }
    text.into()
}
