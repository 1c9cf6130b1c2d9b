//! Requests in a buffer that lies across two regions of the guest's memory.
//!
//! Regions may touch, as those of plugged-in memory do, and a descriptor may begin in one and end
//! in the next: to the guest it is all one memory. The readers and writers over a chain want each
//! descriptor within one region. Such a chain, which is rare, is carried out over a copy of its
//! table in which every descriptor is cut at the regions' borders.
//!
//! The copy lies in memory of our own behind all of the guest's, where no descriptor of the guest
//! leads: each part is found within a region of the guest's alone.

use std::sync::Arc;

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory, GuestMemoryRegion, GuestRegionMmap};

use super::chain::Chain;
use super::memory::Memory;
use super::ring::SIZE_MAX;

/// `VIRTQ_DESC_F_NEXT`
const NEXT: u16 = 1;
/// `VIRTQ_DESC_F_WRITE`
const WRITE: u16 = 2;
const DESCRIPTOR_BYTES: usize = 16;
const PAGE_BYTES: u64 = 4096;

/// A part of a descriptor, within one region: address, bytes, whether it is written.
type Part = (GuestAddress, u64, bool);

/// The same chain without a descriptor across a border. None when the guest changed it meanwhile
/// into something that is no chain, or has more parts than any queue has entries.
pub(super) fn cut(chain: &Chain) -> Option<Chain> {
    table_of(chain.memory(), &parts(chain)?)
}

fn parts(chain: &Chain) -> Option<Vec<Part>> {
    let memory: &Memory = chain.memory();
    let mut parts = Vec::new();
    for descriptor in chain.clone() {
        let mut address = descriptor.addr();
        let mut left = u64::from(descriptor.len());
        while left > 0 {
            let region = memory.find_region(address)?;
            let here = region.last_addr().unchecked_offset_from(address);
            let len = left.min(here.checked_add(1)?);
            parts.push((address, len, descriptor.is_write_only()));
            left = left.checked_sub(len)?;
            if left > 0 {
                address = address.checked_add(len)?;
            }
            if parts.len() > usize::from(SIZE_MAX) {
                return None;
            }
        }
    }
    Some(parts)
}

/// A chain of these parts, in a queue that has nothing else.
fn table_of(memory: &Memory, parts: &[Part]) -> Option<Chain> {
    let entries = parts.len().checked_next_power_of_two()?;
    let size = u16::try_from(entries).ok()?;
    // The available ring is read up to its second entry.
    let table_bytes = entries.checked_mul(DESCRIPTOR_BYTES)?;
    let start = memory.last_addr().checked_add(1)?.raw_value();
    let start = GuestAddress(start.checked_next_multiple_of(PAGE_BYTES)?);
    let available = start.checked_add(u64::try_from(table_bytes).ok()?)?;
    let region = GuestRegionMmap::from_range(start, table_bytes.checked_add(4096)?, None).ok()?;
    let memory = memory.insert_region(Arc::new(region)).ok()?;
    let mut at = start;
    for (index, (address, len, writable)) in (1..).zip(parts) {
        let last = usize::from(index) == parts.len();
        let flags = if last { 0 } else { NEXT } | if *writable { WRITE } else { 0 };
        let len = u32::try_from(*len).ok()?;
        let descriptor = Descriptor::new(address.raw_value(), len, flags, index);
        memory.write_obj(descriptor, at).ok()?;
        at = at.checked_add(u64::try_from(DESCRIPTOR_BYTES).ok()?)?;
    }
    // Flags, the index 1, and the head 0.
    memory.write_slice(&[0, 0, 1, 0, 0, 0], available).ok()?;
    let mut queue = Queue::new(SIZE_MAX).ok()?;
    queue.try_set_size(size).ok()?;
    queue.try_set_desc_table_address(start).ok()?;
    queue.try_set_avail_ring_address(available).ok()?;
    queue.set_ready(true);
    queue.iter(Arc::new(memory)).ok()?.next()
}
