//! Reading a file through a mapping, without a mapped page ever killing the process.
//!
//! A page of a mapping whose read fails (a media error, a file cut short) raises SIGBUS. The handler
//! here puts a page of zeros in its place, and the read goes on: the zeros fail their checksum, and
//! the one request gets EIO. Only bytes copied out are ever looked at, never a reference into the
//! mapping.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Once};

use memmap2::{Mmap, MmapOptions};
use parking_lot::RwLock;

/// A mapping of a file that grows.
#[derive(Default)]
pub struct Mapping {
    region: RwLock<Option<Arc<Region>>>,
}

/// A mapped range, known to the handler while it exists.
struct Region {
    map: Mmap,
    entry: &'static Entry,
}

/// A range in which a fault is to be survived. Entries are never freed, so that the handler can walk
/// them without a lock; they are used again.
struct Entry {
    /// First address; 0 when the entry is not in use.
    start: AtomicUsize,
    /// Bytes.
    len: AtomicUsize,
    next: AtomicPtr<Entry>,
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
fn register(start: usize, len: usize) -> &'static Entry {
    for entry in entries() {
        // 1 claims the entry; no range begins there.
        if entry
            .start
            .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
        {
            entry.len.store(len, Ordering::Release);
            entry.start.store(start, Ordering::Release);
            return entry;
        }
    }
    let entry: &'static Entry = Box::leak(Box::new(Entry {
        start: AtomicUsize::new(start),
        len: AtomicUsize::new(len),
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

impl Drop for Region {
    fn drop(&mut self) {
        // Before the memory is unmapped: another mapping could be given the same addresses.
        self.entry.start.store(0, Ordering::Release);
    }
}

impl Mapping {
    /// Copies `buf.len()` bytes at `offset` out of the file, which is `length` bytes long; false
    /// when it cannot be mapped and must be read otherwise. The range lies within the file.
    ///
    /// # Errors
    /// When the system refuses to map for a reason that reading would meet too.
    pub fn read(&self, file: &File, length: u64, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        let Ok(start) = usize::try_from(offset) else {
            return Ok(false);
        };
        let Some(end) = start.checked_add(buf.len()) else {
            return Ok(false);
        };
        let Some(region) = self.region(file, length, end)? else {
            return Ok(false);
        };
        if end > region.map.len() {
            return Ok(false);
        }
        // SAFETY: start..end lies within the mapping, which the region keeps alive; `buf` is
        // memory of ours and does not overlap it. The copy goes through raw pointers: the file may
        // change below, and no reference to it is made. A fault is survived by the handler.
        unsafe {
            ptr::copy_nonoverlapping(region.map.as_ptr().add(start), buf.as_mut_ptr(), buf.len());
        }
        Ok(true)
    }

    /// The mapping, made anew when it does not reach `end`.
    fn region(&self, file: &File, length: u64, end: usize) -> io::Result<Option<Arc<Region>>> {
        if let Some(region) = &*self.region.read()
            && region.map.len() >= end
        {
            return Ok(Some(Arc::clone(region)));
        }
        let Ok(length) = usize::try_from(length) else {
            return Ok(None);
        };
        install_handler()?;
        let mut slot = self.region.write();
        // SAFETY: the mapping is only ever copied out of through raw pointers, so that a file that
        // changes below breaks no reference; faults are handled.
        let map = unsafe { MmapOptions::new().len(length).map(file) };
        let Ok(map) = map else { return Ok(None) };
        let entry = register(map.as_ptr() as usize, map.len());
        let region = Arc::new(Region { map, entry });
        *slot = Some(Arc::clone(&region));
        Ok(Some(region))
    }
}

/// Installs the handler, once a process.
fn install_handler() -> io::Result<()> {
    static ONCE: Once = Once::new();
    static FAILED: AtomicUsize = AtomicUsize::new(0);
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
            FAILED.store(1, Ordering::Release);
        }
    });
    if FAILED.load(Ordering::Acquire) == 0 {
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
    let ours = entries().any(|entry| {
        let start = entry.start.load(Ordering::Acquire);
        start > 1 && address.wrapping_sub(start) < entry.len.load(Ordering::Acquire)
    });
    if ours {
        const PAGE: usize = 4096;
        let page = address & !(PAGE - 1);
        // SAFETY: the page belongs to a mapping of ours, which stays mapped while it is read; mmap
        // is a bare system call here and touches no lock.
        let mapped = unsafe {
            libc::mmap(
                page as *mut libc::c_void,
                PAGE,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if mapped != libc::MAP_FAILED {
            return;
        }
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
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_cut_short_reads_as_zeros_and_kills_nobody() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 16384]).unwrap();
        let mapping = Mapping::default();
        let mut buf = [0; 100];
        assert!(mapping.read(&file, 16384, 8192, &mut buf).unwrap());
        assert_eq!(buf, [7; 100]);
        file.set_len(4096).unwrap();
        assert!(mapping.read(&file, 16384, 8192, &mut buf).unwrap());
        assert_eq!(buf, [0; 100]);
        assert!(mapping.read(&file, 16384, 0, &mut buf).unwrap());
        assert_eq!(buf, [7; 100]);
    }

    #[test]
    fn follows_a_file_that_grows() {
        let mut file = tempfile::tempfile().unwrap();
        let mapping = Mapping::default();
        for round in 1..40u8 {
            file.write_all(&[round; 5000]).unwrap();
            let length = u64::from(round) * 5000;
            let mut buf = [0; 5000];
            assert!(
                mapping
                    .read(&file, length, length - 5000, &mut buf)
                    .unwrap()
            );
            assert_eq!(buf, [round; 5000]);
        }
    }
}
