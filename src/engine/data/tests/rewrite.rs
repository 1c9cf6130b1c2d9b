//! Content that is written anew stays what it is.

use std::sync::mpsc;
use std::time::Duration;

use rand::seq::SliceRandom;

use super::trim::{check, open_hooked, random};
use super::*;
use crate::engine::health;
use crate::format::record::Codec;

fn rewrite(volume: &Volume, ino: Ino) -> u64 {
    volume.rewrite(ino, &mut || true).unwrap()
}

/// Many small extents, holes and reserved space.
fn in_pieces(volume: &Volume, file: Ino) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut model = vec![0; 3 << 20];
    volume.resize(file, 3 << 20, &mut |_, _| Ok(())).unwrap();
    let keep_size = true;
    let how = Fallocate::Allocate { keep_size };
    volume.fallocate(file, 2 << 20, 512 << 10, how).unwrap();
    for _ in 0..200 {
        let offset = rng.random_range(0..(3 << 20) - 20_000);
        let bytes = vec![rng.random(); rng.random_range(1..20_000)];
        if !(1 << 20..(1 << 20) + 300_000).contains(&offset) {
            write(volume, file, at(offset), &bytes);
            put(&mut model, offset, &bytes);
        }
        volume.write_out(file).unwrap();
    }
    model
}

#[test]
fn a_file_in_pieces_becomes_whole_and_compressed() {
    let sim = make_empty(0);
    let volume = open(&sim);
    let file = create(&volume, "file");
    let model = in_pieces(&volume, file);
    let files = |volume: &Volume| {
        let view = volume.store.journal.view();
        health::files(&view, [volume.dataset.id]).unwrap()
    };
    let before = (files(&volume).extents, volume.getattr(file).unwrap());
    volume.store().checkpoint().unwrap();
    let settings = crate::engine::Settings {
        compression: Some("lz4".parse().unwrap()),
        ..crate::engine::Settings::default()
    };
    volume.store().change_settings("main", settings).unwrap();
    let written = rewrite(&volume, file);
    assert!((1 << 20..3 << 20).contains(&written), "{written}");
    assert!(content(&volume, file) == model);
    let extents = files(&volume).extents;
    assert!(extents < before.0, "{extents} of {}", before.0);
    let all = chunks(&volume);
    let compressed = all.iter().filter(|(_, chunk)| chunk.codec != Codec::Raw);
    assert!(compressed.count() * 2 > all.len());
    let after = volume.getattr(file).unwrap();
    assert_eq!((after.mtime, after.ctime), (before.1.mtime, before.1.ctime));
    assert_eq!((after.size, after.blocks), (before.1.size, before.1.blocks));
    check_space(&volume, "written anew");
    volume.store().close().unwrap();
    check(&sim, "closed");
    assert!(content(&open(&sim), file) == model);
}

/// As a database or a download leaves it: pieces that no unit and no window ends with.
#[test]
fn a_file_written_in_small_pieces_gets_as_few_extents_as_it_can_have() {
    const PIECE: usize = 3000;
    let sim = make_empty(0);
    let volume = open(&sim);
    let file = create(&volume, "file");
    let mut model = random(1, 8 << 20);
    let mut order: Vec<usize> = (0..model.len().div_ceil(PIECE)).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    order.shuffle(&mut rng);
    for index in order {
        let start = index * PIECE;
        let end = model.len().min(start + PIECE);
        write(&volume, file, at(start), &model[start..end]);
        volume.write_out(file).unwrap();
    }
    let extents = |volume: &Volume| {
        let view = volume.store.journal.view();
        health::files(&view, [volume.dataset.id]).unwrap().extents
    };
    assert!(extents(&volume) > 2700, "{}", extents(&volume));
    assert_eq!(rewrite(&volume, file), 8 << 20);
    assert_eq!(extents(&volume), 64, "one for each 128 KiB");
    assert_eq!(chunks(&volume).len(), 64);
    assert!(content(&volume, file) == model);
    // Where a step takes one window, too.
    for start in (0..1 << 20).step_by(1200) {
        write(&volume, file, at(start), &[9; 600]);
        model[start..start + 600].fill(9);
        volume.write_out(file).unwrap();
    }
    assert_eq!(rewrite(&volume, file), 8 << 20);
    assert_eq!(extents(&volume), 64);
    assert!(content(&volume, file) == model);
    check_space(&volume, "written anew");
}

#[test]
fn a_power_cut_leaves_the_same_bytes() {
    for seed in 0..6 {
        let sim = make_empty(0);
        let volume = open(&sim);
        let file = create(&volume, "file");
        let model = in_pieces(&volume, file);
        volume.fsync(file, false).unwrap();
        let start = sim.events();
        rewrite(&volume, file);
        volume.store().checkpoint().unwrap();
        write(&volume, create(&volume, "other"), 0, &random(seed, 2 << 20));
        volume.store().commit_tick().unwrap();
        let mut recording = sim.recording();
        for point in (start..=recording.len()).step_by(2) {
            let crashed = recording.crash_at(point, Survival::Random(seed * 1000 + point as u64));
            let context = format!("seed {seed}, point {point}");
            check(&crashed, &context);
            assert!(content(&open(&crashed), file) == model, "{context}");
        }
    }
}

#[test]
fn who_writes_meanwhile_is_not_overwritten() {
    let sim = make_empty(0);
    let volume = open(&sim);
    let file = create(&volume, "file");
    let mut model = in_pieces(&volume, file);
    std::thread::scope(|scope| {
        let rewriter = scope.spawn(|| (0..6).map(|_| rewrite(&volume, file)).sum::<u64>());
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        while !rewriter.is_finished() {
            let offset = rng.random_range(0..3 << 20);
            let bytes = random(rng.random(), rng.random_range(1..30_000));
            write(&volume, file, at(offset), &bytes);
            put(&mut model, offset, &bytes);
            if rng.random_bool(0.1) {
                let size = rng.random_range(2 << 20..3 << 20);
                volume.resize(file, at(size), &mut |_, _| Ok(())).unwrap();
                model.resize(size, 0);
            }
        }
        assert!(rewriter.join().unwrap() > 0);
    });
    assert!(content(&volume, file) == model);
    volume.store().close().unwrap();
    check(&sim, "closed");
    assert!(content(&open(&sim), file) == model);
}

/// Between the write-out of what there was and the look at what is stored.
#[test]
fn what_comes_in_between_is_newer() {
    let sim = make_empty(0);
    let (volume, before) = open_hooked(&sim);
    let file = create(&volume, "file");
    let mut model = random(1, 600_000);
    write(&volume, file, 0, &model);
    volume.write_out(file).unwrap();
    write(&volume, file, 0, &[5; 100]);
    put(&mut model, 0, &[5; 100]);
    let writer = Arc::clone(&volume);
    *before.write.lock() = Some(Box::new(move || write(&writer, file, 300_000, &[6; 5000])));
    put(&mut model, 300_000, &[6; 5000]);
    assert_eq!(rewrite(&volume, file), 600_000);
    assert!(before.write.lock().is_none());
    assert!(content(&volume, file) == model);
}

#[test]
fn what_has_rotted_is_an_error_and_stays() {
    let sim = make_empty(0);
    let volume = open(&sim);
    let file = create(&volume, "file");
    write(&volume, file, 0, &random(1, 300_000));
    volume.store().close().unwrap();
    let volume = open(&sim);
    let (_, record) = chunks(&volume).pop().unwrap();
    sim.corrupt(3, record.start_unit * 4096, b"rot");
    assert!(volume.rewrite(file, &mut || true).is_err());
    assert!(volume.store().is_writable());
    let mut found = Vec::new();
    assert!(volume.read(file, 0, 300_000, &mut found).is_err());
}

/// Who takes a snapshot closes the gate, and needs each file's `io` then.
#[test]
fn a_snapshot_beside_it_waits_for_it_and_it_for_none() {
    let sim = make_empty(0);
    let (volume, before) = open_hooked(&sim);
    let file = create(&volume, "file");
    let mut model = random(1, 600_000);
    write(&volume, file, 0, &model);
    volume.write_out(file).unwrap();
    write(&volume, file, 0, &[5; 100]);
    put(&mut model, 0, &[5; 100]);
    // As one does that finds the file written to after its first look.
    let taker = Arc::clone(&volume);
    *before.write.lock() = Some(Box::new(move || {
        std::thread::spawn(move || {
            let _gate = taker.dataset.gate.write();
            taker.write_out_files().unwrap();
        });
        std::thread::sleep(Duration::from_millis(50));
    }));
    let (done, rewritten) = mpsc::channel();
    let writer = Arc::clone(&volume);
    std::thread::spawn(move || done.send(rewrite(&writer, file)).unwrap());
    let rewritten = rewritten.recv_timeout(Duration::from_secs(10));
    assert_eq!(rewritten.expect("neither waits for the other"), 600_000);
    assert!(content(&volume, file) == model);
    volume.store().snapshot("main@s").unwrap();
}
