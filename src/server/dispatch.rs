//! Dispatch: each opcode's body decoded, the file system called, the answer encoded.

use super::abi::{
    BatchForgetIn, CopyFileRangeIn, CreateIn, EntryOut, FallocateIn, ForgetIn, ForgetOne, FsyncIn,
    GetxattrIn, GetxattrOut, InHeader, IoctlIn, IoctlOut, LinkIn, LseekIn, LseekOut, MkdirIn,
    MknodIn, OpenIn, OpenOut, Rename2In, RenameIn, SetattrIn, SetxattrCompatIn, SetxattrIn,
    StatfsOut, StatxIn, WriteOut,
};
use super::consts::{FSYNC_FDATASYNC, OPEN_KILL_SUIDGID, SETXATTR_ACL_KILL_SGID, feature, opcode};
use super::ext::Extensions;
use super::reply::Reply;
use super::request::Request;
use super::{Server, WRITE_MAX_BYTES, convert};
use crate::engine::{Attr, Cred, EngineError, NewInode};
use crate::format::id::Ino;
use crate::fs::{FsError, Open};

type Done = Result<(), FsError>;

/// The most bytes of one COPY_FILE_RANGE: its answer has 32 bits.
const COPY_MAX_BYTES: u64 = 0x7fff_f000;

pub(super) fn cred(header: &InHeader) -> Cred {
    Cred {
        uid: header.uid,
        gid: header.gid,
    }
}

impl Server {
    /// Carries out a request whose answer is built in `out`, which may grow to `room` bytes.
    pub(super) fn dispatch(
        &self,
        request: &Request<'_>,
        session: u64,
        room: usize,
        out: &mut Reply<'_>,
    ) -> Done {
        let ino = Ino(request.header.nodeid);
        let mut body = request.body;
        match request.header.opcode {
            opcode::LOOKUP => self.lookup(ino, body.string()?, out),
            opcode::GETATTR => self.put_attr(&self.fs.getattr(ino)?, out),
            opcode::STATX => {
                body.take::<StatxIn>()?;
                let attr = self.fs.getattr(ino)?;
                out.put(&convert::statx_out(&attr, self.fs.attr_timeout(&attr)));
                Ok(())
            }
            opcode::SETATTR => {
                let set = convert::setattr(&body.take::<SetattrIn>()?, cred(&request.header))?;
                self.put_attr(&self.fs.setattr(ino, &set)?, out)
            }
            opcode::READLINK => {
                out.bytes(&self.fs.readlink(ino)?);
                Ok(())
            }
            opcode::MKNOD | opcode::MKDIR | opcode::SYMLINK | opcode::CREATE | opcode::TMPFILE => {
                self.make(request, session, out)
            }
            opcode::LINK => {
                let source: LinkIn = body.take()?;
                let attr = self.fs.link(Ino(source.oldnodeid), ino, body.string()?)?;
                self.put_entry(&attr, out)
            }
            opcode::UNLINK => self.fs.unlink(ino, body.string()?),
            opcode::RMDIR => self.fs.rmdir(ino, body.string()?),
            opcode::RENAME => {
                let target: RenameIn = body.take()?;
                let (from, to) = (body.string()?, body.string()?);
                let target = (Ino(target.newdir), to);
                let (cred, may_wait) = (cred(&request.header), request.may_wait);
                self.fs.rename(cred, (ino, from), target, 0, may_wait)
            }
            opcode::RENAME2 => {
                let target: Rename2In = body.take()?;
                let (from, to) = (body.string()?, body.string()?);
                let (target, flags) = ((Ino(target.newdir), to), target.flags);
                let (cred, may_wait) = (cred(&request.header), request.may_wait);
                self.fs.rename(cred, (ino, from), target, flags, may_wait)
            }
            opcode::SETXATTR
            | opcode::GETXATTR
            | opcode::LISTXATTR
            | opcode::REMOVEXATTR
            | opcode::IOCTL => self.attributes(request, session, room, out),
            _ => self.dispatch_file(request, session, room, out),
        }
    }

    /// The rest of the opcodes: open files and directories, the file system as a whole.
    fn dispatch_file(
        &self,
        request: &Request<'_>,
        session: u64,
        room: usize,
        out: &mut Reply<'_>,
    ) -> Done {
        let ino = Ino(request.header.nodeid);
        let mut body = request.body;
        match request.header.opcode {
            // Told once, a kernel opens by itself from then on.
            opcode::OPEN if session & feature::NO_OPEN_SUPPORT != 0 => {
                Err(FsError::NoSuchOperation)
            }
            opcode::OPENDIR if session & feature::NO_OPENDIR_SUPPORT != 0 => {
                Err(FsError::NoSuchOperation)
            }
            opcode::OPEN => {
                let flags = self
                    .fs
                    .open(ino, open(&body.take()?, cred(&request.header)))?;
                put_open(flags, out)
            }
            opcode::OPENDIR => put_open(self.fs.opendir(ino)?, out),
            opcode::READDIR => self.readdir(request, room, out),
            opcode::READDIRPLUS => self.readdirplus(request, room, out),
            // A handle has no state, and data is not held back until a file is closed.
            opcode::RELEASE | opcode::RELEASEDIR => Ok(()),
            opcode::FSYNC => {
                let how: FsyncIn = body.take()?;
                let data_only = how.fsync_flags & FSYNC_FDATASYNC != 0;
                self.fs.fsync(ino, data_only, request.may_wait)
            }
            opcode::FSYNCDIR => self.fs.fsyncdir(ino, request.may_wait),
            opcode::SYNCFS => self.fs.syncfs(),
            opcode::STATFS => self.statfs(ino, out),
            opcode::FALLOCATE => {
                let range: FallocateIn = body.take()?;
                let bytes = (range.offset, range.length);
                self.fs
                    .fallocate(ino, range.mode, bytes, cred(&request.header))
            }
            opcode::LSEEK => {
                let from: LseekIn = body.take()?;
                let offset = self.fs.seek(ino, from.offset, from.whence)?;
                out.put(&LseekOut { offset });
                Ok(())
            }
            opcode::COPY_FILE_RANGE => self.copy_file_range(request, &body.take()?, out),
            opcode::DESTROY => {
                self.reset();
                self.fs.syncfs()
            }
            // Locks and access checks are the kernel's own; FLUSH has nothing to do here; DAX
            // windows, block maps and polling do not exist. Told once, a kernel asks no more.
            _ => Err(FsError::NoSuchOperation),
        }
    }

    /// Drops lookups; nobody waits for an answer, so what is malformed is dropped.
    pub(super) fn forget(&self, request: &Request<'_>) {
        let mut body = request.body;
        if request.header.opcode == opcode::FORGET {
            if let Ok(forget) = body.take::<ForgetIn>() {
                self.fs.forget(Ino(request.header.nodeid), forget.nlookup);
            }
        } else if let Ok(batch) = body.take::<BatchForgetIn>() {
            for _ in 0..batch.count {
                let Ok(one) = body.take::<ForgetOne>() else {
                    break;
                };
                self.fs.forget(Ino(one.nodeid), one.nlookup);
            }
        }
    }

    fn lookup(&self, dir: Ino, name: &[u8], out: &mut Reply<'_>) -> Done {
        let timeout = self.fs.negative_timeout();
        match self.fs.lookup(dir, name) {
            Ok(attr) => self.put_entry(&attr, out),
            Err(FsError::Engine(EngineError::NotFound)) if !timeout.is_zero() => {
                // That a name is not there may be remembered as long as that it is.
                out.put(&EntryOut {
                    entry_valid: timeout.as_secs(),
                    entry_valid_nsec: timeout.subsec_nanos(),
                    ..EntryOut::default()
                });
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn make(&self, request: &Request<'_>, session: u64, out: &mut Reply<'_>) -> Done {
        let dir = Ino(request.header.nodeid);
        let cred = cred(&request.header);
        let mut body = request.body;
        let mut new = NewInode {
            mode: 0,
            umask: 0,
            rdev: 0,
            xattrs: &[],
            supplementary_gid: None,
        };
        let mut how = Open {
            flags: 0,
            killed_by: None,
        };
        match request.header.opcode {
            opcode::MKNOD => {
                let node: MknodIn = body.take()?;
                (new.mode, new.umask, new.rdev) = (node.mode, node.umask, node.rdev);
                if node.mode & libc::S_IFMT == libc::S_IFDIR {
                    return Err(EngineError::Invalid("file type").into());
                }
            }
            opcode::MKDIR => {
                let node: MkdirIn = body.take()?;
                (new.mode, new.umask) = (node.mode & !libc::S_IFMT | libc::S_IFDIR, node.umask);
            }
            opcode::CREATE | opcode::TMPFILE => {
                let node: CreateIn = body.take()?;
                (new.mode, new.umask) = (node.mode, node.umask);
                how = open(
                    &OpenIn {
                        flags: node.flags,
                        open_flags: node.open_flags,
                    },
                    cred,
                );
            }
            _ => {}
        }
        let name = body.string()?;
        let target = match request.header.opcode {
            opcode::SYMLINK => body.string()?,
            _ => &[],
        };
        let extensions = Extensions::read(body, session)?;
        new.xattrs = &extensions.xattrs;
        new.supplementary_gid = extensions.supplementary_gid;
        let (attr, flags) = match request.header.opcode {
            opcode::SYMLINK => (self.fs.symlink(cred, dir, name, target, &new)?, None),
            opcode::CREATE => {
                let (attr, flags) = self.fs.create(cred, dir, name, &new, how)?;
                (attr, Some(flags))
            }
            opcode::TMPFILE => {
                let (attr, flags) = self.fs.tmpfile(cred, dir, &new)?;
                (attr, Some(flags))
            }
            _ => (self.fs.make(cred, dir, name, &new)?, None),
        };
        self.put_entry(&attr, out)?;
        flags.map_or(Ok(()), |flags| put_open(flags, out))
    }

    /// Extended attributes and ioctls.
    fn attributes(
        &self,
        request: &Request<'_>,
        session: u64,
        room: usize,
        out: &mut Reply<'_>,
    ) -> Done {
        let ino = Ino(request.header.nodeid);
        let mut body = request.body;
        match request.header.opcode {
            opcode::GETXATTR => {
                let asked: GetxattrIn = body.take()?;
                put_sized(&self.fs.getxattr(ino, body.string()?)?, &asked, out)
            }
            opcode::LISTXATTR => {
                let asked: GetxattrIn = body.take()?;
                let mut list = Vec::new();
                for name in self.fs.listxattr(cred(&request.header), ino)? {
                    list.extend_from_slice(&name);
                    list.push(0);
                }
                put_sized(&list, &asked, out)
            }
            opcode::REMOVEXATTR => self.fs.removexattr(ino, body.string()?),
            opcode::SETXATTR => {
                let set = if session & feature::SETXATTR_EXT != 0 {
                    body.take::<SetxattrIn>()?
                } else {
                    let set: SetxattrCompatIn = body.take()?;
                    SetxattrIn {
                        size: set.size,
                        flags: set.flags,
                        ..SetxattrIn::default()
                    }
                };
                let name = body.string()?;
                let value = body.bytes(usize::try_from(set.size).unwrap_or(usize::MAX))?;
                let kill_sgid = set.setxattr_flags & SETXATTR_ACL_KILL_SGID != 0;
                self.fs.setxattr(ino, name, value, set.flags, kill_sgid)
            }
            _ => {
                let asked: IoctlIn = body.take()?;
                let input = body.bytes(usize::try_from(asked.in_size).unwrap_or(usize::MAX))?;
                let len = usize::try_from(asked.out_size)
                    .unwrap_or(usize::MAX)
                    .min(room);
                let result = self.fs.ioctl(ino, asked.cmd, input, len)?;
                out.put(&IoctlOut::default());
                out.bytes(&result);
                Ok(())
            }
        }
    }

    pub(super) fn statfs(&self, ino: Ino, out: &mut Reply<'_>) -> Done {
        let found = self.fs.statfs(ino)?;
        out.put(&StatfsOut {
            blocks: found.blocks,
            bfree: found.blocks_free,
            bavail: found.blocks_available,
            files: found.files,
            ffree: found.files_free,
            bsize: found.block_bytes,
            namelen: found.name_max,
            frsize: found.block_bytes,
            ..StatfsOut::default()
        });
        Ok(())
    }

    fn copy_file_range(
        &self,
        request: &Request<'_>,
        range: &CopyFileRangeIn,
        out: &mut Reply<'_>,
    ) -> Done {
        if range.flags != 0 {
            return Err(FsError::Malformed("flags of a copy"));
        }
        let source = (Ino(request.header.nodeid), range.off_in);
        let target = (Ino(range.nodeid_out), range.off_out);
        let by = cred(&request.header);
        let done = self
            .fs
            .copy_range(source, target, range.len.min(COPY_MAX_BYTES), by)?;
        out.put(&WriteOut {
            size: u32::try_from(done).unwrap_or(u32::MAX),
            padding: 0,
        });
        Ok(())
    }

    pub(super) fn put_entry(&self, attr: &Attr, out: &mut Reply<'_>) -> Done {
        let (entry, valid) = (self.fs.entry_timeout(attr), self.fs.attr_timeout(attr));
        out.put(&convert::entry_out(attr, entry, valid));
        out.looked_up(attr.ino);
        Ok(())
    }

    pub(super) fn put_attr(&self, attr: &Attr, out: &mut Reply<'_>) -> Done {
        out.put(&convert::attr_out(attr, self.fs.attr_timeout(attr)));
        Ok(())
    }
}

fn open(asked: &OpenIn, by: Cred) -> Open {
    Open {
        flags: asked.flags.cast_signed(),
        killed_by: (asked.open_flags & OPEN_KILL_SUIDGID != 0).then_some(by),
    }
}

pub(super) fn put_open(open_flags: u32, out: &mut Reply<'_>) -> Done {
    out.put(&OpenOut {
        fh: 0,
        open_flags,
        padding: 0,
    });
    Ok(())
}

/// The bytes, if they fit what was asked for; their number, if that was asked for.
pub(super) fn put_sized(bytes: &[u8], asked: &GetxattrIn, out: &mut Reply<'_>) -> Done {
    let size = u32::try_from(bytes.len()).map_err(|_| FsError::Engine(EngineError::TooBig))?;
    if asked.size == 0 {
        out.put(&GetxattrOut { size, padding: 0 });
    } else if size > asked.size || bytes.len() > WRITE_MAX_BYTES {
        return Err(FsError::TooSmall);
    } else {
        out.bytes(bytes);
    }
    Ok(())
}
