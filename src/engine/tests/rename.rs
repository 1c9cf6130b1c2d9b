//! Renaming.

use super::*;
use crate::engine::{Removed, RenameMode, WriteFlags};

fn rename(
    world: &World,
    from: (Ino, &str),
    to: (Ino, &str),
) -> Result<Option<Removed>, EngineError> {
    renamed(world, from, to, RenameMode::Replace)
}

fn renamed(
    world: &World,
    from: (Ino, &str),
    to: (Ino, &str),
    mode: RenameMode,
) -> Result<Option<Removed>, EngineError> {
    world
        .volume
        .rename(from.0, from.1.as_bytes(), to.0, to.1.as_bytes(), mode)
}

#[test]
fn a_file_moves_with_times_and_counts() {
    let world = World::new();
    let (a, b) = (world.make(ROOT, "a", DIR), world.make(ROOT, "b", DIR));
    let file = world.make(a, "f", FILE);
    let now = world.tick();
    assert_eq!(rename(&world, (a, "f"), (b, "g")).unwrap(), None);
    assert_eq!(world.find(a, "f"), None);
    assert_eq!(world.find(b, "g"), Some(file));
    assert_eq!(world.attr(file).ctime, now);
    assert_ne!(world.attr(file).mtime, now);
    for dir in [a, b] {
        assert_eq!((world.attr(dir).mtime, world.attr(dir).ctime), (now, now));
    }
    // Within one directory.
    rename(&world, (b, "g"), (b, "h")).unwrap();
    assert_eq!(world.list(b), [".", "..", "h"]);
    assert_eq!(error(rename(&world, (b, "g"), (b, "i"))), "NotFound");
    assert_eq!(error(rename(&world, (b, "."), (b, "i"))), "Invalid");
    assert_eq!(error(rename(&world, (b, "h"), (b, ".."))), "Invalid");
    assert_eq!(error(rename(&world, (b, "h"), (file, "x"))), "NotDirectory");
    assert_eq!(error(rename(&world, (b, "h"), (Ino(99), "x"))), "Stale");
    world.finish();
}

#[test]
fn who_may_not_wait_is_told_of_data_that_must_go_before() {
    let world = World::new();
    let file = world.make(ROOT, "f", FILE);
    let volume = &world.volume;
    let rename = |may_wait| {
        let mode = RenameMode::Replace;
        volume.rename_with((ROOT, b"f"), (ROOT, b"g"), mode, may_wait)
    };
    let write = |bytes: &[u8]| {
        let plain = WriteFlags::default();
        volume
            .write(file, 0, bytes.len(), &mut &*bytes, plain)
            .unwrap();
    };
    write(b"content");
    assert_eq!(error(rename(false)), "WouldWait");
    assert_eq!(world.find(ROOT, "f"), Some(file));
    volume.fsync(file, false).unwrap();
    rename(false).unwrap();
    assert_eq!(world.find(ROOT, "g"), Some(file));
    rename_back(volume);
    write(b"more");
    rename(true).unwrap();
    assert_eq!(world.find(ROOT, "g"), Some(file));
    world.finish();
}

fn rename_back(volume: &Volume) {
    volume
        .rename(ROOT, b"g", ROOT, b"f", RenameMode::Replace)
        .unwrap();
}

#[test]
fn directories_move_with_their_parent() {
    let world = World::new();
    let (a, b) = (world.make(ROOT, "a", DIR), world.make(ROOT, "b", DIR));
    let sub = world.make(a, "sub", DIR);
    rename(&world, (a, "sub"), (b, "sub")).unwrap();
    assert_eq!(world.find(sub, ".."), Some(b));
    assert_eq!((world.attr(a).nlink, world.attr(b).nlink), (2, 3));
    rename(&world, (b, "sub"), (b, "other")).unwrap();
    assert_eq!(world.attr(b).nlink, 3);
    world.finish();
}

#[test]
fn loops_are_refused() {
    let world = World::new();
    let a = world.make(ROOT, "a", DIR);
    let b = world.make(a, "b", DIR);
    let c = world.make(b, "c", DIR);
    for to in [a, b, c] {
        assert_eq!(error(rename(&world, (ROOT, "a"), (to, "x"))), "Invalid");
    }
    let other = world.make(ROOT, "other", DIR);
    world.make(other, "file", FILE);
    let exchange = RenameMode::Exchange;
    assert_eq!(
        error(renamed(&world, (ROOT, "a"), (b, "c"), exchange)),
        "Invalid"
    );
    assert_eq!(
        error(renamed(&world, (b, "c"), (ROOT, "a"), exchange)),
        "Invalid"
    );
    // A directory above the source is never empty.
    assert_eq!(error(rename(&world, (b, "c"), (ROOT, "a"))), "NotEmpty");
    world.finish();
}

#[test]
fn what_is_replaced_must_be_of_the_kind_and_empty() {
    let world = World::new();
    let (a, b) = (world.make(ROOT, "a", DIR), world.make(ROOT, "b", DIR));
    let (f, g) = (world.make(ROOT, "f", FILE), world.make(ROOT, "g", FILE));
    assert_eq!(
        error(rename(&world, (ROOT, "a"), (ROOT, "f"))),
        "NotDirectory"
    );
    assert_eq!(
        error(rename(&world, (ROOT, "f"), (ROOT, "a"))),
        "IsDirectory"
    );
    world.make(b, "x", FILE);
    assert_eq!(error(rename(&world, (ROOT, "a"), (ROOT, "b"))), "NotEmpty");
    assert_eq!(
        error(renamed(
            &world,
            (ROOT, "f"),
            (ROOT, "g"),
            RenameMode::NoReplace
        )),
        "Exists"
    );
    let removed = Removed {
        ino: g,
        orphan: true,
    };
    assert_eq!(
        rename(&world, (ROOT, "f"), (ROOT, "g")).unwrap(),
        Some(removed)
    );
    assert_eq!(world.find(ROOT, "g"), Some(f));
    assert!(world.volume.is_orphan(g));
    // A directory with another name stays when one of its names is replaced by a link less.
    let removed = Removed {
        ino: a,
        orphan: true,
    };
    assert_eq!(
        rename(&world, (ROOT, "b"), (ROOT, "a")).unwrap(),
        Some(removed)
    );
    assert_eq!(world.find(ROOT, "a"), Some(b));
    assert_eq!(world.attr(ROOT).nlink, 3);
    assert_eq!(world.list(ROOT), [".", "..", "a", "g"]);
    // Over an empty directory elsewhere.
    let deep = world.make(b, "deep", DIR);
    let moved = world.make(ROOT, "moved", DIR);
    rename(&world, (ROOT, "moved"), (b, "deep")).unwrap();
    assert_eq!(world.find(b, "deep"), Some(moved));
    assert_eq!(world.attr(deep).nlink, 0);
    assert_eq!((world.attr(ROOT).nlink, world.attr(b).nlink), (3, 3));
    world.finish();
}

#[test]
fn two_names_of_one_inode_stay() {
    let world = World::new();
    let file = world.make(ROOT, "a", FILE);
    world.volume.link(file, ROOT, b"b").unwrap();
    let before = world.attr(file);
    world.tick();
    for mode in [RenameMode::Replace, RenameMode::Exchange] {
        assert_eq!(
            renamed(&world, (ROOT, "a"), (ROOT, "b"), mode).unwrap(),
            None
        );
        assert_eq!(rename(&world, (ROOT, "a"), (ROOT, "a")).unwrap(), None);
    }
    assert_eq!(world.list(ROOT), [".", "..", "a", "b"]);
    assert_eq!(world.attr(file), before);
    assert_eq!(
        error(renamed(
            &world,
            (ROOT, "a"),
            (ROOT, "b"),
            RenameMode::NoReplace
        )),
        "Exists"
    );
    // A third one is replaced: the inode lives on.
    world.make(ROOT, "c", FILE);
    let removed = Removed {
        ino: file,
        orphan: false,
    };
    assert_eq!(
        rename(&world, (ROOT, "c"), (ROOT, "a")).unwrap(),
        Some(removed)
    );
    assert_eq!(world.attr(file).nlink, 1);
    world.finish();
}

#[test]
fn exchange_swaps_whatever_is_there() {
    let world = World::new();
    let (a, b) = (world.make(ROOT, "a", DIR), world.make(ROOT, "b", DIR));
    let dir = world.make(a, "x", DIR);
    world.make(dir, "inside", FILE);
    let file = world.make(b, "y", FILE);
    let now = world.tick();
    let exchange = RenameMode::Exchange;
    assert_eq!(renamed(&world, (a, "x"), (b, "y"), exchange).unwrap(), None);
    assert_eq!(
        (world.find(a, "x"), world.find(b, "y")),
        (Some(file), Some(dir))
    );
    assert_eq!((world.attr(a).nlink, world.attr(b).nlink), (2, 3));
    assert_eq!(world.find(dir, ".."), Some(b));
    assert_eq!((world.attr(file).ctime, world.attr(dir).ctime), (now, now));
    // And back, the file first.
    renamed(&world, (a, "x"), (b, "y"), exchange).unwrap();
    assert_eq!((world.attr(a).nlink, world.attr(b).nlink), (3, 2));
    assert_eq!(world.find(dir, ".."), Some(a));
    assert_eq!(
        error(renamed(&world, (a, "x"), (b, "none"), exchange)),
        "NotFound"
    );
    // Two directories: each gets the other's parent.
    let other = world.make(b, "z", DIR);
    renamed(&world, (a, "x"), (b, "z"), exchange).unwrap();
    assert_eq!(world.find(other, ".."), Some(a));
    assert_eq!(world.find(dir, ".."), Some(b));
    assert_eq!((world.attr(a).nlink, world.attr(b).nlink), (3, 3));
    world.finish();
}

#[test]
fn whiteout_is_left_behind() {
    let world = World::new();
    let a = world.make(ROOT, "a", DIR);
    let file = world.make(ROOT, "f", FILE);
    let before = world.inodes();
    let owner = Cred { uid: 5, gid: 6 };
    let leave = |replace| RenameMode::Whiteout { owner, replace };
    renamed(&world, (ROOT, "f"), (a, "g"), leave(true)).unwrap();
    assert_eq!(world.find(a, "g"), Some(file));
    let whiteout = world.volume.lookup(ROOT, b"f").unwrap();
    assert_eq!((whiteout.mode, whiteout.rdev), (libc::S_IFCHR, 0));
    assert_eq!((whiteout.uid, whiteout.gid), (5, 6));
    assert_eq!(world.inodes(), before + 1);
    // Of a directory: its link goes along.
    let dir = world.make(ROOT, "d", DIR);
    assert_eq!(
        error(renamed(&world, (ROOT, "d"), (a, "g"), leave(false))),
        "Exists"
    );
    renamed(&world, (ROOT, "d"), (a, "d"), leave(false)).unwrap();
    assert_eq!((world.attr(ROOT).nlink, world.attr(a).nlink), (3, 3));
    assert_eq!(world.find(dir, ".."), Some(a));
    world.finish();
}

#[test]
fn the_moved_data_is_there_when_the_name_is() {
    let world = World::new();
    let file = world.make(ROOT, "f.tmp", FILE);
    world.make(ROOT, "f", FILE);
    let flags = crate::engine::WriteFlags::default();
    world
        .volume
        .write(file, 0, 5, &mut b"hello".as_slice(), flags)
        .unwrap();
    let removed = rename(&world, (ROOT, "f.tmp"), (ROOT, "f"))
        .unwrap()
        .unwrap();
    world.volume.reclaim(removed.ino).unwrap();
    // Only the log is flushed, never the file.
    world.volume.store().commit_tick().unwrap();
    let survived = world.sim.killed();
    let volume = open(&survived, clock(&world.seconds));
    let mut content = Vec::new();
    let ino = volume.lookup(ROOT, b"f").unwrap().ino;
    volume.read(ino, 0, 10, &mut content).unwrap();
    assert_eq!(content, b"hello");
}
