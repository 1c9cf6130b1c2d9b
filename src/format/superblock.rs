//! The superblock: two copies of 4 KiB at offsets 0 and 4096 of the file `superblock`.
//!
//! A checkpoint writes copy 0, flushes, then copy 1, and flushes: one copy is whole at any moment,
//! and afterwards both are the newest, so that damage to one loses nothing.

use zerocopy::byteorder::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::FormatError;
use super::id::{Generation, Lsn, PageNo, TxId};
use super::key::SYSTEM_TREES;
use super::record::PagePtr;
use super::wal::{BLOCK_BYTES, LogKey};

/// Bytes of one copy.
pub const SUPERBLOCK_BYTES: usize = 4096;
/// 'razr' as the field 0x72617A72.
pub const MAGIC: u32 = 0x7261_7A72;
/// The version this program writes, and the newest it reads.
pub const VERSION: u32 = 1;
/// Features without which a program must not open the store.
pub const INCOMPAT_KNOWN: u64 = INCOMPAT_SNAPSHOTS | INCOMPAT_TAGS;
/// Trees of datasets share pages and chunks, and have lineages.
pub const INCOMPAT_SNAPSHOTS: u64 = 1;
/// Pages say for which tree they were written, or may: [`super::page::TreeTag`].
pub const INCOMPAT_TAGS: u64 = 2;
/// Features without which a program must not write to the store.
pub const RO_COMPAT_KNOWN: u64 = RO_COMPAT_UNMARKED | RO_COMPAT_PROJECTS;
/// Whoever writes to the store first takes the mark from it that it was closed, from both copies.
pub const RO_COMPAT_UNMARKED: u64 = 1;
/// Datasets may count what the inodes of projects have.
pub const RO_COMPAT_PROJECTS: u64 = 2;
/// Bytes of one unit of chunks.dat.
pub const UNIT_BYTES: u32 = 4096;
/// The unit at which chunks.dat ends for good: a store's free ranges and chunks together make up
/// exactly the units below it, however large the file is.
pub const UNITS_END: u64 = 1 << 52;

/// Positions in the log, transactions and checkpoints are counted up to here: far beyond what any
/// store lives for, and so far below 2^64 that adding to a number that was believed is safe.
pub const COUNT_MAX: u64 = 1 << 62;

/// The store was closed after its last checkpoint; with [`RO_COMPAT_UNMARKED`] that says that
/// nothing was written to it since.
const FLAG_CLEAN: u32 = 1;

/// What a store is, and where its newest checkpoint lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Features any program may ignore.
    pub compat: u64,
    /// Features a program must know to write.
    pub ro_compat: u64,
    /// Features a program must know to open.
    pub incompat: u64,
    /// The store's UUID, also in its log.
    pub uuid: [u8; 16],
    /// Key of the hash that turns names into dentry cookies.
    pub hash_seed: [u8; 16],
    /// When the store was made, seconds since 1970.
    pub created_sec: i64,
    /// Bytes of file content the store may hold; 0 for as many as the disk gives.
    pub capacity_bytes: u64,
    /// Bytes of the log's ring.
    pub log_bytes: u64,
    /// The checkpoint this describes.
    pub generation: Generation,
    /// Everything before it is in the trees; recovery reads the log from here.
    pub checkpoint_lsn: Lsn,
    /// The transaction that begins there.
    pub next_tx: TxId,
    /// Pages of nodes.dat from here on were never used.
    pub nodes_end: PageNo,
    /// Bytes of strings.dat in use.
    pub strings_end: u64,
    /// Pages the trees use, for statfs before the free pages are known.
    pub nodes_used: u64,
    /// Whether the store was closed after this checkpoint: see [`Superblock::is_closed`].
    pub clean: bool,
    /// The system trees, in the order of [`super::key::TreeId::SYSTEM`].
    pub roots: [PagePtr; SYSTEM_TREES],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Wire {
    magic: U32,
    crc: U32,
    version: U32,
    flags: U32,
    compat: U64,
    ro_compat: U64,
    incompat: U64,
    uuid: [u8; 16],
    hash_seed: [u8; 16],
    created_sec: I64,
    capacity_bytes: U64,
    log_bytes: U64,
    page_bytes: U32,
    unit_bytes: U32,
    generation: U64,
    checkpoint_lsn: U64,
    next_tx: U64,
    nodes_end: U64,
    strings_end: U64,
    nodes_used: U64,
    roots: [[U64; 2]; SYSTEM_TREES],
    padding: [u8; SUPERBLOCK_BYTES - 152 - 16 * SYSTEM_TREES],
}

const _: () = assert!(size_of::<Wire>() == SUPERBLOCK_BYTES);

fn checksum(bytes: &[u8; SUPERBLOCK_BYTES]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let (magic, rest) = bytes.split_at(4);
    hasher.update(magic);
    hasher.update(rest.get(4..).unwrap_or_default());
    hasher.finalize()
}

impl Superblock {
    /// Whose the log is.
    #[must_use]
    pub fn log_key(&self) -> LogKey {
        LogKey {
            uuid: self.uuid,
            hash_seed: self.hash_seed,
        }
    }

    /// Whether the store was closed and not written to since: the log holds nothing. One that was
    /// made before there was [`RO_COMPAT_UNMARKED`] may have been written to, whatever it says.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.clean && self.ro_compat & RO_COMPAT_UNMARKED != 0
    }

    /// The same checkpoint, of a store that is written to.
    #[must_use]
    pub fn in_use(&self) -> Self {
        Superblock {
            clean: false,
            ro_compat: self.ro_compat | RO_COMPAT_UNMARKED,
            ..self.clone()
        }
    }

    /// The bytes of a copy, checksummed.
    #[must_use]
    pub fn encode(&self) -> [u8; SUPERBLOCK_BYTES] {
        let mut wire = Wire {
            magic: MAGIC.into(),
            crc: 0.into(),
            version: VERSION.into(),
            flags: if self.clean { FLAG_CLEAN } else { 0 }.into(),
            compat: self.compat.into(),
            ro_compat: self.ro_compat.into(),
            incompat: self.incompat.into(),
            uuid: self.uuid,
            hash_seed: self.hash_seed,
            created_sec: self.created_sec.into(),
            capacity_bytes: self.capacity_bytes.into(),
            log_bytes: self.log_bytes.into(),
            page_bytes: U32::new(4096),
            unit_bytes: UNIT_BYTES.into(),
            generation: self.generation.0.into(),
            checkpoint_lsn: self.checkpoint_lsn.0.into(),
            next_tx: self.next_tx.0.into(),
            nodes_end: self.nodes_end.0.into(),
            strings_end: self.strings_end.into(),
            nodes_used: self.nodes_used.into(),
            roots: self
                .roots
                .map(|root| [root.page.0.into(), root.generation.0.into()]),
            padding: [0; SUPERBLOCK_BYTES - 152 - 16 * SYSTEM_TREES],
        };
        let mut bytes = [0; SUPERBLOCK_BYTES];
        bytes.copy_from_slice(wire.as_bytes());
        wire.crc = checksum(&bytes).into();
        bytes.copy_from_slice(wire.as_bytes());
        bytes
    }

    /// Reads a copy.
    ///
    /// # Errors
    /// When it is not a superblock, is damaged, or is of a version or has features that this
    /// program does not know.
    pub fn decode(bytes: &[u8; SUPERBLOCK_BYTES]) -> Result<Self, FormatError> {
        let what = "superblock";
        let field = |field, found| FormatError::Field { what, field, found };
        let wire = Wire::read_from_bytes(bytes).map_err(|_| FormatError::Length {
            what,
            expected: SUPERBLOCK_BYTES,
            found: bytes.len(),
        })?;
        if wire.magic.get() != MAGIC {
            let (expected, found) = (MAGIC.into(), wire.magic.get().into());
            return Err(FormatError::Magic {
                what,
                expected,
                found,
            });
        }
        let (computed, found) = (checksum(bytes), wire.crc.get());
        if computed != found {
            return Err(FormatError::Checksum {
                what,
                computed,
                found,
            });
        }
        if wire.version.get() != VERSION {
            let (found, supported) = (wire.version.get(), VERSION);
            return Err(FormatError::Version {
                what,
                found,
                supported,
            });
        }
        let unknown = wire.incompat.get() & !INCOMPAT_KNOWN;
        if unknown != 0 {
            return Err(FormatError::Feature {
                what,
                found: unknown,
            });
        }
        if wire.page_bytes.get() != 4096 {
            return Err(field("page size", wire.page_bytes.get().into()));
        }
        if wire.unit_bytes.get() != UNIT_BYTES {
            return Err(field("unit size", wire.unit_bytes.get().into()));
        }
        if !(1..=COUNT_MAX).contains(&wire.generation.get()) {
            return Err(field("generation", wire.generation.get()));
        }
        let lsn = wire.checkpoint_lsn.get();
        if lsn > COUNT_MAX || !lsn.is_multiple_of(BLOCK_BYTES as u64) {
            return Err(field("position of the checkpoint in the log", lsn));
        }
        if wire.next_tx.get() > COUNT_MAX {
            return Err(field("next transaction", wire.next_tx.get()));
        }
        if wire.nodes_used.get() > wire.nodes_end.get() {
            return Err(field("pages in use", wire.nodes_used.get()));
        }
        if wire.flags.get() & !FLAG_CLEAN != 0 {
            return Err(field("flags", wire.flags.get().into()));
        }
        if wire.padding.iter().any(|byte| *byte != 0) {
            return Err(field("padding", 1));
        }
        Ok(Superblock {
            compat: wire.compat.get(),
            ro_compat: wire.ro_compat.get(),
            incompat: wire.incompat.get(),
            uuid: wire.uuid,
            hash_seed: wire.hash_seed,
            created_sec: wire.created_sec.get(),
            capacity_bytes: wire.capacity_bytes.get(),
            log_bytes: wire.log_bytes.get(),
            generation: Generation(wire.generation.get()),
            checkpoint_lsn: Lsn(wire.checkpoint_lsn.get()),
            next_tx: TxId(wire.next_tx.get()),
            nodes_end: PageNo(wire.nodes_end.get()),
            strings_end: wire.strings_end.get(),
            nodes_used: wire.nodes_used.get(),
            clean: wire.flags.get() & FLAG_CLEAN != 0,
            roots: wire.roots.map(|[page, generation]| PagePtr {
                page: PageNo(page.get()),
                generation: Generation(generation.get()),
            }),
        })
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn example() -> Superblock {
        Superblock {
            compat: 0,
            ro_compat: 0,
            incompat: 0,
            uuid: [7; 16],
            hash_seed: [9; 16],
            created_sec: 1_700_000_000,
            capacity_bytes: 0,
            log_bytes: 64 << 20,
            generation: Generation(5),
            checkpoint_lsn: Lsn(8192),
            next_tx: TxId(12),
            nodes_end: PageNo(40),
            strings_end: 100,
            nodes_used: 30,
            clean: true,
            roots: [PagePtr::EMPTY; SYSTEM_TREES],
        }
    }

    #[test]
    fn survives_the_disk() {
        assert_eq!(Superblock::decode(&example().encode()), Ok(example()));
    }

    #[test]
    fn finds_every_flipped_bit() {
        for bit in 0..SUPERBLOCK_BYTES * 8 {
            let mut bytes = example().encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Superblock::decode(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn refuses_counts_that_no_store_reaches() {
        let refused: [fn(&mut Superblock); 5] = [
            |block| block.generation = Generation(COUNT_MAX + 1),
            |block| block.checkpoint_lsn = Lsn(u64::MAX - 4095),
            |block| block.checkpoint_lsn = Lsn(8193),
            |block| block.next_tx = TxId(u64::MAX),
            |block| block.nodes_used = block.nodes_end.0 + 1,
        ];
        for (index, change) in refused.into_iter().enumerate() {
            let mut block = example();
            change(&mut block);
            let decoded = Superblock::decode(&block.encode());
            assert!(decoded.is_err(), "change {index}");
        }
    }

    #[test]
    fn refuses_a_newer_version_and_an_unknown_feature_by_name() {
        let mut block = example();
        block.incompat = 1 << 40;
        let error = Superblock::decode(&block.encode()).unwrap_err();
        assert!(matches!(error, FormatError::Feature { found, .. } if found == 1 << 40));

        let mut bytes = example().encode();
        bytes[8] = 2;
        let crc = checksum(&bytes);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        assert!(matches!(
            Superblock::decode(&bytes),
            Err(FormatError::Version { found: 2, .. })
        ));
    }
}
