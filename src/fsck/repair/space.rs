//! The space of chunks.dat, from the chunks that are there.

use std::ops::ControlFlow;

use super::build::Builder;
use super::chunks::Chunks;
use crate::format::key::{self, TreeId, trailing_u64};
use crate::format::record::{PendingFree, UNITS_PUNCHED_KEY, UNITS_USED_KEY};
use crate::format::superblock::UNITS_END;
use crate::log::recovery;
use crate::store::{Read, StoreError};

/// Memory for pages of the old tree of pending ranges.
const CACHE_BYTES: u64 = 8 << 20;

/// Makes all that no chunk takes free, but for what has no space on the disk below: nothing else
/// will be, once the new trees count.
pub(super) fn rebuild(builder: &mut Builder, chunks: &mut Chunks) -> Result<(), StoreError> {
    chunks.table.sort_unstable_by_key(|chunk| chunk.start_unit);
    let holes = punched(builder);
    let mut end = 0;
    let (mut used, mut punched) = (0, 0);
    for chunk in &chunks.table {
        punched += free(builder, &holes, (end, chunk.start_unit))?;
        end = chunk.start_unit + chunk.units;
        used += chunk.units;
    }
    punched += free(builder, &holes, (end, UNITS_END))?;
    let tree = TreeId::Datasets;
    if punched > 0 {
        builder.put(tree, UNITS_PUNCHED_KEY, &u64::to_le_bytes(punched))?;
    }
    builder.put(tree, UNITS_USED_KEY, &u64::to_le_bytes(used + punched))
}

/// The ranges that were punched, as far as the old trees and the log can tell: first unit, and where
/// it ends. What they cannot tell counts as free.
fn punched(builder: &Builder) -> Vec<(u64, u64)> {
    let options = recovery::Options {
        read_only: true,
        discard_damaged_log: false,
        cache_bytes: CACHE_BYTES,
    };
    let Ok(opened) = recovery::open(builder.media().clone(), options) else {
        return Vec::new();
    };
    let mut found: Vec<(u64, u64)> = Vec::new();
    let view = opened.journal.view();
    // What was found until a page could not be read is right.
    let _ = view.scan(TreeId::FreePending, &[], &[0xff; 9], &mut |key, value| {
        if let (Ok(start), Ok(pending)) = (trailing_u64(key), PendingFree::decode(value))
            && pending.generation == PendingFree::PUNCHED
        {
            found.push((start, start.saturating_add(pending.len_units)));
        }
        ControlFlow::Continue(())
    });
    found
}

/// Makes a range free, but for what of it was punched; how many units that is.
fn free(
    builder: &mut Builder,
    holes: &[(u64, u64)],
    (start, end): (u64, u64),
) -> Result<u64, StoreError> {
    let mut at = start;
    let mut punched = 0;
    let from = holes.partition_point(|(_, hole_end)| *hole_end <= start);
    for (hole, hole_end) in holes.get(from..).unwrap_or_default() {
        let (hole, hole_end) = (at.max(*hole), end.min(*hole_end));
        if hole >= end {
            break;
        }
        if hole >= hole_end {
            continue;
        }
        put_free(builder, at, hole)?;
        let pending = PendingFree {
            len_units: hole_end - hole,
            generation: PendingFree::PUNCHED,
        };
        builder.put(TreeId::FreePending, &key::u64_key(hole), &pending.encode())?;
        punched += hole_end - hole;
        at = hole_end;
    }
    put_free(builder, at, end)?;
    Ok(punched)
}

fn put_free(builder: &mut Builder, start: u64, end: u64) -> Result<(), StoreError> {
    if start >= end {
        return Ok(());
    }
    let len = end - start;
    builder.put(
        TreeId::FreeByStart,
        &key::u64_key(start),
        &len.to_le_bytes(),
    )?;
    builder.put(TreeId::FreeBySize, &key::free_by_size(len, start), &[])
}
