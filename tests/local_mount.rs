//! What programs see of a store on the local mount, beyond what pjdfstest and fsx look at: the
//! calls that only Linux has, and that all of it is there after mounting again.
//!
//! Needs root and /dev/fuse; without them every test passes and says that it was skipped.
#![allow(missing_docs)]
// Helpers outside of test functions fail a test by panicking too.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod host;

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

/// Runs a shell command as an ordinary user, with umask 022.
fn as_user(script: &str) -> bool {
    Command::new("sh")
        .args(["-c", script])
        .uid(1000)
        .gid(1000)
        .status()
        .unwrap()
        .success()
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
fn xattrs_of_every_kind_and_size() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    mounted.file("file", b"");
    let path = mounted.path("file");
    for name in ["user.a", "trusted.a", "security.a"] {
        for size in [0usize, 1, 100, 700, 5000, 65_536] {
            let bytes: Vec<u8> = (0..size).map(|n| (n % 256) as u8).collect();
            setxattr(&path, name, &bytes, XattrFlags::empty()).unwrap();
            assert!(value(&path, name).unwrap() == bytes, "{name} of {size}");
        }
    }
    assert_eq!(
        setxattr(&path, "user.a", b"", XattrFlags::CREATE),
        Err(Errno::EXIST)
    );
    assert_eq!(
        setxattr(&path, "user.b", b"", XattrFlags::REPLACE),
        Err(Errno::NODATA)
    );
    for n in 0..100 {
        setxattr(&path, format!("user.many{n}"), &[1; 50], XattrFlags::CREATE).unwrap();
    }
    let mut list = vec![0; 65_536];
    let len = listxattr(&path, list.as_mut_slice()).unwrap();
    let names: BTreeSet<_> = list[..len]
        .split(|byte| *byte == 0)
        .filter(|n| !n.is_empty())
        .collect();
    assert_eq!(names.len(), 103);
    removexattr(&path, "user.a").unwrap();
    assert_eq!(value(&path, "user.a"), Err(Errno::NODATA));
    assert_eq!(removexattr(&path, "user.a"), Err(Errno::NODATA));
    // What a symlink may have, and a user's attribute is not among it.
    symlink("target", mounted.path("link")).unwrap();
    lsetxattr(mounted.path("link"), "trusted.a", b"v", XattrFlags::empty()).unwrap();
    let user = lsetxattr(mounted.path("link"), "user.a", b"v", XattrFlags::empty());
    assert_eq!(user, Err(Errno::PERM));
}

/// An ACL as the system calls take it: version 2, then tag, permissions and id of each entry.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

#[test]
fn acls_grant_are_inherited_and_follow_chmod() {
    const NONE: u32 = u32::MAX;
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let dir = mounted.path("dir");
    fs::create_dir(&dir).unwrap();
    mounted.file("dir/before", b"secret");
    let access = acl(&[
        (1, 6, NONE),
        (2, 4, 1000),
        (4, 0, NONE),
        (0x10, 4, NONE),
        (0x20, 0, NONE),
    ]);
    let file = mounted.path("dir/before");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    assert!(!as_user(&format!("cat {} >/dev/null 2>&1", file.display())));
    setxattr(
        &file,
        "system.posix_acl_access",
        &access,
        XattrFlags::empty(),
    )
    .unwrap();
    assert!(as_user(&format!("cat {} >/dev/null", file.display())));
    assert_eq!(mode(&file), 0o640, "the group bits show the mask");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    assert!(!as_user(&format!("cat {} >/dev/null 2>&1", file.display())));
    // An ACL that says no more than the mode becomes the mode.
    let minimal = acl(&[(1, 7, NONE), (4, 5, NONE), (0x20, 1, NONE)]);
    setxattr(
        &file,
        "system.posix_acl_access",
        &minimal,
        XattrFlags::empty(),
    )
    .unwrap();
    assert_eq!(mode(&file), 0o751);
    let default = acl(&[
        (1, 7, NONE),
        (2, 6, 1000),
        (4, 5, NONE),
        (0x10, 7, NONE),
        (0x20, 4, NONE),
    ]);
    setxattr(
        &dir,
        "system.posix_acl_default",
        &default,
        XattrFlags::empty(),
    )
    .unwrap();
    // The umask does not count where there is a default ACL.
    let script = format!(
        "umask 077; echo x > {0}/file; mkdir {0}/inner; echo x > {0}/inner/file",
        dir.display()
    );
    assert!(
        Command::new("sh")
            .args(["-c", &script])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(mode(&dir.join("file")), 0o664);
    assert_eq!(mode(&dir.join("inner")), 0o774);
    assert_eq!(
        value(&dir.join("inner"), "system.posix_acl_default").unwrap(),
        default
    );
    assert!(value(&dir.join("inner/file"), "system.posix_acl_access").is_ok());
    assert!(as_user(&format!("echo more >> {}/file", dir.display())));
    removexattr(&dir, "system.posix_acl_default").unwrap();
    mounted.file("dir/plain", b"");
    assert_eq!(
        value(&dir.join("plain"), "system.posix_acl_access"),
        Err(Errno::NODATA)
    );
}

#[test]
fn immutable_and_append_only_are_obeyed() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let file = mounted.file("file", b"content");
    let path = mounted.path("file");
    let set = |flags| ioctl_setflags(&file, flags).unwrap();
    let denied = |result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EPERM));
    };
    set(IFlags::IMMUTABLE);
    assert!(ioctl_getflags(&file).unwrap().contains(IFlags::IMMUTABLE));
    denied(OpenOptions::new().write(true).open(&path).map(drop));
    denied(fs::remove_file(&path));
    denied(fs::rename(&path, mounted.path("other")));
    denied(fs::hard_link(&path, mounted.path("other")));
    denied(fs::set_permissions(&path, PermissionsExt::from_mode(0o600)));
    set(IFlags::APPEND);
    denied(OpenOptions::new().write(true).open(&path).map(drop));
    denied(
        OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|file| file.set_len(0)),
    );
    OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap()
        .write_all(b" and more")
        .unwrap();
    denied(fs::remove_file(&path));
    set(IFlags::empty());
    assert_eq!(fs::read(&path).unwrap(), b"content and more");
    fs::remove_file(&path).unwrap();
}

#[test]
fn holes_are_made_found_and_cost_nothing() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let file = mounted.file("file", &[9; 1 << 20]);
    fallocate(
        &file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        4096,
        65_536,
    )
    .unwrap();
    let mut bytes = vec![1; 65_536 + 8192];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes[..4096] == [9; 4096] && bytes[4096 + 65_536..] == [9; 4096]);
    assert!(bytes[4096..4096 + 65_536].iter().all(|byte| *byte == 0));
    let seek = |from| rustix::fs::seek(&file, from);
    assert_eq!(seek(rustix::fs::SeekFrom::Hole(0)), Ok(4096));
    assert_eq!(seek(rustix::fs::SeekFrom::Data(4096)), Ok(4096 + 65_536));
    assert_eq!(seek(rustix::fs::SeekFrom::Data(1 << 20)), Err(Errno::NXIO));
    fallocate(&file, FallocateFlags::ZERO_RANGE, 1 << 19, 100).unwrap();
    file.read_exact_at(&mut bytes[..102], (1 << 19) - 1)
        .unwrap();
    assert!(bytes[0] == 9 && bytes[1..101].iter().all(|byte| *byte == 0) && bytes[101] == 9);
    fallocate(&file, FallocateFlags::KEEP_SIZE, 1 << 20, 1 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    fallocate(&file, FallocateFlags::empty(), 1 << 20, 4096).unwrap();
    assert_eq!(file.metadata().unwrap().len(), (1 << 20) + 4096);
    let collapse = fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096);
    assert_eq!(collapse, Err(Errno::OPNOTSUPP));
    // 1 TiB with a byte at both ends.
    let sparse = mounted.file("sparse", b"a");
    sparse.write_all_at(b"z", (1 << 40) - 1).unwrap();
    sparse.sync_all().unwrap();
    let found = sparse.metadata().unwrap();
    assert_eq!(found.len(), 1 << 40);
    assert!(found.blocks() <= 64, "{} blocks", found.blocks());
    let mut byte = [0];
    sparse.read_exact_at(&mut byte, (1 << 40) - 1).unwrap();
    assert_eq!(byte, *b"z");
}

#[test]
fn copies_share_their_space() {
    const BYTES: usize = 8 << 20;
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let mut random = vec![0; BYTES];
    File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut random)
        .unwrap();
    let source = mounted.file("source", &random);
    source.sync_all().unwrap();
    let target = mounted.file("target", b"");
    let before = statvfs(mounted.path("")).unwrap();
    let (mut from, mut to) = (0, 0);
    while from < BYTES as u64 {
        let done =
            copy_file_range(&source, Some(&mut from), &target, Some(&mut to), BYTES).unwrap();
        assert_ne!(done, 0);
    }
    target.sync_all().unwrap();
    let after = statvfs(mounted.path("")).unwrap();
    let used = (before.f_bfree.saturating_sub(after.f_bfree)) * before.f_frsize;
    assert!(used < BYTES as u64 / 8, "{used} bytes for the copy");
    assert!(fs::read(mounted.path("target")).unwrap() == random);
    source.write_all_at(b"changed", 100_000).unwrap();
    assert!(fs::read(mounted.path("target")).unwrap() == random);
}

#[test]
fn a_running_program_cannot_be_truncated() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let program = mounted.path("program");
    fs::copy("/bin/sleep", &program).unwrap();
    let size = fs::metadata(&program).unwrap().len();
    for _ in 0..20 {
        let mut running = Command::new(&program).arg("60").spawn().unwrap();
        let refused = OpenOptions::new().write(true).truncate(true).open(&program);
        assert_eq!(
            refused.unwrap_err().raw_os_error(),
            Some(Errno::TXTBSY.raw_os_error())
        );
        assert_eq!(fs::metadata(&program).unwrap().len(), size);
        // O_RDONLY | O_TRUNC reaches the file system before the kernel's own check.
        let flags = OFlags::RDONLY | OFlags::TRUNC;
        let refused = openat(CWD, &program, flags, Mode::empty());
        assert_eq!(refused.unwrap_err(), Errno::TXTBSY);
        assert_eq!(fs::metadata(&program).unwrap().len(), size);
        running.kill().unwrap();
        running.wait().unwrap();
    }
}

#[test]
fn locks_exclude_each_other() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let first = mounted.file("file", b"");
    let second = File::open(mounted.path("file")).unwrap();
    flock(&first, FlockOperation::NonBlockingLockExclusive).unwrap();
    let taken = flock(&second, FlockOperation::NonBlockingLockShared);
    assert_eq!(taken, Err(Errno::WOULDBLOCK));
    flock(&first, FlockOperation::Unlock).unwrap();
    flock(&second, FlockOperation::NonBlockingLockShared).unwrap();
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

#[test]
fn special_files_and_inherited_groups() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let mode_600 = Mode::from_raw_mode(0o600);
    mknodat(CWD, mounted.path("fifo"), FileType::Fifo, mode_600, 0).unwrap();
    let device = rustix::fs::makedev(1, 3);
    let rw = Mode::from_raw_mode(0o666);
    mknodat(
        CWD,
        mounted.path("null"),
        FileType::CharacterDevice,
        rw,
        device,
    )
    .unwrap();
    assert_eq!(fs::metadata(mounted.path("null")).unwrap().rdev(), device);
    fs::write(mounted.path("null"), b"gone").unwrap();
    let listener = std::os::unix::net::UnixListener::bind(mounted.path("socket")).unwrap();
    std::os::unix::net::UnixStream::connect(mounted.path("socket")).unwrap();
    drop(listener);
    let dir = mounted.path("dir");
    fs::create_dir(&dir).unwrap();
    std::os::unix::fs::chown(&dir, None, Some(4321)).unwrap();
    fs::set_permissions(&dir, PermissionsExt::from_mode(0o2777)).unwrap();
    assert!(as_user(&format!(
        "cd {} && mkdir inner && echo x > file",
        dir.display()
    )));
    assert_eq!(fs::metadata(dir.join("file")).unwrap().gid(), 4321);
    assert_eq!(fs::metadata(dir.join("inner")).unwrap().gid(), 4321);
    assert_eq!(mode(&dir.join("inner")) & 0o2000, 0o2000);
}

#[test]
fn an_ordinary_users_write_clears_suid() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let path = mounted.path("file");
    mounted.file("file", b"x");
    for script in ["echo more >> F", "echo new > F", ": > F"] {
        fs::set_permissions(&path, PermissionsExt::from_mode(0o6777)).unwrap();
        assert!(as_user(&script.replace('F', &path.display().to_string())));
        assert_eq!(mode(&path), 0o777, "{script}");
    }
    fs::set_permissions(&path, PermissionsExt::from_mode(0o6777)).unwrap();
    std::os::unix::fs::chown(&path, Some(1000), None).unwrap();
    assert_eq!(mode(&path), 0o777);
}

#[test]
fn what_the_kernel_took_is_kept_though_nothing_may_change_any_more() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    for options in [
        &[][..],
        &["--writeback"],
        &["--writeback", "--cache=always"],
    ] {
        mounted.unmount();
        mounted.mount_with(options);
        let name = |name: &str| mounted.path(&format!("{name}{}", options.len()));
        let (log, mapped) = (name("log"), name("mapped"));
        // The second append comes with all of the page that it is in.
        let script = "echo 1 > LOG; chattr +a LOG; echo 2 >> LOG; sync LOG; echo 3 >> LOG
            sync LOG; ! echo 4 > LOG";
        let script = script.replace("LOG", &log.display().to_string());
        let sh = Command::new("sh").args(["-ec", &script]).status().unwrap();
        assert!(sh.success(), "{options:?}");
        fs::write(&mapped, [0; 4096]).unwrap();
        let script = "import mmap, os, subprocess, sys
fd = os.open(sys.argv[1], os.O_RDWR)
bytes = mmap.mmap(fd, 4096)
bytes[0:4] = b'kept'
subprocess.run(['chattr', '+i', sys.argv[1]], check=True)
bytes.flush()";
        let mut python = Command::new("python3");
        python.args(["-c", script]).arg(&mapped);
        assert!(python.status().unwrap().success(), "{options:?}");
        mounted.unmount();
        mounted.mount();
        assert_eq!(fs::read(&log).unwrap(), b"1\n2\n3\n");
        assert_eq!(&fs::read(&mapped).unwrap()[..4], b"kept");
        File::options().write(true).open(&mapped).unwrap_err();
        File::options().write(true).open(&log).unwrap_err();
    }
}

#[test]
fn whatever_changes_content_clears_suid_unless_root_does_it() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    mounted.file("source", b"0123456789");
    mounted.file("F", b"0123456789");
    let (source, path) = (mounted.path("source"), mounted.path("F"));
    let (source, shown) = (source.display(), path.display());
    for script in [
        format!("fallocate -l 9999 {shown}"),
        format!("fallocate -p -o 2 -l 3 {shown}"),
        format!("fallocate -z -o 2 -l 3 {shown}"),
        format!(
            r#"perl -e 'open I,"<",shift;open O,"+<",shift;
            exit(syscall(326,fileno I,0,fileno O,0,5,0)!=5)' {source} {shown}"#
        ),
        format!("truncate -s 5 {shown}"),
        format!("echo more >> {shown}"),
    ] {
        // Without group execution setgid is for members of the group to keep, as since Linux 6.2.
        for (before, after) in [(0o6777, 0o777), (0o6766, 0o766), (0o2666, 0o666)] {
            let set = || fs::set_permissions(&path, PermissionsExt::from_mode(before)).unwrap();
            set();
            assert!(as_user(&script), "{script}");
            assert_eq!(mode(&path), after, "{script} with {before:o}");
            set();
            let root = Command::new("sh").args(["-c", &script]).status().unwrap();
            assert!(root.success());
            assert_eq!(mode(&path), before, "{script} with {before:o}, by root");
        }
        std::os::unix::fs::chown(&path, None, Some(1000)).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o6766)).unwrap();
        assert!(as_user(&script), "{script}");
        assert_eq!(mode(&path), 0o2766, "{script}, by a member of the group");
        std::os::unix::fs::chown(&path, None, Some(0)).unwrap();
    }
}

#[test]
fn appends_of_many_writers_all_arrive() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    mounted.file("log", b"");
    let script = "for n in $(seq 200); do echo \"writer $$ line $n\" >> \"$0\"; done";
    let writers: Vec<Child> = (0..4)
        .map(|_| {
            Command::new("sh")
                .args(["-c", script])
                .arg(mounted.path("log"))
                .spawn()
                .unwrap()
        })
        .collect();
    for mut writer in writers {
        assert!(writer.wait().unwrap().success());
    }
    let log = fs::read_to_string(mounted.path("log")).unwrap();
    assert_eq!(log.lines().count(), 800);
    assert!(log.lines().all(|line| line.starts_with("writer ")));
}

#[test]
fn direct_io_goes_around_the_cache() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .custom_flags(libc::O_DIRECT | libc::O_DSYNC)
        .open(mounted.path("file"))
        .unwrap();
    let block = vec![5; 4 << 20];
    file.write_all_at(&block, 0).unwrap();
    let cached = fs::read(mounted.path("file")).unwrap();
    assert!(cached == block);
}
