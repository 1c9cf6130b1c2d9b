//! Rot anywhere in a store: what is read is right or an error, nothing panics, and the checker says
//! what is damaged whenever anything could not be read.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use razorfs::disk::sim::SimMedia;
use razorfs::engine::{
    Cred, DirEntry, EngineError, MkfsOptions, NewInode, OpenOptions, SetXattr, Time, Volume,
    WriteFlags, mkfs,
};
use razorfs::format::id::Ino;
use razorfs::fsck::{self, Options, Severity};

/// Runs without `RAZORFS_RUNS`.
const RUNS: u64 = 2000;
const DISKS: usize = 5;

fn clock() -> razorfs::engine::Clock {
    Arc::new(|| Time { sec: 1, nsec: 2 })
}

fn open(sim: &SimMedia, read_only: bool) -> Result<Arc<Volume>, EngineError> {
    let options = OpenOptions {
        read_only,
        background: false,
        ..OpenOptions::default()
    };
    Volume::open_media(sim.media(), options, clock())
}

/// A store with a few hundred inodes; `closed`, or with its newest part in the log.
fn make(closed: bool) -> SimMedia {
    let sim = SimMedia::new();
    let format = MkfsOptions {
        uuid: [1; 16],
        hash_seed: [2; 16],
        capacity_bytes: 0,
        log_bytes: 4 << 20,
        root_uid: 0,
        root_gid: 0,
        root_mode: 0o755,
    };
    mkfs(sim.media(), &format, &clock()).unwrap();
    let volume = open(&sim, false).unwrap();
    let cred = Cred::default();
    let mut dir = Ino::ROOT;
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for index in 0..300u32 {
        let new = |mode| NewInode {
            mode,
            umask: 0o022,
            rdev: 0,
            xattrs: &[],
            supplementary_gid: None,
        };
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
        let content: Vec<u8> = (0..rng.random_range(0..20_000))
            .map(|_| rng.random())
            .collect();
        let flags = WriteFlags::default();
        volume
            .write(file, 0, content.len(), &mut content.as_slice(), flags)
            .unwrap();
        let value = vec![5; rng.random_range(0..2000)];
        volume
            .setxattr(file, b"user.x", &value, SetXattr::Any, false)
            .unwrap();
        if index == 200 {
            volume.checkpoint().unwrap();
        }
    }
    if closed {
        volume.close().unwrap();
    } else {
        volume.sync_all().unwrap();
    }
    sim
}

/// Everything that can be read, by path, and whether that is all.
fn contents(volume: &Volume) -> (BTreeMap<Vec<u8>, Vec<u8>>, bool) {
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
            if entry.file_type == 4 {
                dirs.push((entry.ino, at));
                continue;
            }
            let mut bytes = Vec::new();
            match volume.read(entry.ino, 0, 1 << 20, &mut bytes) {
                Ok(_) => drop(found.insert([&at[..], b" content"].concat(), bytes)),
                Err(_) => whole = false,
            }
            match volume.getxattr(entry.ino, b"user.x") {
                Ok(value) => drop(found.insert(at, value)),
                Err(_) => whole = false,
            }
        }
    }
    (found, whole)
}

fn errors(sim: &SimMedia, seed: u64) -> u64 {
    let options = Options {
        data: true,
        ..Options::default()
    };
    let mut told = 0;
    let result = fsck::check(&sim.media(), options, &mut |issue| {
        told += u64::from(issue.severity() == Severity::Error);
    });
    match result {
        Ok(summary) => assert_eq!(summary.errors, told, "seed {seed}"),
        Err(_) => told += 1,
    }
    told
}

/// Overwrites, in a copy, up to three places: a bit, a sector of garbage, or another sector.
fn damage(sim: &SimMedia, rng: &mut ChaCha8Rng) {
    for _ in 0..rng.random_range(1..=3) {
        let disk = rng.random_range(0..DISKS);
        // Most of a new store's files is empty: aim at where something is.
        let len = sim.disk_len(disk).min(1 << 20);
        if len < 1024 {
            continue;
        }
        let sector = rng.random_range(0..len / 512) * 512;
        let mut bytes = vec![0; 512];
        sim.peek(disk, sector, &mut bytes);
        match rng.random_range(0..3) {
            0 => bytes[rng.random_range(0..512)] ^= 1 << rng.random_range(0..8),
            1 => bytes.iter_mut().for_each(|byte| *byte = rng.random()),
            _ => sim.peek(disk, rng.random_range(0..len / 512) * 512, &mut bytes),
        }
        sim.corrupt(disk, sector, &bytes);
    }
}

fn run(sound: &SimMedia, right: &BTreeMap<Vec<u8>, Vec<u8>>, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let sim = sound.killed();
    damage(&sim, &mut rng);
    let errors = errors(&sim, seed);
    let Ok(volume) = open(&sim, true) else {
        assert!(
            errors > 0,
            "seed {seed}: does not open, and the checker found nothing"
        );
        return;
    };
    let cut_off = volume.recovery_report().batches;
    let (found, whole) = contents(&volume);
    if errors == 0 {
        assert!(
            whole,
            "seed {seed}: not all can be read, and the checker found nothing"
        );
    }
    // Damage in the log's last batch cannot be told from its end: an older state is right then.
    if cut_off == open(sound, true).unwrap().recovery_report().batches {
        for (path, bytes) in found {
            assert!(
                right.get(&path) == Some(&bytes),
                "seed {seed}: {} is wrong",
                path.escape_ascii()
            );
        }
    }
    // To open it for writing must not panic either, and what it writes is its own affair.
    if let Ok(volume) = open(&sim.killed(), false) {
        drop(volume.close());
    }
}

#[test]
fn rot_is_found_and_never_becomes_data() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().unwrap());
    for closed in [true, false] {
        let sound = make(closed);
        assert_eq!(errors(&sound, 0), 0);
        let (right, whole) = contents(&open(&sound, true).unwrap());
        assert!(whole && right.len() > 500);
        match number("RAZORFS_SEED") {
            Some(seed) => run(&sound, &right, seed),
            None => {
                let runs = number("RAZORFS_RUNS").unwrap_or(RUNS) / 2;
                (0..runs).for_each(|seed| run(&sound, &right, seed));
            }
        }
    }
}
