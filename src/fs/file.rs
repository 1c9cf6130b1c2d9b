//! Files: open, read, write, sync, space.

use super::{FileSystem, FsError, Node};
use crate::engine::{Attr, Cred, EngineError, Fallocate, Seek, SetAttr, Sink, Source, WriteFlags};
use crate::format::id::Ino;

/// Of `FS_IOC_GETFLAGS`: nothing may change.
const FLAG_IMMUTABLE: u32 = 0x10;
/// Of `FS_IOC_GETFLAGS`: bytes may only be added.
const FLAG_APPEND: u32 = 0x20;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// `O_*`
    pub flags: i32,
    /// By whom suid and sgid are cleared when it truncates; `None`: they stay.
    pub killed_by: Option<Cred>,
}

impl FileSystem {
    /// Opens a file, truncating it with `O_TRUNC`. Returns `FOPEN_*` flags.
    ///
    /// # Errors
    /// [`EngineError::NotPermitted`] where immutable or append-only files forbid it.
    pub fn open(&self, ino: Ino, open: Open) -> Result<u32, FsError> {
        let attr = self.volume.getattr(ino)?;
        let writes = open.flags & libc::O_ACCMODE != libc::O_RDONLY;
        let truncates = open.flags & libc::O_TRUNC != 0;
        if writes || truncates {
            self.check_writable()?;
            let only_appends = open.flags & libc::O_APPEND != 0 && !truncates;
            if attr.flags & FLAG_IMMUTABLE != 0 {
                return Err(EngineError::NotPermitted("the inode is immutable").into());
            }
            if attr.flags & FLAG_APPEND != 0 && !only_appends {
                return Err(EngineError::NotPermitted("the inode is append-only").into());
            }
        }
        if truncates {
            let set = SetAttr {
                size: Some(0),
                killed_by: open.killed_by,
                ..SetAttr::default()
            };
            self.volume.setattr(ino, &set)?;
        }
        Ok(self.file_open_flags())
    }

    /// Opens a directory. Returns `FOPEN_*` flags.
    ///
    /// # Errors
    /// [`EngineError::NotDirectory`].
    pub fn opendir(&self, ino: Ino) -> Result<u32, FsError> {
        let attr = self.volume.getattr(ino)?;
        if attr.mode & libc::S_IFMT != libc::S_IFDIR {
            return Err(EngineError::NotDirectory.into());
        }
        Ok(self.dir_open_flags())
    }

    /// Reads up to `len` bytes into `sink`.
    ///
    /// # Errors
    /// What the engine says.
    pub fn read(
        &self,
        ino: Ino,
        offset: u64,
        len: usize,
        sink: &mut dyn Sink,
    ) -> Result<(), FsError> {
        if self.options.read_only {
            self.volume.read(ino, offset, len, sink)?;
        } else {
            self.volume.read_and_note(ino, offset, len, sink)?;
        }
        Ok(())
    }

    /// Writes `len` bytes from `source`.
    ///
    /// # Errors
    /// What the engine says; nothing is written then.
    pub fn write(
        &self,
        ino: Ino,
        offset: u64,
        len: usize,
        source: &mut dyn Source,
        flags: WriteFlags,
    ) -> Result<(), FsError> {
        self.check_writable()?;
        self.volume.write(ino, offset, len, source, flags)?;
        Ok(())
    }

    /// Makes a file durable, with `data_only` its data and size.
    ///
    /// # Errors
    /// What the engine says; as [`Volume::begin_fsync`] when it may not wait.
    ///
    /// [`Volume::begin_fsync`]: crate::engine::Volume::begin_fsync
    pub fn fsync(&self, ino: Ino, data_only: bool, may_wait: bool) -> Result<(), FsError> {
        match may_wait {
            true => self.volume.fsync(ino, data_only)?,
            false => self.volume.begin_fsync(ino)?,
        }
        Ok(())
    }

    /// Makes a directory's entries durable.
    ///
    /// # Errors
    /// As [`FileSystem::fsync`].
    pub fn fsyncdir(&self, ino: Ino, may_wait: bool) -> Result<(), FsError> {
        match may_wait {
            true => self.volume.fsync_dir(ino)?,
            // A directory has no bytes: it is begun as a file is.
            false => self.volume.begin_fsync(ino)?,
        }
        Ok(())
    }

    /// Makes everything durable.
    ///
    /// # Errors
    /// What the engine says.
    pub fn syncfs(&self) -> Result<(), FsError> {
        Ok(self.volume.sync_all()?)
    }

    /// fallocate(2) with its mode bits, by `by`.
    ///
    /// # Errors
    /// [`FsError::NotSupported`] for modes that are not; what the engine says.
    pub fn fallocate(
        &self,
        ino: Ino,
        mode: u32,
        (offset, len): (u64, u64),
        by: Cred,
    ) -> Result<(), FsError> {
        const KEEP_SIZE: u32 = libc::FALLOC_FL_KEEP_SIZE.cast_unsigned();
        const PUNCH_HOLE: u32 = libc::FALLOC_FL_PUNCH_HOLE.cast_unsigned();
        const ZERO_RANGE: u32 = libc::FALLOC_FL_ZERO_RANGE.cast_unsigned();
        self.check_writable()?;
        let keep_size = mode & KEEP_SIZE != 0;
        let how = match mode & !KEEP_SIZE {
            0 => Fallocate::Allocate { keep_size },
            PUNCH_HOLE if keep_size => Fallocate::PunchHole,
            ZERO_RANGE => Fallocate::ZeroRange { keep_size },
            _ => return Err(FsError::NotSupported),
        };
        let end = offset
            .checked_add(len)
            .filter(|end| i64::try_from(*end).is_ok());
        if len == 0 {
            return Err(EngineError::Invalid("length").into());
        }
        if end.is_none() {
            return Err(EngineError::FileTooLarge.into());
        }
        self.drop_suidgid(ino, by)?;
        Ok(self.volume.fallocate(ino, offset, len, how)?)
    }

    /// lseek(2) for `SEEK_DATA` and `SEEK_HOLE`.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] for others, which a kernel answers itself; what the engine says.
    pub fn seek(&self, ino: Ino, offset: u64, whence: u32) -> Result<u64, FsError> {
        let whence = match whence.cast_signed() {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return Err(EngineError::Invalid("whence").into()),
        };
        Ok(self.volume.seek(ino, offset, whence)?)
    }

    /// copy_file_range(2) by `by`: shares what can be shared. Returns the bytes done.
    ///
    /// # Errors
    /// What the engine says.
    pub fn copy_range(
        &self,
        source: (Ino, u64),
        target: (Ino, u64),
        len: u64,
        by: Cred,
    ) -> Result<u64, FsError> {
        let elsewhere = self.elsewhere(source.0)?;
        if Node::of(target.0.0) != Node::Own(target.0) {
            return Err(FsError::ReadOnly);
        }
        self.check_writable()?;
        self.drop_suidgid(target.0, by)?;
        Ok(match elsewhere {
            Some((snapshot, ino)) => {
                let source = (ino, source.1);
                self.volume.copy_range_of(&snapshot, source, target, len)?
            }
            None => {
                let (source, offset) = source;
                self.volume
                    .copy_range(source, offset, target.0, target.1, len)?
            }
        })
    }

    /// What a change of a file's content by an unprivileged user does, for requests that do not say
    /// whether they do it: FALLOCATE and COPY_FILE_RANGE, which have no `KILL_SUIDGID`. The kernel
    /// leaves it to us (`FUSE_HANDLE_KILLPRIV_V2`), and takes file capabilities itself.
    fn drop_suidgid(&self, ino: Ino, by: Cred) -> Result<(), FsError> {
        if by.uid == 0 {
            return Ok(());
        }
        let Attr { mode, flags, .. } = self.volume.getattr(ino)?;
        let regular = mode & libc::S_IFMT == libc::S_IFREG && flags & FLAG_IMMUTABLE == 0;
        if regular && mode & (libc::S_ISUID | libc::S_ISGID) != 0 {
            let set = SetAttr {
                killed_by: Some(by),
                ..SetAttr::default()
            };
            self.volume.setattr(ino, &set)?;
        }
        Ok(())
    }
}
