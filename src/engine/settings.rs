//! Settings of datasets, which hold for what is done from then on.

use super::{EngineError, Volume};
use crate::format::codec::Compression;
use crate::format::id::DatasetId;
use crate::format::key::TreeId;
use crate::format::record::{DatasetRecord, Dedup, dataset_key, dataset_name_key};
use crate::store::pages::Need;
use crate::store::{Read, StoreError};

/// What of a dataset's settings is to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// How new chunks are compressed.
    pub compression: Option<Compression>,
    /// Whether equal content is stored once.
    pub dedup: Option<Dedup>,
}

impl Volume {
    /// Changes settings of the store's dataset of a name. Durable after the next sync or close.
    ///
    /// # Errors
    /// `NotFound` when there is no such dataset; when the volume is read-only or the disk full.
    pub fn change_settings(&self, dataset: &str, settings: Settings) -> Result<(), EngineError> {
        let mut tx = self.begin_tx(Need::Reclaim)?;
        let id = find_dataset(&tx, dataset)?.ok_or(EngineError::NotFound)?;
        let what = || format!("dataset {id}");
        let mut record = tx
            .get_with(TreeId::Datasets, &dataset_key(id), DatasetRecord::decode)?
            .ok_or_else(|| StoreError::Corrupt(format!("{} has no record", what())))?
            .map_err(|source| StoreError::format(what(), source))?;
        if let Some(compression) = settings.compression {
            (record.codec, record.codec_level) = compression.to_record();
        }
        if let Some(dedup) = settings.dedup {
            record.flags = dedup.to_record(record.flags);
        }
        tx.put(TreeId::Datasets, dataset_key(id), record.encode())?;
        tx.commit()?;
        Ok(())
    }
}

/// The dataset of a name.
fn find_dataset(read: &impl Read, name: &str) -> Result<Option<DatasetId>, StoreError> {
    let id = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let found = read.get_with(TreeId::Datasets, &dataset_name_key(name), id)?;
    Ok(found.flatten().map(DatasetId))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::disk::sim::SimMedia;
    use crate::engine::{MkfsOptions, OpenOptions, mkfs, system_clock};

    fn open(sim: &SimMedia) -> Arc<Volume> {
        let options = OpenOptions {
            background: false,
            ..OpenOptions::default()
        };
        Volume::open_media(sim.media(), options, system_clock()).unwrap()
    }

    fn storing(volume: &Volume) -> String {
        let found = volume.storing(&volume.journal.view()).unwrap();
        format!("{} {}", found.compression, found.dedup)
    }

    #[test]
    fn what_is_set_stays_set() {
        let sim = SimMedia::new();
        mkfs(sim.media(), &MkfsOptions::reproducible(), &system_clock()).unwrap();
        let volume = open(&sim);
        assert_eq!(storing(&volume), "off off");
        let set = |name: &str| Settings {
            compression: Some(name.parse().unwrap()),
            ..Settings::default()
        };
        let dedup = |name: &str| Settings {
            dedup: Some(name.parse().unwrap()),
            ..Settings::default()
        };
        volume.change_settings("main", set("zstd:7")).unwrap();
        volume.change_settings("main", dedup("verify")).unwrap();
        volume.change_settings("main", Settings::default()).unwrap();
        assert_eq!(storing(&volume), "zstd:7 verify");
        volume.close().unwrap();
        let volume = open(&sim);
        assert_eq!(storing(&volume), "zstd:7 verify");
        volume.change_settings("main", dedup("on")).unwrap();
        assert_eq!(storing(&volume), "zstd:7 on");
        volume.change_settings("main", dedup("off")).unwrap();
        volume.change_settings("main", set("off")).unwrap();
        volume.sync_all().unwrap();
        drop(volume);
        assert_eq!(storing(&open(&sim)), "off off");
        let other = open(&sim).change_settings("other", set("lz4"));
        assert!(matches!(other, Err(EngineError::NotFound)));
    }
}
