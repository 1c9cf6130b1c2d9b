//! Members of a tar stream, one after the other. The stream is read once, from its beginning to its
//! end, and may be anything: whatever it says, no more than one header's extensions, one map of holes
//! and one piece of content are kept.

use std::io::{self, Read};

use super::header::{Header, SparseBlock, length, number, text};
use super::pax::{Extended, Sparse, decimal};
use super::{BLOCK_BYTES, EXTENSION_BYTES_MAX, RANGES_MAX};
use crate::archive::{ArchiveError, Result, device_number};
use crate::engine::{ImportedAttrs, Time};
use zerocopy::FromBytes;

/// The largest file: `loff_t`.
const SIZE_MAX: u64 = i64::MAX as u64;

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file: its size, and its ranges of data in order, within that size.
    File(u64, Vec<(u64, u64)>),
    /// A directory.
    Directory,
    /// A symlink to this target.
    Symlink(Vec<u8>),
    /// One more name of what has this path in the stream.
    HardLink(Vec<u8>),
    /// A fifo.
    Fifo,
    /// A device node of this number.
    CharDevice(u32),
    /// A device node of this number.
    BlockDevice(u32),
    /// Something that is not imported, and why.
    Other(&'static str),
}

/// A member without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its path, as the stream says it.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// What else is said of it.
    pub attrs: ImportedAttrs,
    /// Whether its ACLs could not be understood.
    pub foreign_acls: bool,
}

/// A tar stream.
pub struct Reader<'a> {
    input: &'a mut dyn Read,
    /// Bytes read.
    offset: u64,
    /// Where the member under way begins.
    member: u64,
    /// Bytes of its content that are still to be read, and of the padding behind them.
    content: u64,
    padding: u64,
    /// Bytes that the headers of the member under way may still be extended by.
    extension: u64,
    /// What global headers said, and in how many bytes.
    global: Extended,
    global_bytes: u64,
}

impl<'a> Reader<'a> {
    pub fn new(input: &'a mut dyn Read) -> Self {
        Reader {
            input,
            offset: 0,
            member: 0,
            content: 0,
            padding: 0,
            extension: 0,
            global: Extended::default(),
            global_bytes: 0,
        }
    }

    fn damaged(&self, reason: impl Into<String>) -> ArchiveError {
        ArchiveError::Damaged {
            offset: self.member,
            reason: reason.into(),
        }
    }

    /// Reads some bytes; 0 at the end of the stream.
    fn read_some(&mut self, into: &mut [u8]) -> Result<usize> {
        loop {
            match self.input.read(into) {
                Ok(read) => {
                    self.offset += read as u64;
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let offset = self.offset;
                    return Err(ArchiveError::Read { offset, source });
                }
            }
        }
    }

    /// Fills `into`; false when the stream ends before its first byte.
    fn fill(&mut self, into: &mut [u8]) -> Result<bool> {
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.read_some(rest)? {
                0 if done == 0 => return Ok(false),
                0 => return Err(self.damaged("it is cut off")),
                read => done += read,
            }
        }
        Ok(true)
    }

    fn block(&mut self) -> Result<[u8; BLOCK_BYTES]> {
        let mut block = [0; BLOCK_BYTES];
        match self.fill(&mut block)? {
            true => Ok(block),
            false => Err(self.damaged("it is cut off")),
        }
    }

    /// Passes by what of the member was not read.
    fn skip_rest(&mut self) -> Result<()> {
        let mut rest = self.content.saturating_add(self.padding);
        (self.content, self.padding) = (0, 0);
        let mut piece = [0; 16 << 10];
        while rest > 0 {
            let most = usize::try_from(rest)
                .unwrap_or(piece.len())
                .min(piece.len());
            let into = piece.get_mut(..most).unwrap_or_default();
            if !self.fill(into)? {
                return Err(self.damaged("it is cut off"));
            }
            rest -= most as u64;
        }
        Ok(())
    }

    /// Begins content of so many bytes.
    fn expect(&mut self, len: u64) {
        let block = BLOCK_BYTES as u64;
        self.content = len;
        self.padding = (block - len % block) % block;
    }

    /// The next bytes of a member's content: all of `into`.
    pub fn content(&mut self, into: &mut [u8]) -> Result<()> {
        let Some(rest) = self.content.checked_sub(into.len() as u64) else {
            return Err(self.damaged("a map of holes with more data than there is"));
        };
        if !into.is_empty() && !self.fill(into)? {
            return Err(self.damaged("it is cut off"));
        }
        self.content = rest;
        Ok(())
    }

    /// All of an extension: a PAX header or a long name.
    fn extension(&mut self, len: u64) -> Result<Vec<u8>> {
        let Some(rest) = self.extension.checked_sub(len) else {
            return Err(self.damaged(format!(
                "a header that is extended by more than the {EXTENSION_BYTES_MAX} bytes that are read"
            )));
        };
        self.extension = rest;
        self.expect(len);
        let mut bytes = Vec::new();
        let mut piece = [0; 16 << 10];
        while self.content > 0 {
            let most = usize::try_from(self.content)
                .unwrap_or(piece.len())
                .min(piece.len());
            let into = piece.get_mut(..most).unwrap_or_default();
            self.content(into)?;
            bytes.extend_from_slice(into);
        }
        self.skip_rest()?;
        Ok(bytes)
    }

    /// The next header; `None` at the end of the stream, of which all is read then.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut block = [0; BLOCK_BYTES];
        if !self.fill(&mut block)? {
            return Err(self.damaged(match self.offset {
                0 => "it is empty",
                _ => "it ends without an end mark",
            }));
        }
        if block.iter().all(|byte| *byte == 0) {
            // Whoever writes it is not to be cut off: it is padded.
            let mut piece = [0; 16 << 10];
            while self.read_some(&mut piece)? > 0 {}
            return Ok(None);
        }
        match Header::decode(&block) {
            Some(header) => Ok(Some(header)),
            None if self.offset == BLOCK_BYTES as u64 => Err(self.damaged(unknown(&block))),
            None => Err(self.damaged("a header whose checksum does not match")),
        }
    }

    /// The next member; `None` at the end. What of the one before was not read is passed by.
    ///
    /// # Errors
    /// When the stream cannot be read, or says what cannot be.
    pub fn next(&mut self) -> Result<Option<Member>> {
        self.member = self.offset + self.content + self.padding;
        self.skip_rest()?;
        self.extension = EXTENSION_BYTES_MAX;
        let mut extended = self.global.clone();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let len = length(&header.size)
                .ok_or_else(|| self.damaged("a size that is none, or above 2^63"))?;
            match header.kind {
                b'x' | b'X' => {
                    let bytes = self.extension(len)?;
                    extended
                        .apply(&bytes)
                        .map_err(|reason| self.damaged(reason))?;
                }
                b'g' => {
                    self.global_bytes = self.global_bytes.saturating_add(len);
                    if self.global_bytes > EXTENSION_BYTES_MAX {
                        return Err(self.damaged("global headers extended by too many bytes"));
                    }
                    let bytes = self.extension(len)?;
                    let mut global = std::mem::take(&mut self.global);
                    let applied = global.apply(&bytes);
                    applied.map_err(|reason| self.damaged(reason))?;
                    extended = global.clone();
                    self.global = global;
                }
                b'L' => long_name = Some(text(&self.extension(len)?).to_vec()),
                b'K' => long_link = Some(text(&self.extension(len)?).to_vec()),
                _ => {
                    return self
                        .described(&header, extended, (long_name, long_link))
                        .map(Some);
                }
            }
        }
    }

    /// What a header and its extensions say together.
    fn described(
        &mut self,
        header: &Header,
        extended: Extended,
        (long_name, long_link): (Option<Vec<u8>>, Option<Vec<u8>>),
    ) -> Result<Member> {
        let attrs = self.attrs(header, &extended)?;
        let foreign_acls = extended.foreign_acls;
        let sparse_name = extended.sparse.name.clone();
        let path = sparse_name.or_else(|| extended.path.clone()).or(long_name);
        let path = path.unwrap_or_else(|| header.path());
        if path.contains(&0) {
            return Err(self.damaged("a path with a NUL"));
        }
        let link = extended.link_path.clone().or(long_link);
        let link = link.unwrap_or_else(|| text(&header.link_name).to_vec());
        let kind = self.kind(header, &path, link, extended)?;
        Ok(Member {
            path,
            kind,
            attrs,
            foreign_acls,
        })
    }

    fn kind(
        &mut self,
        header: &Header,
        path: &[u8],
        link: Vec<u8>,
        extended: Extended,
    ) -> Result<Kind> {
        let has_pax = extended != self.global;
        let stored = match extended.size {
            Some(size) => size,
            None => length(&header.size).unwrap_or(0),
        };
        if stored > SIZE_MAX {
            return Err(self.damaged("a size of 2^63 or more"));
        }
        let device = || {
            let number = |field| length(field);
            let (major, minor) = (number(&header.major)?, number(&header.minor)?);
            device_number(major, minor)
        };
        let wrong_device = || self.damaged("a device number that is none, or too large");
        let kind = match header.kind {
            0 | b'0' | b'7' if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' => return self.file(stored, extended.sparse),
            b'S' => return self.old_sparse(header, stored),
            // POSIX.1-2001 lets the content come again with a link.
            b'1' if has_pax => {
                self.expect(stored);
                Kind::HardLink(link)
            }
            b'1' => Kind::HardLink(link),
            b'2' => Kind::Symlink(link),
            b'3' => Kind::CharDevice(device().ok_or_else(wrong_device)?),
            b'4' => Kind::BlockDevice(device().ok_or_else(wrong_device)?),
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'D' => {
                self.expect(stored);
                Kind::Directory
            }
            b'M' => return Err(self.damaged("a file that begins in another volume")),
            b'V' => Kind::Other("a label of the archive"),
            _ => {
                self.expect(stored);
                Kind::Other("a member of a kind that is not known")
            }
        };
        Ok(kind)
    }

    fn file(&mut self, stored: u64, sparse: Sparse) -> Result<Kind> {
        self.expect(stored);
        if !sparse.is_there {
            let ranges = if stored > 0 {
                vec![(0, stored)]
            } else {
                Vec::new()
            };
            return Ok(Kind::File(stored, ranges));
        }
        let size = sparse.real_size.unwrap_or(stored);
        let ranges = match (sparse.major, sparse.minor) {
            (0, _) if !sparse.map.len().is_multiple_of(2) => {
                return Err(self.damaged("a map of holes that ends within a pair"));
            }
            (0, _) => {
                let pairs = sparse.map.chunks_exact(2).filter_map(|pair| match pair {
                    [offset, len] => Some((*offset, *len)),
                    _ => None,
                });
                pairs.collect()
            }
            (1, 0) => self.map_in_content()?,
            (major, minor) => {
                return Err(self.damaged(format!("a file with holes in form {major}.{minor}")));
            }
        };
        self.checked(size, ranges)
    }

    /// The map of holes at the beginning of the content: decimal numbers, a line each, in whole
    /// blocks.
    fn map_in_content(&mut self) -> Result<Vec<(u64, u64)>> {
        let mut map = Vec::new();
        let (mut wanted, mut start) = (None, None);
        let mut line = Vec::new();
        loop {
            let mut block = [0; BLOCK_BYTES];
            self.content(&mut block)?;
            for byte in block {
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Err(self.damaged("a map of holes with a number that is none"));
                    }
                    continue;
                }
                let number = decimal(&line)
                    .ok_or_else(|| self.damaged("a map of holes with a number that is none"))?;
                line.clear();
                match wanted {
                    None if number > RANGES_MAX as u64 => {
                        return Err(self.damaged("a map of more holes than are read"));
                    }
                    None => wanted = Some(number),
                    Some(_) => match start.take() {
                        None => start = Some(number),
                        Some(start) => map.push((start, number)),
                    },
                }
                if wanted == Some(map.len() as u64) {
                    return Ok(map);
                }
            }
        }
    }

    /// GNU tar's old form: ranges in the header and in blocks behind it.
    fn old_sparse(&mut self, header: &Header, stored: u64) -> Result<Kind> {
        let wrong = "a map of holes with a number that is none";
        let (first, mut more, size) = header.sparse().ok_or_else(|| self.damaged(wrong))?;
        let mut ranges = Vec::new();
        for entry in &first {
            ranges.extend(entry.range().ok_or_else(|| self.damaged(wrong))?);
        }
        while more {
            let block = self.block()?;
            let block = SparseBlock::read_from_bytes(&block).map_err(|_| self.damaged(wrong))?;
            for entry in &block.entries {
                ranges.extend(entry.range().ok_or_else(|| self.damaged(wrong))?);
            }
            more = block.is_extended != 0;
            if ranges.len() > RANGES_MAX {
                return Err(self.damaged("a map of more holes than are read"));
            }
        }
        self.expect(stored);
        self.checked(size, ranges)
    }

    /// Ranges that are in order, within the file, and all that is stored.
    fn checked(&self, size: u64, mut ranges: Vec<(u64, u64)>) -> Result<Kind> {
        if size > SIZE_MAX {
            return Err(self.damaged("a size of 2^63 or more"));
        }
        let (mut end, mut sum, mut ends_within) = (0, 0_u64, false);
        for (offset, len) in &ranges {
            let next = offset.checked_add(*len).filter(|next| *next <= size);
            let Some(next) = next.filter(|_| *offset >= end) else {
                return Err(self.damaged("a map of holes with ranges out of order or of the file"));
            };
            // GNU tar pads such a range, and others do not: nothing in the stream says which.
            if ends_within && *len > 0 {
                return Err(self.damaged(
                    "a map of holes with data that is no whole blocks, and more behind it, which \
                     programs read in different ways; unpack it with the one that wrote it, and import \
                     the directory",
                ));
            }
            ends_within |= !len.is_multiple_of(BLOCK_BYTES as u64);
            end = next;
            sum += len;
        }
        if sum != self.content {
            return Err(self.damaged(format!(
                "a map of holes with {sum} bytes of data, where there are {}",
                self.content
            )));
        }
        ranges.retain(|(_, len)| *len > 0);
        Ok(Kind::File(size, ranges))
    }

    fn attrs(&self, header: &Header, extended: &Extended) -> Result<ImportedAttrs> {
        let wrong = |what: &str| self.damaged(format!("{what} that is no number"));
        let id = |said: Option<u32>, field: &[u8], what| match said {
            Some(id) => Ok(id),
            None => length(field)
                .and_then(|id| u32::try_from(id).ok())
                .ok_or_else(|| wrong(what)),
        };
        let mode = length(&header.mode).ok_or_else(|| wrong("a mode"))? & 0o7777;
        let whole = |sec| Time { sec, nsec: 0 };
        let mtime = match extended.mtime {
            Some(time) => time,
            None => whole(number(&header.mtime).ok_or_else(|| wrong("a time"))?),
        };
        let atime = extended.atime.or_else(|| header.atime().map(whole));
        Ok(ImportedAttrs {
            mode: u32::try_from(mode).unwrap_or(0),
            uid: id(extended.uid, &header.uid, "an owner")?,
            gid: id(extended.gid, &header.gid, "a group")?,
            atime: atime.unwrap_or(mtime),
            mtime,
            xattrs: extended.xattrs.clone(),
        })
    }
}

/// What is wrong with a stream that does not begin with a header.
fn unknown(block: &[u8; BLOCK_BYTES]) -> String {
    let packed = [
        (b"\x1f\x8b".as_slice(), "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\xfd7zXZ", "xz"),
        (b"BZh", "bzip2"),
        (b"\x04\x22\x4d\x18", "lz4"),
    ];
    match packed.iter().find(|(magic, _)| block.starts_with(magic)) {
        Some((_, name)) => format!("it is compressed; {name} -dc makes a tar stream of it"),
        None => "it is no tar stream".into(),
    }
}
