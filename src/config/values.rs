//! What the values of options mean.

use std::ops::RangeInclusive;
use std::time::Duration;

use log::LevelFilter;

use super::ConfigError;
use crate::sandbox::Action;
use crate::transport::vhost_user::TAG_BYTES_MAX;

/// As many as the system has a name for.
const CPUS_MAX: usize = rustix::thread::CpuSet::MAX_CPU;
const COMMIT_INTERVAL_MAX_SECONDS: f64 = 3600.0;
const SCRUB_INTERVAL_MAX_DAYS: f64 = 3650.0;
const SIZE_MIN_BYTES: u64 = 1 << 20;

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

pub(super) fn tag(tag: String) -> Result<String, ConfigError> {
    if tag.is_empty() || tag.len() > TAG_BYTES_MAX || tag.contains('\0') {
        return Err(value(
            "--tag",
            format!("a tag has 1 to {TAG_BYTES_MAX} bytes, none of them 0"),
        ));
    }
    Ok(tag)
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
    span(
        option,
        given,
        0.001..=COMMIT_INTERVAL_MAX_SECONDS,
        1.0,
        "seconds",
    )
}

pub(super) fn days(given: &str) -> Result<Duration, ConfigError> {
    span(
        "--scrub-interval",
        given,
        0.0..=SCRUB_INTERVAL_MAX_DAYS,
        86_400.0,
        "days",
    )
}

/// A number of units of time, of so many seconds each.
fn span(
    option: &str,
    given: &str,
    range: RangeInclusive<f64>,
    seconds: f64,
    unit: &str,
) -> Result<Duration, ConfigError> {
    given
        .parse::<f64>()
        .ok()
        .filter(|number| range.contains(number))
        .and_then(|number| Duration::try_from_secs_f64(number * seconds).ok())
        .ok_or_else(|| {
            let (min, max) = range.into_inner();
            let reason = format!("'{given}' is not within {min} to {max} {unit}");
            value(option, reason)
        })
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
}
