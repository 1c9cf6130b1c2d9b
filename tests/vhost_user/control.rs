//! Commands to a store while a daemon serves it to guests. The daemon is confined as ever.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::ROOT;
use vm_tests::frontend::{Mount, Options};

use crate::daemon::Daemon;

/// One request: the status, and the answer's body. None when the connection was cut.
pub fn call(socket: &Path, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
    let (status, body) = exchange(socket, method, path, body)?;
    // None when it was cut.
    let body = match body.as_str() {
        "" => Value::Null,
        body => serde_json::from_str(body).ok()?,
    };
    Some((status, body))
}

/// The same for an answer that is no JSON.
pub fn exchange(socket: &Path, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = UnixStream::connect(socket).ok()?;
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all((head + body).as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().unwrap();
    Some((status, body.to_owned()))
}

fn create(mount: &mut Mount, name: &str) -> (u64, u64) {
    let (entry, open) = mount
        .client(0)
        .call(request::create(ROOT, name, 0o644))
        .unwrap();
    (entry.nodeid, open.fh)
}

fn number(mount: &mut Mount, name: &str) -> u64 {
    let found = mount.client(0).call(request::lookup(ROOT, name)).unwrap();
    let read = request::read(found.nodeid, 0, 0, 100);
    let bytes = mount.client(0).call(read).unwrap();
    String::from_utf8(bytes).unwrap().trim().parse().unwrap()
}

/// A guest writes n to one file, then to another, and so on. In each snapshot both have what they
/// had at one moment, and nothing is missing that the guest was told is written.
#[test]
fn snapshots_are_taken_while_a_guest_writes() {
    const SNAPSHOTS: usize = 12;
    let daemon = Daemon::start(&[]);
    let mut main = daemon.mount(&Options::default());
    let files = [create(&mut main, "first"), create(&mut main, "second")];
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut bounds = Vec::new();
    let slowest = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let (mut n, mut slowest) = (0u64, Duration::ZERO);
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                let begin = Instant::now();
                for (node, fh) in files {
                    let text = format!("{n:20}");
                    let write = request::write(node, fh, 0, text.as_bytes());
                    main.client(0).call(write).unwrap();
                }
                slowest = slowest.max(begin.elapsed());
                written.store(n, Ordering::SeqCst);
            }
            slowest
        });
        while written.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        for n in 0..SNAPSHOTS {
            let before = written.load(Ordering::SeqCst);
            let taken = daemon.command("snapshot", &[&format!("main@{n}")]);
            assert!(taken.status.success(), "{taken:?}");
            bounds.push((before, written.load(Ordering::SeqCst) + 1));
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    let end = written.load(Ordering::SeqCst);
    println!("{SNAPSHOTS} snapshots beside {end} writes, the slowest {slowest:?}");
    let moved = bounds.windows(2).filter(|pair| pair[0].0 < pair[1].0);
    assert!(
        moved.count() > SNAPSHOTS / 2,
        "the guest stood still: {bounds:?}"
    );
    drop(main);
    let exports: Vec<_> = (0..SNAPSHOTS)
        .map(|n| format!("--export=main@{n}:s{n}"))
        .collect();
    let exports: Vec<_> = exports.iter().map(String::as_str).collect();
    let daemon = daemon.restart_after(&[], &exports);
    for (n, (before, after)) in bounds.into_iter().enumerate() {
        let mut snapshot = daemon.mount_at(&format!("s{n}"));
        let (first, second) = (
            number(&mut snapshot, "first"),
            number(&mut snapshot, "second"),
        );
        assert!(
            first == second || first == second + 1,
            "{n}: {first} {second}"
        );
        assert!(
            (before..=after).contains(&second),
            "{n}: {before} {second} {after}"
        );
    }
    daemon.terminate();
}

/// Runs the same commands on a store that is served and on one that is not.
#[test]
fn commands_say_the_same_whether_a_daemon_serves_or_not() {
    let commands: &[(&str, &[&str])] = &[
        ("list", &[]),
        ("create", &["web", "--uid", "7", "--compression", "lz4"]),
        ("create", &["web"]),
        ("create", &["a/b"]),
        ("create", &["a@b", "--json"]),
        ("snapshot", &["web@a"]),
        ("snapshot", &["web@a"]),
        ("snapshot", &["none@a"]),
        ("snapshot", &["web@b", "--json"]),
        ("clone", &["web@a", "copy", "--json"]),
        ("clone", &["web@a", "copy"]),
        ("clone", &["nothing", "new"]),
        (
            "set",
            &["--dataset=copy", "compression=zstd:3", "dedup=on", "--json"],
        ),
        ("set", &["--dataset=web@a", "dedup=on"]),
        (
            "set",
            &["--dataset=copy", "quota=1G", "reservation=1M", "--json"],
        ),
        ("set", &["--dataset=copy", "reservation=2G"]),
        (
            "create",
            &["limited", "--quota-inodes=5", "--quota=8K", "--json"],
        ),
        ("set", &["--dataset=none", "dedup=on"]),
        ("project", &["main", "--list"]),
        ("project", &["main", "/", "--id=7", "--quota=1M", "--json"]),
        ("project", &["main", "--id=8", "--quota-inodes=5"]),
        ("project", &["main", "nowhere", "--id=8"]),
        ("project", &["main", "--id=0", "--quota=5"]),
        ("project", &["main", "--list"]),
        ("project", &["main", "--list", "--json"]),
        ("project", &["none", "--list"]),
        ("set", &["size=1G", "--json"]),
        ("set", &["size=1G", "dedup=on"]),
        ("set", &["size=none"]),
        ("compact", &[]),
        ("compact", &["--json"]),
        ("rename", &["copy", "other", "--json"]),
        ("rename", &["main", "other"]),
        ("rename", &["web@a", "web"]),
        ("rename", &["web@a", "web@c"]),
        ("hold", &["web@c", "--json"]),
        ("delete", &["web@c"]),
        ("release", &["web@c"]),
        ("hold", &["web"]),
        ("diff", &["web@c"]),
        ("diff", &["web@c", "other", "--json"]),
        ("diff", &["none@c"]),
        ("restore", &["web@c", "--json"]),
        ("restore", &["web"]),
        ("restore", &["web@c", "--path=/", "--to=back", "--json"]),
        ("restore", &["web@c", "--path=/", "--to=back"]),
        (
            "restore",
            &["web@c", "--path=/", "--to=back", "--replace", "--json"],
        ),
        ("restore", &["web@c", "--path=none", "--to=back"]),
        ("promote", &["other", "--json"]),
        ("promote", &["other"]),
        ("promote", &["main"]),
        ("list", &["--json"]),
        ("list", &[]),
        ("delete", &["web"]),
        ("delete", &["web@x"]),
        ("delete", &["main"]),
        ("delete", &["web@b", "--json"]),
        ("delete", &["web", "--recursive", "--json"]),
        ("list", &["--json"]),
    ];
    let served = Daemon::start(&[]);
    let mut opened = Daemon::start(&[]);
    opened.kill();
    for (verb, rest) in commands {
        assert!(served.control().exists());
        let said = [&served, &opened].map(|daemon| {
            let output = daemon.command(verb, rest);
            let place = daemon.control();
            let store = place.parent().unwrap().to_str().unwrap();
            let plain = |bytes: &[u8]| {
                let text = String::from_utf8(bytes.to_vec()).unwrap();
                // These are never the same.
                let lines = text
                    .lines()
                    .filter(|line| !line.contains("\"uuid\"") && !line.contains("\"created_at\""));
                lines.collect::<Vec<_>>().join("\n").replace(store, "STORE")
            };
            (
                output.status.code(),
                plain(&output.stdout),
                plain(&output.stderr),
            )
        });
        assert_eq!(said[0], said[1], "{verb} {rest:?}");
    }
    served.terminate();
    opened.check();
}

#[test]
fn one_of_many_commands_makes_what_all_ask_for() {
    let daemon = Daemon::start(&[]);
    for name in ["create", "snapshot"] {
        let what = if name == "create" { "new" } else { "new@s" };
        let won = std::thread::scope(|scope| {
            let all: Vec<_> = (0..6)
                .map(|_| scope.spawn(|| daemon.command(name, &[what])))
                .collect();
            let ended = all.into_iter().map(|thread| thread.join().unwrap());
            let (won, lost): (Vec<_>, Vec<_>) = ended.partition(|done| done.status.success());
            for done in lost {
                let said = String::from_utf8(done.stderr).unwrap();
                assert!(said.contains(&format!("'{what}' exists already")), "{said}");
            }
            won.len()
        });
        assert_eq!(won, 1, "{name}");
    }
    daemon.terminate();
}

#[test]
fn a_confined_daemon_tells_what_the_store_lies_on() {
    let daemon = Daemon::start(&[]);
    let (_, stats) = call(&daemon.control(), "GET", "/api/v1/stats", "").unwrap();
    let below = &stats["file_system"];
    let (free, size) = (below["free_bytes"].as_u64(), below["size_bytes"].as_u64());
    assert!(free.is_some() && free <= size, "{stats}");
    let kind = below["kind"].as_str();
    assert!(kind.is_some_and(|kind| !kind.is_empty()), "{stats}");
    assert_eq!(stats["opening"]["was_closed"], true);
    let made = stats["created_at"].as_str().unwrap();
    let closed = stats["opening"]["last_written_at"].as_str().unwrap();
    let now = jiff::Timestamp::now().to_string();
    assert!(
        made[..19] <= closed[..19] && closed <= now.as_str(),
        "{stats}"
    );
    daemon.terminate();
}

/// What is exported is in use, whatever its name is; what is not can go while guests are served.
#[test]
fn what_is_exported_is_not_deleted() {
    let daemon = Daemon::start_prepared(
        &[&["create", "web"], &["create", "idle"]],
        &["--export=web:w"],
    );
    let said = daemon.command("delete", &["web"]);
    assert!(String::from_utf8(said.stderr).unwrap().contains("in use"));
    assert!(daemon.command("rename", &["web", "site"]).status.success());
    assert!(daemon.command("delete", &["idle"]).status.success());
    let (_, exports) = call(&daemon.control(), "GET", "/api/v1/exports", "").unwrap();
    let names: Vec<_> = exports
        .as_array()
        .unwrap()
        .iter()
        .map(|each| &each["dataset"])
        .collect();
    assert_eq!(names, ["main", "site"]);
    let mut web = daemon.mount_at("w");
    create(&mut web, "file");
    drop(web);
    daemon.terminate();
}

#[test]
fn info_tells_of_a_store_that_is_served() {
    let daemon = Daemon::start_prepared(
        &[&["create", "web"], &["snapshot", "web@a"]],
        &["--export=web:w"],
    );
    let info = |flags: &[&str]| {
        let store = daemon.control();
        let told = std::process::Command::new(env!("CARGO_BIN_EXE_razorfs"))
            .arg("info")
            .arg(store.parent().unwrap())
            .args(flags)
            .output()
            .unwrap();
        (
            told.status.success(),
            String::from_utf8([told.stdout, told.stderr].concat()).unwrap(),
        )
    };
    let (_, text) = info(&[]);
    for line in [
        "state           in use",
        "dataset         web@a:",
        "export          web: w",
    ] {
        assert!(text.contains(line), "{text}");
    }
    let (_, json) = info(&["--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["dataset_count"], &json["exports"][1]["dataset"]),
        (&2.into(), &"web".into())
    );
    assert_eq!(json["datasets"].as_array().unwrap().len(), 3);
    let (done, said) = info(&["--chunks"]);
    assert!(!done && said.contains("--chunks"), "{said}");
    daemon.terminate();
}

/// Whatever is sent: the guests are served, and so are commands.
#[test]
fn hostile_input_leaves_the_daemon_well() {
    let mut daemon = Daemon::start(&[]);
    let control = daemon.control();
    let before = daemon.rss_bytes();
    let garbage: Vec<u8> = (0..1 << 20)
        .map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let huge = "y".repeat(4 << 20);
    let inputs = [
        garbage,
        format!("GET /{huge} HTTP/1.1\r\n\r\n").into_bytes(),
        format!("GET / HTTP/1.1\r\nX: {huge}\r\n\r\n").into_bytes(),
        format!(
            "POST /api/v1/datasets HTTP/1.1\r\nContent-Length: {}\r\n\r\n{huge}",
            huge.len()
        )
        .into_bytes(),
        b"POST /api/v1/datasets HTTP/1.1\r\nContent-Length: 1000000000000\r\n\r\n{".to_vec(),
    ];
    for bytes in &inputs {
        for _ in 0..10 {
            let mut stream = UnixStream::connect(&control).unwrap();
            // It may be cut before all is sent.
            let _ = stream.write_all(bytes);
        }
    }
    let lengthy = format!("{}{}{}", "[".repeat(30_000), "1", "]".repeat(30_000));
    let (status, _) = call(&control, "POST", "/api/v1/datasets", &lengthy).unwrap();
    assert_eq!(status, 400);
    daemon.is_well("garbage");
    // As many as it talks to at once say nothing, or next to nothing.
    let mut silent: Vec<_> = (0..64)
        .map(|_| UnixStream::connect(&control).unwrap())
        .collect();
    for stream in silent.iter_mut().skip(32) {
        stream.write_all(b"GET /health HTTP/1.1\r\nX: ").unwrap();
    }
    daemon.is_well("silence");
    let begin = Instant::now();
    assert!(daemon.command("snapshot", &["main@s"]).status.success());
    assert!(
        begin.elapsed() < Duration::from_secs(20),
        "{:?}",
        begin.elapsed()
    );
    let grown = daemon.rss_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes more");
    drop(silent);
    daemon.terminate();
}

#[test]
fn a_daemon_may_be_found_elsewhere_or_not_at_all() {
    let elsewhere = Daemon::start(&["--control=c"]);
    assert!(!elsewhere.control().exists());
    let said = elsewhere.command("list", &[]);
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(
        said.contains("is in use by another process") && said.contains("control.sock"),
        "{said}"
    );
    let socket = elsewhere.socket().with_file_name("c");
    let list = ["--control", socket.to_str().unwrap()];
    assert!(elsewhere.command("list", &list).status.success());
    elsewhere.terminate();
    assert!(!socket.exists());
    let hidden = Daemon::start(&["--control=none"]);
    assert!(!hidden.control().exists());
    assert!(!hidden.command("snapshot", &["main@s"]).status.success());
    hidden.terminate();
}
