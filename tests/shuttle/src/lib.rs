//! The locks and the group commit under a scheduler that we control: the same code runs in
//! thousands of orders, each of them repeatable (`src/sync.rs` says how that comes about).
//!
//! Only with `RUSTFLAGS='--cfg shuttle'`; `scripts/shuttle.sh` does that. `RAZORFS_SCHEDULES` says
//! in how many orders a test runs with each of the two schedulers (those that take long run in
//! fewer), `RAZORFS_SEED` with which they begin. A failure prints its schedule; put into a file
//! that `RAZORFS_REPLAY` names, it runs again alone.
#![cfg(all(test, shuttle))]
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod disks;
mod journal;
mod model;
mod volume;

/// The worker pool is no public part of the library: it is compiled again, into this test.
#[path = "../../../src/transport/vhost_user/pool.rs"]
mod pool;
mod pool_runs;

/// So is what a ring's threads agree by on who leads.
#[path = "../../../src/transport/vhost_user/lead.rs"]
mod lead;
mod lead_runs;

use std::sync::Arc;
use std::time::Instant;

use razorfs::sync;
use shuttle::rand::RngCore;
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::{Config, Runner};

/// Orders without `RAZORFS_SCHEDULES`.
const SCHEDULES: usize = 1000;
/// How many times PCT takes the turn from the thread that has it: the bugs that it surely finds in
/// the end need one switch less.
const PCT_DEPTH: usize = 4;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// Runs `body` in many orders; one in `cost` of those that are asked for.
fn explore(name: &str, cost: usize, body: impl Fn() + Send + Sync + 'static) {
    let body = Arc::new(body);
    if let Ok(file) = std::env::var("RAZORFS_REPLAY") {
        run(ReplayScheduler::new_from_file(file).unwrap(), &body);
        return;
    }
    let asked = number("RAZORFS_SCHEDULES", SCHEDULES as u64);
    let schedules = usize::try_from(asked).unwrap().div_ceil(cost);
    let seed = number("RAZORFS_SEED", 0);
    let started = Instant::now();
    let random = run(RandomScheduler::new_from_seed(seed, schedules), &body);
    let pct = run(
        PctScheduler::new_from_seed(seed, PCT_DEPTH, schedules),
        &body,
    );
    let took = started.elapsed().as_secs_f32();
    println!("{name}: {random} random schedules and {pct} of PCT from seed {seed}, {took:.1} s");
}

fn run(
    scheduler: impl Scheduler + 'static,
    body: &Arc<impl Fn() + Send + Sync + 'static>,
) -> usize {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    // Weak memory is not explored: every atomic is as strong as can be.
    config.silence_warnings = true;
    let body = Arc::clone(body);
    Runner::new(scheduler, config).run(move || body())
}

/// A number below `end` that belongs to the schedule.
fn choose(end: u64) -> u64 {
    shuttle::rand::thread_rng().next_u64() % end
}

/// Runs `body` for each number below `count`, in threads of their own, and waits for them.
fn together(count: usize, body: impl Fn(usize) + Send + Sync + 'static) {
    let body = Arc::new(body);
    let threads: Vec<_> = (0..count)
        .map(|index| {
            let body = Arc::clone(&body);
            sync::thread::spawn(move || body(index))
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}
