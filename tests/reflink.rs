//! Copies that share their space: what the kernel's FUSE client lets through, which is the same code
//! for virtiofs and for the local mount. It has no `remap_file_range`, so the VFS answers FICLONE and
//! FICLONERANGE itself; copy_file_range reaches razorfs, and cp uses it.
//!
//! Needs root and /dev/fuse; without either it passes and says that it was skipped.
#![allow(missing_docs)]
// Helpers outside of test functions fail a test by panicking too.
#![allow(clippy::unwrap_used, clippy::panic)]

mod host;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command};

use rustix::fs::{ioctl_ficlone, statvfs};
use rustix::io::Errno;

use host::{is_root_with_fuse, mounted, scratch_dir};

const BYTES: u64 = 16 << 20;

/// A mount, gone at the end.
struct Mount {
    dir: tempfile::TempDir,
    daemon: Child,
}

impl Mount {
    fn new() -> Option<Mount> {
        if !is_root_with_fuse() {
            return None;
        }
        let dir = scratch_dir();
        let (store, mnt) = (dir.path().join("store"), dir.path().join("mnt"));
        fs::create_dir(&mnt).unwrap();
        let razorfs = |verb| {
            let mut razorfs = Command::new(env!("CARGO_BIN_EXE_razorfs"));
            razorfs.arg(verb).arg(&store);
            razorfs
        };
        assert!(razorfs("mkfs").status().unwrap().success());
        let mut mount = razorfs("mount");
        mount.arg(&mnt);
        let daemon = mounted(mount, &mnt);
        Some(Mount { dir, daemon })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("mnt").join(name)
    }

    fn free_bytes(&self) -> u64 {
        let found = statvfs(self.path("")).unwrap();
        found.f_bfree * found.f_frsize
    }

    fn cp(&self, how: &str, to: &str) -> bool {
        let mut cp = Command::new("cp");
        cp.arg(how).arg(self.path("one")).arg(self.path(to));
        cp.status().unwrap().success()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.path("")).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            let _ = Command::new("umount").arg("-l").arg(self.path("")).status();
            let _ = self.daemon.kill();
        }
        let _ = self.daemon.wait();
    }
}

#[test]
fn cp_shares_space_though_the_kernel_clones_nothing() {
    let Some(mount) = Mount::new() else { return };
    let mut urandom = File::open("/dev/urandom").unwrap();
    let mut random = vec![0; usize::try_from(BYTES).unwrap()];
    std::io::Read::read_exact(&mut urandom, &mut random).unwrap();
    fs::write(mount.path("one"), &random).unwrap();
    let one = File::open(mount.path("one")).unwrap();
    one.sync_all().unwrap();
    let other = File::create(mount.path("other")).unwrap();
    assert_eq!(ioctl_ficlone(&other, &one), Err(Errno::OPNOTSUPP));
    assert!(!mount.cp("--reflink=always", "always"));
    let before = mount.free_bytes();
    // Of coreutils 9, auto is the default too.
    for (how, name) in [("--reflink=auto", "two"), ("-a", "three")] {
        assert!(mount.cp(how, name));
        let file = File::open(mount.path(name)).unwrap();
        file.sync_all().unwrap();
        assert!(fs::read(mount.path(name)).unwrap() == random);
    }
    let used = before.saturating_sub(mount.free_bytes());
    assert!(used < BYTES / 8, "{used} bytes for two copies");
    assert!(mount.cp("--reflink=never", "never"));
    File::open(mount.path("never")).unwrap().sync_all().unwrap();
    // What was written in pieces before may have come together meanwhile, and given something back.
    let used = before.saturating_sub(mount.free_bytes());
    assert!(used > BYTES / 8 * 7, "{used} bytes for three copies");
}
