//! The socket where a new razorfsd asks the one that serves a store for its guests: `handover.sock` in
//! the store's directory, for the daemon's user alone.
//!
//! What is handed over is what is exported then, whoever had it exported: the configuration or a
//! request. The configuration of both has to name the same, unless the new process brings what its
//! own says in force itself, as by a reload.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::described::{self, About};
use crate::control::socket::{Listener, SocketError, connect};
use crate::export::{Exports, Left, NewExport};
use crate::transport::vhost_user::{
    Export, Given, Handover, HandoverError, Program, Standing, VERSION_OF_NAMES, Wanted,
};

/// The socket's name in the store's directory.
pub const SOCKET_FILE: &str = "handover.sock";

/// Where the socket of a store is.
#[must_use]
pub fn path_of(store: &Path) -> PathBuf {
    store.join(SOCKET_FILE)
}

/// Connects to the daemon that serves a store.
///
/// # Errors
/// When none does, or it may not be spoken to.
pub fn ask(store: &Path) -> io::Result<Handover> {
    Handover::new(connect(&path_of(store))?)
}

/// A process that asks for the guests.
pub struct Asked {
    handover: Handover,
    /// The names of what it asks for, if it speaks the version in which that is all there is.
    names: Option<Vec<String>>,
    /// What its configuration has exported is something else than what is known here.
    is_changed: bool,
}

impl Asked {
    /// Its number, when it is visible here.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        self.handover.peer()
    }

    /// Gives it all that there is, and the socket on which the daemon listens for other machines; see
    /// [`Handover::give`].
    ///
    /// # Errors
    /// As there; when it has asked for something else, or does not know all of it.
    pub fn give(mut self, all: &[Left], tcp: Option<BorrowedFd<'_>>) -> Result<(), HandoverError> {
        match self.given(all, tcp) {
            Ok(given) => self.handover.give(&given),
            Err(error) => {
                self.handover.refuse(&error.to_string());
                Err(error)
            }
        }
    }

    fn given<'a>(
        &self,
        all: &'a [Left],
        tcp: Option<BorrowedFd<'a>>,
    ) -> Result<Given<&'a Standing, BorrowedFd<'a>>, HandoverError> {
        let export = |left: &'a Left, about| Export {
            name: left.name(),
            about,
            standing: &left.standing,
        };
        let Some(names) = &self.names else {
            let about = About {
                is_changed: self.is_changed,
                has_tcp: tcp.is_some(),
            };
            let described = |left| Ok(export(left, Some(described::export(left)?)));
            return Ok(Given {
                about: Some(about.said()?),
                socket: tcp,
                exports: all
                    .iter()
                    .map(described)
                    .collect::<Result<_, HandoverError>>()?,
            });
        };
        if tcp.is_some() {
            let reason = "it is too old to go on with --control-tcp";
            return Err(HandoverError::NotNow(reason));
        }
        let found = |name: &String| all.iter().find(|left| left.name() == *name);
        let named = names.iter().map(|name| Some(export(found(name)?, None)));
        let named: Option<Vec<_>> = named.collect();
        let named = named.filter(|named| named.len() == all.len());
        let changed = HandoverError::NotNow("what is exported has changed meanwhile");
        Ok(Given {
            about: None,
            socket: None,
            exports: named.ok_or(changed)?,
        })
    }

    /// Tells it that it gets nothing.
    pub fn refuse(mut self, reason: &str) {
        self.handover.refuse(reason);
    }
}

/// Waits for a process that asks for the guests. Dropped, it waits no more, and the socket is gone.
pub struct Requests {
    end: Arc<EventFd>,
    asked: Arc<Mutex<Option<Asked>>>,
    thread: Option<JoinHandle<()>>,
}

impl Requests {
    /// Freezes `exports` when a process asks for all of them. Tells whoever asks what runs here.
    ///
    /// # Errors
    /// When there can be no such socket, or no thread.
    pub fn listen(
        store: &Path,
        exports: Arc<Exports>,
        program: Program,
    ) -> Result<Requests, SocketError> {
        let path = path_of(store);
        let listener = Listener::bind(&path)?;
        let failed = |source| SocketError::Listen {
            path: path.clone(),
            source,
        };
        let end = EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).map_err(failed)?;
        let end = Arc::new(end);
        let asked = Arc::<Mutex<Option<Asked>>>::default();
        let (ended, found) = (end.clone(), asked.clone());
        let thread = std::thread::Builder::new()
            .name("razorfs-handover".into())
            .spawn(move || {
                // The first has it.
                if let Some(asked) = next(&listener, &ended, &exports, program) {
                    log::info!("another razorfsd takes over");
                    *found.lock() = Some(asked);
                    exports.freeze();
                }
            })
            .map_err(failed)?;
        Ok(Requests {
            end,
            asked,
            thread: Some(thread),
        })
    }

    /// Ends the waiting; the process that has asked, if one has.
    #[must_use]
    pub fn end(mut self) -> Option<Asked> {
        self.join();
        self.asked.lock().take()
    }

    fn join(&mut self) {
        // It fails when there have been 2^64 of them.
        let _ = self.end.write(1);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread that waits for another razorfsd failed");
        }
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.join();
        if let Some(asked) = self.asked.lock().take() {
            asked.refuse("the daemon ends");
        }
    }
}

/// The next process that asks for these exports; none at the end.
fn next(listener: &Listener, end: &EventFd, exports: &Exports, program: Program) -> Option<Asked> {
    loop {
        match wait(listener, end) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => {
                log::error!("no other razorfsd can take over: {error}");
                return None;
            }
        }
        let asked = listener.accept().and_then(Handover::new);
        let Ok(mut handover) = asked else {
            continue;
        };
        let wanted = match handover.asked(program) {
            Ok(None) => continue,
            Ok(Some(wanted)) => wanted,
            Err(error) => {
                log::warn!("{error}");
                continue;
            }
        };
        match asked_by(handover, exports, wanted) {
            Ok(asked) => return Some(asked),
            Err(reason) => log::warn!("another razorfsd wants to take over: {reason}"),
        }
    }
}

/// A process that can have what it asks for; else it is told why not.
pub(super) fn asked_by(
    mut handover: Handover,
    exports: &Exports,
    wanted: Wanted,
) -> Result<Asked, HandoverError> {
    match fits(exports, wanted) {
        Ok((names, is_changed)) => Ok(Asked {
            handover,
            names,
            is_changed,
        }),
        Err(reason) => {
            handover.refuse(&reason.to_string());
            Err(reason)
        }
    }
}

/// Whether a process can have what it asks for: what [`Asked`] is to know of it.
fn fits(exports: &Exports, wanted: Wanted) -> Result<(Option<Vec<String>>, bool), HandoverError> {
    if wanted.version == VERSION_OF_NAMES {
        return match differs(exports, &wanted.names) {
            None => Ok((Some(wanted.names), false)),
            Some(reason) => Err(HandoverError::NotAll(reason)),
        };
    }
    let (wanted, follows) = described::wished(wanted.about)?;
    let is_changed = exports.would_change(&wanted);
    match is_changed && !follows {
        true => Err(HandoverError::NotAll(format!(
            "it is to export {}, and was asked for {}: start it so",
            listed(&exports.named()),
            listed(&wanted)
        ))),
        false => Ok((None, is_changed)),
    }
}

fn listed(exports: &[NewExport]) -> String {
    let all: Vec<_> = exports.iter().map(ToString::to_string).collect();
    match all.is_empty() {
        true => "nothing".to_owned(),
        false => all.join("; "),
    }
}

/// In what the names of exports differ from those that are served.
fn differs(exports: &Exports, names: &[String]) -> Option<String> {
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    let (ours, theirs) = (sorted(exports.names()), sorted(names.to_vec()));
    let (named, wanted) = (ours.join(", "), theirs.join(", "));
    let reason = format!("it serves {named}, and was asked for {wanted}: start it so");
    (ours != theirs).then_some(reason)
}

/// Waits for a connection, or the end: false then.
fn wait(listener: &Listener, end: &EventFd) -> io::Result<bool> {
    let epoll = Epoll::new()?;
    let listener = listener.listener()?;
    for fd in [listener.as_raw_fd(), end.as_raw_fd()] {
        epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, 0))?;
    }
    loop {
        match epoll.wait(-1, &mut [EpollEvent::default(); 2]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(end.read().is_err()),
        }
    }
}
