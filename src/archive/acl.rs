//! ACLs as text, as tar streams hold them (`SCHILY.acl.access`), and as xattrs.
//!
//! Pure. Whether a list makes sense is the engine's to say.

/// `POSIX_ACL_XATTR_VERSION`
const VERSION: u32 = 2;
/// The id of an entry that has none.
const ID_NONE: u32 = u32::MAX;

/// Entries of a list, at most: as many as fit an attribute.
const ENTRIES_MAX: usize = 8000;

const NAMES: [(&str, &str, u16, u16); 4] = [
    ("user", "u", 0x01, 0x02),
    ("group", "g", 0x04, 0x08),
    ("mask", "m", 0x10, 0x10),
    ("other", "o", 0x20, 0x20),
];

/// The xattr's bytes as text with numbers for users and groups; `None` when they are no list.
pub fn to_text(xattr: &[u8]) -> Option<String> {
    let (version, rest) = xattr.split_first_chunk::<4>()?;
    let (entries, partial) = rest.as_chunks::<8>();
    if u32::from_le_bytes(*version) != VERSION || !partial.is_empty() {
        return None;
    }
    let mut lines = Vec::new();
    for [t0, t1, p0, p1, id @ ..] in entries {
        let (tag, perm) = (
            u16::from_le_bytes([*t0, *t1]),
            u16::from_le_bytes([*p0, *p1]),
        );
        let (name, _, _, named) = NAMES
            .iter()
            .find(|(_, _, own, named)| tag == *own || tag == *named)?;
        let bit = |bit, letter| if perm & bit != 0 { letter } else { '-' };
        let id = match tag == *named && tag != 0x10 && tag != 0x20 {
            true => u32::from_le_bytes(*id).to_string(),
            false => String::new(),
        };
        let perms: String = [bit(4, 'r'), bit(2, 'w'), bit(1, 'x')].iter().collect();
        lines.push(format!("{name}:{id}:{perms}"));
    }
    Some(lines.join(","))
}

/// What text says, as an xattr's bytes; `None` when it is no list, or names users or groups that have
/// no number in it.
pub fn from_text(text: &str) -> Option<Vec<u8>> {
    let mut entries = Vec::new();
    for line in text.split([',', '\n']) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            entries.push(entry(line)?);
        }
        if entries.len() > ENTRIES_MAX {
            return None;
        }
    }
    // As the kernel wants them.
    entries.sort_by_key(|(tag, _, id)| (*tag, *id));
    let mut xattr = VERSION.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        xattr.extend_from_slice(&tag.to_le_bytes());
        xattr.extend_from_slice(&perm.to_le_bytes());
        xattr.extend_from_slice(&id.to_le_bytes());
    }
    Some(xattr)
}

fn entry(line: &str) -> Option<(u16, u16, u32)> {
    let line = line.strip_prefix("default:").unwrap_or(line);
    let mut parts = line.split(':');
    let (kind, qualifier, perms) = (parts.next()?, parts.next()?, parts.next()?);
    // star puts the number behind.
    let number = parts.next();
    let (_, _, own, named) = NAMES
        .iter()
        .find(|(long, short, _, _)| kind == *long || kind == *short)?;
    let mut perm = 0;
    for letter in perms.trim().chars() {
        perm |= match letter {
            'r' => 4,
            'w' => 2,
            'x' => 1,
            '-' => 0,
            _ => return None,
        };
    }
    if qualifier.is_empty() {
        return Some((*own, perm, ID_NONE));
    }
    if own == named {
        return None;
    }
    let id = number.unwrap_or(qualifier).trim().parse().ok()?;
    Some((*named, perm, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "user::rw-,user:1000:r--,group::r-x,group:7:---,mask::rwx,other::--x";

    #[test]
    fn lists_survive_being_text() {
        let xattr = from_text(TEXT).unwrap();
        assert_eq!(xattr.len(), 4 + 6 * 8);
        assert_eq!(to_text(&xattr).unwrap(), TEXT);
        // In another order, as star writes it, and with what is for people.
        let same =
            "group:people:---:7\nuser:lisa:r--:1000\nu::rw\ng::rx\nm::rwx #effective\no::x\n";
        assert_eq!(from_text(same).unwrap(), xattr);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in [
            "user:lisa:r--",
            "people::r",
            "user::rq",
            "user:",
            "mask:4:r",
            "x",
        ] {
            assert_eq!(from_text(text), None, "{text}");
        }
        assert_eq!(to_text(&[2, 0, 0, 0, 1]), None);
        assert_eq!(to_text(&[1, 0, 0, 0]), None);
        assert_eq!(to_text(&[2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
