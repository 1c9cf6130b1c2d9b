//! `razorfs scrub STORE`: reads everything that is stored and says what is damaged.

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use razorfs::control::api::{NewScrub, Scrub};
use razorfs::control::{self, Client, StorePlace};
use razorfs::engine::{OpenOptions, ScrubEvent, ScrubOptions, ScrubProgress, Volume};
use razorfs::progress::Terminal;
use serde_json::json;

use crate::store::ControlArgs;

type Error = Box<dyn std::error::Error>;

/// How often a terminal is told how far it is.
const TELL_INTERVAL: Duration = Duration::from_millis(500);

/// Reads all pages, names and content of a store and checks them against their checksums. An
/// interrupted scrub (Ctrl-C, SIGTERM) goes on where it stopped. Where a daemon serves the store, it
/// scrubs; one that is under way (`razorfsd --scrub-interval`) goes on, and is told of.
///
/// Exit codes: 0 nothing is damaged, 1 it could not be done, 3 it was interrupted, 4 something is
/// damaged (`razorfsck --repair` mends what can be mended).
#[derive(Debug, Args)]
pub struct ScrubArgs {
    /// The store's directory. With an address for --control it is not looked at.
    store: PathBuf,
    #[command(flatten)]
    control: ControlArgs,
    /// Bytes to read in a second, at most (K, M, G for powers of 1024).
    #[arg(long, value_name = "BYTES", value_parser = razorfs::config::parse_size)]
    rate: Option<u64>,
    /// Begin anew, wherever an earlier one stopped.
    #[arg(long)]
    restart: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Accept a store on a file system that does not survive a power cut.
    #[arg(long)]
    allow_volatile: bool,
}

/// Scrubs. Returns the exit code.
///
/// # Errors
/// When the store cannot be opened, walked or closed.
pub fn run(args: &ScrubArgs) -> Result<u8, Error> {
    let stop = crate::stop_on_signals()?;
    let place = StorePlace {
        store: args.store.clone(),
        control: args.control.place(),
        allow_volatile: args.allow_volatile,
    };
    if let Some(daemon) = control::served(&place)? {
        return run_served(args, &daemon, &stop);
    }
    let options = OpenOptions {
        allow_volatile: args.allow_volatile,
        ..OpenOptions::default()
    };
    let shown = Terminal::show(&options.progress);
    let volume = Volume::open(&args.store, options)?;
    drop(shown);
    let options = ScrubOptions {
        bytes_per_sec: args.rate.unwrap_or(0),
        restart: args.restart,
    };
    let mut told = Instant::now();
    let show = std::io::stderr().is_terminal() && !args.json;
    let mut damaged = Vec::new();
    let result = volume.store().scrub(options, &mut |event| {
        match event {
            ScrubEvent::Damaged(what) => damaged.push(what.clone()),
            ScrubEvent::Progress(progress) if show && told.elapsed() > TELL_INTERVAL => {
                told = Instant::now();
                // A terminal that is gone wants no more of it.
                let _ = write!(std::io::stderr(), "\r{}", line(progress));
            }
            ScrubEvent::Progress(_) => {}
        }
        match stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    volume.store().close()?;
    if show {
        let _ = writeln!(std::io::stderr(), "\r{}", line(&result));
    }
    tell(args, &result, &damaged)?;
    Ok(code(&result))
}

/// Has a daemon do it, and waits for it.
fn run_served(args: &ScrubArgs, daemon: &Client, stop: &AtomicBool) -> Result<u8, Error> {
    let how = NewScrub {
        bytes_per_second: args.rate,
        restart: args.restart,
    };
    let show = std::io::stderr().is_terminal() && !args.json;
    let mut status = daemon.begin_scrub(&how)?.it;
    let mut is_stopping = false;
    while status.is_running {
        std::thread::sleep(TELL_INTERVAL / 5);
        if stop.load(Ordering::Relaxed) && !is_stopping {
            daemon.stop_scrub()?;
            is_stopping = true;
        }
        status = daemon.scrub()?;
        if show {
            let _ = write!(std::io::stderr(), "\r{}", line(&progress_of(&status)));
        }
    }
    let result = progress_of(&status);
    if show {
        let _ = writeln!(std::io::stderr(), "\r{}", line(&result));
    }
    tell(args, &result, &status.damaged)?;
    Ok(code(&result))
}

fn progress_of(status: &Scrub) -> ScrubProgress {
    ScrubProgress {
        items: status.items,
        bytes: status.bytes,
        bytes_total: status.bytes_total,
        errors: status.errors,
        done: status.is_done,
    }
}

fn code(result: &ScrubProgress) -> u8 {
    match (result.errors, result.done) {
        (1.., _) => 4,
        (0, false) => 3,
        (0, true) => 0,
    }
}

fn line(progress: &ScrubProgress) -> String {
    let total = progress.bytes_total.max(progress.bytes).max(1);
    let percent = match progress.done {
        true => 100,
        false => progress.bytes.saturating_mul(100) / total,
    };
    format!(
        "{percent:>3} %, {} MiB read, {} damaged",
        progress.bytes >> 20,
        progress.errors
    )
}

fn tell(args: &ScrubArgs, result: &ScrubProgress, damaged: &[String]) -> Result<(), Error> {
    let store = args.store.display();
    if args.json {
        let value = json!({
            "store": store.to_string(),
            "done": result.done,
            "items": result.items,
            "bytes": result.bytes,
            "errors": result.errors,
            "damaged": damaged,
        });
        crate::tell_json(&value)?;
        return Ok(());
    }
    for what in damaged {
        crate::tell(&format!("damaged: {what}\n"));
    }
    let done = if result.done { "" } else { " so far" };
    crate::tell(&format!(
        "{store}: {} items, {} bytes read{done}, {} damaged\n",
        result.items, result.bytes, result.errors
    ));
    Ok(())
}
