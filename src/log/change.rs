//! What a transaction did, as the log carries it.

use crate::format::FormatError;
use crate::format::id::{DatasetId, Ino, NameId};
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
}

/// File bytes in one change, at most: what one small fsync carries.
pub const DATA_MAX_BYTES: usize = 1 << 20;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const INTERN: u8 = 3;
const DATA: u8 = 4;
const DATA_CLEAR: u8 = 5;

impl Change {
    /// Appends the change as the log carries it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut to = Encoder(out);
        match self {
            Change::Put { tree, key, value } => {
                to.u8(PUT);
                to.tree(*tree);
                to.bytes(key);
                to.bytes(value);
            }
            Change::Delete { tree, key } => {
                to.u8(DELETE);
                to.tree(*tree);
                to.bytes(key);
            }
            Change::Intern { id, name } => {
                to.u8(INTERN);
                to.u64(id.0);
                to.bytes(name);
            }
            Change::Data {
                dataset,
                ino,
                offset,
                bytes,
            } => {
                to.u8(DATA);
                to.u64(dataset.0);
                to.u64(ino.0);
                to.u64(*offset);
                to.bytes(bytes);
            }
            Change::DataClear {
                dataset,
                ino,
                offset,
                len,
            } => {
                to.u8(DATA_CLEAR);
                to.u64(dataset.0);
                to.u64(ino.0);
                to.u64(*offset);
                to.u64(*len);
            }
        }
    }

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
