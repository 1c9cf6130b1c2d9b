//! What snapshots and clones cost: time and space, of datasets of different sizes, and of many
//! clones of one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use razorfs::engine::{Cred, NewInode, OpenOptions, Store, Volume};
use razorfs::format::id::Ino;

use crate::{Error, here, work_dir};

/// Measures what snapshots and clones cost.
#[derive(clap::Args)]
pub struct Snapshots {
    /// Files of the datasets that snapshots and clones are made of.
    #[arg(long, value_delimiter = ',', default_value = "1000,100000,1000000")]
    files: Vec<u64>,
    /// How many are made of each.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Clones of a dataset of `cloned_files`, all there at a time.
    #[arg(long, default_value_t = 1000)]
    clones: usize,
    /// Files of the dataset that they are of.
    #[arg(long, default_value_t = 100_000)]
    cloned_files: u64,
    /// Where the stores go, on the disk that is to be measured.
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
}

const FILES_PER_DIR: u64 = 1000;

fn new(mode: u32) -> NewInode<'static> {
    NewInode {
        mode,
        umask: 0,
        rdev: 0,
        xattrs: &[],
        supplementary_gid: None,
    }
}

fn fill(volume: &Volume, files: u64) -> Result<(), Error> {
    for dir in 0..files.div_ceil(FILES_PER_DIR) {
        let name = format!("dir-{dir}");
        let mode = libc::S_IFDIR | 0o755;
        let made = volume.create(Cred::default(), Ino::ROOT, name.as_bytes(), &new(mode))?;
        for file in 0..FILES_PER_DIR.min(files - dir * FILES_PER_DIR) {
            let name = format!("file-{file}.txt");
            let mode = libc::S_IFREG | 0o644;
            volume.create(Cred::default(), made.ino, name.as_bytes(), &new(mode))?;
        }
    }
    Ok(())
}

fn open(dir: &Path) -> Result<Arc<Volume>, Error> {
    // Checkpoints when it is said, so that what each added can be told.
    let options = OpenOptions {
        background: false,
        ..OpenOptions::default()
    };
    here::open(dir, options, |media| media)
}

/// Times, and the bytes that each took.
struct Cost {
    median: Duration,
    slowest: Duration,
    bytes: u64,
}

impl Cost {
    fn row(&self, what: &str, files: u64, count: usize) -> String {
        let [median, slowest] = [self.median, self.slowest].map(|took| took.as_secs_f64() * 1e3);
        let kib = self.bytes.div_ceil(1024);
        format!("| {what} | {files} | {count} | {median:.2} | {slowest:.2} | {kib} |")
    }
}

fn cost(
    store: &Store,
    count: usize,
    mut act: impl FnMut(usize) -> Result<(), Error>,
) -> Result<Cost, Error> {
    store.checkpoint()?;
    let before = store.metadata_bytes();
    let mut times = Vec::new();
    for number in 0..count {
        let began = Instant::now();
        act(number)?;
        times.push(began.elapsed());
        // As the dataset goes on: what each shares with the next is written anew.
        store.checkpoint()?;
    }
    let bytes = store.metadata_bytes().saturating_sub(before) / count.max(1) as u64;
    times.sort();
    Ok(Cost {
        median: times.get(count / 2).copied().unwrap_or_default(),
        slowest: times.last().copied().unwrap_or_default(),
        bytes,
    })
}

/// Measures, and prints a table.
///
/// # Errors
/// When a store cannot be made or used.
pub fn run(run: &Snapshots) -> Result<(), Error> {
    println!("| of | files | made | median, ms | slowest, ms | KiB each |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for files in &run.files {
        let dir = work_dir(&run.dir)?;
        here::make(dir.path(), here::LOG_BYTES)?;
        let volume = open(dir.path())?;
        fill(&volume, *files)?;
        let store = volume.store();
        let snapshots = cost(store, run.rounds, |number| {
            store.snapshot(&format!("main@s{number}"))?;
            Ok(())
        })?;
        println!("{}", snapshots.row("snapshots", *files, run.rounds));
        let clones = cost(store, run.rounds, |number| {
            store.clone_dataset("main@s0", &format!("c{number}"))?;
            Ok(())
        })?;
        println!("{}", clones.row("clones", *files, run.rounds));
        store.close()?;
    }
    many(run)
}

/// Many clones at a time, in each of which a file is made.
fn many(run: &Snapshots) -> Result<(), Error> {
    let dir = work_dir(&run.dir)?;
    here::make(dir.path(), here::LOG_BYTES)?;
    let volume = open(dir.path())?;
    fill(&volume, run.cloned_files)?;
    let store = volume.store();
    store.snapshot("main@golden")?;
    let made = cost(store, run.clones, |number| {
        store.clone_dataset("main@golden", &format!("c{number}"))?;
        Ok(())
    })?;
    println!("{}", made.row("clones", run.cloned_files, run.clones));
    let changed = cost(store, run.clones, |number| {
        let clone = store.volume(&format!("c{number}"))?;
        let mode = libc::S_IFREG | 0o644;
        clone.create(Cred::default(), Ino::ROOT, b"own", &new(mode))?;
        Ok(())
    })?;
    let what = "a file made in each clone";
    println!("{}", changed.row(what, run.cloned_files, run.clones));
    store.close()?;
    Ok(())
}
