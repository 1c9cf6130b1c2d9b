//! A virtual machine's side of a razorfs device, without a virtual machine.
//!
//! ```text
//! fuse      requests and their answers, typed, one at a time or many in flight
//! device    a connection to razorfsd: features, memory, queues, stop and reset
//! queue     the driver's side of a split virtqueue
//! memory    shared memory and buffers in it
//! hostile   messages and rings that no driver sends, out of arbitrary bytes
//! ```
//!
//! Each layer lets its caller reach under it, so that tests can do what no driver does. The
//! structures of FUSE are defined here once more, from the kernel's header, so that a mistake in
//! the server's does not cancel out.

pub mod device;
pub mod fuse;
pub mod hostile;
pub mod memory;
pub mod queue;

use std::time::Duration;

pub use device::{Device, Mount, Options};
pub use fuse::{Client, Request, Ticket};
pub use memory::{Memory, Part};
pub use queue::{Descriptor, Queue};

/// How long anything may take before it counts as never.
pub const WAIT: Duration = Duration::from_secs(20);

/// What can go wrong with a request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server's answer.
    #[error("answered with {}", std::io::Error::from_raw_os_error(*.0))]
    Errno(i32),
    /// No answer came.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// No memory or no descriptors are left.
    #[error("no room for another request")]
    Full,
    /// The device did what the protocols do not allow.
    #[error("against the protocol: {0}")]
    Protocol(String),
    /// The device does not offer what was asked for.
    #[error("not offered: {0}")]
    NotOffered(&'static str),
    /// Guest memory.
    #[error("guest memory: {0}")]
    Memory(String),
    /// The connection is gone, or a message was refused.
    #[error("vhost-user: {0}")]
    Vhost(#[from] vhost::Error),
    /// The system.
    #[error("{0}")]
    System(#[from] std::io::Error),
}

impl Error {
    /// The server's error number, if that is what it is.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Errno(errno) => Some(*errno),
            _ => None,
        }
    }
}

/// With [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
