//! Confinement: what a guest that took over the daemon could still do.
//!
//! Applied while the process has one thread, so that every later one inherits it, after the files
//! of the store are open and the socket is made, and before anything of the store or of a guest is
//! read. In order: no core dumps; no new privileges; no capabilities; Landlock, where the kernel has
//! it; and last the list of system calls, which would not allow the steps before it.
//!
//! Imports nothing of razorfs.

mod calls;
mod files;
mod privileges;

use std::path::{Path, PathBuf};

/// What a system call outside the list does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Action {
    /// It ends the process.
    #[default]
    Kill,
    /// It is logged by the kernel, and done.
    Log,
    /// It raises SIGSYS.
    Trap,
    /// There is no list.
    Allow,
}

/// Why the process is not confined.
#[derive(Debug, thiserror::Error)]
#[error("cannot confine the daemon, {step}: {reason} ('--sandbox none' goes on without)")]
pub struct SandboxError {
    /// What was tried.
    pub step: &'static str,
    /// What the system said.
    pub reason: String,
}

impl SandboxError {
    fn new(step: &'static str) -> impl Fn(&dyn std::fmt::Display) -> SandboxError {
        move |reason| SandboxError {
            step,
            reason: reason.to_string(),
        }
    }
}

/// What a confined process may still do with files and sockets.
#[derive(Debug, Clone, Copy)]
pub struct Reach<'a> {
    /// The store: all that is in it.
    pub store: &'a Path,
    /// Sockets, of which the files can be removed.
    pub sockets: &'a [PathBuf],
    /// The directory below which sockets can be made.
    pub socket_dir: Option<&'a Path>,
    /// The configuration file, which can be read again.
    pub config: Option<&'a Path>,
}

impl<'a> Reach<'a> {
    /// A store, and nothing besides.
    #[must_use]
    pub fn of(store: &'a Path) -> Self {
        Reach {
            store,
            sockets: &[],
            socket_dir: None,
            config: None,
        }
    }
}

/// Confines the process for good. To be called while there is one thread.
///
/// # Errors
/// When the system refuses a step that every kernel has.
pub fn confine(reach: &Reach<'_>, action: Action) -> Result<(), SandboxError> {
    privileges::drop_all()?;
    files::restrict(reach)?;
    calls::restrict(reach.socket_dir.is_some(), action)
}
