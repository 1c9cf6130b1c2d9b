//! Datasets, snapshots and clones, on both.
//!
//! Operations go to one dataset at a time. What is in the others is durable, so that after a power
//! cut it must be what it was, to the last byte.

use std::sync::Arc;

use razorfs::engine::{DatasetError, EngineError, Store};
use razorfs::format::id::Ino;

use crate::ensure;
use crate::found::Found;
use crate::model::{Content, Made, Model, Node, Nodes, linked};
use crate::ops::Op;
use crate::world::{Outcome, World, name_of};

/// The one at a place of a list that has any.
fn pick(of: &[Made], index: u8) -> Option<Made> {
    let index = usize::from(index).checked_rem(of.len())?;
    of.get(index).cloned()
}

/// Whether the store is full. Nothing has changed then.
fn is_full(error: &DatasetError) -> bool {
    matches!(error, DatasetError::Engine(error) if name_of(error) == "NoSpace")
}

impl Model {
    /// The one in use, then the others, newest first.
    fn all(&self) -> Vec<Made> {
        let others = self.others.keys().rev();
        std::iter::once(&self.dataset)
            .chain(others)
            .cloned()
            .collect()
    }

    /// What a copy has of one.
    fn copy_of(&self, made: &Made) -> Nodes {
        linked(self.others.get(made).unwrap_or(&self.nodes))
    }

    fn make(&mut self, name: impl FnOnce(u32) -> String, nodes: Nodes) -> String {
        self.made += 1;
        let made = Made(self.made, name(self.made));
        self.others.insert(made.clone(), nodes);
        made.1
    }

    /// A dataset's snapshots go by its name too.
    fn rename_dataset(&mut self, from: &str, to: &str) {
        let renamed = |Made(number, name): Made| {
            let rest = name.strip_prefix(from);
            match rest.filter(|rest| rest.is_empty() || rest.starts_with('@')) {
                Some(rest) => Made(number, format!("{to}{rest}")),
                None => Made(number, name),
            }
        };
        self.dataset = renamed(self.dataset.clone());
        let others = std::mem::take(&mut self.others).into_iter();
        self.others = others.map(|(made, nodes)| (renamed(made), nodes)).collect();
    }

    /// The names of all, in the order of names.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.all().into_iter().map(|made| made.1).collect();
        names.sort();
        names
    }
}

/// The names that a store lists, in the order of names.
pub fn names(store: &Store) -> Outcome<Vec<String>> {
    let all = store.list().map_err(|error| format!("listing: {error}"))?;
    let mut names: Vec<_> = all.into_iter().map(|info| info.name).collect();
    names.sort();
    Ok(names)
}

impl World {
    pub fn datasets(&mut self, op: &Op) -> Outcome {
        let store = Arc::clone(self.volume.store());
        let mut after = self.model.clone();
        let all = self.model.all();
        let heads = all.iter().filter(|each| !each.is_snapshot());
        let heads: Vec<_> = heads.cloned().collect();
        let mut copied = None;
        let mut restored = None;
        let done = match *op {
            Op::Snapshot { of } => {
                let Some(of) = pick(&heads, of) else {
                    return Ok(());
                };
                let nodes = self.model.copy_of(&of);
                let name = after.make(|number| format!("{}@s{number}", of.1), nodes);
                copied = Some(of);
                store.snapshot(&name).map(drop)
            }
            Op::Clone { of } => {
                let Some(of) = pick(&all, of) else {
                    return Ok(());
                };
                let name = after.make(|number| format!("c{number}"), self.model.copy_of(&of));
                let done = store.clone_dataset(&of.1, &name).map(drop);
                copied = Some(of);
                done
            }
            Op::MakeDataset => {
                let mode = libc::S_IFDIR | 0o755;
                let root = Node {
                    mode,
                    gid: 0,
                    ..self.model.blank(Ino::ROOT, Ino::ROOT, mode)
                };
                let nodes = Nodes::from([(Ino::ROOT, Arc::new(root))]);
                let name = after.make(|number| format!("d{number}"), nodes);
                store.create_dataset(&name, (0, 0))
            }
            Op::RenameDataset { which } => {
                let named: Vec<_> = heads.into_iter().filter(|each| each.0 != 0).collect();
                let Some(Made(_, name)) = pick(&named, which) else {
                    return Ok(());
                };
                after.made += 1;
                let to = format!("r{}", after.made);
                after.rename_dataset(&name, &to);
                store.rename(&name, &to)
            }
            Op::DeleteDataset { which } => {
                let deletable = |each: &&Made| each.0 != 0 && **each != self.model.dataset;
                let named: Vec<_> = all.iter().filter(deletable).cloned().collect();
                let Some(Made(_, name)) = pick(&named, which) else {
                    return Ok(());
                };
                let snapshots = format!("{name}@");
                let before = after.others.len();
                after
                    .others
                    .retain(|each, _| each.1 != name && !each.1.starts_with(&snapshots));
                if before - after.others.len() > 1 {
                    let refused = store.delete(&name, false);
                    ensure!(
                        matches!(refused, Err(DatasetError::HasSnapshots { .. })),
                        "deleting what has snapshots gave {refused:?}"
                    );
                }
                store.delete(&name, true)
            }
            Op::Restore { which } => {
                let unused = |each: &&Made| each.is_snapshot() && !each.is_of(&self.model.dataset);
                let snapshots: Vec<_> = all.iter().filter(unused).cloned().collect();
                let Some(snapshot) = pick(&snapshots, which) else {
                    return Ok(());
                };
                let of = heads.into_iter().find(|head| snapshot.is_of(head));
                let of = of.ok_or("a snapshot of nothing")?;
                after
                    .others
                    .insert(of.clone(), self.model.copy_of(&snapshot));
                restored = Some(of);
                store.restore(&snapshot.1)
            }
            Op::Use { which } => {
                let others: Vec<_> = heads.into_iter().skip(1).rev().collect();
                return match pick(&others, which) {
                    Some(other) => self.take_up(&store, &other),
                    None => Ok(()),
                };
            }
            Op::Reap { part } => {
                let say = |error: EngineError| format!("{error:?}");
                return store.reap(&|| part).map(drop).map_err(say);
            }
            _ => return Ok(()),
        };
        let written = copied.as_ref() == Some(&self.model.dataset);
        self.arranged(&store, done, after, (written, restored))
    }

    /// Whether what failed is done all the same, as far as can be seen.
    fn is_arranged(
        &self,
        store: &Arc<Store>,
        after: &Model,
        restored: Option<Made>,
    ) -> Outcome<bool> {
        if names(store)? != after.names() {
            return Ok(false);
        }
        let Some(restored) = restored else {
            return Ok(true);
        };
        let found = Found::new(store, &restored.1)?;
        let is = |model: &Model| found.compare(&model.others[&restored]).is_ok();
        Ok(is(after) && !is(&self.model))
    }

    /// What came of a change of datasets, which is durable when it was done; with all that was
    /// written to the one in use, if that was copied.
    fn arranged(
        &mut self,
        store: &Arc<Store>,
        done: Result<(), DatasetError>,
        after: Model,
        (written, restored): (bool, Option<Made>),
    ) -> Outcome {
        match done {
            Ok(()) => {
                self.model = after;
                match written {
                    true => self.synced_all(),
                    false => self.checkpointed(),
                }
                Ok(())
            }
            Err(error) if self.is_small() && is_full(&error) => self.compare(),
            Err(error) => {
                if self.is_arranged(store, &after, restored)? {
                    // It is there until the store is opened again; then perhaps.
                    ensure!(!self.volume.is_writable(), "failed, and done: {error:?}");
                    self.failed();
                    self.model = after;
                }
                Err(format!("{error:?}"))
            }
        }
    }

    fn take_up(&mut self, store: &Arc<Store>, other: &Made) -> Outcome {
        let synced = self.volume.sync_all();
        synced.map_err(|error| format!("{error:?}"))?;
        self.synced_all();
        let taken = store.volume(&other.1);
        self.volume = Arc::new(taken.map_err(|error| format!("{error:?}"))?);
        let nodes = self.model.others.remove(other).unwrap();
        let left = std::mem::replace(&mut self.model.nodes, nodes);
        let name = std::mem::replace(&mut self.model.dataset, other.clone());
        self.model.others.insert(name, left);
        for node in self.model.nodes.values_mut() {
            let node = Arc::make_mut(node);
            node.content = Content::found(std::mem::take(&mut node.content.bytes));
            node.touched = 0;
        }
        self.synced_all();
        Ok(())
    }
}
