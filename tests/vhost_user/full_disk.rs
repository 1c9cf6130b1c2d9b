//! A host's disk that is really full: a file system of its own under the store, which the guest or
//! somebody else fills.
//!
//! Needs root and a loop device, and the file system's mkfs; without them a test passes and says
//! that it was skipped.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::ROOT;
use vm_tests::frontend::{Mount, Options};

use crate::daemon::Daemon;
use crate::host::{is_root_with, scratch_dir};

const PIECE: usize = 128 << 10;

/// A small file system, mounted below a directory of its own, both gone at the end.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    /// `None` where that cannot be.
    fn new(mkfs: &[&str], mib: u64) -> Option<SmallDisk> {
        if !is_root_with("/dev/loop-control", "loop devices") {
            return None;
        }
        let dir = scratch_dir();
        let image = dir.path().join("image");
        File::create(&image).unwrap().set_len(mib << 20).unwrap();
        let [program, flags @ ..] = mkfs else {
            return None;
        };
        let Ok(made) = Command::new(program).args(flags).arg(&image).output() else {
            eprintln!("skipped: there is no {program}");
            return None;
        };
        assert!(made.status.success(), "{made:?}");
        let disk = SmallDisk { dir };
        fs::create_dir(disk.path()).unwrap();
        let mount = Command::new("mount")
            .args(["-o", "loop"])
            .args([&image, &disk.path()])
            .output()
            .unwrap();
        if !mount.status.success() {
            eprintln!("skipped: {program}'s file system cannot be mounted: {mount:?}");
            return None;
        }
        Some(disk)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    /// Bytes that anybody could still write to it.
    fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.path()).unwrap();
        stat.f_bfree * stat.f_frsize
    }

    /// Fills it with a file of somebody else's, to the last block.
    fn fill(&self) {
        let file = File::create(self.path().join("someone else's")).unwrap();
        let mut at = 0;
        for size in [1 << 20, 64 << 10, 4096] {
            while let Ok(written) = file.write_at(&vec![0xee; size], at) {
                at += written as u64;
            }
        }
        let full = file.write_at(&[0xee; 4096], at).unwrap_err();
        assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
        // Btrfs and XFS find room behind a write.
        let _ = file.sync_all();
        for more in 0.. {
            let path = self.path().join(format!("more {more}"));
            let Ok(()) = fs::write(path, vec![0xee; 4096]) else {
                break;
            };
        }
    }

    /// Takes it away again.
    fn clear(&self) {
        for entry in fs::read_dir(self.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::remove_file(path).unwrap();
            }
        }
        // What it had may come back later.
        let since = Instant::now();
        while self.free() < 8 << 20 && since.elapsed() < Duration::from_secs(20) {
            rustix::fs::syncfs(File::open(self.path()).unwrap()).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: after a test that failed somebody may still be there.
        let gone = Command::new("umount").arg("-l").arg(self.path()).status();
        if !gone.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.path().display());
        }
    }
}

/// What byte `at` of a file's content is made of.
fn piece(seed: u64, at: u64) -> Vec<u8> {
    let mut word = (seed << 32) | (at / PIECE as u64) | (1 << 63);
    let words = std::iter::repeat_with(|| {
        word = word.wrapping_mul(6_364_136_223_846_793_005).rotate_left(17) ^ at;
        word.to_le_bytes()
    });
    words.take(PIECE / 8).flatten().collect()
}

/// A guest's files.
struct Guest {
    mount: Mount,
}

impl Guest {
    fn of(daemon: &Daemon) -> Guest {
        let mount = daemon.mount(&Options::default());
        Guest { mount }
    }

    /// A new file's node, or the errno.
    fn create(&mut self, name: &str) -> Result<u64, i32> {
        let made = self
            .mount
            .client(0)
            .call(request::create(ROOT, name, 0o644));
        let (entry, open) = made.map_err(|error| error.errno().unwrap())?;
        let release = request::release(entry.nodeid, open.fh);
        self.mount.client(0).call(release).unwrap();
        Ok(entry.nodeid)
    }

    fn write(&mut self, node: u64, at: u64, bytes: &[u8]) -> Result<(), i32> {
        let write = request::write(node, 0, at, bytes);
        match self.mount.client(0).call(write) {
            Ok(written) => {
                assert_eq!(written.size as usize, bytes.len());
                Ok(())
            }
            Err(error) => Err(error.errno().unwrap()),
        }
    }

    /// Writes pieces until there is no space for another, or up to `end`; up to where.
    fn fill(&mut self, node: u64, seed: u64, mut at: u64, end: u64) -> u64 {
        while at < end {
            match self.write(node, at, &piece(seed, at)) {
                Ok(()) => at += PIECE as u64,
                Err(errno) => {
                    assert_eq!(errno, libc::ENOSPC, "at {at}");
                    break;
                }
            }
        }
        at
    }

    fn fsync(&mut self, node: u64) -> Result<(), i32> {
        let synced = self.mount.client(0).call(request::fsync(node, 0, 0));
        synced.map_err(|error| error.errno().unwrap())
    }

    fn has(&mut self, node: u64, seed: u64, end: u64) {
        for at in (0..end).step_by(PIECE) {
            let read = request::read(node, 0, at, u32::try_from(PIECE).unwrap());
            let found = self.mount.client(0).call(read).unwrap();
            assert!(found == piece(seed, at), "{seed} at {at}");
        }
    }

    fn lookup(&mut self, name: &str) -> u64 {
        let found = self.mount.client(0).call(request::lookup(ROOT, name));
        found.unwrap().nodeid
    }

    /// Removes a file that the kernel has looked up `lookups` times.
    fn remove(&mut self, name: &str, node: u64, lookups: u64) {
        let unlink = request::unlink(ROOT, name);
        self.mount.client(0).call(unlink).unwrap();
        let forget = request::forget(node, lookups);
        self.mount.hiprio.call(forget).unwrap();
    }
}

fn done(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}

/// A command of razorfs, by the daemon's socket: which is elsewhere, since XFS has no room for one
/// on a full disk.
fn control(daemon: &Daemon, verb: &str, rest: &[&str]) -> Output {
    let socket = daemon.socket().with_file_name("control");
    let args = [rest, &["--control", socket.to_str().unwrap()]].concat();
    daemon.command(verb, &args)
}

/// It was done, or there was no space for it.
fn done_or_full(output: &Output) -> bool {
    let said = String::from_utf8_lossy(&output.stderr);
    let is_full = said.contains("full") || said.contains("room") || said.contains("space");
    assert!(output.status.success() || is_full, "{output:?}");
    output.status.success()
}

/// Has space given back until the host has that much, which may take some checkpoints.
fn trim_until(disk: &SmallDisk, free: u64, daemon: &Daemon) {
    let since = Instant::now();
    while disk.free() < free {
        let late = since.elapsed() > Duration::from_secs(180);
        assert!(!late, "{} of {free} bytes come back", disk.free());
        done(&control(daemon, "trim", &[]));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The guest fills the disk, goes on there, is killed there, and makes room again.
fn the_guest_fills_it(disk: &SmallDisk) {
    let mut daemon = Daemon::start_on(&disk.path(), &["--control", "control"]);
    let mut guest = Guest::of(&daemon);
    let kept = guest.create("kept").unwrap();
    assert_eq!(guest.fill(kept, 1, 0, 4 << 20), 4 << 20);
    guest.fsync(kept).unwrap();
    done(&control(&daemon, "snapshot", &["main@early"]));
    let big = guest.create("big").unwrap();
    let end = guest.fill(big, 2, 0, 1 << 40);
    assert!(end > 16 << 20, "{end} bytes");
    // What was acknowledged has its space.
    guest.fsync(big).unwrap();
    guest.has(big, 2, end);
    guest.has(kept, 1, 4 << 20);

    // Small files until there is no space for them either; and a log that goes round.
    let mut small = Vec::new();
    for number in 0..3000 {
        let name = format!("small {number}");
        match guest.create(&name) {
            Ok(node) => {
                if let Err(errno) = guest.write(node, 0, &[7; 100]) {
                    assert_eq!(errno, libc::ENOSPC);
                }
                small.push((name, node));
            }
            Err(errno) => {
                assert_eq!(errno, libc::ENOSPC);
                break;
            }
        }
    }
    for round in 0..2000u64 {
        if let Err(errno) = guest.write(kept, round % 64 * 4096, &piece(1, 0)[..4096]) {
            assert_eq!(errno, libc::ENOSPC);
        }
        guest.fsync(kept).unwrap();
    }
    let restored = guest.fill(kept, 1, 0, 4 << 20);
    done_or_full(&control(&daemon, "snapshot", &["main@full"]));
    guest.fsync(kept).unwrap();
    drop(guest);

    daemon.kill();
    daemon.restart();
    let mut guest = Guest::of(&daemon);
    let (big, kept) = (guest.lookup("big"), guest.lookup("kept"));
    guest.has(big, 2, end);
    guest.has(kept, 1, restored);
    for (name, _) in &small {
        let node = guest.lookup(name);
        guest.remove(name, node, 1);
    }
    daemon.kill();
    daemon.check();
    daemon.restart();

    let mut guest = Guest::of(&daemon);
    let big = guest.lookup("big");
    guest.has(big, 2, end);
    // From now on space comes back, in the background too.
    let free = disk.free();
    guest.remove("big", big, 1);
    for name in ["main@early", "main@full"] {
        let said = control(&daemon, "delete", &[name]);
        let is_there = !String::from_utf8_lossy(&said.stderr).contains("there is no");
        assert!(said.status.success() || !is_there, "{said:?}");
    }
    trim_until(disk, free + end / 4 * 3, &daemon);
    let again = guest.create("again").unwrap();
    let half = (end / 2).next_multiple_of(PIECE as u64);
    assert_eq!(guest.fill(again, 3, 0, half), half);
    guest.fsync(again).unwrap();
    guest.has(again, 3, half);
    drop(guest);
    daemon.terminate();
}

/// Somebody else fills it, when the store has given back what it had.
fn someone_else_fills_it(disk: &SmallDisk) {
    let mut daemon = Daemon::start_on(&disk.path(), &["--control", "control"]);
    let mut guest = Guest::of(&daemon);
    let kept = guest.create("kept").unwrap();
    assert_eq!(guest.fill(kept, 1, 0, 16 << 20), 16 << 20);
    guest.fsync(kept).unwrap();
    let gone = guest.create("gone").unwrap();
    assert_eq!(guest.fill(gone, 2, 0, 16 << 20), 16 << 20);
    guest.fsync(gone).unwrap();
    let after = guest.create("after").unwrap();
    assert_eq!(guest.fill(after, 3, 0, 1 << 20), 1 << 20);
    guest.fsync(after).unwrap();
    guest.remove("gone", gone, 1);
    // Twice: what is freed is free behind a checkpoint.
    for _ in 0..2 {
        done(&control(&daemon, "trim", &[]));
    }
    // Unwritten when the disk gets full.
    assert_eq!(guest.fill(after, 3, 1 << 20, 5 << 20), 5 << 20);
    disk.fill();
    guest.fsync(after).unwrap();
    let more = guest.fill(after, 3, 5 << 20, 1 << 40);
    guest.fsync(after).unwrap();
    guest.has(after, 3, more);
    guest.has(kept, 1, 16 << 20);
    for round in 0..2000u64 {
        if let Err(errno) = guest.write(kept, round % 64 * 4096, &piece(1, 0)[..4096]) {
            assert_eq!(errno, libc::ENOSPC);
        }
        guest.fsync(kept).unwrap();
    }
    let is_there = done_or_full(&control(&daemon, "snapshot", &["main@full"]));
    guest.remove("after", after, 1);
    drop(guest);

    daemon.kill();
    daemon.check();
    daemon.restart();
    let mut guest = Guest::of(&daemon);
    let node = guest.lookup("kept");
    let read = request::read(node, 0, 8 << 20, u32::try_from(PIECE).unwrap());
    assert!(guest.mount.client(0).call(read).unwrap() == piece(1, 8 << 20));
    if is_there {
        done(&control(&daemon, "delete", &["main@full"]));
    }
    // Still full: what the store has it can use.
    let new = guest.create("new").unwrap();
    let end = guest.fill(new, 4, 0, 1 << 40);
    guest.fsync(new).unwrap();
    guest.has(new, 4, end);
    disk.clear();
    let longer = guest.fill(new, 4, end, end + (4 << 20));
    assert_eq!(longer, end + (4 << 20));
    guest.fsync(new).unwrap();
    guest.has(new, 4, longer);
    drop(guest);
    daemon.terminate();
}

const EXT4: &[&str] = &["mkfs.ext4", "-q", "-F", "-m", "0"];
const XFS: &[&str] = &["mkfs.xfs", "-q", "-f"];
// Else so small a one runs out of metadata first, which makes no room for anything.
const BTRFS: &[&str] = &["mkfs.btrfs", "-q", "-f", "--mixed"];

#[test]
fn a_guest_fills_ext4() {
    if let Some(disk) = SmallDisk::new(EXT4, 128) {
        the_guest_fills_it(&disk);
    }
}

#[test]
fn someone_else_fills_ext4() {
    if let Some(disk) = SmallDisk::new(EXT4, 128) {
        someone_else_fills_it(&disk);
    }
}

#[test]
fn a_guest_fills_xfs() {
    if let Some(disk) = SmallDisk::new(XFS, 320) {
        the_guest_fills_it(&disk);
    }
}

#[test]
fn someone_else_fills_xfs() {
    if let Some(disk) = SmallDisk::new(XFS, 320) {
        someone_else_fills_it(&disk);
    }
}

#[test]
fn a_guest_fills_btrfs() {
    if let Some(disk) = SmallDisk::new(BTRFS, 160) {
        the_guest_fills_it(&disk);
    }
}

// Somebody else who fills a Btrfs to its last block is not tried: it refuses to overwrite blocks of
// files now and then, which is a failed write, and the store read-only until it is opened again.
