//! Connections, byte by byte.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::*;
use crate::control::server::Listeners;
use crate::control::server::connections::{Limits, Running, start_within};
use crate::control::socket::{Listener, SOCKET_FILE, connect};

fn listeners(unix: Listener) -> Listeners {
    Listeners {
        unix: Some(unix),
        tcp: None,
    }
}

/// A server at a real socket.
struct Server {
    world: World,
    running: Option<Running>,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

const SOON: Duration = Duration::from_millis(100);

impl Server {
    fn start(limits: Limits) -> Server {
        let world = World::new();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SOCKET_FILE);
        let listener = Listener::bind(&path).unwrap();
        let served = Served::new(Arc::clone(&world.store), Arc::clone(&world.exports.0));
        Server {
            world,
            running: Some(start_within(listeners(listener), served, limits).unwrap()),
            path,
            _dir: dir,
        }
    }

    fn connect(&self) -> UnixStream {
        let stream = connect(&self.path).unwrap();
        let patience = Some(Duration::from_secs(20));
        stream.set_read_timeout(patience).unwrap();
        stream
    }

    /// Sends bytes, and reads until the end: none if the connection is cut.
    fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // It may be closed before all is sent.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    fn is_well(&self) {
        let answer = self.exchange(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }

    fn end(mut self) {
        drop(self.running.take());
        assert!(!self.path.exists());
        self.world.finish();
    }
}

#[test]
fn whoever_says_nothing_gives_way_to_others() {
    let server = Server::start(Limits {
        connections: 2,
        header_time: SOON,
        ..Limits::default()
    });
    let mut silent = server.connect();
    let mut slow = server.connect();
    let begin = Instant::now();
    // One that never ends its headers.
    while slow
        .write_all(b"GET /health HTTP/1.1\r\nX: "[..1].as_ref())
        .is_ok()
    {
        assert!(begin.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(5));
    }
    server.is_well();
    let mut rest = Vec::new();
    silent.read_to_end(&mut rest).unwrap();
    server.end();
}

#[test]
fn whoever_takes_no_answer_gives_way_to_others() {
    let server = Server::start(Limits {
        connections: 1,
        // Long enough for all of the answer, however busy the machine is.
        answer_time: 20 * SOON,
        ..Limits::default()
    });
    // More than a socket's buffer takes.
    for n in 0..2_000 {
        let name = format!("dataset-{n}");
        server.world.store.create_dataset(&name, (0, 0)).unwrap();
    }
    let mut stuck = server.connect();
    let list = b"GET /api/v1/datasets HTTP/1.1\r\nHost: x\r\n\r\n";
    stuck.write_all(list).unwrap();
    // It is being answered: who has said nothing gives way otherwise.
    stuck.read_exact(&mut [0]).unwrap();
    server.is_well();
    // And whoever takes it has all of it.
    let answer = server.exchange(list);
    assert!(answer.len() > 500_000 && answer.ends_with(']'));
    let mut cut = Vec::new();
    stuck.read_to_end(&mut cut).unwrap();
    assert!(cut.len() < answer.len());
    server.end();
}

#[test]
fn garbage_is_refused_and_leaves_the_server_well() {
    let server = Server::start(Limits {
        header_time: 10 * SOON,
        ..Limits::default()
    });
    let many_headers = "X: y\r\n".repeat(10_000);
    let cases = [
        "\r\n\r\n\r\n".to_owned(),
        "\0".repeat(100_000),
        "GET\r\n\r\n".to_owned(),
        "GET /health HTTP/9.9\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        format!("GET /health HTTP/1.1\r\n{many_headers}\r\n"),
        format!("GET /health HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(1 << 20)),
        format!("GET /{} HTTP/1.1\r\n\r\n", "y".repeat(1 << 20)),
        "POST /api/v1/datasets HTTP/1.1\r\nContent-Length: -1\r\n\r\n".to_owned(),
        "POST /api/v1/datasets HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n".to_owned(),
        "POST /api/v1/datasets HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n".to_owned(),
        "POST /api/v1/datasets HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n"
            .to_owned(),
    ];
    for bytes in cases {
        let answer = server.exchange(bytes.as_bytes());
        let begin: String = bytes.chars().take(60).collect();
        assert!(!answer.starts_with("HTTP/1.1 2"), "{begin:?}: {answer}");
    }
    // A body that is longer than may be, though its length is not said.
    let mut long =
        "POST /api/v1/datasets HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
    for _ in 0..100 {
        long += &format!("1000\r\n{}\r\n", "x".repeat(4096));
    }
    let answer = server.exchange(long.as_bytes());
    assert!(
        answer.starts_with("HTTP/1.1 413 ") || answer.is_empty(),
        "{answer}"
    );
    server.is_well();
    assert_eq!(server.world.store.list().unwrap().len(), 1);
    server.end();
}

/// A request, and that it is in work: what a file holds is being written out for it.
fn ask_for_a_snapshot(server: &Server, name: &str) -> UnixStream {
    let main = server.world.store.main().unwrap();
    let content: Vec<u8> = (0..64 << 20).map(|n: u32| n.to_le_bytes()[2]).collect();
    write(&main, name, &content);
    let unwritten = || server.world.store.status().unwrap().unwritten_bytes;
    let all = unwritten();
    let mut stream = server.connect();
    let body = format!(r#"{{"name":"main@{name}"}}"#);
    let length = body.len();
    let request = format!("POST /api/v1/snapshots HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all((request + &body).as_bytes()).unwrap();
    let begin = Instant::now();
    while unwritten() == all {
        assert!(begin.elapsed() < Duration::from_secs(10));
    }
    stream
}

#[test]
fn what_was_asked_for_is_done_though_nobody_waits() {
    let server = Server::start(Limits::default());
    drop(ask_for_a_snapshot(&server, "left"));
    let begin = Instant::now();
    while server.world.store.find("main@left").is_err() {
        assert!(begin.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(1));
    }
    server.is_well();
    server.end();
}

#[test]
fn the_end_does_not_wait_for_who_says_nothing() {
    let server = Server::start(patient());
    let _silent = server.connect();
    let mut begun = server.connect();
    begun.write_all(b"GET /hea").unwrap();
    server.is_well();
    let begin = Instant::now();
    server.end();
    assert!(begin.elapsed() < PATIENCE);
}

/// A request that is in work is answered, and over before the store can be closed.
#[test]
fn the_end_waits_for_what_is_being_done() {
    let mut server = Server::start(Limits::default());
    let mut stream = ask_for_a_snapshot(&server, "last");
    drop(server.running.take());
    assert!(server.world.store.find("main@last").is_ok());
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    server.end();
}
