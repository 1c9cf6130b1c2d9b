//! Random operations of every kind, power cut anywhere, then the checker: whatever a crash leaves
//! must be a sound store, before recovery, after it, and after a second power cut.
//!
//! The seed of a failing run is in its message; `RAZORFS_SEED` runs that one alone, `RAZORFS_RUNS`
//! says how many to run.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use razorfs::disk::sim::{SimMedia, Survival};
use razorfs::engine::{
    CompactOptions, Cred, EngineError, Fallocate, MkfsOptions, NewInode, OpenOptions, RenameMode,
    SetAttr, SetXattr, Time, TrimOptions, Volume, WriteFlags, mkfs,
};
use razorfs::format::id::Ino;
use razorfs::fsck;

/// Runs without `RAZORFS_RUNS`; each looks at two dozen crash states.
const RUNS: u64 = 200;
const STEPS: usize = 150;
const CRASHES: usize = 12;
/// Names are few, so that operations meet.
const NAMES: usize = 12;

fn clock() -> razorfs::engine::Clock {
    Arc::new(|| Time { sec: 1, nsec: 2 })
}

fn options() -> OpenOptions {
    OpenOptions {
        background: false,
        ..OpenOptions::default()
    }
}

fn errors(sim: &SimMedia) -> Vec<String> {
    fsck::errors(&sim.media()).unwrap()
}

/// The inodes that operations choose from.
struct World {
    dirs: Vec<Ino>,
    files: Vec<Ino>,
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

fn name(rng: &mut ChaCha8Rng) -> Vec<u8> {
    format!("name-{}", rng.random_range(0..NAMES)).into_bytes()
}

fn pick(of: &[Ino], rng: &mut ChaCha8Rng) -> Ino {
    of[rng.random_range(0..of.len())]
}

/// What refuses is in order: the names and inodes are random.
fn step(volume: &Volume, world: &mut World, rng: &mut ChaCha8Rng) -> Result<(), EngineError> {
    let cred = Cred::default();
    let (dir, other) = (pick(&world.dirs, rng), pick(&world.dirs, rng));
    let file = pick(&world.files, rng);
    match rng.random_range(0..27) {
        0..3 => {
            let made = volume.create(cred, dir, &name(rng), &new(0o100_644))?;
            world.files.push(made.ino);
        }
        3 => {
            let made = volume.create(cred, dir, &name(rng), &new(0o040_755))?;
            world.dirs.push(made.ino);
        }
        4 => {
            let target = vec![b't'; rng.random_range(1..3000)];
            volume.symlink(cred, dir, &name(rng), &target, &new(0o777))?;
        }
        5 => {
            let made = volume.tmpfile(cred, dir, &new(0o600))?;
            world.files.push(made.ino);
        }
        6 => drop(volume.link(file, dir, &name(rng))?),
        7 => {
            let gone = volume.unlink(dir, &name(rng))?;
            // Sometimes it stays open until the crash.
            if gone.orphan && rng.random_bool(0.5) {
                volume.reclaim(gone.ino)?;
            }
        }
        8 => {
            let gone = volume.rmdir(dir, &name(rng))?;
            if gone.orphan && rng.random_bool(0.5) {
                volume.reclaim(gone.ino)?;
            }
        }
        9..12 => {
            let how = [
                RenameMode::Replace,
                RenameMode::NoReplace,
                RenameMode::Exchange,
                RenameMode::Whiteout {
                    owner: cred,
                    replace: true,
                },
            ];
            let how = how[rng.random_range(0..how.len())];
            volume.rename(dir, &name(rng), other, &name(rng), how)?;
        }
        12..16 => {
            let bytes = vec![rng.random(); rng.random_range(1..200_000)];
            let offset = rng.random_range(0..300_000);
            let flags = WriteFlags::default();
            volume.write(file, offset, bytes.len(), &mut bytes.as_slice(), flags)?;
        }
        16 => {
            let size = Some(rng.random_range(0..400_000));
            let set = SetAttr {
                size,
                ..SetAttr::default()
            };
            volume.setattr(file, &set)?;
        }
        17 => {
            let how = [
                Fallocate::Allocate { keep_size: true },
                Fallocate::PunchHole,
                Fallocate::ZeroRange { keep_size: false },
            ];
            let how = how[rng.random_range(0..how.len())];
            let offset = rng.random_range(0..300_000);
            volume.fallocate(file, offset, rng.random_range(1..100_000), how)?;
        }
        18 => {
            let (to, from) = (pick(&world.files, rng), rng.random_range(0..200_000));
            volume.copy_range(file, from, to, rng.random_range(0..200_000), 100_000)?;
        }
        19 => {
            let value = vec![3; rng.random_range(0..5000)];
            let name = format!("user.{}", rng.random_range(0..4)).into_bytes();
            volume.setxattr(file, &name, &value, SetXattr::Any, false)?;
        }
        20 => volume.removexattr(file, b"user.1")?,
        21 => volume.fsync(file, false)?,
        22 => volume.store().commit_tick()?,
        24 => drop(volume.store().compact(&mut || true)?),
        25 => {
            let any = CompactOptions {
                percent: 1,
                min_bytes: 0,
                ..CompactOptions::default()
            };
            volume.store().compact_idle(any, &mut || true)?;
        }
        23 => drop(
            volume
                .store()
                .trim(&TrimOptions { min_bytes: 4096 }, &mut || true)?,
        ),
        _ => volume.store().checkpoint()?,
    }
    Ok(())
}

/// An empty store, compressing and deduplicating for some seeds.
fn make(seed: u64) -> SimMedia {
    let sim = SimMedia::new();
    let compression = if seed.is_multiple_of(2) { "off" } else { "lz4" };
    let dedup = if seed % 4 < 2 { "on" } else { "off" };
    let format = MkfsOptions {
        compression: compression.parse().unwrap(),
        dedup: dedup.parse().unwrap(),
        ..MkfsOptions::reproducible()
    };
    mkfs(sim.media(), &format, &clock()).unwrap();
    sim
}

fn run(seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let sim = make(seed);
    let made = sim.events();
    let volume = Volume::open_media(sim.media(), options(), clock()).unwrap();
    let first = volume
        .create(Cred::default(), Ino::ROOT, b"first", &new(0o100_644))
        .unwrap();
    let mut world = World {
        dirs: vec![Ino::ROOT],
        files: vec![first.ino],
    };
    for index in 0..STEPS {
        if let Err(EngineError::Store(error)) = step(&volume, &mut world, &mut rng) {
            panic!("seed {seed}, step {index}: {error}");
        }
    }
    assert_eq!(errors(&sim.killed()), [""; 0], "seed {seed}: killed");
    cut_power(&sim, made, &format!("seed {seed}"), &mut rng);
}

fn go_on(volume: &Volume, steps: usize, what: &str, rng: &mut ChaCha8Rng) {
    let mut world = World {
        dirs: vec![Ino::ROOT],
        files: vec![Ino(2)],
    };
    for _ in 0..steps {
        if let Err(EngineError::Store(error)) = step(volume, &mut world, rng) {
            panic!("{what}, going on: {error}");
        }
    }
    volume.store().checkpoint().unwrap();
}

/// Cuts the power at events behind `made`: what is left is a sound store, and recovers.
fn cut_power(sim: &SimMedia, made: usize, run: &str, rng: &mut ChaCha8Rng) {
    let mut recording = sim.recording();
    let mut cuts: Vec<usize> = (0..CRASHES)
        .map(|_| rng.random_range(made..=sim.events()))
        .collect();
    cuts.sort_unstable();
    for cut in cuts {
        let what = format!("{run}, power cut at event {cut}");
        let crashed = recording.crash_at(cut, Survival::Random(rng.random()));
        assert_eq!(errors(&crashed), [""; 0], "{what}");
        check_recovery(&crashed, &what, rng);
    }
}

/// Recovers and goes on, with a second power cut somewhere in it; then recovers, goes on and
/// closes.
fn check_recovery(crashed: &SimMedia, what: &str, rng: &mut ChaCha8Rng) {
    let volume = Volume::open_media(crashed.media(), options(), clock()).unwrap();
    assert!(volume.is_writable(), "{what}: read-only");
    let steps = rng.random_range(0..20);
    go_on(&volume, steps, what, rng);
    drop(volume);
    let cut = rng.random_range(0..=crashed.events());
    let what = format!("{what}, again at {cut}");
    let twice = crashed
        .recording()
        .crash_at(cut, Survival::Random(rng.random()));
    assert_eq!(errors(&twice), [""; 0], "{what}");
    let volume = Volume::open_media(twice.media(), options(), clock()).unwrap();
    go_on(&volume, 10, &what, rng);
    volume.store().close().unwrap();
    assert_eq!(errors(&twice), [""; 0], "{what}, recovered and closed");
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn whatever_a_crash_leaves_is_a_sound_store() {
    match number("RAZORFS_SEED") {
        Some(seed) => run(seed),
        None => (0..number("RAZORFS_RUNS").unwrap_or(RUNS)).for_each(run),
    }
}

/// The same by several threads at once, with the timer and the checkpointer going on.
fn run_threads(seed: u64) {
    let sim = make(seed);
    let made = sim.events();
    let options = OpenOptions {
        background: true,
        commit_interval: Duration::from_millis(2),
        dirty_limit_bytes: 1 << 20,
        ..OpenOptions::default()
    };
    let volume = Volume::open_media(sim.media(), options, clock()).unwrap();
    let first = volume
        .create(Cred::default(), Ino::ROOT, b"first", &new(0o100_644))
        .unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let volume = &volume;
            scope.spawn(move || {
                let mut rng = ChaCha8Rng::seed_from_u64(seed * 4 + thread);
                let mut world = World {
                    dirs: vec![Ino::ROOT],
                    files: vec![first.ino],
                };
                for index in 0..STEPS {
                    if let Err(EngineError::Store(error)) = step(volume, &mut world, &mut rng) {
                        panic!("seed {seed}, thread {thread}, step {index}: {error}");
                    }
                }
            });
        }
    });
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    assert_eq!(errors(&sim.killed()), [""; 0], "seed {seed}: killed");
    volume.store().close().unwrap();
    assert_eq!(errors(&sim), [""; 0], "seed {seed}: closed");
    cut_power(&sim, made, &format!("threads of seed {seed}"), &mut rng);
}

#[test]
fn whatever_a_crash_of_many_threads_leaves_is_a_sound_store() {
    (0..number("RAZORFS_RUNS").unwrap_or(RUNS) / 8).for_each(run_threads);
}
