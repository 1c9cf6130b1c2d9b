//! What programs see of a quota on the local mount, through a kernel's cache.
//!
//! Needs root and /dev/fuse; without them every test passes and says that it was skipped.
#![allow(missing_docs)]
// Helpers outside of test functions fail a test by panicking too.
#![allow(clippy::unwrap_used, clippy::panic)]

mod host;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FallocateFlags, Mode, fallocate, mkdirat, statvfs};

use host::{is_root_with_fuse, scratch_dir};

const QUOTA: u64 = 4 << 20;
const PIECE: u64 = 64 << 10;

/// A mounted store with a quota, both gone at the end.
struct Mounted {
    dir: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Mounted {
    /// `None` where that cannot be.
    fn new(flags: &[&str]) -> Option<Mounted> {
        Mounted::prepared(&[], flags)
    }

    /// The same, after commands of razorfs: each a verb and what follows the store.
    fn prepared(commands: &[&[&str]], flags: &[&str]) -> Option<Mounted> {
        if !is_root_with_fuse() {
            return None;
        }
        let dir = scratch_dir();
        let mount = dir.path().join("mnt");
        fs::create_dir(&mount).unwrap();
        let mut mounted = Mounted { dir, daemon: None };
        mounted.run("mkfs", &[]);
        mounted.run("set", &["quota=4M", "quota-inodes=5"]);
        for command in commands {
            let [verb, rest @ ..] = command else {
                continue;
            };
            mounted.run(verb, rest);
        }
        let mut razorfs = mounted.razorfs("mount");
        razorfs.arg(&mount).args(flags);
        mounted.daemon = Some(host::mounted(razorfs, &mount));
        Some(mounted)
    }

    fn razorfs(&self, command: &str) -> Command {
        let mut razorfs = Command::new(env!("CARGO_BIN_EXE_razorfs"));
        razorfs.arg(command).arg(self.dir.path().join("store"));
        razorfs
    }

    fn run(&self, command: &str, args: &[&str]) {
        let status = self.razorfs(command).args(args).status().unwrap();
        assert!(status.success());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("mnt").join(name)
    }

    fn make(&self, name: &str) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create_new(true);
        options.open(self.path(name))
    }

    /// Unmounts, and checks the store.
    fn finish(mut self) {
        let mut daemon = self.daemon.take().unwrap();
        let umount = Command::new("umount").arg(self.path("")).status();
        assert!(umount.unwrap().success());
        assert!(daemon.wait().unwrap().success());
        let mut check = Command::new(env!("CARGO_BIN_EXE_razorfsck"));
        let checked = check.arg(self.dir.path().join("store")).status();
        assert!(checked.unwrap().success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A test has failed: the mount goes, whatever is open.
        if let Some(mut daemon) = self.daemon.take() {
            let lazy = Command::new("umount").arg("-l").arg(self.path("")).status();
            let killed = daemon.kill();
            eprintln!("{lazy:?} {killed:?} {:?}", daemon.wait());
        }
    }
}

/// Writes pieces from an offset on, and waits for the disk; how far it got, and what stopped it.
fn write(file: &File, from: u64, pieces: u64) -> (u64, Option<i32>) {
    let mut rest = from..from + pieces * PIECE;
    while rest.start < rest.end {
        let bytes = vec![7; usize::try_from(PIECE).unwrap()];
        if let Err(error) = file.write_all_at(&bytes, rest.start) {
            return (rest.start, error.raw_os_error());
        }
        rest.start += PIECE;
    }
    let synced = file.sync_all().err();
    (rest.end, synced.and_then(|error| error.raw_os_error()))
}

const EDQUOT: Option<i32> = Some(libc::EDQUOT);

#[test]
fn a_program_is_told_of_the_quota_where_it_writes() {
    let Some(mounted) = Mounted::new(&[]) else {
        return;
    };
    let free = || {
        let stat = statvfs(mounted.path("")).unwrap();
        assert_eq!(stat.f_bfree, stat.f_bavail);
        (stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize)
    };
    assert_eq!(free(), (QUOTA, QUOTA));
    let file = mounted.make("file").unwrap();
    assert_eq!(write(&file, 0, 100), (QUOTA, EDQUOT));
    assert_eq!(free(), (QUOTA, 0));
    // In place, with nothing left.
    assert_eq!(write(&file, PIECE, 10), (11 * PIECE, None));
    let more = fallocate(&file, FallocateFlags::empty(), 0, QUOTA + 1);
    assert_eq!(more, Err(rustix::io::Errno::DQUOT));
    fallocate(&file, FallocateFlags::empty(), 0, QUOTA).unwrap();
    file.set_len(QUOTA - PIECE).unwrap();
    assert_eq!(free(), (QUOTA, PIECE));
    let other = mounted.make("other").unwrap();
    assert_eq!(write(&other, 0, 100), (PIECE, EDQUOT));
    // The root and these two, and two more.
    let mode = Mode::from_raw_mode(0o755);
    mkdirat(CWD, mounted.path("third"), mode).unwrap();
    std::os::unix::fs::symlink("x", mounted.path("fourth")).unwrap();
    let fifth = mkdirat(CWD, mounted.path("fifth"), mode);
    assert_eq!(fifth, Err(rustix::io::Errno::DQUOT));
    let fifth = mounted.make("fifth").unwrap_err();
    assert_eq!(fifth.raw_os_error(), EDQUOT);
    drop(file);
    fs::remove_file(mounted.path("file")).unwrap();
    // It goes when the kernel has forgotten it, which nobody waits for.
    let since = Instant::now();
    while let Err(error) = mounted.make("fifth") {
        assert_eq!(error.raw_os_error(), EDQUOT);
        assert!(since.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(write(&other, PIECE, 10), (11 * PIECE, None));
    drop(other);
    mounted.finish();
}

/// The kernel takes writes before razorfs sees them: then it is fsync that tells of it.
#[test]
fn a_kernel_that_caches_writes_tells_of_the_quota_at_fsync() {
    let Some(mounted) = Mounted::new(&["--writeback"]) else {
        return;
    };
    let file = mounted.make("file").unwrap();
    let (end, error) = write(&file, 0, 100);
    assert_eq!(error, EDQUOT);
    assert!(end >= QUOTA, "{end}");
    let stored = fs::metadata(mounted.path("file")).unwrap().blocks() * 512;
    assert!(stored <= QUOTA, "{stored}");
    file.set_len(0).unwrap();
    assert_eq!(write(&file, 0, 10), (10 * PIECE, None));
    drop(file);
    mounted.finish();
}

/// What a program of e2fsprogs or coreutils says, which must succeed.
fn said(program: &str, args: &[&str], paths: &[PathBuf]) -> String {
    let done = Command::new(program).args(args).args(paths).output();
    let done = done.unwrap();
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).unwrap()
}

/// Programs see projects as on ext4 and XFS.
#[test]
fn a_directory_tree_has_a_quota_of_its_own() {
    let project: &[&str] = &["project", "main", "/", "--id=7", "--quota=1M"];
    let Some(mounted) = Mounted::prepared(&[project], &[]) else {
        return;
    };
    let size = |name| {
        let stat = statvfs(mounted.path(name)).unwrap();
        (stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize)
    };
    assert_eq!(size(""), (1 << 20, 1 << 20));
    let file = mounted.make("file").unwrap();
    assert_eq!(write(&file, 0, 100), (1 << 20, EDQUOT));
    assert_eq!(size(""), (1 << 20, 0));
    file.set_len(PIECE).unwrap();
    let other = mounted.path("other");
    fs::create_dir(&other).unwrap();
    let project_of = |path: PathBuf| {
        let told = said("lsattr", &["-p", "-d"], &[path]);
        let number = told.split_whitespace().next().unwrap();
        number.parse::<u32>().unwrap()
    };
    assert_eq!(project_of(other.clone()), 7);
    said("chattr", &["-p", "8", "+P"], std::slice::from_ref(&other));
    assert_eq!(project_of(other.clone()), 8);
    // The dataset's quota is the one that holds there.
    assert_eq!(size("other").0, QUOTA);
    let (from, to) = (mounted.path("file"), other.join("file"));
    for refused in [fs::rename(&from, &to), fs::hard_link(&from, &to)] {
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EXDEV));
    }
    said("mv", &[], &[from, to.clone()]);
    assert_eq!(fs::read(&to).unwrap(), [7; 64 << 10]);
    assert_eq!(project_of(to), 8);
    drop(file);
    mounted.finish();
}
