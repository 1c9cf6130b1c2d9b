//! The log file: two header blocks, then a ring of batches.
//!
//! ```text
//! 0     header block, copy 0        4096  header block, copy 1
//! 8192  ring: position lsn lies at 8192 + lsn % ring bytes
//! ```
//!
//! A batch begins at a multiple of 4096 with a 64-byte header; entries follow it, then zeros up to
//! a multiple of 4096. It may run over the end of the ring and go on at its start. An entry is one
//! committed transaction: a 40-byte header and its changes.

use siphasher::sip::SipHasher13;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::FormatError;
use super::id::{DatasetId, Lsn, TxId};
use super::key::{KEY_MAX, TreeId, VALUE_MAX};

/// Bytes of a header block, and the unit of the ring.
pub const BLOCK_BYTES: usize = 4096;
/// Where the ring begins.
pub const RING_START: u64 = 2 * BLOCK_BYTES as u64;
/// 'WLOG'
pub const LOG_MAGIC: u32 = u32::from_le_bytes(*b"WLOG");
/// 'WBAT'
pub const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"WBAT");
/// The version this program writes and reads.
pub const VERSION: u32 = 1;

/// The header block. What recovery starts from stands in the superblock; here it is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogHeader {
    /// The store's UUID.
    pub uuid: [u8; 16],
    /// Bytes of the ring.
    pub ring_bytes: u64,
    /// The transaction that begins at `checkpoint`.
    pub next_tx: TxId,
    /// The newest checkpoint when this was written.
    pub checkpoint: Lsn,
    /// The oldest log still needed then.
    pub head: Lsn,
    /// The end of the log then.
    pub tail: Lsn,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct HeaderWire {
    magic: U32,
    crc: U32,
    version: U32,
    padding: U32,
    uuid: [u8; 16],
    ring_bytes: U64,
    next_tx: U64,
    checkpoint: U64,
    head: U64,
    tail: U64,
}

const HEADER_BYTES: usize = size_of::<HeaderWire>();
const _: () = assert!(HEADER_BYTES == 72);

/// CRC32 of `bytes` without the four bytes at 4, where the checksum stands.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(bytes.get(..4).unwrap_or_default());
    hasher.update(bytes.get(8..).unwrap_or_default());
    hasher.finalize()
}

impl LogHeader {
    /// The block.
    #[must_use]
    pub fn encode(&self) -> [u8; BLOCK_BYTES] {
        let mut wire = HeaderWire {
            magic: LOG_MAGIC.into(),
            crc: 0.into(),
            version: VERSION.into(),
            padding: 0.into(),
            uuid: self.uuid,
            ring_bytes: self.ring_bytes.into(),
            next_tx: self.next_tx.0.into(),
            checkpoint: self.checkpoint.0.into(),
            head: self.head.0.into(),
            tail: self.tail.0.into(),
        };
        wire.crc = checksum(wire.as_bytes()).into();
        let mut block = [0; BLOCK_BYTES];
        let (head, _) = block.split_at_mut(HEADER_BYTES);
        head.copy_from_slice(wire.as_bytes());
        block
    }

    /// Reads a block.
    ///
    /// # Errors
    /// When it is not a log's header, is damaged, or of another version.
    pub fn decode(block: &[u8; BLOCK_BYTES]) -> Result<Self, FormatError> {
        let what = "log header";
        let (wire, _) = HeaderWire::read_from_prefix(block).map_err(|_| FormatError::Length {
            what,
            expected: HEADER_BYTES,
            found: block.len(),
        })?;
        if wire.magic.get() != LOG_MAGIC {
            let (expected, found) = (LOG_MAGIC.into(), wire.magic.get().into());
            return Err(FormatError::Magic {
                what,
                expected,
                found,
            });
        }
        let (computed, found) = (checksum(wire.as_bytes()), wire.crc.get());
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
        Ok(LogHeader {
            uuid: wire.uuid,
            ring_bytes: wire.ring_bytes.get(),
            next_tx: TxId(wire.next_tx.get()),
            checkpoint: Lsn(wire.checkpoint.get()),
            head: Lsn(wire.head.get()),
            tail: Lsn(wire.tail.get()),
        })
    }
}

/// The header of a batch: what one group commit wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Where it begins: its own address.
    pub lsn: Lsn,
    /// Everything before this was durable when the batch was made.
    pub durable: Lsn,
    /// The first eight bytes of the store's UUID.
    pub tag: u64,
    /// Bytes of entries behind the header.
    pub payload_len: u32,
    /// Entries.
    pub entries: u32,
    /// The first entry's transaction; the others follow without gaps.
    pub first_tx: TxId,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct BatchWire {
    magic: U32,
    crc: U32,
    lsn: U64,
    durable: U64,
    tag: U64,
    payload_len: U32,
    entries: U32,
    first_tx: U64,
    padding: [u8; 16],
}

/// Bytes of a batch's header.
pub const BATCH_HEADER_BYTES: usize = size_of::<BatchWire>();
const _: () = assert!(BATCH_HEADER_BYTES == 64);

impl BatchHeader {
    /// Bytes of the whole batch in the ring.
    #[must_use]
    pub fn padded_bytes(&self) -> u64 {
        padded_bytes(self.payload_len as usize)
    }

    /// The bytes of the header.
    #[must_use]
    pub fn encode(&self) -> [u8; BATCH_HEADER_BYTES] {
        let mut wire = BatchWire {
            magic: BATCH_MAGIC.into(),
            crc: 0.into(),
            lsn: self.lsn.0.into(),
            durable: self.durable.0.into(),
            tag: self.tag.into(),
            payload_len: self.payload_len.into(),
            entries: self.entries.into(),
            first_tx: self.first_tx.0.into(),
            padding: [0; 16],
        };
        wire.crc = checksum(wire.as_bytes()).into();
        let mut bytes = [0; BATCH_HEADER_BYTES];
        bytes.copy_from_slice(wire.as_bytes());
        bytes
    }

    /// Reads the header of the batch at `lsn` of the log tagged `tag`; `None` when none is there.
    #[must_use]
    pub fn decode(bytes: &[u8], lsn: Lsn, tag: u64) -> Option<Self> {
        let (wire, _) = BatchWire::read_from_prefix(bytes).ok()?;
        let genuine = wire.magic.get() == BATCH_MAGIC
            && wire.crc.get() == checksum(wire.as_bytes())
            && wire.lsn.get() == lsn.0
            && wire.tag.get() == tag
            && wire.durable.get() <= lsn.0;
        genuine.then(|| BatchHeader {
            lsn,
            durable: Lsn(wire.durable.get()),
            tag,
            payload_len: wire.payload_len.get(),
            entries: wire.entries.get(),
            first_tx: TxId(wire.first_tx.get()),
        })
    }
}

/// Bytes of a batch with `payload_len` bytes of entries.
#[must_use]
pub fn padded_bytes(payload_len: usize) -> u64 {
    (BATCH_HEADER_BYTES + payload_len).next_multiple_of(BLOCK_BYTES) as u64
}

/// Whose log it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogKey {
    /// The store's UUID.
    pub uuid: [u8; 16],
    /// The store's hash seed, which no guest knows.
    pub hash_seed: [u8; 16],
}

impl LogKey {
    /// What a batch of this log carries. File bytes lie in the log as a guest wrote them: without
    /// the seed it could write what passes for a batch.
    #[must_use]
    pub fn tag(&self) -> u64 {
        SipHasher13::new_with_key(&self.hash_seed).hash(&self.uuid)
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct EntryWire {
    op: U32,
    crc: U32,
    lsn: U64,
    tx: U64,
    timestamp_ns: U64,
    len: U32,
    changes: U32,
}

/// Bytes of an entry's header.
pub const ENTRY_HEADER_BYTES: usize = size_of::<EntryWire>();
const _: () = assert!(ENTRY_HEADER_BYTES == 40);

/// The only kind of entry: a whole transaction, committed by being whole.
const OP_COMMIT: u32 = 1;

/// An entry's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryHeader {
    /// Where it begins: its own address.
    pub lsn: Lsn,
    /// The transaction.
    pub tx: TxId,
    /// When it was made, nanoseconds since 1970.
    pub timestamp_ns: u64,
    /// Number of changes.
    pub changes: u32,
}

/// Appends an entry with already encoded changes.
pub fn encode_entry(header: &EntryHeader, payload: &[u8], out: &mut Vec<u8>) {
    let mut wire = EntryWire {
        op: OP_COMMIT.into(),
        crc: 0.into(),
        lsn: header.lsn.0.into(),
        tx: header.tx.0.into(),
        timestamp_ns: header.timestamp_ns.into(),
        len: u32::try_from(payload.len()).unwrap_or(u32::MAX).into(),
        changes: header.changes.into(),
    };
    wire.crc = entry_checksum(wire.as_bytes(), payload).into();
    out.extend_from_slice(wire.as_bytes());
    out.extend_from_slice(payload);
}

fn entry_checksum(head: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(checksum(head));
    hasher.update(payload);
    hasher.finalize()
}

/// Takes the entry at `lsn` off the front of `bytes`: its header and encoded changes.
///
/// # Errors
/// When it is cut off, damaged, or not the one that belongs there.
pub fn decode_entry<'a>(
    bytes: &mut &'a [u8],
    lsn: Lsn,
) -> Result<(EntryHeader, &'a [u8]), FormatError> {
    let what = "log entry";
    let all = *bytes;
    let cut = |expected| FormatError::Length {
        what,
        expected,
        found: all.len(),
    };
    let (wire, rest) = EntryWire::read_from_prefix(all).map_err(|_| cut(ENTRY_HEADER_BYTES))?;
    let len = wire.len.get() as usize;
    let (payload, rest) = rest
        .split_at_checked(len)
        .ok_or_else(|| cut(ENTRY_HEADER_BYTES.saturating_add(len)))?;
    let (computed, found) = (entry_checksum(wire.as_bytes(), payload), wire.crc.get());
    if computed != found {
        return Err(FormatError::Checksum {
            what,
            computed,
            found,
        });
    }
    if wire.op.get() != OP_COMMIT {
        return Err(FormatError::Field {
            what,
            field: "op",
            found: wire.op.get().into(),
        });
    }
    if wire.lsn.get() != lsn.0 {
        return Err(FormatError::Field {
            what,
            field: "own address",
            found: wire.lsn.get(),
        });
    }
    *bytes = rest;
    let header = EntryHeader {
        lsn,
        tx: TxId(wire.tx.get()),
        timestamp_ns: wire.timestamp_ns.get(),
        changes: wire.changes.get(),
    };
    Ok((header, payload))
}

/// Writes the parts of a change.
pub struct Encoder<'a>(pub &'a mut Vec<u8>);

impl Encoder<'_> {
    /// A byte.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// A number.
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A length (u32) and that many bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.0.extend_from_slice(&len.to_le_bytes());
        self.0.extend_from_slice(bytes);
    }

    /// A tree: its place among the system trees, or 0xff and the dataset.
    pub fn tree(&mut self, tree: TreeId) {
        let index = TreeId::SYSTEM.iter().position(|each| *each == tree);
        match (index.and_then(|index| u8::try_from(index).ok()), tree) {
            (Some(index), _) => self.u8(index),
            (None, TreeId::Fs(id)) => {
                self.u8(0xff);
                self.u64(id.0);
            }
            (None, _) => self.u8(0xfe),
        }
    }
}

/// Reads the parts of a change, never beyond the end.
pub struct Decoder<'a>(pub &'a [u8]);

impl<'a> Decoder<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let what = "log change";
        let found = self.0.len();
        let (taken, rest) = self.0.split_at_checked(len).ok_or(FormatError::Length {
            what,
            expected: len,
            found,
        })?;
        self.0 = rest;
        Ok(taken)
    }

    /// Whether everything was read.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0.is_empty()
    }

    /// A byte.
    ///
    /// # Errors
    /// At the end.
    pub fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    /// A number.
    ///
    /// # Errors
    /// At the end.
    pub fn u64(&mut self) -> Result<u64, FormatError> {
        Ok(self
            .take(8)?
            .first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes)))
    }

    /// A length of at most `max` and that many bytes.
    ///
    /// # Errors
    /// At the end, and when the length is larger.
    pub fn bytes(&mut self, max: usize) -> Result<&'a [u8], FormatError> {
        let len = self
            .take(4)?
            .first_chunk()
            .map_or(0, |bytes| u32::from_le_bytes(*bytes));
        if len as usize > max {
            let (what, field) = ("log change", "length");
            return Err(FormatError::Field {
                what,
                field,
                found: len.into(),
            });
        }
        self.take(len as usize)
    }

    /// A tree.
    ///
    /// # Errors
    /// At the end, and when there is no such tree.
    pub fn tree(&mut self) -> Result<TreeId, FormatError> {
        match self.u8()? {
            0xff => Ok(TreeId::Fs(DatasetId(self.u64()?))),
            index => TreeId::SYSTEM
                .get(usize::from(index))
                .copied()
                .ok_or(FormatError::Field {
                    what: "log change",
                    field: "tree",
                    found: index.into(),
                }),
        }
    }

    /// A key.
    ///
    /// # Errors
    /// At the end, and when it is too long.
    pub fn key(&mut self) -> Result<&'a [u8], FormatError> {
        self.bytes(KEY_MAX)
    }

    /// A value.
    ///
    /// # Errors
    /// At the end, and when it is too long.
    pub fn value(&mut self) -> Result<&'a [u8], FormatError> {
        self.bytes(VALUE_MAX)
    }
}
