//! Which snapshots stay.
//!
//! Of each period (an hour, a day...) that has snapshots the newest one counts, and of the newest
//! so many periods these stay; besides, so many of the newest. What any of the rules keeps, stays.
//! From this follows what matters (the tests see to it): the newest always stays, and deleting what
//! is not kept today never takes what would be kept tomorrow.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::due::MONDAY;
use super::names::civil;

/// How many stay of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    /// The newest, whatever their time.
    pub last: u32,
    /// The newest one of each hour, for as many hours that have one.
    pub hourly: u32,
    /// Of each day.
    pub daily: u32,
    /// Of each week, which begins on Monday.
    pub weekly: u32,
    /// Of each month.
    pub monthly: u32,
    /// Of each year.
    pub yearly: u32,
}

impl Keep {
    /// Each kind: its name, how many stay, and the period that a time is in.
    fn kinds(&self) -> [(&'static str, u32, Period); 6] {
        [
            ("last", self.last, |seconds| seconds),
            ("hourly", self.hourly, |seconds| seconds.div_euclid(3_600)),
            ("daily", self.daily, |seconds| seconds.div_euclid(86_400)),
            ("weekly", self.weekly, |seconds| {
                seconds.saturating_sub(MONDAY).div_euclid(7 * 86_400)
            }),
            ("monthly", self.monthly, |seconds| {
                civil(seconds).map_or(i64::MAX, |time| {
                    i64::from(time.year()) * 12 + i64::from(time.month())
                })
            }),
            ("yearly", self.yearly, |seconds| {
                civil(seconds).map_or(i64::MAX, |time| i64::from(time.year()))
            }),
        ]
    }
}

type Period = fn(i64) -> i64;

/// For people: `24 hourly, 7 daily`.
impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = self.kinds();
        let said = kinds.iter().filter(|(_, count, _)| *count > 0);
        let said: Vec<_> = said
            .map(|(name, count, _)| format!("{count} {name}"))
            .collect();
        f.write_str(&said.join(", "))
    }
}

/// Which of these times (seconds since 1970) stay.
#[must_use]
pub fn kept(times: &BTreeSet<i64>, keep: &Keep) -> BTreeSet<i64> {
    let mut kept = BTreeSet::new();
    for (_, count, period) in keep.kinds() {
        let mut newest = BTreeMap::new();
        for time in times {
            // They come in order: the last one of a period stays.
            newest.insert(period(*time), *time);
        }
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        kept.extend(newest.into_values().rev().take(count));
    }
    kept
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// 2026-11-21T00:00:00Z, a Saturday.
    const DAY: i64 = 1_795_219_200;

    fn times(all: impl IntoIterator<Item = i64>) -> BTreeSet<i64> {
        all.into_iter().collect()
    }

    #[test]
    fn of_each_period_the_newest_stays() {
        let quarters = times((0..96).map(|quarter| DAY + quarter * 900));
        let hourly = Keep {
            hourly: 3,
            ..Keep::default()
        };
        let last = |hour: i64| DAY + hour * 3_600 + 2_700;
        assert_eq!(kept(&quarters, &hourly), times([21, 22, 23].map(last)));
        let daily = Keep {
            last: 2,
            daily: 7,
            ..Keep::default()
        };
        assert_eq!(
            kept(&quarters, &daily),
            times([last(23) - 900, last(23)]),
            "one day, of which the last is one of the two newest"
        );
        // Friday, Saturday | Monday: two weeks. November, December: two months.
        let days = times([-1, 0, 2, 11].map(|day| DAY + day * 86_400));
        let weekly = Keep {
            weekly: 2,
            ..Keep::default()
        };
        assert_eq!(
            kept(&days, &weekly),
            times([DAY + 2 * 86_400, DAY + 11 * 86_400])
        );
        let monthly = Keep {
            monthly: 12,
            ..Keep::default()
        };
        assert_eq!(
            kept(&days, &monthly),
            times([DAY + 2 * 86_400, DAY + 11 * 86_400])
        );
        assert_eq!(kept(&times([]), &monthly), times([]));
    }

    fn any_keep(random: &mut ChaCha8Rng) -> Keep {
        let mut number = |max| match random.random_bool(0.4) {
            true => random.random_range(0..=max),
            false => 0,
        };
        Keep {
            last: number(5),
            hourly: number(30),
            daily: number(10),
            weekly: number(6),
            monthly: number(14),
            yearly: number(4),
        }
    }

    #[test]
    fn what_is_deleted_today_is_never_missed_tomorrow() {
        let seed = std::env::var("RAZORFS_SEED").ok();
        let seed = seed.and_then(|seed| seed.parse().ok()).unwrap_or(0x5EED);
        println!("RAZORFS_SEED={seed}");
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..300 {
            let keep = any_keep(&mut random);
            let numbers = keep.kinds().map(|(_, count, _)| count as usize);
            let (mut pruned, mut all) = (BTreeSet::new(), BTreeSet::new());
            let mut now = random.random_range(-DAY..2 * DAY);
            let step = 10i64.pow(random.random_range(2..=7));
            for _ in 0..150 {
                now += random.random_range(1..=step);
                pruned.insert(now);
                all.insert(now);
                pruned = kept(&pruned, &keep);
                assert_eq!(pruned, kept(&all, &keep), "{keep:?} at {now}");
                assert_eq!(pruned, kept(&pruned, &keep), "twice: {keep:?}");
                assert!(pruned.len() <= numbers.iter().sum());
                assert_eq!(pruned.contains(&now), keep != Keep::default(), "the newest");
            }
            for (_, count, period) in keep.kinds() {
                // By a way of its own: each of the newest periods has its newest.
                let mut periods: Vec<_> = all.iter().map(|time| period(*time)).collect();
                periods.dedup();
                for wanted in periods.iter().rev().take(count as usize) {
                    let newest = all.iter().rfind(|time| period(**time) == *wanted);
                    assert!(pruned.contains(newest.unwrap()), "{keep:?}");
                }
            }
        }
    }

    #[test]
    fn keeping_more_deletes_no_more() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        for _ in 0..300 {
            let keep = any_keep(&mut random);
            let more = Keep {
                hourly: keep.hourly + 1,
                monthly: keep.monthly + 2,
                ..keep
            };
            let all = times((0..200).map(|_| random.random_range(0..DAY)));
            assert!(kept(&all, &keep).is_subset(&kept(&all, &more)));
            assert!(kept(&all, &keep).is_subset(&all));
        }
    }
}
