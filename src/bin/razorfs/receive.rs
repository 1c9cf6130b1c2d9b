//! `razorfs receive STORE DATASET`: a stream of `razorfs send` becomes a snapshot.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Read};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use razorfs::engine::{OpenOptions, Store};
use razorfs::stream::{receive, token};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::send::{Bar, named};

type Error = Box<dyn std::error::Error>;

/// How often a terminal is told how far it is.
const TELL_INTERVAL: Duration = Duration::from_millis(100);

/// How often a sender that is silent is waited for before a signal is looked for.
const SILENCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// Reads a snapshot from the standard input, as `razorfs send` writes it: into a new dataset, or,
/// when it was sent `--from` another snapshot, into the dataset that has that one and was not
/// changed since. The dataset shows it once all of it is there. What was received before an
/// interruption (Ctrl-C, SIGTERM, a stream that ends) stays, and can be gone on with. The store must
/// not be in use.
#[derive(Debug, Args)]
pub struct ReceiveArgs {
    /// The store's directory.
    store: PathBuf,
    /// DATASET, or DATASET@SNAPSHOT to call the snapshot otherwise than the sender does.
    name: String,
    /// Print what `razorfs send --resume` needs to go on with a receive that was cut off.
    #[arg(long, conflicts_with = "abort")]
    resume_token: bool,
    /// Drop what was received before a receive was cut off.
    #[arg(long)]
    abort: bool,
    /// Accept a store on a file system that does not survive a power cut.
    #[arg(long)]
    allow_volatile: bool,
}

/// Reads it.
///
/// # Errors
/// When the store cannot be opened or refuses, or the stream is damaged or ends too early.
pub fn run(args: &ReceiveArgs) -> Result<(), Error> {
    let options = OpenOptions {
        read_only: args.resume_token,
        allow_volatile: args.allow_volatile,
        background: !args.resume_token,
        ..OpenOptions::default()
    };
    let input = std::io::stdin();
    if !args.resume_token && !args.abort && input.is_terminal() {
        return Err("a stream does not come from a terminal: see razorfs send".into());
    }
    let stop = crate::stop_on_signals()?;
    let store = crate::open(&args.store, options)?;
    let done = act(&store, args, &stop).map_err(|error| named(&args.store, &*error));
    let closed = store.close().map_err(|error| named(&args.store, &error));
    done?;
    closed
}

fn act(store: &Arc<Store>, args: &ReceiveArgs, stop: &AtomicBool) -> Result<(), Error> {
    let (dataset, snapshot) = match args.name.split_once('@') {
        Some((dataset, snapshot)) => (dataset, Some(snapshot)),
        None => (args.name.as_str(), None),
    };
    if args.abort {
        store.abort_receive(dataset)?;
        store.reap(&|| stop.load(Ordering::Relaxed))?;
        return Ok(());
    }
    if args.resume_token {
        let state = store.receive_record(dataset)?;
        let state = state.ok_or("no receive was cut off")?;
        crate::tell(&format!("{}\n", token::encode(&state)));
        return Ok(());
    }
    let bar = Bar::new(0);
    let mut told = Instant::now();
    let stream = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let input = BufReader::with_capacity(1 << 20, Input { stream, stop });
    let done = receive(store, (dataset, snapshot), input, &mut |progress| {
        if told.elapsed() > TELL_INTERVAL {
            told = Instant::now();
            let _ = bar.tell(progress);
        }
        match stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    if let Ok(progress) = &done {
        let _ = bar.tell(*progress);
    }
    bar.end();
    done?;
    Ok(())
}

/// A stream that ends with an error when it is broken off, though its sender may be silent for as
/// long as it likes.
pub struct Input<'a> {
    /// The stream.
    pub stream: File,
    /// What breaks it off.
    pub stop: &'a AtomicBool,
}

impl Read for Input<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                // Who is told `Interrupted` reads again.
                return Err(io::Error::other("broken off by a signal"));
            }
            let mut events = [PollFd::new(&self.stream, PollFlags::IN)];
            match poll(&mut events, Some(&SILENCE)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return self.stream.read(bytes),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
