//! Files that nobody else may read: a token, a private key.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hyper::header::{AUTHORIZATION, HeaderMap};

/// Bytes of such a file, at most.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Characters of a token: fewer could be guessed.
const TOKEN_MIN: usize = 16;
/// More do not fit a header.
const TOKEN_MAX: usize = 4096;

/// Why such a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Others could know it.
    #[error("{path} is not secret, {reason}: 'chmod 600' it, as the user who runs this")]
    NotSecret {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// It holds something else.
    #[error("{path}: {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Reads a file that nobody but this user (and root) may read or change.
///
/// # Errors
/// When it cannot be read, or others may.
pub fn read(path: &Path) -> Result<Vec<u8>, SecretError> {
    let failed = |source| SecretError::Read {
        path: path.to_owned(),
        source,
    };
    let not_secret = |reason| {
        let path = path.to_owned();
        Err(SecretError::NotSecret { path, reason })
    };
    let file = File::open(path).map_err(failed)?;
    // Of what is open: nobody can put another in its place.
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(failed(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a file",
        )));
    }
    if found.mode() & 0o077 != 0 {
        return not_secret("its mode lets others have it");
    }
    let user = rustix::process::geteuid().as_raw();
    if found.uid() != user && found.uid() != 0 {
        return not_secret("it belongs to another user");
    }
    let mut bytes = Vec::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(SecretError::Content {
            path: path.to_owned(),
            reason: format!("it has more than {FILE_BYTES_MAX} bytes"),
        });
    }
    Ok(bytes)
}

/// Reads a token: the file's only line.
///
/// # Errors
/// As [`read`]; when it is too short, or nothing that can stand in a header.
pub fn read_token(path: &Path) -> Result<String, SecretError> {
    let bytes = read(path)?;
    let token = bytes.trim_ascii();
    let is_visible = token.iter().all(u8::is_ascii_graphic);
    match std::str::from_utf8(token) {
        Ok(text) if is_visible && (TOKEN_MIN..=TOKEN_MAX).contains(&token.len()) => {
            Ok(text.to_owned())
        }
        _ => Err(SecretError::Content {
            path: path.to_owned(),
            reason: format!(
                "a token has {TOKEN_MIN} to {TOKEN_MAX} visible ASCII characters: make one with \
                 'openssl rand -hex 32'"
            ),
        }),
    }
}

/// A token that requests must have. Only its hash is kept.
#[derive(Debug, Clone, Copy)]
pub struct Expected(blake3::Hash);

impl Expected {
    /// This one.
    #[must_use]
    pub fn new(token: &str) -> Self {
        Expected(blake3::hash(token.as_bytes()))
    }

    /// Whether a request has it (RFC 6750, 2.1). What it takes to tell does not depend on how much of
    /// it is right: hashes are compared, all of their bytes.
    #[must_use]
    pub fn is_in(&self, headers: &HeaderMap) -> bool {
        let mut all = headers.get_all(AUTHORIZATION).iter();
        let (Some(header), None) = (all.next(), all.next()) else {
            return false;
        };
        let Some((scheme, token)) = header.as_bytes().split_at_checked("Bearer ".len()) else {
            return false;
        };
        scheme.eq_ignore_ascii_case(b"Bearer ") && blake3::hash(token) == self.0
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_others_may_read_is_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let set = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        fs::write(&path, "0123456789abcdef\n").unwrap();
        for mode in [0o644, 0o640, 0o620, 0o601, 0o604] {
            set(mode);
            let error = read_token(&path).unwrap_err();
            assert!(matches!(error, SecretError::NotSecret { .. }), "{error}");
        }
        for mode in [0o600, 0o400] {
            set(mode);
            assert_eq!(read_token(&path).unwrap(), "0123456789abcdef");
        }
        let read = |path: &Path| read_token(path).unwrap_err();
        assert!(matches!(read(dir.path()), SecretError::Read { .. }));
        assert!(matches!(
            read(&dir.path().join("none")),
            SecretError::Read { .. }
        ));
    }

    #[test]
    fn a_token_is_long_and_can_stand_in_a_header() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let long = "x".repeat(TOKEN_MAX + 1);
        let huge = "x".repeat(100_000);
        for bad in [
            "",
            "\n",
            "short",
            "0123456789 abcdef",
            "0123456789abcdé!",
            &long,
            &huge,
        ] {
            fs::write(&path, bad).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let error = read_token(&path).unwrap_err();
            assert!(matches!(error, SecretError::Content { .. }), "{error}");
        }
    }

    #[test]
    fn only_the_token_itself_is_right() {
        let expected = Expected::new("0123456789abcdef");
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            expected.is_in(&headers)
        };
        assert!(with(&["Bearer 0123456789abcdef"]));
        assert!(with(&["bearer 0123456789abcdef"]));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdeg",
            "Bearer 0123456789abcdef0",
            "Bearer  0123456789abcdef",
            "Basic 0123456789abcdef",
            "0123456789abcdef",
        ] {
            assert!(!with(&[wrong]), "{wrong}");
        }
        let right = "Bearer 0123456789abcdef";
        assert!(!with(&[]) && !with(&[right, right]));
    }
}
