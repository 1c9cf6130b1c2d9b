//! Extended attributes and POSIX ACLs.

use super::*;
use crate::engine::SetXattr;
use crate::engine::acl::tests::acl_bytes;

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";
const NO: u32 = u32::MAX;

fn put(world: &World, ino: Ino, name: &[u8], value: &[u8]) -> Result<(), EngineError> {
    world
        .volume
        .setxattr(ino, name, value, SetXattr::Any, false)
}

fn get(world: &World, ino: Ino, name: &[u8]) -> Result<Vec<u8>, EngineError> {
    world.volume.getxattr(ino, name)
}

#[test]
fn values_of_any_length_are_kept() {
    let mut world = World::new();
    let file = world.make(ROOT, "f", FILE);
    let long_name = [b"user.".as_slice(), &[b'n'; 250]].concat();
    for len in [0, 1, 700, 701, 1404, 65536, 3, 1405] {
        let value: Vec<u8> = (0..len).map(|i: u32| (i % 251) as u8).collect();
        put(&world, file, b"user.a", &value).unwrap();
        put(&world, file, &long_name, &value).unwrap();
        assert_eq!(get(&world, file, b"user.a").unwrap(), value);
        assert_eq!(get(&world, file, &long_name).unwrap(), value);
    }
    world.reopen();
    let mut names = world.volume.listxattr(file).unwrap();
    names.sort();
    assert_eq!(names, [b"user.a".to_vec(), long_name.clone()]);
    let now = world.tick();
    world.volume.removexattr(file, &long_name).unwrap();
    assert_eq!(world.attr(file).ctime, now);
    assert_eq!(
        error(world.volume.removexattr(file, &long_name)),
        "NoAttribute"
    );
    assert_eq!(get(&world, file, b"user.a").unwrap().len(), 1405);
    world.finish();
}

#[test]
fn names_values_and_modes_are_checked() {
    let world = World::new();
    let file = world.make(ROOT, "f", FILE);
    let fifo = world.make(ROOT, "p", libc::S_IFIFO | 0o600);
    for (name, expected) in [
        (b"".as_slice(), "Range"),
        (&[b'u'; 256], "Range"),
        (b"user.", "Invalid"),
        (b"user.a\0", "Invalid"),
        (b"other.a", "NotSupported"),
        (b"system.a", "NotSupported"),
    ] {
        assert_eq!(error(put(&world, file, name, b"")), expected);
        assert_eq!(error(get(&world, file, name)), expected);
        assert_eq!(error(world.volume.removexattr(file, name)), expected);
    }
    assert_eq!(error(put(&world, file, b"user.a", &[0; 65537])), "TooBig");
    assert_eq!(error(put(&world, fifo, b"user.a", b"")), "NotPermitted");
    put(&world, fifo, b"trusted.a", b"").unwrap();
    put(&world, fifo, b"security.a", b"").unwrap();
    assert_eq!(error(get(&world, file, b"user.a")), "NoAttribute");
    let how = |how| world.volume.setxattr(file, b"user.a", b"v", how, false);
    assert_eq!(error(how(SetXattr::Replace)), "NoAttribute");
    how(SetXattr::Create).unwrap();
    assert_eq!(error(how(SetXattr::Create)), "Exists");
    how(SetXattr::Replace).unwrap();
    world.finish();
}

#[test]
fn attributes_of_one_inode_are_bounded_and_all_go_with_it() {
    let world = World::new();
    let file = world.make(ROOT, "f", FILE);
    for index in 0..4096 {
        let name = format!("user.{index}");
        let value = vec![1; if index % 200 == 0 { 60_000 } else { 5 }];
        put(&world, file, name.as_bytes(), &value).unwrap();
    }
    assert_eq!(world.volume.listxattr(file).unwrap().len(), 4096);
    assert_eq!(error(put(&world, file, b"user.more", b"")), "Store");
    put(&world, file, b"user.7", b"other").unwrap();
    world.volume.unlink(ROOT, b"f").unwrap();
    world.volume.reclaim(file).unwrap();
    assert_eq!(error(world.volume.getattr(file)), "Stale");
    world.finish();
}

#[test]
fn new_inodes_come_with_security_labels() {
    let world = World::new();
    let cred = Cred::default();
    let xattrs: &[(&[u8], &[u8])] = &[(b"security.selinux", b"label")];
    let node = NewInode {
        xattrs,
        ..new(FILE)
    };
    let file = world.volume.create(cred, ROOT, b"f", &node).unwrap().ino;
    assert_eq!(get(&world, file, b"security.selinux").unwrap(), b"label");
    let link = world
        .volume
        .symlink(cred, ROOT, b"l", b"x", &node)
        .unwrap()
        .ino;
    assert_eq!(get(&world, link, b"security.selinux").unwrap(), b"label");
    let long = [b's'; 300];
    for name in [b"system.posix_acl_access".as_slice(), b"user.x", &long] {
        let xattrs: &[(&[u8], &[u8])] = &[(name, b"")];
        let node = NewInode {
            xattrs,
            ..new(FILE)
        };
        assert!(world.volume.create(cred, ROOT, b"g", &node).is_err());
    }
    assert_eq!(world.list(ROOT), [".", "..", "f", "l"]);
    world.finish();
}

fn extended(owner: u16, user: u16, group: u16, mask: u16, other: u16) -> Vec<u8> {
    acl_bytes(&[
        (0x01, owner, NO),
        (0x02, user, 1000),
        (0x04, group, NO),
        (0x10, mask, NO),
        (0x20, other, NO),
    ])
}

fn minimal(owner: u16, group: u16, other: u16) -> Vec<u8> {
    acl_bytes(&[(0x01, owner, NO), (0x04, group, NO), (0x20, other, NO)])
}

#[test]
fn access_lists_and_the_mode_follow_one_another() {
    let world = World::new();
    let file = world.make(ROOT, "f", FILE);
    let mode = || world.attr(file).mode & 0o7777;
    put(&world, file, ACCESS, &extended(7, 6, 5, 3, 1)).unwrap();
    assert_eq!(mode(), 0o731);
    world.chmod(file, 0o640);
    assert_eq!(get(&world, file, ACCESS).unwrap(), extended(6, 6, 5, 4, 0));
    // One that says no more than the mode is not kept.
    put(&world, file, ACCESS, &minimal(6, 4, 4)).unwrap();
    assert_eq!(mode(), 0o644);
    assert_eq!(error(get(&world, file, ACCESS)), "NoAttribute");
    assert_eq!(world.volume.listxattr(file).unwrap().len(), 0);
    world.chmod(file, 0o2755);
    put(&world, file, ACCESS, &minimal(7, 5, 5)).unwrap();
    assert_eq!(mode(), 0o2755);
    let any = SetXattr::Any;
    world
        .volume
        .setxattr(file, ACCESS, &minimal(7, 5, 5), any, true)
        .unwrap();
    assert_eq!(mode(), 0o755);
    assert_eq!(error(put(&world, file, ACCESS, b"junk")), "NotSupported");
    assert_eq!(
        error(put(&world, file, DEFAULT, &minimal(7, 5, 5))),
        "Denied"
    );
    put(&world, file, ACCESS, &extended(7, 6, 5, 3, 1)).unwrap();
    world.volume.removexattr(file, ACCESS).unwrap();
    assert_eq!(mode(), 0o731);
    let link = world
        .volume
        .symlink(Cred::default(), ROOT, b"l", b"x", &new(0))
        .unwrap();
    assert_eq!(
        error(put(&world, link.ino, ACCESS, &minimal(7, 5, 5))),
        "NotSupported"
    );
    world.finish();
}

#[test]
fn default_lists_are_inherited_instead_of_the_umask() {
    let world = World::new();
    let dir = world.make(ROOT, "d", DIR);
    let cred = Cred::default();
    let make = |dir, name: &[u8], mode| {
        let node = NewInode {
            umask: 0o077,
            ..new(mode)
        };
        world.volume.create(cred, dir, name, &node).unwrap()
    };
    assert_eq!(
        make(dir, b"before", libc::S_IFREG | 0o666).mode & 0o777,
        0o600
    );
    let list = extended(7, 6, 5, 7, 5);
    put(&world, dir, DEFAULT, &list).unwrap();
    assert_eq!(
        world.attr(dir).mode & 0o777,
        0o755,
        "the directory's own stays"
    );

    let file = make(dir, b"file", libc::S_IFREG | 0o660);
    assert_eq!(file.mode & 0o777, 0o660);
    assert_eq!(
        get(&world, file.ino, ACCESS).unwrap(),
        extended(6, 6, 5, 6, 0)
    );
    assert_eq!(error(get(&world, file.ino, DEFAULT)), "NoAttribute");
    let sub = make(dir, b"sub", libc::S_IFDIR | 0o777);
    assert_eq!(sub.mode & 0o777, 0o775);
    assert_eq!(get(&world, sub.ino, ACCESS).unwrap(), list);
    assert_eq!(get(&world, sub.ino, DEFAULT).unwrap(), list);
    let link = world
        .volume
        .symlink(cred, dir, b"l", b"x", &new(0))
        .unwrap();
    assert_eq!(link.mode, libc::S_IFLNK | 0o777);
    assert_eq!(world.volume.listxattr(link.ino).unwrap().len(), 0);

    // A minimal default list: only the mode comes of it.
    put(&world, dir, DEFAULT, &minimal(7, 5, 0)).unwrap();
    let file = make(dir, b"plain", libc::S_IFREG | 0o666);
    assert_eq!(file.mode & 0o777, 0o640);
    assert_eq!(world.volume.listxattr(file.ino).unwrap().len(), 0);
    // An empty one takes it away.
    put(&world, dir, DEFAULT, &acl_bytes(&[])).unwrap();
    assert_eq!(
        make(dir, b"after", libc::S_IFREG | 0o666).mode & 0o777,
        0o600
    );
    world.finish();
}
