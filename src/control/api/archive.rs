//! Tar streams into datasets and out of them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::archive::Summary;

/// How to import a tar stream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ImportInto {
    /// The directory to import into, made when it is not there, as a path in `Restore`; the root
    /// directory if not said.
    pub to: Option<String>,
    /// Import beside what is there already; what has the same name is replaced, directories are
    /// merged.
    #[serde(default)]
    pub merge: bool,
}

/// What to extract.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExtractFrom {
    /// What is at this path, as in `Restore`; all of it if not said.
    pub path: Option<String>,
}

/// What was imported. It is durable.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Imported {
    /// Regular files.
    pub files: u64,
    /// Directories, the one at the top included.
    pub directories: u64,
    /// Symlinks.
    pub symlinks: u64,
    /// Further names of what is counted already.
    pub hard_links: u64,
    /// Fifos and device nodes.
    pub specials: u64,
    /// Bytes of content, without holes.
    pub bytes: u64,
    /// What was left out: how often, by reason.
    #[serde(default)]
    pub skipped: BTreeMap<String, u64>,
}

impl From<Summary> for Imported {
    fn from(of: Summary) -> Self {
        let skipped = of.skipped.into_iter();
        Imported {
            files: of.files,
            directories: of.directories,
            symlinks: of.symlinks,
            hard_links: of.hard_links,
            specials: of.specials,
            bytes: of.bytes,
            skipped: skipped.map(|(why, count)| (why.into(), count)).collect(),
        }
    }
}

impl From<Imported> for Summary {
    fn from(of: Imported) -> Self {
        let skipped = of.skipped.into_iter();
        Summary {
            files: of.files,
            directories: of.directories,
            symlinks: of.symlinks,
            hard_links: of.hard_links,
            specials: of.specials,
            bytes: of.bytes,
            skipped: skipped
                .map(|(why, count)| (Cow::Owned(why), count))
                .collect(),
        }
    }
}
