//! A FUSE client over one virtqueue: requests one at a time, or many in flight.
//!
//! ```no_run
//! # use vm_tests::frontend::{Mount, Options, fuse::{request, wire::ROOT}};
//! # fn main() -> vm_tests::frontend::Result<()> {
//! let mut mount = Mount::new("/run/razorfs.sock".as_ref(), &Options::default())?;
//! let client = mount.client(0);
//! let dir = client.call(request::mkdir(ROOT, "dir", 0o755))?;
//! let first = client.submit(request::mkdir(dir.nodeid, "a", 0o755))?;
//! let second = client.submit(request::mkdir(dir.nodeid, "b", 0o755))?;
//! client.complete(second)?;
//! client.complete(first)?;
//! # Ok(())
//! # }
//! ```
//!
//! Every reply is checked for what any kernel checks: its length is the used length, it answers a
//! request in flight, an error has no body.

pub mod request;
pub mod wire;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use zerocopy::FromBytes;

use super::memory::{Memory, Part};
use super::queue::Queue;
use super::{Error, Result, WAIT};
pub use request::Request;
use wire::OutHeader;

const HEADER_BYTES: usize = size_of::<OutHeader>();
/// The greatest error number (include/linux/err.h).
const ERRNO_MAX: i32 = 4095;

/// The `unique`s of a session's requests.
#[derive(Debug, Clone, Default)]
pub struct Uniques(Arc<AtomicU64>);

impl Uniques {
    /// The next: even, as the odd ones are for interrupts.
    fn next(&self) -> u64 {
        self.0.fetch_add(2, Ordering::Relaxed) + 2
    }
}

/// A typed request in flight, whose reply is `T`.
#[derive(Debug)]
#[must_use]
pub struct Ticket<T> {
    unique: u64,
    /// Whether there is one at all.
    answered: bool,
    decode: fn(&[u8]) -> Option<T>,
}

/// What stands in guest memory for a request in flight.
#[derive(Debug)]
struct Pending {
    unique: u64,
    readable: Vec<Part>,
    writable: Vec<Part>,
}

/// A FUSE client.
pub struct Client {
    /// Its queue.
    pub queue: Queue,
    /// User of the requests.
    pub uid: u32,
    /// Group of the requests.
    pub gid: u32,
    /// Process of the requests.
    pub pid: u32,
    /// Whether chains are put into indirect tables.
    pub indirect: bool,
    /// Lengths of the parts that requests and replies are cut into, over and over; empty: one part
    /// each.
    pub cuts: Vec<usize>,
    /// How long a reply may take.
    pub timeout: Duration,
    memory: Arc<Memory>,
    uniques: Uniques,
    pending: HashMap<u16, Pending>,
    done: HashMap<u64, Vec<u8>>,
}

impl Client {
    /// A client over a queue that runs.
    #[must_use]
    pub fn new(queue: Queue, uniques: Uniques) -> Client {
        Client {
            memory: queue.memory().clone(),
            queue,
            uid: 0,
            gid: 0,
            pid: 1,
            indirect: false,
            cuts: Vec::new(),
            timeout: WAIT,
            uniques,
            pending: HashMap::new(),
            done: HashMap::new(),
        }
    }

    /// Requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Carries out a request.
    ///
    /// # Errors
    /// [`Error::Errno`] when the server answers with an error.
    pub fn call<T>(&mut self, request: Request<T>) -> Result<T> {
        let ticket = self.submit(request)?;
        self.complete(ticket)
    }

    /// Sends a request, waiting for room first when the queue is full.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub fn submit<T>(&mut self, request: Request<T>) -> Result<Ticket<T>> {
        let ticket = self.post(request)?;
        self.queue.kick_if_wanted()?;
        Ok(ticket)
    }

    /// Makes a request available without telling the device.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub fn post<T>(&mut self, request: Request<T>) -> Result<Ticket<T>> {
        let unique = self.uniques.next();
        let bytes = request.message(unique, self.uid, self.gid, self.pid);
        let room = request.room.map_or(0, |room| room + HEADER_BYTES);
        loop {
            match self.put(&bytes, room, unique) {
                Err(Error::Full) if !self.pending.is_empty() => {
                    self.queue.kick_if_wanted()?;
                    self.wait(self.timeout)?;
                }
                Err(error) => return Err(error),
                Ok(_) => {
                    return Ok(Ticket {
                        unique,
                        answered: request.room.is_some(),
                        decode: request.decode,
                    });
                }
            }
        }
    }

    /// Waits for a request's reply, or for its return when it has none.
    ///
    /// # Errors
    /// [`Error::Errno`] when the server answers with an error.
    pub fn complete<T>(&mut self, ticket: Ticket<T>) -> Result<T> {
        let reply = self.reply(ticket.unique)?;
        let body = match (ticket.answered, reply.as_slice()) {
            (true, reply) => body(reply, ticket.unique)?,
            (false, []) => &[],
            (false, _) => return Err(Error::Protocol("a reply that nobody waits for".into())),
        };
        (ticket.decode)(body).ok_or_else(|| Error::Protocol(format!("{} bytes", body.len())))
    }

    /// Whether a request has been answered.
    ///
    /// # Errors
    /// When the device gives back what it was not given.
    pub fn is_done<T>(&mut self, ticket: &Ticket<T>) -> Result<bool> {
        self.drain()?;
        Ok(self.done.contains_key(&ticket.unique))
    }

    /// Sends any bytes as a request with room for `room` bytes. Returns what was written to it.
    ///
    /// # Errors
    /// When it is not given back.
    pub fn raw(&mut self, bytes: &[u8], room: usize) -> Result<Vec<u8>> {
        let key = self.uniques.next();
        self.put(bytes, room, key)?;
        self.queue.kick_if_wanted()?;
        self.reply(key)
    }

    /// Waits until something in flight is answered.
    ///
    /// # Errors
    /// When nothing is in time.
    pub fn wait(&mut self, timeout: Duration) -> Result<()> {
        if self.drain()? == 0 && !self.queue.wait(1, timeout)? {
            return Err(Error::Timeout(timeout));
        }
        self.drain()?;
        Ok(())
    }

    /// Forgets everything in flight. The queue must have been cleared.
    pub fn abandon(&mut self) {
        let pending: Vec<_> = self.pending.drain().collect();
        for (_, pending) in pending {
            self.release(&pending);
        }
        self.done.clear();
    }

    fn reply(&mut self, key: u64) -> Result<Vec<u8>> {
        let since = Instant::now();
        loop {
            self.drain()?;
            if let Some(reply) = self.done.remove(&key) {
                return Ok(reply);
            }
            let left = self.timeout.checked_sub(since.elapsed());
            let left = left.ok_or(Error::Timeout(self.timeout))?;
            self.queue.wait(1, left)?;
        }
    }

    /// Takes what has been answered; how many.
    fn drain(&mut self) -> Result<usize> {
        let mut count = 0;
        while let Some(used) = self.queue.take()? {
            let Some(pending) = self.pending.remove(&used.head) else {
                continue;
            };
            let room: usize = pending.writable.iter().map(bytes_of).sum();
            let len = usize::try_from(used.len).unwrap_or(usize::MAX);
            let mut reply = vec![0; len.min(room)];
            let mut rest = reply.as_mut_slice();
            for part in &pending.writable {
                let (now, later) = rest.split_at_mut(bytes_of(part).min(rest.len()));
                self.memory.read(part.address, now)?;
                rest = later;
            }
            self.release(&pending);
            if len > room {
                return Err(Error::Protocol(format!("{len} bytes written to {room}")));
            }
            self.done.insert(pending.unique, reply);
            count += 1;
        }
        Ok(count)
    }

    fn release(&self, pending: &Pending) {
        for part in pending.readable.iter().chain(&pending.writable) {
            self.memory.release(*part);
        }
    }

    /// Makes a request available.
    fn put(&mut self, bytes: &[u8], room: usize, unique: u64) -> Result<()> {
        let mut pending = Pending {
            unique,
            readable: Vec::new(),
            writable: Vec::new(),
        };
        let put = self.place(bytes, room, &mut pending).and_then(|()| {
            self.queue
                .add(&pending.readable, &pending.writable, self.indirect)
        });
        match put {
            Ok(head) => {
                self.pending.insert(head, pending);
                Ok(())
            }
            Err(error) => {
                self.release(&pending);
                Err(error)
            }
        }
    }

    /// Copies a request into guest memory, in parts.
    fn place(&self, bytes: &[u8], room: usize, pending: &mut Pending) -> Result<()> {
        let mut rest = bytes;
        for len in cut(bytes.len(), &self.cuts) {
            let (now, later) = rest.split_at(len);
            let part = self.memory.alloc(len)?;
            pending.readable.push(part);
            self.memory.write(part.address, now)?;
            rest = later;
        }
        for len in cut(room, &self.cuts) {
            pending.writable.push(self.memory.alloc(len)?);
        }
        Ok(())
    }
}

fn bytes_of(part: &Part) -> usize {
    usize::try_from(part.len).unwrap_or_default()
}

/// Lengths that make up `len`, as `cuts` has them.
fn cut(len: usize, cuts: &[usize]) -> Vec<usize> {
    let mut lens = Vec::new();
    let mut left = len;
    // Parts of no bytes alone would never make it up.
    let cuts = if cuts.iter().any(|cut| *cut > 0) {
        cuts
    } else {
        &[]
    };
    let mut wanted = cuts.iter().cycle();
    while left > 0 {
        let now = wanted.next().map_or(left, |wanted| left.min(*wanted));
        lens.push(now);
        left -= now;
    }
    lens
}

/// A reply's body, when its header is right.
///
/// # Errors
/// [`Error::Errno`] when it is an error, [`Error::Protocol`] when it is none.
pub fn body(reply: &[u8], unique: u64) -> Result<&[u8]> {
    let against = |what: &str| Err(Error::Protocol(what.into()));
    let Ok((header, body)) = OutHeader::read_from_prefix(reply) else {
        return against("a reply without a header");
    };
    if usize::try_from(header.len).ok() != Some(reply.len()) {
        return against("a reply of another length than was written");
    }
    if header.unique != unique {
        return against("a reply to another request");
    }
    match header.error {
        0 => Ok(body),
        error if body.is_empty() && (-ERRNO_MAX..0).contains(&error) => Err(Error::Errno(-error)),
        _ => against("an error that is none, or has a body"),
    }
}
