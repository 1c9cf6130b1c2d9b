//! Flags of razorfsd, and its configuration file, to one validated configuration.
//!
//! The flags are virtiofsd's where they mean the same, so that tools which start a virtiofs daemon
//! can start this one. Flags that such tools pass and that have nothing to act on here are
//! accepted, with a note that says why ([`Config::notes`]); those that would promise something
//! that is not done are refused by name.

mod args;
mod control;
mod exports;
mod file;
mod merge;
mod reload;
mod report;
mod table;
#[cfg(test)]
mod tests;
mod values;

pub use crate::export::Endpoint;
pub use args::command_line;
pub use exports::{parse_export, staleness};
pub use table::Place;
pub use values::parse_size;

use std::ffi::OsString;
use std::path::PathBuf;

use log::LevelFilter;

use crate::control::tcp::TcpOptions;
use crate::engine::OpenOptions;
use crate::export::{Defaults, Left, NewExport};
use crate::fs::Options;
use crate::sandbox::Action;
use crate::schedule::Schedule;
use crate::transport::vhost_user::{DeviceOptions, Standing};

/// A dataset for one guest at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportConfig {
    /// What was asked for.
    pub new: NewExport,
    /// How to export it, given what else is exported.
    pub options: Options,
}

impl ExportConfig {
    /// It, where it stands.
    #[must_use]
    pub fn on(&self, standing: Standing) -> Left {
        Left {
            new: self.new.clone(),
            options: self.options,
            configured: true,
            standing,
        }
    }
}

/// Where the daemon can be found by commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// In the store's directory, if a socket can be made there.
    InStore,
    /// At this path.
    At(PathBuf),
    /// Nowhere.
    Off,
}

/// Where guests come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// They start, or did not notice that there was nobody.
    #[default]
    Fresh,
    /// From another host: the store is another daemon's until they are here.
    Incoming,
    /// From the daemon that serves the store now.
    TakeOver,
    /// They stay with that daemon, a process, when it is of the program that is installed; else
    /// they come from it.
    Reload(i32),
}

/// What a line of the log looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// A JSON object with timestamp (RFC 3339), level, target and message.
    Json,
}

/// All that razorfsd needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where guests come from.
    pub start: Start,
    /// What is exported where; none only where some may come later.
    pub exports: Vec<ExportConfig>,
    /// How what comes later is exported.
    pub export_defaults: Defaults,
    /// Below which directory sockets of exports that come later are made.
    pub socket_dir: Option<PathBuf>,
    /// Snapshots to be taken.
    pub schedules: Vec<Schedule>,
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// What is in force, flag by flag.
    pub settings: Vec<InForce>,
    /// Where commands find the daemon.
    pub control: Control,
    /// Where and how it listens for other machines.
    pub control_tcp: Option<TcpOptions>,
    /// A group, by name or number, whose members may connect too.
    pub group: Option<String>,
    /// The store's directory.
    pub store: PathBuf,
    /// How to open it.
    pub open: OpenOptions,
    /// What the device is like.
    pub device: DeviceOptions,
    /// What to log.
    pub log_level: LevelFilter,
    /// What a line of it looks like on standard error.
    pub log_format: LogFormat,
    /// Log to syslog rather than to standard error.
    pub syslog: bool,
    /// Descriptors this process may have at most, when that is to be set.
    pub descriptors_max: Option<u64>,
    /// How the process is confined; `None` for not at all.
    pub sandbox: Option<Action>,
    /// What to tell the user about flags without effect.
    pub notes: Vec<String>,
    /// What to warn the user of: flags that do not go together.
    pub warnings: Vec<String>,
}

impl Config {
    /// What is to be exported.
    #[must_use]
    pub fn named(&self) -> Vec<NewExport> {
        self.exports.iter().map(|each| each.new.clone()).collect()
    }
}

/// A flag's value that is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// The flag, without dashes.
    pub name: String,
    /// Its value; several of a flag that can be given several times.
    pub values: Vec<String>,
    /// Who said so.
    pub source: SaidBy,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SaidBy {
    /// Nobody said anything else.
    Default,
    /// The command line.
    Flag,
    /// The configuration file.
    File(Place),
}

/// What the command line asks for.
#[derive(Debug, Clone)]
pub enum Command {
    /// Print what would be in force.
    Check {
        /// That.
        config: Box<Config>,
        /// As JSON.
        json: bool,
    },
    /// Print [`CAPABILITIES`].
    PrintCapabilities,
    /// Serve a store.
    Serve(Box<Config>),
}

/// What `--print-capabilities` prints: this binary takes options as flags of their own.
pub const CAPABILITIES: &str = "{\n  \"type\": \"fs\",\n  \"features\": [\n    \
                                \"separate-options\"\n  ]\n}";

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The command line is wrong, or asks for help or the version.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// An option's value cannot be used.
    #[error("{option}: {reason}")]
    Value {
        /// The option.
        option: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An option that is not supported.
    #[error("{option} is not supported: {reason}")]
    NotSupported {
        /// The option.
        option: String,
        /// Why.
        reason: &'static str,
    },
    /// Something must be said.
    #[error("{0}")]
    Missing(&'static str),
    /// The configuration file cannot be read.
    #[error("the configuration file {path}: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The configuration file says what cannot be.
    #[error("{place}: {reason}")]
    File {
        /// Where.
        place: Place,
        /// What is wrong there, and what is allowed.
        reason: String,
    },
}

impl Command {
    /// Parses a command line, program name included.
    ///
    /// # Errors
    /// When it cannot be carried out; the message names the option.
    pub fn parse<I, T>(args: I) -> Result<Command, ConfigError>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        args::parse(args)
    }
}
