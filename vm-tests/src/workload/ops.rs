//! The operations, and the list of them that a seed decides.

use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Model;

/// What a write waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Nothing.
    No,
    /// The data and what is needed to read them: `O_DSYNC`.
    Data,
    /// All of the file: `O_SYNC`.
    All,
}

/// One operation on a path below the workload's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // the fields' names say it
pub enum Op {
    /// Makes an empty file.
    Create(String),
    /// Makes a file without a name (`O_TMPFILE`), writes to it, and names it.
    Unnamed { path: String, cells: u32 },
    /// Makes a symbolic link.
    Symlink { path: String, target: String },
    /// Writes `count` cells from cell `first` on.
    Write {
        path: String,
        first: u32,
        count: u32,
        wait: Wait,
    },
    /// Writes existing cells through a mapping, then msync.
    Map {
        path: String,
        first: u32,
        count: u32,
    },
    /// Sets the size in cells.
    Truncate { path: String, cells: u32 },
    /// Reserves the first `cells` cells; the file has so many then, or more.
    Allocate { path: String, cells: u32 },
    /// Punches a hole into existing cells.
    Punch {
        path: String,
        first: u32,
        count: u32,
    },
    /// Renames a file or a symbolic link, over another one perhaps.
    Rename { from: String, to: String },
    /// Renames a directory, over an empty one perhaps.
    RenameDir { from: String, to: String },
    /// Makes a hard link.
    Link { from: String, to: String },
    /// Removes the name of a file or a symbolic link.
    Unlink(String),
    /// Makes a directory.
    Mkdir(String),
    /// Removes an empty directory.
    Rmdir(String),
    /// Sets permissions.
    Chmod { path: String, mode: u32 },
    /// Sets the xattr `user.tag`.
    Tag { path: String, tag: u32 },
    /// fsync or fdatasync of a file.
    Fsync { path: String, data_only: bool },
    /// fsync of a directory (`""` is the workload's own).
    FsyncDir(String),
    /// sync of the whole file system.
    Sync,
}

impl Op {
    /// Whether something is durable when it returns.
    #[must_use]
    pub fn is_sync(&self) -> bool {
        match self {
            Op::Fsync { .. } | Op::FsyncDir(_) | Op::Sync | Op::Map { .. } => true,
            Op::Write { wait, .. } => *wait != Wait::No,
            _ => false,
        }
    }

    /// What there can be of it while it is under way: Linux cuts a write where pages end, and each
    /// part is an operation of its own for what serves the file system.
    pub(super) fn beginnings(&self) -> Vec<Op> {
        let Op::Write {
            path,
            first,
            count,
            wait,
        } = self
        else {
            return Vec::new();
        };
        let ends = (first + 1..first + count).filter(|end| end % PAGE_CELLS == 0);
        ends.map(|end| Op::Write {
            path: path.clone(),
            first: *first,
            count: end - first,
            wait: *wait,
        })
        .collect()
    }
}

/// How many of the first `returned` operations are syncs.
#[must_use]
pub fn syncs(ops: &[Op], returned: u32) -> u64 {
    let done = ops.iter().take(returned as usize);
    done.filter(|op| op.is_sync()).count() as u64
}

/// What a client can do; what it cannot, its workload does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Able {
    /// Linux passes sync(2) and syncfs(2) on to virtiofs only, not to a server behind /dev/fuse.
    pub sync: bool,
    /// Old kernels have no `O_TMPFILE` for FUSE.
    pub unnamed: bool,
}

impl Able {
    /// Everything.
    pub const ALL: Able = Able {
        sync: true,
        unnamed: true,
    };

    /// The words that tell it to a guest.
    #[must_use]
    pub fn words(self) -> String {
        let mut words = String::new();
        for (able, word) in [(self.sync, " no-sync"), (self.unnamed, " no-unnamed")] {
            if !able {
                words.push_str(word);
            }
        }
        words
    }

    /// Reads [`Able::words`].
    #[must_use]
    pub fn parse(words: &[&str]) -> Able {
        Able {
            sync: !words.contains(&"no-sync"),
            unnamed: !words.contains(&"no-unnamed"),
        }
    }

    /// The operation, or what there is instead.
    fn or_instead(self, op: Op) -> Op {
        match op {
            Op::Sync if !self.sync => Op::FsyncDir(String::new()),
            Op::Unnamed { path, .. } if !self.unnamed => Op::Create(path),
            other => other,
        }
    }
}

/// The first `count` operations of a seed, numbered from 1.
#[must_use]
pub fn plan(seed: u64, count: u32, able: Able) -> Vec<Op> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut model = Model::new();
    let mut ops = Vec::new();
    for id in 1..=count {
        let op = able.or_instead(choose(&model, &mut rng, id));
        model.apply(&op, id);
        ops.push(op);
    }
    ops
}

/// Cells of a page of the guest's memory.
const PAGE_CELLS: u32 = 4;

/// Names that a workload has at a time, about.
const NAMES_MAX: usize = 40;
const DIRS_MAX: usize = 8;

fn choose(model: &Model, rng: &mut ChaCha8Rng, id: u32) -> Op {
    let Some(path) = model.files().choose(rng).cloned() else {
        return Op::Create(new_path(model, rng, id));
    };
    let room = model.names().count() < NAMES_MAX;
    match rng.random_range(0..100) {
        0..12 if room => Op::Create(new_path(model, rng, id)),
        12..14 if room => Op::Unnamed {
            path: new_path(model, rng, id),
            cells: rng.random_range(0..9),
        },
        14..16 if room => Op::Symlink {
            path: new_path(model, rng, id),
            target: format!("to/{id}"),
        },
        0..49 => choose_content(model, rng, path),
        49..71 => choose_name(model, rng, id),
        71..74 => Op::Chmod {
            path,
            mode: 0o600 | rng.random_range(0..0o100),
        },
        74..77 => Op::Tag { path, tag: id },
        77..92 => Op::Fsync {
            path,
            data_only: rng.random_bool(0.3),
        },
        92..97 => Op::FsyncDir(model.dirs().choose(rng).cloned().unwrap_or_default()),
        _ => Op::Sync,
    }
}

/// A name that nothing ever had, somewhere.
fn new_path(model: &Model, rng: &mut ChaCha8Rng, id: u32) -> String {
    let dir = model.dirs().choose(rng).cloned().unwrap_or_default();
    join(&dir, &format!("f{id}"))
}

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() {
        name.into()
    } else {
        format!("{dir}/{name}")
    }
}

/// An operation on a file's content.
fn choose_content(model: &Model, rng: &mut ChaCha8Rng, path: String) -> Op {
    let cells = model.cells_of(&path);
    let within = |rng: &mut ChaCha8Rng| {
        let first = rng.random_range(0..cells);
        (first, rng.random_range(1..=(cells - first).min(12)))
    };
    match rng.random_range(0..33) {
        0..4 if cells > 0 => {
            let (first, count) = within(rng);
            Op::Map { path, first, count }
        }
        4..6 if cells > 0 => {
            let (first, count) = within(rng);
            Op::Punch { path, first, count }
        }
        6..8 => Op::Allocate {
            path,
            cells: rng.random_range(1..=cells + 3),
        },
        8..13 => Op::Truncate {
            path,
            cells: rng.random_range(0..=cells + 3),
        },
        _ => Op::Write {
            path,
            first: rng.random_range(0..=cells.min(300)),
            count: if rng.random_bool(0.1) {
                rng.random_range(1..400)
            } else {
                rng.random_range(1..9)
            },
            wait: match rng.random_range(0..10) {
                0 => Wait::Data,
                1 => Wait::All,
                _ => Wait::No,
            },
        },
    }
}

/// An operation on names.
fn choose_name(model: &Model, rng: &mut ChaCha8Rng, id: u32) -> Op {
    let Some(from) = model.names().choose(rng).cloned() else {
        return Op::Sync;
    };
    match rng.random_range(0..22) {
        0..7 => {
            let over = model.names().choose(rng).filter(|other| {
                // rename(2) of two names of one file does nothing.
                rng.random_bool(0.5) && !model.same_file(other, &from)
            });
            let to = over.cloned().unwrap_or_else(|| new_path(model, rng, id));
            Op::Rename { from, to }
        }
        7..10 => choose_dir_rename(model, rng, id).unwrap_or(Op::Sync),
        10..13 => Op::Link {
            from,
            to: new_path(model, rng, id),
        },
        13..18 => Op::Unlink(from),
        18..21 if model.dirs().count() < DIRS_MAX => {
            let dir = model.dirs().choose(rng).cloned().unwrap_or_default();
            Op::Mkdir(join(&dir, &format!("d{id}")))
        }
        _ => {
            let empty = model.dirs().find(|dir| model.is_empty_dir(dir));
            empty.map_or(Op::Sync, |dir| Op::Rmdir(dir.clone()))
        }
    }
}

fn choose_dir_rename(model: &Model, rng: &mut ChaCha8Rng, id: u32) -> Option<Op> {
    let from = model.dirs().filter(|dir| !dir.is_empty()).choose(rng)?;
    let outside = |dir: &&String| *dir != from && !dir.starts_with(&format!("{from}/"));
    let over = model
        .dirs()
        .filter(outside)
        .filter(|dir| model.is_empty_dir(dir))
        .choose(rng);
    let to = match over {
        Some(dir) if rng.random_bool(0.4) => dir.clone(),
        _ => {
            let dir = model.dirs().filter(outside).choose(rng)?;
            join(dir, &format!("d{id}"))
        }
    };
    Some(Op::RenameDir {
        from: from.clone(),
        to,
    })
}
