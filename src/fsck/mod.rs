//! The checker: reads everything in a store and says what does not fit together. Writes nothing.
//!
//! It sees the store as recovery would leave it: the log is applied in memory. Pages are checked as
//! they lie on disk; records in the trees as the log leaves them. It uses log, store, disk and
//! format but never engine, so that it shares no bug with what it checks.
//!
//! Memory: bits for pages, about fifty bytes for an inode and for a chunk, sixteen for a name;
//! trees are streamed. When a part cannot be read, what could only be concluded from the whole (a
//! leak, a link count) is not claimed.

mod chunks;
mod content;
mod datasets;
mod hashes;
mod inode;
mod inodes;
mod issue;
mod log;
mod names;
mod namespace;
mod pages;
mod projects;
mod repair;
mod shared;
mod space;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;

pub use issue::{Bytes, Issue, Severity};
pub use repair::{Fix, RepairError, repair};

use crate::disk::Media;
use crate::format::FormatError;
use crate::format::key::TreeId;
use crate::format::superblock::Superblock;
use crate::log::{View, recovery};
use crate::progress::Progress;
use crate::store::strings::UsedNames;
use crate::store::{Read, StoreError, superblock};

/// How far to check.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// Read all file content and check it against its checksums.
    pub data: bool,
    /// Bytes of memory for tree pages.
    pub cache_bytes: u64,
    /// Where to count how far it is.
    pub progress: Option<&'a Progress>,
}

impl Options<'_> {
    fn progress(&self) -> Progress {
        self.progress.cloned().unwrap_or_default()
    }
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options {
            data: false,
            cache_bytes: 64 << 20,
            progress: None,
        }
    }
}

/// What was looked at and how much was wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Issues of [`Severity::Error`].
    pub errors: u64,
    /// Issues of [`Severity::Warning`].
    pub warnings: u64,
    /// Tree pages.
    pub pages: u64,
    /// Datasets and snapshots.
    pub datasets: u64,
    /// Inodes.
    pub inodes: u64,
    /// Directory entries.
    pub dentries: u64,
    /// Extents.
    pub extents: u64,
    /// Chunks.
    pub chunks: u64,
    /// Interned names.
    pub names: u64,
    /// Bytes of file content that were read.
    pub content_bytes: u64,
    /// Transactions that the log holds beyond the checkpoint.
    pub log_transactions: u64,
}

impl Summary {
    /// Counts what a dataset has.
    fn count(&mut self, table: &inodes::Table) {
        self.inodes += table.inodes.len() as u64;
        self.dentries += table.dentries;
        self.extents += table.extents;
    }
}

/// Why nothing could be checked.
#[derive(Debug, thiserror::Error)]
pub enum FsckError {
    /// The store is of a version, or has features, that this program does not know.
    #[error(transparent)]
    Unknown(StoreError),
}

/// All that is wrong with a store, content included, as text.
///
/// # Errors
/// As [`check`].
pub fn errors(media: &Media) -> Result<Vec<String>, FsckError> {
    let mut found = Vec::new();
    let options = Options {
        data: true,
        ..Options::default()
    };
    check(media, options, &mut |issue| {
        if issue.severity() == Severity::Error {
            found.push(issue.to_string());
        }
    })?;
    Ok(found)
}

/// Where issues go, counted.
struct Issues<'a> {
    report: &'a mut dyn FnMut(&Issue),
    summary: Summary,
}

impl Issues<'_> {
    /// How many there were.
    fn found(&self) -> u64 {
        self.summary.errors + self.summary.warnings
    }

    fn add(&mut self, issue: Issue) {
        match issue.severity() {
            Severity::Error => self.summary.errors += 1,
            Severity::Warning => self.summary.warnings += 1,
        }
        (self.report)(&issue);
    }

    fn bad_record(&mut self, tree: TreeId, what: impl Into<String>, error: &FormatError) {
        let (what, reason) = (what.into(), error.to_string());
        self.add(Issue::BadRecord { tree, what, reason });
    }
}

/// What every pass gets.
struct Context<'a> {
    view: &'a View,
    media: &'a Media,
    superblock: &'a Superblock,
    data: bool,
    trees: Trees,
    progress: &'a Progress,
    /// There was anything in the log.
    has_log: bool,
    /// The names that can be found; `None` when nobody knows.
    known_names: Option<UsedNames>,
}

impl Context<'_> {
    /// The newest checkpoint that anything in the store may name: the log goes on behind the
    /// checkpoint on disk, and a crash may have come while the next one was written.
    fn newest_generation(&self) -> u64 {
        let step = crate::log::recovery::GENERATION_STEP_MAX;
        self.superblock.generation.0.saturating_add(step)
    }
}

/// Checks everything and reports each issue as it is found.
///
/// # Errors
/// [`FsckError::Unknown`] when the store is newer than this program: nothing was checked then.
pub fn check(
    media: &Media,
    options: Options<'_>,
    report: &mut dyn FnMut(&Issue),
) -> Result<Summary, FsckError> {
    check_how(media, options, Trees::Shared, report)
}

/// How trees are checked of which one goes on from the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trees {
    /// What they share once.
    Shared,
    /// Each as if there were no other: to compare with.
    #[cfg(test)]
    Alone,
}

/// As [`check`].
fn check_how(
    media: &Media,
    options: Options<'_>,
    trees: Trees,
    report: &mut dyn FnMut(&Issue),
) -> Result<Summary, FsckError> {
    let mut issues = Issues {
        report,
        summary: Summary::default(),
    };
    let found = match superblock::read(&*media.superblock) {
        Ok(found) => found,
        Err(error) if is_unknown(&error) => return Err(FsckError::Unknown(error)),
        Err(error) => {
            let reason = format!("neither copy of the superblock can be used: {error}");
            issues.add(Issue::Unopenable { reason });
            return Ok(issues.summary);
        }
    };
    let progress = &options.progress();
    pages::check(media, &found.superblock, progress, &mut issues);
    progress.begin("applying the log", 0);
    match recovery::open_read_only(media.clone(), options.cache_bytes) {
        Ok((view, opened)) => {
            log::check(media, &found, &opened.report, &mut issues);
            let context = Context {
                view: &view,
                media,
                superblock: &found.superblock,
                data: options.data,
                trees,
                progress,
                has_log: opened.report.batches > 0,
                known_names: names::known(&view),
            };
            check_records(&context, &mut issues);
        }
        Err(error) if is_unknown(&error) => return Err(FsckError::Unknown(error)),
        Err(error) => {
            let reason = error.to_string();
            issues.add(Issue::Unopenable { reason });
        }
    }
    Ok(issues.summary)
}

/// Checks the records in the trees: what they say, and what they say of one another.
fn check_records(context: &Context<'_>, issues: &mut Issues<'_>) {
    context.progress.begin("checking records", 0);
    let datasets = datasets::load(context, issues);
    let mut chunks = chunks::load(context, issues);
    let stored = chunks.chunks.iter();
    let stored_bytes = stored.map(|chunk| u64::from(chunk.stored_len)).sum();
    let complete = datasets.complete && chunks.complete;
    let complete = shared::check(context, &datasets, &mut chunks, issues) && complete;
    if complete {
        chunks::check_references(&chunks, issues);
    }
    let recorded = datasets.complete.then_some(space::Recorded {
        used: datasets.units_used,
        punched: datasets.units_punched,
    });
    space::check(context, chunks, recorded, issues);
    hashes::check(context, issues);
    names::check(context, issues);
    if context.data {
        context
            .progress
            .begin("reading content, bytes", stored_bytes);
        content::check(context, issues);
    }
}

/// Whether the store is of a version or has features that this program does not know.
fn is_unknown(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Format {
            source: FormatError::Version { .. } | FormatError::Feature { .. },
            ..
        }
    )
}

/// Gets the records of a tree in order.
type Visit<'a> = dyn FnMut(&mut Issues<'_>, &[u8], &[u8]) + 'a;

/// Beyond every key.
const KEYS_END: [u8; 300] = [0xff; 300];

/// Visits the records of a range of a tree; false when it could not be read to its end, which is
/// reported.
fn walk(
    context: &Context<'_>,
    tree: TreeId,
    start: &[u8],
    end: &[u8],
    issues: &mut Issues<'_>,
    visit: &mut Visit<'_>,
) -> bool {
    let result = context.view.scan(tree, start, end, &mut |key, value| {
        context.progress.add(1);
        visit(issues, key, value);
        ControlFlow::Continue(())
    });
    match result {
        Ok(()) => true,
        Err(error) => {
            let reason = error.to_string();
            issues.add(Issue::TreeUnreadable { tree, reason });
            false
        }
    }
}

/// [`walk`] over a whole tree.
fn walk_all(
    context: &Context<'_>,
    tree: TreeId,
    issues: &mut Issues<'_>,
    visit: &mut Visit<'_>,
) -> bool {
    walk(context, tree, &[], &KEYS_END, issues, visit)
}

/// A big-endian number at the start of a key, and what follows it.
fn split_u64(key: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = key.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), rest))
}
