//! Which pages of the guest's memory the device wrote: while a guest moves to another host, its
//! front-end sends the pages again that changed since it sent them, and learns of those that the
//! device changes from a bitmap that both have mapped (vhost-user, "Migration").
//!
//! A region's writes all go by [`Marks`], which vm-memory calls behind each of them: so the page has
//! changed before it is marked. While no guest moves, that is one look at a flag.
//!
//! Invariant: a mark is set in the log that is in place while it is set; whoever replaces the log
//! waits for marks under way, so that none is set in one the front-end has done with.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use parking_lot::RwLock;
use vhost::vhost_user::message::VhostUserLog;
use vm_memory::bitmap::{Bitmap, BitmapSlice, NewBitmap, WithBitmapSlice};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory as _};

use super::memory::MemoryError;
use crate::fault::{Access, Guard};

/// Bytes of guest memory that a bit stands for (`VHOST_LOG_PAGE`).
const PAGE_BYTES: u64 = 4096;
/// Bytes of a log at most: enough for 2^52 bytes of guest memory, the most a processor addresses.
const LOG_BYTES_MAX: u64 = 1 << 37;

/// The bitmap: a bit for each page of guest memory, from address 0.
#[derive(Debug)]
pub(super) struct DirtyLog {
    /// Before the mapping: dropped first.
    _guard: Guard,
    mapping: MmapRegion<()>,
}

impl DirtyLog {
    /// Maps a log.
    ///
    /// # Errors
    /// When it lies outside of its file, is too large, or cannot be mapped.
    pub(super) fn new(log: &VhostUserLog, file: File) -> Result<DirtyLog, MemoryError> {
        let bad = |reason: String| MemoryError::Log(reason);
        let (offset, len) = (log.mmap_offset, log.mmap_size);
        let end = offset.checked_add(len);
        let file_len = file.metadata()?.len();
        if len == 0 || len > LOG_BYTES_MAX || end.is_none_or(|end| end > file_len) {
            let reason = format!("{len} bytes at {offset} of a file of {file_len}");
            return Err(bad(reason));
        }
        let len = usize::try_from(len).map_err(|error| bad(error.to_string()))?;
        let mapping = MmapRegion::from_file(FileOffset::new(file, offset), len)
            .map_err(|error| bad(error.to_string()))?;
        let guard = Guard::new(mapping.as_ptr(), len, Access::Write)?;
        Ok(DirtyLog {
            _guard: guard,
            mapping,
        })
    }

    /// Whether it has a bit for each page below a guest address.
    ///
    /// # Errors
    /// When it has not.
    pub(super) fn check_reaches(&self, end: u64) -> Result<(), MemoryError> {
        let pages = (self.mapping.size() as u64).saturating_mul(8);
        match end.div_ceil(PAGE_BYTES) <= pages {
            true => Ok(()),
            false => Err(MemoryError::LogTooShort { page: pages }),
        }
    }

    /// Marks the pages of `len` bytes from a guest address. What the log has no bit for is not in
    /// the guest's memory as its front-end counts it.
    fn mark(&self, address: u64, len: u64) {
        let Some(last) = len
            .checked_sub(1)
            .and_then(|more| address.checked_add(more))
        else {
            return;
        };
        for page in address / PAGE_BYTES..=last / PAGE_BYTES {
            let Ok(at) = usize::try_from(page / 8) else {
                return;
            };
            let Ok(bits) = self.mapping.get_atomic_ref::<AtomicU8>(at) else {
                return;
            };
            bits.fetch_or(1 << (page % 8), Ordering::Release);
        }
    }
}

/// What is written to a region of guest memory is marked here.
#[derive(Debug, Default)]
pub struct Marks {
    /// Whether there is a log.
    on: AtomicBool,
    /// The region's guest address.
    start: AtomicU64,
    log: RwLock<Option<Arc<DirtyLog>>>,
}

impl Bitmap for Marks {
    fn mark_dirty(&self, offset: usize, len: usize) {
        // Who switches the log on is told so by a message, and only then sends the first page: what
        // was written before this look is in it.
        if !self.on.load(Ordering::Acquire) {
            return;
        }
        if let Some(log) = &*self.log.read() {
            let address = self.start.load(Ordering::Acquire);
            log.mark(address.saturating_add(offset as u64), len as u64);
        }
    }

    /// Nobody here asks: the front-end reads the log.
    fn dirty_at(&self, _offset: usize) -> bool {
        false
    }

    fn slice_at(&self, offset: usize) -> MarksFrom<'_> {
        MarksFrom {
            marks: self,
            offset,
        }
    }
}

impl<'a> WithBitmapSlice<'a> for Marks {
    type S = MarksFrom<'a>;
}

impl NewBitmap for Marks {
    fn with_len(_len: usize) -> Self {
        Marks::default()
    }
}

/// [`Marks`] from a byte of the region on.
#[derive(Debug, Clone, Copy)]
pub struct MarksFrom<'m> {
    marks: &'m Marks,
    offset: usize,
}

impl MarksFrom<'_> {
    /// Says where the region lies in the guest's memory.
    pub(super) fn place(self, start: u64) {
        self.marks.start.store(start, Ordering::Release);
    }

    /// Marks what is written to the region from now on in `log`, and no more in the one before.
    pub(super) fn set(self, log: Option<Arc<DirtyLog>>) {
        let mut current = self.marks.log.write();
        self.marks.on.store(log.is_some(), Ordering::SeqCst);
        *current = log;
    }
}

impl Bitmap for MarksFrom<'_> {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.marks
            .mark_dirty(self.offset.saturating_add(offset), len);
    }

    fn dirty_at(&self, _offset: usize) -> bool {
        false
    }

    fn slice_at(&self, offset: usize) -> Self {
        MarksFrom {
            marks: self.marks,
            offset: self.offset.saturating_add(offset),
        }
    }
}

impl<'m> WithBitmapSlice<'_> for MarksFrom<'m> {
    type S = MarksFrom<'m>;
}

impl BitmapSlice for MarksFrom<'_> {}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::FileExt as _;

    use vm_memory::{Bytes as _, GuestAddress, GuestMemory as _, GuestMemoryRegion as _};

    use super::super::memory::Memory;
    use super::*;

    /// Guest memory at 64 KiB, and a log of 8 bytes behind 4096 others.
    fn logged() -> (Memory, File) {
        let memory = Memory::from_ranges(&[(GuestAddress(0x1_0000), 0x2_0000)]).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096 + 8).unwrap();
        let log = VhostUserLog {
            mmap_size: 8,
            mmap_offset: 4096,
        };
        let log = DirtyLog::new(&log, file.try_clone().unwrap()).unwrap();
        let region = memory.iter().next().unwrap();
        region.bitmap().place(region.start_addr().0);
        region.bitmap().set(Some(Arc::new(log)));
        (memory, file)
    }

    fn found(file: &File) -> Vec<u64> {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, 4096).unwrap();
        let bits = u64::from_le_bytes(bytes);
        (0..64).filter(|bit| bits & (1 << bit) != 0).collect()
    }

    #[test]
    fn pages_that_are_written_are_marked_by_guest_address() {
        let (memory, file) = logged();
        memory.write_slice(b"x", GuestAddress(0x1_0000)).unwrap();
        assert_eq!(found(&file), [16]);
        memory
            .write_slice(&[1; 4098], GuestAddress(0x1_2fff))
            .unwrap();
        assert_eq!(found(&file), [16, 18, 19, 20]);
        // As rings' indices are written, and as replies are.
        memory
            .store(7u16, GuestAddress(0x1_5000), Ordering::Release)
            .unwrap();
        let slice = memory.get_slice(GuestAddress(0x1_6ff0), 0x100).unwrap();
        slice.offset(0x20).unwrap().copy_from(&[1u8; 4]);
        assert_eq!(found(&file), [16, 18, 19, 20, 21, 23]);
        let mut read = [0; 4];
        memory
            .read_slice(&mut read, GuestAddress(0x1_9000))
            .unwrap();
        assert_eq!(found(&file).len(), 6, "reading marks nothing");
    }

    #[test]
    fn nothing_is_marked_without_a_log_or_behind_its_end() {
        let (memory, mut file) = logged();
        // Page 47 is the last of memory, and 63 of the log.
        memory.write_slice(b"x", GuestAddress(0x2_ffff)).unwrap();
        assert_eq!(found(&file), [47]);
        for region in memory.iter() {
            region.bitmap().place(0x10_0000);
        }
        memory.write_slice(b"x", GuestAddress(0x1_0000)).unwrap();
        assert_eq!(found(&file), [47]);
        for region in memory.iter() {
            region.bitmap().place(0);
            region.bitmap().set(None);
        }
        memory.write_slice(b"x", GuestAddress(0x1_0000)).unwrap();
        assert_eq!(found(&file), [47]);
        let mut all = Vec::new();
        file.read_to_end(&mut all).unwrap();
        assert!(all[..4096].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_log_outside_of_its_file_is_refused() {
        for (mmap_size, mmap_offset) in [(0, 0), (4097, 0), (1, 4096), (8, u64::MAX), (1 << 40, 0)]
        {
            let file = tempfile::tempfile().unwrap();
            file.set_len(4096).unwrap();
            let log = VhostUserLog {
                mmap_size,
                mmap_offset,
            };
            assert!(
                DirtyLog::new(&log, file).is_err(),
                "{mmap_size} {mmap_offset}"
            );
        }
    }
}
