//! Real guests under QEMU: kernel and initial file system from Debian's packages, an agent on a
//! serial port, and power that can be cut.

pub mod image;
pub mod vm;

pub use image::Image;
pub use vm::{Agent, Disk, Emulator, Guest, GuestOptions};

/// What goes wrong around a guest.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

impl Error {
    /// An error with what was being done.
    pub fn new(doing: impl std::fmt::Display, error: impl std::fmt::Display) -> Self {
        Error(format!("{doing}: {error}"))
    }
}

/// A result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
