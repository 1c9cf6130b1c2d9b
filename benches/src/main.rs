//! razorfsd beside virtiofsd, other file systems and floors, and by itself as work grows.
//!
//! ```text
//! requests   daemons beside each other, request by request; `raw`: the disk below
//! guests     file systems beside each other in a real guest
//! log        with and without the log's writes       } in this process,
//! tail       creates while checkpoints are made      } over `here`
//! space      what compression and deduplication save and cost, in this process
//! snapshots  what they and clones cost, in this process
//! growth     costs against sizes
//! results    what a run found, as a file; `report` its tables, `plots` its pictures, `document`
//!            where both are shown
//! ```

mod daemons;
mod document;
mod driver;
mod floor;
mod growth;
mod guests;
mod here;
mod log;
mod plots;
mod raw;
mod report;
mod requests;
mod results;
mod snapshots;
mod space;
mod tail;
mod workloads;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tempfile::TempDir;

type Error = Box<dyn std::error::Error>;

/// Measures razorfs, by itself and beside others.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures daemons with the same requests, and prints a table of ratios.
    Run(requests::Requests),
    /// Measures file systems in a real guest.
    Guests(guests::Guests),
    /// Measures what the log's writes cost.
    Log(log::Log),
    /// Measures the slowest creates, with and without checkpoints.
    Tail(tail::Tails),
    /// Measures what compression and deduplication save and cost.
    Space(space::Space),
    /// Measures what snapshots and clones cost.
    Snapshots(snapshots::Snapshots),
    /// Measures costs against sizes.
    Growth(growth::Growth),
    /// Prints the tables of files that runs wrote, and draws their plots.
    Report {
        /// What runs wrote with --json.
        files: Vec<PathBuf>,
        /// Where plots go; without, none are drawn.
        #[arg(long)]
        plots: Option<PathBuf>,
        /// A document with room for the tables: there rather than on standard output.
        #[arg(long)]
        document: Option<PathBuf>,
    },
    /// Carries a workload out on a store in this process, for `valgrind --tool=callgrind
    /// --toggle-collect='*timed*'` or `perf record`, and prints how many operations there were, and
    /// of several rounds the processor time of each.
    Here {
        /// A workload's whole name.
        workload: String,
        /// How often it is carried out.
        #[arg(long, default_value_t = 1)]
        rounds: u32,
        /// Where the store goes.
        #[arg(long, default_value = "/var/tmp")]
        dir: PathBuf,
    },
    /// Serves constants.
    Floor {
        /// Where to listen.
        #[arg(long)]
        socket_path: PathBuf,
    },
}

/// A directory of our own within one that may hold other things; it goes with the value.
fn work_dir(within: &Path) -> Result<TempDir, Error> {
    std::fs::create_dir_all(within).map_err(|error| format!("{}: {error}", within.display()))?;
    Ok(tempfile::Builder::new()
        .prefix("razorfs-bench")
        .tempdir_in(within)?)
}

/// Where razorfs and razorfsd are.
fn program_dir(told: Option<&Path>) -> Result<PathBuf, Error> {
    match told {
        Some(dir) => Ok(dir.to_owned()),
        None => {
            let here = std::env::current_exe()?;
            Ok(here.parent().map(Path::to_owned).unwrap_or_default())
        }
    }
}

/// What callgrind counts.
#[inline(never)]
fn timed(driver: &mut driver::Driver, messages: &[driver::Message]) -> Result<(), Error> {
    Ok(driver.run(messages, driver::DEPTH_MAX)?)
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Run(run) => requests::run(&run).map(drop),
        Command::Guests(run) => guests::run(&run).map(drop),
        Command::Log(run) => log::run(&run).map(drop),
        Command::Tail(run) => tail::run(&run).map(drop),
        Command::Space(run) => space::run(&run),
        Command::Snapshots(run) => snapshots::run(&run),
        Command::Growth(run) => growth::run(&run).map(drop),
        Command::Report {
            files,
            plots,
            document,
        } => report_on(&files, plots.as_deref(), document.as_deref()),
        Command::Here {
            workload,
            rounds,
            dir,
        } => here::counted(&workload, rounds, &dir),
        Command::Floor { socket_path } => floor::run(&socket_path),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("razorfs-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn report_on(
    files: &[PathBuf],
    plots: Option<&Path>,
    document: Option<&Path>,
) -> Result<(), Error> {
    for file in files {
        let results = results::Results::read(file)?;
        let tables = report::tables(&results);
        match document {
            Some(document) => document::fill(document, results.found.name(), &tables)?,
            None => println!("{tables}"),
        }
        if let Some(dir) = plots {
            plots::draw(&results, dir)?;
        }
    }
    Ok(())
}
