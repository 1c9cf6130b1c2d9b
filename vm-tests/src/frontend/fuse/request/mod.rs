//! A typed request for each opcode.

mod files;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::wire::{
    AccessIn, AttrOut, BmapIn, EntryOut, FileLock, ForgetOne, GetattrIn, GetxattrIn, GetxattrOut,
    INIT_EXT, InHeader, InitIn, InitOut, IoctlIn, IoctlOut, LkIn, MAJOR, MINOR, MkdirIn, MknodIn,
    NO_OPEN_SUPPORT, NO_OPENDIR_SUPPORT, PollIn, Rename2In, SetattrIn, SetxattrIn, StatfsOut,
    StatxIn, StatxOut, opcode,
};
pub use files::*;

/// Room for the longest symlink target (PATH_MAX).
const TARGET_BYTES: usize = 4096;

/// A request whose reply is `T`.
#[derive(Debug)]
pub struct Request<T> {
    /// `opcode::*`
    pub opcode: u32,
    /// The inode it is about.
    pub node: u64,
    /// What follows the header.
    pub body: Vec<u8>,
    /// Bytes of room for the reply's body; none when the protocol has no reply.
    pub room: Option<usize>,
    /// Units of 8 bytes at the body's end that are extensions.
    pub extensions: u16,
    /// Decodes the reply's body; none when it cannot be one.
    pub decode: fn(&[u8]) -> Option<T>,
}

impl<T> Request<T> {
    /// The bytes sent: the header and what follows.
    #[must_use]
    pub fn message(&self, unique: u64, uid: u32, gid: u32, pid: u32) -> Vec<u8> {
        let header = InHeader {
            len: word(size_of::<InHeader>() + self.body.len()),
            opcode: self.opcode,
            unique,
            nodeid: self.node,
            uid,
            gid,
            pid,
            total_extlen: self.extensions,
            padding: 0,
        };
        [header.as_bytes(), &self.body].concat()
    }

    /// Adds `struct fuse_secctx_header`, one context and its name and value (7.38).
    #[must_use]
    pub fn security_context(mut self, name: &str, value: &[u8]) -> Request<T> {
        let mut context = word(value.len()).to_ne_bytes().to_vec();
        context.extend([0; 4]);
        context.extend(string(name));
        context.extend(value);
        context.resize(context.len().next_multiple_of(8), 0);
        self.body.extend(word(context.len() + 8).to_ne_bytes());
        self.body.extend(1u32.to_ne_bytes());
        self.extensions = u16::try_from((context.len() + 8) / 8).unwrap_or(u16::MAX);
        self.body.extend(context);
        self
    }
}

fn word(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// A name with its NUL.
fn string(name: impl AsRef<[u8]>) -> Vec<u8> {
    let mut bytes = name.as_ref().to_vec();
    bytes.push(0);
    bytes
}

/// A reply of exactly one structure.
fn fixed<T: FromBytes + KnownLayout + Immutable>(body: &[u8]) -> Option<T> {
    T::read_from_bytes(body).ok()
}

fn empty(body: &[u8]) -> Option<()> {
    body.is_empty().then_some(())
}

#[allow(clippy::unnecessary_wraps)] // As the others.
fn bytes(body: &[u8]) -> Option<Vec<u8>> {
    Some(body.to_vec())
}

/// A request with a reply of some length.
fn sized<T>(
    opcode: u32,
    node: u64,
    body: &[&[u8]],
    room: usize,
    decode: fn(&[u8]) -> Option<T>,
) -> Request<T> {
    Request {
        opcode,
        node,
        body: body.concat(),
        room: Some(room),
        extensions: 0,
        decode,
    }
}

/// A request whose reply is one structure.
fn about<T: FromBytes + KnownLayout + Immutable>(
    opcode: u32,
    node: u64,
    body: &[&[u8]],
) -> Request<T> {
    sized(opcode, node, body, size_of::<T>(), fixed)
}

/// A request whose reply has no body.
#[must_use]
pub fn plain(opcode: u32, node: u64, body: &[&[u8]]) -> Request<()> {
    sized(opcode, node, body, 0, empty)
}

/// INIT with these features, of 64, but not those of a kernel that does without OPEN and OPENDIR:
/// see [`init_exactly`].
#[must_use]
pub fn init(features: u64) -> Request<InitOut> {
    init_exactly(features & !(NO_OPEN_SUPPORT | NO_OPENDIR_SUPPORT))
}

/// INIT with these features, of 64.
#[must_use]
pub fn init_exactly(features: u64) -> Request<InitOut> {
    let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or_default();
    let body = InitIn {
        major: MAJOR,
        minor: MINOR,
        max_readahead: 1 << 17,
        flags: half(features | INIT_EXT),
        flags2: half(features >> 32),
        unused: [0; 11],
    };
    about(opcode::INIT, 0, &[body.as_bytes()])
}

/// DESTROY: the end of a session.
#[must_use]
pub fn destroy() -> Request<()> {
    plain(opcode::DESTROY, 0, &[])
}

// Names.

/// LOOKUP. A name that is not there may be answered with inode 0.
#[must_use]
pub fn lookup(dir: u64, name: impl AsRef<[u8]>) -> Request<EntryOut> {
    about(opcode::LOOKUP, dir, &[&string(name)])
}

/// FORGET, which has no reply.
#[must_use]
pub fn forget(node: u64, lookups: u64) -> Request<()> {
    Request {
        room: None,
        ..plain(opcode::FORGET, node, &[&lookups.to_ne_bytes()])
    }
}

/// BATCH_FORGET of inodes and lookups, which has no reply.
#[must_use]
pub fn batch_forget(nodes: &[(u64, u64)]) -> Request<()> {
    let mut body = [word(nodes.len()).to_ne_bytes(), [0; 4]].concat();
    for &(nodeid, nlookup) in nodes {
        body.extend(ForgetOne { nodeid, nlookup }.as_bytes());
    }
    Request {
        room: None,
        ..plain(opcode::BATCH_FORGET, 0, &[&body])
    }
}

/// MKNOD with the umask 0, of a type and permissions.
#[must_use]
pub fn mknod(dir: u64, name: impl AsRef<[u8]>, mode: u32, rdev: u32) -> Request<EntryOut> {
    let body = MknodIn {
        mode,
        rdev,
        ..MknodIn::default()
    };
    about(opcode::MKNOD, dir, &[body.as_bytes(), &string(name)])
}

/// MKDIR with the umask 0.
#[must_use]
pub fn mkdir(dir: u64, name: impl AsRef<[u8]>, mode: u32) -> Request<EntryOut> {
    let body = MkdirIn { mode, umask: 0 };
    about(opcode::MKDIR, dir, &[body.as_bytes(), &string(name)])
}

/// SYMLINK.
#[must_use]
pub fn symlink(dir: u64, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Request<EntryOut> {
    about(opcode::SYMLINK, dir, &[&string(name), &string(target)])
}

/// READLINK.
#[must_use]
pub fn readlink(node: u64) -> Request<Vec<u8>> {
    sized(opcode::READLINK, node, &[], TARGET_BYTES, bytes)
}

/// LINK of an inode.
#[must_use]
pub fn link(node: u64, dir: u64, name: impl AsRef<[u8]>) -> Request<EntryOut> {
    about(opcode::LINK, dir, &[&node.to_ne_bytes(), &string(name)])
}

/// UNLINK.
#[must_use]
pub fn unlink(dir: u64, name: impl AsRef<[u8]>) -> Request<()> {
    plain(opcode::UNLINK, dir, &[&string(name)])
}

/// RMDIR.
#[must_use]
pub fn rmdir(dir: u64, name: impl AsRef<[u8]>) -> Request<()> {
    plain(opcode::RMDIR, dir, &[&string(name)])
}

/// RENAME of a name in a directory to another.
#[must_use]
pub fn rename(
    (dir, name): (u64, impl AsRef<[u8]>),
    (new_dir, new_name): (u64, impl AsRef<[u8]>),
) -> Request<()> {
    let names = [string(name), string(new_name)].concat();
    plain(opcode::RENAME, dir, &[&new_dir.to_ne_bytes(), &names])
}

/// RENAME2 with `RENAME_*` flags.
#[must_use]
pub fn rename2(
    (dir, name): (u64, impl AsRef<[u8]>),
    (newdir, new_name): (u64, impl AsRef<[u8]>),
    flags: u32,
) -> Request<()> {
    let body = Rename2In {
        newdir,
        flags,
        padding: 0,
    };
    let names = [string(name), string(new_name)].concat();
    plain(opcode::RENAME2, dir, &[body.as_bytes(), &names])
}

// Attributes.

/// GETATTR.
#[must_use]
pub fn getattr(node: u64) -> Request<AttrOut> {
    about(opcode::GETATTR, node, &[GetattrIn::default().as_bytes()])
}

/// SETATTR of what `valid` names.
#[must_use]
pub fn setattr(node: u64, set: &SetattrIn) -> Request<AttrOut> {
    about(opcode::SETATTR, node, &[set.as_bytes()])
}

/// STATX of everything basic.
#[must_use]
pub fn statx(node: u64) -> Request<StatxOut> {
    let body = StatxIn {
        sx_mask: 0xfff,
        ..StatxIn::default()
    };
    about(opcode::STATX, node, &[body.as_bytes()])
}

/// STATFS.
#[must_use]
pub fn statfs() -> Request<StatfsOut> {
    about(opcode::STATFS, super::wire::ROOT, &[])
}

/// ACCESS.
#[must_use]
pub fn access(node: u64, mask: u32) -> Request<()> {
    let body = AccessIn { mask, padding: 0 };
    plain(opcode::ACCESS, node, &[body.as_bytes()])
}

/// SETXATTR as with `FUSE_SETXATTR_EXT`.
#[must_use]
pub fn setxattr(node: u64, name: &str, value: &[u8], flags: i32) -> Request<()> {
    let body = SetxattrIn {
        size: word(value.len()),
        flags: flags.cast_unsigned(),
        ..SetxattrIn::default()
    };
    plain(
        opcode::SETXATTR,
        node,
        &[body.as_bytes(), &string(name), value],
    )
}

/// GETXATTR of up to `size` bytes.
#[must_use]
pub fn getxattr(node: u64, name: &str, size: u32) -> Request<Vec<u8>> {
    let room = usize::try_from(size).unwrap_or_default();
    let body = GetxattrIn { size, padding: 0 };
    let body = [body.as_bytes(), &string(name)].concat();
    sized(opcode::GETXATTR, node, &[&body], room, bytes)
}

/// GETXATTR of a value's length.
#[must_use]
pub fn getxattr_len(node: u64, name: &str) -> Request<GetxattrOut> {
    let body = [GetxattrIn::default().as_bytes(), &string(name)].concat();
    about(opcode::GETXATTR, node, &[&body])
}

/// LISTXATTR of up to `size` bytes.
#[must_use]
pub fn listxattr(node: u64, size: u32) -> Request<Vec<u8>> {
    let room = usize::try_from(size).unwrap_or_default();
    let body = GetxattrIn { size, padding: 0 };
    sized(opcode::LISTXATTR, node, &[body.as_bytes()], room, bytes)
}

/// LISTXATTR of the list's length.
#[must_use]
pub fn listxattr_len(node: u64) -> Request<GetxattrOut> {
    about(opcode::LISTXATTR, node, &[GetxattrIn::default().as_bytes()])
}

/// REMOVEXATTR.
#[must_use]
pub fn removexattr(node: u64, name: &str) -> Request<()> {
    plain(opcode::REMOVEXATTR, node, &[&string(name)])
}

/// IOCTL with an argument and room for a result: `struct fuse_ioctl_out` and the result come back.
#[must_use]
pub fn ioctl(node: u64, cmd: u32, input: &[u8], out_len: u32) -> Request<(IoctlOut, Vec<u8>)> {
    fn decode(body: &[u8]) -> Option<(IoctlOut, Vec<u8>)> {
        let (head, rest) = IoctlOut::read_from_prefix(body).ok()?;
        Some((head, rest.to_vec()))
    }
    let body = IoctlIn {
        cmd,
        in_size: word(input.len()),
        out_size: out_len,
        ..IoctlIn::default()
    };
    let room = size_of::<IoctlOut>() + usize::try_from(out_len).unwrap_or_default();
    sized(opcode::IOCTL, node, &[body.as_bytes(), input], room, decode)
}

// What razorfs leaves to the kernel: for tests that it says so.

/// GETLK, SETLK or SETLKW of a whole file for writing.
#[must_use]
pub fn lock(opcode: u32, node: u64, fh: u64) -> Request<()> {
    let body = LkIn {
        fh,
        lk: FileLock {
            end: i64::MAX.cast_unsigned(),
            kind: 1,
            ..FileLock::default()
        },
        ..LkIn::default()
    };
    plain(opcode, node, &[body.as_bytes()])
}

/// INTERRUPT of a request in flight.
#[must_use]
pub fn interrupt(unique: u64) -> Request<()> {
    plain(opcode::INTERRUPT, 0, &[&unique.to_ne_bytes()])
}

/// BMAP.
#[must_use]
pub fn bmap(node: u64) -> Request<()> {
    plain(opcode::BMAP, node, &[BmapIn::default().as_bytes()])
}

/// POLL.
#[must_use]
pub fn poll(node: u64) -> Request<()> {
    plain(opcode::POLL, node, &[PollIn::default().as_bytes()])
}
