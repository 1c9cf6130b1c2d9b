//! A file or block device as a disk.
//!
//! Content and log are written past the page cache where the file system lets them (O_DIRECT): a
//! copy in it would cost more than the write. Whole blocks all go that way, so that nothing of such
//! a file is ever dirty in the page cache. Else a direct write might meet a dirty neighbour in the
//! same folio, which the kernel could not drop and would report as a failed flush (fs/iomap/
//! direct-io.c, kiocb_invalidate_post_direct_write). Reads go through it: it holds clean pages only,
//! and direct writes drop those that they make old.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};

use super::Disk;
use super::buffer::{BLOCK_BYTES, Buffer};
use super::dir::{DiskError, failed};
use super::host::FileSystem;
use super::mapped::Mapping;

/// Slices that one call takes (include/uapi/linux/uio.h, UIO_MAXIOV).
const IOV_MAX: usize = 1024;
/// Bytes written at once when a file is made ready.
const ZEROS_BYTES: usize = 1 << 20;

/// The part of a Btrfs that is left to its own trees, which it copies when a file is overwritten: a
/// full one refuses that now and then, of files too whose content it overwrites in place.
const BTRFS_OWN_SHARE: u64 = 16;
/// The most that is left to them.
const BTRFS_OWN_MAX_BYTES: u64 = 1 << 30;
/// The least: its trees of a small disk are no smaller.
const BTRFS_OWN_MIN_BYTES: u64 = 32 << 20;

/// How a disk is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads through a mapping, writes through the page cache.
    Mapped,
    /// Reads through the page cache, writes whole blocks past it.
    Direct,
    /// Reads and writes through the page cache.
    Cached,
}

/// A file or block device.
pub struct FileDisk {
    path: PathBuf,
    file: File,
    /// The same, opened for direct I/O.
    direct: Option<File>,
    /// Whether direct I/O was found not to work after all.
    direct_fails: AtomicBool,
    is_device: bool,
    /// Length in bytes, as far as this process knows: nobody else changes it.
    length: AtomicU64,
    /// What reads are copied from.
    mapping: Option<Mapping>,
}

impl FileDisk {
    /// A disk on an open file, which `path` names.
    ///
    /// # Errors
    /// When the system does not tell its length.
    pub fn new(path: PathBuf, file: File, access: Access) -> Result<Self, DiskError> {
        use std::io::Seek;
        let kind = file
            .metadata()
            .map_err(failed(&path, "reading its size"))?
            .file_type();
        let length = (&file)
            .seek(io::SeekFrom::End(0))
            .map_err(failed(&path, "reading its size"))?;
        Ok(FileDisk {
            direct: (access == Access::Direct)
                .then(|| open_direct(&path))
                .flatten(),
            direct_fails: AtomicBool::new(false),
            path,
            is_device: kind.is_block_device(),
            length: AtomicU64::new(length),
            mapping: (access == Access::Mapped).then(Mapping::default),
            file,
        })
    }

    fn named(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))
    }

    fn end_of(&self, offset: u64, len: u64) -> io::Result<u64> {
        offset.checked_add(len).ok_or_else(|| {
            self.named(io::Error::new(
                io::ErrorKind::InvalidInput,
                "beyond any file",
            ))
        })
    }

    /// What to write `bufs` with past the page cache, where that is possible.
    fn direct(&self, offset: u64, bufs: &[IoSlice<'_>]) -> Option<&File> {
        let is_aligned = |buf: &IoSlice<'_>| buf.len().is_multiple_of(BLOCK_BYTES);
        self.direct.as_ref().filter(|_| {
            offset.is_multiple_of(BLOCK_BYTES as u64)
                && bufs.iter().all(is_aligned)
                && !self.direct_fails.load(Ordering::Relaxed)
        })
    }

    /// Writes `bufs` one behind the other; with `through` they are durable then.
    fn put(&self, offset: u64, bufs: &mut [IoSlice<'_>], through: bool) -> io::Result<()> {
        let len: usize = bufs.iter().map(|buf| buf.len()).sum();
        let end = self.end_of(offset, len as u64)?;
        if len == 0 {
            return Ok(());
        }
        let flags = match through {
            true => ReadWriteFlags::DSYNC,
            false => ReadWriteFlags::empty(),
        };
        let direct = self.direct(offset, bufs);
        let lies_well = |buf: &IoSlice<'_>| buf.as_ptr().align_offset(BLOCK_BYTES) == 0;
        if direct.is_some() && !bufs.iter().all(lies_well) {
            let mut moved = Buffer::with_capacity(len);
            bufs.iter().for_each(|buf| moved.extend_from_slice(buf));
            return self.put(offset, &mut [IoSlice::new(&moved)], through);
        }
        let mut rest = Rest { offset, bufs };
        if let Some(file) = direct {
            match rest.write(file, flags) {
                // What is left of a write that was cut short is no whole block: it goes through the
                // page cache, and may fail there for the reason.
                Err(Errno::INVAL) if !rest.offset.is_multiple_of(BLOCK_BYTES as u64) => {}
                // Not here, or larger blocks: the page cache takes everything.
                Err(error @ (Errno::INVAL | Errno::OPNOTSUPP)) => {
                    self.direct_fails.store(true, Ordering::Relaxed);
                    let path = self.path.display();
                    ::log::warn!("{path}: no direct I/O, writing gets slower: {error}");
                }
                other => other.map_err(|error| self.named(error.into()))?,
            }
        }
        match rest.write(&self.file, flags) {
            // Before Linux 4.7, and on some file systems.
            Err(Errno::OPNOTSUPP) if through => {
                let written = rest.write(&self.file, ReadWriteFlags::empty());
                written.map_err(|error| self.named(error.into()))?;
                self.flush()?;
            }
            other => other.map_err(|error| self.named(error.into()))?,
        }
        self.length.fetch_max(end, Ordering::AcqRel);
        Ok(())
    }
}

/// What is left to write.
struct Rest<'a, 'b> {
    offset: u64,
    bufs: &'a mut [IoSlice<'b>],
}

impl Rest<'_, '_> {
    /// Writes it, and forgets what was written.
    fn write(&mut self, file: &File, flags: ReadWriteFlags) -> Result<(), Errno> {
        while !self.bufs.is_empty() {
            let some = self.bufs.get(..IOV_MAX).unwrap_or(self.bufs);
            let written = match pwritev2(file, some, self.offset, flags) {
                Ok(0) => return Err(Errno::IO),
                Ok(written) => written,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error),
            };
            self.offset += written as u64;
            IoSlice::advance_slices(&mut self.bufs, written);
        }
        Ok(())
    }
}

/// Whether a file lies on Btrfs.
pub(super) fn is_btrfs(file: &File) -> bool {
    FileSystem::of(file).is_ok_and(|found| found.kind == "btrfs")
}

/// Opens a file for writing past the page cache; `None` where that is not possible.
fn open_direct(path: &Path) -> Option<File> {
    OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .inspect_err(|error| ::log::debug!("{}: no direct I/O: {error}", path.display()))
        .ok()
}

impl Disk for FileDisk {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = self.end_of(offset, buf.len() as u64)?;
        if let Some(mapping) = &self.mapping {
            let length = self.length.load(Ordering::Acquire);
            if end <= length && mapping.read(&self.file, length, offset, buf)? {
                return Ok(());
            }
        }
        self.file
            .read_exact_at(buf, offset)
            .map_err(|error| self.named(error))
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.put(offset, &mut [IoSlice::new(buf)], false)
    }

    fn write_all_at(&self, offset: u64, bufs: &[&[u8]]) -> io::Result<()> {
        let mut slices: Vec<_> = bufs.iter().map(|buf| IoSlice::new(buf)).collect();
        self.put(offset, &mut slices, false)
    }

    fn write_through(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.put(offset, &mut [IoSlice::new(buf)], true)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data().map_err(|error| self.named(error))
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = self.end_of(offset, len)?;
        if self.is_device {
            if end > self.length.load(Ordering::Acquire) {
                return Err(self.named(io::ErrorKind::StorageFull.into()));
            }
            return Ok(());
        }
        let before = self.length.load(Ordering::Acquire);
        if let Err(error) = fallocate(&self.file, FallocateFlags::empty(), offset, len) {
            // A part may have been allocated: give it back, so that nothing has changed.
            if end > before {
                self.file
                    .set_len(before)
                    .map_err(|error| self.named(error))?;
            }
            return Err(self.named(error.into()));
        }
        self.length.fetch_max(end, Ordering::AcqRel);
        Ok(())
    }

    fn preallocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.allocate(offset, len)?;
        if self.is_device {
            return Ok(());
        }
        let zeros = Buffer::zeroed(ZEROS_BYTES);
        let end = self.end_of(offset, len)?;
        let mut at = offset;
        while at < end {
            let size = usize::try_from(end - at).unwrap_or(ZEROS_BYTES);
            let part = zeros.get(..size).unwrap_or(&zeros);
            self.write_at(at, part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        loop {
            match fallocate(&self.file, flags, offset, len) {
                Err(Errno::INTR) => {}
                // Of a kernel without the call, too.
                Err(error @ (Errno::OPNOTSUPP | Errno::NOSYS)) => {
                    let kind = io::ErrorKind::Unsupported;
                    return Err(self.named(io::Error::new(kind, error)));
                }
                other => return other.map_err(|error| self.named(error.into())),
            }
        }
    }

    fn cut(&self, len: u64) -> io::Result<()> {
        if self.is_device {
            return Err(self.named(io::ErrorKind::Unsupported.into()));
        }
        if len >= self.length.load(Ordering::Acquire) {
            return Ok(());
        }
        self.file.set_len(len).map_err(|error| self.named(error))?;
        self.length.store(len, Ordering::Release);
        Ok(())
    }

    fn block_bytes(&self) -> u64 {
        rustix::fs::fstatvfs(&self.file).map_or(BLOCK_BYTES as u64, |stat| stat.f_bsize)
    }

    fn len_bytes(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }

    fn held_bytes(&self) -> io::Result<u64> {
        if self.is_device {
            return Ok(self.len_bytes());
        }
        let stat = self.file.metadata().map_err(|error| self.named(error))?;
        // In units of 512 bytes, whatever the file system's blocks are: stat(2).
        Ok(stat.blocks().saturating_mul(512))
    }

    fn available_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.file).map_err(|error| self.named(error.into()))?;
        let available = stat.f_bavail.saturating_mul(stat.f_frsize);
        let own = match is_btrfs(&self.file) {
            true => {
                let size = stat.f_blocks.saturating_mul(stat.f_frsize);
                (size / BTRFS_OWN_SHARE).max(BTRFS_OWN_MIN_BYTES)
            }
            false => 0,
        };
        let own = own.min(BTRFS_OWN_MAX_BYTES);
        Ok(available.saturating_sub(own))
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn open(path: &Path) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
    }

    #[test]
    fn every_kind_of_disk_reads_what_was_written() {
        for access in [Access::Cached, Access::Direct, Access::Mapped] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("disk");
            let file = open(&path).unwrap();
            let disk = FileDisk::new(path, file, access).unwrap();
            disk.allocate(0, 1 << 20).unwrap();
            assert_eq!(disk.len_bytes(), 1 << 20);
            let mut buf = [1; 4096];
            disk.read_at(8192, &mut buf).unwrap();
            assert_eq!(buf, [0; 4096]);
            disk.write_at(8192, &[9; 4096]).unwrap();
            disk.write_at((2 << 20) - 1, &[5]).unwrap();
            disk.flush().unwrap();
            disk.read_at(8192, &mut buf).unwrap();
            assert_eq!(buf, [9; 4096]);
            assert_eq!(disk.len_bytes(), 2 << 20);
            disk.trim(8192, 4096).unwrap();
            disk.read_at(8192, &mut buf).unwrap();
            assert_eq!(buf, [0; 4096]);
            disk.cut(3 << 20).unwrap();
            assert_eq!(disk.len_bytes(), 2 << 20, "it does not grow");
            let error = disk.read_at((2 << 20) - 8, &mut buf).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn what_goes_past_the_page_cache_and_what_goes_through_it_agree() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let file = open(&path).unwrap();
        let disk = FileDisk::new(path, file, Access::Direct).unwrap();
        let size = 4 << 20;
        disk.preallocate(0, size as u64).unwrap();
        let mut model = vec![0; size];
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for round in 0..300u32 {
            let value = u8::try_from(round % 250 + 1).unwrap();
            let (at, len) = match rng.random_range(0..3) {
                // Aligned, large and small, and neither.
                0 => (
                    rng.random_range(0..512) * 4096,
                    rng.random_range(1..64) * 4096,
                ),
                1 => (rng.random_range(0..512) * 4096, 4096),
                _ => (rng.random_range(0..2 << 20), rng.random_range(1..200_000)),
            };
            let mut buffer = Buffer::zeroed(len);
            buffer.fill(value);
            match rng.random_range(0..3) {
                0 => disk.write_at(at as u64, &buffer).unwrap(),
                1 => disk.write_through(at as u64, &buffer).unwrap(),
                _ => {
                    let (one, two) = buffer.split_at(len / 2 / 4096 * 4096);
                    disk.write_all_at(at as u64, &[one, two]).unwrap();
                }
            }
            model[at..at + len].fill(value);
            let mut found = vec![0; len + 8192];
            let from = at.saturating_sub(4096).min(size - found.len());
            disk.read_at(from as u64, &mut found).unwrap();
            assert!(found == model[from..from + found.len()], "round {round}");
        }
        let mut found = vec![0; size];
        disk.read_at(0, &mut found).unwrap();
        assert!(found == model);
    }
}
