//! The inodes of a dataset: one pass over its tree, in which what belongs to an inode lies
//! together.

use std::collections::BTreeSet;

use super::chunks::Table as Chunks;
use super::inode::{DIRECTORY, Group, Within, file_type};
use super::projects::Projects;
use super::{Bytes, Context, Issue, Issues, KEYS_END, names, split_u64, walk, walk_all};
use crate::format::id::{Generation, Ino};
use crate::format::key::{Kind, TreeId};
use crate::format::record::InodeRecord;

/// What the passes over names need of an inode.
#[derive(Clone)]
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
}

/// A dataset's inodes, by number.
#[derive(Clone, Default)]
pub(super) struct Table {
    pub(super) inodes: Vec<Entry>,
    pub(super) orphans: BTreeSet<Ino>,
    pub(super) projects: Projects,
    /// Bytes in extents.
    pub(super) allocated: u64,
    /// Those in reserved extents.
    pub(super) reserved: u64,
    pub(super) extents: u64,
    pub(super) dentries: u64,
    /// No extent was born in a later checkpoint.
    pub(super) newest_birth: Generation,
    pub(super) complete: bool,
}

impl Table {
    /// The index of an inode.
    pub(super) fn index(&self, ino: Ino) -> Option<usize> {
        self.inodes
            .binary_search_by_key(&ino, |entry| entry.ino)
            .ok()
    }

    /// The directories among them.
    pub(super) fn directories(&self) -> Vec<Ino> {
        let directories = self.inodes.iter();
        let directories = directories.filter(|entry| entry.file_type == DIRECTORY);
        directories.map(|entry| entry.ino).collect()
    }
}

struct Pass<'a> {
    tree: TreeId,
    within: Within,
    chunks: &'a mut Chunks,
    table: Table,
    group: Option<Group>,
    /// The inode whose records come by.
    current: Option<Ino>,
}

/// Checks a dataset's inodes, each with what belongs to it.
pub(super) fn check(
    context: &Context<'_>,
    tree: TreeId,
    within: &Within,
    chunks: &mut Chunks,
    issues: &mut Issues<'_>,
) -> Table {
    let mut pass = Pass::new(tree, within, chunks);
    let complete = walk_all(context, tree, issues, &mut |issues, key, value| {
        names::check_used(context, key, value, issues);
        pass.take(key, value, issues);
    });
    pass.end_group(issues);
    for ino in &pass.table.orphans {
        if complete && pass.table.index(*ino).is_none() {
            issues.add(Issue::OrphanMissing { ino: *ino });
        }
    }
    pass.table.complete = complete;
    pass.table
}

/// As [`check`], of these inodes alone, as far as they are there, and of what stands before all.
pub(super) fn check_some(
    context: &Context<'_>,
    tree: TreeId,
    inodes: &BTreeSet<Ino>,
    within: &Within,
    chunks: &mut Chunks,
    issues: &mut Issues<'_>,
) -> Table {
    let mut pass = Pass::new(tree, within, chunks);
    let mut complete = true;
    for ino in std::iter::once(&Ino(0)).chain(inodes) {
        let start = ino.0.to_be_bytes();
        let end = ino.0.checked_add(1).map(u64::to_be_bytes);
        let end = end.as_ref().map_or(&KEYS_END[..], |end| end);
        complete &= walk(
            context,
            tree,
            &start,
            end,
            issues,
            &mut |issues, key, value| {
                if let Some(id) = names::unknown(context, key, value) {
                    issues.add(Issue::NameUnknown { id });
                }
                pass.take(key, value, issues);
            },
        );
        pass.end_group(issues);
    }
    pass.table.complete = complete;
    pass.table
}

impl<'a> Pass<'a> {
    fn new(tree: TreeId, within: &Within, chunks: &'a mut Chunks) -> Self {
        Pass {
            tree,
            within: within.clone(),
            chunks,
            table: Table::default(),
            group: None,
            current: None,
        }
    }

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
                    self.table.orphans.insert(Ino(ino));
                }
                _ => match self.table.projects.take(kind, rest, value) {
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
            let table = &mut self.table;
            table
                .projects
                .count(group.ino(), group.project(), allocated);
            table.allocated = table.allocated.saturating_add(allocated);
            table.reserved = table.reserved.saturating_add(group.reserved);
            table.extents += group.extents;
            table.newest_birth = table.newest_birth.max(group.newest_birth);
        }
    }
}
