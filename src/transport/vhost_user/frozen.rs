//! A session that was stopped between two messages and goes on: once the store is open again, or in
//! another process.
//!
//! Nothing is in flight in it. It has what the front-end has set up (features, memory, rings with
//! their events), the connection, where its next message waits, and the guest's mount as bytes.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::dirty::DirtyLog;
use super::memory::Table;
use super::ring::FrozenRing;
use super::session::DeviceOptions;
use super::socket::Socket;
use super::transfer::{Transfer, finished};

/// A device as its front-end has set it up.
#[derive(Default)]
pub(super) struct FrozenDevice {
    pub(super) owned: bool,
    pub(super) features: u64,
    pub(super) protocol_features: u64,
    pub(super) status: u8,
    pub(super) table: Table,
    pub(super) log: Option<Arc<DirtyLog>>,
    pub(super) rings: Vec<FrozenRing>,
    pub(super) transfer: Transfer,
}

/// A session between two servers.
pub struct Frozen {
    pub(super) stream: UnixStream,
    /// The front-end's process, when known.
    pub(super) peer: Option<u32>,
    pub(super) device: FrozenDevice,
    /// What [`super::Answer::save`] said.
    pub(super) mount: Vec<u8>,
    /// The mount has just come from another host.
    pub(super) arrived: bool,
    /// It has come from another host, and the guest has not run here since.
    pub(super) waits: bool,
}

impl Frozen {
    /// Whether the guest's state is wanted elsewhere: see [`Frozen::send`].
    #[must_use]
    pub fn leaves(&self) -> bool {
        matches!(self.device.transfer, Transfer::Wanted(_))
    }

    /// Sends the guest's state to where it is wanted. To be called once the store was let go:
    /// whoever has the state takes it up.
    pub fn send(&mut self) {
        let transfer = std::mem::take(&mut self.device.transfer);
        self.device.transfer = match transfer {
            Transfer::Wanted(file) => Transfer::send(file, self.mount.clone()),
            other => other,
        };
    }

    /// The guest's state is not sent after all: its front-end is told so when it asks.
    pub fn stay(&mut self, reason: &str) {
        if self.leaves() {
            self.device.transfer = Transfer::Done(Err(reason.to_owned()));
        }
    }

    /// Takes a guest's state that was sent here into the session, in the place of what it had. What
    /// went wrong with it the front-end is told when it asks.
    pub fn take_arrived(&mut self) {
        self.device.transfer = match std::mem::take(&mut self.device.transfer) {
            Transfer::Receiving(thread) => Transfer::Done(finished(thread).map(|mount| {
                self.mount = mount;
                (self.arrived, self.waits) = (true, true);
            })),
            other => other,
        };
    }

    /// A guest that has just come from another host cannot go on here: its front-end is told so when
    /// it asks. For others nothing changes.
    pub fn give_up(&mut self, reason: &str) {
        if std::mem::take(&mut self.arrived) {
            log::error!("the guest cannot go on here: {reason}");
            self.mount.clear();
            self.device.transfer = Transfer::Done(Err(reason.to_owned()));
        }
    }

    /// Sees that a device with these options can go on with it.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn check_fits(&self, options: &DeviceOptions) -> Result<(), String> {
        let (theirs, ours) = (self.device.rings.len(), options.queues());
        if theirs > ours {
            return Err(format!("it has {theirs} queues, and here are {ours}"));
        }
        let memory = self.device.table.memory();
        memory.map(drop).map_err(|error| error.to_string())
    }

    /// Whether the guest waits for answers.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.device.rings.iter().any(|ring| ring.place.started)
    }

    /// The guest's mount, as bytes.
    #[must_use]
    pub fn mount(&self) -> &[u8] {
        &self.mount
    }

    /// Has the session go on with another state of the guest's mount.
    pub fn set_mount(&mut self, mount: Vec<u8>) {
        self.mount = mount;
    }
}

/// Where front-ends connect, and one that did.
pub struct Standing {
    /// The listening socket.
    pub socket: Socket,
    /// A session to go on with.
    pub frozen: Option<Frozen>,
}

impl From<Socket> for Standing {
    fn from(socket: Socket) -> Self {
        Standing {
            socket,
            frozen: None,
        }
    }
}

/// Why serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It was told to, or the only front-end that was to come is gone.
    Stopped,
    /// It was told to freeze.
    Frozen,
    /// The guest moves to another host: the store is to be let go, and then [`Frozen::send`] called.
    Leaves,
    /// There is no store, and the front-end wants something that needs one.
    NeedsStore,
    /// The guest had come from elsewhere, and its front-end is gone without starting it: it may go
    /// on where it was, which needs the store.
    NeverRan,
}
