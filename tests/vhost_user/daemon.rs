//! razorfsd as its own process, with a store of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::ROOT;
use vm_tests::frontend::{Mount, Options, WAIT};

/// A running daemon.
pub struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
    flags: Vec<String>,
}

/// Whether somebody listens at a path. It is there a moment before, and trying would be a
/// connection that some daemons end with.
fn is_listened_on(path: &Path) -> bool {
    // Num RefCount Protocol Flags Type St Inode Path; the flag is __SO_ACCEPTCON.
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    sockets.lines().any(|line| {
        line.ends_with(path.to_str().unwrap()) && line.split_whitespace().nth(3) == Some("00010000")
    })
}

fn launch(dir: &Path, flags: &[String]) -> Child {
    launch_at(dir, "socket", flags)
}

/// Starts a daemon on the store in `dir`, with its socket there.
fn launch_at(dir: &Path, socket: &str, flags: &[String]) -> Child {
    let socket = dir.join(socket);
    let child = spawn(dir, &socket, flags);
    wait_for(&socket);
    child
}

fn spawn(dir: &Path, socket: &Path, flags: &[String]) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .unwrap();
    Command::new(env!("CARGO_BIN_EXE_razorfsd"))
        .args(["--allow-volatile", "--log-level", "warn", "--socket-path"])
        .arg(socket)
        .arg("--store")
        .arg(dir.join("store"))
        .args(flags)
        .current_dir(dir)
        .stderr(log)
        .spawn()
        .unwrap()
}

/// How a process ends.
pub fn ended(child: &mut Child) -> ExitStatus {
    let since = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(since.elapsed() < WAIT, "it does not end");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A daemon serves guests a moment before another can take over.
pub fn wait_for_handover(dir: &Path) {
    let since = Instant::now();
    while !dir.join("store/handover.sock").exists() {
        assert!(since.elapsed() < WAIT, "no other could take over");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn wait_for(socket: &Path) {
    let since = Instant::now();
    while !is_listened_on(socket) {
        assert!(since.elapsed() < WAIT, "no socket");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A directory with a store in it.
pub fn make_store(mkfs: &[&str]) -> tempfile::TempDir {
    make_store_in(tempfile::tempdir().unwrap(), mkfs)
}

fn make_store_in(dir: tempfile::TempDir, mkfs: &[&str]) -> tempfile::TempDir {
    let made = Command::new(env!("CARGO_BIN_EXE_razorfs"))
        .args(["mkfs", "--allow-volatile", "--log-size", "8M"])
        .args(mkfs)
        .arg(dir.path().join("store"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    dir
}

fn command(dir: &Path, verb: &str, rest: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_razorfs"))
        .args([verb, "--allow-volatile"])
        .arg(dir.join("store"))
        .args(rest)
        .output()
        .unwrap()
}

/// Runs commands of razorfs: each a verb, and what follows the store.
fn run(dir: &Path, commands: &[&[&str]]) {
    for command in commands {
        let [verb, rest @ ..] = command else {
            continue;
        };
        let done = self::command(dir, verb, rest);
        assert!(done.status.success(), "{done:?}");
    }
}

impl Daemon {
    /// Makes a store and starts a daemon on it.
    pub fn start(flags: &[&str]) -> Daemon {
        Daemon::start_with(&[], flags)
    }

    /// The same on a store that holds at most `size` of content.
    pub fn start_sized(size: &str, flags: &[&str]) -> Daemon {
        Daemon::start_with(&["--size", size], flags)
    }

    /// The same on a store on which commands of razorfs were run: each a verb and what follows the
    /// store.
    pub fn start_prepared(commands: &[&[&str]], flags: &[&str]) -> Daemon {
        let dir = make_store(&[]);
        run(dir.path(), commands);
        Daemon::start_in(dir, flags)
    }

    /// The same on a store in a directory of a new file system.
    pub fn start_on(disk: &Path, flags: &[&str]) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let store = disk.join("store");
        std::fs::create_dir(&store).unwrap();
        std::os::unix::fs::symlink(store, dir.path().join("store")).unwrap();
        Daemon::start_in(make_store_in(dir, &[]), flags)
    }

    /// Has a new process take over from it, which ends. How long that took.
    pub fn take_over(&mut self) -> Duration {
        wait_for_handover(self.dir.path());
        let since = Instant::now();
        let flags = [self.flags.as_slice(), &["--take-over".into()]].concat();
        let new = spawn(self.dir.path(), &self.socket(), &flags);
        let status = self.wait();
        assert!(status.success(), "{status}\n{}", self.log());
        self.child = new;
        since.elapsed()
    }

    /// What a process says that asks to take over and does not get it; the daemon stays.
    pub fn keeps(&mut self, flags: &[&str]) -> String {
        wait_for_handover(self.dir.path());
        let ended = Command::new(env!("CARGO_BIN_EXE_razorfsd"))
            .args(["--allow-volatile", "--take-over", "--socket-path"])
            .arg(self.socket())
            .arg("--store")
            .arg(self.dir.path().join("store"))
            .args(flags)
            .output()
            .unwrap();
        assert!(!ended.status.success());
        self.is_unharmed("an attempt to take over");
        String::from_utf8(ended.stderr).unwrap()
    }

    /// The directory that it and its store are in.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Another process on the same store, with a socket of its own.
    pub fn beside(&self, socket: &str, flags: &[&str]) -> Beside {
        let flags: Vec<_> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Beside(launch_at(self.dir.path(), socket, &flags))
    }

    fn start_with(mkfs: &[&str], flags: &[&str]) -> Daemon {
        Daemon::start_in(make_store(mkfs), flags)
    }

    fn start_in(dir: tempfile::TempDir, flags: &[&str]) -> Daemon {
        let flags: Vec<_> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let child = launch(dir.path(), &flags);
        Daemon { child, dir, flags }
    }

    /// A daemon on a copy of the store, which is not in use; sockets may be made beside it.
    pub fn copy(&self) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let copied = Command::new("cp")
            .args(["-a", "--sparse=always"])
            .args([self.dir.path().join("store"), dir.path().join("store")])
            .status()
            .unwrap();
        assert!(copied.success());
        let flag = format!("--socket-dir={}", dir.path().display());
        Daemon::start_in(dir, &[&flag])
    }

    /// The same with a configuration file, which is all that says what is exported; one of its
    /// sockets is waited for.
    pub fn start_configured(commands: &[&[&str]], config: &str, socket: &str) -> Daemon {
        let dir = make_store(&[]);
        run(dir.path(), commands);
        let log = File::create(dir.path().join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_razorfsd"))
            .args(["--allow-volatile", "--config", config, "--store"])
            .arg(dir.path().join("store"))
            .current_dir(dir.path())
            .stderr(log)
            .spawn()
            .unwrap();
        wait_for(Path::new(socket));
        Daemon {
            child,
            dir,
            flags: Vec::new(),
        }
    }

    /// Ends it, has commands of razorfs run, and starts it with other flags.
    pub fn restart_after(mut self, commands: &[&[&str]], flags: &[&str]) -> Daemon {
        self.signal();
        assert!(self.wait().success(), "{}", self.log());
        run(self.dir.path(), commands);
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        self.child = launch(self.dir.path(), &self.flags);
        self
    }

    /// What a daemon says that does not start, on a store of its own.
    pub fn refused(flags: &[&str]) -> String {
        let dir = make_store(&[]);
        let ended = Command::new(env!("CARGO_BIN_EXE_razorfsd"))
            .args(["--allow-volatile", "--store"])
            .arg(dir.path().join("store"))
            .args(flags)
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(!ended.status.success());
        String::from_utf8(ended.stderr).unwrap()
    }

    /// What a command of razorfs does with the store: a verb, and what follows the store.
    pub fn command(&self, verb: &str, rest: &[&str]) -> Output {
        command(self.dir.path(), verb, rest)
    }

    /// Where commands find it.
    pub fn control(&self) -> PathBuf {
        self.dir.path().join("store/control.sock")
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// A new session with it.
    pub fn mount(&self, options: &Options) -> Mount {
        match Mount::new(&self.socket(), options) {
            Ok(mount) => mount,
            Err(error) => panic!("no session: {error}\n{}", self.log()),
        }
    }

    /// A session at a socket that flags named, relative to the daemon's directory.
    pub fn mount_at(&self, socket: &str) -> Mount {
        let path = self.dir.path().join(socket);
        // The one that was waited for at the start is made before the others.
        let since = Instant::now();
        loop {
            match Mount::new(&path, &Options::default()) {
                Ok(mount) => return mount,
                Err(error) => assert!(since.elapsed() < WAIT, "no session: {error}"),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// It lives, none of its threads panicked, and it serves a new front-end.
    pub fn is_well(&mut self, after: &str) {
        let since = Instant::now();
        let mut mount = self.mount(&Options::default());
        for client in &mut mount.clients {
            client.call(request::getattr(ROOT)).unwrap();
        }
        assert!(since.elapsed() < WAIT, "after {after}");
        self.is_unharmed(after);
    }

    /// It lives, and none of its threads panicked.
    pub fn is_unharmed(&mut self, after: &str) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "{ended:?} after {after}\n{}", self.log());
        assert!(
            !self.log().contains("panicked"),
            "after {after}: {}",
            self.log()
        );
    }

    /// A field of the status of each thread whose name begins so, by name.
    pub fn threads(&self, name: &str, field: &str) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let mut found: Vec<_> = tasks
            .filter_map(|task| {
                let status = std::fs::read_to_string(task.ok()?.path().join("status")).ok()?;
                let line = |name| status.lines().find_map(|line| line.strip_prefix(name));
                let (is, value) = (line("Name:")?.trim(), line(field)?.trim());
                is.starts_with(name)
                    .then(|| (is.to_owned(), value.to_owned()))
            })
            .collect();
        found.sort();
        found.into_iter().map(|(_, value)| value).collect()
    }

    /// Bytes of memory that it has now.
    pub fn rss_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// Bytes of memory that it had at most.
    pub fn rss_max_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    fn status_bytes(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib: u64 = line
            .unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap();
        kib << 10
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// A daemon on the same store, after [`Daemon::kill`].
    pub fn restart(&mut self) {
        // What the killed one left, if nobody had it removed.
        if self.socket().exists() {
            std::fs::remove_file(self.socket()).unwrap();
        }
        self.child = launch(self.dir.path(), &self.flags);
    }

    /// SIGTERM, and a daemon on the same store behind its end.
    pub fn reopen(&mut self) {
        self.stop();
        self.child = launch(self.dir.path(), &self.flags);
    }

    /// razorfsck on everything.
    pub fn check(&self) {
        let checked = Command::new(env!("CARGO_BIN_EXE_razorfsck"))
            .arg("--data")
            .arg(self.dir.path().join("store"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success(), "{said}\n{}", self.log());
    }

    /// Waits for the end, which must be a good one, and checks the store.
    pub fn ends_well(mut self) {
        let status = self.wait();
        assert!(status.success(), "{status}\n{}", self.log());
        assert!(!self.log().contains("panicked"), "{}", self.log());
        assert!(!self.socket().exists(), "the socket is removed");
        self.check();
    }

    /// SIGTERM, and [`Daemon::ends_well`].
    pub fn terminate(self) {
        self.signal();
        self.ends_well();
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM, and waits for its end.
    pub fn stop(&mut self) {
        self.signal();
        assert!(self.wait().success(), "{}", self.log());
    }

    fn signal(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        ended(&mut self.child)
    }
}

/// A daemon on a store that is another's too.
pub struct Beside(Child);

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
