//! Guests that send what no kernel sends: lengths that lie, names that are none, inodes that were
//! never told, sessions that never began.

use std::time::Instant;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vm_tests::frontend::fuse::wire::{
    GetxattrIn, InHeader, InitIn, IoctlIn, OutHeader, ROOT, ReadIn, SetxattrIn, WriteIn, opcode,
};
use vm_tests::frontend::fuse::{body, request};
use vm_tests::frontend::{Client, Mount, Options, Request, WAIT};
use zerocopy::{FromBytes, IntoBytes};

use crate::daemon::Daemon;

fn mounted() -> (Daemon, Mount) {
    let daemon = Daemon::start(&["--num-queues", "3"]);
    let mount = daemon.mount(&Options::default());
    (daemon, mount)
}

/// The error that a request is answered with, 0 for none.
fn errno<T>(client: &mut Client, request: Request<T>) -> i32 {
    match client.call(request) {
        Ok(_) => 0,
        Err(error) => error.errno().unwrap_or_else(|| panic!("{error}")),
    }
}

/// The error that raw bytes are answered with, 0 for none, -1 for no answer.
fn raw(client: &mut Client, bytes: &[u8], room: usize) -> i32 {
    let since = Instant::now();
    let reply = client.raw(bytes, room).unwrap();
    assert!(since.elapsed() < WAIT, "too long");
    if reply.is_empty() {
        return -1;
    }
    let header = OutHeader::read_from_prefix(&reply).unwrap().0;
    match body(&reply, header.unique) {
        Ok(_) => 0,
        Err(error) => error.errno().unwrap_or_else(|| panic!("{error}")),
    }
}

fn header(len: u32, opcode: u32, nodeid: u64) -> InHeader {
    InHeader {
        len,
        opcode,
        unique: 2,
        nodeid,
        ..InHeader::default()
    }
}

/// A request whose header says `claimed` bytes more than there are.
fn lying(opcode: u32, node: u64, body: &[&[u8]], claimed: i64) -> Vec<u8> {
    let body = body.concat();
    let len = (40 + body.len()) as i64 + claimed;
    [header(len as u32, opcode, node).as_bytes(), &body].concat()
}

/// It serves, and the daemon is well.
fn serves(daemon: &mut Daemon, mount: &mut Mount, after: &str) {
    mount.client(0).call(request::getattr(ROOT)).unwrap();
    daemon.is_unharmed(after);
}

#[test]
fn lengths_that_lie() {
    let (mut daemon, mut mount) = mounted();
    let c = mount.client(0);
    let getattr: &[&[u8]] = &[&[0; 16]];
    for claimed in [-56, -55, -17, 1, 8, 1 << 20, (1 << 32) - 57] {
        let errno = raw(c, &lying(opcode::GETATTR, ROOT, getattr, claimed), 200);
        assert_eq!(errno, libc::EINVAL, "{claimed}");
    }
    // Too little for what the opcode has.
    for code in [4, 9, 14, 15, 16, 20, 21, 22, 35, 39, 43, 46, 47, 52] {
        for len in 0..8usize {
            let errno = raw(c, &lying(code, ROOT, &[&vec![1; len]], 0), 4096);
            assert_eq!(errno, libc::EINVAL, "opcode {code}, {len} bytes");
        }
    }
    // Extensions that are not there, or longer than what is.
    for total_extlen in [1, 2, 1000, u16::MAX] {
        let mut made = request::mkdir(ROOT, format!("e{total_extlen}"), 0o755);
        made.extensions = total_extlen;
        let _ = errno(c, made);
    }
    serves(&mut daemon, &mut mount, "lengths that lie");
    daemon.terminate();
}

#[test]
fn data_lengths_that_lie() {
    let (mut daemon, mut mount) = mounted();
    let c = mount.client(0);
    let created = c.call(request::create(ROOT, "file", 0o644)).unwrap();
    let node = created.0.nodeid;
    c.call(request::write(node, 0, 0, b"content")).unwrap();
    let write = |size, offset| WriteIn {
        size,
        offset,
        ..WriteIn::default()
    };
    for size in [101, 4096, 1 << 20, (1 << 20) + 1, u32::MAX] {
        let bytes = lying(
            opcode::WRITE,
            node,
            &[write(size, 0).as_bytes(), &[7; 100]],
            0,
        );
        assert_eq!(raw(c, &bytes, 24), libc::EINVAL, "WRITE of {size}");
    }
    // Fewer than there are is what is written.
    let bytes = lying(
        opcode::WRITE,
        node,
        &[write(3, 0).as_bytes(), &[b'x'; 100]],
        0,
    );
    assert_eq!(raw(c, &bytes, 24), 0);
    assert_eq!(c.call(request::read(node, 0, 0, 100)).unwrap(), b"xxxtent");
    for offset in [
        u64::MAX,
        u64::MAX - 50,
        i64::MAX as u64,
        i64::MAX as u64 - 1,
    ] {
        let bytes = lying(
            opcode::WRITE,
            node,
            &[write(100, offset).as_bytes(), &[7; 100]],
            0,
        );
        let errno = raw(c, &bytes, 24);
        assert!(
            matches!(errno, libc::EFBIG | libc::EINVAL),
            "{errno} at {offset:#x}"
        );
    }
    // READ of all there is to ask for, into little room.
    for (size, offset) in [(u32::MAX, 0), (u32::MAX, u64::MAX), (100, u64::MAX), (0, 0)] {
        let read = ReadIn {
            size,
            offset,
            ..ReadIn::default()
        };
        for room in [0, 8, 16, 17, 20, 4096] {
            let reply = c.raw(&lying(opcode::READ, node, &[read.as_bytes()], 0), room);
            assert!(reply.unwrap().len() <= room);
            for list in [opcode::READDIR, opcode::READDIRPLUS] {
                let reply = c.raw(&lying(list, ROOT, &[read.as_bytes()], 0), room);
                assert!(reply.unwrap().len() <= room);
            }
        }
    }
    serves(&mut daemon, &mut mount, "data lengths that lie");
    daemon.terminate();
}

#[test]
fn attributes_and_ioctls_that_lie() {
    let (mut daemon, mut mount) = mounted();
    let c = mount.client(0);
    for size in [6, 4096, 65_537, u32::MAX] {
        let set = SetxattrIn {
            size,
            ..SetxattrIn::default()
        };
        let bytes = lying(
            opcode::SETXATTR,
            ROOT,
            &[set.as_bytes(), b"user.a\0value"],
            0,
        );
        assert_eq!(raw(c, &bytes, 16), libc::EINVAL, "value of {size}");
    }
    let set = SetxattrIn::default();
    let endless = lying(opcode::SETXATTR, ROOT, &[set.as_bytes(), b"user.a"], 0);
    assert_eq!(raw(c, &endless, 16), libc::EINVAL, "a name without end");
    for name in ["", "user.", "nothing", &"user.x".repeat(50)] {
        let refused = errno(c, request::setxattr(ROOT, name, b"value", 0));
        assert_ne!(refused, 0, "{name:?}");
    }
    assert_eq!(
        errno(c, request::setxattr(ROOT, "user.a", b"", 7)),
        libc::EINVAL
    );
    let value = vec![1; 1 << 20];
    assert_ne!(errno(c, request::setxattr(ROOT, "user.a", &value, 0)), 0);
    let all = GetxattrIn {
        size: u32::MAX,
        padding: 0,
    };
    c.call(request::setxattr(ROOT, "user.a", &value[..1000], 0))
        .unwrap();
    let bytes = lying(opcode::GETXATTR, ROOT, &[all.as_bytes(), b"user.a\0"], 0);
    // Whatever was asked for, only what fits is written.
    assert_eq!(raw(c, &bytes, 100), -1);
    assert_eq!(raw(c, &bytes, 2000), 0);
    for (in_size, out_size) in [(5, 0), (u32::MAX, 0), (4, u32::MAX), (0, u32::MAX)] {
        for cmd in [0x8008_6601, 0x4008_6602, 0x801c_581f, 0x401c_5820, 0] {
            let ioctl = IoctlIn {
                cmd,
                in_size,
                out_size,
                ..IoctlIn::default()
            };
            let bytes = lying(opcode::IOCTL, ROOT, &[ioctl.as_bytes(), &[0; 4]], 0);
            assert!(
                raw(c, &bytes, 4096) > 0,
                "{cmd:#x} of {in_size} and {out_size}"
            );
        }
    }
    serves(&mut daemon, &mut mount, "attributes that lie");
    daemon.terminate();
}

#[test]
fn names_that_are_none() {
    let (mut daemon, mut mount) = mounted();
    let c = mount.client(0);
    let long = [b'x'; 256];
    let names: [(&[u8], i32); 8] = [
        (b"", libc::EINVAL),
        (b"/", libc::EINVAL),
        (b"a/b", libc::EINVAL),
        (b"../a", libc::EINVAL),
        (b".", libc::EINVAL),
        (b"..", libc::EINVAL),
        (&long, libc::ENAMETOOLONG),
        (&[b'/'; 4000], libc::ENAMETOOLONG),
    ];
    c.call(request::mkdir(ROOT, "there", 0o755)).unwrap();
    for (name, wanted) in names {
        let requests = [
            errno(c, request::mkdir(ROOT, name, 0o755)),
            errno(c, request::mknod(ROOT, name, libc::S_IFREG, 0)),
            errno(c, request::symlink(ROOT, name, "target")),
            errno(c, request::create(ROOT, name, 0o644)),
            errno(c, request::link(ROOT, ROOT, name)),
            errno(c, request::rename((ROOT, "there"), (ROOT, name))),
            errno(c, request::rename((ROOT, name), (ROOT, "other"))),
            errno(c, request::unlink(ROOT, name)),
            errno(c, request::rmdir(ROOT, name)),
        ];
        for (which, errno) in requests.into_iter().enumerate() {
            // That it is no name, or that nothing of it can be there.
            let refused = errno == wanted || matches!(errno, libc::ENOENT | libc::EPERM);
            assert!(refused, "request {which} of {name:?}: {errno}");
        }
    }
    // A name ends at its NUL; behind it are extensions, and these are none.
    let mkdir = request::mkdir(ROOT, b"before\0after", 0o755);
    assert_eq!(errno(c, mkdir), libc::EINVAL);
    c.call(request::rmdir(ROOT, b"there\0after")).unwrap();
    // Without one there is no name.
    for code in [1, 10, 11, 13, 8, 9, 6, 12, 45, 24, 22] {
        let bytes = lying(code, ROOT, &[&[b'x'; 64]], 0);
        assert_eq!(raw(c, &bytes, 4096), libc::EINVAL, "opcode {code}");
    }
    // A symlink to nothing, or farther than a path may be.
    assert_ne!(errno(c, request::symlink(ROOT, "s", "")), 0);
    assert_ne!(errno(c, request::symlink(ROOT, "s", vec![b'x'; 5000])), 0);
    serves(&mut daemon, &mut mount, "names that are none");
    daemon.terminate();
}

#[test]
fn inodes_and_handles_that_were_never_told() {
    let (mut daemon, mut mount) = mounted();
    let c = mount.client(0);
    for node in [0, 2, 3, 1 << 20, 1 << 63, u64::MAX] {
        let requests = [
            errno(c, request::lookup(node, "x")),
            errno(c, request::getattr(node)),
            errno(c, request::mkdir(node, "x", 0o755)),
            errno(c, request::read(node, 0, 0, 100)),
            errno(c, request::write(node, 0, 0, b"x")),
            errno(c, request::open(node, libc::O_RDWR)),
            errno(c, request::readdirplus(node, 0, 0, 4096)),
            errno(c, request::link(node, ROOT, "x")),
            errno(c, request::rename((ROOT, "x"), (node, "x"))),
            errno(c, request::getxattr(node, "user.a", 10)),
            errno(c, request::copy_file_range((node, 0), (ROOT, 0), 10)),
            errno(c, request::copy_file_range((ROOT, 0), (node, 0), 10)),
        ];
        for (which, errno) in requests.into_iter().enumerate() {
            assert_ne!(errno, 0, "request {which} of {node:#x}");
        }
        let _ = errno(c, request::fsync(node, 0, 0));
    }
    // Handles have no state: any is as good.
    let created = c.call(request::create(ROOT, "file", 0o644)).unwrap();
    let node = created.0.nodeid;
    assert_eq!(
        c.call(request::write(node, u64::MAX, 0, b"x"))
            .unwrap()
            .size,
        1
    );
    c.call(request::release(node, 12_345)).unwrap();
    // What is no directory, and what is one.
    assert_eq!(errno(c, request::lookup(node, "x")), libc::ENOTDIR);
    assert_eq!(errno(c, request::opendir(node)), libc::ENOTDIR);
    assert_ne!(errno(c, request::read(ROOT, 0, 0, 100)), 0);
    assert_ne!(errno(c, request::write(ROOT, 0, 0, b"x")), 0);
    assert_ne!(errno(c, request::readlink(node)), 0);
    serves(&mut daemon, &mut mount, "unknown inodes");
    daemon.terminate();
}

#[test]
fn forgetting_more_or_less_than_was_told() {
    let (mut daemon, mut mount) = mounted();
    let created = mount.client(0).call(request::create(ROOT, "file", 0o644));
    let node = created.unwrap().0.nodeid;
    mount.client(0).call(request::unlink(ROOT, "file")).unwrap();
    let h = &mut mount.hiprio;
    for (node, lookups) in [
        (ROOT, u64::MAX),
        (0, 1),
        (u64::MAX, u64::MAX),
        (12_345, 7),
        (node, 0),
    ] {
        h.call(request::forget(node, lookups)).unwrap();
    }
    // Still there: nothing of it was dropped.
    let read = mount.client(0).call(request::read(node, 0, 0, 10));
    assert_eq!(read.unwrap(), [0u8; 0]);
    let h = &mut mount.hiprio;
    h.call(request::forget(node, u64::MAX)).unwrap();
    h.call(request::forget(node, u64::MAX)).unwrap();
    // A batch that announces more than it has, or has more.
    for count in [0u32, 3, 1000, u32::MAX] {
        let head = [count.to_ne_bytes(), [0; 4]].concat();
        let one = [ROOT.to_ne_bytes(), 1u64.to_ne_bytes()].concat();
        let bytes = lying(opcode::BATCH_FORGET, 0, &[&head, &one, &one], 0);
        assert_eq!(raw(h, &bytes, 0), -1, "{count}");
    }
    for len in 0..16usize {
        for code in [opcode::FORGET, opcode::BATCH_FORGET] {
            assert_eq!(raw(h, &lying(code, ROOT, &[&vec![0xff; len]], 0), 0), -1);
        }
    }
    serves(&mut daemon, &mut mount, "forgetting");
    daemon.terminate();
}

#[test]
fn sessions_that_never_began_and_are_over() {
    let (mut daemon, mut mount) = mounted();
    let c = mount.client(0);
    c.call(request::destroy()).unwrap();
    for _ in 0..2 {
        assert_eq!(errno(c, request::getattr(ROOT)), libc::ENOTCONN);
        assert_eq!(errno(c, request::mkdir(ROOT, "x", 0o755)), libc::ENOTCONN);
        assert_eq!(errno(c, request::write(ROOT, 0, 0, b"x")), libc::ENOTCONN);
        assert_eq!(errno(c, request::read(ROOT, 0, 0, 10)), libc::ENOTCONN);
        assert_eq!(errno(c, request::destroy()), libc::ENOTCONN);
        c.call(request::forget(ROOT, 1)).unwrap();
    }
    // INIT of a later protocol is answered with ours, and is no session yet; an older is none.
    for (major, minor, wanted) in [(8, 0, 0), (7, 1, libc::EPROTO), (6, 0, libc::EPROTO)] {
        let init = InitIn {
            major,
            minor,
            ..InitIn::default()
        };
        let bytes = lying(opcode::INIT, 0, &[init.as_bytes()], 0);
        assert_eq!(raw(c, &bytes, 80), wanted, "{major}.{minor}");
        assert_eq!(errno(c, request::getattr(ROOT)), libc::ENOTCONN);
    }
    for len in [0, 1, 15] {
        let bytes = lying(opcode::INIT, 0, &[&vec![7; len]], 0);
        assert_eq!(raw(c, &bytes, 80), libc::EINVAL);
    }
    for _ in 0..3 {
        c.call(request::init(u64::MAX)).unwrap();
        c.call(request::getattr(ROOT)).unwrap();
    }
    // INIT on one queue while others are full of requests.
    let tickets: Vec<_> = (0..40)
        .map(|i| {
            c.submit(request::mkdir(ROOT, format!("{i}"), 0o755))
                .unwrap()
        })
        .collect();
    for _ in 0..10 {
        mount.client(1).call(request::init(u64::MAX)).unwrap();
        mount.client(2).call(request::destroy()).unwrap();
    }
    for ticket in tickets {
        let _ = mount.client(0).complete(ticket);
    }
    mount.client(0).call(request::init(u64::MAX)).unwrap();
    serves(&mut daemon, &mut mount, "sessions");
    daemon.terminate();
}

#[test]
fn random_requests() {
    let seed = 5;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (mut daemon, mut mount) = mounted();
    for index in 0..8u64 {
        let name = format!("file{index}");
        mount
            .client(0)
            .call(request::create(ROOT, name, 0o644))
            .unwrap();
    }
    for _ in 0..6000 {
        let c = &mut mount.clients[random.random_range(0..3)];
        let mut body = vec![0u8; random.random_range(0..120)];
        random.fill(body.as_mut_slice());
        // Mostly small numbers, names and zeros: they get farther.
        for byte in &mut body {
            match random.random_range(0..10) {
                0..5 => *byte = 0,
                5..7 => *byte = random.random_range(0..8),
                7..9 => *byte = b"file0123"[random.random_range(0..8)],
                _ => {}
            }
        }
        let code = random.random_range(0..56);
        if code == opcode::DESTROY || code == opcode::INIT {
            continue;
        }
        let node = random.random_range(0..12);
        let room = [0, 16, 24, 144, 4096][random.random_range(0..5)];
        c.raw(&lying(code, node, &[&body], 0), room).unwrap();
    }
    serves(&mut daemon, &mut mount, "random requests");
    drop(mount);
    daemon.is_well("random requests");
    daemon.terminate();
}
