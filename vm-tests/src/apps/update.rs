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
            let name = format!("careful{slot}");
            let step = match read(&work.dir.join(&name))? {
                None => None,
                Some(bytes) => {
                    let step = step_of(work, slot, &bytes);
                    Some(step.ok_or_else(|| format!("{name} is none of its versions"))?)
                }
            };
            found.push(step);
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
            let whole = read(&work.dir.join(&name))?
                .is_none_or(|bytes| step_of(work, slot, &bytes).is_some_and(|s| s <= last + 1));
            if !whole {
                return Err(format!("{name} is none of its versions"));
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
