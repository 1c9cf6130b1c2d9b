//! `razorfs recover STORE`: opens a store, recovers it, says what was done, closes it.

use std::path::PathBuf;

use clap::Args;
use razorfs::engine::{OpenOptions, Volume};
use razorfs::log::recovery::Report;
use razorfs::progress::Terminal;
use serde_json::{Value, json};

type Error = Box<dyn std::error::Error>;

/// Recovers a store after a crash. Opening it in any other way recovers it too; this says what was
/// done, and can go on past a damaged log.
#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// The store's directory.
    store: PathBuf,
    /// Give up what lies behind damage in the acknowledged part of the log. What was done after it
    /// is lost.
    #[arg(long)]
    discard_damaged_log: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Accept a store on a file system that does not survive a power cut.
    #[arg(long)]
    allow_volatile: bool,
}

/// Recovers: durable when this returns.
///
/// # Errors
/// When the store cannot be opened or closed, or its log is damaged and that was not accepted.
pub fn run(args: &RecoverArgs) -> Result<(), Error> {
    let options = OpenOptions {
        allow_volatile: args.allow_volatile,
        discard_damaged_log: args.discard_damaged_log,
        background: false,
        ..OpenOptions::default()
    };
    let shown = Terminal::show(&options.progress);
    let volume = Volume::open(&args.store, options)?;
    drop(shown);
    let report = volume.store().recovery_report().clone();
    let orphans = volume.store().orphans_freed();
    if args.json {
        crate::tell_json(&as_json(&report, orphans))?;
    } else {
        crate::tell(&as_text(&report, orphans));
    }
    if let Some(damage) = &report.damage
        && !args.discard_damaged_log
    {
        return Err(format!(
            "{}: {damage}. Nothing was changed. The state before the damage can be read with \
             'razorfs mount --readonly'; to go on from it, use 'razorfs recover \
             --discard-damaged-log'",
            args.store.display()
        )
        .into());
    }
    if !volume.is_writable() {
        return Err(format!(
            "{}: the store has features this program can only read; use a newer razorfs",
            args.store.display()
        )
        .into());
    }
    volume.store().close()?;
    Ok(())
}

fn as_json(report: &Report, orphans: u64) -> Value {
    json!({
        "was_clean": report.was_clean(),
        "generation": report.superblock.generation.0,
        "checkpoint_lsn": report.superblock.checkpoint_lsn.0,
        "log_read": report.log_read,
        "log_end_lsn": report.log_end.0,
        "batches": report.batches,
        "transactions_applied": report.applied,
        "transactions_dropped": report.dropped,
        "torn_bytes": report.torn_bytes,
        "orphans_freed": orphans,
        "damage": report.damage.as_ref().map(ToString::to_string),
        "superblock_damage": report.superblock_damage.iter()
            .map(|(copy, reason)| format!("copy {copy}: {reason}")).collect::<Vec<_>>(),
        "took_ms": u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX),
    })
}

fn as_text(report: &Report, orphans: u64) -> String {
    let mut text = String::new();
    macro_rules! line {
        ($($arg:tt)*) => {{
            text += &format!($($arg)*);
            text.push('\n');
        }};
    }
    if report.was_clean() {
        line!("the store had been closed: nothing to recover");
        return text;
    }
    let from = report.superblock.checkpoint_lsn;
    line!("checkpoint      {}", report.superblock.generation);
    line!("log             {from} to {}", report.log_end);
    line!("batches         {}", report.batches);
    line!("applied         {} transactions", report.applied);
    line!(
        "dropped         {} transactions that were not acknowledged",
        report.dropped
    );
    line!("orphans freed   {orphans}");
    line!("took            {} ms", report.took.as_millis());
    for (copy, reason) in &report.superblock_damage {
        line!("superblock      copy {copy} could not be used: {reason}");
    }
    if let Some(damage) = &report.damage {
        line!("damage          {damage}");
    }
    text
}
