//! Connections: accepting them, their limits, and the end.
//!
//! A connection carries one request. So whoever is done makes room for the next, and each step has
//! its time: the handshake, the headers, the body, and taking the answer. Only the work itself takes as
//! long as it takes. An answer that goes on ([`Lasting`]) takes no room from others and has limits of
//! its own; the daemon's end cuts it off.
//!
//! What comes over TCP is refused before it is looked at when it has no token. Who has not shown one,
//! or has not said anything on the UNIX socket, keeps nobody out: see [`super::unknown`].

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use axum::response::Response;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower_service::Service as _;

use super::exchange::{Lasting, unauthorized};
use super::stream::{Flow, Watched};
use super::unknown::{Entry, Seldom, Unknown};
use super::{STREAMS_MAX, Served, router};
use crate::control::socket::Listener;
use crate::control::tcp::{self, Guard};

/// Threads that wait for the disk, at most, besides those of what takes long: answers that go on, and
/// a scrub.
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
    /// Connections at a time. Others take the place of those that are not known yet, or wait.
    pub(super) connections: usize,
    /// How long a request's headers may take to come.
    pub(super) header_time: Duration,
    /// How long an answer may take to be taken.
    pub(super) answer_time: Duration,
    /// How long nothing of a body may come. It can be gone on with, so this only frees what a client
    /// holds that has vanished without a word.
    pub(super) silence: Duration,
    /// How long requests that are in work may take when the daemon ends.
    pub(super) end_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 64,
            header_time: Duration::from_secs(10),
            answer_time: Duration::from_secs(30),
            silence: Duration::from_secs(600),
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

/// Where requests come from.
#[derive(Default)]
pub struct Listeners {
    /// The socket in the store's directory, or elsewhere.
    pub unix: Option<Listener>,
    /// An address.
    pub tcp: Option<tcp::Listener>,
}

/// One of them.
struct Accepting {
    socket: Socket,
    /// What removes it in the end.
    _named: Option<Listener>,
}

enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener, Arc<Guard>),
}

/// Somebody who has connected.
enum Connected {
    Unix(UnixStream),
    Tcp(TcpStream, Arc<Guard>),
}

impl Accepting {
    async fn accept(&self) -> io::Result<Connected> {
        match &self.socket {
            Socket::Unix(listener) => Ok(Connected::Unix(listener.accept().await?.0)),
            Socket::Tcp(listener, guard) => {
                let (stream, _) = listener.accept().await?;
                // An answer is one write, and whoever waits for it sends nothing meanwhile.
                stream.set_nodelay(true)?;
                Ok(Connected::Tcp(stream, Arc::clone(guard)))
            }
        }
    }
}

/// Answers requests, in threads of its own.
///
/// # Errors
/// When the system has no more threads or descriptors.
pub fn start(listeners: Listeners, served: Served) -> io::Result<Running> {
    start_within(listeners, served, Limits::default())
}

/// As [`start`].
pub(super) fn start_within(
    listeners: Listeners,
    mut served: Served,
    limits: Limits,
) -> io::Result<Running> {
    served.silence = limits.silence;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(THREADS_MAX + STREAMS_MAX + 1)
        .thread_name(THREAD)
        .build()?;
    let mut accepting = Vec::new();
    {
        let _entered = runtime.enter();
        if let Some(named) = listeners.unix {
            let socket = Socket::Unix(UnixListener::from_std(named.listener()?)?);
            let _named = Some(named);
            accepting.push(Accepting { socket, _named });
        }
        if let Some(tcp) = listeners.tcp {
            let (listener, guard) = tcp.split();
            let socket = Socket::Tcp(TcpListener::from_std(listener)?, guard);
            let _named = None;
            accepting.push(Accepting { socket, _named });
        }
    }
    let (stop, stopped) = watch::channel(false);
    let router = router(served.clone());
    let thread = std::thread::Builder::new()
        .name(THREAD.into())
        .spawn(move || {
            runtime.block_on(async {
                let mut all = JoinSet::new();
                let (ending, mut told) = (served.clone(), stopped.clone());
                all.spawn(async move {
                    // What takes long is not waited for, and a body that goes on may be silent.
                    let _ = told.wait_for(|stopped| *stopped).await;
                    ending.end();
                });
                for each in accepting {
                    all.spawn(serve(each, router.clone(), stopped.clone(), limits));
                }
                while all.join_next().await.is_some() {}
            });
            // Waits for what is being done to the store.
            drop(runtime);
        })?;
    Ok(Running {
        stop,
        thread: Some(thread),
    })
}

async fn serve(
    accepting: Accepting,
    router: Router,
    mut stopped: watch::Receiver<bool>,
    limits: Limits,
) {
    let room = Arc::new(Semaphore::new(limits.connections));
    let unknown = Arc::<Unknown>::default();
    let (refused, failed) = (Arc::<Seldom>::default(), Seldom::default());
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let accepted = accepting.accept().await;
            (take_room(&room, &unknown).await, accepted)
        };
        let (room, accepted) = tokio::select! {
            accepted = accepted => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        match accepted {
            Ok(connected) => {
                let (router, stopped) = (router.clone(), stopped.clone());
                let connection = Connection {
                    router,
                    stopped,
                    limits,
                    guard: None,
                    room,
                    entry: unknown.enter(),
                    refused: Arc::clone(&refused),
                };
                connections.spawn(connection.begin(connected));
            }
            Err(error) => {
                if let Some(count) = failed.note(Instant::now()) {
                    let times = times(count);
                    log::warn!("the control socket cannot accept a connection: {error}{times}");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        // Those that are over.
        while connections.try_join_next().is_some() {}
    }
    // Commands that come now wait for the store's lock.
    drop(accepting);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.end_time, all).await.is_err() {
        log::warn!("requests to the control socket are not answered any more");
    }
}

/// Room for one more connection.
async fn take_room(room: &Arc<Semaphore>, unknown: &Unknown) -> Option<OwnedSemaphorePermit> {
    if room.available_permits() == 0 {
        unknown.make_room();
    }
    // Never closed.
    Arc::clone(room).acquire_owned().await.ok()
}

/// For the log: how often it happened.
fn times(count: u64) -> String {
    match count {
        ..=1 => String::new(),
        count => format!(" ({count} times by now)"),
    }
}

/// For the log: a request that may change something.
fn asked(request: &hyper::Request<hyper::body::Incoming>) -> Option<String> {
    let (method, path) = (request.method(), request.uri().path_and_query());
    let path = path.map_or("", |path| path.as_str());
    (!method.is_safe()).then(|| format!("{method} {path:.200}"))
}

/// What a connection is to be answered with.
struct Connection {
    router: Router,
    stopped: watch::Receiver<bool>,
    limits: Limits,
    /// Who may ask; anyone who could connect to a UNIX socket.
    guard: Option<Arc<Guard>>,
    room: Option<OwnedSemaphorePermit>,
    entry: Entry,
    /// Tells of requests without the token.
    refused: Arc<Seldom>,
}

/// How far a connection is, and the room that it takes from others.
struct Progress {
    state: State,
    room: Option<OwnedSemaphorePermit>,
    /// While it is not known whose it is.
    entry: Option<Entry>,
}

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Silent,
    Asked,
    Lasting,
}

impl Connection {
    async fn begin(mut self, connected: Connected) {
        let flow = Arc::<Flow>::default();
        let (stream, guard) = match connected {
            Connected::Unix(stream) => {
                let stream = Watched::new(stream, Arc::clone(&flow));
                return self.answer(stream, &flow).await;
            }
            Connected::Tcp(stream, guard) => (Watched::new(stream, Arc::clone(&flow)), guard),
        };
        let tls = guard.tls.clone();
        self.guard = Some(guard);
        let Some(tls) = tls else {
            return self.answer(stream, &flow).await;
        };
        let handshake = TlsAcceptor::from(tls).accept(stream);
        let mut stopped = self.stopped.clone();
        let done = tokio::select! {
            done = tokio::time::timeout(self.limits.header_time, handshake) => done,
            () = self.entry.gives_way.notified() => return,
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        match done {
            Ok(Ok(stream)) => self.answer(stream, &flow).await,
            Ok(Err(error)) => log::debug!("a TLS handshake: {error}"),
            Err(_) => log::debug!("a TLS handshake took too long"),
        }
    }

    /// Answers its request, to its end.
    async fn answer(self, stream: impl AsyncRead + AsyncWrite + Unpin, flow: &Flow) {
        let gives_way = Arc::clone(&self.entry.gives_way);
        let progress = Mutex::new(Progress {
            state: State::Silent,
            room: self.room,
            entry: Some(self.entry),
        });
        let answered = Notify::new();
        let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
            let (mut router, answered, progress) = (self.router.clone(), &answered, &progress);
            let asked = asked(&request);
            let guard = self.guard.as_deref();
            let may_ask = guard.is_none_or(|guard| guard.token.is_in(request.headers()));
            let refused = &self.refused;
            if may_ask {
                let mut progress = progress.lock();
                progress.state = State::Asked;
                progress.entry = None;
            }
            async move {
                if !may_ask {
                    if let Some(count) = refused.note(Instant::now()) {
                        let times = times(count);
                        log::warn!("a request without the right token was refused{times}");
                    }
                    answered.notify_one();
                    return Ok(unauthorized());
                }
                let answer: Result<Response, std::convert::Infallible> = router.call(request).await;
                if let (Some(asked), Ok(answer)) = (asked, &answer) {
                    log::info!("asked for {asked}: {}", answer.status());
                }
                let lasting = answer.as_ref().map(|answer| answer.extensions().get());
                match lasting {
                    Ok(Some(Lasting)) => {
                        let mut progress = progress.lock();
                        progress.state = State::Lasting;
                        progress.room = None;
                    }
                    _ => answered.notify_one(),
                }
                answer
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_time)
            .max_buf_size(HEADER_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let too_late = async {
            answered.notified().await;
            tokio::time::sleep(self.limits.answer_time).await;
        };
        let mut too_late = std::pin::pin!(too_late);
        let stuck = async {
            let is_stuck = || progress.lock().state == State::Lasting && flow.is_stuck();
            while !is_stuck() {
                tokio::time::sleep(self.limits.answer_time).await;
            }
        };
        let mut stuck = std::pin::pin!(stuck);
        let mut stopped = self.stopped.clone();
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
                () = &mut stuck => return,
                () = gives_way.notified() => {
                    if progress.lock().entry.is_some() {
                        return;
                    }
                }
                _ = stopped.wait_for(|stopped| *stopped), if !is_ending => {
                    if progress.lock().state != State::Asked {
                        return;
                    }
                    is_ending = true;
                }
            }
        }
    }
}
