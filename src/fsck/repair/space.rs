//! The space of chunks.dat, from the chunks that are there.

use super::build::Builder;
use super::chunks::Chunks;
use crate::format::key::{self, TreeId};
use crate::format::record::UNITS_USED_KEY;
use crate::format::superblock::UNITS_END;
use crate::store::StoreError;

/// Makes all that no chunk takes free: nothing else will be, once the new trees count.
pub(super) fn rebuild(builder: &mut Builder, chunks: &mut Chunks) -> Result<(), StoreError> {
    chunks.table.sort_unstable_by_key(|chunk| chunk.start_unit);
    let mut end = 0;
    let mut used = 0;
    for chunk in &chunks.table {
        free(builder, end, chunk.start_unit)?;
        end = chunk.start_unit + chunk.units;
        used += chunk.units;
    }
    free(builder, end, UNITS_END)?;
    builder.put(TreeId::Datasets, UNITS_USED_KEY, &u64::to_le_bytes(used))
}

fn free(builder: &mut Builder, start: u64, end: u64) -> Result<(), StoreError> {
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
