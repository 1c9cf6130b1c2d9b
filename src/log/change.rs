//! What a transaction did, as the log carries it.

use crate::format::id::{DatasetId, Ino, NameId};
use crate::format::key::{Key, TreeId};

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
