//! Where the log goes, and what a line of it looks like.
//!
//! Standard error has lines for people, JSON for programs, or what the journal of systemd expects:
//! it is told how grave a line is by a prefix (sd-daemon(3)), and knows the time itself. A record is
//! one line, except as text in the journal, where each of its lines has the prefix.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::fd::AsFd;

use jiff::Timestamp;
use log::{Level, LevelFilter, Record};
use razorfs::config::{Config, LogFormat};
use serde::Serialize;

use crate::Error;

/// Set by systemd: device and inode of the journal's stream.
const JOURNAL_STREAM: &str = "JOURNAL_STREAM";

/// Logs as the configuration says, from here on.
///
/// # Errors
/// When syslog cannot be reached.
pub fn start_logging(config: &Config) -> Result<(), Error> {
    match config.syslog {
        true => log_to_syslog()?,
        false => log_to_standard_error(config.log_format)?,
    }
    // What is let through is said once, for all loggers, and can change.
    log::set_max_level(config.log_level);
    Ok(())
}

fn log_to_standard_error(format: LogFormat) -> Result<(), Error> {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(LevelFilter::Trace);
    let in_journal = is_in_journal();
    match format {
        // As env_logger has it, in colours on a terminal.
        LogFormat::Text if !in_journal => {}
        LogFormat::Text => {
            builder.format(|out, record| out.write_all(journal_lines(record).as_bytes()));
        }
        LogFormat::Json => {
            builder.format(move |out, record| {
                let line = json_line(record, Timestamp::now(), in_journal)?;
                out.write_all(line.as_bytes())
            });
        }
    }
    Ok(builder.try_init()?)
}

fn log_to_syslog() -> Result<(), Error> {
    let formatter = syslog::Formatter3164 {
        facility: syslog::Facility::LOG_DAEMON,
        hostname: None,
        process: "razorfsd".into(),
        pid: std::process::id(),
    };
    let logger = syslog::unix(formatter).map_err(|error| format!("syslog: {error}"))?;
    Ok(log::set_boxed_logger(Box::new(syslog::BasicLogger::new(
        logger,
    )))?)
}

/// Whether standard error is the journal's stream. The variable alone says nothing: it is inherited
/// by processes whose standard error was redirected since (systemd.exec(5)).
fn is_in_journal() -> bool {
    let Ok(said) = std::env::var(JOURNAL_STREAM) else {
        return false;
    };
    let stderr = rustix::fs::fstat(std::io::stderr().as_fd());
    stderr.is_ok_and(|stat| said == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// The priority that syslog(3) has for a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// A record for the journal.
fn journal_lines(record: &Record<'_>) -> String {
    let (priority, target) = (priority(record.level()), record.target());
    let message = record.args().to_string();
    let mut lines = String::new();
    for line in message.split('\n') {
        // Writing to a string does not fail.
        let _ = writeln!(lines, "<{priority}>{target}: {line}");
    }
    lines
}

#[derive(Serialize)]
struct JsonLine<'a> {
    timestamp: String,
    level: &'static str,
    target: &'a str,
    message: String,
}

/// A record for programs; with the prefix that the journal takes off again.
fn json_line(record: &Record<'_>, now: Timestamp, in_journal: bool) -> serde_json::Result<String> {
    let line = serde_json::to_string(&JsonLine {
        timestamp: format!("{now:.6}"),
        level: record.level().as_str(),
        target: record.target(),
        message: record.args().to_string(),
    })?;
    Ok(match in_journal {
        true => format!("<{}>{line}\n", priority(record.level())),
        false => format!("{line}\n"),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_json_line_is_one_line_whatever_the_message() {
        let now: Timestamp = "2026-11-22T03:15:43.5Z".parse().unwrap();
        let args = format_args!("a \"name\"\nof two lines\u{1b}[0m");
        let record = Record::builder()
            .level(Level::Warn)
            .target("razorfs::engine")
            .args(args)
            .build();
        let line = json_line(&record, now, false).unwrap();
        assert_eq!(line.matches('\n').count(), 1);
        let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
        let expected = serde_json::json!({
            "timestamp": "2026-11-22T03:15:43.500000Z",
            "level": "WARN",
            "target": "razorfs::engine",
            "message": "a \"name\"\nof two lines\u{1b}[0m",
        });
        assert_eq!(parsed, expected);
        assert_eq!(json_line(&record, now, true).unwrap(), format!("<4>{line}"));
    }

    #[test]
    fn each_line_in_the_journal_says_how_grave_it_is() {
        let levels = [
            (Level::Error, "<3>"),
            (Level::Warn, "<4>"),
            (Level::Info, "<6>"),
            (Level::Debug, "<7>"),
            (Level::Trace, "<7>"),
        ];
        for (level, prefix) in levels {
            let args = format_args!("one\ntwo");
            let record = Record::builder()
                .level(level)
                .target("t")
                .args(args)
                .build();
            assert_eq!(
                journal_lines(&record),
                format!("{prefix}t: one\n{prefix}t: two\n")
            );
        }
    }
}
