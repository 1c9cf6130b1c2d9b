//! One virtqueue: its place in guest memory, its events, and what is in flight on it.
//!
//! Invariants: `in_flight` counts the requests taken and not given back; a ring that is stopped
//! gives nothing out, and is quiet once `in_flight` is 0. A ring is broken from the first thing the
//! guest wrote that cannot be understood until it is started again.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{Condvar, Mutex};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

use super::VhostUserError;
use super::chain::Chain;
use super::memory::Memory;

/// Entries of a ring at most (VirtIO 1.3, 2.7).
pub(super) const SIZE_MAX: u16 = 32768;

struct State {
    queue: Queue,
    kick: Option<Arc<File>>,
    call: Option<Arc<File>>,
    error: Option<Arc<File>>,
    enabled: bool,
    started: bool,
    broken: bool,
    ended: bool,
    in_flight: u16,
}

/// A virtqueue.
pub(super) struct Ring {
    /// Its number: 0 is the high-priority queue.
    pub(super) index: usize,
    state: Mutex<State>,
    quiet: Condvar,
    /// Wakes the worker to look at the state anew.
    wake: EventFd,
}

/// What a worker is to do.
pub(super) enum Watch {
    /// Wait for this.
    Kick(Arc<File>),
    /// Wait until something changes.
    Nothing,
    /// The ring is no more.
    End,
}

/// What the guest has made available.
pub(super) enum Next {
    /// A request.
    Chain(Chain),
    /// None now.
    Empty,
    /// The ring is stopped or broken.
    Stopped,
}

impl Ring {
    pub(super) fn new(index: usize) -> Result<Ring, VhostUserError> {
        let other = |e: virtio_queue::Error| std::io::Error::other(e.to_string());
        let queue = Queue::new(SIZE_MAX)
            .map_err(other)
            .map_err(VhostUserError::system("a queue"))?;
        Ok(Ring {
            index,
            state: Mutex::new(State {
                queue,
                kick: None,
                call: None,
                error: None,
                enabled: false,
                started: false,
                broken: false,
                ended: false,
                in_flight: 0,
            }),
            quiet: Condvar::new(),
            wake: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
                .map_err(VhostUserError::system("an event"))?,
        })
    }

    // What the front-end sets up.

    pub(super) fn set_size(&self, size: u32) -> bool {
        u16::try_from(size).is_ok_and(|size| self.state.lock().queue.try_set_size(size).is_ok())
    }

    /// Guest addresses of descriptor table, available ring, used ring.
    pub(super) fn set_addresses(&self, table: u64, available: u64, used: u64) -> bool {
        let queue = &mut self.state.lock().queue;
        queue
            .try_set_desc_table_address(GuestAddress(table))
            .is_ok()
            && queue
                .try_set_avail_ring_address(GuestAddress(available))
                .is_ok()
            && queue.try_set_used_ring_address(GuestAddress(used)).is_ok()
    }

    pub(super) fn set_base(&self, base: u16) {
        self.state.lock().queue.set_next_avail(base);
    }

    pub(super) fn set_event_idx(&self, on: bool) {
        self.state.lock().queue.set_event_idx(on);
    }

    pub(super) fn set_enabled(&self, on: bool) {
        self.state.lock().enabled = on;
        self.wake();
    }

    pub(super) fn set_call(&self, file: Option<File>) {
        self.state.lock().call = file.map(Arc::new);
    }

    pub(super) fn set_error(&self, file: Option<File>) {
        self.state.lock().error = file.map(Arc::new);
    }

    /// Starts the ring: the guest kicks `kick` when it has made something available.
    pub(super) fn start(&self, kick: File, memory: &Memory) {
        let mut state = self.state.lock();
        state.kick = Some(Arc::new(kick));
        state.broken = false;
        state.started = true;
        state.queue.set_ready(true);
        if !state.queue.is_valid(memory) {
            self.mark_broken(&mut state, "it lies outside of the guest's memory");
        } else {
            match state.queue.used_idx(memory, Ordering::Acquire) {
                // The ring goes on where it was stopped; the guest's copy says where.
                Ok(used) => state.queue.set_next_used(used.0),
                Err(error) => self.mark_broken(&mut state, &error.to_string()),
            }
        }
        drop(state);
        self.wake();
    }

    /// Stops the ring, waits until everything in flight has been given back, and tells which
    /// entry comes next.
    pub(super) fn stop(&self) -> u16 {
        let mut state = self.state.lock();
        state.started = false;
        state.queue.set_ready(false);
        self.wake();
        while state.in_flight > 0 {
            self.quiet.wait(&mut state);
        }
        state.kick = None;
        state.call = None;
        state.broken = false;
        state.queue.next_avail()
    }

    /// Makes it as new. It is stopped.
    pub(super) fn reset(&self) {
        let mut state = self.state.lock();
        state.queue.reset();
        state.enabled = false;
    }

    /// Ends its worker. It is stopped.
    pub(super) fn end(&self) {
        self.state.lock().ended = true;
        self.wake();
    }

    fn wake(&self) {
        if let Err(error) = self.wake.write(1) {
            log::error!("queue {}: cannot wake its thread: {error}", self.index);
        }
    }

    // What the worker does.

    /// The event that wakes the worker.
    pub(super) fn waker(&self) -> &EventFd {
        &self.wake
    }

    /// What to wait for.
    pub(super) fn watch(&self) -> Watch {
        let state = self.state.lock();
        match &state.kick {
            _ if state.ended => Watch::End,
            Some(kick) if state.runs() => Watch::Kick(kick.clone()),
            _ => Watch::Nothing,
        }
    }

    /// Takes the next request.
    pub(super) fn next(&self, memory: &Arc<Memory>) -> Next {
        let mut state = self.state.lock();
        if !state.runs() {
            return Next::Stopped;
        }
        let available = match state.queue.avail_idx(memory.as_ref(), Ordering::Acquire) {
            Ok(index) => index.0,
            Err(error) => return self.refuse(&mut state, &error.to_string()),
        };
        if available == state.queue.next_avail() {
            return Next::Empty;
        }
        if state.in_flight >= state.queue.size() {
            return self.refuse(&mut state, "more requests in flight than it has entries");
        }
        let chain = match state.queue.iter(memory.clone()) {
            Ok(mut chains) => chains.next(),
            Err(error) => return self.refuse(&mut state, &error.to_string()),
        };
        match chain {
            Some(chain) => {
                state.in_flight = state.in_flight.saturating_add(1);
                Next::Chain(chain)
            }
            // There was one a moment ago: its entry cannot be read.
            None => self.refuse(
                &mut state,
                "an available entry outside of the guest's memory",
            ),
        }
    }

    /// Gives a request back with `written` bytes of reply; tells the guest, unless `later`.
    pub(super) fn give_back(&self, memory: &Memory, head: u16, written: u32, later: bool) {
        let mut state = self.state.lock();
        if !state.broken
            && let Err(error) = state.queue.add_used(memory, head, written)
        {
            self.mark_broken(&mut state, &error.to_string());
        }
        if !later {
            self.tell(&mut state, memory);
        }
        self.done(&mut state);
    }

    /// Drops a request that is no chain: the ring is broken.
    pub(super) fn give_up(&self, reason: &str) {
        let mut state = self.state.lock();
        self.mark_broken(&mut state, reason);
        self.done(&mut state);
    }

    /// Tells the guest of what was given back and not told.
    pub(super) fn notify(&self, memory: &Memory) {
        self.tell(&mut self.state.lock(), memory);
    }

    /// Asks for kicks, or not. True when requests came meanwhile.
    pub(super) fn want_kicks(&self, memory: &Memory, on: bool) -> bool {
        let mut state = self.state.lock();
        if !state.runs() {
            return false;
        }
        let result = if on {
            state.queue.enable_notification(memory)
        } else {
            state.queue.disable_notification(memory).map(|()| false)
        };
        result.unwrap_or_else(|error| {
            self.mark_broken(&mut state, &error.to_string());
            false
        })
    }

    /// Stops the ring for good: what the guest wrote cannot be understood.
    pub(super) fn fail(&self, reason: &str) {
        self.mark_broken(&mut self.state.lock(), reason);
    }

    fn refuse(&self, state: &mut State, reason: &str) -> Next {
        self.mark_broken(state, reason);
        Next::Stopped
    }

    fn mark_broken(&self, state: &mut State, reason: &str) {
        if state.broken {
            return;
        }
        state.broken = true;
        log::error!(
            "queue {} of the guest's device is broken and stopped until the guest resets it: \
             {reason}",
            self.index
        );
        if let Some(error) = &state.error {
            // Nobody may listen.
            let _ = error.as_ref().write(&1u64.to_ne_bytes());
        }
    }

    fn done(&self, state: &mut State) {
        state.in_flight = state.in_flight.saturating_sub(1);
        if state.in_flight == 0 {
            self.quiet.notify_all();
        }
    }

    fn tell(&self, state: &mut State, memory: &Memory) {
        if state.broken {
            return;
        }
        match state.queue.needs_notification(memory) {
            Ok(true) => {
                if let Some(call) = &state.call {
                    // It fails when the guest has not looked for 2^64 notifications, or is gone.
                    let _ = call.as_ref().write(&1u64.to_ne_bytes());
                }
            }
            Ok(false) => {}
            Err(error) => self.mark_broken(state, &error.to_string()),
        }
    }
}

impl State {
    fn runs(&self) -> bool {
        self.started && self.enabled && !self.broken
    }
}
