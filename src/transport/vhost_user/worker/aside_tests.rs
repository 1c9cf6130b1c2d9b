//! A ring's two threads: what one of them answers while it waits holds up nothing, and is not lost.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::{Ordering, fence};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::event::{EventfdFlags, eventfd};
use vm_memory::{Bytes, GuestAddress};

use super::tests::{AVAILABLE, HEADER_BYTES, HEADERS, NEVER, USED, opcode_of};
use super::*;
use crate::transport::vhost_user::{Readable, Writable};

const SIZE: u16 = 64;

/// FSYNC waits while the disk is closed; who answers one is noted.
#[derive(Default)]
struct Disk {
    /// Whether it is closed, and what it was asked for by which thread.
    state: Mutex<(bool, Vec<String>)>,
    changed: Condvar,
}

impl Disk {
    fn close(&self, closed: bool) {
        self.state.lock().0 = closed;
        self.changed.notify_all();
    }

    /// Waits until it was asked `count` times since this was looked at last: by which threads.
    fn asked(&self, count: usize) -> Vec<String> {
        let mut state = self.state.lock();
        let few = |state: &mut (bool, Vec<String>)| state.1.len() < count;
        let late = self.changed.wait_while_for(&mut state, few, NEVER);
        assert!(!late.timed_out(), "{count} were not taken: {:?}", state.1);
        std::mem::take(&mut state.1)
    }
}

impl Answer for Disk {
    fn handle(&self, request: Readable<'_>, _: Writable<'_>) -> Result<usize, Error> {
        if opcode_of(request)? == opcode::FSYNC {
            let mut state = self.state.lock();
            let name = std::thread::current().name().unwrap_or("").to_owned();
            state.1.push(name);
            self.changed.notify_all();
            let closed = |state: &mut (bool, _)| state.0;
            self.changed.wait_while_for(&mut state, closed, NEVER);
        }
        Ok(0)
    }

    fn reset(&self) {}
}

/// A guest, and the ring's threads.
struct Guest {
    memory: Memory,
    disk: Arc<Disk>,
    work: Arc<Work>,
    ring: Arc<Ring>,
    worker: Arc<Worker>,
    thread: JoinHandle<()>,
    kick: OwnedFd,
    event_idx: bool,
    /// Entries that are not in flight.
    free: Vec<u16>,
    made: u16,
    seen: u16,
}

fn kick_event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

impl Guest {
    fn new(event_idx: bool, pool_threads: usize, poll_max: Duration) -> Guest {
        let memory = Memory::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap();
        let disk = Arc::new(Disk::default());
        let work = Arc::new(Work {
            answer: disk.clone(),
            memory: GuestMemoryAtomic::new(memory.clone()),
            pool: Arc::new(Pool::new(pool_threads, || {})),
            strict: false,
            slow: Slow::default(),
            poll_max,
            cpus: Cpus::default(),
            meter: Arc::default(),
        });
        let ring = Arc::new(Ring::new(1, work.memory.clone()).unwrap());
        ring.set_event_idx(event_idx);
        assert!(ring.set_size(SIZE.into()) && ring.set_addresses(0, AVAILABLE, USED));
        ring.set_enabled(true);
        let worker = Arc::new(Worker::new(ring.clone(), work.clone()));
        let shared = worker.clone();
        let mut guest = Guest {
            memory,
            disk,
            work,
            ring,
            worker,
            thread: std::thread::spawn(move || shared.run(None)),
            kick: kick_event(),
            event_idx,
            free: (0..SIZE).collect(),
            made: 0,
            seen: 0,
        };
        guest.replace_kick();
        guest
    }

    /// One whose ring has both threads.
    fn of_two(event_idx: bool, poll_max: Duration) -> Guest {
        let mut guest = Guest::new(event_idx, 4, poll_max);
        guest.post(opcode::FSYNC);
        guest.wait(0);
        assert_eq!(guest.disk.asked(1), ["razorfs-pool"], "there is one thread");
        let since = Instant::now();
        while !guest.worker.lead.has_other() {
            assert!(since.elapsed() < NEVER, "no second thread");
            std::thread::yield_now();
        }
        guest
    }

    fn replace_kick(&mut self) {
        self.kick = kick_event();
        let file = File::from(self.kick.try_clone().unwrap());
        self.ring.start(file, &self.memory);
    }

    fn put(&self, bytes: &[u8], at: u64) {
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    fn load(&self, at: u64) -> u16 {
        self.memory
            .load(GuestAddress(at), Ordering::Acquire)
            .unwrap()
    }

    /// Makes a request available, and kicks when that is wanted.
    fn post(&mut self, opcode: u32) {
        let head = self.free.pop().unwrap();
        let header = HEADERS + u64::from(head) * HEADER_BYTES;
        self.put(&header.to_le_bytes(), u64::from(head) * 16);
        self.put(&40u32.to_le_bytes(), u64::from(head) * 16 + 8);
        self.put(&opcode.to_le_bytes(), header + 4);
        let entry = AVAILABLE + 4 + 2 * u64::from(self.made % SIZE);
        self.put(&head.to_le_bytes(), entry);
        let (old, new) = (self.made, self.made.wrapping_add(1));
        let index = GuestAddress(AVAILABLE + 2);
        self.memory.store(new, index, Ordering::Release).unwrap();
        fence(Ordering::SeqCst);
        let wanted = if self.event_idx {
            self.load(USED + 4 + 8 * u64::from(SIZE)) == old
        } else {
            self.load(USED) & 1 == 0
        };
        self.made = new;
        if wanted {
            rustix::io::write(&self.kick, &1u64.to_ne_bytes()).unwrap();
        }
    }

    /// Takes what was given back: how many are in flight.
    fn in_flight(&mut self) -> usize {
        while self.load(USED + 2) != self.seen {
            let at = USED + 4 + 8 * u64::from(self.seen % SIZE);
            let head: u32 = self.memory.read_obj(GuestAddress(at)).unwrap();
            let head = u16::try_from(head).unwrap();
            assert!(!self.free.contains(&head), "{head} was answered twice");
            self.free.push(head);
            self.seen = self.seen.wrapping_add(1);
        }
        usize::from(SIZE) - self.free.len()
    }

    /// Waits until so many are in flight.
    fn wait(&mut self, count: usize) {
        let since = Instant::now();
        while self.in_flight() > count {
            let late = since.elapsed() > NEVER;
            assert!(!late, "{} of {count} are in flight", self.in_flight());
            std::thread::yield_now();
        }
    }

    fn end(mut self) {
        self.wait(0);
        assert_eq!(self.ring.stop(), self.made);
        self.ring.end();
        let since = Instant::now();
        while !self.thread.is_finished() {
            assert!(since.elapsed() < NEVER, "the ring's threads go on");
            std::thread::yield_now();
        }
        self.thread.join().unwrap();
        self.work.pool.close();
    }
}

#[test]
fn what_comes_while_a_request_waits_is_answered() {
    for event_idx in [false, true] {
        let mut guest = Guest::of_two(event_idx, Duration::ZERO);
        for round in 0..20 {
            guest.disk.close(true);
            guest.post(opcode::FSYNC);
            let by = guest.disk.asked(1);
            assert_ne!(by, ["razorfs-pool"], "round {round}");
            guest.post(opcode::GETATTR);
            guest.wait(1);
            // The thread that is left does not wait too.
            guest.post(opcode::FSYNC);
            assert_eq!(guest.disk.asked(1), ["razorfs-pool"], "round {round}");
            guest.post(opcode::GETATTR);
            guest.wait(2);
            guest.disk.close(false);
            guest.wait(0);
        }
        guest.end();
    }
}

#[test]
fn one_with_others_behind_it_goes_to_the_pool() {
    let mut guest = Guest::of_two(false, Duration::ZERO);
    guest.ring.set_enabled(false);
    guest.disk.close(true);
    guest.post(opcode::FSYNC);
    guest.post(opcode::GETATTR);
    guest.ring.set_enabled(true);
    assert_eq!(guest.disk.asked(1), ["razorfs-pool"]);
    guest.wait(1);
    guest.disk.close(false);
    guest.end();
}

#[test]
fn a_ring_is_not_given_back_while_its_thread_waits() {
    let mut guest = Guest::of_two(true, Duration::ZERO);
    guest.disk.close(true);
    guest.post(opcode::FSYNC);
    assert_ne!(guest.disk.asked(1), ["razorfs-pool"]);
    let ring = guest.ring.clone();
    let stopping = std::thread::spawn(move || ring.stop());
    std::thread::sleep(Duration::from_millis(50));
    assert!(!stopping.is_finished(), "a request is in flight");
    guest.disk.close(false);
    assert_eq!(stopping.join().unwrap(), guest.made);
    assert_eq!(guest.in_flight(), 0, "it was given back before");
    guest.replace_kick();
    guest.post(opcode::GETATTR);
    guest.end();
}

#[test]
fn both_threads_notice_another_kick() {
    let mut guest = Guest::of_two(true, Duration::ZERO);
    for _ in 0..10 {
        guest.disk.close(true);
        guest.post(opcode::FSYNC);
        assert_ne!(guest.disk.asked(1), ["razorfs-pool"]);
        // One of them waits: the other takes the kick, then both do.
        guest.replace_kick();
        for _ in 0..3 {
            guest.post(opcode::GETATTR);
            guest.wait(1);
        }
        guest.disk.close(false);
        guest.wait(0);
        // Whoever waited listens to it too, or nobody would now.
        guest.disk.close(true);
        guest.post(opcode::FSYNC);
        guest.disk.asked(1);
        guest.post(opcode::GETATTR);
        guest.wait(1);
        guest.disk.close(false);
        guest.wait(0);
    }
    guest.end();
}

#[test]
fn without_a_pool_there_is_no_second_thread() {
    let mut guest = Guest::new(true, 0, Duration::ZERO);
    for _ in 0..3 {
        guest.post(opcode::FSYNC);
        guest.wait(0);
        assert_ne!(guest.disk.asked(1), ["razorfs-pool"]);
    }
    assert!(!guest.worker.lead.has_other());
    guest.end();
}

/// No kick is missed, no request lost or answered twice, whatever comes when.
#[test]
fn every_request_is_answered_once() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for event_idx in [false, true] {
        for poll_us in [0, 50] {
            let mut guest = Guest::of_two(event_idx, Duration::from_micros(poll_us));
            for _ in 0..5000 {
                let opcode = match random.random_range(0..4) {
                    0 => opcode::GETATTR,
                    _ => opcode::FSYNC,
                };
                guest.post(opcode);
                match random.random_range(0..200) {
                    0 => guest.replace_kick(),
                    1 => {
                        guest.ring.stop();
                        guest.replace_kick();
                    }
                    2 => {
                        guest.ring.set_enabled(false);
                        guest.ring.set_enabled(true);
                    }
                    _ => {}
                }
                let depth = [0, 0, 0, 1, 3][random.random_range(0..5)];
                guest.wait(depth);
            }
            guest.end();
        }
    }
}
