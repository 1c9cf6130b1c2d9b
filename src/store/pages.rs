//! Pages of nodes.dat: reading through a bounded cache, writing, and which are free.
//!
//! Which pages are free is not stored: free is what no root reaches. After opening, pages come from
//! the end of the file until [`PageStore::find_free`] has walked the internal pages; so nothing
//! that is written down can ever be wrong about it, and a page can neither leak nor be given away
//! twice.
//!
//! Nor is it stored which of them are holes in the file (see `holes`): those that may be one have their
//! space allocated again before they count as free. So what [`PageStore::reserve`] promised can be
//! written on a full disk.

mod holes;
mod marks;
mod runs;

use std::sync::Arc;

use quick_cache::sync::Cache;

pub use holes::Idle;
pub(in crate::store) use marks::Marks;
use runs::Runs;

use super::StoreError;
use super::tree::Node;
use crate::disk::Disk;
use crate::format::id::{Generation, PageNo};
use crate::format::page::{PAGE_BYTES, Page};
use crate::format::record::PagePtr;
use crate::metrics::Counter;
use crate::sync::{Mutex, MutexGuard};

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

/// What came of looking for something that memory may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Looks {
    /// It was there.
    pub hits: u64,
    /// It was not.
    pub misses: u64,
    /// What is kept takes so many bytes.
    pub bytes: u64,
}

/// The pages of a store.
pub struct PageStore {
    disk: Arc<dyn Disk>,
    cache: Cache<PagePtr, Arc<Node>>,
    /// Pages that were read and could not be believed.
    damaged: Counter,
    space: Mutex<Space>,
    /// Held while free pages are searched for.
    search: Mutex<()>,
}

struct Space {
    /// Free, and with their space.
    free: Runs,
    /// The fewest of them that there were since somebody last looked what could go back.
    least_free: u64,
    /// Free as well: found after opening, with or without their space.
    found: Runs,
    /// Free as well, without their space.
    holes: Runs,
    /// Pages from here on are not used.
    end: u64,
    /// The end when somebody last looked what could be cut off behind it.
    looked_end: u64,
    /// Where the file ends once that is durable, and what was its end: it is about to be cut. What
    /// lies between has no space.
    cutting: Option<(u64, u64)>,
    /// The disk takes no space back from inside of a file.
    takes_no_holes: bool,
    /// Pages in use by the trees.
    used: u64,
    /// The same when the store was opened.
    opened_used: u64,
    /// Freed and durable, but not to be reused while the search for free pages may read them.
    held: Vec<PageNo>,
    /// Whether `find_free` is done.
    known: bool,
    /// Whether there is a [`Search`].
    searching: bool,
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
            damaged: Counter::default(),
            space: Mutex::new(Space {
                free: Runs::default(),
                least_free: 0,
                found: Runs::default(),
                holes: Runs::default(),
                // Page 0 stands for 'none'.
                end: end.0.max(1),
                looked_end: 0,
                cutting: None,
                takes_no_holes: false,
                used,
                opened_used: used,
                held: Vec::new(),
                known: false,
                searching: false,
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
        Page::decode(bytes, place).map_err(|source| {
            self.damaged.note();
            StoreError::Page {
                page: place.page,
                reason: source.to_string(),
            }
        })
    }

    /// What came of looking for pages in memory.
    #[must_use]
    pub fn looks(&self) -> Looks {
        Looks {
            hits: self.cache.hits(),
            misses: self.cache.misses(),
            bytes: self.cache.weight().saturating_mul(PAGE_BYTES as u64),
        }
    }

    /// How often a page was read that could not be believed.
    #[must_use]
    pub fn damaged(&self) -> u64 {
        self.damaged.get()
    }

    /// Writes nodes that have places, and keeps them in the cache.
    ///
    /// # Errors
    /// When the disk refuses; the checkpoint has failed then.
    pub fn write(&self, nodes: &[Arc<Node>]) -> Result<(), StoreError> {
        for node in nodes {
            let (Some(place), Some(bytes)) = (node.place(), node.encode()) else {
                return Err(StoreError::Corrupt("a tree page without a place".into()));
            };
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
        let mut space = self.space.lock();
        let length = self.disk.len_bytes() / PAGE_BYTES as u64;
        if space.have(length) >= wanted {
            return Ok(());
        }
        space.stop_cutting()?;
        let missing = wanted.saturating_sub(space.have(length));
        let missing = missing.saturating_sub(space.fill(&*self.disk, missing)?);
        if missing == 0 {
            return Ok(());
        }
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
        let page = space.free.take_first().unwrap_or_else(|| {
            space.end += 1;
            space.end - 1
        });
        space.least_free = space.least_free.min(space.free.pages());
        PagePtr {
            page: PageNo(page),
            generation,
        }
    }

    /// Counts pages less that no durable checkpoint needs any more. Older views may read them until
    /// [`PageStore::release`].
    pub fn retire(&self, freed: &[PagePtr]) {
        for place in freed {
            self.cache.remove(place);
        }
        let mut space = self.space.lock();
        space.used = space.used.saturating_sub(freed.len() as u64);
    }

    /// Gives retired pages that nobody reads any more to be written again.
    ///
    /// # Errors
    /// When one of them is free already: two trees shared it, and nothing may be written any more.
    pub fn release(&self, retired: &[PagePtr]) -> Result<(), StoreError> {
        let mut space = self.space.lock();
        for place in retired {
            if space.known && !space.searching {
                space.free.add(place.page.0, 1)?;
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
    pub fn find_free(
        &self,
        roots: impl FnOnce() -> Result<Vec<PagePtr>, StoreError>,
        opened_end: PageNo,
    ) -> Result<(), StoreError> {
        let _one = self.search.lock();
        if self.space.lock().known {
            return Ok(());
        }
        let mut reached = Marks::new(opened_end);
        self.reach(&roots()?, &mut reached)?;
        let mut space = self.space.lock();
        // Which of them are holes is not known.
        for run in reached.others() {
            space.found.add(run.start, run.end - run.start)?;
        }
        // What the trees of deleted datasets had was counted, if nobody found it since.
        let unreached = space.opened_used.saturating_sub(reached.count());
        space.used = space.used.saturating_sub(unreached);
        space.known = true;
        space.give_held()
    }

    /// Begins to look for pages of which nobody knows that they are free. `retired`: those that are
    /// still to be released. To be called while no checkpoint is under way; what is released from
    /// here on is not reused before [`Search::find`] is done. `None` while free pages are not known.
    #[must_use]
    pub fn search(&self, retired: &[PagePtr]) -> Option<Search<'_>> {
        let one = self.search.lock();
        let mut space = self.space.lock();
        if !space.known {
            return None;
        }
        space.searching = true;
        let mut known = Marks::new(PageNo(space.end));
        let free = [&space.free, &space.found, &space.holes];
        let free = free.into_iter().flat_map(Runs::iter);
        for page in free
            .flatten()
            .chain(retired.iter().map(|place| place.page.0))
        {
            known.mark(page);
        }
        Some(Search {
            pages: self,
            known,
            _one: one,
        })
    }

    /// Marks the pages of trees, which it finds by reading the internal ones.
    fn reach(&self, roots: &[PagePtr], reached: &mut Marks) -> Result<(), StoreError> {
        let mut pending: Vec<(PagePtr, Option<u8>)> = roots.iter().map(|r| (*r, None)).collect();
        while let Some((place, level)) = pending.pop() {
            if place == PagePtr::EMPTY || !reached.mark(place.page.0) {
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
    /// Gives pages to be written again that a search kept from it.
    fn give_held(&mut self) -> Result<(), StoreError> {
        for page in std::mem::take(&mut self.held) {
            self.free.add(page.0, 1)?;
        }
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

/// Looks for pages that no tree reaches and that are not known to be free: those of trees that were
/// deleted.
pub struct Search<'a> {
    pages: &'a PageStore,
    /// Free, or about to be.
    known: Marks,
    _one: MutexGuard<'a, ()>,
}

impl Search<'_> {
    /// The pages that are not reached from the roots, those of the checkpoint before which
    /// [`PageStore::search`] was called. They may be freed with a checkpoint to come.
    ///
    /// # Errors
    /// When a page cannot be read or believed.
    pub fn find(mut self, roots: &[PagePtr]) -> Result<Vec<PageNo>, StoreError> {
        self.pages.reach(roots, &mut self.known)?;
        Ok(self.known.others().flatten().map(PageNo).collect())
    }
}

impl Drop for Search<'_> {
    fn drop(&mut self) {
        let mut space = self.pages.space.lock();
        space.searching = false;
        if let Err(error) = space.give_held() {
            // They stay unused until the next opening.
            ::log::error!("nodes.dat: {error}");
        }
    }
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
        pages.find_free(|| Ok(Vec::new()), PageNo(1)).unwrap();
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
