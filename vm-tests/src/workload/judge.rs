//! Judging what a crash left.

use std::collections::{BTreeMap, BTreeSet};

use super::{Found, Model, Op, Tree};

/// How the contract was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something is missing that a sync, which had returned, had made durable.
    Lost,
    /// The tree is none that ever was, or none that can have been yet.
    Wrong,
}

/// A breach of the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    /// How.
    pub kind: Kind,
    /// For people.
    pub reason: String,
}

impl Breach {
    /// A breach that is no loss.
    pub fn wrong(reason: impl std::fmt::Display) -> Self {
        Breach {
            kind: Kind::Wrong,
            reason: reason.to_string(),
        }
    }
}

impl std::fmt::Display for Breach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            Kind::Lost => "LOST",
            Kind::Wrong => "VIOLATION",
        };
        write!(f, "{kind}: {}", self.reason)
    }
}

/// How far ahead of what was begun a state is looked for, to name it.
const AHEAD_MAX: u32 = 2_000;

/// Judges a tree found after a crash: `returned` operations had returned, `begun` were begun.
/// The number of operations whose effects are there.
///
/// # Errors
/// How it breaks the contract.
pub fn judge(ops: &[Op], begun: u32, returned: u32, tree: &Tree) -> Result<u32, Breach> {
    let begun = begun.max(returned);
    let candidates = candidates(ops, returned);
    let mut reason = String::new();
    for (id, model) in candidates.iter().rev() {
        match compare(model, next(ops, *id, begun), tree) {
            Ok(()) => return Ok(*id),
            Err(difference) if reason.is_empty() => {
                reason = format!("as of operation {id}: {difference}");
            }
            Err(_) => {}
        }
    }
    let newest = candidates.last().map_or_else(Model::new, |c| c.1.clone());
    if let Some(id) = find_state(newest.clone(), ops, returned..begun, tree) {
        return Ok(id);
    }
    let (kind, why) = if let Some(id) = find_state(Model::new(), ops, 0..begun, tree) {
        let why = format!("it is as after operation {id}, without what was synced");
        (Kind::Lost, why)
    } else if let Some(id) = find_state(newest, ops, returned..begun + AHEAD_MAX, tree) {
        (Kind::Wrong, format!("it is as after operation {id}"))
    } else if let Some(why) = Certain::of(&candidates, ops, begun, tree).missing(tree) {
        (Kind::Lost, why)
    } else {
        (Kind::Wrong, "it is as after no operation".into())
    };
    let oldest = candidates.first().map_or(0, |(id, _)| *id);
    Err(Breach {
        kind,
        reason: format!(
            "no state from operation {oldest} to {begun} ({returned} returned); {reason}; {why}"
        ),
    })
}

/// Judges a tree as it was at one moment while the operations went on: `returned` had returned
/// before, `begun` were begun then or later. The number of operations whose effects are there.
///
/// # Errors
/// How it is none of the states in between.
pub fn judge_live(ops: &[Op], begun: u32, returned: u32, tree: &Tree) -> Result<u32, Breach> {
    let begun = begun.max(returned);
    let mut model = Model::new();
    for (id, op) in (1u32..).zip(ops).take(returned as usize) {
        model.apply(op, id);
    }
    if let Some(id) = find_state(model, ops, returned..begun, tree) {
        return Ok(id);
    }
    match find_state(Model::new(), ops, 0..returned, tree) {
        Some(id) => Err(Breach {
            kind: Kind::Lost,
            reason: format!("it is as after operation {id}, and {returned} had returned"),
        }),
        None => Err(Breach::wrong(format!(
            "no state from operation {returned} to {begun}"
        ))),
    }
}

/// The states, up to the one after `returned` operations, that the syncs among these allow.
fn candidates(ops: &[Op], returned: u32) -> Vec<(u32, Model)> {
    let mut model = Model::new();
    let mut candidates = vec![(0, model.clone())];
    for (id, op) in (1u32..).zip(ops).take(returned as usize) {
        model.apply(op, id);
        if let Some(covered) = model.covered_by(op, id) {
            // What is covered now can only be explained by states with it; the content of those is
            // as strictly settled as the newest knows.
            model.settle(&covered);
            candidates.retain(|(at, _)| *at >= covered.upto);
            for (_, earlier) in &mut candidates {
                earlier.settle(&covered);
            }
        }
        candidates.push((id, model.clone()));
    }
    candidates
}

/// The operation that was under way in the state after `done`, if one was, and its number.
fn next(ops: &[Op], done: u32, begun: u32) -> Option<(&Op, u32)> {
    let op = (done < begun).then(|| ops.get(done as usize)).flatten();
    op.map(|op| (op, done + 1))
}

/// Compares with a state, or with one in the midst of the operation under way.
fn compare(model: &Model, next: Option<(&Op, u32)>, tree: &Tree) -> Result<(), String> {
    let compared = model.compare(tree);
    let Some((op, id)) = next.filter(|_| compared.is_err()) else {
        return compared;
    };
    let within = op.beginnings().into_iter().any(|op| {
        let mut model = model.clone();
        model.apply(&op, id);
        model.compare(tree).is_ok()
    });
    if within { Ok(()) } else { compared }
}

/// The first of some states that a tree equals, going on from `model`, which is the first.
fn find_state(
    mut model: Model,
    ops: &[Op],
    range: std::ops::Range<u32>,
    tree: &Tree,
) -> Option<u32> {
    let last = range.end;
    (range.start..=last).find(|done| {
        let next = next(ops, *done, last);
        let found = compare(&model, next, tree).is_ok();
        if let Some((op, id)) = next.filter(|_| !found) {
            model.apply(op, id);
        }
        found
    })
}

/// What all states that may be have in common.
struct Certain {
    dirs: BTreeSet<String>,
    /// Each file or symbolic link, with its names in any of the states.
    nodes: BTreeMap<u32, BTreeSet<String>>,
    names: BTreeMap<String, u32>,
    /// Each file's cells, with what they may be in any of the states.
    cells: BTreeMap<u32, Vec<BTreeSet<u32>>>,
}

impl Certain {
    /// Of the candidates and the states behind them, as far as the tree shows anything of these:
    /// what is removed still later tells nothing about it.
    fn of(candidates: &[(u32, Model)], ops: &[Op], begun: u32, tree: &Tree) -> Certain {
        let mut models = candidates.iter();
        let first = models.next().map_or_else(Model::new, |c| c.1.clone());
        let mut certain = Certain {
            dirs: first.dirs().cloned().collect(),
            nodes: BTreeMap::new(),
            names: first.names.clone(),
            cells: BTreeMap::new(),
        };
        certain.dirs.remove("");
        for (id, node) in &first.nodes {
            certain.nodes.insert(*id, BTreeSet::new());
            let cells = node.cells.iter();
            let cells = cells.map(|cell| cell.iter().copied().collect());
            certain.cells.insert(*id, cells.collect());
        }
        certain.meet(&first);
        models.for_each(|(_, model)| certain.meet(model));
        let Some((returned, newest)) = candidates.last() else {
            return certain;
        };
        let mut model = newest.clone();
        let coming = ops.get(*returned as usize..).unwrap_or_default();
        for (done, op) in (*returned..begun.min(newest_shown(tree))).zip(coming) {
            model.apply(op, done + 1);
            certain.meet(&model);
        }
        certain
    }

    fn meet(&mut self, model: &Model) {
        let dirs: BTreeSet<&String> = model.dirs().collect();
        self.dirs.retain(|dir| dirs.contains(dir));
        self.nodes.retain(|id, _| model.nodes.contains_key(id));
        self.names
            .retain(|path, id| model.names.get(path) == Some(id));
        for (path, id) in &model.names {
            if let Some(names) = self.nodes.get_mut(id) {
                names.insert(path.clone());
            }
        }
        for (id, cells) in &mut self.cells {
            let there = model.nodes.get(id).map_or(&[][..], |node| &node.cells);
            cells.truncate(there.len());
            for (cell, there) in cells.iter_mut().zip(there) {
                cell.extend(there);
            }
        }
    }

    /// Something of it that is not in a tree.
    fn missing(&self, tree: &Tree) -> Option<String> {
        let gone = self.dirs.iter().chain(self.names.keys());
        if let Some(path) = gone.into_iter().find(|path| !tree.contains_key(*path)) {
            return Some(format!("{path} was synced"));
        }
        for (id, names) in &self.nodes {
            let Some((path, found)) = names.iter().find_map(|name| tree.get_key_value(name)) else {
                return Some(format!("the file of {names:?} was synced"));
            };
            let (Found::File(file), Some(cells)) = (found, self.cells.get(id)) else {
                continue;
            };
            if file.cells.len() < cells.len() {
                return Some(format!("{} cells of {path} were synced", cells.len()));
            }
            // Foreign bytes are another breach than old ones.
            let old = |(found, allowed): (&Option<u32>, &BTreeSet<u32>)| {
                found.is_some_and(|found| !allowed.contains(&found))
            };
            if let Some(index) = file.cells.iter().zip(cells).position(old) {
                return Some(format!("{path} cell {index}: newer content was synced"));
            }
        }
        None
    }
}

/// The newest operation that a tree shows.
fn newest_shown(tree: &Tree) -> u32 {
    let of_names = tree.keys().flat_map(|path| path.split('/'));
    let of_names = of_names.filter_map(|name| name.get(1..)?.parse().ok());
    let of_files = tree.values().flat_map(|found| match found {
        Found::File(file) => {
            let cells = file.cells.iter().flatten();
            cells.chain([&file.tag]).copied().max()
        }
        Found::Dir | Found::Symlink { .. } => None,
    });
    of_names.chain(of_files).max().unwrap_or(0)
}
