//! `razorfs extract STORE DATASET TARGET`: what is in a dataset or a snapshot goes out.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clap::{Args, ValueEnum};
use razorfs::archive::{ArchiveError, Summary, Tell};
use razorfs::control::{Archived, ExtractTo, Session, SessionError, StorePlace, named};

use crate::archive::{Bar, Outcome, WHOLE_FILES, raise_open_files, tell_outcome};
use crate::store::ControlArgs;

type Error = Box<dyn std::error::Error>;

/// Extracts a dataset or a snapshot to a directory of the host, or as a tar stream: all files with
/// their modes, times, extended attributes, ACLs, hard links and holes, and as root with their
/// owners; device nodes and fifos, too. Where a daemon serves the store, it extracts, and guests go on
/// meanwhile: of a dataset that changes comes what it was at the beginning.
#[derive(Debug, Args)]
pub struct ExtractArgs {
    /// The store's directory. With an address for --control it is not looked at.
    store: PathBuf,
    /// DATASET or DATASET@SNAPSHOT
    name: String,
    /// A directory, which is made, or is empty; a new file for a tar stream, with --as tar or a name
    /// that ends in .tar; or - for a tar stream to the standard output.
    target: PathBuf,
    /// What the target is, if its name does not say it.
    #[arg(long = "as", value_enum, value_name = "KIND")]
    kind: Option<Kind>,
    /// Extract what is at this path of the dataset.
    #[arg(long, value_name = "PATH")]
    path: Option<PathBuf>,
    /// Print what was extracted as JSON; to the standard error when the stream goes to the standard
    /// output.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    control: ControlArgs,
}

/// What is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A directory.
    Directory,
    /// A tar stream.
    Tar,
}

/// Extracts it.
///
/// # Errors
/// When the store can be neither reached nor opened, or something not be read or made.
pub fn run(args: &ExtractArgs) -> Result<(), Error> {
    let is_stdout = args.target == Path::new("-");
    if is_stdout && io::stdout().is_terminal() {
        return Err(
            "a tar stream is not for a terminal: redirect it to a file or a program".into(),
        );
    }
    if !is_stdout && kind(args) == Kind::Tar && args.target.symlink_metadata().is_ok() {
        return Err(format!("{}: File exists: name a new one", args.target.display()).into());
    }
    let stop = crate::stop_on_signals()?;
    raise_open_files();
    let place = StorePlace {
        store: args.store.clone(),
        control: args.control.place(),
        allow_volatile: true,
    };
    let of_store = |error: SessionError| named(&args.store, &error);
    let session = Session::begin(&place, true).map_err(of_store)?;
    let extracted = extract(args, &session, &stop);
    let ended = session.end();
    let (summary, done) = extracted.map_err(of_store)?;
    ended.map_err(of_store)?;
    if is_stdout {
        // The stream is there already.
        if args.json {
            eprintln!("{}", serde_json::to_string_pretty(&summary)?);
        }
        return Ok(done.map_err(of_store)?);
    }
    tell_outcome(&Outcome {
        store: &args.store,
        verb: "extracted",
        summary: &summary,
        json: args.json,
        left: match kind(args) {
            Kind::Directory => WHOLE_FILES,
            Kind::Tar => "was removed: a part of a stream is none",
        },
        done,
    })
}

fn kind(args: &ExtractArgs) -> Kind {
    let is_tar = args.target.extension().is_some_and(|end| end == "tar");
    args.kind.unwrap_or(match is_tar {
        true => Kind::Tar,
        false => Kind::Directory,
    })
}

fn extract(
    args: &ExtractArgs,
    session: &Session,
    stop: &AtomicBool,
) -> Result<Archived, SessionError> {
    let path = args.path.as_deref().unwrap_or(Path::new(""));
    let path = path.as_os_str().as_bytes();
    let mut bar = Bar::new(0, stop);
    let tell = &mut |summary: &Summary| bar.tell(summary);
    let to_tar = |output: &mut dyn Write, tell: &mut Tell<'_>| {
        let mut output = BufWriter::with_capacity(1 << 20, output);
        let to = ExtractTo::Stream(&mut output);
        let (summary, done) = session.extract(&args.name, path, to, stop, tell)?;
        let flushed = output.flush().map_err(ArchiveError::Write);
        Ok((summary, done.and(flushed.map_err(SessionError::from))))
    };
    let done = if args.target == Path::new("-") {
        to_tar(&mut io::stdout().lock(), tell)
    } else if kind(args) == Kind::Directory {
        let to = ExtractTo::Directory(&args.target);
        session.extract(&args.name, path, to, stop, tell)
    } else {
        let mut file = NewFile {
            path: &args.target,
            file: None,
        };
        let done = to_tar(&mut file, tell).map(|(summary, done)| {
            let synced = file.sync().map_err(ArchiveError::Write);
            (summary, done.and(synced.map_err(SessionError::from)))
        });
        if !matches!(done, Ok((_, Ok(())))) {
            file.remove();
        }
        done
    };
    bar.end();
    done
}

/// A file that is made when something is written to it: not for what is refused.
struct NewFile<'a> {
    path: &'a Path,
    file: Option<File>,
}

impl NewFile<'_> {
    fn named(&self, error: &io::Error) -> io::Error {
        let message = format!("{}: {error}", self.path.display());
        io::Error::new(error.kind(), message)
    }

    /// A part of a stream would look like one.
    fn remove(&self) {
        if self.file.is_some()
            && let Err(error) = std::fs::remove_file(self.path)
        {
            log::warn!("{}", self.named(&error));
        }
    }

    fn sync(&self) -> io::Result<()> {
        let synced = self.file.as_ref().map_or(Ok(()), File::sync_all);
        synced.map_err(|error| self.named(&error))
    }
}

impl Write for NewFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.file.is_none() {
            let new = OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(self.path);
            self.file = Some(new.map_err(|error| self.named(&error))?);
        }
        match &mut self.file {
            Some(file) => file.write(bytes).map_err(|error| self.named(&error)),
            None => Ok(0),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
