//! What guests do between power cuts, and how it is judged afterwards.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::snapshots::Snapshots;

use crate::guest::{Agent, Error, Result};
use crate::poweroff::{Round, Summary, tree_of};
use crate::workload::{Breach, Kind, Tree};

/// An application that makes no step for so many cuts waits for something that never comes.
const IDLE_MAX: u32 = 12;

/// What a guest does.
pub(super) enum Job {
    /// The workload that is compared with a model, anew after each cut.
    Model(Model),
    /// Applications, which go on after each cut.
    Apps(Apps),
}

/// What a job has to say of itself after a cut.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// How far it was, and what was found.
    pub(super) told: String,
    /// What broke the contract.
    pub(super) breaches: Vec<Breach>,
    /// What is to be counted.
    pub(super) operations: u64,
    /// Of those, what made something durable.
    pub(super) syncs: u64,
}

/// The model's workload.
pub(super) struct Model {
    /// Directories that were worked in, the last one now.
    dirs: Vec<Dir>,
    round: Option<Round>,
    /// It has nothing left to do.
    finished: bool,
    /// Of all that it works on.
    pub(super) snapshots: Snapshots,
}

/// Where the workload was.
#[derive(Debug)]
pub(super) struct Dir {
    pub(super) path: String,
    pub(super) seed: u64,
    /// What was there after its cut: durable, so it must outlive all others.
    settled: Option<Tree>,
}

/// Applications in a guest.
pub(super) struct Apps {
    /// Where each has its directory.
    pub(super) dir: String,
    /// The campaign's seed.
    pub(super) seed: u64,
    /// The last step of each that it said to be durable.
    pub(super) durable: BTreeMap<String, u64>,
    /// Those that failed before the cut, and how.
    pub(super) failed: BTreeMap<String, String>,
    /// For how many cuts each has made no step.
    idle: BTreeMap<String, u32>,
    /// What `durable` was when this stretch of work began.
    begun_at: BTreeMap<String, u64>,
}

impl Job {
    /// Begins to work, behind [`Job::judge`] except for the first time.
    pub(super) fn begin(&mut self, agent: &mut Agent, seed: u64) -> Result<()> {
        match self {
            Job::Model(model) => model.begin(agent, seed),
            Job::Apps(apps) => apps.begin(agent),
        }
    }

    /// Whether nothing more is to be heard of it before the next cut.
    pub(super) fn is_idle(&self) -> bool {
        match self {
            Job::Model(model) => model.finished,
            Job::Apps(apps) => apps.failed.len() >= apps.durable.len(),
        }
    }

    /// Takes in a line. Whether there are more to come.
    pub(super) fn note(&mut self, line: &str) -> Result<bool> {
        match self {
            Job::Model(model) => model.note(line),
            Job::Apps(apps) => {
                apps.note(line);
                Ok(true)
            }
        }
    }

    /// Takes in what a guest that is gone had still said; the last line may be cut off.
    pub(super) fn note_rest(&mut self, lines: &[String]) {
        match self {
            Job::Model(Model {
                round: Some(round), ..
            }) => round.note_rest(lines),
            Job::Model(_) => {}
            Job::Apps(apps) => {
                let whole = lines.len().saturating_sub(1);
                lines.iter().take(whole).for_each(|line| apps.note(line));
            }
        }
    }

    /// Looks at what is there after a cut.
    pub(super) fn judge(&mut self, agent: &mut Agent) -> Result<Verdict> {
        match self {
            Job::Model(model) => model.judge(agent),
            Job::Apps(apps) => apps.judge(agent),
        }
    }

    /// Looks at everything once more, in the end.
    pub(super) fn judge_all(&mut self, agent: &mut Agent) -> Result<Vec<Breach>> {
        match self {
            Job::Model(model) => model.judge_all(agent),
            Job::Apps(apps) => Ok(apps.judge(agent)?.breaches),
        }
    }
}

impl Dir {
    /// It, and what was there after its cut, if that is known.
    pub(super) fn settled(&self) -> Option<(&Dir, &Tree)> {
        Some((self, self.settled.as_ref()?))
    }
}

impl Model {
    pub(super) fn new() -> Model {
        Model {
            dirs: Vec::new(),
            round: None,
            finished: false,
            snapshots: Snapshots::default(),
        }
    }

    fn begin(&mut self, agent: &mut Agent, seed: u64) -> Result<()> {
        let path = format!("/mnt/round{}", self.dirs.len() + 1);
        let round = Round::new(seed, agent.able(&path)?);
        agent.send(&round.command(&path))?;
        self.dirs.push(Dir {
            path,
            seed,
            settled: None,
        });
        self.round = Some(round);
        self.finished = false;
        self.snapshots.heard.store(0, Ordering::Release);
        Ok(())
    }

    fn note(&mut self, line: &str) -> Result<bool> {
        let round = self
            .round
            .as_mut()
            .ok_or(Error("no work was begun".into()))?;
        self.finished = !round.note(line)?;
        self.snapshots
            .heard
            .store(round.returned, Ordering::Release);
        Ok(!self.finished)
    }

    fn judge(&mut self, agent: &mut Agent) -> Result<Verdict> {
        let (Some(round), Some((dir, before))) = (self.round.take(), self.dirs.split_last_mut())
        else {
            return Ok(Verdict::default());
        };
        let tree = tree_of(&agent.lines(&format!("dump {} {}", dir.seed, dir.path))?)?;
        let mut counted = Summary::default();
        counted.note(&round);
        let found = round.judge(round.begun_at_most(0), round.returned, &tree);
        dir.settled = Some(tree);
        let mut breaches: Vec<Breach> = found.as_ref().err().cloned().into_iter().collect();
        let judged = self.snapshots.judged;
        breaches.extend(self.snapshots.judge(agent, (&round, dir), before.last())?);
        let snapshots = self.snapshots.judged - judged;
        let (returned, begun) = (round.returned, round.begun);
        let state = found.as_ref().map_or(0, |state| *state);
        Ok(Verdict {
            told: format!("{returned} of {begun} operations, state {state}, {snapshots} snapshots"),
            breaches,
            operations: counted.operations,
            syncs: counted.syncs,
        })
    }

    fn judge_all(&mut self, agent: &mut Agent) -> Result<Vec<Breach>> {
        let mut breaches = Vec::new();
        for dir in &self.dirs {
            let tree = tree_of(&agent.lines(&format!("dump {} {}", dir.seed, dir.path))?)?;
            if dir.settled.as_ref().is_some_and(|settled| *settled != tree) {
                breaches.push(Breach {
                    kind: Kind::Lost,
                    reason: format!("{} was changed by later rounds", dir.path),
                });
            }
        }
        let dirs: Vec<&Dir> = self.dirs.iter().collect();
        breaches.extend(self.snapshots.judge_all(agent, &dirs)?);
        Ok(breaches)
    }
}

/// The step that an application is at, when what it found may be.
fn judge(name: &str, durable: u64, idle: u32, found: &str) -> std::result::Result<u64, Breach> {
    match found.parse::<u64>() {
        Ok(_) if idle >= IDLE_MAX => {
            let reason = format!("{name} made no step between {idle} cuts");
            Err(Breach::wrong(reason))
        }
        Ok(at) if at >= durable => Ok(at),
        Ok(at) => Err(Breach {
            kind: Kind::Lost,
            reason: format!("{name} is at step {at}, {durable} was durable"),
        }),
        Err(_) => Err(Breach::wrong(format!("{name} {found}"))),
    }
}

impl Apps {
    /// Applications by their names.
    pub(super) fn new(dir: String, seed: u64, names: &[&str]) -> Apps {
        Apps {
            dir,
            seed,
            durable: names.iter().map(|name| ((*name).to_owned(), 0)).collect(),
            failed: BTreeMap::new(),
            idle: BTreeMap::new(),
            begun_at: BTreeMap::new(),
        }
    }

    fn command(&self, what: &str) -> String {
        let names: Vec<&str> = self.durable.keys().map(String::as_str).collect();
        format!("{what} {} {} {}", self.seed, self.dir, names.join(" "))
    }

    fn begin(&mut self, agent: &mut Agent) -> Result<()> {
        self.begun_at = self.durable.clone();
        if self.durable.is_empty() {
            return Ok(());
        }
        agent.order(&self.command("apps"))
    }

    fn note(&mut self, line: &str) {
        if let Some(error) = line.strip_prefix("E ") {
            let (name, error) = error.split_once(' ').unwrap_or((error, ""));
            self.failed.insert(name.into(), error.into());
        }
        let mut words = line.split(' ');
        if let (Some("A"), Some(name), Some(step), None) =
            (words.next(), words.next(), words.next(), words.next())
            && let (Some(durable), Ok(step)) = (self.durable.get_mut(name), step.parse::<u64>())
        {
            *durable = step.max(*durable);
        }
    }

    fn judge(&mut self, agent: &mut Agent) -> Result<Verdict> {
        let mut breaches = Vec::new();
        let mut told = Vec::new();
        let before: u64 = self.begun_at.values().sum();
        let steps = self.durable.values().sum::<u64>().saturating_sub(before);
        let failed = std::mem::take(&mut self.failed);
        for line in agent.lines(&self.command("found"))? {
            let (name, found) = line.split_once(' ').unwrap_or((&line, ""));
            let found = match failed.get(name) {
                Some(error) => error,
                None => found,
            };
            let Some(durable) = self.durable.get_mut(name) else {
                return Err(Error(format!("no application: {line}")));
            };
            let idle = self.idle.entry(name.into()).or_default();
            *idle += 1;
            if self
                .begun_at
                .get(name)
                .is_none_or(|begun| *durable > *begun)
            {
                *idle = 0;
            }
            match judge(name, *durable, *idle, found) {
                Ok(at) => {
                    told.push(format!("{name} {at}"));
                    *durable = at;
                }
                // What is broken is left as it is, to be looked at.
                Err(breach) => {
                    breaches.push(breach);
                    self.durable.remove(name);
                }
            }
        }
        Ok(Verdict {
            told: told.join(", "),
            breaches,
            operations: steps,
            syncs: steps,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_applications_are_taken_from_whole_lines() {
        let mut job = Job::Apps(Apps::new("/mnt/apps".into(), 1, &["git", "append"]));
        assert!(job.note("A git 3").unwrap());
        let lines = ["A git 4", "A append 17", "A who 3", "A git", "A append 18"];
        job.note_rest(&lines.map(String::from));
        let Job::Apps(apps) = job else { panic!() };
        assert_eq!(apps.durable["git"], 4);
        assert_eq!(apps.durable["append"], 17, "the last line may be cut off");
        assert_eq!(apps.command("found"), "found 1 /mnt/apps append git");
    }

    #[test]
    fn an_application_that_fails_is_a_breach() {
        let mut job = Job::Apps(Apps::new("/mnt/apps".into(), 1, &["git"]));
        job.note("E git fsck says no").unwrap();
        let Job::Apps(apps) = job else { panic!() };
        assert_eq!(apps.failed["git"], "fsck says no");
        assert!(Job::Apps(apps).is_idle());
    }

    #[test]
    fn an_application_is_judged_by_what_it_said() {
        assert_eq!(judge("git", 7, 0, "8"), Ok(8));
        assert_eq!(judge("git", 7, 0, "6").unwrap_err().kind, Kind::Lost);
        let wrong = |idle, found| judge("git", 7, idle, found).unwrap_err();
        assert_eq!(wrong(0, "bad object"), Breach::wrong("git bad object"));
        assert_eq!(wrong(IDLE_MAX, "7").kind, Kind::Wrong);
    }
}
