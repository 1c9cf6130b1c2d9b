//! Space of strings.dat between names that are used, on its way back to the disk below.
//!
//! Nothing of it is written down. What is given back reads as zeros, which are no name: names come
//! only where none ever stood, at the end.

use std::io;
use std::ops::Range;

use super::Strings;
use crate::ranges::RangeSet;
use crate::store::StoreError;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Bytes that one call gives back, at most.
const STEP_BYTES: u64 = 64 << 20;

/// What is known of the gaps.
#[derive(Default)]
pub(super) struct Gaps {
    /// Nobody reads it any more, and no recovery will.
    loose: Mutex<RangeSet>,
    /// What went back since the store was opened.
    gone: Mutex<RangeSet>,
    /// Bytes of the file that take no space.
    unbacked: AtomicU64,
    /// The disk takes no space back from inside of a file.
    refused: AtomicBool,
}

impl Strings {
    /// Asks the disk how much of the file takes no space.
    pub(super) fn measure(&self) {
        let length = self.disk.len_bytes();
        // All of it is there where the disk does not say.
        let held = self.disk.held_bytes().unwrap_or(length);
        let holes = length.saturating_sub(held);
        self.gaps.unbacked.store(holes, Ordering::Relaxed);
    }

    /// Bytes of the file that take no space, as it was when the store was opened or when space last
    /// went back.
    #[must_use]
    pub fn unbacked_bytes(&self) -> u64 {
        self.gaps.unbacked.load(Ordering::Relaxed)
    }

    /// The blocks of the disk below, of which whole ones can go back.
    #[must_use]
    pub fn block_bytes(&self) -> u64 {
        self.disk.block_bytes()
    }

    /// Whether the disk below is known to take no space back from inside of a file.
    #[must_use]
    pub fn takes_no_holes(&self) -> bool {
        self.gaps.refused.load(Ordering::Relaxed)
    }

    /// Of gaps what has not gone back yet since the store was opened; nothing where the disk takes
    /// nothing back.
    #[must_use]
    pub fn not_gone(&self, gaps: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
        if self.takes_no_holes() {
            return Vec::new();
        }
        let mut rest = RangeSet::default();
        gaps.for_each(|gap| rest.insert(gap.start, gap.end));
        for (start, end) in self.gaps.gone.lock().iter() {
            rest.remove(start, end);
        }
        rest.iter().map(|(start, end)| start..end).collect()
    }

    /// Says that nobody reads anything in these gaps any more, and that no recovery will.
    pub fn release(&self, gaps: &[Range<u64>]) {
        let mut loose = self.gaps.loose.lock();
        for gap in gaps {
            loose.insert(gap.start, gap.end);
        }
    }

    /// Gives one of the gaps that nobody reads back to the disk below; how many bytes it had. `None`
    /// when there is none.
    ///
    /// # Errors
    /// When the disk refuses, for another reason than that it cannot do it; the next call tries again.
    pub fn give_back(&self) -> Result<Option<u64>, StoreError> {
        let Some((start, end)) = self.gaps.loose.lock().iter().next() else {
            return Ok(None);
        };
        let end = end.min(start.saturating_add(STEP_BYTES));
        let before = self.disk.held_bytes();
        match self.disk.trim(start, end.saturating_sub(start)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                ::log::info!("names that nobody uses keep their space: {error}");
                self.gaps.refused.store(true, Ordering::Relaxed);
                *self.gaps.loose.lock() = RangeSet::default();
                return Ok(None);
            }
            Err(source) => {
                return Err(StoreError::io("strings.dat, giving space back", source));
            }
        }
        self.gaps.loose.lock().remove(start, end);
        self.gaps.gone.lock().insert(start, end);
        self.measure();
        Ok(Some(self.disk.given_back(&before, end - start)))
    }
}
