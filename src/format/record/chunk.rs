//! File content: extents, the chunks they are slices of, and freed ranges of chunks.dat.

use smallvec::SmallVec;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{FormatError, exact};
use crate::format::id::{ChunkId, Generation};

/// Bytes of a file: a slice of a chunk, or space kept for bytes to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtentRecord {
    /// Length in bytes, not 0.
    pub len: u64,
    /// The chunk; 0 for a reserved extent (fallocate), which reads as zeros, and [`ChunkId::LOST`]
    /// for content that a repair did not find again: reading it is an error.
    pub chunk: ChunkId,
    /// Offset of the first byte in the chunk's content (before compression); 0 without a chunk.
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

    /// Whether its content was lost to damage.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.chunk == ChunkId::LOST
    }

    /// Whether it refers to a chunk.
    #[must_use]
    pub fn has_chunk(&self) -> bool {
        !self.is_reserved() && !self.is_lost()
    }

    /// The bytes of the record.
    #[must_use]
    pub fn encode(&self) -> [u8; size_of::<ExtentWire>()] {
        zerocopy::transmute!(ExtentWire {
            len: self.len.into(),
            chunk: self.chunk.0.into(),
            birth: self.birth.0.into(),
            chunk_offset: self.chunk_offset.into(),
        })
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
    /// An LZ4 block, without a size in front of it.
    Lz4 = 1,
    /// A Zstandard frame.
    Zstd = 2,
}

impl Codec {
    /// The codec that a byte stands for.
    #[must_use]
    pub fn of(byte: u8) -> Option<Codec> {
        match byte {
            0 => Some(Codec::Raw),
            1 => Some(Codec::Lz4),
            2 => Some(Codec::Zstd),
            _ => None,
        }
    }
}

/// The largest chunk, and the alignment of chunks in a file, in bytes.
pub const CHUNK_MAX: u32 = 128 * 1024;

/// Bytes that one checksum of a chunk covers.
pub const CHUNK_BLOCK_BYTES: u32 = 4096;

const BLOCKS_MAX: usize = (CHUNK_MAX / CHUNK_BLOCK_BYTES) as usize;

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
    pub crcs: SmallVec<[u32; BLOCKS_MAX]>,
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
        let codec = Codec::of(wire.codec).ok_or_else(|| field("codec", wire.codec.into()))?;
        let fits = match codec {
            Codec::Raw => stored_len == raw_len,
            Codec::Lz4 | Codec::Zstd => stored_len < raw_len,
        };
        if !fits {
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
    /// In the place of the checkpoint: the range is being written to, by a process that will make
    /// it a chunk; after a crash it is free.
    pub const CLAIMED: Generation = Generation(u64::MAX);
    /// The range is not used, and its space may have gone back to the disk below: what is to be
    /// written there must be allocated first.
    pub const PUNCHED: Generation = Generation(u64::MAX - 1);

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
