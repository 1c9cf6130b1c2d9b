//! Exports that are made and ended by requests.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::*;

const DATASETS: &str = "/api/v1/datasets";
const EXPORTS: &str = "/api/v1/exports";

impl World {
    fn socket(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn export(&self, dataset: &str, socket: &str) -> Answer {
        self.post(EXPORTS, &self.request(dataset, socket))
    }

    fn request(&self, dataset: &str, socket: &str) -> Value {
        json!({ "dataset": dataset, "socket": self.socket(socket) })
    }

    fn unexport(&self, socket: &str, query: &str) -> Answer {
        let path = self.socket(socket).display().to_string();
        self.delete(&format!("{EXPORTS}/{}{query}", path.replace('/', "%2F")))
    }

    fn is_connected(&self, at: usize) -> bool {
        self.get(EXPORTS).1[at]["is_connected"] == true
    }

    /// A front-end that says nothing.
    fn connect(&self, socket: &str) -> UnixStream {
        let stream = UnixStream::connect(self.socket(socket)).unwrap();
        let begin = Instant::now();
        while !self.is_connected(0) {
            assert!(begin.elapsed() < Duration::from_secs(20));
        }
        stream
    }
}

#[test]
fn an_export_comes_and_goes_and_its_dataset_with_it() {
    let world = World::new();
    world.post(DATASETS, &name("web"));
    let (status, made) = world.export("web", "a");
    let expected = json!({
        "dataset": "web", "socket": world.socket("a"), "tag": "files", "is_readonly": false,
        "is_shared": false, "is_connected": false, "is_stale": false,
    });
    assert_eq!((status, &made), (201, &expected));
    assert!(world.socket("a").exists());
    assert_eq!(world.get(EXPORTS).1, json!([expected]));
    let busy = world.delete(&format!("{DATASETS}/web"));
    assert_eq!((busy.0, kind(&busy)), (409, "busy"));
    assert_eq!(world.unexport("a", "").0, 204);
    assert!(!world.socket("a").exists());
    assert_eq!(world.get(EXPORTS).1, json!([]));
    assert_eq!(world.delete(&format!("{DATASETS}/web")).0, 204);
    let gone = world.unexport("a", "");
    assert_eq!((gone.0, kind(&gone)), (404, "not_found"));
    world.finish();
}

#[test]
fn asking_again_for_the_same_export_gets_it_and_for_another_a_conflict() {
    let world = World::new();
    world.post(DATASETS, &name("web"));
    world.post("/api/v1/snapshots", &name("web@s"));
    let (_, made) = world.export("web", "a");
    assert_eq!(world.export("web", "a"), (200, made.clone()));
    // Whatever it is called since.
    world.patch(&format!("{DATASETS}/web"), &name("site"));
    let (status, again) = world.export("site", "a");
    assert_eq!((status, &again["dataset"]), (200, &json!("site")));
    let mut other = world.request("site", "a");
    other["readonly"] = json!(true);
    let mut tagged = world.request("site", "a");
    tagged["tag"] = json!("other");
    for other in [
        world.request("main", "a"),
        world.request("site@s", "a"),
        other,
        tagged,
    ] {
        let answer = world.post(EXPORTS, &other);
        assert_eq!((answer.0, kind(&answer)), (409, "exists"), "{other}");
    }
    assert_eq!(world.get(EXPORTS).1.as_array().unwrap().len(), 1);
    world.finish();
}

#[test]
fn a_kernel_that_believes_it_is_alone_is_alone() {
    let world = World::new();
    for dataset in ["web", "pair"] {
        world.post(DATASETS, &name(dataset));
    }
    world.export("web", "a");
    let second = world.export("web", "b");
    assert_eq!((second.0, kind(&second)), (409, "busy"));
    assert!(second.1["message"].as_str().unwrap().contains("shared"));
    assert!(!world.socket("b").exists());
    // Who only reads misleads nobody, and is told that another writes.
    let mut reader = world.request("web", "b");
    reader["readonly"] = json!(true);
    let (status, made) = world.post(EXPORTS, &reader);
    assert_eq!((status, &made["is_shared"]), (201, &json!(true)));
    // One that was there first and only reads would not see what another writes.
    let mut first = world.request("pair", "c");
    first["readonly"] = json!(true);
    assert_eq!(world.post(EXPORTS, &first).0, 201);
    assert_eq!(world.export("pair", "d").0, 409);
    assert_eq!(world.unexport("c", "").0, 204);
    // Both declared.
    for socket in ["c", "d"] {
        let mut shared = world.request("pair", socket);
        shared["shared"] = json!(true);
        let (status, made) = world.post(EXPORTS, &shared);
        assert_eq!((status, &made["is_shared"]), (201, &json!(true)), "{made}");
    }
    world.finish();
}

#[test]
fn a_guest_that_is_connected_is_disconnected_only_by_force() {
    let world = World::new();
    world.export("main", "a");
    let front_end = world.connect("a");
    let refused = world.unexport("a", "");
    assert_eq!((refused.0, kind(&refused)), (409, "busy"));
    assert!(world.is_connected(0) && world.socket("a").exists());
    assert_eq!(world.unexport("a", "?force=true").0, 204);
    front_end
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let read = std::io::Read::read(&mut &front_end, &mut [0; 1]).unwrap();
    assert_eq!(read, 0, "the connection is over");
    assert!(!world.socket("a").exists());
    world.finish();
}

#[test]
fn sockets_are_made_below_their_directory_and_nothing_there_is_replaced() {
    let world = World::new();
    let elsewhere = tempfile::tempdir().unwrap();
    for socket in [
        elsewhere.path().join("s"),
        world.socket("../s"),
        world.socket("no such directory/s"),
    ] {
        let answer = world.post(EXPORTS, &json!({ "dataset": "main", "socket": socket }));
        assert_eq!(
            (answer.0, kind(&answer)),
            (422, "not_possible"),
            "{socket:?}"
        );
    }
    let relative = world.post(EXPORTS, &json!({ "dataset": "main", "socket": "s" }));
    assert_eq!((relative.0, kind(&relative)), (400, "bad_request"));
    std::fs::write(world.socket("file"), "precious").unwrap();
    let file = world.export("main", "file");
    assert_eq!((file.0, kind(&file)), (409, "exists"));
    assert_eq!(std::fs::read(world.socket("file")).unwrap(), b"precious");
    let _other = std::os::unix::net::UnixListener::bind(world.socket("other")).unwrap();
    let other = world.export("main", "other");
    assert_eq!((other.0, kind(&other)), (409, "busy"));
    let none = world.export("none", "a");
    assert_eq!((none.0, kind(&none)), (404, "not_found"));
    let mut tagged = world.request("main", "a");
    tagged["tag"] = json!("t".repeat(37));
    assert_eq!(kind(&world.post(EXPORTS, &tagged)), "bad_request");
    assert_eq!(world.get(EXPORTS).1, json!([]));
    // Nothing of that has kept the dataset in use.
    let main = world.store.find("main").unwrap();
    assert_eq!(main.name, "main");
    world.finish();
}

#[test]
fn of_many_that_ask_at_once_for_a_socket_one_makes_it() {
    let world = World::new();
    world.post(DATASETS, &name("web"));
    let exports = &world.exports.0;
    let new = |dataset: &str| crate::export::NewExport {
        dataset: dataset.into(),
        endpoint: crate::export::Endpoint::Path(world.socket("a")),
        tag: None,
        read_only: false,
        shared: false,
        cache: None,
    };
    let asked = ["web", "main", "web", "main", "web", "main"];
    let made = std::thread::scope(|scope| {
        let ask = |dataset: &'static str| {
            let new = new(dataset);
            scope.spawn(move || (dataset, exports.attach(new)))
        };
        let asking: Vec<_> = asked.into_iter().map(ask).collect();
        let done = asking.into_iter().map(|asking| asking.join().unwrap());
        done.collect::<Vec<_>>()
    });
    let news = made
        .iter()
        .filter(|(_, made)| matches!(made, Ok((_, true))));
    assert_eq!(news.count(), 1);
    let there = world.get(EXPORTS).1[0]["dataset"].clone();
    for (dataset, made) in &made {
        assert_eq!(made.is_ok(), there == *dataset, "{dataset}: {made:?}");
    }
    world.finish();
}
