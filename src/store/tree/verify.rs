//! Reading the pages of a tree from the disk, whatever the cache holds, to see whether they are
//! whole.

use std::sync::Arc;

use super::node::{Link, Node};
use crate::format::key::Key;
use crate::format::record::PagePtr;
use crate::store::StoreError;
use crate::store::pages::PageStore;

/// Gets each page that was read, and what is wrong with it.
pub type Found<'a> = dyn FnMut(PagePtr, Option<StoreError>) + 'a;

struct Walk<'a> {
    pages: &'a PageStore,
    from: &'a [u8],
    left: usize,
    found: &'a mut Found<'a>,
}

/// Reads pages of a tree that hold keys from `from` on, about `max` of them and those above; the key
/// to go on from, `None` at the end. Nodes that are not on disk yet are passed through.
pub fn verify<'a>(
    root: &Link,
    pages: &'a PageStore,
    from: &'a [u8],
    max: usize,
    found: &'a mut Found<'a>,
) -> Option<Key> {
    let mut walk = Walk {
        pages,
        from,
        left: max,
        found,
    };
    walk.below(root, None)
}

impl Walk<'_> {
    fn below(&mut self, link: &Link, level: Option<u8>) -> Option<Key> {
        let node = self.node(link)?;
        if level.is_some_and(|level| level != node.page.level()) {
            if let Link::Disk(place) = link {
                let what = format!("a page of level {} in its place", node.page.level());
                let page = place.page;
                let error = StoreError::Page { page, reason: what };
                (self.found)(*place, Some(error));
            }
            return None;
        }
        let below = node.page.level().checked_sub(1)?;
        for index in node.page.child_index(self.from)..node.page.len() {
            // The first page always: it is how the walk gets on.
            let key = node.page.key(index);
            if self.left == 0 && key > self.from {
                return Some(Key::from_slice(key));
            }
            let next = self.below(&node.link(index), Some(below));
            if next.is_some() {
                return next;
            }
        }
        None
    }

    fn node(&mut self, link: &Link) -> Option<Arc<Node>> {
        match link {
            Link::Memory(node) => Some(Arc::clone(node)),
            Link::Disk(PagePtr::EMPTY) => None,
            Link::Disk(place) => {
                self.left = self.left.saturating_sub(1);
                match self.pages.read(*place) {
                    Ok(page) => {
                        (self.found)(*place, None);
                        Some(Arc::new(Node::from_disk(page, *place)))
                    }
                    Err(error) => {
                        (self.found)(*place, Some(error));
                        None
                    }
                }
            }
        }
    }
}
