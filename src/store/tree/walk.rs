//! Every entry of trees that share subtrees, a few pages at a time.

use super::node::Link;
use crate::format::id::PageNo;
use crate::format::record::PagePtr;
use crate::store::StoreError;
use crate::store::pages::{Marks, PageStore};

/// Gets keys and values, in any order.
pub type Entries<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), StoreError> + 'a;

/// A walk over all entries of some trees. What several of them share on disk is read once. Who walks
/// keeps the trees as they are meanwhile.
pub struct Walk {
    /// Subtrees to come, with the level that they must have.
    pending: Vec<(Link, Option<u8>)>,
    /// A bit for each page of nodes.dat.
    seen: Marks,
    end: PageNo,
}

impl Walk {
    /// Over the trees with these roots, whose pages lie before `end`.
    #[must_use]
    pub fn new(roots: Vec<Link>, end: PageNo) -> Self {
        Walk {
            pending: roots.into_iter().map(|root| (root, None)).collect(),
            seen: Marks::new(end),
            end,
        }
    }

    /// Reads about `max` pages, past the cache; whether there are more.
    ///
    /// # Errors
    /// When a page cannot be read or believed, or `visit` fails: the walk has missed something then.
    pub fn step(
        &mut self,
        pages: &PageStore,
        max: usize,
        visit: &mut Entries<'_>,
    ) -> Result<bool, StoreError> {
        let mut left = max;
        while left > 0
            && let Some((link, level)) = self.pending.pop()
        {
            left -= 1;
            self.take(&link, level, pages, visit)?;
        }
        Ok(!self.pending.is_empty())
    }

    fn take(
        &mut self,
        link: &Link,
        level: Option<u8>,
        pages: &PageStore,
        visit: &mut Entries<'_>,
    ) -> Result<(), StoreError> {
        let loaded;
        let (page, node) = match link {
            Link::Disk(PagePtr::EMPTY) => return Ok(()),
            Link::Disk(place) => {
                let wrong = |reason: &str| StoreError::Page {
                    page: place.page,
                    reason: reason.into(),
                };
                if place.page >= self.end {
                    return Err(wrong("a tree has it, but it is behind the end"));
                }
                if !self.seen.mark(place.page.0) {
                    return Ok(());
                }
                loaded = pages.read(*place)?;
                if level.is_some_and(|level| level != loaded.level()) {
                    return Err(wrong("it is of another level than its place"));
                }
                (&loaded, None)
            }
            Link::Memory(node) => (node.page(), Some(node)),
        };
        match page.level().checked_sub(1) {
            Some(below) => {
                let child = |index| match node {
                    Some(node) => node.link(index),
                    None => Link::Disk(page.child(index)),
                };
                let children = (0..page.len()).map(|index| (child(index), Some(below)));
                self.pending.extend(children);
            }
            None => {
                for index in 0..page.len() {
                    visit(page.key(index), page.value(index))?;
                }
            }
        }
        Ok(())
    }
}
