//! Several guests at once on one store.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vhost::VhostUserMemoryRegionInfo;
use vhost::vhost_user::VhostUserFrontend;
use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::ROOT;
use vm_tests::frontend::{Mount, Options};

use crate::daemon::Daemon;

fn inodes_used(mount: &mut Mount) -> u64 {
    let statfs = mount.client(0).call(request::statfs()).unwrap();
    statfs.files - statfs.ffree
}

/// Inodes are freed behind the reply.
fn inodes_become(mount: &mut Mount, wanted: u64) {
    let since = Instant::now();
    while inodes_used(mount) != wanted {
        let used = inodes_used(mount);
        assert!(since.elapsed() < Duration::from_secs(10), "{used} inodes");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn guests_see_each_other_s_files() {
    let daemon = Daemon::start(&["--socket-path", "b", "--socket-path", "c"]);
    let mut a = daemon.mount(&Options::default());
    let mut b = daemon.mount_at("b");
    let mut c = daemon.mount_at("c");
    let made = a.client(0).call(request::create(ROOT, "file", 0o644));
    let (entry, open) = made.unwrap();
    a.client(0)
        .call(request::write(entry.nodeid, open.fh, 0, b"from a"))
        .unwrap();
    for mount in [&mut b, &mut c] {
        let found = mount.client(0).call(request::lookup(ROOT, "file")).unwrap();
        assert_eq!(found.nodeid, entry.nodeid);
        let read = request::read(found.nodeid, 0, 0, 100);
        assert_eq!(mount.client(0).call(read).unwrap(), b"from a");
    }
    drop((a, b, c));
    daemon.terminate();
}

#[test]
fn what_one_guest_removes_another_keeps_while_it_knows_it() {
    let daemon = Daemon::start(&["--socket-path", "b"]);
    let mut a = daemon.mount(&Options::default());
    let mut b = daemon.mount_at("b");
    let before = inodes_used(&mut a);
    for (name, b_goes) in [("forgotten", false), ("gone", true)] {
        let made = b.client(0).call(request::create(ROOT, name, 0o644));
        let (entry, open) = made.unwrap();
        let write = request::write(entry.nodeid, open.fh, 0, b"still here");
        b.client(0).call(write).unwrap();
        a.client(0).call(request::lookup(ROOT, name)).unwrap();
        a.client(0).call(request::unlink(ROOT, name)).unwrap();
        // The one that removed it lets go; the other has it open.
        let forget = request::forget(entry.nodeid, 1);
        a.hiprio.call(forget).unwrap();
        let gone = a.client(0).call(request::lookup(ROOT, name));
        // Not to be remembered: the other guest may make it again.
        assert_eq!(gone.unwrap_err().errno(), Some(libc::ENOENT));
        std::thread::sleep(Duration::from_millis(50));
        let read = request::read(entry.nodeid, open.fh, 0, 100);
        assert_eq!(b.client(0).call(read).unwrap(), b"still here");
        assert_eq!(inodes_used(&mut a), before + 1);
        if b_goes {
            drop(b);
            b = daemon.mount_at("b");
        } else {
            b.hiprio.call(request::forget(entry.nodeid, 1)).unwrap();
        }
        inodes_become(&mut a, before);
    }
    drop((a, b));
    daemon.terminate();
}

#[test]
fn a_guest_that_goes_does_not_disturb_the_others() {
    let daemon = Daemon::start(&["--socket-path", "b", "--exit-on-disconnect"]);
    let mut a = daemon.mount(&Options::default());
    let b = daemon.mount_at("b");
    let made = a.client(0).call(request::create(ROOT, "file", 0o644));
    let (entry, open) = made.unwrap();
    drop(b);
    for n in 0..100_u64 {
        let write = request::write(entry.nodeid, open.fh, n * 8, &n.to_le_bytes());
        a.client(0).call(write).unwrap();
    }
    let read = request::read(entry.nodeid, open.fh, 99 * 8, 8);
    assert_eq!(a.client(0).call(read).unwrap(), 99_u64.to_le_bytes());
    // The daemon ends with the last of them.
    drop(a);
    daemon.ends_well();
}

#[test]
fn a_socket_that_is_no_longer_served_refuses() {
    let daemon = Daemon::start(&["--socket-path", "b", "--exit-on-disconnect"]);
    let a = daemon.mount(&Options::default());
    let mut b = daemon.mount_at("b");
    drop(a);
    std::thread::sleep(Duration::from_millis(500));
    b.client(0).call(request::getattr(ROOT)).unwrap();
    // The virtual machine is started again: it must learn that nobody serves it.
    let connected = UnixStream::connect(daemon.socket());
    assert!(connected.is_err(), "connected to nobody, and hangs");
}

/// A front-end that uses up the descriptors is not to end the daemon of the other guests.
#[test]
fn a_front_end_that_keeps_descriptors_ends_no_other() {
    const FAR: u64 = 1 << 40;
    let flags = [
        "--socket-path",
        "b",
        "--socket-path",
        "c",
        "--rlimit-nofile",
        "256",
    ];
    let mut daemon = Daemon::start(&flags);
    let mut a = daemon.mount(&Options::default());
    let mut b = daemon.mount_at("b");
    let file = tempfile::tempfile().unwrap();
    file.set_len(4096).unwrap();
    for index in 0..500 {
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: FAR + index * 8192,
            memory_size: 4096,
            userspace_addr: (1 << 46) + index * 8192,
            mmap_offset: 0,
            mmap_handle: file.as_raw_fd(),
        };
        if b.device.vhost.add_mem_region(&region).is_err() {
            break;
        }
    }
    a.client(0).call(request::getattr(ROOT)).unwrap();
    // The third virtual machine comes.
    let _c = UnixStream::connect(daemon.socket().with_file_name("c"));
    std::thread::sleep(Duration::from_secs(1));
    daemon.is_unharmed("a third guest");
    a.client(0).call(request::getattr(ROOT)).unwrap();
}
