//! `razorfsck STORE`: checks a store and changes nothing.
//!
//! Exit codes as fsck(8) has them: 0 nothing wrong, 4 errors (left as they are), 8 the check could
//! not be made, 16 a mistake on the command line.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use razorfs::disk::file::{OpenDir, open_store};
use razorfs::fsck::{Issue, Options, Severity, Summary, check};
use serde_json::json;

const EXIT_CLEAN: u8 = 0;
const EXIT_ERRORS: u8 = 4;
const EXIT_FAILED: u8 = 8;
const EXIT_USAGE: u8 = 16;

/// Issues that are told one by one; more are only counted.
const ISSUES_TOLD_MAX: u64 = 1000;

/// Checks a razorfs store: pages, trees, names, links, extents, space. Changes nothing.
///
/// The store must not be in use. A log left by a crash is applied in memory. Exit codes: 0 nothing
/// wrong, 4 errors found, 8 the check could not be made, 16 wrong usage.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    /// The store's directory.
    store: PathBuf,
    /// Read all file content too, and check it against its checksums.
    #[arg(long)]
    data: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Say what was looked at.
    #[arg(short, long)]
    verbose: bool,
    /// As in fsck(8), where a program may pass it: only check. It is what is always done.
    #[arg(short = 'n')]
    no_changes: bool,
}

fn main() -> ExitCode {
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
        read_only: true,
        allow_volatile: true,
    };
    let store = open_store(&args.store, how)?;
    let options = Options {
        data: args.data,
        ..Options::default()
    };
    let mut out = std::io::stdout().lock();
    let mut told: Vec<serde_json::Value> = Vec::new();
    let mut count = 0u64;
    let mut report = |issue: &Issue| {
        count += 1;
        if count > ISSUES_TOLD_MAX {
            return;
        }
        if args.json {
            told.push(json!({
                "severity": severity(issue),
                "code": issue.code(),
                "message": issue.to_string(),
            }));
        } else {
            // Whoever closed the pipe wants no more; the exit code still counts.
            let _ = writeln!(out, "{}: {issue}", severity(issue));
        }
    };
    let summary = check(&store.media, options, &mut report)
        .map_err(|error| format!("{}: {error}", args.store.display()))?;
    let text = if args.json {
        let mut value = as_json(&summary);
        if let Some(object) = value.as_object_mut() {
            object.insert("store".into(), json!(args.store.display().to_string()));
            object.insert("issues".into(), told.into());
        }
        format!("{}\n", serde_json::to_string_pretty(&value)?)
    } else {
        as_text(args, &summary)
    };
    let _ = out.write_all(text.as_bytes());
    Ok(if summary.errors == 0 {
        EXIT_CLEAN
    } else {
        EXIT_ERRORS
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

fn as_text(args: &Args, summary: &Summary) -> String {
    let mut text = String::new();
    let issues = summary.errors + summary.warnings;
    if issues > ISSUES_TOLD_MAX {
        let more = issues - ISSUES_TOLD_MAX;
        text += &format!("... and {more} more\n");
    }
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
    text + &match (summary.errors, summary.warnings) {
        (0, 0) => format!("{store}: clean\n"),
        (0, warnings) => format!("{store}: clean, with {warnings} warnings\n"),
        (errors, warnings) => format!("{store}: {errors} errors, {warnings} warnings\n"),
    }
}
