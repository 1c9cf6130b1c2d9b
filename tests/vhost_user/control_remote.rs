//! Commands from other machines, snapshots sent and paths restored, to a confined daemon that serves
//! guests.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::ROOT;
use vm_tests::frontend::{Mount, Options};

use crate::daemon::Daemon;

/// What a machine needs to speak to the daemon, and it to be spoken to.
pub struct Secrets {
    dir: tempfile::TempDir,
    port: u16,
}

impl Secrets {
    pub fn new() -> Secrets {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            ("token", b"not-a-token-to-guess\n".as_slice()),
            ("cert.pem", include_bytes!("../tls/cert.pem")),
            ("key.pem", include_bytes!("../tls/key.pem")),
            ("ca.pem", include_bytes!("../tls/ca.pem")),
        ];
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        // Free a moment ago.
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        Secrets { dir, port }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Where the daemon listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn flags(&self) -> Vec<String> {
        vec![
            format!("--control-tcp=127.0.0.1:{}", self.port),
            format!("--control-token-file={}", self.path("token")),
            format!("--control-cert={}", self.path("cert.pem")),
            format!("--control-key={}", self.path("key.pem")),
        ]
    }

    pub fn command(&self, verb: &str, rest: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_razorfs"))
            .args([verb, "/not/here"])
            .args(rest)
            .arg(format!("--control=https://localhost:{}", self.port))
            .arg(format!("--control-token-file={}", self.path("token")))
            .arg(format!("--control-ca={}", self.path("ca.pem")))
            .output()
            .unwrap()
    }
}

fn write(mount: &mut Mount, name: &str, bytes: &[u8]) {
    let create = request::create(ROOT, name, 0o644);
    let (entry, open) = mount.client(0).call(create).unwrap();
    for (n, piece) in bytes.chunks(65_536).enumerate() {
        let write = request::write(entry.nodeid, open.fh, n as u64 * 65_536, piece);
        mount.client(0).call(write).unwrap();
    }
}

fn is_there(mount: &mut Mount, name: &str) -> bool {
    let found = mount.client(0).call(request::lookup(ROOT, name));
    // Without a number it is known not to be there.
    found.is_ok_and(|entry| entry.nodeid != 0)
}

fn text(output: &Output) -> String {
    String::from_utf8([&output.stdout[..], &output.stderr].concat()).unwrap()
}

/// Through the daemon's socket.
fn send(control: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_razorfs"))
        .arg("send")
        .arg(control.parent().unwrap())
        .arg("main@a")
        .output()
        .unwrap()
}

#[test]
fn another_machine_does_what_the_host_could() {
    let secrets = Secrets::new();
    let flags = secrets.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut daemon = Daemon::start(&flags);
    let mut guest = daemon.mount(&Options::default());
    write(&mut guest, "file", &[7; 3_000_000]);
    for (verb, rest) in [
        ("create", &["web", "--json"][..]),
        ("snapshot", &["main@a", "--json"]),
        ("list", &[]),
    ] {
        let done = secrets.command(verb, rest);
        assert!(done.status.success(), "{}", text(&done));
    }
    assert!(text(&secrets.command("list", &[])).contains("main@a"));
    // As the socket has it.
    let [there, here] = [
        secrets.command("send", &["main@a"]),
        send(&daemon.control()),
    ];
    assert!(there.status.success() && there.stdout == here.stdout);
    // What is sent while the guest goes on can be received.
    let target = tempfile::tempdir().unwrap();
    let store = target.path().join("store");
    let razorfs = env!("CARGO_BIN_EXE_razorfs");
    let made = Command::new(razorfs)
        .args(["mkfs", "--allow-volatile"])
        .arg(&store)
        .output()
        .unwrap();
    assert!(made.status.success());
    let mut receive = Command::new(razorfs)
        .args(["receive", "--allow-volatile"])
        .arg(&store)
        .arg("copy")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = receive.stdin.take().unwrap();
    input.write_all(&there.stdout).unwrap();
    drop(input);
    assert!(receive.wait().unwrap().success());
    // Somebody who does not know the token.
    fs::write(secrets.path("token"), "not-the-token-to-guess").unwrap();
    let refused = secrets.command("create", &["other"]);
    assert!(
        !refused.status.success() && text(&refused).contains("token"),
        "{refused:?}"
    );
    assert!(is_there(&mut guest, "file"));
    drop(guest);
    daemon.is_well("commands over TCP");
    daemon.terminate();
}

#[test]
fn whatever_comes_over_the_network_leaves_the_daemon_well() {
    let secrets = Secrets::new();
    let flags = secrets.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut daemon = Daemon::start(&flags);
    let before = daemon.rss_bytes();
    let garbage: Vec<u8> = (0..1 << 20)
        .map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    // A record of TLS that says that it is longer than it is, and garbage in the place of one.
    let hello = [&[0x16, 3, 1, 0x40, 0, 1][..], &garbage[..1000]].concat();
    for bytes in [&garbage[..], &hello, b"GET / HTTP/1.1\r\n\r\n", b""] {
        for _ in 0..30 {
            let mut stream = TcpStream::connect(("127.0.0.1", secrets.port)).unwrap();
            let _ = stream.write_all(bytes);
            if bytes.len() < 100 {
                drop(stream);
                continue;
            }
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            assert!(answer.len() < 100, "an alert at most");
        }
    }
    // As many as it talks to say nothing: the UNIX socket is none of theirs.
    let silent: Vec<_> = (0..100)
        .map(|_| TcpStream::connect(("127.0.0.1", secrets.port)).unwrap())
        .collect();
    assert!(daemon.command("list", &[]).status.success());
    drop(silent);
    assert!(secrets.command("list", &[]).status.success());
    daemon.is_well("garbage over TCP");
    let after = daemon.rss_bytes();
    assert!(after < before + (24 << 20), "{before} {after}");
    daemon.terminate();
}

#[test]
fn a_daemon_without_token_or_tls_does_not_start() {
    let secrets = Secrets::new();
    let token = format!("--control-token-file={}", secrets.path("token"));
    let socket = "--socket-path=s";
    let said = Daemon::refused(&[socket, "--control-tcp=127.0.0.1:1"]);
    assert!(said.contains("--control-token-file"), "{said}");
    let said = Daemon::refused(&[
        socket,
        "--control-tcp=0.0.0.0:1",
        "--control-plaintext",
        &token,
    ]);
    assert!(said.contains("loopback"), "{said}");
    let said = Daemon::refused(&[socket, "--control-tcp=127.0.0.1:1", &token]);
    assert!(said.contains("--control-cert"), "{said}");
    fs::set_permissions(secrets.path("token"), fs::Permissions::from_mode(0o644)).unwrap();
    let plain = ["--control-tcp=127.0.0.1:1", "--control-plaintext"];
    let said = Daemon::refused(&[socket, plain[0], plain[1], &token]);
    assert!(said.contains("not secret"), "{said}");
}

#[test]
fn guests_that_come_and_go_are_told_of() {
    let daemon = Daemon::start(&[]);
    let mut watch = UnixStream::connect(daemon.control()).unwrap();
    watch
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    watch
        .write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut told = String::new();
    let mut hear = |until: &str| {
        let mut bytes = [0; 4096];
        while !told.contains(until) {
            let len = watch.read(&mut bytes).unwrap();
            assert!(len > 0, "{told}");
            told += std::str::from_utf8(&bytes[..len]).unwrap();
        }
    };
    hear("\n:");
    let guest = daemon.mount(&Options::default());
    hear("event: guest_attached");
    drop(guest);
    hear("event: guest_detached");
    // Who watches does not hold the end up.
    let begin = std::time::Instant::now();
    daemon.terminate();
    assert!(begin.elapsed() < Duration::from_secs(4));
}

/// What keeps names for a day would not see it, and so nothing is done; whoever looks again does.
#[test]
fn a_path_comes_back_to_guests_that_will_see_it() {
    let restore = ["main@a", "--path", "/file", "--json"];
    let daemon = Daemon::start(&[]);
    let mut guest = daemon.mount(&Options::default());
    write(&mut guest, "file", b"precious");
    assert!(daemon.command("snapshot", &["main@a"]).status.success());
    guest.client(0).call(request::unlink(ROOT, "file")).unwrap();
    let refused = daemon.command("restore", &restore);
    assert!(text(&refused).contains(".snapshots"), "{}", text(&refused));
    assert!(!is_there(&mut guest, "file"));
    drop(guest);
    // Nobody has it mounted.
    let mut tries = 0;
    while !daemon.command("restore", &restore).status.success() {
        tries += 1;
        assert!(tries < 100, "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    let taken = text(&daemon.command("restore", &restore));
    assert!(taken.contains("is there already"), "{taken}");
    let daemon = daemon.restart_after(&[], &["--cache=auto"]);
    let mut guest = daemon.mount(&Options::default());
    assert!(is_there(&mut guest, "file"));
    let rest = ["main@a", "--path", "file", "--to", "again", "--json"];
    let done = daemon.command("restore", &rest);
    assert!(done.status.success(), "{}", text(&done));
    assert!(text(&done).contains(r#""inodes": 1"#));
    assert!(is_there(&mut guest, "again"));
    let done = daemon.command("restore", &["main@a", "--path", "file", "--replace"]);
    assert!(done.status.success(), "{}", text(&done));
    drop(guest);
    daemon.terminate();
}
