//! Decoding: a request is copied out of the caller's memory once, and only the copy is looked at.

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::abi::{InHeader, WriteIn};
use super::consts::opcode;
use super::{Error, Input, WRITE_MAX_BYTES};
use crate::fs::FsError;

/// Bytes that are copied first: the header and the longest body that is followed by file data.
const FIRST_BYTES: usize = size_of::<InHeader>() + size_of::<WriteIn>();

/// The longest request that is not a WRITE: a batch of forgets as long as a kernel sends it.
const REQUEST_MAX_BYTES: usize = WRITE_MAX_BYTES + 4096;

/// A decoded header and the body's copy.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    /// The header.
    pub(super) header: InHeader,
    /// What follows it; of a WRITE, without the file's bytes.
    pub(super) body: Body<'a>,
    /// Bytes of the request behind `body`: the bytes to be written by a WRITE.
    pub(super) payload_len: usize,
    /// Whether it may wait for the disk; where it would have to, it is asked again otherwise.
    pub(super) may_wait: bool,
}

/// A request whose header could be read and the rest not.
pub(super) struct Malformed {
    /// The header.
    pub(super) header: InHeader,
    /// Why.
    pub(super) reason: FsError,
}

impl<'a> Request<'a> {
    /// Copies the request into `copy`. What a WRITE writes stays in `reader`.
    ///
    /// # Errors
    /// When not even a header can be read: there is nobody to answer.
    pub(super) fn read(
        reader: &mut impl Input,
        copy: &'a mut Vec<u8>,
    ) -> Result<Result<Request<'a>, Malformed>, Error> {
        let available = reader.available_bytes();
        copy.clear();
        copy.resize(available.min(FIRST_BYTES), 0);
        reader.read_exact(copy).map_err(Error::Request)?;
        let Ok((header, _)) = InHeader::read_from_prefix(copy) else {
            return Err(Error::Short(available));
        };
        let malformed = |reason| Ok(Err(Malformed { header, reason }));
        let Ok(len) = usize::try_from(header.len) else {
            return malformed(FsError::Malformed("length"));
        };
        if len < size_of::<InHeader>() || len > available {
            return malformed(FsError::Malformed("length"));
        }
        let mut payload_len = 0;
        if header.opcode == opcode::WRITE {
            payload_len = len.saturating_sub(FIRST_BYTES);
        } else if len > REQUEST_MAX_BYTES {
            return malformed(FsError::Malformed("length"));
        } else if len > FIRST_BYTES {
            copy.resize(len, 0);
            let Some(rest) = copy.get_mut(FIRST_BYTES..) else {
                return malformed(FsError::Malformed("length"));
            };
            reader.read_exact(rest).map_err(Error::Request)?;
        }
        copy.truncate(len);
        let body = Body(copy.get(size_of::<InHeader>()..).unwrap_or_default());
        Ok(Ok(Request {
            header,
            body,
            payload_len,
            may_wait: true,
        }))
    }
}

/// What is left of a request's body.
#[derive(Clone, Copy)]
pub(super) struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    /// A body of its own, for parts of a request.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Body(bytes)
    }

    /// Takes a structure.
    pub(super) fn take<T: FromBytes + KnownLayout + Immutable>(&mut self) -> Result<T, FsError> {
        let (value, rest) =
            T::read_from_prefix(self.0).map_err(|_| FsError::Malformed("too short"))?;
        self.0 = rest;
        Ok(value)
    }

    /// Takes a string up to its NUL.
    pub(super) fn string(&mut self) -> Result<&'a [u8], FsError> {
        let end = self.0.iter().position(|byte| *byte == 0);
        let (string, rest) = end
            .and_then(|end| self.0.split_at_checked(end))
            .ok_or(FsError::Malformed("string without end"))?;
        self.0 = rest.get(1..).unwrap_or_default();
        Ok(string)
    }

    /// Takes `len` bytes.
    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], FsError> {
        let (bytes, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(FsError::Malformed("too short"))?;
        self.0 = rest;
        Ok(bytes)
    }

    /// What is left.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.0
    }
}
