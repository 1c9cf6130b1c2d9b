//! A hostile request of each opcode.

use arbitrary::Arbitrary;
use zerocopy::IntoBytes;

use super::super::fuse::wire::{
    AccessIn, CopyFileRangeIn, CreateIn, FallocateIn, FlushIn, ForgetOne, FsyncIn, GetattrIn,
    GetxattrIn, INIT_EXT, InitIn, IoctlIn, LseekIn, MAJOR, MINOR, MkdirIn, MknodIn, OpenIn, ReadIn,
    ReleaseIn, Rename2In, SetattrIn, SetxattrIn, StatxIn, WriteIn, opcode,
};
use super::fields::{AttributeName, Content, Flags, Mode, Name, Node, Number, Told};

/// IOCTLs that are known: flags and extended flags, got and set.
const COMMANDS: [u32; 4] = [0x8008_6601, 0x4008_6602, 0x801c_581f, 0x401c_5820];

/// What a request is about: each opcode with its fields, and none at all.
#[derive(Debug, Clone, Arbitrary)]
#[allow(missing_docs)]
pub enum Kind {
    Lookup(Node, Name),
    Forget(Node, Number),
    BatchForget(Option<Number>, Vec<(Node, Number)>),
    Getattr(Node),
    Statx(Node, Flags),
    Setattr(Node, Flags, Number, Number, Mode, [u32; 3]),
    Readlink(Node),
    Symlink(Node, Name, Name),
    Mknod(Node, Name, Mode, Flags, u16),
    Mkdir(Node, Name, Mode, u16),
    Unlink(Node, Name),
    Rmdir(Node, Name),
    Rename(Node, Name, Node, Name),
    Rename2(Node, Name, Node, Name, Flags),
    Link(Node, Node, Name),
    Open(Node, Flags, Flags),
    Opendir(Node),
    Create(Node, Name, Flags, Mode, Flags),
    Tmpfile(Node, Name, Flags, Mode),
    Read(Node, Number, Number),
    Write(Node, Number, Content, Option<Number>, Flags, Flags),
    Listing(Node, bool, Number, Number),
    Release(Node, bool),
    Flush(Node),
    Fsync(Node, bool, Flags),
    Whole(u8),
    Setxattr(Node, AttributeName, Content, Option<Number>, Flags, Flags),
    Getxattr(Node, AttributeName, Number),
    Listxattr(Node, Number),
    Removexattr(Node, AttributeName),
    Fallocate(Node, Number, Number, Flags),
    Lseek(Node, Number, Flags),
    CopyFileRange(Node, Number, Node, Number, Number, Flags),
    Ioctl(Node, u8, Flags, Content, Number),
    Access(Node, Flags),
    Init(u64, u8),
    Any(u8, Node, Vec<u8>),
}

/// Opcodes without an inode: the file system as a whole.
const WHOLE: [u32; 8] = [
    opcode::STATFS,
    opcode::SYNCFS,
    opcode::STATFS,
    opcode::SYNCFS,
    opcode::STATFS,
    opcode::INTERRUPT,
    opcode::NOTIFY_REPLY,
    opcode::DESTROY,
];

fn string(name: &[u8]) -> Vec<u8> {
    [name, &[0]].concat()
}

fn word(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Opcode, inode and body.
pub type Parts = (u32, u64, Vec<u8>);

impl Kind {
    /// What is sent behind the header, and what of it stands in there.
    #[must_use]
    pub fn parts(&self, told: &Told) -> Parts {
        let of = |node: &Node| node.number(told);
        match self {
            Kind::Lookup(dir, name) => (opcode::LOOKUP, of(dir), string(&name.0)),
            Kind::Forget(node, count) => (opcode::FORGET, of(node), count.0.as_bytes().to_vec()),
            Kind::BatchForget(claimed, nodes) => {
                let count = claimed.map_or(word(nodes.len()), Number::word);
                let mut body = [count, 0].as_bytes().to_vec();
                for (node, count) in nodes {
                    let (nodeid, nlookup) = (of(node), count.0);
                    body.extend(ForgetOne { nodeid, nlookup }.as_bytes());
                }
                (opcode::BATCH_FORGET, 0, body)
            }
            Kind::Symlink(dir, name, target) => {
                let body = [string(&name.0), string(&target.0)].concat();
                (opcode::SYMLINK, of(dir), body)
            }
            Kind::Unlink(dir, name) => (opcode::UNLINK, of(dir), string(&name.0)),
            Kind::Rmdir(dir, name) => (opcode::RMDIR, of(dir), string(&name.0)),
            Kind::Rename(dir, name, new_dir, new_name) => {
                let names = [string(&name.0), string(&new_name.0)].concat();
                let body = [of(new_dir).as_bytes(), &names].concat();
                (opcode::RENAME, of(dir), body)
            }
            Kind::Rename2(dir, name, new_dir, new_name, flags) => {
                let names = [string(&name.0), string(&new_name.0)].concat();
                let head = Rename2In {
                    newdir: of(new_dir),
                    flags: flags.0,
                    padding: 0,
                };
                (opcode::RENAME2, of(dir), with(&head, &names))
            }
            Kind::Link(node, dir, name) => {
                let body = [of(node).as_bytes(), &string(&name.0)].concat();
                (opcode::LINK, of(dir), body)
            }
            Kind::Whole(which) => {
                let code = WHOLE[usize::from(*which) % WHOLE.len()];
                (code, 1, vec![0; 8])
            }
            Kind::Init(features, minor) => (opcode::INIT, 0, init(*features, *minor)),
            Kind::Any(code, node, body) => (u32::from(*code), of(node), body.clone()),
            _ => self
                .made(told)
                .or_else(|| self.file(told))
                .unwrap_or_else(|| self.attributes(told)),
        }
    }

    /// Requests that make an inode.
    fn made(&self, told: &Told) -> Option<Parts> {
        let of = |node: &Node| node.number(told);
        Some(match self {
            Kind::Mknod(dir, name, mode, rdev, umask) => {
                let head = MknodIn {
                    mode: mode.0,
                    rdev: rdev.0,
                    umask: u32::from(*umask),
                    padding: 0,
                };
                (opcode::MKNOD, of(dir), with(&head, &string(&name.0)))
            }
            Kind::Mkdir(dir, name, mode, umask) => {
                let (mode, umask) = (mode.0, u32::from(*umask));
                let head = MkdirIn { mode, umask };
                (opcode::MKDIR, of(dir), with(&head, &string(&name.0)))
            }
            Kind::Create(dir, name, flags, mode, open_flags) => {
                let head = CreateIn {
                    flags: flags.0,
                    mode: mode.0,
                    umask: 0o22,
                    open_flags: open_flags.0,
                };
                (opcode::CREATE, of(dir), with(&head, &string(&name.0)))
            }
            Kind::Tmpfile(dir, name, flags, mode) => {
                let head = CreateIn {
                    flags: flags.0,
                    mode: mode.0,
                    ..CreateIn::default()
                };
                (opcode::TMPFILE, of(dir), with(&head, &string(&name.0)))
            }
            _ => return None,
        })
    }

    /// Requests of open files and directories.
    fn file(&self, told: &Told) -> Option<Parts> {
        let of = |node: &Node| node.number(told);
        Some(match self {
            Kind::Open(node, flags, open_flags) => {
                let (flags, open_flags) = (flags.0, open_flags.0);
                (opcode::OPEN, of(node), bytes(&OpenIn { flags, open_flags }))
            }
            Kind::Opendir(node) => (opcode::OPENDIR, of(node), bytes(&OpenIn::default())),
            Kind::Read(node, offset, size) => (opcode::READ, of(node), read(*offset, *size)),
            Kind::Listing(node, plus, offset, size) => {
                let code = [opcode::READDIR, opcode::READDIRPLUS][usize::from(*plus)];
                (code, of(node), read(*offset, *size))
            }
            Kind::Write(node, offset, content, claimed, flags, write_flags) => {
                let head = WriteIn {
                    offset: offset.0,
                    size: claimed.map_or(word(content.0.len()), Number::word),
                    write_flags: write_flags.0,
                    flags: flags.0,
                    ..WriteIn::default()
                };
                (opcode::WRITE, of(node), with(&head, &content.0))
            }
            Kind::Release(node, dir) => {
                let code = [opcode::RELEASE, opcode::RELEASEDIR][usize::from(*dir)];
                (code, of(node), bytes(&ReleaseIn::default()))
            }
            Kind::Flush(node) => (opcode::FLUSH, of(node), bytes(&FlushIn::default())),
            Kind::Fsync(node, dir, flags) => {
                let code = [opcode::FSYNC, opcode::FSYNCDIR][usize::from(*dir)];
                let body = FsyncIn {
                    fsync_flags: flags.0,
                    ..FsyncIn::default()
                };
                (code, of(node), bytes(&body))
            }
            Kind::Fallocate(node, offset, length, mode) => {
                let body = FallocateIn {
                    offset: offset.0,
                    length: length.0,
                    mode: mode.0,
                    ..FallocateIn::default()
                };
                (opcode::FALLOCATE, of(node), bytes(&body))
            }
            Kind::Lseek(node, offset, whence) => {
                let body = LseekIn {
                    offset: offset.0,
                    whence: whence.0,
                    ..LseekIn::default()
                };
                (opcode::LSEEK, of(node), bytes(&body))
            }
            Kind::CopyFileRange(node, from, to, at, len, flags) => {
                let body = CopyFileRangeIn {
                    off_in: from.0,
                    nodeid_out: of(to),
                    off_out: at.0,
                    len: len.0,
                    flags: u64::from(flags.0),
                    ..CopyFileRangeIn::default()
                };
                (opcode::COPY_FILE_RANGE, of(node), bytes(&body))
            }
            _ => return None,
        })
    }

    /// Requests of attributes.
    fn attributes(&self, told: &Told) -> Parts {
        let of = |node: &Node| node.number(told);
        match self {
            Kind::Getattr(node) => (opcode::GETATTR, of(node), bytes(&GetattrIn::default())),
            Kind::Statx(node, flags) => {
                let body = StatxIn {
                    sx_flags: flags.0,
                    sx_mask: u32::MAX,
                    ..StatxIn::default()
                };
                (opcode::STATX, of(node), bytes(&body))
            }
            Kind::Setattr(node, valid, size, time, mode, [nsec, uid, gid]) => {
                let body = SetattrIn {
                    valid: valid.0,
                    size: size.0,
                    atime: time.0,
                    mtime: time.0,
                    ctime: time.0,
                    atimensec: *nsec,
                    mtimensec: *nsec % 1_000_000_000,
                    ctimensec: *nsec,
                    mode: mode.0,
                    uid: *uid,
                    gid: *gid,
                    ..SetattrIn::default()
                };
                (opcode::SETATTR, of(node), bytes(&body))
            }
            Kind::Setxattr(node, name, value, claimed, flags, more) => {
                let head = SetxattrIn {
                    size: claimed.map_or(word(value.0.len()), Number::word),
                    flags: flags.0,
                    setxattr_flags: more.0,
                    padding: 0,
                };
                let rest = [string(&name.0), value.0.clone()].concat();
                (opcode::SETXATTR, of(node), with(&head, &rest))
            }
            Kind::Getxattr(node, name, size) => {
                let head = GetxattrIn {
                    size: size.word(),
                    padding: 0,
                };
                (opcode::GETXATTR, of(node), with(&head, &string(&name.0)))
            }
            Kind::Listxattr(node, size) => {
                let body = GetxattrIn {
                    size: size.word(),
                    padding: 0,
                };
                (opcode::LISTXATTR, of(node), bytes(&body))
            }
            Kind::Removexattr(node, name) => (opcode::REMOVEXATTR, of(node), string(&name.0)),
            Kind::Ioctl(node, which, cmd, input, out_size) => {
                let known = COMMANDS.get(usize::from(*which) % 8);
                let head = IoctlIn {
                    cmd: known.copied().unwrap_or(cmd.0),
                    in_size: word(input.0.len()),
                    out_size: out_size.word(),
                    ..IoctlIn::default()
                };
                (opcode::IOCTL, of(node), with(&head, &input.0))
            }
            Kind::Access(node, mask) => {
                let mask = mask.0;
                let body = AccessIn { mask, padding: 0 };
                (opcode::ACCESS, of(node), bytes(&body))
            }
            Kind::Readlink(node) => (opcode::READLINK, of(node), Vec::new()),
            // What is not here is in the other parts.
            _ => (0, 0, Vec::new()),
        }
    }
}

fn bytes<T: IntoBytes + zerocopy::Immutable>(body: &T) -> Vec<u8> {
    body.as_bytes().to_vec()
}

fn with<T: IntoBytes + zerocopy::Immutable>(head: &T, rest: &[u8]) -> Vec<u8> {
    [head.as_bytes(), rest].concat()
}

fn read(offset: Number, size: Number) -> Vec<u8> {
    bytes(&ReadIn {
        offset: offset.0,
        size: size.word(),
        ..ReadIn::default()
    })
}

/// INIT: usually of a protocol that is spoken.
fn init(features: u64, minor: u8) -> Vec<u8> {
    let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or_default();
    let features = features | INIT_EXT;
    bytes(&InitIn {
        major: if minor >= 250 {
            u32::from(minor)
        } else {
            MAJOR
        },
        minor: if minor < 200 {
            MINOR
        } else {
            u32::from(minor - 200)
        },
        max_readahead: u32::MAX,
        flags: half(features),
        flags2: half(features >> 32),
        unused: [0; 11],
    })
}
