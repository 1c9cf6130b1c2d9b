//! Chunks that are moved in the background: what is free in pieces too short to go back to the disk
//! comes together, and nothing is moved that would not pay.

use std::time::Duration;

use super::trim::{
    CHUNKS, check, each_call_fails, empty, interleaved, make, random, refuse_holes, trim,
};
use super::*;
use crate::engine::{CompactOptions, Compacted};

/// File offsets of two chunks of [`scattered`] are so far apart.
const STEP: usize = 64 << 10;

/// Half a store's worth of a large one's settings.
pub(super) fn options() -> CompactOptions {
    CompactOptions {
        min_bytes: 1 << 20,
        ..CompactOptions::default()
    }
}

/// Opens a store whose threads have little patience.
pub(super) fn open_busy(sim: &SimMedia) -> Arc<Volume> {
    let ms = Duration::from_millis;
    let options = OpenOptions {
        trim_interval: Some(ms(20)),
        compact: Some(CompactOptions {
            interval: ms(20),
            pause: ms(2),
            ..options()
        }),
        commit_interval: ms(20),
        ..OpenOptions::default()
    };
    Volume::open_media(sim.media(), options, clock()).unwrap()
}

fn compact(volume: &Volume) -> Compacted {
    volume
        .store()
        .compact_idle(options(), &mut || true)
        .unwrap()
}

/// Bytes that chunks.dat takes.
fn taken(sim: &SimMedia) -> u64 {
    sim.disk_len(CHUNKS) - sim.holes(CHUNKS)
}

/// Compacts and trims until nothing more comes of it. Bytes that were moved, and that came back.
fn compact_all(sim: &SimMedia, volume: &Volume) -> (u64, u64) {
    let before = taken(sim);
    let mut moved = 0;
    loop {
        let done = compact(volume);
        assert_eq!(done.damaged, 0);
        trim(volume);
        moved += done.moved_bytes;
        if done.moved_chunks == 0 {
            return (moved, before - taken(sim));
        }
    }
}

/// Chunks of two files by turns, of so many bytes each; then the second is emptied. What the first
/// holds.
fn scattered(volume: &Volume, chunks: usize, kept: usize, freed: usize) -> Vec<u8> {
    let mut model = vec![0; (chunks - 1) * STEP + kept];
    for index in 0..chunks {
        let bytes = random(at(index), kept);
        put(&mut model, index * STEP, &bytes);
        for (ino, bytes) in [(FILE, &bytes), (OTHER, &random(0, freed))] {
            write(volume, ino, at(index * STEP), bytes);
            volume.write_out(ino).unwrap();
        }
    }
    volume.fsync(FILE, false).unwrap();
    empty(volume, OTHER);
    volume.store().checkpoint().unwrap();
    // What is free ahead of use goes first.
    trim(volume);
    model
}

#[test]
fn what_is_free_in_short_pieces_comes_back() {
    for (kept, freed) in [
        (8 << 10, 24 << 10),
        (24 << 10, 24 << 10),
        (40 << 10, 24 << 10),
    ] {
        let context = format!("{kept} bytes left, {freed} freed");
        let sim = make();
        let volume = open(&sim);
        let model = scattered(&volume, 256, kept, freed);
        let (moved, back) = compact_all(&sim, &volume);
        let free = at(256 * freed);
        // Of the rest a quarter or less is free.
        let rest = at(256 * kept) / 3 + (1 << 20);
        assert!(back + rest > free, "{context}: {back} of {free}");
        assert!(
            moved <= 3 * back + (1 << 20),
            "{context}: {moved} for {back}"
        );
        assert!(content(&volume, FILE) == model, "{context}");
        check_space(&volume, &context);
        volume.store().close().unwrap();
        check(&sim, &context);
        assert!(content(&open(&sim), FILE) == model, "{context}");
    }
}

#[test]
fn nothing_is_moved_for_what_goes_back_by_itself() {
    let sim = make();
    let volume = open(&sim);
    let [first, _] = interleaved(&volume, 64);
    empty(&volume, OTHER);
    volume.store().checkpoint().unwrap();
    // Half of the file is free, and less of what it has ahead of use.
    let any = CompactOptions {
        percent: 5,
        ..options()
    };
    for context in ["it will be punched", "it was punched"] {
        let done = volume.store().compact_idle(any, &mut || true).unwrap();
        assert_eq!(done, Compacted::default(), "{context}");
        trim(&volume);
    }
    assert!(content(&volume, FILE) == first);
}

#[test]
fn nothing_is_moved_for_little() {
    let sim = make();
    let volume = open(&sim);
    scattered(&volume, 256, 8 << 10, 24 << 10);
    for options in [
        CompactOptions {
            min_bytes: 7 << 20,
            ..options()
        },
        CompactOptions {
            percent: 80,
            ..options()
        },
    ] {
        let done = volume.store().compact_idle(options, &mut || true).unwrap();
        assert_eq!(done, Compacted::default(), "{options:?}");
    }
    let none = volume.store().compact_idle(options(), &mut || false);
    assert_eq!(none.unwrap(), Compacted::default(), "it is not to go on");
    let mut left = 3;
    let mut some = || {
        left -= 1;
        left > 0
    };
    volume.store().compact_idle(options(), &mut some).unwrap();
    assert_eq!(left, 0, "it stops when it is told");
    check_space(&volume, "stopped");
}

#[test]
fn where_no_holes_can_be_made_the_end_moves_forward() {
    let sim = make();
    let volume = open(&sim);
    let [first, _] = interleaved(&volume, 64);
    empty(&volume, OTHER);
    refuse_holes(&sim);
    assert!(trim(&volume).unsupported);
    let before = sim.disk_len(CHUNKS);
    let (moved, back) = compact_all(&sim, &volume);
    assert!(moved > 0 && back > 5 << 20, "{moved} moved, {back} back");
    assert!(sim.disk_len(CHUNKS) + back == before);
    assert!(content(&volume, FILE) == first);
    check_space(&volume, "moved forward");
}

#[test]
fn a_full_disk_keeps_its_promises() {
    let sim = make();
    let volume = open(&sim);
    let model = scattered(&volume, 256, 40 << 10, 24 << 10);
    sim.set_capacity(Some(sim.allocated()));
    compact_all(&sim, &volume);
    assert!(content(&volume, FILE) == model);
    check_space(&volume, "on a full disk");
    let mut written = 0;
    while try_write(&volume, OTHER, written, &[7; 4096]).is_ok() {
        written += 4096;
        if written % (1 << 20) == 0 {
            compact(&volume);
        }
    }
    assert!(written > 1 << 20);
    volume.fsync(OTHER, false).unwrap();
    assert!(content(&volume, OTHER) == vec![7; usize::try_from(written).unwrap()]);
    volume.store().close().unwrap();
    check(&sim, "closed");
}

#[test]
fn a_disk_that_fails_takes_nothing() {
    let prepare = || {
        let sim = make();
        let volume = open(&sim);
        let model = scattered(&volume, 64, 24 << 10, 24 << 10);
        (sim, volume, model)
    };
    each_call_fails(1, prepare, |volume| {
        volume.store().compact_idle(options(), &mut || true)
    });
}

/// Power cut at any moment of moves, trims, and of what is written over the old places.
#[test]
fn a_power_cut_takes_nothing_that_was_fsynced() {
    for seed in 0..4 {
        let sim = make();
        let volume = open(&sim);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let model = scattered(&volume, 64, 24 << 10, 24 << 10);
        let start = sim.events();
        compact(&volume);
        if rng.random() {
            trim(&volume);
        }
        write(&volume, OTHER, 0, &random(seed, 900_000));
        volume.fsync(OTHER, false).unwrap();
        compact(&volume);
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
            assert!(content(&volume, FILE) == model, "{context}");
            check_space(&volume, &context);
        }
    }
}

/// In a thread of its own, beside somebody who writes now and then.
#[test]
fn a_store_compacts_by_itself() {
    let sim = make();
    let model = scattered(&open(&sim), 256, 8 << 10, 24 << 10);
    let volume = open_busy(&sim);
    let mut round = 0u8;
    while volume.store().space().unwrap().punched_bytes < 3 << 20 {
        round += 1;
        assert!(round < 250, "it never comes back");
        write(&volume, OTHER, 0, &[round; 4096]);
        std::thread::sleep(Duration::from_millis(40));
        assert!(content(&volume, FILE) == model);
    }
    assert!(volume.store().activity().moved_bytes > 0);
    volume.store().close().unwrap();
    check(&sim, "closed");
    let volume = open(&sim);
    assert!(content(&volume, FILE) == model && content(&volume, OTHER) == [round; 4096]);
}
