//! What a run found, in a file: tables and plots are made from it, now or later.

use std::path::Path;

use crate::Error;
use crate::growth::Series;
use crate::report::Row;
use crate::tail::Tail;

/// Under what circumstances.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct About {
    /// The command line.
    pub command: String,
    /// CPUs of the machine.
    pub cpus: usize,
    /// /proc/loadavg, before and after.
    pub load: Vec<String>,
    /// Programs compared with, as they name themselves.
    pub versions: Vec<String>,
}

/// What was measured.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Found {
    /// Requests, of one daemon and the others.
    Requests {
        /// A workload and depth each.
        rows: Vec<Row>,
    },
    /// Work within a guest.
    Guests {
        /// A workload each.
        rows: Vec<Row>,
    },
    /// The same with and without the log's writes.
    Log {
        /// A workload and depth each.
        rows: Vec<Row>,
    },
    /// How long the slowest take.
    Tail {
        /// A circumstance each.
        tails: Vec<Tail>,
    },
    /// Costs against sizes.
    Growth {
        /// A curve each.
        series: Vec<Series>,
    },
}

impl Found {
    /// The name of its room in a document.
    pub fn name(&self) -> &'static str {
        match self {
            Found::Requests { .. } => "requests",
            Found::Guests { .. } => "guests",
            Found::Log { .. } => "log",
            Found::Tail { .. } => "tail",
            Found::Growth { .. } => "growth",
        }
    }
}

/// A run.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Results {
    /// Under what circumstances.
    pub about: About,
    /// What was measured.
    pub found: Found,
}

fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace()
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Options that say where things are on this machine: they do not belong into a document.
const PLACES: [&str; 8] = [
    "--virtiofsd",
    "--agent",
    "--json",
    "--programs",
    "--cache",
    "--dir",
    "--tmpfs",
    "--socket-path",
];

/// The command line by which somebody else gets the same.
fn command(mut words: impl Iterator<Item = String>) -> String {
    let mut shown = match words.next().as_deref() {
        Some("run") => vec!["scripts/bench.sh".to_owned()],
        Some("guests") => vec!["scripts/guest_bench.sh".to_owned()],
        Some("growth") => vec!["scripts/growth.sh".to_owned()],
        Some(other) => vec!["scripts/bench.sh".to_owned(), other.to_owned()],
        None => Vec::new(),
    };
    while let Some(word) = words.next() {
        if PLACES.contains(&word.as_str()) {
            words.next();
        } else if PLACES
            .iter()
            .all(|place| !word.starts_with(&format!("{place}=")))
        {
            shown.push(word);
        }
    }
    shown.join(" ")
}

impl About {
    /// At the beginning of a run.
    pub fn begin() -> About {
        About {
            command: command(std::env::args().skip(1)),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            load: vec![load()],
            versions: Vec::new(),
        }
    }

    /// Notes what a program calls itself.
    pub fn version_of(&mut self, program: &Path) {
        let output = std::process::Command::new(program)
            .arg("--version")
            .output();
        let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        if let Some(line) = said.ok().as_ref().and_then(|said| said.lines().next()) {
            self.versions.push(line.to_owned());
        }
    }
}

impl Results {
    /// At the end of a run; written to `path` if there is one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end(mut about: About, found: Found, path: Option<&Path>) -> Result<Results, Error> {
        about.load.push(load());
        let results = Results { about, found };
        if let Some(path) = path {
            let text = serde_json::to_string_pretty(&results)? + "\n";
            std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(results)
    }

    /// What a run wrote.
    ///
    /// # Errors
    /// When it is not there, or not what a run writes.
    pub fn read(path: &Path) -> Result<Results, Error> {
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
        Ok(serde_json::from_str(&text).map_err(|error| failed(&error))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_says_no_places() {
        let words = "run --virtiofsd /a/b --rounds 5 --json=/c --cpu 1";
        let shown = command(words.split(' ').map(String::from));
        assert_eq!(shown, "scripts/bench.sh --rounds 5 --cpu 1");
    }
}
