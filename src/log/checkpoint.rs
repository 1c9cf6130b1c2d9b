//! Checkpoints: what the log holds goes into the trees on disk, and the log's space is free again.
//!
//! The writer stops only while places are given to changed nodes, in memory, and while those that are on
//! disk are let go of. Pages, names and file
//! content are then written and flushed while transactions go on; the superblock follows, and makes
//! the checkpoint count. Everything the previous checkpoint needs stays untouched until both
//! copies of the superblock are durable.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::journal::{Journal, Retired};
use crate::format::id::{Generation, Lsn};
use crate::format::record::PagePtr;
use crate::format::superblock::{INCOMPAT_SNAPSHOTS, INCOMPAT_TAGS, Superblock};
use crate::store::roots::Roots;
use crate::store::tree::{Effects, Node};
use crate::store::{StoreError, superblock};

/// Puts file bytes that only the log before a place holds into the log again.
pub type CarryOver<'a> = &'a dyn Fn(Lsn) -> Result<(), StoreError>;

/// The trees at the moment of the checkpoint.
struct Frozen {
    superblock: Superblock,
    nodes: Vec<Arc<Node>>,
    freed: Vec<PagePtr>,
    gaps: Vec<Range<u64>>,
    /// The epoch that ends with the checkpoint.
    epoch: Arc<()>,
}

impl Journal {
    /// Makes a checkpoint: durable on return is everything committed before. `clean` says that
    /// nothing follows, and sees to it: transactions are refused from then on. `carry_over` puts the
    /// file bytes that only the log before the given place holds into the log again, with
    /// [`Journal::begin_carry`]: what lies before goes.
    ///
    /// # Errors
    /// When the disk refuses; the volume is read-only from then on.
    pub fn checkpoint(&self, clean: bool, carry_over: CarryOver<'_>) -> Result<(), StoreError> {
        self.writable()?;
        let mut newest = self.checkpoint.lock();
        // One that failed while this waited: pages that it gave places to may not be on disk.
        self.writable()?;
        let Some(mut frozen) = self.latching(self.freeze(&newest, clean))? else {
            return Ok(());
        };
        let since = Instant::now();
        let lsn = frozen.superblock.checkpoint_lsn;
        self.latching(self.carry(lsn, carry_over))?;
        // What was carried over must be found by the next opening, which does not look for it in a
        // store that says it was closed.
        frozen.superblock.clean &= self.wal()?.next_lsn() == lsn;
        self.latching(self.write(&newest, &frozen))?;
        self.durable_generation
            .store(frozen.superblock.generation.0, Ordering::Release);
        self.latching(self.wal()?.release(lsn).map_err(StoreError::from))?;
        self.storage.pages.retire(&frozen.freed);
        self.retired.lock().push_back(Retired {
            epoch: frozen.epoch,
            pages: frozen.freed,
            gaps: frozen.gaps,
        });
        self.storage.strings.settle(frozen.superblock.strings_end);
        self.settle();
        *newest = frozen.superblock;
        self.checkpoints.took(since.elapsed());
        self.latching(self.release_retired())
    }

    /// Lets go of nodes that are on disk now.
    fn settle(&self) {
        // No transaction commits meanwhile.
        let mut writer = self.writer.lock();
        // Bit by bit, since who wants a view waits. Little is freed here: the checkpoint itself holds
        // the nodes that it has written.
        let mut child = 0;
        loop {
            let effects = &mut writer.effects;
            if !Arc::make_mut(&mut self.published.write()).settle_below(child, effects) {
                return;
            }
            child += 1;
        }
    }

    /// Gives pages to be written again that no view can read any more, and gaps between names to be
    /// punched. A view may read pages freed
    /// in its own epoch and in all later ones: the oldest that is held keeps what is behind it too.
    pub(super) fn release_retired(&self) -> Result<(), StoreError> {
        let mut retired = self.retired.lock();
        let is_read_no_more = |oldest: &Retired| Arc::strong_count(&oldest.epoch) == 1;
        while retired.front().is_some_and(is_read_no_more)
            && let Some(oldest) = retired.pop_front()
        {
            self.storage.pages.release(&oldest.pages)?;
            self.storage.strings.release(&oldest.gaps);
        }
        Ok(())
    }

    /// Fixes what the checkpoint holds; `None` when there is nothing new.
    fn freeze(&self, newest: &Superblock, clean: bool) -> Result<Option<Frozen>, StoreError> {
        let wal = self.wal()?;
        let mut writer = self.writer.lock();
        // No transaction that the superblock denies gets as far as the log.
        self.closed.fetch_or(clean, Ordering::Release);
        let (checkpoint_lsn, next_tx) = wal.seal();
        let added = self.added_ro_compat.load(Ordering::Acquire);
        let capacity_bytes = self.capacity_bytes();
        if checkpoint_lsn == newest.checkpoint_lsn
            && newest.clean == clean
            && added & !newest.ro_compat == 0
            && newest.capacity_bytes == capacity_bytes
            // Else a later opening could begin with a smaller number, though what came before it in
            // the log was born in this one.
            && writer.generation.0 == newest.generation.0.saturating_add(1)
            && newest.generation != Generation(0)
            // Else the end of nodes.dat could not be cut off.
            && self.storage.pages.extent().0 >= newest.nodes_end
            && writer.effects.dirtied == 0
            && writer.effects.freed.is_empty()
            && writer.gaps.is_empty()
        {
            return Ok(None);
        }
        let generation = writer.generation;
        let mut nodes = Vec::new();
        let mut place = || Ok(self.storage.pages.allocate(generation));
        let Effects { mut freed, .. } = std::mem::take(&mut writer.effects);
        let gaps = std::mem::take(&mut writer.gaps);
        let mut effects = Effects::default();
        // Readers go on with the trees as they are.
        let mut changed = Roots::clone(&self.published());
        let mut features = newest.incompat | INCOMPAT_TAGS;
        if changed.has_copies() {
            features |= INCOMPAT_SNAPSHOTS;
        }
        let roots = changed.freeze(
            &self.storage,
            generation,
            &mut place,
            &mut nodes,
            &mut effects,
        )?;
        let epoch = std::mem::take(&mut changed.epoch);
        // The dataset tree changed while it was frozen: what came off it goes with this checkpoint.
        freed.append(&mut effects.freed);
        writer.generation = Generation(generation.0.saturating_add(1));
        self.dirty_pages.store(0, Ordering::Relaxed);
        let strings_end = changed.strings_end;
        self.publish(changed);
        let (nodes_end, in_use) = self.storage.pages.extent();
        let superblock = Superblock {
            generation,
            checkpoint_lsn,
            next_tx,
            nodes_end,
            strings_end,
            nodes_used: in_use.saturating_sub(freed.len() as u64),
            capacity_bytes,
            clean,
            roots,
            incompat: features,
            ro_compat: newest.ro_compat | added,
            ..newest.clone()
        };
        Ok(Some(Frozen {
            superblock,
            nodes,
            freed,
            gaps,
            epoch,
        }))
    }

    fn carry(&self, lsn: Lsn, carry_over: CarryOver<'_>) -> Result<(), StoreError> {
        carry_over(lsn)?;
        // Without it the new superblock could start recovery behind the only bytes a power cut
        // left.
        self.wal()?.flush().map_err(StoreError::from)
    }

    fn write(&self, newest: &Superblock, frozen: &Frozen) -> Result<(), StoreError> {
        self.storage
            .strings
            .write(newest.strings_end, frozen.superblock.strings_end)?;
        self.storage.pages.write(&frozen.nodes)?;
        // Without it the new superblock could name pages that a power cut took.
        self.storage.pages.flush()?;
        // Without it extents whose log entries are not flushed could name chunks that are not
        // there.
        self.chunks()
            .flush()
            .map_err(|source| StoreError::io("chunks.dat, flushing", source))?;
        superblock::write(&*self.media.superblock, &frozen.superblock)
    }
}
