//! A node in memory, and links to nodes.

use std::ops::{Deref, Range};
use std::sync::{Arc, OnceLock};

use smallvec::SmallVec;

use crate::format::page::{PAGE_BYTES, Page, TreeTag};
use crate::format::record::PagePtr;
use crate::store::StoreError;
use crate::store::pages::PageStore;

/// A node: a page, and those of its children that are not on disk yet.
pub struct Node {
    pub(super) page: Page,
    /// For an internal node one entry a cell, `None` where the cell's pointer counts; or none at all
    /// where all pointers count, as in a leaf.
    pub(super) children: Vec<Option<Arc<Node>>>,
    /// Where it lies, once a checkpoint has given it a place, and the tree for which it was written
    /// there. Who changes it takes that away.
    place: OnceLock<(PagePtr, TreeTag)>,
}

impl Clone for Node {
    /// A copy to change: it has no place yet.
    fn clone(&self) -> Self {
        Node {
            page: self.page.clone(),
            children: self.children.clone(),
            place: OnceLock::new(),
        }
    }
}

impl Node {
    /// A node that is not on disk.
    pub(super) fn new(page: Page, children: Vec<Option<Arc<Node>>>) -> Self {
        debug_assert!(children.is_empty() || children.len() == page.len());
        Node {
            page,
            children,
            place: OnceLock::new(),
        }
    }

    /// A node as read from `place`.
    #[must_use]
    pub fn from_disk(page: Page, place: PagePtr) -> Self {
        let tag = page.tag();
        Node {
            page,
            children: Vec::new(),
            place: OnceLock::from((place, tag)),
        }
    }

    /// Its page; pointers to children that are not on disk yet mean nothing.
    #[must_use]
    pub fn page(&self) -> &Page {
        &self.page
    }

    /// Where it lies on disk or will.
    pub fn place(&self) -> Option<PagePtr> {
        self.place.get().map(|(place, _)| *place)
    }

    /// The bytes to write at its place, if it has one.
    #[must_use]
    pub fn encode(&self) -> Option<Box<[u8; PAGE_BYTES]>> {
        let (place, tag) = *self.place.get()?;
        Some(self.page.encode(place, tag))
    }

    /// Gives it its place, once, in the tree of `tag`.
    pub(super) fn set_place(&self, place: PagePtr, tag: TreeTag) {
        let first = self.place.set((place, tag)).is_ok();
        assert!(first, "a node got a second place, {place:?}");
    }

    /// Inserts a cell that fits, with the child it stands for when that is in memory.
    pub(super) fn insert(
        &mut self,
        index: usize,
        key: &[u8],
        value: &[u8],
        child: Option<Arc<Node>>,
    ) {
        if child.is_some() {
            self.children.resize(self.page.len(), None);
        }
        if child.is_some() || !self.children.is_empty() {
            self.children.insert(index, child);
        }
        self.page.insert(index, key, value);
    }

    /// Removes a cell.
    pub(super) fn remove(&mut self, index: usize) {
        self.page.remove(index);
        if !self.children.is_empty() {
            self.children.remove(index);
        }
    }

    /// Holds child `index` in memory.
    pub(super) fn hold(&mut self, index: usize, child: Arc<Node>) {
        self.children.resize(self.page.len(), None);
        if let Some(slot) = self.children.get_mut(index) {
            *slot = Some(child);
        }
    }

    /// Whether child `index` is in memory.
    pub(super) fn holds(&self, index: usize) -> bool {
        matches!(self.children.get(index), Some(Some(_)))
    }

    /// Appends cells of a node of the same level, with the children they stand for.
    pub(super) fn append_from(&mut self, other: &Node, cells: Range<usize>) {
        if !(self.children.is_empty() && other.children.is_empty()) {
            self.children.resize(self.page.len(), None);
            let more = cells.clone().map(|index| other.children.get(index));
            self.children
                .extend(more.map(|child| child.cloned().flatten()));
        }
        self.page.append_from(&other.page, cells);
    }

    /// The link to child `index`.
    pub(super) fn link(&self, index: usize) -> Link {
        match self.children.get(index) {
            Some(Some(node)) => Link::Memory(Arc::clone(node)),
            _ => Link::Disk(self.page.child(index)),
        }
    }

    /// Child `index` for reading; `None` where the page points nowhere.
    pub(super) fn child(
        &self,
        index: usize,
        pages: &PageStore,
    ) -> Result<Option<Shown<'_>>, StoreError> {
        match self.children.get(index) {
            Some(Some(node)) => Ok(Some(Shown::Here(node))),
            _ => Shown::load(self.page.child(index), pages),
        }
    }

    /// The node with the places of all children filled in, as it is written. It and all children
    /// have places then.
    pub fn finished(self: &Arc<Node>) -> Arc<Node> {
        let Some(place) = self.place.get().filter(|_| !self.children.is_empty()) else {
            return Arc::clone(self);
        };
        let mut page = self.page.clone();
        for (index, child) in self.children.iter().enumerate() {
            if let Some(place) = child.as_ref().and_then(|child| child.place()) {
                page.overwrite(index, &place.encode());
            }
        }
        Arc::new(Node {
            page,
            children: Vec::new(),
            place: OnceLock::from(*place),
        })
    }
}

/// Where a change finds the nodes that are not in memory.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// In the cache, or on the disk.
    Pages(&'a PageStore),
    /// Among these: [`super::make_ready`] has seen to it that the change needs no other.
    Loaded(&'a Loaded),
}

/// Nodes as they lie on disk, at hand for changes that are about to be made.
#[derive(Default)]
pub struct Loaded(SmallVec<[(PagePtr, Arc<Node>); 4]>);

impl Loaded {
    pub(super) fn find(&self, place: PagePtr) -> Option<&Arc<Node>> {
        let found = self.0.iter().find(|(each, _)| *each == place);
        found.map(|(_, node)| node)
    }

    pub(super) fn load(&mut self, place: PagePtr, pages: &PageStore) -> Result<(), StoreError> {
        self.0.push((place, pages.load(place)?));
        Ok(())
    }
}

impl Source<'_> {
    fn load(self, place: PagePtr) -> Result<Arc<Node>, StoreError> {
        match self {
            Source::Pages(pages) => pages.load(place),
            Source::Loaded(loaded) => loaded.find(place).cloned().ok_or_else(|| {
                let page = place.page;
                let reason = "a change in memory needs it, and it is not there".into();
                StoreError::Page { page, reason }
            }),
        }
    }
}

/// A tree, or a subtree: on disk, or in memory.
#[derive(Clone)]
pub enum Link {
    /// A page; [`PagePtr::EMPTY`] for an empty tree.
    Disk(PagePtr),
    /// A node not (or not known to be) on disk.
    Memory(Arc<Node>),
}

/// A node for reading, while what holds it stays as it is.
pub(super) enum Shown<'a> {
    /// One that a link or its parent holds in memory.
    Here(&'a Node),
    /// One from the cache or the disk.
    Loaded(Arc<Node>),
}

impl Shown<'_> {
    fn load(place: PagePtr, pages: &PageStore) -> Result<Option<Self>, StoreError> {
        match place {
            PagePtr::EMPTY => Ok(None),
            place => Ok(Some(Shown::Loaded(pages.load(place)?))),
        }
    }
}

impl Deref for Shown<'_> {
    type Target = Node;

    fn deref(&self) -> &Node {
        match self {
            Shown::Here(node) => node,
            Shown::Loaded(node) => node,
        }
    }
}

impl Link {
    /// An empty tree.
    pub const EMPTY: Link = Link::Disk(PagePtr::EMPTY);

    /// The node for reading; `None` for an empty tree.
    pub(super) fn show(&self, pages: &PageStore) -> Result<Option<Shown<'_>>, StoreError> {
        match self {
            Link::Memory(node) => Ok(Some(Shown::Here(node))),
            Link::Disk(place) => Shown::load(*place, pages),
        }
    }

    /// The node, to be kept while the tree changes; `None` for an empty tree.
    pub(super) fn node(&self, source: Source<'_>) -> Result<Option<Arc<Node>>, StoreError> {
        match self {
            Link::Memory(node) => Ok(Some(Arc::clone(node))),
            Link::Disk(PagePtr::EMPTY) => Ok(None),
            Link::Disk(place) => source.load(*place).map(Some),
        }
    }

    /// The node for changing: copied unless nobody else can see it. The place that it leaves behind
    /// is free, unless other trees may have it.
    pub(super) fn node_mut<'a>(
        &'a mut self,
        source: Source<'_>,
        change: &mut super::change::Effects,
    ) -> Result<Option<&'a mut Node>, StoreError> {
        let left = match self {
            Link::Disk(PagePtr::EMPTY) => return Ok(None),
            Link::Disk(place) => {
                let (place, copy) = (*place, Node::clone(&*source.load(*place)?));
                *self = Link::Memory(Arc::new(copy));
                Some(place)
            }
            // A checkpoint holds what it writes, but of internal nodes, whose children would all
            // have to be counted once more for a copy, only their pages.
            Link::Memory(node) if node.place().is_none() => {
                change.note_copy(node);
                None
            }
            Link::Memory(node) => node.place().inspect(|_| match Arc::get_mut(node) {
                Some(node) => node.place = OnceLock::new(),
                None => *node = Arc::new(Node::clone(node)),
            }),
        };
        if let Some(place) = left {
            change.free(place);
            change.dirtied += 1;
        }
        match self {
            Link::Memory(node) => Ok(Some(Arc::make_mut(node))),
            Link::Disk(_) => Ok(None),
        }
    }

    /// The place of a written tree.
    #[must_use]
    pub fn place(&self) -> Option<PagePtr> {
        match self {
            Link::Disk(place) => Some(*place),
            Link::Memory(node) => node.place(),
        }
    }
}
