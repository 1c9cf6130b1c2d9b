//! What comes in becomes inodes of a dataset.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use super::host::read::{HostFile, SHORTER, Sink, Walk, WalkHow};
use super::tar::import as import_members;
use super::{ArchiveError, NAMED_BYTES, PATH_BYTES_MAX, Result, Summary, Tell, joined, say, shown};
use crate::engine::{
    DirEntry, EngineError, ImportedAttrs, Nameless, Removed, SetAttr, Time, Volume, WriteFlags,
    Xattr,
};
use crate::format::id::Ino;

/// Entries that an error names, when there are some already.
const NAMED_ENTRIES: usize = 5;

/// Directories that get their times also when the import is broken off: there may be millions, and
/// who breaks it off may have guests wait.
const TIMES_UNASKED: usize = 1000;

/// How something is imported.
#[derive(Debug, Clone, Default)]
pub struct ImportHow {
    /// Where to, from the dataset's root on; what is missing of it is made. Empty for the root.
    pub to: Vec<u8>,
    /// Put it beside what is there already, in the place of what has the same name.
    pub merge: bool,
    /// What of a directory of the host is left out.
    pub walk: WalkHow,
}

/// Imports what is in a directory of the host, and its attributes. Durable when this returns, also
/// what was imported before an error other than [`ArchiveError::NotDurable`].
///
/// # Errors
/// When something cannot be read, or not be made; when there are entries already. The summary says
/// what was imported.
pub fn import_directory(
    volume: &Volume,
    how: &ImportHow,
    source: &Path,
    tell: &mut Tell<'_>,
) -> (Summary, Result<()>) {
    import_with(volume, how, tell, |importer| {
        Walk::new(importer, how.walk).run(source)
    })
}

/// Imports a tar stream. Durable when this returns, as [`import_directory`] says it.
///
/// # Errors
/// As [`import_directory`]; when the stream is damaged.
pub fn import_tar(
    volume: &Volume,
    how: &ImportHow,
    stream: &mut dyn Read,
    tell: &mut Tell<'_>,
) -> (Summary, Result<()>) {
    import_with(volume, how, tell, |importer| {
        import_members(importer, stream)
    })
}

fn import_with(
    volume: &Volume,
    how: &ImportHow,
    tell: &mut Tell<'_>,
    act: impl FnOnce(&mut Importer<'_>) -> Result<()>,
) -> (Summary, Result<()>) {
    let _only_one = match volume.begin_import() {
        Ok(only_one) => only_one,
        Err(error) => return (Summary::default(), Err(of_all(error))),
    };
    let mut importer = Importer {
        volume,
        root: Ino::ROOT,
        summary: Summary::default(),
        times: BTreeMap::new(),
        tell,
    };
    // Whoever has guests wait says so before: nothing appears to them then.
    let begun = importer.told().and_then(|()| importer.begin(how));
    let done = begun.and_then(|()| act(&mut importer));
    // What is not durable is worse than whatever came before it.
    let ended = match importer.end() {
        Err(error @ ArchiveError::NotDurable(_)) => Err(error),
        ended => done.and(ended),
    };
    (importer.summary, ended)
}

/// For what is about no one path.
fn of_all(source: EngineError) -> ArchiveError {
    ArchiveError::Store {
        path: "the dataset".into(),
        source,
    }
}

/// An import under way.
pub struct Importer<'a> {
    volume: &'a Volume,
    /// The directory that is imported into. Nothing outside it is changed.
    root: Ino,
    pub summary: Summary,
    /// Directories' times, which making entries in them changes: set at the end.
    times: BTreeMap<Ino, (Time, Time)>,
    tell: &'a mut Tell<'a>,
}

impl<'a> Importer<'a> {
    /// Finds or makes the directory to import into.
    fn begin(&mut self, how: &ImportHow) -> Result<()> {
        let at = ArchiveError::store;
        let mut path = Vec::new();
        for name in components(&how.to)? {
            path = joined(&path, name);
            let dir = self.root;
            self.root = match self.volume.lookup(dir, name) {
                Ok(found) if found.mode & libc::S_IFMT == libc::S_IFDIR => found.ino,
                Ok(_) => return Err(at(&path)(EngineError::NotDirectory)),
                Err(EngineError::NotFound) => self.make_parent(dir, name, &path)?,
                Err(error) => return Err(at(&path)(error)),
            };
        }
        match how.merge {
            true => Ok(()),
            false => self.check_empty(&path),
        }
    }

    fn check_empty(&self, path: &[u8]) -> Result<()> {
        let mut names = Vec::new();
        let mut visit = |entry: DirEntry| {
            if entry.name != b"." && entry.name != b".." {
                names.push(entry.name);
            }
            names.len() <= NAMED_ENTRIES
        };
        self.volume
            .readdir(self.root, 0, &mut visit)
            .map_err(ArchiveError::store(path))?;
        if names.is_empty() {
            return Ok(());
        }
        names.sort_unstable();
        let mut named: Vec<_> = names.iter().map(|name| shown(name)).collect();
        if let Some(last) = named.get_mut(NAMED_ENTRIES) {
            *last = "...".into();
        }
        Err(ArchiveError::NotEmpty {
            path: shown(path),
            names: named.join(", "),
        })
    }

    /// What is not said anywhere: a directory of root's, which all may read.
    pub fn make_parent(&mut self, dir: Ino, name: &[u8], path: &[u8]) -> Result<Ino> {
        let now = self.volume.store().now();
        let attrs = ImportedAttrs {
            mode: 0o755,
            atime: now,
            mtime: now,
            ..ImportedAttrs::default()
        };
        let (ino, removed) = self
            .volume
            .import_dir(dir, name)
            .map_err(ArchiveError::store(path))?;
        self.replaced(removed);
        self.volume
            .import_dir_attrs(ino, &attrs)
            .map_err(ArchiveError::store(path))?;
        self.told()?;
        Ok(ino)
    }

    /// The directory at the top of what is imported.
    pub fn root(&self) -> Ino {
        self.root
    }

    /// What has a name in a directory: its inode, and whether that is a directory.
    pub fn find(&self, dir: Ino, name: &[u8], path: &[u8]) -> Result<Option<(Ino, bool)>> {
        match self.volume.lookup(dir, name) {
            Ok(found) => Ok(Some((
                found.ino,
                found.mode & libc::S_IFMT == libc::S_IFDIR,
            ))),
            Err(EngineError::NotFound) => Ok(None),
            Err(error) => Err(ArchiveError::store(path)(error)),
        }
    }

    /// Gives the directory at the top its attributes.
    pub fn top(&mut self, attrs: &ImportedAttrs) -> Result<()> {
        self.attrs_of_dir(self.root, b"", attrs)
    }

    /// Makes a directory, or gives one that is there these attributes.
    pub fn dir(
        &mut self,
        (dir, name): (Ino, &[u8]),
        path: &[u8],
        attrs: &ImportedAttrs,
    ) -> Result<Ino> {
        let (ino, removed) = self
            .volume
            .import_dir(dir, name)
            .map_err(ArchiveError::store(path))?;
        self.replaced(removed);
        self.attrs_of_dir(ino, path, attrs)?;
        Ok(ino)
    }

    fn attrs_of_dir(&mut self, ino: Ino, path: &[u8], attrs: &ImportedAttrs) -> Result<()> {
        let attrs = self.kept(path, attrs);
        self.volume
            .import_dir_attrs(ino, &attrs)
            .map_err(ArchiveError::store(path))?;
        // One that comes twice has the times that came last.
        self.times.insert(ino, (attrs.atime, attrs.mtime));
        self.summary.directories += 1;
        self.told()
    }

    /// Makes something that is no directory. `fill` writes a file's content before it has its name.
    pub fn make(
        &mut self,
        (dir, name): (Ino, &[u8]),
        path: &[u8],
        what: Nameless<'_>,
        attrs: &ImportedAttrs,
        fill: &mut dyn FnMut(&mut Self, Ino) -> Result<()>,
    ) -> Result<Ino> {
        let attrs = self.kept(path, attrs);
        let ino = self
            .volume
            .import_nameless(dir, what)
            .map_err(ArchiveError::store(path))?;
        let named = fill(self, ino).and_then(|()| {
            self.volume
                .import_named(ino, &attrs, dir, name)
                .map_err(ArchiveError::store(path))
        });
        match named {
            Ok(removed) => self.replaced(removed),
            Err(error) => {
                self.volume.import_drop(ino);
                return Err(error);
            }
        }
        match what {
            Nameless::File => self.summary.files += 1,
            Nameless::Symlink(_) => self.summary.symlinks += 1,
            _ => self.summary.specials += 1,
        }
        self.told()?;
        Ok(ino)
    }

    /// Gives what was imported one more name.
    pub fn link(&mut self, ino: Ino, (dir, name): (Ino, &[u8]), path: &[u8]) -> Result<()> {
        let removed = self
            .volume
            .import_link(ino, dir, name)
            .map_err(ArchiveError::store(path))?;
        self.replaced(removed);
        self.summary.hard_links += 1;
        self.told()
    }

    /// Writes some of a file's content.
    pub fn write(&mut self, ino: Ino, path: &[u8], offset: u64, bytes: &[u8]) -> Result<()> {
        let mut source = bytes;
        let flags = WriteFlags::default();
        self.volume
            .write(ino, offset, bytes.len(), &mut source, flags)
            .map_err(ArchiveError::store(path))?;
        self.summary.bytes = self.summary.bytes.saturating_add(bytes.len() as u64);
        self.told()
    }

    /// Ends a file with a hole up to this size.
    pub fn set_size(&mut self, ino: Ino, path: &[u8], size: u64) -> Result<()> {
        let set = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        self.volume
            .setattr(ino, &set)
            .map_err(ArchiveError::store(path))?;
        Ok(())
    }

    /// The attributes without those that a dataset does not keep.
    fn kept<'b>(
        &mut self,
        path: &[u8],
        attrs: &'b ImportedAttrs,
    ) -> std::borrow::Cow<'b, ImportedAttrs> {
        let is_kept = |(name, _): &Xattr| Volume::keeps_xattr(name);
        if attrs.xattrs.iter().all(is_kept) {
            return std::borrow::Cow::Borrowed(attrs);
        }
        let mut attrs = attrs.clone();
        attrs.xattrs.retain(is_kept);
        self.summary
            .skip(path, "extended attributes of namespaces that are not kept");
        std::borrow::Cow::Owned(attrs)
    }

    fn replaced(&self, removed: Option<Removed>) {
        if let Some(removed) = removed.filter(|removed| removed.orphan) {
            self.volume.import_drop(removed.ino);
        }
    }

    /// Says how far it is.
    fn told(&mut self) -> Result<()> {
        say(self.tell, &self.summary)
    }

    /// Sets what had to wait, and makes all of it durable.
    fn end(&mut self) -> Result<()> {
        let timed = match self.volume.is_writable() {
            true => self.set_times(),
            false => Ok(()),
        };
        self.volume
            .make_durable()
            .map_err(ArchiveError::NotDurable)?;
        timed
    }

    fn set_times(&mut self) -> Result<()> {
        let mut timed = Ok(());
        for (index, (ino, (atime, mtime))) in
            std::mem::take(&mut self.times).into_iter().enumerate()
        {
            if index >= TIMES_UNASKED {
                self.told()?;
            }
            match self.volume.import_dir_times(ino, atime, mtime) {
                Ok(()) => {}
                // A guest has removed it.
                Err(EngineError::Stale | EngineError::NotFound) => {}
                Err(error) => timed = Err(of_all(error)),
            }
        }
        timed
    }
}

impl Sink for Importer<'_> {
    type Made = Ino;

    fn summary(&mut self) -> &mut Summary {
        &mut self.summary
    }

    fn top(&mut self, attrs: &ImportedAttrs) -> Result<Ino> {
        Importer::top(self, attrs)?;
        Ok(self.root)
    }

    fn dir(
        &mut self,
        (dir, name): (&Ino, &[u8]),
        path: &[u8],
        attrs: &ImportedAttrs,
    ) -> Result<Ino> {
        Importer::dir(self, (*dir, name), path, attrs)
    }

    fn file(
        &mut self,
        (dir, name): (&Ino, &[u8]),
        path: &[u8],
        attrs: &ImportedAttrs,
        file: &mut HostFile<'_>,
    ) -> Result<Option<Ino>> {
        let mut fill = |importer: &mut Self, ino| importer.copy(ino, path, file);
        self.make((*dir, name), path, Nameless::File, attrs, &mut fill)
            .map(Some)
    }

    fn other(
        &mut self,
        (dir, name): (&Ino, &[u8]),
        path: &[u8],
        what: Nameless<'_>,
        attrs: &ImportedAttrs,
    ) -> Result<Ino> {
        self.make((*dir, name), path, what, attrs, &mut |_, _| Ok(()))
    }

    fn link(&mut self, made: &Ino, (dir, name): (&Ino, &[u8]), path: &[u8]) -> Result<()> {
        Importer::link(self, *made, (*dir, name), path)
    }
}

impl Importer<'_> {
    /// Copies a file's content, but its holes.
    fn copy(&mut self, ino: Ino, path: &[u8], file: &mut HostFile<'_>) -> Result<()> {
        let mut end = 0;
        while let Some(range) = file.range_from(path, end)? {
            let put = &mut |offset, bytes: &[u8]| self.write(ino, path, offset, bytes);
            if !file.read(path, range, put)? {
                // What is there now is what is taken.
                self.summary.skip(path, SHORTER);
                return Ok(());
            }
            end = range.0.saturating_add(range.1);
        }
        match end < file.size() {
            true => self.set_size(ino, path, file.size()),
            false => Ok(()),
        }
    }
}

/// The names in a path. Empty ones and `.` do not count.
///
/// # Errors
/// For `..`, which would lead elsewhere, and for names and paths that are too long.
pub fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    let mut names = Vec::new();
    let mut len = 0;
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err(ArchiveError::refused(path, "a path with '..'")),
            name if name.len() > 255 => {
                return Err(ArchiveError::refused(path, "a name of more than 255 bytes"));
            }
            name => {
                // As the path is without what does not count.
                len += name.len() + usize::from(!names.is_empty());
                if len > PATH_BYTES_MAX {
                    let begin = path.get(..NAMED_BYTES).unwrap_or(path);
                    let reason = format!("a path of more than {PATH_BYTES_MAX} bytes");
                    return Err(ArchiveError::refused(begin, reason));
                }
                names.push(name);
            }
        }
    }
    Ok(names)
}
