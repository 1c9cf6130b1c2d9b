//! A guest that means harm for as long as it is let: messages, rings and memory out of a seed,
//! mixed with requests of a program that notices nothing of it.
//!
//! `RAZORFS_HOSTILE` is the number of messages, `RAZORFS_SEED` the seed: a failure prints it.

use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::{InHeader, OutHeader, ROOT, opcode};
use vm_tests::frontend::hostile::fields::Told;
use vm_tests::frontend::hostile::ring::{Attack, Place};
use vm_tests::frontend::hostile::{Message, fault, learn};
use vm_tests::frontend::{Client, Mount, Options};
use zerocopy::FromBytes;

use crate::daemon::Daemon;

/// Messages without `RAZORFS_HOSTILE`.
const MESSAGES: u64 = 20_000;
/// Messages of one session; then comes the next guest.
const SESSION: u64 = 2_000;
/// The longest that an answer may take, for anybody; far more than the slowest machine's disk needs.
const PATIENCE: Duration = Duration::from_secs(20);
/// Inodes below this may be hit by chance: what is counted on lies behind.
const INODES_LOW: u64 = 1500;
/// Bytes of content that the store may hold: few, so that it gets full.
const SIZE: &str = "64M";
/// What the daemon's memory stays below: 256 MiB of unwritten data, 64 MiB of tree pages that wait
/// for a checkpoint, caches, and the guest's memory.
const RSS_MAX_BYTES: u64 = 512 << 20;

/// Queues of the guest, as clients: two for hostile requests, one for the program, one for hostile
/// rings. That one lies last in memory: what the guest has written behind it hits nobody.
const HOSTILE: usize = 2;
const PROGRAM: usize = 2;
const RING: usize = 3;
/// Bytes behind the hostile ring and its scratch memory that replies may be written to: the longest
/// reply, and where it may begin.
const GUARD_BYTES: usize = 2 << 20;

pub fn from_environment(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().unwrap())
}

/// What the program has on the store, and what it expects there.
struct Program {
    dir: u64,
    file: u64,
    content: Vec<u8>,
    done: u64,
}

impl Program {
    /// Makes its directory and file, at inode numbers that nobody hits by chance.
    fn install(client: &mut Client) -> Program {
        for _ in 0..INODES_LOW {
            client
                .call(request::mknod(ROOT, "x", libc::S_IFREG, 0))
                .unwrap();
            client.call(request::unlink(ROOT, "x")).unwrap();
        }
        let dir = client.call(request::mkdir(ROOT, "program", 0o755)).unwrap();
        let file = client.call(request::create(dir.nodeid, "file", 0o644));
        let mut program = Program {
            dir: dir.nodeid,
            file: file.unwrap().0.nodeid,
            content: Vec::new(),
            done: 0,
        };
        program.write(client, &[1; 5000]);
        program
    }

    /// A full disk is no fault, and changes nothing.
    fn write(&mut self, client: &mut Client, bytes: &[u8]) {
        match client.call(request::write(self.file, 0, 0, bytes)) {
            Ok(written) => {
                assert_eq!(usize::try_from(written.size).unwrap(), bytes.len());
                self.content.resize(self.content.len().max(bytes.len()), 0);
                self.content[..bytes.len()].copy_from_slice(bytes);
            }
            Err(error) => assert_eq!(error.errno(), Some(libc::ENOSPC), "{error}"),
        }
    }

    fn check(&self, client: &mut Client) {
        let found = client.call(request::lookup(ROOT, "program")).unwrap();
        assert_eq!(found.nodeid, self.dir);
        let found = client.call(request::lookup(self.dir, "file")).unwrap();
        assert_eq!(found.nodeid, self.file);
        assert_eq!(found.attr.size, self.content.len() as u64);
        let read = client.call(request::read(self.file, 0, 0, 8192)).unwrap();
        assert!(read == self.content, "content that is not what was written");
        let missing = client.call(request::lookup(self.dir, "not there"));
        assert!(missing.map_or(true, |entry| entry.nodeid == 0));
    }

    /// Does a little work, each answer of which is known.
    fn work(&mut self, client: &mut Client) {
        let since = Instant::now();
        self.done += 1;
        let bytes = vec![(self.done % 251) as u8; 100 + (self.done % 40) as usize * 100];
        self.write(client, &bytes);
        self.check(client);
        let name = format!("entry-{}", self.done);
        match client.call(request::mkdir(self.dir, &name, 0o700)) {
            Ok(made) => {
                let attr = client.call(request::getattr(made.nodeid)).unwrap().attr;
                assert_eq!((attr.mode, attr.nlink), (libc::S_IFDIR | 0o700, 2));
                let entries = client.call(request::readdir(self.dir, 0, 0, 8192)).unwrap();
                assert!(entries.iter().any(|entry| entry.name == name.as_bytes()));
                client.call(request::rmdir(self.dir, &name)).unwrap();
            }
            Err(error) => assert_eq!(error.errno(), Some(libc::ENOSPC), "{error}"),
        }
        if self.done.is_multiple_of(16) {
            client.call(request::fsync(self.file, 0, 0)).unwrap();
        }
        assert!(since.elapsed() < PATIENCE, "{:?}", since.elapsed());
    }
}

/// What became of it all: a campaign whose every request is refused at the door shows little.
#[derive(Debug, Default)]
#[allow(dead_code)] // Read when it is printed.
struct Counts {
    done: u64,
    refused: u64,
    unanswered: u64,
    rings_served: u64,
    rings_broken: u64,
}

/// The hostile side of a session.
struct Campaign<'a> {
    daemon: &'a Daemon,
    random: &'a mut ChaCha8Rng,
    counts: &'a mut Counts,
    mount: Mount,
    told: Told,
    place: Place,
    /// Whether a message may have ended the session, or begun another.
    doubtful: bool,
}

fn arbitrary<T: for<'b> Arbitrary<'b>>(random: &mut ChaCha8Rng) -> T {
    let mut bytes = vec![0; random.random_range(40..700)];
    random.fill(bytes.as_mut_slice());
    T::arbitrary(&mut Unstructured::new(&bytes)).unwrap()
}

impl<'a> Campaign<'a> {
    fn begin(daemon: &'a Daemon, random: &'a mut ChaCha8Rng, counts: &'a mut Counts) -> Self {
        let options = Options {
            request_queues: 4,
            indirect: random.random(),
            event_idx: random.random(),
            memory: if random.random() {
                vec![(0, 32 << 20), (32 << 20, 32 << 20)]
            } else {
                vec![(0, 64 << 20)]
            },
            ..Options::default()
        };
        let mount = daemon.mount(&options);
        let memory = mount.device.memory();
        // One is behind the ring, whichever region that is in; the scratch memory begins the other.
        let _behind = memory.alloc(GUARD_BYTES).unwrap();
        let scratch = memory.alloc(GUARD_BYTES).unwrap();
        let queue = &mount.clients[RING].queue;
        let place = Place {
            size: queue.size(),
            table: queue.table_address(),
            available: queue.available_address(),
            used: queue.used_address(),
            scratch: scratch.address,
            end: 64 << 20,
        };
        Campaign {
            daemon,
            random,
            counts,
            mount,
            told: Told::default(),
            place,
            doubtful: false,
        }
    }

    /// One message; how many were sent.
    fn step(&mut self) -> u64 {
        match self.random.random_range(0..100) {
            0..86 => self.request(),
            86..98 => self.ring(),
            98 => self.memory(),
            _ => self.set_up(),
        }
        1
    }

    fn request(&mut self) {
        let message: Message = arbitrary(self.random);
        let bytes = message.bytes(&self.told);
        let client = match self.random.random_range(0..10) {
            0 => &mut self.mount.hiprio,
            other => &mut self.mount.clients[other % HOSTILE],
        };
        let longest = bytes.len().max(message.room.0) + 16;
        client.cuts = match self.random.random_range(0..8) {
            0 => vec![longest / 20 + 1],
            1 => vec![40, 16, longest],
            _ => Vec::new(),
        };
        if bytes.is_empty() && message.room.0 == 0 {
            return;
        }
        let since = Instant::now();
        let reply = client.raw(&bytes, message.room.0);
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => {
                let log = self.daemon.log();
                let last: Vec<_> = log.lines().rev().take(5).collect();
                panic!(
                    "{error}: queue {}: {message:?}\n{last:#?}",
                    client.queue.index
                );
            }
        };
        let took = since.elapsed();
        assert!(took < PATIENCE, "{took:?}: {message:?}");
        if let Some(fault) = fault(&bytes, &reply) {
            panic!("{fault}: {message:?}");
        }
        match OutHeader::read_from_prefix(&reply) {
            Ok((header, _)) if header.error == 0 => self.counts.done += 1,
            Ok(_) => self.counts.refused += 1,
            Err(_) => self.counts.unanswered += 1,
        }
        learn(&mut self.told, &bytes, &reply);
        if let Ok((header, _)) = InHeader::read_from_prefix(&bytes) {
            self.doubtful |= matches!(header.opcode, opcode::INIT | opcode::DESTROY);
        }
    }

    /// A ring full of what makes no sense, and whatever may happen to it meanwhile.
    fn ring(&mut self) {
        let attack: Attack = arbitrary(self.random);
        let memory = self.mount.device.memory().clone();
        let queue = &mut self.mount.clients[RING].queue;
        for (address, bytes) in attack.writes(&self.place, queue.next_available(), &self.told) {
            memory.write(address, &bytes).unwrap();
        }
        for _ in 0..self.random.random_range(1..4) {
            queue.kick().unwrap();
        }
        let index = queue.index;
        match self.random.random_range(0..4) {
            0 => self.mount.device.share_memory().unwrap(),
            1 => self.mount.device.disable_and_enable(index).unwrap(),
            _ => std::thread::sleep(Duration::from_micros(200)),
        }
        let queue = &self.mount.clients[RING].queue;
        if queue.is_broken(Duration::ZERO) {
            self.counts.rings_broken += 1;
        } else if queue.used_index().unwrap() != 0 {
            self.counts.rings_served += 1;
        }
        // The request in the scratch memory may have ended the session.
        self.doubtful = true;
        self.renew();
    }

    /// Sets the hostile ring up anew.
    fn renew(&mut self) {
        let since = Instant::now();
        let client = &mut self.mount.clients[RING];
        self.mount.device.stop(client.queue.index).unwrap();
        client.queue.clear().unwrap();
        client.abandon();
        self.mount.device.run(&client.queue, 0).unwrap();
        assert!(since.elapsed() < PATIENCE, "{:?}", since.elapsed());
    }

    /// The memory that the rings lie in is taken away while they are in use, and comes back.
    fn memory(&mut self) {
        for client in &mut self.mount.clients[..HOSTILE] {
            client.cuts.clear();
            for _ in 0..8 {
                let message = request::create(ROOT, "in-flight", 0o644);
                let _ = client.submit(message).unwrap();
            }
        }
        self.mount.device.take_memory_away().unwrap();
        for client in &mut self.mount.clients {
            client.queue.kick().unwrap();
        }
        self.mount.device.share_memory().unwrap();
        // The high-priority queue is not in use, and yet may have looked at its rings.
        let hiprio = std::iter::once(&mut self.mount.hiprio);
        for client in self.mount.clients.iter_mut().chain(hiprio) {
            self.mount.device.stop(client.queue.index).unwrap();
            client.queue.clear().unwrap();
            client.abandon();
            self.mount.device.run(&client.queue, 0).unwrap();
        }
    }

    /// Kicks where there is nothing, queues stopped twice, and the whole device reset.
    fn set_up(&mut self) {
        let whole = self.random.random_range(0..4) == 0;
        let device = &mut self.mount.device;
        let index = self.mount.clients[RING].queue.index;
        device.stop(index).unwrap();
        device.stop(index).unwrap();
        self.mount.clients[RING].queue.kick().unwrap();
        if whole {
            device.reset().unwrap();
            for client in &mut self.mount.clients {
                client.queue.kick().unwrap();
                client.queue.clear().unwrap();
                client.abandon();
                device.run(&client.queue, 0).unwrap();
            }
            let hiprio = &mut self.mount.hiprio;
            hiprio.queue.clear().unwrap();
            hiprio.abandon();
            device.run(&hiprio.queue, 0).unwrap();
            self.doubtful = true;
        }
        self.renew();
    }

    /// Has the program work, in a session that is one.
    fn work(&mut self, program: &mut Program) {
        let client = &mut self.mount.clients[PROGRAM];
        if std::mem::take(&mut self.doubtful) {
            client.call(request::init(u64::MAX)).unwrap();
        }
        program.work(client);
    }
}

#[test]
fn a_campaign_out_of_a_seed() {
    let messages = from_environment("RAZORFS_HOSTILE", MESSAGES);
    let seed = from_environment("RAZORFS_SEED", 1);
    println!("{messages} messages, seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut daemon = Daemon::start_sized(SIZE, &["--num-queues", "5"]);
    let mut program = Program::install(daemon.mount(&Options::default()).client(0));
    let (mut sent, mut counts) = (0, Counts::default());
    while sent < messages {
        let mut campaign = Campaign::begin(&daemon, &mut random, &mut counts);
        let until = messages.min(sent + SESSION);
        while sent < until {
            sent += campaign.step();
            if sent % 20 == 0 {
                campaign.work(&mut program);
            }
        }
        drop(campaign);
        // The next guest means well: it is served at once, and finds what is there.
        daemon.is_well(&format!("{sent} messages, seed {seed}"));
        program.check(daemon.mount(&Options::default()).client(0));
        let rss = daemon.rss_bytes();
        assert!(rss < RSS_MAX_BYTES, "{rss} bytes after {sent} messages");
    }
    let rss_max = daemon.rss_max_bytes();
    println!("{sent} messages: {counts:?}, {rss_max} bytes of memory at most");
    daemon.terminate();
}
