//! The guest's memory: files mapped here and in the daemon, and an allocator of buffers in it.
//!
//! Addresses are guest addresses. All access goes through vm-memory's volatile copies and atomics,
//! so that nothing here holds a reference into what the daemon writes. Nothing stops a test from
//! writing anywhere: that is what hostile tests do.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{MemfdFlags, memfd_create};
use vhost::VhostUserMemoryRegionInfo;
use vm_memory::bitmap::NewBitmap;
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap, GuestRegionMmap, MmapRegion,
};

use super::{Error, Result};

/// Every buffer begins at a multiple of this: what a descriptor table wants (VirtIO 1.3, 2.7).
const ALIGNMENT: u64 = 16;

/// A range of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Guest address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
}

/// A file of guest memory.
#[derive(Debug)]
struct Region {
    guest: u64,
    len: u64,
    /// Where this process has it mapped.
    here: u64,
    file: File,
}

/// Free ranges, by start, none touching another; and where to look first.
#[derive(Debug, Default)]
struct Free {
    ranges: BTreeMap<u64, u64>,
    turn: usize,
}

/// Shared memory in one or several regions.
#[derive(Debug)]
pub struct Memory {
    map: GuestMemoryMmap<()>,
    regions: Vec<Region>,
    free: Mutex<Free>,
}

/// Huge pages of 2 MiB that are free: none unless somebody has reserved some (`vm.nr_hugepages`).
#[must_use]
pub fn free_huge_pages() -> u64 {
    let found = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    found
        .ok()
        .and_then(|free| free.trim().parse().ok())
        .unwrap_or(0)
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Memory(error.to_string())
}

impl Memory {
    /// Maps regions, each a guest address and a length in bytes, both multiples of a page.
    ///
    /// # Errors
    /// When they overlap or the system refuses.
    pub fn new(regions: &[(u64, u64)]) -> Result<Memory> {
        Memory::with(regions, MemfdFlags::empty())
    }

    /// The same on huge pages of 2 MiB, which everything is a multiple of then.
    ///
    /// # Errors
    /// As there; and when the system has not so many huge pages free.
    pub fn on_huge_pages(regions: &[(u64, u64)]) -> Result<Memory> {
        Memory::with(regions, MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB)
    }

    fn with(regions: &[(u64, u64)], flags: MemfdFlags) -> Result<Memory> {
        let mut mappings = Vec::new();
        let mut files = Vec::new();
        for &(guest, len) in regions {
            let flags = flags | MemfdFlags::CLOEXEC;
            let file = File::from(memfd_create("guest", flags).map_err(failed)?);
            file.set_len(len).map_err(failed)?;
            let ours = FileOffset::new(file.try_clone().map_err(failed)?, 0);
            let len_bytes = usize::try_from(len).map_err(failed)?;
            let mapping = MmapRegion::from_file(ours, len_bytes).map_err(failed)?;
            let here = mapping.as_ptr().expose_provenance() as u64;
            let mapping = GuestRegionMmap::new(mapping, GuestAddress(guest))
                .ok_or_else(|| failed("a region wraps around"))?;
            mappings.push(mapping);
            files.push(Region {
                guest,
                len,
                here,
                file,
            });
        }
        mappings.sort_by_key(vm_memory::GuestMemoryRegion::start_addr);
        let memory = Memory {
            map: GuestMemoryMmap::from_regions(mappings).map_err(failed)?,
            regions: files,
            free: Mutex::default(),
        };
        for &(guest, len) in regions {
            memory.give_back(guest, len);
        }
        Ok(memory)
    }

    /// What SET_MEM_TABLE tells of each region.
    #[must_use]
    pub fn table(&self) -> Vec<VhostUserMemoryRegionInfo> {
        self.regions
            .iter()
            .map(|region| VhostUserMemoryRegionInfo {
                guest_phys_addr: region.guest,
                memory_size: region.len,
                userspace_addr: region.here,
                mmap_offset: 0,
                mmap_handle: region.file.as_raw_fd(),
            })
            .collect()
    }

    /// The memory once more, for a device in this process, which notes what it changes in its own way.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn map<B: NewBitmap>(&self) -> Result<GuestMemoryMmap<B>> {
        let regions = self.regions.iter().map(|region| {
            let file = region.file.try_clone().map_err(failed)?;
            let len_bytes = usize::try_from(region.len).map_err(failed)?;
            let file = Some(FileOffset::new(file, 0));
            Ok((GuestAddress(region.guest), len_bytes, file))
        });
        let regions: Vec<_> = regions.collect::<Result<_>>()?;
        GuestMemoryMmap::from_ranges_with_files(regions).map_err(failed)
    }

    /// The file behind a region, for tests that cut it short.
    #[must_use]
    pub fn file(&self, region: usize) -> Option<&File> {
        self.regions.get(region).map(|region| &region.file)
    }

    /// Where this process has what the guest has at `address`: how vhost-user names a ring's place.
    ///
    /// # Errors
    /// When it is not in any region.
    pub fn here(&self, address: u64) -> Result<u64> {
        self.regions
            .iter()
            .find_map(|region| {
                let offset = address.checked_sub(region.guest)?;
                (offset < region.len).then(|| region.here.wrapping_add(offset))
            })
            .ok_or_else(|| Error::Memory(format!("{address:#x} is outside")))
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a range that nobody uses. With several regions they take turns.
    ///
    /// # Errors
    /// When there is none of this length.
    pub fn alloc(&self, len: usize) -> Result<Part> {
        let wanted = (len.max(1) as u64).next_multiple_of(ALIGNMENT);
        let mut free = self.free();
        free.turn = (free.turn + 1) % self.regions.len().max(1);
        let from = self.regions.get(free.turn).map_or(0, |r| r.guest);
        let fits = |(start, length): (&u64, &u64)| {
            // A range may begin before the region whose turn it is.
            let at = if *start < from && start + length >= from.saturating_add(wanted) {
                from
            } else {
                *start
            };
            (start + length >= at + wanted).then_some(at)
        };
        let before = free.ranges.range(..from).next_back().and_then(fits);
        let address = before
            .filter(|at| *at == from)
            .or_else(|| free.ranges.range(from..).find_map(fits))
            .or_else(|| free.ranges.iter().find_map(fits))
            .ok_or(Error::Full)?;
        take(&mut free.ranges, address, wanted);
        Ok(Part {
            address,
            len: u32::try_from(len).map_err(failed)?,
        })
    }

    /// Takes exactly this range, for buffers that are to lie across something.
    ///
    /// # Errors
    /// When part of it is in use or outside.
    pub fn claim(&self, address: u64, len: u32) -> Result<Part> {
        let wanted = u64::from(len.max(1)).next_multiple_of(ALIGNMENT);
        let mut free = self.free();
        let found = free.ranges.range(..=address).next_back();
        if !address.is_multiple_of(ALIGNMENT)
            || found.is_none_or(|(start, length)| start + length < address + wanted)
        {
            return Err(Error::Full);
        }
        take(&mut free.ranges, address, wanted);
        Ok(Part { address, len })
    }

    /// Gives back what [`Memory::alloc`] or [`Memory::claim`] gave.
    pub fn release(&self, part: Part) {
        let len = u64::from(part.len.max(1)).next_multiple_of(ALIGNMENT);
        self.give_back(part.address, len);
    }

    fn give_back(&self, address: u64, len: u64) {
        let ranges = &mut self.free().ranges;
        let (mut start, mut length) = (address, len);
        if let Some((&before, &bytes)) = ranges.range(..start).next_back()
            && before + bytes == start
        {
            ranges.remove(&before);
            (start, length) = (before, bytes + length);
        }
        if let Some(bytes) = ranges.remove(&(start + length)) {
            length += bytes;
        }
        ranges.insert(start, length);
    }

    /// Bytes that nobody uses.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.free().ranges.values().sum()
    }

    /// Copies bytes out.
    ///
    /// # Errors
    /// When some are outside.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.map
            .read_slice(bytes, GuestAddress(address))
            .map_err(failed)
    }

    /// Copies bytes in.
    ///
    /// # Errors
    /// When some are outside.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.map
            .write_slice(bytes, GuestAddress(address))
            .map_err(failed)
    }

    /// Reads an aligned little-endian number; what is read after it was written before it.
    ///
    /// # Errors
    /// When it is outside or not aligned.
    pub fn load(&self, address: u64) -> Result<u16> {
        self.map
            .load(GuestAddress(address), Ordering::Acquire)
            .map(u16::from_le)
            .map_err(failed)
    }

    /// Writes an aligned little-endian number, after everything that was written before.
    ///
    /// # Errors
    /// When it is outside or not aligned.
    pub fn store(&self, address: u64, number: u16) -> Result<()> {
        self.map
            .store(number.to_le(), GuestAddress(address), Ordering::Release)
            .map_err(failed)
    }

    /// Whether the whole range is guest memory.
    #[must_use]
    pub fn holds(&self, part: Part) -> bool {
        usize::try_from(part.len)
            .is_ok_and(|len| self.map.check_range(GuestAddress(part.address), len))
    }
}

/// Takes a range out of the free one that has it.
fn take(ranges: &mut BTreeMap<u64, u64>, address: u64, len: u64) {
    let Some((&start, &length)) = ranges.range(..=address).next_back() else {
        return;
    };
    ranges.remove(&start);
    if start < address {
        ranges.insert(start, address - start);
    }
    if start + length > address + len {
        ranges.insert(address + len, start + length - address - len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};

    #[test]
    fn buffers_do_not_overlap_and_come_back_whole() {
        let seed = 7;
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        for regions in [
            &[(0, 1 << 20)][..],
            &[(0, 1 << 19), (1 << 19, 1 << 19), (1 << 30, 1 << 19)],
        ] {
            let memory = Memory::new(regions).unwrap();
            let all = memory.free_bytes();
            let mut held: Vec<Part> = Vec::new();
            for _ in 0..3000 {
                if random.random_bool(0.6) {
                    if let Ok(part) = memory.alloc(random.random_range(0..5000)) {
                        assert!(memory.holds(part), "seed {seed}");
                        for other in &held {
                            let apart = part.address + u64::from(part.len) <= other.address
                                || other.address + u64::from(other.len) <= part.address;
                            assert!(apart, "{part:?} {other:?}, seed {seed}");
                        }
                        held.push(part);
                    }
                } else if !held.is_empty() {
                    memory.release(held.swap_remove(random.random_range(0..held.len())));
                }
            }
            held.into_iter().for_each(|part| memory.release(part));
            assert_eq!(memory.free_bytes(), all);
        }
    }

    #[test]
    fn regions_take_turns_and_a_buffer_may_lie_across_two() {
        let memory = Memory::new(&[(0, 4096), (4096, 4096), (1 << 20, 4096)]).unwrap();
        let mut pages: Vec<_> = (0..3)
            .map(|_| memory.alloc(64).unwrap().address >> 12)
            .collect();
        pages.sort_unstable();
        assert_eq!(pages, [0, 1, 256]);
        let across = memory.claim(4096 - 64, 64).unwrap();
        assert!(memory.claim(4096 - 64, 16).is_err());
        memory.write(across.address, &[1; 64]).unwrap();
        assert!(memory.here(2 << 12).is_err());
    }
}
