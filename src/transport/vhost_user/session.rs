//! Front-ends, one after the other: a session lasts from connection to disconnection.
//!
//! The store stays open between sessions. The next front-end waits in the socket's backlog until
//! everything of the one before is done.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use vhost::vhost_user::{BackendReqHandler, Error};
use vm_memory::GuestMemoryAtomic;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::affinity::{Anywhere, Cpus};
use super::device::Device;
use super::memory::Memory;
use super::pool::Pool;
use super::slow::Slow;
use super::socket::Socket;
use super::status;
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

/// How long after a failure to accept a connection the next attempt is made.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Ends [`serve`] from elsewhere, and knows whether a front-end is being served.
pub struct Stop {
    event: EventFd,
    state: Mutex<StopState>,
}

#[derive(Default)]
struct StopState {
    stopped: bool,
    /// A session has begun and is not over.
    serving: bool,
}

impl Stop {
    /// One that has not been triggered.
    ///
    /// # Errors
    /// When the system has no more descriptors.
    pub fn new() -> io::Result<Stop> {
        Ok(Stop {
            event: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
            state: Mutex::default(),
        })
    }

    /// Ends the session, after what is in flight, and the waiting for another.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn trigger(&self) -> io::Result<()> {
        self.state.lock().stopped = true;
        self.event.write(1)
    }

    /// Lets no session begin from here on, unless one is under way: whether that is so. What waits
    /// for one ends with [`Stop::trigger`].
    #[must_use]
    pub fn close_when_idle(&self) -> bool {
        let mut state = self.state.lock();
        state.stopped |= !state.serving;
        !state.serving
    }

    /// Whether a front-end is connected.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.state.lock().serving
    }

    fn is_triggered(&self) -> bool {
        self.state.lock().stopped
    }

    /// Begins a session, unless the end was told.
    fn begin(&self) -> bool {
        let mut state = self.state.lock();
        state.serving = !state.stopped;
        state.serving
    }

    fn end_session(&self) {
        self.state.lock().serving = false;
    }
}

/// Serves front-ends until `stop` is triggered, or the first disconnects and that is to be the end;
/// nobody can connect then. When the system refuses what a session needs, that front-end is let go.
///
/// # Errors
/// When it cannot be waited for front-ends.
pub fn serve(
    answer: &Arc<dyn Answer>,
    socket: Socket,
    options: &DeviceOptions,
    stop: &Stop,
) -> Result<(), VhostUserError> {
    // Queues start its threads, and may be bound to a CPU.
    let anywhere = Anywhere::here();
    let pool = Arc::new(Pool::new(options.pool_threads_max, move || {
        anywhere.unbind()
    }));
    let served = serve_all(answer, &socket, options, stop, &pool);
    pool.close();
    served
}

fn serve_all(
    answer: &Arc<dyn Answer>,
    socket: &Socket,
    options: &DeviceOptions,
    stop: &Stop,
    pool: &Arc<Pool>,
) -> Result<(), VhostUserError> {
    loop {
        wait(&[socket.as_raw_fd(), stop.event.as_raw_fd()])?;
        if stop.is_triggered() {
            return Ok(());
        }
        let (stream, peer) = match socket.accept() {
            Ok(Some(accepted)) => accepted,
            Ok(None) => continue,
            Err(error) => {
                log::error!("{socket}: a front-end cannot connect: {error}");
                // It still waits: without a pause this would be all that is done.
                std::thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        if !stop.begin() {
            return Ok(());
        }
        log::info!(
            "{socket}: a front-end connected{}",
            peer.map_or_else(String::new, |pid| format!(": process {pid}"))
        );
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
        if let Err(error) = serve_one(stream, work, options, peer, stop) {
            log::error!("{socket}: a front-end is let go: {error}");
        }
        answer.reset();
        stop.end_session();
        if stop.is_triggered() || options.exit_on_disconnect {
            return Ok(());
        }
        log::info!("{socket}: waiting for the next front-end");
    }
}

/// Serves a front-end until it is gone or `stop` is triggered.
fn serve_one(
    stream: UnixStream,
    work: Arc<Work>,
    options: &DeviceOptions,
    peer: Option<u32>,
    stop: &Stop,
) -> Result<(), VhostUserError> {
    let queues = options.request_queues.clamp(1, REQUEST_QUEUES_MAX);
    let device = Arc::new(Device::new(work, queues, options.tag.as_deref(), peer)?);
    let result = session(stream, &device, stop);
    device.end();
    result
}

/// Handles a front-end's messages until it is gone or `stop` is triggered.
fn session(stream: UnixStream, device: &Arc<Device>, stop: &Stop) -> Result<(), VhostUserError> {
    let system = VhostUserError::system;
    let ours = stream.try_clone().map_err(system("the connection"))?;
    let peeked = stream.try_clone().map_err(system("the connection"))?;
    let over = Arc::new(EventFd::new(libc::EFD_CLOEXEC).map_err(system("an event"))?);
    let (device, theirs) = (device.clone(), over.clone());
    let thread = std::thread::Builder::new()
        .name("razorfs-vhost".into())
        .spawn(move || {
            messages(stream, peeked, device);
            if let Err(error) = theirs.write(1) {
                log::error!("the end of a session cannot be told: {error}");
            }
        })
        .map_err(system("a thread"))?;
    let waited = wait(&[over.as_raw_fd(), stop.event.as_raw_fd()]);
    // It fails when the front-end is gone already.
    let _ = ours.shutdown(Shutdown::Both);
    if thread.join().is_err() {
        log::error!("the thread that handles the front-end's messages failed");
    }
    waited
}

/// Handles messages until there are no more. `peeked` is `stream` once more, for what the vhost
/// crate does not know.
fn messages(stream: UnixStream, mut peeked: UnixStream, device: Arc<Device>) {
    let mut handler = BackendReqHandler::from_stream(stream, device.clone());
    loop {
        match status::handle(&mut peeked, &device) {
            Ok(true) => continue,
            // What there is, or that there is nothing, the handler finds too.
            Ok(false) => {}
            Err(error) => {
                log::error!("the front-end's message cannot be followed, disconnecting: {error}");
                return;
            }
        }
        match handler.handle_request() {
            Ok(()) | Err(Error::SocketRetry(_)) => {}
            Err(Error::Disconnected | Error::PartialMessage | Error::SocketBroken(_)) => {
                log::info!("the front-end disconnected");
                return;
            }
            Err(error) => {
                log::error!("the front-end's message cannot be followed, disconnecting: {error}");
                return;
            }
        }
    }
}

/// Waits until one of the descriptors can be read.
fn wait(fds: &[RawFd]) -> Result<(), VhostUserError> {
    let failed = VhostUserError::system("waiting for an event");
    let epoll = Epoll::new().map_err(&failed)?;
    for fd in fds {
        epoll
            .ctl(ControlOperation::Add, *fd, EpollEvent::new(EventSet::IN, 0))
            .map_err(&failed)?;
    }
    loop {
        match epoll.wait(-1, &mut [EpollEvent::default(); 2]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
            Ok(_) => return Ok(()),
        }
    }
}
