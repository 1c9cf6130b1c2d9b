//! The copies of the superblock and of the log's header, and the log itself.

use super::{Issue, Issues};
use crate::disk::Media;
use crate::format::superblock::Superblock;
use crate::format::wal::{BLOCK_BYTES, LogHeader};
use crate::log::recovery::Report;
use crate::log::wal::{self, WalError};
use crate::store::superblock::Found;

/// Reports what reading them met.
pub(super) fn check(media: &Media, found: &Found, report: &Report, issues: &mut Issues<'_>) {
    // A store that was closed and not written to since has no torn writes: a bad copy is damage.
    // (Nor does an opening that is cut off tear what the store says of that: it lies in one sector.)
    let certain = found.superblock.clean && report.batches == 0 && report.torn_bytes == 0;
    for (copy, reason) in &found.damaged {
        issues.add(Issue::SuperblockCopy {
            copy: *copy,
            reason: reason.clone(),
            certain,
        });
    }
    for copy in 0..2u8 {
        let mut block = [0; BLOCK_BYTES];
        let offset = u64::from(copy) * BLOCK_BYTES as u64;
        let reason = match media.wal.read_at(offset, &mut block) {
            Ok(()) => match LogHeader::decode(&block) {
                Ok(_) => continue,
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        issues.add(Issue::LogHeaderCopy {
            copy,
            reason,
            certain,
        });
    }
    if let Some(damage) = &report.damage {
        issues.add(Issue::LogDamaged {
            at: damage.at,
            durable: damage.durable,
        });
    }
    issues.summary.log_transactions = report.applied;
    if !report.log_read {
        check_empty(media, &found.superblock, issues);
    }
}

/// Nobody reads the log of a store that was closed: what it held would be lost, and could come back
/// behind what is written there later.
fn check_empty(media: &Media, superblock: &Superblock, issues: &mut Issues<'_>) {
    let (from, tx) = (superblock.checkpoint_lsn, superblock.next_tx);
    let reason = match wal::scan(
        &*media.wal,
        superblock.log_key(),
        from,
        tx,
        &mut |_, _, _| Ok::<(), WalError>(()),
    ) {
        Ok(scan) if scan.batches == 0 && scan.stale.is_empty() => return,
        Ok(scan) => {
            let batches = scan.batches + scan.stale.len() as u64;
            format!("wal.log holds {batches} batches behind its last checkpoint")
        }
        Err(error) => error.to_string(),
    };
    issues.add(Issue::LogOfClosed { reason });
}
