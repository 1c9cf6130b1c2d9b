//! Front-ends, one after the other: a session lasts from connection to disconnection.
//!
//! The store stays open between sessions. The next front-end waits in the socket's backlog until
//! everything of the one before is done.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use vhost::vhost_user::message::FrontendReq;
use vhost::vhost_user::{BackendReqHandler, Error};
use vm_memory::GuestMemoryAtomic;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::affinity::{Anywhere, Cpus};
use super::device::Device;
use super::frozen::{Frozen, FrozenDevice, Standing, Why};
use super::memory::Memory;
use super::pool::Pool;
use super::slow::Slow;
use super::socket::{self, Socket};
use super::status::{self, Next};
use super::worker::Work;
use super::{Answer, REQUEST_QUEUES_MAX, VhostUserError};
use crate::metrics::Meter;

/// What the device is like.
#[derive(Debug, Clone, Default)]
pub struct DeviceOptions {
    /// Request queues offered, 1 to [`REQUEST_QUEUES_MAX`], beside the high-priority one.
    pub request_queues: usize,
    /// Threads at most for requests that wait for the disk; with 0 they hold up their queue.
    pub pool_threads_max: usize,
    /// The tag to offer to front-ends that have none of their own.
    pub tag: Option<String>,
    /// End with the first front-end that disconnects.
    pub exit_on_disconnect: bool,
    /// Every change waits for the disk, so none may hold up its queue.
    pub strict: bool,
    /// How long a queue's thread looks for more requests before it sleeps, at most.
    pub poll_max: Duration,
    /// Where queues' threads run.
    pub cpus: Cpus,
    /// Where its requests are counted.
    pub meter: Arc<Meter>,
}

impl DeviceOptions {
    /// Queues, the high-priority one included.
    pub(super) fn queues(&self) -> usize {
        self.request_queues
            .clamp(1, REQUEST_QUEUES_MAX)
            .saturating_add(1)
    }
}

/// How long after a failure to accept a connection the next attempt is made.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a front-end may take to send the rest of a message before its session is ended rather
/// than frozen.
const MESSAGE_PATIENCE: Duration = Duration::from_secs(5);

/// Ends [`serve`] from elsewhere, or freezes it, and knows whether a front-end is being served.
pub struct Stop {
    event: EventFd,
    state: Mutex<StopState>,
    /// Front-ends of all exports that are connected.
    sessions: Arc<AtomicUsize>,
}

#[derive(Default)]
struct StopState {
    /// Why serving is to end.
    why: Option<Why>,
    /// A session has begun and is not over.
    serving: bool,
}

impl Stop {
    /// One that has not been triggered.
    ///
    /// # Errors
    /// When the system has no more descriptors.
    pub fn new() -> io::Result<Stop> {
        Stop::beside(&Arc::default())
    }

    /// The same, for one of several exports that count their front-ends together.
    ///
    /// # Errors
    /// As there.
    pub fn beside(sessions: &Arc<AtomicUsize>) -> io::Result<Stop> {
        let sessions = Arc::clone(sessions);
        Ok(Stop {
            event: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
            state: Mutex::default(),
            sessions,
        })
    }

    /// Ends the session, after what is in flight, and the waiting for another.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn trigger(&self) -> io::Result<()> {
        self.state.lock().why = Some(Why::Stopped);
        self.event.write(1)
    }

    /// Has sessions freeze, after what is in flight: see [`Frozen`].
    ///
    /// # Errors
    /// When the system refuses.
    pub fn freeze(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.why = state.why.or(Some(Why::Frozen));
        drop(state);
        self.event.write(1)
    }

    /// Lets no session begin from here on, unless one is under way: whether that is so. What waits
    /// for one ends with [`Stop::trigger`].
    #[must_use]
    pub fn close_when_idle(&self) -> bool {
        let mut state = self.state.lock();
        if !state.serving {
            state.why = Some(Why::Stopped);
        }
        !state.serving
    }

    /// Whether a front-end is connected.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.state.lock().serving
    }

    fn is_triggered(&self) -> bool {
        self.why() == Some(Why::Stopped)
    }

    /// Why serving is to end, if it is.
    fn why(&self) -> Option<Why> {
        self.state.lock().why
    }

    /// Begins a session, unless the end was told.
    fn begin(&self) -> bool {
        let mut state = self.state.lock();
        state.serving = state.why.is_none();
        if state.serving {
            self.sessions.fetch_add(1, Ordering::AcqRel);
        }
        state.serving
    }

    fn end_session(&self) {
        if std::mem::take(&mut self.state.lock().serving) {
            self.sessions.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Serves front-ends until `stop` is triggered, or the first disconnects and that is to be the end;
/// nobody can connect then. When the system refuses what a session needs, that front-end is let go.
/// Returns why it ended, and with what it can be gone on with.
///
/// # Errors
/// When it cannot be waited for front-ends.
pub fn serve(
    answer: &Arc<dyn Answer>,
    standing: impl Into<Standing>,
    options: &DeviceOptions,
    stop: &Stop,
) -> Result<(Standing, Why), VhostUserError> {
    // Queues start its threads, and may be bound to a CPU.
    let anywhere = Anywhere::here();
    let pool = Arc::new(Pool::new(options.pool_threads_max, move || {
        anywhere.unbind()
    }));
    let served = serve_all(answer, standing.into(), options, stop, &pool);
    pool.close();
    served
}

fn serve_all(
    answer: &Arc<dyn Answer>,
    mut standing: Standing,
    options: &DeviceOptions,
    stop: &Stop,
    pool: &Arc<Pool>,
) -> Result<(Standing, Why), VhostUserError> {
    loop {
        if let Some(why) = stop.why() {
            return Ok((standing, why));
        }
        let begun = match standing.frozen.take() {
            Some(frozen) if stop.begin() => Begun::Before(frozen),
            None => match next(&standing.socket, stop)? {
                Some((stream, peer)) => Begun::Now(stream, peer),
                None => continue,
            },
            later => {
                standing.frozen = later;
                continue;
            }
        };
        let work = Arc::new(Work {
            answer: answer.clone(),
            memory: GuestMemoryAtomic::new(Memory::new()),
            pool: pool.clone(),
            strict: options.strict,
            slow: Slow::default(),
            poll_max: options.poll_max,
            cpus: options.cpus.clone(),
            meter: options.meter.clone(),
        });
        let served = serve_one(begun, work, options, stop);
        let socket = &standing.socket;
        match served {
            Ok(Over::Frozen(frozen, why)) => {
                standing.frozen = Some(frozen);
                stop.end_session();
                return Ok((standing, why));
            }
            // What it has open is its own where it goes on: nothing of that is freed here.
            Ok(Over::Gone { never_ran: true }) => {
                stop.end_session();
                return Ok((standing, stop.why().unwrap_or(Why::NeverRan)));
            }
            Ok(Over::Gone { .. }) => {}
            Err(error) => log::error!("{socket}: a front-end is let go: {error}"),
        }
        answer.reset();
        stop.end_session();
        if stop.is_triggered() || options.exit_on_disconnect {
            return Ok((standing, Why::Stopped));
        }
        log::info!("{socket}: waiting for the next front-end");
    }
}

/// A front-end that has connected, and its process when known.
type Connected = (UnixStream, Option<u32>);

/// Waits for the next front-end, and begins its session; `None` when there is none, or something else to
/// do.
fn next(socket: &Socket, stop: &Stop) -> Result<Option<Connected>, VhostUserError> {
    wait(&[socket.as_raw_fd(), stop.event.as_raw_fd()], None)?;
    // Before it is accepted: where the end was told, it stays in the backlog of the socket, which others
    // may go on with.
    if !stop.begin() {
        return Ok(None);
    }
    let accepted = accept(socket);
    if accepted.is_none() {
        stop.end_session();
    }
    Ok(accepted)
}

fn accept(socket: &Socket) -> Option<Connected> {
    match socket.accept() {
        Ok(accepted) => accepted.inspect(|(_, peer)| {
            log::info!(
                "{socket}: a front-end connected{}",
                peer.map_or_else(String::new, |pid| format!(": process {pid}"))
            );
        }),
        Err(error) => {
            log::error!("{socket}: a front-end cannot connect: {error}");
            // It still waits: without a pause this would be all that is done.
            std::thread::sleep(ACCEPT_PAUSE);
            None
        }
    }
}

/// A session at its beginning.
enum Begun {
    /// Of a front-end that has just connected.
    Now(UnixStream, Option<u32>),
    /// Of one that connected before.
    Before(Frozen),
}

/// What became of a session.
enum Over {
    Gone {
        /// Its guest had come from elsewhere, and was never started.
        never_ran: bool,
    },
    Frozen(Frozen, Why),
}

/// Why its messages are not followed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    /// There are none.
    Gone,
    /// Others are to follow them.
    Paused,
    /// The guest leaves.
    Leaves,
    /// The next one needs a store.
    NeedsStore,
}

/// Serves a front-end until it is gone or `stop` is triggered.
fn serve_one(
    begun: Begun,
    work: Arc<Work>,
    options: &DeviceOptions,
    stop: &Stop,
) -> Result<Over, VhostUserError> {
    let (stream, peer, waits, frozen) = match begun {
        Begun::Now(stream, peer) => (stream, peer, false, None),
        Begun::Before(frozen) => (
            frozen.stream,
            frozen.peer,
            frozen.waits,
            Some(frozen.device),
        ),
    };
    let queues = options.queues().saturating_sub(1);
    let sessions = stop.sessions.clone();
    let tag = options.tag.as_deref();
    let device = Device::new(work.clone(), queues, tag, peer, sessions)?;
    let device = Arc::new(device);
    let followed = follow(&stream, &device, frozen, stop);
    let why = match followed {
        Ok(Last::Gone) => None,
        Ok(Last::Paused) => Some(Why::Frozen),
        Ok(Last::Leaves) => Some(Why::Leaves),
        Ok(Last::NeedsStore) => Some(Why::NeedsStore),
        Err(error) => {
            device.end();
            return Err(error);
        }
    };
    let waits = waits && !device.has_run();
    let never_ran = waits && work.answer.is_there();
    let Some(why) = why else {
        device.end();
        return Ok(Over::Gone { never_ran });
    };
    let system = VhostUserError::system;
    let device = device.freeze().map_err(system("freezing a session"))?;
    let mount = work.answer.save().map_err(|error| VhostUserError::System {
        what: "the guest's state",
        source: io::Error::other(error),
    })?;
    let frozen = Frozen {
        stream,
        peer,
        device,
        mount,
        arrived: false,
        waits,
    };
    Ok(Over::Frozen(frozen, why))
}

/// Follows a front-end's messages until it is gone, they are to be followed elsewhere, or `stop` is
/// triggered.
fn follow(
    stream: &UnixStream,
    device: &Arc<Device>,
    frozen: Option<FrozenDevice>,
    stop: &Stop,
) -> Result<Last, VhostUserError> {
    let system = VhostUserError::system;
    let clone = || stream.try_clone().map_err(system("the connection"));
    let mut handler = match frozen {
        Some(frozen) => {
            let handler = thawed(stream, device, &frozen).map_err(system("the connection"))?;
            let refused = |error: Error| system("a session")(io::Error::other(error.to_string()));
            device.thaw(frozen).map_err(refused)?;
            handler
        }
        None => BackendReqHandler::from_stream(clone()?, device.clone()),
    };
    let event = || EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).map_err(system("an event"));
    let (over, pause) = (Arc::new(event()?), Arc::new(event()?));
    let (theirs, paused, device) = (over.clone(), pause.clone(), device.clone());
    let mut peeked = clone()?;
    let thread = std::thread::Builder::new()
        .name("razorfs-vhost".into())
        .spawn(move || {
            let last = messages(&mut handler, &mut peeked, &device, &paused);
            if let Err(error) = theirs.write(1) {
                log::error!("the end of a session cannot be told: {error}");
            }
            last
        })
        .map_err(system("a thread"))?;
    let mut waited = wait(&[over.as_raw_fd(), stop.event.as_raw_fd()], None);
    if waited.is_ok() && stop.why() == Some(Why::Frozen) {
        // It fails when there have been 2^64 of them.
        let _ = pause.write(1);
        waited = wait(&[over.as_raw_fd()], Some(MESSAGE_PATIENCE));
    }
    // What is paused or left is gone on with; it fails when the front-end is gone already.
    if over.read().is_err() {
        let _ = stream.shutdown(Shutdown::Both);
    }
    let last = thread.join().unwrap_or_else(|_| {
        log::error!("the thread that handles the front-end's messages failed");
        Last::Gone
    });
    if last == Last::Gone {
        let _ = stream.shutdown(Shutdown::Both);
    }
    waited.map(|()| last)
}

/// A handler of messages that is where another one was: it is told once more what was agreed on, at
/// the other end of a connection of its own, in whose place the front-end's is put then.
fn thawed(
    stream: &UnixStream,
    device: &Arc<Device>,
    frozen: &FrozenDevice,
) -> io::Result<BackendReqHandler<Device>> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut handler = BackendReqHandler::from_stream(ours, device.clone());
    let mut tell = |request: FrontendReq, value: Option<u64>| -> io::Result<()> {
        status::put(&theirs, request as u32, value)?;
        let told = handler.handle_request();
        told.map_err(|error| io::Error::other(error.to_string()))
    };
    tell(FrontendReq::GET_FEATURES, None)?;
    if frozen.features != 0 {
        tell(FrontendReq::SET_FEATURES, Some(frozen.features))?;
    }
    tell(
        FrontendReq::SET_PROTOCOL_FEATURES,
        Some(frozen.protocol_features),
    )?;
    socket::put_in_place(stream, &handler)?;
    Ok(handler)
}

/// Handles messages until there are no more, `pause` says that others are to, or the next is not for
/// now. `peeked` is the connection once more, for what the vhost crate does not know.
fn messages(
    handler: &mut BackendReqHandler<Device>,
    peeked: &mut UnixStream,
    device: &Device,
    pause: &EventFd,
) -> Last {
    loop {
        if device.leaves() {
            return Last::Leaves;
        }
        if let Err(error) = wait(&[peeked.as_raw_fd(), pause.as_raw_fd()], None) {
            log::error!("{error}");
            return Last::Gone;
        }
        if pause.read().is_ok() {
            return Last::Paused;
        }
        match status::next(peeked, device) {
            Ok(Next::Done) => continue,
            Ok(Next::NeedsStore) => return Last::NeedsStore,
            // What there is, or that there is nothing, the handler finds too.
            Ok(Next::Other) => {}
            Err(error) => {
                log::error!("the front-end's message cannot be followed, disconnecting: {error}");
                return Last::Gone;
            }
        }
        match handler.handle_request() {
            Ok(()) | Err(Error::SocketRetry(_)) => {}
            Err(Error::Disconnected | Error::PartialMessage | Error::SocketBroken(_)) => {
                log::info!("the front-end disconnected");
                return Last::Gone;
            }
            Err(error) => {
                log::error!("the front-end's message cannot be followed, disconnecting: {error}");
                return Last::Gone;
            }
        }
    }
}

/// Waits until one of the descriptors can be read, or for as long as `patience`.
fn wait(fds: &[RawFd], patience: Option<Duration>) -> Result<(), VhostUserError> {
    let patience = patience.map_or(-1, |time| {
        i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
    });
    let failed = VhostUserError::system("waiting for an event");
    let epoll = Epoll::new().map_err(&failed)?;
    for fd in fds {
        epoll
            .ctl(ControlOperation::Add, *fd, EpollEvent::new(EventSet::IN, 0))
            .map_err(&failed)?;
    }
    loop {
        match epoll.wait(patience, &mut [EpollEvent::default(); 2]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
            Ok(_) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who connects in the moment of a freeze waits for whoever goes on with the socket.
    #[test]
    fn nobody_is_accepted_who_would_not_be_served() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let socket = Socket::bind(&path, None).unwrap();
        let front_end = UnixStream::connect(&path).unwrap();
        let frozen = Stop::new().unwrap();
        frozen.freeze().unwrap();
        assert!(next(&socket, &frozen).unwrap().is_none());
        assert!(!frozen.is_serving());
        assert!(accept(&socket).is_some(), "it does not wait any more");
        let stop = Stop::new().unwrap();
        let later = UnixStream::connect(&path).unwrap();
        assert!(next(&socket, &stop).unwrap().is_some() && stop.is_serving());
        drop((front_end, later));
    }
}
