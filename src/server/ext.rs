//! What comes with a request that makes an inode: security contexts and a supplementary group.
//!
//! The extensions stand behind the names. Each begins with its length and its kind: up to 31 it
//! is the number of security contexts that follow (7.36), above a type (7.38).

use super::abi::{Secctx, SecctxHeader};
use super::consts::{EXT_GROUPS, MAX_NR_SECCTX, feature};
use super::request::Body;
use crate::fs::{FsError, NAME_MAX};

/// The longest value of an extended attribute.
const VALUE_MAX: usize = 65_536;

/// The extensions of one request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Extensions<'a> {
    /// Extended attributes to set with the making.
    pub(super) xattrs: Vec<(&'a [u8], &'a [u8])>,
    /// The caller's group that owns the directory, if that is not its file-system group.
    pub(super) supplementary_gid: Option<u32>,
}

impl<'a> Extensions<'a> {
    /// Reads what is left of a body, by the features that were agreed on.
    pub(super) fn read(body: Body<'a>, session: u64) -> Result<Self, FsError> {
        let mut extensions = Extensions::default();
        if session & (feature::SECURITY_CTX | feature::CREATE_SUPP_GROUP) == 0 {
            return Ok(extensions);
        }
        let mut rest = body;
        while !rest.rest().is_empty() {
            let header: SecctxHeader = rest.take()?;
            let len = to_usize(header.size)?
                .checked_sub(size_of::<SecctxHeader>())
                .ok_or(FsError::Malformed("extension length"))?;
            let inner = Body::new(rest.bytes(len)?);
            skip_padding(&mut rest, len)?;
            if header.kind <= MAX_NR_SECCTX {
                if session & feature::SECURITY_CTX != 0 {
                    extensions.contexts(header.kind, inner)?;
                }
            } else if header.kind == EXT_GROUPS && session & feature::CREATE_SUPP_GROUP != 0 {
                extensions.groups(inner)?;
            }
        }
        Ok(extensions)
    }

    fn contexts(&mut self, count: u32, mut body: Body<'a>) -> Result<(), FsError> {
        for _ in 0..count {
            let before = body.rest().len();
            let context: Secctx = body.take()?;
            let name = body.string()?;
            let len = to_usize(context.size)?;
            if !name.starts_with(b"security.") || name.len() > NAME_MAX || len > VALUE_MAX {
                return Err(FsError::Malformed("security context"));
            }
            let value = body.bytes(len)?;
            self.xattrs.push((name, value));
            let len = before - body.rest().len();
            skip_padding(&mut body, len)?;
        }
        Ok(())
    }

    fn groups(&mut self, mut body: Body<'a>) -> Result<(), FsError> {
        let count: u32 = body.take()?;
        if count > 0 {
            // A kernel sends one at most: the group of the directory.
            self.supplementary_gid = Some(body.take()?);
        }
        Ok(())
    }
}

/// Skips to a multiple of eight bytes, as far as there is anything.
fn skip_padding(body: &mut Body<'_>, len: usize) -> Result<(), FsError> {
    let padding = (8 - len % 8) % 8;
    body.bytes(padding.min(body.rest().len()))?;
    Ok(())
}

fn to_usize(len: u32) -> Result<usize, FsError> {
    usize::try_from(len).map_err(|_| FsError::Malformed("length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: u64 = feature::SECURITY_CTX | feature::CREATE_SUPP_GROUP;

    fn context(name: &[u8], value: &[u8]) -> Vec<u8> {
        let len = u32::try_from(value.len()).unwrap();
        let mut bytes = [len.to_ne_bytes(), [0; 4]].concat();
        bytes.extend_from_slice(name);
        bytes.push(0);
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    fn extension(kind: u32, inner: &[u8]) -> Vec<u8> {
        let len = u32::try_from(inner.len() + 8).unwrap();
        let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(inner);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn contexts_and_group_are_read() {
        let contexts = [
            context(b"security.selinux", b"a:b:c"),
            context(b"security.x", b""),
        ];
        let group = [1u32.to_ne_bytes(), 77u32.to_ne_bytes()].concat();
        let bytes = [
            extension(2, &contexts.concat()),
            extension(EXT_GROUPS, &group),
        ]
        .concat();
        let found = Extensions::read(Body::new(&bytes), BOTH).unwrap();
        assert_eq!(
            found.xattrs,
            [
                (&b"security.selinux"[..], &b"a:b:c"[..]),
                (b"security.x", b"")
            ]
        );
        assert_eq!(found.supplementary_gid, Some(77));
        let none = Extensions::read(Body::new(&bytes), 0).unwrap();
        assert_eq!(none, Extensions::default());
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let good = extension(1, &context(b"security.selinux", b"label"));
        for cut in 1..good.len() {
            // The padding of the last value may be missing, nothing else.
            let read = Extensions::read(Body::new(&good[..cut]), BOTH);
            assert!(read.is_err(), "cut to {cut} bytes");
        }
        for size in [0u32, 7, 1 << 20, u32::MAX] {
            let mut bad = good.clone();
            bad[..4].copy_from_slice(&size.to_ne_bytes());
            assert!(
                Extensions::read(Body::new(&bad), BOTH).is_err(),
                "extension of {size}"
            );
            let mut bad = good.clone();
            bad[8..12].copy_from_slice(&(size | 64).to_ne_bytes());
            assert!(
                Extensions::read(Body::new(&bad), BOTH).is_err(),
                "context of {size}"
            );
        }
        let foreign = extension(1, &context(b"user.x", b"v"));
        assert!(Extensions::read(Body::new(&foreign), BOTH).is_err());
    }
}
