//! What is asked for: a dataset on a socket, and how.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::fs::{CacheMode, Options};

/// Where a front-end connects.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A socket to be made.
    Path(PathBuf),
    /// A listening socket this process was started with.
    Fd(i32),
}

/// For messages: where it is.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Path(path) => write!(f, "{}", path.display()),
            Endpoint::Fd(fd) => write!(f, "fd:{fd}"),
        }
    }
}

impl Endpoint {
    /// Whether both are the same place.
    #[must_use]
    pub fn is_at(&self, other: &Endpoint) -> bool {
        match (self, other) {
            (Endpoint::Path(own), Endpoint::Path(other)) => absolute(own) == absolute(other),
            (own, other) => own == other,
        }
    }
}

/// How two processes call what is exported there.
#[must_use]
pub fn name_of(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Path(path) => absolute(path).display().to_string(),
        fd @ Endpoint::Fd(_) => fd.to_string(),
    }
}

/// A path that does not depend on where the process is.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// A dataset to be exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewExport {
    /// The name of the dataset or snapshot.
    pub dataset: String,
    /// Where the front-end connects; no two the same.
    pub endpoint: Endpoint,
    /// The tag to offer, if not that of [`crate::transport::vhost_user::DeviceOptions`].
    pub tag: Option<String>,
    /// Refuse every change.
    pub read_only: bool,
    /// Others may write to the dataset later.
    pub shared: bool,
    /// What the kernel may keep, if not as [`Defaults`] say.
    pub cache: Option<CacheMode>,
}

impl NewExport {
    /// Whether both ask for the same, in the same words.
    #[must_use]
    pub fn is_same(&self, other: &NewExport) -> bool {
        let there = NewExport {
            endpoint: self.endpoint.clone(),
            ..other.clone()
        };
        self.endpoint.is_at(&other.endpoint) && *self == there
    }
}

/// For messages: all that was asked for.
impl fmt::Display for NewExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' on {}", self.dataset, name_of(&self.endpoint))?;
        if let Some(tag) = &self.tag {
            write!(f, ", tag '{tag}'")?;
        }
        if self.read_only {
            write!(f, ", read-only")?;
        }
        if self.shared {
            write!(f, ", shared")?;
        }
        match self.cache {
            Some(cache) => write!(f, ", cache {}", cache.name()),
            None => Ok(()),
        }
    }
}

/// How exports are, unless they say otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defaults {
    /// All but what the next is about.
    pub options: Options,
    /// What the kernel may keep; `None` for all that is right.
    pub cache: Option<CacheMode>,
}

impl Defaults {
    /// How to export it. `shared`: others write to the dataset.
    #[must_use]
    pub fn options_of(&self, new: &NewExport, shared: bool) -> Options {
        let cache = new.cache.or(self.cache);
        let read_only = new.read_only || self.options.read_only;
        let shared = shared || new.shared && !self.options.read_only;
        let by_default = match shared {
            true => CacheMode::Auto,
            false => CacheMode::Always,
        };
        Options {
            read_only,
            shared,
            without_open: cache == Some(CacheMode::Always),
            cache: cache.unwrap_or(by_default),
            ..self.options
        }
    }
}
