//! Repair: all that can still be read goes into new trees, is made to fit together there, and takes
//! the place of the old trees at once.
//!
//! Nothing that a tree refers to is overwritten, and the superblock is written last: a repair that is
//! cut off, or finds no room, leaves the store as it was. What can be counted again is: free space,
//! references to chunks, links, the index of names, counters. What lost its name goes to lost+found.
//! Content that is gone is marked, so that reading it is an error and never zeros; and a number of
//! an inode or a chunk is never given to another.
//!
//! In order: the log's headers; what the trees' leaves tell that can be reached (`load`, `trees`),
//! with pages that nothing points to any more for what is missing (`stray`, `found`); the log;
//! chunks; inodes, each with its extents and attributes; directories; names; space. Memory: some
//! hundred bytes for each inode and chunk; pages of new trees are written out on the way.

mod build;
mod chunks;
mod content;
mod datasets;
mod extents;
mod family;
mod fix;
mod found;
mod hashes;
mod inodes;
mod kin;
mod lenient;
mod load;
mod missed;
mod namespace;
mod salvaged;
mod space;
mod stray;
#[cfg(test)]
mod tests;
mod trees;

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

pub use fix::Fix;

use super::pages::Range;
use super::{Bytes, Options, is_unknown};
use crate::disk::Media;
use crate::format::id::{DatasetId, Ino};
use crate::format::key::{self, TreeId};
use crate::format::record::{DentryRecord, Time};
use crate::format::superblock::RO_COMPAT_KNOWN;
use crate::log::Change;
use crate::store::{StoreError, superblock};
use build::Builder;
use inodes::Inodes;
use load::Loaded;
use salvaged::{Old, Salvaged};

/// The largest file.
const SIZE_MAX: u64 = i64::MAX.unsigned_abs();

/// Why nothing was repaired: the store is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The store is of a version, or has features, that this program does not know.
    #[error("{0}: use a razorfs that knows it")]
    Unknown(StoreError),
    /// The superblock says where everything is.
    #[error("neither copy of the superblock can be used: put back a copy of the file ({0})")]
    Superblock(StoreError),
    /// The disk refused, or has no room for new trees beside the old.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where fixes go, and what is remembered for telling paths.
struct Fixes<'a> {
    report: &'a mut dyn FnMut(&Fix),
    count: u64,
    /// Inodes of a dataset that lost something.
    harmed: BTreeSet<Ino>,
    /// Those of which a record may be older than what was lost.
    old: Old,
}

impl Fixes<'_> {
    fn add(&mut self, fix: Fix) {
        match &fix {
            Fix::ContentLost { ino, .. } | Fix::XattrLost { ino, .. } | Fix::InodeMade { ino } => {
                self.harmed.insert(*ino);
            }
            _ => {}
        }
        self.count += 1;
        (self.report)(&fix);
    }

    /// A record that could not be kept.
    fn dropped(&mut self, tree: TreeId, what: String, reason: impl std::fmt::Display) {
        let reason = reason.to_string();
        self.add(Fix::RecordDropped { tree, what, reason });
    }
}

/// Repairs a store, and reports each fix as it is made. Durable on return; the number of fixes. With
/// [`Options::data`] all content is read, and what does not match its checksums is marked as lost.
///
/// # Errors
/// When nothing could be done; the store then is what it was.
pub fn repair(
    media: &Media,
    options: Options<'_>,
    report: &mut dyn FnMut(&Fix),
) -> Result<u64, RepairError> {
    let found = superblock::read(&*media.superblock).map_err(|error| match is_unknown(&error) {
        true => RepairError::Unknown(error),
        false => RepairError::Superblock(error),
    })?;
    if found.superblock.ro_compat & !RO_COMPAT_KNOWN != 0 {
        let error = StoreError::ReadOnly("the store has features that are not known here".into());
        return Err(RepairError::Unknown(error));
    }
    // The log is read whatever it says: a store that needs this may not be what it says.
    let superblock = superblock::begin_use(&*media.superblock, &found)?;
    let mut fixes = Fixes {
        report,
        count: 0,
        harmed: BTreeSet::new(),
        old: Old::default(),
    };
    let fixes = &mut fixes;
    let progress = options.progress();
    let loaded = load::load(media, &superblock, options.cache_bytes, &progress, fixes)?;
    let Loaded {
        mut builder,
        walker,
        log,
        mut data,
        salvaged,
        ..
    } = loaded;
    let datasets = datasets::check(&mut builder, fixes)?;
    progress.begin("mending content", 0);
    let mut chunks = chunks::check(&mut builder, options.data, fixes)?;
    progress.begin("mending datasets", datasets.len() as u64);
    for id in datasets.iter().copied() {
        progress.add(1);
        let tree = TreeId::Fs(id);
        let lost: Vec<Range> = walker
            .lost
            .iter()
            .filter(|lost| lost.tree == tree)
            .map(|lost| lost.range.clone())
            .collect();
        fixes.old = salvaged.get(&tree).map(Salvaged::old).unwrap_or_default();
        fixes.harmed = fixes.old.all();
        let mut inodes = inodes::check(&mut builder, tree, &mut chunks, &lost, fixes)?;
        let next_ino = datasets::next_ino(&builder, id)?;
        let next_ino = namespace::check(&mut builder, tree, &mut inodes, next_ino, fixes)?;
        datasets::set_counters(&mut builder, id, &inodes, next_ino)?;
        tell_paths(&builder, tree, &inodes, fixes)?;
        data.retain(|change| has_file(change, id, &inodes));
    }
    progress.begin("writing the new trees", 0);
    chunks.finish(&mut builder)?;
    space::rebuild(&mut builder, &mut chunks)?;
    hashes::rebuild(&mut builder, &datasets)?;
    builder.publish(log, data)?;
    Ok(fixes.count)
}

/// Whether file bytes of the log have a file to go to, or are another dataset's.
fn has_file(change: &Change, id: DatasetId, inodes: &Inodes) -> bool {
    let (Change::Data { dataset, ino, .. } | Change::DataClear { dataset, ino, .. }) = change
    else {
        return false;
    };
    let entry = inodes.get(*ino);
    *dataset != id || entry.is_some_and(|entry| entry.file_type == super::inode::REGULAR)
}

/// Says where the inodes are that lost something.
fn tell_paths(
    builder: &Builder,
    tree: TreeId,
    inodes: &Inodes,
    fixes: &mut Fixes<'_>,
) -> Result<(), StoreError> {
    let view = builder.view();
    for ino in std::mem::take(&mut fixes.harmed) {
        let mut path = Vec::new();
        let mut at = ino;
        // Directories lead up to the root: circles were broken.
        while let Some(entry) = inodes.get(at).filter(|entry| entry.names > 0) {
            let (dir, cookie) = entry.named_in;
            let value = view.get(tree, &key::dentry(dir, cookie))?;
            let Some(Ok(dentry)) = value.map(|value| DentryRecord::decode(&value)) else {
                break;
            };
            path.splice(0..0, [b"/", view.name(dentry.name)?.as_slice()].concat());
            at = dir;
        }
        if !path.is_empty() {
            let path = Bytes(path);
            let may_be_old = fixes.old.has(ino);
            fixes.add(Fix::Path {
                ino,
                path,
                may_be_old,
            });
        }
    }
    Ok(())
}

fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = since.unwrap_or_default();
    Time {
        sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nsec: since.subsec_nanos(),
    }
}
