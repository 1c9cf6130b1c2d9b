//! Every call of short workloads to the files of a store fails in turn.
#![allow(missing_docs, clippy::panic)]

use model_tests::faults::fail_each;
use model_tests::number;
use model_tests::workload::bounded;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Faults without `RAZORFS_FILE_FAULTS`.
const FAULTS: u64 = 1500;

/// Half of them.
fn share(index: usize) {
    let wanted = number("RAZORFS_FILE_FAULTS").unwrap_or(FAULTS) / 2;
    let mut workloads: Vec<_> = bounded().collect();
    workloads.shuffle(&mut ChaCha8Rng::seed_from_u64(3));
    let mut done = 0;
    for workload in workloads.iter().skip(index).step_by(2) {
        match fail_each(workload, true) {
            Ok(faults) => done += faults,
            Err(why) => panic!("{why}"),
        }
        if done >= wanted {
            break;
        }
    }
    assert!(done >= wanted);
    println!("{done} faults");
}

#[test]
fn failing_files_lose_nothing_that_was_durable_0() {
    share(0);
}

#[test]
fn failing_files_lose_nothing_that_was_durable_1() {
    share(1);
}
