//! Connections: accepting them, their limits, and the end.
//!
//! A connection carries one request. So whoever is done makes room for the next, and each step has
//! its time: the headers, the body, and taking the answer. Only the work itself takes as long as it
//! takes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tower_service::Service as _;

use super::{Served, router};
use crate::control::socket::Listener;

/// Threads that wait for the disk, at most.
const THREADS_MAX: usize = 4;
/// Bytes of headers, at most.
const HEADER_BYTES_MAX: usize = 16 << 10;
/// Headers, at most.
const HEADERS_MAX: usize = 64;
/// How long no connection is accepted when one could not be: there may be no more descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// What a client may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections at a time; others wait to be accepted.
    pub(super) connections: usize,
    /// How long a request's headers may take to come.
    pub(super) header_time: Duration,
    /// How long an answer may take to be taken.
    pub(super) answer_time: Duration,
    /// How long requests that are in work may take when the daemon ends.
    pub(super) end_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 64,
            header_time: Duration::from_secs(10),
            answer_time: Duration::from_secs(30),
            end_time: Duration::from_secs(5),
        }
    }
}

/// The name of each of its threads.
const THREAD: &str = "razorfs-control";

/// A server at work. Dropped, it ends: what it has begun with the store is over then.
pub struct Running {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread of the control socket failed");
        }
    }
}

/// Answers requests at a socket, in threads of its own.
///
/// # Errors
/// When the system has no more threads or descriptors.
pub fn start(listener: Listener, served: Served) -> io::Result<Running> {
    start_within(listener, served, Limits::default())
}

/// As [`start`].
pub(super) fn start_within(
    listener: Listener,
    served: Served,
    limits: Limits,
) -> io::Result<Running> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(THREADS_MAX)
        .thread_name(THREAD)
        .build()?;
    let accepting = {
        let _entered = runtime.enter();
        UnixListener::from_std(listener.listener()?)?
    };
    let (stop, stopped) = watch::channel(false);
    let router = router(served);
    let thread = std::thread::Builder::new()
        .name(THREAD.into())
        .spawn(move || {
            runtime.block_on(serve((accepting, listener), router, stopped, limits));
            // Waits for what is being done to the store.
            drop(runtime);
        })?;
    Ok(Running {
        stop,
        thread: Some(thread),
    })
}

async fn serve(
    (listener, named): (UnixListener, Listener),
    router: Router,
    mut stopped: watch::Receiver<bool>,
    limits: Limits,
) {
    let room = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            // Never closed.
            let room = Arc::clone(&room).acquire_owned().await.ok();
            (room, listener.accept().await)
        };
        let (room, accepted) = tokio::select! {
            accepted = accepted => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let answering = answer(stream, router.clone(), stopped.clone(), limits);
                connections.spawn(async move {
                    answering.await;
                    drop(room);
                });
            }
            Err(error) => {
                log::warn!("the control socket cannot accept a connection: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
        // Those that are over.
        while connections.try_join_next().is_some() {}
    }
    // Commands that come now wait for the store's lock.
    drop((listener, named));
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.end_time, all).await.is_err() {
        log::warn!("requests to the control socket are not answered any more");
    }
}

/// For the log: a request that may change something.
fn asked(request: &hyper::Request<hyper::body::Incoming>) -> Option<String> {
    let (method, path) = (request.method(), request.uri().path_and_query());
    let path = path.map_or("", |path| path.as_str());
    (!method.is_safe()).then(|| format!("{method} {path:.200}"))
}

/// One connection, to its end.
async fn answer(
    stream: UnixStream,
    router: Router,
    mut stopped: watch::Receiver<bool>,
    limits: Limits,
) {
    let (is_asked, answered) = (AtomicBool::new(false), Notify::new());
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        is_asked.store(true, Ordering::Relaxed);
        let (mut router, answered) = (router.clone(), &answered);
        let asked = asked(&request);
        async move {
            let answer = router.call(request).await;
            if let (Some(asked), Ok(answer)) = (asked, &answer) {
                log::info!("asked for {asked}: {}", answer.status());
            }
            answered.notify_one();
            answer
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_time)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let too_late = async {
        answered.notified().await;
        tokio::time::sleep(limits.answer_time).await;
    };
    let mut too_late = std::pin::pin!(too_late);
    let mut is_ending = false;
    loop {
        tokio::select! {
            done = &mut connection => {
                if let Err(error) = done {
                    log::debug!("a connection to the control socket: {error}");
                }
                return;
            }
            () = &mut too_late => return,
            _ = stopped.wait_for(|stopped| *stopped), if !is_ending => {
                if !is_asked.load(Ordering::Relaxed) {
                    return;
                }
                is_ending = true;
            }
        }
    }
}
