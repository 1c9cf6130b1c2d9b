//! Answers that are made while they are taken: by a thread that writes, through a channel of bounded
//! size.
//!
//! The channel is what a client that does not read holds up: the thread waits for it, and the
//! connection is cut when nothing is taken for a while ([`Flow::is_stuck`]). Then, and when the client
//! has gone or the daemon ends, writing fails, and the thread is done.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use hyper::StatusCode;
use hyper::body::{Bytes, Frame};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use tokio::sync::{mpsc, oneshot};

use super::{GoOn, Served};
use super::exchange::Lasting;
use crate::control::api::{ErrorKind, Failure};
use crate::engine::Store;

/// Bytes handed over together.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that wait to be taken, at most.
const PIECES_MAX: usize = 4;

/// How much of an answer was made and taken, in pieces.
#[derive(Debug, Default)]
pub(super) struct Flow {
    made: AtomicU64,
    taken: AtomicU64,
    /// What was taken when somebody last looked, and one more.
    looked: AtomicU64,
}

impl Flow {
    /// Notes a piece that waits to be taken.
    pub(super) fn make(&self) {
        self.made.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that it was.
    pub(super) fn take(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether something waits, and nothing was taken since somebody last looked.
    pub(super) fn is_stuck(&self) -> bool {
        let taken = self.taken.load(Ordering::Relaxed);
        let before = self.looked.swap(taken.saturating_add(1), Ordering::Relaxed);
        before == taken.saturating_add(1) && self.made.load(Ordering::Relaxed) > taken
    }
}

/// What a thread writes to.
pub(super) struct Writer {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    flow: Arc<Flow>,
    piece: Vec<u8>,
}

impl Writer {
    fn hand_over(&mut self, piece: io::Result<Bytes>) -> io::Result<()> {
        self.flow.make();
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

/// What it has written.
pub(super) struct Written {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    flow: Arc<Flow>,
}

impl Written {
    pub(super) fn new(pieces: mpsc::Receiver<io::Result<Bytes>>, flow: Arc<Flow>) -> Self {
        Written { pieces, flow }
    }
}

impl hyper::body::Body for Written {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = std::task::ready!(self.pieces.poll_recv(cx));
        self.flow.take();
        Poll::Ready(next.map(|piece| piece.map(Frame::data)))
    }
}

/// An answer that goes on.
pub(super) fn lasting(
    flow: Arc<Flow>,
    kind: &'static str,
    body: impl hyper::body::Body<Data = Bytes, Error = io::Error> + Send + 'static,
) -> Response {
    let mut response = Response::new(Body::new(body));
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.extensions_mut().insert(Lasting(flow));
    *response.status_mut() = StatusCode::OK;
    response
}

impl Served {
    /// Answers with what is written by `write`, to what `open` found. What `open` refuses is refused;
    /// when writing fails, the answer breaks off, and the client sees that.
    pub(super) async fn write_out<T: 'static>(
        &self,
        open: impl FnOnce(&Arc<Store>) -> Result<T, Failure> + Send + 'static,
        write: impl FnOnce(T, &mut Writer, &mut GoOn<'_>) -> Result<(), String> + Send + 'static,
    ) -> Result<Response, Failure> {
        let room = self.take_long()?;
        let (opened, is_open) = oneshot::channel();
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        let flow = Arc::<Flow>::default();
        let mut writer = Writer {
            pieces: sender,
            flow: Arc::clone(&flow),
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
                log::warn!("a snapshot was not sent to its end: {reason}");
                let _ = writer.hand_over(Err(io::Error::other(reason)));
            }
            drop(room);
        });
        let ended = || Failure::new(ErrorKind::Failed, "the daemon ends");
        is_open.await.map_err(|_| ended())??;
        let written = Written::new(pieces, Arc::clone(&flow));
        Ok(lasting(flow, "application/octet-stream", written))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_stuck_when_it_waits_and_is_not_taken() {
        let flow = Flow::default();
        assert!(!flow.is_stuck() && !flow.is_stuck(), "nothing waits");
        flow.make();
        assert!(flow.is_stuck());
        flow.take();
        assert!(!flow.is_stuck() && !flow.is_stuck());
        flow.make();
        flow.make();
        flow.take();
        assert!(!flow.is_stuck(), "some was taken");
        assert!(flow.is_stuck());
    }
}
