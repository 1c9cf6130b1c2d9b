//! Orphans: inodes without a name that may still be open. They stand on a list in the dataset's
//! tree, so that a crash leaks nothing.

use std::ops::ControlFlow;

use super::inode::InodeExt;
use super::{EngineError, Volume};
use crate::format::id::Ino;
use crate::format::key::{self, Kind};
use crate::store::Read;

/// Keys removed in one transaction.
const STEP: usize = 256;

impl Volume {
    /// Whether the inode has no name left. Answered from memory.
    #[must_use]
    pub fn is_orphan(&self, ino: Ino) -> bool {
        self.orphans.read().contains(&ino)
    }

    /// Makes the set in memory follow the list in the tree.
    pub(super) fn note_orphans(&self, added: Option<Ino>, removed: Option<Ino>) {
        if added.is_none() && removed.is_none() {
            return;
        }
        let mut orphans = self.orphans.write();
        orphans.extend(added);
        if let Some(removed) = removed {
            orphans.remove(&removed);
        }
    }

    /// Frees an orphan that nobody refers to any more, in transactions of bounded size. Does
    /// nothing when the inode is not an orphan (any more).
    ///
    /// # Errors
    /// When the store fails; what is left is freed by the next call or at the next opening.
    pub fn reclaim(&self, ino: Ino) -> Result<(), EngineError> {
        if !self.is_orphan(ino) {
            return Ok(());
        }
        match self.load_inode(&self.journal.view(), ino) {
            Ok(record) if record.is_file() => self.free_content(ino)?,
            Ok(_) => {}
            // Somebody else was faster.
            Err(EngineError::Stale) => return Ok(()),
            Err(error) => return Err(error),
        }
        while self.free_items(ino)? {}
        let mut op = self.begin_removal()?;
        if op.inode(ino).is_err() || !op.adopt(ino)? {
            return Ok(());
        }
        op.tx.delete(self.tree(), key::inode(ino))?;
        let counters = op.counters()?;
        counters.inodes = counters.inodes.saturating_sub(1);
        op.commit()?;
        self.inodes.forget(ino);
        Ok(())
    }

    /// Removes some of an orphan's xattrs and of its target; whether there may be more.
    fn free_items(&self, ino: Ino) -> Result<bool, EngineError> {
        let mut op = self.begin_removal()?;
        let Ok(mut record) = op.inode(ino) else {
            return Ok(false);
        };
        let mut keys = Vec::new();
        for kind in [Kind::Symlink, Kind::Xattr, Kind::XattrMore] {
            let (start, end) = key::kind_range(ino, kind);
            op.tx.scan(self.tree(), &start, &end, &mut |key, _| {
                keys.push((kind, key.to_vec()));
                if keys.len() < STEP {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
        }
        if keys.is_empty() {
            return Ok(false);
        }
        let more = keys.len() >= STEP;
        for (kind, key) in keys {
            op.tx.delete(self.tree(), key)?;
            if kind == Kind::Xattr {
                record.xattrs = record.xattrs.saturating_sub(1);
            }
        }
        op.put(ino, &record)?;
        op.commit()?;
        Ok(more)
    }

    /// Frees all orphans and returns how many: only right while nothing is open, so at opening.
    ///
    /// # Errors
    /// As [`Volume::reclaim`].
    pub fn reclaim_all_orphans(&self) -> Result<u64, EngineError> {
        let all: Vec<Ino> = self.orphans.read().iter().copied().collect();
        for ino in &all {
            self.reclaim(*ino)?;
        }
        Ok(all.len() as u64)
    }
}
