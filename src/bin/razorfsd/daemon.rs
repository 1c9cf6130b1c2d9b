//! The store: opened, served, closed, and again, as guests come and go and processes take over.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use razorfs::config::{Config, Start};
use razorfs::control;
use razorfs::control::server::{Listeners, Running, Served};
use razorfs::control::socket::Listener;
use razorfs::control::tcp;
use razorfs::daemon::handover::{Asked, Requests};
use razorfs::daemon::open_when_free;
use razorfs::disk::dir::StoreDir;
use razorfs::engine::{Durability, OpenOptions, Store};
use razorfs::export::{Common, ExportError, Exports, Left, serve_without_store};
use razorfs::progress::{Progress, Watch};
use razorfs::schedule::{Schedule, Scheduler};
use razorfs::transport::vhost_user::{Frozen, Handover, Program, Stop, Why};
use signal_hook::iterator::Signals;

use crate::reload::Awaited;
use crate::setup::listen_for_commands;
use crate::signals::{Current, Followed, Live, follow_signals};
use crate::{Error, how, service};

/// How long after a failure to open the store the next attempt is made.
const AGAIN_PAUSE: Duration = Duration::from_millis(200);

/// How often it is said how far opening a store is.
const TELL_INTERVAL: Duration = Duration::from_secs(5);

/// What comes after serving a store, or nothing.
enum After {
    /// The daemon ends.
    Over,
    /// The store is to be let go until somebody needs it.
    Away,
    /// The store is needed.
    Again,
    /// Another process asks for the guests.
    HandOver(Asked),
}

/// Why a store is not served.
enum Stuck {
    /// It cannot be opened, or not by who is here; nothing has changed.
    Open(Error),
    /// The daemon has to end.
    Ended(Error),
}

impl After {
    fn is_over(&self) -> bool {
        matches!(self, After::Over)
    }
}

/// A process from which guests are taken over.
pub struct Taking {
    pub handover: Handover,
    /// Its configuration had something else exported.
    pub is_changed: bool,
}

/// The daemon, while the store is open and while it is not.
pub struct Daemon {
    pub config: Config,
    pub group: Option<u32>,
    /// What is exported, while none of it is served.
    pub all: Vec<Left>,
    /// The store's files, when they are open already.
    pub files: Option<StoreDir>,
    /// Where commands find it, when that is there already.
    pub control: Option<Listener>,
    pub tcp: Option<tcp::Listener>,
    /// Who the guests come from, until they are here.
    pub taking: Option<Taking>,
    /// When they were asked for.
    pub since: Instant,
    /// What this process runs.
    pub program: Program,
    /// Who waits for them to be served.
    pub awaited: Option<Awaited>,
    /// What signals are about.
    pub followed: Followed,
}

impl Daemon {
    /// Serves until the end: the store's guests, and while the store is another process's, front-ends.
    pub fn live(mut self, signals: Signals) -> Result<(), Error> {
        let following = follow_signals(signals, self.followed.clone())?;
        let store = self.config.store.display().to_string();
        let reporter = service::report(store, self.followed.clone())?;
        let ended = self.go_on();
        drop(reporter);
        following.end();
        ended
    }

    fn go_on(&mut self) -> Result<(), Error> {
        let mut has_store = self.config.start != Start::Incoming;
        // Whoever starts the daemon learns why the store does not open.
        let mut may_fail = true;
        loop {
            let after = match has_store {
                true => match self.serve_store(may_fail) {
                    Err(Stuck::Open(error)) if !may_fail => self.give_up(&*error),
                    Err(Stuck::Open(error) | Stuck::Ended(error)) => return Err(error),
                    Ok(after) => after,
                },
                false => self.serve_nothing()?,
            };
            may_fail = false;
            if self.followed.is_over() {
                return Ok(());
            }
            has_store = match after {
                After::Over => return Ok(()),
                After::Away => false,
                After::Again => true,
                After::HandOver(asked) => {
                    let process = asked.process();
                    let tcp = self.tcp.as_ref().map(tcp::Listener::as_fd);
                    match asked.give(&self.all, tcp) {
                        Ok(()) => {
                            log::info!("another razorfsd serves from here on");
                            process.into_iter().for_each(service::goes_on_in);
                            let all = self.all.drain(..);
                            all.for_each(|left| left.standing.socket.leave());
                            return Ok(());
                        }
                        Err(error) => log::error!("it goes on here: {error}"),
                    }
                    has_store
                }
            };
        }
    }

    fn sessions(&mut self) -> impl Iterator<Item = &mut Frozen> {
        let all = self.all.iter_mut();
        all.filter_map(|left| left.standing.frozen.as_mut())
    }

    /// Whether a guest waits for answers.
    fn is_running(&self) -> bool {
        let mut sessions = self.all.iter().filter_map(Left::frozen);
        sessions.any(Frozen::is_running)
    }

    /// The store cannot be opened, or what came here cannot go on with it. Who has just come is told so,
    /// as its guest can go on where it was; others wait, and it is tried again.
    fn give_up(&mut self, reason: &dyn std::fmt::Display) -> After {
        let reason = reason.to_string();
        log::error!("the store cannot be served now: {reason}");
        self.sessions().for_each(|frozen| frozen.give_up(&reason));
        std::thread::sleep(AGAIN_PAUSE);
        match self.is_running() {
            true => After::Again,
            false => After::Away,
        }
    }

    /// Opens the store, serves it until something changes, and closes it.
    fn serve_store(&mut self, mut may_fail: bool) -> Result<After, Stuck> {
        // In the place of what the sessions had, if they come from another host.
        self.sessions().for_each(Frozen::take_arrived);
        let path = self.config.store.clone();
        let files = match self.files.take() {
            Some(files) => files,
            None => {
                let files = open_when_free(&path, how(&self.config), || self.followed.is_over());
                files.map_err(|error| Stuck::Open(error.into()))?
            }
        };
        let open = OpenOptions {
            keep_orphans: self.all.iter().any(|left| left.frozen().is_some()),
            ..self.config.open.clone()
        };
        let progress = open.progress.clone();
        let watch = tell_progress(&path, &progress);
        let store = Store::open_files(&path, files, open);
        drop(watch);
        let store = store.map_err(|error| Stuck::Open(error.into()))?;
        report_recovery(&self.config, &store);
        loop {
            let served = self.serve_guests(&store);
            if served.as_ref().is_ok_and(After::is_over) && !self.followed.is_over() {
                service::stopping();
            }
            // Whatever went wrong with the device: the store is closed cleanly.
            let closed = self.close(&store);
            match (served, closed) {
                (Ok(after), Ok(())) => {
                    drop(store);
                    log::info!("closed {}", path.display());
                    self.sessions().for_each(Frozen::send);
                    return Ok(match after {
                        // Others have use of the store.
                        After::Away if self.is_running() => After::Again,
                        after => after,
                    });
                }
                // What the guests believe to be written may not be there: who opened the store anew
                // would hide that from them.
                (Ok(after), Err(error)) if !self.followed.is_over() && !after.is_over() => {
                    self.stay(after, &error.to_string());
                    // Guests are here now.
                    may_fail = false;
                }
                (Ok(_), Err(error)) => return Err(Stuck::Ended(error)),
                (Err(error), closed) => {
                    if let Err(closing) = closed {
                        log::error!("{closing}");
                    }
                    let goes_on = !may_fail && error.is::<ExportError>() && !self.all.is_empty();
                    return Err(match goes_on {
                        true => Stuck::Open(error),
                        false => Stuck::Ended(error),
                    });
                }
            }
        }
    }

    /// Closes the store. One that has failed cannot be, as something of it may be lost.
    fn close(&self, store: &Arc<Store>) -> Result<(), Error> {
        let path = self.config.store.display();
        let has_failed = !self.config.open.read_only && !store.is_writable();
        let goes_on = self.all.iter().any(|left| left.frozen().is_some());
        if has_failed && goes_on && !self.followed.is_over() {
            return Err(format!("{path} has failed: it is read-only").into());
        }
        let closed = store.close();
        closed.map_err(|error| format!("closing {path}: {error}").into())
    }

    /// Nobody else gets the guests: they stay with the store as it is.
    fn stay(&mut self, after: After, reason: &str) {
        log::error!("the guests stay here: {reason}");
        if let After::HandOver(asked) = after {
            asked.refuse(reason);
        }
        self.sessions().for_each(|frozen| frozen.stay(reason));
    }

    /// Follows front-ends' messages while there is no store.
    fn serve_nothing(&mut self) -> Result<After, Error> {
        log::info!("the store is another daemon's: waiting for a guest");
        let stop = Arc::new(Stop::new()?);
        self.followed.begin(Current::Nothing(Arc::clone(&stop)));
        service::ready("waiting for a guest: the store is another daemon's");
        let all = std::mem::take(&mut self.all);
        let left = serve_without_store(all, &self.config.device, &stop);
        self.followed.end();
        Ok(self.take_left(left?, None))
    }

    /// What comes next, by why each export was left, and who asks for the guests.
    fn take_left(&mut self, left: Vec<(Why, Left)>, asked: Option<Asked>) -> After {
        let any = |why| left.iter().any(|(found, _)| *found == why);
        let leaves = any(Why::Leaves) || any(Why::NeverRan);
        let is_over = left.is_empty() || left.iter().all(|(why, _)| *why == Why::Stopped);
        let left = left.into_iter().filter(|(why, _)| *why != Why::Stopped);
        self.all = left.map(|(_, left)| left).collect();
        match asked {
            _ if is_over => After::Over,
            _ if leaves => After::Away,
            Some(asked) => After::HandOver(asked),
            None => After::Again,
        }
    }

    /// Serves all exports of an open store until something changes.
    fn serve_guests(&mut self, store: &Arc<Store>) -> Result<After, Error> {
        if self.config.open.durability == Durability::Relaxed {
            log::warn!(
                "DURABILITY IS RELAXED: fsync and sync return before anything is on the disk. A \
                 power cut or a crash loses what the guest believes is safe"
            );
        }
        let common = Common {
            device: self.config.device.clone(),
            defaults: self.config.export_defaults,
            group: self.group,
            socket_dir: self.config.socket_dir.clone(),
        };
        let exports = Exports::new(Arc::clone(store), common);
        let begun = self.begin(store, &exports);
        if begun.is_err() {
            exports.end();
        }
        let left = exports.wait();
        // All end before the store is closed.
        if let Some(live) = self.followed.end() {
            self.config = live.config;
        }
        let (commands, requests) = begun?;
        drop(commands);
        let asked = requests.and_then(Requests::end);
        match (left?, asked) {
            (left, Some(asked)) if left.is_empty() && exports.goes_on_with_none() => {
                Ok(After::HandOver(asked))
            }
            (left, asked) => Ok(self.take_left(left, asked)),
        }
    }
}

impl Daemon {
    /// Begins to serve guests, and whoever else asks for something.
    fn begin(
        &mut self,
        store: &Arc<Store>,
        exports: &Arc<Exports>,
    ) -> Result<(Option<Running>, Option<Requests>), Error> {
        // Before anybody is served: who asks for what is not there is told at once.
        for left in &self.all {
            store.find(&left.new.dataset).map_err(ExportError::from)?;
        }
        let tcp = self
            .tcp
            .as_ref()
            .map(tcp::Listener::try_clone)
            .transpose()?;
        let scheduler = Scheduler::start(Arc::clone(store), Vec::new())?;
        let named = self.config.named();
        exports.set_named(named.clone());
        let (taking, since) = (&mut self.taking, self.since);
        let mut is_changed = false;
        exports.start(&mut self.all, || {
            // Until this returns, they are the other process's.
            if let Some(taking) = taking.take() {
                taking.handover.begin()?;
                is_changed = taking.is_changed;
                log::info!(
                    "the guests are here, after {} ms",
                    since.elapsed().as_millis()
                );
            }
            Ok(())
        })?;
        // No other process goes on with the guests from here on: whatever else cannot be had, they are
        // served without it.
        let config = &self.config;
        let path = config.store.display();
        let requests = Requests::listen(&config.store, Arc::clone(exports), self.program);
        let requests = requests
            .inspect_err(|error| log::warn!("no other razorfsd can take over: {error}"))
            .ok();
        let unix = match self.control.take() {
            Some(listener) => Some(listener),
            None => listen_for_commands(config).unwrap_or_else(|error| {
                log::error!("'razorfs' cannot reach this daemon: {error}");
                None
            }),
        };
        let control = Listeners { unix, tcp };
        if let Some(listener) = &control.unix {
            log::info!("commands for {path} are taken on {listener}");
        }
        if let Some(listener) = &control.tcp {
            log::info!("commands for {path} are taken on {listener}, with the token");
        }
        let served = Served::new(Arc::clone(store), Arc::clone(exports));
        let is_reachable = control.unix.is_some() || control.tcp.is_some();
        let commands = is_reachable.then(|| control::server::start(control, served));
        let commands = commands.transpose().unwrap_or_else(|error| {
            log::error!("no commands can be taken: {error}");
            None
        });
        scheduler.replace(schedules(config));
        if is_changed {
            // As far as that can be: guests go on.
            let failed = exports.reload(&named);
            failed.iter().for_each(|error| log::error!("{error}"));
        }
        let live = Live {
            config: config.clone(),
            store: Arc::clone(store),
            exports: Arc::clone(exports),
            scheduler,
        };
        self.followed.begin(Current::Store(Box::new(live)));
        service::ready(&service::status(&path.to_string(), exports));
        if let Some(awaited) = self.awaited.take() {
            awaited.serves();
        }
        Ok((commands, requests))
    }
}

/// Says how far opening is, when it takes long.
fn tell_progress(store: &Path, progress: &Progress) -> Watch {
    let store = store.display().to_string();
    Watch::start(progress, TELL_INTERVAL, TELL_INTERVAL, move |look| {
        log::info!("opening {store}: {look}");
    })
}

/// Says what opening found, when the store had not been closed.
fn report_recovery(config: &Config, opened: &Store) {
    let store = config.store.display();
    let report = opened.recovery_report();
    if let Some(below) = opened.file_system() {
        log::info!(
            "{store} lies on {}, {} MiB of {} MiB are free",
            below.kind,
            below.free_bytes >> 20,
            below.size_bytes >> 20
        );
    }
    for (copy, reason) in &report.superblock_damage {
        log::warn!("{store}: copy {copy} of the superblock is damaged: {reason}");
    }
    if let Some(damage) = &report.damage {
        log::error!(
            "{store}: {damage}. What lies before the damage is served, read-only; 'razorfs recover \
             --discard-damaged-log' goes on from it"
        );
    }
    let at = opened.last_written();
    let at = at.and_then(|at| jiff::Timestamp::new(at.sec, 0).ok());
    let at = at.map_or_else(|| "nobody knows when".to_owned(), |at| at.to_string());
    if report.was_clean() {
        log::info!("{store} had been closed, {at}: there was nothing to recover");
    } else {
        log::info!(
            "{store} had not been closed, its last checkpoint {at}: {} transactions applied, {} \
             dropped, {} bytes of torn log, {} orphans freed, in {:?}",
            report.applied,
            report.dropped,
            report.torn_bytes,
            opened.orphans_freed(),
            report.took
        );
    }
}

/// Snapshots to be taken, if they can be.
pub fn schedules(config: &Config) -> Vec<Schedule> {
    if config.open.read_only && !config.schedules.is_empty() {
        log::warn!("no scheduled snapshots are taken: the store is opened read-only");
        return Vec::new();
    }
    config.schedules.clone()
}
