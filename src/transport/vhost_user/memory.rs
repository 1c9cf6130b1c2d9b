//! The guest's memory as mapped here, and the front-end's addresses in it.
//!
//! Invariant: every byte of a mapped region lies within its file at the time of mapping, so that a
//! table which promises more than there is cannot fault. A front-end that takes memory away later
//! harms its guest, and not this process: see [`crate::fault`].

use std::fs::File;
use std::io::{self, BufRead};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::Arc;

use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion,
};

use super::dirty::{DirtyLog, Marks};
use crate::fault::{Access, Guard};

/// Guest memory, whose changes are marked while the guest moves.
pub type Memory = GuestMemoryMmap<Marks>;

/// Regions at most, as vhost in the kernel has it.
pub(super) const REGIONS_MAX: usize = 509;

/// Why a memory table is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum MemoryError {
    #[error(
        "the memory table is empty: the guest's memory must be shared with the device ({HINT})"
    )]
    Empty,
    #[error("guest memory at {0:#x} is private to the front-end: it must be shared ({HINT})")]
    Private(u64),
    #[error("{0} memory regions, at most {REGIONS_MAX} are possible")]
    TooMany(usize),
    #[error("memory region at {address:#x} ends at byte {end} of a file of {len}")]
    BeyondFile { address: u64, end: u64, len: u64 },
    #[error("memory region at {0:#x} wraps around")]
    Wraps(u64),
    #[error("no such memory region at {0:#x}")]
    Unknown(u64),
    #[error("memory region at {address:#x} cannot be mapped: {reason}")]
    Map { address: u64, reason: String },
    #[error("memory regions: {0}")]
    Regions(String),
    #[error("the log of changed pages cannot be used: {0}")]
    Log(String),
    #[error("the log of changed pages ends before page {page}, and so does what it can tell")]
    LogTooShort { page: u64 },
    #[error("memory region's file: {0}")]
    File(#[from] io::Error),
}

const HINT: &str = "QEMU: -object memory-backend-memfd,id=mem,size=...,share=on -machine \
                    memory-backend=mem; libvirt: <memoryBacking><source type='memfd'/>\
                    <access mode='shared'/></memoryBacking>";

#[derive(Debug)]
struct Region {
    guard: Guard,
    guest: u64,
    front_end: u64,
    len: u64,
    mapping: Arc<GuestRegionMmap<Marks>>,
}

/// The regions a front-end has given.
#[derive(Debug, Default)]
pub(super) struct Table {
    regions: Vec<Region>,
    /// Of regions that were taken away: requests in flight may still access them.
    departed: Vec<Guard>,
}

impl Table {
    /// Takes the place of `old`, whose memory may still be accessed.
    pub(super) fn replace(&mut self, old: Table) {
        self.departed.extend(old.departed);
        self.departed
            .extend(old.regions.into_iter().map(|region| region.guard));
    }

    /// Maps a region and adds it. `peer` is the front-end's process, when known.
    pub(super) fn add(
        &mut self,
        region: &VhostUserMemoryRegion,
        file: File,
        peer: Option<u32>,
    ) -> Result<(), MemoryError> {
        if self.regions.len() >= REGIONS_MAX {
            return Err(MemoryError::TooMany(self.regions.len().saturating_add(1)));
        }
        let guest = region.guest_phys_addr;
        let len = region.memory_size;
        let end = region.mmap_offset.checked_add(len);
        let fits = guest.checked_add(len).is_some() && region.user_addr.checked_add(len).is_some();
        let (Some(end), true, Ok(len_bytes)) = (end, fits, usize::try_from(len)) else {
            return Err(MemoryError::Wraps(guest));
        };
        let metadata = file.metadata()?;
        if !metadata.file_type().is_char_device() && metadata.len() < end {
            return Err(MemoryError::BeyondFile {
                address: guest,
                end,
                len: metadata.len(),
            });
        }
        if let Some(peer) = peer
            && is_private(peer, region.user_addr, metadata.ino())
        {
            return Err(MemoryError::Private(guest));
        }
        let map = |reason: String| MemoryError::Map {
            address: guest,
            reason,
        };
        let mapping = MmapRegion::from_file(FileOffset::new(file, region.mmap_offset), len_bytes)
            .map_err(|e| map(e.to_string()))?;
        let guard = Guard::new(mapping.as_ptr(), len_bytes, Access::Write)?;
        let mapping = GuestRegionMmap::<Marks>::new(mapping, GuestAddress(guest))
            .ok_or(MemoryError::Wraps(guest))?;
        mapping.bitmap().place(guest);
        self.regions.push(Region {
            guard,
            guest,
            front_end: region.user_addr,
            len,
            mapping: Arc::new(mapping),
        });
        Ok(())
    }

    /// Takes a region away.
    pub(super) fn remove(&mut self, region: &VhostUserMemoryRegion) -> Result<(), MemoryError> {
        let at = self
            .regions
            .iter()
            .position(|r| {
                r.guest == region.guest_phys_addr
                    && r.front_end == region.user_addr
                    && r.len == region.memory_size
            })
            .ok_or(MemoryError::Unknown(region.guest_phys_addr))?;
        self.departed.push(self.regions.remove(at).guard);
        Ok(())
    }

    /// The memory they make up.
    pub(super) fn memory(&self) -> Result<Memory, MemoryError> {
        if self.regions.is_empty() {
            return Ok(Memory::new());
        }
        let mut regions: Vec<_> = self.regions.iter().map(|r| r.mapping.clone()).collect();
        regions.sort_by_key(|r| r.start_addr());
        Memory::from_arc_regions(regions).map_err(|e| MemoryError::Regions(e.to_string()))
    }

    /// The regions as a front-end would name them, and their files.
    pub(super) fn regions(&self) -> impl Iterator<Item = (VhostUserMemoryRegion, &File)> {
        self.regions.iter().filter_map(|region| {
            let place = region.mapping.file_offset()?;
            let (offset, file) = (place.start(), place.file());
            let named =
                VhostUserMemoryRegion::new(region.guest, region.len, region.front_end, offset);
            Some((named, file))
        })
    }

    /// Marks what is changed in `log` from now on, or nowhere.
    ///
    /// # Errors
    /// When the log has no bit for a page of the memory; nothing has changed then.
    pub(super) fn log_to(&self, log: Option<&Arc<DirtyLog>>) -> Result<(), MemoryError> {
        if let Some(log) = log {
            for region in &self.regions {
                log.check_reaches(region.guest.saturating_add(region.len))?;
            }
        }
        for region in &self.regions {
            region.mapping.bitmap().set(log.cloned());
        }
        Ok(())
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// The guest's address of what the front-end has at `address`.
    pub(super) fn guest_address(&self, address: u64) -> Option<u64> {
        self.regions.iter().find_map(|r| {
            let offset = address.checked_sub(r.front_end)?;
            (offset < r.len).then(|| r.guest.checked_add(offset))?
        })
    }
}

/// Whether process `pid` has the file `inode` mapped at `address` for itself alone: what is
/// written there never shows here. False when that cannot be found out.
fn is_private(pid: u32, address: u64, inode: u64) -> bool {
    let Ok(maps) = File::open(format!("/proc/{pid}/maps")) else {
        return false;
    };
    io::BufReader::new(maps)
        .lines()
        .map_while(Result::ok)
        .any(|line| private_line(&line, address, inode) == Some(true))
}

/// Whether a line of /proc/PID/maps is a private mapping of `inode` that has `address`.
fn private_line(line: &str, address: u64, inode: u64) -> Option<bool> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(end, 16).ok()?;
    let private = fields.next()?.ends_with('p');
    let found: u64 = fields.nth(2)?.parse().ok()?;
    Some(private && found == inode && (start..end).contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(len: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        file
    }

    #[test]
    fn addresses_are_translated_within_their_region() {
        let mut table = Table::default();
        table
            .add(
                &VhostUserMemoryRegion::new(0x10000, 0x2000, 0x7000_0000, 0),
                file(0x2000),
                None,
            )
            .unwrap();
        assert_eq!(table.guest_address(0x7000_0000), Some(0x10000));
        assert_eq!(table.guest_address(0x7000_1fff), Some(0x11fff));
        assert_eq!(table.guest_address(0x7000_2000), None);
        assert_eq!(table.guest_address(0x6fff_ffff), None);
    }

    #[test]
    fn a_region_longer_than_its_file_is_refused() {
        let mut table = Table::default();
        let region = VhostUserMemoryRegion::new(0, 0x3000, 0x7000_0000, 0x1000);
        assert!(matches!(
            table.add(&region, file(0x3000), None),
            Err(MemoryError::BeyondFile { end: 0x4000, .. })
        ));
    }

    #[test]
    fn wrapping_and_overlapping_regions_are_refused() {
        let mut table = Table::default();
        let wraps = VhostUserMemoryRegion::new(u64::MAX - 0xfff, 0x2000, 0, 0);
        assert!(matches!(
            table.add(&wraps, file(0x2000), None),
            Err(MemoryError::Wraps(_))
        ));
        for guest in [0x1000, 0x2000] {
            table
                .add(
                    &VhostUserMemoryRegion::new(guest, 0x2000, guest, 0),
                    file(0x2000),
                    None,
                )
                .unwrap();
        }
        assert!(table.memory().is_err());
    }

    #[test]
    fn private_mappings_are_told_from_shared_ones() {
        let line = "7f00-8f00 rw-p 00000000 00:01 42   /memfd:mem (deleted)";
        assert_eq!(private_line(line, 0x7f80, 42), Some(true));
        assert_eq!(private_line(line, 0x8f00, 42), Some(false));
        assert_eq!(private_line(line, 0x7f80, 43), Some(false));
        let line = "7f00-8f00 rw-s 00000000 00:01 42   /memfd:mem (deleted)";
        assert_eq!(private_line(line, 0x7f80, 42), Some(false));
        assert_eq!(private_line("nonsense", 0, 0), None);
    }
}
