//! How much of each file was written over since its extents were last looked at, so that
//! [`super::defragment`] knows where to look.
//!
//! In memory only, and roughly: who forgets some of it writes some waste anew later, or not at all.

use std::collections::HashMap;

use crate::format::id::Ino;
use crate::sync::Mutex;

/// Files of a dataset that are remembered, at most.
const FILES_MAX: usize = 1 << 14;
/// A file is left alone until so much of it was written over.
pub(super) const FILE_MIN_BYTES: u64 = 1 << 20;
/// How often the bytes that it takes until a file is looked at again are doubled, at most.
const PATIENCE_MAX: u32 = 6;

/// What was written over in a dataset, by file.
#[derive(Default)]
pub(in crate::engine) struct Replaced(Mutex<HashMap<Ino, Count>>);

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    bytes: u64,
    /// How often in a row a look at the file found little.
    patience: u32,
}

impl Replaced {
    /// So much of a file was written over, or written in pieces that are small for it.
    pub(super) fn note(&self, ino: Ino, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let mut files = self.0.lock();
        if files.len() >= FILES_MAX && !files.contains_key(&ino) {
            files.retain(|_, count| count.bytes >= FILE_MIN_BYTES);
        }
        if files.len() < FILES_MAX || files.contains_key(&ino) {
            let count = files.entry(ino).or_default();
            count.bytes = count.bytes.saturating_add(bytes);
        }
    }

    /// Files of which enough was written over that they may be worth a look, most first: how much, and
    /// how many times as much as usual it takes.
    pub(super) fn most(&self) -> Vec<(Ino, u64, u64)> {
        let files = self.0.lock();
        let enough = files
            .iter()
            .filter(|(_, count)| count.bytes >= FILE_MIN_BYTES);
        let mut found: Vec<_> = enough
            .map(|(ino, count)| (*ino, count.bytes, 1 << count.patience))
            .collect();
        found.sort_unstable_by_key(|(ino, bytes, _)| (std::cmp::Reverse(*bytes), *ino));
        found
    }

    /// All of a file was looked at, and `found` bytes of it were worth writing anew.
    pub(super) fn looked_at(&self, ino: Ino, found: u64) {
        let mut files = self.0.lock();
        if let Some(count) = files.get_mut(&ino) {
            count.patience = match found >= count.bytes / 8 {
                true => 0,
                false => (count.patience + 1).min(PATIENCE_MAX),
            };
            count.bytes = 0;
        }
    }

    /// Nothing of a file is remembered: it is gone, or was written anew.
    pub(super) fn forget(&self, ino: Ino) {
        self.0.lock().remove(&ino);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn files_are_known_by_how_much_was_replaced_of_them() {
        let replaced = Replaced::default();
        for (ino, bytes) in [(2, 3 * MIB), (3, MIB - 1), (4, 2 * MIB), (2, MIB), (5, 0)] {
            replaced.note(Ino(ino), bytes);
        }
        let most = [(Ino(2), 4 * MIB, 1), (Ino(4), 2 * MIB, 1)];
        assert_eq!(replaced.most(), most);
        replaced.note(Ino(3), 1);
        assert_eq!(replaced.most().len(), 3);
        replaced.forget(Ino(3));
        assert_eq!(replaced.most(), most);
    }

    #[test]
    fn a_file_in_which_little_is_found_is_left_alone_for_longer() {
        let replaced = Replaced::default();
        let mut times = Vec::new();
        for found in [0, 0, 0, MIB / 8, 0] {
            replaced.note(Ino(2), MIB);
            times.extend(replaced.most().iter().map(|(_, _, times)| *times));
            replaced.looked_at(Ino(2), found);
            assert_eq!(replaced.most(), [], "what was replaced before is known");
        }
        assert_eq!(times, [1, 2, 4, 8, 1]);
        for _ in 0..100 {
            replaced.note(Ino(2), MIB);
            replaced.looked_at(Ino(2), 0);
        }
        replaced.note(Ino(2), MIB);
        assert_eq!(replaced.most(), [(Ino(2), MIB, 64)]);
    }

    #[test]
    fn memory_is_bounded_and_those_that_count_stay() {
        let replaced = Replaced::default();
        replaced.note(Ino(1), MIB);
        for ino in 2..100_000 {
            replaced.note(Ino(ino), 1);
        }
        replaced.note(Ino(200_000), 2 * MIB);
        assert!(replaced.0.lock().len() <= FILES_MAX);
        let most = [(Ino(200_000), 2 * MIB, 1), (Ino(1), MIB, 1)];
        assert_eq!(replaced.most(), most);
        let full = Replaced::default();
        for ino in 0..100_000 {
            full.note(Ino(ino), MIB);
        }
        assert_eq!(full.most().len(), FILES_MAX);
    }
}
