//! Attributes of inodes: stat, chmod, chown, utimes, truncate, statfs.

use super::acl::{ACL_ACCESS, Acl};
use super::inode::{InodeExt, MODE_BITS, S_IFMT};
use super::{Attr, Cred, EngineError, SetAttr, SetTime, StatFs, Time, Volume};
use crate::format::id::Ino;
use crate::format::record::InodeRecord;
use crate::log::Tx;
use crate::store::Read;
use crate::store::pages::Need;

use super::flags::FLAG_PROJINHERIT;
use super::inode::FLAG_NOATIME;
use super::projects::use_of;

/// The largest size of a file in bytes: `loff_t`.
const SIZE_MAX: u64 = i64::MAX as u64;

/// Bytes of the blocks that [`Volume::statfs`] counts in.
const STATFS_BLOCK_BYTES: u32 = 4096;

/// Space that one more inode is reckoned to take, in bytes: an inode's record, its entry and its
/// share of the pages they stand in.
const BYTES_PER_INODE: u64 = 512;

/// An access time is brought up to date at least this often, in seconds, as `relatime` does.
const ATIME_AGE_SECONDS: i64 = 24 * 60 * 60;

impl SetTime {
    fn resolve(self, now: Time) -> Time {
        match self {
            SetTime::Now => now,
            SetTime::At(time) => time,
        }
    }

    fn is_valid(self) -> bool {
        match self {
            SetTime::Now => true,
            SetTime::At(time) => time.nsec < 1_000_000_000,
        }
    }
}

impl SetAttr {
    fn changes_owner(&self) -> bool {
        self.uid.is_some() || self.gid.is_some()
    }

    /// Whether a time is set to a value of the caller's own; not when the guest's kernel writes
    /// back the times it kept in its cache (then ctime comes along).
    fn sets_times(&self) -> bool {
        let at = |time| matches!(time, Some(SetTime::At(_)));
        self.ctime.is_none() && (at(self.atime) || at(self.mtime))
    }

    /// Refuses what Linux's `notify_change` refuses of immutable and append-only inodes, and values
    /// that no inode can have.
    fn check(&self, record: &InodeRecord) -> Result<(), EngineError> {
        if self.mode.is_some() || self.changes_owner() || self.sets_times() {
            record.check_changeable()?;
        }
        if self.atime.is_some() || self.mtime.is_some() {
            record.check_not_immutable()?;
        }
        if self.size.is_some() {
            record.check_changeable()?;
        }
        if self.mode.is_some() && record.is_symlink() {
            return Err(EngineError::NotSupported("permissions of a symlink"));
        }
        let times = [self.atime, self.mtime, self.ctime.map(SetTime::At)];
        if !times.into_iter().flatten().all(SetTime::is_valid) {
            return Err(EngineError::Invalid("nanoseconds are below 1,000,000,000"));
        }
        Ok(())
    }
}

impl Volume {
    /// What `stat` says of an inode.
    pub(super) fn attr_of(&self, ino: Ino, record: &InodeRecord) -> Attr {
        let unwritten = if record.is_file() {
            self.unwritten_bytes(ino)
        } else {
            0
        };
        Attr {
            ino,
            mode: record.mode,
            nlink: record.nlink,
            uid: record.uid,
            gid: record.gid,
            rdev: record.rdev,
            size: record.size,
            blocks: record.allocated.saturating_add(unwritten).div_ceil(512),
            unwritten: unwritten > 0,
            flags: record.flags,
            atime: record.atime,
            mtime: record.mtime,
            ctime: record.ctime,
            btime: record.btime,
        }
    }

    /// The attributes of an inode.
    ///
    /// # Errors
    /// [`EngineError::Stale`] when it is not there.
    pub fn getattr(&self, ino: Ino) -> Result<Attr, EngineError> {
        let record = self.load_inode(&self.store.journal.view(), ino)?;
        Ok(self.attr_of(ino, &record))
    }

    /// Changes attributes in one transaction and returns them as they are then. Durable after sync.
    ///
    /// # Errors
    /// [`EngineError::NotPermitted`] on immutable and append-only inodes; what truncation says.
    pub fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr, EngineError> {
        if let Some(size) = set.size {
            if size > SIZE_MAX {
                return Err(EngineError::FileTooLarge);
            }
            let now = self.now();
            let record = self.resize(ino, size, &mut |tx, record| {
                if record.is_dir() {
                    return Err(EngineError::IsDirectory);
                }
                if !record.is_file() {
                    return Err(EngineError::Invalid(
                        "only a regular file has a size to set",
                    ));
                }
                self.apply_setattr(tx, ino, record, set, now)
            })?;
            return Ok(self.attr_of(ino, &record));
        }
        let mut op = self.begin()?;
        let mut record = op.inode(ino)?;
        self.apply_setattr(&mut op.tx, ino, &mut record, set, op.now)?;
        op.put(ino, &record)?;
        op.commit()?;
        Ok(self.attr_of(ino, &record))
    }

    /// All of a setattr but the size itself.
    fn apply_setattr(
        &self,
        tx: &mut Tx<'_>,
        ino: Ino,
        record: &mut InodeRecord,
        set: &SetAttr,
        now: Time,
    ) -> Result<(), EngineError> {
        set.check(record)?;
        // Before the group is another.
        let killed_by = match set.changes_owner() {
            true => Some(set.killed_by.unwrap_or_default()),
            false => set.killed_by,
        };
        if killed_by.is_some() || set.size.is_some() {
            self.drop_privileges(tx, ino, record, killed_by)?;
        }
        if set.changes_owner() {
            record.uid = set.uid.unwrap_or(record.uid);
            record.gid = set.gid.unwrap_or(record.gid);
        }
        if let Some(mode) = set.mode {
            record.mode = (record.mode & S_IFMT) | (mode & MODE_BITS);
            self.chmod_acl(tx, ino, record)?;
        }
        if set.size.is_some() {
            record.mtime = now;
        }
        if let Some(atime) = set.atime {
            record.atime = atime.resolve(now);
        }
        if let Some(mtime) = set.mtime {
            record.mtime = mtime.resolve(now);
        }
        record.ctime = set.ctime.unwrap_or(now);
        Ok(())
    }

    /// What a write, a truncation or a change of owner does to the privileges a file's execution
    /// gives: file capabilities go, and with `killed_by` setuid and setgid as well
    /// (`FUSE_HANDLE_KILLPRIV_V2`). The caller puts the record.
    pub(super) fn drop_privileges(
        &self,
        tx: &mut Tx<'_>,
        ino: Ino,
        record: &mut InodeRecord,
        killed_by: Option<Cred>,
    ) -> Result<(), EngineError> {
        if let Some(by) = killed_by {
            record.kill_suidgid(by);
        }
        self.delete_xattr(tx, ino, record, b"security.capability")?;
        Ok(())
    }

    /// Makes the access ACL follow the mode.
    pub(super) fn chmod_acl(
        &self,
        tx: &mut Tx<'_>,
        ino: Ino,
        record: &mut InodeRecord,
    ) -> Result<(), EngineError> {
        let Some(bytes) = self.read_xattr(tx, ino, record, ACL_ACCESS)? else {
            return Ok(());
        };
        if let Some(mut acl) = Acl::decode(&bytes)? {
            acl.chmod(record.mode);
            self.write_xattr(tx, ino, record, ACL_ACCESS, &acl.encode())?;
        }
        Ok(())
    }

    /// Whether an access at `now` moves atime.
    pub(super) fn is_access_due(&self, record: &InodeRecord, now: Time) -> bool {
        !self.store.options.read_only
            && record.flags & FLAG_NOATIME == 0
            && (record.atime <= record.mtime.max(record.ctime)
                || now.sec.saturating_sub(record.atime.sec) >= ATIME_AGE_SECONDS)
    }

    /// Notes an access (of a file's bytes, a directory's entries, a symlink's target) as `relatime`
    /// does: atime moves when it is not after mtime and ctime, or is a day old. A volume that
    /// cannot be written to just leaves it. Durable some time later.
    pub fn note_access(&self, ino: Ino) {
        let now = self.now();
        let due = |record: &InodeRecord| self.is_access_due(record, now);
        let record = self.load_inode(&self.store.journal.view(), ino);
        if !record.is_ok_and(|record| due(&record)) {
            return;
        }
        let update = || -> Result<(), EngineError> {
            let mut tx = self.begin_tx(Need::Space)?;
            let mut record = self.load_inode(&tx, ino)?;
            if due(&record) {
                record.atime = now;
                self.store_inode(&mut tx, ino, &record)?;
                tx.commit()?;
            }
            Ok(())
        };
        if let Err(error) = update() {
            log::debug!("inode {ino}: access time not updated: {error}");
        }
    }

    /// Space and inodes, used and free, within the dataset's quota; and within that of its project,
    /// where `ino` is a directory that passes its project on.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn statfs_at(&self, ino: Ino) -> Result<StatFs, EngineError> {
        let view = self.store.journal.view();
        let dataset = self.dataset_record(&view)?;
        let counters = self.load_counters(&view)?;
        let block = u64::from(STATFS_BLOCK_BYTES);
        let used = self.dataset.usage.used_bytes().div_ceil(block);
        let free = self.free_bytes()?;
        let mut files_free = free / BYTES_PER_INODE;
        if dataset.quota_inodes != 0 {
            files_free = files_free.min(dataset.quota_inodes.saturating_sub(counters.inodes));
        }
        // What the quota leaves and the store does not have is free to nobody, as what a file system
        // keeps for its administrator: so size, used and available all are what they are called.
        let available = free / block;
        let left = match dataset.quota_bytes {
            0 => available,
            quota => (quota / block).saturating_sub(used),
        };
        let whole = StatFs {
            block_bytes: STATFS_BLOCK_BYTES,
            blocks: used.saturating_add(left),
            blocks_free: left,
            blocks_available: left.min(available),
            files: counters.inodes.saturating_add(files_free),
            files_free,
            name_max: u32::try_from(super::dir::NAME_MAX).unwrap_or(u32::MAX),
        };
        match self.load_inode(&view, ino) {
            Ok(record) if record.is_dir() && record.flags & FLAG_PROJINHERIT != 0 => {
                self.statfs_of_project(&view, record.projid, whole)
            }
            Ok(_) | Err(EngineError::Stale) => Ok(whole),
            Err(error) => Err(error),
        }
    }

    /// The same of the root directory.
    ///
    /// # Errors
    /// As there.
    pub fn statfs(&self) -> Result<StatFs, EngineError> {
        self.statfs_at(Ino::ROOT)
    }

    /// What is left of all for a project: its limits as size, what it has as used.
    fn statfs_of_project(
        &self,
        view: &impl Read,
        project: u32,
        whole: StatFs,
    ) -> Result<StatFs, EngineError> {
        let usage = &self.dataset.usage;
        let limit = usage.project_limit(project);
        let used = use_of(view, self.tree(), project)?;
        let mut found = whole;
        if limit.bytes != 0 {
            let block = u64::from(STATFS_BLOCK_BYTES);
            let bytes = usage.project_bytes(project).unwrap_or(used.bytes);
            let used = bytes.div_ceil(block);
            let left = (limit.bytes / block)
                .saturating_sub(used)
                .min(whole.blocks_free);
            found.blocks = used.saturating_add(left);
            found.blocks_free = left;
            found.blocks_available = left.min(whole.blocks_available);
        }
        if limit.inodes != 0 {
            let left = limit
                .inodes
                .saturating_sub(used.inodes)
                .min(whole.files_free);
            found.files = used.inodes.saturating_add(left);
            found.files_free = left;
        }
        Ok(found)
    }
}
