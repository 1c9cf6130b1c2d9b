//! Reading, and finding data and holes.

use std::sync::Arc;

use super::table::InodeState;
use super::{check_file, chunks, dirty::DirtyMap, extents};
use crate::engine::{EngineError, Seek, Sink, Volume};
use crate::format::id::Ino;
use crate::format::record::InodeRecord;
use crate::log::View;

/// Extents looked at in one step.
const STEP: usize = 64;
/// Blocks in which holes are told, in bytes.
const SEEK_BLOCK: u64 = 4096;

impl Volume {
    /// The state whose data lock a reader holds. Without one, a writer could come between the look
    /// at unwritten bytes and the view, and chunks could be freed and reused under the reader.
    fn reading_state(&self, ino: Ino) -> Result<Option<Arc<InodeState>>, EngineError> {
        if self.is_writable() {
            return self.live_state(ino).map(Some);
        }
        // Nobody changes anything any more, and nobody would sweep the table.
        Ok(self.dataset.inodes.find(ino))
    }

    /// Reads at most `len` bytes at `offset` into `sink`; how many there were before the end of the
    /// file.
    ///
    /// # Errors
    /// `Stale`, `IsDirectory`, `Invalid` for what has no content; a store error when content cannot
    /// be read or does not match its checksum.
    pub fn read(
        &self,
        ino: Ino,
        offset: u64,
        len: usize,
        sink: &mut dyn Sink,
    ) -> Result<usize, EngineError> {
        Ok(self.read_with_record(ino, offset, len, sink)?.0)
    }

    /// As [`Volume::read`], and notes the access as [`Volume::note_access`] does.
    ///
    /// # Errors
    /// As [`Volume::read`].
    pub fn read_and_note(
        &self,
        ino: Ino,
        offset: u64,
        len: usize,
        sink: &mut dyn Sink,
    ) -> Result<usize, EngineError> {
        let (read, record) = self.read_with_record(ino, offset, len, sink)?;
        if self.is_access_due(&record, self.now()) {
            self.note_access(ino);
        }
        Ok(read)
    }

    fn read_with_record(
        &self,
        ino: Ino,
        offset: u64,
        len: usize,
        sink: &mut dyn Sink,
    ) -> Result<(usize, InodeRecord), EngineError> {
        let state = self.reading_state(ino)?;
        let guard = state.as_ref().map(|state| state.data.read());
        let view = self.store.journal.view();
        let record = self.load_inode(&view, ino)?;
        check_file(&record)?;
        let end = offset.saturating_add(len as u64).min(record.size);
        if offset >= end {
            return Ok((0, record));
        }
        let nothing = DirtyMap::default();
        let dirty = guard.as_deref().unwrap_or(&nothing);
        let mut at = offset;
        while at < end {
            if let Some((start, run)) = dirty.at(at) {
                let from = usize::try_from(at - start).unwrap_or(usize::MAX);
                let bytes = run.data.get(from..).unwrap_or_default();
                let wanted = usize::try_from(end - at)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                sink.put(bytes.get(..wanted).unwrap_or_default())?;
                at += wanted as u64;
            } else {
                let until = dirty.next_start(at).map_or(end, |next| next.min(end));
                self.read_stored(&view, ino, at, until, sink)?;
                at = until;
            }
        }
        let read = usize::try_from(end - offset).map_err(|_| EngineError::Invalid("length"))?;
        Ok((read, record))
    }

    /// Reads what is on disk: chunks, and zeros where there is none.
    pub(super) fn read_stored(
        &self,
        view: &View,
        ino: Ino,
        start: u64,
        end: u64,
        sink: &mut dyn Sink,
    ) -> Result<(), EngineError> {
        let mut at = start;
        while at < end {
            let found = extents::overlapping(view, self.tree(), ino, at, end, STEP)?;
            let more = found.len() == STEP;
            for extent in found {
                let part = extent.clipped(at, end);
                zeros(sink, part.start.saturating_sub(at))?;
                if part.record.is_reserved() {
                    zeros(sink, part.record.len)?;
                } else {
                    let len = usize::try_from(part.record.len)
                        .map_err(|_| EngineError::Invalid("length"))?;
                    let id = part.record.chunk;
                    let now = || extents::chunk(&self.store.journal.view(), id);
                    let chunk = chunks::Reader {
                        disk: self.store.journal.chunks(),
                        cache: &self.store.data.cache,
                        id,
                        now: &now,
                    };
                    let find = || extents::chunk(view, id);
                    chunk
                        .read(part.record.chunk_offset, len, find, sink)
                        .inspect_err(|error| {
                            if error.is_damage() {
                                self.store.data.damaged.note();
                            }
                            ::log::error!("inode {ino} at {}: {error}", part.start)
                        })?;
                }
                at = part.end();
            }
            if !more {
                zeros(sink, end - at)?;
                return Ok(());
            }
        }
        Ok(())
    }

    /// The next data or hole at or behind `offset`. Data begins and ends with blocks of
    /// [`SEEK_BLOCK`], or with the file, as it does on all file systems of disks: GNU tar, for one,
    /// writes ranges that end elsewhere in a way that nobody reads.
    ///
    /// # Errors
    /// `NoSuchOffset` at or behind the end of the file, or when there is no data behind `offset`.
    pub fn seek(&self, ino: Ino, offset: u64, seek: Seek) -> Result<u64, EngineError> {
        let state = self.reading_state(ino)?;
        let guard = state.as_ref().map(|state| state.data.read());
        let view = self.store.journal.view();
        let record = self.load_inode(&view, ino)?;
        check_file(&record)?;
        if offset >= record.size {
            return Err(EngineError::NoSuchOffset);
        }
        let nothing = DirtyMap::default();
        let dirty = guard.as_deref().unwrap_or(&nothing);
        let around = |at| self.data_around(&view, dirty, ino, at, record.size);
        let from = offset - offset % SEEK_BLOCK;
        let (end, next) = around(from)?;
        let begin = if end > from { from } else { next };
        let start = begin - begin % SEEK_BLOCK;
        match seek {
            Seek::Data if begin >= record.size => return Err(EngineError::NoSuchOffset),
            Seek::Data => return Ok(start.max(offset)),
            Seek::Hole if begin >= record.size || start > offset => return Ok(offset),
            Seek::Hole => {}
        }
        let mut end = begin;
        while end < record.size {
            let (more, next) = around(end)?;
            end = match more > end {
                true => more,
                // In the same block, or at the beginning of the next one.
                false if next <= end.next_multiple_of(SEEK_BLOCK) => next,
                false => break,
            };
        }
        Ok(end.next_multiple_of(SEEK_BLOCK).min(record.size))
    }

    /// If byte `at` is data, the end of a piece of that, behind which there may be more; else `at`,
    /// and where the next data begins.
    fn data_around(
        &self,
        view: &View,
        dirty: &DirtyMap,
        ino: Ino,
        at: u64,
        size: u64,
    ) -> Result<(u64, u64), EngineError> {
        let mut end = at;
        if let Some((start, run)) = dirty.at(at) {
            end = start + run.data.len() as u64;
        }
        let mut next = dirty.next_start(at).unwrap_or(size);
        let mut from = at;
        while from < size {
            let found = extents::overlapping(view, self.tree(), ino, from, size, STEP)?;
            let more = found.len() == STEP;
            for extent in &found {
                from = extent.end();
                if extent.record.is_reserved() {
                    continue;
                }
                if extent.start > end {
                    return Ok((end, next.min(extent.start)));
                }
                end = end.max(extent.end());
            }
            if !more || end > at {
                break;
            }
        }
        next = next.min(size);
        Ok((end, next))
    }
}

fn zeros(sink: &mut dyn Sink, mut len: u64) -> Result<(), EngineError> {
    const STEP: usize = 1 << 20;
    while len > 0 {
        let part = usize::try_from(len).unwrap_or(STEP).min(STEP);
        sink.zeros(part)?;
        len -= part as u64;
    }
    Ok(())
}
