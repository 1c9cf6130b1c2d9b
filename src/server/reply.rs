//! Encoding: a reply grows in a buffer behind room for its header, and goes out in one piece.

use zerocopy::{Immutable, IntoBytes};

use super::abi::OutHeader;

const HEADER_BYTES: usize = size_of::<OutHeader>();

/// A reply under construction.
pub(super) struct Reply<'a>(&'a mut Vec<u8>);

impl<'a> Reply<'a> {
    /// An empty reply in `buffer`.
    pub(super) fn new(buffer: &'a mut Vec<u8>) -> Self {
        buffer.clear();
        buffer.resize(HEADER_BYTES, 0);
        Reply(buffer)
    }

    /// Appends a structure.
    pub(super) fn put<T: IntoBytes + Immutable>(&mut self, value: &T) {
        self.0.extend_from_slice(value.as_bytes());
    }

    /// Appends bytes.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Appends zeros up to a multiple of eight bytes.
    pub(super) fn align(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
    }

    /// Bytes of the body so far.
    pub(super) fn body_len(&self) -> usize {
        self.0.len().saturating_sub(HEADER_BYTES)
    }

    /// Completes the header; an error has no body.
    pub(super) fn finish(&mut self, unique: u64, errno: i32) -> &[u8] {
        if errno != 0 {
            self.0.truncate(HEADER_BYTES);
        }
        let header = OutHeader {
            len: u32::try_from(self.0.len()).unwrap_or(u32::MAX),
            error: -errno,
            unique,
        };
        if let Some(room) = self.0.get_mut(..HEADER_BYTES) {
            room.copy_from_slice(header.as_bytes());
        }
        self.0
    }
}
