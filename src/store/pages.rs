//! Pages of nodes.dat: reading through a bounded cache, writing, and which are free.
//!
//! Which pages are free is not stored: free is what no root reaches. After opening, pages come from
//! the end of the file until [`PageStore::find_free`] has walked the internal pages; so nothing
//! that is written down can ever be wrong about it, and a page can neither leak nor be given away
//! twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use quick_cache::sync::Cache;

use super::StoreError;
use super::tree::Node;
use crate::disk::Disk;
use crate::format::id::{Generation, PageNo};
use crate::format::page::{PAGE_BYTES, Page};
use crate::format::record::PagePtr;
use crate::sync::Mutex;

/// nodes.dat grows by at least this many pages at a time, and by a sixteenth of its size.
const GROWTH_MIN_PAGES: u64 = 256;
/// The most it grows by at a time.
const GROWTH_MAX_PAGES: u64 = 16 * 1024;
/// Pages kept for transactions that give space back, so that deletion works on a full disk.
const RESERVE_PAGES: u64 = 512;

/// Whether a transaction may use the space kept for deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It may take more space than it gives back.
    Space,
    /// It gives space back in the end, and gives no new names.
    Reclaim,
    /// It only puts file bytes into the log: no tree changes.
    Log,
}

/// The pages of a store.
pub struct PageStore {
    disk: Arc<dyn Disk>,
    cache: Cache<PagePtr, Arc<Node>>,
    space: Mutex<Space>,
    /// Held while free pages are searched for.
    search: Mutex<()>,
}

struct Space {
    /// Free runs by first page: the length.
    free: BTreeMap<u64, u64>,
    free_pages: u64,
    /// Pages from here on were never used.
    end: u64,
    /// Pages in use by the trees.
    used: u64,
    /// Freed and durable, but not to be reused while the search for free pages may read them.
    held: Vec<PageNo>,
    /// Whether `find_free` is done.
    known: bool,
}

impl PageStore {
    /// The pages of a store whose newest checkpoint used `used` pages below `end`. The cache keeps
    /// at most `cache_bytes` of clean pages.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, end: PageNo, used: u64, cache_bytes: u64) -> Self {
        let pages = usize::try_from(cache_bytes / PAGE_BYTES as u64).unwrap_or(usize::MAX);
        PageStore {
            disk,
            cache: Cache::new(pages.max(64)),
            space: Mutex::new(Space {
                free: BTreeMap::new(),
                free_pages: 0,
                // Page 0 stands for 'none'.
                end: end.0.max(1),
                used,
                held: Vec::new(),
                known: false,
            }),
            search: Mutex::new(()),
        }
    }

    /// The node at `place`, from the cache or the disk, checked.
    ///
    /// # Errors
    /// When it cannot be read, or is not the page that was written there.
    pub fn load(&self, place: PagePtr) -> Result<Arc<Node>, StoreError> {
        if let Some(node) = self.cache.get(&place) {
            return Ok(node);
        }
        let page = self.read(place)?;
        let node = Arc::new(Node::from_disk(page, place));
        self.cache.insert(place, Arc::clone(&node));
        Ok(node)
    }

    /// Reads the page at `place` past the cache, checked.
    ///
    /// # Errors
    /// As [`PageStore::load`].
    pub fn read(&self, place: PagePtr) -> Result<Page, StoreError> {
        let mut bytes = Box::new([0; PAGE_BYTES]);
        let offset = offset_of(place.page)?;
        self.disk
            .read_at(offset, bytes.as_mut_slice())
            .map_err(|source| {
                StoreError::io(format!("nodes.dat, reading page {}", place.page), source)
            })?;
        Page::decode(bytes, place).map_err(|source| StoreError::Page {
            page: place.page,
            reason: source.to_string(),
        })
    }

    /// Writes nodes that have places, and keeps them in the cache.
    ///
    /// # Errors
    /// When the disk refuses; the checkpoint has failed then.
    pub fn write(&self, nodes: &[Arc<Node>]) -> Result<(), StoreError> {
        for node in nodes {
            let Some(place) = node.place() else {
                return Err(StoreError::Corrupt("a tree page without a place".into()));
            };
            let bytes = node.page().encode(place);
            self.disk
                .write_at(offset_of(place.page)?, bytes.as_slice())
                .map_err(|source| {
                    StoreError::io(format!("nodes.dat, writing page {}", place.page), source)
                })?;
            self.cache.insert(place, Arc::clone(node));
        }
        Ok(())
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// When the disk refuses; the checkpoint has failed then.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.disk
            .flush()
            .map_err(|source| StoreError::io("nodes.dat, flushing", source))
    }

    /// Makes sure that `pages` places can be had at the next checkpoint.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] when the disk has no more.
    pub fn reserve(&self, pages: u64, need: Need) -> Result<(), StoreError> {
        let wanted = match need {
            Need::Space => pages + RESERVE_PAGES,
            Need::Reclaim => pages,
            Need::Log => return Ok(()),
        };
        let space = self.space.lock();
        let length = self.disk.len_bytes() / PAGE_BYTES as u64;
        let have = space.free_pages + length.saturating_sub(space.end);
        if have >= wanted {
            return Ok(());
        }
        let missing = wanted - have;
        let step = (length / 16).clamp(GROWTH_MIN_PAGES, GROWTH_MAX_PAGES);
        let start = length.max(space.end);
        // A whole step if the disk has it, else just what is needed.
        for pages in [missing.max(step), missing] {
            let grown = self
                .disk
                .allocate(start * PAGE_BYTES as u64, pages * PAGE_BYTES as u64);
            match grown {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() != std::io::ErrorKind::StorageFull => {
                    return Err(StoreError::io("nodes.dat, growing", error));
                }
                Err(_) => {}
            }
        }
        Err(StoreError::NoSpace(
            "the disk below the store has no room for more metadata",
        ))
    }

    /// A place for a node of the checkpoint `generation`.
    pub fn allocate(&self, generation: Generation) -> PagePtr {
        let mut space = self.space.lock();
        space.used += 1;
        let page = if let Some((start, len)) = space.free.pop_first() {
            if len > 1 {
                space.free.insert(start + 1, len - 1);
            }
            space.free_pages -= 1;
            start
        } else {
            space.end += 1;
            space.end - 1
        };
        PagePtr {
            page: PageNo(page),
            generation,
        }
    }

    /// Counts pages less that no durable checkpoint needs any more. Older views may read them until
    /// [`PageStore::release`].
    pub fn retire(&self, freed: &[PagePtr]) {
        let mut space = self.space.lock();
        space.used = space.used.saturating_sub(freed.len() as u64);
        for place in freed {
            self.cache.remove(place);
        }
    }

    /// Gives retired pages that nobody reads any more to be written again.
    ///
    /// # Errors
    /// When one of them is free already: two trees shared it, and nothing may be written any more.
    pub fn release(&self, retired: &[PagePtr]) -> Result<(), StoreError> {
        let mut space = self.space.lock();
        for place in retired {
            if space.known {
                space.add(place.page.0, 1)?;
            } else {
                space.held.push(place.page);
            }
        }
        Ok(())
    }

    /// Finds the pages that the trees with these roots (those of the checkpoint the store was
    /// opened with) do not reach, by reading their internal pages. Until then no page is reused.
    /// Once they are known it does nothing more.
    ///
    /// # Errors
    /// When a page cannot be read or believed; pages then go on coming from the end.
    pub fn find_free(&self, roots: &[PagePtr], opened_end: PageNo) -> Result<(), StoreError> {
        let _one = self.search.lock();
        if self.space.lock().known {
            return Ok(());
        }
        let end = usize::try_from(opened_end.0).unwrap_or(usize::MAX);
        let mut reached = vec![0u64; end.div_ceil(64)];
        let mut pending: Vec<(PagePtr, Option<u8>)> = roots.iter().map(|r| (*r, None)).collect();
        while let Some((place, level)) = pending.pop() {
            if place == PagePtr::EMPTY || !mark(&mut reached, place.page.0) {
                continue;
            }
            if level == Some(0) {
                continue;
            }
            let page = self.read(place)?;
            if page.level() > 0 {
                let below = Some(page.level() - 1);
                pending.extend((0..page.len()).map(|index| (page.child(index), below)));
            }
        }
        let mut space = self.space.lock();
        let mut run: Option<u64> = None;
        for page in 1..=opened_end.0 {
            let free = page < opened_end.0 && !is_marked(&reached, page);
            match (free, run) {
                (true, None) => run = Some(page),
                (false, Some(start)) => {
                    space.add(start, page - start)?;
                    run = None;
                }
                _ => {}
            }
        }
        space.known = true;
        for page in std::mem::take(&mut space.held) {
            space.add(page.0, 1)?;
        }
        Ok(())
    }

    /// Whether the free pages were found.
    #[must_use]
    pub fn knows_free(&self) -> bool {
        self.space.lock().known
    }

    /// The end of the pages ever used, and how many of them the trees use.
    #[must_use]
    pub fn extent(&self) -> (PageNo, u64) {
        let space = self.space.lock();
        (PageNo(space.end), space.used)
    }
}

impl Space {
    fn add(&mut self, mut start: u64, mut len: u64) -> Result<(), StoreError> {
        let (page, end) = (PageNo(start), start.saturating_add(len));
        if let Some((&before, &before_len)) = self.free.range(..end).next_back()
            && before + before_len > start
        {
            let reason = "it was freed twice".into();
            return Err(StoreError::Page { page, reason });
        }
        self.free_pages += len;
        if let Some((&before, &before_len)) = self.free.range(..start).next_back()
            && before + before_len == start
        {
            self.free.remove(&before);
            start = before;
            len += before_len;
        }
        if let Some(after_len) = self.free.remove(&(start + len)) {
            len += after_len;
        }
        self.free.insert(start, len);
        Ok(())
    }
}

fn offset_of(page: PageNo) -> Result<u64, StoreError> {
    page.0
        .checked_mul(PAGE_BYTES as u64)
        .ok_or_else(|| StoreError::Page {
            page,
            reason: "its address is beyond any file".into(),
        })
}

/// Marks a page; false when it was marked before or lies outside.
fn mark(reached: &mut [u64], page: u64) -> bool {
    let Some(word) = usize::try_from(page / 64)
        .ok()
        .and_then(|word| reached.get_mut(word))
    else {
        return false;
    };
    let bit = 1 << (page % 64);
    let new = *word & bit == 0;
    *word |= bit;
    new
}

fn is_marked(reached: &[u64], page: u64) -> bool {
    usize::try_from(page / 64)
        .ok()
        .and_then(|word| reached.get(word))
        .is_some_and(|word| word & (1 << (page % 64)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::SimMedia;

    #[test]
    fn a_page_that_is_freed_twice_is_an_error() {
        let place = |page| PagePtr {
            page: PageNo(page),
            generation: Generation(1),
        };
        let pages = PageStore::new(SimMedia::new().media().nodes, PageNo(20), 10, 0);
        pages.find_free(&[], PageNo(1)).unwrap();
        pages.release(&[place(5), place(6), place(9)]).unwrap();
        for page in [5, 6, 9] {
            assert!(pages.release(&[place(page)]).is_err(), "page {page}");
        }
        pages.release(&[place(7), place(8)]).unwrap();
        assert!(pages.release(&[place(7)]).is_err());
        let given: Vec<_> = (0..5)
            .map(|_| pages.allocate(Generation(2)).page.0)
            .collect();
        assert_eq!(given, [5, 6, 7, 8, 9]);
    }
}
