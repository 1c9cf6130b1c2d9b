//! Files that were written over here and there: what nobody can read any more comes back, what others
//! have stays where it is, and content stays what it is.

use std::sync::mpsc;
use std::time::Duration;

use rand::seq::SliceRandom;

use super::evacuate::{open_busy, options};
use super::trim::{CHUNKS, check, each_call_fails, make, open_hooked, random};
use super::*;
use crate::engine::data::space::units_used;
use crate::engine::{CompactOptions, health};

const BLOCK: usize = 4096;
/// Of a file: 32 windows.
const FILE_BYTES: usize = 4 << 20;

fn try_defragment(volume: &Volume) -> Result<u64, EngineError> {
    volume.store().defragment_idle(options(), &mut || true)
}

fn defragment(volume: &Volume) -> u64 {
    try_defragment(volume).unwrap()
}

/// Bytes that content takes, once what was freed is.
fn used(volume: &Volume) -> u64 {
    volume.store().checkpoint().unwrap();
    volume.store().checkpoint().unwrap();
    units_used(&volume.store.journal.view()).unwrap() * BLOCK as u64
}

fn extents(volume: &Volume) -> u64 {
    let view = volume.store.journal.view();
    health::files(&view, [volume.dataset.id]).unwrap().extents
}

/// A file that was written in order.
fn in_order(volume: &Volume) -> Vec<u8> {
    let model = random(1, FILE_BYTES);
    write(volume, FILE, 0, &model);
    volume.fsync(FILE, false).unwrap();
    model
}

/// Writes over each block of a file whose number `is_one` says, out of order.
fn overwrite(volume: &Volume, model: &mut Vec<u8>, is_one: impl Fn(usize) -> bool) {
    let mut blocks: Vec<_> = (0..FILE_BYTES / BLOCK).filter(|n| is_one(*n)).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    blocks.shuffle(&mut rng);
    for (n, block) in blocks.into_iter().enumerate() {
        let bytes = random(rng.random(), BLOCK);
        write(volume, FILE, at(block * BLOCK), &bytes);
        put(model, block * BLOCK, &bytes);
        if n % 16 == 15 {
            volume.write_out(FILE).unwrap();
        }
    }
    volume.fsync(FILE, false).unwrap();
}

const HALF: fn(usize) -> bool = |block| block % 2 == 0;

/// A store with a file of which half was written over, and that content.
fn half_overwritten() -> (SimMedia, Arc<Volume>, Vec<u8>) {
    let sim = make();
    let volume = open(&sim);
    let mut model = in_order(&volume);
    overwrite(&volume, &mut model, HALF);
    (sim, volume, model)
}

#[test]
fn what_was_written_over_comes_back() {
    for compression in ["off", "lz4"] {
        let sim = make_as(&MkfsOptions {
            compression: compression.parse().unwrap(),
            ..MkfsOptions::reproducible()
        });
        let volume = open(&sim);
        assert_eq!(
            ["file", "other"].map(|name| create(&volume, name)),
            [FILE, OTHER]
        );
        let mut model = in_order(&volume);
        let content_bytes = used(&volume);
        overwrite(&volume, &mut model, HALF);
        let before = (used(&volume), volume.getattr(FILE).unwrap());
        assert!(
            before.0 > content_bytes * 4 / 3,
            "{} of {content_bytes}",
            before.0
        );
        let written = defragment(&volume);
        assert_eq!(written, at(FILE_BYTES));
        assert_eq!(volume.store().activity().defragmented_bytes, written);
        assert!(
            used(&volume) <= content_bytes + (64 << 10),
            "{}",
            used(&volume)
        );
        assert_eq!(extents(&volume), 32, "one for each 128 KiB");
        assert!(content(&volume, FILE) == model);
        let after = volume.getattr(FILE).unwrap();
        assert_eq!((after.mtime, after.ctime), (before.1.mtime, before.1.ctime));
        assert_eq!((after.size, after.blocks), (before.1.size, before.1.blocks));
        assert_eq!(defragment(&volume), 0, "it was done");
        check_space(&volume, compression);
        volume.store().close().unwrap();
        check(&sim, compression);
        assert!(content(&open(&sim), FILE) == model);
    }
}

#[test]
fn what_was_written_in_small_pieces_is_joined() {
    let sim = make();
    let volume = open(&sim);
    let mut model = vec![0; FILE_BYTES];
    volume
        .resize(FILE, at(FILE_BYTES), &mut |_, _| Ok(()))
        .unwrap();
    let mut blocks: Vec<_> = (0..FILE_BYTES / BLOCK).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    blocks.shuffle(&mut rng);
    for block in blocks {
        let bytes = random(rng.random(), BLOCK);
        write(&volume, FILE, at(block * BLOCK), &bytes);
        put(&mut model, block * BLOCK, &bytes);
        volume.write_out(FILE).unwrap();
    }
    assert!(extents(&volume) > 900, "{}", extents(&volume));
    assert_eq!(defragment(&volume), at(FILE_BYTES));
    assert_eq!(extents(&volume), 32);
    assert!(content(&volume, FILE) == model);
    check_space(&volume, "joined");
}

/// What it takes would be more.
#[test]
fn what_others_have_stays_where_it_is() {
    let sim = make();
    let volume = open(&sim);
    let store = volume.store();
    let mut model = in_order(&volume);
    overwrite(&volume, &mut model, HALF);
    store.snapshot("main@then").unwrap();
    let then = model.clone();
    assert_eq!(defragment(&volume), 0, "all of it is the snapshot's, too");
    // It has the same extents, and then, in half the windows, parts of their chunks.
    overwrite(&volume, &mut model, |block| {
        HALF(block) && block < FILE_BYTES / BLOCK / 2
    });
    let before = used(&volume);
    assert_eq!(defragment(&volume), 0, "a snapshot has it");
    assert_eq!(used(&volume), before);
    assert!(content(&store.volume("main@then").unwrap(), FILE) == then);
    store.delete("main@then", false).unwrap();
    store.reap(&|| false).unwrap();
    overwrite(&volume, &mut model, HALF);
    assert_eq!(defragment(&volume), at(FILE_BYTES), "nobody else has it");
    assert!(content(&volume, FILE) == model);

    let copied = volume
        .copy_range(FILE, 0, OTHER, 0, at(FILE_BYTES))
        .unwrap();
    assert_eq!(copied, at(FILE_BYTES));
    let other = model.clone();
    overwrite(&volume, &mut model, HALF);
    assert_eq!(defragment(&volume), 0, "another file has it");
    assert!(content(&volume, FILE) == model && content(&volume, OTHER) == other);
    check_space(&volume, "shared");
}

#[test]
fn nothing_is_written_for_little() {
    let sim = make();
    let volume = open(&sim);
    let mut model = in_order(&volume);
    let is_eighth = |block: usize| block.is_multiple_of(8);
    overwrite(&volume, &mut model, is_eighth);
    assert_eq!(defragment(&volume), 0, "half a MiB");
    for _ in 0..4 {
        overwrite(&volume, &mut model, is_eighth);
    }
    assert_eq!(defragment(&volume), 0, "an eighth of each window");
    let times: Vec<_> = volume.dataset.replaced.most();
    assert_eq!(times, [], "it was looked at");
    for _ in 0..4 {
        overwrite(&volume, &mut model, is_eighth);
    }
    let [(_, _, times)] = volume.dataset.replaced.most()[..] else {
        panic!("it is forgotten");
    };
    assert_eq!(times, 4, "nothing was found, two times");
    let large = CompactOptions {
        min_bytes: 1 << 30,
        ..options()
    };
    overwrite(&volume, &mut model, HALF);
    let done = volume.store().defragment_idle(large, &mut || true);
    assert_eq!(done.unwrap(), 0, "less than 16 MiB");
    assert!(content(&volume, FILE) == model);
}

#[test]
fn it_stops_when_it_is_to_and_goes_on_later() {
    let (_sim, volume, mut model) = half_overwritten();
    let mut asked = 0;
    let mut never = || {
        asked += 1;
        false
    };
    let done = volume.store().defragment_idle(options(), &mut never);
    assert_eq!((done.unwrap(), asked), (0, 1));
    let mut steps = 0;
    let mut once = || {
        steps += 1;
        steps == 1
    };
    let first = volume.store().defragment_idle(options(), &mut once);
    let first = first.unwrap();
    assert!((1 << 20..at(FILE_BYTES)).contains(&first), "{first}");
    assert_eq!(volume.dataset.replaced.most().len(), 1, "it is not through");
    // What was gone through is so until the next pass.
    overwrite(&volume, &mut model, |block| HALF(block) && block < 32);
    assert_eq!(first + defragment(&volume), at(FILE_BYTES));
    assert_eq!(extents(&volume), 31 + 32);
    assert!(content(&volume, FILE) == model);
    overwrite(&volume, &mut model, HALF);
    delete(&volume, FILE);
    assert_eq!(defragment(&volume), 0, "the file is gone");
}

#[test]
fn a_disk_that_fails_takes_nothing() {
    each_call_fails(3, half_overwritten, try_defragment);
}

#[test]
fn a_full_disk_keeps_its_promises() {
    let (sim, volume, model) = half_overwritten();
    volume.store().checkpoint().unwrap();
    sim.set_capacity(Some(sim.allocated()));
    let mut written = 0;
    while try_write(&volume, OTHER, written, &[7; BLOCK]).is_ok() {
        written += at(BLOCK);
    }
    // There is no room, and that is nobody's trouble.
    defragment(&volume);
    volume.fsync(OTHER, false).unwrap();
    assert!(content(&volume, OTHER) == vec![7; usize::try_from(written).unwrap()]);
    assert!(content(&volume, FILE) == model);
    check_space(&volume, "on a full disk");
}

#[test]
fn a_power_cut_leaves_the_same_bytes() {
    for seed in 0..4 {
        let (sim, volume, model) = half_overwritten();
        let start = sim.events();
        assert!(defragment(&volume) > 0);
        write(&volume, OTHER, 0, &random(seed, 2 << 20));
        volume.store().commit_tick().unwrap();
        let mut recording = sim.recording();
        for point in (start..=recording.len()).step_by(3) {
            let crashed = recording.crash_at(point, Survival::Random(seed * 1000 + point as u64));
            let context = format!("seed {seed}, point {point}");
            check(&crashed, &context);
            assert!(content(&open(&crashed), FILE) == model, "{context}");
        }
    }
}

/// In a thread of its own, beside somebody who writes to the same file, and takes snapshots.
#[test]
fn a_store_defragments_by_itself() {
    let sim = make();
    let volume = open_busy(&sim);
    let mut model = in_order(&volume);
    let mut round = 0;
    while volume.store().activity().defragmented_bytes < at(FILE_BYTES) {
        round += 1;
        assert!(round < 500, "it never comes to it");
        overwrite(&volume, &mut model, |block| HALF(block + round));
        if round % 8 == 1 {
            volume.store().snapshot("main@now").unwrap();
            volume.store().delete("main@now", false).unwrap();
        }
        std::thread::sleep(Duration::from_millis(40));
        assert!(content(&volume, FILE) == model);
    }
    volume.store().close().unwrap();
    check(&sim, "closed");
    assert!(content(&open(&sim), FILE) == model);
}

/// Each of them waits until nobody is at work on the dataset, which is in no use but this.
#[test]
fn who_restores_or_deletes_a_dataset_does_not_wait_for_all_of_it() {
    for deletes in [false, true] {
        let sim = make();
        let (volume, before) = open_hooked(&sim);
        let store = Arc::clone(volume.store());
        store.snapshot("main@then").unwrap();
        let id = store.clone_dataset("main@then", "web").unwrap();
        let web = Arc::new(store.volume("web").unwrap());
        store.snapshot("web@empty").unwrap();
        let mut model = in_order(&web);
        overwrite(&web, &mut model, HALF);
        drop(web);
        assert!(store.volume_of(id).is_some(), "its files are known");
        let (done, is_done) = mpsc::channel();
        let other = Arc::clone(&store);
        *before.write.lock() = Some(Box::new(move || {
            std::thread::spawn(move || {
                let ended = match deletes {
                    true => other.delete("web", true),
                    false => other.restore("web@empty"),
                };
                done.send(ended.is_ok()).unwrap();
            });
            // It is waiting by then, with the gate closed.
            std::thread::sleep(Duration::from_millis(100));
        }));
        let mut pauses = 0;
        let other = Arc::clone(&store);
        let written = std::thread::spawn(move || {
            other.defragment_idle(options(), &mut || {
                std::thread::sleep(Duration::from_millis(100));
                pauses += 1;
                pauses < 100
            })
        });
        let ended = is_done.recv_timeout(Duration::from_secs(10));
        assert_eq!(ended, Ok(true), "deletes: {deletes}");
        let written = written.join().unwrap().unwrap();
        assert!(written < at(FILE_BYTES), "it went on to the end");
        drop(volume);
        store.close().unwrap();
        check(&sim, "closed");
    }
}

#[test]
fn what_cannot_be_read_is_passed_by() {
    let (sim, volume, _) = half_overwritten();
    let third = create(&volume, "third");
    let other = random(2, FILE_BYTES);
    write(&volume, third, 0, &other);
    volume.fsync(third, false).unwrap();
    for block in (0..FILE_BYTES / BLOCK).filter(|block| HALF(*block)) {
        let range = block * BLOCK..(block + 1) * BLOCK;
        write(&volume, third, at(range.start), &other[range]);
    }
    volume.fsync(third, false).unwrap();
    // In the middle of the first file.
    let found = chunks(&volume);
    let (_, record) = &found[10];
    let place = record.start_unit * BLOCK as u64 + 100;
    volume.store().close().unwrap();
    drop(volume);
    sim.corrupt(CHUNKS, place, b"rot");
    let volume = open(&sim);
    for ino in [FILE, third] {
        volume.dataset.replaced.note(ino, at(FILE_BYTES));
    }
    let written = defragment(&volume);
    assert!(
        written >= at(FILE_BYTES),
        "the other file is written anew: {written}"
    );
    assert!(content(&volume, third) == other);
    assert_eq!(volume.dataset.replaced.most(), []);
}

/// What is stored well now would be stored badly.
#[test]
fn nothing_gets_larger_by_it() {
    let sim = make_as(&MkfsOptions {
        compression: "zstd".parse().unwrap(),
        ..MkfsOptions::reproducible()
    });
    let volume = open(&sim);
    assert_eq!(create(&volume, "file"), FILE);
    // Of which half is saved.
    let mut model = random(1, FILE_BYTES);
    for block in model.chunks_mut(BLOCK) {
        block[BLOCK / 2..].fill(0);
    }
    write(&volume, FILE, 0, &model);
    volume.fsync(FILE, false).unwrap();
    let settings = crate::engine::Settings {
        compression: Some(Compression::OFF),
        ..crate::engine::Settings::default()
    };
    volume.store().change_settings("main", settings).unwrap();
    overwrite(&volume, &mut model, |block| block % 32 < 20);
    let before = used(&volume);
    assert_eq!(defragment(&volume), 0);
    assert_eq!(used(&volume), before);
    assert!(content(&volume, FILE) == model);
}

#[test]
fn a_snapshot_in_the_middle_of_it_keeps_what_it_has() {
    let sim = make();
    let (volume, before) = open_hooked(&sim);
    let store = Arc::clone(volume.store());
    let mut model = in_order(&volume);
    overwrite(&volume, &mut model, HALF);
    let other = Arc::clone(&store);
    let (done, is_done) = mpsc::channel();
    *before.write.lock() = Some(Box::new(move || {
        std::thread::spawn(move || done.send(other.snapshot("main@then").is_ok()));
        std::thread::sleep(Duration::from_millis(100));
    }));
    let written = store.defragment_idle(options(), &mut || {
        std::thread::sleep(Duration::from_millis(50));
        true
    });
    assert_eq!(is_done.recv_timeout(Duration::from_secs(10)), Ok(true));
    assert_eq!(written.unwrap(), 128 << 10, "a window was under way");
    assert!(content(&volume, FILE) == model);
    let snapshot = store.volume("main@then").unwrap();
    assert!(content(&snapshot, FILE) == model);
    drop(snapshot);
    store.close().unwrap();
    check(&sim, "closed");
}
