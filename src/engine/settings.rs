//! Settings of datasets, which hold for what is done from then on.

use std::sync::Arc;

use super::data::{Promise, kept_bytes};
use super::datasets::{DatasetError, found, put_record};
use super::{EngineError, Store};
use crate::format::codec::Compression;
use crate::format::id::DatasetId;
use crate::format::record::{DatasetRecord, Dedup};
use crate::store::StoreError;
use crate::store::pages::Need;
use crate::sync::atomic::Ordering;

/// Sums of what is kept stay below 2^64: all but the one that is being asked for fit a disk.
const RESERVATION_MAX_BYTES: u64 = 1 << 62;

/// What of a dataset's settings is to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// How new chunks are compressed.
    pub compression: Option<Compression>,
    /// Whether equal content is stored once.
    pub dedup: Option<Dedup>,
    /// Bytes that it may use; 0 for no limit.
    pub quota_bytes: Option<u64>,
    /// Inodes that it may have; 0 for no limit.
    pub quota_inodes: Option<u64>,
    /// Bytes that it can use in any case; 0 for none.
    pub reservation_bytes: Option<u64>,
}

impl Settings {
    /// Changes a record.
    pub(super) fn apply(self, record: &mut DatasetRecord) -> Result<(), DatasetError> {
        if let Some(compression) = self.compression {
            (record.codec, record.codec_level) = compression.to_record();
        }
        if let Some(dedup) = self.dedup {
            record.flags = dedup.to_record(record.flags);
        }
        record.quota_bytes = self.quota_bytes.unwrap_or(record.quota_bytes);
        record.quota_inodes = self.quota_inodes.unwrap_or(record.quota_inodes);
        record.reserved_bytes = self.reservation_bytes.unwrap_or(record.reserved_bytes);
        check_limits(&record.name, record.quota_bytes, record.reserved_bytes)
    }

    /// Whether what the dataset uses has to be known exactly from then on.
    fn limits(self) -> bool {
        self.quota_bytes.is_some() || self.reservation_bytes.is_some()
    }
}

/// Whether a dataset can have a quota (0 for none) and a reservation of so many bytes.
fn check_limits(name: &str, quota: u64, reservation: u64) -> Result<(), DatasetError> {
    let reason = if quota != 0 && reservation > quota {
        "its reservation would be larger than its quota"
    } else if reservation > RESERVATION_MAX_BYTES {
        "no store has room for such a reservation"
    } else {
        return Ok(());
    };
    let name = name.to_owned();
    Err(DatasetError::Refused { name, reason })
}

impl Store {
    /// Changes settings of the dataset of a name. Durable on return; nothing has changed when it
    /// fails.
    ///
    /// # Errors
    /// When there is no such dataset; when it is a snapshot; when what is to be kept for it does
    /// not fit; when the store refuses.
    pub fn change_settings(
        self: &Arc<Self>,
        dataset: &str,
        settings: Settings,
    ) -> Result<(), DatasetError> {
        let _one = self.data.setting.lock();
        let (named, mut record) = found(&self.journal.view(), dataset)?;
        if record.snapshot_of.0 != 0 {
            return Err(DatasetError::Refused {
                name: dataset.to_owned(),
                reason: "nothing is written to a snapshot",
            });
        }
        settings.apply(&mut record)?;
        if !settings.limits() {
            return self.put_settings((named, dataset), settings);
        }
        // In use from here on: what it uses and what is kept for it is counted there.
        let volume = self.volume(dataset)?;
        volume.count_exactly();
        let (usage, sum) = (&volume.dataset.usage, &self.data.kept_bytes);
        let (before, more) = usage.reserve(record.reserved_bytes, sum);
        let done = self
            .check_kept(dataset, more)
            .and_then(|()| self.put_settings((volume.dataset.id, dataset), settings));
        done.inspect_err(|_| {
            usage.reserve(before, sum);
        })
    }

    fn put_settings(
        &self,
        (meant, dataset): (DatasetId, &str),
        settings: Settings,
    ) -> Result<(), DatasetError> {
        let mut tx = self.begin_tx(Need::Reclaim)?;
        let (id, mut record) = found(&tx, dataset)?;
        if id != meant {
            // It was renamed meanwhile, and the name given to another.
            return Err(DatasetError::NotFound(dataset.to_owned()));
        }
        settings.apply(&mut record)?;
        put_record(&mut tx, id, &record)?;
        self.end(tx)
    }

    /// Keeps what a dataset that is about to be made is to have reserved.
    pub(super) fn keep_for_new(
        &self,
        name: &str,
        settings: Settings,
    ) -> Result<Promise<'_>, DatasetError> {
        let reservation = settings.reservation_bytes.unwrap_or(0);
        check_limits(name, settings.quota_bytes.unwrap_or(0), reservation)?;
        let more = kept_bytes(reservation, 0);
        let kept = Promise::new(&self.data.kept_bytes, more);
        self.check_kept(name, more)?;
        Ok(kept)
    }

    /// Whether there is room for all that is kept, of which `more` bytes are new.
    fn check_kept(&self, name: &str, more: u64) -> Result<(), DatasetError> {
        if more == 0 {
            return Ok(());
        }
        let kept = || self.data.kept_bytes.load(Ordering::SeqCst);
        let is_full = |checked: &Result<(), EngineError>| {
            matches!(checked, Err(EngineError::Store(StoreError::NoSpace(_))))
        };
        let mut checked = self.check_room(kept(), 0, 0);
        if is_full(&checked) {
            // What was deleted may be room for it.
            self.checkpoint()?;
            checked = self.check_room(kept(), 0, 0);
        }
        if is_full(&checked) {
            let name = name.to_owned();
            let free = self.free_bytes(kept().saturating_sub(more))?;
            return Err(DatasetError::NoRoom { name, more, free });
        }
        Ok(checked?)
    }
}

#[cfg(test)]
mod tests {
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
