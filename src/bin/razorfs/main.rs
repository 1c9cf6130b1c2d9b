//! `razorfs`: administration of stores.

mod mount;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Administration of razorfs stores.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Mount(mount::MountArgs),
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let cli = Cli::parse();
    let done = match &cli.command {
        Command::Mount(args) => mount::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("razorfs: {error}");
            ExitCode::FAILURE
        }
    }
}
