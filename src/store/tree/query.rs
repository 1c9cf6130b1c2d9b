//! Looking up and scanning.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::node::{Link, Node};
use crate::format::key::Key;
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
    let Some(mut node) = root.node(pages)? else {
        return Ok(None);
    };
    while node.page.level() > 0 {
        node = child(&node, node.page.child_index(key), pages)?;
    }
    Ok(node
        .page
        .search(key)
        .ok()
        .map(|index| read(node.page.value(index))))
}

/// Child `index`, one level below its parent.
fn child(node: &Node, index: usize, pages: &PageStore) -> Result<Arc<Node>, StoreError> {
    let child = node
        .link(index)
        .node(pages)?
        .ok_or_else(|| StoreError::Corrupt("an internal tree page points nowhere".into()))?;
    // Levels that fall by one bound every descent, whatever a damaged page says.
    if child.page.level() + 1 != node.page.level() {
        return Err(StoreError::Corrupt(format!(
            "a tree page of level {} below one of level {}",
            child.page.level(),
            node.page.level()
        )));
    }
    Ok(child)
}

/// The last entry whose key is at most `key`.
///
/// # Errors
/// As [`get_with`].
pub fn floor(
    root: &Link,
    pages: &PageStore,
    key: &[u8],
) -> Result<Option<(Key, Vec<u8>)>, StoreError> {
    match root.node(pages)? {
        Some(node) => floor_below(&node, pages, key),
        None => Ok(None),
    }
}

fn floor_below(
    node: &Node,
    pages: &PageStore,
    key: &[u8],
) -> Result<Option<(Key, Vec<u8>)>, StoreError> {
    if node.page.level() == 0 {
        let index = match node.page.search(key) {
            Ok(index) => index,
            Err(0) => return Ok(None),
            Err(index) => index - 1,
        };
        return Ok(Some((
            Key::from_slice(node.page.key(index)),
            node.page.value(index).to_vec(),
        )));
    }
    let index = node.page.child_index(key);
    if let Some(found) = floor_below(&*child(node, index, pages)?, pages, key)? {
        return Ok(Some(found));
    }
    // The child's separator is below all its keys: the answer is the last entry before it.
    if index == 0 {
        Ok(None)
    } else {
        last_below(&*child(node, index - 1, pages)?, pages)
    }
}

/// The entry with the largest key.
///
/// # Errors
/// As [`get_with`].
pub fn last(root: &Link, pages: &PageStore) -> Result<Option<(Key, Vec<u8>)>, StoreError> {
    match root.node(pages)? {
        Some(node) => last_below(&node, pages),
        None => Ok(None),
    }
}

fn last_below(node: &Node, pages: &PageStore) -> Result<Option<(Key, Vec<u8>)>, StoreError> {
    let Some(index) = node.page.len().checked_sub(1) else {
        return Ok(None);
    };
    if node.page.level() == 0 {
        return Ok(Some((
            Key::from_slice(node.page.key(index)),
            node.page.value(index).to_vec(),
        )));
    }
    last_below(&*child(node, index, pages)?, pages)
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
    if let Some(node) = root.node(pages)? {
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
