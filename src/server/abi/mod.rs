//! The messages of the FUSE protocol, as `include/uapi/linux/fuse.h` of Linux 6.6 (7.39) has them.
//!
//! Numbers are in the byte order of the kernel that talks, which is the host's (virtio-fs has no
//! cross-endian mode: VirtIO 1.3, 5.11.6). Everything here is plain data that any bytes are valid
//! for: a request is copied out of memory once, and only the copy is looked at.

mod replies;
mod requests;

pub use replies::*;
pub use requests::*;

/// Protocol major.
pub const MAJOR: u32 = 7;
/// Protocol minor that is spoken at most.
pub const MINOR: u32 = 39;
/// The oldest minor that is spoken: structures had other sizes before.
pub const MINOR_MIN: u32 = 27;
