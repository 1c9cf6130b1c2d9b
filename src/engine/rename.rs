//! Renaming, in one transaction: the target's name is the old inode or the new one, never neither.

use smallvec::SmallVec;

use super::dir::{Slot, check_name, is_dots};
use super::flags::other_project;
use super::inode::{FLAG_DIRSYNC, FLAG_SYNC, InodeExt};
use super::namespace::{blank, one_more};
use super::op::Op;
use super::{Cred, EngineError, Removed, RenameMode, Volume};
use crate::format::id::Ino;
use crate::format::record::{DentryRecord, InodeRecord};
use crate::store::StoreError;

/// Directories above one another, at most: a loop in a damaged store must not be followed for ever.
const DEPTH_MAX: usize = 1 << 20;

/// A name in a directory, and what it names.
struct Named {
    cookie: u64,
    dentry: DentryRecord,
    record: InodeRecord,
}

/// The records of the two directories, which may be one.
struct Dirs {
    from_ino: Ino,
    from: InodeRecord,
    to_ino: Ino,
    /// `None` when it is the same directory.
    to: Option<InodeRecord>,
}

impl Dirs {
    fn to(&mut self) -> &mut InodeRecord {
        self.to.as_mut().unwrap_or(&mut self.from)
    }

    /// Moves a subdirectory's link from one to the other.
    fn move_link(&mut self) -> Result<(), EngineError> {
        if self.to.is_some() {
            self.from.nlink = self.from.nlink.saturating_sub(1);
            let to = self.to();
            to.nlink = one_more(to.nlink)?;
        }
        Ok(())
    }

    fn put(mut self, op: &mut Op<'_>) -> Result<(), EngineError> {
        let now = op.now;
        self.from.mtime = now;
        self.from.ctime = now;
        op.put(self.from_ino, &self.from)?;
        if let Some(mut to) = self.to {
            to.mtime = now;
            to.ctime = now;
            op.put(self.to_ino, &to)?;
        }
        Ok(())
    }
}

impl Volume {
    /// Renames; what was replaced is returned. A regular source file's unwritten data goes before.
    ///
    /// # Errors
    /// As rename(2).
    pub fn rename(
        &self,
        from_dir: Ino,
        from: &[u8],
        to_dir: Ino,
        to: &[u8],
        mode: RenameMode,
    ) -> Result<Option<Removed>, EngineError> {
        self.rename_with((from_dir, from), (to_dir, to), mode, true)
    }

    /// [`Volume::rename`] that may have to do without waiting for bytes to be written, or for the
    /// log; where it would have to wait, nothing is done. For room in the log, or a page, it waits
    /// as everything does.
    ///
    /// # Errors
    /// As [`Volume::rename`]; [`EngineError::WouldWait`].
    pub fn rename_with(
        &self,
        (from_dir, from): (Ino, &[u8]),
        (to_dir, to): (Ino, &[u8]),
        mode: RenameMode,
        may_wait: bool,
    ) -> Result<Option<Removed>, EngineError> {
        for name in [from, to] {
            check_name(name)?;
            if is_dots(name) {
                return Err(EngineError::Invalid("'.' and '..' cannot be renamed"));
            }
        }
        let mut written = SmallVec::<[Ino; 2]>::new();
        loop {
            let op = self.begin()?;
            let dirs = self.dirs(&op, from_dir, to_dir)?;
            let is_sync = |dir: &InodeRecord| dir.flags & (FLAG_SYNC | FLAG_DIRSYNC) != 0;
            if !may_wait && (is_sync(&dirs.from) || dirs.to.as_ref().is_some_and(is_sync)) {
                return Err(EngineError::WouldWait);
            }
            let source = self.named(&op, from_dir, self.find(&op.tx, from_dir, from)?)?;
            let target = self.find(&op.tx, to_dir, to)?;
            let renamed = [Some(source.dentry), target.taken().ok().map(|(_, d)| d)];
            let count = if mode == RenameMode::Exchange { 2 } else { 1 };
            // The data must come before the name in the log: otherwise the new name could be there
            // after a crash, and its content not.
            let unlogged = renamed.into_iter().take(count).flatten().find(|dentry| {
                dentry.file_type == libc::DT_REG
                    && !written.contains(&dentry.ino)
                    && self.may_have_unlogged(dentry.ino)
            });
            let Some(DentryRecord { ino, .. }) = unlogged else {
                return match mode {
                    RenameMode::Exchange => self.exchange(op, dirs, source, target),
                    _ => self.replace(op, dirs, source, target, to, mode),
                };
            };
            // Who writes data waits for the transaction under way.
            drop(op);
            if !may_wait {
                return Err(EngineError::WouldWait);
            }
            self.write_out_for_rename(ino)?;
            written.push(ino);
        }
    }

    fn dirs(&self, op: &Op<'_>, from_ino: Ino, to_ino: Ino) -> Result<Dirs, EngineError> {
        let from = op.dir(from_ino)?;
        let to = if from_ino == to_ino {
            None
        } else {
            Some(op.dir(to_ino)?)
        };
        if to.as_ref().unwrap_or(&from).nlink == 0 {
            return Err(EngineError::NotFound);
        }
        Ok(Dirs {
            from_ino,
            from,
            to_ino,
            to,
        })
    }

    fn named(&self, op: &Op<'_>, dir: Ino, slot: Slot) -> Result<Named, EngineError> {
        let (cookie, dentry) = slot.taken()?;
        let record = self.load_named(&op.tx, dir, dentry.ino)?;
        Ok(Named {
            cookie,
            dentry,
            record,
        })
    }

    /// Refuses to put a directory below itself.
    fn check_loop(&self, op: &Op<'_>, moved: Ino, into: Ino) -> Result<(), EngineError> {
        match self.is_within(op, into, moved)? {
            true => Err(EngineError::Invalid(
                "a directory cannot be put below itself",
            )),
            false => Ok(()),
        }
    }

    /// Whether a directory is another, or below it.
    pub(super) fn is_within(&self, op: &Op<'_>, dir: Ino, top: Ino) -> Result<bool, EngineError> {
        let mut at = dir;
        for _ in 0..DEPTH_MAX {
            if at == top {
                return Ok(true);
            }
            if at == Ino::ROOT {
                return Ok(false);
            }
            at = op.dir(at)?.parent;
        }
        Err(StoreError::Corrupt(format!("directory {dir} is not below the root")).into())
    }

    fn replace(
        &self,
        mut op: Op<'_>,
        mut dirs: Dirs,
        mut source: Named,
        target: Slot,
        to: &[u8],
        mode: RenameMode,
    ) -> Result<Option<Removed>, EngineError> {
        let ino = source.dentry.ino;
        if let Slot::Taken { dentry, .. } = &target {
            if !mode.replaces() {
                return Err(EngineError::Exists);
            }
            if dentry.ino == ino {
                return Ok(None);
            }
        }
        dirs.from.check_changeable()?;
        source.record.check_changeable()?;
        dirs.to().check_not_immutable()?;
        if other_project(dirs.to(), &source.record) {
            return Err(EngineError::OtherProject);
        }
        let is_dir = source.record.is_dir();
        if is_dir && dirs.to.is_some() {
            self.check_loop(&op, ino, dirs.to_ino)?;
        }
        // The old entry goes first: in one directory the new one may take its cookie's place.
        if let RenameMode::Whiteout { owner, .. } = mode {
            self.leave_whiteout(&mut op, &dirs, &source, owner)?;
        } else {
            self.remove_dentry(&mut op.tx, dirs.from_ino, (source.cookie, &source.dentry))?;
            dirs.from.entries = dirs.from.entries.saturating_sub(1);
        }
        let removed = match target {
            Slot::Taken { .. } => {
                let old = self.named(&op, dirs.to_ino, target)?;
                self.check_replaceable(&mut dirs, &old.record, is_dir)?;
                let dentry = DentryRecord {
                    ino,
                    file_type: source.record.file_type(),
                    ..old.dentry
                };
                self.put_dentry(&mut op.tx, dirs.to_ino, old.cookie, &dentry)?;
                if old.record.is_dir() {
                    dirs.to().nlink = dirs.to().nlink.saturating_sub(1);
                }
                Some(self.drop_link(&mut op, old.dentry.ino, old.record)?)
            }
            Slot::Free { .. } => {
                let cookie = target.free()?;
                let place = (dirs.to_ino, cookie, to);
                self.insert_dentry(&mut op.tx, place, ino, &source.record)?;
                dirs.to().entries = dirs.to().entries.saturating_add(1);
                None
            }
        };
        if is_dir {
            dirs.move_link()?;
            source.record.parent = dirs.to_ino;
        }
        source.record.ctime = op.now;
        op.put(ino, &source.record)?;
        dirs.put(&mut op)?;
        op.commit()?;
        Ok(removed)
    }

    fn check_replaceable(
        &self,
        dirs: &mut Dirs,
        old: &InodeRecord,
        by_dir: bool,
    ) -> Result<(), EngineError> {
        match (by_dir, old.is_dir()) {
            (true, false) => return Err(EngineError::NotDirectory),
            (false, true) => return Err(EngineError::IsDirectory),
            (true, true) if old.entries > 0 => return Err(EngineError::NotEmpty),
            _ => {}
        }
        dirs.to().check_changeable()?;
        old.check_changeable()
    }

    /// Puts a whiteout where the source was: a character device 0/0.
    fn leave_whiteout(
        &self,
        op: &mut Op<'_>,
        dirs: &Dirs,
        source: &Named,
        owner: Cred,
    ) -> Result<(), EngineError> {
        let ino = op.new_ino()?;
        let record = blank(libc::S_IFCHR, owner, op.now);
        op.put(ino, &record)?;
        let dentry = DentryRecord {
            ino,
            file_type: record.file_type(),
            ..source.dentry
        };
        self.put_dentry(&mut op.tx, dirs.from_ino, source.cookie, &dentry)
    }

    fn exchange(
        &self,
        mut op: Op<'_>,
        mut dirs: Dirs,
        mut source: Named,
        target: Slot,
    ) -> Result<Option<Removed>, EngineError> {
        let mut target = self.named(&op, dirs.to_ino, target)?;
        if source.dentry.ino == target.dentry.ino {
            return Ok(None);
        }
        dirs.from.check_changeable()?;
        dirs.to().check_changeable()?;
        source.record.check_changeable()?;
        target.record.check_changeable()?;
        if other_project(dirs.to(), &source.record) || other_project(&dirs.from, &target.record) {
            return Err(EngineError::OtherProject);
        }
        let across = dirs.to.is_some();
        if across && source.record.is_dir() {
            self.check_loop(&op, source.dentry.ino, dirs.to_ino)?;
        }
        if across && target.record.is_dir() {
            self.check_loop(&op, target.dentry.ino, dirs.from_ino)?;
        }
        for (dir, old, new) in [
            (dirs.from_ino, &source, &target),
            (dirs.to_ino, &target, &source),
        ] {
            let dentry = DentryRecord {
                ino: new.dentry.ino,
                file_type: new.dentry.file_type,
                ..old.dentry
            };
            self.put_dentry(&mut op.tx, dir, old.cookie, &dentry)?;
        }
        if source.record.is_dir() {
            source.record.parent = dirs.to_ino;
        }
        if target.record.is_dir() {
            target.record.parent = dirs.from_ino;
        }
        if across && source.record.is_dir() != target.record.is_dir() {
            if source.record.is_dir() {
                dirs.move_link()?;
            } else {
                dirs.to().nlink = dirs.to().nlink.saturating_sub(1);
                dirs.from.nlink = one_more(dirs.from.nlink)?;
            }
        }
        for named in [&mut source, &mut target] {
            named.record.ctime = op.now;
            op.put(named.dentry.ino, &named.record)?;
        }
        dirs.put(&mut op)?;
        op.commit()?;
        Ok(None)
    }
}
