//! SIGKILL of the daemon under a guest with many requests in flight.
//!
//! Each file is created, written and synced, and written and synced again, one request at a time;
//! 64 files are in flight together. What a returned fsync covers is there afterwards; of what came
//! later, each cell of a file is the old or the new one. SIGKILL keeps the host's page cache: this
//! shows what razorfs hands to the kernel before it answers, and its recovery.

use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::{EntryOut, OpenOut, ROOT, WriteOut};
use vm_tests::frontend::{Client, Mount, Options, Ticket};

use crate::daemon::Daemon;

const FILES: usize = 64;
const ROUNDS: u32 = 12;
/// Bytes that are written together or not.
const CELL: usize = 512;

/// What a file waits for.
enum Flight {
    Nothing,
    Create(Ticket<(EntryOut, OpenOut)>),
    Write(Ticket<WriteOut>),
    Fsync(Ticket<()>),
}

/// A file of a round.
struct Work {
    name: String,
    len: usize,
    /// Every change is durable when it is answered.
    strict: bool,
    flight: Flight,
    node: u64,
    fh: u64,
    /// The version that the last returned fsync covers; 0: not even the name.
    synced: u32,
    /// The version last begun.
    begun: u32,
}

/// A file's content at a version.
fn content(name: &str, version: u32, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + CELL);
    let mut cell = 0u32;
    while bytes.len() < len {
        let stamp = format!("{name} version {version} cell {cell}|");
        bytes.extend(stamp.bytes().cycle().take(CELL));
        cell += 1;
    }
    bytes.truncate(len);
    bytes
}

impl Work {
    fn new(name: String, len: usize, strict: bool) -> Work {
        Work {
            name,
            len,
            strict,
            flight: Flight::Nothing,
            node: 0,
            fh: 0,
            synced: 0,
            begun: 0,
        }
    }

    fn write(&mut self, client: &mut Client) {
        self.begun += 1;
        let content = content(&self.name, self.begun, self.len);
        let write = request::write(self.node, self.fh, 0, &content);
        self.flight = Flight::Write(client.submit(write).unwrap());
    }

    /// Takes an answer, if there is one. Sends the next request, while `more`. Whether it did.
    fn step(&mut self, client: &mut Client, more: bool) -> bool {
        match std::mem::replace(&mut self.flight, Flight::Nothing) {
            Flight::Nothing if more => {
                let create = request::create(ROOT, &self.name, 0o644);
                self.flight = Flight::Create(client.submit(create).unwrap());
            }
            Flight::Create(ticket) if client.is_done(&ticket).unwrap() => {
                let (entry, open) = client.complete(ticket).unwrap();
                (self.node, self.fh) = (entry.nodeid, open.fh);
                if more {
                    self.write(client);
                }
            }
            Flight::Write(ticket) if client.is_done(&ticket).unwrap() => {
                assert_eq!(client.complete(ticket).unwrap().size as usize, self.len);
                if self.strict {
                    self.synced = self.begun;
                }
                if more {
                    let fsync = request::fsync(self.node, self.fh, self.begun % 2);
                    self.flight = Flight::Fsync(client.submit(fsync).unwrap());
                }
            }
            Flight::Fsync(ticket) if client.is_done(&ticket).unwrap() => {
                client.complete(ticket).unwrap();
                self.synced = self.begun;
                if more {
                    self.write(client);
                }
            }
            waiting => {
                self.flight = waiting;
                return false;
            }
        }
        true
    }

    /// Compares with what is there. What is there is there from now on.
    fn verify(&mut self, client: &mut Client, seed: u64) {
        let place = format!("seed {seed}: {}, synced {}", self.name, self.synced);
        let entry = match client.call(request::lookup(ROOT, &self.name)) {
            Ok(entry) if entry.nodeid != 0 => entry,
            _ => return assert_eq!(self.synced, 0, "{place} is lost"),
        };
        let room = u32::try_from(self.len + CELL).unwrap();
        let found = client
            .call(request::read(entry.nodeid, 0, 0, room))
            .unwrap();
        let versions: Vec<_> = (self.synced..=self.begun)
            .map(|version| match version {
                // The name without content, or with a hole.
                0 => vec![0; self.len],
                version => content(&self.name, version, self.len),
            })
            .collect();
        assert!(found.len() <= self.len, "{place} is too long");
        assert!(
            self.synced == 0 || found.len() == self.len,
            "{place} has {} of {} bytes",
            found.len(),
            self.len
        );
        for (cell, bytes) in found.chunks(CELL).enumerate() {
            let at = cell * CELL..cell * CELL + bytes.len();
            let known = versions.iter().any(|version| version[at.clone()] == *bytes);
            assert!(known, "{place}: cell {cell} of {}", self.len / CELL);
        }
        let newest = versions.iter().position(|version| *version == found);
        let newest = newest.map_or(self.synced, |at| self.synced + u32::try_from(at).unwrap());
        // A cell-wise mixture stays one: it is not looked at again.
        (self.synced, self.begun) = (newest, self.begun.max(newest));
    }
}

/// Runs the files until so many answers were taken.
fn run(mount: &mut Mount, files: &mut [Work], answers: usize) {
    let mut taken = 0;
    while taken < answers {
        let before = taken;
        for (index, file) in files.iter_mut().enumerate() {
            taken += usize::from(file.step(mount.client(index % 3), true));
        }
        if taken == before {
            mount
                .client(0)
                .queue
                .wait(1, Duration::from_micros(200))
                .unwrap();
        }
    }
}

#[test]
fn what_was_synced_is_there_after_a_kill_at_any_moment() {
    kill_at_any_moment(20_261, ROUNDS, &["--thread-pool-size", "4"]);
}

#[test]
fn what_was_answered_is_there_when_all_changes_are_synced() {
    kill_at_any_moment(20_262, ROUNDS / 2, &["--durability", "strict"]);
}

#[test]
fn queues_that_wait_for_the_disk_themselves_lose_nothing_either() {
    kill_at_any_moment(20_263, ROUNDS / 3, &["--thread-pool-size", "0"]);
}

fn kill_at_any_moment(seed: u64, rounds: u32, flags: &[&str]) {
    let strict = flags.contains(&"strict");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let options = Options {
        queue_size: 128,
        ..Options::default()
    };
    let mut daemon = Daemon::start(flags);
    let mut old: Vec<Work> = Vec::new();
    let (mut synced, mut in_flight) = (0, 0);
    for round in 0..rounds {
        let mut mount = daemon.mount(&options);
        let mut files: Vec<_> = (0..FILES)
            .map(|i| {
                Work::new(
                    format!("{round}-{i}"),
                    random.random_range(1..24_000),
                    strict,
                )
            })
            .collect();
        run(&mut mount, &mut files, random.random_range(100..3000));
        std::thread::sleep(Duration::from_micros(random.random_range(0..3000)));
        in_flight += mount.clients.iter().map(Client::in_flight).sum::<usize>();
        daemon.kill();
        // What it had answered until then is answered.
        for (index, file) in files.iter_mut().enumerate() {
            file.step(mount.client(index % 3), false);
            synced += usize::from(file.synced > 0);
        }
        drop(mount);
        daemon.check();
        daemon.restart();
        let mut mount = daemon.mount(&options);
        for file in files.iter_mut().chain(&mut old) {
            file.verify(mount.client(0), seed);
        }
        old.append(&mut files);
    }
    // The kills came when there was something to lose, and something to keep.
    assert!(in_flight > 20 * rounds as usize, "{in_flight} in flight");
    assert!(synced > 5 * rounds as usize, "{synced} files synced");
    daemon.terminate();
}
