//! A simulated disk that loses power, tears and reorders what was not flushed, and fails on demand.
//!
//! One run of a workload records every event; [`Recording`] then gives the disks as they may be
//! found after power was lost at any point of it. Everything is decided by a seed.
//!
//! What survives: a write that a later completed flush of its disk covers, and one that was written
//! through, wholly; of any other write any subset of its 512-byte sectors, whatever became of the
//! writes around it. Of a trim that was not flushed, any subset of its blocks. A write behind a trim
//! is behind it on the disk too, where both survive: one file's changes keep their order.

mod image;

use std::io;
use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Disk, Media, SECTOR_BYTES};
use crate::sync::Mutex;
use image::{Image, PAGE};

const DISKS: usize = 5;

/// What happened to a disk.
#[derive(Clone)]
enum Event {
    Write {
        disk: usize,
        offset: u64,
        bytes: Arc<[u8]>,
    },
    Allocate {
        disk: usize,
        offset: u64,
        end: u64,
    },
    Cut {
        disk: usize,
        len: u64,
    },
    Trim {
        disk: usize,
        offset: u64,
        len: u64,
    },
    Flush {
        disk: usize,
    },
    /// The last write to this place is durable, and no other.
    Through {
        disk: usize,
        offset: u64,
    },
}

/// A kind of call that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// [`Disk::read_at`]
    Read,
    /// [`Disk::write_at`]; half of it is written before it fails.
    Write,
    /// [`Disk::flush`]
    Flush,
    /// [`Disk::allocate`]
    Allocate,
    /// [`Disk::trim`]; half of it is done before it fails, unless it is unsupported.
    Trim,
    /// [`Disk::cut`]
    Cut,
}

/// Which call is to fail.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// The kind of call.
    pub call: Call,
    /// How many of that kind succeed first.
    pub after: u64,
    /// Whether all later ones of the kind fail too.
    pub sticky: bool,
    /// The error.
    pub kind: io::ErrorKind,
}

#[derive(Default)]
struct World {
    events: Vec<Event>,
    fault: Option<Fault>,
    calls: u64,
    /// Bytes all disks may have pages for.
    capacity: Option<u64>,
}

impl World {
    /// Counts a call; whether it fails.
    fn call(&mut self, call: Call) -> io::Result<()> {
        let Some(fault) = self.fault.filter(|fault| fault.call == call) else {
            return Ok(());
        };
        self.calls += 1;
        let nth = self.calls - 1;
        if nth == fault.after || (fault.sticky && nth > fault.after) {
            return Err(io::Error::new(fault.kind, "made to fail"));
        }
        Ok(())
    }
}

struct SimDisk {
    index: usize,
    world: Arc<Mutex<World>>,
    live: Arc<Mutex<[Image; DISKS]>>,
}

impl SimDisk {
    fn live<T>(&self, with: impl FnOnce(&mut Image) -> T) -> T {
        let mut live = self.live.lock();
        match live.get_mut(self.index) {
            Some(image) => with(image),
            None => with(&mut Image::default()),
        }
    }
}

impl Disk for SimDisk {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.world.lock().call(Call::Read)?;
        self.live(|image| {
            if offset + buf.len() as u64 > image.len {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            image.read(offset, buf);
            Ok(())
        })
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let mut world = self.world.lock();
        let used: u64 = self.live.lock().iter().map(Image::allocated).sum();
        let end = offset + buf.len() as u64;
        let more = self.live(|image| image.unallocated(offset, end));
        if more > 0 && world.capacity.is_some_and(|most| used + more > most) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let result = world.call(Call::Write);
        let written = if result.is_ok() {
            buf
        } else {
            buf.split_at(buf.len() / 2).0
        };
        self.live(|image| image.write(offset, written));
        let (disk, bytes) = (self.index, Arc::from(written));
        world.events.push(Event::Write {
            disk,
            offset,
            bytes,
        });
        result
    }

    fn write_through(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.write_at(offset, buf)?;
        let mut world = self.world.lock();
        world.call(Call::Flush)?;
        let disk = self.index;
        world.events.push(Event::Through { disk, offset });
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut world = self.world.lock();
        world.call(Call::Flush)?;
        world.events.push(Event::Flush { disk: self.index });
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut world = self.world.lock();
        world.call(Call::Allocate)?;
        let end = offset + len;
        let used: u64 = self.live.lock().iter().map(Image::allocated).sum();
        self.live(|image| {
            let growth = end.saturating_sub(image.len) + image.unallocated(offset, end);
            if world
                .capacity
                .is_some_and(|capacity| used + growth > capacity)
            {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            image.allocate(offset, end);
            Ok(())
        })?;
        world.events.push(Event::Allocate {
            disk: self.index,
            offset,
            end,
        });
        Ok(())
    }

    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut world = self.world.lock();
        let result = world.call(Call::Trim);
        let len = match &result {
            Ok(()) => len,
            Err(error) if error.kind() == io::ErrorKind::Unsupported => return result,
            Err(_) => len / 2,
        };
        self.live(|image| image.trim(offset, len));
        world.events.push(Event::Trim {
            disk: self.index,
            offset,
            len,
        });
        result
    }

    fn cut(&self, len: u64) -> io::Result<()> {
        let mut world = self.world.lock();
        world.call(Call::Cut)?;
        self.live(|image| image.cut(len));
        let disk = self.index;
        world.events.push(Event::Cut { disk, len });
        Ok(())
    }

    fn len_bytes(&self) -> u64 {
        self.live(|image| image.len)
    }

    fn held_bytes(&self) -> io::Result<u64> {
        Ok(self.live(|image| image.allocated()))
    }

    fn available_bytes(&self) -> io::Result<u64> {
        let used: u64 = self.live.lock().iter().map(Image::allocated).sum();
        Ok(self
            .world
            .lock()
            .capacity
            .unwrap_or(1 << 40)
            .saturating_sub(used))
    }
}

/// The disks of one store.
#[derive(Default)]
pub struct SimMedia {
    world: Arc<Mutex<World>>,
    live: Arc<Mutex<[Image; DISKS]>>,
    base: [Image; DISKS],
}

impl SimMedia {
    /// Empty disks.
    #[must_use]
    pub fn new() -> Self {
        SimMedia::default()
    }

    fn with(images: [Image; DISKS]) -> Self {
        SimMedia {
            world: Arc::default(),
            live: Arc::new(Mutex::new(images.clone())),
            base: images,
        }
    }

    /// The disks, for a store to use.
    #[must_use]
    pub fn media(&self) -> Media {
        let disk = |index| -> Arc<dyn Disk> {
            Arc::new(SimDisk {
                index,
                world: Arc::clone(&self.world),
                live: Arc::clone(&self.live),
            })
        };
        Media {
            superblock: disk(0),
            nodes: disk(1),
            strings: disk(2),
            chunks: disk(3),
            wal: disk(4),
        }
    }

    /// Makes a call fail from now on; counting starts anew.
    pub fn set_fault(&self, fault: Option<Fault>) {
        let mut world = self.world.lock();
        world.fault = fault;
        world.calls = 0;
    }

    /// Calls of the kind that is to fail, since it was said.
    #[must_use]
    pub fn fault_calls(&self) -> u64 {
        self.world.lock().calls
    }

    /// Limits the bytes that all disks together may allocate.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.world.lock().capacity = bytes;
    }

    /// Bytes that all disks have allocated.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        self.live.lock().iter().map(Image::allocated).sum()
    }

    /// How many events there were: a position for [`Recording::crash_at`].
    #[must_use]
    pub fn events(&self) -> usize {
        self.world.lock().events.len()
    }

    /// A copy of the disks as they are now, with every write: as after the process, not the
    /// machine, was killed.
    #[must_use]
    pub fn killed(&self) -> SimMedia {
        SimMedia::with(self.live.lock().clone())
    }

    /// Changes bytes behind the store's back: `disk` is 0 superblock, 1 nodes, 2 strings,
    /// 3 chunks, 4 wal.
    pub fn corrupt(&self, disk: usize, offset: u64, bytes: &[u8]) {
        if let Some(image) = self.live.lock().get_mut(disk) {
            image.write(offset, bytes);
        }
    }

    /// Bytes of a disk before its end that take no space.
    #[must_use]
    pub fn holes(&self, disk: usize) -> u64 {
        let live = self.live.lock();
        live.get(disk)
            .map_or(0, |image| image.unallocated(0, image.len))
    }

    /// Length of a disk in bytes.
    #[must_use]
    pub fn disk_len(&self, disk: usize) -> u64 {
        self.live.lock().get(disk).map_or(0, |image| image.len)
    }

    /// Reads behind the store's back.
    pub fn peek(&self, disk: usize, offset: u64, buf: &mut [u8]) {
        if let Some(image) = self.live.lock().get(disk) {
            image.read(offset, buf);
        }
    }

    /// What happened since these disks were made.
    #[must_use]
    pub fn recording(&self) -> Recording {
        Recording {
            durable: self.base.clone(),
            pending: Vec::new(),
            events: self.world.lock().events.clone(),
            position: 0,
        }
    }
}

/// What becomes of writes that were not flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survival {
    /// None survives.
    None,
    /// All survive.
    All,
    /// Those survive whose bit is set, the oldest the lowest; of more than 64 the oldest 64 count.
    Some(u64),
    /// Each survives wholly, in part, or not at all, as the seed decides.
    Random(u64),
}

/// The events of a run, walked through from the beginning.
#[derive(Clone)]
pub struct Recording {
    durable: [Image; DISKS],
    /// Writes since the last flush of their disk.
    pending: Vec<Event>,
    events: Vec<Event>,
    position: usize,
}

impl Recording {
    /// Number of events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether nothing happened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Whether event `index` made something durable.
    #[must_use]
    pub fn is_flush(&self, index: usize) -> bool {
        let event = self.events.get(index);
        matches!(event, Some(Event::Flush { .. } | Event::Through { .. }))
    }

    /// The disks after power was lost when the first `events` events had happened. Positions are
    /// asked for in growing order.
    pub fn crash_at(&mut self, events: usize, survival: Survival) -> SimMedia {
        self.advance(events);
        let mut images = self.durable.clone();
        let mut rng = match survival {
            Survival::Random(seed) => ChaCha8Rng::seed_from_u64(seed),
            _ => ChaCha8Rng::seed_from_u64(0),
        };
        for (index, event) in self.pending.iter().enumerate() {
            match survival {
                Survival::Some(bits) if index < 64 && bits & (1 << index) != 0 => {
                    apply(&mut images, event);
                }
                Survival::None | Survival::Some(_) => {}
                Survival::All => apply(&mut images, event),
                Survival::Random(_) => apply_some(&mut images, event, &mut rng),
            }
        }
        SimMedia::with(images)
    }

    /// How many events wait for a flush when the first `events` have happened. Positions are asked
    /// for in growing order.
    pub fn unflushed(&mut self, events: usize) -> usize {
        self.advance(events);
        self.pending.len()
    }

    fn advance(&mut self, events: usize) {
        assert!(events >= self.position, "crash positions must not go back");
        while self.position < events.min(self.events.len()) {
            self.step();
        }
    }

    fn step(&mut self) {
        let Some(event) = self.events.get(self.position).cloned() else {
            return;
        };
        self.position += 1;
        match event {
            Event::Flush { disk } => {
                let durable = &mut self.durable;
                self.pending.retain(|event| {
                    let covered = disk_of(event) == disk;
                    if covered {
                        apply(durable, event);
                    }
                    !covered
                });
            }
            Event::Through { disk, offset } => self.settle(disk, offset),
            _ => self.pending.push(event),
        }
    }

    /// Makes the last write to a place durable.
    fn settle(&mut self, disk: usize, offset: u64) {
        let is_it = |event: &Event| match event {
            Event::Write {
                disk: its_disk,
                offset: its_offset,
                ..
            } => *its_disk == disk && *its_offset == offset,
            _ => false,
        };
        let Some(at) = self.pending.iter().rposition(is_it) else {
            return;
        };
        let event = self.pending.remove(at);
        let mut older = self.pending.iter().take(at);
        assert!(
            older.all(|older| !overlap(older, &event)),
            "written through over a write that was not flushed: which one wins is not known"
        );
        apply(&mut self.durable, &event);
    }
}

fn disk_of(event: &Event) -> usize {
    match event {
        Event::Write { disk, .. }
        | Event::Allocate { disk, .. }
        | Event::Trim { disk, .. }
        | Event::Cut { disk, .. }
        | Event::Flush { disk }
        | Event::Through { disk, .. } => *disk,
    }
}

fn apply(images: &mut [Image; DISKS], event: &Event) {
    let Some(image) = images.get_mut(disk_of(event)) else {
        return;
    };
    match event {
        Event::Write { offset, bytes, .. } => image.write(*offset, bytes),
        Event::Allocate { offset, end, .. } => image.allocate(*offset, *end),
        Event::Cut { len, .. } => image.cut(*len),
        Event::Trim { offset, len, .. } => image.trim(*offset, *len),
        Event::Flush { .. } | Event::Through { .. } => {}
    }
}

/// Whether two writes of one disk have bytes in common.
fn overlap(a: &Event, b: &Event) -> bool {
    let place = |event: &Event| match event {
        Event::Write { offset, bytes, .. } => (*offset, offset + bytes.len() as u64),
        Event::Trim { offset, len, .. } => (*offset, offset + len),
        _ => (0, 0),
    };
    let (a_start, a_end) = place(a);
    let (b_start, b_end) = place(b);
    disk_of(a) == disk_of(b) && a_start < b_end && b_start < a_end
}

/// Applies an event wholly, in part or not at all.
fn apply_some(images: &mut [Image; DISKS], event: &Event, rng: &mut ChaCha8Rng) {
    match (rng.random_range(0..4), event) {
        (0, _) => {}
        (
            1,
            Event::Write {
                disk,
                offset,
                bytes,
            },
        ) => {
            let Some(image) = images.get_mut(*disk) else {
                return;
            };
            let mut position = *offset;
            let mut rest: &[u8] = bytes;
            while !rest.is_empty() {
                let sector = SECTOR_BYTES as u64;
                let room = usize::try_from(sector - position % sector).unwrap_or(SECTOR_BYTES);
                let (part, next) = rest.split_at(room.min(rest.len()));
                if rng.random() {
                    image.write(position, part);
                }
                position += part.len() as u64;
                rest = next;
            }
        }
        (1, Event::Trim { disk, offset, len }) => {
            let Some(image) = images.get_mut(*disk) else {
                return;
            };
            let first = offset.div_ceil(PAGE as u64);
            for page in first..(offset + len) / PAGE as u64 {
                if rng.random() {
                    image.trim(page * PAGE as u64, PAGE as u64);
                }
            }
        }
        _ => apply(images, event),
    }
}

#[cfg(test)]
mod tests;
