//! Tar streams: ustar, PAX (POSIX.1-2001) and GNU tar's, with holes, ACLs and extended attributes.
//!
//! Written here, and not with a library, since what is needed is what libraries leave out: holes in
//! all four forms that GNU tar writes, attributes whose values have newlines, times before 1970, and
//! limits on what a header may make the reader keep.

mod header;
mod import;
mod pax;
mod read;
mod write;

pub use import::import;
pub use read::{Kind, Member, Reader};
pub use write::Writer;

/// Bytes of a block: all in a tar stream comes in these.
pub const BLOCK_BYTES: usize = 512;

/// Bytes of a header's extension, at most: a PAX header, a long name. Attributes of one file fit it.
const EXTENSION_BYTES_MAX: u64 = 16 << 20;

/// Ranges of data in a file with holes that are read, at most: all are kept while its content comes.
const RANGES_MAX: usize = if cfg!(test) { 64 } else { 1 << 22 };

/// Ranges of data that are written, at most; with one more, for the end of the file, they can be read.
pub const RANGES_WRITTEN_MAX: usize = if cfg!(test) { 63 } else { (1 << 20) - 1 };

const _: () = assert!(RANGES_WRITTEN_MAX < RANGES_MAX);
