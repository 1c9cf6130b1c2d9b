//! razorfsd as the service manager that runs it sees it: what it logs.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

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
    let year = jiff::Timestamp::now().to_string();
    assert!(!log.contains(&year[..10]), "{log}");
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
