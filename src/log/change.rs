//! What a transaction did, as the log carries it.

use crate::format::FormatError;
use crate::format::id::{DatasetId, Generation, Ino, NameId};
use crate::format::key::{Key, TreeId};
use crate::format::name::NAME_MAX;
use crate::format::wal::{Decoder, Encoder};

/// One change. Applying a transaction's changes in order is all that run time and recovery do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Inserts or replaces a value.
    Put {
        /// The tree.
        tree: TreeId,
        /// The key.
        key: Key,
        /// The value, at most [`crate::format::key::VALUE_MAX`] bytes.
        value: Vec<u8>,
    },
    /// Removes a key that is there.
    Delete {
        /// The tree.
        tree: TreeId,
        /// The key.
        key: Key,
    },
    /// Gives a name its place in strings.dat.
    Intern {
        /// The place.
        id: NameId,
        /// The name, 1 to 255 bytes.
        name: Vec<u8>,
    },
    /// File bytes that live in the log until a checkpoint writes them to a chunk.
    Data {
        /// The dataset.
        dataset: DatasetId,
        /// The file.
        ino: Ino,
        /// Offset in the file of the first byte.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// File bytes logged before in `offset..offset + len` no longer count: a chunk, a hole or a
    /// truncation took their place.
    DataClear {
        /// The dataset.
        dataset: DatasetId,
        /// The file.
        ino: Ino,
        /// First byte of the range.
        offset: u64,
        /// Length of the range; `u64::MAX` reaches to the end of any file.
        len: u64,
    },
    /// The tree of a dataset becomes that of a new one too.
    CopyTree {
        /// Whose tree.
        from: DatasetId,
        /// The new dataset, whose record was put before.
        to: DatasetId,
        /// What was born so far was born in this checkpoint or before; what comes behind, later.
        birth: Generation,
    },
}

/// File bytes in one change, at most: what one small fsync carries.
pub const DATA_MAX_BYTES: usize = 1 << 20;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const INTERN: u8 = 3;
const DATA: u8 = 4;
const DATA_CLEAR: u8 = 5;
const COPY_TREE: u8 = 6;

/// Bytes of a change's kind and tree, at most.
const HEAD_MAX_BYTES: usize = 1 + 9;

/// What a transaction did so far, as the log will carry it.
#[derive(Debug, Default)]
pub struct Changes {
    bytes: Vec<u8>,
    count: u32,
}

impl Changes {
    /// Bytes of memory that are kept for the next transaction: more than most ever have.
    const KEPT_BYTES: usize = 64 << 10;

    /// Forgets all of them. The memory stays for the next ones, up to a bound.
    pub fn clear(&mut self) {
        self.count = 0;
        self.bytes.clear();
        self.bytes.shrink_to(Self::KEPT_BYTES);
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// All of them, one behind the other.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Begins a change of `most` bytes behind its kind and its tree, at most.
    fn begin(&mut self, kind: u8, most: usize) -> Encoder<'_> {
        self.count = self.count.saturating_add(1);
        self.bytes.reserve(HEAD_MAX_BYTES.saturating_add(most));
        let mut to = Encoder(&mut self.bytes);
        to.u8(kind);
        to
    }

    /// Adds a [`Change::Put`].
    pub fn put(&mut self, tree: TreeId, key: &[u8], value: &[u8]) {
        let mut to = self.begin(PUT, 8 + key.len() + value.len());
        to.tree(tree);
        to.bytes(key);
        to.bytes(value);
    }

    /// Adds a [`Change::Delete`].
    pub fn delete(&mut self, tree: TreeId, key: &[u8]) {
        let mut to = self.begin(DELETE, 4 + key.len());
        to.tree(tree);
        to.bytes(key);
    }

    /// Adds a [`Change::Intern`].
    pub fn intern(&mut self, id: NameId, name: &[u8]) {
        let mut to = self.begin(INTERN, 12 + name.len());
        to.u64(id.0);
        to.bytes(name);
    }

    /// Adds a [`Change::Data`].
    pub fn data(&mut self, dataset: DatasetId, ino: Ino, offset: u64, bytes: &[u8]) {
        let mut to = self.begin(DATA, 28 + bytes.len());
        to.u64(dataset.0);
        to.u64(ino.0);
        to.u64(offset);
        to.bytes(bytes);
    }

    /// Adds a [`Change::DataClear`].
    pub fn data_clear(&mut self, dataset: DatasetId, ino: Ino, offset: u64, len: u64) {
        let mut to = self.begin(DATA_CLEAR, 32);
        to.u64(dataset.0);
        to.u64(ino.0);
        to.u64(offset);
        to.u64(len);
    }

    /// Adds a [`Change::CopyTree`].
    pub fn copy_tree(&mut self, from: DatasetId, to: DatasetId, birth: Generation) {
        let mut to_log = self.begin(COPY_TREE, 24);
        to_log.u64(from.0);
        to_log.u64(to.0);
        to_log.u64(birth.0);
    }

    /// Adds a change.
    pub fn push(&mut self, change: &Change) {
        match change {
            Change::Put { tree, key, value } => self.put(*tree, key, value),
            Change::Delete { tree, key } => self.delete(*tree, key),
            Change::Intern { id, name } => self.intern(*id, name),
            Change::Data {
                dataset,
                ino,
                offset,
                bytes,
            } => self.data(*dataset, *ino, *offset, bytes),
            Change::DataClear {
                dataset,
                ino,
                offset,
                len,
            } => self.data_clear(*dataset, *ino, *offset, *len),
            Change::CopyTree { from, to, birth } => self.copy_tree(*from, *to, *birth),
        }
    }
}

impl Change {
    /// Reads all changes of a transaction.
    ///
    /// # Errors
    /// When the bytes are not exactly `count` changes.
    pub fn decode_all(bytes: &[u8], count: u32) -> Result<Vec<Change>, FormatError> {
        let mut from = Decoder(bytes);
        let mut changes = Vec::new();
        for _ in 0..count {
            changes.push(Self::decode(&mut from)?);
        }
        if !from.is_done() {
            let found = bytes.len();
            return Err(FormatError::Length {
                what: "log changes",
                expected: 0,
                found,
            });
        }
        Ok(changes)
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Change, FormatError> {
        Ok(match from.u8()? {
            PUT => Change::Put {
                tree: from.tree()?,
                key: Key::from_slice(from.key()?),
                value: from.value()?.to_vec(),
            },
            DELETE => Change::Delete {
                tree: from.tree()?,
                key: Key::from_slice(from.key()?),
            },
            INTERN => Change::Intern {
                id: NameId(from.u64()?),
                name: from.bytes(NAME_MAX)?.to_vec(),
            },
            DATA => Change::Data {
                dataset: DatasetId(from.u64()?),
                ino: Ino(from.u64()?),
                offset: from.u64()?,
                bytes: from.bytes(DATA_MAX_BYTES)?.to_vec(),
            },
            DATA_CLEAR => Change::DataClear {
                dataset: DatasetId(from.u64()?),
                ino: Ino(from.u64()?),
                offset: from.u64()?,
                len: from.u64()?,
            },
            COPY_TREE => Change::CopyTree {
                from: DatasetId(from.u64()?),
                to: DatasetId(from.u64()?),
                birth: Generation(from.u64()?),
            },
            other => {
                let (what, field) = ("log change", "kind");
                return Err(FormatError::Field {
                    what,
                    field,
                    found: other.into(),
                });
            }
        })
    }
}
