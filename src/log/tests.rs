//! The journal on disks that lose power and fail.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Journal;
use super::recovery::{self, Format, Opened, Options};
use crate::disk::sim::{Call, Fault, SimMedia, Survival};
use crate::format::key::TreeId;
use crate::store::{Read, StoreError};

mod closing;
mod copies;
mod pages;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

const TREE: TreeId = TreeId::Chunks;

fn create(sim: &SimMedia) {
    let journal = recovery::create(sim.media(), Format::reproducible(), 1 << 20).unwrap();
    journal.checkpoint(true, &|_| Ok(())).unwrap();
}

fn open(sim: &SimMedia) -> Result<Opened, StoreError> {
    let options = Options {
        read_only: false,
        discard_damaged_log: false,
        cache_bytes: 1 << 20,
    };
    recovery::open(sim.media(), options)
}

fn contents(read: &impl Read) -> Model {
    let mut all = BTreeMap::new();
    read.scan(TREE, &[], &[0xff; 9], &mut |key, value| {
        all.insert(key.to_vec(), value.to_vec());
        ControlFlow::Continue(())
    })
    .unwrap();
    all
}

/// What a run acknowledged: the state after each transaction, and at each event of the disks how
/// many transactions were committed and how many known to be durable.
struct History {
    states: Vec<Model>,
    /// Position in the events, transactions durable from there on.
    durable: Vec<(usize, usize)>,
}

/// Random transactions with syncs and checkpoints between them.
fn run(sim: &SimMedia, journal: &Journal, steps: usize, rng: &mut ChaCha8Rng) -> History {
    let mut model = contents(&journal.view());
    let mut history = History {
        states: vec![model.clone()],
        durable: vec![(0, 0)],
    };
    for _ in 0..steps {
        let mut tx = journal.begin().unwrap();
        for _ in 0..rng.random_range(1..5) {
            let key = rng.random_range(0..60u64).to_be_bytes().to_vec();
            if rng.random_bool(0.3) {
                let there = tx.delete(TREE, key.clone()).unwrap();
                assert_eq!(there, model.remove(&key).is_some());
            } else {
                let value = vec![rng.random(); rng.random_range(0..600)];
                tx.put(TREE, key.clone(), value.clone()).unwrap();
                model.insert(key, value);
            }
            let name = rng.random_range(0..40u32);
            tx.intern(format!("name {name}").as_bytes()).unwrap();
        }
        if rng.random_bool(0.1) {
            drop(tx);
            model.clone_from(history.states.last().unwrap());
            continue;
        }
        let end = tx.commit().unwrap();
        history.states.push(model.clone());
        let durable = match rng.random_range(0..20) {
            0..5 => journal.sync(end).is_ok(),
            5 => journal.checkpoint(false, &|_| Ok(())).is_ok(),
            _ => false,
        };
        if durable {
            history
                .durable
                .push((sim.events(), history.states.len() - 1));
        }
    }
    history
}

/// Power lost after every event, three ways each; the recovered state must be one of the history,
/// not before what was durable then, and recovery crashed again must come to the same.
fn explore(seed: u64, steps: usize) -> usize {
    let sim = SimMedia::new();
    create(&sim);
    let sim = sim.killed();
    let journal = open(&sim).unwrap().journal;
    journal.find_free_pages().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let history = run(&sim, &journal, steps, &mut rng);
    let mut recording = sim.recording();
    let mut crashes = 0;
    for event in 0..=recording.len() {
        for survival in [
            Survival::None,
            Survival::All,
            Survival::Random(rng.random()),
        ] {
            let crashed = recording.crash_at(event, survival);
            let context = format!("seed {seed}, event {event}, {survival:?}");
            check(&crashed, &history, event, &context, &mut rng);
            crashes += 1;
        }
    }
    crashes
}

fn check(crashed: &SimMedia, history: &History, event: usize, context: &str, rng: &mut ChaCha8Rng) {
    let opened = open(crashed).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(opened.report.damage, None, "{context}");
    let found = contents(&opened.journal.view());
    let durable = history
        .durable
        .iter()
        .rev()
        .find(|(position, _)| *position <= event)
        .map_or(0, |(_, durable)| *durable);
    let prefix = history.states[durable..].contains(&found);
    assert!(
        prefix,
        "{context}: the state is none of those after {durable}"
    );

    // Recovery ends with a checkpoint; the power goes again in the middle of that.
    opened.journal.find_free_pages().unwrap();
    opened.journal.checkpoint(false, &|_| Ok(())).unwrap();
    let mut recording = crashed.recording();
    let second = rng.random_range(0..=recording.len());
    let again = recording.crash_at(second, Survival::Random(rng.random()));
    let opened = open(&again).unwrap_or_else(|error| panic!("{context}, again {second}: {error}"));
    assert_eq!(
        contents(&opened.journal.view()),
        found,
        "{context}, again {second}"
    );
}

#[test]
fn a_crash_at_any_event_leaves_a_state_not_older_than_what_was_synced() {
    let crashes: usize = (0..40).map(|seed| explore(seed, 60)).sum();
    assert!(crashes > 6000, "{crashes} crashes explored");
}

#[test]
fn goes_on_for_many_laps_of_the_log() {
    let sim = SimMedia::new();
    create(&sim);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut model = Model::new();
    for round in 0..12 {
        let journal = open(&sim).unwrap().journal;
        assert_eq!(contents(&journal.view()), model, "round {round}");
        journal.find_free_pages().unwrap();
        for _ in 0..3000 {
            if journal.pressure() > super::journal::Pressure::None {
                journal.checkpoint(false, &|_| Ok(())).unwrap();
            }
            let mut tx = journal.begin().unwrap();
            let key = rng.random_range(0..500u64).to_be_bytes().to_vec();
            let value = vec![rng.random(); 600];
            tx.put(TREE, key.clone(), value.clone()).unwrap();
            tx.commit().unwrap();
            model.insert(key, value);
        }
        journal.sync(journal.end_lsn()).unwrap();
    }
    // 20 MiB went through a log of 4: the pages of old checkpoints were used again.
    assert!(
        sim.disk_len(1) < 8 << 20,
        "nodes.dat has {} bytes",
        sim.disk_len(1)
    );
}

#[test]
fn a_full_log_refuses_and_a_checkpoint_helps() {
    let sim = SimMedia::new();
    create(&sim);
    let journal = open(&sim).unwrap().journal;
    let put = |key: u64| {
        let mut tx = journal.begin()?;
        tx.put(TREE, key.to_be_bytes(), vec![1; 700])?;
        tx.commit()
    };
    let full = (0..10_000).find_map(|key| put(key).err()).unwrap();
    assert!(matches!(full, StoreError::NoSpace(_)), "{full}");
    journal.checkpoint(false, &|_| Ok(())).unwrap();
    put(1).unwrap();
}

#[test]
fn after_any_failed_write_or_flush_nothing_more_becomes_durable() {
    for call in [Call::Write, Call::Flush] {
        for after in 0..12 {
            let sim = SimMedia::new();
            create(&sim);
            let sim = sim.killed();
            let journal = open(&sim).unwrap().journal;
            let kind = io::ErrorKind::Other;
            let sticky = false;
            sim.set_fault(Some(Fault {
                call,
                after,
                sticky,
                kind,
            }));
            let mut durable = 0;
            let mut failed = false;
            for step in 0..20u64 {
                let committed = journal.begin().and_then(|mut tx| {
                    tx.put(TREE, step.to_be_bytes(), vec![7; 50])?;
                    tx.commit()
                });
                let result = committed.and_then(|end| {
                    if step % 4 == 3 {
                        journal.checkpoint(false, &|_| Ok(()))
                    } else {
                        journal.sync(end)
                    }
                });
                match result {
                    Ok(()) => {
                        assert!(!failed, "{call:?} {after}: durable after a failure");
                        durable = step + 1;
                    }
                    Err(_) => failed = true,
                }
            }
            assert!(failed, "{call:?} {after} was never reached");
            assert!(journal.writable().is_err());
            let mut recording = sim.recording();
            let events = recording.len();
            for seed in 0..10 {
                let crashed = recording.crash_at(events, Survival::Random(seed));
                let found = contents(&open(&crashed).unwrap().journal.view());
                assert!(
                    found.len() as u64 >= durable,
                    "{call:?} {after}: lost what was synced"
                );
            }
        }
    }
}

#[test]
fn damage_in_acknowledged_log_is_reported_and_nothing_is_written_over_it() {
    let sim = SimMedia::new();
    create(&sim);
    let journal = open(&sim).unwrap().journal;
    for step in 0..5u64 {
        let mut tx = journal.begin().unwrap();
        tx.put(TREE, step.to_be_bytes(), vec![7; 50]).unwrap();
        journal.sync(tx.commit().unwrap()).unwrap();
    }
    drop(journal);
    // The third batch: two header blocks, then a block a batch.
    sim.corrupt(4, 8192 + 2 * 4096 + 100, &[0xff]);
    let events = sim.events();
    let opened = open(&sim).unwrap();
    assert!(opened.report.damage.is_some());
    assert_eq!(contents(&opened.journal.view()).len(), 2);
    assert!(
        opened.journal.begin().is_err(),
        "read-only until somebody decides"
    );
    assert_eq!(sim.events(), events);

    let options = Options {
        read_only: false,
        discard_damaged_log: true,
        cache_bytes: 1 << 20,
    };
    let opened = recovery::open(sim.media(), options).unwrap();
    opened.journal.checkpoint(false, &|_| Ok(())).unwrap();
    drop(opened);
    let opened = open(&sim).unwrap();
    assert_eq!(opened.report.damage, None);
    assert_eq!(contents(&opened.journal.view()).len(), 2);
}

#[test]
fn waiting_fsyncs_share_a_flush() {
    let sim = SimMedia::new();
    create(&sim);
    let journal = open(&sim).unwrap().journal;
    let ends: Vec<_> = (0..100u64)
        .map(|step| {
            let mut tx = journal.begin().unwrap();
            tx.put(TREE, step.to_be_bytes(), vec![7; 50]).unwrap();
            tx.commit().unwrap()
        })
        .collect();
    let before = sim.events();
    std::thread::scope(|scope| {
        for end in ends {
            let journal = &journal;
            scope.spawn(move || journal.sync(end).unwrap());
        }
    });
    // One write and one flush of the log, and one flush of chunks.dat, for all hundred.
    assert!(
        sim.events() - before <= 3,
        "{} events",
        sim.events() - before
    );
}

/// By a wrong length the log would be full for ever, and whoever waits for a checkpoint too.
#[test]
fn a_superblock_that_is_wrong_about_the_log_is_refused() {
    for log_bytes in [0, 4096, (4 << 20) - 4096] {
        let sim = SimMedia::new();
        create(&sim);
        let found = crate::store::superblock::read(&*sim.media().superblock);
        let mut superblock = found.unwrap().superblock;
        superblock.log_bytes = log_bytes;
        for copy in 0..2 {
            sim.corrupt(0, copy * 4096, &superblock.encode());
        }
        let refused = open(&sim).map(drop).unwrap_err();
        assert!(matches!(refused, StoreError::Corrupt(_)), "{refused}");
    }
}

/// A checkpoint cut off between the copies leaves copy 1 behind, and so does rot. The next
/// checkpoint tears copy 0 in a crash: copy 1 must not be one whose pages and log are gone by then.
#[test]
fn opening_brings_both_superblock_copies_up_to_date() {
    let copy_of = |sim: &SimMedia, copy: u64| {
        let mut bytes = vec![0; 4096];
        sim.peek(0, copy * 4096, &mut bytes);
        bytes
    };
    for rot in [false, true] {
        let sim = SimMedia::new();
        create(&sim);
        let old = copy_of(&sim, 1);
        let journal = open(&sim).unwrap().journal;
        let mut tx = journal.begin().unwrap();
        tx.put(TREE, vec![1], vec![2]).unwrap();
        tx.commit().unwrap();
        journal.checkpoint(false, &|_| Ok(())).unwrap();
        drop(journal);
        let behind = if rot { vec![0xee; 4096] } else { old };
        sim.corrupt(0, 4096, &behind);
        let before = sim.events();
        recovery::open_read_only(sim.media(), 1 << 20).unwrap();
        assert_eq!(sim.events(), before, "a read-only opening writes nothing");
        let opened = open(&sim).unwrap();
        assert_eq!(copy_of(&sim, 0), copy_of(&sim, 1));
        assert_eq!(contents(&opened.journal.view()).len(), 1);
    }
}

#[test]
fn a_view_reads_what_it_saw_however_many_checkpoints_pass() {
    let sim = SimMedia::new();
    create(&sim);
    let journal = open(&sim).unwrap().journal;
    journal.find_free_pages().unwrap();
    let fill = |value: u8| {
        let mut tx = journal.begin().unwrap();
        for key in 0..400u64 {
            let key = key.to_be_bytes().to_vec();
            tx.put(TREE, key, vec![value; 500]).unwrap();
        }
        tx.commit().unwrap();
        journal.checkpoint(false, &|_| Ok(())).unwrap();
    };
    fill(0);
    let view = journal.view();
    let seen = journal.superblock().nodes_used;
    for value in 1..6 {
        fill(value);
    }
    assert!(contents(&view).values().all(|value| *value == [0; 500]));
    drop(view);
    // What waited for the view is used again.
    fill(6);
    let end = journal.superblock().nodes_end;
    for value in 7..20 {
        fill(value);
    }
    assert_eq!(journal.superblock().nodes_end, end);
    assert_eq!(journal.superblock().nodes_used, seen);
}

#[test]
fn a_log_header_that_cannot_be_read_leaves_the_other() {
    let sim = SimMedia::new();
    create(&sim);
    let superblock = open(&sim).unwrap().journal.superblock();
    sim.set_fault(Some(Fault {
        call: Call::Read,
        after: 0,
        sticky: false,
        kind: io::ErrorKind::Other,
    }));
    let report = super::wal::scan(
        &*sim.media().wal,
        superblock.log_key(),
        superblock.checkpoint_lsn,
        superblock.next_tx,
        &mut |_, _, _| Ok::<(), super::wal::WalError>(()),
    );
    assert_eq!(report.unwrap().end, superblock.checkpoint_lsn);
}

/// The generations of the pages of nodes.dat, page 0 aside.
fn generations_on_disk(sim: &SimMedia) -> Vec<u64> {
    let nodes = sim.media().nodes;
    let mut page = [0; 4096];
    (1..nodes.len_bytes() / 4096)
        .filter_map(|number| {
            nodes.read_at(number * 4096, &mut page).unwrap();
            let field = page[16..]
                .first_chunk()
                .map(|bytes| u64::from_le_bytes(*bytes));
            field.filter(|_| page.starts_with(b"RNOD"))
        })
        .collect()
}

/// A page that a checkpoint left which the power cut off is not taken for one of the next
/// checkpoint, should that one's write to the same place get lost.
#[test]
fn the_number_of_a_checkpoint_that_was_cut_off_does_not_come_again() {
    let made = SimMedia::new();
    create(&made);
    // After a clean close, and after a crash.
    let mut before = made.killed();
    for _ in 0..2 {
        let journal = open(&before).unwrap().journal;
        for key in 0..50u64 {
            let mut tx = journal.begin().unwrap();
            tx.put(TREE, key.to_be_bytes(), vec![1; 300]).unwrap();
            tx.commit().unwrap();
        }
        journal.checkpoint(false, &|_| Ok(())).unwrap();
        let mut recording = before.recording();
        let mut cut_off = None;
        for point in 0..=recording.len() {
            let crashed = recording.crash_at(point, Survival::Random(point as u64));
            let found = generations_on_disk(&crashed);
            let journal = open(&crashed).unwrap().journal;
            let newest = journal.opened.generation.0;
            let mut tx = journal.begin().unwrap();
            tx.put(TREE, vec![0; 8], vec![2]).unwrap();
            tx.commit().unwrap();
            journal.checkpoint(false, &|_| Ok(())).unwrap();
            let next = journal.superblock().generation.0;
            assert!(next > newest && !found.contains(&next), "point {point}");
            if found.iter().any(|generation| *generation > newest) {
                cut_off = Some(crashed);
            }
        }
        before = cut_off.expect("no point is within a checkpoint").killed();
    }
}

/// Many batches at once, and batches on both sides of the end of the ring.
#[test]
fn what_takes_several_writes_is_durable_too() {
    let sim = SimMedia::new();
    create(&sim);
    let journal = open(&sim).unwrap().journal;
    let mut last = 0u64;
    // Both laps of the ring, at sizes that divide neither it nor a batch.
    for step in 0..40 {
        for _ in 0..if step % 5 == 0 { 2100 } else { 150 } {
            last += 1;
            let mut tx = journal.begin().unwrap();
            let key = last.to_be_bytes().map(|byte| byte % 16);
            tx.put(TREE, key, vec![1; 700]).unwrap();
            tx.put(TREE, [0xff; 8], last.to_be_bytes()).unwrap();
            tx.commit().unwrap();
        }
        journal.sync(journal.end_lsn()).unwrap();
        let crashed = sim.recording().crash_at(sim.events(), Survival::None);
        let found = contents(&open(&crashed).unwrap().journal.view());
        let newest = found.get([0xff; 8].as_slice());
        assert_eq!(newest, Some(&last.to_be_bytes().to_vec()), "step {step}");
        if step % 5 == 4 || step % 5 == 0 {
            journal.checkpoint(false, &|_| Ok(())).unwrap();
        }
    }
}

#[test]
fn who_knows_only_the_uuid_cannot_forge_a_batch() {
    let tag = |seed| {
        let hash_seed = [seed; 16];
        let uuid = [1; 16];
        crate::format::wal::LogKey { uuid, hash_seed }.tag()
    };
    assert_ne!(tag(2), tag(3));
    assert_ne!(tag(2).to_le_bytes(), [1; 8]);
}
