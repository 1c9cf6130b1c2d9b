//! The socket where a new razorfsd asks the one that serves a store for its guests: `handover.sock` in
//! the store's directory, for the daemon's user alone.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use crate::control::socket::{Listener, SocketError, connect};
use crate::export::Exports;
use crate::transport::vhost_user::{Handover, HandoverError, Program, Standing};

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

/// A process that asks for the guests, and how it calls their exports.
pub struct Asked {
    handover: Handover,
    names: Vec<String>,
}

impl Asked {
    /// Its number, when it is visible here.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        self.handover.peer()
    }

    /// Gives it what it asked for, of all that there is; see [`Handover::give`].
    ///
    /// # Errors
    /// As there; when it is not all.
    pub fn give(mut self, all: &[(String, &Standing)]) -> Result<(), HandoverError> {
        let found = |name| all.iter().find(|(its, _)| its == name).cloned();
        let named: Option<Vec<_>> = self.names.iter().map(found).collect();
        match named.filter(|named| named.len() == all.len()) {
            Some(named) => self.handover.give(&named),
            None => {
                let changed = "what is exported has changed meanwhile";
                self.handover.refuse(changed);
                Err(HandoverError::NotNow(changed))
            }
        }
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
        match handover.asked(program) {
            Ok(None) => {}
            Ok(Some(names)) => match differs(exports, &names) {
                None => return Some(Asked { handover, names }),
                Some(reason) => {
                    log::warn!("another razorfsd wants to take over: {reason}");
                    handover.refuse(&reason);
                }
            },
            Err(error) => log::warn!("{error}"),
        }
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
