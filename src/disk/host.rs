//! The file system of the host that a store lies on.

use std::fs::File;
use std::io;

/// Kinds by the magic numbers of statfs(2) (linux/magic.h, and the file systems' own sources).
const KINDS: [(u64, &str); 17] = [
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x2fc1_2fc1, "zfs"),
    (0xf2f5_2010, "f2fs"),
    (0xca45_1a4e, "bcachefs"),
    (0x5265_4973, "reiserfs"),
    (0x3153_464a, "jfs"),
    (0x794c_7630, "overlay"),
    (0x6573_5546, "fuse"),
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x00c3_6400, "ceph"),
    (0x0116_1970, "gfs2"),
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
];

/// A file system of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// Its kind, as `ext4` (which ext2 and ext3 cannot be told from), or the magic number of statfs(2) in
    /// hexadecimal digits.
    pub kind: String,
    /// Bytes that are free for ordinary users.
    pub free_bytes: u64,
    /// Bytes that it has.
    pub size_bytes: u64,
}

impl FileSystem {
    /// That of a file or directory.
    ///
    /// # Errors
    /// When it does not say what it is.
    pub fn of(file: &File) -> io::Result<Self> {
        let stat = rustix::fs::fstatfs(file)?;
        // Their width and sign differ between machines.
        #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)]
        let (magic, block) = (stat.f_type as u64 & 0xffff_ffff, stat.f_frsize as u64);
        let known = KINDS.iter().find(|(of, _)| *of == magic);
        Ok(FileSystem {
            kind: known.map_or_else(|| format!("{magic:#x}"), |(_, kind)| (*kind).to_owned()),
            free_bytes: stat.f_bavail.saturating_mul(block),
            size_bytes: stat.f_blocks.saturating_mul(block),
        })
    }

    /// Whether it lies in memory: nothing on it survives this machine.
    #[must_use]
    pub fn is_volatile(&self) -> bool {
        ["tmpfs", "ramfs"].contains(&self.kind.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_lies_on_something() {
        let dir = tempfile::tempdir().unwrap();
        let found = FileSystem::of(&File::open(dir.path()).unwrap()).unwrap();
        assert!(found.size_bytes >= found.free_bytes && found.size_bytes > 0);
        let memory = FileSystem::of(&File::open("/dev/shm").unwrap()).unwrap();
        assert_eq!(
            (memory.kind.as_str(), memory.is_volatile()),
            ("tmpfs", true)
        );
        let other = FileSystem::of(&File::open("/proc").unwrap()).unwrap();
        assert_eq!(
            (other.kind.as_str(), other.is_volatile()),
            ("0x9fa0", false)
        );
    }
}
