//! Every call of short workloads to the files of a store fails in turn.
#![allow(missing_docs, clippy::panic)]

use model_tests::faults::fail_many;
use model_tests::number;
use model_tests::workload::shuffled;

/// Faults without `RAZORFS_FILE_FAULTS`.
const FAULTS: u64 = 1500;

/// Half of them.
fn share(index: usize) {
    let wanted = number("RAZORFS_FILE_FAULTS").unwrap_or(FAULTS) / 2;
    let workloads = shuffled(3);
    let workloads = workloads.iter().skip(index).step_by(2);
    let done = match fail_many(workloads, true, wanted) {
        Ok(done) => done,
        Err(why) => panic!("{why}"),
    };
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
