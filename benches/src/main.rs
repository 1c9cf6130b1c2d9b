//! razorfsd beside virtiofsd, and both beside a floor: the same requests by the same driver, in
//! turn, on one CPU.

mod daemons;
mod driver;
mod floor;
mod report;
mod workloads;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use daemons::{Daemon, Kind, Places};
use driver::{Driver, Message};
use razorfs::disk::dir::create_store;
use razorfs::engine::{Clock, MkfsOptions, OpenOptions, Time, Volume, mkfs};
use razorfs::fs::{FileSystem, Options};
use razorfs::server::Server;
use report::{Row, Sample};
use tempfile::TempDir;
use workloads::{ALL, Scene, Workload};

type Error = Box<dyn std::error::Error>;

/// Compares razorfsd with virtiofsd, request by request.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures, and prints a table of ratios.
    Run(Run),
    /// Carries a workload out on a store in this process, for `valgrind --tool=callgrind
    /// --toggle-collect='*timed*'`, and prints how many operations there were.
    Here {
        /// A workload's whole name.
        workload: String,
        /// Where the store goes.
        #[arg(long, default_value = "/var/tmp")]
        dir: PathBuf,
    },
    /// Serves constants.
    Floor {
        /// Where to listen.
        #[arg(long)]
        socket_path: PathBuf,
    },
}

#[derive(clap::Args)]
struct Run {
    /// Rounds of each workload; each daemon has its turn in each.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Workloads whose names have this in them.
    #[arg(long)]
    only: Option<String>,
    /// Where stores go, on the disk that is to be measured.
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// Where virtiofsd's directory in memory goes.
    #[arg(long, default_value = "/dev/shm")]
    tmpfs: PathBuf,
    /// virtiofsd.
    #[arg(long, default_value = "virtiofsd")]
    virtiofsd: PathBuf,
    /// razorfs and razorfsd; beside this program by default.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// The CPU of daemons and driver.
    #[arg(long, default_value_t = 0)]
    cpu: usize,
    /// Count system calls too, in a round of their own.
    #[arg(long)]
    calls: bool,
    /// Write all samples here, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A daemon and the session with it.
struct Side {
    kind: Kind,
    daemon: Daemon,
    scene: Scene,
}

impl Side {
    fn start(kind: Kind, places: &Places) -> Result<Side, Error> {
        let daemon = Daemon::start(kind, places)?;
        let driver = Driver::connect(&daemon.socket)?;
        Ok(Side {
            kind,
            daemon,
            scene: Scene::new(driver, kind == Kind::Floor),
        })
    }

    /// One round of a workload.
    fn round(&mut self, workload: &Workload, depth: usize) -> Result<Sample, Error> {
        let work = (workload.prepare)(&mut self.scene, workload.count)?;
        let driver = &mut self.scene.driver;
        let mut replies: Vec<Message> = Vec::new();
        let before = self.daemon.cpu();
        let began = Instant::now();
        match work.after {
            None => driver.run(&work.timed, depth)?,
            Some(after) => {
                let mut bodies = Vec::with_capacity(work.timed.len());
                driver.each(&work.timed, depth, |body| bodies.push(body))?;
                replies.extend(bodies.iter().flat_map(|body| after(body)));
            }
        }
        let wall = began.elapsed();
        let cpu = self.daemon.cpu().saturating_sub(before);
        if self.kind != Kind::Floor {
            self.scene.driver.run(&replies, 1)?;
            self.scene.settle()?;
        }
        Ok(Sample::new(wall, cpu, workload.count))
    }

    /// System calls of an operation.
    fn calls(&mut self, places: &Places, workload: &Workload, depth: usize) -> Result<f64, Error> {
        let work = (workload.prepare)(&mut self.scene, workload.count)?;
        let counting = self.daemon.count_calls(places)?;
        let ran = self.scene.driver.run(&work.timed, depth);
        let calls = counting.end()?;
        ran?;
        #[allow(clippy::cast_precision_loss)]
        Ok(calls as f64 / workload.count as f64)
    }
}

fn measure(run: &Run) -> Result<(), Error> {
    let dir = work_dir(&run.dir)?;
    let tmpfs = work_dir(&run.tmpfs)?;
    let here = std::env::current_exe()?;
    let programs = run.programs.clone();
    let places = Places {
        programs: programs
            .or(here.parent().map(PathBuf::from))
            .unwrap_or_default(),
        virtiofsd: run.virtiofsd.clone(),
        dir: dir.path().to_owned(),
        tmpfs: tmpfs.path().to_owned(),
        cpu: run.cpu,
    };
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(run.cpu);
    rustix::thread::sched_setaffinity(None, &cpus)?;
    let kinds = [
        Kind::Razorfs,
        Kind::Virtiofsd,
        Kind::VirtiofsdTmpfs,
        Kind::Floor,
    ];
    let mut sides = kinds
        .into_iter()
        .map(|kind| Side::start(kind, &places))
        .collect::<Result<Vec<_>, _>>()?;
    let wanted = |workload: &&Workload| {
        run.only
            .as_ref()
            .is_none_or(|only| workload.name.contains(only.as_str()))
    };
    let mut rows = Vec::new();
    println!("{}", report::HEADER);
    for workload in ALL.iter().filter(wanted) {
        for depth in workload.depths {
            let mut row = Row::new(workload.name, *depth);
            // The first is for warming up.
            for round in 0..=run.rounds {
                for side in &mut sides {
                    let sample = side.round(workload, *depth).map_err(|error| {
                        format!("{} with {}: {error}", workload.name, side.kind.name())
                    })?;
                    if round > 0 {
                        row.add(side.kind, sample);
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            if run.calls {
                for side in &mut sides {
                    let calls = side.calls(&places, workload, *depth)?;
                    row.calls.insert(side.kind, calls);
                }
            }
            println!("{row}");
            rows.push(row);
        }
    }
    if let Some(path) = &run.json {
        std::fs::write(path, serde_json::to_string_pretty(&rows)?)?;
    }
    Ok(())
}

/// A directory of our own within one that may hold other things; it goes with the value.
fn work_dir(within: &Path) -> Result<TempDir, Error> {
    std::fs::create_dir_all(within)?;
    Ok(tempfile::Builder::new()
        .prefix("razorfs-bench")
        .tempdir_in(within)?)
}

/// What callgrind counts.
#[inline(never)]
fn timed(driver: &mut Driver, messages: &[Message]) -> Result<(), Error> {
    Ok(driver.run(messages, driver::DEPTH_MAX)?)
}

fn here(name: &str, dir: &Path) -> Result<(), Error> {
    let workload = ALL.iter().find(|workload| workload.name == name);
    let workload = workload.ok_or_else(|| format!("no workload '{name}'"))?;
    let dir = work_dir(dir)?;
    let dir = dir.path();
    let made = create_store(dir, true, false)?;
    let seconds: Clock = Arc::new(|| Time { sec: 1, nsec: 0 });
    // The same store every time: counts are to be comparable.
    let how = MkfsOptions {
        log_bytes: 64 << 20,
        ..MkfsOptions::reproducible()
    };
    mkfs(made.media, &how, &seconds)?;
    drop(made.lock);
    let options = OpenOptions {
        allow_volatile: true,
        ..OpenOptions::default()
    };
    let volume = Volume::open(dir, options)?;
    let fs = FileSystem::new(volume.clone(), Options::default());
    let mut scene = Scene::new(Driver::here(Arc::new(Server::new(fs)))?, false);
    let work = (workload.prepare)(&mut scene, workload.count)?;
    timed(&mut scene.driver, &work.timed)?;
    println!("operations={}", workload.count);
    drop(scene);
    volume.close()?;
    Ok(())
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Run(run) => measure(&run),
        Command::Here { workload, dir } => here(&workload, &dir),
        Command::Floor { socket_path } => floor::run(&socket_path),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("razorfs-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
