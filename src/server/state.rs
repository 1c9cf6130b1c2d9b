//! What a server knows of its guest's mount, as bytes: for a process that goes on serving that guest,
//! on this host or another. docs/MIGRATION.md has the layout.
//!
//! Little is needed: inode numbers are stable and handles carry nothing. There is what INIT agreed on,
//! what the kernel was promised of the export, and how often it looked up each inode, since what has
//! no name lives as long as the kernel knows it.
//!
//! The bytes may come from another host, so nothing in them is believed: all is checked before
//! anything changes, and memory is taken in proportion to what was sent, which the dataset's inodes
//! bound.

use std::sync::atomic::Ordering;

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{SESSION, STALE, Server, WRITE_MAX_BYTES};
use crate::engine::EngineError;
use crate::format::id::Ino;
use crate::fs::{CacheMode, Options};

/// Bytes of a state at most: of some 10^8 inodes.
pub const STATE_BYTES_MAX: usize = 512 << 20;

const MAGIC: [u8; 8] = *b"RZFSGST\0";
const VERSION: u32 = 1;
const HASH_BYTES: usize = blake3::OUT_LEN;
/// Bytes of a number at most, 7 bits in each.
const NUMBER_BYTES_MAX: usize = 10;

/// What comes first. Behind it: of each inode that the kernel knows, in ascending order, how much its
/// number is above the one before (from 1, the root's) and how often it was looked up, as LEB128;
/// then the BLAKE3 of all before.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    /// What must be understood; none is known.
    features: U32,
    /// Bytes of all of it, the hash included.
    len: U64,
    /// Of the dataset.
    uuid: [u8; 16],
    /// What INIT agreed on, and [`SESSION`], perhaps [`STALE`]; 0 when the kernel has not mounted it.
    session: U64,
    /// What a READ or WRITE may have, as the kernel was told.
    write_max_bytes: U32,
    /// What the kernel was promised: see [`promises`].
    promises: U32,
    /// Inodes that follow.
    known: U64,
}

const _: () = assert!(size_of::<Header>() == 64);

/// Why a state cannot be taken over. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It is no such state, or not all of it.
    #[error("what was sent is no state of a razorfs guest: {0}")]
    Malformed(&'static str),
    /// It is of a version, or needs something, that this program does not know.
    #[error(
        "the guest's state has version {version}, features {features:#x}; this program knows version \
         {VERSION}, features 0: use the newer program on both sides"
    )]
    Unknown {
        /// Its version.
        version: u32,
        /// Its features.
        features: u32,
    },
    /// It is of another dataset.
    #[error("the guest uses dataset {theirs}, and {ours} is exported here")]
    OtherDataset {
        /// The UUID in the state.
        theirs: uuid::Uuid,
        /// That of the export.
        ours: uuid::Uuid,
    },
    /// The export behaves otherwise than the guest was told.
    #[error(
        "the guest was told '{theirs}', and this export is '{ours}': start razorfsd with the same flags"
    )]
    OtherOptions {
        /// What it was told.
        theirs: String,
        /// What is so here.
        ours: String,
    },
    /// It names more inodes than there are.
    #[error("the guest is said to know {known} inodes, and the dataset has {inodes}")]
    TooMany {
        /// In the state.
        known: u64,
        /// In the dataset.
        inodes: u64,
    },
    /// The guest may send more at a time than is taken here.
    #[error("the guest may write {0} bytes at a time, at most {WRITE_MAX_BYTES} are taken here")]
    WriteSize(u32),
    /// It was told of what is not offered here.
    #[error(
        "the guest relies on features {0:#x} of FUSE that are not offered here: use the program that \
         served it, or a newer one"
    )]
    Features(u64),
    /// It is too large.
    #[error("a state of {0} bytes, at most {STATE_BYTES_MAX} are possible")]
    TooLarge(usize),
    /// The dataset cannot be read.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A state taken apart.
struct Decoded {
    header: Header,
    known: Vec<(Ino, u64)>,
}

impl Server {
    /// The state of the guest's mount. To be called while no request is in flight.
    ///
    /// # Errors
    /// When the dataset cannot be read, or the state would be too large.
    pub fn save(&self) -> Result<Vec<u8>, StateError> {
        let known = self.fs.looked_up();
        let mut header = self.header()?;
        header.known = (known.len() as u64).into();
        let state = encode(&header, &known);
        match state.len() {
            len if len > STATE_BYTES_MAX => Err(StateError::TooLarge(len)),
            _ => Ok(state),
        }
    }

    /// Goes on with a mount that was another server's. To be called on a new server, before its
    /// first request.
    ///
    /// # Errors
    /// When the state is none, or not one of this export. Nothing has changed then.
    pub fn restore(&self, state: &[u8]) -> Result<(), StateError> {
        let Decoded { header, known } = decode(state)?;
        let ours = self.header()?;
        if header.uuid != ours.uuid {
            return Err(StateError::OtherDataset {
                theirs: uuid::Uuid::from_bytes(header.uuid),
                ours: uuid::Uuid::from_bytes(ours.uuid),
            });
        }
        if header.promises != ours.promises {
            return Err(StateError::OtherOptions {
                theirs: describe(header.promises.get()),
                ours: describe(ours.promises.get()),
            });
        }
        let known_bits = SESSION | STALE | super::init::offered(self.fs.options());
        let relied_on = header.session.get() & !known_bits;
        if relied_on != 0 {
            return Err(StateError::Features(relied_on));
        }
        if header.write_max_bytes > ours.write_max_bytes {
            return Err(StateError::WriteSize(header.write_max_bytes.get()));
        }
        if header.known > ours.known {
            return Err(StateError::TooMany {
                known: header.known.get(),
                inodes: ours.known.get(),
            });
        }
        // The kernel believes what it was told, as in a session that began here.
        if header.session & (SESSION | STALE) == SESSION {
            self.fs.begin_session();
        }
        for (ino, lookups) in known {
            self.fs.know(ino, lookups);
        }
        self.session.store(header.session.get(), Ordering::Release);
        Ok(())
    }

    /// What a state of this export begins with; `known` is how many inodes there are.
    fn header(&self) -> Result<Header, StateError> {
        let volume = self.fs.volume();
        let dataset = volume.store().find_by_id(volume.dataset_id())?;
        let dataset = dataset.ok_or(EngineError::NotFound)?;
        Ok(Header {
            magic: MAGIC,
            version: VERSION.into(),
            features: 0.into(),
            len: 0.into(),
            uuid: dataset.uuid,
            session: self.session.load(Ordering::Acquire).into(),
            write_max_bytes: u32::try_from(WRITE_MAX_BYTES).unwrap_or(u32::MAX).into(),
            promises: promises(self.fs.options()).into(),
            known: dataset.inodes.into(),
        })
    }
}

/// The state of a mount below which the dataset has become another: what the kernel knew counts for
/// nothing, and it is refused everything until it mounts again. Of a kernel that has not mounted it,
/// and where there was no state, it stays as it is.
///
/// # Errors
/// When it is no such state.
pub fn made_stale(state: &[u8]) -> Result<Vec<u8>, StateError> {
    if state.is_empty() {
        return Ok(Vec::new());
    }
    let Decoded { mut header, .. } = decode(state)?;
    if header.session & SESSION == 0 {
        return Ok(state.to_vec());
    }
    header.session |= STALE;
    header.known = 0.into();
    Ok(encode(&header, &[]))
}

fn encode(header: &Header, known: &[(Ino, u64)]) -> Vec<u8> {
    let mut bytes = header.as_bytes().to_vec();
    let mut before = Ino::ROOT.0;
    for (ino, lookups) in known {
        put_number(&mut bytes, ino.0.wrapping_sub(before));
        put_number(&mut bytes, *lookups);
        before = ino.0;
    }
    let len = U64::new(bytes.len().saturating_add(HASH_BYTES) as u64);
    let header = Header { len, ..*header };
    if let Some(first) = bytes.first_chunk_mut::<{ size_of::<Header>() }>() {
        *first = zerocopy::transmute!(header);
    }
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes
}

fn decode(state: &[u8]) -> Result<Decoded, StateError> {
    use StateError::Malformed;
    if state.len() > STATE_BYTES_MAX {
        return Err(StateError::TooLarge(state.len()));
    }
    let (header, _) = Header::read_from_prefix(state).map_err(|_| Malformed("it is too short"))?;
    if header.magic != MAGIC {
        return Err(Malformed("it begins with something else"));
    }
    let (version, features) = (header.version.get(), header.features.get());
    if version != VERSION || features != 0 {
        return Err(StateError::Unknown { version, features });
    }
    if header.len != state.len() as u64 {
        return Err(Malformed("it is not whole"));
    }
    let (bytes, hash) = state
        .split_last_chunk::<HASH_BYTES>()
        .ok_or(Malformed("it is too short"))?;
    if blake3::hash(bytes) != *hash {
        return Err(Malformed("its checksum does not match"));
    }
    let session = header.session.get();
    if session & SESSION == 0 && (session != 0 || header.known != 0) {
        return Err(Malformed("it knows inodes of what is not mounted"));
    }
    if session & STALE != 0 && header.known != 0 {
        return Err(Malformed("it knows inodes of what is gone"));
    }
    let mut rest = bytes.get(size_of::<Header>()..).unwrap_or_default();
    // Two bytes at least for each.
    if header.known > rest.len() as u64 / 2 {
        return Err(Malformed("it names more inodes than follow"));
    }
    let mut known = Vec::new();
    let mut before = Ino::ROOT.0;
    for _ in 0..header.known.get() {
        let (step, lookups) = number(&mut rest)
            .zip(number(&mut rest))
            .ok_or(Malformed("a number that is none"))?;
        let ino = before.checked_add(step).filter(|ino| ino & SESSION == 0);
        let ino = ino.ok_or(Malformed("an inode number that cannot be"))?;
        if step == 0 || lookups == 0 {
            return Err(Malformed("an inode twice, or one that nobody knows"));
        }
        known.push((Ino(ino), lookups));
        before = ino;
    }
    match rest {
        [] => Ok(Decoded { header, known }),
        _ => Err(Malformed("something follows")),
    }
}

fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            return bytes.push(low);
        }
        bytes.push(low | 0x80);
    }
}

/// Takes a number; `None` when there is none, or not written in the shortest way.
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for at in 0..NUMBER_BYTES_MAX {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let (bits, shift) = (u64::from(byte & 0x7f), 7 * u32::try_from(at).ok()?);
        if bits.leading_zeros() < shift || (bits == 0 && byte & 0x80 == 0 && at > 0) {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// What a kernel relies on: its name, and whether an export has it.
type Promise = (&'static str, fn(&Options) -> bool);

/// What a kernel relies on of an export, by the bits that stand for it.
const PROMISES: [Promise; 12] = [
    ("--cache auto", |o| o.cache == CacheMode::Auto),
    ("--cache always", |o| o.cache == CacheMode::Always),
    ("--cache metadata", |o| o.cache == CacheMode::Metadata),
    ("--cache never", |o| o.cache == CacheMode::Never),
    ("read-only", |o| o.read_only),
    ("--writeback", |o| o.writeback),
    ("xattrs", |o| o.xattr),
    ("ACLs", |o| o.posix_acl),
    ("readdirplus", |o| o.readdirplus),
    ("shared with other guests", |o| o.shared),
    ("without OPEN", Options::no_open),
    ("snapshots", |o| o.snapshots),
];

fn promises(options: &Options) -> u32 {
    let bits = (0u32..).zip(PROMISES);
    bits.fold(0, |bits, (bit, (_, is))| {
        bits | u32::from(is(options)) << bit
    })
}

fn describe(promises: u32) -> String {
    let named = (0u32..).zip(PROMISES);
    let named: Vec<_> = named
        .filter(|(bit, _)| promises & (1 << bit) != 0)
        .map(|(_, (name, _))| name)
        .collect();
    named.join(", ")
}

/// For fuzzing: a state is decoded, and encoding what was found gives the same bytes.
#[doc(hidden)]
#[must_use]
pub fn decodes_to_itself(state: &[u8]) -> Option<bool> {
    let decoded = decode(state).ok()?;
    Some(encode(&decoded.header, &decoded.known) == state)
}

/// For fuzzing: the bytes with their length and hash put right.
#[doc(hidden)]
#[must_use]
pub fn sealed(mut state: Vec<u8>) -> Vec<u8> {
    let len = state.len().saturating_add(HASH_BYTES) as u64;
    if let Some(field) = state.get_mut(16..24) {
        field.copy_from_slice(&len.to_le_bytes());
    }
    let hash = blake3::hash(&state);
    state.extend_from_slice(hash.as_bytes());
    state
}
