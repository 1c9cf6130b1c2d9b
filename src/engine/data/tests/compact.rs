//! Chunks that are moved forward: whoever reads, writes or deletes beside it, and whenever the power
//! is cut, content is what it was.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::trim::{CHUNKS, check, empty, interleaved, make, open_hooked, outlives, random, trim};
use super::*;
use crate::disk::sim::{Call, Fault};
use crate::engine::Compacted;

const WINDOW: u64 = 128 << 10;

fn compact(volume: &Volume) -> Compacted {
    volume.store().compact(&mut || true).unwrap()
}

#[test]
fn what_lies_at_the_end_moves_forward_and_the_file_gets_shorter() {
    for holes in [false, true] {
        let sim = make();
        let volume = open(&sim);
        let [first, _] = interleaved(&volume, 64);
        empty(&volume, OTHER);
        if holes {
            trim(&volume);
        }
        let done = compact(&volume);
        assert!((28..=32).contains(&done.moved_chunks), "{holes}: {done:?}");
        assert_eq!(done.moved_bytes, done.moved_chunks * WINDOW);
        assert_eq!(done.damaged, 0);
        let most = (64 + 9) * WINDOW;
        assert!(sim.disk_len(CHUNKS) <= most, "{holes}: {done:?}");
        assert!(content(&volume, FILE) == first);
        check_space(&volume, "after a compaction");
        assert_eq!(compact(&volume).moved_chunks, 0, "nothing is left");
        volume.store().close().unwrap();
        check(&sim, "closed");
        let volume = open(&sim);
        assert!(content(&volume, FILE) == first);
        empty(&volume, FILE);
        volume.store().checkpoint().unwrap();
        check_space(&volume, "after deleting what was moved");
    }
}

#[test]
fn compressed_chunks_move_too() {
    let sim = make_as(&MkfsOptions {
        compression: "lz4".parse().unwrap(),
        ..MkfsOptions::reproducible()
    });
    let volume = open(&sim);
    let [file, other] = ["file", "other"].map(|name| create(&volume, name));
    let model: Vec<u8> = (0..4u32 << 20).map(|at| (at / 100 % 251) as u8).collect();
    for (index, bytes) in model.chunks(128 << 10).enumerate() {
        for ino in [file, other] {
            write(&volume, ino, at(index) * WINDOW, bytes);
            volume.write_out(ino).unwrap();
        }
    }
    empty(&volume, other);
    assert!(compact(&volume).moved_chunks > 8);
    assert!(content(&volume, file) == model);
    volume.store().close().unwrap();
    check(&sim, "closed");
    assert!(content(&open(&sim), file) == model);
}

#[test]
fn who_has_looked_where_a_chunk_is_finds_it_after_it_was_moved() {
    for compression in ["off", "lz4"] {
        let sim = make_as(&MkfsOptions {
            compression: compression.parse().unwrap(),
            ..MkfsOptions::reproducible()
        });
        let volume = open(&sim);
        let [file, other] = ["file", "other"].map(|name| create(&volume, name));
        let model: Vec<u8> = (0..4u32 << 20).map(|at| (at / 7 % 251) as u8).collect();
        for (index, bytes) in model.chunks(128 << 10).enumerate() {
            for ino in [other, file] {
                write(&volume, ino, at(index) * WINDOW, bytes);
                volume.write_out(ino).unwrap();
            }
        }
        empty(&volume, other);
        volume.store().close().unwrap();
        let (volume, before) = open_hooked(&sim);
        let mover = Arc::clone(&volume);
        *before.read.lock() = Some(Box::new(move || {
            assert!(compact(&mover).moved_chunks > 0);
            // What was behind the end is written to again.
            write(&mover, other, 0, &random(9, 6 << 20));
            mover.write_out(other).unwrap();
        }));
        let last = model.len() - (100 << 10);
        let mut found = Vec::new();
        volume.read(file, at(last), 100 << 10, &mut found).unwrap();
        assert!(
            before.read.lock().is_none(),
            "{compression}: something was read"
        );
        assert!(found == model[last..], "{compression}");
    }
}

#[test]
fn a_chunk_that_cannot_be_read_stays_where_it_is() {
    let sim = make();
    let volume = open(&sim);
    let [first, _] = interleaved(&volume, 16);
    empty(&volume, OTHER);
    let last = chunks(&volume)
        .into_iter()
        .max_by_key(|(_, chunk)| chunk.start_unit);
    let (id, record) = last.unwrap();
    sim.corrupt(CHUNKS, record.start_unit * 4096 + 100, b"rot");
    let done = compact(&volume);
    assert!(done.damaged > 0 && done.moved_chunks > 0, "{done:?}");
    let now = chunks(&volume).into_iter().find(|(other, _)| *other == id);
    assert_eq!(now.unwrap().1.start_unit, record.start_unit);
    let mut found = Vec::new();
    let before = first.len() - (128 << 10);
    volume.read(FILE, 0, before, &mut found).unwrap();
    assert!(found == first[..before]);
    check_space(&volume, "with a damaged chunk");
}

/// Each call fails in turn: an error at worst, and content is there after reopening.
#[test]
fn a_disk_that_fails_takes_nothing() {
    for call in [
        Call::Read,
        Call::Write,
        Call::Flush,
        Call::Cut,
        Call::Allocate,
    ] {
        for after in 0..12 {
            let context = format!("{call:?} {after}");
            let sim = make();
            let volume = open(&sim);
            let [first, _] = interleaved(&volume, 12);
            volume.fsync(FILE, false).unwrap();
            empty(&volume, OTHER);
            volume.store().checkpoint().unwrap();
            let kind = io::ErrorKind::Other;
            let sticky = after % 2 == 0;
            sim.set_fault(Some(Fault {
                call,
                after,
                sticky,
                kind,
            }));
            let result = volume.store().compact(&mut || true);
            sim.set_fault(None);
            if volume.store().is_writable() {
                assert!(compact(&volume).damaged == 0, "{context}");
            }
            outlives(sim, &volume, &result, &first, &context);
        }
    }
}

/// Power cut at any moment of moves, and of what is written over the old places.
#[test]
fn a_power_cut_around_moves_takes_nothing_that_was_fsynced() {
    for seed in 0..12 {
        let sim = make();
        let volume = open(&sim);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let [first, _] = interleaved(&volume, 12);
        volume.fsync(FILE, false).unwrap();
        volume.store().checkpoint().unwrap();
        let start = sim.events();
        let mut lens = vec![at(12 * (128 << 10))];
        for round in 1..4u8 {
            empty(&volume, OTHER);
            if rng.random() {
                trim(&volume);
            }
            compact(&volume);
            let len = rng.random_range(100_000..900_000);
            write(&volume, OTHER, 0, &vec![round; len]);
            volume.fsync(OTHER, false).unwrap();
            lens.push(at(len));
        }
        let mut recording = sim.recording();
        for point in (start..=recording.len()).step_by(3) {
            let context = format!("seed {seed}, point {point}");
            let survival = match point % 4 {
                0 => Survival::None,
                1 => Survival::All,
                _ => Survival::Random(rng.random()),
            };
            let crashed = recording.crash_at(point, survival);
            check(&crashed, &context);
            let volume = open(&crashed);
            assert!(content(&volume, FILE) == first, "{context}");
            check_space(&volume, &context);
        }
        let volume = open(&recording.crash_at(sim.events(), Survival::None));
        assert!(content(&volume, OTHER) == vec![3; usize::try_from(lens[3]).unwrap()]);
    }
}

/// Threads that write, delete, trim and compact at the same time: each file is as its thread left it.
#[test]
fn moves_go_on_beside_everything_else() {
    let sim = make();
    let options = OpenOptions {
        background: true,
        commit_interval: Duration::from_millis(5),
        dirty_limit_bytes: 2 << 20,
        cache_bytes: 1 << 20,
        trim_interval: Some(Duration::from_millis(10)),
        ..OpenOptions::default()
    };
    let volume = Volume::open_media(sim.media(), options, clock()).unwrap();
    let done = AtomicBool::new(false);
    let files = ["a", "b", "c"].map(|name| create(&volume, name));
    let mut moved = 0;
    std::thread::scope(|scope| {
        let writers: Vec<_> = files
            .iter()
            .enumerate()
            .map(|(index, file)| {
                let volume = &volume;
                scope.spawn(move || churn(volume, *file, at(index)))
            })
            .collect();
        let mover = scope.spawn(|| {
            let mut moved = 0;
            while !done.load(Ordering::Relaxed) {
                let mut go_on = || !done.load(Ordering::Relaxed);
                moved += volume.store().compact(&mut go_on).unwrap().moved_chunks;
            }
            moved
        });
        let models: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::Relaxed);
        moved = mover.join().unwrap();
        for (file, model) in files.iter().zip(models) {
            assert!(content(&volume, *file) == model.unwrap());
        }
    });
    assert!(moved > 20, "{moved} moved");
    volume.store().close().unwrap();
    check(&sim, "closed");
    check_space(&open(&sim), "after all");
}

/// Writes, cuts and reads a file for a while. What it is then.
fn churn(volume: &Volume, file: Ino, seed: u64) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut model = Vec::new();
    for step in 0..250 {
        let offset = rng.random_range(0..3 << 20);
        let len = rng.random_range(1..400_000);
        match rng.random_range(0..8) {
            0..5 => {
                let bytes = random(rng.random(), len);
                write(volume, file, at(offset), &bytes);
                put(&mut model, offset, &bytes);
            }
            5 => {
                let size = rng.random_range(0..3 << 20);
                volume.resize(file, at(size), &mut |_, _| Ok(())).unwrap();
                model.resize(size, 0);
            }
            6 => volume.fsync(file, false).unwrap(),
            _ => {
                let mut found = Vec::new();
                volume.read(file, at(offset), len, &mut found).unwrap();
                let end = (offset + len).min(model.len());
                let expected = model.get(offset..end).unwrap_or_default();
                assert!(found == expected, "seed {seed}, step {step}");
            }
        }
    }
    model
}

#[test]
fn who_sends_a_chunk_finds_it_after_it_was_moved() {
    let sim = make();
    let volume = open(&sim);
    let [first, second] = interleaved(&volume, 16);
    let before = chunks(&volume);
    empty(&volume, OTHER);
    assert!(compact(&volume).moved_chunks > 0);
    // What was behind the end is written to again.
    write(&volume, OTHER, 0, &second);
    volume.write_out(OTHER).unwrap();
    let is_left = |id: &ChunkId| chunks(&volume).iter().any(|(left, _)| left == id);
    let left = before.iter().filter(|(id, _)| is_left(id));
    assert_eq!(left.clone().count(), 16);
    let sent = left.flat_map(|(id, old)| volume.store().stored_chunk(*id, old).unwrap());
    assert!(sent.eq(first));
}
