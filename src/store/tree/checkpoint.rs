//! Giving changed nodes their places, and letting go of them once they are written.

use std::ops::Range;
use std::sync::Arc;

use super::change::Effects;
use super::node::{Link, Node};
use crate::format::page::TreeTag;
use crate::format::record::PagePtr;

/// Gives every node of the tree that has no place one from `place`, children before parents, and
/// adds what is to be written there for the tree of `tag` to `out`. Returns the root's place.
///
/// # Errors
/// What `place` fails with; some nodes then have places and the tree must be dropped.
pub fn freeze<E>(
    root: &Link,
    tag: TreeTag,
    place: &mut impl FnMut() -> Result<PagePtr, E>,
    out: &mut Vec<Arc<Node>>,
) -> Result<PagePtr, E> {
    match root {
        Link::Disk(ptr) => Ok(*ptr),
        Link::Memory(node) => freeze_node(node, tag, place, out),
    }
}

fn freeze_node<E>(
    node: &Arc<Node>,
    tag: TreeTag,
    place: &mut impl FnMut() -> Result<PagePtr, E>,
    out: &mut Vec<Arc<Node>>,
) -> Result<PagePtr, E> {
    if let Some(ptr) = node.place() {
        return Ok(ptr);
    }
    for child in node.children.iter().flatten() {
        freeze_node(child, tag, place, out)?;
    }
    let ptr = place()?;
    node.set_place(ptr, tag);
    out.push(node.finished());
    Ok(ptr)
}

/// Replaces written nodes by links to their pages, so that memory follows what is not yet written:
/// the root, or what is below one of its children. Whether there are further children. To be called
/// when every node with a place is on disk. Nodes that others refer to are copied where they change.
pub fn settle(root: &mut Link, child: usize, effects: &mut Effects) -> bool {
    let Link::Memory(node) = root else {
        return false;
    };
    if let Some(place) = node.place() {
        *root = Link::Disk(place);
        return false;
    }
    settle_node(node, child..child + 1, effects);
    child + 1 < node.children.len()
}

fn settle_node(node: &mut Arc<Node>, children: Range<usize>, effects: &mut Effects) {
    if node.children.is_empty() {
        return;
    }
    effects.note_copy(node);
    let node = Arc::make_mut(node);
    for index in children {
        let Some(slot) = node.children.get_mut(index) else {
            continue;
        };
        match slot.as_mut().map(|child| (child.place(), child)) {
            Some((Some(place), _)) => {
                *slot = None;
                node.page.overwrite(index, &place.encode());
            }
            Some((None, child)) => {
                let all = 0..child.children.len();
                settle_node(child, all, effects);
            }
            None => {}
        }
    }
    if node.children.iter().all(Option::is_none) {
        node.children = Vec::new();
    }
}
