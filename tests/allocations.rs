//! The common requests take no memory of their own on the way from the ring to the engine.
#![allow(missing_docs, unsafe_code, clippy::unwrap_used, clippy::panic)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use razorfs::engine::{Cred, NewInode, OpenOptions, Volume, WriteFlags};
use razorfs::format::id::Ino;
use razorfs::fs::{FileSystem, Options};
use razorfs::server::Server;
use razorfs::transport::vhost_user::in_process::{InProcess, Place};
use vm_tests::frontend::fuse::request::{self, Request};
use vm_tests::frontend::fuse::wire::ROOT;
use vm_tests::frontend::{Memory, Queue};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// Counts what a thread asks for.
struct Counting;

// SAFETY: everything is the system allocator's, to which all arguments go unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations while something is done.
fn counted(act: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    act();
    ALLOCATIONS.get() - before
}

/// A guest with a queue, on a store of its own.
struct Guest {
    memory: Arc<Memory>,
    queue: Queue,
    ring: InProcess,
    volume: Arc<Volume>,
    unique: u64,
    _dir: tempfile::TempDir,
}

impl Guest {
    fn new() -> Guest {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let made = std::process::Command::new(env!("CARGO_BIN_EXE_razorfs"))
            .args(["mkfs", "--allow-volatile"])
            .arg(&store)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let options = OpenOptions {
            allow_volatile: true,
            ..OpenOptions::default()
        };
        let volume = Volume::open(&store, options).unwrap();
        let fs = FileSystem::new(volume.clone(), Options::default());
        let memory = Arc::new(Memory::new(&[(0, 16 << 20)]).unwrap());
        let queue = Queue::new(1, 64, true, memory.clone()).unwrap();
        let ring = InProcess::new(Arc::new(Server::new(fs)), memory.map().unwrap()).unwrap();
        let place = Place {
            size: 64,
            table: queue.table_address(),
            available: queue.available_address(),
            used: queue.used_address(),
            base: 0,
            event_idx: true,
        };
        assert!(ring.start(place).unwrap());
        let mut guest = Guest {
            memory,
            queue,
            ring,
            volume,
            unique: 0,
            _dir: dir,
        };
        guest.call(&request::init(u64::MAX));
        guest
    }

    /// Carries out a request; the allocations of the device's side.
    fn call<T>(&mut self, request: &Request<T>) -> usize {
        self.unique += 2;
        let message = request.message(self.unique, 0, 0, 1);
        let readable = self.memory.alloc(message.len()).unwrap();
        self.memory.write(readable.address, &message).unwrap();
        let room = request.room.unwrap_or_default() + 16;
        let writable = self.memory.alloc(room).unwrap();
        self.queue.add(&[readable], &[writable], false).unwrap();
        let ring = &self.ring;
        let allocations = counted(|| assert!(ring.kick()));
        self.queue.take().unwrap().unwrap();
        let mut error = [0; 4];
        self.memory.read(writable.address + 4, &mut error).unwrap();
        assert_eq!(i32::from_ne_bytes(error), 0, "opcode {}", request.opcode);
        self.memory.release(readable);
        self.memory.release(writable);
        allocations
    }

    /// The least of some calls: now and then a table grows.
    fn least<T>(&mut self, request: &Request<T>) -> usize {
        (0..10).map(|_| self.call(request)).min().unwrap()
    }
}

#[test]
fn only_the_engine_takes_memory() {
    let mut guest = Guest::new();
    let volume = guest.volume.clone();
    let cred = Cred { uid: 0, gid: 0 };
    let new = NewInode {
        mode: libc::S_IFREG | 0o644,
        umask: 0,
        rdev: 0,
        xattrs: &[],
        supplementary_gid: None,
    };
    let ino = volume.create(cred, Ino(ROOT), b"file", &new).unwrap().ino;
    let page = [7; 4096];
    guest.call(&request::write(ino.0, 0, 0, &page));
    let least = |act: &mut dyn FnMut()| (0..10).map(|_| counted(&mut *act)).min().unwrap();

    let engine = least(&mut || {
        volume.lookup(Ino(ROOT), b"file").unwrap();
    });
    let all = guest.least(&request::lookup(ROOT, "file"));
    assert_eq!(all, engine, "LOOKUP");

    let engine = least(&mut || {
        volume.getattr(ino).unwrap();
    });
    let all = guest.least(&request::getattr(ino.0));
    assert_eq!(all, engine, "GETATTR");

    let mut bytes = Vec::with_capacity(page.len());
    let engine = least(&mut || {
        bytes.clear();
        volume.read(ino, 0, page.len(), &mut bytes).unwrap();
    });
    assert_eq!(bytes, page);
    let all = guest.least(&request::read(ino.0, 0, 0, 4096));
    assert_eq!(all, engine, "READ");

    let flags = WriteFlags {
        append: false,
        sync: false,
        killed_by: None,
        taken: false,
    };
    let engine = least(&mut || {
        let mut source = &page[..];
        volume
            .write(ino, 0, page.len(), &mut source, flags)
            .unwrap();
    });
    let all = guest.least(&request::write(ino.0, 0, 0, &page));
    assert_eq!(all, engine, "WRITE");
}
