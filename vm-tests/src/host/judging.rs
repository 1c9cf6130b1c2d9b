//! Mounting what a power cut left, and judging it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::crash::Cut;
use super::disk_log::Entry;
use crate::execute;
use crate::guest::image::run as command;
use crate::guest::{Error, Result};
use crate::poweroff::{Images, Round, Summary};
use crate::store::{check, program};
use crate::workload::{self, Breach, Tree};

/// Images of breaches that are kept, in all.
const KEPT_MAX: u64 = 5;

/// What was known when the log had reached `log_bytes`.
pub struct Sample {
    /// Length of the log, taken after the line that says `returned` and before `begun` was known.
    pub log_bytes: u64,
    /// How many operations may have been begun.
    pub begun: u32,
    /// How many had certainly returned.
    pub returned: u32,
}

/// What one round left.
pub struct Judging<'a> {
    /// Where images are made; has the disk as it was before the round, `base`.
    pub dir: &'a Path,
    /// The write log.
    pub log: &'a File,
    /// Its entries.
    pub entries: &'a [Entry],
    /// What was said meanwhile.
    pub samples: &'a [Sample],
    /// What the guest did.
    pub round: &'a Round,
    /// For messages.
    pub number: u32,
}

impl Judging<'_> {
    /// Judges power cuts, which are in order.
    ///
    /// # Errors
    /// When the machinery fails; breaches are counted instead.
    pub fn cuts(&self, cuts: &[Cut], summary: &mut Summary) -> Result<Images> {
        let base = open_for_writing(&self.dir.join("base"))?;
        let (mut applied, mut images) = (0, Images::default());
        for cut in cuts {
            for entry in self.entries.get(applied..cut.durable).unwrap_or_default() {
                entry.apply(self.log, &base)?;
            }
            applied = applied.max(cut.durable);
            images += cut.kind.count();
            let image = self.dir.join("crashed");
            self.make(cut, &image)?;
            let Err(breach) = self.judge(cut, &image) else {
                continue;
            };
            summary.note_breach(breach.kind);
            println!(
                "round {} (workload {}), {cut:?}: {breach}",
                self.number, self.round.seed
            );
            let breaches = summary.lost + summary.violations;
            if breaches <= KEPT_MAX {
                let kept = self.dir.join(format!("breach-{breaches}"));
                self.make(cut, &kept)?;
                println!("its disk is kept in {}", kept.display());
            }
        }
        Ok(images)
    }

    /// Makes the disk as a power cut left it.
    fn make(&self, cut: &Cut, image: &Path) -> Result<()> {
        command(
            Command::new("cp")
                .arg("--sparse=always")
                .arg(self.dir.join("base"))
                .arg(image),
        )?;
        cut.apply(self.entries, self.log, &open_for_writing(image)?)
    }

    fn judge(&self, cut: &Cut, image: &Path) -> std::result::Result<u32, Breach> {
        let Some(tree) = self.recover(image).map_err(Breach::wrong)? else {
            return Err(Breach {
                kind: workload::Kind::Lost,
                reason: "the workload's directory, which was synced before all else".into(),
            });
        };
        let last = cut
            .at
            .checked_sub(1)
            .and_then(|last| self.entries.get(last));
        let (begun, returned) = said(self.samples, last.map_or(0, |entry| entry.end));
        let begun = begun.unwrap_or_else(|| self.round.begun_at_most(0));
        self.round.judge(begun, returned, &tree)
    }

    /// Mounts an image and the store on it: what is there, if the workload's directory is.
    fn recover(&self, image: &Path) -> Result<Option<Tree>> {
        let disk = Mounted::new(&self.dir.join("crashed.mnt"), |at| {
            let mut mount = Command::new("mount");
            command(mount.args(["-o", "loop"]).arg(image).arg(at)).map(|_| None)
        })?;
        let store = disk.at.join("store");
        check(&store)?;
        let tree = {
            let mount = Mounted::new(&self.dir.join("store.mnt"), |at| mount_store(&store, at))?;
            let work = mount.at.join("work");
            let there = work
                .try_exists()
                .map_err(|error| Error::new(work.display(), error))?;
            let tree = there.then(|| execute::dump(&work, self.round.seed));
            tree.transpose()
                .map_err(|error| Error::new(work.display(), error))?
        };
        check(&store)?;
        Ok(tree)
    }
}

/// How many operations may have been begun, unless nothing was heard later, and how many had
/// returned, when the log was so long.
///
/// A line is read after it was said, and the log's length taken after that: what was read when the
/// log was no longer than here had returned by then. The other way round, a line may have been long
/// on its way when the log had passed this point already. So a sample counts as begun what had
/// arrived when its length was taken, and what the guest may have kept: what the log has before
/// that length is of no later operation.
fn said(samples: &[Sample], log_bytes: u64) -> (Option<u32>, u32) {
    let later = samples.partition_point(|sample| sample.log_bytes <= log_bytes);
    let before = later.checked_sub(1).and_then(|last| samples.get(last));
    let begun = samples.get(later).map(|sample| sample.begun);
    (begun, before.map_or(0, |sample| sample.returned))
}

fn open_for_writing(path: &Path) -> Result<File> {
    let file = File::options().write(true).open(path);
    file.map_err(|error| Error::new(path.display(), error))
}

fn mount_store(store: &Path, at: &Path) -> Result<Option<Child>> {
    let child = program("razorfs")
        .arg("mount")
        .arg(store)
        .arg(at)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| Error::new("razorfs mount", error))?;
    let mut child = child;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        if mounts.contains(&format!(" {} fuse", at.display())) {
            return Ok(Some(child));
        }
        if matches!(child.try_wait(), Ok(Some(_))) || Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error(
                "razorfs mount did not come up on the crashed store".into(),
            ));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Something mounted, and the process that serves it; unmounted when dropped.
struct Mounted {
    at: PathBuf,
    server: Option<Child>,
}

impl Mounted {
    fn new(at: &Path, mount: impl FnOnce(&Path) -> Result<Option<Child>>) -> Result<Mounted> {
        fs::create_dir_all(at).map_err(|error| Error::new(at.display(), error))?;
        let server = mount(at)?;
        Ok(Mounted {
            at: at.to_owned(),
            server,
        })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for _ in 0..50 {
            if command(Command::new("umount").arg(&self.at)).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        if let Some(server) = &mut self.server {
            let _ = server.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_taken_from_before_and_what_may_be_from_behind() {
        let sample = |log_bytes, begun, returned| Sample {
            log_bytes,
            begun,
            returned,
        };
        let samples = [sample(10, 301, 0), sample(20, 302, 1), sample(20, 303, 2)];
        for (log_bytes, expected) in [
            (9, (Some(301), 0)),
            (10, (Some(302), 0)),
            (19, (Some(302), 0)),
            (20, (None, 2)),
        ] {
            assert_eq!(said(&samples, log_bytes), expected, "{log_bytes}");
        }
    }
}
