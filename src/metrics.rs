//! Counting what happens, for who operates a store: counters and histograms that any thread may add
//! to at any time, at the price of an addition each.
//!
//! Nothing here decides anything, so all of it is relaxed: each number is right by itself, and two
//! that are read one after the other may be apart by what happened between. Numbers begin at 0 when
//! the daemon starts and only grow, but for what is said to be a level. Imports nothing of razorfs,
//! and may be imported by all of it; `control` tells the world.

mod meter;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use meter::{Batch, Carried, Meter, Metered, QueueMeter, Refused};

/// How often something happened, or how much of it there was.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Once more.
    pub fn note(&self) {
        self.add(1);
    }

    /// So much more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// How much so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Bounds of a [`Histogram`]: 1, 2, 4 and so on to 2^24, and one bucket for what is above.
pub const BUCKETS: usize = 26;

/// How often a value was of which size, by powers of two.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum: Counter,
}

/// What a [`Histogram`] held at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Distribution {
    /// How often a value was at most 2^i, and above 2^(i-1); in the last, above the bound before.
    pub buckets: [u64; BUCKETS],
    /// All values together: nanoseconds, where they are times.
    pub sum: u64,
}

impl Histogram {
    /// A number of things.
    pub fn note(&self, value: u64) {
        self.put(value, value);
    }

    /// A time. Its bucket counts microseconds, the sum nanoseconds.
    pub fn took(&self, time: Duration) {
        let sec = time.as_secs().saturating_mul(1_000_000_000);
        let ns = sec.saturating_add(time.subsec_nanos().into());
        self.put(ns.div_ceil(1000), ns);
    }

    fn put(&self, value: u64, add: u64) {
        // The number of bits of what is below it: 0 and 1 are in the first.
        let bits = u64::BITS - value.saturating_sub(1).leading_zeros();
        let last = BUCKETS - 1;
        if let Some(bucket) = self.buckets.get((bits as usize).min(last)) {
            bucket.note();
        }
        self.sum.add(add);
    }

    /// What it holds now.
    #[must_use]
    pub fn read(&self) -> Distribution {
        let mut buckets = [0; BUCKETS];
        for (read, bucket) in buckets.iter_mut().zip(&self.buckets) {
            *read = bucket.get();
        }
        let sum = self.sum.get();
        Distribution { buckets, sum }
    }
}

impl Distribution {
    /// How many values there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// This one and another together.
    #[must_use]
    pub fn and(mut self, other: &Distribution) -> Distribution {
        for (bucket, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket = bucket.wrapping_add(*more);
        }
        self.sum = self.sum.wrapping_add(other.sum);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket_of(value: u64) -> usize {
        let histogram = Histogram::default();
        histogram.note(value);
        let read = histogram.read();
        assert_eq!(read.count(), 1);
        read.buckets.iter().position(|count| *count == 1).unwrap()
    }

    #[test]
    fn a_value_is_in_the_first_bucket_whose_bound_it_does_not_pass() {
        for (value, bucket) in [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3)] {
            assert_eq!(bucket_of(value), bucket, "{value}");
        }
        for bits in 1..24 {
            assert_eq!(bucket_of(1 << bits), bits);
            assert_eq!(bucket_of((1 << bits) + 1), bits + 1);
        }
        assert_eq!(bucket_of(1 << 24), 24);
        for above in [(1 << 24) + 1, 1 << 40, u64::MAX] {
            assert_eq!(bucket_of(above), BUCKETS - 1);
        }
    }

    #[test]
    fn times_are_counted_by_microseconds_and_added_up_by_nanoseconds() {
        let times = Histogram::default();
        for ns in [1, 1000, 1001, 2000, 2001] {
            times.took(Duration::from_nanos(ns));
        }
        times.took(Duration::from_secs(1));
        let read = times.read();
        assert_eq!(read.sum, 6003 + 1_000_000_000);
        assert_eq!(read.count(), 6);
        assert_eq!(read.buckets[..3], [2, 2, 1]);
        // 2^20 microseconds.
        assert_eq!(read.buckets[20], 1);
        assert_eq!(read.and(&read).count(), 12);
    }
}
