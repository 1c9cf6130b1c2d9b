//! What a daemon tells of its guests' requests: to Prometheus, and to `razorfs top`.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use vm_tests::frontend::Options;
use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::ROOT;

use crate::daemon::Daemon;

fn page(socket: &Path) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let kind = "content-type: text/plain; version=0.0.4";
    assert!(head.to_lowercase().contains(kind), "{head}");
    body.to_owned()
}

/// The value of the one sample that begins so.
fn value(page: &str, start: &str) -> f64 {
    let found: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with(start))
        .collect();
    assert_eq!(found.len(), 1, "{start} in {page}");
    found[0].rsplit(' ').next().unwrap().parse().unwrap()
}

/// What Prometheus's own tool has to say of a page: nothing.
fn lint(page: &str) {
    let tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut tool = match tool {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            println!("skipped: promtool is not here (scripts/install_deps.sh brings it)");
            return;
        }
        tool => tool.unwrap(),
    };
    let mut input = tool.stdin.take().unwrap();
    input.write_all(page.as_bytes()).unwrap();
    drop(input);
    let said = tool.wait_with_output().unwrap();
    assert!(said.status.success(), "{said:?}");
    assert_eq!(String::from_utf8_lossy(&said.stderr), "");
}

#[test]
fn requests_are_counted_from_one_front_end_to_the_next() {
    let daemon = Daemon::start(&[]);
    let mut bytes = 0;
    for round in 0..2 {
        let mut mount = daemon.mount(&Options::default());
        let client = mount.client(0);
        let name = format!("file{round}");
        let create = request::create(ROOT, &name, 0o644);
        let (entry, open) = client.call(create).unwrap();
        let data = vec![7; 10_000];
        let write = request::write(entry.nodeid, open.fh, 0, &data);
        client.call(write).unwrap();
        client
            .call(request::fsync(entry.nodeid, open.fh, 0))
            .unwrap();
        let read = request::read(entry.nodeid, open.fh, 0, 4000);
        assert_eq!(client.call(read).unwrap().len(), 4000);
        assert!(client.call(request::rmdir(ROOT, "none")).is_err());
        bytes += 10_000;
    }
    let page = page(&daemon.control());
    let export = format!(r#"{{dataset="main",socket="{}""#, daemon.socket().display());
    let of = |name: &str, label: &str| value(&page, &format!("{name}{export}{label}}}"));
    for (operation, count) in [
        ("CREATE", 2.0),
        ("WRITE", 2.0),
        ("FSYNC", 2.0),
        ("READ", 2.0),
    ] {
        let label = format!(r#",operation="{operation}""#);
        let told = of("razorfs_request_duration_seconds_count", &label);
        assert_eq!(told, count, "{operation}");
    }
    assert_eq!(of("razorfs_written_bytes_total", ""), f64::from(bytes));
    assert_eq!(of("razorfs_read_bytes_total", ""), 8000.0);
    assert_eq!(of("razorfs_refused_requests_total", r#",errno="2""#), 2.0);
    assert_eq!(of("razorfs_requests_waiting", ""), 0.0);
    assert!(of("razorfs_kicks_total", "") >= 2.0);
    assert!(value(&page, "razorfs_group_commit_transactions_count") >= 2.0);
    lint(&page);
}

#[test]
fn top_shows_a_daemon_at_work_and_says_when_there_is_none() {
    let mut daemon = Daemon::start(&[]);
    let mut mount = daemon.mount(&Options::default());
    mount.client(0).call(request::getattr(ROOT)).unwrap();
    let shown = daemon.command("top", &["--interval=1", "--count=1"]);
    assert!(shown.status.success(), "{shown:?}");
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.contains("EXPORT") && text.contains("main"), "{text}");
    assert!(!text.contains('\x1b'), "it is no terminal: {text:?}");
    let shown = daemon.command("top", &["--json", "--count=1"]);
    let activity: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(activity["exports"][0]["dataset"], "main");
    drop(mount);
    daemon.kill();
    let refused = daemon.command("top", &[]);
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("no daemon serves it"), "{error}");
}
