//! A connection to razorfsd: features, memory, queues (QEMU, docs/interop/vhost-user.rst).

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags,
    VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserDirtyLogRegion, VringConfigData};

use super::fuse::wire::InitOut;
use super::fuse::{Client, Uniques, request};
use super::memory::Memory;
use super::queue::Queue;
use super::{Error, Result, WAIT};

/// `VIRTIO_RING_F_INDIRECT_DESC`
const INDIRECT_DESC: u64 = 1 << 28;
/// `VIRTIO_RING_F_EVENT_IDX`
const EVENT_IDX: u64 = 1 << 29;
/// `VIRTIO_F_VERSION_1`
const VERSION_1: u64 = 1 << 32;
/// `VHOST_USER_SET_STATUS`
const SET_STATUS: u32 = 39;
/// `VHOST_USER_GET_STATUS`
const GET_STATUS: u32 = 40;
/// The version in a message's flags.
const MESSAGE_VERSION: u32 = 1;
/// `struct virtio_fs_config` (VirtIO 1.3, 5.11.4).
const CONFIG_BYTES: usize = 44;

/// What the guest is like.
#[derive(Debug, Clone)]
pub struct Options {
    /// Request queues, beside the high-priority one.
    pub request_queues: usize,
    /// Entries of each queue: a power of two.
    pub queue_size: u16,
    /// Whether to ask for `VIRTIO_RING_F_EVENT_IDX`.
    pub event_idx: bool,
    /// Whether chains are put into indirect tables.
    pub indirect: bool,
    /// Regions of memory: guest address and bytes.
    pub memory: Vec<(u64, u64)>,
    /// Whether memory is on huge pages.
    pub huge_pages: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            request_queues: 3,
            queue_size: 64,
            event_idx: true,
            indirect: false,
            memory: vec![(0, 64 << 20)],
            huge_pages: false,
        }
    }
}

/// A connected device.
pub struct Device {
    /// The connection, for messages of any kind.
    pub vhost: Frontend,
    /// The virtio features agreed on.
    pub features: u64,
    /// The queues the device has, the high-priority one included.
    pub queues_offered: u64,
    memory: Arc<Memory>,
    options: Options,
    uniques: Uniques,
    /// The connection once more, for messages that the vhost crate does not know.
    stream: UnixStream,
}

impl Device {
    /// Connects and negotiates. The device has no memory and no queue yet.
    ///
    /// # Errors
    /// When nobody listens, or what is needed is not offered.
    pub fn connect(path: &Path, options: &Options) -> Result<Device> {
        let memory = match options.huge_pages {
            true => Memory::on_huge_pages(&options.memory)?,
            false => Memory::new(&options.memory)?,
        };
        let memory = Arc::new(memory);
        Device::connect_with(path, options, memory)
    }

    /// [`Device::connect`] with memory that exists: a front-end that comes back.
    ///
    /// # Errors
    /// As [`Device::connect`].
    pub fn connect_with(path: &Path, options: &Options, memory: Arc<Memory>) -> Result<Device> {
        let stream = UnixStream::connect(path)?;
        // A daemon that hangs fails a test instead of hanging it.
        stream.set_read_timeout(Some(WAIT))?;
        let ours = stream.try_clone()?;
        let queues = options.request_queues as u64 + 1;
        let mut vhost = Frontend::from_stream(stream, queues);
        vhost.set_owner()?;
        let offered = vhost.get_features()?;
        let mut features = VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        if options.indirect {
            features |= INDIRECT_DESC;
        }
        if options.event_idx {
            features |= EVENT_IDX;
        }
        if offered & features != features {
            return Err(Error::NotOffered("virtio features"));
        }
        let protocol = vhost.get_protocol_features()?;
        let needed = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
        if !protocol.contains(needed) {
            return Err(Error::NotOffered("vhost-user features"));
        }
        let optional = VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::STATUS
            | VhostUserProtocolFeatures::RESET_DEVICE
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::LOG_SHMFD
            | VhostUserProtocolFeatures::DEVICE_STATE;
        let wanted = needed | protocol & optional;
        vhost.set_protocol_features(wanted)?;
        let queues_offered = vhost.get_queue_num()?;
        if queues_offered < queues {
            return Err(Error::NotOffered("queues"));
        }
        vhost.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        vhost.set_features(features)?;
        Ok(Device {
            vhost,
            features,
            queues_offered,
            memory,
            options: options.clone(),
            uniques: Uniques::default(),
            stream: ours,
        })
    }

    /// The guest's memory.
    #[must_use]
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Shows the device the memory.
    ///
    /// # Errors
    /// When it is refused; the device hangs up then.
    pub fn share_memory(&self) -> Result<()> {
        Ok(self.vhost.set_mem_table(&self.memory.table())?)
    }

    /// Shows it other memory, far from where its rings lie.
    ///
    /// # Errors
    /// When it is refused; the device hangs up then.
    pub fn take_memory_away(&self) -> Result<()> {
        let mut table = self.memory.table();
        for region in &mut table {
            region.guest_phys_addr += 1 << 40;
        }
        Ok(self.vhost.set_mem_table(&table)?)
    }

    /// Disables a queue and enables it again, while it is in use.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn disable_and_enable(&mut self, index: usize) -> Result<()> {
        self.vhost.set_vring_enable(index, false)?;
        Ok(self.vhost.set_vring_enable(index, true)?)
    }

    /// Makes a queue and starts it.
    ///
    /// # Errors
    /// When there is no memory left for it, or it is refused.
    pub fn start(&mut self, index: usize) -> Result<Queue> {
        let event_idx = self.features & EVENT_IDX != 0;
        let size = self.options.queue_size;
        let queue = Queue::new(index, size, event_idx, self.memory.clone())?;
        self.run(&queue, 0)?;
        Ok(queue)
    }

    /// Tells the device of a queue and has it start at the available entry `base`.
    ///
    /// # Errors
    /// When it is refused.
    pub fn run(&mut self, queue: &Queue, base: u16) -> Result<()> {
        let (vhost, index) = (&mut self.vhost, queue.index);
        vhost.set_vring_num(index, queue.size())?;
        vhost.set_vring_base(index, base)?;
        vhost.set_vring_addr(
            index,
            &VringConfigData {
                queue_max_size: queue.size(),
                queue_size: queue.size(),
                flags: 0,
                desc_table_addr: self.memory.here(queue.table_address())?,
                used_ring_addr: self.memory.here(queue.used_address())?,
                avail_ring_addr: self.memory.here(queue.available_address())?,
                log_addr: None,
            },
        )?;
        vhost.set_vring_err(index, &queue.events.error)?;
        vhost.set_vring_call(index, &queue.events.call)?;
        vhost.set_vring_kick(index, &queue.events.kick)?;
        Ok(vhost.set_vring_enable(index, true)?)
    }

    /// Stops a queue. Returns the available entry that the device would take next; nothing is in
    /// flight on the device's side then.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn stop(&self, index: usize) -> Result<u16> {
        let base = self.vhost.get_vring_base(index)?;
        u16::try_from(base).map_err(|_| Error::Protocol(format!("queue {index} is at {base}")))
    }

    /// Stops a queue and starts it where it was, as a front-end does around a pause.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn pause(&mut self, queue: &Queue) -> Result<()> {
        let base = self.stop(queue.index)?;
        self.run(queue, base)
    }

    /// Has the device mark in `log` which pages of memory it changes, a bit for each, or in nothing.
    ///
    /// # Errors
    /// When it is refused; the device hangs up then.
    pub fn log_changes(&self, log: Option<&File>) -> Result<()> {
        if let Some(log) = log {
            let region = VhostUserDirtyLogRegion {
                mmap_size: log.metadata()?.len(),
                mmap_offset: 0,
                mmap_handle: log.as_raw_fd(),
            };
            self.vhost.set_log_base(0, Some(region))?;
        }
        let all = VhostUserVirtioFeatures::LOG_ALL.bits();
        let logs = if log.is_some() { all } else { 0 };
        Ok(self.vhost.set_features(self.features | logs)?)
    }

    /// Takes the device's state out of it, as for a move to another host. Its queues are stopped.
    ///
    /// # Errors
    /// When it is refused.
    pub fn save(&self) -> Result<Vec<u8>> {
        let (mut read, write) = io::pipe()?;
        let save = VhostTransferStateDirection::SAVE;
        self.transfer(save, write.into())?;
        let mut state = Vec::new();
        read.read_to_end(&mut state)?;
        self.vhost.check_device_state()?;
        Ok(state)
    }

    /// Gives the device the state of another. Its queues are not started.
    ///
    /// # Errors
    /// When it is refused.
    pub fn load(&self, state: &[u8]) -> Result<()> {
        let (read, mut write) = io::pipe()?;
        let load = VhostTransferStateDirection::LOAD;
        self.transfer(load, read.into())?;
        write.write_all(state)?;
        drop(write);
        Ok(self.vhost.check_device_state()?)
    }

    fn transfer(&self, direction: VhostTransferStateDirection, pipe: OwnedFd) -> Result<()> {
        let stopped = VhostTransferStatePhase::STOPPED;
        self.vhost.set_device_state_fd(direction, stopped, pipe)?;
        Ok(())
    }

    /// RESET_DEVICE: every queue is stopped, the session is over.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn reset(&mut self) -> Result<()> {
        self.vhost.reset_device()?;
        Ok(self.vhost.set_features(self.features)?)
    }

    /// GET_STATUS: the device's status (VirtIO 1.3, 2.1).
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn status(&mut self) -> Result<u64> {
        self.message(GET_STATUS, MESSAGE_VERSION, &[])
    }

    /// SET_STATUS, acknowledged.
    ///
    /// # Errors
    /// When it is refused; the device hangs up then.
    pub fn set_status(&mut self, status: u64) -> Result<()> {
        let flags = MESSAGE_VERSION | VhostUserHeaderFlag::NEED_REPLY.bits();
        match self.message(SET_STATUS, flags, &status.to_ne_bytes())? {
            0 => Ok(()),
            other => Err(Error::Protocol(format!("a status refused with {other}"))),
        }
    }

    /// Sends a message and takes its answer, which is one number.
    fn message(&mut self, request: u32, flags: u32, body: &[u8]) -> Result<u64> {
        let size = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let header = [request, flags, size].map(u32::to_ne_bytes);
        self.stream
            .write_all(&[header.as_flattened(), body].concat())?;
        let mut reply = [0; 20];
        self.stream.read_exact(&mut reply)?;
        let (header, value) = reply.split_at(12);
        let wanted = [request, MESSAGE_VERSION | 4, 8].map(u32::to_ne_bytes);
        if header != wanted.as_flattened() {
            return Err(Error::Protocol(format!(
                "a reply that begins with {header:?}"
            )));
        }
        Ok(value.first_chunk().copied().map_or(0, u64::from_ne_bytes))
    }

    /// The tag and the number of request queues, when the device has a tag of its own.
    ///
    /// # Errors
    /// When it offers no configuration space.
    pub fn config(&mut self) -> Result<(String, u32)> {
        let flags = VhostUserConfigFlags::empty();
        let size = u32::try_from(CONFIG_BYTES).unwrap_or(u32::MAX);
        let (_, bytes) = self.vhost.get_config(0, size, flags, &[0; CONFIG_BYTES])?;
        let (tag, rest) = bytes
            .split_at_checked(36)
            .ok_or(Error::NotOffered("configuration"))?;
        let tag = tag.split(|byte| *byte == 0).next().unwrap_or_default();
        let queues = rest.first_chunk().copied().map_or(0, u32::from_le_bytes);
        Ok((String::from_utf8_lossy(tag).into_owned(), queues))
    }

    /// A client over a queue of this device.
    #[must_use]
    pub fn client(&self, queue: Queue) -> Client {
        let mut client = Client::new(queue, self.uniques.clone());
        client.indirect = self.options.indirect;
        client
    }
}

/// A guest that has the file system mounted: a device whose queues run, after INIT.
pub struct Mount {
    /// The device.
    pub device: Device,
    /// The high-priority queue.
    pub hiprio: Client,
    /// The request queues.
    pub clients: Vec<Client>,
    /// What was agreed on.
    pub init: InitOut,
}

impl Mount {
    /// Connects, sets everything up, and begins a session with all features a kernel has.
    ///
    /// # Errors
    /// When any of it fails.
    pub fn new(path: &Path, options: &Options) -> Result<Mount> {
        Mount::over(Device::connect(path, options)?)
    }

    /// The same over a connection.
    ///
    /// # Errors
    /// When any of it fails.
    pub fn over(mut device: Device) -> Result<Mount> {
        device.share_memory()?;
        let hiprio = device.start(0)?;
        let hiprio = device.client(hiprio);
        let mut clients = Vec::new();
        for index in 1..=device.options.request_queues {
            let queue = device.start(index)?;
            clients.push(device.client(queue));
        }
        let first = clients.first_mut().ok_or(Error::NotOffered("queues"))?;
        let init = first.call(request::init(u64::MAX))?;
        Ok(Mount {
            device,
            hiprio,
            clients,
            init,
        })
    }

    /// A request queue, from 0.
    ///
    /// # Panics
    /// When there is none of this number.
    #[must_use]
    pub fn client(&mut self, index: usize) -> &mut Client {
        &mut self.clients[index]
    }
}
