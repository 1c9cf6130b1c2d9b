//! The operations, as data: a sequence can be printed, cut, and run on any state. Numbers choose
//! among what there is when the operation runs.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use razorfs::engine::{Fallocate, RenameMode, SetXattr};

/// Names in use: few, so that operations meet.
pub const NAMES: u8 = 7;

#[derive(Debug, Clone)]
pub enum Op {
    Create {
        dir: u8,
        name: u8,
        mode: u32,
    },
    Symlink {
        dir: u8,
        name: u8,
        len: u16,
    },
    Tmpfile {
        dir: u8,
    },
    Link {
        ino: u8,
        dir: u8,
        name: u8,
    },
    Unlink {
        dir: u8,
        name: u8,
        keep: bool,
    },
    Rmdir {
        dir: u8,
        name: u8,
    },
    Rename {
        from: (u8, u8),
        to: (u8, u8),
        mode: RenameMode,
    },
    Write {
        ino: u8,
        offset: u64,
        len: u32,
        fill: u8,
        append: bool,
        sync: bool,
        kill: bool,
    },
    Truncate {
        ino: u8,
        size: u64,
    },
    Fallocate {
        ino: u8,
        offset: u64,
        len: u64,
        how: Fallocate,
    },
    Copy {
        from: u8,
        from_offset: u64,
        to: u8,
        to_offset: u64,
        len: u64,
    },
    Chmod {
        ino: u8,
        mode: u32,
    },
    Chown {
        ino: u8,
        uid: u32,
        gid: u32,
    },
    Utimes {
        ino: u8,
        atime: Option<i64>,
        mtime: Option<i64>,
    },
    SetXattr {
        ino: u8,
        name: u8,
        len: u32,
        fill: u8,
        how: SetXattr,
    },
    RemoveXattr {
        ino: u8,
        name: u8,
    },
    Lookup {
        dir: u8,
        name: u8,
    },
    Read {
        ino: u8,
        offset: u64,
        len: u32,
    },
    BadName {
        dir: u8,
        which: u8,
    },
    /// Many names in one directory, made or removed in a row: trees with several levels.
    ManyNames {
        dir: u8,
        start: u16,
        count: u16,
        remove: bool,
    },
    /// Many attributes of one inode, likewise.
    ManyXattrs {
        ino: u8,
        start: u16,
        count: u16,
        len: u32,
        remove: bool,
    },
    Fsync {
        ino: u8,
        data: bool,
    },
    FsyncDir {
        dir: u8,
    },
    SyncAll,
    Tick,
    Checkpoint,
    /// Moves chunks: what pays in the background, or all that can be; then gives back what is free.
    Compact {
        all: bool,
    },
    Reclaim {
        which: u8,
    },
    // Datasets, by their place in a list: the one in use first if it can be meant, then the newest.
    /// Of a dataset.
    Snapshot {
        of: u8,
    },
    /// Of a dataset or a snapshot.
    Clone {
        of: u8,
    },
    MakeDataset,
    RenameDataset {
        which: u8,
    },
    /// Of one that is not in use, with its snapshots.
    DeleteDataset {
        which: u8,
    },
    /// To a snapshot, its dataset, if that is not in use.
    Restore {
        which: u8,
    },
    /// Takes up another dataset, the oldest first, with all that was done to this one durable.
    Use {
        which: u8,
    },
    /// Takes deleted trees away, or a part of one.
    Reap {
        part: bool,
    },
    Compare,
    Reopen,
    /// Power cut, `back` into the operation before it; survivors by `seed`; again in recovery.
    Crash {
        back: bool,
        seed: u64,
        again: bool,
    },
}

/// Offsets and lengths where things meet: within blocks, at them, over a window of 128 KiB.
fn offset(rng: &mut ChaCha8Rng) -> u64 {
    match rng.random_range(0..6) {
        0 => 0,
        1 => rng.random_range(0..6) * 4096,
        2 => 131_072 - rng.random_range(0..6000),
        3 => rng.random_range(0..200_000),
        _ => rng.random_range(0..20_000),
    }
}

fn length(rng: &mut ChaCha8Rng) -> u32 {
    match rng.random_range(0..8) {
        0 => 1,
        1 => 4096,
        2 => rng.random_range(1..150_000),
        _ => rng.random_range(1..9000),
    }
}

fn mode(rng: &mut ChaCha8Rng) -> u32 {
    let kind = match rng.random_range(0..9) {
        0..4 => libc::S_IFREG,
        4..7 => libc::S_IFDIR,
        7 => libc::S_IFIFO,
        _ => libc::S_IFCHR,
    };
    kind | permissions(rng)
}

fn permissions(rng: &mut ChaCha8Rng) -> u32 {
    [0o644, 0o755, 0o600, 0o6755, 0o2775, 0o4644, 0o777][rng.random_range(0..7)]
}

fn content(rng: &mut ChaCha8Rng) -> Op {
    let ino = rng.random();
    match rng.random_range(0..14) {
        0..8 => Op::Write {
            ino,
            offset: offset(rng),
            len: length(rng),
            fill: rng.random_range(1..=255),
            append: rng.random_bool(0.2),
            sync: rng.random_bool(0.1),
            kill: rng.random_bool(0.2),
        },
        8..10 => Op::Truncate {
            ino,
            size: offset(rng),
        },
        10..12 => Op::Fallocate {
            ino,
            offset: offset(rng),
            len: length(rng).into(),
            how: [
                Fallocate::Allocate { keep_size: true },
                Fallocate::Allocate { keep_size: false },
                Fallocate::PunchHole,
                Fallocate::ZeroRange { keep_size: true },
                Fallocate::ZeroRange { keep_size: false },
            ][rng.random_range(0..5)],
        },
        _ => Op::Copy {
            from: ino,
            from_offset: offset(rng),
            to: rng.random(),
            to_offset: offset(rng),
            len: length(rng).into(),
        },
    }
}

fn names(rng: &mut ChaCha8Rng) -> Op {
    let (dir, name) = (rng.random(), rng.random_range(0..NAMES));
    match rng.random_range(0..24) {
        0..9 => Op::Create {
            dir,
            name,
            mode: mode(rng),
        },
        9 => Op::Symlink {
            dir,
            name,
            len: rng.random_range(1..=4096),
        },
        10 => Op::Tmpfile { dir },
        11..13 => Op::Link {
            ino: rng.random(),
            dir,
            name,
        },
        13..16 => Op::Unlink {
            dir,
            name,
            keep: rng.random(),
        },
        16 => Op::Rmdir { dir, name },
        17 => Op::Lookup { dir, name },
        18 => Op::BadName {
            dir,
            which: rng.random(),
        },
        _ => Op::Rename {
            from: (dir, name),
            to: (rng.random(), rng.random_range(0..NAMES)),
            mode: [
                RenameMode::Replace,
                RenameMode::Replace,
                RenameMode::NoReplace,
                RenameMode::Exchange,
            ][rng.random_range(0..4)],
        },
    }
}

fn attributes(rng: &mut ChaCha8Rng) -> Op {
    let ino = rng.random();
    let time = |rng: &mut ChaCha8Rng| rng.random_bool(0.7).then(|| rng.random_range(-5..1 << 33));
    match rng.random_range(0..8) {
        0 => Op::Chmod {
            ino,
            mode: permissions(rng),
        },
        1 => Op::Chown {
            ino,
            uid: rng.random_range(0..3),
            gid: rng.random_range(0..3),
        },
        2 => Op::Utimes {
            ino,
            atime: time(rng),
            mtime: time(rng),
        },
        3 => Op::RemoveXattr {
            ino,
            name: rng.random_range(0..4),
        },
        4 => Op::Read {
            ino,
            offset: offset(rng),
            len: length(rng),
        },
        _ => Op::SetXattr {
            ino,
            name: rng.random_range(0..4),
            len: [0, 5, 690, 705, 5000, 65_536, 65_537][rng.random_range(0..7)],
            fill: rng.random(),
            how: [
                SetXattr::Any,
                SetXattr::Any,
                SetXattr::Create,
                SetXattr::Replace,
            ][rng.random_range(0..4)],
        },
    }
}

fn durability(rng: &mut ChaCha8Rng) -> Op {
    match rng.random_range(0..18) {
        16..18 => Op::Compact { all: rng.random() },
        0..5 => Op::Fsync {
            ino: rng.random(),
            data: rng.random(),
        },
        5 => Op::FsyncDir { dir: rng.random() },
        6 => Op::SyncAll,
        7 => Op::Tick,
        8..10 => Op::Checkpoint,
        10 => Op::Reclaim {
            which: rng.random(),
        },
        11 => Op::Compare,
        12 => Op::Reopen,
        _ => Op::Crash {
            back: rng.random(),
            seed: rng.random(),
            again: rng.random_bool(0.3),
        },
    }
}

fn datasets(rng: &mut ChaCha8Rng) -> Op {
    let which = rng.random();
    match rng.random_range(0..13) {
        0..3 => Op::Snapshot { of: which },
        3..5 => Op::Clone { of: which },
        5 => Op::MakeDataset,
        6 => Op::RenameDataset { which },
        7..9 => Op::DeleteDataset { which },
        9..11 => Op::Use { which },
        11 => Op::Restore { which },
        _ => Op::Reap { part: rng.random() },
    }
}

fn many(rng: &mut ChaCha8Rng) -> Op {
    let (start, count) = (rng.random_range(0..300), rng.random_range(1..150));
    let remove = rng.random_bool(0.45);
    let ino = rng.random_range(0..3);
    match rng.random_range(0..4) {
        0 => Op::ManyXattrs {
            ino,
            start,
            count,
            len: [10, 300, 690][rng.random_range(0..3)],
            remove,
        },
        1..3 => Op::ManyXattrs {
            ino,
            start: rng.random_range(0..8),
            count: rng.random_range(1..6),
            len: [65_536, 20_000][rng.random_range(0..2)],
            remove,
        },
        _ => Op::ManyNames {
            dir: rng.random_range(0..2),
            start,
            count,
            remove,
        },
    }
}

/// A sequence. One in forty has large directories and many attributes.
pub fn sequence(rng: &mut ChaCha8Rng) -> Vec<Op> {
    let count = rng.random_range(20..60);
    let large = rng.random_bool(0.025);
    (0..count)
        .map(|_| match rng.random_range(0..22) {
            _ if large && rng.random_bool(0.5) => many(rng),
            0..8 => content(rng),
            8..13 => names(rng),
            13..16 => attributes(rng),
            16..18 => datasets(rng),
            _ => durability(rng),
        })
        .collect()
}
