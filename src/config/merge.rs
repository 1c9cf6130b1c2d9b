//! What the file says and what the command line says, together.

use std::collections::HashMap;
use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use super::file::{File, Setting, has_key};
use super::{ConfigError, InForce, Place, SaidBy};
use crate::export::NewExport;
use crate::schedule::Schedule;

/// Flags that say what is exported: on the command line, one of them takes the place of all that the
/// file exports.
const EXPORTING: [&str; 3] = ["socket-path", "export", "fd"];

/// The command line with what the file says before it, as far as that counts.
pub(super) struct Merged {
    pub(super) command_line: Vec<OsString>,
    /// Where the file says what.
    pub(super) places: HashMap<String, Place>,
    pub(super) exports: Vec<NewExport>,
    pub(super) schedules: Vec<Schedule>,
}

impl Merged {
    /// `source_said`: whether `-o` names the store.
    pub(super) fn new(
        all: &[OsString],
        said: &ArgMatches,
        source_said: bool,
        file: File,
    ) -> Merged {
        let is_said = |name: &str| {
            let id = name.replace('-', "_");
            said.value_source(&id) == Some(ValueSource::CommandLine)
        };
        let exports_said = EXPORTING.iter().any(|name| is_said(name));
        let counts = |setting: &Setting| match setting.name.as_str() {
            name if EXPORTING.contains(&name) => !exports_said,
            "store" if source_said => false,
            name => !is_said(name),
        };
        let (program, flags) = all.split_first().map_or((None, all), |(p, f)| (Some(p), f));
        let mut command_line: Vec<OsString> = program.cloned().into_iter().collect();
        let mut places = HashMap::new();
        for setting in file.settings.into_iter().filter(counts) {
            command_line.extend(setting.flags().map(OsString::from));
            places.insert(setting.name, setting.place);
        }
        command_line.extend(flags.iter().cloned());
        Merged {
            command_line,
            places,
            exports: if exports_said {
                Vec::new()
            } else {
                file.exports
            },
            schedules: file.schedules,
        }
    }
}

/// An error that says where in the file, when it is about what the file says.
pub(super) fn in_file(error: ConfigError, places: &HashMap<String, Place>) -> ConfigError {
    let (option, reason) = match &error {
        ConfigError::Value { option, reason } => (option, reason.clone()),
        ConfigError::NotSupported { option, .. } => (option, error.to_string()),
        _ => return error,
    };
    let name = option.trim_start_matches('-');
    match places.get(name) {
        Some(place) => ConfigError::File {
            place: place.clone(),
            reason: format!("'{name}': {reason}"),
        },
        None => error,
    }
}

/// What is in force, flag by flag, and who said so.
pub(super) fn settings(
    command: &Command,
    matches: &ArgMatches,
    said: &ArgMatches,
    places: &HashMap<String, Place>,
) -> Vec<InForce> {
    let args = command.get_arguments().filter(|arg| has_key(arg));
    let settings = args.filter_map(|arg| {
        let (id, name) = (arg.get_id().as_str(), arg.get_long()?);
        let values = matches.get_raw(id).into_iter().flatten();
        let values: Vec<_> = values.map(|value| value.to_string_lossy().into()).collect();
        let source = match (said.value_source(id), places.get(name)) {
            (Some(ValueSource::CommandLine), _) => SaidBy::Flag,
            (_, Some(place)) => SaidBy::File(place.clone()),
            _ => SaidBy::Default,
        };
        (!values.is_empty()).then(|| InForce {
            name: name.to_owned(),
            values,
            source,
        })
    });
    settings.collect()
}
