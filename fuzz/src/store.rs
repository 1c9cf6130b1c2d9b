//! Stores on the simulated disk, made once and copied for each execution.

use std::sync::{Arc, OnceLock};

use razorfs::disk::sim::SimMedia;
use razorfs::engine::{
    Clock, Cred, MkfsOptions, NewInode, OpenOptions, SetXattr, Time, Volume, WriteFlags, mkfs,
};
use razorfs::format::codec::Compression;
use razorfs::format::id::Ino;
use razorfs::format::record::Dedup;
use razorfs::format::wal::LogKey;

/// The store's UUID.
pub const UUID: [u8; 16] = [1; 16];
/// The key of its hashes of names.
pub const HASH_SEED: [u8; 16] = [2; 16];
/// Whose log it is.
pub const LOG_KEY: LogKey = LogKey {
    uuid: UUID,
    hash_seed: HASH_SEED,
};
/// Bytes of content it may hold: few, so that it gets full.
const CAPACITY_BYTES: u64 = 4 << 20;

pub fn clock() -> Clock {
    Arc::new(|| Time { sec: 1, nsec: 2 })
}

pub fn options() -> OpenOptions {
    OpenOptions {
        background: false,
        cache_bytes: 4 << 20,
        dirty_limit_bytes: 1 << 20,
        ..OpenOptions::default()
    }
}

fn new(mode: u32) -> NewInode<'static> {
    NewInode {
        mode,
        umask: 0o022,
        rdev: 0,
        xattrs: &[],
        supplementary_gid: None,
    }
}

/// A store with some of everything: `closed`, or with its newest part in the log.
fn make(closed: bool) -> SimMedia {
    let sim = SimMedia::new();
    let format = MkfsOptions {
        uuid: UUID,
        hash_seed: HASH_SEED,
        capacity_bytes: CAPACITY_BYTES,
        log_bytes: 4 << 20,
        compression: Compression::OFF,
        dedup: Dedup::Off,
        root_uid: 0,
        root_gid: 0,
        root_mode: 0o755,
    };
    mkfs(sim.media(), &format, &clock()).unwrap();
    let volume = Volume::open_media(sim.media(), options(), clock()).unwrap();
    let cred = Cred::default();
    for index in 0..12u64 {
        let name = format!("name{index}");
        let name = name.as_bytes();
        let made = match index {
            0 | 1 => volume.create(cred, Ino::ROOT, name, &new(0o040_755)),
            2 => volume.symlink(cred, Ino::ROOT, name, b"target", &new(0o120_777)),
            _ => volume.create(cred, Ino::ROOT, name, &new(0o100_644)),
        };
        let ino = made.unwrap().ino;
        if index > 3 {
            let content = vec![7; 700 * (1 << (index - 4))];
            let mut source = content.as_slice();
            let flags = WriteFlags::default();
            volume
                .write(ino, 0, content.len(), &mut source, flags)
                .unwrap();
            let value = vec![3; 300 * usize::try_from(index).unwrap()];
            volume
                .setxattr(ino, b"user.a", &value, SetXattr::Any, false)
                .unwrap();
        }
        if index == 8 {
            volume.store().checkpoint().unwrap();
        }
    }
    if closed {
        volume.store().close().unwrap();
    } else {
        volume.sync_all().unwrap();
    }
    sim.killed()
}

/// A copy of a store that was closed.
pub fn closed() -> SimMedia {
    static STORE: OnceLock<SimMedia> = OnceLock::new();
    STORE.get_or_init(|| make(true)).killed()
}

/// A copy of a store that was not closed: there is something in its log.
pub fn open() -> SimMedia {
    static STORE: OnceLock<SimMedia> = OnceLock::new();
    STORE.get_or_init(|| make(false)).killed()
}
