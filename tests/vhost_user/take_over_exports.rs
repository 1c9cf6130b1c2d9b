//! Exports that requests have made and ended, which another process goes on with.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::ROOT;
use vm_tests::frontend::{Error, WAIT};

use crate::control::call;
use crate::daemon::Daemon;

const EXPORTS: &str = "/api/v1/exports";

/// A request, answered by whoever serves as soon as it takes requests.
fn ask(daemon: &Daemon, method: &str, path: &str, body: &Value) -> Value {
    let since = Instant::now();
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    loop {
        match call(&daemon.control(), method, path, &body) {
            Some((200..=204, answer)) => return answer,
            Some((status, answer)) => panic!("{method} {path}: {status} {answer}"),
            None => assert!(since.elapsed() < WAIT, "nobody answers"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What is exported, by its socket.
fn list(daemon: &Daemon) -> Value {
    let mut all = ask(daemon, "GET", EXPORTS, &Value::Null);
    let exports = all.as_array_mut().unwrap();
    exports.sort_by_key(|one| one["socket"].as_str().unwrap().to_owned());
    all
}

fn unexport(daemon: &Daemon, socket: &str) {
    let path = format!("{EXPORTS}/{}", socket.replace('/', "%2F"));
    ask(daemon, "DELETE", &path, &Value::Null);
}

/// One of everything that can be asked for, with guests on some of them.
#[test]
fn exports_of_requests_go_on_as_they_are_and_what_requests_ended_does_not_come_back() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name).display().to_string();
    let flags = [
        format!("--socket-dir={}", place.path().display()),
        format!("--export=off:{}", at("off")),
        format!("--export=kept:{}", at("kept")),
    ];
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let prepare = ["web", "pair", "off", "kept"].map(|name| ["create", name]);
    let prepare: Vec<&[&str]> = prepare.iter().map(<[_; 2]>::as_slice).collect();
    let mut daemon = Daemon::start_prepared(&prepare, &flags);
    assert!(daemon.command("snapshot", &["web@s"]).status.success());
    for new in [
        json!({ "dataset": "web", "socket": at("w"), "tag": "files" }),
        json!({ "dataset": "web", "socket": at("r"), "readonly": true }),
        json!({ "dataset": "pair", "socket": at("p"), "shared": true }),
        json!({ "dataset": "pair", "socket": at("q"), "shared": true }),
        json!({ "dataset": "web@s", "socket": at("s") }),
    ] {
        ask(&daemon, "POST", EXPORTS, &new);
    }
    unexport(&daemon, &at("off"));
    let mut web = daemon.mount_at(&at("w"));
    let (mut reader, mut snapshot) = (daemon.mount_at(&at("r")), daemon.mount_at(&at("s")));
    let made = web.client(0).call(request::create(ROOT, "file", 0o644));
    let (entry, open) = made.unwrap();
    let (node, fh) = (entry.nodeid, open.fh);
    web.client(0)
        .call(request::write(node, fh, 0, b"here"))
        .unwrap();
    web.client(0).call(request::unlink(ROOT, "file")).unwrap();
    let before = list(&daemon);
    assert_eq!(before.as_array().unwrap().len(), 7);
    let connected = before.as_array().unwrap().iter();
    assert_eq!(
        connected.filter(|one| one["is_connected"] == true).count(),
        3
    );
    for _ in 0..2 {
        daemon.take_over();
        let read = web.client(0).call(request::read(node, fh, 0, 9));
        assert_eq!(read.unwrap(), b"here");
        for read_only in [&mut reader, &mut snapshot] {
            let refused = read_only.client(0).call(request::mkdir(ROOT, "no", 0o755));
            assert!(matches!(refused, Err(Error::Errno(libc::EROFS))));
        }
        assert_eq!(list(&daemon), before);
        assert!(!Path::new(&at("off")).exists());
    }
    // They are the new process's to end, and there may be more of them.
    unexport(&daemon, &at("q"));
    assert!(!Path::new(&at("q")).exists());
    let more = json!({ "dataset": "pair", "socket": at("q"), "shared": true });
    assert_eq!(ask(&daemon, "POST", EXPORTS, &more)["is_shared"], true);
    drop((web, reader, snapshot));
    // What is started anew has what its configuration says.
    daemon.reopen();
    let all = list(&daemon);
    let all = all.as_array().unwrap().iter();
    let sockets: Vec<_> = all.map(|one| one["socket"].as_str().unwrap()).collect();
    let mut expected = [daemon.socket().display().to_string(), at("off"), at("kept")];
    expected.sort();
    assert_eq!(sockets, expected);
    daemon.terminate();
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn who_could_not_end_an_export_of_a_request_does_not_get_it() {
    let place = tempfile::tempdir().unwrap();
    let socket = place.path().join("w").display().to_string();
    let flag = format!("--socket-dir={}", place.path().display());
    let mut daemon = Daemon::start_prepared(&[&["create", "web"]], &[&flag]);
    let new = json!({ "dataset": "web", "socket": socket });
    ask(&daemon, "POST", EXPORTS, &new);
    let mut web = daemon.mount_at(&socket);
    let refused = daemon.keeps(&[]);
    assert!(refused.contains("--socket-dir"), "{refused}");
    web.client(0).call(request::getattr(ROOT)).unwrap();
    assert_eq!(list(&daemon).as_array().unwrap().len(), 2);
    // Nor is anything taken for what a request has made but that.
    let other = format!("--export=main:{socket}");
    let refused = daemon.keeps(&[&flag, &other]);
    assert!(refused.contains("start it so"), "{refused}");
    daemon.take_over();
    web.client(1).call(request::getattr(ROOT)).unwrap();
    drop(web);
    daemon.terminate();
}

#[test]
fn a_daemon_that_exports_nothing_yet_is_taken_over_too() {
    let place = tempfile::tempdir().unwrap();
    let flag = format!("--socket-dir={}", place.path().display());
    let mut daemon = Daemon::start(&[&flag]);
    unexport(&daemon, &daemon.socket().display().to_string());
    daemon.take_over();
    assert_eq!(list(&daemon), json!([]));
    let new = json!({ "dataset": "main", "socket": place.path().join("m") });
    ask(&daemon, "POST", EXPORTS, &new);
    drop(daemon.mount_at(place.path().join("m").to_str().unwrap()));
    daemon.is_unharmed("having had nothing to serve");
    daemon.terminate();
}
