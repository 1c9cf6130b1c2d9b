//! Threads that look for requests before they sleep, and the CPUs they run on.

use std::process::Command;
use std::time::Instant;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::thread::{CpuSet, sched_getaffinity};
use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::ROOT;
use vm_tests::frontend::{Options, WAIT};

use crate::daemon::Daemon;

#[test]
fn who_looks_sees_what_the_front_end_does() {
    let daemon = Daemon::start(&["--poll-us", "10000", "--num-queues", "2"]);
    let mut mount = daemon.mount(&Options {
        request_queues: 2,
        ..Options::default()
    });
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for _ in 0..400 {
        let client = &mut mount.clients[random.random_range(0..2)];
        for _ in 0..random.random_range(0..20) {
            client.call(request::getattr(ROOT)).unwrap();
        }
        // It looks now, or sleeps.
        match random.random_range(0..4) {
            0 => mount.device.pause(&client.queue).unwrap(),
            1 => {
                let index = client.queue.index;
                mount.device.disable_and_enable(index).unwrap();
            }
            2 => {
                // What is made available while it is disabled is served when it is not any more.
                let index = client.queue.index;
                let vhost = &mut mount.device.vhost;
                use vhost::vhost_user::VhostUserFrontend as _;
                vhost.set_vring_enable(index, false).unwrap();
                let ticket = client.post(request::getattr(ROOT)).unwrap();
                vhost.set_vring_enable(index, true).unwrap();
                client.complete(ticket).unwrap();
            }
            _ => {
                let tickets: Vec<_> = (0..5)
                    .map(|_| client.submit(request::getattr(ROOT)).unwrap())
                    .collect();
                mount.device.pause(&client.queue).unwrap();
                for ticket in tickets {
                    client.complete(ticket).unwrap();
                }
            }
        }
    }
    daemon.terminate();
}

#[test]
fn threads_run_on_the_cpus_of_the_list_in_turn() {
    let usable = sched_getaffinity(None).unwrap();
    let cpus: Vec<_> = (0..CpuSet::MAX_CPU)
        .filter(|cpu| usable.is_set(*cpu))
        .take(2)
        .collect();
    let list = cpus.iter().map(ToString::to_string).collect::<Vec<_>>();
    let daemon = Daemon::start(&["--cpu-affinity", &list.join(",")]);
    let mut mount = daemon.mount(&Options::default());
    for client in &mut mount.clients {
        client.call(request::getattr(ROOT)).unwrap();
    }
    let bound = daemon.threads("razorfs-queue", "Cpus_allowed_list:");
    let wanted: Vec<_> = list.iter().cycle().take(4).cloned().collect();
    assert_eq!(bound, wanted);
    // Those that queues start are bound to none.
    mount.clients[0].call(request::syncfs()).unwrap();
    let all = daemon.threads("razorfsd", "Cpus_allowed_list:");
    let pool = daemon.threads("razorfs-pool", "Cpus_allowed_list:");
    assert!(!pool.is_empty() && pool.iter().all(|cpus| *cpus == all[0]));
    // But for a queue's second thread.
    let since = Instant::now();
    let both = || daemon.threads("razorfs-queue1", "Cpus_allowed_list:");
    while both().len() < 2 {
        assert!(since.elapsed() < WAIT, "no second thread");
    }
    assert_eq!(both(), [&*bound[1], &*bound[1]]);
    drop(mount);
    daemon.terminate();
}

#[test]
fn a_cpu_that_cannot_be_used_is_named() {
    let tried = Command::new(env!("CARGO_BIN_EXE_razorfsd"))
        .args(["--store=/nonexistent", "--socket-path=/nonexistent/s"])
        .args(["--cpu-affinity", "0,1023"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&tried.stderr);
    assert!(!tried.status.success() && said.contains("1023"), "{said}");
}
