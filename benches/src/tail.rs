//! How long the slowest creates take while checkpoints are made, and while none is.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use razorfs::engine::{OpenOptions, Volume};
use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::{EntryOut, ROOT};
use zerocopy::FromBytes;

use crate::driver::{Driver, Message};
use crate::results::{About, Found, Results};
use crate::{Error, here, work_dir};

/// No checkpoint comes by itself: the log is larger than what is done.
const LOG_BYTES: u64 = 4 << 30;
const FILES_PER_DIR: u64 = 1000;

/// Measures creates while checkpoints are made.
#[derive(clap::Args)]
pub struct Tails {
    /// Creates of a round.
    #[arg(long, default_value_t = 20_000)]
    creates: u64,
    /// Rounds, with checkpoints and without in turn.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Creates between the end of a checkpoint and the next one.
    #[arg(long, default_value_t = 2000)]
    every: u64,
    /// Where the store goes, on the disk that is to be measured.
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// Write what was found here, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// How long operations took, from the quickest to the slowest.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Tail {
    /// Under what circumstances.
    pub name: String,
    /// Operations.
    pub count: usize,
    /// The slowest but half of them, in microseconds.
    pub p50_us: f64,
    /// But 1 in 100.
    pub p99_us: f64,
    /// But 1 in 1000.
    pub p999_us: f64,
    /// The slowest.
    pub max_us: f64,
}

/// Of [`Tail`]s.
pub const TAILS: &str = "\
| creates | how many | median us | p99 us | p99.9 us | slowest us |
| --- | --- | --- | --- | --- | --- |";

impl std::fmt::Display for Tail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "| {} | {} | {:.1} | {:.1} | {:.1} | {:.1} |",
            self.name, self.count, self.p50_us, self.p99_us, self.p999_us, self.max_us
        )
    }
}

impl Tail {
    fn of(name: &str, mut times: Vec<Duration>) -> Tail {
        times.sort_unstable();
        let at = |per_mille: usize| {
            let place = (times.len() * per_mille / 1000).min(times.len().saturating_sub(1));
            let time = times.get(place).copied().unwrap_or_default();
            time.as_secs_f64() * 1e6
        };
        Tail {
            name: name.into(),
            count: times.len(),
            p50_us: at(500),
            p99_us: at(990),
            p999_us: at(999),
            max_us: at(1000),
        }
    }
}

/// What the thread that makes checkpoints and the one that creates know of each other.
#[derive(Default)]
struct Shared {
    wanted: AtomicBool,
    ended: AtomicBool,
    running: AtomicBool,
    creates: AtomicU64,
    checkpoints: AtomicU64,
}

/// Makes a checkpoint after every so many creates, while that is wanted.
fn checkpoints(volume: &Volume, shared: &Shared, every: u64) -> Result<(), String> {
    let mut next = every;
    while !shared.ended.load(Ordering::Acquire) {
        let due = shared.creates.load(Ordering::Acquire) >= next;
        if !due || !shared.wanted.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_micros(200));
            continue;
        }
        shared.running.store(true, Ordering::Release);
        let made = volume.store().checkpoint();
        shared.running.store(false, Ordering::Release);
        made.map_err(|error| error.to_string())?;
        shared.checkpoints.fetch_add(1, Ordering::Relaxed);
        next = shared.creates.load(Ordering::Acquire) + every;
    }
    Ok(())
}

/// One thread's creates, those beside a checkpoint apart.
struct Creates<'a> {
    driver: Driver,
    shared: &'a Shared,
    dirs: u64,
    beside: Vec<Duration>,
    alone: Vec<Duration>,
}

impl Creates<'_> {
    fn round(&mut self, count: u64) -> Result<(), Error> {
        let mut nodes = Vec::new();
        let mut dir = 0;
        for number in 0..count {
            if number % FILES_PER_DIR == 0 {
                self.dirs += 1;
                let made = request::mkdir(ROOT, format!("dir{}", self.dirs), 0o755);
                dir = self.driver.call(&made)?.nodeid;
            }
            let name = format!("a-name-of-usual-length-{number}");
            let create = Message::new(&request::mknod(dir, name, libc::S_IFREG | 0o644, 0));
            let before = self.shared.running.load(Ordering::Acquire);
            let began = Instant::now();
            self.driver
                .each(std::slice::from_ref(&create), 1, |body| nodes.push(body))?;
            let took = began.elapsed();
            let after = self.shared.running.load(Ordering::Acquire);
            match before || after {
                true => self.beside.push(took),
                false => self.alone.push(took),
            }
            self.shared.creates.fetch_add(1, Ordering::AcqRel);
        }
        let forget = |body: &Vec<u8>| {
            let (entry, _) = EntryOut::read_from_prefix(body).ok()?;
            Some(Message::new(&request::forget(entry.nodeid, 1)))
        };
        let forgets: Vec<Message> = nodes.iter().filter_map(forget).collect();
        Ok(self.driver.run(&forgets, 1)?)
    }
}

fn measure(run: &Tails, volume: &Arc<Volume>, shared: &Shared) -> Result<Vec<Tail>, Error> {
    let mut creates = Creates {
        driver: here::drive(volume)?,
        shared,
        dirs: 0,
        beside: Vec::new(),
        alone: Vec::new(),
    };
    creates.round(run.creates)?;
    creates.alone.clear();
    for _ in 0..run.rounds {
        volume.store().checkpoint()?;
        creates.round(run.creates)?;
        volume.store().checkpoint()?;
        shared.wanted.store(true, Ordering::Release);
        // Those between two checkpoints are neither.
        let alone = creates.alone.len();
        creates.round(run.creates)?;
        creates.alone.truncate(alone);
        shared.wanted.store(false, Ordering::Release);
        while shared.running.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let count = shared.checkpoints.load(Ordering::Relaxed);
    Ok(vec![
        Tail::of("no checkpoint", creates.alone),
        Tail::of(&format!("beside {count} checkpoints"), creates.beside),
    ])
}

/// Measures, and prints the table.
///
/// # Errors
/// When the store cannot be made or used.
pub fn run(run: &Tails) -> Result<Results, Error> {
    let about = About::begin();
    let dir = work_dir(&run.dir)?;
    here::make(dir.path(), LOG_BYTES)?;
    let options = OpenOptions {
        background: false,
        ..OpenOptions::default()
    };
    let volume = here::open(dir.path(), options, |media| media)?;
    let shared = Shared::default();
    let tails = std::thread::scope(|scope| {
        let beside = scope.spawn(|| checkpoints(&volume, &shared, run.every));
        let tails = measure(run, &volume, &shared);
        shared.ended.store(true, Ordering::Release);
        match beside.join() {
            Ok(Ok(())) => tails,
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err("the thread of checkpoints ended".into()),
        }
    })?;
    println!("{TAILS}");
    tails.iter().for_each(|tail| println!("{tail}"));
    Results::end(about, Found::Tail { tails }, run.json.as_deref())
}
