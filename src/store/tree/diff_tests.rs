//! Differences of trees against those of their models.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::tests::{Bench, Model};
use super::*;
use crate::format::id::Generation;
use crate::store::pages::PageStore;

type Value = Option<Vec<u8>>;
type Found = BTreeMap<Vec<u8>, (Value, Value)>;

fn differences(old: &Link, new: &Link, pages: &PageStore, from: &[u8]) -> Found {
    let mut found = Found::new();
    let mut last = None;
    diff((old, new), pages, from, &mut |key, old, new| {
        let values = (old.map(<[u8]>::to_vec), new.map(<[u8]>::to_vec));
        assert!(found.insert(key.to_vec(), values).is_none(), "told twice");
        assert!(
            last.replace(key.to_vec()) < Some(key.to_vec()),
            "out of order"
        );
        ControlFlow::Continue(())
    })
    .unwrap();
    found
}

fn expected(old: &Model, new: &Model, from: &[u8]) -> Found {
    let keys = old.keys().chain(new.keys());
    keys.filter(|key| key.as_slice() >= from && old.get(*key) != new.get(*key))
        .map(|key| (key.clone(), (old.get(key).cloned(), new.get(key).cloned())))
        .collect()
}

#[test]
fn differences_are_those_of_the_models() {
    for seed in 20..40 {
        let mut bench = Bench::new(seed);
        let changes = usize::try_from(seed % 5).unwrap() * 700;
        (0..changes).for_each(|_| bench.change());
        if seed % 2 == 0 {
            bench.checkpoint();
        }
        let (old, was) = (bench.root.clone(), bench.model.clone());
        for round in 0..6 {
            // Nothing that the old tree has is free.
            bench.effects.shared = Generation(u64::MAX);
            (0..round * round * 8).for_each(|_| bench.change());
            if round % 3 == 2 {
                bench.checkpoint();
            }
            let from = bench.key();
            let (new, is) = (&bench.root, &bench.model);
            for from in [&[][..], &from] {
                let found = differences(&old, new, &bench.pages, from);
                assert!(
                    found == expected(&was, is, from),
                    "seed {seed} round {round}"
                );
                let found = differences(new, &old, &bench.pages, from);
                assert!(
                    found == expected(is, &was, from),
                    "seed {seed} round {round}"
                );
            }
            assert!(differences(new, &new.clone(), &bench.pages, &[]).is_empty());
            let all = differences(new, &Link::EMPTY, &bench.pages, &[]);
            assert_eq!(all.len(), is.len());
        }
    }
}

#[test]
fn what_is_shared_is_not_read() {
    let mut bench = Bench::new(41);
    (0..4_000).for_each(|_| bench.change());
    bench.checkpoint();
    let old = bench.root.clone();
    bench.effects.shared = Generation(u64::MAX);
    (0..3).for_each(|_| bench.change());
    let root = bench.checkpoint();
    let (end, used) = bench.pages.extent();
    let read = PageStore::new(bench.disk.clone(), end, used, 0);
    assert!(used > 250, "{used} pages");
    let before = bench.disk.reads();
    let found = differences(&old, &Link::Disk(root), &read, &[]);
    assert!((1..=3).contains(&found.len()));
    let reads = bench.disk.reads() - before;
    assert!(reads < 30, "{reads} of {used} pages were read");
}

#[test]
fn it_stops_when_told_to() {
    let mut bench = Bench::new(42);
    (0..2_000).for_each(|_| bench.change());
    let mut told = 0;
    diff(
        (&bench.root, &Link::EMPTY),
        &bench.pages,
        &[],
        &mut |_, _, _| {
            told += 1;
            match told {
                7 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        },
    )
    .unwrap();
    assert_eq!(told, 7);
}
