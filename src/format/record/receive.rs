//! How far the receive of a snapshot got.

use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{FormatError, Time, TimeWire};
use crate::format::id::Ino;

/// A place in a stream: everything that its sender walks before it has been applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct StreamPosition {
    /// Which walk over the tree; 0 before the first.
    pub pass: u8,
    /// The inode that comes next.
    pub ino: Ino,
    /// What of it comes next: a [`crate::format::key::Kind`]; 0 for all of it.
    pub kind: u8,
    /// Of extents, the file offset to go on from; of entries, how many are done.
    pub at: u64,
}

impl StreamPosition {
    /// Nothing was applied yet.
    pub const START: StreamPosition = StreamPosition {
        pass: 0,
        ino: Ino(0),
        kind: 0,
        at: 0,
    };
}

/// What is known of a receive that has not ended. Keyed by [`super::receive_key`] of the dataset
/// into which it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiveRecord {
    /// UUID of the snapshot that is sent.
    pub snapshot: [u8; 16],
    /// UUID of the snapshot that the stream is based on; zeros for none.
    pub base: [u8; 16],
    /// UUID of the store that sends it: its order of names is no other's.
    pub sender: [u8; 16],
    /// When the snapshot that is sent was taken.
    pub created: Time,
    /// How far it got.
    pub position: StreamPosition,
    /// The name that the snapshot is to have, without its dataset's.
    pub name: String,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ReceiveWire {
    snapshot: [u8; 16],
    base: [u8; 16],
    sender: [u8; 16],
    created: TimeWire,
    pass: u8,
    kind: u8,
    padding: [u8; 2],
    ino: U64,
    at: U64,
}

const _: () = assert!(size_of::<ReceiveWire>() == 80);

const WHAT: &str = "receive record";

impl ReceiveRecord {
    /// The bytes of the record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = ReceiveWire {
            snapshot: self.snapshot,
            base: self.base,
            sender: self.sender,
            created: self.created.into(),
            pass: self.position.pass,
            kind: self.position.kind,
            padding: [0; 2],
            ino: self.position.ino.0.into(),
            at: self.position.at.into(),
        }
        .as_bytes()
        .to_vec();
        bytes.extend_from_slice(self.name.as_bytes());
        bytes
    }

    /// Reads the record.
    ///
    /// # Errors
    /// When it is too short or too long, padding is not zero, or the name is not UTF-8.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (wire, name) =
            ReceiveWire::read_from_prefix(bytes).map_err(|_| FormatError::Length {
                what: WHAT,
                expected: size_of::<ReceiveWire>(),
                found: bytes.len(),
            })?;
        let field = |field, found| FormatError::Field {
            what: WHAT,
            field,
            found,
        };
        if wire.padding != [0; 2] {
            return Err(field("padding", 1));
        }
        let name = std::str::from_utf8(name).map_err(|_| field("name", 0))?;
        if name.is_empty() || name.len() > 255 {
            return Err(field("length of the name", name.len() as u64));
        }
        Ok(ReceiveRecord {
            snapshot: wire.snapshot,
            base: wire.base,
            sender: wire.sender,
            created: wire.created.decode()?,
            position: StreamPosition {
                pass: wire.pass,
                ino: Ino(wire.ino.get()),
                kind: wire.kind,
                at: wire.at.get(),
            },
            name: name.to_owned(),
        })
    }
}
