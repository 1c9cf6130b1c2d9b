//! razorfsd: serves a store to virtual machines as a vhost-user virtiofs device.
//!
//! Exit status: 0 after a clean end, 1 when something failed, 2 for a wrong command line.
#![allow(unsafe_code)] // setrlimit(2) has no safe form in std.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use log::LevelFilter;
use razorfs::config::{
    CAPABILITIES, Command, Config, ConfigError, Control, Endpoint, ExportConfig,
};
use razorfs::control;
use razorfs::control::server::{Exported, Listeners, Served};
use razorfs::control::socket::{Listener, default_path};
use razorfs::control::tcp;
use razorfs::disk::dir::{OpenDir, open_store};
use razorfs::engine::{Durability, Store};
use razorfs::fs::{Export, Options};
use razorfs::sandbox;
use razorfs::server::Server;
use razorfs::transport::vhost_user::{Answer, Socket, Stop, serve};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

type Error = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let config = match Command::parse(std::env::args_os()) {
        Ok(Command::Serve(config)) => config,
        Ok(Command::PrintCapabilities) => {
            return match writeln!(io::stdout(), "{CAPABILITIES}") {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            };
        }
        Err(ConfigError::Usage(error)) => error.exit(),
        Err(error) => {
            eprintln!("razorfsd: {error}");
            return ExitCode::from(2);
        }
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

fn run(config: &Config) -> Result<(), Error> {
    abort_on_panic();
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
    let files = open_store(&config.store, how)?;
    let mut paths = Vec::new();
    // The first: who finds the daemon by another socket finds it by this one.
    let control = Listeners {
        unix: listen_for_commands(config)?,
        tcp: config
            .control_tcp
            .as_ref()
            .map(tcp::Listener::bind)
            .transpose()?,
    };
    if let Control::At(path) = &config.control {
        paths.push(path.clone());
    }
    let mut sockets = Vec::new();
    for export in &config.exports {
        sockets.push(match &export.endpoint {
            Endpoint::Path(path) => {
                paths.push(path.clone());
                Socket::bind(path, config.group.as_deref())?
            }
            Endpoint::Fd(fd) => Socket::inherit(*fd)?,
        });
    }
    // Before there is a second thread, and before anything in the store is believed.
    match config.sandbox {
        Some(action) => sandbox::confine(&config.store, &paths, action)?,
        None => log::warn!("the daemon is not confined (--sandbox none)"),
    }
    let stop = Arc::new(Stop::new()?);
    stop_on_signals(&stop)?;
    let store = Store::open_files(&config.store, files, config.open.clone())?;
    report_recovery(config, &store);
    let served = serve_store(config, &store, (sockets, control), &stop);
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

/// What answers the guests of an export, and what commands are told of it.
type Serving = (Arc<dyn Answer>, Exported);

/// All exports. Those of one dataset know of each other.
fn servers(config: &Config, store: &Arc<Store>) -> Result<Vec<Serving>, Error> {
    let mut exports: BTreeMap<&str, Export> = BTreeMap::new();
    let mut servers: Vec<Serving> = Vec::new();
    for ExportConfig {
        dataset,
        options,
        endpoint,
        tag,
    } in &config.exports
    {
        let volume = Arc::new(store.volume(dataset)?);
        let is_writable = volume.is_writable();
        if !options.read_only && !is_writable {
            log::warn!("dataset '{dataset}' cannot be changed: it is served read-only");
        }
        let exported = Exported {
            dataset: volume.dataset_id(),
            socket: endpoint.to_string(),
            tag: tag.clone().or_else(|| config.device.tag.clone()),
            read_only: options.read_only || !is_writable,
            meter: Arc::default(),
        };
        let export = exports
            .entry(dataset)
            .or_insert_with(|| Export::new(volume));
        let options = Options {
            read_only: exported.read_only,
            ..*options
        };
        let server = Server::new(export.kernel(options));
        let server = Arc::new(server.counting(&exported.meter.refused));
        servers.push((server, exported));
    }
    Ok(servers)
}

fn serve_store(
    config: &Config,
    store: &Arc<Store>,
    (sockets, control): (Vec<Socket>, Listeners),
    stop: &Stop,
) -> Result<(), Error> {
    match config.open.durability {
        Durability::Relaxed => log::warn!(
            "DURABILITY IS RELAXED: fsync and sync return before anything is on the disk. A power \
             cut or a crash loses what the guest believes is safe"
        ),
        Durability::Strict | Durability::Fsync => {}
    }
    let (servers, exported): (Vec<_>, Vec<_>) = servers(config, store)?.into_iter().unzip();
    let meters: Vec<_> = exported.iter().map(|each| each.meter.clone()).collect();
    let path = config.store.display();
    // Ends before the store is closed.
    if let Some(listener) = &control.unix {
        log::info!("commands for {path} are taken on {listener}");
    }
    if let Some(listener) = &control.tcp {
        log::info!("commands for {path} are taken on {listener}, with the token");
    }
    let served = Served::new(Arc::clone(store), exported);
    let is_reachable = control.unix.is_some() || control.tcp.is_some();
    let _commands = is_reachable
        .then(|| control::server::start(control, served))
        .transpose()?;
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        let served = servers.into_iter().zip(meters).zip(sockets);
        for (export, ((server, meter), socket)) in config.exports.iter().zip(served) {
            log::info!("serving '{}' of {path} on {socket}", export.dataset);
            let mut device = config.device.clone();
            device.tag = export.tag.clone().or(device.tag);
            device.meter = meter;
            let serve = move || {
                let served = serve(&server, socket, &device, stop);
                if served.is_err() {
                    // All or none: who started the daemon finds out, and starts it anew.
                    stop.trigger()?;
                }
                served.map_err(Error::from)
            };
            let named = std::thread::Builder::new().name("razorfs-socket".into());
            match named.spawn_scoped(scope, serve) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    stop.trigger()?;
                    return Err(error.into());
                }
            }
        }
        let served = threads.into_iter().map(|thread| {
            let ended = thread.join();
            ended.unwrap_or_else(|_| Err("a thread failed".into()))
        });
        served.collect()
    })
}

fn start_logging(config: &Config) -> Result<(), Error> {
    if !config.syslog {
        env_logger::Builder::new()
            .filter_level(config.log_level)
            .try_init()?;
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

/// The first SIGTERM or SIGINT closes the store and ends the daemon; a second one ends it at once,
/// and the next opening recovers.
fn stop_on_signals(stop: &Arc<Stop>) -> Result<(), Error> {
    let again = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, again.clone())?;
        signal_hook::flag::register(signal, again.clone())?;
    }
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let stop = stop.clone();
    std::thread::Builder::new()
        .name("razorfs-signals".into())
        .spawn(move || {
            for signal in &mut signals {
                log::info!("signal {signal}: closing the store");
                if let Err(error) = stop.trigger() {
                    log::error!("cannot end: {error}");
                }
            }
        })?;
    Ok(())
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
