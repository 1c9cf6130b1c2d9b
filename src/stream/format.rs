//! What is in a stream: docs/STREAM.md. Pure encoding: nothing is read or written, or known of a
//! store. Between the records stands what [`super::framing`] puts there.

use crate::engine::{ReceivedInode, Time, TreeCounts};
use crate::format::codec::Compression;
use crate::format::id::Ino;
use crate::format::record::{CHUNK_MAX, Codec, Dedup, ProjectLimit, StreamPosition};
use crate::format::xattr::{SYMLINK_MAX, XATTR_NAME_MAX, XATTR_VALUE_MAX};

/// What a stream begins with.
pub const MAGIC: [u8; 8] = *b"RZSTREAM";
/// The version of the format.
pub const VERSION: u32 = 1;
/// The largest payload of a record: a chunk and what says where it goes.
pub const PAYLOAD_MAX: usize = CHUNK_MAX as usize + 256;

/// Of the features that a receiver must know: what projects have is counted.
pub const FEATURE_PROJECTS: u64 = 1;
/// All of them that there are.
pub const FEATURES_KNOWN: u64 = FEATURE_PROJECTS;

/// Bytes of the header before the name of the snapshot.
pub(super) const HEADER_BYTES: usize = 124;
/// Bytes of it before what [`Header::decode`] reads: magic, version, length of the name, features.
pub(super) const HEADER_START: usize = 32;

const _: () = assert!(XATTR_VALUE_MAX + XATTR_NAME_MAX + 16 <= PAYLOAD_MAX);
const _: () = assert!(SYMLINK_MAX + 128 <= PAYLOAD_MAX);

/// What a stream says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// UUID of the snapshot.
    pub snapshot: [u8; 16],
    /// UUID of the one it is based on; zeros for none.
    pub base: [u8; 16],
    /// UUID of the store that sends it.
    pub sender: [u8; 16],
    /// When the snapshot was taken.
    pub created: Time,
    /// How its dataset compresses.
    pub compression: Compression,
    /// Whether its dataset deduplicates.
    pub dedup: Dedup,
    /// Where it goes on: [`StreamPosition::START`] for all of it.
    pub position: StreamPosition,
    /// Whether what projects have is counted in it: they may have limits.
    pub counts_projects: bool,
    /// DATASET@SNAPSHOT as the sender calls it.
    pub name: String,
}

/// What a stream has the receiver do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// An inode is this, without its name and what is in it.
    Inode(Ino, ReceivedInode),
    /// An inode has this attribute: name, value.
    Xattr(Ino, Vec<u8>, Vec<u8>),
    /// An inode does not have this attribute.
    XattrGone(Ino, Vec<u8>),
    /// A file has this content.
    Data(Data),
    /// A file has the content that another range has.
    Share {
        /// The file.
        ino: Ino,
        /// Offset and length.
        range: (u64, u64),
        /// The file that has it, by an earlier record or since the base.
        source: Ino,
        /// Where.
        source_offset: u64,
    },
    /// A file has space reserved: offset, length.
    Reserve(Ino, (u64, u64)),
    /// A file has a hole: offset, length.
    Hole(Ino, (u64, u64)),
    /// A directory does not have this name.
    Unlink(Ino, Vec<u8>),
    /// A directory has this name, for this inode.
    Link(Ino, Vec<u8>, Ino),
    /// An inode is gone.
    Gone(Ino),
    /// Everything before it needs not be sent again, to who goes on here.
    Mark(StreamPosition),
    /// There is no more: what the tree holds now.
    End(TreeCounts),
    /// A project, not 0, may have this.
    ProjectLimit(u32, ProjectLimit),
}

/// Content as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    /// The file.
    pub ino: Ino,
    /// Where it begins in it.
    pub offset: u64,
    /// How it is stored.
    pub codec: Codec,
    /// Bytes of content.
    pub raw_len: u32,
    /// BLAKE3 of the content.
    pub hash: [u8; 32],
    /// What is stored.
    pub stored: Vec<u8>,
}

/// Bytes taken one after the other; what is missing is `None`.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn ino(&mut self) -> Option<Ino> {
        self.u64().map(Ino)
    }

    fn range(&mut self) -> Option<(u64, u64)> {
        Some((self.u64()?, self.u64()?))
    }

    fn time(&mut self) -> Option<Time> {
        let sec = i64::from_le_bytes(self.array()?);
        let nsec = self.u32().filter(|nsec| *nsec < 1_000_000_000)?;
        Some(Time { sec, nsec })
    }

    fn zeros<const N: usize>(&mut self) -> Option<()> {
        (self.array::<N>()? == [0; N]).then_some(())
    }

    fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0).to_vec()
    }

    fn some(&mut self, len: usize) -> Option<Vec<u8>> {
        let (some, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(some.to_vec())
    }

    fn position(&mut self) -> Option<StreamPosition> {
        let (pass, kind) = (self.u8()?, self.u8()?);
        self.zeros::<6>()?;
        Some(StreamPosition {
            pass,
            kind,
            ino: self.ino()?,
            at: self.u64()?,
        })
    }
}

fn put_u64(out: &mut Vec<u8>, numbers: &[u64]) {
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn put_time(out: &mut Vec<u8>, time: Time) {
    out.extend_from_slice(&time.sec.to_le_bytes());
    out.extend_from_slice(&time.nsec.to_le_bytes());
}

fn put_position(out: &mut Vec<u8>, position: StreamPosition) {
    out.extend_from_slice(&[position.pass, position.kind, 0, 0, 0, 0, 0, 0]);
    put_u64(out, &[position.ino.0, position.at]);
}

fn dedup_byte(dedup: Dedup) -> u8 {
    match dedup {
        Dedup::Off => 0,
        Dedup::On => 1,
        Dedup::Verify => 2,
    }
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        let len = u32::try_from(self.name.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&len.to_le_bytes());
        // Features that a receiver must know, and others.
        let features = match self.counts_projects {
            true => FEATURE_PROJECTS,
            false => 0,
        };
        put_u64(&mut out, &[features, 0]);
        out.extend_from_slice(&self.snapshot);
        out.extend_from_slice(&self.base);
        out.extend_from_slice(&self.sender);
        put_time(&mut out, self.created);
        let (codec, level) = self.compression.to_record();
        out.extend_from_slice(&[codec, level, dedup_byte(self.dedup), 0]);
        put_position(&mut out, self.position);
        out.extend_from_slice(&[0; 4]);
        debug_assert_eq!(out.len(), HEADER_BYTES);
        out.extend_from_slice(self.name.as_bytes());
        out
    }

    /// The fields behind the first [`HEADER_START`] bytes, of a stream with these features.
    pub(super) fn decode(features: u64, bytes: &[u8]) -> Option<Header> {
        let mut bytes = Bytes(bytes);
        let (snapshot, base, sender) = (bytes.array()?, bytes.array()?, bytes.array()?);
        let created = bytes.time()?;
        let compression = Compression::of_record(bytes.u8()?, bytes.u8()?).ok()?;
        let dedup = match bytes.u8()? {
            0 => Dedup::Off,
            1 => Dedup::On,
            2 => Dedup::Verify,
            _ => return None,
        };
        bytes.zeros::<1>()?;
        let position = bytes.position()?;
        bytes.zeros::<4>()?;
        Some(Header {
            snapshot,
            base,
            sender,
            created,
            compression,
            dedup,
            position,
            counts_projects: features & FEATURE_PROJECTS != 0,
            name: String::from_utf8(bytes.rest()).ok()?,
        })
    }
}

impl Record {
    pub(super) fn kind(&self) -> u32 {
        match self {
            Record::Inode(..) => 1,
            Record::Xattr(..) => 2,
            Record::XattrGone(..) => 3,
            Record::Data(_) => 4,
            Record::Share { .. } => 5,
            Record::Reserve(..) => 6,
            Record::Hole(..) => 7,
            Record::Unlink(..) => 8,
            Record::Link(..) => 9,
            Record::Gone(_) => 10,
            Record::Mark(_) => 11,
            Record::End(_) => 12,
            Record::ProjectLimit(..) => 13,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Record::Inode(ino, inode) => {
                put_u64(&mut out, &[ino.0, inode.size]);
                for number in [
                    inode.mode,
                    inode.uid,
                    inode.gid,
                    inode.rdev,
                    inode.flags,
                    inode.projid,
                ] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                for time in [inode.atime, inode.mtime, inode.ctime, inode.btime] {
                    put_time(&mut out, time);
                }
                out.extend_from_slice(&inode.target);
            }
            Record::Xattr(ino, name, value) => {
                put_u64(&mut out, &[ino.0, name.len() as u64]);
                out.extend_from_slice(name);
                out.extend_from_slice(value);
            }
            Record::XattrGone(ino, name) | Record::Unlink(ino, name) => {
                put_u64(&mut out, &[ino.0]);
                out.extend_from_slice(name);
            }
            Record::Data(data) => {
                out.reserve(data.stored.len() + 64);
                put_u64(&mut out, &[data.ino.0, data.offset]);
                out.extend_from_slice(&data.raw_len.to_le_bytes());
                out.extend_from_slice(&[data.codec as u8, 0, 0, 0]);
                out.extend_from_slice(&data.hash);
                out.extend_from_slice(&data.stored);
            }
            Record::Share {
                ino,
                range,
                source,
                source_offset,
            } => put_u64(
                &mut out,
                &[ino.0, range.0, range.1, source.0, *source_offset],
            ),
            Record::Reserve(ino, range) | Record::Hole(ino, range) => {
                put_u64(&mut out, &[ino.0, range.0, range.1]);
            }
            Record::Link(dir, name, ino) => {
                put_u64(&mut out, &[dir.0, ino.0]);
                out.extend_from_slice(name);
            }
            Record::Gone(ino) => put_u64(&mut out, &[ino.0]),
            Record::Mark(position) => put_position(&mut out, *position),
            Record::End(counts) => put_u64(
                &mut out,
                &[
                    counts.inodes,
                    counts.allocated_bytes,
                    counts.reserved_bytes,
                    counts.next_ino,
                ],
            ),
            Record::ProjectLimit(project, limit) => {
                put_u64(&mut out, &[(*project).into(), limit.bytes, limit.inodes])
            }
        }
        out
    }

    pub(super) fn decode(kind: u32, payload: &[u8]) -> Option<Record> {
        let mut bytes = Bytes(payload);
        let record = match kind {
            1 => Record::Inode(bytes.ino()?, decode_inode(&mut bytes)?),
            2 => {
                let (ino, len) = (bytes.ino()?, usize::try_from(bytes.u64()?).ok()?);
                Record::Xattr(ino, bytes.some(len)?, bytes.rest())
            }
            3 => Record::XattrGone(bytes.ino()?, bytes.rest()),
            4 => Record::Data(decode_data(&mut bytes)?),
            5 => Record::Share {
                ino: bytes.ino()?,
                range: bytes.range()?,
                source: bytes.ino()?,
                source_offset: bytes.u64()?,
            },
            6 => Record::Reserve(bytes.ino()?, bytes.range()?),
            7 => Record::Hole(bytes.ino()?, bytes.range()?),
            8 => Record::Unlink(bytes.ino()?, bytes.rest()),
            9 => {
                let (dir, ino) = (bytes.ino()?, bytes.ino()?);
                Record::Link(dir, bytes.rest(), ino)
            }
            10 => Record::Gone(bytes.ino()?),
            11 => Record::Mark(bytes.position()?),
            12 => Record::End(TreeCounts {
                inodes: bytes.u64()?,
                allocated_bytes: bytes.u64()?,
                reserved_bytes: bytes.u64()?,
                next_ino: bytes.u64()?,
            }),
            13 => {
                let project = u32::try_from(bytes.u64()?).ok()?;
                let (bytes, inodes) = bytes.range()?;
                Record::ProjectLimit(project, ProjectLimit { bytes, inodes })
            }
            _ => return None,
        };
        bytes.0.is_empty().then_some(record)
    }
}

fn decode_inode(bytes: &mut Bytes<'_>) -> Option<ReceivedInode> {
    Some(ReceivedInode {
        size: bytes.u64()?,
        mode: bytes.u32()?,
        uid: bytes.u32()?,
        gid: bytes.u32()?,
        rdev: bytes.u32()?,
        flags: bytes.u32()?,
        projid: bytes.u32()?,
        atime: bytes.time()?,
        mtime: bytes.time()?,
        ctime: bytes.time()?,
        btime: bytes.time()?,
        target: bytes.rest(),
    })
}

fn decode_data(bytes: &mut Bytes<'_>) -> Option<Data> {
    let (ino, offset, raw_len) = (bytes.ino()?, bytes.u64()?, bytes.u32()?);
    let codec = Codec::of(bytes.u8()?)?;
    bytes.zeros::<3>()?;
    Some(Data {
        ino,
        offset,
        codec,
        raw_len,
        hash: bytes.array()?,
        stored: bytes.rest(),
    })
}
