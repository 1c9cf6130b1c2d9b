//! Chunks that are damaged or gone, and threads at the same files.

use super::*;
use crate::format::id::{ChunkId, Generation};
use crate::format::key;
use crate::format::record::ExtentRecord;
use crate::store::StoreError;

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
    volume.store().close().unwrap();
    let volume = open(&sim);
    assert_eq!(content(&volume, FILE), bytes);
    sim.corrupt(3, 5000, &[6]);
    volume.store().close().unwrap();
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
    volume.store().close().unwrap();
    let volume = open(&sim);
    assert_eq!(content(&volume, FILE), b"old bytes");
    volume.resize(FILE, 0, &mut |_, _| Ok(())).unwrap();
    volume
        .write(FILE, 0, 9, &mut b"new bytes".as_slice(), flags)
        .unwrap();
    volume.write_out(FILE).unwrap();
    assert_eq!(content(&volume, FILE), b"new bytes");
}

/// Files written, synced, cut and read by several threads at once, with the timer and checkpoints
/// going on: every block a reader sees is one whole write of that block, and not an older one than
/// the reader has seen before.
#[test]
fn threads_agree_about_shared_files() {
    share_files(&make());
}

#[test]
fn threads_agree_about_compressed_files_of_equal_content() {
    let stores = [("lz4", Dedup::On), ("zstd", Dedup::Verify)];
    for (compression, dedup) in stores {
        share_files(&make_storing(compression.parse().unwrap(), dedup));
    }
}

fn share_files(sim: &SimMedia) {
    use std::sync::atomic::{AtomicBool, Ordering};
    const BLOCK: usize = 4096;
    const BLOCKS: u64 = 64;
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
                        1 => volume.store().checkpoint().unwrap(),
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
    volume.store().close().unwrap();
    let volume = open(sim);
    assert!(contents == (content(&volume, FILE), content(&volume, OTHER)));
    check_space(&volume, "after many threads");
}

/// Extents that cannot be: whoever goes from one to the next must get to the end.
#[test]
fn extents_that_overlap_or_never_end_are_an_error() {
    let extent = |len| ExtentRecord {
        len,
        chunk: ChunkId(0),
        chunk_offset: 0,
        birth: Generation(1),
    };
    for planted in [[(0, 100), (50, 10)], [(0, 10), (4096, u64::MAX)]] {
        let sim = make();
        let volume = open(&sim);
        let content = [7; 8192];
        let flags = WriteFlags::default();
        volume
            .write(FILE, 0, content.len(), &mut content.as_slice(), flags)
            .unwrap();
        volume.store().close().unwrap();
        let volume = open(&sim);
        let mut tx = volume.store.journal.begin().unwrap();
        for (start, len) in planted {
            let (key, record) = (key::extent(FILE, start), extent(len));
            tx.put(volume.tree(), key, record.encode()).unwrap();
        }
        tx.commit().unwrap();
        let read = volume.read(FILE, 0, content.len(), &mut Vec::new());
        let error = read.unwrap_err();
        let corrupt = matches!(error, EngineError::Store(StoreError::Corrupt(_)));
        assert!(corrupt, "{error}");
    }
}
