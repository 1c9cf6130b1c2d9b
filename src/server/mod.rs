//! FUSE messages: decode, dispatch, encode.
//!
//! A transport hands over a request and a place for the reply, both in memory it shares with a
//! kernel that is not trusted; [`Server::handle`] answers. Nothing in a request can make it panic,
//! use memory beyond one request's size, or touch memory other than the request's and the reply's.
//!
//! The protocol is spoken here rather than by fuse-backend-rs's server, whose transport to /dev/fuse
//! is used: that one knows no SYNCFS, TMPFILE, STATX and COPY_FILE_RANGE and no request extensions.
//!
//! May import `fs` and, for what passes through, the engine's types.

mod abi;
pub mod consts;
mod convert;
mod data;
mod dispatch;
mod ext;
mod init;
mod io;
mod reply;
mod request;
mod snapshots;
pub mod state;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::{EngineError, EventKind, SyncPoint};
use crate::format::id::Ino;
use crate::fs::{FileSystem, FsError, Node, errno};
use crate::metrics::Refused;
use abi::{InHeader, OutHeader};
use consts::opcode;
pub use io::{Input, Output};
use reply::Reply;
use request::Request;

/// The most bytes of one READ or WRITE: 256 pages of 4 KiB.
pub const WRITE_MAX_BYTES: usize = 256 * 4096;

/// Why a request could not be answered at all. The transport completes it without a reply.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no header in it.
    #[error("a request of {0} bytes")]
    Short(usize),
    /// Its memory cannot be read.
    #[error("reading a request: {0}")]
    Request(#[source] std::io::Error),
    /// The reply's memory is too small or cannot be written.
    #[error("writing a reply: {0}")]
    Reply(#[source] std::io::Error),
    /// It would have to wait for the disk, and was not to: nothing was done.
    #[error("it would have to wait")]
    WouldWait,
    /// It waits for the disk, and was not to: all is done but that, for [`Server::finish`].
    #[error("it waits for the disk")]
    Begun(SyncPoint),
}

/// One export: a file system and the session with the kernel that has it mounted.
pub struct Server {
    fs: FileSystem,
    /// [`consts::feature`] bits both sides agreed on, and [`SESSION`] once they have; perhaps
    /// [`STALE`].
    session: AtomicU64,
    refused: Arc<Refused>,
}

/// How a request is carried out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// Wholly.
    Wait,
    /// As far as that goes without waiting.
    AtOnce,
    /// It was begun: what is left is to wait, and to answer.
    Finish(SyncPoint),
}

/// The bit of [`Server::session`] that says INIT was done. No feature has it.
const SESSION: u64 = 1 << 63;
/// The bit of [`Server::session`] that says that the kernel knows another tree than the one that is
/// there now. Until the next INIT nothing is answered that could let the two meet. No feature has it.
const STALE: u64 = 1 << 62;

thread_local! {
    /// The copy of a request and the reply under construction, kept from one request to the next.
    static BUFFERS: Cell<Buffers> = const { Cell::new(Buffers::EMPTY) };
}

/// What a request needs of memory.
struct Buffers {
    request: Vec<u8>,
    reply: Vec<u8>,
    looked_up: Vec<Ino>,
}

impl Buffers {
    const EMPTY: Buffers = Buffers {
        request: Vec::new(),
        reply: Vec::new(),
        looked_up: Vec::new(),
    };

    fn is_small(&self) -> bool {
        self.request.capacity() <= BUFFER_KEEP_BYTES
            && self.reply.capacity() <= BUFFER_KEEP_BYTES
            && self.looked_up.capacity() * size_of::<Ino>() <= BUFFER_KEEP_BYTES
    }
}

impl Default for Buffers {
    fn default() -> Self {
        Buffers::EMPTY
    }
}

/// A thread's buffers that grew beyond this are given back.
const BUFFER_KEEP_BYTES: usize = 128 * 1024;

impl Server {
    /// A server without a session.
    #[must_use]
    pub fn new(fs: FileSystem) -> Self {
        Server {
            fs,
            session: AtomicU64::new(0),
            refused: Arc::default(),
        }
    }

    /// The same, which counts there what it refuses.
    #[must_use]
    pub fn counting(self, refused: &Arc<Refused>) -> Self {
        Server {
            refused: Arc::clone(refused),
            ..self
        }
    }

    /// The file system served.
    #[must_use]
    pub fn fs(&self) -> &FileSystem {
        &self.fs
    }

    /// Whether the kernel is refused everything until it begins a new session: see
    /// [`state::made_stale`].
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.session.load(Ordering::Acquire) & STALE != 0
    }

    /// Carries out one request and writes its reply. Returns the reply's length, 0 when the
    /// protocol wants none.
    ///
    /// # Errors
    /// When there was nobody to answer or no room for an answer.
    pub fn handle(&self, request: impl Input, reply: impl Output) -> Result<usize, Error> {
        self.handle_as(request, reply, How::Wait)
    }

    /// Waits for what requests were begun for that a transport has collected, and answers one of them.
    ///
    /// # Errors
    /// As [`Server::handle`].
    pub fn finish(
        &self,
        point: SyncPoint,
        request: impl Input,
        reply: impl Output,
    ) -> Result<usize, Error> {
        self.handle_as(request, reply, How::Finish(point))
    }

    /// As [`Server::handle`] for requests of which [`Server::may_have_to_wait`] or
    /// [`Server::can_be_begun`] is true: when one would have to wait for something to be written,
    /// nothing is done, or all but waiting.
    ///
    /// # Errors
    /// As [`Server::handle`]; [`Error::WouldWait`], [`Error::Begun`].
    pub fn handle_at_once(&self, request: impl Input, reply: impl Output) -> Result<usize, Error> {
        self.handle_as(request, reply, How::AtOnce)
    }

    fn handle_as(
        &self,
        mut request: impl Input,
        mut reply: impl Output,
        how: How,
    ) -> Result<usize, Error> {
        let mut buffers = BUFFERS.take();
        let mut out = Reply::new(&mut buffers.reply, &mut buffers.looked_up);
        let result = match Request::read(&mut request, &mut buffers.request) {
            Err(error) => Err(error),
            Ok(Err(malformed)) => self.send(
                &mut reply,
                &malformed.header,
                &mut out,
                Err(malformed.reason),
            ),
            Ok(Ok(decoded)) => {
                if let How::Finish(point) = how {
                    let done = self.fs.volume().finish_fsync(point);
                    let done = done.map_err(FsError::from);
                    self.send(&mut reply, &decoded.header, &mut out, done)
                } else {
                    let may_wait = how == How::Wait;
                    let decoded = Request {
                        may_wait,
                        ..decoded
                    };
                    self.answer(&decoded, &mut request, &mut reply, &mut out)
                }
            }
        };
        if buffers.is_small() {
            BUFFERS.set(buffers);
        }
        result
    }

    /// Whether requests of this kind may wait for the disk or take long, so that a transport had
    /// better not hold up others behind them.
    #[must_use]
    pub fn may_block(opcode: u32) -> bool {
        matches!(
            opcode,
            opcode::FSYNC
                | opcode::FSYNCDIR
                | opcode::SYNCFS
                | opcode::FALLOCATE
                | opcode::COPY_FILE_RANGE
                | opcode::DESTROY
        )
    }

    /// Whether some requests of this kind have to wait for the disk though most do not: a transport
    /// finds out by [`Server::handle_at_once`].
    #[must_use]
    pub fn may_have_to_wait(opcode: u32) -> bool {
        matches!(opcode, opcode::RENAME | opcode::RENAME2)
    }

    /// Whether requests of this kind wait for what one wait makes durable for many: a transport begins
    /// all that there are by [`Server::handle_at_once`], and waits then.
    #[must_use]
    pub fn can_be_begun(opcode: u32) -> bool {
        matches!(opcode, opcode::FSYNC | opcode::FSYNCDIR)
    }

    /// Ends the session: the kernel on the other side is gone or starts again. What it had open
    /// and unlinked is freed.
    pub fn reset(&self) {
        if self.session.swap(0, Ordering::AcqRel) & SESSION != 0 {
            self.fs.volume().note(EventKind::GuestDetached);
        }
        self.fs.end_session();
    }

    fn answer(
        &self,
        request: &Request<'_>,
        payload: &mut impl Input,
        writer: &mut impl Output,
        out: &mut Reply<'_>,
    ) -> Result<usize, Error> {
        let session = self.session.load(Ordering::Acquire);
        log::trace!(
            "request: opcode {} of inode {}",
            request.header.opcode,
            request.header.nodeid
        );
        let node = Node::of(request.header.nodeid);
        let result = match request.header.opcode {
            opcode::INIT => self.init(request, out),
            opcode::FORGET | opcode::BATCH_FORGET => {
                self.forget(request);
                return Ok(0);
            }
            // An answer to a notification, and none is ever sent.
            opcode::NOTIFY_REPLY => return Ok(0),
            _ if session & SESSION == 0 => Err(FsError::NoSession),
            // Whatever it is about, a snapshot's inode too. To unmount it needs DESTROY.
            code if session & STALE != 0 && code != opcode::DESTROY => {
                Err(EngineError::Stale.into())
            }
            // With both its inodes.
            opcode::COPY_FILE_RANGE => self.dispatch(request, session, 0, out),
            _ if node != Node::Own(Ino(request.header.nodeid)) => match node {
                Node::Snapshot(id, ino) => {
                    return self.answer_in((id, ino), request, session, payload, writer, out);
                }
                _ => self.dispatch_snapshots(request, session, room(writer), out),
            },
            opcode::READ => return self.read(request, writer, out),
            opcode::WRITE => self.write(request, payload, out),
            _ => self.dispatch(request, session, room(writer), out),
        };
        match result {
            Err(FsError::Engine(EngineError::WouldWait)) => return Err(Error::WouldWait),
            Err(FsError::Engine(EngineError::Begun(point))) => return Err(Error::Begun(point)),
            _ => {}
        }
        if matches!(result, Err(FsError::Engine(EngineError::Quota))) {
            self.fs.volume().note_quota();
        }
        let failed = result.is_err();
        if let Err(error) = &result {
            log::trace!("opcode {}: {error}", request.header.opcode);
        }
        let sent = self.send(writer, &request.header, out, result);
        if failed || sent.is_err() {
            for ino in out.take_looked_up() {
                self.fs.forget(ino, 1);
            }
        }
        sent
    }

    /// Sends what is in `out`, or an error, in one write.
    fn send(
        &self,
        writer: &mut impl Output,
        header: &InHeader,
        out: &mut Reply<'_>,
        result: Result<(), FsError>,
    ) -> Result<usize, Error> {
        let error = result.err().map_or(0, |error| errno::of(&error));
        if error != 0 {
            self.refused.note(error);
        }
        let bytes = out.finish(header.unique, error);
        writer.write_all(bytes).map_err(Error::Reply)?;
        Ok(bytes.len())
    }
}

/// Bytes that a reply may have behind its header.
fn room(writer: &impl Output) -> usize {
    writer
        .available_bytes()
        .saturating_sub(size_of::<OutHeader>())
}

#[cfg(test)]
mod tests;
