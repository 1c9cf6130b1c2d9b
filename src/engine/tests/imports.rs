//! What comes in while others use the dataset, and a dataset that is read while it changes.

use super::*;
use crate::disk::sim::Survival;
use crate::engine::{ImportedAttrs, Nameless, RestorePath, Still, WriteFlags};

fn write(volume: &Volume, ino: Ino, bytes: &[u8]) {
    let mut from = bytes;
    let flags = WriteFlags::default();
    volume.write(ino, 0, bytes.len(), &mut from, flags).unwrap();
}

fn read(volume: &Volume, ino: Ino) -> Vec<u8> {
    let mut content = Vec::new();
    volume.read(ino, 0, 1 << 20, &mut content).unwrap();
    content
}

fn still(world: &World) -> Still {
    world.volume.store().still("main").unwrap()
}

fn busy<T>(done: Result<T, EngineError>) -> &'static str {
    match done {
        Err(EngineError::Busy(reason)) => reason,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it is not busy"),
    }
}

/// Names that a store has for datasets and snapshots, and how many trees there are beside `main`.
fn trees(world: &World) -> (usize, usize) {
    let store = world.volume.store();
    let view = store.journal.view();
    let all = crate::log::recovery::datasets(&view).unwrap();
    (store.list().unwrap().len(), all.len() - 1)
}

#[test]
fn what_is_read_stands_still() {
    let world = World::new();
    let store = world.volume.store();
    let file = world.make(ROOT, "file", FILE);
    // In memory only.
    write(&world.volume, file, &[7; 50_000]);
    let first = still(&world);
    write(&world.volume, file, &[8; 60_000]);
    let second = still(&world);
    world.volume.unlink(ROOT, b"file").unwrap();
    world.volume.reclaim(file).unwrap();
    world.make(ROOT, "later", FILE);
    store.checkpoint().unwrap();
    assert_eq!(trees(&world), (1, 2), "nobody else finds it");
    assert!(!store.reap(&|| false).unwrap());
    for (still, content) in [(&first, vec![7; 50_000]), (&second, vec![8; 60_000])] {
        let found = still.lookup(ROOT, b"file").unwrap();
        assert!(read(still, found.ino) == content);
        assert!(still.lookup(ROOT, b"later").is_err());
        assert!(!still.is_writable());
    }
    drop(first);
    assert!(store.reap(&|| false).unwrap());
    assert_eq!(trees(&world), (1, 1));
    let found = second.lookup(ROOT, b"file").unwrap();
    assert!(read(&second, found.ino) == [8; 60_000]);
    drop(second);
    assert!(store.reap(&|| false).unwrap());
    assert_eq!(trees(&world), (1, 0));
    world.finish();
}

/// What changes for nobody is read as it is: a snapshot, and a store that is opened for reading.
#[test]
fn what_nobody_changes_is_read_as_it_is() {
    let world = World::new();
    let store = world.volume.store();
    store.snapshot("main@one").unwrap();
    let one = store.still("main@one").unwrap();
    assert_eq!(trees(&world), (2, 1));
    assert!(store.delete("main@one", false).is_err(), "it is in use");
    drop(one);
    store.delete("main@one", false).unwrap();
    store.reap(&|| false).unwrap();
    assert!(store.still("none").is_err());
    world.finish();
}

/// Wherever the power goes, nothing is left of what was read.
#[test]
fn what_was_read_goes_after_a_power_cut() {
    let world = World::new();
    let file = world.make(ROOT, "file", FILE);
    write(&world.volume, file, &[7; 50_000]);
    let still = still(&world);
    write(&world.volume, file, &[8; 50_000]);
    world.volume.sync_all().unwrap();
    let mut found = 0;
    for seed in 0..8 {
        let crashed = {
            let mut recording = world.sim.recording();
            recording.crash_at(world.sim.events(), Survival::Random(seed))
        };
        let volume = open(&crashed, clock(&world.seconds));
        let store = volume.store();
        found += usize::from(store.reap(&|| false).unwrap());
        assert_eq!(store.list().unwrap().len(), 1);
        let file = volume.lookup(ROOT, b"file").unwrap().ino;
        assert!(read(&volume, file) == [8; 50_000]);
        store.close().unwrap();
        assert_eq!(errors(&crashed), [""; 0]);
    }
    assert!(found > 0, "there was nothing to take away");
    drop(still);
    world.finish();
}

#[test]
fn one_import_at_a_time_and_none_that_a_kernel_would_not_see() {
    let world = World::new();
    let volume = &world.volume;
    let one = volume.begin_import().unwrap();
    assert!(busy(volume.begin_import()).contains("already"));
    drop(one);
    let believing = volume.begin_believing();
    assert!(busy(volume.begin_import()).contains("--cache auto"));
    drop(believing);
    let one = volume.begin_import().unwrap();
    let attrs = ImportedAttrs::default();
    let (dir, _) = volume.import_dir(ROOT, b"d").unwrap();
    let [file, other] = [(); 2].map(|()| volume.import_nameless(dir, Nameless::File).unwrap());
    volume.import_named(other, &attrs, dir, b"other").unwrap();
    // One comes in the middle of it.
    let believing = volume.begin_believing();
    busy(volume.import_named(file, &attrs, dir, b"file"));
    busy(volume.import_link(other, dir, b"link"));
    busy(volume.import_dir(ROOT, b"e"));
    busy(volume.import_dir_attrs(dir, &attrs));
    busy(volume.import_dir_times(dir, Time::default(), Time::default()));
    assert_eq!(world.list(ROOT), [".", "..", "d"]);
    assert_eq!(world.list(dir), [".", "..", "other"]);
    volume.import_drop(file);
    assert!(!volume.is_orphan(file));
    drop(believing);
    // It may come again, and believes all that it was told.
    busy(volume.import_link(other, dir, b"link"));
    drop(one);
    let _one = volume.begin_import().unwrap();
    volume.import_link(other, dir, b"link").unwrap();
    // Nor is one to come while those that there are wait for who serves them.
    volume.store().snapshot("main@one").unwrap();
    let restoration = volume.store().begin_restore("main@one").unwrap();
    let still = restoration.keep_still();
    let refused = volume.import_dir(ROOT, b"e").unwrap_err();
    assert!(refused.to_string().contains("being restored"), "{refused}");
    drop(still);
    volume.import_dir(ROOT, b"e").unwrap();
    drop(restoration);
    world.finish();
}

/// What a kernel has open outlives what is imported in its place.
#[test]
fn what_an_import_replaces_is_freed_by_those_who_know_it() {
    let world = World::new();
    let volume = &world.volume;
    let open = world.make(ROOT, "open", FILE);
    write(volume, open, b"mine");
    let known = move |volume: &Volume, ino: Ino| {
        if ino != open {
            volume.reclaim(ino).unwrap();
        }
    };
    volume.release_by(Box::new(known));
    let new = volume.import_nameless(ROOT, Nameless::File).unwrap();
    let attrs = ImportedAttrs::default();
    let replaced = volume.import_named(new, &attrs, ROOT, b"open").unwrap();
    volume.import_drop(replaced.unwrap().ino);
    assert_eq!(read(volume, open), b"mine");
    volume.reclaim(open).unwrap();
    world.finish();
}

/// Where something is put together that nobody is to see.
#[test]
fn nothing_is_imported_into_what_is_hidden() {
    let world = World::new();
    let volume = &world.volume;
    let etc = world.make(ROOT, "etc", DIR);
    world.make(etc, "fstab", FILE);
    volume.store().snapshot("main@one").unwrap();
    let what = RestorePath {
        snapshot: "main@one".into(),
        source: b"etc".to_vec(),
        destination: b"back".to_vec(),
        replace: false,
    };
    // It stops when it has begun, and what there is stays hidden.
    let stopped = volume.store().restore_path(&what, &mut || false);
    stopped.unwrap_err();
    let hidden = b".razorfs-staging";
    assert!(volume.has_staging());
    let attrs = ImportedAttrs::default();
    let new = volume.import_nameless(ROOT, Nameless::File).unwrap();
    for refused in [
        volume.import_dir(ROOT, hidden).map(drop),
        volume.import_named(new, &attrs, ROOT, hidden).map(drop),
    ] {
        assert!(
            matches!(refused, Err(EngineError::NotPermitted(_))),
            "{refused:?}"
        );
    }
    volume.import_drop(new);
    volume.store().restore_path(&what, &mut || true).unwrap();
    assert!(world.find(ROOT, "back").is_some());
    world.finish();
}
