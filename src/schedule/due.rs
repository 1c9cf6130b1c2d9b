//! Whether a slot has come. Two clocks are looked at: the wall clock, which is set back and forward,
//! and one that only goes on.

use std::time::Duration;

/// Monday, 1970-01-05, 00:00 UTC: slots of weeks begin on Mondays.
pub(super) const MONDAY: i64 = 4 * 86_400;

/// A moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Seconds since 1970, by the wall clock.
    pub wall: i64,
    /// How long the daemon runs, by a clock that is never set.
    pub running: Duration,
}

/// The slot that a time is in.
pub(super) fn slot(seconds: i64, every: Duration) -> i64 {
    let every = i64::try_from(every.as_secs()).unwrap_or(i64::MAX).max(1);
    seconds.saturating_sub(MONDAY).div_euclid(every)
}

/// What a schedule has done.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Done {
    last: Option<(i64, Duration)>,
}

impl Done {
    /// Whether the slot of this moment has not been seen to. A wall clock that was set back goes
    /// through times again: they count only once as much time as a slot has has really passed.
    pub(super) fn is_due(&self, now: Moment, every: Duration) -> bool {
        match self.last {
            None => true,
            Some((last, at)) => match slot(now.wall, every).cmp(&last) {
                std::cmp::Ordering::Greater => true,
                std::cmp::Ordering::Equal => false,
                std::cmp::Ordering::Less => now.running.saturating_sub(at) >= every,
            },
        }
    }

    pub(super) fn note(&mut self, now: Moment, every: Duration) {
        self.last = Some((slot(now.wall, every), now.running));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(900);

    fn at(wall: i64, running: u64) -> Moment {
        Moment {
            wall,
            running: Duration::from_secs(running),
        }
    }

    #[test]
    fn slots_are_quarters_hours_midnights_and_mondays() {
        let days = |n: i64| n * 86_400;
        let begins = |seconds, every| {
            let every = Duration::from_secs(every);
            slot(seconds, every) == slot(seconds - 1, every) + 1
        };
        assert!(begins(days(20_000) + 900, 900) && !begins(days(20_000) + 901, 900));
        assert!(begins(days(20_000), 86_400) && !begins(days(20_000) + 3_600, 86_400));
        // 2026-11-23 is a Monday.
        assert!(begins(days(20_780), 7 * 86_400) && !begins(days(20_781), 7 * 86_400));
        assert_eq!(slot(i64::MIN, EVERY), slot(i64::MIN + 1, EVERY));
    }

    #[test]
    fn each_slot_is_due_once_and_missed_ones_are_one() {
        let mut done = Done::default();
        assert!(done.is_due(at(90_000, 0), EVERY));
        done.note(at(90_000, 0), EVERY);
        assert!(!done.is_due(at(90_899, 899), EVERY));
        assert!(done.is_due(at(90_900, 900), EVERY));
        // Ten of them at once.
        done.note(at(99_000, 9_000), EVERY);
        assert!(!done.is_due(at(99_899, 9_899), EVERY));
    }

    #[test]
    fn a_clock_set_back_brings_no_slot_early_and_stops_none() {
        let mut done = Done::default();
        done.note(at(1_000_000_000, 100), EVERY);
        // A second back, over the border of a slot; an hour; years.
        for back in [1_000, 3_600, 900_000_000] {
            assert!(!done.is_due(at(1_000_000_000 - back, 101), EVERY));
            assert!(!done.is_due(at(1_000_000_000 - back + 898, 999), EVERY));
            assert!(done.is_due(at(1_000_000_000 - back + 899, 1_000), EVERY));
        }
    }
}
