//! What operations cost as something grows: files in a store (`files`), entries of a directory
//! (`directory`), bytes of a file (`size`), and queues and guests of a daemon (`clients`).

mod clients;
mod directory;
mod files;
mod size;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use razorfs::disk::Media;
use razorfs::engine::{OpenOptions, Volume};
use tempfile::TempDir;
use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::EntryOut;
use zerocopy::FromBytes;

use crate::driver::{Driver, Message};
use crate::report::median;
use crate::results::{About, Found, Results};
use crate::{Error, here, work_dir};

/// Times that each cost is measured; the median counts.
const REPEATS: usize = 5;

/// Measures costs against sizes.
#[derive(clap::Args)]
pub struct Growth {
    /// Only these: files, directory, size, clients.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Files of the store at most, from 1000 on.
    #[arg(long, default_value_t = 1_000_000)]
    files: u64,
    /// Entries of the directory at most, from 1 on.
    #[arg(long, default_value_t = 1_000_000)]
    entries: u64,
    /// GiB of the sparse file at most.
    #[arg(long, default_value_t = 64)]
    sparse: u64,
    /// MiB of the written file at most.
    #[arg(long, default_value_t = 1024)]
    written: u64,
    /// MiB of memory that a store has for what it keeps, in all but `clients`.
    #[arg(long, default_value_t = 256)]
    cache: u64,
    /// Where stores go.
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// razorfs and razorfsd; beside this program by default.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Write what was found here, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Growth {
    fn options(&self) -> OpenOptions {
        OpenOptions {
            cache_bytes: self.cache << 20,
            ..OpenOptions::default()
        }
    }
}

/// A curve.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Series {
    /// The plot it belongs to.
    pub plot: String,
    /// What grows.
    pub x: String,
    /// What is measured.
    pub y: String,
    /// What is done.
    pub name: String,
    /// Size and cost.
    pub points: Vec<(f64, f64)>,
}

/// Curves of a plot.
struct Curves {
    plot: &'static str,
    x: &'static str,
    y: &'static str,
    all: Vec<Series>,
}

impl Curves {
    fn new(plot: &'static str, x: &'static str, y: &'static str) -> Curves {
        Curves {
            plot,
            x,
            y,
            all: Vec::new(),
        }
    }

    /// Adds a point to the curve of a name.
    #[allow(clippy::cast_precision_loss)] // Far below 2^52.
    fn add(&mut self, name: &str, at: u64, value: f64) {
        eprintln!(
            "{}: {} {} {name}: {value:.2} {}",
            self.plot, at, self.x, self.y
        );
        let point = (at as f64, value);
        match self.all.iter_mut().find(|series| series.name == name) {
            Some(series) => series.points.push(point),
            None => self.all.push(Series {
                plot: self.plot.into(),
                x: self.x.into(),
                y: self.y.into(),
                name: name.into(),
                points: vec![point],
            }),
        }
    }
}

/// A volume in this process, as large as its log allows by default, and a driver of it.
struct Store {
    dir: TempDir,
    volume: Arc<Volume>,
    driver: Driver,
    /// How long opening took.
    opened: Duration,
}

impl Store {
    fn new(run: &Growth) -> Result<Store, Error> {
        let dir = work_dir(&run.dir)?;
        here::make(dir.path(), here::LOG_BYTES)?;
        Store::open(dir, run.options(), |media| media)
    }

    fn open(
        dir: TempDir,
        options: OpenOptions,
        wrap: impl FnOnce(Media) -> Media,
    ) -> Result<Store, Error> {
        let began = Instant::now();
        let volume = here::open(dir.path(), options, wrap)?;
        let opened = began.elapsed();
        let driver = here::drive(&volume)?;
        Ok(Store {
            dir,
            volume,
            driver,
            opened,
        })
    }

    /// Ends as a power cut would.
    fn cut(self) -> TempDir {
        self.dir
    }

    fn close(self) -> Result<TempDir, Error> {
        self.volume.store().close()?;
        Ok(self.dir)
    }
}

/// Microseconds of an operation: of `count`, several times, the median.
#[allow(clippy::cast_precision_loss)] // Far below 2^52.
fn each(count: u64, mut work: impl FnMut() -> Result<Duration, Error>) -> Result<f64, Error> {
    let times = (0..REPEATS).map(|_| Ok(work()?.as_secs_f64() * 1e6 / count.max(1) as f64));
    Ok(median(times.collect::<Result<_, Error>>()?))
}

/// Processor time of this thread, which carries out all that a driver of a [`Store`] asks for:
/// unlike the time that passes, it does not grow with what else the machine does.
pub fn own_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Processor time of requests, one after the other.
fn time(driver: &mut Driver, messages: &[Message]) -> Result<Duration, Error> {
    let began = own_time();
    driver.run(messages, 1)?;
    Ok(own_time().saturating_sub(began))
}

/// The same for requests that find or make an inode each: they are forgotten, and returned.
fn time_entries(driver: &mut Driver, messages: &[Message]) -> Result<(Duration, Vec<u64>), Error> {
    let mut bodies = Vec::with_capacity(messages.len());
    let began = own_time();
    driver.each(messages, 1, |body| bodies.push(body))?;
    let took = own_time().saturating_sub(began);
    let node = |body: &Vec<u8>| {
        let (entry, _) = EntryOut::read_from_prefix(body).ok()?;
        Some(entry.nodeid)
    };
    let nodes: Vec<u64> = bodies.iter().filter_map(node).collect();
    let forgets = nodes
        .iter()
        .map(|node| Message::new(&request::forget(*node, 1)));
    driver.run(&forgets.collect::<Vec<_>>(), 1)?;
    Ok((took, nodes))
}

/// Makes regular files of the names in a directory.
fn making(dir: u64, names: impl Iterator<Item = String>) -> Vec<Message> {
    let make = |name| Message::new(&request::mknod(dir, name, libc::S_IFREG | 0o644, 0));
    names.map(make).collect()
}

/// Resident memory of a process in MiB: its own, and of files.
pub fn resident_mib(pid: u32) -> (f64, f64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        number.unwrap_or(0.0) / 1024.0
    };
    (of("RssAnon:"), of("RssFile:"))
}

fn short(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 1.0 => format!("{value:.1}"),
        value => format!("{value:.3}"),
    }
}

/// All curves, a table each plot: a column a size.
pub fn table(series: &[Series]) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut plot = "";
    for one in series {
        if plot != one.plot {
            plot = &one.plot;
            let sizes: Vec<String> = one.points.iter().map(|(x, _)| format!("{x}")).collect();
            lines.push(format!("\n| {plot}; {}: | {} |", one.x, sizes.join(" | ")));
            lines.push(format!("| --- |{}", " --- |".repeat(sizes.len())));
        }
        let values: Vec<String> = one.points.iter().map(|(_, y)| short(*y)).collect();
        lines.push(format!(
            "| {}, {} | {} |",
            one.name,
            one.y,
            values.join(" | ")
        ));
    }
    lines.join("\n")
}

/// Measures, and prints the tables.
///
/// # Errors
/// When a store cannot be made or used.
pub fn run(run: &Growth) -> Result<Results, Error> {
    type Part = fn(&Growth) -> Result<Vec<Series>, Error>;
    let parts: [(&str, Part); 4] = [
        ("files", files::run),
        ("directory", directory::run),
        ("size", size::run),
        ("clients", clients::run),
    ];
    let known = |name: &&String| parts.iter().any(|(part, _)| part == name);
    if let Some(unknown) = run.only.iter().find(|name| !known(name)) {
        return Err(format!("there is no part '{unknown}'").into());
    }
    let about = About::begin();
    let mut series = Vec::new();
    for (name, part) in parts {
        if run.only.is_empty() || run.only.iter().any(|only| only == name) {
            series.extend(part(run)?);
        }
    }
    println!("{}", table(&series));
    Results::end(about, Found::Growth { series }, run.json.as_deref())
}
