//! SIGINT (Ctrl-C) in the middle of the commands that take long: each leaves what its documentation
//! says, and can be run again.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

#[path = "host/mod.rs"]
mod host;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::process::{Pid, Signal, kill_process};

const RAZORFS: &str = env!("CARGO_BIN_EXE_razorfs");
const RAZORFSCK: &str = env!("CARGO_BIN_EXE_razorfsck");

/// Signals in the middle of each command; more by `RAZORFS_KILLS`.
const ROUNDS: u32 = 5;
const SEED: u64 = 20_266;
/// How long a command may take to end once it was told to.
const END_WITHIN: Duration = Duration::from_secs(60);
const FILES: u32 = 30;

/// A tree, a store that has it, and a directory for what becomes of copies of that.
struct World {
    dir: tempfile::TempDir,
    random: ChaCha8Rng,
    rounds: u32,
}

/// A command that was sent SIGINT, or was done before.
struct Interrupted {
    out: Output,
    place: String,
}

impl Interrupted {
    fn said(&self) -> String {
        let said = [self.out.stdout.as_slice(), &self.out.stderr].concat();
        format!("{}: {}", self.place, String::from_utf8_lossy(&said))
    }
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

fn succeed(command: &mut Command) -> String {
    let out = run(command);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{command:?}: {out:?}");
    said
}

fn razorfs(verb: &str, store: &Path) -> Command {
    let mut command = Command::new(RAZORFS);
    command.arg(verb).arg(store);
    if !["send", "extract"].contains(&verb) {
        command.arg("--allow-volatile");
    }
    command
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    succeed(
        Command::new("cp")
            .args(["-a", "--sparse=always"])
            .args([from, to]),
    );
}

/// All bytes of a store.
fn bytes(store: &Path) -> Vec<Vec<u8>> {
    [
        "superblock",
        "nodes.dat",
        "strings.dat",
        "chunks.dat",
        "wal.log",
    ]
    .map(|name| fs::read(store.join(name)).unwrap())
    .to_vec()
}

/// Files of a tree: names and content.
fn files(tree: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(tree).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let name = path.strip_prefix(tree).unwrap().to_owned();
            found.push((name, fs::read(path).unwrap()));
        }
    }
    found.sort();
    found
}

impl World {
    /// `None` where this is not root, to whom the files belong.
    fn new() -> Option<World> {
        if !host::is_root_with("/dev/null", "nothing else") {
            return None;
        }
        let number = |name: &str, default: u64| {
            std::env::var(name).map_or(default, |number| number.parse().unwrap())
        };
        let seed = number("RAZORFS_SEED", SEED);
        println!("RAZORFS_SEED={seed}");
        let mut world = World {
            dir: host::scratch_dir(),
            random: ChaCha8Rng::seed_from_u64(seed),
            rounds: u32::try_from(number("RAZORFS_KILLS", ROUNDS.into())).unwrap(),
        };
        let tree = world.path("tree");
        fs::create_dir(&tree).unwrap();
        for n in 0..FILES {
            let mut content = vec![0; world.random.random_range(1..400_000)];
            world.random.fill(content.as_mut_slice());
            fs::write(tree.join(format!("file{n}")), content).unwrap();
        }
        succeed(razorfs("mkfs", &world.path("full")).args(["--log-size", "8M"]));
        copy(&world.path("full"), &world.path("empty"));
        succeed(razorfs("import", &world.path("full")).arg(&tree));
        succeed(razorfs("snapshot", &world.path("full")).arg("main@one"));
        Some(world)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a command once to its end, then again and again, each time on a copy of a store, with SIGINT at
    /// some moment.
    fn interrupt(
        &mut self,
        from: &str,
        command: impl Fn(&World, &Path) -> Command,
        mut judge: impl FnMut(&World, &Path, &Interrupted),
    ) {
        let (store, from) = (self.path("store"), self.path(from));
        copy(&from, &store);
        let since = Instant::now();
        run(&mut command(self, &store));
        let mut longest = since.elapsed();
        let mut caught = 0;
        for round in 0..self.rounds * 10 {
            if caught == self.rounds {
                break;
            }
            copy(&from, &store);
            let pause = self.random.random_range(Duration::ZERO..longest);
            let mut command = command(self, &store);
            let place = format!("{command:?}, round {round}, SIGINT after {pause:?}");
            let mut child = command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let waiting = Instant::now();
            while waiting.elapsed() < pause && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_micros(500));
            }
            if child.try_wait().unwrap().is_none() {
                kill_process(Pid::from_child(&child), Signal::INT).unwrap();
                caught += 1;
            } else {
                // It was slower the first time.
                longest = longest.min(waiting.elapsed());
            }
            let told = Instant::now();
            let out = child.wait_with_output().unwrap();
            assert!(told.elapsed() < END_WITHIN, "{place}");
            let interrupted = Interrupted { out, place };
            assert!(
                !interrupted.said().contains("panicked"),
                "{}",
                interrupted.said()
            );
            judge(self, &store, &interrupted);
        }
        println!(
            "{caught} of {} before the end, within {longest:?}",
            self.rounds
        );
        assert!(caught > 0);
    }

    /// The store is sound, and its main dataset has the tree.
    fn is_whole(&self, store: &Path, dataset: &str, place: &str) {
        self.is_sound(store, place);
        let out = self.path("out");
        let _ = fs::remove_dir_all(&out);
        succeed(razorfs("extract", store).arg(dataset).arg(&out));
        assert!(files(&out) == files(&self.path("tree")), "{place}");
    }

    fn is_sound(&self, store: &Path, place: &str) {
        let checked = run(Command::new(RAZORFSCK).arg("--data").arg(store));
        assert!(checked.status.success(), "{place}: {checked:?}");
    }

    /// What is there of the tree, each file whole.
    fn is_part(&self, found: &Path, place: &str) {
        let all = files(&self.path("tree"));
        for (name, content) in files(found) {
            let right = all.iter().find(|(other, _)| *other == name);
            assert!(
                right.is_some_and(|(_, right)| *right == content),
                "{place}: {name:?}"
            );
        }
    }
}

#[test]
fn a_check_changes_nothing() {
    let Some(mut world) = World::new() else {
        return;
    };
    let before = bytes(&world.path("full"));
    let check = |_: &World, store: &Path| {
        let mut command = Command::new(RAZORFSCK);
        command.arg("--data").arg(store);
        command
    };
    world.interrupt("full", check, |_, store, this| {
        assert!(bytes(store) == before, "{}", this.said());
    });
}

#[test]
fn a_repair_leaves_the_store_as_it_was_or_mended() {
    let Some(mut world) = World::new() else {
        return;
    };
    // The index of names by hash, say: a repair makes it anew, from what is there.
    let nodes = fs::read(world.path("full/nodes.dat")).unwrap();
    let broken = (1..nodes.len() / 4096).find(|page| {
        copy(&world.path("full"), &world.path("broken"));
        let mut damaged = nodes.clone();
        damaged[page * 4096 + 100] ^= 1;
        fs::write(world.path("broken/nodes.dat"), damaged).unwrap();
        let checked = run(Command::new(RAZORFSCK).arg(world.path("broken")));
        checked.status.code() == Some(4)
    });
    assert!(broken.is_some());
    let repair = |_: &World, store: &Path| {
        let mut command = Command::new(RAZORFSCK);
        command.arg("--repair").arg(store);
        command
    };
    world.interrupt("broken", repair, |world, store, this| {
        let again = run(&mut repair(world, store));
        let code = again.status.code();
        assert!(matches!(code, Some(0 | 1)), "{}: {again:?}", this.said());
        world.is_sound(store, &this.place);
    });
}

#[test]
fn mkfs_makes_a_store_or_leaves_nothing() {
    let Some(mut world) = World::new() else {
        return;
    };
    let mkfs = |_: &World, store: &Path| {
        let _ = fs::remove_dir_all(store);
        razorfs("mkfs", store)
    };
    world.interrupt("empty", mkfs, |world, store, this| {
        match this.out.status.success() {
            true => world.is_sound(store, &this.place),
            false => {
                let left = store.exists();
                assert!(!left, "{}", this.said());
                succeed(&mut razorfs("mkfs", store));
            }
        }
    });
}

#[test]
fn an_import_leaves_whole_files_and_can_be_gone_on_with() {
    let Some(mut world) = World::new() else {
        return;
    };
    let import = |world: &World, store: &Path| {
        let mut command = razorfs("import", store);
        command.arg(world.path("tree")).arg("--merge");
        command
    };
    world.interrupt("empty", import, |world, store, this| {
        world.is_sound(store, &this.place);
        let out = world.path("out");
        let _ = fs::remove_dir_all(&out);
        succeed(razorfs("extract", store).arg("main").arg(&out));
        world.is_part(&out, &this.place);
        succeed(&mut import(world, store));
        world.is_whole(store, "main", &this.place);
    });
}

#[test]
fn an_extract_leaves_whole_files() {
    let Some(mut world) = World::new() else {
        return;
    };
    let extract = |world: &World, store: &Path| {
        let _ = fs::remove_dir_all(world.path("part"));
        let mut command = razorfs("extract", store);
        command.arg("main").arg(world.path("part"));
        command
    };
    world.interrupt("full", extract, |world, store, this| {
        if world.path("part").exists() {
            world.is_part(&world.path("part"), &this.place);
        }
        world.is_whole(store, "main", &this.place);
    });
}

/// A daemon that serves a store until it is dropped.
struct Served(std::process::Child);

impl Served {
    fn start(store: &Path) -> Served {
        let mut razorfsd = Command::new(env!("CARGO_BIN_EXE_razorfsd"));
        razorfsd.args(["--allow-volatile", "--log-level", "error", "--store"]);
        razorfsd.arg(store).arg("--socket-path");
        let razorfsd = razorfsd.arg(store.with_extension("socket")).spawn();
        let served = Served(razorfsd.unwrap());
        let began = Instant::now();
        while !store.join("control.sock").exists() {
            assert!(began.elapsed() < END_WITHIN);
            std::thread::sleep(Duration::from_millis(5));
        }
        served
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let ended = self.0.wait();
        assert!(std::thread::panicking() || ended.unwrap().success());
    }
}

/// A copy of a store that a daemon serves, in the place of the one before.
fn served_copy(
    world: &World,
    store: &Path,
    served: &std::cell::RefCell<Option<Served>>,
) -> PathBuf {
    *served.borrow_mut() = None;
    let new = world.path("served");
    copy(store, &new);
    *served.borrow_mut() = Some(Served::start(&new));
    new
}

/// The same where a daemon does it: it goes on, and the next one finds nothing in its way.
#[test]
fn an_import_by_a_daemon_leaves_whole_files_and_can_be_gone_on_with() {
    let Some(mut world) = World::new() else {
        return;
    };
    let served = std::cell::RefCell::new(None);
    let import = |world: &World, store: &Path| {
        let store = &served_copy(world, store, &served);
        let mut command = razorfs("import", store);
        command.arg(world.path("tree")).arg("--merge");
        command
    };
    world.interrupt("empty", import, |world, _, this| {
        let store = &world.path("served");
        let out = world.path("out");
        let _ = fs::remove_dir_all(&out);
        succeed(razorfs("extract", store).arg("main").arg(&out));
        world.is_part(&out, &this.place);
        let again = || {
            let mut again = razorfs("import", store);
            run(again.arg(world.path("tree")).arg("--merge"))
        };
        let began = Instant::now();
        let mut done = again();
        // One that was cut off at once may not have been seen to be.
        while !done.status.success() && began.elapsed() < END_WITHIN {
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(said.contains("try again"), "{}: {said}", this.said());
            done = again();
        }
        assert!(done.status.success(), "{}: {done:?}", this.said());
        *served.borrow_mut() = None;
        world.is_whole(store, "main", &this.place);
    });
}

#[test]
fn an_extract_by_a_daemon_leaves_whole_files() {
    let Some(mut world) = World::new() else {
        return;
    };
    let served = std::cell::RefCell::new(None);
    let extract = |world: &World, store: &Path| {
        let _ = fs::remove_dir_all(world.path("part"));
        let store = &served_copy(world, store, &served);
        let mut command = razorfs("extract", store);
        command.arg("main").arg(world.path("part"));
        command
    };
    world.interrupt("full", extract, |world, _, this| {
        let store = &world.path("served");
        if world.path("part").exists() {
            world.is_part(&world.path("part"), &this.place);
        }
        *served.borrow_mut() = None;
        world.is_whole(store, "main", &this.place);
    });
}

/// Receives a stream that may have been cut off, then the rest of it; all of it is there then.
fn go_on(world: &World, store: &Path, place: &str) {
    let target = world.path("target");
    let token = run(razorfs("receive", &target).args(["copy", "--resume-token"]));
    let token = String::from_utf8(token.stdout).unwrap();
    let mut send = razorfs("send", store);
    match token.trim() {
        // Nothing of it came.
        "" => send.arg("main@one"),
        token => send.args(["--resume", token]),
    };
    let is_there = succeed(&mut razorfs("list", &target)).contains("copy@one");
    if !is_there {
        let mut sender = send.stdout(Stdio::piped()).spawn().unwrap();
        let rest = sender.stdout.take().unwrap();
        let received = razorfs("receive", &target)
            .arg("copy")
            .stdin(rest)
            .output()
            .unwrap();
        assert!(received.status.success(), "{place}: {received:?}");
        assert!(sender.wait().unwrap().success(), "{place}");
    }
    world.is_whole(&target, "copy", place);
    world.is_whole(store, "main", place);
}

#[test]
fn a_send_and_a_receive_are_gone_on_with() {
    let Some(mut world) = World::new() else {
        return;
    };
    let send = |world: &World, store: &Path| {
        // A shell that is ended before it opens it leaves none, not the one before.
        let _ = fs::remove_file(world.path("stream"));
        let stream = world.path("stream").display().to_string();
        let mut command = Command::new("sh");
        let line = format!(
            "exec {RAZORFS} send {} main@one > {stream}",
            store.display()
        );
        command.args(["-c", &line]);
        command
    };
    world.interrupt("full", send, |world, store, this| {
        copy(&world.path("empty"), &world.path("target"));
        let stream = File::open(world.path("stream"));
        let stream = stream.map_or(Stdio::null(), Stdio::from);
        let received = razorfs("receive", &world.path("target"))
            .arg("copy")
            .stdin(stream)
            .output()
            .unwrap();
        // The signal may have come between the stream's last byte and the end of who sent it.
        let received = received.status.success();
        assert!(received || !this.out.status.success(), "{}", this.said());
        go_on(world, store, &this.place);
    });
    run(&mut send(&world, &world.path("full")));
    let receive = |world: &World, _: &Path| {
        copy(&world.path("empty"), &world.path("target"));
        let mut command = Command::new("sh");
        let (target, stream) = (world.path("target"), world.path("stream"));
        let (target, stream) = (target.display(), stream.display());
        let line = format!("exec {RAZORFS} receive --allow-volatile {target} copy < {stream}");
        command.args(["-c", &line]);
        command
    };
    world.interrupt("full", receive, |world, store, this| {
        world.is_sound(&world.path("target"), &this.place);
        go_on(world, store, &this.place);
    });
}

#[test]
fn a_scrub_goes_on_where_it_stopped() {
    let Some(mut world) = World::new() else {
        return;
    };
    let scrub = |_: &World, store: &Path| razorfs("scrub", store);
    world.interrupt("full", scrub, |world, store, this| {
        // Before it began it is ended by the signal as any program.
        let code = this.out.status.code();
        assert!(matches!(code, None | Some(0 | 3)), "{}", this.said());
        let done = succeed(&mut scrub(world, store));
        assert!(done.contains("0 damaged"), "{done}");
        world.is_whole(store, "main", &this.place);
    });
}

#[test]
fn moving_and_writing_anew_lose_nothing() {
    let Some(mut world) = World::new() else {
        return;
    };
    let rewrite = |_: &World, store: &Path| {
        let mut command = razorfs("rewrite", store);
        command.args((0..FILES).map(|n| format!("file{n}")));
        command
    };
    // So that it has something to do.
    succeed(razorfs("set", &world.path("full")).arg("compression=lz4"));
    world.interrupt("full", rewrite, |world, store, this| {
        world.is_whole(store, "main", &this.place);
    });
    // Holes in front of what is left.
    let gaps = world.path("gaps");
    copy(&world.path("empty"), &gaps);
    succeed(razorfs("create", &gaps).arg("first"));
    let tree = world.path("tree");
    succeed(
        razorfs("import", &gaps)
            .arg(&tree)
            .args(["--dataset", "first"]),
    );
    succeed(razorfs("import", &gaps).arg(&tree));
    succeed(razorfs("delete", &gaps).arg("first"));
    let compact = |_: &World, store: &Path| razorfs("compact", store);
    world.interrupt("gaps", compact, |world, store, this| {
        world.is_whole(store, "main", &this.place);
    });
    let trim = |_: &World, store: &Path| {
        let mut command = razorfs("trim", store);
        command.args(["--min", "4K"]);
        command
    };
    world.interrupt("gaps", trim, |world, store, this| {
        world.is_whole(store, "main", &this.place);
    });
}

#[test]
fn what_is_deleted_is_there_or_gone() {
    let Some(mut world) = World::new() else {
        return;
    };
    succeed(razorfs("clone", &world.path("full")).args(["main@one", "other"]));
    let more = world.path("tree");
    let mut import = razorfs("import", &world.path("full"));
    succeed(
        import
            .arg(&more)
            .args(["--dataset", "other", "--to", "more"]),
    );
    let delete = |_: &World, store: &Path| {
        let mut command = razorfs("delete", store);
        command.arg("other");
        command
    };
    world.interrupt("full", delete, |world, store, this| {
        world.is_whole(store, "main", &this.place);
        let list = succeed(&mut razorfs("list", store));
        if this.out.status.success() {
            assert!(!list.contains("other"), "{}: {list}", this.place);
        }
        if list.contains("other") {
            succeed(razorfs("delete", store).arg("other"));
        }
        world.is_whole(store, "main", &this.place);
    });
}
