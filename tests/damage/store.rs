//! The stores that are damaged, what they hold, and how they are damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use razorfs::disk::sim::SimMedia;
use razorfs::engine::{
    Cred, DirEntry, EngineError, Fallocate, MkfsOptions, NewInode, OpenOptions, RenameMode,
    SetAttr, SetXattr, Time, Volume, WriteFlags, mkfs,
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

pub fn fresh() -> SimMedia {
    let sim = SimMedia::new();
    let format = MkfsOptions {
        compression: "lz4".parse().unwrap(),
        dedup: Dedup::On,
        ..MkfsOptions::reproducible()
    };
    mkfs(sim.media(), &format, &clock()).unwrap();
    sim
}

pub fn finish(sim: &SimMedia, volume: &Volume, closed: bool) -> SimMedia {
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

/// A store with a golden image, snapshots of it and clones, some of which went on by themselves:
/// most pages are part of several trees. The newest of it is in the log unless it is `closed`.
pub fn copied(closed: bool) -> SimMedia {
    let sim = fresh();
    let main = open(&sim, false).unwrap();
    let store = Arc::clone(main.store());
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    grow(&main, &mut rng, 0, 200);
    store.snapshot("main@one").unwrap();
    for clone in ["same", "less", "more"] {
        store.clone_dataset("main@one", clone).unwrap();
    }
    store.checkpoint().unwrap();
    grow(&main, &mut rng, 1000, 60);
    // Pages that are next to each other are given back.
    let less = store.volume("less").unwrap();
    (20..150).for_each(|index| remove(&less, index));
    store.snapshot("main@two").unwrap();
    store.checkpoint().unwrap();
    let more = store.volume("more").unwrap();
    grow(&more, &mut rng, 2000, 80);
    remove(&more, 3);
    remove(&main, 4);
    store.snapshot("more@one").unwrap();
    store.clone_dataset("more@one", "grown").unwrap();
    grow(&store.volume("grown").unwrap(), &mut rng, 3000, 5);
    drop((less, more));
    finish(&sim, &main, closed)
}

/// Makes files with content and an attribute, `from` the first number on.
pub fn grow(volume: &Volume, rng: &mut ChaCha8Rng, from: u32, count: u32) {
    let cred = Cred::default();
    for index in from..from + count {
        let name = format!("image-{index}");
        let made = volume.create(cred, Ino::ROOT, name.as_bytes(), &new(0o100_644));
        let file = made.unwrap().ino;
        write(volume, file, 0, &content(rng, 3000));
        let value = vec![6; rng.random_range(0..400)];
        volume
            .setxattr(file, b"user.x", &value, SetXattr::Any, false)
            .unwrap();
    }
}

pub fn remove(volume: &Volume, index: u32) {
    let name = format!("image-{index}");
    let removed = volume.unlink(Ino::ROOT, name.as_bytes()).unwrap();
    volume.reclaim(removed.ino).unwrap();
}

/// Takes a snapshot of the main dataset, and changes that.
pub fn go_on(main: &Volume) {
    let mut rng = ChaCha8Rng::seed_from_u64(17);
    main.store().snapshot("main@later").unwrap();
    main.store().checkpoint().unwrap();
    grow(main, &mut rng, 7000, 30);
    main.store().close().unwrap();
}

/// A dataset that went on from a snapshot by changing what is in it: files are cut, punched,
/// overwritten, moved and linked, attributes changed and removed.
pub fn changed() -> SimMedia {
    let sim = fresh();
    let main = open(&sim, false).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(13);
    grow(&main, &mut rng, 0, 150);
    let file = |index: u32| {
        let name = format!("image-{index}").into_bytes();
        let ino = main.lookup(Ino::ROOT, &name).unwrap().ino;
        (name, ino)
    };
    for index in 0..150 {
        let ino = file(index).1;
        for piece in 1..6 {
            let mut whole = content(&mut rng, 2500);
            whole.resize(2500, 1);
            whole.iter_mut().for_each(|byte| *byte |= 1);
            write(&main, ino, piece * 9000, &whole);
        }
        let long = vec![9; rng.random_range(500..3000)];
        main.setxattr(ino, b"user.long", &long, SetXattr::Any, false)
            .unwrap();
    }
    main.store().checkpoint().unwrap();
    main.store().snapshot("main@one").unwrap();
    main.store().checkpoint().unwrap();
    for index in 0..150 {
        let ((name, ino), new_name) = (file(index), format!("changed-{index}"));
        match rng.random_range(0..12) {
            0 => {
                let size = Some(rng.random_range(0..40_000));
                let set = SetAttr {
                    size,
                    ..SetAttr::default()
                };
                main.setattr(ino, &set).unwrap();
            }
            1 => {
                let at = rng.random_range(0..5) * 9000;
                main.fallocate(ino, at, 9000, Fallocate::PunchHole).unwrap();
            }
            2 => {
                let at = rng.random_range(0..40_000);
                write(&main, ino, at, &content(&mut rng, 6000));
            }
            3 => main.removexattr(ino, b"user.x").unwrap(),
            4 => main
                .setxattr(ino, b"user.x", &[7; 30], SetXattr::Any, false)
                .unwrap(),
            5 => {
                let (from, to) = (&name, new_name.as_bytes());
                main.rename(Ino::ROOT, from, Ino::ROOT, to, RenameMode::Replace)
                    .map(drop)
                    .unwrap();
            }
            6 => drop(main.link(ino, Ino::ROOT, new_name.as_bytes()).unwrap()),
            7 => {
                let removed = main.unlink(Ino::ROOT, &name).unwrap();
                main.reclaim(removed.ino).unwrap();
            }
            8 | 9 => {
                // As long as what was there.
                let first = Found::file(&main, ino).unwrap().bytes;
                for piece in 1..6_u32 {
                    let at = piece as usize * 9000;
                    let len = first[at..].iter().position(|byte| *byte == 0).unwrap_or(0);
                    write(&main, ino, u64::from(piece) * 9000, &vec![3; len.max(1)]);
                }
            }
            10 => main
                .setxattr(ino, b"user.long", &[8; 30], SetXattr::Any, false)
                .unwrap(),
            _ => {}
        }
    }
    finish(&sim, &main, true)
}

/// Two snapshots with the same pages, and a dataset that went on: what leads to the pages that all
/// three have is the snapshots' and another the dataset's.
pub fn in_line() -> SimMedia {
    let sim = fresh();
    let main = open(&sim, false).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(10);
    grow(&main, &mut rng, 0, 150);
    main.store().checkpoint().unwrap();
    main.store().snapshot("main@one").unwrap();
    main.store().snapshot("main@two").unwrap();
    main.store().checkpoint().unwrap();
    grow(&main, &mut rng, 1000, 20);
    finish(&sim, &main, true)
}

/// An image made from another, of which it has half, and many clones of it that differ in a file:
/// the table of datasets has several pages.
pub fn cloned() -> SimMedia {
    let sim = fresh();
    let main = open(&sim, false).unwrap();
    let store = Arc::clone(main.store());
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    grow(&main, &mut rng, 0, 180);
    store.checkpoint().unwrap();
    (0..180).step_by(6).for_each(|index| remove(&main, index));
    store.snapshot("main@one").unwrap();
    store.clone_dataset("main@one", "derived").unwrap();
    store.checkpoint().unwrap();
    grow(&store.volume("derived").unwrap(), &mut rng, 1000, 150);
    store.checkpoint().unwrap();
    store.snapshot("derived@one").unwrap();
    for index in 0..12 {
        let name = format!("clone-{index}-{}", "x".repeat(100));
        store.clone_dataset("derived@one", &name).unwrap();
        if index % 2 == 0 {
            grow(&store.volume(&name).unwrap(), &mut rng, 2000, 1);
        }
    }
    finish(&sim, &main, true)
}

/// A store with a past, of which files were moved, linked, removed, cut and overwritten since the
/// newest checkpoint, and of which a clone was made in the midst of that.
pub fn went_on() -> SimMedia {
    let sim = lived_in(true);
    let main = open(&sim, false).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    let mut clone = None;
    for step in 0..120u32 {
        if step == 60 {
            main.store().clone_dataset("main", "clone").unwrap();
            clone = Some(main.store().volume("clone").unwrap());
        }
        let volume = match &clone {
            Some(clone) if rng.random() => clone,
            _ => &*main,
        };
        let mut entries: Vec<DirEntry> = Vec::new();
        volume
            .readdir(Ino::ROOT, 2, &mut |entry| {
                entries.push(entry);
                true
            })
            .unwrap();
        entries.retain(|entry| entry.file_type != DIRECTORY && entry.file_type != SYMLINK);
        let entry = &entries[rng.random_range(0..entries.len())];
        let new_name = format!("later-{step}").into_bytes();
        match rng.random_range(0..4) {
            0 => {
                let removed = volume.unlink(Ino::ROOT, &entry.name).unwrap();
                volume.reclaim(removed.ino).unwrap();
            }
            1 => volume
                .rename(
                    Ino::ROOT,
                    &entry.name,
                    Ino::ROOT,
                    &new_name,
                    RenameMode::Replace,
                )
                .map(drop)
                .unwrap(),
            2 => drop(volume.link(entry.ino, Ino::ROOT, &new_name).unwrap()),
            _ => {
                let offset = rng.random_range(0..9000);
                write(volume, entry.ino, offset, &content(&mut rng, 9000));
                // More than fits the log goes to chunks.
                volume.fsync(entry.ino, false).unwrap();
            }
        }
    }
    drop(clone);
    finish(&sim, &main, false)
}

/// A store whose files are moved between two checkpoints, and again behind the newer one.
pub fn moved() -> SimMedia {
    let sim = fresh();
    let main = open(&sim, false).unwrap();
    let file = new(0o100_644);
    for index in 0..320 {
        let name = format!("first-{index}");
        let made = main.create(Cred::default(), Ino::ROOT, name.as_bytes(), &file);
        write(&main, made.unwrap().ino, 0, name.as_bytes());
    }
    for (from, to) in [("first", "second"), ("second", "third")] {
        main.store().checkpoint().unwrap();
        for index in 0..320 {
            let (from, to) = (format!("{from}-{index}"), format!("{to}-{index}"));
            let (from, to) = (from.as_bytes(), to.as_bytes());
            main.rename(Ino::ROOT, from, Ino::ROOT, to, RenameMode::Replace)
                .unwrap();
        }
    }
    finish(&sim, &main, false)
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

/// Everything that can be read of all datasets, by their names and paths, and whether that is all.
pub fn contents(main: &Volume) -> (BTreeMap<Vec<u8>, Found>, bool) {
    let (mut found, mut whole) = contents_of(main, b"");
    let Ok(datasets) = main.store().list() else {
        return (found, false);
    };
    for dataset in datasets.iter().filter(|dataset| dataset.name != "main") {
        match main.store().volume(&dataset.name) {
            Ok(volume) => {
                let (of, is_whole) = contents_of(&volume, dataset.name.as_bytes());
                found.extend(of);
                whole &= is_whole;
            }
            Err(_) => whole = false,
        }
    }
    (found, whole)
}

fn contents_of(volume: &Volume, name: &[u8]) -> (BTreeMap<Vec<u8>, Found>, bool) {
    let mut found = BTreeMap::new();
    let mut whole = true;
    let mut dirs = vec![(Ino::ROOT, name.to_vec())];
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
            for name in ["user.x", "user.long"] {
                let at = [&at[..], b" ", name.as_bytes()].concat();
                match volume.getxattr(entry.ino, name.as_bytes()) {
                    Ok(bytes) => drop(found.insert(at, Found::whole(ino, bytes))),
                    Err(EngineError::NoAttribute) => {}
                    Err(_) => whole = false,
                }
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
