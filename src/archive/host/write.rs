//! A directory of the host, made of what is in a dataset.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags, chmod,
    chownat, fchmod, fchown, fremovexattr, fsetxattr, fstat, ftruncate, futimens, linkat,
    lsetxattr, mkdir, mkdirat, mknodat, open, openat, openat2, symlinkat, syncfs, unlinkat,
    utimensat,
};
use rustix::io::{Errno, pwrite};
use rustix::process::{Gid, Uid, geteuid};

use super::super::extract::{Content, Found, Target};
use super::super::{ArchiveError, Result, Summary, major_and_minor};
use super::{names_in, open_dir, path_of};
use crate::engine::Time;

const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// Bytes of ACLs that are kept for directories that are not complete, at most.
const ACLS_MAX: usize = 16 << 20;

/// Bytes of a path that is opened by one call: below Linux's `PATH_MAX`.
const STEP_BYTES: usize = 4000;

/// A directory that is being filled.
struct Level {
    dir: OwnedFd,
    /// Bytes of its path.
    path_len: usize,
    /// What it is to be in the end: of its extended attributes the ACLs, since it has the others.
    found: Option<Found>,
}

/// A tree that is being made.
pub struct Directory {
    /// The directory at the top, and those below it that are not complete.
    levels: Vec<Level>,
    /// The path of the one entered last.
    path: Vec<u8>,
    /// Bytes of the ACLs that those have which are not complete.
    acls: usize,
    is_root: bool,
}

impl Directory {
    /// Makes the directory at the top, or takes one that is empty.
    ///
    /// # Errors
    /// When it cannot be made, or something is in it.
    pub fn make(target: &Path) -> Result<Self> {
        use std::os::unix::ffi::OsStrExt;
        let path = target.as_os_str().as_bytes();
        match mkdir(target, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(ArchiveError::host(path, "making the directory")(errno)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir =
            open(target, flags, Mode::empty()).map_err(ArchiveError::host(path, "opening"))?;
        let names = names_in(&dir).map_err(ArchiveError::host(path, "reading the directory"))?;
        if let Some(name) = names.first() {
            let name = super::super::shown(name);
            let reason = format!("something is in it, as {name}: choose an empty or new directory");
            return Err(ArchiveError::refused(path, reason));
        }
        // What is made in it would take this over.
        match fremovexattr(&dir, ACL_DEFAULT) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(errno) => return Err(ArchiveError::host(path, "removing its default ACL")(errno)),
        }
        Ok(Directory {
            levels: vec![Level {
                dir,
                path_len: 0,
                found: None,
            }],
            path: Vec::new(),
            acls: 0,
            is_root: geteuid().is_root(),
        })
    }

    /// Makes all of it durable.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&self) -> Result<()> {
        match self.levels.first() {
            Some(top) => syncfs(&top.dir).map_err(ArchiveError::host(b"", "flushing")),
            None => Ok(()),
        }
    }

    /// The directory that the last name of a path is in, and that name.
    fn place<'p>(&self, path: &'p [u8]) -> Result<(&OwnedFd, &'p [u8])> {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let level = self.levels.last();
        let level = level.ok_or_else(|| ArchiveError::refused(path, "it is in no directory"))?;
        Ok((&level.dir, name))
    }
}

impl Target for Directory {
    fn enter(&mut self, path: &[u8], mut found: Found, summary: &mut Summary) -> Result<()> {
        if !path.is_empty() {
            let (dir, name) = self.place(path)?;
            mkdirat(dir, name, Mode::from_raw_mode(0o700))
                .map_err(ArchiveError::host(path, "making the directory"))?;
            let dir = open_dir(dir, name).map_err(ArchiveError::host(path, "opening"))?;
            let path_len = path.len();
            self.levels.push(Level {
                dir,
                path_len,
                found: None,
            });
            self.path.clear();
            self.path.extend_from_slice(path);
        }
        let Some(level) = self.levels.last_mut() else {
            return Ok(());
        };
        let dir = &level.dir;
        let mut set = |name: &[u8], value: &[u8]| fsetxattr(dir, name, value, XattrFlags::empty());
        set_xattrs(path, &found, false, summary, &mut set)?;
        found.xattrs.retain(|(name, _)| is_acl(name));
        self.acls += acl_bytes(&found);
        if self.acls > ACLS_MAX {
            summary.skip(path, "ACLs, of which those above it have too many");
            self.acls -= acl_bytes(&found);
            found.xattrs.clear();
        }
        level.found = Some(found);
        Ok(())
    }

    /// The directory entered last is complete: it becomes what it is to be.
    fn leave(&mut self, summary: &mut Summary) -> Result<()> {
        let is_top = self.levels.len() == 1;
        let Some(level) = self.levels.last_mut() else {
            return Ok(());
        };
        let Some(found) = level.found.take() else {
            return Ok(());
        };
        if is_top && !found.xattrs.iter().any(|(name, _)| name == ACL_ACCESS) {
            // It may have taken one over from where it was made.
            let _ = fremovexattr(&level.dir, ACL_ACCESS);
        }
        self.acls -= acl_bytes(&found);
        describe(&level.dir, &self.path, &found, self.is_root, summary)?;
        if !is_top {
            self.levels.pop();
        }
        let above = self.levels.last().map_or(0, |level| level.path_len);
        self.path.truncate(above);
        Ok(())
    }

    fn file(&mut self, path: &[u8], found: &Found, content: &mut dyn Content) -> Result<bool> {
        let (dir, name) = self.place(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let file = openat(
            dir,
            name,
            flags | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o600),
        )
        .map_err(ArchiveError::host(path, "making the file"))?;
        let mut end = 0;
        let mut copy = || {
            while let Some(range) = content.range_from(path, end)? {
                content.read(path, range, &mut |offset, bytes| {
                    write_at(&file, offset, bytes).map_err(ArchiveError::host(path, "writing"))
                })?;
                end = range.0.saturating_add(range.1);
            }
            match end < found.attr.size {
                true => {
                    ftruncate(&file, found.attr.size).map_err(ArchiveError::host(path, "writing"))
                }
                false => Ok(()),
            }
        };
        let read = copy();
        // Half a file would look like one.
        if read.is_err() {
            let _ = unlinkat(dir, name, AtFlags::empty());
        }
        read?;
        describe(&file, path, found, self.is_root, content.summary())?;
        Ok(true)
    }

    fn other(
        &mut self,
        path: &[u8],
        found: &Found,
        target: &[u8],
        summary: &mut Summary,
    ) -> Result<bool> {
        let (dir, name) = self.place(path)?;
        let attr = &found.attr;
        let kind = FileType::from_raw_mode(attr.mode);
        let made = match kind {
            FileType::Symlink => symlinkat(target, dir, name),
            _ => {
                let (major, minor) = major_and_minor(attr.rdev);
                let device = rustix::fs::makedev(major, minor);
                mknodat(dir, name, kind, Mode::from_raw_mode(0o600), device)
            }
        };
        match made {
            Ok(()) => {}
            Err(Errno::PERM) if kind != FileType::Symlink => {
                summary.skip(path, "a device node, which only root can make");
                return Ok(false);
            }
            Err(errno) => return Err(ArchiveError::host(path, "making it")(errno)),
        }
        // Neither is opened: what a device or a fifo does then is not known.
        let at = path_of(dir, name);
        if self.is_root {
            let (uid, gid) = owner(found);
            chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(ArchiveError::host(path, "giving it its owner"))?;
        } else {
            skip_owner(path, found, summary);
        }
        let mut set =
            |name: &[u8], value: &[u8]| lsetxattr(at.as_slice(), name, value, XattrFlags::empty());
        set_xattrs(path, found, false, summary, &mut set)?;
        if kind != FileType::Symlink {
            let mode = Mode::from_raw_mode(attr.mode & 0o7777);
            change_mode(dir, name, kind, mode)
                .map_err(ArchiveError::host(path, "giving it its mode"))?;
            set_xattrs(path, found, true, summary, &mut set)?;
        }
        utimensat(dir, name, &times(found), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(ArchiveError::host(path, "giving it its times"))?;
        Ok(true)
    }

    /// Gives what was made with the path `first` one more name.
    fn link(&mut self, path: &[u8], first: &[u8], _: &Found) -> Result<()> {
        let (dir, name) = self.place(path)?;
        let Some(top) = self.levels.first() else {
            return Ok(());
        };
        // A symlink may have the name.
        let (above, last) = match first.iter().rposition(|byte| *byte == b'/') {
            Some(end) => (first.get(..end), first.get(end + 1..)),
            None => (None, Some(first)),
        };
        let linked = open_below(&top.dir, above.unwrap_or_default()).and_then(|above| {
            let last = last.unwrap_or_default();
            linkat(&above, last, dir, name, AtFlags::empty())
        });
        linked.map_err(ArchiveError::host(path, "linking"))
    }
}

/// Opens a directory below another by its path, not through symlinks, whoever made them.
fn open_below(top: &OwnedFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir = openat2(top, ".", flags, Mode::empty(), how)?;
    let mut rest = path;
    while !rest.is_empty() {
        // As many names as one call takes.
        let end = match rest.get(..STEP_BYTES) {
            None => rest.len(),
            Some(first) => match first.iter().rposition(|byte| *byte == b'/') {
                Some(end) => end,
                None => return Err(Errno::NAMETOOLONG),
            },
        };
        let (step, behind) = rest.split_at_checked(end).unwrap_or((rest, &[]));
        dir = openat2(&dir, step, flags, Mode::empty(), how)?;
        rest = behind.strip_prefix(b"/").unwrap_or(behind);
    }
    Ok(dir)
}

fn is_acl(name: &[u8]) -> bool {
    name == ACL_ACCESS || name == ACL_DEFAULT
}

fn acl_bytes(found: &Found) -> usize {
    let lists = found.xattrs.iter().filter(|(name, _)| is_acl(name));
    lists.map(|(_, value)| value.len()).sum()
}

fn write_at(file: &OwnedFd, mut offset: u64, mut bytes: &[u8]) -> std::result::Result<(), Errno> {
    while !bytes.is_empty() {
        match pwrite(file, bytes, offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => {
                bytes = bytes.get(written..).unwrap_or_default();
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn owner(found: &Found) -> (Option<Uid>, Option<Gid>) {
    let id = |id: u32| (id != u32::MAX).then_some(id);
    (
        id(found.attr.uid).map(Uid::from_raw),
        id(found.attr.gid).map(Gid::from_raw),
    )
}

/// Gives what was just made its mode: not what somebody put in its place, and not through a symlink.
fn change_mode(dir: &OwnedFd, name: &[u8], kind: FileType, mode: Mode) -> rustix::io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(dir, name, flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != kind {
        return Err(Errno::LOOP);
    }
    chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), mode)
}

fn skip_owner(path: &[u8], found: &Found, summary: &mut Summary) {
    let own = (geteuid().as_raw(), rustix::process::getegid().as_raw());
    if own != (found.attr.uid, found.attr.gid) {
        summary.skip(path, "its owner, which only root can give");
    }
}

/// Gives a file or a directory all its attributes.
fn describe(
    file: &OwnedFd,
    path: &[u8],
    found: &Found,
    is_root: bool,
    summary: &mut Summary,
) -> Result<()> {
    let mut mode = found.attr.mode & 0o7777;
    if is_root {
        let (uid, gid) = owner(found);
        fchown(file, uid, gid).map_err(ArchiveError::host(path, "giving it its owner"))?;
    } else {
        skip_owner(path, found, summary);
        // It would run as somebody else than in the dataset.
        mode &= 0o1777;
    }
    let mut set = |name: &[u8], value: &[u8]| fsetxattr(file, name, value, XattrFlags::empty());
    // Before the mode, which may forbid it; lists after it, since it changes them.
    set_xattrs(path, found, false, summary, &mut set)?;
    fchmod(file, Mode::from_raw_mode(mode))
        .map_err(ArchiveError::host(path, "giving it its mode"))?;
    set_xattrs(path, found, true, summary, &mut set)?;
    futimens(file, &times(found)).map_err(ArchiveError::host(path, "giving it its times"))
}

type Set<'a> = dyn FnMut(&[u8], &[u8]) -> std::result::Result<(), Errno> + 'a;

/// Sets ACLs, or what is none.
fn set_xattrs(
    path: &[u8],
    found: &Found,
    lists: bool,
    summary: &mut Summary,
    set: &mut Set<'_>,
) -> Result<()> {
    for (name, value) in &found.xattrs {
        if is_acl(name) != lists {
            continue;
        }
        match set(name, value) {
            Ok(()) => {}
            Err(
                Errno::PERM
                | Errno::ACCESS
                | Errno::OPNOTSUPP
                | Errno::TOOBIG
                | Errno::RANGE
                | Errno::NOSPC,
            ) => summary.skip(path, "an extended attribute that cannot be set there"),
            Err(errno) => return Err(ArchiveError::host(path, "setting an attribute")(errno)),
        }
    }
    Ok(())
}

fn times(found: &Found) -> Timestamps {
    let time = |time: Time| Timespec {
        tv_sec: time.sec,
        tv_nsec: time.nsec.into(),
    };
    Timestamps {
        last_access: time(found.attr.atime),
        last_modification: time(found.attr.mtime),
    }
}
