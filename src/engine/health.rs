//! How a store does: how its space lies, what interning names saves, how files are cut up, and how
//! much the disk is written to.
//!
//! Imports nothing but reading: what is told is told alike of a store that is open and of one that
//! is not.

use std::ops::ControlFlow;

use super::{EngineError, Store};
use crate::format::id::DatasetId;
use crate::format::key::{Kind, TreeId, is_of_kind, trailing_u64};
use crate::format::name::record_bytes;
use crate::format::record::{
    DentryRecord, UNITS_PUNCHED_KEY, UNITS_USED_KEY, WEAR_KEY, WearRecord,
};
use crate::format::superblock::{UNIT_BYTES, UNITS_END};
use crate::store::pages::Need;
use crate::store::{Read, StoreError};
use crate::sync::atomic::Ordering;

const UNIT: u64 = UNIT_BYTES as u64;
/// Behind every key.
const KEYS_END: [u8; 10] = [0xff; 10];

/// The space of chunks.dat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// Bytes in chunks, and in what was freed and is not free yet.
    pub used_bytes: u64,
    /// Bytes that went back to the disk below.
    pub punched_bytes: u64,
}

/// How the free space inside of chunks.dat lies: what lies behind its last chunk does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FreeSpace {
    /// Bytes.
    pub bytes: u64,
    /// Pieces that they are in.
    pub pieces: u64,
    /// Bytes of the largest.
    pub largest_bytes: u64,
}

/// Names and files of all datasets and snapshots. What several of them share is counted in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Files {
    /// Entries of directories.
    pub entries: u64,
    /// Bytes of their names, each written out.
    pub entry_name_bytes: u64,
    /// What these would take if each were stored as a name is, with its checksum and length.
    pub entry_record_bytes: u64,
    /// Different names: what is stored of them.
    pub names: u64,
    /// Files that have content in chunks.
    pub with_content: u64,
    /// Extents that they have.
    pub extents: u64,
}

impl Files {
    /// Extents of a file with content, in hundredths.
    #[must_use]
    pub fn extents_percent(&self) -> u64 {
        let extents = self.extents.saturating_mul(100);
        extents.checked_div(self.with_content).unwrap_or(0)
    }

    /// How much smaller strings.dat is, with `stored_bytes`, for storing each name once, in hundredths
    /// of a percent.
    #[must_use]
    pub fn saved_basis_points(&self, stored_bytes: u64) -> i64 {
        saved(self.entry_record_bytes, stored_bytes)
    }

    /// The same, compared with nothing but the names' bytes in each entry; below 0 when checksums and
    /// lengths take more than storing each name once saves.
    #[must_use]
    pub fn bare_saved_basis_points(&self, stored_bytes: u64) -> i64 {
        saved(self.entry_name_bytes, stored_bytes)
    }
}

fn saved(all: u64, stored: u64) -> i64 {
    let (all, stored) = (i128::from(all), i128::from(stored));
    let points = (all - stored).saturating_mul(10_000).checked_div(all);
    i64::try_from(points.unwrap_or(0)).unwrap_or(i64::MIN)
}

/// What is written down of the space of chunks.dat.
///
/// # Errors
/// When it cannot be read.
pub fn space(read: &impl Read) -> Result<Space, StoreError> {
    let units = |key| -> Result<u64, StoreError> {
        let units = read.get_u64(TreeId::Datasets, key)?;
        Ok(units.unwrap_or(0))
    };
    let punched = units(UNITS_PUNCHED_KEY)?;
    Ok(Space {
        used_bytes: units(UNITS_USED_KEY)?
            .saturating_sub(punched)
            .saturating_mul(UNIT),
        punched_bytes: punched.saturating_mul(UNIT),
    })
}

/// Reads all free ranges.
///
/// # Errors
/// When they cannot be read.
pub fn free_space(read: &impl Read) -> Result<FreeSpace, StoreError> {
    let mut sum = FreeSpace::default();
    let mut wrong = None;
    read.scan(TreeId::FreeByStart, &[], &KEYS_END, &mut |key, value| {
        let (start, len) = match (trailing_u64(key), value.try_into().map(u64::from_le_bytes)) {
            (Ok(start), Ok(len)) => (start, len),
            _ => {
                wrong = Some(StoreError::Corrupt("a free range cannot be read".into()));
                return ControlFlow::Break(());
            }
        };
        if start.saturating_add(len) < UNITS_END {
            let bytes = len.saturating_mul(UNIT);
            sum.bytes = sum.bytes.saturating_add(bytes);
            sum.pieces += 1;
            sum.largest_bytes = sum.largest_bytes.max(bytes);
        }
        ControlFlow::Continue(())
    })?;
    wrong.map_or(Ok(sum), Err)
}

/// Walks the trees of these datasets, and the names.
///
/// # Errors
/// When they cannot be read.
pub fn files(
    read: &impl Read,
    datasets: impl IntoIterator<Item = DatasetId>,
) -> Result<Files, StoreError> {
    let mut sum = Files::default();
    for id in datasets {
        let mut wrong = None;
        let mut last = [0; 8];
        read.scan(TreeId::Fs(id), &[], &KEYS_END, &mut |key, value| {
            if is_of_kind(key, Kind::Extent) {
                let ino = key.first_chunk::<8>().copied().unwrap_or_default();
                sum.with_content += u64::from(ino != last);
                sum.extents += 1;
                last = ino;
            } else if is_of_kind(key, Kind::Dentry) {
                match DentryRecord::decode(value) {
                    Ok(entry) => {
                        sum.entries += 1;
                        let len = usize::from(entry.name_len);
                        sum.entry_name_bytes += len as u64;
                        sum.entry_record_bytes += record_bytes(len) as u64;
                    }
                    Err(source) => {
                        wrong = Some(StoreError::format("dentry", source));
                        return ControlFlow::Break(());
                    }
                }
            }
            ControlFlow::Continue(())
        })?;
        wrong.map_or(Ok(()), Err)?;
    }
    let end = [0xff; 17];
    read.scan(TreeId::Names, &[], &end, &mut |_, _| {
        sum.names += 1;
        ControlFlow::Continue(())
    })?;
    Ok(sum)
}

/// What guests wrote and the disks were written, in all the time that the store was open and closed
/// again in the end.
///
/// # Errors
/// When it cannot be read.
pub fn wear(read: &impl Read) -> Result<WearRecord, StoreError> {
    let stored = read.get_with(TreeId::Datasets, WEAR_KEY, WearRecord::decode)?;
    let stored = stored.transpose();
    let stored = stored.map_err(|source| StoreError::format("wear", source))?;
    Ok(stored.unwrap_or_default())
}

impl Store {
    /// What guests wrote and the disks were written since the store was made, but for what was
    /// written before a crash.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn wear(&self) -> Result<WearRecord, EngineError> {
        let before = wear(&self.journal.view())?;
        let since = self.wear_since_opened();
        Ok(WearRecord {
            guest_bytes: before.guest_bytes.saturating_add(since.guest_bytes),
            disk_bytes: before.disk_bytes.saturating_add(since.disk_bytes),
        })
    }

    fn wear_since_opened(&self) -> WearRecord {
        WearRecord {
            guest_bytes: self.guest_bytes.load(Ordering::Relaxed),
            disk_bytes: self.disks.written_bytes(),
        }
    }

    /// Writes it down, when guests wrote anything. Once, when the store is closed: what follows is
    /// not counted.
    pub(super) fn save_wear(&self) -> Result<(), EngineError> {
        if self.wear_since_opened().guest_bytes == 0 {
            return Ok(());
        }
        let record = self.wear()?;
        let mut tx = self.begin_tx(Need::Reclaim)?;
        tx.put(TreeId::Datasets, WEAR_KEY, record.encode())?;
        tx.commit()?;
        self.guest_bytes.store(0, Ordering::Relaxed);
        Ok(())
    }
}
