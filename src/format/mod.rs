//! Every on-disk structure: bytes and checksums, no I/O.
//!
//! Invariants: all integers are little-endian except in tree keys, which are big-endian so that
//! they sort as bytes; `decode` checks the checksum first and ranges next, before any field is
//! used; padding is zero and checked. docs/FORMAT.md, this module and the version change together.
#![deny(clippy::indexing_slicing)]

pub mod codec;
pub mod id;
pub mod key;
pub mod name;
pub mod page;
pub mod record;
pub mod superblock;
pub mod wal;
pub mod xattr;

/// What is wrong with bytes that were read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Too short or too long to be the structure.
    #[error("{what}: {found} bytes, expected {expected}")]
    Length {
        /// The structure.
        what: &'static str,
        /// Bytes expected (at least).
        expected: usize,
        /// Bytes found.
        found: usize,
    },
    /// The magic number or type tag is another's.
    #[error("{what}: magic is {found:#x}, expected {expected:#x}")]
    Magic {
        /// The structure.
        what: &'static str,
        /// The value expected.
        expected: u64,
        /// The value found.
        found: u64,
    },
    /// The checksum does not match.
    #[error("{what}: checksum is {found:#010x}, computed {computed:#010x}")]
    Checksum {
        /// The structure.
        what: &'static str,
        /// Computed over the bytes read.
        computed: u32,
        /// Stored in the structure.
        found: u32,
    },
    /// The version is newer than this program.
    #[error("{what}: version {found}, this program reads up to {supported}; use a newer razorfs")]
    Version {
        /// The structure.
        what: &'static str,
        /// The version found.
        found: u32,
        /// The newest version this program reads.
        supported: u32,
    },
    /// An incompatible feature this program does not know.
    #[error("{what}: unknown incompatible features {found:#x}; use a newer razorfs")]
    Feature {
        /// The structure.
        what: &'static str,
        /// The feature bits that are not known.
        found: u64,
    },
    /// A field is outside its range.
    #[error("{what}: {field} is {found}")]
    Field {
        /// The structure.
        what: &'static str,
        /// The field.
        field: &'static str,
        /// The value found.
        found: u64,
    },
}
