//! copy_file_range: the target's extents refer to the source's chunks.

use std::collections::HashMap;
use std::sync::Arc;

use super::extents::{Editor, add_references, overlapping, reach};
use super::table::InodeState;
use super::write::SIZE_MAX;
use super::{EXTENTS_MAX, check_file};
use crate::engine::inode::InodeExt;
use crate::engine::store::Room;
use crate::engine::{Durability, EngineError, Volume};
use crate::format::id::Ino;
use crate::log::Tx;
use crate::store::pages::Need;

/// Where bytes are copied from and to.
#[derive(Clone, Copy)]
struct Range<'a> {
    /// The dataset of the source: the target's, or a snapshot.
    from: &'a Volume,
    source: Ino,
    source_offset: u64,
    target: Ino,
    target_offset: u64,
    len: u64,
}

impl Volume {
    /// Copies at most `len` bytes between files (or within one) by sharing chunks. Returns how
    /// many: fewer at the source's end, or when there are more extents in either than one
    /// transaction takes.
    ///
    /// # Errors
    /// `Invalid` when source and target overlap, `Quota`, `FileTooLarge`, `NotPermitted`.
    pub fn copy_range(
        &self,
        source: Ino,
        source_offset: u64,
        target: Ino,
        target_offset: u64,
        len: u64,
    ) -> Result<u64, EngineError> {
        let range = Range {
            from: self,
            source,
            source_offset,
            target,
            target_offset,
            len,
        };
        let (from, to) = (self.live_state(source)?, self.live_state(target)?);
        if source == target {
            let ends = (
                source_offset.saturating_add(len),
                target_offset.saturating_add(len),
            );
            if source_offset < ends.1 && target_offset < ends.0 {
                return Err(EngineError::Invalid("source and target overlap"));
            }
        }
        let (first, second) = if source < target {
            (&from, &to)
        } else {
            (&to, &from)
        };
        let io = (
            first.io.lock(),
            (source != target).then(|| second.io.lock()),
        );
        let copied = self.copy_locked(range, Some(&from), &to)?;
        drop(io);
        self.relieve_log(target)?;
        Ok(copied)
    }

    /// As [`Volume::copy_range`], from a file of a snapshot in the same store.
    ///
    /// # Errors
    /// As there.
    pub fn copy_range_of(
        &self,
        snapshot: &Volume,
        (source, source_offset): (Ino, u64),
        (target, target_offset): (Ino, u64),
        len: u64,
    ) -> Result<u64, EngineError> {
        if !snapshot.dataset.read_only || !Arc::ptr_eq(&self.store, &snapshot.store) {
            return Err(EngineError::Invalid("what is copied from is no snapshot"));
        }
        let range = Range {
            from: snapshot,
            source,
            source_offset,
            target,
            target_offset,
            len,
        };
        let to = self.live_state(target)?;
        let io = to.io.lock();
        let copied = self.copy_locked(range, None, &to)?;
        drop(io);
        self.relieve_log(target)?;
        Ok(copied)
    }

    /// `from`: what memory has of the source, of which a snapshot has nothing.
    fn copy_locked(
        &self,
        range: Range<'_>,
        from: Option<&InodeState>,
        to: &InodeState,
    ) -> Result<u64, EngineError> {
        let mut room = Room::default();
        loop {
            self.store.make_room(&mut room)?;
            if let Some(from) = from {
                self.write_out_locked(range.source, from)?;
            }
            // The range can make three units of one of the target's unwritten bytes.
            let promise = self.try_reserve(2, 0).ok();
            if promise.is_none() {
                // On a full disk they take the room that they were promised first.
                self.write_out_locked(range.target, to)?;
            }
            let another = from.filter(|_| range.source != range.target);
            let source_data = another.map(|from| from.data.read());
            let mut target_data = match &source_data {
                // Against the order of the numbers this may only be tried.
                Some(_) if range.target < range.source => match to.data.try_write() {
                    Some(data) => data,
                    None => continue,
                },
                _ => to.data.write(),
            };
            // Written again since: then once more.
            let unwritten = source_data.as_deref().unwrap_or(&target_data);
            let end = range.source_offset.saturating_add(range.len);
            if from.is_some() && unwritten.overlaps(range.source_offset, end) {
                continue;
            }
            let Some(tx) = self.try_begin(Need::Space, &mut room)? else {
                continue;
            };
            let (lsn, copied) = self.share(tx, range, &mut target_data)?;
            let Some(lsn) = lsn else { return Ok(0) };
            to.touch(lsn);
            if let Some(from) = from {
                from.touch(lsn);
            }
            drop(target_data);
            drop(source_data);
            if self.store.options.durability == Durability::Strict {
                self.store.journal.sync(lsn)?;
            }
            return Ok(copied);
        }
    }

    /// How much of `len` bytes can be replaced in the target by one transaction.
    fn as_far_as_cut(&self, tx: &Tx<'_>, range: Range<'_>, len: u64) -> Result<u64, EngineError> {
        let (start, end) = (range.target_offset, range.target_offset.saturating_add(len));
        let found = overlapping(tx, self.tree(), range.target, start, end, EXTENTS_MAX)?;
        Ok(reach(&found, end, EXTENTS_MAX) - start)
    }

    /// The transaction: the target's range gets the source's extents.
    fn share(
        &self,
        mut tx: Tx<'_>,
        range: Range<'_>,
        target_data: &mut super::dirty::DirtyMap,
    ) -> Result<(Option<crate::format::id::Lsn>, u64), EngineError> {
        let source = range.from.load_inode(&tx, range.source)?;
        let mut record = self.load_inode(&tx, range.target)?;
        check_file(&source)?;
        check_file(&record)?;
        record.check_changeable()?;
        let end = range
            .source_offset
            .saturating_add(range.len)
            .min(source.size);
        if end <= range.source_offset {
            return Ok((None, 0));
        }
        let tree = self.tree();
        let found = overlapping(
            &tx,
            range.from.tree(),
            range.source,
            range.source_offset,
            end,
            EXTENTS_MAX,
        )?;
        let len = reach(&found, end, EXTENTS_MAX) - range.source_offset;
        let len = self.as_far_as_cut(&tx, range, len)?;
        let end = range.source_offset + len;
        let target_end = range
            .target_offset
            .checked_add(len)
            .filter(|end| *end <= SIZE_MAX);
        let target_end = target_end.ok_or(EngineError::FileTooLarge)?;
        let mut counters = self.load_counters(&tx)?;
        let before = counters.allocated_bytes;
        let mut references: HashMap<_, u64> = HashMap::new();
        let parts: Vec<_> = found
            .iter()
            .filter(|extent| extent.start < end && !extent.record.is_reserved())
            .map(|extent| extent.clipped(range.source_offset, end))
            .collect();
        for part in &parts {
            *references.entry(part.record.chunk).or_default() += 1;
        }
        // Before the target's old extents go: they may be the chunks' last.
        for (chunk, count) in references {
            add_references(&mut tx, chunk, count)?;
        }
        let birth = tx.generation();
        let mut editor = Editor {
            tx: &mut tx,
            kept: &self.store.data.cache,
            tree,
            ino: range.target,
            record: &mut record,
            counters: &mut counters,
        };
        // Not more than one transaction takes: see `as_far_as_cut`.
        editor.punch_some(range.target_offset, target_end, usize::MAX)?;
        for part in parts {
            let at = range.target_offset + (part.start - range.source_offset);
            let mut extent = part.record;
            extent.birth = birth;
            editor.insert(at, extent)?;
        }
        let now = self.now();
        record.size = record.size.max(target_end);
        record.mtime = now;
        record.ctime = now;
        if target_data.is_logged(range.target_offset, target_end) {
            tx.data_clear(self.dataset.id, range.target, range.target_offset, len);
        }
        self.store_inode(&mut tx, range.target, &record)?;
        let released = target_data.unallocated_in(range.target_offset, target_end);
        let less = before.saturating_add(released);
        let (project, more) = (record.projid, counters.allocated_bytes.saturating_sub(less));
        let mut charge = self.charge(&tx, project, more)?;
        let lsn = self.commit_counted(tx, (&counters, project), released, Some(&mut charge))?;
        self.change_dirty(target_data, |map| {
            map.remove(range.target_offset, target_end)
        });
        Ok((Some(lsn), len))
    }
}
