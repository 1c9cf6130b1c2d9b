//! Bodies that are read while they come: by a thread, through a channel of bounded size.
//!
//! The channel is what a client waits for that is faster than the disk. A body that breaks off, one of
//! which nothing comes for long, and the daemon's end are errors of who reads. Who does not read to the
//! end can answer at once: what still comes is dropped, for as long as the answer may take to be taken.

use std::io;
use std::time::Duration;

use axum::body::Body;
use http_body_util::BodyExt as _;
use hyper::body::Bytes;
use tokio::sync::mpsc;

use super::Served;

/// Pieces that wait to be read, at most. Each is what was read from the connection at once.
const PIECES_MAX: usize = 4;
/// How often it is looked whether the daemon ends, while nothing comes.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A body as it comes.
pub(super) struct Upload {
    /// An empty one is the end.
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
    is_over: bool,
}

impl Upload {
    /// Begins to take it from the connection.
    pub(super) fn begin(body: Body, served: &Served) -> Upload {
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        let served = served.clone();
        let silence = served.silence;
        tokio::spawn(take_while(body, sender, silence, move || {
            served.is_ending()
        }));
        Upload {
            pieces,
            piece: Bytes::new(),
            is_over: false,
        }
    }
}

impl io::Read for Upload {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && !self.is_over {
            let next = self.pieces.blocking_recv();
            self.piece = next.unwrap_or_else(|| Err(io::ErrorKind::ConnectionAborted.into()))?;
            self.is_over = self.piece.is_empty();
        }
        let len = bytes.len().min(self.piece.len());
        let taken = self.piece.split_to(len);
        bytes
            .iter_mut()
            .zip(&taken)
            .for_each(|(to, from)| *to = *from);
        Ok(len)
    }
}

/// Hands over what comes, until it ends, or nobody reads and it ends.
async fn take_while(
    mut body: Body,
    pieces: mpsc::Sender<io::Result<Bytes>>,
    silence: Duration,
    is_ending: impl Fn() -> bool,
) {
    let mut silent = Duration::ZERO;
    let mut reader = Some(pieces);
    loop {
        let came = tokio::time::timeout(LOOK_INTERVAL, body.frame()).await;
        // However fast or slowly it comes: guests may be waiting for the end.
        if is_ending()
            && let Some(reader) = reader.take()
        {
            let _ = reader.send(Err(io::Error::other("the daemon ends"))).await;
        }
        let next = match came {
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) if !data.is_empty() => Ok(data),
                _ => continue,
            },
            Ok(Some(Err(error))) => Err(io::Error::other(error)),
            Ok(None) => Ok(Bytes::new()),
            // The answer can be taken: nothing is on its way that would have it dropped.
            Err(_) if reader.is_none() => return,
            Err(_) if silent >= silence => Err(io::Error::other("nothing comes any more")),
            Err(_) => {
                silent = silent.saturating_add(LOOK_INTERVAL);
                continue;
            }
        };
        silent = Duration::ZERO;
        let is_last = next.as_ref().map_or(true, Bytes::is_empty);
        // Where nobody reads any more it is dropped.
        if let Some(reader) = &reader {
            let _ = reader.send(next).await;
        }
        if is_last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll};

    use hyper::body::Frame;

    use super::*;

    /// A thousand pieces, and how many of them were taken.
    struct Pieces(Arc<AtomicUsize>);

    impl hyper::body::Body for Pieces {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
            let taken = self.0.fetch_add(1, Ordering::Relaxed);
            let piece = || Ok(Frame::data(Bytes::from_static(b"piece")));
            Poll::Ready((taken < 1000).then(piece))
        }
    }

    #[test]
    fn no_more_is_taken_than_somebody_reads() {
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        let taken = Arc::<AtomicUsize>::default();
        let body = Body::new(Pieces(Arc::clone(&taken)));
        let mut upload = Upload {
            pieces,
            piece: Bytes::new(),
            is_over: false,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        std::thread::spawn(move || {
            runtime.block_on(take_while(body, sender, Duration::MAX, || false))
        });
        std::thread::sleep(Duration::from_millis(200));
        let waiting = taken.load(Ordering::Relaxed);
        // Those that wait, and the next.
        assert!((1..=5).contains(&waiting), "{waiting}");
        let mut all = Vec::new();
        upload.read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), 5000);
        assert_eq!(upload.read(&mut [0; 9]).unwrap(), 0, "it stays at its end");
    }

    #[test]
    fn what_breaks_off_is_no_end() {
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        let mut upload = Upload {
            pieces,
            piece: Bytes::new(),
            is_over: false,
        };
        sender
            .blocking_send(Ok(Bytes::from_static(b"some")))
            .unwrap();
        drop(sender);
        let mut all = Vec::new();
        let cut = upload.read_to_end(&mut all).unwrap_err();
        assert_eq!(
            (cut.kind(), all.len()),
            (io::ErrorKind::ConnectionAborted, 4)
        );
    }
}
