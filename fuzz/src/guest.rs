//! A guest's memory, and chains in it, without a device.

use std::sync::Arc;

use fuse_backend_rs::transport::{Reader, VirtioFsWriter, Writer};
use razorfs::server::Server;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

pub type Memory = GuestMemoryMmap<()>;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const TABLE: u64 = 0;
const AVAILABLE: u64 = 0x4000;
const USED: u64 = 0x8000;
const REQUEST: u64 = 0x1_0000;
const REPLY: u64 = 0x20_0000;
/// Bytes of the request and of the reply at most.
const PART_MAX: usize = 0x1f_0000;
/// What stands behind the room for a reply.
const CANARY: [u8; 64] = [0xa5; 64];

/// Memory for one request at a time.
pub struct Guest(Arc<Memory>);

impl Guest {
    pub fn new() -> Guest {
        let ranges = [(GuestAddress(0), 4 << 20)];
        Guest(Arc::new(Memory::from_ranges(&ranges).unwrap()))
    }

    /// Has a request answered that lies in parts of `cut` bytes, as its reply does; returns the
    /// reply.
    pub fn carry_out(&self, server: &Server, request: &[u8], room: usize, cut: usize) -> Vec<u8> {
        let request = &request[..request.len().min(PART_MAX)];
        let room = room.min(PART_MAX);
        self.0.write_slice(request, GuestAddress(REQUEST)).unwrap();
        let behind = GuestAddress(REPLY + room as u64);
        self.0.write_slice(&CANARY, behind).unwrap();
        let mut parts = Vec::new();
        for (at, len, flags) in [(REQUEST, request.len(), 0), (REPLY, room, WRITE)] {
            // A chain has 256 parts at most.
            let step = cut.max(len / 100 + 1);
            for start in (0..len).step_by(step) {
                parts.push((at + start as u64, step.min(len - start), flags));
            }
        }
        if parts.is_empty() {
            return Vec::new();
        }
        for (index, (at, len, flags)) in (0u16..).zip(&parts) {
            let last = usize::from(index) + 1 == parts.len();
            let flags = flags | if last { 0 } else { NEXT };
            let descriptor = Descriptor::new(*at, u32::try_from(*len).unwrap(), flags, index + 1);
            let place = GuestAddress(TABLE + u64::from(index) * 16);
            self.0.write_obj(descriptor, place).unwrap();
        }
        let available = [0u8, 0, 1, 0, 0, 0];
        self.0
            .write_slice(&available, GuestAddress(AVAILABLE))
            .unwrap();
        let mut queue = Queue::new(256).unwrap();
        queue
            .try_set_desc_table_address(GuestAddress(TABLE))
            .unwrap();
        queue
            .try_set_avail_ring_address(GuestAddress(AVAILABLE))
            .unwrap();
        queue.try_set_used_ring_address(GuestAddress(USED)).unwrap();
        queue.set_ready(true);
        let chain = queue.iter(self.0.clone()).unwrap().next().unwrap();
        let reader = Reader::from_descriptor_chain(self.0.as_ref(), chain.clone()).unwrap();
        let writer = VirtioFsWriter::new(self.0.as_ref(), chain).unwrap();
        let written = server
            .handle(reader, Writer::VirtioFs(writer))
            .unwrap_or_default();
        assert!(written <= room, "{written} bytes of reply, room for {room}");
        let mut reply = vec![0; written];
        self.0.read_slice(&mut reply, GuestAddress(REPLY)).unwrap();
        let mut found = [0; CANARY.len()];
        self.0.read_slice(&mut found, behind).unwrap();
        assert_eq!(found, CANARY, "written behind the room for the reply");
        reply
    }
}
