//! The inodes of a dataset: one pass over its tree, in which what belongs to an inode lies
//! together.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::chunks::Table as Chunks;
use super::datasets::Dataset;
use super::inode::{Group, Within, file_type};
use super::projects::Projects;
use super::{Bytes, Context, Issue, Issues, names, split_u64, walk_all};
use crate::format::id::Ino;
use crate::format::key::{Kind, TreeId};
use crate::format::record::InodeRecord;

/// What the passes over names need of an inode.
pub(super) struct Entry {
    pub(super) ino: Ino,
    /// As recorded, of a directory.
    pub(super) parent: Ino,
    /// The directory that was found to name it last.
    pub(super) named_in: Ino,
    pub(super) nlink: u32,
    /// Names found.
    pub(super) names: u32,
    /// `mode >> 12`; 0 when the record cannot be read.
    pub(super) file_type: u8,
    pub(super) orphan: bool,
}

/// A dataset's inodes, by number.
pub(super) struct Table {
    pub(super) inodes: Vec<Entry>,
    /// Bytes in extents.
    pub(super) allocated: u64,
    /// Those in reserved extents.
    pub(super) reserved: u64,
    pub(super) complete: bool,
}

impl Table {
    /// The index of an inode.
    pub(super) fn index(&self, ino: Ino) -> Option<usize> {
        self.inodes
            .binary_search_by_key(&ino, |entry| entry.ino)
            .ok()
    }
}

struct Pass<'a> {
    tree: TreeId,
    within: Within,
    chunks: &'a mut Chunks,
    table: Table,
    orphans: BTreeSet<Ino>,
    projects: Projects,
    group: Option<Group>,
    /// The inode whose records come by.
    current: Option<Ino>,
}

/// Checks a dataset's inodes, each with what belongs to it.
pub(super) fn check(
    context: &Context<'_>,
    dataset: &Dataset,
    newest_generation: u64,
    chunks: &mut Chunks,
    issues: &mut Issues<'_>,
) -> Table {
    let tree = TreeId::Fs(dataset.id);
    let mut pass = Pass {
        tree,
        within: Within {
            newest_generation,
            lineage: Rc::new(dataset.lineage.clone()),
        },
        chunks,
        table: Table {
            inodes: Vec::new(),
            allocated: 0,
            reserved: 0,
            complete: false,
        },
        orphans: BTreeSet::new(),
        projects: Projects::default(),
        group: None,
        current: None,
    };
    let complete = walk_all(context, tree, issues, &mut |issues, key, value| {
        names::check_used(context, key, value, issues);
        pass.take(key, value, issues);
    });
    pass.end_group(issues);
    for ino in &pass.orphans {
        if complete && pass.table.index(*ino).is_none() {
            issues.add(Issue::OrphanMissing { ino: *ino });
        }
    }
    if complete {
        pass.projects.check(dataset.id, issues);
    }
    pass.table.complete = complete;
    issues.summary.inodes += pass.table.inodes.len() as u64;
    pass.table
}

impl Pass<'_> {
    fn take(&mut self, key: &[u8], value: &[u8], issues: &mut Issues<'_>) {
        let unknown = || Issue::UnknownKey {
            tree: self.tree,
            key: Bytes(key.to_vec()),
        };
        let Some((ino, [kind, rest @ ..])) = split_u64(key) else {
            return issues.add(unknown());
        };
        let Some(kind) = Kind::of_byte(*kind) else {
            return issues.add(unknown());
        };
        if ino == 0 {
            match (kind, split_u64(rest)) {
                (Kind::Orphan, Some((ino, []))) => {
                    self.orphans.insert(Ino(ino));
                }
                _ => match self.projects.take(kind, rest, value) {
                    Some(Ok(())) => {}
                    Some(Err(error)) => issues.bad_record(self.tree, "a project", &error),
                    None => issues.add(unknown()),
                },
            }
            return;
        }
        let ino = Ino(ino);
        if self.current != Some(ino) {
            self.end_group(issues);
            self.current = Some(ino);
            if kind != Kind::Inode || !rest.is_empty() {
                return issues.add(Issue::InodeMissing { ino, kind });
            }
            self.begin(ino, value, issues);
        } else if let Some(group) = &mut self.group {
            group.take(kind, rest, value, self.chunks, issues);
        }
    }

    fn begin(&mut self, ino: Ino, value: &[u8], issues: &mut Issues<'_>) {
        let mut entry = Entry {
            ino,
            parent: Ino(0),
            named_in: Ino(0),
            nlink: 0,
            names: 0,
            file_type: 0,
            orphan: self.orphans.contains(&ino),
        };
        match InodeRecord::decode(value) {
            Ok(record) => {
                entry.parent = record.parent;
                entry.nlink = record.nlink;
                entry.file_type = file_type(&record).unwrap_or(0);
                let within = self.within.clone();
                self.group = Some(Group::new(self.tree, ino, record, within, issues));
            }
            Err(error) => issues.bad_record(self.tree, format!("inode {ino}"), &error),
        }
        self.table.inodes.push(entry);
    }

    fn end_group(&mut self, issues: &mut Issues<'_>) {
        if let Some(group) = self.group.take() {
            let allocated = group.finish(issues);
            self.projects.count(group.ino(), group.project(), allocated);
            self.table.allocated = self.table.allocated.saturating_add(allocated);
            self.table.reserved = self.table.reserved.saturating_add(group.reserved);
        }
    }
}
