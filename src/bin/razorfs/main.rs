//! `razorfs`: administration of stores.

mod archive;
mod compact;
mod datasets;
mod doctor;
mod events;
mod exports;
mod extract;
mod health;
mod import;
mod info;
mod mkfs;
mod mount;
mod project;
mod receive;
mod recover;
mod rewrite;
mod scrub;
mod send;
mod served;
mod set;
mod snapshots;
mod store;
mod top;
mod trim;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{CommandFactory, Parser, Subcommand};
use razorfs::engine::{OpenError, OpenOptions, Store};
use razorfs::manual;
use razorfs::progress::Terminal;
use signal_hook::consts::{SIGINT, SIGTERM};

/// Administration of razorfs stores.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Mkfs(mkfs::MkfsArgs),
    Info(info::InfoArgs),
    Mount(mount::MountArgs),
    Recover(recover::RecoverArgs),
    Scrub(scrub::ScrubArgs),
    List(datasets::ListArgs),
    Create(datasets::CreateArgs),
    Snapshot(datasets::SnapshotArgs),
    Clone(datasets::CloneArgs),
    Rename(datasets::RenameArgs),
    Delete(datasets::DeleteArgs),
    Set(set::SetArgs),
    Restore(snapshots::RestoreArgs),
    Hold(snapshots::HoldArgs),
    Release(snapshots::ReleaseArgs),
    Promote(snapshots::PromoteArgs),
    Diff(snapshots::DiffArgs),
    Events(events::EventsArgs),
    Send(send::SendArgs),
    Receive(receive::ReceiveArgs),
    Top(top::TopArgs),
    Doctor(doctor::DoctorArgs),
    Project(project::ProjectArgs),
    Trim(trim::TrimArgs),
    Compact(compact::CompactArgs),
    Rewrite(rewrite::RewriteArgs),
    Export(exports::ExportArgs),
    Unexport(exports::UnexportArgs),
    Import(import::ImportArgs),
    Extract(extract::ExtractArgs),
}

/// What SIGINT (Ctrl-C) and SIGTERM set from here on, in the place of ending the program.
fn stop_on_signals() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// Opens a store; says on a terminal how far that is, when it takes long.
fn open(store: &Path, options: OpenOptions) -> Result<Arc<Store>, OpenError> {
    let _shown = Terminal::show(&options.progress);
    Store::open(store, options)
}

/// Prints a result. Whoever closed the pipe wants no more of it.
fn tell(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Prints a result as JSON.
fn tell_json(value: &impl serde::Serialize) -> Result<(), Box<dyn std::error::Error>> {
    tell(&format!("{}\n", serde_json::to_string_pretty(value)?));
    Ok(())
}

fn main() -> ExitCode {
    if let Some(done) = manual::generate(Cli::command, "1") {
        return done;
    }
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let cli = Cli::parse();
    let done = match &cli.command {
        Command::Mkfs(args) => mkfs::run(args),
        Command::Info(args) => info::run(args),
        Command::Mount(args) => mount::run(args),
        Command::Recover(args) => recover::run(args),
        Command::List(args) => datasets::list(args),
        Command::Create(args) => datasets::create(args),
        Command::Snapshot(args) => datasets::snapshot(args),
        Command::Clone(args) => datasets::clone(args),
        Command::Rename(args) => datasets::rename(args),
        Command::Delete(args) => datasets::delete(args),
        Command::Set(args) => set::run(args),
        Command::Restore(args) => snapshots::restore(args),
        Command::Hold(args) => snapshots::hold(args),
        Command::Release(args) => snapshots::release(args),
        Command::Promote(args) => snapshots::promote(args),
        Command::Diff(args) => snapshots::diff(args),
        Command::Events(args) => events::run(args),
        Command::Send(args) => send::run(args),
        Command::Receive(args) => receive::run(args),
        Command::Project(args) => project::run(args),
        Command::Trim(args) => trim::run(args),
        Command::Top(args) => top::run(args),
        Command::Compact(args) => compact::run(args),
        Command::Rewrite(args) => rewrite::run(args),
        Command::Doctor(args) => match doctor::run(args) {
            Ok(code) => return ExitCode::from(code),
            Err(error) => Err(error),
        },
        Command::Export(args) => exports::export(args),
        Command::Unexport(args) => exports::unexport(args),
        Command::Import(args) => import::run(args),
        Command::Extract(args) => extract::run(args),
        Command::Scrub(args) => match scrub::run(args) {
            Ok(code) => return ExitCode::from(code),
            Err(error) => Err(error),
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("razorfs: {error}");
            ExitCode::FAILURE
        }
    }
}
