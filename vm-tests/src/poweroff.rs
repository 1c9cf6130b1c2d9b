//! What rounds of work and power cuts do and find, whoever loses power: one run of the workload
//! until its cut, and the sum of all.

use crate::guest::{Error, Result};
use crate::workload::{Able, Breach, Kind, Op, Tree, judge, parse_dump_line, plan, syncs};

/// Operations of a round: more than a guest gets to before its power is cut.
const OPERATIONS: u32 = 20_000;

/// What a guest may have said without its host having heard it: each serial port on the way has
/// 4096 bytes in Linux and 16 in the UART, and for a guest within a guest there are two.
const UNHEARD_BYTES: u64 = 3 * 4096;

/// What a series of rounds found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Rounds done.
    pub rounds: u32,
    /// Operations that had returned before the cuts, and steps of applications.
    pub operations: u64,
    /// Those after which something is durable.
    pub syncs: u64,
    /// Images of a disk that were judged, when there are any.
    pub images: Option<Images>,
    /// Rounds or images in which something synced was missing.
    pub lost: u64,
    /// Those that broke the contract otherwise.
    pub violations: u64,
}

/// Images of a disk as a power cut may leave it, by what is on them of the writes that were not
/// flushed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Images {
    /// There were no such writes.
    pub flushed: u64,
    /// Any of them, each whole or not at all.
    pub subset: u64,
    /// Any of them, some in part.
    pub torn: u64,
}

impl std::ops::AddAssign for Images {
    fn add_assign(&mut self, other: Images) {
        self.flushed += other.flushed;
        self.subset += other.subset;
        self.torn += other.torn;
    }
}

impl Summary {
    /// Counts what a run of the workload did.
    pub fn note(&mut self, round: &Round) {
        self.operations += u64::from(round.returned);
        self.syncs += syncs(&round.ops, round.returned);
    }

    /// Counts a breach.
    pub fn note_breach(&mut self, kind: Kind) {
        match kind {
            Kind::Lost => self.lost += 1,
            Kind::Wrong => self.violations += 1,
        }
    }

    /// Whether the contract was kept.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.lost == 0 && self.violations == 0
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Summary {
            rounds,
            operations,
            syncs,
            images,
            lost,
            violations,
        } = self;
        write!(f, "rounds={rounds} operations={operations} syncs={syncs}")?;
        if let Some(Images {
            flushed,
            subset,
            torn,
        }) = images
        {
            let all = flushed + subset + torn;
            write!(
                f,
                " images={all} flushed={flushed} subset={subset} torn={torn}"
            )?;
        }
        write!(f, " lost={lost} violations={violations}")
    }
}

/// What one round did before its cut.
#[derive(Debug, Clone)]
pub struct Round {
    /// The workload's seed.
    pub seed: u64,
    /// What the client can do.
    able: Able,
    /// Its operations.
    pub ops: Vec<Op>,
    /// The last that it is known to have begun.
    pub begun: u32,
    /// How many had returned.
    pub returned: u32,
}

impl Round {
    /// A round's plan.
    #[must_use]
    pub fn new(seed: u64, able: Able) -> Self {
        Round {
            seed,
            able,
            ops: plan(seed, OPERATIONS, able),
            begun: 0,
            returned: 0,
        }
    }

    /// The command that starts it in `dir`.
    #[must_use]
    pub fn command(&self, dir: &str) -> String {
        format!("run {} {OPERATIONS} {dir}{}", self.seed, self.able.words())
    }

    /// How many operations may have been begun, when `unread_bytes` have arrived and were not
    /// read.
    ///
    /// What a guest says is behind what it does, and too low a bound makes a sound state a breach.
    /// Too high a one hides no loss: what was synced is in all later states too.
    #[must_use]
    pub fn begun_at_most(&self, unread_bytes: u64) -> u32 {
        let begun = self.begun.max(self.returned);
        // Two lines for an operation, each a letter, a blank, its number and a newline.
        let bytes_min = 2 * (3 + u64::from(begun.max(1).ilog10() + 1));
        let unheard = (unread_bytes + UNHEARD_BYTES) / bytes_min + 1;
        begun.saturating_add(u32::try_from(unheard).unwrap_or(u32::MAX))
    }

    /// Takes in what a guest had still said when it ended.
    pub fn note_rest(&mut self, lines: &[String]) {
        for line in lines {
            // A line may be cut off, in the middle of its number perhaps: then it is not the next.
            let number = match line.split_once(' ') {
                Some(("S" | "D", number)) => number.parse().unwrap_or(0),
                _ => continue,
            };
            if number == self.begun || number == self.begun.saturating_add(1) {
                let _ = self.note(line);
            }
        }
    }

    /// Takes in a line of the agent. Whether the workload goes on.
    ///
    /// # Errors
    /// When an operation failed.
    pub fn note(&mut self, line: &str) -> Result<bool> {
        let number = |text: &str| text.parse().map_err(|error| Error::new(line, error));
        match line.split_once(' ') {
            Some(("S", id)) => self.begun = number(id)?,
            Some(("D", id)) => self.returned = number(id)?,
            _ if line == "ok" => return Ok(false),
            // The end of a line that was cut off.
            _ if line.starts_with("error") => return Err(Error(line.into())),
            _ => {}
        }
        Ok(true)
    }

    /// Judges the tree as found, when `begun` operations may have been begun and `returned` had
    /// returned.
    ///
    /// # Errors
    /// Why it is not one that may be.
    pub fn judge(
        &self,
        begun: u32,
        returned: u32,
        tree: &Tree,
    ) -> std::result::Result<u32, Breach> {
        judge(&self.ops, begun, returned, tree)
    }
}

/// Reads a dump.
///
/// # Errors
/// When a line is none of a dump.
pub fn tree_of(lines: &[String]) -> Result<Tree> {
    lines
        .iter()
        .map(|line| {
            parse_dump_line(line).ok_or_else(|| Error(format!("not a line of a dump: {line}")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round() -> Round {
        Round {
            seed: 1,
            able: Able::ALL,
            ops: Vec::new(),
            begun: 0,
            returned: 0,
        }
    }

    #[test]
    fn a_line_that_was_cut_off_is_not_taken() {
        let mut round = round();
        let lines = ["S 1", "D 1", "S 2", "noise", "D 2", "S 3", "D", "S 37"];
        round.note_rest(&lines.map(String::from));
        assert_eq!((round.begun, round.returned), (3, 2));
    }

    #[test]
    fn what_was_not_heard_may_have_been_begun() {
        let mut round = round();
        let few = round.begun_at_most(0);
        assert!(u64::from(few) >= UNHEARD_BYTES / 8);
        assert!(round.begun_at_most(800) >= few + 100);
        round.begun = 10_000;
        assert!(u64::from(round.begun_at_most(0)) >= 10_000 + UNHEARD_BYTES / 16);
    }

    #[test]
    fn the_summary_is_a_line_of_names_and_values() {
        let mut summary = Summary {
            rounds: 5,
            operations: 30,
            syncs: 9,
            ..Summary::default()
        };
        assert!(summary.is_good());
        let line = "rounds=5 operations=30 syncs=9 lost=0 violations=0";
        assert_eq!(summary.to_string(), line);
        for kind in [Kind::Lost, Kind::Wrong] {
            let mut bad = summary;
            bad.note_breach(kind);
            assert!(!bad.is_good());
        }
        summary.note_breach(Kind::Lost);
        summary.images = Some(Images {
            flushed: 2,
            subset: 3,
            torn: 4,
        });
        let line = "rounds=5 operations=30 syncs=9 images=9 flushed=2 subset=3 torn=4 \
                    lost=1 violations=0";
        assert_eq!(summary.to_string(), line);
    }
}
