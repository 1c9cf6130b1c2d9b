//! What a ring's thread sleeps for: kicks, and changes of the ring's state.
//!
//! A ring may have two threads, each with a listener. A kick wakes one, and one that is asleep, as
//! the kick is waited for with `EPOLLEXCLUSIVE`: who is busy is passed over (epoll_ctl(2)). A
//! change wakes both: its event is never read, but each time it is written to, each listener gets
//! an edge.

use std::io;
use std::os::fd::AsRawFd;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::event::EventConsumer;

use super::ring::Ring;

const WAKE: u64 = 0;
const KICK: u64 = 1;

/// What woke a thread.
pub(super) enum Heard {
    /// A kick or a change.
    Event,
    /// A signal, or a kick that somebody else has taken.
    Nothing,
    /// The kick is a descriptor that cannot be read as events are.
    NoEvent,
}

/// Waits for a ring's events.
pub(super) struct Listener {
    epoll: Epoll,
    /// The kick event that is waited for, and its number.
    watched: Option<(u64, EventConsumer)>,
}

impl Listener {
    /// One that hears of the ring's changes alone.
    ///
    /// # Errors
    /// When the system has no more descriptors.
    pub(super) fn new(ring: &Ring) -> io::Result<Listener> {
        let epoll = Epoll::new()?;
        let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
        epoll.ctl(
            ControlOperation::Add,
            ring.waker().as_raw_fd(),
            EpollEvent::new(events, WAKE),
        )?;
        Ok(Listener {
            epoll,
            watched: None,
        })
    }

    /// The number of the kick event that is waited for.
    pub(super) fn known(&self) -> Option<u64> {
        self.watched.as_ref().map(|(number, _)| *number)
    }

    /// Waits for a kick event too, when it waits for none.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub(super) fn watch(&mut self, number: u64, kick: EventConsumer) -> io::Result<()> {
        let events = EventSet::IN | EventSet::EXCLUSIVE;
        let event = EpollEvent::new(events, KICK);
        self.epoll
            .ctl(ControlOperation::Add, kick.as_raw_fd(), event)?;
        self.watched = Some((number, kick));
        Ok(())
    }

    /// Waits for kicks no more. A descriptor that is closed but still open elsewhere would stay.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn unwatch(&mut self) -> io::Result<()> {
        let Some((_, old)) = self.watched.take() else {
            return Ok(());
        };
        let none = EpollEvent::default();
        self.epoll
            .ctl(ControlOperation::Delete, old.as_raw_fd(), none)
    }

    /// Waits, and takes a kick off its descriptor.
    ///
    /// # Errors
    /// When it cannot be waited.
    pub(super) fn wait(&mut self) -> io::Result<Heard> {
        let mut events = [EpollEvent::default(); 2];
        let count = match self.epoll.wait(-1, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Heard::Nothing),
            Err(error) => return Err(error),
        };
        let mut heard = Heard::Nothing;
        for event in events.iter().take(count) {
            match &self.watched {
                Some((_, kick)) if event.data() == KICK => match kick.consume() {
                    Ok(()) => heard = Heard::Event,
                    Err(error) if is_passing(&error) => {}
                    // It would wake us for ever.
                    Err(_) => return Ok(Heard::NoEvent),
                },
                _ => heard = Heard::Event,
            }
        }
        Ok(heard)
    }
}

/// Somebody else was faster, or a signal was.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, WouldBlock};
    matches!(error.kind(), WouldBlock | Interrupted)
}
