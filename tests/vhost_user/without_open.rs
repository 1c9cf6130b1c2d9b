//! A kernel that does without OPEN and OPENDIR, where it has the store for itself.

use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::{
    FATTR_SIZE, NO_OPEN_SUPPORT, NO_OPENDIR_SUPPORT, ROOT, SetattrIn,
};
use vm_tests::frontend::{Client, Mount, Options, Request};

use crate::daemon::Daemon;

const BOTH: u64 = NO_OPEN_SUPPORT | NO_OPENDIR_SUPPORT;
const FS_IOC_SETFLAGS: u32 = 0x4008_6602;
const IMMUTABLE: u32 = 0x10;
const APPEND: u32 = 0x20;

fn errno<T: std::fmt::Debug>(client: &mut Client, request: Request<T>) -> Option<i32> {
    let answer = client.call(request);
    answer.err().map(|error| error.errno().unwrap())
}

/// What OPEN of a file and OPENDIR are answered with.
fn opening(mount: &mut Mount, announced: u64) -> [Option<i32>; 2] {
    let c = mount.client(0);
    let init = c.call(request::init_exactly(announced)).unwrap();
    let agreed = u64::from(init.flags) | u64::from(init.flags2) << 32;
    assert_eq!(agreed & !announced & !(1 << 30), 0, "not asked for");
    let node = match c.call(request::lookup(ROOT, "file")) {
        Ok(found) if found.nodeid != 0 => found.nodeid,
        _ => {
            let made = c.call(request::create(ROOT, "file", 0o644));
            made.unwrap().0.nodeid
        }
    };
    [
        errno(c, request::open(node, libc::O_RDWR)),
        errno(c, request::opendir(ROOT)),
    ]
}

#[test]
fn who_can_do_without_is_told_so() {
    let (asked, spared) = (None, Some(libc::ENOSYS));
    for (flags, wanted) in [
        (&[] as &[_], [asked, spared]),
        (&["--cache=always"], [spared, spared]),
        (&["--cache=metadata"], [asked, spared]),
        (&["--cache=auto"], [asked, asked]),
        (&["--cache=never"], [asked, asked]),
        (&["--cache=always", "--writeback"], [asked, spared]),
        (&["--socket-path=b"], [asked, asked]),
        (&["--socket-path=b", "--cache=always"], [asked, asked]),
    ] {
        let daemon = Daemon::start(flags);
        let mut mount = daemon.mount(&Options::default());
        assert_eq!(opening(&mut mount, u64::MAX), wanted, "{flags:?}");
        for (bit, other) in [(NO_OPEN_SUPPORT, 1), (NO_OPENDIR_SUPPORT, 0)] {
            let mut wanted = wanted;
            wanted[1 - other] = None;
            let found = opening(&mut mount, !bit);
            assert_eq!(found, wanted, "{flags:?} {bit:#x}");
        }
        assert_eq!(opening(&mut mount, !BOTH), [None, None]);
        assert_eq!(opening(&mut mount, 0), [None, None]);
        drop(mount);
        daemon.terminate();
    }
}

#[test]
fn a_file_is_used_without_being_opened() {
    let daemon = Daemon::start(&["--cache=always"]);
    let mut mount = daemon.mount(&Options::default());
    let c = mount.client(0);
    c.call(request::init_exactly(u64::MAX)).unwrap();
    let (entry, open) = c.call(request::create(ROOT, "file", 0o644)).unwrap();
    assert_eq!((open.fh, entry.attr_valid), (0, 86_400));
    let node = entry.nodeid;
    c.call(request::write(node, 0, 0, b"content")).unwrap();
    c.call(request::release(node, 0)).unwrap();
    // Another program opens it with O_TRUNC, which Linux asks for by SETATTR, and writes.
    let cut = SetattrIn {
        valid: FATTR_SIZE,
        ..SetattrIn::default()
    };
    c.call(request::setattr(node, &cut)).unwrap();
    c.call(request::write(node, 0, 0, b"more")).unwrap();
    c.call(request::fsync(node, 0, 0)).unwrap();
    // It is removed, and stays for those who have it open: the kernel has not forgotten it.
    c.call(request::unlink(ROOT, "file")).unwrap();
    c.call(request::write(node, 0, 4, b"!")).unwrap();
    assert_eq!(c.call(request::read(node, 0, 0, 10)).unwrap(), b"more!");
    let listed = c.call(request::readdirplus(ROOT, 0, 0, 4096)).unwrap();
    assert_eq!(listed.len(), 2);
    mount.hiprio.call(request::forget(node, 1)).unwrap();
    let c = mount.client(0);
    assert_eq!(errno(c, request::getattr(node)), Some(libc::ESTALE));
    drop(mount);
    daemon.terminate();
}

#[test]
fn what_may_not_change_does_not_though_nobody_opened_it() {
    let daemon = Daemon::start(&["--cache=always"]);
    let mut mount = daemon.mount(&Options::default());
    let c = mount.client(0);
    c.call(request::init_exactly(u64::MAX)).unwrap();
    let eperm = Some(libc::EPERM);
    for (name, flag) in [("immutable", IMMUTABLE), ("append", APPEND)] {
        let node = c.call(request::create(ROOT, name, 0o666)).unwrap().0.nodeid;
        c.call(request::write(node, 0, 0, b"content")).unwrap();
        let flags = u64::from(flag).to_ne_bytes();
        c.call(request::ioctl(node, FS_IOC_SETFLAGS, &flags, 0))
            .unwrap();
        let cut = SetattrIn {
            valid: FATTR_SIZE,
            ..SetattrIn::default()
        };
        assert_eq!(errno(c, request::setattr(node, &cut)), eperm, "{name}");
        assert_eq!(errno(c, request::write(node, 0, 0, b"x")), eperm, "{name}");
        assert_eq!(errno(c, request::fallocate(node, 0, 3, 0, 4)), eperm);
        let copied = request::copy_file_range((node, 0), (node, 3), 2);
        assert_eq!(errno(c, copied), eperm, "{name}");
        let appended = errno(c, request::write(node, 0, 7, b"x"));
        assert_eq!(appended, eperm.filter(|_| flag == IMMUTABLE));
        let content = c.call(request::read(node, 0, 0, 7)).unwrap();
        assert_eq!(content, b"content");
    }
    drop(mount);
    daemon.terminate();
}
