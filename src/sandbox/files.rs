//! Landlock (landlock(7)): which files can be opened. Sockets and descriptors that are open already
//! are not its business.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus,
};

use super::{Reach, SandboxError};

/// The newest version of Landlock whose rights are known here; older kernels take what they know.
const KNOWN: ABI = ABI::V5;

/// Directories as near to the root as this are not the configuration's own: `/etc`, say.
const OWN_DEPTH_MIN: usize = 3;

/// Leaves the store, the directories of the sockets (removed in the end), that in which sockets are
/// made, the configuration file, and reading /proc, where a front-end's mappings say whether it
/// shares its guest's memory.
pub(super) fn restrict(reach: &Reach<'_>) -> Result<(), SandboxError> {
    let failed = SandboxError::new("restricting files");
    let rule = |path: &Path, access| {
        let path = PathFd::new(path).map_err(|error| failed(&error))?;
        Ok::<_, SandboxError>(PathBeneath::new(path, access))
    };
    let mut rules = vec![rule(reach.store, AccessFs::from_all(KNOWN))?];
    let remove = AccessFs::RemoveFile | AccessFs::ReadDir;
    for socket in reach.sockets {
        rules.push(rule(&directory_of(socket), remove)?);
    }
    if let Some(directory) = reach.socket_dir {
        rules.push(rule(directory, remove | AccessFs::MakeSock)?);
    }
    if let Some(config) = reach.config {
        rules.push(rule(&readable_for(config), AccessFs::ReadFile.into())?);
    }
    rules.push(rule(Path::new("/proc"), AccessFs::ReadFile.into())?);
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))
        .and_then(Ruleset::create)
        .and_then(|created| {
            created.add_rules(rules.into_iter().map(Ok::<_, landlock::RulesetError>))
        })
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(|error| failed(&error))?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => log::info!("confined to the store's files"),
        RulesetStatus::PartiallyEnforced => {
            log::info!("confined to the store's files, as far as this kernel can");
        }
        RulesetStatus::NotEnforced => {
            log::info!("this kernel has no Landlock: files outside the store are not out of reach");
        }
    }
    Ok(())
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// What can be read so that a file can be read again. Whoever changes a file puts another in its
/// place, mostly, so it is the directory; but not one that holds what is none of this program's
/// business. There the file is read again only if it is the same.
fn readable_for(file: &Path) -> PathBuf {
    let directory = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let directory = directory_of(&directory);
    match directory.components().count() >= OWN_DEPTH_MIN {
        true => directory,
        false => file.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_its_own_is_readable_and_no_other() {
        for (file, readable) in [
            ("/etc/razorfs/vm.toml", "/etc/razorfs"),
            ("/etc/vm.toml", "/etc/vm.toml"),
            ("/vm.toml", "/vm.toml"),
            ("/srv/a/b/vm.toml", "/srv/a/b"),
        ] {
            assert_eq!(readable_for(Path::new(file)), Path::new(readable));
        }
    }
}
