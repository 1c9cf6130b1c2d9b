//! A disk that is full, or a store that is: what must work all the same.

use rand::seq::SliceRandom;

use super::*;
use crate::engine::{DatasetError, SetAttr, Store};
use crate::fsck;
use crate::store::StoreError;

/// What fallocate reserved of a store with a size can be written.
#[test]
fn all_of_a_store_of_limited_size_can_be_reserved_and_written() {
    let volume = open(&make_empty(8 << 20));
    let ino = create(&volume, "file");
    let how = Fallocate::Allocate { keep_size: false };
    volume.fallocate(ino, 0, 8 << 20, how).unwrap();
    for offset in (0..8u64 << 20).step_by(64 << 10) {
        write(&volume, ino, offset, &[7; 64 << 10]);
    }
}

#[test]
fn deleting_many_files_works_on_a_full_disk() {
    delete_many(false);
}

#[test]
fn a_checkpoint_carries_over_on_a_full_disk() {
    delete_many(true);
}

/// Deletes 40,000 files on a full disk, with file bytes in the log or not.
fn delete_many(logged: bool) {
    let sim = make();
    let volume = open(&sim);
    let mut names: Vec<String> = (0..40_000).map(|n| format!("file number {n}")).collect();
    for name in &names {
        create(&volume, name);
    }
    volume.store().checkpoint().unwrap();
    volume.store().checkpoint().unwrap();
    if logged {
        write(&volume, FILE, 0, b"sync");
        volume.fsync(FILE, false).unwrap();
    }
    sim.set_capacity(Some(sim.allocated()));
    names.shuffle(&mut ChaCha8Rng::seed_from_u64(1));
    for name in &names {
        let removed = volume.unlink(Ino::ROOT, name.as_bytes()).unwrap();
        volume.reclaim(removed.ino).unwrap();
    }
    volume.store().checkpoint().unwrap();
    drop(volume);
    let full = sim.killed();
    full.set_capacity(Some(full.allocated()));
    open(&full);
}

/// Copying over unwritten bytes cuts them into more units than were promised room.
#[test]
fn copies_over_unwritten_bytes_leave_them_their_room() {
    let sim = make();
    let volume = open(&sim);
    write(&volume, OTHER, 0, &[9]);
    volume.write_out(OTHER).unwrap();
    volume.store().checkpoint().unwrap();
    let nodes = sim.media().nodes;
    nodes.allocate(nodes.len_bytes(), 32 << 20).unwrap();
    sim.set_capacity(Some(sim.allocated() + (6 << 20)));
    let bytes = vec![7; 64 << 10];
    let mut written = 0;
    while try_write(&volume, FILE, written, &bytes).is_ok() {
        written += at(bytes.len());
    }
    // All was written out when space ran short: free some, and take it with unwritten bytes.
    written -= 4 << 20;
    volume.resize(FILE, written, &mut |_, _| Ok(())).unwrap();
    volume.store().checkpoint().unwrap();
    let first = written;
    for _ in 0..62 {
        write(&volume, FILE, written, &bytes);
        written += at(bytes.len());
    }
    for index in 0..1800u64 {
        let target = first + index * 2048 + 100;
        volume.copy_range(OTHER, 0, FILE, target, 1).unwrap();
    }
    volume.fsync(FILE, false).unwrap();
}

/// Names are never given back: when there is no room for another one, deleting, writing out and
/// checkpoints work all the same, and so does opening.
#[test]
fn no_room_for_another_name_stops_nothing_else() {
    let sim = make();
    let volume = open(&sim);
    create(&volume, "victim");
    let name = |number: u32| format!("{number:0>250}").into_bytes();
    let mode = RenameMode::Replace;
    create(&volume, &String::from_utf8(name(0)).unwrap());
    volume.store().checkpoint().unwrap();
    let nodes = sim.media().nodes;
    nodes.allocate(nodes.len_bytes(), 32 << 20).unwrap();
    write(&volume, FILE, 0, b"sync");
    volume.fsync(FILE, false).unwrap();
    sim.set_capacity(Some(sim.allocated()));
    let refused = (0..100_000).find(|number| {
        let (from, to) = (name(*number), name(number + 1));
        let renamed = volume.rename(Ino::ROOT, &from, Ino::ROOT, &to, mode);
        renamed.is_err()
    });
    assert!(refused.is_some());
    volume.sync_all().unwrap();
    volume.unlink(Ino::ROOT, b"victim").unwrap();
    volume.resize(OTHER, 0, &mut |_, _| Ok(())).unwrap();
    volume.store().checkpoint().unwrap();
    drop(volume);
    let full = sim.killed();
    full.set_capacity(Some(full.allocated()));
    open(&full);
}

/// Changes all files, and takes a snapshot, until there is no space for it: the names of those that
/// were taken.
fn snapshots_until_full(store: &Arc<Store>, files: &[Ino], from: u32) -> Vec<String> {
    let volume = store.volume("main").unwrap();
    let is_full = |error: &EngineError| {
        assert!(
            matches!(error, EngineError::Store(StoreError::NoSpace(_))),
            "{error}"
        );
    };
    let mut rng = ChaCha8Rng::seed_from_u64(from.into());
    let mut taken = Vec::new();
    for round in from.. {
        let set = SetAttr {
            uid: Some(round),
            ..SetAttr::default()
        };
        // The tree's pages, and content: whatever is refused first.
        for ino in files {
            if let Err(error) = volume.setattr(*ino, &set) {
                is_full(&error);
                break;
            }
        }
        let bytes = bytes_of(&mut rng, 100_000);
        if let Err(error) = try_write(&volume, files[0], 0, &bytes) {
            is_full(&error);
        }
        let name = format!("main@{round}");
        match store.snapshot(&name) {
            Ok(_) => taken.push(name),
            Err(DatasetError::Engine(error)) => {
                is_full(&error);
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    taken
}

/// Snapshots take all there is; on the full disk they go again, also those that a crash left half
/// deleted, and what they had can be used.
#[test]
fn snapshots_come_and_go_on_a_full_disk() {
    for seed in 0..4u64 {
        println!("seed {seed}");
        let sim = make();
        let volume = open(&sim);
        let files: Vec<_> = (0..600)
            .map(|number| create(&volume, &format!("file {number}")))
            .collect();
        volume.store().checkpoint().unwrap();
        sim.set_capacity(Some(sim.allocated() + (seed << 20)));
        let taken = snapshots_until_full(volume.store(), &files, 1);
        assert!(!taken.is_empty());
        volume.sync_all().unwrap();
        volume.store().checkpoint().unwrap();
        let mut full = sim;
        let mut volume = volume;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for name in &taken {
            let store = Arc::clone(volume.store());
            store.delete(name, false).unwrap();
            let steps = rng.random_range(1..40);
            let looked = std::cell::Cell::new(0);
            let stop = || {
                looked.set(looked.get() + 1);
                looked.get() == steps
            };
            store.reap(&stop).unwrap();
            if rng.random_bool(0.3) {
                drop((store, volume));
                let point = full.events();
                let survival = Survival::Random(rng.random());
                full = full.recording().crash_at(point, survival);
                full.set_capacity(Some(full.allocated()));
                assert_eq!(fsck::errors(&full.media()).unwrap(), [""; 0]);
                volume = open(&full);
            }
        }
        let store = Arc::clone(volume.store());
        store.reap(&|| false).unwrap();
        for _ in 0..2 {
            store.checkpoint().unwrap();
        }
        let names = store.list().unwrap().len();
        assert_eq!(names, 1, "what was deleted is gone");
        let again = snapshots_until_full(&store, &files, 1000);
        assert!(!again.is_empty());
        for name in again {
            store.delete(&name, false).unwrap();
        }
        store.reap(&|| false).unwrap();
        drop(volume);
        store.close().unwrap();
        assert_eq!(fsck::errors(&full.media()).unwrap(), [""; 0]);
    }
}
