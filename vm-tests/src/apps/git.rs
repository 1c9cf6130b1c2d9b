//! git: a commit a step, packed from time to time; made durable by git's own fsyncs, and by a sync
//! of the file system, since git does not sync directories.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{App, Done, Found, Work, failed};

/// Files that steps write in turn.
const FILES: u64 = 8;
const TEXT_MAX: usize = 6000;
const REPACK_EVERY: u64 = 16;
const COLLECT_EVERY: u64 = 40;

pub(super) struct Git;

fn git(dir: &Path) -> Command {
    let mut command = Command::new("git");
    let me = [("NAME", "razorfs"), ("EMAIL", "razorfs@example.org")];
    for (name, value) in me {
        command.env(format!("GIT_AUTHOR_{name}"), value);
        command.env(format!("GIT_COMMITTER_{name}"), value);
    }
    command
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", "/nonexistent")
        // A guest's init has none, and git starts itself.
        .env("PATH", "/usr/bin:/bin")
        .args(["-c", "core.fsync=all", "-c", "core.fsyncMethod=fsync"])
        .args(["-c", "gc.auto=0", "-c", "gc.autoDetach=false"])
        .args(["-c", "safe.directory=*", "-c", "pack.threads=1"])
        .current_dir(dir);
    command
}

fn order(dir: &Path, args: &[&str]) -> io::Result<String> {
    let output = git(dir).args(args).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "git {}: {error}{said}",
        args.join(" ")
    )))
}

/// What a git that was killed leaves, and its users remove: locks and what was not finished.
fn leftovers(dir: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if entry.file_type()?.is_dir() {
            leftovers(&path, found)?;
        } else if name.ends_with(".lock") || name.starts_with("tmp_") || name == "gc.pid" {
            found.push(path);
        }
    }
    Ok(())
}

fn file(slot: u64) -> String {
    format!("dir{}/file{slot}", slot % 3)
}

fn content(work: &Work<'_>, step: u64) -> String {
    format!("{step}\n{}\n", work.text(step, TEXT_MAX))
}

impl App for Git {
    fn name(&self) -> &'static str {
        "git"
    }

    fn run(&self, work: &Work<'_>, from: u64, done: Done<'_>) -> io::Result<()> {
        let dir = work.dir;
        if from == 0 {
            let init = ["init", "-q", "--template=", "--initial-branch=main"];
            order(dir, &init)?;
        }
        for step in from + 1.. {
            let path = dir.join(file(step % FILES));
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(path, content(work, step))?;
            order(dir, &["add", "-A"])?;
            order(dir, &["commit", "-q", "-m", &step.to_string()])?;
            rustix::fs::syncfs(&File::open(dir)?)?;
            if done(step).is_break() {
                return Ok(());
            }
            if step % REPACK_EVERY == 0 {
                order(dir, &["repack", "-q", "-d"])?;
            }
            if step % COLLECT_EVERY == 0 {
                order(dir, &["gc", "-q", "--prune=now"])?;
            }
        }
        Ok(())
    }

    fn check(&self, work: &Work<'_>) -> Found {
        let dir = work.dir;
        let order = |args: &[&str]| order(dir, args).map_err(|error| error.to_string());
        if let Err(error) = order(&["rev-parse", "-q", "--verify", "HEAD"]) {
            let git = dir.join(".git");
            if git.join("refs/heads/main").exists() || git.join("packed-refs").exists() {
                return Err(error);
            }
            // Nothing was committed, so nothing was there: the first step begins anew.
            let removed = fs::remove_dir_all(dir).and_then(|()| fs::create_dir(dir));
            return removed.map(|()| 0).map_err(failed("beginning anew"));
        }
        let mut rest = Vec::new();
        leftovers(&dir.join(".git"), &mut rest).map_err(failed("listing .git"))?;
        for path in rest {
            fs::remove_file(path).map_err(failed("removing a lock"))?;
        }
        let said = order(&["fsck", "--full", "--strict", "--no-dangling"])?;
        if !said.trim().is_empty() {
            return Err(format!("git fsck: {said}"));
        }
        let last = order(&["log", "-1", "--format=%s"])?;
        let last: u64 = last
            .trim()
            .parse()
            .map_err(|_| format!("the last commit is '{last}'"))?;
        let count = order(&["rev-list", "--count", "HEAD"])?;
        if count.trim() != last.to_string() {
            return Err(format!("{} commits, the last is {last}", count.trim()));
        }
        // Files of a step that was not committed may be there.
        order(&["reset", "-q", "--hard"])?;
        order(&["clean", "-q", "-f", "-d", "-x"])?;
        for slot in 0..FILES {
            let wanted = Work::last_of(last, slot, FILES).map(|step| content(work, step));
            let found = super::read(&dir.join(file(slot)))?;
            if found != wanted.map(String::into_bytes) {
                return Err(format!("{} is not that of step {last}", file(slot)));
            }
        }
        Ok(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is broken is left as it is, to be looked at (campaign/jobs.rs).
    #[test]
    fn what_is_broken_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let work = Work {
            dir: dir.path(),
            seed: 7,
        };
        super::super::tests::steps(&Git, &work, 0, 3);
        fs::write(dir.path().join(".git/HEAD"), [0; 21]).unwrap();
        let found = Git.check(&work);
        let left = fs::read_dir(dir.path()).unwrap().count();
        assert!(left > 0, "everything was removed, {found:?}");
    }
}
