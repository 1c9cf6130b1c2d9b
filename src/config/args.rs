//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, ValueEnum};
use log::LevelFilter;

use super::exports::{exports, parse_export, staleness};
use super::file::{File, has_key};
use super::merge::{Merged, in_file, settings};
use super::values::{
    at_most, bytes, compact, cpus, days, level, not_supported, sandbox, seconds, seconds_or_never,
    tag_of_flag, value,
};
use super::{Command, Config, ConfigError, Control, Endpoint, LogFormat, Start};
use crate::engine::{Durability, OpenOptions};
use crate::export::{Defaults, NewExport};
use crate::fs::{CacheMode, Options};
use crate::schedule::Schedule;
use crate::transport::vhost_user::{Cpus, DeviceOptions, REQUEST_QUEUES_MAX};

const THREADS_DEFAULT: usize = 16;
const THREADS_MAX: usize = 1024;
const QUEUES_DEFAULT: usize = 16;
const POLL_DEFAULT_US: usize = 0;
const POLL_MAX_US: usize = 10_000;

/// Serves a razorfs store to a virtual machine as a vhost-user virtiofs device.
///
/// The daemon stays in the foreground. When the virtual machine goes away it keeps the store open
/// and waits for the next one; SIGTERM or SIGINT closes the store and ends it.
#[derive(Debug, Parser)]
#[command(name = "razorfsd", version, max_term_width = 100)]
struct Args {
    /// Read this file (TOML) first: it may have what flags say under their names, exports and
    /// scheduled snapshots. A flag takes the place of what the file says of the same; --socket-path,
    /// --export and --fd of all exports in it. See configs/ for examples.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check flags and configuration file, print what would be in force, and end: with 0 if all is
    /// well, else 1. Nothing is opened or made.
    #[arg(long)]
    check_config: bool,
    /// With --check-config: print JSON.
    #[arg(long, requires = "check_config")]
    json: bool,
    /// Listen for the virtual machine on this unix socket; a stale one is replaced. Once for each
    /// virtual machine that is to use the store at the same time.
    #[arg(long, value_name = "PATH")]
    socket_path: Vec<PathBuf>,
    /// Serve this dataset or snapshot of the store on a socket of its own; `ro` refuses every change.
    /// Once for each virtual machine. (--socket-path PATH is --export main:PATH.)
    #[arg(long, value_name = "DATASET:SOCKET[:TAG][:ro]")]
    export: Vec<String>,
    /// Let members of this group connect to the sockets.
    #[arg(long, value_name = "GROUP")]
    socket_group: Option<String>,
    /// Listen on this inherited socket, and end when the virtual machine disconnects.
    #[arg(long, value_name = "FD")]
    fd: Option<i32>,
    /// Let exports come while the daemon runs (`razorfs export`, the API, a changed configuration file),
    /// with sockets below this directory.
    #[arg(long, value_name = "DIR")]
    socket_dir: Option<PathBuf>,
    /// Where `razorfs` finds the daemon, to list and change the store's datasets while it serves
    /// them: a socket's path, or none. By default control.sock in the store's directory.
    #[arg(long, value_name = "PATH|none")]
    control: Option<PathBuf>,
    #[command(flatten)]
    control_tcp: super::control::ControlTcpArgs,
    /// The store: a directory made by `razorfs mkfs`.
    #[arg(long, value_name = "DIR", alias = "shared-dir", short_alias = 'S')]
    store: Option<PathBuf>,
    /// Tag to offer to front-ends that have none of their own. QEMU has its own: do not use it
    /// with QEMU 7.1 to 8.0, which crash on it.
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// When what was acknowledged is durable.
    #[arg(long, value_enum, default_value = "fsync")]
    durability: DurabilityArg,
    /// Seconds that an acknowledged change stays off the disk at most; fractions are fine.
    #[arg(long, value_name = "SECONDS", default_value = "5")]
    commit_interval: String,
    /// Unwritten file data in memory before writers wait; takes K, M, G.
    #[arg(long, value_name = "BYTES", default_value = "256M")]
    dirty_limit: String,
    /// Memory for what was read from the store, half for names and attributes, half for content;
    /// takes K, M, G.
    #[arg(long, value_name = "BYTES", default_value = "256M")]
    cache_size: String,
    /// Accept a store on a file system that does not survive a power cut, such as tmpfs.
    #[arg(long)]
    allow_volatile: bool,
    /// Days after a scrub until the next one begins, which reads everything and logs what is
    /// damaged; fractions are fine. Without it there is none.
    #[arg(long, value_name = "DAYS")]
    scrub_interval: Option<String>,
    /// Bytes that a scrub reads in a second, at most; takes K, M, G.
    #[arg(long, value_name = "BYTES", default_value = "16M")]
    scrub_rate: String,
    /// Seconds between two looks for space that has stayed free and goes back to the host's disk; 0
    /// for never. See `razorfs trim`.
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    trim_interval: String,
    /// Percent of chunks.dat, and 1G at least, that must be free in pieces too short to go back for
    /// razorfsd to move content together while guests are quiet, and of files that they must have been
    /// written over for it to write parts of them anew; 0 for never. See `razorfs compact`.
    #[arg(long, value_name = "PERCENT", default_value_t = 25)]
    compact: usize,
    /// Wait for a virtual machine that moves here from another host, and open the store only when
    /// that has let it go. See docs/MIGRATION.md.
    #[arg(long, conflicts_with = "take_over")]
    incoming: bool,
    /// Take the virtual machines over from the daemon that serves the store, which ends: an update
    /// that they do not notice. The other flags must be those of that daemon.
    #[arg(long)]
    take_over: bool,
    /// Have what is installed and configured now come in force in the daemon PID, which serves the
    /// store: it reads its configuration again, if it runs this very program (as SIGHUP does); else
    /// a new one takes over, in the background. For ExecReload= of systemd.
    #[arg(
        long,
        value_name = "PID",
        conflicts_with_all = ["take_over", "incoming"],
        value_parser = clap::value_parser!(i32).range(2..)
    )]
    reload: Option<i32>,
    /// Refuse every change and write nothing to the store.
    #[arg(long)]
    readonly: bool,
    /// What the guest may keep of names, attributes and data. By default everything (always)
    /// where nobody else can change the store, that is with one socket or --readonly; auto with
    /// several.
    #[arg(long, value_enum)]
    cache: Option<CacheArg>,
    /// Let the guest hold written data back. A file that is renamed over another may then lose its
    /// content in a crash, unless it was fsynced.
    #[arg(long)]
    writeback: bool,
    /// With several sockets and a cache mode that keeps no data: allow shared mappings of files
    /// all the same, which show other virtual machines' changes late or never.
    #[arg(long)]
    allow_mmap: bool,
    /// Do not send attributes along with directory listings.
    #[arg(long)]
    no_readdirplus: bool,
    /// Do not show a dataset's snapshots in it, below .snapshots in its root directory.
    #[arg(long)]
    no_snapshots: bool,
    /// Extended attributes; on by default.
    #[arg(long)]
    xattr: bool,
    /// POSIX ACLs: never, auto, always; on by default.
    #[arg(long, value_name = "WHEN", num_args = 0..=1, default_missing_value = "auto")]
    posix_acl: Option<String>,
    /// Request queues offered; the virtual machine uses as many as it wants.
    #[arg(long, value_name = "N", default_value_t = QUEUES_DEFAULT)]
    num_queues: usize,
    /// Threads for requests that wait for the disk; with 0 they hold up their queue.
    #[arg(long, value_name = "N", default_value_t = THREADS_DEFAULT)]
    thread_pool_size: usize,
    /// Microseconds that a queue's thread looks for more requests before it sleeps, at most; 0 for
    /// not at all. Worth it where the host has CPUs to spare: it adapts to how requests come, and
    /// an idle or busy host is left alone.
    #[arg(long, value_name = "N", default_value_t = POLL_DEFAULT_US)]
    poll_us: usize,
    /// CPUs that the queues' threads are bound to in turn, such as 2,4-7.
    #[arg(long, value_name = "LIST")]
    cpu_affinity: Option<String>,
    /// End, and close the store, when the virtual machine disconnects; with several sockets, when
    /// each has had one, and the last is gone.
    #[arg(long)]
    exit_on_disconnect: bool,
    /// error, warn, info, debug, trace or off.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// What a line of the log looks like on standard error.
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
    /// Log to syslog.
    #[arg(long)]
    syslog: bool,
    /// The same as --log-level debug.
    #[arg(short = 'd')]
    debug: bool,
    /// Open files that this process may have at most.
    #[arg(long, value_name = "N")]
    rlimit_nofile: Option<u64>,
    /// Confine the daemon to its store, its socket and the system calls it makes: auto or none.
    /// (namespace and chroot, which other daemons have, mean auto.)
    #[arg(long, value_name = "MODE", default_value = "auto")]
    sandbox: String,
    /// What a system call outside the list does: kill, trap, log; or none for no list.
    #[arg(long, value_name = "ACTION", default_value = "kill")]
    seccomp: String,
    /// Print what this binary can do, as JSON, and end.
    #[arg(long)]
    print_capabilities: bool,
    /// Options as older virtiofsd had them: source=DIR, cache=MODE, xattr, no_xattr, ...
    #[arg(short = 'o', value_name = "OPTION,...", value_delimiter = ',')]
    options: Vec<String>,
    #[command(flatten)]
    foreign: ForeignArgs,
}

/// Flags of virtiofsd that have nothing to act on here, or are refused.
#[derive(Debug, clap::Args)]
struct ForeignArgs {
    #[arg(short = 'f', hide = true)]
    foreground: bool,
    #[arg(long, hide = true, value_name = "CAPS")]
    modcaps: Option<String>,
    #[arg(long, hide = true, value_name = "MAP")]
    uid_map: Vec<String>,
    #[arg(long, hide = true, value_name = "MAP")]
    gid_map: Vec<String>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "auto")]
    security_label: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "auto")]
    killpriv_v2: Option<String>,
    #[arg(long, hide = true)]
    announce_submounts: bool,
    #[arg(long, hide = true, value_name = "MODE")]
    inode_file_handles: Option<String>,
    #[arg(long, hide = true)]
    allow_direct_io: bool,
    #[arg(long, hide = true)]
    preserve_noatime: bool,
    #[arg(long, hide = true)]
    xattrmap: Option<String>,
    #[arg(long, hide = true)]
    translate_uid: Vec<String>,
    #[arg(long, hide = true)]
    translate_gid: Vec<String>,
    #[arg(long, hide = true)]
    migration_mode: Option<String>,
    #[arg(long, hide = true)]
    migration_on_error: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DurabilityArg {
    /// Every change, when it is acknowledged.
    Strict,
    /// What fsync or sync returned for; the rest at most a commit interval later.
    Fsync,
    /// At most a commit interval later; fsync does not wait. A power cut loses what was fsynced.
    Relaxed,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CacheArg {
    /// Names and attributes for a second, data until a file is opened again.
    Auto,
    /// Everything for a day. The default with one socket, where directories are opened without
    /// asking; asked for by name, files too.
    Always,
    /// Nothing.
    Never,
    /// Names, attributes and listings for a day, no data.
    Metadata,
}

impl From<CacheArg> for CacheMode {
    fn from(arg: CacheArg) -> CacheMode {
        match arg {
            CacheArg::Auto => CacheMode::Auto,
            CacheArg::Always => CacheMode::Always,
            CacheArg::Never => CacheMode::Never,
            CacheArg::Metadata => CacheMode::Metadata,
        }
    }
}

/// The flags. A switch can be switched off too (`--readonly=false`), as the file may have it on.
pub(super) fn command() -> clap::Command {
    Args::command().mut_args(|arg| match arg.get_action() {
        ArgAction::SetTrue if has_key(&arg) => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
            .value_name("true|false")
            .hide_default_value(true)
            .hide_possible_values(true),
        _ => arg,
    })
}

/// What razorfsd's command line may have, for its manual page.
#[must_use]
pub fn command_line() -> clap::Command {
    Args::command()
}

pub(super) fn parse<I, T>(args: I) -> Result<Command, ConfigError>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let all: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let said = command().try_get_matches_from(&all)?;
    let args = Args::from_arg_matches(&said)?;
    if args.print_capabilities {
        return Ok(Command::PrintCapabilities);
    }
    let file = match &args.config {
        Some(path) => File::read(path, &command())?,
        None => File::default(),
    };
    let source_said = args.options.iter().any(|one| one.starts_with("source="));
    let read = Merged::new(&all, &said, source_said, file);
    let matches = command().try_get_matches_from(&read.command_line)?;
    let (check, json) = (args.check_config, args.json);
    let config = Args::from_arg_matches(&matches)?
        .config(read.exports, read.schedules)
        .map_err(|error| in_file(error, &read.places))?;
    let settings = settings(&command(), &matches, &said, &read.places);
    let config = Box::new(Config { settings, ..config });
    Ok(match check {
        true => Command::Check { config, json },
        false => Command::Serve(config),
    })
}

/// What flags and `-o` both can say.
struct Said {
    store: Option<PathBuf>,
    cache: Option<CacheMode>,
    export: Options,
    log_level: Option<LevelFilter>,
    sandbox: String,
    notes: Vec<String>,
    warnings: Vec<String>,
}

impl Args {
    fn config(
        self,
        mut exported: Vec<NewExport>,
        schedules: Vec<Schedule>,
    ) -> Result<Config, ConfigError> {
        exported.splice(0..0, self.asked(!exported.is_empty())?);
        let has_fd = self.fd.is_some();
        let mut said = Said {
            store: self.store.clone(),
            cache: self.cache.map(CacheMode::from),
            export: Options {
                read_only: self.readonly,
                writeback: self.writeback,
                readdirplus: !self.no_readdirplus,
                allow_mmap: self.allow_mmap,
                snapshots: !self.no_snapshots,
                ..Options::default()
            },
            log_level: self.log_level.as_deref().map(level).transpose()?,
            sandbox: self.sandbox.clone(),
            notes: Vec::new(),
            warnings: Vec::new(),
        };
        if let Some(when) = &self.posix_acl {
            said.export.posix_acl = match when.as_str() {
                "never" => false,
                "auto" | "always" => true,
                other => return Err(value("--posix-acl", format!("'{other}' is not a choice"))),
            };
        }
        if self.syslog && self.log_format == LogFormat::Json {
            return Err(value(
                "--log-format",
                "json is for standard error, and --syslog has a form of its own".into(),
            ));
        }
        self.foreign.apply(&mut said)?;
        for option in &self.options {
            said.option(option)?;
        }
        if self.debug {
            said.log_level = Some(LevelFilter::Debug);
        }
        said.export.posix_acl &= said.export.xattr;
        let defaults = Defaults {
            options: said.export,
            cache: said.cache,
        };
        let exports = exports(exported, &defaults)?;
        said.warnings.extend(staleness(&exports));
        let sandbox = sandbox(&said.sandbox, &self.seccomp)?;
        let durability = match self.durability {
            DurabilityArg::Strict => Durability::Strict,
            DurabilityArg::Fsync => Durability::Fsync,
            DurabilityArg::Relaxed => Durability::Relaxed,
        };
        Ok(Config {
            store: said
                .store
                .ok_or(ConfigError::Missing("--store DIR is needed: what to serve"))?,
            open: OpenOptions {
                read_only: said.export.read_only,
                durability,
                commit_interval: seconds("--commit-interval", &self.commit_interval)?,
                dirty_limit_bytes: bytes("--dirty-limit", &self.dirty_limit)?,
                cache_bytes: bytes("--cache-size", &self.cache_size)?,
                allow_volatile: self.allow_volatile,
                scrub_interval: self.scrub_interval.as_deref().map(days).transpose()?,
                scrub_bytes_per_sec: bytes("--scrub-rate", &self.scrub_rate)?,
                trim_interval: seconds_or_never("--trim-interval", &self.trim_interval)?,
                compact: compact(self.compact)?,
                ..OpenOptions::default()
            },
            exports,
            export_defaults: defaults,
            schedules,
            socket_dir: self.socket_dir,
            file: self.config,
            settings: Vec::new(),
            start: match (self.incoming, self.take_over, self.reload) {
                (true, ..) => Start::Incoming,
                (_, true, _) => Start::TakeOver,
                (.., Some(pid)) => Start::Reload(pid),
                _ => Start::Fresh,
            },
            control: match self.control {
                None => Control::InStore,
                Some(path) if path.as_os_str() == "none" => Control::Off,
                Some(path) => Control::At(path),
            },
            control_tcp: self.control_tcp.options()?,
            group: self.socket_group,
            device: DeviceOptions {
                request_queues: at_most("--num-queues", self.num_queues, 1, REQUEST_QUEUES_MAX)?,
                pool_threads_max: at_most(
                    "--thread-pool-size",
                    self.thread_pool_size,
                    0,
                    THREADS_MAX,
                )?,
                tag: self.tag.map(tag_of_flag).transpose()?,
                exit_on_disconnect: self.exit_on_disconnect || has_fd,
                strict: durability == Durability::Strict,
                poll_max: Duration::from_micros(
                    at_most("--poll-us", self.poll_us, 0, POLL_MAX_US)? as u64,
                ),
                cpus: Cpus::new(self.cpu_affinity.as_deref().map_or(Ok(Vec::new()), cpus)?),
                ..DeviceOptions::default()
            },
            log_level: said.log_level.unwrap_or(LevelFilter::Info),
            log_format: self.log_format,
            syslog: self.syslog,
            sandbox,
            descriptors_max: self.rlimit_nofile.filter(|n| *n != 0),
            notes: said.notes,
            warnings: said.warnings,
        })
    }

    /// What flags export where. `more`: whether there are others.
    fn asked(&self, more: bool) -> Result<Vec<NewExport>, ConfigError> {
        let main = |endpoint| NewExport {
            dataset: "main".into(),
            endpoint,
            tag: None,
            read_only: false,
            shared: false,
            cache: None,
        };
        let paths = self.socket_path.iter().cloned().map(Endpoint::Path);
        let mut asked: Vec<NewExport> = paths.map(main).collect();
        for text in &self.export {
            asked.push(parse_export(text).map_err(|reason| value("--export", reason))?);
        }
        let Some(fd) = self.fd else {
            if asked.is_empty() && !more && self.socket_dir.is_none() {
                return Err(ConfigError::Missing(
                    "--socket-path PATH, --export DATASET:PATH, --fd FD, or --socket-dir DIR for \
                     exports that come later, is needed: where the virtual machine connects",
                ));
            }
            return Ok(asked);
        };
        if !asked.is_empty() || more {
            return Err(value("--fd", "a socket's path is given too".into()));
        }
        if self.socket_group.is_some() {
            return Err(value(
                "--socket-group",
                "the socket of --fd belongs to whoever made it".into(),
            ));
        }
        if fd < 0 {
            return Err(value("--fd", format!("{fd} is not a descriptor")));
        }
        Ok(vec![main(Endpoint::Fd(fd))])
    }
}

/// Flags and options without effect, and why.
const NO_EFFECT: [(&str, &str); 8] = [
    ("modcaps", "no capabilities are used"),
    ("uid-map", "user ids are stored as the guest gives them"),
    ("gid-map", "group ids are stored as the guest gives them"),
    (
        "security-label",
        "labels are stored as any extended attribute",
    ),
    ("announce-submounts", "a store has none"),
    ("inode-file-handles", "inodes need no descriptors"),
    ("allow-direct-io", "O_DIRECT is always allowed"),
    (
        "preserve-noatime",
        "the store does not change access times by itself",
    ),
];

impl ForeignArgs {
    fn apply(&self, said: &mut Said) -> Result<(), ConfigError> {
        let given = [
            ("modcaps", self.modcaps.is_some()),
            ("uid-map", !self.uid_map.is_empty()),
            ("gid-map", !self.gid_map.is_empty()),
            ("security-label", self.security_label.is_some()),
            ("announce-submounts", self.announce_submounts),
            ("inode-file-handles", self.inode_file_handles.is_some()),
            ("allow-direct-io", self.allow_direct_io),
            ("preserve-noatime", self.preserve_noatime),
        ];
        for (name, _) in given.into_iter().filter(|(_, given)| *given) {
            said.no_effect(&format!("--{name}"), name);
        }
        if self.foreground {
            said.note("-f", "the daemon always stays in the foreground");
        }
        if self.killpriv_v2.is_some() {
            said.note("--killpriv-v2", "it is always on");
        }
        let names = "names of attributes and ids are stored as the guest gives them";
        let migration = "the guest's state has no paths to be found again, see docs/MIGRATION.md";
        let refused = [
            ("--xattrmap", self.xattrmap.is_some(), names),
            ("--translate-uid", !self.translate_uid.is_empty(), names),
            ("--translate-gid", !self.translate_gid.is_empty(), names),
            ("--migration-mode", self.migration_mode.is_some(), migration),
            (
                "--migration-on-error",
                self.migration_on_error.is_some(),
                migration,
            ),
        ];
        match refused.into_iter().find(|(_, given, _)| *given) {
            Some((option, _, reason)) => Err(not_supported(option, reason)),
            None => Ok(()),
        }
    }
}

impl Said {
    fn note(&mut self, option: &str, why: &str) {
        self.notes.push(format!("{option} has no effect: {why}"));
    }

    fn no_effect(&mut self, option: &str, name: &str) {
        let why = NO_EFFECT.iter().find(|(n, _)| *n == name);
        self.note(option, why.map_or("nothing here needs it", |(_, why)| why));
    }

    /// One option of `-o`.
    fn option(&mut self, option: &str) -> Result<(), ConfigError> {
        let named = || format!("-o {option}");
        let (name, given) = option
            .split_once('=')
            .map_or((option, None), |(name, given)| (name, Some(given)));
        let dashed = name.replace('_', "-");
        let plain = dashed.strip_prefix("no-").unwrap_or(&dashed);
        match (name, given) {
            ("source", Some(path)) if self.store.is_none() && !path.is_empty() => {
                self.store = Some(path.into());
            }
            ("source", _) => {
                return Err(value(
                    &named(),
                    "the store is given once, by its path".into(),
                ));
            }
            ("cache", Some("none")) => self.cache = Some(CacheMode::Never),
            ("cache", Some(mode)) => {
                let mode = CacheArg::from_str(mode, false)
                    .map_err(|_| value(&named(), format!("'{mode}' is not a cache mode")))?;
                self.cache = Some(mode.into());
            }
            ("xattr", None) => self.export.xattr = true,
            ("no_xattr", None) => self.export.xattr = false,
            ("posix_acl", None) => self.export.posix_acl = true,
            ("no_posix_acl", None) => self.export.posix_acl = false,
            ("writeback", None) => self.export.writeback = true,
            ("no_writeback", None) => self.export.writeback = false,
            ("readdirplus", None) => self.export.readdirplus = true,
            ("no_readdirplus", None) => self.export.readdirplus = false,
            ("snapshots", None) => self.export.snapshots = true,
            ("no_snapshots", None) => self.export.snapshots = false,
            ("sandbox", Some(mode)) => mode.clone_into(&mut self.sandbox),
            ("log_level", Some(name)) => self.log_level = Some(level(name)?),
            ("debug", None) => self.log_level = Some(LevelFilter::Debug),
            ("flock" | "posix_lock", None) => {
                self.note(&named(), "the guest's kernel keeps locks itself");
            }
            // They are off, as asked.
            ("no_flock" | "no_posix_lock", None) => {}
            ("killpriv_v2" | "no_killpriv_v2", None) => self.note(&named(), "it is always on"),
            _ if NO_EFFECT.iter().any(|(known, _)| *known == plain) => {
                self.no_effect(&named(), plain);
            }
            ("xattrmap", _) => {
                return Err(not_supported(
                    &named(),
                    "names of attributes are stored as the guest gives them",
                ));
            }
            _ => return Err(not_supported(&named(), "there is no such option")),
        }
        Ok(())
    }
}
