//! The tree as it must be.

use std::collections::{BTreeMap, BTreeSet};

use super::{File, Found, Op, Tree, Wait, parent};

#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    /// Where a symbolic link points; `None` for a file.
    pub target: Option<String>,
    /// For each cell what it may be after a crash; the last is what it is.
    pub cells: Vec<Vec<u32>>,
    pub mode: u32,
    pub tag: u32,
    /// The last operation that changed the file or its names.
    touched: u32,
}

/// The tree as it must be.
#[derive(Debug, Clone)]
pub struct Model {
    /// By the operation that made them.
    pub(super) nodes: BTreeMap<u32, Node>,
    pub(super) names: BTreeMap<String, u32>,
    /// With the last operation that changed their entries.
    dirs: BTreeMap<String, u32>,
}

/// What is durable once a sync has returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Covered {
    /// Every operation up to this one.
    pub upto: u32,
    content: Content,
}

/// Content that is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    None,
    All,
    Node(u32),
    Cells { node: u32, first: u32, count: u32 },
}

impl Default for Model {
    fn default() -> Self {
        Self::new()
    }
}

impl Model {
    /// An empty directory.
    #[must_use]
    pub fn new() -> Self {
        Model {
            nodes: BTreeMap::new(),
            names: BTreeMap::new(),
            dirs: BTreeMap::from([(String::new(), 0)]),
        }
    }

    /// Names of files and symbolic links.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.names.keys()
    }

    /// Names of files.
    pub(super) fn files(&self) -> impl Iterator<Item = &String> {
        let is_file = |id| self.nodes.get(id).is_some_and(|node| node.target.is_none());
        self.names
            .iter()
            .filter_map(move |(path, id)| is_file(id).then_some(path))
    }

    /// All directories, the workload's own (`""`) too.
    pub(super) fn dirs(&self) -> impl Iterator<Item = &String> {
        self.dirs.keys()
    }

    pub(super) fn is_empty_dir(&self, dir: &str) -> bool {
        let mut inside = self.names.keys().chain(self.dirs.keys());
        !dir.is_empty() && !inside.any(|path| parent(path) == dir)
    }

    pub(super) fn same_file(&self, one: &str, other: &str) -> bool {
        self.names.get(one) == self.names.get(other)
    }

    /// A file's size in cells.
    pub(super) fn cells_of(&self, path: &str) -> u32 {
        let node = self.names.get(path).and_then(|id| self.nodes.get(id));
        node.map_or(0, |node| u32::try_from(node.cells.len()).unwrap_or(0))
    }

    fn touch_dir(&mut self, path: &str, id: u32) {
        if let Some(touched) = self.dirs.get_mut(parent(path)) {
            *touched = id;
        }
    }

    fn forget_unnamed(&mut self) {
        let named: BTreeSet<u32> = self.names.values().copied().collect();
        self.nodes.retain(|id, _| named.contains(id));
    }

    /// Applies operation number `id` (from 1).
    pub fn apply(&mut self, op: &Op, id: u32) {
        match op {
            Op::Create(path) => self.add(path, id, Node::default()),
            Op::Unnamed { path, cells } => {
                let cells = vec![vec![0, id]; *cells as usize];
                let node = Node {
                    cells,
                    ..Node::default()
                };
                self.add(path, id, node);
            }
            Op::Symlink { path, target } => {
                let target = Some(target.clone());
                let node = Node {
                    target,
                    ..Node::default()
                };
                self.add(path, id, node);
            }
            Op::Rename { from, to } => self.rename(from, to, id),
            Op::RenameDir { from, to } => self.rename_dir(from, to, id),
            Op::Link { from, to } => {
                if let Some(node) = self.names.get(from).copied() {
                    self.names.insert(to.clone(), node);
                }
                self.touch_dir(to, id);
                self.change(to, id, |_| ());
            }
            Op::Unlink(path) => {
                self.change(path, id, |_| ());
                self.names.remove(path);
                self.touch_dir(path, id);
                self.forget_unnamed();
            }
            Op::Mkdir(path) => {
                self.dirs.insert(path.clone(), id);
                self.touch_dir(path, id);
            }
            Op::Rmdir(path) => {
                self.dirs.remove(path);
                self.touch_dir(path, id);
            }
            Op::Chmod { path, mode } => self.change(path, id, |node| node.mode = *mode),
            Op::Tag { path, tag } => self.change(path, id, |node| node.tag = *tag),
            Op::Fsync { .. } | Op::FsyncDir(_) | Op::Sync => {}
            content => self.apply_content(content, id),
        }
    }

    fn apply_content(&mut self, op: &Op, id: u32) {
        match op {
            Op::Write {
                path, first, count, ..
            }
            | Op::Map { path, first, count } => self.change(path, id, |node| {
                let end = (first + count) as usize;
                if node.cells.len() < end {
                    node.cells.resize(end, vec![0]);
                }
                for cell in node.cells.iter_mut().take(end).skip(*first as usize) {
                    cell.push(id);
                }
            }),
            Op::Truncate { path, cells } => self.change(path, id, |node| {
                node.cells.resize(*cells as usize, vec![0]);
            }),
            Op::Allocate { path, cells } => self.change(path, id, |node| {
                let cells = node.cells.len().max(*cells as usize);
                node.cells.resize(cells, vec![0]);
            }),
            Op::Punch { path, first, count } => self.change(path, id, |node| {
                // A hole is of the file's metadata: once it is there, so is nothing older.
                let end = (first + count) as usize;
                for cell in node.cells.iter_mut().take(end).skip(*first as usize) {
                    *cell = vec![0];
                }
            }),
            _ => {}
        }
    }

    fn change(&mut self, path: &str, id: u32, change: impl FnOnce(&mut Node)) {
        let node = self.names.get(path).and_then(|id| self.nodes.get_mut(id));
        if let Some(node) = node {
            change(node);
            node.touched = id;
        }
    }

    fn add(&mut self, path: &str, id: u32, node: Node) {
        let node = Node {
            mode: 0o644,
            touched: id,
            ..node
        };
        self.nodes.insert(id, node);
        self.names.insert(path.to_owned(), id);
        self.touch_dir(path, id);
    }

    fn rename(&mut self, from: &str, to: &str, id: u32) {
        if let Some(node) = self.names.remove(from) {
            self.names.insert(to.to_owned(), node);
        }
        self.touch_dir(from, id);
        self.touch_dir(to, id);
        // The content written before is there when the new name is.
        self.change(to, id, |node| settle(&mut node.cells));
        self.forget_unnamed();
    }

    fn rename_dir(&mut self, from: &str, to: &str, id: u32) {
        let inside = format!("{from}/");
        let moved = |path: &str| {
            let rest = path.strip_prefix(&inside);
            let rest = rest.map(|rest| format!("{to}/{rest}"));
            rest.or_else(|| (path == from).then(|| to.to_owned()))
        };
        // An empty directory that was there gives its place.
        self.dirs.remove(to);
        let dirs = std::mem::take(&mut self.dirs);
        let names = std::mem::take(&mut self.names);
        self.dirs = renamed(dirs, moved);
        self.names = renamed(names, moved);
        self.touch_dir(from, id);
        self.touch_dir(to, id);
    }

    /// What the return of operation `id`, which was applied last, makes durable; `None` when it is
    /// no sync.
    pub(super) fn covered_by(&self, op: &Op, id: u32) -> Option<Covered> {
        let node = |path: &str| self.names.get(path).copied();
        let (upto, content) = match op {
            Op::Fsync { path, .. } => {
                let node = node(path)?;
                (self.nodes.get(&node)?.touched, Content::Node(node))
            }
            Op::FsyncDir(dir) => (self.dirs.get(dir).copied()?, Content::None),
            Op::Sync => (id, Content::All),
            Op::Write {
                path,
                first,
                count,
                wait: Wait::Data | Wait::All,
            }
            | Op::Map { path, first, count } => {
                let cells = Content::Cells {
                    node: node(path)?,
                    first: *first,
                    count: *count,
                };
                // To be read, they need their file, its size and its name.
                (id, cells)
            }
            _ => return None,
        };
        Some(Covered { upto, content })
    }

    /// Lets content that is durable be nothing else.
    pub(super) fn settle(&mut self, covered: &Covered) {
        match covered.content {
            Content::None => {}
            Content::All => self
                .nodes
                .values_mut()
                .for_each(|node| settle(&mut node.cells)),
            Content::Node(node) => {
                if let Some(node) = self.nodes.get_mut(&node) {
                    settle(&mut node.cells);
                }
            }
            Content::Cells { node, first, count } => {
                let cells = self.nodes.get_mut(&node).and_then(|node| {
                    let end = node.cells.len().min((first + count) as usize);
                    node.cells.get_mut(first as usize..end)
                });
                settle(cells.unwrap_or_default());
            }
        }
    }

    /// Compares a tree with the model; the first difference.
    ///
    /// # Errors
    /// The difference, for people.
    pub fn compare(&self, tree: &Tree) -> Result<(), String> {
        let dirs = self.dirs.keys().filter(|dir| !dir.is_empty());
        let expected: BTreeSet<&String> = self.names.keys().chain(dirs.clone()).collect();
        let found: BTreeSet<&String> = tree.keys().collect();
        if let Some(path) = expected.symmetric_difference(&found).next() {
            let is = if found.contains(path) {
                "is there"
            } else {
                "is missing"
            };
            return Err(format!("{path} {is}"));
        }
        if let Some(dir) = dirs
            .into_iter()
            .find(|dir| tree.get(*dir) != Some(&Found::Dir))
        {
            return Err(format!("{dir} is no directory"));
        }
        let mut inos: BTreeMap<u32, u64> = BTreeMap::new();
        for (path, id) in &self.names {
            let (Some(found), Some(node)) = (tree.get(path), self.nodes.get(id)) else {
                continue;
            };
            let nlink = self.names.values().filter(|other| *other == id).count();
            let ino = node
                .compare(found, nlink)
                .map_err(|difference| format!("{path}{difference}"))?;
            if *inos.entry(*id).or_insert(ino) != ino {
                return Err(format!("{path} is not the file it was linked to"));
            }
        }
        Ok(())
    }
}

impl Node {
    /// Compares with what was found; its inode number.
    fn compare(&self, found: &Found, links: usize) -> Result<u64, String> {
        let file = match (found, &self.target) {
            (Found::File(file), None) => file,
            (Found::Symlink { ino, nlink, target }, Some(wanted)) => {
                let same = (*nlink as usize, target) == (links, wanted);
                return same.then_some(*ino).ok_or_else(|| {
                    format!(": (nlink, target) ({nlink}, {target}), not ({links}, {wanted})")
                });
            }
            _ => return Err(" is of another kind".into()),
        };
        let File {
            ino,
            nlink,
            mode,
            tag,
            cells,
        } = file;
        let attributes = (*nlink as usize, *mode, *tag, cells.len());
        let wanted = (links, self.mode, self.tag, self.cells.len());
        if attributes != wanted {
            return Err(format!(
                ": (nlink, mode, tag, cells) {attributes:?}, not {wanted:?}"
            ));
        }
        for (index, (found, allowed)) in cells.iter().zip(&self.cells).enumerate() {
            if !found.is_some_and(|id| allowed.contains(&id)) {
                return Err(format!(" cell {index}: {found:?}, not one of {allowed:?}"));
            }
        }
        Ok(*ino)
    }
}

fn settle(cells: &mut [Vec<u32>]) {
    for cell in cells {
        if let Some(last) = cell.last().copied() {
            *cell = vec![last];
        }
    }
}

fn renamed(
    paths: BTreeMap<String, u32>,
    moved: impl Fn(&str) -> Option<String>,
) -> BTreeMap<String, u32> {
    paths
        .into_iter()
        .map(|(path, value)| (moved(&path).unwrap_or(path), value))
        .collect()
}
