//! Snapshots that are taken while a guest works, until its power goes and in that moment, and what
//! they show afterwards.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::jobs::Dir;
use crate::guest::image::run;
use crate::guest::{Agent, Error, Result};
use crate::poweroff::{Round, tree_of};
use crate::store::program;
use crate::workload::{Breach, Kind, Tree, judge_live, renumbered};

/// Snapshots that are kept, at most.
const KEPT_MAX: usize = 6;
/// Milliseconds between one and the next.
const PAUSE_MILLIS: std::ops::Range<u64> = 50..1_500;

/// A snapshot that was asked for.
#[derive(Debug)]
pub(super) struct Snapshot {
    name: String,
    /// Operations that had returned before it was asked for: all of them are in it.
    returned: u32,
    /// Why it is not known to be there; otherwise it is durable.
    failed: Option<Error>,
    /// Where the work was, and what the snapshot has of it, once it was looked at.
    seen: Option<(String, Tree)>,
}

/// Takes them: what was asked for until `stop`, with `heard` operations known to have returned. What
/// ends behind that may have found the daemon gone and opened the store itself, as a power cut left
/// it: of that only what was durable is sure to be in it.
pub(super) fn take(
    store: &Path,
    round: u32,
    heard: &AtomicU32,
    stop: &AtomicBool,
    rng: &mut ChaCha8Rng,
) -> Vec<Snapshot> {
    let mut taken = Vec::new();
    while !stop.load(Ordering::Acquire) {
        std::thread::sleep(Duration::from_millis(rng.random_range(PAUSE_MILLIS)));
        let name = format!("r{round}-{}", taken.len());
        let returned = heard.load(Ordering::Acquire);
        let failed = command(store, "snapshot", &name).err();
        let is_last = failed.is_some();
        let returned = match stop.load(Ordering::Acquire) {
            true => 0,
            false => returned,
        };
        taken.push(Snapshot {
            name,
            returned,
            failed,
            seen: None,
        });
        if is_last {
            break;
        }
    }
    taken
}

/// Has `razorfs` do something to a snapshot.
fn command(store: &Path, command: &str, snapshot: &str) -> Result<()> {
    let name = format!("main@{snapshot}");
    run(program("razorfs").arg(command).arg(store).arg(name)).map(drop)
}

/// All that are kept.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    kept: Vec<Snapshot>,
    /// How many were looked at.
    pub(super) judged: u32,
    /// Operations of the guest that the host has heard to have returned.
    pub(super) heard: Arc<AtomicU32>,
}

impl Snapshots {
    /// Adds what was taken. Only where the daemon was killed may one not have been.
    ///
    /// # Errors
    /// Which could not be taken.
    pub(super) fn add(&mut self, taken: Vec<Snapshot>, killed: bool) -> Result<()> {
        self.kept.extend(taken);
        match self.kept.iter().find_map(|each| each.failed.as_ref()) {
            Some(error) if !killed => Err(Error::new("taking a snapshot", error)),
            _ => Ok(()),
        }
    }

    /// Looks at what was taken since the last time, in the guest that worked: how each breaks the
    /// contract, if it does.
    pub(super) fn judge(
        &mut self,
        agent: &mut Agent,
        (round, dir): (&Round, &Dir),
        before: Option<&Dir>,
    ) -> Result<Vec<Breach>> {
        let mut breaches = Vec::new();
        let there = agent.shell("busybox ls /mnt/.snapshots")?;
        let is_there = |name: &str| there.lines().any(|line| line.trim() == name);
        // Where it was said to be there, it must be.
        self.kept.retain_mut(|snapshot| {
            let gone = !is_there(&snapshot.name);
            if gone && snapshot.failed.is_none() {
                breaches.push(Breach {
                    kind: Kind::Lost,
                    reason: format!("the snapshot {} is gone", snapshot.name),
                });
            }
            snapshot.failed = None;
            !gone
        });
        for snapshot in self.kept.iter_mut().filter(|each| each.seen.is_none()) {
            let path = below(&snapshot.name, &dir.path);
            let tree = tree_of(&agent.lines(&format!("dump {} {path}", dir.seed))?)?;
            let begun = round.begun_at_most(0);
            if let Err(mut breach) = judge_live(&round.ops, begun, snapshot.returned, &tree) {
                breach.reason = format!("the snapshot {}: {}", snapshot.name, breach.reason);
                breaches.push(breach);
            }
            if let Some((earlier, settled)) = before.and_then(Dir::settled) {
                breaches.extend(compare(agent, snapshot, earlier, settled)?);
            }
            snapshot.seen = Some((path, tree));
            self.judged += 1;
        }
        Ok(breaches)
    }

    /// Looks at all of them once more: they are what they were.
    pub(super) fn judge_all(&self, agent: &mut Agent, seeds: &[&Dir]) -> Result<Vec<Breach>> {
        let mut breaches = Vec::new();
        for snapshot in &self.kept {
            let Some((path, tree)) = &snapshot.seen else {
                continue;
            };
            let dir = seeds
                .iter()
                .find(|dir| below(&snapshot.name, &dir.path) == *path);
            let dir = dir.ok_or_else(|| Error(format!("nobody worked in {path}")))?;
            breaches.extend(compare(agent, snapshot, dir, tree)?);
        }
        Ok(breaches)
    }

    /// Deletes some, so that there are never too many. To be called with the daemon at work.
    pub(super) fn thin_out(&mut self, store: &Path, rng: &mut ChaCha8Rng) -> Result<()> {
        while self.kept.len() > KEPT_MAX {
            let snapshot = self.kept.swap_remove(rng.random_range(0..self.kept.len()));
            command(store, "delete", &snapshot.name)?;
        }
        Ok(())
    }
}

/// Where a directory of the dataset is in one of its snapshots.
fn below(snapshot: &str, path: &str) -> String {
    let path = path.strip_prefix("/mnt/").unwrap_or(path);
    format!("/mnt/.snapshots/{snapshot}/{path}")
}

/// Whether a directory in a snapshot is what it was, there or in the dataset, where its inodes have
/// other numbers.
fn compare(
    agent: &mut Agent,
    snapshot: &Snapshot,
    dir: &Dir,
    tree: &Tree,
) -> Result<Option<Breach>> {
    let path = below(&snapshot.name, &dir.path);
    let found = tree_of(&agent.lines(&format!("dump {} {path}", dir.seed))?)?;
    Ok((renumbered(&found) != renumbered(tree)).then(|| Breach {
        kind: Kind::Lost,
        reason: format!("{path} is not what it was"),
    }))
}
