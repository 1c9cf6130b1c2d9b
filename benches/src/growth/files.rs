//! Files of a store: what an operation costs, what memory is resident, and how long opening takes,
//! after a clean end, with the store's files in the page cache and without, and after a power cut
//! with a log as full as it gets before a checkpoint.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use razorfs::disk::{Disk, Media};
use razorfs::engine::OpenOptions;
use tempfile::TempDir;
use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::ROOT;

use super::{Curves, Growth, Series, Store, each, making, resident_mib, time, time_entries};
use crate::driver::{DEPTH_MAX, Message};
use crate::{Error, here};

const FILES_PER_DIR: u64 = 1000;
const LOOKUPS: u64 = 2000;
const MADE: u64 = 200;
/// Of the log, what is used when a checkpoint is due, at most.
const FULL: u64 = here::LOG_BYTES / 2 / 10 * 9;

/// A log whose written bytes are counted.
struct Counting {
    disk: Arc<dyn Disk>,
    written: Arc<AtomicU64>,
}

impl Disk for Counting {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.written.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.disk.write_at(offset, buf)
    }

    fn flush(&self) -> io::Result<()> {
        self.disk.flush()
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.allocate(offset, len)
    }

    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.trim(offset, len)
    }

    fn len_bytes(&self) -> u64 {
        self.disk.len_bytes()
    }

    fn available_bytes(&self) -> io::Result<u64> {
        self.disk.available_bytes()
    }
}

/// What has been made: directories of [`FILES_PER_DIR`] files each.
struct Made {
    dirs: Vec<u64>,
    extra: u64,
    rng: ChaCha8Rng,
}

fn name(dir: usize, number: u64) -> String {
    format!("file-{dir}-{number}.txt")
}

impl Made {
    fn fill(&mut self, store: &mut Store, files: u64) -> Result<(), Error> {
        while self.dirs.len() as u64 * FILES_PER_DIR < files {
            let at = self.dirs.len();
            let made = request::mkdir(ROOT, format!("dir{at}"), 0o755);
            let dir = store.driver.call(&made)?.nodeid;
            let files = making(dir, (0..FILES_PER_DIR).map(|number| name(at, number)));
            time_entries(&mut store.driver, &files)?;
            self.dirs.push(dir);
        }
        Ok(())
    }

    fn lookups(&mut self) -> Vec<Message> {
        let any = |_| {
            let at = self.rng.random_range(0..self.dirs.len());
            let dir = self.dirs.get(at).copied().unwrap_or(ROOT);
            let number = self.rng.random_range(0..FILES_PER_DIR);
            Message::new(&request::lookup(dir, name(at, number)))
        };
        (0..LOOKUPS).map(any).collect()
    }

    fn new_dir(&mut self, store: &mut Store) -> Result<u64, Error> {
        self.extra += 1;
        let made = request::mkdir(ROOT, format!("extra{}", self.extra), 0o755);
        Ok(store.driver.call(&made)?.nodeid)
    }
}

/// What operations cost in a store of so many files.
fn costs(curves: &mut Curves, store: &mut Store, made: &mut Made, at: u64) -> Result<(), Error> {
    let lookup = each(LOOKUPS, || {
        let lookups = made.lookups();
        Ok(time_entries(&mut store.driver, &lookups)?.0)
    })?;
    curves.add("lookup", at, lookup);
    let mut took: [Vec<Duration>; 4] = Default::default();
    for _ in 0..super::REPEATS {
        let dir = made.new_dir(store)?;
        let names = || (0..MADE).map(|number| format!("new-{number}"));
        let driver = &mut store.driver;
        let (creates, nodes) = time_entries(driver, &making(dir, names()))?;
        let writes: Vec<Message> = nodes.iter().map(|node| write(*node)).collect();
        let reads = nodes
            .iter()
            .map(|node| Message::new(&request::read(*node, 0, 0, 4096)));
        let reads: Vec<Message> = reads.collect();
        let unlinks = names().map(|name| Message::new(&request::unlink(dir, name)));
        let unlinks: Vec<Message> = unlinks.collect();
        // Handles hold no state: none needs to be opened.
        let times = [
            creates,
            time(driver, &writes)?,
            time(driver, &reads)?,
            time(driver, &unlinks)?,
        ];
        for (all, one) in took.iter_mut().zip(times) {
            all.push(one);
        }
    }
    let names = ["create", "write 4 KiB", "read 4 KiB", "unlink"];
    for (name, mut times) in names.into_iter().zip(took) {
        let cost = each(MADE, || Ok(times.pop().unwrap_or_default()))?;
        curves.add(name, at, cost);
    }
    Ok(())
}

fn write(node: u64) -> Message {
    Message::write(&request::write(node, 0, 0, &[0; 4096]), 4096)
}

/// Fills the log, and ends as a power cut would.
fn fill_log(run: &Growth, dir: TempDir, made: &mut Made) -> Result<TempDir, Error> {
    let written = Arc::new(AtomicU64::new(0));
    let options = OpenOptions {
        background: false,
        ..run.options()
    };
    let mut store = Store::open(dir, options, |media| Media {
        wal: Arc::new(Counting {
            disk: media.wal,
            written: written.clone(),
        }),
        ..media
    })?;
    let before = written.load(Ordering::Relaxed);
    while written.load(Ordering::Relaxed) - before < FULL {
        let dir = made.new_dir(&mut store)?;
        let files = making(dir, (0..1000).map(|number| format!("log-{number}")));
        store.driver.run(&files, DEPTH_MAX)?;
        store.driver.call(&request::syncfs())?;
    }
    Ok(store.cut())
}

/// Has the system forget what it keeps of a store's files, as after it was started anew.
fn forget(store: &Path) -> Result<(), Error> {
    for entry in std::fs::read_dir(store)? {
        let file = File::open(entry?.path())?;
        // What is not on the disk yet would stay.
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}

/// How long opening takes; the store is open afterwards.
fn opening(
    run: &Growth,
    curves: &mut Curves,
    store: Store,
    made: &mut Made,
    at: u64,
) -> Result<Store, Error> {
    let open = |dir| Store::open(dir, run.options(), |media| media);
    let store = open(store.close()?)?;
    let took = store.opened.as_secs_f64() * 1e3;
    curves.add("after a clean end", at, took);
    let dir = store.close()?;
    forget(dir.path())?;
    let store = open(dir)?;
    let took = store.opened.as_secs_f64() * 1e3;
    curves.add("after a clean end, nothing cached", at, took);
    let store = open(fill_log(run, store.close()?, made)?)?;
    let took = store.opened.as_secs_f64() * 1e3;
    let report = store.volume.store().recovery_report();
    eprintln!(
        "{} transactions applied in {:?}, before the rest of opening",
        report.applied, report.took
    );
    curves.add("after a power cut, log full", at, took);
    Ok(store)
}

/// From 1000 files on, ten times as many each time.
pub fn run(run: &Growth) -> Result<Vec<Series>, Error> {
    let mut cost = Curves::new("An operation in a store of many files", "files", "us");
    let mut memory = Curves::new("Memory of a store of many files", "files", "MiB");
    let mut open = Curves::new("Opening a store of many files", "files", "ms");
    let base = resident_mib(std::process::id());
    let mut store = Store::new(run)?;
    let mut made = Made {
        dirs: Vec::new(),
        extra: 0,
        rng: ChaCha8Rng::seed_from_u64(1),
    };
    let mut files = FILES_PER_DIR;
    while files <= run.files {
        made.fill(&mut store, files)?;
        store.volume.store().checkpoint()?;
        costs(&mut cost, &mut store, &mut made, files)?;
        let now = resident_mib(std::process::id());
        memory.add("resident, its own", files, now.0 - base.0);
        memory.add("resident, mapped files", files, now.1 - base.1);
        store = opening(run, &mut open, store, &mut made, files)?;
        files *= 10;
    }
    store.close()?;
    Ok([cost, memory, open]
        .into_iter()
        .flat_map(|one| one.all)
        .collect())
}
