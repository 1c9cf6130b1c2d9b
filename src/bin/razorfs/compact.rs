//! `razorfs compact STORE`: makes chunks.dat shorter.

use crate::store::{StoreArgs, goes_on};
use clap::Args;

type Error = Box<dyn std::error::Error>;

/// Moves content from the end of chunks.dat to free space nearer to its beginning, and cuts the file
/// off behind what is left; then gives back what is free (see `razorfs trim`). It may be interrupted
/// (Ctrl-C, SIGTERM) at any time: what was moved stays moved. A daemon that serves the store does it
/// while guests go on, and does not stop when this command is interrupted.
#[derive(Debug, Args)]
pub struct CompactArgs {
    #[command(flatten)]
    store: StoreArgs,
}

/// Does it.
///
/// # Errors
/// When the store cannot be reached, opened, compacted or closed.
pub fn run(args: &CompactArgs) -> Result<(), Error> {
    let done = args.store.with_shown("moving content", false, |session| {
        session.compact(&mut goes_on(session))
    })?;
    if args.store.is_json() {
        return args.store.tell(&done);
    }
    crate::tell(&format!(
        "{} bytes moved in {} chunks, {} bytes cut off the end\n",
        done.moved_bytes, done.moved_chunks, done.cut_bytes
    ));
    if done.damaged_chunks > 0 {
        crate::tell("Some chunks cannot be read, and stay where they are: see razorfs scrub.\n");
    }
    Ok(())
}
