//! Trees that a confined daemon imports and extracts while it serves guests.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::ROOT;
use vm_tests::frontend::{Client, Options, WAIT};

use crate::daemon::Daemon;

const FILES: u8 = 40;
const FILE_BYTES: usize = 100_000;
/// What has a guest believe what it is told for a second only.
const AUTO: &str = "--cache=auto";

fn content(number: u8) -> Vec<u8> {
    let mut bytes = vec![0; FILE_BYTES];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[number]);
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..FILES {
        fs::write(dir.path().join(format!("f{number:02}")), content(number)).unwrap();
    }
    dir
}

fn tar(dir: &Path) -> Vec<u8> {
    let mut packed = Command::new("tar");
    packed.arg("-C").arg(dir).args(["-cf", "-", "."]);
    let packed = packed.output().unwrap();
    assert!(packed.status.success(), "{packed:?}");
    packed.stdout
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

/// An import of what is to come.
fn begin(daemon: &Daemon, rest: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_razorfs"));
    command
        .arg("import")
        .arg(daemon.dir().join("store"))
        .arg("-");
    let command = command
        .args(rest)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command.stderr(Stdio::piped()).spawn().unwrap()
}

fn node(client: &mut Client, dir: u64, name: &str) -> Option<u64> {
    let found = client.call(request::lookup(dir, name)).ok()?;
    // That there is none is an answer, too.
    Some(found.nodeid).filter(|node| *node != 0)
}

/// Whether there are files in a directory, as it is seen without a guest.
fn is_there(daemon: &Daemon, dir: &str) -> bool {
    let mut extract = Command::new(env!("CARGO_BIN_EXE_razorfs"));
    extract.arg("extract").arg(daemon.dir().join("store"));
    let done = extract.args(["main", "-", "--path", dir]).output().unwrap();
    done.status.success() && done.stdout.len() > FILE_BYTES
}

/// What the guest finds of the tree, each file whole.
fn found(client: &mut Client, dir: &str) -> u8 {
    let Some(dir) = node(client, ROOT, dir) else {
        return 0;
    };
    let mut count = 0;
    for number in 0..FILES {
        if let Some(file) = node(client, dir, &format!("f{number:02}")) {
            let read = request::read(file, 0, 0, FILE_BYTES as u32);
            assert!(client.call(read).unwrap() == content(number), "{number}");
            count += 1;
        }
    }
    count
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < WAIT, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_tree_comes_and_goes_beside_guests() {
    let mut daemon = Daemon::start(&[AUTO]);
    let tree = tree();
    let mut mount = daemon.mount(&Options::default());
    let out = tempfile::tempdir().unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (over, client) = (&over, mount.client(0));
        let guest = scope.spawn(move || {
            let (entry, open) = client.call(request::create(ROOT, "own", 0o644)).unwrap();
            while !over.load(Ordering::Relaxed) {
                let write = request::write(entry.nodeid, open.fh, 0, b"beside");
                client.call(write).unwrap();
                client
                    .call(request::fsync(entry.nodeid, open.fh, 0))
                    .unwrap();
            }
        });
        let source = tree.path().to_str().unwrap();
        let done = daemon.command("import", &[source, "--to", "in"]);
        let target = out.path().join("main");
        let mut extract = Command::new(env!("CARGO_BIN_EXE_razorfs"));
        extract
            .arg("extract")
            .arg(daemon.dir().join("store"))
            .arg("main");
        let extracted = extract.arg(&target).output().unwrap();
        over.store(true, Ordering::Relaxed);
        guest.join().unwrap();
        assert!(done.status.success(), "{}", said(&done));
        assert!(extracted.status.success(), "{}", said(&extracted));
    });
    assert_eq!(found(mount.client(0), "in"), FILES);
    for number in 0..FILES {
        let file = out.path().join(format!("main/in/f{number:02}"));
        assert!(fs::read(file).unwrap() == content(number));
    }
    let own = fs::read(out.path().join("main/own")).unwrap();
    assert!(own.is_empty() || own == b"beside");
    // What the guest has open stays what it was for it.
    let dir = node(mount.client(0), ROOT, "in").unwrap();
    let old = node(mount.client(0), dir, "f00").unwrap();
    let open = mount.client(0).call(request::open(old, 0)).unwrap();
    fs::write(tree.path().join("f00"), b"new").unwrap();
    let source = tree.path().to_str().unwrap();
    let merged = daemon.command("import", &[source, "--to", "in", "--merge"]);
    assert!(merged.status.success(), "{}", said(&merged));
    let read = request::read(old, open.fh, 0, FILE_BYTES as u32);
    assert!(mount.client(0).call(read).unwrap() == content(0));
    let new = node(mount.client(0), dir, "f00").unwrap();
    let read = request::read(new, 0, 0, 100);
    assert_eq!(mount.client(0).call(read).unwrap(), b"new");
    drop(mount);
    daemon.is_well("imports");
    daemon.terminate();
}

/// By default a guest keeps what it was told: it is not to miss anything.
#[test]
fn nothing_is_imported_that_a_guest_would_not_see() {
    let daemon = Daemon::start(&[]);
    let tree = tree();
    let source = tree.path().to_str().unwrap();
    let mount = daemon.mount(&Options::default());
    let refused = daemon.command("import", &[source]);
    assert!(said(&refused).contains("--cache auto"), "{refused:?}");
    assert!(!refused.status.success());
    drop(mount);
    let mut done = daemon.command("import", &[source]);
    until("the guest is gone", || {
        done = match done.status.success() {
            true => return true,
            false => daemon.command("import", &[source]),
        };
        false
    });
    // One that comes in the middle of it ends it.
    let stream = tar(tree.path());
    let mut import = begin(&daemon, &["--to", "more"]);
    let mut input = import.stdin.take().unwrap();
    input.write_all(&stream[..stream.len() / 2]).unwrap();
    until("some of it is there", || is_there(&daemon, "more"));
    let mut mount = daemon.mount(&Options::default());
    let before = found(mount.client(0), "more");
    // Who reads may be gone by now.
    let _ = input.write_all(&stream[stream.len() / 2..]);
    drop(input);
    let ended = import.wait_with_output().unwrap();
    assert!(!ended.status.success(), "{}", said(&ended));
    assert!(said(&ended).contains("--cache auto"), "{}", said(&ended));
    assert!(before > 0 && before < FILES, "{before}");
    assert_eq!(found(mount.client(0), "more"), before);
    drop(mount);
    daemon.terminate();
}

/// Guests that go on with another process do not wait for an import, and what came of it is there.
#[test]
fn guests_do_not_wait_for_an_import() {
    let mut daemon = Daemon::start(&[AUTO]);
    let mut mount = daemon.mount(&Options::default());
    let tree = tree();
    let stream = tar(tree.path());
    let mut import = begin(&daemon, &["--to", "in"]);
    let mut input = import.stdin.take().unwrap();
    input.write_all(&stream[..stream.len() / 2]).unwrap();
    until("it has begun", || found(mount.client(0), "in") > 0);
    // It is told to end, or this would wait for what is never sent.
    daemon.take_over();
    let ended = import.wait_with_output().unwrap();
    assert!(said(&ended).contains("interrupted"), "{}", said(&ended));
    assert!(!ended.status.success());
    drop(input);
    let there = found(mount.client(0), "in");
    assert!((1..FILES).contains(&there), "{there}");
    let source = tree.path().to_str().unwrap();
    let merged = daemon.command("import", &[source, "--to", "in", "--merge"]);
    assert!(merged.status.success(), "{}", said(&merged));
    assert_eq!(found(mount.client(0), "in"), FILES);
    drop(mount);
    daemon.terminate();
}
