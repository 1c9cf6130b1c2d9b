//! File content against a plain vector of bytes, over reopening and power cuts.

use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::disk::sim::{SimMedia, Survival};
use crate::engine::{
    Clock, EngineError, Fallocate, MkfsOptions, OpenOptions, Seek, Time, Volume, WriteFlags, mkfs,
};
use crate::format::id::Ino;
use crate::format::record::InodeRecord;
use crate::store::Read;

const FILE: Ino = Ino(2);
const OTHER: Ino = Ino(3);

fn clock() -> Clock {
    Arc::new(|| Time { sec: 1, nsec: 2 })
}

fn make() -> SimMedia {
    let sim = SimMedia::new();
    let options = MkfsOptions {
        uuid: [1; 16],
        hash_seed: [2; 16],
        capacity_bytes: 0,
        log_bytes: 4 << 20,
        root_uid: 0,
        root_gid: 0,
        root_mode: 0o755,
    };
    mkfs(sim.media(), &options, &clock()).unwrap();
    let volume = open(&sim);
    for ino in [FILE, OTHER] {
        let mut tx = volume.journal.begin().unwrap();
        let zero = Time::default();
        let record = InodeRecord {
            mode: libc::S_IFREG | 0o644,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            projid: 0,
            xattrs: 0,
            size: 0,
            allocated: 0,
            entries: 0,
            parent: Ino(0),
            atime: zero,
            mtime: zero,
            ctime: zero,
            btime: zero,
        };
        volume.store_inode(&mut tx, ino, &record).unwrap();
        tx.commit().unwrap();
    }
    volume.close().unwrap();
    sim
}

fn open(sim: &SimMedia) -> Arc<Volume> {
    let options = OpenOptions {
        background: false,
        ..OpenOptions::default()
    };
    Volume::open_media(sim.media(), options, clock()).unwrap()
}

/// Frees the content of a file whose last name goes.
fn delete(volume: &Volume, ino: Ino) {
    let mut tx = volume.journal.begin().unwrap();
    let mut record = volume.load_inode(&tx, ino).unwrap();
    record.nlink = 0;
    volume.store_inode(&mut tx, ino, &record).unwrap();
    tx.commit().unwrap();
    volume.free_content(ino).unwrap();
}

fn content(volume: &Volume, ino: Ino) -> Vec<u8> {
    let mut bytes = Vec::new();
    let count = volume.read(ino, 0, 1 << 30, &mut bytes).unwrap();
    assert_eq!(count, bytes.len());
    bytes
}

fn put(model: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if model.len() < end {
        model.resize(end, 0);
    }
    model[offset..end].copy_from_slice(bytes);
}

fn at(value: usize) -> u64 {
    value as u64
}

/// One random operation on both.
fn step(volume: &Volume, model: &mut Vec<u8>, rng: &mut ChaCha8Rng) {
    const SPAN: usize = 600_000;
    let offset = rng.random_range(0..SPAN);
    let len = match rng.random_range(0..4) {
        0 => rng.random_range(1..200),
        1 => 4096,
        2 => rng.random_range(1..20_000),
        _ => rng.random_range(1..300_000),
    };
    match rng.random_range(0..16) {
        0..6 => {
            let bytes: Vec<u8> = (0..len).map(|_| rng.random()).collect();
            let append = rng.random_bool(0.2);
            let flags = WriteFlags {
                append,
                ..WriteFlags::default()
            };
            volume
                .write(FILE, at(offset), len, &mut bytes.as_slice(), flags)
                .unwrap();
            put(model, if append { model.len() } else { offset }, &bytes);
        }
        6 => {
            let size = rng.random_range(0..SPAN);
            volume.resize(FILE, at(size), &mut |_, _| Ok(())).unwrap();
            model.resize(size, 0);
        }
        7 => {
            volume
                .fallocate(FILE, at(offset), at(len), Fallocate::PunchHole)
                .unwrap();
            let end = (offset + len).min(model.len());
            if offset < end {
                model[offset..end].fill(0);
            }
        }
        8 => {
            let keep_size = rng.random();
            volume
                .fallocate(
                    FILE,
                    at(offset),
                    at(len),
                    Fallocate::ZeroRange { keep_size },
                )
                .unwrap();
            if !keep_size && model.len() < offset + len {
                model.resize(offset + len, 0);
            }
            let end = (offset + len).min(model.len());
            if offset < end {
                model[offset..end].fill(0);
            }
        }
        9 => {
            let keep_size = rng.random();
            volume
                .fallocate(FILE, at(offset), at(len), Fallocate::Allocate { keep_size })
                .unwrap();
            if !keep_size && model.len() < offset + len {
                model.resize(offset + len, 0);
            }
        }
        10 => {
            let target = rng.random_range(0..SPAN);
            if target + len <= offset || offset + len <= target {
                let copied = volume
                    .copy_range(FILE, at(offset), FILE, at(target), at(len))
                    .unwrap();
                let copied = usize::try_from(copied).unwrap();
                let bytes = model
                    .get(offset..offset + copied)
                    .unwrap_or_default()
                    .to_vec();
                put(
                    model,
                    target.min(if copied == 0 { 0 } else { target }),
                    &bytes,
                );
            }
        }
        11 => volume.fsync(FILE, false).unwrap(),
        12 => volume.commit_tick().unwrap(),
        13 => volume.checkpoint().unwrap(),
        _ => volume.write_out(FILE).unwrap(),
    }
}

#[test]
fn agrees_with_a_vector_over_reopening() {
    for seed in 0..30 {
        let sim = make();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut volume = open(&sim);
        let mut model = Vec::new();
        for index in 0..60 {
            step(&volume, &mut model, &mut rng);
            let found = content(&volume, FILE);
            assert_eq!(found.len(), model.len(), "seed {seed} step {index}");
            let differs = found.iter().zip(&model).position(|(a, b)| a != b);
            assert_eq!(differs, None, "seed {seed} step {index}");
            if rng.random_bool(0.08) {
                volume.close().unwrap();
                volume = open(&sim);
            }
        }
        check_seek(&volume, &model);
    }
}

fn check_seek(volume: &Volume, model: &[u8]) {
    let mut position = 0;
    while position < at(model.len()) {
        let data = match volume.seek(FILE, position, Seek::Data) {
            Ok(data) => data,
            Err(EngineError::NoSuchOffset) => at(model.len()),
            Err(error) => panic!("{error}"),
        };
        let hole = &model[usize::try_from(position).unwrap()..usize::try_from(data).unwrap()];
        assert!(hole.iter().all(|byte| *byte == 0), "data in a hole");
        if data == at(model.len()) {
            break;
        }
        position = volume.seek(FILE, data, Seek::Hole).unwrap();
        assert!(position > data);
    }
}

/// Power lost at many moments: what was fsynced is there, and every byte is one that was written
/// there since (or before) the last fsync, or zero.
#[test]
fn a_power_cut_keeps_what_was_fsynced() {
    for seed in 0..12 {
        let made = make();
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
            if rng.random_bool(0.4) {
                volume.fsync(FILE, false).unwrap();
                synced.push((sim.events(), model.clone()));
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
                let allowed = *byte == 0
                    || base.get(index) == Some(byte)
                    || later
                        .iter()
                        .any(|(_, state)| state.get(index) == Some(byte));
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

/// Chunks and free ranges make up everything, with nothing pending but what a checkpoint holds.
fn check_space(volume: &Volume, context: &str) {
    use std::ops::ControlFlow;

    use crate::format::key::{TreeId, trailing_u64};
    use crate::format::record::{ChunkRecord, PendingFree};
    use crate::format::superblock::UNITS_END;

    volume.checkpoint().unwrap();
    let view = volume.journal.view();
    let mut ranges = Vec::new();
    let end = [0xff; 9];
    view.scan(TreeId::FreeByStart, &[], &end, &mut |key, value| {
        let len = u64::from_le_bytes(value.try_into().unwrap());
        ranges.push((trailing_u64(key).unwrap(), len));
        ControlFlow::Continue(())
    })
    .unwrap();
    view.scan(TreeId::FreePending, &[], &end, &mut |key, value| {
        ranges.push((
            trailing_u64(key).unwrap(),
            PendingFree::decode(value).unwrap().len_units,
        ));
        ControlFlow::Continue(())
    })
    .unwrap();
    view.scan(TreeId::Chunks, &[], &end, &mut |_, value| {
        let chunk = ChunkRecord::decode(value).unwrap();
        ranges.push((chunk.start_unit, u64::from(chunk.stored_len.div_ceil(4096))));
        ControlFlow::Continue(())
    })
    .unwrap();
    ranges.sort_unstable();
    let mut next = 0;
    for (start, len) in ranges {
        assert_eq!(start, next, "{context}: units leak or overlap");
        next = start + len;
    }
    assert_eq!(next, UNITS_END, "{context}");
}

#[test]
fn deleting_content_gives_all_space_back() {
    let sim = make();
    let volume = open(&sim);
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut model = Vec::new();
    for _ in 0..80 {
        step(&volume, &mut model, &mut rng);
    }
    volume
        .copy_range(FILE, 0, OTHER, 100, at(model.len()))
        .unwrap();
    assert_eq!(content(&volume, OTHER)[100..], content(&volume, FILE));
    delete(&volume, FILE);
    delete(&volume, OTHER);
    volume.checkpoint().unwrap();
    check_space(&volume, "after deleting");
    assert_eq!(super::space::units_used(&volume.journal.view()).unwrap(), 0);
    assert_eq!(
        volume
            .load_counters(&volume.journal.view())
            .unwrap()
            .allocated_bytes,
        0
    );
}

#[test]
fn a_sparse_tebibyte_takes_a_few_blocks() {
    let sim = make();
    let volume = open(&sim);
    for offset in [0, (1 << 40) - 5] {
        let flags = WriteFlags::default();
        volume
            .write(FILE, offset, 5, &mut b"hello".as_slice(), flags)
            .unwrap();
    }
    volume.close().unwrap();
    let volume = open(&sim);
    let mut bytes = Vec::new();
    assert_eq!(
        volume.read(FILE, (1 << 40) - 7, 100, &mut bytes).unwrap(),
        7
    );
    assert_eq!(bytes, b"\0\0hello");
    assert_eq!(volume.seek(FILE, 5, Seek::Data).unwrap(), (1 << 40) - 5);
    assert_eq!(super::space::units_used(&volume.journal.view()).unwrap(), 2);
    let beyond = volume.write(
        FILE,
        u64::MAX,
        1,
        &mut b"x".as_slice(),
        WriteFlags::default(),
    );
    assert!(matches!(beyond, Err(EngineError::FileTooLarge)));
}

#[test]
fn a_full_disk_refuses_the_write_and_keeps_what_was_acknowledged() {
    let sim = make();
    let volume = open(&sim);
    sim.set_capacity(Some(sim.allocated() + (4 << 20)));
    let bytes = vec![7; 64 << 10];
    let mut written = 0;
    let error = loop {
        let flags = WriteFlags::default();
        match volume.write(FILE, written, bytes.len(), &mut bytes.as_slice(), flags) {
            Ok(len) => written += at(len),
            Err(error) => break error,
        }
        assert!(written < 1 << 30);
    };
    assert!(
        matches!(
            error,
            EngineError::Store(crate::store::StoreError::NoSpace(_))
        ),
        "{error}"
    );
    assert!(written > 0);
    volume.fsync(FILE, false).unwrap();
    assert_eq!(at(content(&volume, FILE).len()), written);
    volume.resize(FILE, 0, &mut |_, _| Ok(())).unwrap();
    volume.checkpoint().unwrap();
    volume
        .write(
            FILE,
            0,
            bytes.len(),
            &mut bytes.as_slice(),
            WriteFlags::default(),
        )
        .unwrap();
}

#[test]
fn a_flipped_bit_in_a_chunk_is_an_error_and_never_data() {
    let sim = make();
    let volume = open(&sim);
    let bytes = vec![7; 20_000];
    volume
        .write(
            FILE,
            0,
            bytes.len(),
            &mut bytes.as_slice(),
            WriteFlags::default(),
        )
        .unwrap();
    volume.close().unwrap();
    let volume = open(&sim);
    assert_eq!(content(&volume, FILE), bytes);
    sim.corrupt(3, 5000, &[6]);
    // What was read and checked before is still good.
    assert_eq!(content(&volume, FILE), bytes);
    volume.close().unwrap();
    let volume = open(&sim);
    let mut sink = Vec::new();
    assert!(volume.read(FILE, 4096, 4096, &mut sink).is_err());
    // Blocks beside the damaged one are still good.
    sink.clear();
    assert_eq!(volume.read(FILE, 8192, 4096, &mut sink).unwrap(), 4096);
}

/// A chunk's number that comes back after a reopening must not bring old content back.
#[test]
fn a_chunk_is_never_taken_for_one_that_is_gone() {
    let sim = make();
    let flags = WriteFlags::default();
    let volume = open(&sim);
    volume
        .write(FILE, 0, 9, &mut b"old bytes".as_slice(), flags)
        .unwrap();
    volume.close().unwrap();
    let volume = open(&sim);
    assert_eq!(content(&volume, FILE), b"old bytes");
    volume.resize(FILE, 0, &mut |_, _| Ok(())).unwrap();
    volume
        .write(FILE, 0, 9, &mut b"new bytes".as_slice(), flags)
        .unwrap();
    volume.write_out(FILE).unwrap();
    assert_eq!(content(&volume, FILE), b"new bytes");
}

/// Many small runs and a small log: the checkpoint that frees the log must always find room in it
/// for writing out what the log holds.
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
        volume.commit_tick().unwrap();
        volume.checkpoint().unwrap();
    }
    // And what shrinks in many transactions, and space given back, do not need more either.
    volume.resize(FILE, 1, &mut |_, _| Ok(())).unwrap();
    delete(&volume, OTHER);
    volume.checkpoint().unwrap();
    volume.checkpoint().unwrap();
    check_space(&volume, "after many small runs");
    assert_eq!(super::space::units_used(&volume.journal.view()).unwrap(), 1);
}

/// A checkpoint that puts 12,000 runs of the log into chunks would need more log than there is.
#[test]
fn a_timer_does_not_log_more_than_a_checkpoint_can_write_out() {
    let sim = make();
    let volume = open(&sim);
    for index in 0..12_000u64 {
        let flags = WriteFlags::default();
        volume
            .write(FILE, index * 8192, 1, &mut [1].as_slice(), flags)
            .unwrap();
    }
    volume.commit_tick().unwrap();
    volume.checkpoint().unwrap();
    volume.resize(FILE, 0, &mut |_, _| Ok(())).unwrap();
    volume.checkpoint().unwrap();
}

/// What fallocate promised is kept when the disk is full.
#[test]
fn reserved_space_can_be_written_on_a_full_disk() {
    let sim = make();
    let volume = open(&sim);
    let flags = WriteFlags::default();
    let len: u64 = 8 << 20;
    let how = Fallocate::Allocate { keep_size: false };
    volume.fallocate(FILE, 0, len, how).unwrap();
    sim.set_capacity(Some(sim.allocated() + (3 << 20)));
    let bytes = vec![7; 64 << 10];
    let mut filled = 0;
    while let Ok(count) = volume.write(OTHER, filled, bytes.len(), &mut bytes.as_slice(), flags) {
        filled += at(count);
        assert!(filled < 1 << 30);
    }
    for offset in (0..len).step_by(bytes.len()) {
        volume
            .write(FILE, offset, bytes.len(), &mut bytes.as_slice(), flags)
            .unwrap();
    }
    volume.fsync(FILE, false).unwrap();
    assert!(content(&volume, FILE) == vec![7; 8 << 20]);
    volume.resize(OTHER, 0, &mut |_, _| Ok(())).unwrap();
    // The space is there for the next write, with no wait for a checkpoint.
    volume
        .write(OTHER, 0, bytes.len(), &mut bytes.as_slice(), flags)
        .unwrap();
    check_space(&volume, "after a full disk");
}

/// When free space is in single units, what was acknowledged is cut to fit.
#[test]
fn a_fragmented_full_disk_takes_what_was_acknowledged() {
    let sim = make();
    let volume = open(&sim);
    let flags = WriteFlags::default();
    let block = [3; 4096];
    let count = 4096;
    // Every block a chunk of its own, so that the space of every second can be given back.
    for index in 0..count {
        volume
            .write(FILE, index * 4096, 4096, &mut block.as_slice(), flags)
            .unwrap();
        volume
            .write(OTHER, index * 4096, 4096, &mut block.as_slice(), flags)
            .unwrap();
        volume.write_out(FILE).unwrap();
        volume.write_out(OTHER).unwrap();
    }
    volume.checkpoint().unwrap();
    sim.set_capacity(Some(sim.allocated()));
    let room = volume.journal.chunks().len_bytes() / 4096 - 2 * count;
    volume.resize(OTHER, 0, &mut |_, _| Ok(())).unwrap();
    let mut written = 0;
    let bytes = vec![5; 128 << 10];
    loop {
        match volume.write(OTHER, written, bytes.len(), &mut bytes.as_slice(), flags) {
            Ok(len) => written += at(len),
            Err(EngineError::Store(crate::store::StoreError::NoSpace(_))) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(written / 4096 > room, "space between chunks was not used");
    volume.fsync(OTHER, false).unwrap();
    volume.close().unwrap();
    let volume = open(&sim);
    assert!(content(&volume, OTHER) == vec![5; usize::try_from(written).unwrap()]);
    assert!(content(&volume, FILE) == vec![3; 4096 * usize::try_from(count).unwrap()]);
    check_space(&volume, "after filling the gaps");
}

/// Files written, synced, cut and read by several threads at once, with the timer and checkpoints
/// going on: every block a reader sees is one whole write of that block, and not an older one than
/// the reader has seen before.
#[test]
fn threads_agree_about_shared_files() {
    use std::sync::atomic::{AtomicBool, Ordering};
    const BLOCK: usize = 4096;
    const BLOCKS: u64 = 64;
    let sim = make();
    let options = OpenOptions {
        commit_interval: std::time::Duration::from_millis(3),
        dirty_limit_bytes: 256 << 10,
        cache_bytes: 256 << 10,
        ..OpenOptions::default()
    };
    let volume = Volume::open_media(sim.media(), options, clock()).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (volume, stop) = (&volume, &stop);
        let mut writers = Vec::new();
        for writer in 0..2u64 {
            // Each writer owns every second block of both files; values grow.
            writers.push(scope.spawn(move || {
                let mut rng = ChaCha8Rng::seed_from_u64(writer);
                for value in 1..1500u64 {
                    let ino = if rng.random() { FILE } else { OTHER };
                    let block = rng.random_range(0..BLOCKS / 2) * 2 + writer;
                    let bytes = value.to_le_bytes().repeat(BLOCK / 8);
                    let flags = WriteFlags {
                        sync: rng.random_bool(0.1),
                        ..WriteFlags::default()
                    };
                    let offset = block * at(BLOCK);
                    volume
                        .write(ino, offset, BLOCK, &mut bytes.as_slice(), flags)
                        .unwrap();
                    match rng.random_range(0..40) {
                        0 => volume.fsync(ino, false).unwrap(),
                        1 => volume.checkpoint().unwrap(),
                        2 => volume.write_out(ino).unwrap(),
                        3 => {
                            let far = at(BLOCK) * BLOCKS * (2 + writer);
                            let (from, len) = (block * at(BLOCK), at(BLOCK));
                            volume.copy_range(ino, from, ino, far, len).unwrap();
                        }
                        4 => volume
                            .fallocate(
                                ino,
                                1 << 30,
                                1 << 16,
                                Fallocate::Allocate { keep_size: true },
                            )
                            .unwrap(),
                        _ => {}
                    }
                }
            }));
        }
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                // Cuts off only copies.
                volume
                    .resize(FILE, at(BLOCK) * BLOCKS, &mut |_, _| Ok(()))
                    .unwrap();
                std::thread::yield_now();
            }
        });
        for reader in 0..2u64 {
            scope.spawn(move || {
                let mut rng = ChaCha8Rng::seed_from_u64(100 + reader);
                let mut seen = std::collections::HashMap::new();
                while !stop.load(Ordering::Relaxed) {
                    let ino = if rng.random() { FILE } else { OTHER };
                    let block = rng.random_range(0..BLOCKS);
                    let mut bytes = Vec::new();
                    volume
                        .read(ino, block * at(BLOCK), BLOCK, &mut bytes)
                        .unwrap();
                    bytes.resize(BLOCK, 0);
                    let value = u64::from_le_bytes(*bytes.first_chunk().unwrap());
                    assert!(
                        bytes == value.to_le_bytes().repeat(BLOCK / 8),
                        "a torn block"
                    );
                    let last = seen.entry((ino, block)).or_insert(0);
                    assert!(value >= *last, "block {block}: {value} after {last}");
                    *last = value;
                }
            });
        }
        for writer in writers {
            writer.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    let contents = (content(&volume, FILE), content(&volume, OTHER));
    volume.close().unwrap();
    let volume = open(&sim);
    assert!(contents == (content(&volume, FILE), content(&volume, OTHER)));
    check_space(&volume, "after many threads");
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
    volume.checkpoint().unwrap();
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
