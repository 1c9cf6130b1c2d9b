//! A part of a snapshot comes back: all of it, at once, and to nobody who would not see it.

use std::collections::BTreeMap;

use super::*;
use crate::disk::sim::{Call, Fault, Survival};
use crate::engine::data::units_used;
use crate::engine::{
    DatasetError, FsXattr, RestorePath, Seek, SetTime, SetXattr, Settings, Store, WriteFlags,
};

const MONDAY: &str = "main@monday";

fn write(volume: &Volume, ino: Ino, offset: u64, bytes: &[u8]) {
    let mut from = bytes;
    let flags = WriteFlags::default();
    volume
        .write(ino, offset, bytes.len(), &mut from, flags)
        .unwrap();
}

/// `etc` with one of everything, of which a snapshot is taken.
fn world() -> World {
    let world = World::new();
    let volume = &world.volume;
    let etc = world.make(ROOT, "etc", DIR);
    let fstab = world.make(etc, "fstab", FILE);
    write(volume, fstab, 0, &[7; 100_000]);
    write(volume, fstab, 1 << 20, &[8; 5000]);
    volume.link(fstab, etc, b"same").unwrap();
    world.make(etc, "empty", libc::S_IFREG | 0o6755);
    let long = vec![b't'; 4000];
    let how = new(0);
    let cred = Cred { uid: 3, gid: 4 };
    volume.symlink(cred, etc, b"link", &long, &how).unwrap();
    world.make(etc, "fifo", libc::S_IFIFO | 0o600);
    let device = NewInode {
        rdev: 0x105,
        ..new(libc::S_IFCHR | 0o640)
    };
    volume.create(cred, etc, b"null", &device).unwrap();
    let deep = world.make(etc, "deep", DIR);
    let deeper = world.make(deep, "deeper", libc::S_IFDIR | 0o2700);
    volume.link(fstab, deeper, b"third").unwrap();
    for n in 0..7 {
        world.make(deeper, &format!("n{n}"), FILE);
    }
    // Attributes: more than one transaction takes, a large one, a list.
    for n in 0..20 {
        let name = format!("user.a{n}");
        let value = vec![n; 300];
        volume
            .setxattr(deep, name.as_bytes(), &value, SetXattr::Any, false)
            .unwrap();
    }
    let acl = crate::engine::acl::tests::acl_bytes(&[
        (0x01, 7, u32::MAX),
        (0x02, 5, 1000),
        (0x04, 5, u32::MAX),
        (0x10, 7, u32::MAX),
        (0x20, 4, u32::MAX),
    ]);
    let default = b"system.posix_acl_default";
    volume
        .setxattr(deep, default, &acl, SetXattr::Any, false)
        .unwrap();
    volume
        .setxattr(fstab, b"security.big", &[9; 60_000], SetXattr::Any, false)
        .unwrap();
    let project = FsXattr {
        projid: 42,
        ..volume.get_fsxattr(deep).unwrap()
    };
    volume.set_fsxattr(deep, project).unwrap();
    for (ino, sec) in [(fstab, 11), (deeper, 22), (etc, 33)] {
        let at = |sec| Some(SetTime::At(Time { sec, nsec: 5 }));
        let times = SetAttr {
            atime: at(sec),
            mtime: at(sec + 1),
            uid: Some(9),
            ..SetAttr::default()
        };
        volume.setattr(ino, &times).unwrap();
    }
    // Immutable, and append-only.
    volume.set_flags(fstab, 0x10).unwrap();
    volume.set_flags(deeper, 0x20).unwrap();
    volume.store().snapshot(MONDAY).unwrap();
    world.tick();
    world
}

/// What a guest sees of an inode, and of all below it; numbers of inodes that have one name stand
/// for themselves.
fn tree(volume: &Volume, ino: Ino) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut links = BTreeMap::new();
    let mut pending = vec![(ino, String::new())];
    while let Some((ino, path)) = pending.pop() {
        let attr = volume.getattr(ino).unwrap();
        let mut text = format!(
            "{:o} {} {}:{} {} {} {:x} {:?} {:?} {:?}",
            attr.mode,
            attr.nlink,
            attr.uid,
            attr.gid,
            attr.rdev,
            attr.size,
            attr.flags,
            attr.atime,
            attr.mtime,
            attr.btime
        );
        for name in volume.listxattr(ino).unwrap() {
            let value = volume.getxattr(ino, &name).unwrap();
            text += &format!(" {}={}", name.escape_ascii(), blake3::hash(&value));
        }
        if attr.nlink > 1 {
            text += &format!(" {}", links.entry(ino).or_insert_with(|| path.clone()));
        }
        match attr.mode & libc::S_IFMT {
            libc::S_IFLNK => text += &format!("{:?}", volume.readlink(ino).unwrap()),
            libc::S_IFREG => {
                let mut content = Vec::new();
                volume.read(ino, 0, 1 << 30, &mut content).unwrap();
                text += &format!(" {}", blake3::hash(&content));
                text += &format!(" {:?}", volume.seek(ino, 0, Seek::Hole));
            }
            libc::S_IFDIR => {
                let projid = volume.get_fsxattr(ino).unwrap().projid;
                text += &format!(" project {projid}");
                let mut visit = |entry: crate::engine::DirEntry| {
                    let name = String::from_utf8(entry.name).unwrap();
                    pending.push((entry.ino, format!("{path}/{name}")));
                    true
                };
                volume.readdir(ino, 2, &mut visit).unwrap();
                pending.sort_by(|a, b| b.1.cmp(&a.1));
            }
            _ => {}
        }
        all.insert(path, text);
    }
    all
}

fn what(source: &str, destination: &str, replace: bool) -> RestorePath {
    RestorePath {
        snapshot: MONDAY.into(),
        source: source.into(),
        destination: destination.into(),
        replace,
    }
}

fn restore(world: &World, source: &str, to: &str, replace: bool) -> Result<u64, DatasetError> {
    let what = what(source, to, replace);
    world.volume.store().restore_path(&what, &mut || true)
}

fn snapshot(store: &Arc<Store>) -> Volume {
    store.volume(MONDAY).unwrap()
}

/// What the snapshot has of a path.
fn before(store: &Arc<Store>, name: &[u8]) -> BTreeMap<String, String> {
    let snapshot = snapshot(store);
    let ino = snapshot.lookup(ROOT, name).unwrap().ino;
    tree(&snapshot, ino)
}

#[test]
fn all_of_a_directory_comes_back_and_shares_its_content() {
    let world = world();
    let store = world.volume.store();
    let units = || units_used(&store.journal.view()).unwrap();
    let (used, inodes) = (units(), world.inodes());
    let now = world.tick();
    let made = restore(&world, "/etc", "/back", false).unwrap();
    let back = world.find(ROOT, "back").unwrap();
    assert_eq!(tree(&world.volume, back), before(store, b"etc"));
    assert_eq!((units(), world.inodes()), (used, inodes + made));
    assert_eq!((made, world.attr(back).ctime), (15, now));
    assert_eq!(world.list(ROOT), [".", "..", "back", "etc"]);
    // One file, of several names.
    let fstab = world.find(back, "fstab").unwrap();
    assert_eq!(world.find(back, "same"), Some(fstab));
    assert_ne!(
        world.find(world.find(ROOT, "etc").unwrap(), "same"),
        Some(fstab)
    );
    // A file alone, and into a directory; of its names this is the one.
    assert_eq!(
        restore(&world, "etc/deep/deeper/third", "back/x", false).unwrap(),
        1
    );
    assert_eq!(world.attr(world.find(back, "x").unwrap()).nlink, 1);
    // All of the snapshot.
    restore(&world, "/", "/all", false).unwrap();
    let all = world.find(ROOT, "all").unwrap();
    assert_eq!(world.list(all), [".", "..", "etc"]);
    world.finish();
}

#[test]
fn what_is_there_is_replaced_at_once_or_not_at_all() {
    let world = world();
    let store = Arc::clone(world.volume.store());
    let etc = world.find(ROOT, "etc").unwrap();
    let deep = world.find(etc, "deep").unwrap();
    let file = world.make(deep, "new", FILE);
    let inodes = world.inodes();
    assert_eq!(error(restore(&world, "etc", "etc", false)), "PathExists");
    assert_eq!(world.inodes(), inodes);
    restore(&world, "etc", "etc", true).unwrap();
    let back = world.find(ROOT, "etc").unwrap();
    assert_ne!(back, etc);
    assert_eq!(tree(&world.volume, back), before(&store, b"etc"));
    assert_eq!(world.inodes(), inodes - 1);
    assert_eq!(error(world.volume.getattr(file)), "Stale");
    // A directory in the place of a file, and the other way round.
    restore(&world, "etc/deep", "etc/empty", true).unwrap();
    restore(&world, "etc/empty", "etc/deep", true).unwrap();
    assert!(
        world
            .list(world.find(back, "empty").unwrap())
            .contains(&"deeper".to_owned())
    );
    assert_eq!(
        world.attr(world.find(back, "deep").unwrap()).mode,
        libc::S_IFREG | 0o6755
    );
    // What may not be changed is not replaced.
    assert_eq!(
        error(restore(&world, "etc/empty", "etc/fstab", true)),
        "Refused"
    );
    world.finish();
}

#[test]
fn what_cannot_be_done_is_refused_and_leaves_nothing() {
    let world = world();
    let inodes = world.inodes();
    for (source, to, expected) in [
        ("none", "x", "NoPath"),
        ("etc/none", "x", "NoPath"),
        ("etc/fstab/x", "x", "NoPath"),
        ("etc/fstab", "none/x", "NoPath"),
        ("etc/fstab", "etc/fstab/x", "NoPath"),
        ("etc/../etc", "x", "BadPath"),
        ("etc", "./x", "BadPath"),
        ("etc", "", "Refused"),
        ("etc", "/", "Refused"),
        ("etc", ".snapshots", "BadPath"),
        ("etc", ".razorfs-staging", "BadPath"),
        ("etc/link/x", "x", "NoPath"),
    ] {
        let refused = error(restore(&world, source, to, true));
        assert_eq!(refused, expected, "{source} {to}");
    }
    let long = "n".repeat(256);
    assert_eq!(error(restore(&world, "etc", &long, false)), "BadPath");
    let store = world.volume.store();
    let of = |snapshot: &str| RestorePath {
        snapshot: snapshot.into(),
        ..what("etc", "x", false)
    };
    assert_eq!(error(store.restore_path(&of("main"), &mut || true)), "Name");
    assert_eq!(
        error(store.restore_path(&of("main@none"), &mut || true)),
        "NotFound"
    );
    // A name that a guest gave away.
    world.make(ROOT, ".razorfs-staging", DIR);
    assert_eq!(error(restore(&world, "etc", "x", false)), "PathExists");
    let removed = world.volume.rmdir(ROOT, b".razorfs-staging").unwrap();
    world.volume.reclaim(removed.ino).unwrap();
    // Quotas hold: nothing of it stays.
    let limit = |inodes| Settings {
        quota_inodes: Some(inodes),
        ..Settings::default()
    };
    store.change_settings("main", limit(inodes + 5)).unwrap();
    assert_eq!(error(restore(&world, "etc", "x", false)), "Engine");
    assert_eq!((world.inodes(), world.find(ROOT, "x")), (inodes, None));
    store.change_settings("main", limit(0)).unwrap();
    restore(&world, "etc", "x", false).unwrap();
    world.finish();
}

/// A kernel that keeps what it is told would go on to see that the name is free.
#[test]
fn nothing_appears_to_a_kernel_that_would_not_look() {
    let world = world();
    let believing = world.volume.begin_believing();
    assert_eq!(error(restore(&world, "etc", "x", false)), "Believed");
    drop(believing);
    restore(&world, "etc", "x", false).unwrap();
    world.finish();
}

/// What a kernel has open outlives its replacement.
#[test]
fn what_was_replaced_is_freed_by_those_who_know_it() {
    let world = world();
    let etc = world.find(ROOT, "etc").unwrap();
    let file = world.make(etc, "open", FILE);
    write(&world.volume, file, 0, b"mine");
    let released = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let noted = Arc::clone(&released);
    world.volume.release_by(Box::new(move |volume, ino| {
        noted.lock().push(ino);
        if ino != file {
            volume.reclaim(ino).unwrap();
        }
    }));
    restore(&world, "etc", "etc", true).unwrap();
    assert!(released.lock().contains(&file));
    let mut content = Vec::new();
    world.volume.read(file, 0, 10, &mut content).unwrap();
    assert_eq!(content, b"mine");
    world.volume.reclaim(file).unwrap();
    world.finish();
}

/// Puts a tree together and leaves it there.
fn interrupted(world: &World) -> Ino {
    let volume = &world.volume;
    let staging = volume.make_staging().unwrap();
    let from = snapshot(volume.store());
    let etc = from.lookup(ROOT, b"etc").unwrap().ino;
    let mut copy = crate::engine::restore_path::Copy::new(&from, volume);
    copy.tree(etc, (staging, b"tree"), &mut || true).unwrap();
    staging
}

#[test]
fn nobody_sees_what_is_being_put_together() {
    let world = world();
    let root = world.attr(ROOT);
    let staging = interrupted(&world);
    assert_eq!(world.list(ROOT), [".", "..", "etc"]);
    assert_eq!(world.find(ROOT, ".razorfs-staging"), None);
    let after = world.attr(ROOT);
    assert_eq!((after.mtime, after.ctime), (root.mtime, root.ctime));
    let taken = world.try_make(ROOT, ".razorfs-staging", DIR);
    assert_eq!(error(taken), "Exists");
    // A snapshot would have it: what is left is removed before, what is under way waited for.
    let store = Arc::clone(world.volume.store());
    let under_way = world.volume.dataset.restoring.try_write().unwrap();
    assert_eq!(error(store.snapshot("main@tuesday")), "Restoring");
    assert_eq!(error(store.clone_dataset("main", "new")), "Restoring");
    drop(under_way);
    store.snapshot("main@tuesday").unwrap();
    assert_eq!(error(world.volume.getattr(staging)), "Stale");
    let tuesday = store.volume("main@tuesday").unwrap();
    assert_eq!(tuesday.lookup(ROOT, b"etc").unwrap().nlink, 3);
    assert!(tuesday.lookup(ROOT, b".razorfs-staging").is_err());
    drop(tuesday);
    // The next to be restored removes it too.
    interrupted(&world);
    restore(&world, "etc", "x", false).unwrap();
    world.finish();
}

/// A guest that guesses inode numbers puts the destination below what is being put together, where
/// nobody finds it: what would be shown there would be below itself.
#[test]
fn nothing_is_put_below_itself() {
    let world = world();
    let volume = &world.volume;
    let above = world.make(ROOT, "above", DIR);
    world.make(above, "dest", DIR);
    let mut moved = false;
    let mut guess = || {
        let staging = volume.dataset.staging.load(Ordering::Acquire);
        let tree = volume.lookup(Ino(staging), b"tree");
        if let (false, Ok(tree)) = (moved, tree) {
            let mode = crate::engine::RenameMode::NoReplace;
            volume
                .rename(ROOT, b"above", tree.ino, b"above", mode)
                .unwrap();
            moved = true;
        }
        true
    };
    let what = what("etc", "above/dest/x", false);
    let refused = volume.store().restore_path(&what, &mut guess);
    assert_eq!((error(refused).as_str(), moved), ("NoPath", true));
    assert_eq!(world.list(ROOT), [".", "..", "etc"]);
    world.finish();
}

/// A guest cannot make what is taken for a leftover.
#[test]
fn a_directory_of_the_guest_s_is_not_a_leftover() {
    let mut world = world();
    let own = world.make(ROOT, ".razorfs-staging", DIR);
    world.make(own, "precious", FILE);
    let mark = b"trusted.razorfs.staging";
    let volume = &world.volume;
    volume
        .setxattr(own, mark, &[0; 32], SetXattr::Any, false)
        .unwrap();
    world.reopen();
    assert_eq!(world.find(own, "precious").map(|_| ()), Some(()));
    assert!(world.list(ROOT).contains(&".razorfs-staging".to_owned()));
    world.finish();
}

#[test]
fn the_power_may_go_at_any_moment() {
    let world = world();
    let store = Arc::clone(world.volume.store());
    store.checkpoint().unwrap();
    let etc = world.find(ROOT, "etc").unwrap();
    world.make(etc, "new", FILE);
    store.commit_tick().unwrap();
    let old = tree(&world.volume, etc);
    let expected = before(&store, b"etc");
    let start = world.sim.events();
    // As the commit interval would have it, in the middle.
    let staging = interrupted(&world);
    store.commit_tick().unwrap();
    world.volume.remove_staging(staging, &mut || true).unwrap();
    store.commit_tick().unwrap();
    restore(&world, "etc", "etc", true).unwrap();
    let shown = world.sim.events();
    store.commit_tick().unwrap();
    store.checkpoint().unwrap();
    let end = world.sim.events();
    let mut recording = world.sim.recording();
    let (mut olds, mut news) = (0, 0);
    for (seed, events) in (1..).zip(start..=end) {
        let sim = recording.crash_at(events, Survival::Random(seed));
        let volume = open(&sim, clock(&world.seconds));
        let found = volume.lookup(ROOT, b"etc").unwrap().ino;
        let found = tree(&volume, found);
        match found == expected {
            true => news += 1,
            false => {
                assert_eq!(found, old, "{events}");
                assert!(events < shown, "{events}: it was durable");
                olds += 1;
            }
        }
        let view = volume.store.journal.view();
        let left = volume.find(&view, ROOT, b".razorfs-staging").unwrap();
        assert!(left.taken().is_err(), "{events}");
        drop(view);
        volume.store().close().unwrap();
        assert_eq!(errors(&sim), [""; 0], "{events}");
    }
    assert!(olds > 3 && news > 3, "{olds} {news}");
    world.finish();
}

#[test]
fn a_disk_that_fails_leaves_all_of_it_or_nothing() {
    for call in [Call::Read, Call::Write, Call::Flush, Call::Allocate] {
        for after in 0.. {
            let world = world();
            world.volume.store().checkpoint().unwrap();
            world.sim.set_fault(Some(Fault {
                call,
                after,
                sticky: false,
                kind: std::io::ErrorKind::Other,
            }));
            let done = restore(&world, "etc", "x", false);
            let failed = world.sim.fault_calls() > after;
            world.sim.set_fault(None);
            let sim = world.sim.killed();
            let volume = open(&sim, clock(&world.seconds));
            let found = volume
                .lookup(ROOT, b"x")
                .map(|found| tree(&volume, found.ino));
            if let Ok(found) = &found {
                assert_eq!(found, &before(volume.store(), b"etc"), "{call:?} {after}");
            }
            assert!(found.is_ok() || done.is_err(), "{call:?} {after}");
            volume.store().close().unwrap();
            assert_eq!(errors(&sim), [""; 0], "{call:?} {after}");
            if !failed {
                done.unwrap();
                break;
            }
        }
    }
}
