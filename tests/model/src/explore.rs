//! Power cuts at every event of a workload: what may be left of the disks, and whether it is what
//! the contract allows.
//!
//! At each event, of the writes that wait for a flush: every subset when they are few, else none,
//! all, all but one, and some at random; and some of their 512-byte sectors. Overlapping writes that
//! wait together are the only ones whose order could show, and each subset that ends with the
//! earlier one is what the other order leaves. From what is left by cuts in recovery, everything is
//! deleted, after which nothing may be used.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use razorfs::disk::sim::Survival;
use razorfs::format::codec::Compression;
use razorfs::format::record::Dedup;

use crate::limits::Limits;
use crate::workload::{self, Workload};
use crate::world::{Outcome, Setup, World};

/// Waiting writes of which every subset is tried.
const EXHAUSTIVE_MAX: usize = 4;
/// Subsets tried of more.
const SAMPLES: usize = 6;
/// Torn states at each event.
const TORN: usize = 2;
/// One in so many states is recovered twice: power is cut in the first recovery.
const TWICE: u64 = 8;
/// In one of so many workloads power is cut in the opening before it, too.
const OPENINGS: u64 = 16;

/// A moment of power loss, and what survived of what was not flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    pub event: usize,
    pub survival: Survival,
    /// Power is cut in recovery too, by this seed.
    pub again: Option<u64>,
}

/// What was explored.
#[derive(Debug, Clone, Copy, Default)]
pub struct Explored {
    pub workloads: u64,
    /// States of the disks, no two of one workload the same but for torn ones.
    pub states: u64,
    /// Of those, power cuts in recovery.
    pub recoveries: u64,
}

/// What a cut may break.
#[derive(Debug)]
pub struct Failure {
    pub workload: Workload,
    pub cut: Option<Cut>,
    pub why: String,
}

/// How a workload's volume is made: compressing for every other one, and deduplicating for two of
/// three.
pub(crate) fn setup(workload: &Workload) -> Setup {
    let name = workload.to_string();
    let sum = name.bytes().fold(0, |sum, byte| sum + usize::from(byte));
    let compression = if sum % 2 == 1 { "lz4" } else { "off" };
    Setup {
        capacity_bytes: 1 << 30,
        dirty_limit_bytes: 64 << 20,
        strict: false,
        compression: compression.parse().unwrap_or(Compression::OFF),
        dedup: [Dedup::Off, Dedup::On, Dedup::Verify][sum % 3],
        limits: match sum % 5 {
            // The tree that every workload finds fits, and about one operation more.
            0 => Limits {
                bytes: 100_000,
                inodes: 6,
                of_project: sum % 2 == 1,
            },
            _ => Limits::default(),
        },
    }
}

pub(crate) fn quietly<T>(run: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("a panic".into()))
}

/// Runs a workload behind its prelude. Where the events of the workload begin is where those of the
/// world do.
///
/// # Errors
/// When engine and model disagree.
pub fn run(workload: &Workload) -> Outcome<World> {
    let mut world = World::new(setup(workload))?;
    if matches!(workload, Workload::Steps(_)) {
        for op in workload::prelude() {
            world.apply(&op)?;
        }
        world.reopen()?;
    }
    for op in workload.ops() {
        world.apply(&op).map_err(|why| format!("{op:?}: {why}"))?;
    }
    Ok(world)
}

/// All cuts to try from an event on.
fn cuts(world: &World, first: usize, seed: u64) -> Vec<Cut> {
    let mut recording = world.sim().recording();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut cuts = Vec::new();
    let mut before = 0;
    for event in first..=recording.len() {
        let waiting = recording.unflushed(event);
        // A subset without the newest write was tried before it.
        let newest = match waiting {
            0 => 0,
            _ if waiting > before && event > 0 => 1 << (waiting - 1).min(63),
            _ => 0,
        };
        let mut survivals = HashSet::new();
        if waiting <= EXHAUSTIVE_MAX {
            survivals.extend((0..1u64 << waiting).filter(|bits| bits & newest == newest));
        } else {
            let full = u64::MAX >> (64 - waiting.min(64));
            let missing = 1 << rng.random_range(0..waiting.min(64));
            survivals.extend([newest, full, (full & !missing) | newest]);
            survivals.extend((0..SAMPLES).map(|_| rng.random::<u64>() & full | newest));
        }
        let mut survivals: Vec<u64> = survivals.into_iter().collect();
        survivals.sort_unstable();
        let torn = if waiting > 0 { TORN } else { 0 };
        let subsets = survivals.into_iter().map(Survival::Some);
        let torn: Vec<_> = (0..torn).map(|_| Survival::Random(rng.random())).collect();
        for survival in subsets.chain(torn) {
            let again = (rng.random_range(0..TWICE) == 0).then(|| rng.random_range(0..1_000_000));
            cuts.push(Cut {
                event,
                survival,
                again,
            });
        }
        before = waiting;
    }
    cuts
}

fn judge(world: &World, recording: &mut razorfs::disk::sim::Recording, cut: Cut) -> Outcome {
    quietly(|| {
        let mut crashed = recording.crash_at(cut.event, cut.survival);
        world.judge(&crashed.killed().media(), cut.event)?;
        if let Some(seed) = cut.again {
            crashed = world.crash_recovery(&crashed, seed)?;
            let survived = world.judge(&crashed.media(), cut.event)?;
            world.empty_survived(survived)?;
            world.check_store(&crashed.media(), "when empty")?;
        }
        Ok(())
    })
}

/// Cuts the power of a workload wherever it can be cut.
///
/// # Errors
/// The first cut that breaks the contract.
pub fn explore(
    workload: &Workload,
    seed: u64,
    explored: &mut Explored,
) -> Result<(), Box<Failure>> {
    let failure = |cut, why| {
        let workload = workload.clone();
        Box::new(Failure { workload, cut, why })
    };
    let world = quietly(|| run(workload)).map_err(|why| failure(None, why))?;
    let mut recording = world.sim().recording();
    explored.workloads += 1;
    // The opening is the same for all.
    let first = match explored.workloads % OPENINGS {
        1 => 0,
        _ => world.opened(),
    };
    for cut in cuts(&world, first, seed) {
        explored.states += 1 + u64::from(cut.again.is_some());
        explored.recoveries += u64::from(cut.again.is_some());
        judge(&world, &mut recording, cut).map_err(|why| failure(Some(cut), why))?;
    }
    Ok(())
}

/// Repeats one cut.
///
/// # Errors
/// What it breaks.
pub fn replay(workload: &Workload, cut: Option<Cut>) -> Outcome {
    let world = run(workload)?;
    match cut {
        Some(cut) => judge(&world, &mut world.sim().recording(), cut),
        None => Ok(()),
    }
}

/// The shortest workload found that fails too, with its earliest cut.
#[must_use]
pub fn shorten(failure: Failure, seed: u64) -> Failure {
    let mut best = failure;
    loop {
        let Workload::Steps(steps) = &best.workload else {
            return best;
        };
        let without = (0..steps.len()).map(|at| {
            let mut steps = steps.clone();
            steps.remove(at);
            steps
        });
        let unsynced = (0..steps.len())
            .filter(|at| steps[*at].1 != workload::Sync::Nothing)
            .map(|at| {
                let mut steps = steps.clone();
                steps[at].1 = workload::Sync::Nothing;
                steps
            });
        let shorter = without.chain(unsynced).find_map(|steps| {
            let workload = Workload::Steps(steps);
            explore(&workload, seed, &mut Explored::default()).err()
        });
        match shorter {
            Some(shorter) => best = *shorter,
            None => return best,
        }
    }
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "@{}", self.event)?;
        match self.survival {
            Survival::None => f.write_str(":none")?,
            Survival::All => f.write_str(":all")?,
            Survival::Some(bits) => write!(f, ":some{bits}")?,
            Survival::Random(seed) => write!(f, ":torn{seed}")?,
        }
        self.again.map_or(Ok(()), |seed| write!(f, "+{seed}"))
    }
}

impl std::str::FromStr for Cut {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (text, again) = match text.split_once('+') {
                Some((text, again)) => (text, Some(again.parse().ok()?)),
                None => (text, None),
            };
            let (event, survival) = text.split_once(':')?;
            let survival = match survival {
                "none" => Survival::None,
                "all" => Survival::All,
                _ => match survival.strip_prefix("some") {
                    Some(bits) => Survival::Some(bits.parse().ok()?),
                    None => Survival::Random(survival.strip_prefix("torn")?.parse().ok()?),
                },
            };
            Some(Cut {
                event: event.parse().ok()?,
                survival,
                again,
            })
        };
        parse()
            .ok_or_else(|| format!("'{text}' is no power cut: it is like 12:some5 or 12:torn3+7"))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cut = self.cut.map(|cut| cut.to_string()).unwrap_or_default();
        writeln!(f, "{}{cut}: {}", self.workload, self.why)?;
        for op in self.workload.ops() {
            writeln!(f, "    {op:?}")?;
        }
        write!(
            f,
            "again with: cargo run --release -p model-tests -- replay '{}{cut}'",
            self.workload
        )
    }
}
