//! What a related tree has of a lost part, and this one may have removed.
//!
//! The pages of another tree may be of before this one removed what they hold. Where a leaf was
//! lost, that cannot be told, nor what was changed since; where only what led to leaves was, those
//! of this tree are all there too. As many inodes as are counted say that none of it was removed.

use std::collections::{BTreeMap, BTreeSet};

use super::build::Builder;
use super::found::{OfKin, is_inode, named};
use super::missed::Missed;
use super::salvaged::Entered;
use crate::format::id::Ino;
use crate::format::key::{self, Key, TreeId};
use crate::format::record::{DatasetCounters, InodeRecord, counters_key};
use crate::fsck::split_u64;
use crate::store::StoreError;

/// Removes what the tree has removed, and notes what it may have, before the log is applied: the
/// counts are of then.
pub(super) fn judge(
    builder: &mut Builder,
    tree: TreeId,
    of_kin: &[OfKin],
    entered: &mut Entered,
) -> Result<(), StoreError> {
    if of_kin.is_empty() {
        return Ok(());
    }
    entered.unsure = !has_as_many(builder, tree, of_kin, entered)?;
    note_unsure(tree, of_kin, entered);
    Ok(())
}

/// Notes what the tree may have removed.
pub(super) fn note_unsure(tree: TreeId, of_kin: &[OfKin], entered: &mut Entered) {
    if entered.unsure {
        for of in of_kin {
            entered.note_old(tree, &of.key, of.named);
        }
    }
}

/// Makes a tree have as many inodes as are counted, by removing what it may have removed; whether
/// it has. First goes what stood beside newer pages; then what has no name, if that is all that is
/// left too many.
fn has_as_many(
    builder: &mut Builder,
    tree: TreeId,
    of_kin: &[OfKin],
    entered: &mut Entered,
) -> Result<bool, StoreError> {
    let Some(counted) = counters(builder, tree)?.map(|counters| counters.inodes) else {
        return Ok(false);
    };
    let mut left = Left::count(builder, tree, of_kin)?;
    if left.inodes > counted {
        for of in of_kin.iter().filter(|of| of.is_doubtful) {
            left.remove(builder, tree, &of.key, entered)?;
        }
        let gone: Vec<Ino> = left.of_inodes.keys().copied().collect();
        for ino in gone {
            if ino.0 > 0 && builder.view().get(tree, &key::inode(ino))?.is_none() {
                left.remove_all_of(builder, tree, ino, entered)?;
            }
        }
    }
    let mut nameless = left.nameless(builder, tree, left.of_inodes.keys().copied())?;
    while left.inodes > counted
        && !nameless.is_empty()
        && nameless.len() as u64 <= left.inodes - counted
    {
        // Of a directory goes what is in it too.
        let mut unnamed = BTreeSet::new();
        for ino in nameless {
            unnamed.extend(left.remove_all_of(builder, tree, ino, entered)?);
        }
        nameless = left.nameless(builder, tree, unnamed.into_iter())?;
    }
    Ok(left.inodes == counted)
}

/// What a tree has while something is removed.
struct Left<'a> {
    inodes: u64,
    names: Missed,
    /// What related trees have, by inode.
    of_inodes: BTreeMap<Ino, Vec<&'a Key>>,
}

impl<'a> Left<'a> {
    fn count(builder: &Builder, tree: TreeId, of_kin: &'a [OfKin]) -> Result<Self, StoreError> {
        let mut inodes = 0;
        builder.view().scan_all(tree, &mut |key, _| {
            inodes += u64::from(is_inode(key));
            Ok(())
        })?;
        let mut of_inodes: BTreeMap<Ino, Vec<&Key>> = BTreeMap::new();
        for of in of_kin {
            let ino = split_u64(&of.key).map_or(Ino(0), |(ino, _)| Ino(ino));
            of_inodes.entry(ino).or_default().push(&of.key);
        }
        Ok(Left {
            inodes,
            names: Missed::count(builder, tree)?,
            of_inodes,
        })
    }

    /// Removes a record; the inode that it named.
    fn remove(
        &mut self,
        builder: &mut Builder,
        tree: TreeId,
        key: &Key,
        entered: &mut Entered,
    ) -> Result<Option<Ino>, StoreError> {
        let value = builder.view().get(tree, key)?;
        entered.removed.insert(key.clone());
        let Some(value) = value else {
            return Ok(None);
        };
        builder.delete(tree, key)?;
        self.inodes -= u64::from(is_inode(key));
        let named = named(key, &value);
        if let Some(ino) = named {
            self.names.forget_name(ino);
        }
        Ok(named)
    }

    /// Removes all that related trees have of an inode; the inodes that it named.
    fn remove_all_of(
        &mut self,
        builder: &mut Builder,
        tree: TreeId,
        ino: Ino,
        entered: &mut Entered,
    ) -> Result<Vec<Ino>, StoreError> {
        let mut named = Vec::new();
        for key in self.of_inodes.remove(&ino).unwrap_or_default() {
            named.extend(self.remove(builder, tree, key, entered)?);
        }
        Ok(named)
    }

    /// Those of some inodes which a related tree has and no directory of this one names.
    fn nameless(
        &self,
        builder: &Builder,
        tree: TreeId,
        of: impl Iterator<Item = Ino>,
    ) -> Result<Vec<Ino>, StoreError> {
        let mut nameless = Vec::new();
        for ino in of.filter(|ino| *ino != Ino::ROOT && self.names.names(*ino) == 0) {
            let key = key::inode(ino);
            let is_of_kin = |keys: &Vec<&Key>| keys.iter().any(|of| **of == key);
            if !self.of_inodes.get(&ino).is_some_and(is_of_kin) {
                continue;
            }
            let value = builder.view().get(tree, &key)?;
            let record = value.and_then(|value| InodeRecord::decode(&value).ok());
            if record.is_some_and(|record| record.nlink > 0) {
                nameless.push(ino);
            }
        }
        Ok(nameless)
    }
}

/// What is counted of a dataset.
pub(super) fn counters(
    builder: &Builder,
    tree: TreeId,
) -> Result<Option<DatasetCounters>, StoreError> {
    let TreeId::Fs(id) = tree else {
        return Ok(None);
    };
    let found = builder.view().get(TreeId::Datasets, &counters_key(id))?;
    Ok(found.and_then(|value| DatasetCounters::decode(&value).ok()))
}
