//! A daemon's beginning and end where guests go on over it: another process of this host takes them
//! over ([`handover`] and [`taking`], its two sides), or another host's does, and takes the store up
//! when it has been let go.
//!
//! The store's lock says who serves: nobody answers a guest without it.

mod described;
pub mod handover;
pub mod taking;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::{Duration, Instant};

use crate::disk::dir::{DiskError, OpenDir, StoreDir, open_store};

/// How long a store may stay another process's, while its guest is on the way here.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait before looking again.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Opens a store's files once nobody else has them, unless that takes too long or `is_over`.
///
/// # Errors
/// As [`open_store`]; when it is still in use.
pub fn open_when_free(
    store: &Path,
    how: OpenDir,
    is_over: impl Fn() -> bool,
) -> Result<StoreDir, DiskError> {
    let since = Instant::now();
    loop {
        match open_store(store, how) {
            Err(DiskError::Locked { .. }) if since.elapsed() < LOCK_PATIENCE && !is_over() => {
                std::thread::sleep(LOCK_PAUSE);
            }
            other => return other,
        }
    }
}
