//! Content that a repair could not find again, and numbers of chunks.

use super::*;
use crate::format::id::ChunkId;
use crate::format::key::{TreeId, trailing_u64};
use crate::fsck::{self, Options};

fn read(volume: &Volume, offset: u64, len: usize) -> Result<Vec<u8>, EngineError> {
    let mut sink = Vec::new();
    volume.read(FILE, offset, len, &mut sink)?;
    Ok(sink)
}

/// A file of 20,000 bytes whose second block was damaged and is lost.
fn make_lost() -> SimMedia {
    let sim = make();
    let volume = open(&sim);
    write(&volume, FILE, 0, &[7; 20_000]);
    volume.store().close().unwrap();
    sim.corrupt(3, 5000, &[6]);
    let options = Options {
        data: true,
        ..Options::default()
    };
    fsck::repair(&sim.media(), options, &mut |_| {}).unwrap();
    sim
}

#[test]
fn lost_content_is_an_error_until_it_is_written_again() {
    let volume = open(&make_lost());
    assert_eq!(read(&volume, 0, 4096).unwrap(), [7; 4096]);
    assert_eq!(read(&volume, 8192, 11_808).unwrap(), vec![7; 11_808]);
    assert!(read(&volume, 4096, 1).is_err() && read(&volume, 8191, 1).is_err());
    write(&volume, FILE, 5000, &[1; 1000]);
    volume.write_out(FILE).unwrap();
    assert_eq!(read(&volume, 5000, 1000).unwrap(), [1; 1000]);
    assert!(read(&volume, 4999, 1).is_err() && read(&volume, 6000, 1).is_err());
    write(&volume, FILE, 4096, &[2; 4096]);
    volume.store().close().unwrap();
}

#[test]
fn lost_content_can_be_cut_off_punched_and_removed() {
    let volume = open(&make_lost());
    volume
        .fallocate(FILE, 4096, 1000, Fallocate::PunchHole)
        .unwrap();
    assert_eq!(read(&volume, 4096, 1000).unwrap(), [0; 1000]);
    assert!(read(&volume, 5096, 1).is_err());
    volume.resize(FILE, 6000, &mut |_, _| Ok(())).unwrap();
    volume.resize(FILE, 8000, &mut |_, _| Ok(())).unwrap();
    assert_eq!(read(&volume, 6000, 2000).unwrap(), [0; 2000]);
    delete(&volume, FILE);
    volume.store().close().unwrap();
}

#[test]
fn lost_content_is_not_copied() {
    let volume = open(&make_lost());
    write(&volume, OTHER, 0, &[9; 20_000]);
    assert!(volume.copy_range(FILE, 0, OTHER, 0, 20_000).is_err());
    assert_eq!(content(&volume, OTHER), [9; 20_000]);
    assert!(volume.copy_range(FILE, 8192, OTHER, 0, 4096).is_ok());
}

/// An extent on an old page must lead to its own chunk or to none.
#[test]
fn the_number_of_a_chunk_never_comes_back() {
    let sim = make();
    let mut numbers = std::collections::BTreeSet::new();
    for round in 0..10u8 {
        let volume = open(&sim);
        write(&volume, FILE, 0, &[round; 9]);
        volume.write_out(FILE).unwrap();
        let last = volume
            .store
            .journal
            .view()
            .floor(TreeId::Chunks, &[0xff; 9]);
        let (key, _) = last.unwrap().unwrap();
        let number = trailing_u64(&key).unwrap();
        assert!(numbers.insert(number), "{number} came back");
        assert!(ChunkId(number) != ChunkId::LOST);
        volume.resize(FILE, 0, &mut |_, _| Ok(())).unwrap();
        volume.store().close().unwrap();
    }
}
