//! Records of PAX headers: `LEN KEY=VALUE\n`, in which values may be any bytes.

use super::super::acl;
use super::RANGES_MAX;
use crate::engine::{Time, Xattr};

const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// Attributes of a file, at most: as many as an inode can have.
const XATTRS_MAX: usize = 4096;

/// What PAX headers say of a member, in the place of what its own header says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extended {
    pub path: Option<Vec<u8>>,
    pub link_path: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub atime: Option<Time>,
    pub mtime: Option<Time>,
    pub xattrs: Vec<Xattr>,
    /// ACLs that name who has no number here.
    pub foreign_acls: bool,
    pub sparse: Sparse,
}

/// What they say of holes, in three forms that GNU tar has had.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sparse {
    pub major: u64,
    pub minor: u64,
    pub name: Option<Vec<u8>>,
    pub real_size: Option<u64>,
    /// Offsets and lengths in turn, of the forms 0.0 and 0.1.
    pub map: Vec<u64>,
    /// Whether there are holes at all.
    pub is_there: bool,
}

/// A key and its value.
type Record<'a> = (&'a [u8], &'a [u8]);

/// Takes records apart; an error says what is wrong.
pub fn records(mut bytes: &[u8]) -> Result<Vec<Record<'_>>, &'static str> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let wrong = "a PAX header with a record that is none";
        let space = bytes.iter().take(20).position(|byte| *byte == b' ');
        let space = space.ok_or(wrong)?;
        let digits = bytes.get(..space).and_then(decimal).ok_or(wrong)?;
        let len = usize::try_from(digits).map_err(|_| wrong)?;
        let record = bytes.get(space + 1..len).ok_or(wrong)?;
        let record = record.strip_suffix(b"\n").ok_or(wrong)?;
        let equals = record.iter().position(|byte| *byte == b'=');
        let (key, value) = record.split_at_checked(equals.ok_or(wrong)?).ok_or(wrong)?;
        found.push((key, value.get(1..).unwrap_or_default()));
        bytes = bytes.get(len..).unwrap_or_default();
    }
    Ok(found)
}

pub fn decimal(digits: &[u8]) -> Option<u64> {
    let is_digits = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    match is_digits {
        true => std::str::from_utf8(digits).ok()?.parse().ok(),
        false => None,
    }
}

/// Seconds since 1970 with a fraction of any length; before 1970 with a sign.
pub fn time(value: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(value).ok()?;
    let (is_before, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let whole = decimal(whole.as_bytes())?;
    let sec = match is_before {
        true => 0_i64.checked_sub_unsigned(whole)?,
        false => i64::try_from(whole).ok()?,
    };
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let mut nsec: u32 = 0;
    for digit in fraction.bytes().chain(std::iter::repeat(b'0')).take(9) {
        nsec = nsec * 10 + u32::from(digit - b'0');
    }
    match is_before && nsec > 0 {
        true => Some(Time {
            sec: sec.checked_sub(1)?,
            nsec: 1_000_000_000 - nsec,
        }),
        false => Some(Time { sec, nsec }),
    }
}

/// A time as a PAX header has it.
pub fn time_text(time: Time) -> String {
    let (sec, nsec) = match time.sec < 0 && time.nsec > 0 {
        true => (time.sec.saturating_add(1), 1_000_000_000 - time.nsec),
        false => (time.sec, time.nsec),
    };
    let sign = if sec == 0 && time.sec < 0 { "-" } else { "" };
    match nsec {
        0 => format!("{sec}"),
        nsec => {
            let fraction = format!("{nsec:09}");
            format!("{sign}{sec}.{}", fraction.trim_end_matches('0'))
        }
    }
}

impl Extended {
    /// Applies the records of a header.
    pub fn apply(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        for (key, value) in records(bytes)? {
            self.record(key, value)?;
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let is_wrong = "a PAX header with a number that is none";
        let number = || decimal(value).ok_or(is_wrong);
        let id = || number().and_then(|id| u32::try_from(id).map_err(|_| is_wrong));
        match key {
            // An empty value takes back what a global header said.
            b"path" => self.path = (!value.is_empty()).then(|| value.to_vec()),
            b"linkpath" => self.link_path = (!value.is_empty()).then(|| value.to_vec()),
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(id()?),
            b"gid" => self.gid = Some(id()?),
            b"atime" => self.atime = Some(time(value).ok_or(is_wrong)?),
            b"mtime" => self.mtime = Some(time(value).ok_or(is_wrong)?),
            b"SCHILY.acl.access" => self.acl(ACL_ACCESS, value)?,
            b"SCHILY.acl.default" => self.acl(ACL_DEFAULT, value)?,
            b"RHT.security.selinux" => self.xattr(b"security.selinux", value)?,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattr(&xattr_name(name), value)?;
                } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.is_there = true;
                    self.sparse.record(key, value)?;
                }
            }
        }
        Ok(())
    }

    /// The last of a name counts.
    fn xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        self.xattrs.retain(|(other, _)| other != name);
        if self.xattrs.len() >= XATTRS_MAX {
            return Err("more extended attributes than a file can have");
        }
        self.xattrs.push((name.to_vec(), value.to_vec()));
        Ok(())
    }

    fn acl(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        match std::str::from_utf8(value).ok().and_then(acl::from_text) {
            Some(list) => self.xattr(name, &list),
            None => {
                self.foreign_acls = true;
                Ok(())
            }
        }
    }
}

impl Sparse {
    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let is_wrong = "a map of holes with a number that is none";
        let number = || decimal(value).ok_or(is_wrong);
        match key {
            b"major" => self.major = number()?,
            b"minor" => self.minor = number()?,
            b"name" => self.name = Some(value.to_vec()),
            b"realsize" | b"size" => self.real_size = Some(number()?),
            b"offset" | b"numbytes" => {
                // In turn, offsets first.
                let is_turn = (key == b"offset") == self.map.len().is_multiple_of(2);
                if !is_turn {
                    return Err("a map of holes that is out of order");
                }
                self.map.push(number()?);
            }
            b"map" => {
                self.map.clear();
                for part in value
                    .split(|byte| *byte == b',')
                    .filter(|part| !part.is_empty())
                {
                    self.map.push(decimal(part).ok_or(is_wrong)?);
                    self.check_len()?;
                }
            }
            _ => {}
        }
        self.check_len()
    }

    fn check_len(&self) -> Result<(), &'static str> {
        match self.map.len() > 2 * RANGES_MAX {
            true => Err("a map of more holes than are read"),
            false => Ok(()),
        }
    }
}

/// The name of an attribute in a key, as GNU tar writes it: an equals sign would end the key.
pub fn xattr_key(name: &[u8]) -> Vec<u8> {
    let mut key = b"SCHILY.xattr.".to_vec();
    for byte in name {
        match byte {
            b'%' => key.extend_from_slice(b"%25"),
            b'=' => key.extend_from_slice(b"%3D"),
            byte => key.push(*byte),
        }
    }
    key
}

fn xattr_name(mut key: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(key.len());
    while let Some((first, rest)) = key.split_first() {
        let (byte, rest) = match (rest.strip_prefix(b"25"), rest.strip_prefix(b"3D")) {
            (Some(rest), _) if *first == b'%' => (b'%', rest),
            (_, Some(rest)) if *first == b'%' => (b'=', rest),
            _ => (*first, rest),
        };
        name.push(byte);
        key = rest;
    }
    name
}

/// Appends a record.
pub fn put(into: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // A space, the equals sign, and the newline.
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    into.extend_from_slice(len.to_string().as_bytes());
    into.push(b' ');
    into.extend_from_slice(key);
    into.push(b'=');
    into.extend_from_slice(value);
    into.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_any_length_and_bytes_survive() {
        for len in [0, 1, 85, 86, 87, 88, 983, 984, 985, 9_975, 9_976, 70_000] {
            let value = vec![b'\n'; len];
            let mut bytes = Vec::new();
            put(&mut bytes, b"key=", &value);
            put(&mut bytes, b"b", b"=");
            // The first equals sign ends the key.
            let found = records(&bytes).unwrap();
            assert_eq!(found[0].0, b"key");
            assert_eq!(&found[0].1[..1], b"=");
            assert_eq!(&found[0].1[1..], value);
            assert_eq!(found[1], (b"b".as_slice(), b"=".as_slice()));
        }
    }

    #[test]
    fn names_of_attributes_survive_being_keys() {
        for name in ["user.a=b", "user.%", "user.%3D", "user.=%25%", "user.plain"] {
            let key = xattr_key(name.as_bytes());
            let key = key.strip_prefix(b"SCHILY.xattr.").unwrap();
            assert!(!key.contains(&b'='));
            assert_eq!(xattr_name(key), name.as_bytes());
        }
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let bad: [&[u8]; 8] = [
            b"x",
            b"5 a=b",
            b"6 a=b",
            b"7 a=b\n",
            b"4 ab\n",
            b"0 a=b\n",
            b"99999999999999999999 a=b\n",
            b"-6 a=b\n",
        ];
        for bytes in bad {
            assert!(records(bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn times_survive_being_text() {
        for (sec, nsec) in [
            (0, 0),
            (1, 5),
            (-1, 0),
            (-1, 250_000_000),
            (-2, 999_999_999),
            (i64::MAX, 1),
            (i64::MIN, 0),
            (i64::MIN, 1),
            (1_700_000_000, 123_456_789),
        ] {
            let sent = Time { sec, nsec };
            assert_eq!(time(time_text(sent).as_bytes()), Some(sent), "{sent:?}");
        }
        assert_eq!(
            time(b"-1.25").unwrap(),
            Time {
                sec: -2,
                nsec: 750_000_000
            }
        );
        assert_eq!(time(b"1.0000000019").unwrap(), Time { sec: 1, nsec: 1 });
        for bad in ["", ".5", "1.x", "--1", "1e3", "9223372036854775808"] {
            assert_eq!(time(bad.as_bytes()), None, "{bad}");
        }
    }
}
