//! Answers that are made while they are taken: by a thread that writes, through a channel of bounded
//! size.
//!
//! The channel is what a client that does not read holds up: the thread waits for it, and the
//! connection is cut when its socket takes nothing for a while ([`Flow::is_stuck`]). Then, and when the
//! client has gone or the daemon ends, writing fails, and the thread is done.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};

use super::exchange::Lasting;
use super::{GoOn, Served};
use crate::control::api::{ErrorKind, Failure};
use crate::control::pieces::Pieces;
use crate::engine::Store;

/// Bytes handed over together.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that wait to be taken, at most.
const PIECES_MAX: usize = 4;

/// How often a client's socket took something.
#[derive(Debug, Default)]
pub(super) struct Flow {
    taken: AtomicU64,
    /// It has no room for what is to be sent.
    waits: AtomicBool,
    /// What was taken when somebody last looked, and one more.
    looked: AtomicU64,
}

impl Flow {
    /// Notes what became of a write to the socket.
    fn note<T>(&self, written: &Poll<T>) {
        self.waits.store(written.is_pending(), Ordering::Relaxed);
        if written.is_ready() {
            self.taken.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether something waits, and nothing was taken since somebody last looked.
    pub(super) fn is_stuck(&self) -> bool {
        let taken = self.taken.load(Ordering::Relaxed);
        let before = self.looked.swap(taken.saturating_add(1), Ordering::Relaxed);
        before == taken.saturating_add(1) && self.waits.load(Ordering::Relaxed)
    }
}

/// A socket whose flow is known. Below TLS and HTTP, which keep some of what is to be sent.
pub(super) struct Watched<S> {
    socket: S,
    flow: Arc<Flow>,
}

impl<S> Watched<S> {
    pub(super) fn new(socket: S, flow: Arc<Flow>) -> Self {
        Watched { socket, flow }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.flow.note(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, pieces);
        self.flow.note(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// What a thread writes to.
pub(super) struct Writer {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Writer {
    fn hand_over(&mut self, piece: io::Result<Bytes>) -> io::Result<()> {
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody takes it any more");
        self.pieces.blocking_send(piece).map_err(gone)
    }
}

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE_BYTES.saturating_sub(self.piece.len());
        let taken = bytes.len().min(room);
        self.piece.extend(bytes.iter().take(taken));
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.piece);
        self.hand_over(Ok(piece.into()))
    }
}

/// An answer that goes on.
pub(super) fn lasting(
    kind: &'static str,
    body: impl hyper::body::Body<Data = Bytes, Error = io::Error> + Send + 'static,
) -> Response {
    let mut response = Response::new(Body::new(body));
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.extensions_mut().insert(Lasting);
    *response.status_mut() = StatusCode::OK;
    response
}

impl Served {
    /// Answers with what is written by `write`, to what `open` found. What `open` refuses is refused;
    /// when writing fails, the answer breaks off, the client sees that, and the log says why.
    pub(super) async fn write_out<T: 'static>(
        &self,
        called: &'static str,
        open: impl FnOnce(&Arc<Store>) -> Result<T, Failure> + Send + 'static,
        write: impl FnOnce(T, &mut Writer, &mut GoOn<'_>) -> Result<(), String> + Send + 'static,
    ) -> Result<Response, Failure> {
        let room = self.take_long()?;
        let (opened, is_open) = oneshot::channel();
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        let mut writer = Writer {
            pieces: sender,
            piece: Vec::new(),
        };
        let served = self.clone();
        tokio::task::spawn_blocking(move || {
            let of = match open(&served.store) {
                Ok(of) => of,
                Err(failure) => {
                    let _ = opened.send(Err(failure));
                    return;
                }
            };
            let _ = opened.send(Ok(()));
            let done = write(of, &mut writer, &mut || !served.is_ending());
            let done = done.and_then(|()| {
                use std::io::Write as _;
                writer.flush().map_err(|error| error.to_string())
            });
            if let Err(reason) = done {
                log::warn!("{called} was not sent to its end: {reason}");
                let _ = writer.hand_over(Err(io::Error::other(reason)));
            }
            drop(room);
        });
        let ended = || Failure::new(ErrorKind::Failed, "the daemon ends");
        is_open.await.map_err(|_| ended())??;
        Ok(lasting("application/octet-stream", Pieces(pieces)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_stuck_when_it_waits_and_is_not_taken() {
        let flow = Flow::default();
        let (taken, waits) = (Poll::Ready(()), Poll::<()>::Pending);
        assert!(!flow.is_stuck() && !flow.is_stuck(), "nothing waits");
        flow.note(&waits);
        assert!(flow.is_stuck());
        flow.note(&taken);
        assert!(!flow.is_stuck() && !flow.is_stuck());
        flow.note(&taken);
        flow.note(&waits);
        assert!(!flow.is_stuck(), "some was taken");
        assert!(flow.is_stuck());
    }
}
