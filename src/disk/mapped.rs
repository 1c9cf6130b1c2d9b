//! Reading a file through a mapping, without a mapped page ever killing the process.
//!
//! A page that cannot be read (a media error, a file cut short) reads as zeros, by
//! [`crate::fault`]: they fail their checksum, and the one request gets EIO. Only bytes copied out
//! are ever looked at, never a reference into the mapping.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ptr;
use std::sync::Arc;

use memmap2::{Mmap, MmapOptions};
use parking_lot::RwLock;

use crate::fault::{Access, Guard};

/// Bytes that are mapped beyond the end of the file, at least: what the system has learned of where
/// pages lie is lost with a mapping, and a large file would have to be faulted in anew each time it
/// grows.
const AHEAD_BYTES: usize = 1 << 30;

/// A mapping of a file that grows.
#[derive(Default)]
pub struct Mapping {
    region: RwLock<Option<Arc<Region>>>,
}

/// A mapped range.
struct Region {
    /// Goes first: the memory is guarded while it is mapped.
    _guard: Guard,
    map: Mmap,
}

impl Mapping {
    /// Copies `buf.len()` bytes at `offset` out of the file, which is `length` bytes long; false
    /// when it cannot be mapped and must be read otherwise. The range lies within the file.
    ///
    /// # Errors
    /// When the system refuses to map for a reason that reading would meet too.
    pub fn read(&self, file: &File, length: u64, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        let Ok(start) = usize::try_from(offset) else {
            return Ok(false);
        };
        let Some(end) = start.checked_add(buf.len()) else {
            return Ok(false);
        };
        let Some(region) = self.region(file, length, end)? else {
            return Ok(false);
        };
        if end > region.map.len() {
            return Ok(false);
        }
        // SAFETY: start..end lies within the mapping, which the region keeps alive; `buf` is
        // memory of ours and does not overlap it. The copy goes through raw pointers: the file may
        // change below, and no reference to it is made. A fault is survived.
        unsafe {
            ptr::copy_nonoverlapping(region.map.as_ptr().add(start), buf.as_mut_ptr(), buf.len());
        }
        Ok(true)
    }

    /// The mapping, made anew when it does not reach `end`.
    fn region(&self, file: &File, length: u64, end: usize) -> io::Result<Option<Arc<Region>>> {
        if let Some(region) = &*self.region.read()
            && region.map.len() >= end
        {
            return Ok(Some(Arc::clone(region)));
        }
        let Ok(length) = usize::try_from(length) else {
            return Ok(None);
        };
        let mut slot = self.region.write();
        let map = |length| {
            // SAFETY: the mapping is only ever copied out of through raw pointers, so that a file
            // that changes below breaks no reference; faults are handled.
            unsafe { MmapOptions::new().len(length).map(file) }
        };
        // What lies beyond the end is not accessed before the file has grown.
        let ahead = length.saturating_add(length.max(AHEAD_BYTES));
        let Ok(map) = map(ahead).or_else(|_| map(length)) else {
            return Ok(None);
        };
        let guard = Guard::new(map.as_ptr(), map.len(), Access::Read)?;
        let region = Arc::new(Region { _guard: guard, map });
        *slot = Some(Arc::clone(&region));
        Ok(Some(region))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_cut_short_reads_as_zeros_and_kills_nobody() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 16384]).unwrap();
        let mapping = Mapping::default();
        let mut buf = [0; 100];
        assert!(mapping.read(&file, 16384, 8192, &mut buf).unwrap());
        assert_eq!(buf, [7; 100]);
        file.set_len(4096).unwrap();
        assert!(mapping.read(&file, 16384, 8192, &mut buf).unwrap());
        assert_eq!(buf, [0; 100]);
        assert!(mapping.read(&file, 16384, 0, &mut buf).unwrap());
        assert_eq!(buf, [7; 100]);
    }

    #[test]
    fn follows_a_file_that_grows() {
        let mut file = tempfile::tempfile().unwrap();
        let mapping = Mapping::default();
        for round in 1..40u8 {
            file.write_all(&[round; 5000]).unwrap();
            let length = u64::from(round) * 5000;
            let mut buf = [0; 5000];
            assert!(
                mapping
                    .read(&file, length, length - 5000, &mut buf)
                    .unwrap()
            );
            assert_eq!(buf, [round; 5000]);
        }
    }
}
