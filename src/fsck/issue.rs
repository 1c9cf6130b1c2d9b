//! What a check can find. Each issue has a test that plants exactly it.

use crate::format::id::{ChunkId, DatasetId, Generation, Ino, Lsn, NameId, PageNo};
use crate::format::key::{Kind, TreeId};

/// How bad an issue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; nothing is lost and nothing will be.
    Warning,
    /// The store is not what it should be.
    Error,
}

/// Bytes for people: printable ASCII as it is, the rest escaped.
#[derive(Clone, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each variant's message says what its fields are
pub enum Issue {
    // Superblock and log.
    /// `certain`: nothing was being written, so it is no write that a power cut tore.
    #[error("superblock copy {copy} cannot be used: {reason}{}", torn(*.certain))]
    SuperblockCopy {
        copy: u8,
        reason: String,
        certain: bool,
    },
    #[error("wal.log header copy {copy} cannot be used: {reason}{}", torn(*.certain))]
    LogHeaderCopy {
        copy: u8,
        reason: String,
        certain: bool,
    },
    #[error(
        "wal.log is damaged at {at}: everything before {durable} had been acknowledged; what was \
         done after {at} is lost ('razorfs recover --discard-damaged-log' goes on without it)"
    )]
    LogDamaged { at: Lsn, durable: Lsn },
    #[error("the store says that it was closed, but {reason}")]
    LogOfClosed { reason: String },
    #[error("the store cannot be opened: {reason}")]
    Unopenable { reason: String },

    // Pages of the newest checkpoint.
    #[error("tree {tree:?}: page {page}: {reason}")]
    PageUnreadable {
        tree: TreeId,
        page: PageNo,
        reason: String,
    },
    #[error("tree {tree:?}: page {page} has level {found}, its parent says {expected}")]
    PageLevel {
        tree: TreeId,
        page: PageNo,
        expected: u8,
        found: u8,
    },
    #[error("tree {tree:?}: page {page} has the key {key}, which belongs elsewhere in the tree")]
    PageKey {
        tree: TreeId,
        page: PageNo,
        key: Bytes,
    },
    #[error("tree {tree:?}: page {page} is empty")]
    PageEmpty { tree: TreeId, page: PageNo },
    #[error("tree {tree:?}: page {page} is part of a tree already")]
    PageTwice { tree: TreeId, page: PageNo },
    #[error("tree {tree:?}: page {page} lies beyond the {end} pages that were ever used")]
    PageBeyondEnd {
        tree: TreeId,
        page: PageNo,
        end: PageNo,
    },
    #[error("tree {tree:?}: page {page} is of checkpoint {found}, what points to it of {newest}")]
    PageGeneration {
        tree: TreeId,
        page: PageNo,
        found: Generation,
        newest: Generation,
    },
    #[error("the trees have {found} pages, the superblock says {recorded}")]
    PageCount { found: u64, recorded: u64 },

    // Trees as the log leaves them.
    #[error("tree {tree:?}: {reason}; what lies behind was not checked")]
    TreeUnreadable { tree: TreeId, reason: String },
    #[error("tree {tree:?}: the key {key} means nothing")]
    UnknownKey { tree: TreeId, key: Bytes },
    #[error("tree {tree:?}: {what}: {reason}")]
    BadRecord {
        tree: TreeId,
        what: String,
        reason: String,
    },

    // Datasets.
    #[error("there is no dataset {0}")]
    DatasetMissing(DatasetId),
    #[error("dataset {dataset} cannot be found by its name {name:?}")]
    DatasetName { dataset: DatasetId, name: String },
    #[error(
        "the dataset name {name} leads to dataset {id}, which has another name or is not there"
    )]
    DatasetNameStray { name: Bytes, id: DatasetId },
    #[error("lineage without a dataset {0}")]
    LineageStray(DatasetId),
    #[error("lineage of dataset {dataset}: {reason}")]
    Lineage {
        dataset: DatasetId,
        reason: &'static str,
    },
    #[error("history of dataset {dataset}: {reason}")]
    History {
        dataset: DatasetId,
        reason: &'static str,
    },
    #[error("dataset {0} has no counters")]
    CountersMissing(DatasetId),
    #[error("counters without a dataset {0}")]
    CountersStray(DatasetId),
    #[error("dataset {dataset}: {found} {what}, its counters say {recorded}")]
    Counter {
        dataset: DatasetId,
        what: &'static str,
        found: u64,
        recorded: u64,
    },
    #[error("dataset {dataset}: project {project} has {found} {what}, {recorded} are recorded")]
    ProjectUse {
        dataset: DatasetId,
        project: u32,
        what: &'static str,
        found: u64,
        recorded: u64,
    },
    #[error("dataset {dataset}: the next inode would be {next}, but inode {largest} is in use")]
    NextInode {
        dataset: DatasetId,
        next: u64,
        largest: Ino,
    },

    // Inodes.
    #[error("inode {ino}: has records ({kind:?}), but does not exist")]
    InodeMissing { ino: Ino, kind: Kind },
    #[error("inode {ino}: {field} is {found:#o}")]
    InodeMode {
        ino: Ino,
        field: &'static str,
        found: u32,
    },
    #[error("inode {ino}: {field} is {found}, which an inode of its type does not have")]
    InodeField {
        ino: Ino,
        field: &'static str,
        found: u64,
    },
    #[error("inode {ino}: its type does not have records of kind {kind:?}")]
    WrongKind { ino: Ino, kind: Kind },
    #[error("inode {ino}: the symlink's target has {found} bytes, its size is {recorded}")]
    SymlinkLength { ino: Ino, found: u64, recorded: u64 },
    #[error("inode {ino}: the symlink's fragments are not in sequence at {index}")]
    SymlinkFragment { ino: Ino, index: u16 },
    #[error("inode {ino}: {found} extended attributes, its record says {recorded}")]
    XattrCount { ino: Ino, found: u64, recorded: u32 },
    #[error(
        "inode {ino}: extended attribute {name}: fragment {index} is missing, stray or of a wrong length"
    )]
    XattrFragment { ino: Ino, name: Bytes, index: u16 },
    #[error("inode {ino}: extents of {found} bytes, its record says {recorded}")]
    Allocated { ino: Ino, found: u64, recorded: u64 },

    // Names and links.
    #[error("directory {dir}: {name} names inode {ino}, which does not exist")]
    DentryInode { dir: Ino, name: Bytes, ino: Ino },
    #[error("directory {dir}: {name} says type {recorded}, inode {ino} is of type {found}")]
    DentryType {
        dir: Ino,
        name: Bytes,
        ino: Ino,
        recorded: u8,
        found: u8,
    },
    #[error("directory {dir}: the name of entry {cookie:#x} cannot be read: {reason}")]
    DentryName {
        dir: Ino,
        cookie: u64,
        reason: String,
    },
    #[error("directory {dir}: {name} is no name a directory can have")]
    NameInvalid { dir: Ino, name: Bytes },
    #[error("directory {dir}: {name} cannot be found: its cookie {cookie:#x} is not of its hash")]
    Cookie { dir: Ino, name: Bytes, cookie: u64 },
    #[error("directory {dir}: {name} is there twice")]
    NameTwice { dir: Ino, name: Bytes },
    #[error("directory {dir}: {found} entries, its record says {recorded}")]
    Entries { dir: Ino, found: u64, recorded: u64 },
    #[error("inode {ino}: {found} links, its record says {recorded}")]
    Links { ino: Ino, found: u64, recorded: u32 },
    #[error("directory {dir} is in directory {found}, its record says {recorded}")]
    Parent { dir: Ino, found: Ino, recorded: Ino },
    #[error("directory {dir} has {found} names")]
    DirectoryNames { dir: Ino, found: u64 },
    #[error("directory {dir} cannot be reached: it lies below itself")]
    Circle { dir: Ino },
    #[error("inode {ino} has no name and is not on the orphan list")]
    NoName { ino: Ino },
    #[error("inode {ino} is on the orphan list, but has {links} links")]
    OrphanLinked { ino: Ino, links: u64 },
    #[error("inode {ino} is on the orphan list, but does not exist")]
    OrphanMissing { ino: Ino },
    #[error("there is no root directory")]
    RootMissing,

    // Extents and chunks.
    #[error("inode {ino}: the extent at {offset} begins before the one before it ends, at {end}")]
    ExtentOverlap { ino: Ino, offset: u64, end: u64 },
    #[error("inode {ino}: the extent at {offset} of {len} bytes ends beyond any file")]
    ExtentRange { ino: Ino, offset: u64, len: u64 },
    #[error("inode {ino}: the extent at {offset} of {len} bytes has data beyond the size {size}")]
    ExtentBeyondSize {
        ino: Ino,
        offset: u64,
        len: u64,
        size: u64,
    },
    #[error("inode {ino}: the extent at {offset} is in chunk {chunk}, which does not exist")]
    ExtentChunk {
        ino: Ino,
        offset: u64,
        chunk: ChunkId,
    },
    #[error(
        "inode {ino}: the extent at {offset} takes bytes {start}..{end} of chunk {chunk}, which has {len}"
    )]
    ExtentSlice {
        ino: Ino,
        offset: u64,
        chunk: ChunkId,
        start: u64,
        end: u64,
        len: u32,
    },
    #[error("inode {ino}: bytes {offset}..{end} were lost to damage; reading them is an error")]
    ContentLost { ino: Ino, offset: u64, end: u64 },
    #[error("inode {ino}: the extent at {offset} was born in checkpoint {birth}, which is to come")]
    ExtentBirth {
        ino: Ino,
        offset: u64,
        birth: Generation,
    },
    #[error("chunk {chunk}: {found} extents refer to it, its record says {recorded}")]
    Refcount {
        chunk: ChunkId,
        found: u64,
        recorded: u64,
    },
    #[error("chunk {chunk} is entered for a content that it does not have, or is not there")]
    ChunkHashEntry { chunk: ChunkId },
    #[error("chunk {chunk}: nothing refers to it")]
    ChunkUnused { chunk: ChunkId },
    #[error("chunk {chunk}: it ends at byte {end} of chunks.dat, which has {length}")]
    ChunkBeyondFile {
        chunk: ChunkId,
        end: u64,
        length: u64,
    },

    // Space of chunks.dat.
    #[error("chunks.dat: units {start}..{end} belong to {first} and to {second}")]
    SpaceOverlap {
        start: u64,
        end: u64,
        first: String,
        second: String,
    },
    #[error("chunks.dat: units {start}..{end} are neither used nor free")]
    SpaceLeak { start: u64, end: u64 },
    #[error("chunks.dat: {what} lies beyond the end of all space")]
    SpaceBeyondEnd { what: String },
    #[error("chunks.dat: {found} units are not free, {recorded} are recorded")]
    UnitsUsed { found: u64, recorded: u64 },
    #[error("chunks.dat: {found} units are punched, {recorded} are recorded")]
    UnitsPunched { found: u64, recorded: u64 },
    #[error("chunks.dat: free range {start} of {len} units is known by its {known} only")]
    FreeTrees {
        start: u64,
        len: u64,
        known: &'static str,
    },
    #[error("chunks.dat: free ranges before and after unit {at} are not one")]
    FreeNeighbours { at: u64 },
    #[error(
        "chunks.dat: the range at {start} was freed in checkpoint {generation}, which is to come"
    )]
    PendingGeneration { start: u64, generation: Generation },

    // Interned names.
    #[error("strings.dat: name {id}: {reason}")]
    NameDamaged { id: NameId, reason: String },
    #[error("strings.dat: name {id} is used, and is not among the names that can be found")]
    NameUnknown { id: NameId },
    #[error("strings.dat: name {id} begins before the one before it ends")]
    NameOverlap { id: NameId },
    #[error("strings.dat: name {id} cannot be found: its hash is another")]
    NameHash { id: NameId },
    #[error("strings.dat: names {first} and {second} are the same")]
    NameAgain { first: NameId, second: NameId },

    // File content, with --data.
    #[error("chunk {chunk}: {reason}")]
    ChunkUnreadable { chunk: ChunkId, reason: String },
    #[error("chunk {chunk}: bytes {start}..{end} do not match their checksum")]
    ChunkBlock {
        chunk: ChunkId,
        start: u64,
        end: u64,
    },
    #[error("chunk {chunk}: its content does not match its BLAKE3 hash")]
    ChunkHash { chunk: ChunkId },
}

fn torn(certain: bool) -> &'static str {
    if certain {
        ""
    } else {
        " (maybe torn by a power cut; the other copy counts, and the next checkpoint mends it)"
    }
}

impl Issue {
    /// How bad it is.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Issue::SuperblockCopy { certain: false, .. }
            | Issue::LogHeaderCopy { certain: false, .. }
            | Issue::PageCount { .. }
            | Issue::ContentLost { .. }
            | Issue::FreeNeighbours { .. }
            | Issue::NameAgain { .. } => Severity::Warning,
            _ => Severity::Error,
        }
    }

    /// The issue's name for programs, as `PageUnreadable`.
    #[must_use]
    pub fn code(&self) -> String {
        code(self)
    }
}

/// The name of a variant.
pub(super) fn code(of: &impl std::fmt::Debug) -> String {
    format!("{of:?}")
        .chars()
        .take_while(char::is_ascii_alphanumeric)
        .collect()
}
