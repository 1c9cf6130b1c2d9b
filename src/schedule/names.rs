//! Names of scheduled snapshots: the prefix, and the minute (UTC) as in `20261121T1500Z`.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// The longest prefix.
pub const PREFIX_BYTES_MAX: usize = 64;

const FORM: &str = "%Y%m%dT%H%MZ";

/// The name that a snapshot taken at a time has behind the `@`; `None` beyond the years that have
/// four digits.
pub(super) fn name_of(prefix: &str, seconds: i64) -> Option<String> {
    let time = civil(seconds)?;
    (0..=9999).contains(&time.year()).then_some(())?;
    Some(format!("{prefix}{}", time.strftime(FORM)))
}

/// When a snapshot with this name was taken, in seconds since 1970; `None` when it is no name that
/// [`name_of`] gives.
pub(super) fn time_of(prefix: &str, name: &str) -> Option<i64> {
    let rest = name.strip_prefix(prefix)?;
    let time = DateTime::strptime(FORM, rest).ok()?;
    let seconds = TimeZone::UTC.to_timestamp(time).ok()?.as_second();
    // What only looks like it, with spaces or signs or fewer digits, is somebody else's.
    (name_of(prefix, seconds)? == name).then_some(seconds)
}

/// Date and time of day, UTC.
pub(super) fn civil(seconds: i64) -> Option<DateTime> {
    let time = Timestamp::from_second(seconds).ok()?;
    Some(TimeZone::UTC.to_datetime(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_when_and_nothing_else_does() {
        let time = 1_795_273_200; // 2026-11-21T15:00:00Z
        assert_eq!(name_of("auto-", time).unwrap(), "auto-20261121T1500Z");
        assert_eq!(time_of("auto-", "auto-20261121T1500Z"), Some(time));
        assert_eq!(name_of("auto-", time + 59), name_of("auto-", time));
        for other in [
            "20261121T1500Z",
            "auto-",
            "auto-20261121T1500",
            "auto-20261121T1500Zx",
            "auto-20261121T150Z",
            "auto-20261321T1500Z",
            "auto-20261121T2460Z",
            "auto-2026-1121T1500Z",
            "auto- 2026121T1500Z",
            "auto-x-20261121T1500Z",
            "manual-20261121T1500Z",
        ] {
            assert_eq!(time_of("auto-", other), None, "{other}");
        }
        assert_eq!(time_of("auto-x-", "auto-x-20261121T1500Z"), Some(time));
        assert_eq!(name_of("auto-", i64::MAX), None);
    }
}
