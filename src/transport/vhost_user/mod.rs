//! A vhost-user virtiofs device: requests come from a guest's virtqueues, in memory it shares.
//!
//! ```text
//! socket    the listening socket: where front-ends connect
//! session   one front-end from connection to disconnection
//! device    its messages: features, memory, rings (vhost-user protocol)
//! frozen    a session that goes on later, or in another process
//! handover  such sessions on their way there
//! transfer  a guest's state on its way to another host
//! status    two more of its messages: that the device needs a reset
//! memory    the guest's memory as mapped here
//! dirty     which of its pages change, while the guest moves
//! ring      one virtqueue's state, and what is in flight on it (VirtIO 1.3, 2.7)
//! chain     one request's descriptors, checked, and the bytes they lead to
//! worker    a ring's threads: take requests, have them answered, give them back
//! lead      which of the two takes them
//! listener  what they sleep for
//! poll      how long one looks for more before it sleeps
//! affinity  which CPU they run on
//! slow      which requests took long, so that the next of their kind goes to the pool
//! pool      threads for requests that wait for the disk, so that rings do not
//! ```
//!
//! The guest is not trusted, its front-end is trusted with the guest's memory only. What the guest
//! can write (rings, descriptors, buffers) is copied, checked, and the copy used; a ring that
//! cannot be understood is reported once and stopped until it is set up anew. Lock order: a
//! device's state, then a ring's. Neither is held while a request is carried out.
//!
//! Of vhost-user-backend the rings are used, but not its daemon: that one owns the connection, so
//! that nobody else can end a session or hand it on, gives a ring back without waiting for what is
//! in flight, and ends a ring's thread when somebody else has taken its kick.

mod affinity;
mod chain;
mod device;
mod dirty;
mod frozen;
mod handover;
#[doc(hidden)]
pub mod in_process;
mod lead;
mod listener;
mod memory;
mod poll;
mod pool;
mod ring;
mod session;
mod slow;
mod socket;
mod status;
mod transfer;
mod worker;

use std::io;
use std::path::PathBuf;

use parking_lot::Mutex;

use crate::engine::SyncPoint;
use crate::server::state::StateError;
use crate::server::{Error, Server};

pub use affinity::Cpus;
pub use chain::{Readable, Writable};
pub use frozen::{Frozen, Standing, Why};
pub(crate) use handover::malformed;
pub use handover::{
    Export, Given, Handover, HandoverError, Program, VERSION, VERSION_OF_NAMES, Wanted,
};
pub use session::{DeviceOptions, Stop, serve};
pub use socket::{Socket, group_id};

/// Request queues at most; each has a thread or two while a front-end uses it.
pub const REQUEST_QUEUES_MAX: usize = 128;

/// Bytes of a tag at most (VirtIO 1.3, 5.11.4).
pub const TAG_BYTES_MAX: usize = 36;

/// Whether a tag can be one.
///
/// # Errors
/// What is wrong with it, for the user.
pub fn check_tag(tag: &str) -> Result<(), String> {
    match !tag.is_empty() && tag.len() <= TAG_BYTES_MAX && !tag.contains('\0') {
        true => Ok(()),
        false => Err(format!(
            "a tag has 1 to {TAG_BYTES_MAX} bytes, none of them 0"
        )),
    }
}

/// What answers a device's requests: a [`Server`], or in benchmarks something that has nothing to
/// do.
pub trait Answer: Send + Sync {
    /// Carries out one request and writes its reply. Returns the reply's length, 0 when the
    /// protocol wants none.
    ///
    /// # Errors
    /// When there was nobody to answer or no room for an answer.
    fn handle(&self, request: Readable<'_>, reply: Writable<'_>) -> Result<usize, Error>;

    /// As [`Answer::handle`] for requests of which [`Server::may_have_to_wait`] is true: when one
    /// would have to wait for something to be written, nothing is done.
    ///
    /// # Errors
    /// As [`Answer::handle`]; [`Error::WouldWait`], or [`Error::Begun`] when the guest makes it an FSYNC
    /// meanwhile.
    fn handle_at_once(&self, request: Readable<'_>, reply: Writable<'_>) -> Result<usize, Error> {
        self.handle(request, reply)
    }

    /// Begins a request of which [`Server::can_be_begun`] is true, and carries it out when there is
    /// nothing to wait for.
    ///
    /// # Errors
    /// As [`Answer::handle`]; [`Error::Begun`] when [`Answer::finish`] is to wait, [`Error::WouldWait`]
    /// when nothing could be begun.
    fn begin(&self, _request: Readable<'_>, _reply: Writable<'_>) -> Result<usize, Error> {
        Err(Error::WouldWait)
    }

    /// Waits for what was begun, by then or before, and answers one of the requests.
    ///
    /// # Errors
    /// As [`Answer::handle`].
    fn finish(
        &self,
        _point: SyncPoint,
        request: Readable<'_>,
        reply: Writable<'_>,
    ) -> Result<usize, Error> {
        self.handle(request, reply)
    }

    /// Whether requests can be answered: not while another process has the store.
    fn is_there(&self) -> bool {
        true
    }

    /// The guest's mount as bytes: see [`Server::save`].
    ///
    /// # Errors
    /// As there.
    fn save(&self) -> Result<Vec<u8>, StateError> {
        Ok(Vec::new())
    }

    /// Goes on with a mount, before the first request: see [`Server::restore`].
    ///
    /// # Errors
    /// As there.
    fn restore(&self, _mount: &[u8]) -> Result<(), StateError> {
        Ok(())
    }

    /// Ends the session: the kernel on the other side is gone or starts again.
    fn reset(&self);

    /// Whether a WRITE may have to wait for the disk now.
    fn writes_may_wait(&self) -> bool {
        false
    }
}

impl Answer for Server {
    fn handle(&self, request: Readable<'_>, reply: Writable<'_>) -> Result<usize, Error> {
        Server::handle(self, request, reply)
    }

    fn handle_at_once(&self, request: Readable<'_>, reply: Writable<'_>) -> Result<usize, Error> {
        Server::handle_at_once(self, request, reply)
    }

    fn begin(&self, request: Readable<'_>, reply: Writable<'_>) -> Result<usize, Error> {
        Server::handle_at_once(self, request, reply)
    }

    fn finish(
        &self,
        point: SyncPoint,
        request: Readable<'_>,
        reply: Writable<'_>,
    ) -> Result<usize, Error> {
        Server::finish(self, point, request, reply)
    }

    fn save(&self) -> Result<Vec<u8>, StateError> {
        Server::save(self)
    }

    fn restore(&self, mount: &[u8]) -> Result<(), StateError> {
        Server::restore(self, mount)
    }

    fn reset(&self) {
        Server::reset(self);
    }

    fn writes_may_wait(&self) -> bool {
        self.fs().volume().writes_may_wait()
    }
}

/// Answers nothing, while the store is elsewhere, and keeps what is known of the guest's mount.
#[derive(Default)]
pub struct Absent {
    mount: Mutex<Vec<u8>>,
}

impl Answer for Absent {
    fn handle(&self, _: Readable<'_>, _: Writable<'_>) -> Result<usize, Error> {
        let reason = "the store is not open";
        Err(Error::Request(io::Error::other(reason)))
    }

    fn is_there(&self) -> bool {
        false
    }

    fn save(&self) -> Result<Vec<u8>, StateError> {
        Ok(self.mount.lock().clone())
    }

    fn restore(&self, mount: &[u8]) -> Result<(), StateError> {
        *self.mount.lock() = mount.to_vec();
        Ok(())
    }

    fn reset(&self) {
        self.mount.lock().clear();
    }
}

/// Why the device cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum VhostUserError {
    /// Something that is not a socket has the path.
    #[error("{0} exists and is not a socket")]
    NotSocket(PathBuf),
    /// Another program listens there.
    #[error("{0} is in use: another program listens on it")]
    InUse(PathBuf),
    /// The socket cannot be made.
    #[error("cannot listen on {path}: {source}")]
    Listen {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is no such group.
    #[error("no group '{0}'")]
    NoGroup(String),
    /// A descriptor that was handed over is not a listening socket.
    #[error("file descriptor {0} is not a listening unix socket")]
    NotListening(i32),
    /// The system refused something a device needs.
    #[error("{what}: {source}")]
    System {
        /// What for.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl VhostUserError {
    fn system(what: &'static str) -> impl Fn(io::Error) -> VhostUserError {
        move |source| VhostUserError::System { what, source }
    }
}
