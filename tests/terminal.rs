//! What a command that takes long shows on a terminal, and that Ctrl-C typed there ends it. The terminal
//! is one that util-linux's script(1) makes.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod host;

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use host::scratch_dir;

const RAZORFS: &str = env!("CARGO_BIN_EXE_razorfs");
/// Bytes of content: at this rate a scrub takes four seconds.
const CONTENT_BYTES: usize = 8 << 20;
const RATE: &str = "2M";
const BAR: &[u8] = b"reading bytes";

fn store(dir: &Path) {
    let made = Command::new(RAZORFS).arg("mkfs").arg(dir).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let tree = dir.with_extension("tree");
    fs::create_dir(&tree).unwrap();
    // Each block another.
    let numbers = (0u64..).flat_map(u64::to_le_bytes);
    let content: Vec<u8> = numbers.take(CONTENT_BYTES).collect();
    fs::write(tree.join("file"), content).unwrap();
    let mut import = Command::new(RAZORFS);
    let imported = import.arg("import").arg(dir).arg(&tree).output().unwrap();
    assert!(imported.status.success(), "{imported:?}");
}

/// Runs `razorfs scrub` on a terminal, where somebody types these once its bar is shown. Whatever shell
/// the user has, the program takes its place: one that stayed would get a typed Ctrl-C as well.
fn scrub(store: &Path, more: &str, keys: &[u8]) -> Output {
    let command = format!(
        "stty cols 80; exec {RAZORFS} scrub {} {more}",
        store.display()
    );
    let mut script = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .envs([("TERM", "xterm"), ("SHELL", "/bin/sh")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut typed = script.stdin.take().unwrap();
    let mut terminal = script.stdout.take().unwrap();
    let mut keys = Some(keys).filter(|keys| !keys.is_empty());
    let (mut shown, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let read = terminal.read(&mut piece).unwrap();
        if read == 0 {
            break;
        }
        shown.extend_from_slice(&piece[..read]);
        if shown.windows(BAR.len()).any(|part| part == BAR)
            && let Some(keys) = keys.take()
        {
            typed.write_all(keys).unwrap();
        }
    }
    Output {
        status: script.wait().unwrap(),
        stdout: shown,
        stderr: Vec::new(),
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_bar_is_shown_with_an_estimate_and_is_gone_in_the_end() {
    let dir = scratch_dir();
    let path = dir.path().join("store");
    store(&path);
    let done = scrub(&path, &format!("--rate {RATE}"), b"");
    let shown = text(&done);
    assert!(done.status.success(), "{shown}");
    assert!(shown.contains("reading bytes"), "{shown:?}");
    assert!(shown.contains("% of at most"), "{shown:?}");
    let left = ["1s left", "2s left", "3s left"];
    assert!(left.iter().any(|left| shown.contains(left)), "{shown:?}");
    let (_, last) = shown.trim_end().rsplit_once('\r').unwrap();
    assert!(last.contains("0 damaged"), "{shown:?}");
    assert!(
        !last.contains("reading"),
        "the bar is still there: {shown:?}"
    );
}

#[test]
fn what_is_quick_shows_nothing_but_its_result() {
    let dir = scratch_dir();
    let path = dir.path().join("store");
    store(&path);
    let shown = text(&scrub(&path, "", b""));
    assert_eq!(shown.lines().count(), 1, "{shown:?}");
}

#[test]
fn ctrl_c_ends_it() {
    let dir = scratch_dir();
    let path = dir.path().join("store");
    store(&path);
    let done = scrub(&path, "--rate 64K", b"\x03");
    assert_eq!(done.status.code(), Some(3), "{}", text(&done));
    assert!(text(&done).contains("so far"), "{}", text(&done));
}
