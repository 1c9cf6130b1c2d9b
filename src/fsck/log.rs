//! The copies of the superblock and of the log's header, and the log itself.

use super::{Issue, Issues};
use crate::disk::Media;
use crate::format::wal::{BLOCK_BYTES, LogHeader};
use crate::log::recovery::Report;
use crate::store::superblock::Found;

/// Reports what reading them met.
pub(super) fn check(media: &Media, found: &Found, report: &Report, issues: &mut Issues<'_>) {
    // A store that was closed and not written to since has no torn writes: a bad copy is damage.
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
}
