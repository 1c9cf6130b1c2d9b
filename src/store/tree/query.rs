//! Looking up and scanning.

use std::ops::ControlFlow;

use super::node::{Link, Loaded, Node, Shown};
use crate::format::page::Page;
use crate::format::record::PagePtr;
use crate::store::StoreError;
use crate::store::pages::PageStore;
use crate::store::read::Visit;

/// What `read` makes of the value of `key`.
///
/// # Errors
/// When a page on the way cannot be read or believed.
pub fn get_with<T>(
    root: &Link,
    pages: &PageStore,
    key: &[u8],
    read: impl FnOnce(&[u8]) -> T,
) -> Result<Option<T>, StoreError> {
    match root.show(pages)? {
        Some(node) => get_below(&node, pages, key, read),
        None => Ok(None),
    }
}

fn get_below<T>(
    node: &Node,
    pages: &PageStore,
    key: &[u8],
    read: impl FnOnce(&[u8]) -> T,
) -> Result<Option<T>, StoreError> {
    if node.page.level() == 0 {
        let found = node.page.search(key).ok();
        return Ok(found.map(|index| read(node.page.value(index))));
    }
    get_below(
        &*child(node, node.page.child_index(key), pages)?,
        pages,
        key,
        read,
    )
}

/// Child `index`, one level below its parent.
fn child<'a>(node: &'a Node, index: usize, pages: &PageStore) -> Result<Shown<'a>, StoreError> {
    let child = node.child(index, pages)?.ok_or_else(points_nowhere)?;
    check_level(node, &child)?;
    Ok(child)
}

fn points_nowhere() -> StoreError {
    StoreError::Corrupt("an internal tree page points nowhere".into())
}

/// Levels that fall by one bound every descent, whatever a damaged page says.
fn check_level(node: &Node, child: &Node) -> Result<(), StoreError> {
    if child.page.level() + 1 != node.page.level() {
        return Err(StoreError::Corrupt(format!(
            "a tree page of level {} below one of level {}",
            child.page.level(),
            node.page.level()
        )));
    }
    Ok(())
}

/// Loads the nodes that a change needs and that are not part of the tree in memory. Whether it, and
/// others for which this is true, of which `removals` at most remove a key, cannot fail then: the
/// keys they remove are there, and no leaf becomes empty.
///
/// # Errors
/// As [`get_with`].
pub fn make_ready(
    root: &Link,
    pages: &PageStore,
    loaded: &mut Loaded,
    (key, remove): (&[u8], bool),
    removals: usize,
) -> Result<bool, StoreError> {
    let leaf = loop {
        match leaf_at_hand(root, key, loaded)? {
            AtHand::Leaf(leaf) => break leaf,
            AtHand::Missing(PagePtr::EMPTY) => return Ok(!remove),
            AtHand::Missing(place) => loaded.load(place, pages)?,
        }
    };
    // A leaf that became empty would leave its keys to a neighbour, which may be on disk.
    let keeps_some = leaf.is_root || leaf.page.len() > removals;
    Ok(keeps_some && (!remove || leaf.page.search(key).is_ok()))
}

/// Where the way to a leaf leads.
enum AtHand<'a> {
    Leaf(Leaf<'a>),
    /// To a node that is neither part of the tree in memory nor loaded; [`PagePtr::EMPTY`] in an
    /// empty tree.
    Missing(PagePtr),
}

struct Leaf<'a> {
    page: &'a Page,
    is_root: bool,
}

/// The leaf for `key`, if all nodes on the way to it are at hand.
fn leaf_at_hand<'a>(
    root: &'a Link,
    key: &[u8],
    loaded: &'a Loaded,
) -> Result<AtHand<'a>, StoreError> {
    let mut node: &Node = match root {
        Link::Memory(node) => node,
        Link::Disk(place) => match loaded.find(*place) {
            Some(node) => node,
            None => return Ok(AtHand::Missing(*place)),
        },
    };
    let is_root = node.page.level() == 0;
    while node.page.level() > 0 {
        let index = node.page.child_index(key);
        let child = match node.children.get(index) {
            Some(Some(child)) => child,
            _ => match node.page.child(index) {
                PagePtr::EMPTY => return Err(points_nowhere()),
                place => match loaded.find(place) {
                    Some(child) => child,
                    None => return Ok(AtHand::Missing(place)),
                },
            },
        };
        check_level(node, child)?;
        node = child;
    }
    let page = &node.page;
    Ok(AtHand::Leaf(Leaf { page, is_root }))
}

/// Whether a value of `len` bytes takes the place of one as long, in a leaf that is at hand:
/// putting it splits nothing.
#[must_use]
pub fn has_room(root: &Link, loaded: &Loaded, key: &[u8], len: usize) -> bool {
    let Ok(AtHand::Leaf(leaf)) = leaf_at_hand(root, key, loaded) else {
        return false;
    };
    let index = leaf.page.search(key);
    index.is_ok_and(|index| leaf.page.value(index).len() == len)
}

/// What `read` makes of the last entry whose key is at most `key`.
///
/// # Errors
/// As [`get_with`].
pub fn floor_with<T>(
    root: &Link,
    pages: &PageStore,
    key: &[u8],
    read: impl FnOnce(&[u8], &[u8]) -> T,
) -> Result<Option<T>, StoreError> {
    match root.show(pages)? {
        Some(node) => Ok(floor_below(&node, pages, key, read)?.ok()),
        None => Ok(None),
    }
}

/// As [`floor_with`]; `Err` gives `read` back when there is no such entry here.
fn floor_below<T, R: FnOnce(&[u8], &[u8]) -> T>(
    node: &Node,
    pages: &PageStore,
    key: &[u8],
    read: R,
) -> Result<Result<T, R>, StoreError> {
    if node.page.level() == 0 {
        let index = match node.page.search(key) {
            Ok(index) => index,
            Err(0) => return Ok(Err(read)),
            Err(index) => index - 1,
        };
        return Ok(Ok(read(node.page.key(index), node.page.value(index))));
    }
    let index = node.page.child_index(key);
    match floor_below(&*child(node, index, pages)?, pages, key, read)? {
        // The child's separator is below all its keys: the answer is the last entry before it.
        Err(read) if index > 0 => last_below(&*child(node, index - 1, pages)?, pages, read),
        found => Ok(found),
    }
}

/// The entry with the largest key, as [`floor_below`] gives it.
fn last_below<T, R: FnOnce(&[u8], &[u8]) -> T>(
    node: &Node,
    pages: &PageStore,
    read: R,
) -> Result<Result<T, R>, StoreError> {
    let Some(index) = node.page.len().checked_sub(1) else {
        return Ok(Err(read));
    };
    if node.page.level() == 0 {
        return Ok(Ok(read(node.page.key(index), node.page.value(index))));
    }
    last_below(&*child(node, index, pages)?, pages, read)
}

/// Visits the entries in `start..end` in order.
///
/// # Errors
/// As [`get_with`].
pub fn scan(
    root: &Link,
    pages: &PageStore,
    start: &[u8],
    end: &[u8],
    visit: &mut Visit<'_>,
) -> Result<(), StoreError> {
    if let Some(node) = root.show(pages)? {
        let _ = scan_below(&node, pages, start, end, visit)?;
    }
    Ok(())
}

fn scan_below(
    node: &Node,
    pages: &PageStore,
    start: &[u8],
    end: &[u8],
    visit: &mut Visit<'_>,
) -> Result<ControlFlow<()>, StoreError> {
    if node.page.level() == 0 {
        let first = node.page.search(start).unwrap_or_else(|index| index);
        for index in first..node.page.len() {
            let key = node.page.key(index);
            if key >= end || visit(key, node.page.value(index)).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        return Ok(ControlFlow::Continue(()));
    }
    let first = node.page.child_index(start);
    for index in first..node.page.len() {
        if index > first && node.page.key(index) >= end {
            return Ok(ControlFlow::Break(()));
        }
        if scan_below(&*child(node, index, pages)?, pages, start, end, visit)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}
