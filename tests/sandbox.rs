//! Confinement of razorfsd: that it is in place in every thread, and that it holds.
#![allow(missing_docs, unsafe_code, clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use razorfs::sandbox::{Action, Reach, confine};

/// landlock_create_ruleset(2).
const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
/// An ordinary user: nobody.
const USER: u32 = 65534;
/// What the confined process below is to try, and the directory that it is confined to.
const TRY: &str = "RAZORFS_TEST_CONFINED";
const DIR: &str = "RAZORFS_TEST_DIR";

fn mkfs(store: &Path) {
    let made = Command::new(env!("CARGO_BIN_EXE_razorfs"))
        .args(["mkfs", "--allow-volatile"])
        .arg(store)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}

struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    /// Starts razorfsd as `user` on a store of its own.
    fn start(user: u32, flags: &[&str]) -> Daemon {
        Daemon::start_after(|_| {}, user, flags)
    }

    /// The same, once something was done to the store's directory.
    fn start_after(prepare: impl FnOnce(&Path), user: u32, flags: &[&str]) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        mkfs(&store);
        let own = |path: &Path| chown(path, Some(user), Some(user)).unwrap();
        own(dir.path());
        own(&store);
        fs::read_dir(&store)
            .unwrap()
            .for_each(|file| own(&file.unwrap().path()));
        prepare(&store);
        let child = Command::new(env!("CARGO_BIN_EXE_razorfsd"))
            .args(["--allow-volatile", "--store"])
            .arg(&store)
            .arg("--socket-path")
            .arg(dir.path().join("socket"))
            .args(flags)
            .uid(user)
            .gid(user)
            .spawn()
            .unwrap();
        let mut daemon = Daemon { child, dir };
        daemon.wait();
        daemon
    }

    /// Waits until it serves: then it has more than one thread.
    fn wait(&mut self) {
        let begin = Instant::now();
        while self.tasks().len() < 3 || !self.dir.path().join("socket").exists() {
            assert!(self.child.try_wait().unwrap().is_none(), "it ended");
            assert!(begin.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What the kernel says of each thread.
    fn tasks(&self) -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        tasks
            .filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok())
            .collect()
    }

    fn end(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
        assert!(!self.dir.path().join("socket").exists());
    }
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name}")).trim()
}

/// The user to run as: an ordinary one if we may choose.
fn user() -> u32 {
    match rustix::process::getuid() {
        root if root.is_root() => USER,
        own => own.as_raw(),
    }
}

#[test]
fn every_thread_of_a_daemon_is_confined() {
    for user in [user(), rustix::process::getuid().as_raw()] {
        let daemon = Daemon::start(user, &[]);
        for status in daemon.tasks() {
            assert_eq!(field(&status, "NoNewPrivs:"), "1");
            assert_eq!(field(&status, "Seccomp:"), "2");
            for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
                assert_eq!(field(&status, set), "0000000000000000", "{set}");
            }
            if user == 0 {
                assert_eq!(field(&status, "CapBnd:"), "0000000000000000");
            }
        }
        let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.child.id())).unwrap();
        let core = limits.lines().find(|line| line.contains("core file size"));
        let core: Vec<_> = core.unwrap().split_whitespace().collect();
        assert_eq!(core[4..6], ["0", "0"]);
        daemon.end();
    }
}

#[test]
fn confinement_can_be_switched_off() {
    let daemon = Daemon::start(user(), &["--sandbox", "none"]);
    for status in daemon.tasks() {
        assert_eq!(field(&status, "Seccomp:"), "0");
        assert_eq!(field(&status, "NoNewPrivs:"), "0");
    }
    daemon.end();
}

/// Commands cannot find it then; guests can.
#[test]
fn a_daemon_that_cannot_make_its_control_socket_serves_all_the_same() {
    let closed = |store: &Path| {
        fs::set_permissions(store, fs::Permissions::from_mode(0o555)).unwrap();
    };
    for flags in [&[] as &[&str], &["--readonly"]] {
        let daemon = Daemon::start_after(closed, user(), flags);
        let socket = daemon.dir.path().join("store/control.sock");
        assert!(!socket.exists());
        daemon.end();
    }
    let open = Daemon::start(user(), &["--readonly"]);
    assert!(open.dir.path().join("store/control.sock").exists());
    open.end();
}

/// Runs the test below in a process of its own.
fn confined(what: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "what_a_confined_process_does", "--nocapture"])
        .env(TRY, what)
        .env(DIR, dir.path())
        .output()
        .unwrap()
}

/// Only with a word in the environment: confines itself, and tries what the word says.
#[test]
fn what_a_confined_process_does() {
    let Ok(what) = std::env::var(TRY) else {
        return;
    };
    let dir = PathBuf::from(std::env::var_os(DIR).unwrap());
    let sockets = dir.join("sockets");
    fs::create_dir(&sockets).unwrap();
    let store = dir.join("store");
    fs::create_dir(&store).unwrap();
    let reach = Reach {
        socket_dir: (what == "listen").then_some(sockets.as_path()),
        ..Reach::of(&store)
    };
    let inside = reach.store.join("file");
    fs::write(&inside, b"1").unwrap();
    confine(&reach, Action::Kill).unwrap();
    match what.as_str() {
        "work" => {
            assert_eq!(fs::read(&inside).unwrap(), b"1");
            let sum = std::thread::spawn(|| 2 + 2).join().unwrap();
            assert_eq!(sum, 4);
        }
        "connect" => drop(std::net::TcpListener::bind("127.0.0.1:0")),
        "listen" => {
            let listen = |dir: &Path| std::os::unix::net::UnixListener::bind(dir.join("s"));
            listen(&sockets).unwrap();
            fs::remove_file(sockets.join("s")).unwrap();
            match listen(&dir) {
                Ok(_) => println!("opened"),
                Err(error) => println!("refused: {error}"),
            }
        }
        // Without a directory for them.
        "bind" => match std::os::unix::net::UnixListener::bind(sockets.join("s")) {
            Ok(_) => println!("opened"),
            Err(error) => println!("refused: {error}"),
        },
        "run" => drop(Command::new("/bin/true").status()),
        "map" => drop(
            memmap2::MmapOptions::new()
                .len(4096)
                .map_anon()
                .map(memmap2::MmapMut::make_exec),
        ),
        "open" => match fs::read("/etc/passwd") {
            Ok(_) => println!("opened"),
            Err(error) => println!("refused: {error}"),
        },
        other => panic!("{other}"),
    }
}

#[test]
fn a_system_call_outside_the_list_ends_the_process() {
    const SIGSYS: i32 = 31;
    let work = confined("work");
    assert!(work.status.success(), "{work:?}");
    for what in ["connect", "run", "map"] {
        let output = confined(what);
        assert_eq!(output.status.signal(), Some(SIGSYS), "{what}: {output:?}");
    }
}

#[test]
fn what_is_outside_the_store_is_out_of_reach() {
    for what in ["open", "bind", "listen"] {
        let output = confined(what);
        is_refused(&output);
    }
}

/// Where the kernel can refuse it.
fn is_refused(output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout);
    // SAFETY: with this flag the call only tells the version of Landlock.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    if version > 0 {
        assert!(said.contains("refused"), "{said}");
    } else {
        assert!(output.status.success() && said.contains("opened"), "{said}");
        println!("not shown: this kernel has no Landlock");
    }
}
