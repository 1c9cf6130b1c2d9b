//! `razorfs receive STORE DATASET`: a stream of `razorfs send` becomes a snapshot.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use razorfs::control::{self, Input, Session, SessionError, StorePlace};

use crate::send::Bar;
use crate::store::ControlArgs;

type Error = Box<dyn std::error::Error>;

/// How often a terminal is told how far it is.
const TELL_INTERVAL: Duration = Duration::from_millis(100);

/// Reads a snapshot from the standard input, as `razorfs send` writes it: into a new dataset, or,
/// when it was sent `--from` another snapshot, into the dataset that has that one and was not
/// changed since. The dataset shows it once all of it is there. What was received before an
/// interruption (Ctrl-C, SIGTERM, a stream that ends) stays, and can be gone on with. Where a daemon
/// serves the store, it receives, and guests go on meanwhile; only nobody may use the dataset itself.
#[derive(Debug, Args)]
pub struct ReceiveArgs {
    /// The store's directory. With an address for --control it is not looked at.
    store: PathBuf,
    /// DATASET, or DATASET@SNAPSHOT to call the snapshot otherwise than the sender does.
    name: String,
    /// Print what `razorfs send --resume` needs to go on with a receive that was cut off.
    #[arg(long, conflicts_with = "abort")]
    resume_token: bool,
    /// Drop what was received before a receive was cut off.
    #[arg(long)]
    abort: bool,
    /// Print what was received, or what could be gone on with, as JSON.
    #[arg(long, conflicts_with = "abort")]
    json: bool,
    /// Accept a store on a file system that does not survive a power cut.
    #[arg(long)]
    allow_volatile: bool,
    #[command(flatten)]
    control: ControlArgs,
}

/// Reads it.
///
/// # Errors
/// When the store can be neither reached nor opened, or refuses; when the stream is damaged or ends too
/// early.
pub fn run(args: &ReceiveArgs) -> Result<(), Error> {
    let input = std::io::stdin();
    if !args.resume_token && !args.abort && input.is_terminal() {
        return Err("a stream does not come from a terminal: see razorfs send".into());
    }
    let stop = crate::stop_on_signals()?;
    let place = StorePlace {
        store: args.store.clone(),
        control: args.control.place(),
        allow_volatile: args.allow_volatile,
    };
    let of_store = |error: SessionError| control::named(&args.store, &error);
    let session = match args.resume_token {
        true => Session::begin(&place, true),
        false => Session::begin_long(&place),
    };
    let session = session.map_err(of_store)?;
    let done = act(&session, args, stop);
    let ended = session.end().map_err(of_store);
    done?;
    Ok(ended?)
}

fn act(session: &Session, args: &ReceiveArgs, stop: Arc<AtomicBool>) -> Result<(), Error> {
    let of_store = |error: SessionError| control::named(&args.store, &error);
    let (dataset, snapshot) = match args.name.split_once('@') {
        Some((dataset, snapshot)) => (dataset, Some(snapshot)),
        None => (args.name.as_str(), None),
    };
    if args.abort {
        return Ok(session.abort_receive(dataset).map_err(of_store)?);
    }
    if args.resume_token {
        let unfinished = session.unfinished(dataset).map_err(of_store)?;
        match args.json {
            true => crate::tell_json(&unfinished)?,
            false => crate::tell(&format!("{}\n", unfinished.token)),
        }
        return Ok(());
    }
    let bar = Bar::new(0);
    let mut told = Instant::now();
    let input = Stdin {
        stream: File::from(io::stdin().as_fd().try_clone_to_owned()?),
        stop: Arc::clone(&stop),
        // Else the receiver knows more.
        bar: matches!(session, Session::Served(_)).then(|| bar.clone()),
        bytes: 0,
    };
    let done = session.receive(dataset, snapshot, input, &mut |progress| {
        if told.elapsed() > TELL_INTERVAL {
            told = Instant::now();
            let _ = bar.tell(progress);
        }
        match stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    bar.end();
    let received = done.map_err(of_store)?;
    match args.json {
        true => crate::tell_json(&received),
        false => Ok(()),
    }
}

/// The standard input, and how much of it was read.
struct Stdin {
    stream: File,
    stop: Arc<AtomicBool>,
    bar: Option<Bar>,
    bytes: u64,
}

impl Read for Stdin {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let (stream, broken_off) = (&self.stream, &Input::until(&self.stop));
        let len = Input { stream, broken_off }.read(bytes)?;
        self.bytes = self.bytes.saturating_add(len as u64);
        if let Some(bar) = &self.bar {
            bar.tell_bytes(self.bytes);
        }
        Ok(len)
    }
}
