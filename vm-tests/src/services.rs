//! What a store does besides holding files, seen by real guests: quotas, snapshots, bringing back,
//! restoring, clones, and sending to another store; with a power cut in the middle.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::guest::image::run;
use crate::guest::{Emulator, Error, Guest, GuestOptions, Image, Result};
use crate::store::{Daemon, check, mkfs, program, programs};

/// How to run.
pub struct Plan {
    /// For stores, sockets and logs.
    pub dir: PathBuf,
    /// What guests boot.
    pub image: Image,
    /// What carries them out.
    pub emulator: Emulator,
}

/// Where a dataset is exported, and its mount tag.
const DATASET: &str = "web";

impl Plan {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A daemon that exports a dataset of a store.
    fn serve(&self, store: &Path, dataset: &str) -> Result<Daemon> {
        let (main, socket) = (self.path("main.sock"), self.path("guest.sock"));
        let _ = std::fs::remove_file(&socket);
        let export = format!("{dataset}:{}:{DATASET}", socket.display());
        let flags = ["--export", &export];
        Daemon::start_with(
            store,
            &[main],
            "razorfs",
            &self.path("razorfsd.log"),
            &flags,
        )
    }

    /// A guest that has the dataset at /mnt.
    fn boot(&self) -> Result<Guest> {
        let options = GuestOptions {
            virtiofs: Some((self.path("guest.sock"), DATASET.into())),
            cpus: 2,
            emulator: self.emulator.clone(),
            ..GuestOptions::default()
        };
        let mut guest = Guest::start(&self.dir, &self.image, &options)?;
        guest.order(&format!("mount virtiofs {DATASET} /mnt"))?;
        Ok(guest)
    }
}

/// Has `razorfs` do something with a store.
fn razorfs(verb: &str, store: &Path, rest: &[&str]) -> Result<()> {
    println!("razorfs {verb} {} {}", store.display(), rest.join(" "));
    run(program("razorfs").arg(verb).arg(store).args(rest)).map(drop)
}

/// Has a guest run a command, and prints both.
fn sh(guest: &mut Guest, command: &str) -> Result<String> {
    println!("guest# {command}");
    let said = guest.shell(command)?;
    print!("{said}");
    Ok(said)
}

fn expect(what: &str, said: &str, wanted: &str) -> Result<()> {
    match said.contains(wanted) {
        true => Ok(()),
        false => Err(Error(format!("{what}: '{}', not '{wanted}'", said.trim()))),
    }
}

/// Goes through all of it.
///
/// # Errors
/// What is not as it should be.
pub fn go(plan: &Plan) -> Result<()> {
    let (store, other) = (plan.path("store"), plan.path("other"));
    mkfs(&store)?;
    mkfs(&other)?;
    razorfs(
        "create",
        &store,
        &[DATASET, "--quota", "32M", "--compression", "lz4"],
    )?;
    let sum = first_guest(plan, &store)?;
    // The power is gone, and the store not in use.
    razorfs("clone", &store, &["web@one", "copy"])?;
    razorfs("restore", &store, &["web@one"])?;
    send(&store, &other)?;
    for (store, dataset) in [(&store, "web"), (&store, "copy"), (&other, "web")] {
        println!("== {dataset} of {}", store.display());
        let daemon = plan.serve(store, dataset)?;
        let mut guest = plan.boot()?;
        expect(
            dataset,
            &sh(&mut guest, "busybox cat /mnt/a/file")?,
            "first",
        )?;
        expect(
            dataset,
            &sh(&mut guest, "busybox sha256sum /mnt/big")?,
            &sum,
        )?;
        // What one does is nothing to the others.
        sh(
            &mut guest,
            "echo own > /mnt/a/file; busybox rm /mnt/big; busybox sync",
        )?;
        guest.power_off()?;
        daemon.stop()?;
    }
    check(&store)?;
    check(&other)
}

/// Writes, reaches the quota, and has a snapshot taken; until the power is cut. The hash of a file.
fn first_guest(plan: &Plan, store: &Path) -> Result<String> {
    let mut daemon = plan.serve(store, DATASET)?;
    let mut guest = plan.boot()?;
    let write = "busybox mkdir /mnt/a; echo first > /mnt/a/file; \
                 busybox dd if=/dev/urandom of=/mnt/big bs=1M count=8 2>/dev/null; \
                 busybox sha256sum /mnt/big";
    let sum = sh(&mut guest, write)?;
    let sum = sum.split_whitespace().next().unwrap_or_default().to_owned();
    let fill = "busybox dd if=/dev/zero of=/mnt/fill bs=1M count=64; busybox rm /mnt/fill; \
                echo goes on > /mnt/after; busybox df -m /mnt";
    let said = sh(&mut guest, fill)?;
    expect("the quota", &said, "quota exceeded")?;
    expect("df", &said, " 32 ")?;
    // The guest notices nothing.
    razorfs("snapshot", store, &["web@one"])?;
    let change = "echo second > /mnt/a/file; busybox rm /mnt/big; \
                  busybox cat /mnt/.snapshots/one/a/file; \
                  busybox cp /mnt/.snapshots/one/big /mnt/back; busybox sync; \
                  busybox sha256sum /mnt/.snapshots/one/big /mnt/back";
    let said = sh(&mut guest, change)?;
    expect("the snapshot", &said, "first")?;
    if said.matches(&sum).count() != 2 {
        return Err(Error(format!("the snapshot has other content: {said}")));
    }
    println!("== power cut");
    guest.cut();
    daemon.kill();
    Ok(sum)
}

fn send(store: &Path, other: &Path) -> Result<()> {
    let razorfs = programs().join("razorfs");
    let (razorfs, store) = (razorfs.display(), store.display());
    let command = format!(
        "set -o pipefail; '{razorfs}' send '{store}' web@one | '{razorfs}' receive '{}' web",
        other.display()
    );
    println!("{command}");
    run(Command::new("bash").args(["-c", &command])).map(drop)
}
