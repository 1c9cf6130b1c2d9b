//! What tests that use the host's own kernel begin with.
#![allow(dead_code)] // Each takes what it needs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

/// Whether this is root with a device, by its path and as one calls it. Says so when it is not: a test
/// is skipped then.
pub fn is_root_with(device: &str, called: &str) -> bool {
    let is_there = rustix::process::geteuid().is_root() && Path::new(device).exists();
    if !is_there {
        eprintln!("skipped: needs root and {called}");
    }
    is_there
}

/// The same for mounts over FUSE.
pub fn is_root_with_fuse() -> bool {
    is_root_with("/dev/fuse", "/dev/fuse")
}

/// A directory that goes at the end. Not in /tmp, which may lie in memory.
pub fn scratch_dir() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("razorfs-")
        .tempdir_in("/var/tmp")
        .unwrap()
}

/// Starts a program that mounts something on a directory, and waits until it has.
pub fn mounted(mut program: Command, place: &Path) -> Child {
    let before = fs::metadata(place).unwrap().dev();
    let mut child = program.spawn().unwrap();
    for _ in 0..200 {
        if fs::metadata(place).unwrap().dev() != before {
            return child;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    let _ = child.kill();
    let _ = child.wait();
    panic!("nothing is mounted after five seconds");
}
