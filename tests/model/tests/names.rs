//! Names give their space back: a store on files, of which everything is deleted.
#![allow(missing_docs)]

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use razorfs::disk::dir::create_store;
use razorfs::engine::{
    Cred, EngineError, MkfsOptions, NewInode, OpenOptions, Store, TrimOptions, mkfs, system_clock,
};
use razorfs::format::id::Ino;
use razorfs::fsck;

/// Names of 250 bytes: 25 MiB.
const NAMES: u32 = 100_000;
const MIB: u64 = 1 << 20;
/// How long it may take until a walk over the trees is due, and done.
const PATIENCE: Duration = Duration::from_secs(120);

/// Bytes that a file of the store has of the disk.
fn held_by(store: &Path, name: &str) -> u64 {
    let found = std::fs::metadata(store.join(name));
    found.map_or(u64::MAX, |found| found.blocks() * 512)
}

fn held(store: &Path) -> u64 {
    held_by(store, "strings.dat")
}

/// Bytes that all files of a store have of the disk, when nothing is left to give back.
fn trimmed(path: &Path, store: &Arc<Store>) -> Result<u64, EngineError> {
    store.trim(&TrimOptions::default(), &mut || true)?;
    let files = ["chunks.dat", "nodes.dat", "strings.dat"];
    Ok(files.map(|name| held_by(path, name)).iter().sum())
}

/// Nobody asks for it: enough files went.
#[test]
fn deleting_everything_returns_to_the_size_of_an_empty_store() {
    let dir = tempfile::tempdir().unwrap();
    let files = create_store(dir.path(), true, false).unwrap();
    let how = MkfsOptions::reproducible();
    mkfs(files.media.clone(), &how, &system_clock()).unwrap();
    let options = OpenOptions {
        allow_volatile: true,
        trim_interval: Some(Duration::from_millis(100)),
        ..OpenOptions::default()
    };
    let media = files.media.clone();
    let store = Store::open_files(dir.path(), files, options).unwrap();
    let main = store.main().unwrap();
    let empty = (held(dir.path()), store.metadata_bytes());
    let empty_files = trimmed(dir.path(), &store).unwrap();
    let new = NewInode {
        mode: libc::S_IFREG | 0o644,
        umask: 0,
        rdev: 0,
        xattrs: &[],
        supplementary_gid: None,
    };
    let name = |number: u32| format!("{number:0>250}").into_bytes();
    for number in 0..NAMES {
        main.create(Cred::default(), Ino::ROOT, &name(number), &new)
            .unwrap();
    }
    store.checkpoint().unwrap();
    assert!(held(dir.path()) > empty.0 + 20 * MIB);
    for number in 0..NAMES {
        let gone = main.unlink(Ino::ROOT, &name(number)).unwrap();
        main.reclaim(gone.ino).unwrap();
    }
    store.checkpoint().unwrap();
    let began = Instant::now();
    let sizes = || (held(dir.path()), store.metadata_bytes());
    let are_near = |more| sizes().0 <= empty.0 + more && sizes().1 <= empty.1 + more;
    // For the last of it no walk is worth it, when one came before all were deleted.
    while !are_near(3 * MIB) {
        assert!(began.elapsed() < PATIENCE, "{:?}, empty {empty:?}", sizes());
        std::thread::sleep(Duration::from_millis(50));
    }
    let files = trimmed(dir.path(), &store).unwrap();
    assert!(are_near(MIB), "{:?}, empty {empty:?}", sizes());
    assert!(files <= empty_files + MIB, "{files}, empty {empty_files}");
    drop(main);
    store.close().unwrap();
    assert_eq!(fsck::errors(&media).unwrap(), [""; 0]);
}
