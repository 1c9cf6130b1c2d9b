//! Content that memory keeps from writing it to reading it.

use super::*;
use crate::disk::counted::{Counted, counted};

const LARGE: usize = 300_000;
const SMALL: usize = 5000;

#[test]
fn what_was_read_and_checked_is_still_good_when_the_disk_is_not() {
    let sim = make();
    let volume = open(&sim);
    write_both(&volume, 7);
    volume.store().close().unwrap();
    let (volume, _) = open_counted(&sim);
    check(&volume, 7);
    sim.corrupt(3, 5000, &[6]);
    check(&volume, 7);
}

fn open_counted(sim: &SimMedia) -> (Arc<Volume>, Counted) {
    let (media, counts) = counted(sim.media());
    let options = OpenOptions {
        background: false,
        ..OpenOptions::default()
    };
    (Volume::open_media(media, options, clock()).unwrap(), counts)
}

/// Both files, written out.
fn write_both(volume: &Volume, value: u8) {
    write(volume, FILE, 0, &[value; LARGE]);
    write(volume, OTHER, 0, &[value; SMALL]);
    volume.write_out(FILE).unwrap();
    volume.write_out(OTHER).unwrap();
}

fn check(volume: &Volume, value: u8) {
    assert!(content(volume, FILE) == [value; LARGE], "the large one");
    assert!(content(volume, OTHER) == [value; SMALL], "the small one");
}

#[test]
fn what_was_written_is_read_from_memory() {
    for compression in ["off", "lz4"] {
        let sim = make_compressing(compression.parse().unwrap());
        let (volume, counts) = open_counted(&sim);
        for value in 1..4 {
            write_both(&volume, value);
            check(&volume, value);
            assert_eq!(counts.chunks.reads.read().count(), 0);
        }
        volume.store().close().unwrap();
        check(&open(&sim), 3);
    }
}

#[test]
fn what_is_freed_takes_no_memory() {
    let sim = make();
    let (volume, _) = open_counted(&sim);
    let taken = || volume.store.data.looks().bytes;
    write_both(&volume, 1);
    let once = taken();
    assert!(once >= at(LARGE) + at(SMALL), "{once}");
    write_both(&volume, 2);
    assert_eq!(taken(), once, "written over");
    delete(&volume, FILE);
    delete(&volume, OTHER);
    assert_eq!(taken(), 0, "deleted");
}

#[test]
fn what_is_read_in_pieces_takes_none_either() {
    let sim = make();
    let volume = open(&sim);
    write_both(&volume, 1);
    volume.store().close().unwrap();
    let (volume, counts) = open_counted(&sim);
    check(&volume, 1);
    for offset in (0..at(LARGE)).step_by(9000) {
        let mut byte = Vec::new();
        volume.read(FILE, offset, 1, &mut byte).unwrap();
    }
    assert!(counts.chunks.reads.read().count() > 0);
    delete(&volume, FILE);
    delete(&volume, OTHER);
    assert_eq!(volume.store.data.looks().bytes, 0);
}
