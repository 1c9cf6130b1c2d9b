//! Workloads whose time is of interest, on any file system: what a guest does for
//! `scripts/guest_bench.sh`. Each says how long it took; what it needs is made before the clock
//! runs. They build on one another, in the order of [`GROUPS`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::fs::Advice;

const BLOCK: usize = 4096;
const MIB: usize = 1 << 20;
/// Files of a directory of the tree that is unpacked, and of the repository that is cloned.
const FILES_PER_DIR: u64 = 50;
/// Commits of that repository.
const COMMITS: u64 = 5;
/// What is made for all file systems alike.
const SOURCES: &str = "/tmp/measure";

/// How long a workload took.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    /// From its beginning until all that it says is durable is.
    pub time: Duration,
    /// Operations of that time.
    pub operations: u64,
}

/// Workloads that go together, and what their number counts.
pub struct Group {
    /// For the command line.
    pub name: &'static str,
    /// What the number is of.
    pub counts: &'static str,
    /// In this order.
    pub workloads: &'static [&'static str],
}

/// All of them.
pub const GROUPS: &[Group] = &[
    Group {
        name: "file",
        counts: "MiB",
        workloads: &[
            "write-in-order",
            "read-in-order",
            "read-random",
            "read-random-again",
            "write-random",
            "write-durable",
        ],
    },
    Group {
        name: "tree",
        counts: "files",
        workloads: &["unpack", "list", "list-again", "remove"],
    },
    Group {
        name: "git",
        counts: "files",
        workloads: &["git-clone", "git-status", "git-status-again"],
    },
    Group {
        name: "sqlite",
        counts: "transactions",
        workloads: &["sqlite-rollback", "sqlite-wal", "sqlite-bulk"],
    },
];

/// What a workload is, for tables.
#[must_use]
pub fn describe(workload: &str) -> &str {
    match workload {
        "write-in-order" => "write, 1 MiB in order, fsync",
        "read-in-order" => "read, 1 MiB in order, nothing cached",
        "read-random" => "read, 4 KiB random, nothing cached",
        "read-random-again" => "read, 4 KiB random, again",
        "write-random" => "write, 4 KiB random, fsync at the end",
        "write-durable" => "write 4 KiB, fdatasync",
        "unpack" => "unpack a tree, sync",
        "list" => "list and stat the tree, nothing cached",
        "list-again" => "list and stat the tree, again",
        "remove" => "rm -rf of the tree, nothing cached, sync",
        "git-clone" => "git clone, sync",
        "git-status" => "git status, nothing cached",
        "git-status-again" => "git status, again",
        "sqlite-rollback" => "SQLite, a commit for each row, rollback journal",
        "sqlite-wal" => "SQLite, a commit for each row, WAL",
        "sqlite-bulk" => "SQLite, 100 times the rows in one commit",
        other => other,
    }
}

/// Carries a workload out in `dir`, which is made when it is not there; `count` is what its
/// group counts.
///
/// # Errors
/// When the file system or a program fails.
pub fn run(workload: &str, dir: &Path, count: u64) -> io::Result<Took> {
    fs::create_dir_all(dir)?;
    match workload {
        "write-in-order" => write_in_order(dir, count),
        "read-in-order" => read_in_order(dir),
        "read-random" => read_random(dir, true),
        "read-random-again" => read_random(dir, false),
        "write-random" => write_random(dir, count * 16, false),
        "write-durable" => write_random(dir, count, true),
        "unpack" => unpack(dir, count),
        "list" => list(dir, true),
        "list-again" => list(dir, false),
        "remove" => remove(dir, count),
        "git-clone" => git_clone(dir, count),
        "git-status" => git_status(dir, count, true),
        "git-status-again" => git_status(dir, count, false),
        "sqlite-rollback" => sqlite(dir, "DELETE", count, 1),
        "sqlite-wal" => sqlite(dir, "WAL", count, 1),
        "sqlite-bulk" => sqlite(dir, "WAL", 1, count * 100),
        "clean" => clean(dir),
        _ => Err(io::Error::other("no such workload")),
    }
}

fn timed(operations: u64, work: impl FnOnce() -> io::Result<()>) -> io::Result<Took> {
    let began = Instant::now();
    work()?;
    Ok(Took {
        time: began.elapsed(),
        operations,
    })
}

fn sync(dir: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(dir)?)?)
}

/// Makes the kernel forget what it knows of all file systems.
fn forget(dir: &Path) -> io::Result<()> {
    sync(dir)?;
    fs::write("/proc/sys/vm/drop_caches", "3")
}

/// A command that prints nothing unless it fails.
fn order(command: &mut Command) -> io::Result<()> {
    // A guest's init has no environment, and programs start others.
    let output = command
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", SOURCES)
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).replace('\n', " | ");
    Err(io::Error::other(format!("{command:?}: {said}")))
}

fn busybox() -> Command {
    Command::new("/bin/busybox")
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ChaCha8Rng::seed_from_u64(seed).fill(bytes.as_mut_slice());
    bytes
}

fn write_in_order(dir: &Path, mib: u64) -> io::Result<Took> {
    let path = dir.join("file");
    let _ = fs::remove_file(&path);
    sync(dir)?;
    let mut content = noise(MIB, 1);
    timed(mib, || {
        let mut file = File::create(&path)?;
        for number in 0..mib {
            // No two alike: a store may keep equal pieces once.
            content[..8].copy_from_slice(&number.to_le_bytes());
            file.write_all(&content)?;
        }
        file.sync_all()
    })
}

fn read_in_order(dir: &Path) -> io::Result<Took> {
    forget(dir)?;
    let file = File::open(dir.join("file"))?;
    let mib = file.metadata()?.len() / MIB as u64;
    let mut buffer = vec![0; MIB];
    timed(mib, || {
        (0..mib).try_for_each(|at| file.read_exact_at(&mut buffer, at * MIB as u64))
    })
}

/// Places of blocks in the file, the same each time.
fn places(file: &File, count: u64) -> io::Result<Vec<u64>> {
    let blocks = (file.metadata()?.len() / BLOCK as u64).max(1);
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    Ok((0..count)
        .map(|_| rng.random_range(0..blocks) * BLOCK as u64)
        .collect())
}

fn read_random(dir: &Path, cold: bool) -> io::Result<Took> {
    if cold {
        forget(dir)?;
    }
    let file = File::open(dir.join("file"))?;
    rustix::fs::fadvise(&file, 0, None, Advice::Random)?;
    let places = places(&file, 1000)?;
    let mut buffer = [0; BLOCK];
    timed(1000, || {
        places
            .iter()
            .try_for_each(|at| file.read_exact_at(&mut buffer, *at))
    })
}

fn write_random(dir: &Path, count: u64, durable: bool) -> io::Result<Took> {
    let file = OpenOptions::new().write(true).open(dir.join("file"))?;
    sync(dir)?;
    let places = places(&file, count)?;
    let content = noise(BLOCK, 3);
    timed(count, || {
        for at in &places {
            file.write_all_at(&content, *at)?;
            if durable {
                file.sync_data()?;
            }
        }
        file.sync_all()
    })
}

/// A tree of small files in memory, made once.
fn tree(name: &str, count: u64) -> io::Result<PathBuf> {
    let root = Path::new(SOURCES).join(format!("{name}-{count}"));
    if root.exists() {
        return Ok(root);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for number in 0..count {
        let dir = number / FILES_PER_DIR;
        let dir = root.join(format!("part{}/dir{dir}", dir / 10));
        fs::create_dir_all(&dir)?;
        // Most files are small, as in a source tree.
        let len = 1usize << rng.random_range(5..15);
        let text: Vec<u8> = (0..len).map(|_| rng.random_range(b' '..=b'~')).collect();
        fs::write(dir.join(format!("file-{number}.c")), text)?;
    }
    Ok(root)
}

fn unpack(dir: &Path, count: u64) -> io::Result<Took> {
    let archive = Path::new(SOURCES).join(format!("tree-{count}.tar"));
    if !archive.exists() {
        let root = tree("tree", count)?;
        order(
            busybox()
                .args(["tar", "-cf"])
                .arg(&archive)
                .arg("-C")
                .arg(&root)
                .arg("."),
        )?;
        fs::remove_dir_all(root)?;
    }
    let root = dir.join("tree");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    fs::create_dir(&root)?;
    forget(dir)?;
    timed(count, || {
        order(
            busybox()
                .args(["tar", "-xf"])
                .arg(&archive)
                .arg("-C")
                .arg(&root),
        )?;
        sync(dir)
    })
}

fn walk(dir: &Path) -> io::Result<u64> {
    let mut count = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        count += 1;
        if entry.metadata()?.is_dir() {
            count += walk(&entry.path())?;
        }
    }
    Ok(count)
}

fn list(dir: &Path, cold: bool) -> io::Result<Took> {
    if cold {
        forget(dir)?;
    }
    let mut count = 0;
    let took = timed(0, || {
        count = walk(&dir.join("tree"))?;
        Ok(())
    })?;
    Ok(Took {
        operations: count,
        ..took
    })
}

fn remove(dir: &Path, count: u64) -> io::Result<Took> {
    forget(dir)?;
    timed(count, || {
        order(busybox().args(["rm", "-rf"]).arg(dir.join("tree")))?;
        sync(dir)
    })
}

fn git(dir: &Path) -> Command {
    let mut command = Command::new("git");
    for (name, value) in [("NAME", "razorfs"), ("EMAIL", "razorfs@example.org")] {
        command.env(format!("GIT_AUTHOR_{name}"), value);
        command.env(format!("GIT_COMMITTER_{name}"), value);
    }
    command
        .args(["-c", "safe.directory=*", "-c", "gc.auto=0"])
        .args(["-c", "pack.threads=1"])
        .current_dir(dir);
    command
}

/// A repository of some commits, packed.
fn repository(count: u64) -> io::Result<PathBuf> {
    let root = tree("repository", count)?;
    if root.join(".git").exists() {
        return Ok(root);
    }
    let shell = Path::new("/bin/sh");
    if !shell.exists() {
        // git starts its other end by it.
        std::os::unix::fs::symlink("/bin/busybox", shell)?;
    }
    order(git(&root).args(["init", "-q", "--template=", "--initial-branch=main"]))?;
    for commit in 0..COMMITS {
        for number in (0..count).step_by(10) {
            let dir = number / FILES_PER_DIR;
            let file = format!("part{}/dir{dir}/file-{number}.c", dir / 10);
            let mut file = OpenOptions::new().append(true).open(root.join(file))?;
            writeln!(file, "commit {commit}")?;
        }
        order(git(&root).args(["add", "-A"]))?;
        order(git(&root).args(["commit", "-q", "-m", &commit.to_string()]))?;
    }
    order(git(&root).args(["repack", "-q", "-a", "-d"]))?;
    Ok(root)
}

fn git_clone(dir: &Path, count: u64) -> io::Result<Took> {
    let from = repository(count)?;
    let to = dir.join("repository");
    if to.exists() {
        fs::remove_dir_all(&to)?;
    }
    forget(dir)?;
    timed(count, || {
        order(
            git(dir)
                .args(["clone", "-q", "--no-hardlinks", "--template="])
                .args(["-u", "git upload-pack"])
                .arg(&from)
                .arg(&to),
        )?;
        sync(dir)
    })
}

fn git_status(dir: &Path, count: u64, cold: bool) -> io::Result<Took> {
    if cold {
        forget(dir)?;
    }
    timed(count, || {
        order(git(&dir.join("repository")).args(["status", "-s"]))
    })
}

/// `commits` transactions of `rows` rows each.
fn sqlite(dir: &Path, journal: &str, commits: u64, rows: u64) -> io::Result<Took> {
    for file in fs::read_dir(dir)?.flatten() {
        if file.file_name().to_string_lossy().starts_with("db") {
            fs::remove_file(file.path())?;
        }
    }
    let script = Path::new(SOURCES).join("script.sql");
    fs::create_dir_all(SOURCES)?;
    let mut out = io::BufWriter::new(File::create(&script)?);
    writeln!(
        out,
        "PRAGMA synchronous=FULL; PRAGMA journal_mode={journal};"
    )?;
    writeln!(
        out,
        "CREATE TABLE entries(number INTEGER PRIMARY KEY, text TEXT);
         CREATE INDEX texts ON entries(text);"
    )?;
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for _ in 0..commits {
        writeln!(out, "BEGIN;")?;
        for _ in 0..rows {
            let text: u128 = rng.random();
            writeln!(out, "INSERT INTO entries(text) VALUES('{text:0100}');")?;
        }
        writeln!(out, "COMMIT;")?;
    }
    out.flush()?;
    sync(dir)?;
    timed(commits * rows, || {
        order(
            Command::new("sqlite3")
                .args(["-batch", "-bail"])
                .arg(dir.join("db"))
                .arg(format!(".read {}", script.display())),
        )
    })
}

fn clean(dir: &Path) -> io::Result<Took> {
    timed(0, || {
        fs::remove_dir_all(dir)?;
        match dir.parent() {
            Some(parent) => sync(parent),
            None => Ok(()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those that need neither a guest nor its privileges.
    #[test]
    fn workloads_do_what_they_say() {
        let dir = tempfile::tempdir().unwrap();
        let took = run("write-in-order", dir.path(), 2).unwrap();
        assert_eq!(took.operations, 2);
        assert_eq!(
            fs::metadata(dir.path().join("file")).unwrap().len(),
            2 << 20
        );
        run("read-random-again", dir.path(), 2).unwrap();
        assert_eq!(run("write-random", dir.path(), 2).unwrap().operations, 32);
        assert!(run("nothing", dir.path(), 2).is_err());
    }

    #[test]
    fn each_workload_has_a_description() {
        let all = GROUPS.iter().flat_map(|group| group.workloads);
        assert!(all.into_iter().all(|name| describe(name) != *name));
    }
}
