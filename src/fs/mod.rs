//! FUSE semantics over the engine: what a kernel's file-system requests mean for a volume.
//!
//! Names are checked here, lookups are counted (an inode without a name lives as long as the
//! kernel knows it), what the kernel may keep is chosen (`cache`), and errors become errno values
//! ([`errno`]). A file handle carries nothing: everything is rebuilt from the inode number, so
//! that a restarted daemon serves the files its predecessor opened. Knows nothing of message
//! layouts. May import the engine.

mod attr;
mod cache;
mod dir;
pub mod errno;
mod file;
mod lookups;
mod names;
mod namespace;
mod snapshots;

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use crate::engine::{Believing, EngineError, Volume};
use crate::format::id::Ino;
pub use cache::CacheMode;
pub use file::Open;
use lookups::Lookups;
pub use names::NAME_MAX;
pub use snapshots::{Node, SNAPSHOTS_DIR};

/// Why a request failed; [`errno::of`] says how that looks to the kernel.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// The engine refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A request that is not carried out; the kernel does without, or itself.
    #[error("no such operation")]
    NoSuchOperation,
    /// A message that says something impossible.
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    /// A name that no entry can have.
    #[error("not a name")]
    Name,
    /// A name of more than 255 bytes.
    #[error("name too long")]
    NameTooLong,
    /// A request before INIT.
    #[error("no session")]
    NoSession,
    /// A protocol that is not spoken.
    #[error("FUSE {major}.{minor} is not spoken")]
    Protocol {
        /// Major.
        major: u32,
        /// Minor.
        minor: u32,
    },
    /// Two inodes that are not in one file system.
    #[error("not in the same file system")]
    OtherFileSystem,
    /// The export is read-only.
    #[error("read-only")]
    ReadOnly,
    /// An ioctl that is not known.
    #[error("no such ioctl")]
    NoSuchIoctl,
    /// What is asked is switched off or does not exist here.
    #[error("not supported")]
    NotSupported,
    /// The answer does not fit the room the caller has.
    #[error("the answer does not fit")]
    TooSmall,
    /// There is no such thing.
    #[error("not found")]
    NotFound,
}

/// How an export behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// What the kernel may keep.
    pub cache: CacheMode,
    /// Refuse every change.
    pub read_only: bool,
    /// Let the kernel hold written data back.
    pub writeback: bool,
    /// Extended attributes.
    pub xattr: bool,
    /// POSIX ACLs; needs `xattr`.
    pub posix_acl: bool,
    /// Listings that bring attributes along.
    pub readdirplus: bool,
    /// Other kernels may change the export too.
    pub shared: bool,
    /// A kernel that keeps everything may do without OPEN too: see [`Options::no_open`].
    pub without_open: bool,
    /// Shared mappings of files without a cache, where other kernels may change the export too.
    pub allow_mmap: bool,
    /// The dataset's snapshots below `.snapshots`.
    pub snapshots: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            cache: CacheMode::Auto,
            read_only: false,
            writeback: false,
            xattr: true,
            posix_acl: true,
            readdirplus: true,
            shared: false,
            without_open: false,
            allow_mmap: false,
            snapshots: true,
        }
    }
}

/// A volume as a kernel sees it.
pub struct FileSystem {
    volume: Arc<Volume>,
    options: Options,
    /// What a snapshot's inode numbers have besides, as the kernel knows them; 0 of a dataset.
    mark: u64,
    lookups: Arc<Lookups>,
    everyone: Arc<Everyone>,
    /// While there is a session with a kernel that keeps what it is told.
    believing: Mutex<Option<Believing>>,
}

/// A volume for several kernels at once: what one has open, the others can remove but not free.
pub struct Export {
    volume: Arc<Volume>,
    everyone: Arc<Everyone>,
}

impl Export {
    /// A volume that no kernel has yet.
    #[must_use]
    pub fn new(volume: Arc<Volume>) -> Self {
        let everyone = Arc::<Everyone>::default();
        let all = Arc::clone(&everyone);
        volume.release_by(Box::new(move |volume, ino| all.let_go(volume, ino)));
        Export { volume, everyone }
    }

    /// The volume that it is of.
    #[must_use]
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// The volume as one more kernel sees it.
    #[must_use]
    pub fn kernel(&self, options: Options) -> FileSystem {
        let lookups = Arc::<Lookups>::default();
        let mut everyone = self.everyone.lookups.write();
        // Those whose file system is gone.
        everyone.retain(|lookups| Arc::strong_count(lookups) > 1);
        everyone.push(lookups.clone());
        drop(everyone);
        FileSystem {
            volume: self.volume.clone(),
            options,
            mark: 0,
            lookups,
            everyone: self.everyone.clone(),
            believing: Mutex::default(),
        }
    }
}

/// All kernels that share a volume.
#[derive(Default)]
struct Everyone {
    lookups: RwLock<Vec<Arc<Lookups>>>,
    /// Held shared from finding or making an inode until its lookup is counted. Who has had it
    /// alone knows that whatever was found before is counted.
    finding: RwLock<()>,
}

impl FileSystem {
    /// A file system over a volume that no other kernel has; for several see [`Export`].
    #[must_use]
    pub fn new(volume: Arc<Volume>, options: Options) -> Self {
        Export::new(volume).kernel(options)
    }

    /// A session begins: see [`crate::engine::Volume::begin_believing`].
    pub fn begin_session(&self) {
        let believes = self.options.keeps_names();
        *self.believing.lock() = believes.then(|| self.volume.begin_believing());
    }

    /// The session is over: the kernel is gone with all that it kept and knew.
    pub fn end_session(&self) {
        self.forget_all();
        *self.believing.lock() = None;
    }

    /// How it behaves.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The volume.
    #[must_use]
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// What the kernel knows, by inode number, and how often it looked each up: nothing of the root
    /// directory, which it knows always, nor of snapshots, which it may.
    #[must_use]
    pub fn looked_up(&self) -> Vec<(Ino, u64)> {
        self.lookups.all()
    }

    /// Whether any kernel that has the volume knows the inode.
    #[must_use]
    pub fn knows(&self, ino: Ino) -> bool {
        let kernels = self.everyone.lookups.read();
        kernels.iter().any(|lookups| lookups.knows(ino))
    }

    /// Counts lookups that the kernel made before, of another process.
    pub fn know(&self, ino: Ino, lookups: u64) {
        self.lookups.add_many(ino, lookups);
    }

    /// Notes an access, for atime.
    fn accessed(&self, ino: Ino) {
        if !self.options.read_only {
            self.volume.note_access(ino);
        }
    }

    fn check_writable(&self) -> Result<(), FsError> {
        if self.options.read_only {
            Err(FsError::ReadOnly)
        } else {
            Ok(())
        }
    }
}
