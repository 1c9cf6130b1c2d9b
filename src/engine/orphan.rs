//! Orphans: inodes without a name that may still be open. They stand on a list in the dataset's
//! tree, so that a crash leaks nothing, and in a set in memory, so that closing a file need not
//! look.
//!
//! Invariant: an inode stands on the list exactly while it has no links. What is freed is freed in
//! transactions of bounded size, each of which leaves a whole inode with less, or none.

use std::ops::ControlFlow;

use super::inode::InodeExt;
use super::store::Room;
use super::{EngineError, Volume};
use crate::format::id::Ino;
use crate::format::key::{self, Key, Kind};
use crate::format::record::InodeRecord;
use crate::log::Tx;
use crate::store::{Read, StoreError};

/// Attributes removed in one transaction: of the largest ones, some 1,500 keys.
const STEP_XATTRS: usize = 16;

/// How far a reclaim got.
enum Step {
    /// There is more to remove.
    More,
    /// There is content to remove first.
    Content,
    /// The inode is gone.
    Freed,
    /// It is not an orphan: it got a name, or somebody else was faster.
    NotOrphan,
}

impl Volume {
    /// Whether the inode has no name left, or is about to lose it. Answered from memory.
    #[must_use]
    pub fn is_orphan(&self, ino: Ino) -> bool {
        self.dataset.orphans.read().contains(&ino)
    }

    /// Whether the inode has no name left for anyone to find.
    ///
    /// # Errors
    /// When the list cannot be read.
    pub fn has_no_name(&self, ino: Ino) -> Result<bool, EngineError> {
        // The set knows before the transaction is visible that takes the name.
        Ok(self.is_orphan(ino)
            && self
                .store
                .journal
                .view()
                .get_with(self.tree(), &key::orphan(ino), |_| ())?
                .is_some())
    }

    /// Makes the set in memory follow the list in the tree.
    pub(super) fn note_orphans(&self, added: Option<Ino>, removed: Option<Ino>) {
        if added.is_none() && removed.is_none() {
            return;
        }
        let mut orphans = self.dataset.orphans.write();
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
        let record = match self.load_inode(&self.store.journal.view(), ino) {
            Ok(record) => record,
            // Somebody else was faster.
            Err(EngineError::Stale) => return Ok(()),
            Err(error) => return Err(error),
        };
        // Most files that go are small or empty: without content one transaction does it all.
        if record.is_file() && (record.allocated > 0 || self.unwritten_bytes(ino) > 0) {
            self.free_content(ino)?;
        }
        let mut room = Room::default();
        loop {
            self.store.make_room(&mut room)?;
            match self.with_unwritten(ino, |any| self.reclaim_step(ino, any, &mut room))? {
                Step::More => {}
                // A guest can write to a file that it has let go of.
                Step::Content => self.free_content(ino)?,
                Step::NotOrphan | Step::Freed => return Ok(()),
            }
        }
    }

    /// One transaction: some attributes, or with the last of them all that is left. To be called
    /// with the inode's unwritten data locked: who writes to it finds it gone, or is found by the
    /// next step.
    fn reclaim_step(
        &self,
        ino: Ino,
        unwritten: bool,
        room: &mut Room,
    ) -> Result<Step, EngineError> {
        let Some(mut op) = self.begin_removal_step(room)? else {
            return Ok(Step::More);
        };
        if op
            .tx
            .get_with(self.tree(), &key::orphan(ino), |_| ())?
            .is_none()
        {
            return Ok(Step::NotOrphan);
        }
        let mut record = op.inode(ino)?;
        if record.nlink > 0 {
            let what = format!("orphan {ino} has {} links; run razorfsck", record.nlink);
            return Err(StoreError::Corrupt(what).into());
        }
        if record.is_file() && (record.allocated > 0 || unwritten) {
            return Ok(Step::Content);
        }
        if !self.remove_xattrs(&mut op.tx, ino, &mut record)? {
            op.put(ino, &record)?;
            op.commit()?;
            return Ok(Step::More);
        }
        if record.is_symlink() {
            self.remove_target(&mut op.tx, ino)?;
        }
        self.count_inode(&mut op.tx, ino, None)?;
        op.tx.remove(self.tree(), key::inode(ino))?;
        op.adopt(ino)?;
        let counters = op.counters()?;
        counters.inodes = counters.inodes.saturating_sub(1);
        op.commit()?;
        self.dataset.inodes.forget(ino);
        Ok(Step::Freed)
    }

    /// Removes a symlink's target.
    pub(super) fn remove_target(&self, tx: &mut Tx<'_>, ino: Ino) -> Result<(), EngineError> {
        for key in self.keys(tx, ino, Kind::Symlink, usize::MAX)? {
            tx.remove(self.tree(), key)?;
        }
        Ok(())
    }

    /// Removes up to [`STEP_XATTRS`] attributes, each of them whole; whether none are left.
    fn remove_xattrs(
        &self,
        tx: &mut Tx<'_>,
        ino: Ino,
        record: &mut InodeRecord,
    ) -> Result<bool, EngineError> {
        if record.xattrs == 0 {
            return Ok(true);
        }
        let prefix = key::kind_range(ino, Kind::Xattr).0.len();
        let keys = self.keys(tx, ino, Kind::Xattr, STEP_XATTRS)?;
        for key in &keys {
            self.delete_xattr(tx, ino, record, key.get(prefix..).unwrap_or_default())?;
        }
        Ok(keys.len() < STEP_XATTRS)
    }

    /// The first keys of one kind of an inode.
    fn keys(
        &self,
        read: &impl Read,
        ino: Ino,
        kind: Kind,
        most: usize,
    ) -> Result<Vec<Key>, EngineError> {
        let (start, end) = key::kind_range(ino, kind);
        let mut keys = Vec::new();
        read.scan(self.tree(), &start, &end, &mut |key, _| {
            keys.push(Key::from_slice(key));
            if keys.len() < most {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        Ok(keys)
    }

    /// All orphans. While nobody uses the dataset nobody has them open.
    pub(super) fn orphans(&self) -> Vec<Ino> {
        self.dataset.orphans.read().iter().copied().collect()
    }

    /// Frees orphans that nobody has open.
    ///
    /// # Errors
    /// As [`Volume::reclaim`].
    pub(super) fn reclaim_orphans(&self, orphans: &[Ino]) -> Result<(), EngineError> {
        for ino in orphans {
            self.reclaim(*ino)?;
        }
        Ok(())
    }
}
