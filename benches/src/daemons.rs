//! The daemons that are compared, each on its own store, all on one CPU with the driver.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

type Error = Box<dyn std::error::Error>;

/// What serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// razorfsd with a store in the directory of the benchmark.
    Razorfs,
    /// virtiofsd with a directory beside that store.
    Virtiofsd,
    /// virtiofsd with a directory in memory.
    VirtiofsdTmpfs,
    /// The transport alone.
    Floor,
}

impl Kind {
    /// For tables.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Razorfs => "razorfsd",
            Kind::Virtiofsd => "virtiofsd",
            Kind::VirtiofsdTmpfs => "virtiofsd (tmpfs)",
            Kind::Floor => "floor",
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
    /// The CPU of daemons and driver.
    pub cpu: usize,
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
        let name = format!("{kind:?}").to_lowercase();
        let socket = places.dir.join(format!("{name}.sock"));
        let log = std::fs::File::create(places.dir.join(format!("{name}.log")))?;
        let _ = std::fs::remove_file(&socket);
        let mut command = Command::new("taskset");
        command.args(["-c", &places.cpu.to_string()]);
        match kind {
            Kind::Razorfs => {
                let store = places.dir.join("store");
                run(Command::new(places.programs.join("razorfs"))
                    .arg("mkfs")
                    .arg(&store))?;
                command
                    .arg(places.programs.join("razorfsd"))
                    .arg("--store")
                    .arg(store);
                command.args(["--log-level", "warn"]);
            }
            Kind::Virtiofsd | Kind::VirtiofsdTmpfs => {
                let within = match kind {
                    Kind::Virtiofsd => &places.dir,
                    _ => &places.tmpfs,
                };
                let shared = within.join("shared");
                std::fs::create_dir_all(&shared)?;
                command
                    .arg(&places.virtiofsd)
                    .arg("--shared-dir")
                    .arg(shared);
                command.args(["--cache", "auto", "--xattr", "--posix-acl"]);
                command.args(["--thread-pool-size", "0", "--log-level", "error"]);
            }
            Kind::Floor => {
                command.arg(std::env::current_exe()?).arg("floor");
            }
        }
        let child = command
            .arg("--socket-path")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        let mut daemon = Daemon { child, socket };
        let since = Instant::now();
        // It is there a moment before somebody listens.
        while !is_listened_on(&daemon.socket) {
            if daemon.child.try_wait()?.is_some() || since.elapsed() > Duration::from_secs(20) {
                let log = std::fs::read_to_string(places.dir.join(format!("{name}.log")));
                return Err(format!("{command:?}: {}", log.unwrap_or_default()).into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(daemon)
    }

    /// Its process and those it started: virtiofsd serves from a child.
    fn processes(&self) -> Vec<u32> {
        let mut all = vec![self.child.id()];
        let mut at = 0;
        while let Some(pid) = all.get(at).copied() {
            let children = format!("/proc/{pid}/task/{pid}/children");
            let children = std::fs::read_to_string(children).unwrap_or_default();
            all.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            );
            at += 1;
        }
        all
    }

    /// CPU time of all its threads.
    pub fn cpu(&self) -> Duration {
        let of = |path: PathBuf| -> Option<u64> {
            let stat = std::fs::read_to_string(path.join("schedstat")).ok()?;
            stat.split_whitespace().next()?.parse().ok()
        };
        let nanos = self.processes().into_iter().filter_map(|pid| {
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
            Some(
                threads
                    .flatten()
                    .filter_map(|thread| of(thread.path()))
                    .sum::<u64>(),
            )
        });
        Duration::from_nanos(nanos.sum())
    }

    /// Begins to count its system calls.
    ///
    /// # Errors
    /// When strace cannot be had.
    pub fn count_calls(&self, places: &Places) -> Result<Counting, Error> {
        let output = places.dir.join("strace");
        let pids: Vec<String> = self.processes().iter().map(u32::to_string).collect();
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
