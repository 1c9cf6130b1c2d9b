//! A directory of the host on its way into a dataset, or into a tar stream.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, SeekFrom, Stat, fgetxattr, flistxattr, fstat, lgetxattr,
    llistxattr, open, openat, readlinkat, seek, statat,
};
use rustix::io::{Errno, pread};

use super::super::extract::Put;
use super::super::{
    ArchiveError, LONG_PATH, NAMED_BYTES, PATH_BYTES_MAX, PIECE_BYTES, Result, Summary,
    device_number, joined,
};
use super::{XATTR_BYTES_MAX, kind_of, names_in, open_dir, path_of, time_of};
use crate::engine::{ImportedAttrs, Nameless, Xattr};

/// What went away or became something else since its directory was read.
const CHANGED: &str = "it changed while the tree was read";

/// What of a file is not there any more when it is read.
pub const SHORTER: &str = "the end of a file that became shorter meanwhile";

/// What a tree of the host goes to: a dataset, or a tar stream.
pub trait Sink {
    /// Something that was made, for what else is made in it or of it.
    type Made: Clone;

    fn summary(&mut self) -> &mut Summary;

    /// Gives the directory at the top its attributes.
    fn top(&mut self, attrs: &ImportedAttrs) -> Result<Self::Made>;

    /// Makes a directory, by its name in another.
    fn dir(&mut self, at: At<'_, Self>, path: &[u8], attrs: &ImportedAttrs) -> Result<Self::Made>;

    /// Makes a regular file; `None` where it is left out.
    fn file(
        &mut self,
        at: At<'_, Self>,
        path: &[u8],
        attrs: &ImportedAttrs,
        file: &mut HostFile<'_>,
    ) -> Result<Option<Self::Made>>;

    /// Makes a symlink, a fifo or a device node.
    fn other(
        &mut self,
        at: At<'_, Self>,
        path: &[u8],
        what: Nameless<'_>,
        attrs: &ImportedAttrs,
    ) -> Result<Self::Made>;

    /// Gives what was made one more name.
    fn link(&mut self, made: &Self::Made, at: At<'_, Self>, path: &[u8]) -> Result<()>;
}

/// A directory that was made, and a name in it.
pub type At<'a, S> = (&'a <S as Sink>::Made, &'a [u8]);

/// A directory whose entries are being read.
struct Level<M> {
    dir: OwnedFd,
    path: Vec<u8>,
    made: M,
    names: std::vec::IntoIter<Vec<u8>>,
}

/// A tree of the host on its way.
pub struct Walk<'s, S: Sink> {
    sink: &'s mut S,
    how: WalkHow,
    /// The device that the tree begins on.
    device: u64,
    /// What has several names, and what was made of it.
    linked: HashMap<(u64, u64), S::Made>,
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

impl<'s, S: Sink> Walk<'s, S> {
    pub fn new(sink: &'s mut S, how: WalkHow) -> Self {
        Walk {
            sink,
            how,
            device: 0,
            linked: HashMap::new(),
            piece: vec![0; PIECE_BYTES],
        }
    }

    /// Takes what is in a directory, depth first.
    pub fn run(mut self, source: &Path) -> Result<()> {
        let dir = open_top(source)?;
        let stat = fstat(&dir).map_err(ArchiveError::host(b"", "reading its attributes"))?;
        self.device = stat.st_dev;
        let attrs = attrs_of(&stat, xattrs_of_file(&dir, b"")?);
        let top = self.sink.top(&attrs)?;
        let mut levels = vec![level(dir, Vec::new(), top)?];
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

    /// Takes an entry; a directory's own entries are to follow.
    fn entry(&mut self, level: &Level<S::Made>, name: &[u8]) -> Result<Option<Level<S::Made>>> {
        let path = joined(&level.path, name);
        if path.len() > PATH_BYTES_MAX {
            let begin = path.get(..NAMED_BYTES).unwrap_or(&path);
            self.sink.summary().skip(begin, LONG_PATH);
            return Ok(None);
        }
        let stat = match statat(&level.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => {
                self.sink.summary().skip(&path, CHANGED);
                return Ok(None);
            }
            Err(errno) => return Err(ArchiveError::host(&path, "reading its attributes")(errno)),
        };
        match kind_of(&stat) {
            FileType::Directory => return self.directory(level, name, path),
            FileType::RegularFile => self.file(level, name, &path)?,
            FileType::Socket => self.sink.summary().skip(&path, "a socket"),
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
                self.sink.summary().skip(path, CHANGED);
                return Ok(None);
            }
            Err(errno) => return Err(ArchiveError::host(path, "opening")(errno)),
        };
        let stat = fstat(&file).map_err(ArchiveError::host(path, "reading its attributes"))?;
        if kind_of(&stat) != kind {
            self.sink.summary().skip(path, CHANGED);
            return Ok(None);
        }
        Ok(Some((file, stat)))
    }

    fn directory(
        &mut self,
        level: &Level<S::Made>,
        name: &[u8],
        path: Vec<u8>,
    ) -> Result<Option<Level<S::Made>>> {
        let opened = open_dir(&level.dir, name);
        let Some((dir, stat)) = self.opened(&path, opened, FileType::Directory)? else {
            return Ok(None);
        };
        if self.how.is_store(&stat) {
            self.sink.summary().skip(&path, "the store itself");
            return Ok(None);
        }
        let attrs = attrs_of(&stat, xattrs_of_file(&dir, &path)?);
        let made = self.sink.dir((&level.made, name), &path, &attrs)?;
        if self.how.one_file_system && stat.st_dev != self.device {
            self.sink
                .summary()
                .skip(&path, "what another file system has there");
            return Ok(None);
        }
        super::read::level(dir, path, made).map(Some)
    }

    fn file(&mut self, level: &Level<S::Made>, name: &[u8], path: &[u8]) -> Result<()> {
        // Without waiting for whoever writes to a fifo that it may have become.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = openat(&level.dir, name, flags | OFlags::NOCTTY, Mode::empty());
        let Some((file, stat)) = self.opened(path, opened, FileType::RegularFile)? else {
            return Ok(());
        };
        let at = (&level.made, name);
        if self.link(&stat, at, path)? {
            return Ok(());
        }
        let attrs = attrs_of(&stat, xattrs_of_file(&file, path)?);
        let mut content = HostFile {
            file: &file,
            stat: &stat,
            piece: &mut self.piece,
        };
        if let Some(made) = self.sink.file(at, path, &attrs, &mut content)? {
            self.remember(&stat, &made);
        }
        Ok(())
    }

    /// A symlink, a fifo or a device node.
    fn special(
        &mut self,
        level: &Level<S::Made>,
        name: &[u8],
        path: &[u8],
        (kind, stat): (FileType, &Stat),
    ) -> Result<()> {
        let at = (&level.made, name);
        if self.link(stat, at, path)? {
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
                    self.sink.summary().skip(path, CHANGED);
                    return Ok(());
                }
                Err(errno) => return Err(ArchiveError::host(path, "reading its target")(errno)),
            },
            FileType::Fifo => Nameless::Fifo,
            FileType::CharacterDevice => Nameless::CharDevice(device()?),
            FileType::BlockDevice => Nameless::BlockDevice(device()?),
            _ => {
                self.sink
                    .summary()
                    .skip(path, "of a kind that is not known");
                return Ok(());
            }
        };
        let attrs = attrs_of(stat, xattrs_of_name(&level.dir, name, path)?);
        let made = self.sink.other(at, path, what, &attrs)?;
        self.remember(stat, &made);
        Ok(())
    }

    /// Whether it is another name of what was made already, and has it now.
    fn link(&mut self, stat: &Stat, at: At<'_, S>, path: &[u8]) -> Result<bool> {
        match self.linked.get(&(stat.st_dev, stat.st_ino)) {
            Some(made) if stat.st_nlink > 1 => {
                self.sink.link(made, at, path)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn remember(&mut self, stat: &Stat, made: &S::Made) {
        if stat.st_nlink > 1 {
            self.linked.insert((stat.st_dev, stat.st_ino), made.clone());
        }
    }
}

fn level<M>(dir: OwnedFd, path: Vec<u8>, made: M) -> Result<Level<M>> {
    let names = names_in(&dir).map_err(ArchiveError::host(&path, "reading the directory"))?;
    Ok(Level {
        dir,
        path,
        made,
        names: names.into_iter(),
    })
}

/// A file's content, to be read from its beginning to its end.
pub struct HostFile<'w> {
    file: &'w OwnedFd,
    stat: &'w Stat,
    piece: &'w mut Vec<u8>,
}

impl HostFile<'_> {
    /// Bytes that it had when it was opened.
    pub fn size(&self) -> u64 {
        u64::try_from(self.stat.st_size).unwrap_or(0)
    }

    /// The first range of data at or behind an offset; `None` when there is none any more.
    pub fn range_from(&self, path: &[u8], at: u64) -> Result<Option<(u64, u64)>> {
        let size = self.size();
        let blocks = u64::try_from(self.stat.st_blocks).unwrap_or(0);
        let (start, end) = match blocks.saturating_mul(512) < size {
            true => next_data(self.file, at, size).map_err(ArchiveError::host(path, "reading"))?,
            false => (at, size),
        };
        Ok((start < end).then(|| (start, end - start)))
    }

    /// Reads a range in pieces, as far as the file goes; whether that is all of it.
    pub fn read(
        &mut self,
        path: &[u8],
        (start, len): (u64, u64),
        put: &mut Put<'_>,
    ) -> Result<bool> {
        let mut done = 0;
        while done < len {
            let rest = usize::try_from(len - done).unwrap_or(usize::MAX);
            let most = rest.min(self.piece.len());
            let into = self.piece.get_mut(..most).unwrap_or_default();
            let read = read_at(self.file, into, start.saturating_add(done));
            let read = read.map_err(ArchiveError::host(path, "reading"))?;
            put(
                start.saturating_add(done),
                into.get(..read).unwrap_or_default(),
            )?;
            done += read as u64;
            if read < most {
                return Ok(false);
            }
        }
        Ok(true)
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
    let mut levels = vec![level(dir, Vec::new(), ()).ok()?];
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
                levels.extend(below.and_then(|dir| level(dir, Vec::new(), ()).ok()));
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
