//! INIT: which protocol both sides speak.

use std::sync::atomic::Ordering;

use super::abi::{InitIn, InitOut, MAJOR, MINOR, MINOR_MIN};
use super::consts::feature;
use super::reply::Reply;
use super::request::Request;
use super::{SESSION, Server, WRITE_MAX_BYTES};
use crate::engine::EventKind;
use crate::fs::{CacheMode, FsError, Options};

/// Bytes of an INIT before 7.36, without `flags2`.
const INIT_OLD_BYTES: usize = 16;

/// What is offered whatever the options.
///
/// No `POSIX_LOCKS` and `FLOCK_LOCKS`: the kernel then keeps locks itself, which is right where it
/// is the only one that has the export mounted.
///
/// No `ATOMIC_O_TRUNC`: with it Linux lets the server truncate a file before it finds that the file
/// is being executed, and a refused open (ETXTBSY) has destroyed a running program.
const ALWAYS: u64 = feature::ASYNC_READ
    | feature::EXPORT_SUPPORT
    | feature::BIG_WRITES
    | feature::HAS_IOCTL_DIR
    | feature::ASYNC_DIO
    | feature::PARALLEL_DIROPS
    | feature::MAX_PAGES
    | feature::CACHE_SYMLINKS
    | feature::HANDLE_KILLPRIV_V2
    | feature::SETXATTR_EXT
    | feature::INIT_EXT
    | feature::CREATE_SUPP_GROUP
    // With ACLs the umask depends on the directory; without, applying it here is the same.
    | feature::DONT_MASK;

pub(super) fn offered(options: &Options) -> u64 {
    let mut bits = ALWAYS;
    if options.writeback {
        bits |= feature::WRITEBACK_CACHE;
    }
    // The attributes are worth nothing to a kernel that may not keep them.
    if options.readdirplus && options.cache != CacheMode::Never {
        bits |= feature::DO_READDIRPLUS | feature::READDIRPLUS_AUTO;
    }
    if options.shared {
        // Only there: a kernel takes the times of its own writes for somebody else's, and would
        // drop what it has just written.
        bits |= feature::AUTO_INVAL_DATA;
    }
    if options.maps_uncached() {
        bits |= feature::DIRECT_IO_ALLOW_MMAP;
    }
    // A kernel announces that it can, and takes ENOSYS for the answer that it need not.
    if options.no_open() {
        bits |= feature::NO_OPEN_SUPPORT;
    }
    if options.no_opendir() {
        bits |= feature::NO_OPENDIR_SUPPORT;
    }
    if options.xattr {
        bits |= feature::SECURITY_CTX;
        if options.posix_acl {
            bits |= feature::POSIX_ACL;
        }
    }
    bits
}

impl Server {
    pub(super) fn init(&self, request: &Request<'_>, out: &mut Reply<'_>) -> Result<(), FsError> {
        let mut bytes = [0; size_of::<InitIn>()];
        let body = request.body.rest();
        let body = body.get(..bytes.len()).unwrap_or(body);
        if body.len() < INIT_OLD_BYTES {
            return Err(FsError::Malformed("INIT"));
        }
        bytes
            .iter_mut()
            .zip(body)
            .for_each(|(to, from)| *to = *from);
        let theirs: InitIn = zerocopy::transmute!(bytes);
        if theirs.major > MAJOR {
            // The kernel asks again with ours.
            out.put(&InitOut {
                major: MAJOR,
                minor: MINOR,
                ..InitOut::default()
            });
            return Ok(());
        }
        if theirs.major < MAJOR || theirs.minor < MINOR_MIN {
            return Err(FsError::Protocol {
                major: theirs.major,
                minor: theirs.minor,
            });
        }
        let mut wanted = u64::from(theirs.flags);
        if wanted & feature::INIT_EXT != 0 {
            wanted |= u64::from(theirs.flags2) << 32;
        }
        let agreed = wanted & offered(self.fs.options());
        // A guest that started again never said goodbye.
        self.reset();
        // Before it is told anything.
        self.fs.begin_session();
        self.session.store(agreed | SESSION, Ordering::Release);
        self.fs.volume().note(EventKind::GuestAttached);
        let [flags, flags2] = [agreed & u64::from(u32::MAX), agreed >> 32]
            .map(|half| u32::try_from(half).unwrap_or_default());
        out.put(&InitOut {
            major: MAJOR,
            minor: MINOR,
            max_readahead: theirs.max_readahead,
            flags,
            max_background: u16::MAX,
            congestion_threshold: u16::MAX / 4 * 3,
            max_write: u32::try_from(WRITE_MAX_BYTES).unwrap_or(u32::MAX),
            time_gran: 1,
            max_pages: u16::try_from(WRITE_MAX_BYTES / 4096).unwrap_or(u16::MAX),
            map_alignment: 0,
            flags2,
            unused: [0; 7],
        });
        Ok(())
    }
}
