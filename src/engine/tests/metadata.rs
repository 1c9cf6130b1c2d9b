//! Attributes, flags, projects, quotas.

use super::*;
use crate::engine::{FsXattr, RenameMode, SetTime, SetXattr, WriteFlags};
use crate::format::key::TreeId;
use crate::format::record::dataset_key;

const APPEND: u32 = 0x20;
const IMMUTABLE: u32 = 0x10;

fn set(world: &World, ino: Ino, set: SetAttr) -> Result<Attr, EngineError> {
    world.volume.setattr(ino, &set)
}

#[test]
fn times_and_owners_are_set() {
    let world = World::new();
    let file = world.make(ROOT, "f", FILE);
    let now = world.tick();
    let at = Time {
        sec: -5,
        nsec: 999_999_999,
    };
    let times = SetAttr {
        atime: Some(SetTime::At(at)),
        mtime: Some(SetTime::Now),
        ..SetAttr::default()
    };
    let attr = set(&world, file, times).unwrap();
    assert_eq!((attr.atime, attr.mtime, attr.ctime), (at, now, now));
    assert_ne!(attr.btime, now);
    assert_eq!(world.attr(file), attr);
    let bad = SetTime::At(Time {
        sec: 0,
        nsec: 1_000_000_000,
    });
    let bad = SetAttr {
        atime: Some(bad),
        ..SetAttr::default()
    };
    assert_eq!(error(set(&world, file, bad)), "Invalid");
    let ctime = SetAttr {
        ctime: Some(at),
        ..SetAttr::default()
    };
    assert_eq!(set(&world, file, ctime).unwrap().ctime, at);
    assert_eq!(error(set(&world, Ino(99), ctime)), "Stale");
    world.finish();
}

#[test]
fn privileges_go_with_owner_and_size() {
    let world = World::new();
    let file = world.make(ROOT, "f", libc::S_IFREG | 0o6755);
    let owner = |uid| SetAttr {
        uid: Some(uid),
        ..SetAttr::default()
    };
    let capability = |how| {
        let name = b"security.capability";
        world.volume.setxattr(file, name, b"x", how, false).unwrap();
    };
    capability(SetXattr::Create);
    let attr = set(&world, file, owner(7)).unwrap();
    assert_eq!((attr.uid, attr.mode & 0o7777), (7, 0o755));
    assert_eq!(world.volume.listxattr(file).unwrap().len(), 0);
    // Setgid without group execution stays.
    world.chmod(file, 0o6745);
    assert_eq!(set(&world, file, owner(8)).unwrap().mode & 0o7777, 0o2745);
    world.chmod(file, 0o6755);
    let size = SetAttr {
        size: Some(10),
        ..SetAttr::default()
    };
    assert_eq!(set(&world, file, size).unwrap().mode & 0o7777, 0o6755);
    capability(SetXattr::Create);
    let size = SetAttr {
        size: Some(0),
        killed_by: Some(Cred::default()),
        ..SetAttr::default()
    };
    let now = world.tick();
    let attr = set(&world, file, size).unwrap();
    assert_eq!((attr.mode & 0o7777, attr.size), (0o755, 0));
    assert_eq!((attr.mtime, attr.ctime), (now, now));
    assert_eq!(world.volume.listxattr(file).unwrap().len(), 0);
    // A directory's bits mean something else.
    let dir = world.make(ROOT, "d", libc::S_IFDIR | 0o6755);
    assert_eq!(set(&world, dir, owner(7)).unwrap().mode & 0o7777, 0o6755);
    world.finish();
}

#[test]
fn only_files_have_a_size_to_set() {
    let world = World::new();
    let file = world.make(ROOT, "f", FILE);
    let fifo = world.make(ROOT, "p", libc::S_IFIFO | 0o600);
    let size = |size| SetAttr {
        size: Some(size),
        ..SetAttr::default()
    };
    assert_eq!(error(set(&world, ROOT, size(1))), "IsDirectory");
    assert_eq!(error(set(&world, fifo, size(1))), "Invalid");
    assert_eq!(error(set(&world, file, size(1 << 63))), "FileTooLarge");
    let most = i64::MAX as u64;
    assert_eq!(set(&world, file, size(most)).unwrap().size, most);
    let link = world
        .volume
        .symlink(Cred::default(), ROOT, b"l", b"x", &new(0))
        .unwrap();
    let mode = SetAttr {
        mode: Some(0o600),
        ..SetAttr::default()
    };
    assert_eq!(error(set(&world, link.ino, mode)), "NotSupported");
    world.finish();
}

/// Every operation that an immutable or append-only inode, file or directory, refuses.
#[test]
fn immutable_and_append_only_are_obeyed() {
    let world = World::new();
    let volume = &world.volume;
    let cred = Cred::default();
    for flag in [IMMUTABLE, APPEND] {
        let dir = world.make(ROOT, &format!("d{flag}"), DIR);
        let file = world.make(dir, "f", FILE);
        world.make(dir, "g", FILE);
        world.make(dir, "sub", DIR);
        volume.set_flags(file, flag).unwrap();
        let write = |offset, append| {
            let flags = WriteFlags {
                append,
                ..WriteFlags::default()
            };
            volume.write(file, offset, 1, &mut b"x".as_slice(), flags)
        };
        if flag == APPEND {
            write(0, true).unwrap();
        }
        let mode = SetAttr {
            mode: Some(0o600),
            ..SetAttr::default()
        };
        let size = SetAttr {
            size: Some(0),
            ..SetAttr::default()
        };
        let owner = SetAttr {
            gid: Some(0),
            ..SetAttr::default()
        };
        let time = SetTime::At(Time::default());
        let time = SetAttr {
            mtime: Some(time),
            ..SetAttr::default()
        };
        let any = SetXattr::Any;
        for (what, refused) in [
            ("write", write(0, false).map(|_| ())),
            ("chmod", volume.setattr(file, &mode).map(|_| ())),
            ("truncate", volume.setattr(file, &size).map(|_| ())),
            ("chown", volume.setattr(file, &owner).map(|_| ())),
            ("utimes", volume.setattr(file, &time).map(|_| ())),
            ("unlink", volume.unlink(dir, b"f").map(|_| ())),
            ("link", volume.link(file, dir, b"h").map(|_| ())),
            ("rename", rename(volume, dir, "f", "h", RenameMode::Replace)),
            (
                "replace",
                rename(volume, dir, "g", "f", RenameMode::Replace),
            ),
            (
                "exchange",
                rename(volume, dir, "g", "f", RenameMode::Exchange),
            ),
            (
                "setxattr",
                volume.setxattr(file, b"user.x", b"", any, false),
            ),
            ("removexattr", volume.removexattr(file, b"user.x")),
        ] {
            assert_eq!(error(refused), "NotPermitted", "{what} of {flag:#x}");
        }
        let touch = SetAttr {
            atime: Some(SetTime::Now),
            mtime: Some(SetTime::Now),
            ..SetAttr::default()
        };
        assert_eq!(volume.setattr(file, &touch).is_ok(), flag == APPEND);
        // The guest writes back times it cached while appending.
        let cached = SetAttr {
            ctime: Some(Time::default()),
            ..time
        };
        assert_eq!(volume.setattr(file, &cached).is_ok(), flag == APPEND);
        volume.set_flags(file, 0).unwrap();

        volume.set_flags(dir, flag).unwrap();
        for (what, refused) in [
            ("unlink", volume.unlink(dir, b"f").map(|_| ())),
            ("rmdir", volume.rmdir(dir, b"sub").map(|_| ())),
            ("rename", rename(volume, dir, "f", "h", RenameMode::Replace)),
            (
                "replace",
                rename(volume, dir, "f", "g", RenameMode::Replace),
            ),
            (
                "exchange",
                rename(volume, dir, "f", "g", RenameMode::Exchange),
            ),
        ] {
            assert_eq!(error(refused), "NotPermitted", "{what} in {flag:#x}");
        }
        for added in [
            world.try_make(dir, "new", FILE),
            volume.symlink(cred, dir, b"link", b"x", &new(0)),
            volume.link(file, dir, b"again"),
            volume.tmpfile(cred, dir, &new(FILE)),
        ] {
            assert_eq!(added.is_ok(), flag == APPEND, "{added:?}");
        }
        assert_eq!(error(world.try_make(dir, "f", FILE)), "Exists");
    }
    world.finish();
}

fn rename(
    volume: &Volume,
    dir: Ino,
    from: &str,
    to: &str,
    mode: RenameMode,
) -> Result<(), EngineError> {
    volume
        .rename(dir, from.as_bytes(), dir, to.as_bytes(), mode)
        .map(|_| ())
}

#[test]
fn flags_and_projects_are_kept_and_inherited() {
    let world = World::new();
    let volume = &world.volume;
    let dir = world.make(ROOT, "d", DIR);
    let file = world.make(ROOT, "f", FILE);
    let (nodump, dirsync, inherit) = (0x40, 0x1_0000, 0x2000_0000);
    volume.set_flags(dir, nodump | dirsync | APPEND).unwrap();
    assert_eq!(volume.get_flags(dir).unwrap(), nodump | dirsync | APPEND);
    assert_eq!(error(volume.set_flags(file, dirsync)), "NotSupported");
    assert_eq!(error(volume.set_flags(file, 0x1000)), "NotSupported");
    assert_eq!(error(volume.set_flags(file, 0x404)), "Invalid");
    let sub = world.make(dir, "sub", DIR);
    assert_eq!(volume.get_flags(sub).unwrap(), nodump | dirsync);
    let inside = world.make(dir, "file", FILE);
    assert_eq!(volume.get_flags(inside).unwrap(), nodump);

    // FSSETXATTR leaves what it cannot say.
    let fsx = FsXattr {
        xflags: 0x200,
        projid: 42,
    };
    volume.set_fsxattr(dir, fsx).unwrap();
    assert_eq!(volume.get_fsxattr(dir).unwrap(), fsx);
    assert_eq!(volume.get_flags(dir).unwrap(), dirsync | inherit);
    let unknown = FsXattr {
        xflags: 0x8000,
        projid: 0,
    };
    assert_eq!(error(volume.set_fsxattr(dir, unknown)), "NotSupported");
    let child = world.make(dir, "child", FILE);
    assert_eq!(volume.get_fsxattr(child).unwrap().projid, 42);
    // One project only below such a directory.
    assert_eq!(error(volume.link(file, dir, b"x")), "OtherProject");
    let moved = volume.rename(ROOT, b"f", dir, b"x", RenameMode::Replace);
    assert_eq!(error(moved), "OtherProject");
    world.finish();
}

#[test]
fn quota_of_inodes_is_obeyed() {
    let world = World::new();
    let volume = &world.volume;
    let mut record = volume.dataset_record(&volume.store.journal.view()).unwrap();
    record.quota_inodes = world.inodes() + 1;
    let mut tx = volume.store.journal.begin().unwrap();
    tx.put(
        TreeId::Datasets,
        dataset_key(volume.dataset.id),
        record.encode(),
    )
    .unwrap();
    tx.commit().unwrap();
    let file = world.make(ROOT, "a", FILE);
    assert_eq!(volume.statfs().unwrap().files_free, 0);
    assert_eq!(error(world.try_make(ROOT, "b", FILE)), "Quota");
    let cred = Cred::default();
    assert_eq!(error(volume.tmpfile(cred, ROOT, &new(FILE))), "Quota");
    volume.link(file, ROOT, b"b").unwrap();
    volume.unlink(ROOT, b"a").unwrap();
    volume.unlink(ROOT, b"b").unwrap();
    volume.reclaim(file).unwrap();
    world.make(ROOT, "c", FILE);
    world.finish();
}

#[test]
fn accesses_are_noted_as_relatime_does() {
    let world = World::new();
    let file = world.make(ROOT, "f", FILE);
    let first = world.tick();
    world.volume.note_access(file);
    assert_eq!(world.attr(file).atime, first);
    world.tick();
    world.volume.note_access(file);
    assert_eq!(world.attr(file).atime, first, "newer than mtime and ctime");
    world.seconds.fetch_add(24 * 60 * 60, Ordering::Relaxed);
    let late = world.tick();
    world.volume.note_access(file);
    assert_eq!(world.attr(file).atime, late, "a day old");
    world.volume.set_flags(file, 0x80).unwrap();
    world.seconds.fetch_add(24 * 60 * 60, Ordering::Relaxed);
    world.volume.note_access(file);
    assert_eq!(world.attr(file).atime, late, "noatime");
    world.volume.note_access(Ino(99));
    world.finish();
}

/// Many threads whose transactions are as large as they get, on the smallest log: nobody is told
/// that the log is full.
#[test]
fn large_transactions_of_many_threads_fit_the_smallest_log() {
    let world = World::new();
    world.volume.store().close().unwrap();
    let options = OpenOptions {
        background: true,
        ..OpenOptions::default()
    };
    let volume = Volume::open_media(world.sim.media(), options, clock(&world.seconds)).unwrap();
    let value = vec![7; 65_536];
    std::thread::scope(|scope| {
        for thread in 0..24 {
            let (volume, value) = (&volume, &value);
            scope.spawn(move || {
                let name = format!("f{thread}");
                let made = volume.create(Cred::default(), ROOT, name.as_bytes(), &new(FILE));
                let ino = made.unwrap().ino;
                for round in 0..40u32 {
                    let name = format!("user.{}", round % 3);
                    volume
                        .setxattr(ino, name.as_bytes(), value, SetXattr::Any, false)
                        .unwrap_or_else(|error| panic!("round {round}: {error}"));
                    if round % 16 == 0 {
                        volume.fsync(ino, false).unwrap();
                    }
                }
            });
        }
    });
    volume.store().close().unwrap();
    assert_eq!(errors(&world.sim), [""; 0]);
}

/// Values of the largest size, replaced in turn: their keys go and come back among those of others.
#[test]
fn large_attributes_can_be_replaced_in_any_order() {
    let world = World::new();
    let volume = &world.volume;
    let value = vec![7; 65_536];
    let inos: Vec<_> = (0..8)
        .map(|index| world.make(ROOT, &format!("f{index}"), FILE))
        .collect();
    for round in 0..12u32 {
        for ino in &inos {
            let name = format!("user.{}", round % 3);
            volume
                .setxattr(*ino, name.as_bytes(), &value, SetXattr::Any, false)
                .unwrap();
        }
        assert_eq!(errors(&world.sim.killed()), [""; 0], "round {round}");
    }
    world.finish();
}
