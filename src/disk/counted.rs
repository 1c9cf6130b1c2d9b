//! A disk that counts what is written to it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Disk, Media};

/// Bytes written to the disks of a store, and asked to be durable or not.
#[derive(Debug, Clone, Default)]
pub struct Written(Arc<AtomicU64>);

impl Written {
    /// How many so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn note<T>(&self, result: io::Result<T>, len: usize) -> io::Result<T> {
        if result.is_ok() {
            self.0.fetch_add(len as u64, Ordering::Relaxed);
        }
        result
    }
}

/// One of the disks.
struct Counted {
    disk: Arc<dyn Disk>,
    written: Written,
}

/// The disks of a store, whose writes are counted together.
#[must_use]
pub fn counted(media: Media) -> (Media, Written) {
    let written = Written::default();
    let counted = |disk| -> Arc<dyn Disk> {
        let written = written.clone();
        Arc::new(Counted { disk, written })
    };
    let media = Media {
        superblock: counted(media.superblock),
        nodes: counted(media.nodes),
        strings: counted(media.strings),
        chunks: counted(media.chunks),
        wal: counted(media.wal),
    };
    (media, written)
}

impl Disk for Counted {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let result = self.disk.write_at(offset, buf);
        self.written.note(result, buf.len())
    }

    fn write_all_at(&self, offset: u64, bufs: &[&[u8]]) -> io::Result<()> {
        let result = self.disk.write_all_at(offset, bufs);
        let len = bufs.iter().map(|buf| buf.len()).sum();
        self.written.note(result, len)
    }

    fn write_through(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let result = self.disk.write_through(offset, buf);
        self.written.note(result, buf.len())
    }

    fn flush(&self) -> io::Result<()> {
        self.disk.flush()
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.allocate(offset, len)
    }

    fn preallocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.preallocate(offset, len)
    }

    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.trim(offset, len)
    }

    fn cut(&self, len: u64) -> io::Result<()> {
        self.disk.cut(len)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::{Call, Fault, SimMedia};

    #[test]
    fn what_was_written_is_counted_and_what_failed_is_not() {
        let sim = SimMedia::new();
        let (media, written) = counted(sim.media());
        media.wal.write_through(0, &[1; 10]).unwrap();
        media.nodes.write_at(0, &[1; 20]).unwrap();
        media.chunks.write_all_at(0, &[&[1; 30], &[2; 5]]).unwrap();
        let (call, after, sticky) = (Call::Write, 0, true);
        let kind = io::ErrorKind::Other;
        sim.set_fault(Some(Fault {
            call,
            after,
            sticky,
            kind,
        }));
        assert!(media.nodes.write_at(0, &[1; 7]).is_err());
        assert_eq!(written.bytes(), 65);
    }
}
