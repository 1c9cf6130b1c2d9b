//! Content that memory keeps: what was written, and what was read and checked.
//!
//! While there is room, all of it. Then, of what is read, only what is read a second time: who reads
//! a file once, or here and there in one that is larger than memory, neither drives out what others
//! read again and again, nor pays for keeping what nobody will ask for. What was written goes past the
//! system's page cache, so it is here or on the disk; it gives way to what is read again, too.

use std::ops::{Deref, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use smallvec::SmallVec;

use super::chunks::{BLOCK, GROUP};
use crate::disk::buffer::Buffer;
use crate::format::id::ChunkId;
use crate::format::record::CHUNK_MAX;
use crate::store::pages::Looks;

/// A part of a chunk that is kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Part {
    /// [`GROUP`] bytes, or what is left behind the group before.
    Group(u32),
    /// A block of the chunk.
    Block(u32),
    /// All of it, when it is more than a group.
    Whole,
}

impl Part {
    /// The group that byte `at` of a chunk stands in.
    pub(super) fn group(at: usize) -> Part {
        Part::Group(u32::try_from(at / GROUP).unwrap_or(u32::MAX))
    }

    /// The block that byte `at` of a chunk stands in.
    pub(super) fn block(at: usize) -> Part {
        Part::Block(u32::try_from(at / BLOCK).unwrap_or(u32::MAX))
    }

    /// The bytes of a chunk that it is, as far as the chunk reaches.
    pub(super) fn range(self) -> Range<usize> {
        let (number, size) = match self {
            Part::Group(number) => (number, GROUP),
            Part::Block(number) => (number, BLOCK),
            Part::Whole => (0, CHUNK_MAX as usize),
        };
        let start = (number as usize).saturating_mul(size);
        start..start.saturating_add(size)
    }

    /// Some bytes of the chunk, of its content.
    pub(super) fn slice<'c>(self, content: &'c [u8], wanted: &Range<usize>) -> Option<&'c [u8]> {
        let start = self.range().start;
        content.get(wanted.start.checked_sub(start)?..wanted.end.checked_sub(start)?)
    }
}

/// Bytes of a chunk's content.
#[derive(Clone)]
pub(super) enum Content {
    /// As they were read.
    Read(Arc<[u8]>),
    /// As they were written.
    Written(Arc<Buffer>),
}

impl Deref for Content {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Content::Read(content) => content,
            Content::Written(content) => content,
        }
    }
}

type Kept = quick_cache::sync::Cache<
    (ChunkId, Part),
    Content,
    Bytes,
    quick_cache::DefaultHashBuilder,
    Full,
>;

/// Content as it was written, or read and checked. Chunks never change and their numbers are not used
/// twice, so nothing here is ever stale.
pub(super) struct Cache {
    parts: Kept,
    full: Full,
    /// Marks of what was read and not kept, one in the place of another: whether something was is
    /// not always known, and now and then believed wrongly.
    read: Box<[AtomicU32]>,
}

impl Cache {
    /// A cache of at most about `bytes`.
    pub(super) fn new(bytes: u64) -> Self {
        let of = |part: usize| usize::try_from(bytes / part as u64).unwrap_or(usize::MAX);
        let full = Full::default();
        let parts = quick_cache::sync::Cache::with(
            of(GROUP).max(16),
            bytes,
            Bytes,
            quick_cache::DefaultHashBuilder::default(),
            full.clone(),
        );
        // As many as there are blocks in it: what comes back later than that is not read often.
        let marks = of(BLOCK).max(16);
        Cache {
            parts,
            full,
            read: std::iter::repeat_with(AtomicU32::default)
                .take(marks)
                .collect(),
        }
    }

    /// A part that is kept.
    pub(super) fn get(&self, id: ChunkId, part: Part) -> Option<Content> {
        self.parts.get(&(id, part))
    }

    /// What came of looking for parts.
    pub(super) fn looks(&self) -> Looks {
        Looks {
            hits: self.parts.hits(),
            misses: self.parts.misses(),
            bytes: self.parts.weight(),
        }
    }

    /// Whether a part that is about to be read, from byte `start` of the chunk on, is worth
    /// keeping. Notes that it is read: from there on, since who reads it piece by piece reads all of
    /// it once.
    pub(super) fn is_worth_keeping(&self, id: ChunkId, part: Part, start: usize) -> bool {
        if !self.full.0.load(Ordering::Relaxed) {
            return true;
        }
        let (mark, place) = mark_of(id, part, start);
        let place = usize::try_from(place).unwrap_or(usize::MAX) % self.read.len().max(1);
        let slot = self.read.get(place);
        slot.is_some_and(|slot| {
            let again = slot.load(Ordering::Relaxed) == mark;
            slot.store(mark, Ordering::Relaxed);
            again
        })
    }

    /// Keeps a part that was read.
    pub(super) fn keep(&self, id: ChunkId, part: Part, content: Arc<[u8]>) {
        self.parts.insert((id, part), Content::Read(content));
    }

    /// Lets go of all parts of a chunk, of `len` bytes of content, which nobody will ask for again.
    /// There is room then.
    pub(super) fn forget(&self, id: ChunkId, len: u32) {
        let starts = |part: usize| (0..len as usize).step_by(part);
        let groups = starts(GROUP).map(Part::group);
        let blocks = starts(BLOCK).map(Part::block);
        for part in groups.chain(blocks).chain([Part::Whole]) {
            if self.parts.remove(&(id, part)).is_some() {
                self.full.0.store(false, Ordering::Relaxed);
            }
        }
    }

    /// Keeps the content of a chunk that was written, of at most [`CHUNK_MAX`] bytes.
    pub(super) fn keep_written(&self, id: ChunkId, content: &Arc<Buffer>) {
        let (part, content) = match content.len() <= GROUP {
            // Memory for direct I/O takes up to twice its size where it is small.
            true => (Part::group(0), Content::Read(Arc::from(&***content))),
            false => (Part::Whole, Content::Written(Arc::clone(content))),
        };
        self.parts.insert((id, part), content);
    }
}

/// A mark, not 0, and the place where it stands.
fn mark_of(id: ChunkId, part: Part, start: usize) -> (u32, u64) {
    let is_group = u64::from(matches!(part, Part::Group(_)));
    // A chunk has 32 blocks.
    let block = (start / BLOCK % 32) as u64;
    let key = id.0 << 6 | block << 1 | is_group;
    // 2^64 divided by the golden ratio: each bit of the product depends on all below it.
    let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let [.., a, b, c, d] = hash.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]) | 1, hash >> 20)
}

/// An entry weighs what it takes.
#[derive(Clone)]
struct Bytes;

impl quick_cache::Weighter<(ChunkId, Part), Content> for Bytes {
    fn weight(&self, _: &(ChunkId, Part), content: &Content) -> u64 {
        let bytes = match content {
            Content::Read(content) => content.len(),
            Content::Written(content) => content.memory_bytes(),
        };
        bytes as u64 + 64
    }
}

/// Whether anything had to go. Nothing goes for another reason, so from then on there is no room.
#[derive(Clone, Default)]
struct Full(Arc<AtomicBool>);

impl quick_cache::Lifecycle<(ChunkId, Part), Content> for Full {
    /// What goes is freed without the cache's lock.
    type RequestState = SmallVec<[Content; 2]>;

    fn begin_request(&self) -> Self::RequestState {
        SmallVec::new()
    }

    fn on_evict(&self, gone: &mut Self::RequestState, _: (ChunkId, Part), content: Content) {
        self.0.store(true, Ordering::Relaxed);
        gone.push(content);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_makes_room() {
        let cache = Cache::new(8 * CHUNK_MAX.next_multiple_of(4096) as u64);
        let content = Arc::new(Buffer::zeroed(CHUNK_MAX as usize));
        let small = Arc::new(Buffer::zeroed(GROUP));
        let mut ids = (0..1000).map(ChunkId);
        cache.keep_written(ids.next().unwrap(), &small);
        while !cache.full.0.load(Ordering::Relaxed) {
            cache.keep_written(ids.next().unwrap(), &content);
        }
        let written = 0..ids.next().unwrap().0;
        assert!(cache.looks().bytes > 4 * u64::from(CHUNK_MAX));
        written.for_each(|id| cache.forget(ChunkId(id), CHUNK_MAX));
        assert_eq!(cache.looks().bytes, 0);
        assert!(!cache.full.0.load(Ordering::Relaxed));
    }

    #[test]
    fn without_room_only_what_is_read_again_is_kept() {
        let cache = Cache::new(64 * (BLOCK as u64 + 64));
        let content: Arc<[u8]> = vec![0; BLOCK].into();
        let mut id = 0;
        while !cache.full.0.load(Ordering::Relaxed) {
            assert!(cache.is_worth_keeping(ChunkId(id), Part::Block(0), 0));
            cache.keep(ChunkId(id), Part::Block(0), Arc::clone(&content));
            id += 1;
            assert!(id < 1000, "it never gets full");
        }
        let worth = |id, part: Part, start| cache.is_worth_keeping(ChunkId(id), part, start);
        for id in id..id + 1000 {
            assert!(!worth(id, Part::Block(0), 0), "chunk {id}, read once");
        }
        let group = Part::Group(1);
        // From one end to the other, in two pieces, and again.
        assert!(!worth(7, group, GROUP));
        assert!(!worth(7, group, GROUP + GROUP / 2));
        assert!(!worth(7, Part::Block(8), GROUP));
        assert!(worth(7, group, GROUP));
    }
}
