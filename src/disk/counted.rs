//! A disk that counts what is asked of it.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::{Disk, Media};
use crate::metrics::{Counter, Histogram};

/// What was asked of one of a store's disks. What is read through a mapping is not among it.
#[derive(Debug, Default)]
pub struct Counts {
    /// Bytes read.
    pub read_bytes: Counter,
    /// Bytes written, and asked to be durable or not.
    pub written_bytes: Counter,
    /// How long each read took.
    pub reads: Histogram,
    /// How long each write took that nobody waits for to be durable.
    pub writes: Histogram,
    /// How long each write took that was durable then.
    pub durable_writes: Histogram,
    /// How long each flush took.
    pub flushes: Histogram,
    /// What the disk refused, but for want of space.
    pub errors: Counter,
}

impl Counts {
    fn note<T>(&self, times: &Histogram, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let since = Instant::now();
        let result = act();
        times.took(since.elapsed());
        if let Err(error) = &result
            && error.kind() != io::ErrorKind::StorageFull
        {
            self.errors.note();
        }
        result
    }

    fn write(
        &self,
        times: &Histogram,
        len: usize,
        act: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        self.note(times, act)?;
        self.written_bytes.add(len as u64);
        Ok(())
    }
}

/// What was asked of the disks of a store.
#[derive(Debug, Clone, Default)]
pub struct Counted {
    /// The superblock's.
    pub superblock: Arc<Counts>,
    /// That of nodes.dat.
    pub nodes: Arc<Counts>,
    /// That of strings.dat.
    pub strings: Arc<Counts>,
    /// That of chunks.dat.
    pub chunks: Arc<Counts>,
    /// The log's.
    pub wal: Arc<Counts>,
}

impl Counted {
    /// Each with its name.
    #[must_use]
    pub fn named(&self) -> [(&'static str, &Counts); 5] {
        [
            ("superblock", &self.superblock),
            ("nodes", &self.nodes),
            ("strings", &self.strings),
            ("chunks", &self.chunks),
            ("wal", &self.wal),
        ]
    }

    /// Bytes written to all of them.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        let written = self.named().map(|(_, counts)| counts.written_bytes.get());
        written.iter().sum()
    }
}

/// One of the disks.
struct CountedDisk {
    disk: Arc<dyn Disk>,
    counts: Arc<Counts>,
}

/// The disks of a store, and what is asked of them from here on.
#[must_use]
pub fn counted(media: Media) -> (Media, Counted) {
    let all = Counted::default();
    let counted = |disk, counts: &Arc<Counts>| -> Arc<dyn Disk> {
        let counts = Arc::clone(counts);
        Arc::new(CountedDisk { disk, counts })
    };
    let media = Media {
        superblock: counted(media.superblock, &all.superblock),
        nodes: counted(media.nodes, &all.nodes),
        strings: counted(media.strings, &all.strings),
        chunks: counted(media.chunks, &all.chunks),
        wal: counted(media.wal, &all.wal),
    };
    (media, all)
}

impl Disk for CountedDisk {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let len = buf.len() as u64;
        let counts = &self.counts;
        counts.note(&counts.reads, || self.disk.read_at(offset, buf))?;
        counts.read_bytes.add(len);
        Ok(())
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let act = || self.disk.write_at(offset, buf);
        self.counts.write(&self.counts.writes, buf.len(), act)
    }

    fn write_all_at(&self, offset: u64, bufs: &[&[u8]]) -> io::Result<()> {
        let act = || self.disk.write_all_at(offset, bufs);
        let len = bufs.iter().map(|buf| buf.len()).sum();
        self.counts.write(&self.counts.writes, len, act)
    }

    fn write_through(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let act = || self.disk.write_through(offset, buf);
        self.counts
            .write(&self.counts.durable_writes, buf.len(), act)
    }

    fn flush(&self) -> io::Result<()> {
        self.counts.note(&self.counts.flushes, || self.disk.flush())
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

    fn held_bytes(&self) -> io::Result<u64> {
        self.disk.held_bytes()
    }

    fn available_bytes(&self) -> io::Result<u64> {
        self.disk.available_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::{Call, Fault, SimMedia};

    fn fail(sim: &SimMedia, kind: io::ErrorKind) {
        let (call, after, sticky) = (Call::Write, 0, true);
        sim.set_fault(Some(Fault {
            call,
            after,
            sticky,
            kind,
        }));
    }

    #[test]
    fn what_was_done_is_counted_and_what_failed_is_told_apart() {
        let sim = SimMedia::new();
        let (media, counts) = counted(sim.media());
        media.wal.write_through(0, &[1; 10]).unwrap();
        media.nodes.write_at(0, &[1; 20]).unwrap();
        media.chunks.write_all_at(0, &[&[1; 30], &[2; 5]]).unwrap();
        media.chunks.read_at(0, &mut [0; 3]).unwrap();
        media.nodes.flush().unwrap();
        fail(&sim, io::ErrorKind::Other);
        assert!(media.nodes.write_at(0, &[1; 7]).is_err());
        fail(&sim, io::ErrorKind::StorageFull);
        assert!(media.nodes.write_at(0, &[1; 7]).is_err());

        assert_eq!(counts.written_bytes(), 65);
        assert_eq!(counts.wal.durable_writes.read().count(), 1);
        assert_eq!(counts.nodes.writes.read().count(), 3);
        assert_eq!(counts.nodes.flushes.read().count(), 1);
        assert_eq!(counts.nodes.errors.get(), 1);
        assert_eq!(counts.chunks.read_bytes.get(), 3);
        assert_eq!(counts.chunks.errors.get(), 0);
    }
}
