//! The mark that a store was closed: where it stands the log is not read, and whoever writes to the
//! store takes it away before.

use super::*;
use crate::format::superblock::{RO_COMPAT_UNMARKED, SUPERBLOCK_BYTES, Superblock};
use crate::store::superblock::read;

/// Where the superblock stands in a [`SimMedia`].
const SUPERBLOCK: usize = 0;

fn close(journal: &Journal) {
    journal.checkpoint(true, &|_| Ok(())).unwrap();
}

fn put(journal: &Journal, key: u8) {
    let mut tx = journal.begin().unwrap();
    tx.put(TREE, vec![key], vec![key]).unwrap();
    let end = tx.commit().unwrap();
    journal.sync(end).unwrap();
}

fn copies(sim: &SimMedia) -> [Option<Superblock>; 2] {
    [0, 1].map(|copy| {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        sim.peek(SUPERBLOCK, copy * SUPERBLOCK_BYTES as u64, &mut bytes);
        Superblock::decode(&bytes).ok()
    })
}

/// Writes a copy of the superblock, or spoils it.
fn set_copy(sim: &SimMedia, copy: u64, superblock: Option<&Superblock>) {
    let bytes = superblock.map_or([0xee; SUPERBLOCK_BYTES], Superblock::encode);
    sim.corrupt(SUPERBLOCK, copy * SUPERBLOCK_BYTES as u64, &bytes);
}

/// Three times opened, written to and closed; power lost after every event, four ways each.
#[test]
fn a_crash_at_any_event_of_opening_and_closing_loses_nothing() {
    let (mut crashes, mut skipped) = (0, 0);
    for seed in 0..20 {
        let made = SimMedia::new();
        create(&made);
        let sim = made.killed();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut history = History {
            states: vec![Model::new()],
            durable: vec![(0, 0)],
        };
        for _ in 0..3 {
            let journal = open(&sim).unwrap().journal;
            journal.find_free_pages().unwrap();
            let life = run(&sim, &journal, 12, &mut rng);
            let before = history.states.len() - 1;
            let durable = life.durable.iter().skip(1);
            history
                .durable
                .extend(durable.map(|(at, count)| (*at, before + count)));
            history.states.extend(life.states.into_iter().skip(1));
            close(&journal);
            let all = history.states.len() - 1;
            history.durable.push((sim.events(), all));
        }
        let mut recording = sim.recording();
        for event in 0..=recording.len() {
            let random = [(); 2].map(|()| Survival::Random(rng.random()));
            for survival in [Survival::None, Survival::All].into_iter().chain(random) {
                let crashed = recording.crash_at(event, survival);
                let closed = read(&*crashed.media().superblock).unwrap().is_closed();
                let context = format!("seed {seed}, event {event}, {survival:?}");
                check(&crashed, &history, event, &context, &mut rng);
                crashes += 1;
                skipped += usize::from(closed);
            }
        }
    }
    assert!(crashes > 4000, "{crashes} crashes explored");
    assert!(skipped > 100, "{skipped} of them without reading the log");
}

/// Only where both copies say that the store was closed, and whoever wrote them keeps to it, is
/// there nothing to be looked for; else a write of one of them may have been lost.
#[test]
fn the_log_is_read_unless_both_copies_say_that_the_store_was_closed() {
    let sim = SimMedia::new();
    create(&sim);
    let journal = open(&sim).unwrap().journal;
    put(&journal, 1);
    let in_use = journal.superblock();
    drop(journal);
    assert!(!in_use.clean && in_use.ro_compat & RO_COMPAT_UNMARKED != 0);
    let closed = Superblock {
        clean: true,
        ..in_use.clone()
    };
    // As before there was a promise to take the mark away.
    let marked = Superblock {
        ro_compat: 0,
        ..closed.clone()
    };
    let unmarked = Superblock {
        clean: false,
        ..marked.clone()
    };
    let (closed, marked) = (Some(&closed), Some(&marked));
    let (in_use, unmarked) = (Some(&in_use), Some(&unmarked));
    let cases = [
        (closed, closed, false),
        (closed, in_use, true),
        (in_use, closed, true),
        (closed, None, true),
        (None, closed, true),
        (in_use, in_use, true),
        (marked, marked, true),
        (marked, in_use, true),
        (in_use, marked, true),
        (unmarked, unmarked, true),
    ];
    for (case, (first, second, is_read)) in cases.into_iter().enumerate() {
        let sim = sim.killed();
        set_copy(&sim, 0, first);
        set_copy(&sim, 1, second);
        let before = copies(&sim);
        let (view, opened) = recovery::open_read_only(sim.media(), 1 << 20).unwrap();
        let found = contents(&view).len();
        assert_eq!(opened.report.log_read, is_read, "case {case}");
        assert_eq!(found, usize::from(is_read), "case {case}");
        assert_eq!(copies(&sim), before, "case {case}: read-only");
        let differ = first != second && first.is_some() && second.is_some();
        assert!(!differ || !opened.report.superblock.clean, "case {case}");

        let opened = open(&sim).unwrap();
        assert_eq!(opened.report.log_read, is_read, "case {case}");
        let after = [in_use.cloned(), in_use.cloned()];
        assert_eq!(copies(&sim), after, "case {case}: written to");
        let found = contents(&opened.journal.view()).len();
        assert_eq!(found, usize::from(is_read), "case {case}");
    }
}

#[test]
fn a_store_is_closed_from_its_last_checkpoint_to_the_next_opening() {
    let sim = SimMedia::new();
    create(&sim);
    for round in 0..3 {
        assert!(read(&*sim.media().superblock).unwrap().is_closed());
        let opened = open(&sim).unwrap();
        assert!(!opened.report.log_read && opened.report.was_clean());
        // What is not flushed by now does not count.
        let mut recording = sim.recording();
        let left = recording.crash_at(recording.len(), Survival::None);
        assert!(copies(&left).iter().flatten().all(|copy| !copy.clean));
        assert!(!open(&left).unwrap().report.was_clean());
        put(&opened.journal, round);
        close(&opened.journal);
    }
    let (view, _) = recovery::open_read_only(sim.media(), 1 << 20).unwrap();
    assert_eq!(contents(&view).len(), 3);
}

/// The copy that counts is whole until the other one is, whichever it is and whatever fails.
#[test]
fn an_opening_that_cannot_say_so_leaves_a_store_that_opens() {
    let sim = SimMedia::new();
    create(&sim);
    let mut failed = 0;
    for damaged in [None, Some(0), Some(1)] {
        for call in [Call::Write, Call::Flush] {
            for after in 0..4 {
                let sim = sim.killed();
                if let Some(copy) = damaged {
                    set_copy(&sim, copy, None);
                }
                sim.set_fault(Some(Fault {
                    call,
                    after,
                    sticky: true,
                    kind: io::ErrorKind::Other,
                }));
                let Err(error) = open(&sim) else {
                    continue;
                };
                failed += 1;
                assert!(error.to_string().starts_with("superblock"), "{error}");
                let mut recording = sim.recording();
                for seed in 0..20 {
                    let left = recording.crash_at(recording.len(), Survival::Random(seed));
                    open(&left).unwrap();
                }
            }
        }
    }
    assert_eq!(failed, 15);
}

#[test]
fn a_closed_journal_takes_no_transactions() {
    let sim = SimMedia::new();
    create(&sim);
    let journal = open(&sim).unwrap().journal;
    let mut tx = journal.begin().unwrap();
    tx.put(TREE, vec![1], vec![1]).unwrap();
    let end = tx.commit().unwrap();
    close(&journal);
    assert!(matches!(journal.begin(), Err(StoreError::ReadOnly(_))));
    assert!(journal.writable().is_err());
    let events = sim.events();
    assert!(journal.checkpoint(false, &|_| Ok(())).is_err());
    // What was committed before is durable, and can be read.
    journal.sync(end).unwrap();
    assert_eq!(contents(&journal.view()).len(), 1);
    assert_eq!(sim.events(), events);
    let opened = open(&sim).unwrap();
    assert_eq!(contents(&opened.journal.view()).len(), 1);
}

/// What a checkpoint carries over lies behind it in the log.
#[test]
fn a_store_is_not_closed_while_the_log_holds_anything() {
    let sim = SimMedia::new();
    create(&sim);
    let journal = open(&sim).unwrap().journal;
    put(&journal, 1);
    let carry = |_| {
        let mut tx = journal.begin_carry()?;
        tx.put(TREE, vec![2], vec![2])?;
        tx.commit().map(drop)
    };
    journal.checkpoint(true, &carry).unwrap();
    let opened = open(&sim).unwrap();
    assert!(opened.report.log_read && opened.report.applied == 1);
    assert_eq!(contents(&opened.journal.view()).len(), 2);
}
