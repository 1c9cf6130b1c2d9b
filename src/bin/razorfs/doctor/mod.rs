//! `razorfs doctor STORE`: finds what is usually wrong when something is.
//!
//! ```text
//! store   the directory and the disk below it
//! daemon  who serves it, and how that goes
//! qemu    processes on this host that are connected to it, or want to be
//! guest   what the machine needs in which it is mounted: with --guest, in there
//! ```
//!
//! It looks and changes nothing: neither the store nor a daemon nor a guest notices. Each finding names
//! the thing, what it means, and what to do.

mod daemon;
mod guest;
mod qemu;
mod store;

use std::path::PathBuf;

use clap::Args;
use razorfs::control::{StorePlace, served};
use serde::Serialize;

type Error = Box<dyn std::error::Error>;

/// Looks for what is usually wrong: with a store, its disk, the daemon that serves it, and the QEMU
/// processes on this host; or with --guest, in the machine that is to mount it. Changes nothing. Exit
/// status 1 when something does not work.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The store's directory.
    #[arg(required_unless_present = "guest", conflicts_with = "guest")]
    store: Option<PathBuf>,
    #[command(flatten)]
    control: crate::store::ControlArgs,
    /// Look at this machine as the guest that is to mount TAG.
    #[arg(long, value_name = "TAG")]
    guest: Option<String>,
    /// Print what was found as JSON.
    #[arg(long)]
    json: bool,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Grade {
    /// As it should be.
    Good,
    /// It works, though not as well as it could, or not for long.
    Doubtful,
    /// It does not work.
    Wrong,
}

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    grade: Grade,
    /// What it is about.
    about: String,
    /// What is so, and what that means.
    what: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

/// What was found.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn good(&mut self, about: impl Into<String>, what: impl Into<String>) {
        self.put(Grade::Good, about, what, None);
    }

    fn doubtful(
        &mut self,
        about: impl Into<String>,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.put(Grade::Doubtful, about, what, Some(advice.into()));
    }

    fn wrong(
        &mut self,
        about: impl Into<String>,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.put(Grade::Wrong, about, what, Some(advice.into()));
    }

    fn put(
        &mut self,
        grade: Grade,
        about: impl Into<String>,
        what: impl Into<String>,
        advice: Option<String>,
    ) {
        self.0.push(Finding {
            grade,
            about: about.into(),
            what: what.into(),
            advice,
        });
    }

    fn worst(&self) -> Grade {
        let grades = self.0.iter().map(|finding| finding.grade);
        grades.max().unwrap_or(Grade::Good)
    }

    fn as_text(&self) -> String {
        let lines = self.0.iter().map(|finding| {
            let mark = match finding.grade {
                Grade::Good => "ok     ",
                Grade::Doubtful => "DOUBT  ",
                Grade::Wrong => "WRONG  ",
            };
            let advice = finding.advice.iter();
            let advice: String = advice
                .map(|advice| format!("\n       -> {advice}"))
                .collect();
            format!("{mark}{}: {}{advice}\n", finding.about, finding.what)
        });
        lines.collect()
    }
}

/// Does it; the exit status.
///
/// # Errors
/// When the result cannot be written.
pub fn run(args: &DoctorArgs) -> Result<u8, Error> {
    let mut found = Findings::default();
    match (&args.store, &args.guest) {
        (Some(store), _) => {
            let place = StorePlace {
                store: store.clone(),
                control: args.control.place(),
                allow_volatile: true,
            };
            store::look(store, &mut found);
            let served = served(&place);
            let exports = daemon::look(store, served, &mut found);
            qemu::look(&exports, &mut found);
        }
        (None, Some(tag)) => guest::look(tag, &mut found),
        (None, None) => {}
    }
    if args.json {
        crate::tell_json(&found.0)?;
    } else {
        crate::tell(&found.as_text());
    }
    Ok(u8::from(found.worst() == Grade::Wrong))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_decides_and_all_are_told() {
        let mut found = Findings::default();
        assert_eq!(found.worst(), Grade::Good);
        found.good("this", "it is well");
        found.doubtful("that", "it is small", "make it larger");
        assert_eq!(found.worst(), Grade::Doubtful);
        found.wrong("the other", "it is broken", "mend it");
        assert_eq!(found.worst(), Grade::Wrong);
        let text = found.as_text();
        assert!(text.contains("ok     this: it is well\n"), "{text}");
        assert!(text.contains("WRONG  the other: it is broken\n       -> mend it\n"));
    }
}
