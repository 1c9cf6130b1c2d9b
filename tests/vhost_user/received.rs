//! Snapshots received by a confined daemon that serves guests.

use std::fs::File;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::ROOT;
use vm_tests::frontend::{Client, Options, WAIT};

use crate::daemon::Daemon;

const PIECE: usize = 1 << 16;
const PIECES: u64 = 96;

fn bytes(number: u64) -> Vec<u8> {
    let mut bytes = vec![0; PIECE];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

fn make(client: &mut Client) -> u64 {
    let made = client.call(request::create(ROOT, "file", 0o644));
    let (entry, open) = made.unwrap();
    for number in 0..PIECES {
        let write = request::write(entry.nodeid, open.fh, number * PIECE as u64, &bytes(number));
        client.call(write).unwrap();
    }
    entry.nodeid
}

fn has(client: &mut Client) {
    let found = client.call(request::lookup(ROOT, "file")).unwrap();
    for number in 0..PIECES {
        let read = request::read(found.nodeid, 0, number * PIECE as u64, PIECE as u32);
        assert!(client.call(read).unwrap() == bytes(number), "{number}");
    }
}

fn receive(daemon: &Daemon, rest: &[&str], input: Stdio) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_razorfs"));
    command.arg("receive").arg(daemon.dir().join("store"));
    let command = command.args(rest).stdin(input).stdout(Stdio::piped());
    command.stderr(Stdio::piped()).spawn().unwrap()
}

fn send(daemon: &Daemon, what: &[&str]) -> Vec<u8> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_razorfs"));
    command.arg("send").arg(daemon.dir().join("store"));
    let sent = command.args(what).output().unwrap();
    assert!(sent.status.success(), "{sent:?}");
    sent.stdout
}

fn token(daemon: &Daemon) -> Option<String> {
    let told = receive(daemon, &["web", "--resume-token"], Stdio::null());
    let told = told.wait_with_output().unwrap();
    let token = String::from_utf8(told.stdout).unwrap().trim().to_owned();
    told.status.success().then_some(token)
}

/// Ends what goes on beside, also when the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_snapshot_arrives_beside_guests() {
    let source = Daemon::start(&[]);
    let mut guest = source.mount(&Options::default());
    make(guest.client(0));
    assert!(source.command("snapshot", &["main@one"]).status.success());
    let sockets = tempfile::tempdir().unwrap();
    let mut target = Daemon::start(&[&format!("--socket-dir={}", sockets.path().display())]);
    let mut other = target.mount(&Options::default());
    let stream = send(&source, &["main@one"]);
    assert!(stream.len() > PIECE * PIECES as usize);

    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (over, client) = (&over, other.client(0));
        let beside = scope.spawn(move || {
            let (entry, open) = client.call(request::create(ROOT, "own", 0o644)).unwrap();
            while !over.load(Ordering::Relaxed) {
                let write = request::write(entry.nodeid, open.fh, 0, b"beside");
                client.call(write).unwrap();
                client
                    .call(request::fsync(entry.nodeid, open.fh, 0))
                    .unwrap();
            }
        });
        let ends = Ends(over);
        // A sender that stops in the middle, and a receiver that is told to.
        let mut cut = receive(&target, &["web"], Stdio::piped());
        let mut input = cut.stdin.take().unwrap();
        input.write_all(&stream[..stream.len() / 2]).unwrap();
        let begin = Instant::now();
        while token(&target).is_none() {
            assert!(begin.elapsed() < WAIT);
            std::thread::sleep(Duration::from_millis(20));
        }
        let pid = rustix::process::Pid::from_child(&cut);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let cut = cut.wait_with_output().unwrap();
        let said = String::from_utf8(cut.stderr).unwrap();
        assert!(
            !cut.status.success() && said.contains("broken off"),
            "{said}"
        );
        drop(input);
        assert!(!target.command("snapshot", &["web@x"]).status.success());
        // The rest of it, once the daemon has seen that.
        loop {
            let token = token(&target).unwrap();
            let rest = send(&source, &["--resume", &token]);
            let path = target.dir().join("rest");
            std::fs::write(&path, &rest).unwrap();
            let done = receive(
                &target,
                &["web", "--json"],
                File::open(path).unwrap().into(),
            );
            let done = done.wait_with_output().unwrap();
            if done.status.success() {
                let told: Value = serde_json::from_slice(&done.stdout).unwrap();
                assert_eq!(
                    (&told["dataset"], &told["bytes"]),
                    (&json!("web"), &json!(rest.len()))
                );
                break;
            }
            let said = String::from_utf8(done.stderr).unwrap();
            assert!(begin.elapsed() < WAIT, "{said}\n{}", target.log());
        }
        drop(ends);
        beside.join().unwrap();
    });
    assert!(token(&target).is_none());
    let socket = sockets.path().join("web");
    let export = format!("web@one:{}", socket.display());
    assert!(target.command("export", &[&export]).status.success());
    let mut web = target.mount_at(socket.to_str().unwrap());
    has(web.client(0));
    drop((guest, other, web));
    source.terminate();
    target.is_well("a receive");
    target.terminate();
}
