//! Whether a record from an old page is missed, by what the records that are there count.

use std::collections::HashMap;

use super::build::Builder;
use super::content;
use crate::format::id::{ChunkId, Ino};
use crate::format::key::{self, Kind, TreeId};
use crate::format::record::{ChunkRecord, DentryRecord, ExtentRecord, InodeRecord};
use crate::format::xattr::{decode_head, more_count};
use crate::fsck::inode::{DIRECTORY, file_type};
use crate::fsck::split_u64;
use crate::store::StoreError;

/// What refers to inodes and chunks in the trees as they are.
#[derive(Default)]
pub(super) struct Missed {
    names: HashMap<Ino, u64>,
    xattrs: HashMap<Ino, u32>,
    extents: HashMap<ChunkId, u64>,
}

impl Missed {
    /// Counts the names and extents of a dataset's tree.
    pub(super) fn count(builder: &Builder, tree: TreeId) -> Result<Self, StoreError> {
        let mut missed = Missed::default();
        if !matches!(tree, TreeId::Fs(_)) {
            return Ok(missed);
        }
        builder.view().scan_all(tree, &mut |key, value| {
            let of = split_u64(key);
            let kind = of.and_then(|(_, rest)| Kind::of_byte(*rest.first()?));
            match kind {
                Some(Kind::Xattr) => {
                    let ino = Ino(of.map_or(0, |(ino, _)| ino));
                    *missed.xattrs.entry(ino).or_default() += 1;
                }
                Some(Kind::Dentry) => {
                    if let Ok(entry) = DentryRecord::decode(value) {
                        *missed.names.entry(entry.ino).or_default() += 1;
                    }
                }
                Some(Kind::Extent) => {
                    if let Ok(extent) = ExtentRecord::decode(value) {
                        *missed.extents.entry(extent.chunk).or_default() += 1;
                    }
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(missed)
    }

    /// A name of an inode is no more.
    pub(super) fn forget_name(&mut self, ino: Ino) {
        if let Some(names) = self.names.get_mut(&ino) {
            *names = names.saturating_sub(1);
        }
    }

    /// How many names an inode has.
    pub(super) fn names(&self, ino: Ino) -> u64 {
        self.names.get(&ino).copied().unwrap_or(0)
    }

    /// Whether a record that is not there should be; counts it then.
    pub(super) fn misses(
        &mut self,
        builder: &Builder,
        tree: TreeId,
        key: &[u8],
        value: &[u8],
    ) -> Result<bool, StoreError> {
        if tree == TreeId::Chunks {
            let record = ChunkRecord::decode(value);
            return Ok(record.is_ok_and(|record| content::is_whole(builder.media(), &record)));
        }
        let Some((ino, [kind, rest @ ..])) = split_u64(key) else {
            return Ok(false);
        };
        // Of the dataset tree all but roots, which lead to old pages.
        let TreeId::Fs(_) = tree else {
            return Ok(key.first() != Some(&1));
        };
        match Kind::of_byte(*kind) {
            Some(Kind::Dentry) => self.misses_name(builder, tree, Ino(ino), value),
            Some(Kind::Extent) => self.misses_extent(builder, value),
            Some(Kind::Orphan) => {
                let ino = split_u64(rest).map_or(Ino(0), |(ino, _)| Ino(ino));
                Ok(inode(builder, tree, ino)?.is_some_and(|record| record.nlink == 0))
            }
            Some(Kind::Xattr) => {
                *self.xattrs.entry(Ino(ino)).or_default() += 1;
                Ok(true)
            }
            Some(_) => Ok(true),
            None => Ok(false),
        }
    }

    fn misses_name(
        &mut self,
        builder: &Builder,
        tree: TreeId,
        dir: Ino,
        value: &[u8],
    ) -> Result<bool, StoreError> {
        let Ok(entry) = DentryRecord::decode(value) else {
            return Ok(false);
        };
        let Some(record) = inode(builder, tree, entry.ino)? else {
            return Ok(false);
        };
        let names = self.names.entry(entry.ino).or_default();
        let missed = if file_type(&record) == Some(DIRECTORY) {
            *names == 0 && record.parent == dir
        } else {
            *names < u64::from(record.nlink)
        };
        *names += u64::from(missed);
        Ok(missed)
    }

    /// An extent that [`Missed::misses`] has counted is not taken.
    pub(super) fn forget_extent(&mut self, value: &[u8]) {
        let counted = chunk_of(value).and_then(|chunk| self.extents.get_mut(&chunk));
        if let Some(extents) = counted {
            *extents = extents.saturating_sub(1);
        }
    }

    /// Whether a record that [`Missed::misses`] has counted, and that another tree has, is one that
    /// this tree has removed, or may be if it `is_doubtful`: what it belongs to is not here, nothing
    /// counts it, or more are here than are counted. It is not taken then.
    pub(super) fn may_be_removed(
        &mut self,
        builder: &Builder,
        tree: TreeId,
        key: &[u8],
        is_doubtful: bool,
    ) -> Result<bool, StoreError> {
        let Some((ino, [kind, rest @ ..])) = split_u64(key) else {
            return Ok(false);
        };
        match Kind::of_byte(*kind) {
            Some(Kind::Symlink) => Ok(inode(builder, tree, Ino(ino))?.is_none()),
            Some(Kind::XattrMore) => Ok(!has_fragment(builder, tree, Ino(ino), rest)?),
            Some(Kind::Xattr) if is_doubtful => {
                let counted = inode(builder, tree, Ino(ino))?.map_or(0, |record| record.xattrs);
                let here = self.xattrs.entry(Ino(ino)).or_default();
                let may_be_removed = *here > counted;
                *here -= u32::from(may_be_removed);
                Ok(may_be_removed)
            }
            Some(Kind::ProjectLimit) => Ok(is_doubtful),
            _ => Ok(false),
        }
    }

    fn misses_extent(&mut self, builder: &Builder, value: &[u8]) -> Result<bool, StoreError> {
        let Ok(extent) = ExtentRecord::decode(value) else {
            return Ok(false);
        };
        if !extent.has_chunk() {
            return Ok(true);
        }
        let record = builder
            .view()
            .get(TreeId::Chunks, &key::chunk(extent.chunk))?;
        let Some(Ok(record)) = record.map(|bytes| ChunkRecord::decode(&bytes)) else {
            return Ok(false);
        };
        let extents = self.extents.entry(extent.chunk).or_default();
        let missed = *extents < record.refcount;
        *extents += u64::from(missed);
        Ok(missed)
    }
}

/// Whether an attribute that is here has such a further fragment: by what its key says behind its
/// kind.
fn has_fragment(
    builder: &Builder,
    tree: TreeId,
    ino: Ino,
    rest: &[u8],
) -> Result<bool, StoreError> {
    let Some((name, index)) = rest.get(1..).and_then(|rest| rest.split_last_chunk()) else {
        return Ok(false);
    };
    let head = builder.view().get(tree, &key::xattr(ino, name))?;
    let len = head.and_then(|head| decode_head(&head).ok().map(|(len, _)| len));
    Ok(len.is_some_and(|len| more_count(len) >= u16::from_be_bytes(*index)))
}

/// The chunk that an extent refers to.
fn chunk_of(value: &[u8]) -> Option<ChunkId> {
    let extent = ExtentRecord::decode(value).ok()?;
    extent.has_chunk().then_some(extent.chunk)
}

fn inode(builder: &Builder, tree: TreeId, ino: Ino) -> Result<Option<InodeRecord>, StoreError> {
    let bytes = builder.view().get(tree, &key::inode(ino))?;
    Ok(bytes.and_then(|bytes| InodeRecord::decode(&bytes).ok()))
}
