//! `razorfs compact STORE`: makes chunks.dat shorter.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use clap::Args;
use razorfs::engine::OpenOptions;
use serde_json::json;

type Error = Box<dyn std::error::Error>;

/// Moves content from the end of chunks.dat to free space nearer to its beginning, and cuts the file
/// off behind what is left; then gives back what is free (see `razorfs trim`). It may be interrupted
/// (Ctrl-C, SIGTERM) at any time: what was moved stays moved.
#[derive(Debug, Args)]
pub struct CompactArgs {
    /// The store's directory.
    store: PathBuf,
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
/// When the store cannot be opened, compacted or closed.
pub fn run(args: &CompactArgs) -> Result<(), Error> {
    let stop = crate::stop_on_signals()?;
    let options = OpenOptions {
        allow_volatile: args.allow_volatile,
        background: false,
        ..OpenOptions::default()
    };
    let store = crate::open(&args.store, options)?;
    let done = store.compact(&mut || !stop.load(Ordering::Relaxed));
    store.close()?;
    let done = done?;
    let name = args.store.display();
    if args.json {
        let value = json!({
            "store": name.to_string(),
            "moved_chunks": done.moved_chunks,
            "moved_bytes": done.moved_bytes,
            "cut_bytes": done.cut_bytes,
            "damaged_chunks": done.damaged,
        });
        crate::tell(&format!("{}\n", serde_json::to_string_pretty(&value)?));
        return Ok(());
    }
    crate::tell(&format!(
        "{name}: {} bytes moved in {} chunks, {} bytes cut off the end\n",
        done.moved_bytes, done.moved_chunks, done.cut_bytes
    ));
    if done.damaged > 0 {
        crate::tell("Some chunks cannot be read, and stay where they are: see razorfs scrub.\n");
    }
    Ok(())
}
