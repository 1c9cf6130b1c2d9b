//! Giving memory back to the system.
#![allow(unsafe_code)] // Functions of the C library.

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

/// Has the allocator take each large piece of memory from the system by itself, and give it back at
/// once. Otherwise it learns to keep them among the small ones; asked for aligned memory it does not
/// find there what was freed of the same kind (before glibc 2.38), and buffers of file content take
/// several times their size.
pub fn keep_large_apart() {
    #[cfg(target_env = "gnu")]
    {
        /// A window of file content is as large, and the buffer a page larger.
        const LARGE_BYTES: libc::c_int = 128 << 10;
        // SAFETY: it has no preconditions.
        let done = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES) };
        if done == 0 {
            ::log::warn!("memory for file content may be given back late");
        }
    }
}
