//! What programs see of a store on the local mount, beyond what pjdfstest and fsx look at: the
//! calls that only Linux has, and that all of it is there after mounting again.
//!
//! Needs root and /dev/fuse; without them every test passes and says that it was skipped.
#![allow(missing_docs)]
// Helpers outside of test functions fail a test by panicking too.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod content;
#[path = "../host/mod.rs"]
mod host;
mod rights;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, FlockOperation, IFlags, Mode, OFlags, RenameFlags,
    StatxFlags, Timespec, Timestamps, XattrFlags, copy_file_range, fallocate, flock, getxattr,
    ioctl_getflags, ioctl_setflags, linkat, listxattr, lsetxattr, mknodat, openat, removexattr,
    renameat_with, setxattr, statvfs, statx, utimensat,
};
use rustix::io::Errno;

use host::{is_root_with_fuse, mounted, scratch_dir};

/// A store and its mount, both gone at the end.
struct Mounted {
    dir: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Mounted {
    /// A new store, mounted; `None` where that cannot be.
    fn new() -> Option<Mounted> {
        if !is_root_with_fuse() {
            return None;
        }
        let dir = scratch_dir();
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("mnt")).unwrap();
        let mut mounted = Mounted { dir, daemon: None };
        assert!(mounted.razorfs("mkfs").status().unwrap().success());
        mounted.mount();
        Some(mounted)
    }

    fn razorfs(&self, command: &str) -> Command {
        let mut razorfs = Command::new(env!("CARGO_BIN_EXE_razorfs"));
        razorfs.arg(command).arg(self.dir.path().join("store"));
        razorfs
    }

    fn mount(&mut self) {
        self.mount_with(&[]);
    }

    fn mount_with(&mut self, options: &[&str]) {
        let mut razorfs = self.razorfs("mount");
        razorfs
            .arg(self.path(""))
            .args(["--allow-other", "-o", "suid,dev"])
            .args(options);
        self.daemon = Some(mounted(razorfs, &self.path("")));
    }

    fn unmount(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            assert!(
                Command::new("umount")
                    .arg(self.path(""))
                    .status()
                    .unwrap()
                    .success()
            );
            assert!(daemon.wait().unwrap().success());
        }
    }

    /// Unmounts, checks the store, mounts again.
    fn again(&mut self) {
        self.unmount();
        let mut check = Command::new(env!("CARGO_BIN_EXE_razorfsck"));
        assert!(
            check
                .arg(self.dir.path().join("store"))
                .status()
                .unwrap()
                .success()
        );
        self.mount();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("mnt").join(name)
    }

    fn file(&self, name: &str, content: &[u8]) -> File {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.path(name))
            .unwrap();
        file.write_all(content).unwrap();
        file
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = Command::new("umount").arg("-l").arg(self.path("")).status();
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// The value of an extended attribute.
fn value(path: &Path, name: &str) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 70_000];
    let len = getxattr(path, name, buffer.as_mut_slice())?;
    buffer.truncate(len);
    Ok(buffer)
}

#[test]
fn everything_is_there_after_mounting_again() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    fs::create_dir_all(mounted.path("a/b/c")).unwrap();
    let content: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    mounted.file("a/b/large", &content);
    mounted.file("small", b"few bytes");
    symlink("x".repeat(4095), mounted.path("long-link")).unwrap();
    fs::hard_link(mounted.path("small"), mounted.path("a/second")).unwrap();
    setxattr(
        mounted.path("small"),
        "user.note",
        b"kept",
        XattrFlags::empty(),
    )
    .unwrap();
    setxattr(
        mounted.path("small"),
        "user.large",
        &[7; 60_000],
        XattrFlags::empty(),
    )
    .unwrap();
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: -5,
            tv_nsec: 123_456_789,
        },
        last_modification: Timespec {
            tv_sec: 1 << 33,
            tv_nsec: 999_999_999,
        },
    };
    utimensat(CWD, mounted.path("small"), &times, AtFlags::empty()).unwrap();
    let name = "n".repeat(255);
    mounted.file(&name, b"");
    mounted.again();
    assert!(fs::read(mounted.path("a/b/large")).unwrap() == content);
    assert_eq!(fs::read(mounted.path("a/second")).unwrap(), b"few bytes");
    assert_eq!(
        fs::read_link(mounted.path("long-link"))
            .unwrap()
            .as_os_str()
            .len(),
        4095
    );
    let small = fs::metadata(mounted.path("small")).unwrap();
    assert_eq!(
        (small.nlink(), small.ino()),
        (2, fs::metadata(mounted.path("a/second")).unwrap().ino())
    );
    assert_eq!((small.mtime(), small.mtime_nsec()), (1 << 33, 999_999_999));
    assert_eq!(value(&mounted.path("small"), "user.note").unwrap(), b"kept");
    assert_eq!(
        value(&mounted.path("small"), "user.large").unwrap(),
        [7; 60_000]
    );
    assert!(mounted.path(&name).exists());
    let too_long = File::create(mounted.path(&"n".repeat(256))).unwrap_err();
    assert_eq!(too_long.raw_os_error(), Some(libc::ENAMETOOLONG));
    mounted.unmount();
}

/// Over another mount, which is what is there when the program has ended.
#[test]
fn a_mount_over_another_ends_with_its_own() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    mounted.unmount();
    let place = mounted.path("");
    let run = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        let done = command.args(args).arg(&place).status().unwrap();
        assert!(done.success(), "{program} {args:?}");
    };
    run("mount", &["--bind", place.to_str().unwrap()]);
    fs::write(place.join("below"), "").unwrap();
    for _ in 0..5 {
        mounted.mount();
        mounted.file("above", b"x");
        mounted.unmount();
        assert!(place.join("below").exists() && !place.join("above").exists());
    }
    run("umount", &[]);
}

#[test]
fn what_was_fsynced_survives_the_daemons_death() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let content: Vec<u8> = (0..300_000u32).map(|n| (n % 253) as u8).collect();
    for (n, len) in [10, 4096, 300_000].into_iter().enumerate() {
        let file = mounted.file(&format!("temporary-{n}"), &content[..len]);
        fs::rename(
            mounted.path(&format!("temporary-{n}")),
            mounted.path(&format!("file-{n}")),
        )
        .unwrap();
        file.sync_all().unwrap();
    }
    fs::create_dir(mounted.path("dir")).unwrap();
    File::open(mounted.path("")).unwrap().sync_all().unwrap();
    let mut daemon = mounted.daemon.take().unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let unmount = Command::new("umount")
        .arg("-l")
        .arg(mounted.path(""))
        .status();
    assert!(unmount.unwrap().success());
    mounted.mount();
    for (n, len) in [10, 4096, 300_000].into_iter().enumerate() {
        assert!(fs::read(mounted.path(&format!("file-{n}"))).unwrap() == content[..len]);
        assert!(!mounted.path(&format!("temporary-{n}")).exists());
    }
    assert!(mounted.path("dir").is_dir());
    mounted.again();
}

#[test]
fn renames_keep_replace_swap_and_leave_whiteouts() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    mounted.file("one", b"one");
    mounted.file("two", b"two");
    let rename = |flags| renameat_with(CWD, mounted.path("one"), CWD, mounted.path("two"), flags);
    assert_eq!(rename(RenameFlags::NOREPLACE), Err(Errno::EXIST));
    rename(RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read(mounted.path("one")).unwrap(), b"two");
    rename(RenameFlags::WHITEOUT).unwrap();
    assert_eq!(fs::read(mounted.path("two")).unwrap(), b"two");
    let whiteout = fs::symlink_metadata(mounted.path("one")).unwrap();
    assert_eq!(
        (whiteout.mode() & libc::S_IFMT, whiteout.rdev()),
        (libc::S_IFCHR, 0)
    );
}

#[test]
fn files_without_a_name_live_while_they_are_open() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let before = statvfs(mounted.path("")).unwrap();
    let flags = OFlags::TMPFILE | OFlags::RDWR;
    let nameless = openat(CWD, mounted.path(""), flags, Mode::from_raw_mode(0o640)).unwrap();
    let mut nameless = File::from(nameless);
    nameless.write_all(b"without a name").unwrap();
    assert_eq!(nameless.metadata().unwrap().nlink(), 0);
    let fd = std::os::fd::AsRawFd::as_raw_fd(&nameless);
    let link = format!("/proc/self/fd/{fd}");
    linkat(
        CWD,
        link,
        CWD,
        mounted.path("named"),
        AtFlags::SYMLINK_FOLLOW,
    )
    .unwrap();
    assert_eq!(fs::read(mounted.path("named")).unwrap(), b"without a name");
    let mut open = mounted.file("removed", &[1; 1 << 20]);
    fs::remove_file(mounted.path("removed")).unwrap();
    open.seek(SeekFrom::Start(0)).unwrap();
    let mut content = Vec::new();
    open.read_to_end(&mut content).unwrap();
    assert!(content == [1; 1 << 20]);
    open.write_all(b"more").unwrap();
    assert_eq!(
        (
            open.metadata().unwrap().nlink(),
            open.metadata().unwrap().len()
        ),
        (0, (1 << 20) + 4)
    );
    drop((open, nameless));
    fs::remove_file(mounted.path("named")).unwrap();
    mounted.again();
    let after = statvfs(mounted.path("")).unwrap();
    assert_eq!(
        after.f_files - after.f_ffree,
        before.f_files - before.f_ffree,
        "an inode leaked"
    );
}

#[test]
fn birth_and_other_times_have_nanoseconds() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let file = mounted.file("file", b"x");
    let stat = || {
        let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        statx(CWD, mounted.path("file"), AtFlags::empty(), mask).unwrap()
    };
    let born = stat();
    assert_ne!(born.stx_mask & StatxFlags::BTIME.bits(), 0);
    assert!((born.stx_btime.tv_sec - born.stx_ctime.tv_sec).abs() <= 1);
    std::thread::sleep(Duration::from_millis(20));
    file.write_all_at(b"y", 0).unwrap();
    let changed = stat();
    let time = |time: rustix::fs::StatxTimestamp| (time.tv_sec, time.tv_nsec);
    assert_eq!(time(changed.stx_btime), time(born.stx_btime));
    assert!(time(changed.stx_mtime) > time(born.stx_mtime));
    let then = Timespec {
        tv_sec: 1_000_000_000,
        tv_nsec: 987_654_321,
    };
    let times = Timestamps {
        last_access: then,
        last_modification: then,
    };
    utimensat(CWD, mounted.path("file"), &times, AtFlags::empty()).unwrap();
    assert_eq!(time(stat().stx_atime), (1_000_000_000, 987_654_321));
    assert_eq!(time(stat().stx_mtime), (1_000_000_000, 987_654_321));
}

#[test]
fn a_large_directory_is_listed_while_it_changes() {
    const COUNT: usize = 5000;
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let dir = mounted.path("dir");
    fs::create_dir(&dir).unwrap();
    for n in 0..COUNT {
        File::create(dir.join(format!("file-{n}"))).unwrap();
    }
    let mut seen = BTreeSet::new();
    for (n, entry) in fs::read_dir(&dir).unwrap().enumerate() {
        let name = entry.unwrap().file_name();
        assert!(seen.insert(name.clone()), "{name:?} twice");
        if n % 2 == 0 {
            fs::remove_file(dir.join(name)).unwrap();
        }
    }
    assert_eq!(seen.len(), COUNT);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), COUNT / 2);
    assert_eq!(
        fs::remove_dir(&dir).unwrap_err().raw_os_error(),
        Some(libc::ENOTEMPTY)
    );
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_file_has_more_than_65000_links() {
    const COUNT: u64 = 65_100;
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let file = mounted.file("file", b"content");
    fs::create_dir(mounted.path("links")).unwrap();
    for n in 1..COUNT {
        fs::hard_link(mounted.path("file"), mounted.path(&format!("links/{n}"))).unwrap();
    }
    assert_eq!(file.metadata().unwrap().nlink(), COUNT);
    assert_eq!(fs::read(mounted.path("links/65000")).unwrap(), b"content");
    fs::remove_file(mounted.path("file")).unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), COUNT - 1);
}
