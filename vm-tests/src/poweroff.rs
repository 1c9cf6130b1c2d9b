//! Rounds of: a guest works, its power and the daemon's are cut, everything comes back and is
//! judged.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::guest::{Error, Guest, GuestOptions, Image, Result};
use crate::store::{Daemon, check, mkfs};
use crate::workload::{Op, Tree, judge, parse_dump_line, plan, plan_without_sync, syncs};

/// Operations of a round: more than a guest gets to before its power is cut.
const OPERATIONS: u32 = 20_000;

/// What a series of rounds found.
#[derive(Debug, Default, Clone, Copy)]
pub struct Summary {
    /// Rounds done.
    pub rounds: u32,
    /// Operations that had returned before the cuts.
    pub operations: u64,
    /// Syncs among them.
    pub syncs: u64,
    /// Images of a disk that were judged.
    pub images: u64,
    /// Rounds or images in which something was lost or otherwise not as the contract says.
    pub violations: u64,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Summary {
            rounds,
            operations,
            syncs,
            images,
            violations,
        } = self;
        write!(f, "{rounds} rounds, {operations} operations, {syncs} syncs")?;
        if *images > 0 {
            write!(f, ", {images} crash images")?;
        }
        write!(f, ": {violations} violations")
    }
}

/// What one round did before its cut.
pub struct Round {
    /// The workload's seed.
    pub seed: u64,
    /// Its operations.
    pub ops: Vec<Op>,
    /// How many were begun.
    pub begun: u32,
    /// How many had returned.
    pub returned: u32,
}

impl Round {
    /// A round of a workload that never syncs the whole file system; to be started with `no-sync`.
    #[must_use]
    pub fn without_sync(seed: u64) -> Self {
        Round {
            ops: plan_without_sync(seed, OPERATIONS),
            ..Round::new(seed)
        }
    }

    /// A round's plan.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Round {
            seed,
            ops: plan(seed, OPERATIONS),
            begun: 0,
            returned: 0,
        }
    }

    /// The command that starts it in `dir`.
    #[must_use]
    pub fn command(&self, dir: &str) -> String {
        format!("run {} {OPERATIONS} {dir}", self.seed)
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

    /// Whether operation `returned` is a sync.
    #[must_use]
    pub fn has_synced(&self) -> bool {
        let last = (self.returned as usize)
            .checked_sub(1)
            .and_then(|index| self.ops.get(index));
        matches!(last, Some(Op::Fsync { .. } | Op::FsyncDir(_) | Op::Sync))
    }

    /// Judges the tree as found.
    ///
    /// # Errors
    /// Why it is not one that may be.
    pub fn judge(&self, tree: &Tree) -> Result<u32> {
        judge(&self.ops, self.begun, self.returned, tree).map_err(|reason| {
            // Where it stopped tells more than that it is wrong.
            match judge(&self.ops, self.begun, 0, tree) {
                Ok(state) => Error(format!("{reason}; it is as after operation {state}")),
                Err(_) => Error(format!("{reason}; it is as after no operation")),
            }
        })
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
        let mut round = Round::new(rng.random());
        let time = Duration::from_millis(rng.random_range(300..4_000));
        let dir = format!("/mnt/round{number}");
        machine.work(&mut round, &dir, time)?;
        machine.cut(cut, &mut round)?;
        if cut == Cut::Both
            && let Err(error) = check(&store)
        {
            summary.violations += 1;
            println!("round {number}: VIOLATION: razorfsck: {error}");
        }
        machine.come_back(plan, &store, cut)?;
        let tree = machine.dump(round.seed, &dir)?;
        summary.rounds += 1;
        summary.operations += u64::from(round.returned);
        summary.syncs += syncs(&round.ops, round.returned);
        match round.judge(&tree) {
            Ok(state) => println!(
                "round {number}: {cut:?} cut after {} of {} operations, state {state} is there",
                round.returned, round.begun
            ),
            Err(error) => {
                summary.violations += 1;
                println!(
                    "round {number}: VIOLATION ({cut:?}, workload {}): {error}",
                    round.seed
                );
            }
        }
        settled.push((round.seed, tree));
    }
    // What was there after its own cut was durable: it must have outlived all others.
    for (number, (seed, tree)) in (1..).zip(&settled) {
        if machine.dump(*seed, &format!("/mnt/round{number}"))? != *tree {
            summary.violations += 1;
            println!("round {number}: VIOLATION: changed by a later round");
        }
    }
    machine.stop()?;
    if let Err(error) = check(&store) {
        summary.violations += 1;
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
        let mut rest = Vec::new();
        match cut {
            Cut::Both | Cut::Guest => {
                if cut == Cut::Both {
                    self.daemon.kill();
                }
                self.guest.cut();
                while let Ok(line) = self.guest.line() {
                    rest.push(line);
                }
            }
            Cut::Reset => {
                self.guest.reset()?;
                rest = self.guest.wait_ready()?;
            }
        }
        for line in rest {
            // The last line may be cut off, in the middle of its number perhaps.
            let whole = matches!(line.split_once(' '), Some(("S" | "D", _)));
            if whole && !self.is_cut_off(&line, round) {
                round.note(&line)?;
            }
        }
        round.begun = round.begun.max(round.returned.saturating_add(1));
        Ok(())
    }

    /// Whether a line's number is not the one that follows: the line was cut off.
    fn is_cut_off(&self, line: &str, round: &Round) -> bool {
        let number: u32 = line
            .split_once(' ')
            .and_then(|(_, n)| n.parse().ok())
            .unwrap_or(0);
        number != round.begun && number != round.begun.saturating_add(1)
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
