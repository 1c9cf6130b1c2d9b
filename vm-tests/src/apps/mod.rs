//! What people run in virtual machines and must find again after a power cut: databases, git, a
//! package manager, a log, files replaced by renaming. Each works in a directory of its own, in
//! steps; it says which step is durable by its own rules (its fsyncs have returned), and after a
//! power cut it recovers as it does for its users and tells which step it is at.
//!
//! What a step writes follows from the campaign's seed and the step's number, so that nothing
//! needs to be remembered outside.

mod append;
mod git;
mod packages;
mod sqlite;
mod update;

use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Why an application's state is not one that it can have left.
pub type Found<T = u64> = Result<T, String>;

/// Is told of each step that is durable, and says whether to go on.
pub type Done<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

/// One application.
pub trait App: Send + Sync {
    /// Its name, and that of its directory.
    fn name(&self) -> &'static str;

    /// Works on behind step `from`, the last one found or 0, until the power is cut or `done` says
    /// that it is enough.
    ///
    /// # Errors
    /// When anything fails.
    fn run(&self, work: &Work<'_>, from: u64, done: Done<'_>) -> io::Result<()>;

    /// Recovers, and checks everything; the last step that is there, 0 for none.
    ///
    /// # Errors
    /// What is wrong.
    fn check(&self, work: &Work<'_>) -> Found;
}

/// Where an application works, and what decides what it writes.
#[derive(Debug, Clone, Copy)]
pub struct Work<'a> {
    /// Its directory, which is there.
    pub dir: &'a Path,
    /// The campaign's seed.
    pub seed: u64,
}

/// All applications.
#[must_use]
pub fn all() -> Vec<Box<dyn App>> {
    vec![
        Box::new(sqlite::Sqlite::WAL),
        Box::new(sqlite::Sqlite::ROLLBACK),
        Box::new(git::Git),
        Box::new(packages::Packages),
        Box::new(append::Append),
        Box::new(update::Update),
    ]
}

impl Work<'_> {
    /// The random numbers of a step.
    fn rng(&self, step: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(self.seed ^ step.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// The text that a step writes, of at most `len_max` bytes.
    fn text(&self, step: u64, len_max: usize) -> String {
        let mut rng = self.rng(step);
        let len = rng.random_range(0..=len_max);
        let letters = (0..len).map(|_| char::from(rng.random_range(b'a'..=b'z')));
        letters.collect()
    }

    /// The last step up to `last` that has `slot` among `slots`.
    fn last_of(last: u64, slot: u64, slots: u64) -> Option<u64> {
        let back = (last % slots + slots - slot) % slots;
        last.checked_sub(back).filter(|step| *step > 0)
    }
}

/// Puts `bytes` into a new file and makes it durable.
fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::write(path, bytes)?;
    File::open(path)?.sync_all()
}

/// Makes the entries of a directory durable.
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// A file's bytes; `None` when it is not there.
fn read(path: &Path) -> Found<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// An error of the machinery or of the file system, as what is wrong.
fn failed(doing: &str) -> impl Fn(io::Error) -> String {
    move |error| format!("{doing}: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// Runs an application for some steps.
    pub(super) fn steps(app: &dyn App, work: &Work<'_>, from: u64, count: u64) {
        let mut done = |step| match step < from + count {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        };
        app.run(work, from, &mut done).unwrap();
    }

    fn each(mut test: impl FnMut(&dyn App, &Work<'_>)) {
        for app in all() {
            let dir = tempfile::tempdir().unwrap();
            let work = Work {
                dir: dir.path(),
                seed: 7,
            };
            test(app.as_ref(), &work);
        }
    }

    #[test]
    fn every_application_finds_its_steps_again_and_goes_on() {
        each(|app, work| {
            let began = Instant::now();
            assert_eq!(app.check(work), Ok(0), "{}", app.name());
            let mut at = 0;
            for count in [1, 5, 30] {
                steps(app, work, at, count);
                let found = app.check(work).unwrap();
                assert!(found >= at + count, "{}: {found}", app.name());
                at = found;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{}", app.name());
        });
    }

    /// All files below a directory.
    fn files(dir: &Path) -> Vec<std::path::PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).unwrap().flatten() {
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => found.extend(files(&entry.path())),
                kind if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
        found
    }

    #[test]
    fn no_application_takes_emptied_files_for_its_own() {
        each(|app, work| {
            steps(app, work, 0, 30);
            let at = app.check(work).unwrap();
            for file in files(work.dir) {
                let bytes = fs::read(&file).unwrap();
                let mode = fs::metadata(&file).unwrap().permissions();
                fs::remove_file(&file).unwrap();
                fs::write(&file, vec![0; bytes.len()]).unwrap();
                fs::set_permissions(&file, mode).unwrap();
            }
            let found = app.check(work);
            assert!(!matches!(found, Ok(found) if found >= at), "{}", app.name());
        });
    }

    #[test]
    fn no_application_takes_an_old_state_for_the_new_one() {
        each(|app, work| {
            steps(app, work, 0, 10);
            let at = app.check(work).unwrap();
            let copy = tempfile::tempdir().unwrap();
            let copied = std::process::Command::new("cp")
                .args(["-a", "."])
                .arg(copy.path())
                .current_dir(work.dir)
                .status();
            assert!(copied.unwrap().success());
            steps(app, work, at, 10);
            let old = Work {
                dir: copy.path(),
                seed: work.seed,
            };
            assert_eq!(app.check(&old), Ok(at), "{}", app.name());
        });
    }

    #[test]
    fn the_last_step_of_a_slot_is_found() {
        for last in 0..40 {
            for slot in 0..5 {
                let wanted = (1..=last).rev().find(|step| step % 5 == slot);
                assert_eq!(Work::last_of(last, slot, 5), wanted, "{last} {slot}");
            }
        }
    }
}
