//! Requests for the same names at the same time.

use std::collections::BTreeMap;

use super::*;

const ROUNDS: usize = 30;
const EACH: usize = 8;

/// Sends all at once; the answers in their order.
fn at_once(world: &World, requests: Vec<(&str, String, Value)>) -> Vec<Answer> {
    let router = &world.router;
    world.runtime.block_on(async {
        let mut running = tokio::task::JoinSet::new();
        for (index, (method, path, body)) in requests.into_iter().enumerate() {
            let (router, method) = (router.clone(), method.to_owned());
            running.spawn(async move {
                let body = if body.is_null() {
                    String::new()
                } else {
                    body.to_string()
                };
                (index, send(&router, &method, &path, body).await)
            });
        }
        let answers: BTreeMap<_, _> = running.join_all().await.into_iter().collect();
        answers.into_values().collect()
    })
}

fn count(answers: &[Answer], status: u16) -> usize {
    answers.iter().filter(|answer| answer.0 == status).count()
}

#[test]
fn one_of_many_makes_it_and_the_others_find_it() {
    let world = World::new();
    for round in 0..ROUNDS {
        let dataset = format!("d{round}");
        let requests = |path: &str, body: Value| {
            (0..EACH)
                .map(move |_| ("POST", path.to_owned(), body.clone()))
                .collect::<Vec<_>>()
        };
        let made = at_once(&world, requests("/api/v1/datasets", name(&dataset)));
        assert_eq!(
            (count(&made, 201), count(&made, 200)),
            (1, EACH - 1),
            "{made:?}"
        );
        assert!(made.iter().all(|(_, body)| body["id"] == made[0].1["id"]));
        let snapshot = format!("{dataset}@s");
        let taken = at_once(&world, requests("/api/v1/snapshots", name(&snapshot)));
        assert_eq!(
            (count(&taken, 201), count(&taken, 200)),
            (1, EACH - 1),
            "{taken:?}"
        );
        let clone = json!({"source": snapshot, "name": format!("c{round}")});
        let cloned = at_once(&world, requests("/api/v1/clones", clone));
        assert_eq!(
            (count(&cloned, 201), count(&cloned, 200)),
            (1, EACH - 1),
            "{cloned:?}"
        );
    }
    assert_eq!(world.names("/api/v1/datasets").len(), 1 + 3 * ROUNDS);
    world.finish();
}

#[test]
fn of_different_ones_by_one_name_one_is_made() {
    let world = World::new();
    world.post("/api/v1/datasets", &name("other"));
    for round in 0..ROUNDS {
        let new = format!("d{round}");
        let requests = vec![
            (
                "POST",
                "/api/v1/datasets".to_owned(),
                json!({"name": new, "dedup": "on"}),
            ),
            (
                "POST",
                "/api/v1/datasets".to_owned(),
                json!({"name": new, "dedup": "off"}),
            ),
            (
                "POST",
                "/api/v1/clones".to_owned(),
                json!({"name": new, "source": "main"}),
            ),
            (
                "POST",
                "/api/v1/clones".to_owned(),
                json!({"name": new, "source": "other"}),
            ),
        ];
        let answers = at_once(&world, requests);
        assert_eq!(
            (count(&answers, 201), count(&answers, 409)),
            (1, 3),
            "{answers:?}"
        );
        let winner = &answers.iter().find(|answer| answer.0 == 201).unwrap().1;
        assert_eq!(&world.get(&format!("/api/v1/datasets/{new}")).1, winner);
    }
    world.finish();
}

/// Taking snapshots, renaming and deleting the dataset under them: each ends as if one came first.
#[test]
fn makers_and_deleters_do_not_meet_halfway() {
    let world = World::new();
    for round in 0..ROUNDS {
        world.post("/api/v1/datasets", &name("d"));
        let path = "/api/v1/datasets/d?recursive=true".to_owned();
        let requests = vec![
            ("POST", "/api/v1/snapshots".to_owned(), name("d@s")),
            (
                "POST",
                "/api/v1/clones".to_owned(),
                json!({"source": "d", "name": "c"}),
            ),
            ("PATCH", "/api/v1/datasets/d".to_owned(), name("e")),
            ("DELETE", path, Value::Null),
        ];
        let answers = at_once(&world, requests);
        for (status, body) in &answers {
            let known = [200, 201, 204, 404, 409].contains(status);
            assert!(known, "round {round}: {status} {body}");
        }
        let left = world.names("/api/v1/datasets");
        let is_left = |name: &str| left.iter().any(|each| each == name);
        assert!(!(is_left("d") && is_left("e")), "{left:?}");
        assert!(!is_left("d@s") || is_left("d"), "{left:?}");
        assert!(!is_left("e@s") || is_left("e"), "{left:?}");
        assert_eq!(is_left("c"), answers[1].0 == 201, "{left:?} {answers:?}");
        for name in ["c", "d", "e"] {
            world.delete(&format!("/api/v1/datasets/{name}?recursive=true"));
        }
        assert_eq!(world.names("/api/v1/datasets"), ["main"]);
    }
    world.store.reap(&|| false).unwrap();
    world.finish();
}

/// Others may make and delete it while one looks.
#[test]
fn a_name_that_comes_and_goes_is_answered() {
    let world = World::new();
    for _ in 0..ROUNDS {
        let make = ("POST", "/api/v1/datasets".to_owned(), name("d"));
        let gone = ("DELETE", "/api/v1/datasets/d".to_owned(), Value::Null);
        let requests = (0..EACH).map(|n| {
            if n % 2 == 0 {
                make.clone()
            } else {
                gone.clone()
            }
        });
        for (index, (status, body)) in at_once(&world, requests.collect()).iter().enumerate() {
            let known: &[u16] = match index % 2 {
                // 404: it was deleted before it could be told of.
                0 => &[200, 201, 404],
                _ => &[204, 404],
            };
            assert!(known.contains(status), "{status} {body}");
        }
    }
    world.delete("/api/v1/datasets/d");
    world.finish();
}

/// Each call that changes something, by two at once: both are told that it is so, or one that the other
/// was first; and all is as if one had asked.
#[test]
fn two_at_once_leave_what_one_leaves() {
    let part = json!({"snapshot": "web@s", "source": "/file", "destination": "/back"});
    let over = json!({"snapshot": "web@s", "source": "/file", "replace": true});
    let project = json!({"dataset": "web", "id": 7, "quota_bytes": 1 << 20, "path": "/"});
    let calls = [
        (
            "PATCH",
            "datasets/web",
            json!({"quota_bytes": 1 << 20, "dedup": "on"}),
        ),
        ("PATCH", "datasets/web", name("other")),
        ("PATCH", "snapshots/web@s", json!({"is_held": true})),
        ("PATCH", "snapshots/web@held", json!({"is_held": false})),
        ("PATCH", "snapshots/web@s", name("web@t")),
        ("POST", "datasets/copy/promote", Value::Null),
        ("POST", "snapshots/web@s/restore", Value::Null),
        ("POST", "snapshots/restore", part),
        ("POST", "snapshots/restore", over),
        ("DELETE", "datasets/copy", Value::Null),
        ("POST", "projects", project),
        ("PATCH", "store", json!({"capacity_bytes": 1u64 << 32})),
        ("POST", "datasets/web/rewrite", json!({"path": "file"})),
    ];
    for (method, path, body) in calls {
        let place = format!("{method} {path} {body}");
        let path = format!("/api/v1/{path}");
        let alone = world_of_races();
        assert!(alone.call(method, &path, &body).0 < 300, "{place}");
        for _ in 0..ROUNDS / 3 {
            let world = world_of_races();
            let both = vec![(method, path.clone(), body.clone()); 2];
            let answers = at_once(&world, both);
            let is_known = |answer: &Answer| [200, 201, 204, 404, 409, 422].contains(&answer.0);
            assert!(answers.iter().all(is_known), "{place}: {answers:?}");
            assert!(
                answers.iter().any(|answer| answer.0 < 300),
                "{place}: {answers:?}"
            );
            assert_eq!(what_is_there(&world), what_is_there(&alone), "{place}");
            world.finish();
        }
        alone.finish();
    }
}

/// A dataset with a file, which has changed since two snapshots, of which one is held; and a clone.
fn world_of_races() -> World {
    let world = World::new();
    world.post("/api/v1/datasets", &name("web"));
    write(&world.store.volume("web").unwrap(), "file", &[7; 10_000]);
    for snapshot in ["web@s", "web@held"] {
        world.post("/api/v1/snapshots", &name(snapshot));
    }
    world.patch("/api/v1/snapshots/web@held", &json!({"is_held": true}));
    world.post(
        "/api/v1/clones",
        &json!({"source": "web@s", "name": "copy"}),
    );
    write(&world.store.volume("web").unwrap(), "new", &[8; 10_000]);
    world
}

/// All but what is another thing each time.
fn what_is_there(world: &World) -> Value {
    let mut datasets = world.get("/api/v1/datasets").1;
    for each in datasets.as_array_mut().unwrap() {
        for field in ["id", "uuid", "created_at"] {
            each.as_object_mut().unwrap().remove(field);
        }
    }
    json!({
        "projects": world.get("/api/v1/projects?dataset=web").1,
        "capacity_bytes": world.get("/api/v1/stats").1["capacity_bytes"],
        "datasets": datasets,
    })
}
