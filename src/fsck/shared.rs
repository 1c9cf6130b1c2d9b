//! Datasets of which one goes on from the other: what they share is checked once.
//!
//! A snapshot or a clone mostly has the pages of what it goes on from. Where nothing was wrong with
//! that, of the dataset only those inodes are read in which the two trees differ; the rest was
//! counted already. This only ever says that a dataset is sound: where anything is found, or cannot be
//! concluded like this, the dataset is checked from its root as if it were alone, and that reports.
//!
//! Memory: a table of inodes for each dataset from which unchecked ones go on, of those on one way
//! down the family tree.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::rc::Rc;

use super::chunks::Table as Chunks;
use super::datasets::{Dataset, Datasets, check_counters};
use super::inode::Within;
use super::inodes::{self, Entry, Table};
use super::{Context, Issues, Summary, Trees, namespace, split_u64};
use crate::format::id::{DatasetId, Ino};
use crate::format::key::{Kind, TreeId};
use crate::store::StoreError;

/// Where more than one inode in so many differs, a tree is read wholly: that is in order.
const DIFFERING_PART: usize = 4;

/// A dataset in which nothing is wrong.
struct Sound {
    id: DatasetId,
    table: Table,
}

/// Checks all datasets. False when some could not be read to their ends.
pub(super) fn check(
    context: &Context<'_>,
    datasets: &Datasets,
    chunks: &mut Chunks,
    issues: &mut Issues<'_>,
) -> bool {
    let newest_generation = datasets.newest_birth(context);
    let mut next: BTreeMap<DatasetId, Vec<&Dataset>> = BTreeMap::new();
    for dataset in &datasets.found {
        next.entry(dataset.lineage.prev).or_default().push(dataset);
    }
    let goes_on = |dataset: &&Dataset| next.contains_key(&dataset.id);
    let mut left: BTreeSet<DatasetId> = datasets.found.iter().map(|dataset| dataset.id).collect();
    let known = left.clone();
    let first = datasets.found.iter();
    let first = first.filter(|dataset| !known.contains(&dataset.lineage.prev));
    let mut complete = true;
    // A damaged store may have circles, to which no first one leads.
    for dataset in first.chain(&datasets.found) {
        let mut open: Vec<(&Dataset, Option<Rc<Sound>>)> = vec![(dataset, None)];
        while let Some((dataset, base)) = open.pop() {
            if !left.remove(&dataset.id) {
                continue;
            }
            let one = One {
                context,
                dataset,
                within: Within {
                    newest_generation,
                    lineage: Rc::new(dataset.lineage.clone()),
                },
            };
            let table = base.and_then(|base| one.check_difference(&base, chunks, issues));
            let table = table.or_else(|| one.check_whole(chunks, issues, &mut complete));
            let id = dataset.id;
            let sound = table.map(|table| Rc::new(Sound { id, table }));
            // Those from which nothing goes on are checked first: the table is kept no longer.
            let next_ones = next.get(&id).into_iter().flatten().copied();
            let (far, near): (Vec<&Dataset>, Vec<&Dataset>) = next_ones.partition(goes_on);
            let next_ones = far.into_iter().chain(near);
            open.extend(next_ones.map(|dataset| (dataset, sound.clone())));
        }
    }
    complete
}

/// A dataset to be checked.
struct One<'a> {
    context: &'a Context<'a>,
    dataset: &'a Dataset,
    within: Within,
}

impl One<'_> {
    fn tree(&self) -> TreeId {
        TreeId::Fs(self.dataset.id)
    }

    /// Checks it from its root. Its table, when nothing is wrong.
    fn check_whole(
        &self,
        chunks: &mut Chunks,
        issues: &mut Issues<'_>,
        complete: &mut bool,
    ) -> Option<Table> {
        let before = issues.found();
        let mut table = inodes::check(self.context, self.tree(), &self.within, chunks, issues);
        let mut is_whole = table.complete;
        if table.complete {
            table.projects.check(self.dataset.id, issues);
            check_counters(self.dataset, &table, issues);
            is_whole = namespace::check(self.context, self.tree(), &mut table, issues);
        }
        *complete &= table.complete;
        issues.summary.count(&table);
        // Of what is being deleted, content that is gone already was not missed.
        let is_sound = is_whole && issues.found() == before;
        (is_sound && self.dataset.lineage.cursor.is_empty()).then_some(table)
    }

    /// Checks that in which it differs from what it goes on from. Its table, when nothing is wrong;
    /// otherwise it is as if nothing had been done.
    fn check_difference(
        &self,
        base: &Sound,
        chunks: &mut Chunks,
        issues: &mut Issues<'_>,
    ) -> Option<Table> {
        let lineage = &self.dataset.lineage;
        // References of what they share are those of the other, and nothing of it is gone.
        let is_copy = lineage.prev == base.id
            && lineage.prev_birth >= base.table.newest_birth
            && lineage.cursor.is_empty()
            && self.context.trees == Trees::Shared;
        if !is_copy {
            return None;
        }
        let mut unheard = Issues {
            report: &mut |_| {},
            summary: Summary::default(),
        };
        chunks.note();
        let table = self.difference(base, chunks, &mut unheard).ok().flatten();
        let table = table.filter(|_| unheard.found() == 0);
        chunks.settle(table.is_some());
        if let Some(table) = &table {
            issues.summary.count(table);
        }
        table
    }

    /// The table, if one can be made; whatever is wrong is in `issues`.
    fn difference(
        &self,
        base: &Sound,
        chunks: &mut Chunks,
        issues: &mut Issues<'_>,
    ) -> Result<Option<Table>, StoreError> {
        let (context, before) = (self.context, TreeId::Fs(base.id));
        let Some(differing) = self.differing(base)? else {
            return Ok(None);
        };
        let within = self.within.uncounted();
        let old = inodes::check_some(context, before, &differing, &within, chunks, issues);
        let within = &self.within;
        let new = inodes::check_some(context, self.tree(), &differing, within, chunks, issues);
        if !(old.complete && new.complete) {
            return Ok(None);
        }
        let mut table = base.table.clone();
        let named = old.directories();
        if !namespace::uncount(context, before, &mut table, &named, issues) {
            return Ok(None);
        }
        let named = new.directories();
        let Some(mut table) = replaced(table, &old, new) else {
            return Ok(None);
        };
        table.projects.check(self.dataset.id, issues);
        check_counters(self.dataset, &table, issues);
        let tree = self.tree();
        let whole = namespace::check_some(context, tree, &mut table, &named, issues);
        Ok(whole.then_some(table))
    }

    /// The inodes of which a record differs; `None` when these are many.
    fn differing(&self, base: &Sound) -> Result<Option<BTreeSet<Ino>>, StoreError> {
        let trees = (TreeId::Fs(base.id), Some(self.tree()));
        let max = base.table.inodes.len() / DIFFERING_PART + 1;
        let mut differing = BTreeSet::new();
        self.context.view.diff(trees, &[], &mut |key, _, _| {
            match split_u64(key) {
                // Of what stands before all inodes, the list of orphans is one of inodes too.
                Some((0, [kind, of @ ..])) if *kind == Kind::Orphan as u8 => {
                    differing.extend(split_u64(of).map(|(ino, _)| Ino(ino)));
                }
                Some((0, _)) | None => {}
                Some((ino, _)) => {
                    differing.insert(Ino(ino));
                }
            }
            match differing.len() > max {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        Ok((differing.len() <= max).then_some(differing))
    }
}

/// A table with `new` in place of `old`, whose names are counted but for those in directories among
/// them. `None` when an inode is named elsewhere as what it no longer is.
fn replaced(mut table: Table, old: &Table, new: Table) -> Option<Table> {
    let gone: BTreeSet<Ino> = old.inodes.iter().map(|entry| entry.ino).collect();
    let mut before: BTreeMap<Ino, Entry> = BTreeMap::new();
    table.inodes.retain(|entry| {
        let stays = !gone.contains(&entry.ino);
        if !stays {
            before.insert(entry.ino, entry.clone());
        }
        stays
    });
    for mut entry in new.inodes {
        if let Some(was) = before.remove(&entry.ino) {
            if was.names > 0 && was.file_type != entry.file_type {
                return None;
            }
            (entry.names, entry.named_in) = (was.names, was.named_in);
        }
        table.inodes.push(entry);
    }
    if before.values().any(|entry| entry.names > 0) {
        return None;
    }
    // Two runs in order, which a stable sort merges.
    table.inodes.sort_by_key(|entry| entry.ino);
    if new.orphans.iter().any(|ino| table.index(*ino).is_none()) {
        return None;
    }
    table.projects = table.projects.replaced(&old.projects, &new.projects)?;
    let sum = |all: u64, old, new| all.checked_sub(old)?.checked_add(new);
    table.allocated = sum(table.allocated, old.allocated, new.allocated)?;
    table.reserved = sum(table.reserved, old.reserved, new.reserved)?;
    table.extents = sum(table.extents, old.extents, new.extents)?;
    table.newest_birth = table.newest_birth.max(new.newest_birth);
    table.orphans = new.orphans;
    Some(table)
}
