//! A virtual machine's side of the device, as small as it can be: one file is the guest's memory,
//! read and written with pread and pwrite, and each queue has its rings at fixed places in it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use vhost::vhost_user::message::{
    VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

pub const QUEUES: usize = 4;
pub const SIZE: u16 = 64;
pub const MEMORY: u64 = 16 << 20;
/// Where this process would have the guest's memory mapped.
const HERE: u64 = 0x7000_0000_0000;
const WAIT: Duration = Duration::from_secs(20);

const NEXT: u16 = 1;
const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// A queue's place in memory.
fn base(queue: usize) -> u64 {
    queue as u64 * 0x10000
}

fn available(queue: usize) -> u64 {
    base(queue) + 0x1000
}

fn used(queue: usize) -> u64 {
    base(queue) + 0x2000
}

/// A request's buffers: 64 KiB for each pair of descriptors.
pub fn buffer(queue: usize, slot: u16) -> u64 {
    0x100_000 + (queue as u64 * 32 + u64::from(slot)) * 0x10000
}

/// One entry of a descriptor table.
#[derive(Clone, Copy)]
pub struct Descriptor {
    pub address: u64,
    pub len: u32,
    pub flags: u16,
    pub next: u16,
}

impl Descriptor {
    pub fn bytes(self) -> Vec<u8> {
        let mut bytes = self.address.to_le_bytes().to_vec();
        bytes.extend(self.len.to_le_bytes());
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend(self.next.to_le_bytes());
        bytes
    }
}

pub struct FrontEnd {
    pub vhost: Frontend,
    pub memory: File,
    kicks: Vec<EventFd>,
    calls: Vec<EventFd>,
    pub errors: Vec<EventFd>,
    next: [u16; QUEUES],
    unique: u64,
}

impl FrontEnd {
    /// Connects and negotiates; no memory and no queue yet.
    pub fn connect(path: &Path) -> FrontEnd {
        let mut vhost = Frontend::connect(path, QUEUES as u64).unwrap();
        vhost.set_owner().unwrap();
        let features = vhost.get_features().unwrap();
        assert_ne!(features & (1 << 32), 0, "VERSION_1");
        assert_ne!(features & (1 << 28), 0, "indirect descriptors");
        let offered = vhost.get_protocol_features().unwrap();
        assert!(!offered.contains(VhostUserProtocolFeatures::CONFIG));
        vhost
            .set_protocol_features(
                VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK,
            )
            .unwrap();
        assert!(vhost.get_queue_num().unwrap() >= QUEUES as u64);
        vhost.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        let wanted = 1 << 32 | 1 << 28 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        vhost.set_features(features & wanted).unwrap();
        let memory = tempfile::tempfile().unwrap();
        memory.set_len(MEMORY).unwrap();
        let events = || {
            (0..QUEUES)
                .map(|_| EventFd::new(libc::EFD_NONBLOCK).unwrap())
                .collect()
        };
        FrontEnd {
            vhost,
            memory,
            kicks: events(),
            calls: events(),
            errors: events(),
            next: [0; QUEUES],
            unique: 0,
        }
    }

    /// Connects, and sets everything up.
    pub fn ready(path: &Path) -> FrontEnd {
        let mut front_end = FrontEnd::connect(path);
        let region = front_end.region(0, MEMORY);
        front_end.vhost.set_mem_table(&[region]).unwrap();
        for queue in 0..QUEUES {
            front_end.start(queue);
        }
        front_end.init();
        front_end
    }

    pub fn region(&self, guest: u64, len: u64) -> VhostUserMemoryRegionInfo {
        VhostUserMemoryRegionInfo {
            guest_phys_addr: guest,
            memory_size: len,
            userspace_addr: HERE.wrapping_add(guest),
            mmap_offset: 0,
            mmap_handle: self.memory.as_raw_fd(),
        }
    }

    /// Sets a queue up, empty, and starts it.
    pub fn start(&mut self, queue: usize) {
        self.memory
            .write_all_at(&[0; 0x10000], base(queue))
            .unwrap();
        self.next[queue] = 0;
        self.vhost.set_vring_num(queue, SIZE).unwrap();
        self.vhost.set_vring_base(queue, 0).unwrap();
        self.vhost
            .set_vring_addr(
                queue,
                &VringConfigData {
                    queue_max_size: SIZE,
                    queue_size: SIZE,
                    flags: 0,
                    desc_table_addr: HERE + base(queue),
                    used_ring_addr: HERE + used(queue),
                    avail_ring_addr: HERE + available(queue),
                    log_addr: None,
                },
            )
            .unwrap();
        self.vhost
            .set_vring_err(queue, &self.errors[queue])
            .unwrap();
        self.vhost
            .set_vring_call(queue, &self.calls[queue])
            .unwrap();
        self.vhost
            .set_vring_kick(queue, &self.kicks[queue])
            .unwrap();
        self.vhost.set_vring_enable(queue, true).unwrap();
    }

    pub fn describe(&self, queue: usize, index: u16, descriptor: Descriptor) {
        let at = base(queue) + u64::from(index) * 16;
        self.memory.write_all_at(&descriptor.bytes(), at).unwrap();
    }

    /// Makes a chain available, and the ring's index whatever `jump` adds.
    pub fn offer(&mut self, queue: usize, head: u16, jump: u16) {
        let at = available(queue) + 4 + u64::from(self.next[queue] % SIZE) * 2;
        self.memory.write_all_at(&head.to_le_bytes(), at).unwrap();
        self.next[queue] = self.next[queue].wrapping_add(1 + jump);
        let index = self.next[queue].to_le_bytes();
        self.memory
            .write_all_at(&index, available(queue) + 2)
            .unwrap();
    }

    pub fn kick(&self, queue: usize) {
        self.kicks[queue].write(1).unwrap();
    }

    pub fn used_index(&self, queue: usize) -> u16 {
        let mut bytes = [0; 2];
        self.memory
            .read_exact_at(&mut bytes, used(queue) + 2)
            .unwrap();
        u16::from_le_bytes(bytes)
    }

    /// Bytes written, of the used entry at `index`.
    pub fn used_len(&self, queue: usize, index: u16) -> u32 {
        let mut bytes = [0; 4];
        let at = used(queue) + 4 + u64::from(index % SIZE) * 8 + 4;
        self.memory.read_exact_at(&mut bytes, at).unwrap();
        u32::from_le_bytes(bytes)
    }

    /// Puts a request into a slot of its own (below 32), without a kick.
    pub fn post(&mut self, queue: usize, slot: u16, request: &[u8]) {
        let at = buffer(queue, slot);
        self.memory.write_all_at(request, at).unwrap();
        let (head, tail) = (slot * 2, slot * 2 + 1);
        self.describe(
            queue,
            head,
            Descriptor {
                address: at,
                len: u32::try_from(request.len()).unwrap(),
                flags: NEXT,
                next: tail,
            },
        );
        self.describe(
            queue,
            tail,
            Descriptor {
                address: at + 0x8000,
                len: 0x8000,
                flags: WRITE,
                next: 0,
            },
        );
        self.offer(queue, head, 0);
    }

    /// Waits until `count` requests have been given back since the queue was started.
    pub fn wait(&self, queue: usize, count: u16) {
        let since = Instant::now();
        while self.used_index(queue) != count {
            assert!(since.elapsed() < WAIT, "no answer on queue {queue}");
            let epoll = Epoll::new().unwrap();
            let call = EpollEvent::new(EventSet::IN, 0);
            let fd = self.calls[queue].as_raw_fd();
            epoll.ctl(ControlOperation::Add, fd, call).unwrap();
            epoll.wait(1000, &mut [EpollEvent::default()]).unwrap();
            let _ = self.calls[queue].read();
        }
    }

    /// A FUSE request with its header.
    pub fn message(&mut self, opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
        self.unique += 2;
        let mut bytes = u32::try_from(40 + body.len())
            .unwrap()
            .to_le_bytes()
            .to_vec();
        bytes.extend(opcode.to_le_bytes());
        bytes.extend(self.unique.to_le_bytes());
        bytes.extend(node.to_le_bytes());
        bytes.extend([0; 16]);
        bytes.extend(body);
        bytes
    }

    /// Carries out a request on a queue with nothing else in flight: errno and body of the reply.
    pub fn call(&mut self, queue: usize, opcode: u32, node: u64, body: &[u8]) -> (i32, Vec<u8>) {
        let request = self.message(opcode, node, body);
        let before = self.used_index(queue);
        self.post(queue, 0, &request);
        self.kick(queue);
        self.wait(queue, before.wrapping_add(1));
        let len = self.used_len(queue, before) as usize;
        let mut reply = vec![0; len];
        self.memory
            .read_exact_at(&mut reply, buffer(queue, 0) + 0x8000)
            .unwrap();
        assert!(len >= 16, "a reply has a header");
        assert_eq!(
            reply[8..16],
            self.unique.to_le_bytes(),
            "it answers this request"
        );
        let error = i32::from_le_bytes(reply[4..8].try_into().unwrap());
        (-error, reply.split_off(16))
    }

    fn init(&mut self) {
        let mut body = Vec::new();
        for word in [7u32, 38, 1 << 17, 0] {
            body.extend(word.to_le_bytes());
        }
        body.extend([0; 48]);
        assert_eq!(self.call(1, 26, 0, &body).0, 0, "INIT");
    }

    pub fn getattr(&mut self, queue: usize) -> i32 {
        self.call(queue, 3, 1, &[0; 16]).0
    }

    /// Makes a file below the root, open for writing: its node and handle.
    pub fn create(&mut self, queue: usize, name: &str) -> (u64, u64) {
        let mut body = Vec::new();
        for word in [libc::O_RDWR as u32, 0o100_644, 0o22, 0] {
            body.extend(word.to_le_bytes());
        }
        body.extend(name.as_bytes());
        body.push(0);
        let (error, reply) = self.call(queue, 35, 1, &body);
        assert_eq!(error, 0, "CREATE {name}");
        let word = |at: usize| u64::from_le_bytes(reply[at..at + 8].try_into().unwrap());
        (word(0), word(128))
    }

    pub fn write(&mut self, queue: usize, (node, handle): (u64, u64), bytes: &[u8]) {
        let mut body = handle.to_le_bytes().to_vec();
        body.extend(0u64.to_le_bytes());
        body.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
        body.extend([0; 20]);
        body.extend(bytes);
        assert_eq!(self.call(queue, 16, node, &body).0, 0, "WRITE");
    }

    pub fn read(&mut self, queue: usize, (node, handle): (u64, u64), len: u32) -> Vec<u8> {
        let mut body = handle.to_le_bytes().to_vec();
        body.extend(0u64.to_le_bytes());
        body.extend(len.to_le_bytes());
        body.extend([0; 20]);
        let (error, reply) = self.call(queue, 15, node, &body);
        assert_eq!(error, 0, "READ");
        reply
    }

    /// The node of a name below the root.
    pub fn lookup(&mut self, queue: usize, name: &str) -> u64 {
        let mut body = name.as_bytes().to_vec();
        body.push(0);
        let (error, reply) = self.call(queue, 1, 1, &body);
        assert_eq!(error, 0, "LOOKUP {name}");
        u64::from_le_bytes(reply[..8].try_into().unwrap())
    }

    pub fn fsync_message(&mut self, (node, handle): (u64, u64)) -> Vec<u8> {
        let mut body = handle.to_le_bytes().to_vec();
        body.extend([0; 8]);
        self.message(20, node, &body)
    }
}
