//! Requests that wait for the same.
//!
//! What several FSYNCs wait for becomes durable with one write of the log, if all of them are begun
//! before it. One thread then waits for all, where each would have cost two changes of threads and
//! an interrupt.

use std::time::{Duration, Instant};

use super::super::chain::Chain;
use super::super::ring::Ring;
use super::{Work, finish};
use crate::engine::SyncPoint;
use crate::metrics::QueueMeter;

/// Requests that come behind one that is begun, before that is waited for, at most.
const BEHIND_MAX: u32 = 32;
/// And how long they may take. Under test so long that nothing depends on it by chance.
const TIME_MAX: Duration = Duration::from_micros(if cfg!(test) { 1 << 40 } else { 200 });

/// Collects requests that are begun.
#[derive(Default)]
pub(super) struct Begun {
    batch: Option<Batch>,
    /// When the first is to be waited for at the latest.
    until: Option<Instant>,
    /// Requests that came behind the first.
    behind: u32,
}

/// Requests that are begun, and one point that all of them wait for.
pub(super) struct Batch {
    /// With the times at which they were taken off the ring.
    requests: Vec<(Chain, Instant)>,
    point: SyncPoint,
}

impl Begun {
    pub(super) fn push(&mut self, chain: Chain, point: SyncPoint, since: Instant) {
        match &mut self.batch {
            Some(batch) => {
                batch.requests.push((chain, since));
                batch.point = batch.point.max(point);
            }
            None => {
                let requests = vec![(chain, since)];
                self.batch = Some(Batch { requests, point });
            }
        }
    }

    /// To be called behind each request; whether those that are begun have waited for enough.
    pub(super) fn let_pass(&mut self, now: Instant) -> bool {
        if self.batch.is_none() {
            return false;
        }
        let Some(until) = self.until else {
            self.until = now.checked_add(TIME_MAX);
            return false;
        };
        self.behind = self.behind.saturating_add(1);
        self.behind >= BEHIND_MAX || now >= until
    }

    /// Those that there are, if any.
    pub(super) fn take(&mut self) -> Option<Batch> {
        std::mem::take(self).batch
    }
}

impl Batch {
    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    /// Gives all of them back once what they wait for is durable, and tells the guest once.
    pub(super) fn finish(&self, ring: &Ring, work: &Work, meter: &QueueMeter) {
        for (chain, since) in &self.requests {
            match finish(work, meter, chain, self.point, *since) {
                Ok(written) => ring.give_back(chain.head, written, true),
                Err(error) => {
                    ring.notify();
                    ring.give_up(&error.to_string());
                }
            }
            meter.handed_back.note();
        }
        ring.notify();
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use crate::transport::vhost_user::worker::tests::chain;

    #[test]
    fn those_that_are_begun_wait_for_so_many_and_so_long() {
        let start = Instant::now();
        let mut begun = Begun::default();
        assert!(!begun.let_pass(start) && begun.take().is_none());
        for last in [start, start + TIME_MAX] {
            begun.push(chain(), SyncPoint::of(2), start);
            // It does not wait for itself.
            assert!(!begun.let_pass(start));
            begun.push(chain(), SyncPoint::of(1), start);
            let early = (1..BEHIND_MAX).filter(|_| begun.let_pass(start)).count();
            assert_eq!(early, 0);
            assert!(begun.let_pass(last));
            let batch = begun.take().unwrap();
            assert_eq!((batch.len(), batch.point), (2, SyncPoint::of(2)));
        }
        begun.push(chain(), SyncPoint::of(3), start);
        assert!(!begun.let_pass(start));
        assert!(begun.let_pass(start + TIME_MAX), "after one, but late");
    }
}
