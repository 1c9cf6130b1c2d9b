//! Reading, and finding data and holes.

use std::iter::Peekable;
use std::ops::Range;
use std::sync::Arc;

use super::dirty::DirtyMap;
use super::extents::{self, Extent, Extents};
use super::table::InodeState;
use super::{check_file, chunks};
use crate::engine::{EngineError, Seek, Sink, Volume};
use crate::format::id::Ino;
use crate::format::key::TreeId;
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

    /// The next data or hole at or behind `offset`. Data begins and ends with blocks of 4 KiB, or with
    /// the file, as it does on all file systems of disks: GNU tar, for one, writes ranges that end
    /// elsewhere in a way that nobody reads.
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
        let mut pieces = Pieces {
            view: &view,
            tree: self.tree(),
            ino,
            dirty: guard.as_deref().unwrap_or(&nothing),
            stored: Extents::new().into_iter().peekable(),
            more_from: Some(offset - offset % SEEK_BLOCK),
            at: offset - offset % SEEK_BLOCK,
            size: record.size,
        };
        let start = |piece: &Range<u64>| piece.start - piece.start % SEEK_BLOCK;
        let first = pieces.next()?;
        let first = match (seek, first) {
            (Seek::Data, Some(first)) => return Ok(start(&first).max(offset)),
            (Seek::Data, None) => return Err(EngineError::NoSuchOffset),
            (Seek::Hole, Some(first)) if start(&first) <= offset => first,
            (Seek::Hole, _) => return Ok(offset),
        };
        let mut end = first.end.next_multiple_of(SEEK_BLOCK);
        while end < record.size
            && let Some(piece) = pieces.next()?.filter(|piece| start(piece) <= end)
        {
            end = end.max(piece.end.next_multiple_of(SEEK_BLOCK));
        }
        Ok(end.min(record.size))
    }
}

/// Where a file has data, in order: bytes that are not written yet, and extents with content.
struct Pieces<'a> {
    view: &'a View,
    tree: TreeId,
    ino: Ino,
    dirty: &'a DirtyMap,
    /// Extents that were read.
    stored: Peekable<smallvec::IntoIter<[Extent; 2]>>,
    /// Where those behind them are to be read from.
    more_from: Option<u64>,
    /// The end of the piece before.
    at: u64,
    size: u64,
}

impl Pieces<'_> {
    /// The next one, behind the end of the one before.
    fn next(&mut self) -> Result<Option<Range<u64>>, EngineError> {
        let at = self.at;
        let unwritten = match self.dirty.at(at) {
            Some((start, run)) => Some(at..start + run.data.len() as u64),
            None => self.dirty.next_start(at).and_then(|start| {
                let (_, run) = self.dirty.at(start)?;
                Some(start..start + run.data.len() as u64)
            }),
        };
        let stored = match &unwritten {
            Some(piece) if piece.start == at => None,
            _ => self.next_stored()?,
        };
        let piece = match (unwritten, stored) {
            (Some(one), Some(other)) => Some(if one.start <= other.start { one } else { other }),
            (one, other) => one.or(other),
        };
        let piece = piece.filter(|piece| piece.start < self.size);
        if let Some(piece) = &piece {
            self.at = piece.end;
        }
        Ok(piece)
    }

    /// What is stored of the file next, behind `at`.
    fn next_stored(&mut self) -> Result<Option<Range<u64>>, EngineError> {
        loop {
            while let Some(extent) = self.stored.peek() {
                if extent.end() > self.at && !extent.record.is_reserved() {
                    return Ok(Some(extent.start.max(self.at)..extent.end()));
                }
                self.stored.next();
            }
            let Some(from) = self.more_from.take() else {
                return Ok(None);
            };
            let found =
                extents::overlapping(self.view, self.tree, self.ino, from, self.size, STEP)?;
            self.more_from = found
                .last()
                .filter(|_| found.len() == STEP)
                .map(Extent::end);
            self.stored = found.into_iter().peekable();
        }
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
