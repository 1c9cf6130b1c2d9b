//! Settings of datasets, which hold for what is done from then on.

use super::Store;
use super::datasets::{DatasetError, found, put_record};
use crate::format::codec::Compression;
use crate::format::record::{DatasetRecord, Dedup};
use crate::store::pages::Need;

/// What of a dataset's settings is to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// How new chunks are compressed.
    pub compression: Option<Compression>,
    /// Whether equal content is stored once.
    pub dedup: Option<Dedup>,
}

impl Settings {
    /// Puts them into a dataset's record.
    pub(super) fn apply(self, record: &mut DatasetRecord) {
        if let Some(compression) = self.compression {
            (record.codec, record.codec_level) = compression.to_record();
        }
        if let Some(dedup) = self.dedup {
            record.flags = dedup.to_record(record.flags);
        }
    }
}

impl Store {
    /// Changes settings of the dataset of a name. Durable on return.
    ///
    /// # Errors
    /// When there is no such dataset; when it is a snapshot; when the store refuses.
    pub fn change_settings(&self, dataset: &str, settings: Settings) -> Result<(), DatasetError> {
        let mut tx = self.begin_tx(Need::Reclaim)?;
        let (id, mut record) = found(&tx, dataset)?;
        if record.snapshot_of.0 != 0 {
            return Err(DatasetError::Refused {
                name: dataset.to_owned(),
                reason: "nothing is written to a snapshot",
            });
        }
        settings.apply(&mut record);
        put_record(&mut tx, id, &record)?;
        self.end(tx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::disk::sim::SimMedia;
    use crate::engine::{MkfsOptions, OpenOptions, Volume, mkfs, system_clock};

    fn open(sim: &SimMedia) -> Arc<Volume> {
        let options = OpenOptions {
            background: false,
            ..OpenOptions::default()
        };
        Volume::open_media(sim.media(), options, system_clock()).unwrap()
    }

    fn storing(volume: &Volume) -> String {
        let found = volume.storing(&volume.store().journal.view()).unwrap();
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
        volume
            .store()
            .change_settings("main", set("zstd:7"))
            .unwrap();
        volume
            .store()
            .change_settings("main", dedup("verify"))
            .unwrap();
        volume
            .store()
            .change_settings("main", Settings::default())
            .unwrap();
        assert_eq!(storing(&volume), "zstd:7 verify");
        volume.store().close().unwrap();
        let volume = open(&sim);
        assert_eq!(storing(&volume), "zstd:7 verify");
        volume.store().change_settings("main", dedup("on")).unwrap();
        assert_eq!(storing(&volume), "zstd:7 on");
        volume
            .store()
            .change_settings("main", dedup("off"))
            .unwrap();
        volume.store().change_settings("main", set("off")).unwrap();
        drop(volume);
        assert_eq!(storing(&open(&sim)), "off off");
        let other = open(&sim).store().change_settings("other", set("lz4"));
        assert!(matches!(other, Err(DatasetError::NotFound(_))));
    }
}
