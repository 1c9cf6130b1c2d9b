//! Workloads as CrashMonkey's ACE makes them (OSDI 2018): every sequence of a few operations on a
//! few files, with a persistence point, or none, after each.
//!
//! Before each lies the same tree, wholly durable: directories A and B in the root, A/name-0 and
//! B/name-1 with content and an attribute, and A/name-5, a hard link of B/name-1. Names of files that
//! were there before are used by nobody. Those about datasets are too many to try them all.
//!
//! A workload is written as it is replayed: `3f.17c` is operation 3, fsync of its file, operation
//! 17, checkpoint; `random:12` is the random sequence of seed 12.

use std::fmt;
use std::str::FromStr;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use razorfs::engine::{Fallocate, RenameMode, SetXattr};

use crate::ops::{self, Op};

/// What is made durable after an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    Nothing,
    /// fsync of the file, or of the directory, that the operation changed.
    File,
    /// fdatasync of both files.
    Data,
    /// fsync of both directories.
    Dirs,
    All,
    Checkpoint,
}

impl Sync {
    pub const ALL: [Sync; 6] = [
        Sync::Nothing,
        Sync::File,
        Sync::Data,
        Sync::Dirs,
        Sync::All,
        Sync::Checkpoint,
    ];

    fn letter(self) -> char {
        match self {
            Sync::Nothing => 'n',
            Sync::File => 'f',
            Sync::Data => 'd',
            Sync::Dirs => 'e',
            Sync::All => 's',
            Sync::Checkpoint => 'c',
        }
    }

    fn ops(self, of: &Op) -> Vec<Op> {
        let fsync = |ino, data| Op::Fsync { ino, data };
        match self {
            Sync::Nothing => vec![],
            Sync::File => vec![fsync(changed(of), false)],
            Sync::Data => vec![fsync(FOO, true), fsync(BAR, true)],
            Sync::Dirs => vec![Op::FsyncDir { dir: A }, Op::FsyncDir { dir: B }],
            Sync::All => vec![Op::SyncAll],
            Sync::Checkpoint => vec![Op::Checkpoint],
        }
    }
}

/// Names that nobody uses when a workload begins: they take a block, and a part of one.
const UNUSED_NAMES: u16 = 20;

// Directories and inodes by their place among those there are.
const A: u8 = 1;
const B: u8 = 2;
const FOO: u8 = 3;
const BAR: u8 = 4;

/// The inode that an operation changes most: the one to fsync behind it.
fn changed(op: &Op) -> u8 {
    match op {
        Op::Write { ino, .. }
        | Op::Truncate { ino, .. }
        | Op::Fallocate { ino, .. }
        | Op::SetXattr { ino, .. }
        | Op::RemoveXattr { ino, .. }
        | Op::Chmod { ino, .. }
        | Op::Link { ino, .. } => *ino,
        Op::Copy { to, .. } => *to,
        Op::Rename { from: (A, 0), .. } => FOO,
        Op::Rename { .. } => BAR,
        // What was made is the newest.
        Op::Create { .. } | Op::Symlink { .. } | Op::Tmpfile { .. } => 5,
        _ => FOO,
    }
}

/// The tree that every workload finds.
pub fn prelude() -> Vec<Op> {
    let create = |dir, name, mode| Op::Create { dir, name, mode };
    let many = |remove| Op::ManyNames {
        dir: 0,
        start: 0,
        count: UNUSED_NAMES,
        remove,
    };
    vec![
        // What a trim finds to give back.
        many(false),
        many(true),
        create(0, 5, libc::S_IFDIR | 0o755),
        create(0, 6, libc::S_IFDIR | 0o755),
        create(A, 0, libc::S_IFREG | 0o644),
        create(B, 1, libc::S_IFREG | 0o644),
        write(FOO, 0, 9000, 1),
        write(BAR, 0, 70_000, 2),
        xattr(FOO, 0, 5, 3),
        Op::Link {
            ino: BAR,
            dir: A,
            name: 5,
        },
        Op::SyncAll,
        Op::Checkpoint,
    ]
}

fn write(ino: u8, offset: u64, len: u32, fill: u8) -> Op {
    Op::Write {
        ino,
        offset,
        len,
        fill,
        append: false,
        sync: false,
        kill: false,
    }
}

fn xattr(ino: u8, name: u8, len: u32, fill: u8) -> Op {
    let how = SetXattr::Any;
    Op::SetXattr {
        ino,
        name,
        len,
        fill,
        how,
    }
}

fn fallocate(offset: u64, len: u64, how: Fallocate) -> Op {
    Op::Fallocate {
        ino: FOO,
        offset,
        len,
        how,
    }
}

fn rename(from: (u8, u8), to: (u8, u8), mode: RenameMode) -> Op {
    Op::Rename { from, to, mode }
}

/// All operations. Those of [`CORE`] come first.
#[must_use]
pub fn all() -> Vec<Op> {
    let replace = RenameMode::Replace;
    let file = libc::S_IFREG | 0o644;
    let unlink = |dir, name, keep| Op::Unlink { dir, name, keep };
    let truncate = |size| Op::Truncate { ino: FOO, size };
    let link = |ino, dir, name| Op::Link { ino, dir, name };
    vec![
        Op::Create {
            dir: A,
            name: 2,
            mode: file,
        },
        write(FOO, 3000, 3000, 4),
        rename((A, 0), (B, 1), replace),
        unlink(A, 0, false),
        truncate(3000),
        link(FOO, B, 2),
        write(BAR, 60_000, 80_000, 5),
        rename((A, 0), (B, 2), replace),
        // Not of the core.
        Op::Create {
            dir: B,
            name: 2,
            mode: libc::S_IFDIR | 0o755,
        },
        Op::Create {
            dir: A,
            name: 0,
            mode: libc::S_IFIFO | 0o600,
        },
        Op::Symlink {
            dir: A,
            name: 2,
            len: 900,
        },
        Op::Tmpfile { dir: A },
        link(5, A, 3),
        link(BAR, A, 2),
        unlink(B, 1, false),
        unlink(A, 5, false),
        unlink(A, 0, true),
        Op::Rmdir { dir: B, name: 2 },
        Op::Reclaim { which: 0 },
        rename((A, 0), (A, 2), replace),
        rename((B, 1), (A, 0), replace),
        rename((A, 0), (B, 1), RenameMode::Exchange),
        rename((0, 6), (A, 2), replace),
        rename((0, 6), (0, 5), RenameMode::Exchange),
        write(FOO, 9000, 5000, 6),
        write(FOO, 0, 4096, 7),
        write(FOO, 200_000, 100, 8),
        Op::Write {
            ino: FOO,
            offset: 0,
            len: 100,
            fill: 9,
            append: true,
            sync: true,
            kill: false,
        },
        truncate(0),
        truncate(30_000),
        fallocate(2000, 5000, Fallocate::PunchHole),
        fallocate(4096, 4096, Fallocate::ZeroRange { keep_size: true }),
        fallocate(0, 40_000, Fallocate::Allocate { keep_size: true }),
        Op::Copy {
            from: FOO,
            from_offset: 1000,
            to: BAR,
            to_offset: 5000,
            len: 6000,
        },
        xattr(FOO, 0, 5000, 10),
        Op::RemoveXattr { ino: FOO, name: 0 },
        Op::Chmod {
            ino: FOO,
            mode: 0o600,
        },
        Op::Chown {
            ino: FOO,
            uid: 1,
            gid: 2,
        },
        Op::Tick,
        Op::Compact { all: false },
        Op::Compact { all: true },
        Op::MakeDataset,
        Op::RenameDataset { which: 0 },
        Op::Reap { part: true },
        // Those of [`DATASETS`].
        Op::Snapshot { of: 0 },
        Op::Clone { of: 0 },
        Op::Clone { of: 1 },
        Op::DeleteDataset { which: 0 },
        Op::DeleteDataset { which: 1 },
        Op::Use { which: 0 },
        Op::Restore { which: 0 },
        Op::Reap { part: false },
        write(FOO, 2000, 12_000, 11),
        truncate(1000),
    ]
}

/// How many operations, the first of [`all`], sequences of three are made of.
pub const CORE: usize = 8;
/// What may follow each of them.
pub const CORE_SYNCS: [Sync; 2] = [Sync::Nothing, Sync::File];

/// How many operations, the last of [`all`], sequences about datasets are made of.
const DATASETS: usize = 10;
/// What may follow each of them.
const DATASETS_SYNCS: [Sync; 2] = [Sync::Nothing, Sync::Checkpoint];

/// A workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Workload {
    /// Operations of [`all`], and what follows each.
    Steps(Vec<(usize, Sync)>),
    /// The random sequence of a seed.
    Random(u64),
}

impl Workload {
    /// What is done, after the prelude.
    ///
    /// # Panics
    /// When a step is of no operation.
    #[must_use]
    pub fn ops(&self) -> Vec<Op> {
        match self {
            Workload::Steps(steps) => {
                let all = all();
                let of = |(op, sync): &(usize, Sync)| {
                    let op = all[*op].clone();
                    let syncs = sync.ops(&op);
                    std::iter::once(op).chain(syncs)
                };
                steps.iter().flat_map(of).collect()
            }
            Workload::Random(seed) => {
                let mut rng = ChaCha8Rng::seed_from_u64(*seed);
                let mut ops = ops::sequence(&mut rng);
                // Power is cut from outside.
                ops.retain(|op| !matches!(op, Op::Crash { .. } | Op::Reopen));
                ops
            }
        }
    }
}

/// All sequences of one and of two operations, and of three of the core: with each persistence
/// point after each.
pub fn bounded() -> impl Iterator<Item = Workload> {
    let steps = |count: usize, syncs: &'static [Sync]| {
        (0..count).flat_map(move |op| syncs.iter().map(move |sync| (op, *sync)))
    };
    let any = move || steps(all().len(), &Sync::ALL);
    let core = move || steps(CORE, &CORE_SYNCS);
    let one = any().map(|a| vec![a]);
    let two = any().flat_map(move |a| any().map(move |b| vec![a, b]));
    let three =
        core().flat_map(move |a| core().flat_map(move |b| core().map(move |c| vec![a, b, c])));
    one.chain(two).chain(three).map(Workload::Steps)
}

/// All of [`bounded`], in an order that the seed decides.
#[must_use]
pub fn shuffled(seed: u64) -> Vec<Workload> {
    let mut workloads: Vec<_> = bounded().collect();
    workloads.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    workloads
}

/// Sequences of four to six operations about datasets, without end: a snapshot or clone first.
pub fn about_datasets(seed: u64) -> impl Iterator<Item = Workload> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let first = all().len() - DATASETS;
    std::iter::from_fn(move || {
        let count = rng.random_range(4..=6);
        let steps = (0..count).map(|at| {
            let among = if at == 0 { 2 } else { DATASETS };
            let sync = DATASETS_SYNCS[usize::from(rng.random_bool(0.2))];
            (first + rng.random_range(0..among), sync)
        });
        Some(Workload::Steps(steps.collect()))
    })
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Workload::Random(seed) => write!(f, "random:{seed}"),
            Workload::Steps(steps) => {
                let steps = steps
                    .iter()
                    .map(|(op, sync)| format!("{op}{}", sync.letter()));
                f.write_str(&steps.collect::<Vec<_>>().join("."))
            }
        }
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("'{text}' is no workload: it is like 3f.17c, or random:12");
        if let Some(seed) = text.strip_prefix("random:") {
            return seed.parse().map(Workload::Random).map_err(|_| bad());
        }
        let step = |step: &str| {
            let letter = step.chars().last()?;
            let sync = Sync::ALL.into_iter().find(|sync| sync.letter() == letter)?;
            let op: usize = step.strip_suffix(letter)?.parse().ok()?;
            (op < all().len()).then_some((op, sync))
        };
        let steps = text.split('.').map(step).collect::<Option<Vec<_>>>();
        steps.map(Workload::Steps).ok_or_else(bad)
    }
}
