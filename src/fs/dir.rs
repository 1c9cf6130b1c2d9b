//! Listing directories.

use super::{FileSystem, FsError};
use crate::engine::{Attr, DirEntry};
use crate::format::id::Ino;

impl FileSystem {
    /// Visits the entries after cookie `after` until the visitor returns false.
    ///
    /// # Errors
    /// What the engine says.
    pub fn readdir(
        &self,
        ino: Ino,
        after: u64,
        visit: &mut dyn FnMut(DirEntry) -> bool,
    ) -> Result<(), FsError> {
        self.volume.readdir(ino, after, &mut |entry| {
            visit(DirEntry {
                ino: Ino(entry.ino.0 | self.mark),
                ..entry
            })
        })?;
        self.listed(ino, after);
        Ok(())
    }

    /// [`FileSystem::readdir`] with attributes. An entry that the visitor takes, other than `.`
    /// and `..`, counts as one lookup of its inode.
    ///
    /// # Errors
    /// What the engine says.
    pub fn readdirplus(
        &self,
        ino: Ino,
        after: u64,
        visit: &mut dyn FnMut(DirEntry, &Attr) -> bool,
    ) -> Result<(), FsError> {
        let finding = self.everyone.finding.read();
        self.volume.readdirplus(ino, after, &mut |entry, attr| {
            let counts = !matches!(entry.name.as_slice(), b"." | b"..");
            let Ok(attr) = self.shown(attr) else {
                return false;
            };
            let entry = DirEntry {
                ino: attr.ino,
                ..entry
            };
            let taken = visit(entry, &attr);
            if taken && counts {
                self.known(&attr);
            }
            taken
        })?;
        drop(finding);
        self.listed(ino, after);
        Ok(())
    }

    /// Notes the access of a listing, once for all its parts.
    fn listed(&self, ino: Ino, after: u64) {
        if after == 0 {
            self.accessed(ino);
        }
    }
}
