//! Projects: what the inodes of a project use, and what they may.

use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{FormatError, exact};

/// What the counted inodes of a project have. There is none for a project that has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProjectUse {
    /// Inodes.
    pub inodes: u64,
    /// Bytes in their extents, reserved ones included.
    pub bytes: u64,
}

/// What a project may have. There is none for a project without a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProjectLimit {
    /// Bytes in extents; 0 for no limit.
    pub bytes: u64,
    /// Inodes; 0 for no limit.
    pub inodes: u64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Wire {
    first: U64,
    second: U64,
}

const _: () = assert!(size_of::<Wire>() == 16);

impl ProjectUse {
    /// The bytes of the record.
    #[must_use]
    pub fn encode(&self) -> [u8; size_of::<Wire>()] {
        zerocopy::transmute!(Wire {
            first: self.inodes.into(),
            second: self.bytes.into(),
        })
    }

    /// Reads the record.
    ///
    /// # Errors
    /// When the length is not that of one.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let wire: Wire = exact("use of a project", bytes)?;
        Ok(ProjectUse {
            inodes: wire.first.get(),
            bytes: wire.second.get(),
        })
    }
}

impl ProjectLimit {
    /// The bytes of the record.
    #[must_use]
    pub fn encode(&self) -> [u8; size_of::<Wire>()] {
        zerocopy::transmute!(Wire {
            first: self.bytes.into(),
            second: self.inodes.into(),
        })
    }

    /// Reads the record.
    ///
    /// # Errors
    /// When the length is not that of one.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let wire: Wire = exact("limit of a project", bytes)?;
        Ok(ProjectLimit {
            bytes: wire.first.get(),
            inodes: wire.second.get(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_and_other_lengths_are_refused() {
        let used = ProjectUse {
            inodes: 3,
            bytes: 1 << 40,
        };
        assert_eq!(ProjectUse::decode(&used.encode()), Ok(used));
        let limit = ProjectLimit {
            bytes: 7,
            inodes: u64::MAX,
        };
        assert_eq!(ProjectLimit::decode(&limit.encode()), Ok(limit));
        for len in [0, 15, 17] {
            assert!(ProjectUse::decode(&vec![0; len]).is_err());
            assert!(ProjectLimit::decode(&vec![0; len]).is_err());
        }
    }
}
