//! Encoding: a reply grows in a buffer behind room for its header, and goes out in one piece.

use zerocopy::{Immutable, IntoBytes};

use super::abi::OutHeader;
use crate::format::id::Ino;

const HEADER_BYTES: usize = size_of::<OutHeader>();

/// A reply under construction.
pub(super) struct Reply<'a> {
    bytes: &'a mut Vec<u8>,
    /// The inodes whose lookup the reply tells the kernel of.
    looked_up: &'a mut Vec<Ino>,
}

impl<'a> Reply<'a> {
    /// An empty reply in `bytes`.
    pub(super) fn new(bytes: &'a mut Vec<u8>, looked_up: &'a mut Vec<Ino>) -> Self {
        bytes.clear();
        bytes.resize(HEADER_BYTES, 0);
        looked_up.clear();
        Reply { bytes, looked_up }
    }

    /// Notes that the reply tells of a lookup, which is undone if the reply does not get through.
    pub(super) fn looked_up(&mut self, ino: Ino) {
        self.looked_up.push(ino);
    }

    /// Takes the inodes noted.
    pub(super) fn take_looked_up(&mut self) -> std::vec::Drain<'_, Ino> {
        self.looked_up.drain(..)
    }

    /// Appends a structure.
    pub(super) fn put<T: IntoBytes + Immutable>(&mut self, value: &T) {
        self.bytes.extend_from_slice(value.as_bytes());
    }

    /// Appends bytes.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends zeros up to a multiple of eight bytes.
    pub(super) fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    /// Bytes of the body so far.
    pub(super) fn body_len(&self) -> usize {
        self.bytes.len().saturating_sub(HEADER_BYTES)
    }

    /// Completes the header; an error has no body.
    pub(super) fn finish(&mut self, unique: u64, errno: i32) -> &[u8] {
        if errno != 0 {
            self.bytes.truncate(HEADER_BYTES);
        }
        let header = OutHeader {
            len: u32::try_from(self.bytes.len()).unwrap_or(u32::MAX),
            error: -errno,
            unique,
        };
        if let Some(room) = self.bytes.get_mut(..HEADER_BYTES) {
            room.copy_from_slice(header.as_bytes());
        }
        self.bytes
    }
}
