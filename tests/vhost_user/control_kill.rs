//! SIGKILL of the daemon under requests to its control socket: each was carried out or was not.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::control::call;
use crate::daemon::Daemon;

const ROUNDS: u32 = 8;
const CLIENTS: u64 = 3;

/// What a name must be after what was asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    There,
    Gone,
    /// The answer to a request about it never came.
    Either,
}

use Known::{Gone, There};

/// Makes, clones, renames and deletes datasets and snapshots, each client its own, until the daemon
/// is gone.
fn work(socket: &Path, client: u64, seed: u64) -> (BTreeMap<String, Known>, u32) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    let mut answered = 0;
    for n in 0.. {
        let dataset = format!("c{client}-{seed}-{n}");
        let mut ask = |changes: &[(&str, Known)], method: &str, path: &str, body: &str| {
            for (name, _) in changes {
                known.insert((*name).to_owned(), Known::Either);
            }
            let Some((status, body)) = call(socket, method, path, body) else {
                return false;
            };
            assert!(
                (200..300).contains(&status),
                "{method} {path}: {status} {body}"
            );
            for (name, then) in changes {
                known.insert((*name).to_owned(), *then);
            }
            answered += 1;
            true
        };
        let snapshot = format!("{dataset}@s");
        let clone = format!("{dataset}-clone");
        let renamed = format!("{dataset}-renamed");
        let of_renamed = format!("{renamed}@s");
        let body = |name: &str| json!({ "name": name }).to_string();
        let both = json!({"source": snapshot, "name": clone}).to_string();
        let part = json!({"snapshot": snapshot, "source": "/", "destination": "/part"}).to_string();
        let at = |name: &str| format!("/api/v1/datasets/{name}");
        let whole = random.random_bool(0.5);
        let going_on = ask(
            &[(&dataset, There)],
            "POST",
            "/api/v1/datasets",
            &body(&dataset),
        ) && ask(
            &[(&snapshot, There)],
            "POST",
            "/api/v1/snapshots",
            &body(&snapshot),
        ) && ask(&[(&clone, There)], "POST", "/api/v1/clones", &both)
            && ask(&[], "POST", "/api/v1/snapshots/restore", &part)
            && ask(
                &[
                    (&dataset, Gone),
                    (&snapshot, Gone),
                    (&renamed, There),
                    (&of_renamed, There),
                ],
                "PATCH",
                &at(&dataset),
                &body(&renamed),
            )
            && (!whole
                || ask(
                    &[(&renamed, Gone), (&of_renamed, Gone)],
                    "DELETE",
                    &format!("{}?recursive=true", at(&renamed)),
                    "",
                ));
        if !going_on {
            break;
        }
    }
    (known, answered)
}

#[test]
fn what_was_answered_is_so_after_a_kill_at_any_moment() {
    let mut daemon = Daemon::start(&[]);
    let mut random = ChaCha8Rng::seed_from_u64(20_264);
    let mut known = BTreeMap::new();
    let mut all = 0;
    for round in 0..ROUNDS {
        let pause = Duration::from_micros(random.random_range(0..200_000));
        let socket = daemon.control();
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    let socket = &socket;
                    scope.spawn(move || work(socket, client, u64::from(round)))
                })
                .collect();
            std::thread::sleep(pause);
            daemon.kill();
            for client in clients {
                let (names, answered) = client.join().unwrap();
                known.extend(names);
                all += answered;
            }
        });
        daemon.check();
        // The killed one's control socket is still there.
        assert!(socket.exists());
        daemon.restart();
        let (_, found) = call(&socket, "GET", "/api/v1/datasets", "").unwrap();
        let found: Vec<_> = found.as_array().unwrap().iter().collect();
        let is_there = |name: &str| found.iter().any(|each| each["name"] == name);
        for (name, known) in &mut known {
            match (*known, is_there(name)) {
                (Known::Either, true) => *known = Known::There,
                (Known::Either, false) => *known = Known::Gone,
                (known, is_there) => assert_eq!(known == Known::There, is_there, "{round}: {name}"),
            }
        }
        // A dataset and its snapshot go together.
        for name in known.keys().filter_map(|name| name.strip_suffix("@s")) {
            assert!(is_there(name) || !is_there(&format!("{name}@s")), "{name}");
        }
    }
    println!("{all} requests answered, {} names", known.len());
    assert!(all > 5 * ROUNDS, "{all}");
    daemon.terminate();
}
