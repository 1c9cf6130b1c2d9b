//! Which kinds of requests took long lately.
//!
//! That a request waits for the disk cannot always be told before: what is not in memory is read,
//! a full log waits for a checkpoint, a large file is cut. Whoever answered a request tells how long
//! it took; while the last of a kind took long, those that follow are answered by the pool, and the
//! queue goes on. So a queue waits for one of them now and then, not for each. A mistake costs a change of threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Longer than anything takes that finds what it needs in memory, a megabyte to be copied too.
const LONG: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct Slow {
    /// One bit for each opcode below 64, where all that are carried out are.
    kinds: AtomicU64,
    /// What takes longer took long.
    long: Duration,
}

impl Default for Slow {
    fn default() -> Slow {
        Slow {
            kinds: AtomicU64::default(),
            long: LONG,
        }
    }
}

fn bit(opcode: u32) -> u64 {
    1u64.checked_shl(opcode).unwrap_or_default()
}

impl Slow {
    /// Takes nothing for slow: what is done depends on no clock.
    pub(super) fn never() -> Slow {
        Slow {
            long: Duration::MAX,
            ..Slow::default()
        }
    }

    /// Whether the last request of this kind took long.
    pub(super) fn is(&self, opcode: u32) -> bool {
        self.kinds.load(Ordering::Relaxed) & bit(opcode) != 0
    }

    /// One took so long.
    pub(super) fn took(&self, opcode: u32, time: Duration) {
        let bit = bit(opcode);
        let was = self.kinds.load(Ordering::Relaxed) & bit != 0;
        // Mostly nothing changes, and all queues have it.
        match time > self.long {
            true if !was => self.kinds.fetch_or(bit, Ordering::Relaxed),
            false if was => self.kinds.fetch_and(!bit, Ordering::Relaxed),
            _ => 0,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_a_kind_counts() {
        let slow = Slow::default();
        let long = LONG * 2;
        for opcode in [0, 15, 63] {
            slow.took(opcode, long);
        }
        assert!(slow.is(0) && slow.is(15) && slow.is(63) && !slow.is(16));
        slow.took(15, LONG);
        assert!(!slow.is(15) && slow.is(63));
        for opcode in [64, 4096, u32::MAX] {
            slow.took(opcode, long);
            assert!(!slow.is(opcode));
        }
    }

    #[test]
    fn without_a_clock_nothing_is_slow() {
        let slow = Slow::never();
        slow.took(15, Duration::MAX);
        assert!(!slow.is(15));
    }
}
