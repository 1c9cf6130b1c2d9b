//! Directories and tar streams into a store and out of it, by the programs, compared by those who know
//! nothing of razorfs: rsync, GNU tar, find.
//!
//! Needs root, and rsync, tar, acl and attr (scripts/install_deps.sh); without root it passes and says
//! that it was skipped.
#![allow(missing_docs)]
// Helpers outside of test functions fail a test by panicking too.
#![allow(clippy::unwrap_used, clippy::panic)]

mod host;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::process::{Pid, Signal, kill_process};

use host::scratch_dir;

/// A tree with everything that one can have; the working directory is its top.
const TREE: &str = r#"
    mkdir -p a/b/c empty "$(printf 'odd\n name')" "$(printf 'p%.0s' $(seq 200))"
    head -c 700000 /dev/urandom > a/random
    head -c 3000000 /dev/zero | tr '\0' x > a/even
    ln a/random a/b/linked
    ln -s ../random a/b/link; ln -s "$(printf 't%.0s' $(seq 300))" a/b/long-link
    ln -P a/b/link a/b/linked-link
    mkfifo a/fifo; mknod a/null c 1 3; mknod a/disk b 259 70000
    truncate -s 50M a/sparse
    printf data | dd of=a/sparse bs=1 seek=5000000 conv=notrunc status=none
    printf more | dd of=a/sparse bs=1 seek=30000000 conv=notrunc status=none
    truncate -s 1M a/hole
    echo x > a/name\\with\ all\'\"%=
    echo y > "$(printf 'n%.0s' $(seq 255))"
    echo z > "$(printf 'p%.0s' $(seq 200))/$(printf 'q%.0s' $(seq 200))"
    setfattr -n user.small -v value a/random
    setfattr -n user.a=b%3D -v "$(printf 'two\nlines=')" a/b/c
    setfattr -n user.large -v "$(head -c 3000 /dev/zero | tr '\0' y)" a/even
    setfattr -n trusted.of -v root a/b
    setfattr -h -n trusted.link -v x a/b/link
    setfacl -m u:1000:rw,g:7:- a/even
    setfacl -d -m g:100:rx a/b
    for i in $(seq 300); do echo $i > a/b/c/file$i; done
    chown 12:34 a/even; chown -h 5:6 a/b/link; chown 70000:3000000 empty
    chmod 4750 a/random; chmod 1777 empty; chmod 000 a/hole; chmod 2711 a/b/c
    touch -d '1969-12-31 23:59:58.250000000 UTC' a/random
    touch -h -d '1999-12-31 23:59:59.123456789' a/b/link
    touch -d '2033-05-18 03:33:20.000000001' a/fifo a/b
    touch -d '2001-01-01 00:00:00.5' .
"#;

struct Dirs(tempfile::TempDir);

impl Dirs {
    fn new() -> Option<Dirs> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let dirs = Dirs(scratch_dir());
        fs::create_dir(dirs.path("tree")).unwrap();
        ok(dirs.razorfs("mkfs").arg(dirs.path("store")));
        Some(dirs)
    }

    /// Where there is no room for it.
    fn no_part_of_a_stream_stays(&self) {
        let extract = "trap '' XFSZ; ulimit -f 100; ! razorfs extract store main part.tar 2>&1";
        let said = self.shell(extract);
        assert!(said.contains("part.tar: File too large"), "{said}");
        assert!(said.contains("was removed: a part of"), "{said}");
        assert!(!self.path("part.tar").exists());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn razorfs(&self, verb: &str) -> Command {
        let mut razorfs = Command::new(env!("CARGO_BIN_EXE_razorfs"));
        razorfs.arg(verb).current_dir(self.0.path());
        razorfs
    }

    fn with_tree() -> Option<Dirs> {
        let dirs = Dirs::new()?;
        dirs.shell(&format!("cd tree; {TREE}"));
        Some(dirs)
    }

    fn shell(&self, script: &str) -> String {
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", script]);
        shell.env("LC_ALL", "C.UTF-8").current_dir(self.0.path());
        shell.env(
            "PATH",
            format!("{}:{}", bin(), std::env::var("PATH").unwrap()),
        );
        ok(&mut shell)
    }

    /// What differs between two trees: nothing.
    fn compare(&self, one: &str, other: &str) {
        let differences = self.shell(&format!(
            "rsync -nacHAXi --numeric-ids --delete --specials --devices {one}/ {other}/"
        ));
        assert_eq!(differences, "", "rsync: {one} and {other}");
        let list = "find . -printf '%p %y %#m %U %G %n %T@ %l' \\( -type f -printf ' %s' -o -true \
                    \\) -printf '\\n' | sort";
        let of = |dir| self.shell(&format!("cd {dir}; {list}"));
        assert_eq!(of(one), of(other), "{one} and {other}");
        let sparse = ["a/sparse", "sparse"].map(|name| self.path(other).join(name));
        let found = sparse.iter().find_map(|path| fs::metadata(path).ok());
        assert!(found.is_none_or(|found| found.blocks() < 100), "{other}");
    }

    /// A daemon serves the store until what is returned is dropped; nobody has it mounted.
    fn serve(&self) -> Served {
        let razorfsd = Command::new(env!("CARGO_BIN_EXE_razorfsd"))
            .args(["--store", "store", "--socket-path", "socket"])
            .args(["--log-level", "warn"])
            .current_dir(self.0.path())
            .spawn();
        let served = Served(razorfsd.unwrap());
        let began = Instant::now();
        while !self.path("store/control.sock").exists() {
            assert!(began.elapsed() < Duration::from_secs(30));
            std::thread::sleep(Duration::from_millis(10));
        }
        served
    }

    fn check(&self) {
        let mut check = Command::new(env!("CARGO_BIN_EXE_razorfsck"));
        ok(check.arg("--data").arg(self.path("store")));
    }
}

struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let ended = self.0.wait();
        assert!(std::thread::panicking() || ended.unwrap().success());
    }
}

fn bin() -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_razorfs"));
    program.parent().unwrap().to_str().unwrap().to_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap()
}

fn ok(command: &mut Command) -> String {
    let out = output(command);
    assert!(out.status.success(), "{command:?}: {}", text(&out.stderr));
    text(&out.stdout)
}

fn fails(command: &mut Command) -> String {
    let out = output(command);
    assert!(!out.status.success(), "{command:?}: {}", text(&out.stdout));
    text(&out.stderr)
}

#[test]
fn a_directory_comes_back_as_it_was() {
    let Some(dirs) = Dirs::with_tree() else {
        return;
    };
    let said = dirs.shell("razorfs import store tree --json");
    let summary: serde_json::Value = serde_json::from_str(&said).unwrap();
    let count = |name: &str| summary[name].as_u64().unwrap();
    assert_eq!(summary["complete"], true);
    assert_eq!(count("files"), 307);
    assert_eq!(
        (count("hard_links"), count("symlinks"), count("specials")),
        (2, 2, 3)
    );
    assert!((3_700_000..3_800_000).contains(&count("bytes")), "{said}");
    assert_eq!(summary["skipped"], serde_json::json!({}));
    dirs.check();
    let said = dirs.shell("razorfs extract store main out");
    assert!(said.contains("307 files"), "{said}");
    dirs.compare("tree", "out");
    // A snapshot; a part of it; into a directory that is there and gives what is made in it a list.
    dirs.shell(
        "razorfs snapshot store main@s; mkdir part; setfacl -m u:9:rwx -d -m u:9:rwx part
         razorfs extract store main@s part --path a",
    );
    dirs.compare("tree/a", "part");
    let full = fails(dirs.razorfs("extract").args(["store", "main", "out"]));
    assert!(full.contains("something is in it"), "{full}");
    let again = fails(dirs.razorfs("import").args(["store", "tree"]));
    assert!(
        again.contains("there are entries already: ") && again.contains("--merge"),
        "{again}"
    );
    dirs.shell("razorfs import store tree --merge; razorfs extract store main again");
    dirs.compare("tree", "again");
    // Into another dataset, below a path.
    dirs.shell(
        "razorfs create store web
         razorfs import store tree/a --dataset web --to deep/down
         razorfs extract store web web --path /deep/down",
    );
    dirs.compare("tree/a", "web");
    dirs.check();
}

/// The same through a daemon: in, out, and against what goes in and out without one.
#[test]
fn a_directory_comes_back_as_it_was_from_a_store_that_is_served() {
    let Some(dirs) = Dirs::with_tree() else {
        return;
    };
    dirs.shell(
        "razorfs create store web; razorfs import store tree --dataset web --json > straight",
    );
    let served = dirs.serve();
    let said = dirs.shell("razorfs import store tree --json | tee online");
    assert!(said.contains("\"complete\": true"), "{said}");
    dirs.shell("cmp online straight");
    let said = dirs.shell("razorfs extract store main out");
    assert!(said.contains("307 files"), "{said}");
    dirs.compare("tree", "out");
    // A snapshot; a part of it; into a directory that is there and gives what is made in it a list.
    dirs.shell(
        "razorfs snapshot store main@s; mkdir part; setfacl -m u:9:rwx -d -m u:9:rwx part
         razorfs extract store main@s part --path a",
    );
    dirs.compare("tree/a", "part");
    let full = fails(dirs.razorfs("extract").args(["store", "main", "out"]));
    assert!(full.contains("something is in it"), "{full}");
    let again = fails(dirs.razorfs("import").args(["store", "tree"]));
    assert!(
        again.contains("there are entries already: ") && again.contains("--merge"),
        "{again}"
    );
    // As GNU tar has them, below a path.
    let all = "--xattrs --xattrs-include=* --acls --numeric-owner";
    let said = dirs.shell(&format!(
        "tar -C tree/a {all} --format=posix --sparse -c . | razorfs import store - --to deep/down
         razorfs extract store main down --path /deep/down
         razorfs import store tree --merge --dataset web
         razorfs extract store web all.tar --json > out.json
         razorfs extract store web - > again.tar; cmp all.tar again.tar
         tar {all} -df all.tar -C tree"
    ));
    assert!(!said.contains("differs"), "{said}");
    dirs.compare("tree/a", "down");
    let there = fails(dirs.razorfs("extract").args(["store", "main", "all.tar"]));
    assert!(there.contains("all.tar: File exists"), "{there}");
    let none = fails(dirs.razorfs("extract").args(["store", "none", "new.tar"]));
    assert!(
        none.contains("no dataset") && !dirs.path("new.tar").exists(),
        "{none}"
    );
    drop(served);
    dirs.check();
    dirs.shell("razorfs extract store web - > offline.tar; cmp all.tar offline.tar");
    dirs.shell("razorfs extract store main main; razorfs extract store web web");
    dirs.compare("tree", "web");
    dirs.shell("rm -r main/deep; touch -r tree main");
    dirs.compare("tree", "main");
}

/// What the daemon refuses or runs out of, with the exit code and the words of a command that has the
/// store itself.
#[test]
fn what_a_daemon_cannot_import_is_named() {
    let Some(dirs) = Dirs::new() else { return };
    dirs.shell("razorfs set store quota=1M; for i in 1 2 3 4; do head -c 400000 /dev/urandom > tree/f$i; done");
    let served = dirs.serve();
    let cases: [(&[&str], &str); 5] = [
        (&["store", "nothing"], "nothing: No such file"),
        (
            &["store", "tree", "--dataset", "none"],
            "no dataset or snapshot 'none'",
        ),
        (&["store", "tree", "--to", "../x"], "'..'"),
        (&["store", "/dev/null"], "it is empty"),
        (
            &["store", "tree"],
            "f3: quota exceeded; what was imported before is there",
        ),
    ];
    for (args, word) in cases {
        let said = fails(dirs.razorfs("import").args(args).stdin(Stdio::null()));
        assert!(said.contains(word), "{args:?}: {said}");
    }
    let there = dirs.shell("razorfs extract store main out > /dev/null; cd out; for f in *; do cmp $f ../tree/$f; done; ls");
    assert_eq!(there, "f1\nf2\n");
    dirs.no_part_of_a_stream_stays();
    drop(served);
    dirs.check();
}

#[test]
fn tar_streams_come_and_go_as_gnu_tar_has_them() {
    let Some(dirs) = Dirs::with_tree() else {
        return;
    };
    // As GNU tar writes them.
    let all = "--xattrs --xattrs-include=* --acls --numeric-owner";
    for (index, how) in [
        "--format=posix --sparse",
        "--format=posix",
        "--format=posix --sparse --sparse-version=0.0",
        "--format=posix --sparse --sparse-version=0.1",
    ]
    .iter()
    .enumerate()
    {
        let store = format!("store-{index}");
        dirs.shell(&format!(
            "razorfs mkfs {store}; tar -C tree {all} {how} -c . | razorfs import {store} -
             razorfs extract {store} main out-{index}; rm -r {store}"
        ));
        dirs.shell(&match how.contains("--sparse") {
            true => String::from("true"),
            false => format!(
                "cp --sparse=always out-{index}/a/sparse s; touch -r out-{index}/a/sparse s
                              mv s out-{index}/a/sparse; touch -r tree/a out-{index}/a"
            ),
        });
        dirs.compare("tree", &format!("out-{index}"));
    }
    // The GNU format has neither attributes nor parts of seconds.
    dirs.shell(
        "tar -C tree --format=gnu --sparse -cf gnu.tar . ; razorfs mkfs gnu
         razorfs import gnu gnu.tar; razorfs extract gnu main - > gnu-again.tar
         mkdir one two; tar --numeric-owner -xpf gnu.tar -C one; tar --numeric-owner -xpf gnu-again.tar -C two",
    );
    dirs.compare("one", "two");
    // As GNU tar reads them.
    let said = dirs.shell(&format!(
        "razorfs import store tree; razorfs extract store main all.tar
         tar {all} -df all.tar -C tree; mkdir by-tar; tar {all} -xpf all.tar -C by-tar"
    ));
    assert!(!said.contains("differs"), "{said}");
    dirs.compare("tree", "by-tar");
    let there = fails(dirs.razorfs("extract").args(["store", "main", "all.tar"]));
    assert!(there.contains("all.tar: File exists"), "{there}");
    let blocks = fs::metadata(dirs.path("all.tar")).unwrap().len();
    assert!(blocks < 6_000_000, "holes are not in the stream: {blocks}");
    let packed = dirs.shell("gzip all.tar; razorfs import store --merge all.tar.gz 2>&1 || true");
    assert!(packed.contains("gzip -dc"), "{packed}");
    dirs.check();
}

#[test]
fn without_root_owners_are_left_out_with_a_word() {
    let Some(dirs) = Dirs::with_tree() else {
        return;
    };
    dirs.shell(
        "razorfs import store tree; chown -R 65534:65534 store; chmod 755 .; mkdir -m 777 for",
    );
    let program = dirs.path("razorfs");
    fs::copy(env!("CARGO_BIN_EXE_razorfs"), program).unwrap();
    let said = dirs.shell(
        "setpriv --reuid=65534 --regid=65534 --clear-groups ./razorfs extract store main for/out 2>&1",
    );
    for word in [
        "its owner, which only root can give",
        "a device node, which only root can make",
        "an extended attribute that cannot be set there",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let found = fs::metadata(dirs.path("for/out/a/random")).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o7777), (65534, 0o750));
    assert!(!dirs.path("for/out/a/null").exists());
    let differences = dirs.shell("rsync -nrlptcHi tree/ for/out/ 2> /dev/null || true");
    let content = differences.lines().filter(|line| line.contains("fc"));
    assert_eq!(content.count(), 0, "{differences}");
}

/// Two names that are swapped all the time, one of them a symlink that leads outside.
#[test]
fn a_tree_that_changes_meanwhile_does_not_lead_outside() {
    let Some(dirs) = Dirs::new() else { return };
    dirs.shell(
        "mkdir outside tree/d tree/keep; echo secret > outside/file; echo secret > outside/other
         for i in $(seq 200); do echo inside > tree/d/file$i; done; echo inside > tree/d/file
         ln -s ../outside tree/swap; echo inside > tree/f; ln -s ../outside/file tree/g",
    );
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for (one, other) in [("d", "swap"), ("f", "g")] {
                    let (one, other) = (dirs.path("tree").join(one), dirs.path("tree").join(other));
                    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
                }
            }
        });
        for round in 0..12 {
            dirs.shell(&format!("razorfs import store tree --to round{round}"));
        }
        stop.store(true, Ordering::Relaxed);
    });
    dirs.shell("razorfs extract store main out");
    let found = dirs.shell("grep -rl secret out --exclude-dir=none || true");
    // What a symlink leads to is not in the store: it is read through the symlinks of the copy.
    let real = found
        .lines()
        .filter(|path| !fs::symlink_metadata(dirs.path(path)).unwrap().is_symlink());
    assert_eq!(real.collect::<Vec<_>>(), [""; 0]);
    dirs.check();
}

#[test]
fn what_is_mounted_and_the_store_itself_are_left_out() {
    let Some(dirs) = Dirs::new() else { return };
    dirs.shell(
        "mkdir tree/mounted; echo x > tree/f; mv store tree/store; python3 -c '
import socket; socket.socket(socket.AF_UNIX).bind(\"tree/socket\")' || touch no-socket",
    );
    let said = dirs.shell(
        "mount -t tmpfs none tree/mounted; trap 'umount tree/mounted' EXIT; echo y > tree/mounted/inside
         razorfs import tree/store tree --one-file-system 2>&1",
    );
    assert!(said.contains("the store itself"), "{said}");
    assert!(
        said.contains("what another file system has there"),
        "{said}"
    );
    assert!(
        dirs.path("no-socket").exists() || said.contains("a socket"),
        "{said}"
    );
    let found =
        dirs.shell("razorfs extract tree/store main out > /dev/null; cd out; find . | sort");
    assert_eq!(found, ".\n./f\n./mounted\n");
}

/// A signal while the stream is silent: what came before is there, and the message says so.
#[test]
fn an_import_can_be_interrupted() {
    let Some(dirs) = Dirs::new() else { return };
    dirs.shell("for i in $(seq 50); do head -c 100000 /dev/urandom > tree/f$i; done; tar -C tree -cf all.tar .");
    let stream = fs::read(dirs.path("all.tar")).unwrap();
    let mut import = dirs.razorfs("import");
    import.args(["store", "-"]).stdin(Stdio::piped());
    let mut import = import
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = import.stdin.take().unwrap();
    input
        .write_all(stream.get(..stream.len() / 2).unwrap())
        .unwrap();
    input.flush().unwrap();
    // It has taken all of it but what a pipe holds.
    std::thread::sleep(Duration::from_secs(1));
    let pid = Pid::from_child(&import);
    kill_process(pid, Signal::INT).unwrap();
    let began = Instant::now();
    let out = import.wait_with_output().unwrap();
    assert!(began.elapsed() < Duration::from_secs(30));
    drop(input);
    let said = text(&out.stderr);
    assert!(!out.status.success(), "{said}");
    assert!(
        said.contains("what was imported before is there, each file whole"),
        "{said}"
    );
    let there = dirs.shell("razorfs extract store main out > /dev/null; cd out; for f in *; do cmp $f ../tree/$f; done; ls | wc -l");
    let there: u32 = there.trim().parse().unwrap();
    assert!((10..=30).contains(&there), "{there} files");
    dirs.check();
}

#[test]
fn what_cannot_be_imported_is_named() {
    let Some(dirs) = Dirs::new() else { return };
    let cases: [(&[&str], &str); 6] = [
        (&["store", "nothing"], "nothing: No such file"),
        (&["store", "tree", "--dataset", "none"], "none"),
        (&["none", "tree"], "none"),
        (&["store", "tree", "--to", "../x"], "'..'"),
        (&["store", "tree", "--to", "a/../x"], "'..'"),
        (&["store", "/dev/null"], "it is empty"),
    ];
    for (args, word) in cases {
        let said = fails(dirs.razorfs("import").args(args).stdin(Stdio::null()));
        assert!(said.contains(word), "{args:?}: {said}");
    }
    let snapshot = dirs.shell(
        "razorfs snapshot store main@s; razorfs import store tree --dataset main@s 2>&1 || true",
    );
    assert!(snapshot.contains("read-only"), "{snapshot}");
    // Over the quota: what fits is there.
    dirs.shell("razorfs set store quota=1M; for i in 1 2 3 4; do head -c 400000 /dev/urandom > tree/f$i; done");
    let said = fails(dirs.razorfs("import").args(["store", "tree"]));
    assert!(said.contains("f3: quota exceeded"), "{said}");
    let there = dirs.shell("razorfs extract store main out > /dev/null; cd out; for f in *; do cmp $f ../tree/$f; done; ls");
    assert_eq!(there, "f1\nf2\n");
    dirs.no_part_of_a_stream_stays();
    let _ = File::open(dirs.path("store")).unwrap();
    dirs.check();
}
