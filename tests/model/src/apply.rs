//! One operation on both, and whether they agree.

use std::sync::Arc;

use razorfs::engine::{
    Attr, CompactOptions, Cred, EngineError, Fallocate, NewInode, SetAttr, TrimOptions, WriteFlags,
};
use razorfs::format::id::Ino;

use crate::ensure;
use crate::limits::Wanted;
use crate::model::{Expected, Node};
use crate::ops::{NAMES, Op};
use crate::world::{Outcome, World, name_of};

/// Who writes where a write clears setuid and setgid: of one group in three that files have.
const WRITER: Cred = Cred { uid: 1000, gid: 1 };

const NEW: NewInode<'static> = NewInode {
    mode: 0,
    umask: 0o022,
    rdev: 0,
    xattrs: &[],
    supplementary_gid: None,
};

fn name(index: u8) -> Vec<u8> {
    format!("name-{index}").into_bytes()
}

/// A name of which there are many.
pub fn many(index: u16) -> Vec<u8> {
    format!("{index:04}-many").into_bytes()
}

/// The name of one of many files: of 255 bytes, so that sixteen take more than a block.
fn long_name(index: u16) -> Vec<u8> {
    [vec![b'm'; 246], many(index)].concat()
}

pub fn pick(of: &[Ino], index: u8) -> Ino {
    of[usize::from(index) % of.len()]
}

fn at(value: u64) -> usize {
    usize::try_from(value).unwrap()
}

/// What something that is not a regular file answers where one is needed.
fn check_file(node: &Node) -> Expected {
    match node.mode & libc::S_IFMT {
        libc::S_IFREG => Ok(()),
        libc::S_IFDIR => Err("IsDirectory"),
        _ => Err("Invalid"),
    }
}

impl World {
    /// Whether the engine answered what was expected. `None` when it failed, as it should; a full
    /// disk is an answer where space is short, and so is a quota.
    pub fn agree<T>(
        &self,
        found: Result<T, EngineError>,
        expected: &Expected<impl Sized>,
    ) -> Outcome<Option<T>> {
        match (found, expected) {
            (Ok(found), Ok(_)) => Ok(Some(found)),
            (Err(EngineError::Quota), _) => {
                let justified = self.may_refuse().map_err(|error| format!("{error:?}"))?;
                ensure!(justified, "the quota has room for it");
                self.compare().map(|()| None)
            }
            (Err(error), Err(name)) if name_of(&error) == *name => Ok(None),
            (Err(error), _) if self.is_small() && name_of(&error) == "NoSpace" => {
                // Failed as a whole.
                self.compare().map(|()| None)
            }
            (Ok(_), Err(name)) => Err(format!("succeeded, not {name}")),
            (Err(error), Err(name)) => Err(format!("{error:?}, not {name}")),
            (Err(error), Ok(_)) => Err(format!("{error:?}")),
        }
    }

    /// The same of a new inode, for which there must be room.
    fn agree_new(
        &self,
        made: Result<Attr, EngineError>,
        expected: &Expected<impl Sized>,
    ) -> Outcome<Option<Attr>> {
        ensure!(
            made.is_err() || !self.is_out_of_inodes(),
            "more inodes than the quota"
        );
        self.agree(made, expected)
    }

    pub fn is_small(&self) -> bool {
        self.setup.capacity_bytes < 1 << 24
    }

    /// Does it.
    pub fn apply(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Crash { back, seed, again } => return self.crash(*back, *seed, *again),
            Op::Reopen => return self.reopen(),
            Op::Compare => return self.compare(),
            Op::ManyNames { .. } | Op::ManyXattrs { .. } => {
                self.wanted = Wanted::by(op);
                return self.many(op);
            }
            _ => {}
        }
        self.begin();
        self.wanted = Wanted::by(op);
        self.names(op)?;
        self.attributes(op)?;
        self.content(op)?;
        self.datasets(op)?;
        self.durability(op)?;
        self.end();
        Ok(())
    }

    /// Each of the many is a step of its own: power may be cut between them.
    fn many(&mut self, op: &Op) -> Outcome {
        match *op {
            Op::ManyNames {
                dir,
                start,
                count,
                remove,
            } => {
                let dir = pick(&self.model.dirs(), dir);
                for index in start..start + count {
                    self.begin();
                    self.one_of_many_names(dir, index, remove)?;
                    self.end();
                }
            }
            Op::ManyXattrs {
                ino,
                start,
                count,
                len,
                remove,
            } => {
                let ino = pick(&self.model.inos(), ino);
                let node = self.model.node(ino);
                if !node.is_dir() && !node.is_file() {
                    return Ok(());
                }
                for index in start..start + count {
                    let name = [b"user.".as_slice(), &many(index)].concat();
                    self.begin();
                    self.one_of_many_xattrs(ino, &name, len, remove)?;
                    self.end();
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn names(&mut self, op: &Op) -> Outcome {
        let dirs = self.model.dirs();
        let volume = Arc::clone(&self.volume);
        match op {
            Op::Create { dir, name: n, mode } => {
                let (dir, name) = (pick(&dirs, *dir), name(*n));
                let new = NewInode { mode: *mode, ..NEW };
                let made = volume.create(Cred::default(), dir, &name, &new);
                let expected = self.model.check_free(dir, &name);
                if let Some(attr) = self.agree_new(made, &expected)? {
                    let node = self.model.blank(dir, attr.ino, mode & !0o022);
                    ensure!(node.matches(&attr), "made {attr:?}, not {node:?}");
                    self.model.enter(dir, &name, attr.ino, node);
                }
            }
            Op::Symlink { dir, name: n, len } => {
                let (dir, name) = (pick(&dirs, *dir), name(*n));
                let target = vec![b't'; usize::from(*len)];
                let made = volume.symlink(Cred::default(), dir, &name, &target, &NEW);
                let expected = match target.len() {
                    4096.. => Err("NameTooLong"),
                    _ => self.model.check_free(dir, &name),
                };
                if let Some(attr) = self.agree_new(made, &expected)? {
                    let mut node = self.model.blank(dir, attr.ino, libc::S_IFLNK | 0o777);
                    node.target = target;
                    self.model.enter(dir, &name, attr.ino, node);
                }
            }
            Op::Tmpfile { dir } => {
                let dir = pick(&dirs, *dir);
                let new = NewInode { mode: 0o600, ..NEW };
                let made = volume.tmpfile(Cred::default(), dir, &new);
                if let Some(attr) = self.agree_new(made, &Ok(()))? {
                    let mut node = self.model.blank(dir, attr.ino, libc::S_IFREG | 0o600);
                    node.nlink = 0;
                    self.model.nodes.insert(attr.ino, Arc::new(node));
                }
            }
            Op::Link { ino, dir, name: n } => {
                let (dir, name) = (pick(&dirs, *dir), name(*n));
                let ino = pick(&self.model.inos(), *ino);
                let mut after = self.model.clone();
                let expected = after.link(ino, dir, &name);
                if self
                    .agree(volume.link(ino, dir, &name), &expected)?
                    .is_some()
                {
                    self.model = after;
                }
            }
            Op::Unlink { dir, name: n, keep } => {
                let (dir, name) = (pick(&dirs, *dir), name(*n));
                let mut after = self.model.clone();
                let expected = after.unlink(dir, &name);
                if let Some(gone) = self.agree(volume.unlink(dir, &name), &expected)? {
                    self.model = after;
                    let orphan = self.model.node(gone.ino).nlink == 0;
                    ensure!(gone.orphan == orphan, "{gone:?}");
                    if orphan && !keep {
                        self.reclaim(gone.ino)?;
                    }
                }
            }
            Op::Rmdir { dir, name: n } => {
                let (dir, name) = (pick(&dirs, *dir), name(*n));
                let mut after = self.model.clone();
                let expected = after.rmdir(dir, &name);
                if self.agree(volume.rmdir(dir, &name), &expected)?.is_some() {
                    self.model = after;
                }
            }
            Op::Rename { from, to, mode } => {
                let from = (pick(&dirs, from.0), name(from.1));
                let to = (pick(&dirs, to.0), name(to.1));
                let mut after = self.model.clone();
                let expected = after.rename((from.0, &from.1), (to.0, &to.1), *mode);
                let done = volume.rename(from.0, &from.1, to.0, &to.1, *mode);
                if let Some(replaced) = self.agree(done, &expected)? {
                    let replaced = replaced.map(|removed| removed.ino);
                    ensure!(Ok(replaced) == expected, "replaced {replaced:?}");
                    self.model = after;
                }
            }
            Op::Lookup { dir, name: n } => {
                let (dir, name) = (pick(&dirs, *dir), name(*n));
                let expected = self.model.find(dir, &name);
                if let Some(attr) = self.agree(volume.lookup(dir, &name), &expected)? {
                    ensure!(Ok(attr.ino) == expected, "found {}", attr.ino);
                    ensure!(self.model.node(attr.ino).matches(&attr), "{attr:?}");
                }
            }
            Op::BadName { dir, which } => self.bad_name(pick(&dirs, *dir), *which)?,
            _ => {}
        }
        Ok(())
    }

    fn one_of_many_names(&mut self, dir: Ino, index: u16, remove: bool) -> Outcome {
        let name = long_name(index);
        let volume = Arc::clone(&self.volume);
        if remove {
            let mut after = self.model.clone();
            let expected = after.unlink(dir, &name);
            if let Some(gone) = self.agree(volume.unlink(dir, &name), &expected)? {
                self.model = after;
                if gone.orphan {
                    self.reclaim(gone.ino)?;
                }
            }
            return Ok(());
        }
        let new = NewInode {
            mode: libc::S_IFREG | 0o644,
            ..NEW
        };
        let made = volume.create(Cred::default(), dir, &name, &new);
        let expected = self.model.check_free(dir, &name);
        if let Some(attr) = self.agree_new(made, &expected)? {
            let node = self.model.blank(dir, attr.ino, new.mode);
            self.model.enter(dir, &name, attr.ino, node);
        }
        Ok(())
    }

    fn bad_name(&self, dir: Ino, which: u8) -> Outcome {
        let volume = &self.volume;
        let long = [b'x'; 256];
        let new = NewInode {
            mode: 0o100_600,
            ..NEW
        };
        let (found, expected) = match which % 5 {
            0 => (
                volume.create(Cred::default(), dir, &long, &new).map(drop),
                "NameTooLong",
            ),
            1 => (
                volume.create(Cred::default(), dir, b".", &new).map(drop),
                "Exists",
            ),
            2 => (volume.unlink(dir, b"..").map(drop), "IsDirectory"),
            3 => (volume.rmdir(dir, b".").map(drop), "Invalid"),
            _ => (volume.lookup(dir, &long).map(drop), "NameTooLong"),
        };
        self.agree(found, &Expected::<()>::Err(expected)).map(drop)
    }

    fn content(&mut self, op: &Op) -> Outcome {
        let inos = self.model.inos();
        let (now, step) = (self.model.now, self.model.step);
        let volume = Arc::clone(&self.volume);
        match *op {
            Op::Write {
                ino,
                offset,
                len,
                fill,
                append,
                sync,
                kill,
            } => {
                let ino = pick(&inos, ino);
                let bytes = vec![fill; len as usize];
                let flags = WriteFlags {
                    append,
                    sync,
                    killed_by: kill.then_some(WRITER),
                    taken: false,
                };
                let expected = check_file(self.model.node(ino));
                let mut source = bytes.as_slice();
                let done = volume.write(ino, offset, bytes.len(), &mut source, flags);
                if let Some(count) = self.agree(done, &expected)? {
                    ensure!(count == bytes.len(), "wrote {count} bytes");
                    let node = self.model.edit(ino);
                    let offset = if append {
                        node.content.bytes.len()
                    } else {
                        at(offset)
                    };
                    node.content.write(offset, &bytes);
                    (node.mtime, node.ctime) = (now, now);
                    if kill {
                        node.kill_suidgid(WRITER);
                    }
                    if sync || self.setup.strict {
                        self.synced(ino);
                    }
                }
            }
            Op::Truncate { ino, size } => {
                let ino = pick(&inos, ino);
                let set = SetAttr {
                    size: Some(size),
                    ..SetAttr::default()
                };
                let expected = check_file(self.model.node(ino));
                if self.agree(volume.setattr(ino, &set), &expected)?.is_some() {
                    let node = self.model.edit(ino);
                    node.content.resize(at(size), Some(step));
                    (node.mtime, node.ctime) = (now, now);
                }
            }
            Op::Fallocate {
                ino,
                offset,
                len,
                how,
            } => {
                let ino = pick(&inos, ino);
                let expected = check_file(self.model.node(ino));
                let done = volume.fallocate(ino, offset, len, how);
                if self.agree(done, &expected)?.is_some() {
                    let node = self.model.edit(ino);
                    (node.mtime, node.ctime) = (now, now);
                    let (from, mut end) = (at(offset), at(offset + len));
                    let keeps = matches!(
                        how,
                        Fallocate::PunchHole
                            | Fallocate::Allocate { keep_size: true }
                            | Fallocate::ZeroRange { keep_size: true }
                    );
                    if !keeps && end > node.content.bytes.len() {
                        node.content.resize(end, Some(step));
                    }
                    end = end.min(node.content.bytes.len());
                    if !matches!(how, Fallocate::Allocate { .. }) && from < end {
                        node.content.replace(from, &vec![0; end - from], step);
                    }
                }
            }
            Op::Copy {
                from,
                from_offset,
                to,
                to_offset,
                len,
            } => {
                self.copy(
                    (pick(&inos, from), from_offset),
                    (pick(&inos, to), to_offset),
                    len,
                )?;
            }
            Op::Read { ino, offset, len } => {
                let ino = pick(&inos, ino);
                let node = self.model.node(ino);
                let mut found = Vec::new();
                let read = volume.read(ino, offset, len as usize, &mut found);
                if self.agree(read, &check_file(node))?.is_some() {
                    let bytes = &node.content.bytes;
                    let from = at(offset).min(bytes.len());
                    let end = (from + len as usize).min(bytes.len());
                    ensure!(found == bytes[from..end], "read other bytes");
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn copy(&mut self, from: (Ino, u64), to: (Ino, u64), len: u64) -> Outcome {
        let (now, step) = (self.model.now, self.model.step);
        let (source, target) = (self.model.node(from.0), self.model.node(to.0));
        let overlaps = from.0 == to.0 && from.1 < to.1 + len && to.1 < from.1 + len;
        let expected = if overlaps {
            Err("Invalid")
        } else {
            check_file(source).and(check_file(target))
        };
        let bytes = source.content.bytes.clone();
        let volume = Arc::clone(&self.volume);
        let done = volume.copy_range(from.0, from.1, to.0, to.1, len);
        let Some(copied) = self.agree(done, &expected)? else {
            return Ok(());
        };
        let there = (bytes.len() as u64).saturating_sub(from.1).min(len);
        ensure!(
            copied <= there && (copied > 0 || there == 0),
            "copied {copied} of {there}"
        );
        if copied > 0 {
            let node = self.model.edit(to.0);
            let range = at(from.1)..at(from.1 + copied);
            node.content.replace(at(to.1), &bytes[range], step);
            (node.mtime, node.ctime) = (now, now);
        }
        Ok(())
    }

    fn durability(&mut self, op: &Op) -> Outcome {
        let volume = Arc::clone(&self.volume);
        let say = |error: EngineError| format!("{error:?}");
        match op {
            Op::Fsync { ino, data } => {
                let ino = pick(&self.model.inos(), *ino);
                volume.fsync(ino, *data).map_err(say)?;
                self.synced(ino);
            }
            Op::FsyncDir { dir } => {
                let dir = pick(&self.model.dirs(), *dir);
                volume.fsync_dir(dir).map_err(say)?;
                self.synced_dir(dir);
            }
            Op::SyncAll => {
                volume.sync_all().map_err(say)?;
                self.synced_all();
            }
            Op::Tick => {
                volume.store().commit_tick().map_err(say)?;
                self.synced_all();
            }
            Op::Checkpoint => {
                volume.store().checkpoint().map_err(say)?;
                self.checkpointed();
            }
            Op::Compact { all } => {
                let store = volume.store();
                let any = CompactOptions {
                    percent: 1,
                    min_bytes: 0,
                    ..CompactOptions::default()
                };
                match all {
                    true => store.compact(&mut || true).map_err(say)?,
                    false => store.compact_idle(any, &mut || true).map_err(say)?,
                };
                store
                    .trim(&TrimOptions { min_bytes: 4096 }, &mut || true)
                    .map_err(say)?;
                self.checkpointed();
            }
            Op::Reclaim { which } => {
                let orphans = self.model.orphans();
                if !orphans.is_empty() {
                    self.reclaim(pick(&orphans, *which))?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn reclaim(&mut self, ino: Ino) -> Outcome {
        self.volume
            .reclaim(ino)
            .map_err(|error| format!("reclaim: {error:?}"))?;
        self.model.nodes.remove(&ino);
        Ok(())
    }

    /// Deletes everything, and waits until all space is free.
    pub fn empty(&mut self) -> Outcome {
        while self.model.dataset.0 != 0 {
            self.apply(&Op::Use { which: 0 })?;
        }
        while !self.model.others.is_empty() {
            self.apply(&Op::DeleteDataset { which: 0 })?;
        }
        self.apply(&Op::Reap { part: false })?;
        while self.model.nodes.len() > 1 {
            let dirs = self.model.dirs();
            for dir in 0..dirs.len() as u8 {
                let mut names = self.model.node(dirs[usize::from(dir)]).entries.keys();
                let many = names.any(|name| name.ends_with(b"-many"));
                self.apply(&Op::ManyNames {
                    dir,
                    start: 0,
                    count: if many { 500 } else { 0 },
                    remove: true,
                })?;
                for name in 0..NAMES {
                    self.apply(&Op::Unlink {
                        dir,
                        name,
                        keep: false,
                    })?;
                    if dirs.len() == self.model.dirs().len() {
                        self.apply(&Op::Rmdir { dir, name })?;
                    }
                }
            }
            for _ in 0..self.model.orphans().len() {
                self.apply(&Op::Reclaim { which: 0 })?;
            }
        }
        for _ in 0..2 {
            self.apply(&Op::Checkpoint)?;
        }
        self.compare()
    }
}
