//! What watchers are told.

use http_body_util::BodyExt;
use tokio::time::{Duration, timeout};

use super::*;
use crate::engine::Settings;

/// Somebody who watches.
struct Watcher {
    body: Body,
    text: String,
}

impl World {
    /// Begins to watch.
    fn watch(&self, query: &str, last: Option<&str>) -> Watcher {
        let request = Request::builder().uri(format!("/api/v1/events{query}"));
        let request = match last {
            Some(last) => request.header("Last-Event-ID", last),
            None => request,
        };
        let request = request.body(Body::empty()).unwrap();
        let answer = self.runtime.block_on(self.router.clone().oneshot(request));
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let (body, text) = (answer.into_body(), String::new());
        let mut watcher = Watcher { body, text };
        self.hear(&mut watcher, "\n\n");
        watcher.text.clear();
        watcher
    }

    /// Listens until something is said.
    fn hear(&self, watcher: &mut Watcher, until: &str) {
        self.runtime.block_on(async {
            while !watcher.text.contains(until) {
                let frame = timeout(Duration::from_secs(20), watcher.body.frame());
                let frame = frame.await.expect(until).unwrap().unwrap();
                let piece = frame.into_data().unwrap();
                watcher.text += std::str::from_utf8(&piece).unwrap();
            }
        });
    }
}

/// Kinds, names and what else was told of events.
fn told(text: &str) -> Vec<(String, String, String)> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let events = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    events
        .filter(|event| event.get("event").is_some())
        .map(|event| {
            (
                text(&event["event"]),
                text(&event["name"]),
                text(&event["detail"]),
            )
        })
        .collect()
}

#[test]
fn what_happens_is_told_in_its_order() {
    let world = World::new();
    let mut watcher = world.watch("", None);
    world.post("/api/v1/datasets", &name("web"));
    world.post("/api/v1/snapshots", &name("web@a"));
    world.post(
        "/api/v1/clones",
        &json!({"source": "web@a", "name": "copy"}),
    );
    world.patch("/api/v1/snapshots/web@a", &name("web@b"));
    world.post("/api/v1/snapshots/web@b/restore", &Value::Null);
    let part = json!({"snapshot": "web@b", "source": "/", "destination": "/back"});
    assert_eq!(world.post("/api/v1/snapshots/restore", &part).0, 200);
    world.post("/api/v1/datasets/copy/promote", &Value::Null);
    world.patch("/api/v1/datasets/web", &name("site"));
    world.delete("/api/v1/datasets/site");
    world.delete("/api/v1/datasets/copy?recursive=true");
    // What is refused does not happen, nor what was done already.
    world.delete("/api/v1/datasets/none");
    world.post("/api/v1/datasets", &name("last"));
    world.post("/api/v1/datasets", &name("last"));
    world.post("/api/v1/snapshots", &name("last@end"));
    world.hear(&mut watcher, "last@end");
    let events = told(&watcher.text);
    let events: Vec<(&str, &str, &str)> = events
        .iter()
        .map(|(kind, name, detail)| (kind.as_str(), name.as_str(), detail.as_str()))
        .collect();
    assert_eq!(
        events,
        [
            ("dataset_created", "web", ""),
            ("snapshot_created", "web@a", ""),
            ("dataset_created", "copy", "web@a"),
            ("snapshot_renamed", "web@a", "web@b"),
            ("dataset_restored", "web", "web@b"),
            ("path_restored", "web", "/back"),
            ("dataset_promoted", "copy", ""),
            ("dataset_renamed", "web", "site"),
            ("dataset_deleted", "site", ""),
            ("dataset_deleted", "copy", ""),
            ("snapshot_deleted", "copy@b", ""),
            ("dataset_created", "last", ""),
            ("snapshot_created", "last@end", ""),
        ]
    );
    // From some event on, whichever way it is said.
    let ids: Vec<_> = watcher
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("id: "))
        .collect();
    assert_eq!(ids.len(), events.len());
    let before = ids[ids.len() - 3];
    for (query, header) in [
        (format!("?after={before}"), None),
        (String::new(), Some(before)),
    ] {
        let mut again = world.watch(&query, header);
        world.hear(&mut again, "last@end");
        assert_eq!(told(&again.text).len(), 2);
    }
    world.finish();
}

#[test]
fn guests_and_quotas_are_told_of() {
    use crate::fs::{FileSystem, Options};
    let world = World::new();
    let mut watcher = world.watch("", None);
    let main = Arc::new(world.store.main().unwrap());
    let limit = Settings {
        quota_inodes: Some(1),
        ..Settings::default()
    };
    world.store.change_settings("main", limit).unwrap();
    let server = crate::server::Server::new(FileSystem::new(Arc::clone(&main), Options::default()));
    // Without a session there is none to end.
    server.reset();
    main.note_quota();
    main.note_quota();
    world.post("/api/v1/datasets", &name("end"));
    world.hear(&mut watcher, "\"end\"");
    let events = told(&watcher.text);
    let kinds: Vec<_> = events.iter().map(|event| event.0.as_str()).collect();
    assert_eq!(kinds, ["quota_reached", "dataset_created"]);
    drop((server, main));
    world.finish();
}

#[test]
fn whoever_is_too_slow_is_told_how_much_was_missed() {
    let world = World::new();
    let mut watcher = world.watch("", None);
    for n in 0..1500 {
        let (from, to) = (format!("d{n}"), format!("d{}", n + 1));
        match n {
            0 => drop(world.post("/api/v1/datasets", &name(&to))),
            _ => world.store.rename(&from, &to).unwrap(),
        }
    }
    world.hear(&mut watcher, "d1500");
    let missed = watcher.text.lines().find(|line| line.contains("missed\":"));
    let missed: Value = serde_json::from_str(&missed.unwrap()["data: ".len()..]).unwrap();
    let missed: usize = missed["missed"].as_u64().unwrap().try_into().unwrap();
    assert_eq!(missed + told(&watcher.text).len(), 1500);
    assert!(missed >= 300, "{missed}");
    // From before the daemon began: how many there were is not known.
    let mut earlier = world.watch("?after=7", None);
    world.hear(&mut earlier, "d1500");
    assert!(
        earlier
            .text
            .contains(&format!("{{\"missed\":{}}}", 1500 - 1024))
    );
    // From after now, as the clock has it that was set back.
    let mut later = world.watch("?after=99999999999999", None);
    world.hear(&mut later, "{\"missed\":0}");
    world.post("/api/v1/datasets", &name("end"));
    world.hear(&mut later, "\"end\"");
    world.finish();
}

#[test]
fn as_many_watch_as_there_is_room_for() {
    let world = World::new();
    let watching: Vec<_> = (0..super::super::WATCHERS_MAX)
        .map(|_| world.watch("", None))
        .collect();
    assert_eq!(kind(&world.get("/api/v1/events")), "overloaded");
    drop(watching);
    // Each finds out within a second.
    let begin = std::time::Instant::now();
    loop {
        world.runtime.block_on(async {
            tokio::time::sleep(Duration::from_millis(50)).await;
        });
        let request = Request::builder().uri("/api/v1/events").body(Body::empty());
        let answer = world.router.clone().oneshot(request.unwrap());
        if world.runtime.block_on(answer).unwrap().status() == 200 {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(20));
    }
    assert_eq!(kind(&world.get("/api/v1/events?after=x")), "bad_request");
    assert_eq!(kind(&world.get("/api/v1/events?since=1")), "bad_request");
    world.finish();
}

#[test]
fn a_store_that_takes_no_more_changes_is_told_of() {
    let world = World::new();
    let mut watcher = world.watch("", None);
    world.sim.set_fault(Some(crate::disk::sim::Fault {
        call: crate::disk::sim::Call::Flush,
        after: 0,
        sticky: true,
        kind: std::io::ErrorKind::Other,
    }));
    let main = world.store.main().unwrap();
    write(&main, "file", b"x");
    assert!(world.post("/api/v1/datasets", &name("new")).0 >= 500 || !world.store.is_writable());
    if world.store.is_writable() {
        world.store.checkpoint().unwrap_err();
    }
    world.hear(&mut watcher, "store_read_only");
}
