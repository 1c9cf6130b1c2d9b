//! Real guests that go on over the end of their daemon: with a new process, on another host with
//! another QEMU, and after a kill; under work that compares all that it reads.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::guest::{Emulator, Error, Guest, GuestOptions, Image, Result};
use crate::store::{Daemon, check, mkfs};

/// How to run.
pub struct Plan {
    /// For the store, sockets and logs.
    pub dir: PathBuf,
    /// What guests boot.
    pub image: Image,
    /// What carries them out. Guests move when that is another QEMU than the system's: one that can
    /// move guests with virtiofs (8.2 or newer).
    pub emulator: Emulator,
}

const TAG: &str = "razorfs";
/// How long a move may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the guest does, over and over: a file that it has open and that has no name, one that it
/// appends to and holds open, and new ones, are written, synced and read back past its cache.
const WORK: &str = r#"
cd /mnt
mkdir -p work
exec 3<>held 4<>nameless
rm nameless
echo secret >&4
n=0
while [ ! -e /tmp/stop ]; do
    n=$((n + 1))
    dd if=/dev/urandom of=/tmp/block bs=16k count=3 2>/dev/null || echo "FAIL $n: random"
    dd if=/tmp/block of=work/$n.new bs=64k conv=fsync 2>/dev/null || echo "FAIL $n: write"
    mv work/$n.new work/$n || echo "FAIL $n: rename"
    echo 1 > /proc/sys/vm/drop_caches
    cmp /tmp/block work/$n || echo "FAIL $n: other bytes"
    echo "line $n" >&3 || echo "FAIL $n: the held file"
    [ "$(wc -l < held)" = $n ] || echo "FAIL $n: $(wc -l < held) lines"
    echo "more $n" >&4 || echo "FAIL $n: the file without a name"
    [ "$(wc -l < /proc/self/fd/4)" = $((n + 1)) ] || echo "FAIL $n: nameless"
    [ $n -le 20 ] || rm work/$((n - 20)) || echo "FAIL $n: remove"
    echo $n > /tmp/count
done
[ "$(head -n 1 /proc/self/fd/4)" = secret ] || echo "FAIL: nameless is another"
echo "done $n"
"#;

/// The state of the work.
struct Work;

impl Work {
    fn start(guest: &mut Guest) -> Result<()> {
        guest.shell("busybox --install -s /bin")?;
        guest.shell("rm -f /tmp/stop /tmp/work")?;
        // A line at a time, as the agent takes commands.
        for line in WORK.lines() {
            guest.shell(&format!("echo '{line}' >> /tmp/work"))?;
        }
        guest.shell("busybox setsid busybox sh /tmp/work > /tmp/out 2>&1 < /dev/null &")?;
        Work::goes_on(guest, 3).map(drop)
    }

    /// How often it was done.
    fn count(guest: &mut Guest) -> Result<u64> {
        let said = guest.shell("cat /tmp/count 2>/dev/null || echo 0")?;
        Ok(said.trim().parse().unwrap_or(0))
    }

    /// Waits until it was done a few times more, and sees that nothing went wrong.
    fn goes_on(guest: &mut Guest, times: u64) -> Result<u64> {
        let (before, since) = (Work::count(guest)?, Instant::now());
        loop {
            let now = Work::count(guest)?;
            let said = guest.shell("cat /tmp/out")?;
            if said.contains("FAIL") || said.contains("error") {
                return Err(Error(format!("the guest's work: {said}")));
            }
            if now >= before + times {
                return Ok(now);
            }
            if since.elapsed() > PATIENCE {
                return Err(Error(format!("the guest's work hangs at {now}: {said}")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Ends it, well.
    fn stop(guest: &mut Guest) -> Result<()> {
        guest.shell("touch /tmp/stop")?;
        let since = Instant::now();
        loop {
            let said = guest.shell("cat /tmp/out")?;
            if said.contains("FAIL") || since.elapsed() > PATIENCE {
                return Err(Error(format!("the guest's work: {said}")));
            }
            if said.contains("done") {
                println!("guest: {}", said.trim());
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Plan {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn options(&self, socket: &Path) -> GuestOptions {
        GuestOptions {
            virtiofs: Some((socket.to_owned(), TAG.into())),
            emulator: self.emulator.clone(),
            cpus: 2,
            memory_mib: 256,
            ..GuestOptions::default()
        }
    }

    /// A guest that has the store at /mnt.
    fn boot(&self, dir: &Path, socket: &Path) -> Result<Guest> {
        std::fs::create_dir_all(dir).map_err(|error| Error::new(dir.display(), error))?;
        let mut guest = Guest::start(dir, &self.image, &self.options(socket))?;
        guest.order(&format!("mount virtiofs {TAG} /mnt"))?;
        Ok(guest)
    }

    /// A QEMU that waits for a guest.
    fn wait_for_guest(&self, dir: &Path, socket: &Path) -> Result<(Guest, PathBuf)> {
        std::fs::create_dir_all(dir).map_err(|error| Error::new(dir.display(), error))?;
        let incoming = dir.join("incoming");
        let options = GuestOptions {
            incoming: Some(incoming.clone()),
            ..self.options(socket)
        };
        let guest = Guest::start(dir, &self.image, &options)?;
        wait_for(&incoming)?;
        Ok((guest, incoming))
    }
}

/// Moves a guest to the QEMU that waits at a socket. What QEMU says in the end.
fn move_guest(guest: &Guest, to: &Path) -> Result<serde_json::Value> {
    let uri = format!("unix:{}", to.display());
    guest.qmp("migrate", &json!({ "uri": uri }))?;
    let since = Instant::now();
    loop {
        let state = guest.qmp("query-migrate", &json!({}))?;
        match state["status"].as_str() {
            Some("completed" | "failed" | "cancelled") => return Ok(state),
            _ if since.elapsed() > PATIENCE => {
                return Err(Error(format!("it does not move: {state}")));
            }
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Goes through all of it.
///
/// # Errors
/// What is not as it should be.
pub fn go(plan: &Plan) -> Result<()> {
    let store = plan.path("store");
    mkfs(&store)?;
    let (socket, log) = (plan.path("one.sock"), plan.path("razorfsd.log"));
    let daemon = Daemon::start(&store, std::slice::from_ref(&socket), TAG, &log)?;
    let mut guest = plan.boot(&plan.path("one"), &socket)?;
    Work::start(&mut guest)?;
    let daemon = update(plan, &store, &mut guest, daemon)?;
    let (guest, daemon) = match plan.emulator.qemu {
        Some(_) => migrate(plan, &store, guest, daemon)?,
        None => (guest, daemon),
    };
    kill(plan, &store, guest, daemon)?;
    check(&store)
}

/// A new process takes over from the old one, a few times.
fn update(plan: &Plan, store: &Path, guest: &mut Guest, mut daemon: Daemon) -> Result<Daemon> {
    println!("== another process takes over");
    let (socket, log) = (plan.path("one.sock"), plan.path("razorfsd.log"));
    for _ in 0..3 {
        let flags = ["--tag", TAG, "--take-over"];
        let new = Daemon::beside(store, &socket, &log, &flags)?;
        daemon.ends()?;
        daemon = new;
        let count = Work::goes_on(guest, 3)?;
        println!("the guest goes on: {count}");
    }
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    for line in said
        .lines()
        .filter(|line| line.contains("the guests are here"))
    {
        println!("{line}");
    }
    Ok(daemon)
}

/// The guest moves to another QEMU with another daemon: not at first, as that one would behave
/// otherwise, then it does.
fn migrate(plan: &Plan, store: &Path, mut guest: Guest, daemon: Daemon) -> Result<(Guest, Daemon)> {
    println!("== a daemon with other flags");
    let (socket, log) = (plan.path("two.sock"), plan.path("two.log"));
    let other = Daemon::beside(store, &socket, &log, &["--incoming", "--cache", "never"])?;
    wait_for(&socket)?;
    let (mut there, incoming) = plan.wait_for_guest(&plan.path("other"), &socket)?;
    let state = move_guest(&guest, &incoming)?;
    // That is all that the source knows: nobody asks the destination, but for who watches both.
    println!("migration, for the source: {}", state["status"]);
    there.ends()?;
    drop(other);
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    if !said.contains("start razorfsd with the same flags") {
        return Err(Error(format!("it did not move for another reason: {said}")));
    }
    if state["status"] == "completed" {
        guest.qmp("cont", &json!({}))?;
    }
    drop(there);
    // Killed, it has left its socket.
    let _ = std::fs::remove_file(&socket);
    let count = Work::goes_on(&mut guest, 3)?;
    println!("the guest goes on where it was: {count}");

    println!("== to another QEMU and daemon");
    let other = Daemon::beside(store, &socket, &log, &["--tag", TAG, "--incoming"])?;
    wait_for(&socket)?;
    let (mut there, incoming) = plan.wait_for_guest(&plan.path("two"), &socket)?;
    let state = move_guest(&guest, &incoming)?;
    println!(
        "migration: {}, downtime {} ms, in all {} ms",
        state["status"], state["downtime"], state["total-time"]
    );
    if state["status"] != "completed" {
        return Err(Error(format!("it does not move: {state}")));
    }
    let count = Work::goes_on(&mut there, 5)?;
    println!("the guest goes on there: {count}");
    guest.cut();
    daemon.stop()?;
    Work::goes_on(&mut there, 3)?;
    Ok((there, other))
}

/// The daemon is killed under the guest, which starts again: what was synced is there.
fn kill(plan: &Plan, store: &Path, mut guest: Guest, mut daemon: Daemon) -> Result<()> {
    println!("== the daemon is killed");
    Work::stop(&mut guest)?;
    let write = "dd if=/dev/urandom of=/mnt/synced bs=64k count=9 conv=fsync 2>/dev/null; \
                 sha256sum /mnt/synced";
    let sum = guest.shell(write)?;
    guest.shell("echo not synced > /mnt/lost")?;
    daemon.kill();
    // Requests of the guest hang now, until it starts again.
    guest.send("sh cat /mnt/synced > /dev/null")?;
    std::thread::sleep(Duration::from_millis(200));
    let (socket, log) = (plan.path("three.sock"), plan.path("three.log"));
    let daemon = Daemon::start(store, std::slice::from_ref(&socket), TAG, &log)?;
    guest.cut();
    let mut guest = plan.boot(&plan.path("three"), &socket)?;
    let found = guest.shell("busybox sha256sum /mnt/synced; busybox ls /mnt/work > /dev/null")?;
    if found.split_whitespace().next() != sum.split_whitespace().next() {
        return Err(Error(format!("synced: {sum}, found: {found}")));
    }
    println!("what was synced is there");
    guest.power_off()?;
    daemon.stop()
}

fn wait_for(socket: &Path) -> Result<()> {
    let since = Instant::now();
    while !socket.exists() {
        if since.elapsed() > PATIENCE {
            return Err(Error(format!("{} does not appear", socket.display())));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
