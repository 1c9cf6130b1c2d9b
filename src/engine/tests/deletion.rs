//! Deletion beside what else goes on.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::*;
use crate::engine::data::units_used;
use crate::engine::{DatasetError, EngineError, Fallocate, Store, WriteFlags};
use crate::log::journal::Pressure;

/// A store of which the caller drives checkpoints, or threads do.
pub(super) fn store(background: bool) -> (SimMedia, Arc<Store>) {
    let sim = SimMedia::new();
    let clock = clock(&Arc::new(AtomicI64::new(1000)));
    mkfs(sim.media(), &MkfsOptions::reproducible(), &clock).unwrap();
    let options = OpenOptions {
        background,
        commit_interval: Duration::from_millis(5),
        ..OpenOptions::default()
    };
    let store = Store::open_media(sim.media(), options, clock).unwrap();
    (sim, store)
}

fn make(volume: &Volume, name: &str) -> Ino {
    let made = volume.create(Cred::default(), ROOT, name.as_bytes(), &new(FILE));
    made.unwrap().ino
}

fn write(volume: &Volume, ino: Ino, offset: u64, bytes: &[u8]) {
    let mut source = bytes;
    let flags = WriteFlags::default();
    volume
        .write(ino, offset, bytes.len(), &mut source, flags)
        .unwrap();
}

/// Removes all files of `main`, and sees that nothing is left.
fn finish(sim: &SimMedia, store: &Arc<Store>) {
    let main = store.main().unwrap();
    let mut names = Vec::new();
    main.readdir(ROOT, 0, &mut |entry| {
        names.push(entry.name);
        true
    })
    .unwrap();
    for name in names.iter().filter(|name| !name.starts_with(b".")) {
        let ino = main.lookup(ROOT, name).unwrap().ino;
        main.unlink(ROOT, name).unwrap();
        main.reclaim(ino).unwrap();
    }
    drop(main);
    store.reap(&|| false).unwrap();
    store.checkpoint().unwrap();
    store.checkpoint().unwrap();
    assert_eq!(units_used(&store.journal.view()).unwrap(), 0);
    store.close().unwrap();
    assert_eq!(errors(sim), [""; 0]);
    let pages = store.journal.superblock().nodes_used;
    assert!(pages < 10, "{pages} pages are left");
}

#[test]
fn a_deletion_finds_room_in_a_full_log() {
    let (sim, store) = store(false);
    store.create_dataset("gone", (0, 0)).unwrap();
    let main = store.main().unwrap();
    let ino = make(&main, "f");
    let value = [7; 60_000];
    while store.journal.pressure() == Pressure::None {
        main.setxattr(ino, b"user.a", &value, crate::engine::SetXattr::Any, false)
            .unwrap();
    }
    drop(main);
    let (done, result) = mpsc::channel();
    let deleting = Arc::clone(&store);
    thread::spawn(move || done.send(deleting.delete("gone", false)));
    let deleted = result.recv_timeout(Duration::from_secs(20));
    deleted.expect("the deletion waits for itself").unwrap();
    finish(&sim, &store);
}

#[test]
fn a_dataset_is_not_in_use_because_the_store_looks_at_it() {
    let (sim, store) = store(true);
    for round in 0..200 {
        let name = format!("d{round}");
        store.create_dataset(&name, (0, 0)).unwrap();
        let volume = store.volume(&name).unwrap();
        let refused = store.delete(&name, false);
        assert!(matches!(refused, Err(DatasetError::Busy(_))));
        write(&volume, make(&volume, "f"), 0, &[1; 5000]);
        drop(volume);
        store.background.request_checkpoint();
        store.delete(&name, false).unwrap();
    }
    finish(&sim, &store);
}

#[test]
fn trees_are_taken_away_once() {
    let (sim, store) = store(false);
    let main = store.main().unwrap();
    let ino = make(&main, "f");
    for round in 0..30 {
        for at in 0..40 {
            write(&main, ino, at * 8192, &[round; 3000]);
        }
        store.snapshot(&format!("main@{round}")).unwrap();
    }
    for round in 0..30 {
        store.delete(&format!("main@{round}"), false).unwrap();
    }
    let all_there = std::sync::Barrier::new(3);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                all_there.wait();
                store.reap(&|| false).unwrap();
            });
        }
    });
    drop(main);
    finish(&sim, &store);
}

#[test]
fn nodes_that_snapshots_keep_are_counted() {
    let (sim, store) = store(false);
    let main = store.main().unwrap();
    let files: Vec<Ino> = (0..300).map(|at| make(&main, &format!("f{at}"))).collect();
    store.checkpoint().unwrap();
    for round in 0..10 {
        for ino in &files {
            let set = SetAttr {
                mode: Some(0o600 + round),
                ..SetAttr::default()
            };
            main.setattr(*ino, &set).unwrap();
        }
        store.snapshot(&format!("main@{round}")).unwrap();
    }
    let counted = store.journal.dirty_pages();
    let before = store.journal.superblock().nodes_end.0;
    store.checkpoint().unwrap();
    let written = store.journal.superblock().nodes_end.0 - before;
    assert!(
        counted >= written,
        "{counted} nodes counted, {written} written"
    );
    for round in 0..10 {
        store.delete(&format!("main@{round}"), false).unwrap();
    }
    drop(main);
    finish(&sim, &store);
}

/// A writer goes from one file to the next: no snapshot has the newer bytes of a later one without
/// those of an earlier one.
#[test]
fn snapshots_are_of_one_moment() {
    let (sim, store) = store(true);
    let main = store.main().unwrap();
    let files: Vec<Ino> = (0..4).map(|at| make(&main, &format!("f{at}"))).collect();
    let other = make(&main, "other");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let going = || !stop.load(Ordering::Relaxed);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in (0..u64::MAX).take_while(|_| going()) {
                let bytes = round
                    .to_le_bytes()
                    .repeat(if round % 5 == 0 { 4000 } else { 10 });
                files.iter().for_each(|ino| write(&main, *ino, 0, &bytes));
            }
        });
        scope.spawn(|| {
            for round in (0..u64::MAX).take_while(|_| going()) {
                write(&main, other, round % 50 * 9000, &[1; 20_000]);
                let set = SetAttr {
                    size: Some(round % 7 * 30_000),
                    ..SetAttr::default()
                };
                main.setattr(other, &set).unwrap();
                main.copy_range(files[0], 0, other, 100_000, 8000).unwrap();
                main.fallocate(other, 4096, 50_000, Fallocate::PunchHole)
                    .unwrap();
                main.fsync(other, false).unwrap();
            }
        });
        scope.spawn(|| {
            while going() {
                store.reap(&|| false).unwrap();
                store.checkpoint().unwrap();
            }
        });
        for round in 0..60 {
            let (name, clone) = (format!("main@{round}"), format!("c{round}"));
            store.snapshot(&name).unwrap();
            store.clone_dataset(&name, &clone).unwrap();
            for name in [&name, &clone] {
                let volume = store.volume(name).unwrap();
                let first = |ino: &Ino| {
                    let mut bytes = Vec::new();
                    volume.read(*ino, 0, 8, &mut bytes).unwrap();
                    bytes.try_into().map_or(0, u64::from_le_bytes)
                };
                let found: Vec<u64> = files.iter().map(first).collect();
                assert!(found.is_sorted_by(|one, next| one >= next), "{found:?}");
                assert!(found[0] <= found[3] + 1, "{found:?}");
            }
            if round % 2 == 0 {
                store.delete(&clone, false).unwrap();
                store.delete(&name, false).unwrap();
            } else if round > 20 {
                store
                    .delete(&format!("main@{}", round - 20), false)
                    .unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    drop(main);
    for info in store.list().unwrap() {
        if info.name != "main" && store.list().unwrap().contains(&info) {
            store.delete(&info.name, true).unwrap();
        }
    }
    finish(&sim, &store);
}

#[test]
fn a_thousand_clones_take_little() {
    let (sim, store) = store(false);
    let main = store.main().unwrap();
    for at in 0..500 {
        make(&main, &format!("f{at}"));
    }
    store.snapshot("main@s").unwrap();
    store.checkpoint().unwrap();
    let before = store.journal.superblock().nodes_used;
    for at in 0..1000 {
        store.clone_dataset("main@s", &format!("c{at}")).unwrap();
    }
    store.checkpoint().unwrap();
    let pages = store.journal.superblock().nodes_used - before;
    assert!(pages < 1000, "more than a page for each clone: {pages}");
    for at in 0..1000 {
        store.delete(&format!("c{at}"), false).unwrap();
    }
    store.delete("main@s", false).unwrap();
    drop(main);
    finish(&sim, &store);
}

/// Guests that read a snapshot below `.snapshots` do not keep it from being deleted.
#[test]
fn who_reads_a_snapshot_all_the_time_does_not_hold_its_deletion_up() {
    let (_sim, store) = store(false);
    let main = store.main().unwrap();
    let id = store.snapshot("main@s").unwrap();
    let (done, deleted) = mpsc::channel();
    let deleter = Arc::clone(&store);
    // Each begins before the one before it ends.
    let mut reading = main.snapshot(id).unwrap();
    thread::spawn(move || done.send(deleter.delete("main@s", false)));
    let mut stale = 0;
    for _ in 0..400 {
        thread::sleep(Duration::from_millis(2));
        match main.snapshot(id) {
            Ok(next) => reading = next,
            Err(error) => {
                assert!(matches!(error, EngineError::Stale), "{error}");
                stale += 1;
                break;
            }
        }
        assert!(reading.getattr(ROOT).is_ok());
    }
    assert_eq!(stale, 1, "it goes on for ever");
    drop(reading);
    let deleted = deleted.recv_timeout(Duration::from_secs(10));
    deleted.expect("nobody reads any more").unwrap();
}

/// Bytes of a file that the log has and that are gone with the file are not those of the file that
/// comes back.
#[test]
fn a_restored_file_has_nothing_that_was_synced_before() {
    for (reclaims, cut) in [(false, false), (true, false), (false, true), (true, true)] {
        let (sim, store) = store(false);
        let main = store.main().unwrap();
        let file = make(&main, "file");
        write(&main, file, 0, &[1; 5000]);
        drop(main);
        store.snapshot("main@s").unwrap();
        store.checkpoint().unwrap();
        let main = store.main().unwrap();
        write(&main, file, 0, &[2; 5000]);
        main.fsync(file, false).unwrap();
        if cut {
            write(&main, file, 100, &[3; 50]);
        }
        main.unlink(ROOT, b"file").unwrap();
        if reclaims {
            main.reclaim(file).unwrap();
        }
        drop(main);
        store.restore("main@s").unwrap();
        assert_eq!(store.dirty_bytes(), 0);
        let clock = clock(&Arc::new(AtomicI64::new(2000)));
        let mut recording = sim.recording();
        let end = recording.len();
        let crashed = recording.crash_at(end, crate::disk::sim::Survival::All);
        let options = OpenOptions {
            background: false,
            ..OpenOptions::default()
        };
        let again = Store::open_media(crashed.media(), options, clock).unwrap();
        let main = again.main().unwrap();
        let mut found = Vec::new();
        main.read(file, 0, 6000, &mut found).unwrap();
        assert!(found == [1; 5000], "{reclaims} {cut}");
        drop(main);
        again.close().unwrap();
        assert_eq!(errors(&crashed), [""; 0]);
    }
}
