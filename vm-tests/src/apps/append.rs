//! A log: each record is appended and made durable by fdatasync; when it is long, it is renamed and
//! begun anew.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};

use super::{App, Done, Found, Work, failed, read, sync_dir};

const NAME: &str = "log";
const OLD_NAME: &str = "log.old";
const RECORD_TEXT_MAX: usize = 3000;
const LOG_BYTES_MAX: u64 = 300_000;

pub(super) struct Append;

fn record(work: &Work<'_>, step: u64) -> String {
    format!("{step} {}\n", work.text(step, RECORD_TEXT_MAX))
}

/// The step of a log's first record.
fn first(log: &[u8]) -> Option<u64> {
    let number = log.split(|byte| *byte == b' ').next()?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// Reads whole records from step `next` on; the step behind them, and where they end.
fn records(work: &Work<'_>, log: &[u8], mut next: u64) -> (u64, usize) {
    let mut at = 0;
    loop {
        let record = record(work, next);
        if !log[at..].starts_with(record.as_bytes()) {
            return (next, at);
        }
        at += record.len();
        next += 1;
    }
}

impl App for Append {
    fn name(&self) -> &'static str {
        "append"
    }

    fn run(&self, work: &Work<'_>, from: u64, done: Done<'_>) -> io::Result<()> {
        let path = work.dir.join(NAME);
        let open = || -> io::Result<File> {
            let file = OpenOptions::new().append(true).create(true).open(&path)?;
            sync_dir(work.dir)?;
            Ok(file)
        };
        let mut log = open()?;
        for step in from + 1.. {
            if log.metadata()?.len() > LOG_BYTES_MAX {
                fs::rename(&path, work.dir.join(OLD_NAME))?;
                log = open()?;
            }
            log.write_all(record(work, step).as_bytes())?;
            log.sync_data()?;
            if done(step).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn check(&self, work: &Work<'_>) -> Found {
        let old = read(&work.dir.join(OLD_NAME))?.unwrap_or_default();
        let mut next = 1;
        if !old.is_empty() {
            let first = first(&old).ok_or("the old log has no first record")?;
            let (behind, end) = records(work, &old, first);
            if end < old.len() {
                return Err(format!("the old log is wrong at {end}, in step {behind}"));
            }
            next = behind;
        }
        let log = read(&work.dir.join(NAME))?.unwrap_or_default();
        let (behind, end) = records(work, &log, next);
        // A record that was not made durable: each byte may have arrived or not.
        let torn = &log[end..];
        let wanted = record(work, behind);
        let may_be = |(found, wanted): (&u8, u8)| *found == wanted || *found == 0;
        if torn.len() > wanted.len() || !torn.iter().zip(wanted.bytes()).all(may_be) {
            return Err(format!("the log is wrong at {end}, in step {behind}"));
        }
        if !torn.is_empty() {
            let file = OpenOptions::new().write(true).open(work.dir.join(NAME));
            file.and_then(|file| file.set_len(end as u64))
                .map_err(failed("cutting the log"))?;
        }
        Ok(behind - 1)
    }
}
