//! Power cuts at every event of short workloads: all of one operation, and some of two and three.
#![allow(missing_docs, clippy::panic)]

use model_tests::explore::{Explored, explore, shorten};
use model_tests::number;
use model_tests::workload::{Workload, about_datasets, bounded};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// States of the disks without `RAZORFS_STATES`.
const STATES: u64 = 52_000;
const SEED: u64 = 1;

/// Half of them.
fn share(index: usize) {
    let wanted = number("RAZORFS_STATES").unwrap_or(STATES) / 2;
    let (one, mut more): (Vec<_>, Vec<_>) = bounded()
        .partition(|workload| matches!(workload, Workload::Steps(steps) if steps.len() == 1));
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    more.shuffle(&mut rng);
    let random = (0..).map(|_| Workload::Random(rng.random()));
    let mixed = more.into_iter().zip(random).enumerate();
    let mixed = mixed.flat_map(|(at, (short, long))| {
        let long = (at % 10 == 9).then_some(long);
        std::iter::once(short).chain(long)
    });
    let mut explored = Explored::default();
    let all = one.into_iter().chain(mixed).enumerate();
    for (_, workload) in all.filter(|(at, _)| at % 2 == index) {
        if let Err(failure) = explore(&workload, SEED, &mut explored) {
            panic!("{}", shorten(*failure, SEED));
        }
        if explored.states >= wanted {
            break;
        }
    }
    assert!(explored.states >= wanted, "{explored:?}");
    println!("{explored:?}");
}

#[test]
fn power_cuts_leave_what_the_contract_allows_0() {
    share(0);
}

#[test]
fn power_cuts_leave_what_the_contract_allows_1() {
    share(1);
}

#[test]
fn power_cuts_leave_snapshots_what_they_were() {
    let wanted = number("RAZORFS_DATASET_STATES").unwrap_or(STATES / 4);
    let seed = number("RAZORFS_SEED").unwrap_or(SEED);
    let mut explored = Explored::default();
    for workload in about_datasets(seed) {
        if let Err(failure) = explore(&workload, seed, &mut explored) {
            panic!("{}", shorten(*failure, seed));
        }
        if explored.states >= wanted {
            break;
        }
    }
    println!("{explored:?}");
}

#[test]
fn workloads_and_cuts_are_read_as_they_are_written() {
    for text in ["3f.17c", "0n", "random:12"] {
        assert_eq!(
            text.parse::<Workload>().map(|w| w.to_string()),
            Ok(text.to_owned())
        );
    }
    for text in ["x", "3", "3x", "999f", "", "random:x"] {
        assert!(text.parse::<Workload>().is_err(), "{text}");
    }
    for text in ["4:some5", "7:torn9+3", "0:none", "1:all"] {
        let cut = text.parse::<model_tests::explore::Cut>();
        assert_eq!(cut.map(|cut| cut.to_string()), Ok(format!("@{text}")));
    }
}
