//! Which of a ring's two threads takes requests off it.
//!
//! Both wait for the same kick, which wakes one of them. One leads, and has the seat; who comes for
//! it meanwhile leaves word and waits again, since a leader looks at the ring once more before it
//! leaves, if there is word. So of a kick that was taken off its descriptor somebody always knows
//! who has not looked at the ring yet, and whoever gave the seat up had nothing left to look at.
//!
//! A leader may answer a request that waits for the disk itself, when the other thread is free to
//! lead: that saves handing it to a third. At most one of the two is away so, and the other stays
//! with the ring, so a kick always finds a thread that does not wait for the disk.

use crate::sync::Mutex;

struct State<S> {
    /// What the leader has; none while somebody leads.
    seat: Option<S>,
    /// Somebody came for the seat while it was taken.
    word: bool,
    /// Threads that lead, or will when they are kicked.
    present: usize,
}

/// A seat for one, and who is there to take it.
pub(super) struct Lead<S>(Mutex<State<S>>);

impl<S> Lead<S> {
    /// A seat that is free, and one thread.
    pub(super) fn new(seat: S) -> Lead<S> {
        Lead(Mutex::new(State {
            seat: Some(seat),
            word: false,
            present: 1,
        }))
    }

    /// Another thread is there.
    pub(super) fn join(&self) {
        let mut state = self.0.lock();
        state.present = state.present.saturating_add(1);
    }

    /// A thread is there no more. It does not lead.
    pub(super) fn part(&self) {
        let mut state = self.0.lock();
        state.present = state.present.saturating_sub(1);
    }

    /// Takes the seat; `None` when it is taken, and who has it looks at the ring again.
    pub(super) fn take(&self) -> Option<S> {
        let mut state = self.0.lock();
        let seat = state.seat.take();
        state.word |= seat.is_none();
        seat
    }

    /// Gives the seat up, by who saw nothing more, after asking for kicks. It stays with him when
    /// there is word: he has to look again.
    pub(super) fn leave(&self, seat: S) -> Option<S> {
        let mut state = self.0.lock();
        if std::mem::take(&mut state.word) {
            return Some(seat);
        }
        state.seat = Some(seat);
        None
    }

    /// Whether the other thread is there to lead.
    pub(super) fn has_other(&self) -> bool {
        self.0.lock().present > 1
    }

    /// Forgets what word there is, by the leader, who is about to look at the ring again.
    pub(super) fn hear(&self) {
        self.0.lock().word = false;
    }

    /// Gives the seat up, by who saw nothing more, after asking for kicks, and is about to wait.
    /// It stays with him when nobody could take it, or when there is word.
    pub(super) fn step_aside(&self, seat: S) -> Result<(), S> {
        let mut state = self.0.lock();
        if state.present <= 1 || state.word {
            return Err(seat);
        }
        state.seat = Some(seat);
        state.present = state.present.saturating_sub(1);
        Ok(())
    }

    /// Who stepped aside is back, and leads again unless the other does.
    pub(super) fn come_back(&self) -> Option<S> {
        let mut state = self.0.lock();
        state.present = state.present.saturating_add(1);
        // No word is left: he has taken no kick since.
        state.seat.take()
    }
}
