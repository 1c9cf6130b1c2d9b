//! The log's reader: whatever stands in the ring, it ends, and gives out what is whole and in
//! order.

use std::io;

use arbitrary::{Arbitrary, Unstructured};
use razorfs::disk::Disk;
use razorfs::format::id::{Lsn, TxId};
use razorfs::format::superblock::COUNT_MAX;
use razorfs::format::wal::{BLOCK_BYTES, LogHeader, RING_START};
use razorfs::log::Change;
use razorfs::log::wal::{RING_MIN_BYTES, WalError, scan};

use super::log::{Log, Names};
use super::store::{LOG_KEY, UUID};

/// The smallest ring, most of it zeros.
struct Ring {
    header: [u8; BLOCK_BYTES],
    /// What is not zero, by offset of the file.
    parts: Vec<(u64, Vec<u8>)>,
}

impl Ring {
    fn put(&mut self, lsn: Lsn, bytes: Vec<u8>) {
        let start = lsn.0 % RING_MIN_BYTES;
        let until_end = usize::try_from(RING_MIN_BYTES - start).unwrap();
        let (first, second) = bytes.split_at(bytes.len().min(until_end));
        self.parts.push((RING_START + start, first.to_vec()));
        if !second.is_empty() {
            self.parts.push((RING_START, second.to_vec()));
        }
    }
}

impl Disk for Ring {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset + buf.len() as u64;
        if end > self.len_bytes() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buf.fill(0);
        let header = (0, self.header.as_slice());
        let parts = self.parts.iter().map(|(at, bytes)| (*at, bytes.as_slice()));
        for (at, bytes) in parts.chain([header]) {
            let (from, to) = (at.max(offset), (at + bytes.len() as u64).min(end));
            if from < to {
                let len = usize::try_from(to - from).unwrap();
                let target = usize::try_from(from - offset).unwrap();
                let source = usize::try_from(from - at).unwrap();
                buf[target..target + len].copy_from_slice(&bytes[source..source + len]);
            }
        }
        Ok(())
    }

    fn write_at(&self, _offset: u64, _buf: &[u8]) -> io::Result<()> {
        panic!("a reader writes");
    }

    fn flush(&self) -> io::Result<()> {
        panic!("a reader flushes");
    }

    fn allocate(&self, _offset: u64, _len: u64) -> io::Result<()> {
        panic!("a reader allocates");
    }

    fn trim(&self, _offset: u64, _len: u64) -> io::Result<()> {
        panic!("a reader trims");
    }

    fn len_bytes(&self) -> u64 {
        RING_START + RING_MIN_BYTES
    }

    fn available_bytes(&self) -> io::Result<u64> {
        Ok(0)
    }
}

/// Where the log begins: anywhere in the ring, after as many rounds of it as a superblock may say.
fn from(u: &mut Unstructured<'_>) -> Lsn {
    let block = BLOCK_BYTES as u64;
    let blocks = RING_MIN_BYTES / block;
    Lsn(match u.arbitrary::<u8>().unwrap_or(0) {
        0..100 => 0,
        100..180 => (blocks - u64::from(u.arbitrary::<u8>().unwrap_or(1) % 8)) * block,
        180..220 => u64::from(u.arbitrary::<u16>().unwrap_or(1)) * block,
        220..235 => COUNT_MAX - u64::from(u.arbitrary::<u16>().unwrap_or(1)) * block,
        _ => u.arbitrary::<u64>().unwrap_or(1) % COUNT_MAX / block * block,
    })
}

pub fn run(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let from = from(&mut u);
    let from_tx = TxId(match u.arbitrary::<u8>().unwrap_or(0) {
        0..240 => 1,
        other => COUNT_MAX - u64::from(other % 4),
    });
    let Ok(log) = Log::arbitrary_take_rest(u) else {
        return;
    };
    let header = LogHeader {
        uuid: UUID,
        ring_bytes: RING_MIN_BYTES,
        next_tx: from_tx,
        checkpoint: from,
        head: from,
        tail: from,
    };
    let mut ring = Ring {
        header: header.encode(),
        parts: Vec::new(),
    };
    let bytes = log.bytes(from, from_tx, LOG_KEY.tag(), Names::default());
    // Batches with gaps between them may run around the ring and over the first of them.
    let last = bytes.batches.last();
    let end = last.map_or(from.0, |(lsn, bytes)| {
        lsn.0.saturating_add(bytes.len() as u64)
    });
    let fits = end
        .checked_sub(from.0)
        .is_some_and(|span| span < RING_MIN_BYTES);
    let whole = if fits { bytes.whole } else { 0 };
    for (lsn, bytes) in bytes.batches {
        if (bytes.len() as u64) < RING_MIN_BYTES {
            ring.put(lsn, bytes);
        }
    }
    let mut expected = from_tx;
    let mut found = 0u64;
    let mut last = from;
    let scanned = scan(&ring, LOG_KEY, from, from_tx, &mut |tx,
                                                            lsn,
                                                            changes: Vec<
        Change,
    >| {
        assert_eq!(tx, expected, "a transaction out of order");
        assert!(lsn > last || found == 0, "{lsn:?} after {last:?}");
        expected = TxId(tx.0.wrapping_add(1));
        (found, last) = (found + 1, lsn);
        drop(changes);
        Ok::<(), WalError>(())
    });
    if let Ok(report) = scanned {
        assert!(report.end >= from && report.end.0 - from.0 <= RING_MIN_BYTES);
        assert_eq!(report.next_tx, expected);
        assert!(found >= whole, "{found} of {whole} whole transactions");
    } else {
        assert_eq!(whole, 0, "a whole log that cannot be read");
    }
}
