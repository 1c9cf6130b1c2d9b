//! Rounds of: several guests work on one store, the power of one or of everything is cut, what was
//! cut comes back and is judged. One guest does what a model knows, the others run applications.

mod jobs;
mod snapshots;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::guest::{Emulator, Error, Guest, GuestOptions, Image, Result};
use crate::poweroff::Summary;
use crate::store::{Daemon, check, mkfs};
use crate::workload::Kind;
use jobs::{Apps, Job, Model, Verdict};
use snapshots::Snapshots;

/// Programs of the host that the applications need in a guest.
pub const PROGRAMS: [&str; 2] = ["/usr/bin/sqlite3", "/usr/bin/git"];

/// What the guests with applications run.
const APPS: [&[&str]; 2] = [
    &["sqlite-wal", "sqlite-rollback", "append"],
    &["git", "packages", "update"],
];

/// Milliseconds of work before a cut.
const WORK_MILLIS: std::ops::Range<u64> = 300..6_000;

const TAG: &str = "razorfs";

/// How to run.
pub struct Plan {
    /// Rounds.
    pub rounds: u32,
    /// Decides everything.
    pub seed: u64,
    /// For the store, sockets and logs.
    pub dir: PathBuf,
    /// What guests boot, with [`PROGRAMS`].
    pub image: Image,
    /// What carries them out.
    pub emulator: Emulator,
}

/// How a round ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// SIGKILL of all guests and the daemon.
    Everything,
    /// SIGKILL of one guest; the daemon and the other guests go on.
    Guest(usize),
    /// One guest's reset button.
    Reset(usize),
}

impl Cut {
    fn random(rng: &mut ChaCha8Rng, guests: usize) -> Cut {
        let one = rng.random_range(0..guests);
        match rng.random_range(0..10) {
            0..7 => Cut::Everything,
            7..9 => Cut::Guest(one),
            _ => Cut::Reset(one),
        }
    }

    fn concerns(self, guest: usize) -> bool {
        match self {
            Cut::Everything => true,
            Cut::Guest(one) | Cut::Reset(one) => one == guest,
        }
    }
}

/// A guest's place: its socket of the daemon, its files, and what it does.
struct Seat {
    dir: PathBuf,
    /// None before it was ever started.
    guest: Option<Guest>,
    job: Job,
}

impl Seat {
    fn new(plan: &Plan, number: usize, job: Job) -> Result<Seat> {
        let dir = plan.dir.join(format!("guest{number}"));
        std::fs::create_dir_all(&dir).map_err(|error| Error::new(dir.display(), error))?;
        Ok(Seat {
            dir,
            guest: None,
            job,
        })
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("fs")
    }

    fn guest(&mut self) -> Result<&mut Guest> {
        Ok(self.both()?.0)
    }

    /// The guest and what it does.
    fn both(&mut self) -> Result<(&mut Guest, &mut Job)> {
        let guest = self.guest.as_mut().ok_or(Error("no guest".into()))?;
        Ok((guest, &mut self.job))
    }

    /// Boots, unless it only was reset, and mounts.
    fn come_back(&mut self, plan: &Plan, cut: Cut) -> Result<()> {
        if !matches!(cut, Cut::Reset(_)) {
            let options = GuestOptions {
                virtiofs: Some((self.socket(), TAG.into())),
                emulator: plan.emulator.clone(),
                ..GuestOptions::default()
            };
            self.guest = Some(Guest::start(&self.dir, &plan.image, &options)?);
        }
        self.guest()?.order(&format!("mount virtiofs {TAG} /mnt"))
    }

    /// Follows the work for a while; at least until its first line, which tells that what it needs
    /// is there.
    fn listen(&mut self, time: Duration) -> Result<()> {
        let mut started: Option<Instant> = None;
        if self.job.is_idle() {
            return Ok(());
        }
        while started.is_none_or(|started| started.elapsed() < time) {
            let line = self.guest()?.line()?;
            started.get_or_insert_with(Instant::now);
            if !self.job.note(&line)? {
                break;
            }
        }
        Ok(())
    }

    fn cut(&mut self, cut: Cut) -> Result<()> {
        let guest = self.guest()?;
        let rest = match cut {
            Cut::Everything | Cut::Guest(_) => {
                guest.cut();
                guest.rest()
            }
            Cut::Reset(_) => {
                guest.reset()?;
                guest.wait_ready()?
            }
        };
        self.job.note_rest(&rest);
        Ok(())
    }

    fn judge(&mut self) -> Result<Verdict> {
        let (guest, job) = self.both()?;
        job.judge(guest)
    }

    fn begin(&mut self, seed: u64) -> Result<()> {
        let (guest, job) = self.both()?;
        job.begin(guest, seed)
    }
}

/// Does something with several guests at once.
fn at_once<T: Send>(
    seats: &mut [Seat],
    concerned: impl Fn(usize) -> bool,
    each: impl Fn(&mut Seat) -> Result<T> + Sync,
) -> Result<Vec<(usize, T)>> {
    std::thread::scope(|scope| {
        let chosen = seats.iter_mut().enumerate();
        let threads: Vec<_> = chosen
            .filter(|(at, _)| concerned(*at))
            .map(|(at, seat)| (at, scope.spawn(|| each(seat))))
            .collect();
        let ended = threads.into_iter().map(|(at, thread)| {
            let ended = thread.join();
            let value = ended.map_err(|_| Error("a thread failed".into()))??;
            Ok((at, value))
        });
        ended.collect()
    })
}

/// Runs the rounds; prints each.
///
/// # Errors
/// When the machinery fails; a breach of the contract is counted instead.
pub fn run(plan: &Plan) -> Result<Summary> {
    let mut campaign = Campaign::start(plan)?;
    for number in 1..=plan.rounds {
        campaign.round(plan, number)?;
    }
    campaign.end(plan)
}

struct Campaign {
    rng: ChaCha8Rng,
    store: PathBuf,
    log: PathBuf,
    daemon: Daemon,
    seats: Vec<Seat>,
    summary: Summary,
}

impl Campaign {
    fn start(plan: &Plan) -> Result<Campaign> {
        let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
        let store = plan.dir.join("store");
        mkfs(&store)?;
        let mut seats = vec![Seat::new(plan, 1, Job::Model(Model::new()))?];
        for (number, names) in (2..).zip(APPS) {
            let apps = Apps::new(format!("/mnt/apps{number}"), rng.random(), names);
            seats.push(Seat::new(plan, number, Job::Apps(apps))?);
        }
        let log = plan.dir.join("razorfsd.log");
        let mut campaign = Campaign {
            daemon: start_daemon(&store, &seats, &log)?,
            rng,
            store,
            log,
            seats,
            summary: Summary::default(),
        };
        campaign.come_back(plan, Cut::Everything, 0)?;
        campaign.begin(Cut::Everything)?;
        Ok(campaign)
    }

    fn round(&mut self, plan: &Plan, number: u32) -> Result<()> {
        let cut = Cut::random(&mut self.rng, self.seats.len());
        let time = Duration::from_millis(self.rng.random_range(WORK_MILLIS));
        self.work(number, cut, time)?;
        println!("round {number}: {cut:?} after {} ms", time.as_millis());
        at_once(
            &mut self.seats,
            |seat| cut.concerns(seat),
            |seat| seat.cut(cut),
        )?;
        self.summary.rounds += 1;
        if cut == Cut::Everything {
            self.check(number);
            self.daemon = start_daemon(&self.store, &self.seats, &self.log)?;
        }
        self.come_back(plan, cut, number)?;
        let (store, mut rng) = (self.store.clone(), self.fork());
        self.snapshots()?.thin_out(&store, &mut rng)?;
        self.begin(cut)
    }

    /// Lets the guests work, takes snapshots meanwhile, and kills the daemon if it is to be cut,
    /// perhaps in the middle of one.
    fn work(&mut self, number: u32, cut: Cut, time: Duration) -> Result<()> {
        let stop = AtomicBool::new(false);
        let heard = self.snapshots()?.heard.clone();
        let mut rng = self.fork();
        let (store, daemon, seats) = (&self.store, &mut self.daemon, &mut self.seats);
        let taken = std::thread::scope(|scope| {
            let taking = scope.spawn(|| snapshots::take(store, number, &heard, &stop, &mut rng));
            let heard = at_once(seats, |_| true, |seat| seat.listen(time));
            stop.store(true, Ordering::Release);
            if cut == Cut::Everything {
                daemon.kill();
            }
            let taken = taking.join().map_err(|_| Error("a thread failed".into()));
            heard.and(taken)
        })?;
        self.snapshots()?.add(taken, cut == Cut::Everything)
    }

    /// Randomness for something else.
    fn fork(&mut self) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(self.rng.random())
    }

    /// The snapshots of the guest that a model knows.
    fn snapshots(&mut self) -> Result<&mut Snapshots> {
        let jobs = self.seats.iter_mut().map(|seat| &mut seat.job);
        let mut models = jobs.filter_map(|job| match job {
            Job::Model(model) => Some(&mut model.snapshots),
            Job::Apps(_) => None,
        });
        models.next().ok_or(Error("no guest has a model".into()))
    }

    /// Brings back what was cut, and judges it.
    fn come_back(&mut self, plan: &Plan, cut: Cut, number: u32) -> Result<()> {
        let back = |seat: &mut Seat| {
            seat.come_back(plan, cut)?;
            seat.judge()
        };
        let verdicts = at_once(&mut self.seats, |seat| cut.concerns(seat), back)?;
        for (seat, verdict) in verdicts {
            self.summary.operations += verdict.operations;
            self.summary.syncs += verdict.syncs;
            if number > 0 {
                println!("  guest {}: {}", seat + 1, verdict.told);
            }
            for breach in verdict.breaches {
                self.summary.note_breach(breach.kind);
                println!("round {number}, guest {}: {breach}", seat + 1);
            }
        }
        Ok(())
    }

    fn begin(&mut self, cut: Cut) -> Result<()> {
        for (at, seat) in self.seats.iter_mut().enumerate() {
            let seed = self.rng.random();
            if cut.concerns(at) {
                seat.begin(seed)?;
            }
        }
        Ok(())
    }

    fn check(&mut self, number: u32) {
        if let Err(error) = check(&self.store) {
            self.summary.note_breach(Kind::Wrong);
            println!("round {number}: VIOLATION: razorfsck: {error}");
        }
    }

    /// A last cut of everything, and everything is looked at once more.
    fn end(mut self, plan: &Plan) -> Result<Summary> {
        self.daemon.kill();
        at_once(&mut self.seats, |_| true, |seat| seat.cut(Cut::Everything))?;
        self.daemon = start_daemon(&self.store, &self.seats, &self.log)?;
        self.come_back(plan, Cut::Everything, plan.rounds)?;
        let all = |seat: &mut Seat| {
            let (guest, job) = seat.both()?;
            let breaches = job.judge_all(guest)?;
            if let Some(guest) = seat.guest.take() {
                guest.power_off()?;
            }
            Ok(breaches)
        };
        for (seat, breaches) in at_once(&mut self.seats, |_| true, all)? {
            for breach in breaches {
                self.summary.note_breach(breach.kind);
                println!("in the end, guest {}: {breach}", seat + 1);
            }
        }
        if self.summary.rounds > 4 && self.snapshots()?.judged == 0 {
            return Err(Error("no snapshot was ever looked at".into()));
        }
        self.daemon.stop()?;
        if let Err(error) = check(&self.store) {
            self.summary.note_breach(Kind::Wrong);
            println!("VIOLATION: razorfsck: {error}");
        }
        Ok(self.summary)
    }
}

fn start_daemon(store: &Path, seats: &[Seat], log: &Path) -> Result<Daemon> {
    let sockets: Vec<PathBuf> = seats.iter().map(Seat::socket).collect();
    Daemon::start(store, &sockets, TAG, log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_concerns_whom_it_hits() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let cuts: Vec<Cut> = (0..100).map(|_| Cut::random(&mut rng, 3)).collect();
        for cut in &cuts {
            let hit = (0..3).filter(|guest| cut.concerns(*guest)).count();
            assert_eq!(hit, if *cut == Cut::Everything { 3 } else { 1 });
        }
        assert!(cuts.contains(&Cut::Guest(2)) && cuts.contains(&Cut::Reset(0)));
    }

    #[test]
    fn every_application_has_a_guest() {
        let all: Vec<_> = crate::apps::all().iter().map(|app| app.name()).collect();
        let mut placed: Vec<_> = APPS.concat();
        placed.sort_by_key(|name| all.iter().position(|known| known == name));
        assert_eq!(placed, all);
    }
}
