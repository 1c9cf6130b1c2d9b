//! A dataset's snapshots below `.snapshots` in its root directory.
//!
//! Their inodes are told apart from the dataset's by their node ids: bit 63, then 23 bits of the
//! snapshot's number, then 40 bits of the inode's. So a restarted daemon knows what its predecessor
//! told a kernel, and no table is kept. Dataset 0 stands for the directory `.snapshots` itself, which
//! is in no tree and not listed in the root directory, as archivers would go down into it; an entry
//! of this name that is there takes precedence.
//!
//! What a kernel has of a snapshot does not keep that from being deleted: then it is stale.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{Everyone, FileSystem, FsError, Options};
use crate::engine::{Attr, DirEntry, EngineError, Volume};
use crate::format::id::{DatasetId, Ino};

/// The directory's name.
pub const SNAPSHOTS_DIR: &[u8] = b".snapshots";

/// The bit that all node ids of snapshots have.
const SNAPSHOTS: u64 = 1 << 63;
/// Bits of an inode number.
const INO_BITS: u32 = 40;
const INO_MASK: u64 = (1 << INO_BITS) - 1;
/// Bits of a snapshot's number.
const DATASET_MASK: u64 = (1 << 23) - 1;

/// The inode of `.snapshots`.
const DIRECTORY: Ino = Ino(SNAPSHOTS | Ino::ROOT.0);
/// Cookies of a listing up to this one are those of `.` and `..`.
const DOTS: u64 = 2;
/// `DT_DIR`
const DT_DIR: u8 = 4;

/// What a node id stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// An inode of the dataset.
    Own(Ino),
    /// The directory `.snapshots`.
    Directory,
    /// An inode of a snapshot.
    Snapshot(DatasetId, Ino),
}

impl Node {
    /// Reads a node id.
    #[must_use]
    pub fn of(id: u64) -> Node {
        if id & SNAPSHOTS == 0 {
            return Node::Own(Ino(id));
        }
        if id == DIRECTORY.0 {
            return Node::Directory;
        }
        // Of dataset 0 there is nothing else.
        let dataset = DatasetId((id >> INO_BITS) & DATASET_MASK);
        Node::Snapshot(dataset, Ino(id & INO_MASK))
    }
}

/// What an inode number of a snapshot has besides; none when the snapshot's number is too large.
fn mark(id: DatasetId) -> Option<u64> {
    let fits = id.0 != 0 && id.0 <= DATASET_MASK;
    fits.then_some(SNAPSHOTS | (id.0 << INO_BITS))
}

/// Whether snapshots come and go below what is named: a kernel must not believe it for long.
pub(super) fn comes_and_goes(ino: Ino) -> bool {
    ino.0 & SNAPSHOTS != 0 && ino.0 & INO_MASK == Ino::ROOT.0
}

impl FileSystem {
    /// Whether there is a directory `.snapshots`, unless an entry of that name is in its place.
    fn has_snapshots(&self) -> bool {
        self.options.snapshots && self.mark == 0
    }

    /// Whether a name is that of `.snapshots`, of which nothing is in the dataset.
    pub(super) fn is_snapshots_dir(&self, dir: Ino, name: &[u8]) -> bool {
        name == SNAPSHOTS_DIR
            && dir == Ino::ROOT
            && self.has_snapshots()
            && matches!(self.volume.lookup(dir, name), Err(EngineError::NotFound))
    }

    /// The attributes of `.snapshots`: its owner is the root directory's, its times are now, since a
    /// kernel that keeps listings goes by them.
    ///
    /// # Errors
    /// [`EngineError::Stale`] where it is switched off; what the engine says.
    pub fn snapshots_dir(&self) -> Result<Attr, FsError> {
        if !self.has_snapshots() {
            return Err(EngineError::Stale.into());
        }
        let root = self.volume.getattr(Ino::ROOT)?;
        let now = self.volume.store().now();
        Ok(Attr {
            ino: DIRECTORY,
            mode: libc::S_IFDIR | 0o555,
            nlink: 2,
            rdev: 0,
            size: 0,
            blocks: 0,
            unwritten: false,
            flags: 0,
            atime: now,
            mtime: now,
            ctime: now,
            ..root
        })
    }

    /// What a name in `.snapshots` leads to: the root directory of a snapshot.
    ///
    /// # Errors
    /// [`EngineError::NotFound`]; what the engine says.
    pub fn find_snapshot(&self, name: &[u8]) -> Result<Attr, FsError> {
        if matches!(name, b"." | b"..") {
            return self.snapshots_dir();
        }
        super::names::check(name)?;
        if !self.has_snapshots() {
            return Err(EngineError::Stale.into());
        }
        let found = self.volume.find_snapshot(name)?;
        self.snapshot(found.id)?.getattr(Ino::ROOT)
    }

    /// Visits the entries of `.snapshots` after cookie `after` until the visitor returns false.
    ///
    /// # Errors
    /// As [`FileSystem::snapshots_dir`].
    pub fn list_snapshots(
        &self,
        after: u64,
        visit: &mut dyn FnMut(DirEntry) -> bool,
    ) -> Result<(), FsError> {
        let own = self.snapshots_dir()?.ino;
        let entry = |cookie, ino, name: &[u8]| DirEntry {
            ino,
            cookie,
            file_type: DT_DIR,
            name: name.to_vec(),
        };
        let dots = [entry(1, own, b"."), entry(DOTS, Ino::ROOT, b"..")];
        let snapshots = self.volume.snapshots()?.into_iter().filter_map(|found| {
            let ino = Ino(mark(found.id)? | Ino::ROOT.0);
            Some(entry(found.id.0.saturating_add(DOTS), ino, &found.name))
        });
        for entry in dots.into_iter().chain(snapshots) {
            if entry.cookie > after && !visit(entry) {
                break;
            }
        }
        Ok(())
    }

    /// A snapshot of the dataset as the kernel sees it: read-only, and its inodes are numbered as
    /// its node ids are.
    ///
    /// # Errors
    /// [`EngineError::Stale`] when there is no such snapshot (any more); what the engine says.
    pub fn snapshot(&self, id: DatasetId) -> Result<FileSystem, FsError> {
        let (true, Some(mark)) = (self.has_snapshots(), mark(id)) else {
            return Err(EngineError::Stale.into());
        };
        Ok(FileSystem {
            volume: Arc::new(self.volume.snapshot(id)?),
            options: Options {
                read_only: true,
                ..self.options
            },
            mark,
            // Nothing of a snapshot is ever freed because nobody knows it.
            lookups: Arc::default(),
            everyone: Arc::<Everyone>::default(),
            believing: Mutex::default(),
        })
    }

    /// An inode's number as the kernel knows it.
    ///
    /// # Errors
    /// [`EngineError::NotSupported`] when it is too large for one of a snapshot.
    pub(super) fn shown(&self, attr: Attr) -> Result<Attr, EngineError> {
        if self.mark == 0 {
            return Ok(attr);
        }
        if attr.ino.0 > INO_MASK {
            return Err(EngineError::NotSupported(
                "inode number of a snapshot beyond 2^40",
            ));
        }
        Ok(Attr {
            ino: Ino(attr.ino.0 | self.mark),
            ..attr
        })
    }

    /// The volume of a snapshot that a node id is of, and the inode's number there; `None` of the
    /// dataset's own.
    ///
    /// # Errors
    /// As [`FileSystem::snapshot`].
    pub(super) fn elsewhere(&self, id: Ino) -> Result<Option<(Arc<Volume>, Ino)>, FsError> {
        match Node::of(id.0) {
            Node::Own(_) => Ok(None),
            Node::Directory => Err(EngineError::IsDirectory.into()),
            Node::Snapshot(dataset, ino) => Ok(Some((self.snapshot(dataset)?.volume, ino))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_are_what_they_were_made_of() {
        let largest = DatasetId(DATASET_MASK);
        for (id, ino) in [(DatasetId(2), Ino::ROOT), (largest, Ino(INO_MASK))] {
            let node = mark(id).unwrap() | ino.0;
            assert_eq!(Node::of(node), Node::Snapshot(id, ino));
            assert_eq!(comes_and_goes(Ino(node)), ino == Ino::ROOT);
        }
        assert_eq!(Node::of(DIRECTORY.0), Node::Directory);
        let none = Node::Snapshot(DatasetId(0), Ino(0));
        assert_eq!(Node::of(SNAPSHOTS), none);
        assert!(comes_and_goes(DIRECTORY));
        assert_eq!(Node::of(Ino::ROOT.0), Node::Own(Ino::ROOT));
        assert_eq!(Node::of(SNAPSHOTS - 1), Node::Own(Ino(SNAPSHOTS - 1)));
        assert!(!comes_and_goes(Ino::ROOT));
        assert_eq!(mark(DatasetId(0)), None);
        assert_eq!(mark(DatasetId(DATASET_MASK + 1)), None);
    }
}
