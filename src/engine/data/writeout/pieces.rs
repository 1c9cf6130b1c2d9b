//! Runs on their way to the disk: the space that is claimed for them, and what they are as chunks.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use crate::disk::Disk;
use crate::disk::buffer::{BLOCK_BYTES, Buffer};
use crate::engine::data::chunks::{self, Packed};
use crate::engine::data::dirty::WINDOW;
use crate::engine::data::{DataState, space};
use crate::engine::{EngineError, Volume};
use crate::format::id::ChunkId;
use crate::format::record::{ChunkRecord, Dedup, Storing};
use crate::format::superblock::UNIT_BYTES;
use crate::log::Tx;
use crate::store::StoreError;
use crate::store::pages::Need;

/// A unit as a length in memory: the blocks of a [`Buffer`] are units.
const UNIT_SIZE: usize = UNIT_BYTES as usize;
const _: () = assert!(UNIT_SIZE == BLOCK_BYTES);

/// A piece of less than this share of a window leaves its file in small pieces.
const SMALL_SHARE: u64 = 4;
/// Ranges of chunks.dat claimed in one transaction.
const CLAIMS_MAX: usize = 64;

/// A run as it was when its write-out began.
#[derive(Clone)]
pub(super) struct Captured {
    pub(super) start: u64,
    pub(super) data: Arc<Buffer>,
    /// How it is to be stored.
    how: Storing,
    hash: Arc<OnceLock<[u8; 32]>>,
    /// What it is as one chunk, once somebody has found it.
    packed: Arc<OnceLock<Packed>>,
}

/// A run and where it goes: into one chunk, or into several where the free space is in pieces.
/// These are not compressed: it is found while a transaction waits, and all of them have been
/// promised room as they are.
pub(super) struct Piece {
    pub(super) run: Captured,
    pub(super) parts: Vec<Part>,
    /// The number of its chunk, when it becomes one.
    id: ChunkId,
}

/// A part of a run that is one chunk.
pub(super) struct Part {
    /// Where it begins in the file.
    pub(super) start: u64,
    pub(super) len: usize,
    pub(super) unit: u64,
    /// Units that were claimed for it: none where there is a chunk of the same content.
    units: u64,
    pub(super) chunk: Chunk,
    /// Where its extent ends that is in the tree; its start while there is none.
    pub(super) entered: u64,
}

/// What a part becomes.
#[allow(clippy::large_enum_variant)] // Most are new.
pub(super) enum Chunk {
    /// A chunk that is yet to be told.
    Unknown,
    /// A new chunk: what the claimed space holds, once it is written.
    New(ChunkId, ChunkRecord),
    /// A reference to this chunk, which has the same content.
    Equal(ChunkId),
    /// Nothing: that chunk was freed meanwhile.
    Gone,
}

impl Captured {
    pub(super) fn new(start: u64, data: &Arc<Buffer>, how: Storing) -> Self {
        Captured {
            start,
            data: Arc::clone(data),
            how,
            hash: Arc::default(),
            packed: Arc::default(),
        }
    }

    /// The same of content of which the hash is known, and perhaps what it is as one chunk.
    pub(super) fn known(
        start: u64,
        data: Buffer,
        how: Storing,
        hash: [u8; 32],
        packed: Option<Packed>,
    ) -> Self {
        let captured = Captured::new(start, &Arc::new(data), how);
        let _ = captured.hash.set(hash);
        if let Some(packed) = packed {
            let _ = captured.packed.set(packed);
        }
        captured
    }

    /// Whether other chunks of the same content will do, or are to find this one.
    pub(super) fn dedup(&self) -> Dedup {
        self.how.dedup
    }

    /// Has it written, whatever there is.
    pub(super) fn stop_dedup(&mut self) {
        self.how.dedup = Dedup::Off;
    }

    /// Finds out what will be needed in any case.
    pub(super) fn prepare(&self) {
        match self.dedup() {
            Dedup::Off => {
                self.pack();
            }
            Dedup::On | Dedup::Verify => {
                self.hash();
            }
        }
    }

    /// The hash of its content; found once.
    pub(super) fn hash(&self) -> &[u8; 32] {
        self.hash.get_or_init(|| chunks::hash(&self.data))
    }

    /// What it is as one chunk; found once.
    pub(super) fn pack(&self) -> &Packed {
        self.packed
            .get_or_init(|| chunks::pack(&self.data, *self.hash(), self.how.compression))
    }

    /// Units that it takes as one chunk.
    fn units(&self) -> u64 {
        chunks::units(self.pack().record.stored_len as usize)
    }
}

impl Piece {
    /// A run, and the number that its chunk is to have.
    pub(super) fn new(run: Captured, id: ChunkId) -> Self {
        Piece {
            run,
            parts: Vec::with_capacity(1),
            id,
        }
    }

    /// The number of its chunk, when it becomes one.
    pub(super) fn id(&self) -> ChunkId {
        self.id
    }

    /// Has it refer to a chunk of the same content.
    pub(super) fn refer(&mut self, id: ChunkId) {
        self.parts = vec![Part {
            start: self.run.start,
            len: self.run.data.len(),
            unit: 0,
            units: 0,
            chunk: Chunk::Equal(id),
            entered: self.run.start,
        }];
    }

    /// Whether all of it is in the trees.
    pub(super) fn is_entered(&self) -> bool {
        self.parts.iter().all(|part| part.entered == part.end())
    }

    /// Whether it becomes a chunk of its own, as far as is known.
    pub(super) fn is_new(&self) -> bool {
        match self.parts.as_slice() {
            [] => true,
            [one] => self.is_one(one) && one.units > 0,
            _ => false,
        }
    }

    /// The chunk that holds all of it and nothing else, when it became one.
    pub(super) fn new_chunk(&self) -> Option<ChunkId> {
        match self.parts.as_slice() {
            [one] => match one.chunk {
                Chunk::New(id, _) if self.is_one(one) => Some(id),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether the chunk that it was to refer to is gone.
    pub(super) fn is_gone(&self) -> bool {
        let gone = |part: &Part| matches!(part.chunk, Chunk::Gone);
        self.parts.iter().any(gone)
    }

    /// The chunk that a part of it is, its units yet to be told.
    fn describe(&self, part: &Part) -> ChunkRecord {
        if self.is_one(part) {
            return self.run.pack().record.clone();
        }
        let bytes = self.run.data.get(self.range(part));
        chunks::describe_raw(bytes.unwrap_or_default())
    }

    /// Whether a part is all of it.
    fn is_one(&self, part: &Part) -> bool {
        part.len == self.run.data.len()
    }

    /// The bytes of a part in the run's buffer.
    fn range(&self, part: &Part) -> Range<usize> {
        let at = usize::try_from(part.start - self.run.start).unwrap_or(usize::MAX);
        at..at.saturating_add(part.len)
    }

    /// What is stored of a part: bytes of a buffer, and the zeros that fill its last unit.
    fn stored(&self, part: &Part) -> (&Arc<Buffer>, Range<usize>) {
        let whole = self.run.pack().stored.as_ref();
        let (buffer, bytes) = match whole.filter(|_| self.is_one(part)) {
            Some(stored) => (stored, 0..stored.len()),
            None => (&self.run.data, self.range(part)),
        };
        let end = bytes
            .start
            .saturating_add(bytes.len().next_multiple_of(UNIT_SIZE));
        (buffer, bytes.start..end)
    }
}

impl Part {
    /// Where it ends in the file.
    pub(super) fn end(&self) -> u64 {
        self.start.saturating_add(self.len as u64)
    }

    /// Whether it is a small part of its window, in a file of several.
    pub(super) fn is_small_for(&self, file_size: u64) -> bool {
        file_size > WINDOW && (self.len as u64) < WINDOW / SMALL_SHARE
    }

    /// Counts what became of it, once, when the trees have some of it.
    pub(super) fn count(&self, data: &DataState) {
        match self.chunk {
            Chunk::Equal(_) => data.deduplicated_bytes.add(self.len as u64),
            _ => {
                data.stored_content_bytes.add(self.len as u64);
                let bytes = self.units.saturating_mul(u64::from(UNIT_BYTES));
                data.stored_bytes.add(bytes);
            }
        }
    }
}

/// Units that lie side by side in chunks.dat, and what they get.
pub(super) struct Write {
    first: u64,
    slices: Vec<(Arc<Buffer>, Range<usize>)>,
}

/// The writes that pieces take: what lies side by side, at once.
pub(super) fn writes(pieces: &[Piece]) -> Vec<Write> {
    let mut slices: Vec<_> = pieces
        .iter()
        .flat_map(|piece| {
            let claimed = piece.parts.iter().filter(|part| part.units > 0);
            claimed.map(|part| (part.unit, piece.stored(part)))
        })
        .collect();
    slices.sort_unstable_by_key(|(unit, _)| *unit);
    let is_next = |(unit, (_, range)): &(u64, (_, Range<usize>)), next: &(u64, _)| {
        unit.saturating_add(chunks::units(range.len())) == next.0
    };
    let joined = slices.chunk_by(is_next).map(|side_by_side| Write {
        first: side_by_side.first().map_or(0, |(unit, _)| *unit),
        slices: side_by_side
            .iter()
            .map(|(_, (data, range))| (Arc::clone(data), range.clone()))
            .collect(),
    });
    joined.collect()
}

impl Write {
    /// Writes it.
    pub(super) fn carry_out(&self, disk: &Arc<dyn Disk>) -> Result<(), StoreError> {
        let slices = self.slices.iter();
        let bytes = slices.map(|(data, range)| data.blocks().get(range.clone()));
        let bytes: Vec<&[u8]> = bytes.map(Option::unwrap_or_default).collect();
        chunks::write(disk, self.first, &bytes)
    }
}

impl Volume {
    /// Claims space for runs.
    pub(super) fn claim(&self, pieces: &mut [Piece]) -> Result<(), EngineError> {
        let mut rest: VecDeque<_> = pieces
            .iter()
            .enumerate()
            .filter(|(_, piece)| piece.parts.is_empty())
            .map(|(index, piece)| {
                let run = &piece.run;
                (index, run.start, run.data.len(), Some(run.units()))
            })
            .collect();
        while !rest.is_empty() {
            let mut tx = self.store.begin_tx(Need::Reclaim)?;
            let mut claimed = Vec::new();
            while claimed.len() < CLAIMS_MAX
                && let Some((index, start, len, units)) = rest.pop_front()
            {
                let part = self.claim_part(&mut tx, start, len, units)?;
                if part.len < len {
                    rest.push_front((index, part.end(), len - part.len, None));
                }
                claimed.push((index, part));
            }
            tx.commit()?;
            for (index, part) in claimed {
                if let Some(piece) = pieces.get_mut(index) {
                    piece.parts.push(part);
                }
            }
        }
        Ok(())
    }

    /// Claims space for `len` bytes, which take `units` together when that is told: in one range if
    /// the disk has one, else for the first of them. What was promised counts units, not ranges.
    fn claim_part(
        &self,
        tx: &mut Tx<'_>,
        start: u64,
        len: usize,
        mut units: Option<u64>,
    ) -> Result<Part, EngineError> {
        let mut size = len;
        loop {
            let units = units.take().unwrap_or_else(|| chunks::units(size));
            let found = space::best_fit(tx, units)?;
            match self.store.grow_to(found.start.saturating_add(units)) {
                Ok(()) => {
                    space::claim(tx, found, units)?;
                    return Ok(Part {
                        start,
                        len: size,
                        unit: found.start,
                        units,
                        chunk: Chunk::Unknown,
                        entered: start,
                    });
                }
                Err(EngineError::Store(StoreError::NoSpace(_))) if size > UNIT_SIZE => {
                    size = (size / 2).next_multiple_of(UNIT_SIZE);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives the parts numbers and records.
    pub(super) fn describe(&self, pieces: &mut [Piece]) {
        for piece in pieces {
            let mut parts = std::mem::take(&mut piece.parts);
            for part in parts.iter_mut().filter(|part| part.units > 0) {
                let mut record = piece.describe(part);
                record.start_unit = part.unit;
                let id = match piece.is_one(part) {
                    true => piece.id,
                    false => self.new_chunk_id(),
                };
                part.chunk = Chunk::New(id, record);
            }
            piece.parts = parts;
        }
    }

    /// Gives back the claims of a write-out that failed. What cannot be given back is free after
    /// the next opening.
    pub(super) fn give_up(&self, pieces: &[Piece]) {
        let parts = pieces.iter().flat_map(|piece| &piece.parts);
        let claims: Vec<_> = parts
            .filter(|part| part.units > 0 && part.entered == part.start)
            .map(|part| (part.unit, part.units))
            .collect();
        for some in claims.chunks(CLAIMS_MAX) {
            let freed = self
                .store
                .journal
                .begin_for(Need::Reclaim)
                .and_then(|mut tx| {
                    for (unit, units) in some {
                        space::free(&mut tx, *unit, *units)?;
                    }
                    tx.commit()
                });
            if let Err(error) = freed {
                ::log::debug!("space of a failed write-out stays claimed: {error}");
                return;
            }
        }
    }

    /// A number for a new chunk.
    pub(super) fn new_chunk_id(&self) -> ChunkId {
        ChunkId(self.store.data.next_chunk.fetch_add(1, Ordering::Relaxed))
    }
}
