//! `razorfs rewrite STORE PATH`: writes a file's content anew.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use clap::Args;
use razorfs::engine::{OpenOptions, Store, Volume};
use razorfs::format::id::Ino;

type Error = Box<dyn std::error::Error>;

/// Writes the content of files anew, as the dataset's settings are now (compression, deduplication),
/// in few extents. Neither their size nor their times change. Where the dataset deduplicates, what it
/// finds stays as it is stored. It may be interrupted at any time.
#[derive(Debug, Args)]
pub struct RewriteArgs {
    /// The store's directory.
    store: PathBuf,
    /// Paths of files in the dataset.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// The dataset.
    #[arg(long, default_value = "main")]
    dataset: String,
    /// Accept a store on a file system that does not survive a power cut.
    #[arg(long)]
    allow_volatile: bool,
}

/// Does it.
///
/// # Errors
/// When the store cannot be opened or closed, or a file cannot be found or written.
pub fn run(args: &RewriteArgs) -> Result<(), Error> {
    let stop = crate::stop_on_signals()?;
    let options = OpenOptions {
        allow_volatile: args.allow_volatile,
        background: false,
        ..OpenOptions::default()
    };
    let store = Store::open(&args.store, options)?;
    let done = rewrite_all(args, &store, &mut || !stop.load(Ordering::Relaxed));
    store.close()?;
    done
}

fn rewrite_all(
    args: &RewriteArgs,
    store: &Arc<Store>,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<(), Error> {
    let volume = store.volume(&args.dataset)?;
    for path in &args.paths {
        let named = |error| format!("{}: {error}", path.display());
        let ino = find(&volume, path).map_err(|error| named(error.to_string()))?;
        let bytes = volume.rewrite(ino, go_on);
        let bytes = bytes.map_err(|error| named(error.to_string()))?;
        crate::tell(&format!("{}: {bytes} bytes written anew\n", path.display()));
    }
    Ok(())
}

/// The inode at a path from the dataset's root.
fn find(volume: &Volume, path: &Path) -> Result<Ino, Error> {
    use std::os::unix::ffi::OsStrExt;
    let mut ino = Ino::ROOT;
    for component in path.components() {
        match component {
            Component::Normal(name) => ino = volume.lookup(ino, name.as_bytes())?.ino,
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err("a path without '..'".into()),
        }
    }
    Ok(ino)
}
