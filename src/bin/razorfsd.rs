//! razorfsd: serves a store to virtual machines as a vhost-user virtiofs device.
//!
//! Exit status: 0 after a clean end, 1 when something failed, 2 for a wrong command line; with
//! --check-config 1 when anything is wrong.
#![allow(unsafe_code)] // setrlimit(2) has no safe form in std.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use log::LevelFilter;
use parking_lot::Mutex;
use razorfs::config::{
    CAPABILITIES, Command, Config, ConfigError, Control, Endpoint, Start, command_line, staleness,
};
use razorfs::control;
use razorfs::control::server::{Listeners, Running, Served};
use razorfs::control::socket::{Listener, default_path};
use razorfs::control::tcp;
use razorfs::daemon::handover::{self, Asked, Requests};
use razorfs::daemon::open_when_free;
use razorfs::disk::dir::{DiskError, OpenDir, SUPERBLOCK_FILE, StoreDir, open_store};
use razorfs::engine::{Durability, OpenOptions, Store};
use razorfs::export::{Common, ExportError, Exports, Left, name_of, serve_without_store};
use razorfs::manual;
use razorfs::sandbox::{self, Reach};
use razorfs::schedule::{Schedule, Scheduler};
use razorfs::transport::vhost_user::{Frozen, Handover, Socket, Standing, Stop, Why, group_id};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// How long after a failure to open the store the next attempt is made.
const AGAIN_PAUSE: Duration = Duration::from_millis(200);

type Error = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    if let Some(done) = manual::generate(command_line, "8") {
        return done;
    }
    let config = match Command::parse(std::env::args_os()) {
        Ok(Command::Serve(config)) => config,
        Ok(Command::PrintCapabilities) => return tell(&format!("{CAPABILITIES}\n")),
        Ok(Command::Check { config, json }) => {
            return tell(&match json {
                true => format!("{:#}\n", config.as_json()),
                false => config.as_text(),
            });
        }
        Err(error) => return refuse(error),
    };
    match start_logging(&config).and_then(|()| run(&config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            if config.syslog || config.log_level == LevelFilter::Off {
                eprintln!("razorfsd: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Prints a result.
fn tell(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Says what is wrong with flags or configuration file.
fn refuse(error: ConfigError) -> ExitCode {
    let checks = std::env::args_os().any(|arg| arg == "--check-config");
    match error {
        // Help and the version are among these.
        ConfigError::Usage(error) if !checks || !error.use_stderr() => error.exit(),
        error => eprintln!("razorfsd: {error}"),
    }
    ExitCode::from(if checks { 1 } else { 2 })
}

fn run(config: &Config) -> Result<(), Error> {
    abort_on_panic();
    // From here on they wait until somebody looks for them.
    let signals = signals()?;
    for note in &config.notes {
        log::info!("{note}");
    }
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    if let Some(max) = config.descriptors_max {
        limit_descriptors(max)?;
    }
    let unusable = config.device.cpus.unusable();
    let unusable = unusable.map_err(|error| format!("--cpu-affinity: {error}"))?;
    if let Some(cpu) = unusable.first() {
        return Err(format!(
            "--cpu-affinity: CPU {cpu} does not exist, or this process may not use it"
        )
        .into());
    }
    let group = config.group.as_deref().map(group_id).transpose()?;
    let (mut files, mut taking) = (None, None);
    match config.start {
        Start::Fresh => files = Some(open_store(&config.store, how(config))?),
        // It has to be one, for the sockets' sake too.
        Start::Incoming => check_is_store(&config.store)?,
        Start::TakeOver => taking = Some(ask_for_guests(&config.store)?),
    }
    // The first: who finds the daemon by another socket finds it by this one.
    let control = match config.start {
        Start::Fresh => listen_for_commands(config)?,
        Start::Incoming | Start::TakeOver => None,
    };
    let tcp = config.control_tcp.as_ref();
    let tcp = tcp.map(tcp::Listener::bind).transpose()?;
    let sockets = match taking {
        None => sockets(config, group)?,
        Some(_) => Vec::new(),
    };
    // Before there is a second thread, and before anything in the store is believed.
    confine(config)?;
    let since = Instant::now();
    let standings = match &mut taking {
        None => sockets.into_iter().map(Standing::from).collect(),
        Some(handover) => {
            let exports = config.exports.iter();
            let names: Vec<_> = exports.map(|each| name_of(&each.new.endpoint)).collect();
            handover.take(&names)?
        }
    };
    let all = config.exports.iter().zip(standings);
    let all = all.map(|(export, standing)| Left {
        new: export.new.clone(),
        options: export.options,
        configured: true,
        standing,
    });
    let daemon = Daemon {
        all: all.collect(),
        config: config.clone(),
        group,
        files,
        control,
        tcp,
        taking,
        since,
        followed: Followed::default(),
    };
    daemon.live(signals)
}

fn how(config: &Config) -> OpenDir {
    OpenDir {
        read_only: config.open.read_only,
        allow_volatile: config.open.allow_volatile,
    }
}

fn check_is_store(store: &Path) -> Result<(), Error> {
    match store.join(SUPERBLOCK_FILE).try_exists()? {
        true => Ok(()),
        false => Err(DiskError::NotAStore(store.to_owned()).into()),
    }
}

fn ask_for_guests(store: &Path) -> Result<Handover, Error> {
    let asked = handover::ask(store);
    asked.map_err(|error| {
        let path = handover::path_of(store);
        let hint = "without a daemon there, start without --take-over";
        format!("no razorfsd at {}: {error} ({hint})", path.display()).into()
    })
}

/// What comes after serving a store, or nothing.
enum After {
    /// The daemon ends.
    Over,
    /// The store is to be let go until somebody needs it.
    Away,
    /// The store is needed.
    Again,
    /// Another process asks for the guests, by these names.
    HandOver(Asked),
}

/// The daemon, while the store is open and while it is not.
struct Daemon {
    config: Config,
    group: Option<u32>,
    /// What is exported, while none of it is served.
    all: Vec<Left>,
    /// The store's files, when they are open already.
    files: Option<StoreDir>,
    /// Where commands find it, when that is there already.
    control: Option<Listener>,
    tcp: Option<tcp::Listener>,
    /// The process that the guests come from, until it has let them go.
    taking: Option<Handover>,
    /// When they were asked for.
    since: Instant,
    /// What signals are about.
    followed: Followed,
}

impl Daemon {
    /// Serves until the end: the store's guests, and while the store is another process's, front-ends.
    fn live(mut self, signals: Signals) -> Result<(), Error> {
        let following = follow_signals(signals, self.followed.clone())?;
        let ended = self.go_on();
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
                    let all: Vec<_> = self
                        .all
                        .iter()
                        .map(|left| (left.name(), &left.standing))
                        .collect();
                    match asked.give(&all) {
                        Ok(()) => {
                            log::info!("another razorfsd serves from here on");
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
        let store = Store::open_files(&path, files, open);
        let store = store.map_err(|error| Stuck::Open(error.into()))?;
        report_recovery(&self.config, &store);
        loop {
            let served = self.serve_guests(&store);
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
        Ok(self.take_left(left?, asked))
    }
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

/// The sockets of the exports.
fn sockets(config: &Config, group: Option<u32>) -> Result<Vec<Socket>, Error> {
    let endpoints = config.exports.iter().map(|export| &export.new.endpoint);
    let socket = |endpoint: &Endpoint| match endpoint {
        Endpoint::Path(path) => Socket::bind(path, group),
        Endpoint::Fd(fd) => Socket::inherit(*fd),
    };
    Ok(endpoints.map(socket).collect::<Result<_, _>>()?)
}

/// Gives up what the daemon does not need.
fn confine(config: &Config) -> Result<(), Error> {
    let Some(action) = config.sandbox else {
        log::warn!("the daemon is not confined (--sandbox none)");
        return Ok(());
    };
    let mut sockets = Vec::new();
    if let Control::At(path) = &config.control {
        sockets.push(path.clone());
    }
    for export in &config.exports {
        if let Endpoint::Path(path) = &export.new.endpoint {
            sockets.push(path.clone());
        }
    }
    let reach = Reach {
        store: &config.store,
        sockets: &sockets,
        socket_dir: config.socket_dir.as_deref(),
        config: config.file.as_deref(),
    };
    Ok(sandbox::confine(&reach, action)?)
}

/// Where commands will find the daemon. That it can do without, unless it was asked for.
fn listen_for_commands(config: &Config) -> Result<Option<Listener>, Error> {
    match &config.control {
        Control::Off => Ok(None),
        Control::At(path) => Ok(Some(Listener::bind(path)?)),
        Control::InStore => match Listener::bind(&default_path(&config.store)) {
            Ok(listener) => Ok(Some(listener)),
            Err(error) => {
                log::warn!("'razorfs' cannot reach this daemon: {error}");
                Ok(None)
            }
        },
    }
}

/// Says what opening found, when the store had not been closed.
fn report_recovery(config: &Config, opened: &Store) {
    let store = config.store.display();
    let report = opened.recovery_report();
    for (copy, reason) in &report.superblock_damage {
        log::warn!("{store}: copy {copy} of the superblock is damaged: {reason}");
    }
    if let Some(damage) = &report.damage {
        log::error!(
            "{store}: {damage}. What lies before the damage is served, read-only; 'razorfs recover \
             --discard-damaged-log' goes on from it"
        );
    }
    if !report.was_clean() {
        log::info!(
            "{store} had not been closed: {} transactions applied, {} dropped, {} bytes of torn \
             log, {} orphans freed, in {:?}",
            report.applied,
            report.dropped,
            report.torn_bytes,
            opened.orphans_freed(),
            report.took
        );
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
        let (taking, since) = (&mut self.taking, self.since);
        exports.start(&mut self.all, || {
            // Until this returns, they are the other process's.
            if let Some(handover) = taking.take() {
                handover.begin()?;
                log::info!(
                    "the guests are here, after {} ms",
                    since.elapsed().as_millis()
                );
            }
            Ok(())
        })?;
        let config = &self.config;
        let path = config.store.display();
        let requests = Requests::listen(&config.store, Arc::clone(exports));
        let requests = requests
            .inspect_err(|error| log::warn!("no other razorfsd can take over: {error}"))
            .ok();
        let unix = match self.control.take() {
            Some(listener) => Some(listener),
            None => listen_for_commands(config)?,
        };
        let tcp = self.tcp.as_ref().map(tcp::Listener::try_clone);
        let control = Listeners {
            unix,
            tcp: tcp.transpose()?,
        };
        if let Some(listener) = &control.unix {
            log::info!("commands for {path} are taken on {listener}");
        }
        if let Some(listener) = &control.tcp {
            log::info!("commands for {path} are taken on {listener}, with the token");
        }
        let served = Served::new(Arc::clone(store), Arc::clone(exports));
        let is_reachable = control.unix.is_some() || control.tcp.is_some();
        let commands = is_reachable
            .then(|| control::server::start(control, served))
            .transpose()?;
        let live = Live {
            config: config.clone(),
            store: Arc::clone(store),
            exports: Arc::clone(exports),
            scheduler: Scheduler::start(Arc::clone(store), schedules(config))?,
        };
        self.followed.begin(Current::Store(Box::new(live)));
        Ok((commands, requests))
    }
}

/// Snapshots to be taken, if they can be.
fn schedules(config: &Config) -> Vec<Schedule> {
    if config.open.read_only && !config.schedules.is_empty() {
        log::warn!("no scheduled snapshots are taken: the store is opened read-only");
        return Vec::new();
    }
    config.schedules.clone()
}

fn start_logging(config: &Config) -> Result<(), Error> {
    if !config.syslog {
        // What is let through is said once, for all loggers, and can change.
        env_logger::Builder::new()
            .filter_level(LevelFilter::Trace)
            .try_init()?;
        log::set_max_level(config.log_level);
        return Ok(());
    }
    let formatter = syslog::Formatter3164 {
        facility: syslog::Facility::LOG_DAEMON,
        hostname: None,
        process: "razorfsd".into(),
        pid: std::process::id(),
    };
    let logger = syslog::unix(formatter).map_err(|error| format!("syslog: {error}"))?;
    log::set_boxed_logger(Box::new(syslog::BasicLogger::new(logger)))?;
    log::set_max_level(config.log_level);
    Ok(())
}

/// A broken invariant of ours ends the process: the log has what was promised, and memory that may
/// be wrong must not reach the disk.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        log::error!("a broken invariant, the daemon ends: {info}");
        report(info);
        std::process::abort();
    }));
}

/// Signals, which wait from here on for [`follow_signals`]. A second SIGTERM or SIGINT ends the daemon
/// at once, and the next opening recovers.
fn signals() -> Result<Signals, Error> {
    let again = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, again.clone())?;
        signal_hook::flag::register(signal, again.clone())?;
    }
    Ok(Signals::new([SIGTERM, SIGINT, SIGHUP])?)
}

/// What can change while the daemon runs.
struct Live {
    /// What is in force.
    config: Config,
    store: Arc<Store>,
    exports: Arc<Exports>,
    scheduler: Scheduler,
}

/// Who follows signals; to be ended before the store is closed.
struct Following {
    handle: signal_hook::iterator::Handle,
    thread: std::thread::JoinHandle<()>,
}

impl Following {
    fn end(self) {
        self.handle.close();
        if self.thread.join().is_err() {
            log::error!("the thread that follows signals failed");
        }
    }
}

/// What is served now.
enum Current {
    /// A store.
    Store(Box<Live>),
    /// Nothing, and this ends it.
    Nothing(Arc<Stop>),
}

impl Current {
    fn stop(&self) {
        match self {
            Current::Store(live) => live.exports.end(),
            Current::Nothing(stop) => {
                if let Err(error) = stop.trigger() {
                    log::error!("cannot end: {error}");
                }
            }
        }
    }
}

/// What signals are about.
#[derive(Clone, Default)]
struct Followed {
    current: Arc<Mutex<Option<Current>>>,
    /// The end was asked for.
    over: Arc<AtomicBool>,
    /// The configuration is to be read again, once a store is served.
    read_again: Arc<AtomicBool>,
}

impl Followed {
    fn begin(&self, mut current: Current) {
        let mut now = self.current.lock();
        // The signal may have come while nothing was served.
        if self.is_over() {
            current.stop();
        } else if let Current::Store(live) = &mut current
            && self.read_again.swap(false, Ordering::AcqRel)
        {
            live.reload();
        }
        *now = Some(current);
    }

    /// What was served, of a store.
    fn end(&self) -> Option<Box<Live>> {
        match self.current.lock().take() {
            Some(Current::Store(live)) => Some(live),
            _ => None,
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

/// The first SIGTERM or SIGINT ends what is served, and so the daemon; SIGHUP has the configuration
/// read again.
fn follow_signals(mut signals: Signals, followed: Followed) -> Result<Following, Error> {
    let handle = signals.handle();
    let thread = std::thread::Builder::new()
        .name("razorfs-signals".into())
        .spawn(move || {
            for signal in &mut signals {
                let mut current = followed.current.lock();
                if signal == SIGHUP {
                    match current.as_mut() {
                        Some(Current::Store(live)) => live.reload(),
                        _ => followed.read_again.store(true, Ordering::Release),
                    }
                    continue;
                }
                log::info!("signal {signal}: closing the store");
                followed.over.store(true, Ordering::Release);
                if let Some(current) = &*current {
                    current.stop();
                }
            }
        })?;
    Ok(Following { handle, thread })
}

impl Live {
    /// Reads the configuration again, and does what can be done: all of it is in order, or nothing
    /// changes.
    fn reload(&mut self) {
        let Some(file) = &self.config.file else {
            log::warn!("SIGHUP: there is no configuration file to read again (--config)");
            return;
        };
        let new = match Command::parse(std::env::args_os()) {
            Ok(Command::Serve(new)) => new,
            Ok(_) => return,
            Err(error) => {
                log::error!("SIGHUP: nothing changes: {error}");
                return;
            }
        };
        for line in self.config.fixed_differences(&new) {
            log::warn!("{}: {line}", file.display());
        }
        log::set_max_level(new.log_level);
        let (scrub, trim) = (new.open.scrub_interval, new.open.trim_interval);
        self.store.set_intervals(scrub, trim);
        self.config.schedules.clone_from(&new.schedules);
        self.scheduler.replace(schedules(&self.config));
        for warning in staleness(&new.exports) {
            log::warn!("{warning}");
        }
        let wanted: Vec<_> = new
            .exports
            .iter()
            .map(|export| export.new.clone())
            .collect();
        for error in self.exports.reload(&wanted) {
            log::error!("{}: {error}", file.display());
        }
        log::info!("{} is in force", file.display());
    }
}

fn limit_descriptors(max: u64) -> Result<(), Error> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes the structure it is given.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(format!("--rlimit-nofile: {}", io::Error::last_os_error()).into());
    }
    limit.rlim_cur = max;
    limit.rlim_max = limit.rlim_max.max(max);
    // SAFETY: the kernel reads the structure it is given.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(format!("--rlimit-nofile {max}: {}", io::Error::last_os_error()).into());
    }
    Ok(())
}
