//! What who sends a snapshot reads of it: in what it differs from another, and what that is.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::data::chunk_record;
use super::datasets::{DatasetError, DatasetInfo, counters_of, found, record_of, split_name};
use super::projects::counted_below;
use super::{EngineError, Store, Volume};
use crate::format::id::{ChunkId, Ino, NameId};
use crate::format::key::{self, Key, Kind, TreeId, trailing_u64};
use crate::format::record::{
    ChunkRecord, Codec, DatasetRecord, ExtentRecord, InodeRecord, ReceiveRecord,
};
use crate::log::View;
use crate::store::{Read, StoreError};

/// A key of which the value is not the same in two trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeDifference {
    /// The key.
    pub key: Key,
    /// Its value in the tree that the stream is based on.
    pub old: Option<Vec<u8>>,
    /// Its value in the tree that is sent.
    pub new: Option<Vec<u8>>,
}

/// What a tree holds, without what has no name: equal trees have equal counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TreeCounts {
    /// Inodes.
    pub inodes: u64,
    /// Bytes in extents.
    pub allocated_bytes: u64,
    /// Of them, bytes in reserved extents.
    pub reserved_bytes: u64,
    /// The number of the next inode.
    pub next_ino: u64,
}

/// A snapshot that is sent, and perhaps one that the other side has. Neither is deleted meanwhile.
pub struct Sending {
    snapshot: Volume,
    base: Option<Volume>,
    record: DatasetRecord,
    base_uuid: [u8; 16],
}

impl Store {
    /// Begins to send a snapshot, or in what it differs from an earlier one of the same dataset.
    ///
    /// # Errors
    /// When there are no such snapshots.
    pub fn send(
        self: &Arc<Self>,
        snapshot: &str,
        base: Option<&str>,
    ) -> Result<Sending, DatasetError> {
        let refused = |name: &str, reason| {
            let name = name.to_owned();
            Err(DatasetError::Refused { name, reason })
        };
        for name in [Some(snapshot), base].into_iter().flatten() {
            if split_name(name)?.1.is_none() {
                return refused(name, "only a snapshot can be sent: DATASET@SNAPSHOT");
            }
        }
        let volume = self.volume(snapshot)?;
        let of_base = base.map(|base| self.volume(base)).transpose()?;
        let view = self.journal.view();
        let (id, mut record) = found(&view, snapshot)?;
        let mut base_uuid = [0; 16];
        if let Some(base) = base {
            let (base_id, base_record) = found(&view, base)?;
            if base_record.snapshot_of != record.snapshot_of {
                return refused(base, "it is a snapshot of another dataset");
            }
            if base_id >= id {
                return refused(base, "it is not older than what is to be sent");
            }
            base_uuid = base_record.uuid;
        }
        // A snapshot has no settings of its own.
        let settings = record_of(&view, record.snapshot_of)?;
        record.flags = settings.flags;
        (record.codec, record.codec_level) = (settings.codec, settings.codec_level);
        Ok(Sending {
            snapshot: volume,
            base: of_base,
            record,
            base_uuid,
        })
    }

    /// Goes on with a stream from which another store has got that far.
    ///
    /// # Errors
    /// As [`Store::send`].
    pub fn send_rest(self: &Arc<Self>, of: &ReceiveRecord) -> Result<Sending, DatasetError> {
        let refused = |reason| {
            let name = of.name.clone();
            Err(DatasetError::Refused { name, reason })
        };
        // Where a stream goes on is said by the order in which a store has names.
        if of.sender != self.journal.uuid() {
            return refused("it was sent by another store, which has to go on with it");
        }
        let all = self.list()?;
        let with = |uuid: [u8; 16]| {
            let is_it = move |info: &&DatasetInfo| info.uuid == uuid && info.snapshot_of.is_some();
            all.iter().filter(is_it)
        };
        let base_for = |info: &DatasetInfo| {
            let of_same = with(of.base).find(|base| base.snapshot_of == info.snapshot_of);
            of_same.map(|base| base.name.as_str())
        };
        let is_full = of.base == [0; 16];
        let found = with(of.snapshot).find_map(|info| match base_for(info) {
            None if !is_full => None,
            base => Some((info.name.as_str(), base)),
        });
        let Some((snapshot, base)) = found else {
            return refused("the snapshots of the token are not there any more");
        };
        self.send(snapshot, base)
    }
}

impl Sending {
    /// Whether what projects have is counted in it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn counts_projects(&self) -> Result<bool, EngineError> {
        let view = self.snapshot.store.journal.view();
        Ok(counted_below(&view, self.snapshot.tree())? != 0)
    }

    /// The snapshot's record, with the settings of its dataset.
    #[must_use]
    pub fn record(&self) -> &DatasetRecord {
        &self.record
    }

    /// UUID of the snapshot that the other side has; zeros for none.
    #[must_use]
    pub fn base_uuid(&self) -> [u8; 16] {
        self.base_uuid
    }

    /// UUID of this store.
    #[must_use]
    pub fn store_uuid(&self) -> [u8; 16] {
        self.store().journal.uuid()
    }

    /// Whether there is one that the other side has.
    #[must_use]
    pub fn has_base(&self) -> bool {
        self.base.is_some()
    }

    fn store(&self) -> &Store {
        &self.snapshot.store
    }

    /// The trees now. Not held for long: pages that others free meanwhile are not written again.
    fn view(&self) -> View {
        self.store().journal.view()
    }

    /// At most `max` keys from `from` on in which the snapshot differs from the base, or all its
    /// keys when there is none or it is to be sent `whole`.
    ///
    /// # Errors
    /// When a page cannot be read.
    pub fn differences(
        &self,
        from: &[u8],
        whole: bool,
        max: usize,
    ) -> Result<Vec<TreeDifference>, EngineError> {
        let base = self.base.as_ref().filter(|_| !whole);
        let new = self.snapshot.tree();
        let trees = match base {
            Some(base) => (base.tree(), Some(new)),
            None => (new, None),
        };
        let mut found = Vec::new();
        self.view().diff(trees, from, &mut |key, first, second| {
            let (old, new) = match base {
                Some(_) => (first, second),
                None => (None, first),
            };
            found.push(TreeDifference {
                key: Key::from_slice(key),
                old: old.map(<[u8]>::to_vec),
                new: new.map(<[u8]>::to_vec),
            });
            match found.len() < max {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        Ok(found)
    }

    /// An inode's record in the snapshot.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn inode(&self, ino: Ino) -> Result<Option<InodeRecord>, EngineError> {
        inode_in(&self.snapshot, &self.view(), ino)
    }

    /// An inode's record in the base.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn base_inode(&self, ino: Ino) -> Result<Option<InodeRecord>, EngineError> {
        match &self.base {
            Some(base) => inode_in(base, &self.view(), ino),
            None => Ok(None),
        }
    }

    /// A symlink's target.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn target(&self, ino: Ino) -> Result<Vec<u8>, EngineError> {
        let (start, end) = key::kind_range(ino, Kind::Symlink);
        let mut target = Vec::new();
        self.view()
            .scan(self.snapshot.tree(), &start, &end, &mut |_, part| {
                target.extend_from_slice(part);
                ControlFlow::Continue(())
            })?;
        Ok(target)
    }

    /// The value of an attribute.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let view = self.view();
        let record = self.snapshot.load_inode(&view, ino)?;
        self.snapshot.read_xattr(&view, ino, &record, name)
    }

    /// A name.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn name(&self, id: NameId) -> Result<Vec<u8>, EngineError> {
        Ok(self.view().name(id)?)
    }

    /// At most `max` extents of a file in the snapshot that overlap a range.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn extents(
        &self,
        ino: Ino,
        range: (u64, u64),
        max: usize,
    ) -> Result<Vec<(u64, ExtentRecord)>, EngineError> {
        Ok(self.snapshot.extents_in(&self.view(), ino, range, max)?)
    }

    /// The same in the base.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn base_extents(
        &self,
        ino: Ino,
        range: (u64, u64),
        max: usize,
    ) -> Result<Vec<(u64, ExtentRecord)>, EngineError> {
        match &self.base {
            Some(base) => Ok(base.extents_in(&self.view(), ino, range, max)?),
            None => Ok(Vec::new()),
        }
    }

    /// A chunk's record.
    ///
    /// # Errors
    /// When it cannot be read, or the content is lost.
    pub fn chunk(&self, id: ChunkId) -> Result<ChunkRecord, EngineError> {
        Ok(chunk_record(&self.view(), id)?)
    }

    /// What is stored of a chunk.
    ///
    /// # Errors
    /// When it cannot be read or does not match its checksums.
    pub fn stored(&self, id: ChunkId, record: &ChunkRecord) -> Result<Vec<u8>, EngineError> {
        Ok(self.store().stored_chunk(id, record)?)
    }

    /// A slice of a chunk's content.
    ///
    /// # Errors
    /// As [`Sending::stored`].
    pub fn slice(
        &self,
        id: ChunkId,
        record: &ChunkRecord,
        (start, len): (u32, u64),
    ) -> Result<Vec<u8>, EngineError> {
        let stored = self.store().stored_chunk(id, record)?;
        let mut content = vec![0; record.raw_len as usize];
        match record.codec {
            Codec::Raw => content = stored,
            codec => crate::format::codec::decompress(codec, &stored, &mut content)
                .map_err(|error| StoreError::Corrupt(format!("chunk {id}: {error}")))?,
        }
        let start = start as usize;
        let end = usize::try_from(len)
            .ok()
            .and_then(|len| start.checked_add(len));
        let part = end.and_then(|end| content.get(start..end));
        let beyond = || StoreError::Corrupt(format!("chunk {id}: an extent reaches beyond it"));
        Ok(part.map(<[u8]>::to_vec).ok_or_else(beyond)?)
    }

    /// What the snapshot holds.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn counts(&self) -> Result<TreeCounts, EngineError> {
        counts_of(&self.snapshot, &self.view())
    }
}

fn inode_in(
    volume: &Volume,
    read: &impl Read,
    ino: Ino,
) -> Result<Option<InodeRecord>, EngineError> {
    match volume.load_inode(read, ino) {
        Ok(record) => Ok(Some(record)),
        Err(EngineError::Stale) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a dataset holds, without its orphans.
pub(super) fn counts_of(volume: &Volume, read: &impl Read) -> Result<TreeCounts, EngineError> {
    let counters = counters_of(read, volume.dataset.id)?;
    let mut counts = TreeCounts {
        inodes: counters.inodes,
        allocated_bytes: counters.allocated_bytes,
        reserved_bytes: counters.reserved_bytes,
        next_ino: counters.next_ino,
    };
    for ino in orphans_in(read, volume.tree(), usize::MAX)? {
        let record = volume.load_inode(read, ino)?;
        counts.inodes = counts.inodes.saturating_sub(1);
        counts.allocated_bytes = counts.allocated_bytes.saturating_sub(record.allocated);
        let mut at = 0;
        loop {
            let some = volume.extents_in(read, ino, (at, u64::MAX), 256)?;
            let Some((last, extent)) = some.last() else {
                break;
            };
            at = last.saturating_add(extent.len);
            let reserved = some.iter().filter(|(_, extent)| extent.is_reserved());
            let bytes: u64 = reserved.map(|(_, extent)| extent.len).sum();
            counts.reserved_bytes = counts.reserved_bytes.saturating_sub(bytes);
        }
    }
    Ok(counts)
}

/// Inodes of a tree that have no name, at most `max`.
pub(super) fn orphans_in(
    read: &impl Read,
    tree: TreeId,
    max: usize,
) -> Result<Vec<Ino>, StoreError> {
    let (start, end) = key::kind_range(Ino(0), Kind::Orphan);
    let mut found = Vec::new();
    read.scan(tree, &start, &end, &mut |key, _| {
        found.push(trailing_u64(key));
        match found.len() < max {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    })?;
    let inos = found.into_iter().map(|ino| ino.map(Ino));
    inos.collect::<Result<_, _>>()
        .map_err(|source| StoreError::format("orphan list", source))
}
