//! What a repair did, as it is told.

use crate::format::id::{ChunkId, DatasetId, Ino, Lsn};
use crate::format::key::TreeId;
use crate::fsck::Bytes;
use crate::fsck::issue::code;

/// One thing that was mended, moved or given up. What can be counted again (free space, references
/// to chunks, the index of names, counters) is rebuilt without a word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each variant's message says what its fields are
pub enum Fix {
    // The log and the pages.
    #[error("wal.log: header copy {copy} was written anew")]
    LogHeader { copy: u8 },
    #[error("wal.log: neither header could be used; what the log held may be gone")]
    LogHeadersLost,
    #[error("wal.log was damaged at {at}: what was done after it is gone")]
    LogCut { at: Lsn },
    #[error("tree {tree:?}: {pages} pages could not be used")]
    PagesLost { tree: TreeId, pages: u64 },
    #[error(
        "tree {tree:?}: {records} records were found on pages that nothing pointed to{}",
        old(*.may_be_old)
    )]
    StrayRecords {
        tree: TreeId,
        records: u64,
        may_be_old: bool,
    },

    // Records.
    #[error("tree {tree:?}: {what} was dropped: {reason}")]
    RecordDropped {
        tree: TreeId,
        what: String,
        reason: String,
    },
    #[error("dataset {0} was made anew")]
    DatasetMade(DatasetId),
    #[error("chunk {chunk} was dropped: {reason}")]
    ChunkDropped {
        chunk: ChunkId,
        reason: &'static str,
    },
    #[error("chunk {chunk}: {blocks} damaged blocks were cut out")]
    ChunkCut { chunk: ChunkId, blocks: u64 },

    // Inodes.
    #[error("inode {ino}: its record was made anew from what belongs to it")]
    InodeMade { ino: Ino },
    #[error("inode {ino} was dropped: {reason}")]
    InodeDropped { ino: Ino, reason: &'static str },
    #[error("inode {ino}: {field} was {found}, is {now}")]
    InodeField {
        ino: Ino,
        field: &'static str,
        found: u64,
        now: u64,
    },
    #[error("inode {ino}: extended attribute {name} is gone")]
    XattrLost { ino: Ino, name: Bytes },
    #[error("inode {ino}: bytes {start}..{end} are gone; reading them is an error")]
    ContentLost { ino: Ino, start: u64, end: u64 },
    #[error("inode {ino}: bytes {start}..{end}, beyond its size, were cut off")]
    ContentCut { ino: Ino, start: u64, end: u64 },

    // Names.
    #[error("directory {dir}: {name} was dropped: {reason}")]
    EntryDropped {
        dir: Ino,
        name: Bytes,
        reason: &'static str,
    },
    #[error("directory {dir}: {name} was mended: {what}")]
    EntryMended {
        dir: Ino,
        name: Bytes,
        what: &'static str,
    },
    #[error("the root directory was made anew")]
    RootMade,
    #[error("inode {ino} had no place any more: it is {path} now")]
    Moved { ino: Ino, path: Bytes },
    #[error("inode {ino} has no name and is on the list of orphans again")]
    Orphaned { ino: Ino },
    #[error("inode {ino} was taken off the list of orphans")]
    NotOrphan { ino: Ino },
    #[error("inode {ino} is {path}{}", old(*.may_be_old))]
    Path {
        ino: Ino,
        path: Bytes,
        /// Some of its records may be older than what was lost.
        may_be_old: bool,
    },
}

fn old(may_be_old: bool) -> &'static str {
    if may_be_old {
        "; they may be older than what was lost"
    } else {
        ""
    }
}

impl Fix {
    /// The fix's name for programs, as `ContentLost`.
    #[must_use]
    pub fn code(&self) -> String {
        code(self)
    }
}
