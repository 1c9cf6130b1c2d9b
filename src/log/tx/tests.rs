//! Transactions beside views: what one does, and what nobody else sees of it.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::disk::sim::{Call, Fault, SimMedia};
use crate::format::id::DatasetId;
use crate::format::key::TreeId;
use crate::format::record::{LineageRecord, dataset_key, lineage_key};
use crate::log::recovery::{self, Format, Options};
use crate::log::{Journal, Tx, View};
use crate::store::{Read, StoreError};

const TREES: [TreeId; 2] = [TreeId::Chunks, TreeId::FreeByStart];
/// Keys of a tree: several pages of them.
const KEYS: u16 = 120;

type Model = BTreeMap<(TreeId, Vec<u8>), Vec<u8>>;

fn journal(sim: &SimMedia) -> Journal {
    let options = Options {
        read_only: false,
        discard_damaged_log: false,
        cache_bytes: 1 << 20,
    };
    recovery::open(sim.media(), options).unwrap().journal
}

fn store() -> SimMedia {
    let sim = SimMedia::new();
    let journal = recovery::create(sim.media(), Format::reproducible(), 1 << 20).unwrap();
    journal.checkpoint(true, &|_| Ok(())).unwrap();
    sim.killed()
}

fn key(number: u16) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

fn contents(read: &impl Read) -> Model {
    let mut all = Model::new();
    for tree in TREES {
        read.scan(tree, &[], &[0xff; 9], &mut |key, value| {
            all.insert((tree, key.to_vec()), value.to_vec());
            ControlFlow::Continue(())
        })
        .unwrap();
    }
    all
}

/// Compares what a transaction reads with what it did.
fn compare(tx: &Tx<'_>, model: &Model, rng: &mut ChaCha8Rng) {
    let (tree, at) = (
        TREES[rng.random_range(0..2)],
        key(rng.random_range(0..KEYS)),
    );
    let expected = model.get(&(tree, at.clone()));
    match rng.random_range(0..10) {
        0 => {
            let floor = model.range(..=(tree, at.clone())).next_back();
            let floor = floor.filter(|((found, _), _)| *found == tree);
            let floor = floor.map(|((_, key), value)| (key.clone(), value.clone()));
            let found = tx.floor(tree, &at).unwrap();
            assert_eq!(found.map(|(key, value)| (key.to_vec(), value)), floor);
        }
        1 => {
            let end = key(rng.random_range(0..KEYS) + 1).max(at.clone());
            let expected: Vec<_> = model
                .range((tree, at.clone())..(tree, end.clone()))
                .map(|((_, key), value)| (key.clone(), value.clone()))
                .collect();
            let mut found = Vec::new();
            tx.scan(tree, &at, &end, &mut |key, value| {
                found.push((key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            })
            .unwrap();
            assert_eq!(found, expected);
        }
        _ => assert_eq!(tx.get(tree, &at).unwrap().as_ref(), expected),
    }
}

/// One change, or some that empty a whole leaf and may put something there again.
fn change(tx: &mut Tx<'_>, model: &mut Model, rng: &mut ChaCha8Rng) {
    let (tree, first) = (TREES[rng.random_range(0..2)], rng.random_range(0..KEYS));
    let mut put = |tx: &mut Tx<'_>, model: &mut Model, number| {
        let value = vec![rng.random(); rng.random_range(0..700)];
        tx.put(tree, key(number), &value).unwrap();
        model.insert((tree, key(number)), value);
    };
    let delete = |tx: &mut Tx<'_>, model: &mut Model, number| {
        let there = tx.delete(tree, key(number)).unwrap();
        assert_eq!(there, model.remove(&(tree, key(number))).is_some());
    };
    match first % 4 {
        0 | 1 => put(tx, model, first),
        2 => delete(tx, model, first),
        _ => {
            (first..KEYS.min(first + 10)).for_each(|number| delete(tx, model, number));
            if first % 8 == 3 {
                put(tx, model, first + 3);
            }
        }
    }
}

#[test]
fn views_keep_what_they_saw_and_dropped_transactions_leave_nothing() {
    for seed in 0..6 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let sim = store();
        let journal = journal(&sim);
        journal.find_free_pages().unwrap();
        let mut model = Model::new();
        let mut views: Vec<(View, Model)> = Vec::new();
        for step in 0..500 {
            let mut after = model.clone();
            let mut tx = journal.begin().unwrap();
            // Sometimes more than are kept pending.
            let changes = if rng.random_bool(0.1) {
                30
            } else {
                rng.random_range(1..4)
            };
            for _ in 0..changes {
                change(&mut tx, &mut after, &mut rng);
                compare(&tx, &after, &mut rng);
            }
            if rng.random_bool(0.2) {
                drop(tx);
            } else {
                tx.commit().unwrap();
                model = after;
            }
            assert_eq!(contents(&journal.view()), model, "seed {seed}, step {step}");
            if rng.random_bool(0.1) {
                views.push((journal.view(), model.clone()));
            }
            if rng.random_bool(0.05) {
                journal.checkpoint(false, &|_| Ok(())).unwrap();
            }
            for (view, seen) in &views {
                assert_eq!(contents(view), *seen, "seed {seed}, step {step}");
            }
            if views.len() > 3 {
                views.swap_remove(rng.random_range(0..views.len()));
            }
        }
        // What is in the log is what is in the trees.
        journal.sync(journal.end_lsn()).unwrap();
        drop(views);
        let reopened = self::journal(&sim.killed());
        assert_eq!(contents(&reopened.view()), model, "seed {seed}");
        assert!(journal.writable().is_ok());
    }
}

/// A store whose first tree has many leaves, all of them on disk.
fn full() -> SimMedia {
    let sim = store();
    let journal = journal(&sim);
    let mut tx = journal.begin().unwrap();
    for number in 0..KEYS {
        tx.put(TREES[0], key(number), vec![1; 600]).unwrap();
    }
    tx.commit().unwrap();
    journal.checkpoint(true, &|_| Ok(())).unwrap();
    sim.killed()
}

#[test]
fn what_is_only_on_disk_is_changed_in_the_published_trees() {
    let sim = full();
    let journal = journal(&sim);
    let mut model = contents(&journal.view());
    // A copy of the roots would be elsewhere, and have everything on its way copied once more.
    let published = || Arc::as_ptr(&journal.published());
    let before = published();
    for first in [0, 70, 20] {
        let mut tx = journal.begin().unwrap();
        assert!(tx.delete(TREES[0], key(first + 15)).unwrap());
        model.remove(&(TREES[0], key(first + 15)));
        for number in [first, first + 30] {
            tx.put(TREES[0], key(number), b"new").unwrap();
            model.insert((TREES[0], key(number)), b"new".to_vec());
        }
        tx.put(TREES[1], key(first), b"").unwrap();
        model.insert((TREES[1], key(first)), Vec::new());
        tx.commit().unwrap();
        assert_eq!(published(), before, "from {first}");
        assert_eq!(contents(&journal.view()), model, "from {first}");
    }
}

#[test]
fn keys_of_a_leaf_that_was_emptied_go_to_one_that_is_on_disk() {
    for first in 0..12 {
        let sim = full();
        let journal = journal(&sim);
        let mut model = contents(&journal.view());
        // Two leaves in memory, those beside them not.
        let mut tx = journal.begin().unwrap();
        for number in [first, first + 7] {
            tx.put(TREES[0], key(number), b"new").unwrap();
            model.insert((TREES[0], key(number)), b"new".to_vec());
        }
        tx.commit().unwrap();
        let mut tx = journal.begin().unwrap();
        for number in first..first + 8 {
            assert!(tx.delete(TREES[0], key(number)).unwrap());
            model.remove(&(TREES[0], key(number)));
        }
        tx.put(TREES[0], key(first + 3), b"again").unwrap();
        model.insert((TREES[0], key(first + 3)), b"again".to_vec());
        tx.commit().unwrap();
        assert_eq!(contents(&journal.view()), model, "from {first}");
    }
}

#[test]
fn keys_go_to_a_leaf_on_disk_when_the_half_of_a_split_one_was_emptied() {
    for first in 0..18 {
        let sim = full();
        let journal = journal(&sim);
        let mut model = contents(&journal.view());
        let commit = |model: &mut Model, changes: &[(Vec<u8>, Option<u8>)]| {
            let mut tx = journal.begin().unwrap();
            for (key, value) in changes {
                let at = (TREES[0], key.clone());
                if let Some(byte) = value {
                    tx.put(TREES[0], key, vec![*byte; 600]).unwrap();
                    model.insert(at, vec![*byte; 600]);
                } else {
                    assert!(tx.delete(TREES[0], key).unwrap());
                    model.remove(&at);
                }
            }
            tx.commit().unwrap();
        };
        // Only this leaf is in memory.
        commit(&mut model, &[(key(first + 2), Some(1))]);
        // One more splits it, and then all that is left of that goes.
        let between = [key(first + 4), vec![1]].concat();
        let mut changes = vec![(between, Some(2))];
        changes.extend((first..first + 4).map(|number| (key(number), None)));
        changes.push((key(first + 1), Some(3)));
        commit(&mut model, &changes);
        assert_eq!(contents(&journal.view()), model, "from {first}");
        journal.sync(journal.end_lsn()).unwrap();
        let recovered = contents(&self::journal(&sim.killed()).view());
        assert_eq!(recovered, model, "from {first}");
    }
}

#[test]
fn a_page_that_cannot_be_read_costs_one_transaction() {
    let sim = full();
    let journal = journal(&sim);
    journal.find_free_pages().unwrap();
    let begin = || {
        let mut tx = journal.begin()?;
        tx.put(TREES[0], key(7), vec![2; 600])?;
        Ok::<_, StoreError>(tx)
    };
    sim.set_fault(Some(Fault {
        call: Call::Read,
        after: 0,
        sticky: true,
        kind: io::ErrorKind::Other,
    }));
    let end = journal.end_lsn();
    let failed = begin().unwrap().commit().unwrap_err();
    assert!(matches!(failed, StoreError::Io { .. }), "{failed}");
    assert_eq!(journal.end_lsn(), end, "it is not in the log");
    sim.set_fault(None);
    assert_eq!(
        journal.view().get(TREES[0], &key(7)).unwrap().unwrap(),
        [1; 600]
    );
    begin().unwrap().commit().unwrap();
    assert_eq!(
        journal.view().get(TREES[0], &key(7)).unwrap().unwrap(),
        [2; 600]
    );
}

/// Lineages make trees be read, which a commit in memory must not have to do.
#[test]
fn a_lineage_is_put_on_a_copy() {
    let sim = store();
    let journal = journal(&sim);
    let mut tx = journal.begin().unwrap();
    tx.put(TreeId::Datasets, dataset_key(DatasetId::MAIN), [1])
        .unwrap();
    assert!(tx.copy.get().is_none());
    let lineage = LineageRecord::default().encode();
    tx.put(TreeId::Datasets, lineage_key(DatasetId::MAIN), lineage)
        .unwrap();
    assert!(tx.copy.get().is_some());
}
