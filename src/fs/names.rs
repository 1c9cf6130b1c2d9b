//! What a name may be.

use super::FsError;

/// The longest name in bytes.
pub const NAME_MAX: usize = 255;

/// Whether `name` can be an entry of a directory: 1 to [`NAME_MAX`] bytes, no slash, no NUL,
/// neither `.` nor `..`. A kernel checks this too; a hostile one does not.
pub(super) fn check(name: &[u8]) -> Result<(), FsError> {
    if name.len() > NAME_MAX {
        return Err(FsError::NameTooLong);
    }
    if matches!(name, b"" | b"." | b"..") || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return Err(FsError::Name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_entry_can_be_called_is_refused() {
        for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b"] {
            assert!(matches!(check(name), Err(FsError::Name)), "{name:?}");
        }
        assert!(matches!(check(&[b'x'; 256]), Err(FsError::NameTooLong)));
    }

    #[test]
    fn odd_names_are_names() {
        for name in [&b"..."[..], b".a", b" ", b"\xff\xfe", b"\n", &[b'x'; 255]] {
            assert!(check(name).is_ok(), "{name:?}");
        }
    }
}
