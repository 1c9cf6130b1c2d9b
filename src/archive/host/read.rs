//! A directory of the host, imported.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, SeekFrom, Stat, fgetxattr, flistxattr, fstat, lgetxattr,
    llistxattr, open, openat, readlinkat, seek, statat,
};
use rustix::io::{Errno, pread};

use super::super::import::Importer;
use super::super::{ArchiveError, PIECE_BYTES, Result, device_number, joined};
use super::{XATTR_BYTES_MAX, kind_of, names_in, open_dir, path_of, time_of};
use crate::engine::{ImportedAttrs, Nameless, Xattr};
use crate::format::id::Ino;

/// What went away or became something else since its directory was read.
const CHANGED: &str = "it changed while the tree was read";

/// A directory whose entries are being imported.
struct Level {
    dir: OwnedFd,
    path: Vec<u8>,
    ino: Ino,
    names: std::vec::IntoIter<Vec<u8>>,
}

/// A tree of the host on its way into a dataset.
pub struct Walk<'i, 'a> {
    importer: &'i mut Importer<'a>,
    how: WalkHow,
    /// The device that the tree begins on.
    device: u64,
    /// What has several names, and what it was imported as.
    linked: HashMap<(u64, u64), Ino>,
    piece: Vec<u8>,
}

/// What a walk passes by.
#[derive(Debug, Clone, Copy, Default)]
pub struct WalkHow {
    /// What lies on other file systems.
    pub one_file_system: bool,
    /// This directory, by device and inode: the store that is imported into.
    pub but: Option<(u64, u64)>,
}

impl WalkHow {
    fn is_store(&self, stat: &Stat) -> bool {
        self.but == Some((stat.st_dev, stat.st_ino))
    }
}

fn open_top(source: &Path) -> Result<OwnedFd> {
    use std::os::unix::ffi::OsStrExt;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(source, flags, Mode::empty())
        .map_err(ArchiveError::host(source.as_os_str().as_bytes(), "opening"))
}

impl<'i, 'a> Walk<'i, 'a> {
    pub fn new(importer: &'i mut Importer<'a>, how: WalkHow) -> Self {
        Walk {
            importer,
            how,
            device: 0,
            linked: HashMap::new(),
            piece: vec![0; PIECE_BYTES],
        }
    }

    /// Imports what is in a directory, depth first.
    pub fn run(mut self, source: &Path) -> Result<()> {
        let dir = open_top(source)?;
        let stat = fstat(&dir).map_err(ArchiveError::host(b"", "reading its attributes"))?;
        self.device = stat.st_dev;
        let attrs = attrs_of(&stat, xattrs_of_file(&dir, b"")?);
        self.importer.top(&attrs)?;
        let mut levels = vec![level(dir, Vec::new(), self.importer.root())?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.next() else {
                levels.pop();
                continue;
            };
            if let Some(below) = self.entry(level, &name)? {
                levels.push(below);
            }
        }
        Ok(())
    }

    /// Imports an entry; a directory's own entries are to follow.
    fn entry(&mut self, level: &Level, name: &[u8]) -> Result<Option<Level>> {
        let path = joined(&level.path, name);
        let stat = match statat(&level.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => {
                self.importer.summary.skip(&path, CHANGED);
                return Ok(None);
            }
            Err(errno) => return Err(ArchiveError::host(&path, "reading its attributes")(errno)),
        };
        match kind_of(&stat) {
            FileType::Directory => return self.directory(level, name, path),
            FileType::RegularFile => self.file(level, name, &path)?,
            FileType::Socket => self.importer.summary.skip(&path, "a socket"),
            kind => self.special(level, name, &path, (kind, &stat))?,
        }
        Ok(None)
    }

    /// Whether it cannot be opened because it is something else by now.
    fn opened(
        &mut self,
        path: &[u8],
        opened: std::result::Result<OwnedFd, Errno>,
        kind: FileType,
    ) -> Result<Option<(OwnedFd, Stat)>> {
        let file = match opened {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO) => {
                self.importer.summary.skip(path, CHANGED);
                return Ok(None);
            }
            Err(errno) => return Err(ArchiveError::host(path, "opening")(errno)),
        };
        let stat = fstat(&file).map_err(ArchiveError::host(path, "reading its attributes"))?;
        if kind_of(&stat) != kind {
            self.importer.summary.skip(path, CHANGED);
            return Ok(None);
        }
        Ok(Some((file, stat)))
    }

    fn directory(&mut self, level: &Level, name: &[u8], path: Vec<u8>) -> Result<Option<Level>> {
        let opened = open_dir(&level.dir, name);
        let Some((dir, stat)) = self.opened(&path, opened, FileType::Directory)? else {
            return Ok(None);
        };
        if self.how.is_store(&stat) {
            self.importer.summary.skip(&path, "the store itself");
            return Ok(None);
        }
        let attrs = attrs_of(&stat, xattrs_of_file(&dir, &path)?);
        let ino = self.importer.dir((level.ino, name), &path, &attrs)?;
        if self.how.one_file_system && stat.st_dev != self.device {
            self.importer
                .summary
                .skip(&path, "what another file system has there");
            return Ok(None);
        }
        super::read::level(dir, path, ino).map(Some)
    }

    fn file(&mut self, level: &Level, name: &[u8], path: &[u8]) -> Result<()> {
        // Without waiting for whoever writes to a fifo that it may have become.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = openat(&level.dir, name, flags | OFlags::NOCTTY, Mode::empty());
        let Some((file, stat)) = self.opened(path, opened, FileType::RegularFile)? else {
            return Ok(());
        };
        if self.link(&stat, (level.ino, name), path)? {
            return Ok(());
        }
        let attrs = attrs_of(&stat, xattrs_of_file(&file, path)?);
        let mut piece = std::mem::take(&mut self.piece);
        let mut fill = |importer: &mut Importer<'a>, ino| {
            copy(importer, ino, path, (&file, &stat), &mut piece)
        };
        let place = (level.ino, name);
        let ino = self
            .importer
            .make(place, path, Nameless::File, &attrs, &mut fill)?;
        self.piece = piece;
        self.remember(&stat, ino);
        Ok(())
    }

    /// A symlink, a fifo or a device node.
    fn special(
        &mut self,
        level: &Level,
        name: &[u8],
        path: &[u8],
        (kind, stat): (FileType, &Stat),
    ) -> Result<()> {
        if self.link(stat, (level.ino, name), path)? {
            return Ok(());
        }
        let target;
        let device = || {
            let (major, minor) = (
                rustix::fs::major(stat.st_rdev),
                rustix::fs::minor(stat.st_rdev),
            );
            device_number(major.into(), minor.into())
                .ok_or_else(|| ArchiveError::refused(path, "a device number that is too large"))
        };
        let what = match kind {
            FileType::Symlink => match readlinkat(&level.dir, name, Vec::new()) {
                Ok(found) => {
                    target = found.into_bytes();
                    Nameless::Symlink(&target)
                }
                Err(Errno::NOENT | Errno::INVAL) => {
                    self.importer.summary.skip(path, CHANGED);
                    return Ok(());
                }
                Err(errno) => return Err(ArchiveError::host(path, "reading its target")(errno)),
            },
            FileType::Fifo => Nameless::Fifo,
            FileType::CharacterDevice => Nameless::CharDevice(device()?),
            FileType::BlockDevice => Nameless::BlockDevice(device()?),
            _ => {
                self.importer
                    .summary
                    .skip(path, "of a kind that is not known");
                return Ok(());
            }
        };
        let attrs = attrs_of(stat, xattrs_of_name(&level.dir, name, path)?);
        let place = (level.ino, name);
        let ino = self
            .importer
            .make(place, path, what, &attrs, &mut |_, _| Ok(()))?;
        self.remember(stat, ino);
        Ok(())
    }

    /// Whether it is another name of what was imported already, and has it now.
    fn link(&mut self, stat: &Stat, place: (Ino, &[u8]), path: &[u8]) -> Result<bool> {
        match self.linked.get(&(stat.st_dev, stat.st_ino)) {
            Some(ino) if stat.st_nlink > 1 => {
                self.importer.link(*ino, place, path)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn remember(&mut self, stat: &Stat, ino: Ino) {
        if stat.st_nlink > 1 {
            self.linked.insert((stat.st_dev, stat.st_ino), ino);
        }
    }
}

fn level(dir: OwnedFd, path: Vec<u8>, ino: Ino) -> Result<Level> {
    let names = names_in(&dir).map_err(ArchiveError::host(&path, "reading the directory"))?;
    Ok(Level {
        dir,
        path,
        ino,
        names: names.into_iter(),
    })
}

/// Copies a file's content, but its holes.
fn copy(
    importer: &mut Importer<'_>,
    ino: Ino,
    path: &[u8],
    (file, stat): (&OwnedFd, &Stat),
    piece: &mut [u8],
) -> Result<()> {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
    let has_holes = blocks.saturating_mul(512) < size;
    let reading = || ArchiveError::host(path, "reading");
    let mut at = 0;
    let mut end = 0;
    while at < size {
        let (start, stop) = match has_holes {
            true => next_data(file, at, size).map_err(reading())?,
            false => (at, size),
        };
        at = start;
        while at < stop {
            let most = piece
                .len()
                .min(usize::try_from(stop - at).unwrap_or(usize::MAX));
            let Some(into) = piece.get_mut(..most) else {
                break;
            };
            let read = read_at(file, into, at).map_err(reading())?;
            importer.write(ino, path, at, into.get(..read).unwrap_or_default())?;
            at += read as u64;
            end = at;
            if read < most {
                // It became shorter: what is there now is what is taken.
                importer
                    .summary
                    .skip(path, "the end of a file that became shorter meanwhile");
                return Ok(());
            }
        }
    }
    match end < size {
        true => importer.set_size(ino, path, size),
        false => Ok(()),
    }
}

/// Where data begins at or behind `at`, and where it ends.
fn next_data(file: &OwnedFd, at: u64, size: u64) -> std::result::Result<(u64, u64), Errno> {
    let start = match seek(file, SeekFrom::Data(at)) {
        Ok(start) => start.min(size),
        Err(Errno::NXIO) => return Ok((size, size)),
        // The file system does not know holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok((at, size)),
        Err(errno) => return Err(errno),
    };
    let end = match seek(file, SeekFrom::Hole(start)) {
        Ok(end) => end.clamp(start, size),
        Err(Errno::NXIO) => size,
        Err(errno) => return Err(errno),
    };
    // Punched between the two: looked at again, and never without going on.
    Ok((start, end.max(start.saturating_add(1).min(size))))
}

/// Fills `into`, as far as the file goes.
fn read_at(file: &OwnedFd, into: &mut [u8], at: u64) -> std::result::Result<usize, Errno> {
    let mut done = 0;
    while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match pread(file, rest, at + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}

fn attrs_of(stat: &Stat, xattrs: Vec<Xattr>) -> ImportedAttrs {
    ImportedAttrs {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        atime: time_of(stat.st_atime, stat.st_atime_nsec),
        mtime: time_of(stat.st_mtime, stat.st_mtime_nsec),
        xattrs,
    }
}

fn xattrs_of_file(file: &OwnedFd, path: &[u8]) -> Result<Vec<Xattr>> {
    let mut list = |into: &mut [u8]| flistxattr(file, into);
    let mut get = |name: &[u8], into: &mut [u8]| fgetxattr(file, name, into);
    xattrs(&mut list, &mut get).map_err(ArchiveError::host(path, "reading its attributes"))
}

fn xattrs_of_name(dir: &OwnedFd, name: &[u8], path: &[u8]) -> Result<Vec<Xattr>> {
    let at = path_of(dir, name);
    let mut list = |into: &mut [u8]| llistxattr(at.as_slice(), into);
    let mut get = |name: &[u8], into: &mut [u8]| lgetxattr(at.as_slice(), name, into);
    xattrs(&mut list, &mut get).map_err(ArchiveError::host(path, "reading its attributes"))
}

type Calls<'a> = &'a mut dyn FnMut(&[u8], &mut [u8]) -> std::result::Result<usize, Errno>;

fn xattrs(
    list: &mut dyn FnMut(&mut [u8]) -> std::result::Result<usize, Errno>,
    get: Calls<'_>,
) -> std::result::Result<Vec<Xattr>, Errno> {
    // Most have none, or few.
    let mut names = vec![0; 1 << 10];
    let len = match list(&mut names) {
        Ok(0) | Err(Errno::OPNOTSUPP | Errno::NOENT) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {
            names = vec![0; XATTR_BYTES_MAX];
            list(&mut names)?
        }
        Ok(len) => len,
        Err(errno) => return Err(errno),
    };
    names.truncate(len);
    let mut value = vec![0; XATTR_BYTES_MAX];
    let mut found = Vec::new();
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        match get(name, &mut value) {
            Ok(len) => found.push((name.to_vec(), value.get(..len).unwrap_or_default().to_vec())),
            // Removed meanwhile; or told of, and not to be had.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(found)
}

/// What is in a tree, roughly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expected {
    /// Names.
    pub entries: u64,
    /// Bytes that files take.
    pub bytes: u64,
}

/// Counts what importing a directory would import. What cannot be read does not count; `None` when
/// `stop` says that nobody wants to know any more.
pub fn expected(source: &Path, how: WalkHow, stop: &dyn Fn() -> bool) -> Option<Expected> {
    let mut found = Expected::default();
    let dir = open_top(source).ok()?;
    let device = fstat(&dir).ok()?.st_dev;
    let mut levels = vec![level(dir, Vec::new(), Ino::ROOT).ok()?];
    while let Some(last) = levels.last_mut() {
        if stop() {
            return None;
        }
        let Some(name) = last.names.next() else {
            levels.pop();
            continue;
        };
        let Ok(stat) = statat(&last.dir, &*name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        found.entries += 1;
        match kind_of(&stat) {
            FileType::Directory if how.is_store(&stat) => {}
            FileType::Directory if how.one_file_system && stat.st_dev != device => {}
            FileType::Directory => {
                let below = open_dir(&last.dir, &name).ok();
                levels.extend(below.and_then(|dir| level(dir, Vec::new(), Ino::ROOT).ok()));
            }
            FileType::RegularFile => {
                let stored = u64::try_from(stat.st_blocks)
                    .unwrap_or(0)
                    .saturating_mul(512);
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                found.bytes = found.bytes.saturating_add(stored.min(size));
            }
            _ => {}
        }
    }
    Some(found)
}
