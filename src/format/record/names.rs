//! Which records hold the id of a name.
//!
//! The one place that says so: what a walk over the trees takes for used, what a transaction says it
//! uses, and what razorfsck expects to find. A record that holds an id and is not known here would lose
//! its name.

use super::DentryRecord;
use crate::format::FormatError;
use crate::format::id::NameId;
use crate::format::key::Kind;

/// The name that an entry of a dataset's tree refers to, if it refers to one. Names of attributes and
/// targets of symlinks stand in the tree themselves.
///
/// # Errors
/// When the key is of no known kind, or the record cannot be read: which name it needs is unknown.
pub fn name_used(key: &[u8], value: &[u8]) -> Result<Option<NameId>, FormatError> {
    match Kind::of_key(key)? {
        Kind::Dentry => DentryRecord::decode(value).map(|entry| Some(entry.name)),
        Kind::Inode
        | Kind::Symlink
        | Kind::Xattr
        | Kind::XattrMore
        | Kind::Extent
        | Kind::Orphan
        | Kind::ProjectUse
        | Kind::ProjectLimit
        | Kind::ProjectsCounted => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::id::Ino;
    use crate::format::key;

    #[test]
    fn an_entry_holds_a_name_and_what_nobody_knows_is_an_error() {
        let entry = DentryRecord {
            ino: Ino(7),
            name: NameId(4096),
            name_len: 3,
            file_type: 8,
        };
        let (at, value) = (key::dentry(Ino(1), 9), entry.encode());
        assert_eq!(name_used(&at, &value), Ok(Some(NameId(4096))));
        assert_eq!(name_used(&key::inode(Ino(1)), &[]), Ok(None));
        assert_eq!(name_used(&key::xattr(Ino(1), b"user.a"), &[]), Ok(None));
        assert!(name_used(&at, &value[1..]).is_err());
        assert!(name_used(b"short", &[]).is_err());
        assert!(name_used(&[0, 0, 0, 0, 0, 0, 0, 1, 0x21], &[]).is_err());
    }
}
