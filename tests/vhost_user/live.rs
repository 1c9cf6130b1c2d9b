//! Exports that come and go, and a configuration file that is read again, while guests are served.
//! The daemon is confined as ever.

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::ROOT;
use vm_tests::frontend::{Options, WAIT};

use crate::daemon::Daemon;

fn said(output: &Output) -> String {
    String::from_utf8([&*output.stdout, &*output.stderr].concat()).unwrap()
}

/// A directory for sockets and a configuration file, which only tests that have it know.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn flag(&self) -> String {
        format!("--socket-dir={}", self.0.path().display())
    }
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < WAIT, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_dataset_is_exported_and_deleted_while_others_are_served() {
    let place = Place::new();
    let mut daemon = Daemon::start(&[&place.flag()]);
    let mut main = daemon.mount(&Options::default());
    assert!(daemon.command("create", &["web"]).status.success());
    let (socket, named) = (place.at("w"), format!("web:{}:files", place.at("w")));
    for _ in 0..2 {
        let done = daemon.command("export", &[&named]);
        assert!(done.status.success(), "{done:?}\n{}", daemon.log());
    }
    let mut web = daemon.mount_at(&socket);
    let made = web.client(0).call(request::create(ROOT, "file", 0o644));
    let (entry, open) = made.unwrap();
    let write = request::write(entry.nodeid, open.fh, 0, b"bytes");
    web.client(0).call(write).unwrap();
    let refused = daemon.command("unexport", &[&socket]);
    assert!(said(&refused).contains("connected"), "{refused:?}");
    drop(web);
    until("the guest is gone", || {
        daemon.command("unexport", &[&socket]).status.success()
    });
    assert!(!Path::new(&socket).exists());
    // Again, on the same socket; now it is taken from the guest.
    let done = daemon.command("export", &[&named, "--json"]);
    assert!(said(&done).contains("\"is_connected\": false"), "{done:?}");
    let mut web = daemon.mount_at(&socket);
    let found = web.client(0).call(request::lookup(ROOT, "file")).unwrap();
    let read = request::read(found.nodeid, 0, 0, 100);
    assert_eq!(web.client(0).call(read).unwrap(), b"bytes");
    let busy = daemon.command("delete", &["web"]);
    assert!(said(&busy).contains("in use"), "{busy:?}");
    let forced = daemon.command("unexport", &[&socket, "--force"]);
    assert!(forced.status.success(), "{forced:?}");
    assert!(!Path::new(&socket).exists());
    assert!(daemon.command("delete", &["web"]).status.success());
    // Nobody else noticed.
    main.client(0).call(request::getattr(ROOT)).unwrap();
    drop((main, web));
    daemon.is_well("exports that came and went");
    daemon.terminate();
}

#[test]
fn what_cannot_be_exported_is_told_with_what_to_do() {
    let place = Place::new();
    let daemon = Daemon::start(&[&place.flag()]);
    let elsewhere = tempfile::tempdir().unwrap();
    let other = format!("main:{}", elsewhere.path().join("s").display());
    let second = format!("main:{}", place.at("s"));
    for (arg, words) in [
        (other.as_str(), "--socket-dir"),
        (second.as_str(), "shared"),
        ("main", "DATASET:SOCKET"),
        (&format!("none:{}", place.at("s")), "'none'"),
    ] {
        let done = daemon.command("export", &[arg]);
        assert!(
            !done.status.success() && said(&done).contains(words),
            "{arg}: {done:?}"
        );
    }
    daemon.terminate();
    let fixed = Daemon::start(&[]);
    let done = fixed.command("export", &[&format!("{second}:ro")]);
    assert!(
        said(&done).contains("start it with --socket-dir"),
        "{done:?}"
    );
    // Those that it was started with can go all the same.
    let socket = fixed.socket();
    let done = fixed.command("unexport", &[socket.to_str().unwrap()]);
    assert!(done.status.success() && !socket.exists(), "{done:?}");
    fixed.terminate();
}

#[test]
fn without_a_daemon_there_is_nothing_to_export() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let razorfs = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_razorfs"));
        command.args(args).output().unwrap()
    };
    let path = store.to_str().unwrap();
    assert!(
        razorfs(&["mkfs", "--allow-volatile", path])
            .status
            .success()
    );
    for args in [
        ["export", path, "main:/run/s"],
        ["unexport", path, "/run/s"],
    ] {
        let done = razorfs(&args);
        assert!(!done.status.success());
        assert!(said(&done).contains("no daemon serves it"), "{done:?}");
    }
}

/// A hundred of them on one socket, and the daemon is what it was.
#[test]
fn exports_leave_nothing_behind() {
    let place = Place::new();
    let daemon = Daemon::start(&[&place.flag()]);
    assert!(daemon.command("create", &["web"]).status.success());
    let descriptors = || {
        let all = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
        all.count()
    };
    let turn = |socket: &str| {
        let named = format!("web:{}", place.at(socket));
        assert!(daemon.command("export", &[&named]).status.success());
        drop(daemon.mount_at(&place.at(socket)));
        let forced = [&place.at(socket), "--force"];
        assert!(daemon.command("unexport", &forced).status.success());
    };
    turn("a");
    let before = (descriptors(), daemon.threads("razorfs-", "Pid:").len());
    (0..30).for_each(|_| turn("a"));
    let after = || (descriptors(), daemon.threads("razorfs-", "Pid:").len());
    until("threads and descriptors are gone", || {
        after().0 <= before.0 && after().1 <= before.1
    });
    daemon.terminate();
}

#[test]
fn a_configuration_file_that_is_read_again_changes_what_can_change() {
    let place = Place::new();
    let file = place.at("vm.toml");
    let write = |text: &str| {
        // As editors do: another file takes its place.
        std::fs::write(place.at("vm.toml~"), text).unwrap();
        std::fs::rename(place.at("vm.toml~"), &file).unwrap();
    };
    let sockets = |names: &[&str]| {
        let table = |name: &&str| {
            let socket = place.at(name);
            format!("[[export]]\ndataset = '{name}'\nsocket = '{socket}'\n")
        };
        names.iter().map(table).collect::<String>()
    };
    let top = format!(
        "socket-dir = '{}'\ncache-size = '64M'\n",
        place.0.path().display()
    );
    write(&format!(
        "{top}log-level = 'warn'\n{}",
        sockets(&["web", "db"])
    ));
    let prepare: &[&[&str]] = &[&["create", "web"], &["create", "db"], &["create", "new"]];
    let daemon = Daemon::start_configured(prepare, &file, &place.at("web"));
    // It was waited for the first socket.
    until("all are served", || Path::new(&place.at("db")).exists());
    let mut web = daemon.mount_at(&place.at("web"));
    let schedule = "[[snapshots]]\ndataset = 'new'\nevery = '1h'\nkeep = { last = 1 }\n";
    write(&format!(
        "{}log-level = 'info'\nscrub-interval = 30\n{}{schedule}",
        top.replace("64M", "32M"),
        sockets(&["web", "new"])
    ));
    daemon.hang_up();
    until("it is read", || daemon.log().contains("is in force"));
    let log = daemon.log();
    assert!(
        log.contains("cache-size cannot change") && log.contains("stays 64M, not 32M"),
        "{log}"
    );
    assert!(Path::new(&place.at("new")).exists() && !Path::new(&place.at("db")).exists());
    drop(daemon.mount_at(&place.at("new")));
    until("a snapshot is taken", || {
        said(&daemon.command("list", &[])).contains("new@auto-")
    });
    until("a scrub is made", || daemon.log().contains("scrub: "));
    web.client(0).call(request::getattr(ROOT)).unwrap();
    // An error changes nothing, and is told with its place.
    write(&format!("{top}{}\nexprt = 1\n", sockets(&["db"])));
    daemon.hang_up();
    until("it is refused", || daemon.log().contains("nothing changes"));
    let log = daemon.log();
    let line = log
        .lines()
        .find(|line| line.contains("nothing changes"))
        .unwrap();
    assert!(
        line.contains("vm.toml, line 7: unknown key 'exprt'"),
        "{line}"
    );
    assert!(Path::new(&place.at("new")).exists() && !Path::new(&place.at("db")).exists());
    // One that takes the parser of flags to find.
    write(&format!("{top}durability = 'maybe'\n"));
    daemon.hang_up();
    let none_of = "line 3: 'durability': 'maybe' is none of: strict, fsync, relaxed";
    until("it is refused too", || daemon.log().contains(none_of));
    write(&format!("{top}num-queues = 'x'\n"));
    daemon.hang_up();
    until("and that", || {
        daemon.log().contains("line 3: 'num-queues': 'x'")
    });
    web.client(0).call(request::getattr(ROOT)).unwrap();
    drop(web);
    daemon.terminate();
}

#[test]
fn a_hangup_without_a_configuration_file_harms_nothing() {
    let mut daemon = Daemon::start(&[]);
    daemon.hang_up();
    until("it is told", || {
        daemon.log().contains("no configuration file")
    });
    daemon.is_well("SIGHUP");
    daemon.terminate();
}
