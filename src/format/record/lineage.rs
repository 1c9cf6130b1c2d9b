//! What a dataset's tree shares with that of the snapshot before it.

use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::FormatError;
use crate::format::id::{DatasetId, Generation};
use crate::format::key::{KEY_MAX, Key};

/// Where a dataset or snapshot stands behind another. Keyed by [`super::lineage_key`]; what has none
/// shares nothing with what was before it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LineageRecord {
    /// The snapshot that its tree was a copy of once; 0 for none.
    pub prev: DatasetId,
    /// Extents born in this checkpoint or before are in `prev` too, which has their references.
    pub prev_birth: Generation,
    /// Pages of this checkpoint and of those before may be in other trees too.
    /// [`LineageRecord::PENDING`] until the next checkpoint enters its own number.
    pub shared: Generation,
    /// While a tree is being deleted: of keys below this one it is done.
    pub cursor: Key,
    /// What `prev_birth` is of keys below `cursor`.
    pub below: Generation,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Wire {
    prev: U64,
    prev_birth: U64,
    shared: U64,
    below: U64,
}

const WHAT: &str = "lineage record";

impl LineageRecord {
    /// In the place of a checkpoint: every page.
    pub const PENDING: Generation = Generation(u64::MAX);

    /// That of a tree which is a copy of the snapshot `prev`, taken in `birth`, as of now.
    #[must_use]
    pub fn behind(prev: DatasetId, birth: Generation) -> Self {
        LineageRecord {
            prev,
            prev_birth: birth,
            shared: LineageRecord::PENDING,
            ..LineageRecord::default()
        }
    }

    /// Extents with this key that were born in this checkpoint or before have their references
    /// elsewhere.
    #[must_use]
    pub fn boundary(&self, key: &[u8]) -> Generation {
        if key < self.cursor.as_slice() {
            self.below
        } else {
            self.prev_birth
        }
    }

    /// The bytes of the record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Wire {
            prev: self.prev.0.into(),
            prev_birth: self.prev_birth.0.into(),
            shared: self.shared.0.into(),
            below: self.below.0.into(),
        }
        .as_bytes()
        .to_vec();
        bytes.extend_from_slice(&self.cursor);
        bytes
    }

    /// Reads the record.
    ///
    /// # Errors
    /// When it is shorter than one, or its key longer than a key can be.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (wire, cursor) = Wire::read_from_prefix(bytes).map_err(|_| FormatError::Length {
            what: WHAT,
            expected: size_of::<Wire>(),
            found: bytes.len(),
        })?;
        if cursor.len() > KEY_MAX {
            return Err(FormatError::Field {
                what: WHAT,
                field: "cursor",
                found: cursor.len() as u64,
            });
        }
        Ok(LineageRecord {
            prev: DatasetId(wire.prev.get()),
            prev_birth: Generation(wire.prev_birth.get()),
            shared: Generation(wire.shared.get()),
            cursor: Key::from_slice(cursor),
            below: Generation(wire.below.get()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_its_bytes() {
        let record = LineageRecord {
            prev: DatasetId(3),
            prev_birth: Generation(40),
            shared: LineageRecord::PENDING,
            cursor: Key::from_slice(b"where"),
            below: Generation(7),
        };
        let bytes = record.encode();
        assert_eq!(LineageRecord::decode(&bytes).unwrap(), record);
        assert!(LineageRecord::decode(bytes.get(..31).unwrap()).is_err());
        let long = [&bytes[..], &[0; KEY_MAX]].concat();
        assert!(LineageRecord::decode(&long).is_err());
    }

    #[test]
    fn a_deletion_moves_the_boundary_key_by_key() {
        let record = LineageRecord {
            prev_birth: Generation(9),
            below: Generation(4),
            cursor: Key::from_slice(b"m"),
            ..LineageRecord::default()
        };
        let boundaries = [&b"a"[..], b"m", b"z"].map(|key| record.boundary(key).0);
        assert_eq!(boundaries, [4, 9, 9]);
    }
}
