//! Sessions: their queues, their ends, and what the next one finds.

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vhost::VhostBackend;
use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::ROOT;
use vm_tests::frontend::{Client, Device, Mount, Options, WAIT};
use vmm_sys_util::eventfd::EventFd;

use crate::daemon::Daemon;

/// Makes a file below the root: inode and handle.
fn create(client: &mut Client, name: &str) -> (u64, u64) {
    let (entry, open) = client.call(request::create(ROOT, name, 0o644)).unwrap();
    (entry.nodeid, open.fh)
}

#[test]
fn every_queue_serves_and_the_next_front_end_finds_the_files() {
    let mut daemon = Daemon::start(&[]);
    let mut mount = daemon.mount(&Options::default());
    mount.hiprio.call(request::getattr(ROOT)).unwrap();
    let content: Vec<u8> = (0..20_000u32).map(|i| i.to_le_bytes()[0]).collect();
    let (node, fh) = create(mount.client(0), "file");
    let written = mount.client(1).call(request::write(node, fh, 0, &content));
    assert_eq!(written.unwrap().size, 20_000);
    let read = mount.client(2).call(request::read(node, fh, 0, 30_000));
    assert_eq!(read.unwrap(), content);
    drop(mount);

    // No fsync: what was acknowledged is there as long as the daemon is.
    let mut mount = daemon.mount(&Options::default());
    let found = mount.client(0).call(request::lookup(ROOT, "file")).unwrap();
    let read = request::read(found.nodeid, 0, 0, 30_000);
    assert_eq!(mount.client(0).call(read).unwrap(), content);
    daemon.is_unharmed("two sessions");
    // In the middle of a session.
    daemon.terminate();
}

#[test]
fn a_paused_guest_goes_on_and_one_reset_begins_anew() {
    let daemon = Daemon::start(&[]);
    let mut mount = daemon.mount(&Options::default());
    create(mount.client(0), "kept");
    for _ in 0..5 {
        mount.device.pause(&mount.hiprio.queue).unwrap();
        for client in &mount.clients {
            mount.device.pause(&client.queue).unwrap();
        }
        // Still the same session.
        for client in &mut mount.clients {
            client.call(request::lookup(ROOT, "kept")).unwrap();
        }
    }
    let Mount {
        mut device,
        hiprio,
        clients,
        ..
    } = mount;
    device.reset().unwrap();
    drop((hiprio, clients));
    let mut mount = Mount::over(device).unwrap();
    mount.client(1).call(request::lookup(ROOT, "kept")).unwrap();
    daemon.terminate();
}

#[test]
fn a_reset_device_has_no_session() {
    let daemon = Daemon::start(&[]);
    let mut mount = daemon.mount(&Options::default());
    mount.device.reset().unwrap();
    let client = mount.client(0);
    client.queue.clear().unwrap();
    client.abandon();
    mount.device.run(&mount.clients[0].queue, 0).unwrap();
    let refused = mount.client(0).call(request::getattr(ROOT)).unwrap_err();
    assert_eq!(refused.errno(), Some(libc::ENOTCONN));
    mount.client(0).call(request::init(u64::MAX)).unwrap();
    mount.client(0).call(request::getattr(ROOT)).unwrap();
    daemon.terminate();
}

#[test]
fn a_ring_is_given_back_when_nothing_is_in_flight() {
    let daemon = Daemon::start(&["--thread-pool-size", "4"]);
    let mut mount = daemon.mount(&Options::default());
    let file = create(mount.client(0), "file");
    for round in 0..20u8 {
        let write = request::write(file.0, file.1, 0, &[round; 3000]);
        mount.client(0).call(write).unwrap();
        let client = mount.client(1);
        // One alone is answered by the queue's own thread.
        let count = [1, 20][usize::from(round % 2)];
        let tickets: Vec<_> = (0..count)
            .map(|_| client.post(request::fsync(file.0, file.1, 0)).unwrap())
            .collect();
        client.queue.kick_if_wanted().unwrap();
        let next = mount.device.stop(2).unwrap();
        let client = &mut mount.clients[1];
        assert_eq!(client.queue.used_index().unwrap(), next, "round {round}");
        mount.device.run(&client.queue, next).unwrap();
        client.queue.kick().unwrap();
        for ticket in tickets {
            client.complete(ticket).unwrap();
        }
    }
    daemon.terminate();
}

#[test]
fn syncs_of_many_files_are_in_flight_together() {
    let daemon = Daemon::start(&[]);
    let mut mount = daemon.mount(&Options::default());
    let client = mount.client(0);
    let files: Vec<_> = (0..16)
        .map(|i| create(client, &format!("file{i}")))
        .collect();
    for file in &files {
        let write = request::write(file.0, file.1, 0, &[7; 4096]);
        client.call(write).unwrap();
    }
    let tickets: Vec<_> = files
        .iter()
        .map(|file| client.post(request::fsync(file.0, file.1, 0)).unwrap())
        .collect();
    client.queue.kick_if_wanted().unwrap();
    // Whatever the order.
    for ticket in tickets.into_iter().rev() {
        client.complete(ticket).unwrap();
    }
    daemon.terminate();
}

#[test]
fn the_device_tells_its_tag_and_its_queues() {
    let daemon = Daemon::start(&["--tag", "home", "--num-queues", "5"]);
    let mut device = Device::connect(&daemon.socket(), &Options::default()).unwrap();
    assert_eq!(device.config().unwrap(), ("home".into(), 5));
    assert_eq!(device.queues_offered, 6);
    drop(device);
    daemon.terminate();
    let daemon = Daemon::start(&[]);
    let mut device = Device::connect(&daemon.socket(), &Options::default()).unwrap();
    assert!(device.config().is_err(), "without a tag QEMU has its own");
    drop(device);
    daemon.terminate();
}

#[test]
fn it_ends_with_its_front_end_when_asked_to() {
    let daemon = Daemon::start(&["--exit-on-disconnect", "--durability", "strict"]);
    let mut mount = daemon.mount(&Options::default());
    let file = create(mount.client(0), "file");
    let write = request::write(file.0, file.1, 0, b"strictly there");
    mount.client(0).call(write).unwrap();
    drop(mount);
    daemon.ends_well();
}

#[test]
fn a_kick_event_may_be_replaced_while_the_queue_runs() {
    let mut daemon = Daemon::start(&[]);
    let mut mount = daemon.mount(&Options::default());
    for _ in 0..3 {
        let kick = EventFd::new(libc::EFD_CLOEXEC).unwrap();
        mount.device.vhost.set_vring_kick(1, &kick).unwrap();
        mount.clients[0].queue.events.kick = kick;
        for _ in 0..3 {
            mount.client(0).call(request::getattr(ROOT)).unwrap();
        }
    }
    daemon.is_unharmed("other kick events");
    daemon.terminate();
}

/// Keeps the processor busy for up to 60 microseconds.
fn a_moment(random: &mut ChaCha8Rng) {
    let (since, moment) = (Instant::now(), random.random_range(0..60));
    while since.elapsed() < Duration::from_micros(moment) {}
}

/// Several requests are answered before the guest is told: a pause must not come in between.
#[test]
fn a_pause_swallows_no_notification() {
    let seed = 1;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let daemon = Daemon::start(&[]);
    let mut mount = daemon.mount(&Options {
        event_idx: false,
        ..Options::default()
    });
    let client = &mut mount.clients[0];
    for round in 0..1500 {
        // Every notification is wanted.
        let flags = client.queue.available_address();
        client.queue.memory().store(flags, 0).unwrap();
        let _ = client.queue.events.call.read();
        let before = client.queue.used_index().unwrap();
        let tickets: Vec<_> = (0..4)
            .map(|_| client.submit(request::getattr(ROOT)).unwrap())
            .collect();
        a_moment(&mut random);
        mount.device.pause(&client.queue).unwrap();
        let since = Instant::now();
        while client.queue.used_index().unwrap() != before.wrapping_add(4) {
            assert!(since.elapsed() < WAIT, "not answered");
        }
        while client.queue.events.call.read().is_err() {
            let late = since.elapsed() > Duration::from_secs(2);
            assert!(!late, "not told in round {round}, seed {seed}");
        }
        for ticket in tickets {
            client.complete(ticket).unwrap();
        }
    }
    drop(mount);
    daemon.terminate();
}

#[test]
fn a_queue_disabled_for_a_moment_is_served_again() {
    let seed = 2;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let daemon = Daemon::start(&[]);
    for event_idx in [false, true] {
        let mut mount = daemon.mount(&Options {
            event_idx,
            ..Options::default()
        });
        let client = &mut mount.clients[0];
        for _ in 0..1500 {
            let tickets: Vec<_> = (0..random.random_range(1..12))
                .map(|_| client.submit(request::getattr(ROOT)).unwrap())
                .collect();
            a_moment(&mut random);
            let index = client.queue.index;
            mount.device.disable_and_enable(index).unwrap();
            for ticket in tickets {
                let answer = client.complete(ticket);
                assert!(answer.is_ok(), "{answer:?}, seed {seed}");
            }
        }
    }
    daemon.terminate();
}
