//! A ring's two threads: each request is answered once, and none waits for one that waits for the
//! disk, whatever they and the guest are doing when it comes.
//!
//! The ring is a model of the one in the guest's memory, with a lock in place of fences, and its
//! kick one of an event that threads wait for with EPOLLEXCLUSIVE. What a thread does is what
//! `Worker::process` does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use razorfs::sync::{self, Condvar, Mutex};

use crate::lead::Lead;
use crate::pool::Pool;
use crate::{choose, explore, together};

/// Requests of a guest at most.
const REQUESTS: usize = 4;

#[derive(Default)]
struct State {
    available: VecDeque<usize>,
    kicks_wanted: bool,
    kicked: bool,
    in_flight: usize,
    ended: bool,
    answers: [u32; REQUESTS],
}

struct Ring {
    state: Mutex<State>,
    /// Wakes one of the threads that sleep, and none that does not.
    kick: Condvar,
    answered: Condvar,
    /// Bit by bit, which requests wait for the disk.
    blocking: u64,
    count: usize,
    /// What was answered by a thread of the ring, though it waits for the disk.
    aside: AtomicU64,
}

impl Ring {
    /// A ring on which so many requests will come.
    fn new(blocking: u64, count: usize) -> Ring {
        Ring {
            state: Mutex::default(),
            kick: Condvar::new(),
            answered: Condvar::new(),
            blocking,
            count,
            aside: AtomicU64::new(0),
        }
    }

    fn blocks(&self, request: usize) -> bool {
        self.blocking & (1 << request) != 0
    }

    /// What the guest does.
    fn make_available(&self, request: usize) {
        let mut state = self.state.lock();
        state.available.push_back(request);
        if state.kicks_wanted {
            state.kicked = true;
            self.kick.notify_one();
        }
    }

    fn next(&self) -> Option<usize> {
        let mut state = self.state.lock();
        let next = state.available.pop_front()?;
        state.in_flight += 1;
        Some(next)
    }

    fn want_kicks(&self, on: bool) -> bool {
        let mut state = self.state.lock();
        state.kicks_wanted = on;
        !state.available.is_empty()
    }

    fn asks_one(&self) -> bool {
        let mut state = self.state.lock();
        let alone = state.in_flight == 1 && state.available.is_empty();
        state.kicks_wanted = alone;
        alone
    }

    fn all_block(&self) -> bool {
        (0..self.count).all(|request| self.blocks(request))
    }

    /// Whether all that wait for nothing have been answered: the disk takes longer than these.
    fn others_are_answered(&self, state: &State) -> bool {
        (0..self.count).all(|request| self.blocks(request) || state.answers[request] > 0)
    }

    fn wait_for_the_disk(&self) {
        let mut state = self.state.lock();
        while !self.others_are_answered(&state) {
            self.answered.wait(&mut state);
        }
    }

    fn give_back(&self, request: usize) {
        let mut state = self.state.lock();
        state.answers[request] += 1;
        state.in_flight -= 1;
        self.answered.notify_all();
    }

    /// Sleeps until there is a kick, and takes it. False at the end.
    fn wait_for_kick(&self) -> bool {
        let mut state = self.state.lock();
        while !state.kicked && !state.ended {
            self.kick.wait(&mut state);
        }
        state.kicked = false;
        !state.ended
    }

    fn end(&self) {
        self.state.lock().ended = true;
        self.kick.notify_all();
    }
}

struct Worker {
    ring: Arc<Ring>,
    lead: Lead<()>,
    pool: Pool,
}

impl Worker {
    fn process(&self) {
        if self.lead.take().is_none() {
            return;
        }
        loop {
            let last = self.drain();
            // Whoever is awake may come in between.
            sync::thread::yield_now();
            let seat = match last {
                None => self.lead.leave(()),
                Some(request) => match self.step_aside() {
                    Ok(()) => {
                        self.ring.aside.fetch_or(1 << request, Ordering::Relaxed);
                        self.ring.wait_for_the_disk();
                        let seat = self.lead.come_back();
                        if seat.is_some() {
                            self.ring.want_kicks(false);
                        }
                        self.ring.give_back(request);
                        seat
                    }
                    Err(()) => {
                        self.hand_over(request);
                        Some(())
                    }
                },
            };
            if seat.is_none() {
                return;
            }
        }
    }

    fn drain(&self) -> Option<usize> {
        loop {
            self.ring.want_kicks(false);
            while let Some(request) = self.ring.next() {
                if !self.ring.blocks(request) {
                    self.ring.give_back(request);
                } else if self.may_step_aside() {
                    return Some(request);
                } else {
                    self.hand_over(request);
                }
            }
            if !self.ring.want_kicks(true) {
                return None;
            }
        }
    }

    fn may_step_aside(&self) -> bool {
        if !self.lead.has_other() {
            return false;
        }
        self.lead.hear();
        self.ring.asks_one()
    }

    fn step_aside(&self) -> Result<(), ()> {
        loop {
            match self.lead.step_aside(()) {
                Err(()) if self.may_step_aside() => {}
                done => return done,
            }
        }
    }

    fn hand_over(&self, request: usize) {
        let ring = Arc::clone(&self.ring);
        self.pool.run(move || {
            ring.wait_for_the_disk();
            ring.give_back(request);
        });
    }

    fn run(&self) {
        self.process();
        while self.ring.wait_for_kick() {
            self.process();
        }
    }
}

/// Requests of which those in `blocking` wait for all others, made available by a guest that has up
/// to `depth` of the others in flight, to one thread or `both`. Returns what was answered aside.
fn serve(blocking: u64, count: usize, depth: usize, both: bool) -> u64 {
    let ring = Arc::new(Ring::new(blocking, count));
    let worker = Worker {
        ring: Arc::clone(&ring),
        lead: Lead::new(()),
        pool: Pool::new(REQUESTS, || {}),
    };
    assert!(worker.pool.has_threads(), "who waits would hold others up");
    let worker = Arc::new(worker);
    let shared = Arc::clone(&worker);
    together(3, move |thread| match thread {
        0 => shared.run(),
        1 if !both => {}
        1 => {
            shared.lead.join();
            shared.run();
            shared.lead.part();
        }
        _ => guest(&shared.ring, depth),
    });
    worker.pool.close();
    let state = ring.state.lock();
    assert!(state.answers[..count].iter().all(|answers| *answers == 1));
    assert_eq!(state.in_flight, 0);
    ring.aside.load(Ordering::Relaxed)
}

fn guest(ring: &Ring, depth: usize) {
    // When all wait for the disk, it has answered when it was asked.
    let counts = |request: usize| !ring.blocks(request) || ring.all_block();
    let waits = |state: &State, made: usize| {
        let open = (0..made).filter(|made| counts(*made) && state.answers[*made] == 0);
        open.count() >= depth
    };
    for request in 0..ring.count {
        ring.make_available(request);
        let mut state = ring.state.lock();
        while waits(&state, request + 1) {
            ring.answered.wait(&mut state);
        }
    }
    let mut state = ring.state.lock();
    while state.answers[..ring.count].contains(&0) {
        ring.answered.wait(&mut state);
    }
    drop(state);
    ring.end();
}

#[test]
fn none_waits_for_one_that_waits_for_the_disk() {
    explore("a ring's two threads", 1, || {
        let count = usize::try_from(1 + choose(REQUESTS as u64)).unwrap();
        let depth = usize::try_from(1 + choose(3)).unwrap();
        serve(choose(1 << count), count, depth, choose(4) > 0);
    });
}

#[test]
fn those_that_come_alone_are_answered_by_the_ring_s_threads() {
    let most = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&most);
    explore("those that wait for the disk alone", 1, move || {
        let aside = serve(0b11, 2, 1, true);
        seen.fetch_max(aside.count_ones().into(), Ordering::Relaxed);
    });
    assert_eq!(most.load(Ordering::Relaxed), 2);
}
