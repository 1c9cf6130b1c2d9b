//! Values of the trees: inodes, dentries, extents, chunks, datasets.
//!
//! They stand in pages, which carry the checksum; here only lengths and ranges are checked.

mod chunk;
mod dataset;
mod history;
mod inode;
mod lineage;
mod names;
mod project;
mod receive;

use zerocopy::byteorder::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::FormatError;
use super::id::{Generation, PageNo};

pub use chunk::*;
pub use dataset::*;
pub use history::*;
pub use inode::*;
pub use lineage::*;
pub use names::*;
pub use project::*;
pub use receive::*;

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
