//! That a queue is held up by nothing, whoever answers.

use parking_lot::{Condvar, Mutex};
use vm_memory::{Bytes, GuestAddress};

use super::*;
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

/// Which requests held up those behind them on their ring.
fn stuck(requests: &[u32], full: bool) -> Vec<u32> {
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
    let answer = Arc::new(Disk {
        full,
        ..Disk::default()
    });
    let work = Arc::new(Work {
        answer: answer.clone(),
        memory: GuestMemoryAtomic::new(memory.clone()),
        pool: Arc::new(Pool::new(4, || {})),
        strict: false,
        slow: Slow::default(),
        poll_max: Duration::ZERO,
        cpus: Cpus::default(),
        meter: Arc::default(),
    });
    let ring = Arc::new(Ring::new(1, work.memory.clone()).unwrap());
    assert!(ring.set_size(8) && ring.set_addresses(0, AVAILABLE, USED));
    ring.start(std::fs::File::open("/dev/null").unwrap(), &memory);
    ring.set_enabled(true);
    Worker::new(ring, work.clone()).process();
    work.pool.close();
    let used: u16 = memory.read_obj(GuestAddress(USED + 2)).unwrap();
    assert_eq!(usize::from(used), requests.len());
    let depths = work.meter.read().depths;
    assert_eq!((depths.count(), depths.sum), (1, requests.len() as u64));
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
