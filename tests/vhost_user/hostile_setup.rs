//! Front-ends that send what cannot be followed, or go in the middle of it.

use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use vhost::vhost_user::VhostUserFrontend as _;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::ROOT;
use vm_tests::frontend::memory::free_huge_pages;
use vm_tests::frontend::{Device, Options, Queue};

use crate::daemon::Daemon;

fn connect(daemon: &Daemon) -> Device {
    Device::connect(&daemon.socket(), &Options::default()).unwrap()
}

/// The device's memory, told with another place and length.
fn region(device: &Device, guest: u64, len: u64, offset: u64) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: guest,
        memory_size: len,
        userspace_addr: 0x6000_0000_0000u64.wrapping_add(guest),
        mmap_offset: offset,
        mmap_handle: device.memory().file(0).unwrap().as_raw_fd(),
    }
}

/// What a front-end tries, and whether it was refused.
type Refused<'a> = (&'static str, &'a dyn Fn(&Device) -> bool);

#[test]
fn a_front_end_that_cannot_be_followed_is_disconnected() {
    let mut daemon = Daemon::start(&[]);
    let memory = 64 << 20;
    let refused: [Refused<'_>; 11] = [
        ("memory beyond its file", &|d| {
            d.vhost
                .set_mem_table(&[region(d, 0, memory + 4096, 0)])
                .is_err()
        }),
        ("memory that begins in its file and ends beyond", &|d| {
            d.vhost
                .set_mem_table(&[region(d, 0, memory, 4096)])
                .is_err()
        }),
        ("memory at an offset that wraps", &|d| {
            let offset = u64::MAX - 4095;
            d.vhost
                .set_mem_table(&[region(d, 0, memory, offset)])
                .is_err()
        }),
        ("memory that overlaps", &|d| {
            let regions = [region(d, 0, memory, 0), region(d, memory / 2, memory, 0)];
            d.vhost.set_mem_table(&regions).is_err()
        }),
        ("memory that wraps", &|d| {
            let region = region(d, u64::MAX - 0xffff, memory, 0);
            d.vhost.set_mem_table(&[region]).is_err()
        }),
        ("memory cut short before it is told", &|d| {
            d.memory().file(0).unwrap().set_len(4096).unwrap();
            d.share_memory().is_err()
        }),
        ("a queue of odd size", &|d| {
            d.vhost.set_vring_num(1, 63).is_err()
        }),
        ("a queue of no size", &|d| {
            d.vhost.set_vring_num(1, 0).is_err()
        }),
        ("features nobody offered", &|d| {
            d.vhost.set_features(1 << 60).is_err()
        }),
        ("a queue without memory", &|d| {
            let queue = Queue::new(1, 64, false, d.memory().clone()).unwrap();
            d.vhost.set_vring_kick(1, &queue.events.kick).is_err()
        }),
        ("a queue outside of memory", &|d| {
            d.share_memory().unwrap();
            let addresses = VringConfigData {
                queue_max_size: 64,
                queue_size: 64,
                flags: 0,
                desc_table_addr: 16,
                used_ring_addr: 4096,
                avail_ring_addr: 8192,
                log_addr: None,
            };
            d.vhost.set_vring_addr(1, &addresses).is_err()
        }),
    ];
    for (name, refuses) in refused {
        assert!(refuses(&connect(&daemon)), "{name}");
        daemon.is_well(name);
    }
    daemon.terminate();
}

#[test]
fn what_is_no_message_is_the_end_of_the_connection() {
    let mut daemon = Daemon::start(&[]);
    for garbage in [&[0xff; 12][..], &[0; 12], &[1, 0, 0], &[0x41; 5000]] {
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        // It may be gone before all is written.
        let _ = stream.write_all(garbage);
        drop(stream);
        daemon.is_well("garbage");
    }
    // Every request, with no body, a body too short, and far too long a one announced.
    for kind in 0..48u32 {
        for (size, sent) in [(0u32, 0usize), (8, 8), (8, 4), (u32::MAX, 64), (4096, 4096)] {
            let mut stream = UnixStream::connect(daemon.socket()).unwrap();
            let mut message = [kind.to_ne_bytes(), 1u32.to_ne_bytes(), size.to_ne_bytes()].concat();
            message.resize(12 + sent, 0x11);
            let _ = stream.write_all(&message);
        }
    }
    daemon.is_well("messages without sense");
    daemon.terminate();
}

#[test]
fn a_front_end_may_go_at_any_point_of_its_set_up() {
    let mut daemon = Daemon::start(&[]);
    for step in 0..7 {
        let mut device = connect(&daemon);
        if step > 0 {
            device.share_memory().unwrap();
        }
        if step > 1 {
            device.start(1).unwrap();
        }
        if step > 2 {
            // Told to run, and its memory taken away at once.
            device.vhost.set_vring_enable(2, true).unwrap();
        }
        if step > 3 {
            let queue = device.start(2).unwrap();
            let mut client = device.client(queue);
            client.call(request::init(u64::MAX)).unwrap();
            let tickets: Vec<_> = (0..20)
                .map(|i| client.submit(request::create(ROOT, format!("{step}-{i}"), 0o644)))
                .collect();
            if step > 4 {
                device.stop(1).unwrap();
            }
            if step > 5 {
                device.reset().unwrap();
            }
            drop(tickets);
        }
        drop(device);
        daemon.is_well(&format!("step {step}"));
    }
    daemon.terminate();
}

#[test]
fn kicks_on_queues_that_are_not_set_up_do_nothing() {
    let mut daemon = Daemon::start(&[]);
    let mut device = connect(&daemon);
    device.share_memory().unwrap();
    let mut queue = Queue::new(1, 64, true, device.memory().clone()).unwrap();
    // A kick descriptor, and no rings to go with it: they would be at address 0.
    device.vhost.set_vring_kick(1, &queue.events.kick).unwrap();
    device.vhost.set_vring_enable(1, true).unwrap();
    for _ in 0..10 {
        queue.kick().unwrap();
    }
    assert_eq!(queue.used_index().unwrap(), 0);
    drop(device);
    daemon.is_well("kicks on a queue without rings");
    // Rings, and not enabled.
    let mut mount = daemon.mount(&Options::default());
    mount.device.vhost.set_vring_enable(2, false).unwrap();
    let ticket = mount.client(1).submit(request::getattr(ROOT)).unwrap();
    mount.client(0).call(request::getattr(ROOT)).unwrap();
    assert!(!mount.client(1).is_done(&ticket).unwrap());
    mount.device.vhost.set_vring_enable(2, true).unwrap();
    mount.client(1).complete(ticket).unwrap();
    daemon.is_unharmed("a queue that is not enabled");
    daemon.terminate();
}

#[test]
fn the_memory_table_may_be_replaced_while_requests_are_in_flight() {
    let mut daemon = Daemon::start(&[]);
    let mut mount = daemon.mount(&Options::default());
    let (file, _) = mount
        .client(0)
        .call(request::create(ROOT, "file", 0o644))
        .unwrap();
    for round in 0..50u64 {
        let tickets: Vec<_> = (0..10)
            .map(|i| {
                let write = request::write(file.nodeid, 0, (round * 10 + i) * 4096, &[1; 4096]);
                let write = mount.clients[1].submit(write).unwrap();
                let fsync = request::fsync(file.nodeid, 0, 0);
                (write, mount.clients[2].submit(fsync).unwrap())
            })
            .collect();
        mount.device.share_memory().unwrap();
        for (write, fsync) in tickets {
            assert_eq!(mount.clients[1].complete(write).unwrap().size, 4096);
            mount.clients[2].complete(fsync).unwrap();
        }
    }
    // And by one that the rings are not in: the device may not follow them any more.
    let elsewhere = region(&mount.device, 1 << 40, 1 << 20, 0);
    let _ = mount.clients[1].submit(request::getattr(ROOT)).unwrap();
    mount.device.vhost.set_mem_table(&[elsewhere]).unwrap();
    mount.clients[0].queue.kick().unwrap();
    mount.clients[1].queue.kick().unwrap();
    drop(mount);
    daemon.is_well("memory taken away");
    daemon.terminate();
}

/// A ring's thread may look at its ring once more after the last answer. What it finds of memory
/// that is there no longer says nothing of the ring that was started since.
#[test]
fn memory_that_goes_and_comes_back_breaks_no_ring_started_since() {
    let mut daemon = Daemon::start(&[]);
    let mut mount = daemon.mount(&Options::default());
    for round in 0..1000 {
        let client = &mut mount.clients[0];
        client.call(request::getattr(ROOT)).unwrap();
        mount.device.take_memory_away().unwrap();
        client.queue.kick().unwrap();
        mount.device.share_memory().unwrap();
        mount.device.stop(client.queue.index).unwrap();
        client.queue.clear().unwrap();
        mount.device.run(&client.queue, 0).unwrap();
        let answer = client.call(request::getattr(ROOT));
        assert!(answer.is_ok(), "{answer:?} in round {round}");
    }
    daemon.is_unharmed("memory that goes and comes back");
    drop(mount);
    daemon.terminate();
}

/// The file below the guest's memory is cut short while the device works in it. This process has it
/// mapped too, and must not touch it any more.
#[test]
fn memory_cut_short_while_it_is_in_use_harms_the_guest_alone() {
    cut_short(&[0, 4096, 32 << 20], &Options::default());
}

/// The same on huge pages, where some are free.
#[test]
fn so_does_memory_on_huge_pages() {
    const PAGE: u64 = 2 << 20;
    const PAGES: u64 = 8;
    if free_huge_pages() < PAGES {
        eprintln!("not run: no {PAGES} huge pages are free (sysctl vm.nr_hugepages)");
        return;
    }
    let options = Options {
        memory: vec![(0, PAGES * PAGE)],
        huge_pages: true,
        ..Options::default()
    };
    cut_short(&[0, PAGE, PAGES / 2 * PAGE], &options);
}

fn cut_short(lens: &[u64], options: &Options) {
    let mut daemon = Daemon::start(&[]);
    for len in lens {
        let mut mount = daemon.mount(options);
        let found = mount.client(0).call(request::getattr(ROOT));
        assert!(found.is_ok(), "{found:?}");
        let tickets: Vec<_> = (0..20)
            .map(|i| {
                let made = request::create(ROOT, format!("{len}-{i}"), 0o644);
                mount.clients[1].submit(made).unwrap()
            })
            .collect();
        mount
            .device
            .memory()
            .file(0)
            .unwrap()
            .set_len(*len)
            .unwrap();
        for client in &mut mount.clients {
            client.queue.kick().unwrap();
        }
        drop(tickets);
        drop(mount);
        daemon.is_well("memory cut short");
    }
    daemon.terminate();
}
