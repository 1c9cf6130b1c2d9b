//! Work within a real guest that has all file systems mounted at once: razorfsd's, virtiofsd's,
//! QEMU's 9p, and ext4 on a virtio-blk disk. They take turns, so that the guest's kernel, its
//! caches and the machine's load are the same for all.

use std::path::{Path, PathBuf};
use std::time::Duration;

use vm_tests::guest::{Guest, GuestOptions, Image};
use vm_tests::measure::{GROUPS, Group, describe};

use crate::daemons::{Daemon, Kind, Places};
use crate::report::{GUESTS, Row, Sample, guest_line};
use crate::results::{About, Found, Results};
use crate::{Error, program_dir, work_dir};

/// The longest that a workload may take.
const PATIENCE: Duration = Duration::from_secs(1800);
const DISK_BYTES: u64 = 8 << 30;
/// Where file systems are mounted in the guest.
const MOUNTS: &str = "/mnt";

/// Compares file systems in a real guest.
#[derive(clap::Args)]
pub struct Guests {
    /// Rounds; each file system has its turn in each workload.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only these groups of workloads: file, tree, git, sqlite.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// MiB of the file that is written and read.
    #[arg(long, default_value_t = 128)]
    file: u64,
    /// Files of the tree that is unpacked and removed.
    #[arg(long, default_value_t = 3000)]
    tree: u64,
    /// Files of the repository that is cloned.
    #[arg(long, default_value_t = 1000)]
    git: u64,
    /// Transactions of SQLite.
    #[arg(long, default_value_t = 200)]
    sqlite: u64,
    /// MiB of the guest's memory: it holds what is unpacked and cloned too.
    #[arg(long, default_value_t = 1536)]
    memory: u32,
    /// What both daemons let the guest keep: auto, always, metadata or never; otherwise what each
    /// does by itself, which for razorfsd is always, and for virtiofsd auto.
    #[arg(long)]
    guest_cache: Option<String>,
    /// virtiofsd's thread pool.
    #[arg(long, default_value_t = 0)]
    pool: usize,
    /// How 9p is mounted, after `trans=virtio`.
    #[arg(
        long,
        default_value = "version=9p2000.L,msize=512000,cache=loose,access=any"
    )]
    ninep: String,
    /// Where stores go, on the disk that is to be measured.
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// The static build of guest_agent.
    #[arg(long)]
    agent: PathBuf,
    /// Downloaded packages.
    #[arg(long, default_value = "vm-tests/cache")]
    cache: PathBuf,
    /// virtiofsd.
    #[arg(long, default_value = "virtiofsd")]
    virtiofsd: PathBuf,
    /// razorfs and razorfsd; beside this program by default.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Write all samples here, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Guests {
    fn wants(&self, group: &Group) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == group.name)
    }

    fn count(&self, group: &Group) -> u64 {
        match group.name {
            "file" => self.file,
            "tree" => self.tree,
            "git" => self.git,
            _ => self.sqlite,
        }
    }
}

/// A file system in the guest.
struct Mounted {
    kind: Kind,
    /// What serves it, unless QEMU does.
    daemon: Option<Daemon>,
    /// QEMU's arguments.
    device: Vec<String>,
    /// What the guest mounts: kind, source, options.
    mount: [String; 3],
}

fn virtiofs(kind: Kind, tag: &str, places: &Places) -> Result<Mounted, Error> {
    let daemon = Daemon::start(kind, places)?;
    let device = [
        "-chardev".into(),
        format!("socket,id={tag},path={}", daemon.socket.display()),
        "-device".into(),
        format!("vhost-user-fs-pci,chardev={tag},tag={tag},queue-size=1024"),
    ];
    Ok(Mounted {
        kind,
        daemon: Some(daemon),
        device: device.into(),
        mount: ["virtiofs".into(), tag.into(), String::new()],
    })
}

fn ninep(options: &str, dir: &Path) -> Result<Mounted, Error> {
    let shared = dir.join("ninep");
    std::fs::create_dir_all(&shared)?;
    let shared = shared.display();
    let device = [
        "-fsdev".into(),
        format!("local,id=ninep,path={shared},security_model=none,multidevs=remap"),
        "-device".into(),
        "virtio-9p-pci,fsdev=ninep,mount_tag=ninep".into(),
    ];
    let options = format!("trans=virtio,{options}");
    Ok(Mounted {
        kind: Kind::NineP,
        daemon: None,
        device: device.into(),
        mount: ["9p".into(), "ninep".into(), options],
    })
}

fn block(dir: &Path) -> Result<Mounted, Error> {
    let image = dir.join("disk");
    std::fs::File::create(&image)?.set_len(DISK_BYTES)?;
    let mkfs = std::process::Command::new("mkfs.ext4")
        .args(["-q", "-F"])
        .arg(&image)
        .output()?;
    if !mkfs.status.success() {
        return Err(String::from_utf8_lossy(&mkfs.stderr).into());
    }
    let device = [
        "-drive".into(),
        format!("file={},if=none,id=disk,format=raw", image.display()),
        "-device".into(),
        "virtio-blk-pci,drive=disk".into(),
    ];
    Ok(Mounted {
        kind: Kind::Block,
        daemon: None,
        device: device.into(),
        mount: ["ext4".into(), "/dev/vda".into(), String::new()],
    })
}

impl Mounted {
    fn dir(&self) -> String {
        format!("{MOUNTS}/{}", self.mount[1].trim_start_matches("/dev/"))
    }

    fn cpu(&self) -> Duration {
        self.daemon
            .as_ref()
            .map_or(Duration::ZERO, |daemon| daemon.cpu())
    }

    /// One round of a workload.
    fn round(&self, guest: &mut Guest, workload: &str, count: u64) -> Result<Sample, Error> {
        let before = self.cpu();
        guest.send(&format!("measure {workload} {}/work {count}", self.dir()))?;
        let line = guest.line()?;
        let cpu = self.cpu().saturating_sub(before);
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["took", nanos, operations] => {
                let (wall, count) = (Duration::from_nanos(nanos.parse()?), operations.parse()?);
                Ok(Sample::new(wall, cpu, count))
            }
            _ => Err(format!("{workload} on {}: {line}", self.kind).into()),
        }
    }
}

/// All rounds: a row a workload.
fn measure(run: &Guests, guest: &mut Guest, mounted: &[Mounted]) -> Result<Vec<Row>, Error> {
    let groups: Vec<&Group> = GROUPS.iter().filter(|group| run.wants(group)).collect();
    let mut rows: Vec<Row> = groups
        .iter()
        .flat_map(|group| group.workloads)
        .map(|workload| Row::new(describe(workload), 1))
        .collect();
    for round in 1..=run.rounds {
        let mut at = rows.iter_mut();
        for group in &groups {
            for workload in group.workloads {
                let Some(row) = at.next() else { continue };
                for side in mounted {
                    row.add(side.kind, side.round(guest, workload, run.count(group))?);
                }
            }
            for side in mounted {
                side.round(guest, "clean", 0)?;
            }
            eprintln!("round {round} of {}: {}", run.rounds, group.name);
        }
    }
    Ok(rows)
}

/// Boots the guest and measures.
///
/// # Errors
/// When something cannot be started, or a workload fails.
pub fn run(run: &Guests) -> Result<Results, Error> {
    if let Some(unknown) = run
        .only
        .iter()
        .find(|name| GROUPS.iter().all(|group| group.name != name.as_str()))
    {
        return Err(format!("there is no group '{unknown}'").into());
    }
    let mut about = About::begin();
    about.version_of(&run.virtiofsd);
    about.version_of(Path::new("qemu-system-x86_64"));
    let dir = work_dir(&run.dir)?;
    let places = Places {
        programs: program_dir(run.programs.as_deref())?,
        virtiofsd: run.virtiofsd.clone(),
        dir: dir.path().to_owned(),
        tmpfs: PathBuf::new(),
        cpus: None,
        guest_cache: run.guest_cache.clone(),
    };
    let programs = ["/usr/bin/git", "/usr/bin/sqlite3"].map(PathBuf::from);
    let image = Image::make_full(&dir.path().join("image"), &run.cache, &run.agent, &programs)?;
    let mounted = [
        virtiofs(Kind::Razorfs, "razorfs", &places)?,
        virtiofs(Kind::Virtiofsd(run.pool), "virtiofsd", &places)?,
        ninep(&run.ninep, dir.path())?,
        block(dir.path())?,
    ];
    let options = GuestOptions {
        memory_mib: run.memory,
        more: mounted.iter().flat_map(|one| one.device.clone()).collect(),
        ..GuestOptions::default()
    };
    let mut guest = Guest::start(dir.path(), &image, &options)?;
    guest.set_patience(PATIENCE);
    for one in &mounted {
        let [kind, source, options] = &one.mount;
        guest.order(&format!("mount {kind} {source} {} {options}", one.dir()))?;
    }
    let rows = measure(run, &mut guest, &mounted)?;
    guest.power_off()?;
    println!("{GUESTS}");
    rows.iter().for_each(|row| println!("{}", guest_line(row)));
    Results::end(about, Found::Guests { rows }, run.json.as_deref())
}
