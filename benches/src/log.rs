//! What the log costs: the same volume with the log's writes and flushes left out, so that nothing
//! would survive a power cut, beside one as it is.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use razorfs::disk::{Disk, Media};
use razorfs::engine::{OpenOptions, Volume};
use tempfile::TempDir;

use crate::daemons::{Kind, cpu_of};
use crate::report::{LOG, Row, Sample, log_line};
use crate::requests::round;
use crate::results::{About, Found, Results};
use crate::workloads::{Scene, Workload};
use crate::{Error, here, work_dir};

/// Workloads that change something, with a request or sixteen in flight. There is one thread: what
/// sixteen durable writes share is not in it.
const WORKLOADS: [(&str, usize); 11] = [
    ("create", 16),
    ("mkdir", 16),
    ("unlink", 16),
    ("rename", 16),
    ("link", 16),
    ("setattr", 16),
    ("setxattr", 16),
    ("write, 4 KiB random", 16),
    ("write, 1 MiB in order, fsync", 1),
    ("write 4 KiB, fsync", 1),
    ("create, write 4 KiB, fsync", 1),
];
const LOG_BYTES: u64 = 256 << 20;

/// Measures with and without the log's writes.
#[derive(clap::Args)]
pub struct Log {
    /// Rounds of each workload, with and without in turn.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Where stores go, on the disk that is to be measured.
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// Write all samples here, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A log that is never written.
struct Discarding(Arc<dyn Disk>);

impl Disk for Discarding {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buf)
    }

    fn write_at(&self, _offset: u64, _buf: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.allocate(offset, len)
    }

    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.trim(offset, len)
    }

    fn len_bytes(&self) -> u64 {
        self.0.len_bytes()
    }

    fn available_bytes(&self) -> io::Result<u64> {
        self.0.available_bytes()
    }
}

/// A volume and the session with it, in the order of dropping.
struct Side {
    kind: Kind,
    scene: Scene,
    _volume: Arc<Volume>,
    _dir: TempDir,
}

impl Side {
    fn start(kind: Kind, run: &Log) -> Result<Side, Error> {
        let dir = work_dir(&run.dir)?;
        here::make(dir.path(), LOG_BYTES)?;
        let volume = here::open(dir.path(), OpenOptions::default(), |media| match kind {
            Kind::Unlogged => Media {
                wal: Arc::new(Discarding(media.wal)),
                ..media
            },
            _ => media,
        })?;
        Ok(Side {
            kind,
            scene: Scene::new(here::drive(&volume)?, false),
            _volume: volume,
            _dir: dir,
        })
    }

    fn round(&mut self, workload: &Workload, depth: usize) -> Result<Sample, Error> {
        let own = || cpu_of(std::process::id());
        round(&mut self.scene, workload, depth, true, own)
    }
}

/// Measures, and prints the table as it grows.
///
/// # Errors
/// When a store cannot be made or used.
pub fn run(run: &Log) -> Result<Results, Error> {
    let about = About::begin();
    let mut sides = [
        Side::start(Kind::Razorfs, run)?,
        Side::start(Kind::Unlogged, run)?,
    ];
    let mut rows = Vec::new();
    println!("{LOG}");
    for (name, depth) in WORKLOADS {
        let workload = here::workload(name)?;
        let mut row = Row::new(name, depth);
        for number in 0..=run.rounds {
            for side in &mut sides {
                let sample = side.round(workload, depth)?;
                // The first is for warming up.
                if number > 0 {
                    row.add(side.kind, sample);
                }
            }
        }
        println!("{}", log_line(&row));
        rows.push(row);
    }
    Results::end(about, Found::Log { rows }, run.json.as_deref())
}
