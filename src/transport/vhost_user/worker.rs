//! A ring's threads.
//!
//! Who leads takes requests off the ring. While it works it asks for no kicks; when there is
//! nothing left it looks for a while whether more comes ([`super::poll`]), then asks for them,
//! looks once more, and sleeps.
//!
//! What waits for the disk goes to the pool. That costs two changes of threads, which a guest that
//! waits for one request at a time pays each time, so a request that is alone on its ring is
//! answered here: the ring has a second thread, which leads from then on ([`super::lead`]).

use std::io;
use std::sync::Arc;
use std::thread::Scope;
use std::time::{Duration, Instant};

use vm_memory::{GuestAddressSpace, GuestMemoryAtomic};

mod begun;

use begun::Begun;

use super::Answer;
use super::affinity::{self, Cpus};
use super::chain::{Chain, ChainError, Parts, Shape};
use super::lead::Lead;
use super::listener::{Heard, Listener};
use super::memory::Memory;
use super::poll::Poller;
use super::pool::Pool;
use super::ring::{Next, Ring, Watch};
use super::slow::Slow;
use crate::engine::SyncPoint;
use crate::metrics::{Carried, Meter, QueueMeter};
use crate::server::Error;
use crate::server::consts::opcode;

/// Requests given back before the guest is told, while more are waiting.
const UNTOLD_MAX: u32 = 8;
/// Their bytes: a large request takes long enough to be told by itself.
const UNTOLD_BYTES_MAX: u64 = 64 * 1024;

/// What the reply to a READ has besides its data: `fuse_out_header`.
const READ_BESIDES_BYTES: u64 = 16;
/// What a WRITE has besides its data: `fuse_in_header`, `fuse_write_in`, and room for
/// `fuse_out_header` and `fuse_write_out`.
const WRITE_BESIDES_BYTES: u64 = 40 + 40 + 16 + 8;

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
    /// What is counted.
    pub(super) meter: Arc<Meter>,
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

    /// Has a request answered, unless it had to wait for the disk.
    fn answer_now(&self, parts: Parts<'_>) -> Now {
        let shape = parts.shape();
        let by = &*self.answer;
        if shape.can_be_begun() {
            begin(by, parts)
        } else if self.may_block(shape) {
            Now::Waits
        } else if shape.may_have_to_wait() {
            let (request, reply) = parts.split();
            Now::of(by.handle_at_once(request, reply))
        } else {
            Now::Answered(answer(by, parts))
        }
    }
}

/// What came of a request that was not to wait for the disk.
enum Now {
    /// It was answered, with so many bytes of reply.
    Answered(u32),
    /// It waits for what others wait for, too.
    Begun(SyncPoint),
    /// It would wait, and nothing was done.
    Waits,
}

impl Now {
    /// What it waits for, when it is begun.
    fn point(&self) -> Option<SyncPoint> {
        match self {
            Now::Begun(point) => Some(*point),
            Now::Answered(_) | Now::Waits => None,
        }
    }

    fn of(handled: Result<usize, Error>) -> Now {
        match handled {
            Err(Error::Begun(point)) => Now::Begun(point),
            Err(Error::WouldWait) => Now::Waits,
            other => Now::Answered(reply_bytes(other)),
        }
    }
}

/// A request that waits for the disk.
struct Waiting {
    chain: Chain,
    /// What for, when it is begun.
    point: Option<SyncPoint>,
}

/// Requests that were given back, and the guest not told.
#[derive(Default)]
struct Untold {
    requests: u32,
    bytes: u64,
}

impl Untold {
    /// Counts one; whether it need not be told yet.
    fn add(&mut self, bytes: u64) -> bool {
        self.requests = self.requests.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
        let later = self.requests < UNTOLD_MAX && self.bytes < UNTOLD_BYTES_MAX;
        if !later {
            *self = Untold::default();
        }
        later
    }

    /// Tells the guest, if there are any.
    fn tell(&mut self, ring: &Ring) {
        if std::mem::take(self).requests > 0 {
            ring.notify();
        }
    }
}

/// What serves a ring: a thread, and a second one from the first request on that waits for the
/// disk. One leads ([`super::lead`]).
pub(super) struct Worker {
    ring: Arc<Ring>,
    work: Arc<Work>,
    meter: Arc<QueueMeter>,
    lead: Lead<Poller>,
}

impl Worker {
    pub(super) fn new(ring: Arc<Ring>, work: Arc<Work>) -> Worker {
        let poller = Poller::new(work.poll_max);
        Worker {
            meter: work.meter.queue(ring.index),
            ring,
            work,
            lead: Lead::new(poller),
        }
    }

    /// Serves the ring until it ends; on one CPU, if it is given one.
    pub(super) fn run(&self, cpu: Option<usize>) {
        if let Some(cpu) = cpu {
            // The second thread is started from this one, and runs there too.
            affinity::bind(cpu);
        }
        std::thread::scope(|scope| {
            // Without a pool the queue waits for each of its requests, as was asked for.
            let second = self.work.pool.has_threads().then_some(scope);
            match Listener::new(&self.ring) {
                Ok(listener) => self.serve(listener, second),
                Err(error) => self.failed(&error),
            }
        });
    }

    fn serve<'s>(&'s self, mut listener: Listener, second: Option<&'s Scope<'s, '_>>) {
        if let Err(error) = self.listen(&mut listener, second) {
            self.lead.part();
            self.failed(&error);
        }
    }

    fn failed(&self, error: &io::Error) {
        log::error!("queue {} is no longer served: {error}", self.ring.index);
        self.ring.fail("its thread failed");
    }

    /// Processes what comes. `second`: where a second thread may be started.
    fn listen<'s>(
        &'s self,
        listener: &mut Listener,
        mut second: Option<&'s Scope<'s, '_>>,
    ) -> io::Result<()> {
        let mut look = false;
        loop {
            match self.ring.watch(listener.known()) {
                Watch::End => return Ok(()),
                Watch::Same => {}
                Watch::Nothing => {
                    listener.unwatch()?;
                    look = false;
                }
                Watch::Kick(number, kick) => {
                    listener.unwatch()?;
                    if let Err(error) = listener.watch(number, kick) {
                        let reason = format!("its kick descriptor cannot be waited for: {error}");
                        self.ring.fail(&reason);
                        continue;
                    }
                    // What was made available before someone listened.
                    look = true;
                }
            }
            if look
                && self.process()
                && let Some(scope) = second.take()
            {
                self.start_second(scope);
            }
            look = match listener.wait()? {
                Heard::Event => {
                    self.meter.kicks.note();
                    true
                }
                Heard::Nothing => false,
                Heard::NoEvent => {
                    self.ring.fail("its kick descriptor is no event");
                    false
                }
            };
        }
    }

    /// Starts the second thread; without it everything goes to the pool.
    fn start_second<'s>(&'s self, scope: &'s Scope<'s, '_>) {
        let name = format!("razorfs-queue{}", self.ring.index);
        let started = Listener::new(&self.ring).and_then(|listener| {
            std::thread::Builder::new()
                .name(name)
                .spawn_scoped(scope, move || {
                    self.lead.join();
                    self.serve(listener, None);
                })
        });
        if let Err(error) = started {
            let index = self.ring.index;
            log::warn!("queue {index}: cannot start a second thread: {error}");
        }
    }

    /// As [`Worker::process`] with another poller, which it returns.
    #[cfg(test)]
    pub(super) fn process_with(mut self, poller: Poller) -> Poller {
        self.lead = Lead::new(poller);
        self.process();
        self.lead.take().unwrap()
    }

    /// Carries out everything the guest has made available, unless the other thread is at it. True
    /// when something went to the pool.
    pub(super) fn process(&self) -> bool {
        let mut pooled = false;
        let Some(mut poller) = self.lead.take() else {
            return pooled;
        };
        poller.woken();
        loop {
            let next = match self.drain(&mut poller, &mut pooled) {
                None => self.lead.leave(poller),
                Some(alone) => match self.step_aside(poller) {
                    Ok(()) => self.answer_aside(&alone),
                    Err(poller) => {
                        pooled = true;
                        self.hand_over(alone);
                        Some(poller)
                    }
                },
            };
            match next {
                Some(still) => poller = still,
                None => return pooled,
            }
        }
    }

    /// Takes requests off the ring and has them answered until there are no more and kicks are
    /// asked for. Returns the last of them when it waits for the disk, and had better be answered
    /// by this thread.
    fn drain(&self, poller: &mut Poller, pooled: &mut bool) -> Option<Waiting> {
        let (ring, work) = (&*self.ring, &*self.work);
        loop {
            ring.want_kicks(false);
            let mut untold = Untold::default();
            let mut since = Instant::now();
            let mut batch = self.meter.batch();
            let mut begun = Begun::default();
            let stopped = loop {
                let chain = match ring.next() {
                    Next::Chain(chain) => chain,
                    Next::Empty => break false,
                    Next::Stopped => break true,
                };
                batch.took();
                let parts = match chain.parts() {
                    Ok(parts) => parts,
                    Err(error) => {
                        untold.tell(ring);
                        self.hand_over_begun(&mut begun);
                        ring.give_up(&error.to_string());
                        return None;
                    }
                };
                let shape = parts.shape();
                let answered = work.answer_now(parts);
                match answered {
                    Now::Answered(written) => {
                        let now = Instant::now();
                        let took = now.duration_since(since);
                        work.slow.took(shape.opcode, took);
                        self.meter
                            .answered(shape.opcode, took, carried(shape, written));
                        let later = untold.add(shape.len_bytes);
                        ring.give_back(chain.head, written, later);
                        // Who is told may take the CPU: not the next request's fault.
                        since = if later { now } else { Instant::now() };
                    }
                    waits => {
                        let point = waits.point();
                        if self.may_step_aside() {
                            untold.tell(ring);
                            return Some(Waiting { chain, point });
                        }
                        *pooled = true;
                        match point {
                            Some(point) => begun.push(chain, point, since),
                            None => self.hand_over(Waiting { chain, point }),
                        }
                        // Starting a thread may have taken long too.
                        since = Instant::now();
                    }
                }
                if begun.let_pass(since) {
                    // Without a pool they are waited for here.
                    untold.tell(ring);
                    self.hand_over_begun(&mut begun);
                    since = Instant::now();
                }
            };
            untold.tell(ring);
            self.hand_over_begun(&mut begun);
            drop(batch);
            if stopped {
                return None;
            }
            if self.look(poller) {
                continue;
            }
            if !ring.want_kicks(true) {
                return None;
            }
        }
    }

    /// Looks whether more comes.
    fn look(&self, poller: &mut Poller) -> bool {
        let found = poller.look(&self.ring);
        if !self.work.poll_max.is_zero() {
            let looks = match found {
                true => &self.meter.looks_paid,
                false => &self.meter.looks_unpaid,
            };
            looks.note();
        }
        found
    }

    /// Whether the request that was taken last is the only one, and the other thread is there to
    /// lead; if so, kicks are asked for.
    fn may_step_aside(&self) -> bool {
        if !self.lead.has_other() {
            return false;
        }
        self.lead.hear();
        self.ring.asks_one()
    }

    /// Gives the seat up; it stays when more came since [`Worker::may_step_aside`].
    fn step_aside(&self, mut poller: Poller) -> Result<(), Poller> {
        loop {
            poller = match self.lead.step_aside(poller) {
                // Whoever left word may have come for what was taken already.
                Err(still) if self.may_step_aside() => still,
                done => return done,
            };
        }
    }

    /// Answers a request while the other thread may lead. Returns the seat, if it is still free:
    /// before the guest has its answer, as what it then does next need not wake anybody.
    fn answer_aside(&self, alone: &Waiting) -> Option<Poller> {
        let answered = answer_slowly(&self.work, &self.meter, alone);
        let seat = self.lead.come_back();
        if seat.is_some() {
            self.ring.hold_kicks();
        }
        give_back(&self.ring, &alone.chain, answered);
        seat
    }

    /// Has a request answered by the pool.
    fn hand_over(&self, waiting: Waiting) {
        let (ring, work) = (self.ring.clone(), self.work.clone());
        let meter = self.meter.clone();
        meter.handed_over.note();
        self.work.pool.run(move || {
            let answered = answer_slowly(&work, &meter, &waiting);
            give_back(&ring, &waiting.chain, answered);
            meter.handed_back.note();
        });
    }

    /// Has one thread of the pool wait for requests that are begun.
    fn hand_over_begun(&self, begun: &mut Begun) {
        let Some(batch) = begun.take() else {
            return;
        };
        let (ring, work) = (self.ring.clone(), self.work.clone());
        let meter = self.meter.clone();
        meter.handed_over.add(batch.len() as u64);
        self.work
            .pool
            .run(move || batch.finish(&ring, &work, &meter));
    }
}

/// Has a request answered that waits for the disk.
fn answer_slowly(work: &Work, meter: &QueueMeter, waiting: &Waiting) -> Result<u32, ChainError> {
    let Waiting { chain, point } = waiting;
    let since = Instant::now();
    if let Some(point) = *point {
        return finish(work, meter, chain, point, since);
    }
    // Walked again: it was a chain a moment ago, and only the guest can have changed it.
    let parts = chain.parts()?;
    let shape = parts.shape();
    let written = answer(&*work.answer, parts);
    let took = since.elapsed();
    meter.answered(shape.opcode, took, carried(shape, written));
    // What is known to wait says nothing of others of its kind.
    if !shape.may_block(work.strict) {
        work.slow.took(shape.opcode, took);
    }
    Ok(written)
}

/// Has a request answered that is begun, once what it waits for is durable.
fn finish(
    work: &Work,
    meter: &QueueMeter,
    chain: &Chain,
    point: SyncPoint,
    since: Instant,
) -> Result<u32, ChainError> {
    // Walked again, as above.
    let parts = chain.parts()?;
    let shape = parts.shape();
    let (request, reply) = parts.split();
    let written = reply_bytes(work.answer.finish(point, request, reply));
    meter.answered(shape.opcode, since.elapsed(), carried(shape, written));
    Ok(written)
}

/// What a request carried, that had a reply of so many bytes.
fn carried(shape: Shape, reply_bytes: u32) -> Carried {
    match shape.opcode {
        opcode::READ => Carried::Read(u64::from(reply_bytes).saturating_sub(READ_BESIDES_BYTES)),
        opcode::WRITE => Carried::Written(shape.len_bytes.saturating_sub(WRITE_BESIDES_BYTES)),
        _ => Carried::Nothing,
    }
}

/// Gives a request back by itself.
fn give_back(ring: &Ring, chain: &Chain, answered: Result<u32, ChainError>) {
    match answered {
        Ok(written) => ring.give_back(chain.head, written, false),
        Err(error) => ring.give_up(&error.to_string()),
    }
}

/// Has a request answered; returns the bytes written to its reply.
fn answer(by: &dyn Answer, parts: Parts<'_>) -> u32 {
    let (request, reply) = parts.split();
    reply_bytes(by.handle(request, reply))
}

/// As [`answer`], as far as that goes without waiting.
fn begin(by: &dyn Answer, parts: Parts<'_>) -> Now {
    let (request, reply) = parts.split();
    Now::of(by.begin(request, reply))
}

/// Bytes of a reply.
fn reply_bytes(handled: Result<usize, Error>) -> u32 {
    match handled {
        Ok(written) => u32::try_from(written).unwrap_or(u32::MAX),
        Err(error) => unanswered(&error),
    }
}

/// A request that nobody can answer: the guest gets it back without a reply.
fn unanswered(error: &dyn std::fmt::Display) -> u32 {
    log::debug!("a request without an answer: {error}");
    0
}

#[cfg(test)]
mod aside_tests;
#[cfg(test)]
mod tests;
