//! Names: what directories hold, how often an inode is named, and whether it can be reached.

use super::inode::DIRECTORY;
use super::inodes::Table;
use super::{Bytes, Context, Issue, Issues, walk};
use crate::format::id::Ino;
use crate::format::key::{self, Kind, TreeId, trailing_u64};
use crate::format::record::{DentryRecord, InodeRecord};
use crate::store::Read;

/// The bits of a cookie that tell names of one hash apart.
const DISCRIMINATOR_BITS: u32 = 16;

struct Pass<'a> {
    context: &'a Context<'a>,
    tree: TreeId,
    table: &'a mut Table,
    /// Whether all directories could be read.
    complete: bool,
}

/// One directory as its entries come by.
struct Directory {
    ino: Ino,
    entries: u64,
    subdirectories: u64,
    /// The hash of the entries now, and their names.
    hash: u64,
    names: Vec<Vec<u8>>,
}

/// Checks the names of a dataset, which are counted in its table. False when some could not be read.
pub(super) fn check(
    context: &Context<'_>,
    tree: TreeId,
    table: &mut Table,
    issues: &mut Issues<'_>,
) -> bool {
    let directories = table.directories();
    check_some(context, tree, table, &directories, issues)
}

/// As [`check`], where the names in all other directories are counted already.
pub(super) fn check_some(
    context: &Context<'_>,
    tree: TreeId,
    table: &mut Table,
    directories: &[Ino],
    issues: &mut Issues<'_>,
) -> bool {
    let mut pass = Pass {
        context,
        tree,
        table,
        complete: true,
    };
    for ino in directories {
        pass.check_directory(*ino, issues);
    }
    if pass.complete {
        pass.check_links(issues);
        pass.check_reach(issues);
    }
    pass.complete
}

/// Takes the names in these directories, of the tree that they were counted in, out of the table.
/// False when that cannot be done.
pub(super) fn uncount(
    context: &Context<'_>,
    tree: TreeId,
    table: &mut Table,
    directories: &[Ino],
    issues: &mut Issues<'_>,
) -> bool {
    let mut complete = true;
    for dir in directories {
        let (start, end) = key::kind_range(*dir, Kind::Dentry);
        let mut uncount = |value: &[u8]| {
            let dentry = DentryRecord::decode(value).ok()?;
            let index = table.index(dentry.ino)?;
            let entry = table.inodes.get_mut(index)?;
            entry.names = entry.names.checked_sub(1)?;
            table.dentries = table.dentries.checked_sub(1)?;
            Some(())
        };
        let mut counted = true;
        let read = walk(context, tree, &start, &end, issues, &mut |_, _, value| {
            counted &= uncount(value).is_some();
        });
        complete &= read && counted;
    }
    complete
}

impl Pass<'_> {
    fn check_directory(&mut self, ino: Ino, issues: &mut Issues<'_>) {
        let (start, end) = key::kind_range(ino, Kind::Dentry);
        let mut directory = Directory {
            ino,
            entries: 0,
            subdirectories: 0,
            hash: 0,
            names: Vec::new(),
        };
        let (context, tree) = (self.context, self.tree);
        let read = walk(
            context,
            tree,
            &start,
            &end,
            issues,
            &mut |issues, key, value| {
                self.check_entry(&mut directory, key, value, issues);
            },
        );
        self.complete &= read;
        let Ok(Some(record)) = context.view.get(tree, &key::inode(ino)) else {
            self.complete = false;
            return;
        };
        // That it cannot be read was reported with the inodes.
        let Ok(record) = InodeRecord::decode(&record) else {
            return;
        };
        self.table.dentries += directory.entries;
        if directory.entries != record.entries {
            issues.add(Issue::Entries {
                dir: ino,
                found: directory.entries,
                recorded: record.entries,
            });
        }
        let orphan = self.table.orphans.contains(&ino);
        let found = directory.subdirectories + 2;
        // An orphan's links are compared with the orphan list.
        if !orphan && found != u64::from(record.nlink) {
            let recorded = record.nlink;
            issues.add(Issue::Links {
                ino,
                found,
                recorded,
            });
        }
    }

    fn check_entry(
        &mut self,
        directory: &mut Directory,
        key: &[u8],
        value: &[u8],
        issues: &mut Issues<'_>,
    ) {
        let dir = directory.ino;
        directory.entries += 1;
        // Its length was checked with the inodes.
        let Ok(cookie) = trailing_u64(key) else {
            return;
        };
        let dentry = match DentryRecord::decode(value) {
            Ok(dentry) => dentry,
            Err(error) => {
                // The inode it names would seem to have no name.
                self.complete = false;
                let what = format!("directory {dir}: entry {cookie:#x}");
                return issues.bad_record(self.tree, what, &error);
            }
        };
        let name = self.check_name(directory, cookie, &dentry, issues);
        let ino = dentry.ino;
        let Some(entry) = self
            .table
            .index(ino)
            .and_then(|index| self.table.inodes.get_mut(index))
        else {
            return issues.add(Issue::DentryInode { dir, name, ino });
        };
        entry.names = entry.names.saturating_add(1);
        entry.named_in = dir;
        if entry.file_type == DIRECTORY {
            directory.subdirectories += 1;
        }
        if entry.file_type != 0 && entry.file_type != dentry.file_type {
            let (recorded, found) = (dentry.file_type, entry.file_type);
            issues.add(Issue::DentryType {
                dir,
                name,
                ino,
                recorded,
                found,
            });
        }
    }

    /// Checks an entry's name; returns it, or what to call the entry.
    fn check_name(
        &self,
        directory: &mut Directory,
        cookie: u64,
        dentry: &DentryRecord,
        issues: &mut Issues<'_>,
    ) -> Bytes {
        let dir = directory.ino;
        let name = match self.context.view.name(dentry.name) {
            Ok(name) => name,
            Err(error) => {
                let reason = error.to_string();
                issues.add(Issue::DentryName {
                    dir,
                    cookie,
                    reason,
                });
                return Bytes(format!("entry {cookie:#x}").into_bytes());
            }
        };
        if name.len() != usize::from(dentry.name_len) {
            let reason = format!("{} bytes, the entry says {}", name.len(), dentry.name_len);
            issues.add(Issue::DentryName {
                dir,
                cookie,
                reason,
            });
        }
        let shown = Bytes(name.clone());
        let dots = name == b"." || name == b"..";
        if dots || name.contains(&b'/') || name.contains(&0) {
            let name = shown.clone();
            issues.add(Issue::NameInvalid { dir, name });
        }
        let seed = &self.context.superblock.hash_seed;
        if !key::name_cookies(seed, &name).contains(&cookie) {
            let name = shown.clone();
            issues.add(Issue::Cookie { dir, name, cookie });
        }
        let hash = cookie >> DISCRIMINATOR_BITS;
        if hash != directory.hash {
            directory.hash = hash;
            directory.names.clear();
        }
        if directory.names.contains(&name) {
            let name = shown.clone();
            issues.add(Issue::NameTwice { dir, name });
        }
        directory.names.push(name);
        shown
    }

    /// Compares each inode's names with its record and with the orphan list.
    fn check_links(&self, issues: &mut Issues<'_>) {
        if self.table.index(Ino::ROOT).is_none() {
            issues.add(Issue::RootMissing);
        }
        for entry in &self.table.inodes {
            let ino = entry.ino;
            let is_root = ino == Ino::ROOT;
            let orphan = self.table.orphans.contains(&ino);
            let found = u64::from(entry.names);
            if is_root && entry.file_type != DIRECTORY && entry.file_type != 0 {
                issues.add(Issue::RootMissing);
            }
            if orphan && (entry.names > 0 || entry.nlink > 0) {
                let links = found.max(entry.nlink.into());
                issues.add(Issue::OrphanLinked { ino, links });
                continue;
            }
            if entry.names == 0 && !is_root && !orphan {
                issues.add(Issue::NoName { ino });
                continue;
            }
            if entry.file_type == DIRECTORY {
                let most = u64::from(!is_root);
                if found > most {
                    issues.add(Issue::DirectoryNames { dir: ino, found });
                }
                let above = if is_root { Ino::ROOT } else { entry.named_in };
                if !orphan && found <= most && entry.parent != above {
                    issues.add(Issue::Parent {
                        dir: ino,
                        found: above,
                        recorded: entry.parent,
                    });
                }
            } else if entry.file_type != 0 && found != u64::from(entry.nlink) {
                let recorded = entry.nlink;
                issues.add(Issue::Links {
                    ino,
                    found,
                    recorded,
                });
            }
        }
    }

    /// Every directory with a name must lead up to the root, or to one without a name.
    fn check_reach(&self, issues: &mut Issues<'_>) {
        let inodes = &self.table.inodes;
        // By which walk (from 1) a directory was passed.
        let mut passed = vec![0u64; inodes.len()];
        for (walk, first) in (1u64..).zip(0..inodes.len()) {
            let mut at = Some(first);
            while let Some((index, entry)) = at.and_then(|at| Some((at, inodes.get(at)?))) {
                let Some(mark) = passed.get_mut(index) else {
                    break;
                };
                if *mark == walk {
                    // Only what this walk passed can close a circle: older walks led somewhere.
                    issues.add(Issue::Circle { dir: entry.ino });
                }
                let ends = entry.file_type != DIRECTORY
                    || entry.ino == Ino::ROOT
                    || entry.names == 0
                    || *mark != 0;
                *mark = walk;
                if ends {
                    break;
                }
                at = self.table.index(entry.named_in);
            }
        }
    }
}
