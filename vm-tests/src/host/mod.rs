//! Power cuts of the daemon's host: razorfs runs inside an outer guest, with its store on a disk
//! whose writes and flushes QEMU logs (`disk_log`). From that log the disk is rebuilt as a power
//! cut may have left it at many points (`crash`), and each image is judged (`judging`): here the
//! host's page cache is really lost.

mod crash;
mod disk_log;
mod judging;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::guest::image::run as command;
use crate::guest::{Agent, Disk, Error, Guest, GuestOptions, Image, Result};
use crate::poweroff::{Images, Round, Summary};
use crate::workload::Able;
use disk_log::read_log;
use judging::{Judging, Sample};

/// How long a guest within a guest may take to boot, or to answer.
const NESTED_PATIENCE: Duration = Duration::from_secs(900);
/// Of a store's log in every other round: the least there can be, so that power is cut in
/// checkpoints too. The usual log is not full within a round.
const SMALL_LOG: &str = "--log-size 4M";
/// Bytes of the outer guest's disk.
const DISK_BYTES: u64 = 1 << 30;

/// How to run.
pub struct Plan {
    /// For disks, logs and mounts.
    pub dir: PathBuf,
    /// What the outer guest boots.
    pub image: Image,
    /// What it boots in the round whose client is a guest of its own; without, there is none.
    pub nested: Option<Image>,
    /// Rounds; the last one is the nested one.
    pub rounds: u32,
    /// Crash images in all.
    pub images: u32,
    /// Decides everything.
    pub seed: u64,
}

/// Runs the rounds; prints each.
///
/// # Errors
/// When the machinery fails; a breach of the contract is counted instead.
pub fn run(plan: &Plan) -> Result<Summary> {
    let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
    let mut summary = Summary {
        images: Some(Images::default()),
        ..Summary::default()
    };
    for number in 1..=plan.rounds {
        run_round(plan, number, &mut rng, &mut summary)?;
    }
    Ok(summary)
}

fn run_round(plan: &Plan, number: u32, rng: &mut ChaCha8Rng, summary: &mut Summary) -> Result<()> {
    let dir = plan.dir.as_path();
    let disk = Disk {
        image: dir.join("disk"),
        log: dir.join("disk.log"),
    };
    make_disk(&disk)?;
    fs::copy(&disk.image, dir.join("base")).map_err(|error| Error::new("base", error))?;
    let seed = rng.random();
    let time = Duration::from_millis(rng.random_range(4_000..12_000));
    let (round, samples) = match &plan.nested {
        // A guest in a guest is that much slower.
        Some(image) if number == plan.rounds => work_nested(dir, image, &disk, seed, time * 8)?,
        _ => {
            let log = if number % 2 == 1 { SMALL_LOG } else { "" };
            work(dir, &plan.image, &disk, log, seed, time)?
        }
    };
    summary.rounds += 1;
    summary.note(&round);
    let log = File::open(&disk.log).map_err(|error| Error::new("write log", error))?;
    let entries = read_log(&log)?;
    let first = samples.first().map_or(0, |sample| sample.log_bytes);
    let from = entries.iter().position(|entry| entry.end >= first);
    let count = plan.images.div_ceil(plan.rounds) as usize;
    let cuts = crash::choose(&entries, from.unwrap_or(0), count, rng);
    let judging = Judging {
        dir,
        log: &log,
        entries: &entries,
        samples: &samples,
        round: &round,
        number,
    };
    let before = *summary;
    let images = judging.cuts(&cuts, summary)?;
    if let Some(all) = &mut summary.images {
        *all += images;
    }
    println!(
        "round {number}: {} operations, {} log entries, {} crash images, {} lost, {} violations",
        round.returned,
        entries.len(),
        cuts.len(),
        summary.lost - before.lost,
        summary.violations - before.violations
    );
    Ok(())
}

fn make_disk(disk: &Disk) -> Result<()> {
    for (path, len) in [(&disk.image, DISK_BYTES), (&disk.log, 0)] {
        let _ = fs::remove_file(path);
        let file = File::create(path).map_err(|error| Error::new(path.display(), error))?;
        file.set_len(len)
            .map_err(|error| Error::new(path.display(), error))?;
    }
    command(
        Command::new("mkfs.ext4")
            .args(["-q", "-F", "-E", "lazy_itable_init=0"])
            .arg(&disk.image),
    )
    .map(|_| ())
}

/// Boots the outer guest, lets the workload run on a razorfs in it, and cuts the power.
fn work(
    dir: &Path,
    image: &Image,
    disk: &Disk,
    log: &str,
    seed: u64,
    time: Duration,
) -> Result<(Round, Vec<Sample>)> {
    let options = GuestOptions {
        disk: Some(disk.clone()),
        memory_mib: 1024,
        ..GuestOptions::default()
    };
    let mut guest = Guest::start(dir, image, &options)?;
    guest.order("mount ext4 /dev/vda /disk")?;
    guest.shell(&format!("/bin/razorfs mkfs {log} /disk/store"))?;
    guest.shell(
        "/bin/razorfs mount /disk/store /mnt >/tmp/log 2>&1 & \
         for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do \
         busybox grep -q ' /mnt fuse' /proc/mounts && exit 0; busybox sleep 0.5; done; \
         busybox cat /tmp/log; exit 1",
    )?;
    let able = Able {
        sync: false,
        ..guest.able("/mnt/work")?
    };
    let mut round = Round::new(seed, able);
    guest.send(&round.command("/mnt/work"))?;
    let samples = sample(&mut guest, disk, &mut round, time)?;
    guest.cut();
    round.note_rest(&guest.rest());
    Ok((round, samples))
}

/// As [`work`], but the client is a guest within the outer guest, on razorfsd and virtiofs.
fn work_nested(
    dir: &Path,
    image: &Image,
    disk: &Disk,
    seed: u64,
    time: Duration,
) -> Result<(Round, Vec<Sample>)> {
    let options = GuestOptions {
        disk: Some(disk.clone()),
        memory_mib: 2048,
        inner: true,
        ..GuestOptions::default()
    };
    let mut guest = Guest::start(dir, image, &options)?;
    guest.order("mount ext4 /dev/vda /disk")?;
    guest.shell("/bin/razorfs mkfs /disk/store")?;
    guest.shell(
        "/bin/razorfsd --store /disk/store --socket-path /tmp/fs >/tmp/log 2>&1 & \
         for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do \
         test -S /tmp/fs && exit 0; busybox sleep 0.5; done; busybox cat /tmp/log; exit 1",
    )?;
    let mut inner = guest.inner()?;
    guest.shell(
        "/bin/qemu-system-x86_64 -L /qemu -accel tcg -machine q35,memory-backend=mem -cpu max \
         -smp 1 -m 256 -object memory-backend-memfd,id=mem,size=256M,share=on \
         -nodefaults -no-user-config -display none -serial file:/tmp/console -serial /dev/ttyS2 \
         -chardev socket,id=fs,path=/tmp/fs \
         -device vhost-user-fs-pci,chardev=fs,tag=razorfs,queue-size=1024 \
         -kernel /inner/kernel -initrd /inner/initrd \
         -append 'console=ttyS0 quiet panic=-1 tsc=unstable mitigations=off nokaslr' \
         >/tmp/qemu 2>&1 & busybox sleep 10; busybox cat /tmp/qemu; \
         busybox pidof qemu-system-x86_64 >/tmp/pid",
    )?;
    inner.set_patience(NESTED_PATIENCE);
    if let Err(error) = inner.wait_ready() {
        let told = guest.shell("busybox cat /tmp/qemu /tmp/log; busybox tail -n 20 /tmp/console");
        return Err(Error::new(error, told.unwrap_or_default()));
    }
    inner.order("mount virtiofs razorfs /mnt")?;
    let mut round = Round::new(seed, inner.able("/mnt/work")?);
    inner.send(&round.command("/mnt/work"))?;
    let samples = sample(&mut inner, disk, &mut round, time)?;
    guest.cut();
    round.note_rest(&inner.rest());
    Ok((round, samples))
}

/// Follows the workload for a while.
fn sample(
    agent: &mut Agent,
    disk: &Disk,
    round: &mut Round,
    time: Duration,
) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    let mut started: Option<Instant> = None;
    while started.is_none_or(|started| started.elapsed() < time) {
        let line = agent.line()?;
        started.get_or_insert_with(Instant::now);
        if !round.note(&line)? {
            break;
        }
        // After the line: what it says had been done lies before this in the log.
        let log_bytes = fs::metadata(&disk.log).map_or(0, |metadata| metadata.len());
        samples.push(Sample {
            log_bytes,
            begun: round.begun_at_most(agent.unread_bytes()?),
            returned: round.returned,
        });
    }
    Ok(samples)
}
