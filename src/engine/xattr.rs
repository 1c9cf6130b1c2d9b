//! Extended attributes, access control lists among them.
//!
//! Invariant: [`InodeRecord::xattrs`] counts the inode's attributes, so that one without any is not
//! searched.

use std::ops::ControlFlow;

use super::acl::{ACL_ACCESS, ACL_DEFAULT, Acl};
use super::inode::InodeExt;
use super::{EngineError, SetXattr, Volume};
use crate::format::id::Ino;
use crate::format::key::{self, Kind};
use crate::format::record::InodeRecord;
use crate::format::xattr::{
    XATTR_NAME_MAX, XATTR_VALUE_MAX, decode_head, encode_head, more_count, more_fragments,
};
use crate::log::Tx;
use crate::store::{Read, StoreError};

/// Attributes of one inode, at most. It bounds what a listing takes, which Linux cuts at 64 KiB.
const XATTRS_MAX: u32 = 4096;

/// Refuses names outside the namespaces that are kept.
fn check_name(name: &[u8]) -> Result<(), EngineError> {
    if name.is_empty() || name.len() > XATTR_NAME_MAX {
        return Err(EngineError::Range);
    }
    if name.contains(&0) {
        return Err(EngineError::Invalid("a NUL in the name of an attribute"));
    }
    if name == ACL_ACCESS || name == ACL_DEFAULT {
        return Ok(());
    }
    let prefixes: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
    match prefixes
        .iter()
        .find_map(|prefix| name.strip_prefix(*prefix))
    {
        Some(b"") => Err(EngineError::Invalid(
            "a name without anything behind its prefix",
        )),
        Some(_) => Ok(()),
        None => Err(EngineError::NotSupported("attributes of this namespace")),
    }
}

/// Checks what may stand in any attribute.
fn check_any(name: &[u8], value: &[u8]) -> Result<(), EngineError> {
    check_name(name)?;
    match value.len() > XATTR_VALUE_MAX {
        true => Err(EngineError::TooBig),
        false => Ok(()),
    }
}

/// Checks an attribute that a new inode comes with: a label of a security module.
pub(super) fn check_security(name: &[u8], value: &[u8]) -> Result<(), EngineError> {
    check_name(name)?;
    if !name.starts_with(b"security.") {
        return Err(EngineError::Invalid("not a security label"));
    }
    if value.len() > XATTR_VALUE_MAX {
        return Err(EngineError::TooBig);
    }
    Ok(())
}

/// Whether attributes of this name are kept.
pub(super) fn is_kept(name: &[u8]) -> bool {
    check_name(name).is_ok()
}

/// Checks an attribute that an inode comes with.
pub(super) fn check_imported(
    record: &InodeRecord,
    name: &[u8],
    value: &[u8],
) -> Result<(), EngineError> {
    check_any(name, value)?;
    if is_out_of_place(record, name) {
        return Err(EngineError::Invalid(
            "user attributes are for regular files and directories",
        ));
    }
    Ok(())
}

/// Checks an attribute as it stands in another store.
pub(super) fn check_received(
    record: &InodeRecord,
    name: &[u8],
    value: &[u8],
) -> Result<(), EngineError> {
    check_any(name, value)?;
    let is_list = name == ACL_ACCESS || name == ACL_DEFAULT;
    if is_out_of_place(record, name) || (is_list && record.is_symlink()) {
        return Err(EngineError::Invalid("an attribute out of its place"));
    }
    if is_list && Acl::decode(value)?.is_none() {
        return Err(EngineError::Invalid("an empty ACL"));
    }
    Ok(())
}

/// `user.` attributes are for regular files and directories (Linux's `xattr_permission`).
fn is_out_of_place(record: &InodeRecord, name: &[u8]) -> bool {
    name.starts_with(b"user.") && !record.is_file() && !record.is_dir()
}

impl Volume {
    /// The value of an attribute, if the inode has it.
    pub(super) fn read_xattr(
        &self,
        read: &impl Read,
        ino: Ino,
        record: &InodeRecord,
        name: &[u8],
    ) -> Result<Option<Vec<u8>>, EngineError> {
        if record.xattrs == 0 {
            return Ok(None);
        }
        let what = || format!("xattr of inode {ino}");
        let head = read.get_with(self.tree(), &key::xattr(ino, name), |head| {
            decode_head(head).map(|(total, first)| (total, first.to_vec()))
        })?;
        let Some(head) = head else {
            return Ok(None);
        };
        let (total, mut value) = head.map_err(|source| StoreError::format(what(), source))?;
        for index in 1..=more_count(total) {
            let key = key::xattr_more(ino, name, index);
            read.get_with(self.tree(), &key, |more| value.extend_from_slice(more))?
                .ok_or_else(|| {
                    StoreError::Corrupt(format!("{}: fragment {index} is missing", what()))
                })?;
        }
        if value.len() != total {
            let found = value.len();
            let text = format!("{}: {found} bytes, its head says {total}", what());
            return Err(StoreError::Corrupt(text).into());
        }
        Ok(Some(value))
    }

    /// Creates or replaces an attribute. The caller puts the record.
    pub(super) fn write_xattr(
        &self,
        tx: &mut Tx<'_>,
        ino: Ino,
        record: &mut InodeRecord,
        name: &[u8],
        value: &[u8],
    ) -> Result<(), EngineError> {
        self.delete_xattr(tx, ino, record, name)?;
        if record.xattrs >= XATTRS_MAX {
            return Err(StoreError::NoSpace("too many attributes on one inode").into());
        }
        tx.put(self.tree(), key::xattr(ino, name), encode_head(value))?;
        for (index, fragment) in more_fragments(value) {
            tx.put(self.tree(), key::xattr_more(ino, name, index), fragment)?;
        }
        record.xattrs = record.xattrs.saturating_add(1);
        Ok(())
    }

    /// Removes an attribute; whether it was there. The caller puts the record.
    pub(super) fn delete_xattr(
        &self,
        tx: &mut Tx<'_>,
        ino: Ino,
        record: &mut InodeRecord,
        name: &[u8],
    ) -> Result<bool, EngineError> {
        if record.xattrs == 0 {
            return Ok(false);
        }
        let head = tx.get_with(self.tree(), &key::xattr(ino, name), |head| {
            decode_head(head).map(|(total, _)| total)
        })?;
        let Some(head) = head else {
            return Ok(false);
        };
        let total =
            head.map_err(|source| StoreError::format(format!("xattr of inode {ino}"), source))?;
        tx.delete(self.tree(), key::xattr(ino, name))?;
        for index in 1..=more_count(total) {
            tx.delete(self.tree(), key::xattr_more(ino, name, index))?;
        }
        record.xattrs = record.xattrs.saturating_sub(1);
        Ok(true)
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// [`EngineError::NoAttribute`], [`EngineError::NotSupported`].
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, EngineError> {
        check_name(name)?;
        let view = self.store.journal.view();
        let record = self.load_inode(&view, ino)?;
        self.read_xattr(&view, ino, &record, name)?
            .ok_or(EngineError::NoAttribute)
    }

    /// Sets an extended attribute. `kill_sgid`: an access ACL set by someone outside the owning
    /// group clears the setgid bit (`FUSE_SETXATTR_ACL_KILL_SGID`).
    ///
    /// # Errors
    /// [`EngineError::Exists`], [`EngineError::NoAttribute`] by `how`; [`EngineError::Range`] for a
    /// name and [`EngineError::TooBig`] for a value that is too long.
    pub fn setxattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        how: SetXattr,
        kill_sgid: bool,
    ) -> Result<(), EngineError> {
        check_name(name)?;
        if value.len() > XATTR_VALUE_MAX {
            return Err(EngineError::TooBig);
        }
        let mut op = self.begin()?;
        let mut record = op.inode(ino)?;
        record.check_changeable()?;
        if is_out_of_place(&record, name) {
            return Err(EngineError::NotPermitted(
                "user attributes are for regular files and directories",
            ));
        }
        let there = record.xattrs > 0
            && op
                .tx
                .get_with(self.tree(), &key::xattr(ino, name), |_| ())?
                .is_some();
        match how {
            SetXattr::Create if there => return Err(EngineError::Exists),
            SetXattr::Replace if !there => return Err(EngineError::NoAttribute),
            _ => {}
        }
        if name == ACL_ACCESS || name == ACL_DEFAULT {
            self.set_acl(&mut op.tx, ino, &mut record, name, value, kill_sgid)?;
        } else {
            self.write_xattr(&mut op.tx, ino, &mut record, name, value)?;
        }
        record.ctime = op.now;
        op.put(ino, &record)?;
        op.commit()?;
        Ok(())
    }

    /// Sets an ACL: an access list changes the mode, and is only kept when it says more than that.
    pub(super) fn set_acl(
        &self,
        tx: &mut Tx<'_>,
        ino: Ino,
        record: &mut InodeRecord,
        name: &[u8],
        value: &[u8],
        kill_sgid: bool,
    ) -> Result<(), EngineError> {
        if record.is_symlink() {
            return Err(EngineError::NotSupported("an ACL of a symlink"));
        }
        let acl = Acl::decode(value)?;
        let access = name == ACL_ACCESS;
        if !access && acl.is_some() && !record.is_dir() {
            return Err(EngineError::Denied("only a directory has a default ACL"));
        }
        if let (true, Some(acl)) = (access, &acl) {
            record.mode = acl.apply_to_mode(record.mode);
            if kill_sgid {
                record.mode &= !libc::S_ISGID;
            }
        }
        match acl {
            Some(acl) if !(access && acl.is_minimal()) => {
                self.write_xattr(tx, ino, record, name, &acl.encode())
            }
            _ => self.delete_xattr(tx, ino, record, name).map(|_| ()),
        }
    }

    /// The names of all extended attributes.
    ///
    /// # Errors
    /// [`EngineError::Stale`].
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<Vec<u8>>, EngineError> {
        let view = self.store.journal.view();
        let record = self.load_inode(&view, ino)?;
        let mut names = Vec::new();
        if record.xattrs == 0 {
            return Ok(names);
        }
        let (start, end) = key::kind_range(ino, Kind::Xattr);
        view.scan(self.tree(), &start, &end, &mut |key, _| {
            names.push(key.get(start.len()..).unwrap_or_default().to_vec());
            ControlFlow::Continue(())
        })?;
        Ok(names)
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// [`EngineError::NoAttribute`].
    pub fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<(), EngineError> {
        check_name(name)?;
        let mut op = self.begin()?;
        let mut record = op.inode(ino)?;
        record.check_changeable()?;
        if !self.delete_xattr(&mut op.tx, ino, &mut record, name)? {
            return Err(EngineError::NoAttribute);
        }
        record.ctime = op.now;
        op.put(ino, &record)?;
        op.commit()?;
        Ok(())
    }
}
