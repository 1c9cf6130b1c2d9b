//! What a volume must be: a tree in memory, with no cleverness at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use razorfs::engine::{Attr, Cred, RenameMode, Time};
use razorfs::format::id::Ino;

/// A file's bytes, and since which step each byte can only be what it is or was from then on.
#[derive(Debug, Clone, Default)]
pub struct Content {
    pub bytes: Vec<u8>,
    pub since: Vec<u32>,
    /// The step that last made it shorter.
    cut: u32,
}

impl Content {
    /// Puts bytes; what was there before may still be there after a crash.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.bytes.len() < end {
            self.resize(end, None);
        }
        self.bytes[offset..end].copy_from_slice(bytes);
    }

    /// Puts bytes in the transaction of `step`: none of what was there before comes back.
    pub fn replace(&mut self, offset: usize, bytes: &[u8], step: u32) {
        self.write(offset, bytes);
        self.since[offset..offset + bytes.len()].fill(step);
    }

    /// Changes the size; in a transaction of its own, or with a write.
    pub fn resize(&mut self, size: usize, step: Option<u32>) {
        if size < self.bytes.len() {
            self.cut = step.unwrap_or(self.cut);
        }
        self.bytes.resize(size, 0);
        self.since.resize(size, step.unwrap_or(self.cut));
    }

    /// Bytes that were found after a crash: they are there from now on.
    pub fn found(bytes: Vec<u8>) -> Content {
        let since = vec![0; bytes.len()];
        Content {
            bytes,
            since,
            cut: 0,
        }
    }
}

#[derive(Clone)]
pub struct Node {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub rdev: u32,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    pub btime: Time,
    pub content: Content,
    pub target: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Arc<Vec<u8>>>,
    pub entries: BTreeMap<Vec<u8>, Ino>,
    pub parent: Ino,
    /// The step whose content is there when the state is one that includes it.
    pub data_since: u32,
    /// The last step that changed it or its entries.
    pub touched: u32,
}

/// What getattr tells: shown for every state that a store is not in, so never content.
impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("size", &self.size())
            .field("mode", &self.mode)
            .field("uid", &self.uid)
            .field("gid", &self.gid)
            .field("nlink", &self.nlink)
            .field("rdev", &self.rdev)
            .field("times", &[self.atime, self.mtime, self.ctime, self.btime])
            .finish_non_exhaustive()
    }
}

impl Node {
    pub fn new(attr: &Attr) -> Node {
        Node {
            mode: attr.mode,
            uid: attr.uid,
            gid: attr.gid,
            nlink: attr.nlink,
            rdev: attr.rdev,
            atime: attr.atime,
            mtime: attr.mtime,
            ctime: attr.ctime,
            btime: attr.btime,
            content: Content::default(),
            target: Vec::new(),
            xattrs: BTreeMap::new(),
            entries: BTreeMap::new(),
            parent: Ino(0),
            data_since: 0,
            touched: 0,
        }
    }

    pub fn is(&self, kind: u32) -> bool {
        self.mode & libc::S_IFMT == kind
    }

    pub fn is_dir(&self) -> bool {
        self.is(libc::S_IFDIR)
    }

    pub fn is_file(&self) -> bool {
        self.is(libc::S_IFREG)
    }

    pub fn size(&self) -> u64 {
        (self.content.bytes.len() + self.target.len()) as u64
    }

    /// What a write by someone without privileges, or a new owner given by root, does to setuid and
    /// setgid.
    pub fn kill_suidgid(&mut self, by: Cred) {
        if self.is_dir() {
            return;
        }
        self.mode &= !libc::S_ISUID;
        let member = by.uid == 0 || by.gid == self.gid;
        if self.mode & libc::S_IXGRP != 0 || !member {
            self.mode &= !libc::S_ISGID;
        }
    }

    /// Attributes that an engine's answer must have.
    pub fn matches(&self, attr: &Attr) -> bool {
        (self.mode, self.uid, self.gid, self.nlink, self.rdev)
            == (attr.mode, attr.uid, attr.gid, attr.nlink, attr.rdev)
            && (self.atime, self.mtime, self.ctime, self.btime)
                == (attr.atime, attr.mtime, attr.ctime, attr.btime)
            && self.size() == attr.size
    }
}

/// The tree at one step. Cheap to keep: nodes are shared with the steps before.
#[derive(Debug, Clone)]
pub struct Model {
    /// The dataset in use.
    pub dataset: Made,
    /// What is in it.
    pub nodes: Nodes,
    /// The other datasets, and snapshots: what is in them is durable.
    pub others: BTreeMap<Made, Nodes>,
    /// How many were made.
    pub made: u32,
    pub step: u32,
    pub now: Time,
}

/// Inodes by number.
pub type Nodes = BTreeMap<Ino, Arc<Node>>;

/// A dataset's name, and which of all those ever made it was.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Made(pub u32, pub String);

impl Made {
    pub fn is_snapshot(&self) -> bool {
        self.1.contains('@')
    }

    /// Whether it is a snapshot of a dataset.
    pub fn is_of(&self, dataset: &Made) -> bool {
        let of = self.1.split_once('@');
        of.is_some_and(|(of, _)| of == dataset.1)
    }
}

/// What has a name.
pub fn linked(nodes: &Nodes) -> Nodes {
    let linked = nodes.iter().filter(|(_, node)| node.nlink > 0);
    linked.map(|(ino, node)| (*ino, Arc::clone(node))).collect()
}

/// What an operation must answer: an error's name, when it fails.
pub type Expected<T = ()> = Result<T, &'static str>;

impl Model {
    pub fn node(&self, ino: Ino) -> &Node {
        &self.nodes[&ino]
    }

    /// A node to change in this step.
    pub fn edit(&mut self, ino: Ino) -> &mut Node {
        let step = self.step;
        let node = Arc::make_mut(self.nodes.get_mut(&ino).unwrap());
        node.touched = step;
        node
    }

    pub fn dirs(&self) -> Vec<Ino> {
        let linked = |(_, node): &(&Ino, &Arc<Node>)| node.is_dir() && node.nlink > 0;
        self.nodes
            .iter()
            .filter(linked)
            .map(|(ino, _)| *ino)
            .collect()
    }

    pub fn inos(&self) -> Vec<Ino> {
        self.nodes.keys().copied().collect()
    }

    pub fn orphans(&self) -> Vec<Ino> {
        let orphan = |(_, node): &(&Ino, &Arc<Node>)| node.nlink == 0;
        self.nodes
            .iter()
            .filter(orphan)
            .map(|(ino, _)| *ino)
            .collect()
    }

    pub fn find(&self, dir: Ino, name: &[u8]) -> Expected<Ino> {
        self.node(dir).entries.get(name).copied().ok_or("NotFound")
    }

    fn stamp(&mut self, dir: Ino) {
        let now = self.now;
        let node = self.edit(dir);
        node.mtime = now;
        node.ctime = now;
    }

    /// Whether a new inode can get the name.
    pub fn check_free(&self, dir: Ino, name: &[u8]) -> Expected {
        match self.find(dir, name) {
            Ok(_) => Err("Exists"),
            Err(_) => Ok(()),
        }
    }

    /// Attributes of what is made in `dir` with `mode` after the umask.
    pub fn blank(&self, dir: Ino, ino: Ino, mode: u32) -> Node {
        let parent = self.node(dir);
        let dirs = mode & libc::S_IFMT == libc::S_IFDIR;
        let inherits = parent.mode & libc::S_ISGID != 0;
        let attr = Attr {
            ino,
            mode: mode | if inherits && dirs { libc::S_ISGID } else { 0 },
            nlink: if dirs { 2 } else { 1 },
            uid: 0,
            gid: if inherits { parent.gid } else { 0 },
            rdev: 0,
            size: 0,
            blocks: 0,
            unwritten: false,
            flags: 0,
            atime: self.now,
            mtime: self.now,
            ctime: self.now,
            btime: self.now,
        };
        Node {
            parent: if dirs { dir } else { Ino(0) },
            touched: self.step,
            ..Node::new(&attr)
        }
    }

    /// Enters a new inode.
    pub fn enter(&mut self, dir: Ino, name: &[u8], ino: Ino, node: Node) {
        let is_dir = node.is_dir();
        self.nodes.insert(ino, Arc::new(node));
        self.stamp(dir);
        let parent = self.edit(dir);
        parent.entries.insert(name.to_vec(), ino);
        parent.nlink += u32::from(is_dir);
    }

    pub fn link(&mut self, ino: Ino, dir: Ino, name: &[u8]) -> Expected {
        if self.node(ino).is_dir() {
            return Err("NotPermitted");
        }
        self.check_free(dir, name)?;
        let now = self.now;
        let node = self.edit(ino);
        node.nlink += 1;
        node.ctime = now;
        self.stamp(dir);
        self.edit(dir).entries.insert(name.to_vec(), ino);
        Ok(())
    }

    fn drop_link(&mut self, ino: Ino) {
        let now = self.now;
        let node = self.edit(ino);
        node.nlink = if node.is_dir() { 0 } else { node.nlink - 1 };
        node.ctime = now;
    }

    pub fn unlink(&mut self, dir: Ino, name: &[u8]) -> Expected<Ino> {
        let ino = self.find(dir, name)?;
        if self.node(ino).is_dir() {
            return Err("IsDirectory");
        }
        self.edit(dir).entries.remove(name);
        self.stamp(dir);
        self.drop_link(ino);
        Ok(ino)
    }

    pub fn rmdir(&mut self, dir: Ino, name: &[u8]) -> Expected<Ino> {
        let ino = self.find(dir, name)?;
        if !self.node(ino).is_dir() {
            return Err("NotDirectory");
        }
        if !self.node(ino).entries.is_empty() {
            return Err("NotEmpty");
        }
        let parent = self.edit(dir);
        parent.entries.remove(name);
        parent.nlink -= 1;
        self.stamp(dir);
        self.drop_link(ino);
        Ok(ino)
    }

    /// Whether `dir` is `top` or below it.
    fn is_below(&self, dir: Ino, top: Ino) -> bool {
        let mut at = dir;
        loop {
            if at == top {
                return true;
            }
            if at == Ino::ROOT {
                return false;
            }
            at = self.node(at).parent;
        }
    }

    pub fn rename(
        &mut self,
        (from_dir, from): (Ino, &[u8]),
        (to_dir, to): (Ino, &[u8]),
        mode: RenameMode,
    ) -> Expected<Option<Ino>> {
        let ino = self.find(from_dir, from)?;
        let target = self.find(to_dir, to).ok();
        let (moved_dir, old_dir) = (
            self.node(ino).is_dir(),
            target.map(|old| self.node(old).is_dir()),
        );
        match (mode, target) {
            (RenameMode::Exchange, None) => return Err("NotFound"),
            (RenameMode::NoReplace, Some(_)) => return Err("Exists"),
            _ => {}
        }
        if target == Some(ino) {
            return Ok(None);
        }
        if moved_dir && self.is_below(to_dir, ino) {
            return Err("Invalid");
        }
        if mode == RenameMode::Exchange {
            let old = target.unwrap();
            if old_dir == Some(true) && self.is_below(from_dir, old) {
                return Err("Invalid");
            }
            self.put_name(from_dir, from, old);
            self.put_name(to_dir, to, ino);
            self.renamed(&[ino, old], &[from_dir, to_dir]);
            return Ok(None);
        }
        match (moved_dir, old_dir) {
            (true, Some(false)) => return Err("NotDirectory"),
            (false, Some(true)) => return Err("IsDirectory"),
            (true, Some(true)) if !self.node(target.unwrap()).entries.is_empty() => {
                return Err("NotEmpty");
            }
            _ => {}
        }
        if let Some(old) = target {
            self.drop_link(old);
        }
        self.edit(from_dir).entries.remove(from);
        self.put_name(to_dir, to, ino);
        self.renamed(&[ino], &[from_dir, to_dir]);
        Ok(target)
    }

    fn put_name(&mut self, dir: Ino, name: &[u8], ino: Ino) {
        self.edit(dir).entries.insert(name.to_vec(), ino);
        if self.node(ino).is_dir() {
            self.edit(ino).parent = dir;
        }
    }

    /// Times, link counts of directories, and what a rename promises about content.
    fn renamed(&mut self, moved: &[Ino], dirs: &[Ino]) {
        let (now, step) = (self.now, self.step);
        for ino in moved {
            let node = self.edit(*ino);
            node.ctime = now;
            node.data_since = step;
        }
        for dir in dirs {
            self.stamp(*dir);
            let below = self.node(*dir).entries.values();
            let dirs = below.filter(|ino| self.node(**ino).is_dir()).count();
            self.edit(*dir).nlink = 2 + u32::try_from(dirs).unwrap();
        }
    }
}
