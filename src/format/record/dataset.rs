//! Datasets and what is counted about them, and the keys of their tree.

use std::fmt;
use std::str::FromStr;

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{FormatError, PagePtr, Time, TimeWire, exact};
use crate::format::codec::Compression;
use crate::format::id::{DatasetId, Generation, PageNo};
use crate::format::key::Key;

/// A dataset: a named tree. Keyed by (1, id) in the dataset tree; see [`dataset_key`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetRecord {
    /// The root of its tree as of the last checkpoint.
    pub root: PagePtr,
    /// `DATASET_*` bits.
    pub flags: u32,
    /// Bytes its files may take; 0 for no limit.
    pub quota_bytes: u64,
    /// Inodes it may have; 0 for no limit.
    pub quota_inodes: u64,
    /// Bytes kept for it; 0 for none.
    pub reserved_bytes: u64,
    /// The dataset or snapshot it began as; 0 for none.
    pub origin: DatasetId,
    /// Of a snapshot, the dataset it is of; 0 for a dataset.
    pub snapshot_of: DatasetId,
    /// The checkpoint in which it was made; of a snapshot, the newest of whose extents it may have.
    pub birth: Generation,
    /// When it was made.
    pub created: Time,
    /// Its UUID.
    pub uuid: [u8; 16],
    /// Compression of new chunks: see [`Compression::of_record`].
    pub codec: u8,
    /// Compression level, 0 for the codec's default.
    pub codec_level: u8,
    /// Its name: 1 to 255 bytes of UTF-8; none once it is deleted.
    pub name: String,
}

/// The dataset refuses changes.
pub const DATASET_READ_ONLY: u32 = 1;
/// The dataset deduplicates what is written to it.
pub const DATASET_DEDUP: u32 = 2;
/// The dataset or snapshot is deleted: it has no name any more, and goes once at most one other tree
/// follows it.
pub const DATASET_DOOMED: u32 = 8;
/// The snapshot must not be deleted.
pub const DATASET_HELD: u32 = 16;
/// A snapshot is being received into the dataset: it is nobody's yet, and its name is no name.
pub const DATASET_RECEIVING: u32 = 32;
/// It compares content byte by byte before it counts as equal.
pub const DATASET_DEDUP_VERIFY: u32 = 4;

/// Whether a dataset stores equal content once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dedup {
    /// No.
    #[default]
    Off,
    /// Content of the same BLAKE3 hash.
    On,
    /// Content that was read back and compared.
    Verify,
}

/// What was asked for is no [`Dedup`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is none of off, on, and verify")]
pub struct NoDedup(String);

impl Dedup {
    /// As the flags of a dataset's record say.
    #[must_use]
    pub fn of_record(flags: u32) -> Dedup {
        match (flags & DATASET_DEDUP, flags & DATASET_DEDUP_VERIFY) {
            (0, _) => Dedup::Off,
            (_, 0) => Dedup::On,
            _ => Dedup::Verify,
        }
    }

    /// The flags of a dataset's record, changed to say so.
    #[must_use]
    pub fn to_record(self, flags: u32) -> u32 {
        let own = match self {
            Dedup::Off => 0,
            Dedup::On => DATASET_DEDUP,
            Dedup::Verify => DATASET_DEDUP | DATASET_DEDUP_VERIFY,
        };
        flags & !(DATASET_DEDUP | DATASET_DEDUP_VERIFY) | own
    }
}

impl FromStr for Dedup {
    type Err = NoDedup;

    fn from_str(text: &str) -> Result<Self, NoDedup> {
        match text {
            "off" => Ok(Dedup::Off),
            "on" => Ok(Dedup::On),
            "verify" => Ok(Dedup::Verify),
            _ => Err(NoDedup(text.to_owned())),
        }
    }
}

impl fmt::Display for Dedup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dedup::Off => "off",
            Dedup::On => "on",
            Dedup::Verify => "verify",
        })
    }
}

/// How a dataset's new chunks are made: the part of its record that write-out needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storing {
    /// How they are compressed.
    pub compression: Compression,
    /// Whether they are made at all where there are equal ones.
    pub dedup: Dedup,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DatasetWire {
    root_page: U64,
    root_generation: U64,
    quota_bytes: U64,
    quota_inodes: U64,
    reserved_bytes: U64,
    origin: U64,
    snapshot_of: U64,
    birth: U64,
    created: TimeWire,
    uuid: [u8; 16],
    flags: U32,
    codec: u8,
    codec_level: u8,
    name_len: U16,
}

const _: () = assert!(size_of::<DatasetWire>() == 100);

const WHAT: &str = "dataset record";

/// The record, and the name behind it.
fn parts(bytes: &[u8]) -> Result<(&DatasetWire, &[u8]), FormatError> {
    let (wire, name) = DatasetWire::ref_from_prefix(bytes).map_err(|_| FormatError::Length {
        what: WHAT,
        expected: size_of::<DatasetWire>(),
        found: bytes.len(),
    })?;
    let name_len = usize::from(wire.name_len.get());
    if name_len != name.len() {
        return Err(FormatError::Length {
            what: WHAT,
            expected: name_len,
            found: name.len(),
        });
    }
    Ok((wire, name))
}

/// What a dataset may take: the part of its record that changes of it need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// [`DatasetRecord::quota_bytes`].
    pub bytes: u64,
    /// [`DatasetRecord::quota_inodes`].
    pub inodes: u64,
}

impl Storing {
    /// Reads it from the bytes of a [`DatasetRecord`].
    ///
    /// # Errors
    /// When lengths do not fit together, or there is no such compression.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (wire, _) = parts(bytes)?;
        Ok(Storing {
            compression: Compression::of_record(wire.codec, wire.codec_level)?,
            dedup: Dedup::of_record(wire.flags.get()),
        })
    }
}

impl Quota {
    /// Reads it from the bytes of a [`DatasetRecord`].
    ///
    /// # Errors
    /// When lengths do not fit together.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (wire, _) = parts(bytes)?;
        Ok(Quota {
            bytes: wire.quota_bytes.get(),
            inodes: wire.quota_inodes.get(),
        })
    }
}

impl DatasetRecord {
    /// That of a dataset with nothing set and nothing in it.
    #[must_use]
    pub fn new(name: &str, uuid: [u8; 16], birth: Generation, created: Time) -> Self {
        DatasetRecord {
            root: PagePtr::EMPTY,
            flags: 0,
            quota_bytes: 0,
            quota_inodes: 0,
            reserved_bytes: 0,
            origin: DatasetId(0),
            snapshot_of: DatasetId(0),
            birth,
            created,
            uuid,
            codec: 0,
            codec_level: 0,
            name: name.to_owned(),
        }
    }

    /// The bytes of the record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = DatasetWire {
            root_page: self.root.page.0.into(),
            root_generation: self.root.generation.0.into(),
            quota_bytes: self.quota_bytes.into(),
            quota_inodes: self.quota_inodes.into(),
            reserved_bytes: self.reserved_bytes.into(),
            origin: self.origin.0.into(),
            snapshot_of: self.snapshot_of.0.into(),
            birth: self.birth.0.into(),
            created: self.created.into(),
            uuid: self.uuid,
            flags: self.flags.into(),
            codec: self.codec,
            codec_level: self.codec_level,
            name_len: u16::try_from(self.name.len()).unwrap_or(u16::MAX).into(),
        }
        .as_bytes()
        .to_vec();
        bytes.extend_from_slice(self.name.as_bytes());
        bytes
    }

    /// Reads the record.
    ///
    /// # Errors
    /// When lengths do not fit together, the name is not UTF-8, or there is no such compression.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (wire, name) = parts(bytes)?;
        let name = std::str::from_utf8(name).map_err(|_| FormatError::Field {
            what: WHAT,
            field: "name",
            found: 0,
        })?;
        Compression::of_record(wire.codec, wire.codec_level)?;
        Ok(DatasetRecord {
            root: PagePtr {
                page: PageNo(wire.root_page.get()),
                generation: Generation(wire.root_generation.get()),
            },
            flags: wire.flags.get(),
            quota_bytes: wire.quota_bytes.get(),
            quota_inodes: wire.quota_inodes.get(),
            reserved_bytes: wire.reserved_bytes.get(),
            origin: DatasetId(wire.origin.get()),
            snapshot_of: DatasetId(wire.snapshot_of.get()),
            birth: Generation(wire.birth.get()),
            created: wire.created.decode()?,
            uuid: wire.uuid,
            codec: wire.codec,
            codec_level: wire.codec_level,
            name: name.to_owned(),
        })
    }
}

/// What changes in a dataset with nearly every transaction, kept apart from its record so that the
/// log stays small. Keyed by [`counters_key`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DatasetCounters {
    /// The number of the next inode.
    pub next_ino: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// Sum of [`super::InodeRecord::allocated`].
    pub allocated_bytes: u64,
    /// The part of `allocated_bytes` in reserved extents.
    pub reserved_bytes: u64,
}

impl DatasetCounters {
    /// The bytes of the record.
    #[must_use]
    pub fn encode(&self) -> [u8; 32] {
        zerocopy::transmute!([
            U64::new(self.next_ino),
            U64::new(self.inodes),
            U64::new(self.allocated_bytes),
            U64::new(self.reserved_bytes),
        ])
    }

    /// Reads the record.
    ///
    /// # Errors
    /// When the length is not that of the record.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let [next_ino, inodes, allocated, reserved]: [U64; 4] = exact("dataset counters", bytes)?;
        Ok(DatasetCounters {
            next_ino: next_ino.get(),
            inodes: inodes.get(),
            allocated_bytes: allocated.get(),
            reserved_bytes: reserved.get(),
        })
    }
}

/// The key of a dataset's record in the dataset tree.
#[must_use]
pub fn dataset_key(id: DatasetId) -> Key {
    numbered(DATASET_KIND, id)
}

/// The key of a dataset's counters in the dataset tree.
#[must_use]
pub fn counters_key(id: DatasetId) -> Key {
    numbered(2, id)
}

/// The first byte of what [`dataset_key`] makes.
pub const DATASET_KIND: u8 = 1;
/// The first byte of what [`lineage_key`] makes.
pub const LINEAGE_KIND: u8 = 6;

/// The key of a dataset's [`super::LineageRecord`] in the dataset tree.
#[must_use]
pub fn lineage_key(id: DatasetId) -> Key {
    numbered(LINEAGE_KIND, id)
}

/// The first byte of what [`receive_key`] makes.
pub const RECEIVE_KIND: u8 = 9;

/// The key of a dataset's [`super::ReceiveRecord`] in the dataset tree.
#[must_use]
pub fn receive_key(id: DatasetId) -> Key {
    numbered(RECEIVE_KIND, id)
}

/// The first byte of what [`history_key`] makes.
pub const HISTORY_KIND: u8 = 13;

/// The key of a dataset's [`super::HistoryRecord`] in the dataset tree.
#[must_use]
pub fn history_key(id: DatasetId) -> Key {
    numbered(HISTORY_KIND, id)
}

/// The key in the dataset tree of the generation of the last repair (u64 LE): no page that is older is
/// part of any tree since. Without it there was none.
pub const REPAIRED_KEY: &[u8] = &[14];

/// The key in the dataset tree of the mark (no value) that pages may be in no tree any more and not
/// be free yet: there are snapshots or clones, or were.
pub const UNREACHED_KEY: &[u8] = &[7];

/// The key in the dataset tree of the number of the next dataset (u64 LE); without it that is 2.
pub const NEXT_DATASET_KEY: &[u8] = &[8];

fn numbered(kind: u8, id: DatasetId) -> Key {
    let mut key = Key::new();
    key.push(kind);
    key.extend_from_slice(&id.0.to_be_bytes());
    key
}

/// The key in the dataset tree of the number of units of chunks.dat that are not free (u64 LE), in
/// chunks and in pending ranges; without it they are 0.
pub const UNITS_USED_KEY: &[u8] = &[4];

/// The key in the dataset tree of how far a scrub got: [`ScrubRecord`].
pub const SCRUB_KEY: &[u8] = &[5];

/// The key in the dataset tree of what was written: [`WearRecord`].
pub const WEAR_KEY: &[u8] = &[12];

/// The key in the dataset tree of the number of units of chunks.dat (u64 LE) in punched ranges
/// ([`PendingFree::PUNCHED`](super::PendingFree::PUNCHED)); without it they are 0.
pub const UNITS_PUNCHED_KEY: &[u8] = &[11];

/// How far a scrub got, so that it can go on after an interruption.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScrubRecord {
    /// What is being read: trees by their place, then chunks, then names.
    pub stage: u64,
    /// When it began, seconds since 1970; with `stage` [`ScrubRecord::DONE`], when it ended.
    pub at_sec: u64,
    /// Pages, chunks and names read.
    pub items: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What was found damaged.
    pub errors: u64,
    /// The key to go on from.
    pub cursor: Vec<u8>,
}

impl ScrubRecord {
    /// The stage of a scrub that is through.
    pub const DONE: u64 = u64::MAX;

    /// The bytes of the record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = [self.stage, self.at_sec, self.items, self.bytes, self.errors]
            .map(u64::to_le_bytes)
            .concat();
        bytes.extend_from_slice(&self.cursor);
        bytes
    }

    /// Reads the record.
    ///
    /// # Errors
    /// When it is shorter than one, or its key longer than a key can be.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let what = "scrub record";
        let (numbers, cursor) =
            <[U64; 5]>::read_from_prefix(bytes).map_err(|_| FormatError::Length {
                what,
                expected: 40,
                found: bytes.len(),
            })?;
        if cursor.len() > crate::format::key::KEY_MAX {
            let field = "cursor";
            let found = cursor.len() as u64;
            return Err(FormatError::Field { what, field, found });
        }
        let [stage, at_sec, items, bytes, errors] = numbers.map(U64::get);
        Ok(ScrubRecord {
            stage,
            at_sec,
            items,
            bytes,
            errors,
            cursor: cursor.to_vec(),
        })
    }
}

/// What was written to a store while it was open, as of its last closing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WearRecord {
    /// Bytes that guests wrote.
    pub guest_bytes: u64,
    /// Bytes that the disks were written.
    pub disk_bytes: u64,
}

impl WearRecord {
    /// The bytes of the record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [self.guest_bytes, self.disk_bytes]
            .map(u64::to_le_bytes)
            .concat()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// When the length of the bytes is not that of the record.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let [guest, disk]: [U64; 2] = exact("wear record", bytes)?;
        Ok(WearRecord {
            guest_bytes: guest.get(),
            disk_bytes: disk.get(),
        })
    }

    /// Bytes written for each that guests wrote, in hundredths.
    #[must_use]
    pub fn amplification_percent(&self) -> u64 {
        let written = self.disk_bytes.saturating_mul(100);
        written.checked_div(self.guest_bytes).unwrap_or(0)
    }
}

/// The key of the entry that finds a dataset by its name: -> id (u64 LE).
#[must_use]
pub fn dataset_name_key(name: &str) -> Key {
    let mut key = Key::new();
    key.push(3);
    key.extend_from_slice(name.as_bytes());
    key
}
