//! What two processes say to each other about exports: the JSON of
//! [`crate::transport::vhost_user::Handover`].
//!
//! Either all of it is understood or guests stay where they are: a field that is not known is a
//! refusal. So a program to which fields are added leaves those out that have nothing to say, and
//! programs from before go on with what they know.

use std::ffi::OsString;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::export::{Endpoint, Left, NewExport, absolute};
use crate::fs::CacheMode;
use crate::transport::vhost_user::{HandoverError, check_tag, malformed};

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    dataset: String,
    place: Place,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    #[serde(default)]
    read_only: bool,
    #[serde(default)]
    shared: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cache: Option<String>,
}

/// A path that does not depend on where a process is, or the number that a descriptor had in the
/// first process. It is a name of the socket, which itself goes with the export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Place {
    Path(OsString),
    Fd(i32),
}

impl From<&NewExport> for Described {
    fn from(new: &NewExport) -> Self {
        Described {
            dataset: new.dataset.clone(),
            place: match &new.endpoint {
                Endpoint::Path(path) => Place::Path(absolute(path).into_os_string()),
                Endpoint::Fd(fd) => Place::Fd(*fd),
            },
            tag: new.tag.clone(),
            read_only: new.read_only,
            shared: new.shared,
            cache: new.cache.map(|cache| cache.name().to_owned()),
        }
    }
}

impl TryFrom<Described> for NewExport {
    type Error = HandoverError;

    fn try_from(described: Described) -> Result<NewExport, HandoverError> {
        let cache = |name: String| {
            CacheMode::from_name(&name).ok_or_else(|| malformed(format!("the cache mode {name}")))
        };
        if let Some(tag) = &described.tag {
            check_tag(tag).map_err(malformed)?;
        }
        Ok(NewExport {
            dataset: described.dataset,
            endpoint: match described.place {
                Place::Path(path) => Endpoint::Path(path.into()),
                Place::Fd(fd) => Endpoint::Fd(fd),
            },
            tag: described.tag,
            read_only: described.read_only,
            shared: described.shared,
            cache: described.cache.map(cache).transpose()?,
        })
    }
}

/// What the new process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    exports: Vec<Described>,
    follows: bool,
}

/// What the new process is to serve by its configuration. `follows`: where that is something else
/// than the old one's configuration says, it makes the change once it serves.
pub(super) fn wish(named: &[NewExport], follows: bool) -> Result<Value, HandoverError> {
    said(&Wish {
        exports: named.iter().map(Described::from).collect(),
        follows,
    })
}

/// See [`wish`].
pub(super) fn wished(about: Option<Value>) -> Result<(Vec<NewExport>, bool), HandoverError> {
    let wish: Wish = understood(about)?;
    let exports = wish.exports.into_iter().map(NewExport::try_from);
    Ok((exports.collect::<Result<_, _>>()?, wish.follows))
}

/// What the old process says about itself.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct About {
    /// The new one's configuration has something else exported than its own.
    pub(super) is_changed: bool,
    /// It listens for other machines, on the socket that comes with this.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) has_tcp: bool,
}

impl About {
    pub(super) fn said(&self) -> Result<Value, HandoverError> {
        said(self)
    }

    pub(super) fn understood(about: Option<Value>) -> Result<About, HandoverError> {
        understood(about)
    }
}

/// What the old process says about an export.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Served {
    export: Described,
    /// The configuration names it, or did when it was made.
    is_configured: bool,
    /// Its guest was told that others write to the dataset.
    is_shared: bool,
}

/// An export that another process has served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) new: NewExport,
    pub(super) configured: bool,
    pub(super) shared: bool,
}

/// All that the new process has to know of an export.
pub(super) fn export(left: &Left) -> Result<Value, HandoverError> {
    said(&Served {
        export: (&left.new).into(),
        is_configured: left.configured,
        is_shared: left.options.shared,
    })
}

/// See [`export`].
pub(super) fn exported(about: Option<Value>) -> Result<Known, HandoverError> {
    let served: Served = understood(about)?;
    Ok(Known {
        new: served.export.try_into()?,
        configured: served.is_configured,
        shared: served.is_shared,
    })
}

fn said(what: &impl Serialize) -> Result<Value, HandoverError> {
    serde_json::to_value(what).map_err(malformed)
}

fn understood<T: DeserializeOwned>(about: Option<Value>) -> Result<T, HandoverError> {
    serde_json::from_value(about.unwrap_or_default()).map_err(|error| {
        HandoverError::NotAll(format!(
            "what the other razorfsd says about its exports is not understood, so it may be too \
             new or too old: {error}"
        ))
    })
}
