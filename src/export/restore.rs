//! Going back to a snapshot while guests use the dataset.
//!
//! A kernel keeps names, attributes, content and bytes that it has not written yet, and nothing but
//! a new FUSE session makes it drop them. So its sessions are paused, with nothing in flight, nobody
//! uses the dataset while it becomes another, and where that is done they go on as stale: the same
//! connection, memory and rings, but each request is refused until the guest mounts again. Where it
//! is not done they go on as if nothing had been, with the dataset that never was closed.
//!
//! Lock order: `changing`, then the lock that keeps paths from being restored, then the state.

use std::sync::Arc;

use super::running::{Left, Ready, Running};
use super::{ExportError, Exports};
use crate::engine::EventKind;
use crate::format::id::DatasetId;
use crate::metrics::Meter;
use crate::server::state::made_stale;

/// An export between two servers.
struct Paused {
    number: u64,
    dataset: DatasetId,
    left: Left,
    meter: Arc<Meter>,
}

impl Exports {
    /// Makes a dataset what its snapshot is, though it is exported: see
    /// [`crate::engine::Store::restore`]. Its guests have to mount it again if it is done, and
    /// notice nothing but a pause if it is not.
    ///
    /// # Errors
    /// When there is no such snapshot; when somebody other than guests uses the dataset, or one of
    /// them is about to leave; when the store refuses; when a guest cannot go on, whose export has
    /// ended then.
    pub fn restore(self: &Arc<Self>, snapshot: &str) -> Result<(), ExportError> {
        let _one = self.changing.lock();
        let restoration = self.store.begin_restore(snapshot)?;
        let still = restoration.keep_still();
        let (guests, are_all) = self.pause(restoration.dataset_id());
        let (is_another, done) = match are_all {
            true => restoration.carry_out(),
            false => (false, Ok(())),
        };
        let went_on = self.go_on(guests, is_another);
        drop(still);
        done?;
        went_on?;
        match are_all {
            true => Ok(()),
            false => Err(ExportError::Ending),
        }
    }

    /// Stops serving a dataset, once what its guests have asked for is done. Those that go on, and
    /// whether no other still may: one that leaves with what it knows.
    fn pause(&self, dataset: DatasetId) -> (Vec<Paused>, bool) {
        let mut state = self.state.lock();
        let mut waited = Vec::new();
        for one in state.all.iter_mut().filter(|one| one.dataset == dataset) {
            one.paused = true;
            one.freeze();
            waited.push((one.number, Arc::clone(&one.meter), one.thread.take()));
        }
        drop(state);
        let mut all = Vec::new();
        for (number, meter, thread) in waited {
            if thread.is_some_and(|thread| thread.join().is_err()) {
                log::error!("a thread that served an export failed");
            }
            all.push((number, meter));
        }
        let mut state = self.state.lock();
        let mut guests = Vec::new();
        let mut gone = Vec::new();
        for (number, meter) in all {
            let at = state.paused.iter().position(|(id, _)| *id == number);
            if let Some(at) = at {
                let (_, left) = state.paused.swap_remove(at);
                guests.push(Paused {
                    number,
                    dataset,
                    left,
                    meter,
                });
            } else if !state.left.iter().any(|(id, ..)| *id == number) {
                // It ended, as it does with its guest where that is wanted.
                let at = state.all.iter().position(|one| one.number == number);
                gone.extend(at.map(|at| state.all.swap_remove(at)));
            }
        }
        for one in state.all.iter_mut().filter(|one| one.paused) {
            // In use no more.
            gone_from(one);
        }
        if !gone.is_empty() && state.all.is_empty() {
            state.ending = true;
            self.over.notify_all();
        }
        let are_all = !state.left.iter().any(|(number, ..)| {
            let mut all = state.all.iter();
            all.any(|one| one.number == *number && one.dataset == dataset)
        });
        drop(state);
        drop(gone);
        (guests, are_all)
    }

    /// Serves guests again that were paused, none before what all of them know is known here: what
    /// one removes may be open elsewhere. The first error is what is returned; whose guest cannot
    /// go on, that export ends.
    fn go_on(self: &Arc<Self>, guests: Vec<Paused>, is_another: bool) -> Result<(), ExportError> {
        let (mut left, mut ready) = (Vec::new(), Vec::new());
        let mut first = Ok(());
        for mut guest in guests {
            match self.prepare_paused(&mut guest, &ready, is_another) {
                Ok(one) => {
                    ready.push(one);
                    left.push(guest);
                }
                Err(error) => {
                    let socket = guest.left.new.endpoint.to_string();
                    first = first.and(self.gone(guest.number, &socket, error));
                }
            }
        }
        for (guest, ready) in left.into_iter().zip(ready) {
            let number = guest.number;
            let socket = guest.left.new.endpoint.to_string();
            let served = self.stand_by(&guest.left, ready);
            let served = served.and_then(|ready| self.serve(guest.left, ready, Some(number)));
            if let Err(error) = served {
                first = first.and(self.gone(number, &socket, error));
            }
        }
        first
    }

    fn prepare_paused(
        &self,
        guest: &mut Paused,
        others: &[Ready],
        is_another: bool,
    ) -> Result<Ready, ExportError> {
        let left = &mut guest.left;
        let socket = left.new.endpoint.to_string();
        if let (true, Some(frozen)) = (is_another, &mut left.standing.frozen) {
            let made = made_stale(frozen.mount());
            frozen.set_mount(made.map_err(|error| ExportError::CannotGoOn {
                socket: socket.clone(),
                reason: error.to_string(),
            })?);
        }
        // Somebody may have renamed it.
        if let Some(found) = self.store.find_by_id(guest.dataset).ok().flatten() {
            left.new.dataset = found.name;
        }
        let ready = self.prepare(left, others, Some(Arc::clone(&guest.meter)))?;
        if is_another && ready.server.is_stale() {
            let volume = ready.server.fs().volume();
            volume.note_with(EventKind::GuestStale, &socket);
            log::warn!("{socket}: the dataset was restored: its guest has to mount it again");
        }
        Ok(ready)
    }

    /// The export of a paused guest is no more.
    fn gone(&self, number: u64, socket: &str, error: ExportError) -> Result<(), ExportError> {
        log::error!("{socket}: its guest cannot go on: {error}");
        let mut state = self.state.lock();
        state.all.retain(|one| one.number != number);
        if state.all.is_empty() {
            state.ending = true;
            self.over.notify_all();
        }
        Err(error)
    }
}

/// Lets go of what a paused export has in use.
fn gone_from(one: &mut Running) {
    one.export = None;
    one.server = std::sync::Weak::new();
}
