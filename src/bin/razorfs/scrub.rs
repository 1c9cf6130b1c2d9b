//! `razorfs scrub STORE`: reads everything that is stored and says what is damaged.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use razorfs::control::api::{NewScrub, Scrub};
use razorfs::control::{self, Client, StorePlace};
use razorfs::engine::{OpenOptions, ScrubEvent, ScrubOptions, ScrubProgress, Volume};
use razorfs::progress::{Progress, Terminal};
use serde_json::json;

use crate::store::ControlArgs;

type Error = Box<dyn std::error::Error>;

/// What a terminal shows of it, in bytes.
const STEP: &str = "reading bytes";
/// How often a daemon is asked how far it is.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

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
    let bar = Bar::new();
    let mut damaged = Vec::new();
    let result = volume.store().scrub(options, &mut |event| {
        match event {
            ScrubEvent::Damaged(what) => damaged.push(what.clone()),
            ScrubEvent::Progress(progress) => bar.tell(progress),
        }
        match stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    volume.store().close()?;
    drop(bar);
    tell(args, &result, &damaged)?;
    Ok(code(&result))
}

/// Has a daemon do it, and waits for it.
fn run_served(args: &ScrubArgs, daemon: &Client, stop: &AtomicBool) -> Result<u8, Error> {
    let how = NewScrub {
        bytes_per_second: args.rate,
        restart: args.restart,
    };
    let bar = Bar::new();
    let mut status = daemon.begin_scrub(&how)?.it;
    let mut is_stopping = false;
    while status.is_running {
        std::thread::sleep(ASK_INTERVAL);
        if stop.load(Ordering::Relaxed) && !is_stopping {
            daemon.stop_scrub()?;
            is_stopping = true;
        }
        status = daemon.scrub()?;
        bar.tell(&progress_of(&status));
    }
    drop(bar);
    let result = progress_of(&status);
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

/// How far it is, on a terminal.
struct Bar {
    progress: Progress,
    _shown: Option<Terminal>,
}

impl Bar {
    fn new() -> Bar {
        let progress = Progress::default();
        progress.begin(STEP, 0);
        Bar {
            _shown: Terminal::show(&progress),
            progress,
        }
    }

    fn tell(&self, how_far: &ScrubProgress) {
        if self.progress.look().total != how_far.bytes_total {
            self.progress
                .go_on(STEP, how_far.bytes, how_far.bytes_total);
        }
        self.progress.reach(how_far.bytes);
    }
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
