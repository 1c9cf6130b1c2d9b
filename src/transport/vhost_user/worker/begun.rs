//! Requests that wait for the same.
//!
//! What several FSYNCs wait for becomes durable with one write of the log, if all of them are begun
//! before it. One thread then waits for all, where each would have cost two changes of threads and
//! an interrupt.

use std::time::{Duration, Instant};

use super::super::chain::{Chain, ChainError};
use super::super::ring::Ring;
use super::{Work, carried, reply_bytes};
use crate::engine::SyncPoint;
use crate::metrics::QueueMeter;

/// Requests that are taken behind one that is begun, before that is waited for, at most.
const BEHIND_MAX: u32 = 32;
/// And how long they may take.
const TIME_MAX: Duration = Duration::from_micros(200);

/// Collects requests that are begun.
#[derive(Default)]
pub(super) struct Begun {
    batch: Option<Batch>,
    /// Requests that came behind the first.
    behind: u32,
}

/// Requests that wait for the same point.
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
        let first = self.batch.as_ref().and_then(|batch| batch.requests.first());
        let Some((_, since)) = first else {
            return false;
        };
        self.behind = self.behind.saturating_add(1);
        self.behind >= BEHIND_MAX || now.saturating_duration_since(*since) >= TIME_MAX
    }

    /// Those that there are, if any.
    pub(super) fn take(&mut self) -> Option<Batch> {
        self.behind = 0;
        self.batch.take()
    }
}

impl Batch {
    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    /// Waits for all of them, and gives them back; the guest is told once.
    pub(super) fn finish(&self, ring: &Ring, work: &Work, meter: &QueueMeter) {
        for (chain, since) in &self.requests {
            match self.finish_one(chain, *since, work, meter) {
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

    /// The first waits for all.
    fn finish_one(
        &self,
        chain: &Chain,
        since: Instant,
        work: &Work,
        meter: &QueueMeter,
    ) -> Result<u32, ChainError> {
        // Walked again: it was a chain a moment ago, and only the guest can have changed it.
        let parts = chain.parts()?;
        let shape = parts.shape();
        let (request, reply) = parts.split();
        let written = reply_bytes(work.answer.finish(self.point, request, reply));
        meter.answered(shape.opcode, since.elapsed(), carried(shape, written));
        Ok(written)
    }
}
