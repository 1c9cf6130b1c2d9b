//! Giving changed nodes their places, and letting go of them once they are written.

use std::sync::Arc;

use super::node::{Link, Node};
use crate::format::record::PagePtr;

/// Gives every node of the tree that has no place one from `place`, children before parents, and
/// adds it to `out`. Returns the root's place. The nodes do not change any more from here on.
///
/// # Errors
/// What `place` fails with; some nodes then have places and the tree must be dropped.
pub fn freeze<E>(
    root: &Link,
    place: &mut impl FnMut() -> Result<PagePtr, E>,
    out: &mut Vec<Arc<Node>>,
) -> Result<PagePtr, E> {
    match root {
        Link::Disk(ptr) => Ok(*ptr),
        Link::Memory(node) => freeze_node(node, place, out),
    }
}

fn freeze_node<E>(
    node: &Arc<Node>,
    place: &mut impl FnMut() -> Result<PagePtr, E>,
    out: &mut Vec<Arc<Node>>,
) -> Result<PagePtr, E> {
    if let Some(ptr) = node.place() {
        return Ok(ptr);
    }
    for child in node.children.iter().flatten() {
        freeze_node(child, place, out)?;
    }
    let ptr = place()?;
    node.set_place(ptr);
    out.push(Arc::clone(node));
    Ok(ptr)
}

/// Replaces written nodes by links to their pages, so that memory follows what is not yet written.
/// To be called when every node with a place is on disk.
pub fn settle(root: &mut Link) {
    match root {
        Link::Disk(_) => {}
        Link::Memory(node) => match node.place() {
            Some(place) => *root = Link::Disk(place),
            None => settle_node(Arc::make_mut(node)),
        },
    }
}

fn settle_node(node: &mut Node) {
    for index in 0..node.children.len() {
        let Some(child) = node.children.get_mut(index).and_then(Option::as_mut) else {
            continue;
        };
        match child.place() {
            Some(place) => {
                node.page.overwrite(index, &place.encode());
                if let Some(slot) = node.children.get_mut(index) {
                    *slot = None;
                }
            }
            None => settle_node(Arc::make_mut(child)),
        }
    }
    if node.children.iter().all(Option::is_none) {
        node.children = Vec::new();
    }
}
