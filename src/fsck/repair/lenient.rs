//! A disk whose unreadable sectors read as zeros, which no checksum matches: so a media error is
//! damage like any other.

use std::io;
use std::sync::Arc;

use crate::disk::{Disk, SECTOR_BYTES};

/// See the module.
pub(super) struct Lenient(pub(super) Arc<dyn Disk>);

impl Disk for Lenient {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if self.0.read_at(offset, buf).is_ok() {
            return Ok(());
        }
        for (index, sector) in buf.chunks_mut(SECTOR_BYTES).enumerate() {
            let at = offset.saturating_add((index * SECTOR_BYTES) as u64);
            if self.0.read_at(at, sector).is_err() {
                sector.fill(0);
            }
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, buf)
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.allocate(offset, len)
    }

    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.trim(offset, len)
    }

    fn len_bytes(&self) -> u64 {
        self.0.len_bytes()
    }

    fn available_bytes(&self) -> io::Result<u64> {
        self.0.available_bytes()
    }
}
