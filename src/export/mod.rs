//! Exports: datasets on sockets, which come and go while the store is open.
//!
//! Each has a thread that serves its socket ([`crate::transport::vhost_user::serve`]), one guest at
//! a time. Invariants:
//!
//! - What a kernel was told that it may keep stays right for as long as it is connected: who may
//!   write to a dataset is never joined by another, unless both were exported as shared.
//! - A dataset is in use for as long as it is exported, and not a moment longer: what was detached
//!   can be deleted or restored at once.
//! - What a guest's kernel knows of a dataset never meets another tree than the one it is of: see
//!   `restore`.
//! - Exports are made and ended one after the other, so that two requests for the same socket or
//!   dataset cannot both find it free.
//!
//! May import transport, server, fs and engine.

mod asked;
mod restore;
mod running;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use parking_lot::{Condvar, Mutex};

use crate::engine::{DatasetError, Store};
use crate::format::id::DatasetId;
use crate::metrics::Meter;
use crate::transport::vhost_user::{DeviceOptions, HandoverError, Socket, VhostUserError, Why};
pub(crate) use asked::absolute;
pub use asked::{Defaults, Endpoint, NewExport, name_of};
pub use running::{Left, serve_without_store};
use running::{Ready, Running};

/// What all exports have in common.
#[derive(Debug, Clone)]
pub struct Common {
    /// What the device is like.
    pub device: DeviceOptions,
    /// How datasets are exported.
    pub defaults: Defaults,
    /// The group whose members may connect too.
    pub group: Option<u32>,
    /// Below which directory sockets may be made while the daemon runs; `None` for nowhere.
    pub socket_dir: Option<PathBuf>,
}

/// An export, as it is listed.
#[derive(Debug, Clone)]
pub struct Exported {
    /// The dataset.
    pub dataset: DatasetId,
    /// Where a front-end connects.
    pub socket: String,
    /// The tag, if the daemon says it.
    pub tag: Option<String>,
    /// Whether changes are refused.
    pub read_only: bool,
    /// Whether others may change it meanwhile.
    pub shared: bool,
    /// Whether a front-end is connected.
    pub connected: bool,
    /// Whether its guest is refused everything until it mounts the dataset again.
    pub stale: bool,
    /// What its guests do.
    pub meter: Arc<Meter>,
}

/// Why an export is not made or ended. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is no such dataset, or it cannot be read.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// Something else is exported there.
    #[error("the socket {0} has another export: end that first")]
    Exists(String),
    /// Nothing is exported there.
    #[error("nothing is exported on {0}")]
    NotFound(String),
    /// A guest is there.
    #[error("a virtual machine is connected to {0}: end it, or its connection with --force")]
    Connected(String),
    /// A guest's kernel was told that nobody else writes.
    #[error(
        "'{dataset}' is exported on {socket} to a virtual machine that may take what it remembers for \
         what is there: a second one must not write to it, unless both are exported as shared"
    )]
    Alone {
        /// The dataset.
        dataset: String,
        /// Where it is exported.
        socket: String,
    },
    /// No socket can be made there.
    #[error("no socket can be made at {path} while the daemon runs: {reason}")]
    OutOfReach {
        /// Where.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// No socket can be made there, or the system refuses something else.
    #[error(transparent)]
    Device(#[from] VhostUserError),
    /// A guest that was served before is none that can be served so.
    #[error("the guest at {socket} cannot go on: {reason}")]
    CannotGoOn {
        /// Where it is connected.
        socket: String,
        /// Why.
        reason: String,
    },
    /// Another process keeps the guests.
    #[error(transparent)]
    Handover(#[from] HandoverError),
    /// A thread cannot be had.
    #[error("no thread for {socket}: {source}")]
    Thread {
        /// Where it was to be exported.
        socket: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The daemon ends.
    #[error("the daemon ends")]
    Ending,
}

/// All exports of a store.
pub struct Exports {
    store: Arc<Store>,
    common: Common,
    /// One change at a time: taken before the state.
    changing: Mutex<()>,
    state: Mutex<State>,
    /// Front-ends that are connected.
    sessions: Arc<AtomicUsize>,
    /// The end has come.
    over: Condvar,
}

#[derive(Default)]
struct State {
    all: Vec<Running>,
    /// What the configuration named when it was last read. Requests may have ended some of it.
    named: Vec<NewExport>,
    /// Threads of those that ended by themselves.
    ended: Vec<std::thread::JoinHandle<()>>,
    next: u64,
    ending: bool,
    /// It ends with guests that are gone on with elsewhere, or later.
    freezing: bool,
    /// There was nothing when it was to freeze.
    froze_none: bool,
    /// What was paused, by its number.
    paused: Vec<(u64, Left)>,
    /// What was frozen, by its number, and why.
    left: Vec<(u64, Why, Left)>,
    failed: Option<VhostUserError>,
}

impl Exports {
    /// None of a store, yet.
    #[must_use]
    pub fn new(store: Arc<Store>, common: Common) -> Arc<Exports> {
        Arc::new(Exports {
            store,
            common,
            changing: Mutex::new(()),
            state: Mutex::default(),
            sessions: Arc::default(),
            over: Condvar::new(),
        })
    }

    /// What is exported.
    #[must_use]
    pub fn list(&self) -> Vec<Exported> {
        let state = self.state.lock();
        state.all.iter().map(Running::describe).collect()
    }

    /// Whether all exports end or freeze: guests wait from here on.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.state.lock().ending
    }

    /// Whether nothing that was left by [`Exports::wait`] is to be gone on with as well: there was
    /// nothing, or a request has ended it meanwhile. Where exports end with their guests, it is the end
    /// when all have.
    #[must_use]
    pub fn goes_on_with_none(&self) -> bool {
        let state = self.state.lock();
        state.freezing && (state.froze_none || !self.common.device.exit_on_disconnect)
    }

    /// Says what the configuration names, where that is not what [`Exports::reload`] is for.
    pub fn set_named(&self, named: Vec<NewExport>) {
        self.state.lock().named = named;
    }

    /// What the configuration named when it was last read.
    #[must_use]
    pub fn named(&self) -> Vec<NewExport> {
        self.state.lock().named.clone()
    }

    /// Whether a configuration that names `other` has something else exported than the one that was
    /// last read. What requests have made may be named or not, and so may what they have ended.
    #[must_use]
    pub fn would_change(&self, other: &[NewExport]) -> bool {
        // Of some there may be no dataset any more.
        let dataset = |new: &NewExport| Some(self.store.find(&new.dataset).ok()?.id);
        let found: Vec<_> = other.iter().map(|new| (new, dataset(new))).collect();
        let state = self.state.lock();
        let is_known = |(new, dataset): &(&NewExport, Option<DatasetId>)| {
            let is_what = |one: &Running| dataset.is_some_and(|id| one.is_what(new, id));
            let mut all = state.all.iter();
            let is_served = all.any(|one| one.is_at(&new.endpoint) && is_what(one));
            is_served || state.named.iter().any(|own| own.is_same(new))
        };
        let is_gone = |own: &NewExport| {
            let is_named = other.iter().any(|new| new.endpoint.is_at(&own.endpoint));
            !is_named && state.all.iter().any(|one| one.is_at(&own.endpoint))
        };
        !found.iter().all(is_known) || state.named.iter().any(is_gone)
    }

    /// How another process calls what is exported.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let state = self.state.lock();
        let all = state.all.iter().map(|one| name_of(&one.new.endpoint));
        all.collect()
    }

    /// Exports what is left from before, or was asked for at start, on sockets that are there, with
    /// the options that were found for all of it together. `meanwhile` comes when all is ready,
    /// before any of it is served; nothing fails behind it but by an end that was asked for. What
    /// has no name and nobody has open is freed.
    ///
    /// # Errors
    /// When there is no such dataset; when a guest cannot go on; what `meanwhile` says: nothing is
    /// served then. When the system refuses.
    pub fn start(
        self: &Arc<Self>,
        all: &mut Vec<Left>,
        meanwhile: impl FnOnce() -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let _one = self.changing.lock();
        let mut ready: Vec<Ready> = Vec::new();
        for left in all.iter_mut() {
            let one = self.prepare(left, &ready, None)?;
            ready.push(one);
        }
        let is_open = |dataset, ino| ready.iter().any(|one| one.knows(dataset, ino));
        let freed = self.store.free_orphans_but(is_open);
        freed.map_err(|error| ExportError::Dataset(error.into()))?;
        let ready = all.iter().zip(ready);
        let ready = ready.map(|(left, one)| self.stand_by(left, one));
        let ready = ready.collect::<Result<Vec<_>, _>>()?;
        meanwhile()?;
        for (mut left, one) in all.drain(..).zip(ready) {
            left.standing.socket.keep();
            self.serve(left, one, None)?;
        }
        Ok(())
    }

    /// Has all exports freeze, once what guests have asked for is done: they are gone on with by who
    /// has them from [`Exports::wait`].
    pub fn freeze(&self) {
        let mut state = self.state.lock();
        if !state.ending {
            (state.ending, state.freezing) = (true, true);
            state.froze_none = state.all.is_empty();
            state.all.iter().for_each(Running::freeze);
        }
        drop(state);
        self.over.notify_all();
    }

    /// Exports one more, on a socket to be made. Asking again for the same succeeds. Returns what is
    /// there then, and whether it is new.
    ///
    /// # Errors
    /// When the socket is another export's or cannot be made; when there is no such dataset; when a
    /// guest would not see what another writes.
    pub fn attach(self: &Arc<Self>, new: NewExport) -> Result<(Exported, bool), ExportError> {
        self.attach_beside(new, false, false)
    }

    /// As [`Exports::attach`]. `configured`: the configuration names it; `together`: with others that
    /// write to the dataset.
    fn attach_beside(
        self: &Arc<Self>,
        mut new: NewExport,
        configured: bool,
        together: bool,
    ) -> Result<(Exported, bool), ExportError> {
        let _one = self.changing.lock();
        if let Endpoint::Path(path) = &new.endpoint {
            new.endpoint = Endpoint::Path(absolute(path));
        }
        let volume = self.store.volume(&new.dataset)?;
        let id = volume.dataset_id();
        if let Some(same) = self.find_same(&new, id, configured)? {
            return Ok((same, false));
        }
        let Endpoint::Path(path) = new.endpoint.clone() else {
            return Err(ExportError::NotFound(new.endpoint.to_string()));
        };
        self.check_reach(&path)?;
        let is_writer = !new.read_only && !self.common.defaults.options.read_only;
        let shared = self.meets(&new, id, is_writer && volume.is_writable())?;
        // In use from here on by who serves it.
        drop(volume);
        let options = self.common.defaults.options_of(&new, shared || together);
        let group = self.common.group;
        let mut left = Left {
            new,
            options,
            configured,
            standing: Socket::bind(&path, group)?.into(),
        };
        let ready = self.prepare(&mut left, &[], None)?;
        let ready = self.stand_by(&left, ready)?;
        Ok((self.serve(left, ready, None)?, true))
    }

    /// What is exported at the same place, when it is what is asked for.
    fn find_same(
        &self,
        new: &NewExport,
        id: DatasetId,
        configured: bool,
    ) -> Result<Option<Exported>, ExportError> {
        let mut state = self.state.lock();
        if state.ending {
            return Err(ExportError::Ending);
        }
        let Some(found) = state.all.iter_mut().find(|one| one.is_at(&new.endpoint)) else {
            return Ok(None);
        };
        if !found.is_what(new, id) {
            return Err(ExportError::Exists(new.endpoint.to_string()));
        }
        found.configured |= configured;
        Ok(Some(found.describe()))
    }

    /// Sees who else has the dataset: whether somebody writes to it, and that nobody is misled by a
    /// new one that writes.
    fn meets(&self, new: &NewExport, id: DatasetId, writes: bool) -> Result<bool, ExportError> {
        let state = self.state.lock();
        let mut others = state.all.iter().filter(|one| one.dataset == id);
        if writes && let Some(alone) = others.clone().find(|one| !one.options.shared) {
            return Err(ExportError::Alone {
                dataset: new.dataset.clone(),
                socket: alone.new.endpoint.to_string(),
            });
        }
        Ok(others.any(|one| !one.options.read_only))
    }

    /// A socket may be made where the confined daemon can make and remove one.
    fn check_reach(&self, path: &Path) -> Result<(), ExportError> {
        let refused = |reason: String| {
            let path = path.to_owned();
            Err(ExportError::OutOfReach { path, reason })
        };
        let Some(dir) = &self.common.socket_dir else {
            let reason = "start it with --socket-dir DIR, below which it may then make them";
            return refused(reason.to_owned());
        };
        let climbs = path.components().any(|part| part == Component::ParentDir);
        if climbs || !path.starts_with(absolute(dir)) || path.file_name().is_none() {
            return refused(format!(
                "it may make them below {} only (--socket-dir)",
                dir.display()
            ));
        }
        Ok(())
    }

    /// Ends an export, given by its socket. A guest that is connected is disconnected with `force`,
    /// which waits for what it has asked for.
    ///
    /// # Errors
    /// When there is none; when a guest is connected, without `force`.
    pub fn detach(&self, socket: &str, force: bool) -> Result<(), ExportError> {
        let _one = self.changing.lock();
        let endpoint = self.endpoint(socket);
        let mut state = self.state.lock();
        let mut all = state.all.iter_mut();
        let Some(found) = all.find(|one| one.is_at(&endpoint)) else {
            return Err(ExportError::NotFound(socket.to_owned()));
        };
        if !force && !found.stop.close_when_idle() {
            return Err(ExportError::Connected(socket.to_owned()));
        }
        found.trigger();
        // From here on it is this one that removes it.
        let (number, thread) = (found.number, found.thread.take());
        drop(state);
        if thread.is_some_and(|thread| thread.join().is_err()) {
            log::error!("{socket}: the thread that served it failed");
        }
        let gone = {
            let mut state = self.state.lock();
            let at = state.all.iter().position(|one| one.number == number);
            at.map(|at| state.all.swap_remove(at))
        };
        // With no lock: the last one lets go of the dataset.
        drop(gone);
        log::info!("{socket}: nothing is exported there any more");
        Ok(())
    }

    fn endpoint(&self, socket: &str) -> Endpoint {
        let fd = socket.strip_prefix("fd:").and_then(|fd| fd.parse().ok());
        fd.map_or_else(|| Endpoint::Path(absolute(Path::new(socket))), Endpoint::Fd)
    }

    /// Makes the exports that the configuration names what a new one says: those that it does not
    /// name any more go, new ones come. Those that were made by a request stay. What cannot be done
    /// is told, and does not stop the rest.
    pub fn reload(self: &Arc<Self>, wanted: &[NewExport]) -> Vec<ExportError> {
        let mut failed = Vec::new();
        let is_wanted = |one: &Running| {
            let mut all = wanted.iter();
            all.any(|new| one.is_at(&new.endpoint) && one.is_named_so(new))
        };
        let state = self.state.lock();
        let gone = state
            .all
            .iter()
            .filter(|one| one.configured && !is_wanted(one));
        let gone: Vec<_> = gone.map(|one| one.new.endpoint.to_string()).collect();
        drop(state);
        for socket in gone {
            failed.extend(self.detach(&socket, false).err());
        }
        for new in wanted {
            let mut others = wanted.iter().filter(|other| *other != new);
            let together = others.any(|other| other.dataset == new.dataset && !other.read_only);
            failed.extend(self.attach_beside(new.clone(), true, together).err());
        }
        // Not before: another process that takes over in between has the rest to do.
        self.set_named(wanted.to_vec());
        failed
    }

    /// Ends all exports: guests are disconnected once what they asked for is done.
    pub fn end(&self) {
        let mut state = self.state.lock();
        (state.ending, state.freezing) = (true, false);
        state.all.iter().for_each(Running::trigger);
        drop(state);
        self.over.notify_all();
    }

    /// Waits until the end has come and nobody is served any more. What is left to go on with, and why.
    ///
    /// # Errors
    /// When an export ended because the system refused something.
    pub fn wait(&self) -> Result<Vec<(Why, Left)>, VhostUserError> {
        let mut state = self.state.lock();
        while !state.ending {
            self.over.wait(&mut state);
        }
        drop(state);
        // Who is making or ending one is done with it.
        let _one = self.changing.lock();
        let mut state = self.state.lock();
        let mut all = std::mem::take(&mut state.all);
        let mut threads = std::mem::take(&mut state.ended);
        drop(state);
        threads.extend(all.iter_mut().filter_map(|one| one.thread.take()));
        for thread in threads {
            if thread.join().is_err() {
                log::error!("a thread that served an export failed");
            }
        }
        let datasets: HashMap<_, _> = all.iter().map(|one| (one.number, one.dataset)).collect();
        drop(all);
        let failed = self.state.lock().failed.take();
        match failed {
            Some(error) => Err(error),
            None => {
                let mut left = std::mem::take(&mut self.state.lock().left);
                left.sort_by_key(|(number, ..)| *number);
                let left = left.into_iter().map(|(number, why, mut left)| {
                    // Somebody may have renamed it: it goes on as what it is called now.
                    let id = datasets.get(&number);
                    let found = id.and_then(|id| self.store.find_by_id(*id).ok().flatten());
                    if let Some(found) = found {
                        left.new.dataset = found.name;
                    }
                    (why, left)
                });
                Ok(left.collect())
            }
        }
    }
}
