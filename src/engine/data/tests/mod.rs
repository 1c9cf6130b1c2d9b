//! File content against a plain vector of bytes, over reopening and power cuts.

mod bounds;
mod compact;
mod compressed;
mod crash;
mod deduplicated;
mod defragment;
mod evacuate;
mod full;
mod kept;
mod limits;
mod lost;
mod quota;
mod rewrite;
mod scrub;
mod sharing;
mod space;
mod stream;
mod trim;

use std::ops::ControlFlow;
use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::disk::sim::{SimMedia, Survival};
use crate::engine::{
    Clock, Cred, EngineError, Fallocate, MkfsOptions, NewInode, OpenOptions, RenameMode, Seek,
    Time, Volume, WriteFlags, mkfs,
};
use crate::format::codec::Compression;
use crate::format::id::{ChunkId, Ino};
use crate::format::key::{TreeId, trailing_u64};
use crate::format::record::{ChunkRecord, Dedup, InodeRecord};
use crate::store::Read;

const FILE: Ino = Ino(2);
const OTHER: Ino = Ino(3);

fn clock() -> Clock {
    Arc::new(|| Time { sec: 1, nsec: 2 })
}

/// A store, of a size if that is not 0, with nothing but a root directory.
fn make_empty(capacity_bytes: u64) -> SimMedia {
    make_as(&MkfsOptions {
        capacity_bytes,
        ..MkfsOptions::reproducible()
    })
}

fn make_as(options: &MkfsOptions) -> SimMedia {
    let sim = SimMedia::new();
    mkfs(sim.media(), options, &clock()).unwrap();
    sim
}

/// All chunks.
fn chunks(volume: &Volume) -> Vec<(ChunkId, ChunkRecord)> {
    let mut found = Vec::new();
    let view = volume.store.journal.view();
    view.scan(TreeId::Chunks, &[], &[0xff; 9], &mut |key, value| {
        let id = ChunkId(trailing_u64(key).unwrap());
        found.push((id, ChunkRecord::decode(value).unwrap()));
        ControlFlow::Continue(())
    })
    .unwrap();
    found
}

/// Makes a file in the root directory.
fn create(volume: &Volume, name: &str) -> Ino {
    let new = NewInode {
        mode: libc::S_IFREG | 0o644,
        umask: 0,
        rdev: 0,
        xattrs: &[],
        supplementary_gid: None,
    };
    let made = volume.create(Cred::default(), Ino::ROOT, name.as_bytes(), &new);
    made.unwrap().ino
}

fn try_write(volume: &Volume, ino: Ino, offset: u64, bytes: &[u8]) -> Result<usize, EngineError> {
    let mut from = bytes;
    let flags = WriteFlags::default();
    volume.write(ino, offset, bytes.len(), &mut from, flags)
}

fn write(volume: &Volume, ino: Ino, offset: u64, bytes: &[u8]) {
    assert_eq!(try_write(volume, ino, offset, bytes).unwrap(), bytes.len());
}

/// A store with two files.
fn make() -> SimMedia {
    make_compressing(Compression::OFF)
}

/// The same, whose content is compressed.
fn make_compressing(compression: Compression) -> SimMedia {
    make_storing(compression, Dedup::Off)
}

/// The same, of which equal content is stored once.
fn make_storing(compression: Compression, dedup: Dedup) -> SimMedia {
    let sim = make_as(&MkfsOptions {
        compression,
        dedup,
        ..MkfsOptions::reproducible()
    });
    let volume = open(&sim);
    for ino in [FILE, OTHER] {
        let mut tx = volume.store.journal.begin().unwrap();
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
    volume.store().close().unwrap();
    sim
}

fn try_open(sim: &SimMedia) -> Result<Arc<Volume>, EngineError> {
    let options = OpenOptions {
        background: false,
        // What was written is read back from the disk.
        cache_bytes: 0,
        ..OpenOptions::default()
    };
    Volume::open_media(sim.media(), options, clock())
}

fn open(sim: &SimMedia) -> Arc<Volume> {
    try_open(sim).unwrap()
}

/// Frees the content of a file whose last name goes.
fn delete(volume: &Volume, ino: Ino) {
    let mut tx = volume.store.journal.begin().unwrap();
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

/// How the content of a seed's store is compressed.
fn compression_of(seed: u64) -> Compression {
    let all = ["off", "lz4", "zstd", "zstd:1"];
    all[usize::try_from(seed).unwrap() % all.len()]
        .parse()
        .unwrap()
}

/// Whether equal content of a seed's store is stored once.
fn dedup_of(seed: u64) -> Dedup {
    match seed % 3 {
        0 => Dedup::Off,
        1 => Dedup::On,
        _ => Dedup::Verify,
    }
}

/// Bytes that can be compressed, or not, or in part.
fn bytes_of(rng: &mut ChaCha8Rng, len: usize) -> Vec<u8> {
    let random = match rng.random_range(0..3) {
        0 => 0,
        1 => len,
        _ => rng.random_range(0..=len),
    };
    let mut bytes: Vec<u8> = (0..random).map(|_| rng.random()).collect();
    let words: [[u8; 6]; 4] = [[0; 6], *b"hello ", *b"world ", rng.random()];
    let word = words[rng.random_range(0..4)];
    bytes.extend(word.iter().cycle().take(len - random));
    bytes
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
            let bytes = bytes_of(rng, len);
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
        12 => volume.store().commit_tick().unwrap(),
        13 => volume.store().checkpoint().unwrap(),
        _ => volume.write_out(FILE).unwrap(),
    }
}

#[test]
fn agrees_with_a_vector_over_reopening() {
    for seed in 0..40 {
        let sim = make_storing(compression_of(seed), dedup_of(seed));
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
                volume.store().close().unwrap();
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
        assert!(
            position.is_multiple_of(4096) || position == at(model.len()),
            "data that ends at {position}"
        );
    }
}

#[test]
fn holes_and_data_are_told_in_blocks() {
    let sim = make();
    let mut volume = open(&sim);
    let block = 4096;
    // Within block 0; at the end of 2 and the beginning of 3; all of 5; within 7 twice, and in 8; all of
    // 10, and within 11; and at the end, in 13.
    let pieces = [
        (100, 50),
        (4 * block - 4097, 8),
        (5 * block, 4096),
        (7 * block + 1, 1),
        (7 * block + 3000, 96),
        (8 * block + 1000, 1),
        (10 * block, 4096),
        (11 * block + 4, 1),
        (13 * block + 10, 20),
    ];
    for (offset, len) in pieces {
        write(&volume, FILE, offset, &vec![b'x'; len]);
    }
    let size = 13 * block + 30;
    let data = [(0, 1), (2, 4), (5, 6), (7, 9), (10, 12), (13, 14)];
    for _ in 0..2 {
        for offset in (0..size).step_by(113).chain([size - 1]) {
            let seek = |seek| volume.seek(FILE, offset, seek).unwrap();
            let (first, end) = data.iter().find(|(_, end)| offset < end * block).unwrap();
            assert_eq!(seek(Seek::Data), offset.max(first * block), "at {offset}");
            let hole = match offset < first * block {
                true => offset,
                false => (end * block).min(size),
            };
            assert_eq!(seek(Seek::Hole), hole, "at {offset}");
        }
        // From memory, then from the disk.
        volume.store().close().unwrap();
        volume = open(&sim);
    }
    let hole = volume.seek(FILE, 14 * block, Seek::Data);
    assert!(matches!(hole, Err(EngineError::NoSuchOffset)));
}

/// Chunks and free ranges make up everything, with nothing pending but what a checkpoint holds.
fn check_space(volume: &Volume, context: &str) {
    use std::ops::ControlFlow;

    use crate::format::key::{TreeId, trailing_u64};
    use crate::format::record::{ChunkRecord, PendingFree};
    use crate::format::superblock::UNITS_END;

    volume.store().checkpoint().unwrap();
    let view = volume.store.journal.view();
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
