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

/// Inodes whose numbers begin alike stand beside each other in a table by inode: made one after the
/// other, they are used one after the other, and each but the first is in the processor's cache.
const NEIGHBOURS: u64 = 16;

/// Spreads what is above [`NEIGHBOURS`] in a number. Numbers are given out by the volume, not by the
/// guest: one multiplication does.
fn spread(neighbours: u64) -> u64 {
    let mixed = neighbours.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^ (mixed >> 32)
}

impl Ino {
    /// Which of so many parts of a table has it.
    #[must_use]
    pub fn part(self, parts: usize) -> usize {
        // Bits that choose no place within a part, unless that has 2^28.
        let high = spread(self.0 / NEIGHBOURS) >> 24;
        usize::try_from(high % (parts as u64).max(1)).unwrap_or(0)
    }
}

/// Hashes inode numbers.
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
        let value = self.0 ^ value;
        let neighbour = value % NEIGHBOURS;
        let place = spread(value / NEIGHBOURS).wrapping_mul(NEIGHBOURS) | neighbour;
        // A table tells entries that are close by the uppermost bits.
        self.0 = place ^ neighbour << 57;
    }
}

/// For tables by inode.
pub type InoHashes = BuildHasherDefault<InoHasher>;

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher;

    use super::*;

    #[test]
    fn neighbours_have_places_beside_each_other_and_are_told_apart() {
        let hash = |ino| InoHashes::default().hash_one(Ino(ino));
        for first in [16, 1600, 1 << 40] {
            let places = (first..first + NEIGHBOURS).map(|ino| hash(ino) % (1 << 20));
            let start = hash(first) % (1 << 20);
            assert!(places.eq(start..start + NEIGHBOURS));
            let marks: HashSet<_> = (first..first + NEIGHBOURS)
                .map(|ino| hash(ino) >> 57)
                .collect();
            assert_eq!(marks.len(), 16);
        }
    }

    #[test]
    fn numbers_spread_over_places_and_parts() {
        // Whatever the distance between them.
        for distance in [1, 16, 64, 1 << 10, 1 << 16, 1 << 32] {
            let inos = || (1..=4096u64).map(|n| Ino(n * distance));
            // A table looks at as many places at once as there are neighbours.
            let groups: HashSet<_> = inos()
                .map(|ino| InoHashes::default().hash_one(ino) % 4096 / NEIGHBOURS)
                .collect();
            assert!(groups.len() > 150, "{distance}: {} groups", groups.len());
            let mut parts = [0; 64];
            for ino in inos() {
                parts[ino.part(64)] += 1;
            }
            assert!(
                parts.iter().all(|part| *part < 256),
                "{distance}: {parts:?}"
            );
        }
    }
}
