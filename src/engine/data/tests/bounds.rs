//! Bounds: what fits a transaction, the log, and a checkpoint.

use super::*;
use crate::disk::sim::{Call, Fault};

/// Many small runs and a small log: the checkpoint that frees the log must always find room in it
/// for what the log holds.
#[test]
fn small_runs_never_fill_the_log_for_good() {
    let sim = make();
    let volume = open(&sim);
    for round in 0..2 {
        for index in 0..8_000u64 {
            let flags = WriteFlags {
                sync: index % 16 == 0,
                ..WriteFlags::default()
            };
            let ino = if index % 2 == 0 { FILE } else { OTHER };
            volume
                .write(ino, index * 8192 + round, 1, &mut [1].as_slice(), flags)
                .unwrap();
        }
        volume.store().commit_tick().unwrap();
        volume.store().checkpoint().unwrap();
    }
    // And what shrinks in many transactions, and space given back, do not need more either.
    volume.resize(FILE, 1, &mut |_, _| Ok(())).unwrap();
    delete(&volume, OTHER);
    volume.store().checkpoint().unwrap();
    volume.store().checkpoint().unwrap();
    check_space(&volume, "after many small runs");
    assert_eq!(
        crate::engine::data::space::units_used(&volume.store.journal.view()).unwrap(),
        1
    );
}

/// To carry over 12,000 runs a checkpoint would need more log than is kept for it.
#[test]
fn a_timer_does_not_log_more_than_a_checkpoint_can_carry_over() {
    let sim = make();
    let volume = open(&sim);
    for index in 0..12_000u64 {
        let flags = WriteFlags::default();
        volume
            .write(FILE, index * 8192, 1, &mut [1].as_slice(), flags)
            .unwrap();
    }
    volume.store().commit_tick().unwrap();
    volume.store().checkpoint().unwrap();
    volume.resize(FILE, 0, &mut |_, _| Ok(())).unwrap();
    volume.store().checkpoint().unwrap();
}

#[test]
fn copying_over_many_extents_takes_bounded_transactions() {
    let sim = make();
    let volume = open(&sim);
    let extents = 60_000u64;
    for index in 0..extents {
        volume
            .write(
                OTHER,
                index * 2,
                1,
                &mut [1u8].as_slice(),
                WriteFlags::default(),
            )
            .unwrap();
    }
    volume.write_out(OTHER).unwrap();
    volume.store().checkpoint().unwrap();
    let len = extents * 2;
    volume
        .write(FILE, len, 1, &mut [2u8].as_slice(), WriteFlags::default())
        .unwrap();
    // Nearly all hole, and its data behind what the first step copies.
    volume
        .write(
            FILE,
            100_000,
            1,
            &mut [0u8].as_slice(),
            WriteFlags::default(),
        )
        .unwrap();
    let mut done = 0;
    while done < len {
        let copied = volume
            .copy_range(FILE, done, OTHER, done, len - done)
            .unwrap();
        assert!(copied > 0);
        done += copied;
    }
    assert!(done / len == 1 && content(&volume, OTHER).iter().all(|byte| *byte == 0));
    check_space(&volume, "after copying a hole");
}

/// Writes `count` single bytes at every other offset, and makes an extent of each.
fn fragment(volume: &Volume, ino: Ino, count: u64) {
    let flags = WriteFlags::default();
    for index in 0..count {
        let mut byte = [1u8].as_slice();
        volume.write(ino, index * 2, 1, &mut byte, flags).unwrap();
    }
    volume.write_out(ino).unwrap();
    volume.store().checkpoint().unwrap();
}

/// One run over more extents than a transaction takes, or the log has room for: written out by an
/// fsync, and by a checkpoint and an opening when it stands in the log.
#[test]
fn overwriting_very_many_extents_takes_bounded_transactions() {
    const COUNT: usize = 64_000;
    let sim = make();
    let volume = open(&sim);
    fragment(&volume, FILE, COUNT as u64);
    let flags = WriteFlags::default();
    let whole = vec![2u8; 2 * COUNT];
    volume
        .write(FILE, 0, whole.len(), &mut whole.as_slice(), flags)
        .unwrap();
    volume.fsync(FILE, false).unwrap();
    volume.store().checkpoint().unwrap();
    assert!(content(&volume, FILE) == whole);
    check_space(&volume, "after an fsync over many extents");

    fragment(&volume, OTHER, COUNT as u64);
    let logged = vec![3u8; 60_000];
    volume
        .write(OTHER, 0, logged.len(), &mut logged.as_slice(), flags)
        .unwrap();
    volume.fsync(OTHER, false).unwrap();
    for _ in 0..3 {
        volume.store().checkpoint().unwrap();
    }
    let volume = open(&sim.killed());
    assert!(content(&volume, OTHER)[..logged.len()] == logged);
    assert_eq!(content(&volume, OTHER).len(), 2 * COUNT - 1);
    volume.store().close().unwrap();
    let volume = open(&sim.killed());
    assert!(content(&volume, FILE) == whole);
}

/// A checkpoint that finds a full log share frees it without writing anything out, however much it
/// would take to do so.
#[test]
fn a_checkpoint_needs_no_more_log_than_is_kept_for_it() {
    let sim = make();
    let volume = open(&sim);
    fragment(&volume, FILE, 100_000);
    let flags = WriteFlags::default();
    // What the log takes of it lies over some 60,000 extents.
    for window in 0..3u64 {
        let bytes = vec![7u8; 40_000];
        let offset = window * (64 << 10);
        volume
            .write(FILE, offset, bytes.len(), &mut bytes.as_slice(), flags)
            .unwrap();
        volume.fsync(FILE, false).unwrap();
    }
    // Fill the rest of what transactions may use.
    while volume.store.journal.pressure() != crate::log::journal::Pressure::Urgent {
        let mut tx = volume.store.journal.begin().unwrap();
        let record = volume.load_inode(&tx, OTHER).unwrap();
        volume.store_inode(&mut tx, OTHER, &record).unwrap();
        tx.data(volume.dataset.id, Ino(99), 0, &[0; 60_000]);
        tx.data_clear(volume.dataset.id, Ino(99), 0, 60_000);
        tx.commit().unwrap();
    }
    volume.store().checkpoint().unwrap();
    assert_eq!(
        volume.store.journal.pressure(),
        crate::log::journal::Pressure::None
    );
    assert!(
        volume
            .dataset
            .inodes
            .find(FILE)
            .unwrap()
            .data
            .read()
            .has_logged()
    );
    let volume = open(&sim.killed());
    for window in 0..3usize {
        let at = window * (64 << 10);
        assert!(content(&volume, FILE)[at..at + 40_000] == [7u8; 40_000]);
    }
}

/// Holes cut what the log holds into many ranges, each of which a checkpoint carries over by
/// itself.
#[test]
fn holes_in_logged_bytes_do_not_outgrow_the_log() {
    let sim = make();
    let volume = open(&sim);
    let flags = WriteFlags::default();
    for window in 0..8u64 {
        let bytes = vec![7u8; 40_000];
        let offset = window * (64 << 10);
        volume
            .write(FILE, offset, bytes.len(), &mut bytes.as_slice(), flags)
            .unwrap();
        volume.fsync(FILE, false).unwrap();
        for hole in 0..20_000 {
            volume
                .fallocate(FILE, offset + hole * 2, 1, Fallocate::PunchHole)
                .unwrap();
        }
    }
    let held = volume
        .store
        .data
        .log_bytes
        .load(std::sync::atomic::Ordering::Relaxed);
    assert!(held <= volume.store.journal.data_log_bytes());
    volume.store().checkpoint().unwrap();
    check_space(&volume, "after many holes");
}

/// Bytes that cannot be written out, because the tree has lost their inode, keep neither
/// checkpoints nor other files from going on.
#[test]
fn a_file_that_cannot_be_written_out_stops_no_other() {
    let sim = make();
    let volume = open(&sim);
    let flags = WriteFlags::default();
    for ino in [FILE, OTHER] {
        let bytes = vec![5u8; 10_000];
        volume
            .write(ino, 0, bytes.len(), &mut bytes.as_slice(), flags)
            .unwrap();
        volume.fsync(ino, false).unwrap();
    }
    let mut tx = volume.store.journal.begin().unwrap();
    let key = crate::format::key::inode(FILE);
    assert!(tx.delete(volume.tree(), key).unwrap());
    tx.commit().unwrap();
    volume.store().checkpoint().unwrap();
    assert!(volume.store().commit_tick().is_err());
    volume.store().checkpoint().unwrap();
    assert_eq!(volume.unwritten_bytes(OTHER), 0);
    assert_eq!(volume.unwritten_bytes(FILE), 10_000);
    assert!(volume.store().close().is_err());
    let volume = open(&sim.killed());
    assert!(!volume.store().recovery_report().was_clean());
    assert_eq!(content(&volume, OTHER), [5u8; 10_000]);
}

/// A page that cannot be read keeps a file's bytes from being written out: a guest that goes on
/// writing must not take more and more memory.
#[test]
fn a_file_that_cannot_be_written_out_does_not_take_all_memory() {
    let made = make();
    let volume = open(&made);
    for index in 0..20_000 {
        write(&volume, FILE, index * 2, &[1]);
    }
    volume.store().close().unwrap();
    let sim = made.killed();
    let limit = 1 << 20;
    let options = OpenOptions {
        background: false,
        dirty_limit_bytes: limit,
        ..OpenOptions::default()
    };
    let volume = Volume::open_media(sim.media(), options, clock()).unwrap();
    // What is read here stays in the cache.
    volume.getattr(FILE).unwrap();
    write(&volume, OTHER, 0, &[1]);
    volume.write_out(OTHER).unwrap();
    volume.store().checkpoint().unwrap();
    sim.set_fault(Some(Fault {
        call: Call::Read,
        after: 0,
        sticky: true,
        kind: std::io::ErrorKind::Other,
    }));
    let before = sim.disk_len(3);
    let bytes = vec![7; 128 << 10];
    let accepted = (0..400)
        .filter(|index| try_write(&volume, FILE, index * (256 << 10), &bytes).is_ok())
        .count();
    assert!(accepted <= 9, "{accepted}");
    assert!(volume.store().dirty_bytes() <= 2 * limit);
    assert!(sim.disk_len(3) <= before + (32 << 20));
    // Others go on, though memory is full of what cannot go.
    sim.set_fault(None);
    let mut tx = volume.store.journal.begin().unwrap();
    let key = crate::format::key::inode(FILE);
    assert!(tx.delete(volume.tree(), key).unwrap());
    tx.commit().unwrap();
    for index in 0..100 {
        write(&volume, OTHER, index * (128 << 10), &bytes);
    }
    assert!(volume.store().dirty_bytes() <= 3 * limit);
}
