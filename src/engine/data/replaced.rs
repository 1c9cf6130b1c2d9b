//! How much of each file was written over since its extents were last looked at, so that
//! [`super::defragment`] knows where to look, and where it stopped.
//!
//! In memory only, and roughly: who forgets some of it writes some waste anew later, or not at all.

use std::collections::HashMap;

use crate::format::id::Ino;
use crate::sync::Mutex;

/// Files of a dataset that are remembered, at most.
const FILES_MAX: usize = 1 << 14;
/// Where that is full, and all of it counts, so many notes of other files are dropped before it is
/// looked whether that is still so.
const DROPPED_MAX: u32 = 1 << 12;
/// A file is left alone until so much of it was written over.
pub(super) const FILE_MIN_BYTES: u64 = 1 << 20;
/// How often the bytes that it takes until a file is looked at again are doubled, at most.
const PATIENCE_MAX: u32 = 6;

/// What was written over in a dataset, by file.
#[derive(Default)]
pub(in crate::engine) struct Replaced(Mutex<Files>);

#[derive(Default)]
struct Files {
    counts: HashMap<Ino, Count>,
    /// Notes that were dropped since there was room, or was looked for.
    dropped: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    bytes: u64,
    /// How often in a row a look at the file found little.
    patience: u32,
    pass: Pass,
}

/// How far a file was gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Pass {
    /// Where it goes on.
    pub(super) at: u64,
    /// Bytes that were saved.
    pub(super) saved: u64,
}

impl Files {
    /// Makes room for another file by forgetting those of which little was written over; whether there
    /// is any.
    fn make_room(&mut self) -> bool {
        if self.counts.len() < FILES_MAX {
            return true;
        }
        if self.dropped > 0 && self.dropped < DROPPED_MAX {
            self.dropped += 1;
            return false;
        }
        self.counts.retain(|_, count| count.bytes >= FILE_MIN_BYTES);
        self.dropped = u32::from(self.counts.len() >= FILES_MAX);
        self.dropped == 0
    }
}

impl Replaced {
    /// So much of a file was written over, or written in pieces that are small for it.
    pub(super) fn note(&self, ino: Ino, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let mut files = self.0.lock();
        if files.counts.contains_key(&ino) || files.make_room() {
            let count = files.counts.entry(ino).or_default();
            count.bytes = count.bytes.saturating_add(bytes);
        }
    }

    /// Does something to a file that is not to be noted.
    pub(super) fn unnoted<T>(&self, ino: Ino, act: impl FnOnce() -> T) -> T {
        let bytes = |files: &Files| files.counts.get(&ino).map_or(0, |count| count.bytes);
        let before = bytes(&self.0.lock());
        let done = act();
        if let Some(count) = self.0.lock().counts.get_mut(&ino) {
            count.bytes = count.bytes.min(before);
        }
        done
    }

    /// Files of which enough was written over that they may be worth a look, most first: how much, and
    /// how many times as much as usual it takes.
    pub(super) fn most(&self) -> Vec<(Ino, u64, u64)> {
        let files = self.0.lock();
        let enough = files
            .counts
            .iter()
            .filter(|(_, count)| count.bytes >= FILE_MIN_BYTES);
        let mut found: Vec<_> = enough
            .map(|(ino, count)| (*ino, count.bytes, 1 << count.patience))
            .collect();
        found.sort_unstable_by_key(|(ino, bytes, _)| (std::cmp::Reverse(*bytes), *ino));
        found
    }

    /// How far a file was gone through.
    pub(super) fn pass(&self, ino: Ino) -> Pass {
        let files = self.0.lock();
        files
            .counts
            .get(&ino)
            .map(|count| count.pass)
            .unwrap_or_default()
    }

    /// A file was gone through so far.
    pub(super) fn reached(&self, ino: Ino, pass: Pass) {
        if let Some(count) = self.0.lock().counts.get_mut(&ino) {
            count.pass = pass;
        }
    }

    /// All of a file was gone through, and so many bytes were saved.
    pub(super) fn looked_at(&self, ino: Ino, saved: u64) {
        if let Some(count) = self.0.lock().counts.get_mut(&ino) {
            let patience = match saved >= count.bytes / 8 {
                true => 0,
                false => (count.patience + 1).min(PATIENCE_MAX),
            };
            *count = Count {
                patience,
                ..Count::default()
            };
        }
    }

    /// Nothing of a file is remembered: it is gone, or was written anew.
    pub(super) fn forget(&self, ino: Ino) {
        self.0.lock().counts.remove(&ino);
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
    fn a_pass_goes_on_where_it_stopped_and_what_it_does_is_not_noted() {
        let replaced = Replaced::default();
        replaced.note(Ino(2), MIB);
        let pass = Pass { at: 7, saved: 5 };
        replaced.reached(Ino(2), pass);
        replaced.unnoted(Ino(2), || replaced.note(Ino(2), 3 * MIB));
        assert_eq!(replaced.most(), [(Ino(2), MIB, 1)]);
        assert_eq!(replaced.pass(Ino(2)), pass);
        replaced.looked_at(Ino(2), MIB);
        assert_eq!(replaced.pass(Ino(2)), Pass::default());
        replaced.unnoted(Ino(3), || replaced.note(Ino(3), 3 * MIB));
        assert_eq!(replaced.most(), []);
        assert_eq!(replaced.pass(Ino(4)), Pass::default());
    }

    #[test]
    fn memory_is_bounded_and_those_that_count_stay() {
        let replaced = Replaced::default();
        replaced.note(Ino(1), MIB);
        for ino in 2..100_000 {
            replaced.note(Ino(ino), 1);
        }
        replaced.note(Ino(200_000), 2 * MIB);
        assert!(replaced.0.lock().counts.len() <= FILES_MAX);
        let most = [(Ino(200_000), 2 * MIB, 1), (Ino(1), MIB, 1)];
        assert_eq!(replaced.most(), most);
        let full = Replaced::default();
        for ino in 0..100_000 {
            full.note(Ino(ino), MIB);
        }
        assert_eq!(full.most().len(), FILES_MAX);
    }
}
