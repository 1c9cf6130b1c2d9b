//! A disk that flushes only when something was written since the last flush.

use std::io;
use std::sync::Arc;

use crate::disk::Disk;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// chunks.dat as the journal flushes it: before each batch of the log and in each checkpoint,
/// mostly with nothing to flush.
pub(super) struct Tracked {
    disk: Arc<dyn Disk>,
    /// Something was written and not flushed.
    written: AtomicBool,
    /// Held while flushing, so that nobody takes a flush that is still under way for a finished
    /// one. Whether a flush failed: then none ever succeeds again.
    failed: Mutex<bool>,
}

impl Tracked {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Self {
        // What an earlier process wrote may not have been flushed.
        Tracked {
            disk,
            written: AtomicBool::new(true),
            failed: Mutex::new(false),
        }
    }

    /// Notes a write after it is done: a flush that ran beside it does not count for it.
    fn note<T>(&self, result: T) -> T {
        self.written.store(true, Ordering::Release);
        result
    }
}

impl Disk for Tracked {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.note(self.disk.write_at(offset, buf))
    }

    fn write_all_at(&self, offset: u64, bufs: &[&[u8]]) -> io::Result<()> {
        self.note(self.disk.write_all_at(offset, bufs))
    }

    fn flush(&self) -> io::Result<()> {
        let mut failed = self.failed.lock();
        if *failed {
            return Err(io::Error::other("an earlier flush failed"));
        }
        if self.written.swap(false, Ordering::AcqRel) {
            self.disk.flush().inspect_err(|_| *failed = true)?;
        }
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.note(self.disk.allocate(offset, len))
    }

    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.trim(offset, len)
    }

    fn cut(&self, len: u64) -> io::Result<()> {
        // The log may know that there are holes no more, which the end took along.
        self.note(self.disk.cut(len))
    }

    fn block_bytes(&self) -> u64 {
        self.disk.block_bytes()
    }

    fn len_bytes(&self) -> u64 {
        self.disk.len_bytes()
    }

    fn available_bytes(&self) -> io::Result<u64> {
        self.disk.available_bytes()
    }
}
