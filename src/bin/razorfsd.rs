//! razorfsd: serves a store to virtual machines as a vhost-user virtiofs device.
//!
//! Exit status: 0 after a clean end, 1 when something failed, 2 for a wrong command line; with
//! --check-config 1 when anything is wrong.
#![allow(unsafe_code)] // setrlimit(2) has no safe form in std.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use log::LevelFilter;
use razorfs::config::{
    CAPABILITIES, Command, Config, ConfigError, Control, Endpoint, ExportConfig, command_line,
    staleness,
};
use razorfs::control;
use razorfs::control::server::{Listeners, Running, Served};
use razorfs::control::socket::{Listener, default_path};
use razorfs::control::tcp;
use razorfs::disk::dir::{OpenDir, open_store};
use razorfs::engine::{Durability, Store};
use razorfs::export::{Common, Exports};
use razorfs::manual;
use razorfs::sandbox::{self, Reach};
use razorfs::schedule::{Schedule, Scheduler};
use razorfs::transport::vhost_user::{Socket, group_id};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

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
    let how = OpenDir {
        read_only: config.open.read_only,
        allow_volatile: config.open.allow_volatile,
    };
    let group = config.group.as_deref().map(group_id).transpose()?;
    let files = open_store(&config.store, how)?;
    // The first: who finds the daemon by another socket finds it by this one.
    let control = Listeners {
        unix: listen_for_commands(config)?,
        tcp: config
            .control_tcp
            .as_ref()
            .map(tcp::Listener::bind)
            .transpose()?,
    };
    let sockets = sockets(config, group)?;
    // Before there is a second thread, and before anything in the store is believed.
    confine(config)?;
    let store = Store::open_files(&config.store, files, config.open.clone())?;
    report_recovery(config, &store);
    let common = Common {
        device: config.device.clone(),
        defaults: config.export_defaults,
        group,
        socket_dir: config.socket_dir.clone(),
    };
    let exports = Exports::new(Arc::clone(&store), common);
    let served = serve_store(config, &store, &exports, (sockets, control), signals);
    // Whatever went wrong with the device: the store is closed cleanly.
    let closed = store.close();
    if let (Err(error), Err(_)) = (&closed, &served) {
        log::error!("closing {}: {error}", config.store.display());
    }
    served?;
    closed.map_err(|error| format!("closing {}: {error}", config.store.display()))?;
    log::info!("closed {}", config.store.display());
    Ok(())
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

fn serve_store(
    config: &Config,
    store: &Arc<Store>,
    exports: &Arc<Exports>,
    (sockets, control): (Vec<Socket>, Listeners),
    signals: Signals,
) -> Result<(), Error> {
    match config.open.durability {
        Durability::Relaxed => log::warn!(
            "DURABILITY IS RELAXED: fsync and sync return before anything is on the disk. A power \
             cut or a crash loses what the guest believes is safe"
        ),
        Durability::Strict | Durability::Fsync => {}
    }
    let begun = begin(config, store, exports, (sockets, control), signals);
    if begun.is_err() {
        exports.end();
    }
    let served = exports.wait();
    // Both end before the store is closed.
    let (commands, following) = begun?;
    drop(commands);
    following.end();
    Ok(served?)
}

/// Begins to serve guests, and whoever else asks for something.
fn begin(
    config: &Config,
    store: &Arc<Store>,
    exports: &Arc<Exports>,
    (sockets, control): (Vec<Socket>, Listeners),
    signals: Signals,
) -> Result<(Option<Running>, Following), Error> {
    // Before anybody is served: who asks for what is not there is told at once.
    for export in &config.exports {
        store.find(&export.new.dataset)?;
    }
    let path = config.store.display();
    for (export, socket) in config.exports.iter().zip(sockets) {
        let ExportConfig { new, options } = export.clone();
        exports.start(new, options, socket)?;
    }
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
    Ok((commands, follow_signals(signals, live)?))
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

/// The first SIGTERM or SIGINT ends the exports, and so the daemon; SIGHUP has the configuration read
/// again.
fn follow_signals(mut signals: Signals, mut live: Live) -> Result<Following, Error> {
    let handle = signals.handle();
    let thread = std::thread::Builder::new()
        .name("razorfs-signals".into())
        .spawn(move || {
            for signal in &mut signals {
                if signal == SIGHUP {
                    live.reload();
                    continue;
                }
                log::info!("signal {signal}: closing the store");
                live.exports.end();
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
