//! What `razorfs import` and `razorfs extract` have in common.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use razorfs::archive::{ArchiveError, Summary};
use razorfs::control::{SessionError, named};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

type Error = Box<dyn std::error::Error>;

/// How often a terminal is told how far it is.
const TELL_INTERVAL: Duration = Duration::from_millis(100);

/// As many open files as this process may have: a tree that is walked takes one for each directory
/// on the way down.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        log::debug!("the limit of open files stays as it is: {error}");
    }
}

/// Says on a terminal how far it is, and stops for signals.
pub struct Bar<'a> {
    bar: ProgressBar,
    stop: &'a AtomicBool,
    told: Instant,
}

impl<'a> Bar<'a> {
    /// Of about `total` bytes; 0 when that is not known.
    pub fn new(total: u64, stop: &'a AtomicBool) -> Self {
        let bar = match std::io::stderr().is_terminal() {
            false => ProgressBar::hidden(),
            true => ProgressBar::new(total),
        };
        let template = match total {
            0 => "{spinner} {bytes} ({bytes_per_sec}) {msg}",
            _ => KNOWN,
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Bar {
            bar,
            stop,
            told: Instant::now(),
        }
    }

    /// Where to say how much it is, if that is to be seen.
    pub fn total(&self) -> Option<Total> {
        (!self.bar.is_hidden()).then(|| Total(self.bar.clone()))
    }

    /// Shows it; stops when a signal came.
    pub fn tell(&mut self, summary: &Summary) -> ControlFlow<()> {
        if self.told.elapsed() > TELL_INTERVAL {
            self.told = Instant::now();
            self.bar.set_position(summary.bytes);
            self.bar
                .set_message(format!("{} entries", summary.entries()));
        }
        match self.stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// Leaves it on the terminal.
    pub fn end(&self) {
        self.bar.abandon();
    }
}

const KNOWN: &str = "{wide_bar} {bytes} of about {total_bytes} ({bytes_per_sec}, {eta}) {msg}";

/// A bar that learns how much it is.
pub struct Total(ProgressBar);

impl Total {
    /// It is about `bytes`.
    pub fn set_length(&self, bytes: u64) {
        if let Ok(style) = ProgressStyle::with_template(KNOWN) {
            self.0.set_style(style);
        }
        self.0.set_length(bytes);
    }
}

/// What became of it.
pub struct Outcome<'a> {
    /// The store.
    pub store: &'a Path,
    /// imported, extracted
    pub verb: &'static str,
    /// What was done.
    pub summary: &'a Summary,
    /// Whether JSON is to be printed.
    pub json: bool,
    /// What there is of it when it failed.
    pub left: &'static str,
    /// How it ended.
    pub done: Result<(), SessionError>,
}

/// What there is of what is made file by file.
pub const WHOLE_FILES: &str = "before is there, each file whole";

/// Prints what was done, also when not all was.
///
/// # Errors
/// When not all was.
pub fn tell_outcome(outcome: &Outcome<'_>) -> Result<(), Error> {
    let (store, summary) = (outcome.store.display(), outcome.summary);
    if outcome.json {
        let mut value = serde_json::to_value(summary)?;
        if let Some(fields) = value.as_object_mut() {
            fields.insert("store".into(), json!(store.to_string()));
            fields.insert("complete".into(), json!(outcome.done.is_ok()));
        }
        crate::tell_json(&value)?;
    } else {
        crate::tell(&format!("{store}: {} {}\n", outcome.verb, as_text(summary)));
    }
    match &outcome.done {
        Ok(()) => Ok(()),
        // It says so itself.
        Err(error @ SessionError::Archive(ArchiveError::NotDurable(_))) => {
            Err(named(outcome.store, error).into())
        }
        Err(error) => Err(format!(
            "{}; what was {} {}",
            named(outcome.store, error),
            outcome.verb,
            outcome.left
        )
        .into()),
    }
}

fn as_text(summary: &Summary) -> String {
    let counts = [
        (summary.directories, "directories"),
        (summary.symlinks, "symlinks"),
        (summary.hard_links, "further hard links"),
        (summary.specials, "devices and fifos"),
    ];
    let mut text = format!("{} files, {} bytes", summary.files, summary.bytes);
    for (count, what) in counts.iter().filter(|(count, _)| *count > 0) {
        text.push_str(&format!(", {count} {what}"));
    }
    for (reason, count) in &summary.skipped {
        text.push_str(&format!("\n  skipped {count} times: {reason}"));
    }
    text
}
