//! The daemons that are compared, each on its own store, all on one CPU with the driver.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

type Error = Box<dyn std::error::Error>;

/// What is measured.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(into = "String", try_from = "String")]
pub enum Kind {
    /// razorfsd with a store in the directory of the benchmark.
    Razorfs,
    /// virtiofsd with a directory beside that store, and a thread pool of this size.
    Virtiofsd(usize),
    /// virtiofsd with a directory in memory, and a thread pool of this size.
    VirtiofsdTmpfs(usize),
    /// The transport alone.
    Floor,
    /// A file beside the store, written past all caches.
    Disk,
    /// QEMU's 9p server with a directory beside the store.
    NineP,
    /// ext4 in the guest, on a virtio-blk disk whose image lies beside the store.
    Block,
    /// razorfs without its log's writes.
    Unlogged,
}

const VIRTIOFSD: &str = "virtiofsd, pool ";
const VIRTIOFSD_TMPFS: &str = "virtiofsd on tmpfs, pool ";

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kind::Razorfs => f.write_str("razorfsd"),
            Kind::Virtiofsd(pool) => write!(f, "{VIRTIOFSD}{pool}"),
            Kind::VirtiofsdTmpfs(pool) => write!(f, "{VIRTIOFSD_TMPFS}{pool}"),
            Kind::Floor => f.write_str("floor"),
            Kind::Disk => f.write_str("disk"),
            Kind::NineP => f.write_str("9p"),
            Kind::Block => f.write_str("virtio-blk"),
            Kind::Unlogged => f.write_str("razorfs without log"),
        }
    }
}

impl From<Kind> for String {
    fn from(kind: Kind) -> String {
        kind.to_string()
    }
}

impl TryFrom<String> for Kind {
    type Error = String;

    fn try_from(name: String) -> Result<Kind, String> {
        let pool = |prefix| name.strip_prefix(prefix)?.parse().ok();
        let plain = [
            Kind::Razorfs,
            Kind::Floor,
            Kind::Disk,
            Kind::NineP,
            Kind::Block,
            Kind::Unlogged,
        ];
        plain
            .into_iter()
            .find(|kind| kind.to_string() == name)
            .or_else(|| pool(VIRTIOFSD).map(Kind::Virtiofsd))
            .or_else(|| pool(VIRTIOFSD_TMPFS).map(Kind::VirtiofsdTmpfs))
            .ok_or_else(|| format!("nothing is called '{name}'"))
    }
}

impl Kind {
    /// virtiofsd's thread pool, when it is virtiofsd.
    pub fn pool(self) -> Option<usize> {
        match self {
            Kind::Virtiofsd(pool) | Kind::VirtiofsdTmpfs(pool) => Some(pool),
            _ => None,
        }
    }
}

/// Where programs and stores are.
#[derive(Debug, Clone)]
pub struct Places {
    /// razorfs and razorfsd.
    pub programs: PathBuf,
    /// virtiofsd.
    pub virtiofsd: PathBuf,
    /// For stores, on the disk that is to be measured.
    pub dir: PathBuf,
    /// For the directory in memory.
    pub tmpfs: PathBuf,
    /// The CPUs of daemons, as taskset takes them; all of them by default.
    pub cpus: Option<String>,
    /// What daemons let guests keep (`--cache`); otherwise razorfsd's default, and virtiofsd's, which
    /// is auto.
    pub guest_cache: Option<String>,
}

/// A running daemon.
pub struct Daemon {
    child: Child,
    /// Where it listens.
    pub socket: PathBuf,
}

fn run(command: &mut Command) -> Result<(), Error> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// Whether somebody listens at a path: the flag is `__SO_ACCEPTCON` (net/unix/af_unix.c).
fn is_listened_on(path: &Path) -> bool {
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    sockets.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.last().map(Path::new) == Some(path) && words.get(3) == Some(&"00010000")
    })
}

impl Daemon {
    /// Starts a daemon on an empty store.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(kind: Kind, places: &Places) -> Result<Daemon, Error> {
        Daemon::start_with(kind, places, &[])
    }

    /// The same with further sockets, for further guests.
    ///
    /// # Errors
    /// As there.
    pub fn start_with(kind: Kind, places: &Places, more: &[PathBuf]) -> Result<Daemon, Error> {
        let name: String = kind.to_string().replace([' ', ','], "-");
        let socket = places.dir.join(format!("{name}.sock"));
        let log = std::fs::File::create(places.dir.join(format!("{name}.log")))?;
        let _ = std::fs::remove_file(&socket);
        let mut command = Daemon::command(kind, places)?;
        let child = command
            .arg("--socket-path")
            .arg(&socket)
            .args(
                more.iter()
                    .flat_map(|path| ["--socket-path".as_ref(), path.as_os_str()]),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        let mut daemon = Daemon { child, socket };
        let since = Instant::now();
        // It is there a moment before somebody listens.
        let listens = |daemon: &Daemon| {
            let sockets = more.iter().chain([&daemon.socket]);
            sockets.into_iter().all(|path| is_listened_on(path))
        };
        while !listens(&daemon) {
            if daemon.child.try_wait()?.is_some() || since.elapsed() > Duration::from_secs(20) {
                let log = std::fs::read_to_string(places.dir.join(format!("{name}.log")));
                return Err(format!("{command:?}: {}", log.unwrap_or_default()).into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(daemon)
    }

    /// The daemon's command line but for its socket; makes its store.
    fn command(kind: Kind, places: &Places) -> Result<Command, Error> {
        let program = match kind {
            Kind::Razorfs => places.programs.join("razorfsd"),
            Kind::Virtiofsd(_) | Kind::VirtiofsdTmpfs(_) => places.virtiofsd.clone(),
            Kind::Floor => std::env::current_exe()?,
            other => return Err(format!("{other} is no daemon").into()),
        };
        let mut command = match &places.cpus {
            Some(cpus) => {
                let mut command = Command::new("taskset");
                command.arg("-c").arg(cpus).arg(program);
                command
            }
            None => Command::new(program),
        };
        match kind {
            Kind::Razorfs => {
                let store = places.dir.join("store");
                run(Command::new(places.programs.join("razorfs"))
                    .arg("mkfs")
                    .arg(&store))?;
                command.arg("--store").arg(store);
                command.args(["--log-level", "warn"]);
                if let Some(mode) = &places.guest_cache {
                    command.args(["--cache", mode]);
                }
            }
            Kind::Floor => {
                command.arg("floor");
            }
            _ => {
                let pool = kind.pool().unwrap_or(0).to_string();
                let within = match kind {
                    Kind::VirtiofsdTmpfs(_) => &places.tmpfs,
                    _ => &places.dir,
                };
                let shared = within.join(format!("shared{pool}"));
                std::fs::create_dir_all(&shared)?;
                command.arg("--shared-dir").arg(shared);
                let mode = places.guest_cache.as_deref().unwrap_or("auto");
                command.args(["--cache", mode, "--xattr", "--posix-acl"]);
                command.args(["--thread-pool-size", &pool, "--log-level", "error"]);
            }
        }
        Ok(command)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time of all its threads.
    pub fn cpu(&self) -> Duration {
        cpu_of(self.child.id())
    }

    /// Begins to count its system calls.
    ///
    /// # Errors
    /// When strace cannot be had.
    pub fn count_calls(&self, places: &Places) -> Result<Counting, Error> {
        let output = places.dir.join("strace");
        let pids: Vec<String> = processes(self.child.id())
            .iter()
            .map(u32::to_string)
            .collect();
        let child = Command::new("strace")
            .args(["-f", "-c", "-q", "-o"])
            .arg(&output)
            .args(pids.iter().flat_map(|pid| ["-p", pid]))
            .stderr(Stdio::null())
            .spawn()?;
        let counting = Counting { child, output };
        let since = Instant::now();
        while !is_traced(&pids) {
            if since.elapsed() > Duration::from_secs(10) {
                return Err("strace does not attach".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(counting)
    }
}

/// A process and those it started: virtiofsd serves from a child.
fn processes(first: u32) -> Vec<u32> {
    let mut all = vec![first];
    let mut at = 0;
    while let Some(pid) = all.get(at).copied() {
        let children = format!("/proc/{pid}/task/{pid}/children");
        let children = std::fs::read_to_string(children).unwrap_or_default();
        let children = children.split_whitespace();
        all.extend(children.filter_map(|pid| pid.parse::<u32>().ok()));
        at += 1;
    }
    all
}

/// CPU time of a process and those it started.
pub fn cpu_of(pid: u32) -> Duration {
    let of = |path: PathBuf| -> Option<u64> {
        let stat = std::fs::read_to_string(path.join("schedstat")).ok()?;
        stat.split_whitespace().next()?.parse().ok()
    };
    let nanos = processes(pid).into_iter().filter_map(|pid| {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let threads = threads.flatten().filter_map(|thread| of(thread.path()));
        Some(threads.sum::<u64>())
    });
    Duration::from_nanos(nanos.sum())
}

fn is_traced(pids: &[String]) -> bool {
    pids.iter().all(|pid| {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
        threads.is_ok_and(|threads| {
            threads.flatten().all(|thread| {
                let status = std::fs::read_to_string(thread.path().join("status"));
                status.is_ok_and(|status| {
                    let tracer = status
                        .lines()
                        .find_map(|line| line.strip_prefix("TracerPid:"));
                    tracer.is_some_and(|pid| pid.trim() != "0")
                })
            })
        })
    })
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let since = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && since.elapsed() < Duration::from_secs(5)
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A count of system calls under way.
pub struct Counting {
    child: Child,
    output: PathBuf,
}

impl Counting {
    /// Ends it: how many there were.
    ///
    /// # Errors
    /// When strace does not tell.
    pub fn end(mut self) -> Result<u64, Error> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
        self.child.wait()?;
        calls_in(&self.output)
    }
}

/// The sum in strace's summary, the last line: `100.00 SECONDS [USECS/CALL] CALLS [ERRORS] total`.
fn calls_in(path: &Path) -> Result<u64, Error> {
    let summary = std::fs::read_to_string(path)?;
    let Some(total) = summary.lines().find(|line| line.ends_with("total")) else {
        return Ok(0);
    };
    let numbers: Vec<&str> = total.split_whitespace().collect();
    let calls = numbers.get(3).and_then(|calls| calls.parse().ok());
    calls.ok_or_else(|| format!("strace said: {total}").into())
}
