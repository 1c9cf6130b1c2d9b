//! What a power cut leaves.

use super::*;
use crate::disk::sim::{Call, Fault};
use crate::engine::inode::FLAG_SYNC;
use crate::store::StoreError;

/// Power lost at many moments: what was fsynced is there, and every byte is one that was written
/// there since (or before) the last fsync, or zero.
#[test]
fn a_power_cut_keeps_what_was_fsynced() {
    for seed in 0..12 {
        let made = make_storing(compression_of(seed), dedup_of(seed));
        let sim = made.killed();
        let volume = open(&sim);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut model = Vec::new();
        // Events at which an fsync had returned, and the content then.
        let mut synced = vec![(0, Vec::new())];
        // All contents, for what may be there besides.
        let mut states: Vec<(usize, Vec<u8>)> = vec![(0, Vec::new())];
        for _ in 0..25 {
            step(&volume, &mut model, &mut rng);
            states.push((sim.events(), model.clone()));
            let is_synced = match (rng.random_bool(0.4), rng.random_bool(0.2)) {
                (true, _) => volume.fsync(FILE, false).map(|()| true),
                (false, true) => volume.begin_fsync(FILE).map(|()| true),
                (false, false) => Ok(false),
            };
            match is_synced {
                Ok(true) => synced.push((sim.events(), model.clone())),
                Ok(false) | Err(EngineError::Begun(_) | EngineError::WouldWait) => {}
                Err(error) => panic!("seed {seed}: {error}"),
            }
        }
        let mut recording = sim.recording();
        let events = recording.len();
        let mut points: Vec<usize> = (0..60).map(|_| rng.random_range(0..=events)).collect();
        points.extend(synced.iter().map(|(event, _)| *event));
        points.sort_unstable();
        for point in points {
            let crashed = recording.crash_at(point, Survival::Random(rng.random()));
            let volume = open(&crashed);
            let found = content(&volume, FILE);
            let (since, base) = synced
                .iter()
                .rev()
                .find(|(event, _)| *event <= point)
                .unwrap()
                .clone();
            let later: Vec<_> = states.iter().filter(|(event, _)| *event >= since).collect();
            for (index, byte) in found.iter().enumerate() {
                let held = |state: &Vec<u8>| state.get(index).copied().unwrap_or(0) == *byte;
                let allowed = held(&base) || later.iter().any(|(_, state)| held(state));
                assert!(
                    allowed,
                    "seed {seed} point {point}: foreign byte at {index}"
                );
            }
            if synced.iter().any(|(event, _)| *event == point)
                && !states
                    .iter()
                    .any(|(event, _)| *event > since && *event <= point)
            {
                assert!(
                    found == base,
                    "seed {seed} point {point}: fsynced content is lost"
                );
            }
            check_space(&volume, &format!("seed {seed} point {point}"));
        }
    }
}

/// A run over many extents is published in many transactions, and power is lost between any of
/// them: what was fsynced is in the log, or in the part of the extent that is there.
#[test]
fn a_power_cut_between_two_parts_of_a_write_out_loses_nothing() {
    use std::sync::atomic::{AtomicBool, Ordering};

    let made = make();
    let volume = open(&made);
    let flags = WriteFlags::default();
    for index in 0..10_000 {
        let mut byte = [1u8].as_slice();
        volume.write(FILE, index * 2, 1, &mut byte, flags).unwrap();
    }
    volume.store().close().unwrap();
    let sim = made.killed();
    let volume = open(&sim);
    let whole = vec![2u8; 20_000];
    volume
        .write(FILE, 0, whole.len(), &mut whole.as_slice(), flags)
        .unwrap();
    volume.fsync(FILE, false).unwrap();
    let synced = sim.events();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Makes what is there durable all the time, so that there is much to lose.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                volume
                    .store
                    .journal
                    .sync(volume.store.journal.end_lsn())
                    .unwrap();
            }
        });
        volume.write_out(FILE).unwrap();
        volume.store().checkpoint().unwrap();
        done.store(true, Ordering::Relaxed);
    });
    let mut recording = sim.recording();
    let events = recording.len();
    assert!(events > synced + 10, "nothing was made durable in between");
    let step = ((events - synced) / 150).max(1);
    for point in (synced..=events).step_by(step) {
        let crashed = recording.crash_at(point, Survival::Random(point as u64));
        let volume = open(&crashed);
        assert!(content(&volume, FILE) == whole, "point {point}");
        check_space(&volume, &format!("point {point}"));
    }
}

/// What only the log holds is carried over by a checkpoint: power lost at any event of it.
#[test]
fn a_power_cut_in_a_checkpoint_keeps_what_the_log_holds() {
    let made = make();
    let sim = made.killed();
    let volume = open(&sim);
    let flags = WriteFlags::default();
    let whole = vec![2u8; 20_000];
    let mut synced = 0;
    for round in 0..6u64 {
        let mut bytes = whole.as_slice();
        volume
            .write(FILE, 0, whole.len(), &mut bytes, flags)
            .unwrap();
        let ino = if round % 2 == 0 { FILE } else { OTHER };
        volume.fsync(FILE, false).unwrap();
        if round == 0 {
            synced = sim.events();
        }
        volume
            .write(ino, 50_000 + round, 1, &mut [1u8].as_slice(), flags)
            .unwrap();
        volume.store().checkpoint().unwrap();
    }
    let mut recording = sim.recording();
    for point in synced..=recording.len() {
        for survival in 0..4 {
            let crashed = recording.crash_at(point, Survival::Random(survival));
            let volume = open(&crashed);
            assert!(content(&volume, FILE)[..20_000] == whole, "point {point}");
            let again = open(&crashed.killed());
            assert!(content(&again, FILE)[..20_000] == whole, "point {point}");
        }
    }
}

/// Several fsyncs that are begun need one wait between them.
#[test]
fn what_is_begun_is_durable_with_the_next_that_is_waited_for() {
    let sim = make();
    let volume = open(&sim);
    let files: Vec<Ino> = (0..4)
        .map(|number| create(&volume, &format!("begun{number}")))
        .collect();
    for file in &files {
        write(&volume, *file, 0, b"begun");
        assert!(matches!(
            volume.begin_fsync(*file),
            Err(EngineError::Begun(_))
        ));
    }
    let before = sim.events();
    // The directory's entries are in the same log.
    assert!(matches!(
        volume.begin_fsync(Ino::ROOT),
        Err(EngineError::Begun(_))
    ));
    volume.fsync(files[3], false).unwrap();
    let waited = sim.events();
    for file in files.iter().chain([&Ino::ROOT]) {
        assert_eq!(volume.begin_fsync(*file).ok(), Some(()));
    }
    assert_eq!(sim.events(), waited, "nothing is left to write");
    let mut recording = sim.recording();
    for (event, there) in [(before, false), (waited, true)] {
        let volume = open(&recording.crash_at(event, Survival::None));
        for number in 0..files.len() {
            let found = volume.lookup(Ino::ROOT, format!("begun{number}").as_bytes());
            let found = found.map(|attr| content(&volume, attr.ino));
            assert_eq!(found.is_ok_and(|found| found == b"begun"), there);
        }
    }
}

/// Who waits for what a failed write took is told so, then and later, and not that the volume is read-only
/// since: `EIO`, not `EROFS`.
#[test]
fn all_who_wait_for_what_is_lost_hear_of_the_disk() {
    use std::io::ErrorKind;

    for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
        let sim = make();
        let volume = open(&sim);
        let files = ["a", "b"].map(|name| create(&volume, name));
        let points = files.map(|file| {
            write(&volume, file, 0, b"lost");
            match volume.begin_fsync(file) {
                Err(EngineError::Begun(point)) => point,
                other => panic!("{other:?}"),
            }
        });
        sim.set_fault(Some(Fault {
            call: Call::Write,
            after: 0,
            sticky: true,
            kind,
        }));
        if kind == ErrorKind::StorageFull {
            // What fails first need not be the log.
            write(&volume, FILE, 0, &vec![1; 1 << 20]);
            volume.write_out(FILE).unwrap_err();
        }
        for (file, point) in files.iter().zip(points).cycle().take(4) {
            for result in [volume.finish_fsync(point), volume.fsync(*file, false)] {
                let told = matches!(result, Err(EngineError::Store(StoreError::Io { .. })));
                assert!(told, "{kind}: {result:?}");
            }
        }
        let refused = try_write(&volume, files[0], 0, b"more");
        let told = matches!(refused, Err(EngineError::Store(StoreError::ReadOnly(_))));
        assert!(told, "{kind}: {refused:?}");
    }
}

#[test]
fn what_takes_more_than_the_log_is_not_begun() {
    let sim = make();
    let volume = open(&sim);
    let small = create(&volume, "small");
    write(&volume, small, 0, b"few");
    let before = sim.events();
    let waits = |ino| matches!(volume.begin_fsync(ino), Err(EngineError::WouldWait));
    let state = volume.live_state(small).unwrap();
    let io = state.io.lock();
    assert!(waits(small), "somebody is just writing it out");
    drop(io);
    let reading = state.data.read();
    assert!(waits(small), "somebody is just reading it");
    drop(reading);
    let begun = volume.begin_fsync(small);
    assert!(matches!(begun, Err(EngineError::Begun(_))), "{begun:?}");
    write(&volume, FILE, 0, &vec![7; 1 << 20]);
    assert!(waits(FILE));
    assert_eq!(sim.events(), before, "nothing was written");
    for file in [FILE, small] {
        volume.fsync(file, false).unwrap();
        assert_eq!(volume.begin_fsync(file).ok(), Some(()));
    }
}

/// `chattr +S`: what a write returned for is durable.
#[test]
fn a_write_to_a_file_marked_synchronous_is_durable() {
    for marked in [true, false] {
        let sim = make();
        let volume = open(&sim);
        let mut tx = volume.store.journal.begin().unwrap();
        let mut record = volume.load_inode(&tx, FILE).unwrap();
        record.flags = if marked { FLAG_SYNC } else { 0 };
        volume.store_inode(&mut tx, FILE, &record).unwrap();
        let lsn = tx.commit().unwrap();
        volume.store.journal.sync(lsn).unwrap();
        let flags = WriteFlags::default();
        volume
            .write(FILE, 0, 4, &mut b"sync".as_slice(), flags)
            .unwrap();
        let mut recording = sim.recording();
        let end = recording.len();
        let crashed = recording.crash_at(end, Survival::None);
        let found = content(&open(&crashed), FILE);
        assert_eq!(found == b"sync", marked);
    }
}

/// A truncation that power cuts off in the middle: what stays below the file's new end is what was
/// there, as fsynced.
#[test]
fn a_truncation_cut_off_keeps_what_it_has_not_reached() {
    use std::sync::atomic::{AtomicBool, Ordering};

    let made = make();
    let volume = open(&made);
    for index in 0..10_000 {
        write(&volume, FILE, index * 2, &[1]);
    }
    volume.store().close().unwrap();
    let sim = made.killed();
    let volume = open(&sim);
    write(&volume, FILE, 0, &[2; 20_000]);
    volume.fsync(FILE, false).unwrap();
    let synced = sim.events();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                volume
                    .store
                    .journal
                    .sync(volume.store.journal.end_lsn())
                    .unwrap();
            }
        });
        volume.resize(FILE, 10, &mut |_, _| Ok(())).unwrap();
        done.store(true, Ordering::Relaxed);
    });
    volume
        .store
        .journal
        .sync(volume.store.journal.end_lsn())
        .unwrap();
    let mut recording = sim.recording();
    let events = recording.len();
    let step = ((events - synced) / 100).max(1);
    for point in (synced..=events).step_by(step) {
        let crashed = recording.crash_at(point, Survival::Random(point as u64));
        let volume = open(&crashed);
        let found = content(&volume, FILE);
        let wrong = found.iter().filter(|byte| **byte != 2).count();
        assert_eq!(wrong, 0, "point {point}: size {}", found.len());
    }
}

/// A recovery that is cut off again and again before its checkpoint counts must not fill the log,
/// however full that was.
#[test]
fn recovery_cut_off_many_times_still_succeeds() {
    use crate::format::key::TreeId;
    use crate::log::journal::Pressure;

    let sim = make();
    let volume = open(&sim);
    for index in 0..8 {
        write(&volume, FILE, index * (56 << 10), &[3; 56 << 10]);
        volume.fsync(FILE, false).unwrap();
    }
    while volume.store.journal.pressure() < Pressure::Urgent {
        let mut tx = volume.store.journal.begin().unwrap();
        let key = crate::format::key::inode(FILE);
        let record = tx.get(volume.tree(), &key).unwrap().unwrap();
        tx.put(TreeId::Fs(volume.dataset.id), key, record).unwrap();
        tx.commit().unwrap();
    }
    volume
        .store
        .journal
        .sync(volume.store.journal.end_lsn())
        .unwrap();
    let mut sim = sim.killed();
    let mut batches = None;
    for attempt in 0..12 {
        sim.set_fault(Some(Fault {
            call: Call::Flush,
            after: attempt % 2,
            sticky: true,
            kind: std::io::ErrorKind::Other,
        }));
        assert!(try_open(&sim).is_err(), "attempt {attempt}");
        sim = sim.killed();
        let volume = open(&sim.killed());
        assert_eq!(content(&volume, FILE), vec![3; 8 * (56 << 10)]);
        let found = volume.store().recovery_report().batches;
        assert_eq!(*batches.get_or_insert(found), found, "attempt {attempt}");
    }
}
