//! What an export's requests are like: how many of each kind, how long they took, what they carried.
//!
//! Each queue counts for itself, so that queues do not wait for each other's cache lines, and from
//! one front-end to the next: numbers begin at 0 with the daemon, not with a session.

use std::sync::Arc;

use std::time::Duration;

use parking_lot::Mutex;

use super::{Counter, Distribution, Histogram};

/// FUSE opcodes below this have numbers of their own; razorfs carries out none above.
const OPCODES: usize = 64;
/// Errnos below this have numbers of their own (Linux's end at 133); the last has all others.
const ERRNOS: usize = 134;

/// What is counted of an export.
#[derive(Debug, Default)]
pub struct Meter {
    queues: Mutex<Vec<Arc<QueueMeter>>>,
    /// What was refused.
    pub refused: Arc<Refused>,
}

/// What a request carried besides itself, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    /// Nothing that counts.
    Nothing,
    /// Content, to the guest.
    Read(u64),
    /// Content, from the guest.
    Written(u64),
}

/// What is counted of a queue.
#[derive(Debug)]
pub struct QueueMeter {
    /// How long each request took, by opcode; the last counts those that are not carried out.
    times: Box<[Histogram]>,
    read_bytes: Counter,
    written_bytes: Counter,
    /// How many requests were taken off the queue until it was empty.
    depths: Histogram,
    /// Kicks that were heard.
    pub kicks: Counter,
    /// Looks for more requests before sleeping that found some.
    pub looks_paid: Counter,
    /// Such looks that did not.
    pub looks_unpaid: Counter,
    /// Requests given to other threads because they wait for the disk.
    pub handed_over: Counter,
    /// How many of them were answered.
    pub handed_back: Counter,
}

/// What was counted of an export: everything since the daemon began.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metered {
    /// By FUSE opcode, how long requests took from when they were taken off the ring. 0 for those that
    /// are not carried out.
    pub times: Vec<(u32, Distribution)>,
    /// How many requests were taken off a queue until it was empty.
    pub depths: Distribution,
    /// Bytes that READ gave.
    pub read_bytes: u64,
    /// Bytes that came with WRITE.
    pub written_bytes: u64,
    /// Kicks from the guest that were heard.
    pub kicks: u64,
    /// Looks for more requests before sleeping that found some.
    pub looks_paid: u64,
    /// Such looks that did not.
    pub looks_unpaid: u64,
    /// Requests given to other threads because they wait for the disk.
    pub handed_over: u64,
    /// How many of these are not answered yet: a level.
    pub waiting: u64,
    /// Replies that were errors, by errno.
    pub refused: Vec<(i32, u64)>,
}

impl Meter {
    /// That of a queue, counted from 0.
    #[must_use]
    pub fn queue(&self, index: usize) -> Arc<QueueMeter> {
        let mut queues = self.queues.lock();
        let len = queues.len().max(index.saturating_add(1));
        queues.resize_with(len, Arc::default);
        queues.get(index).map(Arc::clone).unwrap_or_default()
    }

    /// What all queues counted.
    #[must_use]
    pub fn read(&self) -> Metered {
        let mut sum = Metered::default();
        let mut times = vec![Distribution::default(); OPCODES];
        for queue in self.queues.lock().iter() {
            for (all, of_queue) in times.iter_mut().zip(&queue.times) {
                *all = all.and(&of_queue.read());
            }
            sum.depths = sum.depths.and(&queue.depths.read());
            // Before what was handed over: it is never more.
            let handed_back = queue.handed_back.get();
            let handed_over = queue.handed_over.get();
            sum.waiting += handed_over.saturating_sub(handed_back);
            sum.handed_over += handed_over;
            sum.read_bytes += queue.read_bytes.get();
            sum.written_bytes += queue.written_bytes.get();
            sum.kicks += queue.kicks.get();
            sum.looks_paid += queue.looks_paid.get();
            sum.looks_unpaid += queue.looks_unpaid.get();
        }
        sum.refused = self.refused.read();
        sum.times = (0..)
            .zip(times)
            .filter(|(_, one)| one.count() > 0)
            .collect();
        sum
    }
}

impl Default for QueueMeter {
    fn default() -> Self {
        QueueMeter {
            times: std::iter::repeat_with(Histogram::default)
                .take(OPCODES)
                .collect(),
            read_bytes: Counter::default(),
            written_bytes: Counter::default(),
            depths: Histogram::default(),
            kicks: Counter::default(),
            looks_paid: Counter::default(),
            looks_unpaid: Counter::default(),
            handed_over: Counter::default(),
            handed_back: Counter::default(),
        }
    }
}

impl QueueMeter {
    /// The next requests.
    #[must_use]
    pub fn batch(&self) -> Batch<'_> {
        Batch {
            meter: self,
            requests: 0,
        }
    }

    /// A request with this opcode was answered.
    pub fn answered(&self, opcode: u32, took: Duration, carried: Carried) {
        let slot = usize::try_from(opcode).unwrap_or(OPCODES);
        if let Some(times) = self.times.get(slot).or(self.times.first()) {
            times.took(took);
        }
        match carried {
            Carried::Nothing => {}
            Carried::Read(bytes) => self.read_bytes.add(bytes),
            Carried::Written(bytes) => self.written_bytes.add(bytes),
        }
    }
}

/// Requests that are taken off a queue one after another; dropped when there are no more, or another
/// thread goes on.
#[derive(Debug)]
pub struct Batch<'m> {
    meter: &'m QueueMeter,
    requests: u64,
}

impl Batch<'_> {
    /// One more was taken.
    pub fn took(&mut self) {
        self.requests = self.requests.wrapping_add(1);
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if self.requests > 0 {
            self.meter.depths.note(self.requests);
        }
    }
}

/// Replies that were errors, by errno.
#[derive(Debug)]
pub struct Refused(Box<[Counter]>);

impl Default for Refused {
    fn default() -> Self {
        let none = std::iter::repeat_with(Counter::default);
        Refused(none.take(ERRNOS).collect())
    }
}

impl Refused {
    /// One more, of this (positive) errno.
    pub fn note(&self, errno: i32) {
        let slot = usize::try_from(errno).unwrap_or(ERRNOS);
        if let Some(count) = self.0.get(slot.min(ERRNOS - 1)) {
            count.note();
        }
    }

    /// Each errno that there was, and how often.
    #[must_use]
    pub fn read(&self) -> Vec<(i32, u64)> {
        let counts = self.0.iter().map(Counter::get);
        let named = (0..).zip(counts);
        named.filter(|(_, count)| *count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GETATTR: u32 = 3;

    #[test]
    fn queues_are_added_up_and_stay_when_a_front_end_goes() {
        let meter = Meter::default();
        let time = Duration::from_micros(3);
        for index in [0, 5, 1] {
            let queue = meter.queue(index);
            queue.answered(GETATTR, time, Carried::Nothing);
            queue.answered(15, time, Carried::Read(4096));
            queue.answered(16, time, Carried::Written(512));
            queue.kicks.note();
            let mut batch = queue.batch();
            (0..index).for_each(|_| batch.took());
            drop(batch);
            queue.handed_over.add(2);
            queue.handed_back.note();
        }
        // The next front-end's.
        meter.queue(1).answered(GETATTR, time, Carried::Nothing);
        let read = meter.read();
        let counts: Vec<_> = read.times.iter().map(|(op, t)| (*op, t.count())).collect();
        assert_eq!(counts, [(GETATTR, 4), (15, 3), (16, 3)]);
        assert_eq!(read.times[0].1.sum, 12_000);
        assert_eq!((read.read_bytes, read.written_bytes), (3 * 4096, 3 * 512));
        assert_eq!(
            (read.depths.count(), read.depths.sum),
            (2, 6),
            "none is no depth"
        );
        assert_eq!((read.kicks, read.handed_over, read.waiting), (3, 6, 3));
    }

    #[test]
    fn whatever_a_guest_sends_is_counted_somewhere() {
        let meter = Meter::default();
        let queue = meter.queue(0);
        for opcode in [0, 63, 64, 4096, u32::MAX] {
            queue.answered(opcode, Duration::MAX, Carried::Nothing);
        }
        let read = meter.read();
        let counts: Vec<_> = read.times.iter().map(|(op, t)| (*op, t.count())).collect();
        assert_eq!(counts, [(0, 4), (63, 1)]);
    }

    #[test]
    fn each_errno_is_counted_and_strange_ones_together() {
        let meter = Meter::default();
        for errno in [2, 5, 2, 133, 134, 512, -5, i32::MAX] {
            meter.refused.note(errno);
        }
        assert_eq!(meter.read().refused, [(2, 2), (5, 1), (133, 5)]);
    }
}
