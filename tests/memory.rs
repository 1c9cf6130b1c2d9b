//! What changes took is given back to the system once there are no more.
#![cfg(target_env = "gnu")]
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;
use std::time::{Duration, Instant};

use razorfs::disk::dir::create_store;
use razorfs::engine::{Cred, MkfsOptions, NewInode, OpenOptions, Volume, mkfs, system_clock};
use razorfs::format::id::Ino;

/// Changed pages take this much and more before their checkpoint.
const FILES: u32 = 60_000;
const PATIENCE: Duration = Duration::from_secs(30);

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.unwrap().parse().unwrap()
}

fn make(dir: &Path) {
    let made = create_store(dir, true, false).unwrap();
    mkfs(made.media, &MkfsOptions::reproducible(), &system_clock()).unwrap();
}

#[test]
fn a_store_that_is_left_alone_gives_back_memory() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    make(dir.path());
    let options = OpenOptions {
        cache_bytes: 1 << 20,
        commit_interval: Duration::from_millis(100),
        ..OpenOptions::default()
    };
    let volume = Volume::open(dir.path(), options).unwrap();
    let new = NewInode {
        mode: libc::S_IFREG | 0o644,
        rdev: 0,
        umask: 0,
        supplementary_gid: None,
        xattrs: &[],
    };
    for number in 0..FILES {
        let name = format!("a-name-of-usual-length-{number}");
        volume
            .create(Cred::default(), Ino::ROOT, name.as_bytes(), &new)
            .unwrap();
    }
    let most = resident_kib();
    volume.store().checkpoint().unwrap();
    println!(
        "{most} KiB at most, {} after the checkpoint",
        resident_kib()
    );
    let began = Instant::now();
    while resident_kib() > most / 2 {
        let resident = resident_kib();
        assert!(began.elapsed() < PATIENCE, "{resident} of {most} KiB");
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("{} KiB left", resident_kib());
    volume.store().close().unwrap();
}
