//! A guest that never lets go: what it can make the daemon keep is bounded.
//!
//! `RAZORFS_LOOKUPS` is the number of inodes.

use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::ROOT;
use vm_tests::frontend::{Client, Options, Request};

use crate::daemon::Daemon;
use crate::hostile_campaign::from_environment;

/// Inodes without `RAZORFS_LOOKUPS`.
const LOOKUPS: u64 = 100_000;
/// What the daemon keeps of an inode that the guest knows, at most: 40 bytes (src/fs/lookups.rs),
/// and the same once more while the table grows.
const BYTES_OF_INODE: u64 = 80;
/// What else may come and go: pages of trees, buffers, what the allocator keeps.
const SLACK_BYTES: u64 = 24 << 20;

/// Sends requests as fast as the queue takes them; how many were answered without an error.
fn all<T>(client: &mut Client, requests: impl Iterator<Item = Request<T>>) -> u64 {
    let mut tickets = std::collections::VecDeque::new();
    let mut done = 0;
    for request in requests {
        tickets.push_back(client.submit(request).unwrap());
        if tickets.len() >= 16 {
            let ticket = tickets.pop_front().unwrap();
            done += u64::from(client.complete(ticket).is_ok());
        }
    }
    for ticket in tickets {
        done += u64::from(client.complete(ticket).is_ok());
    }
    done
}

/// Looks up everything in a directory, by listing it; how many there were.
fn look_all_up(client: &mut Client, dir: u64) -> u64 {
    let (mut after, mut count) = (0, 0);
    loop {
        let listing = request::readdirplus(dir, 0, after, 1 << 17);
        let entries = client.call(listing).unwrap();
        let Some(last) = entries.last() else {
            return count;
        };
        after = last.dirent.off;
        count += entries.len() as u64;
    }
}

#[test]
fn lookups_without_a_forget_cost_a_few_bytes_each() {
    let inodes = from_environment("RAZORFS_LOOKUPS", LOOKUPS);
    let daemon = Daemon::start(&[]);
    let mut mount = daemon.mount(&Options::default());
    let client = mount.client(0);
    let dir = client.call(request::mkdir(ROOT, "dir", 0o755)).unwrap();
    let dir = dir.nodeid;
    let made = all(
        client,
        (0..inodes).map(|i| request::mknod(dir, format!("{i}"), libc::S_IFREG, 0)),
    );
    assert_eq!(made, inodes);
    client.call(request::syncfs()).unwrap();
    // Once, so that everything that is kept for speed is there; then another guest comes.
    look_all_up(client, dir);
    client.call(request::init(u64::MAX)).unwrap();
    let before = daemon.rss_bytes();
    assert!(look_all_up(client, dir) >= inodes);
    let once = daemon.rss_bytes();
    let bound = before + inodes * BYTES_OF_INODE + SLACK_BYTES;
    assert!(once <= bound, "{before} bytes, then {once}");
    // Again and again is no more than once.
    for _ in 0..3 {
        look_all_up(client, dir);
    }
    let often = daemon.rss_bytes();
    println!("{inodes} inodes: {before} bytes before, {once} after, {often} after more");
    assert!(often <= once + SLACK_BYTES, "{once} bytes, then {often}");
    drop(mount);
    daemon.terminate();
}

#[test]
fn requests_about_inodes_that_are_none_cost_nothing() {
    let inodes = from_environment("RAZORFS_LOOKUPS", LOOKUPS);
    // No commit on the way: what is only let go of then would stay.
    let daemon = Daemon::start(&["--commit-interval", "3600"]);
    let mut mount = daemon.mount(&Options::default());
    let client = mount.client(0);
    client.call(request::getattr(ROOT)).unwrap();
    let before = daemon.rss_bytes();
    let some = |i: u64| 1_000_000 + i;
    let done = all(
        client,
        (0..inodes).map(|i| request::write(some(i), 0, 0, b"x")),
    ) + all(
        client,
        (0..inodes).map(|i| request::read(some(i), 0, 0, 10)),
    ) + all(client, (0..inodes).map(|i| request::fsync(some(i), 0, 0)))
        + all(
            client,
            (0..inodes).map(|i| request::fallocate(some(i), 0, 0, 10, 0)),
        );
    // FSYNC of what has nothing to sync is done.
    assert_eq!(done, inodes);
    let after = daemon.rss_bytes();
    println!("{inodes} inodes: {before} bytes before, {after} after");
    assert!(after < before + (16 << 20), "{before} bytes, then {after}");
    drop(mount);
    daemon.terminate();
}
