//! What the service manager is told, where one asks (sd_notify(3)): when guests are served, what is
//! served, that opening a store goes on, and that the daemon lives.
//!
//! Nothing depends on whether it is heard: what cannot be told is logged. The thread that tells that
//! the daemon lives looks at what guests' requests and commands need, and waits for the locks of
//! that: whoever holds one for ever, keeps it from telling. It never waits for the disk.

use std::io;
use std::time::Duration;

use razorfs::export::Exports;
use razorfs::ticker::Ticker;
use sd_notify::NotifyState;

use crate::signals::{Followed, Look};

/// How often it is looked for something to tell.
const TICK: Duration = Duration::from_secs(10);
/// How much longer opening a store may take each time it is told that it goes on.
const EXTENSION_US: u32 = 60_000_000;
/// How often the manager hears that the daemon lives in the time after which it would not believe so.
const BEATS: u32 = 3;
/// Exports that are named; more are only counted.
const NAMED_MAX: usize = 4;

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("the service manager cannot be told {states:?}: {error}");
    }
}

/// Guests are served, or front-ends are waited for.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is read again, until it is [`reloaded`].
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// What was read is in force, or nothing has changed.
pub fn reloaded() {
    tell(&[NotifyState::Ready]);
}

/// Another process serves the guests, and is the service from here on. Said before this one ends,
/// so that the manager never sees the service end.
pub fn goes_on_in(process: u32) {
    tell(&[NotifyState::MainPid(process)]);
}

/// The daemon ends.
pub fn stopping() {
    let status = "closing the store";
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// What is served, in a line.
pub fn status(store: &str, exports: &Exports) -> String {
    let all = exports.list();
    let named = all.iter().take(NAMED_MAX);
    let mut named: Vec<_> = named.map(|each| each.socket.clone()).collect();
    match all.len().saturating_sub(NAMED_MAX) {
        _ if all.is_empty() => named.push("no socket".into()),
        0 => {}
        more => named.push(format!("{more} more")),
    }
    format!("serving {store} on {}", named.join(", "))
}

/// Tells what is to be told again and again, until what it returns is dropped, if there is a service
/// manager that listens.
///
/// # Errors
/// When there can be no thread for it.
pub fn report(store: String, followed: Followed) -> io::Result<Option<Ticker>> {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return Ok(None);
    }
    let patience = sd_notify::watchdog_enabled();
    let tick = patience.map_or(TICK, |patience| TICK.min(patience / BEATS));
    let mut told = Told {
        store,
        followed,
        is_watched: patience.is_some(),
        status: String::new(),
    };
    told.tick();
    Ticker::start("razorfs-service", tick, tick, move || told.tick()).map(Some)
}

struct Told {
    store: String,
    followed: Followed,
    is_watched: bool,
    /// The last status.
    status: String,
}

impl Told {
    fn tick(&mut self) {
        let mut states = Vec::new();
        let status = match self.followed.look() {
            Look::Opening => {
                states.push(NotifyState::ExtendTimeoutUsec(EXTENSION_US));
                Some(format!("opening {}", self.store))
            }
            Look::Store(store, exports) => {
                // The locks that matter, whatever it says.
                let _ = store.activity();
                Some(status(&self.store, &exports))
            }
            Look::Other => None,
        };
        if let Some(status) = status
            && status != self.status
        {
            self.status = status;
            states.push(NotifyState::Status(&self.status));
        }
        if self.is_watched {
            states.push(NotifyState::Watchdog);
        }
        if !states.is_empty() {
            tell(&states);
        }
    }
}
