//! Surviving faults of mapped files.
//!
//! A page of a mapping whose read fails (a media error, a file cut short) raises SIGBUS. The
//! handler here puts zeros in its place, and the access goes on. For a file of the store
//! the zeros fail their checksum; for a guest's memory, which its front-end took away, nobody is
//! left to see them.
#![allow(unsafe_code)] // A signal handler, and the system calls that it makes.

use std::io;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicUsize, Ordering};

/// While it exists, faults in a range of memory are survived. To be dropped before the range is
/// unmapped, or as soon as nobody accesses it.
#[derive(Debug)]
pub struct Guard {
    entry: &'static Entry,
}

/// What is done with the range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It is only read.
    Read,
    /// It is read and written.
    Write,
}

impl Guard {
    /// Guards `len` bytes from `start`, which are mapped.
    ///
    /// # Errors
    /// When the system refuses the handler.
    pub fn new(start: *const u8, len: usize, access: Access) -> io::Result<Guard> {
        install_handler()?;
        let protection = match access {
            Access::Read => libc::PROT_READ,
            Access::Write => libc::PROT_READ | libc::PROT_WRITE,
        };
        Ok(Guard {
            entry: register(start as usize, len, protection),
        })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.entry.start.store(0, Ordering::Release);
    }
}

/// A range in which a fault is to be survived. Entries are never freed, so that the handler can
/// walk them without a lock; they are used again.
#[derive(Debug)]
struct Entry {
    /// First address; 0 when the entry is not in use.
    start: AtomicUsize,
    /// Bytes.
    len: AtomicUsize,
    /// `PROT_*` of what takes the place of a page that faults.
    protection: AtomicI32,
    next: AtomicPtr<Entry>,
}

/// Bytes of a page: usual ones first, then those of hugetlbfs, whose mappings the kernel takes apart
/// at their own pages' boundaries only (Documentation/admin-guide/mm/hugetlbpage).
const PAGE_SIZES: [usize; 3] = [PAGE_BYTES, 2 << 20, 1 << 30];
/// Bytes of a usual page.
const PAGE_BYTES: usize = 4 << 10;

impl Entry {
    /// Puts zeros in the place of the page of this size that has `address`, which lies in the range.
    /// False when that is no page of the range.
    fn put_zeros(&self, address: usize, page_size: usize) -> bool {
        let page = address & !(page_size - 1);
        let start = self.start.load(Ordering::Acquire);
        // A file's last page may be a part of one, and all of it is mapped.
        let len = self.len.load(Ordering::Acquire);
        let len = len.next_multiple_of(PAGE_BYTES);
        if page < start || page - start > len.saturating_sub(page_size) {
            return false;
        }
        // SAFETY: the page belongs to a mapping of ours, which stays mapped while it is accessed;
        // mmap is a bare system call here and touches no lock.
        let mapped = unsafe {
            libc::mmap(
                page as *mut libc::c_void,
                page_size,
                self.protection.load(Ordering::Acquire),
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        mapped != libc::MAP_FAILED
    }
}

static ENTRIES: AtomicPtr<Entry> = AtomicPtr::new(ptr::null_mut());
/// What SIGBUS did before, as the kernel's `sa_sigaction` word.
static PREVIOUS: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);

fn entries() -> impl Iterator<Item = &'static Entry> {
    let mut next = ENTRIES.load(Ordering::Acquire);
    std::iter::from_fn(move || {
        // SAFETY: entries are leaked boxes, published with release and never freed.
        let entry: &'static Entry = unsafe { next.as_ref() }?;
        next = entry.next.load(Ordering::Acquire);
        Some(entry)
    })
}

/// Enters a range, in an unused entry or a new one.
fn register(start: usize, len: usize, protection: i32) -> &'static Entry {
    for entry in entries() {
        // 1 claims the entry; no range begins there.
        if entry
            .start
            .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
        {
            entry.len.store(len, Ordering::Release);
            entry.protection.store(protection, Ordering::Release);
            entry.start.store(start, Ordering::Release);
            return entry;
        }
    }
    let entry: &'static Entry = Box::leak(Box::new(Entry {
        start: AtomicUsize::new(start),
        len: AtomicUsize::new(len),
        protection: AtomicI32::new(protection),
        next: AtomicPtr::new(ENTRIES.load(Ordering::Acquire)),
    }));
    loop {
        let head = entry.next.load(Ordering::Relaxed);
        let new = ptr::from_ref(entry).cast_mut();
        match ENTRIES.compare_exchange(head, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return entry,
            Err(newer) => entry.next.store(newer, Ordering::Relaxed),
        }
    }
}

/// Installs the handler, once a process.
fn install_handler() -> io::Result<()> {
    static ONCE: Once = Once::new();
    static FAILED: AtomicBool = AtomicBool::new(false);
    ONCE.call_once(|| {
        // SAFETY: zeroed is a valid `sigaction`; the handler is async-signal-safe.
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_fault as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            let mut previous: libc::sigaction = std::mem::zeroed();
            let result = libc::sigaction(libc::SIGBUS, &raw const action, &raw mut previous);
            PREVIOUS.store(previous.sa_sigaction, Ordering::Release);
            result
        };
        if result != 0 {
            FAILED.store(true, Ordering::Release);
        }
    });
    if !FAILED.load(Ordering::Acquire) {
        Ok(())
    } else {
        Err(io::Error::other(
            "the handler for faults of mapped files cannot be installed",
        ))
    }
}

/// The handler: zeros in place of a page that cannot be read; anything else is not ours.
extern "C" fn on_fault(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler of SIGBUS.
    let address = unsafe { (*info).si_addr() } as usize;
    let ours = entries().find(|entry| {
        let start = entry.start.load(Ordering::Acquire);
        start > 1 && address.wrapping_sub(start) < entry.len.load(Ordering::Acquire)
    });
    let replaces = |entry: &Entry| {
        let mut sizes = PAGE_SIZES.iter();
        sizes.any(|size| entry.put_zeros(address, *size))
    };
    if ours.is_some_and(replaces) {
        return;
    }
    let previous = PREVIOUS.load(Ordering::Acquire);
    if previous == libc::SIG_DFL || previous == libc::SIG_IGN {
        // SAFETY: restoring the default is async-signal-safe; the access faults again and ends the
        // process, as it would have without us.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    } else {
        // SAFETY: a previous handler's address, as sigaction gave it; Rust's runtime and others
        // install handlers of this type.
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
            unsafe { std::mem::transmute(previous) };
        handler(signal, info, context);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use memmap2::MmapOptions;
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    /// Maps four pages of a file, cuts it to the first, and accesses the others.
    fn survives_a_cut(file: &File, page: usize) {
        file.set_len(4 * page as u64).unwrap();
        // SAFETY: accessed through raw pointers only.
        let map = unsafe { MmapOptions::new().len(4 * page).map_mut(file) }.unwrap();
        let guard = Guard::new(map.as_ptr(), map.len(), Access::Write).unwrap();
        // SAFETY: within the mapping.
        unsafe { map.as_ptr().cast_mut().write_volatile(1) };
        file.set_len(page as u64).unwrap();
        // SAFETY: within the mapping; the fault is survived.
        unsafe {
            let byte = map.as_ptr().add(2 * page + 800).cast_mut();
            assert_eq!(byte.read_volatile(), 0);
            byte.write_volatile(5);
            assert_eq!(byte.read_volatile(), 5);
            map.as_ptr()
                .add(3 * page + 700)
                .cast_mut()
                .write_volatile(6);
            assert_eq!(map.as_ptr().read_volatile(), 1);
        }
        drop(guard);
    }

    #[test]
    fn memory_whose_file_is_cut_short_can_be_read_and_written() {
        survives_a_cut(&tempfile::tempfile().unwrap(), 4096);
    }

    #[test]
    fn so_can_huge_pages() {
        if vm_tests::frontend::memory::free_huge_pages() < 4 {
            eprintln!("not run: no four huge pages are free (sysctl vm.nr_hugepages)");
            return;
        }
        let flags = MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        survives_a_cut(&File::from(memfd_create("huge", flags).unwrap()), 2 << 20);
    }
}
