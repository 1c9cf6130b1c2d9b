//! The configuration file: what flags say, and what has no flag.
//!
//! A key at the top has a flag's name, and means what the flag means; it is read by being put
//! before the command line. So a flag is never forgotten here, and has one meaning. Besides, there
//! are tables: `[[export]]` and `[[snapshots]]`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction};

use super::table::{Place, Source, Table, Value};
use super::values::{interval, tag};
use super::{ConfigError, Endpoint};
use crate::engine::split_name;
use crate::export::NewExport;
use crate::fs::CacheMode;
use crate::schedule::{Keep, PREFIX_BYTES_MAX, Schedule, Which};

/// Flags that are about the command line itself.
const NO_KEYS: [&str; 6] = [
    "config",
    "check-config",
    "json",
    "print-capabilities",
    "help",
    "version",
];
/// The shortest time between two scheduled snapshots: their names have minutes.
const EVERY_MIN: Duration = Duration::from_secs(60);
const EVERY_MAX: Duration = Duration::from_secs(366 * 86_400);
/// Snapshots of a kind that are kept, at most.
const KEEP_MAX: u32 = 100_000;
/// The file's length at most.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A flag that the file has.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) name: String,
    pub(super) place: Place,
    values: Vec<String>,
}

impl Setting {
    /// As it would stand on the command line.
    pub(super) fn flags(&self) -> impl Iterator<Item = String> {
        let flag = |value| format!("--{}={value}", self.name);
        self.values.iter().map(flag)
    }
}

/// What the file says.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) settings: Vec<Setting>,
    pub(super) exports: Vec<NewExport>,
    pub(super) schedules: Vec<Schedule>,
}

/// Whether a flag has a key of its name.
pub(super) fn has_key(arg: &Arg) -> bool {
    let name = arg.get_long();
    !arg.is_hide_set() && name.is_some_and(|name| !NO_KEYS.contains(&name))
}

impl File {
    /// Reads it. `flags`: which there are.
    pub(super) fn read(path: &Path, flags: &Command) -> Result<File, ConfigError> {
        let unreadable = |reason: String| ConfigError::Unreadable {
            path: path.to_owned(),
            reason,
        };
        let metadata = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
        if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
            return Err(unreadable(format!(
                "it has to be a file of at most {FILE_BYTES_MAX} bytes"
            )));
        }
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
        File::parse(Source { path, text: &text }, flags)
    }

    pub(super) fn parse(source: Source<'_>, flags: &Command) -> Result<File, ConfigError> {
        let mut top = Table::of_file(source)?;
        let mut file = File::default();
        for table in top.tables("export")? {
            file.exports.push(export(table)?);
        }
        for table in top.tables("snapshots")? {
            file.schedules.push(schedule(table, &file.schedules)?);
        }
        for arg in flags.get_arguments().filter(|arg| has_key(arg)) {
            let name = arg.get_long().unwrap_or_default();
            if let Some(value) = top.take(name) {
                file.settings.push(setting(&value, arg, flags)?);
            }
        }
        top.end()?;
        Ok(file)
    }
}

/// A flag's value, which the flag itself has to take.
fn setting(value: &Value<'_>, arg: &Arg, flags: &Command) -> Result<Setting, ConfigError> {
    if value.is_array() && !matches!(arg.get_action(), ArgAction::Append) {
        return Err(value.wrong("one value is wanted, and this is an array"));
    }
    let setting = Setting {
        name: value.key.clone(),
        place: value.place.clone(),
        values: value.texts()?,
    };
    let alone = std::iter::once("razorfsd".to_owned()).chain(setting.flags());
    if let Err(error) = flags.clone().try_get_matches_from(alone)
        // What it goes with, and what not, is seen when all is put together.
        && !matches!(
            error.kind(),
            ErrorKind::MissingRequiredArgument | ErrorKind::ArgumentConflict
        )
    {
        return Err(value.wrong(why(&error)));
    }
    let is_off = is_switch(arg) && setting.values == ["false"];
    Ok(match is_off {
        // As if it had not been said, so that nothing else is in its way.
        true => Setting {
            values: Vec::new(),
            ..setting
        },
        false => setting,
    })
}

fn is_switch(arg: &Arg) -> bool {
    let numbers = arg.get_num_args();
    numbers.is_some_and(|numbers| numbers.min_values() == 0) && arg.is_require_equals_set()
}

/// What is wrong with a value, and what is allowed.
fn why(error: &clap::Error) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let given = text(ContextKind::InvalidValue).unwrap_or_default();
    if let Some(ContextValue::Strings(allowed)) = error.get(ContextKind::ValidValue)
        && !allowed.is_empty()
    {
        return format!("'{given}' is none of: {}", allowed.join(", "));
    }
    match std::error::Error::source(error) {
        Some(reason) => format!("'{given}': {reason}"),
        None => {
            let said = error.to_string();
            let line = said.lines().next().unwrap_or_default();
            line.trim_start_matches("error: ").to_owned()
        }
    }
}

/// An `[[export]]`.
fn export(mut table: Table<'_>) -> Result<NewExport, ConfigError> {
    let mut new = NewExport {
        dataset: "main".to_owned(),
        endpoint: Endpoint::Path(PathBuf::new()),
        tag: None,
        read_only: false,
        shared: false,
        cache: None,
    };
    if let Some(value) = table.take("dataset") {
        new.dataset = value.string()?;
        split_name(&new.dataset).map_err(|error| value.wrong(error))?;
    }
    let socket = table.need("socket")?;
    let path = socket.string()?;
    if path.is_empty() {
        return Err(socket.wrong("a path is wanted"));
    }
    new.endpoint = Endpoint::Path(path.into());
    if let Some(value) = table.take("tag") {
        new.tag = Some(tag(value.string()?).map_err(|error| value.wrong(error))?);
    }
    if let Some(value) = table.take("readonly") {
        new.read_only = value.bool()?;
    }
    if let Some(value) = table.take("shared") {
        new.shared = value.bool()?;
    }
    if let Some(value) = table.take("cache") {
        let given = value.string()?;
        let mode = CacheMode::from_name(&given);
        let wrong = || {
            value.wrong(format!(
                "'{given}' is none of: {}",
                CacheMode::NAMES.join(", ")
            ))
        };
        new.cache = Some(mode.ok_or_else(wrong)?);
    }
    table.end()?;
    Ok(new)
}

/// A `[[snapshots]]`, beside those before it.
fn schedule(mut table: Table<'_>, others: &[Schedule]) -> Result<Schedule, ConfigError> {
    let dataset = table.need("dataset")?;
    let named = dataset.string()?;
    let which = match named.as_str() {
        "*" => Which::All,
        name => match split_name(name) {
            Ok((_, None)) => Which::Named(name.to_owned()),
            Ok(_) => return Err(dataset.wrong("that is the name of a snapshot")),
            Err(error) => return Err(dataset.wrong(error)),
        },
    };
    let every = table.need("every")?;
    let given = every.texts()?.join(" ");
    let wrong = || every.wrong("a time from '1m' to '366d' is wanted, such as '15m' or '6h'");
    let interval = interval(&given, None).ok_or_else(wrong)?;
    if !(EVERY_MIN..=EVERY_MAX).contains(&interval) || interval.subsec_nanos() != 0 {
        return Err(wrong());
    }
    let mut prefix = "auto-".to_owned();
    if let Some(value) = table.take("prefix") {
        prefix = value.string()?;
        if prefix.is_empty() || prefix.len() > PREFIX_BYTES_MAX {
            let reason = format!("a prefix has 1 to {PREFIX_BYTES_MAX} bytes");
            return Err(value.wrong(reason));
        }
        split_name(&format!("x@{prefix}0")).map_err(|error| value.wrong(error))?;
    }
    let keep = match table.table("keep")? {
        Some(keep) => Some(kept(keep)?),
        None => None,
    };
    let place = table.place.clone();
    table.end()?;
    if others
        .iter()
        .any(|other| other.which == which && other.prefix == prefix)
    {
        let reason = format!(
            "there are two [[snapshots]] of dataset '{named}' with the prefix '{prefix}': each \
             needs its own"
        );
        return Err(ConfigError::File { place, reason });
    }
    Ok(Schedule {
        which,
        every: interval,
        keep,
        prefix,
    })
}

fn kept(mut table: Table<'_>) -> Result<Keep, ConfigError> {
    let mut number = |key| match table.take(key) {
        Some(value) => value.number(KEEP_MAX),
        None => Ok(0),
    };
    let keep = Keep {
        last: number("last")?,
        hourly: number("hourly")?,
        daily: number("daily")?,
        weekly: number("weekly")?,
        monthly: number("monthly")?,
        yearly: number("yearly")?,
    };
    let place = table.place.clone();
    table.end()?;
    if keep == Keep::default() {
        let reason = "'keep' keeps nothing: one of its numbers is at least 1, or there is no \
                      'keep', which keeps all"
            .to_owned();
        return Err(ConfigError::File { place, reason });
    }
    Ok(keep)
}
