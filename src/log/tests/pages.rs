//! Pages of nodes.dat that go back to the disk: nothing is lost, and a checkpoint never lacks space.

use super::*;
use crate::format::id::PageNo;
use crate::store::pages::Need;

const NODES: usize = 1;
/// Each takes a fifth of a page.
const VALUE: usize = 700;
const KEYS: u64 = 24_000;
/// Keys that stay.
const LEFT: u64 = 100;

fn key(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

fn checkpoint(journal: &Journal) -> Result<(), StoreError> {
    journal.checkpoint(false, &|_| Ok(()))
}

/// Puts or deletes keys, many in each transaction. The first error.
fn change(journal: &Journal, keys: std::ops::Range<u64>, put: bool) -> Result<(), StoreError> {
    let mut from = keys.start;
    while from < keys.end {
        let mut tx = journal.begin()?;
        let end = keys.end.min(from + 200);
        for number in from..end {
            if put {
                tx.put(TREE, key(number), vec![7; VALUE])?;
            } else {
                tx.delete(TREE, key(number))?;
            }
        }
        tx.commit()?;
        if journal.pressure() > crate::log::journal::Pressure::None {
            checkpoint(journal)?;
        }
        from = end;
    }
    checkpoint(journal)
}

/// A journal whose trees had many pages, of which few are left.
fn emptied(sim: &SimMedia) -> Journal {
    create(sim);
    let journal = open(sim).unwrap().journal;
    journal.find_free_pages().unwrap();
    change(&journal, 0..KEYS, true).unwrap();
    change(&journal, LEFT..KEYS, false).unwrap();
    journal
}

fn is_whole(journal: &Journal) {
    let expected: Model = (0..LEFT).map(|n| (key(n), vec![7; VALUE])).collect();
    assert!(contents(&journal.view()) == expected);
}

#[test]
fn free_pages_go_back_to_the_disk_and_come_from_there_again() {
    let sim = SimMedia::new();
    let journal = emptied(&sim);
    let full = sim.allocated();
    let length = sim.disk_len(NODES);
    assert_eq!(
        journal.trim_pages(false).unwrap(),
        0,
        "somebody needed them"
    );
    let mut back = journal.trim_pages(false).unwrap();
    assert_eq!(sim.holes(NODES), back);
    back += journal.trim_pages(true).unwrap();
    assert_eq!(sim.disk_len(NODES), length, "a superblock has it still");
    checkpoint(&journal).unwrap();
    back += journal.cut_pages().unwrap();
    assert!(back > 4 << 20, "{back}");
    assert!(sim.allocated() + back <= full, "{back}");
    assert!(sim.disk_len(NODES) < length, "its end is cut off");
    assert!(sim.disk_len(NODES) >= journal.superblock().nodes_end.0 * 4096);
    is_whole(&journal);
    drop(journal);

    let journal = open(&sim).unwrap().journal;
    journal.find_free_pages().unwrap();
    is_whole(&journal);
    change(&journal, LEFT..KEYS, true).unwrap();
    assert!(
        sim.disk_len(NODES) <= length + (2 << 20),
        "holes come first"
    );
    assert_eq!(
        contents(&open(&sim).unwrap().journal.view()).len() as u64,
        KEYS
    );
}

/// A file that grew ahead of use, for transactions that changed much, gets shorter when they are over.
#[test]
fn what_the_file_has_ahead_is_cut_off() {
    for all in [false, true] {
        let sim = SimMedia::new();
        create(&sim);
        let journal = open(&sim).unwrap().journal;
        journal.find_free_pages().unwrap();
        change(&journal, 0..LEFT, true).unwrap();
        let pages = &journal.storage.pages;
        pages.reserve(20_000, Need::Space).unwrap();
        let ahead = sim.disk_len(NODES);
        assert!(ahead > 20_000 * 4096);
        let mut back = journal.trim_pages(all).unwrap();
        if !all {
            assert_eq!(back, 0, "somebody may have needed it");
            back = journal.trim_pages(all).unwrap();
        }
        let length = sim.disk_len(NODES);
        assert_eq!(back, ahead - length);
        let end = pages.extent().0.0;
        let kept = length / 4096 - end;
        assert!(kept <= 3 * 1024, "{kept} pages behind {end}");
        // What transactions count on is there, and what they need beyond it is not on this disk.
        sim.set_capacity(Some(sim.allocated()));
        change(&journal, 0..LEFT, true).unwrap();
        is_whole(&journal);
        sim.set_capacity(None);
        change(&journal, LEFT..KEYS, true).unwrap();
        drop(journal);
        let journal = open(&sim).unwrap().journal;
        assert_eq!(contents(&journal.view()).len() as u64, KEYS);
    }
}

/// What was freed before the store was opened goes back as well, though nobody knows what of it did
/// already.
#[test]
fn what_was_free_before_opening_goes_back() {
    let sim = SimMedia::new();
    drop(emptied(&sim));
    let journal = open(&sim).unwrap().journal;
    journal.find_free_pages().unwrap();
    journal.trim_pages(true).unwrap();
    checkpoint(&journal).unwrap();
    journal.cut_pages().unwrap();
    let (holes, length) = (sim.holes(NODES), sim.disk_len(NODES));
    let end = journal.superblock().nodes_end;
    assert!(holes > 4 << 20, "{holes} of {length}, {end} pages");
    is_whole(&journal);
    change(&journal, LEFT..KEYS, true).unwrap();
    change(&journal, LEFT..KEYS, false).unwrap();
    is_whole(&journal);
}

/// The same, with a page that is used near the end of the file: what is free before it becomes holes.
fn hollow(sim: &SimMedia) -> Journal {
    create(sim);
    let journal = open(sim).unwrap().journal;
    journal.find_free_pages().unwrap();
    change(&journal, 0..KEYS, true).unwrap();
    change(&journal, LEFT..KEYS - 5, false).unwrap();
    // What the last checkpoint freed is free behind the next ones.
    for _ in 0..2 {
        change(&journal, 0..1, true).unwrap();
    }
    journal
}

/// What a transaction was let begin can be made durable, whatever became a hole before, and also when
/// nobody knows which pages are holes.
#[test]
fn a_checkpoint_on_a_full_disk_never_lacks_space() {
    for reopened in [false, true] {
        let sim = SimMedia::new();
        let mut journal = hollow(&sim);
        let mut back = journal.trim_pages(true).unwrap();
        checkpoint(&journal).unwrap();
        back += journal.cut_pages().unwrap();
        assert!(back > 4 << 20 && sim.holes(NODES) > 4 << 20, "{back}");
        if reopened {
            drop(journal);
            journal = open(&sim).unwrap().journal;
            journal.find_free_pages().unwrap();
        }
        sim.set_capacity(Some(sim.allocated() + 4096 * 100));
        let refused = change(&journal, LEFT..3 * KEYS, true);
        assert!(
            matches!(refused, Err(StoreError::NoSpace(_))),
            "{refused:?}"
        );
        checkpoint(&journal).unwrap();
        journal.writable().unwrap();
        let before = contents(&journal.view());
        drop(journal);
        let journal = open(&sim).unwrap().journal;
        assert!(contents(&journal.view()) == before);
        sim.set_capacity(None);
        change(&journal, LEFT..KEYS - 5, true).unwrap();
    }
}

#[test]
fn a_disk_that_fails_loses_no_page() {
    let kinds = [io::ErrorKind::Other, io::ErrorKind::Unsupported];
    let calls = [Call::Trim, Call::Cut];
    for (call, kind) in calls
        .into_iter()
        .flat_map(|call| kinds.map(|kind| (call, kind)))
    {
        let context = format!("{call:?} {kind}");
        let sim = SimMedia::new();
        let journal = emptied(&sim);
        let (after, sticky) = (0, false);
        sim.set_fault(Some(Fault {
            call,
            after,
            sticky,
            kind,
        }));
        let mut results = vec![journal.trim_pages(true)];
        checkpoint(&journal).unwrap();
        results.push(journal.cut_pages());
        let failed = results.iter().any(Result::is_err);
        assert_eq!(
            failed,
            kind == io::ErrorKind::Other,
            "{context}: {results:?}"
        );
        sim.set_fault(None);
        is_whole(&journal);
        let end = journal.superblock().nodes_end;
        change(&journal, LEFT..KEYS, true).unwrap();
        change(&journal, LEFT..KEYS, false).unwrap();
        let most = end.0 + KEYS / 4 + 3000;
        assert!(
            journal.superblock().nodes_end < PageNo(most),
            "{context}: {end}"
        );
        is_whole(&journal);
        is_whole(&open(&sim).unwrap().journal);
    }
    // The disk does not give back what it took.
    let sim = SimMedia::new();
    let journal = emptied(&sim);
    journal.trim_pages(true).unwrap();
    checkpoint(&journal).unwrap();
    journal.cut_pages().unwrap();
    sim.set_fault(Some(Fault {
        call: Call::Allocate,
        after: 0,
        sticky: true,
        kind: io::ErrorKind::Other,
    }));
    let refused = change(&journal, LEFT..KEYS, true);
    assert!(refused.is_err(), "{} calls", sim.fault_calls());
    checkpoint(&journal).unwrap();
    sim.set_fault(None);
    change(&journal, LEFT..KEYS, true).unwrap();
}

/// Power cut at any moment: the store opens, with what was durable.
#[test]
fn a_power_cut_around_it_loses_nothing() {
    let sim = SimMedia::new();
    drop(emptied(&sim));
    let sim = sim.killed();
    let journal = open(&sim).unwrap().journal;
    journal.find_free_pages().unwrap();
    let start = sim.events();
    for round in 0..3 {
        // What may be holes gets its space, and becomes free.
        change(&journal, LEFT..10_000, true).unwrap();
        change(&journal, LEFT..10_000, false).unwrap();
        journal.trim_pages(true).unwrap();
        checkpoint(&journal).unwrap();
        journal.cut_pages().unwrap();
        change(&journal, LEFT..LEFT + 10 + round, true).unwrap();
        change(&journal, LEFT..LEFT + 10 + round, false).unwrap();
    }
    let mut recording = sim.recording();
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let whole: Model = (0..LEFT).map(|n| (key(n), vec![7; VALUE])).collect();
    let points: Vec<_> = (start..=recording.len()).step_by(149).collect();
    let near = recording.len().saturating_sub(60)..=recording.len();
    for point in points.into_iter().chain(near) {
        let survival = match point % 3 {
            0 => Survival::None,
            1 => Survival::All,
            _ => Survival::Random(rng.random()),
        };
        let crashed = recording.crash_at(point, survival);
        let opened = open(&crashed).unwrap_or_else(|error| panic!("point {point}: {error}"));
        let mut found = contents(&opened.journal.view());
        found.retain(|key, _| whole.contains_key(key));
        assert!(found == whole, "point {point}");
    }
}
