//! `razorfs trim STORE`: gives free space back to the host's disk.

use std::path::PathBuf;

use clap::Args;
use razorfs::engine::{OpenOptions, Store, TrimOptions, Trimmed};
use serde_json::json;

type Error = Box<dyn std::error::Error>;

/// Gives the free space of a store back to the host's disk, at once. A store that a daemon serves
/// does so in the background, with what has stayed free for a while: see `razorfsd --trim-interval`.
///
/// What is inside of chunks.dat is punched out of it, where the host's file system can do that; what
/// is free at its end is cut off.
#[derive(Debug, Args)]
pub struct TrimArgs {
    /// The store's directory.
    store: PathBuf,
    /// The shortest range to give back (K, M, G for powers of 1024).
    #[arg(long, value_name = "BYTES", default_value = "64K",
          value_parser = razorfs::config::parse_size)]
    min: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Accept a store on a file system that does not survive a power cut.
    #[arg(long)]
    allow_volatile: bool,
}

/// Does it.
///
/// # Errors
/// When the store cannot be opened, trimmed or closed.
pub fn run(args: &TrimArgs) -> Result<(), Error> {
    let options = OpenOptions {
        allow_volatile: args.allow_volatile,
        background: false,
        ..OpenOptions::default()
    };
    let store = Store::open(&args.store, options)?;
    let options = TrimOptions {
        min_bytes: args.min,
    };
    // It is closed whatever came of it: what is free stays free.
    let trimmed = store.trim(&options);
    store.close()?;
    tell(args, &trimmed?)
}

fn tell(args: &TrimArgs, trimmed: &Trimmed) -> Result<(), Error> {
    let store = args.store.display();
    if args.json {
        let value = json!({
            "store": store.to_string(),
            "punched_bytes": trimmed.punched_bytes,
            "pieces": trimmed.pieces,
            "cut_bytes": trimmed.cut_bytes,
            "unsupported": trimmed.unsupported,
        });
        crate::tell(&format!("{}\n", serde_json::to_string_pretty(&value)?));
        return Ok(());
    }
    crate::tell(&format!(
        "{store}: {} bytes given back in {} pieces, {} bytes cut off the end\n",
        trimmed.punched_bytes, trimmed.pieces, trimmed.cut_bytes
    ));
    if trimmed.unsupported {
        crate::tell("The file system below takes no space back from inside of a file.\n");
    }
    Ok(())
}
