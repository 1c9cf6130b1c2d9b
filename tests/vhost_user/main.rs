//! razorfsd under a front-end: good ones, those that come and go, and hostile guests.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_sign_loss
)]

mod front_end;

use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use front_end::{Descriptor, FrontEnd, INDIRECT, MEMORY, buffer};
use vhost::VhostBackend;

/// A running daemon with a store of its own.
struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
}

impl Daemon {
    fn start(flags: &[&str]) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let made = Command::new(env!("CARGO_BIN_EXE_razorfs"))
            .args(["mkfs", "--allow-volatile", "--log-size", "8M"])
            .arg(dir.path().join("store"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let child = Command::new(env!("CARGO_BIN_EXE_razorfsd"))
            .args(["--allow-volatile", "--log-level", "warn", "--socket-path"])
            .arg(dir.path().join("socket"))
            .arg("--store")
            .arg(dir.path().join("store"))
            .args(flags)
            .spawn()
            .unwrap();
        let daemon = Daemon { child, dir };
        let since = Instant::now();
        while !daemon.socket().exists() {
            assert!(since.elapsed() < Duration::from_secs(20), "no socket");
            std::thread::sleep(Duration::from_millis(5));
        }
        daemon
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the end; whether it was a good one.
    fn ends_well(mut self) -> bool {
        let since = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(since.elapsed() < Duration::from_secs(20), "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        let checked = Command::new(env!("CARGO_BIN_EXE_razorfsck"))
            .arg("--data")
            .arg(self.store())
            .output()
            .unwrap();
        assert!(checked.status.success(), "{checked:?}");
        assert!(!self.socket().exists(), "the socket is removed");
        status.success()
    }

    fn terminate(self) -> bool {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.ends_well()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn every_queue_serves_and_the_next_front_end_finds_the_files() {
    let mut daemon = Daemon::start(&[]);
    let mut guest = FrontEnd::ready(&daemon.socket());
    for queue in 0..front_end::QUEUES {
        assert_eq!(guest.getattr(queue), 0, "queue {queue}");
    }
    let content: Vec<u8> = (0..20_000u32).map(|i| i.to_le_bytes()[0]).collect();
    let file = guest.create(1, "file");
    guest.write(2, file, &content);
    assert_eq!(guest.read(3, file, 30_000), content);
    drop(guest);

    // No fsync: what was acknowledged is there as long as the daemon is.
    let mut guest = FrontEnd::ready(&daemon.socket());
    let node = guest.lookup(1, "file");
    assert_eq!(guest.read(1, (node, 0), 30_000), content);
    assert!(daemon.is_alive());
    assert!(daemon.terminate(), "in the middle of a session");
}

#[test]
fn a_guest_that_starts_again_begins_anew() {
    let daemon = Daemon::start(&[]);
    let mut guest = FrontEnd::ready(&daemon.socket());
    guest.create(1, "kept");
    for round in 0..5 {
        for queue in 0..front_end::QUEUES {
            guest.vhost.get_vring_base(queue).unwrap();
        }
        for queue in 0..front_end::QUEUES {
            guest.start(queue);
        }
        assert_eq!(guest.getattr(2), 0, "paused and resumed, round {round}");
        guest.lookup(1, "kept");
    }
    drop(guest);
    assert!(daemon.terminate());
}

#[test]
fn a_ring_is_given_back_when_nothing_is_in_flight() {
    let daemon = Daemon::start(&["--thread-pool-size", "4"]);
    let mut guest = FrontEnd::ready(&daemon.socket());
    let file = guest.create(1, "file");
    for round in 0..20u16 {
        guest.write(1, file, &[round.to_le_bytes()[0]; 3000]);
        for slot in 0..20 {
            let request = guest.fsync_message(file);
            guest.post(2, slot, &request);
        }
        guest.kick(2);
        let next = guest.vhost.get_vring_base(2).unwrap();
        assert_eq!(
            guest.used_index(2),
            u16::try_from(next).unwrap(),
            "round {round}"
        );
        guest.start(2);
    }
    drop(guest);
    assert!(daemon.terminate());
}

#[test]
fn syncs_of_many_files_are_in_flight_together() {
    let daemon = Daemon::start(&[]);
    let mut guest = FrontEnd::ready(&daemon.socket());
    let files: Vec<_> = (0..16)
        .map(|i| guest.create(1, &format!("file{i}")))
        .collect();
    for file in &files {
        guest.write(1, *file, &[7; 4096]);
    }
    let before = guest.used_index(1);
    for (slot, file) in (0..).zip(&files) {
        let request = guest.fsync_message(*file);
        guest.post(1, slot, &request);
    }
    guest.kick(1);
    guest.wait(1, before.wrapping_add(16));
    for slot in 0..16 {
        let mut reply = [0; 16];
        guest
            .memory
            .read_exact_at(&mut reply, buffer(1, slot) + 0x8000)
            .unwrap();
        assert_eq!(reply[..8], [16, 0, 0, 0, 0, 0, 0, 0], "fsync {slot}");
    }
    drop(guest);
    assert!(daemon.terminate());
}

#[test]
fn a_request_without_sense_is_given_back_without_an_answer() {
    let daemon = Daemon::start(&[]);
    let mut guest = FrontEnd::ready(&daemon.socket());
    let before = guest.used_index(1);
    guest.post(1, 0, &[1, 2, 3]);
    guest.kick(1);
    guest.wait(1, before + 1);
    assert_eq!(guest.used_len(1, before), 0);
    assert_eq!(guest.getattr(1), 0, "and the queue goes on");
    drop(guest);
    assert!(daemon.terminate());
}

/// Chains that are none, by name. Each uses head 40.
fn evil_chains() -> Vec<(&'static str, Vec<(u16, Descriptor)>)> {
    let descriptor = |address, len, flags, next| Descriptor {
        address,
        len,
        flags,
        next,
    };
    let at = buffer(1, 5);
    vec![
        ("loop of one", vec![(40, descriptor(at, 16, 1, 40))]),
        (
            "loop of two",
            vec![
                (40, descriptor(at, 16, 1, 41)),
                (41, descriptor(at, 16, 1, 40)),
            ],
        ),
        (
            "next beyond the table",
            vec![(40, descriptor(at, 16, 1, 1000))],
        ),
        (
            "outside of memory",
            vec![(40, descriptor(MEMORY, 16, 0, 0))],
        ),
        (
            "across the end of memory",
            vec![(40, descriptor(MEMORY - 8, 16, 0, 0))],
        ),
        ("wrapping", vec![(40, descriptor(u64::MAX - 7, 16, 0, 0))]),
        (
            "as long as can be",
            vec![(40, descriptor(at, u32::MAX, 0, 0))],
        ),
        (
            "reading after writing",
            vec![
                (40, descriptor(at, 64, 1 | 2, 41)),
                (41, descriptor(at, 64, 0, 0)),
            ],
        ),
        (
            "an indirect table of odd size",
            vec![(40, descriptor(at, 17, INDIRECT, 0))],
        ),
        (
            "an indirect table outside",
            vec![(40, descriptor(MEMORY, 64, INDIRECT, 0))],
        ),
        (
            "an empty indirect table",
            vec![(40, descriptor(at, 0, INDIRECT, 0))],
        ),
    ]
}

#[test]
fn a_broken_ring_stops_until_it_is_set_up_anew() {
    let mut daemon = Daemon::start(&[]);
    let mut guest = FrontEnd::ready(&daemon.socket());
    let mut breaks = |guest: &mut FrontEnd, name: &str, evil: &dyn Fn(&mut FrontEnd)| {
        while guest.errors[1].read().is_ok() {}
        let before = guest.used_index(1);
        evil(guest);
        guest.kick(1);
        let since = Instant::now();
        while guest.errors[1].read().is_err() {
            assert!(
                since.elapsed() < Duration::from_secs(20),
                "{name}: not noticed"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(guest.used_index(1), before, "{name}");
        assert_eq!(guest.getattr(2), 0, "{name}: other queues go on");
        guest.vhost.get_vring_base(1).unwrap();
        guest.start(1);
        assert_eq!(guest.getattr(1), 0, "{name}: it works again");
        assert!(daemon.is_alive());
    };
    for (name, descriptors) in evil_chains() {
        breaks(&mut guest, name, &|guest| {
            for (index, descriptor) in &descriptors {
                guest.describe(1, *index, *descriptor);
            }
            guest.offer(1, 40, 0);
        });
    }
    breaks(&mut guest, "a head beyond the table", &|guest| {
        guest.offer(1, 5000, 0)
    });
    breaks(&mut guest, "an index that jumps", &|guest| {
        guest.offer(1, 0, 300)
    });
    breaks(&mut guest, "nested indirect tables", &|guest| {
        let nested = Descriptor {
            address: buffer(1, 5),
            len: 16,
            flags: INDIRECT,
            next: 0,
        };
        guest
            .memory
            .write_all_at(&nested.bytes(), buffer(1, 5))
            .unwrap();
        guest.describe(1, 40, nested);
        guest.offer(1, 40, 0);
    });
    drop(guest);
    assert!(daemon.terminate());
}

/// What a front-end tries, and whether it was refused.
type Refused<'a> = (&'static str, &'a dyn Fn(&FrontEnd) -> bool);

#[test]
fn a_front_end_that_cannot_be_followed_is_disconnected() {
    let mut daemon = Daemon::start(&[]);
    let refused: [Refused<'_>; 5] = [
        ("memory beyond its file", &|g| {
            g.vhost.set_mem_table(&[g.region(0, MEMORY * 2)]).is_err()
        }),
        ("memory that overlaps", &|g| {
            let regions = [g.region(0, MEMORY), g.region(MEMORY / 2, MEMORY)];
            g.vhost.set_mem_table(&regions).is_err()
        }),
        ("memory that wraps", &|g| {
            g.vhost
                .set_mem_table(&[g.region(u64::MAX - 0xffff, MEMORY)])
                .is_err()
        }),
        ("a queue of odd size", &|g| {
            g.vhost.set_vring_num(1, 63).is_err()
        }),
        ("features nobody offered", &|g| {
            g.vhost.set_features(1 << 60).is_err()
        }),
    ];
    for (name, refuses) in refused {
        assert!(refuses(&FrontEnd::connect(&daemon.socket())), "{name}");
        assert_eq!(
            FrontEnd::ready(&daemon.socket()).getattr(1),
            0,
            "after {name}"
        );
    }
    for garbage in [&[0xff; 12][..], &[0; 12], &[1, 0, 0], &[0x41; 5000]] {
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        // It may be gone before all is written.
        let _ = stream.write_all(garbage);
        drop(stream);
        assert_eq!(
            FrontEnd::ready(&daemon.socket()).getattr(1),
            0,
            "after {garbage:x?}"
        );
    }
    assert!(daemon.is_alive());
    assert!(daemon.terminate());
}

#[test]
fn it_ends_with_its_front_end_when_asked_to() {
    let daemon = Daemon::start(&["--exit-on-disconnect", "--durability", "strict"]);
    let mut guest = FrontEnd::ready(&daemon.socket());
    let file = guest.create(1, "file");
    guest.write(1, file, b"strictly there");
    drop(guest);
    assert!(daemon.ends_well());
}
