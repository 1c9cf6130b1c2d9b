//! Power cuts of the daemon's host: razorfs runs inside an outer guest, with its store on a disk
//! whose writes and flushes QEMU logs. From that log the disk is rebuilt as a power cut may have
//! left it at many points, and each image is judged: here the host's page cache is really lost.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::execute;
use crate::guest::image::run as command;
use crate::guest::{Agent, Disk, Error, Guest, GuestOptions, Image, Result};
use crate::poweroff::{Round, Summary};
use crate::store::{check, program};
use crate::workload::syncs;

/// 'WRLsf...' as the field of the log's super block (Linux, dm-log-writes).
const LOG_MAGIC: u64 = 0x006a_7366_7773_6872;
const FLAG_FLUSH: u64 = 1;
const FLAG_DISCARD: u64 = 4;
/// How long a guest within a guest may take to boot, or to answer.
const NESTED_PATIENCE: Duration = Duration::from_secs(900);
/// Bytes of the outer guest's disk.
const DISK_BYTES: u64 = 1 << 30;

/// An entry of the write log.
#[derive(Debug, Clone, Copy)]
struct Entry {
    offset: u64,
    len: u64,
    flags: u64,
    /// Where its bytes lie in the log.
    data: u64,
    /// Where the next entry begins.
    end: u64,
}

/// Reads the entries of a log in the format of dm-log-writes: a super block, then for each request
/// a header block and its data.
fn read_log(log: &File) -> Result<Vec<Entry>> {
    let failed = |error| Error::new("write log", error);
    let mut block = [0; 512];
    log.read_exact_at(&mut block, 0).map_err(failed)?;
    let u64_at = |block: &[u8; 512], at: usize| -> u64 {
        block
            .get(at..at + 8)
            .and_then(|b| b.try_into().ok())
            .map_or(0, u64::from_le_bytes)
    };
    if u64_at(&block, 0) != LOG_MAGIC {
        return Err(Error("the write log has no super block".into()));
    }
    let length = log.metadata().map_err(failed)?.len();
    let mut at = 512;
    let mut entries = Vec::new();
    while at + 512 <= length {
        log.read_exact_at(&mut block, at).map_err(failed)?;
        let (sector, sectors, flags) = (u64_at(&block, 0), u64_at(&block, 8), u64_at(&block, 16));
        if sectors == 0 && flags == 0 {
            break;
        }
        let len = sectors * 512;
        let data = at + 512;
        let end = if flags & FLAG_DISCARD == 0 {
            data + len
        } else {
            data
        };
        if end > length {
            break;
        }
        entries.push(Entry {
            offset: sector * 512,
            len,
            flags,
            data,
            end,
        });
        at = end;
    }
    Ok(entries)
}

/// What had been said when the log had reached `log_bytes`.
struct Sample {
    log_bytes: u64,
    begun: u32,
    returned: u32,
}

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
/// When the machinery fails; a violation is counted instead.
pub fn run(plan: &Plan) -> Result<Summary> {
    let Plan {
        dir,
        rounds,
        images,
        seed,
        ..
    } = plan;
    let (dir, rounds, images, seed) = (dir.as_path(), *rounds, *images, *seed);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut summary = Summary::default();
    for number in 1..=rounds {
        let disk = Disk {
            image: dir.join("disk"),
            log: dir.join("disk.log"),
        };
        make_disk(&disk)?;
        fs::copy(&disk.image, dir.join("base")).map_err(|error| Error::new("base", error))?;
        let workload = rng.random();
        let time = Duration::from_millis(rng.random_range(4_000..12_000));
        let (round, samples) = match &plan.nested {
            Some(image) if number == rounds => {
                let mut round = Round::new(workload);
                // A guest in a guest is that much slower.
                let samples = work_nested(dir, image, &disk, &mut round, time * 8)?;
                (round, samples)
            }
            _ => {
                let mut round = Round::without_sync(workload);
                let samples = work(dir, &plan.image, &disk, &mut round, time)?;
                (round, samples)
            }
        };
        summary.rounds += 1;
        summary.operations += u64::from(round.returned);
        summary.syncs += syncs(&round.ops, round.returned);
        let log = File::open(&disk.log).map_err(|error| Error::new("write log", error))?;
        let entries = read_log(&log)?;
        let first = samples.first().map_or(0, |sample| sample.log_bytes);
        let points = choose(&entries, first, images.div_ceil(rounds), &mut rng);
        let mut judged = Judging {
            dir,
            log: &log,
            entries: &entries,
            samples: &samples,
        };
        let (done, violations) = judged.points(&round, &points, number)?;
        summary.images += done;
        summary.violations += violations;
        println!(
            "round {number}: {} operations, {} log entries, {done} crash images, {violations} violations",
            round.returned,
            entries.len()
        );
    }
    Ok(summary)
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
    round: &mut Round,
    time: Duration,
) -> Result<Vec<Sample>> {
    let options = GuestOptions {
        disk: Some(disk.clone()),
        memory_mib: 1024,
        ..GuestOptions::default()
    };
    let mut guest = Guest::start(dir, image, &options)?;
    guest.order("mount ext4 /dev/vda /disk")?;
    guest.shell("/bin/razorfs mkfs /disk/store")?;
    guest.shell(
        "/bin/razorfs mount /disk/store /mnt >/tmp/log 2>&1 & \
         for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do \
         busybox grep -q ' /mnt fuse' /proc/mounts && exit 0; busybox sleep 0.5; done; \
         busybox cat /tmp/log; exit 1",
    )?;
    guest.send(&format!("{} no-sync", round.command("/mnt/work")))?;
    let samples = sample(&mut guest, disk, round, time)?;
    guest.cut();
    Ok(samples)
}

/// As [`work`], but the client is a guest within the outer guest, on razorfsd and virtiofs.
fn work_nested(
    dir: &Path,
    image: &Image,
    disk: &Disk,
    round: &mut Round,
    time: Duration,
) -> Result<Vec<Sample>> {
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
    inner.send(&round.command("/mnt/work"))?;
    let samples = sample(&mut inner, disk, round, time)?;
    guest.cut();
    Ok(samples)
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
            begun: round.begun,
            returned: round.returned,
        });
    }
    // Something may have been begun that was not read any more.
    round.begun = round.begun.max(round.returned).saturating_add(64);
    Ok(samples)
}

/// Points in the log, as numbers of entries: half after flushes, half anywhere.
fn choose(entries: &[Entry], first: u64, count: u32, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let from = entries
        .iter()
        .position(|entry| entry.end >= first)
        .unwrap_or(0);
    let half = (count / 2) as usize;
    let flushes = (from..entries.len())
        .filter(|index| {
            entries
                .get(*index)
                .is_some_and(|entry| entry.flags & FLAG_FLUSH != 0)
        })
        .choose_multiple(rng, half);
    let rest = (count as usize).saturating_sub(flushes.len());
    let anywhere = (from..entries.len()).choose_multiple(rng, rest);
    let mut points: Vec<usize> = flushes
        .into_iter()
        .chain(anywhere)
        .map(|at| at + 1)
        .collect();
    points.sort_unstable();
    points.dedup();
    points
}

struct Judging<'a> {
    dir: &'a Path,
    log: &'a File,
    entries: &'a [Entry],
    samples: &'a [Sample],
}

impl Judging<'_> {
    fn points(&mut self, round: &Round, points: &[usize], number: u32) -> Result<(u64, u64)> {
        let base = self.dir.join("base");
        let image = File::options()
            .write(true)
            .open(&base)
            .map_err(|error| Error::new(base.display(), error))?;
        let (mut applied, mut violations) = (0, 0);
        for point in points {
            while applied < *point {
                if let Some(entry) = self.entries.get(applied) {
                    self.apply(&image, entry)?;
                }
                applied += 1;
            }
            let log_bytes = self.entries.get(point - 1).map_or(0, |entry| entry.end);
            if let Err(error) = self.judge(round, log_bytes) {
                violations += 1;
                println!(
                    "round {number}: VIOLATION (workload {}) after log entry {point}: {error}",
                    round.seed
                );
            }
        }
        Ok((points.len() as u64, violations))
    }

    fn apply(&self, image: &File, entry: &Entry) -> Result<()> {
        let failed = |error| Error::new("rebuilding a disk", error);
        let mut bytes = vec![0; usize::try_from(entry.len).unwrap_or(0)];
        if entry.flags & FLAG_DISCARD == 0 {
            self.log
                .read_exact_at(&mut bytes, entry.data)
                .map_err(failed)?;
        }
        image.write_all_at(&bytes, entry.offset).map_err(failed)
    }

    /// Mounts a copy of the rebuilt disk and the store on it, and judges what is there.
    fn judge(&self, round: &Round, log_bytes: u64) -> Result<()> {
        let copy = self.dir.join("crashed");
        command(
            Command::new("cp")
                .arg("--sparse=always")
                .arg(self.dir.join("base"))
                .arg(&copy),
        )?;
        let disk = Mounted::new(&self.dir.join("crashed.mnt"), |at| {
            command(
                Command::new("mount")
                    .args(["-o", "loop"])
                    .arg(&copy)
                    .arg(at),
            )
            .map(|_| None)
        })?;
        let store = disk.at.join("store");
        check(&store)?;
        let tree = {
            let mount = Mounted::new(&self.dir.join("store.mnt"), |at| mount_store(&store, at))?;
            let work = mount.at.join("work");
            execute::dump(&work, round.seed).map_err(|error| Error::new(work.display(), error))?
        };
        check(&store)?;
        drop(disk);
        // Said before this point of the log: certainly done. Begun when the log went beyond it:
        // perhaps done.
        let returned = self
            .samples
            .iter()
            .rev()
            .find(|sample| sample.log_bytes <= log_bytes)
            .map_or(0, |sample| sample.returned);
        let begun = self
            .samples
            .iter()
            .find(|sample| sample.log_bytes > log_bytes)
            .map_or(round.begun, |sample| sample.begun.saturating_add(1));
        let judged = Round {
            ops: round.ops.clone(),
            begun,
            returned,
            seed: round.seed,
        };
        judged.judge(&tree).map(|_| ())
    }
}

fn mount_store(store: &Path, at: &Path) -> Result<Option<Child>> {
    let child = program("razorfs")
        .arg("mount")
        .arg(store)
        .arg(at)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| Error::new("razorfs mount", error))?;
    let mut child = child;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        if mounts.contains(&format!(" {} fuse", at.display())) {
            return Ok(Some(child));
        }
        if matches!(child.try_wait(), Ok(Some(_))) || Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error(
                "razorfs mount did not come up on the crashed store".into(),
            ));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Something mounted, and the process that serves it; unmounted when dropped.
struct Mounted {
    at: PathBuf,
    server: Option<Child>,
}

impl Mounted {
    fn new(at: &Path, mount: impl FnOnce(&Path) -> Result<Option<Child>>) -> Result<Mounted> {
        fs::create_dir_all(at).map_err(|error| Error::new(at.display(), error))?;
        let server = mount(at)?;
        Ok(Mounted {
            at: at.to_owned(),
            server,
        })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for _ in 0..50 {
            if command(Command::new("umount").arg(&self.at)).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        if let Some(server) = &mut self.server {
            let _ = server.wait();
        }
    }
}
