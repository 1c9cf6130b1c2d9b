//! What comes into a dataset from the host and goes out of it.
//!
//! A store that is open here is written to and read as it is; a daemon is sent a tar stream, or sends
//! one. Either way the same is said to have come of it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{Result, Session, SessionError, path, query};
use crate::archive::{
    ArchiveError, ImportHow, Summary, Tell, extract_to_directory, extract_to_tar, import_directory,
    import_tar, pack, pass_on, unpack,
};
use crate::control::Client;
use crate::control::api::Imported;
use crate::control::client::BodyWriter;
use crate::control::operations;

/// How often a sender that is silent is waited for before it is looked whether to go on.
const SILENCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
/// Bytes of a stream that are read together.
const PIECE_BYTES: usize = 256 << 10;

/// What is imported.
#[derive(Debug, Clone, Copy)]
pub enum ImportFrom<'a> {
    /// A directory of the host.
    Directory(&'a Path),
    /// A tar stream.
    Stream(&'a File),
}

/// What is made.
pub enum ExtractTo<'a> {
    /// A directory of the host.
    Directory(&'a Path),
    /// A tar stream.
    Stream(&'a mut dyn Write),
}

/// What was done, and how it ended.
pub type Archived = (Summary, Result<()>);

/// A stream that ends with an error when it is broken off, though its sender may be silent for as
/// long as it likes.
pub struct Input<'a> {
    /// The stream.
    pub stream: &'a File,
    /// Why it is broken off, if it is.
    pub broken_off: &'a dyn Fn() -> Option<&'static str>,
}

impl<'a> Input<'a> {
    /// One that a signal breaks off.
    pub fn until(stop: &'a AtomicBool) -> impl Fn() -> Option<&'static str> + 'a {
        || {
            let stopped = stop.load(Ordering::Relaxed);
            stopped.then_some("broken off by a signal")
        }
    }
}

impl Read for Input<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(reason) = (self.broken_off)() {
                // Who is told `Interrupted` reads again.
                return Err(io::Error::other(reason));
            }
            let mut events = [PollFd::new(self.stream, PollFlags::IN)];
            match poll(&mut events, Some(&SILENCE)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => {
                    let mut stream = self.stream;
                    return stream.read(bytes);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Session {
    /// Imports into a dataset. See [`operations::import`]; `tell` is told how far it is, and `stop`
    /// breaks it off.
    ///
    /// # Errors
    /// When it cannot be begun. What came of one that was begun is durable, also where it failed.
    pub fn import(
        &self,
        dataset: &str,
        how: &ImportHow,
        from: ImportFrom<'_>,
        stop: &AtomicBool,
        tell: &mut Tell<'_>,
    ) -> Result<Archived> {
        let store = match self {
            Session::Served(client) => return upload(client, dataset, how, from, stop, tell),
            Session::Opened(store) => store,
        };
        let volume = operations::importable(store, dataset)?;
        let (summary, done) = match from {
            ImportFrom::Directory(source) => import_directory(&volume, how, source, tell),
            ImportFrom::Stream(stream) => {
                let broken_off = &Input::until(stop);
                let input = Input { stream, broken_off };
                let mut input = io::BufReader::with_capacity(1 << 20, input);
                import_tar(&volume, how, &mut input, tell)
            }
        };
        Ok((summary, done.map_err(SessionError::Archive)))
    }

    /// Extracts what is at a path of a dataset or a snapshot. See [`operations::extract`]; `tell` is
    /// told how far it is, and `stop` breaks it off.
    ///
    /// # Errors
    /// When it cannot be begun: nothing was made then.
    pub fn extract(
        &self,
        name: &str,
        from: &[u8],
        to: ExtractTo<'_>,
        stop: &AtomicBool,
        tell: &mut Tell<'_>,
    ) -> Result<Archived> {
        let (summary, done) = match self {
            Session::Served(client) => {
                let from = from.escape_ascii().to_string();
                let path = path("datasets", name) + "/extract?" + &query(&[("path", &from)]);
                client.download(&path, stop, |stream| match to {
                    ExtractTo::Directory(target) => unpack(stream, target, tell),
                    ExtractTo::Stream(output) => pass_on(stream, output, tell),
                })?
            }
            Session::Opened(store) => {
                let still = operations::extract(store, name, from)?;
                match to {
                    ExtractTo::Directory(target) => {
                        extract_to_directory(&still, from, target, tell)
                    }
                    ExtractTo::Stream(output) => extract_to_tar(&still, from, output, tell),
                }
            }
        };
        Ok((summary, done.map_err(SessionError::Archive)))
    }
}

/// Imports by a daemon, which is sent a tar stream.
fn upload(
    client: &Client,
    dataset: &str,
    how: &ImportHow,
    from: ImportFrom<'_>,
    stop: &AtomicBool,
    tell: &mut Tell<'_>,
) -> Result<Archived> {
    let (to, merge) = (how.to.escape_ascii().to_string(), how.merge.to_string());
    let query = query(&[("to", &to), ("merge", &merge)]);
    let path = path("datasets", dataset) + "/import?" + &query;
    let write = |body: &mut BodyWriter| {
        let (sent, written) = match from {
            ImportFrom::Directory(source) => pack(source, how.walk, body, tell),
            ImportFrom::Stream(stream) => (Summary::default(), pass_in(stream, body, stop, tell)),
        };
        // What was written before an error is sent, too; what that fails with matters less.
        let _ = body.flush();
        (sent, written)
    };
    let ((sent, written), answer) = client.upload_written::<Imported, _>(&path, stop, write)?;
    // Where the daemon takes no more, it says why.
    let own = written
        .err()
        .filter(|error| !matches!(error, ArchiveError::Write(_)));
    let (imported, done) = match (answer, own) {
        (Ok(imported), own) => (imported, own.map_or(Ok(()), |error| Err(error.into()))),
        (Err(SessionError::Refused(mut failure)), own) => match (failure.imported.take(), own) {
            (Some(imported), Some(own)) => (imported, Err(own.into())),
            (Some(imported), None) => (imported, Err(failure.into())),
            (None, _) => return Err(failure.into()),
        },
        (Err(SessionError::Lost { path, reason }), own) => {
            let own = own.map_or(String::new(), |own| format!("{own}; "));
            let reason = own + &reason;
            let reason = format!("{reason}; what was imported before is there, each file whole");
            return Err(SessionError::Lost { path, reason });
        }
        (Err(error), _) => return Err(error),
    };
    let mut summary = Summary::from(imported);
    summary.also_skipped(sent.skipped);
    Ok((summary, done))
}

/// Sends a stream as it is.
fn pass_in(
    stream: &File,
    body: &mut BodyWriter,
    stop: &AtomicBool,
    tell: &mut Tell<'_>,
) -> std::result::Result<(), ArchiveError> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut passed = Summary::default();
    loop {
        let by_signal = Input::until(stop);
        let is_over = || body.is_over().then_some("the daemon takes no more of it");
        let broken_off = &|| by_signal().or_else(is_over);
        let len = match (Input { stream, broken_off }).read(&mut piece) {
            Ok(0) => return body.flush().map_err(ArchiveError::Write),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if body.is_over() => return Err(ArchiveError::Write(error)),
            Err(source) => {
                let offset = passed.bytes;
                return Err(ArchiveError::Read { offset, source });
            }
        };
        let read = piece.get(..len).unwrap_or_default();
        body.write_all(read).map_err(ArchiveError::Write)?;
        passed.bytes = passed.bytes.saturating_add(len as u64);
        if tell(&passed).is_break() {
            return Err(ArchiveError::Stopped);
        }
    }
}
