//! A ring without a front-end and without a thread, for fuzzing and for counting instructions:
//! everything that a kick does, done before the call returns, and the same each time, however long it
//! takes.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use vm_memory::GuestMemoryAtomic;

use super::affinity::Cpus;
pub use super::memory::Memory;
use super::pool::Pool;
use super::ring::Ring;
use super::slow::Slow;
use super::worker::{Work, Worker};
use super::{Answer, VhostUserError};

/// Where a ring lies in the guest's memory, and where it begins.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Entries.
    pub size: u16,
    /// Guest address of the descriptor table.
    pub table: u64,
    /// Guest address of the available ring.
    pub available: u64,
    /// Guest address of the used ring.
    pub used: u64,
    /// The first available entry.
    pub base: u16,
    /// Whether `VIRTIO_RING_F_EVENT_IDX` was negotiated.
    pub event_idx: bool,
}

/// A ring and the server behind it.
pub struct InProcess {
    ring: Arc<Ring>,
    work: Arc<Work>,
    worker: Worker,
}

impl InProcess {
    /// A ring in `memory` that is not started.
    ///
    /// # Errors
    /// When the system has no more descriptors.
    pub fn new(answer: Arc<dyn Answer>, memory: Memory) -> Result<InProcess, VhostUserError> {
        let work = Arc::new(Work {
            answer,
            memory: GuestMemoryAtomic::new(memory),
            pool: Arc::new(Pool::new(0, || {})),
            strict: false,
            slow: Slow::never(),
            poll_max: Duration::ZERO,
            cpus: Cpus::default(),
            meter: Arc::default(),
        });
        let ring = Arc::new(Ring::new(1, work.memory.clone())?);
        let worker = Worker::new(ring.clone(), work.clone());
        Ok(InProcess { ring, work, worker })
    }

    /// Sets the ring up and starts it. False when the front-end would be refused.
    ///
    /// # Errors
    /// When the system has no more descriptors.
    pub fn start(&self, place: Place) -> Result<bool, VhostUserError> {
        // Nobody waits for it: any descriptor will do.
        let kick = File::open("/dev/null").map_err(VhostUserError::system("a kick"))?;
        self.ring.set_event_idx(place.event_idx);
        self.ring.set_base(place.base);
        let taken = self.ring.set_size(place.size.into())
            && self
                .ring
                .set_addresses(place.table, place.available, place.used);
        self.ring.start(kick, &self.work.memory());
        self.ring.set_enabled(true);
        Ok(taken)
    }

    /// What a kick does. False when the ring is broken afterwards.
    #[must_use]
    pub fn kick(&self) -> bool {
        self.worker.process();
        !self.ring.is_broken()
    }

    /// Stops the ring, so that it may be started anew.
    pub fn stop(&self) {
        self.ring.stop();
        self.ring.reset();
    }
}
