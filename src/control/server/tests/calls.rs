//! What each request does.

use super::*;
use crate::control::api::{ErrorKind, NewDataset};
use crate::control::operations;

/// What clients were told there is: it stays.
#[test]
fn each_path_has_the_methods_that_the_document_says() {
    let paths = [
        ("/health", "get"),
        ("/api/v1/datasets", "get post"),
        ("/api/v1/datasets/{name}", "delete get patch"),
        ("/api/v1/snapshots", "get post"),
        ("/api/v1/snapshots/{name}", "delete get patch"),
        ("/api/v1/snapshots/{name}/restore", "post"),
        ("/api/v1/snapshots/restore", "post"),
        ("/api/v1/snapshots/{name}/stream", "get"),
        ("/api/v1/streams/{token}", "get"),
        ("/api/v1/datasets/{name}/promote", "post"),
        ("/api/v1/datasets/{name}/receive", "delete get post"),
        ("/api/v1/datasets/{name}/import", "post"),
        ("/api/v1/datasets/{name}/extract", "get"),
        ("/api/v1/clones", "post"),
        ("/api/v1/differences", "get"),
        ("/api/v1/trim", "post"),
        ("/api/v1/compact", "post"),
        ("/api/v1/projects", "get post"),
        ("/api/v1/exports", "get post"),
        ("/api/v1/exports/{socket}", "delete"),
        ("/api/v1/datasets/{name}/rewrite", "post"),
        ("/api/v1/scrub", "delete get post"),
        ("/api/v1/stats", "get"),
        ("/api/v1/activity", "get"),
        ("/metrics", "get"),
        ("/api/v1/events", "get"),
        ("/api/v1/store", "patch"),
        ("/api/v1/openapi.json", "get"),
    ];
    let world = World::new();
    let described = world.document["paths"].as_object().unwrap();
    assert_eq!(described.len(), paths.len());
    for (path, methods) in paths {
        let found: Vec<_> = described[path].as_object().unwrap().keys().collect();
        let mut found: Vec<_> = found.into_iter().map(String::as_str).collect();
        found.sort_unstable();
        assert_eq!(found.join(" "), methods, "{path}");
        for method in ["get", "post", "patch", "delete", "put"] {
            let path = path
                .replace("{name}", "none@none")
                .replace("{socket}", "%2Fnone")
                .replace("{token}", "none");
            if (method, path.as_str()) == ("get", "/api/v1/events") {
                // It does not end.
                continue;
            }
            let answer = world.call(&method.to_uppercase(), &path, &Value::Null);
            let is_there = found.contains(&method);
            assert_eq!(answer.0 != 405, is_there, "{method} {path}: {answer:?}");
        }
    }
    let (status, served) = world.get("/api/v1/openapi.json");
    assert_eq!((status, &served), (200, &world.document));
    assert_eq!(served["openapi"], "3.1.0");
    assert_eq!(kind(&world.get("/api/v2/datasets")), "not_found");
    assert_eq!(kind(&world.get("/")), "not_found");
    world.finish();
}

#[test]
fn the_store_grows_and_shrinks_down_to_what_is_used() {
    let world = World::new();
    let main = world.store.main().unwrap();
    write(&main, "f", &vec![7; 2 << 20]);
    drop(main);
    let set = |bytes: u64| world.patch("/api/v1/store", &json!({"capacity_bytes": bytes}));
    let free = || world.get("/api/v1/stats").1["free_bytes"].as_u64().unwrap();
    assert_eq!(set(64 << 20), (200, json!({"capacity_bytes": 64 << 20})));
    assert!(free() < 64 << 20);
    let refused = set(1 << 20);
    assert_eq!((refused.0, kind(&refused)), (422, "over_limit"));
    let (_, stats) = world.get("/api/v1/stats");
    assert_eq!(stats["capacity_bytes"], 64 << 20);
    assert_eq!(set(0), (200, json!({"capacity_bytes": 0})));
    assert_eq!(
        kind(&world.patch("/api/v1/store", &json!({"bytes": 1}))),
        "bad_request"
    );
    assert_eq!(world.patch("/api/v1/store", &json!({})).0, 200);
    world.finish();
}

#[test]
fn space_goes_back_when_that_is_asked_for() {
    let world = World::new();
    let main = world.store.main().unwrap();
    let ino = write(&main, "f", &vec![7; 8 << 20]);
    main.store().checkpoint().unwrap();
    let trim = |how: Value| world.post("/api/v1/trim", &how);
    assert_eq!(trim(json!({})).0, 200);
    let set = crate::engine::SetAttr {
        size: Some(0),
        ..crate::engine::SetAttr::default()
    };
    main.setattr(ino, &set).unwrap();
    drop(main);
    let (status, done) = trim(json!({"min_bytes": 4096}));
    let freed = done["punched_bytes"].as_u64().unwrap() + done["cut_bytes"].as_u64().unwrap();
    assert_eq!(status, 200);
    assert!(freed >= 4 << 20, "{done}");
    for bad in [
        json!({"max_bytes": 1}),
        json!([]),
        json!([4096]),
        json!(4096),
    ] {
        assert_eq!(kind(&trim(bad)), "bad_request");
    }
    world.finish();
}

#[test]
fn what_lies_at_the_end_is_moved_when_that_is_asked_for() {
    let world = World::new();
    let main = world.store.main().unwrap();
    let first = write(&main, "first", &vec![7; 8 << 20]);
    main.fsync(first, false).unwrap();
    let second = write(&main, "second", &[8; 1 << 20]);
    main.fsync(second, false).unwrap();
    let set = crate::engine::SetAttr {
        size: Some(0),
        ..crate::engine::SetAttr::default()
    };
    main.setattr(first, &set).unwrap();
    let (status, done) = world.post("/api/v1/compact", &json!({}));
    assert_eq!(status, 200);
    assert_eq!(done["moved_bytes"], 1 << 20, "{done}");
    assert!(done["cut_bytes"].as_u64().unwrap() >= 8 << 20, "{done}");
    assert_eq!(done["damaged_chunks"], 0);
    let mut found = Vec::new();
    main.read(second, 0, 2 << 20, &mut found).unwrap();
    assert!(found == [8; 1 << 20]);
    let (_, again) = world.post("/api/v1/compact", &json!({}));
    assert_eq!(again["moved_chunks"], 0);
    assert_eq!(
        kind(&world.post("/api/v1/compact", &json!({"bytes": 1}))),
        "bad_request"
    );
    let (_, activity) = world.get("/api/v1/activity");
    assert_eq!(activity["moved_bytes"], 1 << 20);
    drop(main);
    world.finish();
}

#[test]
fn each_kind_of_refusal_has_its_status_and_is_in_the_document() {
    let world = World::new();
    let names = &world.document["components"]["schemas"]["ErrorKind"]["enum"];
    assert_eq!(names.as_array().unwrap().len(), ErrorKind::ALL.len());
    for kind in ErrorKind::ALL {
        let name = serde_json::to_value(kind).unwrap();
        assert!(names.as_array().unwrap().contains(&name));
        let post = &world.document["paths"][SNAPSHOTS]["post"]["responses"];
        let described = &post[kind.status().to_string()]["description"];
        let name = name.as_str().unwrap();
        assert!(described.as_str().unwrap().contains(name), "{name}");
    }
    // One that a newer daemon has.
    let newer: ErrorKind = serde_json::from_value(json!("on_strike")).unwrap();
    assert_eq!(newer, ErrorKind::Failed);
}

#[test]
fn what_is_wrong_with_a_request_is_said() {
    let world = World::new();
    world.post(DATASETS, &name("web"));
    world.post(SNAPSHOTS, &name("web@a"));
    let long = "x".repeat(300);
    let cases: &[(&str, &str, Value, u16, &str)] = &[
        ("POST", DATASETS, name(""), 400, "bad_name"),
        ("POST", DATASETS, name("a/b"), 400, "bad_name"),
        ("POST", DATASETS, name("new@x"), 400, "bad_name"),
        ("POST", DATASETS, name(&long), 400, "bad_name"),
        ("POST", DATASETS, json!({}), 400, "bad_request"),
        ("POST", DATASETS, json!({"name": 7}), 400, "bad_request"),
        (
            "POST",
            DATASETS,
            json!({"name": "x", "quick": 1}),
            400,
            "bad_request",
        ),
        (
            "POST",
            DATASETS,
            json!({"name": "x", "uid": -1}),
            400,
            "bad_request",
        ),
        (
            "POST",
            DATASETS,
            json!({"name": "x", "dedup": "yes"}),
            400,
            "bad_request",
        ),
        ("POST", SNAPSHOTS, name("web"), 400, "bad_name"),
        ("POST", SNAPSHOTS, name("web@a@b"), 400, "bad_name"),
        ("POST", SNAPSHOTS, name("none@a"), 404, "not_found"),
        ("POST", SNAPSHOTS, name("web@"), 400, "bad_name"),
        (
            "POST",
            CLONES,
            json!({"source": "web", "name": "new@b"}),
            400,
            "bad_name",
        ),
        (
            "PATCH",
            "/api/v1/datasets/main",
            name("other"),
            422,
            "not_possible",
        ),
        ("PATCH", "/api/v1/datasets/web", name("main"), 409, "exists"),
        (
            "PATCH",
            "/api/v1/datasets/web",
            name("a@b"),
            422,
            "not_possible",
        ),
        (
            "PATCH",
            "/api/v1/datasets/web@a",
            json!({"dedup": "on"}),
            422,
            "not_possible",
        ),
        (
            "PATCH",
            "/api/v1/datasets/web@a",
            name("web@b"),
            400,
            "bad_name",
        ),
        (
            "PATCH",
            "/api/v1/snapshots/web@a",
            name("main@a"),
            422,
            "not_possible",
        ),
        ("PATCH", "/api/v1/snapshots/web", name("x"), 400, "bad_name"),
        (
            "DELETE",
            "/api/v1/datasets/main",
            Value::Null,
            422,
            "not_possible",
        ),
        (
            "DELETE",
            "/api/v1/datasets/web@a",
            Value::Null,
            400,
            "bad_name",
        ),
        (
            "DELETE",
            "/api/v1/snapshots/web",
            Value::Null,
            400,
            "bad_name",
        ),
        (
            "DELETE",
            "/api/v1/datasets/web?recursive=perhaps",
            Value::Null,
            400,
            "bad_request",
        ),
        (
            "DELETE",
            "/api/v1/datasets/web?force=true",
            Value::Null,
            400,
            "bad_request",
        ),
        (
            "GET",
            "/api/v1/datasets/%ff",
            Value::Null,
            400,
            "bad_request",
        ),
        ("GET", "/api/v1/datasets/%00", Value::Null, 404, "not_found"),
        ("GET", "/api/v1/snapshots/web", Value::Null, 400, "bad_name"),
        (
            "GET",
            "/api/v1/snapshots?dataset=web@a",
            Value::Null,
            400,
            "bad_name",
        ),
    ];
    for (method, path, body, status, reason) in cases {
        let answer = world.call(method, path, body);
        let found = (answer.0, kind(&answer));
        assert_eq!(found, (*status, *reason), "{method} {path} {body}");
    }
    let many = format!("{DATASETS}/{}", "n".repeat(60_000));
    assert_eq!(world.get(&many).0, 404);
    for garbage in ["", "{", "[]", "null", "\u{0}", "{\"name\":\"a\"}{}"] {
        let answer = world.send("POST", DATASETS, garbage.to_owned());
        assert_eq!((answer.0, kind(&answer)), (400, "bad_request"), "{garbage}");
    }
    let large = format!("{{\"name\":\"{}\"}}", "n".repeat(64 << 10));
    let answer = world.send("POST", DATASETS, large);
    assert_eq!((answer.0, kind(&answer)), (413, "too_large"));
    assert_eq!(world.names(DATASETS), ["main", "web", "web@a"]);
    world.finish();
}

#[test]
fn numbers_are_told() {
    let world = World::new();
    world.post(DATASETS, &name("web"));
    world.post(SNAPSHOTS, &name("web@a"));
    write(&world.store.main().unwrap(), "file", b"unwritten");
    let (_, stats) = world.get("/api/v1/stats");
    assert_eq!(
        (&stats["dataset_count"], &stats["snapshot_count"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(stats["unwritten_bytes"], 9);
    assert_eq!(stats["is_writable"], true);
    // A simulated disk lies nowhere.
    assert_eq!(stats["file_system"], Value::Null);
    assert_eq!(stats["opening"]["last_written_at"], Value::Null);
    assert_eq!(stats["opening"]["superblock_damage"], json!([]));
    let (_, health) = world.get("/health");
    assert_eq!(
        (&health["status"], &health["pid"]),
        (&json!("ok"), &json!(std::process::id()))
    );
    world.finish();
}

#[test]
fn a_store_that_is_read_only_says_so() {
    let world = World::new();
    world.post(DATASETS, &name("web"));
    world.store.close().unwrap();
    let world = World::on(world.sim.killed(), true);
    assert_eq!(world.get("/health").1["status"], "read-only");
    assert_eq!(world.names(DATASETS), ["main", "web"]);
    for answer in [
        world.post(SNAPSHOTS, &name("web@a")),
        world.delete(&format!("{DATASETS}/web")),
        world.patch(&format!("{DATASETS}/web"), &json!({"dedup": "on"})),
    ] {
        assert_eq!((answer.0, kind(&answer)), (503, "read_only"));
    }
    // That asks for nothing new.
    assert_eq!(world.post(DATASETS, &name("web")).0, 200);
}

/// Daemons of other versions have fields of their own; what asks for something unknown is refused.
#[test]
fn an_answer_may_have_more_fields_and_a_request_not() {
    let world = World::new();
    let (_, mut made) = world.post(DATASETS, &name("web"));
    made["colour"] = json!("blue");
    let read: crate::control::api::Dataset = serde_json::from_value(made).unwrap();
    assert_eq!(read.name, "web");
    let more = json!({"name": "a", "colour": "blue"});
    assert!(serde_json::from_value::<NewDataset>(more).is_err());
    assert_eq!(operations::datasets(&world.store).unwrap()[1], read);
    world.finish();
}

#[test]
fn a_scrub_is_begun_watched_and_stopped() {
    const SCRUB: &str = "/api/v1/scrub";
    let world = with_a_directory();
    let idle = world.get(SCRUB).1;
    assert_eq!(
        (&idle["is_running"], &idle["is_done"]),
        (&json!(false), &json!(false))
    );
    let done = || {
        let begin = std::time::Instant::now();
        loop {
            let (_, status) = world.get(SCRUB);
            if status["is_running"] == false {
                return status;
            }
            assert!(begin.elapsed().as_secs() < 20, "{status}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    };
    // One at a time: who asks again is told of the one that is under way.
    let slow = json!({"bytes_per_second": 1});
    let (status, begun) = world.post(SCRUB, &slow);
    assert_eq!((status, &begun["is_running"]), (201, &json!(true)));
    let (status, again) = world.post(SCRUB, &json!({}));
    assert_eq!((status, &again["is_running"]), (200, &json!(true)));
    assert_eq!(world.delete(SCRUB).0, 204);
    assert_eq!(done()["is_done"], false);
    // It may be over before the answer is made.
    assert_eq!(world.post(SCRUB, &json!({"restart": true})).0, 201);
    let found = done();
    assert_eq!(
        (&found["is_done"], &found["errors"]),
        (&json!(true), &json!(0))
    );
    assert!(found["items"].as_u64().unwrap() > 3);
    assert_eq!(world.delete(SCRUB).0, 204);
    assert_eq!(kind(&world.post(SCRUB, &json!({"rate": 1}))), "bad_request");
    world.finish();
}

#[test]
fn a_file_is_written_anew() {
    let world = with_a_directory();
    let rewrite = |path: &str| world.post("/api/v1/datasets/web/rewrite", &json!({"path": path}));
    let (status, done) = rewrite("/file");
    assert_eq!((status, done), (200, json!({"bytes": 7})));
    for (path, expected) in [
        ("none", "not_found"),
        ("d\\n\\xff", "not_possible"),
        ("", "not_possible"),
        ("..", "bad_request"),
    ] {
        assert_eq!(kind(&rewrite(path)), expected, "{path}");
    }
    let of_snapshot = world.post("/api/v1/datasets/web@s/rewrite", &json!({"path": "file"}));
    assert_eq!(kind(&of_snapshot), "bad_name");
    world.finish();
}
