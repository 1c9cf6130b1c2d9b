//! A new process takes guests over from the one that serves them, and they do not notice.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::ROOT;
use vm_tests::frontend::{Client, Error, Options};

use crate::control::call;
use crate::daemon::Daemon;

const TIMES: u32 = 5;

/// What a client found out: requests, and the longest that one of them took.
struct Seen {
    requests: u64,
    longest: Duration,
}

/// Works in a directory of its own until `is_over`, and compares all that it reads. A request that
/// was lost would wait for ever; one carried out twice would find its name taken or gone.
fn work(client: &mut Client, index: usize, seed: u64, is_over: &AtomicBool) -> Seen {
    let mut rng = ChaCha8Rng::seed_from_u64(seed + index as u64);
    let dir = client
        .call(request::mkdir(ROOT, format!("dir{index}"), 0o755))
        .unwrap();
    let dir = dir.nodeid;
    let mut files: HashMap<String, (u64, u64, Vec<u8>)> = HashMap::new();
    let mut seen = Seen {
        requests: 0,
        longest: Duration::ZERO,
    };
    let mut made = 0;
    while !is_over.load(Ordering::Relaxed) {
        let since = Instant::now();
        let some = files.keys().min().cloned();
        match (rng.random_range(0..10), some) {
            (0..3, _) | (_, None) => {
                let name = format!("file{made}");
                made += 1;
                let (entry, open) = client.call(request::create(dir, &name, 0o644)).unwrap();
                files.insert(name, (entry.nodeid, open.fh, Vec::new()));
            }
            (3..6, Some(name)) => {
                let (node, fh, content) = files.get_mut(&name).unwrap();
                *content = (0..rng.random_range(1..20_000))
                    .map(|_| rng.random())
                    .collect();
                let write = client.call(request::write(*node, *fh, 0, content));
                assert_eq!(write.unwrap().size as usize, content.len());
                if rng.random() {
                    client.call(request::fsync(*node, *fh, 0)).unwrap();
                }
            }
            (6..8, Some(name)) => {
                let (node, fh, content) = &files[&name];
                let read = client.call(request::read(*node, *fh, 0, content.len() as u32));
                assert!(read.unwrap() == *content, "{name}");
            }
            (8, Some(name)) => {
                let (node, fh, content) = files.remove(&name).unwrap();
                client.call(request::unlink(dir, &name)).unwrap();
                // Open still, and without a name.
                let read = client.call(request::read(node, fh, 0, content.len() as u32));
                assert!(read.unwrap() == content, "{name}");
                client.call(request::release(node, fh)).unwrap();
                client.call(request::forget(node, 1)).unwrap();
            }
            (_, Some(name)) => {
                let moved = format!("moved{made}");
                made += 1;
                client
                    .call(request::rename((dir, &name), (dir, &moved)))
                    .unwrap();
                let file = files.remove(&name).unwrap();
                files.insert(moved, file);
            }
        }
        seen.requests += 1;
        seen.longest = seen.longest.max(since.elapsed());
    }
    for (name, (node, fh, content)) in files {
        let found = client.call(request::lookup(dir, &name)).unwrap();
        assert_eq!(found.nodeid, node);
        let read = client.call(request::read(node, fh, 0, 1 << 16));
        // Longer where a shorter content was written over it.
        assert!(read.unwrap().starts_with(&content), "{name}");
    }
    seen
}

#[test]
fn guests_at_work_do_not_notice_a_new_process() {
    let seed = rand::random::<u32>().into();
    println!("seed {seed}");
    for event_idx in [true, false] {
        let mut daemon = Daemon::start(&[]);
        let mount = daemon.mount(&Options {
            event_idx,
            ..Options::default()
        });
        let is_over = AtomicBool::new(false);
        let mut clients = mount.clients;
        std::thread::scope(|scope| {
            let working: Vec<_> = (0..)
                .zip(&mut clients)
                .map(|(index, client)| {
                    let is_over = &is_over;
                    scope.spawn(move || work(client, index, seed, is_over))
                })
                .collect();
            for _ in 0..TIMES {
                std::thread::sleep(Duration::from_millis(150));
                println!("taken over in {:?}", daemon.take_over());
            }
            std::thread::sleep(Duration::from_millis(150));
            is_over.store(true, Ordering::Relaxed);
            for each in working {
                let seen = each.join().unwrap();
                println!("{} requests, the longest {:?}", seen.requests, seen.longest);
                assert!(seen.requests > 10);
            }
        });
        daemon.is_unharmed("being taken over");
        drop((mount.device, mount.hiprio, clients));
        // What was unlinked and open is gone with the guest.
        daemon.terminate();
    }
}

#[test]
fn what_the_guest_has_open_stays_and_what_it_forgets_goes() {
    let mut daemon = Daemon::start(&[]);
    let mut mount = daemon.mount(&Options::default());
    let client = mount.client(0);
    let (entry, open) = client.call(request::create(ROOT, "file", 0o644)).unwrap();
    let (node, fh) = (entry.nodeid, open.fh);
    client.call(request::write(node, fh, 0, b"here")).unwrap();
    client.call(request::unlink(ROOT, "file")).unwrap();
    daemon.take_over();
    daemon.take_over();
    let client = mount.client(1);
    assert_eq!(client.call(request::read(node, fh, 0, 9)).unwrap(), b"here");
    client.call(request::write(node, fh, 4, b" too")).unwrap();
    client.call(request::forget(node, 1)).unwrap();
    let stale = client.call(request::getattr(node));
    assert!(matches!(stale, Err(Error::Errno(libc::ESTALE))));
    // A front-end's messages are followed too, and the one after it.
    mount.device.pause(&mount.clients[0].queue).unwrap();
    mount.client(0).call(request::getattr(ROOT)).unwrap();
    assert_eq!(mount.device.status().unwrap(), 0);
    drop(mount);
    daemon.is_well("being taken over");
    daemon.terminate();
}

#[test]
fn a_guest_that_cannot_be_taken_over_stays() {
    let mut daemon = Daemon::start(&[]);
    let mut mount = daemon.mount(&Options::default());
    mount
        .client(0)
        .call(request::mkdir(ROOT, "dir", 0o755))
        .unwrap();
    // Another export, one that keeps other promises, and one with fewer queues.
    for (flags, said) in [
        (&["--socket-path", "other"] as &[_], "start it so"),
        (&["--cache", "never"], "--cache always"),
        (&["--num-queues", "1"], "17 queues"),
    ] {
        let refused = daemon.keeps(flags);
        assert!(refused.contains(said), "{flags:?}: {refused}");
        for client in &mut mount.clients {
            client.call(request::lookup(ROOT, "dir")).unwrap();
        }
    }
    daemon.take_over();
    mount.client(2).call(request::lookup(ROOT, "dir")).unwrap();
    drop(mount);
    daemon.terminate();
}

#[test]
fn without_a_daemon_there_is_nothing_to_take_over() {
    let said = Daemon::refused(&["--socket-path", "socket", "--take-over"]);
    assert!(said.contains("without --take-over"), "{said}");
}

/// Who goes on after a handover that failed opens the store anew: its exports are what their datasets
/// are called by then.
#[test]
fn a_dataset_that_was_renamed_is_served_on() {
    let mut daemon = Daemon::start_prepared(&[&["create", "old"]], &["--export=old:other"]);
    let mut mount = daemon.mount_at("other");
    let made = mount.client(0).call(request::mkdir(ROOT, "dir", 0o755));
    made.unwrap();
    let renamed = daemon.command("rename", &["old", "new"]);
    assert!(renamed.status.success(), "{renamed:?}");
    for flags in [
        &["--export=new:other", "--cache", "never"] as &[_],
        &["--export=new:other", "--num-queues", "1"],
    ] {
        daemon.keeps(flags);
        let found = mount.client(0).call(request::lookup(ROOT, "dir"));
        found.unwrap();
    }
    let (_, exports) = call(&daemon.control(), "GET", "/api/v1/exports", "").unwrap();
    let mut exports = exports.as_array().unwrap().iter();
    assert!(exports.any(|each| each["dataset"] == "new"));
    drop(mount);
    daemon.terminate();
}
