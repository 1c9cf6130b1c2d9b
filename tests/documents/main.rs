//! Every code block of README.md and docs/ is run, as a user would: command by command, in order.
//!
//! A block says what it is by the word behind its opening fence:
//!
//! ```text
//! sh     commands, run by bash, which must succeed; all of a document in one shell, one after another
//! toml   a configuration file, checked by razorfsd
//! json, xml   must be well-formed
//! text   a drawing or an output: nothing to run
//! ```
//!
//! In the shell razorfs's programs are those of this build, and /var/lib/razorfs, /run/razorfs,
//! /etc/razorfs, /srv and /mnt are directories of the test's own, by a mount namespace: the commands
//! stand in the documents as they are to be typed. `ssh HOST COMMAND` runs the command here, and
//! `storage1` is this machine. What else a reader has, or sees, is said by lines around a block:
//!
//! ```text
//! <!-- run by scripts/X.sh -->   before it: not run here but by that script, in the same words: it gets
//!                                them by scripts/block.sh, or has each line as one of its own
//! <!-- first: COMMAND -->        before it: run in the same shell before the block
//! <!-- then: COMMAND -->         behind it: run behind the block
//! ```
//!
//! Needs root for the namespace; without it the commands are not run, and it says so.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod blocks;
#[path = "../host/mod.rs"]
mod host;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use blocks::{Block, blocks};
use host::scratch_dir;

const DIRS: [&str; 5] = [
    "/var/lib/razorfs",
    "/run/razorfs",
    "/etc/razorfs",
    "/srv",
    "/mnt",
];

fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = docs
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .collect();
    all.sort();
    all.insert(0, root.join("README.md"));
    all
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn each_block_says_what_it_is() {
    for path in documents() {
        let text = fs::read_to_string(&path).unwrap();
        for block in blocks(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())) {
            let place = format!("{}, line {}", path.display(), block.line);
            match block.kind.as_str() {
                "sh" | "text" => {}
                "toml" => check_configuration(&block.text, &place),
                "json" => {
                    let parsed = serde_json::from_str::<serde_json::Value>(&block.text);
                    assert!(parsed.is_ok(), "{place}: {parsed:?}");
                }
                "xml" => check_xml(&block.text, &place),
                other => panic!("{place}: a block of kind '{other}'"),
            }
        }
    }
}

/// What razorfsd says of a configuration file.
fn check_configuration(text: &str, place: &str) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("razorfsd.toml");
    fs::write(&file, text).unwrap();
    let checked = Command::new(env!("CARGO_BIN_EXE_razorfsd"))
        .arg("--check-config")
        .arg("--config")
        .arg(file)
        .output()
        .unwrap();
    assert!(checked.status.success(), "{place}: {checked:?}");
}

/// Whether each element that begins ends. Pieces may stand side by side, and `...` for others.
fn check_xml(text: &str, place: &str) {
    let mut open = Vec::new();
    for tag in text.split('<').skip(1) {
        let (tag, _) = tag
            .split_once('>')
            .unwrap_or_else(|| panic!("{place}: <{tag}"));
        let name = |tag: &str| tag.split([' ', '\n']).next().unwrap().to_owned();
        match tag.strip_prefix('/') {
            Some(ended) => assert_eq!(open.pop(), Some(name(ended)), "{place}"),
            None if tag.ends_with('/') => {}
            None => open.push(name(tag)),
        }
    }
    assert_eq!(open, [""; 0], "{place}");
}

/// Whether a script runs a block of a document, whose path is from the top of the checkout.
fn check_script(
    script: &str,
    document: &str,
    blocks: &[Block],
    block: &Block,
) -> Result<(), String> {
    let mut lines = script.lines().filter(|line| !line.starts_with('#'));
    let call = format!("scripts/block.sh {document} '");
    let asked = lines.clone().flat_map(|line| line.split(&call).skip(1));
    for words in asked.filter_map(|rest| rest.split('\'').next()) {
        let with = |block: &&Block| block.kind == "sh" && block.text.contains(words);
        match blocks.iter().filter(with).count() {
            1 if with(&block) => return Ok(()),
            1 => {}
            count => return Err(format!("{count} blocks of {document} have '{words}'")),
        }
    }
    match block
        .text
        .lines()
        .find(|line| !lines.any(|has| has == *line))
    {
        None => Ok(()),
        Some(line) => Err(format!("it asks for no such block, nor has it '{line}'")),
    }
}

#[test]
fn what_others_run_is_run_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for path in documents() {
        let name = path.strip_prefix(root).unwrap().to_string_lossy();
        let blocks = blocks(&fs::read_to_string(&path).unwrap()).unwrap();
        for block in &blocks {
            if let Some(script) = &block.run_by {
                let text = fs::read_to_string(root.join(script))
                    .unwrap_or_else(|error| panic!("{name}:{}: {script}: {error}", block.line));
                if let Err(why) = check_script(&text, &name, &blocks, block) {
                    panic!("{name}:{}: {script}: {why}", block.line);
                }
            }
        }
    }
}

#[test]
fn a_script_runs_what_it_asks_for_or_has() {
    let found = blocks("```sh\na\nb\n```\n\n```sh\nb\nc d\n```\n").unwrap();
    let runs = |script: &str| check_script(script, "docs/X.md", &found, &found[1]);
    assert_eq!(
        runs("eval \"$(scripts/block.sh docs/X.md 'c d')\"\n"),
        Ok(())
    );
    assert_eq!(runs("#!/bin/bash\nb\nc d\n"), Ok(()));
    for other in [
        "eval \"$(scripts/block.sh docs/X.md 'a')\"\n",
        "eval \"$(scripts/block.sh docs/X.md 'b')\"\n",
        "eval \"$(scripts/block.sh docs/X.md 'none')\"\n",
        "eval \"$(scripts/block.sh docs/Y.md 'c d')\"\n",
        "# scripts/block.sh docs/X.md 'c d'\n",
        "b\nc d e\n",
        "c d\n",
    ] {
        assert!(runs(other).is_err(), "{other}");
    }
}

/// The commands of a document as one script. Each block is announced by a line of its own.
fn script(name: &str, blocks: &[Block]) -> String {
    // What it leaves in the background ends with it.
    let mut script =
        String::from("set -euo pipefail\ntrap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n");
    let run_here = |block: &&Block| block.kind == "sh" && block.run_by.is_none();
    for block in blocks.iter().filter(run_here) {
        script += &format!("echo '### {name}:{}' >&2\n", block.line);
        for part in [&block.first, &Some(block.text.clone()), &block.then] {
            script += part.as_deref().unwrap_or_default();
            script.push('\n');
        }
    }
    script + "echo '### the end' >&2\n"
}

/// Programs in the place of others: those of this build, and ssh to this machine.
fn programs(dir: &Path) {
    for (name, program) in [
        ("razorfs", env!("CARGO_BIN_EXE_razorfs")),
        ("razorfsd", env!("CARGO_BIN_EXE_razorfsd")),
        ("razorfsck", env!("CARGO_BIN_EXE_razorfsck")),
    ] {
        std::os::unix::fs::symlink(program, dir.join(name)).unwrap();
    }
    // Read by curl, for which an answer is an answer else, whatever it says.
    fs::write(dir.join(".curlrc"), "fail-with-body\n").unwrap();
    let ssh = dir.join("ssh");
    fs::write(&ssh, "#!/bin/bash\nshift\nexec bash -c \"$*\"\n").unwrap();
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
}

fn run(path: &Path) {
    let name = name_of(path);
    let text = fs::read_to_string(path).unwrap();
    let script = script(&name, &blocks(&text).unwrap());
    let dir = scratch_dir();
    let bin = dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    programs(&bin);
    let mut mounts = String::new();
    for (number, place) in DIRS.iter().enumerate() {
        let own = dir.path().join(number.to_string());
        fs::create_dir(&own).unwrap();
        mounts += &format!("mkdir -p {place}; mount --bind {} {place}\n", own.display());
    }
    let hosts = dir.path().join("hosts");
    fs::write(&hosts, "127.0.0.1 localhost storage1\n").unwrap();
    mounts += &format!("mount --bind {} /etc/hosts\n", hosts.display());
    let file = dir.path().join("script");
    fs::write(&file, script).unwrap();
    let inner = format!("set -e\n{mounts}exec bash {}\n", file.display());
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let done = Command::new("timeout")
        .args(["300", "unshare", "--mount", "--propagation", "private"])
        .args(["bash", "-c", &inner])
        .env("PATH", path)
        .env("CURL_HOME", &bin)
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success(),
        "{name}: {}\n{}\n{said}",
        done.status,
        String::from_utf8_lossy(&done.stdout)
    );
    assert!(said.lines().any(|line| line == "### the end"), "{said}");
}

#[test]
fn each_command_can_be_run() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root for a mount namespace");
        return;
    }
    for path in documents() {
        run(&path);
    }
}
