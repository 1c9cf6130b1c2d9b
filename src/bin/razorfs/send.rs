//! `razorfs send STORE DATASET@SNAPSHOT`: a snapshot as a stream.

use std::io::{BufWriter, IsTerminal};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use razorfs::engine::{OpenOptions, Store};
use razorfs::format::record::StreamPosition;
use razorfs::stream::{Progress, send, token};

type Error = Box<dyn std::error::Error>;

/// Writes a snapshot to the standard output, for `razorfs receive`. The store must not be in use.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// The store's directory.
    store: PathBuf,
    /// DATASET@SNAPSHOT
    #[arg(required_unless_present = "resume")]
    name: Option<String>,
    /// Write only what changed since this earlier snapshot of the dataset, which the receiver has.
    #[arg(long, value_name = "DATASET@SNAPSHOT", conflicts_with = "resume")]
    from: Option<String>,
    /// Write what a receiver is missing that was cut off: see `razorfs receive --resume-token`.
    #[arg(long, value_name = "TOKEN", conflicts_with = "name")]
    resume: Option<String>,
    /// Write to a terminal, too.
    #[arg(long)]
    force: bool,
}

/// Writes it.
///
/// # Errors
/// When the store cannot be opened or read, or the stream not be written.
pub fn run(args: &SendArgs) -> Result<(), Error> {
    let out = std::io::stdout();
    if out.is_terminal() && !args.force {
        return Err("a stream is not for a terminal: redirect it to a file or a program".into());
    }
    let options = OpenOptions {
        read_only: true,
        allow_volatile: true,
        background: false,
        ..OpenOptions::default()
    };
    let store = Store::open(&args.store, options)?;
    write(&store, args, out.lock()).map_err(|error| named(&args.store, &*error))
}

fn write(store: &Arc<Store>, args: &SendArgs, out: impl std::io::Write) -> Result<(), Error> {
    let (sending, position) = match (&args.resume, &args.name) {
        (Some(text), _) => {
            let state = token::decode(text).ok_or("that is no token, or not all of it")?;
            (store.send_rest(&state)?, state.position)
        }
        (None, Some(name)) => {
            let sending = store.send(name, args.from.as_deref())?;
            (sending, StreamPosition::START)
        }
        (None, None) => return Err("a snapshot's name is missing".into()),
    };
    // What a whole stream takes is not known before; the content is most of it.
    let total = match sending.has_base() {
        false => sending.counts()?.allocated_bytes,
        true => 0,
    };
    let bar = Bar::new(total);
    let out = BufWriter::with_capacity(1 << 20, out);
    let done = send(&sending, position, out, &mut |progress| bar.tell(progress));
    bar.end();
    done?;
    Ok(())
}

/// An error of a store.
pub fn named(store: &Path, error: &dyn std::error::Error) -> Error {
    format!("{}: {error}", store.display()).into()
}

/// Says on a terminal how far a stream got.
pub struct Bar(ProgressBar);

impl Bar {
    /// Of a stream of about `total` bytes; 0 when that is not known.
    pub fn new(total: u64) -> Bar {
        if !std::io::stderr().is_terminal() {
            return Bar(ProgressBar::hidden());
        }
        let (bar, style) = match total {
            0 => (
                ProgressBar::new_spinner(),
                "{spinner} {bytes} ({bytes_per_sec}) {msg}",
            ),
            total => (
                ProgressBar::new(total),
                "{wide_bar} {bytes} of about {total_bytes} ({bytes_per_sec}, {eta}) {msg}",
            ),
        };
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Bar(bar)
    }

    /// Shows it.
    pub fn tell(&self, progress: Progress) -> ControlFlow<()> {
        self.0.set_position(progress.bytes);
        self.0.set_message(format!("{} inodes", progress.inodes));
        ControlFlow::Continue(())
    }

    /// Leaves it on the terminal.
    pub fn end(&self) {
        self.0.abandon();
    }
}
