//! Looking for requests before sleeping: how long a ring's thread spins when it has nothing to do.
//!
//! A kick costs the guest a system call or an exit, and waking a thread costs more than most
//! requests do. A thread that looks at the available index for a while instead needs neither: kicks
//! stay suppressed while it looks.
//!
//! For how long is learned, as Linux's halt polling does it (Documentation/virt/kvm/halt-polling):
//! a pause that was shorter than the limit would have paid, so the next look may be longer; one
//! that was longer did not, and the next is none at all. So an idle queue costs nothing. A thread
//! that looks gives way to whoever waits for its CPU, by sched_yield(2) every now and then: when that
//! let somebody run, or the thread was taken off its CPU, it looks no more for a while, each time for
//! longer. The guest itself may be who waits.
//!
//! Ordering. What is read here is a hint: the entry itself is taken by [`super::ring::Ring::next`],
//! whose load of the index acquires what the driver wrote before it. Kicks are asked for after the
//! look, as they would be without: the event index is stored, then a full fence, then the available
//! index is read once more, while the driver stores the index, then a full fence, then reads the
//! event index (VirtIO 1.3, 2.7.13.4.1). One of the two sees the other's store, so that no request
//! is left lying. Whoever stops, disables or ends the ring counts that ([`Look::is_stale`]) before
//! it wakes the thread by its event, and the look ends at once; until it does, it touches nothing
//! but the index it was started with, in memory that it keeps mapped.

use std::time::{Duration, Instant};

use super::ring::{Look, Ring};

/// The first look after a pause that would have paid.
const FIRST: Duration = Duration::from_micros(8);
/// How often others may have the CPU.
const YIELD_EVERY: Duration = Duration::from_micros(16);
/// When more than this passes between two looks, others had the CPU.
const AWAY: Duration = Duration::from_micros(10);
/// The same for a yield: a few times what it takes when nobody wants the CPU.
const YIELDED: Duration = Duration::from_micros(2);
/// For how long not to look after others had the CPU, at first and at most.
const REST: [Duration; 2] = [Duration::from_millis(4), Duration::from_millis(512)];

/// Looks at the clock this often while it spins.
const SPINS: usize = 32;

/// How long to look, by what came of it before.
#[derive(Debug)]
struct Window {
    max: Duration,
    now: Duration,
    /// Until when not to look at all, and for how long that was.
    rests_until: Option<Instant>,
    rest: Duration,
}

impl Window {
    fn new(max: Duration) -> Window {
        Window {
            max,
            now: Duration::ZERO,
            rests_until: None,
            rest: REST[0],
        }
    }

    /// How long to look now.
    fn length(&mut self, now: Instant) -> Duration {
        match self.rests_until {
            Some(until) if now < until => Duration::ZERO,
            _ => {
                self.rests_until = None;
                self.now
            }
        }
    }

    /// There was nothing to do for so long, with all the looking and sleeping.
    fn idle(&mut self, idle: Duration) {
        if idle > self.max {
            self.now = Duration::ZERO;
        } else if idle > self.now {
            self.now = self.now.saturating_mul(2).max(FIRST).min(self.max);
        }
    }

    /// Looking paid.
    fn paid(&mut self) {
        self.rest = REST[0];
    }

    /// Somebody else wanted the CPU.
    fn contended(&mut self, now: Instant) {
        self.rests_until = now.checked_add(self.rest);
        self.rest = self.rest.saturating_mul(2).min(REST[1]);
    }
}

/// Time as it passes for a thread.
trait Time: Send {
    fn now(&mut self) -> Instant;
    /// Waits as briefly as can be.
    fn pause(&mut self);
    /// Lets others have the CPU, if they want it.
    fn give_way(&mut self);
}

struct System;

impl Time for System {
    fn now(&mut self) -> Instant {
        Instant::now()
    }

    fn pause(&mut self) {
        std::hint::spin_loop();
    }

    fn give_way(&mut self) {
        std::thread::yield_now();
    }
}

/// A ring's thread as one that looks.
pub(super) struct Poller {
    window: Window,
    time: Box<dyn Time>,
    /// Since when there is nothing to do.
    idle_since: Option<Instant>,
}

impl Poller {
    /// One that looks for at most `max`; not at all when that is zero.
    pub(super) fn new(max: Duration) -> Poller {
        Poller {
            window: Window::new(max),
            time: Box::new(System),
            idle_since: None,
        }
    }

    /// Looks for requests. True when there are some; false when the time is over, others want the
    /// CPU, or something about the ring has changed.
    pub(super) fn look(&mut self, ring: &Ring) -> bool {
        if self.window.max.is_zero() {
            return false;
        }
        let begun = self.time.now();
        self.idle_since = Some(begun);
        let length = self.window.length(begun);
        if length.is_zero() {
            return false;
        }
        let Some(look) = ring.look() else {
            return false;
        };
        let found = self.spin(&look, begun, length);
        if found {
            self.woken();
        }
        found
    }

    fn spin(&mut self, look: &Look<'_>, begun: Instant, length: Duration) -> bool {
        let mut looked = begun;
        let mut yielded = begun;
        loop {
            for _ in 0..SPINS {
                if look.has_more() {
                    self.window.paid();
                    return true;
                }
                self.time.pause();
            }
            if look.is_stale() {
                return false;
            }
            let mut now = self.time.now();
            let mut away = now.duration_since(looked) > AWAY;
            if !away && now.duration_since(yielded) > YIELD_EVERY {
                self.time.give_way();
                let back = self.time.now();
                away = back.duration_since(now) > YIELDED;
                (now, yielded) = (back, back);
            }
            if away {
                // What has come meanwhile may be of whoever ran: it does not count as paid.
                self.window.contended(now);
                return look.has_more();
            }
            if now.duration_since(begun) >= length {
                return false;
            }
            looked = now;
        }
    }

    /// There is something to do again.
    pub(super) fn woken(&mut self) {
        if let Some(since) = self.idle_since.take() {
            let now = self.time.now();
            self.window.idle(now.duration_since(since));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use vm_memory::{Bytes, GuestAddress, GuestMemoryAtomic};

    use super::*;
    use crate::server::Error;
    use crate::transport::vhost_user::affinity::Cpus;
    use crate::transport::vhost_user::memory::Memory;
    use crate::transport::vhost_user::pool::Pool;
    use crate::transport::vhost_user::slow::Slow;
    use crate::transport::vhost_user::worker::{Work, Worker};
    use crate::transport::vhost_user::{Answer, Readable, Writable};

    const SIZE: u16 = 8;
    const AVAILABLE: u64 = 0x1000;
    const USED: u64 = 0x2000;

    /// Counts requests.
    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Answer for Counter {
        fn handle(&self, _: Readable<'_>, _: Writable<'_>) -> Result<usize, Error> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(0)
        }

        fn reset(&self) {}
    }

    /// A guest that makes its requests available while the device looks: so many spins after the
    /// one before. Each spin takes a hundredth of a microsecond.
    struct Guest {
        memory: Memory,
        now: Instant,
        spins: usize,
        after: Vec<usize>,
        /// How long others have the CPU when the device gives way.
        others: Duration,
        /// What the event index was when each request was made available.
        events: Arc<parking_lot::Mutex<Vec<u16>>>,
        made: u16,
    }

    impl Guest {
        fn make(&mut self) {
            let event: u16 = self.memory.read_obj(GuestAddress(event_at())).unwrap();
            self.events.lock().push(event);
            // Entry 0 every time: a descriptor of no bytes, read.
            self.made += 1;
            let index = GuestAddress(AVAILABLE + 2);
            self.memory.write_obj(self.made, index).unwrap();
        }
    }

    fn event_at() -> u64 {
        USED + 4 + 8 * u64::from(SIZE)
    }

    impl Time for Guest {
        fn now(&mut self) -> Instant {
            self.now
        }

        fn pause(&mut self) {
            self.now += Duration::from_nanos(10);
            self.spins += 1;
            if self.after.last() == Some(&self.spins) {
                self.after.pop();
                self.spins = 0;
                self.make();
            }
        }

        fn give_way(&mut self) {
            self.now += self.others;
        }
    }

    /// One request before the device wakes, the others while it looks: how many were answered, the
    /// event index at each, and the poller.
    fn looked(after: &[usize], others: Duration) -> (usize, Vec<u16>, Poller) {
        let memory = Memory::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap();
        let shared = GuestMemoryAtomic::new(memory.clone());
        let ring = Arc::new(Ring::new(1, shared.clone()).unwrap());
        ring.set_event_idx(true);
        assert!(ring.set_size(SIZE.into()) && ring.set_addresses(0, AVAILABLE, USED));
        ring.start(std::fs::File::open("/dev/null").unwrap(), &memory);
        ring.set_enabled(true);
        let answer = Arc::new(Counter::default());
        let work = Arc::new(Work {
            answer: answer.clone(),
            memory: shared,
            pool: Arc::new(Pool::new(0, || {})),
            strict: false,
            slow: Slow::default(),
            poll_max: MAX,
            cpus: Cpus::default(),
            meter: Arc::default(),
        });
        let mut guest = Guest {
            memory,
            now: Instant::now(),
            spins: 0,
            after: after.iter().rev().copied().collect(),
            others,
            events: Arc::default(),
            made: 0,
        };
        guest.make();
        let events = guest.events.clone();
        let mut poller = Poller::new(MAX);
        poller.window.now = MAX;
        poller.time = Box::new(guest);
        let worker = Worker::new(ring, work);
        let poller = worker.process_with(poller);
        let events = std::mem::take(&mut *events.lock());
        (answer.0.load(Ordering::Relaxed), events, poller)
    }

    #[test]
    fn what_comes_while_it_looks_needs_no_kick() {
        // After 1, 50 and 90 us; not after 110.
        let (answered, events, _) = looked(&[100, 5000, 9000, 11_000], us(1));
        assert_eq!(answered, 4);
        // It asks to be told of nothing behind the start until it has stopped looking.
        assert_eq!(events, [0, 0, 0, 0]);
    }

    #[test]
    fn it_gives_way_and_then_sleeps() {
        let (answered, _, mut poller) = looked(&[100, 5000], us(30));
        assert_eq!(answered, 2, "others wanted the CPU within the first 50 us");
        let now = poller.time.now();
        assert_eq!(poller.window.length(now), Duration::ZERO);
    }

    const MAX: Duration = Duration::from_micros(100);

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    #[test]
    fn it_looks_as_long_as_that_would_have_paid() {
        let now = Instant::now();
        let mut window = Window::new(MAX);
        assert_eq!(window.length(now), Duration::ZERO, "nothing is known yet");
        let mut lengths = Vec::new();
        for _ in 0..6 {
            window.idle(us(90));
            lengths.push(window.length(now));
        }
        assert_eq!(lengths, [8, 16, 32, 64, 100, 100].map(us));
        window.idle(us(20));
        assert_eq!(window.length(now), MAX, "it paid");
        window.idle(us(101));
        assert_eq!(window.length(now), Duration::ZERO, "an idle guest");
    }

    #[test]
    fn it_leaves_a_busy_cpu_alone_for_longer_and_longer() {
        let begun = Instant::now();
        let mut window = Window::new(MAX);
        window.idle(us(50));
        let mut now = begun;
        let mut rests = Vec::new();
        for _ in 0..10 {
            assert_eq!(window.length(now), us(8));
            window.contended(now);
            let rested = window.rests_until.unwrap();
            assert_eq!(window.length(rested - us(1)), Duration::ZERO);
            rests.push((rested - now).as_millis());
            now = rested;
        }
        assert_eq!(rests, [4, 8, 16, 32, 64, 128, 256, 512, 512, 512]);
        window.paid();
        window.contended(now);
        assert_eq!(window.rests_until, Some(now + REST[0]));
    }
}
