//! POSIX access control lists: pure functions on their extended-attribute form.
//!
//! The algorithms are those of Linux's fs/posix_acl.c, so that a guest sees what any local file
//! system shows. Who may do what is decided by the guest's kernel; here lists are validated,
//! inherited and kept equal to the mode bits. A list that says no more than the mode is never
//! stored. Imports nothing of the store.

use super::EngineError;

/// The xattr that holds the access list.
pub(super) const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
/// The xattr that holds a directory's default list.
pub(super) const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// `POSIX_ACL_XATTR_VERSION`
const VERSION: u32 = 2;
const HEADER_BYTES: usize = 4;
const ENTRY_BYTES: usize = 8;
/// The id of an entry that has none.
const ID_NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tag {
    UserObj = 0x01,
    User = 0x02,
    GroupObj = 0x04,
    Group = 0x08,
    Mask = 0x10,
    Other = 0x20,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    tag: Tag,
    /// rwx bits.
    perm: u32,
    id: u32,
}

/// A list that is valid: owner, users, owning group, groups, mask, others, in this order, with a
/// mask when there are users or groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Acl {
    entries: Vec<Entry>,
}

impl Acl {
    /// Reads the xattr form. `None` for a list without entries, which means no list.
    pub(super) fn decode(bytes: &[u8]) -> Result<Option<Acl>, EngineError> {
        let invalid = EngineError::Invalid("not a POSIX ACL");
        let Some((version, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(invalid);
        };
        if u32::from_le_bytes(*version) != VERSION {
            return Err(EngineError::NotSupported("version of the POSIX ACL"));
        }
        let (chunks, partial) = rest.as_chunks::<ENTRY_BYTES>();
        if !partial.is_empty() {
            return Err(invalid);
        }
        if chunks.is_empty() {
            return Ok(None);
        }
        let entries = chunks
            .iter()
            .map(decode_entry)
            .collect::<Result<Vec<_>, _>>()?;
        let acl = Acl { entries };
        if acl.is_valid() {
            Ok(Some(acl))
        } else {
            Err(invalid)
        }
    }

    /// The xattr form.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.entries.len() * ENTRY_BYTES);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        for entry in &self.entries {
            let perm = u16::try_from(entry.perm & 7).unwrap_or(0);
            bytes.extend_from_slice(&(entry.tag as u16).to_le_bytes());
            bytes.extend_from_slice(&perm.to_le_bytes());
            bytes.extend_from_slice(&entry.id.to_le_bytes());
        }
        bytes
    }

    /// `posix_acl_valid`
    fn is_valid(&self) -> bool {
        let count = |tag| self.entries.iter().filter(|e| e.tag == tag).count();
        let named = count(Tag::User) + count(Tag::Group) > 0;
        self.entries.is_sorted_by_key(|e| e.tag)
            && [Tag::UserObj, Tag::GroupObj, Tag::Other]
                .iter()
                .all(|tag| count(*tag) == 1)
            && count(Tag::Mask) <= 1
            && (!named || count(Tag::Mask) == 1)
    }

    fn find(&mut self, tag: Tag) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.tag == tag)
    }

    /// The entry that the mode's group bits stand for: the mask, or without one the owning group.
    fn group_class(&mut self) -> Option<&mut Entry> {
        let tag = if self.entries.iter().any(|e| e.tag == Tag::Mask) {
            Tag::Mask
        } else {
            Tag::GroupObj
        };
        self.find(tag)
    }

    /// Whether it says no more than mode bits can (`posix_acl_equiv_mode` is 0).
    pub(super) fn is_minimal(&self) -> bool {
        self.entries
            .iter()
            .all(|e| matches!(e.tag, Tag::UserObj | Tag::GroupObj | Tag::Other))
    }

    /// The mode with the permission bits this access list stands for (`posix_acl_equiv_mode`).
    pub(super) fn apply_to_mode(&self, mode: u32) -> u32 {
        let mut bits = 0;
        let mut mask = None;
        for entry in &self.entries {
            match entry.tag {
                Tag::UserObj => bits |= entry.perm << 6,
                Tag::GroupObj => bits |= entry.perm << 3,
                Tag::Other => bits |= entry.perm,
                Tag::Mask => mask = Some(entry.perm),
                Tag::User | Tag::Group => {}
            }
        }
        if let Some(mask) = mask {
            bits = (bits & !0o070) | (mask << 3);
        }
        (mode & !0o777) | bits
    }

    /// Makes the list follow a chmod (`__posix_acl_chmod_masq`).
    pub(super) fn chmod(&mut self, mode: u32) {
        if let Some(entry) = self.find(Tag::UserObj) {
            entry.perm = (mode >> 6) & 7;
        }
        if let Some(entry) = self.group_class() {
            entry.perm = (mode >> 3) & 7;
        }
        if let Some(entry) = self.find(Tag::Other) {
            entry.perm = mode & 7;
        }
    }

    /// Turns a directory's default list into the access list of a new inode that was asked for with
    /// `mode`, and returns the inode's mode (`posix_acl_create_masq`). No umask counts here.
    pub(super) fn inherit(&mut self, mode: u32) -> u32 {
        let limit = |entry: Option<&mut Entry>, shift: u32| match entry {
            Some(entry) => {
                entry.perm &= (mode >> shift) & 7;
                entry.perm << shift
            }
            None => 0,
        };
        let bits = limit(self.find(Tag::UserObj), 6)
            | limit(self.group_class(), 3)
            | limit(self.find(Tag::Other), 0);
        (mode & !0o777) | bits
    }
}

fn decode_entry(bytes: &[u8; ENTRY_BYTES]) -> Result<Entry, EngineError> {
    let [t0, t1, p0, p1, i0, i1, i2, i3] = *bytes;
    let invalid = EngineError::Invalid("not an entry of a POSIX ACL");
    let tag = match u16::from_le_bytes([t0, t1]) {
        0x01 => Tag::UserObj,
        0x02 => Tag::User,
        0x04 => Tag::GroupObj,
        0x08 => Tag::Group,
        0x10 => Tag::Mask,
        0x20 => Tag::Other,
        _ => return Err(invalid),
    };
    let perm = u32::from(u16::from_le_bytes([p0, p1]));
    let id = u32::from_le_bytes([i0, i1, i2, i3]);
    if perm > 7 {
        return Err(invalid);
    }
    match tag {
        Tag::User | Tag::Group if id == ID_NONE => Err(invalid),
        Tag::User | Tag::Group => Ok(Entry { tag, perm, id }),
        _ => Ok(Entry {
            tag,
            perm,
            id: ID_NONE,
        }),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An ACL in xattr form from (tag, perm, id).
    pub(in crate::engine) fn acl_bytes(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut bytes = 2u32.to_le_bytes().to_vec();
        for (tag, perm, id) in entries {
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.extend_from_slice(&perm.to_le_bytes());
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        bytes
    }

    const NO: u32 = u32::MAX;

    fn full() -> Vec<u8> {
        acl_bytes(&[
            (0x01, 7, NO),
            (0x02, 6, 1000),
            (0x04, 5, NO),
            (0x08, 4, 50),
            (0x10, 6, NO),
            (0x20, 1, NO),
        ])
    }

    fn decoded(bytes: &[u8]) -> Acl {
        Acl::decode(bytes).ok().flatten().unwrap_or_else(|| Acl {
            entries: Vec::new(),
        })
    }

    #[test]
    fn encoded_form_round_trips() {
        assert_eq!(decoded(&full()).encode(), full());
        assert!(matches!(Acl::decode(&2u32.to_le_bytes()), Ok(None)));
    }

    #[test]
    fn invalid_lists_are_refused() {
        let minimal = [(0x01, 7, NO), (0x04, 5, NO), (0x20, 1, NO)];
        let bad: [&[(u16, u16, u32)]; 8] = [
            &[(0x01, 7, NO)],
            &[(0x04, 5, NO), (0x01, 7, NO), (0x20, 1, NO)],
            &[(0x01, 8, NO), (0x04, 5, NO), (0x20, 1, NO)],
            &[(0x01, 7, NO), (0x02, 6, 7), (0x04, 5, NO), (0x20, 1, NO)],
            &[
                (0x01, 7, NO),
                (0x02, 6, NO),
                (0x04, 5, NO),
                (0x10, 7, NO),
                (0x20, 1, NO),
            ],
            &[
                (0x01, 7, NO),
                (0x04, 5, NO),
                (0x10, 7, NO),
                (0x10, 7, NO),
                (0x20, 1, NO),
            ],
            &[(0x01, 7, NO), (0x01, 7, NO), (0x04, 5, NO), (0x20, 1, NO)],
            &[(0x40, 7, NO), (0x04, 5, NO), (0x20, 1, NO)],
        ];
        assert!(matches!(Acl::decode(&acl_bytes(&minimal)), Ok(Some(_))));
        for entries in bad {
            assert!(Acl::decode(&acl_bytes(entries)).is_err(), "{entries:?}");
        }
        assert!(Acl::decode(&[]).is_err());
        assert!(Acl::decode(&full()[..11]).is_err());
        assert!(Acl::decode(&[3, 0, 0, 0]).is_err());
    }

    #[test]
    fn mask_stands_for_the_group_bits() {
        assert_eq!(decoded(&full()).apply_to_mode(0o104_000), 0o104_761);
        let minimal = acl_bytes(&[(0x01, 6, NO), (0x04, 5, NO), (0x20, 1, NO)]);
        assert!(decoded(&minimal).is_minimal());
        assert!(!decoded(&full()).is_minimal());
        assert_eq!(decoded(&minimal).apply_to_mode(0o100_777), 0o100_651);
    }

    #[test]
    fn chmod_rewrites_owner_mask_and_others() {
        let mut acl = decoded(&full());
        acl.chmod(0o640);
        assert_eq!(acl.apply_to_mode(0), 0o640);
        // The owning group's own entry stays behind the mask.
        assert!(
            acl.entries
                .iter()
                .any(|e| e.tag == Tag::GroupObj && e.perm == 5)
        );
    }

    #[test]
    fn inheritance_takes_what_both_allow() {
        let mut acl = decoded(&full());
        assert_eq!(acl.inherit(0o100_666), 0o100_660);
        assert_eq!(acl.apply_to_mode(0o100_000), 0o100_660);
        let mut minimal = decoded(&acl_bytes(&[(0x01, 7, NO), (0x04, 5, NO), (0x20, 5, NO)]));
        assert_eq!(minimal.inherit(0o40_770), 0o40_750);
        assert!(minimal.is_minimal());
    }
}
