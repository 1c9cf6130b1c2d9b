//! razorfsd as the service manager that runs it sees it: what it logs, and what it tells.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use razorfs::engine::{Cred, NewInode, OpenOptions, Volume};
use razorfs::format::id::Ino;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// How long anything may take.
const WAIT: Duration = Duration::from_secs(60);

/// A new store, and what a daemon that serves it says.
struct Host {
    dir: tempfile::TempDir,
}

/// A daemon that is to end by itself or by a signal.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until something is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < WAIT, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl Host {
    fn new() -> Host {
        let dir = tempfile::tempdir().unwrap();
        let made = Command::new(env!("CARGO_BIN_EXE_razorfs"))
            .args(["mkfs", "--allow-volatile", "--log-size", "8M"])
            .arg(dir.path().join("store"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        Host { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap()
    }

    /// A daemon that logs to a file, which is the journal's stream if `journal`.
    fn daemon(&self, flags: &[&str], journal: bool) -> Daemon {
        let mut command = self.command(flags);
        let log = File::create(self.path("log")).unwrap();
        let metadata = log.metadata().unwrap();
        // Without that the variable says something of another stream.
        let inode = metadata.ino() + u64::from(!journal);
        command
            .env("JOURNAL_STREAM", format!("{}:{inode}", metadata.dev()))
            .stderr(log);
        Daemon(command.spawn().unwrap())
    }

    fn command(&self, flags: &[&str]) -> Command {
        let mut command = self.store_command();
        let socket = self.path("socket");
        command.arg("--socket-path").arg(socket).args(flags);
        command
    }

    /// One that exports what else says.
    fn store_command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_razorfsd"));
        command
            .args(["--allow-volatile", "--store"])
            .arg(self.path("store"))
            .current_dir(self.dir.path());
        command
    }

    /// Starts a daemon, ends it when it serves, and returns its log.
    fn logged(&self, flags: &[&str], journal: bool) -> String {
        let daemon = self.daemon(flags, journal);
        until("it does not say where commands are taken", || {
            self.log().contains("commands for")
        });
        daemon.end();
        self.log()
    }
}

impl Daemon {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// SIGTERM, and a good end.
    fn end(mut self) {
        self.signal(Signal::TERM);
        let mut status = None;
        until("it does not end", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.unwrap().success(), "{status:?}");
    }
}

fn is_timestamp(text: &str) -> bool {
    text.parse::<jiff::Timestamp>().is_ok()
}

/// The text after a prefix `<N>`, and N.
fn prioritized(line: &str) -> (u8, &str) {
    let rest = line.strip_prefix('<').and_then(|rest| rest.split_once('>'));
    let (priority, rest) = rest.unwrap_or_else(|| panic!("no priority: {line}"));
    (priority.parse().unwrap(), rest)
}

fn json_of(line: &str) -> serde_json::Value {
    let value: serde_json::Value = serde_json::from_str(line).unwrap();
    let keys: Vec<_> = value.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["level", "message", "target", "timestamp"], "{line}");
    assert!(is_timestamp(value["timestamp"].as_str().unwrap()), "{line}");
    value
}

#[test]
fn the_log_is_json_where_that_is_asked_for() {
    let host = Host::new();
    let log = host.logged(&["--log-format", "json"], false);
    let lines: Vec<_> = log.lines().map(json_of).collect();
    let says = |level: &str, text: &str| {
        let mut lines = lines.iter();
        lines.any(|line| line["level"] == level && line["message"].as_str().unwrap().contains(text))
    };
    assert!(says("INFO", "commands for"), "{log}");
    assert!(says("INFO", "closed "), "{log}");
    // Levels count as they do for text.
    std::fs::write(host.path("conf.toml"), "log-format = 'json'\n").unwrap();
    let config = ["--config", "conf.toml", "--log-level", "warn"];
    let mut daemon = host.daemon(&config, false);
    until("it is not there", || {
        host.path("store/control.sock").exists()
    });
    daemon.signal(Signal::TERM);
    daemon.0.wait().unwrap();
    assert!(
        host.log()
            .lines()
            .all(|line| json_of(line)["level"] == "WARN")
    );
    // What is wrong with the store is told in JSON, too.
    std::fs::remove_file(host.path("store/wal.log")).unwrap();
    let failed = host.command(&config).output().unwrap();
    let said = String::from_utf8(failed.stderr).unwrap();
    assert_eq!(failed.status.code(), Some(1));
    let last = json_of(said.lines().last().unwrap());
    assert!(
        last["level"] == "ERROR" && said.contains("wal.log"),
        "{said}"
    );
}

#[test]
fn the_journal_is_told_how_grave_a_line_is_and_no_time() {
    let host = Host::new();
    let log = host.logged(&[], true);
    assert!(
        log.lines()
            .all(|line| (3..=7).contains(&prioritized(line).0))
    );
    assert!(log.lines().any(|line| line.starts_with("<6>razorfsd::")));
    let is_bare = |line: &str| prioritized(line).1.starts_with("razorfs");
    assert!(log.lines().all(is_bare), "{log}");
    let log = host.logged(&["--log-format", "json"], true);
    log.lines().for_each(|line| {
        json_of(prioritized(line).1);
    });
    // A stream that is not the journal's, though the variable is there.
    let log = host.logged(&[], false);
    assert!(log.lines().all(|line| line.starts_with('[')), "{log}");
}

#[test]
fn syslog_has_a_form_of_its_own() {
    let host = Host::new();
    let refused = host
        .command(&["--syslog", "--log-format=json"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        said.contains("--log-format: json is for standard error"),
        "{said}"
    );
    assert!(!Path::new(&host.path("socket")).exists());
}

/// A service manager's end of it.
struct Manager {
    socket: UnixDatagram,
    /// What came so far, one string for each message.
    heard: Vec<String>,
}

impl Manager {
    fn new(host: &Host) -> Manager {
        let socket = UnixDatagram::bind(host.path("notify")).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        Manager {
            socket,
            heard: Vec::new(),
        }
    }

    /// Starts a daemon that it watches, if within a time.
    fn start(&self, host: &Host, flags: &[&str], patience: Option<Duration>) -> Daemon {
        let mut command = host.command(flags);
        command.env("NOTIFY_SOCKET", host.path("notify"));
        command.stderr(File::create(host.path("log")).unwrap());
        if let Some(patience) = patience {
            command.env("WATCHDOG_USEC", patience.as_micros().to_string());
        }
        Daemon(command.spawn().unwrap())
    }

    /// Takes the next message, if one comes in a while.
    fn hear(&mut self) {
        let mut bytes = [0; 4096];
        if let Ok(len) = self.socket.recv(&mut bytes) {
            let text = std::str::from_utf8(&bytes[..len]).unwrap();
            self.heard.push(text.to_owned());
        }
    }

    /// Which process it was told is the main one from then on.
    fn main_process(&self) -> Option<Pid> {
        let mut lines = self.heard.iter().flat_map(|text| text.lines());
        let pid = lines.find_map(|line| line.strip_prefix("MAINPID="))?;
        Pid::from_raw(pid.parse().ok()?)
    }

    fn count(&self, line: &str) -> usize {
        self.heard
            .iter()
            .filter(|message| has(message, line))
            .count()
    }

    /// Waits until it has heard a line that begins so as often as this. It takes what comes without
    /// a pause: who sends waits for that.
    fn expect(&mut self, line: &str, count: usize) {
        let since = Instant::now();
        let mut heard = self.count(line);
        while heard < count {
            assert!(since.elapsed() < WAIT, "{line}: {heard} times");
            let before = self.heard.len();
            self.hear();
            let new = self.heard.iter().skip(before);
            heard += new.filter(|message| has(message, line)).count();
        }
    }
}

/// Who has taken over is nobody's child here.
impl Drop for Manager {
    fn drop(&mut self) {
        self.hear();
        if let Some(pid) = self.main_process() {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Whether one of a message's lines begins so.
fn has(message: &str, line: &str) -> bool {
    message.lines().any(|one| one.starts_with(line))
}

#[test]
fn the_manager_hears_when_guests_are_served_and_when_no_more() {
    let host = Host::new();
    let config = format!(
        "socket-dir = '{}'\n[[export]]\nsocket = '{}'\n",
        host.dir.path().display(),
        host.path("one.sock").display()
    );
    std::fs::write(host.path("conf.toml"), &config).unwrap();
    let mut manager = Manager::new(&host);
    let mut command = host.store_command();
    command.args(["--config", "conf.toml"]);
    command.env("NOTIFY_SOCKET", host.path("notify"));
    command.stderr(File::create(host.path("log")).unwrap());
    let daemon = Daemon(command.spawn().unwrap());
    manager.expect("READY=1", 1);
    UnixStream::connect(host.path("one.sock")).unwrap();
    let status = format!(
        "STATUS=serving {} on {}",
        host.path("store").display(),
        host.path("one.sock").display()
    );
    assert_eq!(manager.count(&status), 1, "{:?}", manager.heard);
    assert_eq!(manager.count("RELOADING=1"), 0);
    // Who asked for the configuration to be read again hears when that was done, also in vain.
    for (count, config) in [
        (1, config.replace("[[export]]", "[[export]]\ntag = 'x'")),
        (2, "!".into()),
    ] {
        std::fs::write(host.path("conf.toml"), config).unwrap();
        daemon.signal(Signal::HUP);
        manager.expect("RELOADING=1", count);
        manager.expect("READY=1", 1 + count);
        assert_eq!(manager.count("MONOTONIC_USEC="), count);
    }
    // Nobody asked it to tell that it lives.
    assert_eq!(manager.count("WATCHDOG=1"), 0);
    assert_eq!(manager.count("STOPPING=1"), 0);
    daemon.end();
    manager.expect("STOPPING=1", 1);
}

#[test]
fn a_daemon_that_does_not_serve_is_not_ready() {
    let host = Host::new();
    // Found when the store is opened, behind all that is done before.
    std::fs::write(host.path("store/wal.log"), [0; 1 << 20]).unwrap();
    let mut manager = Manager::new(&host);
    let mut daemon = manager.start(&host, &[], None);
    until("it does not end", || {
        manager.hear();
        daemon.0.try_wait().unwrap().is_some()
    });
    while !manager.heard.is_empty() && manager.count("END") == 0 {
        let end = UnixDatagram::unbound().unwrap();
        end.send_to(b"END", host.path("notify")).unwrap();
        manager.hear();
    }
    assert_eq!(manager.count("READY=1"), 0, "{:?}", manager.heard);
    assert!(host.log().contains("wal.log"), "{}", host.log());
}

#[test]
fn a_watched_daemon_says_that_it_lives_until_it_does_not() {
    let host = Host::new();
    let mut manager = Manager::new(&host);
    let daemon = manager.start(&host, &[], Some(Duration::from_millis(300)));
    manager.expect("READY=1", 1);
    let before = manager.count("WATCHDOG=1");
    manager.expect("WATCHDOG=1", before + 3);
    daemon.signal(Signal::STOP);
    // What was said before.
    let is_quiet = |manager: &mut Manager| {
        let count = manager.heard.len();
        (0..10).for_each(|_| manager.hear());
        manager.heard.len() == count
    };
    until("it says that it lives, and does not", || {
        is_quiet(&mut manager)
    });
    daemon.signal(Signal::CONT);
    manager.expect("WATCHDOG=1", before + 4);
    daemon.end();
}

/// A program that is installed for a test: a copy of razorfsd.
fn install(host: &Host) {
    let (new, installed) = (host.path("razorfsd.new"), host.path("razorfsd"));
    std::fs::copy(env!("CARGO_BIN_EXE_razorfsd"), &new).unwrap();
    std::fs::rename(new, installed).unwrap();
}

/// A service of one export, and of the program that is installed.
struct Service {
    host: Host,
    manager: Manager,
    /// The first process of it.
    daemon: Daemon,
    /// A front-end that is connected.
    front_end: UnixStream,
}

impl Service {
    fn start(watchdog: Option<Duration>) -> Service {
        let host = Host::new();
        install(&host);
        let config = format!(
            "store = '{}'\nallow-volatile = true\nsocket-dir = '{}'\n[[export]]\nsocket = '{}'\n",
            host.path("store").display(),
            host.dir.path().display(),
            host.path("one.sock").display()
        );
        std::fs::write(host.path("conf.toml"), config).unwrap();
        let mut manager = Manager::new(&host);
        let mut command = Service::command(&host);
        command.env("NOTIFY_SOCKET", host.path("notify"));
        // Others write to it, too.
        let log = File::options()
            .append(true)
            .create(true)
            .open(host.path("log"));
        command.stderr(log.unwrap());
        if let Some(patience) = watchdog {
            command.env("WATCHDOG_USEC", patience.as_micros().to_string());
        }
        let daemon = Daemon(command.spawn().unwrap());
        manager.expect("READY=1", 1);
        let front_end = UnixStream::connect(host.path("one.sock")).unwrap();
        front_end.set_nonblocking(true).unwrap();
        Service {
            host,
            manager,
            daemon,
            front_end,
        }
    }

    fn command(host: &Host) -> Command {
        let mut command = Command::new(host.path("razorfsd"));
        command.args(["--config", "conf.toml"]);
        command.current_dir(host.dir.path());
        command
    }

    /// What the manager runs for a reload; of the watchdog it tells the main process alone.
    fn reload(&self, pid: u32) -> Output {
        let log = File::options().append(true).open(self.host.path("log"));
        let mut command = Service::command(&self.host);
        command.args(["--reload", &pid.to_string()]);
        command.env("NOTIFY_SOCKET", self.host.path("notify"));
        command.stderr(log.unwrap());
        command.output().unwrap()
    }

    fn is_connected(&mut self) -> bool {
        let read = self.front_end.read(&mut [0]);
        read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

#[test]
fn a_reload_of_the_same_program_has_the_configuration_read_again() {
    let mut service = Service::start(None);
    let pid = service.daemon.0.id();
    let done = service.reload(pid);
    assert!(done.status.success(), "{}", service.host.log());
    service.manager.expect("RELOADING=1", 1);
    service.manager.expect("READY=1", 2);
    assert!(service.manager.main_process().is_none() && service.is_connected());
    service.daemon.end();
}

#[test]
fn a_reload_lets_another_program_take_over_as_the_main_process() {
    let mut service = Service::start(Some(Duration::from_millis(300)));
    install(&service.host);
    let old = service.daemon.0.id();
    let done = service.reload(old);
    let log = service.host.log();
    assert!(done.status.success(), "{log}");
    // The old one was waited for.
    let ended = service.daemon.0.try_wait().unwrap();
    assert!(ended.is_some_and(|status| status.success()), "{log}");
    service.manager.expect("MAINPID=", 1);
    let new = service.manager.main_process().unwrap();
    assert!(test_kill_process(new).is_ok() && Some(new) != Pid::from_raw(old as i32));
    service.manager.expect("READY=1", 2);
    assert!(service.is_connected(), "{log}");
    // It lives, and says so, though the manager has not told it to.
    let beats = service.manager.count("WATCHDOG=1");
    service.manager.expect("WATCHDOG=1", beats + 3);
    assert_eq!(service.manager.count("STOPPING=1"), 0, "{log}");
    // It is what signals go to: once more the file, and then the end.
    kill_process(new, Signal::HUP).unwrap();
    service.manager.expect("RELOADING=1", 1);
    service.manager.expect("READY=1", 3);
    kill_process(new, Signal::TERM).unwrap();
    service.manager.expect("STOPPING=1", 1);
    until("it does not end", || {
        service.host.log().matches("closed ").count() == 2
    });
}

#[test]
fn who_cannot_take_over_leaves_the_guests_where_they_are() {
    let mut service = Service::start(None);
    let pid = service.daemon.0.id();
    install(&service.host);
    // What it is to be like cannot be.
    let config = std::fs::read_to_string(service.host.path("conf.toml")).unwrap();
    let other = format!("socket-group = 'no such group'\n{config}");
    std::fs::write(service.host.path("conf.toml"), other).unwrap();
    assert!(!service.reload(pid).status.success());
    // The configuration is read by who goes on.
    service.manager.expect("RELOADING=1", 1);
    service.manager.expect("READY=1", 2);
    assert!(service.host.log().contains("goes on, with the program"));
    assert!(service.manager.main_process().is_none() && service.is_connected());
    // A mistake changes nothing.
    std::fs::write(service.host.path("conf.toml"), "!").unwrap();
    assert!(!service.reload(pid).status.success());
    // SIGHUP would end it.
    let other = Command::new("sleep").arg("60").spawn().unwrap();
    std::fs::write(service.host.path("conf.toml"), config).unwrap();
    let mut other = Daemon(other);
    assert!(!service.reload(other.0.id()).status.success());
    assert!(other.0.try_wait().unwrap().is_none());
    assert!(service.host.log().contains("it is no razorfsd"));
    service.daemon.end();
}

/// What requests and an earlier reload have exported goes on, and what the file says now is in force
/// behind it.
#[test]
fn a_reload_of_another_program_brings_all_exports_and_the_file_along() {
    let mut service = Service::start(None);
    let store = service.host.path("store");
    let at = |name: &str| service.host.path(name).display().to_string();
    let razorfs = |verb: &str, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_razorfs"));
        let done = command.arg(verb).arg(&store).args(args).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    for dataset in ["web", "db"] {
        razorfs("create", &[dataset]);
    }
    razorfs("export", &[&format!("web:{}:files", at("web.sock"))]);
    let config = std::fs::read_to_string(at("conf.toml")).unwrap();
    let named = |socket: &str| format!("[[export]]\ndataset = 'db'\nsocket = '{}'\n", at(socket));
    std::fs::write(at("conf.toml"), format!("{config}{}", named("two.sock"))).unwrap();
    let pid = service.daemon.0.id();
    assert!(service.reload(pid).status.success());
    service.manager.expect("READY=1", 2);
    UnixStream::connect(at("two.sock")).unwrap();
    std::fs::write(at("conf.toml"), format!("{config}{}", named("three.sock"))).unwrap();
    install(&service.host);
    assert!(
        service.reload(pid).status.success(),
        "{}",
        service.host.log()
    );
    for socket in ["one.sock", "web.sock", "three.sock"] {
        UnixStream::connect(at(socket)).unwrap();
    }
    assert!(!Path::new(&at("two.sock")).exists(), "it is named no more");
    razorfs("unexport", &[&at("web.sock"), "--force"]);
    assert!(!Path::new(&at("web.sock")).exists());
    service.manager.expect("MAINPID=", 1);
    let new = service.manager.main_process().unwrap();
    kill_process(new, Signal::TERM).unwrap();
    until("it does not end", || {
        service.host.log().matches("closed ").count() == 2
    });
}

#[test]
fn nobody_takes_over_from_who_was_not_named() {
    let mut service = Service::start(None);
    let other = Service::start(None);
    install(&service.host);
    assert!(!service.reload(other.daemon.0.id()).status.success());
    let said = format!("it is process {} that serves", service.daemon.0.id());
    assert!(service.host.log().contains(&said), "{}", service.host.log());
    assert!(service.is_connected());
    service.daemon.end();
    other.daemon.end();
}

/// Files that only the log has.
const FILES: u32 = 5000;

#[test]
fn opening_may_take_longer_while_it_goes_on() {
    let host = Host::new();
    let options = OpenOptions {
        allow_volatile: true,
        background: false,
        ..OpenOptions::default()
    };
    let volume = Volume::open(&host.path("store"), options).unwrap();
    let new = NewInode {
        mode: 0o100_644,
        umask: 0o022,
        rdev: 0,
        xattrs: &[],
        supplementary_gid: None,
    };
    for n in 0..FILES {
        let name = format!("file {n}");
        volume
            .create(Cred::default(), Ino::ROOT, name.as_bytes(), &new)
            .unwrap();
    }
    volume.sync_all().unwrap();
    // Not closed.
    drop(volume);
    let mut manager = Manager::new(&host);
    let daemon = manager.start(&host, &[], Some(Duration::from_millis(12)));
    manager.expect("READY=1", 1);
    let opening = manager.heard.iter();
    let opening = opening.take_while(|message| !message.contains("READY=1"));
    let extended = opening.filter(|message| message.contains("EXTEND_TIMEOUT_USEC=60000000"));
    assert!(extended.count() >= 3, "{:?}", manager.heard);
    assert_eq!(manager.count("STATUS=opening"), 1);
    daemon.end();
}
