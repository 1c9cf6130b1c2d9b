//! Bodies that are written while they are sent, and read while they come: by who asks, while a thread
//! has the connection. A channel of bounded size is between the two.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};

use super::{At, Client, Error, PIECE_BYTES, PIECES_MAX, beside, exchange, lost};
use crate::control::pieces::Pieces;
use crate::control::session::SessionError;

/// How often it is looked whether to stop.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long a daemon that has been told that no more comes may take to say what it has.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// What a request's body is written to. Dropped, it ends the body.
pub(in crate::control) struct BodyWriter {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl BodyWriter {
    /// Whether nobody takes more of it.
    pub(in crate::control) fn is_over(&self) -> bool {
        self.pieces.is_closed()
    }
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE_BYTES.saturating_sub(self.piece.len());
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.piece.extend_from_slice(taken);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.piece);
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the daemon takes no more of it");
        self.pieces.blocking_send(Ok(piece.into())).map_err(gone)
    }
}

/// An answer's body.
struct BodyReader<'a> {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
    stop: &'a AtomicBool,
}

impl Read for BodyReader<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None if self.stop.load(Ordering::Relaxed) => {
                    return Err(io::Error::other("broken off by a signal"));
                }
                None => return Ok(0),
            }
        }
        let len = bytes.len().min(self.piece.len());
        let taken = self.piece.split_to(len);
        let (into, _) = bytes.split_at_mut(len);
        into.copy_from_slice(&taken);
        Ok(len)
    }
}

impl Client {
    /// Sends a body that `write` writes, and what the answer to it is. Where `write` ends early, so
    /// does the body: what it is must show that. An answer that comes before it was all written
    /// has writing fail. From `stop` on the daemon is not waited for for long.
    pub(in crate::control) fn upload_written<T: DeserializeOwned, W>(
        &self,
        path: &str,
        stop: &AtomicBool,
        write: impl FnOnce(&mut BodyWriter) -> W,
    ) -> Result<(W, Result<T, SessionError>), SessionError> {
        let lost = |error: &dyn std::fmt::Display| lost(&self.path, error);
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        let request = self.asked(Method::POST, path);
        let request = request.header(CONTENT_TYPE, "application/octet-stream");
        let request = request.body(Pieces(pieces)).map_err(|error| lost(&error))?;
        let mut body = BodyWriter {
            pieces: sender,
            piece: Vec::new(),
        };
        let (written, answer) = std::thread::scope(|scope| {
            let answer = scope.spawn(|| self.runtime.block_on(answer(&self.at, request, stop)));
            let written = write(&mut body);
            drop(body);
            (written, answer.join())
        });
        let answer = answer.unwrap_or_else(|_| Err("its thread failed".into()));
        let answer = answer.map_err(|error| lost(&error));
        let answer = answer.and_then(|(status, body)| {
            self.succeeded(status, &body)?;
            self.understand(&body)
        });
        Ok((written, answer))
    }

    /// Asks for a body that `read` reads while it comes. `stop` ends it with an error.
    ///
    /// # Errors
    /// When it is refused: `read` is not called then. When it cannot be asked for.
    pub(in crate::control) fn download<R>(
        &self,
        path: &str,
        stop: &AtomicBool,
        read: impl FnOnce(&mut dyn Read) -> R,
    ) -> Result<R, SessionError> {
        let lost = |error: &dyn std::fmt::Display| lost(&self.path, error);
        let request = self.asked(Method::GET, path).body(Full::<Bytes>::default());
        let request = request.map_err(|error| lost(&error))?;
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        let (begun, has_begun) = oneshot::channel();
        let mut body = BodyReader {
            pieces,
            piece: Bytes::new(),
            stop,
        };
        std::thread::scope(|scope| {
            let fetched = scope.spawn(|| {
                self.runtime.block_on(async {
                    tokio::select! {
                        fetched = fetch(&self.at, request, begun, sender) => {
                            fetched.map_err(|error| error.to_string())
                        }
                        () = stopped(stop) => Err("interrupted".into()),
                    }
                })
            });
            if has_begun.blocking_recv().is_ok() {
                let read = read(&mut body);
                // Whoever brings more of it is not waited for.
                drop(body);
                let _ = fetched.join();
                return Ok(read);
            }
            match fetched.join() {
                Ok(Ok(Some((status, refusal)))) => match self.succeeded(status, &refusal) {
                    Ok(()) => Err(lost(&"it does not answer")),
                    Err(refused) => Err(refused),
                },
                Ok(Err(reason)) => Err(lost(&reason)),
                Ok(Ok(None)) | Err(_) => Err(lost(&"its thread failed")),
            }
        })
    }
}

/// The answer to a request whose body another thread writes.
async fn answer(
    at: &At,
    request: Request<Pieces>,
    stop: &AtomicBool,
) -> Result<(StatusCode, Bytes), String> {
    let too_late = async {
        stopped(stop).await;
        tokio::time::sleep(ANSWER_TIME).await;
    };
    tokio::select! {
        answer = exchange(at, request) => answer.map_err(|error| error.to_string()),
        () = too_late => Err("it was interrupted, and does not say what it has".into()),
    }
}

/// Hands over an answer's body, and says when it begins; a refusal is returned.
async fn fetch(
    at: &At,
    request: Request<Full<Bytes>>,
    begun: oneshot::Sender<()>,
    pieces: mpsc::Sender<io::Result<Bytes>>,
) -> Result<Option<(StatusCode, Bytes)>, Error> {
    let stream = TokioIo::new(at.connect().await?);
    let (mut sender, connection) = http1::handshake(stream).await?;
    let fetched = async {
        let answer = sender.send_request(request).await?;
        hand_over(answer, begun, pieces).await
    };
    beside(connection, fetched).await
}

async fn hand_over(
    mut answer: Response<Incoming>,
    begun: oneshot::Sender<()>,
    pieces: mpsc::Sender<io::Result<Bytes>>,
) -> Result<Option<(StatusCode, Bytes)>, Error> {
    let status = answer.status();
    if !status.is_success() {
        let refusal = answer.into_body().collect().await?.to_bytes();
        return Ok(Some((status, refusal)));
    }
    let _ = begun.send(());
    while let Some(frame) = answer.frame().await {
        let piece = match frame.map(|frame| frame.into_data()) {
            Ok(Ok(piece)) if !piece.is_empty() => Ok(piece),
            Ok(_) => continue,
            Err(error) => {
                let reason = format!("the daemon broke off, and its log says why ({error})");
                Err(io::Error::other(reason))
            }
        };
        let is_last = piece.is_err();
        if pieces.send(piece).await.is_err() || is_last {
            break;
        }
    }
    Ok(None)
}

/// Comes when it is to stop.
async fn stopped(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
