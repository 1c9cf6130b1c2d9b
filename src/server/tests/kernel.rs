//! The other side of the protocol for tests: it frames requests and takes replies apart.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use fuse_backend_rs::transport::{FuseBuf, FuseDevWriter, Reader, Writer};
use parking_lot::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::disk::{Disk, Media};
use crate::engine::{MkfsOptions, OpenOptions, Volume, mkfs, system_clock};
use crate::fs::{FileSystem, Options};
use crate::server::abi::{
    AttrOut, CreateIn, EntryOut, InHeader, InitIn, InitOut, MkdirIn, OpenOut, OutHeader, ReadIn,
    SetattrIn, WriteIn, WriteOut,
};
use crate::server::consts::opcode;
use crate::server::{Error, Server, WRITE_MAX_BYTES};

pub(super) const ROOT: u64 = 1;
pub(super) const O_WRONLY: u32 = libc::O_WRONLY.cast_unsigned();

/// A disk in memory that never fails.
#[derive(Default)]
struct MemoryDisk(Mutex<Vec<u8>>);

fn range(offset: u64, len: usize) -> std::ops::Range<usize> {
    let start = usize::try_from(offset).unwrap();
    start..start + len
}

impl Disk for MemoryDisk {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.lock();
        let found = bytes
            .get(range(offset, buf.len()))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(found);
        Ok(())
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.allocate(offset, buf.len() as u64)?;
        self.0.lock()[range(offset, buf.len())].copy_from_slice(buf);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = range(offset, usize::try_from(len).unwrap()).end;
        let mut bytes = self.0.lock();
        let len = bytes.len().max(end);
        bytes.resize(len, 0);
        Ok(())
    }

    fn trim(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn len_bytes(&self) -> u64 {
        self.0.lock().len() as u64
    }

    fn available_bytes(&self) -> io::Result<u64> {
        Ok(1 << 40)
    }
}

/// A server on a volume of its own, and a kernel that talks to it.
pub(super) struct Kernel {
    pub(super) server: Server,
    media: Media,
    replies: File,
}

/// A request's outcome: its reply's body, or the errno.
pub(super) type Answer = Result<Vec<u8>, i32>;

impl Kernel {
    /// A kernel before INIT, on a new volume.
    pub(super) fn without_session(options: Options) -> Kernel {
        Kernel::with_dirty_limit(options, OpenOptions::default().dirty_limit_bytes)
    }

    /// The same, with a limit of unwritten data.
    pub(super) fn with_dirty_limit(options: Options, dirty_limit_bytes: u64) -> Kernel {
        let disk = || Arc::new(MemoryDisk::default()) as Arc<dyn Disk>;
        let media = Media {
            superblock: disk(),
            nodes: disk(),
            strings: disk(),
            chunks: disk(),
            wal: disk(),
        };
        let how = MkfsOptions {
            capacity_bytes: 1 << 30,
            ..MkfsOptions::reproducible()
        };
        mkfs(media.clone(), &how, &system_clock()).unwrap();
        let open = OpenOptions {
            background: false,
            dirty_limit_bytes,
            ..OpenOptions::default()
        };
        Kernel::on(media, open, options)
    }

    /// A kernel before INIT, on a volume that exists.
    fn on(media: Media, open: OpenOptions, options: Options) -> Kernel {
        let volume = Volume::open_media(media.clone(), open, system_clock()).unwrap();
        let server = Server::new(FileSystem::new(volume, options));
        Kernel {
            server,
            media,
            replies: tempfile::tempfile().unwrap(),
        }
    }

    /// Closes the store; the same kernel with a server that knows nothing of it.
    pub(super) fn served_anew(self, options: Options) -> Kernel {
        self.server.fs().volume().store().close().unwrap();
        let open = OpenOptions {
            background: false,
            keep_orphans: true,
            ..OpenOptions::default()
        };
        Kernel::on(self.media.clone(), open, options)
    }

    /// A kernel of the newest kind with a session.
    pub(super) fn new(options: Options) -> Kernel {
        let kernel = Kernel::without_session(options);
        kernel.init(39, u64::MAX).unwrap();
        kernel
    }

    /// Opens a session with what the kernel can do.
    pub(super) fn init(&self, minor: u32, features: u64) -> Result<InitOut, i32> {
        let [flags, flags2] =
            [features & u64::from(u32::MAX), features >> 32].map(|half| half.try_into().unwrap());
        let request = InitIn {
            major: 7,
            minor,
            max_readahead: 131_072,
            flags,
            flags2,
            ..InitIn::default()
        };
        self.call(opcode::INIT, 0, &[request.as_bytes()])
            .map(|body| decode(&body))
    }

    /// Sends a request and takes its answer.
    pub(super) fn call(&self, opcode: u32, nodeid: u64, body: &[&[u8]]) -> Answer {
        self.call_as((1000, 1000), opcode, nodeid, body)
    }

    /// Sends a request of a user and takes its answer.
    pub(super) fn call_as(
        &self,
        (uid, gid): (u32, u32),
        opcode: u32,
        nodeid: u64,
        body: &[&[u8]],
    ) -> Answer {
        let request = framed((uid, gid), opcode, nodeid, &body.concat());
        self.raw(request, WRITE_MAX_BYTES + 4096).unwrap()
    }

    /// Sends bytes and takes the answer, for which there is room of `room` bytes.
    pub(super) fn raw(&self, request: Vec<u8>, room: usize) -> Result<Answer, Error> {
        self.send(request, room, true)
    }

    /// As [`Kernel::call`], not to wait for the disk.
    pub(super) fn call_at_once(
        &self,
        opcode: u32,
        nodeid: u64,
        body: &[&[u8]],
    ) -> Result<Answer, Error> {
        let request = framed((1000, 1000), opcode, nodeid, &body.concat());
        self.send(request, 4096, false)
    }

    fn send(&self, mut request: Vec<u8>, room: usize, may_wait: bool) -> Result<Answer, Error> {
        let mut replies = &self.replies;
        replies.set_len(0).unwrap();
        replies.seek(SeekFrom::Start(0)).unwrap();
        let mut buffer = vec![0; room];
        let reader = Reader::<()>::from_fuse_buffer(FuseBuf::new(&mut request)).unwrap();
        let writer = FuseDevWriter::<()>::new(replies.as_raw_fd(), &mut buffer).unwrap();
        let writer = Writer::FuseDev(writer);
        let len = match may_wait {
            true => self.server.handle(reader, writer)?,
            false => self.server.handle_at_once(reader, writer)?,
        };
        replies.seek(SeekFrom::Start(0)).unwrap();
        let mut reply = Vec::new();
        replies.read_to_end(&mut reply).unwrap();
        assert_eq!(
            reply.len(),
            len,
            "the length returned is the length written"
        );
        if reply.is_empty() {
            return Ok(Ok(reply));
        }
        let (header, body) = OutHeader::read_from_prefix(&reply).unwrap();
        assert_eq!(header.len as usize, reply.len());
        assert!(header.error <= 0);
        if header.error != 0 {
            assert!(body.is_empty(), "an error has no body");
            return Ok(Err(-header.error));
        }
        Ok(Ok(body.to_vec()))
    }

    /// LOOKUP.
    pub(super) fn lookup(&self, dir: u64, name: &str) -> Result<EntryOut, i32> {
        self.call(opcode::LOOKUP, dir, &[&string(name)])
            .map(|body| decode(&body))
    }

    /// FORGET.
    pub(super) fn forget(&self, nodeid: u64, n: u64) {
        assert_eq!(
            self.call(opcode::FORGET, nodeid, &[n.as_bytes()]),
            Ok(Vec::new())
        );
    }
}

/// A request with its header.
fn framed((uid, gid): (u32, u32), opcode: u32, nodeid: u64, body: &[u8]) -> Vec<u8> {
    let header = InHeader {
        len: u32::try_from(size_of::<InHeader>() + body.len()).unwrap(),
        opcode,
        unique: 7,
        nodeid,
        uid,
        gid,
        pid: 1,
        total_extlen: 0,
        padding: 0,
    };
    [header.as_bytes(), body].concat()
}

/// A name with its NUL.
pub(super) fn string(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

/// A structure at the start of `bytes`.
pub(super) fn decode<T: FromBytes + KnownLayout + Immutable>(bytes: &[u8]) -> T {
    T::read_from_prefix(bytes)
        .unwrap_or_else(|_| panic!("{} bytes are too few", bytes.len()))
        .0
}

/// Requests about files in the root directory.
impl Kernel {
    pub(super) fn create(
        &self,
        name: &str,
        mode: u32,
        flags: u32,
    ) -> Result<(EntryOut, OpenOut), i32> {
        let how = CreateIn {
            flags: flags | O_WRONLY,
            mode: libc::S_IFREG | mode,
            umask: 0,
            open_flags: 0,
        };
        let body = self.call(opcode::CREATE, ROOT, &[how.as_bytes(), &string(name)])?;
        Ok((decode(&body), decode(&body[size_of::<EntryOut>()..])))
    }

    pub(super) fn mkdir(&self, dir: u64, name: &str) -> EntryOut {
        let how = MkdirIn {
            mode: 0o755,
            umask: 0,
        };
        decode(
            &self
                .call(opcode::MKDIR, dir, &[how.as_bytes(), &string(name)])
                .unwrap(),
        )
    }

    pub(super) fn getattr(&self, nodeid: u64) -> Result<AttrOut, i32> {
        self.call(opcode::GETATTR, nodeid, &[&[0; 16]])
            .map(|body| decode(&body))
    }

    pub(super) fn setattr(&self, nodeid: u64, set: SetattrIn) -> Result<AttrOut, i32> {
        self.call(opcode::SETATTR, nodeid, &[set.as_bytes()])
            .map(|body| decode(&body))
    }

    pub(super) fn unlink(&self, name: &str) -> Result<(), i32> {
        self.call(opcode::UNLINK, ROOT, &[&string(name)]).map(drop)
    }

    pub(super) fn write(
        &self,
        nodeid: u64,
        offset: u64,
        bytes: &[u8],
        write_flags: u32,
    ) -> Result<u32, i32> {
        let size = u32::try_from(bytes.len()).unwrap();
        let how = WriteIn {
            offset,
            size,
            write_flags,
            ..WriteIn::default()
        };
        let body = self.call(opcode::WRITE, nodeid, &[how.as_bytes(), bytes])?;
        Ok(decode::<WriteOut>(&body).size)
    }

    pub(super) fn read(&self, nodeid: u64, offset: u64, size: u32) -> Result<Vec<u8>, i32> {
        let how = ReadIn {
            offset,
            size,
            ..ReadIn::default()
        };
        self.call(opcode::READ, nodeid, &[how.as_bytes()])
    }
}
