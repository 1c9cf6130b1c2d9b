//! Stores for many runs, and what is left of one when the power goes.

use std::io;
use std::sync::{Arc, Mutex};

use razorfs::disk::sim::{Recording, SimMedia, Survival};
use razorfs::disk::{Disk, Media};
use razorfs::fsck;
use razorfs::sync;
use shuttle::scheduler::RandomScheduler;

/// The bytes of a store, which outlive the schedule that made them: locks do not.
#[derive(Clone)]
pub struct Store(Recording);

impl Store {
    /// What `make` leaves on empty disks.
    pub fn made(make: impl Fn(&SimMedia) + Send + Sync + 'static) -> Store {
        let slot = Arc::new(Mutex::new(None));
        let made = Arc::clone(&slot);
        let body = Arc::new(move || {
            let sim = SimMedia::new();
            make(&sim);
            let whole = sim.recording().crash_at(sim.events(), Survival::All);
            *made.lock().unwrap() = Some(whole.recording());
        });
        super::run(RandomScheduler::new_from_seed(0, 1), &body);
        let recording = slot.lock().unwrap().take().unwrap();
        Store(recording)
    }

    /// Disks with these bytes.
    pub fn disks(&self) -> Arc<SimMedia> {
        Arc::new(self.0.clone().crash_at(0, Survival::All))
    }
}

/// What the checker calls an error.
pub fn errors(sim: &SimMedia) -> Vec<String> {
    fsck::errors(&sim.media()).unwrap()
}

/// A disk whose flushes end only when something has happened.
pub struct SlowFlush {
    pub disk: Arc<dyn Disk>,
    pub gate: Arc<Gate>,
}

/// Opens when it was passed as often as was said.
pub struct Gate {
    /// How many have still to pass; whether the first flush has begun; flushes.
    pub state: sync::Mutex<(usize, bool, u64)>,
    pub changed: sync::Condvar,
}

impl Gate {
    pub fn new(passes: usize) -> Arc<Gate> {
        Arc::new(Gate {
            state: sync::Mutex::new((passes, false, 0)),
            changed: sync::Condvar::new(),
        })
    }

    pub fn wait_for_flush(&self) {
        let mut state = self.state.lock();
        while !state.1 {
            self.changed.wait(&mut state);
        }
    }

    pub fn pass(&self) {
        self.state.lock().0 -= 1;
        self.changed.notify_all();
    }

    pub fn flushes(&self) -> u64 {
        self.state.lock().2
    }
}

impl SlowFlush {
    fn slow(disk: &Arc<dyn Disk>, gate: &Arc<Gate>) -> Arc<dyn Disk> {
        let (disk, gate) = (Arc::clone(disk), Arc::clone(gate));
        Arc::new(SlowFlush { disk, gate })
    }

    /// `media` with a slow log.
    pub fn of_log(media: Media, gate: &Arc<Gate>) -> Media {
        let wal = Self::slow(&media.wal, gate);
        Media { wal, ..media }
    }

    /// `media` with slow file content.
    pub fn of_chunks(media: Media, gate: &Arc<Gate>) -> Media {
        let chunks = Self::slow(&media.chunks, gate);
        Media { chunks, ..media }
    }

    /// `media` with slow tree pages.
    pub fn of_nodes(media: Media, gate: &Arc<Gate>) -> Media {
        let nodes = Self::slow(&media.nodes, gate);
        Media { nodes, ..media }
    }
}

impl Disk for SlowFlush {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.disk.write_at(offset, buf)
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = self.gate.state.lock();
        state.2 += 1;
        state.1 = true;
        self.gate.changed.notify_all();
        while state.0 > 0 {
            self.gate.changed.wait(&mut state);
        }
        drop(state);
        self.disk.flush()
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.allocate(offset, len)
    }

    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.trim(offset, len)
    }

    fn len_bytes(&self) -> u64 {
        self.disk.len_bytes()
    }

    fn available_bytes(&self) -> io::Result<u64> {
        self.disk.available_bytes()
    }
}
