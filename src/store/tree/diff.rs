//! In which keys two trees differ. What they share is not looked at: the cost is that of the
//! difference.
//!
//! Both trees are walked side by side, each with a head that stands for all that is left of it: an
//! entry, or a subtree whose keys are not smaller than a bound. The head with the smaller bound is
//! taken apart or told, unless both are the same subtree, which is passed over. That the same
//! subtree may stand at different places costs time, and never a wrong answer.

use std::cmp::Ordering;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::node::{Link, Node, Source};
use crate::format::key::Key;
use crate::store::StoreError;
use crate::store::pages::PageStore;

/// Gets a key, and its value in the old and in the new tree, which are not the same.
pub type Differs<'a> = dyn FnMut(&[u8], Option<&[u8]>, Option<&[u8]>) -> ControlFlow<()> + 'a;

/// A node of which the cells before `index` are done.
struct Frame {
    node: Arc<Node>,
    index: usize,
    /// No key below the node is smaller.
    low: Key,
}

impl Frame {
    fn low_of(&self, index: usize) -> &[u8] {
        match index {
            0 => &self.low,
            _ => self.node.page.key(index),
        }
    }
}

/// What is left of a tree.
struct Walk<'a> {
    pages: &'a PageStore,
    from: &'a [u8],
    root: Option<Arc<Node>>,
    stack: Vec<Frame>,
}

/// The first of what is left.
enum Head<'w> {
    End,
    /// A subtree: no key in it is smaller than the first of these.
    Tree(&'w [u8], Link, u8),
    Entry(&'w [u8], &'w [u8]),
}

impl Head<'_> {
    /// No key that is left is smaller; `None` when nothing is left.
    fn low(&self) -> Option<&[u8]> {
        match self {
            Head::End => None,
            Head::Tree(low, ..) => Some(low),
            Head::Entry(key, _) => Some(key),
        }
    }
}

impl<'a> Walk<'a> {
    fn new(root: &Link, pages: &'a PageStore, from: &'a [u8]) -> Result<Self, StoreError> {
        Ok(Walk {
            pages,
            from,
            root: root.node(Source::Pages(pages))?,
            stack: Vec::new(),
        })
    }

    fn head(&self) -> Head<'_> {
        if let Some(root) = &self.root {
            return Head::Tree(&[], Link::Memory(Arc::clone(root)), root.page.level());
        }
        let Some(frame) = self.stack.last() else {
            return Head::End;
        };
        let page = &frame.node.page;
        match page.level().checked_sub(1) {
            None => Head::Entry(page.key(frame.index), page.value(frame.index)),
            Some(level) => {
                let low = frame.low_of(frame.index);
                Head::Tree(low, frame.node.link(frame.index), level)
            }
        }
    }

    /// Passes over the head.
    fn skip(&mut self) {
        if self.root.take().is_some() {
            return;
        }
        if let Some(frame) = self.stack.last_mut() {
            frame.index += 1;
        }
        while let Some(frame) = self.stack.last() {
            if frame.index < frame.node.page.len() {
                return;
            }
            self.stack.pop();
            if let Some(above) = self.stack.last_mut() {
                above.index += 1;
            }
        }
    }

    /// Goes into the subtree that is the head.
    fn descend(&mut self) -> Result<(), StoreError> {
        let nowhere = || StoreError::Corrupt("an internal tree page points nowhere".into());
        let (node, low) = match (self.root.take(), self.stack.last()) {
            (Some(root), _) => (root, Key::new()),
            (None, Some(frame)) => {
                let child = frame.node.link(frame.index);
                let child = child.node(Source::Pages(self.pages))?.ok_or_else(nowhere)?;
                if child.page.level().checked_add(1) != Some(frame.node.page.level()) {
                    let what = "a tree page of another level in its place";
                    return Err(StoreError::Corrupt(what.into()));
                }
                (child, Key::from_slice(frame.low_of(frame.index)))
            }
            (None, None) => return Ok(()),
        };
        let page = &node.page;
        let index = match page.level() {
            0 => page.search(self.from).unwrap_or_else(|index| index),
            _ if page.is_empty() => 0,
            _ => page.child_index(self.from),
        };
        if index < page.len() {
            self.stack.push(Frame { node, index, low });
        } else {
            self.skip();
        }
        Ok(())
    }
}

/// Whether two subtrees are the same, by what they are and not by what is in them.
fn is_same(one: &Link, other: &Link) -> bool {
    if let (Link::Memory(one), Link::Memory(other)) = (one, other)
        && Arc::ptr_eq(one, other)
    {
        return true;
    }
    matches!((one.place(), other.place()), (Some(one), Some(other)) if one == other)
}

/// Tells the keys from `from` on in which two trees differ, in order, until `differs` has enough.
///
/// # Errors
/// When a page cannot be read.
pub fn diff(
    (old, new): (&Link, &Link),
    pages: &PageStore,
    from: &[u8],
    differs: &mut Differs<'_>,
) -> Result<(), StoreError> {
    let mut old = Walk::new(old, pages, from)?;
    let mut new = Walk::new(new, pages, from)?;
    loop {
        let (was, is) = (old.head(), new.head());
        let order = match (was.low(), is.low()) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(was), Some(is)) => was.cmp(is),
        };
        let told = match (was, is, order) {
            (Head::Tree(_, was, _), Head::Tree(_, is, _), _) if is_same(&was, &is) => {
                old.skip();
                new.skip();
                continue;
            }
            (Head::Tree(_, _, above), Head::Tree(_, _, level), Ordering::Equal) => {
                if above >= level {
                    old.descend()?;
                }
                if level >= above {
                    new.descend()?;
                }
                continue;
            }
            (Head::Tree(..), _, Ordering::Less | Ordering::Equal) => {
                old.descend()?;
                continue;
            }
            (_, Head::Tree(..), Ordering::Greater | Ordering::Equal) => {
                new.descend()?;
                continue;
            }
            (Head::Entry(key, was), Head::Entry(_, is), Ordering::Equal) => match was == is {
                true => ControlFlow::Continue(()),
                false => differs(key, Some(was), Some(is)),
            },
            (Head::Entry(key, was), _, Ordering::Less) => differs(key, Some(was), None),
            (_, Head::Entry(key, is), Ordering::Greater) => differs(key, None, Some(is)),
            _ => return Ok(()),
        };
        if order != Ordering::Greater {
            old.skip();
        }
        if order != Ordering::Less {
            new.skip();
        }
        if told.is_break() {
            return Ok(());
        }
    }
}
