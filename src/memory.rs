//! Giving memory back to the system.
#![allow(unsafe_code)] // A function of the C library.

/// Gives free memory back. The allocator keeps what was freed below something that is still in use:
/// after a checkpoint that may be all the pages which waited for it. Takes some milliseconds, in
/// which others may have to wait for memory: to be called when there is little to do.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it has no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}
