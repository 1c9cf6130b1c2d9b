//! Open files and directories.

use zerocopy::{FromBytes, IntoBytes};

use super::super::wire::{
    CopyFileRangeIn, CreateIn, Dirent, EntryOut, FallocateIn, FlushIn, FsyncIn, LseekIn, OpenIn,
    OpenOut, ReadIn, ReleaseIn, WriteIn, WriteOut, opcode,
};
use super::{Request, about, bytes, fixed, plain, sized, string, word};

/// An entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Inode, offset to go on after it, type.
    pub dirent: Dirent,
    /// Its name.
    pub name: Vec<u8>,
    /// What LOOKUP would tell, in a READDIRPLUS.
    pub entry: Option<EntryOut>,
}

fn created(body: &[u8]) -> Option<(EntryOut, OpenOut)> {
    let (entry, rest) = EntryOut::read_from_prefix(body).ok()?;
    Some((entry, fixed(rest)?))
}

// Open files.

/// OPEN with `O_*` flags.
#[must_use]
pub fn open(node: u64, flags: i32) -> Request<OpenOut> {
    let body = OpenIn {
        flags: flags.cast_unsigned(),
        open_flags: 0,
    };
    about(opcode::OPEN, node, &[body.as_bytes()])
}

fn create_in(flags: i32, mode: u32) -> CreateIn {
    CreateIn {
        flags: flags.cast_unsigned(),
        mode: libc::S_IFREG | mode,
        ..CreateIn::default()
    }
}

/// CREATE for reading and writing with the umask 0.
#[must_use]
pub fn create(dir: u64, name: impl AsRef<[u8]>, mode: u32) -> Request<(EntryOut, OpenOut)> {
    create_flags(dir, name, mode, libc::O_RDWR | libc::O_CREAT)
}

/// CREATE with `O_*` flags and the umask 0.
#[must_use]
pub fn create_flags(
    dir: u64,
    name: impl AsRef<[u8]>,
    mode: u32,
    flags: i32,
) -> Request<(EntryOut, OpenOut)> {
    let body = [create_in(flags, mode).as_bytes(), &string(name)].concat();
    let room = size_of::<EntryOut>() + size_of::<OpenOut>();
    sized(opcode::CREATE, dir, &[&body], room, created)
}

/// TMPFILE for reading and writing. Linux sends a name, which means nothing.
#[must_use]
pub fn tmpfile(dir: u64, mode: u32) -> Request<(EntryOut, OpenOut)> {
    Request {
        opcode: opcode::TMPFILE,
        ..create_flags(dir, "/", mode, libc::O_RDWR | libc::O_TMPFILE)
    }
}

fn read_in(fh: u64, offset: u64, size: u32) -> ReadIn {
    ReadIn {
        fh,
        offset,
        size,
        ..ReadIn::default()
    }
}

/// READ.
#[must_use]
pub fn read(node: u64, fh: u64, offset: u64, size: u32) -> Request<Vec<u8>> {
    let room = usize::try_from(size).unwrap_or_default();
    let body = read_in(fh, offset, size);
    sized(opcode::READ, node, &[body.as_bytes()], room, bytes)
}

/// WRITE.
#[must_use]
pub fn write(node: u64, fh: u64, offset: u64, data: &[u8]) -> Request<WriteOut> {
    write_flags(node, fh, offset, data, 0)
}

/// WRITE to a file opened with `O_*` flags.
#[must_use]
pub fn write_flags(node: u64, fh: u64, offset: u64, data: &[u8], flags: i32) -> Request<WriteOut> {
    let body = WriteIn {
        fh,
        offset,
        size: word(data.len()),
        flags: flags.cast_unsigned(),
        ..WriteIn::default()
    };
    about(opcode::WRITE, node, &[body.as_bytes(), data])
}

/// FLUSH: a descriptor is closed.
#[must_use]
pub fn flush(node: u64, fh: u64) -> Request<()> {
    let body = FlushIn {
        fh,
        ..FlushIn::default()
    };
    plain(opcode::FLUSH, node, &[body.as_bytes()])
}

/// RELEASE: the last descriptor is closed.
#[must_use]
pub fn release(node: u64, fh: u64) -> Request<()> {
    let body = ReleaseIn {
        fh,
        ..ReleaseIn::default()
    };
    plain(opcode::RELEASE, node, &[body.as_bytes()])
}

fn fsync_in(fh: u64, fsync_flags: u32) -> FsyncIn {
    FsyncIn {
        fh,
        fsync_flags,
        padding: 0,
    }
}

/// FSYNC with `FSYNC_*` flags.
#[must_use]
pub fn fsync(node: u64, fh: u64, flags: u32) -> Request<()> {
    plain(opcode::FSYNC, node, &[fsync_in(fh, flags).as_bytes()])
}

/// FALLOCATE.
#[must_use]
pub fn fallocate(node: u64, fh: u64, mode: u32, offset: u64, length: u64) -> Request<()> {
    let body = FallocateIn {
        fh,
        offset,
        length,
        mode,
        padding: 0,
    };
    plain(opcode::FALLOCATE, node, &[body.as_bytes()])
}

/// LSEEK to data or a hole.
#[must_use]
pub fn lseek(node: u64, fh: u64, offset: u64, whence: i32) -> Request<u64> {
    fn decode(body: &[u8]) -> Option<u64> {
        body.try_into().ok().map(u64::from_ne_bytes)
    }
    let body = LseekIn {
        fh,
        offset,
        whence: whence.cast_unsigned(),
        padding: 0,
    };
    sized(opcode::LSEEK, node, &[body.as_bytes()], 8, decode)
}

/// COPY_FILE_RANGE from an inode and offset to others.
#[must_use]
pub fn copy_file_range(source: (u64, u64), target: (u64, u64), len: u64) -> Request<WriteOut> {
    let body = CopyFileRangeIn {
        off_in: source.1,
        nodeid_out: target.0,
        off_out: target.1,
        len,
        ..CopyFileRangeIn::default()
    };
    about(opcode::COPY_FILE_RANGE, source.0, &[body.as_bytes()])
}

/// SYNCFS.
#[must_use]
pub fn syncfs() -> Request<()> {
    plain(opcode::SYNCFS, super::super::wire::ROOT, &[&[0; 8]])
}

// Open directories.

/// OPENDIR.
#[must_use]
pub fn opendir(node: u64) -> Request<OpenOut> {
    about(opcode::OPENDIR, node, &[OpenIn::default().as_bytes()])
}

/// READDIR after an offset, 0 for the beginning.
#[must_use]
pub fn readdir(node: u64, fh: u64, after: u64, size: u32) -> Request<Vec<Entry>> {
    let room = usize::try_from(size).unwrap_or_default();
    let body = read_in(fh, after, size);
    sized(opcode::READDIR, node, &[body.as_bytes()], room, |body| {
        listing(body, false)
    })
}

/// READDIRPLUS. Each entry that is not `.` or `..` counts as a LOOKUP.
#[must_use]
pub fn readdirplus(node: u64, fh: u64, after: u64, size: u32) -> Request<Vec<Entry>> {
    Request {
        opcode: opcode::READDIRPLUS,
        decode: |body| listing(body, true),
        ..readdir(node, fh, after, size)
    }
}

fn listing(mut body: &[u8], plus: bool) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    while !body.is_empty() {
        let mut entry = None;
        if plus {
            let (found, rest) = EntryOut::read_from_prefix(body).ok()?;
            (entry, body) = (Some(found), rest);
        }
        let (dirent, rest) = Dirent::read_from_prefix(body).ok()?;
        let len = usize::try_from(dirent.namelen).ok()?;
        let name = rest.get(..len)?.to_vec();
        // The structures before are multiples of 8 bytes.
        body = rest.get(len.next_multiple_of(8)..)?;
        entries.push(Entry {
            dirent,
            name,
            entry,
        });
    }
    Some(entries)
}

/// RELEASEDIR.
#[must_use]
pub fn releasedir(node: u64, fh: u64) -> Request<()> {
    Request {
        opcode: opcode::RELEASEDIR,
        ..release(node, fh)
    }
}

/// FSYNCDIR.
#[must_use]
pub fn fsyncdir(node: u64, fh: u64) -> Request<()> {
    plain(opcode::FSYNCDIR, node, &[fsync_in(fh, 0).as_bytes()])
}
