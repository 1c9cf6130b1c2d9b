//! `razorfs extract STORE DATASET TARGET`: what is in a dataset or a snapshot goes out.

use std::fs::{File, OpenOptions as FileOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clap::{Args, ValueEnum};
use razorfs::archive::{ArchiveError, Summary, extract_to_directory, extract_to_tar};
use razorfs::engine::{OpenOptions, Volume};

use crate::archive::{Bar, Outcome, check_not_served, raise_open_files, tell_outcome};

type Error = Box<dyn std::error::Error>;

/// Extracts a dataset or a snapshot to a directory of the host, or as a tar stream: all files with
/// their modes, times, extended attributes, ACLs, hard links and holes, and as root with their
/// owners; device nodes and fifos, too. The store must not be in use.
#[derive(Debug, Args)]
pub struct ExtractArgs {
    /// The store's directory.
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
/// When the store cannot be opened, or something not be read or made.
pub fn run(args: &ExtractArgs) -> Result<(), Error> {
    let is_stdout = args.target == Path::new("-");
    if is_stdout && io::stdout().is_terminal() {
        return Err(
            "a tar stream is not for a terminal: redirect it to a file or a program".into(),
        );
    }
    check_not_served(&args.store, "extract")?;
    let stop = crate::stop_on_signals()?;
    raise_open_files();
    let options = OpenOptions {
        read_only: true,
        allow_volatile: true,
        background: false,
        ..OpenOptions::default()
    };
    let store = crate::open(&args.store, options)?;
    let volume = store.volume(&args.name)?;
    let (summary, done) = extract(args, &volume, &stop)?;
    if is_stdout {
        // The stream is there already.
        if args.json {
            eprintln!("{}", serde_json::to_string_pretty(&summary)?);
        }
        return Ok(done?);
    }
    tell_outcome(&Outcome {
        store: &args.store,
        verb: "extracted",
        summary: &summary,
        json: args.json,
        done,
    })
}

fn extract(
    args: &ExtractArgs,
    volume: &Volume,
    stop: &AtomicBool,
) -> Result<(Summary, Result<(), ArchiveError>), Error> {
    let path = args.path.as_deref().unwrap_or(Path::new(""));
    let path = path.as_os_str().as_bytes();
    let mut bar = Bar::new(0, stop);
    let tell = &mut |summary: &Summary| bar.tell(summary);
    let is_tar = args.target.extension().is_some_and(|end| end == "tar");
    let kind = args.kind.unwrap_or(match is_tar {
        true => Kind::Tar,
        false => Kind::Directory,
    });
    let done = if args.target == Path::new("-") {
        to_tar(volume, path, &mut io::stdout().lock(), tell)
    } else if kind == Kind::Directory {
        extract_to_directory(volume, path, &args.target, tell)
    } else {
        let named = |error| format!("{}: {error}", args.target.display());
        let new = FileOptions::new()
            .write(true)
            .create_new(true)
            .open(&args.target);
        let mut file: File = new.map_err(named)?;
        let (summary, done) = to_tar(volume, path, &mut file, tell);
        file.sync_all().map_err(named)?;
        (summary, done)
    };
    bar.end();
    Ok(done)
}

fn to_tar(
    volume: &Volume,
    path: &[u8],
    output: &mut dyn Write,
    tell: &mut razorfs::archive::Tell<'_>,
) -> (Summary, Result<(), ArchiveError>) {
    let mut output = BufWriter::with_capacity(1 << 20, output);
    let (summary, done) = extract_to_tar(volume, path, &mut output, tell);
    let flushed = output.flush().map_err(ArchiveError::Write);
    (summary, done.and(flushed))
}
