//! `razorfs mkfs STORE`: makes a store.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use clap::Args;
use razorfs::config::parse_size;
use razorfs::disk::dir::{create_store, remove_store_files};
use razorfs::engine::{LOG_BYTES_DEFAULT, MkfsOptions, mkfs, system_clock};
use razorfs::format::codec::Compression;
use razorfs::format::record::Dedup;
use razorfs::progress::{Progress, Terminal};
use serde::Serialize;
use uuid::Uuid;

type Error = Box<dyn std::error::Error>;

/// The smallest log: 4 MiB.
const LOG_BYTES_MIN: u64 = 4 << 20;
/// What the log's size is a multiple of.
const LOG_BYTES_STEP: u64 = 4096;

/// Makes a store in a new or empty directory.
#[derive(Debug, Args)]
pub struct MkfsArgs {
    /// The store's directory; made when it is not there.
    store: PathBuf,
    /// Bytes of file content the store may hold (K, M, G, T, P for powers of 1024); as much as the
    /// disk below gives when not said.
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    size: Option<u64>,
    /// Bytes of the log: what may be acknowledged between two checkpoints.
    #[arg(long, value_name = "BYTES", value_parser = parse_size, default_value_t = LOG_BYTES_DEFAULT)]
    log_size: u64,
    /// Compress new content where it pays: off, lz4, or zstd with a level from 1 to 19 (zstd:LEVEL).
    #[arg(long, value_name = "CODEC", default_value_t = Compression::OFF)]
    compression: Compression,
    /// Store equal content once: off, on, or verify (compare it byte by byte first).
    #[arg(long, value_name = "HOW", default_value_t = Dedup::Off)]
    dedup: Dedup,
    /// The store's UUID; random when not said.
    #[arg(long)]
    uuid: Option<Uuid>,
    /// Owner and group of the root directory.
    #[arg(long, value_name = "UID:GID", value_parser = parse_owner, default_value = "0:0")]
    root_owner: Owner,
    /// Permissions of the root directory, in octal.
    #[arg(long, value_name = "MODE", value_parser = parse_mode, default_value = "755")]
    root_mode: u32,
    /// Destroy the store that is there.
    #[arg(long)]
    force: bool,
    /// Accept a file system that does not survive a power cut.
    #[arg(long)]
    allow_volatile: bool,
    /// Print what was made as JSON.
    #[arg(long)]
    json: bool,
}

/// What was made.
#[derive(Debug, Serialize)]
struct Made {
    /// The store's directory.
    store: PathBuf,
    uuid: String,
    /// Bytes that it may hold; 0 for as much as the disk below gives.
    capacity_bytes: u64,
    log_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner {
    uid: u32,
    gid: u32,
}

fn parse_owner(text: &str) -> Result<Owner, String> {
    let wrong = || format!("'{text}' is not UID:GID in numbers");
    let (uid, gid) = text.split_once(':').ok_or_else(wrong)?;
    Ok(Owner {
        uid: uid.parse().map_err(|_| wrong())?,
        gid: gid.parse().map_err(|_| wrong())?,
    })
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err(format!("'{text}' is not a mode from 0 to 7777")),
    }
}

/// Makes the store: durable when this returns. A store that cannot be made, or not before a signal
/// came (Ctrl-C, SIGTERM), leaves nothing behind.
///
/// # Errors
/// When the directory holds something else, is in use, or the disk refuses; when a signal came.
pub fn run(args: &MkfsArgs) -> Result<(), Error> {
    if args.log_size < LOG_BYTES_MIN || !args.log_size.is_multiple_of(LOG_BYTES_STEP) {
        let size = args.log_size;
        return Err(format!(
            "--log-size {size}: the log takes a multiple of 4096 bytes, at least 4M"
        )
        .into());
    }
    let stop = crate::stop_on_signals()?;
    let progress = Progress::default();
    // Most of it is the log's space, which some file systems have to write.
    progress.begin("making the store", 0);
    let shown = Terminal::show(&progress);
    let uuid = args.uuid.unwrap_or_else(Uuid::new_v4);
    let existed = args.store.exists();
    let store = create_store(&args.store, args.allow_volatile, args.force).inspect_err(|_| {
        if !existed {
            // It fails where something else came into the directory: that stays.
            let _ = std::fs::remove_dir(&args.store);
        }
    })?;
    let options = MkfsOptions {
        uuid: *uuid.as_bytes(),
        hash_seed: rand::random(),
        capacity_bytes: args.size.unwrap_or(0),
        log_bytes: args.log_size,
        compression: args.compression,
        dedup: args.dedup,
        root_uid: args.root_owner.uid,
        root_gid: args.root_owner.gid,
        root_mode: args.root_mode,
    };
    let made = mkfs(store.media.clone(), &options, &system_clock());
    drop(shown);
    let failure = match made {
        Err(error) => Some(error.to_string()),
        Ok(()) => stop.load(Ordering::Relaxed).then(|| "interrupted".into()),
    };
    if let Some(reason) = failure {
        clean_up(&args.store, existed);
        return Err(format!("{}: no store was made: {reason}", args.store.display()).into());
    }
    if args.json {
        return crate::tell_json(&Made {
            store: args.store.clone(),
            uuid: uuid.to_string(),
            capacity_bytes: options.capacity_bytes,
            log_bytes: options.log_bytes,
        });
    }
    crate::tell(&format!("{}: made store {uuid}\n", args.store.display()));
    Ok(())
}

/// Takes away what an attempt left; if that fails too, the next attempt says what is there.
fn clean_up(store: &Path, existed: bool) {
    if let Err(error) = remove_store_files(store) {
        log::warn!("removing what was begun: {error}");
    } else if !existed && let Err(error) = std::fs::remove_dir(store) {
        log::warn!("removing {}: {error}", store.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_and_modes_are_checked() {
        assert_eq!(
            parse_owner("1000:100"),
            Ok(Owner {
                uid: 1000,
                gid: 100
            })
        );
        assert!(parse_owner("1000").is_err());
        assert!(parse_owner("root:root").is_err());
        assert_eq!(parse_mode("1777"), Ok(0o1777));
        assert!(parse_mode("10000").is_err());
        assert!(parse_mode("rwx").is_err());
    }
}
