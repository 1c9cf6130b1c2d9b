//! That a queue is held up by nothing, whoever answers.

use parking_lot::{Condvar, Mutex};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::engine::SyncPoint;
use crate::server::{Error, Input as _};
use crate::transport::vhost_user::{Readable, Writable};

pub(super) const AVAILABLE: u64 = 0x1000;
pub(super) const USED: u64 = 0x2000;
pub(super) const HEADERS: u64 = 0x3000;
pub(super) const HEADER_BYTES: u64 = 40;
/// Who has waited so long was let go on by nobody.
pub(super) const NEVER: Duration = Duration::from_secs(10);

/// What a request asks for.
pub(super) fn opcode_of(mut request: Readable<'_>) -> Result<u32, Error> {
    let mut header = [0; 8];
    request.read_exact(&mut header).map_err(Error::Request)?;
    let [_, _, _, _, opcode @ ..] = header;
    Ok(u32::from_le_bytes(opcode))
}

/// Writes, and reads but the first, wait until attributes have been asked for.
#[derive(Default)]
struct Disk {
    /// Reads so far, and whether attributes have been asked for.
    state: Mutex<(usize, bool)>,
    asked: Condvar,
    stuck: Mutex<Vec<u32>>,
    full: bool,
}

impl Disk {
    fn wait(&self, opcode: u32) {
        let mut state = self.state.lock();
        let late = self
            .asked
            .wait_while_for(&mut state, |state| !state.1, NEVER);
        if late.timed_out() {
            self.stuck.lock().push(opcode);
        }
    }
}

impl Answer for Disk {
    fn handle(&self, request: Readable<'_>, _: Writable<'_>) -> Result<usize, Error> {
        match opcode_of(request)? {
            opcode::READ => {
                let mut state = self.state.lock();
                state.0 += 1;
                let first = state.0 == 1;
                drop(state);
                if first {
                    std::thread::sleep(Duration::from_millis(5));
                } else {
                    self.wait(opcode::READ);
                }
            }
            opcode::WRITE => self.wait(opcode::WRITE),
            _ => {
                self.state.lock().1 = true;
                self.asked.notify_all();
            }
        }
        Ok(0)
    }

    fn reset(&self) {}

    fn writes_may_wait(&self) -> bool {
        self.full
    }
}

/// A request that nobody asked for.
pub(super) fn chain() -> Chain {
    Chain {
        memory: Arc::new(Memory::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap()),
        table: 0,
        size: 1,
        head: 0,
    }
}

/// Has requests served that a guest made available at once, by a worker and a pool.
fn serve(requests: &[u32], answer: Arc<dyn Answer>) -> Arc<Work> {
    let memory = Memory::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap();
    let put = |bytes: &[u8], at: u64| memory.write_slice(bytes, GuestAddress(at)).unwrap();
    for (index, opcode) in (0u16..).zip(requests) {
        let header = HEADERS + u64::from(index) * HEADER_BYTES;
        put(&header.to_le_bytes(), u64::from(index) * 16);
        put(&40u32.to_le_bytes(), u64::from(index) * 16 + 8);
        put(&opcode.to_le_bytes(), header + 4);
        put(&index.to_le_bytes(), AVAILABLE + 4 + 2 * u64::from(index));
        put(&(index + 1).to_le_bytes(), AVAILABLE + 2);
    }
    let work = Arc::new(Work {
        answer,
        memory: GuestMemoryAtomic::new(memory.clone()),
        pool: Arc::new(Pool::new(4, || {})),
        strict: false,
        slow: Slow::default(),
        poll_max: Duration::ZERO,
        cpus: Cpus::default(),
        meter: Arc::default(),
    });
    let ring = Arc::new(Ring::new(1, work.memory.clone()).unwrap());
    assert!(ring.set_size(64) && ring.set_addresses(0, AVAILABLE, USED));
    ring.start(std::fs::File::open("/dev/null").unwrap(), &memory);
    ring.set_enabled(true);
    Worker::new(ring, work.clone()).process();
    work.pool.close();
    let used: u16 = memory.read_obj(GuestAddress(USED + 2)).unwrap();
    assert_eq!(usize::from(used), requests.len());
    let read = work.meter.read();
    let depths = &read.depths;
    assert_eq!((depths.count(), depths.sum), (1, requests.len() as u64));
    assert_eq!(read.waiting, 0);
    work
}

/// Which requests held up those behind them on their ring.
fn stuck(requests: &[u32], full: bool) -> Vec<u32> {
    let answer = Arc::new(Disk {
        full,
        ..Disk::default()
    });
    serve(requests, answer.clone());
    std::mem::take(&mut *answer.stuck.lock())
}

#[test]
fn a_queue_waits_for_one_slow_read_at_most() {
    let requests = [opcode::READ, opcode::READ, opcode::READ, opcode::GETATTR];
    assert_eq!(stuck(&requests, false), [0; 0]);
}

#[test]
fn a_write_that_has_to_wait_holds_nothing_up() {
    let requests = [opcode::WRITE, opcode::WRITE, opcode::GETATTR];
    assert_eq!(stuck(&requests, true), [0; 0]);
}

/// Makes all FSYNCs durable that were begun when one waits.
#[derive(Default)]
struct Log {
    state: Mutex<Logged>,
    waited: Condvar,
    /// Requests of this kind wait until an FSYNC was waited for, once there were so many.
    attributes_wait: usize,
}

#[derive(Default)]
struct Logged {
    begun: usize,
    /// What was waited for.
    waits: Vec<SyncPoint>,
    others: usize,
    in_vain: bool,
}

impl Answer for Log {
    fn handle(&self, request: Readable<'_>, _: Writable<'_>) -> Result<usize, Error> {
        let mut state = self.state.lock();
        assert_ne!(opcode_of(request)?, opcode::FSYNC);
        state.others += 1;
        if self.attributes_wait > 0 && state.others > self.attributes_wait {
            let none = |state: &mut Logged| state.waits.is_empty();
            let late = self.waited.wait_while_for(&mut state, none, NEVER);
            state.in_vain |= late.timed_out();
        }
        Ok(0)
    }

    fn begin(&self, _: Readable<'_>, _: Writable<'_>) -> Result<usize, Error> {
        let mut state = self.state.lock();
        state.begun += 1;
        Err(Error::Begun(SyncPoint::of(state.begun as u64)))
    }

    fn finish(&self, point: SyncPoint, _: Readable<'_>, _: Writable<'_>) -> Result<usize, Error> {
        let mut state = self.state.lock();
        state.waits.push(point);
        self.waited.notify_all();
        Ok(0)
    }

    fn reset(&self) {}
}

#[test]
fn one_waits_for_all_that_are_begun() {
    let log = Arc::new(Log::default());
    let work = serve(&[opcode::FSYNC; 6], log.clone());
    assert_eq!(log.state.lock().waits, [SyncPoint::of(6); 6]);
    let read = work.meter.read();
    assert_eq!(read.handed_over, 6);
    let times = read
        .times
        .iter()
        .map(|(opcode, times)| (*opcode, times.count()));
    assert!(times.eq([(opcode::FSYNC, 6)]));
}

#[test]
fn what_is_begun_does_not_wait_for_many_others() {
    let log = Arc::new(Log {
        attributes_wait: 40,
        ..Log::default()
    });
    let mut requests = vec![opcode::FSYNC];
    requests.resize(60, opcode::GETATTR);
    serve(&requests, log.clone());
    let state = log.state.lock();
    assert_eq!(state.waits.len(), 1);
    assert!(!state.in_vain, "it was waited for at the end only");
}
