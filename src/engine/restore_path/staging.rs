//! The directory in which what is restored is put together, and to which what it replaces goes.
//!
//! It is an entry of the root directory that lookups and listings pass over. What tells it from a
//! directory of the guest's, also after a crash, is an attribute that only this store can make.
//!
//! Invariant: while nothing is being restored to a dataset that is in use, it has none, unless
//! clearing it has failed. When somebody begins to use a dataset, what a crash left is cleared: in
//! the background, since a guest may wait for the dataset.

use crate::engine::dir::{Slot, is_dots};
use crate::engine::error::check_goes_on;
use crate::engine::inode::{InodeExt, S_IFDIR};
use crate::engine::namespace::{blank, one_more};
use crate::engine::{Cred, DirEntry, EngineError, Volume};
use crate::format::id::Ino;
use crate::store::StoreError;
use crate::sync::atomic::Ordering;

/// Its name in the root directory.
pub(super) const STAGING: &[u8] = b".razorfs-staging";
/// The attribute that marks it.
const MARK: &[u8] = b"trusted.razorfs.staging";
/// Entries looked at together.
const BATCH: usize = if cfg!(test) { 3 } else { 64 };
/// Entries removed at most, above twice the inodes that there are.
const BUDGET: u64 = 1024;

/// An entry of a directory that is emptied.
struct Entry {
    ino: Ino,
    name: Vec<u8>,
}

impl Volume {
    /// Whether an inode is the directory that nobody is to see.
    pub(in crate::engine) fn is_hidden(&self, dir: Ino, ino: Ino) -> bool {
        dir == Ino::ROOT && self.dataset.staging.load(Ordering::Acquire) == ino.0
    }

    /// Whether there is such a directory, as far as is known.
    pub(in crate::engine) fn has_staging(&self) -> bool {
        self.dataset.staging.load(Ordering::Acquire) != 0
    }

    /// The value of [`MARK`]: no guest can know it before there is such a directory.
    fn mark(&self, ino: Ino) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("razorfs staging directory");
        hasher.update(&self.store.journal.hash_seed());
        hasher.update(&ino.0.to_le_bytes());
        *hasher.finalize().as_bytes()
    }

    /// Finds what a crash left, and hides it.
    ///
    /// # Errors
    /// When the root directory cannot be read.
    pub(in crate::engine) fn find_staging(&self) -> Result<Option<Ino>, EngineError> {
        let view = self.store.journal.view();
        let Slot::Taken { dentry, .. } = self.find(&view, Ino::ROOT, STAGING)? else {
            return Ok(None);
        };
        let record = self.load_named(&view, Ino::ROOT, dentry.ino)?;
        let found = self.read_xattr(&view, dentry.ino, &record, MARK)?;
        if !record.is_dir() || found.as_deref() != Some(&self.mark(dentry.ino)) {
            return Ok(None);
        }
        self.dataset.staging.store(dentry.ino.0, Ordering::Release);
        Ok(Some(dentry.ino))
    }

    /// Removes what a crash left. To be called with the dataset's `restoring` held, or before
    /// anybody uses the dataset.
    ///
    /// # Errors
    /// As [`Volume::remove_staging`]: what is left stays hidden.
    pub(in crate::engine) fn clear_staging(
        &self,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), EngineError> {
        match self.find_staging()? {
            Some(staging) => self.remove_staging(staging, go_on),
            None => Ok(()),
        }
    }

    /// The same for a dataset that somebody has just begun to use.
    pub(in crate::engine) fn clear_leftovers(&self, go_on: &mut dyn FnMut() -> bool) {
        if !self.has_staging() {
            return;
        }
        // Whoever is faster does it.
        let Some(_one) = self.dataset.restoring.try_write() else {
            return;
        };
        match self.clear_staging(go_on) {
            Ok(()) | Err(EngineError::Interrupted) => {}
            Err(error) => log::warn!("what is left of restoring a path stays hidden: {error}"),
        }
    }

    /// Makes the directory, hidden from the beginning.
    ///
    /// # Errors
    /// [`EngineError::Exists`] when a guest has given its name to something; when the store refuses.
    pub(in crate::engine) fn make_staging(&self) -> Result<Ino, EngineError> {
        let mut op = self.begin()?;
        let mut root = op.dir(Ino::ROOT)?;
        let cookie = self.find(&op.tx, Ino::ROOT, STAGING)?.free()?;
        let ino = op.new_ino()?;
        let mut record = blank(S_IFDIR | 0o700, Cred::default(), op.now);
        record.parent = Ino::ROOT;
        let mark = self.mark(ino);
        self.write_xattr(&mut op.tx, ino, &mut record, MARK, &mark)?;
        op.put(ino, &record)?;
        self.insert_dentry(&mut op.tx, (Ino::ROOT, cookie, STAGING), ino, &record)?;
        root.entries = root.entries.saturating_add(1);
        root.nlink = one_more(root.nlink)?;
        // Its times stay: nobody sees a change.
        op.put(Ino::ROOT, &root)?;
        // Before anyone can find it.
        self.dataset.staging.store(ino.0, Ordering::Release);
        if let Err(error) = op.commit() {
            self.dataset.staging.store(0, Ordering::Release);
            return Err(error);
        }
        Ok(ino)
    }

    /// Removes the directory with all that is in it, in transactions of bounded size. `go_on` is asked
    /// for each.
    ///
    /// # Errors
    /// When the store refuses; when a guest puts things there faster than they are removed;
    /// [`EngineError::Interrupted`].
    pub(in crate::engine) fn remove_staging(
        &self,
        staging: Ino,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), EngineError> {
        // A guest that has what was replaced open can make more in it, but not for ever.
        let inodes = self.load_counters(&self.store.journal.view())?.inodes;
        let mut left = inodes.saturating_mul(2).saturating_add(BUDGET);
        let mut path = vec![staging];
        while let Some(dir) = path.last().copied() {
            let entries = self.first_entries(dir)?;
            let cost = (entries.len() as u64).max(1);
            left = left.checked_sub(cost).ok_or_else(|| {
                StoreError::Corrupt("a directory that was replaced does not become empty".into())
            })?;
            if entries.is_empty() {
                path.pop();
            }
            for entry in entries {
                check_goes_on(go_on)?;
                if !self.remove_entry(dir, &entry)? {
                    path.push(entry.ino);
                    break;
                }
            }
        }
        let name = STAGING.to_vec();
        self.remove_entry(Ino::ROOT, &Entry { ino: staging, name })?;
        self.dataset.staging.store(0, Ordering::Release);
        Ok(())
    }

    fn first_entries(&self, dir: Ino) -> Result<Vec<Entry>, EngineError> {
        let mut entries = Vec::new();
        self.readdir(dir, 0, &mut |entry| {
            if !is_dots(&entry.name) {
                let DirEntry { ino, name, .. } = entry;
                entries.push(Entry { ino, name });
            }
            entries.len() < BATCH
        })?;
        Ok(entries)
    }

    /// Removes an entry, whatever its inode's flags say; the times of the directory stay. False for a
    /// directory that has entries.
    fn remove_entry(&self, dir: Ino, entry: &Entry) -> Result<bool, EngineError> {
        let mut op = self.begin_removal()?;
        let mut parent = op.dir(dir)?;
        let found = self.find(&op.tx, dir, &entry.name)?;
        let Slot::Taken { cookie, dentry } = found else {
            return Ok(true);
        };
        if dentry.ino != entry.ino {
            return Ok(true);
        }
        let record = self.load_named(&op.tx, dir, entry.ino)?;
        if record.is_dir() {
            if record.entries > 0 {
                return Ok(false);
            }
            parent.nlink = parent.nlink.saturating_sub(1);
        }
        parent.entries = parent.entries.saturating_sub(1);
        self.remove_dentry(&mut op.tx, dir, (cookie, &dentry))?;
        let removed = self.drop_link(&mut op, entry.ino, record)?;
        self.store_inode(&mut op.tx, dir, &parent)?;
        op.commit()?;
        if removed.orphan {
            self.release(removed.ino);
        }
        Ok(true)
    }
}
