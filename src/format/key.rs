//! Keys of the trees: byte strings that sort in the order of what they name.
//!
//! In a dataset's tree every key begins with an inode number and a kind, so that what belongs to an
//! inode lies together, and inodes stay apart from the dentries that name them.

use siphasher::sip::SipHasher13;
use smallvec::SmallVec;

use super::FormatError;
use super::id::{ChunkId, DatasetId, Ino};

/// A key: at most [`KEY_MAX`] bytes. All but those with a name in them are short, and take no
/// memory of their own.
pub type Key = SmallVec<[u8; KEY_INLINE]>;

/// Bytes of the longest key that a [`Key`] holds in itself: two numbers and a kind fit.
const KEY_INLINE: usize = 24;

/// The longest key in bytes: an xattr name of 255 bytes with its inode, kind and fragment number.
pub const KEY_MAX: usize = 8 + 1 + 1 + 255 + 2;

/// The longest value in bytes that fits beside the longest key, four cells to a 4 KiB page.
pub const VALUE_MAX: usize = 704;

/// Which tree of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TreeId {
    /// Datasets and snapshots: [`super::record::dataset_key`].
    Datasets,
    /// Chunk records by [`ChunkId`]: [`chunk`] keys.
    Chunks,
    /// Chunks by their content, for datasets with deduplication: [`chunk_hash`] keys -> id (u64 LE).
    ChunkHashes,
    /// Free ranges of chunks.dat by start: [`u64_key`] of the first unit -> length in units (u64
    /// LE).
    FreeByStart,
    /// Free ranges of chunks.dat by size: [`free_by_size`] keys -> empty.
    FreeBySize,
    /// Ranges of chunks.dat freed but not yet reusable: [`u64_key`] of the first unit ->
    /// [`super::record::PendingFree`].
    FreePending,
    /// Interned names by hash: see the store's strings module.
    Names,
    /// What snapshots alone keep alive.
    DeadLists,
    /// The tree of a dataset.
    Fs(DatasetId),
}

/// Number of trees whose roots stand in the superblock (all but [`TreeId::Fs`]).
pub const SYSTEM_TREES: usize = 8;

impl TreeId {
    /// The trees rooted in the superblock, in the order of their slots there.
    pub const SYSTEM: [TreeId; SYSTEM_TREES] = [
        TreeId::Datasets,
        TreeId::Chunks,
        TreeId::ChunkHashes,
        TreeId::FreeByStart,
        TreeId::FreeBySize,
        TreeId::FreePending,
        TreeId::Names,
        TreeId::DeadLists,
    ];
}

/// What a key of a dataset's tree names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// [`super::record::InodeRecord`].
    Inode = 0x01,
    /// A fragment of a symlink's target.
    Symlink = 0x02,
    /// Length and first bytes of an xattr's value; further fragments are [`Kind::XattrMore`].
    Xattr = 0x10,
    /// A further fragment of an xattr's value.
    XattrMore = 0x11,
    /// [`super::record::DentryRecord`] by cookie.
    Dentry = 0x20,
    /// [`super::record::ExtentRecord`] by the file offset of its first byte.
    Extent = 0x30,
    /// An unlinked inode that may still be open (below inode 0): empty value.
    Orphan = 0x40,
    /// [`super::record::ProjectUse`] by project id (below inode 0).
    ProjectUse = 0x41,
    /// [`super::record::ProjectLimit`] by project id (below inode 0).
    ProjectLimit = 0x42,
    /// The number below which inodes are counted in their projects (below inode 0).
    ProjectsCounted = 0x43,
}

impl Kind {
    /// All kinds that there are.
    pub const ALL: [Kind; 10] = [
        Kind::Inode,
        Kind::Symlink,
        Kind::Xattr,
        Kind::XattrMore,
        Kind::Dentry,
        Kind::Extent,
        Kind::Orphan,
        Kind::ProjectUse,
        Kind::ProjectLimit,
        Kind::ProjectsCounted,
    ];

    /// What a byte of a key says; `None` when it is of no kind.
    #[must_use]
    pub fn of_byte(byte: u8) -> Option<Kind> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// What a key of a dataset's tree names.
    ///
    /// # Errors
    /// When it is too short, or of no kind that is known.
    pub fn of_key(key: &[u8]) -> Result<Kind, FormatError> {
        let byte = *key.get(8).ok_or(FormatError::Length {
            what: "tree key",
            expected: 9,
            found: key.len(),
        })?;
        Self::of_byte(byte).ok_or(FormatError::Field {
            what: "tree key",
            field: "kind",
            found: byte.into(),
        })
    }
}

/// What every key of a dataset's tree begins with.
fn head(ino: Ino, kind: Kind) -> [u8; 9] {
    let [a, b, c, d, e, f, g, h] = ino.0.to_be_bytes();
    [a, b, c, d, e, f, g, h, kind as u8]
}

fn with(ino: Ino, kind: Kind, parts: &[&[u8]]) -> Key {
    let mut key = Key::from_slice(&head(ino, kind));
    key.reserve(parts.iter().map(|part| part.len()).sum());
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

fn with_u64(ino: Ino, kind: Kind, rest: u64) -> Key {
    let mut bytes = [0; 17];
    bytes[..9].copy_from_slice(&head(ino, kind));
    bytes[9..].copy_from_slice(&rest.to_be_bytes());
    Key::from_slice(&bytes)
}

/// Whether a key of a dataset's tree is of a kind.
#[must_use]
pub fn is_of_kind(key: &[u8], kind: Kind) -> bool {
    key.get(8) == Some(&(kind as u8))
}

/// A key of two big-endian u64.
#[must_use]
pub fn pair(first: u64, second: u64) -> Key {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&first.to_be_bytes());
    bytes[8..].copy_from_slice(&second.to_be_bytes());
    Key::from_slice(&bytes)
}

/// The key of an inode's record.
#[must_use]
pub fn inode(ino: Ino) -> Key {
    Key::from_slice(&head(ino, Kind::Inode))
}

/// The key of fragment `index` of a symlink's target.
#[must_use]
pub fn symlink(ino: Ino, index: u16) -> Key {
    with(ino, Kind::Symlink, &[&index.to_be_bytes()])
}

/// The key of an xattr's first fragment. `name` has at most 255 bytes.
#[must_use]
pub fn xattr(ino: Ino, name: &[u8]) -> Key {
    with(ino, Kind::Xattr, &[name])
}

/// The key of fragment `index` (from 1) of an xattr's value. The name's length stands before it, so
/// that no name's fragments can lie among another's.
#[must_use]
pub fn xattr_more(ino: Ino, name: &[u8], index: u16) -> Key {
    let len = u8::try_from(name.len()).unwrap_or(u8::MAX);
    with(ino, Kind::XattrMore, &[&[len], name, &index.to_be_bytes()])
}

/// The key of a dentry by its cookie.
#[must_use]
pub fn dentry(dir: Ino, cookie: u64) -> Key {
    with_u64(dir, Kind::Dentry, cookie)
}

/// The cookies that a name may have in its directory: those of its hash, which is keyed by the
/// store's random seed so that nobody can choose names that collide. From 65536, below 2^63; 1 and
/// 2 are `.` and `..`.
#[must_use]
pub fn name_cookies(seed: &[u8; 16], name: &[u8]) -> std::ops::Range<u64> {
    let hash = (SipHasher13::new_with_key(seed).hash(name) >> 17).max(1);
    // 65,535 of them: so even the end of the last range is below 2^63.
    (hash << 16)..((hash << 16) | 0xffff)
}

/// The key of an extent by the file offset of its first byte.
#[must_use]
pub fn extent(ino: Ino, offset: u64) -> Key {
    with_u64(ino, Kind::Extent, offset)
}

/// The key of an orphan-list entry.
#[must_use]
pub fn orphan(ino: Ino) -> Key {
    with_u64(Ino(0), Kind::Orphan, ino.0)
}

/// The project id that a key ends with.
///
/// # Errors
/// When the key is shorter than that.
pub fn trailing_u32(key: &[u8]) -> Result<u32, FormatError> {
    key.last_chunk::<4>()
        .map(|bytes| u32::from_be_bytes(*bytes))
        .ok_or(FormatError::Length {
            what: "tree key",
            expected: 4,
            found: key.len(),
        })
}

/// The key of what a project uses.
#[must_use]
pub fn project_use(project: u32) -> Key {
    with(Ino(0), Kind::ProjectUse, &[&project.to_be_bytes()])
}

/// The key of what a project may have.
#[must_use]
pub fn project_limit(project: u32) -> Key {
    with(Ino(0), Kind::ProjectLimit, &[&project.to_be_bytes()])
}

/// The key of the number below which inodes are counted in their projects.
#[must_use]
pub fn projects_counted() -> Key {
    with(Ino(0), Kind::ProjectsCounted, &[])
}

/// The half-open range of all keys of one kind of one inode.
#[must_use]
pub fn kind_range(ino: Ino, kind: Kind) -> (Key, Key) {
    let start = head(ino, kind);
    let mut end = start;
    if let Some(last) = end.last_mut() {
        *last += 1; // no kind is 0xff
    }
    (Key::from_slice(&start), Key::from_slice(&end))
}

/// A key of one big-endian u64.
#[must_use]
pub fn u64_key(value: u64) -> Key {
    Key::from_slice(&value.to_be_bytes())
}

/// The key of a chunk's record.
#[must_use]
pub fn chunk(id: ChunkId) -> Key {
    u64_key(id.0)
}

/// The key of a chunk's entry in [`TreeId::ChunkHashes`].
#[must_use]
pub fn chunk_hash(hash: &[u8; 32]) -> Key {
    Key::from_slice(hash)
}

/// A key of [`TreeId::FreeBySize`]: length first, so that the smallest fit is the next key.
#[must_use]
pub fn free_by_size(len_units: u64, start_unit: u64) -> Key {
    pair(len_units, start_unit)
}

/// The last eight bytes of a key as a number (a cookie, an offset, a unit, an id).
///
/// # Errors
/// When the key is shorter than eight bytes.
pub fn trailing_u64(key: &[u8]) -> Result<u64, FormatError> {
    key.last_chunk::<8>()
        .map(|bytes| u64::from_be_bytes(*bytes))
        .ok_or(FormatError::Length {
            what: "tree key",
            expected: 8,
            found: key.len(),
        })
}
