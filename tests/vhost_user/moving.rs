//! Guests that move to another daemon, with the store: what a front-end does on both sides.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use vhost::vhost_user::VhostUserFrontend as _;
use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::ROOT;
use vm_tests::frontend::{Client, Device, Mount, Options};

use crate::daemon::Daemon;

/// Stops all queues; where each is.
fn stop(mount: &Mount) -> Vec<u16> {
    let clients = std::iter::once(&mount.hiprio).chain(&mount.clients);
    clients
        .map(|client| mount.device.stop(client.queue.index).unwrap())
        .collect()
}

/// Starts them there.
fn run(device: &mut Device, clients: &[&Client], bases: &[u16]) {
    for (client, base) in clients.iter().zip(bases) {
        device.run(&client.queue, *base).unwrap();
    }
}

/// Starts them again where they were.
fn run_here(mount: &mut Mount, bases: &[u16]) {
    let clients: Vec<_> = std::iter::once(&mount.hiprio)
        .chain(&mount.clients)
        .collect();
    run(&mut mount.device, &clients, bases);
}

/// The guest's device at the daemon that waits for it.
fn connected_there(daemon: &Daemon, mount: &Mount) -> Device {
    let memory = mount.device.memory().clone();
    let path = daemon.dir().join("there");
    let device = Device::connect_with(&path, &Options::default(), memory).unwrap();
    device.share_memory().unwrap();
    device
}

/// A guest that has written a file, and has another open that has no name.
fn mounted(daemon: &Daemon) -> (Mount, (u64, u64)) {
    let mut mount = daemon.mount(&Options::default());
    let client = mount.client(0);
    let (kept, open) = client.call(request::create(ROOT, "kept", 0o644)).unwrap();
    let write = request::write(kept.nodeid, open.fh, 0, b"written");
    client.call(write).unwrap();
    let (gone, open) = client.call(request::create(ROOT, "gone", 0o644)).unwrap();
    let write = request::write(gone.nodeid, open.fh, 0, b"open");
    client.call(write).unwrap();
    client.call(request::unlink(ROOT, "gone")).unwrap();
    (mount, (kept.nodeid, gone.nodeid))
}

fn goes_on(client: &mut Client, (kept, gone): (u64, u64)) {
    let read = |node| request::read(node, 0, 0, 100);
    assert_eq!(client.call(read(kept)).unwrap(), b"written");
    assert_eq!(client.call(read(gone)).unwrap(), b"open");
    client.call(request::getattr(ROOT)).unwrap();
}

#[test]
fn a_guest_goes_on_with_another_daemon() {
    let daemon = Daemon::start(&[]);
    let there = daemon.beside("there", &["--incoming"]);
    let (mut mount, files) = mounted(&daemon);
    let bases = stop(&mount);
    let state = mount.device.save().unwrap();
    // The front-end there connects long before.
    let mut device = connected_there(&daemon, &mount);
    device.load(&state).unwrap();
    let clients: Vec<_> = std::iter::once(&mount.hiprio)
        .chain(&mount.clients)
        .collect();
    run(&mut device, &clients, &bases);
    goes_on(mount.client(1), files);
    mount
        .client(0)
        .call(request::mkdir(ROOT, "dir", 0o755))
        .unwrap();
    // The one before has not the store any more, nor takes it.
    drop(mount.device);
    mount.clients[2].call(request::lookup(ROOT, "dir")).unwrap();
    drop((device, mount.clients));
    drop(there);
    daemon.terminate();
}

#[test]
fn a_guest_that_cannot_go_on_there_goes_on_here() {
    let daemon = Daemon::start(&[]);
    // It was told to keep everything.
    let there = daemon.beside("there", &["--incoming", "--cache", "never"]);
    let (mut mount, files) = mounted(&daemon);
    for damaged in [false, true] {
        let bases = stop(&mount);
        let mut state = mount.device.save().unwrap();
        if damaged {
            state.pop();
        }
        let device = connected_there(&daemon, &mount);
        assert!(device.load(&state).is_err());
        drop(device);
        run_here(&mut mount, &bases);
        goes_on(mount.client(1), files);
    }
    drop((mount, there));
    daemon.terminate();
}

#[test]
fn a_guest_that_was_never_started_there_goes_on_here() {
    let daemon = Daemon::start(&[]);
    let there = daemon.beside("there", &["--incoming"]);
    let (mut mount, files) = mounted(&daemon);
    let bases = stop(&mount);
    let state = mount.device.save().unwrap();
    let device = connected_there(&daemon, &mount);
    device.load(&state).unwrap();
    // It has the store, and its front-end ends.
    drop(device);
    run_here(&mut mount, &bases);
    goes_on(mount.client(0), files);
    drop((mount, there));
    daemon.terminate();
}

#[test]
fn a_state_does_not_leave_while_queues_run_nor_twice() {
    let daemon = Daemon::start(&[]);
    let (mut mount, files) = mounted(&daemon);
    assert!(mount.device.save().is_err(), "queues run");
    goes_on(mount.client(0), files);
    assert!(
        mount.device.vhost.check_device_state().is_err(),
        "nothing was asked for"
    );
    let bases = stop(&mount);
    let once = mount.device.save().unwrap();
    let twice = mount.device.save().unwrap();
    assert!(once == twice);
    run_here(&mut mount, &bases);
    goes_on(mount.client(2), files);
    drop(mount);
    daemon.terminate();
}

#[test]
fn a_daemon_that_waits_serves_a_guest_that_starts() {
    let mut daemon = Daemon::start(&[]);
    let there = daemon.beside("there", &["--incoming"]);
    // It waits for the store.
    daemon.is_well("its start");
    daemon.stop();
    let mut mount = daemon.mount_at("there");
    let mkdir = request::mkdir(ROOT, "dir", 0o755);
    mount.client(0).call(mkdir).unwrap();
    drop((mount, there));
    daemon.check();
}

/// Pages that are marked.
fn marked(log: &File) -> Vec<u64> {
    let len = usize::try_from(log.metadata().unwrap().len()).unwrap();
    let mut bytes = vec![0; len];
    log.read_exact_at(&mut bytes, 0).unwrap();
    (0..len as u64 * 8)
        .filter(|page| bytes[usize::try_from(page / 8).unwrap()] & (1 << (page % 8)) != 0)
        .collect()
}

#[test]
fn changed_pages_are_marked_while_the_guest_moves() {
    let daemon = Daemon::start(&[]);
    let (mut mount, files) = mounted(&daemon);
    let log = tempfile::tempfile().unwrap();
    // A page of log for 128 MiB of memory.
    log.set_len(4096).unwrap();
    goes_on(mount.client(0), files);
    assert!(marked(&log).is_empty());
    mount.device.log_changes(Some(&log)).unwrap();
    goes_on(mount.client(0), files);
    let pages = marked(&log);
    let used = mount.clients[0].queue.used_address() / 4096;
    assert!(
        pages.contains(&used),
        "the used ring, page {used}: {pages:?}"
    );
    let others = mount.clients[1].queue.used_address() / 4096;
    assert!(pages.iter().any(|page| *page != used), "replies: {pages:?}");
    assert!(others == used || !pages.contains(&others), "{pages:?}");
    mount.device.log_changes(None).unwrap();
    log.write_all_at(&[0; 4096], 0).unwrap();
    goes_on(mount.client(0), files);
    assert!(marked(&log).is_empty(), "not any more");
    // One that is too short for the memory is refused, and so is the front-end.
    let short = tempfile::tempfile().unwrap();
    short.set_len(16).unwrap();
    assert!(mount.device.log_changes(Some(&short)).is_err());
    drop(mount);
    daemon.terminate();
}
