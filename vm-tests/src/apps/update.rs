//! Configuration files, replaced by renaming a new file over the old one; some carefully, with an
//! fsync of file and directory, some as most programs do it, with none.

use std::fs;
use std::io;

use super::{App, Done, Found, Work, failed, read, sync_dir, write_durably};

/// Files of each kind.
const FILES: u64 = 5;
/// One in so many steps replaces a file without any fsync first.
const CARELESS_EVERY: u64 = 3;
const TEXT_MAX: usize = 20_000;

pub(super) struct Update;

fn content(work: &Work<'_>, step: u64) -> String {
    format!("step {step}\n{}", work.text(step, TEXT_MAX))
}

/// The step that wrote `found`, which must be one of the file's.
fn step_of(work: &Work<'_>, slot: u64, found: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(found).ok()?;
    let step = text.strip_prefix("step ")?.lines().next()?.parse().ok()?;
    (step % FILES == slot && text == content(work, step)).then_some(step)
}

/// The step whose version of a file is there, if any is.
fn version(work: &Work<'_>, name: &str, slot: u64) -> Found<Option<u64>> {
    let Some(bytes) = read(&work.dir.join(name))? else {
        return Ok(None);
    };
    let step = step_of(work, slot, &bytes);
    Ok(Some(step.ok_or_else(|| {
        format!("{name} is none of its versions")
    })?))
}

/// The last step up to `last` that replaced the careless file of a slot.
fn last_careless(last: u64, slot: u64) -> Option<u64> {
    let newest = Work::last_of(last, slot, FILES)?;
    let mut steps = (1..=newest)
        .rev()
        .step_by(usize::try_from(FILES).unwrap_or(1));
    steps.find(|step| step % CARELESS_EVERY == 0)
}

impl App for Update {
    fn name(&self) -> &'static str {
        "update"
    }

    fn run(&self, work: &Work<'_>, from: u64, done: Done<'_>) -> io::Result<()> {
        let new = work.dir.join("new");
        for step in from + 1.. {
            let slot = step % FILES;
            let text = content(work, step);
            if step % CARELESS_EVERY == 0 {
                fs::write(&new, &text)?;
                fs::rename(&new, work.dir.join(format!("careless{slot}")))?;
            }
            write_durably(&new, text.as_bytes())?;
            fs::rename(&new, work.dir.join(format!("careful{slot}")))?;
            sync_dir(work.dir)?;
            if done(step).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn check(&self, work: &Work<'_>) -> Found {
        let mut found = Vec::new();
        for slot in 0..FILES {
            found.push(version(work, &format!("careful{slot}"), slot)?);
        }
        let last = found.iter().flatten().copied().max().unwrap_or(0);
        for (slot, step) in (0..).zip(found) {
            let wanted = Work::last_of(last, slot, FILES);
            if step != wanted {
                let name = format!("careful{slot}");
                return Err(format!("{name} is of {step:?}, not {wanted:?}, at {last}"));
            }
        }
        for slot in 0..FILES {
            let name = format!("careless{slot}");
            let found = version(work, &name, slot)?;
            // Its step's fsync of the directory made it durable; that of the next may not have.
            if found != last_careless(last, slot) && found != last_careless(last + 1, slot) {
                return Err(format!("{name} is of {found:?} at {last}"));
            }
        }
        match fs::remove_file(work.dir.join("new")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("removing what was not finished")(error))
            }
            _ => Ok(last),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(steps: u64, then: impl Fn(&Work<'_>)) -> Found {
        let dir = tempfile::tempdir().unwrap();
        let work = Work {
            dir: dir.path(),
            seed: 7,
        };
        super::super::tests::steps(&Update, &work, 0, steps);
        assert_eq!(Update.check(&work), Ok(steps));
        then(&work);
        Update.check(&work)
    }

    /// The contract: the directory was synced behind the renaming, in the same step.
    #[test]
    fn careless_files_are_not_gone() {
        let found = after(30, |work| {
            for slot in 0..FILES {
                fs::remove_file(work.dir.join(format!("careless{slot}"))).unwrap();
            }
        });
        assert!(found.is_err(), "all are gone: {found:?}");
    }

    #[test]
    fn careless_files_are_not_old() {
        // Steps 15 and 30 are of slot 0.
        let found = after(30, |work| {
            fs::write(work.dir.join("careless0"), content(work, 15)).unwrap();
        });
        assert!(found.is_err(), "version 15 rather than 30: {found:?}");
    }
}
