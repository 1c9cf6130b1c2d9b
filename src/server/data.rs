//! READ, WRITE and listings: bytes go straight between the caller's memory and the engine.

use zerocopy::IntoBytes;

use super::abi::{Dirent, EntryOut, OutHeader, ReadIn, WriteIn, WriteOut};
use super::consts::{WRITE_CACHE, WRITE_KILL_SUIDGID};
use super::dispatch::cred;
use super::reply::Reply;
use super::request::Request;
use super::{Error, Input, Output, Server, WRITE_MAX_BYTES, convert};
use crate::engine::{Attr, DirEntry, EngineError, Sink, Source, WriteFlags};
use crate::format::id::Ino;
use crate::fs::{FsError, errno};

const HEADER_BYTES: usize = size_of::<OutHeader>();
const ZEROS: [u8; 4096] = [0; 4096];

/// The part of a reply behind its header.
struct OutputSink<'w, W> {
    writer: &'w mut W,
    /// Bytes that may still be put.
    room: usize,
}

impl<W: Output> Sink for OutputSink<'_, W> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), EngineError> {
        self.room = self
            .room
            .checked_sub(bytes.len())
            .ok_or_else(|| EngineError::Buffer("more bytes than were asked for".into()))?;
        self.writer
            .write_all(bytes)
            .map_err(|error| EngineError::Buffer(error.to_string()))
    }

    fn zeros(&mut self, mut len: usize) -> Result<(), EngineError> {
        while len > 0 {
            let now = len.min(ZEROS.len());
            self.put(ZEROS.get(..now).unwrap_or_default())?;
            len -= now;
        }
        Ok(())
    }
}

/// The bytes behind a WRITE's header.
struct InputSource<'r, R>(&'r mut R);

impl<R: Input> Source for InputSource<'_, R> {
    fn fill(&mut self, buf: &mut [u8]) -> Result<(), EngineError> {
        self.0
            .read_exact(buf)
            .map_err(|error| EngineError::Buffer(error.to_string()))
    }
}

impl Server {
    /// Reads into the reply behind its header, then puts the header before it.
    pub(super) fn read<W: Output>(
        &self,
        request: &Request<'_>,
        writer: &mut W,
        out: &mut Reply<'_>,
    ) -> Result<usize, Error> {
        let mut body = request.body;
        let asked = match body.take::<ReadIn>() {
            Ok(asked) => asked,
            Err(error) => return self.send(writer, &request.header, out, Err(error)),
        };
        let mut data = writer.split_at(HEADER_BYTES).map_err(Error::Reply)?;
        let len = usize::try_from(asked.size)
            .unwrap_or(usize::MAX)
            .min(data.available_bytes())
            .min(WRITE_MAX_BYTES);
        let mut sink = OutputSink {
            writer: &mut data,
            room: len,
        };
        let result = self
            .fs
            .read(Ino(request.header.nodeid), asked.offset, len, &mut sink);
        let done = len - sink.room;
        let (error, done) = match result {
            Ok(()) => (0, done),
            Err(error) => {
                let errno = errno::of(&error);
                self.refused.note(errno);
                (errno, 0)
            }
        };
        let header = OutHeader {
            len: u32::try_from(HEADER_BYTES + done).unwrap_or(u32::MAX),
            error: -error,
            unique: request.header.unique,
        };
        writer.write_all(header.as_bytes()).map_err(Error::Reply)?;
        writer
            .commit((error == 0).then_some(&data))
            .map_err(Error::Reply)?;
        Ok(HEADER_BYTES + done)
    }

    /// Writes what stands behind the request's header.
    pub(super) fn write(
        &self,
        request: &Request<'_>,
        payload: &mut impl Input,
        out: &mut Reply<'_>,
    ) -> Result<(), FsError> {
        let mut body = request.body;
        let asked: WriteIn = body.take()?;
        let len = usize::try_from(asked.size).unwrap_or(usize::MAX);
        if len > request.payload_len || len > WRITE_MAX_BYTES {
            return Err(FsError::Malformed("length of a write"));
        }
        // The offset of an append is taken as it comes: the kernel that sends it serialises its
        // own. Looking at O_APPEND here would be wrong: the parts of a long append may arrive in
        // any order. Kernels that share a store and append to one file need a lock of their own,
        // as over NFS.
        let flags = WriteFlags {
            append: false,
            sync: asked.flags.cast_signed() & libc::O_DSYNC != 0,
            killed_by: (asked.write_flags & WRITE_KILL_SUIDGID != 0).then(|| cred(&request.header)),
            // Where nobody asked with OPEN, the file may never have been one to write to.
            taken: asked.write_flags & WRITE_CACHE != 0 && !self.fs.options().no_open(),
        };
        let mut source = InputSource(payload);
        self.fs.write(
            Ino(request.header.nodeid),
            asked.offset,
            len,
            &mut source,
            flags,
        )?;
        out.put(&WriteOut {
            size: asked.size,
            padding: 0,
        });
        Ok(())
    }

    /// READDIR: as many entries as fit.
    pub(super) fn readdir(
        &self,
        request: &Request<'_>,
        room: usize,
        out: &mut Reply<'_>,
    ) -> Result<(), FsError> {
        let (after, room) = listing(request, room)?;
        self.fs
            .readdir(Ino(request.header.nodeid), after, &mut |entry| {
                let fits = out.body_len() + dirent_bytes(&entry) <= room;
                if fits {
                    put_dirent(out, &entry);
                }
                fits
            })
    }

    /// READDIRPLUS: as many entries as fit, each with its attributes and a lookup.
    pub(super) fn readdirplus(
        &self,
        request: &Request<'_>,
        room: usize,
        out: &mut Reply<'_>,
    ) -> Result<(), FsError> {
        let (after, room) = listing(request, room)?;
        let mut visit = |entry: DirEntry, attr: &Attr| {
            let bytes = size_of::<EntryOut>() + dirent_bytes(&entry);
            if out.body_len() + bytes > room {
                return false;
            }
            if matches!(entry.name.as_slice(), b"." | b"..") {
                // The kernel knows both already: no lookup.
                out.put(&EntryOut::default());
            } else {
                let valid = self.fs.attr_timeout(attr);
                let entry_timeout = self.fs.entry_timeout(attr);
                out.put(&convert::entry_out(attr, entry_timeout, valid));
                out.looked_up(attr.ino);
            }
            put_dirent(out, &entry);
            true
        };
        self.fs
            .readdirplus(Ino(request.header.nodeid), after, &mut visit)
    }
}

/// Behind which cookie a listing goes on, and the bytes that it may have.
pub(super) fn listing(request: &Request<'_>, room: usize) -> Result<(u64, usize), FsError> {
    let mut body = request.body;
    let asked: ReadIn = body.take()?;
    let size = usize::try_from(asked.size).unwrap_or(usize::MAX);
    Ok((asked.offset, size.min(room).min(WRITE_MAX_BYTES)))
}

pub(super) fn dirent_bytes(entry: &DirEntry) -> usize {
    (size_of::<Dirent>() + entry.name.len()).next_multiple_of(8)
}

pub(super) fn put_dirent(out: &mut Reply<'_>, entry: &DirEntry) {
    out.put(&Dirent {
        ino: entry.ino.0,
        off: entry.cookie,
        namelen: u32::try_from(entry.name.len()).unwrap_or_default(),
        kind: u32::from(entry.file_type),
    });
    out.bytes(&entry.name);
    out.align();
}
