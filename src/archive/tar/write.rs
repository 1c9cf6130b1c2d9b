//! A tar stream as razorfs writes it: ustar, with a PAX header for all that does not fit.

use std::io::Write;

use super::BLOCK_BYTES;
use super::header::{Header, put, put_text};
use super::pax::{self, time_text, xattr_key};
use crate::archive::extract::Found;
use crate::archive::{ArchiveError, Result, acl, major_and_minor};

/// Bytes that a stream is a multiple of, as POSIX.1-2001 wants it: 20 blocks.
const RECORD_BYTES: u64 = 20 * BLOCK_BYTES as u64;

/// A stream under way.
pub struct Writer<W> {
    output: W,
    offset: u64,
    /// Bytes of the member's content that are still to come.
    content: u64,
}

impl<W: Write> Writer<W> {
    pub fn new(output: W) -> Self {
        Writer {
            output,
            offset: 0,
            content: 0,
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.write_all(bytes).map_err(ArchiveError::Write)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self, to: u64) -> Result<()> {
        let zeros = [0; BLOCK_BYTES];
        while !self.offset.is_multiple_of(to) {
            let rest = to - self.offset % to;
            let most = usize::try_from(rest)
                .unwrap_or(BLOCK_BYTES)
                .min(BLOCK_BYTES);
            self.put(zeros.get(..most).unwrap_or_default())?;
        }
        Ok(())
    }

    /// A member that has no content.
    ///
    /// # Errors
    /// When the stream cannot be written.
    pub fn member(&mut self, kind: u8, path: &[u8], found: &Found, link: &[u8]) -> Result<()> {
        let mut header = Header::ustar(kind, path);
        if matches!(kind, b'3' | b'4') {
            let (major, minor) = major_and_minor(found.attr.rdev);
            put(&mut header.major, major.into());
            put(&mut header.minor, minor.into());
        }
        let mut extended = Vec::new();
        if !put_text(&mut header.link_name, link) {
            pax::put(&mut extended, b"linkpath", link);
        }
        self.describe(header, path, found, extended)
    }

    /// A file: its ranges of data are to follow, by [`Writer::content`], in order.
    ///
    /// # Errors
    /// When the stream cannot be written.
    pub fn file(&mut self, path: &[u8], found: &Found, ranges: &[(u64, u64)]) -> Result<()> {
        let size = found.attr.size;
        let data = ranges.iter().map(|(_, len)| len).sum();
        if data == size {
            return self.sized(Header::ustar(b'0', path), path, found, (data, Vec::new()));
        }
        let mut extended = Vec::new();
        pax::put(&mut extended, b"GNU.sparse.major", b"1");
        pax::put(&mut extended, b"GNU.sparse.minor", b"0");
        pax::put(&mut extended, b"GNU.sparse.name", path);
        pax::put(
            &mut extended,
            b"GNU.sparse.realsize",
            size.to_string().as_bytes(),
        );
        // A range without data says where the file ends, as GNU tar's do.
        let last = (size, 0);
        let mut map = format!("{}\n", ranges.len() + 1);
        for (offset, len) in ranges.iter().chain([&last]) {
            map.push_str(&format!("{offset}\n{len}\n"));
        }
        let mut map = map.into_bytes();
        map.resize(map.len().next_multiple_of(BLOCK_BYTES), 0);
        let name = [b"GNUSparseFile.0/".as_slice(), last_name(path)].concat();
        let header = Header::ustar(b'0', &name);
        let stored = data + map.len() as u64;
        self.sized(header, &name, found, (stored, extended))?;
        self.content(&map)
    }

    fn sized(
        &mut self,
        mut header: Header,
        name: &[u8],
        found: &Found,
        (stored, mut extended): (u64, Vec<u8>),
    ) -> Result<()> {
        if !put(&mut header.size, stored) {
            pax::put(&mut extended, b"size", stored.to_string().as_bytes());
        }
        self.describe(header, name, found, extended)?;
        self.content = stored;
        Ok(())
    }

    /// The header, with all that is the same for all kinds, and before it what does not fit it.
    fn describe(
        &mut self,
        mut header: Header,
        name: &[u8],
        found: &Found,
        mut extended: Vec<u8>,
    ) -> Result<()> {
        let attr = &found.attr;
        put(&mut header.mode, (attr.mode & 0o7777).into());
        if !put_text(&mut header.name, name) {
            pax::put(&mut extended, b"path", name);
        }
        let ids = [
            (&mut header.uid, attr.uid, b"uid"),
            (&mut header.gid, attr.gid, b"gid"),
        ];
        for (field, id, key) in ids {
            if !put(field, id.into()) {
                pax::put(&mut extended, key, id.to_string().as_bytes());
            }
        }
        let whole = u64::try_from(attr.mtime.sec).ok();
        let fits = whole.is_some_and(|sec| put(&mut header.mtime, sec));
        if !fits || attr.mtime.nsec != 0 {
            pax::put(&mut extended, b"mtime", time_text(attr.mtime).as_bytes());
        }
        pax::put(&mut extended, b"atime", time_text(attr.atime).as_bytes());
        for (name, value) in &found.xattrs {
            let text = || acl::to_text(value);
            let list = match name.as_slice() {
                b"system.posix_acl_access" => text().map(|text| ("SCHILY.acl.access", text)),
                b"system.posix_acl_default" => text().map(|text| ("SCHILY.acl.default", text)),
                _ => None,
            };
            match list {
                Some((key, text)) => pax::put(&mut extended, key.as_bytes(), text.as_bytes()),
                None => pax::put(&mut extended, &xattr_key(name), value),
            }
        }
        let name = [b"PaxHeaders/".as_slice(), last_name(name)].concat();
        let mut before = Header::ustar(b'x', &name);
        put(&mut before.size, extended.len() as u64);
        self.put(&before.encode())?;
        self.put(&extended)?;
        self.pad(BLOCK_BYTES as u64)?;
        self.put(&header.encode())
    }

    /// The next bytes of a file's content.
    ///
    /// # Errors
    /// When the stream cannot be written; when they are more than the header says.
    pub fn content(&mut self, bytes: &[u8]) -> Result<()> {
        let rest = self.content.checked_sub(bytes.len() as u64);
        self.content = rest.ok_or_else(|| {
            ArchiveError::Write(std::io::Error::other("more content than its header says"))
        })?;
        self.put(bytes)?;
        match self.content {
            0 => self.pad(BLOCK_BYTES as u64),
            _ => Ok(()),
        }
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> Result<W> {
        self.put(&[0; 2 * BLOCK_BYTES])?;
        self.pad(RECORD_BYTES)?;
        self.output.flush().map_err(ArchiveError::Write)?;
        Ok(self.output)
    }
}

fn last_name(path: &[u8]) -> &[u8] {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}
