//! Each opcode through the daemon, and what comes of it.

use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::{
    FATTR_GID, FATTR_MODE, FATTR_MTIME, FATTR_SIZE, FATTR_UID, FSYNC_FDATASYNC, INIT_EXT, ROOT,
    SetattrIn, opcode,
};
use vm_tests::frontend::{Client, Mount, Options, Request};

use crate::daemon::Daemon;

/// A daemon with one session.
fn mounted() -> (Daemon, Mount) {
    let daemon = Daemon::start(&[]);
    let mount = daemon.mount(&Options::default());
    (daemon, mount)
}

/// The error that a request is answered with.
fn refusal<T: std::fmt::Debug>(client: &mut Client, request: Request<T>) -> i32 {
    client.call(request).unwrap_err().errno().unwrap()
}

/// The inode of a name, if it is there.
fn find(client: &mut Client, dir: u64, name: &str) -> Option<u64> {
    match client.call(request::lookup(dir, name)) {
        Ok(entry) => (entry.nodeid != 0).then_some(entry.nodeid),
        Err(error) => {
            assert_eq!(error.errno(), Some(libc::ENOENT));
            None
        }
    }
}

fn create(client: &mut Client, name: &str) -> (u64, u64) {
    let (entry, open) = client.call(request::create(ROOT, name, 0o644)).unwrap();
    (entry.nodeid, open.fh)
}

#[test]
fn init_agrees_on_what_both_have() {
    let (daemon, mut mount) = mounted();
    assert_eq!((mount.init.major, mount.init.minor), (7, 39));
    assert_eq!(mount.init.max_write, 1 << 20);
    assert_eq!(mount.init.max_pages, 256);
    assert_ne!(u64::from(mount.init.flags) & INIT_EXT, 0);
    // Again, with fewer: a guest that started anew.
    let again = mount.client(0).call(request::init(1 << 5)).unwrap();
    assert_eq!(u64::from(again.flags), 1 << 5 | INIT_EXT);
    mount.client(0).call(request::destroy()).unwrap();
    assert_eq!(
        refusal(mount.client(0), request::getattr(ROOT)),
        libc::ENOTCONN
    );
    daemon.terminate();
}

#[test]
fn names() {
    let (daemon, mut mount) = mounted();
    let c = mount.client(0);
    let dir = c.call(request::mkdir(ROOT, "dir", 0o750)).unwrap();
    assert_eq!(dir.attr.mode, libc::S_IFDIR | 0o750);
    assert_eq!(dir.attr.nlink, 2);
    let again = c.call(request::lookup(ROOT, "dir")).unwrap();
    assert_eq!(
        (again.nodeid, again.generation),
        (dir.nodeid, dir.generation)
    );
    let fifo = request::mknod(dir.nodeid, "fifo", libc::S_IFIFO | 0o600, 0);
    let fifo = c.call(fifo).unwrap();
    assert_eq!(fifo.attr.mode, libc::S_IFIFO | 0o600);
    // Major 4, minor 65, as the kernel encodes it.
    let device = request::mknod(ROOT, "tty", libc::S_IFCHR | 0o600, 4 << 8 | 65);
    assert_eq!(c.call(device).unwrap().attr.rdev, 4 << 8 | 65);
    let symlink = c.call(request::symlink(ROOT, "link", "dir/fifo")).unwrap();
    assert_eq!(symlink.attr.mode & libc::S_IFMT, libc::S_IFLNK);
    assert_eq!(symlink.attr.size, 8);
    assert_eq!(
        c.call(request::readlink(symlink.nodeid)).unwrap(),
        b"dir/fifo"
    );
    let linked = c.call(request::link(fifo.nodeid, ROOT, "hard")).unwrap();
    assert_eq!((linked.nodeid, linked.attr.nlink), (fifo.nodeid, 2));
    c.call(request::unlink(dir.nodeid, "fifo")).unwrap();
    assert_eq!(find(c, dir.nodeid, "fifo"), None);
    let left = c.call(request::getattr(fifo.nodeid)).unwrap();
    assert_eq!(left.attr.nlink, 1);

    c.call(request::rename((ROOT, "hard"), (dir.nodeid, "moved")))
        .unwrap();
    assert_eq!(find(c, dir.nodeid, "moved"), Some(fifo.nodeid));
    assert_eq!(find(c, ROOT, "hard"), None);
    let both = ((ROOT, "link"), (ROOT, "tty"));
    let noreplace = request::rename2(both.0, both.1, libc::RENAME_NOREPLACE);
    assert_eq!(refusal(c, noreplace), libc::EEXIST);
    c.call(request::rename2(both.0, both.1, libc::RENAME_EXCHANGE))
        .unwrap();
    assert_eq!(find(c, ROOT, "tty"), Some(symlink.nodeid));

    assert_eq!(refusal(c, request::rmdir(ROOT, "dir")), libc::ENOTEMPTY);
    assert_eq!(refusal(c, request::unlink(ROOT, "dir")), libc::EISDIR);
    assert_eq!(refusal(c, request::rmdir(ROOT, "link")), libc::ENOTDIR);
    assert_eq!(refusal(c, request::mkdir(ROOT, "dir", 0o700)), libc::EEXIST);
    c.call(request::unlink(dir.nodeid, "moved")).unwrap();
    c.call(request::rmdir(ROOT, "dir")).unwrap();
    assert_eq!(find(c, ROOT, "dir"), None);
    c.call(request::fsyncdir(ROOT, 0)).unwrap();
    daemon.terminate();
}

#[test]
fn what_is_made_has_its_caller_and_its_security_context() {
    let (daemon, mut mount) = mounted();
    let c = mount.client(0);
    (c.uid, c.gid) = (1000, 100);
    let label = b"system_u:object_r:tmp_t:s0\0";
    let request = request::mkdir(ROOT, "dir", 0o755).security_context("security.selinux", label);
    let dir = c.call(request).unwrap();
    assert_eq!((dir.attr.uid, dir.attr.gid), (1000, 100));
    let found = request::getxattr(dir.nodeid, "security.selinux", 100);
    assert_eq!(c.call(found).unwrap(), label);
    daemon.terminate();
}

#[test]
fn attributes() {
    let (daemon, mut mount) = mounted();
    let c = mount.client(0);
    let (node, fh) = create(c, "file");
    c.call(request::write(node, fh, 0, &[1; 5000])).unwrap();
    let set = SetattrIn {
        valid: FATTR_MODE | FATTR_UID | FATTR_GID | FATTR_SIZE | FATTR_MTIME,
        size: 3000,
        mtime: 1_000_000_000,
        mtimensec: 123_456_789,
        mode: libc::S_IFREG | 0o600,
        uid: 5,
        gid: 6,
        ..SetattrIn::default()
    };
    let set = c.call(request::setattr(node, &set)).unwrap().attr;
    let got = c.call(request::getattr(node)).unwrap().attr;
    assert_eq!(set, got);
    assert_eq!((got.mode, got.size), (libc::S_IFREG | 0o600, 3000));
    assert_eq!((got.uid, got.gid, got.ino, got.nlink), (5, 6, node, 1));
    assert_eq!((got.mtime, got.mtimensec), (1_000_000_000, 123_456_789));
    let statx = c.call(request::statx(node)).unwrap().stat;
    assert_eq!((statx.size, statx.ino, statx.uid), (3000, node, 5));
    assert_eq!(u32::from(statx.mode), got.mode);
    assert_eq!(statx.mtime.sec, 1_000_000_000);
    assert_eq!(statx.mtime.nsec, 123_456_789);
    assert!(statx.btime.sec > 1_600_000_000, "{statx:?}");
    assert_eq!(statx.blocks, got.blocks);
    assert_eq!(c.call(request::read(node, fh, 2990, 100)).unwrap(), [1; 10]);

    let before = c.call(request::statfs()).unwrap();
    assert_eq!(before.namelen, 255);
    assert!(before.bfree <= before.blocks && before.bavail <= before.bfree);
    create(c, "another");
    let after = c.call(request::statfs()).unwrap();
    assert_eq!(after.files - after.ffree, before.files - before.ffree + 1);
    daemon.terminate();
}

#[test]
fn extended_attributes_and_flags() {
    let (daemon, mut mount) = mounted();
    let c = mount.client(0);
    let (node, _) = create(c, "file");
    let set = |value, flags| request::setxattr(node, "user.a", value, flags);
    c.call(set(b"one", 0)).unwrap();
    assert_eq!(refusal(c, set(b"two", libc::XATTR_CREATE)), libc::EEXIST);
    c.call(set(b"three", libc::XATTR_REPLACE)).unwrap();
    assert_eq!(
        c.call(request::getxattr_len(node, "user.a")).unwrap().size,
        5
    );
    assert_eq!(
        c.call(request::getxattr(node, "user.a", 5)).unwrap(),
        b"three"
    );
    assert_eq!(
        refusal(c, request::getxattr(node, "user.a", 4)),
        libc::ERANGE
    );
    assert_eq!(
        refusal(c, request::getxattr(node, "user.b", 4)),
        libc::ENODATA
    );
    let large: Vec<u8> = (0..60_000u32).map(|i| (i % 251) as u8).collect();
    c.call(request::setxattr(node, "user.large", &large, 0))
        .unwrap();
    assert_eq!(
        c.call(request::getxattr(node, "user.large", 65536))
            .unwrap(),
        large
    );
    let len = c.call(request::listxattr_len(node)).unwrap().size;
    let list = c.call(request::listxattr(node, len)).unwrap();
    let mut names: Vec<_> = list.split_inclusive(|byte| *byte == 0).collect();
    names.sort_unstable();
    assert_eq!(names, [&b"user.a\0"[..], b"user.large\0"]);
    c.call(request::removexattr(node, "user.a")).unwrap();
    assert_eq!(
        refusal(c, request::removexattr(node, "user.a")),
        libc::ENODATA
    );

    // FS_IOC_SETFLAGS and FS_IOC_GETFLAGS (linux/fs.h): immutable.
    let immutable = 0x10u32.to_ne_bytes();
    c.call(request::ioctl(node, 0x4008_6602, &immutable, 0))
        .unwrap();
    let (head, flags) = c.call(request::ioctl(node, 0x8008_6601, &[], 8)).unwrap();
    assert_eq!((head.result, flags), (0, vec![0x10, 0, 0, 0, 0, 0, 0, 0]));
    let write = request::open(node, libc::O_WRONLY);
    assert_eq!(refusal(c, write), libc::EPERM);
    c.call(request::ioctl(node, 0x4008_6602, &[0; 4], 0))
        .unwrap();
    assert_eq!(
        refusal(c, request::ioctl(node, 0xdead, &[], 0)),
        libc::ENOTTY
    );
    daemon.terminate();
}

#[test]
fn files() {
    let (daemon, mut mount) = mounted();
    let c = mount.client(0);
    let (node, fh) = create(c, "file");
    assert_eq!(
        c.call(request::write(node, fh, 0, &[1; 100_000]))
            .unwrap()
            .size,
        100_000
    );
    let open = c.call(request::open(node, libc::O_RDONLY)).unwrap();
    assert_eq!(
        c.call(request::read(node, open.fh, 99_990, 100)).unwrap(),
        [1; 10]
    );
    assert_eq!(
        c.call(request::read(node, open.fh, 200_000, 100)).unwrap(),
        [0u8; 0]
    );
    c.call(request::release(node, open.fh)).unwrap();

    let keep = libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE;
    c.call(request::fallocate(node, fh, keep as u32, 16_384, 32_768))
        .unwrap();
    assert_eq!(
        c.call(request::read(node, fh, 16_383, 3)).unwrap(),
        [1, 0, 0]
    );
    assert_eq!(
        c.call(request::lseek(node, fh, 0, libc::SEEK_HOLE))
            .unwrap(),
        16_384
    );
    assert_eq!(
        c.call(request::lseek(node, fh, 16_384, libc::SEEK_DATA))
            .unwrap(),
        49_152
    );
    let beyond = request::lseek(node, fh, 100_000, libc::SEEK_DATA);
    assert_eq!(refusal(c, beyond), libc::ENXIO);
    c.call(request::fallocate(node, fh, 0, 100_000, 1000))
        .unwrap();
    assert_eq!(c.call(request::getattr(node)).unwrap().attr.size, 101_000);

    let (copy, _) = create(c, "copy");
    let range = request::copy_file_range((node, 10_000), (copy, 5), 20_000);
    assert_eq!(c.call(range).unwrap().size, 20_000);
    let source = c.call(request::read(node, fh, 10_000, 20_000)).unwrap();
    assert_eq!(c.call(request::read(copy, 0, 5, 30_000)).unwrap(), source);

    let (tmp, open) = c.call(request::tmpfile(ROOT, 0o600)).unwrap();
    assert_eq!(tmp.attr.nlink, 0);
    c.call(request::write(tmp.nodeid, open.fh, 0, b"no name"))
        .unwrap();
    let linked = c.call(request::link(tmp.nodeid, ROOT, "a name")).unwrap();
    assert_eq!((linked.attr.nlink, linked.attr.size), (1, 7));

    let dsync = request::write_flags(node, fh, 0, b"there", libc::O_DSYNC);
    assert_eq!(c.call(dsync).unwrap().size, 5);
    c.call(request::fsync(node, fh, 0)).unwrap();
    c.call(request::fsync(node, fh, FSYNC_FDATASYNC)).unwrap();
    c.call(request::syncfs()).unwrap();
    let truncated = request::open(node, libc::O_WRONLY | libc::O_TRUNC);
    c.call(truncated).unwrap();
    assert_eq!(c.call(request::getattr(node)).unwrap().attr.size, 0);
    daemon.terminate();
}

#[test]
fn an_unlinked_file_lives_until_it_is_forgotten() {
    let (daemon, mut mount) = mounted();
    let c = mount.client(0);
    let files: Vec<_> = (0..3).map(|i| create(c, &format!("file{i}")).0).collect();
    for (index, node) in files.iter().enumerate() {
        c.call(request::write(*node, 0, 0, b"still")).unwrap();
        c.call(request::unlink(ROOT, format!("file{index}")))
            .unwrap();
        assert_eq!(c.call(request::read(*node, 0, 0, 100)).unwrap(), b"still");
        assert_eq!(c.call(request::getattr(*node)).unwrap().attr.nlink, 0);
    }
    // Forgetting comes on the high-priority queue.
    mount.hiprio.call(request::forget(files[0], 1)).unwrap();
    let both = [(files[1], 1), (files[2], 1)];
    mount.hiprio.call(request::batch_forget(&both)).unwrap();
    for node in files {
        let gone = refusal(mount.client(0), request::getattr(node));
        assert!(matches!(gone, libc::ENOENT | libc::ESTALE), "{gone}");
    }
    daemon.terminate();
}

#[test]
fn listings() {
    let (daemon, mut mount) = mounted();
    let c = mount.client(0);
    let dir = c.call(request::mkdir(ROOT, "dir", 0o755)).unwrap().nodeid;
    let open = c.call(request::opendir(dir)).unwrap();
    assert_eq!(refusal(c, request::opendir(u64::MAX)), libc::ESTALE);
    for i in 0..100 {
        c.call(request::mkdir(dir, format!("{i:03}"), 0o755))
            .unwrap();
    }
    for plus in [false, true] {
        let mut names = Vec::new();
        let mut after = 0;
        loop {
            let entries = if plus {
                c.call(request::readdirplus(dir, open.fh, after, 4096))
                    .unwrap()
            } else {
                c.call(request::readdir(dir, open.fh, after, 1000)).unwrap()
            };
            let Some(last) = entries.last() else { break };
            after = last.dirent.off;
            for entry in entries {
                assert_eq!(entry.dirent.kind, u32::from(libc::DT_DIR));
                let dots = matches!(entry.name.as_slice(), b"." | b"..");
                assert_eq!(entry.entry.is_some(), plus);
                if let Some(found) = entry.entry.filter(|_| !dots) {
                    assert_eq!(found.nodeid, entry.dirent.ino);
                    assert_eq!(found.attr.ino, entry.dirent.ino);
                    c.call(request::forget(found.nodeid, 1)).unwrap();
                }
                names.push(entry.name);
            }
        }
        names.sort_unstable();
        let mut wanted = vec![b".".to_vec(), b"..".to_vec()];
        wanted.extend((0..100).map(|i| format!("{i:03}").into_bytes()));
        wanted.sort_unstable();
        assert_eq!(names, wanted);
    }
    c.call(request::fsyncdir(dir, open.fh)).unwrap();
    c.call(request::releasedir(dir, open.fh)).unwrap();
    daemon.terminate();
}

#[test]
fn what_is_left_to_the_kernel_is_said_not_to_exist() {
    let (daemon, mut mount) = mounted();
    let (node, fh) = create(mount.client(0), "file");
    let requests = || {
        [
            request::flush(node, fh),
            request::access(node, 4),
            request::lock(opcode::GETLK, node, fh),
            request::lock(opcode::SETLK, node, fh),
            request::lock(opcode::SETLKW, node, fh),
            request::bmap(node),
            request::poll(node),
            request::interrupt(2),
            request::plain(opcode::NOTIFY_REPLY + 100, node, &[&[0; 64]]),
            request::plain(7, node, &[]),
            request::plain(u32::MAX, node, &[]),
        ]
    };
    for request in requests() {
        let name = request.opcode;
        let errno = refusal(mount.client(0), request);
        assert_eq!(errno, libc::ENOSYS, "opcode {name}");
    }
    for request in requests() {
        assert_eq!(refusal(&mut mount.hiprio, request), libc::ENOSYS);
    }
    daemon.terminate();
}
