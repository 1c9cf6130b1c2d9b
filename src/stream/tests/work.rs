//! Random work on a dataset: whatever a guest may do to a tree.

use rand::seq::IteratorRandom;
use rand::{Rng, RngCore};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::engine::{EngineError, Fallocate, FsXattr, RenameMode, SetAttr, SetTime};

/// An access list that says more than a mode can: user 1000 may read.
const ACL: [u8; 44] = [
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 232, 3, 0, 0, 4, 0, 4, 0, 255, 255,
    255, 255, 16, 0, 6, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
];

pub(super) struct Work<'a> {
    pub(super) volume: &'a Volume,
    pub(super) random: &'a mut ChaCha8Rng,
}

/// Directories, and other things by directory, name and number.
#[derive(Default)]
struct Found {
    dirs: Vec<(Ino, Ino, Vec<u8>)>,
    others: Vec<(Ino, Ino, Vec<u8>, u32)>,
}

impl Work<'_> {
    fn look(&self, dir: Ino, found: &mut Found) {
        let mut entries = Vec::new();
        let mut visit = |entry: crate::engine::DirEntry| {
            entries.push(entry);
            true
        };
        self.volume.readdir(dir, 2, &mut visit).unwrap();
        for entry in entries {
            let kind = u32::from(entry.file_type) << 12;
            if kind == libc::S_IFDIR {
                found.dirs.push((entry.ino, dir, entry.name));
                self.look(entry.ino, found);
            } else {
                found.others.push((entry.ino, dir, entry.name, kind));
            }
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        let len = match self.random.random_range(0..4) {
            0 => self.random.random_range(1..200),
            1..3 => self.random.random_range(1..20_000),
            _ => self.random.random_range(1..200_000),
        };
        let mut bytes = vec![self.random.random::<u8>(); len];
        if self.random.random_bool(0.3) {
            self.random.fill_bytes(&mut bytes);
        }
        bytes
    }

    fn time(&mut self) -> SetTime {
        SetTime::At(Time {
            sec: self.random.random_range(-1_000_000..1 << 40),
            nsec: self.random.random_range(0..1_000_000_000),
        })
    }

    /// One change, or an attempt that fails.
    pub(super) fn change(&mut self) {
        let mut found = Found::default();
        self.look(ROOT, &mut found);
        let dirs = found.dirs.iter().map(|(ino, ..)| *ino).chain([ROOT]);
        let dir = dirs.choose(self.random).unwrap_or(ROOT);
        let files = found
            .others
            .iter()
            .filter(|(.., kind)| *kind == libc::S_IFREG);
        let file = files.choose(self.random).cloned();
        let other = found.others.iter().choose(self.random).cloned();
        let sub = found.dirs.iter().choose(self.random).cloned();
        let name = format!("n{}", self.random.random_range(0..12)).into_bytes();
        let done = match (self.random.random_range(0..24), file, other, sub) {
            (0..3, ..) => self.make(dir, &name),
            (3..9, Some((ino, ..)), ..) => self.change_content(ino),
            (9, Some((ino, ..)), ..) => {
                let source = found
                    .others
                    .iter()
                    .filter(|(.., kind)| *kind == libc::S_IFREG);
                let source = source.choose(self.random).map_or(ino, |(ino, ..)| *ino);
                let (from, to) = (
                    self.random.random_range(0..100_000),
                    self.random.random_range(0..300_000),
                );
                self.volume
                    .copy_range(source, from, ino, to, 150_000)
                    .map(|_| ())
            }
            (10..12, _, Some((ino, ..)), _) => self.change_attributes(ino),
            (12, _, _, Some((ino, ..))) => self.change_attributes(ino),
            (13, _, Some((ino, ..)), _) => self.volume.link(ino, dir, &name).map(|_| ()),
            (14..16, _, Some((_, above, old, _)), _) => {
                let mode = [
                    RenameMode::Replace,
                    RenameMode::NoReplace,
                    RenameMode::Exchange,
                ][self.random.random_range(0..3)];
                let done = self.volume.rename(above, &old, dir, &name, mode);
                done.and_then(|gone| self.reclaim(gone))
            }
            (16..18, _, _, Some((_, above, old))) => {
                let mode =
                    [RenameMode::Replace, RenameMode::Exchange][self.random.random_range(0..2)];
                let done = self.volume.rename(above, &old, dir, &name, mode);
                done.and_then(|gone| self.reclaim(gone))
            }
            (18..21, _, Some((_, above, old, _)), _) => {
                let done = self.volume.unlink(above, &old);
                done.and_then(|gone| self.reclaim(Some(gone)))
            }
            (21, _, _, Some((_, above, old))) => {
                let done = self.volume.rmdir(above, &old);
                done.and_then(|gone| self.reclaim(Some(gone)))
            }
            (22, ..) => {
                let made = self
                    .volume
                    .tmpfile(Cred::default(), dir, &new(FILE))
                    .unwrap();
                let bytes = self.bytes();
                let mut from = bytes.as_slice();
                let flags = WriteFlags::default();
                self.volume
                    .write(made.ino, 0, bytes.len(), &mut from, flags)
                    .unwrap();
                self.volume.fsync(made.ino, false).unwrap();
                Ok(())
            }
            // What has no name gets one.
            _ => {
                let orphan = self
                    .volume
                    .orphans_for_tests()
                    .into_iter()
                    .choose(self.random);
                match orphan {
                    Some(ino) => self.volume.link(ino, dir, &name).map(|_| ()),
                    None => Ok(()),
                }
            }
        };
        // Some are refused, as they should be.
        if let Err(EngineError::Store(error)) = done {
            panic!("{error}");
        }
    }

    /// Somebody may have it open.
    fn reclaim(&mut self, gone: Option<crate::engine::Removed>) -> Result<(), EngineError> {
        match gone {
            Some(gone) if gone.orphan && self.random.random_bool(0.8) => {
                self.volume.reclaim(gone.ino)
            }
            _ => Ok(()),
        }
    }

    fn make(&mut self, dir: Ino, name: &[u8]) -> Result<(), EngineError> {
        let cred = Cred {
            uid: self.random.random_range(0..5),
            gid: self.random.random_range(0..5),
        };
        let made = match self.random.random_range(0..10) {
            0..5 => self.volume.create(cred, dir, name, &new(FILE)),
            5..8 => self.volume.create(cred, dir, name, &new(DIR)),
            8 => {
                let target = vec![b't'; self.random.random_range(1..4000)];
                self.volume.symlink(cred, dir, name, &target, &new(0))
            }
            _ => {
                let kinds = [libc::S_IFIFO, libc::S_IFSOCK, libc::S_IFCHR, libc::S_IFBLK];
                let mode = kinds[self.random.random_range(0..4)] | 0o640;
                let is_device = matches!(mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK);
                let rdev = if is_device { 0x0801 } else { 0 };
                self.volume
                    .create(cred, dir, name, &NewInode { rdev, ..new(mode) })
            }
        };
        made.map(|_| ())
    }

    fn change_content(&mut self, ino: Ino) -> Result<(), EngineError> {
        let offset = self.random.random_range(0..300_000);
        let len = self.random.random_range(1..150_000);
        let volume = self.volume;
        match self.random.random_range(0..10) {
            0..5 => {
                let bytes = self.bytes();
                let mut from = bytes.as_slice();
                let flags = WriteFlags::default();
                volume.write(ino, offset, bytes.len(), &mut from, flags)?;
                if self.random.random_bool(0.7) {
                    volume.fsync(ino, false)?;
                }
                Ok(())
            }
            5..7 => {
                let set = SetAttr {
                    size: Some(offset),
                    ..SetAttr::default()
                };
                volume.setattr(ino, &set).map(|_| ())
            }
            7 => volume.fallocate(ino, offset, len, Fallocate::PunchHole),
            8 => {
                let keep_size = self.random.random_bool(0.5);
                let how = Fallocate::Allocate { keep_size };
                volume.fallocate(ino, offset, len, how)
            }
            _ => volume.fallocate(ino, offset, len, Fallocate::ZeroRange { keep_size: true }),
        }
    }

    fn change_attributes(&mut self, ino: Ino) -> Result<(), EngineError> {
        let set = SetAttr {
            mode: Some(self.random.random_range(0..0o7777)),
            uid: Some(self.random.random_range(0..9)),
            atime: Some(self.time()),
            mtime: Some(self.time()),
            ..SetAttr::default()
        };
        let volume = self.volume;
        let name = format!("trusted.n{}", self.random.random_range(0..3)).into_bytes();
        match self.random.random_range(0..6) {
            0..2 => volume.setattr(ino, &set).map(|_| ()),
            2 => {
                let value = vec![self.random.random(); self.random.random_range(0..5000)];
                volume.setxattr(ino, &name, &value, SetXattr::Any, false)
            }
            3 => volume.removexattr(ino, &name),
            4 => {
                let name = b"system.posix_acl_access";
                volume.setxattr(ino, name, &ACL, SetXattr::Any, false)
            }
            _ => {
                let projid = self.random.random_range(0..4);
                volume.set_fsxattr(ino, FsXattr { xflags: 0, projid })
            }
        }
    }
}
