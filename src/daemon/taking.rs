//! The new process's side of a handover: it goes on with what the old one has exported.
//!
//! The old process is not believed. What it hands over lies where this one could make and remove
//! sockets too, since that is what it is confined to; and it is in order, as if a user had asked for it.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use super::described::{self, About, Known};
use crate::config::Config;
use crate::export::{Endpoint, Left, absolute, name_of};
use crate::transport::vhost_user::{
    Export, Given, Handover, HandoverError, Standing, VERSION, VERSION_OF_NAMES, Wanted, malformed,
};

/// What was taken over.
pub struct Taken {
    /// All that is to be served.
    pub all: Vec<Left>,
    /// The configuration has something else exported than what the old process knew.
    pub is_changed: bool,
    /// Where the old process listened for other machines.
    pub tcp: Option<OwnedFd>,
}

/// Asks for the guests and takes them. `version`: the newest that the other side speaks. `follows`:
/// what the configuration has exported comes in force behind it, if it is something else.
///
/// # Errors
/// When the other side refuses; when it could not be gone on with all of it. The other side goes on
/// then.
pub fn take(
    handover: &mut Handover,
    version: u32,
    config: &Config,
    follows: bool,
) -> Result<Taken, HandoverError> {
    let version = version.min(VERSION);
    let (names, about) = if version == VERSION_OF_NAMES {
        let names = config
            .exports
            .iter()
            .map(|each| name_of(&each.new.endpoint));
        (names.collect(), None)
    } else {
        (Vec::new(), Some(described::wish(&config.named(), follows)?))
    };
    let given = handover.take(Wanted {
        version,
        names,
        about,
    })?;
    let taken = match version {
        VERSION_OF_NAMES => by_names(given, config),
        _ => by_descriptions(given, config),
    };
    taken.inspect_err(|error| handover.refuse(&error.to_string()))
}

/// What an older program hands over is what the configuration names, as it says.
fn by_names(given: Given<Standing, OwnedFd>, config: &Config) -> Result<Taken, HandoverError> {
    let mut given = given.exports;
    let mut all = Vec::new();
    for named in &config.exports {
        let name = name_of(&named.new.endpoint);
        let at = given.iter().position(|export| export.name == name);
        let at = at.ok_or_else(|| malformed(format!("{name} is missing")))?;
        let mut standing = given.swap_remove(at).standing;
        standing.socket.stands_at(Path::new(&name));
        all.push(named.on(standing));
    }
    match given.first() {
        None => Ok(Taken {
            all,
            is_changed: false,
            tcp: None,
        }),
        Some(export) => Err(malformed(format!("{} was not asked for", export.name))),
    }
}

fn by_descriptions(
    given: Given<Standing, OwnedFd>,
    config: &Config,
) -> Result<Taken, HandoverError> {
    let about = About::understood(given.about)?;
    if about.has_tcp != given.socket.is_some() {
        return Err(malformed("a socket for other machines"));
    }
    let mut seen = HashSet::new();
    let mut all = Vec::new();
    for export in given.exports {
        let left = described(export, config)?;
        if !seen.insert(left.name()) {
            return Err(malformed(format!("{} comes twice", left.name())));
        }
        all.push(left);
    }
    Ok(Taken {
        all,
        is_changed: about.is_changed,
        tcp: given.socket,
    })
}

fn described(export: Export<Standing>, config: &Config) -> Result<Left, HandoverError> {
    let Known {
        mut new,
        configured,
        shared,
    } = described::exported(export.about)?;
    let mut standing = export.standing;
    if let Endpoint::Path(path) = &new.endpoint {
        check_reach(path, config)?;
        standing.socket.stands_at(path);
    }
    let mut named = config.exports.iter().map(|each| &each.new);
    let named = named.find(|named| named.is_same(&new));
    if let Some(named) = named {
        // It is called as the user calls it.
        new.endpoint = named.endpoint.clone();
    }
    Ok(Left {
        options: config.export_defaults.options_of(&new, shared),
        configured: configured || named.is_some(),
        new,
        standing,
    })
}

/// The socket has to be where this process, confined, can remove it: below the directory for sockets,
/// or beside one that the configuration names.
fn check_reach(path: &Path, config: &Config) -> Result<(), HandoverError> {
    let climbs = path.components().any(|part| part == Component::ParentDir);
    if !path.is_absolute() || climbs {
        return Err(malformed(format!("the socket {}", path.display())));
    }
    let is_below = |dir: &Path| path.starts_with(absolute(dir));
    let is_beside = |endpoint: &Endpoint| match endpoint {
        Endpoint::Path(own) => absolute(own).parent() == path.parent(),
        Endpoint::Fd(_) => false,
    };
    let mut exports = config.exports.iter();
    let in_reach = config.socket_dir.as_deref().is_some_and(is_below)
        || exports.any(|each| is_beside(&each.new.endpoint));
    match in_reach {
        true => Ok(()),
        false => Err(HandoverError::NotAll(format!(
            "{} is exported too, and this one could not remove that socket in the end: start it \
             with a --socket-dir above it",
            path.display()
        ))),
    }
}
