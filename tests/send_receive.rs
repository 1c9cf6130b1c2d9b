//! Snapshots sent from one store to another by the programs, and compared on mounts by rsync, which
//! knows nothing of razorfs.
//!
//! Needs root and /dev/fuse, and rsync (scripts/install_deps.sh); without root or /dev/fuse it passes
//! and says that it was skipped.
#![allow(missing_docs)]
// Helpers outside of test functions fail a test by panicking too.
#![allow(clippy::unwrap_used, clippy::panic)]

mod host;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use host::{is_root_with_fuse, mounted, scratch_dir};

/// What a guest may do to a tree, as a shell says it; the working directory is the mount.
const FIRST: &str = r#"
    mkdir -p a/b/c empty
    head -c 700000 /dev/urandom > a/random
    head -c 3000000 /dev/zero | tr '\0' x > a/even
    ln a/random a/b/linked
    ln -s ../random a/b/link
    mkfifo a/fifo
    mknod a/null c 1 3
    truncate -s 10M a/sparse
    printf data | dd of=a/sparse bs=1 seek=5000000 conv=notrunc status=none
    fallocate -l 1M a/reserved
    printf short > a/behind; fallocate -n -l 1M a/behind
    cp --reflink=auto a/even a/b/copy
    setfattr -n user.small -v value a/random
    setfattr -n user.large -v "$(head -c 20000 /dev/zero | tr '\0' y)" a/random
    setfattr -n trusted.of -v root a/b
    setfacl -m u:1000:rw a/even
    setfacl -d -m g:100:rx a/b
    chown 12:34 a/even; chmod 4750 a/even; chmod 1777 empty
    touch -h -d '1999-12-31 23:59:59.123456789' a/b/link
    touch -d '2033-05-18 03:33:20.000000001' a/b
    for i in $(seq 300); do echo $i > a/b/c/file$i; done
"#;

/// What happens between two snapshots.
const THEN: &str = r#"
    mv a/b moved
    mkdir a/b; mv moved/c a/b/d
    rm a/b/d/file1*; rm a/fifo; rmdir empty
    for i in $(seq 20); do echo again > a/b/d/file1$i; done
    dd if=/dev/urandom of=a/even bs=1000 seek=500 count=3 conv=notrunc status=none
    truncate -s 600000 a/random
    fallocate -p -o 100000 -l 200000 a/random
    setfattr -x user.small a/random
    setfacl -b a/even
    ln -sfn elsewhere moved/link
"#;

struct Dirs(tempfile::TempDir);

impl Dirs {
    fn new() -> Option<Dirs> {
        if !is_root_with_fuse() {
            return None;
        }
        let dir = scratch_dir();
        let dirs = Dirs(dir);
        for store in ["one", "two"] {
            run(dirs.razorfs("mkfs", store));
        }
        Some(dirs)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn razorfs(&self, command: &str, store: &str) -> Command {
        let mut razorfs = Command::new(env!("CARGO_BIN_EXE_razorfs"));
        razorfs.arg(command).arg(self.path(store));
        razorfs
    }

    fn send(&self, store: &str, args: &[&str], to: &str) {
        let out = File::create(self.path(to)).unwrap();
        let mut send = self.razorfs("send", store);
        send.args(args).stdout(out);
        run(send);
    }

    fn receive(&self, store: &str, args: &[&str], stream: &str) -> bool {
        let input = File::open(self.path(stream)).unwrap();
        let mut receive = self.razorfs("receive", store);
        receive.args(args).stdin(input);
        receive.status().unwrap().success()
    }

    fn check(&self, store: &str) {
        let mut check = Command::new(env!("CARGO_BIN_EXE_razorfsck"));
        check.arg(self.path(store)).stdout(Stdio::null());
        run(check);
    }

    fn list(&self, store: &str) -> String {
        let out = self.razorfs("list", store).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    }

    /// What rsync would have to do to make one like the other: nothing, of equal trees.
    fn compare(&self, one: &str, other: &str, same: bool) -> String {
        let one = Mount::new(self, "one", one);
        let other = Mount::new(self, "two", other);
        if same {
            compare_numbers(&one.dir, &other.dir);
        }
        let out = Command::new("rsync")
            .args([
                "-nacHAXi",
                "--numeric-ids",
                "--delete",
                "--specials",
                "--devices",
            ])
            // Attributes of the root user, too.
            .args(["--super"])
            .arg(one.dir.join(""))
            .arg(other.dir.join(""))
            .output()
            .unwrap();
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).unwrap()
    }
}

/// What rsync does not look at: space and inode numbers.
fn compare_numbers(one: &Path, other: &Path) {
    for name in ["a/sparse", "a/reserved", "a/behind", "a/random"] {
        let numbers = |dir: &Path| {
            let found = fs::metadata(dir.join(name)).unwrap();
            (found.blocks(), found.ino())
        };
        assert_eq!(numbers(one), numbers(other), "{name}");
    }
}

fn run(mut command: Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}");
}

/// A mount, gone at the end.
struct Mount {
    dir: PathBuf,
    daemon: Child,
}

impl Mount {
    fn new(dirs: &Dirs, store: &str, dataset: &str) -> Mount {
        let dir = dirs.path(&format!("mnt-{store}"));
        let _ = fs::create_dir(&dir);
        fs::set_permissions(&dir, PermissionsExt::from_mode(0o755)).unwrap();
        let mut razorfs = dirs.razorfs("mount", store);
        razorfs
            .arg(&dir)
            .args(["--dataset", dataset, "-o", "suid,dev"]);
        let daemon = mounted(razorfs, &dir);
        Mount { dir, daemon }
    }

    fn work(&self, script: &str) {
        let mut shell = Command::new("sh");
        shell.args(["-euc", script]).current_dir(&self.dir);
        run(shell);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.dir).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            let _ = Command::new("umount").arg("-l").arg(&self.dir).status();
            let _ = self.daemon.kill();
        }
        let _ = self.daemon.wait();
    }
}

#[test]
fn what_arrives_is_what_was_sent() {
    let Some(dirs) = Dirs::new() else { return };
    Mount::new(&dirs, "one", "main").work(FIRST);
    run_with(dirs.razorfs("snapshot", "one"), "main@first");
    dirs.send("one", &["main@first"], "full");
    // It is cut off, and gone on with.
    let whole = fs::read(dirs.path("full")).unwrap();
    fs::write(dirs.path("cut"), &whole[..whole.len() / 3]).unwrap();
    assert!(!dirs.receive("two", &["copy"], "cut"));
    assert!(!dirs.list("two").contains("copy"));
    dirs.check("two");
    let mut token = dirs.razorfs("receive", "two");
    let token = token.args(["copy", "--resume-token"]).output().unwrap();
    let token = String::from_utf8(token.stdout).unwrap();
    dirs.send("one", &["--resume", token.trim()], "rest");
    assert!(dirs.receive("two", &["copy"], "rest"));
    dirs.check("two");
    assert_eq!(dirs.compare("main@first", "copy", true), "");
    assert_eq!(dirs.compare("main@first", "copy@first", true), "");

    Mount::new(&dirs, "one", "main").work(THEN);
    run_with(dirs.razorfs("snapshot", "one"), "main@then");
    dirs.send("one", &["main@then", "--from", "main@first"], "changes");
    let changes = fs::metadata(dirs.path("changes")).unwrap().len();
    assert!(changes < 60_000, "{changes}: only what changed is sent");
    assert!(dirs.receive("two", &["copy"], "changes"));
    dirs.check("two");
    assert_eq!(dirs.compare("main@then", "copy", true), "");
    assert_eq!(dirs.compare("main@first", "copy@first", true), "");
    let differ = dirs.compare("main@then", "copy@first", false);
    assert_ne!(differ, "", "rsync sees what differs");

    // What is damaged is refused, and what was received of it can be dropped.
    let mut damaged = whole;
    let at = damaged.len() / 2;
    damaged[at] ^= 1;
    fs::write(dirs.path("damaged"), damaged).unwrap();
    assert!(!dirs.receive("two", &["other"], "damaged"));
    assert!(dirs.receive("two", &["other", "--abort"], "damaged"));
    assert!(dirs.receive("two", &["other@renamed"], "full"));
    assert!(dirs.list("two").contains("other@renamed"));
    dirs.check("two");
}

#[test]
fn a_silent_sender_keeps_nobody_from_breaking_off() {
    let Some(dirs) = Dirs::new() else { return };
    run_with(dirs.razorfs("snapshot", "one"), "main@first");
    dirs.send("one", &["main@first"], "full");
    let whole = fs::read(dirs.path("full")).unwrap();
    let mut receive = dirs.razorfs("receive", "two");
    let mut receive = receive.arg("copy").stdin(Stdio::piped()).spawn().unwrap();
    let mut sender = receive.stdin.take().unwrap();
    sender.write_all(&whole[..whole.len() / 2]).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let pid = rustix::process::Pid::from_child(&receive);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = (0..100).find_map(|_| {
        std::thread::sleep(Duration::from_millis(100));
        receive.try_wait().unwrap()
    });
    drop(sender);
    receive.wait().unwrap();
    assert_eq!(ended.and_then(|status| status.code()), Some(1));
    dirs.check("two");
    assert!(dirs.receive("two", &["copy", "--abort"], "full"));
    assert!(dirs.receive("two", &["copy"], "full"));
}

fn run_with(mut command: Command, arg: &str) {
    command.arg(arg);
    run(command);
}
