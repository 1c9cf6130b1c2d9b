//! The same requests to razorfsd, virtiofsd and the floor, in turn, on one CPU.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::daemons::{Daemon, Kind, Places};
use crate::driver::{Driver, Message};
use crate::raw::RawDisk;
use crate::report::{REQUESTS, Row, Sample, request_line};
use crate::results::{About, Found, Results};
use crate::workloads::{ALL, Scene, Workload};
use crate::{Error, program_dir, work_dir};

/// Compares daemons, request by request.
#[derive(clap::Args)]
pub struct Requests {
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
    /// Sizes of virtiofsd's thread pool: of each workload the quickest counts. 0, its default, is
    /// none.
    #[arg(long, value_delimiter = ',', default_value = "0,1,4")]
    pools: Vec<usize>,
    /// razorfs and razorfsd; beside this program by default.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// The CPU of the driver.
    #[arg(long, default_value_t = 0)]
    cpu: usize,
    /// The CPUs of daemons, as taskset takes them; the driver's by default.
    #[arg(long)]
    daemon_cpus: Option<String>,
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
        let daemon = &self.daemon;
        let keeps = self.kind != Kind::Floor;
        round(&mut self.scene, workload, depth, keeps, || daemon.cpu())
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

/// One round of a workload; `keeps` says that what it made must be let go.
pub fn round(
    scene: &mut Scene,
    workload: &Workload,
    depth: usize,
    keeps: bool,
    cpu: impl Fn() -> Duration,
) -> Result<Sample, Error> {
    let work = (workload.prepare)(scene, workload.count)?;
    let mut replies: Vec<Message> = Vec::new();
    let before = cpu();
    let began = Instant::now();
    match work.after {
        None => scene.driver.run(&work.timed, depth)?,
        Some(after) => {
            let mut bodies = Vec::with_capacity(work.timed.len());
            scene
                .driver
                .each(&work.timed, depth, |body| bodies.push(body))?;
            replies.extend(bodies.iter().flat_map(|body| after(body)));
        }
    }
    let wall = began.elapsed();
    let cpu = cpu().saturating_sub(before);
    if keeps {
        scene.driver.run(&replies, 1)?;
        scene.settle()?;
    }
    Ok(Sample::new(wall, cpu, workload.count))
}

fn pin(cpu: usize) -> Result<(), Error> {
    if cpu >= rustix::thread::CpuSet::MAX_CPU {
        return Err(format!("there is no CPU {cpu}").into());
    }
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(cpu);
    rustix::thread::sched_setaffinity(None, &cpus)
        .map_err(|error| format!("CPU {cpu} cannot be used: {error}"))?;
    Ok(())
}

/// All that there is to compare.
struct Field {
    places: Places,
    sides: Vec<Side>,
    disk: Option<RawDisk>,
}

impl Field {
    fn start(run: &Requests, places: Places) -> Result<Field, Error> {
        let pools = run.pools.iter().copied();
        let kinds = [Kind::Razorfs]
            .into_iter()
            .chain(pools.clone().map(Kind::Virtiofsd))
            .chain(pools.map(Kind::VirtiofsdTmpfs))
            .chain([Kind::Floor]);
        let sides = kinds
            .map(|kind| Side::start(kind, &places))
            .collect::<Result<_, _>>()?;
        let disk = RawDisk::new(&places.dir)
            .inspect_err(|error| eprintln!("no disk of its own is measured: {error}"));
        Ok(Field {
            places,
            sides,
            disk: disk.ok(),
        })
    }

    /// All rounds of a workload.
    fn row(&mut self, run: &Requests, workload: &Workload, depth: usize) -> Result<Row, Error> {
        let mut row = Row::new(workload.name, depth);
        // The first is for warming up.
        for round in 0..=run.rounds {
            let mut add = |kind, sample| {
                if round > 0 {
                    row.add(kind, sample);
                }
                std::thread::sleep(Duration::from_millis(1));
            };
            for side in &mut self.sides {
                let sample = side
                    .round(workload, depth)
                    .map_err(|error| format!("{} with {}: {error}", workload.name, side.kind))?;
                add(side.kind, sample);
            }
            if let (Some(access), Some(disk)) = (workload.disk, &mut self.disk) {
                add(Kind::Disk, disk.round(access, workload.count)?);
            }
        }
        if run.calls {
            let best = row.virtiofsd();
            let counted = |side: &&mut Side| side.kind == Kind::Razorfs || Some(side.kind) == best;
            for side in self.sides.iter_mut().filter(counted) {
                let calls = side.calls(&self.places, workload, depth)?;
                row.calls.insert(side.kind, calls);
            }
        }
        Ok(row)
    }
}

/// Measures, and prints the table as it grows.
///
/// # Errors
/// When a daemon cannot be started or fails.
pub fn run(run: &Requests) -> Result<Results, Error> {
    let mut about = About::begin();
    about.version_of(&run.virtiofsd);
    let dir = work_dir(&run.dir)?;
    let tmpfs = work_dir(&run.tmpfs)?;
    let cpus = run.daemon_cpus.clone().unwrap_or(run.cpu.to_string());
    let places = Places {
        programs: program_dir(run.programs.as_deref())?,
        virtiofsd: run.virtiofsd.clone(),
        dir: dir.path().to_owned(),
        tmpfs: tmpfs.path().to_owned(),
        cpus: Some(cpus),
        guest_cache: None,
    };
    pin(run.cpu)?;
    let mut field = Field::start(run, places)?;
    let wanted = |workload: &&Workload| {
        let only = run.only.as_deref();
        only.is_none_or(|only| workload.name.contains(only))
    };
    let mut rows = Vec::new();
    println!("{REQUESTS}");
    for workload in ALL.iter().filter(wanted) {
        for depth in workload.depths {
            let row = field.row(run, workload, *depth)?;
            println!("{}", request_line(&row));
            rows.push(row);
        }
    }
    Results::end(about, Found::Requests { rows }, run.json.as_deref())
}
