//! razorfsd: serves a store to virtual machines as a vhost-user virtiofs device.
//!
//! ```text
//! logging  where the log goes
//! setup    what is done once, before the process is confined
//! daemon   the store opened, served, closed, again and again
//! signals  what ends it or has it look at its configuration again
//! reload   what is installed and configured comes in force
//! service  what the service manager is told of all that
//! ```
//!
//! Exit status: 0 after a clean end, 1 when something failed, 2 for a wrong command line; with
//! --check-config 1 when anything is wrong.

mod daemon;
mod logging;
mod reload;
mod service;
mod setup;
mod signals;

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use log::LevelFilter;
use razorfs::config::{CAPABILITIES, Command, Config, ConfigError, Start, command_line};
use razorfs::control::tcp;
use razorfs::daemon::{handover, taking};
use razorfs::disk::dir::{DiskError, OpenDir, SUPERBLOCK_FILE, open_store};
use razorfs::export::Left;
use razorfs::manual;
use razorfs::transport::vhost_user::{Handover, Socket, VERSION_OF_NAMES, group_id};

use daemon::{Daemon, Taking};
use logging::start_logging;
use reload::{Awaited, Reloaded};
use setup::{abort_on_panic, confine, limit_descriptors, listen_for_commands, sockets};
use signals::{Followed, signals};

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
    // Behind it, this may be another process, which is to log under its own number.
    let reloaded = match config.start {
        Start::Reload(pid) => Some(reload::reload(pid, &config)),
        _ => None,
    };
    match start_logging(&config).and_then(|()| run(&config, reloaded)) {
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

fn run(config: &Config, reloaded: Option<Result<Reloaded, Error>>) -> Result<(), Error> {
    abort_on_panic(config.log_format);
    match reloaded.transpose()? {
        None => serve(config, None),
        Some(Reloaded::Done(warning)) => {
            warning
                .into_iter()
                .for_each(|warning| log::warn!("{warning}"));
            Ok(())
        }
        Some(Reloaded::TakeOver(awaited)) => {
            let start = Start::TakeOver;
            let config = Config {
                start,
                ..config.clone()
            };
            serve(&config, Some(awaited))
        }
    }
}

fn serve(config: &Config, awaited: Option<Awaited>) -> Result<(), Error> {
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
    let program = reload::program().map_err(|error| format!("what this process runs: {error}"))?;
    let group = config.group.as_deref().map(group_id).transpose()?;
    let (mut files, mut asked) = (None, None);
    match config.start {
        Start::Fresh => files = Some(open_store(&config.store, how(config))?),
        // It has to be one, for the sockets' sake too.
        Start::Incoming => check_is_store(&config.store)?,
        Start::TakeOver | Start::Reload(_) => {
            let (handover, version) = ask_for_guests(&config.store)?;
            if let Some(awaited) = &awaited {
                awaited.check_is_from(&handover)?;
            }
            asked = Some((handover, version));
        }
    }
    // The first: who finds the daemon by another socket finds it by this one.
    let control = match config.start {
        Start::Fresh => listen_for_commands(config)?,
        Start::Incoming | Start::TakeOver | Start::Reload(_) => None,
    };
    let tcp = config.control_tcp.as_ref();
    let tcp = tcp.map(tcp::Awaited::new).transpose()?;
    let tcp = match asked {
        // It may be the one that listens there.
        Some((_, version)) if version > VERSION_OF_NAMES => tcp,
        _ => tcp.map(tcp::Awaited::alone).transpose()?,
    };
    let sockets = match asked {
        None => sockets(config, group)?,
        Some(_) => Vec::new(),
    };
    // Before there is a second thread, and before anything in the store is believed.
    confine(config)?;
    let since = Instant::now();
    let Beginning { all, tcp, taking } = match asked {
        None => Beginning {
            all: fresh(config, sockets),
            tcp: tcp.map(|tcp| tcp.listen(None)).transpose()?,
            taking: None,
        },
        Some(asked) => take(config, asked, tcp, awaited.is_some())?,
    };
    let daemon = Daemon {
        all,
        config: config.clone(),
        group,
        files,
        control,
        tcp,
        taking,
        since,
        program,
        awaited,
        followed: Followed::default(),
    };
    daemon.live(signals)
}

/// What a daemon begins with.
struct Beginning {
    /// What it is to serve.
    all: Vec<Left>,
    /// Where it listens for other machines.
    tcp: Option<tcp::Listener>,
    /// Who the guests come from, if they do.
    taking: Option<Taking>,
}

/// Takes the guests over, and the socket for other machines if there is to be one. `follows`: see
/// [`taking::take`].
fn take(
    config: &Config,
    (mut handover, version): (Handover, u32),
    tcp: Option<tcp::Awaited>,
    follows: bool,
) -> Result<Beginning, Error> {
    let taken = taking::take(&mut handover, version, config, follows)?;
    let tcp: Result<_, Error> = match tcp {
        Some(tcp) => tcp.listen(taken.tcp).map(Some).map_err(Error::from),
        // A flag that was forgotten must not end anything.
        None if taken.tcp.is_some() && !follows => {
            Err("the other razorfsd is reached from other machines: name its --control-tcp".into())
        }
        None => Ok(None),
    };
    let tcp = tcp.inspect_err(|error| handover.refuse(&error.to_string()))?;
    let taking = Taking {
        handover,
        is_changed: taken.is_changed,
    };
    Ok(Beginning {
        all: taken.all,
        tcp,
        taking: Some(taking),
    })
}

/// What the configuration has exported, on sockets that were made for it.
fn fresh(config: &Config, sockets: Vec<Socket>) -> Vec<Left> {
    let all = config.exports.iter().zip(sockets);
    all.map(|(export, socket)| export.on(socket.into()))
        .collect()
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

/// Finds the daemon that serves a store, and which version of handing over it speaks.
fn ask_for_guests(store: &Path) -> Result<(Handover, u32), Error> {
    let ask = || {
        handover::ask(store).map_err(|error| {
            let path = handover::path_of(store);
            let hint = "without a daemon there, start without --take-over";
            format!("no razorfsd at {}: {error} ({hint})", path.display())
        })
    };
    // One question for each connection. Who does not know this one is from before it was asked.
    let version = ask()?.who().map_or(VERSION_OF_NAMES, |its| its.version);
    Ok((ask()?, version))
}
