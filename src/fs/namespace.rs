//! Names: lookup, making, linking, renaming, removing; and the lookups that go with them.

use super::{Everyone, FileSystem, FsError, Node, names};
use crate::engine::{Attr, Cred, EngineError, NewInode, Removed, RenameMode, Volume};
use crate::format::id::Ino;

/// How often CREATE tries again when the name comes and goes under it.
const CREATE_TRIES: usize = 8;

impl Everyone {
    /// Frees what has no name, unless a kernel knows it. Of two that let go at the same time, each
    /// has dropped its lookups before it asks: one of them finds that nobody knows it.
    pub(super) fn let_go(&self, volume: &Volume, ino: Ino) {
        // While its last name is being taken, whoever takes it asks again afterwards.
        match volume.has_no_name(ino) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return log::warn!("whether inode {ino} has a name: {error}"),
        }
        // Who found it while it had a name counts it before this returns, or finds that it has none.
        drop(self.finding.write());
        let everyone = self.lookups.read();
        if everyone.iter().any(|lookups| lookups.knows(ino)) {
            return;
        }
        drop(everyone);
        if let Err(error) = volume.reclaim(ino) {
            log::warn!("freeing inode {ino}, which has no name: {error}");
        }
    }
}

impl FileSystem {
    /// The inode a name leads to, counted as one lookup. `.` and `..` are asked for handles that
    /// an NFS server kept.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] and what the engine says.
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attr, FsError> {
        if !matches!(name, b"." | b"..") {
            names::check(name)?;
        }
        let found = self.counted(|| match name {
            b"." => self.volume.getattr(dir),
            _ => self.volume.lookup(dir, name),
        });
        match found {
            Err(EngineError::NotFound) if self.is_snapshots_dir(dir, name) => self.snapshots_dir(),
            found => Ok(self.shown(found?)?),
        }
    }

    /// Whether a name can be made, or taken away, in a directory.
    fn check_entry(&self, dir: Ino, name: &[u8]) -> Result<(), FsError> {
        names::check(name)?;
        if Node::of(dir.0) != Node::Own(dir) {
            return Err(FsError::OtherFileSystem);
        }
        if self.is_snapshots_dir(dir, name) {
            return Err(EngineError::NotPermitted("the snapshots are there").into());
        }
        Ok(())
    }

    /// Drops `n` lookups of an inode, and frees it when it has no name and nobody knows it.
    pub fn forget(&self, ino: Ino, n: u64) {
        if self.lookups.forget(ino, n) {
            self.let_go(ino);
        }
    }

    /// Drops all lookups: the kernel that made them is gone.
    pub fn forget_all(&self) {
        self.lookups.clear(|ino| self.let_go(ino));
    }

    fn let_go(&self, ino: Ino) {
        self.everyone.let_go(&self.volume, ino);
    }

    /// Finds or makes an inode, and counts a lookup of it before anyone can free it.
    fn counted(
        &self,
        find: impl FnOnce() -> Result<Attr, EngineError>,
    ) -> Result<Attr, EngineError> {
        let _finding = self.everyone.finding.read();
        let attr = find()?;
        self.known(&attr);
        Ok(attr)
    }

    /// Makes a regular file, fifo, socket, device node (type in `new.mode`, 0 for a regular file)
    /// or directory.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] for another type; what the engine says.
    pub fn make(
        &self,
        cred: Cred,
        dir: Ino,
        name: &[u8],
        new: &NewInode<'_>,
    ) -> Result<Attr, FsError> {
        self.check_writable()?;
        self.check_entry(dir, name)?;
        let mut new = *new;
        match new.mode & libc::S_IFMT {
            0 => new.mode |= libc::S_IFREG,
            libc::S_IFREG | libc::S_IFDIR | libc::S_IFIFO | libc::S_IFSOCK => {}
            libc::S_IFCHR | libc::S_IFBLK => {}
            _ => return Err(EngineError::Invalid("file type").into()),
        }
        let attr = self.counted(|| self.volume.create(cred, dir, name, &new))?;
        Ok(attr)
    }

    /// Makes or opens a regular file, as open(2) with `O_CREAT`. Returns its attributes and
    /// `FOPEN_*` flags.
    ///
    /// # Errors
    /// What the engine says.
    pub fn create(
        &self,
        cred: Cred,
        dir: Ino,
        name: &[u8],
        new: &NewInode<'_>,
        open: super::Open,
    ) -> Result<(Attr, u32), FsError> {
        let mut new = *new;
        new.mode = (new.mode & !libc::S_IFMT) | libc::S_IFREG;
        for _ in 0..CREATE_TRIES {
            match self.make(cred, dir, name, &new) {
                Ok(attr) => return Ok((attr, self.file_open_flags())),
                Err(FsError::Engine(EngineError::Exists)) if open.flags & libc::O_EXCL == 0 => {}
                Err(error) => return Err(error),
            }
            // The kernel believed the name to be free, and it is not: open what is there.
            match self.lookup(dir, name) {
                Ok(attr) => return self.open_found(attr, open),
                Err(FsError::Engine(EngineError::NotFound)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(EngineError::Exists.into())
    }

    fn open_found(&self, attr: Attr, open: super::Open) -> Result<(Attr, u32), FsError> {
        let opened = match attr.mode & libc::S_IFMT {
            libc::S_IFREG => self.open(attr.ino, open),
            libc::S_IFDIR => Err(EngineError::IsDirectory.into()),
            // A kernel opens these itself, with what LOOKUP tells it.
            _ => Err(EngineError::Exists.into()),
        };
        match opened.and_then(|flags| Ok((self.volume.getattr(attr.ino)?, flags))) {
            Ok(opened) => Ok(opened),
            Err(error) => {
                self.forget(attr.ino, 1);
                Err(error)
            }
        }
    }

    /// Makes a regular file without a name and opens it.
    ///
    /// # Errors
    /// What the engine says.
    pub fn tmpfile(
        &self,
        cred: Cred,
        dir: Ino,
        new: &NewInode<'_>,
    ) -> Result<(Attr, u32), FsError> {
        self.check_writable()?;
        let mut new = *new;
        new.mode = (new.mode & !libc::S_IFMT) | libc::S_IFREG;
        let attr = self.counted(|| self.volume.tmpfile(cred, dir, &new))?;
        Ok((attr, self.file_open_flags()))
    }

    /// Makes a symlink.
    ///
    /// # Errors
    /// What the engine says.
    pub fn symlink(
        &self,
        cred: Cred,
        dir: Ino,
        name: &[u8],
        target: &[u8],
        new: &NewInode<'_>,
    ) -> Result<Attr, FsError> {
        self.check_writable()?;
        self.check_entry(dir, name)?;
        let attr = self.counted(|| self.volume.symlink(cred, dir, name, target, new))?;
        Ok(attr)
    }

    /// Gives an inode one more name.
    ///
    /// # Errors
    /// What the engine says.
    pub fn link(&self, ino: Ino, dir: Ino, name: &[u8]) -> Result<Attr, FsError> {
        self.check_writable()?;
        self.check_entry(dir, name)?;
        if Node::of(ino.0) != Node::Own(ino) {
            return Err(FsError::OtherFileSystem);
        }
        Ok(self.counted(|| self.volume.link(ino, dir, name))?)
    }

    /// Takes a name from something that is not a directory.
    ///
    /// # Errors
    /// What the engine says.
    pub fn unlink(&self, dir: Ino, name: &[u8]) -> Result<(), FsError> {
        self.check_writable()?;
        self.check_entry(dir, name)?;
        let removed = self.volume.unlink(dir, name)?;
        self.removed(removed);
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// What the engine says; rmdir(2)'s for `.` and `..`.
    pub fn rmdir(&self, dir: Ino, name: &[u8]) -> Result<(), FsError> {
        self.check_writable()?;
        self.check_entry(dir, name)?;
        let removed = self.volume.rmdir(dir, name)?;
        self.removed(removed);
        Ok(())
    }

    /// Renames, with the `RENAME_*` flags of rename(2).
    ///
    /// # Errors
    /// [`EngineError::Invalid`] for flags that do not go together; [`EngineError::WouldWait`] when
    /// it may not; what the engine says.
    pub fn rename(
        &self,
        cred: Cred,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        flags: u32,
        may_wait: bool,
    ) -> Result<(), FsError> {
        self.check_writable()?;
        self.check_entry(from.0, from.1)?;
        self.check_entry(to.0, to.1)?;
        let mode = match flags {
            0 => RenameMode::Replace,
            libc::RENAME_NOREPLACE => RenameMode::NoReplace,
            libc::RENAME_EXCHANGE => RenameMode::Exchange,
            _ if flags & !libc::RENAME_NOREPLACE == libc::RENAME_WHITEOUT => RenameMode::Whiteout {
                owner: cred,
                replace: flags & libc::RENAME_NOREPLACE == 0,
            },
            _ => return Err(EngineError::Invalid("rename flags").into()),
        };
        if let Some(removed) = self.volume.rename_with(from, to, mode, may_wait)? {
            self.removed(removed);
        }
        Ok(())
    }

    /// A symlink's target.
    ///
    /// # Errors
    /// What the engine says.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let target = self.volume.readlink(ino)?;
        self.accessed(ino);
        Ok(target)
    }

    /// Counts a lookup.
    pub(super) fn known(&self, attr: &Attr) {
        self.lookups.add(attr.ino);
    }

    /// Frees what lost its last name, unless a kernel still knows it: then forgetting it will.
    fn removed(&self, removed: Removed) {
        if removed.orphan {
            self.let_go(removed.ino);
        }
    }
}
