//! What the simulated disk keeps and loses.

use super::*;

#[test]
fn what_was_flushed_survives_and_the_rest_may_not() {
    let sim = SimMedia::new();
    let disk = sim.media().nodes;
    disk.write_at(0, &[1; 4096]).unwrap();
    disk.flush().unwrap();
    disk.write_at(0, &[2; 4096]).unwrap();
    let mut recording = sim.recording();
    let mut seen = std::collections::HashSet::new();
    for seed in 0..200 {
        let crashed = recording.crash_at(3, Survival::Random(seed)).media().nodes;
        let mut buf = [0; 4096];
        crashed.read_at(0, &mut buf).unwrap();
        assert!(buf.iter().all(|byte| *byte == 1 || *byte == 2));
        for sector in buf.chunks(SECTOR_BYTES) {
            assert!(
                sector.iter().all(|byte| *byte == sector[0]),
                "torn within a sector"
            );
        }
        seen.insert(buf.to_vec());
    }
    assert!(
        seen.len() > 20,
        "too few ways to tear a write: {}",
        seen.len()
    );
}

#[test]
fn before_a_flush_nothing_need_survive() {
    let sim = SimMedia::new();
    let disk = sim.media().wal;
    disk.write_at(100, &[1; 10]).unwrap();
    disk.flush().unwrap();
    let mut recording = sim.recording();
    assert_eq!(
        recording
            .crash_at(1, Survival::None)
            .media()
            .wal
            .len_bytes(),
        0
    );
    assert_eq!(
        recording
            .crash_at(2, Survival::None)
            .media()
            .wal
            .len_bytes(),
        110
    );
}

#[test]
fn writing_through_makes_that_write_durable_and_no_other() {
    let sim = SimMedia::new();
    let disk = sim.media().wal;
    disk.write_at(0, &[1; 512]).unwrap();
    disk.write_through(512, &[2; 512]).unwrap();
    let mut recording = sim.recording();
    let mut found = |events| {
        let crashed = recording.crash_at(events, Survival::None).media().wal;
        let mut buf = vec![0; usize::try_from(crashed.len_bytes()).unwrap()];
        crashed.read_at(0, &mut buf).unwrap();
        buf
    };
    assert!(found(2).is_empty(), "durable before it returned");
    assert_eq!(found(3), [[0; 512], [2; 512]].concat());
}

#[test]
fn fails_the_call_it_is_told_to() {
    let sim = SimMedia::new();
    let media = sim.media();
    let kind = io::ErrorKind::Other;
    sim.set_fault(Some(Fault {
        call: Call::Flush,
        after: 1,
        sticky: true,
        kind,
    }));
    assert!(media.wal.flush().is_ok());
    assert!(media.nodes.flush().is_err());
    assert!(media.wal.flush().is_err());
    assert!(media.wal.write_at(0, &[0]).is_ok());
    sim.set_capacity(Some(10_000));
    assert!(media.chunks.allocate(0, 8000).is_ok());
    let error = media.chunks.allocate(8000, 8000).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}

#[test]
fn a_trim_that_was_not_flushed_may_survive_in_part() {
    let sim = SimMedia::new();
    let disk = sim.media().chunks;
    let count = |disk: &dyn Disk, byte: u8| {
        let mut buf = vec![9; 8 * 4096];
        disk.read_at(0, &mut buf).unwrap();
        buf.chunks(4096).filter(|page| page[0] == byte).count()
    };
    disk.write_at(0, &[1; 8 * 4096]).unwrap();
    disk.flush().unwrap();
    disk.trim(0, 8 * 4096).unwrap();
    assert_eq!((count(&*disk, 0), sim.allocated()), (8, 0));
    let mut recording = sim.recording();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let crashed = recording.crash_at(3, Survival::Random(seed)).media().chunks;
        seen.insert(count(&*crashed, 0));
        assert_eq!(count(&*crashed, 0) + count(&*crashed, 1), 8);
    }
    assert!(seen.len() > 5 && seen.contains(&0) && seen.contains(&8));
    // What is written behind it is there when both are.
    disk.write_at(4096, &[1; 4096]).unwrap();
    disk.flush().unwrap();
    let flushed = sim.recording().crash_at(5, Survival::None);
    assert_eq!(count(&*flushed.media().chunks, 1), 1);
    assert_eq!(flushed.allocated(), 4096);
}

#[test]
fn space_that_was_given_back_may_be_gone() {
    let sim = SimMedia::new();
    let disk = sim.media().chunks;
    disk.allocate(0, 8 * 4096).unwrap();
    sim.set_capacity(Some(8 * 4096));
    disk.trim(0, 2 * 4096).unwrap();
    disk.allocate(8 * 4096, 4096).unwrap();
    disk.write_at(4096, &[1; 4096]).unwrap();
    let full = disk.write_at(0, &[1; 4096]).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    disk.cut(8 * 4096).unwrap();
    disk.write_at(0, &[1; 4096]).unwrap();
    assert_eq!(disk.len_bytes(), 8 * 4096);
}
