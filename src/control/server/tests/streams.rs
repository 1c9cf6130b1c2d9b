//! Snapshots sent through the daemon.

use std::io::{Read, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::*;
use crate::control::server::connections::{Limits, Running, start_within};
use crate::control::server::{Listeners, Served};
use crate::control::socket::{Listener, SOCKET_FILE, connect};
use crate::control::{Client, SendWhat, Session};
use crate::engine::WriteFlags;
use crate::stream::{receive, token};

/// Content that cannot be made smaller.
pub(super) fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

pub(super) struct Server {
    pub(super) world: World,
    running: Option<Running>,
    dir: tempfile::TempDir,
}

impl Server {
    pub(super) fn start(limits: Limits) -> Server {
        let world = World::new();
        let main = world.store.main().unwrap();
        write(&main, "file", &noise(6 << 20));
        world.store.snapshot("main@one").unwrap();
        write(&main, "more", &noise(100_000));
        world.store.snapshot("main@two").unwrap();
        drop(main);
        Server::of(world, limits)
    }

    /// The same on a disk that has a store.
    pub(super) fn on(sim: SimMedia, limits: Limits) -> Server {
        Server::of(World::on(sim, false), limits)
    }

    fn of(world: World, limits: Limits) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let unix = Some(Listener::bind(&dir.path().join(SOCKET_FILE)).unwrap());
        let served = Served::new(Arc::clone(&world.store), Arc::clone(&world.exports.0));
        let running = start_within(Listeners { unix, tcp: None }, served, limits).unwrap();
        Server {
            world,
            running: Some(running),
            dir,
        }
    }

    pub(super) fn path(&self) -> std::path::PathBuf {
        self.dir.path().join(SOCKET_FILE)
    }

    pub(super) fn send(&self, what: &SendWhat) -> Result<Vec<u8>, String> {
        let session = Session::Served(Client::find(&self.path()).unwrap().unwrap());
        let mut out = Vec::new();
        let sent = session.send(what, &mut out, |_, _| unreachable!());
        sent.map(|()| out).map_err(|error| error.to_string())
    }

    fn ask(&self, path: &str) -> std::os::unix::net::UnixStream {
        use std::io::Write as _;
        let mut stream = connect(&self.path()).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    pub(super) fn end(mut self) {
        drop(self.running.take());
        self.world.finish();
    }
}

pub(super) fn of(name: &str, from: Option<&str>) -> SendWhat {
    SendWhat::Snapshot {
        name: name.into(),
        from: from.map(str::to_owned),
    }
}

pub(super) fn take(store: &Arc<Store>, name: &str, stream: &[u8]) -> Result<(), String> {
    let go_on = &mut |_| std::ops::ControlFlow::Continue(());
    let taken = receive(store, (name, None), stream, go_on);
    taken.map(drop).map_err(|error| error.to_string())
}

/// A request whose body goes on: only this much of it has come.
pub(super) fn begun(server: &Server, path: &str, bytes: &[u8]) -> UnixStream {
    let mut stream = connect(&server.path()).unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
        bytes.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(bytes).unwrap();
    stream.write_all(b"\r\n").unwrap();
    stream
}

#[test]
fn what_a_daemon_sends_is_what_the_store_would() {
    let server = Server::start(Limits::default());
    let target = open(&make(), false);
    take(
        &target,
        "copy",
        &server.send(&of("main@one", None)).unwrap(),
    )
    .unwrap();
    let change = server.send(&of("main@two", Some("main@one"))).unwrap();
    assert!(change.len() < 1 << 20);
    // Cut off, and gone on with.
    take(&target, "copy", &change[..change.len() - 1000]).unwrap_err();
    let state = target.receive_record("copy").unwrap().unwrap();
    let token = token::encode(&state);
    let rest = server.send(&SendWhat::Rest { token }).unwrap();
    take(&target, "copy", &rest).unwrap();
    let copy = target.volume("copy@two").unwrap();
    for (name, len) in [("file", 6 << 20), ("more", 100_000)] {
        let ino = copy.lookup(Ino::ROOT, name.as_bytes()).unwrap().ino;
        let mut content = Vec::new();
        copy.read(ino, 0, 1 << 30, &mut content).unwrap();
        assert!(content == noise(len), "{name}");
    }
    // While a guest changes what is not sent.
    let main = server.world.store.main().unwrap();
    let ino = write(&main, "later", b"x");
    main.write(ino, 0, 1, &mut b"y".as_slice(), WriteFlags::default())
        .unwrap();
    drop((copy, main));
    for (what, expected) in [
        (of("main@none", None), "no dataset or snapshot"),
        (of("main", None), "only a snapshot"),
        (of("main@one", Some("main@two")), "not older"),
        (SendWhat::Rest { token: "x".into() }, "no token"),
    ] {
        let refused = server.send(&what).unwrap_err();
        assert!(refused.contains(expected), "{refused}");
    }
    server.end();
}

/// Nobody is held up by a client that does not read: not who asks, nor the daemon's end.
#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let server = Server::start(Limits {
        connections: 1,
        answer_time: Duration::from_millis(300),
        ..Limits::default()
    });
    let begin = Instant::now();
    let mut idle = server.ask("/api/v1/snapshots/main@two/stream");
    let mut first = [0; 12];
    idle.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    // Its connection does not count: the only other one is answered.
    let client = Client::find(&server.path()).unwrap().unwrap();
    assert_eq!(client.datasets().unwrap().len(), 3);
    // In use until it is cut off.
    let gone = || server.world.store.delete("main@two", false).is_ok();
    while !gone() {
        assert!(begin.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut rest = Vec::new();
    let _ = idle.read_to_end(&mut rest);
    assert!(rest.len() < 6 << 20, "{}", rest.len());
    server.end();
}

/// Nor by one that does not read the last of it, when all has been made.
#[test]
fn a_client_that_does_not_read_the_last_of_it_is_cut_off() {
    let server = Server::start(Limits {
        answer_time: Duration::from_millis(300),
        ..Limits::default()
    });
    server.world.store.create_dataset("small", (0, 0)).unwrap();
    let small = server.world.store.volume("small").unwrap();
    // One piece, and more than a socket's buffer takes.
    write(&small, "file", &noise(250_000));
    drop(small);
    server.world.store.snapshot("small@one").unwrap();
    let mut idle = server.ask("/api/v1/snapshots/small@one/stream");
    std::thread::sleep(Duration::from_secs(3));
    let mut rest = Vec::new();
    let _ = idle.read_to_end(&mut rest);
    assert!(rest.starts_with(b"HTTP/1.1 200"));
    assert!(rest.len() < 250_000, "{}", rest.len());
    server.end();
}

#[test]
fn the_end_waits_for_nobody_who_reads() {
    let server = Server::start(patient());
    let mut idle = server.ask("/api/v1/snapshots/main@two/stream");
    let mut first = [0; 12];
    idle.read_exact(&mut first).unwrap();
    let begin = Instant::now();
    server.end();
    assert!(begin.elapsed() < PATIENCE);
}

#[test]
fn as_many_are_sent_at_a_time_as_there_is_room_for() {
    let server = Server::start(Limits::default());
    let mut idle: Vec<_> = (0..crate::control::server::STREAMS_MAX)
        .map(|_| server.ask("/api/v1/snapshots/main@two/stream"))
        .collect();
    for each in &mut idle {
        each.read_exact(&mut [0; 12]).unwrap();
    }
    let refused = server.send(&of("main@two", None)).unwrap_err();
    assert!(refused.contains("try again"), "{refused}");
    assert_eq!(
        Client::find(&server.path())
            .unwrap()
            .unwrap()
            .datasets()
            .unwrap()
            .len(),
        3
    );
    drop(idle);
    let begin = Instant::now();
    while server.send(&of("main@two", None)).is_err() {
        assert!(begin.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(10));
    }
    server.end();
}
