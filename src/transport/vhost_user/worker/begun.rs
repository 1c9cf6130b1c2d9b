//! Requests that wait for the same.
//!
//! What several FSYNCs wait for becomes durable with one write of the log, if all of them are begun
//! before it. One thread then waits for all, where each would have cost two changes of threads and
//! an interrupt.

use std::time::Instant;

use super::super::chain::{Chain, ChainError};
use super::super::ring::Ring;
use super::{Now, Work, answer, begin, carried};
use crate::metrics::QueueMeter;

/// Requests that may be answered before those that are begun are waited for.
const OTHERS_MAX: u32 = 16;

/// Requests that are begun, and when each was taken off the ring.
#[derive(Default)]
pub(super) struct Begun {
    all: Vec<(Chain, Instant)>,
    /// Requests that were answered since the first.
    others: u32,
}

impl Begun {
    pub(super) fn push(&mut self, chain: Chain, since: Instant) {
        self.all.push((chain, since));
    }

    /// Counts a request that was answered; whether those that are begun have let enough pass.
    pub(super) fn let_pass(&mut self) -> bool {
        if self.all.is_empty() {
            return false;
        }
        self.others = self.others.saturating_add(1);
        self.others >= OTHERS_MAX
    }

    pub(super) fn take(&mut self) -> Vec<(Chain, Instant)> {
        self.others = 0;
        std::mem::take(&mut self.all)
    }
}

/// Waits for requests and gives them back, the guest being told of all that nobody has to wait for
/// any more together.
pub(super) fn answer_all(begun: &[(Chain, Instant)], ring: &Ring, work: &Work, meter: &QueueMeter) {
    let mut untold = false;
    for (chain, since) in begun {
        let tell = || {
            if std::mem::take(&mut untold) {
                ring.notify();
            }
        };
        match answer_one(chain, *since, work, meter, tell) {
            Ok(written) => ring.give_back(chain.head, written, true),
            Err(error) => ring.give_up(&error.to_string()),
        }
        untold = true;
        meter.handed_back.note();
    }
    ring.notify();
}

/// Has one answered, and calls `before_waiting` where that takes waiting.
fn answer_one(
    chain: &Chain,
    since: Instant,
    work: &Work,
    meter: &QueueMeter,
    before_waiting: impl FnOnce(),
) -> Result<u32, ChainError> {
    // Walked again, as always behind a wait: only the guest can have changed it.
    let parts = chain.parts()?;
    let shape = parts.shape();
    let written = match begin(&*work.answer, parts) {
        Now::Answered(written) => written,
        Now::Begun | Now::Waits => {
            before_waiting();
            answer(&*work.answer, chain.parts()?)
        }
    };
    meter.answered(shape.opcode, since.elapsed(), carried(shape, written));
    Ok(written)
}
