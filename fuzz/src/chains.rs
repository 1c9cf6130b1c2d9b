//! A virtqueue of arbitrary descriptors: carried out or broken, never written to but where the
//! guest said; and works again when it is set up anew.

use std::cell::RefCell;
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use razorfs::engine::Volume;
use razorfs::fs::{FileSystem, Options};
use razorfs::server::Server;
use razorfs::transport::vhost_user::in_process::{InProcess, Memory, Place};
use vm_memory::{Bytes, GuestAddress};
use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::ROOT;
use vm_tests::frontend::hostile::fields::Told;
use vm_tests::frontend::hostile::ring::{self, Attack, SCRATCH_BYTES};
use vm_tests::frontend::queue::{Descriptor, NEXT, WRITE};

use super::store;

const SIZE: u16 = 64;
const TABLE: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const SCRATCH: u64 = 0x10000;
/// The border of two regions, in the part of the scratch memory where replies go.
const BORDER: u64 = SCRATCH + 0x1_8000;
const END: u64 = SCRATCH + SCRATCH_BYTES + 0x1000;
/// Executions on one volume: what a guest may do to a store is another target's.
const EXECUTIONS: u32 = 512;

struct World {
    memory: Memory,
    ring: InProcess,
    executions: u32,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

impl World {
    fn new() -> World {
        let ranges = [
            (GuestAddress(0), usize::try_from(BORDER).unwrap()),
            (GuestAddress(BORDER), usize::try_from(END - BORDER).unwrap()),
        ];
        let memory = Memory::from_ranges(&ranges).unwrap();
        let sim = store::closed();
        let volume = Volume::open_media(sim.media(), store::options(), store::clock()).unwrap();
        let server = Arc::new(Server::new(FileSystem::new(volume, Options::default())));
        let ring = InProcess::new(server, memory.clone()).unwrap();
        World {
            memory,
            ring,
            executions: 0,
        }
    }

    fn write(&self, address: u64, bytes: &[u8]) {
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .unwrap();
    }

    /// Starts the ring at `base` in memory that is otherwise zeros.
    fn start(&self, base: u16, event_idx: bool) {
        let zeros = [0; 4096];
        for page in 1..END / 4096 {
            self.write(page * 4096, &zeros);
        }
        self.write(AVAILABLE + 2, &base.to_le_bytes());
        self.write(USED + 2, &base.to_le_bytes());
        let place = Place {
            size: SIZE,
            table: TABLE,
            available: AVAILABLE,
            used: USED,
            base,
            event_idx,
        };
        assert!(self.ring.start(place).unwrap());
    }

    /// Has one request carried out, as a driver sends it.
    fn serve(&self, message: &[u8], room: u32) -> Vec<u8> {
        self.start(0, false);
        let len = u32::try_from(message.len()).unwrap();
        let (flags, next, address) = (NEXT, 1, SCRATCH);
        let first = Descriptor {
            address,
            len,
            flags,
            next,
        };
        let second = Descriptor {
            address: SCRATCH + 0x1000,
            len: room,
            flags: WRITE,
            next: 0,
        };
        self.write(SCRATCH, message);
        self.write(TABLE, &[first.bytes(), second.bytes()].concat());
        self.write(AVAILABLE + 2, &1u16.to_le_bytes());
        assert!(self.ring.kick(), "a ring set up anew is broken");
        let mut used = [0; 12];
        self.memory
            .read_slice(&mut used, GuestAddress(USED))
            .unwrap();
        assert_eq!(used[2..4], [1, 0], "given back");
        let len = u32::from_le_bytes(used[8..12].try_into().unwrap());
        assert!(len <= room);
        let mut reply = vec![0; usize::try_from(len).unwrap()];
        self.memory
            .read_slice(&mut reply, GuestAddress(SCRATCH + 0x1000))
            .unwrap();
        self.ring.stop();
        reply
    }
}

pub fn run(data: &[u8]) {
    WORLD.with_borrow_mut(|world| {
        if world
            .as_ref()
            .is_none_or(|world| world.executions >= EXECUTIONS)
        {
            *world = Some(World::new());
        }
        if let Some(world) = world {
            world.executions += 1;
            one(world, data);
        }
    });
}

fn one(world: &World, data: &[u8]) {
    let mut u = Unstructured::new(data);
    let (base, how): (u16, u8) = (u.arbitrary().unwrap_or(0), u.arbitrary().unwrap_or(0));
    let init = request::init(u64::MAX).message(2, 0, 0, 1);
    assert_eq!(world.serve(&init, 80).len(), 80);
    world.start(base, how & 1 != 0);
    let place = ring::Place {
        size: SIZE,
        table: TABLE,
        available: AVAILABLE,
        used: USED,
        scratch: SCRATCH,
        end: END,
    };
    let mut next = base;
    // A queue that is not broken goes on.
    for _ in 0..4 {
        if u.is_empty() {
            break;
        }
        let Ok(attack) = Attack::arbitrary(&mut u) else {
            break;
        };
        for (address, bytes) in attack.writes(&place, next, &Told::default()) {
            if address + bytes.len() as u64 <= END {
                world.write(address, &bytes);
            }
        }
        let whole = world.ring.kick();
        let mut index = [0; 2];
        world
            .memory
            .read_slice(&mut index, GuestAddress(AVAILABLE + 2))
            .unwrap();
        next = u16::from_le_bytes(index);
        if !whole {
            break;
        }
    }
    world.ring.stop();
    // DESTROY may have ended the session, and everything may have been changed; it serves.
    assert_eq!(world.serve(&init, 80).len(), 80);
    let getattr = request::getattr(ROOT).message(4, 0, 0, 1);
    assert_eq!(world.serve(&getattr, 120).len(), 120);
}
