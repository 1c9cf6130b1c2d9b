//! One export, and the thread that serves it.

use std::sync::Arc;
use std::thread::JoinHandle;

use super::{Endpoint, ExportError, Exported, Exports, NewExport, absolute};
use crate::format::id::DatasetId;
use crate::fs::{Export, Options};
use crate::metrics::Meter;
use crate::server::Server;
use crate::transport::vhost_user::{Answer, Socket, Stop, VhostUserError, serve};

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
    meter: Arc<Meter>,
    /// What all exports of the dataset have in common.
    export: Arc<Export>,
    /// None when it was taken by who waits for its end.
    pub(super) thread: Option<JoinHandle<()>>,
}

impl Running {
    pub(super) fn is_at(&self, endpoint: &Endpoint) -> bool {
        match (&self.new.endpoint, endpoint) {
            (Endpoint::Path(own), Endpoint::Path(other)) => absolute(own) == absolute(other),
            (own, other) => own == other,
        }
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
            meter: Arc::clone(&self.meter),
        }
    }

    pub(super) fn trigger(&self) {
        if let Err(error) = self.stop.trigger() {
            log::error!("{}: it cannot be ended: {error}", self.new.endpoint);
        }
    }
}

impl Exports {
    /// Serves a dataset on a socket, in a thread. Only for who holds `changing`.
    pub(super) fn serve(
        self: &Arc<Self>,
        new: NewExport,
        options: Options,
        configured: bool,
        socket: impl FnOnce() -> Result<Socket, ExportError>,
    ) -> Result<Exported, ExportError> {
        let system = |what| move |source| VhostUserError::System { what, source };
        let volume = Arc::new(self.store.volume(&new.dataset)?);
        let (dataset, is_writable) = (volume.dataset_id(), volume.is_writable());
        if !options.read_only && !is_writable {
            log::warn!(
                "dataset '{}' cannot be changed: it is served read-only",
                new.dataset
            );
        }
        let options = Options {
            read_only: options.read_only || !is_writable,
            ..options
        };
        let known = {
            let state = self.state.lock();
            let mut all = state.all.iter();
            all.find(|one| one.dataset == dataset)
                .map(|one| Arc::clone(&one.export))
        };
        let export = known.unwrap_or_else(|| Arc::new(Export::new(volume)));
        let meter = Arc::<Meter>::default();
        let server = Server::new(export.kernel(options)).counting(&meter.refused);
        let answer: Arc<dyn Answer> = Arc::new(server);
        let stop = Arc::new(Stop::new().map_err(system("an event"))?);
        let socket = socket()?;
        let mut device = self.common.device.clone();
        device.tag = new.tag.clone().or(device.tag);
        device.meter = Arc::clone(&meter);
        let named = socket.to_string();
        log::info!("serving '{}' on {named}", new.dataset);
        let mut state = self.state.lock();
        if state.ending {
            return Err(ExportError::Ending);
        }
        let number = state.next;
        state.next += 1;
        let tag = device.tag.clone();
        let (all, theirs) = (Arc::clone(self), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("razorfs-socket".into())
            .spawn(move || {
                let served = serve(&answer, socket, &device, &theirs);
                drop(answer);
                all.ended(number, served);
            })
            .map_err(|source| ExportError::Thread {
                socket: named,
                source,
            })?;
        let running = Running {
            number,
            new,
            dataset,
            options,
            tag,
            configured,
            stop,
            meter,
            export,
            thread: Some(thread),
        };
        let described = running.describe();
        state.all.push(running);
        Ok(described)
    }

    /// The thread of an export is at its end.
    fn ended(&self, number: u64, served: Result<(), VhostUserError>) {
        let mut state = self.state.lock();
        let at = state.all.iter().position(|one| one.number == number);
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
        } else if by_itself && state.all.is_empty() {
            state.ending = true;
        }
        if state.ending {
            state.all.iter().for_each(Running::trigger);
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
