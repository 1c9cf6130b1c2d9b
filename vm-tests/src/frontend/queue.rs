//! The driver's side of a split virtqueue (VirtIO 1.3, 2.7).
//!
//! Invariant: a descriptor is free or belongs to exactly one chain in flight, unless a hostile test
//! wrote the table itself.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::memory::{Memory, Part};
use super::{Error, Result};

/// The chain goes on at `next` (VirtIO 1.3, 2.7.5).
pub const NEXT: u16 = 1;
/// The device writes.
pub const WRITE: u16 = 2;
/// It is a table of descriptors (VirtIO 1.3, 2.7.5.3).
pub const INDIRECT: u16 = 4;

/// `VIRTQ_AVAIL_F_NO_INTERRUPT`
const NO_INTERRUPT: u16 = 1;
/// `VIRTQ_USED_F_NO_NOTIFY`
const NO_NOTIFY: u16 = 1;

const DESCRIPTOR_BYTES: usize = 16;
const PAGE_BYTES: usize = 4096;

/// One entry of a descriptor table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub flags: u16,
    /// Index of the next one.
    pub next: u16,
}

impl Descriptor {
    /// As it lies in memory.
    #[must_use]
    pub fn bytes(self) -> [u8; DESCRIPTOR_BYTES] {
        let mut bytes = [0; DESCRIPTOR_BYTES];
        let fields = self
            .address
            .to_le_bytes()
            .into_iter()
            .chain(self.len.to_le_bytes())
            .chain(self.flags.to_le_bytes())
            .chain(self.next.to_le_bytes());
        bytes
            .iter_mut()
            .zip(fields)
            .for_each(|(to, from)| *to = from);
        bytes
    }
}

/// What the device gave back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// First descriptor of the chain.
    pub head: u16,
    /// Bytes the device says it wrote.
    pub len: u32,
}

/// A chain in flight.
#[derive(Debug, Default)]
struct Chain {
    descriptors: Vec<u16>,
    table: Option<Part>,
}

/// Events between driver and device.
#[derive(Debug)]
pub struct Events {
    /// The driver made something available.
    pub kick: EventFd,
    /// The device gave something back.
    pub call: EventFd,
    /// The device found the queue broken.
    pub error: EventFd,
}

/// Counters, to see what the suppression of events saves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Chains made available.
    pub chains: u64,
    /// Kicks sent.
    pub kicks: u64,
    /// Calls of the device, as far as they were waited for.
    pub calls: u64,
}

/// A virtqueue.
pub struct Queue {
    /// Its number: 0 is the high-priority queue (VirtIO 1.3, 5.11.2).
    pub index: usize,
    /// Its events.
    pub events: Events,
    /// What happened so far.
    pub counts: Counts,
    memory: Arc<Memory>,
    /// Becomes ready with `events.call`.
    called: Epoll,
    size: u16,
    event_idx: bool,
    rings: Part,
    free: Vec<u16>,
    chains: Vec<Option<Chain>>,
    next_available: u16,
    next_used: u16,
    /// The available index that the device was last considered to be told.
    told: u16,
}

impl Queue {
    /// A queue of `size` entries, a power of two, empty. `event_idx` as negotiated.
    ///
    /// # Errors
    /// When there is no memory for its rings.
    pub fn new(index: usize, size: u16, event_idx: bool, memory: Arc<Memory>) -> Result<Queue> {
        let event = || EventFd::new(EFD_NONBLOCK);
        let entries = usize::from(size);
        let bytes = entries * (DESCRIPTOR_BYTES + 2 + 8) + 12 + 2 * PAGE_BYTES;
        let events = Events {
            kick: event()?,
            call: event()?,
            error: event()?,
        };
        let called = Epoll::new()?;
        let call = EpollEvent::new(EventSet::IN, 0);
        called.ctl(ControlOperation::Add, events.call.as_raw_fd(), call)?;
        let mut queue = Queue {
            index,
            events,
            called,
            counts: Counts::default(),
            rings: memory.alloc(bytes)?,
            memory,
            size,
            event_idx,
            free: Vec::new(),
            chains: Vec::new(),
            next_available: 0,
            next_used: 0,
            told: 0,
        };
        queue.clear()?;
        Ok(queue)
    }

    /// Makes it as new; whatever was in flight is forgotten. The device must not run it.
    ///
    /// # Errors
    /// Never, as long as its memory is there.
    pub fn clear(&mut self) -> Result<()> {
        self.clear_at(0)
    }

    /// The same, with both rings at entry `index`: as after so many requests, modulo 2^16.
    ///
    /// # Errors
    /// Never, as long as its memory is there.
    pub fn clear_at(&mut self, index: u16) -> Result<()> {
        let zeros = vec![0; usize::try_from(self.rings.len).unwrap_or_default()];
        self.memory.write(self.rings.address, &zeros)?;
        for chain in self.chains.drain(..).flatten() {
            if let Some(table) = chain.table {
                self.memory.release(table);
            }
        }
        self.chains.resize_with(usize::from(self.size), || None);
        self.free = (0..self.size).rev().collect();
        (self.next_used, self.told) = (index, index);
        self.set_available(index)?;
        self.memory.store(self.used_address() + 2, index)?;
        for event in [&self.events.kick, &self.events.call, &self.events.error] {
            let _ = event.read();
        }
        Ok(())
    }

    /// Entries.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The memory it lies in.
    #[must_use]
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Guest address of the descriptor table.
    #[must_use]
    pub fn table_address(&self) -> u64 {
        self.rings.address
    }

    /// Guest address of the available ring: flags, index, entries, `used_event`.
    #[must_use]
    pub fn available_address(&self) -> u64 {
        let end = self.rings.address + u64::from(self.size) * DESCRIPTOR_BYTES as u64;
        end.next_multiple_of(2)
    }

    /// Guest address of the used ring: flags, index, entries, `avail_event`.
    #[must_use]
    pub fn used_address(&self) -> u64 {
        // On a page of its own, as drivers lay it out.
        (self.available_address() + 6 + 2 * u64::from(self.size))
            .next_multiple_of(PAGE_BYTES as u64)
    }

    /// Chains in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.chains.iter().flatten().count()
    }

    /// The index that the next available entry has.
    #[must_use]
    pub fn next_available(&self) -> u16 {
        self.next_available
    }

    // Requests.

    /// Makes a chain available: parts to read, then parts to write. Tells nobody. With `indirect`
    /// it takes one entry of the queue and a table elsewhere. Returns its head.
    ///
    /// # Errors
    /// [`Error::Full`] when not enough descriptors are free.
    pub fn add(&mut self, readable: &[Part], writable: &[Part], indirect: bool) -> Result<u16> {
        let count = readable.len() + writable.len();
        let needed = if indirect { 1 } else { count };
        if count == 0 || self.free.len() < needed {
            return Err(Error::Full);
        }
        let mut chain = Chain {
            descriptors: self.free.split_off(self.free.len() - needed),
            table: None,
        };
        chain.descriptors.reverse();
        let flags = readable.iter().map(|part| (part, 0));
        let flags = flags.chain(writable.iter().map(|part| (part, WRITE)));
        let mut descriptors: Vec<_> = flags
            .map(|(part, flags)| Descriptor {
                address: part.address,
                len: part.len,
                flags,
                next: 0,
            })
            .collect();
        let links: Vec<u16> = if indirect {
            (0..).take(count).collect()
        } else {
            chain.descriptors.clone()
        };
        for (descriptor, next) in descriptors.iter_mut().zip(links.iter().skip(1)) {
            descriptor.flags |= NEXT;
            descriptor.next = *next;
        }
        let head = *chain.descriptors.first().ok_or(Error::Full)?;
        if indirect {
            let bytes: Vec<u8> = descriptors.iter().flat_map(|d| d.bytes()).collect();
            let table = match self.memory.alloc(bytes.len()) {
                Ok(table) => table,
                Err(error) => {
                    self.free.append(&mut chain.descriptors);
                    return Err(error);
                }
            };
            self.memory.write(table.address, &bytes)?;
            let descriptor = Descriptor {
                address: table.address,
                len: table.len,
                flags: INDIRECT,
                next: 0,
            };
            self.describe(head, descriptor)?;
            chain.table = Some(table);
        } else {
            for (index, descriptor) in links.iter().zip(&descriptors) {
                self.describe(*index, *descriptor)?;
            }
        }
        self.keep(head, chain);
        self.offer(head)?;
        Ok(head)
    }

    /// Tells the device, if it wants to be told (VirtIO 1.3, 2.7.13.4.1). Whether it did.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kick_if_wanted(&mut self) -> Result<bool> {
        // The device must see the new index, or this its wish to be told of it.
        fence(Ordering::SeqCst);
        let new = self.next_available;
        let wanted = if self.event_idx {
            let at = self.used_address() + 4 + 8 * u64::from(self.size);
            needs_event(self.memory.load(at)?, new, self.told)
        } else {
            self.memory.load(self.used_address())? & NO_NOTIFY == 0
        };
        self.told = new;
        if wanted {
            self.kick()?;
        }
        Ok(wanted)
    }

    /// Tells the device whether it wants it or not.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kick(&mut self) -> Result<()> {
        self.counts.kicks += 1;
        self.events.kick.write(1)?;
        Ok(())
    }

    /// Takes the next chain that the device gave back.
    ///
    /// # Errors
    /// When it gave back what it was not given.
    pub fn take(&mut self) -> Result<Option<Used>> {
        if self.used_index()? == self.next_used {
            return Ok(None);
        }
        let slot = u64::from(self.next_used % self.size);
        let mut entry = [0; 8];
        self.memory
            .read(self.used_address() + 4 + 8 * slot, &mut entry)?;
        let [a, b, c, d, len @ ..] = entry;
        let id = u32::from_le_bytes([a, b, c, d]);
        self.next_used = self.next_used.wrapping_add(1);
        let head = u16::try_from(id).ok().filter(|head| *head < self.size);
        let chain = head.and_then(|head| self.chains.get_mut(usize::from(head))?.take());
        let (Some(head), Some(chain)) = (head, chain) else {
            return Err(Error::Protocol(format!(
                "queue {}: chain {id} came back and was not in flight",
                self.index
            )));
        };
        self.free.extend(chain.descriptors);
        if let Some(table) = chain.table {
            self.memory.release(table);
        }
        Ok(Some(Used {
            head,
            len: u32::from_le_bytes(len),
        }))
    }

    /// Waits until the device has given something back that was not taken yet. It is asked to call
    /// at the `count`th from here, and may have given back fewer when nothing is in flight behind
    /// them. False when the time is over.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn wait(&mut self, count: u16, timeout: Duration) -> Result<bool> {
        let since = Instant::now();
        let last = self.next_used.wrapping_add(count.max(1) - 1);
        loop {
            if self.event_idx {
                self.memory.store(
                    self.available_address() + 4 + 2 * u64::from(self.size),
                    last,
                )?;
            } else {
                self.memory.store(self.available_address(), 0)?;
            }
            // Asked for the call first, then looked whether it comes too late.
            fence(Ordering::SeqCst);
            let found = self.used_index()?.wrapping_sub(self.next_used);
            if found >= count.max(1) {
                if !self.event_idx {
                    self.memory.store(self.available_address(), NO_INTERRUPT)?;
                }
                return Ok(true);
            }
            let Some(left) = timeout.checked_sub(since.elapsed()) else {
                return Ok(false);
            };
            let left_ms = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
            match self.called.wait(left_ms, &mut [EpollEvent::default()]) {
                Ok(0) => {}
                Ok(_) => {
                    self.counts.calls += self.events.call.read()?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    // Raw access.

    /// Writes an entry of the descriptor table.
    ///
    /// # Errors
    /// When it is outside of memory.
    pub fn describe(&self, index: u16, descriptor: Descriptor) -> Result<()> {
        let at = self.rings.address + u64::from(index) * DESCRIPTOR_BYTES as u64;
        self.memory.write(at, &descriptor.bytes())
    }

    /// Puts any head into the available ring and advances its index. One below the queue's size
    /// counts as in flight from here.
    ///
    /// # Errors
    /// When the ring is outside of memory.
    pub fn offer(&mut self, head: u16) -> Result<()> {
        if self
            .chains
            .get(usize::from(head))
            .is_some_and(Option::is_none)
        {
            self.free.retain(|free| *free != head);
            let chain = Chain {
                descriptors: vec![head],
                table: None,
            };
            self.keep(head, chain);
        }
        let slot = u64::from(self.next_available % self.size);
        self.memory
            .store(self.available_address() + 4 + 2 * slot, head)?;
        self.counts.chains += 1;
        self.set_available(self.next_available.wrapping_add(1))
    }

    /// Writes any index to the available ring.
    ///
    /// # Errors
    /// When the ring is outside of memory.
    pub fn set_available(&mut self, index: u16) -> Result<()> {
        self.next_available = index;
        self.memory.store(self.available_address() + 2, index)
    }

    /// The device's index.
    ///
    /// # Errors
    /// When the ring is outside of memory.
    pub fn used_index(&self) -> Result<u16> {
        self.memory.load(self.used_address() + 2)
    }

    /// Waits until the device has said that the queue is broken. False when the time is over.
    #[must_use]
    pub fn is_broken(&self, timeout: Duration) -> bool {
        let since = Instant::now();
        loop {
            if self.events.error.read().is_ok() {
                return true;
            }
            if since.elapsed() >= timeout {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn keep(&mut self, head: u16, chain: Chain) {
        if let Some(place) = self.chains.get_mut(usize::from(head)) {
            *place = Some(chain);
        }
    }
}

/// `vring_need_event`: whether going from `old` to `new` passed `event`.
fn needs_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
