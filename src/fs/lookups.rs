//! How often the kernel knows each inode, so that one without a name is freed when nobody can
//! refer to it any more.
//!
//! Bounded by the inodes there are: an entry of at most 40 bytes for each that the kernel knows (and
//! half as much again while a table grows), none for the root, which is never forgotten, nor for
//! what does not exist. A count beyond 2^64 stays there and one below zero is zero.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use parking_lot::Mutex;

use crate::format::id::{Ino, InoHashes};

/// Parts of the table with a lock each.
const SHARDS: usize = 16;

type Shard = HashMap<Ino, u64, InoHashes>;

/// The lookup counts of a session: what one kernel knows.
#[derive(Default)]
pub(super) struct Lookups {
    shards: [Mutex<Shard>; SHARDS],
}

impl Lookups {
    fn shard(&self, ino: Ino) -> &Mutex<Shard> {
        // One of so many parts is in range.
        #[allow(clippy::indexing_slicing)]
        &self.shards[ino.part(SHARDS)]
    }

    /// Counts one lookup.
    pub(super) fn add(&self, ino: Ino) {
        self.add_many(ino, 1);
    }

    /// Drops `n` lookups; whether the kernel knew the inode and knows it no more.
    pub(super) fn forget(&self, ino: Ino, n: u64) -> bool {
        if ino == Ino::ROOT {
            return false;
        }
        match self.shard(ino).lock().entry(ino) {
            Entry::Vacant(_) => false,
            Entry::Occupied(mut entry) if *entry.get() > n => {
                *entry.get_mut() -= n;
                false
            }
            Entry::Occupied(entry) => {
                entry.remove();
                true
            }
        }
    }

    /// Whether the kernel knows the inode.
    pub(super) fn knows(&self, ino: Ino) -> bool {
        ino == Ino::ROOT || self.shard(ino).lock().contains_key(&ino)
    }

    /// Counts `n` lookups.
    pub(super) fn add_many(&self, ino: Ino, n: u64) {
        if ino != Ino::ROOT && n > 0 {
            let mut shard = self.shard(ino).lock();
            let count = shard.entry(ino).or_insert(0);
            *count = count.saturating_add(n);
        }
    }

    /// All that the kernel knows, by inode number, and how often.
    pub(super) fn all(&self) -> Vec<(Ino, u64)> {
        let mut all = Vec::new();
        for shard in &self.shards {
            all.extend(shard.lock().iter().map(|(ino, count)| (*ino, *count)));
        }
        all.sort_unstable();
        all
    }

    /// Drops everything and calls `each` with what was known.
    pub(super) fn clear(&self, mut each: impl FnMut(Ino)) {
        for shard in &self.shards {
            let known = std::mem::take(&mut *shard.lock());
            known.into_keys().for_each(&mut each);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lookup_dropped_is_told_and_no_count_goes_below_zero() {
        let lookups = Lookups::default();
        let ino = Ino(42);
        lookups.add(ino);
        lookups.add(ino);
        assert!(!lookups.forget(ino, 1));
        assert!(lookups.knows(ino));
        assert!(lookups.forget(ino, 1));
        assert!(!lookups.knows(ino));
        assert!(!lookups.forget(ino, u64::MAX), "it is not known");
        lookups.add(ino);
        assert!(lookups.forget(ino, u64::MAX));
    }

    #[test]
    fn the_root_is_always_known() {
        let lookups = Lookups::default();
        assert!(!lookups.forget(Ino::ROOT, u64::MAX));
        assert!(lookups.knows(Ino::ROOT));
    }

    #[test]
    fn what_is_known_can_be_told_elsewhere() {
        let (here, there) = (Lookups::default(), Lookups::default());
        for ino in (2..50).rev() {
            (0..ino).for_each(|_| here.add(Ino(ino)));
        }
        let all = here.all();
        assert_eq!(all, (2..50).map(|n| (Ino(n), n)).collect::<Vec<_>>());
        all.iter().for_each(|(ino, n)| there.add_many(*ino, *n));
        assert_eq!(there.all(), all);
        assert!(!there.forget(Ino(7), 6) && there.forget(Ino(7), 1));
    }

    #[test]
    fn clearing_tells_each_inode_once() {
        let lookups = Lookups::default();
        for ino in 2..100 {
            lookups.add(Ino(ino));
            lookups.add(Ino(ino));
        }
        let mut seen = Vec::new();
        lookups.clear(|ino| seen.push(ino.0));
        seen.sort_unstable();
        assert_eq!(seen, (2..100).collect::<Vec<_>>());
        assert!(!lookups.knows(Ino(50)));
    }
}
