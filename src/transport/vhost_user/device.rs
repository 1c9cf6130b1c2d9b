//! The vhost-user protocol's messages (QEMU, docs/interop/vhost-user.rst): features, memory, rings.
//!
//! A ring's thread starts when the ring is first started and ends with the session. A ring is
//! given back (GET_VRING_BASE) only when nothing is in flight on it, so that the front-end may
//! stop, save or reset the guest's device. That says nothing of the guest's mount: a paused guest
//! goes on where it was, one that started again begins with INIT.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use vhost::vhost_user::message::{
    FrontendReq, VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags,
    VhostUserInflight, VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures,
    VhostUserShMemConfig, VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVirtioFeatures,
    VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandler};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};

use super::dirty::DirtyLog;
use super::frozen::FrozenDevice;
use super::memory::{MemoryError, REGIONS_MAX, Table};
use super::ring::Ring;
use super::status::NEEDS_RESET;
use super::transfer::{Transfer, finished};
use super::worker::{Work, Worker};
use super::{TAG_BYTES_MAX, VhostUserError};

const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
/// What is written to the guest's memory is to be marked in the log.
const LOG_ALL: u64 = VhostUserVirtioFeatures::LOG_ALL.bits();
const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1
    | LOG_ALL
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | EVENT_IDX
    | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

#[derive(Default)]
struct State {
    owned: bool,
    features: u64,
    /// What was agreed on of the vhost-user protocol.
    protocol_features: u64,
    /// The status as the front-end last set it.
    status: u8,
    table: Table,
    /// Where changed pages are marked while [`LOG_ALL`] is set.
    log: Option<Arc<DirtyLog>>,
    /// The guest's state on its way from or to the front-end.
    transfer: Transfer,
    /// Each ring's thread, once it has one.
    threads: Vec<Option<JoinHandle<()>>>,
}

/// A device as one front-end has it.
pub(super) struct Device {
    work: Arc<Work>,
    rings: Vec<Arc<Ring>>,
    /// The configuration space, when it is offered.
    config: Option<Vec<u8>>,
    /// The front-end's process, when known.
    peer: Option<u32>,
    state: Mutex<State>,
    /// Sessions of the daemon: whether the store may be let go for one of them.
    sessions: Arc<AtomicUsize>,
}

impl State {
    /// The log that pages are to be marked in now.
    fn log_now(&self) -> Option<&Arc<DirtyLog>> {
        self.log.as_ref().filter(|_| self.features & LOG_ALL != 0)
    }

    /// Has a table's changes marked where they are to be marked now.
    fn log_to(&self, table: &Table) -> std::result::Result<(), MemoryError> {
        table.log_to(self.log_now())
    }
}

impl Device {
    /// A device with one high-priority queue and `request_queues` others.
    pub(super) fn new(
        work: Arc<Work>,
        request_queues: usize,
        tag: Option<&str>,
        peer: Option<u32>,
        sessions: Arc<AtomicUsize>,
    ) -> std::result::Result<Device, VhostUserError> {
        let rings: Vec<_> = (0..=request_queues)
            .map(|index| Ring::new(index, work.memory.clone()).map(Arc::new))
            .collect::<std::result::Result<_, _>>()?;
        Ok(Device {
            state: Mutex::new(State {
                threads: rings.iter().map(|_| None).collect(),
                ..State::default()
            }),
            work,
            rings,
            config: tag.map(|tag| config_space(tag, request_queues)),
            peer,
            sessions,
        })
    }

    /// Ends everything: waits for what is in flight, and lets go of the guest's memory.
    pub(super) fn end(&self) {
        for ring in &self.rings {
            ring.stop();
            ring.end();
        }
        let mut state = self.state.lock();
        for thread in state.threads.iter_mut().filter_map(Option::take) {
            // A panic in one has been reported by then.
            let _ = thread.join();
        }
        state.table = Table::default();
        if let Err(error) = self.publish(&state.table) {
            log::error!("{error}");
        }
    }

    pub(super) fn has_status(&self) -> bool {
        let status = VhostUserProtocolFeatures::STATUS.bits();
        self.state.lock().protocol_features & status != 0
    }

    /// Whether there is a store, and nobody else uses it.
    fn is_alone(&self) -> bool {
        self.work.answer.is_there() && self.sessions.load(Ordering::Acquire) <= 1
    }

    /// Whether the store is to be let go, as the guest leaves.
    pub(super) fn leaves(&self) -> bool {
        matches!(self.state.lock().transfer, Transfer::Wanted(_))
    }

    /// Whether a message cannot be handled before the store is open.
    pub(super) fn needs_store(&self, request: u32) -> bool {
        const KICK: u32 = FrontendReq::SET_VRING_KICK as u32;
        const CHECK: u32 = FrontendReq::CHECK_DEVICE_STATE as u32;
        !self.work.answer.is_there()
            && match request {
                KICK => true,
                CHECK => matches!(self.state.lock().transfer, Transfer::Receiving(_)),
                _ => false,
            }
    }

    /// Whether a ring has run.
    pub(super) fn has_run(&self) -> bool {
        self.state.lock().threads.iter().any(Option::is_some)
    }

    /// Stops everything, after what is in flight, for who goes on with it. The device is as new.
    ///
    /// # Errors
    /// When the system has no more descriptors; the device has ended then.
    pub(super) fn freeze(&self) -> io::Result<FrozenDevice> {
        let rings: io::Result<Vec<_>> = self.rings.iter().map(|ring| ring.freeze()).collect();
        let mut state = self.state.lock();
        let frozen = FrozenDevice {
            owned: state.owned,
            features: state.features,
            protocol_features: state.protocol_features,
            status: state.status,
            table: std::mem::take(&mut state.table),
            log: state.log.take(),
            transfer: std::mem::take(&mut state.transfer),
            rings: Vec::new(),
        };
        drop(state);
        self.end();
        Ok(FrozenDevice {
            rings: rings?,
            ..frozen
        })
    }

    /// Goes on with a device that was frozen, of which features and protocol features are set
    /// already. Rings that ran run again, and look first what has come meanwhile.
    ///
    /// # Errors
    /// When it does not fit this device.
    pub(super) fn thaw(&self, frozen: FrozenDevice) -> Result<()> {
        if frozen.rings.len() > self.rings.len() {
            let (theirs, ours) = (frozen.rings.len(), self.rings.len());
            return Err(refuse(&format!(
                "it has {theirs} queues, and here are {ours}"
            )));
        }
        let mut state = self.state.lock();
        state.owned = frozen.owned;
        state.status = frozen.status;
        state.log = frozen.log;
        state.transfer = frozen.transfer;
        state.log_to(&frozen.table).map_err(|e| refuse_memory(&e))?;
        self.publish(&frozen.table).map_err(|e| refuse_memory(&e))?;
        state.table = frozen.table;
        let event_idx = state.features & EVENT_IDX != 0;
        for (ring, frozen) in self.rings.iter().zip(frozen.rings) {
            if frozen.place.started {
                self.start_thread(&mut state, ring)?;
            }
            if !ring.thaw(frozen, event_idx, &self.work.memory()) {
                return Err(refuse(&format!("queue {} is not as it was", ring.index)));
            }
        }
        Ok(())
    }

    /// Starts a ring's thread, unless it has one.
    fn start_thread(&self, state: &mut State, ring: &Arc<Ring>) -> Result<()> {
        if let Some(thread) = state.threads.get_mut(ring.index)
            && thread.is_none()
        {
            let worker = Worker::new(ring.clone(), self.work.clone());
            let cpu = self.work.cpus.take_turn();
            *thread = Some(
                std::thread::Builder::new()
                    .name(format!("razorfs-queue{}", ring.index))
                    .spawn(move || worker.run(cpu))
                    .map_err(Error::ReqHandlerError)?,
            );
        }
        Ok(())
    }

    /// The device's status.
    pub(super) fn status(&self) -> u8 {
        let broken = self.rings.iter().any(|ring| ring.is_broken());
        let needs_reset = if broken { NEEDS_RESET } else { 0 };
        self.state.lock().status | needs_reset
    }

    /// Takes the driver's status; 0 stops every ring and makes it as new. The features stay: the
    /// front-end need not set them again.
    pub(super) fn set_status(&self, status: u8) {
        if status == 0 {
            self.reset_rings();
        }
        let mut state = self.state.lock();
        state.status = status;
        if status == 0 {
            for ring in &self.rings {
                ring.set_event_idx(state.features & EVENT_IDX != 0);
            }
        }
    }

    fn reset_rings(&self) {
        for ring in &self.rings {
            ring.stop();
            ring.reset();
        }
    }

    fn ring(&self, index: u32) -> Result<&Arc<Ring>> {
        usize::try_from(index)
            .ok()
            .and_then(|index| self.rings.get(index))
            .ok_or_else(|| refuse(&format!("there is no queue {index}")))
    }

    /// Shows the rings the memory of `table`.
    fn publish(&self, table: &Table) -> std::result::Result<(), MemoryError> {
        let memory = table.memory()?;
        match self.work.memory.lock() {
            Ok(guard) => guard.replace(memory),
            Err(poisoned) => poisoned.into_inner().replace(memory),
        }
        Ok(())
    }
}

/// `struct virtio_fs_config`: tag, number of request queues, size of notifications.
fn config_space(tag: &str, request_queues: usize) -> Vec<u8> {
    let mut bytes = tag.as_bytes().to_vec();
    bytes.resize(TAG_BYTES_MAX, 0);
    let queues = u32::try_from(request_queues).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&queues.to_le_bytes());
    bytes.extend_from_slice(&0u32.to_le_bytes());
    bytes
}

/// Logs why a message is refused. The front-end gets a NACK if it asked for one, and is
/// disconnected: it would not know what does and what does not hold.
fn refuse(reason: &str) -> Error {
    log::error!("the front-end's set-up is refused: {reason}");
    Error::InvalidParam
}

fn refuse_memory(error: &MemoryError) -> Error {
    refuse(&error.to_string())
}

impl VhostUserBackendReqHandler for Device {
    fn set_owner(&self) -> Result<()> {
        let mut state = self.state.lock();
        if state.owned {
            return Err(Error::InvalidOperation("already claimed"));
        }
        state.owned = true;
        Ok(())
    }

    fn reset_owner(&self) -> Result<()> {
        self.state.lock().owned = false;
        self.reset_device()
    }

    fn reset_device(&self) -> Result<()> {
        log::info!("the device is reset");
        self.reset_rings();
        let mut state = self.state.lock();
        state.features = 0;
        state.status = 0;
        drop(state);
        self.work.answer.reset();
        Ok(())
    }

    fn get_features(&self) -> Result<u64> {
        Ok(FEATURES)
    }

    fn set_features(&self, features: u64) -> Result<()> {
        if features & !FEATURES != 0 {
            return Err(refuse(&format!("features {features:#x} are not offered")));
        }
        let mut state = self.state.lock();
        state.features = features;
        if features & LOG_ALL == 0 {
            // A move that was cancelled, or is over. The next one brings a log of its own.
            state.log = None;
        }
        state.log_to(&state.table).map_err(|e| refuse_memory(&e))?;
        drop(state);
        for ring in &self.rings {
            ring.set_event_idx(features & EVENT_IDX != 0);
            if features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 {
                ring.set_enabled(true);
            }
        }
        Ok(())
    }

    fn set_mem_table(&self, regions: &[VhostUserMemoryRegion], files: Vec<File>) -> Result<()> {
        if regions.is_empty() {
            return Err(refuse_memory(&MemoryError::Empty));
        }
        let mut table = Table::default();
        for (region, file) in regions.iter().zip(files) {
            table
                .add(region, file, self.peer)
                .map_err(|e| refuse_memory(&e))?;
        }
        let mut state = self.state.lock();
        state.log_to(&table).map_err(|e| refuse_memory(&e))?;
        self.publish(&table).map_err(|e| refuse_memory(&e))?;
        let old = std::mem::replace(&mut state.table, table);
        state.table.replace(old);
        Ok(())
    }

    fn get_max_mem_slots(&self) -> Result<u64> {
        Ok(REGIONS_MAX as u64)
    }

    fn add_mem_region(&self, region: &VhostUserSingleMemoryRegion, file: File) -> Result<()> {
        let mut state = self.state.lock();
        state
            .table
            .add(region, file, self.peer)
            .map_err(|e| refuse_memory(&e))?;
        let added = state.log_to(&state.table);
        if let Err(error) = added.and_then(|()| self.publish(&state.table)) {
            // It was there a line ago.
            let _ = state.table.remove(region);
            return Err(refuse_memory(&error));
        }
        Ok(())
    }

    fn remove_mem_region(&self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let mut state = self.state.lock();
        state.table.remove(region).map_err(|e| refuse_memory(&e))?;
        self.publish(&state.table).map_err(|e| refuse_memory(&e))
    }

    fn set_vring_num(&self, index: u32, num: u32) -> Result<()> {
        if self.ring(index)?.set_size(num) {
            Ok(())
        } else {
            Err(refuse(&format!("queue {index} cannot have {num} entries")))
        }
    }

    fn set_vring_addr(
        &self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let ring = self.ring(index)?;
        let state = self.state.lock();
        if state.table.is_empty() {
            return Err(refuse_memory(&MemoryError::Empty));
        }
        let guest = |address| state.table.guest_address(address);
        let (Some(table), Some(available), Some(used)) =
            (guest(descriptor), guest(available), guest(used))
        else {
            return Err(refuse(&format!(
                "queue {index} lies outside of the guest's memory"
            )));
        };
        if ring.set_addresses(table, available, used) {
            Ok(())
        } else {
            Err(refuse(&format!("queue {index} is not aligned")))
        }
    }

    fn set_vring_base(&self, index: u32, base: u32) -> Result<()> {
        let base = u16::try_from(base)
            .map_err(|_| refuse(&format!("queue {index} cannot begin at {base}")))?;
        self.ring(index)?.set_base(base);
        Ok(())
    }

    fn get_vring_base(&self, index: u32) -> Result<VhostUserVringState> {
        let next = self.ring(index)?.stop();
        Ok(VhostUserVringState::new(index, u32::from(next)))
    }

    fn set_vring_kick(&self, index: u8, file: Option<File>) -> Result<()> {
        let ring = self.ring(u32::from(index))?;
        let Some(file) = file else {
            return Err(refuse("a queue without kicks is not supported"));
        };
        let mut state = self.state.lock();
        if state.table.is_empty() {
            return Err(refuse_memory(&MemoryError::Empty));
        }
        self.start_thread(&mut state, ring)?;
        ring.start(file, &self.work.memory());
        log::debug!("queue {index} started");
        Ok(())
    }

    fn set_vring_call(&self, index: u8, file: Option<File>) -> Result<()> {
        self.ring(u32::from(index))?.set_call(file);
        Ok(())
    }

    fn set_vring_err(&self, index: u8, file: Option<File>) -> Result<()> {
        self.ring(u32::from(index))?.set_error(file);
        Ok(())
    }

    fn set_vring_enable(&self, index: u32, enable: bool) -> Result<()> {
        self.ring(index)?.set_enabled(enable);
        Ok(())
    }

    fn get_protocol_features(&self) -> Result<VhostUserProtocolFeatures> {
        let mut features = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::RESET_DEVICE
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::STATUS
            | VhostUserProtocolFeatures::LOG_SHMFD
            | VhostUserProtocolFeatures::DEVICE_STATE;
        if self.config.is_some() {
            features |= VhostUserProtocolFeatures::CONFIG;
        }
        Ok(features)
    }

    fn set_protocol_features(&self, features: u64) -> Result<()> {
        self.state.lock().protocol_features = features;
        Ok(())
    }

    fn get_queue_num(&self) -> Result<u64> {
        Ok(self.rings.len() as u64)
    }

    fn get_config(&self, offset: u32, size: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        let range = usize::try_from(offset).ok().zip(usize::try_from(size).ok());
        range
            .and_then(|(offset, size)| {
                let bytes = self.config.as_ref()?;
                bytes.get(offset..offset.checked_add(size)?)
            })
            .map(<[u8]>::to_vec)
            .ok_or(Error::InvalidParam)
    }

    fn set_config(&self, _offset: u32, _buf: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        Err(Error::InvalidOperation(
            "the configuration cannot be changed",
        ))
    }

    fn set_gpu_socket(&self, _gpu_backend: GpuBackend) -> Result<()> {
        Err(unsupported())
    }

    fn get_shared_object(&self, _uuid: VhostUserSharedMsg) -> Result<File> {
        Err(unsupported())
    }

    fn get_inflight_fd(&self, _inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        Err(unsupported())
    }

    fn set_inflight_fd(&self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        Err(unsupported())
    }

    fn set_device_state_fd(
        &self,
        direction: VhostTransferStateDirection,
        _stopped: VhostTransferStatePhase,
        fd: File,
    ) -> Result<Option<File>> {
        if self.rings.iter().any(|ring| ring.is_started()) {
            return Err(refuse("a guest's state cannot move while its queues run"));
        }
        let mut state = self.state.lock();
        if state.transfer.is_under_way() {
            return Err(refuse("the guest's state is on its way already"));
        }
        state.transfer = match direction {
            VhostTransferStateDirection::LOAD => Transfer::receive(fd),
            VhostTransferStateDirection::SAVE if self.is_alone() => Transfer::Wanted(fd),
            VhostTransferStateDirection::SAVE => match self.work.answer.save() {
                Ok(mount) => Transfer::send(fd, mount),
                Err(error) => Transfer::Done(Err(error.to_string())),
            },
        };
        Ok(None)
    }

    fn check_device_state(&self) -> Result<()> {
        let transfer = std::mem::take(&mut self.state.lock().transfer);
        let done = match transfer {
            Transfer::None => Err("there is none".to_owned()),
            Transfer::Wanted(_) => Err("it was not sent".to_owned()),
            Transfer::Done(done) => done,
            Transfer::Sending(thread) => finished(thread),
            Transfer::Receiving(thread) => finished(thread).and_then(|mount| {
                self.work.answer.reset();
                let restored = self.work.answer.restore(&mount);
                restored.map_err(|error| error.to_string())
            }),
        };
        done.map_err(|reason| refuse(&format!("the guest's state: {reason}")))
    }

    fn get_shmem_config(&self) -> Result<VhostUserShMemConfig> {
        Err(unsupported())
    }

    fn set_log_base(&self, log: &VhostUserLog, file: File) -> Result<()> {
        let log = DirtyLog::new(log, file).map_err(|e| refuse_memory(&e))?;
        let mut state = self.state.lock();
        state.log = Some(Arc::new(log));
        state.log_to(&state.table).map_err(|e| refuse_memory(&e))
    }
}

fn unsupported() -> Error {
    Error::ReqHandlerError(io::Error::from(io::ErrorKind::Unsupported))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_space_is_as_virtio_has_it() {
        let bytes = config_space("home", 3);
        assert_eq!(bytes.len(), 44);
        assert_eq!(&bytes[..5], b"home\0");
        assert_eq!(&bytes[36..40], &[3, 0, 0, 0]);
    }
}
