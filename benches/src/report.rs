//! What was measured, as ratios.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::daemons::Kind;
use crate::growth;
use crate::results::{Found, Results};
use crate::tail::TAILS;

/// One round of one contender.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub struct Sample {
    /// Nanoseconds of an operation, from the driver.
    pub wall: f64,
    /// Of them, the daemon's CPU time.
    pub cpu: f64,
}

impl Sample {
    /// `count` operations took this long.
    #[allow(clippy::cast_precision_loss)] // Far below 2^52.
    pub fn new(wall: Duration, cpu: Duration, count: u64) -> Sample {
        let of = |time: Duration| time.as_nanos() as f64 / count.max(1) as f64;
        Sample {
            wall: of(wall),
            cpu: of(cpu),
        }
    }
}

/// A workload's rounds.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Row {
    /// The workload.
    pub name: String,
    /// Requests in flight.
    pub depth: usize,
    /// A sample a round.
    pub samples: BTreeMap<Kind, Vec<Sample>>,
    /// System calls of an operation, when they were counted.
    pub calls: BTreeMap<Kind, f64>,
}

/// A ratio's median, least and most.
#[derive(Debug, Clone, Copy)]
pub struct Ratio {
    /// Of the rounds.
    pub median: f64,
    /// Of the rounds.
    pub least: f64,
    /// Of the rounds.
    pub most: f64,
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.2} ({:.2} to {:.2})",
            self.median, self.least, self.most
        )
    }
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Of a cell of a table that may be empty.
fn cell<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map(show).unwrap_or_default()
}

impl Row {
    /// One without rounds.
    pub fn new(name: &str, depth: usize) -> Row {
        Row {
            name: name.to_owned(),
            depth,
            samples: BTreeMap::new(),
            calls: BTreeMap::new(),
        }
    }

    /// Adds a round.
    pub fn add(&mut self, kind: Kind, sample: Sample) {
        self.samples.entry(kind).or_default().push(sample);
    }

    fn of(&self, kind: Kind) -> &[Sample] {
        self.samples.get(&kind).map_or(&[], Vec::as_slice)
    }

    /// How often one's time goes into another's, round by round.
    pub fn ratio(&self, time: Kind, by: Kind) -> Option<Ratio> {
        let pairs = self.of(time).iter().zip(self.of(by));
        let ratios: Vec<f64> = pairs.map(|(time, by)| time.wall / by.wall).collect();
        (!ratios.is_empty()).then(|| Ratio {
            least: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            most: ratios.iter().copied().fold(0.0, f64::max),
            median: median(ratios),
        })
    }

    fn median_of(&self, kind: Kind, what: fn(&Sample) -> f64) -> Option<f64> {
        let samples = self.of(kind);
        (!samples.is_empty()).then(|| median(samples.iter().map(what).collect()))
    }

    /// Microseconds of an operation.
    pub fn wall_us(&self, kind: Kind) -> Option<f64> {
        Some(self.median_of(kind, |sample| sample.wall)? / 1000.0)
    }

    fn cpu_us(&self, kind: Kind) -> Option<f64> {
        Some(self.median_of(kind, |sample| sample.cpu)? / 1000.0)
    }

    /// The quickest of those that differ only in their thread pools.
    pub fn best(&self, is: impl Fn(&Kind) -> bool) -> Option<Kind> {
        let wall = |kind: &Kind| self.wall_us(*kind).unwrap_or(f64::INFINITY);
        let kinds = self.samples.keys().filter(|kind| is(kind)).copied();
        kinds.min_by(|one, other| wall(one).total_cmp(&wall(other)))
    }

    /// virtiofsd beside the store, with the thread pool that suits it best here.
    pub fn virtiofsd(&self) -> Option<Kind> {
        self.best(|kind| matches!(kind, Kind::Virtiofsd(_)))
    }

    /// The same in memory.
    pub fn virtiofsd_tmpfs(&self) -> Option<Kind> {
        self.best(|kind| matches!(kind, Kind::VirtiofsdTmpfs(_)))
    }
}

fn two(value: f64) -> String {
    format!("{value:.2}")
}

/// Numbers in a cell, as far as they are there.
fn list(values: &[Option<f64>]) -> String {
    let shown = values.iter().flatten().map(|value| two(*value));
    shown.collect::<Vec<_>>().join(", ")
}

/// Of [`request_line`]s.
pub const REQUESTS: &str = "\
| workload | in flight | times virtiofsd (spread) | its pool | on tmpfs | of the floor's time | \
of the disk's time | daemon CPU us: razorfsd, virtiofsd, floor | us: razorfsd | calls: razorfsd, \
virtiofsd |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |";

/// A row of the table of requests.
pub fn request_line(row: &Row) -> String {
    let (best, tmpfs) = (row.virtiofsd(), row.virtiofsd_tmpfs());
    let times = |kind: Option<Kind>| row.ratio(kind?, Kind::Razorfs);
    let cpu = [
        row.cpu_us(Kind::Razorfs),
        best.and_then(|kind| row.cpu_us(kind)),
        row.cpu_us(Kind::Floor),
    ];
    let calls = [Some(Kind::Razorfs), best].map(|kind| row.calls.get(&kind?).copied());
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        row.name,
        row.depth,
        cell(times(best), |ratio| ratio.to_string()),
        cell(best.and_then(Kind::pool), |pool| pool.to_string()),
        cell(times(tmpfs), |ratio| two(ratio.median)),
        cell(row.ratio(Kind::Razorfs, Kind::Floor), |ratio| two(
            ratio.median
        )),
        cell(row.ratio(Kind::Razorfs, Kind::Disk), |ratio| two(
            ratio.median
        )),
        list(&cpu),
        cell(row.wall_us(Kind::Razorfs), two),
        list(&calls),
    )
}

/// Of [`guest_line`]s.
pub const GUESTS: &str = "\
| in a guest | times virtiofsd (spread) | times 9p | times virtio-blk with ext4 | us an operation: \
razorfsd | daemon CPU us: razorfsd, virtiofsd |
| --- | --- | --- | --- | --- | --- |";

/// A row of the table of guests.
pub fn guest_line(row: &Row) -> String {
    let virtiofsd = row.virtiofsd();
    let times = |kind: Option<Kind>| {
        let ratio = kind.and_then(|kind| row.ratio(kind, Kind::Razorfs));
        cell(ratio, |ratio| ratio.to_string())
    };
    let cpu = [
        row.cpu_us(Kind::Razorfs),
        virtiofsd.and_then(|kind| row.cpu_us(kind)),
    ];
    format!(
        "| {} | {} | {} | {} | {} | {} |",
        row.name,
        times(virtiofsd),
        times(Some(Kind::NineP)),
        times(Some(Kind::Block)),
        cell(row.wall_us(Kind::Razorfs), two),
        list(&cpu),
    )
}

/// Of [`log_line`]s.
pub const LOG: &str = "\
| workload | in flight | time with the log by time without (spread) | us: with, without |
| --- | --- | --- | --- |";

/// A row of the table of the log's cost.
pub fn log_line(row: &Row) -> String {
    let ratio = row.ratio(Kind::Razorfs, Kind::Unlogged);
    let wall = [Kind::Razorfs, Kind::Unlogged].map(|kind| row.wall_us(kind));
    format!(
        "| {} | {} | {} | {} |",
        row.name,
        row.depth,
        cell(ratio, |ratio| ratio.to_string()),
        list(&wall)
    )
}

/// All tables of a run, and under what circumstances it was.
pub fn tables(results: &Results) -> String {
    let about = &results.about;
    let mut lines = vec![format!(
        "`{}`, {} CPUs, load {}{}:\n",
        about.command,
        about.cpus,
        about.load.join(", then "),
        about
            .versions
            .iter()
            .map(|version| format!(", {version}"))
            .collect::<String>()
    )];
    let mut table = |header: &str, rows: Vec<String>| {
        lines.push(header.to_owned());
        lines.extend(rows);
    };
    match &results.found {
        Found::Requests { rows } => table(REQUESTS, rows.iter().map(request_line).collect()),
        Found::Guests { rows } => table(GUESTS, rows.iter().map(guest_line).collect()),
        Found::Log { rows } => table(LOG, rows.iter().map(log_line).collect()),
        Found::Tail { tails } => table(TAILS, tails.iter().map(ToString::to_string).collect()),
        Found::Growth { series } => lines.push(growth::table(series)),
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(times: &[(Kind, f64)]) -> Row {
        let mut row = Row::new("work", 1);
        for (kind, wall) in times {
            row.add(
                *kind,
                Sample {
                    wall: *wall,
                    cpu: 0.0,
                },
            );
        }
        row
    }

    #[test]
    fn the_best_pool_counts() {
        let row = row(&[
            (Kind::Razorfs, 100.0),
            (Kind::Virtiofsd(0), 300.0),
            (Kind::Virtiofsd(4), 200.0),
            (Kind::VirtiofsdTmpfs(1), 50.0),
        ]);
        assert_eq!(row.virtiofsd(), Some(Kind::Virtiofsd(4)));
        let line = request_line(&row);
        assert!(
            line.starts_with("| work | 1 | 2.00 (2.00 to 2.00) | 4 | 0.50 |"),
            "{line}"
        );
    }

    #[test]
    fn what_was_not_measured_stays_empty() {
        assert_eq!(
            request_line(&row(&[])).matches("|  ").count(),
            8,
            "{}",
            request_line(&row(&[]))
        );
        assert!(row(&[(Kind::Floor, 1.0)]).virtiofsd().is_none());
    }

    #[test]
    fn rows_are_read_as_they_were_written() {
        let row = row(&[(Kind::Virtiofsd(4), 2.0), (Kind::Disk, 3.0)]);
        let text = serde_json::to_string(&row).unwrap();
        let again: Row = serde_json::from_str(&text).unwrap();
        assert_eq!(again.samples.len(), 2);
        assert_eq!(again.wall_us(Kind::Virtiofsd(4)), Some(0.002));
    }
}
