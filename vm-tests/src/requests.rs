//! What a guest asks of the daemon for everyday commands: requests by kind, as the daemon logs them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::guest::{Emulator, Error, Guest, GuestOptions, Image, Result};
use crate::store::{Daemon, mkfs};

const TAG: &str = "razorfs";
/// Longer than a guest believes what `--cache auto` tells it, and than it holds forgets back.
const PAUSE: Duration = Duration::from_millis(2500);

/// What is done, in this order. Files that exist are 100 of 4 KiB each.
const COMMANDS: [(&str, &str); 6] = [
    ("stat FILE", "busybox stat /mnt/dir/file7"),
    ("cat FILE", "busybox cat /mnt/dir/file7"),
    ("ls -l DIR", "busybox ls -l /mnt/dir"),
    ("stat MISSING", "busybox stat /mnt/dir/missing || true"),
    ("echo > FILE", "echo text > /mnt/dir/file8"),
    (
        "echo > NEW; rm NEW",
        "echo text > /mnt/dir/new; busybox rm /mnt/dir/new",
    ),
];
/// Each is done after the guest has dropped its caches, and twice more.
const TIMES: [&str; 3] = ["cold", "again", "and again"];

/// Requests by kind.
pub type Counts = BTreeMap<&'static str, usize>;

/// What one command took.
#[derive(Debug)]
pub struct Row {
    command: &'static str,
    when: &'static str,
    counts: Counts,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum: usize = self.counts.values().sum();
        let kinds = self.counts.iter().map(|(kind, count)| match count {
            1 => (*kind).to_owned(),
            _ => format!("{count} {kind}"),
        });
        let kinds: Vec<_> = kinds.collect();
        let (command, when) = (self.command, self.when);
        write!(f, "| `{command}` | {when} | {sum} | {} |", kinds.join(", "))
    }
}

fn kind(opcode: u32) -> &'static str {
    match opcode {
        1 => "LOOKUP",
        2 | 42 => "FORGET",
        3 => "GETATTR",
        4 => "SETATTR",
        8 => "MKNOD",
        10 => "UNLINK",
        14 => "OPEN",
        15 => "READ",
        16 => "WRITE",
        18 => "RELEASE",
        22 => "GETXATTR",
        23 => "LISTXATTR",
        25 => "FLUSH",
        27 => "OPENDIR",
        28 => "READDIR",
        29 => "RELEASEDIR",
        35 => "CREATE",
        44 => "READDIRPLUS",
        52 => "STATX",
        _ => "others",
    }
}

/// The requests in a log from byte `from` on; and how long it is.
fn counted(log: &Path, from: usize) -> Result<(Counts, usize)> {
    let text = std::fs::read_to_string(log).map_err(|error| Error::new(log.display(), error))?;
    let mut counts = Counts::new();
    for line in text.get(from..).unwrap_or_default().lines() {
        let Some((_, request)) = line.split_once("request: opcode ") else {
            continue;
        };
        let opcode = request.split(' ').next().and_then(|word| word.parse().ok());
        // What the guest has forgotten of the command before is none of this one's.
        match kind(opcode.unwrap_or_default()) {
            "FORGET" => {}
            kind => *counts.entry(kind).or_default() += 1,
        }
    }
    Ok((counts, text.len()))
}

/// Has a guest carry the commands out, on a store of its own within `dir`, with a daemon that has
/// these flags.
///
/// # Errors
/// When the guest or the daemon does not come up, or a command fails.
pub fn count(dir: &Path, image: &Image, emulator: &Emulator, flags: &[&str]) -> Result<Vec<Row>> {
    let [store, log, socket] = ["store", "requests.log", "fs"].map(|name| dir.join(name));
    for old in [&store, &log] {
        let _ = std::fs::remove_dir_all(old).or_else(|_| std::fs::remove_file(old));
    }
    mkfs(&store)?;
    let sockets: [PathBuf; 1] = [socket.clone()];
    let flags = [&["--log-level", "trace"], flags].concat();
    let daemon = Daemon::start_with(&store, &sockets, TAG, &log, &flags)?;
    let options = GuestOptions {
        virtiofs: Some((socket, TAG.into())),
        emulator: emulator.clone(),
        ..GuestOptions::default()
    };
    let mut guest = Guest::start(dir, image, &options)?;
    guest.order(&format!("mount virtiofs {TAG} /mnt"))?;
    guest.shell(
        "busybox mkdir /mnt/dir; for i in $(busybox seq 100); do busybox dd if=/dev/zero \
         of=/mnt/dir/file$i bs=4k count=1 2>/dev/null; done; busybox sync",
    )?;
    let mut rows = Vec::new();
    for (command, run) in COMMANDS {
        for when in TIMES {
            if when == "cold" {
                guest.shell("busybox sync; echo 3 > /proc/sys/vm/drop_caches")?;
            }
            std::thread::sleep(PAUSE);
            let (_, before) = counted(&log, 0)?;
            guest.shell(run)?;
            // A RELEASE comes behind the command.
            std::thread::sleep(Duration::from_millis(300));
            let (counts, _) = counted(&log, before)?;
            rows.push(Row {
                command,
                when,
                counts,
            });
        }
    }
    guest.power_off()?;
    daemon.stop()?;
    Ok(rows)
}
