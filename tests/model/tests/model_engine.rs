//! The engine against a model in memory: random sequences of every kind of operation, with
//! reopenings and power cuts among them. What each operation answers, and what is there afterwards,
//! must be what the model says; after a power cut, what the contract allows.
//!
//! A failure prints its seed and the shortest sequence that still fails. `RAZORFS_SEED` runs that
//! seed alone, `RAZORFS_SEQUENCES` says how many to run.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]
#![allow(clippy::cast_possible_truncation)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use model_tests::limits::Limits;
use model_tests::ops::{self, Op};
use model_tests::world::{Outcome, Setup, World};
use model_tests::{ensure, number};
use razorfs::format::record::Dedup;

/// Sequences without `RAZORFS_SEQUENCES`.
const SEQUENCES: u64 = 15_000;
/// Sequences tried to make a failing one shorter, at most.
const SHORTER_MAX: usize = 2000;

fn setup(rng: &mut ChaCha8Rng) -> Setup {
    Setup {
        capacity_bytes: if rng.random_bool(0.2) {
            1 << 20
        } else {
            1 << 30
        },
        dirty_limit_bytes: if rng.random_bool(0.3) {
            20_000
        } else {
            64 << 20
        },
        strict: rng.random_bool(0.1),
        compression: ["off", "lz4", "zstd"][rng.random_range(0..3)]
            .parse()
            .unwrap(),
        dedup: [Dedup::Off, Dedup::On, Dedup::Verify][rng.random_range(0..3)],
        limits: Limits {
            bytes: [0, 0, 20_000, 200_000][rng.random_range(0..4)],
            inodes: [0, 0, 6, 20][rng.random_range(0..4)],
            of_project: rng.random_bool(0.4),
        },
    }
}

fn run(setup: Setup, sequence: &[Op]) -> Outcome {
    let run = || {
        let mut world = World::new(setup)?;
        let empty = world.volume.statfs().map_err(|error| error.to_string())?;
        for (index, op) in sequence.iter().enumerate() {
            world
                .apply(op)
                .and_then(|()| {
                    if index % 16 == 0 {
                        world.compare()
                    } else {
                        Ok(())
                    }
                })
                .map_err(|why| format!("operation {index}, {op:?}: {why}"))?;
        }
        world.compare()?;
        world.check_store(&world.sim().killed().media(), "in the end")?;
        world.empty()?;
        let left = world.volume.statfs().map_err(|error| error.to_string())?;
        ensure!(
            left == empty,
            "with everything deleted: {left:?}, not {empty:?}"
        );
        world.check_store(&world.sim().killed().media(), "when empty")
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("a panic".into()))
}

/// Leaves out what the failure does not need.
fn shorten(setup: Setup, mut sequence: Vec<Op>) -> Vec<Op> {
    let mut tries = 0;
    let mut size = sequence.len().div_ceil(2);
    while size > 0 && tries < SHORTER_MAX {
        let before = sequence.len();
        let mut at = 0;
        while at < sequence.len() && tries < SHORTER_MAX {
            let mut shorter = sequence.clone();
            shorter.drain(at..(at + size).min(sequence.len()));
            tries += 1;
            if run(setup, &shorter).is_err() {
                sequence = shorter;
            } else {
                at += size;
            }
        }
        if size == 1 && sequence.len() == before {
            break;
        }
        size = (size / 2).max(usize::from(size > 1 || sequence.len() < before));
    }
    sequence
}

fn check(seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (setup, sequence) = (setup(&mut rng), ops::sequence(&mut rng));
    let Err(why) = run(setup, &sequence) else {
        return;
    };
    std::panic::set_hook(Box::new(|_| {}));
    let shorter = shorten(setup, sequence);
    let _ = std::panic::take_hook();
    let again = run(setup, &shorter).err().unwrap_or_default();
    let list: Vec<String> = shorter.iter().map(|op| format!("    {op:?},\n")).collect();
    panic!(
        "RAZORFS_SEED={seed}: {why}\nshorter: {again}\n{setup:?}\n{}",
        list.concat()
    );
}

fn share(index: u64, of: u64) {
    match number("RAZORFS_SEED") {
        Some(seed) if seed % of == index => check(seed),
        Some(_) => {}
        None => (0..number("RAZORFS_SEQUENCES").unwrap_or(SEQUENCES))
            .filter(|seed| seed % of == index)
            .for_each(check),
    }
}

// In shares, which run side by side.

#[test]
fn the_engine_is_what_the_model_says_0() {
    share(0, 2);
}

#[test]
fn the_engine_is_what_the_model_says_1() {
    share(1, 2);
}
