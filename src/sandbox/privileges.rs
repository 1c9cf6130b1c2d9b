//! Core dumps, new privileges, capabilities.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use super::SandboxError;

/// Gives up all that a process can give up.
pub(super) fn drop_all() -> Result<(), SandboxError> {
    // A dump would hold the guest's memory.
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let dumps = SandboxError::new("switching core dumps off");
    setrlimit(Resource::Core, none).map_err(|error| dumps(&error))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| dumps(&error))?;
    set_no_new_privs(true)
        .map_err(|error| SandboxError::new("giving up new privileges")(&error))?;
    for capability in CapabilitySet::all().iter() {
        // Without CAP_SETPCAP the set cannot be changed, and without new privileges nothing can
        // come of it.
        let _ = remove_capability_from_bounding_set(capability);
    }
    let capabilities = SandboxError::new("giving up capabilities");
    clear_ambient_capability_set().map_err(|error| capabilities(&error))?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none).map_err(|error| capabilities(&error))
}
