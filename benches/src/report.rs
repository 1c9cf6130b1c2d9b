//! What was measured, as ratios.

use std::collections::HashMap;
use std::time::Duration;

use crate::daemons::Kind;

/// One round of one daemon.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Sample {
    /// Nanoseconds of an operation, from the driver.
    wall: f64,
    /// Of them, the daemon's CPU time.
    cpu: f64,
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
#[derive(Debug, serde::Serialize)]
pub struct Row {
    name: String,
    depth: usize,
    samples: HashMap<Kind, Vec<Sample>>,
    /// System calls of an operation, when they were counted.
    pub calls: HashMap<Kind, f64>,
}

/// Of the table.
pub const HEADER: &str = "\
| workload | in flight | times virtiofsd (spread) | times virtiofsd on tmpfs | floor's time times \
| daemon CPU us: razorfsd, virtiofsd, floor | us: razorfsd | calls: razorfsd, virtiofsd |
| --- | --- | --- | --- | --- | --- | --- | --- |";

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Row {
    /// One without rounds.
    pub fn new(name: &str, depth: usize) -> Row {
        Row {
            name: name.to_owned(),
            depth,
            samples: HashMap::new(),
            calls: HashMap::new(),
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
    fn ratios(&self, time: Kind, by: Kind) -> Vec<f64> {
        let pairs = self.of(time).iter().zip(self.of(by));
        pairs.map(|(time, by)| time.wall / by.wall).collect()
    }

    fn cpu(&self, kind: Kind) -> f64 {
        median(
            self.of(kind)
                .iter()
                .map(|sample| sample.cpu / 1000.0)
                .collect(),
        )
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let faster = self.ratios(Kind::Virtiofsd, Kind::Razorfs);
        let least = faster.iter().copied().fold(f64::INFINITY, f64::min);
        let most = faster.iter().copied().fold(0.0, f64::max);
        let tmpfs = median(self.ratios(Kind::VirtiofsdTmpfs, Kind::Razorfs));
        let floor = median(self.ratios(Kind::Razorfs, Kind::Floor));
        let wall = median(
            self.of(Kind::Razorfs)
                .iter()
                .map(|sample| sample.wall)
                .collect(),
        );
        write!(
            f,
            "| {} | {} | {:.2} ({least:.2} to {most:.2}) | {tmpfs:.2} | {floor:.2} | {:.2}, {:.2}, \
             {:.2} | {:.2} |",
            self.name,
            self.depth,
            median(faster),
            self.cpu(Kind::Razorfs),
            self.cpu(Kind::Virtiofsd),
            self.cpu(Kind::Floor),
            wall / 1000.0
        )?;
        let calls = |kind| self.calls.get(&kind).copied();
        match (calls(Kind::Razorfs), calls(Kind::Virtiofsd)) {
            (Some(ours), Some(theirs)) => write!(f, " {ours:.2}, {theirs:.2} |"),
            _ => write!(f, " |"),
        }
    }
}
