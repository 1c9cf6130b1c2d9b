//! The namespace and metadata, on a simulated disk, each store checked in the end.

mod datasets;
mod deletion;
mod differences;
mod health;
mod imports;
mod metadata;
mod names;
mod projects;
mod rename;
mod restore_path;
mod stopped;
mod unused_names;
mod xattrs;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::{
    Attr, Clock, Cred, EngineError, MkfsOptions, NewInode, OpenOptions, SetAttr, Time, Volume, mkfs,
};
use crate::disk::sim::SimMedia;
use crate::format::id::Ino;
use crate::fsck;

const ROOT: Ino = Ino::ROOT;
const FILE: u32 = libc::S_IFREG | 0o644;
const DIR: u32 = libc::S_IFDIR | 0o755;

/// A volume on a simulated disk, whose clock moves when a test says so.
struct World {
    sim: SimMedia,
    volume: Arc<Volume>,
    seconds: Arc<AtomicI64>,
}

fn open(sim: &SimMedia, clock: Clock) -> Arc<Volume> {
    let options = OpenOptions {
        background: false,
        ..OpenOptions::default()
    };
    Volume::open_media(sim.media(), options, clock).unwrap()
}

impl World {
    fn new() -> World {
        let seconds = Arc::new(AtomicI64::new(1000));
        let sim = SimMedia::new();
        let options = MkfsOptions::reproducible();
        let clock = clock(&seconds);
        mkfs(sim.media(), &options, &clock).unwrap();
        let volume = open(&sim, clock);
        World {
            sim,
            volume,
            seconds,
        }
    }

    /// Moves the clock, and says what it shows then.
    fn tick(&self) -> Time {
        let sec = self.seconds.fetch_add(1, Ordering::Relaxed) + 1;
        Time { sec, nsec: 7 }
    }

    fn reopen(&mut self) {
        self.volume.store().close().unwrap();
        self.volume = open(&self.sim, clock(&self.seconds));
    }

    /// Ends the test: the store is sound, and what is left of it is counted right.
    fn finish(self) {
        let inodes = self.volume.statfs().unwrap();
        assert!(inodes.files > inodes.files_free);
        self.volume.store().close().unwrap();
        assert_eq!(errors(&self.sim), [""; 0]);
    }

    fn make(&self, dir: Ino, name: &str, mode: u32) -> Ino {
        self.try_make(dir, name, mode).unwrap().ino
    }

    fn try_make(&self, dir: Ino, name: &str, mode: u32) -> Result<Attr, EngineError> {
        self.volume
            .create(Cred::default(), dir, name.as_bytes(), &new(mode))
    }

    fn attr(&self, ino: Ino) -> Attr {
        self.volume.getattr(ino).unwrap()
    }

    fn find(&self, dir: Ino, name: &str) -> Option<Ino> {
        match self.volume.lookup(dir, name.as_bytes()) {
            Ok(attr) => Some(attr.ino),
            Err(EngineError::NotFound) => None,
            Err(other) => panic!("{name}: {other}"),
        }
    }

    fn list(&self, dir: Ino) -> Vec<String> {
        let mut names = Vec::new();
        self.volume
            .readdir(dir, 0, &mut |entry| {
                names.push(String::from_utf8(entry.name).unwrap());
                true
            })
            .unwrap();
        names.sort();
        names
    }

    fn inodes(&self) -> u64 {
        let all = self.volume.statfs().unwrap();
        all.files - all.files_free
    }

    fn chmod(&self, ino: Ino, mode: u32) {
        let set = SetAttr {
            mode: Some(mode),
            ..SetAttr::default()
        };
        self.volume.setattr(ino, &set).unwrap();
    }
}

/// What the checker finds wrong.
fn errors(sim: &SimMedia) -> Vec<String> {
    fsck::errors(&sim.media()).unwrap()
}

fn clock(seconds: &Arc<AtomicI64>) -> Clock {
    let seconds = Arc::clone(seconds);
    Arc::new(move || Time {
        sec: seconds.load(Ordering::Relaxed),
        nsec: 7,
    })
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

/// The error of an operation, by its variant's name.
fn error<T: std::fmt::Debug, E: std::fmt::Debug>(result: Result<T, E>) -> String {
    let text = format!("{:?}", result.unwrap_err());
    text.split(['(', ' ']).next().unwrap_or_default().to_owned()
}
