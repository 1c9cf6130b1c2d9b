//! A device that a guest has broken says so, and works again after a reset (VirtIO 1.3, 2.1.1).

use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::ROOT;
use vm_tests::frontend::{Mount, Options, WAIT};

use crate::daemon::Daemon;

/// ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK
const RUNNING: u64 = 1 | 2 | 8 | 4;
const NEEDS_RESET: u64 = 64;

/// Breaks the first request queue: a head beyond its table.
fn break_queue(mount: &mut Mount) {
    let queue = &mut mount.clients[0].queue;
    queue.offer(5000).unwrap();
    queue.kick().unwrap();
    assert!(queue.is_broken(WAIT), "not told");
}

/// Runs all queues anew, as a driver does after a reset.
fn run_all(mount: &mut Mount) {
    let hiprio = std::iter::once(&mut mount.hiprio);
    for client in mount.clients.iter_mut().chain(hiprio) {
        client.queue.clear().unwrap();
        client.abandon();
        mount.device.run(&client.queue, 0).unwrap();
    }
}

#[test]
fn the_status_is_the_drivers_until_a_ring_is_broken() {
    let daemon = Daemon::start(&[]);
    let mut mount = daemon.mount(&Options::default());
    assert_eq!(mount.device.status().unwrap(), 0);
    mount.device.set_status(RUNNING).unwrap();
    assert_eq!(mount.device.status().unwrap(), RUNNING);
    break_queue(&mut mount);
    assert_eq!(mount.device.status().unwrap(), RUNNING | NEEDS_RESET);
    // The driver cannot take it away but by a reset.
    mount.device.set_status(RUNNING).unwrap();
    assert_eq!(mount.device.status().unwrap(), RUNNING | NEEDS_RESET);
    // The others go on meanwhile.
    mount.client(1).call(request::getattr(ROOT)).unwrap();
    daemon.terminate();
}

#[test]
fn a_broken_device_works_again_after_a_reset() {
    let daemon = Daemon::start(&[]);
    let resets: [fn(&mut Mount); 2] = [
        |mount| mount.device.set_status(0).unwrap(),
        |mount| mount.device.reset().unwrap(),
    ];
    for reset in resets {
        let mut mount = daemon.mount(&Options::default());
        for _ in 0..3 {
            mount.device.set_status(RUNNING).unwrap();
            break_queue(&mut mount);
            assert_eq!(mount.device.status().unwrap(), RUNNING | NEEDS_RESET);
            reset(&mut mount);
            assert_eq!(mount.device.status().unwrap(), 0);
            run_all(&mut mount);
            let client = mount.client(0);
            client.call(request::init(u64::MAX)).unwrap();
            client.call(request::getattr(ROOT)).unwrap();
        }
    }
    daemon.terminate();
}

/// A front-end sends the status 0 when it pauses the guest, whose mount goes on where it was.
#[test]
fn a_status_of_zero_does_not_end_the_session() {
    let daemon = Daemon::start(&[]);
    let mut mount = daemon.mount(&Options::default());
    let made = mount.client(0).call(request::create(ROOT, "file", 0o644));
    let node = made.unwrap().0.nodeid;
    mount.client(0).call(request::unlink(ROOT, "file")).unwrap();
    mount.device.set_status(0).unwrap();
    run_all(&mut mount);
    mount.client(0).call(request::getattr(node)).unwrap();
    daemon.terminate();
}

#[test]
fn a_status_that_is_none_is_the_end_of_the_connection() {
    let mut daemon = Daemon::start(&[]);
    for status in [256, u64::MAX] {
        let mut mount = daemon.mount(&Options::default());
        assert!(mount.device.set_status(status).is_err());
    }
    daemon.is_well("a status that is none");
    daemon.terminate();
}
