//! Identifiers, each a type of its own so that no two can be confused.

use std::hash::{BuildHasherDefault, Hasher};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// An inode number: never reused while the dataset lives. The root directory is 1, as FUSE has
    /// it.
    Ino
);
id!(
    /// A page of nodes.dat, counted in pages from its start. 0 is never a tree page.
    PageNo
);
id!(
    /// A position in the log: bytes since the log was made, growing for ever.
    Lsn
);
id!(
    /// A transaction, counted from 1 since the store was made.
    TxId
);
id!(
    /// A chunk of file content; the key of its record in the chunk tree.
    ChunkId
);
id!(
    /// An interned name: its byte offset in strings.dat.
    NameId
);
id!(
    /// A dataset; the first one, `main`, is 1.
    DatasetId
);
id!(
    /// A checkpoint, counted from 1. A page carries the generation of the checkpoint that wrote it.
    Generation
);

impl Ino {
    /// The root directory of every dataset.
    pub const ROOT: Ino = Ino(1);
}

impl ChunkId {
    /// In an extent: its content was lost to damage.
    pub const LOST: ChunkId = ChunkId(u64::MAX);
}

impl DatasetId {
    /// The dataset that mkfs makes.
    pub const MAIN: DatasetId = DatasetId(1);
}

/// Hashes inode numbers. They are given out by the volume, not by the guest: one multiplication
/// spreads them.
#[derive(Default)]
pub struct InoHasher(u64);

impl Hasher for InoHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

/// For tables by inode.
pub type InoHashes = BuildHasherDefault<InoHasher>;
