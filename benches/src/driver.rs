//! A guest's driver that costs as little as it can: requests lie ready in guest memory, and one
//! needs no allocation, only a copy of its head and its place in the ring.
//!
//! Chains are what Linux makes: an indirect table with the header, the arguments, pages of data,
//! then the reply's header and its body or pages (fs/fuse/virtio_fs.c).

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use razorfs::transport::vhost_user::in_process::{InProcess, Place};
use razorfs::transport::vhost_user::{Answer, VhostUserError};
use vm_tests::frontend::queue::{Descriptor, INDIRECT, NEXT, WRITE};
use vm_tests::frontend::{Device, Error, Memory, Options, Part, Queue, Request, Result};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use zerocopy::IntoBytes;

/// Requests in flight at most.
pub const DEPTH_MAX: usize = 16;
/// Bytes of data that a request or a reply has at most.
pub const DATA_MAX: usize = 1 << 20;
/// How long a reply may take.
const PATIENCE: Duration = Duration::from_secs(120);
const PATIENCE_MS: i32 = 120_000;
const PAGE: usize = 4096;
const QUEUE_SIZE: u16 = 1024;
const MEMORY_BYTES: u64 = 64 << 20;
/// Header and arguments, names and attributes among them.
const HEAD_MAX: usize = 2048;
const IN_HEADER: usize = 40;
const OUT_HEADER: usize = 16;
const DESCRIPTOR: usize = 16;
const UNIQUE_AT: u64 = 8;
/// Descriptors of a table: headers, arguments, body, and a page each of the data.
const TABLE: usize = 4 + DATA_MAX / PAGE;

/// A request, ready to be sent any number of times.
#[derive(Debug, Clone)]
pub struct Message {
    head: Vec<u8>,
    shape: Shape,
    /// Errors that are an answer too, as a number; 0 for none.
    may_fail: i32,
}

/// What decides a chain's descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Shape {
    head: usize,
    /// Bytes of the slot's pages that the device reads.
    sent: usize,
    /// Bytes of the reply's body; none when there is no reply.
    room: Option<usize>,
    /// Whether the body is pages.
    paged: bool,
}

impl Message {
    /// The request without data of its own.
    pub fn new<T>(request: &Request<T>) -> Message {
        let head = request.message(0, 0, 0, 1);
        let shape = Shape {
            head: head.len(),
            sent: 0,
            room: request.room,
            paged: request.room.is_some_and(|room| room >= PAGE),
        };
        Message {
            head,
            shape,
            may_fail: 0,
        }
    }

    /// A WRITE, whose data are the pages that lie in guest memory already.
    pub fn write<T>(request: &Request<T>, len: usize) -> Message {
        let mut message = Message::new(request);
        message.head.truncate(message.head.len() - len);
        message.shape.head = message.head.len();
        message.shape.sent = len;
        message
    }

    /// The same, to which `errno` is an answer as well.
    pub fn or(self, errno: i32) -> Message {
        Message {
            may_fail: errno,
            ..self
        }
    }
}

/// Guest memory of one request in flight.
struct Slot {
    head: Part,
    reply: Part,
    data: Part,
    table: Part,
    shape: Shape,
    unique: u64,
    may_fail: i32,
}

/// The device that a driver drives.
enum Far {
    /// A daemon's. Kept for the connection.
    Daemon {
        _device: Arc<Device>,
        /// Becomes ready each time that the queue's call event is signalled, which nobody needs to
        /// read.
        call: Epoll,
    },
    /// One in this process, which has done everything when a kick returns.
    Here(InProcess),
}

/// A driver with a session.
pub struct Driver {
    far: Far,
    memory: Arc<Memory>,
    queue: Queue,
    slots: Vec<Slot>,
    next_available: u16,
    next_used: u16,
    told: u16,
    unique: u64,
}

impl Driver {
    /// Connects and begins a session.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn connect(path: &std::path::Path) -> Result<Driver> {
        let mut drivers = Driver::connect_queues(path, 1)?;
        drivers.pop().ok_or(Error::NotOffered("queues"))
    }

    /// Connects and begins a session, with a driver for each of its queues.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn connect_queues(path: &std::path::Path, queues: usize) -> Result<Vec<Driver>> {
        let options = Options {
            request_queues: queues,
            queue_size: QUEUE_SIZE,
            indirect: true,
            memory: vec![(0, MEMORY_BYTES * queues as u64)],
            ..Options::default()
        };
        let mut device = Device::connect(path, &options)?;
        device.share_memory()?;
        let _hiprio = device.start(0)?;
        let rings = (1..=queues).map(|index| device.start(index));
        let rings = rings.collect::<Result<Vec<_>>>()?;
        let memory = device.memory().clone();
        let device = Arc::new(device);
        let driver = |queue: Queue| {
            let call = Epoll::new()?;
            let event = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, 0);
            call.ctl(ControlOperation::Add, queue.events.call.as_raw_fd(), event)?;
            let _device = device.clone();
            Driver::over(Far::Daemon { _device, call }, queue, memory.clone())
        };
        let mut drivers = rings.into_iter().map(driver).collect::<Result<Vec<_>>>()?;
        if let Some(first) = drivers.first_mut() {
            first.begin()?;
        }
        Ok(drivers)
    }

    /// Begins a session with a server in this process.
    ///
    /// # Errors
    /// When the system has no more descriptors.
    pub fn here(answer: Arc<dyn Answer>) -> Result<Driver> {
        let memory = Arc::new(Memory::new(&[(0, MEMORY_BYTES)])?);
        let queue = Queue::new(1, QUEUE_SIZE, true, memory.clone())?;
        let failed = |error: VhostUserError| Error::Memory(error.to_string());
        let ring = InProcess::new(answer, memory.map()?).map_err(failed)?;
        let place = Place {
            size: QUEUE_SIZE,
            table: queue.table_address(),
            available: queue.available_address(),
            used: queue.used_address(),
            base: 0,
            event_idx: true,
        };
        ring.start(place).map_err(failed)?;
        let mut driver = Driver::over(Far::Here(ring), queue, memory)?;
        driver.begin()?;
        Ok(driver)
    }

    fn begin(&mut self) -> Result<()> {
        let init = vm_tests::frontend::fuse::request::init(u64::MAX);
        self.call(&init).map(drop)
    }

    fn over(far: Far, queue: Queue, memory: Arc<Memory>) -> Result<Driver> {
        let slot = |index: usize| -> Result<Slot> {
            let slot = Slot {
                head: memory.alloc(HEAD_MAX)?,
                reply: memory.alloc(PAGE)?,
                data: memory.alloc(DATA_MAX + PAGE)?,
                table: memory.alloc(TABLE * DESCRIPTOR)?,
                shape: Shape::default(),
                unique: 0,
                may_fail: 0,
            };
            // Something other than zeros, and in each slot its own.
            let bytes: Vec<u8> = (0..DATA_MAX)
                .map(|at| u8::try_from((at * 7 + index * 31 + at / 251) % 253).unwrap_or(0))
                .collect();
            memory.write(page_aligned(slot.data.address), &bytes)?;
            Ok(slot)
        };
        let slots = (0..DEPTH_MAX).map(slot).collect::<Result<_>>()?;
        Ok(Driver {
            far,
            memory,
            queue,
            slots,
            next_available: 0,
            next_used: 0,
            told: 0,
            unique: 0,
        })
    }

    /// Carries out one request.
    ///
    /// # Errors
    /// When it is answered with an error.
    pub fn call<T>(&mut self, request: &Request<T>) -> Result<T> {
        let message = Message::new(request);
        let mut body = Vec::new();
        self.each(std::slice::from_ref(&message), 1, |found| body = found)?;
        (request.decode)(&body).ok_or_else(|| Error::Protocol(format!("{} bytes", body.len())))
    }

    /// Carries out all requests, `depth` of them at a time.
    ///
    /// # Errors
    /// When one is answered with an error that it does not expect.
    pub fn run(&mut self, messages: &[Message], depth: usize) -> Result<()> {
        self.all(messages, depth, None)
    }

    /// The same, and hands over each reply's body.
    ///
    /// # Errors
    /// As there.
    pub fn each(
        &mut self,
        messages: &[Message],
        depth: usize,
        mut take: impl FnMut(Vec<u8>),
    ) -> Result<()> {
        self.all(messages, depth, Some(&mut take))
    }

    fn all(
        &mut self,
        messages: &[Message],
        depth: usize,
        mut take: Option<&mut dyn FnMut(Vec<u8>)>,
    ) -> Result<()> {
        let mut messages = messages.iter();
        let mut free: Vec<usize> = (0..depth.min(DEPTH_MAX)).collect();
        let mut in_flight = 0;
        loop {
            while let Some(slot) = free.pop() {
                let Some(message) = messages.next() else {
                    break;
                };
                self.put(slot, message)?;
                in_flight += 1;
            }
            if in_flight == 0 {
                return Ok(());
            }
            self.kick()?;
            self.wait()?;
            while self.queue.used_index()? != self.next_used {
                let (slot, len) = self.take()?;
                let body = self.check(slot, len, take.is_some())?;
                if let Some(take) = &mut take {
                    take(body);
                }
                free.push(slot);
                in_flight -= 1;
            }
        }
    }

    /// Makes a request available.
    fn put(&mut self, index: usize, message: &Message) -> Result<()> {
        self.unique += 2;
        let (memory, slot) = (&self.memory, &mut self.slots[index]);
        memory.write(slot.head.address, &message.head)?;
        memory.write(slot.head.address + UNIQUE_AT, self.unique.as_bytes())?;
        slot.unique = self.unique;
        slot.may_fail = message.may_fail;
        let head = number(index);
        if slot.shape != message.shape {
            slot.shape = message.shape;
            let table = descriptors(slot);
            let bytes: Vec<u8> = table.iter().flat_map(|one| one.bytes()).collect();
            memory.write(slot.table.address, &bytes)?;
            let descriptor = Descriptor {
                address: slot.table.address,
                len: u32::try_from(bytes.len()).unwrap_or(0),
                flags: INDIRECT,
                next: 0,
            };
            self.queue.describe(head, descriptor)?;
        }
        let place = u64::from(self.next_available % self.queue.size());
        let available = self.queue.available_address();
        memory.store(available + 4 + 2 * place, head)?;
        self.next_available = self.next_available.wrapping_add(1);
        memory.store(available + 2, self.next_available)
    }

    /// Tells the device, if it wants to be told.
    fn kick(&mut self) -> Result<()> {
        fence(Ordering::SeqCst);
        let at = self.queue.used_address() + 4 + 8 * u64::from(self.queue.size());
        let (event, new) = (self.memory.load(at)?, self.next_available);
        let wanted = new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(self.told);
        self.told = new;
        match &self.far {
            Far::Daemon { .. } if wanted => Ok(self.queue.events.kick.write(1)?),
            Far::Daemon { .. } => Ok(()),
            Far::Here(ring) if ring.kick() => Ok(()),
            Far::Here(_) => Err(Error::Protocol("the ring is broken".into())),
        }
    }

    /// Waits until something has been given back.
    fn wait(&mut self) -> Result<()> {
        let used_event = self.queue.available_address() + 4 + 2 * u64::from(self.queue.size());
        loop {
            if self.queue.used_index()? != self.next_used {
                return Ok(());
            }
            self.memory.store(used_event, self.next_used)?;
            fence(Ordering::SeqCst);
            if self.queue.used_index()? != self.next_used {
                return Ok(());
            }
            let Far::Daemon { call, .. } = &self.far else {
                return Err(Error::Protocol("a kick returned without a reply".into()));
            };
            match call.wait(PATIENCE_MS, &mut [EpollEvent::default()]) {
                Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                    return Err(error.into());
                }
                // A daemon that is gone or hangs ends the run, rather than making it wait for ever.
                Ok(0) => return Err(Error::Timeout(PATIENCE)),
                _ => {}
            }
        }
    }

    /// The next request given back: its slot, and the bytes written.
    fn take(&mut self) -> Result<(usize, usize)> {
        let place = u64::from(self.next_used % self.queue.size());
        let mut entry = [0; 8];
        let at = self.queue.used_address() + 4 + 8 * place;
        self.memory.read(at, &mut entry)?;
        self.next_used = self.next_used.wrapping_add(1);
        let [a, b, c, d, len @ ..] = entry;
        let slot = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let len = usize::try_from(u32::from_le_bytes(len)).unwrap_or(usize::MAX);
        if slot >= self.slots.len() {
            return Err(Error::Protocol(format!("chain {slot} came back")));
        }
        Ok((slot, len))
    }

    /// Checks a reply; its body, when it is wanted.
    fn check(&self, slot: usize, len: usize, wanted: bool) -> Result<Vec<u8>> {
        let slot = &self.slots[slot];
        if slot.shape.room.is_none() {
            return Ok(Vec::new());
        }
        let mut header = [0; OUT_HEADER];
        self.memory.read(slot.reply.address, &mut header)?;
        let [_, _, _, _, a, b, c, d, unique @ ..] = header;
        if u64::from_ne_bytes(unique) != slot.unique {
            return Err(Error::Protocol("a reply to another request".into()));
        }
        let error = -i32::from_ne_bytes([a, b, c, d]);
        if error != 0 && error != slot.may_fail {
            return Err(Error::Errno(error));
        }
        if !wanted {
            return Ok(Vec::new());
        }
        let mut body = vec![0; len.saturating_sub(OUT_HEADER)];
        let at = match slot.shape.paged {
            true => page_aligned(slot.data.address),
            false => slot.reply.address + OUT_HEADER as u64,
        };
        self.memory.read(at, &mut body)?;
        Ok(body)
    }
}

fn number(index: usize) -> u16 {
    u16::try_from(index).unwrap_or(u16::MAX)
}

fn page_aligned(address: u64) -> u64 {
    address.next_multiple_of(PAGE as u64)
}

/// A chain's table.
fn descriptors(slot: &Slot) -> Vec<Descriptor> {
    let mut all = Vec::new();
    let mut add = |address: u64, len: usize, flags: u16| {
        all.push(Descriptor {
            address,
            len: u32::try_from(len).unwrap_or(0),
            flags: flags | NEXT,
            next: number(all.len() + 1),
        });
    };
    let pages = |len: usize| {
        let start = page_aligned(slot.data.address);
        (0..len)
            .step_by(PAGE)
            .map(move |at| (start + at as u64, PAGE.min(len - at)))
    };
    let shape = slot.shape;
    add(slot.head.address, IN_HEADER, 0);
    if shape.head > IN_HEADER {
        let at = slot.head.address + IN_HEADER as u64;
        add(at, shape.head - IN_HEADER, 0);
    }
    pages(shape.sent).for_each(|(at, len)| add(at, len, 0));
    if let Some(room) = shape.room {
        add(slot.reply.address, OUT_HEADER, WRITE);
        match (room, shape.paged) {
            (0, _) => {}
            (_, true) => pages(room).for_each(|(at, len)| add(at, len, WRITE)),
            (_, false) => add(slot.reply.address + OUT_HEADER as u64, room, WRITE),
        }
    }
    if let Some(last) = all.last_mut() {
        last.flags &= !NEXT;
        last.next = 0;
    }
    all
}
