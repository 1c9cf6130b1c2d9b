//! A ring's thread.
//!
//! While it works it asks for no kicks; when there is nothing left it looks for a while whether
//! more comes ([`super::poll`]), then asks for them, looks once more, and sleeps.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vm_memory::{GuestAddressSpace, GuestMemoryAtomic};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::event::EventConsumer;

use super::Answer;
use super::affinity::{self, Cpus};
use super::chain::{Chain, Parts, Shape};
use super::memory::Memory;
use super::poll::Poller;
use super::pool::Pool;
use super::ring::{Next, Ring, Watch};
use super::slow::Slow;
use crate::server::Error;
use crate::server::consts::opcode;

/// Requests given back before the guest is told, while more are waiting.
const UNTOLD_MAX: u32 = 8;
/// Their bytes: a large request takes long enough to be told by itself.
const UNTOLD_BYTES_MAX: u64 = 64 * 1024;

/// What all workers of a session share.
pub(super) struct Work {
    pub(super) answer: Arc<dyn Answer>,
    pub(super) memory: GuestMemoryAtomic<Memory>,
    pub(super) pool: Arc<Pool>,
    /// Every change waits for the disk.
    pub(super) strict: bool,
    /// What took long lately.
    pub(super) slow: Slow,
    /// How long to look for more requests before sleeping, at most.
    pub(super) poll_max: Duration,
    /// Where rings' threads run.
    pub(super) cpus: Cpus,
}

impl Work {
    pub(super) fn memory(&self) -> Arc<Memory> {
        self.memory.memory().into_inner()
    }

    /// Whether a request had better not be answered by the ring's own thread.
    fn may_block(&self, shape: Shape) -> bool {
        shape.may_block(self.strict)
            || self.slow.is(shape.opcode)
            || (shape.opcode == opcode::WRITE && self.answer.writes_may_wait())
    }
}

const WAKE: u64 = 0;
const KICK: u64 = 1;

/// The worker's loop, until the ring ends; on one CPU, if it is given one.
pub(super) fn run(ring: &Arc<Ring>, work: &Arc<Work>, cpu: Option<usize>) {
    if let Some(cpu) = cpu {
        affinity::bind(cpu);
    }
    if let Err(error) = serve(ring, work) {
        log::error!("queue {} is no longer served: {error}", ring.index);
        ring.fail("its thread failed");
    }
}

fn control(epoll: &Epoll, what: ControlOperation, fd: RawFd, token: u64) -> io::Result<()> {
    epoll.ctl(what, fd, EpollEvent::new(EventSet::IN, token))
}

fn serve(ring: &Arc<Ring>, work: &Arc<Work>) -> io::Result<()> {
    let epoll = Epoll::new()?;
    control(
        &epoll,
        ControlOperation::Add,
        ring.waker().as_raw_fd(),
        WAKE,
    )?;
    let mut watched: Option<(u64, EventConsumer)> = None;
    let mut events = [EpollEvent::default(); 2];
    let mut poller = Poller::new(work.poll_max);
    let mut woken = false;
    loop {
        let was_woken = std::mem::take(&mut woken);
        match ring.watch(watched.as_ref().map(|(number, _)| *number)) {
            Watch::End => return Ok(()),
            // It may have been disabled for so short that only the one who took requests off it
            // noticed, and stopped with no kick asked for.
            Watch::Same if was_woken => process(ring, work, &mut poller),
            Watch::Same => {}
            Watch::Nothing => unwatch(&epoll, &mut watched)?,
            Watch::Kick(number, kick) => {
                unwatch(&epoll, &mut watched)?;
                if let Err(error) = control(&epoll, ControlOperation::Add, kick.as_raw_fd(), KICK) {
                    ring.fail(&format!(
                        "its kick descriptor cannot be waited for: {error}"
                    ));
                    continue;
                }
                watched = Some((number, kick));
                // What was made available before someone listened.
                process(ring, work, &mut poller);
                continue;
            }
        }
        let count = match epoll.wait(-1, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        for event in events.iter().take(count) {
            if event.data() == WAKE {
                // EAGAIN: someone was faster.
                let _ = ring.waker().read();
                woken = true;
            } else if let Some((_, kick)) = &watched {
                if !take_kick(kick) {
                    ring.fail("its kick descriptor is no event");
                    continue;
                }
                poller.woken();
                process(ring, work, &mut poller);
            }
        }
    }
}

/// A descriptor that is closed but still open elsewhere would stay in the epoll set.
fn unwatch(epoll: &Epoll, watched: &mut Option<(u64, EventConsumer)>) -> io::Result<()> {
    match watched.take() {
        Some((_, old)) => control(epoll, ControlOperation::Delete, old.as_raw_fd(), KICK),
        None => Ok(()),
    }
}

/// Takes the kick off its descriptor. False when that is not possible: it would wake us for ever.
fn take_kick(kick: &EventConsumer) -> bool {
    match kick.consume() {
        Ok(()) => true,
        // Somebody else was faster.
        Err(error) => matches!(
            error.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
        ),
    }
}

/// Carries out everything the guest has made available.
pub(super) fn process(ring: &Arc<Ring>, work: &Arc<Work>, poller: &mut Poller) {
    loop {
        ring.want_kicks(false);
        let mut untold = 0u32;
        let mut untold_bytes = 0u64;
        let mut since = Instant::now();
        let stopped = loop {
            let chain = match ring.next() {
                Next::Chain(chain) => chain,
                Next::Empty => break false,
                Next::Stopped => break true,
            };
            let parts = match chain.parts() {
                Ok(parts) => parts,
                Err(error) => {
                    ring.notify();
                    ring.give_up(&error.to_string());
                    return;
                }
            };
            let shape = parts.shape();
            let answered = if work.may_block(shape) {
                drop(parts);
                None
            } else if shape.may_have_to_wait() {
                answer_at_once(&*work.answer, parts)
            } else {
                Some(answer(&*work.answer, parts))
            };
            let Some(written) = answered else {
                let (ring, task) = (ring.clone(), work.clone());
                work.pool.run(move || answer_later(&ring, &task, &chain));
                // Starting a thread may have taken long too.
                since = Instant::now();
                continue;
            };
            let now = Instant::now();
            work.slow.took(shape.opcode, now.duration_since(since));
            untold = untold.saturating_add(1);
            untold_bytes = untold_bytes.saturating_add(shape.len_bytes);
            let later = untold < UNTOLD_MAX && untold_bytes < UNTOLD_BYTES_MAX;
            ring.give_back(chain.head, written, later);
            since = now;
            if !later {
                (untold, untold_bytes) = (0, 0);
                // Who is told may take the CPU: not the next request's fault.
                since = Instant::now();
            }
        };
        if untold > 0 {
            ring.notify();
        }
        if stopped {
            return;
        }
        if poller.look(ring) {
            continue;
        }
        if !ring.want_kicks(true) {
            return;
        }
    }
}

/// Has a request answered on a thread of the pool, where the worker does not wait for it.
fn answer_later(ring: &Ring, work: &Work, chain: &Chain) {
    let since = Instant::now();
    // Walked again: it was a chain a moment ago, and only the guest can have changed it.
    match chain.parts() {
        Ok(parts) => {
            let shape = parts.shape();
            let written = answer(&*work.answer, parts);
            // What is known to wait says nothing of others of its kind.
            if !shape.may_block(work.strict) {
                work.slow.took(shape.opcode, since.elapsed());
            }
            ring.give_back(chain.head, written, false);
        }
        Err(error) => ring.give_up(&error.to_string()),
    }
}

/// Has a request answered; returns the bytes written to its reply.
fn answer(by: &dyn Answer, parts: Parts<'_>) -> u32 {
    let (request, reply) = parts.split();
    match by.handle(request, reply) {
        Ok(written) => u32::try_from(written).unwrap_or(u32::MAX),
        Err(error) => unanswered(&error),
    }
}

/// As [`answer`]; `None` when it would have to wait for the disk.
fn answer_at_once(by: &dyn Answer, parts: Parts<'_>) -> Option<u32> {
    let (request, reply) = parts.split();
    match by.handle_at_once(request, reply) {
        Ok(written) => Some(u32::try_from(written).unwrap_or(u32::MAX)),
        Err(Error::WouldWait) => None,
        Err(error) => Some(unanswered(&error)),
    }
}

/// A request that nobody can answer: the guest gets it back without a reply.
fn unanswered(error: &dyn std::fmt::Display) -> u32 {
    log::debug!("a request without an answer: {error}");
    0
}

#[cfg(test)]
mod tests {
    use parking_lot::{Condvar, Mutex};
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::server::{Error, Input as _};
    use crate::transport::vhost_user::{Readable, Writable};

    const AVAILABLE: u64 = 0x1000;
    const USED: u64 = 0x2000;
    const HEADERS: u64 = 0x3000;
    const HEADER_BYTES: u64 = 40;
    /// Who has waited so long was let go on by nobody.
    const NEVER: Duration = Duration::from_secs(10);

    /// Writes, and reads but the first, wait until attributes have been asked for.
    #[derive(Default)]
    struct Disk {
        /// Reads so far, and whether attributes have been asked for.
        state: Mutex<(usize, bool)>,
        asked: Condvar,
        stuck: Mutex<Vec<u32>>,
        full: bool,
    }

    impl Disk {
        fn wait(&self, opcode: u32) {
            let mut state = self.state.lock();
            let late = self
                .asked
                .wait_while_for(&mut state, |state| !state.1, NEVER);
            if late.timed_out() {
                self.stuck.lock().push(opcode);
            }
        }
    }

    impl Answer for Disk {
        fn handle(&self, mut request: Readable<'_>, _: Writable<'_>) -> Result<usize, Error> {
            let mut header = [0; 8];
            request.read_exact(&mut header).map_err(Error::Request)?;
            let [_, _, _, _, opcode @ ..] = header;
            match u32::from_le_bytes(opcode) {
                opcode::READ => {
                    let mut state = self.state.lock();
                    state.0 += 1;
                    let first = state.0 == 1;
                    drop(state);
                    if first {
                        std::thread::sleep(Duration::from_millis(5));
                    } else {
                        self.wait(opcode::READ);
                    }
                }
                opcode::WRITE => self.wait(opcode::WRITE),
                _ => {
                    self.state.lock().1 = true;
                    self.asked.notify_all();
                }
            }
            Ok(0)
        }

        fn reset(&self) {}

        fn writes_may_wait(&self) -> bool {
            self.full
        }
    }

    /// Which requests held up those behind them on their ring.
    fn stuck(requests: &[u32], full: bool) -> Vec<u32> {
        let memory = Memory::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap();
        let put = |bytes: &[u8], at: u64| memory.write_slice(bytes, GuestAddress(at)).unwrap();
        for (index, opcode) in (0u16..).zip(requests) {
            let header = HEADERS + u64::from(index) * HEADER_BYTES;
            put(&header.to_le_bytes(), u64::from(index) * 16);
            put(&40u32.to_le_bytes(), u64::from(index) * 16 + 8);
            put(&opcode.to_le_bytes(), header + 4);
            put(&index.to_le_bytes(), AVAILABLE + 4 + 2 * u64::from(index));
            put(&(index + 1).to_le_bytes(), AVAILABLE + 2);
        }
        let answer = Arc::new(Disk {
            full,
            ..Disk::default()
        });
        let work = Arc::new(Work {
            answer: answer.clone(),
            memory: GuestMemoryAtomic::new(memory.clone()),
            pool: Arc::new(Pool::new(4, || {})),
            strict: false,
            slow: Slow::default(),
            poll_max: Duration::ZERO,
            cpus: Cpus::default(),
        });
        let ring = Arc::new(Ring::new(1, work.memory.clone()).unwrap());
        assert!(ring.set_size(8) && ring.set_addresses(0, AVAILABLE, USED));
        ring.start(std::fs::File::open("/dev/null").unwrap(), &memory);
        ring.set_enabled(true);
        process(&ring, &work, &mut Poller::new(Duration::ZERO));
        work.pool.close();
        let used: u16 = memory.read_obj(GuestAddress(USED + 2)).unwrap();
        assert_eq!(usize::from(used), requests.len());
        std::mem::take(&mut *answer.stuck.lock())
    }

    #[test]
    fn a_queue_waits_for_one_slow_read_at_most() {
        let requests = [opcode::READ, opcode::READ, opcode::READ, opcode::GETATTR];
        assert_eq!(stuck(&requests, false), [0; 0]);
    }

    #[test]
    fn a_write_that_has_to_wait_holds_nothing_up() {
        let requests = [opcode::WRITE, opcode::WRITE, opcode::GETATTR];
        assert_eq!(stuck(&requests, true), [0; 0]);
    }
}
