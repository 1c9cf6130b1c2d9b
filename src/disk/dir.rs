//! The files of a store: a directory of them (or block devices behind symbolic links).
//!
//! Invariant: one process owns a store, by an exclusive lock on its superblock file that ends with
//! the process.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::IFlags;

use super::file::{Access, FileDisk, is_btrfs};
use super::host::FileSystem;
use super::{Disk, Media};

/// The file whose presence makes a directory a store.
pub const SUPERBLOCK_FILE: &str = "superblock";
const NODES_FILE: &str = "nodes.dat";
const STRINGS_FILE: &str = "strings.dat";
const CHUNKS_FILE: &str = "chunks.dat";
const WAL_FILE: &str = "wal.log";
/// The files of a store. The superblock is the last: without it there is none.
pub const STORE_FILES: [&str; 5] = [
    NODES_FILE,
    STRINGS_FILE,
    CHUNKS_FILE,
    WAL_FILE,
    SUPERBLOCK_FILE,
];

/// Why a store's files cannot be opened or made.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A system call failed.
    #[error("{path}: {doing}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The directory has no superblock file.
    #[error(
        "{0} is not a razorfs store: it has no file 'superblock' (make one with 'razorfs mkfs')"
    )]
    NotAStore(PathBuf),
    /// mkfs on a directory that is a store.
    #[error("{0} holds a razorfs store already; to destroy it, use --force")]
    StoreExists(PathBuf),
    /// mkfs on a directory with something else in it.
    #[error("{0} is not empty, and not a razorfs store: choose an empty or new directory")]
    NotEmpty(PathBuf),
    /// Another process has the store open.
    #[error("{path} is in use by another process{holder}: stop it first")]
    Locked {
        /// The store.
        path: PathBuf,
        /// ` (pid N)` where the system tells.
        holder: String,
    },
    /// The store lies in memory.
    #[error(
        "{path} is on {kind}: everything in it is lost when this machine stops; put the store on a \
         disk, or accept the loss with --allow-volatile"
    )]
    Volatile {
        /// The store.
        path: PathBuf,
        /// The kind of file system.
        kind: String,
    },
}

pub(super) fn failed(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError::Io {
        path,
        doing,
        source,
    }
}

/// The open files of a store, and the lock on it.
pub struct StoreDir {
    /// The disks.
    pub media: Media,
    /// Keeps other processes out while it lives.
    pub lock: StoreLock,
}

/// The lock on a store: it ends when this is dropped, or with the process.
pub struct StoreLock {
    /// The superblock's.
    file: File,
    last_written: Option<SystemTime>,
}

impl StoreLock {
    /// The file system that the store lies on.
    ///
    /// # Errors
    /// When it does not say what it is.
    pub fn file_system(&self) -> io::Result<FileSystem> {
        FileSystem::of(&self.file)
    }

    /// When the superblock had been written last before the store was locked: by closing it, or by the
    /// newest checkpoint of one that was not closed. `None` where the file system does not tell.
    #[must_use]
    pub fn last_written(&self) -> Option<SystemTime> {
        self.last_written
    }
}

/// How to open a store's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenDir {
    /// Open the files for reading only.
    pub read_only: bool,
    /// Accept a file system that does not survive a power cut.
    pub allow_volatile: bool,
}

/// Makes the files of a store in `dir`, which is made when it is not there. With `force` an
/// existing store is destroyed.
///
/// # Errors
/// When the directory holds something else, is in use, or lies in memory and that was not accepted.
pub fn create_store(dir: &Path, allow_volatile: bool, force: bool) -> Result<StoreDir, DiskError> {
    std::fs::create_dir_all(dir).map_err(failed(dir, "making the directory"))?;
    check_volatile(dir, allow_volatile)?;
    let mut occupied = false;
    for entry in std::fs::read_dir(dir).map_err(failed(dir, "reading the directory"))? {
        let name = entry
            .map_err(failed(dir, "reading the directory"))?
            .file_name();
        occupied |= name != "lost+found";
    }
    let superblock = dir.join(SUPERBLOCK_FILE);
    if superblock.exists() {
        if !force {
            return Err(DiskError::StoreExists(dir.to_owned()));
        }
    } else if occupied {
        return Err(DiskError::NotEmpty(dir.to_owned()));
    }
    let lock = take_lock(dir, open_file(&superblock, false, true)?)?;
    let disk = |name: &str, access: Access| -> Result<Arc<dyn Disk>, DiskError> {
        let path = dir.join(name);
        let file = open_file(&path, false, true)?;
        if file
            .metadata()
            .map_err(failed(&path, "reading its size"))?
            .is_file()
        {
            file.set_len(0).map_err(failed(&path, "emptying"))?;
            overwrite_in_place(&path, &file);
        }
        Ok(Arc::new(FileDisk::new(path, file, access)?))
    };
    // The superblock first: while it is empty the directory is no store.
    let media = Media {
        superblock: disk(SUPERBLOCK_FILE, Access::Cached)?,
        nodes: disk(NODES_FILE, Access::Mapped)?,
        strings: disk(STRINGS_FILE, Access::Mapped)?,
        chunks: disk(CHUNKS_FILE, Access::Direct)?,
        wal: disk(WAL_FILE, Access::Direct)?,
    };
    sync_directory(dir)?;
    Ok(StoreDir { media, lock })
}

/// Removes the files of a store from `dir`, as far as they are there: for what could not be made.
///
/// # Errors
/// When one cannot be removed.
pub fn remove_store_files(dir: &Path) -> Result<(), DiskError> {
    // The superblock last: until it is gone, another attempt says that something is there.
    for path in STORE_FILES.map(|name| dir.join(name)) {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(&path, "removing")(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Opens the files of the store in `dir`.
///
/// # Errors
/// When it is not a store, is in use, or lies in memory and that was not accepted.
pub fn open_store(dir: &Path, options: OpenDir) -> Result<StoreDir, DiskError> {
    let superblock = dir.join(SUPERBLOCK_FILE);
    match superblock.try_exists() {
        Ok(true) => {}
        Ok(false) => return Err(DiskError::NotAStore(dir.to_owned())),
        Err(source) => return Err(failed(&superblock, "looking for it")(source)),
    }
    check_volatile(dir, options.allow_volatile)?;
    let lock = take_lock(dir, open_file(&superblock, options.read_only, false)?)?;
    // Not even a descriptor that could write.
    let past_cache = match options.read_only {
        true => Access::Cached,
        false => Access::Direct,
    };
    let disk = |name: &str, access: Access| -> Result<Arc<dyn Disk>, DiskError> {
        let path = dir.join(name);
        let file = open_file(&path, options.read_only, false)?;
        Ok(Arc::new(FileDisk::new(path, file, access)?))
    };
    let media = Media {
        superblock: disk(SUPERBLOCK_FILE, Access::Cached)?,
        nodes: disk(NODES_FILE, Access::Mapped)?,
        strings: disk(STRINGS_FILE, Access::Mapped)?,
        chunks: disk(CHUNKS_FILE, past_cache)?,
        wal: disk(WAL_FILE, past_cache)?,
    };
    Ok(StoreDir { media, lock })
}

fn open_file(path: &Path, read_only: bool, create: bool) -> Result<File, DiskError> {
    OpenOptions::new()
        .read(true)
        .write(!read_only)
        .create(create)
        .mode(0o600)
        .open(path)
        .map_err(failed(path, "opening"))
}

/// Has an empty file's blocks be overwritten where they lie. Btrfs would take others each time: a
/// full disk would refuse writes to space that was allocated for them, the log's and the
/// superblock's too. Content has checksums of the store's own.
fn overwrite_in_place(path: &Path, file: &File) {
    if !is_btrfs(file) {
        return;
    }
    let flags = rustix::fs::ioctl_getflags(file);
    let set = flags.and_then(|flags| rustix::fs::ioctl_setflags(file, flags | IFlags::NOCOW));
    if let Err(error) = set {
        ::log::warn!(
            "{}: it cannot be overwritten in place (chattr +C): a full disk will stop all writes: \
             {error}",
            path.display()
        );
    }
}

/// Makes the names of new files durable.
fn sync_directory(dir: &Path) -> Result<(), DiskError> {
    for dir in [
        Some(dir),
        dir.parent().filter(|parent| !parent.as_os_str().is_empty()),
    ] {
        let Some(dir) = dir else { continue };
        File::open(dir)
            .and_then(|file| file.sync_all())
            .map_err(failed(dir, "flushing"))?;
    }
    Ok(())
}

/// Takes the store's lock.
fn take_lock(dir: &Path, file: File) -> Result<StoreLock, DiskError> {
    match file.try_lock() {
        Ok(()) => {
            let written = file.metadata().and_then(|metadata| metadata.modified());
            Ok(StoreLock {
                last_written: written.ok(),
                file,
            })
        }
        Err(std::fs::TryLockError::WouldBlock) => Err(DiskError::Locked {
            path: dir.to_owned(),
            holder: lock_holder(&file),
        }),
        Err(std::fs::TryLockError::Error(source)) => Err(failed(dir, "locking")(source)),
    }
}

/// Who holds the lock on a file, from /proc/locks: ` (pid N)`, or nothing.
fn lock_holder(file: &File) -> String {
    use std::os::unix::fs::MetadataExt;
    let (Ok(metadata), Ok(locks)) = (file.metadata(), std::fs::read_to_string("/proc/locks"))
    else {
        return String::new();
    };
    let inode = format!(":{}", metadata.ino());
    locks
        .lines()
        .find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let at = fields.iter().position(|field| field.ends_with(&inode))?;
            fields
                .get(at.checked_sub(1)?)
                .map(|pid| format!(" (pid {pid})"))
        })
        .unwrap_or_default()
}

/// Refuses a file system that lives in memory.
fn check_volatile(dir: &Path, allow: bool) -> Result<(), DiskError> {
    let file = File::open(dir).map_err(failed(dir, "opening"))?;
    let found = FileSystem::of(&file).map_err(failed(dir, "asking its kind"))?;
    if !found.is_volatile() {
        return Ok(());
    }
    let kind = found.kind;
    if allow {
        ::log::warn!(
            "{} is on {kind}: nothing in it survives this machine",
            dir.display()
        );
        return Ok(());
    }
    Err(DiskError::Volatile {
        path: dir.to_owned(),
        kind,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANYWHERE: OpenDir = OpenDir {
        read_only: false,
        allow_volatile: true,
    };

    #[test]
    fn a_store_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let made = create_store(dir.path(), true, false).unwrap();
        let error = open_store(dir.path(), ANYWHERE).err().unwrap();
        assert!(matches!(error, DiskError::Locked { .. }), "{error}");
        drop(made);
        assert!(open_store(dir.path(), ANYWHERE).is_ok());
    }

    #[test]
    fn mkfs_destroys_nothing_unasked() {
        let dir = tempfile::tempdir().unwrap();
        drop(create_store(dir.path(), true, false).unwrap());
        let again = create_store(dir.path(), true, false).err().unwrap();
        assert!(matches!(again, DiskError::StoreExists(_)));
        assert!(create_store(dir.path(), true, true).is_ok());

        let other = tempfile::tempdir().unwrap();
        std::fs::write(other.path().join("precious"), "x").unwrap();
        let error = create_store(other.path(), true, true).err().unwrap();
        assert!(matches!(error, DiskError::NotEmpty(_)));
        let error = open_store(other.path(), ANYWHERE).err().unwrap();
        assert!(matches!(error, DiskError::NotAStore(_)));
    }

    #[test]
    fn a_memory_file_system_is_refused_unless_accepted() {
        let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
            return;
        };
        let error = create_store(dir.path(), false, false).err().unwrap();
        assert!(matches!(error, DiskError::Volatile { kind, .. } if kind == "tmpfs"));
        assert!(create_store(dir.path(), true, false).is_ok());
    }
}
