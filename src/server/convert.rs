//! The engine's types as messages, and back.

use std::time::Duration;

use super::abi::{Attr as WireAttr, AttrOut, EntryOut, SetattrIn, Statx, StatxOut, SxTime};
use super::consts::{
    FATTR_ATIME, FATTR_ATIME_NOW, FATTR_CTIME, FATTR_GID, FATTR_KILL_SUIDGID, FATTR_MODE,
    FATTR_MTIME, FATTR_MTIME_NOW, FATTR_SIZE, FATTR_UID,
};
use crate::engine::{Attr, Cred, SetAttr, SetTime, Time};
use crate::fs::FsError;

/// Bytes that a program had better read and write at once.
const IO_BYTES: u32 = 4096;

/// `STATX_BASIC_STATS | STATX_BTIME`
const STATX_MASK: u32 = 0xfff;
/// The attributes of statx(2) that have a bit of the same value among the inode flags:
/// compressed, immutable, append-only, not to be dumped.
const STATX_ATTRIBUTES: u64 = 0x04 | 0x10 | 0x20 | 0x40;

pub(super) fn attr(attr: &Attr) -> WireAttr {
    WireAttr {
        ino: attr.ino.0,
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.sec.cast_unsigned(),
        mtime: attr.mtime.sec.cast_unsigned(),
        ctime: attr.ctime.sec.cast_unsigned(),
        atimensec: attr.atime.nsec,
        mtimensec: attr.mtime.nsec,
        ctimensec: attr.ctime.nsec,
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: IO_BYTES,
        flags: 0,
    }
}

pub(super) fn attr_out(found: &Attr, timeout: Duration) -> AttrOut {
    AttrOut {
        attr_valid: timeout.as_secs(),
        attr_valid_nsec: timeout.subsec_nanos(),
        dummy: 0,
        attr: attr(found),
    }
}

/// An entry that may be believed as long as `entry` says, its attributes as long as `valid` does.
pub(super) fn entry_out(found: &Attr, entry: Duration, valid: Duration) -> EntryOut {
    EntryOut {
        nodeid: found.ino.0,
        // Inode numbers are never used again.
        generation: 0,
        entry_valid: entry.as_secs(),
        attr_valid: valid.as_secs(),
        entry_valid_nsec: entry.subsec_nanos(),
        attr_valid_nsec: valid.subsec_nanos(),
        attr: attr(found),
    }
}

pub(super) fn statx_out(found: &Attr, timeout: Duration) -> StatxOut {
    let time = |time: Time| SxTime {
        sec: time.sec,
        nsec: time.nsec,
        reserved: 0,
    };
    // The kernel's new_encode_dev: minor 8 bits, major 12 bits, the rest of the minor.
    let (major, minor) = (
        (found.rdev >> 8) & 0xfff,
        (found.rdev & 0xff) | ((found.rdev >> 12) & 0xfff00),
    );
    StatxOut {
        attr_valid: timeout.as_secs(),
        attr_valid_nsec: timeout.subsec_nanos(),
        flags: 0,
        spare: [0; 2],
        stat: Statx {
            mask: STATX_MASK,
            blksize: IO_BYTES,
            attributes: u64::from(found.flags) & STATX_ATTRIBUTES,
            nlink: found.nlink,
            uid: found.uid,
            gid: found.gid,
            mode: u16::try_from(found.mode & 0xffff).unwrap_or_default(),
            ino: found.ino.0,
            size: found.size,
            blocks: found.blocks,
            attributes_mask: STATX_ATTRIBUTES,
            atime: time(found.atime),
            btime: time(found.btime),
            ctime: time(found.ctime),
            mtime: time(found.mtime),
            rdev_major: major,
            rdev_minor: minor,
            ..Statx::default()
        },
    }
}

/// What is to change, asked for by `by`.
pub(super) fn setattr(request: &SetattrIn, by: Cred) -> Result<SetAttr, FsError> {
    let has = |bit| request.valid & bit != 0;
    let time = |sec: u64, nsec: u32| {
        if nsec < 1_000_000_000 {
            Ok(Time {
                sec: sec.cast_signed(),
                nsec,
            })
        } else {
            Err(FsError::Malformed("nanoseconds"))
        }
    };
    let set_time = |set, now, sec, nsec| match (has(set), has(now)) {
        (_, true) => Ok(Some(SetTime::Now)),
        (true, false) => Ok(Some(SetTime::At(time(sec, nsec)?))),
        (false, false) => Ok::<_, FsError>(None),
    };
    let ctime = if has(FATTR_CTIME) {
        Some(time(request.ctime, request.ctimensec)?)
    } else {
        None
    };
    Ok(SetAttr {
        mode: has(FATTR_MODE).then_some(request.mode),
        uid: has(FATTR_UID).then_some(request.uid),
        gid: has(FATTR_GID).then_some(request.gid),
        size: has(FATTR_SIZE).then_some(request.size),
        atime: set_time(
            FATTR_ATIME,
            FATTR_ATIME_NOW,
            request.atime,
            request.atimensec,
        )?,
        mtime: set_time(
            FATTR_MTIME,
            FATTR_MTIME_NOW,
            request.mtime,
            request.mtimensec,
        )?,
        ctime,
        // A change of owner drops suid and sgid whoever makes it (`FUSE_HANDLE_KILLPRIV_V2`).
        killed_by: (has(FATTR_KILL_SUIDGID) || has(FATTR_UID) || has(FATTR_GID)).then_some(by),
    })
}
