//! `razorfs trim STORE`: gives free space back to the host's disk.

use clap::Args;
use razorfs::control::api::Trim;

use super::store::StoreArgs;

type Error = Box<dyn std::error::Error>;

/// Gives the free space of a store back to the host's disk, at once. A store that a daemon serves
/// does so in the background, with what has stayed free for a while: see `razorfsd --trim-interval`.
///
/// What is inside of chunks.dat is punched out of it, where the host's file system can do that; what
/// is free at its end is cut off. Free pages of nodes.dat go likewise, but for some that stay for what
/// comes next; and so does what strings.dat has of names that nobody uses any more, for which all
/// directories are read.
#[derive(Debug, Args)]
pub struct TrimArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// The shortest range to give back (K, M, G for powers of 1024).
    #[arg(long, value_name = "BYTES", default_value = "64K",
          value_parser = razorfs::config::parse_size)]
    min: u64,
}

/// Does it.
///
/// # Errors
/// When the store cannot be reached, opened, trimmed or closed.
pub fn run(args: &TrimArgs) -> Result<(), Error> {
    let how = Trim {
        min_bytes: Some(args.min),
    };
    let done = args
        .store
        .with_shown("giving space back", false, |session| session.trim(&how))?;
    if args.store.is_json() {
        return args.store.tell(&done);
    }
    crate::tell(&format!(
        "{} bytes given back in {} pieces, {} bytes cut off the end\n",
        done.punched_bytes, done.pieces, done.cut_bytes
    ));
    if done.metadata_bytes > 0 {
        let bytes = done.metadata_bytes;
        crate::tell(&format!("{bytes} bytes of nodes.dat given back\n"));
    }
    if done.names_bytes > 0 {
        let bytes = done.names_bytes;
        crate::tell(&format!("{bytes} bytes of strings.dat given back\n"));
    }
    if done.unsupported {
        crate::tell("The file system below takes no space back from inside of a file.\n");
    }
    Ok(())
}
