//! Space: taken, given back, and none left.

use super::*;

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
    volume.store().checkpoint().unwrap();
    check_space(&volume, "after deleting");
    assert_eq!(
        crate::engine::data::space::units_used(&volume.store.journal.view()).unwrap(),
        0
    );
    assert_eq!(
        volume
            .load_counters(&volume.store.journal.view())
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
    volume.store().close().unwrap();
    let volume = open(&sim);
    let mut bytes = Vec::new();
    assert_eq!(
        volume.read(FILE, (1 << 40) - 7, 100, &mut bytes).unwrap(),
        7
    );
    assert_eq!(bytes, b"\0\0hello");
    let behind = volume.seek(FILE, 4096, Seek::Data).unwrap();
    assert_eq!(behind, (1 << 40) - 4096);
    assert_eq!(
        crate::engine::data::space::units_used(&volume.store.journal.view()).unwrap(),
        2
    );
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
    volume.store().checkpoint().unwrap();
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
    fill_fragmented(&make(), &[5; 128 << 10]);
}

/// What would fit one range compressed fits single units as it is.
#[test]
fn a_fragmented_full_disk_takes_what_could_be_compressed() {
    let mut bytes = vec![5; 128 << 10];
    ChaCha8Rng::seed_from_u64(1).fill(&mut bytes[..64 << 10]);
    for how in ["lz4", "zstd"] {
        fill_fragmented(&make_compressing(how.parse().unwrap()), &bytes);
    }
}

/// Fills a disk whose free space is in single units.
pub(super) fn fill_fragmented(sim: &SimMedia, bytes: &[u8]) {
    let volume = open(sim);
    let flags = WriteFlags::default();
    // No two are equal.
    let block = |number: u64| number.to_le_bytes().repeat(512);
    let count = 4096;
    // Every block a chunk of its own, so that the space of every second can be given back.
    for index in 0..count {
        volume
            .write(FILE, index * 4096, 4096, &mut &*block(index), flags)
            .unwrap();
        volume
            .write(OTHER, index * 4096, 4096, &mut &*block(!index), flags)
            .unwrap();
        volume.write_out(FILE).unwrap();
        volume.write_out(OTHER).unwrap();
    }
    volume.store().checkpoint().unwrap();
    sim.set_capacity(Some(sim.allocated()));
    let room = volume.store.journal.chunks().len_bytes() / 4096 - 2 * count;
    volume.resize(OTHER, 0, &mut |_, _| Ok(())).unwrap();
    // Two of each.
    let window = |offset: u64| {
        let number = offset / at(2 * bytes.len());
        [&number.to_le_bytes(), &bytes[8..]].concat()
    };
    let mut written = 0;
    loop {
        match volume.write(OTHER, written, bytes.len(), &mut &*window(written), flags) {
            Ok(len) => written += at(len),
            Err(EngineError::Store(crate::store::StoreError::NoSpace(_))) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(written / 4096 > room, "space between chunks was not used");
    volume.fsync(OTHER, false).unwrap();
    volume.store().close().unwrap();
    let volume = open(sim);
    let windows: Vec<u8> = (0..written).step_by(bytes.len()).flat_map(window).collect();
    assert!(content(&volume, OTHER) == windows);
    let blocks: Vec<u8> = (0..count).flat_map(block).collect();
    assert!(content(&volume, FILE) == blocks);
    check_space(&volume, "after filling the gaps");
}
