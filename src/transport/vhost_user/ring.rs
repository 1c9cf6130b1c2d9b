//! One virtqueue: its place in guest memory, its events, and what is in flight on it.
//!
//! Invariants: `in_flight` counts the requests taken and not given back; a ring that is stopped
//! gives nothing out, and is quiet once `in_flight` is 0. A ring is broken from the first thing the
//! guest wrote that cannot be understood until it is started again.
//!
//! Queue and events are vhost-user-backend's [`VringMutex`]; what is in flight, what is broken and
//! the error event, which that one cannot signal, are kept here. Lock order: the state, then the
//! vring, which nobody reaches otherwise.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use serde::{Deserialize, Serialize};
use vhost_user_backend::{VringMutex, VringState, VringT};
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic};
use vmm_sys_util::event::{EventConsumer, EventNotifier};
use vmm_sys_util::eventfd::EventFd;

use super::VhostUserError;
use super::chain::Chain;
use super::memory::Memory;

/// Entries of a ring at most (VirtIO 1.3, 2.7).
pub(super) const SIZE_MAX: u16 = 32768;

/// Guest memory that the front-end may replace.
type SharedMemory = GuestMemoryAtomic<Memory>;

struct State {
    vring: VringMutex<SharedMemory>,
    /// How often there was a new kick event.
    kicks: u64,
    error: Option<File>,
    started: bool,
    broken: bool,
    ended: bool,
    in_flight: u16,
}

/// A virtqueue.
pub(super) struct Ring {
    /// Its number: 0 is the high-priority queue.
    pub(super) index: usize,
    /// Looked at with the state locked only: what the ring was started in, or newer.
    memory: SharedMemory,
    state: Mutex<State>,
    quiet: Condvar,
    /// Wakes the worker to look at the state anew.
    wake: EventFd,
    /// How often that was.
    wakes: AtomicU64,
}

/// Looks whether the guest has made more available, with nothing locked.
pub(super) struct Look<'r> {
    ring: &'r Ring,
    memory: Arc<Memory>,
    /// Where the available index is.
    index: GuestAddress,
    /// What it is while there is nothing.
    next: u16,
    wakes: u64,
}

impl Look<'_> {
    /// Whether there is more: a hint, that [`Ring::next`] has the say about.
    pub(super) fn has_more(&self) -> bool {
        let found: Result<u16, _> = self.memory.load(self.index, Ordering::Relaxed);
        // What cannot be read is told by who takes the next request.
        found.map_or(true, |index| u16::from_le(index) != self.next)
    }

    /// Whether the ring's state has changed since.
    pub(super) fn is_stale(&self) -> bool {
        self.ring.wakes.load(Ordering::Acquire) != self.wakes
    }
}

/// A ring that was stopped and goes on elsewhere, or later.
#[derive(Debug)]
pub(super) struct FrozenRing {
    pub(super) place: RingPlace,
    pub(super) kick: Option<File>,
    pub(super) call: Option<File>,
    pub(super) error: Option<File>,
}

/// Where a ring lies in the guest's memory, and where it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RingPlace {
    pub(super) size: u16,
    /// Guest addresses.
    pub(super) table: u64,
    pub(super) available: u64,
    pub(super) used: u64,
    /// The available entry that comes next.
    pub(super) base: u16,
    pub(super) enabled: bool,
    /// It was started, and not given back since.
    pub(super) started: bool,
    /// The guest wrote something that cannot be understood.
    pub(super) broken: bool,
}

/// What a worker is to do.
pub(super) enum Watch {
    /// Wait for this: a kick event and its number.
    Kick(u64, EventConsumer),
    /// Wait for the kick event that is known.
    Same,
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
    pub(super) fn new(index: usize, memory: SharedMemory) -> Result<Ring, VhostUserError> {
        let other = |e: virtio_queue::Error| std::io::Error::other(e.to_string());
        let vring = VringMutex::new(memory.clone(), SIZE_MAX)
            .map_err(other)
            .map_err(VhostUserError::system("a queue"))?;
        Ok(Ring {
            index,
            memory,
            state: Mutex::new(State {
                vring,
                kicks: 0,
                error: None,
                started: false,
                broken: false,
                ended: false,
                in_flight: 0,
            }),
            quiet: Condvar::new(),
            wake: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
                .map_err(VhostUserError::system("an event"))?,
            wakes: AtomicU64::new(0),
        })
    }

    // What the front-end sets up.

    pub(super) fn set_size(&self, size: u32) -> bool {
        let state = self.state.lock();
        let mut vring = state.vring.get_mut();
        u16::try_from(size).is_ok_and(|size| vring.get_queue_mut().try_set_size(size).is_ok())
    }

    /// Guest addresses of descriptor table, available ring, used ring.
    pub(super) fn set_addresses(&self, table: u64, available: u64, used: u64) -> bool {
        let state = self.state.lock();
        state.vring.set_queue_info(table, available, used).is_ok()
    }

    pub(super) fn set_base(&self, base: u16) {
        self.state.lock().vring.set_queue_next_avail(base);
    }

    pub(super) fn set_event_idx(&self, on: bool) {
        self.state.lock().vring.set_queue_event_idx(on);
    }

    pub(super) fn set_enabled(&self, on: bool) {
        self.state.lock().vring.set_enabled(on);
        self.wake();
    }

    pub(super) fn set_call(&self, file: Option<File>) {
        self.state.lock().vring.set_call(file);
    }

    pub(super) fn set_error(&self, file: Option<File>) {
        self.state.lock().error = file;
    }

    /// Starts the ring: the guest kicks `kick` when it has made something available.
    pub(super) fn start(&self, kick: File, memory: &Memory) {
        // Whoever reads it must not be held up, whatever it is.
        let nonblocking = fcntl_getfl(&kick).and_then(|flags| {
            let flags = flags | OFlags::NONBLOCK;
            fcntl_setfl(&kick, flags)
        });
        let mut state = self.state.lock();
        state.kicks = state.kicks.wrapping_add(1);
        state.broken = false;
        state.started = true;
        state.vring.set_kick(Some(kick));
        state.vring.set_queue_ready(true);
        let valid = state.vring.get_ref().get_queue().is_valid(memory);
        if let Err(error) = nonblocking {
            self.mark_broken(&mut state, &format!("its kick descriptor: {error}"));
        } else if !valid {
            self.mark_broken(&mut state, "it lies outside of the guest's memory");
        } else {
            match state.vring.queue_used_idx() {
                // The ring goes on where it was stopped; the guest's copy says where.
                Ok(used) => state.vring.set_queue_next_used(used),
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
        state.vring.set_queue_ready(false);
        self.wake();
        while state.in_flight > 0 {
            self.quiet.wait(&mut state);
        }
        // Of what was given back the guest may not have been told yet, and after this it would never
        // be. One notification too many is none too few.
        let _ = state.vring.signal_used_queue();
        state.vring.set_kick(None);
        state.vring.set_call(None);
        state.broken = false;
        state.vring.queue_next_avail()
    }

    /// Stops the ring for who goes on with it: waits until everything in flight has been given back,
    /// and takes along what the front-end set up. Requests that come meanwhile stay where they are.
    ///
    /// # Errors
    /// When the system has no more descriptors; the ring is stopped all the same.
    pub(super) fn freeze(&self) -> std::io::Result<FrozenRing> {
        let mut state = self.state.lock();
        let started = std::mem::take(&mut state.started);
        self.wake();
        while state.in_flight > 0 {
            self.quiet.wait(&mut state);
        }
        let vring = state.vring.get_ref();
        let queue = vring.get_queue();
        // Who goes on asks for kicks again; one that comes before is not needed, as it looks first.
        let _ = vring.signal_used_queue();
        Ok(FrozenRing {
            place: RingPlace {
                size: queue.size(),
                table: queue.desc_table(),
                available: queue.avail_ring(),
                used: queue.used_ring(),
                base: queue.next_avail(),
                enabled: vring.is_enabled(),
                started,
                broken: state.broken,
            },
            kick: clone_of(vring.get_kick().as_ref(), EventConsumer::try_clone)?,
            call: clone_of(vring.get_call().as_ref(), EventNotifier::try_clone)?,
            error: state.error.as_ref().map(File::try_clone).transpose()?,
        })
    }

    /// Goes on with a frozen ring. False when it cannot be as it was: nothing is started then.
    pub(super) fn thaw(&self, frozen: FrozenRing, event_idx: bool, memory: &Memory) -> bool {
        let FrozenRing {
            place,
            kick,
            call,
            error,
        } = frozen;
        // What was never set up is as it is in a new ring.
        let is_placed = place.table != 0 || place.available != 0 || place.used != 0;
        if !self.set_size(place.size.into())
            || is_placed && !self.set_addresses(place.table, place.available, place.used)
        {
            return false;
        }
        self.set_base(place.base);
        self.set_event_idx(event_idx);
        self.set_call(call);
        self.set_error(error);
        match (place.started, kick) {
            (true, Some(kick)) => self.start(kick, memory),
            (true, None) => return false,
            (false, _) => {}
        }
        if place.broken {
            self.state.lock().broken = true;
        }
        self.set_enabled(place.enabled);
        true
    }

    /// Makes it as new. It is stopped.
    pub(super) fn reset(&self) {
        let state = self.state.lock();
        state.vring.get_mut().get_queue_mut().reset();
        state.vring.set_enabled(false);
    }

    /// Ends its worker. It is stopped.
    pub(super) fn end(&self) {
        self.state.lock().ended = true;
        self.wake();
    }

    fn wake(&self) {
        self.wakes.fetch_add(1, Ordering::Release);
        if let Err(error) = self.wake.write(1) {
            log::error!("queue {}: cannot wake its thread: {error}", self.index);
        }
    }

    // What the worker does.

    /// The event that wakes the worker.
    pub(super) fn waker(&self) -> &EventFd {
        &self.wake
    }

    /// What to wait for, by who knows the kick event with this number.
    pub(super) fn watch(&self, known: Option<u64>) -> Watch {
        let mut state = self.state.lock();
        if state.ended {
            return Watch::End;
        }
        let kick = {
            let vring = state.vring.get_ref();
            if !state.runs(&vring) {
                return Watch::Nothing;
            }
            if known == Some(state.kicks) {
                return Watch::Same;
            }
            vring.get_kick().as_ref().map(EventConsumer::try_clone)
        };
        match kick {
            Some(Ok(kick)) => Watch::Kick(state.kicks, kick),
            Some(Err(error)) => {
                self.mark_broken(&mut state, &format!("its kick descriptor: {error}"));
                Watch::Nothing
            }
            None => Watch::Nothing,
        }
    }

    /// Takes the next request.
    pub(super) fn next(&self) -> Next {
        let mut state = self.state.lock();
        let memory = self.memory.memory().into_inner();
        let taken = {
            let mut vring = state.vring.get_mut();
            if !state.runs(&vring) {
                return Next::Stopped;
            }
            take(&mut vring, state.in_flight, &memory)
        };
        match taken {
            Ok(Some(chain)) => {
                state.in_flight = state.in_flight.saturating_add(1);
                Next::Chain(chain)
            }
            Ok(None) => Next::Empty,
            Err(reason) => {
                self.mark_broken(&mut state, &reason);
                Next::Stopped
            }
        }
    }

    /// Gives a request back with `written` bytes of reply; tells the guest, unless `later`.
    pub(super) fn give_back(&self, head: u16, written: u32, later: bool) {
        let mut state = self.state.lock();
        self.with_queue(&mut state, |vring, memory| {
            vring.get_queue_mut().add_used(memory, head, written)?;
            if later { Ok(()) } else { tell(vring, memory) }
        });
        self.done(&mut state);
    }

    /// Drops a request that is no chain: the ring is broken.
    pub(super) fn give_up(&self, reason: &str) {
        let mut state = self.state.lock();
        self.mark_broken(&mut state, reason);
        self.done(&mut state);
    }

    /// Tells the guest of what was given back and not told.
    pub(super) fn notify(&self) {
        self.with_queue(&mut self.state.lock(), tell);
    }

    /// Asks for kicks, or not. True when requests came meanwhile.
    pub(super) fn want_kicks(&self, on: bool) -> bool {
        self.set_kicks(&mut self.state.lock(), on)
    }

    /// As [`Ring::want_kicks`].
    fn set_kicks(&self, state: &mut State, on: bool) -> bool {
        let mut came = false;
        self.with_queue(state, |vring, memory| {
            let queue = vring.get_queue_mut();
            if !queue.ready() {
                return Ok(());
            }
            if on {
                came = queue.enable_notification(memory)?;
                return Ok(());
            }
            queue.disable_notification(memory)
        });
        came
    }

    /// Whether one request is in flight, and no other is available; if so, kicks are asked for.
    pub(super) fn asks_one(&self) -> bool {
        let mut state = self.state.lock();
        if state.in_flight != 1 {
            return false;
        }
        let came = self.set_kicks(&mut state, true);
        if came {
            self.set_kicks(&mut state, false);
        }
        !came
    }

    /// Takes back that kicks were asked for, before one came; with event indices,
    /// [`Ring::want_kicks`] would leave the one that the next request passes.
    pub(super) fn hold_kicks(&self) {
        self.with_queue(&mut self.state.lock(), |vring, memory| {
            let queue = vring.get_queue_mut();
            if !queue.ready() {
                return Ok(());
            }
            if !queue.event_idx_enabled() {
                return queue.disable_notification(memory);
            }
            // Behind flags, index and elements (VirtIO 1.3, 2.7.8). What the driver makes available
            // next does not pass the entry before it.
            let at = 4 + 8 * u64::from(queue.size());
            let at = queue.used_ring().checked_add(at);
            let at = at.ok_or(virtio_queue::Error::AddressOverflow)?;
            let passed = queue.next_avail().wrapping_sub(1).to_le();
            let stored = memory.store(passed, GuestAddress(at), Ordering::Relaxed);
            stored.map_err(virtio_queue::Error::GuestMemory)
        });
    }

    /// A look at what the guest makes available; none when the ring does not run.
    pub(super) fn look(&self) -> Option<Look<'_>> {
        let wakes = self.wakes.load(Ordering::Acquire);
        let state = self.state.lock();
        let vring = state.vring.get_ref();
        let queue = vring.get_queue();
        // Behind the flags (VirtIO 1.3, 2.7.6).
        let index = queue.avail_ring().checked_add(2)?;
        state.runs(&vring).then(|| Look {
            ring: self,
            memory: self.memory.memory().into_inner(),
            index: GuestAddress(index),
            next: queue.next_avail(),
            wakes,
        })
    }

    /// Does something with the queue, unless the ring is broken; what fails breaks it.
    fn with_queue(
        &self,
        state: &mut State,
        act: impl FnOnce(&mut VringState<SharedMemory>, &Memory) -> Result<(), virtio_queue::Error>,
    ) {
        if state.broken {
            return;
        }
        let memory = self.memory.memory().into_inner();
        let done = act(&mut state.vring.get_mut(), &memory);
        if let Err(error) = done {
            self.mark_broken(state, &error.to_string());
        }
    }

    /// Stops the ring for good: what the guest wrote cannot be understood.
    pub(super) fn fail(&self, reason: &str) {
        self.mark_broken(&mut self.state.lock(), reason);
    }

    /// Whether it was started, and not given back since.
    pub(super) fn is_started(&self) -> bool {
        self.state.lock().started
    }

    /// Whether the guest wrote something that cannot be understood since the ring was started.
    pub(super) fn is_broken(&self) -> bool {
        self.state.lock().broken
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
            let _ = (&mut &*error).write(&1u64.to_ne_bytes());
        }
    }

    fn done(&self, state: &mut State) {
        state.in_flight = state.in_flight.saturating_sub(1);
        if state.in_flight == 0 {
            self.quiet.notify_all();
        }
    }
}

impl State {
    fn runs(&self, vring: &VringState<SharedMemory>) -> bool {
        self.started && !self.broken && vring.is_enabled()
    }
}

/// Another descriptor for the same.
fn clone_of<T: IntoRawFd>(
    event: Option<&T>,
    clone: impl FnOnce(&T) -> std::io::Result<T>,
) -> std::io::Result<Option<File>> {
    let cloned = event.map(clone).transpose()?;
    Ok(cloned.map(super::socket::into_file))
}

/// Tells the guest of what was given back, if it wants to be told.
fn tell(vring: &mut VringState<SharedMemory>, memory: &Memory) -> Result<(), virtio_queue::Error> {
    if vring.get_queue_mut().needs_notification(memory)? {
        // It fails when the guest has not looked for 2^64 notifications, or is gone.
        let _ = vring.signal_used_queue();
    }
    Ok(())
}

/// Takes the next request off a queue; why it cannot be understood.
fn take(
    vring: &mut VringState<SharedMemory>,
    in_flight: u16,
    memory: &Arc<Memory>,
) -> Result<Option<Chain>, String> {
    let queue = vring.get_queue_mut();
    let available = queue
        .avail_idx(memory.as_ref(), Ordering::Acquire)
        .map_err(|error| error.to_string())?;
    if available.0 == queue.next_avail() {
        return Ok(None);
    }
    if in_flight >= queue.size() {
        return Err("more requests in flight than it has entries".into());
    }
    let (table, size) = (queue.desc_table(), queue.size());
    let mut chains = queue
        .iter(memory.clone())
        .map_err(|error| error.to_string())?;
    // There was one a moment ago.
    let unreadable = || "an available entry outside of the guest's memory".to_owned();
    let head = chains.next().ok_or_else(unreadable)?.head_index();
    Ok(Some(Chain {
        memory: memory.clone(),
        table,
        size,
        head,
    }))
}
