//! A volume in this process, and a driver whose kicks do everything before they return.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use razorfs::disk::Media;
use razorfs::disk::dir::{OpenDir, StoreDir, create_store, open_store};
use razorfs::engine::{Clock, MkfsOptions, OpenOptions, Time, Volume, mkfs};
use razorfs::fs::{FileSystem, Options};
use razorfs::server::Server;

use crate::driver::Driver;
use crate::growth::own_time;
use crate::workloads::{ALL, Scene, Workload};
use crate::{Error, timed, work_dir};

/// Of a store's log: mkfs's default.
pub const LOG_BYTES: u64 = 64 << 20;

/// Makes a store that is the same every time, but for its log's size.
pub fn make(dir: &Path, log_bytes: u64) -> Result<(), Error> {
    let made = create_store(dir, true, false)?;
    let seconds: Clock = Arc::new(|| Time { sec: 1, nsec: 0 });
    let how = MkfsOptions {
        log_bytes,
        ..MkfsOptions::reproducible()
    };
    mkfs(made.media, &how, &seconds)?;
    Ok(())
}

/// Opens a store whose disks are wrapped first.
pub fn open(
    dir: &Path,
    options: OpenOptions,
    wrap: impl FnOnce(Media) -> Media,
) -> Result<Arc<Volume>, Error> {
    let how = OpenDir {
        read_only: options.read_only,
        allow_volatile: true,
    };
    let StoreDir { media, lock } = open_store(dir, how)?;
    let media = wrap(media);
    Ok(Volume::open_files(dir, StoreDir { media, lock }, options)?)
}

/// A driver of a volume.
pub fn drive(volume: &Arc<Volume>) -> Result<Driver, Error> {
    let fs = FileSystem::new(volume.clone(), Options::default());
    Ok(Driver::here(Arc::new(Server::new(fs)))?)
}

/// The workload of a name.
pub fn workload(name: &str) -> Result<&'static Workload, Error> {
    let workload = ALL.iter().find(|workload| workload.name == name);
    Ok(workload.ok_or_else(|| format!("no workload '{name}'"))?)
}

/// Carries a workload out for callgrind or perf.
pub fn counted(name: &str, rounds: u32, dir: &Path) -> Result<(), Error> {
    let workload = workload(name)?;
    let dir = work_dir(dir)?;
    make(dir.path(), LOG_BYTES)?;
    let volume = open(dir.path(), OpenOptions::default(), |media| media)?;
    let mut scene = Scene::new(drive(&volume)?, false);
    // Valgrind has no clock of processor time: rustix takes the vDSO's, which is not there.
    let clock = if rounds > 1 {
        own_time
    } else {
        Duration::default
    };
    let mut took = Duration::ZERO;
    for _ in 0..rounds {
        let work = (workload.prepare)(&mut scene, workload.count)?;
        let began = clock();
        timed(&mut scene.driver, &work.timed)?;
        took += clock().saturating_sub(began);
    }
    let operations = workload.count * u64::from(rounds);
    println!("operations={operations}");
    if rounds > 1 {
        #[allow(clippy::cast_precision_loss)] // Far below 2^52.
        let each = took.as_secs_f64() * 1e6 / operations as f64;
        println!("us={each:.2}");
    }
    drop(scene);
    volume.store().close()?;
    Ok(())
}
