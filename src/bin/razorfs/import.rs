//! `razorfs import STORE SOURCE`: a directory of the host or a tar stream comes into a dataset.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use razorfs::archive::{ImportHow, Summary, WalkHow, expected};
use razorfs::control::{Archived, ImportFrom, Session, SessionError, StorePlace, named};

use crate::archive::{Bar, Outcome, WHOLE_FILES, raise_open_files, tell_outcome};
use crate::store::ControlArgs;

type Error = Box<dyn std::error::Error>;

/// Imports a directory of the host, or a tar stream, into a dataset: all files with their owners,
/// modes, times, extended attributes, ACLs, hard links and holes; device nodes and fifos, too.
/// Symlinks are never followed; sockets are left out. What was imported before an interruption
/// (Ctrl-C, SIGTERM) or an error stays, each file whole. Where a daemon serves the store, it imports,
/// and guests go on meanwhile; only one that keeps for long what it was told may not have the dataset
/// mounted.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The store's directory. With an address for --control it is not looked at.
    store: PathBuf,
    /// A directory, a file with a tar stream, or - for a tar stream from the standard input.
    source: PathBuf,
    /// The dataset.
    #[arg(long, value_name = "NAME", default_value = "main")]
    dataset: String,
    /// A directory in the dataset to import into, made when it is not there; else its root.
    #[arg(long, value_name = "PATH")]
    to: Option<PathBuf>,
    /// Import beside what is there already; what has the same name is replaced, directories are
    /// merged.
    #[arg(long)]
    merge: bool,
    /// Leave out what is mounted in the directory.
    #[arg(long)]
    one_file_system: bool,
    /// Print what was imported as JSON.
    #[arg(long)]
    json: bool,
    /// Accept a store on a file system that does not survive a power cut.
    #[arg(long)]
    allow_volatile: bool,
    #[command(flatten)]
    control: ControlArgs,
}

/// What is imported.
enum Source {
    Directory,
    Stream(File, u64),
}

/// Imports it.
///
/// # Errors
/// When the store can be neither reached nor opened, the source not be read, or something not be made.
pub fn run(args: &ImportArgs) -> Result<(), Error> {
    let source = open(args)?;
    let stop = crate::stop_on_signals()?;
    raise_open_files();
    let place = StorePlace {
        store: args.store.clone(),
        control: args.control.place(),
        allow_volatile: args.allow_volatile,
    };
    let of_store = |error: SessionError| named(&args.store, &error);
    let session = Session::begin_long(&place).map_err(of_store)?;
    let done = import(args, &session, &source, &stop);
    let ended = session.end();
    let (summary, done) = done.map_err(of_store)?;
    ended.map_err(of_store)?;
    tell_outcome(&Outcome {
        store: &args.store,
        verb: "imported",
        summary: &summary,
        json: args.json,
        left: WHOLE_FILES,
        done,
    })
}

fn open(args: &ImportArgs) -> Result<Source, Error> {
    let named = |error: io::Error| format!("{}: {error}", args.source.display());
    if args.source == Path::new("-") {
        let input = io::stdin();
        if input.is_terminal() {
            return Err("a tar stream does not come from a terminal".into());
        }
        return Ok(Source::Stream(
            File::from(input.as_fd().try_clone_to_owned()?),
            0,
        ));
    }
    let found = std::fs::metadata(&args.source).map_err(named)?;
    if found.is_dir() {
        return Ok(Source::Directory);
    }
    let file = File::open(&args.source).map_err(named)?;
    Ok(Source::Stream(file, found.len()))
}

fn import(
    args: &ImportArgs,
    session: &Session,
    source: &Source,
    stop: &AtomicBool,
) -> Result<Archived, SessionError> {
    // One that is elsewhere is not below the source.
    let own = std::fs::metadata(&args.store).ok();
    let to = args.to.as_deref().unwrap_or(Path::new(""));
    let how = ImportHow {
        to: to.as_os_str().as_bytes().to_vec(),
        merge: args.merge,
        walk: WalkHow {
            one_file_system: args.one_file_system,
            but: own.map(|own| (own.dev(), own.ino())),
        },
    };
    match source {
        Source::Stream(stream, len) => {
            let mut bar = Bar::new(*len, stop);
            let tell = &mut |summary: &Summary| bar.tell(summary);
            let from = ImportFrom::Stream(stream);
            let done = session.import(&args.dataset, &how, from, stop, tell);
            bar.end();
            done
        }
        Source::Directory => import_tree(args, session, &how, stop),
    }
}

fn import_tree(
    args: &ImportArgs,
    session: &Session,
    how: &ImportHow,
    stop: &AtomicBool,
) -> Result<Archived, SessionError> {
    let ended = AtomicBool::new(false);
    let is_over = || ended.load(Ordering::Relaxed) || stop.load(Ordering::Relaxed);
    let is_over = &is_over;
    std::thread::scope(|scope| {
        let mut bar = Bar::new(0, stop);
        if let Some(total) = bar.total() {
            let (source, walk) = (&args.source, how.walk);
            // What it takes is not known before; looking for that goes ahead of importing.
            scope.spawn(move || {
                if let Some(found) = expected(source, walk, is_over) {
                    total.set_length(found.bytes);
                }
            });
        }
        let tell = &mut |summary: &Summary| bar.tell(summary);
        let from = ImportFrom::Directory(&args.source);
        let done = session.import(&args.dataset, how, from, stop, tell);
        ended.store(true, Ordering::Relaxed);
        bar.end();
        done
    })
}
