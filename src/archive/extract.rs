//! What is in a dataset goes out.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::Path;

use super::host::write::Directory;
use super::import::components;
use super::ranges::Ranges;
use super::tar::{RANGES_WRITTEN_MAX, Writer};
use super::{
    ArchiveError, LONG_PATH, NAMED_BYTES, PATH_BYTES_MAX, PIECE_BYTES, Result, Summary, Tell,
    XATTRS_BYTES_MAX, go_down, say,
};
use crate::engine::{Attr, DirEntry, EngineError, ImportedAttrs, Seek, Volume, Xattr};
use crate::format::id::Ino;

/// A file of which no stream says where all of its data is.
pub const TOO_SPARSE: &str = "a file with more and larger holes than a tar stream can have";

/// The cookie of `..`, behind which the entries come.
const PARENT_COOKIE: u64 = 2;
/// What stands in a header for each extended attribute besides its name and its value, at most.
const XATTR_HEAD_BYTES: usize = 64;

/// Something of a dataset, but for its content.
pub struct Found {
    /// Its attributes.
    pub attr: Attr,
    /// All extended attributes.
    pub xattrs: Vec<Xattr>,
}

impl Found {
    /// Something of which no more is known than goes into a stream: of this type (`S_IFMT`).
    pub fn of(file_type: u32, rdev: u32, size: u64, attrs: &ImportedAttrs) -> Self {
        let (atime, mtime) = (attrs.atime, attrs.mtime);
        let attr = Attr {
            ino: Ino(0),
            mode: file_type | attrs.mode,
            nlink: 1,
            uid: attrs.uid,
            gid: attrs.gid,
            rdev,
            size,
            blocks: 0,
            unwritten: false,
            flags: 0,
            atime,
            mtime,
            ctime: mtime,
            btime: mtime,
        };
        let xattrs = attrs.xattrs.clone();
        Found { attr, xattrs }
    }
}

/// What goes out is made here.
pub trait Target {
    /// A directory, with what follows until it is left; an empty path for the one at the top.
    fn enter(&mut self, path: &[u8], found: Found, summary: &mut Summary) -> Result<()>;

    /// The directory that was entered last is complete.
    fn leave(&mut self, summary: &mut Summary) -> Result<()>;

    /// A regular file; whether it was made.
    fn file(&mut self, path: &[u8], found: &Found, content: &mut dyn Content) -> Result<bool>;

    /// A symlink with a target, a fifo or a device node; whether it was made.
    fn other(
        &mut self,
        path: &[u8],
        found: &Found,
        target: &[u8],
        summary: &mut Summary,
    ) -> Result<bool>;

    /// One more name of what was made with the path `first`.
    fn link(&mut self, path: &[u8], first: &[u8], found: &Found) -> Result<()>;
}

/// A file's content, to be read from its beginning to its end.
pub trait Content {
    fn summary(&mut self) -> &mut Summary;

    /// The first range of data at or behind an offset, which is 0 or where the one before ended; `None`
    /// when there is none any more.
    fn range_from(&mut self, path: &[u8], at: u64) -> Result<Option<(u64, u64)>>;

    /// Reads a range in pieces: each range once, in their order.
    fn read(&mut self, path: &[u8], range: (u64, u64), put: &mut Put<'_>) -> Result<()>;
}

/// Takes a piece of a file, and where it is.
pub type Put<'a> = dyn FnMut(u64, &[u8]) -> Result<()> + 'a;

/// The content of a dataset's file.
struct Stored<'v, 't> {
    volume: &'v Volume,
    ino: Ino,
    size: u64,
    summary: &'v mut Summary,
    tell: &'v mut Tell<'t>,
    piece: &'v mut Vec<u8>,
}

impl Content for Stored<'_, '_> {
    fn summary(&mut self) -> &mut Summary {
        self.summary
    }

    fn range_from(&mut self, path: &[u8], at: u64) -> Result<Option<(u64, u64)>> {
        // There may be millions, and who waits for the end may have guests wait.
        say(self.tell, self.summary)?;
        if at >= self.size {
            return Ok(None);
        }
        let start = match self.volume.seek(self.ino, at, Seek::Data) {
            Ok(start) => start,
            Err(EngineError::NoSuchOffset) => return Ok(None),
            Err(error) => return Err(ArchiveError::store(path)(error)),
        };
        let end = self
            .volume
            .seek(self.ino, start, Seek::Hole)
            .map_err(ArchiveError::store(path))?;
        Ok(Some((start, end.saturating_sub(start))))
    }

    fn read(&mut self, path: &[u8], (start, len): (u64, u64), put: &mut Put<'_>) -> Result<()> {
        let mut done = 0;
        while done < len {
            let rest = usize::try_from(len - done).unwrap_or(usize::MAX);
            let most = rest.min(PIECE_BYTES);
            self.piece.clear();
            let read = self
                .volume
                .read(self.ino, start + done, most, self.piece)
                .map_err(ArchiveError::store(path))?;
            if read == 0 {
                return Err(ArchiveError::corrupt(path, "it ends before its size"));
            }
            put(start + done, self.piece)?;
            done += read as u64;
            self.summary.bytes = self.summary.bytes.saturating_add(read as u64);
            say(self.tell, self.summary)?;
        }
        Ok(())
    }
}

/// What is at `path` of a dataset; its root when that is empty.
///
/// # Errors
/// When nothing is there; when the path leads elsewhere.
pub fn find(volume: &Volume, path: &[u8]) -> Result<Ino> {
    let mut ino = Ino::ROOT;
    for name in components(path)? {
        let found = volume.lookup(ino, name);
        ino = found.map_err(ArchiveError::store(path))?.ino;
    }
    Ok(ino)
}

/// Extracts what is at `path` of a dataset (its root when that is empty) into a directory of the
/// host, which is made, or is there and empty. Durable when this returns.
///
/// # Errors
/// When something cannot be read, or not be made. The summary says what was extracted.
pub fn extract_to_directory(
    volume: &Volume,
    path: &[u8],
    target: &Path,
    tell: &mut Tell<'_>,
) -> (Summary, Result<()>) {
    let mut extraction = Extraction::new(volume, tell);
    let done = Directory::make(target).and_then(|mut directory| {
        extraction.run(path, &mut directory)?;
        directory.sync()
    });
    (extraction.summary, done)
}

/// Writes what is at `path` of a dataset (its root when that is empty) as a tar stream.
///
/// # Errors
/// When something cannot be read, or the stream not be written. The summary says what was written.
pub fn extract_to_tar(
    volume: &Volume,
    path: &[u8],
    output: &mut dyn Write,
    tell: &mut Tell<'_>,
) -> (Summary, Result<()>) {
    let mut extraction = Extraction::new(volume, tell);
    let mut stream = TarStream(Writer::new(output));
    let done = extraction
        .run(path, &mut stream)
        .and_then(|()| stream.0.finish().map(|_| ()));
    (extraction.summary, done)
}

/// Names that are kept of a directory at a time, and of one that is further down.
const NAMES_MAX: usize = 1024;
const NAMES_DEEP_MAX: usize = 16;
/// Levels from which on a directory is far down.
const DEEP: usize = 32;

/// A directory whose entries go out.
struct Level {
    ino: Ino,
    /// Bytes of its path.
    path_len: usize,
    /// Some of its names.
    names: std::vec::IntoIter<(Vec<u8>, Ino)>,
    /// The others come behind this cookie.
    after: u64,
}

struct Extraction<'a> {
    volume: &'a Volume,
    summary: Summary,
    tell: &'a mut Tell<'a>,
    /// The first names of what has several, and how many are still to come.
    linked: HashMap<Ino, (Vec<u8>, u32)>,
    piece: Vec<u8>,
}

impl<'a> Extraction<'a> {
    fn new(volume: &'a Volume, tell: &'a mut Tell<'_>) -> Self {
        Extraction {
            volume,
            summary: Summary::default(),
            tell,
            linked: HashMap::new(),
            piece: Vec::with_capacity(PIECE_BYTES),
        }
    }

    fn run(&mut self, path: &[u8], target: &mut dyn Target) -> Result<()> {
        let top = find(self.volume, path)?;
        let name = components(path)?.pop().unwrap_or_default();
        let found = self.found(top, path)?;
        if !is_dir(&found.attr) {
            return self.entry(top, name, found, target);
        }
        let mut path = Vec::new();
        let mut levels = vec![self.enter(top, &path, found, target)?];
        let mut above = HashSet::from([top]);
        while let Some((name, ino)) = self.next(&mut levels, &path)? {
            let Some(level) = levels.last() else { break };
            path.truncate(level.path_len);
            let Some(name) = name else {
                target.leave(&mut self.summary)?;
                levels.pop();
                above.remove(&ino);
                continue;
            };
            go_down(&mut path, &name);
            if path.len() > PATH_BYTES_MAX {
                path.truncate(NAMED_BYTES);
                self.summary.skip(&path, LONG_PATH);
                continue;
            }
            let found = self.found(ino, &path)?;
            if !is_dir(&found.attr) {
                self.entry(ino, &path, found, target)?;
            } else if !above.insert(ino) {
                let what = "a directory below itself: run razorfsck";
                return Err(ArchiveError::corrupt(&path, what));
            } else {
                levels.push(self.enter(ino, &path, found, target)?);
            }
        }
        Ok(())
    }

    /// The next entry of the directory that was entered last; without a name that directory, when it
    /// has no more. `None` when none is left.
    fn next(&self, levels: &mut [Level], path: &[u8]) -> Result<Option<(Option<Vec<u8>>, Ino)>> {
        let most = match levels.len() > DEEP {
            true => NAMES_DEEP_MAX,
            false => NAMES_MAX,
        };
        let Some(level) = levels.last_mut() else {
            return Ok(None);
        };
        if level.names.len() == 0 {
            let path = path.get(..level.path_len).unwrap_or_default();
            let mut names = Vec::new();
            let mut last = level.after;
            let mut visit = |entry: DirEntry| {
                last = entry.cookie;
                names.push((entry.name, entry.ino));
                names.len() < most
            };
            self.volume
                .readdir(level.ino, level.after, &mut visit)
                .map_err(ArchiveError::store(path))?;
            level.after = last;
            names.sort_unstable();
            level.names = names.into_iter();
        }
        Ok(Some(match level.names.next() {
            Some((name, ino)) => (Some(name), ino),
            None => (None, level.ino),
        }))
    }

    fn enter(
        &mut self,
        ino: Ino,
        path: &[u8],
        found: Found,
        target: &mut dyn Target,
    ) -> Result<Level> {
        target.enter(path, found, &mut self.summary)?;
        self.summary.directories += 1;
        self.told()?;
        Ok(Level {
            ino,
            path_len: path.len(),
            names: Vec::new().into_iter(),
            after: PARENT_COOKIE,
        })
    }

    /// Something that is no directory.
    fn entry(
        &mut self,
        ino: Ino,
        path: &[u8],
        found: Found,
        target: &mut dyn Target,
    ) -> Result<()> {
        if let Some((first, left)) = self.linked.get_mut(&ino) {
            target.link(path, first, &found)?;
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.linked.remove(&ino);
            }
            self.summary.hard_links += 1;
            return self.told();
        }
        let is_made = match found.attr.mode & libc::S_IFMT {
            libc::S_IFREG => {
                let mut content = Stored {
                    volume: self.volume,
                    ino,
                    size: found.attr.size,
                    summary: &mut self.summary,
                    tell: &mut *self.tell,
                    piece: &mut self.piece,
                };
                let is_made = target.file(path, &found, &mut content)?;
                self.summary.files += u64::from(is_made);
                is_made
            }
            libc::S_IFLNK => {
                let to = self.volume.readlink(ino);
                let to = to.map_err(ArchiveError::store(path))?;
                let is_made = target.other(path, &found, &to, &mut self.summary)?;
                self.summary.symlinks += u64::from(is_made);
                is_made
            }
            libc::S_IFSOCK => {
                self.summary.skip(path, "a socket");
                false
            }
            _ => {
                let is_made = target.other(path, &found, b"", &mut self.summary)?;
                self.summary.specials += u64::from(is_made);
                is_made
            }
        };
        if is_made && found.attr.nlink > 1 {
            let left = found.attr.nlink - 1;
            self.linked.insert(ino, (path.to_vec(), left));
        }
        self.told()
    }

    fn found(&mut self, ino: Ino, path: &[u8]) -> Result<Found> {
        let of = || ArchiveError::store(path);
        let attr = self.volume.getattr(ino).map_err(of())?;
        let mut xattrs = Vec::new();
        let mut room = XATTRS_BYTES_MAX;
        for name in self.volume.listxattr(ino).map_err(of())? {
            let value = self.volume.getxattr(ino, &name).map_err(of())?;
            // As much as a header says of each besides.
            let Some(left) = room.checked_sub(name.len() + value.len() + XATTR_HEAD_BYTES) else {
                let reason = "extended attributes, of which it has too many";
                self.summary.skip(path, reason);
                break;
            };
            room = left;
            xattrs.push((name, value));
        }
        Ok(Found { attr, xattrs })
    }

    fn told(&mut self) -> Result<()> {
        say(self.tell, &self.summary)
    }
}

fn is_dir(attr: &Attr) -> bool {
    attr.mode & libc::S_IFMT == libc::S_IFDIR
}

/// A stream that is written.
pub struct TarStream<W>(pub Writer<W>);

/// A path as it stands in a stream.
pub fn in_stream(path: &[u8]) -> Vec<u8> {
    [b"./", path].concat()
}

impl<W: Write> Target for TarStream<W> {
    fn enter(&mut self, path: &[u8], found: Found, _: &mut Summary) -> Result<()> {
        let mut path = in_stream(path);
        if !path.ends_with(b"/") {
            path.push(b'/');
        }
        self.0.member(b'5', &path, &found, b"")
    }

    fn leave(&mut self, _: &mut Summary) -> Result<()> {
        Ok(())
    }

    fn file(&mut self, path: &[u8], found: &Found, content: &mut dyn Content) -> Result<bool> {
        let mut ranges = Ranges::new(RANGES_WRITTEN_MAX, found.attr.size);
        let mut at = 0;
        while let Some((start, len)) = content.range_from(path, at)? {
            ranges.add(start, len);
            at = start + len;
        }
        let Some(ranges) = ranges.into_vec() else {
            content.summary().skip(path, TOO_SPARSE);
            return Ok(false);
        };
        self.0.file(&in_stream(path), found, &ranges)?;
        for range in ranges {
            content.read(path, range, &mut |_, bytes| self.0.content(bytes))?;
        }
        Ok(true)
    }

    fn other(
        &mut self,
        path: &[u8],
        found: &Found,
        target: &[u8],
        _: &mut Summary,
    ) -> Result<bool> {
        let kind = match found.attr.mode & libc::S_IFMT {
            libc::S_IFLNK => b'2',
            libc::S_IFCHR => b'3',
            libc::S_IFBLK => b'4',
            _ => b'6',
        };
        self.0.member(kind, &in_stream(path), found, target)?;
        Ok(true)
    }

    fn link(&mut self, path: &[u8], first: &[u8], found: &Found) -> Result<()> {
        // What else is said of it stands with its first name.
        let found = Found {
            attr: found.attr,
            xattrs: Vec::new(),
        };
        self.0
            .member(b'1', &in_stream(path), &found, &in_stream(first))
    }
}
