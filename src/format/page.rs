//! A page of nodes.dat: a slotted page of sorted cells.
//!
//! ```text
//! 0        header, 32 bytes
//! 32       slots: one u16 offset a cell, in key order
//!          free space
//! ..4096   cells: key length u16, value length u16, key, value
//! ```
//!
//! Level 0 is a leaf: values are the tree's. Above it a value is a [`PagePtr`] and its key the
//! smallest key of the page it points to (the first key of a page may be smaller than any below
//! it).

mod search;

use search::compare;

use super::FormatError;
use super::id::{Generation, PageNo};
use super::key::{KEY_MAX, SYSTEM_TREES, TreeId};
use super::record::PagePtr;

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;
/// Bytes of its header.
pub const HEADER_BYTES: usize = 32;
/// 'RNOD', little-endian.
pub const MAGIC: u32 = u32::from_le_bytes(*b"RNOD");
/// The highest level a page can be on: far above what 2^64 keys need.
pub const LEVEL_MAX: u8 = 24;

const CELL_HEAD: usize = 4;
const SLOT: usize = 2;

/// The tree for which a page was written, as far as 24 bits say: for a dataset's, the number of its
/// timeline ([`HistoryRecord`](super::record::HistoryRecord)) modulo 2^23 - 16. Reading does not need
/// it. What looks for lost pages does, since the same keys are other things in another dataset; trees
/// that share a page do not change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TreeTag(u32);

impl TreeTag {
    /// Timelines that have tags of their own; those behind them share them.
    pub const TIMELINES: u64 = (Self::END - Self::DATASETS) as u64;
    /// Of pages from before pages had tags.
    pub const NONE: TreeTag = TreeTag(0);
    /// That of dataset 0, which there is not: those of system trees are below.
    const DATASETS: u32 = 16;
    const END: u32 = Self::KEPT;
    /// Set in those of [`TreeTag::kept`].
    const KEPT: u32 = 1 << 23;

    /// That of a tree.
    #[must_use]
    pub fn of(tree: TreeId) -> Self {
        if let TreeId::Fs(id) = tree {
            let of_dataset = id.0 % Self::TIMELINES;
            return TreeTag(Self::DATASETS + u32::try_from(of_dataset).unwrap_or(0));
        }
        let index = TreeId::SYSTEM.iter().position(|each| *each == tree);
        let index = index.and_then(|index| u32::try_from(index).ok());
        TreeTag(index.map_or(0, |index| index + 1))
    }

    /// That of what only snapshots of this timeline have: its dataset went on before it was written.
    #[must_use]
    pub fn kept(self) -> Self {
        TreeTag(self.0 | Self::KEPT)
    }

    /// Whether it is the tag of a dataset's tree.
    #[must_use]
    pub fn is_of_dataset(self) -> bool {
        self.0 >= Self::DATASETS
    }
}

// Tags of system trees do not reach those of datasets.
const _: () = assert!(SYSTEM_TREES < TreeTag::DATASETS as usize);

// Four of the largest cells fit one page, so that a split always leaves room.
const _: () =
    assert!(4 * (KEY_MAX + super::key::VALUE_MAX + CELL_HEAD + SLOT) <= PAGE_BYTES - HEADER_BYTES);

/// A page in memory; what its cells hold is checked when it is decoded, so that reading them
/// afterwards cannot fail.
#[derive(Clone)]
pub struct Page {
    bytes: Box<[u8; PAGE_BYTES]>,
    level: u8,
    count: u16,
    /// Where the lowest cell begins.
    cells_start: u16,
    /// Bytes of cells that were removed and lie between living ones.
    garbage: u16,
}

// Offsets are at most 4096 by construction and by `decode`'s checks, so conversions keep the value.
#[allow(clippy::cast_possible_truncation)]
fn u16_of(value: usize) -> u16 {
    debug_assert!(value <= PAGE_BYTES);
    (value & 0xffff) as u16
}

#[allow(clippy::indexing_slicing)] // offsets are checked by `decode` and kept by every method
impl Page {
    /// An empty page.
    #[must_use]
    pub fn new(level: u8) -> Self {
        Page {
            bytes: Box::new([0; PAGE_BYTES]),
            level,
            count: 0,
            cells_start: u16_of(PAGE_BYTES),
            garbage: 0,
        }
    }

    /// 0 for a leaf.
    #[must_use]
    pub fn level(&self) -> u8 {
        self.level
    }

    /// Number of cells.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether there is no cell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn get_u16(&self, at: usize) -> usize {
        usize::from(u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]))
    }

    fn set_u16(&mut self, at: usize, value: usize) {
        self.bytes[at..at + 2].copy_from_slice(&u16_of(value).to_le_bytes());
    }

    #[inline]
    fn cell(&self, index: usize) -> (usize, usize, usize) {
        assert!(index < self.len(), "cell {index} of {}", self.len());
        let at = self.get_u16(HEADER_BYTES + index * SLOT);
        let [key_low, key_high, value_low, value_high] = match self.bytes[at..].first_chunk() {
            Some(head) => *head,
            // No cell begins so close to the end.
            None => [0; CELL_HEAD],
        };
        (
            at + CELL_HEAD,
            usize::from(u16::from_le_bytes([key_low, key_high])),
            usize::from(u16::from_le_bytes([value_low, value_high])),
        )
    }

    /// The key of cell `index`.
    #[must_use]
    pub fn key(&self, index: usize) -> &[u8] {
        let (at, key, _) = self.cell(index);
        &self.bytes[at..at + key]
    }

    /// The value of cell `index`.
    #[must_use]
    pub fn value(&self, index: usize) -> &[u8] {
        let (at, key, value) = self.cell(index);
        &self.bytes[at + key..at + key + value]
    }

    /// The page pointer in cell `index` of an internal page.
    #[must_use]
    pub fn child(&self, index: usize) -> PagePtr {
        // `decode` and `insert` let only whole pointers into an internal page.
        PagePtr::decode(self.value(index)).unwrap_or(PagePtr::EMPTY)
    }

    /// Bytes that living cells and their slots take.
    #[must_use]
    pub fn used(&self) -> usize {
        PAGE_BYTES - usize::from(self.cells_start) - usize::from(self.garbage) + self.len() * SLOT
    }

    /// Bytes that cells and slots can take.
    pub const CAPACITY: usize = PAGE_BYTES - HEADER_BYTES;

    /// Bytes a cell takes with its slot.
    #[must_use]
    pub fn cell_bytes(key: &[u8], value: &[u8]) -> usize {
        CELL_HEAD + SLOT + key.len() + value.len()
    }

    /// Whether a further cell fits.
    #[must_use]
    pub fn fits(&self, key: &[u8], value: &[u8]) -> bool {
        self.used() + Self::cell_bytes(key, value) <= Self::CAPACITY
    }

    /// Inserts a cell that [`Page::fits`] as cell `index`.
    pub fn insert(&mut self, index: usize, key: &[u8], value: &[u8]) {
        assert!(
            self.fits(key, value) && index <= self.len(),
            "cell does not fit the page"
        );
        let size = CELL_HEAD + key.len() + value.len();
        let slots_end = HEADER_BYTES + self.len() * SLOT;
        if usize::from(self.cells_start) < slots_end + SLOT + size {
            self.compact();
        }
        let at = usize::from(self.cells_start) - size;
        self.set_u16(at, key.len());
        self.set_u16(at + 2, value.len());
        let body = at + CELL_HEAD;
        self.bytes[body..body + key.len()].copy_from_slice(key);
        self.bytes[body + key.len()..at + size].copy_from_slice(value);
        let slot = HEADER_BYTES + index * SLOT;
        self.bytes.copy_within(slot..slots_end, slot + SLOT);
        self.set_u16(slot, at);
        self.cells_start = u16_of(at);
        self.count += 1;
    }

    /// Removes cell `index`.
    pub fn remove(&mut self, index: usize) {
        let (at, key, value) = self.cell(index);
        let size = CELL_HEAD + key + value;
        if at - CELL_HEAD == usize::from(self.cells_start) {
            self.cells_start += u16_of(size);
        } else {
            self.garbage += u16_of(size);
        }
        let slot = HEADER_BYTES + index * SLOT;
        let slots_end = HEADER_BYTES + self.len() * SLOT;
        self.bytes.copy_within(slot + SLOT..slots_end, slot);
        self.count -= 1;
        if self.count == 0 {
            self.cells_start = u16_of(PAGE_BYTES);
            self.garbage = 0;
        }
    }

    /// Makes the key of cell 0 of an internal page the smallest there is.
    pub fn clear_first_key(&mut self) {
        let value = self.value(0).to_vec();
        self.remove(0);
        self.insert(0, &[], &value);
    }

    /// Overwrites the value of cell `index` with one of the same length.
    pub fn overwrite(&mut self, index: usize, new: &[u8]) {
        let (at, key, value) = self.cell(index);
        assert!(value == new.len(), "value of another length");
        self.bytes[at + key..at + key + value].copy_from_slice(new);
    }

    fn compact(&mut self) {
        *self = self.packed();
    }

    /// A copy without garbage.
    fn packed(&self) -> Page {
        let mut packed = Page::new(self.level);
        packed.append_from(self, 0..self.len());
        packed
    }

    /// Appends cells of another page; they fit and sort after those here.
    pub fn append_from(&mut self, other: &Page, cells: std::ops::Range<usize>) {
        for index in cells {
            let (at, key, value) = other.cell(index);
            let cell = &other.bytes[at - CELL_HEAD..at + key + value];
            let slot = HEADER_BYTES + self.len() * SLOT;
            if usize::from(self.cells_start) < slot + SLOT + cell.len() {
                // Garbage lies between.
                let end = self.len();
                self.insert(end, other.key(index), other.value(index));
                continue;
            }
            let start = usize::from(self.cells_start) - cell.len();
            self.bytes[start..start + cell.len()].copy_from_slice(cell);
            self.set_u16(slot, start);
            self.cells_start = u16_of(start);
            self.count += 1;
        }
    }

    /// The tree that it was written for, as it was read; of a page that was changed or made since,
    /// nothing of interest.
    #[must_use]
    pub fn tag(&self) -> TreeTag {
        let [high, low] = [self.bytes[25], self.bytes[30]].map(u32::from);
        TreeTag(low | u32::from(self.bytes[31]) << 8 | high << 16)
    }

    /// The bytes to write at `ptr` for the tree of `tag`, checksummed. Free space is zeroed: a page
    /// gives away nothing that was removed from it.
    #[must_use]
    pub fn encode(&self, ptr: PagePtr, tag: TreeTag) -> Box<[u8; PAGE_BYTES]> {
        let packed = self.packed();
        let mut bytes = packed.bytes;
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[8..16].copy_from_slice(&ptr.page.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&ptr.generation.0.to_le_bytes());
        bytes[24] = self.level;
        bytes[26..28].copy_from_slice(&self.count.to_le_bytes());
        bytes[28..30].copy_from_slice(&packed.cells_start.to_le_bytes());
        let [low, middle, high, _] = tag.0.to_le_bytes();
        (bytes[30], bytes[31], bytes[25]) = (low, middle, high);
        let crc = checksum(&bytes);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a page and checks it wholly.
    ///
    /// # Errors
    /// When the checksum, its own address or generation, or any cell is not right.
    pub fn decode(bytes: Box<[u8; PAGE_BYTES]>, ptr: PagePtr) -> Result<Self, FormatError> {
        let what = "tree page";
        let field = |field, found: u64| FormatError::Field { what, field, found };
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let (found, computed) = (u32_at(4), checksum(&bytes));
        if u32_at(0) != MAGIC {
            return Err(FormatError::Magic {
                what,
                expected: MAGIC.into(),
                found: u32_at(0).into(),
            });
        }
        if found != computed {
            return Err(FormatError::Checksum {
                what,
                computed,
                found,
            });
        }
        if u64_at(8) != ptr.page.0 {
            return Err(field("own address", u64_at(8)));
        }
        if u64_at(16) != ptr.generation.0 {
            return Err(field("generation", u64_at(16)));
        }
        let level = bytes[24];
        if level > LEVEL_MAX {
            return Err(field("level", level.into()));
        }
        let count = u16::from_le_bytes([bytes[26], bytes[27]]);
        let cells_start = u16::from_le_bytes([bytes[28], bytes[29]]);
        let page = Page {
            bytes,
            level,
            count,
            cells_start,
            garbage: 0,
        };
        page.check_cells()?;
        Ok(page)
    }

    /// Reads a page that nothing points to: it says itself which checkpoint wrote it.
    ///
    /// # Errors
    /// As [`Page::decode`].
    pub fn decode_stray(
        bytes: Box<[u8; PAGE_BYTES]>,
        page: PageNo,
    ) -> Result<(Self, Generation), FormatError> {
        let [_, _, generation, ..] = *bytes.as_chunks::<8>().0 else {
            return Err(FormatError::Length {
                what: "tree page",
                expected: PAGE_BYTES,
                found: 0,
            });
        };
        let generation = Generation(u64::from_le_bytes(generation));
        let page = Page::decode(bytes, PagePtr { page, generation })?;
        Ok((page, generation))
    }

    fn check_cells(&self) -> Result<(), FormatError> {
        let what = "tree page";
        let field = |field, found: usize| FormatError::Field {
            what,
            field,
            found: found as u64,
        };
        let slots_end = HEADER_BYTES + self.len() * SLOT;
        let start = usize::from(self.cells_start);
        if slots_end > PAGE_BYTES || start < slots_end || start > PAGE_BYTES {
            return Err(field("cell count", self.len()));
        }
        let mut sum = 0;
        let mut previous: Option<&[u8]> = None;
        let slots = self.bytes[HEADER_BYTES..slots_end].as_chunks::<SLOT>().0;
        for (index, slot) in slots.iter().enumerate() {
            let at = usize::from(u16::from_le_bytes(*slot));
            let cell = self.bytes.get(at..).and_then(<[u8]>::split_first_chunk);
            let Some(([k, key_high, v, value_high], cell)) = cell.filter(|_| at >= start) else {
                return Err(field("cell offset", at));
            };
            let key = usize::from(u16::from_le_bytes([*k, *key_high]));
            let value = usize::from(u16::from_le_bytes([*v, *value_high]));
            let size = CELL_HEAD + key + value;
            if key + value > cell.len() || key > KEY_MAX || value > super::key::VALUE_MAX {
                return Err(field("cell length", size));
            }
            if self.level > 0 && value != PagePtr::BYTES {
                return Err(field("child pointer length", value));
            }
            let key = &cell[..key];
            if previous.is_some_and(|previous| compare(previous, key).is_ge()) {
                return Err(field("key order at cell", index));
            }
            previous = Some(key);
            sum += size;
        }
        if sum != PAGE_BYTES - start {
            return Err(field("cell bytes", sum));
        }
        Ok(())
    }
}

#[allow(clippy::indexing_slicing)] // constant ranges of a fixed array
fn checksum(bytes: &[u8; PAGE_BYTES]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..4]);
    hasher.update(&bytes[8..]);
    hasher.finalize()
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::format::id::{DatasetId, Generation, PageNo};

    fn ptr() -> PagePtr {
        PagePtr {
            page: PageNo(7),
            generation: Generation(3),
        }
    }

    fn filled() -> Page {
        let mut page = Page::new(0);
        for number in [5u64, 1, 9, 3, 7] {
            let key = number.to_be_bytes();
            let at = page.search(&key).unwrap_err();
            page.insert(at, &key, format!("value {number}").as_bytes());
        }
        page
    }

    fn tag() -> TreeTag {
        TreeTag::of(TreeId::Fs(DatasetId(0x12_3456)))
    }

    #[test]
    fn says_for_which_tree_it_was_written() {
        let page = Page::decode(filled().encode(ptr(), tag()), ptr()).unwrap();
        assert_eq!(page.tag(), tag());
        let of = |id| TreeTag::of(TreeId::Fs(DatasetId(id)));
        let mut all: Vec<TreeTag> = TreeId::SYSTEM.map(TreeTag::of).into();
        assert!(all.iter().all(|tag| !tag.is_of_dataset()));
        let last = of((1 << 23) - 17);
        all.extend([TreeTag::NONE, of(1), of(2), last]);
        all.extend([of(1).kept(), of(2).kept(), last.kept()]);
        assert_eq!(of(1), of((1 << 23) - 15));
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn keeps_cells_sorted_and_survives_the_disk() {
        let page = Page::decode(filled().encode(ptr(), tag()), ptr()).unwrap();
        let keys: Vec<_> = (0..page.len())
            .map(|i| u64::from_be_bytes(page.key(i).try_into().unwrap()))
            .collect();
        assert_eq!(keys, [1, 3, 5, 7, 9]);
        assert_eq!(
            page.value(page.search(&7u64.to_be_bytes()).unwrap()),
            b"value 7"
        );
    }

    #[test]
    fn reuses_the_space_of_removed_cells() {
        let mut page = filled();
        for round in 0..5_000usize {
            let index = round % page.len();
            let key = page.key(index).to_vec();
            page.remove(index);
            page.insert(index, &key, &vec![1; round % 700]);
        }
        assert_eq!(
            Page::decode(page.encode(ptr(), tag()), ptr())
                .unwrap()
                .used(),
            page.used()
        );
    }

    #[test]
    fn finds_every_flipped_bit() {
        let bytes = filled().encode(ptr(), tag());
        for bit in 0..PAGE_BYTES * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Page::decode(damaged, ptr()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn finds_a_page_in_the_wrong_place_or_of_another_time() {
        let bytes = filled().encode(ptr(), tag());
        let elsewhere = PagePtr {
            page: PageNo(8),
            ..ptr()
        };
        let later = PagePtr {
            generation: Generation(4),
            ..ptr()
        };
        assert!(Page::decode(bytes.clone(), elsewhere).is_err());
        assert!(Page::decode(bytes, later).is_err());
    }

    #[test]
    fn never_panics_on_garbage_with_a_good_checksum() {
        use rand::{Rng, SeedableRng};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        for _ in 0..20_000 {
            let mut bytes = filled().encode(ptr(), tag());
            for _ in 0..rng.random_range(1..20) {
                let at = if rng.random() {
                    rng.random_range(24..60)
                } else {
                    rng.random_range(24..PAGE_BYTES)
                };
                bytes[at] = rng.random();
            }
            let crc = checksum(&bytes);
            bytes[4..8].copy_from_slice(&crc.to_le_bytes());
            if let Ok(page) = Page::decode(bytes, ptr()) {
                for index in 0..page.len() {
                    let _ = (page.key(index), page.value(index), page.child(index));
                }
            }
        }
    }
}
