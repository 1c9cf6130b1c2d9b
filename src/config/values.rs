//! What the values of options mean.

use std::ops::RangeInclusive;
use std::time::Duration;

use log::LevelFilter;

use super::ConfigError;
use crate::engine::CompactOptions;
use crate::sandbox::Action;
use crate::transport::vhost_user::check_tag;

/// As many as the system has a name for.
const CPUS_MAX: usize = rustix::thread::CpuSet::MAX_CPU;
const COMMIT_INTERVAL_MAX_SECONDS: f64 = 3600.0;
const SCRUB_INTERVAL_MAX_DAYS: f64 = 3650.0;
const TRIM_INTERVAL_MAX_SECONDS: f64 = 31_536_000.0;
const SIZE_MIN_BYTES: u64 = 1 << 20;

/// Units of time: how many seconds, and the name.
const SECOND: (f64, &str) = (1.0, "seconds");
const DAY: (f64, &str) = (86_400.0, "days");

pub(super) fn value(option: &str, reason: String) -> ConfigError {
    ConfigError::Value {
        option: option.to_owned(),
        reason,
    }
}

pub(super) fn not_supported(option: &str, reason: &'static str) -> ConfigError {
    ConfigError::NotSupported {
        option: option.to_owned(),
        reason,
    }
}

/// How the process is confined; `None` for not at all.
pub(super) fn sandbox(mode: &str, seccomp: &str) -> Result<Option<Action>, ConfigError> {
    let action = match seccomp {
        "kill" => Action::Kill,
        "log" => Action::Log,
        "trap" => Action::Trap,
        "none" => Action::Allow,
        other => return Err(value("--seccomp", format!("'{other}' is not a choice"))),
    };
    match mode {
        "auto" | "namespace" | "chroot" => Ok(Some(action)),
        "none" => Ok(None),
        other => Err(value("--sandbox", format!("'{other}' is not a choice"))),
    }
}

pub(super) fn level(name: &str) -> Result<LevelFilter, ConfigError> {
    name.parse()
        .map_err(|_| value("--log-level", format!("'{name}' is not a level")))
}

/// A tag that can be one; else what is wrong with it.
pub(super) fn tag(tag: String) -> Result<String, String> {
    check_tag(&tag)?;
    Ok(tag)
}

pub(super) fn tag_of_flag(given: String) -> Result<String, ConfigError> {
    tag(given).map_err(|reason| value("--tag", reason))
}

/// CPUs as in `2,4-7`.
pub(super) fn cpus(list: &str) -> Result<Vec<usize>, ConfigError> {
    let mut cpus = Vec::new();
    for part in list.split(',') {
        let wrong = || {
            let reason = format!("'{part}' is not a CPU or a range of them, such as 2 or 4-7");
            value("--cpu-affinity", reason)
        };
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            let cpu = text.parse::<usize>().ok();
            cpu.filter(|cpu| *cpu < CPUS_MAX)
        };
        let (Some(first), Some(last)) = (number(first), number(last)) else {
            return Err(wrong());
        };
        if first > last {
            return Err(wrong());
        }
        cpus.extend(first..=last);
    }
    Ok(cpus)
}

pub(super) fn at_most(
    option: &str,
    given: usize,
    min: usize,
    max: usize,
) -> Result<usize, ConfigError> {
    if (min..=max).contains(&given) {
        Ok(given)
    } else {
        Err(value(
            option,
            format!("{given} is not within {min} to {max}"),
        ))
    }
}

pub(super) fn seconds(option: &str, given: &str) -> Result<Duration, ConfigError> {
    let range = 0.001..=COMMIT_INTERVAL_MAX_SECONDS;
    span(option, given, range, SECOND)
}

/// Seconds, or 0 for never.
pub(super) fn seconds_or_never(option: &str, given: &str) -> Result<Option<Duration>, ConfigError> {
    let span = span(option, given, 0.0..=TRIM_INTERVAL_MAX_SECONDS, SECOND)?;
    Ok(Some(span).filter(|span| !span.is_zero()))
}

/// When to compact, or 0 for never.
pub(super) fn compact(percent: usize) -> Result<Option<CompactOptions>, ConfigError> {
    let percent = at_most("--compact", percent, 0, 99)?;
    let options = CompactOptions {
        percent: u8::try_from(percent).unwrap_or(u8::MAX),
        ..CompactOptions::default()
    };
    Ok(Some(options).filter(|options| options.percent > 0))
}

pub(super) fn days(given: &str) -> Result<Duration, ConfigError> {
    let range = 0.0..=SCRUB_INTERVAL_MAX_DAYS;
    span("--scrub-interval", given, range, DAY)
}

/// A number of units of time within a range, or a time with a unit of its own.
fn span(
    option: &str,
    given: &str,
    range: RangeInclusive<f64>,
    unit: (f64, &str),
) -> Result<Duration, ConfigError> {
    let (seconds, name) = unit;
    let allowed = range.start() * seconds..=range.end() * seconds;
    interval(given, Some(seconds))
        .filter(|span| allowed.contains(&span.as_secs_f64()))
        .ok_or_else(|| {
            let (min, max) = range.into_inner();
            let reason = format!(
                "'{given}' is not within {min} to {max} {name} (or with a unit: ms, s, m, h, d, w)"
            );
            value(option, reason)
        })
}

/// A time such as `15m`, `30 s` or `0.5 h`. A number alone has the unit of so many seconds, if one
/// is given.
pub(super) fn interval(given: &str, unit: Option<f64>) -> Option<Duration> {
    let number = given.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let seconds = match given.get(number.len()..)? {
        "" => unit?,
        "ms" => 0.001,
        "s" | "sec" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => DAY.0,
        "w" => 7.0 * DAY.0,
        _ => return None,
    };
    let number: f64 = number.trim_end().parse().ok()?;
    Duration::try_from_secs_f64(number * seconds).ok()
}

pub(super) fn bytes(option: &str, given: &str) -> Result<u64, ConfigError> {
    size_of(given)
        .filter(|bytes| *bytes >= SIZE_MIN_BYTES)
        .ok_or_else(|| {
            value(
                option,
                format!("'{given}' is not a size of at least 1M (1048576, 1.5G, ...)"),
            )
        })
}

/// A number of bytes with an optional fraction and suffix for a power of 1024 (4096, 64M, 1.5GiB),
/// without the rounding of floating point.
///
/// # Errors
/// What is wrong with it, for the user.
pub fn parse_size(given: &str) -> Result<u64, String> {
    size_of(given).ok_or_else(|| {
        format!("'{given}' is not a number of bytes below 2^64, like 4096, 64M or 1.5T")
    })
}

fn size_of(given: &str) -> Option<u64> {
    let number = given.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match given.get(number.len()..)?.to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        "T" | "TIB" => 40,
        "P" | "PIB" => 50,
        _ => return None,
    };
    let number = number.trim_end();
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let unit = 1u128 << shift;
    let scale = 10u128.checked_pow(u32::try_from(fraction.len()).ok().filter(|n| *n <= 9)?)?;
    let whole = u128::from(whole.parse::<u64>().ok()?).checked_mul(unit)?;
    let part = u128::from(fraction.parse::<u64>().ok()?).checked_mul(unit)? / scale;
    u64::try_from(whole.checked_add(part)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_fractions_and_suffixes_and_are_checked() {
        for (given, bytes) in [
            ("4096", 4096),
            ("64M", 64 << 20),
            ("2TiB", 2 << 40),
            ("1g", 1 << 30),
            ("1.5G", 3 << 29),
            ("3P", 3 << 50),
            ("64 MiB", 64 << 20),
        ] {
            assert_eq!(parse_size(given), Ok(bytes));
        }
        for wrong in [
            "",
            "M",
            "12X",
            "-1",
            "1.G",
            "99999999999P",
            "20000000000000000000",
        ] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_have_the_flag_s_unit_or_one_of_their_own() {
        let ms = Duration::from_millis;
        for (given, expected) in [
            ("5", ms(5_000)),
            ("0.25", ms(250)),
            ("30 s", ms(30_000)),
            ("500ms", ms(500)),
            ("15m", ms(900_000)),
            ("1.5 h", ms(5_400_000)),
            ("2d", ms(172_800_000)),
            ("1w", ms(604_800_000)),
        ] {
            assert_eq!(interval(given, Some(1.0)), Some(expected), "{given}");
        }
        for wrong in ["", "m", "5y", "5 5", "-1s", "1e300d", "nan", "inf", "5M"] {
            assert_eq!(interval(wrong, Some(1.0)), None, "{wrong}");
        }
        assert_eq!(interval("5", None), None);
        assert_eq!(seconds_or_never("--x", "0").unwrap(), None);
    }
}
