//! Streams between stores on simulated disks. What is compared are trees as a guest sees them.

mod damage;
mod interruptions;
mod model;
mod refusals;
mod targets;
mod work;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::format::Record;
use super::framing::Reader;
use super::{Progress, StreamError, receive, send};
use crate::disk::sim::SimMedia;
use crate::engine::{
    Attr, Clock, Cred, DatasetError, MkfsOptions, NewInode, OpenOptions, Seek, SetXattr, Store,
    Time, Volume, WriteFlags, mkfs,
};
use crate::format::id::Ino;
use crate::format::record::{ProjectLimit, ReceiveRecord, StreamPosition};
use crate::fsck;

const ROOT: Ino = Ino::ROOT;
const FILE: u32 = libc::S_IFREG | 0o644;
const DIR: u32 = libc::S_IFDIR | 0o755;

/// A store on a simulated disk.
struct World {
    sim: SimMedia,
    clock: Clock,
    store: Arc<Store>,
}

fn open(sim: &SimMedia, clock: &Clock) -> Arc<Store> {
    let options = OpenOptions {
        background: false,
        ..OpenOptions::default()
    };
    Store::open_media(sim.media(), options, Arc::clone(clock)).unwrap()
}

/// Each time it is asked it is later.
fn clock() -> Clock {
    let seconds = AtomicI64::new(1000);
    Arc::new(move || Time {
        sec: seconds.fetch_add(1, Ordering::Relaxed),
        nsec: 7,
    })
}

impl World {
    /// Stores with different seeds have different UUIDs and hashes of names.
    fn new(seed: u8) -> World {
        World::with(MkfsOptions {
            uuid: [seed; 16],
            hash_seed: [seed ^ 0x5a; 16],
            ..MkfsOptions::reproducible()
        })
    }

    fn with(options: MkfsOptions) -> World {
        let sim = SimMedia::new();
        let clock = clock();
        mkfs(sim.media(), &options, &clock).unwrap();
        let store = open(&sim, &clock);
        World { sim, clock, store }
    }

    /// A copy of what is on its disks, opened.
    fn copy(&self) -> World {
        let sim = self.sim.killed();
        let store = open(&sim, &self.clock);
        World {
            sim,
            clock: Arc::clone(&self.clock),
            store,
        }
    }

    fn reopen(&mut self) {
        self.store.close().unwrap();
        assert_eq!(fsck::errors(&self.sim.media()).unwrap(), [""; 0]);
        self.store = open(&self.sim, &self.clock);
    }

    fn names(&self) -> Vec<String> {
        let all = self.store.list().unwrap().into_iter();
        let mut names: Vec<_> = all.map(|info| info.name).collect();
        names.sort();
        names
    }

    fn snapshot(&self, name: &str) {
        self.store.snapshot(name).unwrap();
    }

    fn volume(&self, name: &str) -> Volume {
        self.store.volume(name).unwrap()
    }

    fn stream(&self, snapshot: &str, base: Option<&str>) -> Vec<u8> {
        let sending = self.store.send(snapshot, base).unwrap();
        let mut out = Vec::new();
        send(&sending, StreamPosition::START, &mut out, &mut go_on).unwrap();
        out
    }

    fn rest(&self, of: &ReceiveRecord) -> Vec<u8> {
        let sending = self.store.send_rest(of).unwrap();
        let mut out = Vec::new();
        send(&sending, of.position, &mut out, &mut go_on).unwrap();
        out
    }

    fn receive(&self, dataset: &str, stream: &[u8]) -> Result<Progress, StreamError> {
        receive(&self.store, (dataset, None), stream, &mut go_on)
    }

    fn tree(&self, dataset: &str) -> Tree {
        tree(&self.volume(dataset))
    }

    fn make(&self, dir: Ino, name: &str, mode: u32) -> Ino {
        let main = self.volume("main");
        let made = main.create(Cred::default(), dir, name.as_bytes(), &new(mode));
        made.unwrap().ino
    }

    fn write(&self, ino: Ino, offset: u64, bytes: &[u8]) {
        let mut from = bytes;
        let (main, flags) = (self.volume("main"), WriteFlags::default());
        main.write(ino, offset, bytes.len(), &mut from, flags)
            .unwrap();
    }
}

fn go_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn new(mode: u32) -> NewInode<'static> {
    NewInode {
        mode,
        umask: 0,
        rdev: 0,
        xattrs: &[],
        supplementary_gid: None,
    }
}

/// Something in a tree, as a guest sees it.
#[derive(Debug, PartialEq, Eq)]
struct Node {
    attr: Attr,
    projid: u32,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    target: Vec<u8>,
    content: Vec<u8>,
    /// Where data and holes begin.
    data: Vec<(u64, u64)>,
}

type Tree = BTreeMap<Vec<u8>, Node>;

fn tree(volume: &Volume) -> Tree {
    let mut all = Tree::new();
    walk(volume, ROOT, b"/", &mut all);
    all
}

fn walk(volume: &Volume, ino: Ino, path: &[u8], all: &mut Tree) {
    let attr = volume.getattr(ino).unwrap();
    let kind = attr.mode & libc::S_IFMT;
    let names = volume.listxattr(ino).unwrap().into_iter();
    let mut node = Node {
        attr,
        projid: volume.get_fsxattr(ino).map_or(0, |found| found.projid),
        xattrs: names
            .map(|name| {
                let value = volume.getxattr(ino, &name).unwrap();
                (name, value)
            })
            .collect(),
        target: Vec::new(),
        content: Vec::new(),
        data: Vec::new(),
    };
    match kind {
        libc::S_IFLNK => node.target = volume.readlink(ino).unwrap(),
        libc::S_IFREG => {
            volume.read(ino, 0, 1 << 30, &mut node.content).unwrap();
            let mut at = 0;
            while let Ok(start) = volume.seek(ino, at, Seek::Data) {
                at = volume.seek(ino, start, Seek::Hole).unwrap();
                node.data.push((start, at));
            }
        }
        libc::S_IFDIR => {
            let mut entries = Vec::new();
            let mut visit = |entry: crate::engine::DirEntry| {
                entries.push((entry.ino, entry.name));
                true
            };
            volume.readdir(ino, 2, &mut visit).unwrap();
            for (child, name) in entries {
                let path = [path, &name, b"/"].concat();
                walk(volume, child, &path, all);
            }
        }
        _ => {}
    }
    all.insert(path.to_vec(), node);
}

/// Where each record of a stream begins, and what it is; the end last.
fn records(stream: &[u8]) -> Vec<(usize, Option<Record>)> {
    let (mut reader, _) = Reader::begin(stream).unwrap();
    let mut found = Vec::new();
    loop {
        let at = reader.progress().bytes as usize;
        let record = reader.read().unwrap();
        let is_last = matches!(record, Record::End(_));
        found.push((at, Some(record)));
        if is_last {
            found.push((reader.progress().bytes as usize, None));
            return found;
        }
    }
}

/// Everything that a stream can carry, in few records.
fn everything(world: &World) {
    let main = world.volume("main");
    let file = world.make(ROOT, "file", FILE);
    let bytes: Vec<u8> = (0..300_000u32).map(|at| (at / 7) as u8).collect();
    world.write(file, 5000, &bytes);
    let directory = world.make(ROOT, "directory", DIR);
    main.link(file, directory, b"also").unwrap();
    let cred = Cred { uid: 5, gid: 6 };
    let link = main.symlink(cred, directory, b"link", &[b'x'; 2000], &new(0));
    link.unwrap();
    let fifo = main.create(cred, directory, b"fifo", &new(libc::S_IFIFO | 0o600));
    fifo.unwrap();
    let device = NewInode {
        rdev: 0x103,
        ..new(libc::S_IFCHR | 0o600)
    };
    main.create(cred, directory, b"null", &device).unwrap();
    for (name, len) in [("user.small", 3), ("user.large", 30_000)] {
        let value = vec![9; len];
        main.setxattr(file, name.as_bytes(), &value, SetXattr::Any, false)
            .unwrap();
    }
    let reserved = world.make(directory, "reserved", FILE);
    let keep = crate::engine::Fallocate::Allocate { keep_size: true };
    main.fallocate(reserved, 10_000, 50_000, keep).unwrap();
    let copy = world.make(ROOT, "copy", FILE);
    main.copy_range(file, 6000, copy, 4096, 299_000).unwrap();
    main.tmpfile(cred, ROOT, &new(FILE)).unwrap();
    let limit = ProjectLimit {
        bytes: 1 << 30,
        inodes: 100,
    };
    world.store.limit_project("main", 9, limit).unwrap();
    main.assign_project(directory, 9, &mut || true).unwrap();
}

#[test]
fn everything_arrives() {
    let (from, mut to) = (World::new(1), World::new(2));
    everything(&from);
    from.snapshot("main@a");
    let stream = from.stream("main@a", None);
    // The content is there once: 300,000 bytes, not compressed, and a large attribute.
    assert!(stream.len() < 345_000, "{}", stream.len());
    let done = to.receive("copy", &stream).unwrap();
    assert_eq!(done.bytes, stream.len() as u64);
    assert_eq!(to.names(), ["copy", "copy@a", "main"]);
    for name in ["copy", "copy@a"] {
        assert_eq!(to.tree(name), from.tree("main@a"), "{name}");
    }
    to.reopen();
    assert_eq!(to.tree("copy"), from.tree("main@a"));
    let projects = |world: &World, name: &str| world.volume(name).projects().unwrap();
    assert_eq!(projects(&from, "main@a").len(), 1);
    assert_eq!(projects(&to, "copy"), projects(&from, "main@a"));
    // It is the same snapshot, wherever it came from.
    let uuid = |world: &World, name: &str| {
        let all = world.store.list().unwrap();
        all.into_iter().find(|info| info.name == name).unwrap().uuid
    };
    assert_eq!(uuid(&to, "copy@a"), uuid(&from, "main@a"));
    assert_ne!(uuid(&to, "copy"), uuid(&from, "main"));
    // The same bytes come out again.
    assert_eq!(from.stream("main@a", None), stream);
    let third = World::new(3);
    third.receive("main2", &to.stream("copy@a", None)).unwrap();
    assert_eq!(third.tree("main2@a"), from.tree("main@a"));
}

#[test]
fn only_what_changed_is_sent() {
    let (from, to) = (World::new(1), World::new(2));
    let file = from.make(ROOT, "file", FILE);
    let bytes: Vec<u8> = (0..1_000_000u32).map(|at| (at / 7) as u8).collect();
    from.write(file, 0, &bytes);
    for at in 0..200 {
        from.make(ROOT, &format!("other{at}"), FILE);
    }
    from.snapshot("main@a");
    to.receive("copy", &from.stream("main@a", None)).unwrap();
    // In the middle of a chunk, of which both sides are kept.
    from.write(file, 200_000, &[1; 3000]);
    let main = from.volume("main");
    let set = crate::engine::SetAttr {
        size: Some(999_000),
        ..crate::engine::SetAttr::default()
    };
    main.setattr(file, &set).unwrap();
    drop(main);
    from.snapshot("main@b");
    let stream = from.stream("main@b", Some("main@a"));
    assert!(stream.len() < 4500, "{}", stream.len());
    to.receive("copy", &stream).unwrap();
    assert_eq!(to.names(), ["copy", "copy@a", "copy@b", "main"]);
    assert_eq!(to.tree("copy@b"), from.tree("main@b"));
    assert_eq!(to.tree("copy@a"), from.tree("main@a"));
}

fn error_of(result: Result<Progress, StreamError>) -> String {
    result.unwrap_err().to_string()
}

/// The error of a dataset, by its variant's name.
fn refusal(result: Result<Progress, StreamError>) -> String {
    match result.unwrap_err() {
        StreamError::Dataset(DatasetError::Refused { reason, .. }) => reason.to_owned(),
        other => other.to_string(),
    }
}
