//! Rounds of: a guest works, its power and the daemon's are cut, everything comes back and is
//! judged.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::guest::{Error, Guest, GuestOptions, Image, Result};
use crate::store::{Daemon, check, mkfs};
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
    /// Operations that had returned before the cuts.
    pub operations: u64,
    /// Syncs among them.
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
    /// Counts what a round did.
    pub fn note(&mut self, round: &Round) {
        self.rounds += 1;
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

/// How to run.
pub struct Plan {
    /// Rounds.
    pub rounds: u32,
    /// Decides everything.
    pub seed: u64,
    /// For the store, sockets and logs.
    pub dir: PathBuf,
    /// What guests boot.
    pub image: Image,
    /// `tcg` or `kvm`.
    pub accelerator: String,
}

/// How a round ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// SIGKILL of guest and daemon.
    Both,
    /// SIGKILL of the guest; the daemon goes on and serves the next.
    Guest,
    /// The reset button; QEMU and the daemon go on.
    Reset,
}

/// Runs the rounds; prints each.
///
/// # Errors
/// When the machinery fails; a violation is counted instead.
pub fn run(plan: &Plan) -> Result<Summary> {
    let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
    let store = plan.dir.join("store");
    mkfs(&store)?;
    let mut summary = Summary::default();
    let mut machine = Machine::start(plan, &store)?;
    let mut settled: Vec<(u64, Tree)> = Vec::new();
    for number in 1..=plan.rounds {
        let cut = match rng.random_range(0..10) {
            0..7 => Cut::Both,
            7..9 => Cut::Guest,
            _ => Cut::Reset,
        };
        let dir = format!("/mnt/round{number}");
        let mut round = Round::new(rng.random(), machine.guest.able(&dir)?);
        let time = Duration::from_millis(rng.random_range(300..4_000));
        machine.work(&mut round, &dir, time)?;
        machine.cut(cut, &mut round)?;
        if cut == Cut::Both
            && let Err(error) = check(&store)
        {
            summary.note_breach(Kind::Wrong);
            println!("round {number}: VIOLATION: razorfsck: {error}");
        }
        machine.come_back(plan, &store, cut)?;
        let tree = machine.dump(round.seed, &dir)?;
        summary.note(&round);
        match round.judge(round.begun_at_most(0), round.returned, &tree) {
            Ok(state) => println!(
                "round {number}: {cut:?} cut after {} of {} operations, state {state} is there",
                round.returned, round.begun
            ),
            Err(breach) => {
                summary.note_breach(breach.kind);
                println!(
                    "round {number} ({cut:?}, workload {}): {breach}",
                    round.seed
                );
            }
        }
        settled.push((round.seed, tree));
    }
    // What was there after its own cut was durable: it must have outlived all others.
    for (number, (seed, tree)) in (1..).zip(&settled) {
        if machine.dump(*seed, &format!("/mnt/round{number}"))? != *tree {
            summary.note_breach(Kind::Lost);
            println!("round {number}: LOST: changed by a later round");
        }
    }
    machine.stop()?;
    if let Err(error) = check(&store) {
        summary.note_breach(Kind::Wrong);
        println!("VIOLATION: razorfsck: {error}");
    }
    Ok(summary)
}

/// A daemon and its guest.
struct Machine {
    dir: PathBuf,
    daemon: Daemon,
    guest: Guest,
}

impl Machine {
    fn start(plan: &Plan, store: &Path) -> Result<Machine> {
        let dir = plan.dir.clone();
        let daemon = Daemon::start(store, &dir.join("fs"), "razorfs", &dir.join("razorfsd.log"))?;
        let guest = Self::boot(plan)?;
        let mut machine = Machine { dir, daemon, guest };
        machine.mount()?;
        Ok(machine)
    }

    fn boot(plan: &Plan) -> Result<Guest> {
        let options = GuestOptions {
            virtiofs: Some((plan.dir.join("fs"), "razorfs".into())),
            accelerator: plan.accelerator.clone(),
            ..GuestOptions::default()
        };
        Guest::start(&plan.dir, &plan.image, &options)
    }

    fn mount(&mut self) -> Result<()> {
        self.guest.order("mount virtiofs razorfs /mnt")
    }

    fn dump(&mut self, seed: u64, dir: &str) -> Result<Tree> {
        tree_of(&self.guest.lines(&format!("dump {seed} {dir}"))?)
    }

    /// Lets the workload run for a while.
    fn work(&mut self, round: &mut Round, dir: &str, time: Duration) -> Result<()> {
        self.guest.send(&round.command(dir))?;
        // The first line tells that the workload's directory is durable.
        let mut started: Option<Instant> = None;
        while started.is_none_or(|started| started.elapsed() < time) {
            let line = self.guest.line()?;
            started.get_or_insert_with(Instant::now);
            if !round.note(&line)? {
                break;
            }
        }
        Ok(())
    }

    fn cut(&mut self, cut: Cut, round: &mut Round) -> Result<()> {
        // What the guest had said before it ended.
        let rest = match cut {
            Cut::Both | Cut::Guest => {
                if cut == Cut::Both {
                    self.daemon.kill();
                }
                self.guest.cut();
                self.guest.rest()
            }
            Cut::Reset => {
                self.guest.reset()?;
                self.guest.wait_ready()?
            }
        };
        round.note_rest(&rest);
        Ok(())
    }

    fn come_back(&mut self, plan: &Plan, store: &Path, cut: Cut) -> Result<()> {
        match cut {
            Cut::Both => {
                let (socket, log) = (self.dir.join("fs"), self.dir.join("razorfsd.log"));
                self.daemon = Daemon::start(store, &socket, "razorfs", &log)?;
                self.guest = Self::boot(plan)?;
            }
            Cut::Guest => self.guest = Self::boot(plan)?,
            Cut::Reset => {}
        }
        self.mount()
    }

    fn stop(self) -> Result<()> {
        self.guest.power_off()?;
        self.daemon.stop()
    }
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
