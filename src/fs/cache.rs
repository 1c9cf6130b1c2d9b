//! What the kernel may keep of an export, and for how long.
//!
//! The modes are virtiofsd's: what it sends for each is sent here. Two things are decided by
//! whether somebody else may change the export ([`Options::shared`]), which virtiofsd cannot know.
//! If so, the kernel drops cached data when a file's time has changed, remembers of no name that
//! it is not there, and has no shared mappings without a cache unless told otherwise. If not, and
//! the mode lets it keep everything, it may do without OPENDIR, and without OPEN where that was
//! asked for: a handle carries nothing, and what the kernel takes for an answer then
//! (`FOPEN_KEEP_CACHE`, for directories `FOPEN_CACHE_DIR` too) is as good as the one it would get.

use std::time::Duration;

use super::snapshots::comes_and_goes;
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

/// How long attributes of a file with unwritten bytes may be believed.
const UNWRITTEN_TIMEOUT: Duration = Duration::from_secs(1);

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
    /// The names of all, as flags have them.
    pub const NAMES: [&str; 4] = ["auto", "always", "metadata", "never"];

    /// The mode of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<CacheMode> {
        match name {
            "auto" => Some(CacheMode::Auto),
            "always" => Some(CacheMode::Always),
            "metadata" => Some(CacheMode::Metadata),
            "never" => Some(CacheMode::Never),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            CacheMode::Auto => "auto",
            CacheMode::Always => "always",
            CacheMode::Metadata => "metadata",
            CacheMode::Never => "never",
        }
    }

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
    /// Whether a kernel that can do without OPEN may. Only where it was asked for: immutable and
    /// append-only files are refused by WRITE, SETATTR and FALLOCATE then, and nobody refuses to map
    /// them shared; what is stored in such a mapping is seen by others in the same kernel until it
    /// needs the memory, and never reaches the store. And not on the host that serves the mount:
    /// Linux from 6.9 (e26ee4efbc79, and some stable releases) until bd5603eaae0a may wait there for
    /// a read-ahead that the server's own reclaim of memory waits for.
    ///
    /// Not where an answer to it matters anyway: a read-only export refuses to open for writing, and
    /// data that the kernel holds back must be refused before it is taken.
    #[must_use]
    pub fn no_open(&self) -> bool {
        self.without_open
            && self.cache == CacheMode::Always
            && !(self.shared || self.read_only || self.writeback)
    }

    /// Whether the kernel believes names and attributes for longer than a moment, so that it would
    /// not see what appears by itself.
    #[must_use]
    pub fn keeps_names(&self) -> bool {
        self.cache.timeout() > CacheMode::Auto.timeout()
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
    /// How long the kernel may believe a name of what has these attributes.
    #[must_use]
    pub fn entry_timeout(&self, attr: &Attr) -> Duration {
        match comes_and_goes(attr.ino) {
            true => Duration::ZERO,
            false => self.options.cache.timeout(),
        }
    }

    /// How long the kernel may believe that a name is not there. Not at all where others may make
    /// it: whoever is told of it elsewhere would not find it.
    #[must_use]
    pub fn negative_timeout(&self) -> Duration {
        match self.options.shared {
            true => Duration::ZERO,
            false => self.options.cache.timeout(),
        }
    }

    /// How long the kernel may believe attributes. Not at all that a file is set-uid or set-gid: a
    /// WRITE drops these bits (`FUSE_HANDLE_KILLPRIV_V2`), its answer does not say so, and Linux
    /// does not ask for the mode again, though it asks for size and times. It would go on
    /// to give who runs the file the owner's rights. Not for long what a file with unwritten bytes
    /// takes: it changes when they are written, and nobody tells the kernel.
    #[must_use]
    pub fn attr_timeout(&self, attr: &Attr) -> Duration {
        let regular = attr.mode & libc::S_IFMT == libc::S_IFREG;
        if comes_and_goes(attr.ino) || regular && attr.mode & (libc::S_ISUID | libc::S_ISGID) != 0 {
            return Duration::ZERO;
        }
        let timeout = self.options.cache.timeout();
        match attr.unwritten {
            true => timeout.min(UNWRITTEN_TIMEOUT),
            false => timeout,
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
