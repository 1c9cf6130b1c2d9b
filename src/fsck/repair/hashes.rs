//! The tree that finds chunks by their content, from the chunks that are there.

use super::build::Builder;
use crate::format::id::DatasetId;
use crate::format::key::{self, TreeId, trailing_u64};
use crate::format::record::{ChunkRecord, DatasetRecord, Dedup, dataset_key};
use crate::store::StoreError;

/// Enters all chunks, if any dataset looks for equal ones.
pub(super) fn rebuild(builder: &mut Builder, datasets: &[DatasetId]) -> Result<(), StoreError> {
    let mut dedups = false;
    for id in datasets {
        let value = builder.view().get(TreeId::Datasets, &dataset_key(*id))?;
        let record = value.and_then(|value| DatasetRecord::decode(&value).ok());
        dedups |= record.is_some_and(|record| Dedup::of_record(record.flags) != Dedup::Off);
    }
    if !dedups {
        return Ok(());
    }
    builder.view().scan_all(TreeId::Chunks, &mut |key, value| {
        if let (Ok(id), Ok(record)) = (trailing_u64(key), ChunkRecord::decode(value)) {
            let hash = key::chunk_hash(&record.hash);
            builder.put(TreeId::ChunkHashes, &hash, &id.to_le_bytes())?;
        }
        Ok(())
    })
}
