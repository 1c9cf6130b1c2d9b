//! A workload whose every outcome can be judged afterwards, and the model that judges it.
//!
//! A seed gives a list of operations; each changes the model in the same way as the file system. The
//! guest says which operation it begins and which has returned. After a power cut the tree must
//! equal the model after some prefix of the operations, not before what a sync had covered and not
//! behind what was begun; and each 1 KiB cell of a file's content must be one that was written there
//! since the last sync that covered it, or the one before.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Bytes of a cell: the unit of content.
pub const CELL_BYTES: usize = 1024;

/// One operation on a path below the workload's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // the fields' names say it
pub enum Op {
    /// Makes an empty file.
    Create(String),
    /// Writes `count` cells from cell `first` on.
    Write {
        path: String,
        first: u32,
        count: u32,
    },
    /// Sets the size in cells.
    Truncate { path: String, cells: u32 },
    /// Renames a file, over another one perhaps.
    Rename { from: String, to: String },
    /// Makes a hard link.
    Link { from: String, to: String },
    /// Removes a file's name.
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

/// The content of a cell as written by operation `id` of the workload `seed`.
#[must_use]
pub fn cell(seed: u64, id: u32, index: u32) -> Vec<u8> {
    let mut unit = Vec::with_capacity(16);
    unit.extend_from_slice(&id.to_le_bytes());
    unit.extend_from_slice(&index.to_le_bytes());
    unit.extend_from_slice(&seed.to_le_bytes());
    unit.repeat(CELL_BYTES / 16)
}

/// Who wrote a cell: 0 for zeros, `None` for bytes that no operation of this workload wrote there.
#[must_use]
pub fn writer(seed: u64, index: u32, bytes: &[u8]) -> Option<u32> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Some(0);
    }
    let id = u32::from_le_bytes(*bytes.first_chunk::<4>()?);
    (id != 0 && cell(seed, id, index) == bytes).then_some(id)
}

/// What a file is, as the guest tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Inode number: equal for names of one file.
    pub ino: u64,
    /// Link count.
    pub nlink: u32,
    /// Permissions.
    pub mode: u32,
    /// The xattr `user.tag`, 0 for none.
    pub tag: u32,
    /// Who wrote each cell; `None` for foreign bytes.
    pub cells: Vec<Option<u32>>,
}

/// A tree as found after a crash: `None` for a directory.
pub type Tree = BTreeMap<String, Option<Found>>;

/// One line of a dump for each path.
#[must_use]
pub fn dump_line(path: &str, found: Option<&Found>) -> String {
    let Some(found) = found else {
        return format!("P {path} d");
    };
    let mut line = format!(
        "P {path} f {} {} {} {} ",
        found.ino, found.nlink, found.mode, found.tag
    );
    let mut rest = found.cells.as_slice();
    while let Some(first) = rest.first() {
        let count = rest.iter().take_while(|cell| *cell == first).count();
        let name = first.map_or("x".into(), |id| id.to_string());
        let _ = write!(line, "{name}*{count},");
        rest = rest.get(count..).unwrap_or_default();
    }
    line.push('.');
    line
}

/// Reads a line that [`dump_line`] made.
#[must_use]
pub fn parse_dump_line(line: &str) -> Option<(String, Option<Found>)> {
    let mut fields = line.strip_prefix("P ")?.split(' ');
    let path = fields.next()?.to_owned();
    if fields.next()? == "d" {
        return Some((path, None));
    }
    let mut found = Found {
        ino: fields.next()?.parse().ok()?,
        nlink: fields.next()?.parse().ok()?,
        mode: fields.next()?.parse().ok()?,
        tag: fields.next()?.parse().ok()?,
        cells: Vec::new(),
    };
    for run in fields.next()?.strip_suffix('.')?.split_terminator(',') {
        let (name, count) = run.split_once('*')?;
        let id = if name == "x" {
            None
        } else {
            Some(name.parse().ok()?)
        };
        found
            .cells
            .extend(std::iter::repeat_n(id, count.parse().ok()?));
    }
    Some((path, Some(found)))
}

#[derive(Debug, Clone, Default)]
struct Node {
    /// For each cell what it may be after a crash; the last is what it is.
    cells: Vec<Vec<u32>>,
    mode: u32,
    tag: u32,
    /// The last operation that changed the file or its names.
    touched: u32,
}

/// The tree as it must be.
#[derive(Debug, Clone, Default)]
pub struct Model {
    nodes: BTreeMap<u32, Node>,
    names: BTreeMap<String, u32>,
    dirs: BTreeMap<String, u32>,
    /// Every operation up to this one is covered by a sync that returned.
    covered: u32,
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

impl Model {
    fn touch_dir(&mut self, path: &str, id: u32) {
        if let Some(touched) = self.dirs.get_mut(parent(path)) {
            *touched = id;
        }
    }

    fn node_mut(&mut self, path: &str) -> Option<&mut Node> {
        let id = self.names.get(path)?;
        self.nodes.get_mut(id)
    }

    fn settle(node: &mut Node) {
        for cell in &mut node.cells {
            if let Some(last) = cell.last().copied() {
                *cell = vec![last];
            }
        }
    }

    fn forget_unnamed(&mut self) {
        let named: BTreeSet<u32> = self.names.values().copied().collect();
        self.nodes.retain(|id, _| named.contains(id));
    }

    /// Applies operation number `id` (from 1).
    pub fn apply(&mut self, op: &Op, id: u32) {
        match op {
            Op::Create(path) => {
                self.nodes.insert(
                    id,
                    Node {
                        mode: 0o644,
                        touched: id,
                        ..Node::default()
                    },
                );
                self.names.insert(path.clone(), id);
                self.touch_dir(path, id);
            }
            Op::Write { path, first, count } => {
                let Some(node) = self.node_mut(path) else {
                    return;
                };
                let end = (first + count) as usize;
                if node.cells.len() < end {
                    node.cells.resize(end, vec![0]);
                }
                for cell in node.cells.iter_mut().take(end).skip(*first as usize) {
                    cell.push(id);
                }
                node.touched = id;
            }
            Op::Truncate { path, cells } => {
                let Some(node) = self.node_mut(path) else {
                    return;
                };
                node.cells.resize(*cells as usize, vec![0]);
                node.touched = id;
            }
            Op::Rename { from, to } => {
                if let Some(node) = self.names.remove(from) {
                    self.names.insert(to.clone(), node);
                }
                self.touch_dir(from, id);
                self.touch_dir(to, id);
                if let Some(node) = self.node_mut(to) {
                    // The content written before is there when the new name is.
                    Self::settle(node);
                    node.touched = id;
                }
                self.forget_unnamed();
            }
            Op::Link { from, to } => {
                if let Some(node) = self.names.get(from).copied() {
                    self.names.insert(to.clone(), node);
                }
                self.touch_dir(to, id);
                if let Some(node) = self.node_mut(to) {
                    node.touched = id;
                }
            }
            Op::Unlink(path) => {
                if let Some(node) = self.node_mut(path) {
                    node.touched = id;
                }
                self.names.remove(path);
                self.touch_dir(path, id);
                self.forget_unnamed();
            }
            Op::Mkdir(path) => {
                self.dirs.insert(path.clone(), id);
                self.touch_dir(path, id);
            }
            Op::Rmdir(path) => {
                self.dirs.remove(path);
                self.touch_dir(path, id);
            }
            Op::Chmod { path, mode } => {
                let Some(node) = self.node_mut(path) else {
                    return;
                };
                node.mode = *mode;
                node.touched = id;
            }
            Op::Tag { path, tag } => {
                let Some(node) = self.node_mut(path) else {
                    return;
                };
                node.tag = *tag;
                node.touched = id;
            }
            Op::Fsync { .. } | Op::FsyncDir(_) | Op::Sync => {}
        }
    }

    /// Notes that a sync returned.
    pub fn synced(&mut self, op: &Op, id: u32) {
        let covered = match op {
            Op::Fsync { path, .. } => {
                let Some(node) = self.node_mut(path) else {
                    return;
                };
                Self::settle(node);
                node.touched
            }
            Op::FsyncDir(dir) => self.dirs.get(dir).copied().unwrap_or(0),
            Op::Sync => {
                self.nodes.values_mut().for_each(Self::settle);
                id
            }
            _ => return,
        };
        self.covered = self.covered.max(covered);
    }

    /// Compares a tree with the model; the first difference.
    ///
    /// # Errors
    /// The difference, for people.
    pub fn compare(&self, tree: &Tree) -> Result<(), String> {
        let expected: BTreeSet<&String> = self
            .names
            .keys()
            .chain(self.dirs.keys().filter(|dir| !dir.is_empty()))
            .collect();
        let found: BTreeSet<&String> = tree.keys().collect();
        if let Some(path) = expected.symmetric_difference(&found).next() {
            let side = if found.contains(path) {
                "is there"
            } else {
                "is missing"
            };
            return Err(format!("{path} {side}"));
        }
        let mut inos: BTreeMap<u32, u64> = BTreeMap::new();
        for (path, id) in &self.names {
            let Some(Some(found)) = tree.get(path) else {
                return Err(format!("{path} is a directory"));
            };
            let Some(node) = self.nodes.get(id) else {
                continue;
            };
            let nlink = self.names.values().filter(|other| *other == id).count();
            let attributes = (
                found.nlink as usize,
                found.mode,
                found.tag,
                found.cells.len(),
            );
            let wanted = (nlink, node.mode, node.tag, node.cells.len());
            if attributes != wanted {
                return Err(format!(
                    "{path}: (nlink, mode, tag, cells) {attributes:?}, not {wanted:?}"
                ));
            }
            if *inos.entry(*id).or_insert(found.ino) != found.ino {
                return Err(format!("{path} is not the file it was linked to"));
            }
            for (index, (found, allowed)) in found.cells.iter().zip(&node.cells).enumerate() {
                if !found.is_some_and(|id| allowed.contains(&id)) {
                    return Err(format!(
                        "{path} cell {index}: {found:?}, not one of {allowed:?}"
                    ));
                }
            }
        }
        for dir in self.dirs.keys().filter(|dir| !dir.is_empty()) {
            if tree.get(dir).is_some_and(Option::is_some) {
                return Err(format!("{dir} is a file"));
            }
        }
        Ok(())
    }
}

/// The first `count` operations of a seed, numbered from 1.
#[must_use]
pub fn plan(seed: u64, count: u32) -> Vec<Op> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut model = Model::default();
    model.dirs.insert(String::new(), 0);
    let mut ops = Vec::new();
    for id in 1..=count {
        let op = choose(&model, &mut rng, id);
        model.apply(&op, id);
        ops.push(op);
    }
    ops
}

/// As [`plan`], with an fsync of the directory for each sync of the file system: Linux passes the
/// latter on to virtiofs only, not to a server behind /dev/fuse.
#[must_use]
pub fn plan_without_sync(seed: u64, count: u32) -> Vec<Op> {
    let replaced = |op| match op {
        Op::Sync => Op::FsyncDir(String::new()),
        other => other,
    };
    plan(seed, count).into_iter().map(replaced).collect()
}

fn choose(model: &Model, rng: &mut ChaCha8Rng, id: u32) -> Op {
    let new_path = |rng: &mut ChaCha8Rng| {
        let dir = model.dirs.keys().choose(rng).cloned().unwrap_or_default();
        if dir.is_empty() {
            format!("f{id}")
        } else {
            format!("{dir}/f{id}")
        }
    };
    let Some(path) = model.names.keys().choose(rng).cloned() else {
        return Op::Create(new_path(rng));
    };
    let cells = model
        .names
        .get(&path)
        .and_then(|id| model.nodes.get(id))
        .map_or(0, |node| u32::try_from(node.cells.len()).unwrap_or(0));
    match rng.random_range(0..100) {
        0..14 if model.names.len() < 40 => Op::Create(new_path(rng)),
        0..40 => {
            let first = rng.random_range(0..=cells.min(300));
            let count = if rng.random_bool(0.1) {
                rng.random_range(1..400)
            } else {
                rng.random_range(1..9)
            };
            Op::Write { path, first, count }
        }
        40..46 => Op::Truncate {
            path,
            cells: rng.random_range(0..=cells + 3),
        },
        46..54 => {
            let over = model.names.keys().choose(rng).filter(|other| {
                // rename(2) of two names of one file does nothing.
                rng.random_bool(0.5) && model.names.get(*other) != model.names.get(&path)
            });
            let to = over.cloned().unwrap_or_else(|| new_path(rng));
            Op::Rename { from: path, to }
        }
        54..58 => Op::Link {
            from: path,
            to: new_path(rng),
        },
        58..63 => Op::Unlink(path),
        63..66 if model.dirs.len() < 6 => Op::Mkdir(format!("d{id}")),
        63..67 => {
            let empty = model.dirs.keys().find(|dir| {
                !dir.is_empty() && !model.names.keys().any(|name| parent(name) == dir.as_str())
            });
            empty.map_or(Op::Sync, |dir| Op::Rmdir(dir.clone()))
        }
        67..71 => Op::Chmod {
            path,
            mode: 0o600 | rng.random_range(0..0o100),
        },
        71..75 => Op::Tag { path, tag: id },
        75..92 => Op::Fsync {
            path,
            data_only: rng.random_bool(0.3),
        },
        92..97 => Op::FsyncDir(model.dirs.keys().choose(rng).cloned().unwrap_or_default()),
        _ => Op::Sync,
    }
}

/// Judges a tree found after a crash: `returned` operations had returned, `begun` were begun.
/// The number of operations whose effects are there.
///
/// # Errors
/// Why no prefix of the operations explains the tree.
pub fn judge(ops: &[Op], begun: u32, returned: u32, tree: &Tree) -> Result<u32, String> {
    let mut model = Model::default();
    model.dirs.insert(String::new(), 0);
    let mut candidates = vec![(0, model.clone())];
    for (id, op) in (1u32..).zip(ops).take(begun as usize) {
        model.apply(op, id);
        if id <= returned {
            model.synced(op, id);
            // What is covered now can only be explained by states with it; those states' own files
            // are as strictly settled as the newest knows.
            candidates.retain(|(at, _)| *at >= model.covered);
            for (_, earlier) in &mut candidates {
                earlier.synced(op, id);
            }
        }
        candidates.push((id, model.clone()));
    }
    let mut reason = String::from("there is no candidate");
    for (id, model) in candidates.iter().rev() {
        match model.compare(tree) {
            Ok(()) => return Ok(*id),
            Err(difference) => {
                if *id == returned || reason.starts_with("there") {
                    reason = format!("as of operation {id}: {difference}");
                }
            }
        }
    }
    let oldest = candidates.first().map_or(0, |(id, _)| *id);
    Err(format!(
        "no state from operation {oldest} to {begun} ({returned} returned); {reason}"
    ))
}

/// How many of the first `returned` operations are syncs.
#[must_use]
pub fn syncs(ops: &[Op], returned: u32) -> u64 {
    let is_sync = |op: &&Op| matches!(op, Op::Fsync { .. } | Op::FsyncDir(_) | Op::Sync);
    ops.iter().take(returned as usize).filter(is_sync).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree_of(model: &Model) -> Tree {
        let mut tree = Tree::new();
        for dir in model.dirs.keys().filter(|dir| !dir.is_empty()) {
            tree.insert(dir.clone(), None);
        }
        for (path, id) in &model.names {
            let node = &model.nodes[id];
            let nlink = model.names.values().filter(|other| *other == id).count();
            let cells = node.cells.iter().map(|cell| cell.last().copied()).collect();
            let found = Found {
                ino: (*id).into(),
                nlink: u32::try_from(nlink).unwrap(),
                mode: node.mode,
                tag: node.tag,
                cells,
            };
            tree.insert(path.clone(), Some(found));
        }
        tree
    }

    fn state(ops: &[Op], upto: u32) -> Tree {
        let mut model = Model::default();
        model.dirs.insert(String::new(), 0);
        for (id, op) in (1..=upto).zip(ops) {
            model.apply(op, id);
        }
        tree_of(&model)
    }

    #[test]
    fn accepts_every_prefix_that_a_sync_allows_and_no_other() {
        for seed in 0..30 {
            let ops = plan(seed, 200);
            let (begun, returned) = (150, 149);
            let last_sync = (1u32..=returned)
                .filter(|id| ops[*id as usize - 1] == Op::Sync)
                .max()
                .unwrap_or(0);
            for upto in last_sync..=begun {
                let judged = judge(&ops, begun, returned, &state(&ops, upto));
                let covered = upto >= last_sync;
                if upto >= returned {
                    assert!(
                        covered && judged.is_ok(),
                        "seed {seed} at {upto}: {judged:?}"
                    );
                }
            }
            if last_sync > 20 && state(&ops, last_sync - 20) != state(&ops, last_sync) {
                let judged = judge(&ops, begun, returned, &state(&ops, last_sync - 20));
                // An older state can only pass by being the same as a newer one.
                if let Ok(id) = judged {
                    assert_eq!(state(&ops, id), state(&ops, last_sync - 20));
                }
            }
        }
    }

    #[test]
    fn finds_lost_and_foreign_content() {
        let ops = vec![
            Op::Create("a".into()),
            Op::Write {
                path: "a".into(),
                first: 0,
                count: 2,
            },
            Op::Fsync {
                path: "a".into(),
                data_only: false,
            },
        ];
        let good = state(&ops, 3);
        assert_eq!(judge(&ops, 3, 3, &good), Ok(3));
        for cell in [Some(0), None, Some(9)] {
            let mut bad = good.clone();
            if let Some(Some(found)) = bad.get_mut("a") {
                found.cells[1] = cell;
            }
            assert!(judge(&ops, 3, 3, &bad).is_err());
        }
        assert!(judge(&ops, 3, 3, &Tree::new()).is_err());
        // Without the fsync zeros are allowed, and so is nothing at all.
        let mut zeros = good.clone();
        if let Some(Some(found)) = zeros.get_mut("a") {
            found.cells[1] = Some(0);
        }
        assert!(judge(&ops, 2, 2, &zeros).is_ok());
        assert!(judge(&ops, 2, 2, &Tree::new()).is_ok());
    }

    #[test]
    fn a_dump_reads_back() {
        let tree = state(&plan(3, 150), 150);
        for (path, found) in &tree {
            let line = dump_line(path, found.as_ref());
            assert_eq!(parse_dump_line(&line), Some((path.clone(), found.clone())));
        }
    }

    #[test]
    fn cells_tell_who_wrote_them() {
        assert_eq!(writer(7, 3, &cell(7, 5, 3)), Some(5));
        assert_eq!(writer(7, 4, &cell(7, 5, 3)), None);
        assert_eq!(writer(8, 3, &cell(7, 5, 3)), None);
        assert_eq!(writer(7, 3, &[0; CELL_BYTES]), Some(0));
    }
}
