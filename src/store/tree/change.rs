//! Inserting and removing. What somebody else refers to is copied, from there up to the root.

use std::sync::Arc;

use super::node::{Link, Node, Shown, Source};
use crate::format::id::Generation;
use crate::format::key::{KEY_MAX, Key, VALUE_MAX};
use crate::format::page::Page;
use crate::format::record::{LineageRecord, PagePtr};
use crate::store::StoreError;

/// A node below this many used bytes is merged with a neighbour when both fit one page.
const UNDERFULL_BYTES: usize = Page::CAPACITY / 4;
/// Merging stops short of a full page, so that the next insertion does not split it again.
const MERGED_MAX_BYTES: usize = Page::CAPACITY * 7 / 8;

/// What changes of trees cost besides their result.
#[derive(Debug, Default)]
pub struct Effects {
    /// Pages no longer part of the tree; reusable after the next checkpoint.
    pub freed: Vec<PagePtr>,
    /// Nodes that came to wait for the next checkpoint.
    pub dirtied: u64,
    /// Of the tree that is being changed: pages of this checkpoint and of those before may be part
    /// of other trees too. Which of them nothing reaches any more is found by a walk.
    pub shared: Generation,
}

impl Effects {
    /// A page is no longer part of the tree that is being changed.
    pub(super) fn free(&mut self, place: PagePtr) {
        if place.generation > self.shared {
            self.freed.push(place);
        }
    }

    /// A node that waits for the next checkpoint is about to be changed. A copy of the tree may keep
    /// it as it is, and both will be written then.
    pub(super) fn note_copy(&mut self, node: &mut Arc<Node>) {
        if self.shared == LineageRecord::PENDING && Arc::get_mut(node).is_none() {
            self.dirtied += 1;
        }
    }
}

/// The right half of a node that was split.
struct Split {
    key: Key,
    node: Node,
}

/// Inserts or replaces.
///
/// # Errors
/// When a page on the way cannot be read. The tree may then be half changed: the caller drops it.
pub fn put(
    root: &mut Link,
    source: Source<'_>,
    key: &[u8],
    value: &[u8],
    effects: &mut Effects,
) -> Result<(), StoreError> {
    assert!(
        key.len() <= KEY_MAX && value.len() <= VALUE_MAX,
        "key or value too long"
    );
    let Some(node) = root.node_mut(source, effects)? else {
        let mut page = Page::new(0);
        page.insert(0, key, value);
        effects.dirtied += 1;
        *root = Link::Memory(Arc::new(Node::new(page, Vec::new())));
        return Ok(());
    };
    let level = node.page.level();
    if let Some(split) = put_below(node, source, key, value, effects)? {
        let mut page = Page::new(level + 1);
        page.insert(0, &[], &PagePtr::EMPTY.encode());
        page.insert(1, &split.key, &PagePtr::EMPTY.encode());
        let Link::Memory(left) = std::mem::replace(root, Link::EMPTY) else {
            return Err(StoreError::Corrupt(
                "a root that was changed is not in memory".into(),
            ));
        };
        effects.dirtied += 2;
        let children = vec![Some(left), Some(Arc::new(split.node))];
        *root = Link::Memory(Arc::new(Node::new(page, children)));
    }
    Ok(())
}

fn put_below(
    node: &mut Node,
    source: Source<'_>,
    key: &[u8],
    value: &[u8],
    effects: &mut Effects,
) -> Result<Option<Split>, StoreError> {
    if node.page.level() == 0 {
        return Ok(put_in_leaf(node, key, value));
    }
    let index = node.page.child_index(key);
    let split = with_child(node, index, source, effects, |child, effects| {
        put_below(child, source, key, value, effects)
    })?;
    let Some(split) = split else { return Ok(None) };
    effects.dirtied += 1;
    if index == 0 && &*split.key <= node.page.key(0) {
        // Cell 0 stands for all that is smaller, whatever its key: one that moved up when the cell
        // before it went may be larger than what it gets.
        node.page.clear_first_key();
    }
    Ok(insert_cell(
        node,
        index + 1,
        &split.key,
        &PagePtr::EMPTY.encode(),
        Some(Arc::new(split.node)),
    ))
}

fn put_in_leaf(node: &mut Node, key: &[u8], value: &[u8]) -> Option<Split> {
    let index = match node.page.search(key) {
        Ok(index) if node.page.value(index).len() == value.len() => {
            node.page.overwrite(index, value);
            return None;
        }
        Ok(index) => {
            node.page.remove(index);
            index
        }
        Err(index) => index,
    };
    insert_cell(node, index, key, value, None)
}

/// Inserts a cell, splitting the node when it is full.
fn insert_cell(
    node: &mut Node,
    index: usize,
    key: &[u8],
    value: &[u8],
    child: Option<Arc<Node>>,
) -> Option<Split> {
    if node.page.fits(key, value) {
        node.insert(index, key, value, child);
        return None;
    }
    let at = split_point(&node.page, index, Page::cell_bytes(key, value));
    let mut right = Page::new(node.page.level());
    right.append_from(&node.page, at..node.page.len());
    let mut left = Page::new(node.page.level());
    left.append_from(&node.page, 0..at);
    let right_children = if node.children.is_empty() {
        Vec::new()
    } else {
        node.children.split_off(at)
    };
    node.page = left;
    let mut right = Node::new(right, right_children);
    // At the split point itself the cell may go to either side: to the right only when it is last,
    // where `split_point` made room for it.
    let (target, index) = if index > at || at == 0 || right.page.is_empty() {
        (&mut right, index - at)
    } else {
        (&mut *node, index)
    };
    target.insert(index, key, value, child);
    let key = Key::from_slice(right.page.key(0));
    Some(Split { key, node: right })
}

/// Where to cut a full page so that a cell of `bytes` fits before or after the cut as
/// [`insert_cell`] puts it.
fn split_point(page: &Page, index: usize, bytes: usize) -> usize {
    if index == page.len() {
        // Keys that grow: leave full pages behind.
        return index;
    }
    let half = (page.used() + bytes) / 2;
    let mut left = 0;
    for at in 0..page.len() {
        if at == index {
            if left + bytes > Page::CAPACITY {
                // A large cell behind large ones: it goes to the right, the one before it too.
                return at.saturating_sub(1);
            }
            left += bytes;
        }
        if left >= half {
            // Cells 0..at, and the new one if it stands before `at`, make up `left`.
            return at.max(1);
        }
        left += Page::cell_bytes(page.key(at), page.value(at));
    }
    page.len() - 1
}

/// Runs `change` on child `index`, ready to be changed, and puts it back.
fn with_child<T>(
    node: &mut Node,
    index: usize,
    source: Source<'_>,
    effects: &mut Effects,
    change: impl FnOnce(&mut Node, &mut Effects) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    if let Some(Some(child)) = node.children.get_mut(index)
        && child.place().is_none()
    {
        // It stays where it is: copied only when somebody else refers to it.
        effects.note_copy(child);
        return change(Arc::make_mut(child), effects);
    }
    // Taken out while it is changed: a second reference would make `make_mut` copy it.
    let mut link = match node.children.get_mut(index).and_then(Option::take) {
        Some(child) => Link::Memory(child),
        None => Link::Disk(node.page.child(index)),
    };
    let child = link
        .node_mut(source, effects)?
        .ok_or_else(|| StoreError::Corrupt("an internal tree page points nowhere".into()))?;
    let result = change(child, effects)?;
    if let Link::Memory(child) = link {
        node.hold(index, child);
    }
    Ok(result)
}

/// Removes a key; whether it was there.
///
/// # Errors
/// As [`put`].
pub fn delete(
    root: &mut Link,
    source: Source<'_>,
    key: &[u8],
    effects: &mut Effects,
) -> Result<bool, StoreError> {
    if let Source::Pages(pages) = source
        && super::get_with(root, pages, key, |_| ())?.is_none()
    {
        // Nothing is copied for what is not there.
        return Ok(false);
    }
    let Some(node) = root.node_mut(source, effects)? else {
        return Ok(false);
    };
    let there = delete_below(node, source, key, effects)?;
    give_way(root, source, effects)?;
    Ok(there)
}

/// A root with one child gives way to it, an empty one to nothing.
fn give_way(root: &mut Link, source: Source<'_>, effects: &mut Effects) -> Result<(), StoreError> {
    loop {
        let shown = match (&*root, source) {
            (Link::Memory(node), _) => Shown::Here(node),
            (Link::Disk(_), Source::Pages(pages)) => match root.show(pages)? {
                Some(shown) => shown,
                None => return Ok(()),
            },
            (Link::Disk(_), Source::Loaded(_)) => return Ok(()),
        };
        if shown.page.is_empty() {
            drop(shown);
            *root = Link::EMPTY;
            return Ok(());
        }
        if shown.page.level() == 0 || shown.page.len() > 1 {
            return Ok(());
        }
        let child = shown.link(0);
        if let Some(place) = shown.place() {
            effects.free(place);
        }
        drop(shown);
        *root = child;
    }
}

fn delete_below(
    node: &mut Node,
    source: Source<'_>,
    key: &[u8],
    effects: &mut Effects,
) -> Result<bool, StoreError> {
    if node.page.level() == 0 {
        let found = node.page.search(key);
        if let Ok(index) = found {
            node.page.remove(index);
        }
        return Ok(found.is_ok());
    }
    let index = node.page.child_index(key);
    let (there, used) = with_child(node, index, source, effects, |child, effects| {
        let there = delete_below(child, source, key, effects)?;
        let used = match child.page.is_empty() {
            true => 0,
            false => child.page.used(),
        };
        Ok((there, used))
    })?;
    if used == 0 {
        node.remove(index);
    } else if used < UNDERFULL_BYTES && node.page.len() > 1 {
        merge(node, index, source, effects)?;
    }
    Ok(there)
}

/// Merges child `index` with a neighbour when both fit one page well.
fn merge(
    node: &mut Node,
    index: usize,
    source: Source<'_>,
    effects: &mut Effects,
) -> Result<(), StoreError> {
    let left = if index == 0 { 0 } else { index - 1 };
    if matches!(source, Source::Loaded(_)) && !(node.holds(left) && node.holds(left + 1)) {
        // It stays as it is until it is changed again with its neighbours at hand.
        return Ok(());
    }
    let nowhere = || StoreError::Corrupt("an internal tree page points nowhere".into());
    let right_node = node.link(left + 1).node(source)?.ok_or_else(nowhere)?;
    let left_node = node.link(left).node(source)?.ok_or_else(nowhere)?;
    // The separator is the true lower bound of what is right; the first key there may not be.
    let separator = Key::from_slice(node.page.key(left + 1));
    let sum = left_node.page.used() + right_node.page.used() + separator.len();
    if sum > MERGED_MAX_BYTES || left_node.page.level() != right_node.page.level() {
        return Ok(());
    }
    drop(left_node);
    if let Some(place) = right_node.place() {
        effects.free(place);
    }
    with_child(node, left, source, effects, |target, _| {
        if target.page.level() == 0 {
            target.append_from(&right_node, 0..right_node.page.len());
        } else {
            let end = target.page.len();
            let first = right_node.children.first().cloned().flatten();
            target.insert(end, &separator, right_node.page.value(0), first);
            target.append_from(&right_node, 1..right_node.page.len());
        }
        Ok(())
    })?;
    node.remove(left + 1);
    Ok(())
}
