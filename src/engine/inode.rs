//! Inode records and the dataset's counters: what every mutation loads, changes and puts back.
//!
//! Invariant: a transaction that changes a record loaded it in that same transaction, so that no
//! change is built on a state that another transaction has replaced.

use super::datasets::counters_of;
use super::{Cred, EngineError, Time, Volume};
use crate::format::FormatError;
use crate::format::id::Ino;
use crate::format::key::{self, TreeId};
use crate::format::record::{
    DatasetCounters, DatasetRecord, InodeRecord, Quota, Storing, counters_key, dataset_key,
};
use crate::log::Tx;
use crate::store::{Read, StoreError};
use crate::sync::atomic::Ordering;

/// The type bits of a mode.
pub(super) const S_IFMT: u32 = libc::S_IFMT;
/// A directory.
pub(super) const S_IFDIR: u32 = libc::S_IFDIR;
/// A regular file.
pub(super) const S_IFREG: u32 = libc::S_IFREG;
/// A symlink.
pub(super) const S_IFLNK: u32 = libc::S_IFLNK;
/// Permission bits with setuid, setgid and sticky.
pub(super) const MODE_BITS: u32 = 0o7777;

/// Of `FS_IOC_GETFLAGS`: nothing about the inode may change.
pub(super) const FLAG_IMMUTABLE: u32 = 0x10;
/// Of `FS_IOC_GETFLAGS`: bytes and entries may only be added.
pub(super) const FLAG_APPEND: u32 = 0x20;

/// Of `FS_IOC_GETFLAGS`: not for backups.
pub(super) const FLAG_NODUMP: u32 = 0x40;
/// Of `FS_IOC_GETFLAGS`: reading does not change atime.
pub(super) const FLAG_NOATIME: u32 = 0x80;
/// Of `FS_IOC_GETFLAGS`: writes are durable on return.
pub(super) const FLAG_SYNC: u32 = 0x8;
/// Of `FS_IOC_GETFLAGS`: changes of the directory's entries are durable on return.
pub(super) const FLAG_DIRSYNC: u32 = 0x1_0000;

/// Links of an inode, and subdirectories of a directory, in all.
pub(super) const LINK_MAX: u32 = 0x7fff_ffff;

/// What the record says of the inode's kind, in one place.
pub(super) trait InodeExt {
    /// Whether it is a directory.
    fn is_dir(&self) -> bool;
    /// Whether it is a regular file.
    fn is_file(&self) -> bool;
    /// Whether it is a symlink.
    fn is_symlink(&self) -> bool;
    /// `DT_*`.
    fn file_type(&self) -> u8;
    /// [`EngineError::NotPermitted`] when the inode is immutable.
    fn check_not_immutable(&self) -> Result<(), EngineError>;
    /// [`EngineError::NotPermitted`] when the inode is immutable or append-only.
    fn check_changeable(&self) -> Result<(), EngineError>;
    /// Clears setuid, and setgid where it means one: what a change by someone without privileges
    /// does to a regular file. Whether anything changed.
    fn kill_suidgid(&mut self, by: Cred);
}

impl InodeExt for InodeRecord {
    fn is_dir(&self) -> bool {
        self.mode & S_IFMT == S_IFDIR
    }

    fn is_file(&self) -> bool {
        self.mode & S_IFMT == S_IFREG
    }

    fn is_symlink(&self) -> bool {
        self.mode & S_IFMT == S_IFLNK
    }

    fn file_type(&self) -> u8 {
        u8::try_from((self.mode & S_IFMT) >> 12).unwrap_or(0)
    }

    fn check_not_immutable(&self) -> Result<(), EngineError> {
        if self.flags & FLAG_IMMUTABLE != 0 {
            return Err(EngineError::NotPermitted("the inode is immutable"));
        }
        Ok(())
    }

    fn check_changeable(&self) -> Result<(), EngineError> {
        self.check_not_immutable()?;
        if self.flags & FLAG_APPEND != 0 {
            return Err(EngineError::NotPermitted("the inode is append-only"));
        }
        Ok(())
    }

    fn kill_suidgid(&mut self, by: Cred) {
        if self.is_dir() {
            return;
        }
        self.mode &= !libc::S_ISUID;
        // Without group execute it gives nobody anything. Linux lets members of the group and root
        // keep it there since 6.2; of a caller's groups a request names one.
        let member = by.uid == 0 || by.gid == self.gid;
        if self.mode & libc::S_IXGRP != 0 || !member {
            self.mode &= !libc::S_ISGID;
        }
    }
}

impl Volume {
    /// The dataset's tree.
    pub(super) fn tree(&self) -> TreeId {
        TreeId::Fs(self.dataset.id)
    }

    /// The volume's clock.
    pub(super) fn now(&self) -> Time {
        (self.store.clock)()
    }

    /// An inode's record; [`EngineError::Stale`] when it is not there.
    pub(super) fn load_inode(
        &self,
        read: &impl Read,
        ino: Ino,
    ) -> Result<InodeRecord, EngineError> {
        read.get_with(self.tree(), &key::inode(ino), InodeRecord::decode)?
            .ok_or(EngineError::Stale)?
            .map_err(|e| StoreError::format(format!("inode {ino}"), e).into())
    }

    /// A directory's record; [`EngineError::NotDirectory`] when it is something else.
    pub(super) fn load_dir(&self, read: &impl Read, ino: Ino) -> Result<InodeRecord, EngineError> {
        let record = self.load_inode(read, ino)?;
        if record.is_dir() {
            Ok(record)
        } else {
            Err(EngineError::NotDirectory)
        }
    }

    /// Puts an inode's record, and counts it in its project.
    ///
    /// # Errors
    /// `Quota` for a new inode of a project that has as many as it may have.
    pub(super) fn store_inode(
        &self,
        tx: &mut Tx<'_>,
        ino: Ino,
        record: &InodeRecord,
    ) -> Result<(), EngineError> {
        self.count_inode(tx, ino, Some(record))?;
        Ok(tx.put(self.tree(), key::inode(ino), record.encode())?)
    }

    /// The dataset's record: its quota and flags.
    pub(super) fn dataset_record(&self, read: &impl Read) -> Result<DatasetRecord, EngineError> {
        self.decode_dataset(read, DatasetRecord::decode)
    }

    /// The quota in the dataset's record.
    pub(super) fn quota(&self, read: &impl Read) -> Result<Quota, EngineError> {
        self.decode_dataset(read, Quota::decode)
    }

    /// How the dataset's new chunks are made.
    pub(super) fn storing(&self, read: &impl Read) -> Result<Storing, EngineError> {
        self.decode_dataset(read, Storing::decode)
    }

    fn decode_dataset<T>(
        &self,
        read: &impl Read,
        decode: impl FnOnce(&[u8]) -> Result<T, FormatError>,
    ) -> Result<T, EngineError> {
        let what = || format!("dataset {}", self.dataset.id);
        read.get_with(TreeId::Datasets, &dataset_key(self.dataset.id), decode)?
            .ok_or_else(|| StoreError::Corrupt(format!("{} has no record", what())))?
            .map_err(|e| StoreError::format(what(), e).into())
    }

    /// The dataset's counters.
    pub(super) fn load_counters(&self, read: &impl Read) -> Result<DatasetCounters, EngineError> {
        Ok(counters_of(read, self.dataset.id)?)
    }

    /// Keeps the sum of what all datasets have reserved.
    fn count_reserved(&self, bytes: u64) {
        let before = self.dataset.reserved_bytes.swap(bytes, Ordering::Relaxed);
        let sum = &self.store.data.reserved_bytes;
        sum.fetch_add(bytes, Ordering::Relaxed);
        sum.fetch_sub(before, Ordering::Relaxed);
    }

    /// Puts the dataset's counters, by a transaction that is about to be committed.
    pub(super) fn store_counters(
        &self,
        tx: &mut Tx<'_>,
        counters: &DatasetCounters,
    ) -> Result<(), EngineError> {
        self.count_reserved(counters.reserved_bytes);
        Ok(tx.put(
            TreeId::Datasets,
            counters_key(self.dataset.id),
            counters.encode(),
        )?)
    }
}
