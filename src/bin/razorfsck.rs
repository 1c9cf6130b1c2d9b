//! `razorfsck STORE`: checks a store; with `--repair` mends it.
//!
//! Exit codes as fsck(8) has them: 0 nothing wrong, 1 errors mended, 4 errors left as they are, 8 the
//! check or the repair could not be made, 16 a mistake on the command line.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use razorfs::disk::dir::{OpenDir, open_store};
use razorfs::fsck::{Fix, Issue, Options, Severity, Summary, check, repair};
use razorfs::manual;
use razorfs::progress::{Progress, Terminal};
use serde_json::json;

const EXIT_CLEAN: u8 = 0;
const EXIT_MENDED: u8 = 1;
const EXIT_ERRORS: u8 = 4;
const EXIT_FAILED: u8 = 8;
const EXIT_USAGE: u8 = 16;

/// Issues that are told one by one, and fixes; more are only counted.
const TOLD_MAX: u64 = 1000;

/// Checks a razorfs store: pages, trees, names, links, extents, space.
///
/// Changes nothing unless told to repair. The store must not be in use. A log left by a crash is
/// applied in memory. Exit codes: 0 nothing wrong, 1 errors found and mended, 4 errors found, 8 the
/// check or the repair could not be made, 16 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "razorfsck", version, about)]
struct Args {
    /// The store's directory.
    store: PathBuf,
    /// Read all file content too, and check it against its checksums.
    #[arg(long)]
    data: bool,
    /// Mend what is wrong. What can still be read goes into new trees, for which there must be room;
    /// free space, links and indexes are counted again; what lost its name goes to lost+found;
    /// content that is gone is marked, so that reading it is an error. With --data that is done
    /// for content that does not match its checksums too. An interrupted repair leaves the store as
    /// it was.
    #[arg(long, short = 'y')]
    repair: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Say what was looked at.
    #[arg(short, long)]
    verbose: bool,
    /// As in fsck(8), where a program may pass it: only check, as without --repair.
    #[arg(short = 'n', conflicts_with = "repair")]
    no_changes: bool,
}

fn main() -> ExitCode {
    if let Some(done) = manual::generate(Args::command, "8") {
        return done;
    }
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("error")).init();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let asked = matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            );
            // A terminal that is gone changes nothing about the exit code.
            let _ = error.print();
            return ExitCode::from(if asked { EXIT_CLEAN } else { EXIT_USAGE });
        }
    };
    match run(&args) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("razorfsck: {error}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn run(args: &Args) -> Result<u8, Box<dyn std::error::Error>> {
    let how = OpenDir {
        read_only: !args.repair,
        allow_volatile: true,
    };
    let store = open_store(&args.store, how)?;
    let at = |error: &dyn std::fmt::Display| format!("{}: {error}", args.store.display());
    let progress = Progress::default();
    let options = Options {
        data: args.data,
        progress: Some(&progress),
        ..Options::default()
    };
    let mut told = Told::new(args, &progress);
    let mut summary =
        check(&store.media, options, &mut |issue| told.issue(issue)).map_err(|error| at(&error))?;
    told.rest(summary.errors + summary.warnings, "issues");
    let found = summary.errors;
    if args.repair && found > 0 {
        let fixes = repair(&store.media, options, &mut |fix| told.fix(fix));
        let fixes = fixes.map_err(|error| at(&error))?;
        told.rest(fixes, "fixes");
        // What a repair leaves is no better than a check of it.
        summary = check(&store.media, options, &mut |issue| told.left(issue))
            .map_err(|error| at(&error))?;
    }
    told.end(found, &summary)?;
    Ok(match (found, summary.errors) {
        (0, _) => EXIT_CLEAN,
        (_, 0) => EXIT_MENDED,
        _ => EXIT_ERRORS,
    })
}

/// What was told so far: as lines, or kept for one JSON value.
struct Told<'a> {
    args: &'a Args,
    out: std::io::StdoutLock<'static>,
    /// How far it is, where that is shown.
    shown: Option<Terminal>,
    count: u64,
    issues: Vec<serde_json::Value>,
    fixes: Vec<serde_json::Value>,
    left: Vec<serde_json::Value>,
}

impl<'a> Told<'a> {
    fn new(args: &'a Args, progress: &Progress) -> Self {
        Told {
            args,
            out: std::io::stdout().lock(),
            shown: Terminal::show(progress),
            count: 0,
            issues: Vec::new(),
            fixes: Vec::new(),
            left: Vec::new(),
        }
    }

    /// Prints a line, unless JSON is wanted or there were too many; whether it is to be kept.
    fn line(&mut self, line: std::fmt::Arguments<'_>) -> bool {
        self.count += 1;
        if self.count <= TOLD_MAX && !self.args.json {
            let out = &mut self.out;
            // Whoever closed the pipe wants no more; the exit code still counts.
            let mut tell = || drop(writeln!(out, "{line}"));
            match &self.shown {
                Some(shown) => shown.aside(tell),
                None => tell(),
            }
        }
        self.count <= TOLD_MAX
    }

    fn issue(&mut self, issue: &Issue) {
        if self.line(format_args!("{}: {issue}", severity(issue))) {
            self.issues.push(issue_json(issue));
        }
    }

    fn fix(&mut self, fix: &Fix) {
        if self.line(format_args!("repair: {fix}")) {
            self.fixes
                .push(json!({ "code": fix.code(), "message": fix.to_string() }));
        }
    }

    fn left(&mut self, issue: &Issue) {
        if self.line(format_args!("left: {}: {issue}", severity(issue))) {
            self.left.push(issue_json(issue));
        }
    }

    /// Says how many more there were, and begins to count anew.
    fn rest(&mut self, all: u64, what: &str) {
        if all > TOLD_MAX && !self.args.json {
            let _ = writeln!(self.out, "... and {} more {what}", all - TOLD_MAX);
        }
        self.count = 0;
    }

    fn end(mut self, found: u64, summary: &Summary) -> Result<(), serde_json::Error> {
        self.shown = None;
        let text = if self.args.json {
            let mut value = as_json(summary);
            if let Some(object) = value.as_object_mut() {
                let store = self.args.store.display().to_string();
                object.insert("store".into(), json!(store));
                object.insert("issues".into(), self.issues.into());
                if self.args.repair {
                    object.insert("found".into(), json!(found));
                    object.insert("fixes".into(), self.fixes.into());
                    object.insert("left".into(), self.left.into());
                }
            }
            format!("{}\n", serde_json::to_string_pretty(&value)?)
        } else {
            as_text(self.args, found, summary)
        };
        let _ = self.out.write_all(text.as_bytes());
        Ok(())
    }
}

fn issue_json(issue: &Issue) -> serde_json::Value {
    json!({
        "severity": severity(issue),
        "code": issue.code(),
        "message": issue.to_string(),
    })
}

fn severity(issue: &Issue) -> &'static str {
    match issue.severity() {
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

fn as_json(summary: &Summary) -> serde_json::Value {
    json!({
        "clean": summary.errors == 0,
        "errors": summary.errors,
        "warnings": summary.warnings,
        "pages": summary.pages,
        "datasets": summary.datasets,
        "inodes": summary.inodes,
        "entries": summary.dentries,
        "extents": summary.extents,
        "chunks": summary.chunks,
        "names": summary.names,
        "content_bytes": summary.content_bytes,
        "log_transactions": summary.log_transactions,
    })
}

fn as_text(args: &Args, found: u64, summary: &Summary) -> String {
    let mut text = String::new();
    if args.verbose {
        text += &format!(
            "{} pages, {} datasets, {} inodes, {} entries, {} extents, {} chunks, {} names, {} \
             bytes of content read, {} transactions in the log\n",
            summary.pages,
            summary.datasets,
            summary.inodes,
            summary.dentries,
            summary.extents,
            summary.chunks,
            summary.names,
            summary.content_bytes,
            summary.log_transactions,
        );
    }
    let store = args.store.display();
    if args.repair && found > 0 {
        text += &format!("{store}: {found} errors found, {} left\n", summary.errors);
    }
    text + &match (summary.errors, summary.warnings) {
        (0, 0) => format!("{store}: clean\n"),
        (0, warnings) => format!("{store}: clean, with {warnings} warnings\n"),
        (errors, warnings) => format!("{store}: {errors} errors, {warnings} warnings\n"),
    }
}
