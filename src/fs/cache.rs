//! What the kernel may keep of an export, and for how long.
//!
//! The modes are virtiofsd's: what it sends for each is sent here. Two things are decided by
//! whether somebody else may change the export ([`Options::shared`]), which virtiofsd cannot know.
//! If so, the kernel drops cached data when a file's time has changed, remembers of no name that
//! it is not there, and has no shared mappings without a cache unless told otherwise. If not, and
//! the mode lets it keep everything, it may do without OPEN and OPENDIR: a handle carries nothing,
//! and what the kernel takes for an answer then (`FOPEN_KEEP_CACHE`, for directories
//! `FOPEN_CACHE_DIR` too) is the answer it would get.

use std::time::Duration;

use super::{FileSystem, Options};
use crate::engine::Attr;

/// `FOPEN_DIRECT_IO`: the kernel keeps none of the file's data.
const DIRECT_IO: u32 = 1;
/// `FOPEN_KEEP_CACHE`: what the kernel kept stays good.
const KEEP_CACHE: u32 = 2;
/// `FOPEN_CACHE_DIR`: the kernel may keep listings.
const CACHE_DIR: u32 = 8;
/// `FOPEN_PARALLEL_DIRECT_WRITES`: writes to one file need not wait for each other.
const PARALLEL_DIRECT_WRITES: u32 = 0x40;

/// What the kernel may keep, as virtiofsd's `--cache` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheMode {
    /// Names and attributes for a second; data until a file is opened again.
    #[default]
    Auto,
    /// Everything for a day: right where nobody else changes the export.
    Always,
    /// Names, attributes and listings for a day, no data.
    Metadata,
    /// Nothing.
    Never,
}

impl CacheMode {
    /// How long names and attributes may be believed.
    #[must_use]
    pub fn timeout(self) -> Duration {
        match self {
            CacheMode::Auto => Duration::from_secs(1),
            CacheMode::Always | CacheMode::Metadata => Duration::from_secs(86_400),
            CacheMode::Never => Duration::ZERO,
        }
    }
}

impl Options {
    /// Whether a kernel that can do without OPEN may.
    ///
    /// Not where an answer to it matters: a read-only export refuses to open for writing, and data
    /// that the kernel holds back must be refused before it is taken, when the file is immutable
    /// or append-only. Otherwise WRITE, SETATTR and FALLOCATE are refused then, with the same error.
    #[must_use]
    pub fn no_open(&self) -> bool {
        self.cache == CacheMode::Always && !self.shared && !self.read_only && !self.writeback
    }

    /// Whether a kernel that can do without OPENDIR may.
    #[must_use]
    pub fn no_opendir(&self) -> bool {
        matches!(self.cache, CacheMode::Always | CacheMode::Metadata) && !self.shared
    }

    /// Whether the kernel may map files shared that it keeps no data of. Others would not see what
    /// is written there, nor it what they write.
    #[must_use]
    pub fn maps_uncached(&self) -> bool {
        !self.shared || self.allow_mmap
    }
}

impl FileSystem {
    /// How long the kernel may believe names.
    #[must_use]
    pub fn entry_timeout(&self) -> Duration {
        self.options.cache.timeout()
    }

    /// How long the kernel may believe that a name is not there. Not at all where others may make
    /// it: whoever is told of it elsewhere would not find it.
    #[must_use]
    pub fn negative_timeout(&self) -> Duration {
        match self.options.shared {
            true => Duration::ZERO,
            false => self.entry_timeout(),
        }
    }

    /// How long the kernel may believe attributes. Not at all that a file is set-uid or set-gid: a
    /// WRITE drops these bits (`FUSE_HANDLE_KILLPRIV_V2`), its answer does not say so, and Linux
    /// does not ask for the mode again, though it asks for size and times. It would go on
    /// to give who runs the file the owner's rights.
    #[must_use]
    pub fn attr_timeout(&self, attr: &Attr) -> Duration {
        let regular = attr.mode & libc::S_IFMT == libc::S_IFREG;
        match regular && attr.mode & (libc::S_ISUID | libc::S_ISGID) != 0 {
            true => Duration::ZERO,
            false => self.options.cache.timeout(),
        }
    }

    /// The `FOPEN_*` flags of a file.
    pub(super) fn file_open_flags(&self) -> u32 {
        match self.options.cache {
            CacheMode::Auto => PARALLEL_DIRECT_WRITES,
            CacheMode::Always => KEEP_CACHE | PARALLEL_DIRECT_WRITES,
            CacheMode::Metadata | CacheMode::Never => DIRECT_IO | PARALLEL_DIRECT_WRITES,
        }
    }

    /// The `FOPEN_*` flags of a directory.
    pub(super) fn dir_open_flags(&self) -> u32 {
        match self.options.cache {
            CacheMode::Always | CacheMode::Metadata => CACHE_DIR | KEEP_CACHE,
            CacheMode::Auto | CacheMode::Never => 0,
        }
    }
}
