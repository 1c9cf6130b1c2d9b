//! The state of a guest's mount on its way through the front-end, which carries it to the daemon that
//! the guest moves to (vhost-user, "Migrating back-end state"): bytes through a pipe, to its end.
//!
//! A front-end that neither takes nor gives anything for a while, or takes too long for all of it, is
//! given up, so that nobody waits for it for ever.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::server::state::STATE_BYTES_MAX;

/// How long the other end may be silent.
const PATIENCE: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};
/// How long all of it may take: guests of others may have to wait for it.
const TIME_MAX: Duration = Duration::from_secs(60);
/// Bytes read at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// Where a transfer is.
#[derive(Debug, Default)]
pub(super) enum Transfer {
    /// There is none.
    #[default]
    None,
    /// The state is wanted there, once the store was let go.
    Wanted(File),
    /// It is being written.
    Sending(JoinHandle<io::Result<()>>),
    /// It is being read.
    Receiving(JoinHandle<io::Result<Vec<u8>>>),
    /// What came of it, for when the front-end asks.
    Done(Result<(), String>),
}

impl Transfer {
    /// Begins to write the state, and closes the pipe behind it.
    pub(super) fn send(file: File, state: Vec<u8>) -> Transfer {
        let thread = std::thread::Builder::new()
            .name("razorfs-state".into())
            .spawn(move || write(file, &state));
        match thread {
            Ok(thread) => Transfer::Sending(thread),
            Err(error) => Transfer::Done(Err(error.to_string())),
        }
    }

    /// Begins to read a state, to the pipe's end.
    pub(super) fn receive(file: File) -> Transfer {
        let thread = std::thread::Builder::new()
            .name("razorfs-state".into())
            .spawn(move || read(file));
        match thread {
            Ok(thread) => Transfer::Receiving(thread),
            Err(error) => Transfer::Done(Err(error.to_string())),
        }
    }

    /// Whether one is under way.
    pub(super) fn is_under_way(&self) -> bool {
        !matches!(self, Transfer::None | Transfer::Done(_))
    }
}

/// Waits for a thread of a transfer.
pub(super) fn finished<T>(thread: JoinHandle<io::Result<T>>) -> Result<T, String> {
    let ended = thread.join().map_err(|_| "its thread failed".to_owned())?;
    ended.map_err(|error| error.to_string())
}

fn write(mut file: File, mut state: &[u8]) -> io::Result<()> {
    let flags = fcntl_getfl(&file)?;
    fcntl_setfl(&file, flags | OFlags::NONBLOCK)?;
    let since = Instant::now();
    while !state.is_empty() {
        wait(&file, PollFlags::OUT, since)?;
        match file.write(state) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => state = state.get(written..).unwrap_or_default(),
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn read(mut file: File) -> io::Result<Vec<u8>> {
    let flags = fcntl_getfl(&file)?;
    fcntl_setfl(&file, flags | OFlags::NONBLOCK)?;
    let mut state = Vec::new();
    let mut piece = vec![0; PIECE_BYTES];
    let since = Instant::now();
    loop {
        wait(&file, PollFlags::IN, since)?;
        match file.read(&mut piece) {
            Ok(0) => return Ok(state),
            Ok(read) => state.extend_from_slice(piece.get(..read).unwrap_or_default()),
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
        if state.len() > STATE_BYTES_MAX {
            let reason = format!("a state of more than {STATE_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
        }
    }
}

fn wait(file: &File, what: PollFlags, since: Instant) -> io::Result<()> {
    if since.elapsed() > TIME_MAX {
        let reason = "the front-end takes too long";
        return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
    }
    let mut waited = [PollFd::new(file, what)];
    match poll(&mut waited, Some(&PATIENCE)) {
        Ok(0) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the front-end is silent",
        )),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, WouldBlock};
    matches!(error.kind(), WouldBlock | Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> (File, File) {
        let (read, write) = io::pipe().unwrap();
        use std::os::fd::OwnedFd;
        (OwnedFd::from(read).into(), OwnedFd::from(write).into())
    }

    #[test]
    fn what_is_sent_arrives_whole() {
        for len in [0, 1, 3_000_000] {
            let (there, here) = pipe();
            let state: Vec<u8> = (0..=250).cycle().take(len).collect();
            let (Transfer::Sending(sent), Transfer::Receiving(found)) = (
                Transfer::send(here, state.clone()),
                Transfer::receive(there),
            ) else {
                panic!("no thread");
            };
            assert!(finished(found).unwrap() == state, "{len}");
            finished(sent).unwrap();
        }
    }

    #[test]
    fn who_is_gone_is_an_error() {
        let (there, here) = pipe();
        drop(there);
        let Transfer::Sending(sent) = Transfer::send(here, vec![1]) else {
            panic!("no thread");
        };
        assert!(finished(sent).unwrap_err().contains("Broken pipe"));
    }
}
