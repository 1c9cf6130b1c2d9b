//! What was found of the lost parts of trees, as far as it is remembered until the trees are
//! mended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::fix::Fix;
use super::found::Candidates;
use crate::format::id::Ino;
use crate::format::key::{Key, Kind, TreeId};
use crate::fsck::split_u64;

/// Records that were found in one search.
#[derive(Debug, Default)]
pub(super) struct Entered {
    /// All that was found.
    pub(super) candidates: Vec<Arc<Candidates>>,
    /// The keys of what was entered.
    pub(super) keys: Vec<Key>,
    /// Inodes of which a record may be older than what was lost.
    old: BTreeSet<Ino>,
    /// Those whose own record may be.
    old_inodes: BTreeSet<Ino>,
    /// What related trees have and this one has removed.
    pub(super) removed: BTreeSet<Key>,
    /// This one may have removed more of it.
    pub(super) unsure: bool,
}

impl Entered {
    /// Notes that a record may be another tree's, which is only said: it is as whole as what was lost.
    pub(super) fn note_ambiguous(&mut self, tree: TreeId, key: &[u8], named: Option<Ino>) {
        if let (TreeId::Fs(_), Some((ino, _))) = (tree, split_u64(key)) {
            self.old.insert(Ino(ino));
            self.old.extend(named);
        }
    }

    /// Notes that a record may be older than what was lost, and with it the place of the inode that
    /// it names.
    pub(super) fn note_old(&mut self, tree: TreeId, key: &[u8], named: Option<Ino>) {
        if let (TreeId::Fs(_), Some((ino, rest))) = (tree, split_u64(key)) {
            self.old.insert(Ino(ino));
            self.old.extend(named);
            if rest == [Kind::Inode as u8] {
                self.old_inodes.insert(Ino(ino));
            }
        }
    }
}

/// Which of them may be older than what was lost.
#[derive(Debug, Clone, Default)]
pub(super) struct Old(Vec<Arc<Entered>>);

impl Old {
    /// Whether a record of an inode may be.
    pub(super) fn has(&self, ino: Ino) -> bool {
        self.0.iter().any(|entered| entered.old.contains(&ino))
    }

    /// Whether an inode's own record may be.
    pub(super) fn has_own(&self, ino: Ino) -> bool {
        let mut entered = self.0.iter();
        entered.any(|entered| entered.old_inodes.contains(&ino))
    }

    /// All inodes of which a record may be.
    pub(super) fn all(&self) -> BTreeSet<Ino> {
        self.0
            .iter()
            .flat_map(|entered| &entered.old)
            .copied()
            .collect()
    }
}

/// A tree that lost something.
#[derive(Debug, Clone, Default)]
pub(super) struct Salvaged {
    /// What was found. Several trees may have the same.
    pub(super) found: Vec<Arc<Entered>>,
    /// Keys that the log changed, and whether they are there now.
    pub(super) changed: Arc<BTreeMap<Key, bool>>,
    /// What is to be said of it.
    pub(super) fixes: Vec<Fix>,
}

impl Salvaged {
    /// Which records may be older than what was lost.
    pub(super) fn old(&self) -> Old {
        Old(self.found.clone())
    }

    /// Notes that the log changed a key.
    pub(super) fn note_changed(&mut self, key: Key, is_there: bool) {
        Arc::make_mut(&mut self.changed).insert(key, is_there);
    }

    /// What was found and stands as it was found.
    pub(super) fn untouched(&self) -> impl Iterator<Item = &Key> {
        let keys = self.found.iter().flat_map(|entered| &entered.keys);
        keys.filter(|key| !self.changed.contains_key(*key))
    }
}
