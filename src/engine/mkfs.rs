//! Making a store.

use super::{Clock, EngineError};
use crate::disk::Media;
use crate::format::codec::Compression;
use crate::format::id::{DatasetId, Generation, Ino};
use crate::format::key::{self, TreeId};
use crate::format::record::{
    DatasetCounters, DatasetRecord, Dedup, InodeRecord, counters_key, dataset_key, dataset_name_key,
};
use crate::format::superblock::UNITS_END;
use crate::log::recovery;

/// What a new store is to be.
#[derive(Debug, Clone, Copy)]
pub struct MkfsOptions {
    /// Its UUID.
    pub uuid: [u8; 16],
    /// Random bytes: the key of the hashes of names.
    pub hash_seed: [u8; 16],
    /// Bytes of file content it may hold; 0 for as many as the disk gives.
    pub capacity_bytes: u64,
    /// Bytes of the log's ring: a multiple of 4096, at least 4 MiB.
    pub log_bytes: u64,
    /// How new chunks are compressed.
    pub compression: Compression,
    /// Whether equal content is stored once.
    pub dedup: Dedup,
    /// Owner of the root directory.
    pub root_uid: u32,
    /// Group of the root directory.
    pub root_gid: u32,
    /// Permissions of the root directory.
    pub root_mode: u32,
}

impl MkfsOptions {
    /// As [`recovery::Format::reproducible`].
    #[must_use]
    pub fn reproducible() -> Self {
        let format = recovery::Format::reproducible();
        MkfsOptions {
            uuid: format.uuid,
            hash_seed: format.hash_seed,
            capacity_bytes: format.capacity_bytes,
            log_bytes: format.log_bytes,
            compression: Compression::OFF,
            dedup: Dedup::Off,
            root_uid: 0,
            root_gid: 0,
            root_mode: 0o755,
        }
    }
}

/// The log's size when nobody says otherwise: 64 MiB.
pub const LOG_BYTES_DEFAULT: u64 = 64 << 20;

/// Makes a store with one dataset, `main`, on empty media. Durable on return; before that it is no
/// store.
///
/// # Errors
/// When the disk refuses or has no room.
pub fn mkfs(media: Media, options: &MkfsOptions, clock: &Clock) -> Result<(), EngineError> {
    let now = clock();
    let superblock = std::sync::Arc::clone(&media.superblock);
    let format = recovery::Format {
        uuid: options.uuid,
        hash_seed: options.hash_seed,
        created_sec: now.sec,
        capacity_bytes: options.capacity_bytes,
        log_bytes: options.log_bytes,
    };
    let journal = recovery::create(media, format, 1 << 20)?;
    journal.find_free_pages()?;
    let mut tx = journal.begin()?;
    let id = DatasetId::MAIN;
    let (codec, codec_level) = options.compression.to_record();
    let dataset = DatasetRecord {
        flags: options.dedup.to_record(0),
        codec,
        codec_level,
        ..DatasetRecord::new("main", options.uuid, Generation(1), now)
    };
    tx.put(TreeId::Datasets, dataset_key(id), dataset.encode())?;
    tx.put(
        TreeId::Datasets,
        dataset_name_key(&dataset.name),
        id.0.to_le_bytes(),
    )?;
    let counters = DatasetCounters {
        next_ino: Ino::ROOT.0 + 1,
        inodes: 1,
        ..Default::default()
    };
    tx.put(TreeId::Datasets, counters_key(id), counters.encode())?;
    let mode = options.root_mode;
    let root = InodeRecord::new_root(options.root_uid, options.root_gid, mode, now);
    tx.put(TreeId::Fs(id), key::inode(Ino::ROOT), root.encode())?;
    tx.put(
        TreeId::FreeByStart,
        key::u64_key(0),
        UNITS_END.to_le_bytes(),
    )?;
    tx.put(
        TreeId::FreeBySize,
        key::free_by_size(UNITS_END, 0),
        Vec::new(),
    )?;
    tx.commit()?;
    superblock
        .allocate(0, 2 * crate::format::superblock::SUPERBLOCK_BYTES as u64)
        .map_err(|source| crate::store::StoreError::io("superblock, allocating", source))?;
    Ok(journal.checkpoint(true, &|_| Ok(()))?)
}
