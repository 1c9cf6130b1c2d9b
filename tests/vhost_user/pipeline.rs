//! Many requests in flight on several queues, in all layouts a driver may choose.

use std::collections::VecDeque;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::{ROOT, WriteOut};
use vm_tests::frontend::{Client, Device, Mount, Options, Part, Ticket, WAIT};

use crate::daemon::Daemon;

/// Places of a file that are written and read independently of each other.
const SLOTS: usize = 48;
const SLOT_BYTES: usize = 12_000;

enum Flight {
    Write(usize, Vec<u8>, Ticket<WriteOut>),
    Read(usize, Ticket<Vec<u8>>),
}

/// Writes and reads places of a file of its own, about 40 requests in flight, and compares.
fn work(mut client: Client, name: &str, seed: u64) -> Client {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let create = request::create(ROOT, name, 0o644);
    let node = client.call(create).unwrap().0.nodeid;
    let mut slots: Vec<Vec<u8>> = vec![Vec::new(); SLOTS];
    let mut idle: Vec<usize> = (0..SLOTS).collect();
    let mut flights = VecDeque::new();
    for step in 0..600 {
        let slot = idle.swap_remove(random.random_range(0..idle.len()));
        let offset = (slot * SLOT_BYTES) as u64;
        let place = &slots[slot];
        if place.is_empty() || random.random_bool(0.5) {
            let len = random.random_range(place.len().max(1)..=SLOT_BYTES);
            let mut content = vec![0; len];
            random.fill(content.as_mut_slice());
            let write = client.submit(request::write(node, 0, offset, &content));
            flights.push_back(Flight::Write(slot, content, write.unwrap()));
        } else {
            let len = u32::try_from(place.len()).unwrap();
            let read = client.submit(request::read(node, 0, offset, len));
            flights.push_back(Flight::Read(slot, read.unwrap()));
        }
        let most = if step == 599 { 0 } else { 40 };
        while flights.len() > most {
            // The answers to the others wait meanwhile, in whatever order they came.
            let at = random.random_range(0..flights.len());
            let slot = match flights.swap_remove_back(at).unwrap() {
                Flight::Write(slot, content, ticket) => {
                    let written = client.complete(ticket).unwrap();
                    assert_eq!(written.size as usize, content.len());
                    slots[slot] = content;
                    slot
                }
                Flight::Read(slot, ticket) => {
                    let read = client.complete(ticket).unwrap();
                    assert!(read == slots[slot], "{name}, slot {slot}, seed {seed}");
                    slot
                }
            };
            idle.push(slot);
        }
    }
    client
}

#[test]
fn queues_do_not_disturb_each_other_whatever_their_layout() {
    let mut daemon = Daemon::start(&["--num-queues", "4", "--thread-pool-size", "4"]);
    let one = vec![(0, 64 << 20)];
    // Two that touch, one below 4 GiB and one above, as with hot-plugged memory.
    let several = vec![
        (0, 16 << 20),
        (16 << 20, 16 << 20),
        (0xf000_0000, 16 << 20),
        (1 << 32, 16 << 20),
    ];
    for case in 0..8u64 {
        let options = Options {
            request_queues: 4,
            queue_size: 128,
            event_idx: case & 1 != 0,
            indirect: case & 2 != 0,
            memory: if case & 4 == 0 { &one } else { &several }.clone(),
            ..Options::default()
        };
        let mut mount = daemon.mount(&options);
        let memory = mount.device.memory().clone();
        let free = memory.free_bytes();
        let threads: Vec<_> = mount
            .clients
            .drain(..)
            .enumerate()
            .map(|(index, mut client)| {
                if index == 1 {
                    client.cuts = vec![1, 4096, 700];
                }
                let name = format!("case{case}-queue{index}");
                std::thread::spawn(move || work(client, &name, case * 10 + index as u64))
            })
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap().in_flight(), 0);
        }
        assert_eq!(memory.free_bytes(), free, "all buffers came back");
    }
    daemon.is_unharmed("four queues");
    daemon.terminate();
}

#[test]
fn a_megabyte_goes_through_in_any_parts() {
    let daemon = Daemon::start(&[]);
    for indirect in [false, true] {
        let mut mount = daemon.mount(&Options {
            queue_size: 512,
            indirect,
            ..Options::default()
        });
        let client = mount.client(0);
        let create = request::create(ROOT, format!("file{indirect}"), 0o644);
        let node = client.call(create).unwrap().0.nodeid;
        let content: Vec<u8> = (0..1 << 20u32).map(|i: u32| (i / 7 % 253) as u8).collect();
        let cuts: [&[usize]; 6] = [
            &[],
            &[40, 40, 16_384],
            &[1, 4096, 333, 0, 65_536, 7, 8191],
            &[3, 5, 11, 61, 100_000],
            &[4097, 4095],
            &[16, 1, 1 << 20],
        ];
        for (round, cut) in cuts.into_iter().enumerate() {
            client.cuts = cut.to_vec();
            // From an odd place, across every boundary of the store's.
            let offset = (round * 2_000_003) as u64;
            let write = request::write(node, 0, offset, &content);
            assert_eq!(client.call(write).unwrap().size, 1 << 20, "{cut:?}");
            let read = client.call(request::read(node, 0, offset, 1 << 20));
            assert!(read.unwrap() == content, "{cut:?}");
            let read = request::read(node, 0, offset + 1_000_000, 1 << 20);
            assert!(client.call(read).unwrap()[..48_576] == content[1_000_000..]);
        }
    }
    daemon.terminate();
}

#[test]
fn a_large_directory_is_listed_in_few_replies() {
    const ENTRIES: usize = 5000;
    let daemon = Daemon::start(&[]);
    let mut mount = daemon.mount(&Options {
        queue_size: 256,
        ..Options::default()
    });
    let client = mount.client(0);
    let dir = client
        .call(request::mkdir(ROOT, "dir", 0o755))
        .unwrap()
        .nodeid;
    let made: Vec<_> = (0..ENTRIES)
        .map(|i| client.submit(request::mknod(dir, format!("name{i}"), libc::S_IFREG, 0)))
        .collect();
    let mut nodes: Vec<_> = made
        .into_iter()
        .map(|ticket| client.complete(ticket.unwrap()).unwrap().nodeid)
        .collect();
    client.cuts = vec![9, 4096, 60_001, 0, 131];
    let mut found = Vec::new();
    let mut replies = 0;
    let mut after = 0;
    loop {
        let entries = client
            .call(request::readdirplus(dir, 0, after, 1 << 20))
            .unwrap();
        let Some(last) = entries.last() else { break };
        after = last.dirent.off;
        replies += 1;
        let entries = entries.into_iter().filter_map(|entry| entry.entry);
        found.extend(entries.map(|entry| entry.nodeid).filter(|node| *node != 0));
    }
    assert!(replies <= 2, "{replies} replies");
    nodes.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, nodes);
    // Two lookups of each, dropped in one request.
    let batch: Vec<_> = nodes.iter().map(|node| (*node, 2)).collect();
    mount.hiprio.call(request::batch_forget(&batch)).unwrap();
    daemon.terminate();
}

#[test]
fn events_are_not_sent_when_nobody_wants_them() {
    let daemon = Daemon::start(&[]);
    for event_idx in [false, true] {
        let mut mount = daemon.mount(&Options {
            event_idx,
            ..Options::default()
        });
        let client = mount.client(1);
        for _ in 0..20 {
            let _ = client.queue.events.call.read();
            let kicks = client.queue.counts.kicks;
            let calls = client.queue.counts.calls;
            // To be called at the last of them. Each is given back by itself, by a thread of its
            // own.
            assert!(!client.queue.wait(32, Duration::ZERO).unwrap());
            let tickets: Vec<_> = (0..32)
                .map(|_| client.post(request::fsyncdir(ROOT, 0)).unwrap())
                .collect();
            // Not wanted if the device is still awake from the round before.
            client.queue.kick_if_wanted().unwrap();
            assert!(client.queue.wait(32, WAIT).unwrap());
            for ticket in tickets {
                client.complete(ticket).unwrap();
            }
            assert!(client.queue.counts.kicks - kicks <= 1);
            // The last call may come after what it is about.
            let late = client.queue.events.call.read().unwrap_or(0);
            let calls = client.queue.counts.calls - calls + late;
            assert!(calls <= if event_idx { 1 } else { 32 }, "{calls} calls");
        }
    }
    daemon.terminate();
}

#[test]
fn indices_wrap() {
    let daemon = Daemon::start(&[]);
    for event_idx in [false, true] {
        let mut mount = daemon.mount(&Options {
            queue_size: 16,
            event_idx,
            ..Options::default()
        });
        let client = &mut mount.clients[1];
        mount.device.stop(2).unwrap();
        client.queue.clear_at(65_530).unwrap();
        mount.device.run(&client.queue, 65_530).unwrap();
        let create = request::create(ROOT, format!("{event_idx}"), 0o644);
        let node = client.call(create).unwrap().0.nodeid;
        let tickets: Vec<_> = (0..100u64)
            .map(|i| {
                client
                    .submit(request::write(node, 0, i, &[i as u8]))
                    .unwrap()
            })
            .collect();
        for ticket in tickets {
            assert_eq!(client.complete(ticket).unwrap().size, 1);
        }
        assert_eq!(client.queue.used_index().unwrap(), 95);
        let read = client.call(request::read(node, 0, 0, 200)).unwrap();
        assert_eq!(read, (0..100).collect::<Vec<u8>>());
        mount.device.pause(&client.queue).unwrap();
        client.call(request::getattr(node)).unwrap();
    }
    daemon.terminate();
}

#[test]
fn a_buffer_may_lie_across_two_regions() {
    let daemon = Daemon::start(&[]);
    let options = Options {
        memory: vec![(0, 32 << 20), (32 << 20, 32 << 20)],
        ..Options::default()
    };
    let device = Device::connect(&daemon.socket(), &options).unwrap();
    let memory = device.memory().clone();
    let border = memory.claim((32 << 20) - 8192, 32_768).unwrap().address + 8192;
    let mut mount = Mount::over(device).unwrap();
    let client = mount.client(0);
    let node = client
        .call(request::create(ROOT, "file", 0o644))
        .unwrap()
        .0
        .nodeid;
    let content: Vec<u8> = (0..8000u32).map(|i| i as u8).collect();
    let across = |before: u64, len: u32| Part {
        address: border - before,
        len,
    };
    // A WRITE's request, in one part half here and half there.
    let mut message = request::write(node, 0, 0, &content).message(2, 0, 0, 1);
    let readable = across(4000, u32::try_from(message.len()).unwrap());
    memory.write(readable.address, &message).unwrap();
    let reply = memory.alloc(24).unwrap();
    client.queue.add(&[readable], &[reply], false).unwrap();
    client.queue.kick().unwrap();
    assert!(client.queue.wait(1, WAIT).unwrap());
    assert_eq!(client.queue.take().unwrap().unwrap().len, 24);
    // And a READ's reply, whose header too is cut in two.
    let writable = across(16, 16 + 8000);
    message = request::read(node, 0, 0, 8000).message(4, 0, 0, 1);
    let readable = memory.alloc(message.len()).unwrap();
    memory.write(readable.address, &message).unwrap();
    client.queue.add(&[readable], &[writable], false).unwrap();
    client.queue.kick().unwrap();
    assert!(client.queue.wait(1, WAIT).unwrap());
    assert_eq!(client.queue.take().unwrap().unwrap().len, 16 + 8000);
    let mut read = vec![0; 8000];
    memory.read(writable.address + 16, &mut read).unwrap();
    assert!(read == content);
    daemon.terminate();
}
