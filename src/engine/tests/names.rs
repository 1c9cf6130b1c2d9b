//! Lookup, creation, links, removal, listing, orphans.

use super::*;
use crate::engine::WriteFlags;
use crate::format::key;
use crate::format::record::InodeRecord;
use crate::store::{Read as _, StoreError};

#[test]
fn every_type_of_inode_is_made_and_found() {
    let world = World::new();
    for (name, kind) in [
        ("file", libc::S_IFREG),
        ("dir", libc::S_IFDIR),
        ("fifo", libc::S_IFIFO),
        ("socket", libc::S_IFSOCK),
        ("char", libc::S_IFCHR),
        ("block", libc::S_IFBLK),
    ] {
        let now = world.tick();
        let node = NewInode {
            rdev: 0x0801,
            umask: 0o027,
            ..new(kind | 0o6777)
        };
        let cred = Cred { uid: 5, gid: 6 };
        let attr = world
            .volume
            .create(cred, ROOT, name.as_bytes(), &node)
            .unwrap();
        assert_eq!(attr.mode, kind | 0o6750, "{name}");
        assert_eq!((attr.uid, attr.gid), (5, 6));
        assert_eq!(attr.nlink, if kind == libc::S_IFDIR { 2 } else { 1 });
        let device = matches!(kind, libc::S_IFCHR | libc::S_IFBLK);
        assert_eq!(attr.rdev, if device { 0x0801 } else { 0 });
        assert_eq!([attr.atime, attr.mtime, attr.ctime, attr.btime], [now; 4]);
        assert_eq!(
            world.volume.lookup(ROOT, name.as_bytes()).unwrap(),
            world.attr(attr.ino)
        );
        let root = world.attr(ROOT);
        assert_eq!((root.mtime, root.ctime), (now, now));
    }
    assert_eq!(world.attr(ROOT).nlink, 3);
    assert_eq!(
        world.list(ROOT),
        [".", "..", "block", "char", "dir", "fifo", "file", "socket"]
    );
    world.finish();
}

#[test]
fn names_are_checked() {
    let world = World::new();
    let file = world.make(ROOT, "file", FILE);
    let long = "x".repeat(256);
    assert_eq!(error(world.try_make(ROOT, &long, FILE)), "NameTooLong");
    world.make(ROOT, &long[1..], FILE);
    assert!(world.find(ROOT, &long[1..]).is_some());
    for bad in ["", "a/b", "a\0b"] {
        assert_eq!(error(world.try_make(ROOT, bad, FILE)), "Invalid", "{bad:?}");
    }
    for dots in [".", ".."] {
        assert_eq!(error(world.try_make(ROOT, dots, FILE)), "Exists");
        assert_eq!(
            error(world.volume.unlink(ROOT, dots.as_bytes())),
            "IsDirectory"
        );
    }
    assert_eq!(error(world.volume.rmdir(ROOT, b".")), "Invalid");
    assert_eq!(error(world.volume.rmdir(ROOT, b"..")), "NotEmpty");
    assert_eq!(error(world.try_make(ROOT, "file", DIR)), "Exists");
    assert_eq!(error(world.try_make(file, "x", FILE)), "NotDirectory");
    assert_eq!(error(world.volume.lookup(file, b"x")), "NotDirectory");
    assert_eq!(error(world.volume.lookup(file, b".")), "NotDirectory");
    assert_eq!(error(world.volume.lookup(Ino(99), b"x")), "Stale");
    assert_eq!(error(world.try_make(Ino(99), "x", FILE)), "Stale");
    assert_eq!(error(world.volume.lookup(ROOT, b"none")), "NotFound");
    world.finish();
}

#[test]
fn dots_lead_here_and_up() {
    let world = World::new();
    let a = world.make(ROOT, "a", DIR);
    let b = world.make(a, "b", DIR);
    assert_eq!(world.find(b, "."), Some(b));
    assert_eq!(world.find(b, ".."), Some(a));
    assert_eq!(world.find(ROOT, ".."), Some(ROOT));
    world.finish();
}

#[test]
fn symlinks_keep_targets_of_any_length() {
    let mut world = World::new();
    let cred = Cred::default();
    let mut made = Vec::new();
    for len in [1, 703, 704, 705, 4095] {
        let target = vec![b'x'; len];
        let name = format!("link-{len}");
        let attr = world
            .volume
            .symlink(cred, ROOT, name.as_bytes(), &target, &new(0))
            .unwrap();
        assert_eq!((attr.mode, attr.size), (libc::S_IFLNK | 0o777, len as u64));
        made.push((attr.ino, name, target));
    }
    let symlink = |target: &[u8]| world.volume.symlink(cred, ROOT, b"y", target, &new(0));
    assert_eq!(error(symlink(&[b'x'; 4096])), "NameTooLong");
    assert_eq!(error(symlink(b"")), "Invalid");
    assert_eq!(error(symlink(b"a\0")), "Invalid");
    assert_eq!(error(world.volume.readlink(ROOT)), "Invalid");
    world.reopen();
    let before = world.inodes();
    for (ino, name, target) in &made {
        assert_eq!(&world.volume.readlink(*ino).unwrap(), target);
        assert!(world.volume.unlink(ROOT, name.as_bytes()).unwrap().orphan);
        world.volume.reclaim(*ino).unwrap();
        assert_eq!(error(world.volume.getattr(*ino)), "Stale");
    }
    assert_eq!(world.inodes(), before - 5);
    world.finish();
}

#[test]
fn links_are_counted_and_the_last_makes_an_orphan() {
    let world = World::new();
    let file = world.make(ROOT, "a", FILE);
    let dir = world.make(ROOT, "d", DIR);
    let now = world.tick();
    let attr = world.volume.link(file, dir, b"b").unwrap();
    assert_eq!((attr.ino, attr.nlink, attr.ctime), (file, 2, now));
    assert_eq!(world.attr(dir).mtime, now);
    assert_eq!(error(world.volume.link(file, dir, b"b")), "Exists");
    assert_eq!(error(world.volume.link(dir, ROOT, b"c")), "NotPermitted");
    assert_eq!(error(world.volume.link(Ino(99), ROOT, b"c")), "Stale");

    let now = world.tick();
    let removed = world.volume.unlink(ROOT, b"a").unwrap();
    assert_eq!((removed.ino, removed.orphan), (file, false));
    assert_eq!(world.attr(file).nlink, 1);
    assert_eq!(world.attr(file).ctime, now);
    assert!(!world.volume.is_orphan(file));
    world.volume.reclaim(file).unwrap();
    assert_eq!(
        world.find(dir, "b"),
        Some(file),
        "reclaiming needs an orphan"
    );

    assert!(world.volume.unlink(dir, b"b").unwrap().orphan);
    assert!(world.volume.is_orphan(file));
    assert_eq!(world.attr(file).nlink, 0);
    let before = world.inodes();
    world.volume.reclaim(file).unwrap();
    assert!(!world.volume.is_orphan(file));
    assert_eq!(error(world.volume.getattr(file)), "Stale");
    assert_eq!(world.inodes(), before - 1);
    world.volume.reclaim(file).unwrap();
    assert_eq!(error(world.volume.unlink(ROOT, b"a")), "NotFound");
    assert_eq!(error(world.volume.unlink(ROOT, b"d")), "IsDirectory");
    world.finish();
}

#[test]
fn directories_go_when_empty() {
    let world = World::new();
    let a = world.make(ROOT, "a", DIR);
    world.make(a, "b", DIR);
    assert_eq!((world.attr(ROOT).nlink, world.attr(a).nlink), (3, 3));
    assert_eq!(error(world.volume.rmdir(ROOT, b"a")), "NotEmpty");
    world.make(ROOT, "f", FILE);
    assert_eq!(error(world.volume.rmdir(ROOT, b"f")), "NotDirectory");
    world.volume.rmdir(a, b"b").unwrap();
    assert_eq!(world.attr(a).nlink, 2);
    let now = world.tick();
    let removed = world.volume.rmdir(ROOT, b"a").unwrap();
    assert_eq!((removed.ino, removed.orphan), (a, true));
    assert_eq!((world.attr(ROOT).nlink, world.attr(ROOT).mtime), (2, now));
    // It is still open somewhere, and takes nothing any more.
    assert_eq!(world.attr(a).nlink, 0);
    assert_eq!(world.list(a), [".", ".."]);
    assert_eq!(error(world.try_make(a, "x", FILE)), "NotFound");
    let cred = Cred::default();
    assert_eq!(
        error(world.volume.symlink(cred, a, b"x", b"y", &new(0))),
        "NotFound"
    );
    assert_eq!(error(world.volume.tmpfile(cred, a, &new(FILE))), "NotFound");
    let file = world.find(ROOT, "f").unwrap();
    assert_eq!(error(world.volume.link(file, a, b"x")), "NotFound");
    world.finish();
}

#[test]
fn orphans_are_freed_at_the_next_opening() {
    let mut world = World::new();
    let before = world.inodes();
    let file = world.make(ROOT, "f", FILE);
    let flags = WriteFlags::default();
    world
        .volume
        .write(file, 0, 9000, &mut vec![7; 9000].as_slice(), flags)
        .unwrap();
    world.volume.unlink(ROOT, b"f").unwrap();
    let cred = Cred::default();
    let named = world.volume.tmpfile(cred, ROOT, &new(FILE)).unwrap();
    assert_eq!(named.nlink, 0);
    assert!(world.volume.is_orphan(named.ino));
    let left = world.volume.tmpfile(cred, ROOT, &new(FILE)).unwrap();
    assert_eq!(world.volume.link(named.ino, ROOT, b"t").unwrap().nlink, 1);
    assert!(!world.volume.is_orphan(named.ino));
    world.reopen();
    for gone in [file, left.ino] {
        assert_eq!(error(world.volume.getattr(gone)), "Stale");
        assert!(!world.volume.is_orphan(gone));
    }
    assert_eq!(world.find(ROOT, "t"), Some(named.ino));
    assert_eq!(world.inodes(), before + 1);
    // Numbers are never used again.
    assert!(world.make(ROOT, "g", FILE) > left.ino);
    world.finish();
}

#[test]
fn reclaiming_what_was_named_meanwhile_leaves_it_whole() {
    let world = World::new();
    let cred = Cred::default();
    let file = world.volume.tmpfile(cred, ROOT, &new(FILE)).unwrap().ino;
    let flags = WriteFlags::default();
    world
        .volume
        .write(file, 0, 3, &mut b"abc".as_slice(), flags)
        .unwrap();
    world.volume.link(file, ROOT, b"f").unwrap();
    // As if the set in memory had been asked just before the link.
    world.volume.note_orphans(Some(file), None);
    world.volume.reclaim(file).unwrap();
    let mut content = Vec::new();
    world.volume.read(file, 0, 10, &mut content).unwrap();
    assert_eq!(content, b"abc");
    world.volume.note_orphans(None, Some(file));
    world.finish();
}

#[test]
fn listing_goes_on_over_changes() {
    let world = World::new();
    let dir = world.make(ROOT, "d", DIR);
    for index in 0..300 {
        world.make(dir, &format!("name-{index}"), FILE);
    }
    let mut seen = Vec::new();
    let mut cookie = 0;
    for round in 0.. {
        let mut batch = Vec::new();
        world
            .volume
            .readdirplus(dir, cookie, &mut |entry, attr| {
                assert_eq!(entry.ino, attr.ino);
                assert_eq!(u32::from(entry.file_type), attr.mode >> 12);
                assert!(entry.cookie > cookie && entry.cookie < 1 << 63);
                batch.push(entry);
                batch.len() < 7
            })
            .unwrap();
        let Some(last) = batch.last() else { break };
        cookie = last.cookie;
        for entry in batch {
            let name = String::from_utf8(entry.name).unwrap();
            if name.starts_with("name") {
                // What was listed goes, and other names come.
                world.volume.unlink(dir, name.as_bytes()).unwrap();
            }
            seen.push(name);
        }
        world.make(dir, &format!("late-{round}"), FILE);
    }
    seen.retain(|name| !name.starts_with("late"));
    seen.sort();
    seen.dedup();
    assert_eq!(
        seen.len(),
        302,
        "all of the first names, and the dots, once"
    );
    world.finish();
}

#[test]
fn setgid_directories_pass_on_their_group() {
    let world = World::new();
    let dir = world.make(ROOT, "d", libc::S_IFDIR | 0o2775);
    let set = SetAttr {
        gid: Some(50),
        ..SetAttr::default()
    };
    assert_eq!(world.volume.setattr(dir, &set).unwrap().mode, 0o42775);
    let cred = Cred { uid: 5, gid: 6 };
    let make = |name: &[u8], mode, supplementary_gid| {
        let node = NewInode {
            supplementary_gid,
            ..new(mode)
        };
        let attr = world.volume.create(cred, dir, name, &node).unwrap();
        (attr.gid, attr.mode & 0o7777)
    };
    assert_eq!(make(b"dir", libc::S_IFDIR | 0o755, None), (50, 0o2755));
    assert_eq!(make(b"plain", libc::S_IFREG | 0o644, None), (50, 0o644));
    assert_eq!(make(b"sgid", libc::S_IFREG | 0o2755, None), (50, 0o755));
    let member = make(b"member", libc::S_IFREG | 0o2755, Some(50));
    assert_eq!(member, (50, 0o2755));
    // Elsewhere the maker's own group counts, whatever others he is in.
    let node = NewInode {
        supplementary_gid: Some(77),
        ..new(FILE)
    };
    assert_eq!(
        world.volume.create(cred, ROOT, b"own", &node).unwrap().gid,
        6
    );
    world.finish();
}

/// A guest may go on writing to a file that it has let go of: the file goes, and nothing of it
/// stays behind that nobody can write out.
#[test]
fn writing_to_a_file_that_is_being_freed_leaves_nothing_behind() {
    let world = World::new();
    let volume = &world.volume;
    let before = world.inodes();
    for round in 0..1000 {
        let file = world.make(ROOT, "f", FILE);
        let write = |offset| {
            let mut bytes = [1u8; 3000].as_slice();
            volume.write(file, offset, bytes.len(), &mut bytes, WriteFlags::default())
        };
        write(0).unwrap();
        assert!(volume.unlink(ROOT, b"f").unwrap().orphan);
        let writing = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                writing.wait();
                while write(round).is_ok() {}
            });
            writing.wait();
            volume.reclaim(file).unwrap();
        });
        assert_eq!(error(volume.getattr(file)), "Stale", "round {round}");
        assert_eq!(volume.store().dirty_bytes(), 0, "round {round}");
    }
    assert_eq!(world.inodes(), before);
    world.finish();
}

/// What an orphan held is written to only once the orphan is gone on disk too, also when it is
/// freed at the opening after a clean close.
#[test]
fn space_of_an_orphan_freed_at_opening_is_not_written_to_before_that_is_durable() {
    let mut world = World::new();
    let write = |world: &World, ino, byte: u8| {
        let bytes = vec![byte; 100_000];
        let flags = WriteFlags::default();
        let volume = &world.volume;
        volume
            .write(ino, 0, bytes.len(), &mut bytes.as_slice(), flags)
            .unwrap();
    };
    let orphan = world.volume.tmpfile(Cred::default(), ROOT, &new(0o600));
    write(&world, orphan.unwrap().ino, 1);
    world.reopen();
    let file = world.make(ROOT, "f", FILE);
    let other = world.make(ROOT, "g", FILE);
    write(&world, file, 2);
    // Copying makes a chunk of it, but does not flush the log.
    world.volume.copy_range(file, 0, other, 0, 100_000).unwrap();
    assert_eq!(errors(&world.sim.killed()), [""; 0]);
    world.finish();
}

/// Records that do not fit together: whoever frees the orphan must not wait for it to get better.
#[test]
fn an_orphan_that_cannot_be_freed_is_an_error() {
    let spoilt: [fn(&mut InodeRecord); 2] =
        [|record| record.nlink = 1, |record| record.allocated += 4096];
    for spoil in spoilt {
        let world = World::new();
        let volume = &world.volume;
        let ino = volume
            .tmpfile(Cred::default(), ROOT, &new(FILE))
            .unwrap()
            .ino;
        let (tree, key) = (volume.tree(), key::inode(ino));
        let mut tx = volume.store.journal.begin().unwrap();
        let mut record = InodeRecord::decode(&tx.get(tree, &key).unwrap().unwrap()).unwrap();
        spoil(&mut record);
        tx.put(tree, key, record.encode()).unwrap();
        tx.commit().unwrap();
        let error = volume.reclaim(ino).unwrap_err();
        let corrupt = matches!(error, EngineError::Store(StoreError::Corrupt(_)));
        assert!(corrupt, "{error}");
    }
}
