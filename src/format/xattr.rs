//! How an extended attribute's value, and a symlink's target, lie in values of a tree.
//!
//! An xattr's head fragment holds the length of the whole value and its first bytes; fragment `i`
//! (from 1) holds up to [`VALUE_MAX`] more. Every fragment but the last is full. A symlink's target
//! is cut into fragments (from 0) of up to [`VALUE_MAX`] bytes without a head: the inode has the
//! length.

use super::FormatError;
use super::key::VALUE_MAX;

/// The longest value of an extended attribute in bytes (Linux's `XATTR_SIZE_MAX`).
pub const XATTR_VALUE_MAX: usize = 65536;

/// The longest name of an extended attribute in bytes (Linux's `XATTR_NAME_MAX`).
pub const XATTR_NAME_MAX: usize = 255;

/// The longest target of a symlink in bytes (Linux's `PATH_MAX` without the NUL).
pub const SYMLINK_MAX: usize = 4095;

/// Bytes of a value that the head fragment takes.
pub const HEAD_BYTES: usize = VALUE_MAX - 4;

/// The head fragment of a value of at most [`XATTR_VALUE_MAX`] bytes.
#[must_use]
pub fn encode_head(value: &[u8]) -> Vec<u8> {
    let (first, _) = value.split_at_checked(HEAD_BYTES).unwrap_or((value, &[]));
    let mut bytes = Vec::with_capacity(4 + first.len());
    bytes.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(first);
    bytes
}

/// The fragments of a value that follow its head, with their indices.
pub fn more_fragments(value: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let rest = value.get(HEAD_BYTES..).unwrap_or(&[]);
    (1..=u16::MAX).zip(rest.chunks(VALUE_MAX))
}

/// How many fragments follow the head of a value of `len` bytes.
#[must_use]
pub fn more_count(len: usize) -> u16 {
    u16::try_from(len.saturating_sub(HEAD_BYTES).div_ceil(VALUE_MAX)).unwrap_or(u16::MAX)
}

/// The length of the whole value, and the first bytes of it, from a head fragment.
///
/// # Errors
/// When the lengths do not fit together.
pub fn decode_head(bytes: &[u8]) -> Result<(usize, &[u8]), FormatError> {
    let what = "xattr head";
    let length = |expected| FormatError::Length {
        what,
        expected,
        found: bytes.len(),
    };
    let (len, first) = bytes.split_first_chunk::<4>().ok_or_else(|| length(4))?;
    let len = u32::from_le_bytes(*len);
    let total = usize::try_from(len).unwrap_or(usize::MAX);
    if total > XATTR_VALUE_MAX {
        return Err(FormatError::Field {
            what,
            field: "length",
            found: len.into(),
        });
    }
    if first.len() != total.min(HEAD_BYTES) {
        return Err(length(4 + total.min(HEAD_BYTES)));
    }
    Ok((total, first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_is_its_head_and_its_fragments() {
        for len in [
            0,
            1,
            HEAD_BYTES,
            HEAD_BYTES + 1,
            HEAD_BYTES + VALUE_MAX,
            XATTR_VALUE_MAX,
        ] {
            let value: Vec<u8> = (0..len)
                .map(|i| u8::try_from(i % 251).unwrap_or(0))
                .collect();
            let head = encode_head(&value);
            assert!(head.len() <= VALUE_MAX);
            let (total, first) = decode_head(&head).unwrap_or((usize::MAX, &[]));
            assert_eq!(total, len);
            let mut all = first.to_vec();
            let mut last = 0;
            for (index, fragment) in more_fragments(&value) {
                assert_eq!(index, last + 1);
                last = index;
                all.extend_from_slice(fragment);
            }
            assert_eq!(all, value);
            assert_eq!(last, more_count(len));
        }
    }

    #[test]
    fn head_of_another_length_is_refused() {
        assert!(decode_head(&[]).is_err());
        assert!(decode_head(&[1, 0, 0, 0]).is_err());
        assert!(decode_head(&[0, 0, 0, 0, 1]).is_err());
        assert!(decode_head(&[0xff; VALUE_MAX]).is_err());
    }
}
