//! The header block of a member: ustar and GNU tar's form, told apart by their magic.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::BLOCK_BYTES;

/// A header block as it lies in the stream (POSIX.1-2001, pax, "ustar Interchange Format").
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone)]
#[repr(C)]
pub struct Header {
    pub name: [u8; 100],
    pub mode: [u8; 8],
    pub uid: [u8; 8],
    pub gid: [u8; 8],
    pub size: [u8; 12],
    pub mtime: [u8; 12],
    checksum: [u8; 8],
    pub kind: u8,
    pub link_name: [u8; 100],
    magic: [u8; 8],
    user_name: [u8; 32],
    group_name: [u8; 32],
    pub major: [u8; 8],
    pub minor: [u8; 8],
    /// A prefix of the name (155 bytes) in ustar; in GNU tar's form: [`GnuTail`].
    tail: [u8; 167],
}

/// What GNU tar's form has in the place of the prefix.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct GnuTail {
    atime: [u8; 12],
    ctime: [u8; 12],
    offset: [u8; 12],
    long_names: [u8; 4],
    unused: u8,
    sparse: [SparseEntry; 4],
    is_extended: u8,
    real_size: [u8; 12],
    padding: [u8; 17],
}

/// A range of data in GNU tar's old form of files with holes.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub struct SparseEntry {
    offset: [u8; 12],
    len: [u8; 12],
}

/// A block of further ranges.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SparseBlock {
    pub entries: [SparseEntry; 21],
    pub is_extended: u8,
    padding: [u8; 7],
}

const _: () = assert!(size_of::<Header>() == BLOCK_BYTES);
const _: () = assert!(size_of::<GnuTail>() == 167);
const _: () = assert!(size_of::<SparseBlock>() == BLOCK_BYTES);

const USTAR: [u8; 8] = *b"ustar\x0000";
const GNU: [u8; 8] = *b"ustar  \0";

/// A number: octal digits, or GNU tar's binary form. `None` when it is neither or does not fit.
pub fn number(field: &[u8]) -> Option<i64> {
    match field.split_first() {
        Some((first @ (0x80 | 0xff), rest)) => {
            let mut value = if *first == 0xff { -1 } else { 0_i64 };
            for byte in rest {
                value = value.checked_mul(256)?.checked_add(i64::from(*byte))?;
            }
            Some(value)
        }
        _ => octal(field),
    }
}

fn octal(field: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(field).ok()?;
    let digits = text.trim_matches(|c| c == ' ' || c == '\0');
    if digits.is_empty() {
        return Some(0);
    }
    match digits.bytes().all(|digit| (b'0'..=b'7').contains(&digit)) {
        true => i64::from_str_radix(digits, 8).ok(),
        false => None,
    }
}

/// A number that is no offset before the beginning.
pub fn length(field: &[u8]) -> Option<u64> {
    number(field).and_then(|value| u64::try_from(value).ok())
}

impl SparseEntry {
    /// Offset and length; `None` when there is none.
    pub fn range(&self) -> Option<Option<(u64, u64)>> {
        if self.offset.first() == Some(&0) {
            return Some(None);
        }
        Some(Some((length(&self.offset)?, length(&self.len)?)))
    }
}

/// Bytes up to the first NUL.
pub fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

impl Header {
    /// Reads a block, its checksum checked; `None` when it is no header.
    pub fn decode(block: &[u8; BLOCK_BYTES]) -> Option<Header> {
        let header = Header::read_from_bytes(block).ok()?;
        let expected = octal(&header.checksum)?;
        (header.sum(i64::from) == expected || header.sum(signed) == expected).then_some(header)
    }

    /// The sum of all bytes, those of the checksum counted as spaces.
    fn sum(&self, value: impl Fn(u8) -> i64) -> i64 {
        let all: i64 = self.as_bytes().iter().map(|byte| value(*byte)).sum();
        let own: i64 = self.checksum.iter().map(|byte| value(*byte)).sum();
        all - own + 8 * 32
    }

    fn is_gnu(&self) -> bool {
        self.magic == GNU
    }

    /// The member's name.
    pub fn path(&self) -> Vec<u8> {
        let name = text(&self.name);
        let prefix = match self.magic.starts_with(b"ustar\0") {
            true => text(self.tail.get(..155).unwrap_or_default()),
            false => &[],
        };
        super::super::joined(prefix, name)
    }

    fn gnu(&self) -> Option<GnuTail> {
        match self.is_gnu() {
            true => GnuTail::read_from_bytes(&self.tail).ok(),
            false => None,
        }
    }

    /// Of GNU tar's old form of a file with holes: its first ranges, whether more follow, its size.
    pub fn sparse(&self) -> Option<([SparseEntry; 4], bool, u64)> {
        let tail = self.gnu()?;
        Some((tail.sparse, tail.is_extended != 0, length(&tail.real_size)?))
    }

    /// The last access, where GNU tar's form has it.
    pub fn atime(&self) -> Option<i64> {
        let tail = self.gnu()?;
        tail.atime.first().filter(|first| **first != 0)?;
        number(&tail.atime)
    }

    /// A new header of the ustar form; what does not fit stays 0 and is for a PAX header.
    pub fn ustar(kind: u8, name: &[u8]) -> Header {
        let mut header = Header::new_zeroed();
        header.kind = kind;
        header.magic = USTAR;
        put_text(&mut header.name, name);
        put(&mut header.mode, 0o644);
        for field in [&mut header.uid, &mut header.gid, &mut header.major] {
            put(field, 0);
        }
        put(&mut header.minor, 0);
        put(&mut header.size, 0);
        put(&mut header.mtime, 0);
        header
    }

    /// The block, checksummed.
    pub fn encode(mut self) -> [u8; BLOCK_BYTES] {
        let sum = self.sum(i64::from);
        let digits = format!("{sum:06o}\0 ");
        put_text(&mut self.checksum, digits.as_bytes());
        let mut block = [0; BLOCK_BYTES];
        block.copy_from_slice(self.as_bytes());
        block
    }
}

fn signed(byte: u8) -> i64 {
    i64::from(byte.cast_signed())
}

/// Puts a number as octal digits; whether it fits. It is 0 when it does not.
pub fn put(field: &mut [u8], value: u64) -> bool {
    let width = field.len().saturating_sub(1);
    let digits = format!("{value:0width$o}");
    if digits.len() > width {
        put(field, 0);
        return false;
    }
    put_text(field, digits.as_bytes());
    true
}

/// Puts a text; whether it fits. It is cut off when it does not.
pub fn put_text(field: &mut [u8], text: &[u8]) -> bool {
    field.fill(0);
    for (into, byte) in field.iter_mut().zip(text) {
        *into = *byte;
    }
    text.len() <= field.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0"), Some(0));
        assert_eq!(number(b"0000648\0"), None);
        assert_eq!(number(b"-0000001"), None);
        assert_eq!(
            number(b"\x80\0\0\0\0\0\0\x02\0\0\0\x01"),
            Some(0x2_0000_0001)
        );
        assert_eq!(number(&[0xff; 12]), Some(-1));
        // 2^63 and above.
        assert_eq!(number(b"\x80\0\0\0\x80\0\0\0\0\0\0\0"), None);
        assert_eq!(length(&[0xff; 12]), None);
    }

    #[test]
    fn a_block_with_any_other_byte_is_no_header() {
        let block = Header::ustar(b'0', b"name").encode();
        assert_eq!(Header::decode(&block).unwrap().path(), b"name");
        for at in 0..BLOCK_BYTES {
            let mut block = block;
            let byte = block.get_mut(at).unwrap();
            *byte = byte.wrapping_add(1);
            assert!(Header::decode(&block).is_none(), "byte {at}");
        }
    }
}
