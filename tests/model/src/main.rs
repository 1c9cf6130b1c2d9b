//! Explores power cuts of the engine on a simulated disk, and repeats what failed.

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use model_tests::explore::{Cut, Explored, explore, replay, shorten};
use model_tests::faults::{fail, fail_each};
use model_tests::workload::{Workload, shuffled};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Explores what power cuts may leave of a store.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Cuts the power of many workloads wherever it can be cut. All short ones, in an order that the
    /// seed decides, with one random long one after each ten.
    Explore {
        /// Decides everything.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Stop after so many states of the disks; 0 for all short workloads.
        #[arg(long, default_value_t = 1_000_000)]
        states: u64,
        /// Threads.
        #[arg(long, default_value_t = 2)]
        threads: u64,
    },
    /// Fails every call of many short workloads to the disk, one after the other.
    Faults {
        /// Decides the order of the workloads.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Stop after so many faults.
        #[arg(long, default_value_t = 50_000)]
        faults: u64,
        /// On files in a temporary directory, not on simulated disks.
        #[arg(long)]
        files: bool,
    },
    /// Repeats a workload and one power cut or failing call in it, as a failure prints them:
    /// 3f.17c@45:some5 or 3f.17c!write3
    Replay {
        /// What to repeat.
        what: String,
    },
}

fn main() -> ExitCode {
    match Args::parse().command {
        Command::Explore {
            seed,
            states,
            threads,
        } => run(seed, states, threads.max(1)),
        Command::Faults {
            seed,
            faults,
            files,
        } => run_faults(seed, faults, files),
        Command::Replay { what } => match repeat(&what) {
            Ok(()) => {
                println!("{what}: as it should be");
                ExitCode::SUCCESS
            }
            Err(why) => {
                println!("{what}: {why}");
                ExitCode::FAILURE
            }
        },
    }
}

fn repeat(what: &str) -> Result<(), String> {
    if let Some((workload, failing)) = what.split_once('!') {
        return fail(&workload.parse()?, failing.parse()?).map(drop);
    }
    let (workload, cut) = match what.split_once('@') {
        Some((workload, cut)) => (workload, Some(cut.parse::<Cut>()?)),
        None => (what, None),
    };
    replay(&workload.parse()?, cut)
}

fn run_faults(seed: u64, faults: u64, files: bool) -> ExitCode {
    let workloads = shuffled(seed);
    std::panic::set_hook(Box::new(|_| {}));
    let (mut done, mut failures, mut count) = (0, 0, 0);
    for workload in &workloads {
        match fail_each(workload, files) {
            Ok(faults) => done += faults,
            Err(why) => {
                failures += 1;
                println!("{why}\n");
            }
        }
        count += 1;
        if done >= faults || failures >= 5 {
            break;
        }
    }
    println!("workloads={count} faults={done} violations={failures}");
    ExitCode::from(u8::from(failures > 0))
}

fn run(seed: u64, states: u64, threads: u64) -> ExitCode {
    let workloads = shuffled(seed);
    std::panic::set_hook(Box::new(|_| {}));
    let began = Instant::now();
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|thread| {
                let workloads = &workloads;
                scope.spawn(move || share(workloads, seed, states / threads, thread, threads))
            })
            .collect();
        let results = threads.into_iter().filter_map(|thread| thread.join().ok());
        results.collect()
    });
    let mut sum = Explored::default();
    let mut failures = 0;
    for (explored, failed) in results {
        sum.workloads += explored.workloads;
        sum.states += explored.states;
        sum.recoveries += explored.recoveries;
        failures += failed;
    }
    println!(
        "workloads={} states={} recoveries_cut={} violations={failures} seconds={}",
        sum.workloads,
        sum.states,
        sum.recoveries,
        began.elapsed().as_secs()
    );
    ExitCode::from(u8::from(failures > 0))
}

/// States between two lines that tell how far a thread is.
const REPORT_EVERY: u64 = 25_000;

/// One thread's share of the workloads.
fn share(
    workloads: &[Workload],
    seed: u64,
    states: u64,
    thread: u64,
    threads: u64,
) -> (Explored, u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ thread);
    let mut explored = Explored::default();
    let (mut failures, mut reported) = (0, 0);
    let began = Instant::now();
    let mine = (0..)
        .zip(workloads)
        .filter(|(at, _)| at % threads == thread);
    for (at, workload) in mine {
        let long = (at / threads % 10 == 9).then(|| Workload::Random(rng.random()));
        for workload in std::iter::once(workload).chain(long.as_ref()) {
            if let Err(failure) = explore(workload, seed, &mut explored) {
                failures += 1;
                println!("{}\n", shorten(*failure, seed));
            }
        }
        if explored.states >= reported + REPORT_EVERY {
            reported = explored.states;
            let seconds = began.elapsed().as_secs();
            eprintln!("thread {thread}: {reported} states after {seconds} s");
        }
        if states > 0 && explored.states >= states || failures >= 5 {
            break;
        }
    }
    (explored, failures)
}
