//! An interned name in strings.dat.
//!
//! CRC32 (u32), length (u8), the name, zeros up to a multiple of four bytes. The checksum covers
//! the name's id too, so that a record in the wrong place is found.

use super::FormatError;
use super::id::NameId;

/// The longest name in bytes.
pub const NAME_MAX: usize = 255;
/// Bytes of the largest record.
pub const RECORD_MAX_BYTES: usize = record_bytes(NAME_MAX);

/// Bytes of a record before the name.
pub const HEAD: usize = 5;

/// Bytes of the record of a name of `len` bytes.
#[must_use]
pub const fn record_bytes(len: usize) -> usize {
    (HEAD + len).next_multiple_of(4)
}

fn checksum(id: NameId, len: u8, name: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&id.0.to_le_bytes());
    hasher.update(&[len]);
    hasher.update(name);
    hasher.finalize()
}

/// Appends the record of a name of 1 to 255 bytes.
///
/// # Errors
/// When the name has another length.
pub fn encode(id: NameId, name: &[u8], out: &mut Vec<u8>) -> Result<(), FormatError> {
    let len = match u8::try_from(name.len()) {
        Ok(len) if len > 0 => len,
        _ => {
            let found = name.len() as u64;
            return Err(FormatError::Field {
                what: "name",
                field: "length",
                found,
            });
        }
    };
    let end = out.len() + record_bytes(name.len());
    out.extend_from_slice(&checksum(id, len, name).to_le_bytes());
    out.push(len);
    out.extend_from_slice(name);
    out.resize(end, 0);
    Ok(())
}

/// Reads the record at the start of `bytes`, which may go on behind it.
///
/// # Errors
/// When it is cut off, empty, or does not match its checksum.
pub fn decode(id: NameId, bytes: &[u8]) -> Result<&[u8], FormatError> {
    let what = "name record";
    let cut = |expected| FormatError::Length {
        what,
        expected,
        found: bytes.len(),
    };
    let (head, rest) = bytes.split_first_chunk::<HEAD>().ok_or_else(|| cut(HEAD))?;
    let [c0, c1, c2, c3, len] = *head;
    let name = rest
        .get(..usize::from(len))
        .ok_or_else(|| cut(record_bytes(len.into())))?;
    let (found, computed) = (
        u32::from_le_bytes([c0, c1, c2, c3]),
        checksum(id, len, name),
    );
    if found != computed {
        return Err(FormatError::Checksum {
            what,
            computed,
            found,
        });
    }
    if len == 0 {
        return Err(FormatError::Field {
            what,
            field: "length",
            found: 0,
        });
    }
    Ok(name)
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_disk_and_is_tied_to_its_place() {
        let mut bytes = vec![];
        encode(NameId(8), b"index.js", &mut bytes).unwrap();
        assert_eq!(bytes.len(), record_bytes(8));
        assert_eq!(decode(NameId(8), &bytes), Ok(b"index.js".as_slice()));
        assert!(decode(NameId(12), &bytes).is_err());
        for bit in 0..(HEAD + 8) * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(NameId(8), &damaged).is_err(), "bit {bit}");
        }
        assert!(encode(NameId(0), &[b'x'; 256], &mut bytes).is_err());
        assert!(encode(NameId(0), b"", &mut bytes).is_err());
    }
}
