//! `razorfs send STORE DATASET@SNAPSHOT`: a snapshot as a stream.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use razorfs::control::operations::Stream;
use razorfs::control::{self, SendWhat, Session, SessionError, StorePlace};
use razorfs::stream::{Progress, StreamError, send};

use crate::store::ControlArgs;

type Error = Box<dyn std::error::Error>;

/// Writes a snapshot to the standard output, for `razorfs receive`. Where a daemon serves the store, it
/// sends, and guests go on meanwhile.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// The store's directory. With an address for --control it is not looked at.
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
    #[command(flatten)]
    control: ControlArgs,
}

/// Writes it.
///
/// # Errors
/// When the store can be neither reached nor opened, or not be read, or the stream not be written.
pub fn run(args: &SendArgs) -> Result<(), Error> {
    let out = std::io::stdout();
    if out.is_terminal() && !args.force {
        return Err("a stream is not for a terminal: redirect it to a file or a program".into());
    }
    let what = match (&args.resume, &args.name) {
        (Some(token), _) => SendWhat::Rest {
            token: token.clone(),
        },
        (None, Some(name)) => SendWhat::Snapshot {
            name: name.clone(),
            from: args.from.clone(),
        },
        (None, None) => return Err("a snapshot's name is missing".into()),
    };
    let place = StorePlace {
        store: args.store.clone(),
        control: args.control.place(),
        allow_volatile: true,
    };
    let of_store = |error: SessionError| control::named(&args.store, &error);
    let session = Session::begin(&place, true).map_err(of_store)?;
    let mut out = BufWriter::with_capacity(1 << 20, out.lock());
    let done = match &session {
        Session::Served(_) => {
            let bar = Bar::new(0);
            let mut out = Counted {
                out: &mut out,
                bytes: 0,
                bar: &bar,
            };
            let done = session.send(&what, &mut out, write);
            bar.end();
            done
        }
        Session::Opened(_) => session.send(&what, &mut out, write),
    };
    let ended = session.end();
    done.map_err(of_store)?;
    out.flush()?;
    ended.map_err(of_store)?;
    Ok(())
}

/// Writes a snapshot of a store that is open here.
fn write(stream: Stream, out: &mut dyn Write) -> Result<(), StreamError> {
    // What a whole stream takes is not known before; the content is most of it.
    let total = match stream.sending.has_base() {
        false => stream.sending.counts()?.allocated_bytes,
        true => 0,
    };
    let bar = Bar::new(total);
    let mut tell = |progress| bar.tell(progress);
    let done = send(&stream.sending, stream.position, out, &mut tell);
    bar.end();
    done.map(drop)
}

/// Says how much was written.
struct Counted<'a> {
    out: &'a mut dyn Write,
    bytes: u64,
    bar: &'a Bar,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes = self.bytes.saturating_add(written as u64);
        self.bar.0.set_position(self.bytes);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Says on a terminal how far a stream got.
#[derive(Clone)]
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

    /// Shows that, of which no more is known.
    pub fn tell_bytes(&self, bytes: u64) {
        self.0.set_position(bytes);
    }

    /// Leaves it on the terminal.
    pub fn end(&self) {
        self.0.abandon();
    }
}
