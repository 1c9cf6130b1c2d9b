//! A disk that fails or is full, and too much to do.

use std::io;

use super::*;
use crate::disk::sim::{Call, Fault};

/// What fails in turn, and how what it was to make is asked for.
const REQUESTS: [(&str, &str); 4] = [
    (
        "/api/v1/datasets",
        r#"{"name":"new","dedup":"on","compression":"lz4"}"#,
    ),
    ("/api/v1/snapshots", r#"{"name":"web@new"}"#),
    ("/api/v1/clones", r#"{"source":"web@old","name":"new"}"#),
    ("/api/v1/clones", r#"{"source":"web","name":"new"}"#),
];

fn world_with_a_file() -> World {
    let world = World::new();
    world.post("/api/v1/datasets", &name("web"));
    world.post("/api/v1/snapshots", &name("web@old"));
    write(&world.store.volume("web").unwrap(), "file", &[7; 100_000]);
    world
}

/// Each write, flush and allocation of each request fails once: the answer says so, and behind the
/// next opening the whole of it is there or nothing.
#[test]
fn a_disk_that_fails_leaves_nothing_half_done() {
    let mut failures = 0;
    for (path, body) in REQUESTS {
        for call in [Call::Write, Call::Flush, Call::Allocate] {
            for after in 0.. {
                let world = world_with_a_file();
                world.sim.set_fault(Some(Fault {
                    call,
                    after,
                    sticky: false,
                    kind: io::ErrorKind::Other,
                }));
                let answer = world.send("POST", path, body.to_owned());
                if world.sim.fault_calls() <= after {
                    assert_eq!(answer.0, 201, "{answer:?}");
                    break;
                }
                failures += 1;
                world.sim.set_fault(None);
                let place = format!("{path} {body}, {call:?} {after}: {answer:?}");
                if answer.0 != 201 {
                    assert!(answer.0 >= 500, "{place}");
                    assert!(!kind(&answer).is_empty());
                }
                let after = World::on(world.sim.killed(), false);
                let is_there = after.names("/api/v1/datasets").len() == 4;
                assert!(is_there || answer.0 != 201, "{place}");
                // Asked again, it is what it was to be.
                let again = after.send("POST", path, body.to_owned());
                assert_eq!(
                    again.0,
                    if is_there { 200 } else { 201 },
                    "{place}: {again:?}"
                );
                after.finish();
            }
        }
    }
    assert!(failures >= 12, "{failures}");
}

/// A damaged store is told of.
#[test]
fn a_disk_that_cannot_be_read_is_told_of() {
    let world = world_with_a_file();
    world.store.close().unwrap();
    let sim = world.sim.killed();
    let world = World::on(sim, true);
    world.sim.set_fault(Some(Fault {
        call: Call::Read,
        after: 0,
        sticky: true,
        kind: io::ErrorKind::Other,
    }));
    let read = world
        .store
        .volume("web")
        .map(|web| web.lookup(Ino::ROOT, b"file"));
    let is_read = read.is_ok_and(|found| found.is_ok());
    let answer = world.get("/api/v1/datasets/web");
    assert!(
        answer.0 == 200 || (answer.0 == 500 && !is_read),
        "{answer:?}"
    );
}

#[test]
fn a_full_disk_is_told_of() {
    let world = World::new();
    let mut failed = None;
    for n in 0..100_000 {
        let answer = world.post("/api/v1/datasets", &name(&format!("dataset-{n}")));
        if answer.0 != 201 {
            failed = Some((n, answer));
            break;
        }
        if n == 20 {
            world.sim.set_capacity(Some(world.sim.allocated()));
        }
    }
    let (n, answer) = failed.unwrap();
    assert_eq!((answer.0, kind(&answer)), (507, "no_space"), "after {n}");
    // Nothing of it is there, and deleting works.
    assert_eq!(world.get(&format!("/api/v1/datasets/dataset-{n}")).0, 404);
    assert_eq!(world.delete("/api/v1/datasets/dataset-0").0, 204);
}

#[test]
fn too_many_requests_at_once_are_refused() {
    let world = World::new();
    let mut served = Served::new(Arc::clone(&world.store), Arc::clone(&world.exports.0));
    served.room = Arc::new(tokio::sync::Semaphore::new(0));
    let busy = router(served);
    let answer = world
        .runtime
        .block_on(send(&busy, "GET", "/api/v1/datasets", String::new()));
    assert_eq!((answer.0, kind(&answer)), (429, "overloaded"));
    // That asks nothing of the store.
    let health = world
        .runtime
        .block_on(send(&busy, "GET", "/health", String::new()));
    assert_eq!(health.0, 200);
    world.finish();
}

/// Guests that freeze wait for whatever takes long: from that moment on it is refused.
#[test]
fn what_takes_long_stops_when_guests_begin_to_wait() {
    let world = world_with_a_file();
    let volume = world.store.volume("web").unwrap();
    for n in 0..20 {
        write(&volume, &format!("file{n}"), &[7; 100_000]);
    }
    drop(volume);
    world.post("/api/v1/snapshots", &name("web@new"));
    let long = [
        (
            "POST",
            "/api/v1/snapshots/restore",
            json!({"snapshot": "web@new", "source": "/", "destination": "/back"}),
        ),
        (
            "POST",
            "/api/v1/projects",
            json!({"dataset": "web", "id": 7, "path": "/", "quota_inodes": 50}),
        ),
        (
            "GET",
            "/api/v1/differences?old=web@old&new=web@new",
            Value::Null,
        ),
        (
            "POST",
            "/api/v1/datasets/web/rewrite",
            json!({"path": "/file"}),
        ),
        ("POST", "/api/v1/trim", json!({})),
    ];
    world.exports.0.freeze();
    for (method, path, body) in &long {
        let answer = world.call(method, path, body);
        assert_eq!((answer.0, kind(&answer)), (503, "interrupted"), "{path}");
    }
    assert_eq!(world.post("/api/v1/scrub", &json!({})).0, 201);
    let begin = std::time::Instant::now();
    while world.get("/api/v1/scrub").1["is_running"] == true {
        assert!(begin.elapsed() < std::time::Duration::from_secs(20));
    }
    assert_eq!(world.get("/api/v1/scrub").1["is_done"], false);
    let request = Request::get("/api/v1/snapshots/web@new/stream").body(Body::empty());
    let sent = world.runtime.block_on(async {
        let answer = world.router.clone().oneshot(request.unwrap()).await;
        answer.unwrap().into_body().collect().await
    });
    assert!(sent.is_err(), "it was sent to its end");
    // Others serve the store next: there it is done.
    let World {
        sim,
        store,
        exports,
        runtime,
        router,
        ..
    } = world;
    drop((runtime, exports, router));
    store.close().unwrap();
    let world = World::on(sim, false);
    for (method, path, body) in &long {
        assert_eq!(world.call(method, path, body).0, 200, "{path}");
    }
    world.finish();
}
