//! Analysis: reading the log from a checkpoint to its end.
//!
//! The end is the first batch that is not whole. When a later batch says that everything up to
//! beyond that point had been durable, it is not the end but damage: acknowledged log is missing.

use super::Change;
use super::wal::{WalError, read_header};
use crate::disk::Disk;
use crate::format::id::{Lsn, TxId};
use crate::format::wal::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, ENTRY_HEADER_BYTES, LogKey, RING_START,
    decode_entry, padded_bytes,
};

/// Acknowledged log that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "wal.log is damaged at {at}: a later batch shows that everything before {durable} had been \
     durable; what was done after {at} is lost"
)]
pub struct Damage {
    /// Where the first batch that is not whole should begin.
    pub at: Lsn,
    /// Everything before this had been acknowledged.
    pub durable: Lsn,
}

/// What analysis found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanReport {
    /// Where the log ends.
    pub end: Lsn,
    /// The number of the next transaction.
    pub next_tx: TxId,
    /// Whole batches.
    pub batches: u64,
    /// Transactions in batches that are not whole: never acknowledged, dropped.
    pub dropped: u64,
    /// Bytes of the batch at the end that is not whole.
    pub torn_bytes: u64,
    /// Batches behind the end, which do not count.
    pub stale: Vec<Lsn>,
    /// Damage in acknowledged log.
    pub damage: Option<Damage>,
}

impl ScanReport {
    /// What analysis finds where the log ends.
    #[must_use]
    pub fn starting(end: Lsn, next_tx: TxId) -> Self {
        ScanReport {
            end,
            next_tx,
            batches: 0,
            dropped: 0,
            torn_bytes: 0,
            stale: Vec::new(),
            damage: None,
        }
    }
}

struct Ring<'a> {
    disk: &'a dyn Disk,
    bytes: u64,
    tag: u64,
}

impl Ring<'_> {
    fn read(&self, lsn: Lsn, buf: &mut [u8]) -> Result<(), WalError> {
        let start = lsn.0 % self.bytes;
        let until_end = usize::try_from(self.bytes - start).unwrap_or(usize::MAX);
        let (first, second) = buf.split_at_mut(buf.len().min(until_end));
        let failed = |source| WalError::io("reading", source);
        self.disk
            .read_at(RING_START + start, first)
            .map_err(failed)?;
        if second.is_empty() {
            return Ok(());
        }
        self.disk.read_at(RING_START, second).map_err(failed)
    }

    fn header(&self, lsn: Lsn) -> Result<Option<BatchHeader>, WalError> {
        let mut bytes = [0; BATCH_HEADER_BYTES];
        self.read(lsn, &mut bytes)?;
        Ok(BatchHeader::decode(&bytes, lsn, self.tag))
    }
}

/// Reads the log from `from`, where transaction `from_tx` begins, and hands each committed
/// transaction to `sink` in order.
///
/// # Errors
/// When the log is not this store's or the disk refuses; and what `sink` fails with.
pub fn scan<E: From<WalError>>(
    disk: &dyn Disk,
    key: LogKey,
    from: Lsn,
    from_tx: TxId,
    sink: &mut dyn FnMut(TxId, Lsn, Vec<Change>) -> Result<(), E>,
) -> Result<ScanReport, E> {
    let bytes = read_header(disk, key.uuid)?.ring_bytes;
    let ring = Ring {
        disk,
        bytes,
        tag: key.tag(),
    };
    let mut report = ScanReport::starting(from, from_tx);
    while let Some(header) = ring.header(report.end)? {
        // The ring cannot hold more than itself.
        if report.end.0 - from.0 + header.padded_bytes() > ring.bytes {
            break;
        }
        let mut payload = vec![0; header.payload_len as usize];
        ring.read(Lsn(header.lsn.0 + BATCH_HEADER_BYTES as u64), &mut payload)?;
        let (transactions, whole) = entries(&header, &payload, report.next_tx);
        if !whole {
            report.dropped = transactions.len() as u64;
            report.torn_bytes = header.padded_bytes();
            break;
        }
        for (tx, lsn, changes) in transactions {
            sink(tx, lsn, changes)?;
            report.next_tx = TxId(tx.0 + 1);
        }
        report.batches += 1;
        report.end = Lsn(header.lsn.0 + padded_bytes(payload.len()));
    }
    look_behind(&ring, from, &mut report)?;
    Ok(report)
}

type Transaction = (TxId, Lsn, Vec<Change>);

/// The whole entries at the front of a batch, and whether the batch is whole.
fn entries(header: &BatchHeader, payload: &[u8], next_tx: TxId) -> (Vec<Transaction>, bool) {
    let mut rest = payload;
    let mut transactions = Vec::new();
    let mut expected_tx = next_tx;
    while !rest.is_empty() {
        let done = payload.len() - rest.len();
        let lsn = Lsn(header.lsn.0 + (BATCH_HEADER_BYTES + done) as u64);
        let Ok((entry, changes)) = decode_entry(&mut rest, lsn) else {
            break;
        };
        let Ok(changes) = Change::decode_all(changes, entry.changes) else {
            break;
        };
        if entry.tx != expected_tx {
            break;
        }
        expected_tx = TxId(expected_tx.0.saturating_add(1));
        transactions.push((entry.tx, lsn, changes));
    }
    let whole = rest.is_empty()
        && transactions.len() == header.entries as usize
        && payload.len() >= ENTRY_HEADER_BYTES
        && header.first_tx == next_tx;
    (transactions, whole)
}

/// Looks for batches behind the end: they are stale, and may show that the end is none.
fn look_behind(ring: &Ring<'_>, from: Lsn, report: &mut ScanReport) -> Result<(), WalError> {
    const STEP: usize = 256 * BLOCK_BYTES;
    let limit = from.0.saturating_add(ring.bytes);
    let mut buffer = vec![0; STEP];
    let mut at = report.end.0;
    let mut proof = Lsn(0);
    while at < limit {
        let len = usize::try_from(limit - at).unwrap_or(STEP).min(STEP);
        let Some(window) = buffer.get_mut(..len) else {
            break;
        };
        ring.read(Lsn(at), window)?;
        for (index, block) in window.chunks(BLOCK_BYTES).enumerate() {
            let lsn = Lsn(at + (index * BLOCK_BYTES) as u64);
            if let Some(header) = BatchHeader::decode(block, lsn, ring.tag) {
                report.stale.push(lsn);
                proof = proof.max(header.durable);
            }
        }
        at += len as u64;
    }
    if proof > report.end {
        report.damage = Some(Damage {
            at: report.end,
            durable: proof,
        });
    }
    Ok(())
}
