//! Compressed chunks: what becomes one, how its parts are read, and what damage of it does.

use std::ops::ControlFlow;

use super::*;
use crate::disk::sim::{Call, Fault};
use crate::engine::data::space::units_used;
use crate::engine::{ScrubOptions, Settings};
use crate::format::record::{CHUNK_MAX, ChunkRecord, Codec};
use crate::fsck;

const WINDOW: usize = CHUNK_MAX as usize;

/// Stores with two files that razorfsck knows about.
fn compressing() -> [SimMedia; 3] {
    ["lz4", "zstd", "zstd:9"].map(|how| {
        let sim = make_as(&MkfsOptions {
            compression: how.parse().unwrap(),
            ..MkfsOptions::reproducible()
        });
        let volume = open(&sim);
        let made = ["file", "other"].map(|name| create(&volume, name));
        assert_eq!(made, [FILE, OTHER]);
        volume.store().close().unwrap();
        sim
    })
}

/// Numbers as text, each once.
fn text(len: usize) -> Vec<u8> {
    let numbers = (0..len).map(|number| format!("line {number}\n"));
    let mut bytes = numbers.take(len / 7 + 1).collect::<String>().into_bytes();
    bytes.truncate(len);
    bytes
}

fn random(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ChaCha8Rng::seed_from_u64(9).fill(&mut bytes[..]);
    bytes
}

fn errors(sim: &SimMedia) -> u64 {
    let options = fsck::Options {
        data: true,
        ..fsck::Options::default()
    };
    let checked = fsck::check(&sim.media(), options, &mut |_| {});
    checked.unwrap().errors
}

#[test]
fn text_takes_less_space_and_comes_back() {
    for sim in compressing() {
        let volume = open(&sim);
        let model = text(10 * WINDOW + 5000);
        write(&volume, FILE, 0, &model);
        volume.fsync(FILE, false).unwrap();
        let units = units_used(&volume.store.journal.view()).unwrap();
        assert!(units < at(model.len() / 4096 / 2), "{units} units");
        let counted = volume.store().activity();
        assert_eq!(counted.stored_content_bytes, model.len() as u64);
        assert_eq!(counted.stored_bytes, units * 4096);
        let allocated = volume.getattr(FILE).unwrap().blocks * 512;
        assert!(
            allocated >= at(model.len()),
            "what is read counts: {allocated}"
        );
        volume.store().close().unwrap();
        let volume = open(&sim);
        assert!(content(&volume, FILE) == model);
        volume.store().close().unwrap();
        assert_eq!(errors(&sim), 0);
        // Each piece by itself, with nothing in memory before the first.
        for (offset, len) in [
            (WINDOW + 7, 10),
            (3 * WINDOW - 9, 40),
            (WINDOW, 2 * WINDOW),
            (0, 40_000),
        ] {
            let volume = open(&sim);
            for _ in 0..2 {
                let mut found = Vec::new();
                volume.read(FILE, at(offset), len, &mut found).unwrap();
                assert!(found == model[offset..offset + len], "{len} at {offset}");
            }
        }
    }
}

#[test]
fn each_chunk_is_compressed_if_that_saves_a_unit() {
    for sim in compressing() {
        let volume = open(&sim);
        let part = [random(WINDOW), text(WINDOW), random(4000), vec![0; 96]].concat();
        write(&volume, FILE, 0, &part);
        write(&volume, FILE, at(3 * WINDOW), &text(4096));
        write(&volume, FILE, at(4 * WINDOW), &[7; 4097]);
        let almost = [random(WINDOW - 4000), vec![0; 4000]].concat();
        write(&volume, FILE, at(5 * WINDOW), &almost);
        volume.write_out(FILE).unwrap();
        let codecs: Vec<_> = chunks(&volume)
            .iter()
            .map(|(_, chunk)| {
                let units = |len: u32| len.div_ceil(4096);
                let saves = units(chunk.stored_len) < units(chunk.raw_len);
                assert_eq!(saves, chunk.codec != Codec::Raw, "{chunk:?}");
                saves
            })
            .collect();
        assert_eq!(codecs, [false, true, false, false, true, false]);
        check_space(&volume, "some compressed");
    }
}

#[test]
fn parts_of_compressed_chunks_are_overwritten_and_removed() {
    for sim in compressing() {
        let volume = open(&sim);
        let mut model = text(3 * WINDOW);
        write(&volume, FILE, 0, &model);
        volume.write_out(FILE).unwrap();
        for (offset, len) in [(100, 1000), (WINDOW - 10, 20), (2 * WINDOW, 4096)] {
            write(&volume, FILE, at(offset), &vec![b'!'; len]);
            put(&mut model, offset, &vec![b'!'; len]);
        }
        let hole = WINDOW + 50_000..WINDOW + 60_001;
        let (start, len) = (at(hole.start), at(hole.len()));
        volume
            .fallocate(FILE, start, len, Fallocate::PunchHole)
            .unwrap();
        model[hole].fill(0);
        model.truncate(3 * WINDOW - 777);
        let resized = volume.resize(FILE, at(model.len()), &mut |_, _| Ok(()));
        resized.unwrap();
        let copied = volume.copy_range(FILE, 5000, OTHER, 3, 200_000).unwrap();
        let copied = usize::try_from(copied).unwrap();
        volume.store().close().unwrap();
        let volume = open(&sim);
        assert!(content(&volume, FILE) == model);
        let other = [&[0; 3], &model[5000..5000 + copied]].concat();
        assert!(content(&volume, OTHER) == other);
        check_space(&volume, "cut and copied");
        volume.store().close().unwrap();
        assert_eq!(errors(&sim), 0);
        let volume = open(&sim);
        delete(&volume, FILE);
        delete(&volume, OTHER);
        volume.store().checkpoint().unwrap();
        assert_eq!(units_used(&volume.store.journal.view()).unwrap(), 0);
    }
}

#[test]
fn a_changed_setting_holds_for_new_chunks() {
    let sim = make();
    let volume = open(&sim);
    let codec_of_next = |how: &str| {
        let settings = Settings {
            compression: Some(how.parse().unwrap()),
            ..Settings::default()
        };
        volume.store().change_settings("main", settings).unwrap();
        write(&volume, FILE, 0, &text(WINDOW));
        volume.write_out(FILE).unwrap();
        chunks(&volume).last().unwrap().1.codec
    };
    assert_eq!(codec_of_next("lz4"), Codec::Lz4);
    assert_eq!(codec_of_next("zstd:3"), Codec::Zstd);
    assert_eq!(codec_of_next("off"), Codec::Raw);
}

/// Reads a byte; the error's text if there is one.
fn read_one(volume: &Volume, ino: Ino, offset: usize) -> Result<u8, String> {
    let mut found = Vec::new();
    let read = volume.read(ino, at(offset), 1, &mut found);
    read.map(|_| found[0]).map_err(|error| error.to_string())
}

#[test]
fn damage_of_a_compressed_chunk_is_an_error_that_names_it() {
    for sim in compressing() {
        let volume = open(&sim);
        write(&volume, FILE, 0, &text(2 * WINDOW));
        write(&volume, OTHER, 0, b"other");
        volume.store().close().unwrap();
        let (id, record) = chunks(&open(&sim)).remove(0);
        let place = record.start_unit * 4096 + u64::from(record.stored_len) / 2;
        let mut byte = [0];
        sim.peek(3, place, &mut byte);
        sim.corrupt(3, place, &[byte[0] ^ 1]);
        let volume = open(&sim);
        for offset in [0, WINDOW / 2, WINDOW - 1] {
            let error = read_one(&volume, FILE, offset).unwrap_err();
            assert!(error.contains(&format!("chunk {id}")), "{error}");
        }
        assert_eq!(
            read_one(&volume, FILE, WINDOW),
            Ok(text(2 * WINDOW)[WINDOW])
        );
        assert_eq!(read_one(&volume, OTHER, 0), Ok(b'o'));
        let scrubbed = volume
            .store()
            .scrub(ScrubOptions::default(), &mut |_| ControlFlow::Continue(()));
        assert_eq!(scrubbed.unwrap().errors, 1);
        volume.store().close().unwrap();
        assert_eq!(errors(&sim), 1);
    }
}

/// Stored bytes with the right checksums that are no content, or another.
#[test]
fn what_does_not_decompress_is_an_error_that_names_it() {
    for sim in compressing() {
        let volume = open(&sim);
        write(&volume, FILE, 0, &text(WINDOW));
        volume.write_out(FILE).unwrap();
        let (id, whole) = chunks(&volume).remove(0);
        let plant = |change: &dyn Fn(&mut ChunkRecord)| {
            let mut record = whole.clone();
            change(&mut record);
            let mut tx = volume.store.journal.begin().unwrap();
            let key = crate::format::key::chunk(id);
            tx.put(TreeId::Chunks, key, record.encode()).unwrap();
            tx.commit().unwrap();
            volume
                .store()
                .verify_chunk(id, &record)
                .unwrap_err()
                .to_string()
        };
        let error = plant(&|record| record.hash[0] ^= 1);
        assert!(error.contains("BLAKE3"), "{error}");
        let changes: [&dyn Fn(&mut ChunkRecord); 2] = [
            &|record: &mut ChunkRecord| record.raw_len -= 1,
            &|record: &mut ChunkRecord| {
                record.codec = match record.codec {
                    Codec::Lz4 => Codec::Zstd,
                    _ => Codec::Lz4,
                };
            },
        ];
        for change in changes {
            let named = format!("chunk {id}: it does not decompress");
            let error = plant(change);
            assert!(error.contains(&named), "{error}");
            volume.store.data.cache.forget(id, whole.raw_len);
            let error = read_one(&volume, FILE, 9).unwrap_err();
            assert!(error.contains(&named), "{error}");
        }
        volume.store().close().unwrap();
        assert!(errors(&sim) > 0);
    }
}

#[test]
fn a_disk_that_fails_once_is_an_error_once() {
    for sim in compressing() {
        let volume = open(&sim);
        write(&volume, FILE, 0, &text(WINDOW));
        volume.store().close().unwrap();
        let volume = open(&sim);
        let fault = |call| Fault {
            call,
            after: 0,
            sticky: false,
            kind: std::io::ErrorKind::Other,
        };
        // What the way to the chunk needs is in memory then.
        volume.getattr(FILE).unwrap();
        let _ = volume.seek(FILE, 0, Seek::Hole);
        let _ = chunks(&volume);
        sim.set_fault(Some(fault(Call::Read)));
        assert!(read_one(&volume, FILE, 0).is_err());
        assert!(content(&volume, FILE) == text(WINDOW));
        write(&volume, FILE, 0, &text(2 * WINDOW)[WINDOW..]);
        sim.set_fault(Some(fault(Call::Write)));
        assert!(volume.write_out(FILE).is_err());
        assert!(!volume.is_writable());
        drop(volume);
        let volume = open(&sim.killed());
        assert!(content(&volume, FILE) == text(WINDOW));
        check_space(&volume, "after a failed write");
    }
}
