//! A package manager, in the way of dpkg: a package's files are written beside the old ones, made
//! durable, and renamed over them; then the list of what is installed is replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rand::Rng;

use super::{App, Done, Found, Work, failed, read, sync_dir, write_durably};

const PACKAGES: u64 = 10;
const FILES_MAX: u64 = 14;
const TEXT_MAX: usize = 5000;
/// One in so many steps removes a package that is installed.
const REMOVE_EVERY: u32 = 5;
const STATUS: &str = "status";
const NEW: &str = ".new";

pub(super) struct Packages;

/// What is installed: each package's version, which is the step that installed it.
type Installed = BTreeMap<u64, u64>;

/// What a step does.
struct Change {
    package: u64,
    /// Removal, rather than a new version.
    remove: bool,
}

fn change(work: &Work<'_>, step: u64, installed: &Installed) -> Change {
    let mut rng = work.rng(step);
    let package = rng.random_range(0..PACKAGES);
    let remove = rng.random_ratio(1, REMOVE_EVERY) && installed.contains_key(&package);
    Change { package, remove }
}

fn apply(installed: &mut Installed, step: u64, change: &Change) {
    if change.remove {
        installed.remove(&change.package);
    } else {
        installed.insert(change.package, step);
    }
}

fn status(step: u64, installed: &Installed) -> String {
    let line = |(package, version): (&u64, &u64)| format!("{package} {version}\n");
    format!(
        "step {step}\n{}",
        installed.iter().map(line).collect::<String>()
    )
}

fn root(work: &Work<'_>, package: u64) -> PathBuf {
    work.dir.join(format!("package{package}"))
}

/// The files of a package's version: path and content.
fn files(work: &Work<'_>, package: u64, version: u64) -> BTreeMap<PathBuf, String> {
    let mut rng = work.rng(!version);
    let count = rng.random_range(1..=FILES_MAX);
    let root = root(work, package);
    (0..count)
        .map(|file| {
            let dirs = ["bin", "lib/modules", "share/doc/more", "share/man"];
            let dir = dirs[rng.random_range(0..dirs.len())];
            let text = work.text(version.wrapping_mul(100).wrapping_add(file), TEXT_MAX);
            (root.join(dir).join(format!("file{file}")), text)
        })
        .collect()
}

/// Adds everything below a directory that is not one itself.
fn list(dir: &Path, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list(&entry.path(), found)?;
        } else {
            found.insert(entry.path());
        }
    }
    Ok(())
}

fn new_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(NEW);
    name.into()
}

/// Removes files, and the directories that this leaves empty.
fn remove(root: &Path, files: impl IntoIterator<Item = PathBuf>) -> io::Result<()> {
    for path in files {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let dirs = path
            .ancestors()
            .skip(1)
            .take_while(|dir| dir.starts_with(root));
        for dir in dirs {
            // Not empty, or gone already.
            let _ = fs::remove_dir(dir);
        }
    }
    Ok(())
}

impl Packages {
    fn install(work: &Work<'_>, package: u64, version: u64) -> io::Result<()> {
        let wanted = files(work, package, version);
        for (path, text) in &wanted {
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir)?;
            }
            fs::write(new_name(path), text)?;
        }
        for path in wanted.keys() {
            File::open(new_name(path))?.sync_all()?;
        }
        for path in wanted.keys() {
            fs::rename(new_name(path), path)?;
        }
        let root = root(work, package);
        let mut rest = BTreeSet::new();
        list(&root, &mut rest)?;
        rest.retain(|path| !wanted.contains_key(path));
        remove(&root, rest)
    }

    fn step(work: &Work<'_>, step: u64, installed: &mut Installed) -> io::Result<()> {
        let change = change(work, step, installed);
        if change.remove {
            let root = root(work, change.package);
            let mut rest = BTreeSet::new();
            list(&root, &mut rest)?;
            remove(&root, rest)?;
        } else {
            Self::install(work, change.package, step)?;
        }
        apply(installed, step, &change);
        let path = work.dir.join(STATUS);
        write_durably(&new_name(&path), status(step, installed).as_bytes())?;
        fs::rename(new_name(&path), path)?;
        sync_dir(work.dir)
    }

    /// What is installed after a step.
    fn at(work: &Work<'_>, last: u64) -> Installed {
        let mut installed = Installed::new();
        for step in 1..=last {
            let change = change(work, step, &installed);
            apply(&mut installed, step, &change);
        }
        installed
    }

    /// Whether a package is as it was installed, or on the way from there to `next`.
    fn check_package(
        work: &Work<'_>,
        package: u64,
        version: Option<u64>,
        next: Option<&Change>,
        step: u64,
    ) -> Found<()> {
        let old = version.map(|version| files(work, package, version));
        let old = old.unwrap_or_default();
        let new = next.filter(|change| !change.remove);
        let new = new.map(|change| files(work, change.package, step));
        let new = new.unwrap_or_default();
        let mut found = BTreeSet::new();
        list(&root(work, package), &mut found).map_err(failed("listing a package"))?;
        for path in &found {
            if next.is_some() && path.extension().is_some_and(|e| e == "new") {
                continue;
            }
            let bytes = read(path)?.unwrap_or_default();
            let is = |files: &BTreeMap<PathBuf, String>| {
                files.get(path).is_some_and(|text| text.as_bytes() == bytes)
            };
            if !is(&old) && !is(&new) {
                return Err(format!("{} is of no version", path.display()));
            }
        }
        // A new version leaves none of its paths without a file on the way, and removes what it has
        // not only when all of it is there. A removal may have removed anything.
        let may_go = |path: &PathBuf| match next {
            None => false,
            Some(change) if change.remove => true,
            Some(_) => !new.contains_key(path) && new.keys().all(|path| found.contains(path)),
        };
        match old
            .keys()
            .find(|path| !found.contains(*path) && !may_go(path))
        {
            Some(path) => Err(format!("{} is missing", path.display())),
            None => Ok(()),
        }
    }
}

impl App for Packages {
    fn name(&self) -> &'static str {
        "packages"
    }

    fn run(&self, work: &Work<'_>, from: u64, done: Done<'_>) -> io::Result<()> {
        let mut installed = Self::at(work, from);
        for step in from + 1.. {
            Self::step(work, step, &mut installed)?;
            if done(step).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn check(&self, work: &Work<'_>) -> Found {
        let found = read(&work.dir.join(STATUS))?.unwrap_or_default();
        let found = String::from_utf8(found).map_err(|_| "the status is not text")?;
        let first = found.lines().next().unwrap_or("step 0");
        let last = first
            .strip_prefix("step ")
            .and_then(|step| step.parse().ok());
        let last: u64 = last.ok_or_else(|| format!("the status begins with '{first}'"))?;
        let installed = Self::at(work, last);
        if last > 0 && found != status(last, &installed) {
            return Err(format!("the status is not that of step {last}"));
        }
        let next = change(work, last + 1, &installed);
        for package in 0..PACKAGES {
            let version = installed.get(&package).copied();
            let next = Some(&next).filter(|next| next.package == package);
            Self::check_package(work, package, version, next, last + 1)?;
        }
        Ok(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Works until the next step installs a package anew of which `remove` can remove something;
    /// what that was. Sees that it is missed.
    fn is_missed(remove: impl Fn(&Work<'_>, u64, u64, u64) -> Option<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let work = Work {
            dir: dir.path(),
            seed: 7,
        };
        for at in 1..100 {
            super::super::tests::steps(&Packages, &work, at - 1, 1);
            let installed = Packages::at(&work, at);
            let next = change(&work, at + 1, &installed);
            let Some(version) = installed.get(&next.package).filter(|_| !next.remove) else {
                continue;
            };
            assert_eq!(Packages.check(&work), Ok(at));
            if let Some(path) = remove(&work, next.package, *version, at + 1) {
                let found = Packages.check(&work);
                assert!(found.is_err(), "{} is gone: {found:?}", path.display());
                return;
            }
        }
        panic!("no such step");
    }

    /// The contract: of a renaming there is the old file or the new one, never neither.
    #[test]
    fn a_file_of_both_versions_is_never_gone() {
        is_missed(|work, package, version, next| {
            let new = files(work, package, next);
            let mut old = files(work, package, version).into_keys();
            let path = old.find(|path| new.contains_key(path))?;
            fs::remove_file(&path).unwrap();
            Some(path)
        });
    }

    /// Even all files of the package may go.
    #[test]
    fn a_package_about_to_be_replaced_is_not_gone() {
        is_missed(|work, package, _, _| {
            let root = root(work, package);
            fs::remove_dir_all(&root).unwrap();
            Some(root)
        });
    }
}
