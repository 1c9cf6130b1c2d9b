//! One export, and the thread that serves it.

use std::sync::mpsc;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use super::{Endpoint, ExportError, Exported, Exports, NewExport, name_of};
use crate::format::id::{DatasetId, Ino};
use crate::fs::{Export, Options};
use crate::metrics::Meter;
use crate::server::Server;
use crate::transport::vhost_user::{
    Absent, Answer, DeviceOptions, Frozen, Standing, Stop, VhostUserError, Why, serve,
};

/// An export that is served.
pub(super) struct Running {
    pub(super) number: u64,
    pub(super) new: NewExport,
    pub(super) dataset: DatasetId,
    pub(super) options: Options,
    pub(super) tag: Option<String>,
    /// The configuration names it.
    pub(super) configured: bool,
    pub(super) stop: Arc<Stop>,
    pub(super) meter: Arc<Meter>,
    /// What all exports of the dataset have in common; `None` while it is paused.
    pub(super) export: Option<Arc<Export>>,
    /// What answers its guest.
    pub(super) server: Weak<Server>,
    /// It is served again soon: see [`super::restore`].
    pub(super) paused: bool,
    /// None when it was taken by who waits for its end.
    pub(super) thread: Option<JoinHandle<()>>,
}

impl Running {
    pub(super) fn is_at(&self, endpoint: &Endpoint) -> bool {
        self.new.endpoint.is_at(endpoint)
    }

    /// Whether it is what is asked for: of the same dataset, whatever its name was then.
    pub(super) fn is_what(&self, new: &NewExport, dataset: DatasetId) -> bool {
        let own = NewExport {
            dataset: new.dataset.clone(),
            endpoint: new.endpoint.clone(),
            ..self.new.clone()
        };
        self.dataset == dataset && own == *new
    }

    /// Whether it was asked for in the same words.
    pub(super) fn is_named_so(&self, new: &NewExport) -> bool {
        self.new.dataset == new.dataset && self.is_what(new, self.dataset)
    }

    pub(super) fn describe(&self) -> Exported {
        Exported {
            dataset: self.dataset,
            socket: self.new.endpoint.to_string(),
            tag: self.tag.clone(),
            read_only: self.options.read_only,
            shared: self.options.shared,
            connected: self.stop.is_serving(),
            stale: self
                .server
                .upgrade()
                .is_some_and(|server| server.is_stale()),
            meter: Arc::clone(&self.meter),
        }
    }

    pub(super) fn freeze(&self) {
        if let Err(error) = self.stop.freeze() {
            log::error!("{}: it cannot be frozen: {error}", self.new.endpoint);
        }
    }

    pub(super) fn trigger(&self) {
        if let Err(error) = self.stop.trigger() {
            log::error!("{}: it cannot be ended: {error}", self.new.endpoint);
        }
    }
}

/// An export that is not served: before it is, or between two openings of the store.
pub struct Left {
    /// What was asked for.
    pub new: NewExport,
    /// How it is exported.
    pub options: Options,
    /// The configuration names it.
    pub configured: bool,
    /// Its socket, and the session to go on with.
    pub standing: Standing,
}

impl Left {
    /// How two processes call it.
    #[must_use]
    pub fn name(&self) -> String {
        name_of(&self.new.endpoint)
    }

    /// Serves it, until something changes: what is left of it then, and why.
    fn serve(
        self,
        answer: &Arc<dyn Answer>,
        device: &DeviceOptions,
        stop: &Stop,
    ) -> Result<(Why, Left), VhostUserError> {
        let (standing, why) = serve(answer, self.standing, device, stop)?;
        Ok((why, Left { standing, ..self }))
    }

    /// The session.
    #[must_use]
    pub fn frozen(&self) -> Option<&Frozen> {
        self.standing.frozen.as_ref()
    }
}

/// What serves an export.
pub(super) struct Ready {
    pub(super) dataset: DatasetId,
    pub(super) export: Arc<Export>,
    pub(super) server: Arc<Server>,
    meter: Arc<Meter>,
}

impl Ready {
    /// Whether the guest knows an inode of a dataset.
    pub(super) fn knows(&self, dataset: DatasetId, ino: Ino) -> bool {
        self.dataset == dataset && self.server.fs().knows(ino)
    }
}

/// A thread that serves an export once it is told to. Dropped before, it ends.
pub(super) struct StandBy {
    dataset: DatasetId,
    export: Arc<Export>,
    server: Weak<Server>,
    meter: Arc<Meter>,
    tag: Option<String>,
    stop: Arc<Stop>,
    begin: Option<mpsc::Sender<(u64, Left)>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for StandBy {
    fn drop(&mut self) {
        self.begin = None;
        // It has the dataset in use until then.
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            log::error!("a thread that was to serve an export failed");
        }
    }
}

impl Exports {
    /// What it takes to serve an export, whose guest goes on where it was. Only for who holds
    /// `changing`. `others`: those that are about to be served. `meter`: where its guest was counted
    /// before, if it was.
    pub(super) fn prepare(
        &self,
        left: &mut Left,
        others: &[Ready],
        meter: Option<Arc<Meter>>,
    ) -> Result<Ready, ExportError> {
        let volume = Arc::new(self.store.volume(&left.new.dataset)?);
        // Not whether a write has failed: what a guest was told about the export stays so.
        let (dataset, is_writable) = (volume.dataset_id(), volume.is_for_changes());
        if !left.options.read_only && !is_writable {
            log::warn!(
                "dataset '{}' cannot be changed: it is served read-only",
                left.new.dataset
            );
        }
        left.options.read_only |= !is_writable;
        let known = {
            let state = self.state.lock();
            let running = state.all.iter();
            let running = running.filter_map(|one| Some((one.dataset, one.export.as_ref()?)));
            let ready = others.iter().map(|one| (one.dataset, &one.export));
            let mut all = running.chain(ready);
            all.find(|(id, _)| *id == dataset)
                .map(|(_, export)| Arc::clone(export))
        };
        let export = known.unwrap_or_else(|| Arc::new(Export::new(volume)));
        let meter = meter.unwrap_or_default();
        let server = Server::new(export.kernel(left.options)).counting(&meter.refused);
        if let Some(frozen) = &left.standing.frozen {
            let fits = frozen.check_fits(&self.common.device);
            let restored = fits.and_then(|()| match frozen.mount() {
                [] => Ok(()),
                mount => server.restore(mount).map_err(|error| error.to_string()),
            });
            restored.map_err(|reason| ExportError::CannotGoOn {
                socket: left.new.endpoint.to_string(),
                reason,
            })?;
        }
        Ok(Ready {
            dataset,
            export,
            server: Arc::new(server),
            meter,
        })
    }

    /// Starts the thread that is to serve an export. Only for who holds `changing`.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn stand_by(
        self: &Arc<Self>,
        left: &Left,
        ready: Ready,
    ) -> Result<StandBy, ExportError> {
        let system = |what| move |source| VhostUserError::System { what, source };
        let Ready {
            dataset,
            export,
            server,
            meter,
        } = ready;
        let known = Arc::downgrade(&server);
        let answer: Arc<dyn Answer> = server;
        let stop = Stop::beside(&self.sessions).map_err(system("an event"))?;
        let stop = Arc::new(stop);
        let mut device = self.common.device.clone();
        device.tag = left.new.tag.clone().or(device.tag);
        device.meter = Arc::clone(&meter);
        let tag = device.tag.clone();
        let (all, theirs) = (Arc::clone(self), Arc::clone(&stop));
        let (begin, begun) = mpsc::channel::<(u64, Left)>();
        let thread = std::thread::Builder::new()
            .name("razorfs-socket".into())
            .spawn(move || {
                // It is not to begin after all.
                let Ok((number, left)) = begun.recv() else {
                    return;
                };
                let served = left.serve(&answer, &device, &theirs);
                drop(answer);
                all.ended(number, served);
            })
            .map_err(|source| ExportError::Thread {
                socket: left.standing.socket.to_string(),
                source,
            })?;
        Ok(StandBy {
            dataset,
            export,
            server: known,
            meter,
            tag,
            stop,
            begin: Some(begin),
            thread: Some(thread),
        })
    }

    /// Serves an export, in the place of one that was paused if there is one. Only for who holds
    /// `changing`.
    ///
    /// # Errors
    /// [`ExportError::Ending`], and nothing else: guests may have no other process to go to.
    pub(super) fn serve(
        &self,
        left: Left,
        mut ready: StandBy,
        paused: Option<u64>,
    ) -> Result<Exported, ExportError> {
        let mut state = self.state.lock();
        if state.ending && !state.freezing {
            return Err(ExportError::Ending);
        }
        let number = state.next;
        state.next += 1;
        let running = Running {
            number,
            new: left.new.clone(),
            dataset: ready.dataset,
            options: left.options,
            tag: ready.tag.take(),
            configured: left.configured,
            stop: Arc::clone(&ready.stop),
            meter: Arc::clone(&ready.meter),
            export: Some(Arc::clone(&ready.export)),
            server: Weak::clone(&ready.server),
            paused: false,
            thread: ready.thread.take(),
        };
        if state.ending {
            // Another that has just begun is frozen already, and all are.
            running.freeze();
        }
        let described = running.describe();
        state.all.retain(|one| Some(one.number) != paused);
        state.all.push(running);
        log::info!("serving '{}' on {}", left.new.dataset, left.standing.socket);
        // It waits for that, as nothing before it can fail.
        if let Some(begin) = ready.begin.take() {
            let _ = begin.send((number, left));
        }
        Ok(described)
    }

    /// The thread of an export is at its end.
    fn ended(&self, number: u64, served: Result<(Why, Left), VhostUserError>) {
        let mut state = self.state.lock();
        let is_paused = |one: &Running| one.number == number && one.paused;
        let served = match served {
            Ok((Why::Frozen, left)) if state.all.iter().any(is_paused) => {
                // Who waits for its end goes on with it, whatever else happens meanwhile.
                state.paused.push((number, left));
                return;
            }
            Ok((why, left)) if why != Why::Stopped => {
                // The others too: the store is closed.
                if !state.ending {
                    (state.ending, state.freezing) = (true, true);
                    state.all.iter().for_each(Running::freeze);
                }
                state.left.push((number, why, left));
                self.over.notify_all();
                return;
            }
            served => served,
        };
        let at = state.all.iter().position(|one| one.number == number);
        // Who connects now is to learn that nobody serves it.
        let served = served.map(drop);
        let gone = match at {
            // Else somebody waits for it, and removes it.
            Some(at) if state.all.get(at).is_some_and(|one| one.thread.is_some()) => {
                Some(state.all.swap_remove(at))
            }
            _ => None,
        };
        let by_itself = gone.is_some() && !state.ending;
        if let Err(error) = served {
            // All or none: who started the daemon finds out, and starts it anew.
            state.failed.get_or_insert(error);
            state.ending = true;
            state.all.iter().for_each(Running::trigger);
        } else if by_itself && state.all.is_empty() {
            state.ending = true;
        }
        if state.ending {
            self.over.notify_all();
        }
        let mut gone = gone;
        state
            .ended
            .extend(gone.as_mut().and_then(|one| one.thread.take()));
        drop(state);
        drop(gone);
    }
}

/// Follows front-ends' messages while there is no store, until one of them says that something
/// changes, or `is_over`. What is left then, and why.
///
/// # Errors
/// When the system refuses something.
pub fn serve_without_store(
    all: Vec<Left>,
    device: &DeviceOptions,
    stop: &Stop,
) -> Result<Vec<(Why, Left)>, VhostUserError> {
    let served: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = all
            .into_iter()
            .map(|left| {
                let mut device = device.clone();
                device.tag = left.new.tag.clone().or(device.tag);
                scope.spawn(move || {
                    let answer: Arc<dyn Answer> = Arc::<Absent>::default();
                    if let Some(frozen) = left.frozen() {
                        // It only keeps the bytes.
                        let _ = answer.restore(frozen.mount());
                    }
                    let served = left.serve(&answer, &device, stop);
                    if !matches!(served, Ok((Why::Stopped, _))) {
                        // It fails when there have been 2^64 of them.
                        let _ = stop.freeze();
                    }
                    served
                })
            })
            .collect();
        let ended = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        ended.collect()
    });
    let failed = || VhostUserError::System {
        what: "a thread",
        source: std::io::Error::other("it failed"),
    };
    let served = served.into_iter().map(|ended| ended.map_err(|_| failed())?);
    served.collect()
}
