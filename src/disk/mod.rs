//! The disk under the store: files, or a simulated disk that loses power.
//!
//! What a disk may do: a write not followed by a completed flush may survive wholly, in part (any
//! subset of its 512-byte sectors) or not at all, independently of any other; a flush makes every
//! write completed before it durable; any call may fail. Imports nothing of razorfs.

pub mod buffer;
pub mod counted;
pub mod dir;
pub mod file;
pub mod host;
mod mapped;
pub mod sim;

use std::io;
use std::sync::Arc;

/// The unit in which a write can be torn.
pub const SECTOR_BYTES: usize = 512;

/// One file or block device of a store. All calls take `&self` and may come from any thread.
pub trait Disk: Send + Sync {
    /// Reads exactly `buf.len()` bytes at `offset`.
    ///
    /// # Errors
    /// A media error, or `UnexpectedEof` when the range ends beyond [`Disk::len_bytes`].
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Writes all of `buf` at `offset`, growing the file when it ends beyond its length. Durable
    /// only after a later [`Disk::flush`].
    ///
    /// # Errors
    /// A media error or `StorageFull`; what was written then is unknown.
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()>;

    /// Writes all of `bufs` at `offset`, one behind the other; else as [`Disk::write_at`].
    ///
    /// # Errors
    /// As [`Disk::write_at`].
    fn write_all_at(&self, offset: u64, bufs: &[&[u8]]) -> io::Result<()> {
        let mut at = offset;
        for buf in bufs {
            self.write_at(at, buf)?;
            at = at.saturating_add(buf.len() as u64);
        }
        Ok(())
    }

    /// Writes all of `buf` at `offset` and makes it durable, but no other write.
    ///
    /// # Errors
    /// As [`Disk::write_at`] and [`Disk::flush`].
    fn write_through(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.write_at(offset, buf)?;
        self.flush()
    }

    /// Makes every completed write durable (and the length, where it grew).
    ///
    /// # Errors
    /// After an error nothing that was not durable before may ever be taken for durable.
    fn flush(&self) -> io::Result<()>;

    /// Reserves space so that writes within `offset..offset + len` will not fail for want of it,
    /// and grows the file to hold it. Reads of reserved, unwritten space give zeros.
    ///
    /// # Errors
    /// `StorageFull` when the space is not there; nothing has changed then.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;

    /// As [`Disk::allocate`], and makes the range ready to be overwritten: where a file system notes
    /// what of a file was never written, a durable write there would be two.
    ///
    /// # Errors
    /// As [`Disk::allocate`]; the range may have been allocated then.
    fn preallocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.allocate(offset, len)
    }

    /// Gives the space of whole blocks of the range back to the medium; reads of it give zeros
    /// afterwards. Durable only after a later [`Disk::flush`]: until then a crash may undo any of it.
    ///
    /// # Errors
    /// `Unsupported` where the medium cannot do it, and nothing was done. Any other: what was done is
    /// unknown.
    fn trim(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Makes the file end at `len`, if it ends behind it. Nothing behind `len` may be in use.
    ///
    /// # Errors
    /// `Unsupported` for what is not a file; a media error.
    fn cut(&self, len: u64) -> io::Result<()> {
        let _ = len;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The medium's blocks, of which [`Disk::trim`] gives back whole ones only.
    fn block_bytes(&self) -> u64 {
        4096
    }

    /// Length in bytes.
    fn len_bytes(&self) -> u64;

    /// Bytes of space that the medium has given for it; fewer than it is long where it has holes.
    ///
    /// # Errors
    /// When the medium does not answer.
    fn held_bytes(&self) -> io::Result<u64> {
        Ok(self.len_bytes())
    }

    /// Bytes of space that the medium got back since it had given `before`, when `punched` were
    /// punched: fewer where there were holes before. All of them where it does not say.
    fn given_back(&self, before: &io::Result<u64>, punched: u64) -> u64 {
        match (before, self.held_bytes()) {
            (Ok(before), Ok(after)) if after < self.len_bytes() => before.saturating_sub(after),
            _ => punched,
        }
    }

    /// Space in bytes still available for growth, by what the medium says now.
    ///
    /// # Errors
    /// When the medium does not answer.
    fn available_bytes(&self) -> io::Result<u64>;
}

/// The disks of one store.
#[derive(Clone)]
pub struct Media {
    /// The superblock file.
    pub superblock: Arc<dyn Disk>,
    /// Tree pages.
    pub nodes: Arc<dyn Disk>,
    /// Interned names.
    pub strings: Arc<dyn Disk>,
    /// File content.
    pub chunks: Arc<dyn Disk>,
    /// The write-ahead log.
    pub wal: Arc<dyn Disk>,
}
