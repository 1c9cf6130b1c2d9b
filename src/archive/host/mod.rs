//! Directories of the host: reading one, and making one.
//!
//! Invariant: everything is reached from the descriptor of the directory that it is in, by one name
//! at a time, and no symlink is followed. So whoever moves things about meanwhile cannot make
//! razorfs read or write elsewhere.

pub mod read;
pub mod write;

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, Stat, openat};
use rustix::io::Errno;

use crate::engine::Time;

/// The longest list of names of attributes, and the longest value: Linux's `XATTR_LIST_MAX` and
/// `XATTR_SIZE_MAX`.
const XATTR_BYTES_MAX: usize = 64 << 10;

/// Opens a directory by its name in another.
fn open_dir(dir: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

/// A path to what has a name in a directory, for calls that have no other way to say that. The last
/// name is not followed by those that are used with it.
fn path_of(dir: &OwnedFd, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

/// All names in a directory, in order.
fn names_in(dir: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn kind_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// A time of the host's.
fn time_of(sec: i64, nsec: u64) -> Time {
    Time {
        sec,
        nsec: u32::try_from(nsec).unwrap_or(0),
    }
}
