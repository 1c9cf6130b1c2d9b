//! What is told of a store's health is what it is.

use super::*;
use crate::engine::health::{self, FreeSpace};
use crate::engine::{TrimOptions, WriteFlags};
use crate::format::id::DatasetId;
use crate::format::name::record_bytes;

fn write(world: &World, ino: Ino, offset: u64, len: usize) {
    let bytes = vec![7; len];
    let flags = WriteFlags::default();
    let written = world.volume.write(ino, offset, len, &mut &*bytes, flags);
    assert_eq!(written.unwrap(), len);
}

#[test]
fn names_are_counted_for_each_entry_and_once() {
    let mut world = World::new();
    for index in 0..10 {
        let dir = world.make(ROOT, &format!("dir-{index}"), DIR);
        for name in ["index.js", "package.json", "README.md"] {
            world.make(dir, name, FILE);
        }
    }
    world.reopen();
    let view = world.volume.store.journal.view();
    let files = health::files(&view, [DatasetId::MAIN]).unwrap();
    assert_eq!((files.entries, files.names), (40, 13));
    assert_eq!(files.entry_name_bytes, 10 * (5 + 8 + 12 + 9));
    let all = 10 * [5, 8, 12, 9].map(record_bytes).iter().sum::<usize>();
    assert_eq!(files.entry_record_bytes, all as u64);
    let stored = view.strings_end();
    let saved = 10_000 - i64::try_from(stored * 10_000 / all as u64).unwrap();
    assert!((files.saved_basis_points(stored) - saved).abs() <= 1);
    assert!(files.saved_basis_points(stored) > 5000);
    assert!(files.bare_saved_basis_points(stored) < files.saved_basis_points(stored));
    drop(view);
    world.finish();
}

#[test]
fn extents_and_free_space_are_counted() {
    let world = World::new();
    let [whole, cut] = ["whole", "cut"].map(|name| world.make(ROOT, name, FILE));
    write(&world, whole, 0, 128 << 10);
    // One chunk for each, with a hole between any two.
    for index in 0..64 {
        write(&world, cut, index * (256 << 10), 128 << 10);
        world.volume.fsync(cut, false).unwrap();
        write(&world, whole, index * (128 << 10), 128 << 10);
        world.volume.fsync(whole, false).unwrap();
    }
    let store = world.volume.store();
    let files = health::files(&store.journal.view(), [DatasetId::MAIN]).unwrap();
    assert_eq!((files.with_content, files.extents), (2, 128));
    assert_eq!(files.extents_percent(), 6400);
    let set = SetAttr {
        size: Some(0),
        ..SetAttr::default()
    };
    world.volume.setattr(cut, &set).unwrap();
    store.checkpoint().unwrap();
    let free = health::free_space(&store.journal.view()).unwrap();
    assert_eq!((free.bytes, free.pieces), (64 * (128 << 10), 64));
    assert_eq!(free.largest_bytes, 128 << 10);
    let trimmed = store.trim(&TrimOptions::default(), &mut || true).unwrap();
    let after = health::free_space(&store.journal.view()).unwrap();
    assert!(trimmed.punched_bytes > 0);
    let expected = FreeSpace {
        bytes: free.bytes - trimmed.punched_bytes,
        pieces: free.pieces - trimmed.pieces,
        ..free
    };
    assert_eq!(after, expected);
    let space = health::space(&store.journal.view()).unwrap();
    assert_eq!(space.punched_bytes, trimmed.punched_bytes);
    assert_eq!(space.used_bytes, 64 * (128 << 10));
    world.finish();
}

#[test]
fn what_was_written_is_known_after_closing() {
    let mut world = World::new();
    let file = world.make(ROOT, "file", FILE);
    let wear = |world: &World| world.volume.store().wear().unwrap();
    assert_eq!(wear(&world).guest_bytes, 0);
    write(&world, file, 0, 1 << 20);
    world.volume.fsync(file, false).unwrap();
    let open = wear(&world);
    assert_eq!(open.guest_bytes, 1 << 20);
    assert!(open.disk_bytes > 1 << 20, "{open:?}");
    assert!(open.amplification_percent() > 100);
    world.reopen();
    let closed = health::wear(&world.volume.store.journal.view()).unwrap();
    assert_eq!(closed.guest_bytes, 1 << 20);
    assert!(closed.disk_bytes >= open.disk_bytes);
    // Nothing is written down of an opening in which nothing was written.
    world.reopen();
    let again = health::wear(&world.volume.store.journal.view()).unwrap();
    assert_eq!(again, closed);
    write(&world, file, 0, 100);
    world.reopen();
    assert_eq!(wear(&world).guest_bytes, (1 << 20) + 100);
    world.finish();
}
