//! Values of the trees: inodes, dentries, extents, chunks, datasets.
//!
//! They stand in pages, which carry the checksum; here only lengths and ranges are checked.

use zerocopy::byteorder::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::FormatError;
use super::id::{ChunkId, DatasetId, Generation, Ino, NameId, PageNo};

/// Reads `T` from exactly `bytes`.
fn exact<T: FromBytes + KnownLayout + Immutable + Unaligned>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, FormatError> {
    T::read_from_bytes(bytes).map_err(|_| FormatError::Length {
        what,
        expected: size_of::<T>(),
        found: bytes.len(),
    })
}

/// A point in time: seconds since 1970 and nanoseconds below 1,000,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Seconds since 1970-01-01 UTC; negative before.
    pub sec: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nsec: u32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct TimeWire {
    sec: I64,
    nsec: U32,
}

impl From<Time> for TimeWire {
    fn from(time: Time) -> Self {
        TimeWire {
            sec: time.sec.into(),
            nsec: time.nsec.into(),
        }
    }
}

impl TimeWire {
    fn decode(self) -> Result<Time, FormatError> {
        let nsec = self.nsec.get();
        if nsec >= 1_000_000_000 {
            return Err(FormatError::Field {
                what: "inode time",
                field: "nanoseconds",
                found: nsec.into(),
            });
        }
        Ok(Time {
            sec: self.sec.get(),
            nsec,
        })
    }
}

/// An inode. Names stand in dentries, content in extents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InodeRecord {
    /// File type and permissions, as `st_mode`.
    pub mode: u32,
    /// Link count; a directory's is 2 plus its subdirectories. 0 for an orphan.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, as the kernel's `new_encode_dev` gives it.
    pub rdev: u32,
    /// `FS_IOC_GETFLAGS` bits (append-only, immutable, ...).
    pub flags: u32,
    /// Project id.
    pub projid: u32,
    /// Number of extended attributes.
    pub xattrs: u32,
    /// Size in bytes; of a symlink its target's length; of a directory 0.
    pub size: u64,
    /// Bytes of this file's extents, reserved ones included.
    pub allocated: u64,
    /// Entries of a directory, without `.` and `..`.
    pub entries: u64,
    /// The directory that holds this directory; 0 for anything else.
    pub parent: Ino,
    /// Last access.
    pub atime: Time,
    /// Last modification of the content.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Birth.
    pub btime: Time,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct InodeWire {
    mode: U32,
    nlink: U32,
    uid: U32,
    gid: U32,
    rdev: U32,
    flags: U32,
    projid: U32,
    xattrs: U32,
    size: U64,
    allocated: U64,
    entries: U64,
    parent: U64,
    atime: TimeWire,
    mtime: TimeWire,
    ctime: TimeWire,
    btime: TimeWire,
}

const _: () = assert!(size_of::<InodeWire>() == 112);

impl InodeRecord {
    /// The bytes of the record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        InodeWire {
            mode: self.mode.into(),
            nlink: self.nlink.into(),
            uid: self.uid.into(),
            gid: self.gid.into(),
            rdev: self.rdev.into(),
            flags: self.flags.into(),
            projid: self.projid.into(),
            xattrs: self.xattrs.into(),
            size: self.size.into(),
            allocated: self.allocated.into(),
            entries: self.entries.into(),
            parent: self.parent.0.into(),
            atime: self.atime.into(),
            mtime: self.mtime.into(),
            ctime: self.ctime.into(),
            btime: self.btime.into(),
        }
        .as_bytes()
        .to_vec()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// When the length or a time is not one of an inode.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let wire: InodeWire = exact("inode record", bytes)?;
        Ok(InodeRecord {
            mode: wire.mode.get(),
            nlink: wire.nlink.get(),
            uid: wire.uid.get(),
            gid: wire.gid.get(),
            rdev: wire.rdev.get(),
            flags: wire.flags.get(),
            projid: wire.projid.get(),
            xattrs: wire.xattrs.get(),
            size: wire.size.get(),
            allocated: wire.allocated.get(),
            entries: wire.entries.get(),
            parent: Ino(wire.parent.get()),
            atime: wire.atime.decode()?,
            mtime: wire.mtime.decode()?,
            ctime: wire.ctime.decode()?,
            btime: wire.btime.decode()?,
        })
    }
}

/// A directory's entry, found by its cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DentryRecord {
    /// The inode it names.
    pub ino: Ino,
    /// Its name.
    pub name: NameId,
    /// Length of the name in bytes, 1 to 255.
    pub name_len: u8,
    /// `DT_*`: the inode's file type, `mode >> 12`.
    pub file_type: u8,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DentryWire {
    ino: U64,
    name: U64,
    name_len: u8,
    file_type: u8,
}

const _: () = assert!(size_of::<DentryWire>() == 18);

impl DentryRecord {
    /// The bytes of the record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        DentryWire {
            ino: self.ino.0.into(),
            name: self.name.0.into(),
            name_len: self.name_len,
            file_type: self.file_type,
        }
        .as_bytes()
        .to_vec()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// When the length is not one of a dentry, or it names no inode or nothing.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let wire: DentryWire = exact("dentry record", bytes)?;
        if wire.ino.get() == 0 {
            return Err(FormatError::Field {
                what: "dentry record",
                field: "inode",
                found: 0,
            });
        }
        if wire.name_len == 0 {
            return Err(FormatError::Field {
                what: "dentry record",
                field: "name length",
                found: 0,
            });
        }
        Ok(DentryRecord {
            ino: Ino(wire.ino.get()),
            name: NameId(wire.name.get()),
            name_len: wire.name_len,
            file_type: wire.file_type,
        })
    }
}

/// Bytes of a file: a slice of a chunk, or space kept for bytes to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtentRecord {
    /// Length in bytes, not 0.
    pub len: u64,
    /// The chunk; 0 for a reserved extent (fallocate), which reads as zeros.
    pub chunk: ChunkId,
    /// Offset of the first byte in the chunk's content (before compression); 0 when reserved.
    pub chunk_offset: u32,
    /// The checkpoint in which this reference to the chunk was made: it tells whether a snapshot
    /// shares it.
    pub birth: Generation,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ExtentWire {
    len: U64,
    chunk: U64,
    birth: U64,
    chunk_offset: U32,
}

const _: () = assert!(size_of::<ExtentWire>() == 28);

impl ExtentRecord {
    /// Whether it only keeps space.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.chunk.0 == 0
    }

    /// The bytes of the record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        ExtentWire {
            len: self.len.into(),
            chunk: self.chunk.0.into(),
            birth: self.birth.0.into(),
            chunk_offset: self.chunk_offset.into(),
        }
        .as_bytes()
        .to_vec()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// When the length of the bytes or of the extent is not possible.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let wire: ExtentWire = exact("extent record", bytes)?;
        if wire.len.get() == 0 {
            return Err(FormatError::Field {
                what: "extent record",
                field: "length",
                found: 0,
            });
        }
        Ok(ExtentRecord {
            len: wire.len.get(),
            chunk: ChunkId(wire.chunk.get()),
            chunk_offset: wire.chunk_offset.get(),
            birth: Generation(wire.birth.get()),
        })
    }
}

/// How a chunk's bytes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// As they are.
    Raw = 0,
    /// LZ4 block format.
    Lz4 = 1,
    /// Zstandard.
    Zstd = 2,
}

/// The largest chunk, and the alignment of chunks in a file, in bytes.
pub const CHUNK_MAX: u32 = 128 * 1024;

/// Bytes that one checksum of a chunk covers.
pub const CHUNK_BLOCK_BYTES: u32 = 4096;

/// File content, written once and never changed, shared by all extents that refer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkRecord {
    /// First unit in chunks.dat.
    pub start_unit: u64,
    /// Extents made and not yet dropped; what snapshots share counts once.
    pub refcount: u64,
    /// Bytes in chunks.dat, 1 to [`CHUNK_MAX`].
    pub stored_len: u32,
    /// Bytes of content, 1 to [`CHUNK_MAX`].
    pub raw_len: u32,
    /// How they are stored.
    pub codec: Codec,
    /// BLAKE3 of the content.
    pub hash: [u8; 32],
    /// CRC32 of each [`CHUNK_BLOCK_BYTES`] of the stored bytes, the last one of what is left.
    pub crcs: Vec<u32>,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ChunkWire {
    start_unit: U64,
    refcount: U64,
    stored_len: U32,
    raw_len: U32,
    codec: u8,
    padding: [u8; 7],
    hash: [u8; 32],
}

const _: () = assert!(size_of::<ChunkWire>() == 64);

impl ChunkRecord {
    /// The bytes of the record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = ChunkWire {
            start_unit: self.start_unit.into(),
            refcount: self.refcount.into(),
            stored_len: self.stored_len.into(),
            raw_len: self.raw_len.into(),
            codec: self.codec as u8,
            padding: [0; 7],
            hash: self.hash,
        }
        .as_bytes()
        .to_vec();
        for crc in &self.crcs {
            bytes.extend_from_slice(&crc.to_le_bytes());
        }
        bytes
    }

    /// Reads the record.
    ///
    /// # Errors
    /// When lengths, codec or the number of checksums do not fit together.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let what = "chunk record";
        let (wire, rest) = ChunkWire::read_from_prefix(bytes).map_err(|_| FormatError::Length {
            what,
            expected: size_of::<ChunkWire>(),
            found: bytes.len(),
        })?;
        let field = |field, found| FormatError::Field { what, field, found };
        let (stored_len, raw_len) = (wire.stored_len.get(), wire.raw_len.get());
        if stored_len == 0 || stored_len > CHUNK_MAX {
            return Err(field("stored length", stored_len.into()));
        }
        if raw_len == 0 || raw_len > CHUNK_MAX {
            return Err(field("content length", raw_len.into()));
        }
        if wire.padding != [0; 7] {
            return Err(field("padding", 1));
        }
        let codec = match wire.codec {
            0 => Codec::Raw,
            1 => Codec::Lz4,
            2 => Codec::Zstd,
            other => return Err(field("codec", other.into())),
        };
        if codec == Codec::Raw && stored_len != raw_len {
            return Err(field("stored length", stored_len.into()));
        }
        let blocks = stored_len.div_ceil(CHUNK_BLOCK_BYTES) as usize;
        if rest.len() != blocks * 4 {
            return Err(FormatError::Length {
                what: "chunk checksums",
                expected: blocks * 4,
                found: rest.len(),
            });
        }
        let crcs = rest
            .as_chunks::<4>()
            .0
            .iter()
            .map(|crc| u32::from_le_bytes(*crc))
            .collect();
        Ok(ChunkRecord {
            start_unit: wire.start_unit.get(),
            refcount: wire.refcount.get(),
            stored_len,
            raw_len,
            codec,
            hash: wire.hash,
            crcs,
        })
    }
}

/// A range of chunks.dat that was freed and may be reused once the checkpoint that freed it is
/// durable. Keyed by its first unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingFree {
    /// Length in units, not 0.
    pub len_units: u64,
    /// The checkpoint that will free it.
    pub generation: Generation,
}

impl PendingFree {
    /// In the place of the checkpoint: the range is being written to, by a process that will make it
    /// a chunk; after a crash it is free.
    pub const CLAIMED: Generation = Generation(u64::MAX);

    /// The bytes of the record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [
            self.len_units.to_le_bytes(),
            self.generation.0.to_le_bytes(),
        ]
        .concat()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// When the length of the bytes is not that of the record, or the range is empty.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let [len, generation]: [U64; 2] = exact("pending free range", bytes)?;
        if len.get() == 0 {
            let (what, field) = ("pending free range", "length");
            return Err(FormatError::Field {
                what,
                field,
                found: 0,
            });
        }
        Ok(PendingFree {
            len_units: len.get(),
            generation: Generation(generation.get()),
        })
    }
}

/// Where a tree page lies and which checkpoint wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PagePtr {
    /// The page; 0 for the root of an empty tree.
    pub page: PageNo,
    /// The checkpoint that wrote it.
    pub generation: Generation,
}

impl PagePtr {
    /// The root of an empty tree.
    pub const EMPTY: PagePtr = PagePtr {
        page: PageNo(0),
        generation: Generation(0),
    };

    /// Bytes of an encoded pointer.
    pub const BYTES: usize = 16;

    /// The bytes of the pointer.
    #[must_use]
    pub fn encode(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let (page, generation) = bytes.split_at_mut(8);
        page.copy_from_slice(&self.page.0.to_le_bytes());
        generation.copy_from_slice(&self.generation.0.to_le_bytes());
        bytes
    }

    /// Reads a pointer.
    ///
    /// # Errors
    /// When there are not exactly sixteen bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let [page, generation]: [U64; 2] = exact("page pointer", bytes)?;
        Ok(PagePtr {
            page: PageNo(page.get()),
            generation: Generation(generation.get()),
        })
    }
}

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
    /// The checkpoint in which it was made.
    pub birth: Generation,
    /// When it was made.
    pub created: Time,
    /// Its UUID.
    pub uuid: [u8; 16],
    /// Compression of new chunks.
    pub codec: u8,
    /// Compression level, 0 for the codec's default.
    pub codec_level: u8,
    /// Its name: 1 to 255 bytes of UTF-8.
    pub name: String,
}

/// The dataset refuses changes.
pub const DATASET_READ_ONLY: u32 = 1;
/// The dataset deduplicates what is written to it.
pub const DATASET_DEDUP: u32 = 2;

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

impl DatasetRecord {
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
    /// When lengths do not fit together or the name is not UTF-8.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let what = "dataset record";
        let (wire, name) =
            DatasetWire::read_from_prefix(bytes).map_err(|_| FormatError::Length {
                what,
                expected: size_of::<DatasetWire>(),
                found: bytes.len(),
            })?;
        let name_len = usize::from(wire.name_len.get());
        if name_len != name.len() {
            return Err(FormatError::Length {
                what,
                expected: name_len,
                found: name.len(),
            });
        }
        let name = std::str::from_utf8(name).map_err(|_| FormatError::Field {
            what,
            field: "name",
            found: 0,
        })?;
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
    /// Sum of [`InodeRecord::allocated`].
    pub allocated_bytes: u64,
    /// The part of `allocated_bytes` in reserved extents.
    pub reserved_bytes: u64,
}

impl DatasetCounters {
    /// The bytes of the record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [
            self.next_ino,
            self.inodes,
            self.allocated_bytes,
            self.reserved_bytes,
        ]
        .map(u64::to_le_bytes)
        .concat()
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
pub fn dataset_key(id: DatasetId) -> Vec<u8> {
    let mut key = vec![1];
    key.extend_from_slice(&id.0.to_be_bytes());
    key
}

/// The key of a dataset's counters in the dataset tree.
#[must_use]
pub fn counters_key(id: DatasetId) -> Vec<u8> {
    let mut key = vec![2];
    key.extend_from_slice(&id.0.to_be_bytes());
    key
}

/// The key in the dataset tree of the number of units of chunks.dat that are not free (u64 LE), in
/// chunks and in pending ranges; without it they are 0.
pub const UNITS_USED_KEY: &[u8] = &[4];

/// The key of the entry that finds a dataset by its name: -> id (u64 LE).
#[must_use]
pub fn dataset_name_key(name: &str) -> Vec<u8> {
    let mut key = vec![3];
    key.extend_from_slice(name.as_bytes());
    key
}
