//! What becomes of datasets, snapshots and clones.

use super::*;

#[test]
fn a_dataset_is_made_once_changed_and_deleted() {
    let world = World::new();
    let new = json!({"name": "web", "uid": 7, "gid": 8, "compression": "zstd:4", "dedup": "on"});
    let (status, made) = world.post(DATASETS, &new);
    assert_eq!(status, 201);
    assert_eq!(made["created_at"], "2001-09-09T01:46:40.005Z");
    assert_eq!(
        (&made["compression"], &made["dedup"]),
        (&json!("zstd:4"), &json!("on"))
    );
    assert_eq!(
        (&made["is_snapshot"], &made["is_readonly"]),
        (&json!(false), &json!(false))
    );
    assert_eq!(
        (&made["root_inode"], &made["inodes"]),
        (&json!(1), &json!(1))
    );
    let owner = world
        .store
        .volume("web")
        .unwrap()
        .getattr(Ino::ROOT)
        .unwrap();
    assert_eq!((owner.uid, owner.gid), (7, 8));
    assert_eq!(world.post(DATASETS, &new), (200, made.clone()));
    // What is not said is not compared.
    assert_eq!(world.post(DATASETS, &name("web")), (200, made.clone()));
    for other in [
        json!({"name": "web", "compression": "lz4"}),
        json!({"name": "web", "dedup": "verify"}),
    ] {
        let refused = world.post(DATASETS, &other);
        assert_eq!((refused.0, kind(&refused)), (409, "exists"));
    }
    let web = format!("{DATASETS}/web");
    assert_eq!(world.get(&web), (200, made.clone()));
    let (status, changed) = world.patch(&web, &json!({"dedup": "off"}));
    assert_eq!((status, &changed["dedup"]), (200, &json!("off")));
    assert_eq!(changed["compression"], "zstd:4");
    let (status, renamed) = world.patch(&web, &name("site"));
    assert_eq!((status, &renamed["name"]), (200, &json!("site")));
    assert_eq!(
        (&renamed["id"], &renamed["uuid"]),
        (&made["id"], &made["uuid"])
    );
    assert_eq!(world.get(&web).0, 404);
    let both = world.patch(
        &format!("{DATASETS}/site"),
        &json!({"name": "a", "dedup": "on"}),
    );
    assert_eq!((both.0, kind(&both)), (400, "bad_request"));
    assert_eq!(world.names(DATASETS), ["main", "site"]);
    assert_eq!(
        world.delete(&format!("{DATASETS}/site")),
        (204, Value::Null)
    );
    assert_eq!(world.delete(&format!("{DATASETS}/site")).0, 404);
    assert_eq!(world.names(DATASETS), ["main"]);
    world.finish();
}

#[test]
fn quotas_and_reservations_are_set() {
    let world = World::new();
    let new = json!({"name": "web", "quota_bytes": 1 << 20, "quota_inodes": 10});
    let (status, made) = world.post(DATASETS, &new);
    assert_eq!((status, &made["quota_bytes"]), (201, &json!(1 << 20)));
    assert_eq!(world.post(DATASETS, &new), (200, made));
    let other = json!({"name": "web", "quota_bytes": 2 << 20});
    assert_eq!(world.post(DATASETS, &other).0, 409);
    let web = format!("{DATASETS}/web");
    let (_, changed) = world.patch(&web, &json!({"reservation_bytes": 4096, "quota_inodes": 0}));
    assert_eq!(changed["reservation_bytes"], 4096);
    assert_eq!(
        (&changed["quota_inodes"], &changed["quota_bytes"]),
        (&json!(0), &json!(1 << 20))
    );
    let refused = world.patch(&web, &json!({"reservation_bytes": 2 << 20}));
    assert_eq!((refused.0, kind(&refused)), (422, "not_possible"));
    let refused = world.patch(
        &web,
        &json!({"quota_bytes": 0, "reservation_bytes": 1u64 << 61}),
    );
    assert_eq!((refused.0, kind(&refused)), (422, "over_limit"));
    assert_eq!(world.get(&web).1, changed);
    world.finish();
}

#[test]
fn snapshots_and_clones_are_made_once() {
    let world = World::new();
    let main = world.store.main().unwrap();
    write(&main, "file", b"content");
    let (status, taken) = world.post(SNAPSHOTS, &name("main@a"));
    assert_eq!((status, &taken["source"]), (201, &json!("main")));
    assert_eq!(
        (&taken["readonly"], &taken["inodes"]),
        (&json!(true), &json!(2))
    );
    assert_eq!(world.post(SNAPSHOTS, &name("main@a")), (200, taken.clone()));
    assert_eq!(world.get(&format!("{SNAPSHOTS}/main@a")), (200, taken));
    let then = world.store.volume("main@a").unwrap();
    assert!(then.lookup(Ino::ROOT, b"file").is_ok());
    drop(then);

    let clone = json!({"source": "main@a", "name": "c"});
    let (status, made) = world.post(CLONES, &clone);
    assert_eq!((status, &made["origin"]), (201, &json!("main@a")));
    assert_eq!(world.post(CLONES, &clone), (200, made));
    // The name is that of something else.
    for (path, body) in [
        (CLONES, json!({"source": "main", "name": "c"})),
        (CLONES, json!({"source": "main@a", "name": "main"})),
        (CLONES, json!({"source": "main", "name": "main@a"})),
        (DATASETS, name("c")),
    ] {
        let refused = world.post(path, &body);
        assert_eq!((refused.0, kind(&refused)), (409, "exists"), "{body}");
    }
    // A snapshot of the same name is another one.
    assert_eq!(world.delete(&format!("{SNAPSHOTS}/main@a")).0, 204);
    assert_eq!(world.get(&format!("{DATASETS}/c")).1["origin"], Value::Null);
    assert_eq!(world.post(SNAPSHOTS, &name("main@a")).0, 201);
    assert_eq!(world.post(CLONES, &clone).0, 409);
    assert_eq!(
        world.post(CLONES, &json!({"source": "x", "name": "c"})).0,
        404
    );

    let renamed = world.patch(&format!("{SNAPSHOTS}/main@a"), &name("main@b"));
    assert_eq!((renamed.0, &renamed.1["name"]), (200, &json!("main@b")));
    world.post(SNAPSHOTS, &name("c@x"));
    assert_eq!(world.names(SNAPSHOTS), ["main@b", "c@x"]);
    assert_eq!(world.names(&format!("{SNAPSHOTS}?dataset=c")), ["c@x"]);
    let refused = world.delete(&format!("{DATASETS}/c"));
    assert_eq!((refused.0, kind(&refused)), (409, "has_snapshots"));
    assert_eq!(world.delete(&format!("{DATASETS}/c?recursive=true")).0, 204);
    assert_eq!(world.names(SNAPSHOTS), ["main@b"]);
    assert!(world.get(&format!("{SNAPSHOTS}?dataset=c")).0 == 404);
    drop(main);
    world.finish();
}

#[test]
fn snapshots_are_restored_held_promoted_and_compared() {
    let world = World::new();
    world.post(DATASETS, &name("web"));
    let web = world.store.volume("web").unwrap();
    write(&web, "old", b"old");
    world.post(SNAPSHOTS, &name("web@a"));
    web.unlink(Ino::ROOT, b"old").unwrap();
    write(&web, "new", b"new");
    let compare = "/api/v1/differences?old=web@a&new=web";
    let (status, found) = world.get(compare);
    assert_eq!(status, 200);
    let told = found.as_array().unwrap().iter();
    let told: Vec<_> = told
        .map(|each| {
            (
                each["change"].as_str().unwrap(),
                each["path"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(told, [("added", "/new"), ("removed", "/old")]);
    for query in ["", "?old=web@a", "?old=web@a&new=web&more=1"] {
        let refused = world.get(&format!("/api/v1/differences{query}"));
        assert_eq!((refused.0, kind(&refused)), (400, "bad_request"), "{query}");
    }

    let restore = format!("{SNAPSHOTS}/web@a/restore");
    let refused = world.call("POST", &restore, &Value::Null);
    assert_eq!((refused.0, kind(&refused)), (409, "busy"));
    drop(web);
    let (status, restored) = world.call("POST", &restore, &Value::Null);
    assert_eq!((status, &restored["name"]), (200, &json!("web")));
    assert_eq!(world.get(compare), (200, json!([])));
    let none = world.call("POST", &format!("{SNAPSHOTS}/web@x/restore"), &Value::Null);
    assert_eq!(none.0, 404);

    let snapshot = format!("{SNAPSHOTS}/web@a");
    let (status, held) = world.patch(&snapshot, &json!({"is_held": true}));
    assert_eq!((status, &held["is_held"]), (200, &json!(true)));
    for path in [&snapshot, &format!("{DATASETS}/web?recursive=true")] {
        let refused = world.delete(path);
        assert_eq!((refused.0, kind(&refused)), (409, "held"));
    }
    let both = world.patch(&snapshot, &json!({"is_held": false, "name": "web@b"}));
    assert_eq!((both.0, kind(&both)), (400, "bad_request"));
    world.patch(&snapshot, &json!({"is_held": false}));

    world.post(CLONES, &json!({"source": "web@a", "name": "copy"}));
    let promote = format!("{DATASETS}/copy/promote");
    let (status, promoted) = world.call("POST", &promote, &Value::Null);
    assert_eq!((status, &promoted["origin"]), (200, &Value::Null));
    assert_eq!(world.names(SNAPSHOTS), ["copy@a"]);
    let refused = world.call("POST", &promote, &Value::Null);
    assert_eq!((refused.0, kind(&refused)), (422, "not_possible"));
    assert_eq!(world.delete(&format!("{DATASETS}/web")).0, 204);
    world.finish();
}

#[test]
fn what_is_in_use_is_not_deleted() {
    let world = World::new();
    world.post(DATASETS, &name("web"));
    let user = world.store.volume("web").unwrap();
    let refused = world.delete(&format!("{DATASETS}/web"));
    assert_eq!((refused.0, kind(&refused)), (409, "busy"));
    drop(user);
    assert_eq!(world.delete(&format!("{DATASETS}/web")).0, 204);
    world.finish();
}

#[test]
fn a_path_is_restored_as_differences_tell_it() {
    const RESTORE: &str = "/api/v1/snapshots/restore";
    let world = with_a_directory();
    let web = world.store.volume("web").unwrap();
    web.rmdir(Ino::ROOT, b"d\n\xff").unwrap();
    let (_, told) = world.get("/api/v1/differences?old=web@s&new=web");
    let told = told.as_array().unwrap();
    let gone = told
        .iter()
        .find(|each| each["change"] == "removed")
        .unwrap();
    let what = json!({"snapshot": "web@s", "source": gone["path"]});
    let (status, restored) = world.post(RESTORE, &what);
    assert_eq!(status, 200, "{restored}");
    let expected = json!({"snapshot": "web@s", "dataset": "web", "source": gone["path"],
        "destination": gone["path"], "inodes": 1});
    assert_eq!(restored, expected);
    assert!(web.lookup(Ino::ROOT, b"d\n\xff").is_ok());
    // Again: it is there.
    assert_eq!(kind(&world.post(RESTORE, &what)), "exists");
    let mut again = what.clone();
    again["replace"] = json!(true);
    assert_eq!(world.post(RESTORE, &again).0, 200);
    again["destination"] = json!("elsewhere");
    assert_eq!(world.post(RESTORE, &again).0, 200);
    // All of it, which nobody may use meanwhile.
    let all = json!({"snapshot": "web@s"});
    assert_eq!(kind(&world.post(RESTORE, &all)), "busy");
    // Nor by force: who has it is no guest.
    let forced = json!({"snapshot": "web@s", "force": true});
    assert_eq!(kind(&world.post(RESTORE, &forced)), "busy");
    drop(web);
    let whole = format!("{SNAPSHOTS}/web@s/restore?force=true");
    assert_eq!(world.call("POST", &whole, &Value::Null).0, 200);
    for all in [
        all,
        forced,
        json!({"snapshot": "web@s", "source": "//", "destination": "/"}),
    ] {
        assert_eq!(world.post(RESTORE, &all).0, 200);
    }
    let web = world.store.volume("web").unwrap();
    assert!(web.lookup(Ino::ROOT, b"elsewhere").is_err());
    drop(web);
    for (what, expected) in [
        (json!({"snapshot": "web@none", "source": "x"}), "not_found"),
        (json!({"snapshot": "web@s", "source": "x"}), "not_found"),
        (json!({"snapshot": "web", "source": "x"}), "bad_name"),
        (
            json!({"snapshot": "web@s", "source": "a/../b"}),
            "bad_request",
        ),
        (
            json!({"snapshot": "web@s", "source": "\\x0"}),
            "bad_request",
        ),
        (
            json!({"snapshot": "web@s", "source": "x", "force": true}),
            "bad_request",
        ),
        (
            json!({"snapshot": "web@s", "source": "file", "destination": "/"}),
            "not_possible",
        ),
    ] {
        assert_eq!(kind(&world.post(RESTORE, &what)), expected, "{what}");
    }
    world.finish();
}

/// A CSI driver knows a volume by it.
#[test]
fn a_dataset_keeps_its_uuid_whatever_becomes_of_it() {
    let world = with_a_directory();
    let uuid = |path: &str| {
        let (status, found) = world.get(path);
        assert_eq!(status, 200, "{found}");
        let uuid: uuid::Uuid = found["uuid"].as_str().unwrap().parse().unwrap();
        assert_eq!(
            (
                uuid.get_version_num(),
                found["uuid"].as_str().unwrap().len()
            ),
            (8, 36)
        );
        (
            uuid,
            found["id"].as_u64().unwrap(),
            found["created_at"].clone(),
        )
    };
    let (web, snapshot) = (
        uuid("/api/v1/datasets/web"),
        uuid("/api/v1/snapshots/web@s"),
    );
    assert_ne!(web.0, snapshot.0);
    world.post("/api/v1/snapshots/web@s/restore", &Value::Null);
    assert_eq!(uuid("/api/v1/datasets/web"), web);
    world.post(CLONES, &json!({"source": "web@s", "name": "copy"}));
    let copy = uuid("/api/v1/datasets/copy");
    assert!(![web.0, snapshot.0].contains(&copy.0));
    assert_eq!(world.patch("/api/v1/datasets/web", &name("other")).0, 200);
    assert_eq!(uuid("/api/v1/datasets/other"), web);
    assert_eq!(uuid("/api/v1/snapshots/other@s"), snapshot);
    assert_eq!(
        world.post("/api/v1/datasets/copy/promote", &Value::Null).0,
        200
    );
    assert_eq!(uuid("/api/v1/datasets/copy"), copy);
    assert_eq!(uuid("/api/v1/snapshots/copy@s"), snapshot);
    world.finish();
}
