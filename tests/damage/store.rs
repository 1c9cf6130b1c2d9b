//! The stores that are damaged, what they hold, and how they are damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use razorfs::disk::sim::SimMedia;
use razorfs::engine::{
    Cred, DirEntry, EngineError, MkfsOptions, NewInode, OpenOptions, RenameMode, SetXattr, Time,
    Volume, WriteFlags, mkfs,
};
use razorfs::format::id::Ino;
use razorfs::format::record::Dedup;

/// The disks of a store, by their place in a [`SimMedia`].
pub const DISKS: usize = 5;
const DIRECTORY: u8 = 4;
const SYMLINK: u8 = 10;

fn clock() -> razorfs::engine::Clock {
    Arc::new(|| Time { sec: 1, nsec: 2 })
}

pub fn open(sim: &SimMedia, read_only: bool) -> Result<Arc<Volume>, EngineError> {
    let options = OpenOptions {
        read_only,
        background: false,
        ..OpenOptions::default()
    };
    Volume::open_media(sim.media(), options, clock())
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

fn bytes(rng: &mut ChaCha8Rng, most: usize) -> Vec<u8> {
    let len = rng.random_range(0..most);
    (0..len).map(|_| rng.random()).collect()
}

/// The same for a file's content, of which the end can be compressed.
fn content(rng: &mut ChaCha8Rng, most: usize) -> Vec<u8> {
    let mut content = bytes(rng, most);
    let random = rng.random_range(0..=content.len());
    content[random..].fill(rng.random());
    content
}

fn write(volume: &Volume, ino: Ino, offset: u64, content: &[u8]) {
    let (len, mut from) = (content.len(), content);
    volume
        .write(ino, offset, len, &mut from, WriteFlags::default())
        .unwrap();
}

fn fresh() -> SimMedia {
    let sim = SimMedia::new();
    let format = MkfsOptions {
        compression: "lz4".parse().unwrap(),
        dedup: Dedup::On,
        ..MkfsOptions::reproducible()
    };
    mkfs(sim.media(), &format, &clock()).unwrap();
    sim
}

fn finish(sim: &SimMedia, volume: &Volume, closed: bool) -> SimMedia {
    if closed {
        volume.store().close().unwrap();
    } else {
        volume.sync_all().unwrap();
    }
    sim.killed()
}

/// A store with a few hundred inodes, made in one go; `closed`, or with its newest part in the log.
pub fn plain(closed: bool) -> SimMedia {
    let sim = fresh();
    let volume = open(&sim, false).unwrap();
    let cred = Cred::default();
    let mut dir = Ino::ROOT;
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for index in 0..300u32 {
        let name = format!("entry-{index}");
        if index % 50 == 49 {
            let made = volume.create(cred, dir, name.as_bytes(), &new(0o040_755));
            dir = made.unwrap().ino;
            continue;
        }
        let file = volume
            .create(cred, dir, name.as_bytes(), &new(0o100_644))
            .unwrap()
            .ino;
        write(&volume, file, 0, &content(&mut rng, 20_000));
        let value = vec![5; rng.random_range(0..2000)];
        volume
            .setxattr(file, b"user.x", &value, SetXattr::Any, false)
            .unwrap();
        if index == 200 {
            volume.store().checkpoint().unwrap();
        }
    }
    finish(&sim, &volume, closed)
}

/// A store with a past: files overwritten, cut, moved, linked and removed over many checkpoints, so
/// that nodes.dat is full of old versions of its pages.
pub fn lived_in(closed: bool) -> SimMedia {
    let sim = fresh();
    let volume = open(&sim, false).unwrap();
    let cred = Cred::default();
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let mut dirs = vec![Ino::ROOT];
    let mut files: Vec<(Ino, Vec<u8>, Ino)> = Vec::new();
    for step in 0..1200u32 {
        let dir = dirs[rng.random_range(0..dirs.len())];
        let name = format!("name-{step}").into_bytes();
        match rng.random_range(0..12) {
            0 if dirs.len() < 12 => {
                let made = volume.create(cred, dir, &name, &new(0o040_755));
                dirs.push(made.unwrap().ino);
            }
            1 => {
                let target = bytes(&mut rng, 1500);
                let target: Vec<u8> = target.iter().map(|byte| byte | 0x40).collect();
                let target = [b"t", &target[..]].concat();
                volume
                    .symlink(cred, dir, &name, &target, &new(0o120_777))
                    .unwrap();
            }
            2..=5 => {
                let made = volume.create(cred, dir, &name, &new(0o100_644));
                let ino = made.unwrap().ino;
                write(&volume, ino, 0, &content(&mut rng, 9000));
                files.push((dir, name, ino));
            }
            _ if files.is_empty() => {}
            6 => {
                let (dir, name, _) = files.swap_remove(rng.random_range(0..files.len()));
                let removed = volume.unlink(dir, &name).unwrap();
                volume.reclaim(removed.ino).unwrap();
            }
            7 => {
                let at = rng.random_range(0..files.len());
                let (from, old, ino) = files[at].clone();
                let mode = RenameMode::Replace;
                volume.rename(from, &old, dir, &name, mode).unwrap();
                files[at] = (dir, name, ino);
            }
            8 => {
                let (_, _, ino) = files[rng.random_range(0..files.len())];
                volume.link(ino, dir, &name).unwrap();
                files.push((dir, name, ino));
            }
            9 => {
                let (_, _, ino) = files[rng.random_range(0..files.len())];
                let value = bytes(&mut rng, 2000);
                volume
                    .setxattr(ino, b"user.x", &value, SetXattr::Any, false)
                    .unwrap();
            }
            _ => {
                let (_, _, ino) = files[rng.random_range(0..files.len())];
                let offset = rng.random_range(0..12_000);
                write(&volume, ino, offset, &content(&mut rng, 6000));
            }
        }
        if step % 40 == 39 {
            volume.store().checkpoint().unwrap();
        }
    }
    fragment(&volume, &mut rng);
    finish(&sim, &volume, closed)
}

/// What can be read of an inode: its content, or its attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub ino: Ino,
    pub bytes: Vec<u8>,
    /// Blocks of [`BLOCK`] bytes that could not be read.
    pub gaps: BTreeSet<usize>,
}

/// Bytes read at a time of what cannot be read whole.
const BLOCK: usize = 1000;

impl Found {
    fn whole(ino: Ino, bytes: Vec<u8>) -> Found {
        let gaps = BTreeSet::new();
        Found { ino, bytes, gaps }
    }

    /// A file's content as far as it can be read.
    fn file(volume: &Volume, ino: Ino) -> Option<Found> {
        let mut bytes = Vec::new();
        if volume.read(ino, 0, 2 << 20, &mut bytes).is_ok() {
            return Some(Found::whole(ino, bytes));
        }
        let size = usize::try_from(volume.getattr(ino).ok()?.size).ok()?;
        let mut found = Found::whole(ino, vec![0; size.min(2 << 20)]);
        for (block, target) in found.bytes.chunks_mut(BLOCK).enumerate() {
            let mut bytes = Vec::new();
            let at = (block * BLOCK) as u64;
            match volume.read(ino, at, target.len(), &mut bytes) {
                Ok(_) => target.copy_from_slice(&bytes),
                Err(_) => drop(found.gaps.insert(block)),
            }
        }
        Some(found)
    }

    /// Whether all that was read is what `right` has.
    pub fn agrees(&self, right: &Found) -> bool {
        let same = |(block, (a, b)): (usize, (&[u8], &[u8]))| self.gaps.contains(&block) || a == b;
        self.ino == right.ino
            && self.bytes.len() == right.bytes.len()
            && self
                .bytes
                .chunks(BLOCK)
                .zip(right.bytes.chunks(BLOCK))
                .enumerate()
                .all(same)
    }

    /// Whether all that `before` has is here.
    pub fn keeps(&self, before: &Found) -> bool {
        before.agrees(self) && self.gaps.is_subset(&before.gaps)
    }
}

/// A file of several pages of extents, of which each checkpoint moves some.
fn fragment(volume: &Volume, rng: &mut ChaCha8Rng) {
    let made = volume.create(Cred::default(), Ino::ROOT, b"fragments", &new(0o100_644));
    let ino = made.unwrap().ino;
    let whole: Vec<u8> = (0..1 << 20).map(|_| rng.random()).collect();
    write(volume, ino, 0, &whole);
    for _ in 0..4 {
        for at in 0..200 {
            let len = rng.random_range(1..3000);
            write(
                volume,
                ino,
                at * 5000 + rng.random_range(0..2000),
                &vec![rng.random(); len],
            );
        }
        // More than fits the log goes to chunks.
        volume.fsync(ino, false).unwrap();
        volume.store().checkpoint().unwrap();
    }
}

/// Everything that can be read, by path, and whether that is all.
pub fn contents(volume: &Volume) -> (BTreeMap<Vec<u8>, Found>, bool) {
    let mut found = BTreeMap::new();
    let mut whole = true;
    let mut dirs = vec![(Ino::ROOT, Vec::new())];
    let mut steps = 0;
    while let Some((dir, path)) = dirs.pop() {
        steps += 1;
        assert!(steps < 10_000, "directories in a circle");
        let mut entries: Vec<DirEntry> = Vec::new();
        let listed = volume.readdir(dir, 2, &mut |entry| {
            entries.push(entry);
            true
        });
        whole &= listed.is_ok();
        for entry in entries {
            let at = [&path[..], b"/", &entry.name].concat();
            if entry.file_type == DIRECTORY {
                dirs.push((entry.ino, at));
                continue;
            }
            let ino = entry.ino;
            let content = if entry.file_type == SYMLINK {
                let target = volume.readlink(ino).ok();
                target.map(|target| Found::whole(ino, target))
            } else {
                Found::file(volume, ino)
            };
            whole &= content.as_ref().is_some_and(|found| found.gaps.is_empty());
            if let Some(content) = content {
                found.insert([&at[..], b" content"].concat(), content);
            }
            match volume.getxattr(entry.ino, b"user.x") {
                Ok(bytes) => drop(found.insert(at, Found::whole(ino, bytes))),
                Err(EngineError::NoAttribute) => {}
                Err(_) => whole = false,
            }
        }
    }
    (found, whole)
}

/// Overwrites up to three places: a bit, a byte, sectors or pages of garbage or zeros, or what
/// stands elsewhere.
pub fn damage(sim: &SimMedia, rng: &mut ChaCha8Rng) {
    for _ in 0..rng.random_range(1..=3) {
        let disk = rng.random_range(0..DISKS);
        let unit = if rng.random() { 512 } else { 4096 };
        // Most of a new store's files is empty: aim at where something is.
        let len = sim.disk_len(disk).min(1 << 20) / unit;
        if len < 2 {
            continue;
        }
        let at = rng.random_range(0..len) * unit;
        let mut bytes = vec![0; usize::try_from(unit).unwrap()];
        sim.peek(disk, at, &mut bytes);
        let place = rng.random_range(0..bytes.len());
        match rng.random_range(0..5) {
            0 => bytes[place] ^= 1 << rng.random_range(0..8),
            1 => bytes[place] = rng.random(),
            2 => bytes.iter_mut().for_each(|byte| *byte = rng.random()),
            3 => bytes.fill(0),
            _ => {
                let other = rng.random_range(0..len) * unit;
                let here = bytes.clone();
                sim.peek(disk, other, &mut bytes);
                sim.corrupt(disk, other, &here);
            }
        }
        sim.corrupt(disk, at, &bytes);
    }
}
