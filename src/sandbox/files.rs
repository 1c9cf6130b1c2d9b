//! Landlock (landlock(7)): which files can be opened. Sockets and descriptors that are open already
//! are not its business.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus,
};

use super::SandboxError;

/// The newest version of Landlock whose rights are known here; older kernels take what they know.
const KNOWN: ABI = ABI::V5;

/// Leaves the store, the directories of the sockets (removed in the end), and reading /proc,
/// where a front-end's mappings say whether it shares its guest's memory.
pub(super) fn restrict(store: &Path, sockets: &[PathBuf]) -> Result<(), SandboxError> {
    let failed = SandboxError::new("restricting files");
    let rule = |path: &Path, access| {
        let path = PathFd::new(path).map_err(|error| failed(&error))?;
        Ok::<_, SandboxError>(PathBeneath::new(path, access))
    };
    let mut rules = vec![rule(store, AccessFs::from_all(KNOWN))?];
    for directory in sockets.iter().filter_map(|socket| socket.parent()) {
        let directory = match directory.as_os_str().is_empty() {
            true => Path::new("."),
            false => directory,
        };
        let access = AccessFs::RemoveFile | AccessFs::MakeSock | AccessFs::ReadDir;
        rules.push(rule(directory, access)?);
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
