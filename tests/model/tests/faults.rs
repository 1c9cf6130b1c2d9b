//! Every call of short workloads to the disk fails in turn.
#![allow(missing_docs, clippy::panic)]

use model_tests::faults::{Failing, fail_many};
use model_tests::number;
use model_tests::workload::{about_datasets, shuffled};

/// Faults without `RAZORFS_FAULTS`.
const FAULTS: u64 = 6000;

#[test]
fn a_failing_disk_loses_nothing_that_was_durable() {
    let wanted = number("RAZORFS_FAULTS").unwrap_or(FAULTS);
    let done = match fail_many(&shuffled(2), false, wanted) {
        Ok(done) => done,
        Err(why) => panic!("{why}"),
    };
    println!("{done} faults");
}

#[test]
fn a_failing_disk_loses_no_snapshot() {
    let wanted = number("RAZORFS_DATASET_FAULTS").unwrap_or(FAULTS / 4);
    let workloads: Vec<_> = about_datasets(4).take(1000).collect();
    let done = match fail_many(&workloads, false, wanted) {
        Ok(done) => done,
        Err(why) => panic!("{why}"),
    };
    println!("{done} faults");
}

#[test]
fn failing_calls_are_read_as_they_are_written() {
    for text in [
        "write3",
        "opening-flush0",
        "read12",
        "allocate1",
        "opening-flush2:lostlater",
    ] {
        let failing = text.parse::<Failing>();
        assert_eq!(
            failing.map(|failing| failing.to_string()),
            Ok(text.to_owned())
        );
    }
    for text in ["trim1", "flush1:half"] {
        assert!(text.parse::<Failing>().is_err(), "{text}");
    }
}
